//! The operator's commands and their options.

use crate::cli::trial::chaos::Scenario;
use crate::cli::trial::drill::DrillOptions;
use crate::config::units;
use clap::{Args, Parser, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Migrates running virtual machines and watches the node that does it.
#[derive(Parser, Debug)]
#[command(name = "dwcp-v3-cli", version, max_term_width = 100)]
pub struct Operator {
    /// The control socket of dwcpd, or of a hypervisor that serves one
    #[arg(long, global = true, env = "DWCP_SOCKET", hide_env_values = true,
          default_value = DEFAULT_SOCKET, value_name = "PATH")]
    pub socket: PathBuf,
    /// Print JSON instead of text
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Show the node, its guests and migrations
    Status(Status),
    /// Move a running guest to another node, and wait for the end
    ///
    /// Shows a progress bar on a terminal; otherwise, or with --json, prints one JSON object when
    /// the migration has ended. Ctrl-C cancels it. Exit codes: 0 moved; 4 failed, the guest runs at
    /// its source; 5 only the destination can tell who has the guest; 6 cancelled.
    Migrate(Migrate),
    /// List migrations that run or ended lately
    Migrations,
    /// Cancel a migration; its guest stays at the source
    Cancel {
        /// The migration's id, or the beginning of it
        id: String,
    },
    /// Let a guest go on at the destination before all of its memory is there
    ///
    /// For a migration that was started with --post-copy manual or auto, at its source. From then on a
    /// loss of either host loses the guest, so use it where nothing else brings the guest over. A link
    /// that breaks only makes the guest wait.
    PostCopy {
        /// The migration's id, or the beginning of it
        id: String,
        /// Give the guest up, because the other side will not come back; on either side
        #[arg(long)]
        abandon: bool,
    },
    /// Change or lift the bandwidth limit of a running migration
    Bandwidth {
        /// The migration's id, or the beginning of it
        id: String,
        /// Such as 300mbit or 40MB/s; none lifts it
        limit: String,
    },
    /// List migrations in doubt, or write down who has the guest of one
    ///
    /// A migration is in doubt where the link broke at its commit point, and after every one to or from
    /// a v1 peer, which acknowledges nothing. Find out who has the guest, and say so: the record is
    /// settled then. Nothing is done to the guest itself.
    Settle {
        /// The migration's id, or the beginning of it
        #[arg(requires = "owner")]
        id: Option<String>,
        /// Who has the guest
        #[arg(long, value_parser = ["source", "destination"], requires = "id")]
        owner: Option<String>,
    },
    /// List the guests that are registered on the node
    Guests,
    /// Attach guests of unmodified QEMUs, which then migrate like any other
    #[command(subcommand)]
    Vm(Vm),
    /// Open the port that v1 peers connect to
    #[command(subcommand)]
    V1(V1),
    /// Let go of what the node keeps of guests that left or came
    ///
    /// A node keeps pages that it sent and received for QEMU's guests, so that a guest that comes
    /// back, or one like it, brings only what differs. Without options all of it goes. A migration
    /// under way keeps what it was promised until its end.
    CleanupBaselines {
        /// Only what was brought at least so long ago, such as 30d
        #[arg(long, value_name = "DURATION")]
        older_than: Option<String>,
        /// Only of this guest, which need not be here
        #[arg(long, value_name = "NAME")]
        guest: Option<String>,
    },
    /// Show what happened on the node
    Events {
        /// Only this kind of event, component or guest (guest:NAME for one not seen yet)
        #[arg(long, value_name = "KIND|COMPONENT|GUEST")]
        filter: Option<String>,
        /// Go on with events as they happen
        #[arg(long, short)]
        follow: bool,
    },
    /// Show measurements, of this node or of others, or how they have changed
    ///
    /// Other nodes are asked over their migration ports. Each tells those whose addresses its operator
    /// has written into node.share_metrics_with, and nobody else; v1 peers are not asked. A node that
    /// does not answer is a row that says so.
    Metrics(Metrics),
    /// Show what encoding did: by class of page and by codec
    CompressionStats {
        /// Only of this migration, by its id or the beginning of it
        #[arg(long, value_name = "ID")]
        migration: Option<String>,
    },
    /// Show what each codec would do to a guest's memory, and which one would be taken
    ///
    /// Pages are taken from all over the memory of a guest that runs, which goes on meanwhile, and
    /// packed by the node. A QEMU hands them over by a file of 64 KiB beside its QMP socket, which
    /// is removed at the end. --file needs no node.
    CompressionAnalyze {
        /// The guest's name; may be left out where one guest runs
        guest: Option<String>,
        /// Look at a file that holds memory, such as a dump
        #[arg(long, value_name = "DUMP", conflicts_with = "guest")]
        file: Option<PathBuf>,
        /// Pages to look at, 1 to 65536
        #[arg(long, value_name = "N", default_value_t = 1000)]
        sample: u64,
        /// Draw ratio against speed
        #[arg(long, value_name = "FILE.svg")]
        plot: Option<PathBuf>,
    },
    /// Send memory through every codec and back, and compare
    ///
    /// Generated memory always; where a node answers, pages of the guests that run there too. The
    /// exit code is 1 if anything comes back changed.
    EncodingTest {
        /// Ask for the learned selector of codecs
        #[arg(long)]
        enable_ml: bool,
    },
    /// Check records, kept pages and what was moved against their checksums
    ///
    /// Held pages are read back from the disk, all of them, which takes a while; damaged ones are
    /// dropped, so that no migration is promised them.
    ///
    /// The exit code is 1 if anything differs. Chunks that came damaged and were sent again are
    /// counted and are no failure.
    DataIntegrityCheck,
    #[command(flatten)]
    Modes(Modes),
    /// Show and change which part of v3 is on for whom
    #[command(subcommand)]
    FeatureFlags(FeatureFlags),
    #[command(flatten)]
    Operations(Operations),
    /// Show how rollouts of feature flags stand, or play one
    #[command(subcommand)]
    Rollout(Rollout),
    /// Make and show the certificates by which nodes know each other
    ///
    /// These commands work on files and need no node.
    #[command(subcommand)]
    Identity(Identity),
    /// Write all that the node would lose into a file, and v1's part of it into another
    ///
    /// Flags with their rules, rollbacks and kill switch, the last changes of them, settings that are not
    /// default, peers with their forced modes, ownership records, names of guests; no keys. Both files
    /// are written whole or not at all, for their owner alone.
    ExportState(ExportState),
    /// Take in such a file: whole, as one change with a reason, or nothing of it
    ///
    /// Ownership records are only added where nothing is written down about the guest, and only on the node
    /// that wrote them. Settings that say what this host is, and a kill switch that is on, stay. A file
    /// of v1's flags changes the flags alone.
    ImportState(ImportState),
    /// Count the baselines that running migrations hold, 256 pages each
    BaselinesCount,
    /// Show how much memory the node uses
    MemoryUsage {
        /// Part by part
        #[arg(long)]
        breakdown: bool,
    },
    /// Read or change the configuration
    #[command(subcommand)]
    Config(Config),
    /// Show the node's log
    Logs {
        /// Only lines of this component
        #[arg(long)]
        component: Option<String>,
        /// Only lines of at least this level: debug, info, warn, error
        #[arg(long)]
        level: Option<String>,
        /// Go on with lines as they are written
        #[arg(long, short)]
        follow: bool,
    },
    /// Write man pages or shell completions
    #[command(subcommand, hide = true)]
    Generate(Generate),
    /// Be a node of a soak or chaos test
    #[command(hide = true)]
    TrialNode(TrialNode),
}

/// Commands about the paths to peers.
#[derive(Subcommand, Debug)]
pub enum Modes {
    /// Show the modes of peers and the figures that they were judged by
    ///
    /// Peers are known once a guest was sent to them, or once they are named here.
    ModeDetect {
        /// Look at this peer now; takes some seconds the first time
        #[arg(long, value_name = "HOST:PORT")]
        peer: Option<String>,
    },
    /// Send probes to a peer and time the answers
    NetworkProbe {
        /// The peer; without it, every known one
        #[arg(value_name = "HOST:PORT")]
        peer: Option<String>,
        /// Probes to send, 1 to 64
        #[arg(long, value_name = "N", default_value_t = 10)]
        count: u32,
        /// Tell each answer, and all that is known of the path
        #[arg(long, short)]
        verbose: bool,
    },
    /// Show the paths from this node to others, and those from them
    ///
    /// Each is asked over its migration port for the paths from it. It tells those whose addresses its
    /// operator has written into mode_detector.share_with, and nobody else.
    NetworkMatrix {
        /// Which known peers: all, or their addresses
        #[arg(
            long,
            value_name = "all|HOST:PORT,...",
            value_delimiter = ',',
            default_value = "all"
        )]
        nodes: Vec<String>,
    },
    /// Force the mode of peers, or leave it to measurement
    ///
    /// Without --peer it is written to the configuration: amst.mode and amst.auto_mode.
    SetMode {
        /// datacenter, internet, hybrid, v1-compat, or auto: measured
        #[arg(value_parser = ["datacenter", "internet", "hybrid", "v1-compat", "auto"])]
        mode: String,
        /// Only of this peer, until the node is started again
        #[arg(long, value_name = "HOST:PORT")]
        peer: Option<String>,
    },
    /// Send filler to a peer for some seconds, and tell what the path carried
    ///
    /// The streams are set up as the mode has it, whatever mode the peer is in; the figures then say
    /// which mode the path is fit for. Without --peer it goes to the node itself over the loopback.
    TransportTest {
        /// How the streams are set up
        #[arg(long, value_parser = ["datacenter", "internet", "hybrid"], default_value = "hybrid")]
        mode: String,
        /// The peer
        #[arg(long, value_name = "HOST:PORT")]
        peer: Option<String>,
        /// How long, 1 to 30
        #[arg(long, value_name = "N", default_value_t = 5)]
        seconds: u64,
        /// Streams, at most as many as the mode allows [default: migration.streams]
        #[arg(long, value_name = "N")]
        streams: Option<u16>,
    },
}

/// `rollout` commands.
#[derive(Subcommand, Debug)]
pub enum Rollout {
    /// Show how the rollout of each flag stands, and what the guards have found
    Status,
    /// Play a rollout on a simulated cluster: six weeks in a second
    ///
    /// The scenario says how large the cluster is, how its links behave and what goes wrong; the flags,
    /// guards and schedule are those of a node. Equal seeds give equal rollouts. No node is needed.
    Simulate {
        /// The scenario, in YAML or JSON, such as those in examples/rollout
        #[arg(long, value_name = "FILE")]
        scenario: PathBuf,
        /// Another seed than the scenario's
        #[arg(long, value_name = "N")]
        seed: Option<u64>,
    },
    /// Raise a flag on nodes of this machine, let a fault strike, and see it rolled back
    ///
    /// Nodes are started as processes of their own, with guests that move between them all the time.
    /// The flag is raised to 50 %; then connections of those who have it break, until the guards of
    /// a node notice and roll it back by themselves. Then come the kill switch, disable-all and the
    /// gradual way. At the end a table judges each part and every page of every guest; the exit code
    /// is 1 if anything of it fails. Ctrl-C ends it early, with exit code 130. No daemon is needed,
    /// and none is touched.
    Drill(DrillOptions),
}

/// Options of `status`.
#[derive(Args, Debug)]
pub struct Status {
    /// Show every component and feature flag too, built or not
    #[arg(long, short)]
    pub verbose: bool,
    /// Show instead what would be lost by talking to peers as v1, and to which it is done
    #[arg(long, conflicts_with_all = ["verbose", "check_mode"])]
    pub check_compatibility: bool,
    /// Only this peer, known or not
    #[arg(long, value_name = "HOST:PORT", requires = "check_compatibility")]
    pub peer: Option<String>,
    /// Show instead in which mode each component and peer is
    #[arg(long, conflicts_with = "verbose")]
    pub check_mode: bool,
}

/// Commands that try out whether a host, and the library on it, can be relied on.
#[derive(Subcommand, Debug)]
pub enum Operations {
    /// Check what this host has for each component, and say what to do where something is missing
    ///
    /// The node looks in its own process, at its own limits, rights and network; where no node
    /// answers, this command does. The exit code is 1 if anything has failed; warnings alone leave
    /// it 0.
    ResourceCheck {
        /// Which: all, or some of amst, rdma, hde, native, qemu, security, storage, host
        #[arg(long, value_name = "all|NAME,...", value_delimiter = ',', default_value = "all")]
        components: Vec<String>,
    },
    /// Move a guest between two nodes of this machine for a long time, and look for leaks and damage
    ///
    /// Starts two nodes as processes of their own, and a guest that keeps writing. After each move
    /// every page is compared with what it must be. At the end a table judges migrations, the
    /// guest, and growth of memory, descriptors and threads from the second third of the time to
    /// the last; exit code 1 if anything of it fails. Ctrl-C ends it early, with exit code 130. No
    /// daemon is needed, and none is touched.
    SoakTest(SoakTest),
    /// Break networks, nodes, streams and packets on purpose, and see who has the guest afterwards
    ///
    /// Needs root: two nodes are started in network namespaces of their own, with an emulated link
    /// between them. During one migration after the other something is broken; after each, the
    /// guest must run at exactly one node, with every page as it must be. The exit code is 1 if
    /// anything of it fails, or if nothing was broken that the nodes noticed. Ctrl-C ends it early,
    /// with exit code 130. No daemon is needed, and none is touched.
    ChaosTest(ChaosTest),
}

/// Options of `chaos-test`.
#[derive(Args, Debug)]
pub struct ChaosTest {
    /// Which [default: all]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    pub scenarios: Vec<Scenario>,
    /// How long each of them; at least every variant is done once
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = duration)]
    pub duration: Duration,
    /// The guest's memory
    #[arg(long, value_name = "SIZE", default_value = "32MiB", value_parser = guest_memory)]
    pub guest_memory: u64,
    /// Decides when and where faults strike [default: another one each time]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Without TLS, so that changed bits reach what lies above it
    #[arg(long)]
    pub plain: bool,
    /// Spoil something on purpose, to see that the verdict fails
    #[arg(long, value_name = "WHAT")]
    pub spoil: Option<ChaosSpoil>,
}

/// What a chaos test can spoil on purpose.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChaosSpoil {
    /// One byte of the guest after each migration
    Page,
    /// The guest is let run at both nodes
    Owner,
    /// No fault is done at all
    Faults,
}

impl ChaosSpoil {
    /// What a node is told to spoil, if it is one.
    pub fn order(self) -> Option<&'static str> {
        match self {
            ChaosSpoil::Page => Some(Spoil::Page.name()),
            ChaosSpoil::Owner => Some(Spoil::Owner.name()),
            ChaosSpoil::Faults => None,
        }
    }
}

/// Options of `metrics`.
#[derive(Args, Debug)]
pub struct Metrics {
    /// Only this metric, such as amst.streams
    pub name: Option<String>,
    /// Only those of this component
    #[arg(long)]
    pub component: Option<String>,
    /// Show them again every second
    #[arg(long, short)]
    pub watch: bool,
    /// Of these nodes: addresses, names of known peers, or all: this node and every known peer
    #[arg(long, value_name = "all|HOST:PORT|NAME,...", value_delimiter = ',')]
    pub nodes: Option<Vec<String>>,
    /// Compare with a file: of --save, or a JSON object of names and numbers
    ///
    /// Counters are compared by how fast they grow where the file says when it was written, histograms
    /// by their means.
    #[arg(long, value_name = "FILE", conflicts_with = "nodes")]
    pub baseline: Option<PathBuf>,
    /// Write them to a file, as --json prints them
    #[arg(long, value_name = "FILE", conflicts_with_all = ["nodes", "baseline", "watch"])]
    pub save: Option<PathBuf>,
}

/// Options of `soak-test`.
#[derive(Args, Debug)]
pub struct SoakTest {
    /// How long, such as 10m or 168h; 12 moves are made at least
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    pub duration: Duration,
    /// How often a line tells how it goes
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub monitor_interval: Duration,
    /// The guest's memory
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = guest_memory)]
    pub guest_memory: u64,
    /// Pages that the guest writes in a second
    #[arg(long, value_name = "N", default_value_t = 2000)]
    pub writes_per_s: u64,
    /// Without TLS
    #[arg(long)]
    pub plain: bool,
    /// Spoil something on purpose, to see that the verdict fails
    #[arg(long, value_name = "WHAT")]
    pub spoil: Option<Spoil>,
}

/// What a trial can spoil on purpose.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoil {
    /// One byte of the guest after each move
    Page,
    /// The guest is let run at both nodes
    Owner,
    /// 4 MiB after each move are never given back
    Memory,
    /// A descriptor after each move is never closed
    Descriptors,
    /// A thread after each move never ends
    Threads,
}

impl Spoil {
    /// The name as in orders.
    pub fn name(self) -> &'static str {
        match self {
            Spoil::Page => "page",
            Spoil::Owner => "owner",
            Spoil::Memory => "memory",
            Spoil::Descriptors => "descriptors",
            Spoil::Threads => "threads",
        }
    }
}

/// Options of `export-state`.
#[derive(Args, Debug)]
pub struct ExportState {
    /// The file
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    /// The file of v1's flags [default: v3-state-compat.json beside the other]
    #[arg(long, value_name = "FILE")]
    pub compat: Option<PathBuf>,
    /// Replace files that are there
    #[arg(long)]
    pub force: bool,
}

/// Options of `import-state`.
#[derive(Args, Debug)]
pub struct ImportState {
    /// The file
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// Only show what would change
    #[arg(long)]
    pub dry_run: bool,
    /// Why; it is written into the history
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
}

/// Options of a node that belongs to a trial.
#[derive(Args, Debug)]
pub struct TrialNode {
    /// Its name
    #[arg(long)]
    pub name: String,
    /// Where it listens
    #[arg(long)]
    pub listen: SocketAddr,
    /// Its control socket
    #[arg(long)]
    pub control: PathBuf,
    /// Where it keeps its records
    #[arg(long)]
    pub state_dir: PathBuf,
    /// Its identity; without one, connections are plain
    #[arg(long)]
    pub identity_dir: Option<PathBuf>,
    /// Memory of its one guest; without it, guests are made as they are ordered
    #[arg(long)]
    pub guest_bytes: Option<u64>,
    /// Pages that its one guest writes in a second
    #[arg(long, default_value_t = 0)]
    pub writes_per_s: u64,
}

fn duration(text: &str) -> Result<Duration, String> {
    match units::parse_duration(text)? {
        short if short < Duration::from_secs(1) => Err("it must be 1s at least".to_owned()),
        duration => Ok(duration),
    }
}

fn guest_memory(text: &str) -> Result<u64, String> {
    match units::parse_bytes(text)? {
        bytes @ 0x10_0000..=0x10_0000_0000 => Ok(bytes),
        _ => Err("it must be 1MiB to 64GiB".to_owned()),
    }
}

/// Options of `migrate`; what is not given comes from the node's configuration.
#[derive(Args, Debug)]
pub struct Migrate {
    /// The guest's name
    pub guest: String,
    /// The node that takes it, or v1://HOST:PORT: a v1 peer, in plain and without acknowledgement
    #[arg(long, value_name = "HOST:PORT")]
    pub to: String,
    /// Data streams, at most, 1 to 64
    #[arg(long, value_name = "N")]
    pub streams: Option<u16>,
    /// Page encoding: auto, none, lz4, lz4:ACCELERATION, zstd or zstd:LEVEL
    #[arg(long)]
    pub codec: Option<String>,
    /// Pause the guest once the rest takes no longer, such as 30ms
    #[arg(long, value_name = "DURATION")]
    pub max_downtime: Option<String>,
    /// Give up when pre-copy takes longer, such as 5m
    #[arg(long, value_name = "DURATION")]
    pub deadline: Option<String>,
    /// Send no faster, such as 300mbit or 40MB/s
    #[arg(long, value_name = "RATE")]
    pub bandwidth_limit: Option<String>,
    /// Never slow the guest down
    #[arg(long)]
    pub no_throttle: bool,
    /// QEMU hands its pages on over so many multifd channels, 0 to 16; 0: over its main stream
    #[arg(long, value_name = "N")]
    pub multifd_channels: Option<u8>,
    /// Whether the guest may go on there before all of its memory is there: never; manual, by the
    /// command post-copy; auto, also when it does not converge
    #[arg(long, value_name = "RULE")]
    pub post_copy: Option<String>,
    /// Return at once, the migration goes on
    #[arg(long)]
    pub detach: bool,
}

/// `vm` commands.
#[derive(Subcommand, Debug)]
pub enum Vm {
    /// Take on the guest of a running QEMU, by its QMP socket
    ///
    /// QEMU serves one client of a QMP socket at a time, so give the node one of its own: -qmp
    /// unix:PATH,server=on,wait=off. The node's user must be able to open it and to make files
    /// beside it. A guest that has arrived stays attached and can leave again; one that has left
    /// is attached no more.
    Attach {
        /// The guest's name, the same on both nodes
        name: String,
        /// The QMP socket of its QEMU
        #[arg(long, value_name = "SOCKET")]
        qmp: PathBuf,
        /// The QEMU was started with -incoming defer, and its guest is to come
        #[arg(long)]
        incoming: bool,
    },
    /// List the attached guests
    List,
    /// Let go of a guest; its QEMU goes on as it is
    Detach {
        /// The guest's name
        name: String,
    },
    /// Show a guest and ask its QEMU for its state
    Status {
        /// The guest's name
        name: String,
    },
}

/// `feature-flags` commands.
#[derive(Subcommand, Debug)]
pub enum FeatureFlags {
    /// List the flags as they stand
    List,
    /// Change a flag: all that is given, or nothing of it
    ///
    /// What is not given stays. A percentage above zero enables the flag too, and ends its schedule.
    /// Migrations under way follow at their next segment, chunk or connection.
    Set(SetFlag),
    /// Say whether a unit has a feature, and why
    Explain {
        /// The flag
        name: String,
        /// The unit: a peer's name or address, or two nodes with a bar between them, a|b
        #[arg(long, value_name = "UNIT")]
        unit: String,
    },
    /// Show the changes of the flags, newest first, with who and why
    History {
        /// How many, at most 1024
        #[arg(long, value_name = "N", default_value_t = 20)]
        limit: u64,
    },
    /// Raise the percentage of a flag by a plan
    #[command(subcommand)]
    Schedule(FlagSchedule),
    /// Switch every flag off: all that is done from then on is as v1 does it
    DisableAll {
        /// Why; it is written into the history
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// End the rollback of a flag
    ClearLatch {
        /// The flag
        name: String,
        /// Why it may be on again; it is written into the history
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Throw the kill switch, or take it back: while it is on, every flag is off
    ///
    /// It also is on while the file rollout.kill_switch_file is there, and where the node was started
    /// with DWCP_KILL_SWITCH in its environment.
    Kill {
        /// Why; it is written into the history
        #[arg(long, value_name = "TEXT", required_unless_present = "lift")]
        reason: Option<String>,
        /// Take it back
        #[arg(long)]
        lift: bool,
    },
}

/// `feature-flags schedule` commands.
#[derive(Subcommand, Debug)]
pub enum FlagSchedule {
    /// Begin with the first stage
    ///
    /// Each further stage comes when its time has come and nothing that was measured speaks against it.
    /// It goes on over restarts of the node.
    Start {
        /// The flag
        name: String,
        /// Stages such as 0s:1,1d:10,7d:100 [default: the flag's own, or the guide's six weeks]
        #[arg(long, value_name = "AFTER:PERCENT,...")]
        stages: Option<String>,
        /// Why; it is written into the history
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// End it; the percentage stays
    Stop {
        /// The flag
        name: String,
        /// Why; it is written into the history
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Show the stages, and which have come
    Show {
        /// The flag
        name: String,
    },
}

/// Options of `feature-flags set`.
#[derive(Args, Debug)]
pub struct SetFlag {
    /// The flag
    pub name: String,
    /// Off for everybody if false
    #[arg(long, value_name = "true|false")]
    pub enabled: Option<bool>,
    /// How many of the units have it, 0 to 100 with at most four decimals
    #[arg(long, value_name = "P", allow_hyphen_values = true)]
    pub percent: Option<String>,
    /// Units, and nodes whose units, have it before all others; empty: none
    #[arg(long, value_name = "NAME,...")]
    pub allow_list: Option<String>,
    /// Units, and nodes whose units, never have it; empty: none
    #[arg(long, value_name = "NAME,...")]
    pub deny_list: Option<String>,
    /// Another number draws the units of a percentage anew
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Flags that must be on for the same unit; empty: none
    #[arg(long, value_name = "FLAG,...")]
    pub prerequisites: Option<String>,
    /// Whom to ask about it
    #[arg(long, value_name = "NAME")]
    pub owner: Option<String>,
    /// When it ends, such as 2027-01-31T00:00:00Z; none: never
    #[arg(long, value_name = "TIME")]
    pub expires: Option<String>,
    /// Why; it is written into the history [default: the options]
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// `v1` commands.
#[derive(Subcommand, Debug)]
pub enum V1 {
    /// Let v1 peers connect and send a guest, until the node ends
    ///
    /// v1 encrypts nothing and says neither which guest it sends nor whether it has let go of it: the
    /// image goes into a guest that a hypervisor expects here, and is never started by the node.
    Listen {
        /// Where, such as 10.0.0.1:9876; never a public address
        #[arg(value_name = "ADDRESS:PORT")]
        address: String,
        /// The guest that comes; without it the only one that is expected
        #[arg(long, value_name = "NAME")]
        guest: Option<String>,
        /// How it travels, as set at the peer
        #[arg(long, value_parser = ["f16", "f8", "plain"])]
        dialect: Option<String>,
    },
}

/// `identity` commands.
#[derive(Subcommand, Debug)]
pub enum Identity {
    /// Make the authority of a fleet: the key that signs its nodes' certificates
    Init {
        /// The fleet's name, in the authority's certificate
        #[arg(long, value_name = "NAME", default_value = "dwcp")]
        name: String,
        /// Where the authority's key is kept: on one host, or away from all of them
        #[arg(long, value_name = "DIRECTORY", default_value = DEFAULT_AUTHORITY)]
        authority: PathBuf,
    },
    /// Sign an identity for a node
    Issue {
        /// The node's name
        node: String,
        /// Name or address that other nodes dial it as; localhost always is one
        #[arg(long, value_name = "HOST")]
        host: Vec<String>,
        /// How long the certificate is valid, 1 to 3650
        #[arg(long, value_name = "N", default_value_t = 365,
              value_parser = clap::value_parser!(u64).range(1..=3650))]
        days: u64,
        /// The authority
        #[arg(long, value_name = "DIRECTORY", default_value = DEFAULT_AUTHORITY)]
        authority: PathBuf,
        /// Where the identity goes
        #[arg(long, value_name = "DIRECTORY", default_value = DEFAULT_IDENTITY)]
        out: PathBuf,
    },
    /// Show the certificates in an identity's or an authority's directory
    Show {
        /// The directory
        #[arg(default_value = DEFAULT_IDENTITY)]
        directory: PathBuf,
    },
    /// Replace a node's key and certificate, or the authority's
    ///
    /// Certificates of an authority's earlier keys go on being trusted by nodes that have its new
    /// ca.pem, so first hand that out, then issue or rotate the nodes' identities.
    Rotate {
        /// Give the authority a new key, under this name, and not a node
        #[arg(long, value_name = "NAME")]
        of_authority: Option<String>,
        /// How long the node's certificate is valid, 1 to 3650
        #[arg(long, value_name = "N", default_value_t = 365,
              value_parser = clap::value_parser!(u64).range(1..=3650))]
        days: u64,
        /// The authority
        #[arg(long, value_name = "DIRECTORY", default_value = DEFAULT_AUTHORITY)]
        authority: PathBuf,
        /// The node's identity
        #[arg(long, value_name = "DIRECTORY", default_value = DEFAULT_IDENTITY)]
        identity: PathBuf,
    },
}

/// `config` commands.
#[derive(Subcommand, Debug)]
pub enum Config {
    /// Print the value of a key
    Get {
        /// The key, such as migration.streams
        key: String,
        /// Tell what the key means, who set it and when a change takes hold
        #[arg(long, short)]
        verbose: bool,
    },
    /// Change a key, in the configuration file too
    Set {
        /// The key, such as migration.streams
        key: String,
        /// The new value
        #[arg(allow_hyphen_values = true)]
        value: String,
    },
    /// List all keys and their values
    List,
}

/// `generate` commands.
#[derive(Subcommand, Debug)]
pub enum Generate {
    /// Write man pages into a directory
    Man {
        /// The directory
        directory: PathBuf,
    },
    /// Write completions for bash, zsh and fish into a directory
    Completions {
        /// The directory
        directory: PathBuf,
    },
}

/// Where dwcpd serves its node.
pub const DEFAULT_SOCKET: &str = "/run/dwcp/dwcp.sock";
/// The daemon's configuration.
pub const DEFAULT_CONFIG: &str = "/etc/dwcp/v3-config.yaml";
/// Where dwcpd looks for its identity.
pub const DEFAULT_IDENTITY: &str = "/etc/dwcp/identity";
/// Where the authority of a fleet is kept.
pub const DEFAULT_AUTHORITY: &str = "/etc/dwcp/authority";

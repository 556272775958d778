//! The command line; the same as that of `examples/c`.

use clap::{Parser, ValueEnum};
use dwcp::migration::CodecChoice;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Runs a small guest that keeps writing pages which prove themselves, and migrates it.
///
/// Exit: 0 fine, 1 usage, 2 setup failed, 3 the proof failed, 4 the migration failed and the guest
/// went on here, 5 only the destination knows who has the guest.
#[derive(Clone, Debug, Parser)]
#[command(name = "hypervisor")]
pub struct Options {
    /// What to be.
    pub mode: Mode,
    /// The guest's memory; both sides say the same.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=3072))]
    pub memory_mib: u32,
    /// How fast it writes, 0 for idle.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(..=1_000_000))]
    pub dirty_mib_per_s: u64,
    /// How much of its memory it writes again and again; all of it if not given.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=3072))]
    pub working_set_mib: Option<u32>,
    /// What the pages hold.
    #[arg(long, default_value = "random")]
    pub content: Content,
    /// The guest's name.
    #[arg(long, default_value = "guest")]
    pub name: String,
    /// Run the guest as a thread even where /dev/kvm works.
    #[arg(long)]
    pub no_kvm: bool,
    /// Source: where the guest goes; without, it stays until SIGTERM.
    #[arg(long, alias = "return", value_name = "HOST:PORT")]
    pub to: Option<String>,
    /// Source: how long it runs first, once memory is filled.
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    pub after_seconds: f64,
    /// Where to wait for a guest.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// A socket for `dwcp-v3-cli --socket PATH`.
    #[arg(long, value_name = "PATH")]
    pub listen_control: Option<PathBuf>,
    /// Source: then wait for the guest to come back.
    #[arg(long, requires_all = ["to", "listen"])]
    pub await_return: bool,
    /// How long an arrived guest runs before it is proved again.
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    pub run_seconds: f64,
    /// Destination: then keep the guest running until SIGTERM.
    #[arg(long)]
    pub stay: bool,
    /// Data streams.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub streams: u16,
    /// Codec: default, none, lz4, zstd or zstd:LEVEL.
    #[arg(long, default_value = "default")]
    pub codec: String,
    /// Longest standstill.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    pub max_downtime_ms: u64,
    /// Give up when pre-copy takes longer.
    #[arg(long, default_value_t = 0.0, value_parser = seconds)]
    pub deadline_seconds: f64,
    /// Cap on the wire, 0 for none.
    #[arg(long, default_value_t = 0)]
    pub bandwidth_mib_per_s: u64,
    /// Never slow the guest down.
    #[arg(long)]
    pub no_throttle: bool,
    /// Where the node keeps ownership records; none: in memory.
    #[arg(long)]
    pub state_dir: Option<PathBuf>,
    /// The node's identity, made by `dwcp-v3-cli identity issue`; none: connections are plain.
    #[arg(long, value_name = "DIRECTORY")]
    pub identity: Option<PathBuf>,
    /// When arrival is proved.
    #[arg(long, default_value = "snapshot")]
    pub verify: Verify,
    /// No difference here: without callbacks is a matter of the C interface.
    #[arg(long)]
    pub event_loop: bool,
    /// One JSON object on standard output at the end.
    #[arg(long)]
    pub json: bool,
    /// For tests: the proof must fail.
    #[arg(long, default_value = "none", hide = true)]
    pub corrupt: Damage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    Source,
    Destination,
    SelfTest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Content {
    Random,
    Text,
    ZeroHeavy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Verify {
    Snapshot,
    Paused,
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Damage {
    None,
    Byte,
    Stale,
    Counter,
    Code,
}

impl Options {
    pub fn codec(&self) -> Result<Option<CodecChoice>, String> {
        if self.codec == "default" {
            return Ok(None);
        }
        self.codec.parse().map(Some).map_err(|error| format!("--codec: {error}"))
    }

    /// What clap cannot say.
    pub fn check(&self) -> Result<(), String> {
        if self.mode == Mode::Destination && self.listen.is_none() {
            return Err("destination needs --listen ADDRESS:PORT".into());
        }
        if self.await_return && self.mode != Mode::Source {
            return Err("--await-return is for a source".into());
        }
        self.codec().map(|_| ())
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if (0.0..=1e6).contains(&number) => Ok(number),
        _ => Err("must be 0 to 1000000".into()),
    }
}

//! A guest of QEMU's carried by two nodes, each a process of its own beside its QEMU.
//!
//! ```text
//! destination: {"listen": "10.77.0.2:41234"}   ... {"report": {...}}
//! source:      {"ready": true}  <- "go"        ... {"report": {...}}
//! host:        {"listen": ...}  <- {"attach": QMP, "incoming": false}, {"leave": ADDRESS}, ...
//! ```

use crate::Failure;
use crate::child::{say, status_bytes};
use crate::pair::Side;
use dwcp::migration::{CodecPolicy, MigrationOptions, PostCopyRule, Report};
use dwcp::{Migration, Node, NodeOptions, SecurityOptions, Status};
use dwcp_netlab::Host;
use dwcp_qemulab::Vm;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What the source is to do.
#[derive(clap::Args, Clone, Debug)]
pub struct SourceArguments {
    /// QEMU's QMP socket.
    #[arg(long)]
    qmp: PathBuf,
    /// Where the destination listens.
    #[arg(long)]
    to: SocketAddr,
    /// The downtime asked for.
    #[arg(long)]
    max_downtime_ms: u64,
    /// The codec.
    #[arg(long)]
    codec: CodecPolicy,
    /// The guest goes on at the destination after so long, by QEMU's post-copy.
    #[arg(long)]
    switch_after_ms: Option<u64>,
    /// Where to keep records and what left.
    #[arg(long)]
    state_dir: PathBuf,
}

/// What the destination is to do.
#[derive(clap::Args, Clone, Debug)]
pub struct DestinationArguments {
    /// QEMU's QMP socket.
    #[arg(long)]
    qmp: PathBuf,
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
    /// Where to keep records and what came.
    #[arg(long)]
    state_dir: PathBuf,
}

/// A host that guests come to and leave.
#[derive(clap::Args, Clone, Debug)]
pub struct HostArguments {
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
    /// Where to keep what left or came.
    #[arg(long)]
    state_dir: PathBuf,
}

/// Runs a host, until nothing more is asked of it.
pub fn host(arguments: &HostArguments) -> Result<(), Failure> {
    let options = NodeOptions {
        name: "relay-host".into(),
        listen: Some(arguments.listen),
        state_dir: Some(arguments.state_dir.clone()),
        security: SecurityOptions::Plain,
        ..NodeOptions::default()
    };
    let node = Node::start(options)?;
    say(&json!({ "listen": node.local_address().ok_or("the node does not listen")? }))?;
    for line in std::io::stdin().lines() {
        let question: Value = serde_json::from_str(&line?)?;
        let text = |key: &str| question[key].as_str();
        if let Some(qmp) = text("attach") {
            node.attach_qemu(GUEST, qmp.as_ref(), question["incoming"] == true)?;
            say(&json!({}))?;
        } else if let Some(to) = text("leave") {
            let options = as_peer(MAX_DOWNTIME, CodecPolicy::Auto);
            tell(node.migrate(GUEST, to, options)?.wait(Some(LONGEST)))?;
        } else if text("detach").is_some() {
            node.detach_qemu(GUEST)?;
            say(&json!({}))?;
        } else if let Some(sections) = question["held"].as_u64() {
            say(&json!({ "held": held(&node, sections)? }))?;
        }
    }
    node.stop();
    Ok(())
}

/// Waits for so many migrations' pages to be held, which goes on behind their end.
fn held(node: &Node, sections: u64) -> Result<Value, Failure> {
    let deadline = Instant::now() + LONGEST;
    while Instant::now() < deadline {
        let held = node.held(None);
        if held.sections >= sections {
            return Ok(serde_json::to_value(held)?);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(format!("only {:?} held", node.held(None)).into())
}

/// As the peer: QEMU does not slow its guests down unless it is told to.
fn as_peer(max_downtime: Duration, codec: CodecPolicy) -> MigrationOptions {
    MigrationOptions { max_downtime, throttle: false, codec, ..MigrationOptions::default() }
}

/// Moves a guest from the QEMU on one host to that on the other; the source's report, and the most
/// memory that either node had.
pub fn migrate(
    (from, source): (&Host, &Vm),
    (to, destination): (&Host, &Vm),
    (max_downtime, codec, switch_after): (Duration, CodecPolicy, Option<Duration>),
) -> Result<(Value, u64), Failure> {
    let mut command = to.command(std::env::current_exe()?);
    command.arg("relay-destination").arg("--qmp").arg(destination.qmp_path());
    command.args(["--listen", &SocketAddr::new(to.ipv4().into(), 0).to_string()]);
    // The folders go with this process' hands on them, whatever becomes of the nodes.
    let states = [StateDir::new("there"), StateDir::new("here")];
    command.arg("--state-dir").arg(&states[0].0);
    let mut arriving = Side::start(to, command)?;
    let listening = arriving.line()?;
    let address = listening["listen"].as_str().ok_or("no address from the destination")?;
    let mut command = from.command(std::env::current_exe()?);
    command.arg("relay-source").arg("--qmp").arg(source.qmp_path());
    command.args(["--to", address]);
    command.args(["--max-downtime-ms", &max_downtime.as_millis().to_string()]);
    command.args(["--codec", &codec.to_string()]);
    if let Some(after) = switch_after {
        command.args(["--switch-after-ms", &after.as_millis().to_string()]);
    }
    command.arg("--state-dir").arg(&states[1].0);
    let mut leaving = Side::start(from, command)?;
    leaving.line()?;
    leaving.go()?;
    let (mut left, arrived) = (leaving.line()?, arriving.line()?);
    let peaks = [&left, &arrived].map(|said| said["peak_bytes"].as_u64().unwrap_or(u64::MAX));
    Ok((left["report"].take(), peaks[0].max(peaks[1])))
}

/// Runs the source.
pub fn source(arguments: &SourceArguments) -> Result<(), Failure> {
    let node = Node::start(options("relay-source", None, &arguments.state_dir))?;
    node.attach_qemu(GUEST, &arguments.qmp, false)?;
    say(&json!({ "ready": true }))?;
    std::io::stdin().read_line(&mut String::new())?;
    let mut options = as_peer(Duration::from_millis(arguments.max_downtime_ms), arguments.codec);
    if arguments.switch_after_ms.is_some() {
        options.post_copy = PostCopyRule::Manual;
    }
    let migration = node.migrate(GUEST, &arguments.to.to_string(), options)?;
    if let Some(after_ms) = arguments.switch_after_ms {
        std::thread::sleep(Duration::from_millis(after_ms));
        migration.start_post_copy()?;
    }
    tell(migration.wait(Some(LONGEST)))?;
    node.stop();
    Ok(())
}

/// Runs the destination.
pub fn destination(arguments: &DestinationArguments) -> Result<(), Failure> {
    let (listen, state_dir) = (Some(arguments.listen), &arguments.state_dir);
    let node = Node::start(options("relay-destination", listen, state_dir))?;
    node.attach_qemu(GUEST, &arguments.qmp, true)?;
    say(&json!({ "listen": node.local_address().ok_or("the node does not listen")? }))?;
    tell(arrival(&node)?.wait(Some(LONGEST)))?;
    node.stop();
    Ok(())
}

/// A node as a daemon runs it, with a place for its records and for what it holds.
fn options(name: &str, listen: Option<SocketAddr>, state_dir: &Path) -> NodeOptions {
    let state_dir = Some(state_dir.to_path_buf());
    NodeOptions {
        name: name.into(),
        listen,
        state_dir,
        security: SecurityOptions::Plain,
        ..NodeOptions::default()
    }
}

/// A directory of a node that this process removes.
struct StateDir(PathBuf);

impl StateDir {
    fn new(side: &str) -> Self {
        let name = format!("dwcp-bench-{}-{side}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The migration that the source begins.
fn arrival(node: &Node) -> Result<Migration, Failure> {
    let deadline = Instant::now() + LONGEST;
    while Instant::now() < deadline {
        if let Some(migration) = node.migrations().pop() {
            return Ok(migration);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err("no migration came".into())
}

/// Tells the parent how it ended.
fn tell(report: Option<Report>) -> Result<(), Failure> {
    let report = report.ok_or_else(|| format!("no end after {LONGEST:?}"))?;
    if report.status != Status::Ok {
        return Err(format!("{} side: {:?}: {}", report.side, report.status, report.reason).into());
    }
    say(&json!({ "report": report, "peak_bytes": status_bytes("VmHWM:")? }))
}

const GUEST: &str = "bench";
/// Of guests that go to and fro.
const MAX_DOWNTIME: Duration = Duration::from_millis(300);
const LONGEST: Duration = Duration::from_secs(300);

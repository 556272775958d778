//! The two sides of a migration, each a process of its own that talks JSON lines with its parent.
//!
//! ```text
//! destination: {"listen": "10.77.0.2:41234"}   ... {"report": {...}, "overhead_bytes": n}
//! source:      {"ready": true}  <- "go"        ... {"report": {...}, "overhead_bytes": n}
//! ```

use crate::pair::Job;
use crate::{Failure, guest};
use dwcp::migration::options::CodecChoice;
use dwcp::migration::{MigrationOptions, Report};
use dwcp::{Node, NodeOptions, SecurityOptions, Status};
use serde_json::json;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

/// What the source is to do.
#[derive(clap::Args, Clone, Debug)]
pub struct SourceArguments {
    #[command(flatten)]
    job: Job,
    /// Where the destination listens.
    #[arg(long)]
    to: SocketAddr,
    /// Connections are over TLS with this identity.
    #[arg(long)]
    identity: Option<PathBuf>,
}

/// What the destination is to do.
#[derive(clap::Args, Clone, Debug)]
pub struct DestinationArguments {
    /// Guest memory.
    #[arg(long)]
    guest_bytes: u64,
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
    /// Connections are over TLS with this identity.
    #[arg(long)]
    identity: Option<PathBuf>,
}

/// Runs the source.
pub fn source(arguments: &SourceArguments) -> Result<(), Failure> {
    let job = &arguments.job;
    bound_memory(job.guest_bytes)?;
    let memory = guest::untouched(job.guest_bytes)?;
    guest::fill_incompressible(&memory, job.filled_bytes, GUEST_SEED)?;
    let overhead = Overhead::begin()?;
    let node = Node::start(NodeOptions {
        security: security(arguments.identity.as_ref()),
        ..NodeOptions::default()
    })?;
    node.add_source(GUEST, Arc::new(guest::running_guest(memory, job.dirty_bytes_per_s)))?;
    say(&json!({ "ready": true }))?;
    std::io::stdin().read_line(&mut String::new())?;
    let options = MigrationOptions {
        streams: job.streams,
        codec: CodecChoice::None.into(),
        max_downtime: Duration::from_millis(job.max_downtime_ms),
        throttle: false,
        ..MigrationOptions::default()
    };
    let migration = node.migrate(GUEST, &arguments.to.to_string(), options)?;
    tell(migration.wait(Some(LONGEST)), &overhead)?;
    node.stop();
    Ok(())
}

/// Runs the destination.
pub fn destination(arguments: &DestinationArguments) -> Result<(), Failure> {
    bound_memory(arguments.guest_bytes)?;
    let memory = guest::prefaulted(arguments.guest_bytes)?;
    let overhead = Overhead::begin()?;
    let options = NodeOptions {
        listen: Some(arguments.listen),
        security: security(arguments.identity.as_ref()),
        ..NodeOptions::default()
    };
    let node = Node::start(options)?;
    let (ended, end) = channel();
    node.add_destination(GUEST, Arc::new(guest::arriving_guest(memory, ended)))?;
    say(&json!({ "listen": node.local_address().ok_or("the node does not listen")? }))?;
    end.recv_timeout(LONGEST)?;
    let migration = node.migrations().pop().ok_or("no migration on record")?;
    tell(migration.wait(Some(LONGEST)), &overhead)?;
    node.stop();
    Ok(())
}

fn security(identity: Option<&PathBuf>) -> SecurityOptions {
    match identity.cloned() {
        Some(identity_dir) => SecurityOptions::Tls { identity_dir, allowed_peers: Vec::new() },
        None => SecurityOptions::Plain,
    }
}

/// Tells the parent how it ended.
fn tell(report: Option<Report>, overhead: &Overhead) -> Result<(), Failure> {
    let report = report.ok_or_else(|| format!("no end after {LONGEST:?}"))?;
    if report.status != Status::Ok {
        return Err(format!("{} side: {:?}: {}", report.side, report.status, report.reason).into());
    }
    say(&json!({ "report": report, "overhead_bytes": overhead.end()? }))
}

/// A line for the parent.
pub fn say(line: &serde_json::Value) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")?;
    Ok(stdout.flush()?)
}

/// Keeps a defect from taking the whole machine's memory: what is measured is far below.
fn bound_memory(guest_bytes: u64) -> Result<(), Failure> {
    let bytes = guest_bytes + MOST_OVERHEAD_BYTES;
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: setrlimit only reads the limit, which outlives the call.
    match unsafe { libc::setrlimit(libc::RLIMIT_DATA, &raw const limit) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error().into()),
    }
}

/// The most resident memory since the beginning, beyond what was there then.
struct Overhead {
    before_bytes: u64,
}

impl Overhead {
    fn begin() -> Result<Self, Failure> {
        // Makes the peak start from what is resident now.
        std::fs::write("/proc/self/clear_refs", "5")?;
        Ok(Self { before_bytes: status_bytes("VmRSS:")? })
    }

    fn end(&self) -> Result<u64, Failure> {
        Ok(status_bytes("VmHWM:")?.saturating_sub(self.before_bytes))
    }
}

/// A size in this process' status, which counts in KiB.
pub fn status_bytes(key: &str) -> Result<u64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.ok_or_else(|| format!("no {key} in /proc/self/status"))?.parse::<u64>()? * 1024)
}

const GUEST: &str = "bench";
const GUEST_SEED: u64 = 20_260_101;
/// Mapped, not resident: an allocator reserves 64 MiB for each of many threads.
const MOST_OVERHEAD_BYTES: u64 = 2 << 30;
const LONGEST: Duration = Duration::from_secs(300);

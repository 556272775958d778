//! Whole migrations of a running guest between two processes: by RDMA, and by TCP where that fails or
//! may not be.

use crate::Failure;
use crate::proof::{GUEST_BYTES, Proof};
use crate::setup::{ip, wait_for_device};
use crate::side::{Other, PATIENCE};
use dwcp::migration::{MigrationOptions, Owner, Report};
use dwcp::observe::EventKind;
use dwcp::runtime::migration_handle::Migration;
use dwcp::transport::{Mode, RdmaOptions};
use dwcp::{Node, NodeOptions, SecurityOptions, Status};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const GUEST: &str = "proof";
/// So much has gone by RDMA when something happens.
const MIDDLE_BYTES: u64 = GUEST_BYTES / 4;
/// Slow enough that the middle of a migration can be met.
const SLOW_BYTES_PER_S: u64 = GUEST_BYTES / 2;
/// What a migration's pages that are not zero take, at least.
const DATA_BYTES: u64 = GUEST_BYTES / 4 * 3;
/// A guest that is larger than what may be registered.
const ALLOWED: RdmaOptions = RdmaOptions { enabled: true, max_memory_bytes: 1 << 44 };
const SMALL: RdmaOptions = RdmaOptions { enabled: true, max_memory_bytes: GUEST_BYTES / 2 };

const PAGE_BYTES: u64 = 4096;
/// What the other side has to say of a guest that came.
const CAME: &str = "came";

/// A guest moves by RDMA.
pub fn moved() -> Result<String, Failure> {
    let mut stage = Stage::new("migrate", ALLOWED)?;
    let report = stage.go(None)?.wait(Some(PATIENCE)).ok_or("it does not end")?;
    let came = stage.came(&report)?;
    let by_tcp = report.wire_bytes - report.rdma_bytes;
    if report.rdma_bytes < DATA_BYTES || by_tcp > report.wire_bytes / 8 {
        return Err(format!("{} of {} bytes by RDMA", report.rdma_bytes, report.wire_bytes).into());
    }
    Ok(format!(
        "{} MiB by RDMA, {} KiB by TCP, {:.0} ms, {came}",
        report.rdma_bytes >> 20,
        by_tcp >> 10,
        report.total_ms
    ))
}

/// The destination is killed: the guest goes on at the source.
pub fn target_killed() -> Result<String, Failure> {
    let mut stage = Stage::new("migrate-kill-target", ALLOWED)?;
    let migration = stage.go(Some(SLOW_BYTES_PER_S))?;
    wait_for_middle(&migration)?;
    stage.other.kill()?;
    let report = migration.wait(Some(PATIENCE)).ok_or("it does not end")?;
    let look = stage.guest.look()?;
    match (report.owner, report.status, look.0) {
        (Owner::Source, Status::ConnectionLost, true) => {
            Ok(format!("it goes on at the source after {} writes", look.1))
        }
        _ => Err(format!("{look:?} after {report:?}").into()),
    }
}

/// The source is killed: the destination lets go of what came, and can take the guest again.
pub fn source_killed() -> Result<String, Failure> {
    let node = start("alpha", ALLOWED)?;
    let guest = Proof::new()?;
    node.add_destination(GUEST, guest.sink())?;
    let address = node.local_address().ok_or("it does not listen")?;
    let (mut other, mut stream) = Other::start("migrate-kill-source")?;
    writeln!(stream, "{address}")?;
    let arrived = wait_for(|| node.migrations().pop().filter(is_in_the_middle))?;
    other.kill()?;
    wait_for(|| (arrived.progress().streams == 0).then_some(()))?;
    arrived.cancel();
    let report = arrived.wait(Some(PATIENCE)).ok_or("it does not end")?;
    if (report.owner, guest.look().is_ok()) != (Owner::Source, false) {
        return Err(format!("{report:?}").into());
    }
    let (other, mut stream) = Other::start("migrate-source")?;
    writeln!(stream, "{address}")?;
    let again = wait_for(|| node.migrations().pop().filter(|next| next.id() != arrived.id()))?;
    let report = again.wait(Some(PATIENCE)).ok_or("it does not end")?;
    other.finish()?;
    let look = guest.look()?;
    match (report.status, look.0, report.rdma_bytes >= DATA_BYTES) {
        (Status::Ok, true, true) => Ok(format!("another one came, with {} writes", look.1)),
        _ => Err(format!("{look:?} after {report:?}").into()),
    }
}

/// The device's network goes away: TCP carries the rest.
pub fn link_lost() -> Result<String, Failure> {
    let mut stage = Stage::new("migrate-link-down", ALLOWED)?;
    let migration = stage.go(Some(SLOW_BYTES_PER_S))?;
    wait_for_middle(&migration)?;
    ip("link set d0 down")?;
    let report = migration.wait(Some(PATIENCE));
    ip("link set d0 up")?;
    let report = report.ok_or("it does not end")?;
    let came = stage.came(&report);
    wait_for_device()?;
    let came = came?;
    if report.rdma_bytes < MIDDLE_BYTES || report.reconnects == 0 || !came.contains("rxe0") {
        return Err(format!("{came} after {report:?}").into());
    }
    Ok(format!("{} MiB by RDMA; {came}", report.rdma_bytes >> 20))
}

/// The source may not register as much.
pub fn limited() -> Result<String, Failure> {
    let mut stage = Stage::new("migrate", SMALL)?;
    let report = stage.go(None)?.wait(Some(PATIENCE)).ok_or("it does not end")?;
    stage.came(&report)?;
    told_of_budget(&report, &reasons(&stage.node))
}

/// The destination may not.
pub fn limited_there() -> Result<String, Failure> {
    let mut stage = Stage::new("migrate-limited", ALLOWED)?;
    let report = stage.go(None)?.wait(Some(PATIENCE)).ok_or("it does not end")?;
    stage.came(&report)?;
    told_of_budget(&report, &reasons(&stage.node))
}

/// The other process's part.
pub fn other_side(name: &str, mut stream: UnixStream) -> Result<(), Failure> {
    match name {
        "migrate-source" | "migrate-kill-source" => {
            let mut to = String::new();
            BufReader::new(&mut stream).read_line(&mut to)?;
            let node = start("beta", ALLOWED)?;
            let guest = Proof::new()?;
            guest.boot()?;
            node.add_source(GUEST, guest.source())?;
            let limit = (name == "migrate-kill-source").then_some(SLOW_BYTES_PER_S);
            let report = node.migrate(GUEST, to.trim(), options(limit))?.wait(Some(PATIENCE));
            node.stop();
            match report {
                Some(report) if report.status == Status::Ok => Ok(()),
                other => Err(format!("{other:?}").into()),
            }
        }
        _ => {
            let limits = if name == "migrate-limited" { SMALL } else { ALLOWED };
            let node = start("beta", limits)?;
            let guest = Proof::new()?;
            node.add_destination(GUEST, guest.sink())?;
            let address = node.local_address().ok_or("it does not listen")?;
            writeln!(stream, "{address}")?;
            let arrived = wait_for(|| node.migrations().pop())?;
            let report = arrived.wait(Some(PATIENCE)).ok_or("it does not end")?;
            let look = guest.look();
            node.stop();
            let (told, status) = (reasons(&node).join("; "), report.status);
            let rdma_bytes = report.rdma_bytes;
            writeln!(stream, "{CAME} {status:?} {look:?}, {rdma_bytes} bytes by RDMA, {told}")?;
            Ok(())
        }
    }
}

/// A source with a running guest here, and a destination in another process.
struct Stage {
    node: Node,
    guest: Proof,
    other: Other,
    stream: BufReader<UnixStream>,
    to: SocketAddr,
}

impl Stage {
    fn new(name: &str, limits: RdmaOptions) -> Result<Self, Failure> {
        let node = start("alpha", limits)?;
        let guest = Proof::new()?;
        guest.boot()?;
        node.add_source(GUEST, guest.source())?;
        let (other, stream) = Other::start(name)?;
        let (mut stream, mut line) = (BufReader::new(stream), String::new());
        stream.read_line(&mut line)?;
        Ok(Self { node, guest, other, stream, to: line.trim().parse()? })
    }

    fn go(&self, limit: Option<u64>) -> Result<Migration, Failure> {
        Ok(self.node.migrate(GUEST, &self.to.to_string(), options(limit))?)
    }

    /// What the other side says of the guest, which must run there and nowhere else, and be whole.
    fn came(&mut self, report: &Report) -> Result<String, Failure> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let (runs_here, _) = self.guest.look()?;
        let is_whole = line.starts_with(&format!("{CAME} {:?} Ok((true,", Status::Ok));
        // The word that the image is whole may overtake the last acknowledgements, and what only repeats
        // what is there already is not read any more.
        let sent = report.rdma_bytes..=report.full_pages * PAGE_BYTES;
        let counts_agree = bytes_by_rdma(&line).is_some_and(|bytes| sent.contains(&bytes));
        match report.status == Status::Ok && is_whole && !runs_here && counts_agree {
            true => Ok(line.trim().to_owned()),
            false => Err(format!("{line}, after {report:?}, {:?}", reasons(&self.node)).into()),
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.node.stop();
        self.guest.stop();
    }
}

fn start(name: &str, limits: RdmaOptions) -> Result<Node, Failure> {
    let listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    let security = SecurityOptions::Plain;
    let node =
        Node::start(NodeOptions { name: name.into(), listen, security, ..Default::default() })?;
    node.set_mode(None, Some(Mode::Datacenter))?;
    node.set_rdma(limits);
    Ok(node)
}

fn options(limit: Option<u64>) -> MigrationOptions {
    MigrationOptions {
        streams: 2,
        bandwidth_limit_bytes_per_s: limit,
        max_downtime: Duration::from_secs(2),
        reconnect_timeout: Duration::from_secs(3),
        ..MigrationOptions::default()
    }
}

fn wait_for_middle(migration: &Migration) -> Result<(), Failure> {
    wait_for(|| is_in_the_middle(migration).then_some(()))
}

fn is_in_the_middle(migration: &Migration) -> bool {
    migration.progress().rdma_bytes >= MIDDLE_BYTES
}

fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> Result<T, Failure> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(found) = look() {
            return Ok(found);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Err(format!("nothing came within {PATIENCE:?}").into())
}

/// Why pages went by TCP, as a node has told.
/// What the other side says of them.
fn bytes_by_rdma(line: &str) -> Option<u64> {
    line.split_once(" bytes by RDMA")?.0.rsplit(' ').next()?.parse().ok()
}

fn reasons(node: &Node) -> Vec<String> {
    let reason = |kind| match kind {
        EventKind::RdmaUnavailable { reason } => Some(reason),
        _ => None,
    };
    node.events(0).into_iter().filter_map(|event| reason(event.kind)).collect()
}

fn told_of_budget(report: &Report, reasons: &[String]) -> Result<String, Failure> {
    let told = reasons.iter().any(|reason| reason.contains("budget for registered memory"));
    match report.rdma_bytes == 0 && told {
        true => Ok(reasons.join("; ")),
        false => Err(format!("{reasons:?} and {} bytes by RDMA", report.rdma_bytes).into()),
    }
}

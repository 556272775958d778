//! What is tried with real verbs: transfers, kills of either side, a link that goes down, limits and
//! missing rights.

use crate::Failure;
use crate::migrations;
use crate::setup::{ADDRESS, ip, wait_for_device};
use crate::side::{
    MEMORY_BYTES, Other, PATIENCE, PIECE_BYTES, PIECES, Side, allocate, domain, to_starter,
};
use dwcp::runtime::rdma::{
    Access, Completion, Failure as WorkFailure, MemoryBudget, MemoryRegion, PortState, Target,
    Unavailable, WorkError, probe,
};
use dwcp::wire::rdma::RemoteMemory;
use std::fs::{self, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

/// Runs on the first process's side; a word about what was seen.
type Scenario = fn() -> Result<String, Failure>;

/// Every scenario, in the order in which they run.
pub const ALL: &[(&str, Scenario)] = &[
    ("probe", probes),
    ("write", written),
    ("read", read),
    ("message", messages),
    ("foreign-memory", foreign_memory),
    ("kill-target", kill_target),
    ("kill-source", kill_source),
    ("budget", over_budget),
    ("memory-lock", memory_lock),
    ("permission", permission),
    ("link-down", link_down),
    ("migrate", migrations::moved),
    ("migrate-limited-here", migrations::limited),
    ("migrate-limited-there", migrations::limited_there),
    ("migrate-kill-target", migrations::target_killed),
    ("migrate-kill-source", migrations::source_killed),
    ("migrate-link-down", migrations::link_lost),
];

const MESSAGES: [&[u8; 9]; 2] = [b"message 1", b"message 2"];
const SEED: u64 = 0x5eed;
/// What the scenario about the process's limit allows.
const LOCK_LIMIT_BYTES: u64 = 1 << 20;
/// Somebody without rights.
const NOBODY: u32 = 65_534;
const VERBS_FILE: &str = "/dev/infiniband/uverbs0";

/// The other process's part in a scenario.
pub fn other_side(name: &str) -> Result<(), Failure> {
    let mut stream = to_starter(name)?;
    match name {
        name if name.starts_with("migrate") => migrations::other_side(name, stream)?,
        "memory-lock" => {
            limit_memory_lock()?;
            become_nobody()?;
            stream.write_all(register_too_much()?.as_bytes())?;
        }
        "permission" => {
            become_nobody()?;
            let error = probe().err().ok_or("the device was opened")?;
            let kind = matches!(error, Unavailable::NoPermission { .. });
            stream.write_all(format!("{kind} {error}").as_bytes())?;
        }
        "write" | "again" => {
            let mut side = Side::join(stream)?;
            side.fill(SEED)?;
            write_all(&mut side, true)?;
            side.completions(PIECES as usize)?.into_iter().try_for_each(went_well)?;
            side.meet()?;
        }
        "read" => {
            let mut side = Side::join(stream)?;
            side.fill(SEED)?;
            side.meet()?;
            side.meet()?;
        }
        "kill-source" => {
            let mut side = Side::join(stream)?;
            write_all(&mut side, true)?;
            side.meet()?;
            std::thread::sleep(PATIENCE);
        }
        "message" => {
            let mut side = Side::join(stream)?;
            side.meet()?;
            for (number, text) in MESSAGES.into_iter().enumerate() {
                let place = number as u64 * u64::from(PIECE_BYTES);
                side.memory.write(0, place, text)?;
                side.pair.send(1, side.region.piece(place, text.len() as u32)?)?;
            }
            side.completions(2)?.into_iter().try_for_each(went_well)?;
            side.meet()?;
        }
        // Present, and silent.
        _ => {
            let mut side = Side::join(stream)?;
            let _ = side.stream.read(&mut [0]);
        }
    }
    Ok(())
}

fn probes() -> Result<String, Failure> {
    let devices = probe()?;
    let [device] = &devices[..] else { return Err(format!("{devices:?}").into()) };
    let [port] = &device.ports[..] else { return Err(format!("{device:?}").into()) };
    let gid = port.best_gid().ok_or("no address")?;
    let seen = (device.name.as_str(), port.state, port.mtu_bytes, gid.address.to_ipv4_mapped());
    let expected = ("rxe0", PortState::Active, 4096, Some(ADDRESS));
    if seen == expected { Ok(format!("{seen:?}")) } else { Err(format!("{devices:?}").into()) }
}

fn written() -> Result<String, Failure> {
    receive_all("write")
}

fn receive_all(name: &str) -> Result<String, Failure> {
    let (other, stream) = Other::start(name)?;
    let mut side = Side::join(stream)?;
    let began = Instant::now();
    let done = side.completions(PIECES as usize)?;
    for (number, completion) in done.into_iter().enumerate() {
        let done = completion.outcome?;
        if (done.immediate, done.bytes) != (Some(number as u32), PIECE_BYTES) {
            return Err(format!("piece {number} came as {done:?}").into());
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    side.verify(SEED)?;
    side.meet()?;
    other.finish()?;
    Ok(format!("{} MiB in {seconds:.1} s", MEMORY_BYTES >> 20))
}

fn read() -> Result<String, Failure> {
    let (other, stream) = Other::start("read")?;
    let mut side = Side::join(stream)?;
    side.meet()?;
    let began = Instant::now();
    for number in 0..PIECES {
        let offset_bytes = u64::from(number) * u64::from(PIECE_BYTES);
        let into = side.region.piece(offset_bytes, PIECE_BYTES)?;
        side.pair.read(number.into(), into, Target { memory: side.remote, offset_bytes })?;
    }
    side.completions(PIECES as usize)?.into_iter().try_for_each(went_well)?;
    let seconds = began.elapsed().as_secs_f64();
    side.verify(SEED)?;
    side.meet()?;
    other.finish()?;
    Ok(format!("{} MiB in {seconds:.1} s", MEMORY_BYTES >> 20))
}

fn messages() -> Result<String, Failure> {
    let (other, stream) = Other::start("message")?;
    let mut side = Side::join_for_messages(stream)?;
    side.meet()?;
    for (number, completion) in side.completions(2)?.into_iter().enumerate() {
        let place = number as u64 * u64::from(PIECE_BYTES);
        let mut text = [0; MESSAGES[0].len()];
        side.memory.read(0, place, &mut text)?;
        let (seen, expected) = ((completion.outcome?.bytes, text), (9, *MESSAGES[number]));
        if seen != expected {
            return Err(format!("{seen:?} where {expected:?} was sent").into());
        }
    }
    side.meet()?;
    other.finish()?;
    Ok(format!("{} in order", MESSAGES.len()))
}

/// A key opens its own memory alone, whatever a peer makes of the length.
fn foreign_memory() -> Result<String, Failure> {
    let (_other, stream) = Other::start("foreign-memory")?;
    let mut side = Side::join(stream)?;
    let memory = RemoteMemory { length_bytes: 2 * MEMORY_BYTES, ..side.remote };
    let target = Target { memory, offset_bytes: MEMORY_BYTES };
    side.pair.write(1, side.region.piece(0, PIECE_BYTES)?, target)?;
    failed_with(&mut side, 1, |failure| failure == WorkFailure::RemoteAccess)
}

fn kill_target() -> Result<String, Failure> {
    let (mut other, stream) = Other::start("kill-target")?;
    let mut side = Side::join(stream)?;
    other.kill()?;
    write_all(&mut side, false)?;
    failed_with(&mut side, PIECES as usize, |failure| failure == WorkFailure::NoAnswer)
}

/// A receiver learns of it by the control connection; its own end is then of no more use, and a new
/// one works.
fn kill_source() -> Result<String, Failure> {
    let (mut other, stream) = Other::start("kill-source")?;
    let mut side = Side::join(stream)?;
    side.completions(PIECES as usize)?;
    side.meet()?;
    other.kill()?;
    side.pair.receive(0, None)?;
    let mut done = Vec::new();
    if side.pair.wait(&mut done, Duration::from_millis(300))? != 0 {
        return Err(format!("{done:?}").into());
    }
    match side.stream.read(&mut [0]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => return Err(format!("the control connection goes on: {other:?}").into()),
    }
    drop(side);
    receive_all("again")
}

fn over_budget() -> Result<String, Failure> {
    let (domain, memory) = (domain()?, allocate(8 << 20)?);
    let budget = MemoryBudget::new(6 << 20);
    let register = |offset, length| {
        MemoryRegion::register(&domain, &memory, (0, offset, length), Access::default(), &budget)
    };
    let first = register(0, 4 << 20)?;
    let error = register(4 << 20, 4 << 20).err().ok_or("the budget was overdrawn")?.to_string();
    if budget.used_bytes() != 4 << 20 || !error.contains("4194304 of 6291456") {
        return Err(error.into());
    }
    drop(first);
    register(4 << 20, 4 << 20)?;
    if budget.used_bytes() == 0 { Ok(error) } else { Err("the budget is not given back".into()) }
}

fn memory_lock() -> Result<String, Failure> {
    let text = said_by_other("memory-lock")?;
    let wanted =
        format!("8388608 bytes cannot be locked: RLIMIT_MEMLOCK is {LOCK_LIMIT_BYTES} bytes");
    if text.starts_with(&wanted) { Ok(text) } else { Err(text.into()) }
}

fn permission() -> Result<String, Failure> {
    let mode = fs::metadata(VERBS_FILE)?.permissions();
    fs::set_permissions(VERBS_FILE, Permissions::from_mode(0o600))?;
    let text = said_by_other("permission");
    fs::set_permissions(VERBS_FILE, mode)?;
    let text = text?;
    if text.starts_with("true this user may not open rxe0") { Ok(text) } else { Err(text.into()) }
}

fn link_down() -> Result<String, Failure> {
    let (other, stream) = Other::start("link-down")?;
    let mut side = Side::join(stream)?;
    ip("link set d0 down")?;
    write_all(&mut side, false)?;
    let told = failed_with(&mut side, PIECES as usize, |failure| failure != WorkFailure::Flushed);
    let probed = probe();
    ip("link set d0 up")?;
    let told = told?;
    if !told.contains("port 1 is down") {
        return Err(told.into());
    }
    match probed {
        Err(error @ Unavailable::PortDown { .. }) if error.to_string().contains("rxe0 port 1") => {}
        other => return Err(format!("{other:?}").into()),
    }
    drop((side, other));
    wait_for_device()?;
    receive_all("again")?;
    Ok(told)
}

fn write_all(side: &mut Side, tell: bool) -> Result<(), Failure> {
    for number in 0..PIECES {
        let offset_bytes = u64::from(number) * u64::from(PIECE_BYTES);
        let from = side.region.piece(offset_bytes, PIECE_BYTES)?;
        let to = Target { memory: side.remote, offset_bytes };
        match tell {
            true => side.pair.write_with_immediate(number.into(), from, to, number)?,
            false => side.pair.write(number.into(), from, to)?,
        }
    }
    Ok(())
}

fn went_well(completion: Completion) -> Result<(), Failure> {
    Ok(completion.outcome.map(drop)?)
}

/// All of so many pieces of work end, the first that failed as expected and those after it flushed.
fn failed_with(
    side: &mut Side,
    count: usize,
    expected: impl Fn(WorkFailure) -> bool,
) -> Result<String, Failure> {
    let done = side.completions(count)?;
    let writes = done.into_iter().filter_map(|completion| completion.outcome.err());
    let errors: Vec<WorkError> = writes.collect();
    let (first, rest) = errors.split_first().ok_or("nothing failed")?;
    if !expected(first.failure) || rest.iter().any(|error| error.failure != WorkFailure::Flushed) {
        return Err(format!("{errors:?}").into());
    }
    Ok(first.to_string())
}

fn said_by_other(name: &str) -> Result<String, Failure> {
    let (other, mut stream) = Other::start(name)?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    other.finish()?;
    Ok(text)
}

fn register_too_much() -> Result<String, Failure> {
    let (domain, memory, budget) = (domain()?, allocate(8 << 20)?, MemoryBudget::new(1 << 30));
    let register = |length| {
        MemoryRegion::register(&domain, &memory, (0, 0, length), Access::default(), &budget)
    };
    // What is within the limit can still be had.
    drop(register(LOCK_LIMIT_BYTES / 2)?);
    Ok(register(8 << 20).err().ok_or("the limit was not kept")?.to_string())
}

fn limit_memory_lock() -> Result<(), Failure> {
    let limit = libc::rlimit { rlim_cur: LOCK_LIMIT_BYTES, rlim_max: LOCK_LIMIT_BYTES };
    // SAFETY: the limit lives for the call.
    match unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error().into()),
    }
}

/// Also gives up every capability.
fn become_nobody() -> Result<(), Failure> {
    // SAFETY: both take plain numbers; this process has one thread.
    match unsafe { libc::setgid(NOBODY) | libc::setuid(NOBODY) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error().into()),
    }
}

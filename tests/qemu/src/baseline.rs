//! QEMU's own migration, measured: the peer that ours is compared with on the same link.

use crate::LabError;
use dwcp::runtime::qemu::{MigrationInfo, Qmp};
use dwcp_netlab::Host;
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

/// Bytes a second that no link here reaches: QEMU's default of 128 MiB/s would be measured else.
const UNLIMITED: u64 = 1 << 50;
const POLL: Duration = Duration::from_millis(20);

/// By which of its means QEMU migrates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One stream of whole pages.
    Plain,
    /// Several streams, compressed by zstd at its level 1.
    MultifdZstd {
        /// Streams.
        channels: u8,
    },
    /// One stream of whole pages; the guest goes on at the destination after so long, whatever is missing.
    PostCopy {
        /// From the beginning.
        after: Duration,
    },
    /// One stream, pages compressed by zlib in threads. It damages guests: one of 512 MiB did not
    /// outlive it under QEMU 7.2. QEMU deprecated it for its races, and it is gone since 9.1, so
    /// its times say nothing unless the guest proves its memory afterwards.
    Compress,
}

/// One migration to be measured.
pub struct Baseline<'a> {
    /// By which means.
    pub mode: Mode,
    /// Where the destination listens and the source connects, such as `tcp:10.77.0.2:4444`.
    pub uri: &'a str,
    /// How long the guest may stand still.
    pub downtime_limit: Duration,
    /// All of it must end in this time.
    pub timeout: Duration,
    /// Bytes that the source's link has carried so far, if they are to be counted; see
    /// [`sent_by`] and [`counter_in`].
    pub wire_bytes: Option<&'a dyn Fn() -> u64>,
}

/// What it took.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// From the command to the end, by QEMU's clock.
    pub total: Duration,
    /// The guest stood still so long, by QEMU's clock.
    pub downtime: Duration,
    /// What the link carried, if it was counted.
    pub wire_bytes: Option<u64>,
    /// QEMU's own last word.
    pub info: MigrationInfo,
}

/// Migrates, and returns when the destination has the guest.
///
/// # Errors
/// QEMU refuses, fails, or takes too long; then the migration is cancelled.
pub fn migrate(
    source: &mut Qmp,
    destination: &mut Qmp,
    baseline: &Baseline<'_>,
) -> Result<Measured, LabError> {
    let deadline = Instant::now() + baseline.timeout;
    for qemu in [&mut *source, &mut *destination] {
        set_capabilities(qemu, baseline.mode)?;
        qemu.set_parameters(parameters(baseline))?;
    }
    source.set_capabilities(&[("events", true)])?;
    destination.migrate_incoming(baseline.uri)?;
    let count = || baseline.wire_bytes.map(|count| count());
    let before = count();
    source.migrate(baseline.uri)?;
    if let Mode::PostCopy { after } = baseline.mode {
        std::thread::sleep(after);
        source.migrate_start_postcopy()?;
    }
    let info = wait_for_end(source, baseline, deadline)?;
    wait_for_arrival(destination, baseline, deadline)?;
    let wire_bytes = count().zip(before).map(|(after, before)| after.saturating_sub(before));
    let time = |ms: Option<u64>| Duration::from_millis(ms.unwrap_or(0));
    let (total, downtime) = (time(info.total_time_ms), time(info.downtime_ms));
    Ok(Measured { total, downtime, wire_bytes, info })
}

/// Counts what a host has sent, headers included, on all devices but the loopback.
pub fn sent_by(host: &Host) -> impl Fn() -> u64 {
    move || {
        let table = host.enter(|| std::fs::read_to_string("/proc/thread-self/net/dev"));
        table.unwrap_or_default().lines().filter_map(sent_on_device).sum()
    }
}

/// Reads a counter such as /sys/class/net/eth0/statistics/tx_bytes.
pub fn counter_in(file: &Path) -> impl Fn() -> u64 {
    move || {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }
}

/// Turns on what the mode needs, and first off what another one left: they exclude each other.
fn set_capabilities(qemu: &mut Qmp, mode: Mode) -> Result<(), LabError> {
    let wanted = match mode {
        Mode::Plain => None,
        Mode::PostCopy { .. } => Some("postcopy-ram"),
        Mode::MultifdZstd { .. } => Some("multifd"),
        Mode::Compress => Some("compress"),
    };
    let known = qemu.capabilities()?;
    for name in ["multifd", "compress", "postcopy-ram"] {
        if known.get(name).is_some_and(|&is_on| is_on) && wanted != Some(name) {
            qemu.set_capabilities(&[(name, false)])?;
        }
    }
    let wanted: Vec<(&str, bool)> = wanted.map(|name| (name, true)).into_iter().collect();
    Ok(qemu.set_capabilities(&wanted)?)
}

fn parameters(baseline: &Baseline<'_>) -> Value {
    let mut all = json!({
        "max-bandwidth": UNLIMITED,
        "downtime-limit": baseline.downtime_limit.as_millis() as u64,
    });
    match baseline.mode {
        Mode::Plain | Mode::PostCopy { .. } => {}
        Mode::MultifdZstd { channels } => {
            all["multifd-channels"] = json!(channels);
            all["multifd-compression"] = json!("zstd");
            all["multifd-zstd-level"] = json!(1);
        }
        Mode::Compress => all["compress-level"] = json!(1),
    }
    all
}

/// By events: asking all the time would take from the guest's share of the processor.
fn wait_for_end(
    source: &mut Qmp,
    baseline: &Baseline<'_>,
    deadline: Instant,
) -> Result<MigrationInfo, LabError> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let Some(event) = source.next_event(left)? else {
            source.migrate_cancel()?;
            let waiting_for = format!("end of QEMU's migration to {}", baseline.uri);
            let output = format!("{:?}", source.migration_info()?);
            return Err(LabError::TimedOut { waiting_for, after: baseline.timeout, output });
        };
        if event.name != "MIGRATION" {
            continue;
        }
        match event.data["status"].as_str() {
            Some("completed") => return settled_info(source),
            Some(status @ ("failed" | "cancelled")) => {
                return Err(failure(source, baseline, status));
            }
            _ => {}
        }
    }
}

/// QEMU says "completed" a little before it has worked out the times; then it leaves this state.
fn settled_info(source: &mut Qmp) -> Result<MigrationInfo, LabError> {
    while source.status()?.status == "finish-migrate" {
        std::thread::sleep(POLL);
    }
    Ok(source.migration_info()?)
}

fn failure(source: &mut Qmp, baseline: &Baseline<'_>, status: &str) -> LabError {
    let reason = source.migration_info().ok().and_then(|info| info.error_desc);
    LabError::Migration {
        uri: baseline.uri.to_owned(),
        status: status.to_owned(),
        reason: reason.unwrap_or_else(|| "QEMU gives no reason; its log may".to_owned()),
    }
}

fn wait_for_arrival(
    destination: &mut Qmp,
    baseline: &Baseline<'_>,
    deadline: Instant,
) -> Result<(), LabError> {
    while destination.status()?.status == "inmigrate" {
        if Instant::now() >= deadline {
            let waiting_for = format!("guest at {}", baseline.uri);
            let output = format!("{:?}", destination.migration_info()?);
            return Err(LabError::TimedOut { waiting_for, after: baseline.timeout, output });
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// The ninth number of a device's row.
fn sent_on_device(row: &str) -> Option<u64> {
    let (device, numbers) = row.split_once(':')?;
    if device.trim() == "lo" {
        return None;
    }
    numbers.split_whitespace().nth(8)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_sent_are_the_ninth_number() {
        let row = "  link: 1 2 3 4 5 6 7 8 900 10 11 12 13 14 15 16";
        assert_eq!(sent_on_device(row), Some(900));
        assert_eq!(sent_on_device("    lo: 1 2 3 4 5 6 7 8 900 10"), None);
        assert_eq!(sent_on_device("Inter-|   Receive"), None);
    }
}

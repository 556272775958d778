//! One guest that goes to and fro between two hosts, and what each trip takes.

use super::cases::Means;
use crate::{Failure, relay};
use dwcp::migration::CodecPolicy;
use dwcp::runtime::qemu::Qmp;
use dwcp_netlab::{Host, Lab};
use dwcp_qemulab::baseline::{self, Baseline, Mode};
use dwcp_qemulab::{Vm, VmConfig};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// A guest, and where it is.
pub struct Traveller<'a> {
    lab: &'a Lab,
    config: VmConfig<'a>,
    vm: Vm,
    /// On the second host.
    is_there: bool,
}

/// What a trip took.
pub struct Taken {
    /// From the command to the end, as who moved it counts.
    pub total_s: f64,
    /// From the source's STOP to the destination's RESUME.
    pub downtime_ms: f64,
    /// As who moved it counts.
    pub own_downtime_ms: f64,
    /// Sent by the source's host, headers included.
    pub wire_mib: f64,
    /// The most that a node had in memory; none where no node is.
    pub memory_mib: Option<f64>,
    /// All processors of the guest waited for pages so long, where it switched to post-copy.
    pub blocked_ms: Option<f64>,
    /// What else there is to say.
    pub details: String,
}

/// What who moved it says: total and downtime, and details.
struct Told {
    total_s: f64,
    downtime_ms: f64,
    memory_mib: Option<f64>,
    details: String,
}

impl<'a> Traveller<'a> {
    /// Boots the guest on the first host, and waits until its memory is filled.
    pub fn boot(lab: &'a Lab, config: &VmConfig<'a>) -> Result<Self, Failure> {
        let vm = Vm::start(&VmConfig { host: Some(lab.a()), ..config.clone() })?;
        vm.wait_for_tick(SETTLED_TICKS, PATIENCE)?;
        Ok(Self { lab, config: config.clone(), vm, is_there: false })
    }

    /// The QEMU that has the guest.
    pub fn vm(&self) -> &Vm {
        &self.vm
    }

    /// Moves the guest to the other host, and sees it live there for a while. None: it does not,
    /// and has been booted anew.
    pub fn go(&mut self, means: Means) -> Result<Option<Taken>, Failure> {
        let (from, to) = self.hosts();
        let config = VmConfig { incoming: true, host: Some(to), ..self.config.clone() };
        let destination = Vm::start(&config)?;
        if matches!(means, Means::Switch(_) | Means::Qemu(Mode::PostCopy { .. })) {
            destination.qmp()?.set_capabilities(&[("postcopy-blocktime", true)])?;
        }
        let count = baseline::sent_by(from);
        let before = count();
        let (told, stopped_us, resumed_us) = match means {
            Means::Relay(codec) => self.by_relay(&destination, codec, None)?,
            Means::Switch(after) => self.by_relay(&destination, CodecPolicy::Auto, Some(after))?,
            Means::Qemu(mode) => self.by_qemu(&destination, mode)?,
        };
        let wire_mib = (count() - before) as f64 / MIB;
        if let Err(error) = self.lives(&destination) {
            eprintln!("  the guest did not outlive {means}: {error}");
            drop(destination);
            *self = Self::boot(self.lab, &self.config)?;
            return Ok(None);
        }
        let blocked_ms = destination.qmp()?.migration_info()?.post_copy_blocked_ms;
        self.vm = destination;
        self.is_there = !self.is_there;
        Ok(Some(Taken {
            total_s: told.total_s,
            downtime_ms: (resumed_us as f64 - stopped_us as f64) / 1e3,
            own_downtime_ms: told.downtime_ms,
            wire_mib,
            memory_mib: told.memory_mib,
            blocked_ms: blocked_ms.map(|ms| ms as f64),
            details: told.details,
        }))
    }

    /// QEMU's translator now and then loses a write while a migration looks for them, whoever
    /// asked for it; then the guest ends sooner or later.
    fn lives(&self, destination: &Vm) -> Result<(), Failure> {
        destination.wait_for_tick(self.vm.last_tick() + SETTLED_TICKS, SIGN_OF_LIFE)?;
        match self.vm.complaint().or_else(|| destination.complaint()) {
            Some(complaint) => Err(complaint.into()),
            None => Ok(()),
        }
    }

    fn hosts(&self) -> (&'a Host, &'a Host) {
        let (a, b) = (self.lab.a(), self.lab.b());
        if self.is_there { (b, a) } else { (a, b) }
    }

    fn by_relay(
        &self,
        destination: &Vm,
        codec: CodecPolicy,
        switch_after: Option<Duration>,
    ) -> Result<(Told, u64, u64), Failure> {
        let (from, to) = self.hosts();
        let (mut left, mut arrived) = (self.vm.qmp()?, destination.qmp()?);
        let (from, to) = ((from, &self.vm), (to, destination));
        let (report, peak_bytes) = relay::migrate(from, to, (MAX_DOWNTIME, codec, switch_after))?;
        let number = |key: &str| {
            report[key].as_f64().ok_or_else(|| format!("no number {key} in report {report}"))
        };
        let told = Told {
            total_s: number("total_ms")? / 1e3,
            downtime_ms: number("downtime_ms")?,
            memory_mib: Some(peak_bytes as f64 / MIB),
            details: details(&report),
        };
        Ok((told, time_of("STOP", &mut left)?, time_of("RESUME", &mut arrived)?))
    }

    fn by_qemu(&self, destination: &Vm, mode: Mode) -> Result<(Told, u64, u64), Failure> {
        // Events go to every conversation, and the laboratory's own has its hands full.
        let witness = |path: &Path| Qmp::connect(path, PATIENCE);
        let mut left = witness(&self.vm.qmp_path())?;
        let mut arrived = witness(&destination.qmp_path())?;
        let baseline = Baseline {
            mode,
            uri: &format!("tcp:{}:{PORT}", self.hosts().1.ipv4()),
            downtime_limit: MAX_DOWNTIME,
            timeout: PATIENCE,
            wire_bytes: None,
        };
        let took = baseline::migrate(&mut self.vm.qmp()?, &mut destination.qmp()?, &baseline)?;
        let told = Told {
            total_s: took.total.as_secs_f64(),
            downtime_ms: took.downtime.as_secs_f64() * 1e3,
            memory_mib: None,
            details: took.info.ram.map_or_else(String::new, |ram| {
                format!("passes {}, {:.0} Mbit/s", ram.dirty_sync_count, ram.mbps)
            }),
        };
        Ok((told, time_of("STOP", &mut left)?, time_of("RESUME", &mut arrived)?))
    }
}

/// What is told of a report beside its figures.
pub fn details(report: &Value) -> String {
    let keys = ["phases", "zero_pages", "duplicate_pages", "delta_pages", "full_pages"];
    keys.map(|key| format!("{key} {}", report[key])).join(", ")
}

/// When an event of this name happened, on a clock that all QEMUs of this machine share.
fn time_of(name: &str, qmp: &mut Qmp) -> Result<u64, Failure> {
    while let Some(event) = qmp.next_event(EVENT_PATIENCE)? {
        if event.name == name {
            return Ok(event.time_us);
        }
    }
    Err(format!("QEMU did not say {name}").into())
}

/// The same for all.
const MAX_DOWNTIME: Duration = Duration::from_millis(300);
/// A second each, in which the guest does what it does all day.
const SETTLED_TICKS: u64 = 2;
const PATIENCE: Duration = Duration::from_secs(120);
const SIGN_OF_LIFE: Duration = Duration::from_secs(20);
const EVENT_PATIENCE: Duration = Duration::from_secs(10);
const PORT: u16 = 4444;
const MIB: f64 = (1 << 20) as f64;

//! Guests that come back to a host that held them, and guests whose like was there before.

use super::cases::{Guest, Link};
use crate::Failure;
use crate::pair::Side;
use crate::results::{Figure, Results, Wanted};
use dwcp_netlab::{Host, Lab};
use dwcp_qemulab::{Load, Vm, VmConfig, baseline};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

/// The cells of the links and guests that the plan asks for: narrow links, where bytes are time.
pub fn run(guests: &[&Guest], links: &[&Link], results: &mut Results) -> Result<(), Failure> {
    for link in links.iter().filter(|link| link.mbit_per_s == Some(NARROW_MBIT_PER_S)) {
        for guest in guests {
            match guest.load {
                Load::Text { .. } => comes_back(guest, link, results)?,
                Load::Idle => second_of_its_kind(guest, link, results)?,
                _ => {}
            }
        }
    }
    Ok(())
}

/// There; it changes a twentieth of its memory; and back again.
fn comes_back(guest: &Guest, link: &Link, results: &mut Results) -> Result<(), Failure> {
    let lab = link.lab()?;
    let (mut here, mut there) = (Place::open(lab.a())?, Place::open(lab.b())?);
    let image = guest.image()?;
    let config = VmConfig { image: Some(&image), ..guest.config() };
    let first = boot(lab.a(), &config)?;
    here.attach(&first, false)?;
    let (second, out) = go(&lab, &mut here, &mut there, &config)?;
    here.held(1)?;
    second.wait_for_tick(first.last_tick() + changed_ticks(guest), PATIENCE)?;
    complaint(&[&first])?;
    // What is new to a virtual machine costs its first user more than the trip; so the QEMU that the
    // guest comes back to takes over the memory of the one that it left, as in the other cells.
    drop(first);
    let (third, back) = go(&lab, &mut there, &mut here, &config)?;
    third.wait_for_tick(second.last_tick() + LIFE_TICKS, PATIENCE)?;
    complaint(&[&second, &third])?;
    let case = format!("{} comes back, {}", guest.name, link.name);
    report(&case, &back, ("first trip", &out), (0.25, 0.1), results)
}

/// One of a system goes there, then another of the same.
fn second_of_its_kind(guest: &Guest, link: &Link, results: &mut Results) -> Result<(), Failure> {
    let lab = link.lab()?;
    let (mut here, mut there) = (Place::open(lab.a())?, Place::open(lab.b())?);
    let image = guest.image()?;
    let config = VmConfig { image: Some(&image), ..guest.config() };
    let mut trips = Vec::new();
    for sections in 1..=2 {
        let vm = boot(lab.a(), &config)?;
        here.attach(&vm, false)?;
        let (arrived, trip) = go(&lab, &mut here, &mut there, &config)?;
        there.held(sections)?;
        arrived.wait_for_tick(vm.last_tick() + LIFE_TICKS, PATIENCE)?;
        complaint(&[&vm, &arrived])?;
        there.side.ask(&json!({ "detach": "it" }))?;
        trips.push(trip);
    }
    let case = format!("{}, its system is known, {}", guest.name, link.name);
    report(&case, &trips[1], ("first of its kind", &trips[0]), (1.0, 0.5), results)
}

/// What a trip took: bytes of both directions, what the destination announces among them.
struct Trip {
    total_s: f64,
    wire_mib: f64,
}

/// A host with a node that stays.
struct Place<'a> {
    host: &'a Host,
    side: Side,
    address: String,
    /// Where its node keeps what it holds.
    folder: PathBuf,
}

impl<'a> Place<'a> {
    fn open(host: &'a Host) -> Result<Self, Failure> {
        let name = format!("dwcp-bench-{}-{}", std::process::id(), host.ipv4());
        let folder = std::env::temp_dir().join(name);
        let mut command = host.command(std::env::current_exe()?);
        command.arg("relay-host").arg("--state-dir").arg(&folder);
        command.args(["--listen", &format!("{}:0", host.ipv4())]);
        let mut side = Side::start(host, command)?;
        let said = side.line()?;
        let address = said["listen"].as_str().ok_or("no address from a host")?.to_owned();
        Ok(Self { host, side, address, folder })
    }

    fn attach(&mut self, vm: &Vm, incoming: bool) -> Result<Value, Failure> {
        self.side.ask(&json!({ "attach": vm.qmp_path(), "incoming": incoming }))
    }

    fn held(&mut self, sections: u64) -> Result<(), Failure> {
        let said = self.side.ask(&json!({ "held": sections }))?;
        eprintln!("  {}: {}", self.address, said["held"]);
        Ok(())
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn boot(host: &Host, config: &VmConfig<'_>) -> Result<Vm, Failure> {
    let vm = Vm::start(&VmConfig { host: Some(host), ..config.clone() })?;
    vm.wait_for_tick(LIFE_TICKS, PATIENCE)?;
    Ok(vm)
}

/// Moves the guest to a new QEMU, which is returned.
fn go(
    lab: &Lab,
    from: &mut Place<'_>,
    to: &mut Place<'_>,
    config: &VmConfig<'_>,
) -> Result<(Vm, Trip), Failure> {
    let arriving = Vm::start(&VmConfig { incoming: true, host: Some(to.host), ..config.clone() })?;
    to.attach(&arriving, true)?;
    let counts = [baseline::sent_by(lab.a()), baseline::sent_by(lab.b())];
    let sent = || counts.iter().map(|count| count()).sum::<u64>();
    let before = sent();
    let said = from.side.ask(&json!({ "leave": to.address }))?;
    let wire_mib = (sent() - before) as f64 / MIB;
    let report = &said["report"];
    let total_ms = report["total_ms"].as_f64().ok_or_else(|| format!("no total_ms in {said}"))?;
    let trip = Trip { total_s: total_ms / 1e3, wire_mib };
    eprintln!("  {:.2} s, {wire_mib:.1} MiB, {}", trip.total_s, super::trip::details(report));
    Ok((arriving, trip))
}

/// Seconds in which the guest writes to a twentieth of its memory.
fn changed_ticks(guest: &Guest) -> u64 {
    match guest.load {
        Load::Text { rate_mib, .. } => u64::from(guest.memory_mib / 20 / rate_mib.max(1)),
        _ => LIFE_TICKS,
    }
}

fn complaint(vms: &[&Vm]) -> Result<(), Failure> {
    match vms.iter().find_map(|vm| vm.complaint()) {
        Some(complaint) => Err(complaint.into()),
        None => Ok(()),
    }
}

fn report(
    case: &str,
    trip: &Trip,
    (peer_name, peer): (&str, &Trip),
    (total, wire): (f64, f64),
    results: &mut Results,
) -> Result<(), Failure> {
    let mut add = |metric, unit, dwcp: f64, peer: f64, bound| {
        let (dwcp, peer, wanted) = (dwcp.into(), peer.into(), Wanted::AtMost(bound));
        results.add(Figure { suite: "qemu", case, metric, unit, dwcp, peer_name, peer, wanted })
    };
    add("total_s", "s", trip.total_s, peer.total_s, total)?;
    add("wire_mib", "MiB", trip.wire_mib, peer.wire_mib, wire)
}

const NARROW_MBIT_PER_S: u64 = 200;
const LIFE_TICKS: u64 = 2;
const PATIENCE: Duration = Duration::from_secs(120);
const MIB: f64 = (1 << 20) as f64;

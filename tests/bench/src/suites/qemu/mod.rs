//! Unmodified QEMU guests over the same link: carried by libdwcp, and by QEMU's own modes, in turns.
//!
//! A guest goes there and back again, by another means each time, so a cell boots it once. What it
//! took is measured alike for all: downtime from the source's STOP to the destination's RESUME by
//! QEMU's own clock, bytes at the sender's network device.

mod cases;
mod floor;
mod returns;
mod selector;
mod switch;
mod trip;

use crate::results::{Figure, Results, Wanted};
use crate::samples::Samples;
use crate::{Failure, Plan};
use cases::{AUTO, Guest, Link, MEANS, Means, WirePeer};
use dwcp_qemulab::VmConfig;
use floor::Floor;
use std::collections::HashMap;
use trip::{Taken, Traveller};

/// Runs the cells that the plan asks for; one that fails does not keep the others from running.
pub fn run(plan: &Plan, results: &mut Results) -> Result<(), Failure> {
    let guests = cases::chosen(&plan.qemu_guests, &cases::GUESTS, |guest| guest.name)?;
    let links = cases::chosen(&plan.qemu_links, &cases::LINKS, |link| link.key)?;
    let parts = cases::chosen(&plan.qemu_parts, &PARTS, |part| part)?;
    let mut floors = HashMap::new();
    let mut failed = Vec::new();
    for link in links.iter().filter(|_| parts.contains(&&TURNS)) {
        for guest in &guests {
            let rounds = plan.rounds.min(MOST_ROUNDS);
            let cell = Cell { link, guest, name: format!("{}, {}", guest.name, link.name) };
            match cell.measure(rounds, floors.get(guest.name).copied()) {
                Ok((all, floor)) => {
                    floors.insert(guest.name, floor);
                    cell.report(&all, floor, results)?;
                }
                Err(error) => failed.push(format!("{}: {error}", cell.name)),
            }
        }
    }
    if parts.contains(&&RETURNS)
        && let Err(error) = returns::run(&guests, &links, results)
    {
        failed.push(format!("return: {error}"));
    }
    if parts.contains(&&SELECTOR)
        && let Err(error) = selector::run(&plan.selector_links, plan.rounds, results)
    {
        failed.push(format!("selector: {error}"));
    }
    if parts.contains(&&SWITCH)
        && let Err(error) = switch::run(&guests, &links, plan.rounds.min(MOST_ROUNDS), results)
    {
        failed.push(format!("switch: {error}"));
    }
    if failed.is_empty() { Ok(()) } else { Err(failed.join("; ").into()) }
}

/// A guest on a link.
struct Cell<'a> {
    link: &'a Link,
    guest: &'a Guest,
    name: String,
}

/// What each of [`MEANS`] took.
type Measured = [Figures; MEANS.len()];

#[derive(Clone, Default)]
struct Figures {
    total_s: Samples,
    downtime_ms: Samples,
    wire_mib: Samples,
    memory_mib: Samples,
}

impl Cell<'_> {
    /// Moves the guest to and fro.
    fn measure(&self, rounds: usize, floor: Option<Floor>) -> Result<(Measured, Floor), Failure> {
        let lab = self.link.lab()?;
        let image = self.guest.image()?;
        let config = VmConfig { image: Some(&image), ..self.guest.config() };
        let mut traveller = Traveller::boot(&lab, &config)?;
        let mut all = Measured::default();
        // Whoever goes first has the machine's memory touched for the first time, which on a
        // virtual machine costs more than the trip.
        traveller.go(AUTO)?;
        for round in 0..rounds {
            // Who begins changes, so that none always follows the same other.
            for turn in 0..MEANS.len() {
                let which = (round + turn) % MEANS.len();
                let taken = self.go(&mut traveller, MEANS[which])?;
                all[which].add(&taken);
            }
        }
        let floor = floor.map_or_else(|| Floor::of(traveller.vm()), Ok)?;
        eprintln!("  {}: memory that is not zero packs into {:.1} MiB", self.name, floor.mib());
        Ok((all, floor))
    }

    /// A trip that the guest outlives.
    fn go(&self, traveller: &mut Traveller<'_>, means: Means) -> Result<Taken, Failure> {
        for _ in 0..MOST_TRIES {
            if let Some(taken) = traveller.go(means)? {
                self.show(means, &taken);
                return Ok(taken);
            }
        }
        Err(format!("no guest outlives {means}").into())
    }

    /// The single trip, for whoever wants to know why.
    fn show(&self, means: Means, taken: &Taken) {
        let Taken { total_s, downtime_ms, own_downtime_ms, wire_mib, memory_mib, details, .. } =
            taken;
        let memory = memory_mib.map_or(String::new(), |mib| format!(", memory {mib:.0} MiB"));
        eprintln!(
            "  {}, {means}: {total_s:.2} s, down {downtime_ms:.0} ms (by its own count \
             {own_downtime_ms:.0}), {wire_mib:.1} MiB{memory} {details}",
            self.name
        );
    }

    fn report(&self, all: &Measured, floor: Floor, results: &mut Results) -> Result<(), Failure> {
        let Figures { total_s, downtime_ms, wire_mib, memory_mib } = all[cases::RELAY].clone();
        let mut add = |metric, unit, dwcp, (peer_name, peer): (&str, Samples), bound| {
            let (suite, case, wanted) = ("qemu", &*self.name, Wanted::AtMost(bound));
            results.add(Figure { suite, case, metric, unit, dwcp, peer_name, peer, wanted })
        };
        let wanted = cases::wanted(self.guest, self.link);
        let least_s = floor.seconds(self.link);
        add("total_s", "s", total_s.clone(), best(all, |of| &of.total_s), wanted.total)?;
        add("downtime_ms", "ms", downtime_ms, best(all, |of| &of.downtime_ms), wanted.downtime)?;
        let wire_peer = match wanted.wire_peer {
            WirePeer::Best => best(all, |of| &of.wire_mib),
            WirePeer::Means(which) => (MEANS[which].name(), all[which].wire_mib.clone()),
            WirePeer::Ram => ("RAM", Samples::from(f64::from(self.guest.memory_mib))),
        };
        add("wire_mib", "MiB", wire_mib, wire_peer, wanted.wire)?;
        let ram = ("RAM", Samples::from(f64::from(self.guest.memory_mib)));
        add("memory_mib", "MiB", memory_mib, ram, MEMORY_SHARE)?;
        match (least_s, wanted.total_to_floor) {
            (Some(least_s), Some(bound)) => {
                add("total_to_floor", "s", total_s, ("zstd 3 of RAM", least_s.into()), bound)
            }
            _ => Ok(()),
        }
    }
}

impl Figures {
    fn add(&mut self, taken: &Taken) {
        self.total_s.push(taken.total_s);
        self.downtime_ms.push(taken.downtime_ms);
        self.wire_mib.push(taken.wire_mib);
        taken.memory_mib.into_iter().for_each(|mib| self.memory_mib.push(mib));
    }
}

/// The best of QEMU's own modes in one of the figures.
fn best(all: &Measured, of: fn(&Figures) -> &Samples) -> (&'static str, Samples) {
    let peers = MEANS.iter().zip(all).filter(|(means, _)| **means != AUTO);
    let medians = peers.map(|(means, figures)| (means.name(), of(figures).clone()));
    let best = medians.min_by(|(_, one), (_, other)| one.median().total_cmp(&other.median()));
    best.unwrap_or_default()
}

/// What can be measured.
const PARTS: [&str; 4] = [TURNS, RETURNS, SELECTOR, SWITCH];
const TURNS: &str = "turns";
const RETURNS: &str = "returns";
const SELECTOR: &str = "selector";
const SWITCH: &str = "switch";
/// What a node may take of its guest's memory.
const MEMORY_SHARE: f64 = 0.25;
/// Rounds beyond this would take longer than they teach.
const MOST_ROUNDS: usize = 3;
const MOST_TRIES: usize = 3;

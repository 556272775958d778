//! Modes: what a table of a thousand idle peers takes in memory and of a core.

use crate::results::{Figure, Results, Wanted};
use crate::samples::Samples;
use crate::{Failure, Plan};
use dwcp::base::Time;
use dwcp::transport::{ModePolicy, ModeTable};

/// Runs both cases in turns: a table is filled, and then left to its peers' probes.
pub fn run(plan: &Plan, results: &mut Results) -> Result<(), Failure> {
    let (mut memory, mut cores) = (Samples::default(), Samples::default());
    for _ in 0..plan.rounds {
        let before = resident_bytes()?;
        let mut table = ModeTable::new(ModePolicy::default());
        for peer in 0..PEERS {
            table.add(format!("node-{peer}.example.org:4040"), Time(0))?;
        }
        idle(&mut table, Time(0), Time(SETTLE_US));
        let busy_ns = busy_ns()?;
        idle(&mut table, Time(SETTLE_US), Time(SETTLE_US + IDLE_US));
        let spent_us = (self::busy_ns()? - busy_ns) as f64 / 1e3;
        cores.push(100.0 * spent_us / IDLE_US as f64);
        // The second round and later ones find the memory of the first.
        let by_size = table.footprint_bytes() as u64;
        memory.push(resident_bytes()?.saturating_sub(before).max(by_size) as f64 / MIB);
    }
    for (metric, unit, dwcp, target) in
        [("memory", "MiB", memory, 32.0), ("share of a core", "%", cores, 2.0)]
    {
        results.add(Figure {
            suite: "modes",
            case: "1,000 idle peers",
            metric,
            unit,
            dwcp,
            peer_name: "target",
            peer: Samples::from(target),
            wanted: Wanted::AtMost(1.0),
        })?;
    }
    Ok(())
}

/// Lets virtual time pass; every probe is answered after a third of a millisecond.
fn idle(table: &mut ModeTable<String>, from: Time, until: Time) {
    let (mut now, mut number) = (from, from.0);
    while let Some(deadline) = table.next_deadline().filter(|deadline| *deadline < until) {
        now = now.max(deadline);
        while let Some(peer) = table.next_probe(number, now) {
            table.on_answer(&peer, number, Time(now.0 + 333));
            number += 1;
        }
    }
}

fn resident_bytes() -> Result<u64, Failure> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm.split(' ').nth(1).ok_or("statm without a second field")?.parse()?;
    Ok(pages * 4096)
}

/// Time that this thread has been running.
fn busy_ns() -> Result<u64, Failure> {
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(schedstat.split(' ').next().ok_or("schedstat is empty")?.parse()?)
}

const PEERS: u32 = 1_000;
/// New peers are probed briskly at first.
const SETTLE_US: u64 = 20_000_000;
const IDLE_US: u64 = 600_000_000;
const MIB: f64 = (1 << 20) as f64;

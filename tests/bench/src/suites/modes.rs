//! Modes: what a thousand idle peers take in memory and of a core: the table alone, on a virtual clock,
//! and a node that really probes them.

use crate::pair::Side;
use crate::results::{Figure, Results, Wanted};
use crate::samples::Samples;
use crate::{Failure, Plan};
use dwcp::base::Time;
use dwcp::transport::{ModePolicy, ModeTable};
use dwcp_netlab::Lab;

/// Runs both cases.
pub fn run(plan: &Plan, results: &mut Results) -> Result<(), Failure> {
    table(plan, results)?;
    node(plan, results)
}

/// A node of its own process, and others that answer it.
fn node(plan: &Plan, results: &mut Results) -> Result<(), Failure> {
    let lab = Lab::veth()?;
    let (mut memory, mut cores) = (Samples::default(), Samples::default());
    for _ in 0..plan.rounds.min(3) {
        let mut command = lab.a().command(std::env::current_exe()?);
        command.args(["answers", "--nodes", "8"]);
        let mut answering = Side::start(lab.a(), command)?;
        let ports = answering.line()?["ports"].as_array().cloned().ok_or("no ports")?;
        let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
        let mut command = lab.a().command(std::env::current_exe()?);
        command.args(["idle", "--peers", &PEERS.to_string(), "--ports", &ports.join(",")]);
        command.args(["--settle-s", NODE_SETTLE_S, "--seconds", NODE_IDLE_S]);
        let told = Side::start(lab.a(), command)?.line()?;
        let number = |key: &str| told[key].as_f64().ok_or_else(|| format!("no {key} in {told}"));
        if number("heard")? < f64::from(PEERS) {
            return Err(format!("not all peers answer: {told}").into());
        }
        memory.push(number("bytes")? / MIB);
        cores.push(100.0 * number("cores")?);
    }
    add("1,000 idle peers, probed", memory, cores, results)
}

/// A table is filled, and then left to its peers' probes.
fn table(plan: &Plan, results: &mut Results) -> Result<(), Failure> {
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
    add("1,000 idle peers, table", memory, cores, results)
}

fn add(case: &str, memory: Samples, cores: Samples, results: &mut Results) -> Result<(), Failure> {
    for (metric, unit, dwcp, target) in
        [("memory", "MiB", memory, 32.0), ("share of a core", "%", cores, 2.0)]
    {
        results.add(Figure {
            suite: "modes",
            case,
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
/// Of the node, which runs on the real clock.
const NODE_SETTLE_S: &str = "30";
const NODE_IDLE_S: &str = "30";
/// New peers are probed briskly at first.
const SETTLE_US: u64 = 20_000_000;
const IDLE_US: u64 = 600_000_000;
const MIB: f64 = (1 << 20) as f64;

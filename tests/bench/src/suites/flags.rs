//! What a decision about a feature flag costs: of a unit that is kept, and of one from two names.

use crate::results::{Figure, Results, Wanted};
use crate::samples::Samples;
use crate::{Failure, Plan};
use dwcp::rollout::{Flag, FlagRule, FlagSet, Percent, PreparedUnit, Snapshot, Unit};
use dwcp::{Node, NodeOptions, SecurityOptions};
use std::hint::black_box;
use std::time::Instant;

/// Calls that are timed together; the quickest of several such portions counts, because whatever else
/// the machine does only adds.
const CALLS: usize = 1_000_000;
const PORTIONS: usize = 10;
const UNITS: usize = 64;
const TARGET_NS: f64 = 20.0;
const NOW_S: u64 = 1_800_000_000;

/// Half of the units are in; the lists, where there are some, name others.
pub fn run(plan: &Plan, results: &mut Results) -> Result<(), Failure> {
    let names: Vec<_> = (0..UNITS).map(|node| format!("compute-{node:03}.example.org")).collect();
    let unit = |node: &String| PreparedUnit::from(Unit::pair(&names[0], node));
    let kept: Vec<PreparedUnit> = names.iter().map(unit).collect();
    for (case, listed) in [("no lists", 0), ("lists of 100", 100)] {
        let snapshot = snapshot(listed);
        let (mut held, mut whole) = (Samples::default(), Samples::default());
        for _ in 0..plan.rounds {
            held.push(cost_ns(|call| decide(&snapshot, &kept[call % UNITS].unit())));
            whole.push(cost_ns(|call| {
                let (one, other) = black_box((&names[0], &names[call % UNITS]));
                decide(&snapshot, &Unit::pair(one, other))
            }));
        }
        results.add(figure(case, "decision, unit kept", held))?;
        results.add(figure(case, "from two names", whole))?;
    }
    results.add(figure("a node", "decider", of_a_node(plan, &names)?))
}

/// What a node's own readers ask, again and again.
fn of_a_node(plan: &Plan, names: &[String]) -> Result<Samples, Failure> {
    let options = NodeOptions { security: SecurityOptions::Plain, ..NodeOptions::default() };
    let node = Node::start(options)?;
    let unit = |name: &String| node.decider(Flag::HybridMode, &format!("{}|{name}", names[0]));
    let deciders = names.iter().map(unit).collect::<Result<Vec<_>, _>>();
    let deciders = deciders?;
    let mut asked = Samples::default();
    for _ in 0..plan.rounds {
        asked.push(cost_ns(|call| black_box(&deciders[call % UNITS]).is_on()));
    }
    node.stop();
    Ok(asked)
}

fn snapshot(listed: usize) -> Snapshot {
    let list =
        |word: &str| (0..listed).map(|node| format!("{word}-{node:03}.example.org")).collect();
    let mut set = FlagSet::default();
    set.state_mut(Flag::HybridMode).rule = FlagRule {
        rollout_percent: Percent::whole(50),
        allow_list: list("canary"),
        deny_list: list("legacy"),
        ..FlagRule::on()
    };
    Snapshot::new(&set)
}

fn decide(snapshot: &Snapshot, unit: &Unit<'_>) -> bool {
    black_box(snapshot).decide(Flag::HybridMode, unit, true, black_box(NOW_S)).is_on
}

/// Nanoseconds of one call.
fn cost_ns(call: impl Fn(usize) -> bool) -> f64 {
    let portion = || {
        let start = Instant::now();
        black_box((0..CALLS).filter(|number| call(black_box(*number))).count());
        start.elapsed().as_secs_f64() * 1e9 / CALLS as f64
    };
    (0..PORTIONS).map(|_| portion()).fold(f64::INFINITY, f64::min)
}

fn figure<'a>(case: &'a str, metric: &'a str, dwcp: Samples) -> Figure<'a> {
    Figure {
        suite: "flags",
        case,
        metric,
        unit: "ns",
        dwcp,
        peer_name: "target",
        peer: Samples::from(TARGET_NS),
        wanted: Wanted::AtMost(1.0),
    }
}

//! Rollbacks by evidence: how rarely healthy rollouts are taken back, and how soon harm is.
//!
//! Whole rollouts on the simulated cluster, each from its own seed, all of them reproducible. Plain
//! thresholds on windows of 100 samples look at the same measurements.

mod plain;
mod trial;

use crate::results::{Figure, Results, Wanted};
use crate::samples::Samples;
use crate::{Failure, Plan};
use dwcp::rollout::simulator::{Effect, Reach, Scenario, play_watched};
use plain::{Plain, Trigger};
use std::sync::atomic::{AtomicU64, Ordering};
use trial::{Counted, Trial};

/// Healthy rollouts first, then harm of every kind.
pub fn run(plan: &Plan, results: &mut Results) -> Result<(), Failure> {
    for (case, error_rate) in [("A/A, 0.5 % errors", 0.5), ("A/A, 1 % errors", 1.0)] {
        healthy(plan, case, error_rate, results)?;
    }
    for trial in TRIALS {
        harm(plan, trial, results)?;
    }
    for (case, percent, effect) in OUTAGES {
        outage(plan, case, percent, effect, results)?;
    }
    Ok(())
}

/// Whether a rollout was taken back, and which plain thresholds fired.
type Played = (bool, [bool; 3]);

/// The guide's six weeks, with nothing wrong.
fn healthy(plan: &Plan, case: &str, error_rate: f64, results: &mut Results) -> Result<(), Failure> {
    let rollouts = each_seed(plan.rollouts, |seed| {
        let scenario = Scenario { seed, error_rate, ..Scenario::default() };
        let mut plain = Plain::new(&scenario.limits);
        let outcome = play_watched(&scenario, &mut |_, observation| plain.observe(observation));
        outcome.map(|outcome| (outcome.is_rolled_back(), plain.fired))
    });
    let rollouts: Vec<_> = rollouts.into_iter().collect::<Result<_, _>>()?;
    let share = |is_counted: &dyn Fn(&Played) -> bool| {
        let counted = rollouts.iter().filter(|rollout| is_counted(rollout)).count();
        100.0 * counted as f64 / rollouts.len().max(1) as f64
    };
    let ours = share(&|(is_back, _)| *is_back);
    let mut add = |metric, peer_name, peer, wanted| {
        let (dwcp, peer) = (Samples::from(ours), Samples::from(peer));
        results.add(Figure {
            suite: "rollout",
            case,
            metric,
            unit: "%",
            dwcp,
            peer_name,
            peer,
            wanted,
        })
    };
    add("false rollbacks", "allowed", 1.0, Wanted::AtMost(1.0))?;
    for (trigger, name) in Trigger::NAMES {
        let plain = share(&|(_, fired)| fired[trigger as usize]);
        add("false rollbacks", name, plain, Wanted::AtMost(1.0))?;
    }
    let any = share(&|(_, fired)| fired.contains(&true));
    add("false rollbacks", "plain, any", any, Wanted::AtMost(1.0))
}

/// How many samples harm takes until it is found.
fn harm(plan: &Plan, trial: Trial, results: &mut Results) -> Result<(), Failure> {
    let runs = plan.rollouts.min(trial.most_runs);
    let found = each_seed(runs, |seed| trial.run(seed).map_err(|error| error.to_string()));
    let mut found: Vec<f64> = found.into_iter().collect::<Result<_, _>>()?;
    found.sort_by(f64::total_cmp);
    let within = found.iter().filter(|samples| **samples <= trial.wanted).count();
    let share = 100.0 * within as f64 / found.len().max(1) as f64;
    let at = |percent: usize| found.get(found.len() * percent / 100).copied().unwrap_or(f64::NAN);
    let unit = match trial.counted {
        Counted::Seconds => "s",
        _ => "samples",
    };
    let mut add = |metric, unit, dwcp: f64, peer: f64, wanted| {
        let (dwcp, peer) = (Samples::from(dwcp), Samples::from(peer));
        let (case, peer_name) = (trial.case, "target");
        results.add(Figure { suite: "rollout", case, metric, unit, dwcp, peer_name, peer, wanted })
    };
    add("found in time", "%", share, 99.0, Wanted::AtLeast(1.0))?;
    add("found, median", unit, at(50), trial.wanted, Wanted::AtMost(1.0))?;
    add("found, 99 of 100", unit, at(99), trial.wanted, Wanted::AtMost(1.0))
}

/// Everybody suffers for a day; a flag that is taken back for it is taken back wrongly.
fn outage(
    plan: &Plan,
    case: &str,
    percent: u8,
    effect: Effect,
    results: &mut Results,
) -> Result<(), Failure> {
    let trial = Trial { reach: Reach::All, percent, effect, ..TRIALS[0] };
    let runs = plan.rollouts.min(400);
    let found = each_seed(runs, |seed| trial.run(seed).map_err(|error| error.to_string()));
    let found: Vec<f64> = found.into_iter().collect::<Result<_, _>>()?;
    let wrong = found.iter().filter(|samples| samples.is_finite()).count();
    results.add(Figure {
        suite: "rollout",
        case,
        metric: "false rollbacks",
        unit: "%",
        dwcp: Samples::from(100.0 * wrong as f64 / found.len().max(1) as f64),
        peer_name: "target",
        peer: Samples::from(5.0),
        wanted: Wanted::AtMost(1.0),
    })
}

/// Runs with the seeds from 1 on, on every processor.
fn each_seed<T: Send>(runs: u64, run: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let next = AtomicU64::new(1);
    let work = || {
        let mut done = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed > runs {
                return done;
            }
            done.push(run(seed));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap_or_default()).collect()
    })
}

const ERRORS: Effect = Effect::Errors { percent: 5.0 };
const LATENCY: Effect = Effect::Latency { increase_percent: 80.0 };
const THROUGHPUT: Effect = Effect::Throughput { ratio: 0.6 };

const TRIALS: [Trial; 9] = [
    Trial::new("errors to 5 %, at 10 %", 10, ERRORS, Counted::Requests, 500.0),
    Trial::new("errors to 5 %, at 50 %", 50, ERRORS, Counted::Requests, 500.0),
    Trial::new("errors to 5 %, at 100 %", 100, ERRORS, Counted::Requests, 500.0),
    Trial::new("errors to 5 %, late", 10, ERRORS, Counted::Requests, 1500.0).late(),
    Trial::new("latency +80 %, at 10 %", 10, LATENCY, Counted::Latencies, 2000.0),
    Trial::new("latency +80 %, at 50 %", 50, LATENCY, Counted::Latencies, 2000.0),
    Trial::new("throughput to 0.6, 10 %", 10, THROUGHPUT, Counted::Seconds, 60.0),
    Trial::new("throughput to 0.6, 50 %", 50, THROUGHPUT, Counted::Seconds, 60.0),
    Trial::new("latency +80 %, late", 10, LATENCY, Counted::Latencies, 2000.0).late(),
];

const OUTAGES: [(&str, u8, Effect); 6] = [
    ("outage, errors, at 10 %", 10, ERRORS),
    ("outage, errors, at 50 %", 50, ERRORS),
    ("outage, all, at 50 %", 50, Effect::Errors { percent: 50.0 }),
    ("outage, latency, 50 %", 50, LATENCY),
    ("outage, throughput, 50 %", 50, THROUGHPUT),
    ("outage, latency, 10 %", 10, LATENCY),
];

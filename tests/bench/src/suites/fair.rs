//! Eight migrations at a time: whether each gets the same, under a cap of the node's and without one.

use crate::results::{Figure, Results, Wanted};
use crate::samples::Samples;
use crate::stage::{self, Stage};
use crate::{Failure, Plan};
use dwcp::transport::PathOptions;
use dwcp_netlab::{Lab, LinkConfig};
use std::time::{Duration, Instant};

/// A link of 300 Mbit/s; under the cap it is never full.
pub fn run(plan: &Plan, results: &mut Results) -> Result<(), Failure> {
    let lab =
        Lab::emulated(LinkConfig::default().rate(300_000_000).rtt(Duration::from_millis(20)))?;
    let (mut capped, mut link, mut used) =
        (Samples::default(), Samples::default(), Samples::default());
    for _ in 0..plan.rounds.min(3) {
        let (unfair, rate) = measure(&lab, Some(CAP_BYTES_PER_S))?;
        capped.push(unfair);
        used.push(rate / CAP_BYTES_PER_S as f64);
        link.push(measure(&lab, None)?.0);
    }
    let figure = |case, metric, unit, dwcp, peer_name, peer: f64, wanted| Figure {
        suite: "fair",
        case,
        metric,
        unit,
        dwcp,
        peer_name,
        peer: Samples::from(peer),
        wanted,
    };
    let most = Wanted::AtMost(1.0);
    let case = "8 under 240 Mbit/s";
    results.add(figure(case, "farthest from even", "%", capped, "target", 10.0, most))?;
    let least = Wanted::AtLeast(0.95);
    results.add(figure(case, "use of the cap", "share", used, "cap", 1.0, least))?;
    let case = "8 on 300 Mbit/s, no cap";
    results.add(figure(case, "farthest from even", "%", link, "target", 10.0, most))
}

/// How far the worst is from the mean, in percent, and what all sent together, in bytes per second.
fn measure(lab: &Lab, cap: Option<u64>) -> Result<(f64, f64), Failure> {
    let mut stage = Stage::new(lab)?;
    let bandwidth_limit_bytes_per_s = cap;
    stage.near.set_paths(PathOptions { bandwidth_limit_bytes_per_s, ..PathOptions::default() })?;
    let migrations = stage.migrate(GUESTS, GUEST_BYTES, 4)?;
    stage::until_sent(&migrations, BEGUN_BYTES)?;
    let (before, start) = (stage::sent_bytes(&migrations), Instant::now());
    std::thread::sleep(MEASURED);
    let (after, took) = (stage::sent_bytes(&migrations), start.elapsed());
    stage.clear(&migrations)?;
    let parts: Vec<f64> =
        after.iter().zip(&before).map(|(after, before)| (after - before) as f64).collect();
    let sum: f64 = parts.iter().sum();
    let mean = sum / parts.len() as f64;
    let farthest = parts.iter().map(|part| (part / mean - 1.0).abs()).fold(0.0, f64::max);
    Ok((100.0 * farthest, sum / took.as_secs_f64()))
}

const CAP_BYTES_PER_S: u64 = 30_000_000;
const GUESTS: usize = 8;
const GUEST_BYTES: u64 = 128 << 20;
/// By then all have found their pace.
const BEGUN_BYTES: u64 = 8 << 20;
const MEASURED: Duration = Duration::from_secs(15);

//! A guest that goes on before its memory is there: how long it waits for a page, while everything else
//! comes in the background.

use crate::pair::{self, Job, Outcome};
use crate::results::{Figure, Results, Wanted};
use crate::samples::Samples;
use crate::{Failure, Plan};
use dwcp_netlab::{Lab, LinkConfig};
use serde_json::Value;
use std::time::Duration;

/// 1 GiB over 10 ms and 1 Gbit/s, switched in its first pass; four threads then read pages anywhere.
pub fn run(plan: &Plan, results: &mut Results) -> Result<(), Failure> {
    let lab = Lab::emulated(LinkConfig::default().rate(LINK_BITS_PER_S).rtt(ROUND_TRIP))?;
    let job = Job {
        guest_bytes: GUEST_BYTES,
        filled_bytes: GUEST_BYTES,
        streams: 8,
        dirty_bytes_per_s: 50 << 20,
        max_downtime_ms: 300,
        switch_after_ms: 3_000,
        readers: 4,
    };
    let (mut half, mut most) = (Samples::default(), Samples::default());
    let (mut rate, mut downtime) = (Samples::default(), Samples::default());
    for _ in 0..plan.rounds.min(3) {
        let outcome = pair::migrate(lab.a(), lab.b(), lab.b().ipv4().into(), job)?;
        half.push(figure_of(&outcome, "fault_p50_us")? / 1e3);
        most.push(figure_of(&outcome, "fault_p99_us")? / 1e3);
        let faults = figure_of(&outcome, "faults")?;
        if faults < LEAST_FAULTS {
            let text = "faults only, which say nothing about a hundredth";
            return Err(format!("{faults} {text}: {}", outcome.arrived).into());
        }
        rate.push(background_gbit_per_s(&outcome)?);
        downtime.push(outcome.number("downtime_ms")?);
    }
    let case = "10 ms 1 Gbit/s, 1 GiB";
    let allowed_ms = (ROUND_TRIP + ALLOWANCE).as_secs_f64() * 1e3;
    let link = LINK_BITS_PER_S as f64 / 1e9;
    for (metric, unit, dwcp, target, wanted) in [
        ("fault p50", "ms", half, allowed_ms, Wanted::AtMost(1.0)),
        ("fault p99", "ms", most, allowed_ms, Wanted::AtMost(1.0)),
        ("background", "Gbit/s", rate, link, Wanted::AtLeast(0.85)),
        ("downtime", "ms", downtime, DOWNTIME_MS, Wanted::AtMost(1.0)),
    ] {
        let (suite, peer_name, peer) = ("postcopy", "target", Samples::from(target));
        results.add(Figure { suite, case, metric, unit, dwcp, peer_name, peer, wanted })?;
    }
    Ok(())
}

/// A figure of post-copy, as the destination measured it.
fn figure_of(outcome: &Outcome, key: &str) -> Result<f64, Failure> {
    let value = outcome.arrived["post_copy"].get(key).and_then(Value::as_f64);
    value.ok_or_else(|| format!("no post_copy.{key} in report {}", outcome.arrived).into())
}

/// Missing memory over the time from the guest's start there to the last word.
fn background_gbit_per_s(outcome: &Outcome) -> Result<f64, Failure> {
    let took_ms = outcome.report["phases"]["post_copy"].as_f64().ok_or("no phase post_copy")?;
    Ok(figure_of(outcome, "missing_pages")? * 4096.0 * 8.0 / 1e6 / took_ms)
}

const GUEST_BYTES: u64 = 1 << 30;
const LINK_BITS_PER_S: u64 = 1_000_000_000;
const ROUND_TRIP: Duration = Duration::from_millis(10);
/// What a page may take beyond the round trip.
const ALLOWANCE: Duration = Duration::from_millis(2);
/// Four round trips: the last acknowledgement before the guest stands still, and the handover's one and
/// a half, with the device state and the map of missing pages.
const DOWNTIME_MS: f64 = 60.0;
const LEAST_FAULTS: f64 = 500.0;

//! A long path whose rate drops to a third and returns: how long until a migration knows, and how long
//! until it uses what there is.

use crate::results::{Figure, Results, Wanted};
use crate::samples::Samples;
use crate::stage::{self, Stage};
use crate::{Failure, Plan};
use dwcp::Migration;
use dwcp_netlab::{Direction, Lab, LinkConfig};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// 80 ms round trip, 300 and 100 Mbit/s.
pub fn run(plan: &Plan, results: &mut Results) -> Result<(), Failure> {
    let mut times = [Samples::default(), Samples::default(), Samples::default()];
    for _ in 0..plan.rounds.min(3) {
        let link = LinkConfig::default().rate(RATE_BITS_PER_S).rtt(Duration::from_millis(80));
        let lab = Lab::emulated(link)?;
        let mut stage = Stage::new(&lab)?;
        let migrations = stage.migrate(1, GUEST_BYTES, 8)?;
        stage::until_sent(&migrations, BEGUN_BYTES)?;
        std::thread::sleep(SETTLE);
        lab.set_rate(Some(RATE_BITS_PER_S / 3));
        let knows = |rate_bits_per_s| move |seen: &Seen| close(seen.estimate, rate_bits_per_s);
        times[0].push(watch(&lab, &migrations[0], knows(RATE_BITS_PER_S / 3))?);
        lab.set_rate(Some(RATE_BITS_PER_S));
        let uses = |seen: &Seen| seen.delivered >= 0.9 * RATE_BITS_PER_S as f64 / 8.0;
        times[1].push(watch(&lab, &migrations[0], uses)?);
        // What has passed since the return counts for the estimate, too.
        let used = *times[1].last().ok_or("nothing measured")?;
        let known = watch(&lab, &migrations[0], knows(RATE_BITS_PER_S))?;
        times[2].push(used + known - SETTLE.as_secs_f64());
        stage.clear(&migrations)?;
    }
    let metrics = ["a third: known after", "all again: used after", "all again: known after"];
    for (metric, dwcp) in metrics.into_iter().zip(times) {
        results.add(Figure {
            suite: "relearn",
            case: "80 ms, 300 to 100 Mbit/s",
            metric,
            unit: "s",
            dwcp,
            peer_name: "target",
            peer: Samples::from(3.0),
            wanted: Wanted::AtMost(1.0),
        })?;
    }
    Ok(())
}

/// What the link and the migration show at one moment.
struct Seen {
    /// IP bytes that the link delivered lately, in bytes per second.
    delivered: f64,
    /// What the migration takes the link to carry, in bytes of payload per second.
    estimate: f64,
}

/// Seconds until it is so; then it is left alone for some time.
fn watch(lab: &Lab, migration: &Migration, holds: impl Fn(&Seen) -> bool) -> Result<f64, Failure> {
    let (start, mut taken) = (Instant::now(), None);
    let mut delivered: VecDeque<(Instant, u64)> = VecDeque::new();
    loop {
        if let Some(report) = migration.report() {
            return Err(format!("the migration ended early: {}", report.reason).into());
        }
        let bytes = lab.stats(Direction::AToB).delivered_bytes;
        delivered.push_back((Instant::now(), bytes));
        while delivered.len() > WINDOW_SAMPLES {
            delivered.pop_front();
        }
        let (since, before) = delivered[0];
        let took = since.elapsed().as_secs_f64().max(1e-3);
        let full = delivered.len() == WINDOW_SAMPLES;
        let seen = Seen {
            delivered: if full { (bytes - before) as f64 / took } else { 0.0 },
            estimate: migration.progress().bandwidth_bytes_per_s as f64,
        };
        if taken.is_none() && holds(&seen) {
            taken = Some(start.elapsed());
        }
        if let Some(taken) = taken.filter(|taken| start.elapsed() > *taken + SETTLE) {
            return Ok(taken.as_secs_f64());
        }
        if start.elapsed() > LONGEST {
            return Ok(LONGEST.as_secs_f64());
        }
        std::thread::sleep(SAMPLE);
    }
}

/// Whether an estimate is within a tenth of what the link carries of payload.
fn close(estimate: f64, rate_bits_per_s: u64) -> bool {
    let payload = rate_bits_per_s as f64 / 8.0 * PAYLOAD_SHARE;
    (estimate / payload - 1.0).abs() <= 0.1
}

const RATE_BITS_PER_S: u64 = 300_000_000;
/// Of 1500 bytes on the wire.
const PAYLOAD_SHARE: f64 = 1448.0 / 1500.0;
const GUEST_BYTES: u64 = 1 << 30;
const BEGUN_BYTES: u64 = 64 << 20;
const SETTLE: Duration = Duration::from_secs(3);
const SAMPLE: Duration = Duration::from_millis(20);
/// The delivered rate is that of 400 ms.
const WINDOW_SAMPLES: usize = 20;
const LONGEST: Duration = Duration::from_secs(20);

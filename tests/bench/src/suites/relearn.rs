//! A long path whose rate drops to a third and returns: how long until a migration knows, and how long
//! until it uses what there is. All times are from the change of the rate.

use crate::results::{Figure, Results, Wanted};
use crate::samples::Samples;
use crate::stage::{self, Stage};
use crate::{Failure, Plan};
use dwcp::Migration;
use dwcp_netlab::{Lab, LinkConfig};
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
        let third = |seen: &Seen, but| knows(seen, RATE_BITS_PER_S / 3, but);
        let [known] = watch(&stage, &migrations[0], [&third])?;
        times[0].push(known);
        std::thread::sleep(SETTLE);
        lab.set_rate(Some(RATE_BITS_PER_S));
        let all = |seen: &Seen, but| knows(seen, RATE_BITS_PER_S, but);
        let both: [Condition<'_>; 2] = [&uses_all, &all];
        let [used, known] = watch(&stage, &migrations[0], both)?;
        times[1].push(used);
        times[2].push(known);
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

/// What some time of a migration showed, in bytes of payload per second.
#[derive(Clone, Copy)]
struct Seen {
    /// What arrived at the other node.
    goodput: f64,
    /// What the migration takes the link to carry, in the mean.
    estimate: f64,
}

/// A moment: when, bytes that have arrived by then, and the estimate.
type Sample = (Duration, u64, f64);

/// The samples of the latest second.
#[derive(Default)]
struct Window(VecDeque<Sample>);

/// Whether what was seen is right, but for such a part.
type Condition<'a> = &'a dyn Fn(&Seen, f64) -> bool;

/// Seconds from now until the first second in which each condition holds.
fn watch<const N: usize>(
    stage: &Stage,
    migration: &Migration,
    conditions: [Condition<'_>; N],
) -> Result<[f64; N], Failure> {
    let start = Instant::now();
    let mut since = [None; N];
    let mut window = Window::default();
    while since.iter().any(Option::is_none) && start.elapsed() < LONGEST {
        if let Some(report) = migration.report() {
            return Err(format!("the migration ended early: {}", report.reason).into());
        }
        let (now, arrived) = (start.elapsed(), stage.arrived_bytes(migration)?);
        window.take((now, arrived, migration.progress().bandwidth_bytes_per_s as f64));
        for (since, condition) in since.iter_mut().zip(conditions) {
            *since = since.or_else(|| window.since_when(condition));
        }
        std::thread::sleep(SAMPLE);
    }
    // What has not come to hold by now has taken as long as this at least.
    Ok(since.map(|since| since.unwrap_or(LONGEST).as_secs_f64()))
}

impl Window {
    fn take(&mut self, sample: Sample) {
        self.0.push_back(sample);
        // One that is older than a second stays, so that a whole second is seen.
        while self.0.get(1).is_some_and(|second| sample.0 - second.0 >= SECOND) {
            self.0.pop_front();
        }
    }

    /// When this second began, if the condition holds in it: in the whole of it, and less exactly in
    /// either half, so that what is too much here does not make up for what lacks there.
    fn since_when(&self, condition: Condition<'_>) -> Option<Duration> {
        let samples: Vec<Sample> = self.0.iter().copied().collect();
        let (first, last) = (samples.first()?, samples.last()?);
        let (one, other) = samples.split_at(samples.len() / 2);
        // Both halves have the sample between them.
        let one = [one, other.get(..1)?].concat();
        let holds = last.0 - first.0 >= SECOND
            && condition(&seen(&samples), EXACT)
            && condition(&seen(&one), ROUGH)
            && condition(&seen(other), ROUGH);
        holds.then_some(first.0)
    }
}

fn seen(samples: &[Sample]) -> Seen {
    let (first, last) = (samples[0], samples[samples.len() - 1]);
    let estimates: f64 = samples.iter().map(|(.., estimate)| estimate).sum();
    Seen {
        goodput: (last.1 - first.1) as f64 / (last.0 - first.0).as_secs_f64(),
        estimate: estimates / samples.len() as f64,
    }
}

/// Whether what the link carries of payload is used, but for a part.
fn uses_all(seen: &Seen, but: f64) -> bool {
    seen.goodput >= (1.0 - but) * payload(RATE_BITS_PER_S)
}

/// Whether an estimate is what the link carries of payload, but for a part.
fn knows(seen: &Seen, rate_bits_per_s: u64, but: f64) -> bool {
    (seen.estimate / payload(rate_bits_per_s) - 1.0).abs() <= but
}

fn payload(rate_bits_per_s: u64) -> f64 {
    rate_bits_per_s as f64 / 8.0 * PAYLOAD_SHARE
}

const RATE_BITS_PER_S: u64 = 300_000_000;
/// Of 1500 bytes on the wire.
const PAYLOAD_SHARE: f64 = 1448.0 / 1500.0;
const GUEST_BYTES: u64 = 1 << 30;
const BEGUN_BYTES: u64 = 64 << 20;
/// The path is left alone for so long before it changes.
const SETTLE: Duration = Duration::from_secs(3);
const SAMPLE: Duration = Duration::from_millis(20);
/// What arrives comes in bursts of some hundred milliseconds: TCP gives nothing of a stream while a lost packet
/// of it is on its way again. So a second is looked at.
const SECOND: Duration = Duration::from_secs(1);
/// The parts that may lack, or be too much, in a second and in half of one.
const EXACT: f64 = 0.1;
const ROUGH: f64 = 0.2;
/// So that there is guest left to send, whatever the path does.
const LONGEST: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;

    /// When the first second begins in which all is used, of a path that carries so many bytes at a time.
    fn used_since(carries: impl Fn(u64) -> f64) -> Option<Duration> {
        let (mut window, mut arrived) = (Window::default(), 0.0);
        (0..400).find_map(|sample| {
            let at = SAMPLE * sample as u32;
            arrived += carries(sample * 20) * SAMPLE.as_secs_f64();
            window.take((at, arrived as u64, 0.0));
            window.since_when(&uses_all)
        })
    }

    #[test]
    fn a_second_counts_from_its_beginning_and_only_if_it_is_good_throughout() {
        let all = payload(RATE_BITS_PER_S);
        let third = all / 3.0;
        let late = used_since(|ms| if ms >= 1_500 { all } else { third }).unwrap();
        // A tenth may lack, which is some samples of a third.
        assert!((1_300..=1_500).contains(&late.as_millis()), "{late:?}");
        assert_eq!(used_since(|ms| if ms < 700 { all } else { third }), None);
        let bursts = used_since(|ms| if ms % 200 < 100 { all * 2.0 } else { 0.0 });
        assert!(bursts.is_some_and(|since| since.as_millis() < 100), "{bursts:?}");
        assert_eq!(used_since(|ms| if ms < 500 { all * 1.8 } else { third }), None);
    }

    #[test]
    fn an_estimate_that_is_high_and_then_low_is_not_right_in_the_mean() {
        let mut window = Window::default();
        let right = payload(RATE_BITS_PER_S);
        let all = |seen: &Seen, but| knows(seen, RATE_BITS_PER_S, but);
        for sample in 0..60_u32 {
            let estimate = if sample < 30 { right * 1.5 } else { right * 0.5 };
            window.take((SAMPLE * sample, 0, estimate));
            assert_eq!(window.since_when(&all), None, "{sample}");
        }
        for sample in 60..112 {
            window.take((SAMPLE * sample, 0, right * 0.95));
        }
        assert!(window.since_when(&all).is_some());
    }

    #[test]
    fn a_slow_link_is_neither_used_nor_known_to_be_fast() {
        let third = Seen { goodput: 12e6, estimate: 12e6 };
        assert!(!uses_all(&third, EXACT) && !knows(&third, RATE_BITS_PER_S, EXACT));
        assert!(knows(&third, RATE_BITS_PER_S / 3, EXACT));
        assert!(uses_all(&Seen { goodput: 33e6, estimate: 12e6 }, EXACT));
    }
}

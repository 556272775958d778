//! Which mode the figures of a path speak for.
//!
//! The thresholds overlap once an operator moves them (a path of 7 ms is both long and short where
//! 5 ms is long), so the order of the questions decides:
//!
//! 1. Without a round trip there is no verdict.
//! 2. **internet**, if the round trip or its jitter is above its threshold, or the path is measured to
//!    be slower than fast. A rate that is only a floor does not make a path slow.
//! 3. **datacenter**, if the round trip is below its threshold, little is lost, and the path is known
//!    to be fast; where nothing is known of its rate, RDMA that reaches the peer will do.
//! 4. **hybrid** otherwise.
//!
//! A mode in force is left only a fifth beyond the threshold by which it was entered, so figures
//! that hover around one do not count as changes. Hybrid lies between the others and lends them its
//! room, except for the rate: a gigabit line just reaches its threshold, so there the room is below it.

use super::estimate::PathFigures;
use super::kind::Mode;
use super::policy::Thresholds;
use super::sample::Reachability;
use super::transition::{Figure, Ground, Relation};

/// The mode that the figures speak for, given the one in force.
pub fn judge(figures: &PathFigures, thresholds: &Thresholds, in_force: Mode) -> Option<Mode> {
    let bounds = Bounds::new(thresholds, in_force);
    let rtt_us = figures.rtt_us?;
    if bounds.internet_grounds(figures).next().is_some() {
        return Some(Mode::Internet);
    }
    let is_lossless = figures.loss_ppm.is_none_or(|loss_ppm| loss_ppm <= bounds.loss_ppm);
    match rtt_us < bounds.datacenter_rtt_us && bounds.is_fast(figures) && is_lossless {
        true => Some(Mode::Datacenter),
        false => Some(Mode::Hybrid),
    }
}

/// The figures and thresholds by which [`judge`] came to `verdict`.
pub fn grounds(
    figures: &PathFigures,
    thresholds: &Thresholds,
    in_force: Mode,
    verdict: Mode,
) -> Vec<Ground> {
    let bounds = Bounds::new(thresholds, in_force);
    match verdict {
        Mode::Internet => bounds.internet_grounds(figures).collect(),
        Mode::Datacenter => bounds.datacenter_grounds(figures).flatten().collect(),
        Mode::Hybrid => bounds.hybrid_grounds(figures, in_force),
        Mode::V1Compat => Vec::new(),
    }
}

/// The thresholds as they are for the mode in force.
struct Bounds {
    datacenter_rtt_us: u32,
    internet_rtt_us: u32,
    jitter_us: u32,
    /// Slower is the internet's.
    slow: u64,
    /// As fast as this may be a datacenter's.
    fast: u64,
    loss_ppm: u32,
}

impl Bounds {
    fn new(thresholds: &Thresholds, in_force: Mode) -> Self {
        let within = |mode| in_force == mode;
        let more = |bound: u32, wider| if wider { bound.saturating_add(bound / 5) } else { bound };
        let less = |bound: u32, wider| if wider { bound - bound / 5 } else { bound };
        let fast = thresholds.fast_rate_bytes_per_s;
        let less_fast = fast - fast / 5;
        Self {
            datacenter_rtt_us: more(thresholds.datacenter_rtt_us, within(Mode::Datacenter)),
            internet_rtt_us: less(thresholds.internet_rtt_us, within(Mode::Internet)),
            jitter_us: less(thresholds.internet_jitter_us, within(Mode::Internet)),
            slow: if within(Mode::Internet) { fast } else { less_fast },
            fast: if within(Mode::Datacenter) { less_fast } else { fast },
            loss_ppm: more(thresholds.datacenter_loss_ppm, within(Mode::Datacenter)),
        }
    }

    fn is_fast(&self, figures: &PathFigures) -> bool {
        match figures.rate_bytes_per_s {
            Some(rate) if rate >= self.fast => true,
            Some(_) if !figures.rate_is_floor => false,
            _ => figures.rdma == Reachability::Reachable,
        }
    }

    fn internet_grounds(&self, figures: &PathFigures) -> impl Iterator<Item = Ground> {
        let rate = figures.rate_bytes_per_s.filter(|_| !figures.rate_is_floor);
        [
            above(Figure::RttUs, figures.rtt_us.map(u64::from), self.internet_rtt_us.into()),
            above(Figure::JitterUs, figures.jitter_us.map(u64::from), self.jitter_us.into()),
            below(Figure::RateBytesPerS, rate, self.slow),
        ]
        .into_iter()
        .flatten()
    }

    fn datacenter_grounds(&self, figures: &PathFigures) -> impl Iterator<Item = Option<Ground>> {
        let rtt_us = figures.rtt_us.map(u64::from);
        let fast = at_least(Figure::RateBytesPerS, figures.rate_bytes_per_s, self.fast);
        let by_rdma =
            || Some(Ground { figure: Figure::Rdma, found: 1, is: Relation::AtLeast, bound: 1 });
        let short = below(Figure::RttUs, rtt_us, self.datacenter_rtt_us.into());
        [short, fast.or_else(by_rdma)].into_iter()
    }

    /// Why the path is none of the two: what it has left, or what keeps it out of a datacenter.
    fn hybrid_grounds(&self, figures: &PathFigures, in_force: Mode) -> Vec<Ground> {
        let rtt_us = figures.rtt_us.map(u64::from);
        if in_force == Mode::Internet {
            let jitter_us = figures.jitter_us.map(u64::from);
            let no_longer = [
                at_most(Figure::RttUs, rtt_us, self.internet_rtt_us.into()),
                at_most(Figure::JitterUs, jitter_us, self.jitter_us.into()),
                at_least(Figure::RateBytesPerS, figures.rate_bytes_per_s, self.slow),
            ];
            return no_longer.into_iter().flatten().collect();
        }
        let loss_ppm = figures.loss_ppm.map(u64::from);
        let rate = figures.rate_bytes_per_s.filter(|_| !figures.rate_is_floor);
        let is_unknown = rate.is_none() && !self.is_fast(figures);
        let no_rdma = Ground { figure: Figure::Rdma, found: 0, is: Relation::Below, bound: 1 };
        let keeping_out = [
            at_least(Figure::RttUs, rtt_us, self.datacenter_rtt_us.into()),
            above(Figure::LossPpm, loss_ppm, self.loss_ppm.into()),
            below(Figure::RateBytesPerS, rate, self.fast),
            is_unknown.then_some(no_rdma),
        ];
        keeping_out.into_iter().flatten().collect()
    }
}

fn above(figure: Figure, found: Option<u64>, bound: u64) -> Option<Ground> {
    let found = found.filter(|found| *found > bound)?;
    Some(Ground { figure, found, is: Relation::Above, bound })
}

fn at_least(figure: Figure, found: Option<u64>, bound: u64) -> Option<Ground> {
    let found = found.filter(|found| *found >= bound)?;
    Some(Ground { figure, found, is: Relation::AtLeast, bound })
}

fn at_most(figure: Figure, found: Option<u64>, bound: u64) -> Option<Ground> {
    let found = found.filter(|found| *found <= bound)?;
    Some(Ground { figure, found, is: Relation::AtMost, bound })
}

fn below(figure: Figure, found: Option<u64>, bound: u64) -> Option<Ground> {
    let found = found.filter(|found| *found < bound)?;
    Some(Ground { figure, found, is: Relation::Below, bound })
}

#[cfg(test)]
mod tests {
    use super::*;
    use Mode::{Datacenter, Hybrid, Internet};

    const GIGABIT: u64 = 112_500_000;

    fn path(rtt_us: u32, rate: u64) -> PathFigures {
        let rate_bytes_per_s = Some(rate);
        PathFigures { rtt_us: Some(rtt_us), rate_bytes_per_s, ..PathFigures::default() }
    }

    fn verdict(figures: PathFigures, in_force: Mode) -> Mode {
        judge(&figures, &Thresholds::default(), in_force).unwrap()
    }

    #[test]
    fn the_thresholds_are_exact_from_hybrid() {
        let cases = [
            (9_999, GIGABIT, Datacenter),
            (10_000, GIGABIT, Hybrid),
            (50_000, GIGABIT, Hybrid),
            (50_001, GIGABIT, Internet),
            (9_999, GIGABIT - 1, Hybrid),
            (9_999, GIGABIT / 10, Internet),
            (200_000, 100 * GIGABIT, Internet),
        ];
        for (rtt_us, rate, expected) in cases {
            assert_eq!(verdict(path(rtt_us, rate), Hybrid), expected, "{rtt_us} {rate}");
        }
    }

    #[test]
    fn a_mode_in_force_is_left_a_fifth_later() {
        assert_eq!(verdict(path(11_999, GIGABIT), Datacenter), Datacenter);
        assert_eq!(verdict(path(12_000, GIGABIT), Datacenter), Hybrid);
        assert_eq!(verdict(path(1_000, GIGABIT * 4 / 5), Datacenter), Datacenter);
        assert_eq!(verdict(path(1_000, GIGABIT * 4 / 5 - 1), Datacenter), Internet);
        assert_eq!(verdict(path(40_001, GIGABIT), Internet), Internet);
        assert_eq!(verdict(path(40_000, GIGABIT), Internet), Hybrid);
        assert_eq!(verdict(path(20_000, GIGABIT - 1), Internet), Internet);
        assert_eq!(verdict(path(20_000, GIGABIT * 4 / 5), Hybrid), Hybrid);
    }

    #[test]
    fn a_gigabit_network_finds_back_from_internet_to_datacenter() {
        let payload = 941_000_000 / 8;
        assert_eq!(verdict(path(300, payload), Internet), Datacenter);
    }

    #[test]
    fn where_thresholds_overlap_the_longer_path_wins() {
        let thresholds = Thresholds { internet_rtt_us: 5_000, ..Thresholds::default() };
        for in_force in [Datacenter, Hybrid, Internet] {
            let verdict = judge(&path(7_000, GIGABIT), &thresholds, in_force);
            assert_eq!(verdict, Some(Internet), "{in_force}");
        }
    }

    #[test]
    fn a_floor_proves_speed_and_never_slowness() {
        let floor = |rate| PathFigures { rate_is_floor: true, ..path(1_000, rate) };
        assert_eq!(verdict(floor(1_000), Hybrid), Hybrid);
        assert_eq!(verdict(floor(GIGABIT), Hybrid), Datacenter);
    }

    #[test]
    fn rdma_stands_in_for_an_unknown_rate_and_not_for_a_low_one() {
        let rdma = Reachability::Reachable;
        let unknown = PathFigures { rate_bytes_per_s: None, rdma, ..path(1_000, 0) };
        assert_eq!(verdict(unknown, Hybrid), Datacenter);
        assert_eq!(verdict(PathFigures { rdma, ..path(1_000, GIGABIT / 2) }, Hybrid), Internet);
        assert_eq!(verdict(PathFigures { rdma, ..path(1_000, GIGABIT - 1) }, Hybrid), Hybrid);
    }

    #[test]
    fn jitter_means_internet_and_loss_no_datacenter() {
        let jittery = PathFigures { jitter_us: Some(10_001), ..path(1_000, GIGABIT) };
        assert_eq!(verdict(jittery, Hybrid), Internet);
        let lossy = PathFigures { loss_ppm: Some(20_001), ..path(1_000, GIGABIT) };
        assert_eq!(verdict(lossy, Hybrid), Hybrid);
        assert_eq!(verdict(lossy, Datacenter), Datacenter);
        assert_eq!(judge(&PathFigures::default(), &Thresholds::default(), Hybrid), None);
    }

    #[test]
    fn every_verdict_has_grounds_that_hold() {
        let mut random = fastrand::Rng::with_seed(11);
        for _ in 0..100_000 {
            let maybe =
                |random: &mut fastrand::Rng, most: u32| random.bool().then(|| random.u32(..most));
            let figures = PathFigures {
                rtt_us: Some(random.u32(1..100_000)),
                min_rtt_us: None,
                jitter_us: maybe(&mut random, 20_000),
                loss_ppm: maybe(&mut random, 50_000),
                rate_bytes_per_s: random.bool().then(|| random.u64(..2 * GIGABIT)),
                rate_is_floor: random.bool(),
                rdma: if random.bool() { Reachability::Reachable } else { Reachability::Unknown },
            };
            let thresholds =
                Thresholds { internet_rtt_us: random.u32(..100_000), ..Thresholds::default() };
            for in_force in [Datacenter, Hybrid, Internet] {
                let verdict = judge(&figures, &thresholds, in_force).unwrap();
                let grounds = grounds(&figures, &thresholds, in_force, verdict);
                assert!(!grounds.is_empty(), "{in_force} to {verdict}: {figures:?}");
                assert!(grounds.iter().all(Ground::holds), "{grounds:?}");
            }
        }
    }
}

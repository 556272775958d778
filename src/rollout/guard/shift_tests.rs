//! Latency and throughput against chance, by seeds that stay the same.

use super::*;
use dwcp_netlab::shaper::SplitMix;

/// Some units whose values are log-normal around levels of their own.
struct Cluster {
    random: SplitMix,
    levels: Vec<f64>,
    treated: usize,
    spread: f64,
    at_us: u64,
}

impl Cluster {
    fn new(units: usize, treated: usize, spread: f64, seed: u64) -> Self {
        let mut random = SplitMix(seed);
        let levels = (0..units).map(|_| 8.0 + 4.0 * random.next_unit()).collect();
        Self { random, levels, treated, spread, at_us: 0 }
    }

    /// One value of one unit, after some time.
    fn sample(&mut self, guard: &mut ShiftGuard, unit: usize, factor: f64, control_factor: f64) {
        let is_treated = unit < self.treated;
        let factor = if is_treated { factor } else { control_factor };
        let value = (self.levels[unit] + self.spread * self.normal()).exp() * factor;
        let arm = if is_treated { Arm::Treated } else { Arm::Control };
        let is_alone = self.treated == self.levels.len();
        guard.observe(Time(self.at_us), arm, unit as u64, value, is_alone);
    }

    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.random.next_unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.random.next_unit()).cos()
    }

    /// A day in which nobody has the flag; it then is raised.
    fn past(&mut self, guard: &mut ShiftGuard, limit: f64, stage_limit: Option<f64>) {
        let treated = std::mem::take(&mut self.treated);
        for _ in 0..24 * 12 {
            self.at_us += 300 * 1_000_000;
            (0..self.levels.len()).for_each(|unit| self.sample(guard, unit, 1.0, 1.0));
        }
        self.treated = treated;
        guard.raise(limit, stage_limit);
    }
}

/// Values of the treated arm until latency was found to have risen.
fn latencies(treated: usize, spread: f64, factor: f64, seed: u64) -> Option<u64> {
    let mut cluster = Cluster::new(60, treated, spread, seed);
    let mut guard = ShiftGuard::of_latency(1.5, Some(1.1));
    cluster.past(&mut guard, 1.5, None);
    let mut samples = 0;
    while samples < 2000 {
        cluster.at_us += 20_000;
        let unit = (cluster.random.next_u64() % 60) as usize;
        samples += u64::from(unit < treated);
        cluster.sample(&mut guard, unit, factor, 1.0);
        if guard.verdict().is_some() {
            return Some(samples);
        }
    }
    None
}

#[test]
fn latency_that_rises_by_80_percent_is_found_within_2000_samples() {
    for treated in [6, 30] {
        let found = (0..100).filter(|seed| latencies(treated, 0.5, 1.8, *seed).is_some()).count();
        assert!(found >= 99, "{found} of 100 with {treated}");
    }
}

#[test]
fn healthy_latency_is_left_alone_however_heavy_its_tail() {
    for spread in [0.3, 1.0, 2.0] {
        let found = (0..50).filter(|seed| latencies(6, spread, 1.0, *seed).is_some()).count();
        assert_eq!(found, 0, "{spread}");
    }
}

#[test]
fn throughput_that_falls_to_0_6_is_found_within_60_seconds() {
    let mut longest = 0;
    for seed in 0..100 {
        let mut cluster = Cluster::new(12, 6, 0.15, seed);
        let mut guard = ShiftGuard::of_throughput(0.8);
        cluster.past(&mut guard, 0.8, None);
        let mut seconds = 0;
        while guard.verdict().is_none() {
            cluster.at_us += 1_000_000;
            seconds += 1;
            (0..12).for_each(|unit| cluster.sample(&mut guard, unit, 0.6, 1.0));
            assert!(seconds <= 60, "seed {seed}");
        }
        longest = longest.max(seconds);
    }
    assert!(longest >= 10, "a hiccup of some seconds is no reason: {longest}");
}

#[test]
fn a_stage_finds_less_in_more_time() {
    let mut cluster = Cluster::new(60, 6, 0.5, 1);
    let mut guard = ShiftGuard::of_latency(1.5, Some(1.1));
    cluster.past(&mut guard, 1.5, Some(1.1));
    let mut hours = 0;
    while guard.verdict().is_none() {
        for _ in 0..60 {
            cluster.at_us += 60 * 1_000_000;
            (0..60).for_each(|unit| cluster.sample(&mut guard, unit, 1.3, 1.0));
        }
        hours += 1;
        assert!(hours <= 72);
    }
    assert!(hours > 6, "{hours}");
    let verdict = guard.verdict().unwrap();
    assert!((1.2..1.4).contains(&verdict.treated.ratio) && (verdict.limit - 1.1).abs() < 1e-9);
    guard.raise(1.5, None);
    assert_eq!(guard.verdict(), None, "above the stage the limit is another");
}

#[test]
fn what_shifts_both_arms_is_no_harm() {
    let mut cluster = Cluster::new(20, 10, 0.3, 3);
    let mut guard = ShiftGuard::of_latency(1.5, Some(1.1));
    cluster.past(&mut guard, 1.5, Some(1.1));
    for _ in 0..20_000 {
        cluster.at_us += 1_000_000;
        let unit = (cluster.random.next_u64() % 20) as usize;
        cluster.sample(&mut guard, unit, 4.0, 4.0);
        assert_eq!(guard.verdict(), None);
    }
}

#[test]
fn alone_the_same_hour_of_the_past_is_the_measure() {
    let swing = |at_us: u64| 1.0 + 0.6 * (at_us as f64 / 86.4e9 * std::f64::consts::TAU).sin();
    let mut cluster = Cluster::new(8, 0, 0.3, 4);
    let mut guard = ShiftGuard::of_latency(1.5, None);
    for _ in 0..3 * 24 * 60 {
        cluster.at_us += 60 * 1_000_000;
        let load = swing(cluster.at_us);
        (0..8).for_each(|unit| cluster.sample(&mut guard, unit, load, load));
    }
    cluster.treated = 8;
    guard.raise(1.5, None);
    let mut minutes = 0;
    for minute in 0..2 * 24 * 60 {
        cluster.at_us += 60 * 1_000_000;
        let harm = if minute < 24 * 60 { 1.0 } else { 1.9 };
        let load = swing(cluster.at_us) * harm;
        (0..8).for_each(|unit| cluster.sample(&mut guard, unit, load, load));
        if let Some(verdict) = guard.verdict() {
            assert!(minute >= 24 * 60, "the busy hours are not the flag's doing");
            assert_eq!(verdict.beside, Beside::Past);
            minutes = minute - 24 * 60;
            break;
        }
    }
    assert!((10..120).contains(&minutes), "{minutes}");
}

#[test]
fn few_units_say_nothing_and_none_says_more_than_another() {
    let mut few = Cluster::new(8, 4, 0.1, 5);
    let mut guard = ShiftGuard::of_latency(1.5, None);
    few.past(&mut guard, 1.5, None);
    for _ in 0..5000 {
        few.at_us += 1_000_000;
        (0..8).for_each(|unit| few.sample(&mut guard, unit, 5.0, 1.0));
    }
    assert_eq!(guard.verdict(), None);
    let mut one_bad = Cluster::new(12, 6, 0.1, 6);
    let mut guard = ShiftGuard::of_latency(1.5, None);
    one_bad.past(&mut guard, 1.5, None);
    for _ in 0..5000 {
        one_bad.at_us += 1_000_000;
        for unit in 0..12 {
            let factor = if unit == 0 { 100.0 } else { 1.0 };
            one_bad.sample(&mut guard, unit, factor, 1.0);
        }
    }
    assert_eq!(guard.verdict(), None);
}

#[test]
fn units_without_a_past_say_nothing() {
    let mut cluster = Cluster::new(20, 10, 0.1, 7);
    let mut guard = ShiftGuard::of_latency(1.5, Some(1.1));
    guard.raise(1.5, Some(1.1));
    for _ in 0..5000 {
        cluster.at_us += 1_000_000;
        (0..20).for_each(|unit| cluster.sample(&mut guard, unit, 5.0, 1.0));
    }
    assert_eq!(guard.verdict(), None);
}

#[test]
fn units_are_bounded() {
    let mut guard = ShiftGuard::of_latency(1.5, None);
    (0..10_000).for_each(|unit| guard.observe(Time(0), Arm::Control, unit, 1.0, false));
    assert_eq!(guard.units.len(), MAX_GUARD_UNITS);
}

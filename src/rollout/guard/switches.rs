//! Whether a unit with the flag changes its mode more often than a limit.
//!
//! One pair of nodes that flaps is harm enough, so each has its own bets; the chance of a false
//! alarm is shared among as many as are remembered. If as large a part of the units without the
//! flag flaps, the network does it and not the flag.

use super::observation::Arm;
use super::spending;
use super::wealth::Wealth;
use crate::base::limits::MAX_GUARD_UNITS;
use std::collections::BTreeMap;

/// Watches the mode switches of one flag's units.
#[derive(Clone, Debug)]
pub struct SwitchGuard {
    limit_per_min: f64,
    units: BTreeMap<u64, UnitSwitches>,
    worst: Option<u64>,
}

/// What speaks against the flag.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SwitchVerdict {
    /// Of the unit that flaps most, since it began to.
    pub switches_per_min: f64,
    /// Of that unit.
    pub switches: u64,
    /// Units with the flag that flap, and all of them.
    pub treated: (u32, u32),
    /// Units without it that flap, and all of them.
    pub control: (u32, u32),
    /// What was allowed.
    pub limit_per_min: f64,
    /// How many to one.
    pub odds: f64,
    /// How many to one suffice.
    pub odds_needed: f64,
}

#[derive(Clone, Debug)]
struct UnitSwitches {
    arm: Arm,
    wealth: Wealth<2>,
    nats: f64,
    switches: u64,
    minutes: f64,
}

impl SwitchGuard {
    /// At most so many switches of a unit in a minute.
    pub fn new(limit_per_min: f64) -> Self {
        let limit_per_min = limit_per_min.max(LEAST_LIMIT);
        Self { limit_per_min, units: BTreeMap::new(), worst: None }
    }

    /// All evidence begins anew: more units have the flag, or something else explains it.
    pub fn weigh_anew(&mut self) {
        self.units.clear();
        self.worst = None;
    }

    /// So many switches of a unit in a time of a minute or less, or a little more.
    pub fn observe(&mut self, arm: Arm, unit: u64, count: u32, seconds: f64) {
        let is_new = !self.units.contains_key(&unit);
        if is_new && self.units.len() >= MAX_GUARD_UNITS {
            return;
        }
        let log = self.units.entry(unit).or_insert_with(|| UnitSwitches::new(arm));
        if log.arm != arm {
            *log = UnitSwitches::new(arm);
        }
        log.bet(self.limit_per_min, count, seconds / 60.0);
        if arm == Arm::Treated && log.wealth.odds() >= odds_needed() {
            self.worst.get_or_insert(unit);
        }
    }

    /// The verdict, if it is one.
    pub fn verdict(&self) -> Option<SwitchVerdict> {
        let worst = self.units.get(&self.worst?).filter(|unit| unit.arm == Arm::Treated)?;
        let odds = worst.wealth.odds();
        let (treated, control) = (self.flapping(Arm::Treated), self.flapping(Arm::Control));
        let share = |(flapping, all): (u32, u32)| f64::from(flapping) / f64::from(all.max(1));
        if odds < odds_needed() || share(control) * 2.0 >= share(treated) {
            return None;
        }
        Some(SwitchVerdict {
            switches_per_min: worst.switches as f64 / worst.minutes.max(1e-3),
            switches: worst.switches,
            treated,
            control,
            limit_per_min: self.limit_per_min,
            odds,
            odds_needed: odds_needed(),
        })
    }

    /// Whether a unit with the flag begins to flap.
    pub fn is_suspicious(&self) -> bool {
        self.worst.is_some() || self.flapping(Arm::Treated).0 > 0
    }

    /// Units of an arm that flap, and all.
    fn flapping(&self, arm: Arm) -> (u32, u32) {
        let units = self.units.values().filter(|unit| unit.arm == arm);
        let count = |(flapping, all): (u32, u32), unit: &UnitSwitches| {
            (flapping + u32::from(unit.nats >= FLAPPING_NATS), all + 1)
        };
        units.fold((0, 0), count)
    }
}

impl UnitSwitches {
    fn new(arm: Arm) -> Self {
        let mut wealth = Wealth::new([0.5, 0.5]);
        wealth.raise();
        Self { arm, wealth, nats: 0.0, switches: 0, minutes: 0.0 }
    }

    fn bet(&mut self, limit: f64, count: u32, minutes: f64) {
        // How much likelier this count is at so many times the limit, if switches come at random.
        let factor = |times: f64| {
            (f64::from(count) * times.ln() - (times - 1.0) * limit * minutes).clamp(-500.0, 500.0)
        };
        let nats = TIMES_MORE.map(factor);
        self.wealth.bet(nats.map(f64::exp));
        self.nats += nats[0];
        self.switches += u64::from(count);
        self.minutes += minutes;
        if self.nats <= 0.0 {
            (self.nats, self.switches, self.minutes) = (0.0, 0, 0.0);
            self.wealth.forgo_winnings();
        }
    }
}

/// Each of the units that can be remembered has an equal part of the chance.
fn odds_needed() -> f64 {
    MAX_GUARD_UNITS as f64 / spending::SWITCHES
}

/// How many times the limit may be meant by "above".
const TIMES_MORE: [f64; 2] = [1.5, 3.0];
/// A unit flaps if so much speaks for it.
const FLAPPING_NATS: f64 = 3.0;
const LEAST_LIMIT: f64 = 0.01;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_pair_that_flaps_is_found_in_minutes() {
        let mut guard = SwitchGuard::new(10.0);
        let mut minutes = 0;
        while guard.verdict().is_none() {
            (0..20).for_each(|unit| guard.observe(Arm::Treated, unit, 1, 60.0));
            (20..40).for_each(|unit| guard.observe(Arm::Control, unit, 1, 60.0));
            guard.observe(Arm::Treated, 99, 30, 60.0);
            minutes += 1;
            assert!(minutes < 10);
        }
        let verdict = guard.verdict().unwrap();
        assert_eq!((verdict.treated, verdict.control), ((1, 21), (0, 20)));
        assert!((29.0..31.0).contains(&verdict.switches_per_min));
        guard.weigh_anew();
        assert!(guard.verdict().is_none() && !guard.is_suspicious());
    }

    #[test]
    fn a_burst_is_found_at_once() {
        let mut guard = SwitchGuard::new(10.0);
        guard.observe(Arm::Treated, 1, 80, 60.0);
        assert!(guard.verdict().is_some());
    }

    #[test]
    fn what_all_units_do_is_not_the_flags_doing() {
        let mut guard = SwitchGuard::new(10.0);
        for _ in 0..100 {
            (0..10).for_each(|unit| guard.observe(Arm::Treated, unit, 40, 60.0));
            (10..20).for_each(|unit| guard.observe(Arm::Control, unit, 40, 60.0));
            assert!(guard.verdict().is_none());
        }
        assert!(guard.is_suspicious());
    }

    #[test]
    fn rates_below_the_limit_never_trip() {
        let mut guard = SwitchGuard::new(10.0);
        for minute in 0..60_000_u32 {
            guard.observe(Arm::Treated, u64::from(minute % 7), 8 + minute % 3, 60.0);
            assert!(guard.verdict().is_none());
        }
    }

    #[test]
    fn units_are_bounded() {
        let mut guard = SwitchGuard::new(10.0);
        (0..10_000).for_each(|unit| guard.observe(Arm::Control, unit, 0, 60.0));
        assert_eq!(guard.units.len(), MAX_GUARD_UNITS);
    }
}

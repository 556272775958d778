//! Whether requests of the treated arm fail more often than a limit, and than those beside them.
//!
//! Two things must speak against the flag. The treated arm is above the limit: shown by bets on
//! each request ([`Wealth`]), or by too many failures among the first requests after a raise. And
//! nobody else suffers so: requests without the flag in the same time fail less often
//! ([`contrast`]), or, with the flag on everywhere, those from before it was raised.
//!
//! A unit that fails several times in a row says no more until a minute has passed, if there are
//! enough others: a host that died is not the flag's fault.

use super::counts::{Counts, contrast};
use super::observation::{Arm, Beside};
use super::spending;
use super::wealth::Wealth;
use crate::base::Time;
use crate::base::limits::MAX_GUARD_UNITS;
use std::collections::BTreeMap;
use std::time::Duration;

/// Watches the failures of one flag against one limit.
#[derive(Clone, Debug)]
pub struct FailureGuard {
    /// The limit that the operator set, 0 to 1.
    limit: f64,
    /// That limit, or what was usual before the flag was raised, if that is more.
    in_force: f64,
    /// The chance of a false alarm by bets.
    alpha: f64,
    counts_first: bool,
    wealth: Wealth<4>,
    first: FirstRequests,
    raises: u32,
    suspicion: Suspicion,
    /// Requests without the flag, so far.
    past: Counts,
    stage: Counts,
    runs: BTreeMap<u64, Run>,
}

/// What speaks against the flag.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FailureVerdict {
    /// The treated arm, while it was suspected.
    pub treated: Counts,
    /// Those that it was held against.
    pub other: Option<(Beside, Counts)>,
    /// The share that was allowed.
    pub limit: f64,
    /// How many to one.
    pub odds: f64,
    /// How many to one suffice.
    pub odds_needed: f64,
}

/// The requests right after a raise, when harm is likeliest to begin.
#[derive(Clone, Copy, Debug, Default)]
struct FirstRequests {
    seen: u32,
    failures: u32,
    /// So many failures are too many; zero before the first raise.
    too_many: u32,
}

/// Since the treated arm last looked well: what failed in each arm.
#[derive(Clone, Copy, Debug, Default)]
struct Suspicion {
    nats: f64,
    treated: Counts,
    control: Counts,
}

/// A unit's failures in a row.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    failures: u8,
    counted_at: Time,
}

impl FailureGuard {
    /// Against the operator's general limit, a share of 0 to 1.
    pub fn new(limit: f64) -> Self {
        Self::with(limit, spending::ERRORS, true)
    }

    /// Against a tighter limit that holds for a stage.
    pub fn of_stage(limit: f64) -> Self {
        Self::with(limit, spending::STAGE_FAILURES, false)
    }

    fn with(limit: f64, alpha: f64, counts_first: bool) -> Self {
        let limit = limit.clamp(LEAST_LIMIT, MOST_LIMIT);
        Self {
            limit,
            in_force: limit,
            alpha,
            counts_first,
            wealth: Wealth::new(SHARES),
            first: FirstRequests::default(),
            raises: 0,
            suspicion: Suspicion::default(),
            past: Counts::default(),
            stage: Counts::default(),
            runs: BTreeMap::new(),
        }
    }

    /// Another limit, from the next raise on.
    pub fn set_limit(&mut self, limit: f64) {
        self.limit = limit.clamp(LEAST_LIMIT, MOST_LIMIT);
    }

    /// More units have the flag from now on.
    pub fn raise(&mut self) {
        self.in_force = self.limit_in_force();
        self.wealth.raise();
        let alpha = spending::first_requests(self.raises);
        let too_many = if self.counts_first { too_many(self.in_force, alpha) } else { 0 };
        self.first = FirstRequests { too_many, ..FirstRequests::default() };
        self.raises = self.raises.saturating_add(1);
        self.suspicion = Suspicion::default();
        self.stage = Counts::default();
    }

    /// What was weighed so far is explained by something else; evidence begins anew.
    pub fn weigh_anew(&mut self) {
        self.wealth.forgo_winnings();
        self.first.too_many = 0;
        self.suspicion = Suspicion::default();
        self.runs.clear();
    }

    /// A request of a unit.
    pub fn observe(&mut self, now: Time, arm: Arm, unit: u64, is_failed: bool) {
        match arm {
            Arm::Treated => self.treated(now, unit, is_failed),
            Arm::Control => self.control(is_failed),
        }
    }

    fn control(&mut self, is_failed: bool) {
        self.suspicion.control.add(is_failed);
        self.past.add(is_failed);
        self.past = self.past.halved_above(MAX_PAST_REQUESTS);
    }

    fn treated(&mut self, now: Time, unit: u64, is_failed: bool) {
        self.stage.add(is_failed);
        if !self.is_counted(now, unit, is_failed) {
            return;
        }
        let factors = SUSPECTED.map(|suspected| suspected.factor(self.in_force, is_failed));
        self.wealth.bet(factors);
        self.first.add(is_failed);
        self.suspect(factors[STEADY], is_failed);
    }

    /// The verdict, if it is one.
    pub fn verdict(&self, is_alone: bool) -> Option<FailureVerdict> {
        let (odds, odds_needed) = self.odds()?;
        let Suspicion { treated, control, .. } = self.suspicion;
        let other = self.beside(is_alone);
        let verdict = FailureVerdict { treated, other, limit: self.in_force, odds, odds_needed };
        match other {
            Some((Beside::Past, past)) => {
                let weight = treated.requests.saturating_mul(PAST_WEIGHT);
                (contrast(treated, past.scaled_down(weight)) >= CLEAN_NATS).then_some(verdict)
            }
            Some((Beside::Control, _)) => {
                let is_clean = control.is_within(self.in_force);
                let needed = match is_clean {
                    true => clean_contrast_needed(treated.requests.min(control.requests)),
                    false => -spending::CONTRAST.ln(),
                };
                let counts = (control.requests as f64, control.failures as f64);
                (contrast(treated, counts) > needed).then_some(verdict)
            }
            None => is_alone.then_some(verdict),
        }
    }

    /// Whether harm is being weighed, so that nobody should raise the percentage.
    pub fn is_suspicious(&self) -> bool {
        self.wealth.odds() >= SUSPICIOUS_ODDS || self.first.has_too_many()
    }

    /// Requests with the flag since the last raise.
    pub fn stage(&self) -> Counts {
        self.stage
    }

    /// Requests without the flag, as far as they are remembered.
    pub fn past(&self) -> Counts {
        self.past
    }

    /// How many to one speaks against the limit, and how many suffice; none if it does not suffice.
    fn odds(&self) -> Option<(f64, f64)> {
        let (odds, odds_needed) = (self.wealth.odds(), 1.0 / self.alpha);
        if odds >= odds_needed {
            return Some((odds, odds_needed));
        }
        let odds = 1.0 / spending::first_requests(self.raises.saturating_sub(1));
        self.first.has_too_many().then_some((odds, odds))
    }

    /// With the flag on everywhere there is no control; a control arm that is there must speak.
    fn beside(&self, is_alone: bool) -> Option<(Beside, Counts)> {
        let Suspicion { treated, control, .. } = self.suspicion;
        if !is_alone || control.requests.saturating_mul(PAST_WEIGHT) >= treated.requests.max(1) {
            return Some((Beside::Control, control));
        }
        (self.past.requests >= LEAST_PAST_REQUESTS).then_some((Beside::Past, self.past))
    }

    /// A service that was above the limit before the flag came is held against itself.
    fn limit_in_force(&self) -> f64 {
        let requests = self.past.requests.max(1) as f64;
        let rate = self.past.rate();
        let lowest = rate - 3.0 * (rate * (1.0 - rate) / requests).sqrt();
        if lowest > self.limit { rate.min(MOST_LIMIT) } else { self.limit }
    }

    fn is_counted(&mut self, now: Time, unit: u64, is_failed: bool) -> bool {
        let is_full = self.runs.len() >= MAX_GUARD_UNITS && !self.runs.contains_key(&unit);
        if is_full {
            return true;
        }
        let has_others = self.runs.len() >= ENOUGH_UNITS;
        let run = self.runs.entry(unit).or_default();
        let is_counted = !has_others
            || run.failures < MOST_IN_A_ROW
            || now.since(run.counted_at) >= RUN_INTERVAL;
        run.failures = if is_failed { run.failures.saturating_add(1) } else { 0 };
        if is_counted {
            run.counted_at = now;
        }
        is_counted
    }

    fn suspect(&mut self, factor: f64, is_failed: bool) {
        self.suspicion.nats += factor.ln();
        self.suspicion.treated.add(is_failed);
        if self.suspicion.nats > 0.0 {
            return;
        }
        self.suspicion = Suspicion::default();
        self.wealth.forgo_winnings();
        if self.first.seen >= FIRST_REQUESTS {
            self.first.too_many = 0;
        }
    }
}

impl FirstRequests {
    fn add(&mut self, is_failed: bool) {
        if self.too_many == 0 || self.seen >= FIRST_REQUESTS {
            return;
        }
        self.seen += 1;
        self.failures += u32::from(is_failed);
    }

    fn has_too_many(&self) -> bool {
        self.too_many > 0 && self.failures >= self.too_many
    }
}

/// A rate that may be meant by "above the limit".
#[derive(Clone, Copy)]
enum Suspected {
    /// So many times the limit.
    Times(f64),
    /// So far from the limit towards one.
    Towards(f64),
}

impl Suspected {
    /// How much likelier an outcome is at that rate than at the limit: a fair bet at the limit, and
    /// a poor one below it.
    fn factor(self, limit: f64, is_failed: bool) -> f64 {
        let rate = match self {
            Suspected::Times(times) => (limit * times).min((1.0 + limit) / 2.0),
            Suspected::Towards(share) => limit + (1.0 - limit) * share,
        };
        if is_failed { rate / limit } else { (1.0 - rate) / (1.0 - limit) }
    }
}

/// The contrast that is needed beside a control arm within the limit. A disturbance that everybody suffers
/// may strike the treated arm first by chance, so little is said by the first requests; after some
/// hundreds in either arm it would show in the control arm, and that it does not is a witness itself.
fn clean_contrast_needed(requests: u64) -> f64 {
    let [early, late] = CLEAN_REQUESTS.map(|requests| requests as f64);
    let share = ((requests as f64 - early) / (late - early)).clamp(0.0, 1.0);
    CLEAN_NATS * (1.0 - share)
}

/// The least number of failures that so many first requests have with a chance of at most `alpha`.
fn too_many(rate: f64, alpha: f64) -> u32 {
    let requests = f64::from(FIRST_REQUESTS);
    // The chance of exactly `failures`, from one number to the next, in logarithms.
    let mut chance_nats = requests * (1.0 - rate).ln();
    let mut below = 0.0;
    for failures in 0..FIRST_REQUESTS {
        if 1.0 - below <= alpha {
            return failures.max(1);
        }
        below += chance_nats.exp();
        let left = f64::from(FIRST_REQUESTS - failures);
        chance_nats += (left / f64::from(failures + 1) * rate / (1.0 - rate)).ln();
    }
    FIRST_REQUESTS
}

/// Slow harm, the harm that the limit is made for, much harm, and a component that does not work.
const SUSPECTED: [Suspected; 4] =
    [Suspected::Times(2.0), Suspected::Times(3.0), Suspected::Times(8.0), Suspected::Towards(0.5)];
const SHARES: [f64; 4] = [0.2, 0.35, 0.3, 0.15];
/// The one of them by which it is told since when the arm is suspected.
const STEADY: usize = 1;
/// So many requests after a raise are counted.
const FIRST_REQUESTS: u32 = 500;
/// Contrast that is needed at first while the control arm is within the limit.
const CLEAN_NATS: f64 = 3.0;
/// From so many requests of either arm on less is needed, and from so many on none.
const CLEAN_REQUESTS: [u64; 2] = [250, 400];
/// The past weighs as much as so many times the requests of the treated arm.
const PAST_WEIGHT: u64 = 20;
const LEAST_PAST_REQUESTS: u64 = 100;
const MAX_PAST_REQUESTS: u64 = 200_000;
/// From so many units on none of them may speak alone.
const ENOUGH_UNITS: usize = 5;
const MOST_IN_A_ROW: u8 = 2;
const RUN_INTERVAL: Duration = Duration::from_secs(60);
const SUSPICIOUS_ODDS: f64 = 40.0;
const LEAST_LIMIT: f64 = 1e-4;
const MOST_LIMIT: f64 = 0.9;

#[cfg(test)]
#[path = "failures_tests.rs"]
mod tests;

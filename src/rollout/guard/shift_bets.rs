//! Bets on how far the two arms lie apart, and since when that looks bad.

use super::observation::Beside;
use super::unit_log::Found;
use super::wealth::Wealth;

/// Which way harm lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worse {
    /// Latency.
    Higher,
    /// Throughput.
    Lower,
}

/// What speaks against the flag; arms as ratios to their past.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ShiftVerdict {
    /// The treated arm.
    pub treated: ArmShift,
    /// Those that it was held against.
    pub beside: Beside,
    /// Them.
    pub other: ArmShift,
    /// The ratio of treated to other that was allowed.
    pub limit: f64,
    /// How many to one.
    pub odds: f64,
    /// How many to one suffice.
    pub odds_needed: f64,
}

/// One arm while the treated one was suspected.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ArmShift {
    /// To its past.
    pub ratio: f64,
    /// Measured values.
    pub samples: u64,
    /// Units in the last round.
    pub units: u32,
}

/// A limit and the wealth of the bets against it.
#[derive(Clone, Debug)]
pub struct ShiftBets {
    /// How far the arms may lie apart, as a logarithm.
    limit_nats: f64,
    alpha: f64,
    wealth: Wealth<3>,
    suspicion: Suspicion,
}

/// Since the treated arm last looked well.
#[derive(Clone, Copy, Debug, Default)]
struct Suspicion {
    nats: f64,
    rounds: u32,
    treated: Side,
    other: Side,
    beside: Option<Beside>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Side {
    /// Sum of what each round found.
    nats: f64,
    samples: u64,
    units: u32,
}

impl Worse {
    fn limit_nats(self, limit: f64) -> f64 {
        match self {
            Worse::Higher => limit.max(1.0).ln(),
            Worse::Lower => -limit.clamp(LEAST_RATIO, 1.0).ln(),
        }
    }
}

impl ShiftBets {
    /// At most `alpha` is the chance of a false alarm against this limit.
    pub fn new(worse: Worse, limit: f64, alpha: f64) -> Self {
        let (wealth, suspicion) = (Wealth::new([1.0 / 3.0; 3]), Suspicion::default());
        Self { limit_nats: worse.limit_nats(limit), alpha, wealth, suspicion }
    }

    /// Places the stake of a raise, under this limit.
    pub fn raise(&mut self, worse: Worse, limit: f64) {
        self.limit_nats = worse.limit_nats(limit);
        self.wealth.raise();
        self.suspicion = Suspicion::default();
    }

    /// What was weighed so far is explained by something else.
    pub fn weigh_anew(&mut self) {
        self.wealth.forgo_winnings();
        self.suspicion = Suspicion::default();
    }

    /// Whether harm is being weighed.
    pub fn is_suspicious(&self) -> bool {
        self.wealth.odds() >= SUSPICIOUS_ODDS
    }

    /// Bets on what a round found, if enough units spoke.
    pub fn bet(&mut self, worse: Worse, treated: &Found, other: &Found, beside: Beside) {
        let (few, of) = (ENOUGH_UNITS as usize, treated.values.len());
        if of < few || beside == Beside::Control && other.values.len() < few {
            return;
        }
        let (here, there) = (treated.middle(), other.middle());
        let apart = match worse {
            Worse::Higher => here - there,
            Worse::Lower => there - here,
        };
        let beyond = apart - self.limit_nats - uncertainty(treated) - uncertainty(other);
        let scale = (self.limit_nats / 2.0).max(LEAST_SCALE);
        let payoff = (beyond / scale).clamp(-1.0, 1.0);
        let factors = BOLDNESS.map(|boldness| 1.0 + boldness * payoff);
        self.wealth.bet(factors);
        let Suspicion { nats, rounds, .. } = &mut self.suspicion;
        *nats += factors[STEADY].ln();
        *rounds += 1;
        self.suspicion.beside = Some(beside);
        self.suspicion.treated.add(here, treated);
        self.suspicion.other.add(there, other);
        if self.suspicion.nats <= 0.0 {
            self.suspicion = Suspicion::default();
            self.wealth.forgo_winnings();
        }
    }

    /// The verdict, if it is one.
    pub fn verdict(&self, worse: Worse) -> Option<ShiftVerdict> {
        let odds_needed = 1.0 / self.alpha;
        let odds = self.wealth.odds();
        let Suspicion { rounds, treated, other, beside, .. } = self.suspicion;
        let beside = beside.filter(|_| odds >= odds_needed && rounds >= LEAST_ROUNDS)?;
        let limit_nats = if worse == Worse::Higher { self.limit_nats } else { -self.limit_nats };
        let (treated, other) = (treated.shift(rounds), other.shift(rounds));
        Some(ShiftVerdict { treated, beside, other, limit: limit_nats.exp(), odds, odds_needed })
    }
}

impl Side {
    fn add(&mut self, nats: f64, found: &Found) {
        self.nats += nats;
        self.samples += found.samples;
        self.units = found.values.len() as u32;
    }

    fn shift(&self, rounds: u32) -> ArmShift {
        let ratio = (self.nats / f64::from(rounds.max(1))).exp();
        ArmShift { ratio, samples: self.samples, units: self.units }
    }
}

/// How far an arm's median may be off because its units' pasts are short.
fn uncertainty(found: &Found) -> f64 {
    2.0 * ROUND_SPREAD / (found.past_rounds.max(1) as f64).sqrt()
        * f64::from(!found.values.is_empty())
}

/// From so many units an arm is judged.
pub const ENOUGH_UNITS: u32 = 5;
/// How much of what is at stake a bet risks.
const BOLDNESS: [f64; 3] = [0.3, 0.6, 0.9];
/// The one of them by which it is told since when the arm is suspected.
const STEADY: usize = 1;
/// Rounds of a unit differ by so much, as a logarithm.
const ROUND_SPREAD: f64 = 0.3;
const LEAST_SCALE: f64 = 0.2;
const LEAST_RATIO: f64 = 0.01;
const LEAST_ROUNDS: u32 = 3;
const SUSPICIOUS_ODDS: f64 = 40.0;

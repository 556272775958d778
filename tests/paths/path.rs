//! Paths whose conditions change with time, and the mode that each is to have.

use dwcp::transport::mode::{Mode, Thresholds};

pub const SECOND_US: u64 = 1_000_000;
const GIGABIT: u64 = 112_500_000;

/// What a path is like at a moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conditions {
    pub rtt_us: u32,
    pub jitter_us: u32,
    pub loss_ppm: u32,
    pub rate_bytes_per_s: u64,
}

impl Conditions {
    /// Some conditions that speak for a mode, clear of every threshold's room.
    pub fn of(mode: Mode, random: &mut fastrand::Rng) -> Self {
        let fast = random.u64(GIGABIT * 13 / 10..40 * GIGABIT);
        let calm = |rtt_us, rate_bytes_per_s, random: &mut fastrand::Rng| Self {
            rtt_us,
            jitter_us: rtt_us / 20,
            loss_ppm: random.u32(..5_000),
            rate_bytes_per_s,
        };
        match mode {
            Mode::Datacenter => calm(random.u32(100..7_500), fast, random),
            Mode::Hybrid => calm(random.u32(14_000..34_000), fast, random),
            _ => match random.u8(..4) {
                0 => calm(random.u32(100..30_000), random.u64(20_000..GIGABIT / 2), random),
                1 => Self { jitter_us: random.u32(15_000..30_000), ..calm(20_000, fast, random) },
                _ => calm(random.u32(65_000..400_000), random.u64(20_000..20 * GIGABIT), random),
            },
        }
    }

    /// The mode that suits them by the plain thresholds, unless they are near one of those.
    pub fn clear_mode(&self) -> Option<Mode> {
        let thresholds = Thresholds::default();
        let judge = |percent: u64| {
            let scaled = |figure: u64| figure * percent / 100;
            // A shorter, calmer path is a faster one.
            let rate = self.rate_bytes_per_s * 100 / percent;
            let is_internet = scaled(self.rtt_us.into()) > thresholds.internet_rtt_us.into()
                || scaled(self.jitter_us.into()) > thresholds.internet_jitter_us.into()
                || rate < thresholds.fast_rate_bytes_per_s;
            let is_datacenter = scaled(self.rtt_us.into()) < thresholds.datacenter_rtt_us.into()
                && scaled(self.loss_ppm.into()) <= thresholds.datacenter_loss_ppm.into();
            match (is_internet, is_datacenter) {
                (true, _) => Mode::Internet,
                (false, true) => Mode::Datacenter,
                (false, false) => Mode::Hybrid,
            }
        };
        let modes = [75, 100, 133].map(judge);
        modes.iter().all(|mode| *mode == modes[0]).then_some(modes[0])
    }
}

pub const MEASURED: [Mode; 3] = [Mode::Datacenter, Mode::Hybrid, Mode::Internet];

/// Conditions one after the other, each from its time on.
#[derive(Clone, Debug, Default)]
pub struct Path {
    pub steps: Vec<(u64, Conditions)>,
}

impl Path {
    /// The conditions at a time.
    pub fn at(&self, now_us: u64) -> Conditions {
        let next = self.steps.partition_point(|(from_us, _)| *from_us <= now_us);
        self.steps[next.saturating_sub(1)].1
    }

    /// Goes round the conditions, `step_us` each, until `end_us`.
    pub fn alternating(among: &[Conditions], step_us: u64, from_us: u64, end_us: u64) -> Self {
        let starts = (0..).map(|step| from_us + step * step_us).take_while(|at| *at < end_us);
        Self { steps: starts.zip(among.iter().copied().cycle()).collect() }
    }

    pub fn then(&mut self, from_us: u64, conditions: Conditions) {
        self.steps.retain(|(at, _)| *at < from_us);
        self.steps.push((from_us, conditions));
    }

    /// Steps of any length up to `longest_us` between any conditions.
    pub fn restless(longest_us: u64, end_us: u64, random: &mut fastrand::Rng) -> Self {
        let (mut path, mut at) = (Self::default(), 0);
        while at < end_us {
            let mode = MEASURED[random.usize(..3)];
            path.steps.push((at, Conditions::of(mode, random)));
            at += random.u64(100_000..=longest_us);
        }
        path
    }

    /// The mode that the path has clearly called for all through the `span_us` before `now_us`, while
    /// nothing but its rate changed: figures differ in how fast they follow, so a path that is long
    /// first and jittery then is neither for a moment.
    pub fn settled_mode(&self, now_us: u64, span_us: u64) -> Option<Mode> {
        let begin = now_us.checked_sub(span_us)?;
        let first = self.at(begin);
        let mode = first.clear_mode()?;
        let [from, to] = [begin, now_us].map(|at| self.steps.partition_point(|(of, _)| *of <= at));
        let mut conditions = self.steps[from..to].iter().map(|(_, conditions)| conditions);
        let same = |other: &Conditions| {
            let rate_bytes_per_s = first.rate_bytes_per_s;
            other.clear_mode() == Some(mode) && Conditions { rate_bytes_per_s, ..*other } == first
        };
        conditions.all(same).then_some(mode)
    }
}

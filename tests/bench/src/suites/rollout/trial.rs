//! One rollout in which something goes wrong, and what was measured of the canary until that was found.

use dwcp::base::Time;
use dwcp::rollout::guard::{Arm, Measured, Observation};
use dwcp::rollout::simulator::{Effect, Fault, Reach, Scenario, ThroughputModel, play_watched};
use dwcp::rollout::{Flag, Percent, Schedule, ScheduleError, Stage};

/// What goes wrong, and at which percentage.
#[derive(Clone, Copy)]
pub struct Trial {
    pub case: &'static str,
    pub percent: u8,
    pub effect: Effect,
    pub reach: Reach,
    pub counted: Counted,
    /// It is to be found within so much.
    pub wanted: f64,
    pub most_runs: u64,
    pub is_late: bool,
}

/// What is counted from the beginning of the harm until it was found.
#[derive(Clone, Copy, PartialEq)]
pub enum Counted {
    /// Requests of the canary.
    Requests,
    /// Latencies of the canary.
    Latencies,
    /// Seconds with a throughput of the canary.
    Seconds,
}

impl Trial {
    pub const fn new(
        case: &'static str,
        percent: u8,
        effect: Effect,
        counted: Counted,
        wanted: f64,
    ) -> Self {
        let (reach, most_runs, is_late) = (Reach::Treated, 1000, false);
        Self { case, percent, effect, reach, counted, wanted, most_runs, is_late }
    }

    /// The harm begins after some hundred thousand healthy requests of the canary.
    pub const fn late(self) -> Self {
        Self { most_runs: 100, is_late: true, ..self }
    }

    /// What was counted; infinite if nothing was found.
    pub fn run(&self, seed: u64) -> Result<f64, String> {
        let scenario = self.scenario(seed).map_err(|error| error.to_string())?;
        let begins_s = self.begins_s();
        let (mut count, mut last, mut start) = (0_u64, Time::default(), None);
        let mut watch = |now: Time, observation: &Observation| {
            let start = *start.get_or_insert(now);
            // The first measurement came some time within the first second.
            let is_harmed = now.since(start).as_secs() + 1 >= begins_s;
            let is_canary = observation.flag == FLAG && observation.arm == Arm::Treated;
            if !is_canary || !is_harmed {
                return;
            }
            let is_counted = match (self.counted, observation.kind) {
                (Counted::Requests, Measured::Request { .. })
                | (Counted::Latencies, Measured::Latency { .. }) => true,
                (Counted::Seconds, Measured::Throughput { .. }) => now > last,
                _ => false,
            };
            if is_counted {
                (count, last) = (count + 1, now);
            }
        };
        let outcome = play_watched(&scenario, &mut watch).map_err(|error| error.to_string())?;
        let is_found = outcome.flag(FLAG).is_some_and(|flag| flag.evidence.is_some());
        Ok(if is_found { count as f64 } else { f64::INFINITY })
    }

    fn scenario(&self, seed: u64) -> Result<Scenario, ScheduleError> {
        let stage = |after_s, percent| Stage { after_s, percent: Percent::whole(percent) };
        let ramp = Schedule::new(vec![stage(0, 0), stage(PAST_S, self.percent)])?;
        let never = Schedule::new(vec![stage(0, 0)])?;
        let others = [Flag::MlCompression, Flag::InternetOptimization];
        let mut schedules = vec![(FLAG, ramp)];
        schedules.extend(others.map(|flag| (flag, never.clone())));
        let (share, wanted) = (f64::from(self.percent) / 100.0, self.wanted);
        // The canary makes one request a second, but a late trial gets through its healthy ones faster.
        let per_s = if self.is_late { LATE_PER_S } else { 1.0 };
        let harmful_s = if self.reach == Reach::All { DAY_S / 4.0 } else { wanted * 3.0 / per_s };
        let interval_s = if self.counted == Counted::Seconds { 1 } else { 300 };
        Ok(Scenario {
            seed,
            days: (self.begins_s() as f64 + harmful_s) / DAY_S,
            step_s: 1,
            error_rate: 1.0,
            requests_per_min: 60.0 * per_s / share,
            throughput: ThroughputModel { interval_s, ..ThroughputModel::default() },
            schedules,
            faults: vec![Fault {
                at_day: Some(self.begins_s() as f64 / DAY_S),
                at_percent: None,
                lasts_hours: None,
                flag: Some(FLAG),
                reach: self.reach,
                effect: self.effect,
            }],
            ..Scenario::default()
        })
    }

    /// With the raise, or long after it.
    fn begins_s(&self) -> u64 {
        if self.is_late { PAST_S + (LATE_AFTER / LATE_PER_S) as u64 } else { PAST_S }
    }
}

const FLAG: Flag = Flag::HybridMode;
/// Nobody has the flag for so long.
const PAST_S: u64 = 7200;
const LATE_AFTER: f64 = 100_000.0;
const LATE_PER_S: f64 = 20.0;
const DAY_S: f64 = 86_400.0;

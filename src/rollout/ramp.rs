//! One flag on its way to everybody: its percentage, its schedule, and what speaks against going
//! on.

use super::controller::Action;
use super::guard::evidence::count;
use super::guard::panel::Panel;
use super::guard::{Arm, Evidence, Limits, Metric};
use super::{Flag, Percent, Schedule, Stage};
use crate::base::Time;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// Why a flag stays where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldReason {
    /// The clock jumped, and has not gone steadily since.
    ClockJumped,
    /// A measurement was no usable number.
    UnusableData,
    /// Nothing was heard of this for an hour.
    MissingData(Metric),
    /// Too few requests since the last raise.
    FewRequests {
        /// There were so many.
        requests: u64,
    },
    /// This begins to look bad, and is being weighed.
    Suspicion(Metric),
    /// A flag was taken back just now.
    Aftermath,
}

/// One flag.
#[derive(Clone, Debug)]
pub(super) struct Ramp {
    pub flag: Flag,
    pub percent: Option<Percent>,
    pub panel: Panel,
    pub schedule: Option<Schedule>,
    /// When the percentage came into force, less what a restart made it forget.
    pub entered_at: Time,
    pub entered_before: Duration,
    /// When it was last raised, and the number of that raise.
    pub raised: Option<(Time, u64)>,
    pub verdict: Option<Verdict>,
    pub hold: Option<HoldReason>,
}

#[derive(Clone, Debug)]
pub(super) struct Verdict {
    pub evidence: Evidence,
    pub has_effect: bool,
}

impl Ramp {
    pub fn new(flag: Flag, limits: &Limits) -> Self {
        Self {
            flag,
            percent: None,
            panel: Panel::new(flag, limits),
            schedule: None,
            entered_at: Time::default(),
            entered_before: Duration::ZERO,
            raised: None,
            verdict: None,
            hold: None,
        }
    }

    /// A flag that reached everybody is watched for a week more.
    pub fn is_in_flight(&self, now: Time) -> bool {
        let Some((raised_at, _)) = self.raised.filter(|_| self.verdict.is_none()) else {
            return false;
        };
        self.percent != Some(Percent::FULL) || now.since(raised_at) < WATCHED_AFTER_ALL
    }

    /// Whether measurements matter: to judge by, or as the past of a later raise.
    pub fn is_of_interest(&self, now: Time) -> bool {
        self.is_in_flight(now) || self.percent.is_some_and(|percent| percent < Percent::FULL)
    }

    pub fn pending(&self) -> Option<Action> {
        let verdict = self.verdict.as_ref().filter(|verdict| !verdict.has_effect)?;
        let evidence = Box::new(verdict.evidence.clone());
        Some(Action::RollBack { flag: self.flag, evidence })
    }

    /// The next stage if it is due and nothing speaks against it, or why not, said once.
    pub fn next_stage(&mut self, now: Time, disturbance: Option<HoldReason>) -> Option<Action> {
        if self.verdict.is_some() {
            self.hold = None;
            return None;
        }
        let due = self.due(now);
        let is_watched = due.is_some() || self.is_in_flight(now);
        let reason = disturbance.or_else(|| self.doubt(now)).filter(|_| is_watched);
        let Some(reason) = reason else {
            self.hold = None;
            return due.map(|percent| Action::Advance { flag: self.flag, percent });
        };
        // What only keeps a stage waiting is no news before the stage is due.
        let is_news = due.is_some() || !matches!(reason, HoldReason::FewRequests { .. });
        if !is_news {
            return None;
        }
        let is_same = self.hold.is_some_and(|hold| hold.is_like(reason));
        self.hold = Some(reason);
        (!is_same).then_some(Action::Hold { flag: self.flag, reason })
    }

    fn due(&self, now: Time) -> Option<Percent> {
        let percent = self.percent?;
        let (this_s, next) = self.stages(percent)?;
        let wait = Duration::from_secs(next.after_s - this_s);
        (now.since(self.entered_at) + self.entered_before >= wait).then_some(next.percent)
    }

    /// When the present stage begins in the schedule, and the one after it.
    fn stages(&self, percent: Percent) -> Option<(u64, Stage)> {
        let stages = self.schedule.as_ref()?.stages();
        let this = stages.iter().rev().find(|stage| stage.percent <= percent);
        let next = stages.iter().find(|stage| stage.percent > percent)?;
        Some((this.map_or(0, |stage| stage.after_s), *next))
    }

    /// How much of the present stage has passed, if its schedule started so long ago.
    pub fn time_in_stage(&self, elapsed: Duration) -> Duration {
        let stages = self.percent.and_then(|percent| self.stages(percent));
        let Some((this_s, next)) = stages else { return Duration::ZERO };
        let passed = elapsed.saturating_sub(Duration::from_secs(this_s));
        // Whatever a wall clock says, some of it is seen with our own eyes.
        let wait = Duration::from_secs(next.after_s - this_s);
        passed.min(wait.saturating_sub(LEAST_TIME_IN_STAGE))
    }

    /// What speaks against the next stage: health must be seen, and lately.
    fn doubt(&self, now: Time) -> Option<HoldReason> {
        let panel = &self.panel;
        if panel.has_unusable(now, FRESH) {
            return Some(HoldReason::UnusableData);
        }
        let arm = if self.raised.is_some() { Arm::Treated } else { Arm::Control };
        let counts = match arm {
            Arm::Treated => panel.stage_requests(),
            Arm::Control => panel.past_requests(),
        };
        if counts.requests < ENOUGH_REQUESTS {
            return Some(HoldReason::FewRequests { requests: counts.requests });
        }
        if let Some(metric) = panel.silence(now, FRESH, arm) {
            return Some(HoldReason::MissingData(metric));
        }
        panel.suspicion().map(HoldReason::Suspicion)
    }
}

impl HoldReason {
    /// Whether it says the same, apart from figures.
    fn is_like(self, other: HoldReason) -> bool {
        std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }
}

impl fmt::Display for HoldReason {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HoldReason::ClockJumped => to.write_str("the clock jumped"),
            HoldReason::UnusableData => to.write_str("some measurements are no usable numbers"),
            HoldReason::MissingData(metric) => {
                write!(to, "nothing was heard of {metric} for an hour")
            }
            HoldReason::FewRequests { requests } => {
                let (requests, enough) = (count(*requests), count(ENOUGH_REQUESTS));
                write!(to, "{requests} requests since the last raise, and {enough} are needed")
            }
            HoldReason::Suspicion(metric) => write!(to, "{metric} begins to look bad"),
            HoldReason::Aftermath => to.write_str("a flag was taken back just now"),
        }
    }
}

/// A flag that is on everywhere is watched for so long.
const WATCHED_AFTER_ALL: Duration = Duration::from_secs(7 * 24 * 3600);
/// Data older than this shows nothing about now.
const FRESH: Duration = Duration::from_secs(3600);
/// Requests that show a stage to be healthy.
const ENOUGH_REQUESTS: u64 = 100;
/// Of each stage so much must pass under the eyes of this process.
const LEAST_TIME_IN_STAGE: Duration = Duration::from_secs(3600);

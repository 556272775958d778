//! The mode of one peer: verdicts that have lasted.
//!
//! A verdict takes hold when it has lasted for [`CONFIRMED_AFTER`], and after two switches within a
//! minute for [`CONFIRMED_LATE_AFTER`]. The first is longer than half of a path's period of 10 s, so a
//! path that alternates every 5 s can confirm at most one of its two sides. The second, with the
//! window of the figures, is still below 10 s, so every lasting change is followed in time; and no
//! path at all, nor any attacker, brings about more than nine switches a minute.
//!
//! Where verdicts change all the time but do not speak for the mode in force, hybrid, which lies
//! between the others, takes its place after [`DOUBTED_AFTER`].

use super::cases::{Case, Cases};
use super::estimate::{PathEstimate, PathFigures};
use super::kind::Mode;
use super::policy::ModePolicy;
use super::sample::PathSample;
use super::transition::{Cause, Ground, Transition};
use super::verdict;
use crate::base::Time;
use std::time::Duration;

/// How long a verdict must last.
pub const CONFIRMED_AFTER: Duration = Duration::from_secs(6);
/// How long it must last on a path that has switched twice within [`MEMORY`].
pub const CONFIRMED_LATE_AFTER: Duration = Duration::from_millis(7_500);
/// How long the mode in force may go without any verdict for it, though none takes its place.
pub const DOUBTED_AFTER: Duration = Duration::from_secs(10);
/// How long the first verdicts must last: there is nothing yet that they contradict, and this is
/// longer than TCP's slow start.
pub const CONFIRMED_FIRST_AFTER: Duration = Duration::from_secs(2);
/// Over which time switches are counted.
pub const MEMORY: Duration = Duration::from_secs(60);
/// A verdict must be seen so often.
const LEAST_SAMPLES: u32 = 4;
/// After a longer silence a verdict has to last anew.
const LONGEST_SILENCE: Duration = Duration::from_millis(3_500);
/// Switches that make a verdict wait for longer.
const RESTLESS_SWITCHES: u32 = 2;
/// More than ever fit into [`MEMORY`].
const REMEMBERED_SWITCHES: usize = 10;

/// Follows the path to one peer.
#[derive(Clone, Debug)]
pub struct ModeDetector {
    estimate: PathEstimate,
    mode: Mode,
    forced: Option<Mode>,
    peer_is_v1: bool,
    /// Whether figures may bring a mode into force.
    may_measure: bool,
    /// Whether the mode in force is measured, or waits for it.
    is_automatic: bool,
    first_verdict: Option<Time>,
    has_measured: bool,
    cases: Cases,
    latest: Time,
    heard: Option<Time>,
    measured_switches: [Option<Time>; REMEMBERED_SWITCHES],
    switches: u64,
}

impl ModeDetector {
    /// A detector that knows nothing yet; figures bring a mode into force only if they may.
    pub fn new(policy: &ModePolicy, may_measure: bool) -> Self {
        Self {
            estimate: PathEstimate::default(),
            mode: policy.beginning(may_measure),
            forced: None,
            peer_is_v1: false,
            may_measure,
            is_automatic: policy.forced.is_none() && may_measure,
            first_verdict: None,
            has_measured: false,
            cases: Cases::default(),
            latest: Time(0),
            heard: None,
            measured_switches: [None; REMEMBERED_SWITCHES],
            switches: 0,
        }
    }

    /// The mode in force.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The mode forced for this peer.
    pub fn forced(&self) -> Option<Mode> {
        self.forced
    }

    /// Whether the peer speaks v1 alone.
    pub fn peer_is_v1(&self) -> bool {
        self.peer_is_v1
    }

    /// What is known of the path.
    pub fn figures(&self) -> &PathFigures {
        self.estimate.figures()
    }

    /// When the path last told anything.
    pub fn heard(&self) -> Option<Time> {
        self.heard
    }

    /// Changes of the mode so far.
    pub fn switches(&self) -> u64 {
        self.switches
    }

    /// Measured changes of the mode within the last minute.
    pub fn switches_last_minute(&self, now: Time) -> u32 {
        let recent = |at: &&Time| now.since(**at) < MEMORY;
        self.measured_switches.iter().flatten().filter(recent).count() as u32
    }

    /// Whether the next samples may change the mode, so that they should come soon.
    pub fn is_watchful(&self, now: Time) -> bool {
        let undecided = self.first_verdict.is_none_or(|first| now.since(first) < CONFIRMED_AFTER);
        let restless = self.switches_last_minute(now) > 0;
        let moved = self.estimate.moved().is_some_and(|moved| now.since(moved) < LONGEST_SILENCE);
        self.is_automatic && (undecided || restless || moved || self.cases.away().is_some())
    }

    /// Takes a sample of the path.
    pub fn on_sample(
        &mut self,
        sample: &PathSample,
        policy: &ModePolicy,
        now: Time,
    ) -> Option<Transition> {
        self.latest = self.latest.max(now);
        if !self.estimate.update(sample, self.latest) {
            return None;
        }
        let heard = self.heard.replace(self.latest).unwrap_or(self.latest);
        let silence = self.latest.since(heard);
        if silence > LONGEST_SILENCE {
            self.cases = Cases::default();
        }
        if !self.is_automatic {
            return None;
        }
        let verdict = self.verdict(policy)?;
        self.first_verdict.get_or_insert(self.latest);
        self.cases.weigh(verdict, self.mode, silence, self.latest);
        let (to, since) = self.confirmed(verdict)?;
        let grounds = verdict::grounds(self.figures(), &policy.thresholds, self.mode, verdict);
        self.measured_switches.rotate_right(1);
        self.measured_switches[0] = Some(self.latest);
        self.has_measured = true;
        Some(self.switch(to, since, Cause::Measured, grounds, policy))
    }

    /// Forces a mode for this peer, or leaves it to measurement again.
    pub fn force(&mut self, mode: Option<Mode>, policy: &ModePolicy) -> Option<Transition> {
        self.forced = mode;
        self.apply(policy)
    }

    /// Whether the peer speaks v1 alone.
    pub fn set_peer_is_v1(&mut self, is_v1: bool, policy: &ModePolicy) -> Option<Transition> {
        self.peer_is_v1 = is_v1;
        self.apply(policy)
    }

    /// Whether figures may bring a mode into force. Where they may not they are still kept, so that the
    /// right mode is known at once when they may again.
    pub fn set_may_measure(
        &mut self,
        may_measure: bool,
        policy: &ModePolicy,
    ) -> Option<Transition> {
        if std::mem::replace(&mut self.may_measure, may_measure) == may_measure {
            return None;
        }
        let mut transition = self.apply(policy)?;
        if transition.cause == Cause::Released {
            transition.cause = Cause::FlagOn;
        }
        Some(transition)
    }

    /// Applies what does not wait for samples: a peer that speaks v1 alone, then the mode forced for
    /// it, then the one forced for all, then that of peers that are not measured, then what is allowed.
    pub fn apply(&mut self, policy: &ModePolicy) -> Option<Transition> {
        let forced = self.forced.or(policy.forced);
        let was_automatic = self.is_automatic;
        self.is_automatic = !self.peer_is_v1 && forced.is_none() && self.may_measure;
        let (to, cause) = match forced {
            _ if self.peer_is_v1 => (Mode::V1Compat, Cause::PeerIsV1),
            Some(mode) => (mode, Cause::Forced),
            None if !self.may_measure => (policy.unmeasured(), Cause::FlagOff),
            None if was_automatic => (policy.allowed(self.mode), Cause::NotAllowed),
            None => (self.verdict(policy).unwrap_or(policy.start), Cause::Released),
        };
        self.cases = Cases::default();
        (to != self.mode).then(|| self.switch(to, self.latest, cause, Vec::new(), policy))
    }

    fn verdict(&self, policy: &ModePolicy) -> Option<Mode> {
        let verdict = verdict::judge(self.figures(), &policy.thresholds, self.mode)?;
        Some(policy.allowed(verdict))
    }

    /// The mode that verdicts like this one have spoken for long enough for, and since when.
    fn confirmed(&self, verdict: Mode) -> Option<(Mode, Time)> {
        if verdict == self.mode {
            return None;
        }
        let lasted = |case: &Case, patience| self.latest.since(case.since) >= patience;
        let steady = self.cases.of(verdict).filter(|case| lasted(case, self.patience()));
        if let Some(case) = steady.filter(|case| case.samples >= LEAST_SAMPLES) {
            return Some((verdict, case.since));
        }
        // Not before the verdict is hybrid itself: another may be on its way to being confirmed.
        let away = self.cases.away().filter(|case| lasted(case, DOUBTED_AFTER))?;
        (verdict == Mode::Hybrid).then_some((verdict, away.since))
    }

    fn patience(&self) -> Duration {
        let is_first = !self.has_measured
            && self.first_verdict.is_some_and(|first| self.latest.since(first) < CONFIRMED_AFTER);
        let is_restless = self.switches_last_minute(self.latest) >= RESTLESS_SWITCHES;
        match (is_first, is_restless) {
            (true, _) => CONFIRMED_FIRST_AFTER,
            (false, true) => CONFIRMED_LATE_AFTER,
            (false, false) => CONFIRMED_AFTER,
        }
    }

    fn switch(
        &mut self,
        to: Mode,
        since: Time,
        cause: Cause,
        grounds: Vec<Ground>,
        policy: &ModePolicy,
    ) -> Transition {
        self.cases = Cases::default();
        self.switches += 1;
        Transition {
            from: std::mem::replace(&mut self.mode, to),
            to,
            cause,
            grounds,
            figures: *self.figures(),
            thresholds: policy.thresholds,
            held_us: self.latest.0.saturating_sub(since.0),
            switches_last_minute: self.switches_last_minute(self.latest),
            switches: self.switches,
        }
    }
}

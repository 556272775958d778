//! Plays a scenario: the cluster is measured, the controller judges, and what it asks for is done.

use super::cluster::Cluster;
use super::fault::{Effect, Fault};
use super::outcome::{ArmSums, Event, FlagOutcome, FlagPoint, Happening, Outcome, Point};
use super::scenario::{Scenario, ScenarioError};
use crate::base::Time;
use crate::base::limits::MAX_SIMULATED_EVENTS;
use crate::rollout::guard::{Arm, Measured, Observation};
use crate::rollout::{Action, Controller, Flag, FlagSet, Latch, Percent};
use std::time::Duration;

/// Plays a scenario to its end.
///
/// # Errors
/// [`ScenarioError`] for one that cannot be played.
pub fn play(scenario: &Scenario) -> Result<Outcome, ScenarioError> {
    play_watched(scenario, &mut |_, _| {})
}

/// The same; `watch` sees each measurement that the controller sees.
///
/// # Errors
/// [`ScenarioError`] for one that cannot be played.
pub fn play_watched(
    scenario: &Scenario,
    watch: &mut dyn FnMut(Time, &Observation),
) -> Result<Outcome, ScenarioError> {
    scenario.check()?;
    let mut play = Play::new(scenario, watch)?;
    let steps = (scenario.days * DAY_S / scenario.step_s as f64).ceil() as u64;
    for step in 1..=steps {
        play.step(step * scenario.step_s);
    }
    Ok(play.outcome())
}

struct Play<'a> {
    scenario: &'a Scenario,
    watch: &'a mut dyn FnMut(Time, &Observation),
    cluster: Cluster<'a>,
    controller: Controller,
    set: FlagSet,
    /// Flags that can be on.
    flags: Vec<Flag>,
    faults: Vec<RunningFault<'a>>,
    at_s: u64,
    /// How far the cluster's clock is off, in seconds.
    off_s: i64,
    requests: u64,
    sums: [[ArmSums; 2]; Flag::ALL.len()],
    point_ends_s: u64,
    events: Vec<Event>,
    points: Vec<Point>,
    outcomes: Vec<FlagOutcome>,
}

/// A fault, and since when it runs.
struct RunningFault<'a> {
    fault: &'a Fault,
    began_s: Option<u64>,
    is_over: bool,
}

impl<'a> Play<'a> {
    fn new(
        scenario: &'a Scenario,
        watch: &'a mut dyn FnMut(Time, &Observation),
    ) -> Result<Self, ScenarioError> {
        let mut controller = Controller::new(scenario.limits.clone())?;
        let flags: Vec<Flag> = Flag::ALL.into_iter().filter(|flag| flag.is_built()).collect();
        let mut set = FlagSet::all_off();
        for flag in &flags {
            set.state_mut(*flag).rule.enabled = true;
            controller.set_percent(START, *flag, Percent::ZERO);
            let schedule = scenario.schedule(*flag);
            controller.set_schedule(START, *flag, Some(schedule), Duration::ZERO);
        }
        let running = |fault| RunningFault { fault, began_s: None, is_over: false };
        let outcome = |flag: &Flag| FlagOutcome {
            flag: *flag,
            percent: Percent::ZERO,
            rolled_back_at_day: None,
            evidence: None,
        };
        Ok(Self {
            scenario,
            watch,
            cluster: Cluster::new(scenario, scenario.seed),
            controller,
            set,
            faults: scenario.faults.iter().map(running).collect(),
            at_s: 0,
            off_s: 0,
            requests: 0,
            sums: Default::default(),
            point_ends_s: span_s(scenario),
            events: Vec::new(),
            points: Vec::new(),
            outcomes: flags.iter().map(outcome).collect(),
            flags,
        })
    }

    fn step(&mut self, at_s: u64) {
        let seconds = (at_s - self.at_s) as f64;
        self.at_s = at_s;
        self.begin_and_end_faults();
        self.cluster.pass(at_s as f64, seconds);
        let requests = self.cluster.requests(seconds);
        for request in 0..requests {
            let back_s = seconds * f64::from(requests - 1 - request) / f64::from(requests);
            self.request(back_s);
        }
        for link in 0..self.cluster.links.len() {
            self.measure(link, seconds as u64);
        }
        for action in self.controller.tick(self.now(0.0)) {
            self.carry_out(action);
        }
        if at_s >= self.point_ends_s {
            self.end_point();
        }
    }

    /// What the cluster's clock says, so many seconds before the end of this step.
    fn now(&self, back_s: f64) -> Time {
        let off_us = self.off_s.saturating_mul(1_000_000);
        let true_us = START.0 + self.at_s * 1_000_000 - (back_s * 1e6) as u64;
        Time(true_us.saturating_add_signed(off_us))
    }

    fn request(&mut self, back_s: f64) {
        let now = self.now(back_s);
        let link = self.cluster.random.index(self.cluster.links.len());
        let effects = self.effects(link);
        let is_failed = self.cluster.request_fails(&effects);
        self.requests += 1;
        self.count(link, |sums| {
            sums.requests += 1;
            sums.failures += u64::from(is_failed);
        });
        self.report(now, link, &effects, Measured::Request { is_failed });
        if is_failed {
            return;
        }
        let (us, ratio) = self.cluster.latency_us(link, &effects);
        self.count(link, |sums| sums.latency.add(ratio));
        self.report(now, link, &effects, Measured::Latency { us });
    }

    /// What is measured of a link from time to time, each at its own moment.
    fn measure(&mut self, link: usize, step_s: u64) {
        let now = self.now(0.0);
        let is_due = |every_s: u64| {
            let shifted = self.at_s + link as u64 * PHASE_S;
            shifted / every_s != (shifted - step_s) / every_s
        };
        let is_throughput_due = is_due(self.scenario.throughput.interval_s);
        let (are_switches_due, is_detection_due) = (is_due(SWITCHES_S), is_due(DETECTION_S));
        if !is_throughput_due && !are_switches_due && !is_detection_due {
            return;
        }
        let effects = self.effects(link);
        if is_throughput_due {
            let (bytes_per_s, ratio, is_application_limited) =
                self.cluster.throughput(link, &effects);
            if !is_application_limited {
                self.count(link, |sums| sums.throughput.add(ratio));
            }
            let measured = Measured::Throughput { bytes_per_s, is_application_limited };
            self.report(now, link, &effects, measured);
        }
        if are_switches_due {
            let seconds = SWITCHES_S as f64;
            let count = self.cluster.switches(seconds, &effects);
            self.report(now, link, &effects, Measured::ModeSwitches { count, seconds });
        }
        if is_detection_due {
            let is_failed = self.cluster.detection_fails(&effects);
            self.report(now, link, &effects, Measured::Detection { is_failed });
        }
    }

    /// Faults that reach a link now.
    fn effects(&self, link: usize) -> Vec<Effect> {
        let has = &self.cluster.links[link].has;
        let running = self.faults.iter().filter(|fault| fault.is_running());
        let reaching = running.filter(|running| running.fault.reaches(has));
        reaching.map(|running| running.fault.effect).collect()
    }

    /// Tells the controller, once for each flag, unless a fault keeps or spoils it.
    fn report(&mut self, now: Time, link: usize, effects: &[Effect], measured: Measured) {
        if effects.contains(&Effect::MissingData) {
            return;
        }
        let kind = if effects.contains(&Effect::NotANumber) { spoilt(measured) } else { measured };
        for place in 0..self.flags.len() {
            let flag = self.flags[place];
            let link = &self.cluster.links[link];
            let arm = if link.has[flag.index()] { Arm::Treated } else { Arm::Control };
            let observation = Observation { flag, arm, unit: link.units[flag.index()], kind };
            (self.watch)(now, &observation);
            self.controller.observe(now, &observation);
        }
    }

    fn count(&mut self, link: usize, add: impl Fn(&mut ArmSums)) {
        for flag in &self.flags {
            let arm = usize::from(self.cluster.links[link].has[flag.index()]);
            add(&mut self.sums[flag.index()][arm]);
        }
    }

    fn begin_and_end_faults(&mut self) {
        for index in 0..self.faults.len() {
            let running = &self.faults[index];
            if running.began_s.is_none() && self.is_to_begin(running.fault) {
                self.begin(index);
            } else if running.is_to_end(self.at_s) {
                self.faults[index].is_over = true;
                let fault = self.faults[index].fault;
                self.tell(fault.flag, Happening::FaultEnded(fault.describe()));
            }
        }
    }

    fn is_to_begin(&self, fault: &Fault) -> bool {
        let is_time = fault.at_day.is_some_and(|day| self.at_s as f64 >= day * DAY_S);
        let has_percent = |(flag, percent): (Flag, Percent)| {
            self.set.rule(flag).rollout_percent >= percent && self.set.state(flag).latch.is_none()
        };
        is_time || fault.flag.zip(fault.at_percent).is_some_and(has_percent)
    }

    fn begin(&mut self, index: usize) {
        let fault = self.faults[index].fault;
        self.faults[index].began_s = Some(self.at_s);
        self.tell(fault.flag, Happening::FaultBegan(fault.describe()));
        match fault.effect {
            Effect::ClockJump { seconds } => self.off_s = self.off_s.saturating_add(seconds),
            Effect::Corruption => {
                let reached = |link: &usize| fault.reaches(&self.cluster.links[*link].has);
                let link = (0..self.cluster.links.len()).find(reached);
                if let Some(link) = link {
                    self.report(self.now(0.0), link, &[], Measured::Corruption);
                }
            }
            _ => {}
        }
    }

    fn carry_out(&mut self, action: Action) {
        let now = self.now(0.0);
        match action {
            Action::Advance { flag, percent } => {
                self.set.state_mut(flag).rule.rollout_percent = percent;
                self.controller.set_percent(now, flag, percent);
                self.tell(Some(flag), Happening::Raised(percent));
            }
            Action::RollBack { flag, evidence } => {
                let reason = evidence.to_string();
                let latch = Latch { since_us: now.0, reason, evidence: None };
                self.set.state_mut(flag).latch = Some(latch);
                self.controller.rolled_back(now, flag);
                let at_day = self.day();
                for outcome in self.outcomes.iter_mut().filter(|outcome| outcome.flag == flag) {
                    outcome.rolled_back_at_day = Some(at_day);
                    outcome.evidence = Some((*evidence).clone());
                }
                self.tell(Some(flag), Happening::RolledBack(evidence));
            }
            Action::Hold { flag, reason } => {
                return self.tell(Some(flag), Happening::Held(reason));
            }
        }
        self.cluster.decide(&self.set);
    }

    fn tell(&mut self, flag: Option<Flag>, what: Happening) {
        if self.events.len() < MAX_SIMULATED_EVENTS {
            let at_day = self.day();
            self.events.push(Event { at_day, flag, what });
        }
    }

    /// To four decimals, which is less than ten seconds.
    fn day(&self) -> f64 {
        (self.at_s as f64 / DAY_S * 1e4).round() / 1e4
    }

    fn percent(&self, flag: Flag) -> Percent {
        let state = self.set.state(flag);
        if state.latch.is_some() { Percent::ZERO } else { state.rule.rollout_percent }
    }

    fn end_point(&mut self) {
        self.point_ends_s += span_s(self.scenario);
        let sums = std::mem::take(&mut self.sums);
        let flag_point = |flag: &Flag| {
            let [control, treated] = sums[flag.index()].map(|sums| sums.point());
            FlagPoint { flag: *flag, percent: self.percent(*flag), treated, control }
        };
        let flags = self.flags.iter().map(flag_point).collect();
        self.points.push(Point { at_day: self.day(), flags });
    }

    fn outcome(mut self) -> Outcome {
        for index in 0..self.outcomes.len() {
            self.outcomes[index].percent = self.percent(self.outcomes[index].flag);
        }
        Outcome {
            name: self.scenario.name.clone(),
            seed: self.scenario.seed,
            days: self.scenario.days,
            requests: self.requests,
            flags: self.outcomes,
            events: self.events,
            points: self.points,
        }
    }
}

impl RunningFault<'_> {
    fn is_running(&self) -> bool {
        self.began_s.is_some() && !self.is_over
    }

    fn is_to_end(&self, at_s: u64) -> bool {
        let lasts = self.began_s.zip(self.fault.lasts_hours);
        let is_past = |(began_s, hours)| (at_s - began_s) as f64 >= hours * 3600.0;
        !self.is_over && lasts.is_some_and(is_past)
    }
}

/// The same measurement as no number.
fn spoilt(measured: Measured) -> Measured {
    match measured {
        Measured::Latency { .. } => Measured::Latency { us: f64::NAN },
        Measured::Throughput { is_application_limited, .. } => {
            Measured::Throughput { bytes_per_s: f64::INFINITY, is_application_limited }
        }
        Measured::ModeSwitches { count, .. } => Measured::ModeSwitches { count, seconds: 0.0 },
        other => other,
    }
}

/// How much time one point covers: a quarter of a day, or more where that would be too many.
fn span_s(scenario: &Scenario) -> u64 {
    let all_s = (scenario.days * DAY_S) as u64;
    let finest_s = if all_s >= FINE_BELOW_S { QUARTER_DAY_S } else { all_s / MOST_POINTS };
    finest_s.max(all_s / MOST_POINTS).max(scenario.step_s)
}

const DAY_S: f64 = 86_400.0;
const QUARTER_DAY_S: u64 = 21_600;
/// Shorter scenarios get as many points as there may be.
const FINE_BELOW_S: u64 = 20 * 86_400;
const MOST_POINTS: u64 = 400;
/// Clocks start somewhere; a year leaves room for jumps back.
const START: Time = Time(365 * 86_400 * 1_000_000);
/// How far the moments of one link are from those of the next.
const PHASE_S: u64 = 61;
const SWITCHES_S: u64 = 600;
const DETECTION_S: u64 = 3600;

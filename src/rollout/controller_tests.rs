//! The controller by hand: what it is told, and what it asks for.

use super::*;
use crate::rollout::Stage;

const SECOND: u64 = 1_000_000;
const START: u64 = 1_000_000 * SECOND;
const FLAG: Flag = Flag::HybridMode;

/// A controller and a clock that goes by seconds.
struct Bench {
    controller: Controller,
    now: u64,
}

impl Bench {
    /// Flags at zero, then raised.
    fn new(flags: &[(Flag, u8)]) -> Self {
        let mut bench =
            Self { controller: Controller::new(Limits::default()).unwrap(), now: START };
        for flag in Flag::ALL {
            bench.controller.set_percent(Time(START), flag, Percent::ZERO);
        }
        bench.requests(200, 0, &Flag::ALL);
        for (flag, percent) in flags {
            bench.percent(*flag, *percent);
        }
        bench
    }

    fn percent(&mut self, flag: Flag, percent: u8) {
        self.controller.set_percent(Time(self.now), flag, Percent::whole(percent));
    }

    fn observe(&mut self, flag: Flag, arm: Arm, unit: u64, kind: Measured) {
        self.controller.observe(Time(self.now), &Observation { flag, arm, unit, kind });
    }

    /// Requests without any of the flags, a second each.
    fn requests(&mut self, count: u64, failing: u64, flags: &[Flag]) {
        for request in 0..count {
            self.now += SECOND;
            for flag in flags {
                let is_failed = request < failing;
                self.observe(*flag, Arm::Control, request % 10, Measured::Request { is_failed });
            }
        }
    }

    /// Requests of both arms, of which the treated ones fail.
    fn harm(&mut self, count: u64, flags: &[Flag]) {
        for request in 0..count {
            self.now += SECOND;
            for flag in flags {
                let unit = request % 10;
                self.observe(*flag, Arm::Treated, unit, Measured::Request { is_failed: true });
                for unit in 10..15 {
                    self.observe(*flag, Arm::Control, unit, Measured::Request { is_failed: false });
                }
            }
        }
    }

    fn health(&mut self, count: u64, flags: &[Flag]) {
        for request in 0..count {
            self.now += SECOND;
            for flag in flags {
                for (arm, unit) in [(Arm::Treated, request % 10), (Arm::Control, 10 + request % 10)]
                {
                    self.observe(*flag, arm, unit, Measured::Request { is_failed: false });
                }
            }
        }
    }

    fn tick(&mut self) -> Vec<Action> {
        self.controller.tick(Time(self.now))
    }

    /// Seconds pass, with ticks; what they brought.
    fn wait(&mut self, seconds: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        for _ in 0..seconds.div_ceil(60) {
            self.now += 60 * SECOND;
            actions.extend(self.tick());
        }
        actions
    }

    fn schedule(&mut self, flag: Flag, stages: &[(u64, u8)]) {
        let stage = |(after_s, percent): &(u64, u8)| Stage {
            after_s: *after_s,
            percent: Percent::whole(*percent),
        };
        let schedule = Schedule::new(stages.iter().map(stage).collect()).unwrap();
        let (now, none) = (Time(self.now), Duration::ZERO);
        self.controller.set_schedule(now, flag, Some(schedule), none);
    }
}

fn rolled_back(actions: &[Action]) -> Vec<Flag> {
    let flag = |action: &Action| match action {
        Action::RollBack { flag, .. } => Some(*flag),
        _ => None,
    };
    actions.iter().filter_map(flag).collect()
}

fn holds(actions: &[Action]) -> Vec<HoldReason> {
    let reason = |action: &Action| match action {
        Action::Hold { reason, .. } => Some(*reason),
        _ => None,
    };
    actions.iter().filter_map(reason).collect()
}

#[test]
fn a_rollback_is_asked_for_until_it_is_done_and_holds_until_it_is_cleared() {
    let mut bench = Bench::new(&[(FLAG, 10)]);
    bench.harm(8, &[FLAG]);
    let actions = bench.tick();
    assert_eq!(rolled_back(&actions), [FLAG]);
    let Action::RollBack { evidence, .. } = &actions[0] else { panic!("{actions:?}") };
    assert!(evidence.is_hard && evidence.beside == Some(Beside::Control));
    assert!(evidence.to_string().starts_with("100 % of "), "{evidence}");
    assert_eq!(rolled_back(&bench.tick()), [FLAG], "nobody said that it is done");
    bench.controller.rolled_back(Time(bench.now), FLAG);
    bench.harm(50, &[FLAG]);
    assert_eq!(bench.tick(), []);
    let view = bench.controller.view(Time(bench.now), FLAG);
    assert!(view.evidence.is_some() && !view.is_in_flight);
    bench.controller.clear(Time(bench.now), FLAG);
    assert!(bench.controller.view(Time(bench.now), FLAG).is_in_flight);
    assert_eq!(rolled_back(&bench.tick()), [], "what was is forgiven");
    bench.harm(8, &[FLAG]);
    assert_eq!(rolled_back(&bench.tick()), [FLAG]);
}

#[test]
fn of_several_the_last_one_in_is_the_first_one_out() {
    let flags = [Flag::InternetOptimization, FLAG, Flag::MlCompression];
    let mut bench = Bench::new(&flags.map(|flag| (flag, 50)));
    let mut order = Vec::new();
    for _ in 0..3 {
        bench.harm(20, &flags);
        let back = rolled_back(&bench.tick());
        assert_eq!(back.len(), 1);
        bench.controller.rolled_back(Time(bench.now), back[0]);
        bench.now += 11 * SECOND;
        assert_eq!(rolled_back(&bench.tick()), [], "the others are judged anew");
        order.extend(back);
    }
    assert_eq!(order, [Flag::MlCompression, FLAG, Flag::InternetOptimization]);
}

#[test]
fn another_flags_harm_is_told_apart_by_the_control_arm() {
    let mut bench = Bench::new(&[(Flag::MlCompression, 50), (FLAG, 50)]);
    for request in 0..400_u64 {
        bench.now += SECOND;
        // Units 0 to 9 have ml_compression, which does harm; every other unit has hybrid_mode.
        let unit = request % 20;
        let is_failed = unit < 10;
        for (flag, has) in [(Flag::MlCompression, unit < 10), (FLAG, unit % 2 == 0)] {
            let arm = if has { Arm::Treated } else { Arm::Control };
            bench.observe(flag, arm, unit, Measured::Request { is_failed });
        }
        let back = rolled_back(&bench.tick());
        if !back.is_empty() {
            assert_eq!(back, [Flag::MlCompression]);
            return;
        }
    }
    panic!("nothing was taken back");
}

#[test]
fn a_schedule_goes_on_only_with_fresh_evidence_of_health() {
    let mut bench = Bench::new(&[]);
    bench.schedule(FLAG, &[(0, 0), (1000, 10), (11_000, 50)]);
    bench.requests(900, 0, &[FLAG]);
    assert_eq!(bench.tick(), []);
    bench.requests(100, 0, &[FLAG]);
    let advance = |percent| Action::Advance { flag: FLAG, percent: Percent::whole(percent) };
    assert_eq!(bench.tick(), [advance(10)]);
    assert_eq!(bench.tick(), [advance(10)], "until it is done");
    bench.percent(FLAG, 10);
    assert_eq!(bench.tick(), []);
    bench.health(50, &[FLAG]);
    let actions = bench.wait(10_000);
    assert_eq!(holds(&actions), [HoldReason::FewRequests { requests: 50 }]);
    bench.health(200, &[FLAG]);
    assert_eq!(bench.tick(), [advance(50)]);
    bench.now += 300 * SECOND;
    let actions = bench.wait(3700);
    assert_eq!(holds(&actions), [HoldReason::MissingData(Metric::ErrorRate)]);
    bench.health(1, &[FLAG]);
    bench.observe(FLAG, Arm::Treated, 1, Measured::Latency { us: f64::NAN });
    assert_eq!(holds(&bench.tick()), [HoldReason::UnusableData]);
    assert_eq!(bench.controller.view(Time(bench.now), FLAG).unusable, 1);
}

#[test]
fn a_schedule_under_way_goes_on_where_it_was() {
    let stages = [(0, 0), (100_000, 10), (200_000, 50)];
    let mut bench = Bench::new(&[(FLAG, 10)]);
    let stage = |(after_s, percent)| Stage { after_s, percent: Percent::whole(percent) };
    let schedule = Schedule::new(stages.map(stage).to_vec()).unwrap();
    let elapsed = Duration::from_secs(195_000);
    bench.controller.set_schedule(Time(bench.now), FLAG, Some(schedule), elapsed);
    bench.health(4900, &[FLAG]);
    assert_eq!(bench.tick(), []);
    bench.health(200, &[FLAG]);
    assert!(matches!(bench.tick()[..], [Action::Advance { .. }]));
}

#[test]
fn an_arm_that_falls_silent_holds() {
    let mut bench = Bench::new(&[(FLAG, 10)]);
    bench.schedule(FLAG, &[(0, 10), (5000, 50)]);
    for second in 0..6000 {
        bench.now += SECOND;
        let request = Measured::Request { is_failed: false };
        bench.observe(FLAG, Arm::Treated, second % 10, request);
        bench.observe(FLAG, Arm::Control, 10, request);
        bench.observe(FLAG, Arm::Control, 10, Measured::Latency { us: 5.0 });
    }
    assert_eq!(holds(&bench.tick()), [HoldReason::MissingData(Metric::Latency)]);
}

#[test]
fn a_jump_of_the_clock_holds_and_what_is_measured_then_does_not_count() {
    for to in [START / 2, START * 3] {
        let mut bench = Bench::new(&[(FLAG, 10)]);
        bench.schedule(FLAG, &[(0, 10), (1_000_000, 50)]);
        bench.health(300, &[FLAG]);
        bench.tick();
        bench.now = to;
        bench.harm(30, &[FLAG]);
        let actions = bench.tick();
        assert_eq!(
            (rolled_back(&actions), holds(&actions)),
            (vec![], vec![HoldReason::ClockJumped])
        );
        bench.health(40, &[FLAG]);
        assert_eq!(bench.tick(), [], "the time ahead brought no stage closer");
        bench.harm(30, &[FLAG]);
        assert_eq!(rolled_back(&bench.tick()), [FLAG], "real harm is found after it");
    }
}

#[test]
fn values_that_are_no_numbers_never_take_back() {
    let mut bench = Bench::new(&[(FLAG, 50)]);
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -1.0] {
        for unit in 0..500 {
            bench.now += SECOND;
            let limited =
                Measured::Throughput { bytes_per_s: value, is_application_limited: false };
            let switches = Measured::ModeSwitches { count: u32::MAX, seconds: value };
            for kind in [Measured::Latency { us: value }, limited, switches] {
                bench.observe(FLAG, Arm::Treated, unit % 10, kind);
            }
        }
        assert_eq!(rolled_back(&bench.tick()), []);
    }
    let mut extreme = Bench::new(&[(FLAG, 50)]);
    for value in [f64::MAX, f64::MIN_POSITIVE] {
        for unit in 0..100 {
            extreme.now += SECOND;
            let arm = if unit % 2 == 0 { Arm::Treated } else { Arm::Control };
            extreme.observe(FLAG, arm, unit % 10, Measured::Latency { us: value });
            let switches = Measured::ModeSwitches { count: 0, seconds: value };
            extreme.observe(FLAG, arm, unit % 10, switches);
        }
    }
    assert_eq!(rolled_back(&extreme.tick()), []);
}

#[test]
fn what_is_on_everywhere_from_the_start_is_no_rollout() {
    let mut controller = Controller::new(Limits::default()).unwrap();
    controller.set_percent(Time(START), FLAG, Percent::FULL);
    for request in 0..1000 {
        let kind = Measured::Request { is_failed: true };
        let observation = Observation { flag: FLAG, arm: Arm::Treated, unit: request % 10, kind };
        controller.observe(Time(START + request * SECOND), &observation);
    }
    assert_eq!(controller.tick(Time(START + 1000 * SECOND)), []);
}

#[test]
fn an_allow_list_is_watched_too() {
    let mut bench = Bench::new(&[(FLAG, 0)]);
    bench.harm(10, &[FLAG]);
    assert_eq!(rolled_back(&bench.tick()), [FLAG]);
}

#[test]
fn damage_needs_no_weighing_even_while_the_clock_is_off() {
    let mut bench = Bench::new(&[(FLAG, 10)]);
    bench.observe(FLAG, Arm::Control, 20, Measured::Corruption);
    assert_eq!(rolled_back(&bench.tick()), []);
    bench.now += 86_400 * SECOND;
    bench.observe(FLAG, Arm::Treated, 1, Measured::Corruption);
    assert_eq!(rolled_back(&bench.tick()), [FLAG]);
}

#[test]
fn limits_are_checked_and_changed_while_in_flight() {
    let mut bench = Bench::new(&[(FLAG, 50)]);
    let bad = Limits { max_error_rate: f64::NAN, ..Limits::default() };
    assert!(bench.controller.set_limits(bad).is_err());
    assert_eq!(*bench.controller.limits(), Limits::default());
    let lax = Limits { max_error_rate: 90.0, ..Limits::default() };
    bench.controller.set_limits(lax).unwrap();
    for request in 0..500 {
        bench.now += SECOND;
        let is_failed = request % 2 == 0;
        bench.observe(FLAG, Arm::Treated, request % 10, Measured::Request { is_failed });
        bench.observe(FLAG, Arm::Control, 10, Measured::Request { is_failed: false });
    }
    assert_eq!(rolled_back(&bench.tick()), []);
}

#[test]
fn actions_are_json() {
    let action = Action::Hold { flag: FLAG, reason: HoldReason::MissingData(Metric::Latency) };
    let json = serde_json::to_string(&action).unwrap();
    assert_eq!(
        json,
        "{\"hold\":{\"flag\":\"hybrid_mode\",\"reason\":{\"missing_data\":\"latency\"}}}"
    );
}

//! Failures against chance, by seeds that stay the same.

use super::*;
use dwcp_netlab::shaper::SplitMix;

/// One service: which part of its requests has the flag, and how often requests fail.
#[derive(Clone, Copy)]
struct Service {
    share: f64,
    healthy_requests: u64,
    usual: f64,
    treated: f64,
    control: f64,
}

/// Requests of the treated arm from the beginning of the harm until the verdict.
fn found_after(service: Service, most: u64, seed: u64) -> Option<u64> {
    let mut random = SplitMix(seed);
    let mut guard = FailureGuard::new(0.01);
    (0..20_000).for_each(|_| guard.control(random.next_unit() < service.usual));
    guard.raise();
    let is_alone = service.share >= 1.0;
    let mut requests = 0;
    for second in 0.. {
        let is_harmed = requests >= service.healthy_requests;
        let rate = |harmed| if is_harmed { harmed } else { service.usual };
        if random.next_unit() < service.share {
            requests += 1;
            let is_failed = random.next_unit() < rate(service.treated);
            guard.treated(Time(second * 1_000_000), random.next_u64() % 20, is_failed);
        } else {
            guard.control(random.next_unit() < rate(service.control));
        }
        let after = requests.saturating_sub(service.healthy_requests);
        if guard.verdict(is_alone).is_some() {
            return Some(after);
        }
        if after >= most {
            break;
        }
    }
    None
}

fn count_found(service: Service, most: u64, runs: u64) -> u64 {
    (0..runs).filter(|seed| found_after(service, most, *seed).is_some()).count() as u64
}

const HARM: Service =
    Service { share: 0.1, healthy_requests: 0, usual: 0.01, treated: 0.05, control: 0.01 };

#[test]
fn five_times_the_errors_are_found_within_500_requests() {
    for share in [0.1, 0.5, 1.0] {
        let found = count_found(Service { share, ..HARM }, 500, 300);
        assert!(found >= 297, "{found} of 300 at {share}");
    }
}

#[test]
fn harm_that_begins_late_is_found_too() {
    let late = Service { healthy_requests: 100_000, share: 0.5, ..HARM };
    let found = count_found(late, 1500, 20);
    assert_eq!(found, 20);
}

#[test]
fn a_component_that_does_not_work_is_found_at_once() {
    let broken = Service { usual: 0.001, treated: 1.0, control: 0.001, ..HARM };
    for seed in 0..100 {
        let requests = found_after(broken, 20, seed);
        assert!(requests.is_some_and(|requests| requests <= 8), "{requests:?}, seed {seed}");
    }
}

#[test]
fn healthy_services_are_left_alone() {
    for usual in [0.005, 0.01] {
        let healthy = Service { usual, treated: usual, control: usual, share: 0.5, ..HARM };
        let found = count_found(healthy, 10_000, 100);
        assert!(found <= 1, "{found} of 100 at {usual}");
    }
}

#[test]
fn what_everybody_suffers_is_not_the_flags_doing() {
    let all = Service { healthy_requests: 2000, treated: 0.05, control: 0.05, ..HARM };
    let found = count_found(all, 5000, 100);
    assert!(found <= 2, "{found} of 100");
    // It begins with the raise, and the control arm is small.
    for (rate, most) in [(0.03, 15), (0.05, 10), (0.5, 2)] {
        let all = Service { share: 0.5, treated: rate, control: rate, ..HARM };
        let found = count_found(all, 1000, 100);
        assert!(found <= most, "{found} of 100 at {rate}");
    }
}

#[test]
fn a_service_that_was_bad_before_is_held_against_itself() {
    let bad = Service { usual: 0.03, treated: 0.03, control: 0.03, ..HARM };
    assert_eq!(count_found(bad, 5000, 50), 0);
    let worse = Service { treated: 0.15, ..bad };
    assert_eq!(count_found(worse, 1000, 50), 50);
}

#[test]
fn an_outage_leaves_no_evidence_behind() {
    let mut random = SplitMix(5);
    let mut guard = FailureGuard::new(0.01);
    guard.raise();
    for request in 0..200_000_u64 {
        let rate = if (20_000..30_000).contains(&request) { 0.2 } else { 0.005 };
        let is_failed = random.next_unit() < rate;
        let arm = if random.next_unit() < 0.5 { Arm::Treated } else { Arm::Control };
        guard.observe(Time(request * 1_000_000), arm, random.next_u64() % 20, is_failed);
        assert_eq!(guard.verdict(false), None, "request {request}");
    }
    assert!(!guard.is_suspicious());
}

#[test]
fn one_dead_host_among_many_units_does_not_speak_for_all() {
    let mut guard = FailureGuard::new(0.01);
    guard.raise();
    for request in 0..3000_u64 {
        let unit = request % 30;
        // Unit 3 fails 40 times within a minute.
        let (at, is_failed) = (Time(request * 30_000), unit == 3 && request < 1200);
        guard.treated(at, unit, is_failed);
        guard.control(false);
        assert_eq!(guard.verdict(false), None, "request {request}");
    }
}

#[test]
fn without_a_word_from_the_control_arm_there_is_no_verdict() {
    let mut guard = FailureGuard::new(0.01);
    guard.raise();
    (0..1000_u64).for_each(|request| guard.treated(Time(request * 1_000_000), request % 4, true));
    assert_eq!(guard.verdict(false), None);
    let alone = guard.verdict(true).unwrap();
    assert_eq!((alone.other, alone.treated.failures), (None, alone.treated.requests));
}

#[test]
fn a_few_requests_of_the_control_arm_are_no_witness() {
    let mut guard = FailureGuard::new(0.01);
    guard.raise();
    for request in 0..500_u64 {
        guard.treated(Time(request * 1_000_000), request % 4, request % 20 == 0);
        if request % 50 == 0 {
            guard.control(false);
        }
    }
    assert!(guard.odds().is_some(), "above the limit, for whatever reason");
    assert_eq!(guard.verdict(false), None);
}

#[test]
fn the_number_of_first_failures_is_exact() {
    // From tables of the binomial distribution of 500 requests.
    assert_eq!((too_many(0.01, 7e-4), too_many(0.01, 6.4e-4)), (14, 15));
    assert_eq!(too_many(0.9, 1e-9), 486);
    assert!(too_many(1e-4, 7e-4) >= 1);
}

#[test]
fn units_are_bounded() {
    let mut guard = FailureGuard::new(0.01);
    (0..10_000).for_each(|unit| guard.treated(Time(0), unit, false));
    assert_eq!(guard.runs.len(), MAX_GUARD_UNITS);
}

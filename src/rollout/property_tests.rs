//! What holds for every set of flags and every unit, over seeded random ones.

use super::*;
use crate::wire::v1::flags as v1_flags;
use fastrand::Rng;

const NOW_S: u64 = 1_000;

fn name(random: &mut Rng) -> String {
    format!("node-{}", random.u8(..40))
}

fn unit_text(random: &mut Rng) -> String {
    if random.bool() { name(random) } else { format!("{}|{}", name(random), name(random)) }
}

fn list(random: &mut Rng) -> Vec<String> {
    let length = if random.bool() { 0 } else { random.usize(..6) };
    (0..length).map(|_| unit_text(random)).collect()
}

fn percent(random: &mut Rng) -> Percent {
    Percent::from_parts(random.u32(..=Percent::PARTS)).unwrap()
}

/// A rule that may contradict itself or wait for itself.
fn rule(random: &mut Rng) -> FlagRule {
    let prerequisites =
        if random.u8(..4) == 0 { vec![random.choice(Flag::ALL).unwrap()] } else { vec![] };
    FlagRule {
        enabled: random.u8(..5) != 0,
        rollout_percent: percent(random),
        allow_list: list(random),
        deny_list: list(random),
        seed: random.u64(..3),
        prerequisites,
        expires_s: (random.u8(..6) == 0).then(|| random.u64(..2 * NOW_S)),
        ..FlagRule::off()
    }
}

fn set(random: &mut Rng) -> FlagSet {
    let mut set = FlagSet::all_off();
    for flag in Flag::ALL {
        let state = set.state_mut(flag);
        state.rule = rule(random);
        let latch = Latch { since_us: 0, reason: "errors".into(), evidence: None };
        state.latch = (random.u8(..6) == 0).then_some(latch);
    }
    set.killed = (random.u8(..20) == 0).then(|| "drill".into());
    set
}

fn is_on(set: &FlagSet, flag: Flag, unit: &str) -> bool {
    decide(set, flag, &Unit::named(unit), true, NOW_S).is_on
}

/// The order of decision again, as plainly as it can be said; `seen` holds the flags that wait.
fn plainly(set: &FlagSet, flag: Flag, unit: &str, peer_can: bool, seen: &[Flag]) -> &'static str {
    let (rule, key) = (set.rule(flag), Unit::named(unit).to_string());
    let members: Vec<_> = key.splitn(2, '|').map(str::to_owned).collect();
    let is_in = |list: &[String]| {
        let is_it = |name: &String| Unit::named(name).to_string() == key || members.contains(name);
        list.iter().any(is_it)
    };
    let is_unmet = |other: &&Flag| {
        let seen = [seen, &[flag]].concat();
        let is_on = |reason| ["allowed", "percentage"].contains(&reason);
        seen.contains(other) || !is_on(plainly(set, **other, unit, true, &seen))
    };
    let place = bucket(flag, rule.seed, &Unit::named(unit));
    let questions = [
        (set.killed.is_some(), "kill_switch"),
        (!rule.enabled, "not_enabled"),
        (rule.is_expired(NOW_S), "expired"),
        (!flag.is_built(), "not_built"),
        (is_in(&rule.deny_list), "denied"),
        (!peer_can, "peer_cannot"),
        (rule.prerequisites.iter().any(|other| is_unmet(&other)), "prerequisite_unmet"),
        (set.state(flag).latch.is_some(), "latched_off"),
        (is_in(&rule.allow_list), "allowed"),
        (place < rule.rollout_percent.parts(), "percentage"),
    ];
    let first = questions.into_iter().find(|(applies, _)| *applies);
    first.map_or("below_percentage", |(_, reason)| reason)
}

#[test]
fn a_snapshot_answers_as_the_order_says() {
    for seed in 0..400 {
        let mut random = Rng::with_seed(seed);
        let set = set(&mut random);
        let snapshot = Snapshot::new(&set);
        for _ in 0..40 {
            let (unit, peer_can) = (unit_text(&mut random), random.u8(..8) != 0);
            let flag = random.choice(Flag::ALL).unwrap();
            let prepared = PreparedUnit::from(Unit::named(&unit));
            let decision = snapshot.decide(flag, &prepared.unit(), peer_can, NOW_S);
            let expected = plainly(&set, flag, &unit, peer_can, &[]);
            assert_eq!(decision.reason.name(), expected, "seed {seed}, {flag} of {unit}");
            assert_eq!(decision, decide(&set, flag, &Unit::named(&unit), peer_can, NOW_S));
        }
    }
}

#[test]
fn raising_a_percentage_never_removes_a_unit() {
    for seed in 0..300 {
        let mut random = Rng::with_seed(seed);
        let before = set(&mut random);
        let mut after = before.clone();
        let raised = random.choice(Flag::ALL).unwrap();
        let percent = percent(&mut random).max(before.rule(raised).rollout_percent);
        after.state_mut(raised).rule.rollout_percent = percent;
        for _ in 0..50 {
            let unit = unit_text(&mut random);
            for flag in Flag::ALL {
                let kept = !is_on(&before, flag, &unit) || is_on(&after, flag, &unit);
                assert!(kept, "seed {seed}: {raised} at {percent} % took {flag} from {unit}");
            }
        }
    }
}

#[test]
fn a_list_moves_none_but_those_on_it() {
    for seed in 0..300 {
        let mut random = Rng::with_seed(seed);
        let before = set(&mut random);
        let mut after = before.clone();
        let flag = random.choice(Flag::ALL).unwrap();
        let (allowed, denied) = (unit_text(&mut random), unit_text(&mut random));
        after.state_mut(flag).rule.allow_list.push(allowed.clone());
        after.state_mut(flag).rule.deny_list.push(denied.clone());
        let listed = FlagRule { allow_list: vec![allowed, denied], ..FlagRule::on() };
        let mut listing = FlagSet::all_off();
        listing.state_mut(Flag::HybridMode).rule =
            FlagRule { rollout_percent: Percent::ZERO, ..listed };
        for _ in 0..50 {
            let unit = unit_text(&mut random);
            if !is_on(&listing, Flag::HybridMode, &unit) {
                let same =
                    Flag::ALL.map(|flag| is_on(&before, flag, &unit) == is_on(&after, flag, &unit));
                assert_eq!(same, [true; 5], "seed {seed}: {unit}");
            }
        }
    }
}

/// How far a count is from what is expected of independent draws, in standard deviations.
fn deviations(count: usize, of: usize, chance: f64) -> f64 {
    let (of, count) = (of as f64, count as f64);
    (count - of * chance) / (of * chance * (1.0 - chance)).sqrt()
}

const UNITS: usize = 10_000;

/// Whether each of ten thousand pairs, and nodes, and paths, has each flag at ten percent.
fn draws(seed: u64, unit: impl Fn(usize) -> String) -> Vec<[bool; 5]> {
    let tenth = Percent::whole(10).parts();
    let unit = |number| unit(number);
    let row = |number| {
        let text = unit(number);
        Flag::ALL.map(|flag| bucket(flag, seed, &Unit::named(&text)) < tenth)
    };
    (0..UNITS).map(row).collect()
}

/// The largest deviation of any pair of flags from the overlap of independent draws.
fn worst_overlap(draws: &[[bool; 5]]) -> f64 {
    let pairs = (0..5).flat_map(|one| (0..one).map(move |other| (one, other)));
    let overlap =
        |(one, other): (usize, usize)| draws.iter().filter(|row| row[one] && row[other]).count();
    pairs.map(|pair| deviations(overlap(pair), UNITS, 0.01).abs()).fold(0.0, f64::max)
}

#[test]
fn five_flags_at_ten_percent_overlap_as_independent_draws_do() {
    for seed in 0..20 {
        for draws in [
            draws(seed, |number| format!("node-{number}")),
            draws(seed, |number| format!("node-{}|node-{}", number / 100, number % 100 + 100)),
            draws(seed, |number| {
                format!("host{number:05}.example.org|10.0.{}.{}:4040", number / 256, number % 256)
            }),
        ] {
            for flag in 0..5 {
                let share = draws.iter().filter(|row| row[flag]).count();
                assert!(deviations(share, UNITS, 0.1).abs() < 4.5, "seed {seed}: {share}");
            }
            // The largest of ten pairs, of three kinds and twenty seeds.
            assert!(worst_overlap(&draws) < 4.5, "seed {seed}: {}", worst_overlap(&draws));
            // How many units have so many flags at once.
            for (flags, ways) in [1.0, 5.0, 10.0, 10.0].into_iter().enumerate() {
                let count = draws
                    .iter()
                    .filter(|row| row.iter().filter(|on| **on).count() == flags)
                    .count();
                let chance = ways * 0.1_f64.powi(flags as i32) * 0.9_f64.powi(5 - flags as i32);
                assert!(
                    deviations(count, UNITS, chance).abs() < 4.5,
                    "seed {seed}: {count} with {flags}"
                );
            }
        }
    }
}

#[test]
fn v1s_scheme_meets_the_same_nodes_with_every_flag() {
    let row = |number: usize| [v1_flags::bucket(&format!("node-{number}")) < 10; 5];
    let draws: Vec<_> = (0..UNITS).map(row).collect();
    assert!(worst_overlap(&draws) > 50.0, "{}", worst_overlap(&draws));
}

#[test]
fn another_seed_draws_anew() {
    let text = |number| format!("node-{number}");
    let (one, other) = (draws(1, text), draws(2, text));
    let both = one.iter().zip(&other).filter(|(one, other)| one[0] && other[0]).count();
    assert!(deviations(both, UNITS, 0.01).abs() < 4.5, "{both}");
}

#[test]
fn what_is_put_into_force_can_be_written_and_read() {
    let mut taken = 0;
    for seed in 0..400 {
        let mut random = Rng::with_seed(seed);
        let set = set(&mut random);
        let json = serde_json::to_string(&set).unwrap();
        assert_eq!(serde_json::from_str::<FlagSet>(&json).unwrap(), set);
        let action = ChangeAction::Whole(Box::new(set.clone()));
        let change = Change { who: "ops".into(), why: "drill".into(), evidence: None, action };
        let applied = apply(&FlagSet::default(), &change, 0);
        assert_eq!(applied.is_ok(), set.check().is_ok());
        taken += usize::from(applied.is_ok());
    }
    assert!((50..350).contains(&taken), "{taken}");
}

//! Whole migrations on a virtual clock: the real engines, the real chunk coding, a hostile world.
//!
//! Each seed is one migration with its own mix of lost, doubled, swapped and damaged frames, dead
//! streams, slow and failing hypervisor calls, full disks, cancels and crashes. `SIM_SEED=n` runs
//! one seed again and prints its course; `SIM_RUNS=n` changes how many there are. Both are about
//! every test whose name is asked for.

mod sim;

use sim::relay::{self, RelayWorld};
use sim::switch::SwitchWorld;
use sim::world::{Outcome, World};
use std::collections::BTreeMap;
use std::fmt::Debug;

/// Migrations of one test run.
const RUNS: u64 = 12_000;

fn environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Runs every seed, and wants each of `endings` often enough: a world in which one kind of ending
/// never comes up does not test it.
fn run_all<O: Copy + Debug + Ord>(run_one: fn(u64, bool) -> O, endings: &[O]) {
    if let Some(seed) = environment("SIM_SEED") {
        println!("seed {seed}: {:?}", run_one(seed, true));
        return;
    }
    let runs = environment("SIM_RUNS").unwrap_or(RUNS);
    let mut outcomes: BTreeMap<O, u64> = BTreeMap::new();
    for seed in 0..runs {
        match std::panic::catch_unwind(|| run_one(seed, false)) {
            Ok(outcome) => *outcomes.entry(outcome).or_default() += 1,
            Err(_) => panic!("seed {seed} failed; SIM_SEED={seed} runs it again"),
        }
    }
    println!("{runs} migrations: {outcomes:?}");
    for outcome in endings {
        let share = outcomes.get(outcome).copied().unwrap_or(0) * 100 / runs;
        assert!(share >= 3, "{outcome:?} in {share} % of the runs only: {outcomes:?}");
    }
}

#[test]
fn no_seed_breaks_an_invariant() {
    use Outcome::{DestinationCrashed, Moved, SourceCrashed, Stayed, Switched};
    let endings = [Moved, Switched, Stayed, SourceCrashed, DestinationCrashed];
    run_all(|seed, talk| World::new(seed, talk).run(), &endings);
}

#[test]
fn a_calm_world_always_moves_the_guest() {
    for seed in 0..300 {
        let talk = environment("SIM_CALM_SEED") == Some(seed);
        let outcome = World::calm(seed, talk).run();
        assert!(matches!(outcome, Outcome::Moved | Outcome::Switched), "seed {seed}: {outcome:?}");
    }
}

#[test]
fn streams_that_retire_are_not_lost_and_cost_nothing() {
    let mut retired = 0;
    for seed in 0..600 {
        let talk = environment("SIM_CALM_SEED") == Some(seed);
        let (outcome, ended) = World::restless(seed, talk).run_and_count();
        assert!(matches!(outcome, Outcome::Moved | Outcome::Switched), "seed {seed}: {outcome:?}");
        assert_eq!(ended.lost, 0, "seed {seed}");
        retired += ended.retired;
        let (outcome, ended) = RelayWorld::restless(seed, talk).run_and_count();
        assert_eq!(outcome, relay::Outcome::Moved, "seed {seed}");
        assert_eq!(ended.lost, 0, "seed {seed}");
        retired += ended.retired;
    }
    assert!(retired > 1_000, "{retired} streams retired");
}

#[test]
fn no_relayed_seed_breaks_an_invariant() {
    use relay::Outcome::{DestinationCrashed, Lost, Moved, SourceCrashed, Stayed};
    let endings = [Moved, Stayed, Lost, SourceCrashed, DestinationCrashed];
    run_all(|seed, talk| RelayWorld::new(seed, talk).run(), &endings);
}

#[test]
fn no_relayed_switch_breaks_an_invariant() {
    use Outcome::{DestinationCrashed, Lost, Moved, SourceCrashed, Stayed, Switched};
    let endings = [Moved, Switched, Stayed, Lost, SourceCrashed, DestinationCrashed];
    run_all(|seed, talk| SwitchWorld::new(seed, talk).run(), &endings);
}

#[test]
fn a_bad_network_makes_a_switched_guest_wait_and_nothing_else() {
    for seed in 0..1_000 {
        let talk = environment("SIM_CALM_SEED") == Some(seed);
        let outcome = SwitchWorld::bad_network(seed, talk).run();
        assert!(matches!(outcome, Outcome::Moved | Outcome::Switched), "seed {seed}: {outcome:?}");
    }
}

#[test]
fn a_bad_network_never_costs_a_relayed_migration() {
    for seed in 0..1_000 {
        let talk = environment("SIM_CALM_SEED") == Some(seed);
        let outcome = RelayWorld::bad_network(seed, talk).run();
        assert_eq!(outcome, relay::Outcome::Moved, "seed {seed}");
    }
}

#[test]
fn channels_that_wait_for_each_other_never_stop_a_relayed_migration() {
    for seed in 0..1_000 {
        let talk = environment("SIM_CALM_SEED") == Some(seed);
        let outcome = RelayWorld::out_of_step(seed, talk).run();
        assert_eq!(outcome, relay::Outcome::Moved, "seed {seed}");
    }
}

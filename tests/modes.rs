//! Modes on a virtual clock: paths that step, alternate, burst and lie, and what follows from them.
//!
//! Each seed is one path, looked at in one of four ways. `MODE_SEED=n` runs one seed alone, about
//! every test whose name is asked for; `MODE_RUNS=n` changes how many there are.

mod paths;

use dwcp::base::Time;
use dwcp::transport::mode::{Mode, ModePolicy, ModeTable, PathSample};
use paths::drive::{Drive, SIGHTS, Sight};
use paths::path::{Conditions, MEASURED, Path, SECOND_US};
use serde_json::Value;

const RUNS: u64 = 3_000;
/// No path, whatever it does, brings about more switches in a minute.
const MOST_IN_A_MINUTE: usize = 9;

fn environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

fn for_each_seed(run: impl Fn(u64, Sight, &mut fastrand::Rng) + std::panic::RefUnwindSafe) {
    let one = environment("MODE_SEED");
    let seeds = match one {
        Some(seed) => seed..seed + 1,
        None => 0..environment("MODE_RUNS").unwrap_or(RUNS),
    };
    for seed in seeds {
        let sight = SIGHTS[seed as usize % SIGHTS.len()];
        let run = || run(seed, sight, &mut fastrand::Rng::with_seed(seed));
        if std::panic::catch_unwind(run).is_err() {
            panic!("seed {seed} ({sight:?}) failed; MODE_SEED={seed} runs it again");
        }
    }
}

/// Conditions of different modes, in any order, all of which can be seen to differ.
fn different(count: usize, sight: Sight, random: &mut fastrand::Rng) -> Vec<Conditions> {
    let mut modes = MEASURED.to_vec();
    random.shuffle(&mut modes);
    modes.truncate(count);
    let visible = |mode: &Mode, random: &mut fastrand::Rng| loop {
        let conditions = Conditions::of(*mode, random);
        if sight.visible(conditions).clear_mode() == Some(*mode) {
            return conditions;
        }
    };
    modes.iter().map(|mode| visible(mode, random)).collect()
}

#[test]
fn a_path_that_alternates_every_five_seconds_switches_at_most_twice_a_minute() {
    for_each_seed(|seed, sight, random| {
        let count = random.usize(2..=3);
        let among = different(count, sight, random);
        let end_us = random.u64(120..400) * SECOND_US;
        let settled_us = random.u64(..40) * SECOND_US;
        let mut path = Path::alternating(&among, 5 * SECOND_US, settled_us, end_us);
        path.steps.insert(0, (0, among[count - 1]));
        let mut drive = Drive::new(sight, seed);
        drive.run(end_us, |now, _| path.at(now));
        let most = drive.most_in_a_minute();
        assert!(most <= 2, "{most} switches: {:?}", drive.transitions);
    });
}

#[test]
fn a_lasting_change_is_followed_within_ten_seconds_and_for_good() {
    for_each_seed(|seed, sight, random| {
        let last = different(1, sight, random)[0];
        let change_us = random.u64(1..90) * SECOND_US + random.u64(..SECOND_US);
        let end_us = change_us + 100 * SECOND_US;
        let mut path = match random.u8(..3) {
            0 => Path { steps: vec![(0, different(1, sight, random)[0])] },
            1 => Path::alternating(&different(3, sight, random), 5 * SECOND_US, 0, change_us),
            _ => Path::restless(20 * SECOND_US, change_us, random),
        };
        path.then(change_us, last);
        let mut drive = Drive::new(sight, seed);
        drive.run_path(end_us, &path);
        let in_time_us = change_us + paths::drive::IN_TIME_US;
        let late = drive.transitions.iter().filter(|(at, _)| *at > in_time_us).count();
        assert_eq!(late, 0, "{:?}", drive.transitions);
    });
}

#[test]
fn no_path_switches_more_often_than_the_bound() {
    let seen = std::sync::Mutex::new(0);
    for_each_seed(|seed, sight, random| {
        let longest_us = random.u64(1..30) * SECOND_US;
        let path = Path::restless(longest_us, 200 * SECOND_US, random);
        let mut drive = Drive::new(sight, seed);
        drive.run_path(200 * SECOND_US, &path);
        let most = drive.most_in_a_minute();
        assert!(most <= MOST_IN_A_MINUTE, "{most} switches: {:?}", drive.transitions);
        let mut seen = seen.lock().unwrap();
        *seen = most.max(*seen);
    });
    assert!(*seen.lock().unwrap() >= 4 || environment("MODE_SEED").is_some(), "paths are tame");
}

#[test]
fn an_attacker_who_knows_the_mode_gets_no_more_switches() {
    for_each_seed(|seed, sight, random| {
        let among = different(3, sight, random);
        let contrary = |mode: Mode, patience: bool| {
            let differs = |c: &&Conditions| sight.visible(**c).clear_mode() != Some(mode);
            let mut others = among.iter().filter(differs);
            let nearest = others.next().copied().unwrap_or(among[0]);
            if patience { others.next().copied().unwrap_or(nearest) } else { nearest }
        };
        let whims: Vec<bool> = (0..600).map(|_| random.u8(..8) == 0).collect();
        let mut drive = Drive::new(sight, seed);
        drive.run(200 * SECOND_US, |now, mode| {
            contrary(mode, whims[(now / 500_000) as usize % whims.len()])
        });
        let most = drive.most_in_a_minute();
        assert!(most <= MOST_IN_A_MINUTE, "{most} switches: {:?}", drive.transitions);
    });
}

#[test]
fn bursts_of_loss_delay_and_slowness_change_nothing() {
    for_each_seed(|seed, sight, random| {
        let calm = different(1, sight, random)[0];
        let mut path = Path { steps: vec![(0, calm)] };
        let mut at = 15 * SECOND_US;
        while at < 300 * SECOND_US {
            let mut burst = calm;
            match random.u8(..4) {
                0 => burst.loss_ppm = random.u32(30_000..600_000),
                1 => burst.rtt_us += random.u32(5_000..900_000),
                2 => burst.rate_bytes_per_s /= random.u64(2..100),
                _ => burst.jitter_us += random.u32(10_000..100_000),
            }
            path.then(at, burst);
            path.then(at + random.u64(100_000..4 * SECOND_US), calm);
            at += random.u64(8 * SECOND_US..30 * SECOND_US);
        }
        let mut drive = Drive::new(sight, seed);
        drive.run(300 * SECOND_US, |now, _| path.at(now));
        let late = drive.transitions.iter().filter(|(at, _)| *at > 15 * SECOND_US).count();
        assert_eq!(late, 0, "{:?}", drive.transitions);
        assert_eq!(Some(drive.mode()), sight.visible(calm).clear_mode());
    });
}

fn link_traces() -> Value {
    let path = format!("{}/tests/vectors/link_traces.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A recorded rate as a path, times `scale`.
fn recorded(series: &Value, step_us: u64, rtt_us: u32, scale: f64) -> Path {
    let rates = series["mbit_per_s"].as_array().unwrap();
    assert!(rates.len() > 50, "{}", series["id"]);
    let conditions = |rate: &Value| Conditions {
        rtt_us,
        jitter_us: rtt_us / 20,
        loss_ppm: 0,
        rate_bytes_per_s: (rate.as_f64().unwrap() * 125_000.0 * scale) as u64,
    };
    let steps = rates.iter().enumerate();
    Path { steps: steps.map(|(at, rate)| (at as u64 * step_us, conditions(rate))).collect() }
}

/// As recorded every trace is a slow path. Scaled so that its middle is at the threshold, its shape
/// crosses that again and again.
#[test]
fn recorded_links_are_followed_without_flapping() {
    let traces = link_traces();
    let step_us = traces["step_s"].as_u64().unwrap() * SECOND_US;
    for (seed, series) in traces["series"].as_array().unwrap().iter().enumerate() {
        let path = recorded(series, step_us, 20_000, 1.0);
        let end_us = path.steps.len() as u64 * step_us;
        let mut drive = Drive::new(Sight::Streams, seed as u64);
        drive.run_path(end_us, &path);
        assert_eq!((drive.mode(), drive.transitions.len()), (Mode::Internet, 1), "{series}");
        let mut rates: Vec<u64> = path.steps.iter().map(|(_, c)| c.rate_bytes_per_s).collect();
        rates.sort_unstable();
        let middle = rates[rates.len() / 2].max(1) as f64;
        for (rtt_us, sight) in [(1_000, Sight::Streams), (20_000, Sight::BusyNowAndThen)] {
            let path = recorded(series, step_us, rtt_us, 100_000_000.0 / middle);
            let mut drive = Drive::new(sight, seed as u64);
            drive.run_path(end_us, &path);
            assert!(drive.most_in_a_minute() <= MOST_IN_A_MINUTE, "{:?}", drive.transitions);
        }
    }
}

/// A peer answers early with numbers it was not sent, late, twice, and in any order. It can make its
/// path look longer than it is, never shorter.
#[test]
fn a_lying_peer_can_only_make_its_own_path_look_long() {
    for_each_seed(|seed, _, random| {
        let mut table = ModeTable::new(ModePolicy::default());
        table.add(seed, Time(0)).unwrap();
        table.set_in_use(&seed, true, Time(0));
        let true_rtt_us = random.u32(60_000..200_000);
        let (mut sent, mut now) = (Vec::new(), 0);
        while now < 60 * SECOND_US {
            now += random.u64(1_000..50_000);
            let number = random.u64(..);
            if table.next_probe(number, Time(now)).is_some() {
                sent.push((number, now + u64::from(true_rtt_us)));
            }
            let guess = random.u64(..);
            table.on_answer(&seed, guess, Time(now));
            let arrived: Vec<_> = sent.iter().filter(|(_, back)| *back <= now).collect();
            if !arrived.is_empty() {
                let (number, _) = *arrived[random.usize(..arrived.len())];
                table.on_answer(&seed, number, Time(now));
                table.on_answer(&seed, number, Time(now));
            }
            let least = table.view(&seed, Time(now)).unwrap().figures.min_rtt_us;
            assert!(least.is_none_or(|least| least >= true_rtt_us), "{least:?} < {true_rtt_us}");
        }
        assert_eq!(table.mode(&seed), Mode::Internet);
    });
}

#[test]
fn clocks_that_run_backwards_or_leap_switch_nothing() {
    for_each_seed(|seed, _, random| {
        let mut table = ModeTable::new(ModePolicy::default());
        table.add(seed, Time(0)).unwrap();
        let datacenter = Conditions::of(Mode::Datacenter, random);
        let sample = PathSample {
            rate_bytes_per_s: Some(datacenter.rate_bytes_per_s),
            ..PathSample::of_probe(datacenter.rtt_us)
        };
        for tick in 0..60 {
            table.on_sample(&seed, &sample, Time(tick * 250_000));
        }
        assert_eq!(table.mode(&seed), Mode::Datacenter);
        let far = PathSample { rtt_us: Some(80_000), ..sample };
        for _ in 0..1_000 {
            let back = Time(random.u64(..15 * SECOND_US));
            assert_eq!(table.on_sample(&seed, &far, back), None);
            table.next_probe(random.u64(..), back);
        }
        let leap = Time(random.u64(100 * SECOND_US..u64::MAX / 2));
        assert_eq!(table.on_sample(&seed, &far, leap), None, "one look after a leap is no proof");
        assert_eq!(table.mode(&seed), Mode::Datacenter);
    });
}

/// Memory that the process holds, in bytes.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn a_thousand_peers_fit_into_their_memory_and_wake_up_seldom() {
    const MAX_BYTES: usize = 32 << 20;
    let before = resident_bytes();
    let mut table = ModeTable::new(ModePolicy::default());
    for peer in 0..1_000 {
        table.add(format!("node-{peer}.rack-7.example.org:4040"), Time(0)).unwrap();
    }
    let (mut now, mut probes, mut looks) = (Time(0), 0_u64, 0_u64);
    while now < Time(120 * SECOND_US) {
        now = now.max(table.next_deadline().unwrap());
        looks += 1;
        while let Some(peer) = table.next_probe(probes, now) {
            table.on_answer(&peer, probes, Time(now.0 + 300));
            probes += 1;
        }
    }
    let grown = resident_bytes().saturating_sub(before);
    assert!(table.footprint_bytes() <= MAX_BYTES, "{} bytes by size", table.footprint_bytes());
    assert!(grown <= MAX_BYTES, "{grown} bytes resident");
    println!("1,000 peers: {} bytes by size, {grown} resident", table.footprint_bytes());
    // Each look probes someone, or puts back a deadline that came too early; never all peers.
    assert!((1_000 * 48..1_000 * 80).contains(&probes), "{probes} probes in two minutes");
    assert!(looks <= 2 * probes, "{looks} looks for {probes} probes");
}

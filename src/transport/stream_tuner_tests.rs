//! The tuner over simulated paths: what streams find, lose, and find again.

use super::*;

const LOOK_US: u64 = 100_000;

/// A path on which streams take their time to find their speed, and do not keep it evenly.
struct Path {
    random: fastrand::Rng,
    link: f64,
    /// What one stream carries at most, as loss would have it.
    stream: f64,
    round_trip: Duration,
    noise: f64,
    /// What is carried just now, in bytes per second.
    carries: f64,
    now: Time,
    changes: Vec<(Time, Change)>,
    bytes: u64,
}

impl Path {
    fn new(seed: u64, link: f64, stream: f64, round_trip_ms: u64) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            link,
            stream,
            round_trip: Duration::from_millis(round_trip_ms),
            noise: 0.04,
            carries: 0.0,
            now: Time(0),
            changes: Vec::new(),
            bytes: 0,
        }
    }

    fn run(&mut self, tuner: &mut StreamTuner, seconds: u64) {
        let until = self.now + Duration::from_secs(seconds);
        while self.now < until {
            self.now = self.now + Duration::from_micros(LOOK_US);
            let aim = self.link.min(self.stream * f64::from(tuner.count()));
            let lag = (LOOK_US as f64 / 4.0 / self.round_trip.as_micros() as f64).min(1.0);
            self.carries += (aim - self.carries) * lag;
            let mut rate = self.carries * (1.0 + self.noise * (self.random.f64() * 2.0 - 1.0));
            // BBR sends next to nothing now and then, to see the shortest round trip.
            if self.now.0 % 10_000_000 < 200_000 {
                rate *= 0.2;
            }
            let delivered_bytes = (rate * LOOK_US as f64 / 1e6) as u64;
            self.bytes += delivered_bytes;
            let round_trip = self.round_trip;
            let look = Look { delivered_bytes, is_starved: false, round_trip };
            let change = tuner.look(&look, self.now);
            self.changes.extend(change.map(|change| (self.now, change)));
        }
    }

    fn best(&self, limit: u16) -> f64 {
        self.link.min(self.stream * f64::from(limit))
    }
}

#[test]
fn more_streams_are_taken_where_each_carries_a_part() {
    for (seed, round_trip_ms) in [(1, 5), (2, 80), (3, 300)] {
        let mut path = Path::new(seed, 37e6, 37e6 / 7.5, round_trip_ms);
        let mut tuner = StreamTuner::new(16);
        assert_eq!(tuner.count(), FIRST_STREAMS);
        path.run(&mut tuner, 60);
        assert!((8..=12).contains(&tuner.count()), "{}: {:?}", tuner.count(), path.changes);
        assert_eq!(path.changes[0].1.why, Why::TryMore);
    }
}

#[test]
fn fewer_are_kept_where_they_carry_as_much_and_little_is_lost_by_trying() {
    for seed in 0..20 {
        let mut path = Path::new(seed, 37e6, 60e6, 80);
        let mut tuner = StreamTuner::new(8);
        path.run(&mut tuner, 120);
        assert!(tuner.count() < FIRST_STREAMS, "seed {seed}: {:?}", path.changes);
        let share = path.bytes as f64 / 120.0 / 37e6;
        assert!(share > 0.965, "seed {seed}: {share}");
    }
}

#[test]
fn a_path_that_becomes_lossy_is_learned_anew_and_so_is_its_recovery() {
    let mut path = Path::new(9, 37e6, 60e6, 80);
    let mut tuner = StreamTuner::new(16);
    path.run(&mut tuner, 60);
    let before = tuner.count();
    path.stream = 37e6 / 8.0;
    path.run(&mut tuner, 45);
    assert!(tuner.count() >= 7 && tuner.count() > before, "{:?}", path.changes);
    path.stream = 60e6;
    path.run(&mut tuner, 300);
    assert!(tuner.count() < 7, "{:?}", path.changes);
}

#[test]
fn a_path_that_falls_is_scouted_until_it_has_recovered() {
    let mut path = Path::new(6, 37e6, 60e6, 80);
    let mut tuner = StreamTuner::new(8);
    path.run(&mut tuner, 30);
    let known = path.changes.len();
    path.link = 12e6;
    path.run(&mut tuner, 10);
    let scouts = |path: &Path| {
        path.changes[known..].iter().filter(|(_, change)| change.why == Why::Scout).count()
    };
    assert!((3..=10).contains(&scouts(&path)), "{:?}", &path.changes[known..]);
    let most = path.changes[known..].iter().map(|(_, change)| change.to).max();
    assert!(most <= Some(FIRST_STREAMS + 1), "one at a time: {:?}", &path.changes[known..]);
    path.link = 37e6;
    path.run(&mut tuner, 5);
    let found = scouts(&path);
    path.run(&mut tuner, 60);
    assert_eq!(scouts(&path), found, "it has recovered: {:?}", &path.changes[known..]);
    path.link = 12e6;
    path.run(&mut tuner, 60);
    let meanwhile = scouts(&path);
    path.run(&mut tuner, 300);
    assert_eq!(scouts(&path), meanwhile, "it is so: {:?}", &path.changes[known..]);
}

#[test]
fn nothing_is_tried_while_there_is_too_little_to_send() {
    let mut tuner = StreamTuner::new(16);
    for at in 1..10_000 {
        let look = Look {
            delivered_bytes: 1 << 20,
            is_starved: true,
            round_trip: Duration::from_millis(1),
        };
        assert_eq!(tuner.look(&look, Time(at * LOOK_US)), None);
    }
    assert_eq!(tuner.count(), FIRST_STREAMS);
}

#[test]
fn a_trial_that_is_not_filled_is_taken_back() {
    let mut path = Path::new(4, 37e6, 5e6, 20);
    let mut tuner = StreamTuner::new(16);
    while path.changes.is_empty() {
        path.run(&mut tuner, 1);
    }
    assert_eq!(tuner.count(), 6);
    let mut changes = Vec::new();
    for at in 1..100 {
        let look = Look { is_starved: true, ..Look::default() };
        changes.extend(tuner.look(&look, Time(path.now.0 + at * LOOK_US)));
    }
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert_eq!((changes[0].to, changes[0].why), (FIRST_STREAMS, Why::NotFilled));
}

#[test]
fn a_lower_limit_holds_at_once_and_a_trial_of_more_ends_with_it() {
    let mut path = Path::new(4, 37e6, 1e6, 20);
    let mut tuner = StreamTuner::new(64);
    path.run(&mut tuner, 60);
    assert!(tuner.count() > 16, "{:?}", path.changes);
    assert_eq!(tuner.set_limit(64), None);
    let change = tuner.set_limit(8).unwrap();
    assert_eq!((change.to, change.why, tuner.count()), (8, Why::Limit, 8));
    assert_eq!(tuner.set_limit(0).map(|change| change.to), Some(1));
    assert_eq!(tuner.set_limit(64), None, "more are tried, not taken");
    path.run(&mut tuner, 60);
    assert!(tuner.count() > 8, "{:?}", path.changes);
}

#[test]
fn no_path_breaks_the_bounds_or_makes_the_number_restless() {
    for seed in 0..300 {
        let mut random = fastrand::Rng::with_seed(seed);
        let link = 10_f64.powf(random.f64() * 4.0 + 5.0);
        let stream = link * 10_f64.powf(random.f64() * 2.5 - 2.0);
        let mut path = Path::new(seed, link, stream, random.u64(1..400));
        path.noise = random.f64() * 0.3;
        let limit = random.u16(1..65);
        let mut tuner = StreamTuner::new(limit);
        path.run(&mut tuner, 900);
        let mut count = limit.min(FIRST_STREAMS);
        for (_, change) in &path.changes {
            assert_eq!(change.from, count, "seed {seed}");
            assert!(change.to >= 1 && change.to <= limit && change.to != change.from);
            count = change.to;
        }
        assert_eq!(count, tuner.count());
        let late = path.changes.iter().filter(|(at, _)| at.0 > 300_000_000).count();
        assert!(late <= 6 * 10, "seed {seed}: {late} changes in ten minutes: {:?}", path.changes);
        if path.noise < 0.1 {
            // What is just being tried may be too few.
            let last = path.changes.last().filter(|(_, change)| change.why == Why::TryFewer);
            let kept = last.map_or(tuner.count(), |(_, change)| change.from);
            let found = stream * f64::from(kept);
            let reached = link.min(found) / path.best(limit);
            assert!(reached > 0.85, "seed {seed}: {reached}: {:?}", path.changes);
        }
    }
}

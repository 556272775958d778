//! A table of modes driven over a path on a virtual clock, with noise, gaps and floors.

use crate::paths::path::{Conditions, Path, SECOND_US};
use dwcp::base::Time;
use dwcp::transport::mode::{
    Mode, ModePolicy, ModeTable, PathSample, PeerView, Reachability, Transition,
};
use std::collections::BTreeMap;

const TICK_US: u64 = 250_000;
const PEER: &str = "peer";
/// How long a change may go unanswered.
pub const IN_TIME_US: u64 = 10 * SECOND_US;

/// How the path is looked at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sight {
    /// Streams carry data, and TCP's figures are read every quarter of a second.
    Streams,
    /// As before, but often nothing fills the path.
    BusyNowAndThen,
    /// Nothing but probes, of a peer in use.
    Probes,
    /// Nothing but probes, of a peer that nobody uses.
    IdleProbes,
}

pub const SIGHTS: [Sight; 4] =
    [Sight::Streams, Sight::BusyNowAndThen, Sight::Probes, Sight::IdleProbes];

impl Sight {
    fn has_streams(self) -> bool {
        matches!(self, Sight::Streams | Sight::BusyNowAndThen)
    }

    /// The conditions as far as they can be seen: probes know no rate, so RDMA stands in for it.
    pub fn visible(self, conditions: Conditions) -> Conditions {
        match self.has_streams() {
            true => conditions,
            false => Conditions {
                jitter_us: 0,
                loss_ppm: 0,
                rate_bytes_per_s: u64::MAX / 1_000,
                ..conditions
            },
        }
    }
}

/// One run.
pub struct Drive {
    pub table: ModeTable<&'static str>,
    pub transitions: Vec<(u64, Transition)>,
    sight: Sight,
    random: fastrand::Rng,
    now: Time,
    next_tick: u64,
    answers: BTreeMap<(u64, u64), u64>,
    number: u64,
    last_full: u64,
}

impl Drive {
    pub fn new(sight: Sight, seed: u64) -> Self {
        let mut table = ModeTable::new(ModePolicy::default());
        table.add(PEER, Time(0)).unwrap();
        table.set_in_use(&PEER, sight != Sight::IdleProbes, Time(0));
        if !sight.has_streams() {
            let rdma = Reachability::Reachable;
            table.on_sample(&PEER, &PathSample { rdma, ..PathSample::default() }, Time(0));
        }
        Self {
            table,
            transitions: Vec::new(),
            sight,
            random: fastrand::Rng::with_seed(seed),
            now: Time(0),
            next_tick: 0,
            answers: BTreeMap::new(),
            number: 0,
            last_full: 0,
        }
    }

    pub fn mode(&self) -> Mode {
        self.table.mode(&PEER)
    }

    pub fn view(&self) -> PeerView {
        self.table.view(&PEER, self.now).unwrap()
    }

    /// Runs until `end_us` over a path that may look at the mode in force.
    pub fn run(&mut self, end_us: u64, mut path: impl FnMut(u64, Mode) -> Conditions) {
        while let Some(now) = self.next_event().filter(|now| *now < end_us) {
            self.now = Time(now);
            let conditions = self.sight.visible(path(now, self.mode()));
            if self.next_tick <= now {
                self.next_tick = now + TICK_US;
                if self.sight.has_streams() {
                    let sample = self.look(&conditions);
                    let transition = self.table.on_sample(&PEER, &sample, self.now);
                    self.note(transition);
                }
            }
            while let Some(peer) = self.table.next_probe(self.number, self.now) {
                assert_eq!(peer, PEER);
                let back = now + u64::from(self.noisy(conditions.rtt_us));
                self.answers.insert((back, self.number), self.number);
                self.number += 1;
            }
            while let Some(first) = self.answers.first_entry().filter(|e| e.key().0 <= now) {
                let number = first.remove();
                let transition = self.table.on_answer(&PEER, number, self.now);
                self.note(transition);
            }
        }
    }

    /// Runs over a path, and wants the mode to be right whenever the path has called for it for long.
    pub fn run_path(&mut self, end_us: u64, path: &Path) {
        let visible = Path {
            steps: path.steps.iter().map(|(at, c)| (*at, self.sight.visible(*c))).collect(),
        };
        while self.now.0 < end_us {
            let until = (self.now.0 + TICK_US).min(end_us);
            self.run(until, |now, _| path.at(now));
            self.now = Time(until);
            if let Some(mode) = visible.settled_mode(until, IN_TIME_US) {
                let view = self.view();
                let past: Vec<_> = path.steps.iter().filter(|(at, _)| *at <= until).collect();
                let steps = &past[past.len().saturating_sub(3)..];
                assert_eq!(self.mode(), mode, "at {until} us: {view:?}; {steps:?}");
            }
        }
    }

    /// The most measured switches in any minute.
    pub fn most_in_a_minute(&self) -> usize {
        let times: Vec<u64> = self.transitions.iter().map(|(at, _)| *at).collect();
        let within = |from: &u64| {
            times.iter().filter(|at| (*from..*from + 60 * SECOND_US).contains(at)).count()
        };
        times.iter().map(within).max().unwrap_or(0)
    }

    fn note(&mut self, transition: Option<Transition>) {
        let Some(transition) = transition else { return };
        assert_eq!(transition.to, self.mode());
        assert_ne!(transition.from, transition.to);
        assert!(!transition.grounds.is_empty(), "no evidence: {transition:?}");
        self.transitions.push((self.now.0, transition));
        let last_minute = self.now.0.saturating_sub(60 * SECOND_US - 1);
        let counted = self.transitions.iter().filter(|(at, _)| *at >= last_minute).count();
        assert_eq!(self.view().switches_last_minute as usize, counted);
        assert_eq!(self.view().switches as usize, self.transitions.len());
    }

    fn next_event(&self) -> Option<u64> {
        let tick = self.sight.has_streams().then_some(self.next_tick);
        let deadline = self.table.next_deadline().map(|deadline| deadline.0.max(self.now.0));
        let answer = self.answers.first_key_value().map(|((at, _), _)| *at);
        [tick, deadline, answer].into_iter().flatten().min()
    }

    /// What TCP's figures would tell: noise above the shortest round trip, and around the rate.
    fn look(&mut self, conditions: &Conditions) -> PathSample {
        let rate = conditions.rate_bytes_per_s;
        let (rate, rate_is_floor) = match self.fills_the_path() {
            true => (rate * self.random.u64(95..=105) / 100, false),
            false => (rate * self.random.u64(1..=100) / 100, true),
        };
        let sent_bytes = rate / 4;
        let loss = u64::from(conditions.loss_ppm) * self.random.u64(80..=120) / 100;
        PathSample {
            rtt_us: Some(self.noisy(conditions.rtt_us)),
            jitter_us: Some(conditions.jitter_us),
            sent_bytes,
            retransmitted_bytes: (u128::from(sent_bytes) * u128::from(loss) / 1_000_000) as u64,
            rate_bytes_per_s: Some(rate),
            rate_is_floor,
            rdma: Reachability::Unknown,
        }
    }

    /// Whether the sender fills the path just now; it does at least once a second.
    fn fills_the_path(&mut self) -> bool {
        let rested = self.now.0 - self.last_full >= SECOND_US;
        let full = self.sight == Sight::Streams || rested || self.random.bool();
        if full {
            self.last_full = self.now.0;
        }
        full
    }

    fn noisy(&mut self, rtt_us: u32) -> u32 {
        rtt_us + self.random.u32(..=rtt_us / 10)
    }
}

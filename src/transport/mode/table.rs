//! The modes of all peers of a node, and whose path is to be looked at next.
//!
//! The table is driven from outside: `next_deadline` says when to come back, `next_probe` whom to
//! probe then, and samples and answers are handed in as they come. Peers whose paths are quiet are
//! probed seldom, and between their probes they cost nothing: deadlines are kept in order, so nobody
//! walks over the peers to find the next.

use super::detector::ModeDetector;
use super::estimate::PathFigures;
use super::kind::Mode;
use super::policy::ModePolicy;
use super::probes::Probes;
use super::sample::PathSample;
use super::transition::Transition;
use crate::base::limits::MAX_PEERS;
use crate::base::{Time, TimeCounts};
use std::collections::{BTreeMap, BTreeSet};
use std::mem::size_of;
use std::time::Duration;

/// How soon after the last sample or probe a path is probed whose peer is in use, or whose mode may change.
pub const BRISK: Duration = Duration::from_millis(300);
/// How soon any other path is probed, at the latest.
pub const IDLE: Duration = Duration::from_millis(3_200);
/// Idle probes of different peers are spread over so much of it.
const SPREAD_US: u64 = 400_000;

/// The table takes no more peers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// Every place is taken by a peer that is in use or was set up by hand.
    #[error("all {0} places for peers are taken by peers that are in use, forced or v1")]
    Full(usize),
}

/// What the table tells of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerView {
    /// The mode in force.
    pub mode: Mode,
    /// The mode forced for this peer.
    pub forced: Option<Mode>,
    /// Whether the peer speaks v1 alone.
    pub is_v1: bool,
    /// Whether anything travels to or from it.
    pub is_in_use: bool,
    /// What is known of its path.
    pub figures: PathFigures,
    /// When its path last told anything.
    pub heard: Option<Time>,
    /// Changes of its mode.
    pub switches: u64,
    /// Measured changes within the last minute.
    pub switches_last_minute: u32,
}

/// The modes of all peers; `K` is what tells peers apart.
#[derive(Clone, Debug)]
pub struct ModeTable<K> {
    policy: ModePolicy,
    peers: BTreeMap<K, Peer>,
    /// One entry a peer; it may be early, never late.
    deadlines: BTreeSet<(Time, K)>,
    added: u64,
    stray_answers: u64,
    round_trips: BTreeMap<Mode, TimeCounts>,
}

#[derive(Clone, Debug)]
struct Peer {
    detector: ModeDetector,
    probes: Probes,
    is_in_use: bool,
    idle: Duration,
    probed: Option<Time>,
    /// When something other than a probe last told of the path.
    sampled: Option<Time>,
    added: Time,
    /// As in the deadlines.
    deadline: Time,
}

impl<K: Ord + Clone> ModeTable<K> {
    /// A table without peers.
    pub fn new(policy: ModePolicy) -> Self {
        Self {
            policy,
            peers: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            added: 0,
            stray_answers: 0,
            round_trips: BTreeMap::new(),
        }
    }

    /// Takes a peer in, if it is not there; it is probed at once. A full table forgets the peer that
    /// has been silent for longest among those that nobody needs.
    ///
    /// # Errors
    /// [`TableError::Full`].
    pub fn add(&mut self, peer: K, now: Time) -> Result<(), TableError> {
        self.add_as(peer, true, now)
    }

    /// As [`Self::add`]; figures bring a mode into force only if they may.
    ///
    /// # Errors
    /// [`TableError::Full`].
    pub fn add_as(&mut self, peer: K, may_measure: bool, now: Time) -> Result<(), TableError> {
        if self.peers.contains_key(&peer) {
            return Ok(());
        }
        if self.peers.len() >= MAX_PEERS {
            let least = self.least_needed().ok_or(TableError::Full(MAX_PEERS))?;
            self.remove(&least);
        }
        self.added += 1;
        let spread_us = self.added.wrapping_mul(SPREAD_PRIME) % SPREAD_US;
        let entry = Peer {
            detector: ModeDetector::new(&self.policy, may_measure),
            probes: Probes::default(),
            is_in_use: false,
            idle: IDLE - Duration::from_micros(spread_us),
            probed: None,
            sampled: None,
            added: now,
            deadline: now,
        };
        self.deadlines.insert((now, peer.clone()));
        self.peers.insert(peer, entry);
        Ok(())
    }

    /// Forgets a peer.
    pub fn remove(&mut self, peer: &K) {
        if let Some(entry) = self.peers.remove(peer) {
            self.deadlines.remove(&(entry.deadline, peer.clone()));
        }
    }

    /// The mode in force for a peer; that of a peer that is not in the table is where it would start.
    pub fn mode(&self, peer: &K) -> Mode {
        let start = || self.policy.forced.unwrap_or(self.policy.start);
        self.peers.get(peer).map_or_else(start, |entry| entry.detector.mode())
    }

    /// What is known of a peer.
    pub fn view(&self, peer: &K, now: Time) -> Option<PeerView> {
        self.peers.get(peer).map(|entry| entry.view(now))
    }

    /// What is known of every peer, in order.
    pub fn views(&self, now: Time) -> impl Iterator<Item = (&K, PeerView)> {
        self.peers.iter().map(move |(peer, entry)| (peer, entry.view(now)))
    }

    /// How many peers there are.
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// Answers to probes that were not under way.
    pub fn stray_answers(&self) -> u64 {
        self.stray_answers
    }

    /// Every round trip that was measured, by the mode in which the peer was.
    pub fn round_trips(&self) -> impl Iterator<Item = (Mode, &TimeCounts)> {
        self.round_trips.iter().map(|(mode, times)| (*mode, times))
    }

    /// What holds for all peers.
    pub fn policy(&self) -> &ModePolicy {
        &self.policy
    }

    /// The memory that the peers take, the slack of the maps' nodes included; what a `K` points to is
    /// not.
    pub fn footprint_bytes(&self) -> usize {
        // A node that is half empty is the worst that a B-tree allows.
        let entry = size_of::<(K, Peer)>() + size_of::<(Time, K)>();
        2 * entry * self.peers.len() + size_of::<Self>()
    }

    /// Replaces what holds for all peers.
    pub fn set_policy(&mut self, policy: ModePolicy, now: Time) -> Vec<(K, Transition)> {
        self.policy = policy;
        let keys: Vec<K> = self.peers.keys().cloned().collect();
        let apply = |peer: K| {
            let change = self.change(&peer, now, |detector, policy| detector.apply(policy));
            change.map(|transition| (peer, transition))
        };
        keys.into_iter().filter_map(apply).collect()
    }

    /// Forces a mode for a peer, or leaves it to measurement again.
    pub fn force(&mut self, peer: &K, mode: Option<Mode>, now: Time) -> Option<Transition> {
        self.change(peer, now, |detector, policy| detector.force(mode, policy))
    }

    /// Whether a peer speaks v1 alone.
    pub fn set_peer_is_v1(&mut self, peer: &K, is_v1: bool, now: Time) -> Option<Transition> {
        self.change(peer, now, |detector, policy| detector.set_peer_is_v1(is_v1, policy))
    }

    /// Whether figures may bring a mode into force for a peer.
    pub fn set_may_measure(
        &mut self,
        peer: &K,
        may_measure: bool,
        now: Time,
    ) -> Option<Transition> {
        self.change(peer, now, |detector, policy| detector.set_may_measure(may_measure, policy))
    }

    /// The peers.
    pub fn peers(&self) -> impl Iterator<Item = &K> {
        self.peers.keys()
    }

    /// Whether anything travels to or from a peer: then its path is watched closely.
    pub fn set_in_use(&mut self, peer: &K, is_in_use: bool, now: Time) {
        if let Some(entry) = self.peers.get_mut(peer) {
            entry.is_in_use = is_in_use;
            self.reschedule(peer, now);
        }
    }

    /// Takes a sample of a peer's path.
    pub fn on_sample(&mut self, peer: &K, sample: &PathSample, now: Time) -> Option<Transition> {
        if let Some(entry) = self.peers.get_mut(peer).filter(|_| sample.has_news()) {
            entry.sampled = Some(now);
        }
        self.take(peer, sample, now)
    }

    /// When `next_probe` has something to say; none without peers.
    pub fn next_deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// A peer whose path is to be probed now, if any: the caller sends it `number`, which is random,
    /// and asks again.
    pub fn next_probe(&mut self, number: u64, now: Time) -> Option<K> {
        loop {
            let (deadline, peer) = self.deadlines.first()?;
            if *deadline > now {
                return None;
            }
            let peer = peer.clone();
            let entry = self.peers.get_mut(&peer)?;
            let is_due = entry.due(now) <= now;
            if is_due {
                entry.probes.on_sent(number, now);
                entry.probed = Some(now);
            }
            // After now in any case, or this would go round for ever.
            let deadline = entry.due(now).max(now + Duration::from_micros(1));
            self.move_deadline(&peer, deadline);
            if is_due {
                return Some(peer);
            }
        }
    }

    /// A probe came back from a peer.
    pub fn on_answer(&mut self, peer: &K, number: u64, now: Time) -> Option<Transition> {
        self.on_timed_answer(peer, number, None, now)
    }

    /// A probe came back from a peer, and this side's kernel has timed the path itself: what it took
    /// to make a connection for the probe, and to wake those who sent and answered it, is not in
    /// `rtt_us`.
    pub fn on_timed_answer(
        &mut self,
        peer: &K,
        number: u64,
        rtt_us: Option<u32>,
        now: Time,
    ) -> Option<Transition> {
        let entry = self.peers.get_mut(peer);
        let Some(round_trip) = entry.and_then(|entry| entry.probes.on_answer(number, now)) else {
            self.stray_answers = self.stray_answers.saturating_add(1);
            return None;
        };
        let waited_us = u32::try_from(round_trip.as_micros()).unwrap_or(u32::MAX);
        let rtt_us = rtt_us.map_or(waited_us, |rtt_us| rtt_us.min(waited_us));
        self.take(peer, &PathSample::of_probe(rtt_us), now)
    }

    fn take(&mut self, peer: &K, sample: &PathSample, now: Time) -> Option<Transition> {
        let mode = self.peers.get(peer)?.detector.mode();
        // 0 is what nobody measured.
        if let Some(rtt_us) = sample.rtt_us.filter(|rtt_us| *rtt_us > 0) {
            self.round_trips.entry(mode).or_default().add_us(rtt_us.into());
        }
        self.change(peer, now, |detector, policy| detector.on_sample(sample, policy, now))
    }

    fn change(
        &mut self,
        peer: &K,
        now: Time,
        act: impl FnOnce(&mut ModeDetector, &ModePolicy) -> Option<Transition>,
    ) -> Option<Transition> {
        let entry = self.peers.get_mut(peer)?;
        let transition = act(&mut entry.detector, &self.policy);
        self.reschedule(peer, now);
        transition
    }

    /// Brings a deadline forward. One that has moved back is found out when it comes: samples come
    /// often, and the order of the deadlines is not to change with each.
    fn reschedule(&mut self, peer: &K, now: Time) {
        let Some(entry) = self.peers.get(peer) else { return };
        let due = entry.due(now);
        if due < entry.deadline {
            self.move_deadline(peer, due);
        }
    }

    fn move_deadline(&mut self, peer: &K, deadline: Time) {
        let Some(entry) = self.peers.get_mut(peer) else { return };
        let before = std::mem::replace(&mut entry.deadline, deadline);
        self.deadlines.remove(&(before, peer.clone()));
        self.deadlines.insert((deadline, peer.clone()));
    }

    fn least_needed(&self) -> Option<K> {
        let is_needed = |entry: &Peer| {
            let detector = &entry.detector;
            entry.is_in_use || detector.forced().is_some() || detector.peer_is_v1()
        };
        let idle = self.peers.iter().filter(|(_, entry)| !is_needed(entry));
        let since = |entry: &Peer| entry.detector.heard().unwrap_or(entry.added);
        idle.min_by_key(|(_, entry)| since(entry)).map(|(peer, _)| peer.clone())
    }
}

/// Prime to [`SPREAD_US`], so that peers in a row get places far apart.
const SPREAD_PRIME: u64 = 309_017;
/// When a peer that must not be probed is looked at again.
const UNPROBED: Duration = Duration::from_secs(3600);

impl Peer {
    /// When the path is to be probed next, as things stand.
    fn due(&self, now: Time) -> Time {
        if self.detector.mode() == Mode::V1Compat {
            // It would take a probe for a chunk's number and length.
            return now + UNPROBED;
        }
        let news = self.sampled.max(self.probed);
        let interval = match self.is_in_use || self.detector.is_watchful(now) {
            true => BRISK,
            false => self.idle,
        };
        news.map_or(self.added, |news| news + interval).max(self.probes.room_at())
    }

    fn view(&self, now: Time) -> PeerView {
        PeerView {
            mode: self.detector.mode(),
            forced: self.detector.forced(),
            is_v1: self.detector.peer_is_v1(),
            is_in_use: self.is_in_use,
            figures: *self.detector.figures(),
            heard: self.detector.heard(),
            switches: self.detector.switches(),
            switches_last_minute: self.detector.switches_last_minute(now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn table(peers: u32) -> ModeTable<u32> {
        let mut table = ModeTable::new(ModePolicy::default());
        for peer in 0..peers {
            table.add(peer, Time(0)).unwrap();
        }
        table
    }

    /// Runs until `end`, each path answering at once; returns the probes.
    fn run(table: &mut ModeTable<u32>, end: Time) -> u64 {
        let (mut number, mut now) = (0, Time(0));
        while let Some(deadline) = table.next_deadline().filter(|deadline| *deadline < end) {
            now = now.max(deadline);
            while let Some(peer) = table.next_probe(number, now) {
                table.on_answer(&peer, number, now + Duration::from_millis(1));
                number += 1;
            }
        }
        number
    }

    #[test]
    fn quiet_paths_are_probed_seldom_and_apart() {
        let mut table = table(100);
        run(&mut table, Time(0) + 10 * SECOND);
        let settled = run(&mut table, Time(0) + 70 * SECOND);
        assert!((100 * 18..=100 * 22).contains(&settled), "{settled}");
        let deadlines: BTreeSet<_> = table.deadlines.iter().map(|(at, _)| at.0 / 10_000).collect();
        assert!(deadlines.len() > 50, "{} of 100 apart", deadlines.len());
    }

    #[test]
    fn a_path_in_use_is_probed_briskly_and_not_at_all_while_samples_come() {
        let mut table = table(1);
        run(&mut table, Time(0) + 10 * SECOND);
        let start = Time(0) + 11 * SECOND;
        table.set_in_use(&0, true, start);
        assert_eq!(table.next_probe(1, start + BRISK), Some(0));
        let mut now = start + BRISK;
        for _ in 0..100 {
            now = now + BRISK / 2;
            table.on_sample(&0, &PathSample::of_probe(1_000), now);
            assert_eq!(table.next_probe(2, now), None);
        }
    }

    #[test]
    fn a_v1_peer_is_never_probed() {
        let mut table = table(2);
        table.set_peer_is_v1(&0, true, Time(0));
        table.force(&1, Some(Mode::V1Compat), Time(0));
        assert_eq!(run(&mut table, Time(0) + 30_000 * SECOND), 0);
        let released = Time(0) + 30_001 * SECOND;
        table.set_peer_is_v1(&0, false, released);
        assert_eq!(table.next_probe(1, released), Some(0));
        assert_eq!(table.next_probe(2, released), None);
    }

    #[test]
    fn a_silent_peer_is_not_flooded() {
        let (mut table, mut now, mut probes) = (table(1), Time(0), 0);
        table.set_in_use(&0, true, now);
        while now < Time(0) + 60 * SECOND {
            now = now.max(table.next_deadline().unwrap());
            probes += u64::from(table.next_probe(probes, now).is_some());
        }
        assert!((8..=32).contains(&probes), "{probes}");
    }

    #[test]
    fn an_answer_that_the_kernel_timed_is_as_long_as_the_path() {
        let mut table = table(1);
        let rtt_us = |table: &ModeTable<u32>| table.view(&0, Time(0)).unwrap().figures.rtt_us;
        table.next_probe(7, Time(1)).unwrap();
        table.on_timed_answer(&0, 8, Some(10), Time(5_001));
        assert_eq!((table.stray_answers(), rtt_us(&table)), (1, None));
        table.on_timed_answer(&0, 7, Some(2_000), Time(5_001));
        assert_eq!(rtt_us(&table), Some(2_000));
        let later = Time(0) + 10 * SECOND;
        table.next_probe(9, later).unwrap();
        table.on_timed_answer(&0, 9, Some(9_000_000), later + Duration::from_millis(4));
        assert_eq!(rtt_us(&table), Some(4_000), "no path is longer than the wait for its answer");
        let (mode, times) = table.round_trips().next().unwrap();
        assert_eq!((mode, times.sum_us()), (Mode::Hybrid, 6_000), "the stray one does not count");
    }

    #[test]
    fn a_full_table_forgets_whom_nobody_needs() {
        let mut table = table(MAX_PEERS as u32);
        for peer in 0..MAX_PEERS as u32 {
            let at = Time(u64::from(peer) + 1);
            table.on_sample(&peer, &PathSample::of_probe(1_000), at);
        }
        table.set_in_use(&0, true, Time(0));
        table.force(&1, Some(Mode::Internet), Time(0));
        table.set_peer_is_v1(&2, true, Time(0));
        table.add(1_000_000, Time(9_999)).unwrap();
        assert_eq!((table.len(), table.deadlines.len()), (MAX_PEERS, MAX_PEERS));
        assert!(table.view(&3, Time(0)).is_none(), "the longest silent of the others");
        assert!([0, 1, 2, 4, 1_000_000].iter().all(|peer| table.view(peer, Time(0)).is_some()));
        for peer in
            (0..=1_000_000).filter(|peer| table.peers.contains_key(peer)).collect::<Vec<_>>()
        {
            table.set_in_use(&peer, true, Time(0));
        }
        assert_eq!(table.add(7_000_000, Time(0)), Err(TableError::Full(MAX_PEERS)));
        assert_eq!(table.add(4, Time(0)), Ok(()), "it is there");
    }

    #[test]
    fn strangers_and_stray_answers_change_nothing() {
        let mut table = table(1);
        assert_eq!(table.next_probe(5, Time(0)), Some(0));
        table.on_answer(&0, 6, Time(1_000));
        table.on_answer(&1, 5, Time(1_000));
        assert_eq!((table.stray_answers(), table.view(&0, Time(0)).unwrap().heard), (2, None));
        assert_eq!(table.on_sample(&1, &PathSample::of_probe(1), Time(0)), None);
        assert_eq!(table.force(&1, Some(Mode::Internet), Time(0)), None);
        table.remove(&1);
        table.remove(&0);
        assert!(table.is_empty() && table.next_deadline().is_none());
    }

    #[test]
    fn what_an_operator_says_holds_at_once() {
        let mut table = table(3);
        let forced = table.force(&0, Some(Mode::V1Compat), Time(1)).unwrap();
        assert_eq!((forced.from, forced.to), (Mode::Hybrid, Mode::V1Compat));
        table.set_peer_is_v1(&1, true, Time(1));
        let all = ModePolicy { forced: Some(Mode::Internet), ..ModePolicy::default() };
        let changed = table.set_policy(all, Time(2));
        assert_eq!(changed.iter().map(|(peer, _)| *peer).collect::<Vec<_>>(), [2]);
        assert_eq!(
            [0, 1, 2, 9].map(|peer| table.mode(&peer)),
            [Mode::V1Compat, Mode::V1Compat, Mode::Internet, Mode::Internet,]
        );
        table.set_policy(ModePolicy::default(), Time(3));
        assert_eq!(table.force(&0, None, Time(4)).unwrap().to, Mode::Hybrid);
        assert_eq!(
            [0, 1, 2].map(|peer| table.mode(&peer)),
            [Mode::Hybrid, Mode::V1Compat, Mode::Hybrid,]
        );
    }
}

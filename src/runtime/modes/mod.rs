//! The modes of a node's peers as they are measured, on one thread for all of them.
//!
//! A peer is whom this node has connected to or been told of, by the address that it dials. While
//! streams to it carry something, their sockets are read; otherwise a probe goes out now and then.
//! Nothing is kept open for a peer that is idle, and a node without peers has no thread.

pub mod facade;
pub mod matrix;
mod probe;
mod service;
pub mod transfer;

pub use facade::{PeerError, PeerMode};
pub use matrix::{MatrixPath, MatrixRow};
pub use probe::{ProbeError, ProbeSeries, random_number};
pub use transfer::TransportTest;

use crate::base::limits::MAX_PEERS;
use crate::base::{StreamId, Time, TimeCounts};
use crate::observe::EventKind;
use crate::rollout::Flag;
use crate::rollout::guard::Measured;
use crate::runtime::clock::now;
use crate::runtime::journal::Journal;
use crate::runtime::lock::lock;
use crate::runtime::path_reader::PathReader;
use crate::runtime::rollout::Rollout;
use crate::runtime::security::Security;
use crate::runtime::sys::socket::SocketError;
use crate::runtime::sys::spawn_named;
use crate::runtime::sys::thread::is_current;
use crate::runtime::tuning;
use crate::transport::mode::{
    Cause, Mode, ModeEffects, ModePolicy, ModeTable, PathSample, PeerView, Reachability,
    TableError, Transition, verdict,
};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often the sockets of streams are read.
pub const SAMPLE_INTERVAL: Duration = Duration::from_millis(250);

/// How often samples and answers of one peer are handed to the guards of the flags, at most.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// How often changes of modes are.
const SWITCHES_INTERVAL: Duration = Duration::from_secs(10);

/// A peer's address as it is dialed.
type Peer = Arc<str>;

/// What holds for all peers of a node, and what their modes change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransportOptions {
    /// How modes are chosen.
    pub policy: ModePolicy,
    /// What they change.
    pub effects: ModeEffects,
}

/// The modes of a node's peers.
pub struct Modes {
    journal: Arc<Journal>,
    /// For tests of paths.
    security: Arc<Security>,
    /// Which peers are measured, and which paths tuned.
    rollout: Arc<Rollout>,
    state: Mutex<State>,
    /// Who is to hear that a mode has changed, or what modes change.
    on_change: OnceLock<OnChange>,
    /// Code point that probes are marked with.
    dscp: AtomicU8,
}

/// Called without any lock of the modes.
type OnChange = Box<dyn Fn() + Send + Sync>;

struct State {
    table: ModeTable<Peer>,
    effects: ModeEffects,
    streams: Vec<Stream>,
    streams_made: u32,
    readers: BTreeMap<Peer, PathReader>,
    next_sample: Time,
    /// When samples are handed to the guards of the flags next: more often they say the same.
    next_report: Time,
    /// Measured changes of modes since they were last handed over.
    switches: BTreeMap<Peer, u32>,
    switches_since: Time,
    /// Congestion control of the newest connection to each peer, as read back.
    congestions: BTreeMap<Peer, String>,
    /// Why the last probe of a peer failed; those that answered have none.
    failures: BTreeMap<Peer, String>,
    /// What peers were last called by themselves, or by their certificates.
    names: BTreeMap<Peer, String>,
    probes: ProbeCounts,
    thread: Option<Thread>,
    stopped: bool,
    /// A refused congestion control has been told of.
    has_complained: bool,
}

/// Probes of idle paths, by what came of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbeCounts {
    /// Those that came back.
    pub answered: u64,
    /// Those that did not.
    pub failed: u64,
}

/// The thread that measures.
struct Thread {
    handle: JoinHandle<()>,
    /// Tells it that there is something new. No waker of tokio's does that: it would leave a
    /// thread-local with a destructor on the host's thread (`runtime/sys/thread.rs` says what then).
    news: UnixStream,
}

/// An open connection that carries data to a peer.
struct Stream {
    id: StreamId,
    peer: Peer,
    socket: Weak<TcpStream>,
}

/// A probe to be sent.
struct DueProbe {
    peer: Peer,
    number: u64,
}

/// What was read of peers' paths.
type Samples = Vec<(Peer, PathSample)>;

impl Modes {
    /// No peers yet.
    pub fn new(journal: Arc<Journal>, security: Arc<Security>, rollout: Arc<Rollout>) -> Arc<Self> {
        let options = TransportOptions::default();
        let state = State {
            table: ModeTable::new(options.policy),
            effects: options.effects,
            streams: Vec::new(),
            streams_made: 0,
            readers: BTreeMap::new(),
            next_sample: Time(0),
            next_report: Time(0),
            switches: BTreeMap::new(),
            switches_since: now(),
            congestions: BTreeMap::new(),
            failures: BTreeMap::new(),
            names: BTreeMap::new(),
            probes: ProbeCounts::default(),
            thread: None,
            stopped: false,
            has_complained: false,
        };
        let (state, on_change, dscp) = (Mutex::new(state), OnceLock::new(), AtomicU8::new(0));
        Arc::new_cyclic(|me: &Weak<Self>| {
            let me = me.clone();
            rollout
                .on_change(Arc::new(move || me.upgrade().iter().for_each(|modes| modes.regate())));
            Self { journal, security, rollout, state, on_change, dscp }
        })
    }

    /// The flags that decide what is done for which peer.
    pub fn rollout(&self) -> &Arc<Rollout> {
        &self.rollout
    }

    /// Whether the path to a peer is tuned: paced, with as many streams as it is worth, over all local
    /// addresses.
    pub fn is_optimized(&self, peer: &str) -> bool {
        self.rollout.is_on_for(Flag::InternetOptimization, peer)
    }

    /// Takes up what the flags say now: modes and open connections follow at once.
    fn regate(&self) {
        let mut state = lock(&self.state);
        let at = now();
        let peers: Vec<Peer> = state.table.peers().cloned().collect();
        let mut changes = Vec::new();
        for peer in peers {
            let may_measure = self.rollout.is_on_for(Flag::HybridMode, &peer);
            let change = state.table.set_may_measure(&peer, may_measure, at);
            changes.extend(change.map(|transition| (peer, transition)));
        }
        let open = state.streams.iter();
        let open: Vec<_> = open
            .filter_map(|stream| Some((stream.peer.clone(), stream.socket.upgrade()?)))
            .collect();
        self.settle(state, changes);
        for (peer, socket) in open {
            self.tune(&peer, &socket);
        }
        self.on_change.get().into_iter().for_each(|listener| listener());
        // Peers that are measured again are due earlier than the thread knows.
        lock(&self.state).thread.iter().for_each(|thread| tell(&thread.news));
    }

    /// Takes a peer into the table.
    fn admit(&self, state: &mut State, peer: &Peer, at: Time) -> Result<(), TableError> {
        let may_measure = self.rollout.is_on_for(Flag::HybridMode, peer);
        state.table.add_as(peer.clone(), may_measure, at)
    }

    /// How connections to peers are secured.
    pub fn security(&self) -> &Arc<Security> {
        &self.security
    }

    /// Has `listener` called when a mode has changed, or what modes change; the first one only.
    pub fn on_change(&self, listener: Box<dyn Fn() + Send + Sync>) {
        // A second one has nobody to hear it.
        let _ = self.on_change.set(listener);
    }

    /// Has probes marked with this code point.
    pub fn set_dscp(&self, dscp: u8) {
        self.dscp.store(dscp, Ordering::Relaxed);
    }

    /// The code point that probes are marked with.
    pub fn dscp(&self) -> u8 {
        self.dscp.load(Ordering::Relaxed)
    }

    /// Replaces what holds for all peers.
    pub fn set_options(&self, options: TransportOptions) {
        let mut state = lock(&self.state);
        state.effects = options.effects;
        let changes = state.table.set_policy(options.policy, now());
        self.settle(state, changes);
        self.on_change.get().into_iter().for_each(|listener| listener());
        // Peers that are measured again are due earlier than the thread knows.
        lock(&self.state).thread.iter().for_each(|thread| tell(&thread.news));
    }

    /// What holds for all peers.
    pub fn options(&self) -> TransportOptions {
        let state = lock(&self.state);
        TransportOptions { policy: *state.table.policy(), effects: state.effects }
    }

    /// Takes a peer in; its path is looked at from now on.
    ///
    /// # Errors
    /// There is no room.
    pub fn add(self: &Arc<Self>, peer: &str) -> Result<(), TableError> {
        self.admit(&mut lock(&self.state), &peer.into(), now())?;
        self.wake();
        Ok(())
    }

    /// Forgets a peer.
    pub fn remove(&self, peer: &str) {
        let mut state = lock(&self.state);
        state.table.remove(&Peer::from(peer));
        state.failures.remove(peer);
        state.congestions.remove(peer);
        state.names.remove(peer);
    }

    /// A known peer is called so, by its certificate where there is one.
    pub fn note_name(&self, peer: &str, name: &str) {
        let mut state = lock(&self.state);
        if state.table.view(&peer.into(), now()).is_some() {
            state.names.insert(peer.into(), name.to_owned());
        }
    }

    /// Addresses of the peers that are called so, those that were heard last first.
    pub fn called(&self, name: &str) -> Vec<String> {
        let state = lock(&self.state);
        let named = state.names.iter().filter(|(_, known)| *known == name);
        let heard = |peer| state.table.view(peer, now()).and_then(|view| view.heard);
        let mut found: Vec<_> = named.map(|(peer, _)| (heard(peer), peer.to_string())).collect();
        found.sort_by(|one, other| other.cmp(one));
        found.into_iter().map(|(_, peer)| peer).collect()
    }

    /// Every round trip that was measured, by the mode in which the peer was.
    pub fn round_trips(&self) -> Vec<(Mode, TimeCounts)> {
        lock(&self.state).table.round_trips().map(|(mode, times)| (mode, *times)).collect()
    }

    /// What came of the probes of idle paths.
    pub fn probe_counts(&self) -> ProbeCounts {
        lock(&self.state).probes
    }

    /// The mode of a peer, known or not.
    pub fn mode(&self, peer: &str) -> Mode {
        self.mode_in(&lock(&self.state), &peer.into())
    }

    fn mode_in(&self, state: &State, peer: &Peer) -> Mode {
        let known = state.table.view(peer, now()).map(|view| view.mode);
        known.unwrap_or_else(|| {
            let may_measure = self.rollout.is_on_for(Flag::HybridMode, peer);
            state.table.policy().beginning(may_measure)
        })
    }

    /// Whether pages should go to a peer by RDMA.
    pub fn is_for_rdma(&self, peer: &str) -> bool {
        match self.mode(peer) {
            Mode::Datacenter => true,
            Mode::Hybrid => {
                self.view(peer).is_some_and(|view| view.figures.rdma == Reachability::Reachable)
            }
            Mode::Internet | Mode::V1Compat => false,
        }
    }

    /// RDMA has carried a migration to a peer.
    pub fn rdma_worked(&self, peer: &str) {
        let mut state = lock(&self.state);
        let sample = PathSample { rdma: Reachability::Reachable, ..PathSample::default() };
        let peer = Peer::from(peer);
        let change = state.table.on_sample(&peer, &sample, now());
        let change = change.map(|transition| (peer, transition));
        self.settle(state, change.into_iter().collect());
    }

    /// What is known of a peer.
    pub fn view(&self, peer: &str) -> Option<PeerView> {
        lock(&self.state).table.view(&peer.into(), now())
    }

    /// Why the last probe of a peer failed, if it did.
    pub fn failure(&self, peer: &str) -> Option<String> {
        lock(&self.state).failures.get(peer).cloned()
    }

    /// What is known of all peers, and why the last probe of each failed.
    pub fn views(&self) -> Vec<(String, PeerView, Option<String>)> {
        let state = lock(&self.state);
        let row =
            |(peer, view): (&Peer, _)| (peer.to_string(), view, state.failures.get(peer).cloned());
        state.table.views(now()).map(row).collect()
    }

    /// Congestion control of the newest connection to a peer, as read back from the kernel.
    pub fn congestion(&self, peer: &str) -> Option<String> {
        lock(&self.state).congestions.get(peer).cloned()
    }

    /// The mode that a peer's figures speak for now; none without figures.
    pub fn verdict(&self, peer: &str) -> Option<Mode> {
        let state = lock(&self.state);
        let view = state.table.view(&peer.into(), now())?;
        let policy = state.table.policy();
        let verdict = verdict::judge(&view.figures, &policy.thresholds, view.mode)?;
        Some(policy.allowed(verdict))
    }

    /// Forces a mode for one peer, or leaves it to measurement.
    ///
    /// # Errors
    /// There is no room for the peer.
    pub fn force(self: &Arc<Self>, peer: &str, mode: Option<Mode>) -> Result<(), TableError> {
        let mut state = lock(&self.state);
        let (peer, at) = (Peer::from(peer), now());
        // Under one lock: one that is to be v1 must not be probed before.
        self.admit(&mut state, &peer, at)?;
        let change = state.table.force(&peer, mode, at).map(|transition| (peer, transition));
        self.settle(state, change.into_iter().collect());
        self.wake();
        Ok(())
    }

    /// Peers that were said to speak v1, and those that are said to now.
    ///
    /// # Errors
    /// There is no room for them all; the others are named.
    pub fn name_v1(
        self: &Arc<Self>,
        before: &[String],
        peers: &[String],
    ) -> Result<(), TableError> {
        let mut state = lock(&self.state);
        let (table, at) = (&mut state.table, now());
        let mut changes = Vec::new();
        let mut set = |table: &mut ModeTable<Peer>, peer: &String, is_v1| {
            let peer = Peer::from(peer.as_str());
            let change = table.set_peer_is_v1(&peer, is_v1, at);
            changes.extend(change.map(|transition| (peer, transition)));
        };
        for peer in before.iter().filter(|peer| !peers.contains(peer)) {
            set(table, peer, false);
        }
        let mut named = Ok(());
        for peer in peers {
            let may_measure = self.rollout.is_on_for(Flag::HybridMode, peer);
            match table.add_as(peer.as_str().into(), may_measure, at) {
                Ok(_) => set(table, peer, true),
                Err(error) => named = Err(error),
            }
        }
        self.settle(state, changes);
        self.wake();
        named
    }

    /// Whether somebody has said of this very peer that v1 is to be spoken to it.
    pub fn is_named_v1(&self, peer: &str) -> bool {
        let is_v1 = |view: PeerView| view.is_v1 || view.forced == Some(Mode::V1Compat);
        self.view(peer).is_some_and(is_v1)
    }

    /// How many streams a peer gets when so many are wanted.
    pub fn stream_count(&self, peer: &str, wanted: u16) -> u16 {
        let state = lock(&self.state);
        state.effects.streams(self.mode_in(&state, &peer.into()), wanted)
    }

    /// Sets up a new connection to a peer as its mode says; gives the congestion control in use.
    pub fn tune(&self, peer: &str, socket: &TcpStream) -> Option<String> {
        let peer = Peer::from(peer);
        let state = lock(&self.state);
        let (mode, effects) = (self.mode_in(&state, &peer), state.effects);
        drop(state);
        match self.choose(socket, &peer, mode, &effects) {
            Ok(name) => {
                self.note_congestion(&peer, &name);
                Some(name)
            }
            Err(error) => {
                self.complain(&error.to_string());
                None
            }
        }
    }

    /// Reads a connection to a peer as long as it is open.
    pub fn watch(self: &Arc<Self>, peer: &str, socket: &Arc<TcpStream>) {
        let mut state = lock(&self.state);
        let peer = Peer::from(peer);
        // In a table that is full the migration goes on, only without being looked at.
        if self.admit(&mut state, &peer, now()).is_err() {
            return;
        }
        state.table.set_in_use(&peer, true, now());
        state.streams_made = state.streams_made.wrapping_add(1);
        let id = StreamId(state.streams_made);
        state.streams.push(Stream { id, peer, socket: Arc::downgrade(socket) });
        drop(state);
        self.wake();
    }

    /// Whether they are measured no more.
    pub fn is_stopped(&self) -> bool {
        lock(&self.state).stopped
    }

    /// Ends the thread. Idempotent.
    pub fn stop(&self) {
        let mut state = lock(&self.state);
        state.stopped = true;
        let thread = state.thread.take();
        drop(state);
        let Some(Thread { handle, news }) = thread else { return };
        tell(&news);
        // Its own observer may be the one that drops the node.
        if !is_current(&handle) {
            let _ = handle.join();
        }
    }

    /// Starts the thread, if there is none, and tells it of news.
    fn wake(self: &Arc<Self>) {
        let mut state = lock(&self.state);
        if state.stopped {
            return;
        }
        if state.thread.is_none() {
            match self.start() {
                Ok(thread) => state.thread = Some(thread),
                Err(error) => {
                    drop(state);
                    let text = format!("no thread for the modes of peers: {error}");
                    return self.journal.publish(None, None, EventKind::Notice { text });
                }
            }
        }
        state.thread.iter().for_each(|thread| tell(&thread.news));
    }

    fn start(self: &Arc<Self>) -> io::Result<Thread> {
        let modes = self.clone();
        let (news, heard) = UnixStream::pair()?;
        news.set_nonblocking(true)?;
        heard.set_nonblocking(true)?;
        let handle = spawn_named("dwcp-modes", move || service::run(&modes, heard))?;
        Ok(Thread { handle, news })
    }

    /// Applies changes of modes to the open streams, and tells of them.
    fn settle(
        &self,
        mut state: std::sync::MutexGuard<'_, State>,
        changes: Vec<(Peer, Transition)>,
    ) {
        let mut sockets = Vec::new();
        for (peer, transition) in &changes {
            if transition.cause == Cause::Measured {
                *state.switches.entry(peer.clone()).or_default() += 1;
            }
            let of_peer = state.streams.iter().filter(|stream| stream.peer == *peer);
            let open = of_peer.filter_map(|stream| stream.socket.upgrade());
            sockets.extend(open.map(|socket| (peer.clone(), socket, transition.to)));
        }
        let effects = state.effects;
        drop(state);
        if !changes.is_empty() {
            self.on_change.get().into_iter().for_each(|listener| listener());
        }
        for (peer, socket, mode) in sockets {
            match self.choose(&socket, &peer, mode, &effects) {
                Ok(name) => self.note_congestion(&peer, &name),
                // A socket that has just been closed needs nothing any more.
                Err(error) => self.complain(&error.to_string()),
            }
        }
        for (peer, transition) in changes {
            let (peer, transition) = (peer.to_string(), Box::new(transition));
            self.journal.publish(None, None, EventKind::ModeTransition { peer, transition });
        }
    }

    /// Has a connection's congestion controlled as its mode says, or as the system does where the path
    /// is not tuned.
    fn choose(
        &self,
        socket: &TcpStream,
        peer: &str,
        mode: Mode,
        effects: &ModeEffects,
    ) -> Result<String, SocketError> {
        match self.is_optimized(peer) {
            true => tuning::choose_congestion_control(socket, mode, effects),
            false => tuning::restore_congestion_control(socket),
        }
    }

    fn note_congestion(&self, peer: &Peer, name: &str) {
        let congestions = &mut lock(&self.state).congestions;
        if congestions.len() < MAX_PEERS || congestions.contains_key(peer) {
            congestions.insert(peer.clone(), name.to_owned());
        }
    }

    /// Once for each node: what the kernel lacks it lacks for every connection.
    fn complain(&self, why: &str) {
        if !std::mem::replace(&mut lock(&self.state).has_complained, true) {
            let text = format!("connections keep the system's congestion control: {why}");
            self.journal.publish(None, None, EventKind::Notice { text });
        }
    }

    /// Does what is due; gives the probes to be sent, and when to come back; none: the end.
    fn step(&self, random: impl Fn() -> u64) -> Option<(Vec<DueProbe>, Option<Time>)> {
        let mut state = lock(&self.state);
        if state.stopped {
            return None;
        }
        let at = now();
        let (changes, samples) =
            if state.next_sample <= at { state.sample(at) } else { Default::default() };
        let switches = state.switches(at);
        let mut due = Vec::new();
        while due.len() < MAX_PEERS {
            let number = random();
            let Some(peer) = state.table.next_probe(number, at) else { break };
            due.push(DueProbe { peer, number });
        }
        let sample = Some(state.next_sample).filter(|_| !state.streams.is_empty());
        let next = state.table.next_deadline().into_iter().chain(sample).min();
        self.settle(state, changes);
        samples.iter().for_each(|(peer, sample)| self.report(peer, sample));
        for (peer, kind) in switches {
            self.rollout.measured_of_mode(&peer, kind);
        }
        Some((due, next))
    }

    /// Hands a sample to the guards of the flags.
    fn report(&self, peer: &str, sample: &PathSample) {
        if let Some(rtt_us) = sample.rtt_us.filter(|rtt_us| *rtt_us > 0) {
            self.rollout.measured(peer, Measured::Latency { us: rtt_us.into() });
        }
        if let Some(rate) = sample.rate_bytes_per_s.filter(|rate| *rate > 0) {
            let (bytes_per_s, is_application_limited) = (rate as f64, sample.rate_is_floor);
            let kind = Measured::Throughput { bytes_per_s, is_application_limited };
            self.rollout.measured(peer, kind);
        }
    }

    /// A probe came back, or did not.
    fn probed(&self, probe: &DueProbe, outcome: Result<Option<u32>, ProbeError>) {
        let mut state = lock(&self.state);
        let peer = &probe.peer;
        let is_failed = outcome.is_err();
        let timed = outcome.as_ref().ok().copied().flatten();
        let change = match outcome {
            Ok(rtt_us) => {
                state.probes.answered += 1;
                state.failures.remove(peer);
                state.table.on_timed_answer(peer, probe.number, rtt_us, now())
            }
            Err(error) => {
                state.probes.failed += 1;
                if state.table.view(peer, now()).is_some() {
                    state.failures.insert(peer.clone(), error.to_string());
                }
                None
            }
        };
        let change = change.map(|transition| (peer.clone(), transition));
        self.settle(state, change.into_iter().collect());
        self.rollout.measured_of_mode(peer, Measured::Detection { is_failed });
        self.report(peer, &PathSample { rtt_us: timed, ..PathSample::default() });
    }
}

/// Wakes the thread at the other end.
fn tell(mut news: &UnixStream) {
    // What fails is a write into a full buffer, and then there is enough to wake it.
    let _ = news.write(&[0]);
}

impl State {
    /// How often each peer's mode has changed, now and then.
    fn switches(&mut self, at: Time) -> Vec<(Peer, Measured)> {
        let took = at.since(self.switches_since);
        if took < SWITCHES_INTERVAL {
            return Vec::new();
        }
        self.switches_since = at;
        let mut counted = std::mem::take(&mut self.switches);
        let count = |peer: &Peer| {
            let (count, seconds) = (counted.remove(peer).unwrap_or(0), took.as_secs_f64());
            (peer.clone(), Measured::ModeSwitches { count, seconds })
        };
        self.table.peers().map(count).collect()
    }

    /// Reads all streams, peer by peer; gives the samples too, where they are to be handed over.
    fn sample(&mut self, at: Time) -> (Vec<(Peer, Transition)>, Samples) {
        self.next_sample = at + SAMPLE_INTERVAL;
        let is_reported = at >= self.next_report;
        if is_reported {
            self.next_report = at + REPORT_INTERVAL;
        }
        let mut samples = Vec::new();
        let mut open: BTreeMap<Peer, Vec<(StreamId, Arc<TcpStream>)>> = BTreeMap::new();
        let mut closed = Vec::new();
        self.streams.retain(|stream| match stream.socket.upgrade() {
            Some(socket) => {
                open.entry(stream.peer.clone()).or_default().push((stream.id, socket));
                true
            }
            None => {
                closed.push(stream.peer.clone());
                false
            }
        });
        let table = &mut self.table;
        for peer in closed.iter().filter(|peer| !open.contains_key(*peer)) {
            table.set_in_use(peer, false, at);
            self.readers.remove(peer);
        }
        // What a full table has forgotten has no failures either.
        self.failures.retain(|peer, _| table.view(peer, at).is_some());
        self.congestions.retain(|peer, _| table.view(peer, at).is_some());
        self.names.retain(|peer, _| table.view(peer, at).is_some());
        let mut changes = Vec::new();
        for (peer, streams) in open {
            let reader = self.readers.entry(peer.clone()).or_default();
            let sample = reader.sample(streams.iter().map(|(id, socket)| (*id, socket.as_ref())));
            let change = table.on_sample(&peer, &sample, at);
            if is_reported {
                samples.push((peer.clone(), sample));
            }
            changes.extend(change.map(|transition| (peer, transition)));
        }
        (changes, samples)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::security::SecurityOptions;
    use crate::runtime::sys::socket::congestion_control;
    use crate::transport::mode::Congestion;
    use std::net::TcpListener;

    const PEER: &str = "127.0.0.1:1";

    fn modes() -> Arc<Modes> {
        let security = Security::open(SecurityOptions::Plain).unwrap();
        Modes::new(Arc::default(), security, Rollout::in_memory("a"))
    }

    fn pair() -> (Arc<TcpStream>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (Arc::new(near), listener.accept().unwrap().0)
    }

    fn until(mut holds: impl FnMut() -> bool) {
        while !holds() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn open_streams_follow_their_peers_mode() {
        let modes = modes();
        let effects = ModeEffects { congestion: Congestion::Reno, ..ModeEffects::default() };
        modes.set_options(TransportOptions { effects, ..TransportOptions::default() });
        let (near, _far) = pair();
        let before = modes.tune(PEER, &near).unwrap();
        assert_ne!(before, "reno");
        modes.watch(PEER, &near);
        modes.force(PEER, Some(Mode::Internet)).unwrap();
        assert_eq!(congestion_control(&near).unwrap(), "reno");
        assert_eq!(modes.congestion(PEER).as_deref(), Some("reno"));
        assert_eq!(modes.tune(PEER, &pair().0).as_deref(), Some("reno"));
        assert_eq!(modes.stream_count(PEER, 64), effects.internet_streams);
        modes.stop();
    }

    #[test]
    fn what_the_flags_say_holds_for_open_streams_at_once() {
        let modes = modes();
        let effects = ModeEffects { congestion: Congestion::Reno, ..ModeEffects::default() };
        modes.set_options(TransportOptions { effects, ..TransportOptions::default() });
        let (near, _far) = pair();
        let own = congestion_control(&near).unwrap();
        modes.watch(PEER, &near);
        modes.force(PEER, Some(Mode::Internet)).unwrap();
        assert_eq!(congestion_control(&near).unwrap(), "reno");
        modes.rollout().set_kill_switch("test", Some("drill")).unwrap();
        assert_eq!(congestion_control(&near).unwrap(), own);
        assert_eq!(modes.mode(PEER), Mode::Internet, "an operator's word goes before the flag");
        modes.force(PEER, None).unwrap();
        let new = "127.0.0.1:2";
        assert_eq!((modes.mode(PEER), modes.mode(new)), (Mode::Datacenter, Mode::Datacenter));
        let steering = crate::runtime::steering::Steering::new(Arc::default(), modes.clone());
        assert_eq!(steering.first_streams(PEER, 6), 6, "as many as may be, untuned");
        modes.rollout().set_kill_switch("test", None).unwrap();
        assert_eq!((modes.mode(PEER), modes.mode(new)), (Mode::Hybrid, Mode::Hybrid));
        assert!(steering.first_streams(PEER, 6) < 6);
        modes.force(PEER, Some(Mode::Internet)).unwrap();
        assert_eq!(congestion_control(&near).unwrap(), "reno");
        steering.stop();
        modes.stop();
    }

    #[test]
    fn a_peer_is_in_use_as_long_as_its_streams_are_open() {
        let modes = modes();
        assert!(lock(&modes.state).thread.is_none(), "without peers there is no thread");
        let (near, _far) = pair();
        modes.watch(PEER, &near);
        assert!(modes.view(PEER).is_some_and(|view| view.is_in_use));
        drop(near);
        until(|| modes.view(PEER).is_some_and(|view| !view.is_in_use));
        assert!(lock(&modes.state).streams.is_empty());
        modes.stop();
        assert!(modes.step(|| 1).is_none());
    }

    #[test]
    fn a_peer_that_refuses_is_said_to_and_forgotten_whole() {
        let modes = modes();
        modes.add(PEER).unwrap();
        until(|| modes.views()[0].2.as_ref().is_some_and(|why| why.contains("refused")));
        assert!(modes.probe_counts().failed > 0 && modes.probe_counts().answered == 0);
        modes.note_name(PEER, "beta");
        modes.note_name("127.0.0.1:2", "beta");
        assert_eq!(modes.called("beta"), [PEER], "of peers that are known");
        modes.remove(PEER);
        assert!(modes.called("beta").is_empty());
        assert_eq!((modes.views().len(), modes.verdict(PEER)), (0, None));
        modes.stop();
    }
}

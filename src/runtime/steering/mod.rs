//! Steers the migrations that leave a node: how many streams each has, what each may send, and how
//! their sockets are set up. One thread for all of them, which sleeps while there are none.
//!
//! ```text
//! look at each migration -> the tuner of its peer's path -> streams
//!                        -> shares of the node's cap     -> pacers
//!                        -> rate, round trip, streams    -> sockets
//! ```
//! Migrations to one peer share its path, so they are tuned together and all have as many streams.

pub mod facade;
mod path;

use crate::base::Time;
use crate::base::limits::MAX_PEERS;
use crate::migration::stats::Traffic;
use crate::observe::EventKind;
use crate::runtime::clock::now;
use crate::runtime::journal::Journal;
use crate::runtime::lock::{lock, wait};
use crate::runtime::modes::Modes;
use crate::runtime::sys::spawn_named;
use crate::runtime::sys::thread::is_current;
use crate::runtime::tuning;
use crate::transport::fair_share::{Want, divide};
use crate::transport::mode::Congestion;
use crate::transport::mode::effects::is_long;
use crate::transport::stream_tuner::{FIRST_STREAMS, Why};
use crate::transport::{PathOptions, PathUse, StreamShape};
use path::Path;
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often migrations are looked at.
const INTERVAL: Duration = Duration::from_millis(100);
/// How often their sockets are shaped.
const SHAPE_INTERVAL: Duration = Duration::from_millis(300);
/// What a migration was found to use is of about so long.
const USE_MEMORY: Duration = Duration::from_secs(1);
/// Looks that the mean of what is delivered remembers.
const RATE_MEMORY: u64 = 10;
/// Who uses less than it may gets so much more than it used, in percent, and this on top.
const ROOM_PERCENT: u64 = 125;
const LEAST_ROOM_BYTES_PER_S: u64 = 128 << 10;

/// A migration that can be steered. Every call may come from any thread.
pub trait Steered: Send + Sync {
    /// What its streams did so far, and for how long they had nothing to do, all together.
    fn traffic(&self) -> (Traffic, Duration);
    /// Has it have so many streams.
    fn set_streams(self: Arc<Self>, count: u16);
    /// What others who share a cap leave to it.
    fn set_share(&self, rate_bytes_per_s: Option<u64>);
    /// How its sockets are to be.
    fn set_shape(&self, shape: &StreamShape);
    /// Has a stream that had to leave its local address go back to it, if that may work again.
    fn send_home(&self);
    /// Tells of something that concerns it.
    fn tell(&self, event: EventKind);
    /// Whether it needs no streams any more.
    fn is_over(&self) -> bool;
}

/// Steers the migrations of one node.
pub struct Steering {
    journal: Arc<Journal>,
    modes: Arc<Modes>,
    state: Mutex<State>,
    /// Something is new.
    news: Condvar,
}

#[derive(Default)]
struct State {
    options: PathOptions,
    /// Whether something is new since the thread last looked.
    is_rung: bool,
    next_shaping: Time,
    members: Vec<Member>,
    /// By peer; those without migrations remember what was found.
    paths: BTreeMap<Arc<str>, Path>,
    thread: Option<JoinHandle<()>>,
    stopped: bool,
}

/// A migration under way.
struct Member {
    peer: Arc<str>,
    migration: Weak<dyn Steered>,
    /// Streams, at most, as its owner wants it.
    most_streams: u16,
    streams: u16,
    traffic: Traffic,
    idle: Duration,
    looked_at: Option<Time>,
    /// What it sent lately.
    used: Used,
    share: Option<u64>,
    /// What it gets delivered, over about a second.
    delivered_bytes_per_s: u64,
    /// Its part of a path that others use too, where it had more.
    even: Option<u64>,
}

/// How much was sent in the last while.
#[derive(Default)]
struct Used {
    since: Option<Time>,
    sent_bytes: u64,
    /// None: not for so long yet.
    rate_bytes_per_s: Option<u64>,
}

/// What was decided for one migration, to be done without the lock.
struct Order {
    migration: Arc<dyn Steered>,
    streams: Option<(u16, EventKind)>,
    share: Option<Option<u64>>,
    shape: Option<StreamShape>,
}

impl Steering {
    /// Nothing to steer yet.
    pub fn new(journal: Arc<Journal>, modes: Arc<Modes>) -> Arc<Self> {
        Arc::new_cyclic(|me: &Weak<Self>| {
            let bell = me.clone();
            modes.on_change(Box::new(move || {
                bell.upgrade().into_iter().for_each(|steering| steering.ring());
            }));
            Self { journal, modes, state: Mutex::default(), news: Condvar::new() }
        })
    }

    /// The modes of peers.
    pub fn modes(&self) -> &Arc<Modes> {
        &self.modes
    }

    /// Replaces what holds for all paths.
    pub fn set_options(&self, options: PathOptions) {
        self.modes.set_dscp(options.dscp);
        lock(&self.state).options = options;
        self.ring();
    }

    /// What holds for all paths.
    pub fn options(&self) -> PathOptions {
        lock(&self.state).options.clone()
    }

    /// How many streams a migration to a peer begins with, of as many as it may have.
    pub fn first_streams(&self, peer: &str, most_streams: u16) -> u16 {
        let known = lock(&self.state).paths.get(peer).map(Path::streams);
        let limit = self.modes.stream_count(peer, most_streams).max(1);
        match self.modes.is_optimized(peer) {
            true => known.unwrap_or(FIRST_STREAMS).clamp(1, limit),
            false => limit,
        }
    }

    /// Steers a migration that has begun, with so many streams, until it is over.
    pub fn add(
        self: &Arc<Self>,
        peer: &str,
        (streams, most_streams): (u16, u16),
        migration: Weak<dyn Steered>,
    ) {
        let mut state = lock(&self.state);
        if state.stopped {
            return;
        }
        state.members.push(Member {
            peer: peer.into(),
            migration,
            most_streams,
            streams,
            traffic: Traffic::default(),
            idle: Duration::ZERO,
            looked_at: None,
            used: Used::default(),
            share: None,
            delivered_bytes_per_s: 0,
            even: None,
        });
        if state.thread.is_none() {
            let steering = self.clone();
            match spawn_named("dwcp-steer", move || steering.run()) {
                Ok(thread) => state.thread = Some(thread),
                Err(error) => {
                    drop(state);
                    let text = format!("no thread for steering migrations: {error}");
                    return self.journal.publish(None, None, EventKind::Notice { text });
                }
            }
        }
        drop(state);
        self.ring();
    }

    /// Ends the thread. Idempotent.
    pub fn stop(&self) {
        let mut state = lock(&self.state);
        state.stopped = true;
        let thread = state.thread.take();
        drop(state);
        self.ring();
        // An observer of events may be the one that drops the node.
        if let Some(thread) = thread.filter(|thread| !is_current(thread)) {
            let _ = thread.join();
        }
    }

    fn ring(&self) {
        lock(&self.state).is_rung = true;
        self.news.notify_all();
    }

    fn run(&self) {
        loop {
            let mut state = lock(&self.state);
            let patience = if state.members.is_empty() { Duration::MAX } else { INTERVAL };
            if !std::mem::take(&mut state.is_rung) {
                state = wait(&self.news, state, patience.min(LONGEST_WAIT));
            }
            if state.stopped {
                return;
            }
            let orders = state.decide(&self.modes, now());
            drop(state);
            orders.into_iter().for_each(Order::carry_out);
        }
    }
}

impl State {
    fn decide(&mut self, modes: &Modes, now: Time) -> Vec<Order> {
        let mut migrations = Vec::new();
        self.members.retain(|member| {
            let known = migrations.len();
            migrations.extend(member.migration.upgrade().filter(|migration| !migration.is_over()));
            migrations.len() > known
        });
        let looked = self.members.iter_mut().zip(migrations);
        let looks: Vec<_> = looked.map(|(member, migration)| member.look(migration, now)).collect();
        let mut orders: Vec<Order> =
            looks.iter().map(|look| Order::nothing(look.migration.clone())).collect();
        let members: Vec<&mut Member> = self.members.iter_mut().collect();
        tune(&mut self.paths, members, &looks, &mut orders, modes, now);
        self.share_cap(&looks, &mut orders);
        if now >= self.next_shaping {
            self.next_shaping = now + SHAPE_INTERVAL;
            self.shape(modes, &mut orders);
        }
        let busy = |peer: &Arc<str>| self.members.iter().any(|member| member.peer == *peer);
        if self.paths.len() > MAX_PEERS {
            self.paths.retain(|peer, _| busy(peer));
        }
        orders
    }

    /// Divides the node's cap, and holds back who has more of a path than others.
    fn share_cap(&mut self, looks: &[Look], orders: &mut [Order]) {
        let cap = self.options.bandwidth_limit_bytes_per_s;
        let wants: Vec<Want> =
            self.members.iter().zip(looks).map(|(member, look)| member.wants(look)).collect();
        let shares = cap.map(|cap| divide(cap, &wants));
        for (at, member) in self.members.iter_mut().enumerate() {
            let share = shares.as_ref().and_then(|shares| shares.get(at)).copied();
            let share = share.into_iter().chain(member.even).min();
            if share != member.share {
                member.share = share;
                orders[at].share = Some(share);
            }
        }
    }

    fn shape(&self, modes: &Modes, orders: &mut [Order]) {
        // Not the share of the moment: one that used little must be able to use more.
        let even = self.options.bandwidth_limit_bytes_per_s;
        let even = even.map(|cap| cap / self.members.len().max(1) as u64);
        for (member, order) in self.members.iter().zip(orders) {
            let traffic = &member.traffic;
            let rtt_us = traffic.round_trip.map_or(0, |time| time.as_micros());
            let rtt_us = u32::try_from(rtt_us).unwrap_or(u32::MAX);
            let mode = modes.mode(&member.peer);
            let share = member.share.max(even);
            // Others live on bursts: paced, they carry a third less where packets are lost.
            let is_bbr = modes.congestion(&member.peer).as_deref() == Some(Congestion::Bbr.name());
            order.shape = Some(StreamShape::of(&PathUse {
                rate_bytes_per_s: traffic.rate_bytes_per_s,
                cap_bytes_per_s: traffic.limit_bytes_per_s.into_iter().chain(share).min(),
                round_trip: traffic.round_trip,
                streams: member.streams,
                is_paced: self.options.pacing
                    && is_long(mode, rtt_us)
                    && is_bbr
                    && modes.is_optimized(&member.peer),
                own_buffer_bytes: tuning::own_send_buffer_bytes(),
                dscp: self.options.dscp,
            }));
        }
    }
}

/// What a migration did since it was last looked at.
struct Look {
    migration: Arc<dyn Steered>,
    delivered_bytes: u64,
    /// Time that its streams were idle, of all the time that they had.
    idle: Duration,
    had: Duration,
    was_held_back: bool,
}

impl Member {
    fn look(&mut self, migration: Arc<dyn Steered>, now: Time) -> Look {
        let (traffic, idle) = migration.traffic();
        let took = self.looked_at.replace(now).map_or(Duration::ZERO, |before| now - before);
        let took_us = took.as_micros().max(1);
        self.used.note(traffic.sent_bytes, now);
        let before = std::mem::replace(&mut self.traffic, traffic);
        let idle_before = std::mem::replace(&mut self.idle, idle);
        let delivered_bytes = traffic.delivered_bytes.saturating_sub(before.delivered_bytes);
        let rate = u128::from(delivered_bytes) * 1_000_000 / took_us;
        let rate = u64::try_from(rate).unwrap_or(u64::MAX);
        self.delivered_bytes_per_s = (self.delivered_bytes_per_s / RATE_MEMORY * (RATE_MEMORY - 1))
            .saturating_add(rate / RATE_MEMORY);
        Look {
            migration,
            delivered_bytes,
            idle: idle.saturating_sub(idle_before),
            had: took * u32::from(traffic.streams),
            was_held_back: traffic.was_held_back,
        }
    }

    fn wants(&self, look: &Look) -> Want {
        // One that has just begun is given the chance to want more.
        let used = self.used.rate_bytes_per_s.filter(|_| !look.was_held_back);
        let room =
            used.map(|used| used.saturating_mul(ROOM_PERCENT) / 100 + LEAST_ROOM_BYTES_PER_S);
        let most = room.into_iter().chain(self.traffic.limit_bytes_per_s).min();
        most.map_or(Want::All, Want::UpTo)
    }
}

impl Used {
    fn note(&mut self, sent_bytes: u64, now: Time) {
        let since = *self.since.get_or_insert(now);
        let took = now - since;
        if took >= USE_MEMORY {
            let bytes = u128::from(sent_bytes.saturating_sub(self.sent_bytes));
            let rate = bytes * 1_000_000 / took.as_micros().max(1);
            self.rate_bytes_per_s = Some(u64::try_from(rate).unwrap_or(u64::MAX));
            (self.since, self.sent_bytes) = (Some(now), sent_bytes);
        }
    }
}

impl Order {
    fn nothing(migration: Arc<dyn Steered>) -> Self {
        Self { migration, streams: None, share: None, shape: None }
    }

    fn carry_out(self) {
        if let Some(share) = self.share {
            self.migration.set_share(share);
        }
        if let Some(shape) = &self.shape {
            self.migration.set_shape(shape);
            self.migration.send_home();
        }
        if let Some((count, event)) = self.streams {
            self.migration.clone().set_streams(count);
            self.migration.tell(event);
        }
    }
}

/// Tunes each peer's path, and gives its migrations their numbers of streams.
fn tune(
    paths: &mut BTreeMap<Arc<str>, Path>,
    members: Vec<&mut Member>,
    looks: &[Look],
    orders: &mut [Order],
    modes: &Modes,
    now: Time,
) {
    let mut groups: BTreeMap<Arc<str>, Vec<(usize, &mut Member)>> = BTreeMap::new();
    for (at, member) in members.into_iter().enumerate() {
        groups.entry(member.peer.clone()).or_default().push((at, member));
    }
    for (peer, group) in groups {
        let limit = |member: &Member| modes.stream_count(&peer, member.most_streams).max(1);
        let most = group.iter().map(|(_, member)| limit(member)).max().unwrap_or(1);
        let path = paths.entry(peer.clone()).or_insert_with(|| Path::new(most));
        let copying = group.iter().filter(|(_, member)| member.traffic.is_copying);
        let copying: Vec<(&Member, &Look)> =
            copying.map(|(at, member)| (&**member, &looks[*at])).collect();
        let is_tuned = modes.is_optimized(&peer);
        let (change, why) = match is_tuned {
            true => (path.look(most, &copying, now), Why::Limit),
            false => (path.rest(), Why::FlagOff),
        };
        let mean = path::mean_rate(&copying);
        for (at, member) in group {
            member.even = path::even_part(member, &looks[at], mean);
            let limit = limit(member);
            let wanted = if is_tuned { path.streams() } else { limit };
            let (from, to) = (member.streams, wanted.min(limit));
            if from != to {
                member.streams = to;
                let event = path::event((from, to, limit), change.as_ref(), why);
                orders[at].streams = Some((to, event));
            }
        }
    }
}

/// Condition variables cannot wait for ever.
const LONGEST_WAIT: Duration = Duration::from_secs(3_600);

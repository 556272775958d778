//! The feature flags of a running node: changed through one door, read by everybody without a wait.
//!
//! ```text
//! change -> the engine: whole or refused -> the audit log: on disk or refused -> in force
//! ```
//! What is in force has a number. A [`Decider`] remembers its answer with that number, so that asking
//! again costs two loads; only after a change it decides anew. One thread for each node looks at the
//! kill switch's file and at what time brings: expiries and schedules.

mod audit_log;
mod configuration;
mod decider;
mod door;
mod error;
pub mod facade;
mod guards;
mod kill_switch;
mod peers;
mod time;
mod watch;

pub use audit_log::{LOG as AUDIT_LOG_FILE, LogError};
pub use decider::Decider;
pub use error::RolloutError;
pub use facade::FlagView;
pub use kill_switch::{BY_CALL, FILE as KILL_SWITCH_FILE, KILL_SWITCH_VARIABLE};

use crate::observe::EventKind;
use crate::rollout::audit::Entry;
use crate::rollout::{
    Change, ChangeAction, Controller, Decision, Flag, FlagRules, FlagSet, Latch, Membership,
    Reason, Snapshot, Unit,
};
use crate::runtime::clock::wall_clock_us;
use crate::runtime::journal::Journal;
use crate::runtime::lock::lock;
use door::Door;
use peers::Peers;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use watch::Watch;

/// How the flags of a node are set up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RolloutOptions {
    /// While this file is there, every flag is off; none: `kill-switch` in the state directory, if the
    /// node has one.
    pub kill_switch_file: Option<PathBuf>,
    /// The rules of a configuration, for [`Rollout::configure`] before the node takes anything in.
    pub rules: Option<FlagRules>,
}

/// The flags of one node.
pub struct Rollout {
    node: String,
    journal: Arc<Journal>,
    /// The number of what is published. Deciders compare it before they look at anything else.
    number: AtomicU64,
    published: Mutex<Published>,
    /// Held by whoever changes something, from the decision until it is in force.
    door: Mutex<Door>,
    /// Called after a change, without any lock of this.
    listeners: Mutex<Vec<Listener>>,
    controller: Mutex<Controller>,
    /// Flags for which measurements count, a bit each.
    watched: AtomicU32,
    watch: Watch,
}

type Listener = Arc<dyn Fn() + Send + Sync>;

/// What is in force.
struct Published {
    set: FlagSet,
    /// Why the kill switch is on without being in the log yet.
    emergency: Option<String>,
    /// Flags whose time is over, a bit each.
    expired: u32,
    /// Flags that a guard has taken back without that being in the log yet, a bit each.
    held_off: u32,
    /// For units as they are.
    by_hash: Snapshot,
    /// For nodes, where their membership is known.
    by_rank: Option<Snapshot>,
    members: Membership,
    peers: Peers,
}

impl Rollout {
    /// Opens the flags of a node with what its state directory says, or with the defaults.
    ///
    /// # Errors
    /// The audit log cannot be read, is in use, or is not as it was written.
    pub fn open(
        node: &str,
        state_dir: Option<&Path>,
        options: &RolloutOptions,
        journal: Arc<Journal>,
    ) -> Result<Arc<Self>, RolloutError> {
        let (door, torn_bytes) = Door::open(state_dir)?;
        let default_file = || state_dir.map(|directory| directory.join(kill_switch::FILE));
        let file = options.kill_switch_file.clone().or_else(default_file);
        let rollout = Self::new(node, journal, door, Watch::new(file));
        if torn_bytes > 0 {
            let text = format!(
                "the last line of the flag log was cut short by a crash; its {torn_bytes} bytes, of a change \
                 that never took hold, are removed"
            );
            rollout.journal.publish(None, None, EventKind::Notice { text });
        }
        // Before anybody asks for a decision.
        rollout.look_at_kill_switch();
        rollout.tell_guards();
        if let Some(Err(error)) = options.rules.as_ref().map(|rules| rollout.configure(rules)) {
            let text = format!("feature flags of the configuration: {error}");
            rollout.journal.publish(None, None, EventKind::Notice { text });
        }
        Ok(rollout)
    }

    /// Flags that nobody keeps and nobody watches, for tests and tools.
    pub fn in_memory(node: &str) -> Arc<Self> {
        Self::new(node, Arc::default(), Door::default(), Watch::new(None))
    }

    fn new(node: &str, journal: Arc<Journal>, door: Door, watch: Watch) -> Arc<Self> {
        let published = Published::new(door.set().clone());
        Arc::new(Self {
            node: node.to_owned(),
            journal,
            number: AtomicU64::new(1),
            published: Mutex::new(published),
            door: Mutex::new(door),
            listeners: Mutex::default(),
            controller: Mutex::new(Controller::default()),
            watched: AtomicU32::new(0),
            watch,
        })
    }

    /// Has `listener` called after every change.
    pub fn on_change(&self, listener: Arc<dyn Fn() + Send + Sync>) {
        lock(&self.listeners).push(listener);
    }

    /// The flags in force.
    pub fn set(&self) -> FlagSet {
        lock(&self.published).in_force()
    }

    /// Whether a peer, by its address as it is dialed, has a feature.
    pub fn is_on_for(&self, flag: Flag, peer: &str) -> bool {
        self.decide_for(flag, peer).is_on
    }

    /// The same, with the reason.
    pub fn decide_for(&self, flag: Flag, peer: &str) -> Decision {
        lock(&self.published).of_peer(flag, &self.node, peer, now_s())
    }

    /// Decides about a unit by its text.
    pub fn decide(&self, flag: Flag, unit: &Unit<'_>) -> Decision {
        lock(&self.published).decide(flag, unit, &self.node, true, now_s())
    }

    /// A change: whole, on disk and in force on return, or nothing of it.
    ///
    /// # Errors
    /// [`RolloutError`]; all is as before.
    pub fn change(&self, change: &Change) -> Result<(), RolloutError> {
        if !matches!(change.action, ChangeAction::Kill | ChangeAction::LiftKill) {
            self.record_emergency_now();
        }
        let mut door = lock(&self.door);
        let Some(entry) = door.pass(change, wall_clock_us())? else { return Ok(()) };
        let mut published = lock(&self.published);
        published.set = door.set().clone();
        if published.emergency == published.set.killed || change.action == ChangeAction::LiftKill {
            published.emergency = None;
        }
        if let ChangeAction::Latch(flag) | ChangeAction::ClearLatch(flag) = &change.action {
            published.held_off &= !bit(*flag);
        }
        self.renew(&mut published);
        drop((published, door));
        self.told(&entry, change);
        Ok(())
    }

    /// The newest entries of the audit log, newest first.
    pub fn history(&self, limit: usize) -> Vec<Entry> {
        lock(&self.door).history(limit)
    }

    /// Whether the audit log on disk is still what was written; says how many changes it holds. Changes wait
    /// meanwhile.
    ///
    /// # Errors
    /// It is not.
    pub fn verify_log(&self) -> Result<u64, RolloutError> {
        lock(&self.door).verify()
    }

    /// Replaces the nodes of which percentages are taken; none: by hash alone.
    ///
    /// # Errors
    /// There are too many.
    pub fn set_members(&self, members: &[String]) -> Result<(), RolloutError> {
        let members = Membership::new(members.iter().map(String::as_str))?;
        let mut published = lock(&self.published);
        if published.members != members {
            published.members = members;
            self.renew(&mut published);
            drop(published);
            self.call_listeners();
        }
        Ok(())
    }

    /// The flags that a connection to this address would use, a bit each, as far as this side goes.
    pub fn wishes(&self, peer: &str) -> u32 {
        let (published, now_s) = (lock(&self.published), now_s());
        let is_on = |flag: &Flag| published.wish(*flag, &self.node, peer, now_s).is_on;
        Flag::ALL.iter().filter(|flag| is_on(flag)).fold(0, |bits, flag| bits | bit(*flag))
    }

    /// Of the flags that a source of this name would use, those that this node takes part in. What the
    /// source alone decides is answered with yes, unless the kill switch is on.
    pub fn answer(&self, source: &str, wished: u32) -> u32 {
        let (published, now_s) = (lock(&self.published), now_s());
        let takes_part = |flag: &Flag| match flag {
            Flag::HybridMode | Flag::MlCompression => {
                let unit = Unit::pair(&self.node, source);
                published.decide(*flag, &unit, source, true, now_s).is_on
            }
            _ => !published.is_killed(),
        };
        let agreed = Flag::ALL.iter().filter(|flag| takes_part(flag));
        wished & agreed.fold(0, |bits, flag| bits | bit(*flag))
    }

    /// A peer has answered: this is its name, and in these flags it does not take part.
    pub fn heard(&self, peer: &str, name: &str, refused: u32) {
        let mut published = lock(&self.published);
        if published.peers.heard(peer, name, refused) {
            self.renew(&mut published);
            drop(published);
            self.call_listeners();
        }
    }

    /// Whether all that is in force is in the log as well: a kill or a rollback holds at once, also where the disk
    /// is full.
    pub fn is_recorded(&self) -> bool {
        let published = lock(&self.published);
        published.emergency.is_none() && published.held_off == 0
    }

    /// Ends the thread and lets go of the log. Idempotent.
    pub fn stop(&self) {
        self.watch.stop();
        self.record_emergency_now();
        lock(&self.door).close();
    }

    /// What is published is new: deciders decide anew.
    fn renew(&self, published: &mut Published) {
        published.compile();
        self.number.fetch_add(1, Ordering::Release);
    }

    /// Without any lock held: a listener may ask for decisions.
    fn call_listeners(&self) {
        self.tell_guards();
        let listeners = lock(&self.listeners).clone();
        listeners.iter().for_each(|listener| listener());
    }

    fn told(&self, entry: &Entry, change: &Change) {
        let Entry { seq, who, why, change: what, evidence, .. } = entry.clone();
        let kind = match &change.action {
            ChangeAction::Latch(flag) => {
                EventKind::FlagRolledBack { flag: flag.name(), seq, who, why, evidence }
            }
            _ => EventKind::FlagsChanged { seq, who, why, change: what },
        };
        self.journal.publish(None, None, kind);
        self.call_listeners();
    }
}

impl Published {
    fn new(set: FlagSet) -> Self {
        let by_hash = Snapshot::new(&set);
        let (by_rank, members, peers) = (None, Membership::default(), Peers::default());
        Self { set, emergency: None, expired: 0, held_off: 0, by_hash, by_rank, members, peers }
    }

    fn is_killed(&self) -> bool {
        self.emergency.is_some() || self.set.killed.is_some()
    }

    /// What is in the log, and what could not be written there.
    fn in_force(&self) -> FlagSet {
        let mut set = self.set.clone();
        set.killed = self.emergency.clone().or(set.killed);
        for flag in Flag::ALL.into_iter().filter(|flag| self.held_off & bit(*flag) != 0) {
            let reason = HELD_OFF.to_owned();
            let latch = Latch { since_us: 0, reason, evidence: None };
            set.state_mut(flag).latch.get_or_insert(latch);
        }
        set
    }

    fn compile(&mut self) {
        self.by_hash = Snapshot::new(&self.in_force());
        if self.emergency.is_some() {
            self.by_hash = self.by_hash.clone().killed();
        }
        let rank = |snapshot: Snapshot, flag| snapshot.with_members(flag, &self.members);
        let is_known = !self.members.is_empty();
        self.by_rank = is_known.then(|| Flag::ALL.into_iter().fold(self.by_hash.clone(), rank));
    }

    /// Decides. Where members are known, `node` is who must be among the first of them; lists count for
    /// the whole unit in any case.
    fn decide(
        &self,
        flag: Flag,
        unit: &Unit<'_>,
        node: &str,
        peer_can: bool,
        now_s: u64,
    ) -> Decision {
        let decision = self.by_hash.decide(flag, unit, peer_can, now_s);
        match (&self.by_rank, decision.reason) {
            (Some(by_rank), Reason::Percentage { .. } | Reason::BelowPercentage { .. }) => {
                by_rank.decide(flag, &Unit::named(node), peer_can, now_s)
            }
            _ => decision,
        }
    }

    fn of_peer(&self, flag: Flag, node: &str, peer: &str, now_s: u64) -> Decision {
        let peer_can = !self.peers.refuses(peer, flag);
        self.decide(flag, &self.peers.unit(flag, node, peer), node, peer_can, now_s)
    }

    /// As if the peer took part in everything.
    fn wish(&self, flag: Flag, node: &str, peer: &str, now_s: u64) -> Decision {
        self.decide(flag, &self.peers.unit(flag, node, peer), node, true, now_s)
    }
}

/// A change without evidence.
fn change(who: &str, why: &str, action: ChangeAction) -> Change {
    Change { who: who.to_owned(), why: why.to_owned(), evidence: None, action }
}

/// A flag's bit, as in hellos.
fn bit(flag: Flag) -> u32 {
    1 << flag.index()
}

/// The reason of a rollback that could not be written down.
const HELD_OFF: &str = "a guard has taken it back, which could not be written down yet";

/// Seconds since 1970, for what an operator has dated.
fn now_s() -> u64 {
    wall_clock_us() / 1_000_000
}

#[cfg(test)]
mod tests;

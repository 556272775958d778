//! An answer that is asked for again and again: remembered until something changes.

use super::{Rollout, now_s};
use crate::rollout::{Decision, Flag, PreparedUnit};
use crate::runtime::lock::lock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, TryLockError};

/// Decides about one flag and one unit, from any thread. It neither waits nor fails: while the flags are
/// just being replaced, the answer is the one from before.
pub struct Decider {
    rollout: Arc<Rollout>,
    flag: Flag,
    of: Of,
    /// The number of what was published when it decided, and in the lowest bit its answer.
    remembered: AtomicU64,
}

/// What it decides for.
enum Of {
    Unit(PreparedUnit),
    /// A peer by its address as it is dialed; its unit has its name once that is known.
    Peer(Arc<str>),
}

impl Decider {
    pub(super) fn for_unit(rollout: Arc<Rollout>, flag: Flag, unit: PreparedUnit) -> Self {
        Self::new(rollout, flag, Of::Unit(unit))
    }

    /// Decides for a peer, by its address as it is dialed.
    pub fn for_peer(rollout: Arc<Rollout>, flag: Flag, peer: &str) -> Self {
        Self::new(rollout, flag, Of::Peer(peer.into()))
    }

    fn new(rollout: Arc<Rollout>, flag: Flag, of: Of) -> Self {
        let decider = Self { rollout, flag, of, remembered: AtomicU64::new(0) };
        decider.decision();
        decider
    }

    /// Whether the feature is on.
    #[inline]
    pub fn is_on(&self) -> bool {
        let number = self.rollout.number.load(Ordering::Acquire);
        let remembered = self.remembered.load(Ordering::Relaxed);
        let remembered = match remembered >> 1 == number {
            true => remembered,
            false => self.decide_anew(remembered),
        };
        remembered & 1 == 1
    }

    /// The flag.
    pub fn flag(&self) -> Flag {
        self.flag
    }

    /// The answer as it is now, with its reason.
    pub fn decision(&self) -> Decision {
        let published = lock(&self.rollout.published);
        self.remember(&published).1
    }

    #[cold]
    fn decide_anew(&self, remembered: u64) -> u64 {
        match self.rollout.published.try_lock() {
            Ok(published) => self.remember(&published).0,
            Err(TryLockError::Poisoned(poisoned)) => self.remember(&poisoned.into_inner()).0,
            Err(TryLockError::WouldBlock) => remembered,
        }
    }

    fn remember(&self, published: &super::Published) -> (u64, Decision) {
        let (rollout, flag, now_s) = (&self.rollout, self.flag, now_s());
        let decision = match &self.of {
            Of::Unit(unit) => published.decide(flag, &unit.unit(), &rollout.node, true, now_s),
            Of::Peer(peer) => published.of_peer(flag, &rollout.node, peer, now_s),
        };
        // The number changes only while what is published is locked, as it is here.
        let number = rollout.number.load(Ordering::Acquire);
        let remembered = number << 1 | u64::from(decision.is_on);
        self.remembered.store(remembered, Ordering::Relaxed);
        (remembered, decision)
    }
}

impl std::fmt::Debug for Decider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decider").field("flag", &self.flag).finish_non_exhaustive()
    }
}

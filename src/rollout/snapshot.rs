//! The flags in a form that answers quickly: what readers hold, without a lock and without allocation.

use super::decision::{Decision, Reason};
use super::flag::Flag;
use super::hash::{bucket_of, place, salt};
use super::lists::Lists;
use super::membership::{Cut, Membership};
use super::percent::Percent;
use super::set::{FlagSet, FlagState};
use super::unit::Unit;

/// A set of flags, compiled. It never changes; a change of the flags makes another.
#[derive(Clone, Debug)]
pub struct Snapshot {
    is_killed: bool,
    flags: [Compiled; Flag::ALL.len()],
}

#[derive(Clone, Debug)]
struct Compiled {
    is_enabled: bool,
    is_latched: bool,
    percent: Percent,
    salt: u64,
    /// The end of time where it never expires.
    expires_s: u64,
    /// One bit for each flag, by its place in [`Flag::ALL`].
    prerequisites: u8,
    lists: Lists,
    cut: Option<Cut>,
}

/// Decides once. What decides often keeps a [`Snapshot`], which this makes for each call.
pub fn decide(set: &FlagSet, flag: Flag, unit: &Unit<'_>, peer_can: bool, now_s: u64) -> Decision {
    Snapshot::new(set).decide(flag, unit, peer_can, now_s)
}

impl Snapshot {
    /// Compiles a set, also one that [`FlagSet::check`] would refuse: then flags that wait for each
    /// other are off.
    pub fn new(set: &FlagSet) -> Self {
        let compile = |flag| Compiled::new(flag, set.state(flag));
        Self { is_killed: set.killed.is_some(), flags: Flag::ALL.map(compile) }
    }

    /// The same with the kill switch on.
    pub fn killed(self) -> Self {
        Self { is_killed: true, ..self }
    }

    /// The same with a flag's percentage as an exact number of these members.
    pub fn with_members(mut self, flag: Flag, members: &Membership) -> Self {
        let compiled = &mut self.flags[flag.index()];
        compiled.cut = Some(members.cut(compiled.salt, compiled.percent));
        self
    }

    /// Whether a unit has a feature, and why. `peer_can`: whether the other end takes part in this
    /// feature, for those where both must agree. `now_s`: seconds since 1970, for flags that expire.
    /// It cannot fail, takes no lock and allocates nothing; any thread may ask.
    #[inline]
    pub fn decide(&self, flag: Flag, unit: &Unit<'_>, peer_can: bool, now_s: u64) -> Decision {
        if self.is_killed {
            return Reason::KillSwitch.into();
        }
        self.reason(flag, unit, peer_can, now_s, Flag::ALL.len()).into()
    }

    /// `depth`: how many flags may still stand on each other, so that a circle ends.
    #[inline]
    fn reason(
        &self,
        flag: Flag,
        unit: &Unit<'_>,
        peer_can: bool,
        now_s: u64,
        depth: usize,
    ) -> Reason {
        let rule = &self.flags[flag.index()];
        if !rule.is_enabled {
            return Reason::NotEnabled;
        }
        if now_s >= rule.expires_s {
            return Reason::Expired { expired_s: rule.expires_s };
        }
        if !flag.is_built() {
            return Reason::NotBuilt;
        }
        let marks = rule.lists.marks(unit);
        if marks.is_denied {
            return Reason::Denied;
        }
        if !peer_can {
            return Reason::PeerCannot;
        }
        if rule.prerequisites != 0
            && let Some(flag) = self.unmet(rule.prerequisites, unit, now_s, depth)
        {
            return Reason::PrerequisiteUnmet { flag };
        }
        if rule.is_latched {
            return Reason::LatchedOff;
        }
        if marks.is_allowed {
            return Reason::Allowed;
        }
        rule.share(unit.hash())
    }

    /// The first prerequisite that is off for the unit. Whether the peer can do it was asked already.
    #[inline(never)]
    fn unmet(&self, flags: u8, unit: &Unit<'_>, now_s: u64, depth: usize) -> Option<Flag> {
        let mut wanted = Flag::ALL.into_iter().filter(|flag| flags & bit(*flag) != 0);
        let Some(depth) = depth.checked_sub(1) else { return wanted.next() };
        wanted.find(|flag| !self.reason(*flag, unit, true, now_s, depth).is_on())
    }
}

impl Compiled {
    fn new(flag: Flag, state: &FlagState) -> Self {
        let rule = &state.rule;
        Self {
            is_enabled: rule.enabled,
            is_latched: state.latch.is_some(),
            percent: rule.rollout_percent,
            salt: salt(flag, rule.seed),
            expires_s: rule.expires_s.unwrap_or(u64::MAX),
            prerequisites: rule.prerequisites.iter().fold(0, |bits, flag| bits | bit(*flag)),
            lists: Lists::of(rule),
            cut: None,
        }
    }

    /// The last question: does the percentage include the unit?
    #[inline]
    fn share(&self, unit_hash: u64) -> Reason {
        let (place, percent) = (place(self.salt, unit_hash), self.percent);
        if let Some(Cut { last, chosen, members }) = self.cut {
            return match last {
                Some(last) if place <= last => Reason::Ranked { chosen, members },
                _ => Reason::NotRanked { chosen, members },
            };
        }
        let bucket = bucket_of(place);
        if bucket < percent.parts() {
            Reason::Percentage { bucket, percent }
        } else {
            Reason::BelowPercentage { bucket, percent }
        }
    }
}

const fn bit(flag: Flag) -> u8 {
    1 << flag.index()
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;

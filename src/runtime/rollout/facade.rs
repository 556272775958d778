//! What a node offers of its feature flags; C, C++, Python and the command line use these names.

use super::{Decider, Rollout, RolloutError, change};
use crate::Node;
use crate::rollout::audit::Entry;
use crate::rollout::guard::Limits;
use crate::rollout::{
    Change, ChangeAction, Decision, Flag, FlagRule, FlagRules, FlagSet, FlagState, Latch, RampView,
    RuleEdit, Schedule, Unit,
};
use serde::Serialize;
use std::sync::Arc;

/// One flag as it stands on a node.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FlagView {
    /// Its name.
    pub name: &'static str,
    /// What it is decided for: `node_pair`, `link`, `path`, `replica_group` or `cluster`.
    pub unit: &'static str,
    /// How such a unit is written.
    pub unit_form: &'static str,
    /// Whether a component stands behind it.
    pub is_built: bool,
    /// Whether any unit could have it as things stand.
    pub is_in_force: bool,
    /// What the operator says.
    #[serde(flatten)]
    pub rule: FlagRule,
    /// That it was rolled back, until that is cleared.
    pub latch: Option<Latch>,
    /// Why the kill switch is on; it is the same for every flag.
    pub killed: Option<String>,
}

impl FlagView {
    fn of(set: &FlagSet, flag: Flag) -> Self {
        let FlagState { rule, latch } = set.state(flag).clone();
        let is_expired = rule.is_expired(super::now_s());
        let has_some = !rule.rollout_percent.eq(&Default::default()) || !rule.allow_list.is_empty();
        let is_on = rule.enabled && has_some && flag.is_built() && !is_expired;
        Self {
            name: flag.name(),
            unit: flag.unit_kind().name(),
            unit_form: flag.unit_kind().form(),
            is_built: flag.is_built(),
            is_in_force: is_on && latch.is_none() && set.killed.is_none(),
            rule,
            latch,
            killed: set.killed.clone(),
        }
    }
}

impl Node {
    /// Every feature flag as it stands, in the order of [`Flag::ALL`].
    pub fn flags(&self) -> Vec<FlagView> {
        let set = self.rollout().set();
        Flag::ALL.into_iter().map(|flag| FlagView::of(&set, flag)).collect()
    }

    /// One feature flag as it stands.
    pub fn flag(&self, flag: Flag) -> FlagView {
        FlagView::of(&self.rollout().set(), flag)
    }

    /// Changes the flags: whole, in the audit log and in force on return, or nothing of it. Migrations
    /// under way follow at their next segment, chunk or connection. Waits for the disk.
    ///
    /// # Errors
    /// The change is refused, or cannot be written down; all is as before.
    pub fn change_flags(&self, change: &Change) -> Result<Vec<FlagView>, RolloutError> {
        self.rollout().change(change)?;
        Ok(self.flags())
    }

    /// Switches every flag off; lists stay as they are.
    ///
    /// # Errors
    /// As [`Self::change_flags`].
    pub fn disable_all_flags(&self, who: &str, why: &str) -> Result<Vec<FlagView>, RolloutError> {
        self.change_flags(&change(who, why, ChangeAction::DisableAll))
    }

    /// Ends the rollback of a flag, which then is as its rule says.
    ///
    /// # Errors
    /// As [`Self::change_flags`]; also where it was not rolled back.
    pub fn clear_latch(&self, flag: Flag, who: &str, why: &str) -> Result<FlagView, RolloutError> {
        self.change_flags(&change(who, why, ChangeAction::ClearLatch(flag)))?;
        Ok(self.flag(flag))
    }

    /// Whether a unit has a feature here, and why. Of a pair, the other end is enough: a peer's name, or
    /// its address as it is dialed.
    ///
    /// # Errors
    /// The text is no unit of this flag.
    pub fn explain_flag(&self, flag: Flag, unit: &str) -> Result<Decision, RolloutError> {
        let (text, is_other_end) = (unit, flag.unit_kind().is_pair() && !unit.contains('|'));
        match is_other_end {
            true => {
                Unit::parse(text)?;
                Ok(self.rollout().decide_for(flag, text))
            }
            false => Ok(self.rollout().decide(flag, &flag.unit_kind().parse(text)?)),
        }
    }

    /// Starts a schedule for a flag, from its first stage: this one, or the flag's own, or the six weeks
    /// of the upgrade guide. It goes on over restarts; each stage waits for the guards.
    ///
    /// # Errors
    /// As [`Self::change_flags`].
    pub fn start_schedule(
        &self,
        flag: Flag,
        schedule: Option<Schedule>,
        who: &str,
        why: &str,
    ) -> Result<FlagView, RolloutError> {
        let own = || self.flag(flag).rule.schedule.map(Schedule::not_started);
        let schedule = schedule.or_else(own).unwrap_or_else(|| Schedule::guide(flag));
        let edit = RuleEdit {
            enabled: Some(true),
            rollout_percent: Some(schedule.percent_at(0)),
            schedule: Some(Some(schedule)),
            ..RuleEdit::default()
        };
        self.change_flags(&change(who, why, ChangeAction::Edit(vec![(flag, edit)])))?;
        Ok(self.flag(flag))
    }

    /// Ends the schedule of a flag, whose percentage stays.
    ///
    /// # Errors
    /// As [`Self::change_flags`]; also where it has none.
    pub fn stop_schedule(
        &self,
        flag: Flag,
        who: &str,
        why: &str,
    ) -> Result<FlagView, RolloutError> {
        if self.flag(flag).rule.schedule.is_none() {
            return Err(RolloutError::NoSchedule(flag));
        }
        let edit = RuleEdit { schedule: Some(None), ..RuleEdit::default() };
        self.change_flags(&change(who, why, ChangeAction::Edit(vec![(flag, edit)])))?;
        Ok(self.flag(flag))
    }

    /// The newest changes of the flags, newest first, as the audit log has them; at most 1,024 are kept
    /// at hand.
    pub fn flag_history(&self, limit: usize) -> Vec<Entry> {
        self.rollout().history(limit)
    }

    /// What answers again and again whether a unit has a feature, in some nanoseconds and without a wait.
    /// Units as for [`Self::explain_flag`].
    ///
    /// # Errors
    /// The text is no unit of this flag.
    pub fn decider(&self, flag: Flag, unit: &str) -> Result<Decider, RolloutError> {
        let rollout = self.rollout().clone();
        if flag.unit_kind().is_pair() && !unit.contains('|') {
            Unit::parse(unit)?;
            return Ok(Decider::for_peer(rollout, flag, unit));
        }
        let unit = flag.unit_kind().parse(unit)?;
        Ok(Decider::for_unit(rollout, flag, unit.into()))
    }

    /// Throws the kill switch, with a reason, or takes it back: while it is on, every flag is off for
    /// everybody. It holds at once, and also where it cannot be written down, which an event tells then.
    ///
    /// # Errors
    /// The reason is no text of 1 to about 1,000 bytes; to be taken back, the switch is not on, or is held
    /// by its file or by the environment, or that cannot be written down.
    pub fn set_kill_switch(&self, who: &str, reason: Option<&str>) -> Result<(), RolloutError> {
        self.rollout().set_kill_switch(who, reason)
    }

    /// Whether all that is in force is in the audit log as well. What switches flags off, the kill switch and the
    /// guards, does so also where it cannot be written down; that is then tried again, and at the node's end.
    pub fn are_flags_recorded(&self) -> bool {
        self.rollout().is_recorded()
    }

    /// Names the nodes of which percentages are taken, so that 10 % of 20 of them is 2; none: each unit
    /// by its hash alone. Of a pair, the node that sends counts.
    ///
    /// # Errors
    /// There are more than 65,536.
    pub fn set_rollout_members(&self, members: &[String]) -> Result<(), RolloutError> {
        self.rollout().set_members(members)
    }

    /// Applies the rules of a configuration, as one change; only those that differ from what was last
    /// applied, so that what was set otherwise since then holds until the configuration is edited.
    ///
    /// # Errors
    /// As [`Self::change_flags`].
    pub fn configure_flags(&self, rules: &FlagRules) -> Result<Vec<FlagView>, RolloutError> {
        self.rollout().configure(rules)?;
        Ok(self.flags())
    }

    /// Replaces what a rollout may not exceed; what is in flight is judged anew.
    ///
    /// # Errors
    /// A limit that cannot be meant; the old ones stay.
    pub fn set_rollback_limits(&self, limits: Limits) -> Result<(), RolloutError> {
        Ok(self.rollout().set_limits(limits)?)
    }

    /// What a rollout may not exceed.
    pub fn rollback_limits(&self) -> Limits {
        self.rollout().limits()
    }

    /// How the rollout of each flag stands: what the guards have counted and found.
    pub fn rollouts(&self) -> Vec<RampView> {
        self.rollout().ramps()
    }

    pub(crate) fn rollout(&self) -> &Arc<Rollout> {
        self.modes().rollout()
    }
}

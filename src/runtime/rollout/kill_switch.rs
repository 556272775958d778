//! The kill switch: a file, an environment variable, or a call. It holds at once, before anything is
//! written down, and needs nothing but the node's own thread.

use super::error::RolloutError;
use super::{Rollout, change};
use crate::observe::EventKind;
use crate::rollout::{Change, ChangeAction, ChangeError};
use crate::runtime::clock::now;
use crate::runtime::lock::lock;
use std::time::Duration;

/// The file in the state directory that switches every flag off while it is there.
pub const FILE: &str = "kill-switch";
/// The environment variable that does so for as long as the process lives, unless it is empty or 0.
pub const KILL_SWITCH_VARIABLE: &str = "DWCP_KILL_SWITCH";
/// Who is told to have thrown it.
const WHO: &str = "kill switch";
/// How soon it is tried again to write down what could not be.
const RETRY: Duration = Duration::from_secs(5);
/// What its reasons begin with, by what has thrown it. What is thrown by a call alone stays on until it is
/// called off.
const BY_FILE: &str = "file ";
const BY_ENVIRONMENT: &str = "environment variable ";
/// What the reason of a kill by call begins with.
pub const BY_CALL: &str = "call: ";

impl Rollout {
    /// Throws the kill switch, or takes it back.
    ///
    /// # Errors
    /// The reason is no text, or the switch is held by a file or the environment and cannot be taken
    /// back by a call. One that cannot be written down holds all the same.
    pub fn set_kill_switch(&self, who: &str, reason: Option<&str>) -> Result<(), RolloutError> {
        let Some(reason) = reason else { return self.lift_kill_switch(who) };
        if reason.trim().is_empty() {
            return Err(ChangeError::Why(reason.to_owned()).into());
        }
        let kill = change(who, &format!("{BY_CALL}{reason}"), ChangeAction::Kill);
        // What the engine refuses, such as a reason of control characters, must not hold either.
        crate::rollout::apply(&self.set(), &kill, 0)?;
        self.kill(&kill);
        Ok(())
    }

    fn lift_kill_switch(&self, who: &str) -> Result<(), RolloutError> {
        if let Some(why) = self.thrown_by_itself() {
            return Err(RolloutError::KillHeld(why));
        }
        self.lift(&change(who, "called off", ChangeAction::LiftKill))
    }

    /// Follows the file and the environment.
    pub(super) fn look_at_kill_switch(&self) {
        let is_called = |why: &String| why.starts_with(BY_CALL);
        let holds = self.set().killed;
        if holds.as_ref().is_some_and(is_called) {
            // Told to hold: what else holds it shows when that has ended.
            return self.record_emergency();
        }
        match (self.thrown_by_itself(), holds) {
            (Some(why), holds) if holds.as_ref() != Some(&why) => {
                self.kill(&change(WHO, &why, ChangeAction::Kill));
            }
            (Some(_), _) => self.record_emergency(),
            (None, Some(_)) if self.watch.may_retry(now()) => {
                let lift = change(WHO, "what had thrown it is gone", ChangeAction::LiftKill);
                if let Err(error) = self.lift(&lift) {
                    self.watch.retry_at(now() + RETRY);
                    self.complain(&format!("the kill switch stays on: {error}"));
                }
            }
            (None, _) => {}
        }
    }

    /// A kill that was never written down is only taken back.
    fn lift(&self, lift: &Change) -> Result<(), RolloutError> {
        let mut published = lock(&self.published);
        if published.emergency.is_none() || published.set.killed.is_some() {
            drop(published);
            return self.change(lift);
        }
        published.emergency = None;
        self.renew(&mut published);
        drop(published);
        self.call_listeners();
        Ok(())
    }

    /// What holds the switch besides a call.
    fn thrown_by_itself(&self) -> Option<String> {
        if let Some(file) = self.watch.kill_file() {
            return Some(format!("{BY_FILE}{}", file.display()));
        }
        self.watch
            .is_killed_by_environment()
            .then(|| format!("{BY_ENVIRONMENT}{KILL_SWITCH_VARIABLE}"))
    }

    /// Holds from here on, whatever becomes of the writing down.
    fn kill(&self, kill: &Change) {
        let mut published = lock(&self.published);
        published.emergency = Some(kill.why.clone());
        self.renew(&mut published);
        drop(published);
        self.call_listeners();
        self.try_to_record(kill);
    }

    /// Writes down a kill that could not be written down, but does not try so again and again.
    fn record_emergency(&self) {
        if self.watch.may_retry(now()) {
            self.record_emergency_now();
        }
    }

    /// The same before another change, and before the node ends: it may be possible by now.
    pub(super) fn record_emergency_now(&self) {
        let emergency = lock(&self.published).emergency.clone();
        if let Some(why) = emergency {
            self.try_to_record(&change(WHO, &why, ChangeAction::Kill));
        }
    }

    fn try_to_record(&self, kill: &Change) {
        match self.change(kill) {
            Ok(()) => self.watch.retry_at(now()),
            Err(error) => {
                self.watch.retry_at(now() + RETRY);
                self.complain(&format!("the kill switch holds but is not written down: {error}"));
            }
        }
    }

    /// Tells the operator, but not again and again.
    pub(super) fn complain(&self, text: &str) {
        if self.watch.may_complain(now()) {
            let text = text.to_owned();
            self.journal.publish(None, None, EventKind::Notice { text });
        }
    }
}

//! The source of a recovery: a hypervisor that is paused in post-copy, because the node that carried its
//! stream ended, sends the rest through this one.
//!
//! The guest has been the destination's since the switch, so nothing here ever lets it run. Until the
//! destination says that its hypervisor listens again, the recovery can fail or be cancelled and changes
//! nothing; from then on it is a migration after its switch.

use super::{Action, RelaySource, Stage};
use crate::Status;
use crate::base::Time;
use crate::migration::ownership::Mark;
use crate::migration::relay::{RelaySetup, StreamSum};
use crate::migration::{Ending, Failure, MigrationOptions, Owner, Phase};
use crate::observe::EventKind;
use crate::wire::Control;
use crate::wire::hello::Features;

impl RelaySource {
    /// A source about to connect to where the guest is. What earlier migrations wrote down stands.
    pub fn recovering(setup: RelaySetup, options: MigrationOptions, now: Time) -> Self {
        let mut source = Self::new(setup, options, now);
        source.actions.clear();
        source.owner = Owner::Destination;
        source
    }

    /// Whether the destination has not said yet that its hypervisor listens again.
    pub(super) fn awaits_recovery(&self) -> bool {
        self.setup.is_recovery() && self.stage == Stage::Streaming
    }

    pub(super) fn check_recovery(&mut self, agreed: Features, now: Time) {
        if self.setup.is_recovery() && agreed.recovers.is_none() {
            let text = "a recovery is wanted, and the destination does not carry it";
            self.fail(Failure::new(Status::Unsupported, text), now);
        }
    }

    /// The destination's hypervisor waits for what is missing.
    pub(super) fn on_recovery_accepted(&mut self, now: Time) {
        self.stage = Stage::Serving;
        self.post_copy.sum = Some(StreamSum::default());
        self.window.enter_post_copy();
        self.actions.push_back(Action::Persist(Mark::ServingPages));
        self.enter(Phase::PostCopy, now);
    }

    /// The hypervisor here goes on, and has this much that the one at the destination may lack.
    pub fn resumed(&mut self, missing_pages: u64) {
        self.post_copy.missing_pages = missing_pages;
        let why = "a recovery goes on with it";
        self.events.push_back(EventKind::PostCopyBegun { missing_pages, why });
    }

    /// The hypervisor here has stopped sending after the switch, and keeps what it has: another recovery
    /// may go on with it.
    pub fn hypervisor_paused(&mut self, text: &str) {
        if self.stage == Stage::Serving && !self.finish_asked {
            self.session.send(&Control::Abandon { reason: text.to_string() });
            self.lose(text);
        }
    }

    /// The recovery has not begun: the guest stays the destination's, and waits there as before.
    pub(super) fn leave_paused(&mut self, failure: Failure) {
        self.failure = Some(failure);
        self.actions.clear();
        self.finish(Ending::Lost);
    }
}

#[cfg(test)]
#[path = "recovery_tests.rs"]
mod tests;

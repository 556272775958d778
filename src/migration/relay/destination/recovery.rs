//! The destination of a recovery: a hypervisor that runs its guest, and is paused in post-copy because the
//! node that carried its stream ended, gets the rest through this one.
//!
//! It begins where a switch had led: the guest is ours, and lacks memory. Nothing it gets makes it run a
//! second time, so nothing is kept back.

use super::{Action, RelayDestination, Stage};
use crate::Status;
use crate::base::Time;
use crate::migration::ownership::Mark;
use crate::migration::relay::destination::Patience;
use crate::migration::relay::{RelaySetup, StreamSum};
use crate::migration::{Ending, Failure, Owner, Phase};
use crate::wire::Control;

impl RelayDestination {
    /// A destination whose first stream is about to come up, and whose hypervisor is about to listen
    /// again.
    pub fn recovering(setup: RelaySetup, patience: Patience, now: Time) -> Self {
        let mut destination = Self::new(setup, patience, now);
        destination.stage = Stage::Incomplete;
        destination.owner = Owner::Destination;
        destination.post_copy.begin_switched(StreamSum::default());
        destination.actions =
            [Action::Persist(Mark::OwnedIncomplete), Action::Recover].into_iter().collect();
        destination.events.clear();
        destination.enter(Phase::PostCopy, now);
        destination
    }

    /// Of [`Action::Recover`]: the hypervisor listens again and is connected, or it refused and is as it was.
    pub fn recovered(&mut self, result: Result<(), String>) {
        if self.finish_asked {
            return;
        }
        match result {
            Ok(()) => {
                self.post_copy.handed_over = true;
                self.session.send(&Control::Committed);
            }
            Err(text) => {
                let status = Status::Callback;
                self.session.send(&Control::Abort { status: status.code(), reason: text.clone() });
                self.failure = Some(Failure::new(status, text));
                self.finish(Ending::Lost);
            }
        }
    }

    /// Whether the hypervisor has been told to go on.
    pub(super) fn is_recovering(&self) -> bool {
        self.setup.is_recovery() && self.stage == Stage::Incomplete
    }

    /// Ends where another migration is to carry what is missing, since no connection from the source is
    /// left; false if this one may go on itself, or has nothing to give.
    pub fn give_way(&mut self) -> bool {
        let may = self.waits_for_memory()
            && self.post_copy.handed_over
            && self.stage == Stage::Incomplete
            && self.session.stream_count() == 0
            && !self.finish_asked;
        if may {
            let text = "the source's node has gone; a recovery goes on with what is missing";
            self.failure = Some(Failure::new(Status::ConnectionLost, text));
            self.finish(Ending::Lost);
        }
        may
    }
}

#[cfg(test)]
#[path = "recovery_tests.rs"]
mod tests;

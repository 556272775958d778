//! The destination of a relayed migration whose hypervisor switches to post-copy: what it must not get too
//! early, when the guest counts as running here, and when it lacks nothing any more.
//!
//! The package that ends with the order to run the guest is kept back as the stream's end is, until all
//! before it is proved and the record says that the guest is ours. Then everything passes at once, and what
//! the hypervisor answers goes back to the source. Until its devices are restored, its end means that the
//! guest never ran, and the source may have it back; after that, that the guest is lost.

use super::{Action, RelayDestination, Released, Stage};
use crate::Status;
use crate::base::Time;
use crate::migration::fault_times::FaultTimes;
use crate::migration::ownership::Mark;
use crate::migration::relay::StreamSum;
use crate::migration::source::PostCopyError;
use crate::migration::{Ending, Failure, Owner, Phase, PostCopyFigures};
use crate::observe::EventKind;
use crate::wire::Control;
use std::collections::HashMap;
use std::time::Duration;

/// Pages that are asked for and whose time is taken; more wait in no guest at once.
const MAX_TIMED_PAGES: usize = 4096;

/// What the destination knows of post-copy.
#[derive(Debug, Default)]
pub(super) struct PostCopy {
    /// Everything up to the package's last byte, once that has been unpacked.
    at: Option<StreamSum>,
    promised: Option<StreamSum>,
    pub(super) handed_over: bool,
    /// The hypervisor has all of the guest.
    has_all: bool,
    is_kept: bool,
    /// Pages that the hypervisor asked for, by block and number.
    asked: HashMap<(u16, u64), Time>,
    asked_pages: u64,
    times: FaultTimes,
}

impl PostCopy {
    /// As after a switch that another migration made.
    pub(super) fn begin_switched(&mut self, at: StreamSum) {
        (self.at, self.promised) = (Some(at), Some(at));
    }

    /// Whether the hypervisor has what makes the guest run.
    pub(super) fn is_handed_over(&self) -> bool {
        self.handed_over
    }

    /// Whether the source has switched.
    pub(super) fn is_promised(&self) -> bool {
        self.promised.is_some()
    }
}

impl RelayDestination {
    /// Whether what [`Action::ReleaseEnd`] is to release is the package of a switch, and not the stream's end;
    /// then [`Self::handed_over`] is the answer.
    pub fn is_switching(&self) -> bool {
        self.post_copy.is_promised()
    }

    /// Whether the replay may go on.
    pub(super) fn may_replay(&self) -> bool {
        match self.stage {
            Stage::Receiving => self.post_copy.at.is_none(),
            Stage::Recording | Stage::Running => false,
            Stage::Releasing | Stage::Incomplete => self.post_copy.handed_over,
        }
    }

    /// The segment that came last from [`Self::unpacked`] ends the package of a switch.
    pub fn package_ended(&mut self, now: Time) {
        if !self.setup.post_copy || self.post_copy.at.is_some() {
            let text = "a switch to post-copy that was not agreed on, or a second one";
            return self.fail(Failure::new(Status::UnexpectedMessage, text));
        }
        self.post_copy.at = Some(self.unpacked);
        self.judge_switch(now);
    }

    pub(super) fn on_switch(&mut self, promised: StreamSum, now: Time) {
        let is_due = self.setup.post_copy && self.stage == Stage::Receiving;
        if !is_due || self.post_copy.is_promised() || self.promised.is_some() {
            let text = "a switch to post-copy that was not agreed on, or a second one";
            return self.fail(Failure::new(Status::UnexpectedMessage, text));
        }
        self.post_copy.promised = Some(promised);
        self.stopped_at = Some(now);
        self.enter(Phase::Verify, now);
        self.judge_switch(now);
    }

    /// Once the package is here and all before it with the hypervisor, it must be what was promised.
    pub(super) fn judge_switch(&mut self, now: Time) {
        let (Some(promised), Some(at)) = (self.post_copy.promised, self.post_copy.at) else {
            return;
        };
        if self.stage != Stage::Receiving || self.failure.is_some() || !self.in_hand.is_empty() {
            return;
        }
        if promised != at {
            let text = format!("the stream arrived as {at:?}, the source sent {promised:?}");
            return self.fail(Failure::new(Status::DigestMismatch, text));
        }
        self.stage = Stage::Recording;
        self.enter(Phase::Handover, now);
        self.actions.push_back(Action::Persist(Mark::OwnedIncomplete));
    }

    /// Of [`Action::ReleaseEnd`] at a switch: the hypervisor has the package, or cannot have all of it and so
    /// never runs the guest. [`Self::devices_restored`] and [`Self::released`] follow the first.
    pub fn handed_over(&mut self, result: Result<(), String>, now: Time) {
        match result {
            Ok(()) => self.post_copy.handed_over = true,
            Err(text) => self.released(Released::NeverRan(text), now),
        }
    }

    /// The guest runs, or is ready to.
    pub fn devices_restored(&mut self, now: Time) {
        if self.stage != Stage::Releasing || !self.post_copy.handed_over || self.finish_asked {
            return;
        }
        self.stage = Stage::Incomplete;
        self.downtime = self.stopped_at.map_or(Duration::ZERO, |stopped| now - stopped);
        self.enter(Phase::Resume, now);
        self.session.send(&Control::Committed);
        self.session.send(&Control::Resumed { status: 0, reason: String::new() });
        self.enter(Phase::PostCopy, now);
    }

    /// What became of the hypervisor's migration after the switch.
    pub(super) fn switched_released(&mut self, result: Released, now: Time) {
        match (result, self.stage) {
            (Released::Running, _) => {
                self.devices_restored(now);
                self.post_copy.has_all = true;
                let figures = self.post_copy_figures().unwrap_or_default();
                let waits = Box::new(*self.post_copy.times.by_bound());
                self.events.push_back(EventKind::PostCopyCompleted { figures, waits });
                self.actions.push_back(Action::Persist(Mark::Owned));
            }
            // Nothing of the guest has run here, so the source may have it back.
            (Released::NeverRan(reason), Stage::Releasing) => {
                self.stage = Stage::Receiving;
                self.fail(Failure::new(Status::Callback, reason));
            }
            (Released::NeverRan(reason) | Released::Lost(reason), _) => {
                self.session.send(&Control::Abandon { reason: reason.clone() });
                self.lose(&reason);
            }
        }
    }

    /// It is written down, or cannot be, that nothing is missing.
    pub(super) fn on_completion_kept(&mut self, result: Result<(), String>) {
        if let Err(text) = result {
            let text = format!("ownership record not updated: {text}");
            self.events.push_back(EventKind::Notice { text });
        }
        self.post_copy.is_kept = true;
        self.prove();
    }

    /// Once the source has said what the stream was, and the hypervisor has all of it, the source may let go.
    pub(super) fn prove(&mut self) {
        let Some(promised) = self.promised else { return };
        if !self.post_copy.is_kept || self.stage != Stage::Incomplete || self.finish_asked {
            return;
        }
        if promised != self.unpacked {
            let (ours, theirs) = (self.unpacked, promised);
            let text =
                format!("the guest runs with a stream of {ours:?}, the source's was {theirs:?}");
            self.failure = Some(Failure::new(Status::DigestMismatch, text));
        }
        self.session.send(&Control::Completed { digest: self.unpacked.proof() });
        self.stage = Stage::Running;
    }

    /// The source gave the guest up: what it has not sent will not come.
    pub(super) fn on_abandon(&mut self, reason: &str) {
        match self.post_copy.has_all && !self.finish_asked {
            true => self.end_unproven(reason),
            false => self.lose(reason),
        }
    }

    /// The guest is whole, and the source went before it said what the stream was.
    pub(super) fn end_unproven(&mut self, why: &str) {
        let text = format!(
            "the guest runs and lacks no memory, but {why} before the streams were compared"
        );
        self.failure = Some(Failure::new(Status::ConnectionLost, text));
        self.finish(Ending::Keep);
    }

    /// Gives up memory whose source will not come back: the operator's word, which nothing here takes the
    /// place of. The guest cannot go on.
    ///
    /// # Errors
    /// There is nothing to give up.
    pub fn abandon_post_copy(&mut self) -> Result<(), PostCopyError> {
        let has_begun = self.post_copy.handed_over || self.setup.is_recovery();
        if !has_begun || !self.waits_for_memory() || self.finish_asked {
            return Err(PostCopyError::NotInPostCopy(self.clock.phase()));
        }
        const WHY: &str = "given up at the destination by the operator";
        self.session.send(&Control::Abandon { reason: WHY.to_string() });
        self.lose(WHY);
        Ok(())
    }

    /// Whether the guest is ours and lacks memory, so that only the source, or the operator, may end it.
    pub(super) fn waits_for_memory(&self) -> bool {
        let ours = matches!(self.stage, Stage::Recording | Stage::Releasing | Stage::Incomplete);
        self.post_copy.is_promised() && ours && !self.post_copy.has_all
    }

    /// What can no longer be given up for is at least told.
    pub(super) fn note_failure(&mut self, failure: &Failure) {
        if self.post_copy.handed_over && self.waits_for_memory() && !self.finish_asked {
            let text =
                format!("the guest lacks memory, and its stream cannot go on: {}", failure.reason);
            self.events.push_back(EventKind::Notice { text });
        }
    }

    /// Memory is lost, and with it the guest.
    pub(super) fn lose(&mut self, why: &str) {
        if self.finish_asked {
            return;
        }
        self.failure = Some(Failure::new(Status::PostCopyLost, why));
        self.owner = Owner::Destination;
        self.actions.push_back(Action::Persist(Mark::Lost));
        self.finish(Ending::Lost);
    }

    /// Queues what the hypervisor answers to the one at the source.
    pub fn send_back(&mut self, bytes: Vec<u8>) {
        self.session.send(&Control::Return { bytes });
    }

    /// Whether more may be queued.
    pub fn may_send_back(&self) -> bool {
        self.session.has_room()
    }

    /// The hypervisor waits for a page.
    pub fn page_asked(&mut self, block: u16, page: u64, now: Time) {
        let post_copy = &mut self.post_copy;
        post_copy.asked_pages += 1;
        if post_copy.asked.len() < MAX_TIMED_PAGES {
            post_copy.asked.entry((block, page)).or_insert(now);
        }
    }

    /// Whether any page is waited for.
    pub fn awaits_pages(&self) -> bool {
        !self.post_copy.asked.is_empty()
    }

    /// The hypervisor has got a page.
    pub fn page_given(&mut self, block: u16, page: u64, now: Time) {
        if let Some(since) = self.post_copy.asked.remove(&(block, page)) {
            self.post_copy.times.add(now - since);
        }
    }

    pub(super) fn post_copy_figures(&self) -> Option<PostCopyFigures> {
        let post_copy = &self.post_copy;
        post_copy.is_promised().then(|| PostCopyFigures {
            faults: post_copy.asked_pages,
            fault_p50_us: post_copy.times.all_but_us(500),
            fault_p99_us: post_copy.times.all_but_us(10),
            fault_max_us: post_copy.times.longest_us(),
            ..PostCopyFigures::default()
        })
    }
}

#[cfg(test)]
#[path = "post_copy_tests.rs"]
mod tests;

//! The source of a relayed migration whose hypervisor switches to post-copy: when it is told to, what the
//! switch means for the guest, and how it ends.
//!
//! Until the switch is written down nothing is given away: the hypervisor is told to cancel, and its guest
//! goes on. After it nothing here ends by time alone, for this side has memory that nobody else has.

use super::{Action, RelaySource, Stage};
use crate::Status;
use crate::base::Time;
use crate::migration::ownership::Mark;
use crate::migration::relay::StreamSum;
use crate::migration::source::PostCopyError;
use crate::migration::{Ending, Failure, Owner, Phase, PostCopyFigures, PostCopyRule};
use crate::observe::EventKind;
use crate::qemu::PAGE_BYTES;
use crate::wire::Control;

/// Passes without progress before the guest is moved by post-copy.
const PATIENCE_PASSES: u32 = 2;
/// A pass makes progress if it leaves at most this share of the least so far.
const PROGRESS_PERCENT: u64 = 95;

/// Answers that wait for the hypervisor here, beside a bitmap of the guest.
const MAX_WAITING_ANSWERS_BYTES: u64 = 1 << 20;

/// What the source knows of post-copy.
#[derive(Debug, Default)]
pub(super) struct PostCopy {
    /// Why it was chosen, also before it can begin.
    why: Option<&'static str>,
    /// The hypervisor was told.
    ordered: bool,
    /// All that went before the guest may run at the destination, once it has gone.
    pub(super) sum: Option<StreamSum>,
    pub(super) missing_pages: u64,
    /// Pages that the destination's hypervisor asked for.
    asked_pages: u64,
    /// The last pass over memory, what it left, and the least that one left.
    pass: u64,
    least_left_bytes: Option<u64>,
    stale_passes: u32,
}

impl RelaySource {
    /// Has the hypervisor let the guest go on at the destination before all of its memory is there, as
    /// soon as it can; asking again changes nothing.
    ///
    /// # Errors
    /// [`PostCopyError`].
    pub fn start_post_copy(&mut self) -> Result<(), PostCopyError> {
        if self.options.post_copy == PostCopyRule::Never {
            return Err(PostCopyError::NotAllowed);
        }
        if self.post_copy.why.is_some() {
            return Ok(());
        }
        let may_begin = matches!(self.clock.phase(), Phase::Connect | Phase::Precopy);
        if !may_begin || self.failure.is_some() || self.finish_asked {
            return Err(PostCopyError::TooLate(self.clock.phase()));
        }
        self.post_copy.why = Some("it was asked for");
        Ok(())
    }

    /// Gives up a guest whose destination will not come back: the operator's word, which nothing here
    /// takes the place of.
    ///
    /// # Errors
    /// There is nothing to give up.
    pub fn abandon_post_copy(&mut self) -> Result<(), PostCopyError> {
        if !self.waits_for_the_operator() || self.finish_asked {
            return Err(PostCopyError::NotInPostCopy(self.clock.phase()));
        }
        const WHY: &str = "given up at the source by the operator";
        if self.stage == Stage::EndSent {
            let text = format!("{WHY} after the switch went out and before its answer came");
            self.failure = Some(Failure::new(Status::InDoubt, text));
            self.owner = Owner::InDoubt;
            self.finish(Ending::Undecided);
            return Ok(());
        }
        self.session.send(&Control::Abandon { reason: WHY.to_string() });
        self.lose(WHY);
        Ok(())
    }

    /// Whether the hypervisor, which is under way, is to be told to switch; true once.
    pub fn should_switch(&mut self) -> bool {
        let wanted = self.post_copy.why.is_some() && self.stage == Stage::Streaming;
        wanted && !self.finish_asked && !std::mem::replace(&mut self.post_copy.ordered, true)
    }

    /// The hypervisor has begun so many passes, and so much is left of this one.
    pub fn note_pass(&mut self, pass: u64, left_bytes: u64) {
        if self.options.post_copy != PostCopyRule::Auto || pass <= self.post_copy.pass {
            return;
        }
        let post_copy = &mut self.post_copy;
        post_copy.pass = pass;
        let least = post_copy.least_left_bytes.get_or_insert(u64::MAX);
        let progress = left_bytes <= *least / 100 * PROGRESS_PERCENT;
        *least = left_bytes.min(*least);
        post_copy.stale_passes = if progress { 0 } else { post_copy.stale_passes + 1 };
        if post_copy.stale_passes >= PATIENCE_PASSES {
            self.switches_instead("passes brought no progress");
        }
    }

    /// Whether the guest is moved by post-copy where it would otherwise have to stay.
    pub(super) fn switches_instead(&mut self, why: &'static str) -> bool {
        let may = self.options.post_copy == PostCopyRule::Auto || self.post_copy.why.is_some();
        if may {
            self.post_copy.why.get_or_insert(why);
        }
        may
    }

    /// Everything up to the order to run the guest was read; it stands still, and lacks so many pages there.
    pub fn stream_switched(&mut self, sum: StreamSum, missing_pages: u64, now: Time) {
        if !self.wants_segments() || self.has_switched() {
            return;
        }
        self.post_copy.sum = Some(sum);
        self.post_copy.missing_pages = missing_pages;
        self.stage = Stage::Recording;
        self.guest_stopped(now);
        self.enter(Phase::Handover, now);
        self.window.enter_post_copy();
        let why = self.post_copy.why.unwrap_or("the hypervisor switched");
        self.events.push_back(EventKind::PostCopyBegun { missing_pages, why });
        self.actions.push_back(Action::Persist(Mark::PostCopySent));
    }

    /// It is written down that the guest may be the destination's.
    pub(super) fn send_switch(&mut self) {
        let sum = self.post_copy.sum.filter(|_| self.stage == Stage::Recording);
        if let Some(StreamSum { segments, bytes, digest }) = sum {
            self.session.send(&Control::StreamSwitch { segments, bytes, digest });
            self.stage = Stage::EndSent;
        }
    }

    /// Whether the stream has come to the switch.
    pub fn has_switched(&self) -> bool {
        self.post_copy.sum.is_some()
    }

    /// The destination has the guest.
    pub(super) fn on_switched(&mut self, now: Time) {
        if self.stage != Stage::EndSent {
            return;
        }
        self.stage = Stage::Serving;
        self.owner = Owner::Destination;
        self.actions.push_back(Action::Persist(Mark::ServingPages));
        self.enter(Phase::Resume, now);
        self.say_end();
    }

    pub(super) fn on_runs_there(&mut self, now: Time) {
        if let Some(paused_at) = self.paused_at {
            self.downtime = now - paused_at;
        }
        self.enter(Phase::PostCopy, now);
    }

    /// So many pages of what the destination answered are asked for.
    pub fn note_requests(&mut self, pages: u64) {
        self.post_copy.asked_pages += pages;
    }

    /// The hypervisor counts the whole stream as done: the destination's has all of it.
    pub(super) fn switched_stream_ended(&mut self, sum: StreamSum) {
        self.sum = Some(sum);
        self.say_end();
    }

    fn say_end(&mut self) {
        let sum = self.sum.filter(|_| self.stage == Stage::Serving && !self.finish_asked);
        if let Some(StreamSum { segments, bytes, digest }) = sum {
            self.session.send(&Control::StreamEnd { segments, bytes, digest });
            self.stage = Stage::Whole;
        }
    }

    /// The destination lacks nothing any more.
    pub(super) fn on_completed(&mut self, theirs: [u8; 16]) {
        let ours = self.sum.map(|sum| sum.proof());
        if ours != Some(theirs) {
            let text = format!(
                "the guest runs at the destination with a stream of proof {theirs:02x?}, the source's \
                 was {ours:02x?}"
            );
            self.failure = Some(Failure::new(Status::DigestMismatch, text));
        }
        self.let_go();
    }

    fn let_go(&mut self) {
        self.stage = Stage::Given;
        self.owner = Owner::Destination;
        self.actions.push_back(Action::Persist(Mark::GivenAway));
        self.finish(Ending::Discard);
    }

    /// The destination's hypervisor has everything, and nobody there says that the streams were compared.
    pub(super) fn end_unproven(&mut self, why: &str) {
        let text = format!(
            "the destination's hypervisor has all of the guest, but {why} before the streams were \
             compared"
        );
        self.failure = Some(Failure::new(Status::ConnectionLost, text));
        self.let_go();
    }

    /// The destination, asked anew, says that its part is over.
    pub(super) fn switched_peer_ended(&mut self, status: Option<Status>, reason: &str) {
        if self.finish_asked {
            return;
        }
        match status {
            Some(Status::PostCopyLost) => self.lose(reason),
            // It lacked nothing, and its last word was lost.
            _ if self.stage == Stage::Whole => self.let_go(),
            _ => self.end_unproven("its part ended"),
        }
    }

    /// The hypervisor there answers the one here, which takes it in as fast as it can.
    pub(super) fn on_answers(&mut self, bytes: Vec<u8>, now: Time) {
        let waiting = match self.actions.back_mut() {
            Some(Action::Return(waiting)) => {
                waiting.extend_from_slice(&bytes);
                waiting.len() as u64
            }
            _ => {
                let length = bytes.len() as u64;
                self.actions.push_back(Action::Return(bytes));
                length
            }
        };
        let pages = self.setup.facts.ram_bytes / PAGE_BYTES as u64;
        // A recovery begins with a bitmap of the whole guest.
        if waiting > MAX_WAITING_ANSWERS_BYTES + pages.div_ceil(8) {
            self.actions.pop_back();
            let text =
                format!("{waiting} bytes of answers wait for the hypervisor here to take them");
            self.hypervisor_paused(&text);
            self.fail(Failure::new(Status::LimitReached, text), now);
        }
    }

    /// Whether this side has memory that nobody else has, so that only the other side's word, or the
    /// operator's, may end it.
    pub(super) fn waits_for_the_operator(&self) -> bool {
        self.has_switched() && matches!(self.stage, Stage::EndSent | Stage::Serving)
    }

    /// The hypervisor here has ended, and the memory with it that it had not sent.
    pub fn hypervisor_gone(&mut self, text: &str) {
        if self.waits_for_the_operator() && !self.finish_asked {
            self.session.send(&Control::Abandon { reason: text.to_string() });
            self.lose(text);
        }
    }

    /// The guest is lost: it cannot go on there, and what is here is from before the switch.
    pub(super) fn lose(&mut self, why: &str) {
        if self.finish_asked {
            return;
        }
        self.failure = Some(Failure::new(Status::PostCopyLost, why));
        self.owner = Owner::Destination;
        self.actions.push_back(Action::Persist(Mark::Lost));
        self.finish(Ending::Lost);
    }

    pub(super) fn post_copy_figures(&self) -> Option<PostCopyFigures> {
        let post_copy = &self.post_copy;
        self.has_switched().then(|| PostCopyFigures {
            missing_pages: post_copy.missing_pages,
            faults: post_copy.asked_pages,
            ..PostCopyFigures::default()
        })
    }
}

#[cfg(test)]
#[path = "post_copy_tests.rs"]
mod tests;

//! What happens when nothing happens: lost connections, a stalled peer, the deadline.

use super::{RelaySource, Stage};
use crate::Status;
use crate::base::Time;
use crate::migration::source::WORN_SHARE;
use crate::migration::{Ending, Failure, Owner, Phase};
use std::mem::replace;

impl RelaySource {
    /// Looks at the clock.
    pub fn tick(&mut self, now: Time) {
        if self.is_over() || self.finish_asked {
            return;
        }
        let waits = self.waits_for_peer();
        if !waits {
            self.last_progress = now;
        } else if self.is_stuck(now) {
            self.session.wear_out(self.last_progress, now);
        }
        if self.waits_for_the_operator() {
            return;
        }
        if let Some(since) = self.without_streams_since {
            if now - since >= self.options.connection_timeout(self.streams_seen > 0) {
                let why = match self.last_connect_error.as_str() {
                    "" => String::new(),
                    error => format!("; last attempt: {error}"),
                };
                let text = format!("no connection for {:?}{why}", now - since);
                let first = self.streams_seen == 0;
                let status = if first { Status::Connect } else { Status::ConnectionLost };
                self.give_up(status, text, now);
            }
            return;
        }
        if waits {
            self.check_progress(now);
        }
        if let Some(deadline) = self.options.deadline
            && matches!(self.clock.phase(), Phase::Connect | Phase::Precopy)
            && self.clock.elapsed(now) >= deadline
            && !self.switches_instead("the deadline came")
        {
            let text = format!("did not converge: deadline of {deadline:?} reached");
            self.fail(Failure::new(Status::DidNotConverge, text), now);
        }
    }

    fn waits_for_peer(&self) -> bool {
        self.awaits_replay()
            || !self.session.all_acknowledged()
            || self.awaits_announcement()
            || self.stage >= Stage::EndSent && self.unsent.is_empty()
    }

    /// Whether nothing has moved for so long that the streams themselves may be at fault.
    fn is_stuck(&self, now: Time) -> bool {
        let connected = now - self.last_progress.max(self.last_stream_up);
        self.session.stream_count() > 0 && connected >= self.options.stall_timeout / WORN_SHARE
    }

    /// Whether the destination could replay something. What our own pacer holds back is not its fault:
    /// it can go on with no channel before the segment that is due there, and maybe with none at all.
    fn awaits_replay(&self) -> bool {
        let mut begun = vec![false; usize::from(self.setup.channels) + 1];
        let mut dues = self.segments.values().filter(|segment| {
            begun.get_mut(usize::from(segment.channel)).is_some_and(|begun| !replace(begun, true))
        });
        !self.segments.is_empty() && dues.all(|due| due.sent.is_some())
    }

    /// Gives up if the peer moves nothing, though it is connected or connects again and again.
    fn check_progress(&mut self, now: Time) {
        let (without, options) = (now - self.last_progress, &self.options);
        let connected = now - self.last_progress.max(self.last_stream_up);
        if connected >= options.stall_timeout {
            let text = format!(
                "the destination made no progress for {without:?} with {} segments unacknowledged",
                self.segments.len()
            );
            self.give_up(Status::PeerStalled, text, now);
        } else if without >= options.reconnect_timeout + options.stall_timeout {
            let text = format!("connections came and broke with no progress for {without:?}");
            self.give_up(Status::ConnectionLost, text, now);
        }
    }

    /// Before the end is out the guest goes on here; after it nobody here may say who has it.
    fn give_up(&mut self, status: Status, text: String, now: Time) {
        match self.stage {
            Stage::Streaming | Stage::Recording => self.fail(Failure::new(status, text), now),
            Stage::EndSent => {
                let text = format!(
                    "{text}, after the end of the stream went out and before its answer came: the \
                     guest stays paused here; the destination's record tells whether it has it"
                );
                self.failure = Some(Failure::new(Status::InDoubt, text));
                self.owner = Owner::InDoubt;
                self.finish(Ending::Undecided);
            }
            Stage::Serving => {}
            Stage::Whole => self.end_unproven(&text),
            Stage::Given => self.on_given(now),
        }
    }
}

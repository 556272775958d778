//! What happens when nothing happens: lost connections, a stalled peer, the deadline.

use super::{Commitment, Source};
use crate::Status;
use crate::base::Time;
use crate::migration::source::WORN_SHARE;
use crate::migration::{Ending, Failure, Owner, Phase, PostCopyRule};
use std::time::Duration;

impl Source {
    /// Looks at the clock; call at [`Self::next_timeout`] or any time.
    pub fn tick(&mut self, now: Time) {
        if self.is_over() || self.finish_asked {
            return;
        }
        self.maybe_fetch(now);
        if self.waits_for_peer() && self.is_stuck(now) {
            self.session.wear_out(self.last_progress, now);
        }
        if self.waits_for_the_operator() {
            return;
        }
        if let Some(since) = self.unreachable_since()
            && now - since >= self.connection_timeout()
        {
            return self.on_disconnected(now - since, now);
        }
        if self.waits_for_peer() && self.check_progress(now) {
            return;
        }
        if let Some(deadline) = self.setup.options.deadline
            && matches!(self.clock.phase(), Phase::Connect | Phase::Precopy)
            && self.clock.elapsed(now) >= deadline
        {
            self.on_deadline(deadline, now);
        }
    }

    /// When [`Self::tick`] may next have something to do.
    pub fn next_timeout(&self, now: Time) -> Time {
        let options = &self.setup.options;
        let mut next = now + Duration::from_secs(1);
        if self.waits_for_the_operator() {
            return next;
        }
        if let Some(since) = self.unreachable_since() {
            next = next.min(since + self.connection_timeout());
        }
        if let Some(deadline) = options.deadline {
            let elapsed = self.clock.elapsed(now);
            next = next.min(now + deadline.saturating_sub(elapsed).max(Duration::from_millis(1)));
        }
        let look = self.next_look(now);
        if self.clock.phase() == Phase::Precopy && look > now {
            next = next.min(look);
        }
        next.max(now + Duration::from_micros(100))
    }

    fn on_deadline(&mut self, deadline: Duration, now: Time) {
        let may_switch = self.setup.options.post_copy == PostCopyRule::Auto
            && self.clock.phase() == Phase::Precopy;
        match may_switch {
            true => self.switch_to_post_copy("the deadline came"),
            false => self.did_not_converge(&format!("deadline of {deadline:?} reached"), now),
        }
        self.advance(now);
    }

    /// Time that the hypervisor took, or that nothing was asked of the peer, is not the peer's.
    pub(super) fn begin_waiting(&mut self, now: Time) {
        if !self.waits_for_peer() {
            self.last_progress = now;
        }
    }

    /// Gives up if the peer moves nothing, though it is connected or connects again and again.
    fn check_progress(&mut self, now: Time) -> bool {
        let (without, options) = (now - self.last_progress, &self.setup.options);
        let connected = now - self.last_progress.max(self.last_stream_up);
        if self.session.stream_count() > 0 && connected >= options.stall_timeout {
            self.on_stalled(without, now);
        } else if without >= options.reconnect_timeout + options.stall_timeout {
            let text = format!("connections came and broke with no progress for {without:?}");
            self.give_up(Status::ConnectionLost, text, now);
        } else {
            return false;
        }
        true
    }

    /// Whether nothing has moved for so long that the streams themselves may be at fault.
    fn is_stuck(&self, now: Time) -> bool {
        let connected = now - self.last_progress.max(self.last_stream_up);
        self.session.stream_count() > 0
            && connected >= self.setup.options.stall_timeout / WORN_SHARE
    }

    fn waits_for_peer(&self) -> bool {
        !self.flights.is_empty()
            || !self.session.all_acknowledged()
            || self.finalize_sent && self.commitment != Commitment::Recording
    }

    /// Since when nobody answers.
    fn unreachable_since(&self) -> Option<Time> {
        self.without_streams_since.filter(|_| self.setting_up == 0)
    }

    fn connection_timeout(&self) -> Duration {
        self.setup.options.connection_timeout(self.streams_seen > 0)
    }

    fn on_disconnected(&mut self, how_long: Duration, now: Time) {
        let why = match self.last_connect_error.as_str() {
            "" => String::new(),
            error => format!("; last attempt: {error}"),
        };
        let text = format!("no connection for {how_long:?}{why}");
        let status = if self.streams_seen == 0 { Status::Connect } else { Status::ConnectionLost };
        self.give_up(status, text, now);
    }

    fn on_stalled(&mut self, how_long: Duration, now: Time) {
        let text = format!(
            "the destination made no progress for {how_long:?} with {} chunks unacknowledged",
            self.flights.len()
        );
        self.give_up(Status::PeerStalled, text, now);
    }

    /// Before the commit the guest goes on here; after it nobody here may say who has it.
    fn give_up(&mut self, status: Status, text: String, now: Time) {
        match self.commitment {
            Commitment::Ours | Commitment::Recording => self.fail(Failure::new(status, text), now),
            Commitment::Sent => {
                let text = format!(
                    "{text}, after the commit went out and before its answer came: the guest \
                     stays paused here; the destination's record tells whether it has the guest"
                );
                self.failure = Some(Failure::new(Status::InDoubt, text));
                self.finish(Owner::InDoubt, None, Ending::Undecided);
            }
            // The guest is the destination's; only news of its start is missing.
            Commitment::Given => {
                if let Some(paused_at) = self.paused_at {
                    self.downtime = now - paused_at;
                }
                if self.post_copy.is_whole() {
                    let text = format!(
                        "the guest runs at the destination and lacks no page, but {text} before the \
                         digests were compared"
                    );
                    self.failure = Some(Failure::new(Status::ConnectionLost, text));
                }
                let mark = Some(crate::migration::ownership::Mark::GivenAway);
                self.finish(Owner::Destination, mark, Ending::Discard);
            }
        }
    }
}

#[cfg(test)]
#[path = "timers_tests.rs"]
mod tests;

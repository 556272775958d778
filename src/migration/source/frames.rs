//! What the destination says: acknowledgements and control messages.

use super::{Commitment, MAX_DAMAGED_IN_A_ROW, Source};
use crate::Status;
use crate::base::{StreamId, Time};
use crate::migration::ownership::Mark;
use crate::migration::{Ending, Failure, Owner, Phase};
use crate::observe::EventKind;
use crate::transport::SessionError;
use crate::wire::hello::Ended;
use crate::wire::{ChunkAck, Control, Frame, FrameKind};

impl Source {
    /// Takes in a frame that arrived on a stream.
    ///
    /// # Errors
    /// The peer broke the protocol: the stream is to be closed.
    pub fn frame(
        &mut self,
        stream: StreamId,
        frame: &Frame,
        now: Time,
    ) -> Result<(), SessionError> {
        if !self.session.is_up(stream) {
            return Ok(());
        }
        self.session.heard(stream, now);
        match frame.kind {
            FrameKind::ControlAck => self.session.on_control_ack(&frame.payload)?,
            FrameKind::ChunkAck => self.on_chunk_ack(stream, &frame.payload, now)?,
            FrameKind::Control => {
                for message in self.session.on_control(&frame.payload)? {
                    self.last_progress = now;
                    self.on_message(message, now);
                }
            }
            FrameKind::PageRequest if self.post_copy.has_switched() => {
                self.on_page_request(&frame.payload, now)?;
            }
            FrameKind::Ping => {}
            kind => {
                let text = format!("unexpected {kind:?} frame from the destination");
                self.fail(Failure::new(Status::UnexpectedMessage, text), now);
            }
        }
        self.advance(now);
        Ok(())
    }

    /// The destination turned a connection away.
    pub fn refused(&mut self, status: i32, reason: &str, ended: Ended, now: Time) {
        self.connect_failed(reason);
        if ended != Ended::No {
            let status = Status::from_code(status).unwrap_or(Status::PeerAborted);
            let text = format!("the destination says that the migration is over: {reason}");
            return self.peer_says_ended(ended, Failure::new(status, text), now);
        }
        let status = Status::from_code(status).unwrap_or(Status::Refused);
        // A busy destination may have room later; and the bytes that tell the version have no
        // checksum, so the network may have changed them.
        if !matches!(status, Status::LimitReached | Status::Busy | Status::BadVersion) {
            let text = format!("the destination refused: {reason}");
            self.fail(Failure::new(status, text), now);
        }
    }

    fn peer_says_ended(&mut self, ended: Ended, failure: Failure, now: Time) {
        let is_given = matches!(self.commitment, Commitment::Sent | Commitment::Given);
        if is_given && self.post_copy.has_switched() && ended == Ended::DestinationOwns {
            return self.switched_peer_ended(failure, now);
        }
        match (self.commitment, ended) {
            (Commitment::Sent | Commitment::Given, Ended::DestinationOwns) => {
                if self.commitment == Commitment::Sent {
                    self.on_committed(now);
                }
                // What can have failed there after the commit is the start of the guest.
                match failure.status {
                    Status::Callback => {
                        self.on_resumed(failure.status.code(), failure.reason, now);
                    }
                    _ => self.on_resumed(0, String::new(), now),
                }
            }
            // It gave up before the commit reached it.
            (Commitment::Sent, Ended::SourceOwns) => self.retreat(failure, now),
            _ => self.fail(failure, now),
        }
    }

    fn on_chunk_ack(
        &mut self,
        stream: StreamId,
        payload: &[u8],
        now: Time,
    ) -> Result<(), SessionError> {
        let ack = ChunkAck::decode(payload)?;
        for id in ack.arrived {
            // An acknowledgement counts only on the stream that carried the chunk.
            if self.flights.get(&id).is_some_and(|f| f.stream == stream && f.encoded.is_some()) {
                self.settle_chunk(id, true, now);
                self.last_progress = now;
                self.damaged_in_a_row = 0;
            }
        }
        for id in ack.damaged {
            if self.flights.get(&id).is_some_and(|f| f.stream == stream && f.encoded.is_some()) {
                self.settle_chunk(id, false, now);
                self.events.push_back(EventKind::ChunkDamaged { chunk: id.0 });
                self.reopen_after_loss();
                self.damaged_in_a_row += 1;
            }
        }
        if self.damaged_in_a_row > MAX_DAMAGED_IN_A_ROW {
            let text = format!("{MAX_DAMAGED_IN_A_ROW} chunks in a row arrived damaged");
            self.fail(Failure::new(Status::Corrupt, text), now);
        }
        self.maybe_say_all_arrived();
        Ok(())
    }

    fn on_message(&mut self, message: Control, now: Time) {
        match message {
            // Of a stream that is up, chunks may still be read from the guest.
            Control::Fenced { stream, arrived } if !self.session.is_up(stream) => {
                for id in self.chunks_of(stream) {
                    self.settle_chunk(id, arrived.contains(&id), now);
                }
                self.reopen_after_loss();
                self.maybe_say_all_arrived();
            }
            Control::Verified { digest } if self.finalize_sent && !self.verified => {
                if self.failure.is_none() {
                    self.on_verified(digest, now);
                }
            }
            Control::Committed if self.commitment == Commitment::Sent => self.on_committed(now),
            Control::Resumed { status, reason } if self.clock.phase() == Phase::Resume => {
                self.on_resumed(status, reason, now);
            }
            Control::Completed { digest } if self.post_copy.is_whole() => {
                self.on_completed(digest);
            }
            Control::Abandon { reason }
                if self.commitment == Commitment::Given && self.post_copy.has_switched() =>
            {
                self.lose(&format!("given up at the destination: {reason}"));
            }
            Control::Abort { status, reason } => self.on_abort(status, &reason, now),
            other => {
                let text = format!("unexpected message from the destination: {other:?}");
                self.fail(Failure::new(Status::UnexpectedMessage, text), now);
            }
        }
    }

    /// Pages that were lost after `Finalize` reopen the image: what it promised is still true,
    /// because the guest is paused, but they must go out again.
    fn reopen_after_loss(&mut self) {
        if self.plan.pending() > 0 && self.finalize_sent {
            self.resend_after_finalize = true;
        }
    }

    pub(super) fn on_committed(&mut self, now: Time) {
        self.commitment = Commitment::Given;
        self.owner = Owner::Destination;
        self.enter(Phase::Resume, now);
        self.begin_serving(now);
    }

    pub(super) fn on_resumed(&mut self, status: i32, reason: String, now: Time) {
        if let Some(paused_at) = self.paused_at.take() {
            self.downtime = now - paused_at;
        }
        if status != 0 {
            let status = Status::from_code(status).unwrap_or(Status::PeerAborted);
            let reason = format!("the guest is the destination's, which cannot start it: {reason}");
            self.failure = Some(Failure { status, reason });
        }
        if self.post_copy.has_switched() {
            return self.enter(Phase::PostCopy, now);
        }
        if !self.finish_asked {
            self.finish(Owner::Destination, Some(Mark::GivenAway), Ending::Discard);
        }
    }

    /// The peer gave up. After the commit went out this is the one word that gives the guest back.
    fn on_abort(&mut self, status: i32, reason: &str, now: Time) {
        if self.finish_asked || self.commitment == Commitment::Given {
            return;
        }
        let status = Status::from_code(status).unwrap_or(Status::PeerAborted);
        self.retreat(Failure::new(status, format!("destination: {reason}")), now);
    }
}

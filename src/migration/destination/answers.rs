//! What the driver's actions brought, and the steps that follow from it.

use super::{Action, Answer, Commitment, Destination};
use crate::Status;
use crate::base::Time;
use crate::migration::ownership::Mark;
use crate::migration::{Failure, GuestError, Owner, Phase};
use crate::observe::EventKind;
use crate::wire::Control;

impl Destination {
    /// Takes in what came of an action.
    pub fn answer(&mut self, answer: Answer, now: Time) {
        match answer {
            Answer::PostCopyBegun(result) => self.on_post_copy_begun(result),
            Answer::DeviceStateLoaded(result) => self.on_loaded(result, now),
            Answer::Resumed(result) => self.on_resumed(result, now),
            Answer::Persisted(mark, result) => self.on_persisted(mark, result, now),
            Answer::Finished(result) => {
                if let Err(error) = result {
                    self.events.push_back(EventKind::Notice { text: error.to_string() });
                }
                if self.ended_at.is_none() {
                    self.end(now);
                }
            }
        }
    }

    /// Loads the device state once the whole image is here and is what the source promised.
    pub(super) fn try_load(&mut self, now: Time) {
        let Some(promise) = self.promise else { return };
        let here = self.device_state.len() as u64 == promise.device_state_bytes;
        let receiving = self.commitment == Commitment::Receiving && self.failure.is_none();
        if !receiving || !here || self.storing > 0 {
            return;
        }
        let ours = self.digest.value();
        if ours.0 != promise.digest {
            if self.all_arrived {
                let theirs = crate::encoding::Digest(promise.digest);
                let text = format!("image digest here is {ours}, the source's {theirs}");
                self.fail(Failure::new(Status::DigestMismatch, text));
            }
            return;
        }
        let crc = crc32fast::hash(&self.device_state);
        if crc != promise.device_state_crc {
            let theirs = promise.device_state_crc;
            let text =
                format!("device state checksum here is {crc:08x}, the source's {theirs:08x}");
            return self.fail(Failure::new(Status::Corrupt, text));
        }
        self.commitment = Commitment::Loading;
        self.enter(Phase::Verify, now);
        self.actions.push_back(Action::LoadDeviceState(std::mem::take(&mut self.device_state)));
    }

    fn on_loaded(&mut self, result: Result<(), GuestError>, now: Time) {
        if self.failure.is_some() {
            return;
        }
        if let Err(error) = result {
            return self.fail(error.into());
        }
        self.commitment = Commitment::Preparing;
        self.enter(Phase::Handover, now);
        self.actions.push_back(Action::Persist(Mark::Prepared));
    }

    fn on_persisted(&mut self, mark: Mark, result: Result<(), String>, now: Time) {
        match (mark, result) {
            (Mark::Prepared, Ok(())) if self.commitment == Commitment::Preparing => {
                self.commitment = Commitment::Prepared;
                self.session.send(&Control::Verified { digest: self.verified_digest() });
            }
            (Mark::Owned, result) if self.commitment == Commitment::Ours => {
                self.on_completion_kept(result);
            }
            (Mark::Owned | Mark::OwnedIncomplete, Ok(()))
                if self.commitment == Commitment::Recording =>
            {
                self.commitment = Commitment::Ours;
                self.owner = Owner::Destination;
                self.session.send(&Control::Committed);
                self.enter(Phase::Resume, now);
                self.actions.push_back(Action::Resume);
            }
            (Mark::Receiving | Mark::Prepared | Mark::Owned | Mark::OwnedIncomplete, Err(text)) => {
                // A commit that cannot be written down was not taken: the source gets its guest
                // back by the abort.
                if self.commitment == Commitment::Recording {
                    self.commitment = Commitment::Prepared;
                }
                let text = format!("cannot write the ownership record: {text}");
                self.fail(Failure::new(Status::StateFile, text));
            }
            (_, Err(text)) => {
                let text = format!("ownership record not updated: {text}");
                self.events.push_back(EventKind::Notice { text });
            }
            (_, Ok(())) => {}
        }
    }

    fn on_resumed(&mut self, result: Result<(), GuestError>, now: Time) {
        self.resumed = true;
        self.downtime = now - self.stopped_at.unwrap_or(now);
        let (status, reason) = match result {
            Ok(()) => (Status::Ok, String::new()),
            Err(error) => (Status::Callback, error.to_string()),
        };
        self.session.send(&Control::Resumed { status: status.code(), reason: reason.clone() });
        if status != Status::Ok {
            self.failure = Some(Failure { status, reason });
        }
        self.enter_post_copy(now);
    }

    /// The commit: from the moment its record is on disk the guest is ours.
    pub(super) fn on_commit(&mut self) {
        if self.commitment != Commitment::Prepared || self.failure.is_some() {
            let text = format!("commit while {:?}", self.commitment);
            return self.fail(Failure::new(Status::UnexpectedMessage, text));
        }
        self.commitment = Commitment::Recording;
        let is_partial = self.post_copy.has_switched();
        let mark = if is_partial { Mark::OwnedIncomplete } else { Mark::Owned };
        self.actions.push_back(Action::Persist(mark));
    }

    /// The source has the guest and keeps it.
    pub(super) fn on_abort(&mut self, status: i32, reason: &str) {
        if self.commitment >= Commitment::Recording || self.finish_asked {
            return;
        }
        let status = Status::from_code(status).unwrap_or(Status::PeerAborted);
        self.discard(Failure::new(status, format!("source: {reason}")));
    }
}

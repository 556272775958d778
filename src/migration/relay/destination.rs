//! The destination's side of a relayed migration: segments put in order, and the end kept back
//! until everything before it is proved.

mod post_copy;
mod recovery;

use self::post_copy::PostCopy;
use super::spare::SpareBuffers;
use super::{MAX_EARLY_SEGMENTS, RelaySetup, StreamSum};
use crate::Status;
use crate::base::limits::{MAX_ANNOUNCED_PAGES, MAX_ANNOUNCED_PIECE_PAGES};
use crate::base::{ChunkId, StreamId, Time};
use crate::encoding::HeldKey;
use crate::migration::ownership::Mark;
use crate::migration::stats::{PhaseClock, milliseconds};
use crate::migration::{Ending, Failure, Owner, Phase, Progress, Report};
use crate::migration::{ended_event, micros, stream_ended};
use crate::observe::EventKind;
use crate::transport::{Session, SessionError};
use crate::wire::frame::HEADER_BYTES;
use crate::wire::segment::SegmentPayload;
use crate::wire::{Control, Frame, FrameKind};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Bytes that early segments may hold together; more than any source has under way, and those that
/// are acknowledged already.
const MAX_EARLY_BYTES: u64 = 136 << 20;
/// So far ahead of the replay segments are acknowledged when they arrive. One that is lost on its way
/// then holds back no acknowledgement of those behind it, and no window is full of what is here.
const ACKNOWLEDGED_AHEAD: u64 = 32;
/// The same once the guest may be stopped: what waits for the replay then is downtime, and the source's
/// window is to be full of it.
const ACKNOWLEDGED_AHEAD_IN_TAIL: u64 = 8;

/// Bytes of unpacked segments that the replay may have in hand: enough to keep it busy. With channels
/// more than any source has under way, because one may stand still until another has come as far.
const MAX_IN_HAND_BYTES: u64 = 4 << 20;
const MAX_IN_HAND_BYTES_WITH_CHANNELS: u64 = 256 << 20;

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For the source, when no stream is up.
    pub reconnect_timeout: Duration,
    /// For a silent source.
    pub stall_timeout: Duration,
}

/// What the driver is asked to do, outside the lock, in this order.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Write the record down, durably; answer with [`RelayDestination::persisted`].
    Persist(Mark),
    /// Replay what was kept back and see the guest run; answer with
    /// [`RelayDestination::released`].
    ReleaseEnd,
    /// Make a hypervisor that is paused in post-copy listen again; answer with
    /// [`RelayDestination::recovered`].
    Recover,
    /// Settle the hypervisor; answer with [`RelayDestination::finished`].
    Finish(Ending),
}

/// What became of the guest after the end was replayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Released {
    /// It runs, or is ready to.
    Running,
    /// The hypervisor refused the image: it never ran.
    NeverRan(String),
    /// The hypervisor has ended, and nobody can tell whether it ran the guest before.
    Lost(String),
}

#[derive(Debug)]
struct Arrived {
    payload: SegmentPayload,
    /// Those that brought it. The source counts on one of them, and only it knows on which. None: it
    /// is acknowledged.
    streams: Vec<StreamId>,
}

#[derive(Debug)]
struct InHand {
    /// As of [`Arrived`].
    streams: Vec<StreamId>,
    /// Unpacked; zero until it is.
    stream_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
enum Stage {
    /// Segments come in.
    Receiving,
    /// The whole is proved; the record is being written.
    Recording,
    /// The guest is ours; its end is being replayed, or what makes it run without all of its memory.
    Releasing,
    /// After a switch: it runs, or may, and lacks memory.
    Incomplete,
    /// It runs.
    Running,
}

/// The state machine.
#[derive(Debug)]
pub struct RelayDestination {
    setup: RelaySetup,
    patience: Patience,
    session: Session,
    early: BTreeMap<u64, Arrived>,
    early_bytes: u64,
    spare: SpareBuffers,
    next: u64,
    /// Segments that the replay has taken and not yet written, by number.
    in_hand: BTreeMap<u64, InHand>,
    in_hand_bytes: u64,
    /// A segment is being unpacked.
    unpacking: bool,
    unpacked: StreamSum,
    promised: Option<StreamSum>,
    post_copy: PostCopy,
    stage: Stage,
    wire_bytes: u64,
    clock: PhaseClock,
    actions: VecDeque<Action>,
    events: VecDeque<EventKind>,
    failure: Option<Failure>,
    /// For the source, once it is written down.
    abort: Option<Control>,
    owner: Owner,
    finish_asked: bool,
    ended_at: Option<Time>,
    stopped_at: Option<Time>,
    downtime: Duration,
    streams_seen: u32,
    used_streams: std::collections::BTreeSet<StreamId>,
    without_streams_since: Option<Time>,
}

impl RelayDestination {
    /// A destination whose first stream is about to come up.
    pub fn new(setup: RelaySetup, patience: Patience, now: Time) -> Self {
        let mut destination = Self {
            setup,
            patience,
            session: Session::default(),
            early: BTreeMap::new(),
            early_bytes: 0,
            spare: SpareBuffers::default(),
            next: 0,
            in_hand: BTreeMap::new(),
            in_hand_bytes: 0,
            unpacking: false,
            unpacked: StreamSum::default(),
            promised: None,
            post_copy: PostCopy::default(),
            stage: Stage::Receiving,
            wire_bytes: 0,
            clock: PhaseClock::new(now),
            actions: VecDeque::from([Action::Persist(Mark::Receiving)]),
            events: VecDeque::new(),
            failure: None,
            abort: None,
            owner: Owner::Source,
            finish_asked: false,
            ended_at: None,
            stopped_at: None,
            downtime: Duration::ZERO,
            streams_seen: 0,
            used_streams: std::collections::BTreeSet::new(),
            without_streams_since: Some(now),
        };
        destination.enter(Phase::Precopy, now);
        destination
    }

    /// Tells the source what is held here, hashed under `key`; once, also if it is nothing. Of more
    /// than [`MAX_ANNOUNCED_PAGES`] the first are told.
    pub fn announce(&mut self, key: HeldKey, hashes: &[u64]) {
        let told = &hashes[..hashes.len().min(MAX_ANNOUNCED_PAGES as usize)];
        let mut pieces = told.chunks(MAX_ANNOUNCED_PIECE_PAGES).peekable();
        loop {
            let piece = pieces.next().unwrap_or_default();
            let last = pieces.peek().is_none();
            self.session.send(&Control::Held { key: key.0, last, hashes: piece.to_vec() });
            if last {
                return;
            }
        }
    }

    /// The next segment in order, to be unpacked; [`Self::unpacked`] is the answer. Once the whole is
    /// proved there is none, whatever else the source sends.
    pub fn next_segment(&mut self) -> Option<SegmentPayload> {
        if self.failure.is_some() || !self.has_segment() {
            return None;
        }
        let Arrived { payload, streams } = self.early.remove(&self.next)?;
        self.early_bytes -= payload.len() as u64;
        self.in_hand.insert(self.next, InHand { streams, stream_bytes: 0 });
        self.unpacking = true;
        self.next += 1;
        for ahead in [ACKNOWLEDGED_AHEAD, ACKNOWLEDGED_AHEAD_IN_TAIL] {
            self.acknowledge_ahead(self.next + ahead - 1);
        }
        Some(payload)
    }

    /// Whether the next segment in order is here and may be unpacked.
    pub fn has_segment(&self) -> bool {
        let most = match self.setup.channels {
            0 => MAX_IN_HAND_BYTES,
            _ => MAX_IN_HAND_BYTES_WITH_CHANNELS,
        };
        let fits = !self.unpacking && self.in_hand_bytes < most;
        fits && self.may_replay() && self.early.contains_key(&self.next)
    }

    /// Buffers that serve again.
    pub fn spare(&mut self) -> &mut SpareBuffers {
        &mut self.spare
    }

    /// Bytes of segments that wait for the replay.
    pub fn stored_bytes(&self) -> u64 {
        self.early_bytes
    }

    /// The segment that came last from [`Self::next_segment`] is so many bytes of a channel, with
    /// this checksum. Its number, for the replay; none if it belongs nowhere.
    pub fn unpacked(&mut self, channel: u8, bytes: u64, checksum: u64) -> Option<u64> {
        let most = self.setup.channels;
        if channel > most {
            let text = format!("a segment of channel {channel}, where {most} were agreed on");
            self.fail(Failure::new(Status::Corrupt, text));
            return None;
        }
        self.unpacking = false;
        let mut last = self.in_hand.last_entry()?;
        last.get_mut().stream_bytes = bytes;
        self.in_hand_bytes += bytes;
        self.unpacked.add(channel, bytes, checksum);
        Some(*last.key())
    }

    /// The replay has written all of a segment, or keeps back what could be the stream's end.
    pub fn replayed(&mut self, number: u64, now: Time) {
        if let Some(InHand { streams, stream_bytes }) = self.in_hand.remove(&number) {
            for stream in streams {
                self.session.acknowledge(stream, ChunkId(number), true);
            }
            self.in_hand_bytes -= stream_bytes;
            self.judge_end(now);
            self.judge_switch(now);
        }
    }

    /// Bytes of unpacked segments that the replay has not written.
    pub fn in_hand_bytes(&self) -> u64 {
        self.in_hand_bytes
    }

    /// Whether the source has said that there is no more.
    pub fn is_end_known(&self) -> bool {
        self.promised.is_some()
    }

    /// Of [`Action::Persist`].
    pub fn persisted(&mut self, mark: Mark, result: Result<(), String>) {
        match (mark, result) {
            (Mark::Owned, Ok(())) if self.stage == Stage::Recording => {
                self.stage = Stage::Releasing;
                self.owner = Owner::Destination;
                self.actions.push_back(Action::ReleaseEnd);
            }
            (Mark::OwnedIncomplete, Ok(())) if self.stage == Stage::Recording => {
                self.stage = Stage::Releasing;
                self.owner = Owner::Destination;
                self.actions.push_back(Action::ReleaseEnd);
            }
            (Mark::Owned, result) if self.stage == Stage::Incomplete => {
                self.on_completion_kept(result);
            }
            (Mark::Owned | Mark::OwnedIncomplete, Err(error)) => {
                self.stage = Stage::Receiving;
                let text = format!("cannot write down that the guest is ours: {error}");
                self.fail(Failure::new(Status::StateFile, text));
            }
            (Mark::Receiving, Err(error)) => self.fail(Failure::new(Status::StateFile, error)),
            // Only now may the source run the guest: until here our record may have said that it
            // is ours. If it cannot be written, this process still never runs the guest.
            (Mark::Discarded, _) => {
                if let Some(abort) = self.abort.take() {
                    self.session.send(&abort);
                }
            }
            _ => {}
        }
    }

    /// Of [`Action::ReleaseEnd`].
    pub fn released(&mut self, result: Released, now: Time) {
        if self.post_copy.is_handed_over() {
            return self.switched_released(result, now);
        }
        match result {
            Released::Running => {
                self.stage = Stage::Running;
                self.downtime = self.stopped_at.map_or(Duration::ZERO, |stopped| now - stopped);
                self.enter(Phase::Resume, now);
                self.session.send(&Control::Committed);
                self.session.send(&Control::Resumed { status: 0, reason: String::new() });
            }
            // It may have run, so it must not run anywhere else.
            Released::Lost(reason) => {
                let status = Status::Callback;
                let resumed = Control::Resumed { status: status.code(), reason: reason.clone() };
                self.failure = Some(Failure::new(status, reason));
                self.stage = Stage::Running;
                self.session.send(&Control::Committed);
                self.session.send(&resumed);
            }
            // Nothing of the guest has run here, so the source may have it back.
            Released::NeverRan(reason) => {
                self.stage = Stage::Receiving;
                self.fail(Failure::new(Status::Callback, reason));
            }
        }
    }

    /// Of [`Action::Finish`].
    pub fn finished(&mut self, result: Result<(), String>, now: Time) {
        if let (Err(error), None) = (result, &self.failure) {
            self.failure = Some(Failure::new(Status::Callback, error));
        }
        self.enter(Phase::Ended, now);
        self.ended_at = Some(now);
        let spent = (self.clock.elapsed(now), self.downtime);
        self.events.push_back(ended_event(self.failure.as_ref(), self.owner, spent));
    }

    /// Gives up before the guest is ours: tells the source, discards what came.
    pub fn fail(&mut self, failure: Failure) {
        self.note_failure(&failure);
        if self.failure.is_some() || self.finish_asked || self.stage >= Stage::Recording {
            return;
        }
        let (status, reason) = (failure.status.code(), failure.reason.clone());
        self.abort = Some(Control::Abort { status, reason });
        self.discard(failure);
    }

    /// Gives up, unless the guest is ours. Once it runs, it ends the wait for a source to be told.
    pub fn cancel(&mut self) {
        if self.stage == Stage::Running && !self.finish_asked {
            return self.finish(Ending::Keep);
        }
        self.fail(Failure::new(Status::Cancelled, "cancelled at the destination"));
    }

    /// The next thing the driver is to do.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The next event to be published.
    pub fn next_event(&mut self) -> Option<EventKind> {
        self.events.pop_front()
    }

    /// Whether the driver has something to do or to publish.
    pub fn has_actions(&self) -> bool {
        !self.actions.is_empty() || !self.events.is_empty()
    }

    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        self.ended_at.is_some()
    }

    /// Whether segments still matter.
    pub fn wants_segments(&self) -> bool {
        self.failure.is_none() && !self.finish_asked
    }

    /// Whether the source has acknowledged every control message, or cannot be reached.
    pub fn all_said(&self) -> bool {
        self.session.all_acknowledged() || self.session.stream_count() == 0
    }

    /// The next frame for this stream.
    pub fn next_frame(&mut self, stream: StreamId, now: Time) -> Option<Frame> {
        self.session.next_frame(stream, now)
    }

    /// Whether a frame other than an acknowledgement of segments waits for any stream.
    pub fn has_control(&self) -> bool {
        self.session.has_control()
    }

    /// Acknowledgements of segments waiting on a stream.
    pub fn waiting_acks(&self, stream: StreamId) -> usize {
        self.session.waiting_acks(stream)
    }

    /// Whether a new stream may join.
    pub fn may_join(&self, stream: StreamId) -> bool {
        !self.finish_asked && !self.used_streams.contains(&stream)
    }

    /// A connection is part of the migration.
    pub fn stream_up(&mut self, stream: StreamId, peer: &str, now: Time) {
        self.session.stream_answered(stream, now);
        self.used_streams.insert(stream);
        self.streams_seen += 1;
        self.without_streams_since = None;
        self.events.push_back(EventKind::StreamUp { stream: stream.0, peer: peer.to_string() });
    }

    /// A connection is closed, and nobody uses it any more.
    pub fn stream_down(&mut self, stream: StreamId, reason: &str, now: Time) {
        if !self.session.is_up(stream) {
            return;
        }
        let has_left = self.session.has_left(stream);
        self.session.stream_down(stream);
        if self.session.stream_count() == 0 {
            self.without_streams_since = Some(now);
        }
        if !self.finish_asked {
            self.events.push_back(stream_ended(stream, has_left, reason));
        }
    }

    /// Takes in a segment that arrived on a stream.
    ///
    /// # Errors
    /// As [`Self::frame`].
    pub fn segment(
        &mut self,
        stream: StreamId,
        payload: SegmentPayload,
        now: Time,
    ) -> Result<(), SessionError> {
        if !self.session.is_up(stream) {
            return Ok(());
        }
        self.session.heard(stream, now);
        self.wire_bytes += (HEADER_BYTES + payload.len()) as u64;
        self.on_segment(stream, payload)
    }

    /// Takes in any other frame that arrived on a stream.
    ///
    /// # Errors
    /// The source broke the protocol: the stream is to be closed.
    pub fn frame(&mut self, stream: StreamId, frame: Frame, now: Time) -> Result<(), SessionError> {
        if !self.session.is_up(stream) {
            return Ok(());
        }
        self.session.heard(stream, now);
        self.wire_bytes += (HEADER_BYTES + frame.payload.len()) as u64;
        match frame.kind {
            FrameKind::ControlAck => self.session.on_control_ack(&frame.payload)?,
            FrameKind::Control => {
                for message in self.session.on_control(&frame.payload)? {
                    self.on_message(message, now);
                }
            }
            FrameKind::Ping => {}
            FrameKind::Goodbye => self.session.on_goodbye(stream),
            kind => {
                let text = format!("unexpected {kind:?} frame from the source");
                self.fail(Failure::new(Status::UnexpectedMessage, text));
            }
        }
        Ok(())
    }

    /// Looks at the clock: lost connections, a silent source.
    pub fn tick(&mut self, now: Time) {
        if self.is_over() || self.finish_asked {
            return;
        }
        let told = self.session.all_acknowledged();
        if self.waits_for_memory() {
            return;
        }
        let lost = self.without_streams_since.map(|since| now - since);
        let silent = self.session.last_heard().map(|heard| now - heard);
        let gone = lost.filter(|lost| *lost >= self.patience.reconnect_timeout);
        let gone = gone.or(silent.filter(|silent| *silent >= self.patience.stall_timeout));
        if let (Some(gone), Stage::Incomplete) = (gone, self.stage) {
            return self.end_unproven(&format!("nothing was heard from the source for {gone:?}"));
        }
        // Once the guest runs, a source that comes back is told by what the node remembers.
        if self.stage == Stage::Running && (told || lost.is_some() || gone.is_some()) {
            self.finish(Ending::Keep);
        } else if let Some(gone) = gone {
            let text = format!(
                "nothing heard from the source for {gone:?} and the end of the stream has not \
                 come, so the guest is the source's"
            );
            self.fail(Failure::new(Status::ConnectionLost, text));
        }
    }

    /// Who owns the guest, as far as this side can say now.
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// What a caller sees while it runs.
    pub fn progress(&self, now: Time) -> Progress {
        let ram_bytes = self.setup.facts.ram_bytes;
        Progress {
            phase: self.clock.phase(),
            pass: 0,
            ram_bytes,
            pages: ram_bytes / crate::qemu::PAGE_BYTES as u64,
            remaining_pages: 0,
            wire_bytes: self.wire_bytes,
            rdma_bytes: 0,
            bandwidth_bytes_per_s: 0,
            dirty_rate_bytes_per_s: 0,
            predicted_downtime_us: 0,
            elapsed_us: micros(self.clock.elapsed(self.ended_at.unwrap_or(now))),
            streams: self.session.stream_count() as u32,
            reconnects: 0,
            throttle_percent: 0,
        }
    }

    /// The report, once it is over.
    pub fn report(&self) -> Option<Report> {
        let ended_at = self.ended_at?;
        let ours = self.owner == Owner::Destination;
        let digest = ours.then(|| format!("{:016x}", self.unpacked.digest));
        Some(Report {
            id: self.setup.id,
            guest: self.setup.guest.clone(),
            side: "destination",
            status: self.failure.as_ref().map_or(Status::Ok, |failure| failure.status),
            reason: self.failure.as_ref().map_or_else(String::new, |f| f.reason.clone()),
            owner: self.owner,
            total_ms: milliseconds(self.clock.elapsed(ended_at)),
            downtime_ms: milliseconds(self.downtime),
            phases: self.clock.milliseconds(),
            ram_bytes: self.setup.facts.ram_bytes,
            wire_bytes: self.wire_bytes,
            rdma_bytes: 0,
            zero_pages: 0,
            duplicate_pages: 0,
            delta_pages: 0,
            full_pages: 0,
            passes: 0,
            reconnects: 0,
            digest: digest.unwrap_or_default(),
            post_copy: self.post_copy_figures(),
            pass_details: Vec::new(),
        })
    }

    fn on_segment(
        &mut self,
        stream: StreamId,
        payload: SegmentPayload,
    ) -> Result<(), SessionError> {
        let number = payload.number()?;
        let in_hand = self.in_hand.get_mut(&number).map(|held| &mut held.streams);
        let waiting = self.early.get_mut(&number).map(|arrived| &mut arrived.streams);
        let known = in_hand.or(waiting);
        if number < self.next && known.is_none() || known.as_ref().is_some_and(|s| s.is_empty()) {
            // Its acknowledgement was lost with the stream that first brought it.
            self.session.acknowledge(stream, ChunkId(number), true);
            return Ok(());
        }
        if let Some(streams) = known {
            let session = &self.session;
            streams.retain(|before| *before != stream && session.is_up(*before));
            streams.push(stream);
            return Ok(());
        }
        let bytes = payload.len() as u64;
        let far = number >= self.next + MAX_EARLY_SEGMENTS + ACKNOWLEDGED_AHEAD;
        if far || self.early_bytes + bytes > MAX_EARLY_BYTES {
            let expected = self.next;
            return Err(SessionError::BeyondWindow { found: number, expected });
        }
        self.early_bytes += bytes;
        self.early.insert(number, Arrived { payload, streams: vec![stream] });
        self.acknowledge_ahead(number);
        Ok(())
    }

    /// Acknowledges a segment that waits for the replay, unless that is far behind. Not with channels: their replays wait for
    /// each other, and the source's windows alone bound what they wait with.
    fn acknowledge_ahead(&mut self, number: u64) {
        if self.setup.channels > 0 {
            return;
        }
        if let Some(arrived) = self.early.get_mut(&number) {
            let ahead = match arrived.payload.is_in_tail() {
                true => ACKNOWLEDGED_AHEAD_IN_TAIL,
                false => ACKNOWLEDGED_AHEAD,
            };
            if number >= self.next + ahead {
                return;
            }
            for stream in std::mem::take(&mut arrived.streams) {
                self.session.acknowledge(stream, ChunkId(number), true);
            }
        }
    }

    fn on_message(&mut self, message: Control, now: Time) {
        if self.failure.is_some() || self.finish_asked {
            // The source does not know yet.
            return;
        }
        match message {
            Control::StreamSwitch { segments, bytes, digest } => {
                self.on_switch(StreamSum { segments, bytes, digest }, now);
            }
            Control::Abandon { reason } if self.post_copy.is_promised() => self.on_abandon(&reason),
            Control::StreamEnd { segments, bytes, digest } if self.promised.is_none() => {
                self.promised = Some(StreamSum { segments, bytes, digest });
                if self.post_copy.is_promised() {
                    return self.prove();
                }
                self.stopped_at = Some(now);
                self.enter(Phase::Verify, now);
                self.judge_end(now);
            }
            Control::Abort { reason, .. } if self.is_recovering() => self.lose(&reason),
            Control::Abort { status, reason } => {
                if self.stage == Stage::Receiving {
                    let status = Status::from_code(status).unwrap_or(Status::PeerAborted);
                    self.discard(Failure::new(status, format!("source: {reason}")));
                }
            }
            other => {
                let text = format!("unexpected message from the source: {other:?}");
                self.fail(Failure::new(Status::UnexpectedMessage, text));
            }
        }
    }

    /// Once as many segments as promised were replayed, they must be the promised ones.
    fn judge_end(&mut self, now: Time) {
        let Some(promised) = self.promised else { return };
        if self.stage != Stage::Receiving || self.failure.is_some() || !self.in_hand.is_empty() {
            return;
        }
        if self.unpacked.segments < promised.segments {
            return;
        }
        if self.unpacked != promised {
            let (ours, theirs) = (self.unpacked, promised);
            let text = format!("the stream arrived as {ours:?}, the source sent {theirs:?}");
            return self.fail(Failure::new(Status::DigestMismatch, text));
        }
        self.stage = Stage::Recording;
        self.enter(Phase::Handover, now);
        self.actions.push_back(Action::Persist(Mark::Owned));
    }

    fn discard(&mut self, failure: Failure) {
        self.failure = Some(failure);
        self.owner = Owner::Source;
        self.early.clear();
        self.early_bytes = 0;
        self.actions.clear();
        self.actions.push_back(Action::Persist(Mark::Discarded));
        self.finish(Ending::Discard);
    }

    fn finish(&mut self, ending: Ending) {
        self.finish_asked = true;
        self.actions.push_back(Action::Finish(ending));
    }

    fn enter(&mut self, phase: Phase, now: Time) {
        let previous_us = micros(self.clock.enter(phase, now));
        self.events.push_back(EventKind::Phase { phase: phase.name(), previous_us });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{MachineFacts, MigrationId};

    const A: StreamId = StreamId(1);
    const B: StreamId = StreamId(2);
    const NOW: Time = Time(5);

    fn destination() -> RelayDestination {
        with_channels(0)
    }

    fn with_channels(channels: u8) -> RelayDestination {
        let facts = MachineFacts { machine: "pc".into(), ram_bytes: 4096, cpus: 1 };
        let (id, guest) = (MigrationId([1; 16]), "vm".into());
        let setup = RelaySetup { id, guest, facts, channels, post_copy: false, recovers: None };
        let patience = Patience {
            reconnect_timeout: Duration::from_secs(1),
            stall_timeout: Duration::from_secs(1),
        };
        let mut destination = RelayDestination::new(setup, patience, NOW);
        for stream in [A, B] {
            destination.stream_up(stream, "source", NOW);
            let greeting = Frame { kind: FrameKind::Ping, payload: Vec::new() };
            destination.frame(stream, greeting, NOW).unwrap();
        }
        destination
    }

    fn segment(number: u64) -> SegmentPayload {
        SegmentPayload { head: number.to_le_bytes().to_vec(), ..SegmentPayload::default() }
    }

    fn end_after(segments: u64) -> Frame {
        let mut sum = StreamSum::default();
        (0..segments).for_each(|_| sum.add(0, 8, 7));
        let StreamSum { segments, bytes, digest } = sum;
        let end = Control::StreamEnd { segments, bytes, digest };
        Frame { kind: FrameKind::Control, payload: end.encode(0) }
    }

    fn replay_one(destination: &mut RelayDestination) -> bool {
        let taken = destination.next_segment().is_some();
        if taken {
            let number = destination.unpacked(0, 8, 7).unwrap();
            destination.replayed(number, NOW);
        }
        taken
    }

    fn actions(destination: &mut RelayDestination) -> Vec<Action> {
        std::iter::from_fn(|| destination.next_action()).collect()
    }

    #[test]
    fn the_late_first_copy_of_a_segment_does_not_swallow_the_second_ones_acknowledgement() {
        let mut destination = destination();
        destination.segment(B, segment(0), NOW).unwrap();
        destination.segment(A, segment(0), NOW).unwrap();
        assert!(replay_one(&mut destination));
        destination.stream_down(A, "cut", NOW);
        assert_eq!(destination.waiting_acks(B), 1);
    }

    #[test]
    fn what_is_held_is_announced_in_bounded_pieces_with_an_end() {
        let pieces = |hashes: &[u64]| {
            let mut destination = destination();
            destination.announce(HeldKey([3; 32]), hashes);
            let frames = std::iter::from_fn(|| destination.next_frame(A, NOW));
            let messages = frames.map(|frame| Control::decode(&frame.payload).unwrap().1);
            let pieces = messages.map(|message| match message {
                Control::Held { key: [3, ..], last, hashes } => (last, hashes),
                other => panic!("{other:?}"),
            });
            pieces.collect::<Vec<_>>()
        };
        assert_eq!(pieces(&[]), [(true, vec![])]);
        assert_eq!(pieces(&[4, 2]), [(true, vec![4, 2])]);
        let many: Vec<u64> = (0..u64::from(MAX_ANNOUNCED_PAGES) + 7).collect();
        let told = pieces(&many);
        let lasts: Vec<bool> = told.iter().map(|(last, _)| *last).collect();
        assert!(lasts.iter().position(|last| *last) == Some(lasts.len() - 1));
        let all: Vec<u64> = told.into_iter().flat_map(|(_, hashes)| hashes).collect();
        assert!(all == many[..MAX_ANNOUNCED_PAGES as usize]);
    }

    #[test]
    fn once_the_guest_may_be_stopped_fewer_are_acknowledged_before_they_are_replayed() {
        let in_tail = |number: u64, in_tail: bool| {
            let mut segment = segment(number);
            segment.head.extend_from_slice(&[0, u8::from(in_tail) * 2]);
            segment
        };
        for (tail, ahead) in [(false, ACKNOWLEDGED_AHEAD), (true, ACKNOWLEDGED_AHEAD_IN_TAIL)] {
            let mut destination = destination();
            for number in 0..ACKNOWLEDGED_AHEAD * 2 {
                destination.segment(A, in_tail(number, tail), NOW).unwrap();
            }
            assert_eq!(destination.waiting_acks(A) as u64, ahead);
            assert!(replay_one(&mut destination));
            assert_eq!(destination.waiting_acks(A) as u64, ahead + 1);
        }
    }

    #[test]
    fn what_comes_after_the_end_is_not_replayed() {
        let mut destination = destination();
        destination.segment(A, segment(0), NOW).unwrap();
        destination.frame(A, end_after(1), NOW).unwrap();
        assert!(replay_one(&mut destination));
        let expected = [Action::Persist(Mark::Receiving), Action::Persist(Mark::Owned)];
        assert_eq!(actions(&mut destination), expected);
        destination.segment(A, segment(1), NOW).unwrap();
        assert!(!replay_one(&mut destination));
        destination.persisted(Mark::Owned, Ok(()));
        assert!(!replay_one(&mut destination));
        assert_eq!(actions(&mut destination), [Action::ReleaseEnd]);
    }

    #[test]
    fn a_channel_that_stands_still_keeps_back_the_end_and_nothing_else() {
        let mut destination = with_channels(2);
        let mut sum = StreamSum::default();
        for (number, channel) in [(0, 1), (1, 2), (2, 0)] {
            destination.segment(A, segment(number), NOW).unwrap();
            assert!(destination.next_segment().is_some());
            assert_eq!(destination.unpacked(channel, 8, 7), Some(number));
            sum.add(channel, 8, 7);
        }
        let StreamSum { segments, bytes, digest } = sum;
        let end = Control::StreamEnd { segments, bytes, digest };
        let end = Frame { kind: FrameKind::Control, payload: end.encode(0) };
        destination.frame(A, end, NOW).unwrap();
        assert_eq!(actions(&mut destination), [Action::Persist(Mark::Receiving)]);
        destination.replayed(2, NOW);
        destination.replayed(1, NOW);
        assert_eq!(destination.waiting_acks(A), 2);
        assert_eq!((actions(&mut destination), destination.in_hand_bytes()), (Vec::new(), 8));
        destination.replayed(0, NOW);
        assert_eq!(actions(&mut destination), [Action::Persist(Mark::Owned)]);
    }

    #[test]
    fn the_replay_gets_no_more_than_its_bounds() {
        for (channels, most) in [(0, MAX_IN_HAND_BYTES), (1, MAX_IN_HAND_BYTES_WITH_CHANNELS)] {
            let mut destination = with_channels(channels);
            destination.segment(A, segment(0), NOW).unwrap();
            destination.segment(A, segment(1), NOW).unwrap();
            assert!(destination.next_segment().is_some());
            assert!(destination.next_segment().is_none(), "one is being unpacked");
            assert_eq!(destination.unpacked(0, most, 7), Some(0));
            assert!(destination.next_segment().is_none() && !destination.has_segment());
            destination.replayed(0, NOW);
            assert!(destination.next_segment().is_some());
        }
    }

    #[test]
    fn a_channel_that_was_not_agreed_on_is_refused() {
        let mut destination = with_channels(2);
        destination.segment(A, segment(0), NOW).unwrap();
        assert!(destination.next_segment().is_some());
        assert_eq!(destination.unpacked(3, 8, 7), None);
        let expected = [Action::Persist(Mark::Discarded), Action::Finish(Ending::Discard)];
        assert_eq!(actions(&mut destination), expected);
    }

    #[test]
    fn more_than_was_promised_is_refused() {
        let mut destination = destination();
        for number in 0..3 {
            destination.segment(A, segment(number), NOW).unwrap();
        }
        (0..3).for_each(|_| assert!(replay_one(&mut destination)));
        destination.frame(A, end_after(2), NOW).unwrap();
        let expected = [Action::Persist(Mark::Discarded), Action::Finish(Ending::Discard)];
        assert_eq!(actions(&mut destination), expected);
        assert_eq!(destination.owner(), Owner::Source);
    }

    #[test]
    fn a_flood_of_early_segments_costs_the_connection() {
        let mut destination = destination();
        let beyond = segment(MAX_EARLY_SEGMENTS + ACKNOWLEDGED_AHEAD);
        let far = destination.segment(A, beyond, NOW).unwrap_err();
        assert!(matches!(far, SessionError::BeyondWindow { .. }));
        let fresh = vec![0; MAX_EARLY_BYTES as usize + 1];
        let large = SegmentPayload { fresh, ..segment(1) };
        assert!(destination.segment(A, large, NOW).is_err());
        assert_eq!(destination.stored_bytes(), 0);
    }
}

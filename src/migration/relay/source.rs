//! The source's side of a relayed migration: segments out, acknowledgements in, and the end.

mod post_copy;
mod recovery;
mod timers;

use self::post_copy::PostCopy;
use super::spare::SpareBuffers;
use super::window::{Link, Window};
use super::{KEEP_ALIVE, MAX_EARLY_SEGMENTS, RelaySetup, StreamSum};
use crate::Status;
use crate::base::limits::MAX_ANNOUNCED_PAGES;
use crate::base::{StreamId, Time, micros};
use crate::encoding::{AnnouncedPages, HeldKey};
use crate::migration::ownership::Mark;
use crate::migration::source::Work;
use crate::migration::stats::{PhaseClock, Traffic, milliseconds};
use crate::migration::{Ending, Failure, MigrationOptions, Owner, Phase, Progress, Report};
use crate::migration::{ended_event, stream_ended};
use crate::observe::EventKind;
use crate::transport::{BandwidthEstimator, Pacer, Session, SessionError};
use crate::wire::frame::HEADER_BYTES;
use crate::wire::hello::{Ended, Features};
use crate::wire::segment::SegmentPayload;
use crate::wire::{ChunkAck, Control, Frame, FrameKind};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// What the driver is asked to do, outside the lock, in this order.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Write the record down, durably; answer with [`RelaySource::persisted`].
    Persist(Mark),
    /// Give the hypervisor what the one at the destination answers.
    Return(Vec<u8>),
    /// Settle the hypervisor: stop its migration, let the guest run or leave it; answer with
    /// [`RelaySource::finished`].
    Finish(Ending),
}

/// What came out of the encoder, for the counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageCounts {
    /// Pages sent as zero.
    pub zero: u64,
    /// Pages sent as a reference, to one sent before or to one that the destination holds.
    pub duplicate: u64,
    /// Pages sent as a difference.
    pub delta: u64,
    /// Pages sent whole.
    pub full: u64,
}

#[derive(Debug)]
struct Segment {
    payload: Arc<SegmentPayload>,
    channel: u8,
    stream_bytes: u64,
    sent: Option<(StreamId, Time)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
enum Stage {
    /// The stream flows.
    Streaming,
    /// It has ended; the record is being written.
    Recording,
    /// `StreamEnd` is out, or `StreamSwitch`: in doubt.
    EndSent,
    /// After a switch: the destination runs the guest, and lacks memory.
    Serving,
    /// After a switch: all is sent, and `StreamEnd` out.
    Whole,
    /// Acknowledged: the guest is the destination's.
    Given,
}

/// What the destination holds of earlier migrations.
#[derive(Debug)]
enum Announcement {
    /// Nothing is known yet, or some pieces.
    Coming(Option<(HeldKey, AnnouncedPages)>),
    /// All of it.
    Complete(Arc<AnnouncedPages>),
}

/// The state machine.
#[derive(Debug)]
pub struct RelaySource {
    setup: RelaySetup,
    options: MigrationOptions,
    session: Session,
    segments: BTreeMap<u64, Segment>,
    /// Those of `segments` that no stream holds.
    unsent: BTreeSet<u64>,
    unsent_bytes: u64,
    window: Window,
    spare: SpareBuffers,
    /// One more than the highest number that is acknowledged. The destination acknowledges no number
    /// that is far ahead of its replay, and stores none that is far ahead of this.
    acknowledged_to: u64,
    pacer: Pacer,
    was_held_back: bool,
    bandwidth: BandwidthEstimator,
    agreed: Option<Features>,
    announcement: Announcement,
    stage: Stage,
    sum: Option<StreamSum>,
    post_copy: PostCopy,
    pages: PageCounts,
    wire_bytes: u64,
    clock: PhaseClock,
    actions: VecDeque<Action>,
    events: VecDeque<EventKind>,
    started: bool,
    paused_at: Option<Time>,
    downtime: Duration,
    streams_seen: u32,
    streams_lost: u32,
    reconnects: u32,
    without_streams_since: Option<Time>,
    last_connect_error: String,
    last_progress: Time,
    last_stream_up: Time,
    failure: Option<Failure>,
    finish_asked: bool,
    ended_at: Option<Time>,
    owner: Owner,
}

impl RelaySource {
    /// A source about to connect.
    pub fn new(setup: RelaySetup, options: MigrationOptions, now: Time) -> Self {
        let pacer = Pacer::new(options.bandwidth_limit_bytes_per_s);
        let window = Window::new(setup.channels, setup.facts.ram_bytes);
        Self {
            setup,
            options,
            session: Session::default(),
            segments: BTreeMap::new(),
            unsent: BTreeSet::new(),
            unsent_bytes: 0,
            window,
            spare: SpareBuffers::default(),
            acknowledged_to: 0,
            pacer,
            was_held_back: false,
            bandwidth: BandwidthEstimator::default(),
            agreed: None,
            announcement: Announcement::Coming(None),
            stage: Stage::Streaming,
            sum: None,
            post_copy: PostCopy::default(),
            pages: PageCounts::default(),
            wire_bytes: 0,
            clock: PhaseClock::new(now),
            actions: VecDeque::from([Action::Persist(Mark::SourceRuns)]),
            events: VecDeque::new(),
            started: false,
            paused_at: None,
            downtime: Duration::ZERO,
            streams_seen: 0,
            streams_lost: 0,
            reconnects: 0,
            without_streams_since: Some(now),
            last_connect_error: String::new(),
            last_progress: now,
            last_stream_up: now,
            failure: None,
            finish_asked: false,
            ended_at: None,
            owner: Owner::Source,
        }
    }

    /// What the hello agreed on; only the first time counts.
    pub fn agree(&mut self, features: Features, now: Time) {
        let agreed = *self.agreed.get_or_insert(features);
        let (wanted, most) = (self.setup.channels, agreed.multifd_channels);
        if most < wanted {
            let text = format!("multifd_channels is {wanted}, the destination carries {most}");
            self.fail(Failure::new(Status::Unsupported, text), now);
        }
        if self.setup.post_copy && !agreed.post_copy {
            let text = "post-copy is wanted, and the destination does not carry it";
            self.fail(Failure::new(Status::Unsupported, text), now);
        }
        self.check_recovery(agreed, now);
    }

    /// Pages that both sides remember.
    pub fn baseline_pages(&self) -> u32 {
        self.agreed.map_or(0, |agreed| agreed.baseline_pages)
    }

    /// Codecs that the peer can undo, a bit each.
    pub fn codecs(&self) -> u32 {
        self.agreed.map_or(1, |agreed| agreed.codecs)
    }

    /// What the destination holds, if it said so.
    pub fn announced(&self) -> Option<Arc<AnnouncedPages>> {
        match &self.announcement {
            Announcement::Complete(pages) => Some(pages.clone()),
            Announcement::Coming(_) => None,
        }
    }

    fn awaits_announcement(&self) -> bool {
        let agreed = self.agreed.is_some_and(|agreed| agreed.held_pages);
        agreed && matches!(self.announcement, Announcement::Coming(_)) || self.awaits_recovery()
    }

    /// Whether a peer is there and has said all that the hypervisor's migration waits for; true once.
    pub fn should_start(&mut self, now: Time) -> bool {
        let ready = self.streams_seen > 0 && !self.awaits_announcement();
        let start = !self.started && ready && !self.finish_asked;
        self.started |= start;
        if start && !self.setup.is_recovery() {
            self.enter(Phase::Precopy, now);
        }
        start
    }

    /// Whether another segment of a channel may be begun while so many of it are being packed.
    pub fn has_room(&self, channel: u8, packing: usize) -> bool {
        // What comes after a switch waits until the switch is written down.
        self.stage != Stage::Recording && self.window.has_room(channel, packing, self.link())
    }

    /// So many pages of the hypervisor's first pass are still to come; none where that cannot be
    /// told.
    pub fn first_pass_left(&mut self, pages: Option<u64>) {
        self.window.first_pass_left(pages);
    }

    /// Whether the hypervisor is in its first pass, and must not stop the guest yet: there is too
    /// much under way.
    pub fn is_in_first_pass(&self) -> bool {
        !self.window.in_tail()
    }

    /// Bytes of the stream at which a segment goes out although more could be read; none: when it is full.
    pub fn segment_bytes(&self) -> Option<usize> {
        self.window.segment_bytes(self.link())
    }

    /// Whether segments still matter.
    pub fn wants_segments(&self) -> bool {
        let flows = match self.stage {
            Stage::Streaming | Stage::Serving => true,
            Stage::Recording | Stage::EndSent => self.has_switched(),
            Stage::Whole | Stage::Given => false,
        };
        flows && self.failure.is_none() && !self.finish_asked
    }

    /// Queues a segment of a channel. Numbers come in any order, each once; the last may come after
    /// [`Self::stream_ended`], because packing takes its time.
    pub fn push(
        &mut self,
        (channel, number): (u8, u64),
        stream_bytes: u64,
        payload: SegmentPayload,
        pages: PageCounts,
    ) {
        if self.failure.is_some() || self.finish_asked {
            return;
        }
        self.window.add(channel, payload.len() as u64, stream_bytes);
        self.unsent.insert(number);
        self.unsent_bytes += payload.len() as u64;
        let segment = Segment { payload: Arc::new(payload), channel, stream_bytes, sent: None };
        self.segments.insert(number, segment);
        self.pages.zero += pages.zero;
        self.pages.duplicate += pages.duplicate;
        self.pages.delta += pages.delta;
        self.pages.full += pages.full;
    }

    /// The hypervisor has stopped the guest.
    pub fn guest_stopped(&mut self, now: Time) {
        if self.paused_at.is_none() && !self.finish_asked {
            self.paused_at = Some(now);
            self.enter(Phase::FinalPass, now);
        }
    }

    /// The hypervisor has written everything and counts it as done.
    pub fn stream_ended(&mut self, sum: StreamSum, now: Time) {
        if self.has_switched() {
            self.switched_stream_ended(sum);
        } else if self.wants_segments() {
            self.sum = Some(sum);
            self.stage = Stage::Recording;
            self.guest_stopped(now);
            self.enter(Phase::Handover, now);
            self.actions.push_back(Action::Persist(Mark::CommitSent));
        }
    }

    /// Of [`Action::Persist`].
    pub fn persisted(&mut self, mark: Mark, result: Result<(), String>, now: Time) {
        self.last_progress = now;
        if let Err(error) = result {
            let text = format!("cannot write down that the guest is given away: {error}");
            if matches!(mark, Mark::CommitSent | Mark::PostCopySent) {
                self.stage = Stage::Streaming;
                self.fail(Failure::new(Status::StateFile, text), now);
            } else if matches!(mark, Mark::SourceRuns) && !self.finish_asked {
                self.fail(Failure::new(Status::StateFile, error), now);
            }
            return;
        }
        if mark == Mark::PostCopySent {
            return self.send_switch();
        }
        let sum = self.sum.filter(|_| mark == Mark::CommitSent && self.stage == Stage::Recording);
        if let Some(StreamSum { segments, bytes, digest }) = sum {
            self.session.send(&Control::StreamEnd { segments, bytes, digest });
            self.stage = Stage::EndSent;
        }
    }

    /// Of [`Action::Finish`].
    pub fn finished(&mut self, result: Result<(), String>, now: Time) {
        if let Err(error) = result {
            let text = match self.failure.take() {
                Some(Failure { reason, .. }) => format!("{reason}; and then: {error}"),
                None => error,
            };
            self.failure = Some(Failure::new(Status::Callback, text));
        }
        self.enter(Phase::Ended, now);
        self.ended_at = Some(now);
        let spent = (self.clock.elapsed(now), self.downtime);
        self.events.push_back(ended_event(self.failure.as_ref(), self.owner, spent));
    }

    /// Gives up before the end is out: tells the peer, lets the guest go on here.
    pub fn fail(&mut self, failure: Failure, now: Time) {
        if self.stage >= Stage::EndSent || self.failure.is_some() || self.finish_asked {
            return;
        }
        let (status, reason) = (failure.status.code(), failure.reason.clone());
        self.session.send(&Control::Abort { status, reason });
        self.retreat(failure, now);
    }

    /// Cancels, unless the end is out.
    pub fn cancel(&mut self, now: Time) {
        self.fail(Failure::new(Status::Cancelled, "cancelled by the caller"), now);
    }

    /// Changes the bandwidth cap.
    pub fn set_bandwidth_limit(&mut self, rate_bytes_per_s: Option<u64>, now: Time) {
        self.pacer.set_limit(rate_bytes_per_s, now);
    }

    /// Changes what others who share a cap leave to this migration.
    pub fn set_share(&mut self, rate_bytes_per_s: Option<u64>, now: Time) {
        self.pacer.set_share(rate_bytes_per_s, now);
    }

    /// What the streams did so far.
    pub fn traffic(&mut self, now: Time) -> Traffic {
        let owes = self.pacer.ready_at(now) > now && !self.unsent.is_empty();
        Traffic {
            sent_bytes: self.wire_bytes,
            delivered_bytes: self.bandwidth.acked_bytes(),
            streams: u16::try_from(self.session.stream_count()).unwrap_or(u16::MAX),
            is_copying: self.clock.phase() == Phase::Precopy && self.wants_segments(),
            was_held_back: std::mem::take(&mut self.was_held_back) || owes,
            round_trip: self.bandwidth.min_round_trip(),
            rate_bytes_per_s: self.bandwidth.peak_bytes_per_s(),
            limit_bytes_per_s: self.pacer.limit_bytes_per_s(),
        }
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

    /// Whether a message waits for a stream to carry it.
    pub fn has_control(&self) -> bool {
        self.session.has_control()
    }

    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        self.ended_at.is_some()
    }

    /// Whether the guest's fate is still open here.
    pub fn is_settled(&self) -> bool {
        self.finish_asked
    }

    /// Measured speed of the link.
    pub fn bandwidth_bytes_per_s(&self) -> Option<u64> {
        self.capped(self.bandwidth.rate_bytes_per_s())
    }

    /// What the link can carry, for choosing codecs: the most that it lately did.
    pub fn link_bytes_per_s(&self) -> Option<u64> {
        self.capped(self.bandwidth.peak_bytes_per_s())
    }

    fn capped(&self, measured: Option<u64>) -> Option<u64> {
        match (measured, self.pacer.rate_bytes_per_s()) {
            (Some(measured), Some(cap)) => Some(measured.min(cap)),
            (measured, cap) => measured.or(cap),
        }
    }

    /// Time that what is under way and the handover add to the downtime.
    pub fn latency(&self) -> Duration {
        let round_trip = self.bandwidth.min_round_trip().unwrap_or_default();
        let drain = match self.bandwidth_bytes_per_s() {
            Some(rate) => Duration::from_secs_f64(self.window.bytes() as f64 / rate.max(1) as f64),
            None => Duration::ZERO,
        };
        round_trip + drain
    }

    /// Buffers that serve again.
    pub fn spare(&mut self) -> &mut SpareBuffers {
        &mut self.spare
    }

    /// Bytes of segments that are not acknowledged.
    pub fn under_way_bytes(&self) -> u64 {
        self.window.bytes()
    }

    /// How far the link is from running dry, 0 to 1, with so many bytes in the sockets.
    pub fn link_fill(&mut self, socket_bytes: u64, now: Time) -> f32 {
        let queued_bytes = socket_bytes + self.unsent_bytes;
        self.bandwidth.set_idle(queued_bytes == 0, now);
        self.window.fill(queued_bytes, self.link())
    }

    /// Who owns the guest, as far as this side can say now.
    pub fn owner(&self) -> Owner {
        match self.stage {
            Stage::EndSent if self.ended_at.is_none() => Owner::InDoubt,
            _ => self.owner,
        }
    }

    /// What a caller sees while it runs; the hypervisor's own figures are the driver's to add.
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
            bandwidth_bytes_per_s: self.bandwidth_bytes_per_s().unwrap_or(0),
            dirty_rate_bytes_per_s: 0,
            predicted_downtime_us: micros(self.latency()),
            elapsed_us: micros(self.clock.elapsed(self.ended_at.unwrap_or(now))),
            streams: self.session.stream_count() as u32,
            reconnects: self.reconnects,
            throttle_percent: 0,
        }
    }

    /// The report, once it is over.
    pub fn report(&self) -> Option<Report> {
        let ended_at = self.ended_at?;
        let given = self.stage == Stage::Given;
        let digest = self.sum.filter(|_| given).map(|sum| format!("{:016x}", sum.digest));
        Some(Report {
            id: self.setup.id,
            guest: self.setup.guest.clone(),
            side: "source",
            status: self.failure.as_ref().map_or(Status::Ok, |failure| failure.status),
            reason: self.failure.as_ref().map_or_else(String::new, |f| f.reason.clone()),
            owner: self.owner,
            total_ms: milliseconds(self.clock.elapsed(ended_at)),
            downtime_ms: milliseconds(self.downtime),
            phases: self.clock.milliseconds(),
            ram_bytes: self.setup.facts.ram_bytes,
            wire_bytes: self.wire_bytes,
            rdma_bytes: 0,
            zero_pages: self.pages.zero,
            duplicate_pages: self.pages.duplicate,
            delta_pages: self.pages.delta,
            full_pages: self.pages.full,
            passes: 0,
            reconnects: self.reconnects,
            digest: digest.unwrap_or_default(),
            post_copy: self.post_copy_figures(),
            pass_details: Vec::new(),
        })
    }

    /// Whether the streams should go on trying to connect.
    pub fn wants_streams(&self) -> bool {
        self.ended_at.is_none() && !self.finish_asked
    }

    /// An attempt to connect failed; kept for the text of a failure.
    pub fn connect_failed(&mut self, reason: &str) {
        self.last_connect_error = reason.to_string();
    }

    /// A connection is part of the migration.
    pub fn stream_up(&mut self, stream: StreamId, peer: &str, now: Time) {
        self.session.stream_up(stream, now);
        self.streams_seen += 1;
        self.reconnects += u32::from(self.reconnects < self.streams_lost);
        if self.without_streams_since.take().is_some() {
            self.bandwidth.on_outage(now);
        }
        self.last_stream_up = now;
        self.events.push_back(EventKind::StreamUp { stream: stream.0, peer: peer.to_string() });
    }

    /// A connection is lost: what it held goes out again.
    pub fn stream_down(&mut self, stream: StreamId, reason: &str, now: Time) {
        if !self.session.is_up(stream) {
            return;
        }
        let has_left = self.session.has_left(stream);
        self.session.stream_down(stream);
        self.streams_lost += u32::from(!has_left);
        if self.session.stream_count() == 0 {
            self.without_streams_since = Some(now);
        }
        for (number, segment) in &mut self.segments {
            if segment.sent.is_some_and(|(on, _)| on == stream) {
                segment.sent = None;
                let bytes = segment.payload.len() as u64;
                self.unsent.insert(*number);
                self.unsent_bytes += bytes;
                self.bandwidth.on_lost(bytes, now);
            }
        }
        if !self.finish_asked {
            self.events.push_back(stream_ended(stream, has_left, reason));
        }
    }

    /// Has a stream end once nothing is under way on it, or stay after all. It is not lost then.
    pub fn set_retiring(&mut self, stream: StreamId, retiring: bool) {
        self.session.set_retiring(stream, retiring);
    }

    /// The next thing for this stream to do; the cargo is a segment.
    pub fn next_work(&mut self, stream: StreamId, now: Time) -> Work<Arc<SegmentPayload>> {
        if self.session.is_worn(stream) {
            return Work::Close;
        }
        if self.session.is_retiring(stream) {
            return self.last_work(stream, now);
        }
        if let Some(frame) = self.session.next_frame(stream, now) {
            self.wire_bytes += (HEADER_BYTES + frame.payload.len()) as u64;
            return Work::Frame(frame);
        }
        if !self.session.is_up(stream) || self.is_over() && self.session.all_acknowledged() {
            return Work::Close;
        }
        let mut wait_until = now + KEEP_ALIVE;
        let next = self.unsent.first().copied().filter(|number| {
            self.failure.is_none() && *number < self.acknowledged_to + MAX_EARLY_SEGMENTS
        });
        if let Some(number) = next {
            let ready_at = self.pacer.ready_at(now);
            self.was_held_back |= ready_at > now;
            wait_until = wait_until.min(ready_at);
            if wait_until <= now
                && let Some(payload) = self.send(number, stream, now)
            {
                return Work::Chunk(payload);
            }
        }
        // Also while the pacer holds back: a large segment at a low rate takes longer than the
        // destination would wait for a source that is silent.
        match self.session.keep_alive(stream, KEEP_ALIVE, now) {
            Some(frame) => Work::Frame(frame),
            None => Work::Wait(wait_until),
        }
    }

    /// What a stream that retires has left to do: wait for what it carries.
    fn last_work(&mut self, stream: StreamId, now: Time) -> Work<Arc<SegmentPayload>> {
        let mut carried = self.segments.values().filter_map(|segment| segment.sent);
        let last = match carried.any(|(on, _)| on == stream) {
            true => self.session.keep_alive(stream, KEEP_ALIVE, now),
            false => match self.session.goodbye(stream) {
                None => return Work::Close,
                goodbye => goodbye,
            },
        };
        last.map_or(Work::Wait(now + KEEP_ALIVE), Work::Frame)
    }

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
            FrameKind::ChunkAck => self.on_acks(&ChunkAck::decode(&frame.payload)?, now),
            FrameKind::Control => {
                for message in self.session.on_control(&frame.payload)? {
                    self.last_progress = now;
                    self.on_message(message, now);
                }
            }
            FrameKind::Ping => {}
            kind => {
                let text = format!("unexpected {kind:?} frame from the destination");
                self.fail(Failure::new(Status::UnexpectedMessage, text), now);
            }
        }
        Ok(())
    }

    /// The destination turned a connection away.
    pub fn refused(&mut self, status: i32, reason: &str, ended: Ended, now: Time) {
        self.connect_failed(reason);
        let code = Status::from_code(status);
        match ended {
            Ended::No => {
                let status = code.unwrap_or(Status::Refused);
                let later =
                    matches!(status, Status::LimitReached | Status::Busy | Status::BadVersion);
                if !later {
                    let text = format!("the destination refused: {reason}");
                    self.fail(Failure::new(status, text), now);
                }
            }
            Ended::DestinationOwns if self.has_switched() && self.stage >= Stage::EndSent => {
                self.switched_peer_ended(code, reason);
            }
            Ended::SourceOwns if self.has_switched() && self.stage >= Stage::Serving => {
                self.switched_peer_ended(code, reason);
            }
            Ended::DestinationOwns if self.stage >= Stage::EndSent => {
                // What can have failed there after the commit is the guest itself.
                if let (Some(status @ Status::Callback), false) = (code, self.finish_asked) {
                    self.failure = Some(Failure::new(status, format!("destination: {reason}")));
                }
                self.on_given(now);
            }
            Ended::DestinationOwns | Ended::SourceOwns => {
                let text = format!("the destination says that the migration is over: {reason}");
                let failure = Failure::new(code.unwrap_or(Status::PeerAborted), text);
                if self.stage != Stage::Given && !self.finish_asked {
                    self.retreat(failure, now);
                }
            }
        }
    }

    fn send(&mut self, number: u64, stream: StreamId, now: Time) -> Option<Arc<SegmentPayload>> {
        self.unsent.remove(&number);
        let segment = self.segments.get_mut(&number)?;
        segment.sent = Some((stream, now));
        let bytes = segment.payload.len() as u64;
        self.unsent_bytes -= bytes;
        self.bandwidth.on_sent(bytes, now);
        let wire_bytes = bytes + HEADER_BYTES as u64;
        self.wire_bytes += wire_bytes;
        self.pacer.charge(wire_bytes, now);
        Some(segment.payload.clone())
    }

    fn on_acks(&mut self, acks: &ChunkAck, now: Time) {
        for id in &acks.arrived {
            let Some(segment) = self.segments.remove(&id.0) else { continue };
            let bytes = segment.payload.len() as u64;
            if self.unsent.remove(&id.0) {
                self.unsent_bytes -= bytes;
            }
            self.window.remove(segment.channel, bytes, segment.stream_bytes);
            if let Some((_, sent_at)) = segment.sent {
                self.bandwidth.on_acked(bytes, now - sent_at, now);
            }
            self.acknowledged_to = self.acknowledged_to.max(id.0 + 1);
            self.last_progress = now;
            if let Some(payload) = Arc::into_inner(segment.payload) {
                self.spare.put(payload.fresh);
            }
        }
    }

    fn on_message(&mut self, message: Control, now: Time) {
        if self.finish_asked {
            // It has been decided, and is being settled: an answer that late changes nothing.
            return;
        }
        match message {
            Control::Committed if self.awaits_recovery() => self.on_recovery_accepted(now),
            Control::Committed if self.has_switched() => self.on_switched(now),
            Control::Committed if self.stage == Stage::EndSent => {
                self.stage = Stage::Given;
                self.owner = Owner::Destination;
                self.enter(Phase::Resume, now);
            }
            Control::Resumed { status, reason } if self.stage == Stage::Given => {
                if status != 0 {
                    let status = Status::from_code(status).unwrap_or(Status::PeerAborted);
                    self.failure = Some(Failure::new(status, format!("destination: {reason}")));
                }
                self.on_given(now);
            }
            Control::Return { bytes } if self.setup.post_copy => self.on_answers(bytes, now),
            Control::Resumed { .. } if self.stage == Stage::Serving => self.on_runs_there(now),
            Control::Completed { digest } if self.stage == Stage::Whole => {
                self.on_completed(digest)
            }
            Control::Abandon { reason } if self.has_switched() => self.lose(&reason),
            Control::Held { key, last, hashes } if self.awaits_announcement() => {
                self.on_announcement(HeldKey(key), last, &hashes, now);
            }
            Control::Abort { status, reason } => {
                if self.stage < Stage::Serving {
                    let status = Status::from_code(status).unwrap_or(Status::PeerAborted);
                    self.retreat(Failure::new(status, format!("destination: {reason}")), now);
                }
            }
            other => {
                let text = format!("unexpected message from the destination: {other:?}");
                self.fail(Failure::new(Status::UnexpectedMessage, text), now);
            }
        }
    }

    fn on_announcement(&mut self, key: HeldKey, last: bool, hashes: &[u64], now: Time) {
        let Announcement::Coming(begun) = &mut self.announcement else { return };
        let (first_key, mut pages) =
            begun.take().unwrap_or_else(|| (key, AnnouncedPages::new(key)));
        if key != first_key {
            let text = "the destination announces its pages under two keys";
            return self.fail(Failure::new(Status::UnexpectedMessage, text), now);
        }
        if !pages.add(hashes.iter().copied()) {
            let text =
                format!("the destination announces more than {MAX_ANNOUNCED_PAGES} held pages");
            return self.fail(Failure::new(Status::LimitReached, text), now);
        }
        self.announcement = match last {
            true => Announcement::Complete(Arc::new(pages)),
            false => Announcement::Coming(Some((key, pages))),
        };
    }

    /// The destination has the guest, and it is known.
    fn on_given(&mut self, now: Time) {
        if self.finish_asked {
            return;
        }
        self.stage = Stage::Given;
        self.owner = Owner::Destination;
        if let Some(paused_at) = self.paused_at {
            self.downtime = now - paused_at;
        }
        self.actions.push_back(Action::Persist(Mark::GivenAway));
        self.finish(Ending::Discard);
    }

    /// The guest stays here.
    fn retreat(&mut self, failure: Failure, now: Time) {
        if self.setup.is_recovery() {
            return self.leave_paused(failure);
        }
        self.failure = Some(failure);
        self.owner = Owner::Source;
        self.stage = Stage::Streaming;
        self.post_copy = PostCopy::default();
        self.segments.clear();
        self.unsent.clear();
        self.unsent_bytes = 0;
        self.window.clear();
        self.actions.clear();
        self.actions.push_back(Action::Persist(Mark::SourceRuns));
        self.finish(Ending::Keep);
        self.last_progress = now;
    }

    fn finish(&mut self, ending: Ending) {
        self.finish_asked = true;
        self.actions.push_back(Action::Finish(ending));
    }

    fn link(&self) -> Link {
        let round_trip = self.bandwidth.min_round_trip().unwrap_or_default();
        Link { rate_bytes_per_s: self.link_bytes_per_s(), round_trip }
    }

    fn enter(&mut self, phase: Phase, now: Time) {
        let previous_us = micros(self.clock.enter(phase, now));
        self.events.push_back(EventKind::Phase { phase: phase.name(), previous_us });
    }
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;

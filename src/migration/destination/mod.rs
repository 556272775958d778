//! The destination's state machine: events and the time in, actions out.
//!
//! Stream threads announce a chunk with [`Destination::begin_chunk`], store it without the lock,
//! and close it with [`Destination::end_chunk`]. The driver thread takes actions and answers.
//!
//! ```text
//! Precopy -> DeviceState -> Verify -> Handover -> Resume -> Ended
//!                                       | commit received and on disk: the guest is ours
//! ```
//! Post-copy goes one phase further, with the guest running (`post_copy`):
//!
//! ```text
//! Precopy -> DeviceState -> Verify -> Handover -> Resume -> PostCopy -> Ended
//! ```
//! Before the commit every failure ends in [`Ending::Discard`]: the guest is the source's.

mod answers;
mod frames;
mod post_copy;

pub use frames::ChunkError;
pub use post_copy::FaultStance;

use crate::Status;
use crate::base::{ChunkId, MemoryLayout, MigrationId, PageBitmap, StreamId, Time};
use crate::encoding::ImageDigest;
use crate::migration::ownership::Mark;
use crate::migration::stats::{Counts, PhaseClock, milliseconds};
use crate::migration::{Ending, Failure, GuestError, Owner, Phase, Progress, Report};
use crate::migration::{ended_event, micros};
use crate::observe::EventKind;
use crate::transport::Session;
use crate::wire::{Control, Frame};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Streams, living or not yet fenced, that a source may have.
const MAX_STREAM_RECORDS: usize = 4 * crate::base::limits::MAX_STREAMS as usize;

/// What never changes during a migration.
#[derive(Clone, Debug)]
pub struct DestinationSetup {
    /// The migration.
    pub id: MigrationId,
    /// The guest's name.
    pub guest: String,
    /// Its memory, equal on both sides.
    pub layout: MemoryLayout,
    /// How long to wait for the source when no stream is up.
    pub reconnect_timeout: Duration,
    /// How long streams may be silent.
    pub stall_timeout: Duration,
    /// Whether post-copy was agreed on.
    pub post_copy: bool,
}

/// What the driver is asked to do, outside the lock, in this order.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Close this stream, wait until nobody uses it, then call [`Destination::stream_down`].
    CloseStream(StreamId),
    /// Take these pages away from the guest, and begin to tell which of them it touches.
    BeginPostCopy(PageBitmap),
    /// Restore CPUs and devices.
    LoadDeviceState(Vec<u8>),
    /// Start the guest.
    Resume,
    /// Write the record down, durably.
    Persist(Mark),
    /// End the guest's part in the migration.
    Finish(Ending),
}

/// What came of an action.
#[derive(Debug)]
pub enum Answer {
    /// Of [`Action::BeginPostCopy`].
    PostCopyBegun(Result<(), GuestError>),
    /// Of [`Action::LoadDeviceState`].
    DeviceStateLoaded(Result<(), GuestError>),
    /// Of [`Action::Resume`].
    Resumed(Result<(), GuestError>),
    /// Of [`Action::Persist`].
    Persisted(Mark, Result<(), String>),
    /// Of [`Action::Finish`].
    Finished(Result<(), GuestError>),
}

#[derive(Debug, Default)]
struct StreamRecord {
    /// The last chunks that arrived whole, a window's worth.
    arrived: VecDeque<ChunkId>,
    fence_asked: bool,
}

#[derive(Clone, Copy, Debug)]
struct Promise {
    digest: [u8; 16],
    device_state_bytes: u64,
    device_state_crc: u32,
}

/// How the migration stands towards the commit point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Commitment {
    /// Pages and device state are coming in.
    Receiving,
    /// The device state is being loaded.
    Loading,
    /// Loaded; the record is being written.
    Preparing,
    /// `Verified` is sent: waiting for the commit.
    Prepared,
    /// The commit has come; the record is being written.
    Recording,
    /// The guest is ours.
    Ours,
}

/// The state machine.
#[derive(Debug)]
pub struct Destination {
    setup: DestinationSetup,
    session: Session,
    digest: Arc<ImageDigest>,
    claimed: PageBitmap,
    storing: usize,
    streams: BTreeMap<StreamId, StreamRecord>,
    device_state: Vec<u8>,
    promise: Option<Promise>,
    post_copy: post_copy::PostCopy,
    all_arrived: bool,
    commitment: Commitment,
    counts: Counts,
    clock: PhaseClock,
    actions: VecDeque<Action>,
    events: VecDeque<EventKind>,
    failure: Option<Failure>,
    owner: Owner,
    finish_asked: bool,
    ended_at: Option<Time>,
    resumed: bool,
    stopped_at: Option<Time>,
    downtime: Duration,
    without_streams_since: Option<Time>,
    /// Connections that are being prepared.
    setting_up: u32,
    streams_seen: u32,
}

impl Destination {
    /// A destination whose first stream is about to come up.
    pub fn new(setup: DestinationSetup, digest: Arc<ImageDigest>, now: Time) -> Self {
        let (pages, may_lack) = (setup.layout.page_count(), setup.post_copy);
        let claimed = PageBitmap::new(pages);
        let mut destination = Self {
            session: Session::default(),
            digest,
            claimed,
            storing: 0,
            streams: BTreeMap::new(),
            device_state: Vec::new(),
            promise: None,
            post_copy: post_copy::PostCopy::new(if may_lack { pages } else { 0 }),
            all_arrived: false,
            commitment: Commitment::Receiving,
            counts: Counts::default(),
            clock: PhaseClock::new(now),
            actions: VecDeque::new(),
            events: VecDeque::new(),
            failure: None,
            owner: Owner::Source,
            finish_asked: false,
            ended_at: None,
            resumed: false,
            stopped_at: None,
            downtime: Duration::ZERO,
            without_streams_since: Some(now),
            setting_up: 0,
            streams_seen: 0,
            setup,
        };
        destination.counts.begin_pass(Duration::ZERO);
        destination.actions.push_back(Action::Persist(Mark::Receiving));
        destination.enter(Phase::Precopy, now);
        destination
    }

    /// The next thing the driver is to do.
    pub fn next_action(&mut self) -> Option<Action> {
        // The guest's memory may go away once it is finished, so nobody may be writing it then.
        if self.waits_for_writers() {
            return None;
        }
        self.actions.pop_front()
    }

    /// Whether it could end, but for somebody who still writes pages of the guest.
    pub fn waits_for_writers(&self) -> bool {
        matches!(self.actions.front(), Some(Action::Finish(_))) && self.storing > 0
    }

    /// Whether the driver has something to do or to publish.
    pub fn has_actions(&self) -> bool {
        !self.actions.is_empty() || !self.events.is_empty()
    }

    /// Whether the source has acknowledged every control message, or cannot be reached.
    pub fn all_said(&self) -> bool {
        self.session.all_acknowledged() || self.session.stream_count() == 0
    }

    /// The next event to be published.
    pub fn next_event(&mut self) -> Option<EventKind> {
        self.events.pop_front()
    }

    /// The next frame for this stream.
    pub fn next_frame(&mut self, stream: StreamId, now: Time) -> Option<Frame> {
        // What the guest waits for goes before everything else.
        self.next_request(stream).or_else(|| self.session.next_frame(stream, now))
    }

    /// Whether a frame other than a chunk acknowledgement waits to go out on any stream.
    pub fn has_control(&self) -> bool {
        self.session.has_control() || self.has_requests()
    }

    /// Chunk acknowledgements waiting on a stream.
    pub fn waiting_acks(&self, stream: StreamId) -> usize {
        self.session.waiting_acks(stream)
    }

    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        self.ended_at.is_some()
    }

    /// Whether a new stream may join.
    pub fn may_join(&self, stream: StreamId) -> bool {
        !self.finish_asked
            && !self.streams.contains_key(&stream)
            && self.streams.len() < MAX_STREAM_RECORDS
    }

    /// Gives up, unless the commit has come. Once the guest runs here, it only ends the wait for
    /// a source to be told: one that comes back later is told by the record.
    pub fn cancel(&mut self) {
        if self.awaits_proof() && !self.finish_asked {
            return self.end_unproven("it was cancelled");
        }
        if self.resumed && !self.finish_asked && !self.lacks_pages() {
            return self.finish(Ending::Keep);
        }
        self.fail(Failure::new(Status::Cancelled, "cancelled at the destination"));
    }

    /// Gives up before the commit: tells the source, discards what came.
    pub fn fail(&mut self, failure: Failure) {
        if self.failure.is_some() || self.finish_asked || self.commitment >= Commitment::Recording {
            return;
        }
        let (status, reason) = (failure.status.code(), failure.reason.clone());
        self.session.send(&Control::Abort { status, reason });
        self.discard(failure);
    }

    /// What a caller sees while it runs.
    pub fn progress(&self, now: Time) -> Progress {
        Progress {
            phase: self.clock.phase(),
            pass: self.counts.pass(),
            ram_bytes: self.setup.layout.total_bytes(),
            pages: self.setup.layout.page_count(),
            remaining_pages: self.missing_pages(),
            wire_bytes: self.counts.wire_bytes,
            rdma_bytes: self.counts.rdma_bytes,
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
        let is_whole = self.commitment == Commitment::Ours && !self.lacks_pages();
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
            ram_bytes: self.setup.layout.total_bytes(),
            wire_bytes: self.counts.wire_bytes,
            rdma_bytes: self.counts.rdma_bytes,
            zero_pages: self.counts.zero_pages,
            duplicate_pages: 0,
            delta_pages: 0,
            full_pages: self.counts.full_pages,
            passes: 0,
            reconnects: 0,
            digest: if is_whole { self.digest.value().to_string() } else { String::new() },
            post_copy: self.post_copy_figures(),
            pass_details: Vec::new(),
        })
    }

    /// Lets go of what grows with the guest. The migration is over and reported, and what is
    /// remembered of it is little.
    pub fn forget_guest(&mut self) {
        // A chunk that is still being stored gives its claim back.
        if self.storing == 0 {
            self.claimed = PageBitmap::new(0);
        }
        self.digest = Arc::new(ImageDigest::new(0));
        self.device_state = Vec::new();
        self.post_copy.forget_guest();
    }

    /// Who owns the guest, as far as this side can say now.
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// Looks at the clock: lost connections, a silent source.
    pub fn tick(&mut self, now: Time) {
        if self.is_over() || self.finish_asked || self.waits_for_pages() {
            return;
        }
        let told = self.resumed && self.session.all_acknowledged();
        let without = self.without_streams_since.filter(|_| self.setting_up == 0);
        let lost = without.map(|since| now - since);
        let silent = self.session.last_heard().map(|heard| now - heard);
        let gone = lost.filter(|lost| *lost >= self.setup.reconnect_timeout);
        let gone = gone.or(silent.filter(|silent| *silent >= self.setup.stall_timeout));
        if self.awaits_proof() {
            if let Some(gone) = gone {
                self.end_unproven(&format!("nothing was heard from the source for {gone:?}"));
            }
            return;
        }
        // Once the guest runs, a source that comes back is told by what the node remembers.
        if self.resumed && (told || lost.is_some() || gone.is_some()) {
            self.finish(Ending::Keep);
        } else if let Some(gone) = gone
            && self.commitment < Commitment::Recording
        {
            let text = format!(
                "nothing heard from the source for {gone:?} and no commit has come, so the guest \
                 is the source's"
            );
            self.fail(Failure::new(Status::ConnectionLost, text));
        }
    }

    fn discard(&mut self, failure: Failure) {
        self.failure = Some(failure);
        self.owner = Owner::Source;
        self.actions.retain(|action| matches!(action, Action::CloseStream(_)));
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

    fn end(&mut self, now: Time) {
        self.enter(Phase::Ended, now);
        self.ended_at = Some(now);
        let spent = (self.clock.elapsed(now), self.downtime);
        self.events.push_back(ended_event(self.failure.as_ref(), self.owner, spent));
    }
}

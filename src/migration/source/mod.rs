//! The source's state machine: events and the time in, work and actions out.
//!
//! The driver owns one [`Source`] behind a lock. Stream threads ask [`Source::next_work`], do it
//! without the lock, and tell what came of it; the driver thread takes [`Source::next_action`],
//! calls the hypervisor or the disk without the lock, and answers with an [`Answer`].
//!
//! ```text
//! Connect -> Precopy -> FinalPass -> DeviceState -> Verify -> Handover -> Resume -> Ended
//!     \_________\____________\____________\____________\   |
//!                 failure or cancel: guest resumes here     commit sent: only forward,
//!                                                           or back by the peer's abort
//! ```
//! Post-copy goes the same way with a part of the image, and one phase further (`post_copy`):
//!
//! ```text
//! Precopy -> FinalPass -> DeviceState -> Verify -> Handover -> Resume -> PostCopy -> Ended
//! ```
//! `Commit` is sent after the record [`Mark::CommitSent`] is on disk. From then on this side
//! never runs the guest, unless the destination says that it does not have it.

mod answers;
mod frames;
mod post_copy;
mod timers;
mod work;

pub use post_copy::PostCopyError;

use crate::Status;
use crate::base::limits::MAX_CHUNK_EXTENTS;
use crate::base::{ChunkId, MemoryLayout, MigrationId, StreamId, Time, micros};
use crate::encoding::{CodecChoice, ImageDigest};
use crate::migration::convergence::Convergence;
use crate::migration::ended_event;
use crate::migration::ownership::Mark;
use crate::migration::plan::{PagePlan, Run};
use crate::migration::stats::{Counts, PhaseClock, Traffic, milliseconds};
use crate::migration::{
    Ending, Failure, GuestError, MigrationOptions, Owner, Phase, PostCopyRule, Progress, Report,
};
use crate::observe::EventKind;
use crate::transport::{BandwidthEstimator, Pacer, Session};
use crate::wire::hello::Features;
use crate::wire::{Control, Frame};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Most bytes (before encoding) under way at a time.
const MAX_UNDER_WAY_BYTES: u64 = 256 << 20;
/// Damaged chunks without a whole one between them, before the path is called unusable.
const MAX_DAMAGED_IN_A_ROW: u32 = 1000;
/// Streams are made anew once nothing has moved for this part of the stall timeout.
pub(in crate::migration) const WORN_SHARE: u32 = 3;
/// How often an idle stream says that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// What never changes during a migration.
#[derive(Clone, Debug)]
pub struct SourceSetup {
    /// The migration.
    pub id: MigrationId,
    /// The guest's name.
    pub guest: String,
    /// Its memory.
    pub layout: MemoryLayout,
    /// The caller's settings, validated.
    pub options: MigrationOptions,
}

/// What the driver is asked to do, outside the lock, in this order.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Start the guest's dirty log.
    StartDirtyLog,
    /// Fetch the dirty log of every region and merge it by [`Source::merge_dirty`].
    FetchDirty,
    /// Pause the guest.
    Pause,
    /// Let the guest go on.
    Resume,
    /// Save CPUs and devices.
    SaveDeviceState,
    /// Hold the guest back.
    Throttle(u8),
    /// Write the record down, durably.
    Persist(Mark),
    /// End the guest's part in the migration.
    Finish(Ending),
}

/// What came of an action.
#[derive(Debug)]
pub enum Answer {
    /// Of [`Action::StartDirtyLog`].
    DirtyLogStarted(Result<(), GuestError>),
    /// Of [`Action::FetchDirty`], after merging.
    DirtyFetched(Result<(), GuestError>),
    /// Of [`Action::Pause`].
    Paused(Result<(), GuestError>),
    /// Of [`Action::Resume`].
    Resumed(Result<(), GuestError>),
    /// Of [`Action::SaveDeviceState`].
    DeviceState(Result<Vec<u8>, GuestError>),
    /// Of [`Action::Throttle`].
    Throttled(Result<bool, GuestError>),
    /// Of [`Action::Persist`].
    Persisted(Mark, Result<(), String>),
    /// Of [`Action::Finish`].
    Finished(Result<(), GuestError>),
}

/// What a stream is asked to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Work<Cargo = ChunkPlan> {
    /// Send this frame.
    Frame(Frame),
    /// Send this; of a [`Source`], encode and send these pages.
    Chunk(Cargo),
    /// Ask again at this time, or when woken.
    Wait(Time),
    /// The migration is over and everything is said: close.
    Close,
}

/// Pages to be encoded and sent as one chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkPlan {
    /// The chunk.
    pub id: ChunkId,
    /// Its pages.
    pub runs: Vec<Run>,
}

/// How the migration stands towards the commit point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Commitment {
    /// The guest is ours.
    Ours,
    /// The record is being written.
    Recording,
    /// The message is out: in doubt.
    Sent,
    /// Acknowledged: the guest is the destination's.
    Given,
}

/// One chunk under way.
#[derive(Debug)]
struct Flight {
    stream: StreamId,
    runs: Vec<Run>,
    pages: u64,
    /// What the destination reads by RDMA.
    read_bytes: u64,
    /// Length on the wire and time of encoding, once encoded.
    encoded: Option<(u64, Time)>,
}

/// The state machine.
#[derive(Debug)]
pub struct Source {
    setup: SourceSetup,
    chunk_pages: u32,
    /// Codecs that the peer can undo, a bit each.
    codecs: u32,
    session: Session,
    plan: PagePlan,
    digest: Arc<ImageDigest>,
    flights: HashMap<ChunkId, Flight>,
    next_chunk: u64,
    under_way_pages: u64,
    under_way_wire_bytes: u64,
    being_encoded: usize,
    post_copy: post_copy::PostCopy,
    pacer: Pacer,
    was_held_back: bool,
    bandwidth: BandwidthEstimator,
    convergence: Convergence,
    counts: Counts,
    clock: PhaseClock,
    actions: VecDeque<Action>,
    events: VecDeque<EventKind>,

    recorded_start: bool,
    log_started: bool,
    fetching_since: Option<Time>,
    last_fetch: Option<Time>,
    fetch_took: Duration,
    fetched_pages: u64,
    dirty_rate_bytes_per_s: u64,
    paused_at: Option<Time>,
    pause_asked: bool,
    final_log_merged: bool,
    device_state: Option<Vec<u8>>,
    device_state_queued: usize,
    finalize_sent: bool,
    resend_after_finalize: bool,
    all_arrived_sent: bool,
    promised_digest: [u8; 16],
    verified: bool,
    commitment: Commitment,

    damaged_in_a_row: u32,
    streams_seen: u32,
    streams_lost: u32,
    reconnects: u32,
    without_streams_since: Option<Time>,
    /// Connections that are being prepared.
    setting_up: u32,
    last_connect_error: String,
    last_progress: Time,
    last_stream_up: Time,
    failure: Option<Failure>,
    finish_asked: bool,
    ended_at: Option<Time>,
    downtime: Duration,
    owner: Owner,
}

impl Source {
    /// A source about to connect. `chunk_bytes` is what hello agreed on at most.
    pub fn new(setup: SourceSetup, digest: Arc<ImageDigest>, chunk_bytes: u32, now: Time) -> Self {
        let options = &setup.options;
        let has_deadline = options.deadline.is_some();
        let mut source = Self {
            chunk_pages: chunk_pages(chunk_bytes, &setup.layout),
            codecs: 0,
            session: Session::default(),
            plan: PagePlan::new(setup.layout.page_count()),
            digest,
            flights: HashMap::new(),
            next_chunk: 0,
            under_way_pages: 0,
            under_way_wire_bytes: 0,
            being_encoded: 0,
            post_copy: post_copy::PostCopy::default(),
            pacer: Pacer::new(options.bandwidth_limit_bytes_per_s),
            was_held_back: false,
            bandwidth: BandwidthEstimator::default(),
            convergence: Convergence::new(options.max_downtime, options.throttle, has_deadline)
                .or_post_copy(options.post_copy == PostCopyRule::Auto),
            counts: Counts::default(),
            clock: PhaseClock::new(now),
            actions: VecDeque::new(),
            events: VecDeque::new(),
            recorded_start: false,
            log_started: false,
            fetching_since: None,
            last_fetch: None,
            fetch_took: Duration::ZERO,
            fetched_pages: 0,
            dirty_rate_bytes_per_s: 0,
            paused_at: None,
            pause_asked: false,
            final_log_merged: false,
            device_state: None,
            device_state_queued: 0,
            finalize_sent: false,
            resend_after_finalize: false,
            all_arrived_sent: false,
            promised_digest: [0; 16],
            verified: false,
            commitment: Commitment::Ours,
            damaged_in_a_row: 0,
            streams_seen: 0,
            streams_lost: 0,
            reconnects: 0,
            without_streams_since: Some(now),
            setting_up: 0,
            last_connect_error: String::new(),
            last_progress: now,
            last_stream_up: now,
            failure: None,
            finish_asked: false,
            ended_at: None,
            downtime: Duration::ZERO,
            owner: Owner::Source,
            setup,
        };
        source.actions.push_back(Action::Persist(Mark::SourceRuns));
        source
    }

    /// The next thing the driver is to do.
    pub fn next_action(&mut self) -> Option<Action> {
        // The guest's memory may go away once it is finished, so nobody may be reading it then.
        let must_wait = matches!(self.actions.front(), Some(Action::Finish(_)));
        if must_wait && self.being_encoded > 0 {
            return None;
        }
        self.actions.pop_front()
    }

    /// Whether the driver has something to do or to publish.
    pub fn has_actions(&self) -> bool {
        !self.actions.is_empty() || !self.events.is_empty()
    }

    /// Whether a message waits for a stream to carry it.
    pub fn has_control(&self) -> bool {
        self.session.has_control()
    }

    /// The next event to be published.
    pub fn next_event(&mut self) -> Option<EventKind> {
        self.events.pop_front()
    }

    /// Whether it is over: no action is to come, and streams may close.
    pub fn is_over(&self) -> bool {
        self.ended_at.is_some()
    }

    /// Whether the streams should go on trying to connect.
    pub fn wants_streams(&self) -> bool {
        self.ended_at.is_none() && !self.finish_asked
    }

    /// Cancels, unless the commit is out.
    pub fn cancel(&mut self, now: Time) {
        self.fail(Failure::new(Status::Cancelled, "cancelled by the caller"), now);
    }

    /// What the hello agreed on; takes effect with the next chunk.
    pub fn agree(&mut self, features: Features, now: Time) {
        if self.setup.options.post_copy != PostCopyRule::Never && !features.post_copy {
            let text = "the destination did not agree to post-copy";
            return self.fail(Failure::new(Status::Unsupported, text), now);
        }
        self.chunk_pages = chunk_pages(features.chunk_bytes, &self.setup.layout);
        self.codecs = features.codecs;
    }

    /// How pages are packed: as the caller wants it, if the peer can unpack that.
    pub fn codec(&self) -> CodecChoice {
        self.agreed(self.setup.options.codec.one())
    }

    /// The wanted codec if the peer can unpack it.
    pub fn agreed(&self, wanted: CodecChoice) -> CodecChoice {
        let decodes = self.codecs >> wanted.codec() as u8 & 1 == 1;
        if decodes { wanted } else { CodecChoice::None }
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
        let owes = self.pacer.ready_at(now) > now && self.plan.pending() > 0;
        Traffic {
            sent_bytes: self.counts.wire_bytes,
            delivered_bytes: self.bandwidth.acked_bytes(),
            streams: u16::try_from(self.session.stream_count()).unwrap_or(u16::MAX),
            is_copying: self.clock.phase() == Phase::Precopy && self.failure.is_none(),
            was_held_back: std::mem::take(&mut self.was_held_back) || owes,
            round_trip: self.bandwidth.min_round_trip(),
            rate_bytes_per_s: self.bandwidth.peak_bytes_per_s(),
            limit_bytes_per_s: self.pacer.limit_bytes_per_s(),
        }
    }

    /// Gives up before the commit point: tells the peer, lets the guest go on here.
    ///
    /// At or after the commit point it does nothing: only the peer's word or time decides then.
    pub fn fail(&mut self, failure: Failure, now: Time) {
        let too_late = matches!(self.commitment, Commitment::Sent | Commitment::Given);
        if too_late || self.failure.is_some() || self.finish_asked {
            return;
        }
        let (status, reason) = (failure.status.code(), failure.reason.clone());
        self.session.send(&Control::Abort { status, reason });
        self.retreat(failure, now);
    }

    /// What a caller sees while it runs.
    pub fn progress(&self, now: Time) -> Progress {
        Progress {
            phase: self.clock.phase(),
            pass: self.counts.pass().max(self.counts.passes.len() as u32),
            ram_bytes: self.setup.layout.total_bytes(),
            pages: self.setup.layout.page_count(),
            remaining_pages: match self.clock.phase() {
                Phase::Connect => self.setup.layout.page_count(),
                _ => self.plan.pending() + self.under_way_pages,
            },
            wire_bytes: self.counts.wire_bytes,
            rdma_bytes: self.counts.rdma_bytes,
            bandwidth_bytes_per_s: self.usable_bandwidth().unwrap_or(0),
            dirty_rate_bytes_per_s: self.dirty_rate_bytes_per_s,
            predicted_downtime_us: micros(self.convergence.predicted().unwrap_or_default()),
            elapsed_us: micros(self.clock.elapsed(self.ended_at.unwrap_or(now))),
            streams: self.session.stream_count() as u32,
            reconnects: self.reconnects,
            throttle_percent: self.convergence.throttle_percent(),
        }
    }

    /// The report, once it is over.
    pub fn report(&self) -> Option<Report> {
        let ended_at = self.ended_at?;
        let counts = &self.counts;
        let is_proven = self.verified && !self.post_copy.is_partial();
        let digest = if is_proven { self.digest.value().to_string() } else { String::new() };
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
            ram_bytes: self.setup.layout.total_bytes(),
            wire_bytes: counts.wire_bytes,
            rdma_bytes: counts.rdma_bytes,
            zero_pages: counts.zero_pages,
            duplicate_pages: 0,
            delta_pages: 0,
            full_pages: counts.full_pages,
            passes: counts.passes.len() as u32,
            reconnects: self.reconnects,
            digest,
            post_copy: self.post_copy_figures(),
            pass_details: counts.passes.clone(),
        })
    }

    /// Lets go of what grows with the guest. The migration is over and reported, and what is
    /// remembered of it is little.
    pub fn forget_guest(&mut self) {
        self.flights.clear();
        self.plan = PagePlan::new(0);
        self.digest = Arc::new(ImageDigest::new(0));
        self.device_state = None;
        self.post_copy.forget_guest();
    }

    /// Who owns the guest, as far as this side can say now.
    pub fn owner(&self) -> Owner {
        match self.commitment {
            Commitment::Ours | Commitment::Recording => Owner::Source,
            Commitment::Sent if self.ended_at.is_none() => Owner::InDoubt,
            _ => self.owner,
        }
    }

    /// The guest stays here: resume it if it may be paused, then finish.
    fn retreat(&mut self, failure: Failure, now: Time) {
        self.failure = Some(failure);
        self.owner = Owner::Source;
        self.commitment = Commitment::Ours;
        self.post_copy.stop();
        self.finish_asked = true;
        let never_paused = self.actions.contains(&Action::Pause);
        self.actions.clear();
        if self.convergence.throttle_percent() > 0 {
            self.actions.push_back(Action::Throttle(0));
        }
        if self.pause_asked && !never_paused {
            self.actions.push_back(Action::Resume);
        }
        self.actions.push_back(Action::Persist(Mark::SourceRuns));
        self.actions.push_back(Action::Finish(Ending::Keep));
        self.last_progress = now;
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

/// Pages of one chunk: even if every second one is zero, the extents fit.
fn chunk_pages(chunk_bytes: u32, layout: &MemoryLayout) -> u32 {
    (chunk_bytes / layout.page_bytes()).clamp(1, MAX_CHUNK_EXTENTS as u32)
}

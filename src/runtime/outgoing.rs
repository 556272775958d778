//! An outgoing migration of mapped or called-back memory: one driver thread beside the streams.
//!
//! ```text
//! driver:   actions -> guest, record -> answers          (one thread)
//! streams:  chunk plans -> encode, write                 (`stream_slots`)
//! ```
//! All share one [`Source`] behind a lock that nobody holds while he reads, writes, encodes or
//! calls the hypervisor.

use crate::base::{MigrationId, StreamId, Time};
use crate::encoding::{Codec, CodecChoice, HdeStats, ImageDigest};
use crate::migration::ownership::Mark;
use crate::migration::page_io::{Carriage, ChunkWriter};
use crate::migration::source::{
    Action, Answer, ChunkPlan, PostCopyError, Source, SourceSetup, Work,
};
use crate::migration::stats::Traffic;
use crate::migration::{Failure, GuestError, GuestSource, Owner, Progress, Report};
use crate::observe::EventKind;
use crate::rollout::Flag;
use crate::runtime::clock::now;
use crate::runtime::connection::{FrameWriter, READ_BUFFER_BYTES};
use crate::runtime::dial::{Dialer, FEATURES};
use crate::runtime::footprint::{Footprint, page_table_bytes};
use crate::runtime::handle::Handle;
use crate::runtime::journal::Journal;
use crate::runtime::lane::Lane;
use crate::runtime::lock::lock;
use crate::runtime::outcome::Outcome;
use crate::runtime::record_keeper::RecordKeeper;
use crate::runtime::rollout::Decider;
use crate::runtime::stream_slots::{Carrier, StreamMachine, StreamSlots};
use crate::runtime::sys::thread::spawn_named;
use crate::transport::SessionError;
use crate::wire::Frame;
use crate::wire::hello::{Ended, Features};
use std::io;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// An outgoing migration, shared by its threads and its handles.
pub struct Outgoing {
    setup: SourceSetup,
    /// Let go when all is over, though the migration itself is remembered.
    guest: Mutex<Option<Arc<dyn GuestSource>>>,
    /// Let go likewise.
    digest: Mutex<Arc<ImageDigest>>,
    journal: Arc<Journal>,
    lane: Arc<Lane>,
    slots: Arc<StreamSlots<Source>>,
    outcome: Outcome,
    encoding: Mutex<HdeStats>,
    /// Whether the library may decide how pages are packed.
    gate: Decider,
}

impl Outgoing {
    /// A migration that has not started.
    pub fn new(
        setup: SourceSetup,
        guest: Arc<dyn GuestSource>,
        (dialer, lane): (Dialer, Arc<Lane>),
        journal: Arc<Journal>,
    ) -> Arc<Self> {
        let digest = Arc::new(ImageDigest::new(setup.layout.page_count()));
        let source = Source::new(setup.clone(), digest.clone(), FEATURES.chunk_bytes, now());
        let dialer = dialer.with_lane(lane.clone());
        let gate = dialer.decider(Flag::MlCompression);
        let slots = StreamSlots::new(source, dialer, setup.options.streams);
        let (guest, digest) = (Mutex::new(Some(guest)), Mutex::new(digest));
        let (outcome, encoding) = (Outcome::default(), Mutex::default());
        Arc::new(Self { setup, guest, digest, journal, lane, slots, outcome, encoding, gate })
    }

    /// Starts the driver. `on_end` runs on its thread when all is over.
    ///
    /// # Errors
    /// The thread cannot be made.
    pub fn start(
        self: &Arc<Self>,
        keeper: RecordKeeper,
        on_end: Box<dyn FnOnce(&Report) + Send>,
    ) -> io::Result<JoinHandle<()>> {
        let driver = self.clone();
        spawn_named("dwcp-drive", move || driver.drive(keeper, on_end))
    }

    fn drive(self: &Arc<Self>, mut keeper: RecordKeeper, on_end: Box<dyn FnOnce(&Report) + Send>) {
        self.slots.start(self);
        let (mut log, mut end) = (Vec::new(), None);
        loop {
            let mut source = self.slots.machine();
            while let Some(event) = source.next_event() {
                drop(source);
                match event {
                    EventKind::MigrationEnded { .. } => end = Some(event),
                    _ => self.publish(event),
                }
                source = self.slots.machine();
            }
            if let Some(action) = source.next_action() {
                drop(source);
                let answer = self.perform(action, &mut keeper, &mut log);
                self.slots.machine().answer(answer, now());
                self.slots.wake_senders();
                continue;
            }
            if source.is_over() {
                break;
            }
            let timeout = source.next_timeout(now()).since(now());
            source = self.slots.wait_for_news(source, timeout);
            source.tick(now());
        }
        self.finish(keeper, on_end, end);
    }

    fn finish(
        &self,
        keeper: RecordKeeper,
        on_end: Box<dyn FnOnce(&Report) + Send>,
        end: Option<EventKind>,
    ) {
        self.slots.join();
        let report = self.slots.machine().report();
        drop(lock(&self.guest).take());
        *lock(&self.digest) = Arc::new(ImageDigest::new(0));
        self.slots.machine().forget_guest();
        if let Some(report) = report {
            self.outcome.conclude(report, keeper, on_end);
        }
        // Last, so that whoever hears of the end finds the report.
        end.into_iter().for_each(|event| self.publish(event));
    }

    fn perform(&self, action: Action, keeper: &mut RecordKeeper, log: &mut Vec<u64>) -> Answer {
        match action {
            Action::StartDirtyLog => Answer::DirtyLogStarted(
                self.guest_for("start_dirty_log").and_then(|guest| guest.start_dirty_log()),
            ),
            Action::FetchDirty => Answer::DirtyFetched(self.fetch_dirty(log)),
            Action::Pause => {
                Answer::Paused(self.guest_for("pause").and_then(|guest| guest.pause()))
            }
            Action::Resume => {
                // It is over: the peer is not to see what the guest does from now on.
                self.lane.revoke();
                Answer::Resumed(self.guest_for("resume").and_then(|guest| guest.resume()))
            }
            Action::SaveDeviceState => Answer::DeviceState(
                self.guest_for("save_device_state").and_then(|guest| guest.save_device_state()),
            ),
            Action::Throttle(percent) => Answer::Throttled(
                self.guest_for("throttle").and_then(|guest| guest.throttle(percent)),
            ),
            Action::Persist(mark) => Answer::Persisted(mark, self.persist(keeper, mark)),
            Action::Finish(ending) => {
                // The guest's memory may go away then.
                self.lane.end();
                Answer::Finished(self.guest_for("finish").and_then(|guest| guest.finish(ending)))
            }
        }
    }

    fn guest_for(&self, call: &'static str) -> Result<Arc<dyn GuestSource>, GuestError> {
        let guest = lock(&self.guest).clone();
        guest.ok_or_else(|| GuestError::new(call, "the migration is over"))
    }

    fn persist(&self, keeper: &mut RecordKeeper, mark: Mark) -> Result<(), String> {
        keeper.write(mark).map_err(|error| error.to_string())
    }

    fn fetch_dirty(&self, log: &mut Vec<u64>) -> Result<(), GuestError> {
        for region in 0..self.setup.layout.regions().len() {
            let pages = self.setup.layout.pages_of(region);
            log.clear();
            log.resize((pages.end - pages.start).div_ceil(64) as usize, 0);
            self.guest_for("fetch_dirty")?.fetch_dirty(region, log)?;
            self.slots.machine().merge_dirty(region, log);
        }
        Ok(())
    }
}

impl Handle for Outgoing {
    fn id(&self) -> MigrationId {
        self.setup.id
    }

    fn guest(&self) -> &str {
        &self.setup.guest
    }

    fn progress(&self) -> Progress {
        self.slots.machine().progress(now())
    }

    fn owner(&self) -> Owner {
        self.slots.machine().owner()
    }

    fn report(&self) -> Option<Report> {
        self.outcome.get()
    }

    fn wait(&self, timeout: Duration) -> Option<Report> {
        self.outcome.wait(timeout)
    }

    fn cancel(&self) {
        self.slots.machine().cancel(now());
        self.slots.wake();
    }

    fn set_bandwidth_limit(&self, rate_bytes_per_s: Option<u64>) {
        self.slots.machine().set_bandwidth_limit(rate_bytes_per_s, now());
        self.slots.wake();
    }

    fn start_post_copy(&self) -> Result<(), PostCopyError> {
        let started = self.slots.machine().start_post_copy(now());
        self.slots.wake();
        started
    }

    fn abandon_post_copy(&self) -> Result<(), PostCopyError> {
        let abandoned = self.slots.machine().abandon_post_copy();
        self.slots.wake();
        abandoned
    }

    fn encoding(&self) -> Option<HdeStats> {
        Some(lock(&self.encoding).clone())
    }

    fn footprint(&self) -> Footprint {
        let progress = self.progress();
        if self.outcome.get().is_some() {
            return Footprint::default();
        }
        // For each stream a chunk as it is and packed, and what is read from the peer.
        let chunk = u64::from(FEATURES.chunk_bytes) * 2 + READ_BUFFER_BYTES as u64;
        Footprint {
            stream_bytes: u64::from(progress.streams) * chunk,
            page_table_bytes: page_table_bytes(self.setup.layout.page_count()),
            ..Footprint::default()
        }
    }
}

impl Carrier for Outgoing {
    type Machine = Source;
    type Scratch = ChunkWriter;

    fn slots(&self) -> &Arc<StreamSlots<Source>> {
        &self.slots
    }

    fn publish(&self, event: EventKind) {
        self.journal.publish(Some(self.setup.id), Some(&self.setup.guest), event);
    }

    fn carry(
        &self,
        plan: ChunkPlan,
        socket: &mut FrameWriter,
        writer: &mut ChunkWriter,
    ) -> Option<io::Result<()>> {
        let policy = self.setup.options.codec;
        let wanted = if self.gate.is_on() { policy.one() } else { policy.undecided() };
        let source = self.slots.machine();
        let (codec, is_still) = (source.agreed(wanted), source.is_still());
        drop(source);
        let carriage = match socket.has_pair() && self.lane.is_wanted() {
            true => Carriage::Read { is_still },
            false => Carriage::Packed(codec),
        };
        let guest = self.guest_for("read_pages").ok()?;
        let (guest, layout) = (guest.as_ref(), &self.setup.layout);
        let digest = lock(&self.digest).clone();
        let pages = (plan.id, plan.runs.as_slice());
        let encoded = writer.encode(pages, guest, layout, carriage, &digest, socket.sequence());
        let mut source = self.slots.machine();
        match encoded {
            Ok(chunk) => {
                let (zero, full) = (chunk.zero_pages, chunk.full_pages);
                let packed = chunk.payload.len() as u64 + chunk.read_bytes;
                source.chunk_announced(plan.id, chunk.read_bytes);
                let used = if chunk.codec == Codec::None { CodecChoice::None } else { codec };
                lock(&self.encoding).add_chunk(used, layout.page_bytes(), [zero, full], packed);
                source.chunk_encoded(plan.id, zero, full, chunk.wire_bytes(), now());
                let news = source.has_actions();
                drop(source);
                if news {
                    self.slots.wake_driver();
                }
                Some(socket.chunk(&chunk))
            }
            Err(error) => {
                let failure = Failure::new(crate::Status::Callback, error.to_string());
                source.chunk_failed(plan.id, failure, now());
                drop(source);
                self.slots.wake();
                None
            }
        }
    }
}

impl StreamMachine for Source {
    type Cargo = ChunkPlan;

    fn wants_streams(&self) -> bool {
        Source::wants_streams(self)
    }

    fn fail(&mut self, failure: Failure, now: Time) {
        Source::fail(self, failure, now);
    }

    fn connect_failed(&mut self, reason: &str) {
        Source::connect_failed(self, reason);
    }

    fn refused(&mut self, status: i32, reason: &str, ended: Ended, now: Time) {
        Source::refused(self, status, reason, ended, now);
    }

    fn set_up_begins(&mut self) {
        Source::set_up_begins(self);
    }

    fn set_up_ends(&mut self, now: Time) {
        Source::set_up_ends(self, now);
    }

    fn stream_up(&mut self, stream: StreamId, peer: &str, features: Features, now: Time) {
        self.agree(features, now);
        Source::stream_up(self, stream, peer, now);
    }

    fn stream_down(&mut self, stream: StreamId, reason: &str, now: Time) {
        Source::stream_down(self, stream, reason, now);
    }

    fn set_retiring(&mut self, stream: StreamId, retiring: bool) {
        Source::set_retiring(self, stream, retiring);
    }

    fn traffic(&mut self, now: Time) -> Traffic {
        Source::traffic(self, now)
    }

    fn set_share(&mut self, rate_bytes_per_s: Option<u64>, now: Time) {
        Source::set_share(self, rate_bytes_per_s, now);
    }

    fn next_work(&mut self, stream: StreamId, now: Time) -> Work {
        Source::next_work(self, stream, now)
    }

    fn frame(&mut self, stream: StreamId, frame: &Frame, now: Time) -> Result<(), SessionError> {
        Source::frame(self, stream, frame, now)
    }

    fn has_actions(&self) -> bool {
        Source::has_actions(self)
    }

    fn has_control(&self) -> bool {
        Source::has_control(self)
    }
}

impl std::fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outgoing").field("id", &self.setup.id).finish_non_exhaustive()
    }
}

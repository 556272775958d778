//! An incoming migration: one driver thread, and the connection threads that the listener made.
//!
//! A connection thread reads frames and stores chunks; it also writes, under a lock of its stream,
//! the acknowledgements and control messages that are due. So a destination needs no senders.

use crate::Status;
use crate::base::{MigrationId, PageBitmap, StreamId, Time};
use crate::encoding::ImageDigest;
use crate::migration::destination::{
    Action, Answer, ChunkError, Destination, DestinationSetup, FaultStance,
};
use crate::migration::ownership::Mark;
use crate::migration::page_io::{ChunkReader, StoreError, unset};
use crate::migration::source::PostCopyError;
use crate::migration::{Failure, GuestError, GuestSink, MissingPages, Owner, Progress, Report};
use crate::observe::EventKind;
use crate::runtime::clock::now;
use crate::runtime::connection::READ_BUFFER_BYTES;
use crate::runtime::connection::{ConnectionError, FrameReader, FrameWriter, Incoming as Input};
use crate::runtime::dial::FEATURES;
use crate::runtime::footprint::{Footprint, HASH_BYTES};
use crate::runtime::handle::{Arrival, Handle};
use crate::runtime::journal::Journal;
use crate::runtime::lane::{Lane, ReadError, ReadWindow};
use crate::runtime::listener::{JoinKey, Refusal, STALL_TIMEOUT, check_join, no_room};
use crate::runtime::lock::{lock, wait};
use crate::runtime::outcome::Outcome;
use crate::runtime::record_keeper::RecordKeeper;
use crate::runtime::sys::readiness::is_hung_up;
use crate::runtime::sys::thread::spawn_named;
use crate::wire::ChunkHeader;
use crate::wire::Hello;
use crate::wire::hello::{Features, Purpose};
use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Acknowledgements are sent at the latest when so many wait.
const ACK_BATCH: usize = 8;
/// How long fewer of them wait for company; a wakeup of the source for each would cost both sides
/// a tenth of their time.
const ACK_PATIENCE: Duration = Duration::from_micros(200);
/// However fast more come, so long after the last ones others go out: the source knows by them what the
/// path carries, and on a slow stream eight chunks take seconds.
const ACK_INTERVAL: Duration = Duration::from_millis(10);
/// How often the driver looks at the clock.
const TICK: Duration = Duration::from_millis(200);
/// How long the last words may take.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How long an end waits for a chunk that is still coming.
const WRITERS_PATIENCE: Duration = Duration::from_secs(10);
/// Why a device reads other pages than the source hashed.
const DISCARDED: &str =
    "it reads other memory than the guest's; pages may have been taken away and given anew";

/// What is to be done about a stream whose chunks are read by RDMA.
enum Reading {
    /// Look at it again.
    GoesOn,
    /// Take the next frame.
    MayTakeMore,
}

/// An incoming migration, shared by its threads and its handles.
pub struct IncomingMigration {
    setup: DestinationSetup,
    join_key: JoinKey,
    /// Let go when all is over, though the migration itself is remembered.
    guest: Mutex<Option<Arc<dyn GuestSink>>>,
    /// Let go likewise.
    digest: Mutex<Arc<ImageDigest>>,
    journal: Arc<Journal>,
    lane: Arc<Lane>,
    destination: Mutex<Destination>,
    news: Condvar,
    outcome: Outcome,
    writers: Mutex<HashMap<StreamId, Arc<Mutex<FrameWriter>>>>,
    closers: Mutex<HashMap<StreamId, Box<dyn Fn() + Send>>>,
    /// Set from a switch to post-copy on.
    missing: Mutex<Option<Arc<dyn MissingPages>>>,
    fault_watch: Mutex<Option<JoinHandle<()>>>,
}

impl IncomingMigration {
    /// A migration that has not started.
    pub fn new(
        setup: DestinationSetup,
        join_key: JoinKey,
        guest: Arc<dyn GuestSink>,
        (lane, journal): (Arc<Lane>, Arc<Journal>),
    ) -> Arc<Self> {
        let digest = Arc::new(ImageDigest::new(setup.layout.page_count()));
        let destination = Mutex::new(Destination::new(setup.clone(), digest.clone(), now()));
        Arc::new(Self {
            setup,
            join_key,
            guest: Mutex::new(Some(guest)),
            digest: Mutex::new(digest),
            journal,
            lane,
            destination,
            news: Condvar::new(),
            outcome: Outcome::default(),
            writers: Mutex::default(),
            closers: Mutex::default(),
            missing: Mutex::default(),
            fault_watch: Mutex::default(),
        })
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

    fn receive(
        &self,
        stream: StreamId,
        reader: &mut FrameReader,
        writer: &Mutex<FrameWriter>,
    ) -> String {
        let mut window = reader.take_window();
        let reason = self.receive_all(stream, reader, &mut window, writer);
        let unread = window.into_iter().flat_map(ReadWindow::abandon);
        unread.for_each(|header| self.give_up(stream, &header));
        reason
    }

    fn receive_all(
        &self,
        stream: StreamId,
        reader: &mut FrameReader,
        window: &mut Option<ReadWindow>,
        writer: &Mutex<FrameWriter>,
    ) -> String {
        let (mut chunks, mut flushed_at) = (ChunkReader::default(), now());
        loop {
            let received = match self.take_read(stream, reader, window, &mut chunks) {
                Ok(Reading::GoesOn) => Ok(()),
                Ok(Reading::MayTakeMore) => self.take_next(stream, reader, window, &mut chunks),
                Err(reason) => Err(reason),
            };
            if let Err(reason) = received {
                return reason;
            }
            let is_reading = window.as_ref().is_some_and(|window| !window.is_idle());
            if self.is_answer_due(stream, reader, (flushed_at, is_reading)) {
                if let Err(error) = self.flush(stream, writer) {
                    return format!("sending: {error}");
                }
                flushed_at = now();
            }
        }
    }

    fn take_next(
        &self,
        stream: StreamId,
        reader: &mut FrameReader,
        window: &mut Option<ReadWindow>,
        chunks: &mut ChunkReader,
    ) -> Result<(), String> {
        match reader.next(self.setup.layout.page_bytes()) {
            Ok(Input::Frame(frame)) => {
                let result = lock(&self.destination).frame(stream, &frame, now());
                self.news.notify_all();
                self.wake_fault_watch();
                result.map_err(|error| error.to_string())
            }
            Ok(Input::Segment(_)) => Err("a segment on a migration of chunks".into()),
            Ok(Input::Chunk(header)) if header.is_read() => {
                self.begin_read(stream, &header, window.as_mut())
            }
            Ok(Input::Chunk(header)) => self.store(stream, &header, reader, chunks),
            Err(ConnectionError::Closed) => Err("closed by the source".into()),
            Err(error) => Err(format!("receiving: {error}")),
        }
    }

    /// Begins to read an announced chunk by RDMA.
    fn begin_read(
        &self,
        stream: StreamId,
        header: &ChunkHeader,
        window: Option<&mut ReadWindow>,
    ) -> Result<(), String> {
        let Some(window) = window else {
            return Err("pages were announced on a stream without a queue pair".into());
        };
        match lock(&self.destination).begin_chunk(stream, header) {
            // As in `store`.
            Err(ChunkError::NotReceiving(_)) => return Ok(()),
            claimed => claimed.map_err(|error| error.to_string())?,
        }
        // What fails here is in the window, and given up with it.
        window.begin(header, &self.setup.layout).map_err(|error| self.lane_failed(&error))
    }

    /// Takes in a chunk that was read by RDMA, and waits for one where nothing else is to be done.
    fn take_read(
        &self,
        stream: StreamId,
        reader: &mut FrameReader,
        window: &mut Option<ReadWindow>,
        chunks: &mut ChunkReader,
    ) -> Result<Reading, String> {
        let Some(window) = window.as_mut().filter(|window| !window.is_idle()) else {
            return Ok(Reading::MayTakeMore);
        };
        let has_room = window.has_room();
        let may_wait = !has_room || !reader.has_more(Duration::ZERO);
        let patience = if may_wait { ACK_INTERVAL } else { Duration::ZERO };
        let beside = has_room.then(|| reader.descriptor());
        match window.next(beside, patience).map_err(|error| self.lane_failed(&error))? {
            Some(header) => self.accept(stream, &header, chunks).map(|()| Reading::GoesOn),
            None if window.silent_for() >= STALL_TIMEOUT => {
                self.lane.close(&"the device makes no reads");
                Err(format!("reading by RDMA: nothing came within {STALL_TIMEOUT:?}"))
            }
            None if !has_room && is_hung_up(&reader.descriptor()) => Err("closed".into()),
            None if may_wait => Ok(Reading::GoesOn),
            None => Ok(Reading::MayTakeMore),
        }
    }

    /// A chunk is here, by RDMA.
    fn accept(
        &self,
        stream: StreamId,
        header: &ChunkHeader,
        chunks: &mut ChunkReader,
    ) -> Result<(), String> {
        let (guest, digest) = (self.guest_for("inspect_pages"), lock(&self.digest).clone());
        let accepted = guest
            .and_then(|guest| chunks.accept(header, guest.as_ref(), &self.setup.layout, &digest));
        let mut destination = lock(&self.destination);
        destination.end_chunk(stream, header, accepted.as_ref().ok().copied(), now());
        let result = match accepted {
            Ok(true) => Ok(()),
            // The guest stands still, and still its memory is not what the device reads: pages were taken
            // away and given anew, which a device does not notice.
            Ok(false) => {
                self.lane.close(&DISCARDED);
                Err(format!("reading by RDMA: {DISCARDED}"))
            }
            Err(error) => {
                let text = error.to_string();
                destination.fail(Failure::new(Status::Callback, text.clone()));
                Err(text)
            }
        };
        let news = destination.has_actions();
        drop(destination);
        if news || result.is_err() {
            self.news.notify_all();
        }
        result
    }

    /// A chunk that was under way when its stream ended: what its pages hold nobody knows.
    fn give_up(&self, stream: StreamId, header: &ChunkHeader) {
        unset(header, &lock(&self.digest).clone());
        lock(&self.destination).end_chunk(stream, header, None, now());
    }

    fn lane_failed(&self, error: &ReadError) -> String {
        self.lane.close(error);
        format!("reading by RDMA: {error}")
    }

    /// Whether something must go back on this stream before it is read further.
    fn is_answer_due(
        &self,
        stream: StreamId,
        reader: &mut FrameReader,
        (flushed_at, is_reading): (Time, bool),
    ) -> bool {
        let destination = lock(&self.destination);
        let (acks, control) = (destination.waiting_acks(stream), destination.has_control());
        drop(destination);
        let is_late = now() - flushed_at >= ACK_INTERVAL;
        let mut is_alone = || !is_reading && !reader.has_more(ACK_PATIENCE);
        control || acks >= ACK_BATCH || acks > 0 && (is_late || is_alone())
    }

    fn store(
        &self,
        stream: StreamId,
        header: &ChunkHeader,
        reader: &mut FrameReader,
        chunks: &mut ChunkReader,
    ) -> Result<(), String> {
        let guest = self.guest_for("write_pages").map_err(|error| error.to_string())?;
        let claimed = lock(&self.destination).begin_chunk(stream, header);
        match claimed {
            // The source may not have heard yet that it is over. Were the connection broken now,
            // the last words would be lost with it.
            Err(ChunkError::NotReceiving(_)) => return skip_payload(header, reader),
            claimed => claimed.map_err(|error| error.to_string())?,
        }
        let (guest, layout) = (guest.as_ref(), &self.setup.layout);
        let (missing, payload) = (lock(&self.missing).clone(), reader.payload());
        let digest = lock(&self.digest).clone();
        let stored = match &missing {
            Some(pages) => chunks.place(header, payload, pages.as_ref(), layout, &digest),
            None => chunks.store(header, payload, guest, layout, &digest),
        };
        let mut destination = lock(&self.destination);
        destination.end_chunk(stream, header, stored.as_ref().ok().copied(), now());
        let news = destination.has_actions();
        let is_unread = matches!(stored, Err(StoreError::Codec { .. }));
        let result = match stored {
            Ok(_) => Ok(()),
            Err(StoreError::Stream(error)) => Err(format!("receiving: {error}")),
            Err(error @ (StoreError::Guest(_) | StoreError::Codec { .. })) => {
                let status = if is_unread { Status::BadFrame } else { Status::Callback };
                destination.fail(Failure::new(status, error.to_string()));
                if is_unread { Ok(()) } else { Err(error.to_string()) }
            }
        };
        drop(destination);
        // Whoever drips holds up nobody else.
        let result = result.and_then(|()| match is_unread {
            true => skip_payload(header, reader),
            false => Ok(()),
        });
        if news || result.is_err() {
            self.news.notify_all();
            self.wake_fault_watch();
        }
        result
    }

    /// Sends what is due on this stream.
    fn flush(&self, stream: StreamId, writer: &Mutex<FrameWriter>) -> io::Result<()> {
        let mut writer = lock(writer);
        loop {
            let frame = lock(&self.destination).next_frame(stream, now());
            match frame {
                Some(frame) => writer.frame(&frame)?,
                None => return Ok(()),
            }
        }
    }

    /// Sends control messages that are due on whichever stream works.
    fn flush_any(&self) {
        let writers: Vec<_> =
            lock(&self.writers).iter().map(|(stream, writer)| (*stream, writer.clone())).collect();
        for (stream, writer) in writers {
            if !lock(&self.destination).has_control() {
                return;
            }
            if self.flush(stream, &writer).is_err() {
                lock(&writer).shutdown();
            }
        }
    }

    fn drive(self: &Arc<Self>, mut keeper: RecordKeeper, on_end: Box<dyn FnOnce(&Report) + Send>) {
        let (mut end, mut waiting_since) = (None, None);
        loop {
            self.flush_any();
            let mut destination = lock(&self.destination);
            while let Some(event) = destination.next_event() {
                drop(destination);
                match event {
                    EventKind::MigrationEnded { .. } => end = Some(event),
                    _ => self.publish(event),
                }
                destination = lock(&self.destination);
            }
            if let Some(action) = destination.next_action() {
                drop(destination);
                if let Some(answer) = self.perform(action, &mut keeper) {
                    lock(&self.destination).answer(answer, now());
                }
                continue;
            }
            if destination.is_over() {
                break;
            }
            if destination.waits_for_writers() {
                let since = *waiting_since.get_or_insert_with(now);
                if now() - since >= WRITERS_PATIENCE {
                    // Whoever drips, or has a device that does not answer, ends with its connection.
                    drop(destination);
                    lock(&self.closers).values().for_each(|close| close());
                    destination = lock(&self.destination);
                }
            }
            // What is due can go out only when a stream is open; the thread that opens it sends it.
            if !destination.has_control() {
                destination = wait(&self.news, destination, TICK);
            }
            destination.tick(now());
        }
        self.finish(keeper, on_end, end);
    }

    fn finish(
        &self,
        keeper: RecordKeeper,
        on_end: Box<dyn FnOnce(&Report) + Send>,
        end: Option<EventKind>,
    ) {
        let deadline = Instant::now() + LAST_WORDS;
        while Instant::now() < deadline && !lock(&self.destination).all_said() {
            self.flush_any();
            std::thread::sleep(Duration::from_millis(1));
        }
        lock(&self.closers).values().for_each(|close| close());
        let report = lock(&self.destination).report();
        self.lane.end();
        drop((lock(&self.guest).take(), lock(&self.missing).take()));
        *lock(&self.digest) = Arc::new(ImageDigest::new(0));
        lock(&self.destination).forget_guest();
        if let Some(report) = report {
            self.outcome.conclude(report, keeper, on_end);
        }
        // Last, so that whoever hears of the end finds the report.
        end.into_iter().for_each(|event| self.publish(event));
    }

    fn perform(self: &Arc<Self>, action: Action, keeper: &mut RecordKeeper) -> Option<Answer> {
        Some(match action {
            Action::CloseStream(stream) => {
                if let Some(close) = lock(&self.closers).get(&stream) {
                    close();
                }
                return None;
            }
            Action::BeginPostCopy(missing) => Answer::PostCopyBegun(self.begin_post_copy(&missing)),
            Action::LoadDeviceState(state) => Answer::DeviceStateLoaded(
                self.guest_for("load_device_state")
                    .and_then(|guest| guest.load_device_state(&state)),
            ),
            Action::Resume => {
                Answer::Resumed(self.guest_for("resume").and_then(|guest| guest.resume()))
            }
            Action::Persist(mark) => Answer::Persisted(mark, self.persist(keeper, mark)),
            Action::Finish(ending) => {
                self.join_fault_watch();
                Answer::Finished(self.guest_for("finish").and_then(|guest| guest.finish(ending)))
            }
        })
    }

    /// Takes the missing pages away, and begins to watch who touches them.
    fn begin_post_copy(self: &Arc<Self>, missing: &PageBitmap) -> Result<(), GuestError> {
        let pages = self.guest_for("begin_post_copy")?.begin_post_copy(missing)?;
        let (watcher, watched) = (self.clone(), pages.clone());
        // Before they are kept: memory that nobody watches must be let go of at once.
        let spawned = spawn_named("dwcp-fault", move || watcher.watch_faults(watched.as_ref()));
        let thread = spawned.map_err(|error| GuestError::new("begin_post_copy", error))?;
        *lock(&self.missing) = Some(pages);
        *lock(&self.fault_watch) = Some(thread);
        Ok(())
    }

    /// Asks for every page that somebody touches, until nobody needs it any more.
    fn watch_faults(&self, pages: &dyn MissingPages) {
        let mut touched = Vec::new();
        loop {
            let (stance, room) = {
                let mut destination = lock(&self.destination);
                // The driver may be restoring devices, which wait for a page that never comes.
                destination.tick(now());
                (destination.fault_stance(), destination.fault_room())
            };
            match stance {
                FaultStance::Release => return pages.release(),
                FaultStance::Abandon => return pages.abandon(),
                FaultStance::Watch if room == 0 => std::thread::sleep(Duration::from_millis(1)),
                FaultStance::Watch => self.ask_for_touched(pages, &mut touched, room),
            }
        }
    }

    fn ask_for_touched(&self, pages: &dyn MissingPages, touched: &mut Vec<u64>, room: usize) {
        touched.clear();
        if let Err(error) = pages.wait_for_faults(touched, room, TICK) {
            self.publish(EventKind::Notice { text: error.to_string() });
            std::thread::sleep(TICK);
        }
        let mut destination = lock(&self.destination);
        let here: Vec<u64> =
            touched.drain(..).filter(|page| destination.on_fault(*page, now())).collect();
        drop(destination);
        for range in here.iter().flat_map(|page| self.setup.layout.ranges(*page..page + 1)) {
            // It came meanwhile and stays as it is; or it came before, and the hypervisor has given
            // it back to the system since, as a balloon does.
            let (region, offset, length) = (range.region, range.offset_bytes, range.length_bytes);
            if let Err(error) = pages.place_zero(region, offset, length) {
                self.publish(EventKind::Notice { text: error.to_string() });
            }
        }
        self.flush_any();
    }

    /// Lets the watch look whether it is still needed.
    fn wake_fault_watch(&self) {
        if let Some(pages) = lock(&self.missing).as_ref()
            && lock(&self.destination).fault_stance() != FaultStance::Watch
        {
            pages.wake();
        }
    }

    /// Nobody sees faults after this, so that the hypervisor may do with its memory what it likes.
    fn join_fault_watch(&self) {
        let thread = lock(&self.fault_watch).take();
        if let Some(thread) = thread {
            self.wake_fault_watch();
            let _ = thread.join();
        }
    }

    fn publish(&self, event: EventKind) {
        self.journal.publish(Some(self.setup.id), Some(&self.setup.guest), event);
    }

    fn guest_for(&self, call: &'static str) -> Result<Arc<dyn GuestSink>, GuestError> {
        let guest = lock(&self.guest).clone();
        guest.ok_or_else(|| GuestError::new(call, "the migration is over"))
    }

    fn persist(&self, keeper: &mut RecordKeeper, mark: Mark) -> Result<(), String> {
        keeper.write(mark).map_err(|error| error.to_string())
    }
}

impl Handle for IncomingMigration {
    fn id(&self) -> MigrationId {
        self.setup.id
    }

    fn guest(&self) -> &str {
        &self.setup.guest
    }

    fn progress(&self) -> Progress {
        lock(&self.destination).progress(now())
    }

    fn owner(&self) -> Owner {
        lock(&self.destination).owner()
    }

    fn report(&self) -> Option<Report> {
        self.outcome.get()
    }

    fn wait(&self, timeout: Duration) -> Option<Report> {
        self.outcome.wait(timeout)
    }

    fn cancel(&self) {
        lock(&self.destination).cancel();
        self.news.notify_all();
    }

    fn start_post_copy(&self) -> Result<(), PostCopyError> {
        Err(PostCopyError::WrongSide)
    }

    fn abandon_post_copy(&self) -> Result<(), PostCopyError> {
        let abandoned = lock(&self.destination).abandon_post_copy();
        self.news.notify_all();
        self.wake_fault_watch();
        abandoned
    }

    fn footprint(&self) -> Footprint {
        if self.outcome.get().is_some() {
            return Footprint::default();
        }
        // For each stream a chunk packed and as it is, and what is read ahead.
        let chunk = FEATURES.chunk_bytes as usize * 2 + READ_BUFFER_BYTES;
        Footprint {
            stream_bytes: (lock(&self.writers).len() * chunk) as u64,
            page_table_bytes: self.setup.layout.page_count() * HASH_BYTES,
            ..Footprint::default()
        }
    }
}

impl Arrival for IncomingMigration {
    fn join_key(&self) -> &JoinKey {
        &self.join_key
    }

    fn agree(&self, wanted: Features) -> Features {
        // Looked for, and missed, only where it is wanted.
        let rdma = wanted.rdma && self.lane.is_open();
        Features { rdma, ..FEATURES }.common(wanted)
    }

    fn set_up(
        &self,
        agreed: Features,
        reader: &mut FrameReader,
        writer: &mut FrameWriter,
    ) -> Result<(), ConnectionError> {
        if !agreed.rdma {
            return Ok(());
        }
        lock(&self.destination).set_up_begins();
        let answered = self.lane.answer(reader, writer);
        lock(&self.destination).set_up_ends(now());
        answered
    }

    fn check(&self, hello: &Hello) -> Result<(), Refusal> {
        check_join(self, hello)?;
        match &hello.purpose {
            Purpose::Open { layout, .. } if *layout != self.setup.layout => {
                Err(Refusal::new(Status::LayoutMismatch, "the memory layout has changed"))
            }
            _ if !lock(&self.destination).may_join(hello.stream) => Err(no_room(hello)),
            _ => Ok(()),
        }
    }

    fn serve(&self, stream: StreamId, mut reader: FrameReader, writer: FrameWriter, peer: &str) {
        let closer = writer.closer();
        let writer = Arc::new(Mutex::new(writer));
        lock(&self.writers).insert(stream, writer.clone());
        lock(&self.closers).insert(stream, closer);
        let is_late = lock(&self.destination).is_over();
        if !is_late {
            lock(&self.destination).stream_up(stream, peer, now());
        }
        self.news.notify_all();
        // Those that are there at the end are closed then; one that comes later nobody would close.
        let reason = match is_late {
            true => "it is over".to_owned(),
            false => self.receive(stream, &mut reader, &writer),
        };
        lock(&writer).shutdown();
        lock(&self.writers).remove(&stream);
        lock(&self.closers).remove(&stream);
        lock(&self.destination).stream_down(stream, &reason, now());
        self.flush_any();
        self.news.notify_all();
    }
}

/// Passes over a payload that is of no use.
fn skip_payload(header: &ChunkHeader, reader: &mut FrameReader) -> Result<(), String> {
    let length = u64::from(header.payload_bytes);
    match io::copy(&mut reader.payload().take(length), &mut io::sink()) {
        Ok(skipped) if skipped == length => Ok(()),
        Ok(_) => Err(format!("receiving: {}", ConnectionError::Cut)),
        Err(error) => Err(format!("receiving: {error}")),
    }
}

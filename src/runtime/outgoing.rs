//! An outgoing migration: one driver thread and, for each stream, a sender and a receiver.
//!
//! ```text
//! driver:   actions -> guest, record -> answers          (one thread)
//! sender:   connect, next_work -> encode, write; again   (one thread a stream)
//! receiver: read -> frame                                (one thread a stream)
//! ```
//! All share one [`Source`] behind a lock that nobody holds while he reads, writes, encodes or
//! calls the hypervisor.

use crate::base::limits::MAX_RECONNECTS;
use crate::base::{MigrationId, StreamId};
use crate::encoding::{CodecChoice, ImageDigest};
use crate::migration::ownership::Mark;
use crate::migration::page_io::ChunkWriter;
use crate::migration::source::{Action, Answer, ChunkPlan, Source, SourceSetup, Work};
use crate::migration::{Failure, GuestError, GuestSource, Owner, Progress, Report};
use crate::observe::EventKind;
use crate::runtime::clock::now;
use crate::runtime::connection::{ConnectionError, FrameReader, FrameWriter, Incoming};
use crate::runtime::dial::{Dialed, Dialer};
use crate::runtime::journal::Journal;
use crate::runtime::lock::{lock, wait};
use crate::runtime::outcome::Outcome;
use crate::runtime::record_keeper::RecordKeeper;
use crate::runtime::sys::thread::spawn_named;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

/// First and longest wait between two attempts to connect.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// How long streams may still take to say the last word when it is over.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// An outgoing migration, shared by its threads and its handles.
pub struct Outgoing {
    setup: SourceSetup,
    /// Let go when all is over, though the migration itself is remembered.
    guest: Mutex<Option<Arc<dyn GuestSource>>>,
    digest: Arc<ImageDigest>,
    dialer: Dialer,
    journal: Arc<Journal>,
    source: Mutex<Source>,
    /// For senders: there may be work.
    work: Condvar,
    /// For the driver: there may be actions, events or an end.
    news: Condvar,
    outcome: Outcome,
    codec: OnceLock<CodecChoice>,
    next_stream: AtomicU32,
    sockets: Mutex<Vec<Option<Arc<TcpStream>>>>,
}

impl Outgoing {
    /// A migration that has not started.
    pub fn new(
        setup: SourceSetup,
        guest: Arc<dyn GuestSource>,
        dialer: Dialer,
        journal: Arc<Journal>,
    ) -> Arc<Self> {
        let digest = Arc::new(ImageDigest::new(setup.layout.page_count()));
        let chunk_bytes = dialer.features().chunk_bytes;
        let source = Source::new(setup.clone(), digest.clone(), chunk_bytes, now());
        let slots = usize::from(setup.options.streams);
        Arc::new(Self {
            setup,
            guest: Mutex::new(Some(guest)),
            digest,
            dialer,
            journal,
            source: Mutex::new(source),
            work: Condvar::new(),
            news: Condvar::new(),
            outcome: Outcome::default(),
            codec: OnceLock::new(),
            next_stream: AtomicU32::new(0),
            sockets: Mutex::new(vec![None; slots]),
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

    /// The migration.
    pub fn id(&self) -> MigrationId {
        self.setup.id
    }

    /// The guest's name.
    pub fn guest(&self) -> &str {
        &self.setup.guest
    }

    /// Where it stands.
    pub fn progress(&self) -> Progress {
        lock(&self.source).progress(now())
    }

    /// Who owns the guest.
    pub fn owner(&self) -> Owner {
        lock(&self.source).owner()
    }

    /// The report, once everything is over.
    pub fn report(&self) -> Option<Report> {
        self.outcome.get()
    }

    /// Waits up to `timeout` for the end.
    pub fn wait(&self, timeout: Duration) -> Option<Report> {
        self.outcome.wait(timeout)
    }

    /// Cancels.
    pub fn cancel(&self) {
        lock(&self.source).cancel(now());
        self.wake();
    }

    /// Changes the bandwidth cap.
    pub fn set_bandwidth_limit(&self, rate_bytes_per_s: Option<u64>) {
        lock(&self.source).set_bandwidth_limit(rate_bytes_per_s, now());
        self.wake();
    }

    fn wake(&self) {
        self.work.notify_all();
        self.news.notify_all();
    }

    fn drive(self: &Arc<Self>, mut keeper: RecordKeeper, on_end: Box<dyn FnOnce(&Report) + Send>) {
        let senders = self.start_senders();
        let (mut log, mut end) = (Vec::new(), None);
        loop {
            let mut source = lock(&self.source);
            while let Some(event) = source.next_event() {
                drop(source);
                match event {
                    EventKind::MigrationEnded { .. } => end = Some(event),
                    _ => self.publish(event),
                }
                source = lock(&self.source);
            }
            if let Some(action) = source.next_action() {
                drop(source);
                let answer = self.perform(action, &mut keeper, &mut log);
                lock(&self.source).answer(answer, now());
                self.work.notify_all();
                continue;
            }
            if source.is_over() {
                break;
            }
            let timeout = source.next_timeout(now()).since(now());
            source = wait(&self.news, source, timeout);
            source.tick(now());
        }
        self.finish(senders, keeper, on_end, end);
    }

    fn finish(
        &self,
        senders: Vec<JoinHandle<()>>,
        keeper: RecordKeeper,
        on_end: Box<dyn FnOnce(&Report) + Send>,
        end: Option<EventKind>,
    ) {
        self.work.notify_all();
        let deadline = now() + LAST_WORDS;
        while now() < deadline && senders.iter().any(|sender| !sender.is_finished()) {
            std::thread::sleep(Duration::from_millis(1));
        }
        for socket in lock(&self.sockets).iter().flatten() {
            // The peer may have closed it already.
            let _ = socket.shutdown(Shutdown::Both);
        }
        senders.into_iter().for_each(|sender| drop(sender.join()));
        let report = lock(&self.source).report();
        drop(lock(&self.guest).take());
        if let Some(report) = report {
            keeper.close(report.owner);
            on_end(&report);
            self.outcome.publish(report);
        }
        // Last, so that whoever hears of the end finds the report.
        end.into_iter().for_each(|event| self.publish(event));
    }

    fn start_senders(self: &Arc<Self>) -> Vec<JoinHandle<()>> {
        let mut senders = Vec::new();
        for slot in 0..usize::from(self.setup.options.streams) {
            let sender = self.clone();
            match spawn_named("dwcp-send", move || sender.run_slot(slot)) {
                Ok(thread) => senders.push(thread),
                Err(error) => {
                    let failure = Failure::new(crate::Status::Io, format!("no thread: {error}"));
                    lock(&self.source).fail(failure, now());
                    break;
                }
            }
        }
        senders
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
                Answer::Finished(self.guest_for("finish").and_then(|guest| guest.finish(ending)))
            }
        }
    }

    fn publish(&self, event: EventKind) {
        self.journal.publish(Some(self.setup.id), Some(&self.setup.guest), event);
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
            lock(&self.source).merge_dirty(region, log);
        }
        Ok(())
    }

    /// One stream slot: connect, serve, and again while the migration wants streams.
    fn run_slot(self: &Arc<Self>, slot: usize) {
        let mut writer = ChunkWriter::default();
        let mut backoff = BACKOFF.0;
        while lock(&self.source).wants_streams() {
            if self.dialer.is_opening() {
                // Another slot opens the migration; its success or failure wakes this one.
                drop(wait(&self.work, lock(&self.source), BACKOFF.0));
                continue;
            }
            let number = self.next_stream.fetch_add(1, Ordering::Relaxed);
            if number > MAX_RECONNECTS {
                let text = format!("{MAX_RECONNECTS} connections were not enough");
                lock(&self.source).fail(Failure::new(crate::Status::LimitReached, text), now());
                break;
            }
            match self.connect(StreamId(number), slot) {
                Some((socket, reader)) => {
                    let served_since = now();
                    self.serve(StreamId(number), socket, reader, &mut writer);
                    if now() - served_since > BACKOFF.1 {
                        backoff = BACKOFF.0;
                    }
                }
                None => backoff = (backoff * 2).min(BACKOFF.1),
            }
            lock(&self.sockets)[slot] = None;
            self.rest(backoff);
        }
        self.news.notify_all();
    }

    /// Waits this long, whatever the other streams do meanwhile; less if no stream is wanted.
    fn rest(&self, how_long: Duration) {
        let until = now() + how_long;
        let mut source = lock(&self.source);
        while source.wants_streams() && now() < until {
            source = wait(&self.work, source, until.since(now()));
        }
    }

    fn connect(&self, stream: StreamId, slot: usize) -> Option<(FrameWriter, FrameReader)> {
        let register = |socket: &Arc<TcpStream>| lock(&self.sockets)[slot] = Some(socket.clone());
        let dialed = self.dialer.dial(stream, &register);
        let mut source = lock(&self.source);
        let (writer, reader) = match dialed {
            Ok(Dialed::Up { writer, reader, features, peer }) => {
                source.set_chunk_bytes(features.chunk_bytes);
                self.codec.get_or_init(|| self.dialer.choose(self.setup.options.codec, features));
                source.stream_up(stream, &peer, now());
                (writer, reader)
            }
            Ok(Dialed::Refused { status, reason, ended }) => {
                source.refused(status, &reason, ended, now());
                drop(source);
                self.wake();
                return None;
            }
            Ok(Dialed::Waiting) => return None,
            Err(error) => {
                source.connect_failed(&error.to_string());
                return None;
            }
        };
        drop(source);
        self.wake();
        Some((writer, reader))
    }

    fn serve(
        self: &Arc<Self>,
        stream: StreamId,
        mut socket: FrameWriter,
        reader: FrameReader,
        writer: &mut ChunkWriter,
    ) {
        let broken = Arc::new(Mutex::new(None::<String>));
        let (receiver, seen) = (self.clone(), broken.clone());
        let receiving = spawn_named("dwcp-recv", move || receiver.receive(stream, reader, &seen));
        let mut reason = "no thread for receiving".to_string();
        if receiving.is_ok() {
            reason = self.send(stream, &mut socket, writer, &broken);
        }
        socket.shutdown();
        if let Ok(thread) = receiving {
            let _ = thread.join();
        }
        let reason = lock(&broken).take().unwrap_or(reason);
        lock(&self.source).stream_down(stream, &reason, now());
        self.wake();
    }

    /// Sends until the stream breaks or the migration is over; returns why it ended.
    fn send(
        &self,
        stream: StreamId,
        socket: &mut FrameWriter,
        writer: &mut ChunkWriter,
        broken: &Mutex<Option<String>>,
    ) -> String {
        loop {
            let mut source = lock(&self.source);
            let work = source.next_work(stream, now());
            if let Work::Wait(until) = work {
                if lock(broken).is_some() {
                    return String::new();
                }
                drop(wait(&self.work, source, until.since(now()).max(Duration::from_micros(50))));
                continue;
            }
            let actions = source.has_actions();
            drop(source);
            if actions {
                self.news.notify_all();
            }
            let sent = match work {
                Work::Frame(frame) => socket.frame(&frame),
                Work::Chunk(plan) => match self.send_chunk(&plan, socket, writer) {
                    Some(sent) => sent,
                    None => continue,
                },
                Work::Wait(_) | Work::Close => return "closed".to_string(),
            };
            if let Err(error) = sent {
                return format!("sending: {error}");
            }
        }
    }

    /// None: the guest could not be read, and the migration has been told.
    fn send_chunk(
        &self,
        plan: &ChunkPlan,
        socket: &mut FrameWriter,
        writer: &mut ChunkWriter,
    ) -> Option<io::Result<()>> {
        let codec = self.codec.get().copied().unwrap_or(CodecChoice::None);
        let guest = self.guest_for("read_pages").ok()?;
        let (guest, layout) = (guest.as_ref(), &self.setup.layout);
        let pages = (plan.id, plan.runs.as_slice());
        let encoded = writer.encode(pages, guest, layout, codec, &self.digest, socket.sequence());
        let mut source = lock(&self.source);
        match encoded {
            Ok(chunk) => {
                let (zero, full) = (chunk.zero_pages, chunk.full_pages);
                source.chunk_encoded(plan.id, zero, full, chunk.wire_bytes(), now());
                let news = source.has_actions();
                drop(source);
                if news {
                    self.news.notify_all();
                }
                Some(socket.chunk(&chunk))
            }
            Err(error) => {
                let failure = Failure::new(crate::Status::Callback, error.to_string());
                source.chunk_failed(plan.id, failure, now());
                drop(source);
                self.wake();
                None
            }
        }
    }

    fn receive(&self, stream: StreamId, mut reader: FrameReader, broken: &Mutex<Option<String>>) {
        let page_bytes = self.setup.layout.page_bytes();
        let reason = loop {
            match reader.next(page_bytes) {
                Ok(Incoming::Frame(frame)) => {
                    let result = lock(&self.source).frame(stream, &frame, now());
                    self.wake();
                    if let Err(error) = result {
                        break error.to_string();
                    }
                }
                Ok(Incoming::Chunk(_)) => break "the destination sent a chunk".to_string(),
                Err(ConnectionError::Closed) => break "closed by the destination".to_string(),
                Err(error) => break format!("receiving: {error}"),
            }
        };
        *lock(broken) = Some(reason);
        reader.shutdown();
        self.wake();
    }
}

impl std::fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outgoing").field("id", &self.setup.id).finish_non_exhaustive()
    }
}

//! A guest of QEMU's that leaves: QEMU migrates into our socket, and its stream goes out in
//! segments.
//!
//! ```text
//! QEMU -> reader: parse, prepare (in order) -> packers (any order) -> stream slots -> peer
//! watch:  QMP                                                    driver: actions, ownership
//! ```

use crate::Status;
use crate::base::{MigrationId, StreamId, Time};
use crate::encoding::selector::LinkState;
use crate::encoding::stats::HdeStats;
use crate::migration::ownership::Mark;
use crate::migration::relay::segment_io::{Packer, Prepared, Preparer, limits_for};
use crate::migration::relay::source::{Action, RelaySource};
use crate::migration::relay::{RelaySetup, StreamSum};
use crate::migration::source::Work;
use crate::migration::{EncodingOptions, Ending, Failure, MigrationOptions};
use crate::migration::{Owner, Progress, Report};
use crate::observe::EventKind;
use crate::qemu::{PAGE_BYTES, Phase, Segment, StreamParser};
use crate::runtime::clock::now;
use crate::runtime::connection::{FrameWriter, READ_BUFFER_BYTES};
use crate::runtime::dial::Dialer;
use crate::runtime::footprint::Footprint;
use crate::runtime::handle::Handle;
use crate::runtime::held::{HeldWriter, Pages};
use crate::runtime::journal::Journal;
use crate::runtime::lock::lock;
use crate::runtime::outcome::Outcome;
use crate::runtime::qemu::codec_choice::CodecChooser;
use crate::runtime::qemu::guest::QemuGuest;
use crate::runtime::qemu::watch::{Seen, Task, Watch};
use crate::runtime::record_keeper::RecordKeeper;
use crate::runtime::stream_slots::{Carrier, StreamMachine, StreamSlots};
use crate::runtime::sys::readiness::wait_readable;
use crate::runtime::sys::thread::spawn_named;
use crate::transport::SessionError;
use crate::wire::hello::{Ended, Features};
use crate::wire::{Frame, FrameKind};
use std::io::{self, Read};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Bytes read from QEMU at once.
const READ_BYTES: usize = 256 * 1024;
/// A link that is faster than this carries pages sooner than they are looked up and kept.
const REMEMBER_BELOW_BYTES_PER_S: u64 = 300_000_000;
/// Threads that pack, at most.
const MAX_PACKERS: usize = 8;
/// How long the reader waits for more before it ships a segment that is not full.
const FILL_PATIENCE: Duration = Duration::from_millis(2);
/// How long QEMU may take to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// The least that QEMU takes as a limit of the downtime.
const LEAST_DOWNTIME: Duration = Duration::from_millis(1);
/// What QEMU and the destination's QEMU take around the stream's end.
const HANDOVER: Duration = Duration::from_millis(40);
/// Remembered pages that are looked at before the stream goes on: 16 MiB, which take few ms.
const VERIFIED_AT_ONCE: usize = 4096;
/// How often waits look whether it is over.
const TICK: Duration = Duration::from_millis(100);

/// A leaving guest, shared by its threads and its handles.
pub struct QemuOutgoing {
    setup: RelaySetup,
    options: MigrationOptions,
    guest: Arc<QemuGuest>,
    journal: Arc<Journal>,
    slots: Arc<StreamSlots<RelaySource>>,
    outcome: Outcome,
    /// There while QEMU is spoken to.
    watch: Mutex<Option<Arc<Watch>>>,
    /// The whole stream, once QEMU has closed its socket.
    stream: Mutex<Option<Result<StreamSum, String>>>,
    chooser: CodecChooser,
    /// While the stream flows.
    preparer: Mutex<Option<Preparer>>,
    /// Whether pages may travel as differences.
    delta: bool,
    /// What QEMU was told last of how long the guest may stand still.
    told_downtime: Mutex<Duration>,
    /// Segments that wait for a packer or are with one.
    waiting: AtomicUsize,
    /// Where the pages that leave are kept, and those that were remembered at the end.
    held: Mutex<Option<HeldWriter>>,
    last_pages: Mutex<Option<Pages>>,
}

impl QemuOutgoing {
    /// A migration that has not started.
    pub fn new(
        setup: RelaySetup,
        (options, encoding): (MigrationOptions, EncodingOptions),
        guest: Arc<QemuGuest>,
        (dialer, held): (Dialer, Option<HeldWriter>),
        journal: Arc<Journal>,
    ) -> Arc<Self> {
        let machine = RelaySource::new(setup.clone(), options.clone(), now());
        let slots = StreamSlots::new(machine, dialer, options.streams);
        let chooser = CodecChooser::new(options.codec, encoding.learning_rate);
        let told_downtime = Mutex::new(LEAST_DOWNTIME);
        Arc::new(Self {
            setup,
            options,
            guest,
            journal,
            slots,
            outcome: Outcome::default(),
            watch: Mutex::new(None),
            stream: Mutex::new(None),
            chooser,
            preparer: Mutex::new(None),
            delta: encoding.delta,
            told_downtime,
            waiting: AtomicUsize::new(0),
            held: Mutex::new(held),
            last_pages: Mutex::default(),
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

    fn drive(self: &Arc<Self>, mut keeper: RecordKeeper, on_end: Box<dyn FnOnce(&Report) + Send>) {
        let senders = self.slots.start(self);
        let (mut feeders, mut end) = (Vec::new(), None);
        loop {
            let mut machine = self.slots.machine();
            while let Some(event) = machine.next_event() {
                drop(machine);
                match event {
                    EventKind::MigrationEnded { .. } => end = Some(event),
                    _ => self.publish(event),
                }
                machine = self.slots.machine();
            }
            if let Some(action) = machine.next_action() {
                drop(machine);
                self.perform(action, &mut keeper);
                self.slots.wake_senders();
                continue;
            }
            if machine.is_over() {
                break;
            }
            if machine.should_start(now()) {
                drop(machine);
                match self.begin() {
                    Ok(threads) => feeders = threads,
                    Err(failure) => self.slots.machine().fail(failure, now()),
                }
                continue;
            }
            drop(machine);
            self.look_at_qemu();
            let machine = self.slots.machine();
            if !machine.has_actions() && !machine.is_over() {
                let mut machine = self.slots.wait_for_news(machine, TICK);
                machine.tick(now());
            }
        }
        feeders.into_iter().for_each(|thread| drop(thread.join()));
        self.slots.join(senders);
        // Lets go of QEMU's only QMP connection.
        drop(lock(&self.watch).take());
        let report = self.slots.machine().report();
        let (held, last) = (lock(&self.held).take(), lock(&self.last_pages).take());
        if let Some(report) = report {
            // Of a guest that stays nothing is held here.
            if let Some(held) = held.filter(|_| report.owner != Owner::Source) {
                held.finish(last);
            }
            keeper.close(report.owner);
            on_end(&report);
            self.outcome.publish(report);
        }
        end.into_iter().for_each(|event| self.publish(event));
    }

    /// Makes the socket, the threads behind it, and lets QEMU migrate into it.
    fn begin(self: &Arc<Self>) -> Result<Vec<JoinHandle<()>>, Failure> {
        let io =
            |what: &str, error: io::Error| Failure::new(Status::Io, format!("{what}: {error}"));
        let path = self.guest.socket_path(&self.setup.id.to_string());
        let listener = self
            .guest
            .listen(&path)
            .map_err(|error| io(&format!("socket {}", path.display()), error))?;
        let qmp = self.guest.connect();
        let qmp = qmp.map_err(|error| Failure::new(Status::Callback, error.to_string()));
        let qmp = qmp.inspect_err(|_| drop(std::fs::remove_file(&path)))?;
        let slots = self.slots.clone();
        let task = Task::Migrate {
            uri: format!("unix:{}", path.display()),
            max_downtime: LEAST_DOWNTIME,
            throttle: self.options.throttle,
        };
        let watch = Watch::start(qmp, task, Box::new(move || slots.wake_driver()))
            .map_err(|error| io("no thread for QMP", error))?;
        *lock(&self.watch) = Some(Arc::new(watch));
        let mut threads = Vec::new();
        let (prepared, packers) = self.start_packers(&mut threads);
        packers.map_err(|error| io("no thread for packing", error))?;
        let reader = self.clone();
        let thread = spawn_named("dwcp-qemu", move || reader.read_all(&listener, path, &prepared));
        threads.push(thread.map_err(|error| io("no thread for QEMU's stream", error))?);
        Ok(threads)
    }

    fn start_packers(
        self: &Arc<Self>,
        threads: &mut Vec<JoinHandle<()>>,
    ) -> (SyncSender<Prepared>, io::Result<()>) {
        let count = packer_count();
        let (sender, receiver) = sync_channel(count);
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..count {
            let (packer, receiver) = (self.clone(), receiver.clone());
            match spawn_named("dwcp-pack", move || packer.pack_all(&receiver)) {
                Ok(thread) => threads.push(thread),
                Err(error) => return (sender, Err(error)),
            }
        }
        (sender, Ok(()))
    }

    fn look_at_qemu(&self) {
        let Some(watch) = self.watch() else { return };
        let (seen, stream) = (watch.seen(), lock(&self.stream).clone());
        let mut machine = self.slots.machine();
        if machine.is_settled() {
            return;
        }
        if seen.stopped && seen.over.as_ref().is_none_or(Result::is_ok) {
            machine.guest_stopped(now());
        }
        let allowed = self.downtime_for_qemu(&machine);
        self.steer_downtime(&watch, &seen, allowed);
        match (seen.over, stream) {
            (Some(Err(text)), _) => machine.fail(Failure::new(Status::Callback, text), now()),
            (_, Some(Err(text))) => machine.fail(Failure::new(Status::Io, text), now()),
            (Some(Ok(())), Some(Ok(sum))) => machine.stream_ended(sum, now()),
            _ => {}
        }
    }

    /// QEMU stops the guest when it believes that it can write the rest in time; what is under way
    /// then, and the handover, come on top. So QEMU is told less than half of what the caller allows,
    /// for what it believes may be wrong by a factor of two; and in its first pass, when there is
    /// much under way, next to nothing.
    fn downtime_for_qemu(&self, machine: &RelaySource) -> Duration {
        let allowed = self.options.max_downtime;
        match machine.is_in_first_pass() {
            true => LEAST_DOWNTIME,
            false => (allowed / 2).saturating_sub(machine.latency() + HANDOVER).max(allowed / 8),
        }
    }

    fn steer_downtime(&self, watch: &Watch, seen: &Seen, wanted: Duration) {
        if seen.stopped || seen.over.is_some() || !seen.under_way {
            return;
        }
        let mut told = lock(&self.told_downtime);
        if told.abs_diff(wanted) > self.options.max_downtime / 8 {
            *told = wanted;
            watch.set_downtime(wanted);
        }
    }

    fn watch(&self) -> Option<Arc<Watch>> {
        lock(&self.watch).clone()
    }

    fn perform(&self, action: Action, keeper: &mut RecordKeeper) {
        match action {
            Action::Persist(mark) => {
                let result = self.persist(keeper, mark);
                self.slots.machine().persisted(mark, result, now());
            }
            Action::Finish(ending) => {
                let result = match (ending, self.watch()) {
                    (Ending::Keep, Some(watch)) => watch.undo(),
                    _ => Ok(()),
                };
                self.slots.machine().finished(result, now());
            }
        }
    }

    fn persist(&self, keeper: &mut RecordKeeper, mark: Mark) -> Result<(), String> {
        keeper.write(mark).map_err(|error| error.to_string())
    }

    fn publish(&self, event: EventKind) {
        self.journal.publish(Some(self.setup.id), Some(&self.setup.guest), event);
    }

    /// The reader's thread: QEMU's connection, from its first byte to its last.
    fn read_all(&self, listener: &UnixListener, path: PathBuf, out: &SyncSender<Prepared>) {
        let socket = self.accept(listener);
        // QEMU has what it needs, or never will.
        let _ = std::fs::remove_file(path);
        let result = match socket {
            Ok(Some(socket)) => self.read_stream(&socket, out),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        // Nothing more will be compared with what was sent.
        drop(lock(&self.preparer).take());
        if let Some(result) = result.map_err(|error| format!("QEMU's stream: {error}")).transpose()
        {
            *lock(&self.stream) = Some(result);
            self.slots.wake_driver();
        }
    }

    /// None: it was over before QEMU came.
    fn accept(&self, listener: &UnixListener) -> io::Result<Option<UnixStream>> {
        let until = now() + CONNECT_TIMEOUT;
        while self.slots.machine().wants_segments() {
            if wait_readable(listener, TICK) {
                return listener.accept().map(|(socket, _)| Some(socket));
            }
            if now() > until {
                let text = format!("QEMU did not connect within {CONNECT_TIMEOUT:?}");
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
        }
        Ok(None)
    }

    /// None: the rest is of no use any more.
    fn read_stream(
        &self,
        mut socket: &UnixStream,
        out: &SyncSender<Prepared>,
    ) -> io::Result<Option<StreamSum>> {
        let (pages, announced) = {
            let machine = self.slots.machine();
            (machine.baseline_pages(), machine.announced())
        };
        let mut intake = Intake {
            parser: StreamParser::new(),
            segment: Segment::default(),
            sum: StreamSum::default(),
        };
        let mut preparer = Preparer::new(limits_for(pages)).with_delta(self.delta);
        announced.into_iter().for_each(|pages| preparer.announce(pages));
        *lock(&self.preparer) = Some(preparer);
        let mut buffer = vec![0; READ_BYTES];
        loop {
            if !wait_readable(socket, FILL_PATIENCE) {
                // QEMU has nothing more just now: what there is goes out.
                if !self.ship(&mut intake, out) {
                    return Ok(None);
                }
                while !wait_readable(socket, TICK) {
                    if !self.slots.machine().wants_segments() {
                        return Ok(None);
                    }
                }
            }
            let length = socket.read(&mut buffer)?;
            if length == 0 {
                intake.parser.finish(&mut intake.segment);
                let shipped = self.ship(&mut intake, out);
                if let Some(preparer) = lock(&self.preparer).take() {
                    let pages: Pages = Box::new(move |take| preparer.pages().for_each(take));
                    *lock(&self.last_pages) = Some(pages);
                }
                return Ok(shipped.then_some(intake.sum));
            }
            let mut rest = &buffer[..length];
            while !rest.is_empty() {
                let taken = intake.parser.feed(rest, &mut intake.segment);
                rest = &rest[taken..];
                if !rest.is_empty() && !self.ship(&mut intake, out) {
                    return Ok(None);
                }
            }
        }
    }

    /// Sends a segment on its way, once there is room. False: nobody wants it.
    fn ship(&self, intake: &mut Intake, out: &SyncSender<Prepared>) -> bool {
        if intake.segment.is_empty() {
            return true;
        }
        let mut machine = self.slots.machine();
        machine.first_pass_left(intake.first_pass_left());
        while machine.wants_segments() && !machine.has_room(self.waiting.load(Ordering::Relaxed)) {
            machine = self.slots.wait_for_work(machine, TICK);
        }
        let wanted = machine.wants_segments();
        let rate = machine.bandwidth_bytes_per_s();
        drop(machine);
        if !wanted {
            return false;
        }
        let remember = rate.is_none_or(|rate| rate < REMEMBER_BELOW_BYTES_PER_S);
        // Let go before the queue is waited for: others ask what is held.
        let prepared = lock(&self.preparer)
            .as_mut()
            .map(|preparer| preparer.prepare(&intake.segment, remember));
        let Some(prepared) = prepared else { return false };
        intake.segment.clear();
        intake.sum.add(prepared.stream_bytes, prepared.checksum);
        self.waiting.fetch_add(1, Ordering::Relaxed);
        out.send(prepared).is_ok()
    }

    fn pack_all(&self, prepared: &Mutex<Receiver<Prepared>>) {
        let mut packer = Packer::default();
        let held = lock(&self.held).clone();
        loop {
            let next = lock(prepared).recv();
            let Ok(prepared) = next else { return };
            let (number, stream_bytes) = (prepared.number, prepared.stream_bytes);
            let (link, codecs) = self.link();
            let packed = self.chooser.pack(&mut packer, prepared, &link, codecs);
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            if let (Some(held), Ok(packed)) = (&held, &packed) {
                packed.fresh_block().into_iter().for_each(|block| held.add(block));
            }
            let mut machine = self.slots.machine();
            match packed {
                Ok(packed) => machine.push(number, stream_bytes, packed.payload, packed.counts),
                Err(error) => machine.fail(Failure::new(Status::Io, error.to_string()), now()),
            }
            drop(machine);
            self.slots.wake();
        }
    }

    /// How the link stands, and what the peer can undo.
    fn link(&self) -> (LinkState, u32) {
        let socket_bytes = self.slots.socket_bytes();
        let mut machine = self.slots.machine();
        let packers = packer_count();
        // One each is in a packer's hands, and that is no queue.
        let queued = self.waiting.load(Ordering::Relaxed).saturating_sub(packers);
        let state = LinkState {
            bandwidth_bytes_per_s: machine.link_bytes_per_s(),
            cores: packers as u32,
            encode_queue_fill: (queued as f32 / packers as f32).min(1.0),
            send_queue_fill: machine.link_fill(socket_bytes, now()),
        };
        (state, machine.codecs())
    }
}

/// Threads that pack.
fn packer_count() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).clamp(1, MAX_PACKERS)
}

/// What the reader keeps.
struct Intake {
    parser: StreamParser,
    segment: Segment,
    sum: StreamSum,
}

impl Intake {
    /// Pages of QEMU's first pass that are still to come; none where that cannot be told.
    fn first_pass_left(&self) -> Option<u64> {
        let info = self.parser.info();
        match info.phase {
            Phase::Opaque(_) | Phase::Tail => None,
            _ if info.ram_bytes == 0 => Some(u64::MAX),
            _ => {
                let seen = info.pages + info.zero_pages + info.encoded_pages;
                Some((info.ram_bytes / PAGE_BYTES as u64).saturating_sub(seen))
            }
        }
    }
}

impl Handle for QemuOutgoing {
    fn id(&self) -> MigrationId {
        self.setup.id
    }

    fn guest(&self) -> &str {
        &self.setup.guest
    }

    fn progress(&self) -> Progress {
        let figures = self.watch().and_then(|watch| watch.seen().figures?.ram);
        let mut progress = self.slots.machine().progress(now());
        if let Some(ram) = figures {
            progress.pass = u32::try_from(ram.dirty_sync_count).unwrap_or(u32::MAX);
            progress.remaining_pages = ram.remaining / PAGE_BYTES as u64;
            progress.dirty_rate_bytes_per_s = ram.dirty_pages_rate * PAGE_BYTES as u64;
        }
        progress
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

    fn encoding(&self) -> Option<HdeStats> {
        Some(self.chooser.stats())
    }

    fn footprint(&self) -> Footprint {
        let held = lock(&self.preparer).as_ref().map(|p| (p.held_pages(), p.memory_bytes()));
        let (baseline_pages, baseline_bytes) = held.unwrap_or_default();
        let machine = self.slots.machine();
        Footprint {
            baseline_pages,
            baseline_bytes,
            baseline_pages_limit: machine.baseline_pages().into(),
            under_way_bytes: machine.under_way_bytes(),
            stream_bytes: u64::from(machine.progress(now()).streams) * READ_BUFFER_BYTES as u64,
            ..Footprint::default()
        }
    }

    fn verify_baselines(&self) -> (u64, u64) {
        let (mut checked, mut differing) = (0, 0);
        for first in (0..).step_by(VERIFIED_AT_ONCE) {
            let slots = first..first + VERIFIED_AT_ONCE;
            let found = lock(&self.preparer).as_ref().and_then(|held| held.verify(slots));
            let Some(found) = found else { break };
            (checked, differing) = (checked + found.0, differing + found.1);
        }
        (checked, differing)
    }
}

impl StreamMachine for RelaySource {
    type Cargo = Arc<Vec<u8>>;

    fn wants_streams(&self) -> bool {
        RelaySource::wants_streams(self)
    }

    fn fail(&mut self, failure: Failure, now: Time) {
        RelaySource::fail(self, failure, now);
    }

    fn connect_failed(&mut self, reason: &str) {
        RelaySource::connect_failed(self, reason);
    }

    fn refused(&mut self, status: i32, reason: &str, ended: Ended, now: Time) {
        RelaySource::refused(self, status, reason, ended, now);
    }

    fn stream_up(&mut self, stream: StreamId, peer: &str, features: Features, now: Time) {
        self.agree(features);
        RelaySource::stream_up(self, stream, peer, now);
    }

    fn stream_down(&mut self, stream: StreamId, reason: &str, now: Time) {
        RelaySource::stream_down(self, stream, reason, now);
    }

    fn next_work(&mut self, stream: StreamId, now: Time) -> Work<Self::Cargo> {
        RelaySource::next_work(self, stream, now)
    }

    fn frame(&mut self, stream: StreamId, frame: &Frame, now: Time) -> Result<(), SessionError> {
        RelaySource::frame(self, stream, frame, now)
    }

    fn has_actions(&self) -> bool {
        RelaySource::has_actions(self)
    }
}

impl Carrier for QemuOutgoing {
    type Machine = RelaySource;
    type Scratch = ();

    fn carry(
        &self,
        payload: Arc<Vec<u8>>,
        socket: &mut FrameWriter,
        (): &mut (),
    ) -> Option<io::Result<()>> {
        Some(socket.payload(FrameKind::Segment, &payload))
    }
}

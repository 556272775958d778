//! A guest of QEMU's that leaves: QEMU migrates into our socket, and its stream goes out in
//! segments.
//!
//! ```text
//! QEMU -> reader of each channel: parse, prepare (in order) -> packers (any order) -> slots -> peer
//! watch:  QMP                                                    driver: actions, ownership
//! ```

use crate::Status;
use crate::base::{MigrationId, StreamId, Time};
use crate::encoding::selector::LinkState;
use crate::encoding::stats::HdeStats;
use crate::migration::ownership::Mark;
use crate::migration::relay::segment_io::{Packer, Prepared};
use crate::migration::relay::source::{Action, RelaySource};
use crate::migration::relay::{RelaySetup, StreamSum};
use crate::migration::source::{PostCopyError, Work};
use crate::migration::stats::Traffic;
use crate::migration::{EncodingOptions, Ending, Failure, MigrationOptions};
use crate::migration::{Owner, Progress, Report};
use crate::observe::EventKind;
use crate::qemu::{PAGE_BYTES, ReturnPath, SHUT, SHUT_IN_VAIN};
use crate::rollout::Flag;
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
use crate::runtime::qemu::intake::{Intake, Together};
use crate::runtime::qemu::refusal::{LastBytes, Unwanted};
use crate::runtime::qemu::watch::{Seen, Task, Watch};
use crate::runtime::record_keeper::RecordKeeper;
use crate::runtime::stream_slots::{Carrier, StreamMachine, StreamSlots};
use crate::runtime::sys::readiness::wait_readable;
use crate::runtime::sys::thread::spawn_named;
use crate::transport::SessionError;
use crate::wire::hello::{Ended, Features};
use crate::wire::segment::SegmentPayload;
use crate::wire::{Frame, FrameKind};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Bytes read from QEMU at once.
const READ_BYTES: usize = 128 * 1024;
/// A link that is faster than this carries pages sooner than they are looked up and kept.
const REMEMBER_BELOW_BYTES_PER_S: u64 = 300_000_000;
/// While connections are young, nobody knows what the link carries, and that it seems to run dry is
/// TCP's way to begin, not the packers' fault. So it counts as in the middle of what links are.
const YOUNG_LINK_BYTES_PER_S: u64 = 125_000_000;
/// They tell what a connection carries.
const FIRST_BYTES: usize = 4;
/// Threads that pack, at most.
const MAX_PACKERS: usize = 8;
/// How long the reader waits for more before it ships a segment that is not full.
const FILL_PATIENCE: Duration = Duration::from_millis(2);
/// How long QEMU may take to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long QEMU may take nothing of what the one at the destination answers.
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);
/// The least that QEMU takes as a limit of the downtime.
const LEAST_DOWNTIME: Duration = Duration::from_millis(1);
/// What QEMU and the destination's QEMU take around the stream's end.
const HANDOVER: Duration = Duration::from_millis(40);
/// Remembered pages that are looked at before the stream goes on: 16 MiB, which take few ms.
const VERIFIED_AT_ONCE: usize = 4096;
/// What is said where QEMU does not say why.
const PAUSED_AGAIN: &str = "QEMU at the source has stopped sending, and is paused in post-copy";
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
    /// QEMU's, open until QEMU knows what becomes of its migration.
    connections: Mutex<Vec<Arc<UnixStream>>>,
    chooser: CodecChooser,
    /// While the stream flows.
    together: Mutex<Option<Arc<Together>>>,
    /// As it was when the migration started.
    encoding: EncodingOptions,
    /// What QEMU was told last of how long the guest may stand still.
    told_downtime: Mutex<Duration>,
    /// Where the pages that leave are kept, and those that were remembered at the end.
    held: Mutex<Option<HeldWriter>>,
    last_pages: Mutex<Option<Pages>>,
    /// What QEMU at the destination answers.
    answers: Mutex<ReturnPath>,
    /// What QEMU wrote when nobody wanted it any more.
    unwanted: Unwanted,
    /// Segments of each channel that wait for a packer or are with one.
    waiting: Vec<AtomicUsize>,
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
        let machine = match setup.is_recovery() {
            true => RelaySource::recovering(setup.clone(), options.clone(), now()),
            false => RelaySource::new(setup.clone(), options.clone(), now()),
        };
        let gate = dialer.decider(Flag::MlCompression);
        let slots = StreamSlots::new(machine, dialer, options.streams);
        let chooser = CodecChooser::new(options.codec, encoding.learning_rate, gate);
        let told_downtime = Mutex::new(LEAST_DOWNTIME);
        let setup_channels = setup.channels;
        Arc::new(Self {
            setup,
            options,
            guest,
            journal,
            slots,
            outcome: Outcome::default(),
            watch: Mutex::new(None),
            stream: Mutex::new(None),
            connections: Mutex::default(),
            chooser,
            together: Mutex::new(None),
            encoding,
            told_downtime,
            held: Mutex::new(held),
            last_pages: Mutex::default(),
            answers: Mutex::default(),
            unwanted: Unwanted::default(),
            waiting: (0..=setup_channels).map(|_| AtomicUsize::new(0)).collect(),
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
        self.slots.start(self);
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
                    Err(failure) => self.cannot_begin(failure),
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
        self.hang_up();
        feeders.into_iter().for_each(|thread| drop(thread.join()));
        self.slots.join();
        // Lets go of QEMU's only QMP connection.
        drop(lock(&self.watch).take());
        let report = self.slots.machine().report();
        let (held, last) = (lock(&self.held).take(), lock(&self.last_pages).take());
        if let Some(report) = report {
            self.guest.look_what_is_left(report.owner);
            // This QEMU waits for no page: others may talk to it meanwhile.
            drop(lock(&self.guest.left()).take());
            // Of a guest that stays nothing is held here.
            if let Some(held) = held.filter(|_| report.owner != Owner::Source) {
                held.finish(last);
            }
            self.outcome.conclude(report, keeper, on_end);
        }
        end.into_iter().for_each(|event| self.publish(event));
    }

    fn cannot_begin(&self, failure: Failure) {
        let mut machine = self.slots.machine();
        machine.hypervisor_paused(&failure.reason);
        machine.fail(failure, now());
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
        let task = self.task(format!("unix:{}", path.display()));
        let left = self.guest.left();
        let watch = Watch::start_leaving(qmp, task, left, Box::new(move || slots.wake_driver()))
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

    fn task(&self, uri: String) -> Task {
        if self.setup.is_recovery() {
            self.guest.goes_on();
            return Task::Resume { uri };
        }
        Task::Migrate {
            uri,
            max_downtime: LEAST_DOWNTIME,
            throttle: self.options.throttle,
            multifd_channels: self.setup.channels,
            post_copy: self.setup.post_copy,
        }
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
        if let Some(ram) = seen.figures.as_ref().and_then(|figures| figures.ram.as_ref()) {
            machine.note_pass(ram.dirty_sync_count, ram.remaining);
        }
        if seen.is_active() && machine.should_switch() {
            drop(machine);
            if let Err(text) = watch.switch_to_post_copy() {
                let text = format!("QEMU does not switch to post-copy: {text}");
                self.slots.machine().fail(Failure::new(Status::Callback, text), now());
            }
            return;
        }
        match (seen.over, stream) {
            // QEMU at the destination has said that it has all, and this one has closed the stream upon that.
            (Some(Err(_)), Some(Ok(sum))) if seen.lost && lock(&self.answers).is_done() => {
                machine.stream_ended(sum, now());
            }
            // Its connection and its process are gone, and with them what it had not sent.
            (Some(Err(text)), Some(_)) if seen.lost && machine.has_switched() => {
                machine.hypervisor_gone(&format!("QEMU at the source has ended: {text}"));
            }
            (Some(Err(text)), _) => {
                if !seen.lost {
                    machine.hypervisor_paused(&text);
                }
                machine.fail(Failure::new(Status::Callback, text), now());
            }
            (None, Some(_)) if seen.paused => machine.hypervisor_paused(PAUSED_AGAIN),
            (_, Some(Err(text))) => {
                machine.hypervisor_paused(&text);
                machine.fail(Failure::new(Status::Io, text), now());
            }
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
            Action::Return(bytes) => self.answer_qemu(&bytes),
            Action::Finish(ending) => {
                let result = match (ending, self.watch()) {
                    (Ending::Keep, Some(watch)) => self.undo(&watch),
                    _ => Ok(()),
                };
                self.hang_up();
                self.slots.machine().finished(result, now());
            }
        }
    }

    /// Lets the guest go on here.
    fn undo(&self, watch: &Watch) -> Result<(), String> {
        match watch.has_switched() {
            true => self.refuse(watch),
            false => watch.cancel(),
        }
        self.hang_up();
        watch.undo()
    }

    /// Lets QEMU end a migration that it has switched and that nobody took; see [`Unwanted`].
    fn refuse(&self, watch: &Watch) {
        let main = lock(&self.connections).first().cloned();
        let Some(main) = main.filter(|_| self.unwanted.wait_until_whole()) else { return };
        if (&*main).write_all(&SHUT_IN_VAIN).is_ok() {
            watch.wait_until_over();
        }
    }

    /// Gives QEMU what the one at the destination says. Whether it still reads its connection is seen by
    /// what it writes.
    fn answer_qemu(&self, bytes: &[u8]) {
        let main = lock(&self.connections).first().cloned();
        if let Some(main) = main {
            let mut requests = 0;
            lock(&self.answers).take(bytes, |asked| requests += asked.pages);
            self.slots.machine().note_requests(requests);
            if (&*main).write_all(bytes).is_err() {
                // One that takes nothing, or half of a message, is to pause.
                let _ = main.shutdown(Shutdown::Both);
            }
        }
    }

    /// Ends QEMU's connections.
    fn hang_up(&self) {
        for socket in lock(&self.connections).drain(..) {
            // One that QEMU has closed is closed.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    fn persist(&self, keeper: &mut RecordKeeper, mark: Mark) -> Result<(), String> {
        keeper.write(mark).map_err(|error| error.to_string())
    }

    /// The readers' first thread: QEMU's connections, from their first bytes to their last.
    fn read_all(
        self: &Arc<Self>,
        listener: &UnixListener,
        path: PathBuf,
        out: &SyncSender<Prepared>,
    ) {
        let accepted = self.accept(listener);
        // QEMU has what it needs, or never will.
        let _ = std::fs::remove_file(path);
        match accepted {
            Ok(Some(sockets)) => {
                if self.setup.is_recovery() {
                    self.slots.machine().resumed(self.missing_pages());
                }
                self.read_channels(sockets, out);
            }
            Ok(None) => {}
            Err(error) => self.stream_is(Err(format!("QEMU's stream: {error}"))),
        }
    }

    /// What was read of the stream is known; only the first word counts.
    fn stream_is(&self, result: Result<StreamSum, String>) {
        lock(&self.stream).get_or_insert(result);
        self.slots.wake_driver();
    }

    /// The main stream's connection and the channels', in whatever order they come. None: it was over
    /// before they were there.
    fn accept(&self, listener: &UnixListener) -> io::Result<Option<Vec<UnixStream>>> {
        let wanted = usize::from(self.setup.channels) + 1;
        let (until, mut sockets) = (now() + CONNECT_TIMEOUT, Vec::new());
        while self.slots.machine().wants_segments() {
            if wait_readable(listener, TICK) {
                let socket = listener.accept()?.0;
                socket.set_write_timeout(Some(ANSWER_PATIENCE))?;
                sockets.push(socket);
            }
            if sockets.len() == wanted {
                return Ok(Some(sockets));
            }
            if now() > until {
                let text = format!(
                    "QEMU made {} of {wanted} connections within {CONNECT_TIMEOUT:?}",
                    sockets.len()
                );
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
        }
        Ok(None)
    }

    /// Each connection has a thread, because QEMU may need one to be read when another waits.
    fn read_channels(self: &Arc<Self>, sockets: Vec<UnixStream>, out: &SyncSender<Prepared>) {
        let mut sockets: Vec<_> = sockets.into_iter().map(Arc::new).collect();
        *lock(&self.connections) = sockets.clone();
        if self.slots.machine().is_over() {
            // Who hangs up at the end has not seen them.
            self.hang_up();
        }
        let (pages, announced) = {
            let machine = self.slots.machine();
            (machine.baseline_pages(), machine.announced())
        };
        let together = Together::new(self.setup.channels, pages, &self.encoding, announced);
        let together = Arc::new(match self.setup.is_recovery() {
            true => together.after_switch(),
            false => together,
        });
        *lock(&self.together) = Some(together.clone());
        let last = sockets.pop();
        let spawned: Vec<_> = sockets
            .into_iter()
            .map(|socket| {
                let (reader, together, out) = (self.clone(), together.clone(), out.clone());
                spawn_named("dwcp-qemu", move || reader.read_channel(&socket, &together, &out))
            })
            .collect();
        let mut all = last.is_none_or(|socket: Arc<_>| self.read_channel(&socket, &together, out));
        for thread in spawned {
            match thread {
                Ok(thread) => all &= thread.join().unwrap_or(false),
                Err(error) => {
                    self.stream_is(Err(format!("no thread for a channel of QEMU's: {error}")));
                    all = false;
                }
            }
        }
        // Nothing more will be compared with what was sent.
        drop(lock(&self.together).take());
        let preparer = together.take_preparer();
        *lock(&self.last_pages) = Some(Box::new(move |take| preparer.pages().for_each(take)));
        if all {
            self.stream_is(Ok(together.sum()));
        }
    }

    /// Whether the whole channel was read and is on its way.
    fn read_channel(
        &self,
        socket: &UnixStream,
        together: &Together,
        out: &SyncSender<Prepared>,
    ) -> bool {
        let mut last = LastBytes::default();
        let read = self.read_stream(socket, together, out, &mut last).unwrap_or_else(|error| {
            self.stream_is(Err(format!("QEMU's stream: {error}")));
            false
        });
        // A QEMU that has switched must be read until it is told what becomes of its migration.
        if !read && self.setup.post_copy {
            self.unwanted.read(socket, last);
        }
        read
    }

    /// False: the rest is of no use any more.
    fn read_stream(
        &self,
        mut socket: &UnixStream,
        together: &Together,
        out: &SyncSender<Prepared>,
        last: &mut LastBytes,
    ) -> io::Result<bool> {
        let mut buffer = vec![0; READ_BYTES];
        let mut length = 0;
        while length < FIRST_BYTES {
            if !self.wait_for_qemu(socket) {
                return Ok(false);
            }
            match socket.read(&mut buffer[length..])? {
                0 => break,
                more => length += more,
            }
        }
        let first = buffer.first_chunk().copied().unwrap_or_default();
        let mut intake = together.take_on(first).map_err(io::Error::other)?;
        let mut is_told = false;
        while length > 0 {
            last.feed(&buffer[..length]);
            let mut rest = &buffer[..length];
            while !rest.is_empty() {
                let taken = intake.feed(rest);
                rest = &rest[taken..];
                let is_due = !rest.is_empty() || intake.is_at_package();
                if is_due && !self.ship(&mut intake, together, out) {
                    return Ok(false);
                }
            }
            if self.setup.post_copy {
                self.look_for_switch(&intake, socket, &mut is_told)?;
            }
            // Who asks for a page waits for it alone, and behind little.
            let short =
                intake.has_switched().then(|| self.slots.machine().segment_bytes()).flatten();
            let most = short.map_or(READ_BYTES, |bytes| READ_BYTES.min(bytes));
            let is_full = short.is_some_and(|bytes| intake.segment.stream_bytes() >= bytes);
            let patience = if short.is_some() { Duration::ZERO } else { FILL_PATIENCE };
            if is_full || !wait_readable(socket, patience) {
                // It is enough, or QEMU has nothing more just now: what there is goes out.
                if !self.ship(&mut intake, together, out) || !self.wait_for_qemu(socket) {
                    return Ok(false);
                }
            }
            length = socket.read(&mut buffer[..most])?;
        }
        intake.finish();
        Ok(self.ship(&mut intake, together, out))
    }

    /// A QEMU that might have switched waits, when it has written all, for a word of the destination's that
    /// this was loaded. The destination cannot load it yet: the end is kept back there until the guest
    /// is its. So QEMU hears here that all is well, just as it counts itself done where it takes no
    /// answers; whether all is well the records decide.
    fn look_for_switch(
        &self,
        intake: &Intake,
        mut socket: &UnixStream,
        is_told: &mut bool,
    ) -> io::Result<()> {
        if let Some(reason) = intake.not_understood().filter(|_| !intake.has_switched()) {
            let text = format!("post-copy is wanted, but the stream is not understood: {reason}");
            return Err(io::Error::other(text));
        }
        if intake.has_ended_unswitched() && !std::mem::replace(is_told, true) {
            socket.write_all(&SHUT)?;
        }
        Ok(())
    }

    /// Waits for something to read. False: nobody wants it.
    fn wait_for_qemu(&self, socket: &UnixStream) -> bool {
        while !wait_readable(socket, TICK) {
            if !self.slots.machine().wants_segments() {
                return false;
            }
        }
        true
    }

    /// Sends a segment on its way, once there is room. False: nobody wants it.
    fn ship(&self, intake: &mut Intake, together: &Together, out: &SyncSender<Prepared>) -> bool {
        if intake.segment.is_empty() {
            return true;
        }
        let channel = intake.channel();
        let Some(waiting) = self.waiting.get(usize::from(channel)) else { return false };
        let first_pass_left = intake.first_pass_left(together);
        let mut machine = self.slots.machine();
        machine.first_pass_left(first_pass_left);
        while machine.wants_segments()
            && !machine.has_room(channel, waiting.load(Ordering::Relaxed))
        {
            machine = self.slots.wait_for_work(machine, TICK);
        }
        let wanted = machine.wants_segments();
        let rate = machine.bandwidth_bytes_per_s();
        let in_tail = !machine.is_in_first_pass();
        let spare = machine.spare().take();
        drop(machine);
        if !wanted {
            return false;
        }
        let slow = rate.is_none_or(|rate| rate < REMEMBER_BELOW_BYTES_PER_S);
        // After a switch pages pass as they are: nobody is to wait for what they refer to.
        let (had_switched, remember) = (intake.has_switched(), slow && !intake.has_switched());
        let prepared = intake.prepare(together, (remember, in_tail), spare);
        waiting.fetch_add(1, Ordering::Relaxed);
        let sent = out.send(prepared).is_ok();
        if intake.has_switched() && !had_switched {
            self.switched(together.sum());
        }
        sent
    }

    /// All that goes before the guest may run at the destination was read.
    fn switched(&self, sum: StreamSum) {
        self.slots.machine().stream_switched(sum, self.missing_pages(), now());
        self.slots.wake_driver();
    }

    /// What QEMU had still to send when it was last asked.
    fn missing_pages(&self) -> u64 {
        let figures = self.watch().and_then(|watch| watch.seen().figures?.ram);
        figures.map_or(0, |ram| ram.remaining / PAGE_BYTES as u64)
    }

    fn pack_all(&self, prepared: &Mutex<Receiver<Prepared>>) {
        let mut packer = Packer::default();
        let held = lock(&self.held).clone();
        loop {
            let next = lock(prepared).recv();
            let Ok(prepared) = next else { return };
            let (channel, stream_bytes) = (prepared.place.channel, prepared.stream_bytes);
            let place = (channel, prepared.number);
            let (link, codecs) = self.link();
            let packed = self.chooser.pack(&mut packer, prepared, &link, codecs);
            self.waiting[usize::from(channel)].fetch_sub(1, Ordering::Relaxed);
            if let (Some(held), Ok(packed)) = (&held, &packed) {
                packed.fresh_block().into_iter().for_each(|block| held.add(block));
            }
            let mut machine = self.slots.machine();
            match packed {
                Ok(packed) => {
                    let (payload, counts, buffer) = packed.into_parts();
                    machine.push(place, stream_bytes, payload, counts);
                    machine.spare().put(buffer);
                }
                Err(error) => {
                    machine.hypervisor_paused(&error.to_string());
                    machine.fail(Failure::new(Status::Io, error.to_string()), now());
                }
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
        let waiting: usize = self.waiting.iter().map(|one| one.load(Ordering::Relaxed)).sum();
        let queued = waiting.saturating_sub(packers);
        let state = LinkState {
            bandwidth_bytes_per_s: machine.link_bytes_per_s().or(Some(YOUNG_LINK_BYTES_PER_S)),
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

    fn start_post_copy(&self) -> Result<(), PostCopyError> {
        let started = self.slots.machine().start_post_copy();
        self.slots.wake();
        started
    }

    fn abandon_post_copy(&self) -> Result<(), PostCopyError> {
        let abandoned = self.slots.machine().abandon_post_copy();
        self.slots.wake();
        abandoned
    }

    fn set_bandwidth_limit(&self, rate_bytes_per_s: Option<u64>) {
        self.slots.machine().set_bandwidth_limit(rate_bytes_per_s, now());
        self.slots.wake();
    }

    fn encoding(&self) -> Option<HdeStats> {
        Some(self.chooser.stats())
    }

    fn footprint(&self) -> Footprint {
        let held = lock(&self.together).as_ref().map(|together| together.held());
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
            let together = lock(&self.together).clone();
            let found = together.and_then(|together| together.verify(slots));
            let Some(found) = found else { break };
            (checked, differing) = (checked + found.0, differing + found.1);
        }
        (checked, differing)
    }
}

impl StreamMachine for RelaySource {
    type Cargo = Arc<SegmentPayload>;

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
        self.agree(features, now);
        RelaySource::stream_up(self, stream, peer, now);
    }

    fn stream_down(&mut self, stream: StreamId, reason: &str, now: Time) {
        RelaySource::stream_down(self, stream, reason, now);
    }

    fn set_retiring(&mut self, stream: StreamId, retiring: bool) {
        RelaySource::set_retiring(self, stream, retiring);
    }

    fn traffic(&mut self, now: Time) -> Traffic {
        RelaySource::traffic(self, now)
    }

    fn set_share(&mut self, rate_bytes_per_s: Option<u64>, now: Time) {
        RelaySource::set_share(self, rate_bytes_per_s, now);
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

    fn has_control(&self) -> bool {
        RelaySource::has_control(self)
    }
}

impl Carrier for QemuOutgoing {
    type Machine = RelaySource;
    type Scratch = ();

    fn slots(&self) -> &Arc<StreamSlots<RelaySource>> {
        &self.slots
    }

    fn publish(&self, event: EventKind) {
        self.journal.publish(Some(self.setup.id), Some(&self.setup.guest), event);
    }

    fn carry(
        &self,
        payload: Arc<SegmentPayload>,
        socket: &mut FrameWriter,
        (): &mut (),
    ) -> Option<io::Result<()>> {
        Some(socket.payload(FrameKind::Segment, &payload.pieces()))
    }
}

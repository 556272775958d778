//! A guest of QEMU's that arrives: segments come in, are put together in order, and go into a QEMU
//! that waits for them.
//!
//! ```text
//! connections: frames -> machine, acknowledgements back   (one thread each)
//! replay:      segment in order -> unpack -> QEMU         (one thread, and one for each channel)
//! watch:       QMP                                        driver: actions, ownership
//! ```
//! The replay keeps back what could be the stream's end, without which no guest runs. QEMU gets it
//! when the whole stream is proved and the guest is ours.

use crate::Status;
use crate::base::{MigrationId, StreamId};
use crate::migration::ownership::Mark;
use crate::migration::relay::destination::{Action, Patience, RelayDestination, Released};
use crate::migration::relay::segment_io::{UnpackError, Unpacker, limits_for};
use crate::migration::relay::{RelaySetup, UNKNOWN};
use crate::migration::source::PostCopyError;
use crate::migration::{Ending, Failure, Owner, Progress, Report};
use crate::observe::EventKind;
use crate::qemu::Segment;
use crate::runtime::clock::now;
use crate::runtime::connection::READ_BUFFER_BYTES;
use crate::runtime::connection::{ConnectionError, FrameReader, FrameWriter, Incoming};
use crate::runtime::footprint::Footprint;
use crate::runtime::handle::{Arrival, Handle};
use crate::runtime::held::{HeldSet, HeldStore, HeldWriter};
use crate::runtime::journal::Journal;
use crate::runtime::listener::{JoinKey, Refusal, check_join, no_room};
use crate::runtime::lock::{lock, wait};
use crate::runtime::outcome::Outcome;
use crate::runtime::qemu::door::QemuDoor;
use crate::runtime::qemu::guest::QemuGuest;
use crate::runtime::qemu::replay::replay;
use crate::runtime::qemu::returns::Returns;
use crate::runtime::record_keeper::RecordKeeper;
use crate::runtime::sys::thread::spawn_named;
use crate::transport::SessionError;
use crate::wire::Hello;
use crate::wire::hello::{Features, Purpose};
use crate::wire::segment::{SegmentHeader, SegmentPayload};
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Acknowledgements are sent at the latest when so many wait.
const ACK_BATCH: usize = 4;
/// How often the driver looks at the clock.
const TICK: Duration = Duration::from_millis(200);
/// How long the last words may take.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Size of a page's length on any stream; only chunks of other migrations use it.
const PAGE_BYTES: u32 = crate::qemu::PAGE_BYTES as u32;

/// An arriving guest, shared by its threads and its handles.
pub struct QemuIncoming {
    setup: RelaySetup,
    join_key: JoinKey,
    /// What this side can do, and how many pages both remember.
    features: Features,
    /// While the stream flows.
    unpacker: Mutex<Option<Unpacker>>,
    store: Arc<HeldStore>,
    /// What was announced, and where the pages that come are kept, until the replay takes both.
    held: Mutex<(Option<HeldSet>, Option<HeldWriter>)>,
    guest: Arc<QemuGuest>,
    journal: Arc<Journal>,
    machine: Mutex<RelayDestination>,
    /// For the driver and the replay.
    news: Condvar,
    outcome: Outcome,
    writers: Mutex<HashMap<StreamId, Arc<Mutex<FrameWriter>>>>,
    closers: Mutex<HashMap<StreamId, Box<dyn Fn() + Send>>>,
    /// The way into QEMU, while it is needed.
    door: Mutex<Option<Arc<QemuDoor>>>,
    /// What the replay keeps back, and the driver releases when the guest is ours.
    end: Mutex<Vec<u8>>,
    /// What QEMU answers, where it may switch to post-copy.
    returns: Returns,
    /// Threads that end when QEMU's connection does.
    followers: Mutex<Vec<JoinHandle<()>>>,
}

impl QemuIncoming {
    /// A migration that has not started.
    pub fn new(
        setup: RelaySetup,
        (join_key, features): (JoinKey, Features),
        (guest, patience): (Arc<QemuGuest>, Patience),
        store: Arc<HeldStore>,
        journal: Arc<Journal>,
    ) -> Arc<Self> {
        let is_recovery = setup.is_recovery();
        let mut machine = match is_recovery {
            true => RelayDestination::recovering(setup.clone(), patience, now()),
            false => RelayDestination::new(setup.clone(), patience, now()),
        };
        let (name, ram_bytes) = (&setup.guest, setup.facts.ram_bytes);
        let announced = features.held_pages.then(|| store.announce(name, ram_bytes));
        if let Some(pages) = &announced {
            machine.announce(store.key(), &pages.hashes());
        }
        // Of what a recovery carries no page is seen.
        let writer = (!is_recovery).then(|| store.begin(name, ram_bytes)).flatten();
        let held = Mutex::new((announced, writer));
        Arc::new(Self {
            setup,
            join_key,
            features,
            unpacker: Mutex::new(None),
            store,
            held,
            guest,
            journal,
            machine: Mutex::new(machine),
            news: Condvar::new(),
            outcome: Outcome::default(),
            writers: Mutex::default(),
            closers: Mutex::default(),
            door: Mutex::new(None),
            end: Mutex::default(),
            returns: Returns::default(),
            followers: Mutex::default(),
        })
    }

    /// Starts the driver and the replay. `on_end` runs when all is over.
    ///
    /// # Errors
    /// A thread cannot be made.
    pub fn start(
        self: &Arc<Self>,
        keeper: RecordKeeper,
        on_end: Box<dyn FnOnce(&Report) + Send>,
    ) -> io::Result<JoinHandle<()>> {
        let (driver, replayer) = (self.clone(), self.clone());
        let replay = spawn_named("dwcp-replay", move || replayer.replay_all())?;
        spawn_named("dwcp-drive", move || driver.drive(keeper, on_end, replay))
    }

    fn drive(
        self: &Arc<Self>,
        mut keeper: RecordKeeper,
        on_end: Box<dyn FnOnce(&Report) + Send>,
        replay: JoinHandle<()>,
    ) {
        let mut end = None;
        loop {
            self.flush_any();
            let mut machine = lock(&self.machine);
            while let Some(event) = machine.next_event() {
                drop(machine);
                match event {
                    EventKind::MigrationEnded { .. } => end = Some(event),
                    _ => self.publish(event),
                }
                machine = lock(&self.machine);
            }
            if let Some(action) = machine.next_action() {
                drop(machine);
                self.perform(action, &mut keeper);
                continue;
            }
            if machine.is_over() {
                break;
            }
            drop(machine);
            self.look_at_qemu();
            let machine = lock(&self.machine);
            if !machine.has_actions() && !machine.has_control() {
                let mut machine = wait(&self.news, machine, TICK);
                machine.tick(now());
            }
        }
        self.finish(keeper, on_end, end, replay);
    }

    fn finish(
        &self,
        keeper: RecordKeeper,
        on_end: Box<dyn FnOnce(&Report) + Send>,
        end: Option<EventKind>,
        replay: JoinHandle<()>,
    ) {
        let deadline = Instant::now() + LAST_WORDS;
        while Instant::now() < deadline && !lock(&self.machine).all_said() {
            self.flush_any();
            std::thread::sleep(Duration::from_millis(1));
        }
        self.news.notify_all();
        let _ = replay.join();
        lock(&self.closers).values().for_each(|close| close());
        if self.setup.post_copy {
            self.door().inspect(|door| door.close());
        }
        lock(&self.followers).drain(..).for_each(|thread| drop(thread.join()));
        // Lets go of QEMU's only QMP connection, or leaves it to whoever goes on.
        drop(lock(&self.door).take());
        let report = lock(&self.machine).report();
        if let Some(report) = report {
            self.guest.look_what_is_left(report.owner);
            self.outcome.conclude(report, keeper, on_end);
        }
        end.into_iter().for_each(|event| self.publish(event));
    }

    /// QEMU may give up on its own.
    fn look_at_qemu(&self) {
        let Some(door) = self.door() else { return };
        let seen = door.watch.seen();
        let mut machine = lock(&self.machine);
        if seen.restored && machine.is_switching() {
            machine.devices_restored(now());
        } else if let Some(Err(text)) = seen.over
            && !machine.is_switching()
        {
            machine.fail(Failure::new(Status::Callback, text));
        }
    }

    fn perform(self: &Arc<Self>, action: Action, keeper: &mut RecordKeeper) {
        match action {
            Action::Persist(mark) => {
                let result = self.persist(keeper, mark);
                lock(&self.machine).persisted(mark, result);
            }
            Action::Recover => self.recover(),
            Action::ReleaseEnd if lock(&self.machine).is_switching() => self.hand_over(),
            Action::ReleaseEnd => {
                let end = std::mem::take(&mut *lock(&self.end));
                let released = match self.door() {
                    Some(door) => door.release(&end),
                    None => Released::NeverRan("the stream ended before it began".into()),
                };
                lock(&self.machine).released(released, now());
            }
            Action::Finish(ending) => {
                if let (Ending::Discard, Some(door)) = (ending, self.door()) {
                    // QEMU cannot run what it has not got the end of.
                    door.close();
                }
                if let (Ending::Lost, Some(door)) = (ending, self.door()) {
                    door.watch.give_up();
                    door.close();
                }
                lock(&self.machine).finished(Ok(()), now());
            }
        }
    }

    /// Gives QEMU what makes it run the guest without all of its memory, and sees what becomes of that.
    fn hand_over(self: &Arc<Self>) {
        let package = std::mem::take(&mut *lock(&self.end));
        let door = self.door().ok_or_else(|| "the stream switched before it began".to_string());
        let handed = door.and_then(|door| door.hand_over(&package).map(|()| door));
        lock(&self.machine).handed_over(handed.map(|door| self.follow(door)), now());
        self.news.notify_all();
    }

    /// Has a QEMU that is paused in post-copy go on, and sees what becomes of that.
    fn recover(self: &Arc<Self>) {
        let door = self.open_door().map_err(|failure| failure.reason);
        let door = door.inspect(|_| self.guest.goes_on());
        // Locked, so that nobody tells what became of it before it is known that it goes on.
        lock(&self.machine).recovered(door.map(|door| self.follow(door)));
        self.news.notify_all();
    }

    /// Sees what becomes of a guest that QEMU runs before it has all of it.
    fn follow(self: &Arc<Self>, door: Arc<QemuDoor>) {
        let settler = self.clone();
        let thread = spawn_named("dwcp-settle", move || {
            let released = door.settle();
            lock(&settler.machine).released(released, now());
            settler.news.notify_all();
        });
        match thread {
            Ok(thread) => lock(&self.followers).push(thread),
            Err(error) => self.tell(format!("nobody sees what becomes of the guest: {error}")),
        }
    }

    fn tell(&self, text: String) {
        self.publish(EventKind::Notice { text });
    }

    fn persist(&self, keeper: &mut RecordKeeper, mark: Mark) -> Result<(), String> {
        keeper.write(mark).map_err(|error| error.to_string())
    }

    fn publish(&self, event: EventKind) {
        self.journal.publish(Some(self.setup.id), Some(&self.setup.guest), event);
    }

    /// The replay's thread.
    fn replay_all(self: &Arc<Self>) {
        let (announced, keeper) = std::mem::take(&mut *lock(&self.held));
        let mut unpacker = Unpacker::new(limits_for(self.features.baseline_pages));
        announced.into_iter().for_each(|pages| unpacker.announce(Box::new(pages)));
        *lock(&self.unpacker) = Some(unpacker);
        replay(self, keeper.as_ref());
        // Nothing more will refer to what came; also of a migration that failed it is held, so that
        // the next attempt need not bring it again.
        if let (Some(unpacker), Some(keeper)) = (lock(&self.unpacker).take(), keeper) {
            keeper.finish(Some(Box::new(move |take| unpacker.pages().for_each(take))));
        }
    }

    /// The next segment for the replay; none: there will be none.
    pub(super) fn next_segment(&self) -> Option<SegmentPayload> {
        let mut machine = lock(&self.machine);
        while machine.wants_segments() {
            match machine.next_segment() {
                Some(payload) => return Some(payload),
                None => machine = wait(&self.news, machine, TICK),
            }
        }
        None
    }

    /// A segment is with QEMU, and its pages need no buffer any more.
    pub(super) fn replayed(&self, number: u64, buffer: Vec<u8>) {
        let mut machine = lock(&self.machine);
        machine.replayed(number, now());
        machine.spare().put(buffer);
        drop(machine);
        self.news.notify_all();
        self.flush_acks();
    }

    /// The replay cannot go on.
    pub(super) fn fail(&self, failure: Failure) {
        lock(&self.machine).fail(failure);
        self.news.notify_all();
    }

    /// For the replay.
    pub(super) fn machine(&self) -> &Mutex<RelayDestination> {
        &self.machine
    }

    /// Whether QEMU may switch to post-copy.
    pub(super) fn may_switch(&self) -> bool {
        self.setup.post_copy
    }

    /// Whether QEMU runs the guest already.
    pub(super) fn begins_switched(&self) -> bool {
        self.setup.is_recovery()
    }

    /// What QEMU answers.
    pub(super) fn returns(&self) -> &Returns {
        &self.returns
    }

    /// What the replay keeps back.
    pub(super) fn end(&self) -> &Mutex<Vec<u8>> {
        &self.end
    }

    /// Both steps of a segment's way back; its pages are kept by `keeper`.
    pub(super) fn unpack(
        &self,
        mut payload: SegmentPayload,
        keeper: Option<&HeldWriter>,
    ) -> Result<(SegmentHeader, Segment), Failure> {
        let corrupt = |error: String| Failure::new(Status::Corrupt, error);
        let mut unpacker = lock(&self.unpacker);
        let unpacker = unpacker.as_mut().ok_or_else(|| corrupt("the stream has ended".into()))?;
        let spare = lock(&self.machine).spare().take();
        let (header, segment) = unpacker.unpack(&mut payload, spare).map_err(|error| {
            if let UnpackError::Checksum { .. } = error {
                self.store.distrust(&self.setup.guest);
            }
            corrupt(error.to_string())
        })?;
        if let Some(keeper) = keeper {
            let block = unpacker.fresh_block(&header, &payload, &segment);
            block.into_iter().for_each(|block| keeper.add(block));
        }
        lock(&self.machine).spare().put(payload.fresh);
        Ok((header, segment))
    }

    fn door(&self) -> Option<Arc<QemuDoor>> {
        lock(&self.door).clone()
    }

    /// The way into QEMU; the first call makes QEMU listen.
    pub(super) fn open_door(self: &Arc<Self>) -> Result<Arc<QemuDoor>, Failure> {
        if let Some(door) = self.door() {
            return Ok(door);
        }
        let (this, setup) = (Arc::downgrade(self), &self.setup);
        let on_news = Box::new(move || drop(this.upgrade().inspect(|this| this.news.notify_all())));
        let door = Arc::new(QemuDoor::open(&self.guest, setup, on_news)?);
        *lock(&self.door) = Some(door.clone());
        if setup.post_copy {
            let (this, main) = (self.clone(), door.main.clone());
            let thread = spawn_named("dwcp-return", move || this.returns.carry_all(&this, &main));
            let failed =
                |error| Failure::new(Status::Io, format!("no thread for QEMU's answers: {error}"));
            lock(&self.followers).push(thread.map_err(failed)?);
        }
        if !lock(&self.machine).wants_segments() {
            // The driver may have looked for the door before it was there.
            door.close();
        }
        Ok(door)
    }

    fn receive(&self, stream: StreamId, reader: &mut FrameReader) -> String {
        loop {
            if !reader.has_buffer() {
                reader.offer_buffer(lock(&self.machine).spare().take());
            }
            let result = match reader.next(PAGE_BYTES) {
                Ok(Incoming::Segment(payload)) => {
                    self.take(|machine| machine.segment(stream, payload, now()))
                }
                Ok(Incoming::Frame(frame)) => {
                    self.take(|machine| machine.frame(stream, frame, now()))
                }
                Ok(Incoming::Chunk(_)) => Err("a chunk on a relayed migration".into()),
                Err(ConnectionError::Closed) => Err("closed by the source".into()),
                Err(error) => Err(format!("receiving: {error}")),
            };
            if let Err(reason) = result {
                return reason;
            }
        }
    }

    /// Gives the machine what came.
    fn take(
        &self,
        by: impl FnOnce(&mut RelayDestination) -> Result<(), SessionError>,
    ) -> Result<(), String> {
        let result = by(&mut lock(&self.machine));
        self.news.notify_all();
        // A segment that was replayed long ago is acknowledged at once, and the source may send
        // nothing more before it hears that.
        self.flush_acks();
        result.map_err(|error| error.to_string())
    }

    /// Sends what is due on this stream.
    fn flush(&self, stream: StreamId, writer: &Mutex<FrameWriter>) -> io::Result<()> {
        let mut writer = lock(writer);
        loop {
            let frame = lock(&self.machine).next_frame(stream, now());
            match frame {
                Some(frame) => writer.frame(&frame)?,
                None => return Ok(()),
            }
        }
    }

    /// Sends acknowledgements where enough of them wait, or nothing more is there to be replayed.
    pub(super) fn flush_acks(&self) {
        self.flush_where(|machine, stream| {
            let waiting = machine.waiting_acks(stream);
            waiting >= ACK_BATCH || waiting > 0 && !machine.has_segment()
        });
    }

    /// Waits until an answer of QEMU's may be queued. False: nobody wants it.
    pub(super) fn wait_to_send_back(&self) -> bool {
        let mut machine = lock(&self.machine);
        while !machine.may_send_back() {
            if !machine.wants_segments() {
                return false;
            }
            machine = wait(&self.news, machine, TICK);
        }
        machine.wants_segments()
    }

    /// Sends control messages that are due on whichever stream works.
    pub(super) fn flush_any(&self) {
        self.flush_where(|machine, _| machine.has_control());
    }

    fn flush_where(&self, is_due: impl Fn(&RelayDestination, StreamId) -> bool) {
        let writers: Vec<_> =
            lock(&self.writers).iter().map(|(stream, writer)| (*stream, writer.clone())).collect();
        for (stream, writer) in writers {
            let due = is_due(&lock(&self.machine), stream);
            if due && self.flush(stream, &writer).is_err() {
                lock(&writer).shutdown();
            }
        }
    }
}

impl Handle for QemuIncoming {
    fn id(&self) -> MigrationId {
        self.setup.id
    }

    fn guest(&self) -> &str {
        &self.setup.guest
    }

    fn progress(&self) -> Progress {
        lock(&self.machine).progress(now())
    }

    fn owner(&self) -> Owner {
        lock(&self.machine).owner()
    }

    fn report(&self) -> Option<Report> {
        self.outcome.get()
    }

    fn wait(&self, timeout: Duration) -> Option<Report> {
        self.outcome.wait(timeout)
    }

    fn cancel(&self) {
        lock(&self.machine).cancel();
        self.news.notify_all();
    }

    fn start_post_copy(&self) -> Result<(), PostCopyError> {
        Err(PostCopyError::WrongSide)
    }

    fn abandon_post_copy(&self) -> Result<(), PostCopyError> {
        let abandoned = lock(&self.machine).abandon_post_copy();
        self.news.notify_all();
        abandoned
    }

    fn footprint(&self) -> Footprint {
        let held = lock(&self.unpacker).as_ref().map(|u| (u.held_pages(), u.memory_bytes()));
        let (baseline_pages, baseline_bytes) = held.unwrap_or_default();
        let writers = lock(&self.writers).len();
        let machine = lock(&self.machine);
        Footprint {
            baseline_pages,
            baseline_bytes,
            baseline_pages_limit: self.features.baseline_pages.into(),
            early_bytes: machine.stored_bytes() + machine.in_hand_bytes(),
            stream_bytes: (writers * READ_BUFFER_BYTES) as u64,
            ..Footprint::default()
        }
    }
}

impl Arrival for QemuIncoming {
    fn join_key(&self) -> &JoinKey {
        &self.join_key
    }

    fn features(&self) -> Features {
        self.features
    }

    fn recoverable_as(&self) -> MigrationId {
        let known = self.setup.recovers.filter(|earlier| *earlier != UNKNOWN);
        known.unwrap_or(self.setup.id)
    }

    fn give_way(&self) {
        if lock(&self.machine).give_way() {
            self.news.notify_all();
        }
    }

    fn check(&self, hello: &Hello) -> Result<(), Refusal> {
        check_join(self, hello)?;
        match &hello.purpose {
            Purpose::Relay { facts, .. } if *facts != self.setup.facts => {
                Err(Refusal::new(Status::LayoutMismatch, "the machine has changed"))
            }
            _ if !lock(&self.machine).may_join(hello.stream) => Err(no_room(hello)),
            _ => Ok(()),
        }
    }

    fn serve(&self, stream: StreamId, mut reader: FrameReader, writer: FrameWriter, peer: &str) {
        let closer = writer.closer();
        let writer = Arc::new(Mutex::new(writer));
        lock(&self.writers).insert(stream, writer.clone());
        lock(&self.closers).insert(stream, closer);
        lock(&self.machine).stream_up(stream, peer, now());
        self.news.notify_all();
        let reason = self.receive(stream, &mut reader);
        lock(&writer).shutdown();
        lock(&self.writers).remove(&stream);
        lock(&self.closers).remove(&stream);
        lock(&self.machine).stream_down(stream, &reason, now());
        self.flush_any();
        self.news.notify_all();
    }
}

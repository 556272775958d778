//! The connections of a source: for each stream slot a thread that connects, sends, and connects
//! anew when the stream breaks, and one that receives.
//!
//! ```text
//! sender:   connect, next_work -> carry; again   (one thread a slot)
//! receiver: read -> frame                        (one thread a slot)
//! ```
//! All share one state machine behind a lock that nobody holds while he reads, writes or encodes.
//! How many slots there are may change at any time: a slot that is not wanted any more takes no new
//! work, waits until what it carried is acknowledged, and closes its connection.

use crate::base::limits::MAX_RECONNECTS;
use crate::base::{StreamId, Time};
use crate::migration::Failure;
use crate::migration::source::Work;
use crate::migration::stats::Traffic;
use crate::observe::EventKind;
use crate::runtime::clock::now;
use crate::runtime::connection::{ConnectionError, FrameReader, FrameWriter, Incoming};
use crate::runtime::dial::{Dialed, Dialer, Joined, Stage};
use crate::runtime::idle_clock::IdleClock;
use crate::runtime::lock::{lock, wait};
use crate::runtime::steering::Steered;
use crate::runtime::sys::socket::unacknowledged_bytes;
use crate::runtime::sys::thread::spawn_named;
use crate::runtime::tuning;
use crate::transport::{SessionError, StreamShape};
use crate::wire::Frame;
use crate::wire::hello::{Ended, Features};
use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

/// First and longest wait between two attempts to connect.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// How long streams may still take to say the last word when it is over.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What the streams need of the state machine that they serve.
pub trait StreamMachine: Send + 'static {
    /// What a stream carries besides frames.
    type Cargo;

    /// Whether the slots should go on trying to connect.
    fn wants_streams(&self) -> bool;
    /// A slot cannot go on.
    fn fail(&mut self, failure: Failure, now: Time);
    /// An attempt to connect failed.
    fn connect_failed(&mut self, reason: &str);
    /// The peer turned a connection away.
    fn refused(&mut self, status: i32, reason: &str, ended: Ended, now: Time);
    /// The peer is there, and a connection to it is being prepared; it is not waited for meanwhile.
    fn set_up_begins(&mut self) {}
    /// That is over, well or not.
    fn set_up_ends(&mut self, _now: Time) {}
    /// A connection is part of the migration; this is what both sides can do.
    fn stream_up(&mut self, stream: StreamId, peer: &str, features: Features, now: Time);
    /// A connection is lost, and nobody uses it any more.
    fn stream_down(&mut self, stream: StreamId, reason: &str, now: Time);
    /// Whether a stream is to end once nothing is under way on it.
    fn set_retiring(&mut self, stream: StreamId, retiring: bool);
    /// What the streams did so far.
    fn traffic(&mut self, now: Time) -> Traffic;
    /// What others who share a cap leave to this migration.
    fn set_share(&mut self, rate_bytes_per_s: Option<u64>, now: Time);
    /// The next thing for a stream to do.
    fn next_work(&mut self, stream: StreamId, now: Time) -> Work<Self::Cargo>;
    /// A frame arrived.
    ///
    /// # Errors
    /// The peer broke the protocol: the stream is to be closed.
    fn frame(&mut self, stream: StreamId, frame: &Frame, now: Time) -> Result<(), SessionError>;
    /// Whether the driver has something to do.
    fn has_actions(&self) -> bool;
    /// Whether a message waits for a stream to carry it.
    fn has_control(&self) -> bool;
}

/// Puts cargo on a stream.
pub trait Carrier: Send + Sync + 'static {
    /// The state machine.
    type Machine: StreamMachine;
    /// What each slot keeps from one cargo to the next.
    type Scratch: Default;

    /// The slots that it serves.
    fn slots(&self) -> &Arc<StreamSlots<Self::Machine>>;

    /// Tells of something that concerns the migration.
    fn publish(&self, event: EventKind);

    /// Sends one cargo. None: it could not be made, and the machine has been told.
    fn carry(
        &self,
        cargo: <Self::Machine as StreamMachine>::Cargo,
        socket: &mut FrameWriter,
        scratch: &mut Self::Scratch,
    ) -> Option<io::Result<()>>;
}

/// The slots of one migration and the machine that they serve.
pub struct StreamSlots<M> {
    machine: Mutex<M>,
    /// For senders: there may be work.
    work: Condvar,
    /// For the driver: there may be actions, events or an end.
    news: Condvar,
    /// Whether the driver has been told of something that the machine does not know. Set and taken
    /// with the machine locked, so that no telling falls between its look and its wait.
    nudged: AtomicBool,
    dialer: Dialer,
    next_stream: AtomicU32,
    wanted: AtomicU16,
    /// Slots whose streams are to be made anew from their own local addresses, a bit each.
    homing: AtomicU64,
    idle: Mutex<IdleClock>,
    pool: Mutex<Pool>,
}

/// Every slot that there ever was, by number.
#[derive(Default)]
struct Pool {
    slots: Vec<Slot>,
    shape: StreamShape,
    /// Nothing is started any more.
    closed: bool,
}

#[derive(Default)]
struct Slot {
    socket: Option<Arc<TcpStream>>,
    /// What the socket was last told.
    shape: Option<StreamShape>,
    thread: Option<JoinHandle<()>>,
    /// Whether the thread will look again whether it is wanted.
    runs: bool,
}

impl<M: StreamMachine> StreamSlots<M> {
    /// Slots that have not started, as many as `wanted`.
    pub fn new(machine: M, dialer: Dialer, wanted: u16) -> Arc<Self> {
        Arc::new(Self {
            machine: Mutex::new(machine),
            work: Condvar::new(),
            news: Condvar::new(),
            nudged: AtomicBool::new(false),
            dialer,
            next_stream: AtomicU32::new(0),
            wanted: AtomicU16::new(wanted),
            homing: AtomicU64::new(0),
            idle: Mutex::default(),
            pool: Mutex::default(),
        })
    }

    /// The machine.
    pub fn machine(&self) -> MutexGuard<'_, M> {
        lock(&self.machine)
    }

    /// Wakes senders and driver.
    pub fn wake(&self) {
        self.work.notify_all();
        self.news.notify_all();
    }

    /// Wakes the senders.
    pub fn wake_senders(&self) {
        self.work.notify_all();
    }

    /// Tells the driver that something outside the machine has changed.
    pub fn wake_driver(&self) {
        let _machine = self.machine();
        self.nudged.store(true, Ordering::Relaxed);
        self.news.notify_all();
    }

    /// Lets the driver wait for news; not at all if it was told since it last waited. What it has
    /// brought the machine to say, a sender says meanwhile.
    pub fn wait_for_news<'a>(
        &'a self,
        machine: MutexGuard<'a, M>,
        timeout: Duration,
    ) -> MutexGuard<'a, M> {
        if machine.has_control() {
            self.wake_senders();
        }
        match self.nudged.swap(false, Ordering::Relaxed) {
            true => machine,
            false => wait(&self.news, machine, timeout),
        }
    }

    /// Lets a feeder wait until something was acknowledged.
    pub fn wait_for_work<'a>(
        &'a self,
        machine: MutexGuard<'a, M>,
        timeout: Duration,
    ) -> MutexGuard<'a, M> {
        wait(&self.work, machine, timeout)
    }

    /// Bytes that the kernel holds for the peer: waiting, or on their way and not acknowledged.
    pub fn socket_bytes(&self) -> u64 {
        let pool = lock(&self.pool);
        let held = |socket: &Arc<TcpStream>| unacknowledged_bytes(socket.as_ref()).unwrap_or(0);
        let sockets = pool.slots.iter().filter_map(|slot| slot.socket.as_ref());
        sockets.map(|socket| u64::from(held(socket))).sum()
    }

    /// Wants another number of streams. Those that are not wanted take no new work from now on.
    fn set_wanted(&self, wanted: u16) {
        // With the machine locked, so that no sender falls between its look and its wait.
        let _machine = self.machine();
        self.wanted.store(wanted, Ordering::Relaxed);
        self.work.notify_all();
    }

    /// Whether a slot is wanted.
    fn wants(&self, slot: usize) -> bool {
        slot < usize::from(self.wanted.load(Ordering::Relaxed))
    }

    fn is_homing(&self, slot: usize) -> bool {
        self.homing.load(Ordering::Relaxed) & home_bit(slot) != 0
    }

    /// Has one stream at a time go back to its local address.
    fn send_home(&self) {
        if self.homing.load(Ordering::Relaxed) != 0 {
            return;
        }
        let wanted = usize::from(self.wanted.load(Ordering::Relaxed));
        let astray = (0..wanted).find(|slot| self.dialer.sources().may_go_home(*slot));
        if let Some(slot) = astray {
            let _machine = self.machine();
            self.homing.fetch_or(home_bit(slot), Ordering::Relaxed);
            self.work.notify_all();
        }
    }

    /// Starts a thread for every slot that is wanted and has none.
    pub fn start<C>(self: &Arc<Self>, carrier: &Arc<C>)
    where
        C: Carrier<Machine = M>,
    {
        if !self.machine().wants_streams() {
            return;
        }
        let mut pool = lock(&self.pool);
        let wanted = usize::from(self.wanted.load(Ordering::Relaxed));
        if pool.closed {
            return;
        }
        let known = pool.slots.len();
        pool.slots.resize_with(known.max(wanted), Slot::default);
        for number in 0..wanted {
            let slot = &mut pool.slots[number];
            if slot.runs {
                continue;
            }
            // One that does not look again has ended, or is about to.
            drop(slot.thread.take().map(JoinHandle::join));
            let (slots, carrier) = (self.clone(), carrier.clone());
            match spawn_named("dwcp-send", move || slots.run(number, carrier.as_ref())) {
                Ok(thread) => (slot.thread, slot.runs) = (Some(thread), true),
                // With the others it goes on; without any it never would.
                Err(_) if pool.slots.iter().any(|slot| slot.runs) => return,
                Err(error) => {
                    drop(pool);
                    let failure = Failure::new(crate::Status::Io, format!("no thread: {error}"));
                    return self.machine().fail(failure, now());
                }
            }
        }
    }

    /// Lets the streams say their last words, then ends them.
    pub fn join(&self) {
        self.work.notify_all();
        let mut pool = lock(&self.pool);
        pool.closed = true;
        let threads: Vec<_> = pool.slots.iter_mut().filter_map(|slot| slot.thread.take()).collect();
        drop(pool);
        let deadline = now() + LAST_WORDS;
        while now() < deadline && threads.iter().any(|thread| !thread.is_finished()) {
            std::thread::sleep(Duration::from_millis(1));
        }
        for socket in lock(&self.pool).slots.iter().filter_map(|slot| slot.socket.as_ref()) {
            // The peer may have closed it already.
            let _ = socket.shutdown(Shutdown::Both);
        }
        threads.into_iter().for_each(|thread| drop(thread.join()));
    }

    /// One slot: connect, serve, and again while the migration wants its stream.
    fn run<C: Carrier<Machine = M>>(self: &Arc<Self>, slot: usize, carrier: &C) {
        let mut scratch = C::Scratch::default();
        let mut backoff = BACKOFF.0;
        while self.goes_on(slot) {
            if self.dialer.is_opening() {
                // Another slot opens the migration; its success or failure wakes this one.
                drop(wait(&self.work, self.machine(), BACKOFF.0));
                continue;
            }
            let number = self.next_stream.fetch_add(1, Ordering::Relaxed);
            if number > MAX_RECONNECTS {
                let text = format!("{MAX_RECONNECTS} connections were not enough");
                let mut machine = self.machine();
                machine.fail(Failure::new(crate::Status::LimitReached, text), now());
                // A guest that is in two places in post-copy is not given up.
                if !machine.wants_streams() {
                    continue;
                }
            }
            match self.connect(StreamId(number), slot) {
                Some((socket, reader)) => {
                    let served_since = now();
                    let id = (StreamId(number), slot);
                    let ended_well = self.serve(id, socket, reader, carrier, &mut scratch);
                    if !ended_well {
                        self.dialer.sources().failed(slot);
                    }
                    // Once it is over, the other side may end it in whatever way.
                    if ended_well || self.machine().wants_streams() {
                        self.dialer.served(ended_well);
                    }
                    if now() - served_since > BACKOFF.1 {
                        backoff = BACKOFF.0;
                    }
                }
                None => backoff = (backoff * 2).min(BACKOFF.1),
            }
            lock(&self.pool).slots[slot].socket = None;
            self.rest(slot, backoff);
        }
        // Nothing of the pool is touched any more: who holds it may be waiting for this thread.
        self.news.notify_all();
    }

    /// Whether a slot is to connect, and again; after a no its thread ends.
    fn goes_on(&self, slot: usize) -> bool {
        // Once no stream is wanted, none ever will be.
        let is_over = !self.machine().wants_streams();
        let mut pool = lock(&self.pool);
        let runs = self.wants(slot) && !is_over;
        pool.slots[slot].runs = runs;
        if !runs {
            // One that does not go on does not go home either, and others are to.
            self.homing.fetch_and(!home_bit(slot), Ordering::Relaxed);
        }
        runs
    }

    /// Gives a new connection of a slot its shape.
    fn register(&self, slot: usize, socket: &Arc<TcpStream>) {
        let mut pool = lock(&self.pool);
        let shape = pool.shape;
        pool.slots[slot].socket = Some(socket.clone());
        pool.slots[slot].shape = None;
        pool.slots[slot].take_shape(&shape);
    }

    /// Waits this long, whatever the other streams do meanwhile; less if no stream is wanted.
    fn rest(&self, slot: usize, how_long: Duration) {
        let until = now() + how_long;
        let mut machine = self.machine();
        while machine.wants_streams() && self.wants(slot) && now() < until {
            machine = wait(&self.work, machine, until.since(now()));
        }
    }

    fn connect(&self, stream: StreamId, slot: usize) -> Option<(FrameWriter, FrameReader)> {
        self.homing.fetch_and(!home_bit(slot), Ordering::Relaxed);
        let dialed = self.dialer.dial((stream, slot), &|stage| match stage {
            Stage::Connected(socket) => self.register(slot, socket),
            Stage::SetUpBegins => self.machine().set_up_begins(),
            Stage::SetUpEnds => self.machine().set_up_ends(now()),
        });
        let mut machine = self.machine();
        let (writer, reader) = match dialed {
            Ok(Dialed::Up(joined)) => {
                let Joined { writer, reader, features, peer } = *joined;
                machine.stream_up(stream, &peer, features, now());
                (writer, reader)
            }
            Ok(Dialed::Refused { status, reason, ended }) => {
                machine.refused(status, &reason, ended, now());
                drop(machine);
                self.wake();
                return None;
            }
            Ok(Dialed::Distrusted(error)) => {
                machine.fail(Failure::new(error.status(), error.to_string()), now());
                drop(machine);
                self.wake();
                return None;
            }
            Ok(Dialed::Waiting) => return None,
            Err(error) => {
                machine.connect_failed(&error.to_string());
                return None;
            }
        };
        drop(machine);
        self.wake();
        Some((writer, reader))
    }

    /// Serves a connection to its end; whether that is a good one.
    fn serve<C: Carrier<Machine = M>>(
        self: &Arc<Self>,
        (stream, slot): (StreamId, usize),
        mut socket: FrameWriter,
        reader: FrameReader,
        carrier: &C,
        scratch: &mut C::Scratch,
    ) -> bool {
        let broken = Arc::new(Mutex::new(None::<String>));
        let (receiver, seen) = (self.clone(), broken.clone());
        let receiving = spawn_named("dwcp-recv", move || receiver.receive(stream, reader, &seen));
        let sent = match receiving {
            Ok(_) => self.send((stream, slot), &mut socket, carrier, scratch, &broken),
            Err(_) => Err("no thread for receiving".to_string()),
        };
        socket.shutdown();
        if let Ok(thread) = receiving {
            let _ = thread.join();
        }
        let ended_well = sent.is_ok();
        let reason = sent.err().unwrap_or_else(|| "closed".to_string());
        let reason = lock(&broken).take().unwrap_or(reason);
        self.machine().stream_down(stream, &reason, now());
        self.wake();
        ended_well
    }

    /// Sends until the stream is not needed any more, or breaks.
    fn send<C: Carrier<Machine = M>>(
        &self,
        (stream, slot): (StreamId, usize),
        socket: &mut FrameWriter,
        carrier: &C,
        scratch: &mut C::Scratch,
        broken: &Mutex<Option<String>>,
    ) -> Result<(), String> {
        loop {
            let mut machine = self.machine();
            machine.set_retiring(stream, !self.wants(slot) || self.is_homing(slot));
            let work = machine.next_work(stream, now());
            if let Work::Wait(until) = work {
                if lock(broken).is_some() {
                    return Err(String::new());
                }
                let patience = until.since(now()).max(Duration::from_micros(50));
                self.idle(slot, || drop(wait(&self.work, machine, patience)));
                continue;
            }
            let actions = machine.has_actions();
            drop(machine);
            if actions {
                self.news.notify_all();
            }
            let sent = match work {
                Work::Frame(frame) => socket.frame(&frame),
                Work::Chunk(cargo) => match carrier.carry(cargo, socket, scratch) {
                    Some(sent) => sent,
                    None => continue,
                },
                Work::Wait(_) | Work::Close => return Ok(()),
            };
            if let Err(error) = sent {
                return Err(format!("sending: {error}"));
            }
        }
    }

    /// Counts the time of `waiting` as idle, if the slot is one that should be busy.
    fn idle(&self, slot: usize, waiting: impl FnOnce()) {
        let counts = self.wants(slot);
        if counts {
            lock(&self.idle).begin(now());
        }
        waiting();
        if counts {
            lock(&self.idle).end(now());
        }
    }

    fn receive(&self, stream: StreamId, mut reader: FrameReader, broken: &Mutex<Option<String>>) {
        let page_bytes = self.dialer.page_bytes();
        let reason = loop {
            match reader.next(page_bytes) {
                Ok(Incoming::Frame(frame)) => {
                    let result = self.machine().frame(stream, &frame, now());
                    self.wake();
                    if let Err(error) = result {
                        break error.to_string();
                    }
                }
                Ok(Incoming::Chunk(_) | Incoming::Segment(_)) => {
                    break "the destination sent pages".to_string();
                }
                Err(ConnectionError::Closed) => break "closed by the destination".to_string(),
                Err(error) => break format!("receiving: {error}"),
            }
        };
        *lock(broken) = Some(reason);
        reader.shutdown();
        self.wake();
    }
}

impl<C: Carrier> Steered for C {
    fn traffic(&self) -> (Traffic, Duration) {
        let slots = self.slots();
        let idle = lock(&slots.idle).total(now());
        (slots.machine().traffic(now()), idle)
    }

    fn set_streams(self: Arc<Self>, count: u16) {
        let slots = self.slots();
        slots.set_wanted(count);
        slots.start(&self);
    }

    fn set_share(&self, rate_bytes_per_s: Option<u64>) {
        self.slots().machine().set_share(rate_bytes_per_s, now());
        self.slots().wake_senders();
    }

    fn set_shape(&self, shape: &StreamShape) {
        let mut pool = lock(&self.slots().pool);
        pool.shape = *shape;
        pool.slots.iter_mut().for_each(|slot| slot.take_shape(shape));
    }

    fn send_home(&self) {
        self.slots().send_home();
    }

    fn tell(&self, event: EventKind) {
        self.publish(event);
    }

    fn is_over(&self) -> bool {
        !self.slots().machine().wants_streams()
    }
}

fn home_bit(slot: usize) -> u64 {
    1 << (slot as u64 % u64::from(u64::BITS))
}

impl Slot {
    fn take_shape(&mut self, shape: &StreamShape) {
        if let Some(socket) = self.socket.as_ref().filter(|_| self.shape != Some(*shape)) {
            tuning::shape(socket, self.shape.as_ref(), shape);
            self.shape = Some(*shape);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::MigrationId;
    use crate::runtime::dial::FEATURES;
    use crate::runtime::modes::Modes;
    use crate::runtime::rollout::Rollout;
    use crate::runtime::security::{Security, SecurityOptions};
    use crate::runtime::steering::Steering;
    use crate::wire::hello::Purpose;
    use std::time::Instant;

    /// A machine that only has something to say.
    #[derive(Default)]
    struct Speaker {
        is_waited_for: bool,
        says: bool,
    }

    impl StreamMachine for Speaker {
        type Cargo = ();

        fn wants_streams(&self) -> bool {
            false
        }
        fn fail(&mut self, _: Failure, _: Time) {}
        fn connect_failed(&mut self, _: &str) {}
        fn refused(&mut self, _: i32, _: &str, _: Ended, _: Time) {}
        fn stream_up(&mut self, _: StreamId, _: &str, _: Features, _: Time) {}
        fn stream_down(&mut self, _: StreamId, _: &str, _: Time) {}
        fn set_retiring(&mut self, _: StreamId, _: bool) {}
        fn traffic(&mut self, _: Time) -> Traffic {
            Traffic::default()
        }
        fn set_share(&mut self, _: Option<u64>, _: Time) {}
        fn next_work(&mut self, _: StreamId, now: Time) -> Work<()> {
            Work::Wait(now)
        }
        fn frame(&mut self, _: StreamId, _: &Frame, _: Time) -> Result<(), SessionError> {
            Ok(())
        }
        fn has_actions(&self) -> bool {
            false
        }
        fn has_control(&self) -> bool {
            self.says
        }
    }

    fn slots() -> Arc<StreamSlots<Speaker>> {
        let security = Security::open(SecurityOptions::Plain).unwrap();
        let modes = Modes::new(Arc::default(), security, Rollout::in_memory("a"));
        let steering = Steering::new(Arc::default(), modes);
        let opening = (Purpose::Join { token: [0; 16] }, FEATURES);
        let to = ("127.0.0.1:1".to_owned(), steering);
        let id = MigrationId([1; 16]);
        let dialer = Dialer::new(id, opening, "a".into(), to, Duration::from_secs(1));
        StreamSlots::new(Speaker::default(), dialer, 0)
    }

    #[test]
    fn a_driver_that_waits_has_woken_who_says_what_it_brought_up() {
        const LONG: Duration = Duration::from_secs(20);
        let slots = slots();
        let sender = std::thread::spawn({
            let slots = slots.clone();
            move || {
                let begun = Instant::now();
                let mut machine = slots.machine();
                machine.is_waited_for = true;
                drop(slots.wait_for_work(machine, LONG));
                begun.elapsed()
            }
        });
        let mut machine = slots.machine();
        while !machine.is_waited_for {
            drop(machine);
            std::thread::yield_now();
            machine = slots.machine();
        }
        machine.says = true;
        drop(slots.wait_for_news(machine, Duration::from_millis(1)));
        assert!(sender.join().unwrap() < LONG, "nobody woke it");
    }
}

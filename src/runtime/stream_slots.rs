//! The connections of a source: for each stream slot a thread that connects, sends, and connects
//! anew when the stream breaks, and one that receives.
//!
//! ```text
//! sender:   connect, next_work -> carry; again   (one thread a slot)
//! receiver: read -> frame                        (one thread a slot)
//! ```
//! All share one state machine behind a lock that nobody holds while he reads, writes or encodes.

use crate::base::limits::MAX_RECONNECTS;
use crate::base::{StreamId, Time};
use crate::migration::Failure;
use crate::migration::source::Work;
use crate::runtime::clock::now;
use crate::runtime::connection::{ConnectionError, FrameReader, FrameWriter, Incoming};
use crate::runtime::dial::{Dialed, Dialer};
use crate::runtime::lock::{lock, wait};
use crate::runtime::sys::socket::unacknowledged_bytes;
use crate::runtime::sys::thread::spawn_named;
use crate::transport::SessionError;
use crate::wire::Frame;
use crate::wire::hello::{Ended, Features};
use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
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
    /// A connection is part of the migration; this is what both sides can do.
    fn stream_up(&mut self, stream: StreamId, peer: &str, features: Features, now: Time);
    /// A connection is lost, and nobody uses it any more.
    fn stream_down(&mut self, stream: StreamId, reason: &str, now: Time);
    /// The next thing for a stream to do.
    fn next_work(&mut self, stream: StreamId, now: Time) -> Work<Self::Cargo>;
    /// A frame arrived.
    ///
    /// # Errors
    /// The peer broke the protocol: the stream is to be closed.
    fn frame(&mut self, stream: StreamId, frame: &Frame, now: Time) -> Result<(), SessionError>;
    /// Whether the driver has something to do.
    fn has_actions(&self) -> bool;
}

/// Puts cargo on a stream.
pub trait Carrier: Send + Sync + 'static {
    /// The state machine.
    type Machine: StreamMachine;
    /// What each slot keeps from one cargo to the next.
    type Scratch: Default;

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
    sockets: Mutex<Vec<Option<Arc<TcpStream>>>>,
}

impl<M: StreamMachine> StreamSlots<M> {
    /// Slots that have not started.
    pub fn new(machine: M, dialer: Dialer, slots: u16) -> Arc<Self> {
        Arc::new(Self {
            machine: Mutex::new(machine),
            work: Condvar::new(),
            news: Condvar::new(),
            nudged: AtomicBool::new(false),
            dialer,
            next_stream: AtomicU32::new(0),
            sockets: Mutex::new(vec![None; slots.into()]),
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

    /// Lets the driver wait for news; not at all if it was told since it last waited.
    pub fn wait_for_news<'a>(
        &'a self,
        machine: MutexGuard<'a, M>,
        timeout: Duration,
    ) -> MutexGuard<'a, M> {
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
        let sockets = lock(&self.sockets);
        let held = |socket: &Arc<TcpStream>| unacknowledged_bytes(socket.as_ref()).unwrap_or(0);
        sockets.iter().flatten().map(|socket| u64::from(held(socket))).sum()
    }

    /// Starts a thread for every slot.
    pub fn start<C>(self: &Arc<Self>, carrier: &Arc<C>) -> Vec<JoinHandle<()>>
    where
        C: Carrier<Machine = M>,
    {
        let mut threads = Vec::new();
        let slots = lock(&self.sockets).len();
        for slot in 0..slots {
            let (slots, carrier) = (self.clone(), carrier.clone());
            match spawn_named("dwcp-send", move || slots.run(slot, carrier.as_ref())) {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    let failure = Failure::new(crate::Status::Io, format!("no thread: {error}"));
                    self.machine().fail(failure, now());
                    break;
                }
            }
        }
        threads
    }

    /// Lets the streams say their last words, then ends them.
    pub fn join(&self, threads: Vec<JoinHandle<()>>) {
        self.work.notify_all();
        let deadline = now() + LAST_WORDS;
        while now() < deadline && threads.iter().any(|thread| !thread.is_finished()) {
            std::thread::sleep(Duration::from_millis(1));
        }
        for socket in lock(&self.sockets).iter().flatten() {
            // The peer may have closed it already.
            let _ = socket.shutdown(Shutdown::Both);
        }
        threads.into_iter().for_each(|thread| drop(thread.join()));
    }

    /// One slot: connect, serve, and again while the migration wants streams.
    fn run<C: Carrier<Machine = M>>(self: &Arc<Self>, slot: usize, carrier: &C) {
        let mut scratch = C::Scratch::default();
        let mut backoff = BACKOFF.0;
        while self.machine().wants_streams() {
            if self.dialer.is_opening() {
                // Another slot opens the migration; its success or failure wakes this one.
                drop(wait(&self.work, self.machine(), BACKOFF.0));
                continue;
            }
            let number = self.next_stream.fetch_add(1, Ordering::Relaxed);
            if number > MAX_RECONNECTS {
                let text = format!("{MAX_RECONNECTS} connections were not enough");
                self.machine().fail(Failure::new(crate::Status::LimitReached, text), now());
                break;
            }
            match self.connect(StreamId(number), slot) {
                Some((socket, reader)) => {
                    let served_since = now();
                    self.serve(StreamId(number), socket, reader, carrier, &mut scratch);
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
        let mut machine = self.machine();
        while machine.wants_streams() && now() < until {
            machine = wait(&self.work, machine, until.since(now()));
        }
    }

    fn connect(&self, stream: StreamId, slot: usize) -> Option<(FrameWriter, FrameReader)> {
        let register = |socket: &Arc<TcpStream>| lock(&self.sockets)[slot] = Some(socket.clone());
        let dialed = self.dialer.dial(stream, &register);
        let mut machine = self.machine();
        let (writer, reader) = match dialed {
            Ok(Dialed::Up { writer, reader, features, peer }) => {
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

    fn serve<C: Carrier<Machine = M>>(
        self: &Arc<Self>,
        stream: StreamId,
        mut socket: FrameWriter,
        reader: FrameReader,
        carrier: &C,
        scratch: &mut C::Scratch,
    ) {
        let broken = Arc::new(Mutex::new(None::<String>));
        let (receiver, seen) = (self.clone(), broken.clone());
        let receiving = spawn_named("dwcp-recv", move || receiver.receive(stream, reader, &seen));
        let mut reason = "no thread for receiving".to_string();
        if receiving.is_ok() {
            reason = self.send(stream, &mut socket, carrier, scratch, &broken);
        }
        socket.shutdown();
        if let Ok(thread) = receiving {
            let _ = thread.join();
        }
        let reason = lock(&broken).take().unwrap_or(reason);
        self.machine().stream_down(stream, &reason, now());
        self.wake();
    }

    /// Sends until the stream breaks or the migration is over; returns why it ended.
    fn send<C: Carrier<Machine = M>>(
        &self,
        stream: StreamId,
        socket: &mut FrameWriter,
        carrier: &C,
        scratch: &mut C::Scratch,
        broken: &Mutex<Option<String>>,
    ) -> String {
        loop {
            let mut machine = self.machine();
            let work = machine.next_work(stream, now());
            if let Work::Wait(until) = work {
                if lock(broken).is_some() {
                    return String::new();
                }
                drop(wait(&self.work, machine, until.since(now()).max(Duration::from_micros(50))));
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
                Work::Wait(_) | Work::Close => return "closed".to_string(),
            };
            if let Err(error) = sent {
                return format!("sending: {error}");
            }
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

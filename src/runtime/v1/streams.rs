//! Connections to a v1 peer, and what goes out over them: everything but the last byte, and then that.
//!
//! Without the last byte a v1 peer has no whole image. Until it has been written the guest is the
//! source's for certain, whatever became of the rest; and it is written only once the peer's kernel has
//! all before it, and the peer has not hung up.

use super::cargo::Cargo;
use super::socket::{self, ConnectError};
use crate::Status;
use crate::migration::{Dialect, Failure};
use crate::runtime::clock::now;
use crate::runtime::lock::lock;
use crate::runtime::sys::spawn_named;
use crate::transport::Pacer;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The longest nap of a sender that is paced, so that it hears of a cancel.
const NAP: Duration = Duration::from_millis(50);

/// What the operator and the senders of one departure share.
pub struct Gate {
    is_shut: AtomicBool,
    /// Set by the first who knows why it was shut.
    reason: Mutex<Option<Failure>>,
    sockets: Mutex<Vec<Arc<TcpStream>>>,
    pacer: Mutex<Pacer>,
    sent_bytes: AtomicU64,
    stall_timeout: Duration,
    deadline: Option<Instant>,
}

/// Open connections to a v1 peer.
pub struct Streams {
    to: String,
    sockets: Vec<Arc<TcpStream>>,
    gate: Arc<Gate>,
}

/// What is held back.
pub struct Last {
    socket: Arc<TcpStream>,
    byte: u8,
}

impl Gate {
    /// Nothing is shut yet.
    pub fn new(
        rate_bytes_per_s: Option<u64>,
        stall_timeout: Duration,
        deadline: Option<Duration>,
    ) -> Arc<Self> {
        Arc::new(Self {
            is_shut: AtomicBool::new(false),
            reason: Mutex::default(),
            sockets: Mutex::default(),
            pacer: Mutex::new(Pacer::new(rate_bytes_per_s)),
            sent_bytes: AtomicU64::new(0),
            stall_timeout,
            deadline: deadline.map(|deadline| Instant::now() + deadline),
        })
    }

    /// Ends everything that waits; the first reason counts.
    pub fn shut(&self, failure: Failure) {
        lock(&self.reason).get_or_insert(failure);
        self.is_shut.store(true, Ordering::Release);
        for socket in lock(&self.sockets).iter() {
            // The peer may have closed it already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Whether to go on.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> Result<(), Failure> {
        if self.is_shut.load(Ordering::Acquire)
            && let Some(failure) = lock(&self.reason).clone()
        {
            return Err(failure);
        }
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            let text = "the deadline has passed while the guest stood still";
            return Err(Failure::new(Status::Timeout, text));
        }
        Ok(())
    }

    /// Bytes that the kernel has taken.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Relaxed)
    }

    /// Connections that are open.
    pub fn stream_count(&self) -> usize {
        lock(&self.sockets).len()
    }

    /// Closes what is still open.
    pub fn release(&self) {
        lock(&self.sockets).clear();
    }

    /// Changes the cap on what is sent.
    pub fn set_rate(&self, rate_bytes_per_s: Option<u64>) {
        lock(&self.pacer).set_limit(rate_bytes_per_s, now());
    }

    /// How long one part may take from now on.
    fn patience(&self) -> Duration {
        let left = self.deadline.map(|at| at.saturating_duration_since(Instant::now()));
        left.map_or(self.stall_timeout, |left| left.min(self.stall_timeout))
    }

    /// Waits until so many bytes may go.
    fn pace(&self, bytes: u64) -> Result<(), Failure> {
        loop {
            self.check()?;
            let mut pacer = lock(&self.pacer);
            let (at, ready) = (now(), pacer.ready_at(now()));
            if ready <= at {
                pacer.charge(bytes, at);
                return Ok(());
            }
            drop(pacer);
            std::thread::sleep(ready.since(at).min(NAP));
        }
    }

    /// A failure of a connection, or what had it shut.
    fn explain(&self, to: &str, error: &io::Error) -> Failure {
        if let Err(failure) = self.check() {
            return failure;
        }
        match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
                let limit = self.stall_timeout;
                let text = format!("v1 peer {to} did not take a chunk within {limit:?}");
                Failure::new(Status::PeerStalled, text)
            }
            _ => Failure::new(Status::ConnectionLost, format!("v1 peer {to}: {error}")),
        }
    }
}

impl Streams {
    /// Makes as many connections as wanted, or as the dialect has.
    ///
    /// # Errors
    /// One of them cannot be made, or the gate was shut.
    pub fn connect(
        to: &str,
        (dialect, wanted): (Dialect, u16),
        gate: Arc<Gate>,
        tune: &dyn Fn(&TcpStream),
    ) -> Result<Self, Failure> {
        let mut sockets = Vec::new();
        for _ in 0..Cargo::streams(dialect, wanted).max(1) {
            gate.check()?;
            let connected = socket::connect(to).map_err(|error| match error {
                ConnectError::Refused(error) => error.into(),
                ConnectError::Io(error) => Failure::new(
                    Status::Connect,
                    format!("cannot connect to v1 peer {to}: {error}"),
                ),
            })?;
            let tuned = socket::tune(&connected, gate.stall_timeout);
            tuned.map_err(|error| gate.explain(to, &error))?;
            tune(&connected);
            let connected = Arc::new(connected);
            lock(&gate.sockets).push(connected.clone());
            sockets.push(connected);
        }
        Ok(Self { to: to.to_string(), sockets, gate })
    }

    /// The other ends, for people.
    pub fn peers(&self) -> impl Iterator<Item = String> {
        self.sockets
            .iter()
            .map(|socket| socket.peer_addr().map_or_else(|_| self.to.clone(), |at| at.to_string()))
    }

    /// Sends everything but the last byte, and waits until the peer's kernel has it.
    ///
    /// # Errors
    /// Any connection failed, or the gate was shut. The peer has no whole image then.
    pub fn send_all_but_last(&self, cargo: &Arc<Cargo>) -> Result<Last, Failure> {
        self.send_parts(cargo)?;
        self.sockets.iter().try_for_each(|socket| self.settle(socket))?;
        let (part, mut bytes) = (cargo.part_count() - 1, Vec::new());
        cargo.fill(part, &mut bytes)?;
        let stream = cargo.stream_of(part, self.sockets.len() as u64).unwrap_or_default();
        let socket = self.sockets[stream as usize].clone();
        let Some((last, rest)) = bytes.split_last() else {
            return Err(Failure::new(Status::InvalidArgument, "there is nothing to send"));
        };
        self.gate.pace(bytes.len() as u64)?;
        let sent = socket::write_within(&socket, rest, self.gate.patience());
        sent.map_err(|error| self.gate.explain(&self.to, &error))?;
        self.gate.sent_bytes.fetch_add(rest.len() as u64, Ordering::Relaxed);
        self.settle(&socket)?;
        Ok(Last { socket, byte: *last })
    }

    /// Sends the last byte. On success nobody knows from here on who has the guest.
    ///
    /// # Errors
    /// The kernel has not taken it, so the peer has no whole image.
    pub fn send_last(&self, last: &Last) -> Result<(), Failure> {
        let sent = socket::write_within(&last.socket, &[last.byte], self.gate.stall_timeout);
        sent.map_err(|error| self.gate.explain(&self.to, &error))?;
        self.gate.sent_bytes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Sends every part but the last.
    fn send_parts(&self, cargo: &Arc<Cargo>) -> Result<(), Failure> {
        let next = Arc::new(AtomicU64::new(0));
        let mut senders = Vec::new();
        for index in 0..self.sockets.len() {
            let sender = Sender {
                index: index as u64,
                streams: self.sockets.len() as u64,
                to: self.to.clone(),
                socket: self.sockets[index].clone(),
                gate: self.gate.clone(),
                cargo: cargo.clone(),
                next: next.clone(),
            };
            match spawn_named("dwcp-send", move || sender.run()) {
                Ok(thread) => senders.push(thread),
                Err(error) => {
                    self.gate.shut(Failure::new(Status::Io, format!("no thread: {error}")));
                }
            }
        }
        for sender in senders {
            if sender.join().is_err() {
                self.gate.shut(Failure::new(Status::Panic, "a sender's thread ended badly"));
            }
        }
        self.gate.check()
    }

    /// Says that there is no more, and tells what became of it, as far as TCP knows.
    pub fn close(self) -> String {
        let mut doubts = Vec::new();
        for socket in &self.sockets {
            let delivered = socket::wait_delivered(socket, self.gate.stall_timeout, &|| false);
            // v1 reads on until its peer closes.
            let closed = socket.shutdown(Shutdown::Write);
            doubts.extend(delivered.and(closed).err().map(|error| error.to_string()));
        }
        let deadline = Instant::now() + FAREWELL;
        let mut is_open = false;
        for socket in &self.sockets {
            let left = deadline.saturating_duration_since(Instant::now());
            match socket::has_hung_up(socket, left) {
                Ok(hung_up) => is_open |= !hung_up,
                Err(error) => doubts.push(error.to_string()),
            }
        }
        match (doubts.first(), is_open) {
            (Some(doubt), _) => format!("its system may lack some of it: {doubt}"),
            (None, true) => "its system has all of it".to_string(),
            (None, false) => "its system has all of it, and it has hung up".to_string(),
        }
    }

    /// A connection that has delivered what was written, and is still open.
    fn settle(&self, socket: &TcpStream) -> Result<(), Failure> {
        let (gate, to) = (&self.gate, &self.to);
        let delivered = socket::wait_delivered(socket, gate.patience(), &|| gate.check().is_err());
        delivered.map_err(|error| gate.explain(to, &error))?;
        match socket::has_hung_up(socket, Duration::ZERO) {
            Ok(false) => gate.check(),
            Ok(true) => {
                gate.check()?;
                let text = format!("v1 peer {to} hung up before the image was whole");
                Err(Failure::new(Status::ConnectionLost, text))
            }
            Err(error) => Err(gate.explain(to, &error)),
        }
    }
}

/// How long the peer may take to hang up in the end; only words depend on it.
const FAREWELL: Duration = Duration::from_secs(2);

/// One connection's thread.
struct Sender {
    index: u64,
    streams: u64,
    to: String,
    socket: Arc<TcpStream>,
    gate: Arc<Gate>,
    cargo: Arc<Cargo>,
    next: Arc<AtomicU64>,
}

impl Sender {
    fn run(self) {
        if let Err(failure) = self.send() {
            // The others' parts are of no use without this one's.
            self.gate.shut(failure);
        }
    }

    fn send(&self) -> Result<(), Failure> {
        let (last, mut bytes) = (self.cargo.part_count() - 1, Vec::new());
        let mut own = self.index;
        loop {
            let part = match self.cargo.stream_of(own, self.streams) {
                Some(_) => own,
                None => self.next.fetch_add(1, Ordering::Relaxed),
            };
            if part >= last {
                return Ok(());
            }
            self.cargo.fill(part, &mut bytes)?;
            self.gate.pace(bytes.len() as u64)?;
            let sent = socket::write_within(&self.socket, &bytes, self.gate.patience());
            sent.map_err(|error| self.gate.explain(&self.to, &error))?;
            self.gate.sent_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            own += self.streams;
        }
    }
}

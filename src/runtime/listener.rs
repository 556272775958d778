//! Accepting connections: preface, hello, and on to the migration that they belong to.

use crate::Status;
use crate::base::limits::MAX_PENDING_HANDSHAKES;
use crate::base::{MigrationId, StreamId};
use crate::observe::EventKind;
use crate::runtime::channel::Channel;
use crate::runtime::clock::now;
use crate::runtime::connection::{ConnectionError, FrameReader, FrameWriter};
use crate::runtime::connections::Connections;
use crate::runtime::handle::Arrival;
use crate::runtime::journal::Journal;
use crate::runtime::lock::lock;
use crate::runtime::metrics_teller::MetricsTeller;
use crate::runtime::modes::Modes;
use crate::runtime::path_teller::PathTeller;
use crate::runtime::probe_answers::{Answers, ProbeAnswers};
use crate::runtime::security::{Security, SecurityError, begins_with_tls, check_claim};
use crate::runtime::sys::readiness::stop_listening;
use crate::runtime::sys::thread::spawn_named;
use crate::runtime::tuning;
use crate::wire::hello::{Ended, Features, Purpose};
use crate::wire::{Frame, FrameKind, Hello, HelloReply, WireError};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long a connection may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// How long data streams may be silent; sources say something every two seconds.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a hello is turned down.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The code.
    pub status: Status,
    /// Why, for people.
    pub reason: String,
    /// Set if the migration is over.
    pub ended: Ended,
}

/// What a connection must show to be part of a migration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinKey {
    /// Drawn when the migration was opened, and told to who opened it alone.
    pub token: [u8; 16],
    /// The node that opened it.
    pub node: String,
}

/// Who decides which hello belongs where: the node.
pub trait Reception: Send + Sync {
    /// Our name, for replies.
    fn node_name(&self) -> String;

    /// The migration that this hello opens or joins.
    ///
    /// # Errors
    /// [`Refusal`].
    fn receive(&self, hello: &Hello, peer: SocketAddr) -> Result<Arc<dyn Arrival>, Refusal>;
}

/// Connections that have not said hello yet. When there are too many, the oldest gives way, so
/// that idle strangers cannot keep peers out.
#[derive(Default)]
struct Pending {
    next: u64,
    sockets: BTreeMap<u64, Arc<TcpStream>>,
}

/// What answers those who ask about this node.
#[derive(Clone)]
pub struct Tellers {
    /// Of the paths to its peers.
    pub paths: Arc<PathTeller>,
    /// Of its metrics.
    pub metrics: Arc<MetricsTeller>,
}

/// What all connections of a listener share.
struct Shared {
    security: Arc<Security>,
    probes: ProbeAnswers,
    tellers: Tellers,
    journal: Arc<Journal>,
}

/// A listening socket with its thread.
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
    connections: Arc<Connections>,
    thread: Option<JoinHandle<()>>,
}

impl Tellers {
    /// That tell nobody yet.
    pub fn new(modes: Arc<Modes>) -> Self {
        Self { paths: Arc::new(PathTeller::new(modes)), metrics: Arc::default() }
    }

    /// Answers a question about this node; none: the frame is no question.
    fn tell(
        &self,
        question: FrameKind,
        node: &str,
        asker: IpAddr,
        writer: &mut FrameWriter,
    ) -> Option<Result<(), String>> {
        match question {
            FrameKind::AskPaths => Some(self.paths.tell(node.to_owned(), asker, writer)),
            FrameKind::AskMetrics => Some(self.metrics.tell(node.to_owned(), asker, writer)),
            _ => None,
        }
    }
}

impl Refusal {
    /// A refusal of a migration that is not over.
    pub fn new(status: Status, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into(), ended: Ended::No }
    }
}

impl Listener {
    /// Listens and serves until dropped.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub fn start(
        address: SocketAddr,
        reception: Weak<dyn Reception>,
        security: Arc<Security>,
        tellers: Tellers,
        journal: Arc<Journal>,
    ) -> io::Result<Self> {
        let socket = TcpListener::bind(address)?;
        let address = socket.local_addr()?;
        let stopped = Arc::new(AtomicBool::new(false));
        let (accepting, stop) = (socket.try_clone()?, stopped.clone());
        let connections = Arc::new(Connections::default());
        let accepted = connections.clone();
        let probes = ProbeAnswers::default();
        let shared = Arc::new(Shared { security, probes, tellers, journal });
        let thread = spawn_named("dwcp-listen", move || {
            accept_all(&accepting, &stop, &reception, &shared, &accepted);
        })?;
        Ok(Self { socket, address, stopped, connections, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What was accepted; closed by the node once its migrations have ended.
    pub fn connections(&self) -> Arc<Connections> {
        self.connections.clone()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        let _ = stop_listening(&self.socket);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn accept_all(
    listener: &TcpListener,
    stopped: &AtomicBool,
    reception: &Weak<dyn Reception>,
    shared: &Arc<Shared>,
    connections: &Connections,
) {
    let pending = Arc::new(Mutex::new(Pending::default()));
    while !stopped.load(Ordering::Acquire) {
        let (socket, peer) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(_) if stopped.load(Ordering::Acquire) => return,
            Err(error) => {
                // Such as no free descriptor: one that waits may free some.
                let text = format!("cannot accept a connection: {error}");
                shared.journal.publish(None, None, EventKind::Notice { text });
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        let Some(reception) = reception.upgrade() else { return };
        if !shared.security.listens_to(peer.ip(), now()) {
            continue;
        }
        let socket = Arc::new(socket);
        let weak = Arc::downgrade(&socket);
        let number = lock(&pending).begin(socket.clone());
        let (waiting, shared) = (pending.clone(), shared.clone());
        let spawned = spawn_named("dwcp-recv", move || {
            let accepted = shake_hands(socket, peer, reception.as_ref(), &shared);
            lock(&waiting).sockets.remove(&number);
            drop(reception);
            match accepted {
                Ok(Some((migration, stream, reader, writer, name))) => {
                    migration.serve(stream, reader, writer, &format!("{name} at {peer}"));
                }
                Ok(None) => {}
                Err(rejected) => {
                    if rejected.is_stranger {
                        shared.security.count_failure(peer.ip(), now());
                    }
                    let (peer, reason) = (peer.to_string(), rejected.reason);
                    shared.journal.publish(None, None, EventKind::PeerRefused { peer, reason });
                }
            }
        });
        match spawned {
            Ok(thread) => connections.add(weak, thread),
            Err(_) => drop(lock(&pending).sockets.remove(&number)),
        }
    }
}

type Accepted = (Arc<dyn Arrival>, StreamId, FrameReader, FrameWriter, String);

/// Why a connection was closed before it was part of anything.
struct Rejected {
    reason: String,
    /// Whether the peer did not get as far as to show that it belongs here.
    is_stranger: bool,
}

/// None: the connection belonged to no migration, and all is said.
fn shake_hands(
    socket: Arc<TcpStream>,
    peer: SocketAddr,
    reception: &dyn Reception,
    shared: &Shared,
) -> Result<Option<Accepted>, Rejected> {
    let (channel, trust) = secure(&socket, &shared.security)?;
    let certified = channel.peer;
    let (mut reader, mut writer) =
        (FrameReader::new(channel.reader), FrameWriter::new(channel.writer));
    let node = reception.node_name();
    let answer = |writer: &mut FrameWriter, reply: &HelloReply| {
        let frame = Frame { kind: FrameKind::HelloReply, payload: reply.encode() };
        writer.open(&frame)
    };
    let refuse = |writer: &mut FrameWriter, refusal: &Refusal| answer(writer, &refusal.reply());
    let first = match read_first(&socket, &mut reader) {
        Ok(first) => first,
        Err(error) => {
            // Another version may understand this answer. To damaged bytes there is none: a peer
            // whose bytes the network damaged is to try again.
            if let ConnectionError::Wire(WireError::Version { .. }) = &error {
                refuse(&mut writer, &Refusal::new(error.status(), error.to_string()))?;
            }
            return Err(Rejected::stranger(error));
        }
    };
    if first.kind == FrameKind::Probe {
        socket.set_nodelay(true)?;
        let allowed = if trust.is_ok() { Answers::All } else { Answers::Probes };
        let served = shared.probes.serve(first, allowed, &mut reader, &mut writer);
        return served.map(|()| None).map_err(Rejected::stranger);
    }
    if let Err(error) = trust {
        refuse(&mut writer, &Refusal::new(error.status(), error.to_string()))?;
        return Err(Rejected::stranger(error));
    }
    if let Some(told) = shared.tellers.tell(first.kind, &node, peer.ip(), &mut writer) {
        return told.map(|()| None).map_err(|reason| Rejected { reason, is_stranger: false });
    }
    let hello = match Hello::decode(&first.payload) {
        Ok(hello) => hello,
        Err(error) => {
            refuse(&mut writer, &Refusal::new(error.status(), error.to_string()))?;
            return Err(Rejected::stranger(error));
        }
    };
    let received = check_claim(certified.as_deref(), &hello.node)
        .map_err(|error| Refusal::new(error.status(), error.to_string()))
        .and_then(|()| reception.receive(&hello, peer));
    match received {
        Ok(migration) => {
            tuning::tune_receiver(&socket, STALL_TIMEOUT)?;
            let token = migration.join_key().token;
            let flags = shared.tellers.paths.rollout().answer(&hello.node, hello.features.flags);
            let features = Features { flags, ..migration.agree(hello.features) };
            answer(&mut writer, &HelloReply::Accept { token, features, node })?;
            let set_up = migration.set_up(features, &mut reader, &mut writer);
            set_up.map_err(|error| Rejected { reason: error.to_string(), is_stranger: false })?;
            Ok(Some((migration, hello.stream, reader, writer, hello.node)))
        }
        Err(refusal) => {
            refuse(&mut writer, &refusal)?;
            Err(Rejected { reason: refusal.reason, is_stranger: false })
        }
    }
}

/// The connection, and why its peer is to be told no; a probe may come from anybody.
fn secure(
    socket: &Arc<TcpStream>,
    security: &Security,
) -> Result<(Channel, Result<(), SecurityError>), Rejected> {
    socket.set_read_timeout(Some(HELLO_TIMEOUT))?;
    socket.set_write_timeout(Some(HELLO_TIMEOUT))?;
    let is_tls = begins_with_tls(socket).map_err(ConnectionError::from)?;
    match (security.identity().is_some(), is_tls) {
        (true, false) => Ok((Channel::plain(socket.clone()), Err(SecurityError::PlainPeer))),
        (false, true) => Err(Rejected::stranger("the peer speaks TLS, this node does not")),
        _ => {
            let channel = security.accept(socket.clone(), HELLO_TIMEOUT);
            let channel = channel.map_err(Rejected::stranger)?;
            let trust = security.check_allowed(channel.peer.as_deref());
            Ok((channel, trust))
        }
    }
}

fn read_first(socket: &TcpStream, reader: &mut FrameReader) -> Result<Frame, ConnectionError> {
    socket.set_read_timeout(Some(HELLO_TIMEOUT))?;
    reader.preface()?;
    let kinds = [FrameKind::Probe, FrameKind::AskPaths, FrameKind::AskMetrics];
    reader.expect_or(FrameKind::Hello, &kinds)
}

impl Rejected {
    fn stranger(reason: impl ToString) -> Self {
        Self { reason: reason.to_string(), is_stranger: true }
    }
}

impl From<io::Error> for Rejected {
    fn from(error: io::Error) -> Self {
        ConnectionError::from(error).into()
    }
}

impl From<ConnectionError> for Rejected {
    fn from(error: ConnectionError) -> Self {
        Self { reason: error.to_string(), is_stranger: true }
    }
}

impl Pending {
    fn begin(&mut self, socket: Arc<TcpStream>) -> u64 {
        if self.sockets.len() >= MAX_PENDING_HANDSHAKES
            && let Some((_, oldest)) = self.sockets.pop_first()
        {
            // An error means that it is gone already.
            let _ = oldest.shutdown(Shutdown::Both);
        }
        self.next += 1;
        self.sockets.insert(self.next, socket);
        self.next
    }
}

impl Refusal {
    /// As it is sent.
    pub fn reply(&self) -> HelloReply {
        let (status, reason) = (self.status.code(), self.reason.clone());
        HelloReply::Refuse { status, reason, ended: self.ended }
    }
}

/// Whether a hello names this migration's token, or its guest.
///
/// # Errors
/// [`Refusal`] names what differs.
pub fn check_join(migration: &dyn Arrival, hello: &Hello) -> Result<(), Refusal> {
    match &hello.purpose {
        Purpose::Join { token } if *token != migration.join_key().token => {
            Err(Refusal::new(Status::Refused, "the token is not this migration's"))
        }
        _ if hello.node != migration.join_key().node => {
            let text = format!("migration {} is another node's", hello.migration);
            Err(Refusal::new(Status::Refused, text))
        }
        Purpose::Open { guest, .. } | Purpose::Relay { guest, .. }
            if guest != migration.guest() =>
        {
            let text = format!("migration {} is of another guest than {guest:?}", hello.migration);
            Err(Refusal::new(Status::Refused, text))
        }
        _ => Ok(()),
    }
}

/// Turns a connection away that comes too late or twice.
pub fn no_room(hello: &Hello) -> Refusal {
    let text = format!("no further stream; number {} is refused", hello.stream.0);
    Refusal::new(Status::Busy, text)
}

/// Names a migration in a refusal.
pub fn unknown(id: MigrationId) -> Refusal {
    Refusal::new(Status::NotFound, format!("no migration {id} is under way here"))
}

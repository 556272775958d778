//! Accepting connections: preface, hello, and on to the migration that they belong to.

use crate::Status;
use crate::base::limits::MAX_PENDING_HANDSHAKES;
use crate::base::{MigrationId, StreamId};
use crate::observe::EventKind;
use crate::runtime::connection::{ConnectionError, FrameReader, FrameWriter};
use crate::runtime::connections::Connections;
use crate::runtime::handle::Arrival;
use crate::runtime::journal::Journal;
use crate::runtime::lock::lock;
use crate::runtime::path_teller::PathTeller;
use crate::runtime::probe_answers::ProbeAnswers;
use crate::runtime::sys::readiness::stop_listening;
use crate::runtime::sys::thread::spawn_named;
use crate::runtime::tuning;
use crate::wire::hello::{Ended, Purpose};
use crate::wire::{Frame, FrameKind, Hello, HelloReply, WireError};
use std::collections::BTreeMap;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
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

/// What answers connections that belong to no migration.
struct Answers {
    probes: ProbeAnswers,
    paths: Arc<PathTeller>,
}

/// A listening socket with its thread.
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
    connections: Arc<Connections>,
    thread: Option<JoinHandle<()>>,
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
        paths: Arc<PathTeller>,
        journal: Arc<Journal>,
    ) -> io::Result<Self> {
        let socket = TcpListener::bind(address)?;
        let address = socket.local_addr()?;
        let stopped = Arc::new(AtomicBool::new(false));
        let (accepting, stop) = (socket.try_clone()?, stopped.clone());
        let connections = Arc::new(Connections::default());
        let accepted = connections.clone();
        let answers = Arc::new(Answers { probes: ProbeAnswers::default(), paths });
        let thread = spawn_named("dwcp-listen", move || {
            accept_all(&accepting, &stop, (&reception, &answers), &journal, &accepted);
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
    (reception, answers): (&Weak<dyn Reception>, &Arc<Answers>),
    journal: &Arc<Journal>,
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
                journal.publish(None, None, EventKind::Notice { text });
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        let Some(reception) = reception.upgrade() else { return };
        let socket = Arc::new(socket);
        let weak = Arc::downgrade(&socket);
        let number = lock(&pending).begin(socket.clone());
        let (waiting, news, answers) = (pending.clone(), journal.clone(), answers.clone());
        let spawned = spawn_named("dwcp-recv", move || {
            let accepted = shake_hands(socket, peer, reception.as_ref(), &answers);
            lock(&waiting).sockets.remove(&number);
            drop(reception);
            match accepted {
                Ok(Some((migration, stream, reader, writer, name))) => {
                    migration.serve(stream, reader, writer, &format!("{name} at {peer}"));
                }
                Ok(None) => {}
                Err(reason) => {
                    let peer = peer.to_string();
                    news.publish(None, None, EventKind::PeerRefused { peer, reason });
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

/// None: the connection belonged to no migration, and all is said.
fn shake_hands(
    socket: Arc<TcpStream>,
    peer: SocketAddr,
    reception: &dyn Reception,
    answers: &Answers,
) -> Result<Option<Accepted>, String> {
    let hello = read_hello(&socket);
    let (mut writer, node) = (FrameWriter::new(socket.clone()), reception.node_name());
    let answer = |writer: &mut FrameWriter, reply: &HelloReply| {
        let frame = Frame { kind: FrameKind::HelloReply, payload: reply.encode() };
        writer.open(&frame).map_err(|error| error.to_string())
    };
    let (mut reader, hello) = match hello {
        Ok(hello) => hello,
        Err(error) => {
            // Another version may understand this answer. To damaged bytes there is none: a peer
            // whose bytes the network damaged is to try again.
            if let ConnectionError::Wire(WireError::Version { .. }) = &error {
                answer(&mut writer, &Refusal::new(error.status(), error.to_string()).reply())?;
            }
            return Err(error.to_string());
        }
    };
    if hello.kind == FrameKind::Probe {
        socket.set_nodelay(true).map_err(|error| error.to_string())?;
        return answers.probes.serve(hello, &mut reader, &mut writer).map(|()| None);
    }
    if hello.kind == FrameKind::AskPaths {
        return answers.paths.tell(node, peer.ip(), &mut writer).map(|()| None);
    }
    let hello = match Hello::decode(&hello.payload) {
        Ok(hello) => hello,
        Err(error) => {
            let refusal = Refusal::new(error.status(), error.to_string());
            answer(&mut writer, &refusal.reply())?;
            return Err(error.to_string());
        }
    };
    match reception.receive(&hello, peer) {
        Ok(migration) => {
            tuning::tune_receiver(&socket, STALL_TIMEOUT).map_err(|error| error.to_string())?;
            let (token, features) =
                (migration.token(), migration.features().common(hello.features));
            answer(&mut writer, &HelloReply::Accept { token, features, node })?;
            Ok(Some((migration, hello.stream, reader, writer, hello.node)))
        }
        Err(refusal) => {
            answer(&mut writer, &refusal.reply())?;
            Err(refusal.reason)
        }
    }
}

fn read_hello(socket: &Arc<TcpStream>) -> Result<(FrameReader, Frame), ConnectionError> {
    socket.set_read_timeout(Some(HELLO_TIMEOUT))?;
    socket.set_write_timeout(Some(HELLO_TIMEOUT))?;
    let mut reader = FrameReader::new(socket.clone());
    reader.preface()?;
    let first = reader.expect_or(FrameKind::Hello, &[FrameKind::Probe, FrameKind::AskPaths])?;
    Ok((reader, first))
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
        Purpose::Join { token } if *token != migration.token() => {
            Err(Refusal::new(Status::Refused, "the token is not this migration's"))
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

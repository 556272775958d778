//! Connecting to the destination: socket, preface, hello. The first connection opens the
//! migration; all others join it with the token that the first one brought.

use crate::base::limits::{MAX_BASELINE_PAGES, MAX_CHUNK_BYTES, MAX_MULTIFD_CHANNELS};
use crate::base::{MigrationId, StreamId};
use crate::encoding::Codec;
use crate::qemu::PAGE_BYTES;
use crate::rollout::Flag;
use crate::runtime::channel::Channel;
use crate::runtime::connection::{ConnectionError, FrameReader, FrameWriter};
use crate::runtime::lane::{self, Lane};
use crate::runtime::lock::lock;
use crate::runtime::rollout::Decider;
use crate::runtime::security::{Security, SecurityError, check_claim};
use crate::runtime::sources::Sources;
use crate::runtime::steering::Steering;
use crate::runtime::tuning;
use crate::wire::hello::{Ended, Features, Purpose};
use crate::wire::{Frame, FrameKind, Hello, HelloReply};
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long one attempt to connect may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the peer may take to answer a hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Raw bytes of one chunk, unless the peer takes less.
const CHUNK_BYTES: u32 = 256 * 1024;

/// What this library can do.
pub const FEATURES: Features = Features {
    codecs: 1 << Codec::None as u8 | 1 << Codec::Lz4 as u8 | 1 << Codec::Zstd as u8,
    chunk_bytes: CHUNK_BYTES,
    baseline_pages: MAX_BASELINE_PAGES,
    held_pages: true,
    multifd_channels: MAX_MULTIFD_CHANNELS,
    post_copy: true,
    rdma: false,
    recovers: None,
    flags: u32::MAX,
};

const _: () = assert!(CHUNK_BYTES <= MAX_CHUNK_BYTES);

/// Makes the connections of one migration.
pub struct Dialer {
    /// The migration.
    pub id: MigrationId,
    /// What the first connection is for.
    pub opening: Purpose,
    /// What this side can do.
    pub features: Features,
    /// Our node's name.
    pub node: String,
    /// Where to connect, `HOST:PORT`.
    pub to: String,
    /// How long the peer may leave written data untouched.
    pub stall_timeout: Duration,
    steering: Arc<Steering>,
    sources: Sources,
    /// Pages by RDMA, where connections may have that.
    lane: Option<Arc<Lane>>,
    opened: Mutex<Opened>,
}

#[derive(Clone)]
enum Opened {
    No,
    UnderWay,
    /// With this token, by the node of this name.
    Yes([u8; 16], String),
}

/// A connection that is part of a migration.
pub struct Joined {
    /// To write to.
    pub writer: FrameWriter,
    /// To read from.
    pub reader: FrameReader,
    /// What both can do.
    pub features: Features,
    /// The other end, for people.
    pub peer: String,
}

/// How far an attempt is.
pub enum Stage<'a> {
    /// A socket is there; nothing has blocked on it yet.
    Connected(&'a Arc<TcpStream>),
    /// The other side wants the connection; what it is to carry is being prepared, which may take long.
    SetUpBegins,
    /// That has ended, well or not.
    SetUpEnds,
}

/// What an attempt brought.
pub enum Dialed {
    /// A connection that is part of the migration.
    Up(Box<Joined>),
    /// The destination does not want it.
    Refused {
        /// Status code.
        status: i32,
        /// Why.
        reason: String,
        /// Set if it says that the migration is over.
        ended: Ended,
    },
    /// One side does not trust the other.
    Distrusted(SecurityError),
    /// Another stream is opening the migration.
    Waiting,
}

impl Dialer {
    /// A dialer that has not connected yet.
    pub fn new(
        id: MigrationId,
        (opening, features): (Purpose, Features),
        node: String,
        (to, steering): (String, Arc<Steering>),
        stall_timeout: Duration,
    ) -> Self {
        let opened = Mutex::new(Opened::No);
        let rollout = steering.modes().rollout().clone();
        let gate = Decider::for_peer(rollout, Flag::InternetOptimization, &to);
        let sources = Sources::new(steering.options().source_addresses).gated(gate);
        let lane = None;
        Self { id, opening, features, node, to, stall_timeout, steering, sources, lane, opened }
    }

    /// With a lane for pages beside its connections.
    pub fn with_lane(self, lane: Arc<Lane>) -> Self {
        Self { lane: Some(lane), ..self }
    }

    /// A connection has served and ended, well or not.
    pub fn served(&self, ended_well: bool) {
        self.steering.modes().rollout().served(&self.to, ended_well);
    }

    /// What decides about a flag for the peer that is dialed.
    pub fn decider(&self, flag: Flag) -> Decider {
        Decider::for_peer(self.steering.modes().rollout().clone(), flag, &self.to)
    }

    /// The guest's page size, for chunks that come back, which none should.
    pub fn page_bytes(&self) -> u32 {
        match &self.opening {
            Purpose::Open { layout, .. } => layout.page_bytes(),
            Purpose::Relay { .. } | Purpose::Join { .. } => PAGE_BYTES as u32,
        }
    }

    /// Whether the connection that opens the migration is being made.
    pub fn is_opening(&self) -> bool {
        matches!(*lock(&self.opened), Opened::UnderWay)
    }

    /// The local addresses that it connects from.
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Makes a connection of a slot, and tells how that goes on.
    ///
    /// # Errors
    /// The socket's error, or an answer that does not follow the protocol.
    pub fn dial(
        &self,
        (stream, slot): (StreamId, usize),
        seen: &dyn Fn(Stage<'_>),
    ) -> Result<Dialed, ConnectionError> {
        let before = {
            let mut opened = lock(&self.opened);
            let before = opened.clone();
            match before {
                Opened::UnderWay => return Ok(Dialed::Waiting),
                Opened::No => *opened = Opened::UnderWay,
                Opened::Yes(..) => {}
            }
            before
        };
        let is_first = matches!(before, Opened::No);
        let dialed = match self.shake_hands((stream, slot), &before, seen) {
            // Trying again would end alike. Once the migration is under way it is tried all the same:
            // one forged packet must not be worth more than a link that is down.
            Err(ConnectionError::Security(error)) if is_first && !error.is_passing() => {
                Ok(Dialed::Distrusted(error))
            }
            dialed => dialed,
        };
        if is_first && !matches!(dialed, Ok(Dialed::Up(_))) {
            *lock(&self.opened) = Opened::No;
        }
        dialed
    }

    fn shake_hands(
        &self,
        (stream, slot): (StreamId, usize),
        opened: &Opened,
        seen: &dyn Fn(Stage<'_>),
    ) -> Result<Dialed, ConnectionError> {
        let (modes, dscp) = (self.steering.modes(), self.steering.options().dscp);
        let security = modes.security();
        let socket = Arc::new(self.sources.connect(&self.to, security, slot, dscp)?);
        seen(Stage::Connected(&socket));
        tuning::tune_sender(&socket, self.stall_timeout)?;
        modes.tune(&self.to, &socket);
        let Channel { reader, writer, peer } =
            security.dial(socket.clone(), &self.to, HELLO_TIMEOUT)?;
        socket.set_read_timeout(Some(HELLO_TIMEOUT))?;
        let purpose = match opened {
            Opened::Yes(token, _) => Purpose::Join { token: *token },
            Opened::No | Opened::UnderWay => self.opening.clone(),
        };
        let (migration, node) = (self.id, self.node.clone());
        let lane = self.lane.as_ref().filter(|lane| lane.is_open());
        let rollout = modes.rollout();
        let flags = rollout.wishes(&self.to);
        let ours = Features { rdma: lane.is_some(), flags, ..self.features };
        let hello = Hello { migration, stream, node, features: ours, purpose };
        let (mut writer, mut reader) = (FrameWriter::new(writer), FrameReader::new(reader));
        writer.open(&Frame { kind: FrameKind::Hello, payload: hello.encode() })?;
        reader.preface()?;
        match HelloReply::decode(&reader.expect(FrameKind::HelloReply)?)? {
            HelloReply::Refuse { status, reason, ended } => {
                Ok(Dialed::Refused { status, reason, ended })
            }
            HelloReply::Accept { token, features, node } => {
                check_node(opened, peer.as_deref(), &node)?;
                *lock(&self.opened) = Opened::Yes(token, node.clone());
                self.sources.worked(slot);
                rollout.heard(&self.to, &node, flags & !features.flags);
                modes.watch(&self.to, &socket);
                modes.note_name(&self.to, &node);
                let features = ours.common(features);
                match lane {
                    Some(lane) if features.rdma => {
                        socket.set_read_timeout(Some(lane::SETUP_TIMEOUT))?;
                        seen(Stage::SetUpBegins);
                        let offered = lane.offer(&mut reader, &mut writer);
                        seen(Stage::SetUpEnds);
                        offered?;
                    }
                    Some(lane) => lane.peer_lacks_it(),
                    None => {}
                }
                socket.set_read_timeout(None)?;
                let address =
                    socket.peer_addr().map_or_else(|_| self.to.clone(), |a| a.to_string());
                let peer = format!("{node} at {address}");
                Ok(Dialed::Up(Box::new(Joined { writer, reader, features, peer })))
            }
        }
    }
}

/// The node that answers must be who it says, and on further connections the same as on the first.
fn check_node(
    opened: &Opened,
    certified: Option<&str>,
    claimed: &str,
) -> Result<(), SecurityError> {
    check_claim(certified, claimed)?;
    match opened {
        Opened::Yes(_, first) => check_claim(certified.map(|_| first.as_str()), claimed),
        Opened::No | Opened::UnderWay => Ok(()),
    }
}

/// Tries every address of the name, in order; plain connections to public ones are not tried.
///
/// # Errors
/// That of the last address.
pub fn connect(to: &str, security: &Security) -> Result<TcpStream, ConnectionError> {
    let addresses = addresses(to, security)?;
    Ok(connect_first(addresses.into_iter(), to, &|address| {
        TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)
    })?)
}

/// The addresses of a name to which connections may go: plain ones to no public address.
///
/// # Errors
/// It is not decided how connections are secured, the name is not resolved, or all that it has are
/// public ones to which a plain connection may not go.
pub fn addresses(to: &str, security: &Security) -> Result<Vec<SocketAddr>, ConnectionError> {
    security.check_decided()?;
    let mut refused = None;
    let allowed = |address: &SocketAddr| match security.check_plain(address.ip()) {
        Ok(()) => true,
        Err(error) => {
            refused = Some(error);
            false
        }
    };
    let addresses: Vec<SocketAddr> = to.to_socket_addrs()?.filter(allowed).collect();
    match refused {
        Some(error) if addresses.is_empty() => Err(error.into()),
        _ => Ok(addresses),
    }
}

/// The first connection that can be made.
///
/// # Errors
/// That of the last address.
pub fn connect_first(
    addresses: impl Iterator<Item = SocketAddr>,
    to: &str,
    connect: &dyn Fn(SocketAddr) -> io::Result<TcpStream>,
) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{to} has no address"));
    for address in addresses {
        match connect(address) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = io::Error::new(error.kind(), format!("{address}: {error}")),
        }
    }
    Err(last)
}

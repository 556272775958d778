//! Connecting to the destination: socket, preface, hello. The first connection opens the
//! migration; all others join it with the token that the first one brought.

use crate::base::limits::{MAX_BASELINE_PAGES, MAX_CHUNK_BYTES, MAX_MULTIFD_CHANNELS};
use crate::base::{MigrationId, StreamId};
use crate::encoding::Codec;
use crate::qemu::PAGE_BYTES;
use crate::runtime::connection::{ConnectionError, FrameReader, FrameWriter};
use crate::runtime::lock::lock;
use crate::runtime::modes::Modes;
use crate::runtime::tuning;
use crate::wire::hello::{Ended, Features, Purpose};
use crate::wire::{Frame, FrameKind, Hello, HelloReply};
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
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
    modes: Arc<Modes>,
    opened: Mutex<Opened>,
}

#[derive(Clone, Copy)]
enum Opened {
    No,
    UnderWay,
    Yes([u8; 16]),
}

/// What an attempt brought.
pub enum Dialed {
    /// A connection that is part of the migration.
    Up {
        /// To write to.
        writer: FrameWriter,
        /// To read from.
        reader: FrameReader,
        /// What both can do.
        features: Features,
        /// The other end, for people.
        peer: String,
    },
    /// The destination does not want it.
    Refused {
        /// Status code.
        status: i32,
        /// Why.
        reason: String,
        /// Set if it says that the migration is over.
        ended: Ended,
    },
    /// Another stream is opening the migration.
    Waiting,
}

impl Dialer {
    /// A dialer that has not connected yet.
    pub fn new(
        id: MigrationId,
        (opening, features): (Purpose, Features),
        node: String,
        (to, modes): (String, Arc<Modes>),
        stall_timeout: Duration,
    ) -> Self {
        let opened = Mutex::new(Opened::No);
        Self { id, opening, features, node, to, stall_timeout, modes, opened }
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

    /// Makes a connection. `register` is shown the socket before anything can block on it.
    ///
    /// # Errors
    /// The socket's error, or an answer that does not follow the protocol.
    pub fn dial(
        &self,
        stream: StreamId,
        register: &dyn Fn(&Arc<TcpStream>),
    ) -> Result<Dialed, ConnectionError> {
        let before = {
            let mut opened = lock(&self.opened);
            let before = *opened;
            match before {
                Opened::UnderWay => return Ok(Dialed::Waiting),
                Opened::No => *opened = Opened::UnderWay,
                Opened::Yes(_) => {}
            }
            before
        };
        let dialed = self.shake_hands(stream, before, register);
        if let (Opened::No, Ok(Dialed::Refused { .. }) | Err(_)) = (before, &dialed) {
            *lock(&self.opened) = Opened::No;
        }
        dialed
    }

    fn shake_hands(
        &self,
        stream: StreamId,
        opened: Opened,
        register: &dyn Fn(&Arc<TcpStream>),
    ) -> Result<Dialed, ConnectionError> {
        let socket = Arc::new(connect(&self.to)?);
        register(&socket);
        tuning::tune_sender(&socket, self.stall_timeout)?;
        self.modes.tune(&self.to, &socket);
        socket.set_read_timeout(Some(HELLO_TIMEOUT))?;
        let purpose = match opened {
            Opened::Yes(token) => Purpose::Join { token },
            Opened::No | Opened::UnderWay => self.opening.clone(),
        };
        let (migration, node) = (self.id, self.node.clone());
        let hello = Hello { migration, stream, node, features: self.features, purpose };
        let mut writer = FrameWriter::new(socket.clone());
        writer.open(&Frame { kind: FrameKind::Hello, payload: hello.encode() })?;
        let mut reader = FrameReader::new(socket.clone());
        reader.preface()?;
        match HelloReply::decode(&reader.expect(FrameKind::HelloReply)?)? {
            HelloReply::Refuse { status, reason, ended } => {
                Ok(Dialed::Refused { status, reason, ended })
            }
            HelloReply::Accept { token, features, node } => {
                *lock(&self.opened) = Opened::Yes(token);
                self.modes.watch(&self.to, &socket);
                socket.set_read_timeout(None)?;
                let features = self.features.common(features);
                let address =
                    socket.peer_addr().map_or_else(|_| self.to.clone(), |a| a.to_string());
                Ok(Dialed::Up { writer, reader, features, peer: format!("{node} at {address}") })
            }
        }
    }
}

/// Tries every address of the name, in order.
///
/// # Errors
/// That of the last address.
pub fn connect(to: &str) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = to.to_socket_addrs()?.collect();
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{to} has no address"));
    for address in addresses {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = io::Error::new(error.kind(), format!("{address}: {error}")),
        }
    }
    Err(last)
}

//! Connecting to the destination: socket, preface, hello. The first connection opens the
//! migration; all others join it with the token that the first one brought.

use crate::base::limits::{
    MAX_ADDRESS_BYTES, MAX_BASELINE_PAGES, MAX_CHUNK_BYTES, MAX_MULTIFD_CHANNELS,
};
use crate::base::{MigrationId, StreamId};
use crate::encoding::Codec;
use crate::qemu::PAGE_BYTES;
use crate::runtime::channel::Channel;
use crate::runtime::connection::{ConnectionError, FrameReader, FrameWriter};
use crate::runtime::lock::lock;
use crate::runtime::modes::Modes;
use crate::runtime::security::{Security, SecurityError, check_claim};
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
    security: Arc<Security>,
    opened: Mutex<Opened>,
}

#[derive(Clone)]
enum Opened {
    No,
    UnderWay,
    /// With this token, by the node of this name.
    Yes([u8; 16], String),
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
        to: String,
        (modes, security): (Arc<Modes>, Arc<Security>),
        stall_timeout: Duration,
    ) -> Self {
        let opened = Mutex::new(Opened::No);
        Self { id, opening, features, node, to, stall_timeout, modes, security, opened }
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
            let before = opened.clone();
            match before {
                Opened::UnderWay => return Ok(Dialed::Waiting),
                Opened::No => *opened = Opened::UnderWay,
                Opened::Yes(..) => {}
            }
            before
        };
        let is_first = matches!(before, Opened::No);
        let dialed = match self.shake_hands(stream, &before, register) {
            // Trying again would end alike. Once the migration is under way it is tried all the same:
            // one forged packet must not be worth more than a link that is down.
            Err(ConnectionError::Security(error)) if is_first && !error.is_passing() => {
                Ok(Dialed::Distrusted(error))
            }
            dialed => dialed,
        };
        if is_first && !matches!(dialed, Ok(Dialed::Up { .. })) {
            *lock(&self.opened) = Opened::No;
        }
        dialed
    }

    fn shake_hands(
        &self,
        stream: StreamId,
        opened: &Opened,
        register: &dyn Fn(&Arc<TcpStream>),
    ) -> Result<Dialed, ConnectionError> {
        let socket = Arc::new(connect(&self.to, &self.security)?);
        register(&socket);
        tuning::tune_sender(&socket, self.stall_timeout)?;
        self.modes.tune(&self.to, &socket);
        let Channel { reader, writer, peer } =
            self.security.dial(socket.clone(), &self.to, HELLO_TIMEOUT)?;
        socket.set_read_timeout(Some(HELLO_TIMEOUT))?;
        let purpose = match opened {
            Opened::Yes(token, _) => Purpose::Join { token: *token },
            Opened::No | Opened::UnderWay => self.opening.clone(),
        };
        let (migration, node) = (self.id, self.node.clone());
        let hello = Hello { migration, stream, node, features: self.features, purpose };
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

/// Checks the form of `HOST:PORT` without asking any name server.
///
/// # Errors
/// What is wrong with it.
pub fn check_address(to: &str) -> Result<(), String> {
    if to.len() > MAX_ADDRESS_BYTES {
        return Err(format!("it is longer than {MAX_ADDRESS_BYTES} bytes"));
    }
    if to.chars().any(|char| char.is_control() || char.is_whitespace()) {
        return Err("it holds spaces or control characters".into());
    }
    let (host, port) = to.rsplit_once(':').ok_or("no port")?;
    if host.is_empty() || host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
        return Err("the host is empty, or an IPv6 address without brackets".into());
    }
    match port.parse::<u16>() {
        Ok(0) | Err(_) => Err(format!("port {port:?} is not 1 to 65535")),
        Ok(_) => Ok(()),
    }
}

/// Tries every address of the name, in order; plain connections to public ones are not tried.
///
/// # Errors
/// That of the last address.
pub fn connect(to: &str, security: &Security) -> Result<TcpStream, ConnectionError> {
    security.check_decided()?;
    let addresses: Vec<SocketAddr> = to.to_socket_addrs()?.collect();
    let nowhere = io::Error::new(io::ErrorKind::NotFound, format!("{to} has no address"));
    let mut last = ConnectionError::Io(nowhere);
    for address in addresses {
        if let Err(error) = security.check_plain(address.ip()) {
            last = error.into();
            continue;
        }
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(socket) => return Ok(socket),
            Err(error) => {
                let text = format!("{address}: {error}");
                last = ConnectionError::Io(io::Error::new(error.kind(), text));
            }
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked_before_anything_is_dialed() {
        for good in ["host:1", "10.0.0.1:65535", "[::1]:7"] {
            assert_eq!(check_address(good), Ok(()));
        }
        for (bad, text) in [
            ("host", "no port"),
            (":1", "empty"),
            ("::1:7", "brackets"),
            ("h:0", "\"0\""),
            ("h:x", "\"x\""),
            ("h\x1b[31m:1", "control characters"),
            ("a b:1", "spaces"),
        ] {
            let error = check_address(bad).unwrap_err();
            assert!(error.contains(text), "{bad}: {error}");
        }
    }
}

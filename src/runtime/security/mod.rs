//! Who may talk to this node, and over what: TLS 1.3 with certificates on both sides, or plain TCP
//! where that was asked for by name.
//!
//! A node is known by the name in its certificate, which an authority of the fleet signed. Who dials
//! checks that the certificate is also for the host that was dialed; who accepts knows the peer's
//! name before the first frame. docs/security.md has the threats, and the test of each answer.

pub mod authority;
mod certificate;
mod failures;
pub mod handshake;
pub mod identity;
pub mod records;
pub mod session;
#[cfg(test)]
mod test_identity;

pub use certificate::{CertificateFacts, EXPIRY_NOTICE_DAYS};
pub use identity::{Identity, IdentityError};

use crate::Status;
use crate::base::Time;
use crate::base::address::is_public;
use crate::runtime::channel::Channel;
use crate::runtime::lock::lock;
use failures::Failures;
use handshake::{HandshakeError, Side};
use identity::PROTOCOL;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use std::io::{self, Read};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How a node's connections are secured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SecurityOptions {
    /// Nobody has decided: the node neither listens nor dials.
    #[default]
    Undecided,
    /// TLS with the identity in a directory.
    Tls {
        /// Where `node.pem` and `ca.pem` are.
        identity_dir: PathBuf,
        /// Names of the nodes that are talked to; empty: all whose certificate is trusted.
        allowed_peers: Vec<String>,
    },
    /// No encryption and no proof of who the peer is. Never to or from a public address.
    Plain,
}

/// A connection is not to be, for reasons of security.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    /// There is nothing to secure connections with.
    #[error(
        "neither an identity nor plain connections were chosen; make one by \
         `dwcp-v3-cli identity init` and `identity issue`"
    )]
    Undecided,
    /// The identity cannot be used.
    #[error("identity: {0}")]
    Identity(#[from] IdentityError),
    /// A plain connection would leave one's own networks.
    #[error("{0} is a public address, to and from which connections are never plain")]
    Public(IpAddr),
    /// The name in the certificate differs from what the node is called.
    #[error("the node is called {wanted:?}, its certificate says {found:?}")]
    OwnName {
        /// As configured.
        wanted: String,
        /// In the certificate.
        found: String,
    },
    /// The handshake failed.
    #[error("TLS with the peer failed: {0}")]
    Handshake(#[from] HandshakeError),
    /// The peer speaks something else over TLS.
    #[error("the peer does not speak dwcp/3 over TLS")]
    Protocol,
    /// The certificate is trusted, but has no node's name.
    #[error("the peer's certificate names no node: {0}")]
    Nameless(String),
    /// Not on the list.
    #[error("node {0:?} is not among the allowed peers")]
    NotAllowed(String),
    /// The peer claims another name than its certificate has.
    #[error("the peer calls itself {claimed:?}, its certificate says {certified:?}")]
    PeerName {
        /// In its hello.
        claimed: String,
        /// In its certificate.
        certified: String,
    },
    /// The host that was dialed cannot be in any certificate.
    #[error("{0:?} is neither an address nor a DNS name")]
    Host(String),
    /// A plain connection to a node that wants TLS.
    #[error("this node speaks TLS only")]
    PlainPeer,
}

impl SecurityError {
    /// Whether trying again later may help.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Handshake(HandshakeError::Tls(rustls::Error::AlertReceived(_))) => false,
            Self::Handshake(error) => !matches!(error, HandshakeError::Tls(_)),
            _ => false,
        }
    }

    /// The code.
    pub fn status(&self) -> Status {
        match self {
            Self::Handshake(error) if !matches!(error, HandshakeError::Tls(_)) => {
                Status::ConnectionLost
            }
            _ => Status::Refused,
        }
    }
}

/// What holds for a node's connections now.
pub struct Security {
    options: SecurityOptions,
    /// With TLS alone.
    identity: Mutex<Option<Arc<Identity>>>,
    failures: Mutex<Failures>,
}

impl Security {
    /// Reads what the options name.
    ///
    /// # Errors
    /// The identity cannot be used.
    pub fn open(options: SecurityOptions) -> Result<Arc<Self>, SecurityError> {
        let identity = read_identity(&options)?;
        let failures = Mutex::new(Failures::default());
        Ok(Arc::new(Self { options, identity: Mutex::new(identity), failures }))
    }

    /// Reads the identity anew, for connections from now on.
    ///
    /// # Errors
    /// It cannot be used, or is of another node; the one that was in use stays.
    pub fn reload(&self) -> Result<(), SecurityError> {
        let fresh = read_identity(&self.options)?;
        let mut identity = lock(&self.identity);
        if let (Some(old), Some(new)) = (identity.as_ref(), fresh.as_ref())
            && old.node != new.node
        {
            let (wanted, found) = (old.node.clone(), new.node.clone());
            return Err(SecurityError::OwnName { wanted, found });
        }
        *identity = fresh;
        Ok(())
    }

    /// The options.
    pub fn options(&self) -> &SecurityOptions {
        &self.options
    }

    /// The identity in use; none without TLS.
    pub fn identity(&self) -> Option<Arc<Identity>> {
        lock(&self.identity).clone()
    }

    /// Whether connections are made at all.
    ///
    /// # Errors
    /// [`SecurityError::Undecided`].
    pub fn check_decided(&self) -> Result<(), SecurityError> {
        match self.options {
            SecurityOptions::Undecided => Err(SecurityError::Undecided),
            SecurityOptions::Tls { .. } | SecurityOptions::Plain => Ok(()),
        }
    }

    /// Whether a node may listen there.
    ///
    /// # Errors
    /// Nothing was decided, or the address is public and connections are plain.
    pub fn check_listen(&self, address: SocketAddr) -> Result<(), SecurityError> {
        self.check_decided()?;
        self.check_plain(address.ip())
    }

    /// Whether a connection may go to or come from there, if it is plain.
    ///
    /// # Errors
    /// [`SecurityError::Public`].
    pub fn check_plain(&self, address: IpAddr) -> Result<(), SecurityError> {
        match self.options == SecurityOptions::Plain && is_public(address) {
            true => Err(SecurityError::Public(address)),
            false => Ok(()),
        }
    }

    /// Secures a connection that was made to `to`, `HOST:PORT`.
    ///
    /// # Errors
    /// [`SecurityError`].
    pub fn dial(
        &self,
        socket: Arc<TcpStream>,
        to: &str,
        patience: Duration,
    ) -> Result<Channel, SecurityError> {
        let Some(identity) = self.identity() else { return self.bare(socket) };
        let host = to.rsplit_once(':').map_or(to, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| SecurityError::Host(host.to_owned()))?;
        let client = UnbufferedClientConnection::new(identity.client.clone(), name);
        let channel = secure(client.map_err(HandshakeError::from)?, socket, patience)?;
        self.check_allowed(channel.peer.as_deref())?;
        Ok(channel)
    }

    /// Secures a connection that came in. Whether the peer is allowed is left to be asked, so that it
    /// can be told.
    ///
    /// # Errors
    /// [`SecurityError`].
    pub fn accept(
        &self,
        socket: Arc<TcpStream>,
        patience: Duration,
    ) -> Result<Channel, SecurityError> {
        let Some(identity) = self.identity() else { return self.bare(socket) };
        let server = UnbufferedServerConnection::new(identity.server.clone());
        secure(server.map_err(HandshakeError::from)?, socket, patience)
    }

    /// Whether this node talks to a peer of that name.
    ///
    /// # Errors
    /// [`SecurityError::NotAllowed`].
    pub fn check_allowed(&self, peer: Option<&str>) -> Result<(), SecurityError> {
        match (&self.options, peer) {
            (SecurityOptions::Tls { allowed_peers, .. }, Some(peer))
                if !allowed_peers.is_empty() && !allowed_peers.iter().any(|name| name == peer) =>
            {
                Err(SecurityError::NotAllowed(peer.to_owned()))
            }
            _ => Ok(()),
        }
    }

    /// Whether a source has not failed too often lately. Those of this host always are listened to:
    /// tunnels end there, and who is on the host can do worse.
    pub fn listens_to(&self, source: IpAddr, now: Time) -> bool {
        source.is_loopback() || lock(&self.failures).allows(source, now)
    }

    /// A connection from there did not prove who it is.
    pub fn count_failure(&self, source: IpAddr, now: Time) {
        lock(&self.failures).add(source, now);
    }

    /// A connection that is not secured, if that is as it should be.
    fn bare(&self, socket: Arc<TcpStream>) -> Result<Channel, SecurityError> {
        self.check_decided()?;
        let address = socket.peer_addr().map_err(HandshakeError::Io)?;
        self.check_plain(address.ip())?;
        Ok(Channel::plain(socket))
    }
}

/// Lets the peer read why it was refused: closing with its bytes unread would throw that away.
fn let_read(socket: &TcpStream) {
    const LONGEST: Duration = Duration::from_millis(500);
    const MOST_READS: usize = 4;
    let _ = socket.shutdown(Shutdown::Write);
    let _ = socket.set_read_timeout(Some(LONGEST));
    let mut socket = socket;
    let more = |_: &usize| matches!(socket.read(&mut [0; 4096]), Ok(1..));
    let _ = (0..MOST_READS).take_while(more).count();
}

fn secure(
    side: impl Side,
    socket: Arc<TcpStream>,
    patience: Duration,
) -> Result<Channel, SecurityError> {
    let mut peer = String::new();
    let check = |common: &rustls::CommonState| {
        peer = peer_name(common)?;
        Ok::<_, SecurityError>(())
    };
    match session::open(side, socket.clone(), patience, check) {
        Ok((reader, writer)) => Ok(Channel::secured(reader, writer, peer)),
        Err(error) => {
            let_read(&socket);
            Err(error)
        }
    }
}

fn peer_name(common: &rustls::CommonState) -> Result<String, SecurityError> {
    if common.alpn_protocol() != Some(PROTOCOL) {
        return Err(SecurityError::Protocol);
    }
    let leaf = common.peer_certificates().and_then(<[_]>::first);
    let leaf = leaf.ok_or_else(|| SecurityError::Nameless("it has sent none".to_owned()))?;
    let node = certificate::node_name(leaf).map_err(SecurityError::Nameless)?;
    node.ok_or_else(|| SecurityError::Nameless("it has no URI dwcp:node:NAME".to_owned()))
}

/// The names in a text that separates them by commas.
pub fn name_list(text: &str) -> Vec<String> {
    let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

/// How a connection begins: with a TLS record, or with something else.
///
/// # Errors
/// The socket's error.
pub fn begins_with_tls(socket: &TcpStream) -> io::Result<bool> {
    const HANDSHAKE_RECORD: u8 = 22;
    let mut first = [0];
    match socket.peek(&mut first)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(first[0] == HANDSHAKE_RECORD),
    }
}

/// Checks that a peer is who its certificate says.
///
/// # Errors
/// [`SecurityError::PeerName`].
pub fn check_claim(certified: Option<&str>, claimed: &str) -> Result<(), SecurityError> {
    match certified {
        Some(certified) if certified != claimed => Err(SecurityError::PeerName {
            claimed: claimed.to_owned(),
            certified: certified.to_owned(),
        }),
        _ => Ok(()),
    }
}

fn read_identity(options: &SecurityOptions) -> Result<Option<Arc<Identity>>, IdentityError> {
    match options {
        SecurityOptions::Tls { identity_dir, .. } => {
            Identity::load(identity_dir).map(|identity| Some(Arc::new(identity)))
        }
        SecurityOptions::Undecided | SecurityOptions::Plain => Ok(None),
    }
}

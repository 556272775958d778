//! v1 peers over real sockets: a guest's memory goes to one, or comes from one.
//!
//! What v1 does not have decides what happens here. It acknowledges nothing, so a guest that was sent
//! stands paused at its source, and one that came stands still at its destination, until somebody who
//! knows both ends says who has it; both reports say `in_doubt`. It names no guest, so the port is told
//! which one to expect. It negotiates nothing, so dialect and length of chunks are configured. It
//! encrypts nothing, so the port is off by default, peers are named one by one, and neither speaks to
//! public addresses.

pub mod arrival;
pub mod cargo;
pub mod compatibility;
pub mod departure;
pub mod facade;
pub mod image;
pub mod intake;
pub mod port;
mod socket;
pub mod streams;

use crate::Status;
use crate::migration::{Failure, GuestError, PostCopyRule};
use crate::wire::cursor::WireError;
use crate::wire::v1::hde::HdeError;
use std::io;
use std::net::{IpAddr, SocketAddr};

/// How a v1 peer is named in one migration: before its `HOST:PORT`.
pub const SCHEME: &str = "v1://";

/// Something that cannot be done with a v1 peer.
#[derive(Debug, thiserror::Error)]
pub enum V1Error {
    /// v1 is forced for all peers, and this one was never said to be v1.
    #[error(
        "v1-compat is forced for all peers, and {0} is not named as one that speaks v1: name it in \
         v1.peers, or migrate to v1://{0}. v1 has no encryption, no identity of peers, no checksums \
         of chunks, no digest of the image and no acknowledgement"
    )]
    NotNamed(String),
    /// Probes and tests are of v3's protocol.
    #[error("{0} is in v1-compat mode; v1 takes a probe for a chunk, so the path is not measured")]
    NoProbes(String),
    /// Across the internet, in plain.
    #[error("{0} is a public address; v1 encrypts nothing and is not spoken there")]
    Public(IpAddr),
    /// v1 carries memory as it is, not a hypervisor's migration.
    #[error("guest {0:?} is a QEMU's, whose migration v1 cannot carry; migrate it to a v3 node")]
    Qemu(String),
    /// v1 sends whole images; there is nobody to ask for a page.
    #[error("post_copy is {0}, but a v1 peer takes whole images only; use never")]
    PostCopy(PostCopyRule),
    /// More than can be sent or taken in.
    #[error("the image has {image_bytes} bytes, the limit is {limit} (by {by})")]
    TooLarge {
        /// How large it is.
        image_bytes: u64,
        /// How large it may be.
        limit: u64,
        /// What limits it.
        by: &'static str,
    },
    /// Chunks that would cut pages.
    #[error("v1.f8_chunk_size is {chunk_bytes}, no multiple of the guest's pages of {page_bytes}")]
    ChunkSize {
        /// The chunks' length.
        chunk_bytes: u32,
        /// The pages'.
        page_bytes: u32,
    },
    /// Too many peers.
    #[error("{0} v1 peers are named; there may be {max}", max = crate::base::limits::MAX_V1_PEERS)]
    TooManyPeers(usize),
    /// There is one port.
    #[error("the v1 port is open already, at {0}")]
    Open(SocketAddr),
    /// It was asked for too late.
    #[error("the node has been stopped, and opens no v1 port at {0}")]
    Stopped(SocketAddr),
    /// The port.
    #[error("cannot listen for v1 peers on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The guest's memory.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// The packet.
    #[error(transparent)]
    Packet(#[from] HdeError),
    /// A frame.
    #[error(transparent)]
    Wire(#[from] WireError),
}

impl V1Error {
    /// The status code of this error.
    pub fn status(&self) -> Status {
        match self {
            Self::NotNamed(_) | Self::NoProbes(_) => Status::BadState,
            Self::Public(_) | Self::ChunkSize { .. } => Status::InvalidArgument,
            Self::Qemu(_) | Self::PostCopy(_) => Status::Unsupported,
            Self::TooLarge { .. } | Self::TooManyPeers(_) => Status::LimitReached,
            Self::Open(_) => Status::AlreadyExists,
            Self::Stopped(_) => Status::Stopped,
            Self::Listen { .. } => Status::Io,
            Self::Guest(_) => Status::Callback,
            Self::Packet(_) | Self::Wire(_) => Status::BadFrame,
        }
    }
}

impl From<V1Error> for Failure {
    fn from(error: V1Error) -> Self {
        Self::new(error.status(), error.to_string())
    }
}

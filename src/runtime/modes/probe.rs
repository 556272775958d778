//! Probes: a number that the peer's listener sends back, on a connection of its own.
//!
//! What the path takes is read from the kernel, which timed the handshake and the answer: how long
//! threads on either side take to wake up is not in it.

use crate::runtime::sys::{socket, spawn_named};
use crate::wire::frame::{HEADER_BYTES, MINOR, PREFACE_BYTES, PROBE_BYTES};
use crate::wire::{Frame, FrameHeader, FrameKind, Preface, WireError};
use serde::Serialize;
use std::io;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a connection or an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pause between two probes of a series.
const SERIES_INTERVAL: Duration = Duration::from_millis(50);

/// A probe failed.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The socket, or the peer closed it.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Nothing came in time.
    #[error("no answer within {PATIENCE:?}")]
    Silent,
    /// What came is no answer to a probe.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// An answer to something else.
    #[error("the answer has number {found:#x}; {sent:#x} was sent")]
    Number {
        /// In the answer.
        found: u64,
        /// In the probe.
        sent: u64,
    },
    /// A frame of another kind.
    #[error("{0:?} frame where ProbeReply is due")]
    Kind(FrameKind),
}

/// What a series of probes on one connection told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ProbeSeries {
    /// How long it took to connect.
    pub connect_us: u64,
    /// How long each answer took, the peer's threads and ours included.
    pub answers_us: Vec<u64>,
    /// Shortest round trip as the kernel timed it.
    pub min_rtt_us: Option<u32>,
    /// The kernel's mean deviation at the end.
    pub rtt_variation_us: u32,
}

/// One probe; gives the round trip, if the kernel has timed it.
pub async fn once(address: &str, number: u64) -> Result<Option<u32>, ProbeError> {
    let mut probing = Probing::connect(address).await?;
    probing.ask(number).await?;
    Ok(probing.min_rtt_us())
}

/// Several probes, one after another, from a thread of our own: tokio leaves thread-locals behind
/// that have no place on a host's (`runtime/sys/thread.rs`).
pub fn series(address: &str, count: u32) -> Result<ProbeSeries, ProbeError> {
    let address = address.to_owned();
    let thread = spawn_named("dwcp-probe", move || ask_in_turn(&address, count))?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the probing thread panicked").into()))
}

fn ask_in_turn(address: &str, count: u32) -> Result<ProbeSeries, ProbeError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let began = Instant::now();
        let mut probing = Probing::connect(address).await?;
        let mut series = ProbeSeries { connect_us: micros(began), ..ProbeSeries::default() };
        for _ in 0..count {
            let asked = Instant::now();
            probing.ask(random_number()).await?;
            series.answers_us.push(micros(asked));
            tokio::time::sleep(SERIES_INTERVAL).await;
        }
        series.min_rtt_us = probing.min_rtt_us();
        let info = socket::tcp_info(&probing.socket).ok();
        series.rtt_variation_us = info.map_or(0, |info| info.rtt_variation_us);
        Ok(series)
    })
}

/// A number that the peer cannot guess. Without randomness there is none, and an attacker who can
/// answer in the peer's place could only make the path look as short as it is.
pub fn random_number() -> u64 {
    let mut bytes = [0; 8];
    // Zeros are what is left if the system has no random bytes.
    let _ = getrandom::fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

struct Probing {
    socket: TcpStream,
    sent: u64,
}

impl Probing {
    async fn connect(address: &str) -> Result<Self, ProbeError> {
        let connecting = timeout(PATIENCE, TcpStream::connect(address)).await;
        let socket = connecting.map_err(|_| ProbeError::Silent)??;
        socket.set_nodelay(true)?;
        Ok(Self { socket, sent: 0 })
    }

    async fn ask(&mut self, number: u64) -> Result<(), ProbeError> {
        timeout(PATIENCE, self.exchange(number)).await.map_err(|_| ProbeError::Silent)?
    }

    async fn exchange(&mut self, number: u64) -> Result<(), ProbeError> {
        let is_first = self.sent == 0;
        let frame = Frame { kind: FrameKind::Probe, payload: number.to_le_bytes().into() };
        let mut bytes = Vec::with_capacity(PREFACE_BYTES + HEADER_BYTES + PROBE_BYTES as usize);
        if is_first {
            bytes.extend_from_slice(&Preface { minor: MINOR }.encode());
        }
        bytes.extend_from_slice(&frame.header(self.sent).encode());
        bytes.extend_from_slice(&frame.payload);
        self.socket.write_all(&bytes).await?;
        if is_first {
            let mut preface = [0; PREFACE_BYTES];
            self.socket.read_exact(&mut preface).await?;
            Preface::decode(preface)?;
        }
        let mut header = [0; HEADER_BYTES];
        self.socket.read_exact(&mut header).await?;
        let header = FrameHeader::decode(header)?;
        header.check_sequence(self.sent)?;
        if header.kind != FrameKind::ProbeReply || header.payload_bytes != PROBE_BYTES {
            return Err(ProbeError::Kind(header.kind));
        }
        let mut payload = [0; PROBE_BYTES as usize];
        self.socket.read_exact(&mut payload).await?;
        header.check_body(&[&payload])?;
        self.sent += 1;
        match u64::from_le_bytes(payload) {
            found if found == number => Ok(()),
            found => Err(ProbeError::Number { found, sent: number }),
        }
    }

    fn min_rtt_us(&self) -> Option<u32> {
        let info = socket::tcp_info(&self.socket).ok()?;
        info.min_rtt_us.filter(|rtt_us| (1..u32::MAX).contains(rtt_us))
    }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

//! Probes: a number that the peer's listener sends back, on a connection of its own.
//!
//! What the path takes is read from the kernel, which timed the handshake and the answer: how long
//! threads on either side take to wake up is not in it.

use crate::base::micros;
use crate::runtime::sys::{socket, spawn_named};
use crate::runtime::tuning;
use crate::wire::frame::{HEADER_BYTES, MINOR, PREFACE_BYTES, PROBE_BYTES};
use crate::wire::{Frame, FrameHeader, FrameKind, Preface, WireError};
use serde::Serialize;
use std::io;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// How long a connection or an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pause between two probes of a series.
const SERIES_INTERVAL: Duration = Duration::from_millis(50);

/// An answer: its frame.
const ANSWER_BYTES: usize = HEADER_BYTES + PROBE_BYTES as usize;

/// A probe failed.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The socket.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// No connection came about in time.
    #[error("no connection within {PATIENCE:?}")]
    Unreached,
    /// The peer hung up.
    #[error("the peer closed the connection and did not answer")]
    Closed,
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
    /// An answer of another length.
    #[error("a ProbeReply of {0} bytes; those of {PROBE_BYTES} are due")]
    Length(u32),
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

/// One probe, marked with a code point as data streams are; gives the round trip, if the kernel has
/// timed it.
pub async fn once(address: &str, number: u64, dscp: u8) -> Result<Option<u32>, ProbeError> {
    let mut probing = Probing::connect(address, dscp).await?;
    probing.ask(number).await?;
    Ok(probing.min_rtt_us())
}

/// Several probes, one after another, from a thread of our own: tokio leaves thread-locals behind
/// that have no place on a host's (`runtime/sys/thread.rs`).
pub fn series(address: &str, count: u32, dscp: u8) -> Result<ProbeSeries, ProbeError> {
    let address = address.to_owned();
    let thread = spawn_named("dwcp-probe", move || ask_in_turn(&address, count, dscp))?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the probing thread panicked").into()))
}

fn ask_in_turn(address: &str, count: u32, dscp: u8) -> Result<ProbeSeries, ProbeError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let began = Instant::now();
        let mut probing = Probing::connect(address, dscp).await?;
        let mut series =
            ProbeSeries { connect_us: micros(began.elapsed()), ..ProbeSeries::default() };
        for _ in 0..count {
            let asked = Instant::now();
            probing.ask(random_number()).await?;
            series.answers_us.push(micros(asked.elapsed()));
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
    async fn connect(address: &str, dscp: u8) -> Result<Self, ProbeError> {
        let connecting = timeout(PATIENCE, connect(address, dscp)).await;
        let socket = connecting.map_err(|_| ProbeError::Unreached)??;
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
        // All of it at one time: it comes in one packet, and each call costs.
        let mut answer = [0; PREFACE_BYTES + ANSWER_BYTES];
        let answer = if is_first { &mut answer[..] } else { &mut answer[..ANSWER_BYTES] };
        self.socket.read_exact(answer).await.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => ProbeError::Closed,
            _ => ProbeError::Io(error),
        })?;
        let (preface, answer) = answer.split_at(answer.len() - ANSWER_BYTES);
        if let Some(preface) = preface.first_chunk() {
            Preface::decode(*preface)?;
        }
        let (header, payload) = answer.split_at(HEADER_BYTES);
        let header = FrameHeader::decode(*header.first_chunk().unwrap_or(&[0; HEADER_BYTES]))?;
        header.check_sequence(self.sent)?;
        if header.kind != FrameKind::ProbeReply {
            return Err(ProbeError::Kind(header.kind));
        }
        if header.payload_bytes != PROBE_BYTES {
            return Err(ProbeError::Length(header.payload_bytes));
        }
        header.check_body(&[payload])?;
        let payload = *payload.first_chunk().unwrap_or(&[0; PROBE_BYTES as usize]);
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

/// Tries every address of the name, in order.
async fn connect(to: &str, dscp: u8) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{to} has no address"));
    for address in tokio::net::lookup_host(to).await? {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if dscp > 0 {
            // A kernel that refuses the mark still carries the probe.
            let _ = tuning::mark(&socket, dscp);
        }
        match socket.connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// What one is told who probes a peer that answers so.
    fn told(answer: Vec<u8>) -> String {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let peer = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut question = [0; PREFACE_BYTES + ANSWER_BYTES];
            socket.read_exact(&mut question).unwrap();
            socket.write_all(&answer).unwrap();
        });
        let error = series(&address, 1, 0).unwrap_err().to_string();
        peer.join().unwrap();
        error
    }

    #[test]
    fn each_wrong_answer_is_called_what_it_is() {
        let answer = |kind, payload: Vec<u8>| {
            let frame = Frame { kind, payload };
            let mut bytes = Preface { minor: MINOR }.encode().to_vec();
            bytes.extend_from_slice(&frame.header(0).encode());
            bytes.extend_from_slice(&frame.payload);
            bytes
        };
        let short = [answer(FrameKind::ProbeReply, vec![0; 7]), vec![0]].concat();
        let cases = [
            (vec![], "the peer closed the connection and did not answer"),
            (short, "a ProbeReply of 7 bytes; those of 8 are due"),
            (answer(FrameKind::Probe, vec![0; 8]), "Probe frame where ProbeReply is due"),
            (answer(FrameKind::ProbeReply, vec![0; 8]), "the answer has number 0x0; 0x"),
        ];
        for (answer, what) in cases {
            let error = told(answer);
            assert!(error.starts_with(what), "{error:?} is not {what:?}");
        }
    }
}

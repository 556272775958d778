//! A test of the path to a peer: some seconds of filler over as many streams as the mode allows, and
//! what TCP says of it.
//!
//! The streams are watched like those of a migration, so the peer's mode is found on the way.

use super::Modes;
use super::probe::random_number;
use crate::Status;
use crate::base::limits::MAX_FILLER_BYTES;
use crate::base::micros;
use crate::runtime::channel::Channel;
use crate::runtime::clock::now;
use crate::runtime::connection::{ConnectionError, FrameReader, FrameWriter};
use crate::runtime::dial;
use crate::runtime::sys::{socket, spawn_named};
use crate::runtime::tuning;
use crate::transport::Mode;
use crate::wire::{Frame, FrameKind};
use serde::Serialize;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long a stream may stand still.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// What a test told of the path.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TransportTest {
    /// The peer's address.
    pub peer: String,
    /// The mode that was tried.
    pub mode: Mode,
    /// The mode that the figures speak for; none without figures.
    pub measured: Option<Mode>,
    /// The peer's mode after the test.
    pub in_force: Mode,
    /// Streams.
    pub streams: usize,
    /// Congestion control of the streams, as read back.
    pub congestion: String,
    /// From the first byte to the last answer.
    pub duration_us: u64,
    /// Payload that arrived.
    pub bytes: u64,
    /// Payload that arrived in a second.
    pub rate_bytes_per_s: u64,
    /// Shortest round trip.
    pub min_rtt_us: u32,
    /// Mean of the streams' smoothed round trips at the end, queues included.
    pub rtt_us: u32,
    /// Bytes that had to be sent again.
    pub retransmitted_bytes: u64,
    /// Segments that had to be sent again.
    pub retransmitted_segments: u64,
    /// They as a share of all bytes sent, in parts of a million.
    pub loss_ppm: u32,
}

/// A test failed.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// There is no connection.
    #[error("{0}")]
    Connect(io::Error),
    /// A connection broke.
    #[error(transparent)]
    Broken(#[from] ConnectionError),
}

impl TransferError {
    /// The status code of this error.
    pub fn status(&self) -> Status {
        match self {
            Self::Connect(_) => Status::Connect,
            Self::Broken(error) => error.status(),
        }
    }

    fn connecting(error: ConnectionError) -> Self {
        match error {
            ConnectionError::Io(error) => Self::Connect(error),
            error => Self::Broken(error),
        }
    }
}

impl From<io::Error> for TransferError {
    fn from(error: io::Error) -> Self {
        Self::Broken(error.into())
    }
}

/// What one stream did.
struct Carried {
    bytes: u64,
    info: socket::TcpInfo,
    congestion: String,
}

/// Runs a test. `mode` says what the streams are set up for, whatever the peer's mode is.
///
/// # Errors
/// A connection could not be made, or broke.
pub fn run(
    modes: &Arc<Modes>,
    peer: &str,
    (mode, wanted_streams): (Mode, u16),
    duration: Duration,
) -> Result<TransportTest, TransferError> {
    let (effects, is_optimized) = (modes.options().effects, modes.is_optimized(peer));
    let streams = effects.streams(mode, wanted_streams);
    let mut connections = Vec::new();
    for _ in 0..streams {
        let socket =
            Arc::new(dial::connect(peer, modes.security()).map_err(TransferError::connecting)?);
        tuning::tune_sender(&socket, STALL_TIMEOUT)?;
        // Read back below; what the kernel does not have is told there by its absence.
        let _ = match is_optimized {
            true => tuning::choose_congestion_control(&socket, mode, &effects),
            false => tuning::restore_congestion_control(&socket),
        };
        let channel = modes.security().dial(socket, peer, STALL_TIMEOUT);
        let channel = channel.map_err(ConnectionError::from)?;
        channel.socket().set_read_timeout(Some(STALL_TIMEOUT))?;
        modes.watch(peer, channel.socket());
        connections.push(channel);
    }
    let began = now();
    let until = began + duration;
    // One that fails ends the test; all are waited for, since nobody else would.
    let has_failed = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::new();
    for channel in connections {
        let failed = has_failed.clone();
        let go_on = move || now() < until && !failed.load(Ordering::Relaxed);
        let failed = has_failed.clone();
        threads.push(spawn_named("dwcp-test", move || {
            let carried = carry_filler(channel, go_on);
            failed.fetch_or(carried.is_err(), Ordering::Relaxed);
            carried
        }));
    }
    has_failed.fetch_or(threads.iter().any(Result::is_err), Ordering::Relaxed);
    let end = |thread: io::Result<JoinHandle<_>>| -> Result<Carried, TransferError> {
        Ok(thread?.join().unwrap_or(Err(ConnectionError::Closed))?)
    };
    // The first error is not the last that is waited for.
    let ended: Vec<_> = threads.into_iter().map(end).collect();
    let carried = ended.into_iter().collect::<Result<Vec<_>, _>>()?;
    let took = now() - began;
    Ok(summary(modes, peer, mode, &carried, took))
}

/// Sends filler as long as it may go on, then waits until the peer has read all of it.
fn carry_filler(channel: Channel, go_on: impl Fn() -> bool) -> Result<Carried, ConnectionError> {
    let socket = channel.socket().clone();
    let mut writer = FrameWriter::new(channel.writer);
    let mut reader = FrameReader::new(channel.reader);
    let probe = || Frame { kind: FrameKind::Probe, payload: random_number().to_le_bytes().into() };
    writer.open(&probe())?;
    reader.preface()?;
    reader.expect(FrameKind::ProbeReply)?;
    let filler = vec![0xa5; MAX_FILLER_BYTES as usize];
    let mut bytes = 0;
    // Where it took all the time to begin, one frame tells more than none.
    loop {
        writer.payload(FrameKind::Filler, &[&filler])?;
        bytes += u64::from(MAX_FILLER_BYTES);
        if !go_on() {
            break;
        }
    }
    let last = probe();
    writer.frame(&last)?;
    let answer = reader.expect(FrameKind::ProbeReply)?;
    if answer != last.payload {
        return Err(ConnectionError::Closed);
    }
    let failed = |error: socket::SocketError| ConnectionError::Io(error.source);
    let info = socket::tcp_info(&socket).map_err(failed)?;
    let congestion = socket::congestion_control(&socket).map_err(failed)?;
    Ok(Carried { bytes, info, congestion })
}

fn summary(
    modes: &Arc<Modes>,
    peer: &str,
    mode: Mode,
    carried: &[Carried],
    took: Duration,
) -> TransportTest {
    let sum = |of: fn(&Carried) -> u64| carried.iter().map(of).sum::<u64>();
    let bytes = sum(|stream| stream.bytes);
    let duration_us = micros(took);
    let retransmitted_bytes = sum(|stream| stream.info.retransmitted_bytes.unwrap_or(0));
    let sent_bytes = sum(|stream| stream.info.sent_bytes.unwrap_or(0)).max(1);
    let rtts = carried.iter().filter_map(|stream| stream.info.min_rtt_us);
    let mut names: Vec<&str> = carried.iter().map(|stream| stream.congestion.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    TransportTest {
        peer: peer.to_owned(),
        mode,
        measured: modes.verdict(peer),
        in_force: modes.mode(peer),
        streams: carried.len(),
        congestion: names.join(", "),
        duration_us,
        bytes,
        rate_bytes_per_s: (u128::from(bytes) * 1_000_000 / u128::from(duration_us.max(1))) as u64,
        min_rtt_us: rtts.min().unwrap_or(0),
        rtt_us: (sum(|stream| stream.info.rtt_us.into()) / carried.len().max(1) as u64) as u32,
        retransmitted_bytes,
        retransmitted_segments: sum(|stream| stream.info.total_retransmits.into()),
        loss_ppm: (u128::from(retransmitted_bytes) * 1_000_000 / u128::from(sent_bytes)) as u32,
    }
}

//! Modes of peers as C sees them: peers named, listed, found out and forced; probes, tests of paths.

use super::codes::*;
use super::guard::{Failure, on, on_unless_in_callback};
use super::mode_conversions::*;
use super::node::{NodeHandle, dwcp_node};
use super::strings;
use super::structs;
use crate::base::networks::ParseNetworksError;
use std::ffi::c_char;
use std::sync::Arc;

/// What a node knows of a peer and of the path to it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct dwcp_peer {
    /// sizeof(dwcp_peer), set by the caller.
    pub struct_size: usize,
    /// The DWCP_MODE_ in force.
    pub mode: u32,
    /// The DWCP_MODE_ that is forced for this peer; DWCP_MODE_AUTO: it is measured, or forced for all.
    pub forced: u32,
    /// The DWCP_MODE_ for which the figures speak now, which takes hold once it has lasted;
    /// DWCP_MODE_AUTO: there are no figures.
    pub measured: u32,
    /// DWCP_PEER_ bits: which figures are known, the others being 0, and what else is so.
    pub flags: u32,
    /// Shortest round trip of about the last second.
    pub rtt_us: u32,
    /// Shortest round trip of the last minute or two.
    pub min_rtt_us: u32,
    /// Mean deviation of the round trip.
    pub jitter_us: u32,
    /// Share of the sent bytes that had to be sent again, in parts of a million.
    pub loss_ppm: u32,
    /// Payload that the path delivers.
    pub rate_bytes_per_s: u64,
    /// For how long the path has told nothing.
    pub silent_us: u64,
    /// Changes of the mode.
    pub switches: u64,
    /// Measured changes within the last minute.
    pub switches_last_minute: u32,
    /// A DWCP_RDMA_.
    pub rdma: u32,
    /// The peer's address.
    pub peer: [c_char; 264],
    /// Why the last probe failed; empty if it did not.
    pub failure: [c_char; 256],
    /// Congestion control of the newest connection that carried data, as the kernel says; empty: there
    /// was none.
    pub congestion: [c_char; 64],
    /// Zero.
    pub reserved: [u64; 8],
}

/// How the modes of a node's peers are chosen, and what they change.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct dwcp_transport_options {
    /// sizeof(dwcp_transport_options).
    pub struct_size: usize,
    /// The DWCP_MODE_ of every peer; DWCP_MODE_AUTO: it is measured.
    pub mode: u32,
    /// DWCP_TRANSPORT_ bits.
    pub flags: u32,
    /// The DWCP_CONGESTION_ of long paths.
    pub congestion: u32,
    /// Streams of a migration in datacenter mode, at most; 1 to 64, 0 means 64.
    pub datacenter_streams: u32,
    /// Streams of a migration in internet mode, at most; 1 to 64, 0 means 8.
    pub internet_streams: u32,
    /// A shorter round trip may be a datacenter's; 0 means 10,000.
    pub datacenter_rtt_us: u32,
    /// A longer round trip is the internet's; 0 means 50,000.
    pub internet_rtt_us: u32,
    /// More jitter is the internet's; 0 means 10,000.
    pub internet_jitter_us: u32,
    /// More loss, in parts of a million, is no datacenter's; 0 means 20,000.
    pub datacenter_loss_ppm: u32,
    /// Zero.
    pub padding: u32,
    /// A path that delivers less is the internet's; 0 means 112,500,000.
    pub fast_rate_bytes_per_s: u64,
    /// Zero.
    pub reserved: [u64; 8],
}

/// What probes of one connection told.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct dwcp_probe_series {
    /// sizeof(dwcp_probe_series), set by the caller.
    pub struct_size: usize,
    /// How many answers came.
    pub answers: u32,
    /// Shortest round trip as the kernel timed it, which leaves out threads that wake up late; 0: it
    /// timed none.
    pub min_rtt_us: u32,
    /// The kernel's mean deviation of the round trip.
    pub rtt_variation_us: u32,
    /// Zero.
    pub padding: u32,
    /// How long it took to connect.
    pub connect_us: u64,
    /// How long each answer took, threads of both sides included; 0 from `answers` on.
    pub answers_us: [u64; 64],
    /// Zero.
    pub reserved: [u64; 8],
}

/// What a test of a path is to be.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct dwcp_transport_test_options {
    /// sizeof(dwcp_transport_test_options).
    pub struct_size: usize,
    /// The DWCP_MODE_ for which the streams are set up; DWCP_MODE_AUTO means DWCP_MODE_HYBRID.
    pub mode: u32,
    /// Streams, 1 to 64, or as many as the mode allows if that is less; 0 means 4.
    pub streams: u32,
    /// How long they are filled, 100 to 30,000; 0 means 5,000.
    pub duration_ms: u32,
    /// Zero.
    pub padding: u32,
    /// Zero.
    pub reserved: [u64; 6],
}

/// What a test of a path told.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct dwcp_transport_test {
    /// sizeof(dwcp_transport_test), set by the caller.
    pub struct_size: usize,
    /// The DWCP_MODE_ for which the streams were set up.
    pub mode: u32,
    /// The DWCP_MODE_ for which the figures speak; DWCP_MODE_AUTO: there are none.
    pub measured: u32,
    /// The peer's DWCP_MODE_ after the test.
    pub in_force: u32,
    /// Streams.
    pub streams: u32,
    /// From the first byte to the last answer.
    pub duration_us: u64,
    /// Payload that arrived.
    pub bytes: u64,
    /// Payload that arrived in a second.
    pub rate_bytes_per_s: u64,
    /// Bytes that had to be sent again.
    pub retransmitted_bytes: u64,
    /// Segments that had to be sent again.
    pub retransmitted_segments: u64,
    /// Shortest round trip.
    pub min_rtt_us: u32,
    /// Mean of the streams' smoothed round trips at the end, queues included.
    pub rtt_us: u32,
    /// Bytes sent again as a share of all bytes sent, in parts of a million.
    pub loss_ppm: u32,
    /// Zero.
    pub padding: u32,
    /// The streams' congestion control, as read back.
    pub congestion: [c_char; 64],
    /// Where the test went.
    pub peer: [c_char; 264],
    /// Zero.
    pub reserved: [u64; 8],
}

/// Has the path to the peer at `peer` ("HOST:PORT", as it is dialed) looked at from now on; one that
/// guests are sent to is known without this. Returns at once; a peer that is known stays as it is.
/// Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_add_peer(
    node: *mut dwcp_node,
    peer: *const c_char,
) -> dwcp_status {
    on(node, |node: &Arc<NodeHandle>| {
        // SAFETY: the caller vouches for peer, as the header says.
        let peer = unsafe { strings::text_in("peer", peer)? };
        Ok(node.node.add_peer(&peer)?)
    })
}

/// Forgets a peer, and a mode that was forced for it; DWCP_ERR_BUSY while streams to it are open.
/// Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_remove_peer(
    node: *mut dwcp_node,
    peer: *const c_char,
) -> dwcp_status {
    on(node, |node: &Arc<NodeHandle>| {
        // SAFETY: the caller vouches for peer, as the header says.
        let peer = unsafe { strings::text_in("peer", peer)? };
        Ok(node.node.remove_peer(&peer)?)
    })
}

/// Copies out the known peers, by address, as a JSON array. Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_peers_json(
    node: *const dwcp_node,
    buffer: *mut c_char,
    length: usize,
    needed: *mut usize,
) -> dwcp_status {
    on(node, |node: &Arc<NodeHandle>| {
        let text = strings::json(&node.node.peers())?;
        // SAFETY: the caller vouches for buffer and needed, as the header says.
        unsafe { strings::copy_out(&text, buffer, length, needed) }
    })
}

/// What is known of a peer now; DWCP_ERR_NOT_FOUND of one that is not known. Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_peer(
    node: *const dwcp_node,
    peer: *const c_char,
    known: *mut dwcp_peer,
) -> dwcp_status {
    on(node, |node: &Arc<NodeHandle>| {
        // SAFETY: the caller vouches for peer and known, as the header says.
        unsafe {
            let peer = strings::text_in("peer", peer)?;
            structs::write(known, &peer_out(&node.node.peer(&peer)?))
        }
    })
}

/// Has a peer looked at and waits, some seconds at most, until a first verdict about it would hold.
/// known tells what is known then; a peer that does not answer is no failure of this call, but see
/// dwcp_peer.failure. Threads: shared, not from a callback.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_detect_mode(
    node: *mut dwcp_node,
    peer: *const c_char,
    known: *mut dwcp_peer,
) -> dwcp_status {
    on_unless_in_callback("dwcp_node_detect_mode", node, |node: &Arc<NodeHandle>| {
        // SAFETY: the caller vouches for peer and known, as the header says.
        unsafe {
            let peer = strings::text_in("peer", peer)?;
            structs::check(known)?;
            structs::write(known, &peer_out(&node.node.detect_mode(&peer)?))
        }
    })
}

/// Forces a DWCP_MODE_, or with DWCP_MODE_AUTO leaves it to measurement: for one peer, or, if that is
/// NULL, for all that have no mode of their own. Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_set_mode(
    node: *mut dwcp_node,
    peer: *const c_char,
    mode: u32,
) -> dwcp_status {
    on(node, |node: &Arc<NodeHandle>| {
        // SAFETY: the caller vouches for peer, as the header says.
        let peer = unsafe { strings::optional_text_in("peer", peer)? };
        Ok(node.node.set_mode(peer.as_deref(), mode_in(mode)?)?)
    })
}

/// Lets nodes at these addresses ask this one for the paths to its peers, as network-matrix of
/// dwcp-v3-cli does: addresses and networks with commas between them, such as "10.0.0.0/8,fd00::1".
/// NULL or "": nobody, as in the beginning. Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_share_paths_with(
    node: *mut dwcp_node,
    networks: *const c_char,
) -> dwcp_status {
    on(node, |node: &Arc<NodeHandle>| {
        // SAFETY: the caller vouches for networks, as the header says.
        let networks = unsafe { strings::optional_text_in("networks", networks)? };
        let networks = networks.unwrap_or_default().parse();
        let bad = |error: ParseNetworksError| Failure::invalid(error.to_string());
        node.node.share_paths_with(networks.map_err(bad)?);
        Ok(())
    })
}

/// Sends a peer `count` probes, 1 to 64, one after another on one connection, and waits for the
/// answers; an answer may take 5 s. DWCP_ERR_CONNECT if one does not come. Threads: shared, not from
/// a callback.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_probe_peer(
    node: *mut dwcp_node,
    peer: *const c_char,
    count: u32,
    series: *mut dwcp_probe_series,
) -> dwcp_status {
    on_unless_in_callback("dwcp_node_probe_peer", node, |node: &Arc<NodeHandle>| {
        // SAFETY: the caller vouches for peer and series, as the header says.
        unsafe {
            let peer = strings::text_in("peer", peer)?;
            structs::check(series)?;
            structs::write(series, &series_out(&node.node.probe_peer(&peer, count)?))
        }
    })
}

/// Sets how modes are chosen and what they change; NULL: all defaults. Modes and limits of streams hold
/// at once, for migrations under way too, but for those by v1, which keep their streams. The congestion
/// control is that of connections made from then on, and of open ones once their peer's mode changes.
/// Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_set_transport(
    node: *mut dwcp_node,
    options: *const dwcp_transport_options,
) -> dwcp_status {
    on(node, |node: &Arc<NodeHandle>| {
        // SAFETY: the caller vouches for options, as the header says.
        let options = unsafe { transport_in(options)? };
        node.node.set_transport(options);
        Ok(())
    })
}

/// How modes are chosen and what they change, defaults filled in. Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_transport(
    node: *const dwcp_node,
    options: *mut dwcp_transport_options,
) -> dwcp_status {
    on(node, |node: &Arc<NodeHandle>| {
        // SAFETY: the caller vouches for options, as the header says.
        unsafe { structs::write(options, &transport_out(&node.node.transport())) }
    })
}

/// Fills the path to a peer for some time, over streams that are set up for a mode, and waits for what
/// the path carries; NULL: to this process over the loopback. options may be NULL. Threads: shared,
/// not from a callback.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_test_transport(
    node: *mut dwcp_node,
    peer: *const c_char,
    options: *const dwcp_transport_test_options,
    test: *mut dwcp_transport_test,
) -> dwcp_status {
    on_unless_in_callback("dwcp_node_test_transport", node, |node: &Arc<NodeHandle>| {
        // SAFETY: the caller vouches for peer, options and test, as the header says.
        unsafe {
            let peer = strings::optional_text_in("peer", peer)?;
            let (how, duration) = test_in(options)?;
            structs::check(test)?;
            let told = node.node.test_transport(peer.as_deref(), how, duration)?;
            structs::write(test, &test_out(&told))
        }
    })
}

//! Every number that has a name in the header; the status table mirrors `base::status`.

/// Outcome of a call: DWCP_OK, or one of the negative DWCP_ERR_ codes. The table only ever grows.
pub type dwcp_status = i32;

/// Version of the binary interface; changes when a program must be rebuilt.
pub const DWCP_ABI_VERSION: u32 = 0;

/// A timeout that never runs out.
pub const DWCP_FOREVER: u64 = u64::MAX;

/// Success.
pub const DWCP_OK: i32 = 0;
/// An argument is out of range or malformed.
pub const DWCP_ERR_INVALID_ARGUMENT: i32 = -1;
/// A required pointer is NULL.
pub const DWCP_ERR_NULL_POINTER: i32 = -2;
/// The handle is NULL, was freed, or is of another kind.
pub const DWCP_ERR_BAD_HANDLE: i32 = -3;
/// A struct_size that this library does not know.
pub const DWCP_ERR_BAD_STRUCT_SIZE: i32 = -4;
/// A panic was caught; the handle is poisoned and can only be freed.
pub const DWCP_ERR_PANIC: i32 = -5;
/// The caller's buffer is too small; the needed length was returned.
pub const DWCP_ERR_BUFFER_TOO_SMALL: i32 = -6;
/// Nothing to do now; wait on the file descriptor.
pub const DWCP_ERR_WOULD_BLOCK: i32 = -7;
/// The time allowed ran out.
pub const DWCP_ERR_TIMEOUT: i32 = -8;
/// Cancelled by the caller.
pub const DWCP_ERR_CANCELLED: i32 = -9;
/// No object of this name or id.
pub const DWCP_ERR_NOT_FOUND: i32 = -10;
/// An object of this name exists.
pub const DWCP_ERR_ALREADY_EXISTS: i32 = -11;
/// The object is in use, or the call came from a callback that must not make it.
pub const DWCP_ERR_BUSY: i32 = -12;
/// This host or build lacks what is needed; the text says what.
pub const DWCP_ERR_UNSUPPORTED: i32 = -13;
/// A named limit was reached.
pub const DWCP_ERR_LIMIT_REACHED: i32 = -14;
/// An operating system call failed.
pub const DWCP_ERR_IO: i32 = -15;
/// The node has been stopped.
pub const DWCP_ERR_STOPPED: i32 = -16;
/// The operation is not allowed in this state.
pub const DWCP_ERR_BAD_STATE: i32 = -17;
/// The first bytes are not this protocol's.
pub const DWCP_ERR_BAD_MAGIC: i32 = -100;
/// The peer speaks a version that this library does not.
pub const DWCP_ERR_BAD_VERSION: i32 = -101;
/// A frame is malformed, truncated or too long.
pub const DWCP_ERR_BAD_FRAME: i32 = -102;
/// The peer requires a feature that this library lacks.
pub const DWCP_ERR_UNKNOWN_FEATURE: i32 = -103;
/// A message came in a state that does not allow it.
pub const DWCP_ERR_UNEXPECTED_MESSAGE: i32 = -104;
/// No connection could be made.
pub const DWCP_ERR_CONNECT: i32 = -200;
/// All connections are lost and did not come back in time.
pub const DWCP_ERR_CONNECTION_LOST: i32 = -201;
/// The peer accepted data but did not move on in time.
pub const DWCP_ERR_PEER_STALLED: i32 = -202;
/// The peer refused; the text holds its reason.
pub const DWCP_ERR_REFUSED: i32 = -203;
/// Bytes do not match their checksum, or do not decode.
pub const DWCP_ERR_CORRUPT: i32 = -300;
/// The image digests of the two sides differ.
pub const DWCP_ERR_DIGEST_MISMATCH: i32 = -301;
/// The two sides' memory regions differ.
pub const DWCP_ERR_LAYOUT_MISMATCH: i32 = -400;
/// The guest dirties memory faster than it can be sent.
pub const DWCP_ERR_DID_NOT_CONVERGE: i32 = -401;
/// The peer gave the migration up; the text holds its reason.
pub const DWCP_ERR_PEER_ABORTED: i32 = -402;
/// The link broke at the commit point: only the destination knows who owns the guest.
pub const DWCP_ERR_IN_DOUBT: i32 = -403;
/// The state file could not be written.
pub const DWCP_ERR_STATE_FILE: i32 = -404;
/// The guest ran at the destination and pages that it lacked are lost, or it is lost itself.
pub const DWCP_ERR_POST_COPY_LOST: i32 = -405;
/// A callback of the hypervisor failed.
pub const DWCP_ERR_CALLBACK: i32 = -500;
/// A configuration value or file is wrong.
pub const DWCP_ERR_CONFIG: i32 = -600;

/// dwcp_migration_options.codec: the library's choice.
pub const DWCP_CODEC_DEFAULT: u32 = 0;
/// dwcp_migration_options.codec: pages travel as they are.
pub const DWCP_CODEC_NONE: u32 = 1;
/// dwcp_migration_options.codec: LZ4.
pub const DWCP_CODEC_LZ4: u32 = 2;
/// dwcp_migration_options.codec: Zstandard at codec_level, -7 to 19; level 0 means 1.
pub const DWCP_CODEC_ZSTD: u32 = 3;

/// dwcp_node_options.flags: keep no pages of QEMU's guests that left or came; see
/// dwcp_node_clear_held().
pub const DWCP_NODE_NO_HELD_PAGES: u32 = 1;
/// dwcp_node_options.flags: connections are neither encrypted nor is the peer known; never to or
/// from a public address.
pub const DWCP_NODE_PLAIN: u32 = 2;

/// dwcp_migration_options.flags: never slow the guest down.
pub const DWCP_MIGRATION_NO_THROTTLE: u32 = 1;

/// dwcp_migration_options.post_copy: a guest that does not converge stays.
pub const DWCP_POST_COPY_NEVER: u32 = 0;
/// dwcp_migration_options.post_copy: the guest goes on at the destination before all of its memory is
/// there, when dwcp_migration_start_post_copy() asks for it.
pub const DWCP_POST_COPY_MANUAL: u32 = 1;
/// dwcp_migration_options.post_copy: also when passes bring no progress or the deadline comes, instead
/// of slowing the guest down or giving up.
pub const DWCP_POST_COPY_AUTO: u32 = 2;

/// dwcp_node_attach_qemu flags: QEMU was started with -incoming defer and waits for the guest.
pub const DWCP_QEMU_INCOMING: u32 = 1;

/// A mode of peers: it is measured, or there is none.
pub const DWCP_MODE_AUTO: u32 = 0;
/// A mode of peers: a short and fast path.
pub const DWCP_MODE_DATACENTER: u32 = 1;
/// A mode of peers: neither short and fast nor long or slow; where every peer starts.
pub const DWCP_MODE_HYBRID: u32 = 2;
/// A mode of peers: a long or slow path.
pub const DWCP_MODE_INTERNET: u32 = 3;
/// A mode of peers: the peer knows DWCP v1 alone, or is to be treated so.
pub const DWCP_MODE_V1_COMPAT: u32 = 4;

/// dwcp_peer.flags: streams to it are open.
pub const DWCP_PEER_IN_USE: u32 = 1;
/// dwcp_peer.flags: the path may be faster than rate_bytes_per_s; nothing has filled it yet.
pub const DWCP_PEER_RATE_IS_FLOOR: u32 = 2;
/// dwcp_peer.flags: its path has told something, silent_us ago.
pub const DWCP_PEER_HEARD: u32 = 4;
/// dwcp_peer.flags: rtt_us and min_rtt_us are known.
pub const DWCP_PEER_HAS_RTT: u32 = 8;
/// dwcp_peer.flags: jitter_us is known.
pub const DWCP_PEER_HAS_JITTER: u32 = 16;
/// dwcp_peer.flags: loss_ppm is known.
pub const DWCP_PEER_HAS_LOSS: u32 = 32;
/// dwcp_peer.flags: rate_bytes_per_s is known.
pub const DWCP_PEER_HAS_RATE: u32 = 64;

/// dwcp_peer.rdma: not tried.
pub const DWCP_RDMA_UNKNOWN: u32 = 0;
/// dwcp_peer.rdma: it has carried data.
pub const DWCP_RDMA_REACHABLE: u32 = 1;
/// dwcp_peer.rdma: it was tried in vain.
pub const DWCP_RDMA_UNREACHABLE: u32 = 2;

/// dwcp_transport_options.flags: measurement never chooses datacenter mode.
pub const DWCP_TRANSPORT_NO_DATACENTER: u32 = 1;
/// dwcp_transport_options.flags: measurement never chooses internet mode.
pub const DWCP_TRANSPORT_NO_INTERNET: u32 = 2;

/// dwcp_path_options.flags: streams on long paths are not paced by what the path was found to carry.
pub const DWCP_PATH_NO_PACING: u32 = 1;

/// dwcp_rdma_options.flags: pages may go by RDMA.
pub const DWCP_RDMA_ENABLED: u32 = 1;

/// dwcp_transport_options.congestion: as DWCP_CONGESTION_BBR.
pub const DWCP_CONGESTION_DEFAULT: u32 = 0;
/// dwcp_transport_options.congestion: BBR, where the kernel has it.
pub const DWCP_CONGESTION_BBR: u32 = 1;
/// dwcp_transport_options.congestion: CUBIC.
pub const DWCP_CONGESTION_CUBIC: u32 = 2;
/// dwcp_transport_options.congestion: Reno.
pub const DWCP_CONGESTION_RENO: u32 = 3;
/// dwcp_transport_options.congestion: the system's own, on every path.
pub const DWCP_CONGESTION_SYSTEM: u32 = 4;

/// dwcp_node_options.event_level: as DWCP_EVENTS_INFO.
pub const DWCP_EVENTS_DEFAULT: u32 = 0;
/// dwcp_node_options.event_level: every event becomes a completion.
pub const DWCP_EVENTS_DEBUG: u32 = 1;
/// dwcp_node_options.event_level: the normal course and worse.
pub const DWCP_EVENTS_INFO: u32 = 2;
/// dwcp_node_options.event_level: what an operator may want to look at, and worse.
pub const DWCP_EVENTS_WARN: u32 = 3;
/// dwcp_node_options.event_level: failures only.
pub const DWCP_EVENTS_ERROR: u32 = 4;
/// dwcp_node_options.event_level: no events; requests and ended migrations still come.
pub const DWCP_EVENTS_NONE: u32 = 5;

/// dwcp_completion.kind: the library asks the host to do something; see DWCP_REQUEST_.
pub const DWCP_COMPLETION_REQUEST: u32 = 1;
/// dwcp_completion.kind: something happened; see DWCP_EVENT_.
pub const DWCP_COMPLETION_EVENT: u32 = 2;
/// dwcp_completion.kind: a migration ended; status says how, value who owns the guest.
pub const DWCP_COMPLETION_MIGRATION_ENDED: u32 = 3;

/// Begin to log the guest's writes.
pub const DWCP_REQUEST_START_DIRTY_LOG: u32 = 1;
/// Fill buffer with the dirty log of region `value`: one bit a page, lowest bit first, zeroed
/// beforehand; begin anew.
pub const DWCP_REQUEST_FETCH_DIRTY: u32 = 2;
/// Stop the guest; complete once no virtual CPU or device writes memory any more.
pub const DWCP_REQUEST_PAUSE: u32 = 3;
/// Let the guest run.
pub const DWCP_REQUEST_RESUME: u32 = 4;
/// Complete with the state of CPUs and devices as data.
pub const DWCP_REQUEST_SAVE_DEVICE_STATE: u32 = 5;
/// Restore CPUs and devices from buffer; the guest stays stopped.
pub const DWCP_REQUEST_LOAD_DEVICE_STATE: u32 = 6;
/// Hold the guest back for `value` percent of its time; DWCP_ERR_UNSUPPORTED if it cannot be.
pub const DWCP_REQUEST_THROTTLE: u32 = 7;
/// The last request of a migration; `value` is a DWCP_ENDING_.
pub const DWCP_REQUEST_FINISH: u32 = 8;

/// The guest belongs to the other side, or never came: release it.
pub const DWCP_ENDING_DISCARD: u32 = 1;
/// The guest stays with this side.
pub const DWCP_ENDING_KEEP: u32 = 2;
/// The link broke at the commit point, or the other side speaks v1, which acknowledges nothing. Leave
/// the guest paused, or, at a destination, the whole image that came from a v1 peer as it is, and ask
/// the other side before anything is done with it.
pub const DWCP_ENDING_UNDECIDED: u32 = 3;
/// After a switch to post-copy the guest was the destination's, and is lost. At the destination end it:
/// whoever touches a page that is missing waits until the process ends. At the source memory holds the
/// guest as it was at the switch; it must not go on from there as if nothing had happened since.
pub const DWCP_ENDING_LOST: u32 = 4;

/// The node listens.
pub const DWCP_EVENT_NODE_STARTED: u32 = 1;
/// The node was stopped.
pub const DWCP_EVENT_NODE_STOPPED: u32 = 2;
/// A guest was registered or removed.
pub const DWCP_EVENT_GUEST_CHANGED: u32 = 3;
/// A migration entered a phase; value is a DWCP_PHASE_.
pub const DWCP_EVENT_PHASE: u32 = 4;
/// A pre-copy pass ended; value is its number.
pub const DWCP_EVENT_PASS_COMPLETED: u32 = 5;
/// The guest is slowed down; value is the percentage.
pub const DWCP_EVENT_THROTTLED: u32 = 6;
/// A data stream is connected; value is its number.
pub const DWCP_EVENT_STREAM_UP: u32 = 7;
/// A data stream broke; value is its number.
pub const DWCP_EVENT_STREAM_DOWN: u32 = 8;
/// A chunk came damaged and is sent again.
pub const DWCP_EVENT_CHUNK_DAMAGED: u32 = 9;
/// A peer was turned away.
pub const DWCP_EVENT_PEER_REFUSED: u32 = 10;
/// Something the operator should know.
pub const DWCP_EVENT_NOTICE: u32 = 11;
/// The way of transport to a peer changed; the event's JSON says from what to what, and why.
pub const DWCP_EVENT_MODE_TRANSITION: u32 = 12;
/// A data stream was closed that is not needed any more; value: its number.
pub const DWCP_EVENT_STREAM_RETIRED: u32 = 13;
/// The number of a migration's data streams was changed; value: the new one.
pub const DWCP_EVENT_STREAMS_TUNED: u32 = 14;
/// The guest goes on at the destination before all of its memory is there.
pub const DWCP_EVENT_POST_COPY_BEGUN: u32 = 15;
/// No page is missing any more; the event's JSON says how long the guest waited for pages.
pub const DWCP_EVENT_POST_COPY_COMPLETED: u32 = 16;
/// A connection to or from a v1 peer was made, refused or closed; the event's JSON says which.
pub const DWCP_EVENT_V1_CONNECTION: u32 = 17;
/// Pages of a data stream go by RDMA.
pub const DWCP_EVENT_RDMA_UP: u32 = 18;
/// Pages of a migration go by TCP though RDMA was wanted; the event's JSON says why.
pub const DWCP_EVENT_RDMA_UNAVAILABLE: u32 = 19;
/// The feature flags were changed; the event's JSON says who, why and what.
pub const DWCP_EVENT_FLAGS_CHANGED: u32 = 20;
/// A feature flag was rolled back, and is off until that is cleared; value is its DWCP_FLAG_, the event's
/// JSON has the evidence.
pub const DWCP_EVENT_FLAG_ROLLED_BACK: u32 = 21;
/// A feature flag stays at its percentage though its schedule would have it higher, or its health is in
/// question; value is its DWCP_FLAG_, the event's JSON says why.
pub const DWCP_EVENT_FLAG_HELD: u32 = 22;
/// An event that is newer than this list; its JSON says what it is.
pub const DWCP_EVENT_OTHER: u32 = 0;

/// Connecting and agreeing on version, features and memory layout.
pub const DWCP_PHASE_CONNECT: u32 = 1;
/// Copying while the guest runs.
pub const DWCP_PHASE_PRECOPY: u32 = 2;
/// Guest paused: what is left of its memory.
pub const DWCP_PHASE_FINAL_PASS: u32 = 3;
/// Guest paused: CPUs and devices.
pub const DWCP_PHASE_DEVICE_STATE: u32 = 4;
/// Guest paused: the destination checks the image.
pub const DWCP_PHASE_VERIFY: u32 = 5;
/// Guest paused: ownership passes.
pub const DWCP_PHASE_HANDOVER: u32 = 6;
/// The guest is being started at the destination.
pub const DWCP_PHASE_RESUME: u32 = 7;
/// It is over.
pub const DWCP_PHASE_ENDED: u32 = 8;
/// Before the end: the guest runs at the destination, and pages that it lacks follow.
pub const DWCP_PHASE_POST_COPY: u32 = 9;

/// The source owns the guest.
pub const DWCP_OWNER_SOURCE: u32 = 1;
/// The destination owns the guest.
pub const DWCP_OWNER_DESTINATION: u32 = 2;
/// Only the destination's record can tell.
pub const DWCP_OWNER_IN_DOUBT: u32 = 3;

/// A feature flag: the mode of a peer follows the network.
pub const DWCP_FLAG_HYBRID_MODE: u32 = 1;
/// A feature flag: codecs are chosen by what is learned.
pub const DWCP_FLAG_ML_COMPRESSION: u32 = 2;
/// A feature flag: replicated state without coordination; declared, its component is not built yet.
pub const DWCP_FLAG_CRDT_SYNC: u32 = 3;
/// A feature flag: Byzantine consensus; declared, its component is not built yet.
pub const DWCP_FLAG_PBFT_CONSENSUS: u32 = 4;
/// A feature flag: pacing, stream tuning and several paths.
pub const DWCP_FLAG_INTERNET_OPTIMIZATION: u32 = 5;

/// dwcp_flag_state.unit: two nodes, "NODE|NODE" in either order.
pub const DWCP_UNIT_NODE_PAIR: u32 = 1;
/// dwcp_flag_state.unit: a node and the peer that it sends to, "NODE|PEER".
pub const DWCP_UNIT_LINK: u32 = 2;
/// dwcp_flag_state.unit: a node and an address of its peer, "NODE|HOST:PORT".
pub const DWCP_UNIT_PATH: u32 = 3;
/// dwcp_flag_state.unit: a group of replicas, by its name.
pub const DWCP_UNIT_REPLICA_GROUP: u32 = 4;
/// dwcp_flag_state.unit: a whole cluster, by its name.
pub const DWCP_UNIT_CLUSTER: u32 = 5;

/// dwcp_flag_state.bits: somebody enabled it.
pub const DWCP_FLAG_STATE_ENABLED: u32 = 1;
/// dwcp_flag_state.bits: a component stands behind it.
pub const DWCP_FLAG_STATE_BUILT: u32 = 2;
/// dwcp_flag_state.bits: as things stand, some unit could have it.
pub const DWCP_FLAG_STATE_IN_FORCE: u32 = 4;
/// dwcp_flag_state.bits: it was rolled back, and that was not cleared since.
pub const DWCP_FLAG_STATE_ROLLED_BACK: u32 = 8;
/// dwcp_flag_state.bits: the kill switch is on, for every flag.
pub const DWCP_FLAG_STATE_KILLED: u32 = 16;
/// dwcp_flag_state.bits: its percentage grows by a schedule.
pub const DWCP_FLAG_STATE_SCHEDULED: u32 = 32;

/// dwcp_flag_change.fields: enabled is set.
pub const DWCP_FLAG_CHANGE_ENABLED: u32 = 1;
/// dwcp_flag_change.fields: rollout_ppm is set.
pub const DWCP_FLAG_CHANGE_ROLLOUT: u32 = 2;
/// dwcp_flag_change.fields: seed is set.
pub const DWCP_FLAG_CHANGE_SEED: u32 = 4;
/// dwcp_flag_change.fields: expires_s is set.
pub const DWCP_FLAG_CHANGE_EXPIRES: u32 = 8;

/// dwcp_rollback_limits.flags: no tighter limits for small percentages.
pub const DWCP_ROLLBACK_NO_STAGES: u32 = 1;

/// dwcp_flag_decision.reason, off: the kill switch is on.
pub const DWCP_REASON_KILL_SWITCH: u32 = 1;
/// dwcp_flag_decision.reason, off: nobody enabled it.
pub const DWCP_REASON_NOT_ENABLED: u32 = 2;
/// dwcp_flag_decision.reason, off: its time is over.
pub const DWCP_REASON_EXPIRED: u32 = 3;
/// dwcp_flag_decision.reason, off: its component does not exist yet.
pub const DWCP_REASON_NOT_BUILT: u32 = 4;
/// dwcp_flag_decision.reason, off: the unit, or a member of it, is on the deny list.
pub const DWCP_REASON_DENIED: u32 = 5;
/// dwcp_flag_decision.reason, off: the other end does not take part.
pub const DWCP_REASON_PEER_CANNOT: u32 = 6;
/// dwcp_flag_decision.reason, off: a flag that it needs is off for the same unit.
pub const DWCP_REASON_PREREQUISITE_UNMET: u32 = 7;
/// dwcp_flag_decision.reason, off: it was rolled back, and that was not cleared since.
pub const DWCP_REASON_ROLLED_BACK: u32 = 8;
/// dwcp_flag_decision.reason, on: the unit, or a member of it, is on the allow list.
pub const DWCP_REASON_ALLOWED: u32 = 9;
/// dwcp_flag_decision.reason, on: the percentage includes it.
pub const DWCP_REASON_PERCENTAGE: u32 = 10;
/// dwcp_flag_decision.reason, off: the percentage has not come to it.
pub const DWCP_REASON_BELOW_PERCENTAGE: u32 = 11;
/// dwcp_flag_decision.reason, on: it is among the first of the known members.
pub const DWCP_REASON_RANKED: u32 = 12;
/// dwcp_flag_decision.reason, off: the percentage of the known members has not come to it.
pub const DWCP_REASON_NOT_RANKED: u32 = 13;

/// dwcp_migration_side: this node is the source.
pub const DWCP_SIDE_SOURCE: u32 = 1;
/// dwcp_migration_side: this node is the destination.
pub const DWCP_SIDE_DESTINATION: u32 = 2;

#[cfg(test)]
mod tests {
    use crate::Status;

    #[test]
    fn the_header_holds_exactly_the_status_table() {
        let source = include_str!("codes.rs");
        let mut named: Vec<(String, i32)> = Vec::new();
        for line in source.lines().filter_map(|line| line.strip_prefix("pub const DWCP_")) {
            let Some((name, value)) = line.split_once(": i32 = ") else { continue };
            named.push((format!("DWCP_{name}"), value.trim_end_matches(';').parse().unwrap()));
        }
        let table: Vec<_> = Status::ALL.iter().map(|s| (s.name().to_owned(), s.code())).collect();
        assert_eq!(named, table);
    }
}

//! Every bound on what a peer or a caller can make the library hold, by name.

/// Longest guest or node name, in bytes.
pub const MAX_NAME_BYTES: usize = 128;
/// Memory regions of one guest.
pub const MAX_REGIONS: usize = 1024;
/// Pages of one guest: 64 TiB of 4 KiB pages.
pub const MAX_PAGES: u64 = 1 << 34;
/// Smallest page; the simulator uses it.
pub const MIN_PAGE_BYTES: u32 = 64;
/// Largest page.
pub const MAX_PAGE_BYTES: u32 = 64 * 1024;
/// Data streams of one migration.
pub const MAX_STREAMS: u16 = 64;
/// Raw page bytes in one chunk.
pub const MAX_CHUNK_BYTES: u32 = 1 << 20;
/// Extents in one chunk.
pub const MAX_CHUNK_EXTENTS: usize = 256;
/// Pages that one chunk may declare zero.
pub const MAX_CHUNK_ZERO_PAGES: u64 = 1 << 20;
/// Payload of one control message.
pub const MAX_CONTROL_BYTES: usize = 256 * 1024;
/// Payload of one hello, either way.
pub const MAX_HELLO_BYTES: usize = 128 * 1024;
/// Payload of one frame, whatever its kind.
pub const MAX_FRAME_BYTES: u32 = MAX_CHUNK_BYTES + 64 * 1024;
/// Pages that one relayed migration remembers on each side, whatever the configuration says: 1 TiB.
pub const MAX_BASELINE_PAGES: u32 = 1 << 28;
/// Pages of earlier migrations that a node holds: 16 GiB, whose index takes 32 MiB of memory.
pub const MAX_HELD_PAGES: u64 = 1 << 22;
/// The least that a node which holds pages of earlier migrations may be limited to.
pub const MIN_HELD_BYTES: u64 = 1 << 20;
/// Earlier migrations of which a node holds pages.
pub const MAX_HELD_SECTIONS: usize = 256;
/// Pages of earlier migrations that a destination announces: 4 GiB.
pub const MAX_ANNOUNCED_PAGES: u32 = 1 << 20;
/// Hashes in one piece of an announcement: a quarter of a MiB.
pub const MAX_ANNOUNCED_PIECE_PAGES: usize = (MAX_CONTROL_BYTES - 64) / 8;
/// Payload of one segment of a relayed stream.
pub const MAX_SEGMENT_BYTES: u32 = 3 << 20;
/// Control messages sent and not yet acknowledged.
pub const MAX_UNACKED_CONTROL: usize = 64;
/// Chunks in flight on one stream.
pub const MAX_STREAM_CHUNKS: usize = 256;
/// Device state of one guest.
pub const MAX_DEVICE_STATE_BYTES: usize = 256 << 20;
/// Error text that a peer may send.
pub const MAX_REASON_BYTES: usize = 1024;
/// Events that a node remembers.
pub const MAX_EVENTS: usize = 4096;
/// Finished migrations that a node remembers.
pub const MAX_FINISHED_MIGRATIONS: usize = 256;
/// Guests registered on one node.
pub const MAX_GUESTS: usize = 4096;
/// Handshakes in progress on one listener.
pub const MAX_PENDING_HANDSHAKES: usize = 128;
/// Handshakes from one address, or network of IPv6, that may fail in a second on average.
pub const MAX_FAILED_HANDSHAKES_PER_S: u64 = 10;
/// Addresses whose failed handshakes are counted.
pub const MAX_HANDSHAKE_SOURCES: usize = 4096;
/// Peers whose paths a node remembers.
pub const MAX_PEERS: usize = 4096;
/// Bytes of a peer's address, `HOST:PORT`; a name has at most 253.
pub const MAX_ADDRESS_BYTES: usize = 261;
/// Bytes of one frame that only tests what a path carries.
pub const MAX_FILLER_BYTES: u32 = 256 << 10;
/// Probes that a listener answers in a second, all peers together; what comes beyond is closed.
pub const MAX_PROBES_PER_S: u64 = 1000;
/// Probes on one connection.
pub const MAX_CONNECTION_PROBES: u32 = 64;
/// Connections at a time that may send a listener filler.
pub const MAX_FILLER_CONNECTIONS: usize = 64;
/// Paths to its peers that a node tells another at a time.
pub const MAX_TOLD_PATHS: usize = 512;
/// Times in a second that a node tells others of its paths, all of them together; of its metrics likewise.
pub const MAX_TELLINGS_PER_S: u64 = 10;
/// Metrics that a node tells another.
pub const MAX_TOLD_METRICS: usize = 256;
/// Series of them all together.
pub const MAX_TOLD_SERIES: usize = 1024;
/// Name of a metric, of its unit or of its label, or a value of that.
pub const MAX_METRIC_NAME_BYTES: usize = 64;
/// Bounds of one histogram.
pub const MAX_HISTOGRAM_BOUNDS: usize = 32;
/// Nodes that are asked for their paths, for one matrix, or for their metrics.
pub const MAX_ASKED_NODES: usize = 64;
/// Addresses and networks in one setting.
pub const MAX_NETWORKS: usize = 64;
/// Reconnects of one migration.
pub const MAX_RECONNECTS: u32 = 100_000;
/// One line that a hypervisor may send on its control socket; QEMU's longest answer, its schema, has
/// a quarter of this.
pub const MAX_QMP_LINE_BYTES: usize = 1 << 20;
/// Events of a hypervisor that wait to be asked for; the oldest goes first.
pub const MAX_QMP_EVENTS: usize = 1024;
/// Page payloads in one segment of QEMU's stream: 1 MiB.
pub const MAX_SEGMENT_PAGES: usize = 256;
/// Everything else in one segment of QEMU's stream.
pub const MAX_SEGMENT_SKELETON_BYTES: usize = 1 << 20;
/// Pages that one piece of the map of missing pages covers: 4 GiB of them, a bitmap of 128 KiB.
pub const MAX_MISSING_PIECE_PAGES: u64 = 1 << 20;
/// Pages that one frame may ask for.
pub const MAX_REQUEST_PAGES: usize = 64;
/// Pages that a source remembers as asked for; what is asked beyond comes when its turn comes.
pub const MAX_REQUESTED_PAGES: usize = 4096;
/// Pages that a guest may wait for before the destination takes in further faults.
pub const MAX_WAITING_FAULTS: usize = 4096;
/// Multifd channels of one migration of QEMU's.
pub const MAX_MULTIFD_CHANNELS: u8 = 16;
/// Pages in one multifd packet; QEMU itself makes them 512 KiB.
pub const MAX_MULTIFD_PACKET_PAGES: u32 = 1024;
/// Connections of v1 peers at a time: as many streams as v1 ever opens to one.
pub const MAX_V1_CONNECTIONS: usize = 256;
/// The file that holds the changes of a node's feature flags; a longer one is begun anew.
pub const MAX_AUDIT_BYTES: u64 = 64 << 20;
/// Changes of the feature flags that a node has at hand.
pub const MAX_FLAG_HISTORY: usize = 1024;
/// Addresses that a node dials as v1 peers.
pub const MAX_V1_PEERS: usize = 256;
/// A node's state as a document: flags, log, settings, peers, records and names at their limits fit.
pub const MAX_STATE_BYTES: usize = 16 << 20;
/// Entries of the audit log in a state document; older ones are counted.
pub const MAX_STATE_ENTRIES: usize = 1000;
/// The lines of those entries together.
pub const MAX_STATE_AUDIT_BYTES: usize = 4 << 20;
/// Ownership records in a state document.
pub const MAX_STATE_RECORDS: usize = 4096;
/// Settings in a state document.
pub const MAX_STATE_SETTINGS: usize = 1024;
/// The value of one setting in a state document.
pub const MAX_STATE_VALUE_BYTES: usize = 16 << 10;
/// Names on one list of a feature flag.
pub const MAX_FLAG_LIST_NAMES: usize = 512;
/// Bytes of one unit that a feature flag is decided for: a node's name, a bar, an address.
pub const MAX_UNIT_BYTES: usize = MAX_NAME_BYTES + 1 + MAX_ADDRESS_BYTES;
/// Stages of one rollout schedule.
pub const MAX_SCHEDULE_STAGES: usize = 64;
/// Units of one kind whose membership is known.
pub const MAX_FLAG_MEMBERS: usize = 1 << 16;
/// Evidence for one change of the feature flags, as JSON.
pub const MAX_EVIDENCE_BYTES: usize = 16 << 10;
/// One line of the audit log: every list of every flag full, before and after the change.
pub const MAX_AUDIT_LINE_BYTES: usize = 9 << 20;
/// Units of one flag that each guard of its rollout knows.
pub const MAX_GUARD_UNITS: usize = 4096;
/// Links of a simulated cluster.
pub const MAX_SIMULATED_LINKS: usize = 4096;
/// Faults of a simulated rollout.
pub const MAX_SIMULATED_FAULTS: usize = 64;
/// Events that a simulated rollout tells of.
pub const MAX_SIMULATED_EVENTS: usize = 4096;

/* libdwcp: live migration of running virtual machines.
 *
 * Generated from src/ffi by scripts/bless-header.sh; do not edit.
 *
 * Handles      Opaque; every function may be called from any thread at any time unless its comment
 *              says otherwise. A NULL, freed or foreign handle gives DWCP_ERR_BAD_HANDLE. Freeing
 *              NULL is allowed and does nothing.
 * Structs      Set the whole struct to zero, then struct_size to its sizeof. Zero means default.
 *              reserved stays zero. In arrays each element carries struct_size.
 * Errors       0 is success. After a failure dwcp_last_error() of the same thread says which value
 *              was wrong. Failures of a migration carry their own text: dwcp_migration_reason().
 * Texts        UTF-8, ended by NUL, copied into the caller's buffer. *needed (may be NULL) receives
 *              the length with the NUL. A buffer that is too small receives what fits and the call
 *              returns DWCP_ERR_BUFFER_TOO_SMALL. buffer NULL with length 0 only asks for *needed.
 * Event loops  One file descriptor per node, dwcp_node_fd(), is readable while completions wait;
 *              dwcp_node_reap() takes them in batches. Everything can be driven this way alone.
 * Callbacks    Optional. They run on threads of the library, which block all signals and carry
 *              names that begin with "dwcp". Inside a callback, calls that would wait or change the
 *              node are refused with DWCP_ERR_BUSY; their comments say "not from a callback".
 */


#ifndef DWCP_H
#define DWCP_H

#include <stddef.h>
#include <stdint.h>

/* Marks results that a caller must look at. */
#if defined(__GNUC__) || defined(__clang__)
#define DWCP_MUST_USE __attribute__((warn_unused_result))
#else
#define DWCP_MUST_USE
#endif

/**
 * Version of the binary interface; changes when a program must be rebuilt.
 */
#define DWCP_ABI_VERSION 0

/**
 * A timeout that never runs out.
 */
#define DWCP_FOREVER UINT64_MAX

/**
 * Success.
 */
#define DWCP_OK 0

/**
 * An argument is out of range or malformed.
 */
#define DWCP_ERR_INVALID_ARGUMENT -1

/**
 * A required pointer is NULL.
 */
#define DWCP_ERR_NULL_POINTER -2

/**
 * The handle is NULL, was freed, or is of another kind.
 */
#define DWCP_ERR_BAD_HANDLE -3

/**
 * A struct_size that this library does not know.
 */
#define DWCP_ERR_BAD_STRUCT_SIZE -4

/**
 * A panic was caught; the handle is poisoned and can only be freed.
 */
#define DWCP_ERR_PANIC -5

/**
 * The caller's buffer is too small; the needed length was returned.
 */
#define DWCP_ERR_BUFFER_TOO_SMALL -6

/**
 * Nothing to do now; wait on the file descriptor.
 */
#define DWCP_ERR_WOULD_BLOCK -7

/**
 * The time allowed ran out.
 */
#define DWCP_ERR_TIMEOUT -8

/**
 * Cancelled by the caller.
 */
#define DWCP_ERR_CANCELLED -9

/**
 * No object of this name or id.
 */
#define DWCP_ERR_NOT_FOUND -10

/**
 * An object of this name exists.
 */
#define DWCP_ERR_ALREADY_EXISTS -11

/**
 * The object is in use, or the call came from a callback that must not make it.
 */
#define DWCP_ERR_BUSY -12

/**
 * This host or build lacks what is needed; the text says what.
 */
#define DWCP_ERR_UNSUPPORTED -13

/**
 * A named limit was reached.
 */
#define DWCP_ERR_LIMIT_REACHED -14

/**
 * An operating system call failed.
 */
#define DWCP_ERR_IO -15

/**
 * The node has been stopped.
 */
#define DWCP_ERR_STOPPED -16

/**
 * The operation is not allowed in this state.
 */
#define DWCP_ERR_BAD_STATE -17

/**
 * The first bytes are not this protocol's.
 */
#define DWCP_ERR_BAD_MAGIC -100

/**
 * The peer speaks a version that this library does not.
 */
#define DWCP_ERR_BAD_VERSION -101

/**
 * A frame is malformed, truncated or too long.
 */
#define DWCP_ERR_BAD_FRAME -102

/**
 * The peer requires a feature that this library lacks.
 */
#define DWCP_ERR_UNKNOWN_FEATURE -103

/**
 * A message came in a state that does not allow it.
 */
#define DWCP_ERR_UNEXPECTED_MESSAGE -104

/**
 * No connection could be made.
 */
#define DWCP_ERR_CONNECT -200

/**
 * All connections are lost and did not come back in time.
 */
#define DWCP_ERR_CONNECTION_LOST -201

/**
 * The peer accepted data but did not move on in time.
 */
#define DWCP_ERR_PEER_STALLED -202

/**
 * The peer refused; the text holds its reason.
 */
#define DWCP_ERR_REFUSED -203

/**
 * Bytes do not match their checksum, or do not decode.
 */
#define DWCP_ERR_CORRUPT -300

/**
 * The image digests of the two sides differ.
 */
#define DWCP_ERR_DIGEST_MISMATCH -301

/**
 * The two sides' memory regions differ.
 */
#define DWCP_ERR_LAYOUT_MISMATCH -400

/**
 * The guest dirties memory faster than it can be sent.
 */
#define DWCP_ERR_DID_NOT_CONVERGE -401

/**
 * The peer gave the migration up; the text holds its reason.
 */
#define DWCP_ERR_PEER_ABORTED -402

/**
 * The link broke at the commit point: only the destination knows who owns the guest.
 */
#define DWCP_ERR_IN_DOUBT -403

/**
 * The state file could not be written.
 */
#define DWCP_ERR_STATE_FILE -404

/**
 * The guest ran at the destination and pages that it lacked are lost, or it is lost itself.
 */
#define DWCP_ERR_POST_COPY_LOST -405

/**
 * A callback of the hypervisor failed.
 */
#define DWCP_ERR_CALLBACK -500

/**
 * A configuration value or file is wrong.
 */
#define DWCP_ERR_CONFIG -600

/**
 * dwcp_migration_options.codec: the library's choice.
 */
#define DWCP_CODEC_DEFAULT 0

/**
 * dwcp_migration_options.codec: pages travel as they are.
 */
#define DWCP_CODEC_NONE 1

/**
 * dwcp_migration_options.codec: LZ4.
 */
#define DWCP_CODEC_LZ4 2

/**
 * dwcp_migration_options.codec: Zstandard at codec_level, -7 to 19; level 0 means 1.
 */
#define DWCP_CODEC_ZSTD 3

/**
 * dwcp_node_options.flags: keep no pages of QEMU's guests that left or came; see
 * dwcp_node_clear_held().
 */
#define DWCP_NODE_NO_HELD_PAGES 1

/**
 * dwcp_node_options.flags: connections are neither encrypted nor is the peer known; never to or
 * from a public address.
 */
#define DWCP_NODE_PLAIN 2

/**
 * dwcp_migration_options.flags: never slow the guest down.
 */
#define DWCP_MIGRATION_NO_THROTTLE 1

/**
 * dwcp_migration_options.post_copy: a guest that does not converge stays.
 */
#define DWCP_POST_COPY_NEVER 0

/**
 * dwcp_migration_options.post_copy: the guest goes on at the destination before all of its memory is
 * there, when dwcp_migration_start_post_copy() asks for it.
 */
#define DWCP_POST_COPY_MANUAL 1

/**
 * dwcp_migration_options.post_copy: also when passes bring no progress or the deadline comes, instead
 * of slowing the guest down or giving up.
 */
#define DWCP_POST_COPY_AUTO 2

/**
 * dwcp_node_attach_qemu flags: QEMU was started with -incoming defer and waits for the guest.
 */
#define DWCP_QEMU_INCOMING 1

/**
 * A mode of peers: it is measured, or there is none.
 */
#define DWCP_MODE_AUTO 0

/**
 * A mode of peers: a short and fast path.
 */
#define DWCP_MODE_DATACENTER 1

/**
 * A mode of peers: neither short and fast nor long or slow; where every peer starts.
 */
#define DWCP_MODE_HYBRID 2

/**
 * A mode of peers: a long or slow path.
 */
#define DWCP_MODE_INTERNET 3

/**
 * A mode of peers: the peer knows DWCP v1 alone, or is to be treated so.
 */
#define DWCP_MODE_V1_COMPAT 4

/**
 * dwcp_peer.flags: streams to it are open.
 */
#define DWCP_PEER_IN_USE 1

/**
 * dwcp_peer.flags: the path may be faster than rate_bytes_per_s; nothing has filled it yet.
 */
#define DWCP_PEER_RATE_IS_FLOOR 2

/**
 * dwcp_peer.flags: its path has told something, silent_us ago.
 */
#define DWCP_PEER_HEARD 4

/**
 * dwcp_peer.flags: rtt_us and min_rtt_us are known.
 */
#define DWCP_PEER_HAS_RTT 8

/**
 * dwcp_peer.flags: jitter_us is known.
 */
#define DWCP_PEER_HAS_JITTER 16

/**
 * dwcp_peer.flags: loss_ppm is known.
 */
#define DWCP_PEER_HAS_LOSS 32

/**
 * dwcp_peer.flags: rate_bytes_per_s is known.
 */
#define DWCP_PEER_HAS_RATE 64

/**
 * dwcp_peer.rdma: not tried.
 */
#define DWCP_RDMA_UNKNOWN 0

/**
 * dwcp_peer.rdma: it has carried data.
 */
#define DWCP_RDMA_REACHABLE 1

/**
 * dwcp_peer.rdma: it was tried in vain.
 */
#define DWCP_RDMA_UNREACHABLE 2

/**
 * dwcp_transport_options.flags: measurement never chooses datacenter mode.
 */
#define DWCP_TRANSPORT_NO_DATACENTER 1

/**
 * dwcp_transport_options.flags: measurement never chooses internet mode.
 */
#define DWCP_TRANSPORT_NO_INTERNET 2

/**
 * dwcp_path_options.flags: streams on long paths are not paced by what the path was found to carry.
 */
#define DWCP_PATH_NO_PACING 1

/**
 * dwcp_rdma_options.flags: pages may go by RDMA.
 */
#define DWCP_RDMA_ENABLED 1

/**
 * dwcp_transport_options.congestion: as DWCP_CONGESTION_BBR.
 */
#define DWCP_CONGESTION_DEFAULT 0

/**
 * dwcp_transport_options.congestion: BBR, where the kernel has it.
 */
#define DWCP_CONGESTION_BBR 1

/**
 * dwcp_transport_options.congestion: CUBIC.
 */
#define DWCP_CONGESTION_CUBIC 2

/**
 * dwcp_transport_options.congestion: Reno.
 */
#define DWCP_CONGESTION_RENO 3

/**
 * dwcp_transport_options.congestion: the system's own, on every path.
 */
#define DWCP_CONGESTION_SYSTEM 4

/**
 * dwcp_node_options.event_level: as DWCP_EVENTS_INFO.
 */
#define DWCP_EVENTS_DEFAULT 0

/**
 * dwcp_node_options.event_level: every event becomes a completion.
 */
#define DWCP_EVENTS_DEBUG 1

/**
 * dwcp_node_options.event_level: the normal course and worse.
 */
#define DWCP_EVENTS_INFO 2

/**
 * dwcp_node_options.event_level: what an operator may want to look at, and worse.
 */
#define DWCP_EVENTS_WARN 3

/**
 * dwcp_node_options.event_level: failures only.
 */
#define DWCP_EVENTS_ERROR 4

/**
 * dwcp_node_options.event_level: no events; requests and ended migrations still come.
 */
#define DWCP_EVENTS_NONE 5

/**
 * dwcp_completion.kind: the library asks the host to do something; see DWCP_REQUEST_.
 */
#define DWCP_COMPLETION_REQUEST 1

/**
 * dwcp_completion.kind: something happened; see DWCP_EVENT_.
 */
#define DWCP_COMPLETION_EVENT 2

/**
 * dwcp_completion.kind: a migration ended; status says how, value who owns the guest.
 */
#define DWCP_COMPLETION_MIGRATION_ENDED 3

/**
 * Begin to log the guest's writes.
 */
#define DWCP_REQUEST_START_DIRTY_LOG 1

/**
 * Fill buffer with the dirty log of region `value`: one bit a page, lowest bit first, zeroed
 * beforehand; begin anew.
 */
#define DWCP_REQUEST_FETCH_DIRTY 2

/**
 * Stop the guest; complete once no virtual CPU or device writes memory any more.
 */
#define DWCP_REQUEST_PAUSE 3

/**
 * Let the guest run.
 */
#define DWCP_REQUEST_RESUME 4

/**
 * Complete with the state of CPUs and devices as data.
 */
#define DWCP_REQUEST_SAVE_DEVICE_STATE 5

/**
 * Restore CPUs and devices from buffer; the guest stays stopped.
 */
#define DWCP_REQUEST_LOAD_DEVICE_STATE 6

/**
 * Hold the guest back for `value` percent of its time; DWCP_ERR_UNSUPPORTED if it cannot be.
 */
#define DWCP_REQUEST_THROTTLE 7

/**
 * The last request of a migration; `value` is a DWCP_ENDING_.
 */
#define DWCP_REQUEST_FINISH 8

/**
 * The guest belongs to the other side, or never came: release it.
 */
#define DWCP_ENDING_DISCARD 1

/**
 * The guest stays with this side.
 */
#define DWCP_ENDING_KEEP 2

/**
 * The link broke at the commit point, or the other side speaks v1, which acknowledges nothing. Leave
 * the guest paused, or, at a destination, the whole image that came from a v1 peer as it is, and ask
 * the other side before anything is done with it.
 */
#define DWCP_ENDING_UNDECIDED 3

/**
 * After a switch to post-copy the guest was the destination's, and is lost. At the destination end it:
 * whoever touches a page that is missing waits until the process ends. At the source memory holds the
 * guest as it was at the switch; it must not go on from there as if nothing had happened since.
 */
#define DWCP_ENDING_LOST 4

/**
 * The node listens.
 */
#define DWCP_EVENT_NODE_STARTED 1

/**
 * The node was stopped.
 */
#define DWCP_EVENT_NODE_STOPPED 2

/**
 * A guest was registered or removed.
 */
#define DWCP_EVENT_GUEST_CHANGED 3

/**
 * A migration entered a phase; value is a DWCP_PHASE_.
 */
#define DWCP_EVENT_PHASE 4

/**
 * A pre-copy pass ended; value is its number.
 */
#define DWCP_EVENT_PASS_COMPLETED 5

/**
 * The guest is slowed down; value is the percentage.
 */
#define DWCP_EVENT_THROTTLED 6

/**
 * A data stream is connected; value is its number.
 */
#define DWCP_EVENT_STREAM_UP 7

/**
 * A data stream broke; value is its number.
 */
#define DWCP_EVENT_STREAM_DOWN 8

/**
 * A chunk came damaged and is sent again.
 */
#define DWCP_EVENT_CHUNK_DAMAGED 9

/**
 * A peer was turned away.
 */
#define DWCP_EVENT_PEER_REFUSED 10

/**
 * Something the operator should know.
 */
#define DWCP_EVENT_NOTICE 11

/**
 * The way of transport to a peer changed; the event's JSON says from what to what, and why.
 */
#define DWCP_EVENT_MODE_TRANSITION 12

/**
 * A data stream was closed that is not needed any more; value: its number.
 */
#define DWCP_EVENT_STREAM_RETIRED 13

/**
 * The number of a migration's data streams was changed; value: the new one.
 */
#define DWCP_EVENT_STREAMS_TUNED 14

/**
 * The guest goes on at the destination before all of its memory is there.
 */
#define DWCP_EVENT_POST_COPY_BEGUN 15

/**
 * No page is missing any more; the event's JSON says how long the guest waited for pages.
 */
#define DWCP_EVENT_POST_COPY_COMPLETED 16

/**
 * A connection to or from a v1 peer was made, refused or closed; the event's JSON says which.
 */
#define DWCP_EVENT_V1_CONNECTION 17

/**
 * Pages of a data stream go by RDMA.
 */
#define DWCP_EVENT_RDMA_UP 18

/**
 * Pages of a migration go by TCP though RDMA was wanted; the event's JSON says why.
 */
#define DWCP_EVENT_RDMA_UNAVAILABLE 19

/**
 * The feature flags were changed; the event's JSON says who, why and what.
 */
#define DWCP_EVENT_FLAGS_CHANGED 20

/**
 * A feature flag was rolled back, and is off until that is cleared; value is its DWCP_FLAG_, the event's
 * JSON has the evidence.
 */
#define DWCP_EVENT_FLAG_ROLLED_BACK 21

/**
 * A feature flag stays at its percentage though its schedule would have it higher, or its health is in
 * question; value is its DWCP_FLAG_, the event's JSON says why.
 */
#define DWCP_EVENT_FLAG_HELD 22

/**
 * An event that is newer than this list; its JSON says what it is.
 */
#define DWCP_EVENT_OTHER 0

/**
 * Connecting and agreeing on version, features and memory layout.
 */
#define DWCP_PHASE_CONNECT 1

/**
 * Copying while the guest runs.
 */
#define DWCP_PHASE_PRECOPY 2

/**
 * Guest paused: what is left of its memory.
 */
#define DWCP_PHASE_FINAL_PASS 3

/**
 * Guest paused: CPUs and devices.
 */
#define DWCP_PHASE_DEVICE_STATE 4

/**
 * Guest paused: the destination checks the image.
 */
#define DWCP_PHASE_VERIFY 5

/**
 * Guest paused: ownership passes.
 */
#define DWCP_PHASE_HANDOVER 6

/**
 * The guest is being started at the destination.
 */
#define DWCP_PHASE_RESUME 7

/**
 * It is over.
 */
#define DWCP_PHASE_ENDED 8

/**
 * Before the end: the guest runs at the destination, and pages that it lacks follow.
 */
#define DWCP_PHASE_POST_COPY 9

/**
 * The source owns the guest.
 */
#define DWCP_OWNER_SOURCE 1

/**
 * The destination owns the guest.
 */
#define DWCP_OWNER_DESTINATION 2

/**
 * Only the destination's record can tell.
 */
#define DWCP_OWNER_IN_DOUBT 3

/**
 * A feature flag: the mode of a peer follows the network.
 */
#define DWCP_FLAG_HYBRID_MODE 1

/**
 * A feature flag: codecs are chosen by what is learned.
 */
#define DWCP_FLAG_ML_COMPRESSION 2

/**
 * A feature flag: replicated state without coordination; declared, its component is not built yet.
 */
#define DWCP_FLAG_CRDT_SYNC 3

/**
 * A feature flag: Byzantine consensus; declared, its component is not built yet.
 */
#define DWCP_FLAG_PBFT_CONSENSUS 4

/**
 * A feature flag: pacing, stream tuning and several paths.
 */
#define DWCP_FLAG_INTERNET_OPTIMIZATION 5

/**
 * dwcp_flag_state.unit: two nodes, "NODE|NODE" in either order.
 */
#define DWCP_UNIT_NODE_PAIR 1

/**
 * dwcp_flag_state.unit: a node and the peer that it sends to, "NODE|PEER".
 */
#define DWCP_UNIT_LINK 2

/**
 * dwcp_flag_state.unit: a node and an address of its peer, "NODE|HOST:PORT".
 */
#define DWCP_UNIT_PATH 3

/**
 * dwcp_flag_state.unit: a group of replicas, by its name.
 */
#define DWCP_UNIT_REPLICA_GROUP 4

/**
 * dwcp_flag_state.unit: a whole cluster, by its name.
 */
#define DWCP_UNIT_CLUSTER 5

/**
 * dwcp_flag_state.bits: somebody enabled it.
 */
#define DWCP_FLAG_STATE_ENABLED 1

/**
 * dwcp_flag_state.bits: a component stands behind it.
 */
#define DWCP_FLAG_STATE_BUILT 2

/**
 * dwcp_flag_state.bits: as things stand, some unit could have it.
 */
#define DWCP_FLAG_STATE_IN_FORCE 4

/**
 * dwcp_flag_state.bits: it was rolled back, and that was not cleared since.
 */
#define DWCP_FLAG_STATE_ROLLED_BACK 8

/**
 * dwcp_flag_state.bits: the kill switch is on, for every flag.
 */
#define DWCP_FLAG_STATE_KILLED 16

/**
 * dwcp_flag_state.bits: its percentage grows by a schedule.
 */
#define DWCP_FLAG_STATE_SCHEDULED 32

/**
 * dwcp_flag_change.fields: enabled is set.
 */
#define DWCP_FLAG_CHANGE_ENABLED 1

/**
 * dwcp_flag_change.fields: rollout_ppm is set.
 */
#define DWCP_FLAG_CHANGE_ROLLOUT 2

/**
 * dwcp_flag_change.fields: seed is set.
 */
#define DWCP_FLAG_CHANGE_SEED 4

/**
 * dwcp_flag_change.fields: expires_s is set.
 */
#define DWCP_FLAG_CHANGE_EXPIRES 8

/**
 * dwcp_rollback_limits.flags: no tighter limits for small percentages.
 */
#define DWCP_ROLLBACK_NO_STAGES 1

/**
 * dwcp_flag_decision.reason, off: the kill switch is on.
 */
#define DWCP_REASON_KILL_SWITCH 1

/**
 * dwcp_flag_decision.reason, off: nobody enabled it.
 */
#define DWCP_REASON_NOT_ENABLED 2

/**
 * dwcp_flag_decision.reason, off: its time is over.
 */
#define DWCP_REASON_EXPIRED 3

/**
 * dwcp_flag_decision.reason, off: its component does not exist yet.
 */
#define DWCP_REASON_NOT_BUILT 4

/**
 * dwcp_flag_decision.reason, off: the unit, or a member of it, is on the deny list.
 */
#define DWCP_REASON_DENIED 5

/**
 * dwcp_flag_decision.reason, off: the other end does not take part.
 */
#define DWCP_REASON_PEER_CANNOT 6

/**
 * dwcp_flag_decision.reason, off: a flag that it needs is off for the same unit.
 */
#define DWCP_REASON_PREREQUISITE_UNMET 7

/**
 * dwcp_flag_decision.reason, off: it was rolled back, and that was not cleared since.
 */
#define DWCP_REASON_ROLLED_BACK 8

/**
 * dwcp_flag_decision.reason, on: the unit, or a member of it, is on the allow list.
 */
#define DWCP_REASON_ALLOWED 9

/**
 * dwcp_flag_decision.reason, on: the percentage includes it.
 */
#define DWCP_REASON_PERCENTAGE 10

/**
 * dwcp_flag_decision.reason, off: the percentage has not come to it.
 */
#define DWCP_REASON_BELOW_PERCENTAGE 11

/**
 * dwcp_flag_decision.reason, on: it is among the first of the known members.
 */
#define DWCP_REASON_RANKED 12

/**
 * dwcp_flag_decision.reason, off: the percentage of the known members has not come to it.
 */
#define DWCP_REASON_NOT_RANKED 13

/**
 * dwcp_migration_side: this node is the source.
 */
#define DWCP_SIDE_SOURCE 1

/**
 * dwcp_migration_side: this node is the destination.
 */
#define DWCP_SIDE_DESTINATION 2

/**
 * Answers again and again whether a unit has a feature.
 */
typedef struct dwcp_decider dwcp_decider;

/**
 * A migration, outgoing or incoming.
 */
typedef struct dwcp_migration dwcp_migration;

/**
 * A node: listens, holds guests, runs migrations.
 */
typedef struct dwcp_node dwcp_node;

/**
 * Takes the device state that save_device_state hands out; valid during that callback.
 */
typedef struct dwcp_writer dwcp_writer;

/**
 * Outcome of a call: DWCP_OK, or one of the negative DWCP_ERR_ codes. The table only ever grows.
 */
typedef int32_t dwcp_status;

/**
 * How a node is set up.
 */
typedef struct dwcp_node_options {
    /**
     * sizeof(dwcp_node_options).
     */
    size_t struct_size;
    /**
     * The node's name, shown to peers; NULL means the host's name.
     */
    const char *name;
    /**
     * Where to listen for incoming migrations, such as `127.0.0.1:0` or `[::]:7000`; NULL: only
     * outgoing ones.
     */
    const char *listen;
    /**
     * Directory for ownership records, which survive a crash; NULL: kept in memory only.
     */
    const char *state_dir;
    /**
     * A DWCP_EVENTS_: which events become completions.
     */
    uint32_t event_level;
    /**
     * How long a request may stay unanswered before it counts as failed; 0 means 30,000.
     */
    uint32_t request_timeout_ms;
    /**
     * DWCP_NODE_ bits.
     */
    uint32_t flags;
    /**
     * Zero.
     */
    uint32_t padding;
    /**
     * How much is kept of the pages of QEMU's guests that left or came, at least 1048576: in
     * state_dir, encrypted, or, less of it, in memory if that is NULL; 0 means 4 GiB.
     */
    uint64_t held_bytes;
    /**
     * Directory with the node's key and certificate (`dwcp-v3-cli identity issue`): connections are
     * over TLS. NULL with DWCP_NODE_PLAIN: they are not secured; without it: there are none.
     */
    const char *identity_dir;
    /**
     * Names of the nodes that are talked to, separated by commas; NULL: all that are trusted.
     */
    const char *allowed_peers;
    /**
     * Zero.
     */
    uint64_t reserved[4];
} dwcp_node_options;

/**
 * One region of guest memory.
 */
typedef struct dwcp_region {
    /**
     * sizeof(dwcp_region), in every element of the array.
     */
    size_t struct_size;
    /**
     * Name that source and destination agree on, such as "ram".
     */
    const char *name;
    /**
     * Where the guest sees it; compared with the other side, never used as a pointer.
     */
    uint64_t guest_address;
    /**
     * Length; a multiple of the page size.
     */
    uint64_t length_bytes;
    /**
     * Where this process has it mapped, readable and writable, until the guest's drop callback
     * has run or dwcp_node_free() has returned. NULL in all regions: pages go through read_pages
     * and write_pages.
     */
    void *host;
    /**
     * Zero.
     */
    uint64_t reserved[3];
} dwcp_region;

/**
 * A running guest that may be migrated away.
 *
 * Callbacks return 0 for success; any other number is a failure and is quoted, with the text of
 * dwcp_callback_set_error(), in the migration's reason. One callback runs at a time, except
 * read_pages, which several threads call at once. With start_dirty_log, fetch_dirty, pause, resume,
 * save_device_state, throttle and finish all NULL the guest is driven by DWCP_COMPLETION_REQUEST.
 * Otherwise start_dirty_log, fetch_dirty, pause and resume are required.
 */
typedef struct dwcp_source {
    /**
     * sizeof(dwcp_source).
     */
    size_t struct_size;
    /**
     * The guest's memory.
     */
    const struct dwcp_region *regions;
    /**
     * How many regions there are, 1 to 1024.
     */
    size_t region_count;
    /**
     * Page size of the dirty log; 0 means 4096.
     */
    uint32_t page_bytes;
    /**
     * Zero.
     */
    uint32_t flags;
    /**
     * Given to every callback.
     */
    void *ctx;
    /**
     * Called once, when the library will not use ctx, memory or callbacks any more: soon after the
     * guest moved away or was removed, at the latest in dwcp_node_stop() or dwcp_node_free(). Not
     * called when the registration is refused: everything then stays the caller's.
     */
    void (*drop)(void *ctx);
    /**
     * Begin to log the guest's writes.
     */
    int32_t (*start_dirty_log)(void *ctx);
    /**
     * Set in log one bit for each page of the region written since the last call, lowest bit
     * first; begin anew. The log comes zeroed.
     */
    int32_t (*fetch_dirty)(void *ctx, uint32_t region, uint64_t *log, size_t words);
    /**
     * Stop the guest; on return no virtual CPU or device writes memory.
     */
    int32_t (*pause)(void *ctx);
    /**
     * Let the paused guest go on: the migration failed before its commit point.
     */
    int32_t (*resume)(void *ctx);
    /**
     * Give the state of CPUs and devices to dwcp_writer_write(). NULL: there is none.
     */
    int32_t (*save_device_state)(void *ctx, struct dwcp_writer *writer);
    /**
     * Hold the guest back for percent of its time, 0 for full speed. NULL, or
     * DWCP_ERR_UNSUPPORTED: it cannot be.
     */
    int32_t (*throttle)(void *ctx, uint32_t percent);
    /**
     * The last callback of a migration: stop logging; ending is a DWCP_ENDING_. NULL: no need.
     */
    int32_t (*finish)(void *ctx, uint32_t ending);
    /**
     * Copy memory out; required if the regions have no host pointer. May be called outside of a
     * migration too, when an operator asks what codecs would do to it.
     */
    int32_t (*read_pages)(void *ctx,
                          uint32_t region,
                          uint64_t offset_bytes,
                          void *into,
                          size_t length_bytes);
    /**
     * Zero.
     */
    uint64_t reserved[8];
} dwcp_source;

/**
 * A stopped, empty guest that waits for an incoming migration.
 *
 * Callbacks as in dwcp_source; read_pages and write_pages run on several threads at once. With
 * load_device_state, resume and finish all NULL the guest is driven by DWCP_COMPLETION_REQUEST.
 * Otherwise resume is required.
 */
typedef struct dwcp_destination {
    /**
     * sizeof(dwcp_destination).
     */
    size_t struct_size;
    /**
     * The guest's memory; must equal the source's but for the host pointers.
     */
    const struct dwcp_region *regions;
    /**
     * How many regions there are, 1 to 1024.
     */
    size_t region_count;
    /**
     * Page size; 0 means 4096.
     */
    uint32_t page_bytes;
    /**
     * Zero.
     */
    uint32_t flags;
    /**
     * Given to every callback.
     */
    void *ctx;
    /**
     * As in dwcp_source.
     */
    void (*drop)(void *ctx);
    /**
     * Restore CPUs and devices; the guest stays stopped. NULL: device state is refused.
     */
    int32_t (*load_device_state)(void *ctx, const void *state, size_t length_bytes);
    /**
     * Start the guest: it belongs to this side now.
     */
    int32_t (*resume)(void *ctx);
    /**
     * The last callback of a migration; ending is a DWCP_ENDING_. NULL: nothing to do.
     */
    int32_t (*finish)(void *ctx, uint32_t ending);
    /**
     * Copy memory out; required if the regions have no host pointer.
     */
    int32_t (*read_pages)(void *ctx,
                          uint32_t region,
                          uint64_t offset_bytes,
                          void *into,
                          size_t length_bytes);
    /**
     * Copy memory in; required if the regions have no host pointer.
     */
    int32_t (*write_pages)(void *ctx,
                           uint32_t region,
                           uint64_t offset_bytes,
                           const void *from,
                           size_t length_bytes);
    /**
     * Zero.
     */
    uint64_t reserved[8];
} dwcp_destination;

/**
 * Settings of one migration.
 */
typedef struct dwcp_migration_options {
    /**
     * sizeof(dwcp_migration_options).
     */
    size_t struct_size;
    /**
     * Data streams, at most, 1 to 64; 0 means 8. How many there are is found out.
     */
    uint32_t streams;
    /**
     * A DWCP_CODEC_.
     */
    uint32_t codec;
    /**
     * Level of DWCP_CODEC_ZSTD.
     */
    int32_t codec_level;
    /**
     * DWCP_MIGRATION_ bits.
     */
    uint32_t flags;
    /**
     * The guest is paused once the rest is predicted to take no longer; 0 means 300,000.
     */
    uint64_t max_downtime_us;
    /**
     * Give up, guest running at the source, when pre-copy takes longer; 0 means never.
     */
    uint64_t deadline_ms;
    /**
     * Cap on what goes on the wire, at least 65536; 0 means none.
     */
    uint64_t bandwidth_limit_bytes_per_s;
    /**
     * How long to go on trying to get a lost connection back; 0 means 60,000. For the first one it
     * is 30,000 at most.
     */
    uint64_t reconnect_timeout_ms;
    /**
     * How long the peer may make no progress; 0 means 60,000.
     */
    uint64_t stall_timeout_ms;
    /**
     * Multifd channels, 0 to 16, over which QEMU hands the node a guest's pages; 0: its main stream
     * alone. For guests of dwcp_node_attach_qemu().
     */
    uint32_t multifd_channels;
    /**
     * A DWCP_POST_COPY_. For guests of dwcp_node_attach_qemu() not together with multifd_channels.
     */
    uint32_t post_copy;
    /**
     * Zero.
     */
    uint64_t reserved[7];
} dwcp_migration_options;

/**
 * A migration at one instant.
 */
typedef struct dwcp_progress {
    /**
     * sizeof(dwcp_progress), set by the caller.
     */
    size_t struct_size;
    /**
     * A DWCP_PHASE_.
     */
    uint32_t phase;
    /**
     * The pre-copy pass, from 1; 0 before the first.
     */
    uint32_t pass;
    /**
     * Connected data streams.
     */
    uint32_t streams;
    /**
     * Streams that were lost and made anew.
     */
    uint32_t reconnects;
    /**
     * How far the guest is held back.
     */
    uint32_t throttle_percent;
    /**
     * Zero.
     */
    uint32_t padding;
    /**
     * Guest memory.
     */
    uint64_t ram_bytes;
    /**
     * Pages of the guest.
     */
    uint64_t pages;
    /**
     * Pages still to be sent in this pass.
     */
    uint64_t remaining_pages;
    /**
     * Bytes sent so far.
     */
    uint64_t wire_bytes;
    /**
     * Measured speed of the link, 0 while unknown.
     */
    uint64_t bandwidth_bytes_per_s;
    /**
     * How fast the guest writes, 0 while unknown.
     */
    uint64_t dirty_rate_bytes_per_s;
    /**
     * Downtime if the guest were paused now, 0 while unknown.
     */
    uint64_t predicted_downtime_us;
    /**
     * Time since the start.
     */
    uint64_t elapsed_us;
    /**
     * Of the bytes sent, those that went by RDMA.
     */
    uint64_t rdma_bytes;
    /**
     * Zero.
     */
    uint64_t reserved[7];
} dwcp_progress;

/**
 * A finished migration; dwcp_migration_report_json() tells more.
 */
typedef struct dwcp_report {
    /**
     * sizeof(dwcp_report), set by the caller.
     */
    size_t struct_size;
    /**
     * How it ended.
     */
    dwcp_status status;
    /**
     * A DWCP_OWNER_.
     */
    uint32_t owner;
    /**
     * A DWCP_SIDE_: which side wrote this report.
     */
    uint32_t side;
    /**
     * Passes, the paused one included.
     */
    uint32_t passes;
    /**
     * Streams that were lost and made anew.
     */
    uint32_t reconnects;
    /**
     * Zero.
     */
    uint32_t padding;
    /**
     * Whole duration.
     */
    uint64_t total_us;
    /**
     * How long the guest stood still.
     */
    uint64_t downtime_us;
    /**
     * Guest memory.
     */
    uint64_t ram_bytes;
    /**
     * Bytes on the wire in the data direction, headers included.
     */
    uint64_t wire_bytes;
    /**
     * Pages sent as zero.
     */
    uint64_t zero_pages;
    /**
     * Pages sent as a reference to an equal page.
     */
    uint64_t duplicate_pages;
    /**
     * Pages sent as a difference.
     */
    uint64_t delta_pages;
    /**
     * Pages sent whole.
     */
    uint64_t full_pages;
    /**
     * Digest of the whole image, 32 hex digits; empty if it was not reached.
     */
    char digest[40];
    /**
     * Pages that the destination lacked at a switch to post-copy; 0 if there was none.
     */
    uint64_t missing_pages;
    /**
     * Of these, pages that never came: 0, unless the guest was given up.
     */
    uint64_t lost_pages;
    /**
     * Pages that the guest waited for; at the source, pages that it was asked for.
     */
    uint64_t faults;
    /**
     * How long the guest waited for half of them. Only at the destination.
     */
    uint64_t fault_p50_us;
    /**
     * For all but a hundredth of them.
     */
    uint64_t fault_p99_us;
    /**
     * For the slowest.
     */
    uint64_t fault_max_us;
    /**
     * Of the bytes on the wire, those that went by RDMA.
     */
    uint64_t rdma_bytes;
    /**
     * Zero.
     */
    uint64_t reserved[1];
} dwcp_report;

/**
 * What a node knows of a peer and of the path to it.
 */
typedef struct dwcp_peer {
    /**
     * sizeof(dwcp_peer), set by the caller.
     */
    size_t struct_size;
    /**
     * The DWCP_MODE_ in force.
     */
    uint32_t mode;
    /**
     * The DWCP_MODE_ that is forced for this peer; DWCP_MODE_AUTO: it is measured, or forced for all.
     */
    uint32_t forced;
    /**
     * The DWCP_MODE_ for which the figures speak now, which takes hold once it has lasted;
     * DWCP_MODE_AUTO: there are no figures.
     */
    uint32_t measured;
    /**
     * DWCP_PEER_ bits: which figures are known, the others being 0, and what else is so.
     */
    uint32_t flags;
    /**
     * Shortest round trip of about the last second.
     */
    uint32_t rtt_us;
    /**
     * Shortest round trip of the last minute or two.
     */
    uint32_t min_rtt_us;
    /**
     * Mean deviation of the round trip.
     */
    uint32_t jitter_us;
    /**
     * Share of the sent bytes that had to be sent again, in parts of a million.
     */
    uint32_t loss_ppm;
    /**
     * Payload that the path delivers.
     */
    uint64_t rate_bytes_per_s;
    /**
     * For how long the path has told nothing.
     */
    uint64_t silent_us;
    /**
     * Changes of the mode.
     */
    uint64_t switches;
    /**
     * Measured changes within the last minute.
     */
    uint32_t switches_last_minute;
    /**
     * A DWCP_RDMA_.
     */
    uint32_t rdma;
    /**
     * The peer's address.
     */
    char peer[264];
    /**
     * Why the last probe failed; empty if it did not.
     */
    char failure[256];
    /**
     * Congestion control of the newest connection that carried data, as the kernel says; empty: there
     * was none.
     */
    char congestion[64];
    /**
     * Zero.
     */
    uint64_t reserved[8];
} dwcp_peer;

/**
 * What probes of one connection told.
 */
typedef struct dwcp_probe_series {
    /**
     * sizeof(dwcp_probe_series), set by the caller.
     */
    size_t struct_size;
    /**
     * How many answers came.
     */
    uint32_t answers;
    /**
     * Shortest round trip as the kernel timed it, which leaves out threads that wake up late; 0: it
     * timed none.
     */
    uint32_t min_rtt_us;
    /**
     * The kernel's mean deviation of the round trip.
     */
    uint32_t rtt_variation_us;
    /**
     * Zero.
     */
    uint32_t padding;
    /**
     * How long it took to connect.
     */
    uint64_t connect_us;
    /**
     * How long each answer took, threads of both sides included; 0 from `answers` on.
     */
    uint64_t answers_us[64];
    /**
     * Zero.
     */
    uint64_t reserved[8];
} dwcp_probe_series;

/**
 * How the modes of a node's peers are chosen, and what they change.
 */
typedef struct dwcp_transport_options {
    /**
     * sizeof(dwcp_transport_options).
     */
    size_t struct_size;
    /**
     * The DWCP_MODE_ of every peer; DWCP_MODE_AUTO: it is measured.
     */
    uint32_t mode;
    /**
     * DWCP_TRANSPORT_ bits.
     */
    uint32_t flags;
    /**
     * The DWCP_CONGESTION_ of long paths.
     */
    uint32_t congestion;
    /**
     * Streams of a migration in datacenter mode, at most; 1 to 64, 0 means 64.
     */
    uint32_t datacenter_streams;
    /**
     * Streams of a migration in internet mode, at most; 1 to 64, 0 means 8.
     */
    uint32_t internet_streams;
    /**
     * A shorter round trip may be a datacenter's; 0 means 10,000.
     */
    uint32_t datacenter_rtt_us;
    /**
     * A longer round trip is the internet's; 0 means 50,000.
     */
    uint32_t internet_rtt_us;
    /**
     * More jitter is the internet's; 0 means 10,000.
     */
    uint32_t internet_jitter_us;
    /**
     * More loss, in parts of a million, is no datacenter's; 0 means 20,000.
     */
    uint32_t datacenter_loss_ppm;
    /**
     * Zero.
     */
    uint32_t padding;
    /**
     * A path that delivers less is the internet's; 0 means 112,500,000.
     */
    uint64_t fast_rate_bytes_per_s;
    /**
     * Zero.
     */
    uint64_t reserved[8];
} dwcp_transport_options;

/**
 * What a test of a path is to be.
 */
typedef struct dwcp_transport_test_options {
    /**
     * sizeof(dwcp_transport_test_options).
     */
    size_t struct_size;
    /**
     * The DWCP_MODE_ for which the streams are set up; DWCP_MODE_AUTO means DWCP_MODE_HYBRID.
     */
    uint32_t mode;
    /**
     * Streams, 1 to 64, or as many as the mode allows if that is less; 0 means 4.
     */
    uint32_t streams;
    /**
     * How long they are filled, 100 to 30,000; 0 means 5,000.
     */
    uint32_t duration_ms;
    /**
     * Zero.
     */
    uint32_t padding;
    /**
     * Zero.
     */
    uint64_t reserved[6];
} dwcp_transport_test_options;

/**
 * What a test of a path told.
 */
typedef struct dwcp_transport_test {
    /**
     * sizeof(dwcp_transport_test), set by the caller.
     */
    size_t struct_size;
    /**
     * The DWCP_MODE_ for which the streams were set up.
     */
    uint32_t mode;
    /**
     * The DWCP_MODE_ for which the figures speak; DWCP_MODE_AUTO: there are none.
     */
    uint32_t measured;
    /**
     * The peer's DWCP_MODE_ after the test.
     */
    uint32_t in_force;
    /**
     * Streams.
     */
    uint32_t streams;
    /**
     * From the first byte to the last answer.
     */
    uint64_t duration_us;
    /**
     * Payload that arrived.
     */
    uint64_t bytes;
    /**
     * Payload that arrived in a second.
     */
    uint64_t rate_bytes_per_s;
    /**
     * Bytes that had to be sent again.
     */
    uint64_t retransmitted_bytes;
    /**
     * Segments that had to be sent again.
     */
    uint64_t retransmitted_segments;
    /**
     * Shortest round trip.
     */
    uint32_t min_rtt_us;
    /**
     * Mean of the streams' smoothed round trips at the end, queues included.
     */
    uint32_t rtt_us;
    /**
     * Bytes sent again as a share of all bytes sent, in parts of a million.
     */
    uint32_t loss_ppm;
    /**
     * Zero.
     */
    uint32_t padding;
    /**
     * The streams' congestion control, as read back.
     */
    char congestion[64];
    /**
     * Where the test went.
     */
    char peer[264];
    /**
     * Zero.
     */
    uint64_t reserved[8];
} dwcp_transport_test;

/**
 * What holds for the paths of all migrations that leave a node.
 */
typedef struct dwcp_path_options {
    /**
     * sizeof(dwcp_path_options), set by the caller.
     */
    size_t struct_size;
    /**
     * DWCP_PATH_ bits.
     */
    uint32_t flags;
    /**
     * Code point that data streams are marked with (DSCP), up to 63; 0: they are not marked.
     */
    uint32_t dscp;
    /**
     * Cap on what all migrations that leave the node send together, shared evenly, at least 65,536;
     * 0: none.
     */
    uint64_t bandwidth_limit_bytes_per_s;
    /**
     * Local addresses over which the streams of a migration are spread, up to 8, with commas between
     * them; empty: the system chooses.
     */
    char source_addresses[368];
    /**
     * Zero.
     */
    uint64_t reserved[8];
} dwcp_path_options;

/**
 * How pages go by RDMA, in both directions.
 */
typedef struct dwcp_rdma_options {
    /**
     * sizeof(dwcp_rdma_options), set by the caller.
     */
    size_t struct_size;
    /**
     * DWCP_RDMA_ENABLED or 0.
     */
    uint32_t flags;
    /**
     * Zero.
     */
    uint32_t padding;
    /**
     * Most guest memory that may be registered with devices, and so pinned, at a time; 0 means 2^44.
     */
    uint64_t max_memory_bytes;
    /**
     * Zero.
     */
    uint64_t reserved[8];
} dwcp_rdma_options;

/**
 * One feature flag as it stands on a node.
 */
typedef struct dwcp_flag_state {
    /**
     * sizeof(dwcp_flag_state), set by the caller.
     */
    size_t struct_size;
    /**
     * The DWCP_FLAG_.
     */
    uint32_t flag;
    /**
     * A DWCP_UNIT_: what it is decided for.
     */
    uint32_t unit;
    /**
     * DWCP_FLAG_STATE_ bits.
     */
    uint32_t bits;
    /**
     * How many units have it, besides those on the allow list, in parts of a million: 10 % are 100,000.
     */
    uint32_t rollout_ppm;
    /**
     * Names on its allow list; dwcp_node_flags_json() has them.
     */
    uint32_t allow_count;
    /**
     * Names on its deny list.
     */
    uint32_t deny_count;
    /**
     * Flags that must be on for the same unit: for each DWCP_FLAG_ the bit 1 << DWCP_FLAG_.
     */
    uint32_t prerequisites;
    /**
     * Zero.
     */
    uint32_t padding;
    /**
     * What the units of a percentage are drawn by.
     */
    uint64_t seed;
    /**
     * From when on it is off, in seconds since 1970; 0: never.
     */
    uint64_t expires_s;
    /**
     * When it was rolled back, in microseconds since 1970; 0: it was not.
     */
    uint64_t rolled_back_us;
    /**
     * Whom to ask about it; empty: nobody is named.
     */
    char owner[136];
    /**
     * Why it was rolled back; empty: it was not.
     */
    char rollback_reason[256];
    /**
     * Why the kill switch is on; empty: it is off.
     */
    char kill_reason[256];
    /**
     * Zero.
     */
    uint64_t reserved[8];
} dwcp_flag_state;

/**
 * What is to become of one feature flag; what is not set stays as it is.
 *
 * A rollout_ppm above 0 enables the flag too, and takes it off its schedule, unless the same change says
 * otherwise.
 */
typedef struct dwcp_flag_change {
    /**
     * sizeof(dwcp_flag_change).
     */
    size_t struct_size;
    /**
     * The DWCP_FLAG_ that is meant.
     */
    uint32_t flag;
    /**
     * DWCP_FLAG_CHANGE_ bits: which of the numbers below are set.
     */
    uint32_t fields;
    /**
     * 1: enabled; 0: off for everybody, whatever the rest says.
     */
    uint32_t enabled;
    /**
     * How many units have it, besides those on the allow list, in parts of a million: 10 % are 100,000.
     */
    uint32_t rollout_ppm;
    /**
     * Another seed draws the units of a percentage anew.
     */
    uint64_t seed;
    /**
     * From when on it is off, in seconds since 1970; 0: never.
     */
    uint64_t expires_s;
    /**
     * Nodes and units that have it before all others, with commas between them; "": none; NULL: as it is.
     */
    const char *allow_list;
    /**
     * Nodes and units that never have it, likewise.
     */
    const char *deny_list;
    /**
     * Names of flags that must be on for the same unit, likewise.
     */
    const char *prerequisites;
    /**
     * How its percentage is to grow: "guide" for the upgrade guide's six weeks, "none", or stages as JSON
     * such as [{"after_s":0,"percent":1},{"after_s":3600,"percent":10}]; NULL: as it is.
     */
    const char *schedule;
    /**
     * Whom to ask about it; NULL: as it is.
     */
    const char *owner;
    /**
     * Zero.
     */
    uint64_t reserved[8];
} dwcp_flag_change;

/**
 * Whether a unit has a feature, and why.
 */
typedef struct dwcp_flag_decision {
    /**
     * sizeof(dwcp_flag_decision), set by the caller.
     */
    size_t struct_size;
    /**
     * 1: the feature is on; 0: it is off.
     */
    uint32_t is_on;
    /**
     * A DWCP_REASON_.
     */
    uint32_t reason;
    /**
     * With DWCP_REASON_PERCENTAGE and DWCP_REASON_BELOW_PERCENTAGE where the unit stands, from 0 to 999,999.
     */
    uint32_t bucket;
    /**
     * Likewise the percentage, in parts of a million.
     */
    uint32_t rollout_ppm;
    /**
     * With DWCP_REASON_PREREQUISITE_UNMET the DWCP_FLAG_ that is off.
     */
    uint32_t prerequisite;
    /**
     * With DWCP_REASON_RANKED and DWCP_REASON_NOT_RANKED how many members have the feature.
     */
    uint32_t chosen;
    /**
     * Likewise of how many.
     */
    uint32_t members;
    /**
     * Zero.
     */
    uint32_t padding;
    /**
     * The reason in words.
     */
    char text[256];
    /**
     * Zero.
     */
    uint64_t reserved[8];
} dwcp_flag_decision;

/**
 * What a rollout may not exceed, or else its flag is taken back.
 */
typedef struct dwcp_rollback_limits {
    /**
     * sizeof(dwcp_rollback_limits).
     */
    size_t struct_size;
    /**
     * DWCP_ROLLBACK_ bits.
     */
    uint32_t flags;
    /**
     * Requests that may fail, in parts of a million; 0 means 10,000, which is 1 %.
     */
    uint32_t max_error_rate_ppm;
    /**
     * How much more latency there may be, in parts of a million; 0 means 500,000, which is 50 %.
     */
    uint32_t max_latency_increase_ppm;
    /**
     * Which part of the usual throughput is enough, in parts of a million; 0 means 800,000.
     */
    uint32_t min_throughput_ppm;
    /**
     * Mode switches of a pair of nodes in an hour; 0 means 600.
     */
    uint32_t max_mode_switches_per_h;
    /**
     * How many tighter limits there are for small percentages, up to 4; 0 means one, the upgrade guide's:
     * up to 10 % errors of 0.5 %, 10 % more latency, and 5 % of detections that fail.
     */
    uint32_t stage_count;
    /**
     * The largest percentage at which each of these holds, in parts of a million.
     */
    uint32_t stage_up_to_ppm[4];
    /**
     * As max_error_rate_ppm, but 0 is no default.
     */
    uint32_t stage_max_error_rate_ppm[4];
    /**
     * As max_latency_increase_ppm, but 0 is no default.
     */
    uint32_t stage_max_latency_increase_ppm[4];
    /**
     * Detections of a peer's mode that may fail, in parts of a million.
     */
    uint32_t stage_max_detection_failures_ppm[4];
    /**
     * Zero.
     */
    uint64_t reserved[8];
} dwcp_rollback_limits;

/**
 * One thing that waited behind a node's file descriptor.
 */
typedef struct dwcp_completion {
    /**
     * sizeof(dwcp_completion); set by the caller in the first element of the array, by the library
     * in each that it fills.
     */
    size_t struct_size;
    /**
     * A DWCP_COMPLETION_.
     */
    uint32_t kind;
    /**
     * DWCP_REQUEST_ or DWCP_EVENT_, by kind; 0 for an ended migration.
     */
    uint32_t code;
    /**
     * How a migration ended; DWCP_OK otherwise.
     */
    dwcp_status status;
    /**
     * Region, percentage, ending, owner or phase: see the code's comment.
     */
    uint32_t value;
    /**
     * For a request its number, for dwcp_request_complete(); otherwise the event's sequence, for
     * dwcp_node_events_json().
     */
    uint64_t id;
    /**
     * For FETCH_DIRTY the log to fill in, for LOAD_DEVICE_STATE the state to read. Valid until the
     * request is completed or the node freed.
     */
    void *buffer;
    /**
     * Length of buffer in bytes.
     */
    size_t buffer_bytes;
    /**
     * The migration, 32 hex digits; empty if there is none.
     */
    char migration[40];
    /**
     * The guest's name; empty if there is none.
     */
    char guest[136];
    /**
     * Zero.
     */
    uint64_t reserved[4];
} dwcp_completion;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Version of the binary interface that the loaded library has; compare with DWCP_ABI_VERSION.
 * Threads: shared.
 */
uint32_t dwcp_abi_version(void);

/**
 * The library's version, such as "0.1.0"; a constant. Threads: shared.
 */
const char *dwcp_version(void);

/**
 * The name of a status, such as "DWCP_ERR_TIMEOUT"; a constant, "DWCP_ERR_UNKNOWN" for a code that
 * is not in the table. Threads: shared.
 */
const char *dwcp_status_name(dwcp_status code);

/**
 * Text of the last failure on this thread, empty if there was none. Never fails with anything but
 * DWCP_ERR_BUFFER_TOO_SMALL or DWCP_ERR_NULL_POINTER. Threads: each thread has its own.
 */
dwcp_status dwcp_last_error(char *buffer, size_t length, size_t *needed);

/**
 * Starts a node. Threads: shared.
 */
DWCP_MUST_USE
dwcp_status dwcp_node_new(const struct dwcp_node_options *options,
                          struct dwcp_node **node);

/**
 * Stops the node and frees it; its migration handles stay valid and are freed on their own.
 * Returns once no callback runs any more. NULL is allowed. Threads: shared, not from a callback.
 */
dwcp_status dwcp_node_free(struct dwcp_node *node);

/**
 * Stops the node: migrations before their commit point are cancelled, guests staying where they
 * are, the others are waited for: one in post-copy until its last page has come, or until
 * dwcp_migration_abandon_post_copy(). Further calls do nothing. Threads: shared, not from a callback.
 */
DWCP_MUST_USE
dwcp_status dwcp_node_stop(struct dwcp_node *node);

/**
 * Copies out the node's name. Threads: shared.
 */
DWCP_MUST_USE
dwcp_status dwcp_node_name(const struct dwcp_node *node,
                           char *buffer,
                           size_t length,
                           size_t *needed);

/**
 * Copies out where the node listens, such as "127.0.0.1:7000", with the port that was chosen;
 * DWCP_ERR_NOT_FOUND if it does not. Threads: shared.
 */
DWCP_MUST_USE
dwcp_status dwcp_node_listen_address(const struct dwcp_node *node,
                                     char *buffer,
                                     size_t length,
                                     size_t *needed);

/**
 * The node's file descriptor: readable while completions wait. Poll it, reap when it is readable,
 * never read or close it; it stays the node's. Threads: shared.
 */
DWCP_MUST_USE dwcp_status dwcp_node_fd(const struct dwcp_node *node, int32_t *fd);

/**
 * Ends a guest's registration; its drop callback runs soon after. DWCP_ERR_BUSY while it is being
 * migrated. Threads: shared, not from a callback.
 */
DWCP_MUST_USE dwcp_status dwcp_node_remove_guest(struct dwcp_node *node, const char *guest);

/**
 * Lets go of pages that the node keeps of QEMU's guests that left or came, which a guest that comes
 * back, or one like it, then brings again: of guest, or of all if it is NULL; those that were brought
 * at least older_than_s seconds ago, 0 for all. cleared_bytes, if it is not NULL, becomes how much
 * that was. Threads: shared.
 */
DWCP_MUST_USE
dwcp_status dwcp_node_clear_held(struct dwcp_node *node,
                                 const char *guest,
                                 uint64_t older_than_s,
                                 uint64_t *cleared_bytes);

/**
 * Copies out the registered guests as a JSON array. Threads: shared.
 */
DWCP_MUST_USE
dwcp_status dwcp_node_guests_json(const struct dwcp_node *node,
                                  char *buffer,
                                  size_t length,
                                  size_t *needed);

/**
 * Copies out a JSON array of at most `limit` events with a sequence above `after`, oldest first;
 * the last 4096 are kept. Threads: shared.
 */
DWCP_MUST_USE
dwcp_status dwcp_node_events_json(const struct dwcp_node *node,
                                  uint64_t after,
                                  size_t limit,
                                  char *buffer,
                                  size_t length,
                                  size_t *needed);

/**
 * Lets dwcp-v3-cli ask and command this node, over a unix socket at `path` that only this user may
 * open; until the node stops. One socket a node. After this, dlclose() unmaps the library only once
 * the threads that called it have ended. Threads: shared, not from a callback.
 */
DWCP_MUST_USE dwcp_status dwcp_node_serve_control(struct dwcp_node *node, const char *path);

/**
 * Registers a running guest, so that it can be migrated away. The registration ends after a
 * migration that moved it. Threads: shared, not from a callback.
 */
DWCP_MUST_USE
dwcp_status dwcp_node_add_source(struct dwcp_node *node,
                                 const char *guest,
                                 const struct dwcp_source *source);

/**
 * Registers a running guest whose writes the kernel tracks (userfaultfd write protection and
 * PAGEMAP_SCAN, Linux 6.7): for a hypervisor without a dirty log. start_dirty_log, fetch_dirty and
 * read_pages must be NULL, all regions need a host pointer and page_bytes is 0 or the host's page
 * size. DWCP_ERR_UNSUPPORTED where the kernel cannot; the text says why. Threads: shared, not from
 * a callback.
 */
DWCP_MUST_USE
dwcp_status dwcp_node_add_process_memory_source(struct dwcp_node *node,
                                                const char *guest,
                                                const struct dwcp_source *source);

/**
 * Registers an empty guest: one incoming migration of that name is accepted. The registration
 * stays after a failed one and ends after a successful one. Threads: shared, not from a callback.
 */
DWCP_MUST_USE
dwcp_status dwcp_node_add_destination(struct dwcp_node *node,
                                      const char *guest,
                                      const struct dwcp_destination *destination);

/**
 * Registers the guest of an unmodified QEMU by the path of its QMP socket, which must be for this
 * node alone; sockets of migrations are made beside it. flags is 0 for a guest that runs there, or
 * DWCP_QEMU_INCOMING for a QEMU that was started with -incoming defer. A guest that has arrived
 * stays registered, as one that runs here; one that has left is not. A QEMU that is paused in
 * post-copy, since the node that carried it ended, waits for the rest of its migration instead. Asks
 * QEMU, which may take seconds if it does not answer. DWCP_ERR_CONNECT: nobody listens there;
 * DWCP_ERR_INVALID_ARGUMENT: it is no QMP socket; DWCP_ERR_BAD_STATE: QEMU waits for a guest where it
 * should run one, or the other way round. Threads: shared, not from a callback.
 */
DWCP_MUST_USE
dwcp_status dwcp_node_attach_qemu(struct dwcp_node *node,
                                  const char *guest,
                                  const char *qmp_path,
                                  uint32_t flags);

/**
 * Hands a part of the device state to the library; may be called many times. Threads: only inside
 * the save_device_state callback that received the writer.
 */
DWCP_MUST_USE
dwcp_status dwcp_writer_write(struct dwcp_writer *writer,
                              const void *data,
                              size_t length_bytes);

/**
 * Says why the callback that runs on this thread is about to fail; quoted with its code. Threads:
 * only inside a callback.
 */
dwcp_status dwcp_callback_set_error(const char *text);

/**
 * Starts to move a guest to the node at `to` ("HOST:PORT"), or to the v1 peer that is named by
 * "v1://HOST:PORT", which acknowledges nothing: such a migration ends with DWCP_ERR_IN_DOUBT, the guest
 * staying paused. Returns at once. options may be NULL.
 * Threads: shared, not from a callback.
 */
DWCP_MUST_USE
dwcp_status dwcp_node_migrate(struct dwcp_node *node,
                              const char *guest,
                              const char *to,
                              const struct dwcp_migration_options *options,
                              struct dwcp_migration **migration);

/**
 * Opens a handle on a migration of this node, outgoing or incoming, by its id (32 hex digits).
 * Threads: shared.
 */
DWCP_MUST_USE
dwcp_status dwcp_node_migration(struct dwcp_node *node,
                                const char *id,
                                struct dwcp_migration **migration);

/**
 * Frees the handle; the migration itself goes on. NULL is allowed. Threads: shared.
 */
dwcp_status dwcp_migration_free(struct dwcp_migration *migration);

/**
 * Waits for the end of the migration: DWCP_OK once it ended, however it did, and then *status
 * (may be NULL) says how; DWCP_ERR_TIMEOUT if it still runs. timeout_ms may be DWCP_FOREVER.
 * Threads: shared, not from a callback.
 */
DWCP_MUST_USE
dwcp_status dwcp_migration_wait(struct dwcp_migration *migration,
                                uint64_t timeout_ms,
                                dwcp_status *status);

/**
 * Asks for the end, guest staying at the source; no effect after the commit point. Threads: shared.
 */
DWCP_MUST_USE dwcp_status dwcp_migration_cancel(struct dwcp_migration *migration);

/**
 * Changes the bandwidth cap while the migration runs; 0 lifts it, else at least 65536.
 * Threads: shared.
 */
DWCP_MUST_USE
dwcp_status dwcp_migration_set_bandwidth_limit(struct dwcp_migration *migration,
                                               uint64_t bytes_per_s);

/**
 * Lets the guest go on at the destination before all of its memory is there, as soon as it can be
 * done. At the source, with DWCP_POST_COPY_MANUAL or DWCP_POST_COPY_AUTO; DWCP_ERR_BAD_STATE
 * otherwise, or when the guest is being handed over already. Threads: shared.
 */
DWCP_MUST_USE dwcp_status dwcp_migration_start_post_copy(struct dwcp_migration *migration);

/**
 * Gives up a guest that runs at the destination and lacks pages, on the side that is asked, because the
 * other side will not come back. The guest is lost then, and DWCP_ENDING_LOST says so. Nothing else
 * gives it up, however long it takes. DWCP_ERR_BAD_STATE in any other state. Threads: shared.
 */
DWCP_MUST_USE
dwcp_status dwcp_migration_abandon_post_copy(struct dwcp_migration *migration);

/**
 * Copies out the migration's id, 32 hex digits. Threads: shared.
 */
DWCP_MUST_USE
dwcp_status dwcp_migration_id(const struct dwcp_migration *migration,
                              char *buffer,
                              size_t length,
                              size_t *needed);

/**
 * Copies out the guest's name. Threads: shared.
 */
DWCP_MUST_USE
dwcp_status dwcp_migration_guest(const struct dwcp_migration *migration,
                                 char *buffer,
                                 size_t length,
                                 size_t *needed);

/**
 * Which side of the migration this node is, a DWCP_SIDE_. Threads: shared.
 */
DWCP_MUST_USE
dwcp_status dwcp_migration_side(const struct dwcp_migration *migration,
                                uint32_t *side);

/**
 * How the migration ended; DWCP_ERR_WOULD_BLOCK while it runs. Threads: shared.
 */
DWCP_MUST_USE
dwcp_status dwcp_migration_status(const struct dwcp_migration *migration,
                                  dwcp_status *status);

/**
 * Copies out why the migration failed, empty if it did not; DWCP_ERR_WOULD_BLOCK while it runs.
 * Threads: shared.
 */
DWCP_MUST_USE
dwcp_status dwcp_migration_reason(const struct dwcp_migration *migration,
                                  char *buffer,
                                  size_t length,
                                  size_t *needed);

/**
 * Who owns the guest as far as this side knows, a DWCP_OWNER_. Threads: shared.
 */
DWCP_MUST_USE
dwcp_status dwcp_migration_owner(const struct dwcp_migration *migration,
                                 uint32_t *owner);

/**
 * Where the migration stands. Threads: shared.
 */
DWCP_MUST_USE
dwcp_status dwcp_migration_progress(const struct dwcp_migration *migration,
                                    struct dwcp_progress *progress);

/**
 * What came of the migration; DWCP_ERR_WOULD_BLOCK while it runs. Threads: shared.
 */
DWCP_MUST_USE
dwcp_status dwcp_migration_report(const struct dwcp_migration *migration,
                                  struct dwcp_report *report);

/**
 * Copies out the whole report as one JSON object; DWCP_ERR_WOULD_BLOCK while the migration runs.
 * Threads: shared.
 */
DWCP_MUST_USE
dwcp_status dwcp_migration_report_json(const struct dwcp_migration *migration,
                                       char *buffer,
                                       size_t length,
                                       size_t *needed);

/**
 * Has the path to the peer at `peer` ("HOST:PORT", as it is dialed) looked at from now on; one that
 * guests are sent to is known without this. Returns at once; a peer that is known stays as it is.
 * Threads: shared.
 */
DWCP_MUST_USE dwcp_status dwcp_node_add_peer(struct dwcp_node *node, const char *peer);

/**
 * Forgets a peer, and a mode that was forced for it; DWCP_ERR_BUSY while streams to it are open.
 * Threads: shared.
 */
DWCP_MUST_USE dwcp_status dwcp_node_remove_peer(struct dwcp_node *node, const char *peer);

/**
 * Copies out the known peers, by address, as a JSON array. Threads: shared.
 */
DWCP_MUST_USE
dwcp_status dwcp_node_peers_json(const struct dwcp_node *node,
                                 char *buffer,
                                 size_t length,
                                 size_t *needed);

/**
 * What is known of a peer now; DWCP_ERR_NOT_FOUND of one that is not known. Threads: shared.
 */
DWCP_MUST_USE
dwcp_status dwcp_node_peer(const struct dwcp_node *node,
                           const char *peer,
                           struct dwcp_peer *known);

/**
 * Has a peer looked at and waits, some seconds at most, until a first verdict about it would hold.
 * known tells what is known then; a peer that does not answer is no failure of this call, but see
 * dwcp_peer.failure. Threads: shared, not from a callback.
 */
DWCP_MUST_USE
dwcp_status dwcp_node_detect_mode(struct dwcp_node *node,
                                  const char *peer,
                                  struct dwcp_peer *known);

/**
 * Forces a DWCP_MODE_, or with DWCP_MODE_AUTO leaves it to measurement: for one peer, or, if that is
 * NULL, for all that have no mode of their own. Threads: shared.
 */
DWCP_MUST_USE
dwcp_status dwcp_node_set_mode(struct dwcp_node *node,
                               const char *peer,
                               uint32_t mode);

/**
 * Lets nodes at these addresses ask this one for the paths to its peers, as network-matrix of
 * dwcp-v3-cli does: addresses and networks with commas between them, such as "10.0.0.0/8,fd00::1".
 * NULL or "": nobody, as in the beginning. Threads: shared.
 */
DWCP_MUST_USE dwcp_status dwcp_node_share_paths_with(struct dwcp_node *node, const char *networks);

/**
 * Sends a peer `count` probes, 1 to 64, one after another on one connection, and waits for the
 * answers; an answer may take 5 s. DWCP_ERR_CONNECT if one does not come. Threads: shared, not from
 * a callback.
 */
DWCP_MUST_USE
dwcp_status dwcp_node_probe_peer(struct dwcp_node *node,
                                 const char *peer,
                                 uint32_t count,
                                 struct dwcp_probe_series *series);

/**
 * Sets how modes are chosen and what they change; NULL: all defaults. Modes and limits of streams hold
 * at once, for migrations under way too, but for those by v1, which keep their streams. The congestion
 * control is that of connections made from then on, and of open ones once their peer's mode changes.
 * Threads: shared.
 */
DWCP_MUST_USE
dwcp_status dwcp_node_set_transport(struct dwcp_node *node,
                                    const struct dwcp_transport_options *options);

/**
 * How modes are chosen and what they change, defaults filled in. Threads: shared.
 */
DWCP_MUST_USE
dwcp_status dwcp_node_transport(const struct dwcp_node *node,
                                struct dwcp_transport_options *options);

/**
 * Fills the path to a peer for some time, over streams that are set up for a mode, and waits for what
 * the path carries; NULL: to this process over the loopback. options may be NULL. Threads: shared,
 * not from a callback.
 */
DWCP_MUST_USE
dwcp_status dwcp_node_test_transport(struct dwcp_node *node,
                                     const char *peer,
                                     const struct dwcp_transport_test_options *options,
                                     struct dwcp_transport_test *test);

/**
 * Sets what holds for the paths of all migrations that leave the node; NULL: all defaults. Holds at
 * once, for migrations under way too, but for source_addresses, which hold for those that begin
 * later. After an error all is as before. Threads: shared.
 */
DWCP_MUST_USE
dwcp_status dwcp_node_set_paths(struct dwcp_node *node,
                                const struct dwcp_path_options *options);

/**
 * What holds for the paths of all migrations that leave the node. Threads: shared.
 */
DWCP_MUST_USE
dwcp_status dwcp_node_paths(const struct dwcp_node *node,
                            struct dwcp_path_options *options);

/**
 * Sets whether pages may go by RDMA, which is not encrypted, and so is off until somebody has said
 * so on both sides; NULL: all defaults. Holds for connections that are made later. Threads: shared.
 */
DWCP_MUST_USE
dwcp_status dwcp_node_set_rdma(struct dwcp_node *node,
                               const struct dwcp_rdma_options *options);

/**
 * How pages go by RDMA, defaults filled in. Threads: shared.
 */
DWCP_MUST_USE
dwcp_status dwcp_node_rdma(const struct dwcp_node *node,
                           struct dwcp_rdma_options *options);

/**
 * The name of a DWCP_FLAG_, such as "hybrid_mode"; a constant, "unknown" for another number.
 * Threads: shared.
 */
const char *dwcp_flag_name(uint32_t flag);

/**
 * Copies out the feature flags as a JSON array, with their lists and schedules. Threads: shared.
 */
DWCP_MUST_USE
dwcp_status dwcp_node_flags_json(const struct dwcp_node *node,
                                 char *buffer,
                                 size_t length,
                                 size_t *needed);

/**
 * One feature flag, a DWCP_FLAG_, as it stands. Threads: shared.
 */
DWCP_MUST_USE
dwcp_status dwcp_node_flag(const struct dwcp_node *node,
                           uint32_t flag,
                           struct dwcp_flag_state *state);

/**
 * Changes `count` feature flags, 1 to 5: all of it is written to the audit log and in force on return, or
 * nothing of it. Migrations under way follow at their next segment, chunk or connection. who: a person or
 * a program, for the log; NULL: this process. why: 1 to 1024 bytes. DWCP_ERR_UNSUPPORTED where a flag is
 * to be on whose component is not built yet. Waits for the disk. Threads: shared, not from a callback.
 */
DWCP_MUST_USE
dwcp_status dwcp_node_set_flags(struct dwcp_node *node,
                                const struct dwcp_flag_change *changes,
                                size_t count,
                                const char *who,
                                const char *why);

/**
 * Switches every feature flag off, at 0 % and without a schedule; lists stay as they are. who and why as
 * for dwcp_node_set_flags(). Waits for the disk. Threads: shared, not from a callback.
 */
DWCP_MUST_USE
dwcp_status dwcp_node_disable_all_flags(struct dwcp_node *node,
                                        const char *who,
                                        const char *why);

/**
 * Ends the rollback of a DWCP_FLAG_, which then is as its rule says; DWCP_ERR_BAD_STATE if it was not
 * rolled back. who and why as for dwcp_node_set_flags(). Waits for the disk. Threads: shared, not from a
 * callback.
 */
DWCP_MUST_USE
dwcp_status dwcp_node_clear_latch(struct dwcp_node *node,
                                  uint32_t flag,
                                  const char *who,
                                  const char *why);

/**
 * Throws the kill switch, which has every feature flag off for everybody, at once and also where that
 * cannot be written down; why NULL takes it back. who as for dwcp_node_set_flags(). DWCP_ERR_BAD_STATE to
 * take back what is not on, or is held by the switch's file or environment variable. Threads: shared; also
 * from a callback.
 */
DWCP_MUST_USE
dwcp_status dwcp_node_set_kill_switch(struct dwcp_node *node,
                                      const char *who,
                                      const char *why);

/**
 * Whether a unit has the feature of a DWCP_FLAG_ on this node, and why. unit: as the flag's DWCP_UNIT_ is
 * written; of a pair the other end is enough: a peer's name, or its address as it is dialed. Threads: shared.
 */
DWCP_MUST_USE
dwcp_status dwcp_node_explain_flag(const struct dwcp_node *node,
                                   uint32_t flag,
                                   const char *unit,
                                   struct dwcp_flag_decision *decision);

/**
 * Copies out a JSON array of at most `limit` changes of the feature flags, newest first, as the audit log
 * has them; 1024 are at hand. Threads: shared.
 */
DWCP_MUST_USE
dwcp_status dwcp_node_flag_history_json(const struct dwcp_node *node,
                                        size_t limit,
                                        char *buffer,
                                        size_t length,
                                        size_t *needed);

/**
 * Names the `count` nodes, up to 65,536, of which percentages are taken, so that 10 % of 20 of them is 2;
 * count 0: each unit by its hash alone, as in the beginning. Of a pair the node that sends counts.
 * Threads: shared.
 */
DWCP_MUST_USE
dwcp_status dwcp_node_set_rollout_members(struct dwcp_node *node,
                                          const char *const *members,
                                          size_t count);

/**
 * Makes what answers again and again, in some nanoseconds, whether a unit has the feature of a DWCP_FLAG_
 * on this node. Units as for dwcp_node_explain_flag(). It may outlive the node, whose last word it keeps.
 * Threads: shared.
 */
DWCP_MUST_USE
dwcp_status dwcp_node_decider(struct dwcp_node *node,
                              uint32_t flag,
                              const char *unit,
                              struct dwcp_decider **decider);

/**
 * 1 if the feature is on, 0 if it is off. It neither waits nor fails: where the handle names nothing the
 * answer is 0, and dwcp_last_error() says so. Threads: shared; also from a callback.
 */
DWCP_MUST_USE
int32_t dwcp_decider_is_on(const struct dwcp_decider *decider);

/**
 * What a decider answers now, with the reason. Threads: shared.
 */
DWCP_MUST_USE
dwcp_status dwcp_decider_explain(const struct dwcp_decider *decider,
                                 struct dwcp_flag_decision *decision);

/**
 * Frees a decider. NULL is allowed. Threads: shared.
 */
dwcp_status dwcp_decider_free(struct dwcp_decider *decider);

/**
 * Decides about a unit by flags that need not be in force anywhere. flags_json: all five, as the audit log
 * has them ({"flags":{"hybrid_mode":{"rule":{...},"latch":null},...},"killed":null,"configuration":null}).
 * unit: as it is written in full. peer_can: 1, or 0 if the other end does not take part. now_s: seconds
 * since 1970. Threads: shared.
 */
DWCP_MUST_USE
dwcp_status dwcp_flag_decide(const char *flags_json,
                             uint32_t flag,
                             const char *unit,
                             uint32_t peer_can,
                             uint64_t now_s,
                             struct dwcp_flag_decision *decision);

/**
 * Copies out, as a JSON array by rank, which of `count` known members, up to 65,536, have the feature of a
 * DWCP_FLAG_ at a percentage, in parts of a million: exactly that share of them, rounded up.
 * Threads: shared.
 */
DWCP_MUST_USE
dwcp_status dwcp_flag_exact_units_json(uint32_t flag,
                                       uint64_t seed,
                                       uint32_t rollout_ppm,
                                       const char *const *members,
                                       size_t count,
                                       char *buffer,
                                       size_t length,
                                       size_t *needed);

/**
 * What a rollout on this node may not exceed, defaults filled in; where there are more than 4 stages, the
 * first 4 of them. Threads: shared.
 */
DWCP_MUST_USE
dwcp_status dwcp_node_rollback_limits(const struct dwcp_node *node,
                                      struct dwcp_rollback_limits *limits);

/**
 * Sets what a rollout on this node may not exceed; NULL: all defaults. Rollouts in flight are judged anew.
 * Threads: shared.
 */
DWCP_MUST_USE
dwcp_status dwcp_node_set_rollback_limits(struct dwcp_node *node,
                                          const struct dwcp_rollback_limits *limits);

/**
 * Copies out, as a JSON array, how the rollout of each feature flag stands: what the guards have counted,
 * and why they hold it or have taken it back. Threads: shared.
 */
DWCP_MUST_USE
dwcp_status dwcp_node_rollouts_json(const struct dwcp_node *node,
                                    char *buffer,
                                    size_t length,
                                    size_t *needed);

/**
 * Enables a DWCP_FLAG_ at the first percentage of a schedule, and lets it grow from there, as long as the
 * guards find nothing. schedule: as in dwcp_flag_change; NULL: the flag's own, or "guide". who and why as
 * for dwcp_node_set_flags(). Waits for the disk. Threads: shared, not from a callback.
 */
DWCP_MUST_USE
dwcp_status dwcp_node_start_schedule(struct dwcp_node *node,
                                     uint32_t flag,
                                     const char *schedule,
                                     const char *who,
                                     const char *why);

/**
 * Ends the schedule of a DWCP_FLAG_, whose percentage stays; DWCP_ERR_BAD_STATE if it has none. who and
 * why as for dwcp_node_set_flags(). Waits for the disk. Threads: shared, not from a callback.
 */
DWCP_MUST_USE
dwcp_status dwcp_node_stop_schedule(struct dwcp_node *node,
                                    uint32_t flag,
                                    const char *who,
                                    const char *why);

/**
 * Takes up to `max` completions out of the node's queue, oldest first, and sets *count; never
 * waits. *count is 0 when none wait. Threads: shared; each completion is handed out once.
 */
DWCP_MUST_USE
dwcp_status dwcp_node_reap(struct dwcp_node *node,
                           struct dwcp_completion *completions,
                           size_t max,
                           size_t *count);

/**
 * Answers a request. status 0 is success, anything else is quoted in the migration's reason. data
 * is the device state of SAVE_DEVICE_STATE, NULL otherwise; it is copied. DWCP_ERR_NOT_FOUND for a
 * request that is not open; DWCP_ERR_TIMEOUT for one that the library gave up on: undo what was
 * done for it. Threads: shared.
 */
DWCP_MUST_USE
dwcp_status dwcp_request_complete(struct dwcp_node *node,
                                  uint64_t request,
                                  int32_t status,
                                  const void *data,
                                  size_t length_bytes);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* DWCP_H */

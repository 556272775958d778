//! What a migration tells about itself: progress while it runs, a report when it ended.

use crate::Status;
use crate::base::MigrationId;
use serde::Serialize;

/// Where a migration stands; also the keys of [`Report::phases`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Connecting and agreeing on version, features and memory layout.
    Connect,
    /// Copying while the guest runs.
    Precopy,
    /// Guest paused: what is left of its memory.
    FinalPass,
    /// Guest paused: CPUs and devices.
    DeviceState,
    /// Guest paused: the destination checks the image and prepares.
    Verify,
    /// Guest paused: ownership passes.
    Handover,
    /// The guest is being started at the destination.
    Resume,
    /// The guest runs at the destination, and pages that it lacks follow.
    PostCopy,
    /// It is over.
    Ended,
}

impl Phase {
    /// All phases, in order.
    pub const ALL: [Phase; 9] = [
        Phase::Connect,
        Phase::Precopy,
        Phase::FinalPass,
        Phase::DeviceState,
        Phase::Verify,
        Phase::Handover,
        Phase::Resume,
        Phase::PostCopy,
        Phase::Ended,
    ];

    /// The name as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Connect => "connect",
            Phase::Precopy => "precopy",
            Phase::FinalPass => "final_pass",
            Phase::DeviceState => "device_state",
            Phase::Verify => "verify",
            Phase::Handover => "handover",
            Phase::Resume => "resume",
            Phase::PostCopy => "post_copy",
            Phase::Ended => "ended",
        }
    }
}

/// Who owns the guest, as far as this side knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// The source.
    Source,
    /// The destination.
    Destination,
    /// Only the destination's record can tell.
    InDoubt,
}

impl Owner {
    /// The name as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Owner::Source => "source",
            Owner::Destination => "destination",
            Owner::InDoubt => "in_doubt",
        }
    }
}

/// One pre-copy pass over the dirty pages; the last one runs with the guest paused.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Pass {
    /// Number, from 1.
    pub pass: u32,
    /// Pages sent, zero pages included.
    pub pages: u64,
    /// Of these, zero pages.
    pub zero_pages: u64,
    /// Bytes on the wire.
    pub wire_bytes: u64,
    /// Start, since the migration's start.
    pub start_us: u64,
    /// Duration.
    pub duration_us: u64,
    /// How fast the guest wrote during the pass.
    pub dirty_rate_bytes_per_s: u64,
    /// Bytes on the wire over the duration.
    pub bandwidth_bytes_per_s: u64,
    /// What the downtime would have been, had the guest been paused at the pass's end.
    pub predicted_downtime_us: u64,
}

/// A running migration at one instant.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Progress {
    /// The phase.
    pub phase: Phase,
    /// The pass, from 1; 0 before the first.
    pub pass: u32,
    /// Guest memory.
    pub ram_bytes: u64,
    /// Pages of the guest.
    pub pages: u64,
    /// Pages still to be sent in this pass.
    pub remaining_pages: u64,
    /// Bytes sent so far.
    pub wire_bytes: u64,
    /// Those of them that went by RDMA.
    pub rdma_bytes: u64,
    /// Measured speed of the link, as far as a cap allows; 0 while unknown.
    pub bandwidth_bytes_per_s: u64,
    /// How fast the guest writes, 0 while unknown.
    pub dirty_rate_bytes_per_s: u64,
    /// Downtime if the guest were paused now, 0 while unknown.
    pub predicted_downtime_us: u64,
    /// Time since the start.
    pub elapsed_us: u64,
    /// Connected data streams.
    pub streams: u32,
    /// Streams that were lost and made anew.
    pub reconnects: u32,
    /// How far the guest is held back.
    pub throttle_percent: u8,
}

/// What came of a switch to post-copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PostCopyFigures {
    /// Pages that the destination lacked at the switch.
    pub missing_pages: u64,
    /// Of these, pages that never came: 0, unless the guest was given up.
    pub lost_pages: u64,
    /// Pages that the guest waited for; at the source, pages that it was asked for.
    pub faults: u64,
    /// How long the guest waited for half of them, from the fault's arrival at the library to the
    /// page in its place. Only at the destination; 0 where there was no fault.
    pub fault_p50_us: u64,
    /// For all but a hundredth of them.
    pub fault_p99_us: u64,
    /// For the slowest.
    pub fault_max_us: u64,
}

/// A finished migration; the object that `migrate --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The migration.
    pub id: MigrationId,
    /// The guest's name.
    pub guest: String,
    /// `source` or `destination`: which side wrote this report.
    pub side: &'static str,
    /// How it ended.
    pub status: Status,
    /// Why, empty on success.
    pub reason: String,
    /// Who owns the guest.
    pub owner: Owner,
    /// Whole duration.
    pub total_ms: f64,
    /// How long the guest stood still.
    pub downtime_ms: f64,
    /// Milliseconds of each phase that was entered, in order.
    pub phases: serde_json::Map<String, serde_json::Value>,
    /// Guest memory.
    pub ram_bytes: u64,
    /// Bytes on the wire in the data direction, headers included.
    pub wire_bytes: u64,
    /// Those of them that went by RDMA.
    pub rdma_bytes: u64,
    /// Pages sent as zero.
    pub zero_pages: u64,
    /// Pages sent as a reference to an equal page.
    pub duplicate_pages: u64,
    /// Pages sent as a difference.
    pub delta_pages: u64,
    /// Pages sent whole.
    pub full_pages: u64,
    /// Passes, the paused one included.
    pub passes: u32,
    /// Streams that were lost and made anew.
    pub reconnects: u32,
    /// Digest of the whole image, 32 hex digits; empty if it was not reached.
    pub digest: String,
    /// What came of the switch to post-copy; none if the guest stood still until all was there.
    pub post_copy: Option<PostCopyFigures>,
    /// Each pass.
    pub pass_details: Vec<Pass>,
}

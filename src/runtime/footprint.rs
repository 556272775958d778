//! What one migration holds in memory, by part.

use serde::Serialize;

/// One migration's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Footprint {
    /// Pages that are remembered, for references and differences.
    pub baseline_pages: u64,
    /// Their memory, indexes included.
    pub baseline_bytes: u64,
    /// Pages that may be remembered at most, as both sides agreed.
    pub baseline_pages_limit: u64,
    /// Segments that were packed and are not acknowledged.
    pub under_way_bytes: u64,
    /// Segments that came before their turn.
    pub early_bytes: u64,
    /// Buffers of the streams and of their encoders and decoders.
    pub stream_bytes: u64,
    /// Hashes and marks of the guest's pages.
    pub page_table_bytes: u64,
}

impl Footprint {
    /// All parts together.
    pub fn total_bytes(&self) -> u64 {
        self.baseline_bytes
            + self.under_way_bytes
            + self.early_bytes
            + self.stream_bytes
            + self.page_table_bytes
    }
}

/// What the digest of an image holds for each page.
pub const HASH_BYTES: u64 = size_of::<u64>() as u64;

/// What a source holds for so many pages: a hash each, and two marks.
pub fn page_table_bytes(pages: u64) -> u64 {
    pages * HASH_BYTES + 2 * pages.div_ceil(8)
}

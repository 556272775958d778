//! What an operator sets for pages that go by RDMA.

/// The same for all migrations of a node, in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RdmaOptions {
    /// Whether RDMA is used at all: it is not encrypted, so somebody must have said so.
    pub enabled: bool,
    /// Most guest memory that may be registered with devices, and so pinned, at a time.
    pub max_memory_bytes: u64,
}

impl Default for RdmaOptions {
    fn default() -> Self {
        Self { enabled: false, max_memory_bytes: 1 << 44 }
    }
}

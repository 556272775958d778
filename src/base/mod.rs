//! L0: the vocabulary that every other layer shares. No input or output, no threads.

pub mod address;
pub mod bitmap;
pub mod ids;
pub mod layout;
pub mod limits;
pub mod machine;
pub mod networks;
pub mod status;
pub mod text;
pub mod time;
pub mod time_counts;

pub use bitmap::PageBitmap;
pub use ids::{ChunkId, MigrationId, StreamId};
pub use layout::{LayoutError, MemoryLayout, PageRange, RegionLayout};
pub use machine::MachineFacts;
pub use networks::Networks;
pub use status::Status;
pub use time::{Clock, Time, micros};
pub use time_counts::TimeCounts;

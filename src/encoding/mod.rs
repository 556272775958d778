//! L2: pages into few bytes and back. Pure functions over buffers; no sockets, clocks or threads.
//!
//! A chunk is made in three steps and undone in the reverse order: [`zero`] splits its pages into
//! those that travel and those that need not, [`digest`] hashes each page once for the chunk's
//! checksum and the image's digest, and [`codec`] packs the rest into one block.
//!
//! A relay that keeps what it sent does more: [`hybrid`] turns pages into references and
//! differences, over the cache of [`baseline`] and what the other side said that it holds ([`held`]),
//! and begins anew where a page has long travelled as differences alone; [`sample`] looks at a block,
//! [`selector`] picks its codec, and [`stats`] adds up what came of it.

pub mod baseline;
mod chains;
pub mod codec;
pub mod digest;
pub mod held;
pub mod hybrid;
pub mod sample;
pub mod selector;
pub mod stats;
pub mod zero;

pub use baseline::{BaselineCache, BaselineLimits, PageKey};
pub use codec::{Codec, CodecChoice, DecodeError, Decoder, Encoded, Encoder};
pub use digest::{ChunkChecksum, Digest, ImageDigest, page_hash, zero_page_hash};
pub use held::{AnnouncedPages, HeldError, HeldKey, HeldPages};
pub use hybrid::{ClassCounts, EncodedPages, HybridOptions, PageDecoder, PageEncoder};
pub use sample::{BlockClass, BlockSample};
pub use selector::{BlockOutcome, CostSelector, FixedSelector, LinkState, Selector};
pub use stats::HdeStats;
pub use zero::{PageRun, is_zero, page_runs};

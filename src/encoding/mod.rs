//! L2: pages into few bytes and back. Pure functions over buffers; no sockets, clocks or threads.
//!
//! A chunk is made in three steps and undone in the reverse order: [`zero`] splits its pages into
//! those that travel and those that need not, [`digest`] hashes each page once for the chunk's
//! checksum and the image's digest, and [`codec`] packs the rest into one block.

pub mod codec;
pub mod digest;
pub mod zero;

pub use codec::{Codec, CodecChoice, DecodeError, Decoder, Encoded, Encoder};
pub use digest::{ChunkChecksum, Digest, ImageDigest, page_hash, zero_page_hash};
pub use zero::{PageRun, is_zero, page_runs};

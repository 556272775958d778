//! L2: QEMU's migration stream, taken apart into page payloads and everything else, and put
//! together again byte by byte. Pure functions over buffers; no sockets, clocks or threads.
//!
//! A relay beside QEMU reads channels that QEMU writes to a socket. [`StreamParser`] takes the main
//! channel and [`MultifdParser`] each multifd channel; both cut it into [`Segment`]s, whose page
//! payloads can be deduplicated, compared and compressed apart from the *skeleton* around them. At
//! the other side the pieces of a segment, one after the other, are the stream again.
//!
//! A parser understands a stream only to find payloads, and it never fails one: what it does not
//! know makes it pass every further byte through, and say why ([`Phase::Opaque`]). Whether payloads
//! are found or not, what comes out is what went in. All integers of QEMU's are big-endian.

mod channel;
mod configuration;
mod framing;
mod info;
mod intake;
mod multifd;
mod parser;
mod ram;
mod return_path;
mod segment;
mod tail;

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod parser_tests;
#[cfg(test)]
#[path = "../../tests/support/qemu_stream.rs"]
mod synthetic;

pub use channel::ChannelParser;
pub use framing::FramingError;
pub use info::{NotUnderstood, Package, Phase, RamBlock, StreamInfo};
pub use intake::SegmentLimits;
pub use multifd::{MultifdInfo, MultifdParser, MultifdPhase};
pub use parser::StreamParser;
pub use return_path::{PagesAsked, ReturnPath, SHUT, SHUT_IN_VAIN};
pub use segment::{PAGE_BYTES, PageSlot, Segment};
pub use tail::{EndWatch, releasable_bytes, vmdescription_start};

/// First four bytes of the main channel: "QEVM".
const MAIN_MAGIC: u32 = 0x5145_564d;
/// First four bytes of a multifd channel, and of each of its packets.
const MULTIFD_MAGIC: u32 = 0x1122_3344;

/// What a connection carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelKind {
    /// The main channel: feed a [`StreamParser`].
    Main,
    /// A multifd channel: feed a [`MultifdParser`].
    Multifd,
    /// Neither: the channel of post-copy preemption, which has no magic number, or TLS.
    Unknown,
}

/// Tells a channel by its first four bytes.
pub fn channel_kind(first_four: [u8; 4]) -> ChannelKind {
    match u32::from_be_bytes(first_four) {
        MAIN_MAGIC => ChannelKind::Main,
        MULTIFD_MAGIC => ChannelKind::Multifd,
        _ => ChannelKind::Unknown,
    }
}

/// The next big-endian number of `field`, zero where it is short: fields come in the length that was asked for.
fn be32(field: &[u8], at: usize) -> u32 {
    field
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// As [`be32`], eight bytes.
fn be64(field: &[u8], at: usize) -> u64 {
    field
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

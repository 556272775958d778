//! What is known of a main channel so far, and why its rest is passed through unread.

use super::segment::PAGE_BYTES;
use crate::base::limits::{MAX_PAGES, MAX_REGIONS};

/// Most bytes that a RAM block, or all of them, may have.
pub(super) const MAX_RAM_BYTES: u64 = MAX_PAGES * PAGE_BYTES as u64;

/// How far the stream has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Before the RAM sections.
    #[default]
    Start,
    /// The list of RAM blocks.
    RamSetup,
    /// Pages.
    Ram,
    /// Device state and the rest.
    Tail,
    /// Something that this library does not understand, passed through from there on.
    Opaque(NotUnderstood),
}

/// How far the stream is with what post-copy begins with: a package of device state, which ends with the
/// order to run the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Package {
    /// It has not come.
    #[default]
    Ahead,
    /// The bytes that follow are its content.
    Inside,
    /// All of it went by.
    Past,
}

/// One RAM block as the source announced it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RamBlock {
    /// QEMU's name for it.
    pub name: String,
    /// Its length.
    pub used_length: u64,
    /// Size of the host pages behind it.
    pub host_page_bytes: u64,
}

/// What a main channel said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamInfo {
    /// How far it has come.
    pub phase: Phase,
    /// The machine type, such as `pc-i440fx-7.2`.
    pub machine: String,
    /// Version of the format.
    pub version: u32,
    /// The RAM blocks; a slot's block number counts them.
    pub blocks: Vec<RamBlock>,
    /// Length of all RAM blocks.
    pub ram_bytes: u64,
    /// RAM sections that have ended, the list of blocks among them.
    pub ram_sections: u64,
    /// Pages with a payload.
    pub pages: u64,
    /// Pages of one repeated byte, mostly zero.
    pub zero_pages: u64,
    /// Pages as QEMU's own deltas or compressed by QEMU: part of the skeleton.
    pub encoded_pages: u64,
    /// Barriers between the main channel and the multifd channels.
    pub multifd_flushes: u64,
    /// Whether the source may switch to post-copy.
    pub postcopy_advised: bool,
    /// The package that a switch to post-copy begins with.
    pub package: Package,
    /// Bytes behind the last RAM section.
    pub tail_bytes: u64,
    /// Bytes passed through because the stream was not understood.
    pub opaque_bytes: u64,
}

impl StreamInfo {
    /// Counts bytes that went by unread.
    pub(super) fn count_passed(&mut self, bytes: u64) {
        match self.phase {
            Phase::Tail => self.tail_bytes += bytes,
            Phase::Opaque(_) => self.opaque_bytes += bytes,
            _ => {}
        }
    }
}

/// What was met that this library does not understand.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotUnderstood {
    /// The channel begins otherwise.
    #[error("magic number {found:#010x}, expected {expected:#010x}")]
    Magic {
        /// As received.
        found: u32,
        /// As QEMU has it.
        expected: u32,
    },
    /// Another version of the format.
    #[error("{what} has version {version}")]
    Version {
        /// The part of the stream.
        what: &'static str,
        /// Its version.
        version: u32,
    },
    /// A section of a type that is unknown, or not due here.
    #[error("section type {0:#04x} out of place")]
    Section(u8),
    /// A section without a length whose inside is not known.
    #[error("section {0:?} before or among those of RAM")]
    Iterable(String),
    /// A part of no section that was begun, or a footer that does not fit.
    #[error("{what} of section {found}, expected {expected:?}")]
    SectionId {
        /// The part of the stream.
        what: &'static str,
        /// As received.
        found: u32,
        /// The section of RAM.
        expected: Option<u32>,
    },
    /// A part of the machine's configuration.
    #[error("configuration {0:?}")]
    Configuration(String),
    /// Pages of another size.
    #[error("pages of {0} bytes, expected {PAGE_BYTES}")]
    PageBytes(u64),
    /// A command that is unknown or has another length.
    #[error("command {command} with {length} bytes")]
    Command {
        /// Its number.
        command: u16,
        /// Length of its data.
        length: u16,
    },
    /// A word in a RAM section with flags that are unknown or not due here.
    #[error("RAM word {0:#x}")]
    Word(u64),
    /// A page of the block before, when there was none.
    #[error("RAM word {0:#x} continues no block")]
    NoBlock(u64),
    /// A name that is empty, not text, or known already.
    #[error("RAM block name {0:?}")]
    BlockName(String),
    /// Too many blocks.
    #[error("more than {MAX_REGIONS} RAM blocks")]
    Blocks,
    /// A block's length is unaligned or more than is left.
    #[error("RAM block {name:?} of {length} bytes where {left} are left")]
    BlockLength {
        /// The block.
        name: String,
        /// Its length.
        length: u64,
        /// What the blocks not yet named have together.
        left: u64,
    },
    /// More memory than any guest has.
    #[error("{0} bytes of RAM, the limit is {MAX_RAM_BYTES}")]
    RamBytes(u64),
    /// Post-copy's page sizes and shared memory's addresses in one list cannot be told apart.
    #[error("a list of RAM blocks with page sizes {0:#x} and addresses")]
    BlockList(u64),
    /// A page behind its block's end, or between two pages.
    #[error("offset {offset:#x} in RAM block {block:?} of {length} bytes")]
    Offset {
        /// The block.
        block: String,
        /// Where the page would begin.
        offset: u64,
        /// The block's length.
        length: u64,
    },
    /// A page that QEMU encoded has an impossible length.
    #[error("a page encoded to {0} bytes")]
    EncodedLength(u32),
    /// A multifd packet with flags that are unknown or say that it is compressed.
    #[error("multifd packet with flags {0:#x}")]
    PacketFlags(u32),
    /// A multifd packet's counts do not fit.
    #[error("multifd packet of {normal} + {zero} of {capacity} pages")]
    PacketPages {
        /// Pages with a payload.
        normal: u32,
        /// Pages without one.
        zero: u32,
        /// Pages for which there is room.
        capacity: u32,
    },
    /// A multifd packet's payload has another length than its pages.
    #[error("multifd packet of {pages} pages with {length} bytes")]
    PacketLength {
        /// Pages with a payload.
        pages: u32,
        /// Length of the payload.
        length: u32,
    },
}

//! The pages of one chunk: out of a guest into bytes for the wire, and back into a guest.
//!
//! Every page is hashed once on each side, while it is in cache. The hashes make the chunk's
//! checksum and the image's digest. The source reads each page once, into a buffer of its own,
//! because the guest may write it at any time: hash, encoding and wire must see the same bytes.
//!
//! Where RDMA carries the pages that cannot be: the source hashes a page, announces it, and some time
//! later the destination's device reads it, when the guest may have written it again. This is sound
//! because each side keeps the hash of what it has seen itself:
//!
//! * A page that differs was written after the source looked at it, so after the log that named it was
//!   fetched. A later log names it again, and it is announced again; the last log is fetched when the
//!   guest stands still.
//! * A page that is announced for the last time is not written after that. Both sides then see the
//!   same bytes, torn ones among them never, and the two digests are compared before the guest is
//!   handed over. A torn page that no log named, by whatever fault, is so found, and the guest stays.
//! * While the guest runs a checksum that differs says nothing. Once it stands still, it says that
//!   bytes were damaged on their way: then the chunk is sent again, as one that came by TCP is.

use crate::base::{ChunkId, MemoryLayout};
use crate::encoding::digest::{ChunkChecksum, ImageDigest, page_hash, zero_page_hash};
use crate::encoding::{Codec, CodecChoice, Decoder, Encoder, page_runs};
use crate::migration::guest::{GuestError, GuestSink, GuestSource, MissingPages};
use crate::migration::plan::Run;
use crate::wire::chunk::{READ_LIVE, READ_STILL};
use crate::wire::frame::HEADER_BYTES;
use crate::wire::{ChunkHeader, Extent, ExtentKind, FrameHeader, FrameKind};
use std::io::{self, Read};
use std::ops::Range;

/// Turns page runs into chunks. One for each sending thread; its buffers are reused.
pub struct ChunkWriter {
    encoder: Encoder,
    raw: Vec<u8>,
    packed: Vec<u8>,
    head: Vec<u8>,
    hashes: Vec<u64>,
}

/// A chunk ready for the wire, in the writer's buffers.
pub struct EncodedChunk<'a> {
    /// Frame header, chunk header, extents.
    pub head: &'a [u8],
    /// The payload.
    pub payload: &'a [u8],
    /// Pages sent as zero.
    pub zero_pages: u64,
    /// Pages in the payload.
    pub full_pages: u64,
    /// How they were packed.
    pub codec: Codec,
    /// What the destination is to read by RDMA.
    pub read_bytes: u64,
}

/// How the pages of a chunk travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carriage {
    /// In the chunk, packed.
    Packed(CodecChoice),
    /// The destination reads them by RDMA.
    Read {
        /// Whether the guest stood still before this was asked.
        is_still: bool,
    },
}

/// A chunk could not be made.
#[derive(Debug, thiserror::Error)]
pub enum EncodeChunkError {
    /// The guest's memory could not be read.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// The codec could not be set up.
    #[error(transparent)]
    Codec(#[from] crate::encoding::codec::EncodeError),
}

impl EncodedChunk<'_> {
    /// Bytes on the wire, those that are read by RDMA among them.
    pub fn wire_bytes(&self) -> u64 {
        (self.head.len() + self.payload.len()) as u64 + self.read_bytes
    }
}

impl Default for ChunkWriter {
    fn default() -> Self {
        let (raw, packed, head, hashes) = Default::default();
        Self { encoder: Encoder::default(), raw, packed, head, hashes }
    }
}

impl ChunkWriter {
    /// Reads and encodes the pages of a chunk, as frame number `sequence` of its stream.
    ///
    /// # Errors
    /// The guest cannot be read or the codec not set up. The digest is then not to be used.
    pub fn encode(
        &mut self,
        (id, runs): (ChunkId, &[Run]),
        guest: &dyn GuestSource,
        layout: &MemoryLayout,
        carriage: Carriage,
        digest: &ImageDigest,
        sequence: u64,
    ) -> Result<EncodedChunk<'_>, EncodeChunkError> {
        let page_bytes = layout.page_bytes();
        self.read(runs, guest, layout)?;
        let (extents, checksum) = self.classify(runs, page_bytes, digest);
        let (payload, codec, number) = match carriage {
            Carriage::Packed(choice) => {
                let encoded = self.encoder.encode(choice, &self.raw, &mut self.packed)?;
                (encoded.payload, encoded.codec, encoded.codec as u8)
            }
            Carriage::Read { is_still: true } => (&[][..], Codec::None, READ_STILL),
            Carriage::Read { is_still: false } => (&[][..], Codec::None, READ_LIVE),
        };
        let (raw_bytes, payload_bytes) = (self.raw.len() as u32, payload.len() as u32);
        let header = ChunkHeader { id, checksum, raw_bytes, payload_bytes, codec: number, extents };
        self.head.clear();
        self.head.resize(HEADER_BYTES, 0);
        header.encode(&mut self.head);
        let frame = FrameHeader {
            kind: FrameKind::Chunk,
            payload_bytes: (self.head.len() - HEADER_BYTES + payload.len()) as u32,
            sequence,
            body_crc: crc32fast::hash(&self.head[HEADER_BYTES..]),
        };
        self.head[..HEADER_BYTES].copy_from_slice(&frame.encode());
        let (zero_pages, full_pages) =
            (header.pages(ExtentKind::Zero), header.pages(ExtentKind::Data));
        let (head, read_bytes) = (&self.head, header.read_bytes());
        Ok(EncodedChunk { head, payload, zero_pages, full_pages, codec, read_bytes })
    }

    fn read(
        &mut self,
        runs: &[Run],
        guest: &dyn GuestSource,
        layout: &MemoryLayout,
    ) -> Result<(), GuestError> {
        let pages: usize = runs.iter().map(|run| run.pages as usize).sum();
        self.raw.resize(pages * layout.page_bytes() as usize, 0);
        let mut at = 0;
        for range in runs.iter().flat_map(|run| layout.ranges(run.range())) {
            let end = at + range.length_bytes as usize;
            guest.read_pages(range.region, range.offset_bytes, &mut self.raw[at..end])?;
            at = end;
        }
        Ok(())
    }

    /// Sorts pages into zero and data, hashes them, and closes the gaps that zero pages leave.
    fn classify(
        &mut self,
        runs: &[Run],
        page_bytes: u32,
        digest: &ImageDigest,
    ) -> (Vec<Extent>, u64) {
        let page = page_bytes as usize;
        let zero_hash = zero_page_hash(page_bytes);
        let mut extents = Vec::with_capacity(runs.len());
        let mut checksum = ChunkChecksum::default();
        let (mut from, mut kept) = (0, 0);
        for run in runs {
            let run_bytes = run.pages as usize * page;
            let pieces: Vec<_> = page_runs(&self.raw[from..from + run_bytes], page).collect();
            for piece in pieces {
                let (first_page, pages) = (run.first_page + piece.first as u64, piece.pages as u32);
                let kind = if piece.zero { ExtentKind::Zero } else { ExtentKind::Data };
                extents.push(Extent { first_page, pages, kind });
                if piece.zero {
                    let hashes = std::iter::repeat_n(zero_hash, piece.pages);
                    note(digest, &mut checksum, first_page, hashes);
                    continue;
                }
                let start = from + piece.first * page;
                let data = start..start + piece.pages * page;
                self.hashes.clear();
                self.hashes.extend(self.raw[data.clone()].chunks_exact(page).map(page_hash));
                note(digest, &mut checksum, first_page, self.hashes.iter().copied());
                let length = data.len();
                if kept != data.start {
                    self.raw.copy_within(data, kept);
                }
                kept += length;
            }
            from += run_bytes;
        }
        self.raw.truncate(kept);
        (extents, checksum.value())
    }
}

/// Puts chunks into a guest. One for each receiving thread; its buffers are reused.
#[derive(Default)]
pub struct ChunkReader {
    decoder: Decoder,
    payload: Vec<u8>,
    raw: Vec<u8>,
    hashes: Vec<u64>,
}

/// A chunk could not be stored.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The stream broke or ended within the payload.
    #[error("stream broke within a chunk: {0}")]
    Stream(io::Error),
    /// The guest's memory could not be written.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// A codec that was not agreed on.
    #[error("chunk {chunk} is packed by codec {codec}, which was not agreed on")]
    Codec {
        /// The chunk.
        chunk: u64,
        /// The codec's number.
        codec: u8,
    },
}

impl ChunkReader {
    /// Takes the payload off `stream` and stores all pages of the chunk.
    ///
    /// False: the bytes came damaged. Pages may then hold anything, and are unset in the digest: what
    /// they held before may have been the last version already.
    ///
    /// # Errors
    /// [`StoreError`]; pages may hold anything then, too.
    pub fn store(
        &mut self,
        header: &ChunkHeader,
        stream: &mut dyn Read,
        guest: &dyn GuestSink,
        layout: &MemoryLayout,
        digest: &ImageDigest,
    ) -> Result<bool, StoreError> {
        let stored = self.try_store(header, stream, guest, layout, digest);
        if !matches!(stored, Ok(true)) {
            unset(header, digest);
        }
        stored
    }

    fn try_store(
        &mut self,
        header: &ChunkHeader,
        stream: &mut dyn Read,
        guest: &dyn GuestSink,
        layout: &MemoryLayout,
        digest: &ImageDigest,
    ) -> Result<bool, StoreError> {
        self.hashes.clear();
        let page_bytes = layout.page_bytes();
        match known_codec(header)? {
            Codec::None => self.receive(header, stream, guest, layout)?,
            codec => {
                self.payload.resize(header.payload_bytes as usize, 0);
                stream.read_exact(&mut self.payload).map_err(StoreError::Stream)?;
                let raw_bytes = header.raw_bytes;
                let decoded = self.decoder.decode(codec, &self.payload, raw_bytes, &mut self.raw);
                if decoded.is_err() {
                    return Ok(false);
                }
                self.write_decoded(header, guest, layout)?;
            }
        }
        if self.checksum(header, page_bytes) != header.checksum {
            return Ok(false);
        }
        self.zero(header, guest, layout)?;
        self.commit(header, page_bytes, digest);
        Ok(true)
    }

    /// Takes the payload off `stream` and puts the pages of the chunk where they are missing; they are
    /// known to be whole before the first one is placed, for the guest may be waiting.
    ///
    /// False: the bytes came damaged, and nothing was placed.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn place(
        &mut self,
        header: &ChunkHeader,
        stream: &mut dyn Read,
        pages: &dyn MissingPages,
        layout: &MemoryLayout,
        digest: &ImageDigest,
    ) -> Result<bool, StoreError> {
        let (page_bytes, raw_bytes) = (layout.page_bytes(), header.raw_bytes);
        let codec = known_codec(header)?;
        self.payload.resize(header.payload_bytes as usize, 0);
        stream.read_exact(&mut self.payload).map_err(StoreError::Stream)?;
        if self.decoder.decode(codec, &self.payload, raw_bytes, &mut self.raw).is_err() {
            return Ok(false);
        }
        self.hashes.clear();
        self.hashes.extend(self.raw.chunks_exact(page_bytes as usize).map(page_hash));
        if self.checksum(header, page_bytes) != header.checksum {
            return Ok(false);
        }
        let mut at = 0;
        for range in ranges(header, ExtentKind::Data, layout) {
            let end = at + range.length_bytes as usize;
            pages.place(range.region, range.offset_bytes, &self.raw[at..end])?;
            at = end;
        }
        for range in ranges(header, ExtentKind::Zero, layout) {
            pages.place_zero(range.region, range.offset_bytes, range.length_bytes)?;
        }
        self.commit(header, page_bytes, digest);
        Ok(true)
    }

    /// Takes in a chunk whose pages a device has read into the guest. False: they came damaged, and are
    /// unset in the digest.
    ///
    /// # Errors
    /// The guest's memory cannot be looked at or written; its pages are unset then, too.
    pub fn accept(
        &mut self,
        header: &ChunkHeader,
        guest: &dyn GuestSink,
        layout: &MemoryLayout,
        digest: &ImageDigest,
    ) -> Result<bool, GuestError> {
        let accepted = self.try_accept(header, guest, layout, digest);
        if accepted != Ok(true) {
            unset(header, digest);
        }
        accepted
    }

    fn try_accept(
        &mut self,
        header: &ChunkHeader,
        guest: &dyn GuestSink,
        layout: &MemoryLayout,
        digest: &ImageDigest,
    ) -> Result<bool, GuestError> {
        let page_bytes = layout.page_bytes();
        self.hashes.clear();
        let hashes = &mut self.hashes;
        let mut inspect = |bytes: &[u8]| {
            hashes.extend(bytes.chunks_exact(page_bytes as usize).map(page_hash));
        };
        for range in ranges(header, ExtentKind::Data, layout) {
            let (offset, length) = (range.offset_bytes, range.length_bytes);
            guest.inspect_pages(range.region, offset, length, &mut inspect)?;
        }
        if header.codec == READ_STILL && self.checksum(header, page_bytes) != header.checksum {
            return Ok(false);
        }
        self.zero(header, guest, layout)?;
        self.commit(header, page_bytes, digest);
        Ok(true)
    }

    /// Stored payload: from the stream straight into the guest.
    fn receive(
        &mut self,
        header: &ChunkHeader,
        stream: &mut dyn Read,
        guest: &dyn GuestSink,
        layout: &MemoryLayout,
    ) -> Result<(), StoreError> {
        let page = layout.page_bytes() as usize;
        let hashes = &mut self.hashes;
        let mut inspect = |bytes: &[u8]| hashes.extend(bytes.chunks_exact(page).map(page_hash));
        for range in ranges(header, ExtentKind::Data, layout) {
            guest
                .receive_pages(
                    range.region,
                    range.offset_bytes,
                    range.length_bytes,
                    stream,
                    &mut inspect,
                )
                .map_err(stream_or_guest)?;
        }
        Ok(())
    }

    fn write_decoded(
        &mut self,
        header: &ChunkHeader,
        guest: &dyn GuestSink,
        layout: &MemoryLayout,
    ) -> Result<(), GuestError> {
        let page = layout.page_bytes() as usize;
        self.hashes.extend(self.raw.chunks_exact(page).map(page_hash));
        let mut at = 0;
        for range in ranges(header, ExtentKind::Data, layout) {
            let end = at + range.length_bytes as usize;
            guest.write_pages(range.region, range.offset_bytes, &self.raw[at..end])?;
            at = end;
        }
        Ok(())
    }

    fn checksum(&self, header: &ChunkHeader, page_bytes: u32) -> u64 {
        let mut checksum = ChunkChecksum::default();
        self.each_hash(header, page_bytes, |first_page, hashes| {
            checksum.add_run(first_page, hashes);
        });
        checksum.value()
    }

    fn commit(&self, header: &ChunkHeader, page_bytes: u32, digest: &ImageDigest) {
        self.each_hash(header, page_bytes, |first_page, hashes| {
            digest.replace_run(first_page, hashes);
        });
    }

    /// Calls `visit` with the hashes of each extent's pages.
    fn each_hash(
        &self,
        header: &ChunkHeader,
        page_bytes: u32,
        mut visit: impl FnMut(u64, Box<dyn Iterator<Item = u64> + '_>),
    ) {
        let zero_hash = zero_page_hash(page_bytes);
        let mut at = 0;
        for extent in &header.extents {
            let pages = extent.pages as usize;
            match extent.kind {
                ExtentKind::Zero => {
                    visit(extent.first_page, Box::new(std::iter::repeat_n(zero_hash, pages)));
                }
                ExtentKind::Data => {
                    let hashes = self.hashes[at..at + pages].iter().copied();
                    visit(extent.first_page, Box::new(hashes));
                    at += pages;
                }
            }
        }
    }

    fn zero(
        &self,
        header: &ChunkHeader,
        guest: &dyn GuestSink,
        layout: &MemoryLayout,
    ) -> Result<(), GuestError> {
        ranges(header, ExtentKind::Zero, layout).try_for_each(|range| {
            guest.zero_pages(range.region, range.offset_bytes, range.length_bytes)
        })
    }
}

/// The pages of a chunk may hold anything.
pub fn unset(header: &ChunkHeader, digest: &ImageDigest) {
    header.extents.iter().flat_map(Extent::range).for_each(|page| digest.unset(page));
}

fn known_codec(header: &ChunkHeader) -> Result<Codec, StoreError> {
    let (chunk, codec) = (header.id.0, header.codec);
    Codec::try_from(codec).map_err(|_| StoreError::Codec { chunk, codec })
}

/// A sink reports its own failure through the stream's error type.
fn stream_or_guest(error: io::Error) -> StoreError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<GuestError>()) {
        Some(guest) => StoreError::Guest(guest.clone()),
        None => StoreError::Stream(error),
    }
}

fn note(
    digest: &ImageDigest,
    checksum: &mut ChunkChecksum,
    first_page: u64,
    hashes: impl Iterator<Item = u64> + Clone,
) {
    checksum.add_run(first_page, hashes.clone());
    digest.replace_run(first_page, hashes);
}

/// Where pages of one kind lie.
pub fn ranges<'a>(
    header: &'a ChunkHeader,
    kind: ExtentKind,
    layout: &'a MemoryLayout,
) -> impl Iterator<Item = crate::base::PageRange> + 'a {
    let of_kind = move |extent: &&Extent| extent.kind == kind;
    let pages = |extent: &Extent| -> Range<u64> { extent.range() };
    header.extents.iter().filter(of_kind).flat_map(move |extent| layout.ranges(pages(extent)))
}

#[cfg(test)]
#[path = "page_io_tests.rs"]
mod tests;

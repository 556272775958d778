//! A stretch of a relayed stream into a segment's bytes, and back.
//!
//! Preparing is done in the order of the stream, because references and differences need what came
//! before; packing is what costs time, and takes prepared segments in any order on many threads.
//! Both are undone in one go, in order.

use super::source::PageCounts;
use crate::encoding::baseline::{BaselineLimits, PAGE_BYTES, PageKey};
use crate::encoding::codec::EncodeError;
use crate::encoding::hybrid::{
    ClassCounts, DecodeHybridError, EncodedPages, HybridOptions, PageDecoder, PageEncoder,
};
use crate::encoding::{Codec, CodecChoice, DecodeError, Decoder, Encoder, page_hash};
use crate::qemu::{FramingError, Segment};
use crate::wire::WireError;
use crate::wire::segment::{BLOCKS, Block, SEGMENT_HEADER_BYTES, SegmentHeader};
use std::mem::take;
use std::ops::Range;

/// How blocks other than fresh pages are packed: they are small, and shrink a lot.
const SIDE_CODEC: CodecChoice = CodecChoice::Zstd(1);
/// Blocks shorter than this are stored.
const LEAST_PACKED_BYTES: usize = 64;

/// Where a segment belongs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The hypervisor's connection; 0 is its main stream.
    pub channel: u8,
    /// The end of the main stream cannot begin in it.
    pub before_end: bool,
}

/// A segment between its two steps.
#[derive(Debug, Default)]
pub struct Prepared {
    /// Number in the order of the channels together.
    pub number: u64,
    /// Where it belongs.
    pub place: Place,
    /// Bytes of the stream.
    pub stream_bytes: u64,
    /// Their checksum.
    pub checksum: u64,
    framing: Vec<u8>,
    pages: EncodedPages,
}

impl Prepared {
    /// The pages that travel whole.
    pub fn fresh(&self) -> &[u8] {
        &self.pages.fresh
    }
}

/// A segment as it comes out of the packer.
#[derive(Debug)]
pub struct Packed {
    /// The frame's payload.
    pub payload: Vec<u8>,
    /// What became of its pages.
    pub counts: PageCounts,
    /// How the fresh pages were packed: codec, length before and after.
    pub fresh: (Codec, usize, usize),
    /// Pages by class.
    pub classes: ClassCounts,
    /// Length of the classes and references, packed.
    pub class_bytes: u64,
    /// Length of the differences, packed.
    pub delta_bytes: u64,
}

/// The first step, one for a stream.
pub struct Preparer {
    encoder: PageEncoder,
    /// Whether the caches hold anything at all.
    keeps: bool,
    /// Whether pages may travel as differences.
    delta: bool,
    next: u64,
    keys: Vec<PageKey>,
}

/// The second step, one for each thread.
#[derive(Default)]
pub struct Packer {
    encoder: Encoder,
    scratch: Vec<u8>,
}

/// Both steps back, one for a stream.
pub struct Unpacker {
    decoder: Decoder,
    pages: PageDecoder,
    keys: Vec<PageKey>,
    blocks: [Vec<u8>; BLOCKS],
}

/// A segment could not be unpacked: the peer is broken, or the two sides have drifted apart.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The header.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A block.
    #[error("segment {number}: {source}")]
    Block {
        /// The segment.
        number: u64,
        /// Why.
        source: DecodeError,
    },
    /// The framing.
    #[error("segment {number}: {source}")]
    Framing {
        /// The segment.
        number: u64,
        /// Why.
        source: FramingError,
    },
    /// The pages.
    #[error("segment {number}: {source}")]
    Pages {
        /// The segment.
        number: u64,
        /// Why.
        source: DecodeHybridError,
    },
    /// All decodes, but not to what was sent.
    #[error("segment {number}: checksum is {found:016x}, sent was {sent:016x}")]
    Checksum {
        /// The segment.
        number: u64,
        /// Ours.
        found: u64,
        /// The source's.
        sent: u64,
    },
}

impl Preparer {
    /// For the beginning of a stream; the other side's [`Unpacker`] has the same limits.
    pub fn new(limits: BaselineLimits) -> Self {
        let keeps = limits.capacity() > 0;
        Self { encoder: PageEncoder::new(limits), keeps, delta: true, next: 0, keys: Vec::new() }
    }

    /// The same, with or without differences; the other side need not know.
    pub fn with_delta(mut self, delta: bool) -> Self {
        self.delta = delta;
        self
    }

    /// Takes the next stretch of any channel. `remember`: look for references and differences, and
    /// keep its pages for those to come.
    pub fn prepare(&mut self, segment: &Segment, place: Place, remember: bool) -> Prepared {
        keys_of(segment, &mut self.keys);
        let mut prepared = Prepared {
            number: self.next,
            place,
            stream_bytes: segment.stream_bytes() as u64,
            checksum: checksum(segment),
            ..Prepared::default()
        };
        segment.encode_framing(&mut prepared.framing);
        let on = remember && self.keeps;
        let options = HybridOptions { delta: on && self.delta, duplicates: on };
        self.encoder.encode(&self.keys, &segment.data, options, &mut prepared.pages);
        self.next += 1;
        prepared
    }

    /// Memory held for references and differences.
    pub fn memory_bytes(&self) -> u64 {
        self.encoder.memory_bytes()
    }

    /// Pages that are remembered.
    pub fn held_pages(&self) -> u64 {
        self.encoder.baselines() as u64
    }

    /// Looks at some of the remembered pages again; as [`PageEncoder::verify`].
    pub fn verify(&self, slots: Range<usize>) -> Option<(u64, u64)> {
        self.encoder.verify(slots)
    }
}

impl Packer {
    /// Packs a prepared segment, its fresh pages by `codec`.
    ///
    /// # Errors
    /// The codec cannot be set up.
    pub fn pack(
        &mut self,
        mut prepared: Prepared,
        codec: CodecChoice,
    ) -> Result<Packed, EncodeError> {
        let pages = take(&mut prepared.pages);
        let raw = [&prepared.framing, &pages.classes, &pages.fresh, &pages.delta];
        let choices = [SIDE_CODEC, SIDE_CODEC, codec, SIDE_CODEC];
        let mut blocks = [Block::default(); BLOCKS];
        let mut payload = vec![0; SEGMENT_HEADER_BYTES];
        for ((block, raw), choice) in blocks.iter_mut().zip(raw).zip(choices) {
            let choice = if raw.len() < LEAST_PACKED_BYTES { CodecChoice::None } else { choice };
            let encoded = self.encoder.encode(choice, raw, &mut self.scratch)?;
            let (codec, packed_bytes) = (encoded.codec as u8, encoded.payload.len() as u32);
            *block = Block { codec, raw_bytes: raw.len() as u32, packed_bytes };
            payload.extend_from_slice(encoded.payload);
        }
        let Prepared { number, place: Place { channel, before_end }, checksum, .. } = prepared;
        let header = SegmentHeader { number, channel, before_end, checksum, blocks };
        let mut head = Vec::with_capacity(SEGMENT_HEADER_BYTES);
        header.encode(&mut head);
        payload[..SEGMENT_HEADER_BYTES].copy_from_slice(&head);
        let counts = PageCounts {
            zero: pages.counts.zero.into(),
            duplicate: pages.counts.duplicate.into(),
            delta: pages.counts.delta.into(),
            full: pages.counts.fresh.into(),
        };
        let used = Codec::try_from(blocks[2].codec).unwrap_or(Codec::None);
        let fresh = (used, pages.fresh.len(), blocks[2].packed_bytes as usize);
        let (class_bytes, delta_bytes) = (blocks[1].packed_bytes, blocks[3].packed_bytes);
        Ok(Packed {
            payload,
            counts,
            fresh,
            classes: pages.counts,
            class_bytes: class_bytes.into(),
            delta_bytes: delta_bytes.into(),
        })
    }
}

impl Unpacker {
    /// For the beginning of a stream.
    pub fn new(limits: BaselineLimits) -> Self {
        Self {
            decoder: Decoder::default(),
            pages: PageDecoder::new(limits),
            keys: Vec::new(),
            blocks: Default::default(),
        }
    }

    /// Unpacks the next segment in order: its header and its stretch of the stream.
    ///
    /// # Errors
    /// [`UnpackError`]; the stream cannot be gone on with.
    pub fn unpack(&mut self, payload: &[u8]) -> Result<(SegmentHeader, Segment), UnpackError> {
        let (header, packed) = SegmentHeader::decode(payload)?;
        let number = header.number;
        for ((into, packed), block) in self.blocks.iter_mut().zip(packed).zip(&header.blocks) {
            let codec = Codec::try_from(block.codec)
                .map_err(|_| DecodeError::UnknownCodec(block.codec))
                .and_then(|codec| self.decoder.decode(codec, packed, block.raw_bytes, into));
            codec.map_err(|source| UnpackError::Block { number, source })?;
        }
        let [framing, classes, fresh, delta] = &self.blocks;
        let mut segment = Segment::decode_framing(framing)
            .map_err(|source| UnpackError::Framing { number, source })?;
        keys_of(&segment, &mut self.keys);
        self.pages
            .decode(&self.keys, classes, fresh, delta, &mut segment.data)
            .map_err(|source| UnpackError::Pages { number, source })?;
        let (found, sent) = (checksum(&segment), header.checksum);
        if found != sent {
            return Err(UnpackError::Checksum { number, found, sent });
        }
        Ok((header, segment))
    }

    /// Memory held for references and differences.
    pub fn memory_bytes(&self) -> u64 {
        self.pages.memory_bytes()
    }

    /// Pages that are remembered.
    pub fn held_pages(&self) -> u64 {
        self.pages.baselines() as u64
    }
}

/// The limits that both sides use for so many pages.
pub fn limits_for(baseline_pages: u32) -> BaselineLimits {
    let max_baselines = u64::from(baseline_pages);
    BaselineLimits { max_bytes: max_baselines * PAGE_BYTES as u64, max_baselines }
}

fn keys_of(segment: &Segment, keys: &mut Vec<PageKey>) {
    keys.clear();
    keys.extend(segment.pages.iter().map(|slot| PageKey { block: slot.block, page: slot.page }));
}

/// Of the bytes and of where the payloads go, so that it speaks for the stream.
fn checksum(segment: &Segment) -> u64 {
    let places = segment.pages.iter().fold(segment.pages.len() as u64, |sum, slot| {
        (sum ^ u64::from(slot.at)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
    });
    let skeleton = page_hash(&segment.skeleton).rotate_left(17);
    (page_hash(&segment.data) ^ skeleton).wrapping_mul(0xff51_afd7_ed55_8ccd) ^ places
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu::PageSlot;

    fn segment(random: &mut fastrand::Rng) -> Segment {
        let mut segment = Segment::default();
        segment.skeleton.extend((0..random.usize(..400)).map(|_| random.u8(..)));
        for _ in 0..random.usize(..20) {
            let (at, page) = (segment.skeleton.len() as u32, random.u64(..30));
            segment.pages.push(PageSlot { at, block: random.u16(..2), page });
            let fill = random.u8(..3);
            let mut bytes = vec![fill; PAGE_BYTES];
            (0..random.usize(..40)).for_each(|_| bytes[random.usize(..PAGE_BYTES)] = random.u8(..));
            segment.data.extend_from_slice(&bytes);
        }
        segment
    }

    #[test]
    fn streams_come_out_as_they_went_in() {
        let mut random = fastrand::Rng::with_seed(5);
        for pages in [0, 1, 16, 1000] {
            let (mut prepare, mut pack) = (Preparer::new(limits_for(pages)), Packer::default());
            let mut unpack = Unpacker::new(limits_for(pages));
            for number in 0..60 {
                let sent = segment(&mut random);
                let place = Place { channel: number as u8 % 3, before_end: number % 2 == 0 };
                let prepared = prepare.prepare(&sent, place, number % 5 != 4);
                let choice = [CodecChoice::None, CodecChoice::Lz4, CodecChoice::Zstd(3)];
                let packed = pack.pack(prepared, choice[number % 3]).unwrap();
                let (header, came) = unpack.unpack(&packed.payload).unwrap();
                assert_eq!(header.number, number as u64);
                assert_eq!((header.channel, header.before_end), (place.channel, place.before_end));
                assert_eq!(came, sent);
            }
            assert!(prepare.memory_bytes() > 0 || pages < 1000);
        }
    }

    #[test]
    fn without_differences_pages_come_whole_or_as_references() {
        let mut random = fastrand::Rng::with_seed(8);
        let segments: Vec<Segment> = (0..60).map(|_| segment(&mut random)).collect();
        let run = |delta: bool| {
            let mut prepare = Preparer::new(limits_for(1000)).with_delta(delta);
            let (mut pack, mut unpack) = (Packer::default(), Unpacker::new(limits_for(1000)));
            let mut counts = PageCounts::default();
            for sent in &segments {
                let packed = pack
                    .pack(prepare.prepare(sent, Place::default(), true), CodecChoice::Lz4)
                    .unwrap();
                assert_eq!(unpack.unpack(&packed.payload).unwrap().1, *sent);
                counts.delta += packed.counts.delta;
                counts.duplicate += packed.counts.duplicate;
            }
            let held = prepare.held_pages();
            assert_eq!(held, unpack.held_pages());
            let (checked, differing) = prepare.verify(0..1000).unwrap();
            assert!(checked > 0 && checked <= held && differing == 0, "{checked} of {held}");
            counts
        };
        let (with, without) = (run(true), run(false));
        assert!(with.delta > 0 && without.delta == 0, "{with:?} {without:?}");
        assert_eq!(with.duplicate, without.duplicate);
    }

    #[test]
    fn a_changed_byte_never_passes() {
        let mut random = fastrand::Rng::with_seed(6);
        let (mut prepare, mut pack) = (Preparer::new(limits_for(16)), Packer::default());
        let sent = segment(&mut random);
        let payload = pack
            .pack(prepare.prepare(&sent, Place::default(), true), CodecChoice::None)
            .unwrap()
            .payload;
        for _ in 0..400 {
            let mut changed = payload.clone();
            let at = random.usize(SEGMENT_HEADER_BYTES..changed.len());
            changed[at] ^= 1 << random.u8(..8);
            assert!(Unpacker::new(limits_for(16)).unpack(&changed).is_err(), "byte {at}");
        }
    }
}

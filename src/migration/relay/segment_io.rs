//! A stretch of a relayed stream into a segment's bytes, and back.
//!
//! Preparing is done in the order of the stream, because references and differences need what came
//! before; packing is what costs time, and takes prepared segments in any order on many threads.
//! Both are undone in one go, in order.

use super::source::PageCounts;
use crate::base::Time;
use crate::encoding::baseline::{BaselineLimits, PAGE_BYTES, PageKey};
use crate::encoding::codec::EncodeError;
use crate::encoding::hybrid::{
    ClassCounts, DecodeHybridError, EncodedPages, HybridOptions, PageDecoder, PageEncoder,
    is_remembered,
};
use crate::encoding::{
    AnnouncedPages, Codec, CodecChoice, DecodeError, Decoder, Encoder, HeldPages, page_hash,
};
use crate::migration::EncodingOptions;
use crate::qemu::{FramingError, Segment};
use crate::wire::WireError;
use crate::wire::segment::{
    BLOCKS, Block, Kept, SEGMENT_HEADER_BYTES, SegmentHeader, SegmentPayload,
};
use std::mem::{swap, take};
use std::ops::Range;
use std::sync::Arc;

/// How blocks other than fresh pages are packed: they are small, and shrink a lot.
const SIDE_CODEC: CodecChoice = CodecChoice::Zstd(1);
/// Where the fresh pages are among the blocks.
const FRESH: usize = 2;
/// Blocks shorter than this are stored.
const LEAST_PACKED_BYTES: usize = 64;

/// Where a segment belongs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The hypervisor's connection; 0 is its main stream.
    pub channel: u8,
    /// The end of the main stream cannot begin in it.
    pub before_end: bool,
    /// The hypervisor may stop the guest soon.
    pub in_tail: bool,
    /// The destination's hypervisor gets it only when the guest is to run there.
    pub kept: Kept,
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
    /// Pages that the stream itself only names as zero; for the counts alone.
    pub named_zero: u32,
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
    pub payload: SegmentPayload,
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
    remembered: bool,
    /// The fresh pages, unless they are stored: then the payload has them.
    pages: Vec<u8>,
}

/// The whole pages of a segment, as they are and as they travel.
#[derive(Clone, Copy, Debug)]
pub struct FreshBlock<'a> {
    /// Length of the pages.
    pub raw_bytes: u32,
    /// The codec of the packed bytes.
    pub codec: Codec,
    /// The packed bytes.
    pub packed: &'a [u8],
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
    /// All pages of the segment were whole, and went with it.
    moved: bool,
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

    /// The same, by what of these options is the sending side's alone: whether there are differences,
    /// and for how long.
    pub fn with_options(mut self, options: &EncodingOptions) -> Self {
        self.delta = options.delta;
        self.encoder = self.encoder.with_refresh(options.baseline_refresh_interval);
        self
    }

    /// Takes the next stretch of any channel, which is empty then. `remember`: look for references and
    /// differences, and keep its pages for those to come.
    pub fn prepare(
        &mut self,
        segment: &mut Segment,
        place: Place,
        remember: bool,
        now: Time,
    ) -> Prepared {
        self.encoder.set_time(now);
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
        let options = HybridOptions { delta: on && self.delta, duplicates: on, held: remember };
        self.encoder.encode(&self.keys, &mut segment.data, options, &mut prepared.pages);
        segment.clear();
        self.next += 1;
        prepared
    }

    /// What the other side holds, to refer to.
    pub fn announce(&mut self, pages: Arc<AnnouncedPages>) {
        self.encoder.announce(pages);
    }

    /// The pages that were remembered last, each once.
    pub fn pages(&self) -> impl Iterator<Item = &[u8]> {
        self.encoder.pages()
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

impl Packed {
    /// The whole pages, if they were remembered: on a link too fast for that, nothing is held.
    pub fn fresh_block(&self) -> Option<FreshBlock<'_>> {
        let (codec, raw_bytes, _) = self.fresh;
        fresh_block(self.remembered, codec, raw_bytes as u32, &self.payload.fresh)
    }
}

impl Packed {
    /// What travels, its counts, and the buffer of the pages if it is no part of that.
    pub fn into_parts(self) -> (SegmentPayload, PageCounts, Vec<u8>) {
        (self.payload, self.counts, self.pages)
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
        let mut pages = take(&mut prepared.pages);
        pages.counts.zero = pages.counts.zero.saturating_add(prepared.named_zero);
        let mut payload =
            SegmentPayload { head: vec![0; SEGMENT_HEADER_BYTES], ..Default::default() };
        let framing = self.pack_block(&prepared.framing, &mut payload.head)?;
        let classes = self.pack_block(&pages.classes, &mut payload.head)?;
        let delta = self.pack_block(&pages.delta, &mut payload.tail)?;
        let (fresh_bytes, mut fresh_pages) = (pages.fresh.len(), pages.fresh);
        let shrunk = self.shrink(codec, &fresh_pages, &mut payload.fresh)?;
        let fresh = shrunk.unwrap_or_else(|| {
            payload.fresh = take(&mut fresh_pages);
            Block::stored(fresh_bytes)
        });
        let Prepared { number, place, checksum, .. } = prepared;
        let Place { channel, before_end, in_tail, kept } = place;
        let blocks = [framing, classes, fresh, delta];
        let header = SegmentHeader { number, channel, before_end, in_tail, kept, checksum, blocks };
        payload.head[..SEGMENT_HEADER_BYTES].copy_from_slice(&header.encode());
        let counts = PageCounts {
            zero: pages.counts.zero.into(),
            duplicate: u64::from(pages.counts.duplicate) + u64::from(pages.counts.held),
            delta: pages.counts.delta.into(),
            full: pages.counts.fresh.into(),
        };
        let used = Codec::try_from(fresh.codec).unwrap_or(Codec::None);
        Ok(Packed {
            counts,
            fresh: (used, fresh_bytes, payload.fresh.len()),
            classes: pages.counts,
            class_bytes: classes.packed_bytes.into(),
            delta_bytes: delta.packed_bytes.into(),
            payload,
            remembered: is_remembered(&pages.classes),
            pages: fresh_pages,
        })
    }

    /// A small block.
    fn pack_block(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Result<Block, EncodeError> {
        let choice = if raw.len() < LEAST_PACKED_BYTES { CodecChoice::None } else { SIDE_CODEC };
        Ok(self.shrink(choice, raw, out)?.unwrap_or_else(|| {
            out.extend_from_slice(raw);
            Block::stored(raw.len())
        }))
    }

    /// Appends a block to `out`. None: it does not shrink and `out` is as it was.
    fn shrink(
        &mut self,
        choice: CodecChoice,
        raw: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<Block>, EncodeError> {
        let encoded = self.encoder.encode(choice, raw, &mut self.scratch)?;
        if encoded.codec == Codec::None {
            return Ok(None);
        }
        out.extend_from_slice(encoded.payload);
        let (codec, packed_bytes) = (encoded.codec as u8, encoded.payload.len() as u32);
        Ok(Some(Block { codec, raw_bytes: raw.len() as u32, packed_bytes }))
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
            moved: false,
        }
    }

    /// Unpacks the next segment in order: its header and its stretch of the stream, whose pages may
    /// come to lie in `spare`. Of `payload` the fresh pages are taken where they are stored, and
    /// another buffer is left.
    ///
    /// # Errors
    /// [`UnpackError`]; the stream cannot be gone on with.
    pub fn unpack(
        &mut self,
        payload: &mut SegmentPayload,
        spare: Vec<u8>,
    ) -> Result<(SegmentHeader, Segment), UnpackError> {
        let (header, packed) = SegmentHeader::decode(payload)?;
        let number = header.number;
        let stored = header.blocks[FRESH] == Block::stored(payload.fresh.len());
        for (at, packed) in packed.iter().enumerate().filter(|(at, _)| *at != FRESH || !stored) {
            let (block, into) = (header.blocks[at], &mut self.blocks[at]);
            let codec = Codec::try_from(block.codec)
                .map_err(|_| DecodeError::UnknownCodec(block.codec))
                .and_then(|codec| self.decoder.decode(codec, packed, block.raw_bytes, into));
            codec.map_err(|source| UnpackError::Block { number, source })?;
        }
        if stored {
            swap(&mut self.blocks[FRESH], &mut payload.fresh);
        }
        let [framing, classes, fresh, delta] = &mut self.blocks;
        let mut segment = Segment::decode_framing(framing)
            .map_err(|source| UnpackError::Framing { number, source })?;
        segment.data = spare;
        keys_of(&segment, &mut self.keys);
        self.moved = self
            .pages
            .decode(&self.keys, classes, fresh, delta, &mut segment.data)
            .map_err(|source| UnpackError::Pages { number, source })?;
        let (found, sent) = (checksum(&segment), header.checksum);
        if found != sent {
            return Err(UnpackError::Checksum { number, found, sent });
        }
        Ok((header, segment))
    }

    /// What this side announced, for references to it.
    pub fn announce(&mut self, pages: Box<dyn HeldPages>) {
        self.pages.announce(pages);
    }

    /// The whole pages of the segment that was unpacked last, from what it came as and what it became;
    /// see [`Packed::fresh_block`].
    pub fn fresh_block<'a>(
        &'a self,
        header: &SegmentHeader,
        payload: &'a SegmentPayload,
        segment: &'a Segment,
    ) -> Option<FreshBlock<'a>> {
        let Block { codec, raw_bytes, .. } = header.blocks[FRESH];
        let codec = Codec::try_from(codec).ok()?;
        let [_, classes, fresh, _] = &self.blocks;
        let packed = match codec {
            Codec::None if self.moved => &segment.data,
            Codec::None => fresh,
            _ => &payload.fresh,
        };
        fresh_block(is_remembered(classes), codec, raw_bytes, packed)
    }

    /// The pages that were remembered last, each once.
    pub fn pages(&self) -> impl Iterator<Item = &[u8]> {
        self.pages.pages()
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

fn fresh_block(
    remembered: bool,
    codec: Codec,
    raw_bytes: u32,
    packed: &[u8],
) -> Option<FreshBlock<'_>> {
    (remembered && raw_bytes > 0).then_some(FreshBlock { raw_bytes, codec, packed })
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
    use crate::encoding::{HeldError, HeldKey};
    use crate::qemu::PageSlot;

    const CODECS: [CodecChoice; 3] = [CodecChoice::None, CodecChoice::Lz4, CodecChoice::Zstd(3)];

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
                let before_end = number % 2 == 0;
                let kept = if before_end { Kept::No } else { Kept::End };
                let (channel, in_tail) = (number as u8 % 3, !before_end);
                let place = Place { channel, before_end, in_tail, kept };
                let (mut taken, now) = (sent.clone(), Time(number as u64));
                let prepared = prepare.prepare(&mut taken, place, number % 5 != 4, now);
                let mut packed = pack.pack(prepared, CODECS[number % 3]).unwrap();
                let (header, came) = unpack.unpack(&mut packed.payload, Vec::new()).unwrap();
                assert_eq!(header.number, number as u64);
                let SegmentHeader { channel, before_end, in_tail, kept, .. } = header;
                assert_eq!(Place { channel, before_end, in_tail, kept }, place);
                assert_eq!(came, sent);
            }
            assert!(prepare.memory_bytes() > 0 || pages < 1000);
        }
    }

    struct Holder(Vec<u8>);

    impl HeldPages for Holder {
        fn append(&mut self, index: u32, out: &mut Vec<u8>) -> Result<(), HeldError> {
            let start = index as usize * PAGE_BYTES;
            let page = self.0.get(start..start + PAGE_BYTES).ok_or(HeldError::Unreadable)?;
            out.extend_from_slice(page);
            Ok(())
        }
    }

    #[test]
    fn what_is_held_does_not_travel_and_a_wrong_page_for_it_is_found() {
        let mut random = fastrand::Rng::with_seed(7);
        let sent = segment(&mut random);
        let key = HeldKey([5; 32]);
        let mut announced = AnnouncedPages::new(key);
        let hashes = sent.data.chunks(PAGE_BYTES).map(|page| key.hash(page));
        assert!(announced.add(hashes.collect::<Vec<_>>().into_iter()));
        let mut prepare = Preparer::new(limits_for(16));
        prepare.announce(Arc::new(announced));
        let packed = Packer::default()
            .pack(
                prepare.prepare(&mut sent.clone(), Place::default(), true, Time(0)),
                CodecChoice::None,
            )
            .unwrap();
        // A page that is written twice is looked up once.
        assert!(packed.classes.held > 5, "{:?}", packed.classes);
        let unpack_with = |pages: Vec<u8>| {
            let mut unpack = Unpacker::new(limits_for(16));
            unpack.announce(Box::new(Holder(pages)));
            unpack.unpack(&mut packed.payload.clone(), vec![3; 5000]).map(|(_, segment)| segment)
        };
        assert_eq!(unpack_with(sent.data.clone()).unwrap(), sent);
        let mut other = sent.data.clone();
        other.iter_mut().for_each(|byte| *byte ^= 1);
        assert!(matches!(unpack_with(other), Err(UnpackError::Checksum { .. })));
        assert!(matches!(unpack_with(Vec::new()), Err(UnpackError::Pages { .. })));
    }

    #[test]
    fn both_ends_see_the_same_whole_pages() {
        let mut random = fastrand::Rng::with_seed(8);
        let (mut prepare, mut pack) = (Preparer::new(limits_for(16)), Packer::default());
        let mut unpack = Unpacker::new(limits_for(16));
        for round in 0..20 {
            let (sent, remember) = (segment(&mut random), round % 4 != 3);
            let packed = pack
                .pack(
                    prepare.prepare(&mut sent.clone(), Place::default(), remember, Time(0)),
                    CODECS[round % 3],
                )
                .unwrap();
            let mut payload = packed.payload.clone();
            let (header, segment) = unpack.unpack(&mut payload, vec![1; 100]).unwrap();
            let here = packed.fresh_block();
            let there = unpack.fresh_block(&header, &payload, &segment);
            assert_eq!(here.is_some(), remember && packed.classes.fresh > 0);
            let parts = |block: Option<FreshBlock<'_>>| {
                block.map(|block| (block.raw_bytes, block.codec, block.packed.to_vec()))
            };
            assert!(parts(here) == parts(there));
            let Some(block) = here else { continue };
            let mut pages = Vec::new();
            Decoder::default()
                .decode(block.codec, block.packed, block.raw_bytes, &mut pages)
                .unwrap();
            assert_eq!(pages.len(), packed.classes.fresh as usize * PAGE_BYTES);
            let mut sent_pages = sent.data.chunks(PAGE_BYTES);
            assert!(pages.chunks(PAGE_BYTES).all(|page| sent_pages.any(|sent| sent == page)));
        }
    }

    #[test]
    fn without_differences_pages_come_whole_or_as_references() {
        let mut random = fastrand::Rng::with_seed(8);
        let segments: Vec<Segment> = (0..60).map(|_| segment(&mut random)).collect();
        let run = |delta: bool| {
            let mut prepare = Preparer::new(limits_for(1000))
                .with_options(&EncodingOptions { delta, ..EncodingOptions::default() });
            let (mut pack, mut unpack) = (Packer::default(), Unpacker::new(limits_for(1000)));
            let mut counts = PageCounts::default();
            for sent in &segments {
                let prepared = prepare.prepare(&mut sent.clone(), Place::default(), true, Time(0));
                let mut packed = pack.pack(prepared, CodecChoice::Lz4).unwrap();
                assert_eq!(unpack.unpack(&mut packed.payload, Vec::new()).unwrap().1, *sent);
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
            .pack(
                prepare.prepare(&mut sent.clone(), Place::default(), true, Time(0)),
                CodecChoice::None,
            )
            .unwrap()
            .payload;
        for _ in 0..400 {
            let mut changed = payload.clone();
            let mut at = random.usize(SEGMENT_HEADER_BYTES..changed.len());
            let bit = 1 << random.u8(..8);
            for piece in [&mut changed.head, &mut changed.fresh, &mut changed.tail] {
                piece.get_mut(at).into_iter().for_each(|byte| *byte ^= bit);
                at = at.wrapping_sub(piece.len());
            }
            assert_ne!(changed, payload);
            assert!(
                Unpacker::new(limits_for(16)).unpack(&mut changed, Vec::new()).is_err(),
                "bit {bit}"
            );
        }
    }
}

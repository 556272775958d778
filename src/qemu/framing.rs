//! Skeleton and slots of a segment in few bytes for the wire; the payloads travel apart.
//!
//! ```text
//! framing: skeleton length | page count | runs | skeleton
//! run:     pages, at least 1 | at of the first - at of the slot before | stride of at | block
//!          | for each page: number - number that would follow the page before, signed
//! ```
//! All numbers are variable-length: seven bits a byte, the low ones first; signed ones have their
//! sign in the lowest bit. Consecutive pages of a block cost a zero byte each, pages apart mostly
//! two, and what is left of that a compressor takes.

use super::segment::{PageSlot, Segment};
use crate::base::limits::{MAX_PAGES, MAX_SEGMENT_PAGES, MAX_SEGMENT_SKELETON_BYTES};

/// Bytes that are no framing of a segment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// The input ends early.
    #[error("the framing ends within {0}")]
    Truncated(&'static str),
    /// A number of more than 64 bits.
    #[error("{0} has more than 64 bits")]
    Number(&'static str),
    /// More skeleton than a segment may have.
    #[error("a skeleton of {0} bytes, the limit is {MAX_SEGMENT_SKELETON_BYTES}")]
    Skeleton(u64),
    /// More pages than a segment may have.
    #[error("{0} pages, the limit is {MAX_SEGMENT_PAGES}")]
    Pages(u64),
    /// A run that is empty or longer than what is left.
    #[error("a run of {pages} pages where 1 to {left} are due")]
    Run {
        /// Pages in the run.
        pages: u64,
        /// Pages not yet described.
        left: usize,
    },
    /// A slot behind the end of the skeleton.
    #[error("a page at {at} of a skeleton of {skeleton} bytes")]
    Position {
        /// The slot's place.
        at: u64,
        /// Length of the skeleton.
        skeleton: usize,
    },
    /// A block number of more than 16 bits.
    #[error("block {0}, the limit is 65535")]
    Block(u64),
    /// A page that no guest has.
    #[error("page {0}, the limit is {MAX_PAGES}")]
    Page(u64),
    /// Bytes are left over.
    #[error("{0} bytes too many behind the skeleton")]
    Trailing(usize),
}

impl Segment {
    /// Appends skeleton and slots.
    pub fn encode_framing(&self, out: &mut Vec<u8>) {
        put_number(out, self.skeleton.len() as u64);
        put_number(out, self.pages.len() as u64);
        let (mut rest, mut at, mut expected) = (&self.pages[..], 0, 0);
        while let Some(first) = rest.first() {
            let (run, stride) = leading_run(rest);
            put_number(out, run.len() as u64);
            put_number(out, first.at.wrapping_sub(at).into());
            put_number(out, stride.into());
            put_number(out, first.block.into());
            for slot in run {
                put_number(out, zigzag(slot.page.wrapping_sub(expected) as i64));
                (at, expected) = (slot.at, slot.page.wrapping_add(1));
            }
            rest = &rest[run.len()..];
        }
        out.extend_from_slice(&self.skeleton);
    }

    /// Reads skeleton and slots, which must be all of `bytes`; the payloads are left to fill in.
    ///
    /// # Errors
    /// Any number out of bounds, or bytes missing or left over. Nothing is allocated beyond the
    /// limits of a segment.
    pub fn decode_framing(bytes: &[u8]) -> Result<Self, FramingError> {
        let mut rest = bytes;
        let skeleton_bytes = number(&mut rest, "the skeleton's length")?;
        if skeleton_bytes > MAX_SEGMENT_SKELETON_BYTES as u64 {
            return Err(FramingError::Skeleton(skeleton_bytes));
        }
        let count = number(&mut rest, "the page count")?;
        if count > MAX_SEGMENT_PAGES as u64 {
            return Err(FramingError::Pages(count));
        }
        let pages = decode_slots(&mut rest, count as usize, skeleton_bytes as usize)?;
        match rest.len().checked_sub(skeleton_bytes as usize) {
            None => Err(FramingError::Truncated("the skeleton")),
            Some(0) => Ok(Self { skeleton: rest.to_vec(), pages, data: Vec::new() }),
            Some(left) => Err(FramingError::Trailing(left)),
        }
    }
}

/// The slots at the front that share their block and their distance in the skeleton.
fn leading_run(slots: &[PageSlot]) -> (&[PageSlot], u32) {
    let distance = |pair: &[PageSlot]| pair[1].at.wrapping_sub(pair[0].at);
    let mut pairs = slots.windows(2).take_while(|pair| pair[0].block == pair[1].block).peekable();
    let stride = pairs.peek().map_or(0, |pair| distance(pair));
    let alike = pairs.take_while(|pair| distance(pair) == stride).count();
    (&slots[..slots.len().min(alike + 1)], stride)
}

fn decode_slots(
    rest: &mut &[u8],
    count: usize,
    skeleton: usize,
) -> Result<Vec<PageSlot>, FramingError> {
    let mut pages = Vec::with_capacity(count);
    let (mut at, mut expected) = (0_u64, 0_u64);
    while pages.len() < count {
        let run = number(rest, "a run's length")?;
        let left = count - pages.len();
        if run == 0 || run > left as u64 {
            return Err(FramingError::Run { pages: run, left });
        }
        let mut step = number(rest, "a run's place")?;
        let stride = number(rest, "a run's stride")?;
        let block = number(rest, "a block number")?;
        let block = u16::try_from(block).map_err(|_| FramingError::Block(block))?;
        for _ in 0..run {
            at = at.saturating_add(step);
            if at > skeleton as u64 {
                return Err(FramingError::Position { at, skeleton });
            }
            let page = expected.wrapping_add(unzigzag(number(rest, "a page number")?) as u64);
            if page >= MAX_PAGES {
                return Err(FramingError::Page(page));
            }
            pages.push(PageSlot { at: at as u32, block, page });
            (expected, step) = (page + 1, stride);
        }
    }
    Ok(pages)
}

fn put_number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn number(rest: &mut &[u8], what: &'static str) -> Result<u64, FramingError> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, tail) = rest.split_first().ok_or(FramingError::Truncated(what))?;
        *rest = tail;
        let bits = u64::from(byte & 0x7f);
        if (bits << shift) >> shift != bits {
            return Err(FramingError::Number(what));
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(FramingError::Number(what))
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(segment: &Segment) -> Vec<u8> {
        let mut out = Vec::new();
        segment.encode_framing(&mut out);
        out
    }

    fn random_segment(random: &mut fastrand::Rng) -> Segment {
        let skeleton: Vec<u8> = (0..random.usize(..2000)).map(|_| random.u8(..)).collect();
        let mut at = 0;
        let count = random.u64(..=MAX_SEGMENT_PAGES as u64);
        let mut slot = |page| {
            at = (at + random.choice([0, 8, 8, 8, 40]).unwrap_or(0)).min(skeleton.len() as u32);
            let page = if random.bool() { page } else { random.u64(..MAX_PAGES) };
            PageSlot { at, block: random.u16(..3), page }
        };
        let pages = (0..count).map(&mut slot).collect();
        Segment { skeleton, pages, data: Vec::new() }
    }

    #[test]
    fn what_was_encoded_decodes() {
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..2000 {
            let segment = random_segment(&mut random);
            assert_eq!(Segment::decode_framing(&encoded(&segment)), Ok(segment));
        }
    }

    #[test]
    fn every_cut_and_every_extra_byte_is_refused() {
        let mut random = fastrand::Rng::with_seed(2);
        let bytes = encoded(&random_segment(&mut random));
        for end in 0..bytes.len() {
            assert!(Segment::decode_framing(&bytes[..end]).is_err(), "cut at {end}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(Segment::decode_framing(&longer), Err(FramingError::Trailing(1)));
    }

    #[test]
    fn consecutive_pages_cost_a_byte() {
        let slot =
            |index: u32| PageSlot { at: index * 8 + 8, block: 3, page: 70_000 + u64::from(index) };
        let segment =
            Segment { skeleton: vec![0; 2048], pages: (0..255).map(slot).collect(), data: vec![] };
        assert!(encoded(&segment).len() <= segment.skeleton.len() + 255 + 12);
    }

    #[test]
    fn numbers_out_of_bounds_are_named() {
        let decode = |numbers: &[u64]| {
            let mut bytes = Vec::new();
            numbers.iter().for_each(|value| put_number(&mut bytes, *value));
            Segment::decode_framing(&bytes).unwrap_err()
        };
        let over = MAX_SEGMENT_SKELETON_BYTES as u64 + 1;
        assert_eq!(decode(&[over]), FramingError::Skeleton(over));
        assert_eq!(decode(&[0, 1 << 40]), FramingError::Pages(1 << 40));
        assert_eq!(decode(&[0, 2, 0]), FramingError::Run { pages: 0, left: 2 });
        assert_eq!(decode(&[0, 2, 3]), FramingError::Run { pages: 3, left: 2 });
        assert_eq!(decode(&[4, 1, 1, 5, 0, 0]), FramingError::Position { at: 5, skeleton: 4 });
        let wrapped = FramingError::Position { at: u64::MAX, skeleton: 4 };
        assert_eq!(decode(&[4, 2, 2, 4, u64::MAX, 0, 0]), wrapped);
        assert_eq!(decode(&[4, 1, 1, 4, 0, 1 << 16]), FramingError::Block(1 << 16));
        assert_eq!(decode(&[4, 1, 1, 4, 0, 0, MAX_PAGES * 2]), FramingError::Page(MAX_PAGES));
        assert_eq!(decode(&[4, 1, 1, 4, 0, 0, 1]), FramingError::Page(u64::MAX));
    }

    #[test]
    fn a_number_ends_within_64_bits() {
        let endless = [0xff; 11];
        let error = Segment::decode_framing(&endless).unwrap_err();
        assert_eq!(error.to_string(), "the skeleton's length has more than 64 bits");
    }
}

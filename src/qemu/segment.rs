//! A run of one channel's bytes: page payloads apart, everything else as it came.

/// Length of a page payload: the page of an x86 guest.
pub const PAGE_BYTES: usize = 4096;

/// Consecutive bytes of a channel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// The stream's bytes without page payloads.
    pub skeleton: Vec<u8>,
    /// Where payloads go, in the order of the stream.
    pub pages: Vec<PageSlot>,
    /// The payloads, [`PAGE_BYTES`] each, in the same order; empty until they are filled in after
    /// [`Segment::decode_framing`].
    pub data: Vec<u8>,
}

/// The place of one page payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageSlot {
    /// How many bytes of the skeleton come before it.
    pub at: u32,
    /// Number of the RAM block, in the order in which this channel named them.
    pub block: u16,
    /// Number of the page within the block.
    pub page: u64,
}

impl Segment {
    /// Length of the stretch of stream that this is, payloads included.
    pub fn stream_bytes(&self) -> usize {
        self.skeleton.len() + self.pages.len() * PAGE_BYTES
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.skeleton.is_empty() && self.pages.is_empty()
    }

    /// Whether every slot has its payload; only then [`Segment::pieces`] is the stream.
    pub fn is_filled(&self) -> bool {
        self.data.len() == self.pages.len() * PAGE_BYTES
    }

    /// Empties it and keeps its memory.
    pub fn clear(&mut self) {
        self.skeleton.clear();
        self.pages.clear();
        self.data.clear();
    }

    /// The payload of the slot with this number.
    pub fn payload(&self, slot: usize) -> Option<&[u8]> {
        self.data.chunks_exact(PAGE_BYTES).nth(slot)
    }

    /// The stream's bytes, in order: skeleton and payloads by turns, neighbouring payloads as one.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        Pieces { segment: self, written: 0, slot: 0 }
    }

    /// Appends the stream's bytes.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        out.reserve(self.stream_bytes());
        self.pieces().for_each(|piece| out.extend_from_slice(piece));
    }

    /// Appends a payload at the skeleton's end.
    pub(super) fn push_page(&mut self, block: u16, page: u64, payload: &[u8]) {
        self.pages.push(PageSlot { at: self.skeleton.len() as u32, block, page });
        self.data.extend_from_slice(payload);
    }
}

struct Pieces<'a> {
    segment: &'a Segment,
    /// Bytes of the skeleton handed out.
    written: usize,
    /// Slots handed out.
    slot: usize,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let Segment { skeleton, pages, data } = self.segment;
        let end = pages.get(self.slot).map_or(skeleton.len(), |slot| slot.at as usize);
        let (from, end) = (self.written, end.min(skeleton.len()));
        if end > from {
            self.written = end;
            return Some(&skeleton[from..end]);
        }
        let here = pages[self.slot..].iter().take_while(|slot| slot.at as usize <= end).count();
        // A slot behind the skeleton's end would else never be due.
        let run = here.max(usize::from(self.slot < pages.len()));
        let range = self.slot * PAGE_BYTES..(self.slot + run) * PAGE_BYTES;
        self.slot += run;
        if run == 0 { None } else { Some(data.get(range).unwrap_or(&[])) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(at: u32) -> PageSlot {
        PageSlot { at, block: 0, page: at.into() }
    }

    #[test]
    fn pieces_alternate_and_neighbouring_payloads_are_one() {
        let data = [vec![1; PAGE_BYTES], vec![2; PAGE_BYTES], vec![3; PAGE_BYTES]].concat();
        let pages = vec![slot(0), slot(2), slot(2)];
        let segment = Segment { skeleton: b"abc".to_vec(), pages, data: data.clone() };
        let pieces: Vec<&[u8]> = segment.pieces().collect();
        assert_eq!(pieces, [&data[..PAGE_BYTES], b"ab", &data[PAGE_BYTES..], b"c"]);
        assert_eq!(segment.stream_bytes(), 3 + 3 * PAGE_BYTES);
        assert_eq!(segment.payload(1), Some(&[2; PAGE_BYTES][..]));
        assert!(segment.is_filled());
    }

    #[test]
    fn slots_out_of_bounds_and_missing_data_do_not_panic() {
        let segment = Segment { skeleton: vec![9], pages: vec![slot(7), slot(0)], data: vec![] };
        assert!(!segment.is_filled());
        assert!(segment.pieces().count() < 5);
    }

    #[test]
    fn an_empty_segment_has_no_piece() {
        assert_eq!(Segment::default().pieces().count(), 0);
        assert!(Segment::default().is_empty());
    }
}

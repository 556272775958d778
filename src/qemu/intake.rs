//! How bytes in portions of any size become fields, pages and passed-on stretches; shared by the
//! parsers.
//!
//! Every byte that is taken goes to the skeleton or to a payload, in order, whatever the grammar
//! above makes of it: this file alone decides that a segment is the stream.

use super::segment::{PAGE_BYTES, Segment};
use crate::base::limits::{MAX_SEGMENT_PAGES, MAX_SEGMENT_SKELETON_BYTES};

/// Where a segment is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentLimits {
    /// Most pages.
    pub pages: usize,
    /// Most bytes of skeleton.
    pub skeleton_bytes: usize,
}

impl Default for SegmentLimits {
    /// As much as the wire takes, less the piece of a page that the end of a stream may leave.
    fn default() -> Self {
        let skeleton_bytes = MAX_SEGMENT_SKELETON_BYTES - PAGE_BYTES;
        Self { pages: MAX_SEGMENT_PAGES, skeleton_bytes }
    }
}

/// What a grammar needs to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// So many bytes at once, at least one, to be looked at.
    Field(usize),
    /// The payload of a page.
    Page {
        /// Number of its block.
        block: u16,
        /// Its number in the block.
        page: u64,
    },
    /// Up to so many bytes that need no look.
    Pass(u64),
}

/// The order of a stream's parts.
pub(super) trait Grammar {
    /// What comes next.
    fn want(&self) -> Want;
    /// The field that was wanted.
    fn on_field(&mut self, field: &[u8]);
    /// The page that was wanted is complete.
    fn on_page(&mut self);
    /// So many of the bytes that need no look went by.
    fn on_passed(&mut self, bytes: u64);
    /// Whether a segment should end here; true once.
    fn ends_segment(&mut self) -> bool {
        false
    }
}

/// What is kept between two portions: the beginning of one field, or of one page.
#[derive(Debug, Default)]
pub(super) struct Intake {
    limits: SegmentLimits,
    /// Already in the skeleton; kept to be understood.
    field: Vec<u8>,
    /// In no segment yet.
    page: Vec<u8>,
}

impl Intake {
    pub fn new(limits: SegmentLimits) -> Self {
        let most = SegmentLimits::default();
        let limits = SegmentLimits {
            pages: limits.pages.clamp(1, most.pages),
            skeleton_bytes: limits.skeleton_bytes.clamp(1, most.skeleton_bytes),
        };
        Self { limits, ..Self::default() }
    }

    /// Takes of `bytes` what fits into `out`; says how much that was.
    pub fn feed(&mut self, grammar: &mut impl Grammar, bytes: &[u8], out: &mut Segment) -> usize {
        let mut rest = bytes;
        while !rest.is_empty() && self.has_room(out) {
            let taken = match grammar.want() {
                Want::Field(length) => self.take_field(grammar, length, rest, out),
                Want::Page { block, page } => self.take_page(grammar, block, page, rest, out),
                Want::Pass(most) => self.pass(grammar, most, rest, out),
            };
            rest = &rest[taken..];
            if grammar.ends_segment() {
                break;
            }
        }
        bytes.len() - rest.len()
    }

    /// At the end of the stream: the beginning of a page becomes skeleton.
    pub fn finish(&mut self, out: &mut Segment) {
        out.skeleton.append(&mut self.page);
        self.field.clear();
    }

    fn has_room(&self, out: &Segment) -> bool {
        out.pages.len() < self.limits.pages && self.skeleton_room(out) > 0
    }

    fn skeleton_room(&self, out: &Segment) -> usize {
        self.limits.skeleton_bytes.saturating_sub(out.skeleton.len())
    }

    fn take_field(
        &mut self,
        grammar: &mut impl Grammar,
        length: usize,
        rest: &[u8],
        out: &mut Segment,
    ) -> usize {
        let missing = length.saturating_sub(self.field.len());
        let taken = &rest[..rest.len().min(missing).min(self.skeleton_room(out))];
        out.skeleton.extend_from_slice(taken);
        if taken.len() == length {
            grammar.on_field(taken);
            return taken.len();
        }
        self.field.extend_from_slice(taken);
        if self.field.len() == length {
            grammar.on_field(&self.field);
            self.field.clear();
        }
        taken.len()
    }

    fn take_page(
        &mut self,
        grammar: &mut impl Grammar,
        block: u16,
        page: u64,
        rest: &[u8],
        out: &mut Segment,
    ) -> usize {
        let taken = &rest[..rest.len().min(PAGE_BYTES - self.page.len())];
        if taken.len() == PAGE_BYTES {
            out.push_page(block, page, taken);
            grammar.on_page();
            return taken.len();
        }
        self.page.extend_from_slice(taken);
        if self.page.len() == PAGE_BYTES {
            out.push_page(block, page, &self.page);
            self.page.clear();
            grammar.on_page();
        }
        taken.len()
    }

    fn pass(
        &mut self,
        grammar: &mut impl Grammar,
        most: u64,
        rest: &[u8],
        out: &mut Segment,
    ) -> usize {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let taken = rest.len().min(most).min(self.skeleton_room(out));
        out.skeleton.extend_from_slice(&rest[..taken]);
        grammar.on_passed(taken as u64);
        taken
    }
}

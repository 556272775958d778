//! Segments of pages as references to pages sent before, differences from them, and fresh bytes.
//!
//! Both ends hold the same [`BaselineCache`] and take the pages of every segment in the same order:
//!
//! * zero: nothing travels, and the cache stays as it is;
//! * duplicate: the slot of an equal page, found by its hash and then compared byte by byte;
//! * delta: the XOR with what was last sent for the same key, among others of its kind in one block,
//!   which compresses far better than the page;
//! * fresh: the page, in another block;
//! * held: the place of a page in what the decoder's side announced beforehand, see
//!   [`crate::encoding::held`].
//!
//! The classes of a segment are a byte of flags (1: its pages enter the caches; 2: it has held
//! pages), then runs of pages (a number: run length less one, times four or with held pages eight,
//! plus the class), then for each page in order the slot of a duplicate, or the place of a held one
//! as its distance from the place after the held page before it (zigzag, the first from 0). Numbers
//! have seven bits to a byte, low ones first, in the fewest bytes.
//!
//! Caches that differ, by a defect or a flipped bit, give wrong pages and no error here. The caller
//! checks the segment's checksum over its raw pages, and after a mismatch or an error both ends
//! clear their caches.

use crate::base::Time;
use crate::encoding::baseline::{BaselineCache, BaselineLimits, PAGE_BYTES, PageKey, map_bytes};
use crate::encoding::chains::DeltaChains;
use crate::encoding::digest::page_hash;
use crate::encoding::held::{AnnouncedPages, HeldError, HeldPages};
use crate::encoding::zero::is_zero;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Pages of one segment.
pub const MAX_SEGMENT_PAGES: usize = 256;

/// What an encoder may use. With neither, the caches are left alone and cost nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HybridOptions {
    /// Differences from the version that was sent last.
    pub delta: bool,
    /// References to equal pages.
    pub duplicates: bool,
    /// References to what the decoder's side announced, if it did.
    pub held: bool,
}

/// How a page travels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum PageClass {
    /// Not at all.
    Zero = 0,
    /// As the slot of an equal page.
    Duplicate = 1,
    /// As the XOR with its baseline.
    Delta = 2,
    /// As it is.
    Fresh = 3,
    /// As its place among the announced pages.
    Held = 4,
}

/// One segment, encoded. `fresh` and `delta` are for a codec each, `classes` goes as it is.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct EncodedPages {
    /// Classes and references.
    pub classes: Vec<u8>,
    /// Whole pages.
    pub fresh: Vec<u8>,
    /// XORed pages.
    pub delta: Vec<u8>,
    /// What the pages became.
    pub counts: ClassCounts,
}

/// Pages by class.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct ClassCounts {
    /// Zero pages.
    pub zero: u32,
    /// Duplicates.
    pub duplicate: u32,
    /// Deltas.
    pub delta: u32,
    /// Fresh pages.
    pub fresh: u32,
    /// Held pages.
    pub held: u32,
    /// Pages that are not zero and whose key had a baseline, whatever they became.
    pub with_baseline: u32,
}

/// Encodes segments, one after the other.
pub struct PageEncoder {
    cache: BaselineCache,
    index: ContentIndex,
    chains: DeltaChains,
    hash: fn(&[u8]) -> u64,
    classes: Vec<PageClass>,
    /// Slots and places, as they are written.
    references: Vec<u32>,
    announced: Option<Arc<AnnouncedPages>>,
    /// The place after that of the last held page of this segment.
    next_held: u32,
}

/// Decodes segments in the order in which they were encoded.
pub struct PageDecoder {
    cache: BaselineCache,
    classes: Vec<PageClass>,
    held: Option<Box<dyn HeldPages>>,
}

/// Why a segment was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeHybridError {
    /// More pages than a segment may have.
    #[error("segment of {0} pages, the limit is {MAX_SEGMENT_PAGES}")]
    TooManyPages(usize),
    /// The classes begin with an unknown byte.
    #[error("segment mode is {0}, allowed is 0 to 3 (1: baselines, 2: held pages)")]
    Mode(u8),
    /// The classes end early.
    #[error("classes end after {0} bytes, within a number")]
    ClassesEnd(usize),
    /// A number over 32 bits, or one that is padded.
    #[error("number at byte {0} of the classes is over 32 bits or longer than it need be")]
    Number(usize),
    /// A run reaches beyond the segment.
    #[error("run of {run_pages} pages where {left_pages} are left")]
    Run {
        /// The run's length.
        run_pages: u32,
        /// Pages without a class.
        left_pages: usize,
    },
    /// A class that does not exist.
    #[error("class {0} is none of: 0 (zero), 1 (duplicate), 2 (delta), 3 (fresh), 4 (held)")]
    Class(u32),
    /// A page from what this side announced.
    #[error("page {key:?} is number {index} of the announced ones: {source}")]
    Held {
        /// The page.
        key: PageKey,
        /// Its place.
        index: u32,
        /// Why not.
        source: HeldError,
    },
    /// A reference in a segment that keeps out of the caches.
    #[error("page {0:?} refers to a baseline in a segment without baselines")]
    NoBaselines(PageKey),
    /// A slot that no key holds.
    #[error("page {key:?} is a duplicate of slot {slot}, which holds none")]
    Slot {
        /// The page.
        key: PageKey,
        /// The slot.
        slot: u32,
    },
    /// A difference from nothing.
    #[error("page {0:?} is a delta without a baseline")]
    NoBaseline(PageKey),
    /// A block ends early.
    #[error("{block} block of {length} bytes ends within page {key:?}")]
    BlockEnd {
        /// Which block.
        block: &'static str,
        /// Its length.
        length: usize,
        /// The page that needs more.
        key: PageKey,
    },
    /// Bytes are left over.
    #[error("{left} bytes too many in the {block} block")]
    Trailing {
        /// Which block.
        block: &'static str,
        /// Bytes left over.
        left: usize,
    },
}

impl PageEncoder {
    /// An encoder whose cache is empty, as its decoder's must be.
    pub fn new(limits: BaselineLimits) -> Self {
        Self {
            cache: BaselineCache::new(limits),
            index: ContentIndex::default(),
            chains: DeltaChains::default(),
            hash: page_hash,
            classes: Vec::new(),
            references: Vec::new(),
            announced: None,
            next_held: 0,
        }
    }

    /// The same; a page that was sent as differences alone for so long is sent whole once more.
    pub fn with_refresh(mut self, interval: Duration) -> Self {
        self.chains = DeltaChains::limited_to(interval);
        self
    }

    /// What time it is, as far as that matters here.
    pub fn set_time(&mut self, now: Time) {
        self.chains.set_time(now);
    }

    /// What the decoder's side announced; from now on pages may refer to it.
    pub fn announce(&mut self, pages: Arc<AnnouncedPages>) {
        self.announced = Some(pages).filter(|pages| !pages.is_empty());
    }

    /// The pages of all baselines, each once.
    pub fn pages(&self) -> impl Iterator<Item = &[u8]> {
        self.cache.pages()
    }

    /// Encodes a segment into `out`, whose former content is lost; `data` is empty then, because whole
    /// pages stay where they are and change hands with it.
    ///
    /// `data` has [`PAGE_BYTES`] for each key, and there are at most [`MAX_SEGMENT_PAGES`] keys.
    pub fn encode(
        &mut self,
        keys: &[PageKey],
        data: &mut Vec<u8>,
        options: HybridOptions,
        out: &mut EncodedPages,
    ) {
        debug_assert!(keys.len() <= MAX_SEGMENT_PAGES, "{} pages", keys.len());
        debug_assert_eq!(data.len(), keys.len() * PAGE_BYTES);
        out.clear();
        self.classes.clear();
        self.references.clear();
        self.next_held = 0;
        let mut fresh_end = 0;
        for (key, start) in keys.iter().zip((0..data.len()).step_by(PAGE_BYTES)) {
            let page = start..start + PAGE_BYTES;
            let class = self.classify(*key, &data[page.clone()], options, out);
            *out.counts.of(class) += 1;
            self.classes.push(class);
            if class == PageClass::Fresh {
                if fresh_end < start {
                    data.copy_within(page, fresh_end);
                }
                fresh_end += PAGE_BYTES;
            }
        }
        data.truncate(fresh_end);
        std::mem::swap(data, &mut out.fresh);
        let has_held = out.counts.held > 0;
        let bits = class_bits(has_held);
        out.classes.push(u8::from(options.keeps_baselines()) | u8::from(has_held) << 1);
        for run in self.classes.chunk_by(|class, next| class == next) {
            put_number(&mut out.classes, (run.len() as u32 - 1) << bits | run[0] as u32);
        }
        self.references.iter().for_each(|number| put_number(&mut out.classes, *number));
    }

    /// Forgets all baselines; the decoder must do so at the same point.
    pub fn clear(&mut self) {
        self.cache.clear();
        self.index = ContentIndex::default();
        self.chains.clear();
    }

    /// Memory held by baselines, their indexes and what was announced.
    pub fn memory_bytes(&self) -> u64 {
        let announced = self.announced.as_ref().map_or(0, |announced| announced.memory_bytes());
        let indexes = self.index.memory_bytes() + self.chains.memory_bytes();
        self.cache.memory_bytes() + indexes + announced
    }

    /// Keys that have a baseline.
    pub fn baselines(&self) -> usize {
        self.cache.len()
    }

    /// Hashes the baselines of some slots again: how many have a hash to be compared with, and how
    /// many differ from it, as after a defect of the memory. None: there are no such slots.
    pub fn verify(&self, slots: Range<usize>) -> Option<(u64, u64)> {
        let end = slots.end.min(self.index.hashes.len());
        let hashes = self.index.hashes.get(slots.start..end).filter(|some| !some.is_empty())?;
        let held = hashes.iter().zip(slots.start as u32..);
        let held = held.filter_map(|(hash, slot)| Some((*hash, self.cache.page(slot)?)));
        Some(held.fold((0, 0), |(checked, differing), (hash, page)| {
            (checked + 1, differing + u64::from((self.hash)(page) != hash))
        }))
    }

    fn classify(
        &mut self,
        key: PageKey,
        page: &[u8],
        options: HybridOptions,
        out: &mut EncodedPages,
    ) -> PageClass {
        if is_zero(page) {
            return PageClass::Zero;
        }
        let baseline = self.cache.slot_of(key);
        if !options.keeps_baselines() {
            if self.refer_to_held(baseline, page, options) {
                return PageClass::Held;
            }
            return PageClass::Fresh;
        }
        out.counts.with_baseline += u32::from(baseline.is_some());
        let hash = options.duplicates.then(|| (self.hash)(page));
        if let Some(slot) = hash.and_then(|hash| self.equal_page(hash, page)) {
            self.cache.share(key, slot);
            self.references.push(slot);
            return PageClass::Duplicate;
        }
        let held = self.refer_to_held(baseline, page, options);
        let growing = baseline.filter(|slot| options.delta && self.chains.may_grow(*slot));
        let class = match growing.and_then(|slot| self.cache.page(slot)) {
            _ if held => PageClass::Held,
            Some(old) if delta_pays(old, page) => {
                out.delta.extend_from_slice(page);
                xor_onto_last_page(&mut out.delta, old);
                PageClass::Delta
            }
            _ => PageClass::Fresh,
        };
        let is_delta = class == PageClass::Delta;
        let since_s = growing.filter(|_| is_delta).map(|slot| self.chains.grown(slot));
        if let Some(slot) = self.cache.store(key, page) {
            self.chains.put(slot, since_s);
            hash.into_iter().for_each(|hash| self.index.put(slot, hash));
        }
        class
    }

    /// Refers to an announced page, if there is one. What was sent before in this migration has been
    /// written since, so it is not looked up.
    fn refer_to_held(
        &mut self,
        baseline: Option<u32>,
        page: &[u8],
        options: HybridOptions,
    ) -> bool {
        let announced = self.announced.as_ref().filter(|_| options.held && baseline.is_none());
        let Some(index) = announced.and_then(|announced| announced.find(page)) else {
            return false;
        };
        let distance = index.wrapping_sub(self.next_held) as i32;
        self.references.push((distance << 1 ^ distance >> 31) as u32);
        self.next_held = index + 1;
        true
    }

    /// The slot of a page with this hash that is also equal to `page`.
    fn equal_page(&self, hash: u64, page: &[u8]) -> Option<u32> {
        let slot = self.index.find(hash)?;
        (self.cache.page(slot)? == page).then_some(slot)
    }
}

impl PageDecoder {
    /// A decoder whose cache is empty, as its encoder's must be, with the same limits.
    pub fn new(limits: BaselineLimits) -> Self {
        Self { cache: BaselineCache::new(limits), classes: Vec::new(), held: None }
    }

    /// What this side announced.
    pub fn announce(&mut self, pages: Box<dyn HeldPages>) {
        self.held = Some(pages);
    }

    /// The pages of all baselines, each once.
    pub fn pages(&self) -> impl Iterator<Item = &[u8]> {
        self.cache.pages()
    }

    /// Decodes a segment into `out`, whose former content is lost. If all its pages are whole, `fresh`
    /// and `out` change places and nothing is copied; true then.
    ///
    /// # Errors
    /// [`DecodeHybridError`] for bytes that no encoder with the same cache writes. The cache is then
    /// out of step: the caller clears both ends.
    pub fn decode(
        &mut self,
        keys: &[PageKey],
        classes: &[u8],
        fresh: &mut Vec<u8>,
        delta: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<bool, DecodeHybridError> {
        out.clear();
        if keys.len() > MAX_SEGMENT_PAGES {
            return Err(DecodeHybridError::TooManyPages(keys.len()));
        }
        let mut input = Input {
            classes: Numbers { bytes: classes, at: 0 },
            fresh: Block { name: "fresh", bytes: fresh, at: 0 },
            delta: Block { name: "delta", bytes: delta, at: 0 },
            keeps_baselines: false,
            next_held: 0,
        };
        let mode = input.classes.mode()?;
        input.keeps_baselines = mode & 1 != 0;
        input.classes.runs(keys.len(), class_bits(mode & 2 != 0), &mut self.classes)?;
        if !keys.is_empty() && self.classes.iter().all(|class| *class == PageClass::Fresh) {
            for key in keys {
                let page = input.fresh.page(*key)?;
                if input.keeps_baselines {
                    self.cache.store(*key, page);
                }
            }
            input.end()?;
            std::mem::swap(fresh, out);
            return Ok(true);
        }
        out.reserve(keys.len() * PAGE_BYTES);
        for (at, key) in keys.iter().enumerate() {
            self.decode_page(*key, self.classes[at], &mut input, out)?;
        }
        input.end().map(|()| false)
    }

    /// Forgets all baselines; the encoder must do so at the same point.
    pub fn clear(&mut self) {
        self.cache.clear();
    }

    /// Memory held by baselines and their index.
    pub fn memory_bytes(&self) -> u64 {
        self.cache.memory_bytes()
    }

    /// Keys that have a baseline.
    pub fn baselines(&self) -> usize {
        self.cache.len()
    }

    fn decode_page(
        &mut self,
        key: PageKey,
        class: PageClass,
        input: &mut Input,
        out: &mut Vec<u8>,
    ) -> Result<(), DecodeHybridError> {
        let start = out.len();
        match class {
            PageClass::Zero => {
                out.resize(start + PAGE_BYTES, 0);
                return Ok(());
            }
            PageClass::Fresh => out.extend_from_slice(input.fresh.page(key)?),
            PageClass::Held => self.append_held(key, input.held_index()?, out)?,
            _ if !input.keeps_baselines => return Err(DecodeHybridError::NoBaselines(key)),
            PageClass::Duplicate => {
                let slot = input.classes.next()?;
                let page = self.cache.page(slot).ok_or(DecodeHybridError::Slot { key, slot })?;
                out.extend_from_slice(page);
                self.cache.share(key, slot);
                return Ok(());
            }
            PageClass::Delta => {
                let slot = self.cache.slot_of(key).ok_or(DecodeHybridError::NoBaseline(key))?;
                let old = self.cache.page(slot).ok_or(DecodeHybridError::NoBaseline(key))?;
                out.extend_from_slice(input.delta.page(key)?);
                xor_onto_last_page(out, old);
            }
        }
        if input.keeps_baselines {
            self.cache.store(key, &out[start..]);
        }
        Ok(())
    }
}

impl PageDecoder {
    fn append_held(
        &mut self,
        key: PageKey,
        index: u32,
        out: &mut Vec<u8>,
    ) -> Result<(), DecodeHybridError> {
        let appended = match &mut self.held {
            Some(held) => held.append(index, out),
            None => Err(HeldError::Unknown(0)),
        };
        appended.map_err(|source| DecodeHybridError::Held { key, index, source })
    }
}

impl HybridOptions {
    fn keeps_baselines(self) -> bool {
        self.delta || self.duplicates
    }
}

impl EncodedPages {
    fn clear(&mut self) {
        [&mut self.classes, &mut self.fresh, &mut self.delta].into_iter().for_each(Vec::clear);
        self.counts = ClassCounts::default();
    }
}

impl ClassCounts {
    /// All pages.
    pub fn pages(&self) -> u32 {
        self.zero + self.duplicate + self.delta + self.fresh + self.held
    }

    fn of(&mut self, class: PageClass) -> &mut u32 {
        match class {
            PageClass::Zero => &mut self.zero,
            PageClass::Duplicate => &mut self.duplicate,
            PageClass::Delta => &mut self.delta,
            PageClass::Fresh => &mut self.fresh,
            PageClass::Held => &mut self.held,
        }
    }
}

/// Which slot may hold a page with a given hash. Only encoders have it.
///
/// The cache does not tell when a slot is freed: a number goes stale until its slot is filled again,
/// and whoever follows it compares pages anyway. So there is at most one number for each slot.
#[derive(Default)]
struct ContentIndex {
    slots: HashMap<u64, u32>,
    hashes: Vec<u64>,
}

impl ContentIndex {
    fn find(&self, hash: u64) -> Option<u32> {
        self.slots.get(&hash).copied()
    }

    fn put(&mut self, slot: u32, hash: u64) {
        let at = slot as usize;
        if self.hashes.len() <= at {
            self.hashes.resize(at + 1, hash);
        }
        let old = std::mem::replace(&mut self.hashes[at], hash);
        if old != hash && self.slots.get(&old) == Some(&slot) {
            self.slots.remove(&old);
        }
        self.slots.insert(hash, slot);
    }

    fn memory_bytes(&self) -> u64 {
        map_bytes(&self.slots) + (self.hashes.capacity() * size_of::<u64>()) as u64
    }
}

/// The parts of a segment, taken from the front.
struct Input<'a> {
    classes: Numbers<'a>,
    fresh: Block<'a>,
    delta: Block<'a>,
    keeps_baselines: bool,
    /// The place after that of the last held page.
    next_held: u32,
}

impl Input<'_> {
    fn held_index(&mut self) -> Result<u32, DecodeHybridError> {
        let number = self.classes.next()?;
        let distance = number >> 1 ^ (number & 1).wrapping_neg();
        let index = self.next_held.wrapping_add(distance);
        self.next_held = index.wrapping_add(1);
        Ok(index)
    }

    fn end(self) -> Result<(), DecodeHybridError> {
        let classes_left = self.classes.bytes.len() - self.classes.at;
        let left = [("classes", classes_left), self.fresh.left(), self.delta.left()];
        match left.into_iter().find(|(_, left)| *left > 0) {
            Some((block, left)) => Err(DecodeHybridError::Trailing { block, left }),
            None => Ok(()),
        }
    }
}

struct Block<'a> {
    name: &'static str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Block<'a> {
    fn page(&mut self, key: PageKey) -> Result<&'a [u8], DecodeHybridError> {
        let (block, length) = (self.name, self.bytes.len());
        let page = self.bytes.get(self.at..self.at + PAGE_BYTES);
        self.at += PAGE_BYTES;
        page.ok_or(DecodeHybridError::BlockEnd { block, length, key })
    }

    fn left(&self) -> (&'static str, usize) {
        (self.name, self.bytes.len() - self.at)
    }
}

struct Numbers<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Numbers<'_> {
    fn mode(&mut self) -> Result<u8, DecodeHybridError> {
        match self.byte()? {
            mode @ 0..=3 => Ok(mode),
            other => Err(DecodeHybridError::Mode(other)),
        }
    }

    fn runs(
        &mut self,
        pages: usize,
        bits: u32,
        classes: &mut Vec<PageClass>,
    ) -> Result<(), DecodeHybridError> {
        classes.clear();
        while classes.len() < pages {
            let number = self.next()?;
            let (run_pages, left_pages) = ((number >> bits) + 1, pages - classes.len());
            if run_pages as usize > left_pages {
                return Err(DecodeHybridError::Run { run_pages, left_pages });
            }
            let number = number & ((1 << bits) - 1);
            let class = CLASSES.get(number as usize).ok_or(DecodeHybridError::Class(number))?;
            classes.resize(classes.len() + run_pages as usize, *class);
        }
        Ok(())
    }

    fn next(&mut self) -> Result<u32, DecodeHybridError> {
        let start = self.at;
        let mut number = 0_u64;
        for shift in (0..u32::BITS).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                let padded = byte == 0 && shift > 0;
                return u32::try_from(number)
                    .ok()
                    .filter(|_| !padded)
                    .ok_or(DecodeHybridError::Number(start));
            }
        }
        Err(DecodeHybridError::Number(start))
    }

    fn byte(&mut self) -> Result<u8, DecodeHybridError> {
        let byte = self.bytes.get(self.at).ok_or(DecodeHybridError::ClassesEnd(self.at))?;
        self.at += 1;
        Ok(*byte)
    }
}

/// Whether the pages of a segment with these classes enter the caches.
pub fn is_remembered(classes: &[u8]) -> bool {
    classes.first().is_some_and(|flags| flags & 1 != 0)
}

/// Low bits of a run's number that are its class.
fn class_bits(has_held: bool) -> u32 {
    if has_held { 3 } else { 2 }
}

fn put_number(out: &mut Vec<u8>, mut number: u32) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Whether the XOR of the two is sure to be far cheaper than the new page; see [`MAX_CHANGED_BYTES`].
fn delta_pays(old: &[u8], new: &[u8]) -> bool {
    let mut changed = 0;
    let blocks = old.chunks(COUNTED_BYTES).zip(new.chunks(COUNTED_BYTES));
    blocks.into_iter().all(|(old, new)| {
        changed += changed_bytes(old, new);
        changed <= MAX_CHANGED_BYTES
    })
}

/// Counts in bytes, so that a register holds as many counters as it has bytes.
fn changed_bytes(old: &[u8], new: &[u8]) -> usize {
    let changed = |sum: u8, (old, new): (&u8, &u8)| sum.wrapping_add(u8::from(old != new));
    usize::from(old.iter().zip(new).fold(0, changed))
}

/// XORs a page onto the last one of `bytes`, word by word.
fn xor_onto_last_page(bytes: &mut [u8], page: &[u8]) {
    let start = bytes.len() - PAGE_BYTES;
    let (words, _) = bytes[start..].as_chunks_mut::<8>();
    for (word, other) in words.iter_mut().zip(page.as_chunks::<8>().0) {
        *word = (u64::from_ne_bytes(*word) ^ u64::from_ne_bytes(*other)).to_ne_bytes();
    }
}

const CLASSES: [PageClass; 5] =
    [PageClass::Zero, PageClass::Duplicate, PageClass::Delta, PageClass::Fresh, PageClass::Held];
/// Bytes compared between two looks at the sum; a counter of one byte must hold them.
const COUNTED_BYTES: usize = 128;
/// A delta may have so many bytes that are not zero, wherever they are.
///
/// A delta should cost under half of what its page would. Packed by zstd -1 in blocks of 64 KiB, one
/// with about 700 changed bytes costs 0.44 to 0.53 of a page of JSON, 0.35 to 0.5 of one of pointers
/// and small numbers, 0.2 to 0.4 of a random one; with 900 it is up to 0.58. The bytes predict this
/// better than changed lines do: one byte changed in each of 64 lines costs an eighth of a page.
const MAX_CHANGED_BYTES: usize = PAGE_BYTES * 3 / 16;

#[cfg(test)]
#[path = "hybrid_tests.rs"]
mod tests;

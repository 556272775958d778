//! The bounded cache of pages that both ends of a hybrid encoding hold: what was last sent for each
//! key, to refer to instead of sending it again.
//!
//! Encoder and decoder call [`BaselineCache::store`] and [`BaselineCache::share`] for the same keys
//! in the same order, and so agree on every slot number and every eviction: the key that was written
//! longest ago goes first, slots are given out by counting and by a stack of free ones, and the maps
//! are only looked up, never walked. Capacity is a number of pages that follows from the limits
//! alone, never from what an allocator did.
//!
//! A full cache takes a key in only when it comes for the second time. A first pass over a memory
//! larger than the cache would else evict each page before it is needed again; what comes twice is
//! what the guest writes.

use std::collections::HashMap;
use std::ops::Range;

/// Bytes of every page here.
pub const PAGE_BYTES: usize = 4096;

/// What a page is known by: a block of guest memory, or one of its disks, and a page of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PageKey {
    /// The block.
    pub block: u16,
    /// The page within it.
    pub page: u64,
}

/// How much a cache may hold; the stricter of the two counts. Both ends must have the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BaselineLimits {
    /// Memory, indexes included.
    pub max_bytes: u64,
    /// Keys that have a baseline.
    pub max_baselines: u64,
}

/// Pages by key; equal pages that were announced as such are held once.
pub struct BaselineCache {
    limits: BaselineLimits,
    capacity: usize,
    by_key: HashMap<PageKey, u32>,
    entries: Vec<Entry>,
    /// The pages of all slots, [`CHUNK_PAGES`] to a chunk.
    chunks: Vec<Box<[u8]>>,
    /// How many keys hold each slot's page; none: the slot is free.
    holders: Vec<u32>,
    free_slots: Vec<u32>,
    /// Ends of the list of entries by last write; [`NOBODY`] while there are none.
    newest: u32,
    oldest: u32,
    /// Keys that came when the cache was full.
    turned_away: KeyFilter,
}

/// Bits of keys seen: it may take a key for another, and both ends do so alike.
#[derive(Default)]
struct KeyFilter {
    words: Vec<u64>,
}

/// A key with its content, linked in the order of last writes.
struct Entry {
    key: PageKey,
    slot: u32,
    newer: u32,
    older: u32,
}

impl BaselineLimits {
    /// Pages that fit, at the most that any of them may cost.
    pub fn capacity(self) -> usize {
        let fit = self.max_bytes.saturating_sub(FIXED_BYTES) / BASELINE_BYTES;
        fit.min(self.max_baselines).min(NOBODY.into()) as usize
    }
}

impl BaselineCache {
    /// An empty cache. Memory is taken as pages come.
    pub fn new(limits: BaselineLimits) -> Self {
        Self {
            limits,
            capacity: limits.capacity(),
            by_key: HashMap::new(),
            entries: Vec::new(),
            chunks: Vec::new(),
            holders: Vec::new(),
            free_slots: Vec::new(),
            newest: NOBODY,
            oldest: NOBODY,
            turned_away: KeyFilter::default(),
        }
    }

    /// The limits that it was made with.
    pub fn limits(&self) -> BaselineLimits {
        self.limits
    }

    /// Keys that have a baseline.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no key has one.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Memory held now: pages, free ones too, and all indexes.
    pub fn memory_bytes(&self) -> u64 {
        let pages: usize = self.chunks.iter().map(|chunk| chunk.len() + CHUNK_INDEX_BYTES).sum();
        let entries = self.entries.capacity() * size_of::<Entry>();
        let slots = (self.holders.capacity() + self.free_slots.capacity()) * size_of::<u32>();
        (pages + entries + slots) as u64 + map_bytes(&self.by_key) + self.turned_away.memory_bytes()
    }

    /// Forgets everything and gives the memory back.
    pub fn clear(&mut self) {
        *self = Self::new(self.limits);
    }

    /// Where the baseline of `key` is.
    pub fn slot_of(&self, key: PageKey) -> Option<u32> {
        let entry = *self.by_key.get(&key)?;
        Some(self.entries[entry as usize].slot)
    }

    /// The page in a slot, if any key holds it.
    pub fn page(&self, slot: u32) -> Option<&[u8]> {
        let held = *self.holders.get(slot as usize)? > 0;
        let (chunk, bytes) = place(slot);
        held.then(|| &self.chunks[chunk][bytes])
    }

    /// Every page that some key holds, each once, in no order.
    pub fn pages(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.holders.len() as u32).filter_map(|slot| self.page(slot))
    }

    /// `key` now has this page, in the slot that is returned; in none if it may not be held.
    pub fn store(&mut self, key: PageKey, page: &[u8]) -> Option<u32> {
        let entry = self.claim(key)?;
        let slot = self.fill_slot(page);
        self.entries[entry as usize].slot = slot;
        Some(slot)
    }

    /// `key` now has the page of a slot that other keys hold, or that it holds itself.
    pub fn share(&mut self, key: PageKey, slot: u32) {
        // Held before anything is let go: the key that is evicted may be its only holder.
        match self.holders.get_mut(slot as usize) {
            Some(holders) if *holders > 0 => *holders += 1,
            _ => return,
        }
        match self.claim(key) {
            Some(entry) => self.entries[entry as usize].slot = slot,
            None => self.release(slot),
        }
    }

    /// The entry of `key`, now the newest, without a page: an own, a new, or the oldest key's.
    fn claim(&mut self, key: PageKey) -> Option<u32> {
        let entry = match self.by_key.get(&key) {
            Some(entry) => *entry,
            None => {
                let entry = self.free_entry(key)?;
                self.by_key.insert(key, entry);
                entry
            }
        };
        self.release(self.entries[entry as usize].slot);
        self.unlink(entry);
        self.link_newest(entry);
        Some(entry)
    }

    fn free_entry(&mut self, key: PageKey) -> Option<u32> {
        if self.capacity == 0 {
            return None;
        }
        if self.entries.len() == self.capacity {
            if !self.turned_away.insert(key, self.capacity) {
                return None;
            }
            let oldest = self.oldest;
            let entry = &mut self.entries[oldest as usize];
            self.by_key.remove(&entry.key);
            entry.key = key;
            return Some(oldest);
        }
        let entry = self.entries.len() as u32;
        self.entries.push(Entry { key, slot: NOBODY, newer: NOBODY, older: NOBODY });
        self.link_newest(entry);
        Some(entry)
    }

    fn fill_slot(&mut self, page: &[u8]) -> u32 {
        let slot = self.free_slots.pop().unwrap_or_else(|| self.add_slot());
        let (chunk, bytes) = place(slot);
        self.chunks[chunk][bytes].copy_from_slice(page);
        self.holders[slot as usize] = 1;
        slot
    }

    fn add_slot(&mut self) -> u32 {
        let slot = self.holders.len();
        if slot.is_multiple_of(CHUNK_PAGES) {
            let pages = CHUNK_PAGES.min(self.capacity - slot);
            self.chunks.push(vec![0; pages * PAGE_BYTES].into());
        }
        self.holders.push(0);
        slot as u32
    }

    fn release(&mut self, slot: u32) {
        let Some(holders) = self.holders.get_mut(slot as usize) else { return };
        *holders -= 1;
        if *holders == 0 {
            self.free_slots.push(slot);
        }
    }

    fn unlink(&mut self, entry: u32) {
        let Entry { newer, older, .. } = self.entries[entry as usize];
        match self.entries.get_mut(newer as usize) {
            Some(newer) => newer.older = older,
            None => self.newest = older,
        }
        match self.entries.get_mut(older as usize) {
            Some(older) => older.newer = newer,
            None => self.oldest = newer,
        }
    }

    fn link_newest(&mut self, entry: u32) {
        let second = std::mem::replace(&mut self.newest, entry);
        match self.entries.get_mut(second as usize) {
            Some(second) => second.newer = entry,
            None => self.oldest = entry,
        }
        let linked = &mut self.entries[entry as usize];
        (linked.newer, linked.older) = (NOBODY, second);
    }
}

impl KeyFilter {
    /// Adds a key; whether it was there.
    fn insert(&mut self, key: PageKey, capacity: usize) -> bool {
        if self.words.is_empty() {
            // A power of two, at least half of one word for each key.
            self.words = vec![0; capacity.div_ceil(2).next_power_of_two()];
        }
        let mixed = (key.page ^ u64::from(key.block) << 48).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ mixed >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
        let at = (mixed >> 6) as usize & (self.words.len() - 1);
        let word = &mut self.words[at];
        let bit = 1 << (mixed >> 58);
        let was_there = *word & bit != 0;
        *word |= bit;
        was_there
    }

    fn memory_bytes(&self) -> u64 {
        (self.words.capacity() * size_of::<u64>()) as u64
    }
}

/// The chunk of a slot, and its bytes therein.
fn place(slot: u32) -> (usize, Range<usize>) {
    let (chunk, page) = (slot as usize / CHUNK_PAGES, slot as usize % CHUNK_PAGES);
    (chunk, page * PAGE_BYTES..(page + 1) * PAGE_BYTES)
}

/// Memory of a hash map as the standard library lays it out: a power of two of buckets, at most 7 of
/// 8 in use, with a control byte each. While it grows, the smaller table is held beside it.
pub(super) fn map_bytes<K, V>(map: &HashMap<K, V>) -> u64 {
    if map.capacity() == 0 {
        return 0;
    }
    let buckets = (map.capacity() * 8).div_ceil(7).next_power_of_two();
    (buckets * (size_of::<(K, V)>() + 1) + MAP_GROUP_BYTES) as u64
}

/// No entry and no slot: both are counted below it.
const NOBODY: u32 = u32::MAX;
/// Pages taken from the allocator at a time: 2 MiB, which the kernel can back by one huge page where
/// it is set to. Otherwise an empty cache fills at a third of the speed of a full one, for page faults.
const CHUNK_PAGES: usize = 512;
/// A chunk's place in the list of chunks, and what an allocator adds.
const CHUNK_INDEX_BYTES: usize = 2 * size_of::<Box<[u8]>>() + 16;
/// Control bytes that a hash map holds beyond its buckets.
const MAP_GROUP_BYTES: usize = 16;
/// The most that one more page can cost, the encoder's indexes included: vectors have up to twice the
/// room that they use, maps up to 16/7 buckets for each key.
const BASELINE_BYTES: u64 = PAGE_BYTES as u64
    + 2 * (size_of::<Entry>() + 3 * size_of::<u32>() + size_of::<u64>()) as u64
    + (size_of::<(PageKey, u32)>() + size_of::<(u64, u32)>() + 2) as u64 * 16 / 7
    + CHUNK_INDEX_BYTES.div_ceil(CHUNK_PAGES) as u64
    + size_of::<u64>() as u64
    + 1;
/// What the smallest vectors and maps take.
const FIXED_BYTES: u64 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn key(page: u64) -> PageKey {
        PageKey { block: (page % 3) as u16, page }
    }

    fn pages(count: u64) -> BaselineCache {
        BaselineCache::new(BaselineLimits { max_bytes: u64::MAX, max_baselines: count })
    }

    fn first_byte(cache: &BaselineCache, page: u64) -> Option<u8> {
        cache.page(cache.slot_of(key(page))?).map(|page| page[0])
    }

    #[test]
    fn the_key_written_longest_ago_goes_first() {
        let mut cache = pages(3);
        for page in 0..3 {
            cache.store(key(page), &[page as u8; PAGE_BYTES]);
        }
        cache.store(key(0), &[9; PAGE_BYTES]);
        assert_eq!(cache.store(key(3), &[3; PAGE_BYTES]), None, "not the first time");
        assert!(cache.store(key(3), &[3; PAGE_BYTES]).is_some());
        let held = (0..4).map(|page| first_byte(&cache, page)).collect::<Vec<_>>();
        assert_eq!(held, [Some(9), None, Some(2), Some(3)]);
        assert_eq!(cache.len(), 3);
    }

    #[test]
    fn a_shared_page_lives_as_long_as_one_key_holds_it() {
        let mut cache = pages(2);
        let slot = cache.store(key(0), &[7; PAGE_BYTES]).unwrap();
        cache.share(key(1), slot);
        (0..2).for_each(|_| cache.share(key(2), slot));
        assert_eq!((first_byte(&cache, 0), first_byte(&cache, 2)), (None, Some(7)));
        cache.store(key(1), &[1; PAGE_BYTES]);
        assert!(cache.page(slot).is_some());
        cache.share(key(2), slot);
        cache.store(key(2), &[2; PAGE_BYTES]);
        assert_eq!(cache.page(slot).map(|page| page[0]), Some(2), "the free slot is used again");
        assert_eq!(cache.holders.len(), 2);
    }

    #[test]
    fn the_last_holder_can_be_evicted_by_the_key_that_shares() {
        let mut cache = pages(1);
        let slot = cache.store(key(0), &[7; PAGE_BYTES]).unwrap();
        (0..2).for_each(|_| cache.share(key(1), slot));
        assert_eq!((first_byte(&cache, 0), first_byte(&cache, 1)), (None, Some(7)));
    }

    #[test]
    fn free_and_unknown_slots_are_not_shared() {
        let mut cache = pages(2);
        let slot = cache.store(key(0), &[1; PAGE_BYTES]).unwrap();
        let other = cache.store(key(1), &[2; PAGE_BYTES]).unwrap();
        cache.share(key(1), slot);
        for slot in [other, 2, NOBODY] {
            assert!(cache.page(slot).is_none(), "{slot}");
            cache.share(key(5), slot);
            assert!(cache.slot_of(key(5)).is_none(), "{slot}");
        }
    }

    #[test]
    fn a_pass_over_more_than_fits_leaves_what_came_first() {
        let mut cache = pages(1000);
        for page in 0..4000 {
            cache.store(key(page), &[1; PAGE_BYTES]);
        }
        let kept = (0..1000).filter(|page| first_byte(&cache, *page).is_some()).count();
        assert!(kept > 700, "{kept} of 1000");
        (3000..3500).for_each(|page| _ = cache.store(key(page), &[2; PAGE_BYTES]));
        assert!(
            (3000..3500).all(|page| first_byte(&cache, page) == Some(2)),
            "those written again"
        );
    }

    #[test]
    fn memory_stays_within_its_limit_at_every_size() {
        for max_bytes in [0, 4096, 6000, 20_000, 100_000, 1 << 20, 9 << 20] {
            let mut cache =
                BaselineCache::new(BaselineLimits { max_bytes, max_baselines: 1 << 40 });
            for page in 0..3000 {
                cache.store(key(page), &[page as u8; PAGE_BYTES]);
                assert!(cache.memory_bytes() <= max_bytes, "{page} of {max_bytes}");
            }
            let pages = cache.len() as u64 * PAGE_BYTES as u64;
            assert!(max_bytes < 20_000 || pages > max_bytes * 2 / 3, "{pages} of {max_bytes}");
            cache.clear();
            assert_eq!((cache.memory_bytes(), cache.len()), (0, 0));
        }
    }
}

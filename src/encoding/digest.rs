//! Proof that two images are the same: each page is hashed once, and the hashes are combined into
//! the checksum of a chunk and the digest of a whole image.
//!
//! Both are sums of a mix of (page number, page hash). A sum does not care for order, so chunks
//! may travel on any stream and threads may finish in any order; and a page can be taken out of it
//! again, so the digest follows the image as pages are resent. It finds faults, not forgeries:
//! XXH3 has no key, and the peer that could forge it also supplies the pages.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use twox_hash::XxHash3_64;

/// Stands in the table for a page that was never set; [`page_hash`] never returns it.
const UNSET: u64 = 0;

/// Hash of one page's content, never zero.
pub fn page_hash(page: &[u8]) -> u64 {
    match XxHash3_64::oneshot(page) {
        UNSET => 1,
        hash => hash,
    }
}

/// [`page_hash`] of a page of zeros, computed once for each page size.
pub fn zero_page_hash(page_bytes: u32) -> u64 {
    static BY_POWER: [OnceLock<u64>; 32] = [const { OnceLock::new() }; 32];
    let compute = || page_hash(&vec![0; page_bytes as usize]);
    if !page_bytes.is_power_of_two() {
        return compute();
    }
    *BY_POWER[page_bytes.trailing_zeros() as usize].get_or_init(compute)
}

/// What one chunk brings: page numbers and contents, zero pages included, in any order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChunkChecksum(u64);

impl ChunkChecksum {
    /// Counts one page.
    pub fn add(&mut self, page: u64, hash: u64) {
        self.0 = self.0.wrapping_add(Lanes::of(page, hash).0);
    }

    /// Counts neighbouring pages.
    pub fn add_run(&mut self, first_page: u64, hashes: impl IntoIterator<Item = u64>) {
        number_from(first_page, hashes).for_each(|(page, hash)| self.add(page, hash));
    }

    /// The number that travels in the chunk's header.
    pub fn value(self) -> u64 {
        self.0
    }
}

/// The digest of an image: equal for equal images, in any order of writing.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 16]);

/// The digest of an image that is still being written, by several threads at once.
///
/// It starts with every page unset, and an unset page is not a zero page: an image that lacks a
/// page never has the digest of one that got it. Eight bytes are held for each page.
pub struct ImageDigest {
    hashes: Box<[AtomicU64]>,
    lanes: [AtomicU64; 2],
}

impl ImageDigest {
    /// An image of `pages` unset pages.
    pub fn new(pages: u64) -> Self {
        let hashes = (0..pages).map(|_| AtomicU64::new(UNSET)).collect();
        Self { hashes, lanes: Default::default() }
    }

    /// The digest of pages given as (number, hash); the reference that [`Self`] must agree with.
    pub fn of_pages(pages: impl IntoIterator<Item = (u64, u64)>) -> Digest {
        pages
            .into_iter()
            .fold(Lanes(0, 0), |sum, (page, hash)| sum.plus(Lanes::of(page, hash)))
            .digest()
    }

    /// The page now has this hash. Pages outside the image are ignored.
    pub fn replace(&self, page: u64, hash: u64) {
        self.replace_run(page, [hash]);
    }

    /// Neighbouring pages now have these hashes.
    ///
    /// Several threads may do so at once. If two replace one page, the digest keeps the hash that
    /// the table keeps; that it is the one of the page's final content is the callers' to order.
    pub fn replace_run(&self, first_page: u64, hashes: impl IntoIterator<Item = u64>) {
        let change = number_from(first_page, hashes)
            .fold(Lanes(0, 0), |sum, (page, hash)| sum.plus(self.exchange(page, hash)));
        self.lanes[0].fetch_add(change.0, Ordering::Relaxed);
        self.lanes[1].fetch_add(change.1, Ordering::Relaxed);
    }

    /// The page is unset again: it is not there, or not in its last version.
    pub fn unset(&self, page: u64) {
        let Some(slot) = self.slot(page) else { return };
        let old = slot.swap(UNSET, Ordering::Relaxed);
        if old != UNSET {
            let change = Lanes(0, 0).minus(Lanes::of(page, old));
            self.lanes[0].fetch_add(change.0, Ordering::Relaxed);
            self.lanes[1].fetch_add(change.1, Ordering::Relaxed);
        }
    }

    /// The hash of a page, if it was set.
    pub fn hash_of(&self, page: u64) -> Option<u64> {
        let hash = self.slot(page)?.load(Ordering::Relaxed);
        (hash != UNSET).then_some(hash)
    }

    /// How many pages are still unset.
    pub fn unset_pages(&self) -> u64 {
        let unset = |hash: &&AtomicU64| hash.load(Ordering::Relaxed) == UNSET;
        self.hashes.iter().filter(unset).count() as u64
    }

    /// The digest now. Whoever calls must have seen every writer finish.
    pub fn value(&self) -> Digest {
        let [first, second] = &self.lanes;
        Lanes(first.load(Ordering::Relaxed), second.load(Ordering::Relaxed)).digest()
    }

    fn exchange(&self, page: u64, hash: u64) -> Lanes {
        debug_assert_ne!(hash, UNSET, "page {page}");
        let Some(slot) = self.slot(page) else { return Lanes(0, 0) };
        match slot.swap(hash, Ordering::Relaxed) {
            old if old == hash => Lanes(0, 0),
            UNSET => Lanes::of(page, hash),
            old => Lanes::of(page, hash).minus(Lanes::of(page, old)),
        }
    }

    fn slot(&self, page: u64) -> Option<&AtomicU64> {
        self.hashes.get(usize::try_from(page).ok()?)
    }
}

impl fmt::Debug for ImageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ImageDigest({} pages, {})", self.hashes.len(), self.value())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// Two independent sums modulo 2^64.
///
/// Each mix is a bijection of the hash for a given page, so a single page that differs in hash
/// always shows in both lanes; two pages that trade places show with probability 1 - 2^-128.
#[derive(Clone, Copy)]
struct Lanes(u64, u64);

impl Lanes {
    fn of(page: u64, hash: u64) -> Self {
        let place = avalanche(page ^ PLACE_SEED);
        let first = avalanche(hash ^ place);
        let second = avalanche(hash.rotate_left(32).wrapping_mul(ODD).wrapping_add(place));
        Self(first, second)
    }

    fn plus(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0), self.1.wrapping_add(other.1))
    }

    fn minus(self, other: Self) -> Self {
        Self(self.0.wrapping_sub(other.0), self.1.wrapping_sub(other.1))
    }

    fn digest(self) -> Digest {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.0.to_be_bytes());
        bytes[8..].copy_from_slice(&self.1.to_be_bytes());
        Digest(bytes)
    }
}

/// Page numbers beside hashes; wraps where a peer's numbers would overflow.
fn number_from(
    first_page: u64,
    hashes: impl IntoIterator<Item = u64>,
) -> impl Iterator<Item = (u64, u64)> {
    let number = move |(offset, hash)| (first_page.wrapping_add(offset), hash);
    (0..).zip(hashes).map(number)
}

/// The finalizer of MurmurHash3 with the constants that D. Stafford found (his "Mix13").
fn avalanche(mut value: u64) -> u64 {
    value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

/// Fractional bits of the golden ratio: keeps page 0 from being the finalizer's fixed point.
const PLACE_SEED: u64 = 0x9e37_79b9_7f4a_7c15;
/// An odd multiplier that is unrelated to the finalizer's.
const ODD: u64 = 0xd6e8_feb8_6659_fd93;

#[cfg(test)]
mod tests {
    use super::*;

    const PAGES: u64 = 97;

    /// A repeatable stream of numbers; the finalizer above would make tests agree with the code.
    fn numbers(seed: u64) -> impl Iterator<Item = u64> {
        let mut state = seed.wrapping_mul(2).wrapping_add(1);
        std::iter::from_fn(move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            Some(state.max(1))
        })
    }

    fn image(seed: u64) -> Vec<(u64, u64)> {
        (0..PAGES).zip(numbers(seed)).collect()
    }

    #[test]
    fn hash_tells_pages_apart_and_is_never_the_unset_mark() {
        assert_eq!(zero_page_hash(4096), page_hash(&[0; 4096]));
        assert_eq!(zero_page_hash(4096), zero_page_hash(4096));
        assert_ne!(zero_page_hash(4096), zero_page_hash(8192));
        assert_eq!(zero_page_hash(96), page_hash(&[0; 96]));
        let mut page = [0; 4096];
        for at in 0..page.len() {
            page[at] = 1;
            assert_ne!(page_hash(&page), zero_page_hash(4096), "byte {at}");
            page[at] = 0;
        }
    }

    #[test]
    fn order_and_detours_do_not_matter() {
        for seed in 0..50 {
            let expected = ImageDigest::of_pages(image(seed));
            let digest = ImageDigest::new(PAGES);
            let mut order = image(seed);
            for (at, number) in numbers(seed + 1000).take(order.len()).enumerate() {
                let other = number as usize % order.len();
                order.swap(at, other);
                digest.replace(number % PAGES, number);
            }
            order.iter().for_each(|(page, hash)| digest.replace(*page, *hash));
            assert_eq!(digest.value(), expected, "seed {seed}");
            assert_eq!(digest.unset_pages(), 0);
        }
    }

    #[test]
    fn any_single_fault_shows() {
        let good = image(1);
        let expected = ImageDigest::of_pages(good.clone());
        for at in 0..good.len() {
            let (mut missing, mut changed, mut twice) = (good.clone(), good.clone(), good.clone());
            missing.remove(at);
            changed[at].1 ^= 1 << (at % 64);
            twice.push(good[at]);
            for bad in [missing, changed, twice] {
                assert_ne!(ImageDigest::of_pages(bad), expected, "page {at}");
            }
            for other in 0..at {
                let mut swapped = good.clone();
                (swapped[at].1, swapped[other].1) = (good[other].1, good[at].1);
                assert_ne!(ImageDigest::of_pages(swapped), expected, "pages {at} and {other}");
            }
        }
    }

    #[test]
    fn an_unset_page_is_not_a_zero_page() {
        let zero = zero_page_hash(4096);
        let (all, lacking) = (ImageDigest::new(3), ImageDigest::new(3));
        all.replace_run(0, [zero; 3]);
        lacking.replace_run(0, [zero; 2]);
        assert_ne!(all.value(), lacking.value());
        assert_eq!((lacking.unset_pages(), lacking.hash_of(2)), (1, None));
        lacking.replace(2, zero);
        assert_eq!(all.value(), lacking.value());
        assert_eq!(lacking.hash_of(2), Some(zero));
    }

    #[test]
    fn a_page_that_is_unset_again_leaves_no_trace() {
        let (digest, never) = (ImageDigest::new(3), ImageDigest::new(3));
        digest.replace_run(0, [5, 6, 7]);
        never.replace(0, 5);
        for page in [1, 2, 2, 9] {
            digest.unset(page);
        }
        assert_eq!((digest.value(), digest.unset_pages()), (never.value(), 2));
    }

    #[test]
    fn threads_that_overlap_leave_what_one_thread_would() {
        let digest = ImageDigest::new(PAGES);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let digest = &digest;
                scope.spawn(move || {
                    for number in numbers(thread + 7).take(20_000) {
                        digest.replace_run(number % PAGES, [number, number ^ 1, number ^ 2]);
                    }
                });
            }
        });
        let left = (0..PAGES).filter_map(|page| Some((page, digest.hash_of(page)?)));
        assert_eq!(digest.value(), ImageDigest::of_pages(left));
    }

    #[test]
    fn pages_outside_the_image_change_nothing() {
        let digest = ImageDigest::new(2);
        digest.replace_run(1, [5, 6, 7]);
        digest.replace(u64::MAX, 9);
        assert_eq!(digest.value(), ImageDigest::of_pages([(1, 5)]));
    }

    #[test]
    fn chunk_checksum_is_of_numbers_and_contents() {
        let of = |pages: &[(u64, u64)]| {
            let mut checksum = ChunkChecksum::default();
            pages.iter().for_each(|(page, hash)| checksum.add(*page, *hash));
            checksum.value()
        };
        let mut run = ChunkChecksum::default();
        run.add_run(3, [10, 11]);
        assert_eq!(run.value(), of(&[(4, 11), (3, 10)]));
        for other in [&[(3, 11), (4, 10)][..], &[(3, 10)], &[(4, 10), (5, 11)], &[(3, 10), (4, 12)]]
        {
            assert_ne!(run.value(), of(other), "{other:?}");
        }
    }

    #[test]
    fn digest_prints_as_32_digits() {
        assert_eq!(Digest([0xa0; 16]).to_string(), "a0".repeat(16));
        assert_eq!(ImageDigest::new(9).value().to_string(), "0".repeat(32));
    }
}

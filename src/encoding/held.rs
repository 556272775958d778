//! Pages that the other side holds from earlier migrations, known by hashes.
//!
//! The hashes are BLAKE3 under a key of the holder's, cut to 64 bits: nobody who does not know the
//! key can look for two pages with one hash. Two pages may still share one by chance, one time in
//! 2^24 for a million pages against a million; the checksum that the caller has of the decoded
//! pages then finds it.

use crate::base::limits::MAX_ANNOUNCED_PAGES;
use std::collections::HashMap;

/// Length of a [`HeldKey`].
pub const HELD_KEY_BYTES: usize = 32;

/// Under which a holder hashes pages.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HeldKey(pub [u8; HELD_KEY_BYTES]);

/// What the other side holds.
pub struct AnnouncedPages {
    key: HeldKey,
    count: u32,
    by_hash: HashMap<u64, u32>,
}

/// A holder's pages, by their place in what it announced.
pub trait HeldPages: Send {
    /// Appends a page to `out`.
    ///
    /// # Errors
    /// [`HeldError`]; `out` may then have some bytes more.
    fn append(&mut self, index: u32, out: &mut Vec<u8>) -> Result<(), HeldError>;
}

/// Why a held page is not to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeldError {
    /// More than was announced.
    #[error("only {0} pages were announced")]
    Unknown(u32),
    /// It was there, and is damaged now.
    #[error("it can no longer be read")]
    Unreadable,
}

impl HeldKey {
    /// What a page is announced and looked up by.
    pub fn hash(&self, page: &[u8]) -> u64 {
        let hash = blake3::keyed_hash(&self.0, page);
        hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }
}

impl std::fmt::Debug for HeldKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HeldKey(..)")
    }
}

impl AnnouncedPages {
    /// Of a holder that hashes under `key`; nothing yet.
    pub fn new(key: HeldKey) -> Self {
        Self { key, count: 0, by_hash: HashMap::new() }
    }

    /// Adds the next hashes in the holder's order. What is over [`MAX_ANNOUNCED_PAGES`] is left
    /// out; false then.
    pub fn add(&mut self, hashes: impl ExactSizeIterator<Item = u64>) -> bool {
        if hashes.len() > (MAX_ANNOUNCED_PAGES - self.count) as usize {
            return false;
        }
        for hash in hashes {
            // The first of equals: a holder names what fits best first.
            self.by_hash.entry(hash).or_insert(self.count);
            self.count += 1;
        }
        true
    }

    /// How many were announced.
    pub fn len(&self) -> u32 {
        self.count
    }

    /// Whether none was.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The place of a page with the hash of this one.
    pub fn find(&self, page: &[u8]) -> Option<u32> {
        if self.by_hash.is_empty() {
            return None;
        }
        self.by_hash.get(&self.key.hash(page)).copied()
    }

    /// Memory that the table takes.
    pub fn memory_bytes(&self) -> u64 {
        crate::encoding::baseline::map_bytes(&self.by_hash)
    }
}

impl std::fmt::Debug for AnnouncedPages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AnnouncedPages({})", self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_found_by_content_and_only_under_the_same_key() {
        let (key, other) = (HeldKey([1; 32]), HeldKey([2; 32]));
        let pages: Vec<[u8; 4096]> = (0..4).map(|fill| [fill; 4096]).collect();
        let hashes: Vec<u64> = pages.iter().map(|page| key.hash(page)).collect();
        let mut announced = AnnouncedPages::new(key);
        assert!(
            announced.add(hashes[..2].iter().copied()) && announced.add([hashes[0]].into_iter())
        );
        assert_eq!(announced.len(), 3);
        let found: Vec<_> = pages.iter().map(|page| announced.find(page)).collect();
        assert_eq!(found, [Some(0), Some(1), None, None]);
        let mut strange = AnnouncedPages::new(other);
        assert!(strange.add(hashes.into_iter()));
        assert!(pages.iter().all(|page| strange.find(page).is_none()));
    }

    #[test]
    fn no_more_is_taken_than_the_limit() {
        let mut announced = AnnouncedPages::new(HeldKey([0; 32]));
        assert!(!announced.add(vec![0; MAX_ANNOUNCED_PAGES as usize + 1].into_iter()));
        assert!(announced.is_empty());
        assert!(announced.add(vec![7; MAX_ANNOUNCED_PAGES as usize].into_iter()));
        assert!(!announced.add([1].into_iter()));
        assert!(announced.memory_bytes() < 1024);
    }
}

//! What was announced to a source, and its pages by their place therein.

use super::HeldStore;
use super::section::Section;
use crate::encoding::baseline::PAGE_BYTES;
use crate::encoding::{Decoder, HeldError, HeldPages};
use std::io;
use std::sync::{Arc, Weak};

/// Unpacked blocks that are kept; a guest's pages come back about in the order in which they went.
const CACHED_BLOCKS: usize = 8;

/// Sections that stay while a migration may refer to them.
pub struct HeldSet {
    store: Weak<HeldStore>,
    /// Each with the place of its first page.
    sections: Vec<(u32, Arc<Section>)>,
    count: u32,
    decoder: Decoder,
    /// The one read last is the last.
    cache: Vec<CachedBlock>,
}

struct CachedBlock {
    section: usize,
    block: usize,
    first_page: u32,
    bytes: Vec<u8>,
}

impl HeldSet {
    /// Of the first `most` pages of these sections.
    pub(super) fn new(store: Weak<HeldStore>, sections: Vec<Arc<Section>>, most: u32) -> Self {
        let (mut count, mut pinned) = (0, Vec::new());
        for section in sections {
            let pages = (section.hashes().len() as u64).min(u64::from(most - count)) as u32;
            if pages == 0 {
                break;
            }
            pinned.push((count, section));
            count += pages;
        }
        Self { store, sections: pinned, count, decoder: Decoder::default(), cache: Vec::new() }
    }

    /// The pages' hashes, in order.
    pub fn hashes(&self) -> Vec<u64> {
        let all = self.sections.iter().flat_map(|(_, section)| section.hashes());
        all.take(self.count as usize).copied().collect()
    }

    fn load(&mut self, at: usize, block: usize) -> io::Result<()> {
        let (_, section) = self.sections.get(at).ok_or(io::ErrorKind::NotFound)?;
        let store = self.store.upgrade().ok_or(io::ErrorKind::NotConnected)?;
        let key = store.seal_key().ok_or(io::ErrorKind::NotFound)?;
        let (place, packed) = section.read(key, block)?;
        let mut bytes = match self.cache.len() < CACHED_BLOCKS {
            true => Vec::new(),
            false => self.cache.remove(0).bytes,
        };
        self.decoder
            .decode(place.codec, &packed, place.raw_bytes, &mut bytes)
            .map_err(|error| io::Error::other(format!("block {block}: {error}")))?;
        section.use_at(store.use_now());
        let first_page = place.first_page;
        self.cache.push(CachedBlock { section: at, block, first_page, bytes });
        Ok(())
    }
}

impl HeldPages for HeldSet {
    fn append(&mut self, index: u32, out: &mut Vec<u8>) -> Result<(), HeldError> {
        if index >= self.count {
            return Err(HeldError::Unknown(self.count));
        }
        let at = self.sections.partition_point(|(first, _)| *first <= index);
        let at = at.checked_sub(1).ok_or(HeldError::Unreadable)?;
        let (first, section) = &self.sections[at];
        let page = index - first;
        let block = section.block_of(page).ok_or(HeldError::Unreadable)?;
        match self.cache.iter().position(|kept| (kept.section, kept.block) == (at, block)) {
            // Last means latest.
            Some(kept) => self.cache[kept..].rotate_left(1),
            None => {
                let number = section.number;
                if let Err(error) = self.load(at, block) {
                    if let Some(store) = self.store.upgrade() {
                        store.drop_section(number, &error.to_string());
                    }
                    return Err(HeldError::Unreadable);
                }
            }
        }
        let kept = self.cache.last().ok_or(HeldError::Unreadable)?;
        let start = (page - kept.first_page) as usize * PAGE_BYTES;
        let bytes = kept.bytes.get(start..start + PAGE_BYTES).ok_or(HeldError::Unreadable)?;
        out.extend_from_slice(bytes);
        Ok(())
    }
}

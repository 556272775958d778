//! A guest's memory as v1 sees it: one row of bytes, region after region, without names or addresses.

use crate::base::MemoryLayout;
use crate::encoding::digest::{page_hash, zero_page_hash};
use crate::encoding::{ImageDigest, page_runs};
use crate::migration::{GuestError, GuestSink, GuestSource};
use std::ops::Range;

/// Reads whole pages from `offset_bytes` of the image on, and notes their hashes.
///
/// # Errors
/// The guest's.
pub fn read(
    guest: &dyn GuestSource,
    layout: &MemoryLayout,
    digest: &ImageDigest,
    offset_bytes: u64,
    into: &mut [u8],
) -> Result<(), GuestError> {
    let pages = pages(layout, offset_bytes, into.len());
    let mut at = 0;
    for range in layout.ranges(pages.clone()) {
        let end = at + range.length_bytes as usize;
        guest.read_pages(range.region, range.offset_bytes, &mut into[at..end])?;
        at = end;
    }
    digest.replace_run(pages.start, into.chunks(layout.page_bytes() as usize).map(page_hash));
    Ok(())
}

/// Puts whole pages into a guest from `offset_bytes` of the image on, and notes their hashes.
///
/// # Errors
/// The guest's.
pub fn store(
    guest: &dyn GuestSink,
    layout: &MemoryLayout,
    digest: &ImageDigest,
    offset_bytes: u64,
    bytes: &[u8],
) -> Result<(), GuestError> {
    let pages = pages(layout, offset_bytes, bytes.len());
    let (page_bytes, mut at) = (layout.page_bytes() as usize, 0);
    for range in layout.ranges(pages.clone()) {
        let end = at + range.length_bytes as usize;
        let part = &bytes[at..end];
        for run in page_runs(part, page_bytes) {
            let (from, length) = (run.first * page_bytes, run.pages * page_bytes);
            let place = range.offset_bytes + from as u64;
            match run.zero {
                true => guest.zero_pages(range.region, place, length as u64)?,
                false => guest.write_pages(range.region, place, &part[from..from + length])?,
            }
        }
        at = end;
    }
    let zero_hash = zero_page_hash(layout.page_bytes());
    let hashes = page_runs(bytes, page_bytes).flat_map(|run| {
        let pages = &bytes[run.first * page_bytes..(run.first + run.pages) * page_bytes];
        let hash = move |page| if run.zero { zero_hash } else { page_hash(page) };
        pages.chunks(page_bytes).map(hash)
    });
    digest.replace_run(pages.start, hashes);
    Ok(())
}

fn pages(layout: &MemoryLayout, offset_bytes: u64, length_bytes: usize) -> Range<u64> {
    let page_bytes = u64::from(layout.page_bytes());
    debug_assert!(
        offset_bytes.is_multiple_of(page_bytes) && (length_bytes as u64).is_multiple_of(page_bytes),
        "{length_bytes} bytes at {offset_bytes} are no whole pages"
    );
    offset_bytes / page_bytes..(offset_bytes + length_bytes as u64) / page_bytes
}

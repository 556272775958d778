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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::RegionLayout;
    use crate::migration::guest::Ending;
    use std::sync::Mutex;

    /// Two regions of three pages each, and the calls that wrote to them.
    struct Memory(Mutex<[Vec<u8>; 2]>, Mutex<Vec<String>>);

    const PAGE: usize = 64;

    fn layout() -> MemoryLayout {
        let region = |name: &str, guest_address| {
            let length_bytes = 3 * PAGE as u64;
            RegionLayout { name: name.into(), guest_address, length_bytes }
        };
        MemoryLayout::new(PAGE as u32, vec![region("low", 0), region("high", 1 << 20)]).unwrap()
    }

    impl GuestSink for Memory {
        fn layout(&self) -> MemoryLayout {
            layout()
        }

        fn write_pages(&self, region: usize, offset: u64, from: &[u8]) -> Result<(), GuestError> {
            let at = offset as usize;
            self.0.lock().unwrap()[region][at..at + from.len()].copy_from_slice(from);
            self.1.lock().unwrap().push(format!("write {region} {offset} {}", from.len()));
            Ok(())
        }

        fn zero_pages(&self, region: usize, offset: u64, length: u64) -> Result<(), GuestError> {
            let at = offset as usize;
            self.0.lock().unwrap()[region][at..at + length as usize].fill(0);
            self.1.lock().unwrap().push(format!("zero {region} {offset} {length}"));
            Ok(())
        }

        fn read_pages(
            &self,
            region: usize,
            offset: u64,
            into: &mut [u8],
        ) -> Result<(), GuestError> {
            let at = offset as usize;
            into.copy_from_slice(&self.0.lock().unwrap()[region][at..at + into.len()]);
            Ok(())
        }

        fn load_device_state(&self, _: &[u8]) -> Result<(), GuestError> {
            Err(GuestError::new("load_device_state", "v1 has none"))
        }

        fn resume(&self) -> Result<(), GuestError> {
            Err(GuestError::new("resume", "never from v1"))
        }

        fn finish(&self, _: Ending) -> Result<(), GuestError> {
            Ok(())
        }
    }

    #[test]
    fn an_image_crosses_regions_and_its_zero_pages_stay_zero_pages() {
        let old = || vec![9; 3 * PAGE];
        let (memory, layout) = (Memory(Mutex::new([old(), old()]), Mutex::default()), layout());
        let digest = ImageDigest::new(layout.page_count());
        let mut image = vec![0; 6 * PAGE];
        image[PAGE..4 * PAGE].fill(7);
        // In two pieces, out of order.
        let (first, second) = image.split_at(2 * PAGE);
        store(&memory, &layout, &digest, 2 * PAGE as u64, second).unwrap();
        assert_eq!(digest.unset_pages(), 2);
        store(&memory, &layout, &digest, 0, first).unwrap();
        assert_eq!(memory.0.lock().unwrap().concat(), image);
        let calls = memory.1.lock().unwrap().join(", ");
        assert_eq!(
            calls,
            "write 0 128 64, write 1 0 64, zero 1 64 128, zero 0 0 64, write 0 64 64"
        );
        let hashes = image.chunks(PAGE).map(page_hash);
        assert_eq!(digest.value(), ImageDigest::of_pages((0..).zip(hashes)));
    }
}

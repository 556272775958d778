//! The shape of a guest's memory: named regions of whole pages, numbered through.
//!
//! A page number counts pages over all regions in order, so one `u64` names any page.

use crate::base::limits::{MAX_NAME_BYTES, MAX_PAGE_BYTES, MAX_PAGES, MAX_REGIONS, MIN_PAGE_BYTES};
use std::ops::Range;

/// One region of guest memory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RegionLayout {
    /// Name that both sides must agree on, such as `ram`.
    pub name: String,
    /// Where the guest sees it; compared, never used as a pointer.
    pub guest_address: u64,
    /// Length; a multiple of the page size, not zero.
    pub length_bytes: u64,
}

/// All regions of one guest, checked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MemoryLayout {
    page_bytes: u32,
    regions: Vec<RegionLayout>,
    first_pages: Vec<u64>,
    page_count: u64,
}

/// A run of pages that lies within one region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageRange {
    /// Index of the region.
    pub region: usize,
    /// Offset of the first byte within the region.
    pub offset_bytes: u64,
    /// Length in bytes.
    pub length_bytes: u64,
}

/// Why a layout is not usable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// The page size is no power of two within bounds.
    #[error("page size {0} is not a power of two between {MIN_PAGE_BYTES} and {MAX_PAGE_BYTES}")]
    PageSize(u32),
    /// No region, or too many.
    #[error("{0} memory regions; there must be 1 to {MAX_REGIONS}")]
    RegionCount(usize),
    /// A name is empty or too long.
    #[error("region name {0:?} is empty or longer than {MAX_NAME_BYTES} bytes")]
    Name(String),
    /// Two regions carry one name.
    #[error("region name {0:?} is used twice")]
    DuplicateName(String),
    /// A length is zero or no whole number of pages.
    #[error("region {name:?}: length {length_bytes} is not a positive multiple of {page_bytes}")]
    Length {
        /// The region.
        name: String,
        /// Its length.
        length_bytes: u64,
        /// The page size.
        page_bytes: u32,
    },
    /// More pages than the protocol carries, or a count that overflows.
    #[error("region {name:?} brings the guest over {MAX_PAGES} pages")]
    TooManyPages {
        /// The region.
        name: String,
    },
}

impl MemoryLayout {
    /// Checks and numbers the regions.
    ///
    /// # Errors
    /// [`LayoutError`] names the first region or value that does not fit.
    pub fn new(page_bytes: u32, regions: Vec<RegionLayout>) -> Result<Self, LayoutError> {
        if !page_bytes.is_power_of_two() || !(MIN_PAGE_BYTES..=MAX_PAGE_BYTES).contains(&page_bytes)
        {
            return Err(LayoutError::PageSize(page_bytes));
        }
        if regions.is_empty() || regions.len() > MAX_REGIONS {
            return Err(LayoutError::RegionCount(regions.len()));
        }
        let mut first_pages = Vec::with_capacity(regions.len());
        let mut page_count = 0;
        for (index, region) in regions.iter().enumerate() {
            check_region(page_bytes, region, &regions[..index])?;
            first_pages.push(page_count);
            page_count += region.length_bytes / u64::from(page_bytes);
            if page_count > MAX_PAGES {
                return Err(LayoutError::TooManyPages { name: region.name.clone() });
            }
        }
        Ok(Self { page_bytes, regions, first_pages, page_count })
    }

    /// Page size in bytes.
    pub fn page_bytes(&self) -> u32 {
        self.page_bytes
    }

    /// The regions, in order.
    pub fn regions(&self) -> &[RegionLayout] {
        &self.regions
    }

    /// Pages of all regions.
    pub fn page_count(&self) -> u64 {
        self.page_count
    }

    /// Bytes of all regions.
    pub fn total_bytes(&self) -> u64 {
        self.page_count * u64::from(self.page_bytes)
    }

    /// The page numbers of one region.
    pub fn pages_of(&self, region: usize) -> Range<u64> {
        let first = self.first_pages[region];
        first..first + self.regions[region].length_bytes / u64::from(self.page_bytes)
    }

    /// Splits a run of pages at region borders, in order.
    ///
    /// Pages past the end are left out; check against [`Self::page_count`] first.
    pub fn ranges(&self, pages: Range<u64>) -> impl Iterator<Item = PageRange> + '_ {
        let start =
            self.first_pages.partition_point(|first| *first <= pages.start).saturating_sub(1);
        (start..self.regions.len()).map_while(move |region| {
            let own = self.pages_of(region);
            let (from, to) = (pages.start.max(own.start), pages.end.min(own.end));
            (from < to).then(|| PageRange {
                region,
                offset_bytes: (from - own.start) * u64::from(self.page_bytes),
                length_bytes: (to - from) * u64::from(self.page_bytes),
            })
        })
    }
}

fn check_region(
    page_bytes: u32,
    region: &RegionLayout,
    before: &[RegionLayout],
) -> Result<(), LayoutError> {
    let RegionLayout { name, length_bytes, .. } = region;
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return Err(LayoutError::Name(name.clone()));
    }
    if before.iter().any(|other| other.name == *name) {
        return Err(LayoutError::DuplicateName(name.clone()));
    }
    if *length_bytes == 0 || length_bytes % u64::from(page_bytes) != 0 {
        let (name, length_bytes) = (name.clone(), *length_bytes);
        return Err(LayoutError::Length { name, length_bytes, page_bytes });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(name: &str, length_bytes: u64) -> RegionLayout {
        RegionLayout { name: name.into(), guest_address: 0, length_bytes }
    }

    #[test]
    fn pages_are_numbered_through_the_regions() {
        let layout = MemoryLayout::new(4096, vec![region("a", 8192), region("b", 4096)]).unwrap();
        assert_eq!(layout.page_count(), 3);
        assert_eq!(layout.pages_of(1), 2..3);
        let ranges: Vec<_> = layout.ranges(1..3).collect();
        assert_eq!(ranges[0], PageRange { region: 0, offset_bytes: 4096, length_bytes: 4096 });
        assert_eq!(ranges[1], PageRange { region: 1, offset_bytes: 0, length_bytes: 4096 });
        assert_eq!(layout.ranges(2..9).count(), 1);
        assert_eq!(layout.ranges(3..9).count(), 0);
    }

    #[test]
    fn each_bad_layout_names_its_value() {
        let cases: [(u32, Vec<RegionLayout>, &str); 7] = [
            (1000, vec![region("a", 4096)], "1000"),
            (4096, vec![], "0 memory regions"),
            (4096, vec![region("", 4096)], "\"\""),
            (4096, vec![region("a", 4096), region("a", 4096)], "twice"),
            (4096, vec![region("a", 4097)], "4097"),
            (4096, vec![region("a", 0)], "length 0"),
            (4096, vec![region("a", !4095)], "over"),
        ];
        for (page_bytes, regions, text) in cases {
            let error = MemoryLayout::new(page_bytes, regions).unwrap_err().to_string();
            assert!(error.contains(text), "{error} lacks {text}");
        }
    }
}

//! Pages taken from all over a memory, in runs of neighbours, as a migration would pack them.

use crate::Status;
use crate::migration::{GuestError, GuestSource};
use crate::runtime::qemu::QmpError;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Pages that one sample may have.
pub const MAX_SAMPLE_PAGES: u64 = 65_536;
/// Pages of a memory that does not say so itself.
pub const PAGE_BYTES: usize = 4096;
/// Neighbours that are taken together.
const RUN_PAGES: u64 = 16;

/// A memory that can be looked at.
pub trait Memory {
    /// Bytes of a page.
    fn page_bytes(&self) -> usize;
    /// Whole pages that there are.
    fn page_count(&self) -> u64;
    /// Reads neighbouring pages, from `first_page` on.
    ///
    /// # Errors
    /// [`SampleError`].
    fn read(&mut self, first_page: u64, into: &mut [u8]) -> Result<(), SampleError>;
}

/// Pages of a memory.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Bytes of a page.
    pub page_bytes: usize,
    /// The pages, in the memory's order.
    pub bytes: Vec<u8>,
    /// Pages that the memory has.
    pub of_pages: u64,
}

/// A memory could not be sampled.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// A sample of nothing, or of too much.
    #[error("a sample has 1 to {MAX_SAMPLE_PAGES} pages, not {0}")]
    Size(u64),
    /// The file.
    #[error("cannot read {path}: {source}", path = path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not so much as one page.
    #[error("{path} has {bytes} bytes, less than a page of {PAGE_BYTES}", path = path.display())]
    Empty {
        /// Its path.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
    /// The hypervisor.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// QEMU.
    #[error("QEMU: {0}")]
    Qmp(#[from] QmpError),
    /// QEMU does not say where the guest's memory is.
    #[error("QEMU does not say where the guest's memory is; its answer to \"info mtree -f\": {0}")]
    NoMap(String),
    /// The file through which QEMU hands pages over.
    #[error("cannot take pages from QEMU by the file {path}: {source}", path = path.display())]
    Exchange {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl SampleError {
    /// The status code of this error.
    pub fn status(&self) -> Status {
        match self {
            Self::Size(_) | Self::Empty { .. } => Status::InvalidArgument,
            Self::File { .. } | Self::Exchange { .. } => Status::Io,
            Self::Guest(_) | Self::Qmp(_) | Self::NoMap(_) => Status::Callback,
        }
    }
}

impl Sample {
    /// Pages taken.
    pub fn pages(&self) -> u64 {
        (self.bytes.len() / self.page_bytes) as u64
    }
}

/// Takes so many pages, or all if there are fewer: runs from all over the memory, at places that
/// follow from the seed.
///
/// # Errors
/// [`SampleError`].
pub fn take_sample(memory: &mut dyn Memory, pages: u64, seed: u64) -> Result<Sample, SampleError> {
    if !(1..=MAX_SAMPLE_PAGES).contains(&pages) {
        return Err(SampleError::Size(pages));
    }
    let (page_bytes, of_pages) = (memory.page_bytes(), memory.page_count());
    let pages = pages.min(of_pages);
    let mut bytes = vec![0; pages as usize * page_bytes];
    let (mut at, mut random) = (0, seed);
    for (first, length) in runs(of_pages, pages, &mut random) {
        let end = at + length as usize * page_bytes;
        memory.read(first, &mut bytes[at..end])?;
        at = end;
    }
    Ok(Sample { page_bytes, bytes, of_pages })
}

/// First page and length of each run; they do not overlap, and together have `wanted` pages.
fn runs(of_pages: u64, wanted: u64, random: &mut u64) -> Vec<(u64, u64)> {
    let count = wanted.div_ceil(RUN_PAGES);
    let unwanted = of_pages - wanted;
    // What is passed over grows from run to run, and so keeps them apart.
    let part = |index: u64| (u128::from(unwanted) * u128::from(index) / u128::from(count)) as u64;
    let mut before = 0;
    (0..count)
        .map(|index| {
            let length = RUN_PAGES.min(wanted - before);
            let (least, most) = (part(index), part(index + 1));
            let start = before + least + next(random) % (most - least + 1);
            before += length;
            (start, length)
        })
        .collect()
}

/// SplitMix64: enough to be nowhere in particular.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ *state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ mixed >> 27) >> 16
}

/// A file that holds memory, such as a dump.
pub struct FileMemory {
    path: PathBuf,
    file: File,
    pages: u64,
}

impl FileMemory {
    /// Opens it.
    ///
    /// # Errors
    /// It cannot be read, or has less than a page.
    pub fn open(path: &Path) -> Result<Self, SampleError> {
        let failed = |source| SampleError::File { path: path.to_owned(), source };
        let metadata = std::fs::metadata(path).map_err(failed)?;
        if !metadata.is_file() {
            // Opening a pipe would wait for its writer.
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
        }
        let file = File::open(path).map_err(failed)?;
        let (pages, bytes) = (metadata.len() / PAGE_BYTES as u64, metadata.len());
        match pages {
            0 => Err(SampleError::Empty { path: path.to_owned(), bytes }),
            pages => Ok(Self { path: path.to_owned(), file, pages }),
        }
    }
}

impl Memory for FileMemory {
    fn page_bytes(&self) -> usize {
        PAGE_BYTES
    }

    fn page_count(&self) -> u64 {
        self.pages
    }

    fn read(&mut self, first_page: u64, into: &mut [u8]) -> Result<(), SampleError> {
        let read = self.file.read_exact_at(into, first_page * PAGE_BYTES as u64);
        read.map_err(|source| SampleError::File { path: self.path.clone(), source })
    }
}

/// The memory of a guest that a hypervisor registered.
pub struct GuestMemory(pub Arc<dyn GuestSource>);

impl Memory for GuestMemory {
    fn page_bytes(&self) -> usize {
        self.0.layout().page_bytes() as usize
    }

    fn page_count(&self) -> u64 {
        self.0.layout().page_count()
    }

    fn read(&mut self, first_page: u64, into: &mut [u8]) -> Result<(), SampleError> {
        let layout = self.0.layout();
        let pages = first_page..first_page + (into.len() / layout.page_bytes() as usize) as u64;
        let mut rest = into;
        for range in layout.ranges(pages) {
            let (now, later) = rest.split_at_mut(range.length_bytes as usize);
            self.0.read_pages(range.region, range.offset_bytes, now)?;
            rest = later;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each page holds its number.
    struct Numbered(u64);

    impl Memory for Numbered {
        fn page_bytes(&self) -> usize {
            8
        }

        fn page_count(&self) -> u64 {
            self.0
        }

        fn read(&mut self, first_page: u64, into: &mut [u8]) -> Result<(), SampleError> {
            for (page, number) in into.chunks_exact_mut(8).zip(first_page..) {
                assert!(number < self.0, "page {number} of {}", self.0);
                page.copy_from_slice(&number.to_le_bytes());
            }
            Ok(())
        }
    }

    fn numbers(of: u64, wanted: u64, seed: u64) -> Vec<u64> {
        let sample = take_sample(&mut Numbered(of), wanted, seed).unwrap();
        assert_eq!(sample.of_pages, of);
        sample.bytes.as_chunks::<8>().0.iter().map(|page| u64::from_le_bytes(*page)).collect()
    }

    #[test]
    fn a_sample_has_the_pages_asked_for_each_once_and_from_all_over() {
        for (of, wanted) in [(1, 1), (17, 16), (100, 100), (1 << 20, 1000), (1001, 999), (50, 33)] {
            for seed in 0..20 {
                let pages = numbers(of, wanted, seed);
                assert_eq!(pages.len() as u64, wanted, "{wanted} of {of}");
                assert!(pages.is_sorted_by(|a, b| a < b), "{wanted} of {of}: {pages:?}");
            }
        }
        let spread = numbers(1 << 20, 1000, 3);
        assert!(spread[0] < 1 << 17 && spread[999] > (1 << 20) - (1 << 17), "{spread:?}");
        assert_eq!(spread[15], spread[0] + 15, "neighbours");
        assert_ne!(spread, numbers(1 << 20, 1000, 4));
        assert_eq!(numbers(5, 1000, 1), [0, 1, 2, 3, 4], "all there are");
    }

    #[test]
    fn sizes_out_of_range_are_named() {
        for size in [0, MAX_SAMPLE_PAGES + 1] {
            let error = take_sample(&mut Numbered(9), size, 1).unwrap_err();
            assert_eq!(error.status(), Status::InvalidArgument);
            assert!(error.to_string().ends_with(&format!("not {size}")), "{error}");
        }
    }
}

//! Guest memory that is mapped into this process: raw regions behind bounds-checked copies.
//!
//! A running guest writes its memory whenever it likes, so nothing here hands out references to
//! it: [`MappedMemory::read`] copies bytes out and what the library looks at is the copy. A page
//! that the guest was writing at that moment may come out torn; it is in the dirty log, so it is
//! copied again. Only [`MappedMemory::receive`] and [`MappedMemory::zero`] form slices, one piece
//! at a time, for a destination whose guest is stopped.

use crate::base::MemoryLayout;
use std::io::{self, Read};
use std::ptr::{self, NonNull};

/// Bytes that `receive` reads before it shows them: they fit a core's second-level cache.
const PIECE_BYTES: u64 = 256 * 1024;

/// A range does not lie within the guest's memory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// No region of that number.
    #[error("there is no region {region}; the guest has {regions}")]
    NoRegion {
        /// The number asked for.
        region: usize,
        /// How many there are.
        regions: usize,
    },
    /// The range reaches past the region's end.
    #[error(
        "{length_bytes} bytes at offset {offset_bytes} reach outside region {region} \
         ({name:?}, {region_bytes} bytes)"
    )]
    Outside {
        /// The region's number.
        region: usize,
        /// Its name.
        name: String,
        /// Its length.
        region_bytes: u64,
        /// Where the range starts.
        offset_bytes: u64,
        /// How long it is.
        length_bytes: u64,
    },
}

/// Memory cannot be taken over or made.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// Pointers and regions do not match.
    #[error("{pointers} pointers for {regions} memory regions")]
    Count {
        /// Pointers given.
        pointers: usize,
        /// Regions in the layout.
        regions: usize,
    },
    /// A pointer is null, or the region would wrap around the address space.
    #[error("region {name:?}: {length_bytes} bytes at address {address:#x} are not addressable")]
    Address {
        /// The region.
        name: String,
        /// Where it would start.
        address: usize,
        /// How long it would be.
        length_bytes: u64,
    },
    /// The kernel refused.
    #[error("region {name:?}: {call} of {length_bytes} bytes: {source}")]
    System {
        /// The region.
        name: String,
        /// The system call.
        call: &'static str,
        /// How long the region is.
        length_bytes: u64,
        /// Why.
        source: io::Error,
    },
}

/// How to allocate memory of our own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allocation {
    /// Ask for transparent huge pages; a kernel without them is no error.
    pub huge_pages: bool,
    /// Populate every page at once instead of at its first touch.
    pub prefault: bool,
}

/// All regions of one guest, mapped.
#[derive(Debug)]
pub struct MappedMemory {
    layout: MemoryLayout,
    regions: Vec<Region>,
}

#[derive(Debug)]
struct Region {
    start: NonNull<u8>,
    length_bytes: usize,
    owned: bool,
}

// SAFETY: a region is only an address range; whoever made it promised that it stays mapped until
// drop, from whichever thread it is used.
unsafe impl Send for Region {}
// SAFETY: as above; concurrent access goes through raw copies (see the module's text).
unsafe impl Sync for Region {}

impl MappedMemory {
    /// Takes over memory that a hypervisor mapped: region `i` of `layout` starts at `starts[i]`.
    ///
    /// # Errors
    /// A count that does not match, a null pointer, or a range that wraps around.
    ///
    /// # Safety
    /// Every region must be mapped readable and writable for its whole length until the value is
    /// dropped, and regions must not overlap. Only the guest, or other code that never holds Rust
    /// references into the regions, may access them at the same time.
    pub unsafe fn from_raw(layout: MemoryLayout, starts: &[*mut u8]) -> Result<Self, MapError> {
        let declared = layout.regions();
        if declared.len() != starts.len() {
            return Err(MapError::Count { pointers: starts.len(), regions: declared.len() });
        }
        let regions = declared
            .iter()
            .zip(starts)
            .map(|(region, start)| Region::foreign(&region.name, *start, region.length_bytes))
            .collect::<Result<_, _>>()?;
        Ok(Self { layout, regions })
    }

    /// Maps anonymous memory that reads as zero; unmapped again on drop.
    ///
    /// # Errors
    /// The kernel's refusal, with the region's name and size.
    pub fn allocate(layout: MemoryLayout, how: Allocation) -> Result<Self, MapError> {
        let regions = layout
            .regions()
            .iter()
            .map(|region| Region::anonymous(&region.name, region.length_bytes, how))
            .collect::<Result<_, _>>()?;
        Ok(Self { layout, regions })
    }

    /// The memory's shape.
    pub fn layout(&self) -> &MemoryLayout {
        &self.layout
    }

    /// Where a region is mapped, for a hypervisor that maps our memory into its guest.
    pub fn address(&self, region: usize) -> Option<*mut u8> {
        self.regions.get(region).map(|region| region.start.as_ptr())
    }

    /// Copies out bytes that the guest may be writing at the same time.
    ///
    /// # Errors
    /// The range is not within the region.
    #[inline]
    pub fn read(
        &self,
        region: usize,
        offset_bytes: u64,
        into: &mut [u8],
    ) -> Result<(), RangeError> {
        let from = self.range(region, offset_bytes, into.len() as u64)?;
        // SAFETY: `range` checked that the source is mapped; `into` is ours, so they do not
        // overlap. The copy may race with the guest's writes: it yields old or new bytes, all
        // values are valid for `u8`, and no reference to the racing bytes exists.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), into.as_mut_ptr(), into.len()) };
        Ok(())
    }

    /// Copies bytes in.
    ///
    /// # Errors
    /// The range is not within the region.
    #[inline]
    pub fn write(&self, region: usize, offset_bytes: u64, from: &[u8]) -> Result<(), RangeError> {
        let into = self.range(region, offset_bytes, from.len() as u64)?;
        // SAFETY: `range` checked that the target is mapped; `from` is ours, so they do not
        // overlap, and no reference to the target exists outside a running `receive` or `zero`.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), into.as_ptr(), from.len()) };
        Ok(())
    }

    /// Makes pages of a stopped guest read as zero, and writes only to those that do not.
    ///
    /// Pages that were never touched thus cost no memory.
    ///
    /// # Errors
    /// The range is not within the region.
    pub fn zero(
        &self,
        region: usize,
        offset_bytes: u64,
        length_bytes: u64,
    ) -> Result<(), RangeError> {
        let start = self.range(region, offset_bytes, length_bytes)?;
        // SAFETY: `range` checked that the range is mapped, and the guest is stopped.
        let bytes =
            unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), length_bytes as usize) };
        for page in bytes.chunks_mut(self.layout.page_bytes() as usize) {
            if !is_zero(page) {
                page.fill(0);
            }
        }
        Ok(())
    }

    /// Shows pages of a stopped guest to `inspect`, piece by piece. No device may be writing them.
    ///
    /// # Errors
    /// The range is not within the region; then nothing is shown.
    pub fn inspect(
        &self,
        region: usize,
        offset_bytes: u64,
        length_bytes: u64,
        inspect: &mut dyn FnMut(&[u8]),
    ) -> Result<(), RangeError> {
        let start = self.range(region, offset_bytes, length_bytes)?;
        // SAFETY: `range` checked that the range is mapped; the guest is stopped, and the device has
        // said that it is done.
        let bytes = unsafe { std::slice::from_raw_parts(start.as_ptr(), length_bytes as usize) };
        bytes.chunks(PIECE_BYTES as usize).for_each(inspect);
        Ok(())
    }

    /// Reads from `stream` straight into a stopped guest, piece by piece, and shows each piece to
    /// `inspect` while it is in cache.
    ///
    /// # Errors
    /// The stream's error; or `io::ErrorKind::Other` if the range is not within the region, and
    /// then nothing was read.
    pub fn receive(
        &self,
        region: usize,
        offset_bytes: u64,
        length_bytes: u64,
        stream: &mut dyn Read,
        inspect: &mut dyn FnMut(&[u8]),
    ) -> io::Result<()> {
        self.range(region, offset_bytes, length_bytes).map_err(io::Error::other)?;
        let mut done = 0;
        while done < length_bytes {
            let length = (length_bytes - done).min(PIECE_BYTES);
            let start =
                self.range(region, offset_bytes + done, length).map_err(io::Error::other)?;
            // SAFETY: `range` checked that the piece is mapped, and the guest is stopped. Should a
            // hostile peer send one page on two streams, both threads store plain bytes here and
            // the image digest tells; the slice lives for this piece only.
            let piece = unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), length as usize) };
            stream.read_exact(piece)?;
            inspect(piece);
            done += length;
        }
        Ok(())
    }

    /// Whether a range lies within its region.
    ///
    /// # Errors
    /// It does not.
    pub fn check_range(&self, region: usize, offset: u64, length: u64) -> Result<(), RangeError> {
        self.range(region, offset, length).map(drop)
    }

    /// Where a range begins that lies within its region.
    #[inline]
    pub(in crate::runtime) fn range(
        &self,
        region: usize,
        offset_bytes: u64,
        length_bytes: u64,
    ) -> Result<NonNull<u8>, RangeError> {
        let Some(mapped) = self.regions.get(region) else {
            return Err(RangeError::NoRegion { region, regions: self.regions.len() });
        };
        let inside = offset_bytes
            .checked_add(length_bytes)
            .is_some_and(|end| end <= mapped.length_bytes as u64);
        if !inside {
            return Err(self.outside(region, offset_bytes, length_bytes));
        }
        // SAFETY: the offset is at most the region's length, which was checked to be addressable.
        Ok(unsafe { mapped.start.add(offset_bytes as usize) })
    }

    #[cold]
    fn outside(&self, region: usize, offset_bytes: u64, length_bytes: u64) -> RangeError {
        let declared = &self.layout.regions()[region];
        RangeError::Outside {
            region,
            name: declared.name.clone(),
            region_bytes: declared.length_bytes,
            offset_bytes,
            length_bytes,
        }
    }
}

impl Region {
    fn foreign(name: &str, start: *mut u8, length_bytes: u64) -> Result<Self, MapError> {
        let fits = isize::try_from(length_bytes)
            .is_ok_and(|length| start.addr().checked_add(length as usize).is_some());
        match NonNull::new(start) {
            Some(start) if fits => {
                Ok(Self { start, length_bytes: length_bytes as usize, owned: false })
            }
            _ => Err(MapError::Address { name: name.into(), address: start.addr(), length_bytes }),
        }
    }

    fn anonymous(name: &str, length_bytes: u64, how: Allocation) -> Result<Self, MapError> {
        let system =
            |call, source| MapError::System { name: name.into(), call, length_bytes, source };
        let length = usize::try_from(length_bytes)
            .map_err(|_| system("mmap", io::Error::from_raw_os_error(libc::ENOMEM)))?;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing of
        // ours.
        let start = unsafe {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            libc::mmap(ptr::null_mut(), length, protection, flags, -1, 0)
        };
        if start == libc::MAP_FAILED {
            return Err(system("mmap", io::Error::last_os_error()));
        }
        let Some(start) = NonNull::new(start.cast::<u8>()) else {
            return Err(MapError::Address { name: name.into(), address: 0, length_bytes });
        };
        let region = Self { start, length_bytes: length, owned: true };
        if how.huge_pages {
            // Only a hint: a kernel without transparent huge pages answers EINVAL.
            let _ = region.advise(libc::MADV_HUGEPAGE);
        }
        if how.prefault {
            region.advise(libc::MADV_POPULATE_WRITE).map_err(|e| system("populating", e))?;
        }
        Ok(region)
    }

    fn advise(&self, advice: libc::c_int) -> io::Result<()> {
        // SAFETY: the range is a mapping of ours, and the advices used keep its contents.
        match unsafe { libc::madvise(self.start.as_ptr().cast(), self.length_bytes, advice) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if self.owned {
            // SAFETY: we mapped exactly this range, and nothing can use it after drop.
            unsafe { libc::munmap(self.start.as_ptr().cast(), self.length_bytes) };
        }
    }
}

/// Whether all bytes are zero; written so that the compiler uses vector registers.
fn is_zero(bytes: &[u8]) -> bool {
    let mut blocks = bytes.chunks_exact(256);
    blocks.all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
        && bytes.chunks_exact(256).remainder().iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::RegionLayout;

    fn layout(lengths: &[u64]) -> MemoryLayout {
        let region = |(index, length_bytes): (usize, &u64)| RegionLayout {
            name: format!("ram{index}"),
            guest_address: 0,
            length_bytes: *length_bytes,
        };
        MemoryLayout::new(4096, lengths.iter().enumerate().map(region).collect()).unwrap()
    }

    fn memory(lengths: &[u64]) -> MappedMemory {
        MappedMemory::allocate(layout(lengths), Allocation::default()).unwrap()
    }

    #[test]
    fn bytes_come_back_from_every_corner() {
        let memory = memory(&[8192, 4096]);
        let mut back = [0; 3];
        for (region, offset) in [(0, 0), (0, 8189), (1, 0), (1, 4093)] {
            memory.write(region, offset, &[1, 2, 3]).unwrap();
            memory.read(region, offset, &mut back).unwrap();
            assert_eq!(back, [1, 2, 3]);
        }
    }

    #[test]
    fn ranges_outside_are_named_and_touch_nothing() {
        let memory = memory(&[8192]);
        let far = [(0, 8190, 3), (0, 8193, 0), (0, u64::MAX, 1)];
        for (region, offset, length) in far {
            let error = memory.read(region, offset, &mut vec![0; length]).unwrap_err().to_string();
            assert!(error.contains(&format!("{length} bytes at offset {offset} ")), "{error}");
            assert!(error.contains("\"ram0\", 8192 bytes"), "{error}");
            assert!(memory.write(region, offset, &vec![0; length]).is_err());
            assert!(memory.zero(region, offset, length as u64).is_err());
        }
        assert!(memory.zero(0, 4096, u64::MAX).is_err());
        let error = memory.read(1, 0, &mut []).unwrap_err().to_string();
        assert_eq!(error, "there is no region 1; the guest has 1");
        memory.read(0, 8192, &mut []).unwrap();
    }

    #[test]
    fn zeroing_clears_data() {
        let memory = memory(&[64 * 4096]);
        memory.write(0, 3 * 4096 + 4095, &[9]).unwrap();
        memory.write(0, 5 * 4096, &[9; 4096]).unwrap();
        memory.zero(0, 0, 5 * 4096).unwrap();
        let mut all = vec![1; 64 * 4096];
        memory.read(0, 0, &mut all).unwrap();
        assert_eq!(all.iter().position(|byte| *byte != 0), Some(5 * 4096));
    }

    #[test]
    fn zeroing_never_writes_to_zero_pages() {
        let memory = memory(&[8 * 4096]);
        let start = memory.address(0).unwrap().cast();
        // SAFETY: the test's own memory; a write to it would now kill the test.
        assert_eq!(unsafe { libc::mprotect(start, 8 * 4096, libc::PROT_READ) }, 0);
        memory.zero(0, 0, 8 * 4096).unwrap();
    }

    #[test]
    fn every_byte_counts_in_the_zero_check() {
        for length in [1, 64, 255, 256, 257, 4096] {
            let mut bytes = vec![0; length];
            assert!(is_zero(&bytes));
            for at in 0..length {
                bytes[at] = 128;
                assert!(!is_zero(&bytes), "byte {at} of {length}");
                bytes[at] = 0;
            }
        }
    }

    #[test]
    fn a_stream_lands_in_place_and_each_piece_is_shown_once() {
        let length = PIECE_BYTES * 2 + 4096;
        let memory = memory(&[length + 4096]);
        let data: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
        let (mut shown, mut sizes) = (Vec::new(), Vec::new());
        memory
            .receive(0, 4096, length, &mut &data[..], &mut |piece| {
                shown.extend_from_slice(piece);
                sizes.push(piece.len() as u64);
            })
            .unwrap();
        assert_eq!(sizes, [PIECE_BYTES, PIECE_BYTES, 4096]);
        assert_eq!(shown, data);
        let mut back = vec![0; data.len()];
        memory.read(0, 4096, &mut back).unwrap();
        assert_eq!(back, data);
    }

    #[test]
    fn a_short_stream_and_a_bad_range_are_errors() {
        let memory = memory(&[8192]);
        let short = memory.receive(0, 0, 8192, &mut &[7; 100][..], &mut |_| panic!("shown"));
        assert_eq!(short.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let mut stream = &[7; 100][..];
        let outside = memory.receive(0, 8192, 1, &mut stream, &mut |_| panic!("shown"));
        assert_eq!(outside.unwrap_err().kind(), io::ErrorKind::Other);
        assert_eq!(stream.len(), 100);
    }

    #[test]
    fn a_hypervisors_memory_is_used_and_not_freed() {
        let mut host = vec![0_u8; 8192];
        // SAFETY: the buffer outlives the value and is not touched while it exists.
        let memory = unsafe { MappedMemory::from_raw(layout(&[8192]), &[host.as_mut_ptr()]) };
        memory.unwrap().write(0, 4096, &[5]).unwrap();
        assert_eq!(host[4096], 5);
    }

    #[test]
    fn bad_pointers_are_named() {
        let null = std::ptr::null_mut();
        let high = std::ptr::without_provenance_mut(usize::MAX - 100);
        for (starts, text) in [
            (vec![], "0 pointers for 1"),
            (vec![null], "address 0x0"),
            (vec![high], "address 0xffffffffffffff9b"),
        ] {
            // SAFETY: the constructor refuses before it uses any pointer.
            let error = unsafe { MappedMemory::from_raw(layout(&[8192]), &starts) }.unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    #[test]
    fn prefaulted_huge_memory_reads_as_zero() {
        let how = Allocation { huge_pages: true, prefault: true };
        let memory = MappedMemory::allocate(layout(&[4 << 20]), how).unwrap();
        let mut page = [1; 4096];
        memory.read(0, (4 << 20) - 4096, &mut page).unwrap();
        assert_eq!(page, [0; 4096]);
    }
}

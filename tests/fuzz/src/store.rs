//! A destination that is fed chunks: whatever they hold, its digest is that of its memory.

use dwcp::base::{MemoryLayout, MigrationId, RegionLayout, StreamId, Time};
use dwcp::encoding::{ImageDigest, page_hash};
use dwcp::migration::destination::{Destination, DestinationSetup};
use dwcp::migration::page_io::ChunkReader;
use dwcp::migration::{Ending, GuestError, GuestSink};
use dwcp::wire::ChunkHeader;
use dwcp::wire::chunk::{CHUNK_HEADER_BYTES, EXTENT_BYTES};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const PAGE_BYTES: u32 = 64;
const REGION_PAGES: [u64; 2] = [20, 44];
const STREAM: StreamId = StreamId(1);

/// A guest of 64 small pages in two regions.
struct Sink(Mutex<Vec<Vec<u8>>>);

/// Chunks one after the other: header, extents, payload. The first error ends the stream.
pub fn store(data: &[u8]) {
    stored_pages(data);
}

/// As [`store`]; says how many pages were stored whole.
pub fn stored_pages(data: &[u8]) -> u64 {
    let sink = Sink::new();
    let layout = sink.layout();
    let digest = Arc::new(ImageDigest::new(layout.page_count()));
    let mut destination = destination(&layout, digest.clone());
    let mut reader = ChunkReader::default();
    let mut rest = data;
    while let Some(header) = next_header(&mut rest) {
        if destination.begin_chunk(STREAM, &header).is_err() {
            break;
        }
        let stored = reader.store(&header, &mut rest, &sink, &layout, &digest);
        let whole = stored.as_ref().ok().copied();
        destination.end_chunk(STREAM, &header, whole, Time(1));
        if stored.is_err() {
            break;
        }
    }
    for page in 0..layout.page_count() {
        let hash = digest.hash_of(page);
        assert!(hash.is_none_or(|hash| hash == page_hash(&sink.page(page))), "page {page}");
    }
    layout.page_count() - digest.unset_pages()
}

fn next_header(rest: &mut &[u8]) -> Option<ChunkHeader> {
    let count = ChunkHeader::extent_count(rest.first_chunk::<CHUNK_HEADER_BYTES>()?).ok()?;
    let (head, tail) = rest.split_at_checked(CHUNK_HEADER_BYTES + count * EXTENT_BYTES)?;
    *rest = tail;
    ChunkHeader::decode(head, PAGE_BYTES).ok()
}

fn destination(layout: &MemoryLayout, digest: Arc<ImageDigest>) -> Destination {
    let setup = DestinationSetup {
        id: MigrationId([1; 16]),
        guest: "vm".into(),
        layout: layout.clone(),
        reconnect_timeout: Duration::from_secs(30),
        stall_timeout: Duration::from_secs(30),
        post_copy: false,
    };
    let mut destination = Destination::new(setup, digest, Time(0));
    destination.stream_up(STREAM, "peer", Time(0));
    destination
}

impl Sink {
    fn new() -> Self {
        let region = |pages: u64| vec![0xaa; pages as usize * PAGE_BYTES as usize];
        Self(Mutex::new(REGION_PAGES.into_iter().map(region).collect()))
    }

    fn page(&self, page: u64) -> Vec<u8> {
        let layout = self.layout();
        let mut ranges = layout.ranges(page..page + 1);
        let range = ranges.next().expect("a page within the layout");
        let mut bytes = vec![0; range.length_bytes as usize];
        self.read_pages(range.region, range.offset_bytes, &mut bytes).expect("within the region");
        bytes
    }

    fn with(
        &self,
        region: usize,
        offset_bytes: u64,
        length: usize,
        act: impl FnOnce(&mut [u8]),
    ) -> Result<(), GuestError> {
        let mut regions = self.0.lock().expect("no target panics within");
        let start = offset_bytes as usize;
        let bytes = regions.get_mut(region).and_then(|bytes| bytes.get_mut(start..start + length));
        bytes.map(act).ok_or_else(|| GuestError::new("access", "outside the guest"))
    }
}

impl GuestSink for Sink {
    fn layout(&self) -> MemoryLayout {
        let region = |(index, pages): (usize, u64)| RegionLayout {
            name: format!("ram{index}"),
            guest_address: 0,
            length_bytes: pages * u64::from(PAGE_BYTES),
        };
        let regions = REGION_PAGES.into_iter().enumerate().map(region).collect();
        MemoryLayout::new(PAGE_BYTES, regions).expect("a fixed layout")
    }

    fn write_pages(&self, region: usize, offset_bytes: u64, from: &[u8]) -> Result<(), GuestError> {
        self.with(region, offset_bytes, from.len(), |bytes| bytes.copy_from_slice(from))
    }

    fn zero_pages(
        &self,
        region: usize,
        offset_bytes: u64,
        length_bytes: u64,
    ) -> Result<(), GuestError> {
        self.with(region, offset_bytes, length_bytes as usize, |bytes| bytes.fill(0))
    }

    fn read_pages(
        &self,
        region: usize,
        offset_bytes: u64,
        into: &mut [u8],
    ) -> Result<(), GuestError> {
        self.with(region, offset_bytes, into.len(), |bytes| into.copy_from_slice(bytes))
    }

    fn load_device_state(&self, _state: &[u8]) -> Result<(), GuestError> {
        Ok(())
    }

    fn resume(&self) -> Result<(), GuestError> {
        Ok(())
    }

    fn finish(&self, _ending: Ending) -> Result<(), GuestError> {
        Ok(())
    }
}

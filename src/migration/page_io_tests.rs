//! Chunks from one plain memory to another, whole and not.

use super::*;
use crate::base::RegionLayout;
use crate::migration::guest::Ending;
use std::sync::Mutex;

const PAGE: usize = 4096;
const PAGES: u64 = 4;

/// Memory, and nothing else of a guest.
struct Plain(Mutex<Vec<u8>>);

impl Plain {
    fn filled(byte: impl Fn(usize) -> u8) -> Self {
        Self(Mutex::new((0..PAGES as usize * PAGE).map(byte).collect()))
    }

    fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }
}

fn layout() -> MemoryLayout {
    let length_bytes = PAGES * PAGE as u64;
    let region = RegionLayout { name: "ram".into(), guest_address: 0, length_bytes };
    MemoryLayout::new(PAGE as u32, vec![region]).unwrap()
}

impl GuestSource for Plain {
    fn layout(&self) -> MemoryLayout {
        layout()
    }

    fn start_dirty_log(&self) -> Result<(), GuestError> {
        Ok(())
    }

    fn fetch_dirty(&self, _: usize, _: &mut [u64]) -> Result<(), GuestError> {
        Ok(())
    }

    fn read_pages(&self, _: usize, offset_bytes: u64, into: &mut [u8]) -> Result<(), GuestError> {
        let at = offset_bytes as usize;
        into.copy_from_slice(&self.0.lock().unwrap()[at..at + into.len()]);
        Ok(())
    }

    fn pause(&self) -> Result<(), GuestError> {
        Ok(())
    }

    fn resume(&self) -> Result<(), GuestError> {
        Ok(())
    }

    fn save_device_state(&self) -> Result<Vec<u8>, GuestError> {
        Ok(Vec::new())
    }

    fn throttle(&self, _: u8) -> Result<bool, GuestError> {
        Ok(false)
    }

    fn finish(&self, _: Ending) -> Result<(), GuestError> {
        Ok(())
    }
}

impl GuestSink for Plain {
    fn layout(&self) -> MemoryLayout {
        layout()
    }

    fn write_pages(&self, _: usize, offset_bytes: u64, from: &[u8]) -> Result<(), GuestError> {
        let at = offset_bytes as usize;
        self.0.lock().unwrap()[at..at + from.len()].copy_from_slice(from);
        Ok(())
    }

    fn zero_pages(&self, region: usize, at: u64, length_bytes: u64) -> Result<(), GuestError> {
        self.write_pages(region, at, &vec![0; length_bytes as usize])
    }

    fn read_pages(&self, _: usize, offset_bytes: u64, into: &mut [u8]) -> Result<(), GuestError> {
        GuestSource::read_pages(self, 0, offset_bytes, into)
    }

    fn load_device_state(&self, _: &[u8]) -> Result<(), GuestError> {
        Ok(())
    }

    fn resume(&self) -> Result<(), GuestError> {
        Ok(())
    }

    fn finish(&self, _: Ending) -> Result<(), GuestError> {
        Ok(())
    }
}

#[test]
fn what_a_damaged_or_broken_chunk_spoils_is_not_in_the_digest_any_more() {
    for codec in [CodecChoice::None, CodecChoice::Lz4, CodecChoice::Zstd(1)] {
        let from = Plain::filled(|at| if at < PAGE { 0 } else { (at / 64 * 7 + at) as u8 });
        let to = Plain::filled(|_| 0xee);
        let (sent, came) = (ImageDigest::new(PAGES), ImageDigest::new(PAGES));
        let mut writer = ChunkWriter::default();
        let runs = [Run { first_page: 0, pages: PAGES as u32 }];
        let chunk = writer
            .encode((ChunkId(1), &runs), &from, &layout(), Carriage::Packed(codec), &sent, 0)
            .unwrap();
        let header = ChunkHeader::decode(&chunk.head[HEADER_BYTES..], PAGE as u32).unwrap();
        let mut reader = ChunkReader::default();
        let mut store = |mut bytes: &[u8]| reader.store(&header, &mut bytes, &to, &layout(), &came);
        assert!(store(chunk.payload).unwrap());
        assert_eq!((came.value(), to.bytes()), (sent.value(), from.bytes()));
        // The same pages once more, as when a page is written with what it holds already.
        for at in (0..chunk.payload.len()).step_by(97) {
            let mut damaged = chunk.payload.to_vec();
            damaged[at] ^= 4;
            assert!(!store(&damaged).unwrap(), "{codec} {at}");
            let is_spoilt = to.bytes() != from.bytes();
            assert!(!is_spoilt || came.value() != sent.value(), "{codec} {at}");
            assert!(store(chunk.payload).unwrap());
            assert_eq!((came.value(), to.bytes()), (sent.value(), from.bytes()));
        }
        let broken = store(&chunk.payload[..chunk.payload.len() / 2]);
        assert!(matches!(broken, Err(StoreError::Stream(_))), "{codec}");
        assert_ne!(came.value(), sent.value(), "half of its pages may have been stored");
        assert!(store(chunk.payload).unwrap());
        assert_eq!((came.value(), to.bytes()), (sent.value(), from.bytes()));
    }
}

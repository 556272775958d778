//! What one migration brought: packed blocks of pages in a file or in memory, and the pages' hashes
//! in the order of the blocks.

use super::HeldTotals;
use crate::encoding::baseline::PAGE_BYTES;
use crate::encoding::{Codec, Decoder, HeldKey};
use crate::runtime::sys::disk::free_bytes;
use ring::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Whole pages of one segment, packed.
pub struct Section {
    /// Whose pages.
    pub guest: String,
    /// Its number, of which a store gives each once.
    pub number: u64,
    begun: Instant,
    storage: Storage,
    /// Of the first blocks, or of all.
    hashes: Vec<u64>,
    /// Pages of all blocks.
    pages: u32,
    blocks: Vec<BlockPlace>,
    stored_bytes: u64,
    last_used: AtomicU64,
}

/// Where the blocks are.
pub enum Storage {
    /// Encrypted; the file goes with the section.
    File(File, PathBuf),
    /// As they are.
    Memory(Vec<Box<[u8]>>),
}

/// One block.
#[derive(Clone, Copy, Debug)]
pub struct BlockPlace {
    /// The first of its pages in the section.
    pub first_page: u32,
    /// How it is packed.
    pub codec: Codec,
    /// Length unpacked.
    pub raw_bytes: u32,
    at: u64,
    stored_bytes: u32,
}

impl Storage {
    /// A new file that only this user may read.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(path);
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("file {}: {error}", path.display()))
        };
        Ok(Self::File(file.map_err(named)?, path.to_path_buf()))
    }

    /// None.
    pub fn memory() -> Self {
        Self::Memory(Vec::new())
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        if let Self::File(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Section {
    /// An empty one.
    pub fn new(guest: &str, number: u64, storage: Storage) -> Self {
        Self {
            guest: guest.to_string(),
            number,
            begun: Instant::now(),
            storage,
            hashes: Vec::new(),
            pages: 0,
            blocks: Vec::new(),
            stored_bytes: 0,
            last_used: AtomicU64::new(number),
        }
    }

    /// Adds a block of pages; [`Self::hash`] or [`Self::add_hashes`] completes it.
    ///
    /// # Errors
    /// It cannot be written; what was added before stays.
    pub fn add(
        &mut self,
        key: &LessSafeKey,
        (codec, raw_bytes): (Codec, u32),
        mut packed: Vec<u8>,
    ) -> io::Result<()> {
        let nonce = nonce(self.number, self.blocks.len());
        let at = self.stored_bytes;
        let stored_bytes = match &mut self.storage {
            Storage::File(file, _) => {
                key.seal_in_place_append_tag(nonce, Aad::empty(), &mut packed)
                    .map_err(|_| io::Error::other("cannot encrypt"))?;
                write(file, &packed, at)?;
                packed.len() as u32
            }
            Storage::Memory(blocks) => {
                let length = packed.len() as u32;
                blocks.push(packed.into());
                length
            }
        };
        let first_page = self.pages;
        self.blocks.push(BlockPlace { first_page, codec, raw_bytes, at, stored_bytes });
        self.pages += raw_bytes / PAGE_BYTES as u32;
        self.stored_bytes += u64::from(stored_bytes);
        Ok(())
    }

    /// The hashes of the pages of the block that was added last.
    pub fn add_hashes(&mut self, hashes: &[u64]) {
        self.hashes.extend_from_slice(hashes);
    }

    /// Hashes the pages of all blocks, unless it is `stopped`.
    ///
    /// # Errors
    /// A block cannot be read again: the section ends before it.
    pub fn hash(
        &mut self,
        seal: &LessSafeKey,
        key: HeldKey,
        stopped: &dyn Fn() -> bool,
    ) -> io::Result<()> {
        let (mut decoder, mut pages) = (Decoder::default(), Vec::new());
        for block in 0..self.blocks.len() {
            let unpacked = match stopped() {
                true => Err(io::ErrorKind::Interrupted.into()),
                false => self.unpack(seal, block, &mut decoder, &mut pages),
            };
            if unpacked.is_err() {
                self.blocks.truncate(block);
                self.pages = self.hashes.len() as u32;
            }
            unpacked?;
            self.hashes.extend(pages.chunks_exact(PAGE_BYTES).map(|page| key.hash(page)));
        }
        Ok(())
    }

    /// The block that has a page, by its number in the section.
    pub fn block_of(&self, page: u32) -> Option<usize> {
        if page as usize >= self.hashes.len() {
            return None;
        }
        self.blocks.partition_point(|block| block.first_page <= page).checked_sub(1)
    }

    /// How many blocks there are.
    pub fn block_count(&self) -> usize {
        self.blocks.len()
    }

    /// The hashes of a block's pages.
    pub fn hashes_of(&self, block: usize) -> &[u64] {
        let first_page = |block: usize| self.blocks.get(block).map(|of| of.first_page as usize);
        let end = first_page(block + 1).unwrap_or(self.hashes.len());
        &self.hashes[first_page(block).unwrap_or(end)..end]
    }

    /// Reads a block into `out`, whose former content is lost.
    ///
    /// # Errors
    /// It cannot be read, or is not what was written.
    fn read(&self, key: &LessSafeKey, block: usize) -> io::Result<(BlockPlace, Vec<u8>)> {
        let place = *self.blocks.get(block).ok_or(io::ErrorKind::NotFound)?;
        let (file, path) = match &self.storage {
            Storage::File(file, path) => (file, path),
            Storage::Memory(blocks) => {
                let bytes = blocks.get(block).ok_or(io::ErrorKind::NotFound)?;
                return Ok((place, bytes.to_vec()));
            }
        };
        let named = |text: String| io::Error::other(format!("file {}: {text}", path.display()));
        let mut bytes = vec![0; place.stored_bytes as usize];
        file.read_exact_at(&mut bytes, place.at).map_err(|error| named(error.to_string()))?;
        let length = key
            .open_in_place(nonce(self.number, block), Aad::empty(), &mut bytes)
            .map_err(|_| named(format!("block {block} is damaged")))?
            .len();
        bytes.truncate(length);
        Ok((place, bytes))
    }

    /// Reads a block and unpacks it into `pages`.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn unpack(
        &self,
        key: &LessSafeKey,
        block: usize,
        decoder: &mut Decoder,
        pages: &mut Vec<u8>,
    ) -> io::Result<BlockPlace> {
        let (place, packed) = self.read(key, block)?;
        decoder
            .decode(place.codec, &packed, place.raw_bytes, pages)
            .map_err(|error| io::Error::other(format!("block {block}: {error}")))?;
        Ok(place)
    }

    /// The pages' hashes, in order.
    pub fn hashes(&self) -> &[u64] {
        &self.hashes
    }

    /// How much it is.
    pub fn totals(&self) -> HeldTotals {
        HeldTotals { sections: 1, pages: self.hashes.len() as u64, bytes: self.stored_bytes }
    }

    /// Memory that it takes: indexes, and the blocks where no file has them.
    pub fn memory_bytes(&self) -> u64 {
        let indexes = self.hashes.capacity() * size_of::<u64>()
            + self.blocks.capacity() * size_of::<BlockPlace>();
        let blocks = match self.storage {
            Storage::File(..) => 0,
            Storage::Memory(_) => self.stored_bytes,
        };
        indexes as u64 + blocks
    }

    /// Since it was begun.
    pub fn age(&self) -> Duration {
        self.begun.elapsed()
    }

    /// When one of its pages was read last, by the store's count.
    pub fn last_used(&self) -> u64 {
        self.last_used.load(Ordering::Relaxed)
    }

    /// One of its pages is read.
    pub fn use_at(&self, count: u64) {
        self.last_used.store(count, Ordering::Relaxed);
    }
}

/// Writes, unless others than this would then want for room.
fn write(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    let free = free_bytes(file)?;
    if free < LEAST_FREE_BYTES + bytes.len() as u64 {
        let text = format!("only {free} bytes are free, and {LEAST_FREE_BYTES} are left to others");
        return Err(io::Error::new(io::ErrorKind::StorageFull, text));
    }
    // Half a block takes room and is of no use.
    file.write_all_at(bytes, at).inspect_err(|_| drop(file.set_len(at)))
}

/// Room that is left on the disk, for ownership records before all.
const LEAST_FREE_BYTES: u64 = 64 << 20;

/// No two blocks of a process have the same, and its key no other process has.
fn nonce(section: u64, block: usize) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[..8].copy_from_slice(&section.to_le_bytes());
    bytes[8..].copy_from_slice(&(block as u32).to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

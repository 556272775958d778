//! Adds to what is held: a thread that encrypts and writes behind a bounded queue. What costs more,
//! hashing each page, waits until the migration is over and nobody waits for a processor.

use super::section::Section;
use super::{HeldStore, HeldTotals};
use crate::encoding::baseline::PAGE_BYTES;
use crate::encoding::{Codec, CodecChoice, Encoder, HeldKey};
use crate::migration::relay::segment_io::FreshBlock;
use crate::runtime::sys::thread::{spawn_named, stand_back};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Blocks that wait, at most 2 MiB each. More are not held.
const QUEUE_BLOCKS: usize = 16;
/// Pages of a block that is made here.
const BLOCK_PAGES: usize = 256;
/// How such a block is packed: nobody waits for it.
const CODEC: CodecChoice = CodecChoice::Zstd(1);
/// What encrypting adds to a block.
const TAG_BYTES: u64 = 16;

/// Gives pages away, each once.
pub type Pages = Box<dyn FnOnce(&mut dyn FnMut(&[u8])) + Send>;

/// The migration's end of the queue. If all are dropped before [`Self::finish`], nothing is held.
#[derive(Clone)]
pub struct HeldWriter {
    queue: SyncSender<Job>,
}

enum Job {
    Block { raw_bytes: u32, codec: Codec, packed: Vec<u8> },
    Finish(Option<Pages>),
}

/// What the thread has.
struct Shelver {
    store: Arc<HeldStore>,
    key: HeldKey,
    section: Section,
    max_bytes: u64,
    reserved: HeldTotals,
    /// Nothing more goes in.
    full: bool,
}

impl HeldWriter {
    /// Starts the thread that fills this section.
    ///
    /// # Errors
    /// No thread can be made.
    pub(super) fn start(
        store: Arc<HeldStore>,
        key: HeldKey,
        section: Section,
        max_bytes: u64,
    ) -> io::Result<(Self, JoinHandle<()>)> {
        let (queue, jobs) = sync_channel(QUEUE_BLOCKS);
        let reserved = HeldTotals::default();
        let shelver = Shelver { store, key, section, max_bytes, reserved, full: false };
        let thread = spawn_named("dwcp-held", move || shelver.run(&jobs))?;
        Ok((Self { queue }, thread))
    }

    /// Holds a block, unless the thread is behind.
    pub fn add(&self, block: FreshBlock<'_>) {
        let FreshBlock { raw_bytes, codec, packed } = block;
        let job = Job::Block { raw_bytes, codec, packed: packed.to_vec() };
        drop(self.queue.try_send(job));
    }

    /// Ends the section; `last` are pages that may have travelled otherwise than whole.
    pub fn finish(self, last: Option<Pages>) {
        // Waits for the queue, which the thread empties without anybody's help.
        let _ = self.queue.send(Job::Finish(last));
    }
}

impl Shelver {
    fn run(mut self, jobs: &Receiver<Job>) {
        while let Ok(job) = jobs.recv() {
            match job {
                Job::Block { raw_bytes, codec, packed } => {
                    self.add((codec, raw_bytes), packed);
                }
                Job::Finish(last) => {
                    stand_back();
                    self.hash();
                    if let Some(last) = last {
                        self.add_unheld(last);
                    }
                    let Self { store, section, reserved, .. } = self;
                    let section = Some(section).filter(|section| section.totals().pages > 0);
                    return store.close(section, reserved);
                }
            }
        }
        self.store.close(None, self.reserved);
    }

    /// Whether the block was added.
    fn add(&mut self, form: (Codec, u32), packed: Vec<u8>) -> bool {
        if self.full || self.store.is_stopped() {
            return false;
        }
        let bytes = packed.len() as u64 + TAG_BYTES;
        let pages = u64::from(form.1) / PAGE_BYTES as u64;
        let more = HeldTotals { sections: 0, pages, bytes };
        let own_bytes = self.reserved.bytes;
        if own_bytes + bytes > self.max_bytes || !self.store.reserve(more, self.max_bytes) {
            self.full = true;
            return false;
        }
        self.reserved = self.reserved.plus(more);
        let Some(key) = self.store.seal_key() else { return false };
        self.section.add(key, form, packed).inspect_err(|error| self.give_up(error)).is_ok()
    }

    /// Hashes the pages of all blocks; one that cannot be read again ends the section before it.
    fn hash(&mut self) {
        let Some(seal) = self.store.seal_key() else { return };
        let (hash, store) = (self.key, &self.store);
        if let Err(error) = self.section.hash(seal, hash, &|| store.is_stopped()) {
            self.give_up(&error);
        }
    }

    fn give_up(&mut self, error: &io::Error) {
        self.full = true;
        let guest = &self.section.guest;
        self.store.notice(format!("no more pages of {guest:?} are held: {error}"));
    }

    /// Adds those of `last` that are not held of this guest.
    fn add_unheld(&mut self, last: Pages) {
        let mut known = self.store.hashes_of(&self.section.guest);
        known.extend(self.section.hashes());
        let (mut block, mut hashes) = (Vec::new(), Vec::new());
        let (mut encoder, mut scratch) = (Encoder::default(), Vec::new());
        last(&mut |page| {
            if self.full || self.store.is_stopped() {
                return;
            }
            let hash = self.key.hash(page);
            if known.insert(hash) {
                hashes.push(hash);
                block.extend_from_slice(page);
            }
            if hashes.len() == BLOCK_PAGES {
                self.pack(&mut encoder, &mut scratch, &mut block, &mut hashes);
            }
        });
        if !hashes.is_empty() {
            self.pack(&mut encoder, &mut scratch, &mut block, &mut hashes);
        }
    }

    fn pack(
        &mut self,
        encoder: &mut Encoder,
        scratch: &mut Vec<u8>,
        block: &mut Vec<u8>,
        hashes: &mut Vec<u64>,
    ) {
        if let Ok(encoded) = encoder.encode(CODEC, block, scratch) {
            let packed = encoded.payload.to_vec();
            if self.add((encoded.codec, block.len() as u32), packed) {
                self.section.add_hashes(hashes);
            }
        }
        block.clear();
        hashes.clear();
    }
}

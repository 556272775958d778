//! What was announced to a source, and its pages by their place therein.

use super::HeldStore;
use super::section::Section;
use crate::encoding::baseline::PAGE_BYTES;
use crate::encoding::{Decoder, HeldError, HeldPages};
use crate::runtime::sys::thread::spawn_named;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

/// Unpacked blocks that are kept; a guest's pages come back about in the order in which they went.
const CACHED_BLOCKS: usize = 8;

/// Sections that stay while a migration may refer to them.
pub struct HeldSet {
    shelf: Arc<Pinned>,
    count: u32,
    decoder: Decoder,
    /// The one read last is the last.
    cache: Vec<CachedBlock>,
    /// Reads what is likely to be asked for next; begun with the first block.
    ahead: Option<Ahead>,
}

/// What is read from.
struct Pinned {
    store: Weak<HeldStore>,
    /// Each with the place of its first page.
    sections: Vec<(u32, Arc<Section>)>,
}

/// A block of a section, both by number.
type BlockId = (usize, usize);

struct CachedBlock {
    id: BlockId,
    first_page: u32,
    bytes: Vec<u8>,
}

/// A thread that unpacks one block while those before it are used.
struct Ahead {
    /// None: it is to end.
    questions: Option<SyncSender<BlockId>>,
    answers: Receiver<io::Result<CachedBlock>>,
    /// What was asked and not taken.
    asked: Option<BlockId>,
    thread: Option<JoinHandle<()>>,
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
        let shelf = Arc::new(Pinned { store, sections: pinned });
        Self { shelf, count, decoder: Decoder::default(), cache: Vec::new(), ahead: None }
    }

    /// The pages' hashes, in order.
    pub fn hashes(&self) -> Vec<u64> {
        let all = self.shelf.sections.iter().flat_map(|(_, section)| section.hashes());
        all.take(self.count as usize).copied().collect()
    }

    /// Brings a block to the end of the cache, and has the one behind it read.
    fn load(&mut self, id: BlockId) -> io::Result<()> {
        let awaited = self.ahead.as_mut().and_then(|ahead| ahead.take(id));
        let block = match awaited {
            Some(block) => block?,
            None => self.shelf.read(id, &mut self.decoder)?,
        };
        if self.cache.len() == CACHED_BLOCKS {
            self.cache.remove(0);
        }
        self.cache.push(block);
        let next = (id.0, id.1 + 1);
        let is_kept = self.cache.iter().any(|kept| kept.id == next);
        if !is_kept && self.shelf.has(next) {
            if self.ahead.is_none() {
                // Without a thread, each is read when it is due.
                self.ahead = Ahead::start(self.shelf.clone()).ok();
            }
            self.ahead.iter_mut().for_each(|ahead| ahead.ask(next));
        }
        Ok(())
    }
}

impl Pinned {
    fn has(&self, (section, block): BlockId) -> bool {
        self.sections.get(section).is_some_and(|(_, section)| block < section.block_count())
    }

    fn read(&self, id: BlockId, decoder: &mut Decoder) -> io::Result<CachedBlock> {
        let (_, section) = self.sections.get(id.0).ok_or(io::ErrorKind::NotFound)?;
        let store = self.store.upgrade().ok_or(io::ErrorKind::NotConnected)?;
        let key = store.seal_key().ok_or(io::ErrorKind::NotFound)?;
        let mut bytes = Vec::new();
        let place = section.unpack(key, id.1, decoder, &mut bytes)?;
        section.use_at(store.use_now());
        Ok(CachedBlock { id, first_page: place.first_page, bytes })
    }
}

impl Ahead {
    fn start(shelf: Arc<Pinned>) -> io::Result<Self> {
        let (questions, asked) = sync_channel::<BlockId>(1);
        let (answer, answers) = sync_channel(1);
        let thread = spawn_named("dwcp-ahead", move || {
            let mut decoder = Decoder::default();
            while let Ok(id) = asked.recv() {
                if answer.send(shelf.read(id, &mut decoder)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { questions: Some(questions), answers, asked: None, thread: Some(thread) })
    }

    /// Has a block read, unless another is.
    fn ask(&mut self, id: BlockId) {
        if self.asked.is_some() && self.answers.try_recv().is_ok() {
            // Nobody wanted it.
            self.asked = None;
        }
        let questions = self.questions.as_ref().filter(|_| self.asked.is_none());
        if questions.is_some_and(|questions| questions.try_send(id).is_ok()) {
            self.asked = Some(id);
        }
    }

    /// The block, if it was asked for.
    fn take(&mut self, id: BlockId) -> Option<io::Result<CachedBlock>> {
        self.asked.take_if(|asked| *asked == id)?;
        self.answers.recv().ok()
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.questions = None;
        // What it has in hand it leaves in the channel's one place.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl HeldPages for HeldSet {
    fn append(&mut self, index: u32, out: &mut Vec<u8>) -> Result<(), HeldError> {
        if index >= self.count {
            return Err(HeldError::Unknown(self.count));
        }
        let at = self.shelf.sections.partition_point(|(first, _)| *first <= index);
        let at = at.checked_sub(1).ok_or(HeldError::Unreadable)?;
        let (first, section) = &self.shelf.sections[at];
        let page = index - first;
        let block = section.block_of(page).ok_or(HeldError::Unreadable)?;
        match self.cache.iter().position(|kept| kept.id == (at, block)) {
            // Last means latest.
            Some(kept) => self.cache[kept..].rotate_left(1),
            None => {
                let number = section.number;
                if let Err(error) = self.load((at, block)) {
                    if let Some(store) = self.shelf.store.upgrade() {
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

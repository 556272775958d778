//! What this host keeps of the pages that it sent and received, so that a guest which comes back, or
//! one like it, need not bring them again.
//!
//! ```text
//! migration -> HeldWriter -> thread: encrypt, write; at the end: hash -> Section -> HeldStore
//! next migration into this node: HeldStore -> HeldSet: announced by hash, read by place
//! ```
//! A section is what one migration brought, as the blocks of whole pages that travelled; they are
//! packed already. With a directory it is a file, encrypted under a key that lives and dies with
//! this process; without one it is in memory, and smaller. Nothing here may slow or fail a
//! migration: what cannot be written in time, or at all, is not held.

mod check;
pub mod facade;
mod reader;
mod section;
mod writer;

pub use check::{DamagedSection, HeldCheck};
pub use reader::HeldSet;
pub use writer::{HeldWriter, Pages};

use crate::base::limits::{MAX_ANNOUNCED_PAGES, MAX_HELD_PAGES, MAX_HELD_SECTIONS};
use crate::encoding::HeldKey;
use crate::observe::EventKind;
use crate::qemu::PAGE_BYTES;
use crate::runtime::journal::Journal;
use crate::runtime::lock::lock;
use ring::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
use section::{Section, Storage};
use serde::Serialize;
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

/// Where it is kept, below the state directory.
pub const DIRECTORY: &str = "held";
/// How the files end.
const ENDING: &str = "held";
/// What is held without a disk is such a part of the guest's memory at most.
const IN_MEMORY_SHARE: u64 = 16;
/// Pages announced for each page of the guest that comes, at most.
const ANNOUNCED_PER_PAGE: u64 = 2;

/// What a node keeps of guests that left or came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldOptions {
    /// Whether anything is kept.
    pub enabled: bool,
    /// Bytes on disk at most, or in memory where there is no state directory.
    pub max_bytes: u64,
}

impl Default for HeldOptions {
    fn default() -> Self {
        Self { enabled: true, max_bytes: 4 << 30 }
    }
}

/// How much is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HeldTotals {
    /// Migrations that brought it.
    pub sections: u64,
    /// Pages.
    pub pages: u64,
    /// Bytes, packed.
    pub bytes: u64,
}

/// All that is held, and the threads that add to it.
pub struct HeldStore {
    me: Weak<HeldStore>,
    /// None: nothing is held.
    keys: Option<Keys>,
    directory: Option<PathBuf>,
    max_bytes: u64,
    journal: Arc<Journal>,
    shelf: Mutex<Shelf>,
    /// Counts sections, and uses of them, for their order.
    clock: AtomicU64,
}

/// Both are made anew by each process.
struct Keys {
    hash: HeldKey,
    seal: LessSafeKey,
}

#[derive(Default)]
struct Shelf {
    sections: Vec<Arc<Section>>,
    /// Bytes and pages of sections that are being written.
    open: HeldTotals,
    threads: Vec<JoinHandle<()>>,
    stopped: bool,
}

impl HeldStore {
    /// An empty store. What an earlier process left in the directory cannot be read any more, and
    /// is removed.
    pub fn open(
        state_dir: Option<&Path>,
        options: HeldOptions,
        journal: Arc<Journal>,
    ) -> Arc<Self> {
        let directory = state_dir.map(|path| path.join(DIRECTORY));
        let mut keys = None;
        if options.enabled && options.max_bytes > 0 {
            let made = directory.as_deref().map_or(Ok(()), clean).and_then(|()| Keys::new());
            match made {
                Ok(made) => keys = Some(made),
                Err(error) => notice(&journal, format!("no pages will be held: {error}")),
            }
        }
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            keys,
            directory,
            max_bytes: options.max_bytes,
            journal,
            shelf: Mutex::default(),
            clock: AtomicU64::new(0),
        })
    }

    /// Begins to hold what a migration of `guest` brings; none if nothing is held here.
    pub fn begin(&self, guest: &str, ram_bytes: u64) -> Option<HeldWriter> {
        let keys = self.keys.as_ref()?;
        let store = self.me.upgrade()?;
        let number = self.clock.fetch_add(1, Ordering::Relaxed);
        let storage = match &self.directory {
            Some(directory) => std::fs::create_dir_all(directory)
                .and_then(|()| Storage::create(&directory.join(format!("{number}.{ENDING}")))),
            None => Ok(Storage::memory()),
        };
        let started = storage.and_then(|storage| {
            let section = Section::new(guest, number, storage);
            // Memory is for guests: what is held of them beside the disk is a part of theirs.
            let in_memory = self.directory.is_none();
            let max_bytes = if in_memory { ram_bytes / IN_MEMORY_SHARE } else { u64::MAX };
            HeldWriter::start(store, keys.hash, section, max_bytes.min(self.max_bytes))
        });
        match started {
            Ok((writer, thread)) => {
                let mut shelf = lock(&self.shelf);
                shelf.threads.retain(|thread| !thread.is_finished());
                shelf.threads.push(thread);
                Some(writer)
            }
            Err(error) => {
                self.notice(format!("pages of {guest:?} are not held: {error}"));
                None
            }
        }
    }

    /// What to announce to the source of `guest`: first what is held of this guest, then of others.
    pub fn announce(&self, guest: &str, ram_bytes: u64) -> HeldSet {
        let most = (ram_bytes / PAGE_BYTES as u64).saturating_mul(ANNOUNCED_PER_PAGE);
        let most = u32::try_from(most).unwrap_or(u32::MAX).min(MAX_ANNOUNCED_PAGES);
        let mut sections = lock(&self.shelf).sections.clone();
        sections.sort_by_key(|section| (section.guest != guest, u64::MAX - section.last_used()));
        HeldSet::new(self.me.clone(), sections, most)
    }

    /// What pages are hashed under; of no meaning where nothing is held.
    pub fn key(&self) -> HeldKey {
        self.keys.as_ref().map_or(HeldKey([0; 32]), |keys| keys.hash)
    }

    /// How much is held, of one guest or of all.
    pub fn totals(&self, guest: Option<&str>) -> HeldTotals {
        let shelf = lock(&self.shelf);
        let wanted = shelf.sections.iter().filter(|s| guest.is_none_or(|guest| s.guest == guest));
        wanted.fold(HeldTotals::default(), |sum, section| sum.plus(section.totals()))
    }

    /// Memory that complete sections take.
    pub fn memory_bytes(&self) -> u64 {
        lock(&self.shelf).sections.iter().map(|section| section.memory_bytes()).sum()
    }

    /// Lets go of what is held: of one guest or of all, of any age or of sections at least as old.
    /// Says how much that was.
    pub fn clear(&self, guest: Option<&str>, older_than: Option<Duration>) -> HeldTotals {
        let goes = |section: &Section| {
            guest.is_none_or(|guest| section.guest == guest)
                && older_than.is_none_or(|age| section.age() >= age)
        };
        let mut shelf = lock(&self.shelf);
        let (gone, kept) = std::mem::take(&mut shelf.sections).into_iter().partition(|s| goes(s));
        shelf.sections = kept;
        drop(shelf);
        let gone: Vec<Arc<Section>> = gone;
        gone.iter().fold(HeldTotals::default(), |sum, section| sum.plus(section.totals()))
    }

    /// Ends the threads; what is being written is not held.
    pub fn stop(&self) {
        let mut shelf = lock(&self.shelf);
        shelf.stopped = true;
        let threads = std::mem::take(&mut shelf.threads);
        shelf.sections.clear();
        drop(shelf);
        for thread in threads {
            if !crate::runtime::sys::thread::is_current(&thread) {
                let _ = thread.join();
            }
        }
    }

    fn is_stopped(&self) -> bool {
        lock(&self.shelf).stopped
    }

    fn seal_key(&self) -> Option<&LessSafeKey> {
        self.keys.as_ref().map(|keys| &keys.seal)
    }

    fn notice(&self, text: String) {
        notice(&self.journal, text);
    }

    /// Makes room for so much more, at the cost of what was used longest ago and nobody reads now.
    fn reserve(&self, more: HeldTotals, max_bytes: u64) -> bool {
        let mut shelf = lock(&self.shelf);
        loop {
            let held = shelf.sections.iter().fold(shelf.open, |sum, s| sum.plus(s.totals()));
            let fits = held.bytes + more.bytes <= max_bytes
                && held.pages + more.pages <= MAX_HELD_PAGES
                && shelf.sections.len() < MAX_HELD_SECTIONS;
            if fits {
                shelf.open = shelf.open.plus(more);
                return true;
            }
            let idle = |section: &&Arc<Section>| Arc::strong_count(section) == 1;
            let oldest = shelf.sections.iter().filter(idle).min_by_key(|s| s.last_used());
            let Some(oldest) = oldest.map(|section| section.number) else { return false };
            shelf.sections.retain(|section| section.number != oldest);
        }
    }

    /// A section is no longer written; what it reserved is its own, or free.
    fn close(&self, section: Option<Section>, reserved: HeldTotals) {
        let mut shelf = lock(&self.shelf);
        shelf.open = shelf.open.minus(reserved);
        if let Some(section) = section.filter(|_| !shelf.stopped) {
            shelf.sections.push(Arc::new(section));
        }
    }

    /// Hashes of what is held of a guest.
    fn hashes_of(&self, guest: &str) -> HashSet<u64> {
        let shelf = lock(&self.shelf);
        let own = shelf.sections.iter().filter(|section| section.guest == guest);
        own.flat_map(|section| section.hashes().iter().copied()).collect()
    }

    /// After a segment of `guest` came out other than it was sent: by a chance of one in millions two
    /// pages have one hash, so the next attempt goes without all that was announced to this one.
    pub fn distrust(&self, guest: &str) {
        if self.clear(None, None).pages > 0 {
            self.notice(format!("held pages are dropped: a segment of {guest:?} was damaged"));
        }
    }

    /// What is damaged is not announced again.
    fn drop_section(&self, number: u64, why: &str) {
        let mut shelf = lock(&self.shelf);
        let before = shelf.sections.len();
        shelf.sections.retain(|section| section.number != number);
        let known = shelf.sections.len() < before;
        drop(shelf);
        if known {
            self.notice(format!("held pages of section {number} are dropped: {why}"));
        }
    }

    fn use_now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }
}

impl HeldTotals {
    fn plus(self, other: Self) -> Self {
        Self {
            sections: self.sections + other.sections,
            pages: self.pages + other.pages,
            bytes: self.bytes + other.bytes,
        }
    }

    fn minus(self, other: Self) -> Self {
        Self {
            sections: self.sections.saturating_sub(other.sections),
            pages: self.pages.saturating_sub(other.pages),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }
}

impl Keys {
    fn new() -> io::Result<Self> {
        let (mut hash, mut seal) = ([0; 32], [0; 32]);
        for key in [&mut hash, &mut seal] {
            getrandom::fill(key).map_err(|error| io::Error::other(error.to_string()))?;
        }
        let seal = UnboundKey::new(&AES_256_GCM, &seal)
            .map_err(|_| io::Error::other("no key for AES-256-GCM"))?;
        Ok(Self { hash: HeldKey(hash), seal: LessSafeKey::new(seal) })
    }
}

/// Removes what an earlier process left in the directory, if there is one.
fn clean(directory: &Path) -> io::Result<()> {
    let named = |error: io::Error| {
        io::Error::new(error.kind(), format!("directory {}: {error}", directory.display()))
    };
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(named)?,
    };
    for entry in entries {
        let path = entry.map_err(named)?.path();
        if path.extension().is_some_and(|ending| ending == ENDING) {
            std::fs::remove_file(path).map_err(named)?;
        }
    }
    Ok(())
}

fn notice(journal: &Journal, text: String) {
    journal.publish(None, None, EventKind::Notice { text });
}

#[cfg(test)]
mod tests;

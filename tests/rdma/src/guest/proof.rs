//! A guest whose memory follows from a count of its writes, so that a page that is lost, old or torn is
//! found: write `k` fills one page, in turn, with what follows from `k`. The count is its device state.

use dwcp::base::{MemoryLayout, RegionLayout};
use dwcp::migration::{Ending, GuestError, GuestSink, GuestSource};
use dwcp::runtime::mapped_guest::{DirtyLog, MappedSink, MappedSource, SinkControl, SourceControl};
use dwcp::runtime::sys::{Allocation, MappedMemory};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

const PAGE: u64 = 4096;
/// The guest's regions, whose pages are numbered through.
const REGION_PAGES: [u64; 2] = [2048, 6144];
const PAGES: u64 = REGION_PAGES[0] + REGION_PAGES[1];
/// One page of so many is written while it runs; each fourth of all is zero before that.
const BUSY_SHARE: u64 = 16;

/// Length of its memory.
pub const GUEST_BYTES: u64 = PAGES * PAGE;

/// The guest on one side.
#[derive(Clone)]
pub struct Proof(Arc<State>);

struct State {
    memory: Arc<MappedMemory>,
    log: Vec<AtomicU64>,
    /// Held while a write is made.
    count: Mutex<u64>,
    runs: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Proof {
    /// A stopped guest with zeroed memory.
    pub fn new() -> Result<Self, GuestError> {
        let failed = |error: &dyn std::fmt::Display| GuestError::new("allocate", error);
        let region = |(number, pages): (usize, &u64)| RegionLayout {
            name: format!("ram{number}"),
            guest_address: number as u64 * GUEST_BYTES,
            length_bytes: pages * PAGE,
        };
        let regions = REGION_PAGES.iter().enumerate().map(region).collect();
        let layout = MemoryLayout::new(PAGE as u32, regions).map_err(|error| failed(&error))?;
        let memory = MappedMemory::allocate(layout, Allocation::default());
        let memory = Arc::new(memory.map_err(|error| failed(&error))?);
        let log = (0..PAGES.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        let (count, runs, thread) = Default::default();
        Ok(Self(Arc::new(State { memory, log, count, runs, thread })))
    }

    /// Fills its memory and starts it.
    pub fn boot(&self) -> Result<(), GuestError> {
        for page in 0..PAGES {
            self.0.write(page, 0)?;
        }
        self.start();
        Ok(())
    }

    /// Lets it write.
    pub fn start(&self) {
        if !self.0.runs.swap(true, Ordering::SeqCst) {
            let state = self.0.clone();
            let thread = std::thread::spawn(move || state.run());
            *locked(&self.0.thread) = Some(thread);
        }
    }

    /// Stops it; nothing writes on return.
    pub fn stop(&self) {
        self.0.runs.store(false, Ordering::SeqCst);
        let thread = locked(&self.0.thread).take();
        thread.into_iter().for_each(|thread| drop(thread.join()));
    }

    /// Whether it runs, and its writes so far; every page must be as these left it.
    pub fn look(&self) -> Result<(bool, u64), String> {
        let count = locked(&self.0.count);
        let (mut found, mut wanted) = ([0; PAGE as usize], [0; PAGE as usize]);
        for page in 0..PAGES {
            let (region, offset) = place(page);
            self.0.memory.read(region, offset, &mut found).map_err(|error| error.to_string())?;
            fill(&mut wanted, page, last_write(page, *count));
            if found != wanted {
                let differ = found.iter().zip(&wanted).filter(|(a, b)| a != b).count();
                return Err(format!("page {page}: {differ} bytes differ after {count} writes"));
            }
        }
        Ok((self.0.runs.load(Ordering::SeqCst), *count))
    }

    /// As one that leaves.
    pub fn source(&self) -> Arc<dyn GuestSource> {
        let log = Box::new(self.clone());
        Arc::new(MappedSource::new(self.0.memory.clone(), log, Box::new(self.clone())))
    }

    /// As one that arrives.
    pub fn sink(&self) -> Arc<dyn GuestSink> {
        Arc::new(MappedSink::new(self.0.memory.clone(), Box::new(self.clone())))
    }
}

impl State {
    fn write(&self, page: u64, write: u64) -> Result<(), GuestError> {
        let mut bytes = [0; PAGE as usize];
        fill(&mut bytes, page, write);
        let (region, offset) = place(page);
        let written = self.memory.write(region, offset, &bytes);
        written.map_err(|error| GuestError::new("write", error))?;
        // After the write: who reads the page before this reads it once more.
        self.log[(page / 64) as usize].fetch_or(1 << (page % 64), Ordering::SeqCst);
        Ok(())
    }

    fn run(&self) {
        while self.runs.load(Ordering::SeqCst) {
            let mut count = locked(&self.count);
            for _ in 0..8 {
                let next = *count + 1;
                if self.write(busy_page(next), next).is_err() {
                    return;
                }
                *count = next;
            }
            drop(count);
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl DirtyLog for Proof {
    fn start(&self) -> Result<(), GuestError> {
        self.0.log.iter().for_each(|word| word.store(0, Ordering::SeqCst));
        Ok(())
    }

    fn fetch(&self, region: usize, log: &mut [u64]) -> Result<(), GuestError> {
        // Regions are whole words of the log.
        let first = REGION_PAGES[..region].iter().sum::<u64>() / 64;
        let words = &self.0.log[first as usize..];
        log.iter_mut().zip(words).for_each(|(to, word)| *to = word.swap(0, Ordering::SeqCst));
        Ok(())
    }

    fn stop(&self) -> Result<(), GuestError> {
        Ok(())
    }
}

impl SourceControl for Proof {
    fn pause(&self) -> Result<(), GuestError> {
        self.stop();
        Ok(())
    }

    fn resume(&self) -> Result<(), GuestError> {
        self.start();
        Ok(())
    }

    fn save_device_state(&self) -> Result<Vec<u8>, GuestError> {
        Ok(locked(&self.0.count).to_le_bytes().to_vec())
    }

    fn finish(&self, _: Ending) -> Result<(), GuestError> {
        Ok(())
    }
}

impl SinkControl for Proof {
    fn load_device_state(&self, state: &[u8]) -> Result<(), GuestError> {
        let wrong = |_| GuestError::new("load_device_state", format!("{} bytes", state.len()));
        *locked(&self.0.count) = u64::from_le_bytes(state.try_into().map_err(wrong)?);
        Ok(())
    }

    fn resume(&self) -> Result<(), GuestError> {
        self.start();
        Ok(())
    }

    fn finish(&self, _: Ending) -> Result<(), GuestError> {
        Ok(())
    }
}

/// Region and offset of a page.
fn place(page: u64) -> (usize, u64) {
    match page.checked_sub(REGION_PAGES[0]) {
        None => (0, page * PAGE),
        Some(page) => (1, page * PAGE),
    }
}

fn busy_page(write: u64) -> u64 {
    (write - 1) % (PAGES / BUSY_SHARE) * BUSY_SHARE
}

fn last_write(page: u64, count: u64) -> u64 {
    let (busy, index) = (PAGES / BUSY_SHARE, page / BUSY_SHARE);
    match page.is_multiple_of(BUSY_SHARE) && count > index {
        true => count - (count - 1 - index) % busy,
        false => 0,
    }
}

fn fill(bytes: &mut [u8; PAGE as usize], page: u64, write: u64) {
    bytes.fill(0);
    if write == 0 && page % 4 == 3 {
        return;
    }
    let mut word = (page << 32 ^ write).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for place in bytes.as_chunks_mut().0 {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        *place = word.to_le_bytes();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

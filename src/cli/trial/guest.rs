//! A guest whose whole memory follows from a count of its writes, so that one lost, late or changed
//! byte is found whenever somebody looks.
//!
//! Write `k` goes to one of the busy pages, in turn, and fills it with what follows from page and
//! `k`. The count travels as device state. So whoever has the count knows every page:
//!
//! ```text
//! busy page i (of n): last write  k = the largest k <= count with (k - 1) mod n = i, 0 if none
//! any other page:     as it was when the guest was made
//! ```

use crate::base::{MemoryLayout, RegionLayout};
use crate::migration::{Ending, GuestError, GuestSink, GuestSource};
use crate::runtime::lock::lock;
use crate::runtime::mapped_guest::{DirtyLog, MappedSink, MappedSource};
use crate::runtime::mapped_guest::{SinkControl, SourceControl};
use crate::runtime::process_memory::process_memory_source;
use crate::runtime::sys::tracking_support::probe;
use crate::runtime::sys::{Allocation, MappedMemory, RangeError, spawn_named};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The guest on one side: its memory, and whether it runs.
#[derive(Clone)]
pub struct ProofGuest(Arc<State>);

/// What a guest is made with, on every node that it may come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestSize {
    /// Its memory.
    pub bytes: u64,
    /// Pages that it writes.
    pub writes_per_s: u64,
}

struct State {
    memory: Arc<MappedMemory>,
    pages: u64,
    writes_per_s: u64,
    /// Writes so far; the lock is held while one is made.
    count: Mutex<u64>,
    running: AtomicBool,
    throttle_percent: AtomicU8,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// The count with which it came here.
    arrived_with: AtomicU64,
    /// Who notes writes; none: the kernel does.
    log: Option<Arc<OwnLog>>,
}

/// What a look at the whole memory found.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Look {
    /// Whether the guest runs here.
    pub is_running: bool,
    /// Writes so far.
    pub count: u64,
    /// Writes that it came here with.
    pub arrived_with: u64,
    /// Pages that were compared.
    pub pages: u64,
    /// Pages that are not as they must be.
    pub damaged: u64,
    /// The first of them.
    pub first_damage: Option<String>,
}

impl ProofGuest {
    /// A stopped guest with zeroed memory.
    ///
    /// # Errors
    /// The kernel has no memory for it.
    pub fn new(size: GuestSize) -> Result<Self, GuestError> {
        Self::with_log(size, Self::is_tracked_by_kernel())
    }

    /// Whether the kernel notes what guests write here; else they do so themselves.
    pub fn is_tracked_by_kernel() -> bool {
        probe().is_ok()
    }

    fn with_log(size: GuestSize, is_tracked: bool) -> Result<Self, GuestError> {
        let GuestSize { bytes, writes_per_s } = size;
        let pages = (bytes / PAGE).max(BUSY_SHARE);
        let log = (!is_tracked).then(|| Arc::new(OwnLog::new(pages)));
        let region =
            RegionLayout { name: "ram".into(), guest_address: 0, length_bytes: pages * PAGE };
        let layout = MemoryLayout::new(PAGE as u32, vec![region])
            .map_err(|error| GuestError::new("allocate", error))?;
        let memory = MappedMemory::allocate(layout, Allocation::default())
            .map_err(|error| GuestError::new("allocate", error))?;
        Ok(Self(Arc::new(State {
            memory: Arc::new(memory),
            pages,
            writes_per_s,
            count: Mutex::new(0),
            running: AtomicBool::new(false),
            throttle_percent: AtomicU8::new(0),
            thread: Mutex::default(),
            arrived_with: AtomicU64::new(0),
            log,
        })))
    }

    /// Makes its memory and lets it run from the start.
    ///
    /// # Errors
    /// Memory cannot be written, or no thread is left.
    pub fn boot(&self) -> Result<(), GuestError> {
        let mut bytes = [0; PAGE as usize];
        for page in 0..self.0.pages {
            fill(&mut bytes, page, 0);
            self.0.write(page, &bytes).map_err(|error| GuestError::new("boot", error))?;
        }
        *lock(&self.0.count) = 0;
        self.start()
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// No thread is left.
    pub fn start(&self) -> Result<(), GuestError> {
        let mut thread = lock(&self.0.thread);
        if self.0.running.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let state = self.0.clone();
        match spawn_named("dwcp-guest", move || state.run()) {
            Ok(started) => *thread = Some(started),
            Err(error) => {
                self.0.running.store(false, Ordering::SeqCst);
                return Err(GuestError::new("start", error));
            }
        }
        Ok(())
    }

    /// Stops it; nothing writes its memory on return.
    pub fn stop(&self) {
        self.0.running.store(false, Ordering::SeqCst);
        if let Some(thread) = lock(&self.0.thread).take() {
            thread.thread().unpark();
            // It only writes memory; had it panicked, a look would tell.
            let _ = thread.join();
        }
    }

    /// What can be told without comparing pages.
    pub fn glance(&self) -> Look {
        let count = lock(&self.0.count);
        Look {
            is_running: self.0.running.load(Ordering::SeqCst),
            count: *count,
            arrived_with: self.0.arrived_with.load(Ordering::SeqCst),
            ..Look::default()
        }
    }

    /// Compares every page with what it must be. The guest stands still meanwhile.
    pub fn look(&self) -> Look {
        let count = lock(&self.0.count);
        let mut look = Look {
            is_running: self.0.running.load(Ordering::SeqCst),
            count: *count,
            arrived_with: self.0.arrived_with.load(Ordering::SeqCst),
            pages: self.0.pages,
            ..Look::default()
        };
        let (mut found, mut expected) = ([0; PAGE as usize], [0; PAGE as usize]);
        for page in 0..self.0.pages {
            let written = last_write(page, self.0.pages, *count);
            fill(&mut expected, page, written);
            let damage = match self.0.memory.read(0, page * PAGE, &mut found) {
                Ok(()) if found == expected => continue,
                Ok(()) => describe(page, written, &found, &expected),
                Err(error) => format!("page {page}: {error}"),
            };
            look.damaged += 1;
            look.first_damage.get_or_insert(damage);
        }
        look
    }

    /// Changes one byte behind everybody's back, on a page that the guest never writes.
    ///
    /// # Errors
    /// Memory cannot be written.
    pub fn spoil(&self) -> Result<(), GuestError> {
        let _still = lock(&self.0.count);
        let mut bytes = [0; PAGE as usize];
        fill(&mut bytes, SPOILT_PAGE, 0);
        bytes[100] ^= 1;
        self.0.write(SPOILT_PAGE, &bytes).map_err(|error| GuestError::new("spoil", error))
    }

    /// As one that leaves.
    pub fn source(&self) -> Arc<dyn GuestSource> {
        let (memory, control) = (self.0.memory.clone(), Box::new(self.clone()));
        Arc::new(match &self.0.log {
            None => process_memory_source(memory, control),
            Some(log) => MappedSource::new(memory, Box::new(log.clone()), control),
        })
    }

    /// As one that arrives.
    pub fn sink(&self) -> Arc<dyn GuestSink> {
        Arc::new(MappedSink::new(self.0.memory.clone(), Box::new(self.clone())))
    }
}

impl State {
    fn write(&self, page: u64, bytes: &[u8]) -> Result<(), RangeError> {
        self.memory.write(0, page * PAGE, bytes)?;
        // After the write: whoever reads the page before this will read it once more.
        self.log.iter().for_each(|log| log.note(page));
        Ok(())
    }

    /// What is due after so long at the speed that the guest has now.
    fn writes_in(&self, time: Duration) -> f64 {
        let throttle = f64::from(self.throttle_percent.load(Ordering::SeqCst)) / 100.0;
        time.as_secs_f64() * self.writes_per_s as f64 * (1.0 - throttle)
    }

    fn run(&self) {
        let (mut last, mut due) = (Instant::now(), 0.0);
        let mut bytes = [0; PAGE as usize];
        while self.running.load(Ordering::SeqCst) {
            let now = Instant::now();
            due += self.writes_in(now - last);
            last = now;
            while due >= 1.0 && self.running.load(Ordering::SeqCst) {
                let mut count = lock(&self.count);
                let next = *count + 1;
                let page = busy_page(next, self.pages);
                fill(&mut bytes, page, next);
                // The page exists; a write that failed would show in the next look.
                let _ = self.write(page, &bytes);
                *count = next;
                due -= 1.0;
            }
            std::thread::park_timeout(self.pause(due));
        }
    }

    /// How long to do nothing while less than one write is due. Many guests that write little are
    /// not to keep the processors busy by looking at the clock.
    fn pause(&self, due: f64) -> Duration {
        let per_s = self.writes_in(Duration::from_secs(1));
        let left = if per_s > 0.0 { (1.0 - due) / per_s } else { f64::MAX };
        let longest = LONGEST_PAUSE.as_secs_f64();
        Duration::from_secs_f64(left.clamp(SHORTEST_PAUSE.as_secs_f64(), longest))
    }
}

impl SourceControl for ProofGuest {
    fn pause(&self) -> Result<(), GuestError> {
        self.stop();
        Ok(())
    }

    fn resume(&self) -> Result<(), GuestError> {
        self.start()
    }

    fn save_device_state(&self) -> Result<Vec<u8>, GuestError> {
        Ok(lock(&self.0.count).to_le_bytes().to_vec())
    }

    fn throttle(&self, percent: u8) -> Result<bool, GuestError> {
        self.0.throttle_percent.store(percent.min(100), Ordering::SeqCst);
        Ok(true)
    }

    fn finish(&self, _: Ending) -> Result<(), GuestError> {
        self.0.throttle_percent.store(0, Ordering::SeqCst);
        Ok(())
    }
}

impl SinkControl for ProofGuest {
    fn load_device_state(&self, state: &[u8]) -> Result<(), GuestError> {
        let wrong = |_| GuestError::new("load_device_state", format!("{} bytes", state.len()));
        let count = u64::from_le_bytes(state.try_into().map_err(wrong)?);
        *lock(&self.0.count) = count;
        self.0.arrived_with.store(count, Ordering::SeqCst);
        Ok(())
    }

    fn resume(&self) -> Result<(), GuestError> {
        self.start()
    }

    fn finish(&self, _: Ending) -> Result<(), GuestError> {
        Ok(())
    }
}

/// A dirty log that the guest writes itself, for kernels that cannot.
struct OwnLog {
    is_on: AtomicBool,
    words: Vec<AtomicU64>,
}

impl OwnLog {
    fn new(pages: u64) -> Self {
        let words = (0..pages.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self { is_on: AtomicBool::new(false), words }
    }

    fn note(&self, page: u64) {
        if self.is_on.load(Ordering::SeqCst)
            && let Some(word) = self.words.get((page / 64) as usize)
        {
            word.fetch_or(1 << (page % 64), Ordering::SeqCst);
        }
    }
}

impl DirtyLog for Arc<OwnLog> {
    fn start(&self) -> Result<(), GuestError> {
        self.words.iter().for_each(|word| word.store(0, Ordering::SeqCst));
        self.is_on.store(true, Ordering::SeqCst);
        Ok(())
    }

    fn fetch(&self, _: usize, log: &mut [u64]) -> Result<(), GuestError> {
        let taken = self.words.iter().map(|word| word.swap(0, Ordering::SeqCst));
        log.iter_mut().zip(taken).for_each(|(word, taken)| *word = taken);
        Ok(())
    }

    fn stop(&self) -> Result<(), GuestError> {
        self.is_on.store(false, Ordering::SeqCst);
        Ok(())
    }
}

/// The page that a write goes to.
fn busy_page(write: u64, pages: u64) -> u64 {
    (write - 1) % (pages / BUSY_SHARE) * BUSY_SHARE
}

/// The last write to a page, 0 if there was none.
fn last_write(page: u64, pages: u64, count: u64) -> u64 {
    let (busy, index) = (pages / BUSY_SHARE, page / BUSY_SHARE);
    if !page.is_multiple_of(BUSY_SHARE) || index >= busy || count <= index {
        return 0;
    }
    count - (count - 1 - index) % busy
}

/// What a page holds after a write: a quarter of them little, the others noise of different length,
/// so that codecs have something to gain and something to give up on.
fn fill(bytes: &mut [u8; PAGE as usize], page: u64, write: u64) {
    bytes.fill(0);
    // Of busy pages and others alike.
    let kind = page / BUSY_SHARE % 4;
    if kind == 0 && write == 0 {
        return;
    }
    let length = [64, PAGE as usize, PAGE as usize / 2, PAGE as usize * 3 / 4][kind as usize];
    let mut word = (page << 32 ^ write).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for chunk in bytes[..length].chunks_exact_mut(8) {
        // Xorshift.
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    bytes[..8].copy_from_slice(&page.to_le_bytes());
    bytes[8..16].copy_from_slice(&write.to_le_bytes());
}

fn describe(page: u64, written: u64, found: &[u8], expected: &[u8]) -> String {
    let word = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&found[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    let differ = found.iter().zip(expected).filter(|(found, expected)| found != expected).count();
    format!(
        "page {page} should be of write {written}: {differ} bytes differ, it calls itself page {} \
         of write {}",
        word(0),
        word(8)
    )
}

const PAGE: u64 = 4096;
/// One page of so many is written to again and again.
const BUSY_SHARE: u64 = 8;
/// One of the others.
const SPOILT_PAGE: u64 = 5;
/// Between two looks at the clock.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    const PAGES: u64 = 64;

    fn size(writes_per_s: u64) -> GuestSize {
        GuestSize { bytes: PAGES * PAGE, writes_per_s }
    }

    #[test]
    fn the_last_write_of_a_page_follows_from_the_count() {
        let mut written = [0; PAGES as usize];
        for count in 0..100 {
            if count > 0 {
                written[busy_page(count, PAGES) as usize] = count;
            }
            for page in 0..PAGES {
                assert_eq!(
                    last_write(page, PAGES, count),
                    written[page as usize],
                    "{page} {count}"
                );
            }
        }
        // Pages beyond the last whole share are never written.
        assert_eq!(last_write(64, 70, 1000), 0);
    }

    #[test]
    fn a_guest_that_runs_is_whole_at_every_look() {
        let guest = ProofGuest::new(size(20_000)).unwrap();
        assert_eq!(guest.look().damaged, 48, "a guest that never booted has no content");
        guest.boot().unwrap();
        let begun = Instant::now();
        while guest.look().count < 500 {
            let look = guest.look();
            assert_eq!((look.damaged, look.first_damage), (0, None));
            assert!(begun.elapsed() < Duration::from_secs(60), "it does not write");
        }
        guest.stop();
        let look = guest.look();
        assert_eq!((look.is_running, look.pages, look.damaged), (false, PAGES, 0));
        assert_eq!(guest.glance(), Look { pages: 0, ..look });
        guest.start().unwrap();
        assert!(guest.look().is_running);
        guest.stop();
    }

    /// What is left over from one look at the clock to the next is not slowed down once more.
    #[test]
    fn a_throttled_guest_writes_its_share_however_slow_it_is() {
        let guest = ProofGuest::new(size(100)).unwrap();
        for (percent, share) in [(0, 100.0), (50, 50.0), (90, 10.0), (100, 0.0)] {
            guest.throttle(percent).unwrap();
            let tick = |_| guest.0.writes_in(Duration::from_millis(1));
            let in_a_second: f64 = (0..1000).map(tick).sum();
            assert!((in_a_second - share).abs() < 1e-6, "{percent}: {in_a_second}");
        }
    }

    #[test]
    fn a_guest_that_writes_little_sleeps_and_one_that_writes_much_does_not() {
        for (writes_per_s, due, pause_ms) in
            [(0, 0.0, 50.0), (10, 0.0, 50.0), (50, 0.5, 10.0), (50, 0.99, 1.0), (2000, 0.0, 1.0)]
        {
            let guest = ProofGuest::new(size(writes_per_s)).unwrap();
            let found_ms = guest.0.pause(due).as_secs_f64() * 1e3;
            assert!((found_ms - pause_ms).abs() < 1e-3, "{writes_per_s} {due}: {found_ms}");
        }
    }

    #[test]
    fn one_changed_byte_and_one_lost_write_are_found() {
        let guest = ProofGuest::new(size(20_000)).unwrap();
        guest.boot().unwrap();
        guest.stop();
        guest.spoil().unwrap();
        let look = guest.look();
        assert_eq!(look.damaged, 1);
        let text = look.first_damage.unwrap();
        assert!(text.contains("page 5 ") && text.contains("1 bytes differ"), "{text}");
        let guest = ProofGuest::new(size(0)).unwrap();
        guest.boot().unwrap();
        // As if the write had been made and its page not been brought.
        SinkControl::load_device_state(&guest, &1_u64.to_le_bytes()).unwrap();
        let look = guest.look();
        assert_eq!((look.damaged, look.count, look.arrived_with), (1, 1, 1));
        assert!(look.first_damage.unwrap().contains("page 0 should be of write 1"));
        guest.stop();
    }

    #[test]
    fn its_own_log_has_every_write_once() {
        let guest = ProofGuest::with_log(size(0), false).unwrap();
        let source = guest.source();
        guest.spoil().unwrap();
        source.start_dirty_log().unwrap();
        let mut log = [0];
        source.fetch_dirty(0, &mut log).unwrap();
        assert_eq!(log, [0], "what came before is no news");
        guest.spoil().unwrap();
        source.fetch_dirty(0, &mut log).unwrap();
        assert_eq!(log, [1 << SPOILT_PAGE]);
        log = [0];
        source.fetch_dirty(0, &mut log).unwrap();
        assert_eq!(log, [0]);
    }
}

//! Guests to measure with: mapped memory, a writer that dirties it, and a software dirty log.

use crate::Failure;
use dwcp::base::MemoryLayout;
use dwcp::base::layout::RegionLayout;
use dwcp::migration::GuestError;
use dwcp::migration::guest::Ending;
use dwcp::runtime::mapped_guest::{DirtyLog, MappedSink, MappedSource, SinkControl, SourceControl};
use dwcp::runtime::sys::{Allocation, MappedMemory};
use dwcp_netlab::shaper::SplitMix;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Memory of one region, every page of it present.
pub fn prefaulted(bytes: u64) -> Result<Arc<MappedMemory>, Failure> {
    allocate(bytes, Allocation { huge_pages: true, prefault: true })
}

/// Memory of one region, nothing of it present.
pub fn untouched(bytes: u64) -> Result<Arc<MappedMemory>, Failure> {
    allocate(bytes, Allocation { huge_pages: true, prefault: false })
}

fn allocate(bytes: u64, how: Allocation) -> Result<Arc<MappedMemory>, Failure> {
    let region = RegionLayout { name: "ram".into(), guest_address: 0, length_bytes: bytes };
    let layout = MemoryLayout::new(PAGE_BYTES as u32, vec![region])?;
    Ok(Arc::new(MappedMemory::allocate(layout, how)?))
}

/// Fills the first `bytes` with what no codec can shrink.
pub fn fill_incompressible(memory: &MappedMemory, bytes: u64, seed: u64) -> Result<(), Failure> {
    let mut random = SplitMix(seed);
    let mut piece = vec![0; 1 << 20];
    for offset in (0..bytes).step_by(piece.len()) {
        for word in piece.chunks_exact_mut(8) {
            word.copy_from_slice(&random.next_u64().to_le_bytes());
        }
        let length = (bytes - offset).min(piece.len() as u64) as usize;
        memory.write(0, offset, &piece[..length])?;
    }
    Ok(())
}

/// A guest that writes `dirty_bytes_per_s`, whole pages at random, until it is paused or dropped.
pub fn running_guest(memory: Arc<MappedMemory>, dirty_bytes_per_s: u64) -> MappedSource {
    let words = memory.layout().page_count().div_ceil(64) as usize;
    let cpu = Arc::new(VirtualCpu {
        written: (0..words).map(|_| AtomicU64::new(0)).collect(),
        runs: Mutex::new(true),
        ended: AtomicBool::new(false),
    });
    let thread = (dirty_bytes_per_s > 0).then(|| {
        let (memory, cpu) = (memory.clone(), cpu.clone());
        std::thread::spawn(move || cpu.run(&memory, dirty_bytes_per_s))
    });
    let control = Control { cpu: cpu.clone(), thread };
    MappedSource::new(memory, Box::new(SoftwareLog(cpu)), Box::new(control))
}

/// A guest that arrives; `ended` hears who has it. Each of its threads then reads pages all over its
/// memory, one after the other, until the migration is over.
pub fn arriving_guest(
    memory: Arc<MappedMemory>,
    readers: u64,
    ended: Sender<Ending>,
) -> MappedSink {
    let (told, runs) = (Mutex::new(ended), Arc::new(AtomicBool::new(true)));
    let arrival = Arrival { memory: memory.clone(), readers, told, runs };
    MappedSink::new(memory, Box::new(arrival))
}

/// Writes memory, and marks each page after it was written.
struct VirtualCpu {
    written: Vec<AtomicU64>,
    /// Held while it writes; false keeps it from writing.
    runs: Mutex<bool>,
    ended: AtomicBool,
}

impl VirtualCpu {
    fn run(&self, memory: &MappedMemory, bytes_per_s: u64) {
        let (start, mut bytes) = (Instant::now(), 0);
        let mut random = SplitMix(1);
        while !self.ended.load(Ordering::Relaxed) {
            let due = (start.elapsed().as_secs_f64() * bytes_per_s as f64) as u64;
            while bytes + PAGE_BYTES <= due && self.write_page(memory, random.next_u64()) {
                bytes += PAGE_BYTES;
            }
            std::thread::sleep(WRITER_TICK);
        }
    }

    /// Writes one page; false while it is paused.
    fn write_page(&self, memory: &MappedMemory, value: u64) -> bool {
        let runs = lock(&self.runs);
        let page = value % memory.layout().page_count();
        let bytes = value.to_le_bytes().repeat(PAGE_BYTES as usize / 8);
        if !*runs || memory.write(0, page * PAGE_BYTES, &bytes).is_err() {
            return false;
        }
        self.written[page as usize / 64].fetch_or(1 << (page % 64), Ordering::AcqRel);
        true
    }

    fn set_runs(&self, runs: bool) -> Result<(), GuestError> {
        *lock(&self.runs) = runs;
        Ok(())
    }
}

struct SoftwareLog(Arc<VirtualCpu>);

impl DirtyLog for SoftwareLog {
    fn start(&self) -> Result<(), GuestError> {
        self.0.written.iter().for_each(|word| word.store(0, Ordering::Release));
        Ok(())
    }

    fn fetch(&self, _region: usize, log: &mut [u64]) -> Result<(), GuestError> {
        for (to, from) in log.iter_mut().zip(&self.0.written) {
            *to = from.swap(0, Ordering::AcqRel);
        }
        Ok(())
    }

    fn stop(&self) -> Result<(), GuestError> {
        Ok(())
    }
}

struct Control {
    cpu: Arc<VirtualCpu>,
    thread: Option<JoinHandle<()>>,
}

impl SourceControl for Control {
    fn pause(&self) -> Result<(), GuestError> {
        self.cpu.set_runs(false)
    }

    fn resume(&self) -> Result<(), GuestError> {
        self.cpu.set_runs(true)
    }

    fn save_device_state(&self) -> Result<Vec<u8>, GuestError> {
        Ok(vec![0x5a; DEVICE_STATE_BYTES])
    }

    fn finish(&self, _ending: Ending) -> Result<(), GuestError> {
        Ok(())
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.cpu.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Arrival {
    memory: Arc<MappedMemory>,
    readers: u64,
    told: Mutex<Sender<Ending>>,
    runs: Arc<AtomicBool>,
}

fn read_pages(memory: &MappedMemory, seed: u64, runs: &AtomicBool) {
    let (mut random, mut byte) = (SplitMix(seed), [0]);
    while runs.load(Ordering::Relaxed) {
        let page = random.next_u64() % memory.layout().page_count();
        if memory.read(0, page * PAGE_BYTES, &mut byte).is_err() {
            return;
        }
        // A read that nobody wants is no read.
        std::hint::black_box(&byte);
        std::thread::sleep(READER_PAUSE);
    }
}

impl SinkControl for Arrival {
    fn load_device_state(&self, state: &[u8]) -> Result<(), GuestError> {
        match state.len() {
            DEVICE_STATE_BYTES => Ok(()),
            other => Err(GuestError::new("load_device_state", format!("{other} bytes"))),
        }
    }

    fn resume(&self) -> Result<(), GuestError> {
        for reader in 0..self.readers {
            let (memory, runs) = (self.memory.clone(), self.runs.clone());
            std::thread::spawn(move || read_pages(&memory, reader + 1, &runs));
        }
        Ok(())
    }

    fn finish(&self, ending: Ending) -> Result<(), GuestError> {
        self.runs.store(false, Ordering::Relaxed);
        let told = lock(&self.told).send(ending);
        told.map_err(|error| GuestError::new("finish", error))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const PAGE_BYTES: u64 = 4096;
/// About what a small virtual machine's CPUs and devices take.
const DEVICE_STATE_BYTES: usize = 64 * 1024;
const WRITER_TICK: Duration = Duration::from_millis(1);
/// What a guest does with a page before it looks at the next.
const READER_PAUSE: Duration = Duration::from_micros(500);

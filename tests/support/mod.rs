//! A small guest for tests: a thread that stamps pages of kernel-tracked memory, on either side.

#![allow(dead_code, reason = "each test binary uses its part")]

pub mod copying;
mod faulty;

use dwcp::base::{MemoryLayout, PageBitmap, RegionLayout};
use dwcp::migration::{Ending, GuestError, GuestSink, GuestSource};
use dwcp::runtime::mapped_guest::{MappedSink, SinkControl, SourceControl};
use dwcp::runtime::process_memory::process_memory_source;
use dwcp::runtime::sys::{Allocation, MappedMemory};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub const PAGE: u64 = 4096;

/// A guest: memory, a counter of writes, and a thread that makes them while it runs.
#[derive(Clone)]
pub struct Guest(Arc<State>);

struct State {
    memory: Arc<MappedMemory>,
    pages: u64,
    counter: AtomicU64,
    pages_per_s: u64,
    running: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
    resumes: AtomicU64,
    endings: Mutex<Vec<Ending>>,
    fail_at: Mutex<Option<&'static str>>,
    delay_at: Mutex<Option<(&'static str, Duration)>>,
    panic_at: Mutex<Option<&'static str>>,
    /// Whether the guest can be slowed down, and how far it was asked to be.
    can_throttle: AtomicBool,
    throttles: Mutex<Vec<u8>>,
    /// The pages that were missing when it came, if it came by post-copy.
    lacked: Mutex<Option<PageBitmap>>,
    /// Its devices read so many pages while they are restored.
    pages_of_devices: AtomicU64,
}

impl Guest {
    /// A stopped guest with zeroed memory.
    pub fn new(pages: u64, pages_per_s: u64) -> Self {
        let memory = MappedMemory::allocate(layout(pages), Allocation::default()).unwrap();
        Self::over(Arc::new(memory), pages_per_s)
    }

    /// A stopped guest in this memory.
    pub fn over(memory: Arc<MappedMemory>, pages_per_s: u64) -> Self {
        let pages = memory.layout().page_count();
        Self(Arc::new(State {
            memory,
            pages,
            counter: AtomicU64::new(0),
            pages_per_s,
            running: AtomicBool::new(false),
            thread: Mutex::default(),
            resumes: AtomicU64::new(0),
            endings: Mutex::default(),
            fail_at: Mutex::default(),
            delay_at: Mutex::default(),
            panic_at: Mutex::default(),
            can_throttle: AtomicBool::new(false),
            throttles: Mutex::default(),
            lacked: Mutex::default(),
            pages_of_devices: AtomicU64::new(0),
        }))
    }

    /// Stamps every page of the first `share` percent once.
    pub fn fill(&self, share: u64) {
        for page in 0..self.0.pages * share / 100 {
            self.0.stamp(page);
        }
    }

    pub fn start(&self) {
        self.0.start();
    }

    pub fn stop(&self) {
        self.0.stop();
    }

    pub fn is_running(&self) -> bool {
        self.0.running.load(SeqCst)
    }

    pub fn counter(&self) -> u64 {
        self.0.counter.load(SeqCst)
    }

    pub fn resumes(&self) -> u64 {
        self.0.resumes.load(SeqCst)
    }

    pub fn endings(&self) -> Vec<Ending> {
        self.0.endings.lock().unwrap().clone()
    }

    /// Makes this call of the hypervisor fail from now on.
    pub fn fail_at(&self, call: Option<&'static str>) {
        *self.0.fail_at.lock().unwrap() = call;
    }

    /// Makes this call of the hypervisor panic from now on.
    pub fn panic_at(&self, call: Option<&'static str>) {
        *self.0.panic_at.lock().unwrap() = call;
    }

    /// Lets the guest be slowed down.
    pub fn allow_throttle(&self) {
        self.0.can_throttle.store(true, SeqCst);
    }

    /// Every percentage that it was asked to be slowed down by.
    pub fn throttles(&self) -> Vec<u8> {
        self.0.throttles.lock().unwrap().clone()
    }

    /// Makes this call of the hypervisor slow from now on.
    pub fn delay_at(&self, call: &'static str, delay: Duration) {
        *self.0.delay_at.lock().unwrap() = Some((call, delay));
    }

    /// The whole memory.
    pub fn image(&self) -> Vec<u8> {
        let mut image = vec![0; (self.0.pages * PAGE) as usize];
        self.0.memory.read(0, 0, &mut image).unwrap();
        image
    }

    /// Its devices read so many pages of its memory while they are restored.
    pub fn has_devices_in_memory(&self, pages: u64) {
        self.0.pages_of_devices.store(pages, SeqCst);
    }

    /// From now on its memory lacks these pages.
    fn lack(&self, missing: &PageBitmap) {
        *self.0.lacked.lock().unwrap() = Some(missing.clone());
    }

    /// Every page is what it was when the source stood still, or was written here since.
    pub fn check_since(&self, source: &Guest) {
        let (before, after) = (source.image(), self.image());
        let pairs = before.chunks_exact(PAGE as usize).zip(after.chunks_exact(PAGE as usize));
        for (page, (before, after)) in pairs.enumerate() {
            let is_newer = stamp_of(after) > source.counter();
            assert!(is_newer || before == after, "page {page} is not what it was at the switch");
        }
        self.check();
    }

    /// Every page is zero or carries its own stamp, none newer than the counter.
    pub fn check(&self) {
        let (image, counter) = (self.image(), self.counter());
        for (page, bytes) in image.chunks_exact(PAGE as usize).enumerate() {
            check_page(page, bytes, counter);
        }
    }

    pub fn source(&self) -> Arc<dyn GuestSource> {
        let control = Box::new(Control(self.clone()));
        let source = process_memory_source(self.0.memory.clone(), control);
        Arc::new(faulty::FaultySource(Box::new(source), self.clone()))
    }

    pub fn sink(&self) -> Arc<dyn GuestSink> {
        let sink = MappedSink::new(self.0.memory.clone(), Box::new(Control(self.clone())));
        Arc::new(faulty::FaultySink(Box::new(sink), self.clone()))
    }

    fn call(&self, call: &'static str) -> Result<(), GuestError> {
        let delay = *self.0.delay_at.lock().unwrap();
        if let Some((_, delay)) = delay.filter(|(at, _)| *at == call) {
            std::thread::sleep(delay);
        }
        let panics = *self.0.panic_at.lock().unwrap();
        assert!(panics != Some(call), "panic in {call}, as told");
        match *self.0.fail_at.lock().unwrap() {
            Some(at) if at == call => Err(GuestError { call, code: -7, text: "as told".into() }),
            _ => Ok(()),
        }
    }
}

impl State {
    fn stamp(&self, page: u64) {
        let mut bytes = vec![0; PAGE as usize];
        if self.lacked.lock().unwrap().is_some() {
            // As a guest does that uses what it has stored; it waits here while the page is missing.
            self.memory.read(0, page * PAGE, &mut bytes).unwrap();
            check_page(page as usize, &bytes, self.counter.load(SeqCst));
        }
        let sequence = self.counter.fetch_add(1, SeqCst) + 1;
        fill_page(&mut bytes, page, sequence);
        self.memory.write(0, page * PAGE, &bytes).unwrap();
    }

    fn start(self: &Arc<Self>) {
        let mut thread = self.thread.lock().unwrap();
        assert!(!self.running.swap(true, SeqCst), "started twice");
        self.resumes.fetch_add(1, SeqCst);
        let state = self.clone();
        *thread = Some(std::thread::spawn(move || state.run()));
    }

    fn stop(&self) {
        self.running.store(false, SeqCst);
        if let Some(thread) = self.thread.lock().unwrap().take() {
            thread.join().unwrap();
        }
    }

    fn run(&self) {
        let (mut last, mut due) = (Instant::now(), 0.0);
        while self.running.load(SeqCst) {
            let percent = self.throttles.lock().unwrap().last().map_or(0, |last| *last);
            let rate = self.pages_per_s as f64 * f64::from(100 - percent) / 100.0;
            due += last.elapsed().as_secs_f64() * rate;
            last = Instant::now();
            while due >= 1.0 && self.running.load(SeqCst) {
                let next = self.counter.load(SeqCst).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                self.stamp((next >> 20) % self.pages);
                due -= 1.0;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.running.store(false, SeqCst);
    }
}

fn stamp_of(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[8..16].try_into().unwrap())
}

fn check_page(page: usize, bytes: &[u8], counter: u64) {
    if bytes.iter().all(|byte| *byte == 0) {
        return;
    }
    let owner = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert_eq!(owner, page as u64 + 1, "page {page} carries another page's stamp");
    let stamp = stamp_of(bytes);
    assert!(stamp <= counter, "page {page} is from after the counter {counter}");
    let mut expected = vec![0; PAGE as usize];
    fill_page(&mut expected, page as u64, stamp);
    assert!(bytes == expected, "page {page} is torn");
}

fn fill_page(bytes: &mut [u8], page: u64, sequence: u64) {
    let mut word = page.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ sequence;
    // The rest stays zero, so that a codec has something to gain.
    for chunk in bytes[..PAGE as usize * 3 / 4].chunks_exact_mut(8) {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    bytes[..8].copy_from_slice(&(page + 1).to_le_bytes());
    bytes[8..16].copy_from_slice(&sequence.to_le_bytes());
}

pub fn layout(pages: u64) -> MemoryLayout {
    let length_bytes = pages * PAGE;
    let region = RegionLayout { name: "ram".into(), guest_address: 0, length_bytes };
    MemoryLayout::new(PAGE as u32, vec![region]).unwrap()
}

struct Control(Guest);

impl SourceControl for Control {
    fn pause(&self) -> Result<(), GuestError> {
        self.0.call("pause")?;
        self.0.stop();
        Ok(())
    }

    fn resume(&self) -> Result<(), GuestError> {
        self.0.call("resume")?;
        self.0.start();
        Ok(())
    }

    fn throttle(&self, percent: u8) -> Result<bool, GuestError> {
        self.0.call("throttle")?;
        if !self.0.0.can_throttle.load(SeqCst) {
            return Ok(false);
        }
        self.0.0.throttles.lock().unwrap().push(percent);
        Ok(true)
    }

    fn save_device_state(&self) -> Result<Vec<u8>, GuestError> {
        self.0.call("save_device_state")?;
        Ok(self.0.counter().to_le_bytes().to_vec())
    }

    fn finish(&self, ending: Ending) -> Result<(), GuestError> {
        self.0.0.endings.lock().unwrap().push(ending);
        self.0.call("finish")
    }
}

impl SinkControl for Control {
    fn load_device_state(&self, state: &[u8]) -> Result<(), GuestError> {
        self.0.call("load_device_state")?;
        let pages = self.0.0.pages_of_devices.load(SeqCst);
        let mut queues = vec![0; (pages * PAGE) as usize];
        self.0.0.memory.read(0, 0, &mut queues).map_err(|e| GuestError::new("devices", e))?;
        self.0.0.counter.store(u64::from_le_bytes(state.try_into().unwrap()), SeqCst);
        Ok(())
    }

    fn resume(&self) -> Result<(), GuestError> {
        self.0.call("resume")?;
        // To look at pages that are missing would be to wait for them.
        if self.0.0.lacked.lock().unwrap().is_none() {
            self.0.check();
        }
        self.0.start();
        Ok(())
    }

    fn finish(&self, ending: Ending) -> Result<(), GuestError> {
        self.0.0.endings.lock().unwrap().push(ending);
        self.0.call("finish")
    }
}

/// New shared memory, mapped for as long as the process lives.
pub fn map_shared(length_bytes: u64) -> *mut u8 {
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    // SAFETY: a new file mapped at an address of the kernel's choice.
    unsafe {
        let fd = libc::memfd_create(c"dwcp-test".as_ptr(), 0);
        assert!(fd >= 0 && libc::ftruncate(fd, length_bytes as i64) == 0);
        let start =
            libc::mmap(std::ptr::null_mut(), length_bytes as usize, protection, flags, fd, 0);
        assert!(start != libc::MAP_FAILED && libc::close(fd) == 0);
        start.cast()
    }
}

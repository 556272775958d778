//! A guest: memory, one virtual CPU on a thread of its own, and the device that paces it.
//!
//! [`Machine`] is what the two kinds differ in: `kvm.rs` and `thread.rs`. The state's format is
//! that of `examples/c`, so that a guest moves between the two programs.

use crate::options::{Content, Options};
use crate::program::{Memory, PAGE_BYTES};
use crate::{kvm, thread};
use dwcp::base::{MemoryLayout, RegionLayout};
use dwcp::migration::GuestError;
use dwcp::runtime::mapped_guest::DirtyLog;
use dwcp::runtime::sys::MappedMemory;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const SLICE: Duration = Duration::from_millis(5);
const MAX_HOLD: Duration = Duration::from_millis(100);
const MAX_BATCH_PAGES: u32 = 256;
const STATE_MAGIC: u32 = 0x5343_5744;
const STATE_VERSION: u32 = 1;
const HEADER_BYTES: usize = 48;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Kvm = 1,
    Thread = 2,
}

/// One virtual CPU. Only its thread calls `run`; the rest comes while it is parked.
pub trait Machine: Send {
    /// Runs until the guest asked `pace` once, or until it was kicked.
    fn run(&mut self, pace: &mut dyn FnMut() -> u32) -> Result<(), String>;
    /// Finishes what an exit left half done.
    fn settle(&mut self) -> Result<(), String>;
    /// Undoes a kick.
    fn allow(&mut self);
    fn save(&mut self) -> Result<Vec<u8>, String>;
    fn load(&mut self, state: &[u8]) -> Result<(), String>;
}

/// Gets a CPU out of the guest, from any thread, and keeps it out.
pub type Kick = Box<dyn Fn(libc::pthread_t) + Send + Sync>;

/// What a kind of guest is made of.
pub struct Parts {
    pub kind: Kind,
    pub machine: Box<dyn Machine>,
    pub kick: Kick,
    /// None: the kernel has to track the memory.
    pub log: Option<Arc<dyn DirtyLog>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub writes: u64,
    pub ticks: u32,
}

pub struct Guest {
    pub kind: Kind,
    pub memory: Arc<MappedMemory>,
    pub log: Option<Arc<dyn DirtyLog>>,
    shared: Arc<Shared>,
    cpu: Option<std::thread::JoinHandle<()>>,
}

struct Shared {
    memory: Memory,
    machine: Mutex<Box<dyn Machine>>,
    kick: Kick,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    thread: Option<libc::pthread_t>,
    wants_run: bool,
    /// Somebody looks at it: it stands still whatever it wants.
    is_held: bool,
    wants_exit: bool,
    is_parked: bool,
    failure: Option<String>,
    throttle_percent: u32,
    bytes_per_s: u64,
    credit_pages: f64,
    credited: Option<Instant>,
    left: Option<Instant>,
    loaded: Counters,
}

impl Guest {
    /// A stopped guest with empty memory, and why it is no KVM guest if it is none.
    pub fn for_options(options: &Options) -> Result<(Self, Option<String>), String> {
        let mut reason = "--no-kvm was given".to_owned();
        if !options.no_kvm {
            match Self::new(options.memory_mib, kvm::open) {
                Ok(guest) => return Ok((guest, None)),
                Err(error) => reason = error,
            }
        }
        Self::new(options.memory_mib, thread::open).map(|guest| (guest, Some(reason)))
    }

    /// Another one of the same kind and size.
    pub fn twin(&self, options: &Options) -> Result<Self, String> {
        match self.kind {
            Kind::Kvm => Self::new(options.memory_mib, kvm::open),
            Kind::Thread => Self::new(options.memory_mib, thread::open),
        }
    }

    fn new(memory_mib: u32, open: fn(Memory) -> Result<Parts, String>) -> Result<Self, String> {
        let length_bytes = u64::from(memory_mib) << 20;
        let region = RegionLayout { name: "ram".into(), guest_address: 0, length_bytes };
        let layout = MemoryLayout::new(PAGE_BYTES as u32, vec![region]);
        let layout = layout.map_err(|error| error.to_string())?;
        let memory = MappedMemory::allocate(layout, Default::default());
        let memory = Arc::new(memory.map_err(|error| error.to_string())?);
        let start = memory.address(0).ok_or("no memory")?;
        let seen = Memory { start, length_bytes: length_bytes as usize };
        let parts = open(seen)?;
        let shared = Arc::new(Shared {
            memory: seen,
            machine: Mutex::new(parts.machine),
            kick: parts.kick,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let cpu = std::thread::Builder::new().name("cpu".into());
        let cpu = cpu.spawn({
            let shared = shared.clone();
            move || shared.run_cpu()
        });
        let cpu = Some(cpu.map_err(|error| error.to_string())?);
        let guest = Self { kind: parts.kind, memory, log: parts.log, shared, cpu };
        guest.await_parked(guest.shared.lock())?;
        Ok(guest)
    }

    pub fn memory(&self) -> Memory {
        self.shared.memory
    }

    pub fn boot(&self, content: Content, options: &Options) -> Result<(), String> {
        self.memory().load(content, options.working_set_mib);
        self.shared.lock().bytes_per_s = options.dirty_mib_per_s << 20;
        self.resume()
    }

    pub fn throttle(&self, percent: u32) {
        self.shared.lock().throttle_percent = percent.min(99);
    }

    pub fn resume(&self) -> Result<(), String> {
        let mut state = self.shared.lock();
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        state.wants_run = true;
        self.shared.changed.notify_all();
        Ok(())
    }

    /// On return the virtual CPU is out of the guest and nothing writes its memory.
    pub fn pause(&self) -> Result<(), String> {
        let mut state = self.shared.lock();
        state.wants_run = false;
        self.stop(state)
    }

    /// Looks at the guest while it stands still, paused or not. A migration pauses and resumes when it
    /// likes: what was paused meanwhile is so afterwards.
    pub fn held<T>(&self, look: impl FnOnce() -> T) -> Result<T, String> {
        let mut state = self.shared.lock();
        state.is_held = true;
        let seen = self.stop(state).map(|()| look());
        self.shared.lock().is_held = false;
        self.shared.changed.notify_all();
        seen
    }

    /// The guest may not run any more.
    fn stop(&self, state: MutexGuard<'_, State>) -> Result<(), String> {
        if let Some(thread) = state.thread {
            (self.shared.kick)(thread);
        }
        self.shared.changed.notify_all();
        self.await_parked(state)
    }

    fn await_parked(&self, mut state: MutexGuard<'_, State>) -> Result<(), String> {
        while !state.is_parked {
            state = self.shared.wait(state);
        }
        state.failure.clone().map_or(Ok(()), Err)
    }

    pub fn counters(&self) -> Counters {
        let control = self.memory().control();
        Counters { writes: control.counter, ticks: control.ticks }
    }

    /// The counters that the guest was saved with.
    pub fn loaded(&self) -> Counters {
        self.shared.lock().loaded
    }

    pub fn save(&self) -> Result<Vec<u8>, String> {
        let cpu = self.shared.machine().save()?;
        let counters = self.counters();
        let mut state = Vec::new();
        for word in [STATE_MAGIC, STATE_VERSION, self.kind as u32, cpu.len() as u32] {
            state.extend(word.to_le_bytes());
        }
        let rate = self.shared.lock().bytes_per_s;
        for long in [self.memory().length_bytes as u64, rate, counters.writes] {
            state.extend(long.to_le_bytes());
        }
        state.extend(counters.ticks.to_le_bytes());
        state.extend([0; 4]);
        state.extend(cpu);
        Ok(state)
    }

    pub fn load(&self, state: &[u8]) -> Result<(), String> {
        let short = || format!("device state of {} bytes is cut short", state.len());
        let (header, cpu) = state.split_at_checked(HEADER_BYTES).ok_or_else(short)?;
        let word =
            |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap_or_default());
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        if (word(0), word(4)) != (STATE_MAGIC, STATE_VERSION) {
            return Err(format!("device state is magic {:08x} version {}", word(0), word(4)));
        }
        if word(8) != self.kind as u32 {
            return Err(format!(
                "device state of guest kind {}, this is kind {}",
                word(8),
                self.kind as u32
            ));
        }
        if long(16) != self.memory().length_bytes as u64 || word(12) as usize != cpu.len() {
            let (memory, cpu) = (long(16), word(12));
            return Err(format!("device state says {memory} bytes of memory, {cpu} of CPU state"));
        }
        let mut shared = self.shared.lock();
        shared.loaded = Counters { writes: long(32), ticks: word(40) };
        shared.bytes_per_s = long(24);
        drop(shared);
        self.shared.machine().load(cpu)
    }

    /// Whether the guest ticks, and writes if it is to; waits a while for a host that is busy.
    pub fn gets_on(&self, since: Counters) -> bool {
        let must_write = self.shared.lock().bytes_per_s != 0;
        let patience = Instant::now() + Duration::from_secs(10);
        while Instant::now() < patience {
            let now = self.counters();
            if now.ticks != since.ticks && (!must_write || now.writes > since.writes) {
                return true;
            }
            std::thread::sleep(SLICE);
        }
        false
    }

    /// Waits until the guest has written all of its memory once.
    pub fn wait_until_filled(&self) -> Result<(), String> {
        let (mut before, mut moved) = (0, Instant::now());
        loop {
            let control = self.memory().control();
            if control.counter >= u64::from(control.data_pages) {
                return Ok(());
            }
            if control.counter != before {
                (before, moved) = (control.counter, Instant::now());
            }
            if moved.elapsed() > Duration::from_secs(10) {
                let failure = self.shared.lock().failure.clone();
                return Err(failure.unwrap_or_else(|| format!("stuck at write {before}")));
            }
            std::thread::sleep(SLICE);
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // A CPU that failed is parked all the same.
        let _ = self.pause();
        self.shared.lock().wants_exit = true;
        self.shared.changed.notify_all();
        if let Some(cpu) = self.cpu.take() {
            let _ = cpu.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn machine(&self) -> MutexGuard<'_, Box<dyn Machine>> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    fn run_cpu(&self) {
        // SAFETY: names the calling thread.
        self.lock().thread = Some(unsafe { libc::pthread_self() });
        kvm::accept_only_kicks();
        while self.may_run() {
            let result = self.machine().run(&mut || self.pace());
            if let Err(failure) = result {
                let mut state = self.lock();
                state.failure = Some(failure);
                state.wants_run = false;
            }
        }
    }

    /// Parks the CPU while it is to stand still; false: for ever.
    fn may_run(&self) -> bool {
        let mut state = self.lock();
        if state.may_run() {
            return true;
        }
        if let Err(failure) = self.machine().settle() {
            state.failure.get_or_insert(failure);
        }
        state.is_parked = true;
        self.changed.notify_all();
        while !state.may_run() && !state.wants_exit {
            state = self.wait(state);
        }
        state.is_parked = false;
        state.credited = Some(Instant::now());
        state.credit_pages = 0.0;
        state.left = None;
        self.machine().allow();
        !state.wants_exit
    }

    /// How many pages the guest may write now; comes back when it is time, or when it has to stop.
    fn pace(&self) -> u32 {
        let state = self.lock();
        let (mut state, goes_on) = self.hold_back(state);
        let mut pages = 0;
        if goes_on {
            pages = self.pages_to_fill();
            if pages == 0 {
                pages = state.take_credit();
            }
            if pages == 0 {
                state = self.wait_until(state, Instant::now() + SLICE);
                pages = state.take_credit();
            }
        }
        state.left = Some(Instant::now());
        pages
    }

    /// A throttled CPU stands still for its share of the time, counted from what it just ran.
    fn hold_back<'a>(&self, state: MutexGuard<'a, State>) -> (MutexGuard<'a, State>, bool) {
        let percent = state.throttle_percent;
        let mut state = state;
        if let (1.., Some(left)) = (percent, state.left) {
            let hold = left.elapsed() * percent / (100 - percent);
            state = self.wait_until(state, Instant::now() + hold.min(MAX_HOLD));
        }
        let goes_on = state.may_run();
        (state, goes_on)
    }

    fn wait_until<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        until: Instant,
    ) -> MutexGuard<'a, State> {
        while state.may_run() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state
    }

    fn pages_to_fill(&self) -> u32 {
        let control = self.memory.control();
        let left = u64::from(control.data_pages).saturating_sub(control.counter);
        left.min(u64::from(MAX_BATCH_PAGES)) as u32
    }
}

impl State {
    fn may_run(&self) -> bool {
        self.wants_run && !self.is_held && !self.wants_exit
    }

    /// Whole pages of the credit that has come in since the last time.
    fn take_credit(&mut self) -> u32 {
        let now = Instant::now();
        let passed = self.credited.map_or(Duration::ZERO, |before| now - before);
        let pages_per_s = self.bytes_per_s as f64 / PAGE_BYTES as f64;
        let share = f64::from(100 - self.throttle_percent) / 100.0;
        self.credited = Some(now);
        self.credit_pages += passed.as_secs_f64() * share * pages_per_s;
        // What it missed for long is forgotten.
        self.credit_pages = self.credit_pages.min(pages_per_s / 10.0 + 1.0);
        if self.bytes_per_s == 0 {
            return 0;
        }
        let pages = self.credit_pages.min(f64::from(MAX_BATCH_PAGES)) as u32;
        self.credit_pages -= f64::from(pages);
        pages
    }
}

/// A failed call as the library quotes it.
pub fn call<T>(name: &'static str, result: Result<T, String>) -> Result<T, GuestError> {
    result.map_err(|text| GuestError::new(name, text))
}

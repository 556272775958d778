//! A guest in plain memory, with a writer that keeps it busy.

use dwcp::base::{MemoryLayout, RegionLayout};
use dwcp::migration::guest::Ending;
use dwcp::migration::{GuestError, GuestSink, GuestSource};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

pub const PAGE: usize = 4096;

/// Memory with a dirty log; source and sink in one.
pub struct MemoryGuest {
    state: Mutex<State>,
    running: AtomicBool,
    pages: usize,
}

struct State {
    memory: Vec<u8>,
    dirty: Vec<u64>,
}

impl MemoryGuest {
    pub fn new(pages: usize, running: bool) -> Arc<Self> {
        let state = State { memory: vec![0; pages * PAGE], dirty: vec![0; pages.div_ceil(64)] };
        Arc::new(Self { state: Mutex::new(state), running: AtomicBool::new(running), pages })
    }

    pub fn is_running(&self) -> bool {
        self.running.load(Ordering::SeqCst)
    }

    pub fn memory(&self) -> Vec<u8> {
        self.state.lock().unwrap().memory.clone()
    }

    /// Writes as the guest does; false while it is paused.
    pub fn write(&self, page: usize, byte: u8) -> bool {
        let mut state = self.state.lock().unwrap();
        if !self.is_running() {
            return false;
        }
        let at = (page % self.pages) * PAGE;
        state.memory[at..at + PAGE].fill(byte);
        state.dirty[page % self.pages / 64] |= 1 << (page % self.pages % 64);
        true
    }

    /// Writes a page byte by byte, as before a migration.
    pub fn fill(&self, page: usize, byte: impl Fn(usize) -> u8) {
        let mut state = self.state.lock().unwrap();
        let bytes = &mut state.memory[page * PAGE..(page + 1) * PAGE];
        bytes.iter_mut().enumerate().for_each(|(at, place)| *place = byte(at));
    }

    /// Dirties pages until the guest has gone.
    pub fn keep_busy(
        self: &Arc<Self>,
        pages_per_ms: usize,
        stop: Arc<AtomicBool>,
    ) -> JoinHandle<()> {
        let guest = self.clone();
        std::thread::spawn(move || {
            let mut count = 0;
            while !stop.load(Ordering::SeqCst) {
                for _ in 0..pages_per_ms {
                    guest.write(count, count as u8 | 1);
                    count += 1;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        })
    }

    fn layout(&self) -> MemoryLayout {
        let length_bytes = (self.pages * PAGE) as u64;
        let region = RegionLayout { name: "ram".to_owned(), guest_address: 0, length_bytes };
        MemoryLayout::new(PAGE as u32, vec![region]).unwrap()
    }

    fn copy_out(&self, offset_bytes: u64, into: &mut [u8]) {
        let start = offset_bytes as usize;
        into.copy_from_slice(&self.state.lock().unwrap().memory[start..start + into.len()]);
    }
}

impl GuestSource for MemoryGuest {
    fn layout(&self) -> MemoryLayout {
        self.layout()
    }

    fn start_dirty_log(&self) -> Result<(), GuestError> {
        self.state.lock().unwrap().dirty.fill(0);
        Ok(())
    }

    fn fetch_dirty(&self, _region: usize, log: &mut [u64]) -> Result<(), GuestError> {
        let mut state = self.state.lock().unwrap();
        log.copy_from_slice(&state.dirty);
        state.dirty.fill(0);
        Ok(())
    }

    fn read_pages(&self, _: usize, offset_bytes: u64, into: &mut [u8]) -> Result<(), GuestError> {
        self.copy_out(offset_bytes, into);
        Ok(())
    }

    fn pause(&self) -> Result<(), GuestError> {
        let _whole_writes = self.state.lock().unwrap();
        self.running.store(false, Ordering::SeqCst);
        Ok(())
    }

    fn resume(&self) -> Result<(), GuestError> {
        self.running.store(true, Ordering::SeqCst);
        Ok(())
    }

    fn save_device_state(&self) -> Result<Vec<u8>, GuestError> {
        Ok(b"registers".to_vec())
    }

    fn throttle(&self, _percent: u8) -> Result<bool, GuestError> {
        Ok(false)
    }

    fn finish(&self, _ending: Ending) -> Result<(), GuestError> {
        Ok(())
    }
}

impl GuestSink for MemoryGuest {
    fn layout(&self) -> MemoryLayout {
        self.layout()
    }

    fn write_pages(&self, _: usize, offset_bytes: u64, from: &[u8]) -> Result<(), GuestError> {
        let start = offset_bytes as usize;
        self.state.lock().unwrap().memory[start..start + from.len()].copy_from_slice(from);
        Ok(())
    }

    fn zero_pages(&self, _: usize, offset_bytes: u64, length_bytes: u64) -> Result<(), GuestError> {
        let start = offset_bytes as usize;
        self.state.lock().unwrap().memory[start..start + length_bytes as usize].fill(0);
        Ok(())
    }

    fn read_pages(&self, _: usize, offset_bytes: u64, into: &mut [u8]) -> Result<(), GuestError> {
        self.copy_out(offset_bytes, into);
        Ok(())
    }

    fn load_device_state(&self, state: &[u8]) -> Result<(), GuestError> {
        assert_eq!(state, b"registers");
        Ok(())
    }

    fn resume(&self) -> Result<(), GuestError> {
        self.running.store(true, Ordering::SeqCst);
        Ok(())
    }

    fn finish(&self, _ending: Ending) -> Result<(), GuestError> {
        Ok(())
    }
}

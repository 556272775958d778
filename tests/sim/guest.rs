//! A guest of a few tiny pages that both engines reach through their traits.

use dwcp::base::{MemoryLayout, PageBitmap, RegionLayout};
use dwcp::migration::{Ending, GuestError, GuestSink, GuestSource, MissingPages};
use dwcp::wire::{ChunkHeader, Extent, ExtentKind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub const PAGE: usize = 64;

/// One host's copy of the guest.
pub struct SimGuest {
    pub state: Arc<Mutex<State>>,
    layout: MemoryLayout,
}

#[derive(Default)]
pub struct State {
    pub memory: Vec<u8>,
    pub dirty: Vec<bool>,
    pub logging: bool,
    pub running: bool,
    pub device: u64,
    pub endings: Vec<Ending>,
    /// In post-copy: pages that nobody may read or write.
    pub missing: Vec<bool>,
    /// What the guest would read from each page, had all of them been there at the switch.
    pub truth: Option<Vec<u8>>,
    /// The next call of this name fails.
    pub fail: Option<&'static str>,
}

impl SimGuest {
    pub fn new(pages: [u64; 2], running: bool) -> Self {
        let region = |(index, pages): (usize, &u64)| RegionLayout {
            name: format!("ram{index}"),
            guest_address: index as u64 * 1_000_000,
            length_bytes: pages * PAGE as u64,
        };
        let regions = pages.iter().enumerate().map(region).collect();
        let layout = MemoryLayout::new(PAGE as u32, regions).unwrap();
        let count = layout.page_count() as usize;
        let state = State {
            memory: vec![0; count * PAGE],
            dirty: vec![false; count],
            missing: vec![false; count],
            running,
            ..State::default()
        };
        Self { state: Arc::new(Mutex::new(state)), layout }
    }

    pub fn layout(&self) -> &MemoryLayout {
        &self.layout
    }

    /// The guest writes a page: zeros, or something new. False: it waits, because the page is missing.
    pub fn write(&self, page: usize, value: u64) -> bool {
        let mut state = self.state.lock().unwrap();
        assert!(state.running, "a stopped guest writes");
        if state.missing[page] {
            return false;
        }
        let at = page * PAGE..(page + 1) * PAGE;
        let truth = state.truth.as_ref().map(|truth| truth[at.clone()].to_vec());
        assert!(
            truth.is_none_or(|truth| truth == state.memory[at.clone()]),
            "page {page} is not what the guest left there"
        );
        state.device += 1;
        let bytes = if value.is_multiple_of(5) { 0 } else { value };
        for chunk in state.memory[page * PAGE..(page + 1) * PAGE].chunks_exact_mut(8) {
            chunk.copy_from_slice(&bytes.to_le_bytes());
        }
        let State { memory, truth, .. } = &mut *state;
        truth.iter_mut().for_each(|truth| truth[at.clone()].copy_from_slice(&memory[at.clone()]));
        state.dirty[page] |= state.logging;
        true
    }

    /// A device copies one half of each page that a chunk announces from another guest's memory,
    /// whatever that one writes meanwhile.
    pub fn read_half(&self, from: &SimGuest, header: &ChunkHeader, half: usize) {
        if !header.is_read() {
            return;
        }
        let data = |extent: &&Extent| extent.kind == ExtentKind::Data;
        let from = from.state.lock().unwrap();
        let mut state = self.state.lock().unwrap();
        assert!(
            state.endings.is_empty() && !state.running,
            "a device writes a finished or running guest"
        );
        for page in header.extents.iter().filter(data).flat_map(Extent::range) {
            let start = page as usize * PAGE + half * PAGE / 2;
            let at = start..start + PAGE / 2;
            state.memory[at.clone()].copy_from_slice(&from.memory[at]);
        }
    }

    fn enter(&self, call: &'static str) -> Result<std::sync::MutexGuard<'_, State>, GuestError> {
        let mut state = self.state.lock().unwrap();
        if state.fail == Some(call) {
            state.fail = None;
            return Err(GuestError::new(call, "as the simulator wants it"));
        }
        Ok(state)
    }

    fn at(&self, region: usize, offset: u64) -> usize {
        self.layout.pages_of(region).start as usize * PAGE + offset as usize
    }
}

impl GuestSource for SimGuest {
    fn layout(&self) -> MemoryLayout {
        self.layout.clone()
    }

    fn start_dirty_log(&self) -> Result<(), GuestError> {
        self.enter("start_dirty_log")?.logging = true;
        Ok(())
    }

    fn fetch_dirty(&self, region: usize, log: &mut [u64]) -> Result<(), GuestError> {
        let mut state = self.enter("fetch_dirty")?;
        assert!(state.logging, "the log is fetched but was not started");
        let pages = self.layout.pages_of(region);
        for (index, page) in pages.enumerate() {
            if std::mem::take(&mut state.dirty[page as usize]) {
                log[index / 64] |= 1 << (index % 64);
            }
        }
        Ok(())
    }

    fn read_pages(&self, region: usize, offset: u64, into: &mut [u8]) -> Result<(), GuestError> {
        let state = self.enter("read_pages")?;
        assert!(state.endings.is_empty(), "a finished guest is read");
        let at = self.at(region, offset);
        into.copy_from_slice(&state.memory[at..at + into.len()]);
        Ok(())
    }

    fn pause(&self) -> Result<(), GuestError> {
        self.enter("pause")?.running = false;
        Ok(())
    }

    fn resume(&self) -> Result<(), GuestError> {
        self.enter("resume")?.running = true;
        Ok(())
    }

    fn save_device_state(&self) -> Result<Vec<u8>, GuestError> {
        let state = self.enter("save_device_state")?;
        assert!(!state.running, "device state of a running guest");
        Ok(state.device.to_le_bytes().repeat(3))
    }

    fn throttle(&self, percent: u8) -> Result<bool, GuestError> {
        drop(self.enter("throttle")?);
        Ok(percent < 50)
    }

    fn finish(&self, ending: Ending) -> Result<(), GuestError> {
        let mut state = self.enter("finish")?;
        state.logging = false;
        state.endings.push(ending);
        Ok(())
    }
}

impl GuestSink for SimGuest {
    fn layout(&self) -> MemoryLayout {
        self.layout.clone()
    }

    fn write_pages(&self, region: usize, offset: u64, from: &[u8]) -> Result<(), GuestError> {
        let mut state = self.enter("write_pages")?;
        assert!(
            state.endings.is_empty() && !state.running,
            "a finished or running guest is written"
        );
        let at = self.at(region, offset);
        state.memory[at..at + from.len()].copy_from_slice(from);
        Ok(())
    }

    fn zero_pages(&self, region: usize, offset: u64, length: u64) -> Result<(), GuestError> {
        self.write_pages(region, offset, &vec![0; length as usize])
    }

    fn read_pages(&self, region: usize, offset: u64, into: &mut [u8]) -> Result<(), GuestError> {
        GuestSource::read_pages(self, region, offset, into)
    }

    fn check_post_copy(&self) -> Result<(), GuestError> {
        Ok(())
    }

    fn begin_post_copy(&self, missing: &PageBitmap) -> Result<Arc<dyn MissingPages>, GuestError> {
        let mut state = self.enter("begin_post_copy")?;
        assert!(!state.running && state.endings.is_empty());
        for page in missing.iter() {
            state.missing[page as usize] = true;
            // Whoever reads this has been given a page that never came.
            state.memory[page as usize * PAGE..(page as usize + 1) * PAGE].fill(0xee);
        }
        let (state, layout) = (self.state.clone(), self.layout.clone());
        Ok(Arc::new(SimMissing { state, layout }))
    }

    fn load_device_state(&self, bytes: &[u8]) -> Result<(), GuestError> {
        let mut state = self.enter("load_device_state")?;
        assert_eq!(bytes.len(), 24);
        state.device = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        Ok(())
    }

    fn resume(&self) -> Result<(), GuestError> {
        let mut state = self.enter("resume")?;
        assert!(state.endings.is_empty(), "started after its end");
        state.running = true;
        Ok(())
    }

    fn finish(&self, ending: Ending) -> Result<(), GuestError> {
        self.enter("finish")?.endings.push(ending);
        Ok(())
    }
}

/// The pages that a guest lacks.
struct SimMissing {
    state: Arc<Mutex<State>>,
    layout: MemoryLayout,
}

impl MissingPages for SimMissing {
    fn place(&self, region: usize, offset: u64, from: &[u8]) -> Result<(), GuestError> {
        let mut state = self.state.lock().unwrap();
        if state.fail == Some("place") {
            state.fail = None;
            return Err(GuestError::new("place", "as the simulator wants it"));
        }
        let first = self.layout.pages_of(region).start as usize + offset as usize / PAGE;
        for (index, bytes) in from.chunks_exact(PAGE).enumerate() {
            let page = first + index;
            if std::mem::take(&mut state.missing[page]) {
                state.memory[page * PAGE..(page + 1) * PAGE].copy_from_slice(bytes);
            }
        }
        Ok(())
    }

    fn place_zero(&self, region: usize, offset: u64, length: u64) -> Result<(), GuestError> {
        self.place(region, offset, &vec![0; length as usize])
    }

    fn wait_for_faults(
        &self,
        _faults: &mut Vec<u64>,
        _most: usize,
        _timeout: Duration,
    ) -> Result<(), GuestError> {
        Ok(())
    }

    fn wake(&self) {}

    fn release(&self) {
        self.state.lock().unwrap().missing.fill(false);
    }

    fn abandon(&self) {
        assert!(self.state.lock().unwrap().missing.contains(&true), "nothing is missing");
    }
}

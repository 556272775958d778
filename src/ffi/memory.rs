//! The pages of a registered guest: mapped in this process, or behind callbacks.
//!
//! Mapped memory goes through the runtime's mapped guests. Here are the twins for a hypervisor that
//! has none mapped, and hands pages over by copying.

use super::callbacks::{HostContext, outcome, run};
use super::driver::{Call, Control};
use crate::base::MemoryLayout;
use crate::migration::guest::Ending;
use crate::migration::{GuestError, GuestSink, GuestSource};
use crate::runtime::mapped_guest::SourceControl;
use std::ffi::c_void;
use std::sync::Arc;

/// `read_pages` of the header.
pub type ReadCallback = unsafe extern "C" fn(*mut c_void, u32, u64, *mut c_void, usize) -> i32;
/// `write_pages` of the header.
pub type WriteCallback = unsafe extern "C" fn(*mut c_void, u32, u64, *const c_void, usize) -> i32;

/// A running guest whose pages come from a callback.
pub struct CopiedSource {
    /// Its pages.
    pub pages: CopiedPages,
    /// All else.
    pub control: Control,
}

/// A stopped guest whose pages go through callbacks.
pub struct CopiedSink {
    /// Its pages.
    pub pages: CopiedPages,
    /// How to write them.
    pub write: WriteCallback,
    /// All else.
    pub control: Control,
}

/// Pages that a callback reads.
pub struct CopiedPages {
    /// Their shape.
    pub layout: MemoryLayout,
    /// How to read them.
    pub read: ReadCallback,
    /// The callbacks' context.
    pub context: Arc<HostContext>,
}

impl CopiedPages {
    fn read(&self, region: usize, offset_bytes: u64, into: &mut [u8]) -> Result<(), GuestError> {
        self.check("read_pages", region, offset_bytes, into.len() as u64)?;
        let (ctx, pointer) = (self.context.pointer(), into.as_mut_ptr().cast());
        // SAFETY: the caller registered read for ctx, and `into` is writable for its length.
        let code =
            run(|| unsafe { (self.read)(ctx, region as u32, offset_bytes, pointer, into.len()) });
        outcome("read_pages", Some(code))
    }

    /// Keeps what a peer sends out of the hypervisor when it lies outside the guest.
    fn check(
        &self,
        call: &'static str,
        region: usize,
        offset_bytes: u64,
        length_bytes: u64,
    ) -> Result<(), GuestError> {
        let end = offset_bytes.checked_add(length_bytes);
        let known = self.layout.regions().get(region);
        if known.zip(end).is_some_and(|(region, end)| end <= region.length_bytes) {
            return Ok(());
        }
        let text = format!("{length_bytes} bytes at {offset_bytes} lie outside region {region}");
        Err(GuestError::new(call, text))
    }
}

impl GuestSource for CopiedSource {
    fn layout(&self) -> MemoryLayout {
        self.pages.layout.clone()
    }

    fn start_dirty_log(&self) -> Result<(), GuestError> {
        self.control.call(Call::StartDirtyLog)
    }

    fn fetch_dirty(&self, region: usize, log: &mut [u64]) -> Result<(), GuestError> {
        self.control.call(Call::FetchDirty(region as u32, log))
    }

    fn read_pages(
        &self,
        region: usize,
        offset_bytes: u64,
        into: &mut [u8],
    ) -> Result<(), GuestError> {
        self.pages.read(region, offset_bytes, into)
    }

    fn pause(&self) -> Result<(), GuestError> {
        self.control.call(Call::Pause)
    }

    fn resume(&self) -> Result<(), GuestError> {
        self.control.call(Call::Resume)
    }

    fn save_device_state(&self) -> Result<Vec<u8>, GuestError> {
        SourceControl::save_device_state(&self.control)
    }

    fn throttle(&self, percent: u8) -> Result<bool, GuestError> {
        SourceControl::throttle(&self.control, percent)
    }

    fn finish(&self, ending: Ending) -> Result<(), GuestError> {
        self.control.call(Call::Finish(ending))
    }
}

impl GuestSink for CopiedSink {
    fn layout(&self) -> MemoryLayout {
        self.pages.layout.clone()
    }

    fn write_pages(&self, region: usize, offset_bytes: u64, from: &[u8]) -> Result<(), GuestError> {
        self.pages.check("write_pages", region, offset_bytes, from.len() as u64)?;
        let (ctx, pointer) = (self.pages.context.pointer(), from.as_ptr().cast());
        // SAFETY: the caller registered write for ctx, and `from` is readable for its length.
        let code =
            run(|| unsafe { (self.write)(ctx, region as u32, offset_bytes, pointer, from.len()) });
        outcome("write_pages", Some(code))
    }

    fn zero_pages(
        &self,
        region: usize,
        offset_bytes: u64,
        length_bytes: u64,
    ) -> Result<(), GuestError> {
        self.pages.check("zero_pages", region, offset_bytes, length_bytes)?;
        let page_bytes = u64::from(self.pages.layout.page_bytes());
        let (mut page, zero) = (vec![0; page_bytes as usize], vec![0; page_bytes as usize]);
        for offset_bytes in (offset_bytes..offset_bytes + length_bytes).step_by(page.len()) {
            self.pages.read(region, offset_bytes, &mut page)?;
            if page != zero {
                self.write_pages(region, offset_bytes, &zero)?;
            }
        }
        Ok(())
    }

    fn read_pages(
        &self,
        region: usize,
        offset_bytes: u64,
        into: &mut [u8],
    ) -> Result<(), GuestError> {
        self.pages.read(region, offset_bytes, into)
    }

    fn load_device_state(&self, state: &[u8]) -> Result<(), GuestError> {
        self.control.call(Call::LoadDeviceState(state))
    }

    fn resume(&self) -> Result<(), GuestError> {
        self.control.call(Call::Resume)
    }

    fn finish(&self, ending: Ending) -> Result<(), GuestError> {
        self.control.call(Call::Finish(ending))
    }
}

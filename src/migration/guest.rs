//! What a hypervisor gives the library: a guest to take pages from, or one to put pages into.
//!
//! Offsets are within a region; lengths are whole pages. All calls may come from any library
//! thread, several at a time for `read_pages`, `write_pages` and `receive_pages`; the control calls
//! (`start`, `fetch_dirty`, `pause`, `resume`, device state, `finish`) come one at a time.

use crate::base::{MemoryLayout, PageBitmap};
use std::any::Any;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

/// What a sink without mapped memory copies at a time: whole pages of every size.
const PIECE_BYTES: u64 = 64 * 1024;

/// A call into the hypervisor failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call} failed{}: {text}", with_code(*.code))]
pub struct GuestError {
    /// Which call.
    pub call: &'static str,
    /// The hypervisor's own code, 0 if it has none.
    pub code: i64,
    /// What it said.
    pub text: String,
}

fn with_code(code: i64) -> String {
    match code {
        0 => String::new(),
        code => format!(" with {code}"),
    }
}

impl GuestError {
    /// An error of `call` with the text of `error`.
    pub fn new(call: &'static str, error: impl std::fmt::Display) -> Self {
        Self { call, code: 0, text: error.to_string() }
    }
}

/// How a destination guest is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The guest now belongs to the other side, or never came: release it.
    Discard,
    /// The guest stays with this side.
    Keep,
    /// Only the other side can tell who has the guest: the link broke at the commit point, or that
    /// side speaks v1, which acknowledges nothing. Leave the guest paused; at a destination, where
    /// only v1 brings this about, keep the whole image as it is and do not start it.
    Undecided,
    /// After a switch to post-copy: the guest was the destination's, and pages that it lacked will
    /// never come, or the destination is gone with it. At the destination the guest must be ended:
    /// whoever touches a page that is missing waits until this process ends. At the source what is
    /// in memory is the guest as it was at the switch; it must not go on from there as if nothing
    /// had happened since.
    Lost,
}

/// A running guest at the source.
pub trait GuestSource: Send + Sync {
    /// The memory's shape; constant during a migration.
    fn layout(&self) -> MemoryLayout;

    /// Begins to log writes. Everything written from now on must show up in [`Self::fetch_dirty`].
    ///
    /// # Errors
    /// Whatever keeps the hypervisor from logging.
    fn start_dirty_log(&self) -> Result<(), GuestError>;

    /// Copies the pages written since the last call, one bit a page, and begins anew.
    ///
    /// `log` has one bit for each page of the region, lowest bit first, and comes zeroed.
    ///
    /// # Errors
    /// Whatever the hypervisor reports.
    fn fetch_dirty(&self, region: usize, log: &mut [u64]) -> Result<(), GuestError>;

    /// Copies memory that the guest may be writing at the same time. Outside of migrations too: an
    /// operator may ask what codecs would do to it.
    ///
    /// # Errors
    /// A range outside the region, or the hypervisor's own error.
    fn read_pages(
        &self,
        region: usize,
        offset_bytes: u64,
        into: &mut [u8],
    ) -> Result<(), GuestError>;

    /// The memory itself, where it is mapped in this process, so that a device may read it; what type
    /// it has the runtime knows. None, the default: it is not mapped.
    fn mapped(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }

    /// Stops the guest; on return no virtual CPU or device writes memory.
    ///
    /// # Errors
    /// Whatever the hypervisor reports; the guest is then taken to be running.
    fn pause(&self) -> Result<(), GuestError>;

    /// Lets a paused guest go on. Called when a migration fails before the commit point.
    ///
    /// # Errors
    /// Whatever the hypervisor reports.
    fn resume(&self) -> Result<(), GuestError>;

    /// The state of CPUs and devices of the paused guest.
    ///
    /// # Errors
    /// Whatever the hypervisor reports.
    fn save_device_state(&self) -> Result<Vec<u8>, GuestError>;

    /// Holds the guest back for `percent` of its time, 0 for full speed. False: it cannot.
    ///
    /// # Errors
    /// Whatever the hypervisor reports.
    fn throttle(&self, percent: u8) -> Result<bool, GuestError>;

    /// Ends dirty logging. The last call of a migration; tells who has the guest.
    ///
    /// # Errors
    /// Whatever the hypervisor reports.
    fn finish(&self, ending: Ending) -> Result<(), GuestError>;
}

/// A stopped, empty guest at the destination.
pub trait GuestSink: Send + Sync {
    /// The memory's shape; must equal the source's.
    fn layout(&self) -> MemoryLayout;

    /// Copies pages into the guest.
    ///
    /// # Errors
    /// A range outside the region, or the hypervisor's own error.
    fn write_pages(&self, region: usize, offset_bytes: u64, from: &[u8]) -> Result<(), GuestError>;

    /// Makes pages read as zero, touching only those that do not.
    ///
    /// # Errors
    /// A range outside the region, or the hypervisor's own error.
    fn zero_pages(
        &self,
        region: usize,
        offset_bytes: u64,
        length_bytes: u64,
    ) -> Result<(), GuestError>;

    /// Copies pages out of the guest.
    ///
    /// # Errors
    /// A range outside the region, or the hypervisor's own error.
    fn read_pages(
        &self,
        region: usize,
        offset_bytes: u64,
        into: &mut [u8],
    ) -> Result<(), GuestError>;

    /// Reads pages from `stream` straight into the guest, then shows them, still in cache, to
    /// `inspect`. A sink without mapped memory keeps this default, which copies.
    ///
    /// # Errors
    /// The stream's error, or the write's as `io::ErrorKind::Other`.
    fn receive_pages(
        &self,
        region: usize,
        offset_bytes: u64,
        length_bytes: u64,
        stream: &mut dyn Read,
        inspect: &mut dyn FnMut(&[u8]),
    ) -> io::Result<()> {
        let mut piece = vec![0; length_bytes.min(PIECE_BYTES) as usize];
        let mut done = 0;
        while done < length_bytes {
            let length = (length_bytes - done).min(PIECE_BYTES) as usize;
            stream.read_exact(&mut piece[..length])?;
            self.write_pages(region, offset_bytes + done, &piece[..length])
                .map_err(io::Error::other)?;
            inspect(&piece[..length]);
            done += length as u64;
        }
        Ok(())
    }

    /// As [`GuestSource::mapped`], for a device that writes it.
    fn mapped(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }

    /// Shows pages that a device has written to `inspect`, piece by piece.
    ///
    /// # Errors
    /// A range outside the region, or the hypervisor's own error.
    fn inspect_pages(
        &self,
        region: usize,
        offset_bytes: u64,
        length_bytes: u64,
        inspect: &mut dyn FnMut(&[u8]),
    ) -> Result<(), GuestError> {
        let mut piece = vec![0; length_bytes.min(PIECE_BYTES) as usize];
        let mut done = 0;
        while done < length_bytes {
            let length = (length_bytes - done).min(PIECE_BYTES) as usize;
            self.read_pages(region, offset_bytes + done, &mut piece[..length])?;
            inspect(&piece[..length]);
            done += length as u64;
        }
        Ok(())
    }

    /// Whether the guest can run while pages of it are missing. Called before anything is stored;
    /// what memory holds may be lost.
    ///
    /// # Errors
    /// Why it cannot, which is also the default.
    fn check_post_copy(&self) -> Result<(), GuestError> {
        let text =
            "its memory is not mapped in this process, so nobody would see which page it lacks";
        Err(GuestError::new("check_post_copy", text))
    }

    /// Takes these pages away from the stopped guest: from now on whoever touches one waits until it
    /// is placed.
    ///
    /// # Errors
    /// What the system says; the source then keeps the guest.
    fn begin_post_copy(&self, missing: &PageBitmap) -> Result<Arc<dyn MissingPages>, GuestError> {
        let _ = missing;
        Err(GuestError::new("begin_post_copy", "this guest cannot run while pages are missing"))
    }

    /// Restores CPUs and devices. The guest must stay stopped. In post-copy pages may be missing.
    ///
    /// # Errors
    /// Whatever the hypervisor reports; the source then keeps the guest.
    fn load_device_state(&self, state: &[u8]) -> Result<(), GuestError>;

    /// Starts the guest: it belongs to this side now.
    ///
    /// # Errors
    /// Whatever the hypervisor reports. The guest still belongs to this side.
    fn resume(&self) -> Result<(), GuestError>;

    /// The last call of a migration.
    ///
    /// # Errors
    /// Whatever the hypervisor reports.
    fn finish(&self, ending: Ending) -> Result<(), GuestError>;
}

/// The missing pages of a guest that runs. `place` and `place_zero` may come from several threads at
/// once, and for pages that are there already: such a page stays as it is, for the guest may have
/// written it.
pub trait MissingPages: Send + Sync {
    /// Puts pages in their places, each at once, and lets those go on who wait for them.
    ///
    /// # Errors
    /// A range outside the region, or the system's own error.
    fn place(&self, region: usize, offset_bytes: u64, from: &[u8]) -> Result<(), GuestError>;

    /// Puts pages of zeros in their places.
    ///
    /// # Errors
    /// As [`Self::place`].
    fn place_zero(
        &self,
        region: usize,
        offset_bytes: u64,
        length_bytes: u64,
    ) -> Result<(), GuestError>;

    /// Waits until somebody touches a missing page, or [`Self::wake`], or for `timeout`; appends the
    /// pages touched, at most `most` of them. A page may be named again, also after it was placed.
    ///
    /// # Errors
    /// What the system says.
    fn wait_for_faults(
        &self,
        faults: &mut Vec<u64>,
        most: usize,
        timeout: Duration,
    ) -> Result<(), GuestError>;

    /// Ends a [`Self::wait_for_faults`] that is under way, or the next one.
    fn wake(&self);

    /// No page is missing any more, or the guest will never run: pages that were never placed read
    /// as zero from now on.
    fn release(&self);

    /// The pages that are missing will never come: whoever waits for one waits for ever.
    fn abandon(&self);
}

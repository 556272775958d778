//! Hypervisor calls that panic: caught at the border and turned into errors, so that a guest is
//! never left paused because a callback broke a library thread.

use crate::base::{MemoryLayout, PageBitmap};
use crate::migration::guest::{Ending, GuestError, GuestSink, GuestSource, MissingPages};
use std::any::Any;
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// A source or sink whose panics are errors.
pub struct Guarded<T: ?Sized>(Arc<T>);

impl<T: ?Sized> Guarded<T> {
    /// Puts the guard around a guest.
    pub fn new(guest: Arc<T>) -> Self {
        Self(guest)
    }

    fn call<R>(
        &self,
        call: &'static str,
        body: impl FnOnce(&T) -> Result<R, GuestError>,
    ) -> Result<R, GuestError> {
        // After a panic the guest is only asked to resume or finish, which it must bear anyway.
        catch_unwind(AssertUnwindSafe(|| body(&self.0)))
            .unwrap_or_else(|panic| Err(GuestError::new(call, panic_text(panic.as_ref()))))
    }
}

impl GuestSource for Guarded<dyn GuestSource> {
    fn layout(&self) -> MemoryLayout {
        self.0.layout()
    }

    fn start_dirty_log(&self) -> Result<(), GuestError> {
        self.call("start_dirty_log", |guest| guest.start_dirty_log())
    }

    fn fetch_dirty(&self, region: usize, log: &mut [u64]) -> Result<(), GuestError> {
        self.call("fetch_dirty", |guest| guest.fetch_dirty(region, log))
    }

    fn read_pages(&self, region: usize, offset: u64, into: &mut [u8]) -> Result<(), GuestError> {
        self.call("read_pages", |guest| guest.read_pages(region, offset, into))
    }

    fn mapped(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.call("mapped", |guest| Ok(guest.mapped())).ok().flatten()
    }

    fn pause(&self) -> Result<(), GuestError> {
        self.call("pause", |guest| guest.pause())
    }

    fn resume(&self) -> Result<(), GuestError> {
        self.call("resume", |guest| guest.resume())
    }

    fn save_device_state(&self) -> Result<Vec<u8>, GuestError> {
        self.call("save_device_state", |guest| guest.save_device_state())
    }

    fn throttle(&self, percent: u8) -> Result<bool, GuestError> {
        self.call("throttle", |guest| guest.throttle(percent))
    }

    fn finish(&self, ending: Ending) -> Result<(), GuestError> {
        self.call("finish", |guest| guest.finish(ending))
    }
}

impl GuestSink for Guarded<dyn GuestSink> {
    fn layout(&self) -> MemoryLayout {
        self.0.layout()
    }

    fn write_pages(&self, region: usize, offset: u64, from: &[u8]) -> Result<(), GuestError> {
        self.call("write_pages", |guest| guest.write_pages(region, offset, from))
    }

    fn zero_pages(&self, region: usize, offset: u64, length: u64) -> Result<(), GuestError> {
        self.call("zero_pages", |guest| guest.zero_pages(region, offset, length))
    }

    fn read_pages(&self, region: usize, offset: u64, into: &mut [u8]) -> Result<(), GuestError> {
        self.call("read_pages", |guest| guest.read_pages(region, offset, into))
    }

    fn receive_pages(
        &self,
        region: usize,
        offset_bytes: u64,
        length_bytes: u64,
        stream: &mut dyn Read,
        inspect: &mut dyn FnMut(&[u8]),
    ) -> io::Result<()> {
        let mut result = Ok(());
        let received = self.call("receive_pages", |guest| {
            result = guest.receive_pages(region, offset_bytes, length_bytes, stream, inspect);
            Ok(())
        });
        received.map_err(io::Error::other).and(result)
    }

    fn mapped(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.call("mapped", |guest| Ok(guest.mapped())).ok().flatten()
    }

    fn inspect_pages(
        &self,
        region: usize,
        offset_bytes: u64,
        length_bytes: u64,
        inspect: &mut dyn FnMut(&[u8]),
    ) -> Result<(), GuestError> {
        self.call("inspect_pages", |guest| {
            guest.inspect_pages(region, offset_bytes, length_bytes, inspect)
        })
    }

    fn check_post_copy(&self) -> Result<(), GuestError> {
        self.call("check_post_copy", |guest| guest.check_post_copy())
    }

    fn begin_post_copy(&self, missing: &PageBitmap) -> Result<Arc<dyn MissingPages>, GuestError> {
        self.call("begin_post_copy", |guest| guest.begin_post_copy(missing))
    }

    fn load_device_state(&self, state: &[u8]) -> Result<(), GuestError> {
        self.call("load_device_state", |guest| guest.load_device_state(state))
    }

    fn resume(&self) -> Result<(), GuestError> {
        self.call("resume", |guest| guest.resume())
    }

    fn finish(&self, ending: Ending) -> Result<(), GuestError> {
        self.call("finish", |guest| guest.finish(ending))
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", text.unwrap_or("no text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Breaks;

    impl GuestSink for Breaks {
        fn layout(&self) -> MemoryLayout {
            unreachable!()
        }

        fn write_pages(&self, _: usize, _: u64, _: &[u8]) -> Result<(), GuestError> {
            panic!("write {}", 1)
        }

        fn zero_pages(&self, _: usize, _: u64, _: u64) -> Result<(), GuestError> {
            panic!("zero")
        }

        fn read_pages(&self, _: usize, _: u64, _: &mut [u8]) -> Result<(), GuestError> {
            Ok(())
        }

        fn load_device_state(&self, _: &[u8]) -> Result<(), GuestError> {
            Ok(())
        }

        fn resume(&self) -> Result<(), GuestError> {
            panic!("resume")
        }

        fn finish(&self, _: Ending) -> Result<(), GuestError> {
            Ok(())
        }
    }

    #[test]
    fn a_panic_is_an_error_that_names_the_call() {
        let guest: Arc<dyn GuestSink> = Arc::new(Breaks);
        let guest = Guarded::new(guest);
        let error = guest.resume().unwrap_err();
        assert_eq!(error.to_string(), "resume failed: panicked: resume");
        let error = guest.write_pages(0, 0, &[]).unwrap_err();
        assert_eq!(error.text, "panicked: write 1");
        let error =
            guest.receive_pages(0, 0, 1, &mut &b"x"[..], &mut |_| {}).unwrap_err().to_string();
        assert!(error.contains("panicked: write 1"), "{error}");
    }
}

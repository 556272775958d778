//! A guest driven by callbacks: each runs marked, so that calls which would wait for it are
//! refused, and its code and text become the failure's.

use super::codes::{DWCP_ERR_UNSUPPORTED, dwcp_status};
use super::driver::{Call, Driver, answered, ending_code};
use super::guard::{self, Failure, FixedText, Outcome, guard, in_callback, on};
use super::guest::{dwcp_destination, dwcp_source, dwcp_writer};
use super::handle::{self, Handled, Kind, Object};
use super::strings;
use crate::Status;
use crate::base::limits::MAX_DEVICE_STATE_BYTES;
use crate::migration::GuestError;
use std::cell::RefCell;
use std::ffi::{c_char, c_void};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Hands a part of the device state to the library; may be called many times. Threads: only inside
/// the save_device_state callback that received the writer.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_writer_write(
    writer: *mut dwcp_writer,
    data: *const c_void,
    length_bytes: usize,
) -> dwcp_status {
    on(writer, |writer: &Arc<StateWriter>| {
        // SAFETY: the caller vouches for data, as the header says.
        let bytes = unsafe { strings::bytes_in("data", data, length_bytes)? };
        writer.append(bytes)
    })
}

/// Says why the callback that runs on this thread is about to fail; quoted with its code. Threads:
/// only inside a callback.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dwcp_callback_set_error(text: *const c_char) -> dwcp_status {
    guard(|| {
        // SAFETY: the caller vouches for text, as the header says.
        let text = unsafe { strings::text_in("text", text)? };
        set_callback_error(&text)
    })
}

/// The caller's `ctx`, dropped by its own callback once nothing uses it.
pub struct HostContext {
    ctx: *mut c_void,
    drop: Option<unsafe extern "C" fn(*mut c_void)>,
    taken: AtomicBool,
}

// SAFETY: the header says that callbacks get ctx on any thread; Rust never looks behind it.
unsafe impl Send for HostContext {}
// SAFETY: as above.
unsafe impl Sync for HostContext {}

impl HostContext {
    /// A context that is still the caller's.
    pub fn new(ctx: *mut c_void, drop: Option<unsafe extern "C" fn(*mut c_void)>) -> Arc<Self> {
        Arc::new(Self { ctx, drop, taken: AtomicBool::new(false) })
    }

    /// From now on the library drops it.
    pub fn take_over(&self) {
        self.taken.store(true, Ordering::Release);
    }

    /// What callbacks get.
    pub fn pointer(&self) -> *mut c_void {
        self.ctx
    }
}

impl Drop for HostContext {
    fn drop(&mut self) {
        if let (true, Some(drop)) = (self.taken.load(Ordering::Acquire), self.drop) {
            // SAFETY: the caller registered drop for ctx, and this is its last use.
            in_callback(|| unsafe { drop(self.ctx) });
        }
    }
}

/// The callbacks of a source.
pub struct SourceCallbacks {
    /// Their table.
    pub table: dwcp_source,
    /// Their context.
    pub context: Arc<HostContext>,
}

/// The callbacks of a destination.
pub struct DestinationCallbacks {
    /// Their table.
    pub table: dwcp_destination,
    /// Their context.
    pub context: Arc<HostContext>,
}

// SAFETY: the header says that callbacks run on any thread; pointers in the table are not followed.
unsafe impl Send for SourceCallbacks {}
// SAFETY: as above.
unsafe impl Sync for SourceCallbacks {}
// SAFETY: as above.
unsafe impl Send for DestinationCallbacks {}
// SAFETY: as above.
unsafe impl Sync for DestinationCallbacks {}

impl Driver for SourceCallbacks {
    fn call(&self, call: Call<'_>) -> Result<(), GuestError> {
        let (table, ctx, name) = (&self.table, self.context.pointer(), call.name());
        // SAFETY: the caller registered these functions for ctx; the log has the words told, and
        // what is passed stays valid until the callback returns.
        let code = unsafe {
            match call {
                Call::StartDirtyLog => table.start_dirty_log.map(|f| run(|| f(ctx))),
                Call::FetchDirty(region, log) => {
                    table.fetch_dirty.map(|f| run(|| f(ctx, region, log.as_mut_ptr(), log.len())))
                }
                Call::Pause => table.pause.map(|f| run(|| f(ctx))),
                Call::Resume => table.resume.map(|f| run(|| f(ctx))),
                Call::SaveDeviceState(state) => {
                    return match table.save_device_state {
                        Some(f) => save(state, |writer| f(ctx, writer)),
                        None => Ok(()),
                    };
                }
                Call::Throttle(percent) => {
                    let call = table.throttle.map(|f| run(|| f(ctx, percent.into())));
                    Some(call.unwrap_or(DWCP_ERR_UNSUPPORTED))
                }
                Call::Finish(ending) => {
                    Some(table.finish.map_or(0, |f| run(|| f(ctx, ending_code(ending)))))
                }
                Call::LoadDeviceState(_) => None,
            }
        };
        outcome(name, code)
    }
}

impl Driver for DestinationCallbacks {
    fn call(&self, call: Call<'_>) -> Result<(), GuestError> {
        let (table, ctx, name) = (&self.table, self.context.pointer(), call.name());
        // SAFETY: the caller registered these functions for ctx, and the state stays valid until
        // the callback returns.
        let code = unsafe {
            match call {
                Call::Resume => table.resume.map(|f| run(|| f(ctx))),
                Call::LoadDeviceState([]) if table.load_device_state.is_none() => Some(0),
                Call::LoadDeviceState(state) => {
                    let call = |f: LoadCallback| f(ctx, state.as_ptr().cast(), state.len());
                    table.load_device_state.map(|f| run(|| call(f)))
                }
                Call::Finish(ending) => {
                    Some(table.finish.map_or(0, |f| run(|| f(ctx, ending_code(ending)))))
                }
                _ => None,
            }
        };
        outcome(name, code)
    }
}

/// Runs a callback that has a code as its result.
pub fn run(call: impl FnOnce() -> i32) -> i32 {
    CALLBACK_ERROR.with_borrow_mut(|text| text.set(""));
    in_callback(call)
}

/// The callback's code with the text that it left on this thread.
pub fn outcome(name: &'static str, code: Option<i32>) -> Result<(), GuestError> {
    let Some(code) = code else {
        return Err(GuestError::new(name, "there is no such callback"));
    };
    CALLBACK_ERROR.with_borrow(|text| answered(name, code, text.as_str()))
}

/// Collects the device state that a callback writes.
#[derive(Default)]
pub struct StateWriter(Mutex<Vec<u8>>);

impl StateWriter {
    fn append(&self, bytes: &[u8]) -> Outcome {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes.len() > MAX_DEVICE_STATE_BYTES - state.len() {
            let length = state.len() + bytes.len();
            let text =
                format!("device state of {length} bytes; the limit is {MAX_DEVICE_STATE_BYTES}");
            return Err(Failure::new(Status::LimitReached, text));
        }
        state.extend_from_slice(bytes);
        Ok(())
    }
}

impl Handled for StateWriter {
    type Opaque = dwcp_writer;
    const NAME: &'static str = "dwcp_writer";
    const KIND: Kind = Kind::Writer;

    fn wrap(object: Arc<Self>) -> Object {
        Object::Writer(object)
    }

    fn unwrap(object: &Object) -> Option<&Arc<Self>> {
        match object {
            Object::Writer(writer) => Some(writer),
            _ => None,
        }
    }
}

type LoadCallback = unsafe extern "C" fn(*mut c_void, *const c_void, usize) -> i32;

fn save(state: &mut Vec<u8>, call: impl FnOnce(*mut dwcp_writer) -> i32) -> Result<(), GuestError> {
    let lost = |failure: Failure| GuestError::new("save_device_state", failure.text);
    let writer = handle::insert(StateWriter::default()).map_err(lost)?;
    let code = run(|| call(writer));
    let written = handle::remove::<StateWriter>(writer).map_err(lost)?;
    outcome("save_device_state", Some(code))?;
    *state = std::mem::take(&mut *written.0.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(())
}

fn set_callback_error(text: &str) -> Outcome {
    if !guard::is_in_callback() {
        return Err(Failure::new(Status::BadState, "no callback runs on this thread"));
    }
    CALLBACK_ERROR.with_borrow_mut(|kept| kept.set(text));
    Ok(())
}

thread_local! {
    static CALLBACK_ERROR: RefCell<FixedText<512>> = const { RefCell::new(FixedText::new()) };
}

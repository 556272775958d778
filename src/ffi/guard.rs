//! The one guard between C and Rust: panics stop here, errors leave their text here, and calls that
//! must not come from a callback are turned away here.
//!
//! The thread-locals are const and have no destructor: one that had would keep `dlclose` from
//! unmapping the library.

use super::codes::dwcp_status;
use super::handle::{self, Handled};
use crate::wire::cursor::floor_boundary;
use crate::{NodeError, Status};
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Why a call failed: what C gets as code and as `dwcp_last_error`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The code.
    pub status: Status,
    /// The text, with the offending value.
    pub text: String,
}

/// What the body of an entry point returns.
pub type Outcome = Result<(), Failure>;

/// Runs the body of an entry point.
pub fn guard(body: impl FnOnce() -> Outcome) -> dwcp_status {
    finish(catch_unwind(AssertUnwindSafe(body)).map_err(|payload| panic_text(&*payload))).code()
}

/// Runs the body of an entry point that may wait for callbacks, and so must not come from one.
pub fn guard_unless_in_callback(name: &str, body: impl FnOnce() -> Outcome) -> dwcp_status {
    guard(|| {
        refuse_in_callback(name)?;
        body()
    })
}

/// Runs the body of an entry point on a handle; a panic poisons the handle.
pub fn on<H: Handled>(
    pointer: *const H::Opaque,
    body: impl FnOnce(&Arc<H>) -> Outcome,
) -> dwcp_status {
    let object = match handle::get::<H>(pointer) {
        Ok(object) => object,
        Err(failure) => return finish(Ok(Err(failure))).code(),
    };
    let caught = catch_unwind(AssertUnwindSafe(|| body(&object)));
    finish(caught.map_err(|payload| {
        handle::poison(pointer);
        panic_text(&*payload)
    }))
    .code()
}

/// [`on`], for a call that must not come from a callback.
pub fn on_unless_in_callback<H: Handled>(
    name: &str,
    pointer: *const H::Opaque,
    body: impl FnOnce(&Arc<H>) -> Outcome,
) -> dwcp_status {
    on(pointer, |object| {
        refuse_in_callback(name)?;
        body(object)
    })
}

/// Asks an object for an answer that cannot fail and comes at once, for what is called all the time: the
/// handle stays entered meanwhile, and nothing is counted. `otherwise` where it names nothing, or after a
/// panic, which poisons the handle.
pub fn answer<H: Handled, R>(
    pointer: *const H::Opaque,
    otherwise: R,
    body: impl FnOnce(&H) -> R,
) -> R {
    let caught =
        catch_unwind(AssertUnwindSafe(|| handle::with::<H, R>(pointer, |object| body(object))));
    match caught {
        Ok(Ok(answer)) => answer,
        failed => {
            fail(pointer, failed.map(|answer| answer.map(|_| ())));
            otherwise
        }
    }
}

/// Marks the calling thread as inside a callback while `call` runs.
pub fn in_callback<R>(call: impl FnOnce() -> R) -> R {
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            CALLBACK_DEPTH.set(CALLBACK_DEPTH.get() - 1);
        }
    }
    CALLBACK_DEPTH.set(CALLBACK_DEPTH.get() + 1);
    let _leave = Leave;
    call()
}

/// Whether the calling thread is inside a callback.
pub fn is_in_callback() -> bool {
    CALLBACK_DEPTH.get() > 0
}

/// Shows the calling thread's last error text.
pub fn with_last_error<R>(show: impl FnOnce(&str) -> R) -> R {
    LAST_ERROR.with_borrow(|last| show(last.as_str()))
}

impl Failure {
    /// A failure with its text.
    pub fn new(status: Status, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }

    /// A required pointer is NULL.
    pub fn null(what: &str) -> Self {
        Self::new(Status::NullPointer, format!("{what} is NULL"))
    }

    /// An argument is out of range or malformed.
    pub fn invalid(text: impl Into<String>) -> Self {
        Self::new(Status::InvalidArgument, text)
    }
}

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Self {
        Self::new(error.status(), error.to_string())
    }
}

fn refuse_in_callback(name: &str) -> Outcome {
    if is_in_callback() {
        return Err(Failure::new(Status::Busy, format!("{name} was called from a callback")));
    }
    Ok(())
}

#[cold]
fn fail<T>(pointer: *const T, failed: std::thread::Result<Outcome>) {
    let _ = finish(failed.map_err(|payload| {
        handle::poison(pointer);
        panic_text(&*payload)
    }));
}

fn finish(result: Result<Outcome, String>) -> Status {
    match result {
        Ok(Ok(())) => Status::Ok,
        Ok(Err(failure)) => {
            set_last_error(&failure.text);
            failure.status
        }
        Err(text) => {
            set_last_error(&text);
            Status::Panic
        }
    }
}

fn set_last_error(text: &str) {
    LAST_ERROR.with_borrow_mut(|last| last.set(text));
}

fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    format!("panic: {}", text.unwrap_or("no text"))
}

/// A text of bounded length in place.
pub struct FixedText<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> FixedText<N> {
    /// No text.
    pub const fn new() -> Self {
        Self { bytes: [0; N], length: 0 }
    }

    /// Keeps as much of `text` as fits.
    pub fn set(&mut self, text: &str) {
        self.length = floor_boundary(text, N);
        self.bytes[..self.length].copy_from_slice(&text.as_bytes()[..self.length]);
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}

impl<const N: usize> Default for FixedText<N> {
    fn default() -> Self {
        Self::new()
    }
}

thread_local! {
    static LAST_ERROR: RefCell<FixedText<1024>> = const { RefCell::new(FixedText::new()) };
    static CALLBACK_DEPTH: Cell<u32> = const { Cell::new(0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_status_with_its_text() {
        let code = guard(|| panic!("value {}", 7));
        assert_eq!(code, Status::Panic.code());
        with_last_error(|text| assert_eq!(text, "panic: value 7"));
    }

    #[test]
    fn success_leaves_the_last_error_alone() {
        let code = guard(|| Err(Failure::invalid("first")));
        assert_eq!(code, Status::InvalidArgument.code());
        assert_eq!(guard(|| Ok(())), 0);
        with_last_error(|text| assert_eq!(text, "first"));
    }

    #[test]
    fn waiting_calls_are_refused_inside_callbacks_only() {
        let code = in_callback(|| guard_unless_in_callback("f", || Ok(())));
        assert_eq!(code, Status::Busy.code());
        assert_eq!(guard_unless_in_callback("f", || Ok(())), 0);
    }

    #[test]
    fn an_answer_is_the_other_one_where_there_is_no_object() {
        use crate::ffi::callbacks::StateWriter;
        let writer = handle::insert(StateWriter::default()).unwrap();
        assert_eq!(answer(writer, 0, |_: &StateWriter| 5), 5);
        assert_eq!(answer(writer, 0, |_: &StateWriter| panic!("in the answer")), 0);
        with_last_error(|text| assert_eq!(text, "panic: in the answer"));
        assert_eq!(answer(writer, 0, |_: &StateWriter| 5), 0);
        handle::remove::<StateWriter>(writer).unwrap();
        assert_eq!(answer(writer, 7, |_: &StateWriter| 5), 7);
        with_last_error(|text| assert!(text.contains("no live dwcp_writer handle"), "{text}"));
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let mut text = FixedText::<4>::new();
        text.set("aaaé");
        assert_eq!(text.as_str(), "aaa");
    }
}

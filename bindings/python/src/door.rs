//! The one door from Python into the library.
//!
//! Every call gives up the GIL first, also the short ones: a library lock may be held by a thread
//! that waits for the GIL to call the guest. A panic comes back as an exception, and long waits
//! are cut into slices between which Ctrl-C is answered.

use crate::error;
use dwcp::{NodeError, Status};
use pyo3::exceptions::PyOverflowError;
use pyo3::prelude::*;
use std::any::Any;
use std::fmt::Display;
use std::ops::{Deref, RangeInclusive};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Longest time that a waiting call goes without looking at signals.
const SLICE: Duration = Duration::from_millis(100);
/// Of a number that does not fit, in messages.
const MAX_SHOWN_DIGITS: usize = 40;

/// Runs `work` without the GIL.
pub fn pass<T: Send>(py: Python<'_>, work: impl FnOnce() -> T + Send) -> PyResult<T> {
    py.detach(|| catch_unwind(AssertUnwindSafe(work))).map_err(|payload| panic_error(py, &payload))
}

/// The exception for a panic's payload.
pub fn panic_error(py: Python<'_>, payload: &Box<dyn Any + Send>) -> PyErr {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "unknown".to_owned());
    error::new(py, Status::Panic, &format!("the library panicked: {text}"))
}

/// Runs a fallible node operation without the GIL.
pub fn pass_node<T: Send>(
    py: Python<'_>,
    work: impl FnOnce() -> Result<T, NodeError> + Send,
) -> PyResult<T> {
    pass(py, work)?.map_err(|failure| error::new(py, failure.status(), &failure.to_string()))
}

/// Calls `wait` with slices of the time allowed until it has a result; none when time is up.
pub fn pass_waiting<T: Send>(
    py: Python<'_>,
    timeout: Option<Duration>,
    wait: impl Fn(Duration) -> Option<T> + Sync,
) -> PyResult<Option<T>> {
    let end = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    loop {
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        let slice = left.map_or(SLICE, |left| left.min(SLICE));
        if let Some(result) = pass(py, || wait(slice))? {
            return Ok(Some(result));
        }
        py.check_signals()?;
        if left.is_some_and(|left| left <= SLICE) {
            return Ok(None);
        }
    }
}

/// Runs work that takes its time on a thread of its own, so that Ctrl-C is answered meanwhile; then the
/// work goes on by itself to its end.
pub fn pass_aside<T: Send + 'static>(
    py: Python<'_>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> PyResult<T> {
    let (running, ended) = mpsc::channel::<()>();
    let body = move || {
        // Dropped when the work is done, also by a panic.
        let _running = running;
        work()
    };
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(body);
    let thread = spawned
        .map_err(|cause| error::new(py, Status::Io, &format!("cannot start a thread: {cause}")))?;
    let ended = Mutex::new(ended);
    let ended = |slice: Duration| {
        let ended = ended.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(ended.recv_timeout(slice), Err(RecvTimeoutError::Disconnected)).then_some(())
    };
    pass_waiting(py, None, ended)?;
    pass(py, || thread.join())?.map_err(|payload| panic_error(py, &payload))
}

/// [`pass_aside`], for a fallible node operation.
pub fn pass_node_aside<T: Send + 'static>(
    py: Python<'_>,
    name: &str,
    work: impl FnOnce() -> Result<T, NodeError> + Send + 'static,
) -> PyResult<T> {
    pass_aside(py, name, work)?
        .map_err(|failure| error::new(py, failure.status(), &failure.to_string()))
}

/// Seconds from Python; `None` means no bound.
pub fn seconds(py: Python<'_>, name: &str, value: Option<f64>) -> PyResult<Option<Duration>> {
    let Some(value) = value else { return Ok(None) };
    let refuse = |_| {
        let text = format!("{name} is {value}; it must be a number of seconds, not negative");
        error::invalid(py, text)
    };
    Duration::try_from_secs_f64(value).map(Some).map_err(refuse)
}

/// A whole number from Python within these bounds, however large or small it is there.
pub fn whole<T>(name: &str, value: &Bound<'_, PyAny>, range: RangeInclusive<T>) -> PyResult<T>
where
    T: Copy + PartialOrd + Display + TryFrom<u64>,
{
    let py = value.py();
    let fitting = match value.extract::<u64>() {
        Ok(number) => T::try_from(number).ok().filter(|number| range.contains(number)),
        Err(failure) if failure.is_instance_of::<PyOverflowError>(py) => None,
        Err(failure) => return Err(failure),
    };
    fitting.ok_or_else(|| {
        // Python refuses to print the longest numbers.
        let printed = value.str().map(|text| text.to_string());
        let text = printed.unwrap_or_else(|_| "a number too long to print".to_owned());
        let text: String = text.chars().take(MAX_SHOWN_DIGITS).collect();
        let (least, most) = (range.start(), range.end());
        error::invalid(py, format!("{name} is {text}; it must be {least} to {most}"))
    })
}

/// A library handle inside a Python object; letting the last one go may join threads that wait
/// for the GIL, so it is dropped without it.
///
/// A forked child has none of these threads: there it is not dropped at all.
pub struct Handle<T: Send> {
    inner: Option<T>,
    process: u32,
}

impl<T: Send> Handle<T> {
    /// Wraps a handle.
    pub fn new(inner: T) -> Self {
        Self { inner: Some(inner), process: std::process::id() }
    }
}

impl<T: Send> Deref for Handle<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // Only Drop empties it.
        match &self.inner {
            Some(inner) => inner,
            None => unreachable!("a handle is full until it is dropped"),
        }
    }
}

impl<T: Send> Drop for Handle<T> {
    fn drop(&mut self) {
        let inner = self.inner.take();
        if self.process != std::process::id() {
            return std::mem::forget(inner);
        }
        Python::try_attach(|py| pass(py, || drop(inner)));
    }
}

//! What source and destination guests share: calls into a Python object from library threads.

use crate::memory::{self, Hold, RegionArgument};
use dwcp::migration::GuestError;
use dwcp::migration::guest::Ending;
use dwcp::runtime::sys::MappedMemory;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use std::sync::{Arc, Mutex, PoisonError};

/// The exception with which a callback failed, kept so that it can be chained.
#[derive(Clone, Default)]
pub struct Failure(Arc<Mutex<Option<PyErr>>>);

impl Failure {
    /// The exception last kept.
    pub fn get<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.as_ref().map(|failure| failure.value(py).clone().into_any())
    }

    fn keep(&self, failure: PyErr) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
    }
}

/// A guest written in Python. It outlives its memory, being part of the source or sink.
pub struct Guest {
    object: Py<PyAny>,
    failure: Mutex<Failure>,
    _hold: Hold,
}

impl Guest {
    /// Takes an object in, checking that it has the methods that will be called.
    pub fn adopt(
        object: &Bound<'_, PyAny>,
        methods: &[&[&str]],
        page_bytes: u32,
        regions: Vec<RegionArgument<'_>>,
    ) -> PyResult<(Arc<MappedMemory>, Arc<Self>)> {
        for method in methods.iter().copied().flatten() {
            if !object.getattr_opt(*method)?.is_some_and(|method| method.is_callable()) {
                let kind = object.get_type();
                return Err(PyTypeError::new_err(format!("guest {kind} lacks method {method}()")));
            }
        }
        let (memory, hold) = memory::hold(object.py(), page_bytes, regions)?;
        let object = object.clone().unbind();
        Ok((memory, Arc::new(Self { object, failure: Mutex::default(), _hold: hold })))
    }

    /// Where the failures of the current migration are kept.
    pub fn failure(&self) -> Failure {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps failures in `next` from now on; returns the place before.
    pub fn keep_failures_in(&self, next: Failure) -> Failure {
        std::mem::replace(&mut *self.failure.lock().unwrap_or_else(PoisonError::into_inner), next)
    }

    /// Calls `method` on this thread and hands its result to `read`.
    pub fn call<T>(
        &self,
        method: &'static str,
        arguments: impl for<'py> FnOnce(Python<'py>) -> PyResult<Bound<'py, PyTuple>>,
        read: impl for<'py> FnOnce(Bound<'py, PyAny>) -> PyResult<T>,
    ) -> Result<T, GuestError> {
        let outcome = Python::try_attach(|py| {
            let result = arguments(py)
                .and_then(|arguments| self.object.bind(py).call_method1(method, arguments))
                .and_then(read);
            result.map_err(|failure| {
                let error = GuestError::new(method, describe(py, &failure));
                self.failure().keep(failure);
                error
            })
        });
        outcome.unwrap_or_else(|| Err(GuestError::new(method, "the interpreter is shutting down")))
    }

    /// Calls a method without arguments whose result does not matter.
    pub fn signal(&self, method: &'static str) -> Result<(), GuestError> {
        self.call(method, |py| Ok(PyTuple::empty(py)), |_| Ok(()))
    }

    /// Tells the guest how the migration ended.
    pub fn finish(&self, ending: Ending) -> Result<(), GuestError> {
        // Nobody knows who has a guest in doubt, so it must not be let go of; it has not been resumed.
        let keep = ending != Ending::Discard;
        self.call("finish", |py| PyTuple::new(py, [keep]), |_| Ok(()))
    }
}

fn describe(py: Python<'_>, failure: &PyErr) -> String {
    let kind = failure.get_type(py).name().map_or_else(|_| "exception".into(), |n| n.to_string());
    let text = failure.value(py).str().map_or_else(|_| String::new(), |text| text.to_string());
    if text.is_empty() { kind } else { format!("{kind}: {text}") }
}

//! Errors on their way to Python: always built by `dwcp.errors`, so that there is one tree.

use dwcp::Status;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use std::fmt::Display;

/// The exception of `status` with `message`.
pub fn new(py: Python<'_>, status: Status, message: &str) -> PyErr {
    static FACTORY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    FACTORY
        .import(py, "dwcp.errors", "error_from_code")
        .and_then(|factory| factory.call1((status.code(), message)))
        .map_or_else(|failure| failure, PyErr::from_value)
}

/// The exception for an argument that does not fit.
pub fn invalid(py: Python<'_>, why: impl Display) -> PyErr {
    new(py, Status::InvalidArgument, &why.to_string())
}

/// Every status code with its C name, in table order.
#[pyfunction]
pub fn status_table() -> Vec<(i32, &'static str)> {
    Status::ALL.iter().map(|status| (status.code(), status.name())).collect()
}

/// Panics inside the door; lets a test see what a panic looks like from Python.
#[pyfunction]
pub fn raise_panic(py: Python<'_>, text: String) -> PyResult<()> {
    crate::door::pass(py, || panic!("{text}"))
}

//! The operator's command line, for `python -m dwcp`.

use crate::door;
use pyo3::prelude::*;
use std::ffi::OsString;

/// Runs one command, program name first, and gives its exit code.
#[pyfunction]
pub fn run_operator(py: Python<'_>, args: Vec<OsString>) -> PyResult<i32> {
    door::pass(py, || dwcp::cli::run_operator(args))
}

//! `_dwcp.Migration`: one migration, as plain values.

use crate::door::Handle;
use crate::guest::Failure;
use crate::{convert, door};
use pyo3::prelude::*;

/// Native half of `dwcp.Migration`.
#[pyclass(frozen, module = "dwcp._dwcp")]
pub struct Migration {
    /// The facade's handle.
    pub inner: Handle<dwcp::Migration>,
    /// Where an exception of a guest's callback is kept.
    pub failure: Failure,
}

#[pymethods]
impl Migration {
    /// 32 hexadecimal digits.
    #[getter]
    fn id(&self, py: Python<'_>) -> PyResult<String> {
        door::pass(py, || self.inner.id().to_string())
    }

    /// The guest's name.
    #[getter]
    fn guest(&self, py: Python<'_>) -> PyResult<String> {
        door::pass(py, || self.inner.guest().to_owned())
    }

    /// `source` or `destination`.
    #[getter]
    fn side(&self, py: Python<'_>) -> PyResult<&'static str> {
        door::pass(py, || self.inner.side())
    }

    /// `source`, `destination` or `in_doubt`.
    #[getter]
    fn owner(&self, py: Python<'_>) -> PyResult<&'static str> {
        door::pass(py, || self.inner.owner().name())
    }

    /// Where it stands, as a dictionary.
    fn progress<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let progress = door::pass(py, || self.inner.progress())?;
        convert::to_python(py, &progress)
    }

    /// The report as a dictionary, None while it runs.
    fn report<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let report = door::pass(py, || self.inner.report())?;
        report.map(|report| convert::to_python(py, &report)).transpose()
    }

    /// Waits for the end; the report, or None when the time is up.
    #[pyo3(signature = (timeout_s = None))]
    fn wait<'py>(
        &self,
        py: Python<'py>,
        timeout_s: Option<f64>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let timeout = door::seconds(py, "timeout", timeout_s)?;
        let report = door::pass_waiting(py, timeout, |slice| self.inner.wait(Some(slice)))?;
        report.map(|report| convert::to_python(py, &report)).transpose()
    }

    /// Asks for the end.
    fn cancel(&self, py: Python<'_>) -> PyResult<()> {
        door::pass(py, || self.inner.cancel())
    }

    /// Lets the guest go on at the destination before all of its memory is there.
    fn start_post_copy(&self, py: Python<'_>) -> PyResult<()> {
        door::pass_node(py, || self.inner.start_post_copy())
    }

    /// Gives up a guest that lacks pages which will not come.
    fn abandon_post_copy(&self, py: Python<'_>) -> PyResult<()> {
        door::pass_node(py, || self.inner.abandon_post_copy())
    }

    /// Changes the cap, in bytes per second; None lifts it.
    fn set_bandwidth_limit(&self, py: Python<'_>, bytes_per_s: Option<u64>) -> PyResult<()> {
        door::pass(py, || self.inner.set_bandwidth_limit(bytes_per_s))
    }

    /// The exception with which a callback of the guest failed.
    fn failure<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.failure.get(py)
    }
}

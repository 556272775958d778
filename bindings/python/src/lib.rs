//! `_dwcp`, the private native module under the Python package `dwcp`.

use pyo3::prelude::*;

/// Native half of the `dwcp` package; scripts import `dwcp`, not this.
#[pymodule]
fn _dwcp(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", dwcp::VERSION)
}

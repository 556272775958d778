//! `_dwcp`, the private native module under the Python package `dwcp`.
//!
//! It is thin on purpose: it crosses the language border (GIL, signals, buffers, exceptions) and
//! hands out plain dictionaries; what a script sees is written in Python, in `python/dwcp`.

mod command_line;
mod convert;
mod dirty_log;
mod door;
mod error;
mod flags;
mod guest;
mod memory;
mod migration;
mod modes;
mod node;
mod paths;
mod rollout;
mod sink;
mod source;

use pyo3::prelude::*;

/// Native half of the `dwcp` package; scripts import `dwcp`, not this.
#[pymodule]
fn _dwcp(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", dwcp::VERSION)?;
    module.add_class::<node::Node>()?;
    module.add_class::<migration::Migration>()?;
    module.add_class::<dirty_log::DirtyLog>()?;
    module.add_class::<flags::Decider>()?;
    module.add_function(wrap_pyfunction!(command_line::run_operator, module)?)?;
    module.add_function(wrap_pyfunction!(error::status_table, module)?)?;
    module.add_function(wrap_pyfunction!(flags::guide_schedule, module)?)?;
    module.add_function(wrap_pyfunction!(flags::decide_flag, module)?)?;
    module.add_function(wrap_pyfunction!(flags::exact_units, module)?)?;
    module.add_function(wrap_pyfunction!(rollout::simulate_rollout, module)?)?;
    module.add_function(wrap_pyfunction!(node::kernel_tracking, module)?)?;
    module.add_function(wrap_pyfunction!(error::raise_panic, module)?)
}

//! How data leaves a node, between Python's words and the facade's values.

use crate::door::whole;
use crate::{convert, error};
use dwcp::config::value;
use dwcp::transport::path_options::{LEAST_LIMIT_BYTES_PER_S, MAX_DSCP};
use dwcp::transport::{PathOptions, RdmaOptions};
use pyo3::prelude::*;
use serde_json::json;

/// What holds for all paths, as Python's dataclass has it.
#[derive(FromPyObject)]
pub struct Paths<'py> {
    bandwidth_limit_bytes_per_s: Option<Bound<'py, PyAny>>,
    pacing: bool,
    dscp: Bound<'py, PyAny>,
    source_addresses: Vec<String>,
}

/// How pages go by RDMA, as Python's dataclass has it.
#[derive(FromPyObject)]
pub struct Rdma<'py> {
    enabled: bool,
    max_memory_bytes: Bound<'py, PyAny>,
}

/// The options from Python.
pub fn paths_in(py: Python<'_>, from: &Paths<'_>) -> PyResult<PathOptions> {
    let sources = value::addresses(&from.source_addresses.join(","));
    let sources =
        sources.map_err(|text| error::invalid(py, format!("source_addresses: {text}")))?;
    let limit = from
        .bandwidth_limit_bytes_per_s
        .as_ref()
        .map(|rate| whole("bandwidth_limit_bytes_per_s", rate, LEAST_LIMIT_BYTES_PER_S..=u64::MAX));
    Ok(PathOptions {
        bandwidth_limit_bytes_per_s: limit.transpose()?,
        pacing: from.pacing,
        dscp: whole("dscp", &from.dscp, 0..=MAX_DSCP)?,
        source_addresses: sources,
    })
}

/// The options for Python.
pub fn paths_out<'py>(py: Python<'py>, options: &PathOptions) -> PyResult<Bound<'py, PyAny>> {
    let sources: Vec<_> = options.source_addresses.iter().map(ToString::to_string).collect();
    let values = json!({
        "bandwidth_limit_bytes_per_s": options.bandwidth_limit_bytes_per_s,
        "pacing": options.pacing,
        "dscp": options.dscp,
        "source_addresses": sources,
    });
    convert::to_python(py, &values)
}

/// The options from Python.
pub fn rdma_in(from: &Rdma<'_>) -> PyResult<RdmaOptions> {
    let max_memory_bytes = whole("max_memory_bytes", &from.max_memory_bytes, 1..=u64::MAX)?;
    Ok(RdmaOptions { enabled: from.enabled, max_memory_bytes })
}

/// The options for Python.
pub fn rdma_out(py: Python<'_>, options: RdmaOptions) -> PyResult<Bound<'_, PyAny>> {
    let RdmaOptions { enabled, max_memory_bytes } = options;
    convert::to_python(py, &json!({ "enabled": enabled, "max_memory_bytes": max_memory_bytes }))
}

//! Rollouts that are played on a simulated cluster.

use crate::{convert, door, error};
use dwcp::Status;
use dwcp::config::scenario;
use dwcp::rollout::simulator::play;
use pyo3::prelude::*;

/// Plays a scenario, in YAML or JSON, from the file of this name; Ctrl-C is answered meanwhile.
#[pyfunction]
pub fn simulate_rollout<'py>(
    py: Python<'py>,
    name: &str,
    text: &str,
    seed: Option<u64>,
) -> PyResult<Bound<'py, PyAny>> {
    let refused = |text: String| error::new(py, Status::Config, &text);
    let mut scenario =
        scenario::from_text(name, text).map_err(|error| refused(error.to_string()))?;
    scenario.seed = seed.unwrap_or(scenario.seed);
    let played = door::pass_aside(py, "dwcp-simulate", move || play(&scenario))?;
    convert::to_python(py, &played.map_err(|error| refused(error.to_string()))?)
}

//! Feature flags: changes from Python's words, and what answers again and again.

use crate::door::Handle;
use crate::{convert, door, error};
use dwcp::rollout::guard::Limits;
use dwcp::rollout::{
    Change, ChangeAction, Flag, FlagSet, Percent, RuleEdit, Schedule, Unit, UnknownFlag, decide,
};
use dwcp::runtime::rollout::RolloutError;
use pyo3::prelude::*;
use serde_json::{Map, Value};

/// Answers again and again, in some nanoseconds, whether a unit has a feature.
///
/// `Node.decider` makes it. It is true while the feature is on, and outlives its node, whose last word it
/// keeps.
#[pyclass(frozen, module = "dwcp")]
pub struct Decider {
    inner: Handle<dwcp::runtime::rollout::Decider>,
    unit: String,
}

#[pymethods]
impl Decider {
    /// Whether the feature is on. It neither waits nor fails.
    fn is_on(&self) -> bool {
        self.inner.is_on()
    }

    fn __bool__(&self) -> bool {
        self.inner.is_on()
    }

    /// The flag's name.
    #[getter]
    fn flag(&self) -> &'static str {
        self.inner.flag().name()
    }

    /// The unit, as it was given.
    #[getter]
    fn unit(&self) -> &str {
        &self.unit
    }

    fn __repr__(&self) -> String {
        let state = if self.inner.is_on() { "on" } else { "off" };
        format!("<dwcp.Decider {} for {:?}: {state}>", self.flag(), self.unit)
    }
}

/// Makes what answers again and again.
pub fn decider(py: Python<'_>, node: &dwcp::Node, name: &str, unit: String) -> PyResult<Decider> {
    let flag = flag(py, name)?;
    let inner = pass(py, || node.decider(flag, &unit))?;
    Ok(Decider { inner: Handle::new(inner), unit })
}

/// The flag of a name.
pub fn flag(py: Python<'_>, name: &str) -> PyResult<Flag> {
    name.parse().map_err(|failure: UnknownFlag| {
        error::new(py, RolloutError::from(failure.clone()).status(), &failure.to_string())
    })
}

/// A change of some flags: `edits` is a JSON object of edits by the flags' names.
pub fn change(py: Python<'_>, edits: &str, who: String, why: String) -> PyResult<Change> {
    let edits: Map<String, Value> =
        serde_json::from_str(edits).map_err(|failure| error::invalid(py, failure))?;
    let edit = |(name, fields): (String, Value)| Ok((flag(py, &name)?, edit(py, fields)?));
    let edits: PyResult<Vec<(Flag, RuleEdit)>> = edits.into_iter().map(edit).collect();
    Ok(Change { who, why, evidence: None, action: ChangeAction::Edit(edits?) })
}

/// An edit; each field alone first, so that what is wrong is told with its name.
fn edit(py: Python<'_>, fields: Value) -> PyResult<RuleEdit> {
    let read = |fields| serde_json::from_value::<RuleEdit>(fields);
    for (name, value) in fields.as_object().into_iter().flatten() {
        let alone = Map::from_iter([(name.clone(), value.clone())]);
        read(alone.into()).map_err(|failure| error::invalid(py, format!("{name}: {failure}")))?;
    }
    read(fields).map_err(|failure| error::invalid(py, failure))
}

/// A schedule from its JSON.
pub fn schedule(py: Python<'_>, text: &str) -> PyResult<Schedule> {
    serde_json::from_str(text).map_err(|failure| error::invalid(py, format!("schedule: {failure}")))
}

/// Limits from their JSON.
pub fn limits(py: Python<'_>, text: &str) -> PyResult<Limits> {
    serde_json::from_str(text).map_err(|failure| error::invalid(py, failure))
}

/// Runs an operation on flags without the GIL.
pub fn pass<T: Send>(
    py: Python<'_>,
    work: impl FnOnce() -> Result<T, RolloutError> + Send,
) -> PyResult<T> {
    door::pass(py, work)?.map_err(|failure| rollout_error(py, &failure))
}

/// The same for one that waits for the disk, so that Ctrl-C is answered meanwhile.
pub fn pass_aside<T: Send + 'static>(
    py: Python<'_>,
    work: impl FnOnce() -> Result<T, RolloutError> + Send + 'static,
) -> PyResult<T> {
    door::pass_aside(py, "dwcp-flag", work)?.map_err(|failure| rollout_error(py, &failure))
}

fn rollout_error(py: Python<'_>, failure: &RolloutError) -> PyErr {
    error::new(py, failure.status(), &failure.to_string())
}

/// The upgrade guide's schedule of a flag.
#[pyfunction]
pub fn guide_schedule<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    convert::to_python(py, &Schedule::guide(flag(py, name)?))
}

/// What flags that need not be in force would decide; `flags` is a JSON object as the audit log has it.
#[pyfunction]
pub fn decide_flag<'py>(
    py: Python<'py>,
    flags: &str,
    name: &str,
    unit: &str,
    peer_can: bool,
    now_s: u64,
) -> PyResult<Bound<'py, PyAny>> {
    let flag = flag(py, name)?;
    let flags: FlagSet =
        serde_json::from_str(flags).map_err(|failure| error::invalid(py, failure))?;
    flags.check().map_err(|failure| error::invalid(py, failure))?;
    let unit = Unit::parse(unit).map_err(|failure| error::invalid(py, failure))?;
    convert::to_python(py, &decide(&flags, flag, &unit, peer_can, now_s))
}

/// The members that have a feature at a percentage, by rank.
#[pyfunction]
pub fn exact_units(
    py: Python<'_>,
    name: &str,
    seed: u64,
    percent: f64,
    members: Vec<String>,
) -> PyResult<Vec<String>> {
    let flag = flag(py, name)?;
    let percent = Percent::from_f64(percent).map_err(|failure| error::invalid(py, failure))?;
    let members: Vec<&str> = members.iter().map(String::as_str).collect();
    let chosen = dwcp::rollout::exact_units(seed, flag, percent, &members);
    chosen.map_err(|failure| rollout_error(py, &failure.into()))
}

//! Rust values as plain Python objects, by way of the JSON that the library defines anyway.

use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use serde::Serialize;
use serde_json::{Number, Value};

/// `value` as dict, list, str, int, float, bool or None.
pub fn to_python<'py>(py: Python<'py>, value: &impl Serialize) -> PyResult<Bound<'py, PyAny>> {
    let value =
        serde_json::to_value(value).map_err(|failure| crate::error::invalid(py, failure))?;
    json(py, &value)
}

fn json<'py>(py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    match value {
        Value::Null => Ok(py.None().into_bound(py)),
        Value::Bool(value) => value.into_bound_py_any(py),
        Value::Number(value) => number(py, value),
        Value::String(value) => value.into_bound_py_any(py),
        Value::Array(values) => {
            let list = PyList::empty(py);
            values.iter().try_for_each(|value| list.append(json(py, value)?))?;
            Ok(list.into_any())
        }
        Value::Object(entries) => {
            let dict = PyDict::new(py);
            entries.iter().try_for_each(|(key, value)| dict.set_item(key, json(py, value)?))?;
            Ok(dict.into_any())
        }
    }
}

fn number<'py>(py: Python<'py>, value: &Number) -> PyResult<Bound<'py, PyAny>> {
    match (value.as_u64(), value.as_i64()) {
        (Some(value), _) => value.into_bound_py_any(py),
        (None, Some(value)) => value.into_bound_py_any(py),
        (None, None) => value.as_f64().into_bound_py_any(py),
    }
}

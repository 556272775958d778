//! Modes of peers and what steers them, between Python's words and the facade's values.

use crate::door::whole;
use crate::{convert, door, error};
use dwcp::base::limits::{MAX_CONNECTION_PROBES, MAX_STREAMS};
use dwcp::runtime::modes::{ProbeSeries, TransportOptions, TransportTest};
use dwcp::transport::Mode;
use dwcp::transport::mode::{
    Congestion, ModeEffects, ModePolicy, ParseCongestionError, Thresholds, kind::ParseModeError,
};
use pyo3::prelude::*;
use serde_json::json;
use std::ops::RangeInclusive;
use std::time::Duration;

/// The word for a mode that is measured.
const AUTO: &str = "auto";

/// A mode, or none for `auto`.
pub fn mode(py: Python<'_>, text: &str) -> PyResult<Option<Mode>> {
    if text == AUTO {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|failure: ParseModeError| error::invalid(py, failure))
}

/// Sends probes and waits for the answers.
pub fn probe<'py>(
    py: Python<'py>,
    node: dwcp::Node,
    peer: String,
    count: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let count = whole("count", count, 1..=MAX_CONNECTION_PROBES)?;
    let work = move || node.probe_peer(&peer, count);
    let series: ProbeSeries = door::pass_node_aside(py, "dwcp-probing", work)?;
    convert::to_python(py, &series)
}

/// Fills a path for some time and tells what it carried.
pub fn test<'py>(
    py: Python<'py>,
    node: dwcp::Node,
    (peer, mode, streams): (Option<String>, &str, &Bound<'_, PyAny>),
    duration_s: f64,
) -> PyResult<Bound<'py, PyAny>> {
    let mode: Mode = mode.parse().map_err(|failure: ParseModeError| error::invalid(py, failure))?;
    let streams = whole("streams", streams, STREAMS)?;
    let duration = door::seconds(py, "duration_s", Some(duration_s))?.unwrap_or(Duration::ZERO);
    let work = move || node.test_transport(peer.as_deref(), (mode, streams), duration);
    let told: TransportTest = door::pass_node_aside(py, "dwcp-testing", work)?;
    convert::to_python(py, &told)
}

/// The options as Python's dataclass has them.
#[derive(FromPyObject)]
pub struct Transport<'py> {
    mode: String,
    allow_datacenter: bool,
    allow_internet: bool,
    congestion: String,
    datacenter_streams: Bound<'py, PyAny>,
    internet_streams: Bound<'py, PyAny>,
    datacenter_rtt_us: Bound<'py, PyAny>,
    internet_rtt_us: Bound<'py, PyAny>,
    internet_jitter_us: Bound<'py, PyAny>,
    datacenter_loss_ppm: Bound<'py, PyAny>,
    fast_rate_bytes_per_s: Bound<'py, PyAny>,
}

/// The options from Python.
pub fn transport_in(py: Python<'_>, from: &Transport<'_>) -> PyResult<TransportOptions> {
    let congestion: Result<Congestion, ParseCongestionError> = from.congestion.parse();
    let effects = ModeEffects {
        datacenter_streams: whole("datacenter_streams", &from.datacenter_streams, STREAMS)?,
        internet_streams: whole("internet_streams", &from.internet_streams, STREAMS)?,
        congestion: congestion.map_err(|failure| error::invalid(py, failure))?,
    };
    let number = |name, value| whole(name, value, 0..=u32::MAX);
    let rate = &from.fast_rate_bytes_per_s;
    let thresholds = Thresholds {
        datacenter_rtt_us: number("datacenter_rtt_us", &from.datacenter_rtt_us)?,
        internet_rtt_us: number("internet_rtt_us", &from.internet_rtt_us)?,
        internet_jitter_us: number("internet_jitter_us", &from.internet_jitter_us)?,
        fast_rate_bytes_per_s: whole("fast_rate_bytes_per_s", rate, 0..=u64::MAX)?,
        datacenter_loss_ppm: number("datacenter_loss_ppm", &from.datacenter_loss_ppm)?,
    };
    let policy = ModePolicy {
        forced: mode(py, &from.mode)?,
        allow_datacenter: from.allow_datacenter,
        allow_internet: from.allow_internet,
        thresholds,
        ..ModePolicy::default()
    };
    Ok(TransportOptions { policy, effects })
}

/// The options for Python.
pub fn transport_out<'py>(
    py: Python<'py>,
    options: &TransportOptions,
) -> PyResult<Bound<'py, PyAny>> {
    let TransportOptions { policy, effects } = options;
    let mut values = json!({
        "mode": policy.forced.map_or(AUTO, Mode::name),
        "allow_datacenter": policy.allow_datacenter,
        "allow_internet": policy.allow_internet,
        "congestion": effects.congestion.name(),
        "datacenter_streams": effects.datacenter_streams,
        "internet_streams": effects.internet_streams,
    });
    if let (Some(values), Ok(serde_json::Value::Object(thresholds))) =
        (values.as_object_mut(), serde_json::to_value(policy.thresholds))
    {
        values.extend(thresholds);
    }
    convert::to_python(py, &values)
}

/// How many streams there may be.
pub const STREAMS: RangeInclusive<u16> = 1..=MAX_STREAMS;

//! Modes of peers and what steers them, between Python's words and the facade's values.

use crate::{convert, door, error};
use dwcp::base::limits::MAX_STREAMS;
use dwcp::runtime::modes::{ProbeSeries, TransportOptions, TransportTest};
use dwcp::transport::Mode;
use dwcp::transport::mode::{
    Congestion, ModeEffects, ModePolicy, ParseCongestionError, Thresholds, kind::ParseModeError,
};
use pyo3::prelude::*;
use serde_json::json;
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
pub fn probe(
    py: Python<'_>,
    node: dwcp::Node,
    peer: String,
    count: i64,
) -> PyResult<Bound<'_, PyAny>> {
    // What does not fit is as far out of range as 0 is.
    let count = u32::try_from(count).unwrap_or(0);
    let work = move || node.probe_peer(&peer, count);
    let series: ProbeSeries = door::pass_node_aside(py, "dwcp-probing", work)?;
    convert::to_python(py, &series)
}

/// Fills a path for some time and tells what it carried.
pub fn test<'py>(
    py: Python<'py>,
    node: dwcp::Node,
    (peer, mode, streams): (Option<String>, &str, i64),
    duration_s: f64,
) -> PyResult<Bound<'py, PyAny>> {
    let mode: Mode = mode.parse().map_err(|failure: ParseModeError| error::invalid(py, failure))?;
    let streams = stream_count(py, "streams", streams)?;
    let duration = door::seconds(py, "duration_s", Some(duration_s))?.unwrap_or(Duration::ZERO);
    let work = move || node.test_transport(peer.as_deref(), (mode, streams), duration);
    let told: TransportTest = door::pass_node_aside(py, "dwcp-testing", work)?;
    convert::to_python(py, &told)
}

/// The options as Python's dataclass has them.
#[derive(FromPyObject)]
pub struct Transport {
    mode: String,
    allow_datacenter: bool,
    allow_internet: bool,
    congestion: String,
    datacenter_streams: i64,
    internet_streams: i64,
    datacenter_rtt_us: u32,
    internet_rtt_us: u32,
    internet_jitter_us: u32,
    datacenter_loss_ppm: u32,
    fast_rate_bytes_per_s: u64,
}

/// The options from Python.
pub fn transport_in(py: Python<'_>, from: &Transport) -> PyResult<TransportOptions> {
    let congestion: Result<Congestion, ParseCongestionError> = from.congestion.parse();
    let effects = ModeEffects {
        datacenter_streams: stream_count(py, "datacenter_streams", from.datacenter_streams)?,
        internet_streams: stream_count(py, "internet_streams", from.internet_streams)?,
        congestion: congestion.map_err(|failure| error::invalid(py, failure))?,
    };
    let thresholds = Thresholds {
        datacenter_rtt_us: from.datacenter_rtt_us,
        internet_rtt_us: from.internet_rtt_us,
        internet_jitter_us: from.internet_jitter_us,
        fast_rate_bytes_per_s: from.fast_rate_bytes_per_s,
        datacenter_loss_ppm: from.datacenter_loss_ppm,
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

fn stream_count(py: Python<'_>, name: &str, streams: i64) -> PyResult<u16> {
    let known = u16::try_from(streams).ok().filter(|count| (1..=MAX_STREAMS).contains(count));
    known.ok_or_else(|| {
        error::invalid(py, format!("{name} is {streams}; it must be 1 to {MAX_STREAMS}"))
    })
}

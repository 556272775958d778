//! Metrics: this node's for Prometheus and as JSON, and those of other nodes, which tell of theirs.

use super::Context;
use super::error::ApiError;
use super::http::Reply;
use super::request::Request;
use super::vm::aside;
use super::watch::parse_component;
use crate::Status;
use crate::node::catalog::{Declaration, Metric};
use crate::node::exposition;
use crate::observe::Component;
use crate::runtime::clock::wall_clock_us;
use crate::runtime::metrics_teller::NodeMetrics;
use serde_json::{Value, json};
use std::sync::Arc;

/// `GET /metrics`.
pub(super) fn prometheus(context: &Context) -> Result<Reply, ApiError> {
    let text = context.telemetry.prometheus_text()?;
    Ok(Reply::Text { content_type: exposition::CONTENT_TYPE, text })
}

/// `GET /v3/metrics?name=&component=`.
pub(super) fn own(context: &Context, request: &Request) -> Result<Value, ApiError> {
    request.allow(&["name", "component"], &[])?;
    let wanted = Wanted::of(request.query("name"), request.query("component"))?;
    let found = context.telemetry.metrics_json(|known| wanted.accepts(known));
    Ok(json!({
        "node": context.node.name(),
        "time_us": wall_clock_us(),
        "since_us": context.telemetry.since_us(),
        "metrics": found,
    }))
}

/// `POST /v3/metrics/nodes`.
pub(super) async fn of_nodes(context: &Arc<Context>, request: &Request) -> Result<Reply, ApiError> {
    request.allow(&[], &["nodes", "name", "component"])?;
    let (name, component) = (request.scalar("name")?, request.scalar("component")?);
    let wanted = Wanted::of(name.as_deref(), component.as_deref())?;
    let nodes = request.text("nodes")?;
    let nodes: Vec<String> = nodes.split(',').map(|node| node.trim().to_owned()).collect();
    let wants_all = nodes.iter().any(|node| node == "all");
    let node = context.node.clone();
    aside(move || {
        let rows = node.metrics_of((!wants_all).then_some(&nodes[..]))?;
        let rows: Vec<Value> = rows.iter().map(|row| row_json(row, &wanted)).collect();
        Ok(json!({ "rows": rows }))
    })
    .await
}

fn row_json(row: &NodeMetrics, wanted: &Wanted) -> Value {
    let told = match &row.told {
        Ok(told) => told,
        Err(failure) => return json!({ "address": row.address, "failure": failure }),
    };
    let families = told.families.iter();
    let metrics = families.filter(|family| wanted.accepts_name(&family.name));
    json!({
        "address": row.address,
        "node": told.node,
        "time_us": told.time_us,
        "since_us": told.since_us,
        "metrics": metrics.map(exposition::family_json).collect::<Vec<_>>(),
    })
}

/// Which metrics are wanted.
struct Wanted {
    name: Option<String>,
    component: Option<Component>,
}

impl Wanted {
    /// One of this name, and of this component, which both must be known here.
    fn of(name: Option<&str>, component: Option<&str>) -> Result<Self, ApiError> {
        let component = component.map(parse_component).transpose()?;
        let wanted = Self { name: name.map(str::to_owned), component };
        let mut all = Metric::ALL.iter().map(|metric| metric.declaration());
        if wanted.name.is_none() || all.any(|known| wanted.accepts(known)) {
            return Ok(wanted);
        }
        let known = Metric::ALL.iter().map(|metric| metric.declaration());
        let known = known.filter(|known| component.is_none_or(|it| known.component == it));
        let names: Vec<_> = known.map(|known| known.name).collect();
        let text = format!(
            "unknown metric {:?}; known here: {}",
            name.unwrap_or_default(),
            names.join(", ")
        );
        Err(ApiError::new(Status::NotFound, text))
    }

    fn accepts(&self, known: &Declaration) -> bool {
        self.accepts_name(known.name)
    }

    /// A name begins with its component.
    fn accepts_name(&self, name: &str) -> bool {
        let of_component = |component: Component| {
            name.strip_prefix(component.name()).is_some_and(|rest| rest.starts_with('.'))
        };
        self.component.is_none_or(of_component)
            && self.name.as_ref().is_none_or(|wanted| wanted == name)
    }
}

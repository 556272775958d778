//! Modes of peers: listed, found out, set; probes and tests of paths.
//!
//! Probes and tests take their time, so they run on threads of their own.

use super::Context;
use super::api::no_route;
use super::error::ApiError;
use super::http::Reply;
use super::request::Request;
use super::vm::{aside, in_json};
use crate::config::Id;
use crate::rollout::Flag;
use crate::runtime::modes::PeerMode;
use crate::runtime::modes::facade::LONGEST_TEST;
use crate::transport::Mode;
use crate::{Node, Status};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// What leaves the mode to measurement.
const AUTO: &str = "auto";

/// `GET /v3/modes`.
pub(super) fn list(context: &Context) -> Result<Value, ApiError> {
    let node = &context.node;
    let policy = node.transport().policy;
    Ok(json!({
        "node": node.name(),
        "forced": policy.forced,
        "thresholds": policy.thresholds,
        "peers": in_json(&node.peers())?,
    }))
}

/// `GET /v3/modes/check`.
pub(super) fn check(context: &Context) -> Result<Value, ApiError> {
    let node = &context.node;
    let peers = node.peers();
    let parts = parts(node, &peers);
    Ok(json!({
        "forced": node.transport().policy.forced,
        "is_v1_compat": parts.iter().all(|part| part.is_v1),
        "components": parts.iter().map(Part::to_json).collect::<Vec<_>>(),
        "flags": node.flags().iter().map(|flag| json!({
            "name": flag.name,
            "is_in_force": flag.is_in_force,
        })).collect::<Vec<_>>(),
        "peers": in_json(&peers)?,
    }))
}

/// A component, and whether all that it does is as v1 does it.
struct Part {
    name: &'static str,
    is_v1: bool,
    /// What it is called otherwise.
    mode: &'static str,
    detail: String,
}

impl Part {
    fn to_json(&self) -> Value {
        let mode = if self.is_v1 { Mode::V1Compat.name() } else { self.mode };
        json!({ "name": self.name, "mode": mode, "detail": self.detail })
    }
}

fn parts(node: &Node, peers: &[PeerMode]) -> Vec<Part> {
    let forced = node.transport().policy.forced;
    // A peer's own mode goes before that of all.
    let others = peers.iter().filter(|peer| peer.mode != Mode::V1Compat).count();
    let is_forced = forced == Some(Mode::V1Compat);
    let is_v1 = is_forced && others == 0;
    let is_on = |flag| node.flag(flag).is_in_force;
    let (hybrid, learned) = (is_on(Flag::HybridMode), is_on(Flag::MlCompression));
    let tuned = is_on(Flag::InternetOptimization);
    let is_off = !hybrid && !learned && !tuned;
    let part = |name, is_v1, mode, detail: &str| Part { name, is_v1, mode, detail: detail.into() };
    let amst = match (is_v1, is_forced, hybrid || tuned) {
        (true, ..) => "v1 to peers that are named, refused to others".to_owned(),
        (_, true, _) => format!("v1, and v3 to peers whose own mode says so ({others})"),
        (.., true) => "v3, and v1 to v1 peers".to_owned(),
        (.., false) => {
            "one local address, a fixed number of streams, the system's congestion control"
                .to_owned()
        }
    };
    let detected = match (forced.is_some(), hybrid) {
        (true, _) => "the mode is forced",
        (false, true) => "modes are measured",
        (false, false) => "every peer is in datacenter mode",
    };
    let coded = match (is_v1, learned) {
        (true, _) => "whole images, zstd",
        (false, true) => "what the peer agrees to; whole images to v1 peers",
        (false, false) => "zstd, whatever the content",
    };
    let moved = match (is_v1, is_off) {
        (true, _) => "the guest stands still",
        (false, true) => "pre-copy, which no flag decides; to v1 peers the guest stands still",
        (false, false) => "pre-copy; to v1 peers the guest stands still",
    };
    let mode = forced.map_or("measured", Mode::name);
    vec![
        Part { name: "amst", is_v1: is_v1 || !hybrid && !tuned, mode, detail: amst },
        part("mode-detector", is_v1 || !hybrid, mode, detected),
        part("hde", is_v1 || !learned, "v3", coded),
        part("migration", is_v1 || is_off, "v3", moved),
        part("ass", true, "v3", "crdt_sync is not built yet"),
        part("acp", true, "v3", "pbft_consensus is not built yet"),
    ]
}

/// `POST /v3/modes/ACTION`.
pub(super) async fn act(
    context: &Arc<Context>,
    action: &str,
    request: &Request,
) -> Result<Reply, ApiError> {
    match action {
        "detect" => detect(context, request).await,
        "matrix" => matrix(context, request).await,
        "probe" => probe(context, request).await,
        "set" => set(context, request).await,
        "test" => test(context, request).await,
        _ => Err(no_route(request)),
    }
}

/// `POST /v3/modes/detect`.
async fn detect(context: &Arc<Context>, request: &Request) -> Result<Reply, ApiError> {
    request.allow(&[], &["peer"])?;
    let (node, peer) = (context.node.clone(), request.text("peer")?.to_owned());
    aside(move || in_json(&node.detect_mode(&peer)?)).await
}

/// `POST /v3/modes/matrix`.
async fn matrix(context: &Arc<Context>, request: &Request) -> Result<Reply, ApiError> {
    request.allow(&[], &["nodes"])?;
    let nodes = request.scalar("nodes")?.filter(|nodes| nodes != "all");
    let nodes = nodes.map(|nodes| nodes.split(',').map(str::to_owned).collect::<Vec<_>>());
    let node = context.node.clone();
    aside(move || Ok(json!({ "rows": in_json(&node.network_matrix(nodes.as_deref())?)? }))).await
}

/// `POST /v3/modes/probe`.
async fn probe(context: &Arc<Context>, request: &Request) -> Result<Reply, ApiError> {
    request.allow(&[], &["peer", "count"])?;
    let (node, peer) = (context.node.clone(), request.text("peer")?.to_owned());
    let count = number(request, "count", 10, 1..=MAX_PROBES)?;
    aside(move || probed(&node, &peer, count as u32)).await
}

/// `POST /v3/modes/set`.
async fn set(context: &Arc<Context>, request: &Request) -> Result<Reply, ApiError> {
    request.allow(&[], &["mode", "peer"])?;
    let text = request.text("mode")?;
    let bad = |_| {
        let known = "datacenter, internet, hybrid, v1-compat and auto";
        ApiError::argument(format!("unknown mode {text:?}; there are {known}"))
    };
    let mode = (text != AUTO).then(|| text.parse::<Mode>().map_err(bad)).transpose()?;
    let peer = request.scalar("peer")?;
    let context = context.clone();
    // The configuration file may have to be written.
    aside(move || set_mode(&context, peer.as_deref(), mode)).await
}

/// `POST /v3/modes/test`.
async fn test(context: &Arc<Context>, request: &Request) -> Result<Reply, ApiError> {
    request.allow(&[], &["mode", "peer", "seconds", "streams"])?;
    let mode = request.text("mode")?.parse::<Mode>();
    let mode = mode.map_err(|error| ApiError::argument(error.to_string()))?;
    let peer = request.scalar("peer")?;
    let seconds = number(request, "seconds", 5, 1..=LONGEST_TEST.as_secs())?;
    let configured = context.config().integer(Id::MigrationStreams);
    let streams = number(request, "streams", configured, 1..=64)? as u16;
    let (node, duration) = (context.node.clone(), Duration::from_secs(seconds));
    aside(move || in_json(&node.test_transport(peer.as_deref(), (mode, streams), duration)?)).await
}

/// The configuration has the last word, so where there is one, the mode of all peers is written there.
fn set_mode(context: &Context, peer: Option<&str>, mode: Option<Mode>) -> Result<Value, ApiError> {
    let mut changed = Vec::new();
    match (peer, &context.config) {
        (None, Some(store)) => {
            let keys: &[(&str, &str)] = match mode {
                // The mode first, so that no other is in force in between.
                Some(mode) => &[("amst.mode", mode.name()), ("amst.auto_mode", "false")],
                None => &[("network_mode", "hybrid"), ("amst.auto_mode", "true")],
            };
            for (key, value) in keys {
                changed.extend(store.set(key, value)?);
            }
            context.config_changed("set", &changed);
        }
        (peer, _) => context.node.set_mode(peer, mode)?,
    }
    Ok(json!({
        "mode": mode.map_or(AUTO, Mode::name),
        "peer": peer,
        "changed": changed.iter().map(|id| id.key().name).collect::<Vec<_>>(),
        "is_kept": !changed.is_empty() || peer.is_none() && context.config.is_some(),
    }))
}

fn probed(node: &Node, peer: &str, count: u32) -> Result<Value, ApiError> {
    let series = node.probe_peer(peer, count)?;
    let known = node.detect_mode(peer)?;
    let answers = &series.answers_us;
    let total: u64 = answers.iter().sum();
    Ok(json!({
        "peer": peer,
        "connect_us": series.connect_us,
        "answers_us": answers,
        "least_us": answers.iter().min(),
        "mean_us": total / answers.len().max(1) as u64,
        "most_us": answers.iter().max(),
        "min_rtt_us": series.min_rtt_us,
        "rtt_variation_us": series.rtt_variation_us,
        "known": in_json(&known)?,
    }))
}

fn number(
    request: &Request,
    name: &str,
    default: u64,
    allowed: std::ops::RangeInclusive<u64>,
) -> Result<u64, ApiError> {
    let Some(text) = request.scalar(name)? else { return Ok(default) };
    let found = text.parse().ok().filter(|number| allowed.contains(number));
    found.ok_or_else(|| {
        let (least, most) = (allowed.start(), allowed.end());
        let text = format!("{name} {text:?} is not a number from {least} to {most}");
        ApiError::new(Status::InvalidArgument, text)
    })
}

/// Probes of one request.
const MAX_PROBES: u64 = crate::base::limits::MAX_CONNECTION_PROBES as u64;

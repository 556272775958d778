//! v1 peers: what would be lost by talking to them, and the port that they connect to.

use super::Context;
use super::error::ApiError;
use super::http::Reply;
use super::request::Request;
use super::vm::in_json;
use crate::NodeError;
use crate::migration::{Dialect, V1Options};
use crate::rollout::Flag;
use serde_json::{Value, json};
use std::net::SocketAddr;

/// `GET /v3/compatibility?peer=HOST:PORT`.
pub(super) fn compatibility(context: &Context, request: &Request) -> Result<Reply, ApiError> {
    request.allow(&["peer"], &[])?;
    let mut answer = in_json(&context.node.check_compatibility(request.query("peer"))?)?;
    answer["node"] = context.node.name().into();
    for peer in answer["peers"].as_array_mut().into_iter().flatten() {
        let address = peer["peer"].as_str().unwrap_or_default().to_owned();
        peer["flags"] = flags_of(context, &address)?;
    }
    Ok(Reply::Json(answer))
}

/// Which feature flags are on for a peer, and why.
fn flags_of(context: &Context, peer: &str) -> Result<Value, ApiError> {
    let built = Flag::ALL.into_iter().filter(|flag| flag.is_built());
    let decide = |flag: Flag| {
        let decision = in_json(&context.node.explain_flag(flag, peer)?)?;
        Ok((flag.name().to_owned(), decision))
    };
    Ok(Value::Object(built.map(decide).collect::<Result<_, ApiError>>()?))
}

/// `POST /v3/v1/listen`.
pub(super) fn listen(context: &Context, request: &Request) -> Result<Value, ApiError> {
    request.allow(&[], &["address", "guest", "dialect"])?;
    let text = request.text("address")?;
    let malformed = |_| {
        ApiError::argument(format!("address {text:?} is not ADDRESS:PORT, such as 10.0.0.1:9876"))
    };
    let address: SocketAddr = text.parse().map_err(malformed)?;
    let guest = request.scalar("guest")?;
    let unknown = |error| ApiError::argument(format!("{error}"));
    let dialect = request.scalar("dialect")?.map(|dialect| dialect.parse::<Dialect>());
    let dialect = dialect.transpose().map_err(unknown)?;
    let adjust = |options: &mut V1Options| {
        options.guest = guest.unwrap_or_else(|| std::mem::take(&mut options.guest));
        options.dialect = dialect.unwrap_or(options.dialect);
    };
    let address = context.node.v1().listen(address, adjust).map_err(NodeError::from)?;
    let dialect = context.node.v1_options().dialect.name();
    Ok(json!({ "listen": address.to_string(), "dialect": dialect }))
}

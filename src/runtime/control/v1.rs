//! v1 peers: what would be lost by talking to them, and the port that they connect to.

use super::Context;
use super::error::ApiError;
use super::http::Reply;
use super::request::Request;
use super::vm::in_json;
use serde_json::{Value, json};
use std::net::SocketAddr;

/// `GET /v3/compatibility?peer=HOST:PORT`.
pub(super) fn compatibility(context: &Context, request: &Request) -> Result<Reply, ApiError> {
    request.allow(&["peer"], &[])?;
    let mut answer = in_json(&context.node.check_compatibility(request.query("peer"))?)?;
    answer["node"] = context.node.name().into();
    Ok(Reply::Json(answer))
}

/// `POST /v3/v1/listen`.
pub(super) fn listen(context: &Context, request: &Request) -> Result<Value, ApiError> {
    request.allow(&[], &["address", "guest", "dialect"])?;
    let text = request.text("address")?;
    let malformed = |_| {
        ApiError::argument(format!("address {text:?} is not ADDRESS:PORT, such as 10.0.0.1:9876"))
    };
    let address: SocketAddr = text.parse().map_err(malformed)?;
    let mut options = context.node.v1_options();
    if let Some(guest) = request.scalar("guest")? {
        options.guest = guest;
    }
    if let Some(dialect) = request.scalar("dialect")? {
        let unknown = |error| ApiError::argument(format!("{error}"));
        options.dialect = dialect.parse().map_err(unknown)?;
    }
    let dialect = options.dialect.name();
    context.node.set_v1(options)?;
    let address = context.node.listen_v1(address)?;
    Ok(json!({ "listen": address.to_string(), "dialect": dialect }))
}

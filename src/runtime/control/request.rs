//! A request as the handlers see it: method, path, query and a JSON body, all bounded.

use super::error::ApiError;
use super::http::Door;
use crate::Status;
use crate::base::limits::MAX_STATE_BYTES;
use crate::config::units::quoted;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::Method;
use hyper::body::Incoming;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::time::Duration;

/// A request that came whole.
pub(super) struct Request {
    pub method: Method,
    pub path: String,
    query: BTreeMap<String, String>,
    body: Map<String, Value>,
}

impl Request {
    pub async fn read(request: hyper::Request<Incoming>, door: Door) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let limit = match (door, parts.uri.path()) {
            (Door::Control, STATE_PATH) => MAX_STATE_BODY_BYTES,
            _ => MAX_BODY_BYTES,
        };
        let query = parts.uri.query().unwrap_or_default();
        Ok(Self {
            method: parts.method,
            path: parts.uri.path().to_owned(),
            query: form_urlencoded::parse(query.as_bytes()).into_owned().collect(),
            body: read_body(body, limit).await?,
        })
    }

    /// Refuses query parameters and body fields that the route does not know.
    pub fn allow(&self, query: &[&str], body: &[&str]) -> Result<(), ApiError> {
        refuse_unknown("query parameter", self.query.keys(), query)?;
        refuse_unknown("field", self.body.keys(), body)
    }

    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }

    pub fn query_number(&self, name: &str) -> Result<u64, ApiError> {
        let Some(text) = self.query(name) else { return Ok(0) };
        text.parse()
            .map_err(|_| ApiError::argument(format!("{name}={text:?} is not a whole number")))
    }

    /// How long the client would wait, within bounds.
    pub fn wait(&self) -> Result<Duration, ApiError> {
        Ok(Duration::from_millis(self.query_number("wait_ms")?).min(MAX_WAIT))
    }

    /// A required text field.
    pub fn text(&self, name: &str) -> Result<&str, ApiError> {
        match self.body.get(name) {
            Some(Value::String(text)) => Ok(text),
            Some(other) => {
                Err(ApiError::argument(format!("field {name} is {other}; it must be text")))
            }
            None => Err(ApiError::argument(format!("field {name} is missing"))),
        }
    }

    /// A field that is true or false; false if it is not there.
    pub fn truth(&self, name: &str) -> Result<bool, ApiError> {
        match self.body.get(name) {
            None => Ok(false),
            Some(Value::Bool(truth)) => Ok(*truth),
            Some(other) => {
                let text = format!("field {name} is {other}; it must be true or false");
                Err(ApiError::argument(text))
            }
        }
    }

    /// All fields of the body, for those that are read as a whole.
    pub fn body(&self) -> &Map<String, Value> {
        &self.body
    }

    /// A field as the text that a configuration file would hold.
    pub fn scalar(&self, name: &str) -> Result<Option<String>, ApiError> {
        match self.body.get(name) {
            None => Ok(None),
            Some(Value::Null) => Ok(Some("none".to_owned())),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => Ok(Some(value.to_string())),
            Some(other) => {
                Err(ApiError::argument(format!("field {name} is {other}; it must be one value")))
            }
        }
    }
}

fn refuse_unknown<'a>(
    what: &str,
    mut names: impl Iterator<Item = &'a String>,
    known: &[&str],
) -> Result<(), ApiError> {
    let Some(name) = names.find(|name| !known.contains(&name.as_str())) else { return Ok(()) };
    let list = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    Err(ApiError::argument(format!("unknown {what} {}; known here: {list}", quoted(name))))
}

async fn read_body(body: Incoming, limit: usize) -> Result<Map<String, Value>, ApiError> {
    let collected =
        tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, limit).collect()).await.map_err(
            |_| ApiError::new(Status::Timeout, "the request's body did not come in time"),
        )?;
    let collected = collected.map_err(|error| body_error(error.as_ref(), limit))?;
    let bytes = collected.to_bytes();
    if bytes.is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_slice(&bytes)
        .map_err(|error| ApiError::argument(format!("the body is not a JSON object: {error}")))
}

fn body_error(error: &(dyn std::error::Error + 'static), limit: usize) -> ApiError {
    if error.is::<LengthLimitError>() {
        let text = format!("the request's body is longer than {limit} bytes");
        return ApiError::argument(text);
    }
    ApiError::argument(format!("the request's body cannot be read: {error}"))
}

const MAX_BODY_BYTES: usize = 64 * 1024;
/// The one request that brings a file along.
const STATE_PATH: &str = "/v3/state/import";
/// A document as a JSON text, whose quotes and line breaks take two bytes each.
const MAX_STATE_BODY_BYTES: usize = 2 * MAX_STATE_BYTES + MAX_BODY_BYTES;
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_WAIT: Duration = Duration::from_secs(60);

//! Requests to a node's control socket: one connection each, so nothing is held between them.

use super::error::CliError;
use http_body_util::{BodyExt, Full};
use hyper::Method;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::UnixStream;

/// Reaches one node.
#[derive(Clone)]
pub struct Client {
    socket: PathBuf,
    patience: Option<Duration>,
}

impl Client {
    /// A client of the node at this socket, that waits for answers as long as they take.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket, patience: None }
    }

    /// One that gives a request up that takes longer.
    pub fn with_patience(socket: PathBuf, patience: Duration) -> Self {
        Self { socket, patience: Some(patience) }
    }

    /// Reads.
    pub async fn get(&self, path: &str) -> Result<Value, CliError> {
        self.send(Method::GET, path, None).await
    }

    /// Reads with parameters; those without a value are left out.
    pub async fn query(
        &self,
        path: &str,
        parameters: &[(&str, Option<&str>)],
    ) -> Result<Value, CliError> {
        // The serializer cannot be held while another thread may go on.
        let query = {
            let mut query = form_urlencoded::Serializer::new(String::new());
            for (name, value) in parameters {
                if let Some(value) = value {
                    query.append_pair(name, value);
                }
            }
            query.finish()
        };
        self.get(&format!("{path}?{query}")).await
    }

    /// Makes or does something.
    pub async fn post(&self, path: &str, body: Value) -> Result<Value, CliError> {
        self.send(Method::POST, path, Some(body)).await
    }

    /// Sets something.
    pub async fn put(&self, path: &str, body: Value) -> Result<Value, CliError> {
        self.send(Method::PUT, path, Some(body)).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, CliError> {
        let Some(patience) = self.patience else { return self.exchange(method, path, body).await };
        match tokio::time::timeout(patience, self.exchange(method, path, body)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(CliError::Lost {
                socket: self.socket.clone(),
                reason: format!("no answer to {path} within {patience:?}"),
            }),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, CliError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| CliError::Unreachable { socket: self.socket.clone(), source })?;
        let lost = |error: hyper::Error| CliError::Lost {
            socket: self.socket.clone(),
            reason: error.to_string(),
        };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
        let driver = tokio::spawn(connection);
        let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "dwcp")
            .body(Full::new(body))
            .map_err(|error| CliError::Argument(format!("{path:?}: {error}")))?;
        let response = sender.send_request(request).await.map_err(lost)?;
        let accepted = response.status().is_success();
        let bytes = response.into_body().collect().await.map_err(lost)?.to_bytes();
        driver.abort();
        understand(accepted, &bytes)
    }
}

fn understand(accepted: bool, bytes: &[u8]) -> Result<Value, CliError> {
    let value: Value = serde_json::from_slice(bytes)
        .map_err(|error| CliError::Answer(format!("{error} in {} bytes", bytes.len())))?;
    if accepted {
        return Ok(value);
    }
    let field = |name: &str| value["error"][name].as_str().map(str::to_owned);
    match (field("status"), field("message")) {
        (Some(status), Some(message)) => Err(CliError::Refused { status, message }),
        _ => Err(CliError::Answer(value.to_string())),
    }
}

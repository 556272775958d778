//! Accepts connections and speaks HTTP/1.1 on them, within limits on number, size and time.

use super::bind::BoundSocket;
use super::error::ApiError;
use super::request::Request;
use super::{Context, api};
use crate::Status;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};

/// What a handler answers.
pub(super) enum Reply {
    Json(serde_json::Value),
    Text { content_type: &'static str, text: String },
}

/// Which routes a listener offers.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Door {
    /// All of them.
    Control,
    /// Only `/metrics`.
    Metrics,
}

/// Serves until told to stop; calls `ready` once connections are taken in. What is under way at
/// the end is cut off.
pub(super) fn run<R>(
    context: Arc<Context>,
    socket: &BoundSocket,
    metrics: Option<std::net::TcpListener>,
    mut stopped: watch::Receiver<bool>,
    ready: impl FnOnce() -> R,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_name("dwcp-control-io")
        .build()?;
    let entered = runtime.enter();
    let control = socket.listen()?;
    let metrics = metrics.map(TcpListener::from_std).transpose()?;
    drop(entered);
    ready();
    runtime.block_on(async move {
        tokio::spawn(accept_control(context.clone(), control));
        if let Some(metrics) = metrics {
            tokio::spawn(accept_metrics(context.clone(), metrics));
        }
        tokio::spawn(follow_events(context));
        // An error means that the server's handle is gone, which is an end as well.
        let _ = stopped.wait_for(|stop| *stop).await;
    });
    Ok(())
}

/// Keeps metrics and log up with the node, so that its ring of events does not overrun them.
async fn follow_events(context: Arc<Context>) {
    let mut events = context.events.clone();
    loop {
        context.refresh();
        let changed = tokio::time::timeout(REFRESH_INTERVAL, events.changed()).await;
        let pause = if matches!(changed, Ok(Err(_))) { REFRESH_INTERVAL } else { BATCH_INTERVAL };
        tokio::time::sleep(pause).await;
    }
}

async fn accept_control(context: Arc<Context>, listener: UnixListener) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => admit(&context, Door::Control, &slots, stream).await,
            Err(error) => accept_failed(&context, &error).await,
        }
    }
}

async fn accept_metrics(context: Arc<Context>, listener: TcpListener) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => admit(&context, Door::Metrics, &slots, stream).await,
            Err(error) => accept_failed(&context, &error).await,
        }
    }
}

/// Out of descriptors or memory: waiting is all that helps.
async fn accept_failed(context: &Context, error: &io::Error) {
    context.log(crate::observe::Level::Warn, format!("control connection not accepted: {error}"));
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

async fn admit<S>(context: &Arc<Context>, door: Door, slots: &Arc<Semaphore>, mut stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Ok(slot) = slots.clone().try_acquire_owned() else {
        // The answer fits any socket buffer; a peer that does not take it is not waited for.
        let _ = tokio::time::timeout(BUSY_TIMEOUT, stream.write_all(BUSY)).await;
        return;
    };
    let context = context.clone();
    tokio::spawn(async move {
        serve(context, door, stream).await;
        drop(slot);
    });
}

async fn serve<S>(context: Arc<Context>, door: Door, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let context = context.clone();
        async move { Ok::<_, Infallible>(answer(&context, door, request).await) }
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEADER_BYTES);
    // A connection that ends badly concerns its peer alone.
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(
    context: &Arc<Context>,
    door: Door,
    request: hyper::Request<Incoming>,
) -> Response<Full<Bytes>> {
    let reply = match Request::read(request, door).await {
        Ok(request) => api::handle(context, door, request).await,
        Err(error) => Err(error),
    };
    match reply {
        Ok(Reply::Json(value)) => response(StatusCode::OK, JSON, value.to_string()),
        Ok(Reply::Text { content_type, text }) => response(StatusCode::OK, content_type, text),
        Err(error) => response(error.http_code(), JSON, error.to_json().to_string()),
    }
}

fn response(code: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

impl From<std::fmt::Error> for ApiError {
    fn from(error: std::fmt::Error) -> Self {
        Self::new(Status::Io, error.to_string())
    }
}

const JSON: &str = "application/json";
const MAX_CONNECTIONS: usize = 64;
const MAX_HEADERS: usize = 64;
const MAX_HEADER_BYTES: usize = 16 * 1024;
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);
const BATCH_INTERVAL: Duration = Duration::from_millis(10);
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
const BUSY_TIMEOUT: Duration = Duration::from_millis(100);
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n\
connection: close\r\ncontent-length: 85\r\n\r\n\
{\"error\":{\"status\":\"DWCP_ERR_LIMIT_REACHED\",\"message\":\"64 connections are open now\"}}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_canned_answer_is_well_formed() {
        let text = std::str::from_utf8(BUSY).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{}", body.len());
        let error: serde_json::Value = serde_json::from_str(body).unwrap();
        let status = Status::LimitReached.name();
        assert_eq!(error["error"]["status"], status);
        assert!(body.contains(&format!("{MAX_CONNECTIONS} connections")));
    }
}

//! The control server over a raw socket: routes, limits, bad input.

use crate::stage::{Pair, wait_until};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

/// Sends bytes, reads to the end.
fn exchange(pair: &Pair, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(pair.server.socket()).unwrap();
    // A server that has refused enough may close while the rest is still being sent.
    let _ = stream.write_all(bytes);
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

fn request(pair: &Pair, method: &str, path: &str, body: &str) -> (u16, Value) {
    let text = exchange(
        pair,
        format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .as_bytes(),
    );
    let code = text.split(' ').nth(1).and_then(|code| code.parse().ok()).expect(&text);
    let body = text.split_once("\r\n\r\n").expect(&text).1;
    (code, serde_json::from_str(body).expect(body))
}

#[test]
fn every_refusal_names_what_is_wrong() {
    let pair = Pair::new();
    for (method, path, body, code, status, what) in REFUSALS {
        let (got, answer) = request(&pair, method, path, body);
        assert_eq!(
            (got, &answer["error"]["status"]),
            (*code, &Value::from(*status)),
            "{path} {body}"
        );
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains(what), "{path} {body}: {message}");
    }
}

#[test]
fn oversized_and_broken_requests_cost_only_their_connection() {
    let pair = Pair::new();
    let (code, answer) = request(&pair, "POST", "/v3/migrations", &"x".repeat(65 * 1024));
    assert_eq!((code, &answer["error"]["status"]), (400, &"DWCP_ERR_INVALID_ARGUMENT".into()));
    assert!(answer["error"]["message"].as_str().unwrap().contains("65536 bytes"));
    let long = format!("GET /v3/status HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(32 * 1024));
    assert!(exchange(&pair, long.as_bytes()).starts_with("HTTP/1.1 431"));
    let many = format!("GET /v3/status HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(100));
    assert!(exchange(&pair, many.as_bytes()).starts_with("HTTP/1.1 431"));
    assert!(exchange(&pair, b"\x16\x03\x01\x00\xff nonsense\r\n\r\n").starts_with("HTTP/1.1 400"));
    assert_eq!(request(&pair, "GET", "/v3/status", "").0, 200);
}

#[test]
fn more_connections_than_allowed_are_told_so() {
    let pair = Pair::new();
    let held: Vec<_> =
        (0..64).map(|_| UnixStream::connect(pair.server.socket()).unwrap()).collect();
    let (code, answer) = wait_until("all 64 are taken in", || {
        Some(request(&pair, "GET", "/v3/status", "")).filter(|(code, _)| *code != 200)
    });
    assert_eq!((code, &answer["error"]["status"]), (503, &"DWCP_ERR_LIMIT_REACHED".into()));
    drop(held);
    wait_until("there is room again", || {
        (request(&pair, "GET", "/v3/status", "").0 == 200).then_some(())
    });
}

#[test]
fn a_slow_request_is_given_up() {
    let pair = Pair::new();
    // Reads to the end: the server closes, though the header never ends.
    let answer = exchange(&pair, b"GET /v3/status HTTP/1.1\r\nhost:");
    assert!(answer.is_empty() || answer.contains("408"), "{answer}");
}

#[test]
fn the_metrics_port_serves_metrics_alone() {
    let pair = Pair::new();
    let get = |path: &str| {
        let mut stream = TcpStream::connect(pair.server.metrics_address().unwrap()).unwrap();
        let text = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(text.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    let text = get("/metrics");
    assert!(text.contains("application/openmetrics-text") && text.ends_with("# EOF\n"), "{text}");
    assert!(get("/v3/status").starts_with("HTTP/1.1 404"));
    assert!(get("/v3/migrations").starts_with("HTTP/1.1 404"));
}

#[test]
fn waiting_for_events_ends_when_one_comes() {
    let pair = Pair::new();
    let (_, first) = request(&pair, "GET", "/v3/events", "");
    let last = first["last"].as_u64().unwrap();
    let path = format!("/v3/events?after={last}&wait_ms=60000&filter=guest_changed");
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| request(&pair, "GET", &path, "").1);
        pair.add_guest("vm", 4);
        let answer = waiter.join().unwrap();
        assert_eq!(answer["events"][0]["guest"], "vm");
        assert_eq!(answer["events"][0]["message"], "guest registered as source");
    });
    let (_, nothing) = request(&pair, "GET", "/v3/events?after=9999&wait_ms=1", "");
    assert_eq!(nothing["events"], Value::Array(Vec::new()));
}

#[test]
fn a_stopped_server_frees_its_path() {
    let pair = Pair::new();
    let path = pair.server.socket().to_owned();
    pair.server.stop();
    assert!(!path.exists());
    let again = dwcp::runtime::control::serve_control(&pair.source, &path, Default::default());
    assert_eq!(again.unwrap().socket(), path);
    assert!(pair.scratch.0.exists());
}

/// Method, path, body; code, status, and what the message must name.
const REFUSALS: &[(&str, &str, &str, u16, &str, &str)] = &[
    ("GET", "/v3/nothing", "", 404, "DWCP_ERR_NOT_FOUND", "no route GET /v3/nothing"),
    ("DELETE", "/v3/status", "", 404, "DWCP_ERR_NOT_FOUND", "DELETE"),
    ("GET", "/v3/status?verbose=1", "", 400, "DWCP_ERR_INVALID_ARGUMENT", "\"verbose\""),
    ("GET", "/v3/events?after=x", "", 400, "DWCP_ERR_INVALID_ARGUMENT", "after=\"x\""),
    ("GET", "/v3/events?after=-1", "", 400, "DWCP_ERR_INVALID_ARGUMENT", "not a whole number"),
    (
        "GET",
        "/v3/logs?level=loud",
        "",
        400,
        "DWCP_ERR_INVALID_ARGUMENT",
        "debug, info, warn, error",
    ),
    ("GET", "/v3/migrations/12", "", 400, "DWCP_ERR_INVALID_ARGUMENT", "not 32 hexadecimal digits"),
    (
        "GET",
        "/v3/migrations/00000000000000000000000000000000",
        "",
        404,
        "DWCP_ERR_NOT_FOUND",
        "no migration",
    ),
    ("POST", "/v3/migrations", "{", 400, "DWCP_ERR_INVALID_ARGUMENT", "not a JSON object"),
    ("POST", "/v3/migrations", "[]", 400, "DWCP_ERR_INVALID_ARGUMENT", "not a JSON object"),
    ("POST", "/v3/migrations", "{\"guest\": 5}", 400, "DWCP_ERR_INVALID_ARGUMENT", "guest is 5"),
    (
        "POST",
        "/v3/migrations",
        "{\"gest\": \"x\"}",
        400,
        "DWCP_ERR_INVALID_ARGUMENT",
        "unknown field \"gest\"",
    ),
    (
        "POST",
        "/v3/migrations",
        "{\"guest\": \"x\"}",
        400,
        "DWCP_ERR_INVALID_ARGUMENT",
        "field to is missing",
    ),
    (
        "POST",
        "/v3/migrations",
        "{\"guest\":\"x\",\"to\":\"h:1\",\"streams\":[1]}",
        400,
        "DWCP_ERR_INVALID_ARGUMENT",
        "streams is [1]",
    ),
    ("POST", "/v3/vms/attach", "{\"name\": \"x\"}", 400, "DWCP_ERR_INVALID_ARGUMENT", "field qmp"),
    (
        "POST",
        "/v3/vms/attach",
        "{\"name\": \"x\", \"qmp\": \"q.sock\"}",
        400,
        "DWCP_ERR_INVALID_ARGUMENT",
        "\"q.sock\" is not an absolute path",
    ),
    (
        "POST",
        "/v3/vms/attach",
        "{\"name\": \"x\", \"qmp\": \"/q\", \"incoming\": 1}",
        400,
        "DWCP_ERR_INVALID_ARGUMENT",
        "incoming is 1; it must be true or false",
    ),
    ("GET", "/v3/vms/status", "", 400, "DWCP_ERR_INVALID_ARGUMENT", "name is missing"),
    ("GET", "/v3/vms/status?name=x", "", 404, "DWCP_ERR_NOT_FOUND", "no guest \"x\""),
    ("POST", "/v3/vms/detach", "{\"name\": \"x\"}", 404, "DWCP_ERR_NOT_FOUND", "known here: none"),
    ("GET", "/v3/config/amst.mod", "", 404, "DWCP_ERR_NOT_FOUND", "did you mean amst.mode?"),
    (
        "PUT",
        "/v3/config/amst.mode",
        "{\"value\":\"hybrid\"}",
        501,
        "DWCP_ERR_UNSUPPORTED",
        "configuration file",
    ),
];

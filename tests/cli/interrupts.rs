//! Ctrl-C while `migrate` runs, whatever it waits for at that moment.

use crate::stage::{Pair, Process, Scratch, operator, wait_until};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[test]
fn an_interrupt_cancels_and_tells_who_has_the_guest() {
    let pair = Pair::new();
    let (from, to) = pair.add_guest("vm", 4096);
    let mut command = pair.command(&[
        "migrate",
        "vm",
        "--to",
        &pair.to(),
        "--bandwidth-limit",
        "1mbit",
        "--codec",
        "none",
    ]);
    let process = Process::spawn(&mut command);
    wait_until("pages are being sent", || {
        let list = pair.json(&["migrations"]);
        (list["migrations"][0]["progress"]["phase"] == "precopy").then_some(())
    });
    process.signal(libc::SIGINT);
    let (status, out, _) = process.finish();
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["status"], "DWCP_ERR_CANCELLED");
    assert_eq!(report["owner"], "source");
    assert_eq!(status.code(), Some(6));
    assert!(from.is_running() && !to.is_running());
}

#[test]
fn an_interrupt_that_comes_while_the_node_is_asked_is_not_lost() {
    for request in [START, FIRST_LOOK, LATER_LOOK] {
        let scratch = Scratch::new();
        let node = SlowNode::start(&scratch, &[request]);
        let process = node.migrate();
        let asked = node.asked();
        process.signal(libc::SIGINT);
        drop(asked);
        let (status, out, errors) = process.finish();
        assert_eq!(status.code(), Some(6), "{request:?}: {out} {errors}");
    }
}

#[test]
fn a_second_interrupt_ends_the_waiting_for_a_silent_node() {
    for requests in [&[START][..], &[FIRST_LOOK, CANCEL], &[FIRST_LOOK, SECOND_LOOK]] {
        let scratch = Scratch::new();
        let node = SlowNode::start(&scratch, requests);
        let mut process = node.migrate();
        let mut notes = BufReader::new(process.0.stderr.take().unwrap()).lines();
        let mut unanswered = vec![node.asked()];
        process.signal(libc::SIGINT);
        // Two signals at once would be one.
        let note = notes.next().unwrap().unwrap();
        assert!(note.contains("Ctrl-C again"), "{requests:?}: {note}");
        unanswered.extend(requests[1..].iter().map(|_| node.asked()));
        process.signal(libc::SIGINT);
        let note = notes.next().unwrap().unwrap();
        assert!(note.contains("dwcp-v3-cli migrations"), "{requests:?}: {note}");
        assert_eq!(process.finish().0.code(), Some(130), "{requests:?}");
    }
}

/// A request by the beginning of its first line, and how many such come before it.
type Request = (&'static str, usize);
const START: Request = ("POST /v3/migrations ", 0);
const FIRST_LOOK: Request = ("GET /v3/migrations/7 ", 0);
const SECOND_LOOK: Request = ("GET /v3/migrations/7 ", 1);
const LATER_LOOK: Request = ("GET /v3/migrations/7 ", 3);
const CANCEL: Request = ("POST /v3/migrations/7/cancel ", 0);
/// So often it is looked at the migration before it ends on its own.
const LOOKS: usize = 8;

/// A node that has one migration, and keeps some requests waiting.
struct SlowNode {
    socket: PathBuf,
    waiting: Receiver<Sender<()>>,
}

impl SlowNode {
    fn start(scratch: &Scratch, slow: &[Request]) -> Self {
        let socket = scratch.path("control.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let (waits, waiting) = channel();
        let (slow, heard) = (slow.to_vec(), Arc::new(Mutex::new(Vec::new())));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (slow, heard, waits) = (slow.clone(), heard.clone(), waits.clone());
                std::thread::spawn(move || serve(&stream, &slow, &heard, &waits));
            }
        });
        Self { socket, waiting }
    }

    fn migrate(&self) -> Process {
        Process::spawn(&mut operator(&self.socket, &["migrate", "vm", "--to", "there:1"]))
    }

    /// A slow request has come; it is answered when the result is dropped.
    fn asked(&self) -> Sender<()> {
        // The limit only ends a test that hangs.
        self.waiting.recv_timeout(Duration::from_secs(120)).unwrap()
    }
}

fn serve(
    mut stream: &UnixStream,
    slow: &[Request],
    heard: &Mutex<Vec<String>>,
    waits: &Sender<Sender<()>>,
) {
    let mut request = String::new();
    BufReader::new(stream).read_line(&mut request).unwrap();
    let (looks, is_cancelled, is_slow) = {
        let mut heard = heard.lock().unwrap();
        let count = |what: &str| heard.iter().filter(|line| line.starts_with(what)).count();
        let is_slow = slow.iter().any(|(what, n)| request.starts_with(what) && count(what) == *n);
        let seen = (count(FIRST_LOOK.0), count(CANCEL.0) > 0, is_slow);
        heard.push(request.clone());
        seen
    };
    if is_slow {
        let (answer, until) = channel();
        let _ = waits.send(answer);
        let _ = until.recv();
    }
    let answer = match (is_cancelled, looks) {
        _ if request.starts_with("POST") => json!({ "id": "7" }),
        // A slow node cancels slowly too.
        (true, LOOKS..) => ended("DWCP_ERR_CANCELLED", "source"),
        (false, LOOKS..) => ended("DWCP_OK", "destination"),
        _ => json!({ "report": null, "progress": {} }),
    };
    let answer = answer.to_string();
    let length = answer.len();
    // Whoever was interrupted may be gone.
    let _ = write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{answer}"
    );
}

fn ended(status: &str, owner: &str) -> Value {
    json!({ "report": { "status": status, "owner": owner } })
}

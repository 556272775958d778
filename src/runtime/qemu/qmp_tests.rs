//! The client against sockets that are no QEMU, or a bad one. The real one is in `tests/qemu`.

use super::*;
use crate::runtime::qemu::RamInfo;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 4, "minor": 1, "major": 9},
 "package": "Debian"}, "capabilities": ["oob"], "unknown": 1}}"#;
const SHORT: Duration = Duration::from_millis(100);
const LONG: Duration = Duration::from_secs(20);

/// A socket with one client, which `serve` gets.
struct Fake {
    path: PathBuf,
    server: JoinHandle<()>,
}

impl Fake {
    fn new(serve: impl FnOnce(UnixStream) + Send + 'static) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("dwcp-qmp-{}-{number}.sock", std::process::id());
        let path = std::env::temp_dir().join(name);
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || serve(listener.accept().unwrap().0));
        Self { path, server }
    }

    /// One that greets, accepts the negotiation, and answers each later line by `answer`.
    fn qemu(mut answer: impl FnMut(&mut UnixStream, Value) + Send + 'static) -> Self {
        Self::new(move |mut socket| {
            say(&mut socket, &GREETING.replace('\n', ""));
            let mut lines = BufReader::new(socket.try_clone().unwrap()).lines();
            lines.next();
            say(&mut socket, r#"{"return": {}, "id": 1}"#);
            while let Some(Ok(line)) = lines.next() {
                answer(&mut socket, serde_json::from_str(&line).unwrap());
            }
        })
    }

    fn connect(&self) -> Qmp {
        Qmp::connect(&self.path, LONG).unwrap()
    }

    fn refusal(self, timeout: Duration) -> String {
        let error = Qmp::connect(&self.path, timeout).unwrap_err().to_string();
        self.end();
        error
    }

    fn end(self) {
        self.server.join().unwrap();
        std::fs::remove_file(self.path).unwrap();
    }
}

/// The peer may be gone, which is what some tests want.
fn say(socket: &mut UnixStream, line: &str) {
    let _ = socket.write_all(line.as_bytes()).and_then(|()| socket.write_all(b"\r\n"));
}

fn wait_for_end(socket: UnixStream) {
    BufReader::new(socket).lines().map_while(Result::ok).for_each(drop);
}

#[test]
fn the_greeting_tells_the_version() {
    let fake = Fake::qemu(|_, _| {});
    let qmp = fake.connect();
    let package = "Debian".to_owned();
    assert_eq!(*qmp.version(), QemuVersion { major: 9, minor: 1, micro: 4, package });
    drop(qmp);
    fake.end();
}

#[test]
fn a_path_without_a_listener_is_named() {
    let error = Qmp::connect(Path::new("/nonexistent/qmp.sock"), SHORT).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/qmp.sock"), "{error}");
    let long = "x".repeat(200);
    assert!(matches!(Qmp::connect(Path::new(&long), SHORT), Err(QmpError::Connect { .. })));
}

#[test]
fn a_silent_socket_is_no_qmp() {
    let error = Fake::new(wait_for_end).refusal(SHORT);
    assert!(error.starts_with("this is no QMP socket: no greeting within 100ms"), "{error}");
}

#[test]
fn a_socket_that_closes_is_no_qmp() {
    let error = Fake::new(drop).refusal(LONG);
    assert_eq!(error, "this is no QMP socket: closed before its greeting");
}

#[test]
fn garbage_is_quoted_and_no_qmp() {
    for (said, quoted) in [
        ("HTTP/1.1 400 Bad\x1b[31m Request", "`HTTP/1.1 400 Bad\\x1b[31m Request\\r`"),
        (r#"{"OTHER": {}}"#, r#"it greets with `{\"OTHER\": {}}\r`"#),
        (r#"["QMP"]"#, r#"it says `[\"QMP\"]\r`"#),
        (r#"{"QMP": {"version": {"qemu": {"major": -1}}}}"#, "version"),
    ] {
        let error = Fake::new(move |mut socket| say(&mut socket, said)).refusal(LONG);
        assert!(error.starts_with("this is no QMP socket: "), "{error}");
        assert!(error.contains(quoted), "{error}");
    }
}

#[test]
fn an_endless_line_is_cut_off() {
    let flood = |mut socket: UnixStream| {
        let block = vec![b'{'; 1 << 20];
        let blocks = (0..100).take_while(|_| socket.write_all(&block).is_ok()).count();
        assert!(blocks < 4, "{blocks} MiB were read");
    };
    let error = Fake::new(flood).refusal(LONG);
    assert_eq!(error, "this is no QMP socket: a line of over 1048576 bytes");
}

#[test]
fn a_greeting_that_drips_runs_out_of_time() {
    let drip = |mut socket: UnixStream| {
        while socket.write_all(b"{").is_ok() {
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let error = Fake::new(drip).refusal(SHORT);
    assert!(error.contains("no greeting within 100ms"), "{error}");
}

#[test]
fn deep_nesting_is_an_error() {
    let nested = "[".repeat(500_000);
    let error = Fake::new(move |mut socket| say(&mut socket, &nested)).refusal(LONG);
    assert!(error.contains("recursion limit"), "{error}");
}

#[test]
fn a_refusal_carries_the_texts_of_qemu() {
    let fake = Fake::qemu(|socket, request| {
        let error = json!({ "class": "GenericError", "desc": "it's \"no\"" });
        say(socket, &json!({ "id": request["id"], "error": error }).to_string());
    });
    let mut qmp = fake.connect();
    match qmp.migrate("tcp:nowhere:1") {
        Err(QmpError::Refused { command, class, desc }) => {
            assert_eq!((&*command, &*class, &*desc), ("migrate", "GenericError", "it's \"no\""));
        }
        other => panic!("{other:?}"),
    }
    drop(qmp);
    fake.end();
}

#[test]
fn a_late_answer_is_not_taken_for_the_next_one() {
    let mut asked = 0;
    let fake = Fake::qemu(move |socket, request| {
        asked += 1;
        if asked == 2 {
            say(socket, r#"{"return": "late", "id": 2}"#);
            say(socket, &json!({ "return": "in time", "id": request["id"] }).to_string());
        }
    });
    let mut qmp = fake.connect();
    let error = qmp.execute_within("slow", Value::Null, SHORT).unwrap_err();
    assert_eq!(error.to_string(), "no answer to slow within 100ms");
    assert_eq!(qmp.execute("quick", json!({})).unwrap(), json!("in time"));
    drop(qmp);
    fake.end();
}

#[test]
fn events_around_an_answer_are_kept_in_order() {
    let fake = Fake::qemu(|socket, request| {
        say(socket, r#"{"event": "STOP", "timestamp": {"seconds": 2, "microseconds": 7}}"#);
        say(socket, &json!({ "return": {}, "id": request["id"] }).to_string());
        say(socket, r#"{"event": "MIGRATION", "data": {"status": "completed"}}"#);
    });
    let mut qmp = fake.connect();
    qmp.stop().unwrap();
    let stop = qmp.next_event(LONG).unwrap().unwrap();
    assert_eq!((&*stop.name, stop.time_us), ("STOP", 2_000_007));
    let migration = qmp.next_event(LONG).unwrap().unwrap();
    assert_eq!((&*migration.name, migration.data), ("MIGRATION", json!({"status": "completed"})));
    assert_eq!(qmp.next_event(SHORT).unwrap(), None);
    drop(qmp);
    fake.end();
}

#[test]
fn a_flood_of_events_costs_the_oldest() {
    const FLOOD: usize = MAX_QMP_EVENTS + 10;
    let fake = Fake::qemu(|socket, request| {
        for number in 0..FLOOD {
            say(socket, &json!({ "event": number.to_string() }).to_string());
        }
        say(socket, &json!({ "return": {}, "id": request["id"] }).to_string());
    });
    let mut qmp = fake.connect();
    qmp.cont().unwrap();
    assert_eq!(qmp.dropped_events(), 10);
    assert_eq!(qmp.next_event(SHORT).unwrap().unwrap().name, "10");
    drop(qmp);
    fake.end();
}

#[test]
fn a_conversation_that_broke_stays_closed() {
    let fake = Fake::qemu(|socket, _| say(socket, "Segmentation fault"));
    let mut qmp = fake.connect();
    assert!(matches!(qmp.status(), Err(QmpError::NotQmp { .. })));
    assert!(matches!(qmp.status(), Err(QmpError::Closed { .. })));
    assert!(matches!(qmp.next_event(LONG), Err(QmpError::Closed { .. })));
    drop(qmp);
    fake.end();
}

#[test]
fn a_peer_that_does_not_read_runs_out_of_time() {
    let fake = Fake::new(|mut socket| {
        say(&mut socket, &GREETING.replace('\n', ""));
        say(&mut socket, r#"{"return": {}, "id": 1}"#);
        std::thread::sleep(4 * SHORT);
    });
    let mut qmp = fake.connect();
    let large = json!({ "x": "y".repeat(8 << 20) });
    let error = qmp.execute_within("device_add", large, SHORT).unwrap_err();
    assert_eq!(error.to_string(), "no answer to device_add within 100ms");
    assert!(matches!(qmp.status(), Err(QmpError::Closed { .. })));
    fake.end();
}

#[test]
fn answers_of_other_versions_are_understood() {
    let fake = Fake::qemu(|socket, request| {
        let answer = match request["execute"].as_str() {
            Some("query-status") => json!({ "running": false, "status": "prelaunch", "new": [1] }),
            Some("query-migrate") => json!({
                "status": "failed", "error-desc": "why", "vfio": {},
                "ram": { "total": 5, "mbps": 1.5, "precopy-bytes": 3 },
            }),
            _ => json!([{ "capability": "multifd", "state": true, "stage": "x" }]),
        };
        say(socket, &json!({ "return": answer, "id": request["id"] }).to_string());
    });
    let mut qmp = fake.connect();
    assert_eq!(qmp.status().unwrap().status, "prelaunch");
    let info = qmp.migration_info().unwrap();
    assert!(info.is_over() && !info.is_completed());
    assert_eq!(info.error_desc.as_deref(), Some("why"));
    assert_eq!(info.ram, Some(RamInfo { total: 5, mbps: 1.5, ..RamInfo::default() }));
    assert!(qmp.capabilities().unwrap()["multifd"]);
    let error = qmp.machine().unwrap_err().to_string();
    assert!(error.contains("query-cpus-fast") && error.contains("qom-path"), "{error}");
    drop(qmp);
    fake.end();
}

#[test]
fn out_of_band_is_agreed_on_and_used_for_what_needs_it_alone() {
    let fake = Fake::new(|mut socket| {
        say(&mut socket, &GREETING.replace('\n', ""));
        let lines = BufReader::new(socket.try_clone().unwrap()).lines();
        let lines: Vec<Value> = lines
            .map_while(Result::ok)
            .map(|line| {
                let line: Value = serde_json::from_str(&line).unwrap();
                say(&mut socket, &json!({ "return": {}, "id": line["id"] }).to_string());
                line
            })
            .collect();
        assert_eq!(lines[0]["arguments"], json!({ "enable": ["oob"] }));
        assert_eq!((&lines[1]["exec-oob"], &lines[1]["execute"]), (&json!("x"), &Value::Null));
        assert_eq!((&lines[2]["execute"], &lines[2]["exec-oob"]), (&json!("y"), &Value::Null));
    });
    let mut qmp = fake.connect();
    qmp.execute_out_of_band("x", Value::Null).unwrap();
    qmp.execute("y", Value::Null).unwrap();
    drop(qmp);
    fake.end();
}

#[test]
fn a_main_loop_that_waits_is_not_piled_up_with_commands_and_what_goes_past_it_does() {
    let (mut heard, mut owed) = (0, Vec::new());
    let fake = Fake::qemu(move |socket, command| {
        if command["exec-oob"].is_null() {
            heard += 1;
            owed.push(command["id"].clone());
            return;
        }
        assert_eq!(heard, MAX_UNANSWERED);
        say(socket, &json!({ "return": {}, "id": command["id"] }).to_string());
        owed.drain(..).for_each(|id| say(socket, &json!({ "return": {}, "id": id }).to_string()));
    });
    let mut qmp = fake.connect();
    for _ in 0..MAX_UNANSWERED * 2 {
        let error = qmp.execute_within("query-status", Value::Null, SHORT).unwrap_err();
        assert!(matches!(error, QmpError::TimedOut { .. }), "{error}");
    }
    assert!(qmp.is_behind());
    qmp.execute_out_of_band("migrate-recover", Value::Null).unwrap();
    assert_eq!(qmp.next_event(SHORT).unwrap(), None);
    assert!(!qmp.is_behind());
    drop(qmp);
    fake.end();
}

#[test]
fn a_qemu_whose_main_loop_waits_is_told_from_one_that_is_no_qemu() {
    let fake = Fake::new(|mut socket| {
        say(&mut socket, &GREETING.replace('\n', ""));
        let _ = BufReader::new(socket).lines().count();
    });
    let text = fake.refusal(SHORT);
    assert!(text.contains("its main loop waits for something"), "{text}");
}

#[test]
fn events_of_what_is_past_can_be_forgotten() {
    let fake = Fake::qemu(|socket, command| {
        say(socket, r#"{"event": "MIGRATION", "data": {"status": "postcopy-paused"}}"#);
        say(socket, &json!({ "return": {}, "id": command["id"] }).to_string());
    });
    let mut qmp = fake.connect();
    qmp.execute("x", Value::Null).unwrap();
    qmp.forget_events();
    assert_eq!(qmp.next_event(SHORT).unwrap(), None);
    drop(qmp);
    fake.end();
}

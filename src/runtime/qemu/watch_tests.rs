//! The watcher against QEMUs that are old, silent, out of touch or gone. Real ones are in
//! `tests/qemu`.

use super::*;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Long enough for every answer that comes; a test waits once for one that does not.
const PATIENCE: Duration = Duration::from_secs(2);
const GREETING: &str =
    r#"{"QMP": {"version": {"qemu": {"micro": 1, "minor": 3, "major": 2}, "package": ""}}}"#;

enum Answer {
    Return(Value),
    Refuse(&'static str),
    Silence,
    Break,
}

/// A QMP socket with one client at a time.
struct FakeQemu {
    path: PathBuf,
    heard: Arc<Mutex<Vec<Value>>>,
    stopped: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

impl FakeQemu {
    /// `answer` gets the number of the conversation, from 0, and a command's name.
    fn new(answer: impl FnMut(u32, &str) -> Answer + Send + 'static) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("dwcp-watch-{}-{number}.sock", std::process::id());
        let path = std::env::temp_dir().join(name);
        let listener = UnixListener::bind(&path).unwrap();
        let (heard, stopped) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let (into, over) = (Arc::clone(&heard), Arc::clone(&stopped));
        let server = std::thread::spawn(move || serve_all(&listener, answer, &into, &over));
        Self { path, heard, stopped, server: Some(server) }
    }

    fn watch(&self, task: Task) -> Watch {
        let qmp = Qmp::connect(&self.path, PATIENCE).unwrap();
        let watch = Watch::start(qmp, task, Box::new(|| {})).unwrap();
        while !watch.seen().under_way && watch.seen().over.is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        watch
    }

    /// The commands so far, without those that only ask.
    fn orders(&self) -> Vec<Value> {
        let heard = lock(&self.heard);
        let orders = heard.iter().filter(|command| {
            let name = command["execute"].as_str().unwrap();
            !name.starts_with("query") && name != "qmp_capabilities"
        });
        orders.cloned().collect()
    }
}

impl Drop for FakeQemu {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        let _ = UnixStream::connect(&self.path);
        let _ = self.server.take().map(JoinHandle::join);
        let _ = std::fs::remove_file(&self.path);
    }
}

fn serve_all(
    listener: &UnixListener,
    mut answer: impl FnMut(u32, &str) -> Answer,
    heard: &Mutex<Vec<Value>>,
    stopped: &AtomicBool,
) {
    for number in 0.. {
        let mut socket = listener.accept().unwrap().0;
        if stopped.load(Ordering::SeqCst) {
            return;
        }
        let _ = writeln!(socket, "{GREETING}");
        let lines = BufReader::new(socket.try_clone().unwrap()).lines();
        for line in lines.map_while(Result::ok) {
            let command: Value = serde_json::from_str(&line).unwrap();
            lock(heard).push(command.clone());
            let said = match answer(number, command["execute"].as_str().unwrap()) {
                Answer::Return(value) => json!({ "return": value, "id": command["id"] }),
                Answer::Refuse(desc) => json!({
                    "error": { "class": "GenericError", "desc": desc }, "id": command["id"]
                }),
                Answer::Silence => continue,
                Answer::Break => break,
            };
            let _ = writeln!(socket, "{said}");
        }
    }
}

/// As a QEMU that waits for a guest and knows all that is needed.
fn able(command: &str) -> Answer {
    Answer::Return(match command {
        "query-status" => json!({ "running": false, "status": "inmigrate" }),
        "query-migrate-capabilities" => json!([
            { "capability": "events", "state": false },
            { "capability": "multifd", "state": false },
            { "capability": "xbzrle", "state": true },
        ]),
        "query-migrate-parameters" => json!({
            "max-bandwidth": 7, "downtime-limit": 8,
            "multifd-channels": 2, "multifd-compression": "none",
        }),
        _ => json!({}),
    })
}

/// As one that has its guest.
fn has_it(command: &str) -> Answer {
    match command {
        "query-migrate" => Answer::Return(json!({ "status": "completed" })),
        _ => able(command),
    }
}

fn receive() -> Task {
    Task::Receive { uri: "unix:/x".into(), multifd_channels: 0 }
}

fn migrate(multifd_channels: u8) -> Task {
    let max_downtime = Duration::from_millis(5);
    Task::Migrate { uri: "unix:/x".into(), max_downtime, throttle: false, multifd_channels }
}

/// A process that stands for QEMU's.
struct Body(Arc<Mutex<Child>>);

impl Body {
    fn new() -> Self {
        let child = Command::new("sleep").arg("600").spawn().unwrap();
        Self(Arc::new(Mutex::new(child)))
    }

    fn process(&self) -> Option<Arc<Process>> {
        Some(Arc::new(Process::numbered(lock(&self.0).id()).unwrap()))
    }

    fn killer(&self) -> impl Fn() + Send + 'static {
        let child = self.0.clone();
        move || {
            let mut child = lock(&child);
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.killer()();
    }
}

/// Settles with a QEMU that breaks the first conversation when it is asked for its migration, once it
/// has been given the end, and answers so in the next.
fn settle_after_a_break(body: &Body, next: impl Fn(&str) -> Answer + Send + 'static) -> Released {
    let given = Arc::new(AtomicBool::new(false));
    let given_too = given.clone();
    let fake = FakeQemu::new(move |number, command| match (number, command) {
        (0, "query-migrate") if given_too.load(Ordering::SeqCst) => Answer::Break,
        (0, _) => able(command),
        _ => next(command),
    });
    let watch = fake.watch(receive());
    given.store(true, Ordering::SeqCst);
    watch.settle(body.process(), true)
}

#[test]
fn a_broken_conversation_is_begun_anew_and_the_guest_is_there() {
    assert_eq!(settle_after_a_break(&Body::new(), has_it), Released::Running);
}

#[test]
fn a_broken_conversation_is_begun_anew_and_the_guest_was_refused() {
    let released = settle_after_a_break(&Body::new(), |command| match command {
        "query-migrate" => {
            Answer::Return(json!({ "status": "failed", "error-desc": "no such device" }))
        }
        _ => able(command),
    });
    let Released::NeverRan(text) = released else { panic!("{released:?}") };
    assert_eq!(text, "QEMU's migration is failed: no such device");
}

#[test]
fn a_qemu_that_ends_while_nobody_looks_may_have_run_the_guest() {
    let body = Body::new();
    let kill = body.killer();
    let released = settle_after_a_break(&body, move |command| {
        if command != "query-migrate" {
            return able(command);
        }
        kill();
        Answer::Break
    });
    let Released::Lost(text) = released else { panic!("{released:?}") };
    assert!(text.contains("QEMU at the destination has ended"), "{text}");
}

#[test]
fn another_qemu_at_the_same_socket_knows_nothing_of_the_guest() {
    let body = Body::new();
    let kill = body.killer();
    let released = settle_after_a_break(&body, move |command| {
        if command == "qmp_capabilities" {
            kill();
        }
        has_it(command)
    });
    assert!(matches!(released, Released::Lost(_)), "{released:?}");
}

#[test]
fn a_silent_qemu_may_still_run_the_guest() {
    let mut unanswered = 0;
    let fake = FakeQemu::new(move |_, command| match command {
        "query-migrate" if unanswered < 2 => {
            unanswered += 1;
            Answer::Silence
        }
        _ => has_it(command),
    });
    let watch = fake.watch(receive());
    assert_eq!(watch.settle(Body::new().process(), true), Released::Running);
}

#[test]
fn a_qemu_that_ends_at_once_has_never_run_the_guest() {
    for is_in_sight in [true, false] {
        let body = Body::new();
        let kill = body.killer();
        let fake = FakeQemu::new(move |_, command| match command {
            "query-migrate" => {
                kill();
                Answer::Break
            }
            _ => able(command),
        });
        let watch = fake.watch(receive());
        let aside = fake.path.with_extension("aside");
        std::fs::rename(&fake.path, &aside).unwrap();
        // Nobody listens there any more.
        drop(UnixListener::bind(&fake.path).unwrap());
        let process = body.process().filter(|_| is_in_sight);
        let released = watch.settle(process, true);
        std::fs::rename(&aside, &fake.path).unwrap();
        assert!(matches!(released, Released::NeverRan(_)), "{released:?}");
    }
}

#[test]
fn a_qemu_without_events_is_refused_before_it_is_touched() {
    let fake = FakeQemu::new(|_, command| match command {
        "query-migrate-capabilities" => {
            Answer::Return(json!([{ "capability": "xbzrle", "state": true }]))
        }
        _ => able(command),
    });
    let watch = fake.watch(migrate(0));
    let text = watch.seen().over.unwrap().unwrap_err();
    assert_eq!(text, "this QEMU (2.3.1) has no migration capability events; 2.4 and later have it");
    watch.undo().unwrap();
    drop(watch);
    assert_eq!(fake.orders(), [] as [Value; 0]);
}

#[test]
fn a_qemu_without_multifd_is_refused_before_it_is_touched() {
    let old = |_, command: &str| match command {
        "query-migrate-capabilities" => {
            Answer::Return(json!([{ "capability": "events", "state": false }]))
        }
        _ => able(command),
    };
    for task in [migrate(3), Task::Receive { uri: "unix:/x".into(), multifd_channels: 3 }] {
        let fake = FakeQemu::new(old);
        let watch = fake.watch(task);
        let text = watch.seen().over.unwrap().unwrap_err();
        assert_eq!(text, "multifd_channels is 3, but this QEMU has no capability multifd; use 0");
        watch.undo().unwrap();
        drop(watch);
        assert_eq!(fake.orders(), [] as [Value; 0]);
    }
    // Without channels it does.
    let fake = FakeQemu::new(old);
    assert!(fake.watch(migrate(0)).seen().under_way);
}

#[test]
fn a_qemu_without_a_parameter_is_as_it_was() {
    type Case = (&'static str, fn(&str) -> Answer, &'static str);
    let cases: [Case; 2] = [
        (
            "unknown",
            |command| match command {
                "query-migrate-parameters" => Answer::Return(json!({ "max-bandwidth": 7 })),
                _ => able(command),
            },
            "this QEMU (2.3.1) has no migration parameter downtime-limit",
        ),
        (
            "refused",
            |command| match command {
                "migrate-set-parameters" => Answer::Refuse("Parameter 'x' is unexpected"),
                _ => able(command),
            },
            "QEMU refused migrate-set-parameters: GenericError: Parameter 'x' is unexpected",
        ),
    ];
    for (case, answer, text) in cases {
        let fake = FakeQemu::new(move |_, command| answer(command));
        let watch = fake.watch(migrate(0));
        assert_eq!(watch.seen().over, Some(Err(text.to_owned())), "{case}");
        watch.undo().unwrap();
        drop(watch);
        let orders = fake.orders();
        assert!(orders.iter().all(|order| order["execute"] != "migrate"), "{case}: {orders:?}");
        let capabilities = |order: &Value| {
            let list = order["arguments"]["capabilities"].as_array().cloned().unwrap_or_default();
            list.into_iter().map(|entry| (entry["capability"].clone(), entry["state"].clone()))
        };
        let set: std::collections::BTreeMap<_, _> = orders
            .iter()
            .flat_map(capabilities)
            .map(|(name, state)| (name.as_str().unwrap().to_owned(), state == true))
            .collect();
        let before = [("events".to_owned(), false), ("xbzrle".to_owned(), true)];
        assert_eq!(set, before.into(), "{case}: {orders:?}");
    }
}

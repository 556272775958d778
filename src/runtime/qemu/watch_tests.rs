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
    /// Tells an event, and breaks.
    LastWords(&'static str),
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
                Answer::LastWords(event) => {
                    let _ = writeln!(socket, "{}", json!({ "event": event, "data": {} }));
                    break;
                }
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
    Task::Receive { uri: "unix:/x".into(), multifd_channels: 0, post_copy: false }
}

fn migrate(multifd_channels: u8) -> Task {
    let max_downtime = Duration::from_millis(5);
    let (uri, post_copy) = ("unix:/x".into(), false);
    Task::Migrate { uri, max_downtime, throttle: false, multifd_channels, post_copy }
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

/// It was asked whether it has the guest, let it run instead of answering, and ended.
#[test]
fn a_guest_that_ran_for_a_moment_has_run() {
    let body = Body::new();
    let kill = body.killer();
    let fake = FakeQemu::new(move |_, command| match command {
        "query-migrate" => {
            kill();
            Answer::LastWords("RESUME")
        }
        _ => able(command),
    });
    let released = fake.watch(receive()).settle(body.process(), true);
    assert!(matches!(released, Released::Lost(_)), "{released:?}");
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
    for task in
        [migrate(3), Task::Receive { uri: "unix:/x".into(), multifd_channels: 3, post_copy: false }]
    {
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
fn a_qemu_without_post_copy_is_refused_before_it_is_touched() {
    let (uri, multifd_channels, post_copy) = ("unix:/x".into(), 0, true);
    let fake = FakeQemu::new(|_, command| able(command));
    let watch = fake.watch(Task::Receive { uri, multifd_channels, post_copy });
    let text = watch.seen().over.unwrap().unwrap_err();
    assert!(text.contains("has no capability postcopy-ram; use never"), "{text}");
    watch.undo().unwrap();
    drop(watch);
    assert_eq!(fake.orders(), [] as [Value; 0]);
}

#[test]
fn a_limit_after_the_switch_is_lifted_where_qemu_knows_one_and_put_back() {
    for limit in [None, Some(9)] {
        let fake = FakeQemu::new(move |_, command| match command {
            "query-migrate-capabilities" => Answer::Return(json!([
                { "capability": "events", "state": true },
                { "capability": "postcopy-ram", "state": true },
            ])),
            "query-migrate-parameters" => {
                let mut known = json!({ "max-bandwidth": 7, "downtime-limit": 8 });
                limit.into_iter().for_each(|limit| known[POST_COPY_LIMIT] = json!(limit));
                Answer::Return(known)
            }
            _ => able(command),
        });
        let Task::Migrate { uri, max_downtime, throttle, multifd_channels, .. } = migrate(0) else {
            panic!("not a migration");
        };
        let post_copy = true;
        let task = Task::Migrate { uri, max_downtime, throttle, multifd_channels, post_copy };
        let watch = fake.watch(task);
        assert_eq!(watch.seen().over, None);
        watch.undo().unwrap();
        drop(watch);
        let told =
            fake.orders().into_iter().map(|order| order["arguments"][POST_COPY_LIMIT].clone());
        let told: Vec<_> = told.filter(|value| !value.is_null()).collect();
        let wanted = limit.map(|limit| vec![json!(0), json!(limit)]);
        assert_eq!(told, wanted.unwrap_or_default());
    }
}

#[test]
fn who_waits_for_a_guest_that_is_given_up_is_let_go() {
    let body = Body::new();
    let fake = FakeQemu::new(|_, command| match command {
        "query-migrate" => Answer::Return(json!({ "status": "postcopy-paused" })),
        _ => able(command),
    });
    let watch = fake.watch(receive());
    watch.give_up();
    assert_eq!(watch.settle(body.process(), true), Released::Lost("it was given up".into()));
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

/// As a QEMU with a guest in post-copy whose connection broke.
fn paused(command: &str) -> Answer {
    match command {
        "query-migrate" => Answer::Return(json!({ "status": "postcopy-paused" })),
        "query-migrate-capabilities" => Answer::Return(json!([
            { "capability": "events", "state": true },
            { "capability": "postcopy-ram", "state": false },
        ])),
        _ => able(command),
    }
}

#[test]
fn a_qemu_is_told_to_listen_again_as_soon_as_it_has_noticed_and_its_conversation_is_left() {
    let mut early = 2;
    let fake = FakeQemu::new(move |_, command| match command {
        "migrate-recover" if early > 0 => {
            early -= 1;
            Answer::Refuse("Migrate recover can only be run when postcopy is paused.")
        }
        _ => paused(command),
    });
    let left = Arc::new(Mutex::new(None));
    let qmp = Qmp::connect(&fake.path, PATIENCE).unwrap();
    let task = Task::Recover { uri: "unix:/x".into() };
    let watch = Watch::start_leaving(qmp, task, left.clone(), Box::new(|| {})).unwrap();
    while !watch.seen().under_way {
        assert_eq!(watch.seen().over, None);
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(watch);
    assert!(lock(&left).take().is_some_and(|mut qmp| qmp.status().is_ok()));
    let orders = fake.orders();
    // What QEMU needs to pause again is turned on, and nothing is turned off.
    let on = json!([{ "capability": "postcopy-ram", "state": true }]);
    assert_eq!(orders[0]["arguments"]["capabilities"], on);
    let rest: Vec<_> = orders[1..].iter().map(|order| order["execute"].clone()).collect();
    assert_eq!(rest, ["migrate-recover"; 3]);
}

#[test]
fn a_qemu_that_is_not_paused_is_not_told_to_go_on() {
    let fake = FakeQemu::new(|_, command| able(command));
    let watch = fake.watch(Task::Resume { uri: "unix:/x".into() });
    let text = watch.seen().over.unwrap().unwrap_err();
    assert!(text.contains("not postcopy-paused"), "{text}");
    drop(watch);
    assert_eq!(fake.orders(), [] as [Value; 0]);
    // It may take a moment to notice that its connection has ended.
    let mut early = 3;
    let fake = FakeQemu::new(move |_, command| match command {
        "query-migrate" if early > 0 => {
            early -= 1;
            Answer::Return(json!({ "status": "postcopy-active" }))
        }
        _ => paused(command),
    });
    let watch = fake.watch(Task::Resume { uri: "unix:/x".into() });
    assert!(watch.seen().under_way);
    drop(watch);
    let arguments = json!({ "uri": "unix:/x", "resume": true });
    let [order] = &fake.orders()[..] else { panic!("{:?}", fake.orders()) };
    assert_eq!((&order["execute"], &order["arguments"]), (&json!("migrate"), &arguments));
}

#[test]
fn who_told_qemu_to_switch_waits_for_what_it_does_about_it() {
    let mut asked = 0;
    let fake = FakeQemu::new(move |_, command| match command {
        "query-migrate" => {
            asked += 1;
            let status = if asked < 5 { "active" } else { "postcopy-active" };
            Answer::Return(json!({ "status": status }))
        }
        _ => able(command),
    });
    let watch = fake.watch(migrate(0));
    assert!(!watch.has_switched(), "nobody told it to");
    watch.switch_to_post_copy().unwrap();
    assert!(watch.has_switched());
}

//! Guests of unmodified QEMUs, attached to two daemons and moved by the command line.
//!
//! The machines have no disk: their firmware looks for something to boot, which is enough to have
//! memory and devices that must arrive. Guests that prove their memory are in `tests/qemu`.

use crate::stage::write_config;
use crate::stage::{Daemon, Pair, Process, Scratch, operator, refusal, stdout, wait_until};
use dwcp::runtime::qemu::Qmp;
use serde_json::Value;
use std::io::Read;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

/// A QEMU with a socket for the node and one for the test.
struct Machine {
    folder: Scratch,
    process: Process,
}

impl Machine {
    fn start(more: &[&str]) -> Self {
        let folder = Scratch::new();
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-M", "pc", "-m", "64", "-accel", "tcg", "-nodefaults", "-display", "none"]);
        for name in ["qmp.sock", "own.sock"] {
            let path = folder.path(name);
            command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", path.display()));
        }
        let process = Process::spawn(command.args(more));
        let machine = Self { folder, process };
        wait_until("QEMU answers", || machine.state());
        machine
    }

    /// With 8 MiB of noise in its memory, so that it takes a while to leave.
    fn full(noise: &Scratch) -> Self {
        let mut word = 1_u64;
        let mut next = || {
            // Xorshift: good enough for what must not be compressed.
            word ^= word << 13;
            word ^= word >> 7;
            word ^= word << 17;
            word.to_le_bytes()
        };
        let bytes: Vec<u8> = (0..1 << 20).flat_map(|_| next()).collect();
        let path = noise.path("noise");
        std::fs::write(&path, bytes).unwrap();
        let device = format!("loader,file={},addr=0x1000000,force-raw=on", path.display());
        Self::start(&["-device", &device])
    }

    fn incoming() -> Self {
        Self::start(&["-incoming", "defer"])
    }

    fn qmp(&self) -> PathBuf {
        self.folder.path("qmp.sock")
    }

    fn state(&self) -> Option<String> {
        let mut qmp = Qmp::connect(&self.folder.path("own.sock"), PATIENCE).ok()?;
        qmp.status().ok().map(|state| state.status)
    }

    fn has_ended(&mut self) -> bool {
        matches!(self.process.0.try_wait(), Ok(Some(_)))
    }
}

/// A daemon with a folder of its own.
struct Host {
    daemon: Daemon,
    folder: Scratch,
}

impl Host {
    fn start() -> Self {
        let folder = Scratch::new();
        let config = folder.path("c.yaml");
        write_config(&folder, &config, "");
        Self { daemon: Daemon::start(&folder, &config), folder }
    }

    fn run(&self, args: &[&str]) -> Output {
        self.daemon.run(args)
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&stdout(&self.run(&[&["--json"], args].concat()))).unwrap()
    }

    fn attach(&self, name: &str, machine: &Machine, more: &[&str]) -> Value {
        let path = machine.qmp();
        self.json(&[&["vm", "attach", name, "--qmp", path.to_str().unwrap()], more].concat())
    }

    fn try_attach(&self, name: &str, machine: &Machine, more: &[&str]) -> Output {
        let path = machine.qmp();
        self.run(&[&["vm", "attach", name, "--qmp", path.to_str().unwrap()], more].concat())
    }

    /// Names and roles of what is attached.
    fn vms(&self) -> Vec<(String, String)> {
        let list = self.json(&["vm", "list"]);
        let text = |vm: &Value, field: &str| vm[field].as_str().unwrap().to_owned();
        let vms = list["vms"].as_array().unwrap().iter();
        vms.map(|vm| (text(vm, "name"), text(vm, "role"))).collect()
    }

    /// The node that received a guest learns of the end a little later than the one that sent it.
    fn await_arrival(&self, name: &str) {
        let arrived = [(name.to_owned(), "source".to_owned())];
        wait_until("the guest can leave again", || (self.vms() == arrived).then_some(()));
    }
}

#[test]
fn a_guest_moves_from_daemon_to_daemon_and_back() {
    let (from, to) = (Host::start(), Host::start());
    let (source, destination) = (Machine::start(&[]), Machine::incoming());
    let vm = from.attach("vm", &source, &[]);
    assert_eq!((&vm["name"], &vm["role"]), (&"vm".into(), &"source".into()));
    assert_eq!((&vm["ram_bytes"], &vm["cpus"]), (&(64 << 20).into(), &1.into()));
    assert!(vm["machine"].as_str().unwrap().starts_with("pc-i440fx-"), "{vm}");
    let status = from.json(&["vm", "status", "vm"]);
    assert_eq!((&status["state"], &status["running"]), (&"running".into(), &true.into()));
    assert!(status["qemu_version"].as_str().unwrap().contains('.'), "{status}");
    to.attach("vm", &destination, &["--incoming"]);
    assert_eq!(to.json(&["vm", "status", "vm"])["state"], "inmigrate");
    let report = from.json(&["migrate", "vm", "--to", &to.daemon.address()]);
    assert_eq!((&report["status"], &report["owner"]), (&"DWCP_OK".into(), &"destination".into()));
    zero_pages_are_counted(&from, &report);
    assert_eq!(source.state().as_deref(), Some("postmigrate"));
    wait_until("the guest runs there", || (destination.state()? == "running").then_some(()));
    // What has left is gone from the list, what has arrived runs there.
    assert_eq!(from.vms(), []);
    to.await_arrival("vm");
    let text = refusal(&from.try_attach("vm", &source, &[]), 1);
    assert!(text.contains("postmigrate") && text.contains("has left it"), "{text}");
    let back = Machine::incoming();
    from.attach("vm", &back, &["--incoming"]);
    let report = to.json(&["migrate", "vm", "--to", &from.daemon.address()]);
    assert_eq!(report["status"], "DWCP_OK", "{report}");
    wait_until("the guest runs here again", || (back.state()? == "running").then_some(()));
    from.await_arrival("vm");
    let table = stdout(&from.run(&["vm", "list"]));
    assert!(table.contains("64.00 MiB") && table.contains("source"), "{table}");
    let text = stdout(&from.run(&["vm", "status", "vm"]));
    assert!(text.contains("state      running") && text.contains("migration  none"), "{text}");
    what_is_held_is_shown_and_let_go_of(&from);
    damaged_held_pages_are_found_and_dropped(&to);
}

/// Most pages of a guest that has run so little; QEMU only names them.
fn zero_pages_are_counted(host: &Host, report: &Value) {
    assert!(report["zero_pages"].as_u64() > Some(50 * 256), "{report}");
    let stats = host.json(&["compression-stats"]);
    assert_eq!(stats["encoding"]["zero"]["pages"], report["zero_pages"]);
    let measured = host.json(&["metrics", "hde.pages"]);
    assert_eq!(measured["metrics"][0]["series"][0]["value"], report["zero_pages"], "{measured}");
}

fn what_is_held_is_shown_and_let_go_of(host: &Host) {
    let held = || host.json(&["vm", "status", "vm"])["held"].clone();
    wait_until("pages are held", || (held()["pages"].as_u64()? > 0).then_some(()));
    let measured = host.json(&["metrics", "hde.held_pages"]);
    assert!(measured["metrics"][0].to_string().contains("hde.held_pages"), "{measured}");
    assert_eq!(host.json(&["cleanup-baselines", "--older-than", "30d"])["pages"], 0);
    assert_eq!(host.json(&["cleanup-baselines", "--guest", "another"])["pages"], 0);
    let text = refusal(&host.run(&["cleanup-baselines", "--older-than", "soon"]), 1);
    assert!(text.contains("older_than \"soon\"") && text.contains("such as 30d"), "{text}");
    let text = stdout(&host.run(&["cleanup-baselines", "--guest", "vm"]));
    assert!(text.starts_with("let go of ") && !text.contains("of 0 migrations"), "{text}");
    assert_eq!(held()["pages"], 0);
}

fn damaged_held_pages_are_found_and_dropped(host: &Host) {
    let check = || {
        let output = host.run(&["--json", "data-integrity-check"]);
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), found["checks"][4].clone(), found)
    };
    let pages = wait_until("pages are held", || {
        let (code, pages, _) = check();
        assert_eq!((code, &pages["what"]), (Some(0), &"held pages".into()));
        (pages["checked"].as_u64()? > 0).then_some(pages)
    });
    assert_eq!(pages["failed"], 0, "{pages}");
    for entry in std::fs::read_dir(host.folder.path("state/held")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes.iter_mut().skip(middle).take(1).for_each(|byte| *byte ^= 1);
        std::fs::write(&path, bytes).unwrap();
    }
    let (code, pages, found) = check();
    assert!(code == Some(1) && pages["failed"].as_u64() > Some(0), "{found}");
    assert!(pages["details"][0].as_str().unwrap().contains("is damaged; dropped"), "{found}");
    wait_until("nothing damaged is left", || (check().0 == Some(0)).then_some(()));
}

#[test]
fn what_is_no_fitting_qemu_is_refused_by_name() {
    let host = Host::start();
    let (running, waiting) = (Machine::start(&["-S"]), Machine::incoming());
    let attach = |qmp: &str| host.run(&["vm", "attach", "x", "--qmp", qmp]);
    let text = refusal(&attach("/nowhere/q.sock"), 1);
    assert!(text.contains("QMP socket /nowhere/q.sock: No such file"), "{text}");
    assert!(text.contains("DWCP_ERR_CONNECT"), "{text}");
    let mail = host.folder.path("mail.sock");
    let listener = UnixListener::bind(&mail).unwrap();
    let nonsense = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        std::io::Write::write_all(&mut client, b"220 mail.example\r\n").unwrap();
        let _ = client.read(&mut [0; 64]);
    });
    let text = refusal(&attach(mail.to_str().unwrap()), 1);
    nonsense.join().unwrap();
    assert!(text.contains("no QMP socket") && text.contains("mail.sock"), "{text}");
    let text = refusal(&host.try_attach("x", &running, &["--incoming"]), 1);
    assert!(text.contains("prelaunch") && text.contains("-incoming defer"), "{text}");
    let text = refusal(&host.try_attach("x", &waiting, &[]), 1);
    assert!(text.contains("inmigrate") && text.contains("as incoming"), "{text}");
    assert!(text.contains("DWCP_ERR_BAD_STATE"), "{text}");
    assert_eq!(host.vms(), []);
    host.attach("x", &running, &[]);
    let text = refusal(&host.run(&["migrate", "x", "--to", "v1://127.0.0.1:1"]), 1);
    assert!(text.contains("\"x\" is a QEMU's, whose migration v1 cannot carry"), "{text}");
    let text = refusal(&host.try_attach("x", &waiting, &["--incoming"]), 1);
    assert!(text.contains("guest \"x\" is already registered"), "{text}");
    let text = refusal(&host.try_attach("y", &running, &[]), 1);
    assert!(text.contains("already attached, as guest \"x\""), "{text}");
    assert_eq!(host.run(&["vm", "attach", "y"]).status.code(), Some(2));
    let text = refusal(&host.run(&["vm", "detach", "y"]), 1);
    assert!(text.contains("no guest \"y\"; known here: x"), "{text}");
    assert!(stdout(&host.run(&["vm", "detach", "x"])).contains("its QEMU goes on"));
    assert_eq!((host.vms(), running.state().as_deref()), (vec![], Some("prelaunch")));
}

#[test]
fn a_socket_is_found_from_the_directory_of_the_command() {
    let (host, machine) = (Host::start(), Machine::start(&["-S"]));
    let mut command = operator(&host.daemon.socket, &["vm", "attach", "vm", "--qmp", "qmp.sock"]);
    let output = command.current_dir(&machine.folder.0).output().unwrap();
    assert!(stdout(&output).contains("attached vm: pc-i440fx-"), "{output:?}");
    let status = host.json(&["vm", "status", "vm"]);
    assert_eq!(status["qmp"], machine.qmp().to_str().unwrap());
    assert_eq!(status["state"], "prelaunch");
    drop(machine);
    let status = host.json(&["vm", "status", "vm"]);
    assert!(status["state"].is_null());
    assert!(status["silence"].as_str().unwrap().contains("cannot connect"), "{status}");
}

#[test]
fn an_interrupt_cancels_and_the_guest_goes_on_here() {
    let (from, to) = (Host::start(), Host::start());
    let noise = Scratch::new();
    let (source, mut destination) = (Machine::full(&noise), Machine::incoming());
    from.attach("vm", &source, &[]);
    to.attach("vm", &destination, &["--incoming"]);
    let address = to.daemon.address();
    let args = ["migrate", "vm", "--to", &address, "--bandwidth-limit", "1mbit"];
    let process = Process::spawn(&mut operator(&from.daemon.socket, &args));
    let status = wait_until("bytes are being sent", || {
        let status = from.json(&["vm", "status", "vm"]);
        (status["progress"]["phase"] == "precopy").then_some(status)
    });
    assert!(status["state"].is_null() && status["silence"].is_string(), "{status}");
    for host in [&from, &to] {
        let text = refusal(&host.run(&["vm", "detach", "vm"]), 1);
        assert!(text.contains("is being migrated") && text.contains("DWCP_ERR_BUSY"), "{text}");
    }
    let text = refusal(&from.run(&["migrate", "vm", "--to", &address]), 1);
    assert!(text.contains("DWCP_ERR_BUSY"), "{text}");
    process.signal(libc::SIGINT);
    let (status, out, err) = process.finish();
    assert_eq!(status.code(), Some(6), "{out} {err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["owner"], "source");
    assert_eq!(source.state().as_deref(), Some("running"));
    assert_eq!(from.json(&["vm", "status", "vm"])["state"], "running");
    // QEMU ends when what it was receiving ends early; if nothing came yet, it goes on waiting.
    wait_until("the waiting QEMU ends, or waits on", || {
        (destination.has_ended() || destination.state()? == "inmigrate").then_some(())
    });
    wait_until("the destination is done", || {
        to.run(&["vm", "detach", "vm"]).status.success().then_some(())
    });
    // The next try needs nothing but a new QEMU there.
    let destination = Machine::incoming();
    to.attach("vm", &destination, &["--incoming"]);
    let report = from.json(&["migrate", "vm", "--to", &address]);
    assert_eq!(report["status"], "DWCP_OK", "{report}");
}

#[test]
fn a_destination_that_differs_is_refused_before_anything_moves() {
    let (from, to) = (Host::start(), Host::start());
    let (source, destination) =
        (Machine::start(&[]), Machine::start(&["-incoming", "defer", "-smp", "2"]));
    from.attach("vm", &source, &[]);
    to.attach("vm", &destination, &["--incoming"]);
    let output = from.run(&["--json", "migrate", "vm", "--to", &to.daemon.address()]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(4), "{report}");
    assert!(report["reason"].as_str().unwrap().contains("processors"), "{report}");
    assert_eq!(source.state().as_deref(), Some("running"));
    assert_eq!(destination.state().as_deref(), Some("inmigrate"));
}

#[test]
fn a_hypervisors_own_guest_is_not_let_go_by_vm_detach() {
    let pair = Pair::new();
    pair.add_guest("own", 16);
    let text = refusal(&pair.run(&["vm", "detach", "own"]), 1);
    assert!(text.contains("\"own\" was registered by a hypervisor"), "{text}");
    assert!(stdout(&pair.run(&["vm", "list"])).starts_with("VM"));
    assert_eq!(pair.json(&["guests"])["guests"][0]["name"], "own");
}

#[test]
fn a_guests_memory_is_looked_at_without_disturbing_it() {
    let (host, noise) = (Host::start(), Scratch::new());
    let machine = Machine::full(&noise);
    host.attach("vm", &machine, &[]);
    let found = host.json(&["compression-analyze", "--sample", "4000"]);
    assert_eq!((&found["guest"], &found["pages"]), (&"vm".into(), &4000.into()));
    // 8 of 64 MiB are noise: 500 of the pages, give or take, and little else is there.
    let rest = found["block_raw_bytes"].as_u64().unwrap() / 4096;
    assert!((300..900).contains(&rest), "{found}");
    let stored = found["codecs"][0]["packed_bytes"].as_u64().unwrap();
    let packed = found["codecs"][6]["packed_bytes"].as_u64().unwrap();
    assert!(packed > stored / 2, "noise does not shrink: {found}");
    let tested = host.json(&["encoding-test"]);
    assert_eq!((&tested["passed"], &tested["skipped"]), (&true.into(), &Value::Array(vec![])));
    let left = std::fs::read_dir(&machine.folder.0).unwrap().filter_map(Result::ok);
    let left: Vec<_> = left.map(|entry| entry.file_name().into_string().unwrap()).collect();
    assert!(!left.iter().any(|name| name.starts_with("dwcp-sample")), "{left:?}");
    assert_eq!(machine.state().as_deref(), Some("running"));
    let waiting = Machine::incoming();
    host.attach("to-come", &waiting, &["--incoming"]);
    let text = refusal(&host.run(&["compression-analyze", "to-come"]), 1);
    assert!(text.contains("registered as destination"), "{text}");
}

#[test]
fn baselines_keep_to_what_is_configured_and_are_counted() {
    let (from, to) = (Host::start(), Host::start());
    let noise = Scratch::new();
    let (source, destination) = (Machine::full(&noise), Machine::incoming());
    from.attach("vm", &source, &[]);
    to.attach("vm", &destination, &["--incoming"]);
    // The stricter side decides: 2 baselines, halved, of 256 pages each.
    stdout(&to.run(&["config", "set", "hde.max_baselines", "2"]));
    stdout(&to.run(&["config", "set", "hde.baseline_cleanup_aggressive", "true"]));
    let address = to.daemon.address();
    let args = ["migrate", "vm", "--to", &address, "--bandwidth-limit", "4mbit", "--detach"];
    let started = from.json(&args);
    for host in [&from, &to] {
        let held = wait_until("baselines fill up", || {
            let held = host.json(&["baselines-count"]);
            (held["baselines"].as_u64()? == 1).then_some(held)
        });
        let row = &held["migrations"][0];
        assert_eq!((&row["limit"], &row["guest"]), (&1.into(), &"vm".into()), "{held}");
        let (pages, bytes) = (row["pages"].as_u64().unwrap(), row["bytes"].as_u64().unwrap());
        assert!((1..=256).contains(&pages) && bytes >= pages * 4096, "{held}");
    }
    let text = refusal(&from.run(&["compression-analyze", "vm"]), 1);
    assert!(text.contains("is being migrated"), "{text}");
    let checks = from.json(&["data-integrity-check"]);
    assert_eq!((&checks["sound"], &checks["checks"][1]["failed"]), (&true.into(), &0.into()));
    assert!(checks["checks"][1]["checked"].as_u64() > Some(0), "{checks}");
    let parts = from.json(&["memory-usage"]);
    let parts = parts["parts"].as_array().unwrap().clone();
    assert!(parts.iter().any(|part| part["part"] == "baselines" && part["guest"] == "vm"));
    let gauge = from.json(&["metrics", "hde.baselines"]);
    assert_eq!(gauge["metrics"][0]["series"][0]["value"], 1, "{gauge}");
    let id = started["id"].as_str().unwrap();
    let text = refusal(&to.run(&["compression-stats", "--migration", id]), 1);
    assert!(text.contains("arrives here; the node that sends it encodes it"), "{text}");
    assert!(from.json(&["compression-stats", "--migration", id])["pages"].as_u64() > Some(0));
    stdout(&from.run(&["cancel", id]));
    for host in [&from, &to] {
        wait_until("they are let go", || {
            (host.json(&["baselines-count"])["pages"] == 0).then_some(())
        });
    }
}

//! The example programs, built and run: what they prove about a migrated guest, and that the proof
//! can fail.
//!
//! Programs are compiled once per run into a directory of their own. Where there is no usable
//! /dev/kvm they run their guest as a thread, so every test means something everywhere.

use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// The C and C++ programs; the library is linked to beside them.
struct Programs {
    directory: PathBuf,
}

static PROGRAMS: LazyLock<Programs> = LazyLock::new(Programs::build);

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const RUST: &str = "hypervisor-rust";
const LIMIT: Duration = Duration::from_secs(120);

impl Programs {
    fn build() -> Self {
        let binaries = Path::new(env!("CARGO_BIN_EXE_dwcp-v3-cli")).parent().expect("a directory");
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("examples");
        std::fs::create_dir_all(&directory).expect("a directory for the programs");
        // Each test is a process, and two that build at once would link each other's halves.
        let turn = File::create(directory.join("lock")).expect("a file to lock");
        turn.lock().expect("a turn");
        run(Command::new("make")
            .args(["-s", "-j2", "-C", &format!("{ROOT}/examples/c")])
            .arg(format!("LIBRARY_DIR={}", binaries.display()))
            .arg(format!("OUT={}", directory.display())));
        Self { directory }
    }

    /// `name` is `hypervisor-c`, `hypervisor-cpp` or `hypervisor-rust`.
    fn command(&self, name: &str, arguments: &[&str]) -> Command {
        let path = if name == RUST { rust_program() } else { self.directory.join(name) };
        let mut command = Command::new(path);
        command.args(arguments);
        command
    }
}

/// `cargo test` builds it; with `--test examples` alone it is as old as its last build.
fn rust_program() -> PathBuf {
    let binaries = Path::new(env!("CARGO_BIN_EXE_dwcp-v3-cli")).parent().expect("a directory");
    let path = binaries.join("examples/hypervisor");
    assert!(path.exists(), "{path:?} is missing: cargo build --example hypervisor");
    path
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
    output
}

/// A program under way; its end is awaited for a bounded time, and it never outlives the test.
struct Running {
    child: Reaped,
    /// What it told people, read to the end by a thread.
    log: std::thread::JoinHandle<String>,
    lines: std::sync::mpsc::Receiver<String>,
}

/// A child that is killed with its test, also when the test fails.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        // It has ended in every test that passes.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn start(mut command: Command) -> Self {
        let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap_or_else(|error| panic!("{piped:?}: {error}"));
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let (sender, lines) = std::sync::mpsc::channel();
        let log = std::thread::spawn(move || {
            let mut text = String::new();
            for line in stderr.lines().map_while(Result::ok) {
                text += &format!("{line}\n");
                let _ = sender.send(line);
            }
            text
        });
        Self { child: Reaped(child), log, lines }
    }

    /// The rest of the first line that begins so.
    fn wait_for_line(&self, start: &str) -> String {
        let begun = Instant::now();
        while let Ok(line) = self.lines.recv_timeout(LIMIT.saturating_sub(begun.elapsed())) {
            if let Some(rest) = line.strip_prefix(start) {
                return rest.to_owned();
            }
        }
        panic!("no line {start:?}")
    }

    /// Exit code, the JSON object, and what it told people.
    fn end(mut self) -> (i32, Value, String) {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.0.try_wait().expect("a child") {
                break status;
            }
            if begun.elapsed() > LIMIT {
                let _ = self.child.0.kill();
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let mut json = String::new();
        let mut stdout = self.child.0.stdout.take().expect("piped");
        stdout.read_to_string(&mut json).expect("text");
        let log = self.log.join().expect("the log");
        let object = serde_json::from_str(&json).unwrap_or(Value::Null);
        (status.code().unwrap_or(-1), object, log)
    }
}

/// Starts a destination and a source that moves its guest there; the results of both.
fn migrate(
    from: &str,
    to: &str,
    source: &[&str],
    destination: &[&str],
) -> [(i32, Value, String); 2] {
    let all = |mode: &'static str, rest: &[&'static str], more: &[&str]| -> Vec<String> {
        let first = std::iter::once(&mode).chain(rest).map(|text| (*text).to_owned());
        first.chain(more.iter().map(|text| (*text).to_owned())).collect()
    };
    let arguments = all("destination", &["--json", "--listen", "127.0.0.1:0"], destination);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let destination = Running::start(PROGRAMS.command(to, &arguments));
    let address = destination.wait_for_line("listening on ");
    let arguments = all("source", &["--json", "--after-seconds", "0.2", "--to"], &[&address]);
    let arguments: Vec<&str> =
        arguments.iter().map(String::as_str).chain(source.iter().copied()).collect();
    let sent = Running::start(PROGRAMS.command(from, &arguments)).end();
    if sent.0 != 0 {
        terminate(&destination.child.0);
    }
    [sent, destination.end()]
}

fn terminate(child: &Child) {
    run(Command::new("kill").arg(child.id().to_string()));
}

/// The guest arrived whole, went on exactly where it stopped, and runs.
fn assert_continuous([source, destination]: &[(i32, Value, String); 2]) {
    let context = format!("source:\n{}\ndestination:\n{}", source.2, destination.2);
    assert_eq!((source.0, destination.0), (0, 0), "{context}");
    let (sent, stopped) = (&source.1["sent"], &source.1["stopped_at"]["writes"]);
    let (arrival, later) = (&destination.1["arrival_proof"], &destination.1["later_proof"]);
    assert_eq!(sent["status"], "DWCP_OK", "{context}");
    assert_eq!(sent["owner"], "destination", "{context}");
    assert_eq!(sent["digest"], destination.1["received"]["digest"], "{context}");
    assert_eq!(stopped, &arrival["counter"], "{context}");
    assert_eq!(arrival["holds"], true, "{context}");
    assert_eq!(later["holds"], true, "{context}");
    assert!(arrival["pages"].as_u64() > Some(0), "{context}");
    assert!(later["counter"].as_u64() > arrival["counter"].as_u64(), "{context}");
}

const SMALL: [&str; 4] = ["--memory-mib", "16", "--run-seconds", "0.3"];

fn with_small(more: &[&'static str]) -> Vec<&'static str> {
    SMALL.iter().chain(more).copied().collect()
}

fn self_test(program: &str, more: &[&'static str]) -> Output {
    let arguments: Vec<_> = std::iter::once("self-test").chain(with_small(more)).collect();
    PROGRAMS.command(program, &arguments).output().expect("the program")
}

#[test]
fn checked_in_guest_bytes_are_those_of_the_assembly() {
    let fresh = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guest-bytes");
    std::fs::create_dir_all(&fresh).expect("a directory");
    for name in ["guest.bin", "guest_code.h"] {
        let _ = std::fs::remove_file(fresh.join(name));
    }
    run(Command::new("make")
        .args(["-s", "-C", &format!("{ROOT}/examples/guest")])
        .arg(format!("OUT={}", fresh.display())));
    for name in ["guest.bin", "guest_code.h"] {
        let checked_in = std::fs::read(format!("{ROOT}/examples/guest/{name}")).expect(name);
        let fresh = std::fs::read(fresh.join(name)).expect(name);
        assert!(checked_in == fresh, "{name} is stale: run make -C examples/guest");
    }
}

#[test]
fn a_guest_copied_within_one_process_holds_every_page() {
    for content in ["random", "text", "zero-heavy"] {
        for more in [vec!["--content", content], vec!["--content", content, "--no-kvm"]] {
            for program in ["hypervisor-c", RUST] {
                let output = self_test(program, &more);
                assert!(output.status.success(), "{program} {more:?}: {output:?}");
            }
        }
    }
}

#[test]
fn flags_are_rolled_out_and_killed() {
    let output = run(&mut PROGRAMS.command("flags-c", &[]));
    let text = String::from_utf8_lossy(&output.stdout);
    let counts: Vec<u32> = text
        .lines()
        .filter_map(|line| line.split_once(": ")?.1.split_once(" of 100")?.0.parse().ok())
        .collect();
    let [first, tenth, half, killed] = counts[..] else { panic!("{text}") };
    assert_eq!((first, killed), (100, 0));
    // The units follow from their names, so these are always the same.
    assert!((3..=20).contains(&tenth) && (35..=65).contains(&half), "{text}");
}

#[test]
fn an_idle_guest_still_ticks() {
    let output = self_test("hypervisor-c", &["--dirty-mib-per-s", "0"]);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn every_kind_of_damage_fails_the_proof() {
    for (program, kind) in ["byte", "stale", "counter", "code"]
        .into_iter()
        .flat_map(|kind| [("hypervisor-c", kind), (RUST, kind)])
    {
        let output = self_test(program, &["--corrupt", kind, "--verify", "paused"]);
        assert_eq!(output.status.code(), Some(3), "{program} {kind}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("PROOF FAILED"), "{output:?}");
    }
}

#[test]
fn bad_options_name_their_value() {
    let cases: [(&[&str], &str); 5] = [
        (&["source", "--memory-mib", "0"], "--memory-mib is 0"),
        (&["source", "--content", "sand"], "sand"),
        (&["destination"], "--listen"),
        (&["fly"], "fly"),
        (&["source", "--codec", "zstd:99"], "99"),
    ];
    for (arguments, text) in cases {
        let output = PROGRAMS.command("hypervisor-c", arguments).output().expect("the program");
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(text), "{arguments:?}: {said}");
    }
}

#[test]
fn a_running_guest_moves_by_callbacks() {
    let small = with_small(&[]);
    assert_continuous(&migrate("hypervisor-c", "hypervisor-c", &small, &small));
}

#[test]
fn a_running_guest_moves_by_file_descriptor_alone() {
    let small = with_small(&["--event-loop"]);
    assert_continuous(&migrate("hypervisor-c", "hypervisor-c", &small, &small));
}

#[test]
fn a_running_guest_moves_between_languages() {
    let small = with_small(&["--content", "text"]);
    assert_continuous(&migrate("hypervisor-c", "hypervisor-cpp", &small, &small));
    assert_continuous(&migrate("hypervisor-cpp", RUST, &small, &small));
    assert_continuous(&migrate(RUST, "hypervisor-c", &small, &small));
}

#[test]
fn a_guest_whose_writes_the_kernel_tracks_moves() {
    let small = with_small(&["--no-kvm"]);
    for (from, to) in [("hypervisor-c", "hypervisor-cpp"), (RUST, "hypervisor-c")] {
        if let Err(error) = dwcp::runtime::sys::tracking_support::probe() {
            eprintln!("skipped: {error}");
            return;
        }
        assert_continuous(&migrate(from, to, &small, &small));
    }
}

#[test]
fn the_command_line_moves_the_guest_of_a_running_hypervisor() {
    for (index, name) in ["hypervisor-c", "hypervisor-cpp", RUST].into_iter().enumerate() {
        let socket = std::env::temp_dir().join(format!("dwcp-{}-{index}", std::process::id()));
        let socket = socket.to_str().expect("text");
        let destination = Running::start(PROGRAMS.command(
            name,
            &[&["destination", "--json", "--listen", "127.0.0.1:0"], &SMALL[..]].concat(),
        ));
        let address = destination.wait_for_line("listening on ");
        let control = ["source", "--json", "--listen-control", socket];
        let source = Running::start(PROGRAMS.command(name, &[&control, &SMALL[..]].concat()));
        source.wait_for_line("ready: ");
        let order = |to: &str| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_dwcp-v3-cli"));
            command.args(["--socket", socket, "--json", "migrate", "guest", "--to", to]);
            command
        };
        // A slip of the operator's does not cost him the guest.
        let other = ["destination", "--name", "other", "--json", "--listen", "127.0.0.1:0"];
        let stranger = Running::start(PROGRAMS.command(name, &[&other, &SMALL[..]].concat()));
        let wrong = order(&stranger.wait_for_line("listening on ")).output().expect("the CLI");
        assert_eq!(wrong.status.code(), Some(4), "{wrong:?}");
        terminate(&stranger.child.0);
        stranger.end();
        source.wait_for_line("the guest goes on here");
        let migrated = run(&mut order(&address));
        let last = String::from_utf8_lossy(&migrated.stdout);
        let report: Value =
            serde_json::from_str(last.lines().last().expect("a line")).expect("JSON");
        assert_eq!(report["status"], "DWCP_OK", "{report}");
        assert_continuous(&[source.end(), destination.end()]);
    }
}

#[test]
fn the_command_line_lets_a_guest_go_on_before_its_memory_is_there() {
    if let Err(error) = dwcp::runtime::sys::missing_memory::probe() {
        eprintln!("skipped: {error}");
        return;
    }
    for (index, name) in ["hypervisor-c", RUST].into_iter().enumerate() {
        let socket = std::env::temp_dir().join(format!("dwcp-late-{}-{index}", std::process::id()));
        let socket = socket.to_str().expect("text");
        let small = ["--memory-mib", "16", "--run-seconds", "0.3", "--verify", "off"];
        let destination = Running::start(PROGRAMS.command(
            name,
            &[&["destination", "--json", "--listen", "127.0.0.1:0"], &small[..]].concat(),
        ));
        let address = destination.wait_for_line("listening on ");
        let control = ["source", "--json", "--listen-control", socket];
        let source = Running::start(PROGRAMS.command(name, &[&control, &small[..]].concat()));
        source.wait_for_line("ready: ");
        let order = |arguments: &[&str]| -> Value {
            let mut command = Command::new(env!("CARGO_BIN_EXE_dwcp-v3-cli"));
            let output = run(command.args(["--socket", socket, "--json"]).args(arguments));
            serde_json::from_slice(&output.stdout).expect("JSON")
        };
        let slowly = ["--bandwidth-limit", "4MB/s", "--codec", "none", "--detach"];
        let migrate = ["migrate", "guest", "--to", &address, "--post-copy", "manual"];
        let migration = order(&[&migrate[..], &slowly].concat());
        let id = migration["id"].as_str().expect("an id");
        assert_eq!(order(&["post-copy", id])["side"], "source");
        let [source, destination] = [source.end(), destination.end()];
        let context = format!("source:\n{}\ndestination:\n{}", source.2, destination.2);
        assert_eq!((source.0, destination.0), (0, 0), "{context}");
        let received = &destination.1["received"];
        assert_eq!(source.1["sent"]["digest"], received["digest"], "{context}");
        assert!(received["post_copy"]["missing_pages"].as_u64() > Some(0), "{context}");
        assert!(received["post_copy"]["faults"].as_u64() > Some(0), "{context}");
        assert_eq!(destination.1["later_proof"]["holds"], true, "{context}");
        assert!(
            destination.1["later_proof"]["counter"].as_u64()
                > source.1["stopped_at"]["writes"].as_u64(),
            "{context}"
        );
    }
}

#[test]
fn a_lost_update_at_the_destination_is_found() {
    let small = with_small(&[]);
    let damaged = with_small(&["--corrupt", "stale"]);
    let [source, destination] = migrate("hypervisor-c", "hypervisor-c", &small, &damaged);
    assert_eq!((source.0, destination.0), (0, 3), "{}", destination.2);
    assert_eq!(destination.1["arrival_proof"]["bad_sequences"], 1, "{}", destination.2);
}

#[test]
fn a_refused_guest_goes_on_at_the_source() {
    let (small, larger) = (with_small(&[]), with_small(&["--memory-mib", "17"]));
    let [source, _] = migrate("hypervisor-c", "hypervisor-c", &small, &larger);
    assert_eq!(source.0, 4, "{}", source.2);
    assert_eq!(source.1["sent"]["owner"], "source", "{}", source.2);
    assert!(source.2.contains("the guest goes on here"), "{}", source.2);
    assert_eq!(source.1["later_proof"]["holds"], true, "{}", source.2);
}

#[test]
fn a_guest_comes_back_to_the_process_that_it_left() {
    for program in ["hypervisor-c", "hypervisor-cpp", RUST] {
        // The way back needs an address that is known before its listener is.
        let home = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = home.local_addr().expect("its address").to_string();
        drop(home);
        let back: Vec<&str> = SMALL.iter().copied().chain(["--return", &address]).collect();
        let away: Vec<&str> =
            SMALL.iter().copied().chain(["--listen", &address, "--await-return"]).collect();
        let [source, destination] = migrate(program, "hypervisor-c", &away, &back);
        let context = format!("{program}:\n{}\ndestination:\n{}", source.2, destination.2);
        assert_eq!((source.0, destination.0), (0, 0), "{context}");
        assert_eq!(destination.1["stopped_at"]["writes"], source.1["arrival_proof"]["counter"]);
        assert_eq!(source.1["arrival_proof"]["holds"], true, "{context}");
        assert_eq!(source.1["later_proof"]["holds"], true, "{context}");
    }
}

#[test]
fn a_guest_moves_on_from_its_destination() {
    let last = PROGRAMS.command(
        "hypervisor-c",
        &[&["destination", "--json", "--listen", "127.0.0.1:0"][..], &SMALL].concat(),
    );
    let last = Running::start(last);
    let address = last.wait_for_line("listening on ");
    let small = with_small(&[]);
    let onward: Vec<&str> = SMALL.iter().copied().chain(["--return", &address]).collect();
    let results = migrate("hypervisor-c", "hypervisor-c", &small, &onward);
    let (_, middle, log) = &results[1];
    let end = last.end();
    assert_continuous(&results);
    assert_eq!(end.0, 0, "middle:\n{log}\nlast:\n{}", end.2);
    assert_eq!(middle["stopped_at"]["writes"], end.1["arrival_proof"]["counter"], "{}", end.2);
    assert_eq!(end.1["arrival_proof"]["holds"], true, "{}", end.2);
}

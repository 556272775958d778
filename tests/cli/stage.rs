//! What every test needs: a directory that goes, processes that are stopped, nodes with guests.

use crate::guest::MemoryGuest;
use dwcp::runtime::control::{ControlOptions, ControlServer, serve_control};
use dwcp::{Node, NodeOptions, SecurityOptions};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

static NEXT: AtomicUsize = AtomicUsize::new(0);

/// A directory of this test's own.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::SeqCst);
        let path = std::env::temp_dir().join(format!("dwcp-cli-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Two nodes in this process, the first served on a control socket.
pub struct Pair {
    pub source: Node,
    pub destination: Node,
    pub server: ControlServer,
    pub scratch: Scratch,
}

impl Pair {
    pub fn new() -> Self {
        let scratch = Scratch::new();
        let node = |name: &str| {
            let listen = Some("127.0.0.1:0".parse().unwrap());
            Node::start(NodeOptions {
                name: name.to_owned(),
                listen,
                security: SecurityOptions::Plain,
                ..NodeOptions::default()
            })
            .unwrap()
        };
        let (source, destination) = (node("here"), node("there"));
        let options = ControlOptions {
            metrics_listen: Some("127.0.0.1:0".parse().unwrap()),
            log_dirs: vec![scratch.path("log")],
            ..Default::default()
        };
        let server = serve_control(&source, &scratch.path("s.sock"), options).unwrap();
        Self { source, destination, server, scratch }
    }

    /// A guest that runs here and is expected there.
    pub fn add_guest(&self, name: &str, pages: usize) -> (Arc<MemoryGuest>, Arc<MemoryGuest>) {
        let (from, to) = (MemoryGuest::new(pages, true), MemoryGuest::new(pages, false));
        (0..pages).filter(|page| page % 2 == 0).for_each(|page| {
            from.write(page, page as u8 | 1);
        });
        self.source.add_source(name, from.clone()).unwrap();
        self.destination.add_destination(name, to.clone()).unwrap();
        (from, to)
    }

    pub fn to(&self) -> String {
        self.destination.local_address().unwrap().to_string()
    }

    pub fn command(&self, args: &[&str]) -> Command {
        operator(self.server.socket(), args)
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs a command with `--json`, which must succeed.
    pub fn json(&self, args: &[&str]) -> Value {
        let output = self.run(&[&["--json"], args].concat());
        assert!(output.status.success(), "{args:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.server.stop();
        self.source.stop();
        self.destination.stop();
    }
}

/// The command line against a socket.
pub fn operator(socket: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dwcp-v3-cli"));
    command.env_clear().env("DWCP_SOCKET", socket).args(args).stdin(Stdio::null());
    command
}

/// Standard output as text, of a command that must have succeeded.
pub fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Standard error as text, of a command that must have failed with this code.
pub fn refusal(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A process that does not outlive its test.
pub struct Process(pub Child);

impl Process {
    pub fn spawn(command: &mut Command) -> Self {
        Self(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    pub fn signal(&self, signal: libc::c_int) {
        // SAFETY: kill takes no pointer; the child has not been waited for, so the id is its own.
        assert_eq!(unsafe { libc::kill(self.0.id() as libc::pid_t, signal) }, 0);
    }

    /// Waits for the end; gives the status and what was printed.
    pub fn finish(mut self) -> (ExitStatus, String, String) {
        let status = wait_until("the process ends", || self.0.try_wait().unwrap());
        let (mut out, mut err) = (String::new(), String::new());
        self.0.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        self.0.stderr.take().map(|mut pipe| pipe.read_to_string(&mut err).unwrap());
        (status, out, err)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// A `dwcpd` with a configuration of its own.
pub struct Daemon {
    pub process: Process,
    pub socket: PathBuf,
    pub metrics: String,
}

impl Daemon {
    /// Where it accepts migrations.
    pub fn address(&self) -> String {
        let status = stdout(&self.run(&["--json", "status"]));
        let status: Value = serde_json::from_str(&status).unwrap();
        status["node"]["listen"].as_str().unwrap().to_owned()
    }

    pub fn command(scratch: &Scratch, config: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dwcpd"));
        command.env_clear().arg("--config").arg(config).stdin(Stdio::null());
        command.arg("--socket").arg(scratch.path("s.sock"));
        command
    }

    /// Starts it and waits until it takes orders.
    pub fn start(scratch: &Scratch, config: &Path) -> Self {
        let mut process = Process::spawn(&mut Self::command(scratch, config));
        let mut line = String::new();
        let mut lines = BufReader::new(process.0.stderr.take().unwrap());
        lines.read_line(&mut line).unwrap();
        assert!(line.contains("accepts migrations at 127.0.0.1:"), "{line}");
        let metrics = line.trim().rsplit(' ').next().unwrap().to_owned();
        // The rest of its remarks goes nowhere, but the pipe stays open.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Self { process, socket: scratch.path("s.sock"), metrics }
    }

    pub fn run(&self, args: &[&str]) -> Output {
        operator(&self.socket, args).output().unwrap()
    }
}

/// A configuration that needs nothing outside the scratch directory.
pub fn write_config(scratch: &Scratch, path: &Path, more: &str) {
    let root = scratch.0.display();
    let text = format!(
        "# a node of the tests\nnode:\n  name: testling\n  listen: 127.0.0.1:0 # any port\n  \
         state_dir: {root}/state\n  metrics_listen: 127.0.0.1:0\n  log_dir: {root}/log\n\
         security:\n  transport: plain\n{more}"
    );
    std::fs::write(path, text).unwrap();
}

/// Asks until there is an answer. The limit only ends a test that hangs.
pub fn wait_until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

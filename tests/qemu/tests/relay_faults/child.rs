//! A node in a process of its own, to be killed; its QEMU lives on.
//!
//! The child is this test binary again, told by its environment what to be.

use crate::stage::{address, node, slow, wait_for_middle};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

const ROLE: &str = "DWCP_TEST_ROLE";
const QMP: &str = "DWCP_TEST_QMP";
const ADDRESS: &str = "DWCP_TEST_ADDRESS";
/// In front of every line for the parent, since the test harness prints too.
const MARK: &str = "child: ";

pub struct Child {
    process: std::process::Child,
    lines: Receiver<String>,
}

impl Child {
    /// A source that migrates to `to`; it says `middle` when it is there.
    pub fn source(qmp: &Path, to: &str) -> Self {
        Self::spawn("source", qmp, to)
    }

    /// A destination, and its address.
    pub fn destination(qmp: &Path) -> (Self, String) {
        let child = Self::spawn("destination", qmp, "");
        let address = child.expect("listening ");
        (child, address)
    }

    fn spawn(role: &str, qmp: &Path, address: &str) -> Self {
        let mut command = Command::new("/proc/self/exe");
        command.args(["--exact", "child::be_a_child", "--ignored", "--nocapture"]);
        command.env(ROLE, role).env(QMP, qmp).env(ADDRESS, address);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = channel();
        let output = BufReader::new(process.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = line.split_once(MARK).map(|(_, text)| sender.send(text.to_string()));
            }
        });
        Self { process, lines }
    }

    /// Waits for a line that begins so, and returns the rest of it.
    pub fn expect(&self, start: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(crate::stage::PATIENCE).expect(start);
            if let Some(rest) = line.strip_prefix(start) {
                return rest.to_string();
            }
        }
    }

    /// Kills it with no chance to say or write anything more.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn tell(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "\n{MARK}{line}");
    let _ = out.flush();
}

#[test]
#[ignore = "the child process of the tests in kills.rs"]
fn be_a_child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let (address_of_peer, qmp) = (std::env::var(ADDRESS).unwrap(), std::env::var_os(QMP).unwrap());
    let (node, qmp) = (node(&role), PathBuf::from(qmp));
    if role == "source" {
        node.attach_qemu("vm", &qmp, false).unwrap();
        wait_for_middle(&node.migrate("vm", &address_of_peer, slow()).unwrap());
        tell("middle");
    } else {
        node.attach_qemu("vm", &qmp, true).unwrap();
        tell(&format!("listening {}", address(&node)));
    }
    // Until the parent kills this process, or is gone itself.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    std::process::exit(0);
}

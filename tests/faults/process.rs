//! This test binary again, as a child process that is told by its environment what to be.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// In front of every line for the parent, since the test harness prints too.
const MARK: &str = "child: ";
/// How long it may take to say something.
const PATIENCE: Duration = Duration::from_secs(120);

pub struct Child {
    process: std::process::Child,
    lines: Receiver<String>,
}

impl Child {
    /// Runs the ignored test `child::be_a_child` in this environment.
    pub fn spawn(set_environment: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new("/proc/self/exe");
        command.args(["--exact", "child::be_a_child", "--ignored", "--nocapture"]);
        set_environment(&mut command);
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
            let line = self.lines.recv_timeout(PATIENCE).expect(start);
            if let Some(rest) = line.strip_prefix(start) {
                return rest.to_string();
            }
        }
    }

    /// Kills it with no chance to say or write anything more; gives what it had said and nobody has
    /// waited for.
    pub fn kill(&mut self) -> Vec<String> {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.lines.iter().collect()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Says something to the parent.
pub fn tell(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "\n{MARK}{line}");
    let _ = out.flush();
}

/// Until the parent kills this process, or is gone itself.
pub fn wait_for_the_end() -> ! {
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    std::process::exit(0);
}

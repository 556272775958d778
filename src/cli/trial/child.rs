//! A node's process as its trial sees it: started, told, asked, measured, killed.

use super::TrialError;
use super::guest::GuestSize;
use super::node::GUEST;
use crate::cli::client::Client;
use crate::runtime::proc_files::process_status;
use serde_json::{Value, json};
use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::Mutex;

/// What a node of a trial is started with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub listen: SocketAddr,
    /// A directory of its own.
    pub directory: PathBuf,
    /// Its identity; without one, connections are plain.
    pub identity_dir: Option<PathBuf>,
    /// Its one guest; without one, guests are made as they are ordered.
    pub guest: Option<GuestSize>,
}

/// A node that runs; it is killed when this is dropped.
pub struct TrialChild {
    name: String,
    process: Child,
    /// Whoever has it locked waits for an answer.
    orders: Mutex<BufReader<UnixStream>>,
    /// Its control socket.
    pub client: Client,
    /// Where it accepts migrations.
    pub address: String,
    /// Whether its kernel notes what its guest writes.
    pub is_tracked_by_kernel: bool,
    /// Whether its connections are over TLS.
    pub is_secured: bool,
    /// Where it keeps its records.
    pub state_dir: PathBuf,
}

/// What a process holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    /// Memory in RAM.
    pub memory_bytes: u64,
    /// Descriptors.
    pub descriptors: u64,
    /// Threads.
    pub threads: u64,
}

impl TrialChild {
    /// Starts a node by `command`, which is [`OwnProgram`] here or in another network, and
    /// waits until it takes orders.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(mut command: Command, setup: &Setup) -> Result<Self, TrialError> {
        let name = setup.name.clone();
        let failed = |source| TrialError::Start { name: name.clone(), source };
        std::fs::create_dir_all(&setup.directory).map_err(failed)?;
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(failed)?;
        let socket = setup.directory.join("control.sock");
        command
            .args(["trial-node", "--name", &setup.name])
            .args(["--listen", &setup.listen.to_string()])
            .arg("--control")
            .arg(&socket)
            .arg("--state-dir")
            .arg(setup.directory.join("state"))
            .args(setup.guest.iter().flat_map(|size| {
                let (bytes, writes) = (size.bytes.to_string(), size.writes_per_s.to_string());
                ["--guest-bytes".to_owned(), bytes, "--writes-per-s".to_owned(), writes]
            }))
            .args(
                setup
                    .identity_dir
                    .iter()
                    .flat_map(|dir| [OsStr::new("--identity-dir"), dir.as_ref()]),
            )
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            // Ctrl-C is for the trial, which ends its nodes in its own time.
            .process_group(0);
        let process = command.spawn().map_err(failed)?;
        // The child's end of the socket lives on in the command.
        drop(command);
        ours.set_nonblocking(true).map_err(failed)?;
        let orders = BufReader::new(UnixStream::from_std(ours).map_err(failed)?);
        let client = Client::with_patience(socket, PATIENCE);
        let mut child = Self {
            name: setup.name.clone(),
            process,
            orders: Mutex::new(orders),
            client,
            address: String::new(),
            is_tracked_by_kernel: false,
            is_secured: false,
            state_dir: setup.directory.join("state"),
        };
        let hello = child.answer(&mut *child.orders.lock().await, "its start").await?;
        child.address = hello["listen"].as_str().unwrap_or_default().to_owned();
        child.is_tracked_by_kernel = hello["is_tracked_by_kernel"] == true;
        child.is_secured = hello["is_secured"] == true;
        Ok(child)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Tells it to do something that has no answer but that it was done.
    ///
    /// # Errors
    /// It cannot, or is silent.
    pub async fn tell(&self, what: &str) -> Result<(), TrialError> {
        self.ask(json!({ "do": what })).await.map(drop)
    }

    /// Gives it an order; gives its answer.
    ///
    /// # Errors
    /// It cannot, or is silent.
    pub async fn ask(&self, order: Value) -> Result<Value, TrialError> {
        let line = format!("{order}\n");
        let silent =
            |source| TrialError::Silent { name: self.name.clone(), order: text(&order), source };
        let mut orders = self.orders.lock().await;
        orders.get_mut().write_all(line.as_bytes()).await.map_err(silent)?;
        self.answer(&mut orders, &text(&order)).await
    }

    async fn answer(
        &self,
        orders: &mut BufReader<UnixStream>,
        order: &str,
    ) -> Result<Value, TrialError> {
        let silent = |source| TrialError::Silent {
            name: self.name.clone(),
            order: order.to_owned(),
            source,
        };
        let mut line = String::new();
        let read = orders.read_line(&mut line);
        match tokio::time::timeout(PATIENCE, read).await {
            Ok(Ok(1..)) => {}
            Ok(Ok(0)) => return Err(silent(std::io::ErrorKind::UnexpectedEof.into())),
            Ok(Err(error)) => return Err(silent(error)),
            Err(_) => return Err(silent(std::io::ErrorKind::TimedOut.into())),
        }
        let answer: Value = serde_json::from_str(&line)
            .map_err(|error| silent(std::io::Error::other(error.to_string())))?;
        match answer["error"].as_str() {
            Some(error) => Err(TrialError::Refused {
                name: self.name.clone(),
                order: order.to_owned(),
                reason: error.to_owned(),
            }),
            None => Ok(answer),
        }
    }

    /// What it holds now.
    ///
    /// # Errors
    /// It has ended.
    pub fn usage(&self) -> Result<Usage, TrialError> {
        let process = PathBuf::from(format!("/proc/{}", self.process.id()));
        usage_of(&process).map_err(|source| TrialError::Measure { name: self.name.clone(), source })
    }

    /// Ends it at once, with no chance to say or write anything more.
    pub fn kill(&mut self) {
        // It may have ended already, which is what is wanted here.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Whether the guest is registered here, in whichever role.
    ///
    /// # Errors
    /// The node does not answer.
    pub async fn knows_guest(&self) -> Result<bool, TrialError> {
        let guests = self.client.get("/v3/guests").await?;
        let all = guests["guests"].as_array().into_iter().flatten();
        Ok(all.into_iter().any(|guest| guest["name"] == GUEST))
    }
}

impl Drop for TrialChild {
    fn drop(&mut self) {
        self.kill();
    }
}

/// This program once more: how it was called, less the command that runs and its arguments.
#[derive(Clone, Debug)]
pub struct OwnProgram {
    name: OsString,
    before: Vec<OsString>,
}

impl OwnProgram {
    /// The file to run.
    pub const PATH: &'static str = "/proc/self/exe";

    /// How this process was called.
    ///
    /// # Errors
    /// By another program's function, not as a program.
    pub fn find() -> Result<Self, TrialError> {
        let words = std::fs::read("/proc/self/cmdline").map_err(TrialError::OwnProgram)?;
        let words = words.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec()));
        let words: Vec<OsString> = words.collect();
        Self::of_words(&words).ok_or_else(|| {
            let text = "its command line names no trial; run dwcp-v3-cli itself";
            TrialError::OwnProgram(std::io::Error::other(text))
        })
    }

    /// `dwcp-v3-cli --json soak-test`, `python3 -m dwcp soak-test`.
    fn of_words(words: &[OsString]) -> Option<Self> {
        let is_command = |word: &OsString| TRIALS.iter().any(|trial| word == trial);
        let at = words.iter().position(is_command)?;
        let (name, before) = words[..at].split_first()?;
        // Options of the command line's own come before the command too.
        let is_option = |word: &&OsString| word.as_encoded_bytes().starts_with(b"--");
        let before = before.iter().take_while(|word| !is_option(word)).cloned().collect();
        Some(Self { name: name.clone(), before })
    }

    /// Lets a command of [`Self::PATH`] go on as this program.
    pub fn complete(&self, mut command: Command) -> Command {
        // Python finds its packages by its name.
        command.arg0(&self.name).args(&self.before);
        command
    }
}

fn usage_of(process: &Path) -> std::io::Result<Usage> {
    Ok(Usage {
        memory_bytes: process_status(process, "VmRSS")?,
        descriptors: std::fs::read_dir(process.join("fd"))?.count() as u64,
        threads: process_status(process, "Threads")?,
    })
}

fn text(order: &Value) -> String {
    order["do"].as_str().unwrap_or_default().to_owned()
}

/// Commands that start nodes of their own.
const TRIALS: [&str; 3] = ["soak-test", "chaos-test", "rollout"];
/// How long an order or a request may take; the longest compares the guest's memory.
const PATIENCE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found_however_it_was_called() {
        let found = |line: &str| {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            let found = OwnProgram::of_words(&words)?;
            let words = std::iter::once(&found.name).chain(&found.before);
            Some(words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" "))
        };
        let cases = [
            ("dwcp-v3-cli soak-test --duration 1s", Some("dwcp-v3-cli")),
            ("./dwcp-v3-cli --json --socket x chaos-test", Some("./dwcp-v3-cli")),
            ("python3 -m dwcp soak-test", Some("python3 -m dwcp")),
            ("python3 /usr/bin/dwcp-v3-cli --json soak-test", Some("python3 /usr/bin/dwcp-v3-cli")),
            ("dwcp-v3-cli --json rollout drill --repeats 2", Some("dwcp-v3-cli")),
            ("hypervisor --verbose", None),
            ("soak-test", None),
        ];
        for (line, expected) in cases {
            assert_eq!(found(line).as_deref(), expected, "{line}");
        }
    }

    #[test]
    fn this_process_is_measured() {
        let usage = usage_of(Path::new("/proc/self")).unwrap();
        assert!(usage.memory_bytes > 1 << 20 && usage.descriptors > 2 && usage.threads > 0);
        assert!(usage_of(Path::new("/proc/0")).is_err());
    }
}

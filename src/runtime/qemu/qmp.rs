//! QEMU's control protocol, one command at a time: JSON lines over a unix socket, with a bound on
//! the length of a line, on the time for an answer and on the events kept.
//!
//! Every command carries a number, so an answer that comes after its time is told apart from the
//! next one. Where QEMU has a thread of its own for this, commands that it carries out there (out of band)
//! are taken even while its main loop waits for something. After an error that leaves the stream in doubt the socket is closed, and every later
//! call says so.

use super::line::{LineError, LineStream};
use crate::base::limits::{MAX_QMP_EVENTS, MAX_QMP_LINE_BYTES};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// So much of a strange line goes into the error's text.
const EXCERPT_BYTES: usize = 80;
/// QEMU's name for commands that it carries out beside its main loop.
const OOB: &str = "oob";
/// QEMU reads nothing more, also nothing out of band, once eight commands wait for its main loop.
const MAX_UNANSWERED: usize = 4;

/// Why QEMU could not be asked, or what it answered.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// Nobody listens there, or it is full.
    #[error("cannot connect to the QMP socket {}: {source}", .path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The peer is no QEMU, or does not follow its protocol.
    #[error("this is no QMP socket: {reason}")]
    NotQmp {
        /// What it did.
        reason: String,
    },
    /// The time ran out. A command may still take effect.
    #[error("no answer to {waiting_for} within {after:?}")]
    TimedOut {
        /// The command, or the greeting.
        waiting_for: String,
        /// The time allowed.
        after: Duration,
    },
    /// QEMU greets, and then its main loop does nothing.
    #[error(
        "QEMU greets and answers nothing within {after:?}: its main loop waits for something, such as a page \
         of a guest that is paused in post-copy"
    )]
    Stuck {
        /// The time allowed.
        after: Duration,
    },
    /// QEMU ended, or the conversation broke earlier.
    #[error("the QMP connection is closed, asked for {waiting_for}")]
    Closed {
        /// The command, or the greeting.
        waiting_for: String,
    },
    /// The socket failed.
    #[error("the QMP connection failed, asked for {waiting_for}: {source}")]
    Io {
        /// The command, or the greeting.
        waiting_for: String,
        /// Why.
        source: io::Error,
    },
    /// QEMU refused; both texts are its own.
    #[error("QEMU refused {command}: {class}: {desc}")]
    Refused {
        /// The command.
        command: String,
        /// Such as `GenericError`.
        class: String,
        /// The reason in words.
        desc: String,
    },
    /// The answer lacks something.
    #[error("QEMU's answer to {command} has no {missing}: {answer}")]
    Answer {
        /// The command.
        command: String,
        /// What it lacks.
        missing: String,
        /// The beginning of the answer.
        answer: String,
    },
}

/// Which QEMU this is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct QemuVersion {
    /// 7 of 7.2.1.
    pub major: u32,
    /// 2 of 7.2.1.
    pub minor: u32,
    /// 1 of 7.2.1.
    pub micro: u32,
    /// The distribution's package, if it says so.
    #[serde(skip)]
    pub package: String,
}

impl fmt::Display for QemuVersion {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}.{}", self.major, self.minor, self.micro)?;
        match self.package.trim() {
            "" => Ok(()),
            package => write!(out, " ({package})"),
        }
    }
}

/// Something happened in QEMU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Such as `MIGRATION` or `STOP`.
    pub name: String,
    /// Depends on the name.
    pub data: Value,
    /// QEMU's clock, microseconds since 1970; zero if it does not know.
    pub time_us: u64,
}

/// A conversation with one QEMU.
#[derive(Debug)]
pub struct Qmp {
    path: PathBuf,
    lines: LineStream,
    version: QemuVersion,
    /// QEMU takes commands out of band.
    has_oob: bool,
    command_timeout: Duration,
    events: VecDeque<Event>,
    dropped_events: u64,
    last_id: u64,
    /// Commands whose time ran out and that QEMU has not answered since.
    unanswered: usize,
    is_broken: bool,
}

impl Qmp {
    /// Connects, reads the greeting and leaves capability negotiation. Each of the three may take
    /// `timeout`, and so may every command later.
    ///
    /// # Errors
    /// Nobody listens, or the peer is no QEMU.
    pub fn connect(path: &Path, timeout: Duration) -> Result<Self, QmpError> {
        let socket = dial(path, timeout)
            .map_err(|source| QmpError::Connect { path: path.to_owned(), source })?;
        let mut lines = LineStream::new(socket);
        let (version, has_oob) = read_greeting(&mut lines, timeout)?;
        let mut qmp = Self {
            path: path.to_owned(),
            lines,
            version,
            has_oob,
            command_timeout: timeout,
            events: VecDeque::new(),
            dropped_events: 0,
            last_id: 0,
            unanswered: 0,
            is_broken: false,
        };
        let enabled = if has_oob { json!({ "enable": [OOB] }) } else { Value::Null };
        match qmp.execute("qmp_capabilities", enabled) {
            Err(QmpError::TimedOut { after, .. }) => Err(QmpError::Stuck { after }),
            answer => answer.map(|_| qmp),
        }
    }

    /// Whether the conversation broke, so that every call fails.
    pub fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Whether nobody listens at the socket any more.
    pub fn is_refused(&self) -> bool {
        let dialled = dial(&self.path, self.command_timeout);
        dialled.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    }

    /// Begins the conversation anew; answers and events of the old one are lost.
    ///
    /// # Errors
    /// As [`Self::connect`]; it stays broken.
    pub fn reconnect(&mut self) -> Result<(), QmpError> {
        self.give_up();
        *self = Self::connect(&self.path, self.command_timeout)?;
        Ok(())
    }

    /// Which QEMU this is, from its greeting.
    pub fn version(&self) -> &QemuVersion {
        &self.version
    }

    /// How long a command may take from now on.
    pub fn set_command_timeout(&mut self, timeout: Duration) {
        self.command_timeout = timeout;
    }

    /// Events lost because nobody asked for them in time.
    pub fn dropped_events(&self) -> u64 {
        self.dropped_events
    }

    /// Has QEMU do something. `arguments` is an object, or null for none.
    ///
    /// # Errors
    /// QEMU refuses, is gone, or takes too long.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        self.execute_within(command, arguments, self.command_timeout)
    }

    /// As [`Self::execute`], with a time limit of its own.
    ///
    /// # Errors
    /// As [`Self::execute`].
    pub fn execute_within(
        &mut self,
        command: &str,
        arguments: Value,
        timeout: Duration,
    ) -> Result<Value, QmpError> {
        self.ask_in("execute", command, arguments, timeout)
    }

    /// As [`Self::execute`], for a command that QEMU carries out beside its main loop where it can.
    ///
    /// # Errors
    /// As [`Self::execute`].
    pub fn execute_out_of_band(
        &mut self,
        command: &str,
        arguments: Value,
    ) -> Result<Value, QmpError> {
        let how = if self.has_oob { "exec-oob" } else { "execute" };
        self.ask_in(how, command, arguments, self.command_timeout)
    }

    fn ask_in(
        &mut self,
        how: &str,
        command: &str,
        arguments: Value,
        timeout: Duration,
    ) -> Result<Value, QmpError> {
        let wait = Wait::new(command, timeout);
        while how == "execute" && self.unanswered >= MAX_UNANSWERED {
            let message = self.read(&wait)?;
            self.take(&message);
        }
        self.send((how, command), arguments, &wait)?;
        loop {
            let mut message = match self.read(&wait) {
                Ok(message) => message,
                Err(error) => {
                    self.unanswered += usize::from(matches!(error, QmpError::TimedOut { .. }));
                    return Err(error);
                }
            };
            if self.is_answer(&message) {
                return outcome(command, &mut message);
            }
            self.take(&message);
        }
    }

    /// Drops the events that were not handed out.
    pub fn forget_events(&mut self) {
        self.events.clear();
    }

    /// Whether QEMU owes answers, because its main loop waits for something.
    pub fn is_behind(&self) -> bool {
        self.unanswered > 0
    }

    /// An event, or the answer to a command that was given up.
    fn take(&mut self, message: &Map<String, Value>) {
        match message.contains_key("event") {
            true => self.keep_event(message),
            false => self.unanswered = self.unanswered.saturating_sub(1),
        }
    }

    /// The oldest event that was not yet handed out; none if none comes in time.
    ///
    /// # Errors
    /// QEMU is gone.
    pub fn next_event(&mut self, timeout: Duration) -> Result<Option<Event>, QmpError> {
        let wait = Wait::new("an event", timeout);
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            match self.read(&wait) {
                Ok(message) => self.take(&message),
                Err(QmpError::TimedOut { .. }) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    fn send(
        &mut self,
        (how, command): (&str, &str),
        arguments: Value,
        wait: &Wait,
    ) -> Result<(), QmpError> {
        if self.is_broken {
            return Err(wait.error(LineError::Closed));
        }
        self.last_id += 1;
        let mut request = json!({ how: command, "id": self.last_id });
        if !arguments.is_null() {
            request["arguments"] = arguments;
        }
        let line = format!("{request}\n");
        // Half a command cannot be taken back.
        self.lines.write(line.as_bytes(), wait.deadline).map_err(|error| self.fail(error, wait))
    }

    /// The next message; empty lines are none.
    fn read(&mut self, wait: &Wait) -> Result<Map<String, Value>, QmpError> {
        if self.is_broken {
            return Err(wait.error(LineError::Closed));
        }
        loop {
            let line = match self.lines.read(wait.deadline) {
                Ok(line) => line,
                Err(LineError::TimedOut) => return Err(wait.error(LineError::TimedOut)),
                Err(error) => return Err(self.fail(error, wait)),
            };
            if line.trim_ascii().is_empty() {
                continue;
            }
            return parse(&line).inspect_err(|_| self.give_up());
        }
    }

    /// An error without a number answers a line that QEMU could not read: ours.
    fn is_answer(&self, message: &Map<String, Value>) -> bool {
        let is_event = message.contains_key("event");
        !is_event
            && message.get("id").map_or(message.contains_key("error"), |id| *id == self.last_id)
    }

    fn keep_event(&mut self, message: &Map<String, Value>) {
        if self.events.len() == MAX_QMP_EVENTS {
            self.events.pop_front();
            self.dropped_events += 1;
        }
        self.events.push_back(event_of(message));
    }

    fn fail(&mut self, error: LineError, wait: &Wait) -> QmpError {
        self.give_up();
        wait.error(error)
    }

    fn give_up(&mut self) {
        self.is_broken = true;
        self.lines.close();
    }
}

/// What is waited for, and until when.
struct Wait {
    what: String,
    timeout: Duration,
    deadline: Instant,
}

impl Wait {
    fn new(what: &str, timeout: Duration) -> Self {
        Self { what: what.to_owned(), timeout, deadline: Instant::now() + timeout }
    }

    fn error(&self, error: LineError) -> QmpError {
        let waiting_for = self.what.clone();
        match error {
            LineError::TimedOut => QmpError::TimedOut { waiting_for, after: self.timeout },
            LineError::Closed => QmpError::Closed { waiting_for },
            LineError::Io(source) => QmpError::Io { waiting_for, source },
            LineError::TooLong => not_qmp(format!("a line of over {MAX_QMP_LINE_BYTES} bytes")),
        }
    }
}

/// A unix socket connects at once or waits for room in the listener's queue: by the write timeout.
fn dial(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    socket.set_write_timeout(Some(timeout))?;
    socket.connect(&socket2::SockAddr::unix(path)?)?;
    Ok(OwnedFd::from(socket).into())
}

/// Which QEMU it is, and whether it takes commands out of band.
fn read_greeting(
    lines: &mut LineStream,
    timeout: Duration,
) -> Result<(QemuVersion, bool), QmpError> {
    let wait = Wait::new("its greeting", timeout);
    let line = lines.read(wait.deadline).map_err(|error| match error {
        LineError::TimedOut => not_qmp(format!(
            "no greeting within {timeout:?}; QEMU serves one client of a QMP socket at a time"
        )),
        LineError::Closed => not_qmp("closed before its greeting".to_owned()),
        other => wait.error(other),
    })?;
    let message = parse(&line)?;
    let said = message.get("QMP").and_then(|greeting| greeting.get("version"));
    let Some(said) = said else {
        return Err(not_qmp(format!("it greets with {}", excerpt(&line))));
    };
    let version = QemuVersion::deserialize(&said["qemu"]);
    let version = version.map_err(|error| not_qmp(format!("version {said}: {error}")))?;
    let offered = message["QMP"]["capabilities"].as_array();
    let has_oob = offered.is_some_and(|offered| offered.iter().any(|name| name == OOB));
    Ok((QemuVersion { package: text_of(said, "package"), ..version }, has_oob))
}

fn parse(line: &[u8]) -> Result<Map<String, Value>, QmpError> {
    match serde_json::from_slice(line) {
        Ok(Value::Object(message)) => Ok(message),
        Ok(_) => Err(not_qmp(format!("it says {}", excerpt(line)))),
        Err(error) => Err(not_qmp(format!("it says {}: {error}", excerpt(line)))),
    }
}

fn outcome(command: &str, message: &mut Map<String, Value>) -> Result<Value, QmpError> {
    if let Some(error) = message.get("error") {
        let (class, desc) = (text_of(error, "class"), text_of(error, "desc"));
        return Err(QmpError::Refused { command: command.to_owned(), class, desc });
    }
    message.remove("return").ok_or_else(|| QmpError::Answer {
        command: command.to_owned(),
        missing: "`return`".to_owned(),
        answer: excerpt(Value::from(message.clone()).to_string().as_bytes()),
    })
}

fn event_of(message: &Map<String, Value>) -> Event {
    let time = |unit: &str| message.get("timestamp").and_then(|time| time[unit].as_u64());
    let seconds = time("seconds").unwrap_or(0);
    Event {
        name: message.get("event").and_then(Value::as_str).unwrap_or_default().to_owned(),
        data: message.get("data").cloned().unwrap_or_default(),
        time_us: seconds
            .saturating_mul(1_000_000)
            .saturating_add(time("microseconds").unwrap_or(0)),
    }
}

fn text_of(object: &Value, key: &str) -> String {
    object[key].as_str().unwrap_or_default().to_owned()
}

fn not_qmp(reason: String) -> QmpError {
    QmpError::NotQmp { reason }
}

/// The beginning of foreign bytes, quoted so that a terminal survives it.
pub(super) fn excerpt(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(EXCERPT_BYTES)];
    let dots = if shown.len() < bytes.len() { "..." } else { "" };
    format!("`{}{dots}`", shown.escape_ascii())
}

#[cfg(test)]
#[path = "qmp_tests.rs"]
mod tests;

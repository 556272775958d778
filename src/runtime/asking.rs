//! Asking other nodes about themselves: a question and its answer, on a connection of its own to each.

use crate::base::Time;
use crate::runtime::channel::Channel;
use crate::runtime::clock::now;
use crate::runtime::connection::{ConnectionError, FrameReader, FrameWriter};
use crate::runtime::dial::connect;
use crate::runtime::lock::lock;
use crate::runtime::node::check_name;
use crate::runtime::security::{Security, check_claim};
use crate::runtime::sys::spawn_named;
use crate::wire::{Frame, FrameKind, HelloReply, WireError};
use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long a node may keep silent.
const SILENCE: Duration = Duration::from_secs(5);
/// How long all of them may take.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// How often it is looked at whether they have answered.
const LOOK: Duration = Duration::from_millis(10);

/// What a node tells on being asked.
pub trait Answer: Sized + Send + 'static {
    /// The frame that asks.
    const QUESTION: FrameKind;
    /// The frame that answers.
    const KIND: FrameKind;
    /// What it is about, for people.
    const SUBJECT: &'static str;

    /// Reads the frame's payload.
    ///
    /// # Errors
    /// Anything out of bounds.
    fn decode(payload: &[u8]) -> Result<Self, WireError>;

    /// The name that the node gives itself.
    fn node(&self) -> &str;

    /// Checks what the decoder lets pass.
    ///
    /// # Errors
    /// What cannot be.
    fn check(&self) -> Result<(), String>;
}

/// A node did not tell what it was asked.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("{0}")]
    Connect(ConnectionError),
    #[error("it does not tell this node of {0}: {1}")]
    Refused(&'static str, String),
    #[error("it closed the connection: an older version, or it is being stopped")]
    Closed,
    #[error("its answer was not whole in time")]
    Late,
    #[error(transparent)]
    Connection(ConnectionError),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("what it tells cannot be: {0}")]
    Nonsense(String),
}

/// Asks nodes at these addresses, all at a time; in their order, what each tells, or why it does not.
pub fn ask_all<A: Answer>(
    addresses: &[String],
    security: &Arc<Security>,
    patience: Duration,
) -> Vec<Result<A, String>> {
    let until = now() + patience;
    let ask = |address: &String| Asked::start(address, security.clone());
    let asked: Vec<Asked<A>> = addresses.iter().map(ask).collect();
    asked.into_iter().map(|asked| asked.finish(until).map_err(|error| error.to_string())).collect()
}

/// One node that is being asked, on a thread of its own.
struct Asked<A> {
    socket: Arc<Mutex<Option<Arc<TcpStream>>>>,
    thread: io::Result<JoinHandle<Result<A, AskError>>>,
}

impl<A: Answer> Asked<A> {
    fn start(address: &str, security: Arc<Security>) -> Self {
        let socket = Arc::new(Mutex::new(None));
        let (opened, to) = (socket.clone(), address.to_owned());
        let thread = spawn_named("dwcp-ask", move || ask(&to, &security, &opened));
        Self { socket, thread }
    }

    /// A node that answers byte by byte is cut off in the end.
    fn finish(self, until: Time) -> Result<A, AskError> {
        let mut was_cut_off = false;
        let thread = self.thread?;
        while !thread.is_finished() {
            // Again and again: it may be connecting still.
            if now() >= until
                && let Some(socket) = lock(&self.socket).as_ref()
            {
                // An error means that it is closed already.
                let _ = socket.shutdown(Shutdown::Both);
                was_cut_off = true;
            }
            std::thread::sleep(LOOK);
        }
        let ended = thread.join();
        let told = ended
            .unwrap_or_else(|_| Err(AskError::Nonsense("it ended the asking thread".to_owned())));
        told.map_err(|error| if was_cut_off { AskError::Late } else { error })
    }
}

fn ask<A: Answer>(
    address: &str,
    security: &Security,
    opened: &Mutex<Option<Arc<TcpStream>>>,
) -> Result<A, AskError> {
    let socket = Arc::new(connect(address, security).map_err(AskError::Connect)?);
    *lock(opened) = Some(socket.clone());
    let channel = security.dial(socket.clone(), address, SILENCE);
    let Channel { reader, writer, peer } =
        channel.map_err(|error| AskError::Connect(error.into()))?;
    socket.set_read_timeout(Some(SILENCE))?;
    socket.set_write_timeout(Some(SILENCE))?;
    let question = Frame { kind: A::QUESTION, payload: Vec::new() };
    FrameWriter::new(writer).open(&question)?;
    let answer = read_answer::<A>(&mut FrameReader::new(reader)).map_err(|error| match error {
        ConnectionError::Closed | ConnectionError::Cut => AskError::Closed,
        error => AskError::Connection(error),
    })?;
    if answer.kind == FrameKind::HelloReply {
        let reason = match HelloReply::decode(&answer.payload)? {
            HelloReply::Refuse { reason, .. } => reason,
            HelloReply::Accept { .. } => "it takes this for a migration".to_owned(),
        };
        let reason = reason.chars().filter(|char| !char.is_control()).collect();
        return Err(AskError::Refused(A::SUBJECT, reason));
    }
    let told = A::decode(&answer.payload)?;
    check_claim(peer.as_deref(), told.node())
        .map_err(|error| AskError::Nonsense(error.to_string()))?;
    // These texts go to terminals.
    check_name(told.node()).map_err(|error| AskError::Nonsense(error.to_string()))?;
    told.check().map_err(AskError::Nonsense)?;
    Ok(told)
}

fn read_answer<A: Answer>(reader: &mut FrameReader) -> Result<Frame, ConnectionError> {
    reader.preface()?;
    reader.expect_or(A::KIND, &[FrameKind::HelloReply])
}

impl From<io::Error> for AskError {
    fn from(error: io::Error) -> Self {
        Self::Connect(error.into())
    }
}

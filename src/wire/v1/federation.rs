//! What v1 clusters say to each other: a handshake in ASCII, then messages.
//!
//! The caller announces itself and its capabilities; the answer begins with `OK` and has none, so
//! nothing is negotiated. Neither has a length or an end: the announcement ends with the ten digits of
//! its Unix seconds (they have ten from 2001 to 2286), and v1 takes for the answer what one read gives.
//!
//! Messages have a header of 12 bytes where v1 sends them through a stream (F12), and of 16 where it
//! sends them directly (F16d): keep-alives and requests of the whole state always, the others when its
//! streams are switched off. Both come on one connection. What tells them apart is the kind, and for the
//! other kinds the third word: seconds in F12, the upper half of seconds in F16d, which is zero.
//!
//! v1 lets its streams write to one socket at a time without a common lock, so that frames can arrive
//! torn; such a connection fails here. It also cuts a baseline into four messages without saying which
//! is which; they are given as they come.

use crate::wire::cursor::{Reader, WireError};
use crate::wire::v1::frames::{self, Header, payload_length};

/// The longest announcement that is read; v1 writes 51 bytes.
pub const MAX_HANDSHAKE_BYTES: usize = 512;
/// Most bytes of an answer: v1 reads no more.
pub const MAX_REPLY_BYTES: usize = 1024;
/// How an answer begins that lets the caller go on.
pub const REPLY: &[u8; 2] = b"OK";
/// The one version there is.
pub const VERSION: &str = "1.0";

/// What a cluster announces. v1 always writes the cluster `local` and the same three capabilities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// The caller's name.
    pub cluster_id: String,
    /// What it can do.
    pub capabilities: Vec<String>,
    /// When it called.
    pub unix_seconds: u64,
}

/// How a message is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Through a stream of v1's where v1 would do so, which is its default.
    Streams,
    /// Always directly, as v1 does with its streams switched off.
    Direct,
}

/// What is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The connection is wanted still.
    KeepAlive,
    /// A state, in bytes that only its owner understands.
    StateSync(Vec<u8>),
    /// Entries of a log.
    Consensus(Vec<LogEntry>),
    /// A part of a state to which later ones might refer.
    Baseline(Vec<u8>),
    /// The whole state, please.
    FullSync,
}

/// An entry of a consensus log; v1 drops its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// The term of its leader.
    pub term: u64,
    /// Its place in the log.
    pub index: u64,
    /// What was agreed on.
    pub data: Vec<u8>,
}

/// What precedes a message's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageHeader {
    kind: u32,
    payload_bytes: u32,
    /// When it was sent.
    pub unix_seconds: u64,
}

/// Why a handshake was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// A field is not what v1 writes.
    #[error("handshake: {what} is {value:?}")]
    Field {
        /// The field.
        what: &'static str,
        /// Its value.
        value: String,
    },
    /// It does not end.
    #[error("handshake is over {MAX_HANDSHAKE_BYTES} bytes long")]
    TooLong,
}

impl Handshake {
    /// What v1 announces.
    pub fn of_v1(unix_seconds: u64) -> Self {
        let capabilities = ["HDE", "AMST", "DELTA"].map(String::from).to_vec();
        Self { cluster_id: "local".into(), capabilities, unix_seconds }
    }

    /// The bytes.
    ///
    /// # Errors
    /// [`HandshakeError`] for what would not read back the same.
    pub fn encode(&self) -> Result<Vec<u8>, HandshakeError> {
        let (name, capabilities) = (&self.cluster_id, self.capabilities.join(" "));
        let text = format!("{MAGIC}|{VERSION}|{name}|[{capabilities}]|{}", self.unix_seconds);
        match Self::decode(text.as_bytes())? {
            same if same == *self => Ok(text.into_bytes()),
            _ => Err(HandshakeError::Field { what: "capability list", value: capabilities }),
        }
    }

    /// Reads an announcement, all of it.
    ///
    /// # Errors
    /// [`HandshakeError`] for anything that v1 would not write.
    pub fn decode(bytes: &[u8]) -> Result<Self, HandshakeError> {
        if bytes.len() > MAX_HANDSHAKE_BYTES {
            return Err(HandshakeError::TooLong);
        }
        let refuse = |what, value: &str| HandshakeError::Field { what, value: value.into() };
        let lossy = || String::from_utf8_lossy(bytes);
        let text = std::str::from_utf8(bytes).map_err(|_| refuse("text", &lossy()))?;
        if let Some(letter) = text.chars().find(|letter| !(' '..='~').contains(letter)) {
            return Err(refuse("letter", &letter.to_string()));
        }
        let fields: Vec<_> = text.split('|').collect();
        let [magic, version, cluster_id, capabilities, seconds] = fields[..] else {
            return Err(refuse("count of fields", &fields.len().to_string()));
        };
        if (magic, version) != (MAGIC, VERSION) {
            return Err(refuse("opening", &format!("{magic}|{version}")));
        }
        let list = capabilities.strip_prefix('[').and_then(|list| list.strip_suffix(']'));
        let list = list.ok_or_else(|| refuse("capability list", capabilities))?;
        let named: Vec<_> = list.split(' ').map(String::from).collect();
        let capabilities = if list.is_empty() { Vec::new() } else { named };
        if capabilities.iter().any(String::is_empty) {
            return Err(refuse("capability list", list));
        }
        let digits = seconds.len() == SECONDS_DIGITS && !seconds.starts_with('0');
        let digits = digits && seconds.bytes().all(|digit| digit.is_ascii_digit());
        let unix_seconds = seconds.parse().ok().filter(|_| digits);
        let unix_seconds = unix_seconds.ok_or_else(|| refuse("Unix seconds", seconds))?;
        Ok(Self { cluster_id: cluster_id.into(), capabilities, unix_seconds })
    }

    /// Whether the announcement that begins so is whole.
    ///
    /// # Errors
    /// [`HandshakeError`] as soon as no announcement can begin so.
    pub(super) fn is_whole(bytes: &[u8]) -> Result<bool, HandshakeError> {
        let opening = &OPENING.as_bytes()[..bytes.len().min(OPENING.len())];
        if !bytes.starts_with(opening) {
            let value = String::from_utf8_lossy(bytes).into_owned();
            return Err(HandshakeError::Field { what: "opening", value });
        }
        if bytes.len() > MAX_HANDSHAKE_BYTES {
            return Err(HandshakeError::TooLong);
        }
        let seconds = bytes.splitn(5, |byte| *byte == b'|').nth(4);
        Ok(seconds.is_some_and(|seconds| seconds.len() == SECONDS_DIGITS))
    }
}

impl Header for MessageHeader {
    fn header_bytes(known: &[u8]) -> usize {
        match (known.first_chunk::<4>(), known.get(8..SHORT_HEADER_BYTES)) {
            (Some(kind), Some(word)) if is_direct(u32::from_be_bytes(*kind), word) => {
                LONG_HEADER_BYTES
            }
            _ => SHORT_HEADER_BYTES,
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let kind = reader.u32_be("message's kind")?;
        if kind > FULL_SYNC {
            let (what, value) = ("message's kind", kind.into());
            return Err(WireError::Range { what, value, allowed: "0 to 4" });
        }
        let payload_bytes = payload_length("message", reader.u32_be("message's length")?)?;
        let unix_seconds = match bytes.len() {
            SHORT_HEADER_BYTES => reader.u32_be("message's seconds")?.into(),
            _ => reader.u64_be("message's seconds")?,
        };
        reader.end("message's header")?;
        Ok(Self { kind, payload_bytes, unix_seconds })
    }

    fn payload_bytes(&self) -> u32 {
        self.payload_bytes
    }
}

impl MessageHeader {
    /// What the payload says.
    ///
    /// # Errors
    /// [`WireError`] for a payload that v1 would not write under this header.
    pub fn message(&self, payload: Vec<u8>) -> Result<Message, WireError> {
        match self.kind {
            KEEP_ALIVE => fixed("keep-alive", KEEP_ALIVE_TEXT, &payload, Message::KeepAlive),
            STATE_SYNC => Ok(Message::StateSync(payload)),
            CONSENSUS => LogEntry::decode_batch(&payload).map(Message::Consensus),
            BASELINE => Ok(Message::Baseline(payload)),
            _ => fixed("request of the whole state", FULL_SYNC_TEXT, &payload, Message::FullSync),
        }
    }
}

impl Message {
    /// Header and payload.
    ///
    /// # Errors
    /// [`WireError`] for a payload that is over the limit, and for seconds that do not fit the header or
    /// would make it look like the other kind.
    pub fn encode(&self, framing: Framing, unix_seconds: u64) -> Result<Vec<u8>, WireError> {
        let (kind, payload) = match self {
            Self::KeepAlive => (KEEP_ALIVE, KEEP_ALIVE_TEXT.to_vec()),
            Self::StateSync(state) => (STATE_SYNC, state.clone()),
            Self::Consensus(entries) => (CONSENSUS, LogEntry::encode_batch(entries)?),
            Self::Baseline(state) => (BASELINE, state.clone()),
            Self::FullSync => (FULL_SYNC, FULL_SYNC_TEXT.to_vec()),
        };
        let (value, limit) = (payload.len() as u64, frames::MAX_PAYLOAD_BYTES.into());
        if value > limit {
            return Err(WireError::TooLong { what: "message", value, limit });
        }
        let mut bytes = [kind.to_be_bytes(), (value as u32).to_be_bytes()].concat();
        let half = (unix_seconds >> 32) as u32;
        let always_direct = is_direct(kind, &[1]);
        if always_direct || (framing == Framing::Direct && half == 0) {
            bytes.extend_from_slice(&unix_seconds.to_be_bytes());
        } else if framing == Framing::Streams && half == 0 && unix_seconds > 0 {
            bytes.extend_from_slice(&(unix_seconds as u32).to_be_bytes());
        } else {
            let (what, value) = ("message's seconds", unix_seconds);
            return Err(WireError::Range { what, value, allowed: "1 to 4294967295" });
        }
        bytes.extend_from_slice(&payload);
        Ok(bytes)
    }
}

impl LogEntry {
    /// Reads a batch: entries up to the end, without a count.
    ///
    /// # Errors
    /// [`WireError::Truncated`] for an entry that ends early.
    pub fn decode_batch(bytes: &[u8]) -> Result<Vec<Self>, WireError> {
        let (mut reader, mut entries) = (Reader::new(bytes), Vec::new());
        while reader.left() > 0 {
            let term = reader.u64_be("log entry's term")?;
            let index = reader.u64_be("log entry's index")?;
            let length = reader.u32_be("log entry's length")? as usize;
            let data = reader.bytes("log entry's data", length)?.to_vec();
            entries.push(Self { term, index, data });
        }
        Ok(entries)
    }

    /// The bytes of a batch.
    ///
    /// # Errors
    /// [`WireError::TooLong`] for an entry longer than a message.
    pub fn encode_batch(entries: &[Self]) -> Result<Vec<u8>, WireError> {
        let mut bytes = Vec::new();
        for entry in entries {
            let (value, limit) = (entry.data.len() as u64, frames::MAX_PAYLOAD_BYTES.into());
            if value > limit {
                return Err(WireError::TooLong { what: "log entry's data", value, limit });
            }
            bytes.extend_from_slice(&entry.term.to_be_bytes());
            bytes.extend_from_slice(&entry.index.to_be_bytes());
            bytes.extend_from_slice(&(value as u32).to_be_bytes());
            bytes.extend_from_slice(&entry.data);
        }
        Ok(bytes)
    }
}

/// Whether a header with this kind and this third word has 16 bytes.
fn is_direct(kind: u32, third_word: &[u8]) -> bool {
    matches!(kind, KEEP_ALIVE | FULL_SYNC) || third_word.iter().all(|byte| *byte == 0)
}

/// A message whose payload is always the same.
fn fixed(
    what: &'static str,
    expected: &[u8],
    payload: &[u8],
    message: Message,
) -> Result<Message, WireError> {
    if payload == expected {
        return Ok(message);
    }
    let same = payload.iter().zip(expected).take_while(|(found, due)| found == due).count();
    let value = payload.get(same).copied().unwrap_or_default().into();
    Err(WireError::Range { what, value, allowed: "the letters that v1 writes" })
}

const MAGIC: &str = "HANDSHAKE";
const OPENING: &str = "HANDSHAKE|1.0|";
const SECONDS_DIGITS: usize = 10;
const SHORT_HEADER_BYTES: usize = 12;
const LONG_HEADER_BYTES: usize = 16;
const KEEP_ALIVE: u32 = 0;
const STATE_SYNC: u32 = 1;
const CONSENSUS: u32 = 2;
const BASELINE: u32 = 3;
const FULL_SYNC: u32 = 4;
const KEEP_ALIVE_TEXT: &[u8] = b"KEEPALIVE";
const FULL_SYNC_TEXT: &[u8] = b"FULL_SYNC_REQUEST";

#[cfg(test)]
#[path = "federation_tests.rs"]
mod tests;

//! Requests of the client libraries that came with v1's successor: a length, a head, a JSON payload.
//!
//! No server for them was ever published, so only the bytes are known.

use crate::wire::cursor::{Reader, WireError};
use crate::wire::v1::frames::{Header, payload_length};
use crate::wire::v1::json::{Json, JsonError, MAX_DOCUMENT_BYTES};

/// Bytes of the length, which does not count itself.
pub const LENGTH_BYTES: usize = 4;
/// The one version there is.
pub const VERSION: u8 = 3;

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Who asks.
    Authentication = 1,
    /// Virtual machines.
    Vm = 2,
    /// Streams of data, which no client ever sent.
    Stream = 3,
    /// Moving machines.
    Migration = 4,
    /// Is the server well?
    Health = 5,
    /// Measurements.
    Metrics = 6,
    /// Settings.
    Configuration = 7,
    /// Snapshots of machines.
    Snapshot = 8,
}

/// A request or its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it is about.
    pub kind: Kind,
    /// When it was written.
    pub unix_seconds: u64,
    /// Which request.
    pub id: String,
    /// The rest.
    pub payload: Json,
}

/// How long the message behind it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Length(u32);

/// Why a message was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SdkError {
    /// Its head.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Its payload.
    #[error(transparent)]
    Json(#[from] JsonError),
}

impl Header for Length {
    fn header_bytes(_known: &[u8]) -> usize {
        LENGTH_BYTES
    }

    fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let length = payload_length("request", reader.u32_be("request's length")?)?;
        reader.end("request's length")?;
        Ok(Self(length))
    }

    fn payload_bytes(&self) -> u32 {
        self.0
    }
}

impl Message {
    /// Reads what follows the length.
    ///
    /// # Errors
    /// [`SdkError`] for another version, an unknown kind, lengths that do not agree, and a payload that is
    /// not JSON.
    pub fn decode(bytes: &[u8]) -> Result<Self, SdkError> {
        let mut reader = Reader::new(bytes);
        let version = reader.u8("request's version")?;
        if version != VERSION {
            let (what, value) = ("request's version", version.into());
            return Err(WireError::Range { what, value, allowed: "3" }.into());
        }
        let kind = Kind::from_byte(reader.u8("request's kind")?)?;
        let unix_seconds = reader.u64_be("request's seconds")?;
        let id_bytes = u16::from_be_bytes(reader.array("request's id length")?);
        let id = reader.bytes("request's id", id_bytes.into())?;
        let text = |_| WireError::Text { what: "request's id" };
        let id = std::str::from_utf8(id).map_err(text)?.to_owned();
        let payload_bytes = reader.u32_be("request's payload length")? as usize;
        let payload = reader.bytes("request's payload", payload_bytes)?;
        reader.end("request")?;
        Ok(Self { kind, unix_seconds, id, payload: Json::parse("request's payload", payload)? })
    }

    /// The bytes, their length before them.
    ///
    /// # Errors
    /// [`WireError::TooLong`] for an id or a payload that does not fit.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        let payload = self.payload.text().as_bytes();
        let id_bytes = fitting("request's id", self.id.len(), u16::MAX.into())? as u16;
        let payload_bytes = fitting("request's payload", payload.len(), MAX_DOCUMENT_BYTES)?;
        let body_bytes = HEAD_BYTES + u32::from(id_bytes) + payload_bytes;
        let mut out = body_bytes.to_be_bytes().to_vec();
        out.extend_from_slice(&[VERSION, self.kind as u8]);
        out.extend_from_slice(&self.unix_seconds.to_be_bytes());
        out.extend_from_slice(&id_bytes.to_be_bytes());
        out.extend_from_slice(self.id.as_bytes());
        out.extend_from_slice(&payload_bytes.to_be_bytes());
        out.extend_from_slice(payload);
        Ok(out)
    }
}

impl Kind {
    fn from_byte(byte: u8) -> Result<Self, WireError> {
        Ok(match byte {
            1 => Self::Authentication,
            2 => Self::Vm,
            3 => Self::Stream,
            4 => Self::Migration,
            5 => Self::Health,
            6 => Self::Metrics,
            7 => Self::Configuration,
            8 => Self::Snapshot,
            _ => {
                let (what, value) = ("request's kind", byte.into());
                return Err(WireError::Range { what, value, allowed: "1 to 8" });
            }
        })
    }
}

fn fitting(what: &'static str, length: usize, limit: usize) -> Result<u32, WireError> {
    let (value, limit) = (length as u64, limit as u64);
    if value > limit { Err(WireError::TooLong { what, value, limit }) } else { Ok(value as u32) }
}

/// Version, kind, seconds and the two lengths.
const HEAD_BYTES: u32 = 1 + 1 + 8 + 2 + 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: String, payload: &str) -> Message {
        let payload = Json::parse("payload", payload.as_bytes()).unwrap();
        Message { kind: Kind::Vm, unix_seconds: 1, id, payload }
    }

    #[test]
    fn the_longest_id_comes_back_and_a_longer_one_is_refused() {
        let most = message("é".repeat(32_767), "[1]");
        let bytes = most.encode().unwrap();
        assert_eq!(Message::decode(&bytes[LENGTH_BYTES..]), Ok(most));
        let error = message("n".repeat(65_536), "[1]").encode().unwrap_err();
        assert!(error.to_string().contains("65536"), "{error}");
    }

    #[test]
    fn every_cut_is_refused() {
        let bytes = message("r1".into(), r#"{"a":"b"}"#).encode().unwrap();
        for length in LENGTH_BYTES..bytes.len() {
            assert!(Message::decode(&bytes[LENGTH_BYTES..length]).is_err(), "{length}");
        }
    }
}

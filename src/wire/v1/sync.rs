//! Messages of v1's state synchronisation. There are only their JSON shapes: v1 never gave them a
//! connection to travel on, and applies no update that it hears of.

use crate::wire::v1::crdt::VectorClock;
use crate::wire::v1::json::{self, Json, JsonError, WallTime};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A message from node to node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Nanoseconds of Unix time in decimal, as text; of gossip the gossip's own.
    pub id: String,
    /// Who wrote it.
    pub sender_id: String,
    /// For whom.
    pub receiver_id: String,
    /// What the sender has seen.
    pub vector_clock: VectorClock,
    /// What it says.
    pub payload: Payload,
    /// When it was written.
    pub timestamp: WallTime,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// What do you have?
    DigestRequest,
    /// These, please.
    StatesRequest(Vec<String>),
    /// Replicated values by key. Their types are not told, so whoever does not have the key cannot
    /// read the value.
    StatesResponse(BTreeMap<String, Json>),
    /// News to pass on.
    Gossip(Gossip),
    /// What I have, asking for the same.
    AntiEntropyDigest(Digest),
    /// What I have.
    AntiEntropyDigestResponse(Digest),
    /// Done.
    AntiEntropyAck,
}

/// What a node has, in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Digest {
    /// The node.
    pub node_id: String,
    /// What it has seen.
    pub vector_clock: VectorClock,
    /// SHA-256 of each value's document, in hexadecimal. Documents of equal values differ, so unequal
    /// checksums tell nothing.
    pub checksums: BTreeMap<String, String>,
    /// When it was made.
    pub timestamp: WallTime,
}

/// News on their way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Gossip {
    /// Nanoseconds of Unix time in decimal, as text.
    pub id: String,
    /// The news.
    pub update: Option<Update>,
    /// How often it was passed on.
    pub hops: i64,
    /// How often it may be.
    pub ttl: i64,
    /// When it set out.
    pub timestamp: WallTime,
    /// Who had it.
    pub path: Vec<String>,
}

/// A value that changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Update {
    /// Its key.
    pub key: String,
    /// Its type's name.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its document; see [`crate::wire::v1::crdt::Value::read`].
    pub data: Json,
    /// What it has seen.
    pub vector_clock: VectorClock,
    /// When it changed.
    pub timestamp: WallTime,
}

/// A message before its payload is looked at.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Self")]
struct Envelope {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    sender_id: String,
    receiver_id: String,
    vector_clock: VectorClock,
    payload: Json,
    timestamp: WallTime,
}

json::objects!(Digest, Gossip, Update, Envelope);

impl Message {
    /// Reads a message.
    ///
    /// # Errors
    /// [`JsonError`] for another shape, an unknown type, and fields that v1 would not write so.
    pub fn decode(bytes: &[u8]) -> Result<Self, JsonError> {
        let envelope: Envelope = json::decode("message", bytes)?;
        let Envelope { id, kind, sender_id, receiver_id, vector_clock, payload, timestamp } =
            envelope;
        let payload = Payload::read(&kind, &payload)?;
        let message = Self { id, sender_id, receiver_id, vector_clock, payload, timestamp };
        message.check()?;
        Ok(message)
    }

    /// The bytes.
    ///
    /// # Errors
    /// [`JsonError`] for fields that v1 would not write so.
    pub fn encode(&self) -> Result<Vec<u8>, JsonError> {
        self.check()?;
        let envelope = Envelope {
            id: self.id.clone(),
            kind: self.payload.kind().into(),
            sender_id: self.sender_id.clone(),
            receiver_id: self.receiver_id.clone(),
            vector_clock: self.vector_clock.clone(),
            payload: self.payload.to_json()?,
            timestamp: self.timestamp.clone(),
        };
        json::encode("message", &envelope)
    }

    fn check(&self) -> Result<(), JsonError> {
        check_id(&self.id)?;
        match &self.payload {
            Payload::Gossip(gossip) => check_id(&gossip.id),
            Payload::AntiEntropyDigest(digest) | Payload::AntiEntropyDigestResponse(digest) => {
                digest.checksums.values().try_for_each(|checksum| check_checksum(checksum))
            }
            _ => Ok(()),
        }
    }
}

impl Payload {
    /// The type's name.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::DigestRequest => "DIGEST_REQUEST",
            Self::StatesRequest(_) => "STATES_REQUEST",
            Self::StatesResponse(_) => "STATES_RESPONSE",
            Self::Gossip(_) => "GOSSIP",
            Self::AntiEntropyDigest(_) => "ANTI_ENTROPY_DIGEST",
            Self::AntiEntropyDigestResponse(_) => "ANTI_ENTROPY_DIGEST_RESPONSE",
            Self::AntiEntropyAck => "ANTI_ENTROPY_ACK",
        }
    }

    fn read(kind: &str, payload: &Json) -> Result<Self, JsonError> {
        match kind {
            "DIGEST_REQUEST" => nothing(payload, Self::DigestRequest),
            "STATES_REQUEST" => payload.read("keys").map(Self::StatesRequest),
            "STATES_RESPONSE" => payload.read("states").map(Self::StatesResponse),
            "GOSSIP" => payload.read("gossip").map(Self::Gossip),
            "ANTI_ENTROPY_DIGEST" => payload.read("digest").map(Self::AntiEntropyDigest),
            "ANTI_ENTROPY_DIGEST_RESPONSE" => {
                payload.read("digest").map(Self::AntiEntropyDigestResponse)
            }
            "ANTI_ENTROPY_ACK" => nothing(payload, Self::AntiEntropyAck),
            _ => Err(JsonError::Value { what: "message's type", value: kind.into() }),
        }
    }

    fn to_json(&self) -> Result<Json, JsonError> {
        match self {
            Self::DigestRequest | Self::AntiEntropyAck => Json::of("payload", &()),
            Self::StatesRequest(keys) => Json::of("keys", keys),
            Self::StatesResponse(states) => Json::of("states", states),
            Self::Gossip(gossip) => Json::of("gossip", gossip),
            Self::AntiEntropyDigest(digest) | Self::AntiEntropyDigestResponse(digest) => {
                Json::of("digest", digest)
            }
        }
    }
}

/// A message that says all by its type.
fn nothing(payload: &Json, message: Payload) -> Result<Payload, JsonError> {
    payload.read::<()>("payload")?;
    Ok(message)
}

fn check_id(id: &str) -> Result<(), JsonError> {
    let is_good = (1..=MAX_ID_DIGITS).contains(&id.len()) && id.bytes().all(|c| c.is_ascii_digit());
    let value = || id.chars().take(64).collect();
    if is_good { Ok(()) } else { Err(JsonError::Value { what: "message's id", value: value() }) }
}

fn check_checksum(checksum: &str) -> Result<(), JsonError> {
    let is_digit = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    let is_good = checksum.len() == CHECKSUM_DIGITS && checksum.bytes().all(is_digit);
    let value = || checksum.chars().take(128).collect();
    if is_good { Ok(()) } else { Err(JsonError::Value { what: "checksum", value: value() }) }
}

/// Nanoseconds of 63 bits.
const MAX_ID_DIGITS: usize = 19;
/// SHA-256 in hexadecimal.
const CHECKSUM_DIGITS: usize = 64;

#[cfg(test)]
#[path = "sync_tests.rs"]
mod tests;

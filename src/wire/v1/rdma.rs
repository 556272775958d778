//! How v1 describes one end of an RDMA connection: one JSON object, to be carried by hand.
//!
//! Remote address and key are not in it, so only messages can be exchanged, not memory. The identifier
//! is an array of numbers. Names are as in v1's struct, without a rule of their own.

use crate::wire::v1::json::{self, JsonError};
use serde::{Deserialize, Serialize};

/// The longest message that v1 sends over such a connection.
pub const MAX_MESSAGE_BYTES: u32 = 4 << 20;

/// One end of a reliable connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct QueuePair {
    /// The port's number in its subnet; zero on Ethernet.
    #[serde(rename = "LID")]
    pub local_id: u16,
    /// The queue pair's number, of 24 bits.
    #[serde(rename = "QPNum")]
    pub number: u32,
    /// Where its packet numbers begin, of 24 bits.
    #[serde(rename = "PSN")]
    pub packet_sequence: u32,
    /// The port's global identifier.
    #[serde(rename = "GID")]
    pub global_id: [u8; 16],
}

json::objects!(QueuePair);

impl QueuePair {
    /// Reads a description.
    ///
    /// # Errors
    /// [`JsonError`] for another shape, and for numbers that no queue pair has.
    pub fn decode(bytes: &[u8]) -> Result<Self, JsonError> {
        let pair: Self = json::decode("queue pair", bytes)?;
        pair.check()?;
        Ok(pair)
    }

    /// The description.
    ///
    /// # Errors
    /// [`JsonError::Value`] for numbers that no queue pair has.
    pub fn encode(&self) -> Result<Vec<u8>, JsonError> {
        self.check()?;
        json::encode("queue pair", self)
    }

    fn check(&self) -> Result<(), JsonError> {
        let numbers = [("QPNum", self.number), ("PSN", self.packet_sequence)];
        match numbers.into_iter().find(|(_, value)| *value > MAX_24_BITS) {
            Some((what, value)) => Err(JsonError::Value { what, value: value.to_string() }),
            None => Ok(()),
        }
    }
}

const MAX_24_BITS: u32 = 0xff_ffff;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_more_than_24_bits_are_refused_both_ways() {
        let good = QueuePair { local_id: 1, number: 2, packet_sequence: 3, global_id: [4; 16] };
        assert_eq!(QueuePair::decode(&good.encode().unwrap()), Ok(good));
        let wide = QueuePair { packet_sequence: 1 << 24, ..good };
        let error = JsonError::Value { what: "PSN", value: "16777216".into() };
        assert_eq!(wide.encode(), Err(error.clone()));
        assert_eq!(QueuePair::decode(&json::encode("", &wide).unwrap()), Err(error));
    }

    #[test]
    fn identifiers_of_another_length_are_refused() {
        for count in [0, 15, 17] {
            let numbers = vec!["1"; count].join(",");
            let text = format!("{{\"LID\":0,\"QPNum\":1,\"PSN\":2,\"GID\":[{numbers}]}}");
            assert!(QueuePair::decode(text.as_bytes()).is_err(), "{text}");
        }
    }
}

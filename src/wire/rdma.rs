//! What two nodes tell each other, over a connection that they trust, before RDMA carries data between
//! them: the ends of a queue pair, and memory that the other side may reach.
//!
//! ```text
//! endpoint:  form u8 = 1 | link u8 | mtu_bytes u16 | number u32 | packet_sequence u32
//!            | local_id u16 | reads u8 | reserved u8 | global_id 16
//! memory:    address u64 | length_bytes u64 | key u32 | reserved u32
//! offer:     form u8 = 1 | endpoint | count u32 | memory of each region
//! answer:    form u8 = 1 | endpoint
//! neither:   form u8 = 0 | reason, length u32 and text
//! ```
//! Once both have agreed by their hellos, the source's first frame is an offer and the destination's
//! an answer, on every connection. A side that cannot do it after all says why instead, and the
//! connection carries pages itself.

use crate::base::limits::{MAX_REASON_BYTES, MAX_REGIONS};
use crate::wire::cursor::{Reader, WireError, put_text};

/// Length of an endpoint.
pub const ENDPOINT_BYTES: usize = 32;
/// Length of a description of memory.
pub const REMOTE_MEMORY_BYTES: usize = 24;
/// Queue pairs and packets are numbered with 24 bits.
pub const MAX_24_BITS: u32 = 0xff_ffff;

/// Longest offer.
pub const MAX_OFFER_BYTES: u32 =
    (1 + ENDPOINT_BYTES + 4 + MAX_REGIONS * REMOTE_MEMORY_BYTES) as u32;
/// Longest answer.
pub const MAX_ANSWER_BYTES: u32 = (1 + 4 + MAX_REASON_BYTES) as u32;

const FORM: u8 = 1;
const NEITHER: u8 = 0;
const INFINIBAND: u8 = 0;
const ETHERNET: u8 = 1;

/// What is below the verbs; both ends must have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Ports are found by their number in the subnet.
    InfiniBand,
    /// Ports are found by their global identifier.
    Ethernet,
}

/// One end of a reliable connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// What is below.
    pub link: Link,
    /// The largest packet of its port: a power of two from 256 to 4,096.
    pub mtu_bytes: u16,
    /// The queue pair's number, of 24 bits.
    pub number: u32,
    /// Where its packet numbers begin, of 24 bits.
    pub packet_sequence: u32,
    /// The port's number in its subnet; zero on Ethernet.
    pub local_id: u16,
    /// Requests to read that it serves at a time.
    pub reads: u8,
    /// The port's global identifier.
    pub global_id: [u8; 16],
}

impl Endpoint {
    /// The endpoint's bytes.
    pub fn encode(&self) -> [u8; ENDPOINT_BYTES] {
        let mut bytes = [0; ENDPOINT_BYTES];
        bytes[0] = FORM;
        bytes[1] = match self.link {
            Link::InfiniBand => INFINIBAND,
            Link::Ethernet => ETHERNET,
        };
        bytes[2..4].copy_from_slice(&self.mtu_bytes.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.number.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.packet_sequence.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.local_id.to_le_bytes());
        bytes[14] = self.reads;
        bytes[16..].copy_from_slice(&self.global_id);
        bytes
    }

    /// Reads an endpoint.
    ///
    /// # Errors
    /// Another length, another form, or a number that no queue pair has.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut from = Reader::new(bytes);
        exactly("form of an endpoint", from.u8("form of an endpoint")?.into(), FORM.into(), "1")?;
        let link = match from.u8("link")? {
            INFINIBAND => Link::InfiniBand,
            ETHERNET => Link::Ethernet,
            other => {
                return Err(WireError::Range {
                    what: "link",
                    value: other.into(),
                    allowed: "0, 1",
                });
            }
        };
        let endpoint = Self {
            link,
            mtu_bytes: mtu(from.u16("packet size")?)?,
            number: of_24_bits("queue pair", from.u32("queue pair")?)?,
            packet_sequence: of_24_bits("packet number", from.u32("packet number")?)?,
            local_id: from.u16("local number")?,
            reads: from.u8("reads at a time")?,
            global_id: {
                exactly("reserved byte", from.u8("reserved byte")?.into(), 0, "0")?;
                from.array("global identifier")?
            },
        };
        from.end("endpoint")?;
        Ok(endpoint)
    }
}

/// Memory of the side that says so, open to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteMemory {
    /// Where it begins, as that side counts.
    pub address: u64,
    /// How long it is.
    pub length_bytes: u64,
    /// The key that opens it.
    pub key: u32,
}

impl RemoteMemory {
    /// The description's bytes.
    pub fn encode(&self) -> [u8; REMOTE_MEMORY_BYTES] {
        let mut bytes = [0; REMOTE_MEMORY_BYTES];
        bytes[..8].copy_from_slice(&self.address.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.length_bytes.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.key.to_le_bytes());
        bytes
    }

    /// Reads a description.
    ///
    /// # Errors
    /// Another length, or memory that would reach past the last address.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut from = Reader::new(bytes);
        let memory = Self {
            address: from.u64("address")?,
            length_bytes: from.u64("length")?,
            key: from.u32("key")?,
        };
        exactly("reserved bytes", from.u32("reserved bytes")?.into(), 0, "0")?;
        from.end("remote memory")?;
        match memory.address.checked_add(memory.length_bytes) {
            Some(_) => Ok(memory),
            None => Err(WireError::Range {
                what: "length of remote memory",
                value: memory.length_bytes,
                allowed: "what fits behind its address",
            }),
        }
    }
}

/// What the source offers for one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Its end of a queue pair, and its guest's regions, in their order, open to be read.
    Here(Endpoint, Vec<RemoteMemory>),
    /// Nothing, for this reason.
    Neither(String),
}

impl Offer {
    /// The payload.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Here(endpoint, regions) => {
                let mut out = vec![FORM];
                out.extend_from_slice(&endpoint.encode());
                out.extend_from_slice(&(regions.len() as u32).to_le_bytes());
                regions.iter().for_each(|region| out.extend_from_slice(&region.encode()));
                out
            }
            Self::Neither(reason) => neither(reason),
        }
    }

    /// Reads an offer.
    ///
    /// # Errors
    /// Another form, a bad endpoint or region, trailing bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut from = Reader::new(bytes);
        let offer = match from.u8("form of an offer")? {
            NEITHER => Self::Neither(from.text("reason", MAX_REASON_BYTES)?),
            form => {
                exactly("form of an offer", form.into(), FORM.into(), "0, 1")?;
                let endpoint = Endpoint::decode(from.bytes("endpoint", ENDPOINT_BYTES)?)?;
                let count = from.count("regions", MAX_REGIONS)?;
                let region = |from: &mut Reader| {
                    RemoteMemory::decode(from.bytes("remote memory", REMOTE_MEMORY_BYTES)?)
                };
                let regions = (0..count).map(|_| region(&mut from));
                Self::Here(endpoint, regions.collect::<Result<_, _>>()?)
            }
        };
        from.end("offer")?;
        Ok(offer)
    }
}

/// The destination's answer to an offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OfferAnswer {
    /// Its end of the queue pair.
    Here(Endpoint),
    /// Nothing, for this reason.
    Neither(String),
}

impl OfferAnswer {
    /// The payload.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Here(endpoint) => [&[FORM][..], &endpoint.encode()].concat(),
            Self::Neither(reason) => neither(reason),
        }
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// Another form, a bad endpoint, trailing bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut from = Reader::new(bytes);
        let answer = match from.u8("form of an answer")? {
            NEITHER => Self::Neither(from.text("reason", MAX_REASON_BYTES)?),
            form => {
                exactly("form of an answer", form.into(), FORM.into(), "0, 1")?;
                Self::Here(Endpoint::decode(from.bytes("endpoint", ENDPOINT_BYTES)?)?)
            }
        };
        from.end("answer")?;
        Ok(answer)
    }
}

fn neither(reason: &str) -> Vec<u8> {
    let mut out = vec![NEITHER];
    put_text(&mut out, reason, MAX_REASON_BYTES);
    out
}

fn mtu(value: u16) -> Result<u16, WireError> {
    if value.is_power_of_two() && (256..=4096).contains(&value) {
        return Ok(value);
    }
    let allowed = "a power of two from 256 to 4096";
    Err(WireError::Range { what: "packet size", value: value.into(), allowed })
}

fn of_24_bits(what: &'static str, value: u32) -> Result<u32, WireError> {
    match value {
        0..=MAX_24_BITS => Ok(value),
        _ => Err(WireError::Range { what, value: value.into(), allowed: "24 bits" }),
    }
}

fn exactly(
    what: &'static str,
    value: u64,
    wanted: u64,
    allowed: &'static str,
) -> Result<(), WireError> {
    if value == wanted { Ok(()) } else { Err(WireError::Range { what, value, allowed }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDPOINT: Endpoint = Endpoint {
        link: Link::Ethernet,
        mtu_bytes: 1024,
        number: 0x11,
        packet_sequence: 0xab_cdef,
        local_id: 0,
        reads: 16,
        global_id: [7; 16],
    };

    #[test]
    fn endpoints_have_these_bytes() {
        let bytes = ENDPOINT.encode();
        let head = [1, 1, 0, 4, 0x11, 0, 0, 0, 0xef, 0xcd, 0xab, 0, 0, 0, 16, 0];
        assert_eq!(bytes, [head, [7; 16]].concat()[..]);
        assert_eq!(Endpoint::decode(&bytes), Ok(ENDPOINT));
    }

    #[test]
    fn what_no_queue_pair_has_is_refused_with_its_value() {
        let refused = |at: usize, byte: u8| {
            let mut bytes = ENDPOINT.encode();
            bytes[at] = byte;
            Endpoint::decode(&bytes).unwrap_err().to_string()
        };
        assert_eq!(refused(0, 2), "form of an endpoint is 2, allowed is 1");
        assert_eq!(refused(1, 9), "link is 9, allowed is 0, 1");
        assert!(refused(3, 5).starts_with("packet size is 1280"));
        assert!(refused(7, 1).starts_with("queue pair is 16777233"));
        assert!(refused(11, 1).starts_with("packet number is"));
        assert!(refused(15, 1).starts_with("reserved byte is 1"));
        let bytes = ENDPOINT.encode();
        assert!(Endpoint::decode(&bytes[..31]).is_err());
        assert!(Endpoint::decode(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn memory_stays_within_the_address_space() {
        let memory = RemoteMemory { address: u64::MAX - 4096, length_bytes: 4096, key: 5 };
        assert_eq!(RemoteMemory::decode(&memory.encode()), Ok(memory));
        let beyond = RemoteMemory { length_bytes: 4097, ..memory };
        let error = RemoteMemory::decode(&beyond.encode()).unwrap_err().to_string();
        assert!(error.starts_with("length of remote memory is 4097"), "{error}");
    }

    #[test]
    fn offers_and_answers_round_trip() {
        let memory = RemoteMemory { address: 0x1000, length_bytes: 4096, key: 5 };
        let offers =
            [Offer::Here(ENDPOINT, vec![memory, memory]), Offer::Neither("no device".into())];
        for offer in offers {
            let bytes = offer.encode();
            assert_eq!(Offer::decode(&bytes).as_ref(), Ok(&offer));
            assert!(Offer::decode(&bytes[..bytes.len() - 1]).is_err());
            assert!(Offer::decode(&[&bytes[..], &[0]].concat()).is_err());
        }
        for answer in [OfferAnswer::Here(ENDPOINT), OfferAnswer::Neither("port down".into())] {
            let bytes = answer.encode();
            assert_eq!(OfferAnswer::decode(&bytes).as_ref(), Ok(&answer));
            assert!(OfferAnswer::decode(&bytes[..bytes.len() - 1]).is_err());
        }
        let error = Offer::decode(&[2]).unwrap_err().to_string();
        assert_eq!(error, "form of an offer is 2, allowed is 0, 1");
    }

    #[test]
    fn the_longest_offer_fits_its_frame() {
        let memory = RemoteMemory { address: 1, length_bytes: 4096, key: 5 };
        let offer = Offer::Here(ENDPOINT, vec![memory; MAX_REGIONS]);
        assert_eq!(offer.encode().len(), MAX_OFFER_BYTES as usize);
        let answer = OfferAnswer::Neither("x".repeat(2 * MAX_REASON_BYTES));
        assert_eq!(answer.encode().len(), MAX_ANSWER_BYTES as usize);
    }
}

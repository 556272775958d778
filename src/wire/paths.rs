//! What a node tells another, on being asked, of the paths to its peers.
//!
//! ```text
//! paths:  node text | left_out u32 | count u32 | count rows
//! row:    peer text | mode u8 | known u8 | rtt_us u32 | jitter_us u32 | loss_ppm u32
//!         | rate_bytes_per_s u64 | silent_us u64
//! ```
//! `known` says which figures are, and what else is so. A mode that is not in the table is a later
//! version's.

use crate::base::limits::{MAX_ADDRESS_BYTES, MAX_NAME_BYTES, MAX_TOLD_PATHS};
use crate::wire::cursor::{Reader, WireError, put_text};

const HAS_RTT: u8 = 1;
const HAS_JITTER: u8 = 2;
const HAS_LOSS: u8 = 4;
const HAS_RATE: u8 = 8;
const RATE_IS_FLOOR: u8 = 16;
const IN_USE: u8 = 32;
const HEARD: u8 = 64;

const ROW_BYTES: usize = 4 + MAX_ADDRESS_BYTES + 2 + 3 * 4 + 2 * 8;
/// Longest payload.
pub const MAX_PATHS_BYTES: u32 = (4 + MAX_NAME_BYTES + 8 + MAX_TOLD_PATHS * ROW_BYTES) as u32;

/// Paths from one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths {
    /// The node's name.
    pub node: String,
    /// How many paths there are beside these.
    pub left_out: u32,
    /// The paths, at most [`MAX_TOLD_PATHS`].
    pub rows: Vec<PathRow>,
}

/// The path to one peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathRow {
    /// The peer's address, as that node dials it.
    pub peer: String,
    /// The mode in force: 1 datacenter, 2 hybrid, 3 internet, 4 v1-compat.
    pub mode: u8,
    /// Whether streams to it are open.
    pub is_in_use: bool,
    /// Round trip.
    pub rtt_us: Option<u32>,
    /// Its mean deviation.
    pub jitter_us: Option<u32>,
    /// Share of the sent bytes that had to be sent again, in parts of a million.
    pub loss_ppm: Option<u32>,
    /// Payload that the path delivers.
    pub rate_bytes_per_s: Option<u64>,
    /// Whether the path may be faster.
    pub rate_is_floor: bool,
    /// For how long it has told nothing.
    pub silent_us: Option<u64>,
}

impl Paths {
    /// The payload.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_text(&mut out, &self.node, MAX_NAME_BYTES);
        let rows = &self.rows[..self.rows.len().min(MAX_TOLD_PATHS)];
        out.extend_from_slice(&self.left_out.to_le_bytes());
        out.extend_from_slice(&(rows.len() as u32).to_le_bytes());
        rows.iter().for_each(|row| row.encode(&mut out));
        out
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// Anything out of bounds.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let node = reader.text("node name", MAX_NAME_BYTES)?;
        let left_out = reader.u32("paths left out")?;
        let count = reader.count("paths", MAX_TOLD_PATHS)?;
        let rows = (0..count).map(|_| PathRow::decode(&mut reader)).collect::<Result<_, _>>()?;
        reader.end("paths")?;
        Ok(Self { node, left_out, rows })
    }
}

impl PathRow {
    fn encode(&self, out: &mut Vec<u8>) {
        let known = [
            (HAS_RTT, self.rtt_us.is_some()),
            (HAS_JITTER, self.jitter_us.is_some()),
            (HAS_LOSS, self.loss_ppm.is_some()),
            (HAS_RATE, self.rate_bytes_per_s.is_some()),
            (RATE_IS_FLOOR, self.rate_is_floor),
            (IN_USE, self.is_in_use),
            (HEARD, self.silent_us.is_some()),
        ];
        put_text(out, &self.peer, MAX_ADDRESS_BYTES);
        out.push(self.mode);
        out.push(known.iter().filter(|(_, is_so)| *is_so).map(|(bit, _)| bit).sum());
        for figure in [self.rtt_us, self.jitter_us, self.loss_ppm] {
            out.extend_from_slice(&figure.unwrap_or(0).to_le_bytes());
        }
        for figure in [self.rate_bytes_per_s, self.silent_us] {
            out.extend_from_slice(&figure.unwrap_or(0).to_le_bytes());
        }
    }

    fn decode(reader: &mut Reader) -> Result<Self, WireError> {
        let peer = reader.text("peer's address", MAX_ADDRESS_BYTES)?;
        let (mode, known) = (reader.u8("mode")?, reader.u8("known figures")?);
        let is_so = |bit| known & bit != 0;
        Ok(Self {
            peer,
            mode,
            is_in_use: is_so(IN_USE),
            rtt_us: Some(reader.u32("round trip")?).filter(|_| is_so(HAS_RTT)),
            jitter_us: Some(reader.u32("jitter")?).filter(|_| is_so(HAS_JITTER)),
            loss_ppm: Some(reader.u32("loss")?).filter(|_| is_so(HAS_LOSS)),
            rate_bytes_per_s: Some(reader.u64("rate")?).filter(|_| is_so(HAS_RATE)),
            rate_is_floor: is_so(RATE_IS_FLOOR),
            silent_us: Some(reader.u64("silence")?).filter(|_| is_so(HEARD)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths() -> Paths {
        let full = PathRow {
            peer: "h:1".into(),
            mode: 3,
            is_in_use: true,
            rtt_us: Some(1),
            jitter_us: Some(0),
            loss_ppm: Some(3),
            rate_bytes_per_s: Some(u64::MAX),
            rate_is_floor: true,
            silent_us: Some(5),
        };
        let bare = PathRow { peer: "[::1]:2".into(), mode: 2, ..PathRow::default() };
        Paths { node: "alpha".into(), left_out: 7, rows: vec![full, bare] }
    }

    #[test]
    fn paths_round_trip_and_every_truncation_is_an_error() {
        let bytes = paths().encode();
        assert_eq!(Paths::decode(&bytes), Ok(paths()));
        for length in 0..bytes.len() {
            assert!(Paths::decode(&bytes[..length]).is_err(), "{length}");
        }
        let error = Paths::decode(&[&bytes[..], &[0]].concat()).unwrap_err();
        assert_eq!(error.to_string(), "paths: 1 bytes too many");
    }

    #[test]
    fn no_more_is_told_than_fits() {
        let row = PathRow { peer: "x".repeat(MAX_ADDRESS_BYTES + 9), ..PathRow::default() };
        let node = "n".repeat(MAX_NAME_BYTES + 9);
        let many = Paths { node, left_out: 0, rows: vec![row; MAX_TOLD_PATHS + 1] };
        let bytes = many.encode();
        assert_eq!(bytes.len(), MAX_PATHS_BYTES as usize);
        assert_eq!(Paths::decode(&bytes).unwrap().rows.len(), MAX_TOLD_PATHS);
    }

    #[test]
    fn a_count_is_refused_before_it_is_believed() {
        let mut bytes = Paths::default().encode();
        bytes[8..].copy_from_slice(&u32::MAX.to_le_bytes());
        let error = Paths::decode(&bytes).unwrap_err().to_string();
        assert!(error.contains("paths is 4294967295 long, the limit is 512"), "{error}");
    }
}

//! The paths of several nodes side by side: this node's own, and what others tell on being asked.

use super::Modes;
use crate::base::address::check_address;
use crate::base::micros;
use crate::runtime::asking::{self, Answer};
use crate::runtime::clock::now;
use crate::runtime::security::Security;
use crate::transport::Mode;
use crate::wire::{FrameKind, PathRow, Paths, WireError};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// The paths from one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MatrixRow {
    /// The node's name; none: it told nothing.
    pub node: Option<String>,
    /// Where it was asked; none: it is this node.
    pub address: Option<String>,
    /// The paths to its peers, by address.
    pub paths: Vec<MatrixPath>,
    /// How many paths it has beside these.
    pub left_out: u32,
    /// Why it told nothing.
    pub failure: Option<String>,
}

/// The path from one node to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MatrixPath {
    /// The peer's address, as that node dials it.
    pub peer: String,
    /// The mode in force; none: one that is not known here.
    pub mode: Option<Mode>,
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

/// What this node tells of its peers.
pub fn rows(modes: &Modes) -> Vec<PathRow> {
    let row = |(peer, view, _): (String, crate::transport::mode::PeerView, _)| PathRow {
        peer,
        mode: mode_code(view.mode),
        is_in_use: view.is_in_use,
        rtt_us: view.figures.rtt_us,
        jitter_us: view.figures.jitter_us,
        loss_ppm: view.figures.loss_ppm,
        rate_bytes_per_s: view.figures.rate_bytes_per_s,
        rate_is_floor: view.figures.rate_is_floor,
        silent_us: view.heard.map(|heard| micros(now().since(heard))),
    };
    modes.views().into_iter().map(row).collect()
}

/// Asks nodes at these addresses, all at a time.
pub fn ask_all(
    addresses: &[String],
    security: &Arc<Security>,
    patience: Duration,
) -> Vec<MatrixRow> {
    let told = asking::ask_all::<Paths>(addresses, security, patience);
    addresses.iter().cloned().zip(told).map(|(address, told)| row(address, told)).collect()
}

fn row(address: String, told: Result<Paths, String>) -> MatrixRow {
    match told {
        Ok(paths) => MatrixRow {
            node: Some(paths.node),
            address: Some(address),
            paths: paths.rows.into_iter().map(MatrixPath::from).collect(),
            left_out: paths.left_out,
            failure: None,
        },
        Err(failure) => MatrixRow::silent(address, failure),
    }
}

impl Answer for Paths {
    const QUESTION: FrameKind = FrameKind::AskPaths;
    const KIND: FrameKind = FrameKind::Paths;
    const SUBJECT: &'static str = "its paths";

    fn decode(payload: &[u8]) -> Result<Self, WireError> {
        Self::decode(payload)
    }

    fn node(&self) -> &str {
        &self.node
    }

    fn check(&self) -> Result<(), String> {
        for row in &self.rows {
            check_address(&row.peer).map_err(|reason| format!("peer {:?}: {reason}", row.peer))?;
        }
        Ok(())
    }
}

impl MatrixRow {
    /// Of a node that told nothing.
    pub fn silent(address: String, failure: String) -> Self {
        Self { address: Some(address), failure: Some(failure), ..Self::default() }
    }
}

impl From<PathRow> for MatrixPath {
    fn from(row: PathRow) -> Self {
        Self {
            peer: row.peer,
            mode: Mode::ALL.into_iter().find(|mode| mode_code(*mode) == row.mode),
            is_in_use: row.is_in_use,
            rtt_us: row.rtt_us,
            jitter_us: row.jitter_us,
            loss_ppm: row.loss_ppm,
            rate_bytes_per_s: row.rate_bytes_per_s,
            rate_is_floor: row.rate_is_floor,
            silent_us: row.silent_us,
        }
    }
}

/// As `wire/paths.rs` numbers them.
fn mode_code(mode: Mode) -> u8 {
    match mode {
        Mode::Datacenter => 1,
        Mode::Hybrid => 2,
        Mode::Internet => 3,
        Mode::V1Compat => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::asking::PATIENCE;
    use crate::runtime::security::SecurityOptions;
    use crate::wire::{Frame, HelloReply, Preface};
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// What is made of a node that answers with these bytes, so many at a time.
    fn row_of(bytes: Vec<u8>, step: usize, patience: Duration) -> MatrixRow {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let liar = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            socket.read_exact(&mut [0; 32]).unwrap();
            for piece in bytes.chunks(step) {
                if socket.write_all(piece).is_err() {
                    return; // It was cut off.
                }
                std::thread::sleep(Duration::from_millis(u64::from(step == 1)));
            }
        });
        let security = Security::open(SecurityOptions::Plain).unwrap();
        let row = ask_all(&[address], &security, patience).remove(0);
        liar.join().unwrap();
        row
    }

    fn answer(kind: FrameKind, payload: Vec<u8>) -> Vec<u8> {
        let frame = Frame { kind, payload };
        [&Preface { minor: 0 }.encode()[..], &frame.header(0).encode(), &frame.payload].concat()
    }

    fn paths(node: &str, peer: &str) -> Vec<u8> {
        let row = PathRow { peer: peer.into(), mode: 9, rtt_us: Some(7), ..PathRow::default() };
        let paths = Paths { node: node.into(), left_out: 3, rows: vec![row] };
        answer(FrameKind::Paths, paths.encode())
    }

    #[test]
    fn what_is_told_becomes_a_row() {
        let row = row_of(paths("n", "h:1"), usize::MAX, PATIENCE);
        assert_eq!((row.node.as_deref(), row.left_out, row.failure), (Some("n"), 3, None));
        assert_eq!((row.paths[0].rtt_us, row.paths[0].mode), (Some(7), None), "a later mode");
    }

    #[test]
    fn lies_are_named_and_nothing_of_them_is_kept() {
        let refusal = HelloReply::Refuse {
            status: -203,
            reason: "no\x1b[2J".into(),
            ended: crate::wire::hello::Ended::No,
        };
        for (bytes, text) in [
            (paths("\x1b[2J", "h:1"), "name \"\\u{1b}[2J\" is not"),
            (paths("n", "h\x1b[2J:1"), "peer \"h\\u{1b}[2J:1\": it holds"),
            (paths("n", "nowhere"), "no port"),
            (answer(FrameKind::Paths, vec![0; 9]), "paths: 4 bytes needed, 1 left"),
            (answer(FrameKind::Probe, vec![0; 8]), "Probe frame where Paths is due"),
            (answer(FrameKind::HelloReply, refusal.encode()), "of its paths: no[2J"),
            (Vec::new(), "it closed the connection"),
            (b"HTTP/1.1 400 Bad Request".to_vec(), "magic"),
        ] {
            let row = row_of(bytes, usize::MAX, PATIENCE);
            let failure = row.failure.unwrap();
            assert!(failure.contains(text), "{failure:?} lacks {text:?}");
            assert!(row.paths.is_empty() && !failure.contains('\x1b'), "{failure:?}");
        }
    }

    #[test]
    fn one_that_answers_byte_by_byte_is_cut_off() {
        let rows = vec![PathRow { peer: "h:1".into(), ..PathRow::default() }; 512];
        let paths = Paths { node: "n".into(), left_out: 0, rows };
        let bytes = answer(FrameKind::Paths, paths.encode());
        let row = row_of(bytes, 1, Duration::from_millis(100));
        assert_eq!(row.failure.unwrap(), "its answer was not whole in time");
    }
}

//! What QEMU at the destination writes back on the main connection, cut into whole messages.
//!
//! ```text
//! message: type u16 | length u16 | data
//! SHUT 1: status u32   PONG 2: value u32   RESUME_ACK 6: value u32
//! REQ_PAGES_ID 3: offset u64 | length u32 | name length u8 | name of the block
//! REQ_PAGES 4: offset u64 | length u32, in the block of the request before
//! RECV_BITMAP 5: name length u8 | name; then, in no message: length u64 | bitmap | u64
//! ```
//! Like the parsers of the other direction it never fails a stream: what it does not know it passes on.

use super::segment::PAGE_BYTES;
use super::{be32, be64};

const SHUT_KIND: u16 = 1;
const REQ_PAGES_ID: u16 = 3;
const REQ_PAGES: u16 = 4;
const RECV_BITMAP: u16 = 5;
const LAST_MESSAGE: u16 = 6;
const HEAD_BYTES: usize = 4;
/// Offset and length, before a block's name.
const REQUEST_BYTES: usize = 12;
/// More than any message has.
const MAX_DATA_BYTES: usize = 512;
/// A bit for each page of the largest guest.
const MAX_BITMAP_BYTES: u64 = crate::base::limits::MAX_PAGES / 8 + 8;
/// Behind a bitmap.
const BITMAP_END_BYTES: u64 = 8;

/// That all was loaded well: QEMU at the source ends its migration when it hears this.
pub const SHUT: [u8; 8] = [0, 1, 0, 4, 0, 0, 0, 0];
/// That it was not: QEMU's migration fails when it hears this.
pub const SHUT_IN_VAIN: [u8; 8] = [0, 1, 0, 4, 0, 0, 0, 1];

/// Pages that QEMU waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PagesAsked {
    /// Their RAM block.
    pub block: String,
    /// The first one's number in the block.
    pub page: u64,
    /// How many.
    pub pages: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Message,
    BitmapLength,
    Raw(u64),
    Opaque,
}

/// Cuts a return path.
#[derive(Debug, Default)]
pub struct ReturnPath {
    state: State,
    pending: Vec<u8>,
    block: String,
    is_done: bool,
}

impl ReturnPath {
    /// Whether QEMU at the destination has said that it has loaded all.
    pub fn is_done(&self) -> bool {
        self.is_done
    }

    /// Takes what was read; gives the whole messages, and calls `on_request` for each request among them.
    pub fn take(&mut self, bytes: &[u8], mut on_request: impl FnMut(PagesAsked)) -> Vec<u8> {
        self.pending.extend_from_slice(bytes);
        let mut done = 0;
        while let Some(length) = self.next_length(&self.pending[done..]) {
            let unit = self.pending[done..done + length].to_vec();
            if let Some(asked) = self.on_unit(&unit) {
                on_request(asked);
            }
            done += length;
        }
        let rest = self.pending.split_off(done);
        std::mem::replace(&mut self.pending, rest)
    }

    /// Length of what comes next, if it is all there.
    fn next_length(&self, rest: &[u8]) -> Option<usize> {
        let length = match self.state {
            State::Message if rest.len() < HEAD_BYTES => return None,
            State::Message => HEAD_BYTES + (be32(rest, 0) & 0xffff) as usize,
            State::BitmapLength => 8,
            State::Raw(left) => usize::try_from(left).unwrap_or(usize::MAX).min(rest.len()),
            State::Opaque => rest.len(),
        };
        let is_absurd = self.state == State::Message && length > HEAD_BYTES + MAX_DATA_BYTES;
        let length = if is_absurd { rest.len() } else { length };
        (length > 0 && length <= rest.len()).then_some(length)
    }

    fn on_unit(&mut self, unit: &[u8]) -> Option<PagesAsked> {
        match self.state {
            State::Message => return self.on_message((be32(unit, 0) >> 16) as u16, unit),
            State::BitmapLength => {
                let length = be64(unit, 0);
                self.state = match length {
                    0..=MAX_BITMAP_BYTES => State::Raw(length + BITMAP_END_BYTES),
                    _ => State::Opaque,
                };
            }
            State::Raw(left) => {
                let left = left - unit.len() as u64;
                self.state = if left == 0 { State::Message } else { State::Raw(left) };
            }
            State::Opaque => {}
        }
        None
    }

    fn on_message(&mut self, kind: u16, unit: &[u8]) -> Option<PagesAsked> {
        let data = unit.get(HEAD_BYTES..).unwrap_or_default();
        let told = (be32(unit, 0) & 0xffff) as usize;
        if told != data.len() || !(1..=LAST_MESSAGE).contains(&kind) {
            self.state = State::Opaque;
            return None;
        }
        match kind {
            SHUT_KIND => self.is_done = data == SHUT[HEAD_BYTES..].as_ref(),
            RECV_BITMAP => self.state = State::BitmapLength,
            REQ_PAGES_ID => {
                let name = data.get(REQUEST_BYTES + 1..).unwrap_or_default();
                self.block = String::from_utf8_lossy(name).into_owned();
            }
            _ => {}
        }
        let is_request = matches!(kind, REQ_PAGES_ID | REQ_PAGES) && data.len() >= REQUEST_BYTES;
        is_request.then(|| PagesAsked {
            block: self.block.clone(),
            page: be64(data, 0) / PAGE_BYTES as u64,
            pages: u64::from(be32(data, 8)).div_ceil(PAGE_BYTES as u64),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As QEMU 7.2 wrote it: two pongs, a request that names its block, one that does not.
    fn captured() -> Vec<u8> {
        let mut bytes = vec![0, 2, 0, 4, 0, 0, 0, 1, 0, 2, 0, 4, 0, 0, 0, 2];
        bytes.extend([0, 3, 0, 19, 0, 0, 0, 0, 5, 0x63, 0xc0, 0, 0, 0, 0x10, 0, 6]);
        bytes.extend(b"pc.ram");
        bytes.extend([0, 4, 0, 12, 0, 0, 0, 0, 7, 0xef, 0x10, 0, 0, 0, 0x20, 0]);
        bytes
    }

    fn asked() -> [PagesAsked; 2] {
        let block = || "pc.ram".to_string();
        [
            PagesAsked { block: block(), page: 0x563c, pages: 1 },
            PagesAsked { block: block(), page: 0x7ef1, pages: 2 },
        ]
    }

    #[test]
    fn messages_come_out_whole_however_they_came() {
        let all = [captured(), SHUT.to_vec()].concat();
        for at_once in [1, 3, 7, all.len()] {
            let (mut path, mut out, mut seen) = (ReturnPath::default(), Vec::new(), Vec::new());
            for bytes in all.chunks(at_once) {
                let whole = path.take(bytes, |asked| seen.push(asked));
                // Wherever it is cut, SHUT may be put between.
                let ends = [8, 16, 39, 55, 63];
                out.extend(whole);
                assert!(out.is_empty() || ends.contains(&out.len()), "{}", out.len());
            }
            assert!(out == all && seen == asked() && path.is_done());
        }
    }

    #[test]
    fn a_bitmap_is_no_message() {
        let mut bytes = vec![0, 5, 0, 7, 6];
        bytes.extend(b"pc.ram");
        bytes.extend(16_u64.to_be_bytes());
        bytes.extend([0, 4, 0, 12, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]);
        bytes.extend([1, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef]);
        bytes.extend([0, 6, 0, 4, 0, 0, 0, 1]);
        let (mut path, mut seen) = (ReturnPath::default(), 0);
        assert_eq!(path.take(&bytes, |_| seen += 1), bytes);
        assert_eq!((seen, path.state, path.is_done()), (0, State::Message, false));
        path.take(&SHUT_IN_VAIN, |_| seen += 1);
        assert!(!path.is_done());
    }

    #[test]
    fn what_is_not_known_passes() {
        for strange in [[0, 99, 0, 2, 1, 2], [0, 4, 0xff, 0xff, 1, 2], [0, 0, 0, 2, 5, 5]] {
            let mut path = ReturnPath::default();
            assert_eq!(path.take(&strange, |_| panic!("no request")), strange);
            let more = captured();
            assert_eq!(path.take(&more, |_| panic!("no request")), more);
        }
    }
}

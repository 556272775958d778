//! Connections that deliver bytes in order, until they are made to misbehave.

use dwcp::wire::frame::HEADER_BYTES;
use dwcp::wire::{ChunkHeader, Frame, FrameHeader, FrameKind, WireError};
use std::collections::VecDeque;

/// What came out of a pipe.
pub enum Received {
    Frame(Frame),
    /// A chunk's header and its payload.
    Chunk(ChunkHeader, Vec<u8>),
}

/// One direction of one connection.
#[derive(Default)]
pub struct Pipe {
    packets: VecDeque<Vec<u8>>,
    sent: u64,
    received: u64,
    /// The sender's end is closed, or the connection is cut behind what is queued.
    pub closed: bool,
}

impl Pipe {
    /// An empty pipe, open or not.
    pub fn new(closed: bool) -> Self {
        Self { closed, ..Self::default() }
    }

    pub fn sequence(&self) -> u64 {
        self.sent
    }

    pub fn send_frame(&mut self, frame: &Frame) {
        let mut bytes = frame.header(self.sent).encode().to_vec();
        bytes.extend_from_slice(&frame.payload);
        self.send(bytes);
    }

    /// Sends bytes that carry [`Self::sequence`].
    pub fn send(&mut self, bytes: Vec<u8>) {
        self.sent += 1;
        if !self.closed {
            self.packets.push_back(bytes);
        }
    }

    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Nothing more comes out of it.
    pub fn is_dry(&self) -> bool {
        self.closed && self.packets.is_empty()
    }

    /// Takes the next packet out, as a connection would.
    pub fn receive(&mut self) -> Option<Result<Received, WireError>> {
        let packet = self.packets.pop_front()?;
        let parsed = self.parse(&packet);
        self.received += 1;
        Some(parsed)
    }

    /// Cuts the connection behind the first `keep` packets.
    pub fn cut(&mut self, keep: usize) {
        self.packets.truncate(keep);
        self.closed = true;
    }

    /// Loses, doubles, swaps or damages a packet.
    pub fn misbehave(&mut self, random: &mut fastrand::Rng) {
        if self.packets.is_empty() {
            return;
        }
        let at = random.usize(..self.packets.len());
        match random.u8(..4) {
            // That the last one is lost shows with the next, which may never come. TCP loses none.
            0 if at + 1 == self.packets.len() => {}
            0 => drop(self.packets.remove(at)),
            1 => self.packets.insert(at, self.packets[at].clone()),
            2 => self.packets.swap(at, 0),
            _ => {
                let byte = random.usize(..self.packets[at].len());
                self.packets[at][byte] ^= 1 << random.u8(..8);
            }
        }
    }

    fn parse(&self, packet: &[u8]) -> Result<Received, WireError> {
        let mut head = [0; HEADER_BYTES];
        head.copy_from_slice(&packet[..HEADER_BYTES]);
        let header = FrameHeader::decode(head)?;
        header.check_sequence(self.received)?;
        let body = &packet[HEADER_BYTES..];
        if header.kind != FrameKind::Chunk {
            header.check_body(&[body])?;
            return Ok(Received::Frame(Frame { kind: header.kind, payload: body.to_vec() }));
        }
        let fixed = body.first_chunk().ok_or(WireError::Text { what: "chunk" })?;
        let length = dwcp::wire::chunk::CHUNK_HEADER_BYTES
            + ChunkHeader::extent_count(fixed)? * dwcp::wire::chunk::EXTENT_BYTES;
        let (chunk, payload) =
            body.split_at_checked(length).ok_or(WireError::Text { what: "chunk" })?;
        header.check_body(&[chunk])?;
        let chunk = ChunkHeader::decode(chunk, super::guest::PAGE as u32)?;
        Ok(Received::Chunk(chunk, payload.to_vec()))
    }
}

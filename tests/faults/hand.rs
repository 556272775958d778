//! The protocol spoken by hand, with the crate's own codecs: for peers that do not keep to it.

use dwcp::base::{ChunkId, MemoryLayout, MigrationId, StreamId};
use dwcp::encoding::Codec;
use dwcp::encoding::digest::{ChunkChecksum, page_hash};
use dwcp::migration::page_io::EncodedChunk;
use dwcp::runtime::channel::Channel;
use dwcp::runtime::connection::{ConnectionError, FrameReader, FrameWriter, Incoming};
use dwcp::wire::hello::{Features, Purpose};
use dwcp::wire::{
    ChunkAck, ChunkHeader, Control, Extent, ExtentKind, Frame, FrameHeader, FrameKind, Hello,
    HelloReply,
};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

pub const PAGE_BYTES: u32 = 4096;
pub const FEATURES: Features = Features {
    codecs: 7,
    chunk_bytes: 256 * 1024,
    baseline_pages: 0,
    held_pages: false,
    multifd_channels: 0,
    post_copy: false,
    rdma: false,
    recovers: None,
    flags: u32::MAX,
};

/// One connection, either end.
pub struct Hand {
    pub socket: Arc<TcpStream>,
    pub reader: FrameReader,
    pub writer: FrameWriter,
    control: u64,
}

/// A hello that opens a migration of this guest.
pub fn open(id: u8, guest: &str, layout: MemoryLayout) -> Hello {
    Hello {
        migration: MigrationId([id; 16]),
        stream: StreamId(0),
        node: "mallory".into(),
        features: FEATURES,
        purpose: Purpose::Open { guest: guest.into(), layout },
    }
}

impl Hand {
    pub fn new(socket: TcpStream) -> Self {
        // So that a test fails instead of hanging.
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let socket = Arc::new(socket);
        Self::over(Channel::plain(socket))
    }

    /// Over a connection that is secured already.
    pub fn over(channel: Channel) -> Self {
        let socket = channel.socket().clone();
        let (reader, writer) = (FrameReader::new(channel.reader), FrameWriter::new(channel.writer));
        Self { reader, writer, socket, control: 0 }
    }

    /// Connects and says hello.
    pub fn dial(to: &str, hello: &Hello) -> (Self, HelloReply) {
        Self::new(TcpStream::connect(to).unwrap()).hello(hello)
    }

    /// Says hello.
    pub fn hello(self, hello: &Hello) -> (Self, HelloReply) {
        let mut hand = self;
        hand.writer.open(&Frame { kind: FrameKind::Hello, payload: hello.encode() }).unwrap();
        hand.reader.preface().unwrap();
        let reply = hand.reader.expect(FrameKind::HelloReply).unwrap();
        (hand, HelloReply::decode(&reply).unwrap())
    }

    /// Dials, and must be accepted.
    pub fn accepted(to: &str, hello: &Hello) -> (Self, [u8; 16]) {
        match Self::dial(to, hello) {
            (hand, HelloReply::Accept { token, .. }) => (hand, token),
            (_, refusal) => panic!("{refusal:?}"),
        }
    }

    /// Answers the hello of an accepted connection; none if it broke.
    pub fn answer(socket: TcpStream, reply: &HelloReply) -> Option<(Self, Hello)> {
        let mut hand = Self::new(socket);
        hand.reader.preface().ok()?;
        let hello = Hello::decode(&hand.reader.expect(FrameKind::Hello).ok()?).unwrap();
        let reply = Frame { kind: FrameKind::HelloReply, payload: reply.encode() };
        hand.writer.open(&reply).ok()?;
        Some((hand, hello))
    }

    /// Sends a control message with the number that is due.
    pub fn say(&mut self, message: &Control) {
        let payload = message.encode(self.control);
        self.control += 1;
        self.frame(FrameKind::Control, payload);
    }

    /// Sends a frame; that the peer has hung up is for the caller to see when it reads.
    pub fn frame(&mut self, kind: FrameKind, payload: Vec<u8>) {
        let _ = self.writer.frame(&Frame { kind, payload });
    }

    pub fn chunk(&mut self, header: &ChunkHeader, payload: &[u8]) {
        let head = chunk_head(header, payload.len(), self.writer.sequence());
        let chunk = EncodedChunk {
            head: &head,
            payload,
            zero_pages: 0,
            full_pages: 0,
            codec: Codec::None,
            read_bytes: 0,
        };
        let _ = self.writer.chunk(&chunk);
    }

    pub fn next(&mut self) -> Result<Incoming, ConnectionError> {
        self.reader.next(PAGE_BYTES)
    }

    /// The next chunk acknowledgement; other frames are passed over.
    pub fn next_ack(&mut self) -> ChunkAck {
        loop {
            match self.next().expect("an acknowledgement") {
                Incoming::Frame(frame) if frame.kind == FrameKind::ChunkAck => {
                    return ChunkAck::decode(&frame.payload).unwrap();
                }
                _ => {}
            }
        }
    }

    /// The abort that the peer sends; other frames are passed over.
    pub fn next_abort(&mut self) -> (i32, String) {
        loop {
            let Incoming::Frame(frame) = self.next().expect("an abort") else { continue };
            if frame.kind == FrameKind::Control
                && let Control::Abort { status, reason } =
                    Control::decode(&frame.payload).unwrap().1
            {
                return (status, reason);
            }
        }
    }

    /// Reads until the peer closes.
    pub fn drain(&mut self) {
        while self.next().is_ok() {}
    }
}

/// Frame header and chunk header of a chunk.
pub fn chunk_head(header: &ChunkHeader, payload_bytes: usize, sequence: u64) -> Vec<u8> {
    let mut body = Vec::new();
    header.encode(&mut body);
    let frame = FrameHeader {
        kind: FrameKind::Chunk,
        payload_bytes: (body.len() + payload_bytes) as u32,
        sequence,
        body_crc: crc32fast::hash(&body),
    };
    [&frame.encode()[..], &body].concat()
}

/// An honest chunk of stored pages, from `first_page` on.
pub fn stored_chunk(id: u64, first_page: u64, payload: &[u8]) -> ChunkHeader {
    let pages = payload.chunks_exact(PAGE_BYTES as usize);
    let count = pages.len() as u32;
    let mut checksum = ChunkChecksum::default();
    checksum.add_run(first_page, pages.map(page_hash));
    ChunkHeader {
        id: ChunkId(id),
        checksum: checksum.value(),
        raw_bytes: payload.len() as u32,
        payload_bytes: payload.len() as u32,
        codec: 0,
        extents: vec![Extent { first_page, pages: count, kind: ExtentKind::Data }],
    }
}

//! v1 by hand: a receiver that reads as v1's does, and senders that write what v1 writes, or worse.

use crate::stage::{IMAGE_BYTES, PATIENCE};
use dwcp::runtime::sys::socket::set_receive_buffer;
use dwcp::wire::v1::frames::{FrameReader, Header};
use dwcp::wire::v1::{f8, f16, hde, payload};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;

/// A v1 peer that listens.
pub struct Receiver {
    listener: TcpListener,
    pub address: SocketAddr,
}

impl Receiver {
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        Self { listener, address }
    }

    /// As [`Self::new`], but what it does not read stays at the sender.
    pub fn narrow() -> Self {
        let receiver = Self::new();
        set_receive_buffer(&receiver.listener, 4096).unwrap();
        receiver
    }

    pub fn accept(&self) -> TcpStream {
        let socket = self.listener.accept().unwrap().0;
        socket.set_read_timeout(PATIENCE).unwrap();
        socket
    }

    /// Reads so many connections to their ends, each on a thread, as v1 does.
    pub fn drain(self, streams: usize) -> JoinHandle<Vec<Vec<u8>>> {
        std::thread::spawn(move || {
            let sockets: Vec<_> = (0..streams).map(|_| self.accept()).collect();
            let read = |mut socket: TcpStream| {
                let mut bytes = Vec::new();
                socket.read_to_end(&mut bytes).unwrap();
                bytes
            };
            let threads: Vec<_> = sockets
                .into_iter()
                .map(|socket| std::thread::spawn(move || read(socket)))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }
}

/// All frames of a connection, which must end between two.
pub fn frames<H: Header>(mut bytes: &[u8]) -> Vec<(H, Vec<u8>)> {
    let (mut reader, mut frames) = (FrameReader::default(), Vec::new());
    while let Some(frame) = reader.next::<H>(&mut bytes).unwrap() {
        frames.push(frame);
    }
    assert!(reader.is_between_frames(), "cut within a frame");
    frames
}

/// An image as no guest of the tests has it, from a seed.
pub fn image(seed: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut image = vec![0; IMAGE_BYTES as usize];
    // Zero pages among it, which a guest is to have as zero pages.
    image.chunks_mut(4096).step_by(3).for_each(|page| rng.fill(page));
    image
}

/// A packet in F16's chunks.
pub fn f16_frames(packet: &[u8]) -> Vec<Vec<u8>> {
    let chunks = f16::chunks(packet, f16::DEFAULT_CHUNK_BYTES).unwrap();
    chunks.map(|(header, payload)| [&header.encode()[..], payload].concat()).collect()
}

/// Memory in F8's chunks.
pub fn f8_frames(image: &[u8]) -> Vec<Vec<u8>> {
    let transfer = f8::Transfer::new(image.len() as u64, f8::DEFAULT_CHUNK_BYTES).unwrap();
    let chunks = transfer.chunks(image);
    chunks.map(|(header, payload)| [&header.encode()[..], payload].concat()).collect()
}

/// What v1's migrations send of a memory.
pub fn packet(image: &[u8]) -> Vec<u8> {
    hde::pack_image(image, hde::Tier::Regional).unwrap()
}

/// Plain memory.
pub fn plain(image: &[u8]) -> Vec<u8> {
    payload::encode_memory(image)
}

/// Writes frames over connections in turn, and hangs up.
pub fn send(mut sockets: Vec<TcpStream>, frames: &[Vec<u8>]) {
    let count = sockets.len();
    for (at, frame) in frames.iter().enumerate() {
        sockets[at % count].write_all(frame).unwrap();
    }
}

/// What the other end says until it hangs up, which must not be anything.
pub fn assert_hung_up(mut socket: TcpStream) {
    let mut bytes = Vec::new();
    // A connection that is closed with bytes unread is reset.
    if let Err(error) = socket.read_to_end(&mut bytes) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    }
    assert!(bytes.is_empty(), "v1 never says anything: {bytes:?}");
}

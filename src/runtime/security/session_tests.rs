//! Sessions against rustls' own connections, in either part.

use super::*;
use crate::runtime::security::test_identity::TestIdentity;
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::{ClientConnection, ConnectionCommon, ServerConnection, SideData};
use std::io::Write;
use std::net::{Shutdown, TcpListener};
use std::ops::DerefMut;
use std::thread::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(60);
const LENGTHS: [usize; 7] = [1, 100, 16_383, 16_384, 16_385, 70_000, 300_000];

fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let here = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let there = listener.accept().unwrap().0;
    for socket in [&here, &there] {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    (here, there)
}

fn open_ours(
    side: impl Side,
    socket: TcpStream,
) -> Result<(SessionReader, SessionWriter), HandshakeError> {
    open(side, Arc::new(socket), PATIENCE, |_| Ok(()))
}

fn filler(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 31 + at / 253) as u8).collect()
}

/// Sends back what comes, each time as much as was agreed on, and changes its keys on the way.
fn echo<Data: SideData>(
    mut peer: impl DerefMut<Target = ConnectionCommon<Data>> + Send + 'static,
    mut socket: TcpStream,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for bytes in LENGTHS {
            let mut buffer = vec![0; bytes];
            let mut stream = rustls::Stream::new(&mut peer, &mut socket);
            stream.read_exact(&mut buffer).unwrap();
            stream.conn.refresh_traffic_keys().unwrap();
            stream.write_all(&buffer).unwrap();
            stream.flush().unwrap();
        }
    })
}

/// What one of two sessions sends, and the other reads.
fn one_way(name: &str) -> (SessionReader, SessionWriter) {
    let identity = TestIdentity::new(name);
    let (here, there) = sockets();
    let name = "127.0.0.1".try_into().unwrap();
    let client = UnbufferedClientConnection::new(identity.client(), name).unwrap();
    let other = std::thread::spawn(move || open_ours(client, there).unwrap());
    let server = UnbufferedServerConnection::new(identity.server()).unwrap();
    let (reader, _) = open_ours(server, here).unwrap();
    (reader, other.join().unwrap().1)
}

fn talk((mut reader, mut writer): (SessionReader, SessionWriter), records_under_a_key: u64) {
    writer.sealer.limit_records(records_under_a_key);
    for bytes in LENGTHS {
        let sent = filler(bytes);
        let (head, rest) = sent.split_at(bytes / 3);
        writer.write_all(&[head, &[], rest]).unwrap();
        let mut came = vec![0; bytes];
        reader.read_exact(&mut came).unwrap();
        assert!(came == sent, "{bytes} bytes");
    }
}

#[test]
fn either_part_talks_with_rustls_and_both_change_keys() {
    let identity = TestIdentity::new("session");
    for records in [3, u64::MAX] {
        let (here, there) = sockets();
        let peer = echo(ServerConnection::new(identity.server()).unwrap(), there);
        let name = "127.0.0.1".try_into().unwrap();
        let client = UnbufferedClientConnection::new(identity.client(), name).unwrap();
        talk(open_ours(client, here).unwrap(), records);
        peer.join().unwrap();

        let (here, there) = sockets();
        let name = "127.0.0.1".try_into().unwrap();
        let peer = echo(ClientConnection::new(identity.client(), name).unwrap(), there);
        let server = UnbufferedServerConnection::new(identity.server()).unwrap();
        talk(open_ours(server, here).unwrap(), records);
        peer.join().unwrap();
    }
}

#[test]
fn data_that_comes_with_the_end_of_the_handshake_is_read_first() {
    let identity = TestIdentity::new("early");
    let (here, mut there) = sockets();
    let name = "127.0.0.1".try_into().unwrap();
    let mut peer = ClientConnection::new(identity.client(), name).unwrap();
    let client = std::thread::spawn(move || {
        // Kept until the handshake is over, then sent together with its last message; the last record
        // is cut in two.
        peer.writer().write_all(&filler(40_000)).unwrap();
        while peer.is_handshaking() {
            peer.complete_io(&mut there).unwrap();
        }
        let mut rest = Vec::new();
        peer.writer().write_all(&filler(100)).unwrap();
        while peer.wants_write() {
            peer.write_tls(&mut rest).unwrap();
        }
        let (first, second) = rest.split_at(rest.len() - 50);
        there.write_all(first).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        there.write_all(second).unwrap();
        there.shutdown(Shutdown::Write).unwrap();
    });
    let server = UnbufferedServerConnection::new(identity.server()).unwrap();
    let (mut reader, _writer) = open_ours(server, here).unwrap();
    let mut came = Vec::new();
    reader.read_to_end(&mut came).unwrap();
    client.join().unwrap();
    assert!(came == [filler(40_000), filler(100)].concat(), "{} bytes", came.len());
}

#[test]
fn what_is_pending_can_be_read_without_the_socket() {
    let (mut reader, mut their_writer) = one_way("pending");
    assert!(!reader.has_pending());
    their_writer.write_all(&[b"one"]).unwrap();
    their_writer.write_all(&[b"two"]).unwrap();
    // A record is five bytes before its data, one and a tag of sixteen behind.
    let mut both = [0; 2 * (5 + 3 + 1 + 16)];
    while reader.socket().peek(&mut both).unwrap() < both.len() {
        std::thread::yield_now();
    }
    let mut three = [0; 3];
    reader.read_exact(&mut three).unwrap();
    assert_eq!((&three, reader.has_pending()), (b"one", true));
    reader.socket().set_nonblocking(true).unwrap();
    reader.read_exact(&mut three).unwrap();
    assert_eq!((&three, reader.has_pending()), (b"two", false));
}

#[test]
fn damage_is_told_each_time_and_never_taken_for_an_end() {
    let (mut reader, mut their_writer) = one_way("damage");
    their_writer.write_all(&[b"whole"]).unwrap();
    let forged = [&[23, 3, 3, 0, 30][..], &[7; 30]].concat();
    (&*their_writer.socket).write_all(&forged).unwrap();
    let mut whole = [0; 5];
    reader.read_exact(&mut whole).unwrap();
    assert_eq!(&whole, b"whole");
    for _ in 0..2 {
        let error = reader.read(&mut whole).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().contains("decrypt"), "{error}");
        assert!(reader.has_pending(), "the error can be read");
    }
}

#[test]
fn a_peer_that_says_nothing_is_given_up() {
    let identity = TestIdentity::new("silent");
    let (here, _there) = sockets();
    let server = UnbufferedServerConnection::new(identity.server()).unwrap();
    let patience = Duration::from_millis(50);
    let opened = open(server, Arc::new(here), patience, |_| Ok::<_, HandshakeError>(()));
    assert!(matches!(opened.err(), Some(HandshakeError::Slow(within)) if within == patience));
}

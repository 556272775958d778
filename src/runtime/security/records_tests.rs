//! Records between two ends that have shaken hands, whole, changed, out of order and hostile.

use super::*;
use crate::runtime::security::handshake::{self, Finished, HandshakeError};
use crate::runtime::security::test_identity::TestIdentity;
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// What seals at one end, what opens at the other, and the same the other way.
struct Ends {
    here: Finished,
    there: Finished,
}

impl Ends {
    fn new() -> Self {
        let identity = TestIdentity::new("records");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = UnbufferedServerConnection::new(identity.server()).unwrap();
        let other = std::thread::spawn(move || {
            let (socket, _) = listener.accept().unwrap();
            finish(server, &socket)
        });
        let name = "127.0.0.1".try_into().unwrap();
        let client = UnbufferedClientConnection::new(identity.client(), name).unwrap();
        let here = finish(client, &TcpStream::connect(address).unwrap());
        Self { here, there: other.join().unwrap() }
    }

    fn seal(&mut self, data: &[u8]) -> Vec<Vec<u8>> {
        let mut records = Vec::new();
        self.here.sealer.seal(OutboundChunks::Single(data), &mut records).unwrap();
        records
    }

    /// A record of any kind.
    fn record(&mut self, typ: ContentType, payload: &[u8]) -> Vec<u8> {
        self.here.sealer.record(typ, OutboundChunks::Single(payload)).unwrap()
    }

    fn open(&mut self, mut record: Vec<u8>) -> Result<Vec<u8>, Error> {
        match self.there.opener.open(&mut record)? {
            Opened::Data { bytes, data } => {
                assert_eq!(bytes, record.len());
                Ok(record[data].to_vec())
            }
            Opened::Idle(bytes) => {
                assert_eq!(bytes, record.len());
                Ok(Vec::new())
            }
            other => panic!("{other:?}"),
        }
    }
}

fn finish(side: impl handshake::Side, socket: &TcpStream) -> Finished {
    let mut incoming = vec![0; 1 << 17];
    let check = |_: &rustls::CommonState| Ok::<(), HandshakeError>(());
    let finished = handshake::run(side, socket, &mut incoming, PATIENCE, check).unwrap();
    assert_eq!((finished.unread, finished.early.len()), (0, 0));
    finished
}

fn filler(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 7 + at / 251) as u8).collect()
}

#[test]
fn data_of_every_length_comes_as_it_was_sent() {
    let mut ends = Ends::new();
    for bytes in [1, 2, 100, RECORD_BYTES - 1, RECORD_BYTES, RECORD_BYTES + 1, 3 * RECORD_BYTES + 7]
    {
        let sent = filler(bytes);
        let records = ends.seal(&sent);
        assert_eq!(records.len(), bytes.div_ceil(RECORD_BYTES));
        let came: Vec<u8> = records.into_iter().flat_map(|one| ends.open(one).unwrap()).collect();
        assert!(came == sent, "{bytes} bytes");
    }
    assert!(ends.seal(b"").is_empty());
    let pieces: &[&[u8]] = &[b"in ", b"", b"three ", b"pieces"];
    let mut records = Vec::new();
    ends.here.sealer.seal(OutboundChunks::new(pieces), &mut records).unwrap();
    assert_eq!(ends.open(records.remove(0)).unwrap(), b"in three pieces");
}

#[test]
fn a_part_of_a_record_waits_for_the_rest() {
    let mut ends = Ends::new();
    let record = ends.seal(b"all of it").remove(0);
    for bytes in 0..record.len() {
        assert_eq!(ends.there.opener.open(&mut record[..bytes].to_vec()), Ok(Opened::Part));
    }
    assert_eq!(ends.open(record).unwrap(), b"all of it");
}

#[test]
fn a_record_that_was_changed_is_not_opened() {
    let mut ends = Ends::new();
    let record = ends.seal(b"secret").remove(0);
    for at in 0..record.len() {
        for bit in 0..8 {
            let mut changed = record.clone();
            changed[at] ^= 1 << bit;
            let opened = ends.there.opener.open(&mut changed);
            assert!(
                matches!(opened, Err(_) | Ok(Opened::Part)),
                "byte {at}, bit {bit}: {opened:?}"
            );
        }
    }
    assert_eq!(ends.open(record).unwrap(), b"secret");
}

#[test]
fn records_that_are_repeated_left_out_or_swapped_are_not_opened() {
    let mut ends = Ends::new();
    let [first, second] = [b"1", b"2"].map(|data| ends.seal(data).remove(0));
    assert_eq!(ends.open(second.clone()), Err(Error::DecryptError));
    assert_eq!(ends.open(first.clone()).unwrap(), b"1");
    assert_eq!(ends.open(first), Err(Error::DecryptError));
    assert_eq!(ends.open(second).unwrap(), b"2");
    // What one side has sealed is nothing that it opens itself.
    let mut own = ends.seal(b"3").remove(0);
    assert_eq!(ends.here.opener.open(&mut own), Err(Error::DecryptError));
}

#[test]
fn keys_change_before_they_have_sealed_too_much() {
    let mut ends = Ends::new();
    let mut limit = ends.here.sealer.limit;
    assert!(limit >= 1 << 23, "{limit} records of AES-GCM's");
    limit = 5;
    ends.here.sealer.limit = limit;
    let sent = filler(40 * RECORD_BYTES);
    let records = ends.seal(&sent);
    assert_eq!(records.len() as u64, 40 + 39 / limit);
    assert!(ends.here.sealer.sequence <= limit);
    let came: Vec<u8> = records.into_iter().flat_map(|one| ends.open(one).unwrap()).collect();
    assert!(came == sent);
}

#[test]
fn a_side_that_is_asked_to_change_its_keys_does_so_once() {
    let mut ends = Ends::new();
    let asking = [&KEY_UPDATE[..], &[1]].concat();
    let record = ends.record(ContentType::Handshake, &asking);
    let secrets = lock(&ends.here.sealer.shared.schedule).next_sealing().unwrap();
    ends.here.sealer.encrypter = ends.here.sealer.shared.encrypter(secrets).unwrap();
    ends.here.sealer.sequence = 0;
    assert_eq!(ends.open(record).unwrap(), b"");
    let fresh = ends.seal(b"with the new key").remove(0);
    assert_eq!(ends.open(fresh).unwrap(), b"with the new key");
    let mut records = Vec::new();
    for _ in 0..2 {
        ends.there.sealer.seal(OutboundChunks::Single(b"back"), &mut records).unwrap();
    }
    let opened: Vec<_> = records
        .iter_mut()
        .map(|record| ends.here.opener.open(record).unwrap())
        .map(|opened| matches!(opened, Opened::Data { .. }))
        .collect();
    assert_eq!(opened, [false, true, true]);
}

#[test]
fn what_nobody_sends_after_a_handshake_ends_the_connection() {
    let certificate_request = [13, 0, 0, 0];
    let half_an_update = &KEY_UPDATE[..3];
    let odd_update = [&KEY_UPDATE[..], &[2]].concat();
    let two_updates = [&KEY_UPDATE[..], &[0], &KEY_UPDATE[..], &[0]].concat();
    for (typ, payload, text) in [
        (ContentType::Alert, &[2, 48][..], "UnknownCA"),
        (ContentType::Alert, &[2], "InvalidContentType"),
        (ContentType::Handshake, &certificate_request, "CertificateRequest"),
        (ContentType::Handshake, half_an_update, "KeyUpdate"),
        (ContentType::Handshake, &odd_update, "KeyUpdate"),
        (ContentType::Handshake, &two_updates, "KeyUpdate"),
        (ContentType::ChangeCipherSpec, &[1], "ChangeCipherSpec"),
        (ContentType::Unknown(99), &[1], "InvalidContentType"),
    ] {
        let mut ends = Ends::new();
        let record = ends.record(typ, payload);
        let error = ends.open(record).unwrap_err();
        assert!(format!("{error:?}").contains(text), "{error:?} lacks {text}");
    }
}

#[test]
fn headers_that_cannot_be_are_refused_before_more_is_read() {
    let mut opener = Ends::new().there.opener;
    for (header, text) in [
        ([22, 3, 3, 0, 9], "InvalidContentType"),
        ([23, 3, 1, 0, 9], "InvalidContentType"),
        ([23, 3, 3, 0x41, 1], "PeerSentOversizedRecord"),
        ([23, 3, 3, 0xff, 0xff], "PeerSentOversizedRecord"),
    ] {
        let error = opener.open(&mut header.clone()).unwrap_err();
        assert!(format!("{error:?}").contains(text), "{error:?} lacks {text}");
    }
    assert_eq!(opener.open(&mut [23, 3, 3, 0x41, 0]), Ok(Opened::Part), "the largest");
    assert_eq!(opener.open(&mut [23, 3, 3, 0, 0]), Err(Error::DecryptError), "the smallest");
}

#[test]
fn records_that_carry_nothing_do_not_go_on_for_ever() {
    let mut ends = Ends::new();
    for round in 0..2 {
        for _ in 0..MAX_IDLE_RECORDS {
            let empty = ends.record(ContentType::ApplicationData, b"");
            assert_eq!(ends.open(empty).unwrap(), b"", "round {round}");
        }
        let data = ends.seal(b"data").remove(0);
        assert_eq!(ends.open(data).unwrap(), b"data");
    }
    let mut open_empty = || {
        let empty = ends.record(ContentType::ApplicationData, b"");
        ends.open(empty)
    };
    let opened: Vec<_> = (0..=MAX_IDLE_RECORDS).map(|_| open_empty()).collect();
    assert!(opened[..MAX_IDLE_RECORDS as usize].iter().all(Result::is_ok));
    let last = opened.last().unwrap();
    assert_eq!(*last, Err(PeerMisbehaved::TooManyKeyUpdateRequests.into()));
}

#[test]
fn a_side_that_closes_says_so() {
    let mut ends = Ends::new();
    let mut close = ends.record(ContentType::Alert, &[1, 0]);
    assert_eq!(ends.there.opener.open(&mut close), Ok(Opened::Closed));
}

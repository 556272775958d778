//! Guests that leave for a v1 peer by hand.

use crate::hand::{Receiver, assert_hung_up, frames};
use crate::stage::{Directory, Home, PATIENCE, connections, node, options, wait_until};
use dwcp::migration::{Dialect, MigrationOptions, PostCopyRule, V1Options};
use dwcp::observe::{ConnectionState, EventKind};
use dwcp::runtime::record_keeper::read_all;
use dwcp::wire::v1::hde::{Content, Packet};
use dwcp::wire::v1::{f8, f16, payload};
use dwcp::{NodeError, NodeOptions, SecurityOptions, Status};
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

fn hasty() -> MigrationOptions {
    let stall_timeout = Duration::from_secs(1);
    MigrationOptions { streams: 2, stall_timeout, ..MigrationOptions::default() }
}

fn slow() -> MigrationOptions {
    let bandwidth_limit_bytes_per_s = Some(65_536);
    MigrationOptions { streams: 4, bandwidth_limit_bytes_per_s, ..MigrationOptions::default() }
}

#[test]
fn a_v1_receiver_gets_one_whole_packet_in_f16() {
    let (home, receiver) = (Home::new(options(Dialect::F16)), Receiver::new());
    let (address, peer) = (receiver.address, receiver.drain(4));
    home.assert_in_doubt(&home.run(address));
    let mut assembler = f16::Assembler::new(u32::MAX);
    let mut packet = None;
    for (header, payload) in peer.join().unwrap().iter().flat_map(|bytes| frames(bytes)) {
        assert!(packet.is_none(), "more follows on a whole packet");
        packet = assembler.add(header, payload).unwrap();
    }
    let packet = packet.expect("the packet is not whole");
    let packet = Packet::decode(&packet).unwrap();
    assert!(!packet.is_delta, "v1 never applies a difference");
    let Content::Image(image) = packet.unpack(1 << 30).unwrap() else { panic!("no image") };
    assert!(image == home.guest.image());
}

#[test]
fn a_v1_receiver_gets_each_chunk_on_its_stream_in_f8() {
    let (home, receiver) = (Home::new(options(Dialect::F8)), Receiver::new());
    let (address, peer) = (receiver.address, receiver.drain(3));
    let trip = MigrationOptions { streams: 3, ..MigrationOptions::default() };
    let report = home.migrate(address, trip).wait(PATIENCE).unwrap();
    home.assert_in_doubt(&report);
    let image = home.guest.image();
    let transfer = f8::Transfer::new(image.len() as u64, f8::DEFAULT_CHUNK_BYTES).unwrap();
    let (mut assembler, mut whole) = (f8::Assembler::new(transfer), None);
    for stream in peer.join().unwrap() {
        let chunks = frames::<f8::ChunkHeader>(&stream);
        let streams: Vec<_> = chunks.iter().map(|(header, _)| header.stream(3)).collect();
        assert!(streams.windows(2).all(|pair| pair[0] == pair[1]), "{streams:?}");
        for (header, payload) in chunks {
            whole = assembler.add(header, &payload).unwrap();
        }
    }
    assert!(whole == Some(image));
}

#[test]
fn a_v1_receiver_gets_a_length_and_the_memory_in_plain() {
    let (home, receiver) = (Home::new(options(Dialect::Plain)), Receiver::new());
    let (address, peer) = (receiver.address, receiver.drain(1));
    let report = home.run(address);
    home.assert_in_doubt(&report);
    let bytes = peer.join().unwrap().remove(0);
    assert_eq!(report.wire_bytes, bytes.len() as u64);
    assert!(payload::decode_memory(&bytes, u64::MAX).unwrap() == home.guest.image());
}

#[test]
fn a_peer_that_says_something_back_is_not_listened_to() {
    let (home, receiver) = (Home::new(options(Dialect::Plain)), Receiver::new());
    let address = receiver.address;
    let peer = std::thread::spawn(move || {
        let mut socket = receiver.accept();
        socket.write_all(b"OK").unwrap();
        let mut bytes = Vec::new();
        socket.read_to_end(&mut bytes).unwrap();
        bytes.len()
    });
    home.assert_in_doubt(&home.run(address));
    peer.join().unwrap();
}

#[test]
fn a_peer_that_is_not_there_costs_the_guest_no_moment() {
    let home = Home::new(V1Options::default());
    let address = Receiver::new().address;
    let report = home.run(address);
    home.assert_stayed(&report, Status::Connect, &format!("v1 peer {address}"));
    assert_eq!((report.downtime_ms, home.guest.resumes()), (0.0, 1), "it was never paused");
}

#[test]
fn a_peer_that_hangs_up_before_the_image_is_whole_leaves_the_guest_here() {
    for dialect in Dialect::ALL {
        let (home, receiver) = (Home::new(options(dialect)), Receiver::narrow());
        let address = receiver.address;
        let peer = std::thread::spawn(move || {
            let mut socket = receiver.accept();
            socket.read_exact(&mut [0; 10_000]).unwrap();
        });
        let trip = MigrationOptions { streams: 1, ..MigrationOptions::default() };
        let report = home.migrate(address, trip).wait(PATIENCE).unwrap();
        home.assert_stayed(&report, Status::ConnectionLost, "v1 peer");
        peer.join().unwrap();
        assert_eq!(connections(&home.node, ConnectionState::Closed).len(), 1);
    }
}

#[test]
fn an_image_that_fits_one_packet_is_not_given_to_a_peer_that_hangs_up() {
    let (home, receiver) = (Home::new(options(Dialect::F16)), Receiver::new());
    // So little that one read would take it all.
    let little = crate::support::Guest::new(1, 0);
    little.start();
    home.node.add_source("little", little.source()).unwrap();
    let address = receiver.address;
    let peer = std::thread::spawn(move || {
        let mut socket = receiver.accept();
        let mut bytes = [0; 4096];
        // All but the last byte: nothing that v1 would take for whole.
        let mut read = 0;
        while read < f16::HEADER_BYTES {
            read += socket.read(&mut bytes[read..]).unwrap();
        }
        let header = <f16::ChunkHeader as dwcp::wire::v1::frames::Header>::decode(&bytes[..16]);
        (socket, header.unwrap().payload_bytes as usize + f16::HEADER_BYTES, read)
    });
    let trip = MigrationOptions { streams: 1, ..MigrationOptions::default() };
    let to = format!("v1://{address}");
    let migration = home.node.migrate("little", &to, trip).unwrap();
    let (socket, whole, read) = peer.join().unwrap();
    assert!(read <= whole);
    drop(socket);
    let report = migration.wait(PATIENCE).unwrap();
    // It may have been out before the peer hung up; if not, the guest goes on here.
    match report.status {
        Status::InDoubt => assert!(!little.is_running()),
        _ => assert!(little.is_running() && read < whole, "{report:?}"),
    }
    little.stop();
}

#[test]
fn a_peer_that_does_not_read_times_out() {
    for dialect in Dialect::ALL {
        let (home, receiver) = (Home::new(options(dialect)), Receiver::narrow());
        let report = home.migrate(receiver.address, hasty()).wait(PATIENCE).unwrap();
        home.assert_stayed(&report, Status::PeerStalled, "did not take a chunk within 1s");
    }
}

#[test]
fn a_cancel_brings_the_guest_back_until_the_image_is_out() {
    for dialect in Dialect::ALL {
        let (home, receiver) = (Home::new(options(dialect)), Receiver::new());
        let migration = home.migrate(receiver.address, slow());
        wait_until("something was sent", || migration.progress().wire_bytes > 0);
        assert!(!home.guest.is_running(), "the guest stands still meanwhile");
        migration.cancel();
        let report = migration.wait(PATIENCE).unwrap();
        home.assert_stayed(&report, Status::Cancelled, "cancelled by the caller");
        assert!(report.downtime_ms > 0.0);
    }
}

#[test]
fn a_cancel_while_connections_are_made_costs_the_guest_no_moment() {
    let (home, receiver) = (Home::new(options(Dialect::F8)), Receiver::new());
    let node = home.node.clone();
    home.node.observe(Arc::new(move |event| {
        if let EventKind::V1Connection { state: ConnectionState::Open, .. } = event.kind {
            wait_until("it is known", || !node.migrations().is_empty());
            node.migrations()[0].cancel();
        }
    }));
    let report = home.run(receiver.address);
    home.assert_stayed(&report, Status::Cancelled, "cancelled by the caller");
    assert_eq!((report.downtime_ms, home.guest.resumes()), (0.0, 1), "it was never paused");
}

#[test]
fn a_departure_that_has_ended_holds_nothing() {
    for dialect in Dialect::ALL {
        let (home, receiver) = (Home::new(options(dialect)), Receiver::new());
        let migration = home.migrate(receiver.address, slow());
        wait_until("something was sent", || migration.progress().wire_bytes > 0);
        assert!(migration.footprint().page_table_bytes > 0);
        migration.cancel();
        migration.wait(PATIENCE).unwrap();
        assert_eq!(migration.footprint().total_bytes(), 0, "{dialect}");
    }
}

#[test]
fn a_lifted_bandwidth_limit_lets_it_finish_and_then_a_cancel_changes_nothing() {
    let (home, receiver) = (Home::new(options(Dialect::F8)), Receiver::new());
    let (address, peer) = (receiver.address, receiver.drain(4));
    let migration = home.migrate(address, slow());
    wait_until("something was sent", || migration.progress().wire_bytes > 0);
    migration.set_bandwidth_limit(None);
    let report = migration.wait(PATIENCE).unwrap();
    migration.cancel();
    home.assert_in_doubt(&report);
    assert_eq!(migration.owner(), dwcp::migration::Owner::InDoubt);
    peer.join().unwrap();
}

#[test]
fn a_deadline_ends_the_time_that_the_guest_stands_still() {
    let (home, receiver) = (Home::new(options(Dialect::F8)), Receiver::new());
    let deadline = Some(Duration::from_millis(300));
    let trip = MigrationOptions { deadline, ..slow() };
    let report = home.migrate(receiver.address, trip).wait(PATIENCE).unwrap();
    home.assert_stayed(&report, Status::Timeout, "the deadline has passed");
}

#[test]
fn a_hypervisor_that_fails_keeps_its_guest() {
    for (call, is_paused) in [("pause", false), ("read_pages", true)] {
        let (home, receiver) = (Home::new(V1Options::default()), Receiver::new());
        home.guest.fail_at(Some(call));
        let migration = home.migrate(receiver.address, hasty());
        let report = migration.wait(PATIENCE).unwrap();
        assert_eq!(home.guest.resumes(), if is_paused { 2 } else { 1 });
        home.assert_stayed(&report, Status::Callback, &format!("{call} failed"));
    }
}

#[test]
fn a_record_that_cannot_be_written_keeps_the_guest_here() {
    let directory = Directory::new();
    let home = Home::with(node("alpha", Some(&directory.0)), V1Options::default());
    std::fs::remove_dir_all(&directory.0).unwrap();
    let receiver = Receiver::new();
    let report = home.run(receiver.address);
    home.assert_stayed(&report, Status::StateFile, "state file");
}

#[test]
fn a_guest_that_stayed_leaves_no_record() {
    let directory = Directory::new();
    let home = Home::with(node("alpha", Some(&directory.0)), V1Options::default());
    let nobody = Receiver::new().address;
    let report = home.run(nobody);
    home.assert_stayed(&report, Status::Connect, "v1 peer");
    assert!(read_all(&directory.0).unwrap().records.is_empty());
}

#[test]
fn a_v3_port_that_is_taken_for_a_v1_peer_costs_nothing() {
    let home = Home::new(V1Options::default());
    let listen = Some("127.0.0.1:0".parse().unwrap());
    let security = SecurityOptions::Plain;
    let options = NodeOptions { name: "v3".into(), listen, security, ..NodeOptions::default() };
    let v3 = dwcp::Node::start(options).unwrap();
    let report = home.run(v3.local_address().unwrap());
    home.assert_stayed(&report, Status::ConnectionLost, "v1 peer");
    v3.stop();
}

#[test]
fn what_cannot_go_by_v1_is_refused_before_anything_is_sent() {
    let receiver = Receiver::new();
    let to = format!("v1://{}", receiver.address);
    let home = Home::new(V1Options { max_image_bytes: 1 << 20, ..V1Options::default() });
    let refused =
        |to: &str| home.node.migrate("vm", to, MigrationOptions::default()).err().unwrap();
    let error = refused(&to);
    assert_eq!(error.status(), Status::LimitReached);
    assert!(error.to_string().contains("2867200 bytes, the limit is 1048576 (by v1.max_image)"));
    for public in ["v1://8.8.8.8:9876", "v1://[2600::1]:9876"] {
        let error = refused(public);
        assert!(matches!(error, NodeError::V1(_)), "{error}");
        assert!(error.to_string().contains("is a public address"), "{error}");
    }
    assert!(refused("v1://nowhere").to_string().contains("is not HOST:PORT"));
    let automatic =
        MigrationOptions { post_copy: PostCopyRule::Auto, ..MigrationOptions::default() };
    let error = home.node.migrate("vm", &to, automatic).err().unwrap();
    assert_eq!(error.status(), Status::Unsupported);
    assert!(error.to_string().contains("post_copy is auto"), "{error}");
    let f8 = V1Options { f8_chunk_bytes: 5000, ..options(Dialect::F8) };
    home.node.set_v1(f8).unwrap();
    assert!(refused(&to).to_string().contains("5000, no multiple of the guest's pages of 4096"));
    assert!(home.guest.is_running() && home.guest.endings().is_empty());
    assert_eq!(home.node.guests()[0].migration, None);
    assert!(home.node.migrations().is_empty());
}

#[test]
fn a_departure_ends_with_its_node() {
    let (home, receiver) = (Home::new(options(Dialect::F8)), Receiver::new());
    let migration = home.migrate(receiver.address, slow());
    let sockets: Vec<_> = (0..4).map(|_| receiver.accept()).collect();
    wait_until("something was sent", || migration.progress().wire_bytes > 0);
    home.node.stop();
    let report = migration.report().expect("the node waits for its migrations");
    assert_eq!(report.status, Status::Cancelled);
    assert!(home.guest.is_running());
    for mut socket in sockets {
        let sent = socket.read_to_end(&mut Vec::new());
        assert!(
            sent.is_ok() || sent.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset)
        );
        assert_hung_up(socket);
    }
}

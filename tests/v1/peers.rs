//! Who is a v1 peer, and what follows.

use crate::hand::Receiver;
use crate::stage::{Home, four_streams, node, options, wait_until};
use dwcp::base::limits::MAX_PEERS;
use dwcp::migration::{Dialect, MigrationOptions, Owner, V1Options};
use dwcp::runtime::modes::TransportOptions;
use dwcp::transport::Mode;
use dwcp::transport::mode::ModePolicy;
use dwcp::{NodeError, Status};
use std::net::TcpListener;

fn named(peer: &str) -> V1Options {
    V1Options { peers: vec![peer.to_string()], ..options(Dialect::F16) }
}

fn force(home: &Home, mode: Option<Mode>) {
    let policy = ModePolicy { forced: mode, ..ModePolicy::default() };
    home.node.set_transport(TransportOptions { policy, ..TransportOptions::default() });
}

fn migrate(home: &Home, to: &str) -> Result<dwcp::Migration, NodeError> {
    home.node.migrate("vm", to, four_streams())
}

#[test]
fn a_named_peer_is_spoken_v1_to_until_it_is_named_no_more() {
    let receiver = Receiver::new();
    let (to, home) =
        (receiver.address.to_string(), Home::new(named(&receiver.address.to_string())));
    let known = home.node.peers().remove(0);
    assert_eq!((known.peer.as_str(), known.mode), (to.as_str(), Mode::V1Compat));
    let peer = receiver.drain(4);
    let report = migrate(&home, &to).unwrap().wait(crate::stage::PATIENCE).unwrap();
    home.assert_in_doubt(&report);
    assert!(peer.join().unwrap().iter().all(|bytes| !bytes.starts_with(b"DWCP")));
    home.node.set_v1(V1Options::default()).unwrap();
    assert_eq!(home.node.peers()[0].mode, Mode::Hybrid);
}

#[test]
fn a_mode_that_is_forced_for_one_peer_takes_effect() {
    let (home, receiver) = (Home::new(V1Options::default()), Receiver::new());
    let to = receiver.address.to_string();
    home.node.set_mode(Some(&to), Some(Mode::V1Compat)).unwrap();
    let peer = receiver.drain(4);
    let report = migrate(&home, &to).unwrap().wait(crate::stage::PATIENCE).unwrap();
    home.assert_in_doubt(&report);
    peer.join().unwrap();
}

#[test]
fn a_mode_that_is_forced_for_all_sends_no_guest_in_plain_to_whom_nobody_named() {
    let (home, receiver) = (Home::new(V1Options::default()), Receiver::new());
    let to = receiver.address.to_string();
    force(&home, Some(Mode::V1Compat));
    let error = migrate(&home, &to).err().unwrap();
    assert_eq!(error.status(), Status::BadState);
    for text in ["not named", &to, "v1.peers", "no encryption", "no acknowledgement"] {
        assert!(error.to_string().contains(text), "{error} lacks {text}");
    }
    assert!(home.guest.is_running());
    home.node.set_v1(named(&to)).unwrap();
    let peer = receiver.drain(4);
    let report = migrate(&home, &to).unwrap().wait(crate::stage::PATIENCE).unwrap();
    home.assert_in_doubt(&report);
    peer.join().unwrap();
}

#[test]
fn a_v1_peer_is_neither_probed_nor_tested() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap().to_string();
    let node = node("alpha", None);
    node.set_v1(named(&to)).unwrap();
    let detected = node.detect_mode(&to).unwrap();
    assert_eq!((detected.mode, detected.silent_us, detected.failure), (Mode::V1Compat, None, None));
    let error = node.probe_peer(&to, 1).unwrap_err().to_string();
    assert!(error.contains("takes a probe for a chunk"), "{error}");
    let second = std::time::Duration::from_secs(1);
    let tested = node.test_transport(Some(&to), (Mode::Hybrid, 1), second);
    assert!(tested.unwrap_err().to_string().contains("takes a probe for a chunk"));
    listener.set_nonblocking(true).unwrap();
    let nobody = listener.accept().unwrap_err();
    assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock, "somebody connected");
    // Once it is no v1 peer any more it is probed like any other.
    node.set_v1(V1Options::default()).unwrap();
    wait_until("it is probed", || listener.accept().is_ok());
    node.stop();
}

#[test]
fn a_v3_node_that_takes_a_v1_port_for_a_node_keeps_its_guest() {
    let port = crate::stage::Port::new(V1Options::default());
    let home = Home::new(V1Options::default());
    let reconnect_timeout = std::time::Duration::from_secs(1);
    let options = MigrationOptions { reconnect_timeout, ..MigrationOptions::default() };
    let migration = home.node.migrate("vm", &port.address.to_string(), options).unwrap();
    let report = migration.wait(crate::stage::PATIENCE).unwrap();
    assert_eq!(report.owner, Owner::Source);
    assert!(home.guest.is_running() && port.node.migrations().is_empty());
}

#[test]
fn addresses_are_checked_when_peers_are_named() {
    let node = node("alpha", None);
    for (peer, text) in [("nowhere", "is not HOST:PORT"), ("8.8.8.8:1", "is a public address")] {
        let error = node.set_v1(named(peer)).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
    let peers = (0..300).map(|peer| format!("host-{peer}:1")).collect();
    let error = node.set_v1(V1Options { peers, ..V1Options::default() }).unwrap_err();
    assert_eq!(error.status(), Status::LimitReached);
    assert!(node.v1_options().peers.is_empty() && node.peers().is_empty());
    let error = node.listen_v1("8.8.8.8:9876".parse().unwrap()).unwrap_err().to_string();
    assert!(error.contains("8.8.8.8 is a public address"), "{error}");
    let address = node.listen_v1("127.0.0.1:0".parse().unwrap()).unwrap();
    let again = node.listen_v1("127.0.0.1:0".parse().unwrap()).unwrap_err();
    assert_eq!(again.status(), Status::AlreadyExists);
    assert_eq!(node.v1_address(), Some(address));
    node.stop();
    assert_eq!(node.v1_address(), None);
}

#[test]
fn peers_for_whom_there_is_no_room_change_nothing() {
    let (node, old) = (node("alpha", None), "10.0.0.1:1");
    node.set_v1(named(old)).unwrap();
    for peer in 1..MAX_PEERS {
        node.set_mode(Some(&format!("host-{peer}:1")), Some(Mode::V1Compat)).unwrap();
    }
    let two = V1Options { peers: vec!["10.0.0.2:1".into(), "10.0.0.3:1".into()], ..named(old) };
    let error = node.set_v1(two).unwrap_err();
    assert_eq!(error.status(), Status::LimitReached, "{error}");
    assert_eq!(node.v1_options(), named(old));
    let named: Vec<_> = node.peers().into_iter().filter(|peer| peer.forced.is_none()).collect();
    assert_eq!(named.len(), 1, "{named:?}");
    assert_eq!((named[0].peer.as_str(), named[0].mode), (old, Mode::V1Compat));
    node.stop();
}

#[test]
fn a_node_that_has_been_stopped_opens_no_port() {
    let node = node("alpha", None);
    node.stop();
    let refused = node.listen_v1("127.0.0.1:0".parse().unwrap()).unwrap_err();
    assert_eq!(refused.status(), Status::Stopped);
    assert!(refused.to_string().contains("has been stopped"), "{refused}");
    assert_eq!(node.v1_address(), None);
}

#[test]
fn compatibility_tells_what_is_lost_and_who_is_spoken_v1_to() {
    let home = Home::new(named("old:9876"));
    home.node.set_mode(Some("new:4040"), Some(Mode::Hybrid)).unwrap();
    let answer = home.node.check_compatibility(None).unwrap();
    let names: Vec<_> = answer.losses.iter().map(|loss| format!("{:?}", loss.feature)).collect();
    for lost in ["Digest", "Handover", "PreCopy", "PostCopy", "DeviceState", "Delta", "LargeImages"]
    {
        assert!(names.iter().any(|name| name == lost), "{names:?} lacks {lost}");
    }
    assert!(answer.needs_consent && answer.listen.is_none());
    let by = |peer: &str| {
        let found = answer.peers.iter().find(|known| known.peer == peer).unwrap();
        (found.migrates_by, found.lost.len())
    };
    assert_eq!((by("old:9876"), by("new:4040")), (("v1", answer.losses.len()), ("v3", 0)));
    force(&home, Some(Mode::V1Compat));
    let one = home.node.check_compatibility(Some("third:4040")).unwrap();
    assert_eq!((one.peers.len(), one.peers[0].migrates_by), (1, "none"));
    assert!(one.peers[0].reason.as_ref().unwrap().contains("not named"));
    assert!(home.node.check_compatibility(Some("third")).is_err());
}

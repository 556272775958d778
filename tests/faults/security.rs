//! Who may talk to a node: certificates of one's own fleet and of others, wrong names, plain words,
//! old protocols, recordings. docs/security.md names these tests beside the threats.

use crate::hand::{self, Hand};
use crate::proxy::{FORWARD, Proxy};
use crate::stage::{
    Directory, Stage, address, guest_layout, hasty, keeper, node, patient, refusals, wait_until,
};
use dwcp::migration::MigrationOptions;
use dwcp::observe::EventKind;
use dwcp::runtime::security::authority::{self, NodeCertificate};
use dwcp::runtime::security::{Identity, IdentityError, Security, SecurityError};
use dwcp::wire::{Frame, FrameKind, Hello, HelloReply};
use dwcp::{Node, NodeError, NodeOptions, SecurityOptions, Status};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// An authority and the identities that it signed.
struct Fleet(Directory);

impl Fleet {
    fn new() -> Self {
        let fleet = Self(Directory::new("fleet"));
        authority::create(&fleet.authority(), "fleet").unwrap();
        fleet
    }

    fn authority(&self) -> PathBuf {
        self.0.0.join("authority")
    }

    fn issue(&self, node: &str, days: u64, replace: bool) -> PathBuf {
        let wanted = NodeCertificate { node: node.into(), hosts: Vec::new(), days };
        let directory = self.0.0.join(node);
        authority::issue(&self.authority(), &wanted, &directory, replace).unwrap();
        directory
    }

    fn options(&self, node: &str, allowed: &[&str]) -> SecurityOptions {
        let allowed_peers = allowed.iter().map(|name| (*name).to_owned()).collect();
        SecurityOptions::Tls { identity_dir: self.issue(node, 1, true), allowed_peers }
    }

    fn node(&self, name: &str, allowed: &[&str]) -> Node {
        secured(self.options(name, allowed), "127.0.0.1:0").unwrap()
    }

    /// A peer with an identity of the fleet that speaks the protocol by hand.
    fn hand(&self, name: &str, to: &Node) -> Hand {
        let security = Security::open(self.options(name, &[])).unwrap();
        let socket = Arc::new(TcpStream::connect(to.local_address().unwrap()).unwrap());
        Hand::over(security.dial(socket, &address(to), PATIENCE).unwrap())
    }
}

fn secured(security: SecurityOptions, listen: &str) -> Result<Node, NodeError> {
    let listen = Some(listen.parse().unwrap());
    Node::start(NodeOptions { listen, security, ..NodeOptions::default() })
}

fn refused_with(node: &Node, text: &str) {
    wait_until(&format!("{text:?} is among the refusals"), || {
        refusals(node).iter().any(|reason| reason.contains(text))
    });
}

fn hello_of(node: &str, id: u8) -> Hello {
    Hello { node: node.into(), ..hand::open(id, "vm", guest_layout()) }
}

#[test]
fn a_guest_moves_unread_between_nodes_of_one_fleet() {
    let fleet = Fleet::new();
    let stage = Stage::between(fleet.node("alpha", &["beta"]), fleet.node("beta", &["alpha"]));
    let proxy = Proxy::new(stage.beta.local_address().unwrap());
    let report = stage.run(&proxy.address(), patient());
    stage.assert_moved(&report);
    let peers = |node: &Node| -> Vec<String> {
        let peer = |kind| match kind {
            EventKind::StreamUp { peer, .. } => Some(peer),
            _ => None,
        };
        node.events(0).into_iter().filter_map(|event| peer(event.kind)).collect()
    };
    assert!(peers(&stage.alpha).iter().all(|peer| peer.starts_with("beta at ")));
    assert!(peers(&stage.beta).iter().all(|peer| peer.starts_with("alpha at ")));
    let tape = proxy.handle().tape();
    assert!(tape.len() > 100_000, "{} bytes are no guest", tape.len());
    // Long enough that chance does not find them; certificates are sealed too.
    let holds = |text: &[u8]| tape.windows(text.len()).any(|window| window == text);
    let image = stage.there.image();
    let text = image.chunks(64).find(|text| text.iter().filter(|byte| **byte != 0).count() > 32);
    assert!(!holds(b"dwcp:node:alpha") && !holds(text.unwrap()), "something is readable");
}

#[test]
fn a_guest_moves_although_streams_break_and_bytes_are_damaged() {
    let fleet = Fleet::new();
    let stage = Stage::between(fleet.node("alpha", &[]), fleet.node("beta", &[]));
    let proxy = Proxy::new(stage.beta.local_address().unwrap());
    let handle = proxy.handle();
    handle.damage(FORWARD, 300_000);
    let options = MigrationOptions { bandwidth_limit_bytes_per_s: Some(4_000_000), ..patient() };
    let migration = stage.migrate(&proxy.address(), options);
    wait_until("some of it has passed", || handle.passed(FORWARD) > 600_000);
    handle.kill_all();
    let report = migration.wait(crate::stage::PATIENCE).unwrap();
    stage.assert_moved(&report);
    assert!(report.reconnects >= 1, "{report:?}");
}

#[test]
fn another_fleet_is_refused_in_both_directions_at_once() {
    let (ours, theirs) = (Fleet::new(), Fleet::new());
    let stage = Stage::between(ours.node("alpha", &[]), theirs.node("beta", &[]));
    let report = stage.run_directly(patient());
    stage.assert_stayed(&report, Status::Refused, "UnknownIssuer");
    refused_with(&stage.beta, "UnknownCA");
    // The other way the destination is the one that does not trust.
    let half = ours.node("gamma", &[]);
    let mut trusting = theirs.issue("delta", 1, true);
    std::fs::copy(ours.authority().join("ca.pem"), trusting.join("ca.pem")).unwrap();
    let identity_dir = std::mem::take(&mut trusting);
    let delta = SecurityOptions::Tls { identity_dir, allowed_peers: Vec::new() };
    let other = Stage::between(secured(delta, "127.0.0.1:0").unwrap(), half);
    let report = other.run_directly(patient());
    other.assert_stayed(&report, Status::Refused, "UnknownCA");
    refused_with(&other.beta, "UnknownIssuer");
}

#[test]
fn a_certificate_for_another_host_is_refused() {
    let fleet = Fleet::new();
    let beta = secured(fleet.options("beta", &[]), "0.0.0.0:0").unwrap();
    let port = beta.local_address().unwrap().port();
    let stage = Stage::between(fleet.node("alpha", &[]), beta);
    let report = stage.run(&format!("127.0.0.2:{port}"), patient());
    stage.assert_stayed(&report, Status::Refused, "not valid for name");
    assert!(report.reason.contains("127.0.0.2"), "{}", report.reason);
    let report = stage.run(&format!("localhost:{port}"), patient());
    stage.assert_moved(&report);
}

#[test]
fn only_peers_on_the_list_are_talked_to() {
    let fleet = Fleet::new();
    let stage = Stage::between(fleet.node("alpha", &[]), fleet.node("beta", &["gamma", "delta"]));
    let report = stage.run_directly(patient());
    stage.assert_stayed(&report, Status::Refused, "\"alpha\" is not among the allowed peers");
    refused_with(&stage.beta, "\"alpha\" is not among the allowed peers");
    let stage = Stage::between(fleet.node("alpha", &["gamma"]), fleet.node("beta", &[]));
    let report = stage.run_directly(patient());
    stage.assert_stayed(&report, Status::Refused, "\"beta\" is not among the allowed peers");
}

#[test]
fn plain_and_secured_nodes_tell_each_other_what_is_wrong() {
    let fleet = Fleet::new();
    let stage = Stage::between(node("alpha", None), fleet.node("beta", &[]));
    let report = stage.run_directly(patient());
    stage.assert_stayed(&report, Status::Refused, "this node speaks TLS only");
    refused_with(&stage.beta, "this node speaks TLS only");
    let stage = Stage::between(fleet.node("alpha", &[]), node("beta", None));
    let report = stage.run_directly(hasty());
    stage.assert_stayed(&report, Status::Connect, "during the handshake");
    refused_with(&stage.beta, "the peer speaks TLS, this node does not");
}

#[test]
fn paths_are_told_within_the_fleet_alone() {
    let fleet = Fleet::new();
    let (alpha, beta) = (fleet.node("alpha", &["beta"]), fleet.node("beta", &["alpha"]));
    beta.share_paths_with("127.0.0.1".parse().unwrap());
    beta.add_peer("127.0.0.1:1").unwrap();
    let told_to = |asker: &Node| {
        asker.add_peer(&address(&beta)).unwrap();
        asker.network_matrix(None).unwrap().remove(1)
    };
    let row = told_to(&alpha);
    assert_eq!((row.node.as_deref(), row.failure.as_deref()), (Some("beta"), None));
    assert_eq!(row.paths[0].peer, "127.0.0.1:1");
    let (plain, gamma) = (node("gamma", None), fleet.node("gamma", &[]));
    for (asker, text) in [(plain, "speaks TLS only"), (gamma, "\"gamma\" is not among")] {
        let row = told_to(&asker);
        assert!(row.paths.is_empty() && row.failure.as_ref().unwrap().contains(text), "{row:?}");
        refused_with(&beta, text);
    }
}

#[test]
fn metrics_are_told_within_the_fleet_alone() {
    let fleet = Fleet::new();
    let (alpha, beta) = (fleet.node("alpha", &["beta"]), fleet.node("beta", &["alpha"]));
    beta.share_metrics_with("127.0.0.1".parse().unwrap());
    let _keeper = keeper(&beta);
    let at = [address(&beta)];
    let told_to = |asker: &Node| asker.metrics_of(Some(&at)).unwrap().remove(0).told;
    let told = told_to(&alpha).unwrap();
    assert_eq!(told.node, "beta");
    assert!(told.families.iter().any(|family| family.name == "migration.downtime"));
    let (plain, gamma) = (node("gamma", None), fleet.node("gamma", &[]));
    for (asker, text) in [(plain, "speaks TLS only"), (gamma, "\"gamma\" is not among")] {
        let failure = told_to(&asker).unwrap_err();
        assert!(failure.contains(text), "{failure}");
        refused_with(&beta, text);
    }
    alpha.add_peer(&at[0]).unwrap();
    assert_eq!(alpha.metrics_of(Some(&at)).unwrap()[0].told.as_ref().unwrap().node, "beta");
    let by_name = alpha.metrics_of(Some(&["beta".to_owned()])).unwrap().remove(0);
    assert_eq!(by_name.address.as_ref(), Some(&at[0]));
    beta.share_metrics_with("10.0.0.0/8".parse().unwrap());
    assert!(told_to(&alpha).unwrap_err().contains("does not name 127.0.0.1"));
}

#[test]
fn who_has_not_decided_neither_listens_nor_dials() {
    let undecided = |listen| {
        Node::start(NodeOptions { listen, ..NodeOptions::default() }).map(|node| (node, ()))
    };
    let error = undecided(Some("127.0.0.1:0".parse().unwrap())).map(|_| ()).unwrap_err();
    assert_eq!(error.status(), Status::BadState);
    assert!(error.to_string().contains("identity issue"), "{error}");
    let stage = Stage::between(undecided(None).unwrap().0, node("beta", None));
    let to = address(&stage.beta);
    let error = stage.alpha.migrate("vm", &to, hasty()).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("identity issue"), "{error}");
}

#[test]
fn plain_connections_keep_off_public_addresses() {
    let error = secured(SecurityOptions::Plain, "8.8.8.8:0").map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("8.8.8.8 is a public address"), "{error}");
    let stage = Stage::between(node("alpha", None), node("beta", None));
    let report = stage.run("8.8.8.8:7777", hasty());
    stage.assert_stayed(&report, Status::Refused, "8.8.8.8 is a public address");
    stage.assert_moves();
}

#[test]
fn older_tls_and_other_protocols_are_refused() {
    let fleet = Fleet::new();
    let beta = fleet.node("beta", &[]);
    // A hello of TLS 1.2: no versions beyond it, one suite of its time, no extensions.
    let body = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0xc0, 0x2f, 1, 0]].concat();
    let message = [&[1, 0, 0, body.len() as u8][..], &body].concat();
    let record = [&[22, 3, 1, 0, message.len() as u8][..], &message].concat();
    let mut socket = TcpStream::connect(beta.local_address().unwrap()).unwrap();
    socket.write_all(&record).unwrap();
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    let (alert, fatal) = (21, 2);
    assert_eq!((answer[0], answer[5]), (alert, fatal), "{answer:?}");
    refused_with(&beta, "TLS with the peer failed");
    for protocols in [vec![b"dwcp/2".to_vec()], vec![]] {
        let identity = Identity::load(&fleet.issue("alpha", 1, true)).unwrap();
        let mut config = identity.client.as_ref().clone();
        config.alpn_protocols = protocols;
        let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut socket = TcpStream::connect(beta.local_address().unwrap()).unwrap();
        let mut stream = rustls::Stream::new(&mut client, &mut socket);
        let hello = Frame { kind: FrameKind::Hello, payload: hello_of("alpha", 1).encode() };
        let _ = stream.write_all(&hello.payload);
        let mut answer = Vec::new();
        assert!(stream.read_to_end(&mut answer).is_err() && answer.is_empty(), "{answer:?}");
    }
    refused_with(&beta, "does not speak dwcp/3");
    assert_eq!(refusals(&beta).len(), 3, "{:?}", refusals(&beta));
}

#[test]
fn a_recording_cannot_be_played_again() {
    let fleet = Fleet::new();
    let stage = Stage::between(fleet.node("alpha", &[]), fleet.node("beta", &[]));
    let proxy = Proxy::new(stage.beta.local_address().unwrap());
    let options = MigrationOptions { streams: 1, ..patient() };
    let report = stage.run(&proxy.address(), options);
    stage.assert_moved(&report);
    let (before, events) = (stage.beta.migrations().len(), refusals(&stage.beta).len());
    let mut socket = TcpStream::connect(stage.beta.local_address().unwrap()).unwrap();
    // The node may hang up before it has read all of it.
    let _ = socket.write_all(&proxy.handle().tape());
    let _ = socket.shutdown(Shutdown::Write);
    let _ = socket.read_to_end(&mut Vec::new());
    wait_until("it is refused", || refusals(&stage.beta).len() > events);
    assert_eq!(stage.beta.migrations().len(), before);
}

#[test]
fn a_node_cannot_call_itself_another() {
    let fleet = Fleet::new();
    let stage = Stage::between(fleet.node("alpha", &[]), fleet.node("beta", &[]));
    let (_hand, reply) = fleet.hand("mallory", &stage.beta).hello(&hello_of("alpha", 1));
    let HelloReply::Refuse { status, reason, .. } = reply else { panic!("{reply:?}") };
    assert_eq!(status, Status::Refused.code());
    assert!(
        reason.contains("calls itself \"alpha\"") && reason.contains("\"mallory\""),
        "{reason}"
    );
    assert!(stage.beta.migrations().is_empty());
    stage.assert_moves();
}

#[test]
fn a_migration_is_the_nodes_that_opened_it() {
    let fleet = Fleet::new();
    let beta = fleet.node("beta", &[]);
    let there = crate::support::Guest::new(crate::stage::PAGES, 1000);
    beta.add_destination("vm", there.sink()).unwrap();
    let (_opener, accepted) = fleet.hand("alpha", &beta).hello(&hello_of("alpha", 1));
    assert!(matches!(accepted, HelloReply::Accept { .. }), "{accepted:?}");
    let (_hand, reply) = fleet.hand("mallory", &beta).hello(&hello_of("mallory", 1));
    let HelloReply::Refuse { reason, .. } = reply else { panic!("{reply:?}") };
    assert!(reason.contains("another node's"), "{reason}");
    beta.stop();
}

#[test]
fn an_identity_that_cannot_be_used_is_told_by_its_file() {
    let fleet = Fleet::new();
    let load = |directory: &PathBuf| Identity::load(directory).map(|_| ()).unwrap_err();
    let directory = fleet.issue("alpha", 1, false);
    let path = directory.join("node.pem");
    let wanted = NodeCertificate { node: "alpha".into(), hosts: Vec::new(), days: 1 };
    let again = authority::issue(&fleet.authority(), &wanted, &directory, false).unwrap_err();
    assert!(matches!(again, IdentityError::Exists(_)), "{again}");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
    let error = load(&directory);
    assert!(error.to_string().contains("node.pem") && error.to_string().contains("640"), "{error}");
    for (content, text) in [("", "no certificate"), ("-----BEGIN X", "node.pem")] {
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        let error = load(&directory).to_string();
        assert!(error.contains(text), "{error}");
    }
    for (node, hosts) in [("", vec![]), ("a b", vec![]), ("n", vec!["a_b c".to_owned()])] {
        let wanted = NodeCertificate { node: node.into(), hosts, days: 1 };
        let other = fleet.0.0.join("other");
        assert!(authority::issue(&fleet.authority(), &wanted, &other, false).is_err());
        assert!(!other.join("node.pem").exists());
    }
    let named = SecurityOptions::Tls {
        identity_dir: fleet.issue("alpha", 1, true),
        allowed_peers: Vec::new(),
    };
    let options = NodeOptions { name: "beta".into(), security: named, ..NodeOptions::default() };
    let error = Node::start(options).map(|_| ()).unwrap_err();
    assert!(matches!(&error, NodeError::Security(SecurityError::OwnName { .. })), "{error}");
}

#[test]
fn an_expired_certificate_is_refused_and_a_fresh_one_is_taken_up() {
    let fleet = Fleet::new();
    let expired = fleet.issue("beta", 0, true);
    // Dates have seconds.
    std::thread::sleep(Duration::from_millis(1100));
    let beta = SecurityOptions::Tls { identity_dir: expired, allowed_peers: Vec::new() };
    let beta = secured(beta, "127.0.0.1:0").unwrap();
    let stage = Stage::between(fleet.node("alpha", &[]), beta);
    let report = stage.run_directly(patient());
    stage.assert_stayed(&report, Status::Refused, "expired");
    fleet.issue("beta", 1, true);
    stage.beta.reload_identity().unwrap();
    stage.assert_moves();
}

#[test]
fn an_authority_is_rotated_while_its_fleet_goes_on() {
    let fleet = Fleet::new();
    let stage = Stage::between(fleet.node("alpha", &[]), fleet.node("beta", &[]));
    authority::rotate(&fleet.authority(), "fleet").unwrap();
    // First what is trusted is handed out, then identities of the new key.
    let trust = fleet.authority().join("ca.pem");
    for (name, node) in [("alpha", &stage.alpha), ("beta", &stage.beta)] {
        std::fs::copy(&trust, fleet.0.0.join(name).join("ca.pem")).unwrap();
        node.reload_identity().unwrap();
    }
    fleet.issue("beta", 1, true);
    stage.beta.reload_identity().unwrap();
    stage.assert_moves();
    // Another node's identity is not taken up, nor is a broken one; the old one stays.
    let other = fleet.issue("gamma", 1, true);
    let own = fleet.0.0.join("beta").join("node.pem");
    std::fs::copy(other.join("node.pem"), &own).unwrap();
    assert!(stage.beta.reload_identity().is_err());
    std::fs::write(&own, "").unwrap();
    assert!(stage.beta.reload_identity().is_err());
    let (_hand, reply) = fleet.hand("alpha", &stage.beta).hello(&hello_of("alpha", 9));
    assert!(matches!(reply, HelloReply::Refuse { .. }), "no guest waits: {reply:?}");
}

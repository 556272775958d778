//! Migrations between two nodes of this process over real TCP connections.

mod support;

use dwcp::migration::{CodecChoice, Ending, MigrationOptions, Owner, Phase};
use dwcp::{Node, NodeOptions, SecurityOptions, Status};
use std::time::Duration;
use support::Guest;

fn node(name: &str) -> Node {
    let listen = Some("127.0.0.1:0".parse().unwrap());
    Node::start(NodeOptions {
        name: name.into(),
        listen,
        security: SecurityOptions::Plain,
        ..NodeOptions::default()
    })
    .unwrap()
}

/// A source node with a running guest, a destination node that expects it.
fn pair(pages: u64, pages_per_s: u64) -> (Node, Guest, Node, Guest) {
    let (alpha, beta) = (node("alpha"), node("beta"));
    let (here, there) = (Guest::new(pages, pages_per_s), Guest::new(pages, pages_per_s));
    here.fill(60);
    here.start();
    alpha.add_source("vm", here.source()).unwrap();
    beta.add_destination("vm", there.sink()).unwrap();
    (alpha, here, beta, there)
}

fn address(node: &Node) -> String {
    node.local_address().unwrap().to_string()
}

const PATIENCE: Option<Duration> = Some(Duration::from_secs(60));

#[test]
fn a_running_guest_moves_and_nothing_is_lost() {
    for codec in [CodecChoice::None, CodecChoice::Lz4, CodecChoice::Zstd(1)] {
        let (alpha, here, beta, there) = pair(4096, 2_000);
        let options = MigrationOptions { codec: codec.into(), ..MigrationOptions::default() };
        let migration = alpha.migrate("vm", &address(&beta), options).unwrap();
        let report = migration.wait(PATIENCE).unwrap();
        assert_eq!(report.status, Status::Ok, "{}", report.reason);
        assert_eq!(report.owner, Owner::Destination);
        assert!(!here.is_running() && there.is_running());
        there.stop();
        there.check();
        assert!(there.counter() >= here.counter());
        assert_eq!((here.endings(), alpha.guests()), (vec![Ending::Discard], vec![]));
        let arrived = beta.migration(report.id).unwrap().wait(PATIENCE).unwrap();
        assert_eq!(arrived.digest, report.digest);
        assert_eq!(there.endings(), [Ending::Keep]);
        for phase in [Phase::Precopy, Phase::FinalPass, Phase::Handover, Phase::Resume] {
            assert!(report.phases.contains_key(phase.name()), "{phase:?}");
        }
        assert!(report.passes >= 2 && report.full_pages >= 2457 && report.zero_pages > 0);
    }
}

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

/// Memory of this process that is in RAM.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn what_is_remembered_of_ended_migrations_does_not_grow_with_the_guest() {
    // 512 MiB that nobody touches: its tables, a hash for each page on either side, are 2 MiB.
    const PAGES: u64 = 1 << 17;
    let (alpha, beta) = (node("alpha"), node("beta"));
    let mut resident = Vec::new();
    let mut handles = Vec::new();
    for _ in 0..12 {
        let (here, there) = (Guest::new(PAGES, 0), Guest::new(PAGES, 0));
        here.start();
        alpha.add_source("vm", here.source()).unwrap();
        beta.add_destination("vm", there.sink()).unwrap();
        let options = MigrationOptions::default();
        let migration = alpha.migrate("vm", &address(&beta), options).unwrap();
        let report = migration.wait(PATIENCE).unwrap();
        assert_eq!(report.status, Status::Ok, "{}", report.reason);
        let arrived = beta.migration(report.id).unwrap();
        assert_eq!(arrived.wait(PATIENCE).unwrap().digest, report.digest);
        for ended in [&migration, &arrived] {
            assert_eq!(ended.footprint().total_bytes(), 0, "{:?}", ended.footprint());
            assert_eq!(ended.progress().remaining_pages, 0);
        }
        there.stop();
        handles.push(migration);
        resident.push(resident_bytes());
    }
    let (warm, last) = (resident[3], resident[11]);
    // Eight migrations' tables would be 16 MiB.
    assert!(last < warm + (8 << 20), "{resident:?}");
}

//! Migrations between two nodes of this process over real TCP connections.

mod support;

use dwcp::migration::{CodecChoice, Ending, MigrationOptions, Owner, Phase, PostCopyRule};
use dwcp::observe::EventKind;
use dwcp::runtime::modes::TransportOptions;
use dwcp::transport::RdmaOptions;
use dwcp::transport::mode::{Mode, ModeEffects};
use dwcp::transport::path_options::PathOptions;
use dwcp::transport::stream_tuner::Why;
use dwcp::{Migration, Node, NodeOptions, SecurityOptions, Status};
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

/// Slow enough that a test can look on.
fn slow(streams: u16, bytes_per_s: u64) -> MigrationOptions {
    let bandwidth_limit_bytes_per_s = Some(bytes_per_s);
    let codec = CodecChoice::None.into();
    MigrationOptions { codec, streams, bandwidth_limit_bytes_per_s, ..MigrationOptions::default() }
}

fn until(what: &str, migration: &Migration, mut holds: impl FnMut() -> bool) {
    while !holds() {
        let report = migration.report();
        assert!(report.is_none(), "{what} never was: {report:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn kinds(node: &Node) -> Vec<EventKind> {
    node.events(0).into_iter().map(|event| event.kind).collect()
}

#[test]
fn a_change_of_mode_gives_a_running_migration_another_number_of_streams() {
    let (alpha, _here, beta, there) = pair(4096, 200);
    let peer = address(&beta);
    alpha.set_mode(Some(&peer), Some(Mode::Datacenter)).unwrap();
    let effects = ModeEffects { internet_streams: 2, ..ModeEffects::default() };
    alpha.set_transport(TransportOptions { effects, ..alpha.transport() });
    let migration = alpha.migrate("vm", &peer, slow(64, 4 << 20)).unwrap();
    until("four streams are up", &migration, || migration.progress().streams == 4);
    alpha.set_mode(Some(&peer), Some(Mode::Internet)).unwrap();
    until("two are left", &migration, || migration.progress().streams == 2);
    let effects = ModeEffects { internet_streams: 1, ..effects };
    alpha.set_transport(TransportOptions { effects, ..alpha.transport() });
    until("one is left", &migration, || migration.progress().streams == 1);
    migration.set_bandwidth_limit(None);
    let report = migration.wait(PATIENCE).unwrap();
    assert_eq!((report.status, report.reconnects), (Status::Ok, 0), "{}", report.reason);
    there.stop();
    there.check();
    let events = kinds(&alpha);
    let tuned: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            EventKind::StreamsTuned { from, to, limit, why, .. } => {
                Some((*from, *to, *limit, *why))
            }
            _ => None,
        })
        .collect();
    assert_eq!(tuned, [(4, 2, 2, Why::Limit), (2, 1, 1, Why::Limit)]);
    let retired = |event: &&EventKind| matches!(event, EventKind::StreamRetired { .. });
    for node in [&alpha, &beta] {
        assert_eq!(kinds(node).iter().filter(retired).count(), 3, "{}", node.name());
    }
    let lost = |event: &EventKind| matches!(event, EventKind::StreamDown { .. });
    assert!(!events.iter().any(lost), "{events:?}");
}

#[test]
fn migrations_share_the_nodes_cap_evenly_and_what_one_leaves_goes_to_the_others() {
    // Less than a busy machine carries: it must be the cap that divides.
    const CAP: u64 = 8 << 20;
    const GUESTS: usize = 8;
    let (alpha, beta) = (node("alpha"), node("beta"));
    let cap = |cap| {
        let paths = PathOptions { bandwidth_limit_bytes_per_s: cap, ..PathOptions::default() };
        alpha.set_paths(paths).unwrap();
    };
    let guests = [(); GUESTS].map(|()| (Guest::new(8192, 0), Guest::new(8192, 0)));
    for (number, (here, there)) in guests.iter().enumerate() {
        here.fill(100);
        here.start();
        alpha.add_source(&format!("vm{number}"), here.source()).unwrap();
        beta.add_destination(&format!("vm{number}"), there.sink()).unwrap();
    }
    // So that none is far ahead before the last has begun.
    cap(Some(CAP / 8));
    let migrations: Vec<Migration> = (0..GUESTS)
        .map(|number| {
            let name = format!("vm{number}");
            // The first one wants less than its share.
            let own = if number == 0 { CAP / 24 } else { 1 << 30 };
            alpha.migrate(&name, &address(&beta), slow(4, own)).unwrap()
        })
        .collect();
    let sent = || -> Vec<u64> { migrations.iter().map(|m| m.progress().wire_bytes).collect() };
    let least = |from: &[u64]| sent()[1..].iter().zip(&from[1..]).map(|(now, was)| now - was).min();
    until("all are under way", &migrations[1], || least(&[0; GUESTS]) > Some(256 << 10));
    cap(Some(CAP));
    let lifted = sent();
    until("shares have settled", &migrations[1], || least(&lifted) > Some(1 << 20));
    let before = sent();
    until("each has sent its part", &migrations[1], || least(&before) > Some(6 << 20));
    let parts: Vec<u64> = sent().iter().zip(&before).map(|(now, was)| now - was).collect();
    let mean = parts[1..].iter().sum::<u64>() / (GUESTS as u64 - 1);
    for part in &parts[1..] {
        assert!(part.abs_diff(mean) < mean / 10, "of {mean}: {parts:?}");
    }
    // What the first one leaves is added to the others' even parts.
    assert!(parts[0] * 2 < mean, "{parts:?}");
    cap(None);
    for (migration, (_, there)) in migrations.iter().zip(&guests) {
        migration.set_bandwidth_limit(None);
        let report = migration.wait(PATIENCE).unwrap();
        assert_eq!(report.status, Status::Ok, "{}", report.reason);
        there.stop();
        there.check();
    }
}

#[test]
fn a_guest_moves_over_ipv6_from_several_addresses_and_marked() {
    let listen = Some("[::1]:0".parse().unwrap());
    let (name, security) = ("beta".into(), SecurityOptions::Plain);
    let options = NodeOptions { name, listen, security, ..NodeOptions::default() };
    let (alpha, beta) = (node("alpha"), Node::start(options).unwrap());
    let (here, there) = (Guest::new(1024, 500), Guest::new(1024, 500));
    here.fill(60);
    here.start();
    alpha.add_source("vm", here.source()).unwrap();
    beta.add_destination("vm", there.sink()).unwrap();
    let source_addresses = vec!["::1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
    let paths = PathOptions { dscp: 10, source_addresses, ..PathOptions::default() };
    alpha.set_paths(paths).unwrap();
    let options = MigrationOptions { streams: 4, ..MigrationOptions::default() };
    let report = alpha.migrate("vm", &address(&beta), options).unwrap().wait(PATIENCE).unwrap();
    assert_eq!(report.status, Status::Ok, "{}", report.reason);
    there.stop();
    there.check();
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

/// Why a node's pages go by TCP, as it has told.
fn reasons(node: &Node) -> Vec<String> {
    let reason = |kind| match kind {
        EventKind::RdmaUnavailable { reason } => Some(reason),
        _ => None,
    };
    kinds(node).into_iter().filter_map(reason).collect()
}

#[test]
fn where_rdma_cannot_be_had_a_migration_goes_by_tcp_and_says_why_once() {
    let Err(unavailable) = dwcp::runtime::rdma::probe() else {
        return eprintln!("skipped: this host has RDMA; tests/rdma has tests of that");
    };
    type Setting = fn(&Node, &mut MigrationOptions);
    let cases: [(Setting, Option<&str>); 4] = [
        (|_, _| {}, Some("")),
        (|node, _| node.set_rdma(RdmaOptions::default()), Some("amst.enable_rdma is false")),
        (|_, options| options.post_copy = PostCopyRule::Manual, Some("post-copy was asked for")),
        (|node, _| node.set_mode(None, Some(Mode::Internet)).unwrap(), None),
    ];
    for (set, expected) in cases {
        let (alpha, _here, beta, there) = pair(1024, 200);
        alpha.set_mode(None, Some(Mode::Datacenter)).unwrap();
        for node in [&alpha, &beta] {
            node.set_rdma(RdmaOptions { enabled: true, ..RdmaOptions::default() });
        }
        let mut options = MigrationOptions::default();
        set(&alpha, &mut options);
        let migration = alpha.migrate("vm", &address(&beta), options).unwrap();
        let report = migration.wait(PATIENCE).unwrap();
        assert_eq!((report.status, report.rdma_bytes), (Status::Ok, 0), "{}", report.reason);
        there.stop();
        there.check();
        let expected = expected.map(|text| match text {
            "" => unavailable.to_string(),
            text => text.to_string(),
        });
        assert_eq!(reasons(&alpha), Vec::from_iter(expected));
    }
}

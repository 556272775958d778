//! Migrations over real links: marked, over IPv6, over two links of which one fails, and with as many
//! streams as the path rewards. Needs root.

#[path = "../../support/mod.rs"]
mod support;

use dwcp::migration::{CodecChoice, MigrationOptions};
use dwcp::observe::EventKind;
use dwcp::transport::PathOptions;
use dwcp::transport::stream_tuner::Why;
use dwcp::{Migration, Node, NodeOptions, SecurityOptions, Status};
use dwcp_netlab::emulator::Emulator;
use dwcp_netlab::{Direction, Host, Lab, LinkConfig};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use support::Guest;

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// A node on each host; the second one listens at this address and expects a guest.
struct Stage {
    near: Node,
    /// Kept, or nobody would answer.
    _far: Node,
    to: String,
    there: Guest,
}

fn stage(lab: &Lab, at: IpAddr, pages: u64) -> Result<Stage, Box<dyn std::error::Error>> {
    let start = |host: &Host, name: &str, listen| {
        let (name, security) = (name.to_owned(), SecurityOptions::Plain);
        let options = NodeOptions { name, listen, security, ..NodeOptions::default() };
        host.enter(|| Node::start(options))
    };
    let near = start(lab.a(), "near", None)?;
    let far = start(lab.b(), "far", Some(SocketAddr::from((at, 0))))?;
    let (here, there) = (Guest::new(pages, 20), Guest::new(pages, 20));
    here.fill(100);
    here.start();
    near.add_source("vm", here.source())?;
    far.add_destination("vm", there.sink())?;
    let to = far.local_address().ok_or("no address")?.to_string();
    Ok(Stage { near, _far: far, to, there })
}

impl Stage {
    fn migrate(&self, lab: &Lab, streams: u16) -> Migration {
        let codec = CodecChoice::None.into();
        let options = MigrationOptions { codec, streams, ..MigrationOptions::default() };
        lab.a().enter(|| self.near.migrate("vm", &self.to, options)).unwrap()
    }

    /// Waits for the end, which is to be a good one.
    fn assert_moved(&self, migration: &Migration) {
        let report = migration.wait(Some(LONG)).expect("an end");
        assert_eq!(report.status, Status::Ok, "{}", report.reason);
        self.there.stop();
        self.there.check();
    }

    fn events<T>(&self, pick: impl Fn(EventKind) -> Option<T>) -> Vec<T> {
        self.near.events(0).into_iter().filter_map(|event| pick(event.kind)).collect()
    }
}

#[test]
fn every_packet_to_the_peer_carries_the_mark_and_probes_do_too() -> Outcome {
    let lab = Lab::emulated(LinkConfig::default().rtt(Duration::from_millis(4)))?;
    let stage = stage(&lab, lab.b().ipv4().into(), 2048)?;
    stage.near.set_paths(PathOptions { dscp: 10, ..PathOptions::default() })?;
    let seen = || lab.stats(Direction::AToB).code_points;
    // Kernels say a word or two of their own when a link comes up.
    let before = lab.stats(Direction::AToB).offered;
    lab.a().enter(|| stage.near.probe_peer(&stage.to, 2))?;
    let migration = stage.migrate(&lab, 4);
    stage.assert_moved(&migration);
    assert!(lab.stats(Direction::AToB).offered > before + 2048 * 2);
    assert_eq!(seen() & !UNMARKED, 1 << 10, "{:#x}", seen());
    if before == 0 {
        assert_eq!(seen(), 1 << 10, "something went out unmarked");
    }
    Ok(())
}

#[test]
fn a_guest_moves_over_ipv6_and_is_marked_there() -> Outcome {
    let lab = Lab::emulated(LinkConfig::default().rtt(Duration::from_millis(4)))?;
    let stage = stage(&lab, lab.b().ipv6().into(), 2048)?;
    assert!(stage.to.starts_with("[fd77::2]:"), "{}", stage.to);
    stage.near.set_paths(PathOptions { dscp: 46, ..PathOptions::default() })?;
    let migration = stage.migrate(&lab, 4);
    stage.assert_moved(&migration);
    assert_eq!(lab.stats(Direction::AToB).code_points & !UNMARKED, 1 << 46);
    Ok(())
}

#[test]
fn streams_use_both_links_and_one_link_when_the_other_fails_until_it_is_back() -> Outcome {
    let link = LinkConfig::default().rate(20_000_000).rtt(Duration::from_millis(4));
    let mut lab = Lab::emulated(link.clone())?;
    lab.add_link(link)?;
    // 128 MiB: at the rate of both links together it takes a good half of a minute.
    let stage = stage(&lab, lab.b().ipv4().into(), 32_768)?;
    let source_addresses = vec![lab.a().ipv4().into(), lab.a().second_ipv4().into()];
    stage.near.set_paths(PathOptions { source_addresses, ..PathOptions::default() })?;
    let migration = stage.migrate(&lab, 4);
    let (first, second) = (lab.emulator(), lab.second_emulator());
    until("both links carry", &migration, || {
        delivered(first) > 2 << 20 && delivered(second) > 2 << 20
    });
    set_up(second, false);
    let lost = |kind| matches!(kind, EventKind::StreamDown { .. }).then_some(());
    until("its streams are lost", &migration, || stage.events(lost).len() >= 2);
    let others = delivered(first);
    until("the other link carries on", &migration, || delivered(first) > others + (2 << 20));
    set_up(second, true);
    let before = delivered(second);
    until("streams are back on it", &migration, || delivered(second) > before + (2 << 20));
    stage.assert_moved(&migration);
    let retired = |kind| matches!(kind, EventKind::StreamRetired { .. }).then_some(());
    assert!(!stage.events(retired).is_empty(), "a stream that goes back is not a lost one");
    Ok(())
}

#[test]
fn a_path_on_which_each_stream_gets_its_part_gets_more_streams() -> Outcome {
    let lab =
        Lab::emulated(LinkConfig::default().rate(400_000_000).rtt(Duration::from_millis(40)))?;
    // What the receiver lets a stream have under way is far below what the link holds.
    lab.b().enter(|| std::fs::write("/proc/sys/net/ipv4/tcp_rmem", "4096 65536 65536"))?;
    let stage = stage(&lab, lab.b().ipv4().into(), 32_768)?;
    let mut transport = stage.near.transport();
    transport.effects.internet_streams = 32;
    stage.near.set_transport(transport);
    let migration = stage.migrate(&lab, 32);
    let tuned = || {
        stage.events(|kind| match kind {
            EventKind::StreamsTuned { from, to, limit, why, rate_bytes_per_s, .. } => {
                Some((from, to, limit, why, rate_bytes_per_s))
            }
            _ => None,
        })
    };
    until("there are twice as many", &migration, || tuned().iter().any(|(_, to, ..)| *to >= 9));
    let tuned = tuned();
    assert_eq!((tuned[0].0, tuned[0].1, tuned[0].3), (4, 6, Why::TryMore), "{tuned:?}");
    assert!(tuned[1].4 > tuned[0].4, "more carried more: {tuned:?}");
    assert!(tuned.iter().all(|(_, to, limit, ..)| to <= limit), "{tuned:?}");
    migration.cancel();
    migration.wait(Some(LONG)).ok_or("no end")?;
    Ok(())
}

fn delivered(link: &Emulator) -> u64 {
    link.stats(Direction::AToB).delivered_bytes
}

fn set_up(link: &Emulator, up: bool) {
    for direction in [Direction::AToB, Direction::BToA] {
        let config = link.config(direction);
        link.set_config(direction, LinkConfig { up, ..config });
    }
}

fn until(what: &str, migration: &Migration, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        let report = migration.report();
        assert!(report.is_none(), "{what}, never before the end: {report:?}");
        assert!(start.elapsed() < LONG, "{what}: not within {LONG:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Of kernels that say a word of their own.
const UNMARKED: u64 = 1;
/// How long anything may take before the test gives up.
const LONG: Duration = Duration::from_secs(180);

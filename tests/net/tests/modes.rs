//! Modes of peers over real links: judged from real sockets, followed when the link changes, with the
//! evidence in the event. Needs root.

use dwcp::observe::EventKind;
use dwcp::runtime::modes::PeerMode;
use dwcp::transport::Mode;
use dwcp::transport::mode::transition::{Cause, Figure};
use dwcp::transport::mode::{ModePolicy, Transition};
use dwcp::{Node, NodeOptions, SecurityOptions};
use dwcp_netlab::{Host, Lab, LinkConfig};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

type Outcome = Result<(), Box<dyn std::error::Error>>;

#[test]
fn a_long_path_is_the_internets_and_a_lasting_change_is_followed() -> Outcome {
    let lab = Lab::emulated(LinkConfig::default().rtt(Duration::from_millis(80)))?;
    let (near, far) = nodes(&lab)?;
    let peer = far.local_address().ok_or("no address")?.to_string();
    lab.a().enter(|| near.add_peer(&peer))?;
    let to_internet = transition(&near, &peer, 0);
    assert_eq!((to_internet.from, to_internet.to), (Mode::Hybrid, Mode::Internet));
    assert_eq!(to_internet.cause, Cause::Measured);
    let ground = to_internet.grounds.iter().find(|ground| ground.figure == Figure::RttUs);
    let ground = ground.ok_or("the round trip is no ground")?;
    assert!(ground.found >= 80_000 && ground.holds(), "{to_internet:?}");
    assert_eq!(to_internet.thresholds, ModePolicy::default().thresholds);
    lab.set_rtt(Duration::from_millis(1));
    let away = transition(&near, &peer, 1);
    assert_eq!((away.from, away.to), (Mode::Internet, Mode::Hybrid), "{away:?}");
    lab.set_rtt(Duration::from_millis(120));
    let back = transition(&near, &peer, 2);
    assert_eq!((back.from, back.to), (Mode::Hybrid, Mode::Internet), "{back:?}");
    let known = known(&near, &peer).ok_or("the peer is not known")?;
    assert_eq!((known.switches, known.failure), (3, None));
    let refused = far.events(0).into_iter().filter(|event| is_refusal(&event.kind)).count();
    assert_eq!(refused, 0, "probes are no strangers");
    Ok(())
}

#[test]
fn a_short_and_fast_path_is_a_datacenters_once_something_has_filled_it() -> Outcome {
    let lab = Lab::veth()?;
    let (near, far) = nodes(&lab)?;
    let peer = far.local_address().ok_or("no address")?.to_string();
    let known_by_probes = lab.a().enter(|| near.detect_mode(&peer))?;
    assert_eq!(known_by_probes.mode, Mode::Hybrid, "probes tell nothing of the rate");
    // A busy machine may take several tests to fill the path for long enough.
    let tested = wait_for("datacenter mode", || {
        let run = || near.test_transport(Some(&peer), (Mode::Datacenter, 4), SOME_SECONDS);
        let tested = lab.a().enter(run).unwrap();
        assert_eq!((tested.streams, tested.peer.as_str()), (4, peer.as_str()));
        assert_ne!(tested.congestion, "bbr", "a short path has the system's own");
        (tested.in_force == Mode::Datacenter).then_some(tested)
    });
    assert!(tested.bytes > 0 && tested.min_rtt_us > 0, "{tested:?}");
    let change = transition(&near, &peer, 0);
    assert_eq!((change.to, change.cause), (Mode::Datacenter, Cause::Measured));
    assert!(change.grounds.iter().any(|ground| ground.figure == Figure::RateBytesPerS));
    let rate = change.figures.rate_bytes_per_s.ok_or("no rate")?;
    assert!(rate >= change.thresholds.fast_rate_bytes_per_s, "{change:?}");
    Ok(())
}

#[test]
fn a_test_over_a_long_path_tells_what_the_link_is() -> Outcome {
    let link = LinkConfig::default().rate(200_000_000).rtt(Duration::from_millis(80));
    let lab = Lab::emulated(link)?;
    let (near, far) = nodes(&lab)?;
    let peer = far.local_address().ok_or("no address")?.to_string();
    let run = || near.test_transport(Some(&peer), (Mode::Internet, 16), SOME_SECONDS);
    let tested = lab.a().enter(run)?;
    assert_eq!(tested.streams, 8, "internet_streams is the limit");
    assert_eq!((tested.measured, tested.in_force), (Some(Mode::Internet), Mode::Internet));
    assert!(tested.min_rtt_us >= 80_000, "{tested:?}");
    // Payload cannot be faster than the line, whatever the machine does.
    assert!(tested.rate_bytes_per_s < 200_000_000 / 8, "{tested:?}");
    let available = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control")?;
    assert_eq!(tested.congestion == "bbr", available.contains("bbr"), "{tested:?}");
    Ok(())
}

#[test]
fn a_peer_that_is_cut_off_keeps_its_mode_and_says_why_nothing_comes() -> Outcome {
    let lab = Lab::emulated(LinkConfig::default().rtt(Duration::from_millis(80)))?;
    let (near, far) = nodes(&lab)?;
    let peer = far.local_address().ok_or("no address")?.to_string();
    lab.a().enter(|| near.add_peer(&peer))?;
    transition(&near, &peer, 0);
    lab.set_link_up(false);
    let failure = wait_for("a probe fails", || known(&near, &peer)?.failure);
    // The cut comes between two probes, or into one.
    let says_so =
        ["no connection within ", "no answer within "].map(|text| failure.starts_with(text));
    assert!(says_so.contains(&true), "{failure}");
    assert_eq!(known(&near, &peer).map(|known| known.mode), Some(Mode::Internet));
    lab.set_link_up(true);
    wait_for("it answers again", || known(&near, &peer)?.failure.is_none().then_some(()));
    Ok(())
}

/// A node on each host; the second one listens.
fn nodes(lab: &Lab) -> Result<(Node, Node), Box<dyn std::error::Error>> {
    let start = |host: &Host, name: &str, listen| {
        let options = NodeOptions {
            name: name.to_owned(),
            listen,
            security: SecurityOptions::Plain,
            ..NodeOptions::default()
        };
        host.enter(|| Node::start(options))
    };
    let address = SocketAddr::from((lab.b().ipv4(), 0));
    Ok((start(lab.a(), "near", None)?, start(lab.b(), "far", Some(address))?))
}

/// The change of a peer's mode after so many others.
fn transition(node: &Node, peer: &str, after: usize) -> Transition {
    wait_for("a change of mode", || {
        let events = node.events(0).into_iter();
        let mut changes = events.filter_map(|event| match event.kind {
            EventKind::ModeTransition { peer: of, transition } if of == peer => Some(*transition),
            _ => None,
        });
        changes.nth(after)
    })
}

fn known(node: &Node, peer: &str) -> Option<PeerMode> {
    node.peers().into_iter().find(|known| known.peer == peer)
}

fn is_refusal(kind: &EventKind) -> bool {
    matches!(kind, EventKind::PeerRefused { .. })
}

fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < LONG, "{what}: not within {LONG:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Longer than a first verdict has to last.
const SOME_SECONDS: Duration = Duration::from_secs(4);
/// How long anything may take before the test gives up.
const LONG: Duration = Duration::from_secs(90);

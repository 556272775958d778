//! A guest that lacks pages while its link is cut, on a link that drops silently as a cable does. Needs
//! root.

#[path = "../../support/mod.rs"]
mod support;

use dwcp::migration::{CodecChoice, Ending, MigrationOptions, Owner, Phase, PostCopyRule};
use dwcp::{Node, NodeOptions, SecurityOptions, Status};
use dwcp_netlab::{Lab, LinkConfig};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use support::Guest;

type Outcome = Result<(), Box<dyn std::error::Error>>;

#[test]
fn a_cut_link_makes_the_guest_wait_and_nothing_else() -> Outcome {
    let link = LinkConfig::default().rate(200_000_000).rtt(Duration::from_millis(10));
    let lab = Lab::emulated(link)?;
    let start = |name: &str, listen| {
        let (name, security) = (name.to_owned(), SecurityOptions::Plain);
        let options = NodeOptions { name, listen, security, ..NodeOptions::default() };
        Node::start(options)
    };
    let near = lab.a().enter(|| start("near", None))?;
    let address = SocketAddr::from((lab.b().ipv4(), 0));
    let far = lab.b().enter(|| start("far", Some(address)))?;
    let (here, there) = (Guest::new(PAGES, 1000), Guest::new(PAGES, 1000));
    here.fill(90);
    here.start();
    near.add_source("vm", here.source())?;
    far.add_destination("vm", there.sink())?;
    let to = far.local_address().ok_or("no address")?.to_string();
    let migration = lab.a().enter(|| near.migrate("vm", &to, slow()))?;
    migration.start_post_copy()?;
    wait_until("the guest writes there", || {
        there.is_running() && there.counter() > here.counter() + 10
    });
    lab.set_link_up(false);
    // Longer than the library's patience with a silent connection, and than all of this test's own.
    std::thread::sleep(Duration::from_secs(13));
    assert!(migration.report().is_none(), "{:?}", migration.report());
    let arriving = far.migration(migration.id())?;
    assert!(arriving.report().is_none(), "{:?}", arriving.report());
    assert!(arriving.progress().remaining_pages > 0, "all came before the cut");
    let counter = there.counter();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(there.counter(), counter, "it does not wait for what is missing");
    lab.set_link_up(true);
    let report = migration.wait(Some(LONG)).ok_or("no end")?;
    assert_eq!((report.status, report.owner), (Status::Ok, Owner::Destination), "{report:?}");
    assert!(report.reconnects > 0, "no connection was lost");
    assert!(report.phases.contains_key(Phase::PostCopy.name()));
    let arrived = arriving.wait(Some(LONG)).ok_or("no end there")?;
    assert_eq!((arrived.status, &arrived.digest), (Status::Ok, &report.digest));
    there.stop();
    there.check_since(&here);
    assert_eq!((here.endings(), there.endings()), (vec![Ending::Discard], vec![Ending::Keep]));
    near.stop();
    far.stop();
    Ok(())
}

/// So slow that much is missing when the link is cut, and quick to give up where that is allowed.
fn slow() -> MigrationOptions {
    MigrationOptions {
        codec: CodecChoice::None.into(),
        bandwidth_limit_bytes_per_s: Some(1 << 20),
        post_copy: PostCopyRule::Manual,
        reconnect_timeout: Duration::from_secs(2),
        stall_timeout: Duration::from_secs(2),
        ..MigrationOptions::default()
    }
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LONG, "{what}: not within {LONG:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

const PAGES: u64 = 1024;
/// How long anything may take before the test gives up.
const LONG: Duration = Duration::from_secs(90);

//! What networks do to a relayed migration costs time and connections, never the guest.

use crate::proxy::{BACK, FORWARD, Proxy};
use crate::stage::{
    PATIENCE, Stage, end_of, node, node_at, slow_and_patient, wait_for_middle, wait_until,
};
use dwcp::migration::MigrationOptions;
use dwcp_netlab::{Lab, LinkConfig};
use std::net::SocketAddr;
use std::time::Duration;

fn proxied(stage: &Stage) -> Proxy {
    Proxy::new(stage.there.local_address().unwrap())
}

#[test]
fn one_stream_after_the_other_breaks() {
    let stage = Stage::new();
    let proxy = proxied(&stage);
    let migration = stage.migrate(&proxy.address(), slow_and_patient());
    for _ in 0..3 {
        wait_for_middle(&migration);
        wait_until("a link breaks", || proxy.handle().kill_one());
        std::thread::sleep(Duration::from_millis(300));
    }
    let report = end_of(&migration);
    assert!(report.reconnects > 0, "{report:?}");
    stage.assert_moved(&report, &stage.destination);
}

#[test]
fn all_streams_break_at_once() {
    let stage = Stage::new();
    let proxy = proxied(&stage);
    let migration = stage.migrate(&proxy.address(), slow_and_patient());
    wait_for_middle(&migration);
    proxy.handle().kill_all();
    let report = end_of(&migration);
    assert!(report.reconnects > 0, "{report:?}");
    stage.assert_moved(&report, &stage.destination);
}

#[test]
fn the_link_stands_still_for_a_while() {
    let stage = Stage::new();
    let proxy = proxied(&stage);
    let migration = stage.migrate(&proxy.address(), slow_and_patient());
    wait_for_middle(&migration);
    [FORWARD, BACK].into_iter().for_each(|direction| proxy.handle().hold(direction, true));
    std::thread::sleep(Duration::from_secs(5));
    assert!(migration.report().is_none());
    assert!(stage.source.qmp().unwrap().status().unwrap().running);
    [FORWARD, BACK].into_iter().for_each(|direction| proxy.handle().hold(direction, false));
    stage.assert_moved(&end_of(&migration), &stage.destination);
}

/// With what a caller gets who asks for nothing, over a link between two hosts.
#[test]
fn the_link_is_down_for_half_a_minute() {
    let lab = Lab::emulated(LinkConfig::default().rate(20_000_000)).unwrap();
    let mut stage = Stage::unattached(|config| config, |config| config);
    stage.here = lab.a().enter(|| node("here"));
    let address = SocketAddr::new(lab.b().ipv4().into(), 0);
    stage.there = lab.b().enter(|| node_at("there", address));
    stage.attach();
    let to = stage.there.local_address().unwrap().to_string();
    let migration = lab.a().enter(|| stage.migrate(&to, MigrationOptions::default()));
    wait_for_middle(&migration);
    lab.set_link_up(false);
    let counted = stage.source.last_tick();
    std::thread::sleep(Duration::from_secs(31));
    assert!(migration.report().is_none());
    let info = stage.source.qmp().unwrap().migration_info().unwrap();
    assert!(!info.is_over(), "QEMU has noticed: {info:?}");
    stage.source.wait_for_tick(counted + 5, PATIENCE).unwrap();
    lab.set_link_up(true);
    stage.assert_moved(&end_of(&migration), &stage.destination);
}

#[test]
fn damaged_bytes_cost_connections_and_nothing_else() {
    let stage = Stage::new();
    let proxy = proxied(&stage);
    let migration = stage.migrate(&proxy.address(), slow_and_patient());
    wait_for_middle(&migration);
    for ahead in [10_000, 200_000, 50_000] {
        let (handle, from) = (proxy.handle(), proxy.handle().passed(FORWARD));
        handle.damage(FORWARD, from + ahead);
        wait_until("the damaged byte has passed", || handle.passed(FORWARD) > from + ahead);
    }
    let report = end_of(&migration);
    assert!(report.reconnects > 0, "{report:?}");
    stage.assert_moved(&report, &stage.destination);
}

//! From one of our nodes to another, as v1.

use crate::stage::{Directory, Home, PAGES, Port, connections, node, options};
use crate::support::Guest;
use dwcp::migration::{Dialect, MigrationOptions, V1Options};
use dwcp::observe::ConnectionState;
use dwcp::runtime::record_keeper::read_all;

#[test]
fn a_guests_memory_arrives_whole_by_every_dialect_and_over_any_number_of_streams() {
    for dialect in Dialect::ALL {
        for streams in [1, 4, 16] {
            let (home, port) = (Home::new(options(dialect)), Port::new(options(dialect)));
            let trip = MigrationOptions { streams, ..MigrationOptions::default() };
            let migration = home.migrate(port.address, trip);
            let report = migration.wait(crate::stage::PATIENCE).unwrap();
            home.assert_in_doubt(&report);
            let arrived = port.report(1);
            port.assert_arrived(&arrived, &home.guest.image());
            assert_eq!((report.digest.len(), &report.digest), (32, &arrived.digest));
            assert_eq!(report.full_pages, PAGES);
            assert!(report.wire_bytes > 0 && report.passes == 1, "{report:?}");
            assert!(report.reason.contains("its system has all of it"), "{}", report.reason);
            let streams = if dialect == Dialect::Plain { 1 } else { usize::from(streams) };
            assert_eq!(connections(&home.node, ConnectionState::Open).len(), streams);
        }
    }
}

#[test]
fn both_sides_write_down_that_the_guest_is_in_doubt() {
    let (here, there) = (Directory::new(), Directory::new());
    let home = Home::with(node("alpha", Some(&here.0)), V1Options::default());
    let guest = Guest::new(PAGES, 0);
    let port = Port::with(node("beta", Some(&there.0)), V1Options::default(), guest);
    home.assert_in_doubt(&home.run(port.address));
    port.report(1);
    let record = |directory: &Directory| {
        let (_, record) = read_all(&directory.0).unwrap().records.remove(0);
        (serde_json::to_value(record.mark).unwrap(), record.peer)
    };
    assert_eq!(record(&here), ("commit_sent".into(), format!("v1://{}", port.address)));
    assert_eq!(record(&there), ("arrived".into(), "v1://127.0.0.1".into()));
}

//! Who is waited for, and how long.

use super::*;
use crate::base::{MemoryLayout, MigrationId, RegionLayout};
use crate::encoding::ImageDigest;
use crate::migration::MigrationOptions;
use crate::migration::source::SourceSetup;
use std::sync::Arc;

#[test]
fn a_destination_that_prepares_a_connection_is_not_given_up() {
    let region = RegionLayout { name: "ram".into(), guest_address: 0, length_bytes: 4096 };
    let layout = MemoryLayout::new(4096, vec![region]).unwrap();
    let options = MigrationOptions::default();
    let patience = options.connection_timeout(false);
    let setup = SourceSetup { id: MigrationId([1; 16]), guest: "vm".into(), layout, options };
    let mut source = Source::new(setup, Arc::new(ImageDigest::new(1)), 1 << 20, Time(1));
    let long = Time(1) + patience * 5;
    source.set_up_begins();
    source.set_up_begins();
    source.tick(long);
    source.set_up_ends(long);
    source.tick(long + patience * 2);
    assert!(source.wants_streams(), "one is still being prepared");
    let at_last = long + patience * 2;
    source.set_up_ends(at_last);
    source.tick(at_last + patience / 2);
    assert!(source.wants_streams(), "it has just answered");
    assert!(source.next_timeout(at_last) > at_last);
    source.tick(at_last + patience);
    assert!(!source.wants_streams());
}

//! Unmodified QEMUs that hand their pages on over multifd channels, beside the main stream.

use dwcp::migration::{MigrationOptions, Owner};
use dwcp::{Node, NodeOptions, SecurityOptions, Status};
use dwcp_qemulab::{Image, Load, Vm, VmConfig, memory_digest};
use std::time::Duration;

type Outcome = Result<(), Box<dyn std::error::Error>>;

const TEXT: Load = Load::Text { mib: 32, rate_mib: 4 };
const PATIENCE: Duration = Duration::from_secs(90);

fn node(name: &str) -> Result<Node, Box<dyn std::error::Error>> {
    let listen = Some("127.0.0.1:0".parse()?);
    Ok(Node::start(NodeOptions {
        name: name.into(),
        listen,
        security: SecurityOptions::Plain,
        ..NodeOptions::default()
    })?)
}

/// A guest goes from one QEMU to the other over so many channels; both had other settings before.
fn moves_over(multifd_channels: u8) -> Outcome {
    let image = Image::cached()?;
    let config = VmConfig { image: Some(&image), load: TEXT, ..VmConfig::default() };
    let source = Vm::start(&config)?;
    source.wait_for_tick(2, PATIENCE)?;
    let waits = VmConfig { incoming: true, paused: true, ..config };
    let destination = Vm::start(&waits)?;
    let (here, there) = (node("here")?, node("there")?);
    here.attach_qemu("vm", &source.qmp_path(), false)?;
    there.attach_qemu("vm", &destination.qmp_path(), true)?;
    let options = MigrationOptions { multifd_channels, ..MigrationOptions::default() };
    let address = there.local_address().ok_or("no address")?.to_string();
    let migration = here.migrate("vm", &address, options)?;
    let report = migration.wait(Some(PATIENCE)).ok_or("the migration did not end")?;
    eprintln!("{}", serde_json::to_string(&report)?);
    assert_eq!((report.status, &*report.reason), (Status::Ok, ""));
    assert_eq!(report.owner, Owner::Destination);
    // The channels were used, for pages of their own.
    let mut qmp = source.qmp()?;
    let ram = qmp.migration_info()?.ram.ok_or("QEMU tells no figures")?;
    assert!(ram.multifd_bytes > 16 << 20, "{} bytes", ram.multifd_bytes);
    assert!(!qmp.capabilities()?["multifd"], "not put back");
    assert_eq!(memory_digest(&mut qmp)?, memory_digest(&mut destination.qmp()?)?);
    let counted = source.last_tick();
    destination.qmp()?.cont()?;
    // Four ticks verify every page.
    destination.wait_for_tick(counted + 5, PATIENCE)?;
    assert_eq!(source.last_tick(), counted, "the guest runs twice");
    assert_eq!((source.complaint(), destination.complaint()), (None, None));
    Ok(())
}

#[test]
fn a_guest_moves_over_one_channel() -> Outcome {
    moves_over(1)
}

#[test]
fn a_guest_moves_over_two_channels() -> Outcome {
    moves_over(2)
}

#[test]
fn a_guest_moves_over_four_channels() -> Outcome {
    moves_over(4)
}

//! Unmodified QEMUs whose guest the library carries from one to the other.

use dwcp::migration::{MigrationOptions, Owner, Report};
use dwcp::{Node, NodeOptions, Status};
use dwcp_qemulab::{Image, Load, Vm, VmConfig, memory_digest};
use std::time::Duration;

type Outcome = Result<(), Box<dyn std::error::Error>>;

const TEXT: Load = Load::Text { mib: 32, rate_mib: 4 };
const BOOT: Duration = Duration::from_secs(90);
const MOVE: Duration = Duration::from_secs(90);

fn node(name: &str) -> Result<Node, Box<dyn std::error::Error>> {
    let listen = Some("127.0.0.1:0".parse()?);
    Ok(Node::start(NodeOptions { name: name.into(), listen, state_dir: None })?)
}

fn migrate(from: &Node, to: &Node, guest: &str) -> Result<Report, Box<dyn std::error::Error>> {
    let address = to.local_address().ok_or("no address")?.to_string();
    let migration = from.migrate(guest, &address, MigrationOptions::default())?;
    Ok(migration.wait(Some(MOVE)).ok_or("the migration did not end")?)
}

#[test]
fn a_guest_moves_there_and_back_again() -> Outcome {
    let image = Image::cached()?;
    let config = VmConfig { image: Some(&image), load: TEXT, ..VmConfig::default() };
    let source = Vm::start(&config)?;
    source.wait_for_tick(2, BOOT)?;
    let destination = Vm::start(&VmConfig { incoming: true, paused: true, ..config.clone() })?;
    let (here, there) = (node("here")?, node("there")?);
    here.attach_qemu("vm", &source.qmp_path(), false)?;
    there.attach_qemu("vm", &destination.qmp_path(), true)?;
    let report = migrate(&here, &there, "vm")?;
    assert_eq!(
        (report.status, &*report.reason, report.owner),
        (Status::Ok, "", Owner::Destination)
    );
    let counted = source.last_tick();
    let mut qmp = destination.qmp()?;
    assert_eq!(memory_digest(&mut source.qmp()?)?, memory_digest(&mut qmp)?);
    qmp.cont()?;
    drop(qmp);
    destination.wait_for_tick(counted + 5, BOOT)?;
    assert_eq!(source.last_tick(), counted, "the guest runs twice");
    assert_eq!((source.complaint(), destination.complaint()), (None, None));
    eprintln!("{}", serde_json::to_string(&report)?);
    assert!(here.guests().is_empty());
    // The arrived guest can leave again.
    let last = Vm::start(&VmConfig { incoming: true, ..config })?;
    here.attach_qemu("vm", &last.qmp_path(), true)?;
    let report = migrate(&there, &here, "vm")?;
    assert_eq!((report.status, &*report.reason), (Status::Ok, ""));
    let counted = destination.last_tick();
    last.wait_for_tick(counted + 5, BOOT)?;
    assert_eq!((destination.complaint(), last.complaint()), (None, None));
    eprintln!("{}", serde_json::to_string(&report)?);
    Ok(())
}

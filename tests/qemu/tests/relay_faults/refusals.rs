//! What cannot move is refused with a reason, before it costs anybody anything.

use crate::stage::{PATIENCE, Stage, address, assert_lives, end_of, node, slow, wait_for_middle};
use dwcp::Status;
use dwcp::migration::{MigrationOptions, PostCopyRule};
use dwcp_qemulab::{Vm, VmConfig};
use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

fn no_guest(incoming: bool) -> Vm {
    Vm::start(&VmConfig { memory_mib: 32, incoming, paused: true, ..VmConfig::default() }).unwrap()
}

fn assert_refused(stage: &Stage, text: &str) {
    let report = end_of(&stage.migrate_directly(MigrationOptions::default()));
    stage.assert_stayed(&report, Status::LayoutMismatch, text);
    assert_eq!((report.full_pages, report.downtime_ms), (0, 0.0));
    stage.assert_waits();
}

#[test]
fn another_machine_is_refused() {
    let stage = Stage::with(|vm| vm, |vm| VmConfig { machine: "q35", ..vm });
    assert_refused(&stage, "q35");
}

#[test]
fn another_size_of_memory_is_refused() {
    let stage = Stage::with(|vm| vm, |vm| VmConfig { memory_mib: 160, ..vm });
    assert_refused(&stage, &((160_u64 << 20) + (8 << 10)).to_string());
}

#[test]
fn channels_that_the_destinations_qemu_lacks_are_refused_before_anything_moves() {
    let stage = Stage::unattached(|vm| vm, |vm| vm);
    stage.here.attach_qemu("vm", &stage.source.qmp_path(), false).unwrap();
    let older = without(&stage.destination.qmp_path(), "multifd");
    stage.there.attach_qemu("vm", &older, true).unwrap();
    let options = MigrationOptions { multifd_channels: 2, ..MigrationOptions::default() };
    let report = end_of(&stage.migrate_directly(options));
    let text = "multifd_channels is 2, but QEMU 7.2.";
    stage.assert_stayed(&report, Status::Unsupported, text);
    assert!(report.reason.ends_with("at the destination has no capability multifd; use 0"));
    assert_eq!((report.full_pages, report.zero_pages, report.downtime_ms), (0, 0, 0.0));
    stage.assert_waits();
    let told = stage.source.qmp().unwrap().migration_info().unwrap();
    assert_eq!(told.status, "", "QEMU at the source was not troubled");
    let report = end_of(&stage.migrate_directly(MigrationOptions::default()));
    stage.assert_moved(&report, &stage.destination);
}

fn by_post_copy() -> MigrationOptions {
    MigrationOptions { post_copy: PostCopyRule::Auto, ..MigrationOptions::default() }
}

#[test]
fn post_copy_that_the_destinations_qemu_lacks_is_refused_before_anything_moves() {
    let stage = Stage::unattached(|vm| vm, |vm| vm);
    stage.here.attach_qemu("vm", &stage.source.qmp_path(), false).unwrap();
    let older = without(&stage.destination.qmp_path(), "postcopy-ram");
    stage.there.attach_qemu("vm", &older, true).unwrap();
    let report = end_of(&stage.migrate_directly(by_post_copy()));
    stage.assert_stayed(&report, Status::Unsupported, "post-copy is wanted, but QEMU 7.2.");
    assert!(
        report.reason.ends_with("at the destination has no capability postcopy-ram; use never")
    );
    stage.assert_waits();
    let told = stage.source.qmp().unwrap().migration_info().unwrap();
    assert_eq!(told.status, "", "QEMU at the source was not troubled");
}

#[test]
fn post_copy_that_the_sources_qemu_lacks_leaves_the_guest_as_it_was() {
    let stage = Stage::unattached(|vm| vm, |vm| vm);
    let older = without(&stage.source.qmp_path(), "postcopy-ram");
    stage.here.attach_qemu("vm", &older, false).unwrap();
    stage.there.attach_qemu("vm", &stage.destination.qmp_path(), true).unwrap();
    let options = MigrationOptions { multifd_channels: 2, ..by_post_copy() };
    let error = stage.here.migrate("vm", &address(&stage.there), options).err().unwrap();
    assert_eq!(error.status(), Status::InvalidArgument);
    assert!(error.to_string().contains("use never, or 0"), "{error}");
    let report = end_of(&stage.migrate_directly(by_post_copy()));
    stage.assert_stayed(&report, Status::Callback, "has no capability postcopy-ram; use never");
    stage.assert_waits();
}

/// A QMP socket beside that of a QEMU, which then seems to be older than one of its capabilities.
fn without(qmp: &Path, capability: &str) -> PathBuf {
    let capability = format!("\"{capability}\"");
    let (path, qmp) = (qmp.with_file_name("older.sock"), qmp.to_path_buf());
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let server = UnixStream::connect(&qmp).unwrap();
            let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            let commands = std::thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Both);
            });
            for line in BufReader::new(&server).lines().map_while(Result::ok) {
                if writeln!(&client, "{}", line.replace(&capability, "\"x-none\"")).is_err() {
                    break;
                }
            }
            let _ = client.shutdown(Shutdown::Both);
            commands.join().unwrap();
        }
    });
    path
}

#[test]
fn what_is_no_qemu_in_the_right_state_is_not_attached() {
    let (running, waiting, node) = (no_guest(false), no_guest(true), node("here"));
    let folder = running.folder();
    let refused = |path: &std::path::Path, incoming| {
        let error = node.attach_qemu("vm", path, incoming).unwrap_err().to_string();
        eprintln!("{error}");
        assert!(node.guests().is_empty());
        error
    };
    let text = refused(&running.qmp_path(), true);
    assert!(text.contains("prelaunch") && text.contains("-incoming defer"), "{text}");
    let text = refused(&waiting.qmp_path(), false);
    assert!(text.contains("inmigrate") && text.contains("as incoming"), "{text}");
    let nowhere = folder.join("nowhere.sock");
    assert!(refused(&nowhere, false).contains("nowhere.sock"));
    let other = folder.join("other.sock");
    let listener = UnixListener::bind(&other).unwrap();
    let stranger = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        socket.write_all(b"220 mail.example.org ESMTP\r\n").unwrap();
    });
    assert!(refused(&other, false).contains("220 mail.example.org"));
    stranger.join().unwrap();
    // A refusal holds nothing.
    node.attach_qemu("vm", &running.qmp_path(), false).unwrap();
}

/// A device that QEMU cannot migrate: a folder shared as a writable disk.
fn with_shared_folder(vm: VmConfig<'_>) -> VmConfig<'_> {
    let folder = std::env::temp_dir().join(format!("dwcp-shared-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let drive = format!("file=fat:rw:{},format=raw,if=none,id=shared", folder.display());
    VmConfig { extra_args: vec!["-drive".into(), drive], ..vm }
}

#[test]
fn what_qemu_cannot_migrate_is_refused_in_its_own_words() {
    let stage = Stage::with(with_shared_folder, |vm| vm);
    let report = end_of(&stage.migrate_directly(MigrationOptions::default()));
    stage.assert_stayed(&report, Status::Callback, "does not support live migration");
    let _ = std::fs::remove_dir_all(
        std::env::temp_dir().join(format!("dwcp-shared-{}", std::process::id())),
    );
}

#[test]
fn a_moving_guest_is_busy_and_a_cancelled_one_may_move_again() {
    let stage = Stage::new();
    let migration = stage.migrate_directly(slow());
    wait_for_middle(&migration);
    let again = stage.here.migrate("vm", &address(&stage.there), slow());
    assert_eq!(again.err().map(|error| error.status()), Some(Status::Busy));
    let removed = stage.here.remove_guest("vm");
    assert_eq!(removed.err().map(|error| error.status()), Some(Status::Busy));
    migration.cancel();
    stage.assert_stayed(&end_of(&migration), Status::Cancelled, "cancelled");
    let arrival = stage.there.migration(migration.id()).unwrap();
    let there = arrival.wait(Some(PATIENCE)).unwrap();
    assert_eq!(there.status, Status::Cancelled, "{}", there.reason);
    stage.assert_moves();
}

#[test]
fn a_destination_may_cancel_too() {
    let stage = Stage::new();
    let migration = stage.migrate_directly(slow());
    wait_for_middle(&migration);
    stage.there.migration(migration.id()).unwrap().cancel();
    stage.assert_stayed(&end_of(&migration), Status::Cancelled, "at the destination");
    assert_lives(&stage.source);
}

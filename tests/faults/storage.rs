//! Ownership records that cannot be written: the guest stays where its record is.

use crate::stage::{Directory, PAGES, Stage, at_phase, patient, wait_until};
use crate::support::Guest;
use dwcp::Status;
use dwcp::migration::{Owner, Phase};
use std::io::Write;
use std::path::Path;

fn stage_with_state(source: Option<&Path>, destination: Option<&Path>) -> Stage {
    Stage::with(Guest::new(PAGES, 1000), Guest::new(PAGES, 1000), (source, destination))
}

/// Runs `test` with a directory of 64 KiB, in a mount namespace that ends with the test's threads.
pub fn on_small_disk(name: &str, test: impl FnOnce(&Path) + Send) {
    let directory = Directory::new(name);
    std::thread::scope(|scope| {
        scope.spawn(|| match mount_small_tmpfs(&directory.0) {
            true => test(&directory.0),
            false => eprintln!("skipped: mounting needs root"),
        });
    });
}

fn mount_small_tmpfs(at: &Path) -> bool {
    let at = std::ffi::CString::new(at.as_os_str().as_encoded_bytes()).unwrap();
    let (none, private) = (std::ptr::null(), libc::MS_REC | libc::MS_PRIVATE);
    let (kind, size) = (c"tmpfs".as_ptr(), c"size=64k".as_ptr().cast());
    // SAFETY: every string is live and terminated; only the mounts of this thread, and of those
    // that it starts, change.
    unsafe {
        libc::unshare(libc::CLONE_NEWNS) == 0
            && libc::mount(none, c"/".as_ptr(), none, private, none.cast()) == 0
            && libc::mount(kind, at.as_ptr(), kind, 0, size) == 0
    }
}

pub fn fill(path: &Path) {
    let mut file = std::fs::File::create(path).unwrap();
    while file.write(&[1; 4096]).is_ok_and(|written| written > 0) {}
}

#[test]
fn a_full_disk_at_the_source_keeps_the_guest_there() {
    on_small_disk("full-source", |disk| {
        fill(&disk.join("filler"));
        let stage = stage_with_state(Some(disk), None);
        let report = stage.run_directly(patient());
        let text = "cannot write the ownership record: ";
        stage.assert_stayed(&report, Status::StateFile, text);
        assert!(report.reason.contains("No space left on device"), "{}", report.reason);
        assert!(report.reason.contains("source.state"), "{}", report.reason);
        std::fs::remove_file(disk.join("filler")).unwrap();
        stage.assert_moves();
    });
}

#[test]
fn a_full_disk_at_the_destination_keeps_the_guest_at_the_source() {
    on_small_disk("full-destination", |disk| {
        fill(&disk.join("filler"));
        let stage = stage_with_state(None, Some(disk));
        let report = stage.run_directly(patient());
        stage.assert_stayed(&report, Status::StateFile, "cannot write the ownership record: ");
        assert!(report.reason.contains("No space left on device"), "{}", report.reason);
        std::fs::remove_file(disk.join("filler")).unwrap();
        stage.assert_moves();
    });
}

#[test]
fn a_disk_that_fills_up_on_the_way_stops_nothing() {
    on_small_disk("filling", |disk| {
        let stage = stage_with_state(Some(disk), None);
        let filler = disk.join("filler");
        // On the source's own thread, once its record has its place.
        at_phase(&stage.alpha, Phase::Precopy, move || fill(&filler));
        let report = stage.run_directly(patient());
        assert_eq!(report.status, Status::Ok, "{}", report.reason);
        stage.assert_moved(&report);
    });
}

#[test]
fn a_state_directory_that_vanishes_is_named() {
    let (here, there) = (Directory::new("vanished-a"), Directory::new("vanished-b"));
    let stage = stage_with_state(Some(&here.0), Some(&there.0));
    std::fs::remove_dir_all(&there.0).unwrap();
    let report = stage.run_directly(patient());
    stage.assert_stayed(&report, Status::StateFile, &format!("{}", there.0.display()));
    std::fs::create_dir_all(&there.0).unwrap();
    stage.assert_moves();
}

#[test]
fn a_finished_migration_leaves_the_destination_s_record_alone() {
    let (here, there) = (Directory::new("records-a"), Directory::new("records-b"));
    let stage = stage_with_state(Some(&here.0), Some(&there.0));
    stage.assert_moves();
    wait_until("the source's record is gone", || std::fs::read_dir(&here.0).unwrap().count() == 0);
    drop(stage);
    let kept = dwcp::runtime::record_keeper::read_all(&there.0).unwrap();
    assert_eq!(kept.records.len(), 1);
    assert_eq!(kept.records[0].1.mark.owner(), Owner::Destination);
}

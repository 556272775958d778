//! QMP conversations that break, or fall silent, when the destination's QEMU has its guest: that says
//! nothing of the guest, and the source must not let it run again.

use crate::stage::{PATIENCE, Stage, end_of, kill, slow_and_patient, wait_until};
use dwcp::Status;
use dwcp::migration::Owner;
use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

#[test]
fn a_conversation_that_breaks_is_begun_anew() {
    let (stage, _between) = staged(Fault::Break);
    let report = end_of(&stage.migrate_directly(slow_and_patient()));
    stage.assert_moved(&report, &stage.destination);
}

#[test]
fn a_silent_qemu_is_waited_for() {
    let (stage, between) = staged(Fault::Silence);
    let migration = stage.migrate_directly(slow_and_patient());
    // The first question has run out of time by then.
    wait_until("it is asked twice", || between.unanswered.load(Ordering::SeqCst) >= 2);
    let arrival = stage.there.migration(migration.id()).unwrap();
    assert!(arrival.report().is_none() && migration.report().is_none());
    assert!(!stage.source.qmp().unwrap().status().unwrap().running);
    between.is_silent.store(false, Ordering::SeqCst);
    stage.assert_moved(&end_of(&migration), &stage.destination);
}

#[test]
fn a_qemu_that_ends_out_of_touch_may_have_run_its_guest() {
    let (stage, _between) = staged(Fault::BreakAndEnd);
    let report = end_of(&stage.migrate_directly(slow_and_patient()));
    eprintln!("{}", report.reason);
    assert_eq!((report.status, report.owner), (Status::Callback, Owner::Destination));
    assert!(report.reason.contains("destination: QEMU at the destination has ended"));
    let arrived = stage.there.migration(report.id).unwrap().wait(Some(PATIENCE)).unwrap();
    assert_eq!((arrived.status, arrived.owner), (Status::Callback, Owner::Destination));
    assert!(!stage.source.qmp().unwrap().status().unwrap().running, "it may run twice");
}

#[derive(Clone, Copy)]
enum Fault {
    Break,
    /// QEMU ends when it is connected to again.
    BreakAndEnd,
    Silence,
}

fn staged(fault: Fault) -> (Stage, Between) {
    let stage = Stage::unattached(|config| config, |config| config);
    let between = Between::new(&stage.destination.qmp_path(), stage.destination.pid(), fault);
    stage.here.attach_qemu("vm", &stage.source.qmp_path(), false).unwrap();
    stage.there.attach_qemu("vm", &between.path, true).unwrap();
    (stage, between)
}

/// A QMP socket beside that of QEMU. It passes everything on until QEMU says that it has the guest;
/// that it keeps for itself.
struct Between {
    path: PathBuf,
    is_silent: Arc<AtomicBool>,
    unanswered: Arc<AtomicUsize>,
}

impl Between {
    fn new(qmp: &Path, pid: u32, fault: Fault) -> Self {
        let path = qmp.with_file_name("between.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let (is_silent, unanswered) = (Arc::default(), Arc::default());
        let between = Self { path, is_silent, unanswered };
        let (is_silent, unanswered) = (between.is_silent.clone(), between.unanswered.clone());
        let qmp = qmp.to_path_buf();
        std::thread::spawn(move || {
            let mut has_guest = false;
            for client in listener.incoming().map_while(Result::ok) {
                if has_guest && matches!(fault, Fault::BreakAndEnd) {
                    kill(pid);
                    return;
                }
                // QEMU serves one at a time.
                let server = UnixStream::connect(&qmp).unwrap();
                let (to, from) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                let (silent, count) = (is_silent.clone(), unanswered.clone());
                let commands =
                    std::thread::spawn(move || pass_commands(&from, &to, &silent, &count));
                pass_answers(&server, &client, fault, &mut has_guest, &is_silent);
                let _ = client.shutdown(Shutdown::Both);
                let _ = server.shutdown(Shutdown::Both);
                commands.join().unwrap();
            }
        });
        between
    }
}

fn pass_commands(
    client: &UnixStream,
    mut server: &UnixStream,
    is_silent: &AtomicBool,
    unanswered: &AtomicUsize,
) {
    for line in BufReader::new(client).lines().map_while(Result::ok) {
        if is_silent.load(Ordering::SeqCst) {
            unanswered.fetch_add(1, Ordering::SeqCst);
        }
        if writeln!(server, "{line}").is_err() {
            break;
        }
    }
    let _ = server.shutdown(Shutdown::Both);
}

fn pass_answers(
    server: &UnixStream,
    mut client: &UnixStream,
    fault: Fault,
    has_guest: &mut bool,
    is_silent: &AtomicBool,
) {
    for line in BufReader::new(server).lines().map_while(Result::ok) {
        if !*has_guest && line.contains("\"MIGRATION\"") && line.contains("\"completed\"") {
            *has_guest = true;
            match fault {
                Fault::Silence => is_silent.store(true, Ordering::SeqCst),
                Fault::Break | Fault::BreakAndEnd => return,
            }
        }
        if !is_silent.load(Ordering::SeqCst) && writeln!(client, "{line}").is_err() {
            return;
        }
    }
}

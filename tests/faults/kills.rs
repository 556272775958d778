//! `kill -9` of a source or destination in every phase: the survivor and the two records say who
//! owns the guest, they agree, and the guest never runs on both sides.

use crate::child::Child;
use crate::stage::{
    Directory, PAGES, PATIENCE, Stage, address, at_phase, hasty, node, patient, wait_until,
};
use crate::support::Guest;
use dwcp::Status;
use dwcp::migration::ownership::Mark;
use dwcp::migration::{Ending, MigrationOptions, Owner, Phase, Report};
use dwcp::runtime::record_keeper::read_all;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

const AT_SOURCE: [Phase; 6] = [
    Phase::Precopy,
    Phase::FinalPass,
    Phase::DeviceState,
    Phase::Verify,
    Phase::Handover,
    Phase::Resume,
];
const BEFORE_COMMIT: [Phase; 4] =
    [Phase::Precopy, Phase::DeviceState, Phase::Verify, Phase::Handover];

fn marks(directory: &Path) -> Vec<Mark> {
    read_all(directory).unwrap().records.into_iter().map(|(_, record)| record.mark).collect()
}

/// The one mark that the last process left behind.
fn mark(directory: &Path) -> Mark {
    let marks = marks(directory);
    assert_eq!(marks.len(), 1, "{marks:?}");
    marks[0]
}

#[test]
fn a_source_killed_at_any_phase_leaves_one_owner() {
    // All at once, because a destination waits a minute for its source to come back.
    std::thread::scope(|scope| {
        for phase in AT_SOURCE {
            scope.spawn(move || kill_source_at(phase));
        }
    });
}

fn kill_source_at(phase: Phase) {
    let directory = |side| Directory::new(&format!("killed-source-{}-{side}", phase.name()));
    let (left, right) = (directory("a"), directory("b"));
    let (beta, there) = (node("beta", Some(&right.0)), Guest::new(PAGES, 1000));
    beta.add_destination("vm", there.sink()).unwrap();
    let mut source = Child::source(&address(&beta), &left.0, phase);
    source.expect(&format!("at {}", phase.name()));
    let committed = phase == Phase::Resume;
    wait_until("the destination runs it", || !committed || there.is_running());
    source.kill();
    assert_eq!(there.is_running(), committed, "{phase:?}");

    let incoming = beta.migrations().pop().unwrap();
    let report = incoming.wait(PATIENCE).expect("the survivor never made up its mind");
    if committed {
        assert_eq!((report.status, report.owner), (Status::Ok, Owner::Destination));
        assert_eq!(mark(&left.0), Mark::CommitSent);
        assert!(Mark::CommitSent.advice().contains("`owned` means it has the guest"));
        there.stop();
        there.check();
    } else {
        assert_eq!((report.status, report.owner), (Status::ConnectionLost, Owner::Source));
        let text = "no commit has come, so the guest is the source's";
        assert!(report.reason.contains(text), "{phase:?}: {}", report.reason);
        assert_eq!(mark(&left.0), Mark::SourceRuns);
        assert!(!there.is_running());
        // The operator starts the guest at the source again, and it moves.
        let stage = Stage::with_beta(beta.clone(), there.clone());
        stage.assert_moves();
    }
    beta.stop();
    let kept = read_all(&right.0).unwrap();
    let expected = if committed { Owner::Destination } else { Owner::Source };
    assert_eq!(kept.incoming[&report.id], expected, "{phase:?}");
}

#[test]
fn a_destination_killed_before_the_commit_leaves_the_guest_at_the_source() {
    for phase in BEFORE_COMMIT {
        let right = Directory::new(&format!("killed-destination-{}", phase.name()));
        let stage = Stage::new();
        let (mut child, to) = Child::destination("127.0.0.1:0", Some(&right.0), Some(phase));
        let migration = stage.migrate(&to, hasty());
        child.expect(&format!("at {}", phase.name()));
        wait_until("it is connected", || migration.progress().streams > 0);
        child.kill();
        let report = migration.wait(PATIENCE).unwrap();
        stage.assert_stayed(&report, Status::ConnectionLost, "no connection for");
        assert!(marks(&right.0).iter().all(|mark| mark.owner() == Owner::Source), "{phase:?}");
        stage.assert_moves();
    }
}

/// A destination killed as its phase begins, or as the source enters `Handover`, and started again.
fn kill_and_restart(stage: &Stage, phase: Option<Phase>, state: Option<&Path>) -> (Report, Child) {
    let (child, to) = Child::destination("127.0.0.1:0", state, phase);
    let child = std::sync::Arc::new(Mutex::new(child));
    let options = MigrationOptions {
        reconnect_timeout: if state.is_some() {
            Duration::from_secs(60)
        } else {
            Duration::from_secs(3)
        },
        ..patient()
    };
    let migration = match phase {
        Some(phase) => {
            let migration = stage.migrate(&to, options);
            let mut child = child.lock().unwrap();
            child.expect(&format!("at {}", phase.name()));
            child.kill();
            migration
        }
        None => {
            let doomed = child.clone();
            at_phase(&stage.alpha, Phase::Handover, move || drop(doomed.lock().unwrap().kill()));
            let migration = stage.migrate(&to, options);
            wait_until("the commit is out", || migration.owner() == Owner::InDoubt);
            migration
        }
    };
    assert!(!stage.here.is_running());
    let (restarted, _) = Child::destination(&to, state, None);
    (migration.wait(PATIENCE).unwrap(), restarted)
}

#[test]
fn a_destination_killed_with_the_guest_in_its_record_says_so_when_it_is_back() {
    let right = Directory::new("killed-owner");
    let stage = Stage::new();
    let (report, restarted) = kill_and_restart(&stage, Some(Phase::Resume), Some(&right.0));
    assert_eq!((report.status, report.owner), (Status::Ok, Owner::Destination));
    assert!(!stage.here.is_running());
    assert_eq!((stage.here.endings(), stage.alpha.guests()), (vec![Ending::Discard], vec![]));
    drop(restarted);
    assert_eq!(mark(&right.0), Mark::Owned);
    assert!(Mark::Owned.advice().contains("the guest is this host's"));
}

#[test]
fn a_destination_killed_before_the_commit_reached_it_gives_the_guest_back_when_it_is_back() {
    let right = Directory::new("killed-prepared");
    let stage = Stage::new();
    let (report, restarted) = kill_and_restart(&stage, None, Some(&right.0));
    assert_eq!(report.owner, Owner::Source, "{}", report.reason);
    assert_eq!(report.status, Status::PeerAborted);
    assert!(report.reason.contains("is over"), "{}", report.reason);
    stage.assert_stayed(&report, Status::PeerAborted, "");
    drop(restarted);
    assert_eq!(mark(&right.0), Mark::Prepared);
    stage.assert_moves();
}

#[test]
fn a_destination_that_comes_back_without_its_record_leaves_the_source_in_doubt() {
    let stage = Stage::new();
    let (report, _restarted) = kill_and_restart(&stage, None, None);
    assert_eq!((report.status, report.owner), (Status::InDoubt, Owner::InDoubt));
    assert!(report.reason.contains("last attempt: no migration"), "{}", report.reason);
    assert!(!stage.here.is_running());
    assert_eq!(stage.here.endings(), [Ending::Undecided]);
}

//! Real nodes: what one exports another takes in, and a crash at any moment leaves all of it or nothing.

use super::intention::{Intention, Noted};
use super::*;
use crate::migration::ownership::{Mark, Record};
use crate::node::state::tests::drawn;
use crate::node::state::{Effect, Input, KeptRecord, Setting, State, decode, encode};
use crate::rollout::{ChangeAction, Flag, Schedule};
use crate::runtime::record_keeper;
use crate::runtime::security::SecurityOptions;
use crate::runtime::state_file::Side;
use crate::wire::v1::flags::Flags;
use crate::{NodeOptions, Status};
use std::path::{Path, PathBuf};

/// A node with a state directory and a configuration of its own.
struct Host {
    directory: PathBuf,
    node: Node,
    config: ConfigStore,
}

impl Host {
    fn new(name: &str) -> Self {
        let directory =
            std::env::temp_dir().join(format!("dwcp-transfer-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("c.yaml"), "# mine\n").unwrap();
        Self::at(directory)
    }

    /// Started anew over what is there.
    fn at(directory: PathBuf) -> Self {
        let node = start(&directory);
        let config = ConfigStore::open(&directory.join("c.yaml")).unwrap();
        carry_through(&node, Some(&config));
        Self { directory, node, config }
    }

    fn again(self) -> Self {
        let directory = self.directory.clone();
        self.node.stop();
        drop(self.node);
        Self::at(directory)
    }

    fn state(&self) -> State {
        self.node.export_state(Some(&self.config)).unwrap().state
    }

    fn import(&self, state: &State) -> Result<Imported, StateError> {
        self.node.import_state(&encode(state).unwrap(), Some(&self.config), &options())
    }

    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.directory).unwrap();
        let name = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
        let mut names: Vec<_> = entries.map(|entry| name(entry.unwrap())).collect();
        names.sort();
        names
    }

    fn end(self) {
        self.node.stop();
        std::fs::remove_dir_all(&self.directory).unwrap();
    }
}

fn start(directory: &Path) -> Node {
    Node::start(NodeOptions {
        name: "node-1".into(),
        state_dir: Some(directory.to_path_buf()),
        security: SecurityOptions::Plain,
        ..NodeOptions::default()
    })
    .unwrap()
}

fn options() -> ImportOptions {
    ImportOptions { who: "anna".into(), why: "a new disk".into(), dry_run: false }
}

/// A drawn state that a node can hold without the clock changing it.
fn state(seed: u64) -> State {
    let mut state = drawn(seed);
    let mut random = fastrand::Rng::with_seed(seed);
    for flag in Flag::ALL {
        let rule = &mut state.flags.state_mut(flag).rule;
        rule.schedule = random.bool().then(|| Schedule::guide(flag).started_at(9_000_000_000));
    }
    for (number, peer) in state.peers.iter_mut().enumerate() {
        peer.peer = format!("127.0.0.1:{}", number + 1);
    }
    let setting = |key: &str, value: String| Setting { key: key.into(), value };
    let settings = [
        setting("amst.dscp", random.u8(1..64).to_string()),
        setting("hde.max_baselines", random.u16(1..900).to_string()),
        setting("migration.post_copy", "manual".into()),
        setting("mode_detector.latency_threshold", format!("{}ms", random.u16(60..900))),
        setting("node.log_level", "debug".into()),
        setting("rollout.members", "a,b".into()),
        setting("security.allowed_peers", "a,b".into()),
    ];
    state.settings = Some(settings.into_iter().filter(|_| random.bool()).collect());
    (state.forced_mode, state.guests) = (None, Vec::new());
    state.sort();
    state
}

fn is_like(here: &State, wanted: &State) -> bool {
    // The log has its own entries, and each host its own.
    here.flags == wanted.flags
        && here.settings == wanted.settings
        && here.peers == wanted.peers
        && here.records == wanted.records
}

#[test]
fn what_is_exported_comes_back_whole() {
    for seed in 0..12 {
        let host = Host::new(&format!("whole-{seed}"));
        let wanted = state(seed);
        let imported = host.import(&wanted).unwrap();
        let changed = imported.differences.iter().all(|found| found.effect != Effect::Stays);
        assert!(changed, "seed {seed}: {:?}", imported.differences);
        let found = host.state();
        assert!(is_like(&found, &wanted), "seed {seed}: {found:#?} is not {wanted:#?}");
        // The same again changes nothing, and needs no entry in the log.
        let entries = host.node.flag_history(9).len();
        assert!(host.import(&wanted).unwrap().differences.is_empty(), "seed {seed}");
        assert_eq!(host.node.flag_history(9).len(), entries);
        let host = host.again();
        let found = State { peers: wanted.peers.clone(), ..host.state() };
        assert!(is_like(&found, &wanted), "seed {seed}, started anew");
        host.end();
    }
}

#[test]
fn an_import_is_in_the_log_with_who_and_why_and_whose() {
    let host = Host::new("log");
    host.import(&state(3)).unwrap();
    let entry = host.node.flag_history(1).remove(0);
    assert_eq!((entry.who.as_str(), entry.why.as_str()), ("anna", "a new disk"));
    assert!(entry.evidence.unwrap().text().contains("\"node\":\"node-1\""));
    let nothing = ImportOptions { why: " ".into(), ..options() };
    let document = encode(&state(4)).unwrap();
    let refused = host.node.import_state(&document, Some(&host.config), &nothing).unwrap_err();
    assert!(refused.to_string().contains("needs a reason"), "{refused}");
    host.end();
}

#[test]
fn a_dry_run_tells_the_same_and_changes_nothing() {
    let host = Host::new("dry");
    let before = (host.state(), host.files());
    let document = encode(&state(5)).unwrap();
    let dry = ImportOptions { dry_run: true, ..options() };
    let told = host.node.import_state(&document, Some(&host.config), &dry).unwrap();
    assert!(host.state().is_like(&before.0));
    assert_eq!(host.files(), before.1);
    let done = host.node.import_state(&document, Some(&host.config), &options()).unwrap();
    assert_eq!(told, done);
    host.end();
}

#[test]
fn what_cannot_be_done_as_a_whole_is_refused_whole() {
    let host = Host::new("refused");
    let before = (host.state(), host.files());
    let wanted = state(6);
    for (key, value, what) in [
        ("hde.max_baseline", "5", "did you mean hde.max_baselines?"),
        ("hde.max_baselines", "0", "0 is below the least allowed, 1"),
        ("feature_flags.hybrid_mode", "true", "it is no setting of its own"),
    ] {
        let settings = Some(vec![Setting { key: key.into(), value: value.into() }]);
        let refused = host.import(&State { settings, ..wanted.clone() }).unwrap_err();
        assert!(refused.to_string().contains(what), "{refused}");
        assert_eq!(refused.status(), Status::InvalidArgument);
    }
    // Without a configuration there is nowhere to put settings.
    let document = encode(&State { settings: Some(vec![]), ..wanted.clone() }).unwrap();
    host.node.import_state(&document, None, &ImportOptions { dry_run: true, ..options() }).unwrap();
    let settings = Some(vec![Setting { key: "amst.dscp".into(), value: "8".into() }]);
    let document = encode(&State { settings, ..wanted }).unwrap();
    let refused = host.node.import_state(&document, None, &options()).unwrap_err();
    assert_eq!(refused.status(), Status::Unsupported, "{refused}");
    assert!(host.state().is_like(&before.0));
    assert_eq!(host.files(), before.1);
    host.end();
}

#[test]
fn records_of_another_node_stay_with_it() {
    let host = Host::new("other");
    let mut wanted = state(7);
    wanted.origin.node = "node-2".into();
    wanted.records = vec![record(1, Mark::Owned)];
    let imported = host.import(&wanted).unwrap();
    let found = imported.differences.iter().find(|found| found.part == "record").unwrap();
    assert_eq!(found.why.as_deref(), Some("it is of node node-2"));
    assert!(host.state().records.is_empty());
    host.end();
}

#[test]
fn v1s_flags_change_the_flags_alone_and_their_force_holds() {
    let host = Host::new("v1");
    host.import(&State { flags: Default::default(), ..state(8) }).unwrap();
    let before = host.state();
    let v1 = Flags { compression: true, rollout_percent: 10, force_v1: true, ..Flags::INITIAL };
    let import = || host.node.import_state(&v1.encode().unwrap(), Some(&host.config), &options());
    let imported = import().unwrap();
    assert_eq!((imported.origin, imported.settings.len()), (None, 0));
    let after = host.state();
    assert!(is_like(&State { flags: before.flags.clone(), ..after.clone() }, &before));
    assert_eq!(after.flags.rule(Flag::MlCompression).rollout_percent.to_string(), "10");
    // What no file and no variable holds would be called off at once, were it not as by a call.
    assert_eq!(after.flags.killed.as_deref(), Some("call: v1's flags force v1 mode"));
    // And no import calls it off.
    let free = Flags { force_v1: false, ..v1 };
    let imported = host.node.import_state(&free.encode().unwrap(), Some(&host.config), &options());
    let differences = imported.unwrap().differences;
    assert!(
        differences
            .iter()
            .any(|found| found.part == "kill_switch" && found.effect == Effect::Stays)
    );
    assert!(host.node.flag(Flag::MlCompression).killed.is_some());
    host.end();
}

#[test]
fn an_import_that_was_only_begun_is_taken_back() {
    for added in [0, 1, 2] {
        let host = Host::new(&format!("begun-{added}"));
        let before = host.state();
        let (intention, _) = intention(&host, 9);
        let noted = Noted::begin(&host.directory, &intention).unwrap();
        for record in &intention.additions()[..added] {
            record_keeper::add(&host.directory, record.migration, record.side, &record.record)
                .unwrap();
        }
        assert!(matches!(host.import(&state(9)), Err(StateError::Busy(_))));
        // As a process that is killed leaves it: its locks are gone, its files are not.
        drop(noted);
        let host = host.again();
        assert!(host.state().is_like(&before), "{added} added");
        assert!(host.files().iter().all(|name| !name.starts_with("import.")), "{:?}", host.files());
        let told =
            host.node.events(0).iter().any(|event| format!("{event:?}").contains("taken back"));
        assert!(told);
        host.end();
    }
}

#[test]
fn one_that_was_committed_is_carried_through_from_wherever_it_was() {
    for flags_are_done in [false, true] {
        let host = Host::new(&format!("committed-{flags_are_done}"));
        let (intention, wanted) = intention(&host, 10);
        let mut noted = Noted::begin(&host.directory, &intention).unwrap();
        for record in intention.additions() {
            record_keeper::add(&host.directory, record.migration, record.side, &record.record)
                .unwrap();
        }
        noted.commit().unwrap();
        if flags_are_done {
            let flags = plan::flags(&host.node.rollout().set(), &wanted.flags);
            let (who, why) = ("anna".to_owned(), "a new disk".to_owned());
            let action = ChangeAction::Whole(Box::new(flags));
            let change = crate::rollout::Change { who, why, evidence: None, action };
            host.node.change_flags(&change).unwrap();
        }
        drop(noted);
        let host = host.again();
        let found = host.state();
        assert!(is_like(&found, &wanted), "{found:#?} is not {wanted:#?}");
        assert!(host.files().contains(&"import.last".to_owned()), "{:?}", host.files());
        assert!(!host.files().contains(&"import.committed".to_owned()));
        host.end();
    }
}

#[test]
fn a_torn_note_of_an_import_is_no_import() {
    let host = Host::new("torn");
    let before = host.state();
    std::fs::write(host.directory.join("import.begun"), b"{\"who\":\"an").unwrap();
    let host = host.again();
    assert!(host.state().is_like(&before));
    host.import(&state(11)).unwrap();
    host.end();
}

fn record(number: u8, mark: Mark) -> KeptRecord {
    let record = Record {
        migration: format!("{number:032x}"),
        guest: "vm".into(),
        peer: "b:1".into(),
        mark,
    };
    KeptRecord::new(Side::Destination, record)
}

/// What an import would note, and the state that it is to lead to.
fn intention(host: &Host, seed: u64) -> (Intention, State) {
    let mut wanted = state(seed);
    wanted.records = vec![record(1, Mark::Owned), record(2, Mark::Arrived)];
    let document = String::from_utf8(encode(&wanted).unwrap()).unwrap();
    assert!(matches!(decode(document.as_bytes()), Ok(Input::State(_))));
    let settings = vec![(crate::config::Id::AmstDscp, crate::config::Value::Integer(9))];
    let prepared = host.config.prepare(settings).unwrap();
    let intention = Intention {
        who: "anna".into(),
        why: "a new disk".into(),
        records: wanted.records.clone(),
        temporary: prepared.temporary().map(Path::to_owned),
        document,
    };
    // A killed process leaves the file; here it is only said where it would have been.
    drop(prepared);
    (intention, wanted)
}

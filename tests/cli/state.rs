//! `export-state` and `import-state` between real daemons, and every way in which a file or a disk can be bad.

use crate::config_disk::SmallDisk;
use crate::stage::{Daemon, Pair, Process, Scratch, operator, refusal, stdout, write_config};
use dwcp::base::MigrationId;
use dwcp::migration::ownership::{Mark, Record, Side};
use dwcp::runtime::record_keeper;
use serde_json::{Value, json};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Instant;

const REASON: [&str; 2] = ["--reason", "a new disk"];

/// A daemon and what is its own.
struct Host {
    scratch: Scratch,
    config: PathBuf,
    daemon: Option<Daemon>,
}

impl Host {
    fn new(more: &str) -> Self {
        let scratch = Scratch::new();
        let config = scratch.path("c.yaml");
        write_config(&scratch, &config, more);
        let daemon = Some(Daemon::start(&scratch, &config));
        Self { scratch, config, daemon }
    }

    /// With something of everything.
    fn filled() -> Self {
        let host = Self::new("migration: {streams: 4}\n");
        for args in [
            &["feature-flags", "set", "hybrid_mode", "--percent", "12.5", "--allow-list", "node-1"]
                [..],
            &["feature-flags", "set", "ml_compression", "--enabled", "false", "--owner", "anna"],
            &["config", "set", "hde.max_baselines", "500"],
            &["set-mode", "internet", "--peer", "127.0.0.1:1"],
        ] {
            host.said(args);
        }
        host.record(1, "vm1", Mark::Owned);
        host.record(2, "vm2", Mark::Arrived);
        host
    }

    fn record(&self, number: u8, guest: &str, mark: Mark) {
        let id = MigrationId([number; 16]);
        let record = Record::new(id, guest, "10.0.0.2:4040", mark);
        record_keeper::add(&self.scratch.path("state"), id, Side::Destination, &record).unwrap();
    }

    fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().unwrap()
    }

    fn said(&self, args: &[&str]) -> String {
        stdout(&self.daemon().run(args))
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.said(&[&["--json"], args].concat())).unwrap()
    }

    fn path(&self, name: &str) -> String {
        self.scratch.path(name).to_str().unwrap().to_owned()
    }

    /// Exports into a file of this name, and gives what is in it.
    fn export(&self, name: &str) -> Value {
        let output = self.path(name);
        self.said(&["export-state", "--output", &output, "--force"]);
        serde_json::from_slice(&std::fs::read(output).unwrap()).unwrap()
    }

    fn import(&self, file: &str) -> std::process::Output {
        self.daemon().run(&[&["import-state", "--input", file][..], &REASON].concat())
    }

    /// Killed, and started anew over what is there.
    fn kill_and_start(&mut self) {
        let daemon = self.daemon.take().unwrap();
        daemon.process.signal(libc::SIGKILL);
        drop(daemon);
        self.daemon = Some(Daemon::start(&self.scratch, &self.config));
    }

    fn state_files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.scratch.path("state")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
    }
}

/// What must be the same on another host.
fn portable(document: &Value) -> Value {
    let own = ["node.listen", "node.log_dir", "node.metrics_listen", "node.state_dir"];
    let mut content = document["content"].clone();
    content["origin"]["at_us"] = Value::Null;
    content["audit"] = Value::Null;
    let settings = content["settings"].as_array_mut().unwrap();
    settings.retain(|setting| !own.contains(&setting["key"].as_str().unwrap()));
    content
}

#[test]
fn what_one_exports_a_fresh_one_takes_in() {
    let (from, to) = (Host::filled(), Host::new("# this host's own\n"));
    let document = from.export("state.json");
    let file = from.path("state.json");
    assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    let before = portable(&to.export("before.json"));
    let dry = to.json(&[&["import-state", "--input", &file, "--dry-run"][..], &REASON].concat());
    assert_eq!(dry["dry_run"], true);
    assert_eq!(portable(&to.export("before.json")), before, "a dry run changes nothing");
    let done = to.json(&[&["import-state", "--input", &file][..], &REASON].concat());
    assert_eq!((&done["differences"], &done["kind"]), (&dry["differences"], &json!("state")));
    assert_eq!(portable(&to.export("after.json")), portable(&document));
    let history = to.said(&["feature-flags", "history"]);
    assert!(
        history.contains("flags replaced: hybrid_mode, ml_compression")
            && history.contains("a new disk"),
        "{history}"
    );
    let text = std::fs::read_to_string(&to.config).unwrap();
    assert!(text.contains("# this host's own") && text.contains("max_baselines: 500"), "{text}");
    assert!(to.said(&["settle"]).contains("vm2"), "what was in doubt there is so here");
    // Nothing is left to do, and that is said.
    let again = stdout(&to.import(&file));
    let own = again.lines().filter(|line| line.contains("stays: it is of this host")).count();
    assert!(own >= 2, "{again}");
    let first = format!("the state of node testling: 0 changed, {own} left");
    assert!(again.starts_with(&first), "{again}");
}

#[test]
fn v1_gets_its_flags_and_the_operator_hears_what_is_lost() {
    let host = Host::filled();
    let output = host.path("state.json");
    let said = host.said(&["export-state", "--output", &output]);
    assert!(
        said.contains("3 settings") || said.contains("settings, 1 peers, 2 ownership records"),
        "{said}"
    );
    for lost in [
        "hybrid_mode: its own percentage, 12.5",
        "hybrid_mode: allow_list",
        "ml_compression: owner",
    ] {
        assert!(said.contains(lost), "{lost}: {said}");
    }
    let compat = std::fs::read_to_string(host.path("v3-state-compat.json")).unwrap();
    let expected = "{\n  \"enableV3Transport\": true,\n  \"enableV3Compression\": false,\n  \
         \"enableV3Prediction\": false,\n  \"enableV3StateSync\": false,\n  \
         \"enableV3Consensus\": false,\n  \"enableV3Placement\": false,\n  \
         \"v3RolloutPercentage\": 12,\n  \"forceV1Mode\": false,\n  \"enableHybridMode\": true,\n  \
         \"enableModeDetection\": true\n}";
    assert_eq!(compat, expected);
    // And it is read: flags alone.
    let to = Host::new("");
    let said = stdout(&to.import(&host.path("v3-state-compat.json")));
    assert!(said.starts_with("v1's flags, and nothing else: "), "{said}");
    let flag = |name: &str| {
        let flags = to.json(&["feature-flags", "list"])["flags"].clone();
        flags.as_array().unwrap().iter().find(|flag| flag["name"] == name).unwrap().clone()
    };
    assert_eq!(flag("hybrid_mode")["rollout_percent"], 12);
    assert_eq!(flag("ml_compression")["enabled"], false);
    assert_eq!(to.said(&["config", "get", "hde.max_baselines"]), "1000\n");
}

#[test]
fn files_that_are_there_are_left_alone() {
    let host = Host::new("");
    let output = host.path("state.json");
    for there in ["state.json", "v3-state-compat.json"] {
        std::fs::write(host.path(there), "mine").unwrap();
        let text = refusal(&host.daemon().run(&["export-state", "--output", &output]), 1);
        assert!(text.contains(there) && text.contains("--force replaces it"), "{text}");
        assert_eq!(std::fs::read_to_string(host.path(there)).unwrap(), "mine");
        std::fs::remove_file(host.path(there)).unwrap();
    }
    let same = host.daemon().run(&["export-state", "--output", &output, "--compat", &output]);
    assert!(refusal(&same, 1).contains("cannot hold the state and v1's flags"));
    host.said(&["export-state", "--output", &output]);
    host.said(&["export-state", "--output", &output, "--force"]);
    let nowhere = host.daemon().run(&["export-state", "--output", "/nowhere/state.json"]);
    assert!(refusal(&nowhere, 1).contains("cannot write /nowhere/state.json"));
}

#[test]
fn a_bad_file_is_refused_with_one_sentence_and_changes_nothing() {
    let host = Host::filled();
    host.export("state.json");
    let good = std::fs::read_to_string(host.path("state.json")).unwrap();
    let before = portable(&host.export("before.json"));
    let flags = good.replacen("\"rollout_percent\": 12.5", "\"rollout_percent\": 13.5", 1);
    for (text, status, what) in [
        (
            good.replacen("\"version\": 1", "\"version\": 2", 1),
            "DWCP_ERR_BAD_VERSION",
            "the state has version 2, and this release reads up to version 1",
        ),
        (flags, "DWCP_ERR_CORRUPT", "the state was changed since it was written"),
        (good[..good.len() / 2].to_owned(), "DWCP_ERR_CORRUPT", "the state is cut off"),
        (
            good.replacen("\"audit\"", "\"more\": 1, \"audit\"", 1),
            "DWCP_ERR_INVALID_ARGUMENT",
            "unknown field `more`",
        ),
        (
            "{\"format\":\"other\",\"version\":1}".into(),
            "DWCP_ERR_INVALID_ARGUMENT",
            "its field format is \"other\"",
        ),
        ("{\"forceV1Mode\": 1}".into(), "DWCP_ERR_INVALID_ARGUMENT", "invalid type"),
        (
            "{\"forceV1Mode\":false,\"v3RolloutPercentage\":101}".into(),
            "DWCP_ERR_INVALID_ARGUMENT",
            "\"101\" is not a percentage",
        ),
    ] {
        let file = host.path("bad.json");
        std::fs::write(&file, text).unwrap();
        let said = refusal(&host.import(&file), 1);
        assert!(said.contains(what) && said.lines().count() == 1, "{what}: {said}");
        let args =
            [&["--json", "import-state", "--input", &file, "--dry-run"][..], &REASON].concat();
        let output = host.daemon().run(&args);
        assert_eq!(output.status.code(), Some(1));
        let error: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(error["error"]["status"], status, "{error}");
        assert!(error["error"]["message"].as_str().unwrap().contains(what), "{error}");
    }
    let huge = std::fs::File::create(host.path("huge.json")).unwrap();
    huge.set_len(1 << 30).unwrap();
    assert!(refusal(&host.import(&host.path("huge.json")), 1).contains("more than 16777216 bytes"));
    std::fs::write(host.path("raw.json"), [0xff, 0xfe]).unwrap();
    assert!(refusal(&host.import(&host.path("raw.json")), 1).contains("is no text"));
    assert!(refusal(&host.import("/nowhere"), 1).contains("cannot read /nowhere"));
    let file = host.path("state.json");
    let unsaid = host.daemon().run(&["import-state", "--input", &file]);
    assert!(refusal(&unsaid, 2).contains("--reason"));
    let blank = host.daemon().run(&["import-state", "--input", &file, "--reason", " "]);
    assert!(refusal(&blank, 1).contains("needs a reason"));
    assert_eq!(portable(&host.export("after.json")), before);
}

#[test]
fn a_full_disk_leaves_nothing_of_an_export_behind() {
    let host = Host::filled();
    let Some(disk) = SmallDisk::mount(&host.scratch.path("disk")) else {
        eprintln!("skipped: this user may not mount a small disk");
        return;
    };
    disk.fill();
    let output = disk.0.join("state.json").to_str().unwrap().to_owned();
    let text = refusal(&host.daemon().run(&["export-state", "--output", &output]), 1);
    assert!(text.contains("cannot write") && text.contains("No space left"), "{text}");
    assert_eq!(std::fs::read_dir(&disk.0).unwrap().count(), 1, "the filler alone");
    std::fs::remove_file(disk.0.join("filler")).unwrap();
    host.said(&["export-state", "--output", &output]);
}

#[test]
fn a_full_disk_refuses_an_import_whole() {
    let from = Host::filled();
    from.export("state.json");
    let scratch = Scratch::new();
    let Some(disk) = SmallDisk::mount(&scratch.path("state")) else {
        eprintln!("skipped: this user may not mount a small disk");
        return;
    };
    let config = scratch.path("c.yaml");
    write_config(&scratch, &config, "");
    let daemon = Some(Daemon::start(&scratch, &config));
    let host = Host { scratch, config, daemon };
    let before = portable(&host.export("before.json"));
    disk.fill();
    let text = refusal(&host.import(&from.path("state.json")), 1);
    assert!(text.contains("No space left"), "{text}");
    assert_eq!(portable(&host.export("after.json")), before);
    assert!(
        host.state_files().iter().all(|name| !name.starts_with("import.")),
        "{:?}",
        host.state_files()
    );
    std::fs::remove_file(disk.0.join("filler")).unwrap();
    stdout(&host.import(&from.path("state.json")));
    assert_eq!(host.said(&["config", "get", "hde.max_baselines"]), "500\n");
    drop(host);
}

#[test]
fn a_daemon_killed_in_an_import_has_all_of_it_or_nothing() {
    let from = Host::filled();
    from.export("state.json");
    let file = from.path("state.json");
    // How long it takes when nobody is killed, so that the kills are spread over all of it.
    let began = Instant::now();
    stdout(&Host::new("").import(&file));
    let whole = began.elapsed();
    let (mut old, mut new) = (0, 0);
    for round in 0..ROUNDS {
        let mut host = Host::new("");
        let args = [&["import-state", "--input", &file][..], &REASON].concat();
        let client = Process::spawn(&mut operator(&host.daemon().socket, &args));
        std::thread::sleep(whole.mul_f64(f64::from(round) / f64::from(ROUNDS)));
        host.kill_and_start();
        let succeeded = client.finish().0.success();
        let found = host.export("after.json")["content"].clone();
        let settings = host.said(&["config", "get", "hde.max_baselines"]);
        let percent = &found["flags"]["flags"]["hybrid_mode"]["rule"]["rollout_percent"];
        match (percent.as_f64(), settings.as_str(), found["records"].as_array().map(Vec::len)) {
            (Some(100.0), "1000\n", Some(0)) => old += 1,
            (Some(12.5), "500\n", Some(2)) => new += 1,
            other => panic!("round {round}: half an import: {other:?}"),
        }
        assert!(!succeeded || percent == 12.5, "round {round}: what was told is lost");
        let left = host.state_files();
        assert!(
            !left.iter().any(|name| name == "import.begun" || name == "import.committed"),
            "{left:?}"
        );
    }
    eprintln!("{old} kept the old state, {new} have the new one");
}

#[test]
fn an_edited_log_of_the_flags_is_found_while_the_node_runs() {
    let host = Host::filled();
    let check = || {
        let output = host.daemon().run(&["--json", "data-integrity-check"]);
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        let found = answer["checks"].as_array().unwrap().last().unwrap().clone();
        assert_eq!(found["what"], "changes of flags");
        (output.status.code(), found)
    };
    let (code, found) = check();
    assert_eq!((code, &found["failed"], &found["checked"]), (Some(0), &json!(0), &json!(3)));
    let log = host.scratch.path("state/rollout.log");
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::write(&log, text.replacen("\"who\":\"operator\"", "\"who\":\"mallory!\"", 1)).unwrap();
    let (code, found) = check();
    assert_eq!((code, &found["failed"]), (Some(1), &json!(1)));
    let detail = found["details"][0].as_str().unwrap();
    assert!(detail.contains("line 2: it was edited"), "{detail}");
}

#[test]
fn a_program_without_a_configuration_has_a_state_too() {
    let pair = Pair::new();
    pair.add_guest("vm", 8);
    pair.json(&["set-mode", "internet"]);
    let output = pair.scratch.path("state.json").to_str().unwrap().to_owned();
    let told = pair.json(&["export-state", "--output", &output]);
    assert_eq!((&told["holds"]["settings"], &told["holds"]["guests"]), (&Value::Null, &json!(1)));
    let document: Value = serde_json::from_slice(&std::fs::read(&output).unwrap()).unwrap();
    assert_eq!(document["content"]["forced_mode"], "internet");
    assert_eq!(document["content"]["guests"], json!([{ "name": "vm", "role": "source" }]));
    pair.json(&["set-mode", "auto"]);
    let done = pair.json(&[&["import-state", "--input", &output][..], &REASON].concat());
    let found = &done["differences"][0];
    assert_eq!((&found["part"], &found["document"]), (&json!("mode"), &json!("internet")));
    assert_eq!(pair.json(&["mode-detect"])["forced"], "internet");
}

/// Kills, spread over the time that an import takes.
const ROUNDS: u32 = 16;

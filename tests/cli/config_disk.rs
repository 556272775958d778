//! `config set` against the file on disk: comments kept, a full disk survived.

use crate::stage::{Daemon, Scratch, refusal, stdout, write_config};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small file system of its own; none where this user may not mount.
pub struct SmallDisk(pub PathBuf);

impl SmallDisk {
    pub fn mount(path: &Path) -> Option<Self> {
        std::fs::create_dir_all(path).unwrap();
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", "size=64k", "dwcp-test"]).arg(path);
        command.output().is_ok_and(|output| output.status.success()).then(|| Self(path.to_owned()))
    }

    pub fn fill(&self) {
        let mut file = std::fs::File::create(self.0.join("filler")).unwrap();
        while file.write_all(&[7; 512]).is_ok() {}
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn set_edits_the_file_and_nothing_else() {
    let scratch = Scratch::new();
    let config = scratch.path("c.yaml");
    write_config(&scratch, &config, "hde_v3: # codec\n  max_baselines: 1000 # many\n");
    let before = std::fs::read_to_string(&config).unwrap();
    let daemon = Daemon::start(&scratch, &config);
    let said = stdout(&daemon.run(&["config", "set", "hde.max_baselines", "500"]));
    assert!(said.contains("hde.max_baselines = 500") && said.contains("next migration"), "{said}");
    let said = stdout(&daemon.run(&["config", "set", "migration.max_downtime", "30ms"]));
    assert!(said.contains("with the next migration"), "{said}");
    let after = std::fs::read_to_string(&config).unwrap();
    let expected =
        before.replace("1000 # many", "500 # many") + "migration:\n  max_downtime: 30ms\n";
    assert_eq!(after, expected);
    let list = stdout(&daemon.run(&["config", "list"]));
    assert!(list.lines().any(|line| line.starts_with("node.name ") && line.ends_with("in use")));
    let said = stdout(&daemon.run(&["config", "set", "node.name", "other"]));
    assert!(said.contains("restarted"), "{said}");
    let list = stdout(&daemon.run(&["config", "list"]));
    assert!(list.contains("waits for a restart"), "{list}");
}

#[test]
fn refusals_leave_the_file_alone() {
    let scratch = Scratch::new();
    let config = scratch.path("c.yaml");
    write_config(&scratch, &config, "");
    let before = std::fs::read_to_string(&config).unwrap();
    let daemon = Daemon::start(&scratch, &config);
    for (key, value, what) in [
        ("hde.max_baseline", "5", "did you mean hde.max_baselines?"),
        ("migration.streams", "65", "65 is above the most allowed, 64"),
        ("migration.bandwidth_limit", "300", "not a rate such as 300mbit"),
        ("amst.mode", "fast", "none of: datacenter, internet, hybrid"),
        ("../../etc/passwd", "x", "is no key"),
    ] {
        let text = refusal(&daemon.run(&["config", "set", key, value]), 1);
        assert!(text.contains(what), "{key}: {text}");
    }
    assert_eq!(std::fs::read_to_string(&config).unwrap(), before);
}

#[test]
fn a_full_disk_keeps_the_old_file() {
    let scratch = Scratch::new();
    let Some(disk) = SmallDisk::mount(&scratch.path("disk")) else {
        eprintln!("skipped: this user may not mount a small disk");
        return;
    };
    let config = disk.0.join("c.yaml");
    // Longer than what a page that is already there could take up.
    write_config(&scratch, &config, &"# filling\n".repeat(1000));
    let before = std::fs::read_to_string(&config).unwrap();
    let daemon = Daemon::start(&scratch, &config);
    disk.fill();
    let text = refusal(&daemon.run(&["config", "set", "migration.streams", "6"]), 1);
    assert!(text.contains("cannot write") && text.contains("No space left"), "{text}");
    assert_eq!(std::fs::read_to_string(&config).unwrap(), before);
    assert_eq!(stdout(&daemon.run(&["config", "get", "migration.streams"])), "8\n");
    let names: Vec<_> =
        std::fs::read_dir(&disk.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    std::fs::remove_file(disk.0.join("filler")).unwrap();
    stdout(&daemon.run(&["config", "set", "migration.streams", "6"]));
    assert!(std::fs::read_to_string(&config).unwrap().contains("migration:\n  streams: 6\n"));
    drop(daemon);
}

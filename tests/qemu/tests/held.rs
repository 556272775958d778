//! Guests of QEMU's that come back, or are like one that was here: what is held need not travel.

use dwcp::migration::{MigrationOptions, Owner, Report};
use dwcp::{Node, NodeOptions, Status};
use dwcp_qemulab::{Image, Load, Vm, VmConfig, memory_digest};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

type Outcome = Result<(), Box<dyn std::error::Error>>;
type Made<T> = Result<T, Box<dyn std::error::Error>>;

const TEXT: Load = Load::Text { mib: 32, rate_mib: 1 };
const WAIT: Duration = Duration::from_secs(90);

fn node(name: &str, state_dir: Option<PathBuf>) -> Made<Node> {
    let listen = Some("127.0.0.1:0".parse()?);
    Ok(Node::start(NodeOptions { name: name.into(), listen, state_dir, ..NodeOptions::default() })?)
}

fn migrate(from: &Node, to: &Node, guest: &str) -> Made<Report> {
    let address = to.local_address().ok_or("no address")?.to_string();
    // A rate, so that no machine is too fast for looking pages up.
    let options = MigrationOptions {
        bandwidth_limit_bytes_per_s: Some(100_000_000),
        ..MigrationOptions::default()
    };
    let migration = from.migrate(guest, &address, options)?;
    Ok(migration.wait(Some(WAIT)).ok_or("the migration did not end")?)
}

fn moved(from: &Node, to: &Node, guest: &str) -> Made<Report> {
    let report = migrate(from, to, guest)?;
    let end = (report.status, &*report.reason, report.owner);
    assert_eq!(end, (Status::Ok, "", Owner::Destination));
    Ok(report)
}

/// What both hold is written behind the migration's back.
fn wait_for_held(nodes: &[&Node], sections: u64) -> Outcome {
    let deadline = Instant::now() + WAIT;
    while nodes.iter().any(|node| node.held(None).sections < sections) {
        if Instant::now() > deadline {
            return Err(format!("{:?} held", nodes[0].held(None)).into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The guest goes on where it stopped, finds its memory as it wrote it, and runs nowhere else.
fn assert_goes_on(from: &Vm, to: &Vm) -> Outcome {
    let counted = from.last_tick();
    to.wait_for_tick(counted + 5, WAIT)?;
    assert_eq!(from.last_tick(), counted, "the guest runs twice");
    assert_eq!((from.complaint(), to.complaint()), (None, None));
    Ok(())
}

/// Moves a stopped guest, compares every byte of it, and lets it run on.
fn move_whole(from: (&Node, &Vm), to: (&Node, &Vm), guest: &str) -> Made<Report> {
    from.1.qmp()?.stop()?;
    let before = memory_digest(&mut from.1.qmp()?)?;
    let report = moved(from.0, to.0, guest)?;
    let mut qmp = to.1.qmp()?;
    assert_eq!(memory_digest(&mut qmp)?, before);
    qmp.cont()?;
    drop(qmp);
    assert_goes_on(from.1, to.1)?;
    Ok(report)
}

/// A folder of the test's own, empty.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Made<Self> {
        let path = std::env::temp_dir().join(format!("dwcp-held-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder.join("held")).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

#[test]
fn a_guest_that_comes_back_brings_what_changed_and_another_like_it_what_differs() -> Outcome {
    let (left, right) = (Folder::new("left")?, Folder::new("right")?);
    let image = Image::cached()?;
    let config = VmConfig { image: Some(&image), load: TEXT, ..VmConfig::default() };
    let incoming = || Vm::start(&VmConfig { incoming: true, ..config.clone() });
    let here = node("here", Some(left.0.clone()))?;
    let there = node("there", Some(right.0.clone()))?;
    let first = Vm::start(&config)?;
    first.wait_for_tick(2, WAIT)?;
    let second = incoming()?;
    here.attach_qemu("vm", &first.qmp_path(), false)?;
    there.attach_qemu("vm", &second.qmp_path(), true)?;
    let out = move_whole((&here, &first), (&there, &second), "vm")?;
    wait_for_held(&[&here, &there], 1)?;
    assert_eq!((files(&left.0).len(), files(&right.0).len()), (1, 1));

    let third = incoming()?;
    here.attach_qemu("vm", &third.qmp_path(), true)?;
    let back = move_whole((&there, &second), (&here, &third), "vm")?;
    println!("out {} bytes, back {} bytes", out.wire_bytes, back.wire_bytes);
    assert!(back.wire_bytes < out.wire_bytes / 4, "{} {}", back.wire_bytes, out.wire_bytes);
    wait_for_held(&[&here, &there], 2)?;

    let fourth = incoming()?;
    there.attach_qemu("again", &fourth.qmp_path(), true)?;
    here.detach_qemu("vm")?;
    here.attach_qemu("again", &third.qmp_path(), false)?;
    let again = move_whole((&here, &third), (&there, &fourth), "again")?;
    println!("under another name {} bytes", again.wire_bytes);
    assert!(again.wire_bytes < out.wire_bytes / 4, "{} {}", again.wire_bytes, out.wire_bytes);

    // Another guest of the same system, that fills memory of its own with text of its own.
    let other = Vm::start(&config)?;
    other.wait_for_tick(2, WAIT)?;
    let fifth = incoming()?;
    here.attach_qemu("like it", &other.qmp_path(), false)?;
    there.attach_qemu("like it", &fifth.qmp_path(), true)?;
    let like = move_whole((&here, &other), (&there, &fifth), "like it")?;
    println!("another of its kind {} bytes", like.wire_bytes);
    assert!(like.wire_bytes < out.wire_bytes, "{} {}", like.wire_bytes, out.wire_bytes);

    here.stop();
    there.stop();
    drop((here, there));
    assert_eq!((files(&left.0), files(&right.0)), (vec![], vec![]));
    Ok(())
}

//! Guests of QEMU's that come back, or are like one that was here: what is held need not travel.

use dwcp::migration::{MigrationOptions, Owner, Report};
use dwcp::observe::EventKind;
use dwcp::{Node, NodeOptions, Status};
use dwcp_qemulab::{Image, Load, Vm, VmConfig, memory_digest};
use std::path::{Path, PathBuf};
use std::process::Command;
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

/// A folder with little room.
struct SmallDisk(Folder);

impl SmallDisk {
    /// None where this user may not mount.
    fn new(name: &str, mib: u32) -> Made<Option<Self>> {
        let folder = Folder::new(name)?;
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "dwcp-test"]).arg(&folder.0);
        Ok(command.output()?.status.success().then(|| Self(folder)))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0.0).status();
    }
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

fn notices(node: &Node) -> Vec<String> {
    let texts = node.events(0).into_iter().filter_map(|event| match event.kind {
        EventKind::Notice { text } => Some(text),
        _ => None,
    });
    texts.collect()
}

fn damage(file: &Path) -> Outcome {
    let mut bytes = std::fs::read(file)?;
    bytes.iter_mut().step_by(1_000).for_each(|byte| *byte ^= 1);
    Ok(std::fs::write(file, bytes)?)
}

#[test]
fn whatever_becomes_of_what_is_held_the_guest_arrives_whole() -> Outcome {
    // So little room that a part is held, beside what is left to others.
    let Some(left) = SmallDisk::new("full", 68)? else {
        eprintln!("skipped: mounting needs root");
        return Ok(());
    };
    let right = Folder::new("damaged")?;
    let image = Image::cached()?;
    let config = VmConfig { image: Some(&image), load: TEXT, ..VmConfig::default() };
    let incoming = || Vm::start(&VmConfig { incoming: true, ..config.clone() });
    let here = node("here", Some(left.0.0.clone()))?;
    let there = node("there", Some(right.0.clone()))?;
    let first = Vm::start(&config)?;
    first.wait_for_tick(2, WAIT)?;
    let second = incoming()?;
    here.attach_qemu("vm", &first.qmp_path(), false)?;
    there.attach_qemu("vm", &second.qmp_path(), true)?;
    let out = move_whole((&here, &first), (&there, &second), "vm")?;
    wait_for_held(&[&here, &there], 1)?;
    let said = notices(&here);
    assert!(said.iter().any(|text| text.contains("left to others")), "{said:?}");
    let (part, all) = (here.held(None), there.held(None));
    assert!(part.pages > 0 && part.bytes < 5 << 20 && part.pages < all.pages, "{part:?} {all:?}");

    // A part of it is a part less to bring.
    let third = incoming()?;
    here.attach_qemu("vm", &third.qmp_path(), true)?;
    let back = move_whole((&there, &second), (&here, &third), "vm")?;
    println!("out {} bytes, back {} bytes", out.wire_bytes, back.wire_bytes);
    assert!(back.wire_bytes < out.wire_bytes, "{} {}", back.wire_bytes, out.wire_bytes);
    wait_for_held(&[&there], 2)?;

    // Damaged where it is needed: that attempt fails, and the next one goes without.
    files(&right.0).iter().try_for_each(|file| damage(file))?;
    let fourth = incoming()?;
    there.attach_qemu("vm", &fourth.qmp_path(), true)?;
    let failed = migrate(&here, &there, "vm")?;
    assert_eq!(failed.owner, Owner::Source, "{failed:?}");
    assert!(failed.reason.contains("no longer be read"), "{}", failed.reason);
    let counted = third.last_tick();
    third.wait_for_tick(counted + 2, WAIT)?;
    there.detach_qemu("vm")?;
    let fifth = incoming()?;
    there.attach_qemu("vm", &fifth.qmp_path(), true)?;
    let mut again = migrate(&here, &there, "vm")?;
    let mut at_last = fifth;
    if again.owner == Owner::Source {
        // Each attempt finds one of the two damaged files.
        there.detach_qemu("vm")?;
        at_last = incoming()?;
        there.attach_qemu("vm", &at_last.qmp_path(), true)?;
        again = migrate(&here, &there, "vm")?;
    }
    assert_eq!((again.status, &*again.reason), (Status::Ok, ""));
    assert_goes_on(&third, &at_last)?;

    // Another process, and one that has let go of all.
    wait_for_held(&[&here], 1)?;
    assert!(here.clear_held(None, None).pages > 0);
    let sixth = incoming()?;
    here.attach_qemu("vm", &sixth.qmp_path(), true)?;
    let whole = move_whole((&there, &at_last), (&here, &sixth), "vm")?;
    there.stop();
    drop(there);
    let there = node("there again", Some(right.0.clone()))?;
    assert_eq!(there.held(None).pages, 0);
    let seventh = incoming()?;
    there.attach_qemu("vm", &seventh.qmp_path(), true)?;
    let anew = move_whole((&here, &sixth), (&there, &seventh), "vm")?;
    println!(
        "after clearing {} bytes, after a restart {} bytes",
        whole.wire_bytes, anew.wire_bytes
    );
    for report in [whole, anew] {
        assert!(report.wire_bytes > out.wire_bytes / 2, "{}", report.wire_bytes);
    }
    Ok(())
}

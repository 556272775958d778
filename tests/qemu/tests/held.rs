//! Guests of QEMU's that come back, or are like one that was here: what is held need not travel.

use dwcp::migration::{MigrationOptions, Owner, Report};
use dwcp::observe::EventKind;
use dwcp::{Node, NodeOptions, SecurityOptions, Status};
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
    Ok(Node::start(NodeOptions {
        name: name.into(),
        listen,
        state_dir,
        security: SecurityOptions::Plain,
        ..NodeOptions::default()
    })?)
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

/// A guest's hosts, and the QEMU that has it.
struct Journey<'a> {
    config: VmConfig<'a>,
    here: Node,
    there: Node,
    vm: Vm,
}

impl Journey<'_> {
    fn incoming(&self, node: &Node) -> Made<Vm> {
        let vm = Vm::start(&VmConfig { incoming: true, ..self.config.clone() })?;
        node.attach_qemu("vm", &vm.qmp_path(), true)?;
        Ok(vm)
    }

    fn go_there(&mut self) -> Made<Report> {
        let arriving = self.incoming(&self.there)?;
        let report = move_whole((&self.here, &self.vm), (&self.there, &arriving), "vm")?;
        self.vm = arriving;
        Ok(report)
    }

    fn come_back(&mut self) -> Made<Report> {
        let arriving = self.incoming(&self.here)?;
        let report = move_whole((&self.there, &self.vm), (&self.here, &arriving), "vm")?;
        self.vm = arriving;
        Ok(report)
    }

    /// Each attempt finds one of the damaged files, and the last one none.
    fn go_there_in_the_end(&mut self, attempts: usize) -> Outcome {
        for attempt in 0..=attempts {
            let arriving = self.incoming(&self.there)?;
            let report = migrate(&self.here, &self.there, "vm")?;
            if report.owner == Owner::Destination {
                assert!(attempt > 0, "nobody missed what was damaged");
                assert_goes_on(&self.vm, &arriving)?;
                self.vm = arriving;
                return Ok(());
            }
            assert!(report.reason.contains("no longer be read"), "{}", report.reason);
            self.vm.wait_for_tick(self.vm.last_tick() + 2, WAIT)?;
            self.there.detach_qemu("vm")?;
        }
        Err("damaged pages are announced again and again".into())
    }
}

#[test]
fn whatever_becomes_of_what_is_held_the_guest_arrives_whole() -> Outcome {
    // So little room that a part is held, beside what is left to others.
    let Some(left) = SmallDisk::new("full", 88)? else {
        eprintln!("skipped: mounting needs root");
        return Ok(());
    };
    let right = Folder::new("damaged")?;
    let image = Image::cached()?;
    let config = VmConfig { image: Some(&image), load: TEXT, ..VmConfig::default() };
    let here = node("here", Some(left.0.0.clone()))?;
    let there = node("there", Some(right.0.clone()))?;
    let vm = Vm::start(&config)?;
    vm.wait_for_tick(2, WAIT)?;
    here.attach_qemu("vm", &vm.qmp_path(), false)?;
    let mut journey = Journey { config, here, there, vm };
    let out = journey.go_there()?.wire_bytes;
    wait_for_held(&[&journey.here, &journey.there], 1)?;
    let said = notices(&journey.here);
    assert!(said.iter().any(|text| text.contains("left to others")), "{said:?}");
    let (part, all) = (journey.here.held(None), journey.there.held(None));
    assert!(part.pages > 0 && part.bytes < 25 << 20 && part.pages < all.pages, "{part:?} {all:?}");

    // A part of it is a part less to bring.
    let back = journey.come_back()?.wire_bytes;
    println!("out {out} bytes, back {back} bytes");
    assert!(back < out - out / 5, "{back} {out}");
    wait_for_held(&[&journey.there], 2)?;

    let files = files(&right.0);
    files.iter().try_for_each(|file| damage(file))?;
    journey.go_there_in_the_end(files.len())?;

    // One that has let go of all, and another process.
    wait_for_held(&[&journey.here], 1)?;
    assert!(journey.here.clear_held(None, None).pages > 0);
    let cleared = journey.come_back()?.wire_bytes;
    journey.there.stop();
    journey.there = node("there again", Some(right.0.clone()))?;
    assert_eq!(journey.there.held(None).pages, 0);
    let restarted = journey.go_there()?.wire_bytes;
    println!("after clearing {cleared} bytes, after a restart {restarted} bytes");
    assert!(cleared.min(restarted) > out / 2, "{cleared} {restarted} {out}");
    Ok(())
}

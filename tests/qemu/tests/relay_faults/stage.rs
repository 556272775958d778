//! The stage of each test: a guest that runs in one QEMU, another QEMU that waits for it, and a
//! node for each.

use dwcp::migration::{MigrationOptions, Owner, Report};
use dwcp::{Migration, Node, NodeOptions, SecurityOptions, Status};
use dwcp_qemulab::{Image, Load, Vm, VmConfig, memory_digest};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Long enough for the busiest machine; never the measure of anything.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// What the guest must still count to show that it lives.
const SIGN_OF_LIFE: u64 = 2;
/// So much has gone out when a test calls it the middle.
const MIDDLE_BYTES: u64 = 2 << 20;
const TEXT: Load = Load::Text { mib: 16, rate_mib: 1 };

pub struct Stage {
    pub image: Image,
    pub source: Vm,
    pub destination: Vm,
    pub here: Node,
    pub there: Node,
}

pub fn node(name: &str) -> Node {
    node_at(name, "127.0.0.1:0".parse().unwrap())
}

pub fn node_at(name: &str, address: SocketAddr) -> Node {
    node_with(name, address, None)
}

/// A node that writes its records there.
pub fn node_with(name: &str, address: SocketAddr, state_dir: Option<PathBuf>) -> Node {
    let listen = Some(address);
    Node::start(NodeOptions {
        name: name.into(),
        listen,
        state_dir,
        security: SecurityOptions::Plain,
        ..NodeOptions::default()
    })
    .unwrap()
}

pub fn address(node: &Node) -> String {
    node.local_address().unwrap().to_string()
}

/// Pre-copy takes some seconds, and lost connections are given up soon.
pub fn slow() -> MigrationOptions {
    MigrationOptions {
        streams: 2,
        bandwidth_limit_bytes_per_s: Some(6 << 20),
        reconnect_timeout: Duration::from_secs(3),
        stall_timeout: Duration::from_secs(20),
        ..MigrationOptions::default()
    }
}

/// As [`slow`], but patient with lost connections.
pub fn slow_and_patient() -> MigrationOptions {
    MigrationOptions { reconnect_timeout: PATIENCE, stall_timeout: PATIENCE, ..slow() }
}

fn config(image: &Image) -> VmConfig<'_> {
    VmConfig { image: Some(image), load: TEXT, ..VmConfig::default() }
}

/// A QEMU that waits for the guest, and leaves it paused so that its memory can be looked at.
pub fn waiting(image: &Image) -> Vm {
    Vm::start(&VmConfig { incoming: true, paused: true, ..config(image) }).unwrap()
}

impl Stage {
    pub fn new() -> Self {
        Self::with(|config| config, |config| config)
    }

    /// A stage on which one QEMU or the other is special.
    pub fn with(
        at_source: fn(VmConfig<'_>) -> VmConfig<'_>,
        at_destination: fn(VmConfig<'_>) -> VmConfig<'_>,
    ) -> Self {
        let stage = Self::unattached(at_source, at_destination);
        stage.attach();
        stage
    }

    pub fn attach(&self) {
        self.here.attach_qemu("vm", &self.source.qmp_path(), false).unwrap();
        self.there.attach_qemu("vm", &self.destination.qmp_path(), true).unwrap();
    }

    /// QEMUs that no node knows yet.
    pub fn unattached(
        at_source: fn(VmConfig<'_>) -> VmConfig<'_>,
        at_destination: fn(VmConfig<'_>) -> VmConfig<'_>,
    ) -> Self {
        let image = Image::cached().unwrap();
        let source = Vm::start(&at_source(config(&image))).unwrap();
        let waits = VmConfig { incoming: true, paused: true, ..config(&image) };
        let destination = Vm::start(&at_destination(waits)).unwrap();
        source.wait_for_tick(1, PATIENCE).unwrap();
        Self { source, destination, here: node("here"), there: node("there"), image }
    }

    pub fn migrate(&self, to: &str, options: MigrationOptions) -> Migration {
        self.here.migrate("vm", to, options).unwrap()
    }

    pub fn migrate_directly(&self, options: MigrationOptions) -> Migration {
        self.migrate(&address(&self.there), options)
    }

    /// The migration failed so, and the guest goes on at the source, where nothing holds it.
    pub fn assert_stayed(&self, report: &Report, status: Status, text: &str) {
        eprintln!("{:?} {}", report.status, report.reason);
        assert_eq!((report.status, report.owner), (status, Owner::Source), "{}", report.reason);
        assert!(report.reason.contains(text), "{:?} lacks {text:?}", report.reason);
        self.assert_goes_on();
        assert!(self.here.guests().iter().any(|guest| guest.migration.is_none()));
    }

    /// The guest goes on at the source and nowhere else, and QEMU is done with its migration.
    pub fn assert_goes_on(&self) {
        wait_until("QEMU's migration is over", || {
            self.source.qmp().unwrap().migration_info().unwrap().is_over()
        });
        assert!(self.source.qmp().unwrap().status().unwrap().running);
        assert_lives(&self.source);
        assert_eq!(self.destination.last_tick(), 0, "the guest runs at the destination");
    }

    /// The destination's QEMU still waits, as if nothing had come.
    pub fn assert_waits(&self) {
        let state = self.destination.qmp().unwrap().status().unwrap();
        assert_eq!((state.running, &*state.status), (false, "inmigrate"));
    }

    /// The guest is at this destination, whole, and goes on there alone.
    pub fn assert_moved(&self, report: &Report, to: &Vm) {
        eprintln!("{}", serde_json::to_string(report).unwrap());
        assert_eq!((report.status, &*report.reason), (Status::Ok, ""));
        assert_eq!(report.owner, Owner::Destination);
        let counted = self.source.last_tick();
        let digest = |vm: &Vm| memory_digest(&mut vm.qmp().unwrap()).unwrap();
        assert_eq!(digest(&self.source), digest(to), "the memory differs");
        to.qmp().unwrap().cont().unwrap();
        to.wait_for_tick(counted + SIGN_OF_LIFE, PATIENCE).unwrap();
        assert_eq!(to.complaint(), None);
        assert_eq!(self.source.last_tick(), counted, "the guest runs twice");
        let arrived = self.there.migration(report.id).unwrap().wait(Some(PATIENCE)).unwrap();
        assert_eq!((arrived.status, arrived.owner), (Status::Ok, Owner::Destination));
        assert_eq!(arrived.digest, report.digest);
    }

    /// Nothing that happened before keeps the guest from moving now, to a new QEMU.
    pub fn assert_moves(&self) {
        let fresh = waiting(&self.image);
        self.replace_destination(&fresh);
        let migration = self.migrate_directly(MigrationOptions::default());
        self.assert_moved(&end_of(&migration), &fresh);
    }

    /// A new QEMU that waits, and lets the guest run as soon as it can.
    pub fn fresh_destination(&self) -> Vm {
        let config = VmConfig { incoming: true, ..config(&self.image) };
        let fresh = Vm::start(&config).unwrap();
        self.replace_destination(&fresh);
        fresh
    }

    fn replace_destination(&self, fresh: &Vm) {
        // The one before may be gone, or held by a migration that is about to end.
        wait_until("the name is free", || {
            let gone = self.there.remove_guest("vm");
            gone.is_ok() || self.there.guests().is_empty()
        });
        self.there.attach_qemu("vm", &fresh.qmp_path(), true).unwrap();
    }
}

pub fn end_of(migration: &Migration) -> Report {
    migration.wait(Some(PATIENCE)).expect("the migration does not end")
}

/// Waits until a good part of the guest has gone out, and not yet all.
pub fn wait_for_middle(migration: &Migration) {
    wait_until("the middle of pre-copy", || {
        assert!(migration.report().is_none(), "over already: {:?}", migration.report());
        migration.progress().wire_bytes >= MIDDLE_BYTES
    });
}

/// The guest goes on counting, and its memory is what it wrote.
pub fn assert_lives(vm: &Vm) {
    let counted = vm.last_tick();
    vm.wait_for_tick(counted + SIGN_OF_LIFE, PATIENCE).unwrap();
    assert_eq!(vm.complaint(), None);
}

pub fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Ends a QEMU with no chance to say anything more.
pub fn kill(vm_pid: u32) {
    let pid = vm_pid.to_string();
    assert!(std::process::Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    // A zombie until its owner looks; while it has other threads its connections may be open.
    wait_until("it is dead", || {
        let status = std::fs::read_to_string(Path::new("/proc").join(&pid).join("status"));
        status.is_ok_and(|text| text.contains("State:\tZ") && text.contains("Threads:\t1\n"))
            || !Path::new("/proc").join(&pid).exists()
    });
}

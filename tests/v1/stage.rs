//! The stage of these tests: a node with a guest that runs, a node with a v1 port and a guest that is
//! expected, and v1 peers by hand.

use crate::support::Guest;
use dwcp::migration::{Dialect, Ending, MigrationOptions, Owner, Report, V1Options};
use dwcp::observe::{ConnectionState, EventKind};
use dwcp::{Migration, Node, NodeOptions, SecurityOptions, Status};
use socket2::{Domain, Socket, Type};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// Long enough for the busiest machine; never the measure of anything.
pub const PATIENCE: Option<Duration> = Some(Duration::from_secs(120));
pub const PAGES: u64 = 700;
pub const IMAGE_BYTES: u64 = PAGES * crate::support::PAGE;

/// A node that listens nowhere.
pub fn node(name: &str, state_dir: Option<&Path>) -> Node {
    let state_dir = state_dir.map(Path::to_path_buf);
    let security = SecurityOptions::Plain;
    let options = NodeOptions { name: name.into(), state_dir, security, ..NodeOptions::default() };
    Node::start(options).unwrap()
}

pub fn options(dialect: Dialect) -> V1Options {
    V1Options { dialect, ..V1Options::default() }
}

/// As many as `hand.rs` waits for.
pub fn four_streams() -> MigrationOptions {
    MigrationOptions { streams: 4, ..MigrationOptions::default() }
}

/// A node with a guest that runs, on its way to v1 peers.
pub struct Home {
    pub node: Node,
    pub guest: Guest,
}

/// A node with a v1 port, and a guest that is expected.
pub struct Port {
    pub node: Node,
    pub guest: Guest,
    pub address: SocketAddr,
}

impl Home {
    pub fn new(v1: V1Options) -> Self {
        Self::with(node("alpha", None), v1)
    }

    pub fn with(node: Node, v1: V1Options) -> Self {
        let guest = Guest::new(PAGES, 1000);
        guest.fill(60);
        guest.start();
        node.set_v1(v1).unwrap();
        node.add_source("vm", guest.source()).unwrap();
        Self { node, guest }
    }

    pub fn migrate(&self, to: SocketAddr, options: MigrationOptions) -> Migration {
        self.node.migrate("vm", &format!("v1://{to}"), options).unwrap()
    }

    pub fn run(&self, to: SocketAddr) -> Report {
        let migration = self.migrate(to, four_streams());
        migration.wait(PATIENCE).expect("the migration never ended")
    }

    /// The migration failed so, and the guest goes on here.
    pub fn assert_stayed(&self, report: &Report, status: Status, text: &str) {
        assert_eq!(report.status, status, "{}", report.reason);
        assert!(report.reason.contains(text), "{:?} lacks {text:?}", report.reason);
        assert_eq!(report.owner, Owner::Source);
        assert!(self.guest.is_running());
        assert_eq!(self.guest.endings(), [Ending::Keep]);
        let counter = self.guest.counter();
        wait_until("the guest goes on", || self.guest.counter() > counter);
        assert_eq!(self.node.guests()[0].migration, None, "it could be moved again");
    }

    /// All was sent; nobody knows what became of it, so the guest stands still here, whole.
    pub fn assert_in_doubt(&self, report: &Report) {
        assert_eq!((report.status, report.owner), (Status::InDoubt, Owner::InDoubt), "{report:?}");
        assert!(report.reason.contains("acknowledges nothing"), "{}", report.reason);
        assert_eq!(self.guest.endings(), [Ending::Undecided]);
        assert!(!self.guest.is_running());
        self.guest.check();
        assert!(self.node.guests().is_empty(), "it must not be moved again before it is settled");
    }
}

impl Port {
    pub fn new(v1: V1Options) -> Self {
        Self::with(node("beta", None), v1, Guest::new(PAGES, 1000))
    }

    pub fn with(node: Node, v1: V1Options, guest: Guest) -> Self {
        node.set_v1(v1).unwrap();
        node.add_destination("vm", guest.sink()).unwrap();
        let address = node.listen_v1("127.0.0.1:0".parse().unwrap()).unwrap();
        Self { node, guest, address }
    }

    pub fn dial(&self) -> TcpStream {
        self.dial_from("127.0.0.1")
    }

    /// From another address of this machine.
    pub fn dial_from(&self, address: &str) -> TcpStream {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let from = SocketAddr::new(address.parse().unwrap(), 0);
        socket.bind(&from.into()).unwrap();
        socket.connect(&self.address.into()).unwrap();
        let socket = TcpStream::from(socket);
        // So that a test fails instead of hanging.
        socket.set_read_timeout(PATIENCE).unwrap();
        socket.set_write_timeout(PATIENCE).unwrap();
        socket
    }

    /// The report of the arrival number `count`.
    pub fn report(&self, count: usize) -> Report {
        wait_until("an arrival begins", || self.node.migrations().len() >= count);
        self.node.migrations()[count - 1].wait(PATIENCE).expect("the arrival never ended")
    }

    /// It failed so; the guest is expected still, and stands still.
    pub fn assert_failed(&self, report: &Report, status: Status, text: &str) {
        assert_eq!(report.status, status, "{}", report.reason);
        assert!(report.reason.contains(text), "{:?} lacks {text:?}", report.reason);
        assert_eq!((report.owner, report.side), (Owner::Source, "destination"));
        assert!(!self.guest.is_running());
        assert_eq!(self.guest.endings().last(), Some(&Ending::Discard));
        assert_eq!(self.node.guests()[0].migration, None);
    }

    /// The image is whole, and the guest stands still.
    pub fn assert_arrived(&self, report: &Report, image: &[u8]) {
        assert_eq!((report.status, report.owner), (Status::InDoubt, Owner::InDoubt), "{report:?}");
        assert!(report.reason.contains("does not say whether it has let go"), "{}", report.reason);
        assert_eq!(self.guest.endings().last(), Some(&Ending::Undecided));
        assert_eq!((self.guest.is_running(), self.guest.resumes()), (false, 0));
        assert!(self.guest.image() == image, "the image has changed on its way");
        assert!(self.node.guests().is_empty());
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.node.stop();
        self.guest.stop();
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.node.stop();
    }
}

/// What a node told of its v1 connections that came to this.
pub fn connections(node: &Node, wanted: ConnectionState) -> Vec<String> {
    let detail = |kind| match kind {
        EventKind::V1Connection { state, detail, .. } if state == wanted => Some(detail),
        _ => None,
    };
    node.events(0).into_iter().filter_map(|event| detail(event.kind)).collect()
}

pub fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE.unwrap();
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A directory that goes away with the test.
pub struct Directory(pub PathBuf);

impl Directory {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, SeqCst);
        let path = std::env::temp_dir().join(format!("dwcp-v1-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

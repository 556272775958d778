//! The stage of most tests: two nodes, a guest that runs on one and is expected on the other.

use crate::support::{Guest, layout};
use dwcp::base::MemoryLayout;
use dwcp::migration::{Ending, MigrationOptions, Owner, Phase, Report};
use dwcp::observe::EventKind;
use dwcp::runtime::control::{ControlOptions, ControlServer, serve_control};
use dwcp::{Migration, Node, NodeOptions, SecurityOptions, Status};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// Long enough for the busiest machine; never the measure of anything.
pub const PATIENCE: Option<Duration> = Some(Duration::from_secs(120));
pub const PAGES: u64 = 512;

pub struct Stage {
    pub alpha: Node,
    pub here: Guest,
    pub beta: Node,
    pub there: Guest,
}

pub fn node(name: &str, state_dir: Option<&Path>) -> Node {
    let listen = Some("127.0.0.1:0".parse().unwrap());
    let state_dir = state_dir.map(Path::to_path_buf);
    Node::start(NodeOptions {
        name: name.into(),
        listen,
        state_dir,
        security: SecurityOptions::Plain,
        ..NodeOptions::default()
    })
    .unwrap()
}

/// What keeps a node's metrics, as long as it lives.
pub fn keeper(node: &Node) -> (Directory, ControlServer) {
    let directory = Directory::new("keeper");
    let socket = directory.0.join("s.sock");
    let server = serve_control(node, &socket, ControlOptions::default()).unwrap();
    (directory, server)
}

pub fn address(node: &Node) -> String {
    node.local_address().unwrap().to_string()
}

/// Options that give up early, so that tests of giving up are short.
pub fn hasty() -> MigrationOptions {
    MigrationOptions {
        streams: 2,
        reconnect_timeout: Duration::from_secs(1),
        stall_timeout: Duration::from_secs(1),
        ..MigrationOptions::default()
    }
}

/// Options that leave time for anything but a real fault.
pub fn patient() -> MigrationOptions {
    MigrationOptions {
        reconnect_timeout: Duration::from_secs(60),
        stall_timeout: Duration::from_secs(60),
        ..hasty()
    }
}

pub fn guest_layout() -> MemoryLayout {
    layout(PAGES)
}

impl Stage {
    pub fn new() -> Self {
        Self::with(Guest::new(PAGES, 1000), Guest::new(PAGES, 1000), (None, None))
    }

    pub fn with(here: Guest, there: Guest, state: (Option<&Path>, Option<&Path>)) -> Self {
        let beta = node("beta", state.1);
        beta.add_destination("vm", there.sink()).unwrap();
        Self::at(node("alpha", state.0), here, beta, there)
    }

    /// Between nodes that were set up otherwise.
    pub fn between(alpha: Node, beta: Node) -> Self {
        let there = Guest::new(PAGES, 1000);
        beta.add_destination("vm", there.sink()).unwrap();
        Self::at(alpha, Guest::new(PAGES, 1000), beta, there)
    }

    /// A new source for a destination that has seen better ones.
    pub fn with_beta(beta: Node, there: Guest) -> Self {
        Self::at(node("alpha", None), Guest::new(PAGES, 1000), beta, there)
    }

    fn at(alpha: Node, here: Guest, beta: Node, there: Guest) -> Self {
        here.fill(60);
        here.start();
        alpha.add_source("vm", here.source()).unwrap();
        Self { alpha, here, beta, there }
    }

    pub fn migrate(&self, to: &str, options: MigrationOptions) -> Migration {
        self.alpha.migrate("vm", to, options).unwrap()
    }

    pub fn run(&self, to: &str, options: MigrationOptions) -> Report {
        self.migrate(to, options).wait(PATIENCE).expect("the migration never ended")
    }

    pub fn run_directly(&self, options: MigrationOptions) -> Report {
        self.run(&address(&self.beta), options)
    }

    /// The migration failed so, the guest goes on at the source, and nothing else happened.
    pub fn assert_stayed(&self, report: &Report, status: Status, text: &str) {
        assert_eq!(report.status, status, "{}", report.reason);
        assert!(report.reason.contains(text), "{:?} lacks {text:?}", report.reason);
        assert!(!report.reason.contains("also:"), "{:?}", report.reason);
        assert_eq!(report.owner, Owner::Source);
        assert!(self.here.is_running() && !self.there.is_running());
        assert_eq!(self.here.endings(), [Ending::Keep]);
        let counter = self.here.counter();
        wait_until("the guest goes on", || self.here.counter() > counter);
    }

    /// The guest moves now, so whatever happened before has left both nodes usable.
    pub fn assert_moves(&self) {
        let before = (self.here.endings().len(), self.there.resumes());
        let report = self.run_directly(patient());
        assert_eq!(report.status, Status::Ok, "{}", report.reason);
        self.assert_moved(&report);
        assert_eq!(self.here.endings().len(), before.0 + 1);
        assert_eq!(self.there.resumes(), before.1 + 1);
    }

    /// The guest is at the destination, whole, and both sides agree on that.
    pub fn assert_moved(&self, report: &Report) {
        assert_eq!((report.status, report.owner), (Status::Ok, Owner::Destination));
        let arrived = self.beta.migration(report.id).unwrap().wait(PATIENCE).unwrap();
        assert_eq!((arrived.status, arrived.owner), (Status::Ok, Owner::Destination));
        assert_eq!(arrived.digest, report.digest);
        assert!(!self.here.is_running() && self.there.is_running());
        assert_eq!(self.here.endings().last(), Some(&Ending::Discard));
        assert_eq!(self.there.endings().last(), Some(&Ending::Keep));
        self.there.stop();
        self.there.check();
        assert!(self.there.counter() >= self.here.counter());
        assert_eq!((self.alpha.guests(), self.beta.guests()), (vec![], vec![]));
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Of a test that failed in the middle of post-copy, or else it would wait for ever.
        let both = self.alpha.migrations().into_iter().chain(self.beta.migrations());
        both.for_each(|migration| drop(migration.abandon_post_copy()));
        self.alpha.stop();
        self.beta.stop();
        self.here.stop();
        self.there.stop();
    }
}

/// Calls `act` on the node's own thread whenever a migration enters `phase`.
pub fn at_phase(node: &Node, phase: Phase, act: impl Fn() + Send + Sync + 'static) {
    node.observe(Arc::new(move |event| {
        if matches!(&event.kind, EventKind::Phase { phase: entered, .. } if *entered == phase.name())
        {
            act();
        }
    }));
}

pub fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE.unwrap();
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Reasons of the peers that were turned away so far.
pub fn refusals(node: &Node) -> Vec<String> {
    let reason = |kind| match kind {
        EventKind::PeerRefused { reason, .. } => Some(reason),
        _ => None,
    };
    node.events(0).into_iter().filter_map(|event| reason(event.kind)).collect()
}

/// A directory that goes away with the test.
pub struct Directory(pub PathBuf);

impl Directory {
    pub fn new(name: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, SeqCst);
        let name = format!("dwcp-{name}-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

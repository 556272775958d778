//! A node with a guest in a process of its own, to be killed at a chosen moment.

pub use crate::process::Child;
use crate::process::{tell, wait_for_the_end};
use crate::stage::{PAGES, address, at_phase, node, patient};
use crate::support::Guest;
use dwcp::migration::{MigrationOptions, Phase};
use dwcp::{Node, NodeOptions, SecurityOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;

const ROLE: &str = "DWCP_TEST_ROLE";
const STATE: &str = "DWCP_TEST_STATE";
const HOLD_AT: &str = "DWCP_TEST_HOLD_AT";
const ADDRESS: &str = "DWCP_TEST_ADDRESS";
const POST_COPY: &str = "DWCP_TEST_POST_COPY";

impl Child {
    /// A source that migrates to `to` and stands still when it enters the phase.
    pub fn source(to: &str, state: &Path, hold_at: Phase) -> Self {
        Self::with("source", to, Some(state), Some(hold_at))
    }

    /// A source that migrates to `to` by post-copy.
    pub fn post_copy_source(to: &str, state: &Path) -> Self {
        Self::spawn(|command| {
            command.env(ROLE, "source").env(ADDRESS, to).env(STATE, state).env(POST_COPY, "1");
        })
    }

    /// One that changes a feature flag as fast as it can.
    pub fn changer(state: &Path) -> Self {
        Self::with("changer", "", Some(state), None)
    }

    /// A destination at `listen` that stands still when it enters the phase; and its address.
    pub fn destination(
        listen: &str,
        state: Option<&Path>,
        hold_at: Option<Phase>,
    ) -> (Self, String) {
        let child = Self::with("destination", listen, state, hold_at);
        let address = child.expect("listening ");
        (child, address)
    }

    fn with(role: &str, address: &str, state: Option<&Path>, hold_at: Option<Phase>) -> Self {
        Self::spawn(|command| {
            command.env(ROLE, role).env(ADDRESS, address);
            if let Some(state) = state {
                command.env(STATE, state);
            }
            if let Some(phase) = hold_at {
                command.env(HOLD_AT, phase.name());
            }
        })
    }
}

#[test]
#[ignore = "the child process of the tests in kills.rs"]
fn be_a_child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let address = std::env::var(ADDRESS).unwrap();
    let state = std::env::var_os(STATE).map(PathBuf::from);
    if role == "changer" {
        crate::flags::be_changer(&state.unwrap());
    }
    let guest = Guest::new(PAGES, 1000);
    let _node = match role.as_str() {
        "source" => be_source(&guest, &address, state.as_deref()),
        _ => be_destination(&guest, &address, state),
    };
    wait_for_the_end();
}

fn be_source(guest: &Guest, to: &str, state: Option<&Path>) -> Node {
    let node = node("alpha", state);
    guest.fill(60);
    guest.start();
    node.add_source("vm", guest.source()).unwrap();
    hold_at_phase(&node);
    let migration = node.migrate("vm", to, options()).unwrap();
    if std::env::var_os(POST_COPY).is_some() {
        migration.start_post_copy().unwrap();
    }
    node
}

fn be_destination(guest: &Guest, listen: &str, state_dir: Option<PathBuf>) -> Node {
    let listen = Some(listen.parse().unwrap());
    let node = Node::start(NodeOptions {
        name: "beta".into(),
        listen,
        state_dir,
        security: SecurityOptions::Plain,
        ..NodeOptions::default()
    })
    .unwrap();
    node.add_destination("vm", guest.sink()).unwrap();
    hold_at_phase(&node);
    tell(&format!("listening {}", address(&node)));
    node
}

/// Post-copy so slow that it is under way when something happens.
fn options() -> MigrationOptions {
    match std::env::var_os(POST_COPY) {
        Some(_) => crate::post_copy::slow(),
        None => patient(),
    }
}

/// The observer blocks the migration's own thread, so the phase stays as it begins.
fn hold_at_phase(node: &Node) {
    let Ok(name) = std::env::var(HOLD_AT) else { return };
    let phase = Phase::ALL.into_iter().find(|phase| phase.name() == name).unwrap();
    at_phase(node, phase, move || {
        tell(&format!("at {name}"));
        std::thread::sleep(Duration::from_secs(600));
    });
}

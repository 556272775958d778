//! A node in a process of its own, to be killed; its QEMU lives on.

use crate::post_copy::{begin_post_copy, by_hand};
pub use crate::process::Child;
use crate::process::{tell, wait_for_the_end};
use crate::recovery::SLOWER_BYTES_PER_S;
use crate::stage::{address, node_with, slow, wait_for_middle};
use std::path::{Path, PathBuf};

const ROLE: &str = "DWCP_TEST_ROLE";
const QMP: &str = "DWCP_TEST_QMP";
const ADDRESS: &str = "DWCP_TEST_ADDRESS";
const STATE_DIR: &str = "DWCP_TEST_STATE_DIR";

impl Child {
    /// A source that migrates to `to`; it says `middle` when it is there.
    pub fn source(qmp: &Path, to: &str) -> Self {
        Self::with("source", qmp, to, None)
    }

    /// A source that moves its guest to `to` by post-copy; it says `switched` when the guest runs there.
    pub fn switched_source(qmp: &Path, to: &str, state_dir: Option<&Path>) -> Self {
        Self::with("switched source", qmp, to, state_dir)
    }

    /// A destination, and its address.
    pub fn destination(qmp: &Path) -> (Self, String) {
        Self::destination_with(qmp, None)
    }

    /// A destination that writes its records there, and its address.
    pub fn destination_with(qmp: &Path, state_dir: Option<&Path>) -> (Self, String) {
        let child = Self::with("destination", qmp, "", state_dir);
        let address = child.expect("listening ");
        (child, address)
    }

    fn with(role: &str, qmp: &Path, address: &str, state_dir: Option<&Path>) -> Self {
        Self::spawn(|command| {
            command.env(ROLE, role).env(QMP, qmp).env(ADDRESS, address);
            state_dir.map(|path| command.env(STATE_DIR, path));
        })
    }
}

#[test]
#[ignore = "the child process of the tests in kills.rs"]
fn be_a_child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let (address_of_peer, qmp) = (std::env::var(ADDRESS).unwrap(), std::env::var_os(QMP).unwrap());
    let (state_dir, qmp) = (std::env::var_os(STATE_DIR).map(PathBuf::from), PathBuf::from(qmp));
    let node = node_with(&role, "127.0.0.1:0".parse().unwrap(), state_dir);
    node.attach_qemu("vm", &qmp, role == "destination").unwrap();
    match &*role {
        "source" => {
            wait_for_middle(&node.migrate("vm", &address_of_peer, slow()).unwrap());
            tell("middle");
        }
        "switched source" => {
            let migration = node.migrate("vm", &address_of_peer, by_hand()).unwrap();
            begin_post_copy(&migration);
            migration.set_bandwidth_limit(Some(SLOWER_BYTES_PER_S));
            tell("switched");
        }
        _ => tell(&format!("listening {}", address(&node))),
    }
    wait_for_the_end();
}

//! A node in a process of its own, to be killed; its QEMU lives on.

pub use crate::process::Child;
use crate::process::{tell, wait_for_the_end};
use crate::stage::{address, node, slow, wait_for_middle};
use std::path::{Path, PathBuf};

const ROLE: &str = "DWCP_TEST_ROLE";
const QMP: &str = "DWCP_TEST_QMP";
const ADDRESS: &str = "DWCP_TEST_ADDRESS";
impl Child {
    /// A source that migrates to `to`; it says `middle` when it is there.
    pub fn source(qmp: &Path, to: &str) -> Self {
        Self::with("source", qmp, to)
    }

    /// A destination, and its address.
    pub fn destination(qmp: &Path) -> (Self, String) {
        let child = Self::with("destination", qmp, "");
        let address = child.expect("listening ");
        (child, address)
    }

    fn with(role: &str, qmp: &Path, address: &str) -> Self {
        Self::spawn(|command| {
            command.env(ROLE, role).env(QMP, qmp).env(ADDRESS, address);
        })
    }
}

#[test]
#[ignore = "the child process of the tests in kills.rs"]
fn be_a_child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let (address_of_peer, qmp) = (std::env::var(ADDRESS).unwrap(), std::env::var_os(QMP).unwrap());
    let (node, qmp) = (node(&role), PathBuf::from(qmp));
    if role == "source" {
        node.attach_qemu("vm", &qmp, false).unwrap();
        wait_for_middle(&node.migrate("vm", &address_of_peer, slow()).unwrap());
        tell("middle");
    } else {
        node.attach_qemu("vm", &qmp, true).unwrap();
        tell(&format!("listening {}", address(&node)));
    }
    wait_for_the_end();
}

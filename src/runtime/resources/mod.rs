//! What this host has for each component, judged: good, worth a look, or not to be worked with.
//!
//! The checks run in the process of the node, whose limits, rights and network they are about; a
//! command line that finds no node runs them in its own. Asking and judging are apart, so that
//! every poor host is a test case.

mod amst;
mod hde;
mod host;
mod native;
mod qemu;
mod rdma;
mod security;
mod storage;

use crate::Node;
use crate::config::{Config, Id};
use crate::runtime::compression::Sample;
use crate::runtime::security::SecurityOptions;
use serde::Serialize;
use std::path::PathBuf;

/// A part of the library that needs something of its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Component {
    /// Streams over TCP.
    Amst,
    /// Streams over RDMA.
    Rdma,
    /// Encoding.
    Hde,
    /// Guests of hypervisors that link the library.
    Native,
    /// Guests of unmodified QEMUs.
    Qemu,
    /// Identities of nodes.
    Security,
    /// Records, held pages, log.
    Storage,
    /// What all of them stand on.
    Host,
}

/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing to be done.
    Ok,
    /// It works, less well than it could or not for everything.
    Warning,
    /// It does not work.
    Failed,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// For which component.
    pub component: Component,
    /// What was looked at.
    pub what: &'static str,
    /// What came of it.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do about it; none where nothing is to be done.
    pub advice: Option<String>,
}

/// A path on which data has been carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownPath {
    /// The peer at its end.
    pub peer: String,
    /// What it delivers.
    pub rate_bytes_per_s: u64,
    /// Its shortest round trip.
    pub rtt_us: u32,
}

/// What the checks are to be measured by.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The configuration.
    pub config: Config,
    /// How connections are secured.
    pub security: SecurityOptions,
    /// Where ownership records are kept.
    pub state_dir: Option<PathBuf>,
    /// Memory of the guests that are registered.
    pub guest_bytes: Vec<u64>,
    /// Name and QEMU's version of the guests that are attached.
    pub attached: Vec<(String, String)>,
    /// Paths to peers, as far as they are known.
    pub paths: Vec<KnownPath>,
    /// Bytes of held pages that are on disk already.
    pub held_bytes: u64,
    /// Memory of a guest that runs here, with its name.
    pub sample: Option<(String, Sample)>,
}

impl Component {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Component; 8] = [
        Component::Amst,
        Component::Rdma,
        Component::Hde,
        Component::Native,
        Component::Qemu,
        Component::Security,
        Component::Storage,
        Component::Host,
    ];

    /// The name as in JSON and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Component::Amst => "amst",
            Component::Rdma => "rdma",
            Component::Hde => "hde",
            Component::Native => "native",
            Component::Qemu => "qemu",
            Component::Security => "security",
            Component::Storage => "storage",
            Component::Host => "host",
        }
    }

    /// The component of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|component| component.name() == name)
    }
}

impl Settings {
    /// As a daemon would have them that was started with this configuration.
    pub fn of_config(config: Config, security: SecurityOptions) -> Self {
        let state_dir = config.path(Id::NodeStateDir);
        Self { config, security, state_dir, ..Self::default() }
    }

    /// As a node has them. Looks at the memory of one of its guests, without stopping it.
    pub fn of_node(node: &Node, config: Config) -> Self {
        let guests = node.guests();
        let known = |peer: crate::runtime::modes::PeerMode| {
            let rate_bytes_per_s = peer.figures.rate_bytes_per_s?;
            let rtt_us = peer.figures.min_rtt_us.or(peer.figures.rtt_us)?;
            Some(KnownPath { peer: peer.peer, rate_bytes_per_s, rtt_us })
        };
        let at_rest = guests.iter().find(|guest| {
            // One that moves may not be asked, and is not to be slowed down.
            guest.role == "source" && guest.migration.is_none()
        });
        Self {
            config,
            security: node.security().clone(),
            state_dir: node.state_dir().map(PathBuf::from),
            guest_bytes: guests.iter().map(|guest| guest.ram_bytes).collect(),
            attached: node.vms().into_iter().map(|vm| (vm.name, vm.qemu_version)).collect(),
            paths: node.peers().into_iter().filter_map(known).collect(),
            held_bytes: node.held(None).bytes,
            sample: at_rest.and_then(|guest| node.sample(Some(&guest.name), SAMPLE_PAGES).ok()),
        }
    }
}

impl Check {
    fn ok(component: Component, what: &'static str, found: impl Into<String>) -> Self {
        Self { component, what, verdict: Verdict::Ok, found: found.into(), advice: None }
    }

    fn warning(self, advice: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warning, advice: Some(advice.into()), ..self }
    }

    fn failed(self, advice: impl Into<String>) -> Self {
        Self { verdict: Verdict::Failed, advice: Some(advice.into()), ..self }
    }
}

/// Looks at what these components need. Takes a second or so, most of it for the codec's speed.
pub fn check(components: &[Component], settings: &Settings) -> Vec<Check> {
    let of = |component: &Component| match component {
        Component::Amst => amst::check(settings),
        Component::Rdma => rdma::check(settings),
        Component::Hde => hde::check(settings),
        Component::Native => native::check(),
        Component::Qemu => qemu::check(settings),
        Component::Security => security::check(settings),
        Component::Storage => storage::check(settings),
        Component::Host => host::check(),
    };
    components.iter().flat_map(of).collect()
}

/// Enough for a codec's speed to mean something.
const SAMPLE_PAGES: u64 = 512;

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever this host has, each component says something, and what is not good says what to do.
    #[test]
    fn this_host_answers_for_every_component() {
        let scratch = std::env::temp_dir();
        let state_dir = Some(scratch);
        let checks = check(&Component::ALL, &Settings { state_dir, ..Settings::default() });
        for component in Component::ALL {
            assert!(checks.iter().any(|check| check.component == component), "{component:?}");
            assert_eq!(Component::named(component.name()), Some(component));
        }
        for check in checks {
            assert!(!check.found.is_empty(), "{check:?}");
            assert_eq!(check.advice.is_some(), check.verdict != Verdict::Ok, "{check:?}");
        }
    }
}

//! The node of a trial: a process of its own with guests, that does what the trial tells it.
//!
//! A node that is started with the size of a guest has that one alone, under the same name on every
//! node; others have as many as they are told of, and orders name them.
//!
//! Its standard input is a socket, on which orders come and answers go, one line of JSON each. What
//! a node offers anyway, such as migrations, is asked on its control socket, as an operator would.
//! When the socket ends, the trial is over or dead, and the process ends with it.

use super::guest::{GuestSize, ProofGuest};
use super::links::Links;
use crate::cli::args::TrialNode;
use crate::cli::error::{CliError, FAILED};
use crate::rollout::Flag;
use crate::rollout::guard::Limits;
use crate::runtime::control::{ControlOptions, ControlServer, serve_control};
use crate::runtime::held::HeldOptions;
use crate::{Node, NodeOptions, SecurityOptions};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

/// The name of a guest that is the only one, on every node.
pub const GUEST: &str = "trial";

/// A node of a trial could not do as it was told.
#[derive(Debug, thiserror::Error)]
enum NodeFailure {
    #[error(transparent)]
    Node(#[from] crate::NodeError),
    #[error(transparent)]
    Control(#[from] crate::runtime::control::ControlError),
    #[error(transparent)]
    Guest(#[from] crate::migration::GuestError),
    #[error("standard input is not a trial's socket: {0}")]
    Socket(#[from] io::Error),
    #[error(transparent)]
    Flag(#[from] crate::rollout::UnknownFlag),
    #[error(transparent)]
    Rollout(#[from] crate::runtime::rollout::RolloutError),
    #[error("unknown order {0}")]
    Order(Value),
    #[error("no guest {0:?} was made here")]
    NoGuest(String),
    #[error("{MAX_TRIAL_GUESTS} guests are enough for one node")]
    TooMany,
}

/// Runs a node until the trial is over; gives the exit code.
pub fn run(options: &TrialNode) -> Result<u8, CliError> {
    match serve(options) {
        Ok(()) => Ok(0),
        Err(error) => {
            // Whoever reads the trial's own output sees this beside it.
            let _ = writeln!(io::stderr(), "trial node {}: {error}", options.name);
            Ok(FAILED)
        }
    }
}

/// A node, its guests, and what was spoilt in it on purpose.
struct Served {
    node: Node,
    server: ControlServer,
    guests: BTreeMap<String, ProofGuest>,
    links: Option<Links>,
    leaked: Leaks,
}

/// What is never given back.
#[derive(Default)]
struct Leaks {
    memory: Vec<Vec<u8>>,
    descriptors: Vec<File>,
    threads: Vec<JoinHandle<()>>,
}

fn serve(options: &TrialNode) -> Result<(), NodeFailure> {
    let orders = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let node = Node::start(NodeOptions {
        name: options.name.clone(),
        listen: Some(options.listen),
        state_dir: Some(options.state_dir.clone()),
        held: HeldOptions { enabled: false, ..HeldOptions::default() },
        security: match options.identity_dir.clone() {
            Some(identity_dir) => SecurityOptions::Tls { identity_dir, allowed_peers: vec![] },
            None => SecurityOptions::Plain,
        },
        ..NodeOptions::default()
    })?;
    let control = ControlOptions {
        log_dirs: vec![options.state_dir.join("log")],
        ..ControlOptions::default()
    };
    let server = serve_control(&node, &options.control, control)?;
    let mut guests = BTreeMap::new();
    if let Some(bytes) = options.guest_bytes {
        let size = GuestSize { bytes, writes_per_s: options.writes_per_s };
        guests.insert(GUEST.to_owned(), ProofGuest::new(size)?);
    }
    let mut served = Served { node, server, guests, links: None, leaked: Leaks::default() };
    let mut answers = orders.try_clone()?;
    writeln!(
        answers,
        "{}",
        json!({
            "listen": served.node.local_address().map(|address| address.to_string()),
            "is_tracked_by_kernel": ProofGuest::is_tracked_by_kernel(),
            "is_secured": served.node.certificate().is_some(),
        })
    )?;
    for line in BufReader::new(orders).lines() {
        let order = serde_json::from_str(&line?).unwrap_or(Value::Null);
        let answer = served.obey(&order);
        let answer = answer.unwrap_or_else(|error| json!({ "error": error.to_string() }));
        writeln!(answers, "{answer}")?;
    }
    served.node.stop();
    served.server.stop();
    Ok(())
}

impl Served {
    fn obey(&mut self, order: &Value) -> Result<Value, NodeFailure> {
        let name = order["guest"].as_str().unwrap_or(GUEST);
        match order["do"].as_str() {
            Some("boot") => {
                let guest = self.made(name, order)?;
                guest.boot()?;
                self.node.add_source(name, guest.source())?;
            }
            Some("expect") => {
                let guest = self.made(name, order)?;
                self.node.add_destination(name, guest.sink())?;
                return Ok(json!(guest.glance()));
            }
            // It has arrived here, and is to be able to leave again.
            Some("own") => {
                let guest = self.guest(name)?;
                self.node.add_source(name, guest.source())?;
                return Ok(json!(guest.glance()));
            }
            // Nobody else has it, so the operator starts it here again.
            Some("start") => {
                let guest = self.guest(name)?;
                guest.start()?;
                self.node.add_source(name, guest.source())?;
            }
            Some("look") => return Ok(json!(self.guest(name)?.look())),
            Some("census") => return Ok(self.census()),
            Some("link") => return self.link(order),
            Some("strike") => self.strike(order)?,
            Some("mend") => self.links()?.strike(None),
            Some("broken") => return Ok(json!(self.links()?.broken())),
            Some("allow-everything") => self.node.set_rollback_limits(everything())?,
            Some("spoil") => self.spoil(name, order)?,
            _ => return Err(NodeFailure::Order(order.clone())),
        }
        Ok(json!({}))
    }

    fn guest(&self, name: &str) -> Result<&ProofGuest, NodeFailure> {
        self.guests.get(name).ok_or_else(|| NodeFailure::NoGuest(name.to_owned()))
    }

    /// The guest of this name, which is made if it is not there and the order says how large.
    fn made(&mut self, name: &str, order: &Value) -> Result<ProofGuest, NodeFailure> {
        if let (None, Some(bytes)) = (self.guests.get(name), order["bytes"].as_u64()) {
            if self.guests.len() >= MAX_TRIAL_GUESTS {
                return Err(NodeFailure::TooMany);
            }
            let writes_per_s = order["writes_per_s"].as_u64().unwrap_or(0);
            let guest = ProofGuest::new(GuestSize { bytes, writes_per_s })?;
            self.guests.insert(name.to_owned(), guest);
        }
        self.guest(name).cloned()
    }

    /// Every guest that was ever here; of those that run here, every page.
    fn census(&self) -> Value {
        let look = |guest: &ProofGuest| {
            let glance = guest.glance();
            if glance.is_running { guest.look() } else { glance }
        };
        self.guests.iter().map(|(name, guest)| (name.clone(), json!(look(guest)))).collect()
    }

    fn links(&mut self) -> Result<&mut Links, NodeFailure> {
        let links = match self.links.take() {
            Some(links) => links,
            None => Links::new()?,
        };
        Ok(self.links.insert(links))
    }

    /// From now on there is a link to a peer beside its own address.
    fn link(&mut self, order: &Value) -> Result<Value, NodeFailure> {
        let wrong = || NodeFailure::Order(order.clone());
        let peer = order["peer"].as_str().ok_or_else(wrong)?;
        let to = order["to"].as_str().and_then(|to| to.parse().ok()).ok_or_else(wrong)?;
        Ok(json!({ "address": self.links()?.open(peer, to)?.to_string() }))
    }

    /// From now on connections of those alone break that have the flag, for as long as they have it.
    fn strike(&mut self, order: &Value) -> Result<(), NodeFailure> {
        let flag = order["flag"].as_str().unwrap_or_default().parse::<Flag>()?;
        let mut deciders = BTreeMap::new();
        for (peer, address) in self.links()?.addresses().clone() {
            deciders.insert(peer, self.node.decider(flag, &address.to_string())?);
        }
        let has_it = move |peer: &str| deciders.get(peer).is_some_and(|decider| decider.is_on());
        self.links()?.strike(Some(Box::new(has_it)));
        Ok(())
    }

    /// Does what a defect of the library would do.
    fn spoil(&mut self, name: &str, order: &Value) -> Result<(), NodeFailure> {
        match order["what"].as_str() {
            Some("page") => self.guest(name)?.spoil()?,
            Some("owner") => self.guest(name)?.start()?,
            Some("memory") => self.leaked.memory.push(vec![1; LEAKED_BYTES]),
            Some("descriptors") => self.leaked.descriptors.push(File::open("/dev/null")?),
            Some("threads") => {
                self.leaked.threads.push(crate::runtime::sys::spawn_named("dwcp-leak", || {
                    loop {
                        std::thread::park();
                    }
                })?)
            }
            _ => return Err(NodeFailure::Order(order.clone())),
        }
        Ok(())
    }
}

/// As little as guards can be told to watch for.
fn everything() -> Limits {
    Limits {
        max_error_rate: 90.0,
        max_latency_increase: 10_000.0,
        min_throughput_ratio: 0.01,
        max_mode_switch_rate: 10_000.0,
        stages: vec![],
    }
}

const LEAKED_BYTES: usize = 4 << 20;
/// Guests that one node of a trial was ever told of.
const MAX_TRIAL_GUESTS: usize = 256;

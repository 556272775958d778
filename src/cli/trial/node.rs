//! The node of a trial: a process of its own with a guest, that does what the trial tells it.
//!
//! Its standard input is a socket, on which orders come and answers go, one line of JSON each. What
//! a node offers anyway, such as migrations, is asked on its control socket, as an operator would.
//! When the socket ends, the trial is over or dead, and the process ends with it.

use super::guest::ProofGuest;
use crate::cli::args::TrialNode;
use crate::cli::error::{CliError, FAILED};
use crate::runtime::control::{ControlOptions, ControlServer, serve_control};
use crate::runtime::held::HeldOptions;
use crate::{Node, NodeOptions, SecurityOptions};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

/// The name of the one guest, on every node.
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
    #[error("unknown order {0}")]
    Order(Value),
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

/// A node, its guest, and what was spoilt in it on purpose.
struct Served {
    node: Node,
    server: ControlServer,
    guest: ProofGuest,
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
    let guest = ProofGuest::new(options.guest_bytes, options.writes_per_s)?;
    let mut served = Served { node, server, guest, leaked: Leaks::default() };
    let mut answers = orders.try_clone()?;
    writeln!(
        answers,
        "{}",
        json!({
            "listen": served.node.local_address().map(|address| address.to_string()),
            "is_tracked_by_kernel": served.guest.is_tracked_by_kernel(),
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
        match order["do"].as_str() {
            Some("boot") => {
                self.guest.boot()?;
                self.node.add_source(GUEST, self.guest.source())?;
            }
            Some("expect") => self.node.add_destination(GUEST, self.guest.sink())?,
            // It has arrived here, and is to be able to leave again.
            Some("own") => self.node.add_source(GUEST, self.guest.source())?,
            // Nobody else has it, so the operator starts it here again.
            Some("start") => {
                self.guest.start()?;
                self.node.add_source(GUEST, self.guest.source())?;
            }
            Some("look") => return Ok(json!(self.guest.look())),
            Some("spoil") => self.spoil(order)?,
            _ => return Err(NodeFailure::Order(order.clone())),
        }
        Ok(json!({}))
    }

    /// Does what a defect of the library would do.
    fn spoil(&mut self, order: &Value) -> Result<(), NodeFailure> {
        match order["what"].as_str() {
            Some("page") => self.guest.spoil()?,
            Some("owner") => self.guest.start()?,
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

const LEAKED_BYTES: usize = 4 << 20;

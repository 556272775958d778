//! A node with a thousand idle peers, and nodes that answer its probes, each a process of its own.

use crate::Failure;
use crate::child::{say, status_bytes};
use dwcp::{Node, NodeOptions, SecurityOptions};
use serde_json::json;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

/// Where to answer.
#[derive(clap::Args, Clone, Debug)]
pub struct AnswersArguments {
    /// Nodes, each with a port of its own.
    #[arg(long)]
    nodes: usize,
}

/// Whom to know.
#[derive(clap::Args, Clone, Debug)]
pub struct IdleArguments {
    /// Ports on which peers answer, whatever their address.
    #[arg(long, value_delimiter = ',')]
    ports: Vec<u16>,
    /// Peers.
    #[arg(long)]
    peers: u16,
    /// How long they are left alone before it counts.
    #[arg(long)]
    settle_s: u64,
    /// For how long it counts.
    #[arg(long)]
    seconds: u64,
}

/// Answers until the input ends.
pub fn answers(arguments: &AnswersArguments) -> Result<(), Failure> {
    let listen = Some(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
    let start = |_| Node::start(NodeOptions { listen, ..plain() });
    let nodes = (0..arguments.nodes).map(start).collect::<Result<Vec<_>, _>>()?;
    let port = |node: &Node| node.local_address().map(|address| address.port());
    say(&json!({ "ports": nodes.iter().map(port).collect::<Vec<_>>() }))?;
    std::io::stdin().read_line(&mut String::new())?;
    nodes.iter().for_each(Node::stop);
    Ok(())
}

/// Knows peers, does nothing else, and tells what that takes.
pub fn idle(arguments: &IdleArguments) -> Result<(), Failure> {
    let node = Node::start(plain())?;
    let before_bytes = status_bytes("VmRSS:")?;
    for peer in 0..arguments.peers {
        let [high, low] = peer.to_be_bytes();
        let port = arguments.ports[usize::from(peer) % arguments.ports.len()];
        // All of 127.0.0.0/8 is this host.
        node.add_peer(&SocketAddr::from(([127, 77, high, low], port)).to_string())?;
    }
    std::thread::sleep(Duration::from_secs(arguments.settle_s));
    let (busy, start) = (processor_time()?, Instant::now());
    std::thread::sleep(Duration::from_secs(arguments.seconds));
    let busy = processor_time()? - busy;
    let cores = busy.as_secs_f64() / start.elapsed().as_secs_f64();
    let bytes = status_bytes("VmHWM:")?.saturating_sub(before_bytes);
    let peers = node.peers();
    let heard = peers.iter().filter(|peer| peer.silent_us.is_some_and(|us| us < HEARD_US)).count();
    say(&json!({ "bytes": bytes, "cores": cores, "heard": heard, "peers": peers.len() }))?;
    node.stop();
    Ok(())
}

fn plain() -> NodeOptions {
    NodeOptions { security: SecurityOptions::Plain, ..NodeOptions::default() }
}

/// Processor time of this process, all its threads and the kernel for them.
fn processor_time() -> Result<Duration, Failure> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, after_name) = stat.rsplit_once(')').ok_or("no name in /proc/self/stat")?;
    let ticks = after_name.split_whitespace().skip(USER_TIME_AFTER_NAME).take(2);
    let ticks: u64 = ticks.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(ticks * MS_PER_TICK))
}

const USER_TIME_AFTER_NAME: usize = 11;
/// Linux tells user space of hundredths of a second.
const MS_PER_TICK: u64 = 10;
/// Longer than the pause between two probes of an idle peer.
const HEARD_US: u64 = 10_000_000;

//! `dwcp-bench`: measures libdwcp against peers, a table on screen and JSON lines in a file.
//!
//! Each figure is the median of rounds in which libdwcp and its peer take turns on the same link.
//! The two sides of a migration are child processes: this program again, with a role as argument.

mod child;
mod guest;
mod iperf;
mod pair;
mod peers;
mod relay;
mod results;
mod samples;
mod stage;
mod suites;

use clap::{Parser, Subcommand};
use results::Results;
use std::path::PathBuf;
use std::process::ExitCode;

/// Any failure, on its way to the screen.
pub type Failure = Box<dyn std::error::Error>;

/// Measures libdwcp against peers on the same link in the same run. Needs root and iperf3.
#[derive(Parser)]
#[command(name = "dwcp-bench", version)]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    #[command(flatten)]
    plan: Plan,
}

/// What to measure.
#[derive(clap::Args)]
pub struct Plan {
    /// Suites to run.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "net,wan,relearn,fair,tls,memory,modes,downtime,postcopy,abi,flags,rollout,rdma"
    )]
    suites: Vec<String>,
    /// Rounds of each case; the median counts.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Guest memory of the `net` suite in MiB.
    #[arg(long, default_value_t = 1024)]
    guest_mib: u64,
    /// Where the JSON lines go.
    #[arg(long, default_value = "target/bench/results.jsonl")]
    output: PathBuf,
    /// Guests of the `qemu` suite.
    #[arg(long, value_delimiter = ',', default_value = "idle,text,redis,random")]
    qemu_guests: Vec<String>,
    /// Links of the `qemu` suite: 200, 300 or 1000 Mbit/s, or an unshaped veth pair.
    #[arg(long, value_delimiter = ',', default_value = "200,300,1000,veth")]
    qemu_links: Vec<String>,
    /// What the `qemu` suite measures: turns (of libdwcp and QEMU's own modes), returns (of guests
    /// whose host holds what they, or others like them, brought before), selector (of codecs, against
    /// each codec alone), switch (to post-copy, by the relay and by QEMU alone).
    #[arg(long, value_delimiter = ',', default_values = ["turns", "returns", "selector", "switch"])]
    qemu_parts: Vec<String>,
    /// Links of its part `selector`: Mbit/s, or an unshaped veth pair.
    #[arg(long, value_delimiter = ',', default_value = "100,1000,10000,veth")]
    selector_links: Vec<String>,
    /// Rollouts of each case of suite `rollout`, each from its own seed.
    #[arg(long, default_value_t = 1000)]
    rollouts: u64,
    /// Directory that holds libdwcp.so for the `abi` suite [default: that of this program].
    #[arg(long)]
    library_dir: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Role {
    /// A node that answers probes until its input ends; started by the benchmark itself.
    #[command(hide = true)]
    Answers(peers::AnswersArguments),
    /// A node with many idle peers.
    #[command(hide = true)]
    Idle(peers::IdleArguments),
    /// One side of a migration; started by the benchmark itself.
    #[command(hide = true)]
    Source(child::SourceArguments),
    /// The other side.
    #[command(hide = true)]
    Destination(child::DestinationArguments),
    /// The node beside a QEMU whose guest leaves.
    #[command(hide = true)]
    RelaySource(relay::SourceArguments),
    /// The node beside a QEMU that waits for a guest.
    #[command(hide = true)]
    RelayDestination(relay::DestinationArguments),
    /// A node of a relayed guest that goes to and fro.
    #[command(hide = true)]
    RelayHost(relay::HostArguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.role {
        Some(Role::Answers(arguments)) => peers::answers(&arguments).map(|()| true),
        Some(Role::Idle(arguments)) => peers::idle(&arguments).map(|()| true),
        Some(Role::Source(arguments)) => child::source(&arguments).map(|()| true),
        Some(Role::Destination(arguments)) => child::destination(&arguments).map(|()| true),
        Some(Role::RelaySource(arguments)) => relay::source(&arguments).map(|()| true),
        Some(Role::RelayHost(arguments)) => relay::host(&arguments).map(|()| true),
        Some(Role::RelayDestination(arguments)) => relay::destination(&arguments).map(|()| true),
        None => run(&arguments.plan),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("dwcp-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the suites; a suite that fails does not keep the others from running.
fn run(plan: &Plan) -> Result<bool, Failure> {
    let mut results = Results::create(&plan.output)?;
    let mut complete = true;
    for name in &plan.suites {
        if let Err(error) = suites::run(name, plan, &mut results) {
            eprintln!("suite {name} failed: {error}");
            complete = false;
        }
    }
    results.summarize();
    println!("\nJSON lines: {}", plan.output.display());
    Ok(complete)
}

//! One migration between two child processes, seen from their parent.

use crate::Failure;
use dwcp_netlab::{Host, Running};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};

/// What both sides said in the end.
#[derive(Debug)]
pub struct Outcome {
    /// The source's report.
    pub report: Value,
    /// Memory that the source needed beyond the guest's.
    pub source_overhead_bytes: f64,
    /// Memory that the destination needed beyond the guest's.
    pub destination_overhead_bytes: f64,
}

/// What is to be migrated, and how.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct Job {
    /// Guest memory.
    #[arg(long)]
    pub guest_bytes: u64,
    /// How much of it is filled; the rest stays untouched.
    #[arg(long)]
    pub filled_bytes: u64,
    /// Data streams.
    #[arg(long)]
    pub streams: u16,
    /// How fast the guest writes.
    #[arg(long)]
    pub dirty_bytes_per_s: u64,
    /// The downtime asked for.
    #[arg(long)]
    pub max_downtime_ms: u64,
}

impl Job {
    /// As the source's command line has it.
    fn arguments(&self) -> Vec<String> {
        let options = [
            ("--guest-bytes", self.guest_bytes),
            ("--filled-bytes", self.filled_bytes),
            ("--streams", self.streams.into()),
            ("--dirty-bytes-per-s", self.dirty_bytes_per_s),
            ("--max-downtime-ms", self.max_downtime_ms),
        ];
        options.into_iter().flat_map(|(name, value)| [name.into(), value.to_string()]).collect()
    }
}

impl Outcome {
    /// A number of the source's report.
    pub fn number(&self, key: &str) -> Result<f64, Failure> {
        let value = self.report.get(key).and_then(Value::as_f64);
        value.ok_or_else(|| format!("no number {key} in report {}", self.report).into())
    }

    /// Guest memory over the whole duration, connecting and verifying included.
    pub fn gbit_per_s(&self) -> Result<f64, Failure> {
        Ok(self.number("ram_bytes")? * 8.0 / 1e6 / self.number("total_ms")?)
    }
}

/// Migrates a guest from `from` to `to`, where it is expected on `address`, over plain connections.
pub fn migrate(from: &Host, to: &Host, address: IpAddr, job: Job) -> Result<Outcome, Failure> {
    migrate_as(from, to, address, job, None)
}

/// As [`migrate`]; with an identity, which serves both sides, over TLS.
pub fn migrate_as(
    from: &Host,
    to: &Host,
    address: IpAddr,
    job: Job,
    identity: Option<&Path>,
) -> Result<Outcome, Failure> {
    let secured = |command: &mut Command| {
        identity.map(|identity| command.arg("--identity").arg(identity));
    };
    let guest_bytes = job.guest_bytes.to_string();
    let listen = SocketAddr::new(address, 0).to_string();
    let mut command = to.command(std::env::current_exe()?);
    command.args(["destination", "--guest-bytes", &guest_bytes, "--listen", &listen]);
    secured(&mut command);
    let mut destination = Side::start(to, command)?;
    let listening = destination.line()?;
    let to_address = listening["listen"].as_str().ok_or("no address from the destination")?;
    let mut command = from.command(std::env::current_exe()?);
    command.args(["source", "--to", to_address]).args(job.arguments());
    secured(&mut command);
    let mut source = Side::start(from, command)?;
    source.line()?;
    source.go()?;
    let (sent, received) = (source.line()?, destination.line()?);
    Ok(Outcome {
        report: sent["report"].clone(),
        source_overhead_bytes: overhead(&sent)?,
        destination_overhead_bytes: overhead(&received)?,
    })
}

fn overhead(line: &Value) -> Result<f64, Failure> {
    line["overhead_bytes"].as_f64().ok_or_else(|| "no overhead_bytes".into())
}

/// A child process that talks in lines.
pub struct Side {
    process: Running,
    output: BufReader<ChildStdout>,
}

impl Side {
    /// Starts it on a host.
    pub fn start(host: &Host, mut command: Command) -> Result<Self, Failure> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = host.spawn(&mut command)?;
        let output = process.child().stdout.take().ok_or("no output")?;
        Ok(Self { process, output: BufReader::new(output) })
    }

    /// What it says next.
    pub fn line(&mut self) -> Result<Value, Failure> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        if line.is_empty() {
            return Err(format!("a side ended early: {}", self.process.child().wait()?).into());
        }
        Ok(serde_json::from_str(&line)?)
    }

    /// Asks it for something, and waits for the answer.
    pub fn ask(&mut self, question: &Value) -> Result<Value, Failure> {
        let input = self.process.child().stdin.as_mut().ok_or("no input")?;
        writeln!(input, "{question}")?;
        self.line()
    }

    /// Lets it begin.
    pub fn go(&mut self) -> Result<(), Failure> {
        let input = self.process.child().stdin.as_mut().ok_or("no input")?;
        Ok(writeln!(input, "go")?)
    }
}

//! The peer: `iperf3` over the same link.

use crate::Failure;
use dwcp_netlab::Host;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::process::Stdio;

/// Sends `bytes` from `from` to `to` over `streams` connections; Gbit/s as received.
pub fn gbit_per_s(
    from: &Host,
    to: &Host,
    address: IpAddr,
    streams: u16,
    bytes: u64,
    congestion: Option<&str>,
) -> Result<f64, Failure> {
    let mut command = to.command("iperf3");
    command.args(["--server", "--one-off", "--forceflush"]).stdout(Stdio::piped());
    let mut server = to.spawn(&mut command)?;
    let said = server.child().stdout.take().ok_or("no output of iperf3")?;
    // Its banner says that it listens.
    let listens =
        BufReader::new(said).lines().any(|line| line.is_ok_and(|line| line.contains("listening")));
    if !listens {
        return Err(format!("iperf3 does not listen: {}", server.child().wait()?).into());
    }
    let mut client = from.command("iperf3");
    client.args(["--json", "--client", &address.to_string()]);
    client.args(["--parallel", &streams.to_string(), "--bytes", &bytes.to_string()]);
    client.args(congestion.iter().flat_map(|name| ["--congestion", name]));
    let output = client.output()?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    if let Some(error) = report.get("error") {
        return Err(format!("iperf3: {error}").into());
    }
    let received = &report["end"]["sum_received"]["bits_per_second"];
    Ok(received.as_f64().ok_or("iperf3 reports no rate")? / 1e9)
}

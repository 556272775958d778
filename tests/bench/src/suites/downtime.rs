//! A guest that keeps writing, over loopback: how long it stands still, and how long it all takes.

use crate::pair::{self, Job};
use crate::results::{Figure, Results, Wanted};
use crate::samples::Samples;
use crate::{Failure, Plan, iperf};
use dwcp_netlab::Lab;
use std::net::Ipv4Addr;

/// 1 GiB at 50 MiB/s; the peer's time is what `iperf3` needs for as many bytes on that loopback.
pub fn run(plan: &Plan, results: &mut Results) -> Result<(), Failure> {
    let lab = Lab::veth()?;
    let host = lab.a();
    let address = Ipv4Addr::LOCALHOST.into();
    let job = Job {
        guest_bytes: 1 << 30,
        filled_bytes: 1 << 30,
        streams: 4,
        dirty_bytes_per_s: 50 << 20,
        max_downtime_ms: DOWNTIME_MS as u64,
        switch_after_ms: 0,
        readers: 0,
    };
    let (mut downtime, mut total) = (Samples::default(), Samples::default());
    let mut least = Samples::default();
    for _ in 0..plan.rounds {
        let outcome = pair::migrate(host, host, address, job)?;
        let wire_bytes = outcome.number("wire_bytes")?;
        let rate = iperf::gbit_per_s(host, host, address, job.streams, wire_bytes as u64, None)?;
        downtime.push(outcome.number("downtime_ms")?);
        total.push(outcome.number("total_ms")?);
        least.push(wire_bytes * 8.0 / 1e6 / rate);
    }
    let case = "1 GiB, 50 MiB/s dirty";
    let figure = |metric, dwcp, peer_name, peer, wanted| Figure {
        suite: "downtime",
        case,
        metric,
        unit: "ms",
        dwcp,
        peer_name,
        peer,
        wanted,
    };
    let target = Samples::from(DOWNTIME_MS);
    results.add(figure("downtime", downtime, "target", target, Wanted::AtMost(1.0)))?;
    results.add(figure("total", total, "iperf3", least, Wanted::AtMost(1.3)))
}

const DOWNTIME_MS: f64 = 30.0;

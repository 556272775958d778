//! Throughput of incompressible memory against `iperf3` with as many streams, in turns.

use crate::pair::{self, Job};
use crate::results::{Figure, Results, Wanted};
use crate::samples::Samples;
use crate::{Failure, Plan, iperf};
use dwcp_netlab::{Lab, LinkConfig};
use std::time::Duration;

/// Between two namespaces, as fast as the kernel.
pub fn local(plan: &Plan, results: &mut Results) -> Result<(), Failure> {
    let lab = Lab::veth()?;
    for streams in [1, 4, 16] {
        let case = format!("veth, {streams} streams");
        // Plain iperf3 takes the system's congestion control; the other is the library's choice.
        for congestion in [None, Some("cubic")] {
            let path = Path { lab: &lab, case: &case, streams, congestion };
            path.measure(plan.guest_mib << 20, plan.rounds, Wanted::AtLeast(0.9), results)?;
        }
    }
    Ok(())
}

/// Over a long path with loss, where congestion control decides.
pub fn wide_area(plan: &Plan, results: &mut Results) -> Result<(), Failure> {
    for (loss, case) in WIDE_AREA_LOSSES {
        let link = LinkConfig::default().rate(300_000_000).rtt(Duration::from_millis(80));
        let lab = Lab::emulated(link.loss(loss))?;
        let path = Path { lab: &lab, case, streams: 8, congestion: Some("bbr") };
        path.measure(WIDE_AREA_BYTES, plan.rounds.min(3), Wanted::AtLeast(0.95), results)?;
    }
    Ok(())
}

/// One case: a link and how it is used.
struct Path<'a> {
    lab: &'a Lab,
    case: &'a str,
    streams: u16,
    /// The peer's.
    congestion: Option<&'a str>,
}

impl Path<'_> {
    fn measure(
        &self,
        bytes: u64,
        rounds: usize,
        wanted: Wanted,
        results: &mut Results,
    ) -> Result<(), Failure> {
        let (mut dwcp, mut peer) = (Samples::default(), Samples::default());
        for round in 0..rounds {
            // Who begins changes, so that neither always follows the other.
            if round % 2 == 0 {
                dwcp.push(self.migrate(bytes)?);
                peer.push(self.iperf(bytes)?);
            } else {
                peer.push(self.iperf(bytes)?);
                dwcp.push(self.migrate(bytes)?);
            }
        }
        results.add(Figure {
            suite: "net",
            case: self.case,
            metric: "throughput",
            unit: "Gbit/s",
            dwcp,
            peer_name: &self.congestion.map_or("iperf3".into(), |name| format!("iperf3 {name}")),
            peer,
            wanted,
        })
    }

    fn migrate(&self, bytes: u64) -> Result<f64, Failure> {
        let job = Job {
            guest_bytes: bytes,
            filled_bytes: bytes,
            streams: self.streams,
            dirty_bytes_per_s: 0,
            max_downtime_ms: MAX_DOWNTIME_MS,
            switch_after_ms: 0,
            readers: 0,
        };
        let (a, b) = (self.lab.a(), self.lab.b());
        pair::migrate(a, b, b.ipv4().into(), job)?.gbit_per_s()
    }

    fn iperf(&self, bytes: u64) -> Result<f64, Failure> {
        let (a, b) = (self.lab.a(), self.lab.b());
        iperf::gbit_per_s(a, b, b.ipv4().into(), self.streams, bytes, self.congestion)
    }
}

/// Handing over takes several round trips, which on the long path are 80 ms each; this suite is
/// about throughput.
const MAX_DOWNTIME_MS: u64 = 2000;
const WIDE_AREA_LOSSES: [(f64, &str); 3] = [
    (0.0, "80 ms 300 Mbit/s 0 %"),
    (0.001, "80 ms 300 Mbit/s 0.1 %"),
    (0.01, "80 ms 300 Mbit/s 1 %"),
];
/// About 28 s at 300 Mbit/s.
const WIDE_AREA_BYTES: u64 = 1 << 30;

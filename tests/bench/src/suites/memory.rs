//! Memory: how fast zero pages are found, and how much the library needs beside the guest.

use crate::pair::{self, Job};
use crate::results::{Figure, Results, Wanted};
use crate::samples::Samples;
use crate::{Failure, Plan};
use dwcp_netlab::Lab;
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::time::Instant;

/// Runs both cases.
pub fn run(plan: &Plan, results: &mut Results) -> Result<(), Failure> {
    zero_scan(plan, results)?;
    overhead(plan, results)
}

/// The scan that every pass makes, against memcpy over the same bytes.
fn zero_scan(plan: &Plan, results: &mut Results) -> Result<(), Failure> {
    // Not zeroed by the allocator: pages that are all the one zero page would sit in the cache.
    let mut from = vec![1u8; SCAN_BYTES];
    from.fill(black_box(0));
    let mut into = vec![1u8; SCAN_BYTES];
    let (mut dwcp, mut peer) = (Samples::default(), Samples::default());
    for _ in 0..plan.rounds {
        dwcp.push(gb_per_s(|| {
            let runs = dwcp::encoding::zero::page_runs(black_box(&from), 4096);
            assert!(runs.into_iter().all(|run| run.zero), "zero memory is not seen as zero");
        }));
        peer.push(gb_per_s(|| {
            into.copy_from_slice(black_box(&from));
            black_box(&into);
        }));
    }
    results.add(Figure {
        suite: "memory",
        case: "512 MiB of zero pages",
        metric: "zero_scan",
        unit: "GB/s",
        dwcp,
        peer_name: "memcpy",
        peer,
        wanted: Wanted::AtLeast(0.8),
    })
}

/// The peak of resident memory beyond the guest's, on both sides.
fn overhead(plan: &Plan, results: &mut Results) -> Result<(), Failure> {
    let lab = Lab::veth()?;
    let job = Job {
        guest_bytes: 4 << 30,
        filled_bytes: 1 << 30,
        streams: 4,
        dirty_bytes_per_s: 0,
        max_downtime_ms: 300,
        switch_after_ms: 0,
        readers: 0,
    };
    let (mut source, mut destination) = (Samples::default(), Samples::default());
    for _ in 0..plan.rounds.min(3) {
        let outcome = pair::migrate(lab.a(), lab.a(), Ipv4Addr::LOCALHOST.into(), job)?;
        source.push(outcome.source_overhead_bytes / MIB);
        destination.push(outcome.destination_overhead_bytes / MIB);
    }
    for (metric, dwcp) in [("overhead_source", source), ("overhead_destination", destination)] {
        results.add(Figure {
            suite: "memory",
            case: "4 GiB guest",
            metric,
            unit: "MiB",
            dwcp,
            peer_name: "target",
            peer: Samples::from(64.0),
            wanted: Wanted::AtMost(1.0),
        })?;
    }
    Ok(())
}

fn gb_per_s(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    SCAN_BYTES as f64 / 1e9 / start.elapsed().as_secs_f64()
}

const SCAN_BYTES: usize = 512 << 20;
const MIB: f64 = (1 << 20) as f64;

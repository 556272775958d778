//! What TLS costs: the same migration over secured and over plain connections, in turns.

use crate::pair::{self, Job};
use crate::results::{Figure, Results, Wanted};
use crate::samples::Samples;
use crate::{Failure, Plan};
use dwcp::runtime::security::authority::{self, NodeCertificate};
use dwcp_netlab::Lab;
use std::path::{Path, PathBuf};

/// Between two namespaces, as fast as the kernel.
pub fn run(plan: &Plan, results: &mut Results) -> Result<(), Failure> {
    let lab = Lab::veth()?;
    let identity = Identity::new(&lab.b().ipv4().to_string())?;
    for streams in [1, 4] {
        let job = Job {
            guest_bytes: plan.guest_mib << 20,
            filled_bytes: plan.guest_mib << 20,
            streams,
            dirty_bytes_per_s: 0,
            max_downtime_ms: 2000,
        };
        let migrate = |identity: Option<&Path>| {
            let (a, b) = (lab.a(), lab.b());
            pair::migrate_as(a, b, b.ipv4().into(), job, identity)?.gbit_per_s()
        };
        let (mut secured, mut plain) = (Samples::default(), Samples::default());
        for round in 0..plan.rounds {
            // Who begins changes, so that neither always follows the other.
            if round % 2 == 0 {
                secured.push(migrate(Some(&identity.0))?);
                plain.push(migrate(None)?);
            } else {
                plain.push(migrate(None)?);
                secured.push(migrate(Some(&identity.0))?);
            }
        }
        results.add(Figure {
            suite: "tls",
            case: &format!("veth, {streams} streams, TLS"),
            metric: "throughput",
            unit: "Gbit/s",
            dwcp: secured,
            peer_name: "plain",
            peer: plain,
            wanted: Wanted::AtLeast(0.75),
        })?;
    }
    Ok(())
}

/// A directory that goes away with the run.
struct Identity(PathBuf);

impl Identity {
    fn new(host: &str) -> Result<Self, Failure> {
        let directory = std::env::temp_dir().join(format!("dwcp-bench-{}", std::process::id()));
        let identity = Self(directory);
        let authority = identity.0.join("authority");
        authority::create(&authority, "bench")?;
        let wanted = NodeCertificate { node: "bench".into(), hosts: vec![host.into()], days: 1 };
        authority::issue(&authority, &wanted, &identity.0, false)?;
        Ok(identity)
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

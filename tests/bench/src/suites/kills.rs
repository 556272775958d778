//! Streams that are killed again and again while a guest moves: what has to be sent twice.

use crate::results::{Figure, Results, Wanted};
use crate::samples::Samples;
use crate::stage::{self, Stage};
use crate::{Failure, Plan};
use dwcp::{Migration, Status};
use dwcp_netlab::{Direction, Lab, LinkConfig};
use std::time::Duration;

/// 80 ms and 300 Mbit/s; twenty resets at moments that chance chooses, against a trip in peace.
pub fn run(plan: &Plan, results: &mut Results) -> Result<(), Failure> {
    let (mut resent, mut kills, mut windows) =
        (Samples::default(), Samples::default(), Samples::default());
    for round in 0..plan.rounds.min(3) {
        let link = LinkConfig::default().rate(RATE_BITS_PER_S).rtt(RTT);
        let lab = Lab::emulated(link)?;
        let mut random = fastrand::Rng::with_seed(round as u64);
        let in_peace = move_guest(&lab, |_| Ok(Killed::default()))?.0;
        let (sent, killed) = move_guest(&lab, |migration| kill(&lab, migration, &mut random))?;
        let count = killed.count.max(1) as f64;
        kills.push(killed.count as f64);
        resent.push(sent.saturating_sub(in_peace) as f64 / count);
        windows.push(killed.windows / count);
    }
    let figure = |metric, unit, dwcp, peer_name, peer, wanted| Figure {
        suite: "kills",
        case: "80 ms, 300 Mbit/s, 4 streams",
        metric,
        unit,
        dwcp,
        peer_name,
        peer,
        wanted,
    };
    results.add(figure(
        "streams killed",
        "",
        kills,
        "asked",
        Samples::from(KILLS as f64),
        Wanted::AtLeast(1.0),
    ))?;
    results.add(figure("sent again for each", "B", resent, "window", windows, Wanted::AtMost(1.0)))
}

/// Resets, and the windows that the connections had then, all together.
#[derive(Default)]
struct Killed {
    count: u64,
    windows: f64,
}

/// Bytes that went out, and what `meanwhile` counted; the guest must be there, whole.
fn move_guest(
    lab: &Lab,
    meanwhile: impl FnOnce(&Migration) -> Result<Killed, Failure>,
) -> Result<(u64, Killed), Failure> {
    let mut stage = Stage::new(lab)?;
    let migrations = stage.migrate(1, GUEST_BYTES, STREAMS)?;
    stage::until_sent(&migrations, BEGUN_BYTES)?;
    let counted = meanwhile(&migrations[0])?;
    let (here, there) = stage.ends(&migrations[0])?;
    for report in [&here, &there] {
        if (report.status, &report.digest) != (Status::Ok, &here.digest) {
            return Err(format!("the guest did not arrive: {report:?}").into());
        }
    }
    Ok((here.wire_bytes, counted))
}

/// Resets connections, one at a time, each after a pause.
fn kill(lab: &Lab, migration: &Migration, random: &mut fastrand::Rng) -> Result<Killed, Failure> {
    let resets = || lab.stats(Direction::AToB).resets;
    let (before, mut windows) = (resets(), 0.0);
    for number in 1..=KILLS {
        std::thread::sleep(Duration::from_millis(random.u64(100..500)));
        // Those that are left share the path.
        let streams = migration.progress().streams.max(1);
        windows += WINDOW_PRODUCTS * bandwidth_delay_product() / f64::from(streams);
        lab.reset_connections(Direction::AToB, 1);
        stage::until("a connection is reset", || resets() - before >= number)?;
        if migration.report().is_some() {
            return Err("the migration was over before all was done".into());
        }
    }
    Ok(Killed { count: resets() - before, windows })
}

fn bandwidth_delay_product() -> f64 {
    RATE_BITS_PER_S as f64 / 8.0 * RTT.as_secs_f64()
}

const RATE_BITS_PER_S: u64 = 300_000_000;
const RTT: Duration = Duration::from_millis(80);
const STREAMS: u16 = 4;
/// BBR lets a connection have twice the bandwidth-delay product under way.
const WINDOW_PRODUCTS: f64 = 2.0;
const KILLS: u64 = 20;
const GUEST_BYTES: u64 = 512 << 20;
const BEGUN_BYTES: u64 = 16 << 20;

//! Guests that go on at the destination before their memory is there: by the relay, and by QEMU alone.

use super::cases::{Guest, Link, Means};
use super::trip::{Taken, Traveller};
use crate::Failure;
use crate::results::{Figure, Results, Wanted};
use crate::samples::Samples;
use dwcp_qemulab::baseline::Mode;
use dwcp_qemulab::{Load, VmConfig};
use std::time::Duration;

/// The guest of text, over the links with a delay and without loss.
pub fn run(
    guests: &[&Guest],
    links: &[&Link],
    rounds: usize,
    results: &mut Results,
) -> Result<(), Failure> {
    for link in links.iter().filter(|link| link.mbit_per_s == Some(LINK_MBIT_PER_S)) {
        for guest in guests.iter().filter(|guest| matches!(guest.load, Load::Text { .. })) {
            on(guest, link, rounds, results)?;
        }
    }
    Ok(())
}

fn on(guest: &Guest, link: &Link, rounds: usize, results: &mut Results) -> Result<(), Failure> {
    let lab = link.lab()?;
    let image = guest.image()?;
    let config = VmConfig { image: Some(&image), ..guest.config() };
    let mut traveller = Traveller::boot(&lab, &config)?;
    // As for the other cells: the first trip touches the machine's memory.
    traveller.go(Means::Switch(AFTER))?;
    let mut all = [const { Vec::new() }; 2];
    for round in 0..rounds {
        for turn in 0..2 {
            let which = (round + turn) % 2;
            all[which].push(go(&mut traveller, MEANS[which])?);
        }
    }
    let case = format!("{} by post-copy after 1 s, {}", guest.name, link.name);
    type Of = fn(&Taken) -> f64;
    let figures: [(&str, &str, Of); 4] = [
        ("total_s", "s", |taken| taken.total_s),
        ("downtime_ms", "ms", |taken| taken.downtime_ms),
        ("blocked_ms", "ms", |taken| taken.blocked_ms.unwrap_or(f64::NAN)),
        ("wire_mib", "MiB", |taken| taken.wire_mib),
    ];
    for (metric, unit, of) in figures {
        let samples = |which: usize| {
            let mut samples = Samples::default();
            all[which].iter().for_each(|taken| samples.push(of(taken)));
            samples
        };
        let (suite, peer_name, wanted) = ("qemu", MEANS[1].name(), Wanted::AtMost(1.0));
        let (dwcp, peer) = (samples(0), samples(1));
        results.add(Figure { suite, case: &case, metric, unit, dwcp, peer_name, peer, wanted })?;
    }
    Ok(())
}

fn go(traveller: &mut Traveller<'_>, means: Means) -> Result<Taken, Failure> {
    for _ in 0..MOST_TRIES {
        if let Some(taken) = traveller.go(means)? {
            eprintln!(
                "  {means}, switched: {:.2} s, down {:.0} ms, blocked {:?} ms, {:.1} MiB {}",
                taken.total_s, taken.downtime_ms, taken.blocked_ms, taken.wire_mib, taken.details
            );
            return Ok(taken);
        }
    }
    Err(format!("no guest outlives {means} by post-copy").into())
}

const MEANS: [Means; 2] = [Means::Switch(AFTER), Means::Qemu(Mode::PostCopy { after: AFTER })];
/// By then QEMU is in its first pass.
const AFTER: Duration = Duration::from_secs(1);
const LINK_MBIT_PER_S: u64 = 1000;
const MOST_TRIES: usize = 3;

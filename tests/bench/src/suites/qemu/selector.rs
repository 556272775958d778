//! The selector of codecs against each codec alone, on links from slow to unshaped.

use super::cases::{self, AUTO, Link, Means, SELECTOR_GUEST, SELECTOR_LINKS};
use super::trip::Traveller;
use crate::Failure;
use crate::results::{Figure, Results, Wanted};
use crate::samples::Samples;
use dwcp::encoding::CodecChoice;
use dwcp::migration::CodecPolicy;
use dwcp_qemulab::VmConfig;

/// The links that are named.
pub fn run(names: &[String], rounds: usize, results: &mut Results) -> Result<(), Failure> {
    for (link, most) in cases::chosen(names, &SELECTOR_LINKS, |(link, _)| link.key)? {
        on(link, rounds.min(*most), results)?;
    }
    Ok(())
}

/// The guest goes to and fro, by the selector and by each codec in turns.
fn on(link: &Link, rounds: usize, results: &mut Results) -> Result<(), Failure> {
    let lab = link.lab()?;
    let image = SELECTOR_GUEST.image()?;
    let config = VmConfig { image: Some(&image), ..SELECTOR_GUEST.config() };
    let mut traveller = Traveller::boot(&lab, &config)?;
    traveller.go(AUTO)?;
    let (mut auto, mut fixed) = (Samples::default(), CODECS.map(|_| Samples::default()));
    for _ in 0..rounds {
        auto.push(seconds(&mut traveller, AUTO)?);
        for (codec, samples) in CODECS.iter().zip(&mut fixed) {
            samples.push(seconds(&mut traveller, Means::Relay(CodecPolicy::Fixed(*codec)))?);
        }
    }
    for (codec, samples) in CODECS.iter().zip(&fixed) {
        eprintln!("  {}, {codec}: {:.2} s", link.name, samples.median());
    }
    let best = (0..CODECS.len())
        .min_by(|one, other| fixed[*one].median().total_cmp(&fixed[*other].median()))
        .unwrap_or(STORED);
    let case = format!("selector, {}", link.name);
    let mut add = |which: usize, bound| {
        results.add(Figure {
            suite: "qemu",
            case: &case,
            metric: "total_s",
            unit: "s",
            dwcp: auto.clone(),
            peer_name: &CODECS[which].to_string(),
            peer: fixed[which].clone(),
            wanted: Wanted::AtMost(bound),
        })
    };
    add(best, 1.05)?;
    add(STORED, 1.0)
}

fn seconds(traveller: &mut Traveller<'_>, means: Means) -> Result<f64, Failure> {
    for _ in 0..MOST_TRIES {
        if let Some(taken) = traveller.go(means)? {
            return Ok(taken.total_s);
        }
    }
    Err(format!("no guest outlives {means}").into())
}

const CODECS: [CodecChoice; 4] =
    [CodecChoice::None, CodecChoice::Lz4, CodecChoice::Zstd(1), CodecChoice::Zstd(3)];
/// Where storing is among them.
const STORED: usize = 0;
const MOST_TRIES: usize = 3;

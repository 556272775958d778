//! The gradual way back on three nodes, with guests that go round them: 100, 50, 10, 0 percent.

use super::finding::Finding;
use super::flags;
use super::star::{describe, small_options};
use super::{DrillOptions, Part, Story};
use crate::cli::trial::TrialError;
use crate::cli::trial::crowd::{Crowd, Rover, Roving, Tally};
use crate::cli::trial::guest::GuestSize;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Lowers the flag step by step.
///
/// # Errors
/// A node does not start, or is gone.
pub async fn rehearse(
    options: &DrillOptions,
    story: &Story<'_>,
) -> Result<Vec<Finding>, TrialError> {
    let crowd = Arc::new(Crowd::start(NODES, options.plain).await?);
    let (rovers, flag) = (guests(options), options.flag);
    for rover in &rovers {
        crowd.boot(rover).await?;
    }
    let pairs = [(0, 1), (0, 2), (1, 2)].map(|way| flags::unit_of(&crowd, flag, way));
    let seed = flags::even_seed(flag, &pairs, &[50, 10]);
    let roving = Roving::begin(&crowd, rovers, &small_options(), REST);
    let (mut faults, mut counts, mut moves) = (Vec::new(), Vec::new(), Tally::default());
    let mut before: BTreeSet<(usize, usize)> = ways().collect();
    for percent in STEPS {
        let why = format!("drill: down to {percent} %");
        flags::set_everywhere(&crowd, flag, (percent, seed), &why).await?;
        let treated = treated(&crowd, options).await?;
        // Whoever has it at a percentage had it at every higher one.
        if !treated.is_subset(&before) {
            faults.push(format!("at {percent} % a path has it that had not before"));
        }
        counts.push(treated.len());
        before = treated;
        let phase = crowd.ledger.begin_phase();
        wait_for_moves(&crowd, phase).await?;
        moves.merge(&crowd.ledger.all(phase));
    }
    if counts.first() != Some(&ways().count()) || counts.last() != Some(&0) {
        faults.push("not all of the paths had it at first, or some still have it".to_owned());
    }
    let (rovers, lost) = roving.end().await;
    faults.extend(lost);
    faults.extend(crowd.census(&rovers).await?.faults);
    let steps: Vec<_> = counts.iter().map(usize::to_string).collect();
    let (steps, moved) = (steps.join(", "), describe(&moves));
    let evidence = match faults.first() {
        None => format!("{NODES} nodes; of {} paths {steps} had it; {moved}", ways().count()),
        Some(first) => format!("{} faults; first: {first}", faults.len()),
    };
    story.tell(format!("{flag} at 100, 50, 10 and 0 %: {evidence}"))?;
    let held = faults.is_empty() && moves.failed == 0 && moves.moved > 0;
    Ok(vec![Finding::new(Part::GRADUAL, held, evidence)])
}

/// The ways on which guests have the flag, each asked of the node that sends.
async fn treated(
    crowd: &Crowd,
    options: &DrillOptions,
) -> Result<BTreeSet<(usize, usize)>, TrialError> {
    let mut treated = BTreeSet::new();
    for (from, to) in ways() {
        if flags::is_on(&crowd.members()[from], options.flag, crowd.way(from, to)).await? {
            treated.insert((from, to));
        }
    }
    Ok(treated)
}

async fn wait_for_moves(crowd: &Crowd, phase: u32) -> Result<(), TrialError> {
    let begun = Instant::now();
    let is_behind = |way: (usize, usize)| crowd.ledger.ended(phase, way) < MOVES_PER_WAY;
    while let Some((from, to)) = ways().find(|way| is_behind(*way)) {
        if begun.elapsed() > PATIENCE {
            let way = format!("{} to {}", crowd.members()[from].name(), crowd.members()[to].name());
            return Err(TrialError::Idle { way, patience_s: PATIENCE.as_secs() });
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    Ok(())
}

fn ways() -> impl Iterator<Item = (usize, usize)> {
    (0..NODES).flat_map(|from| (0..NODES).map(move |to| (from, to))).filter(|(a, b)| a != b)
}

/// One round each way for every node to begin at.
fn guests(options: &DrillOptions) -> Vec<Rover> {
    let size = GuestSize { bytes: options.guest_memory, writes_per_s: WRITES_PER_S };
    let routes = [[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 2, 1], [2, 1, 0], [1, 0, 2]];
    let rover = |(number, route): (usize, [usize; NODES])| {
        Rover::new(format!("round-{number}"), size, route.to_vec())
    };
    routes.into_iter().enumerate().map(rover).collect()
}

const NODES: usize = 3;
const STEPS: [u8; 4] = [100, 50, 10, 0];
const MOVES_PER_WAY: u64 = 2;
const WRITES_PER_S: u64 = 50;
const REST: Duration = Duration::from_millis(20);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(60);

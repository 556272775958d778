//! The stage of a drill: a node in the middle and others around it, small guests that move between it
//! and them all the time, and two larger ones for what is to be met under way.

use super::flags;
use super::judge::Peace;
use super::{DrillOptions, Part, Story};
use crate::cli::trial::TrialError;
use crate::cli::trial::crowd::{Crowd, Departure, Rover, Roving};
use crate::cli::trial::guest::GuestSize;
use crate::rollout::UnitKind;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The node in the middle, whose guards see the paths to all others.
pub const HUB: usize = 0;

/// The stage; everything on it is gone when it is dropped.
pub struct Star {
    /// The nodes.
    pub crowd: Arc<Crowd>,
    /// The larger guests, and the moves that they are in.
    pub(super) large: Vec<(Rover, Option<Departure>)>,
    pub(super) roving: Option<Roving>,
    /// With which the flag draws its units.
    pub seed: u64,
    pub(super) options: DrillOptions,
    /// Phases in which every move must succeed, to be judged when all is over.
    pub(super) peaceful: Vec<Peace>,
}

impl Star {
    /// Starts nodes and guests; the small ones are on the move then.
    ///
    /// # Errors
    /// A node does not start, or a guest cannot be made.
    pub async fn start(options: &DrillOptions) -> Result<Self, TrialError> {
        let mut crowd = Crowd::start(options.nodes, options.plain).await?;
        for at in 1..options.nodes {
            crowd.link(HUB, at).await?;
        }
        let units = units(&crowd, options);
        let seed = flags::even_seed(options.flag, &units, &STAGES);
        let crowd = Arc::new(crowd);
        // Off at first, so that names of peers are known before anybody is treated.
        flags::set_everywhere(&crowd, options.flag, (0, seed), "the drill begins").await?;
        let (small, options) = (small_guests(options), options.clone());
        for rover in &small {
            crowd.boot(rover).await?;
        }
        let roving = Some(Roving::begin(&crowd, small, &small_options(), REST));
        let (large, peaceful) = (Vec::new(), Vec::new());
        let mut star = Self { crowd, large, roving, seed, options, peaceful };
        star.go_on_in_peace(Part::MEANWHILE, String::new()).await?;
        Ok(star)
    }

    /// The places of the nodes around the middle.
    pub fn spokes(&self) -> std::ops::Range<usize> {
        1..self.options.nodes
    }

    /// Raises the flag on every node, and lets guests move on for a while.
    ///
    /// # Errors
    /// A node refuses or is gone.
    pub async fn raise(
        &mut self,
        what: &'static str,
        percent: u8,
        story: &Story<'_>,
    ) -> Result<Vec<bool>, TrialError> {
        let (flag, why) = (self.options.flag, format!("drill: stage of {percent} %"));
        flags::set_everywhere(&self.crowd, flag, (percent, self.seed), &why).await?;
        let treated = self.treated().await?;
        let (count, all) = (treated.iter().filter(|is| **is).count(), treated.len());
        story.tell(format!("{flag} at {percent} %: {count} of {all} paths have it"))?;
        self.go_on_in_peace(what, format!("{count} of {all} paths treated")).await?;
        if let Some(peace) = self.peaceful.last_mut() {
            let expected = flags::share(all, percent);
            let is_wrong = count != expected;
            peace.fault = is_wrong.then(|| format!("{count} paths treated, not {expected}"));
        }
        if flag.unit_kind() == UnitKind::NodePair {
            self.compare_ends(&treated).await?;
        }
        Ok(treated)
    }

    /// Both ends of a pair must give the same answer.
    async fn compare_ends(&mut self, treated: &[bool]) -> Result<(), TrialError> {
        let mut differ = None;
        for (at, treated) in self.spokes().zip(treated) {
            let member = &self.crowd.members()[at];
            let is_on = flags::is_on(member, self.options.flag, self.crowd.way(at, HUB)).await?;
            if is_on != *treated {
                differ = Some(format!("{} and the node in the middle differ", member.name()));
            }
        }
        if let Some(peace) = self.peaceful.last_mut() {
            peace.fault = peace.fault.take().or(differ);
        }
        Ok(())
    }

    /// Whether the path from the middle to each node has the flag.
    ///
    /// # Errors
    /// The node in the middle is gone.
    pub async fn treated(&self) -> Result<Vec<bool>, TrialError> {
        let hub = &self.crowd.members()[HUB];
        let mut treated = Vec::new();
        for at in self.spokes() {
            treated.push(flags::is_on(hub, self.options.flag, self.crowd.way(HUB, at)).await?);
        }
        Ok(treated)
    }

    /// A phase in which every move must succeed; ends when enough was moved on every way.
    ///
    /// # Errors
    /// Nothing moves.
    pub async fn go_on_in_peace(
        &mut self,
        what: &'static str,
        note: String,
    ) -> Result<u32, TrialError> {
        let phase = self.crowd.ledger.begin_phase();
        self.peaceful.push(Peace { what, phase, note, fault: None });
        self.wait_for_moves(phase, MOVES_PER_WAY, |_, _| true).await?;
        Ok(phase)
    }

    /// Waits until so many moves of a phase have ended on each of the ways that are wanted.
    ///
    /// # Errors
    /// Nothing moves.
    pub async fn wait_for_moves(
        &self,
        phase: u32,
        count: u64,
        is_wanted: impl Fn(usize, usize) -> bool,
    ) -> Result<(), TrialError> {
        let begun = Instant::now();
        let both = |at: usize| [(HUB, at), (at, HUB)];
        let ways: Vec<_> =
            self.spokes().flat_map(both).filter(|(a, b)| is_wanted(*a, *b)).collect();
        loop {
            let is_behind = |way: &&(usize, usize)| self.crowd.ledger.ended(phase, **way) < count;
            let Some((from, to)) = ways.iter().find(is_behind) else { return Ok(()) };
            if begun.elapsed() > PATIENCE {
                let members = self.crowd.members();
                let (from, to) = (members[*from].name(), members[*to].name());
                let patience_s = PATIENCE.as_secs();
                return Err(TrialError::Idle { way: format!("{from} to {to}"), patience_s });
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
}

fn units(crowd: &Crowd, options: &DrillOptions) -> Vec<String> {
    (1..options.nodes).map(|at| flags::unit_of(crowd, options.flag, (HUB, at))).collect()
}

/// Half of the guests begin in the middle.
fn small_guests(options: &DrillOptions) -> Vec<Rover> {
    let size = GuestSize { bytes: options.guest_memory, writes_per_s: SMALL_WRITES_PER_S };
    let mut guests = Vec::new();
    for at in 1..options.nodes {
        for number in 0..options.guests {
            let route = if number % 2 == 0 { vec![HUB, at] } else { vec![at, HUB] };
            guests.push(Rover::new(format!("small-{at:02}-{number}"), size, route));
        }
    }
    guests
}

/// A source that has lost its connections gives up before a link forgets that it has to break them.
pub fn small_options() -> Value {
    json!({ "streams": 1, "reconnect_timeout": "5s", "stall_timeout": "30s" })
}

/// The percentages at which units are counted.
pub const STAGES: [u8; 2] = [10, 50];
/// In a phase, of each way.
const MOVES_PER_WAY: u64 = 2;
/// Between two moves of a guest.
const REST: Duration = Duration::from_millis(20);
const SMALL_WRITES_PER_S: u64 = 50;
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How long a phase may take.
const PATIENCE: Duration = Duration::from_secs(60);

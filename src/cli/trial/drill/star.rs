//! The stage of a drill: a node in the middle and others around it, small guests that move between it
//! and them all the time, and two larger ones for what is to be met under way.

use super::finding::Finding;
use super::flags;
use super::{DrillOptions, Part, Story};
use crate::cli::trial::TrialError;
use crate::cli::trial::crowd::{Crowd, Departure, Rover, Roving, Tally};
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
    large: Vec<(Rover, Option<Departure>)>,
    roving: Option<Roving>,
    /// With which the flag draws its units.
    pub seed: u64,
    options: DrillOptions,
    /// Phases in which every move must succeed, to be judged when all is over.
    peaceful: Vec<Peace>,
}

/// A phase in which every move must succeed.
struct Peace {
    what: &'static str,
    phase: u32,
    note: String,
    /// What is wrong besides.
    fault: Option<String>,
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

    /// Makes the larger guests, one for each of these nodes to go to and fro between it and the
    /// middle.
    ///
    /// # Errors
    /// They cannot be made.
    pub async fn add_large(&mut self, spokes: &[usize]) -> Result<(), TrialError> {
        let size = GuestSize { bytes: self.options.large_memory, writes_per_s: LARGE_WRITES_PER_S };
        for at in spokes {
            let rover = Rover::new(format!("large-{at:02}"), size, vec![HUB, *at]);
            self.crowd.boot(&rover).await?;
            self.large.push((rover, None));
        }
        Ok(())
    }

    /// Sends the larger guests on their way, so slowly that they do not arrive before they are let;
    /// on return they are under way.
    ///
    /// # Errors
    /// A node refuses, or they do not get under way.
    pub async fn send_large(&mut self) -> Result<(), TrialError> {
        let slow = slow_options(&self.options);
        for (rover, departure) in &mut self.large {
            let departed = self.crowd.depart(rover, &slow).await?;
            self.crowd.wait_until_under_way(&departed).await?;
            *departure = Some(departed);
        }
        Ok(())
    }

    /// How many of the larger guests are under way.
    ///
    /// # Errors
    /// A node is gone.
    pub async fn large_under_way(&self) -> Result<usize, TrialError> {
        let mut count = 0;
        for (_, departure) in &self.large {
            if let Some(departure) = departure {
                count += usize::from(self.crowd.is_under_way(departure).await?);
            }
        }
        Ok(count)
    }

    /// Lets the larger guests come at full speed, and judges how they did.
    ///
    /// # Errors
    /// They have no end.
    pub async fn let_large_come(
        &mut self,
        what: &'static str,
        under_way: usize,
    ) -> Result<Finding, TrialError> {
        let (mut moved, mut faults) = (0, Vec::new());
        for (rover, departure) in &mut self.large {
            let Some(departed) = departure.take() else { continue };
            self.crowd.lift_limit(&departed).await?;
            let end = self.crowd.arrive(rover, &departed).await?;
            match end.is_moved() {
                true => moved += 1,
                false => faults.push(format!("{}: {} ({})", rover.name, end.reason, end.status)),
            }
        }
        let all = self.large.len();
        let evidence = match faults.first() {
            None => format!("{under_way} of {all} larger guests were under way, {moved} arrived"),
            Some(first) => {
                format!("{} of {all} larger guests did not arrive; {first}", faults.len())
            }
        };
        let held = faults.is_empty() && moved == all && under_way == all && all > 0;
        Ok(Finding::new(what, held, evidence))
    }

    /// One finding for all phases of a part.
    fn judge_peace(&self) -> Vec<Finding> {
        let mut parts: Vec<(&Peace, Tally)> = Vec::new();
        for peace in &self.peaceful {
            let tally = self.crowd.ledger.all(peace.phase);
            match parts.iter_mut().find(|(known, _)| known.what == peace.what) {
                Some((_, sum)) => sum.merge(&tally),
                None => parts.push((peace, tally)),
            }
        }
        parts.iter().map(|(peace, tally)| peace.judge(tally)).collect()
    }

    /// Lets everybody stay where he is, and judges guests and peaceful phases.
    ///
    /// # Errors
    /// A node is gone.
    pub async fn end(mut self) -> Result<Vec<Finding>, TrialError> {
        let (mut rovers, faults) = match self.roving.take() {
            Some(roving) => roving.end().await,
            None => (Vec::new(), Vec::new()),
        };
        if let Some(spoil) = self.options.spoil.and_then(|spoil| spoil.order()) {
            let order = json!({ "do": "spoil", "what": spoil, "guest": rovers[0].name });
            let at = if spoil == "owner" { rovers[0].next() } else { rovers[0].at() };
            self.crowd.members()[at].node.ask(order).await?;
        }
        rovers.extend(self.large.iter().map(|(rover, _)| rover.clone()));
        let mut sight = self.crowd.census(&rovers).await?;
        sight.faults.splice(0..0, faults);
        let mut findings = self.judge_peace();
        let evidence = match sight.faults.first() {
            None => format!(
                "{} guests, each at one of {} nodes; {} pages compared and equal",
                rovers.len(),
                self.options.nodes,
                sight.pages
            ),
            Some(first) => format!("{} faults; first: {first}", sight.faults.len()),
        };
        let is_whole = sight.faults.is_empty() && sight.pages > 0;
        findings.push(Finding::new("guests", is_whole, evidence));
        Ok(findings)
    }
}

impl Peace {
    fn judge(&self, tally: &Tally) -> Finding {
        let said = self.fault.as_ref().unwrap_or(&self.note);
        let before = if said.is_empty() { String::new() } else { format!("{said}; ") };
        let held = tally.failed == 0 && tally.moved > 0 && self.fault.is_none();
        let finding = Finding::new(self.what, held, format!("{before}{}", describe(tally)));
        finding.with("migrations", tally.moved as f64, "in one drill")
    }
}

/// How moves of a phase went, in words.
pub fn describe(tally: &Tally) -> String {
    let ms = |per_mille| tally.downtime.all_but_us(per_mille) as f64 / 1e3;
    match &tally.first_failure {
        None => format!(
            "{} migrations, none failed; downtime median {:.1} ms, p99 {:.1} ms",
            tally.moved,
            ms(500),
            ms(10)
        ),
        Some(first) => {
            format!("{} migrations, {} failed; first: {first}", tally.ended(), tally.failed)
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

/// Slow enough for a fault to be noticed before such a guest has come; of its memory, half is sent.
fn slow_options(options: &DrillOptions) -> Value {
    json!({ "streams": 1, "bandwidth_limit": format!("{}B/s", options.slow_bytes_per_s()) })
}

/// The percentages at which units are counted.
pub const STAGES: [u8; 2] = [10, 50];
/// In a phase, of each way.
const MOVES_PER_WAY: u64 = 2;
/// Between two moves of a guest.
const REST: Duration = Duration::from_millis(20);
const SMALL_WRITES_PER_S: u64 = 50;
const LARGE_WRITES_PER_S: u64 = 200;
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How long a phase may take.
const PATIENCE: Duration = Duration::from_secs(60);

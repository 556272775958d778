//! What the node measures, handed to the guards; and their verdicts, carried out.
//!
//! A measurement of a path to a peer counts for each flag, on the side on which the flag's own decision
//! puts the peer: with it, or without it. So nobody has to set up a control group: it is everybody to
//! whom the rollout has not come.

use super::{Published, Rollout, bit, change, now_s};
use crate::Status;
use crate::migration::Report;
use crate::observe::EventKind;
use crate::rollout::controller::{Action, RampView};
use crate::rollout::guard::{Arm, Evidence, Limits, LimitsError, Measured, Observation};
use crate::rollout::{ChangeAction, Flag, FlagSet, Percent};
use crate::runtime::clock::now;
use crate::runtime::lock::lock;
use crate::wire::v1::json::Json;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Who takes a flag back.
const GUARD: &str = "guard";
/// Who raises one.
const SCHEDULE: &str = "schedule";

impl Rollout {
    /// What was measured of the path to a peer, by the address that is dialed.
    pub fn measured(&self, peer: &str, kind: Measured) {
        self.observe(
            peer,
            &[Flag::HybridMode, Flag::MlCompression, Flag::InternetOptimization],
            kind,
        );
    }

    /// What only the choice of a peer's mode can have brought about.
    pub fn measured_of_mode(&self, peer: &str, kind: Measured) {
        self.observe(peer, &[Flag::HybridMode], kind);
    }

    /// A migration to a peer has ended. What its operator or this node's end stopped says nothing.
    pub fn migrated(&self, peer: &str, report: &Report) {
        if matches!(report.status, Status::Cancelled | Status::Stopped) {
            return;
        }
        self.measured(peer, Measured::Request { is_failed: report.status != Status::Ok });
        if matches!(report.status, Status::DigestMismatch | Status::Corrupt) {
            self.measured(peer, Measured::Corruption);
        }
    }

    /// A connection to a peer has served and ended, well or not. Those that break at one time have one
    /// cause and count once.
    pub fn served(&self, peer: &str, ended_well: bool) {
        if ended_well || lock(&self.published).peers.breaks(peer, now()) {
            self.measured(peer, Measured::Request { is_failed: !ended_well });
        }
    }

    /// Replaces what a rollout may not exceed.
    ///
    /// # Errors
    /// A limit that cannot be meant; the old ones stay.
    pub fn set_limits(&self, limits: Limits) -> Result<(), LimitsError> {
        let mut controller = lock(&self.controller);
        if *controller.limits() == limits {
            return Ok(());
        }
        controller.set_limits(limits)
    }

    /// What a rollout may not exceed.
    pub fn limits(&self) -> Limits {
        lock(&self.controller).limits().clone()
    }

    /// How the rollout of each flag stands.
    pub fn ramps(&self) -> Vec<RampView> {
        let controller = lock(&self.controller);
        Flag::ALL.into_iter().map(|flag| controller.view(now(), flag)).collect()
    }

    /// Tells the guards what is in force.
    pub(super) fn tell_guards(&self) {
        let (set, at, now_s) = (self.set(), now(), now_s());
        let mut controller = lock(&self.controller);
        let mut watched = 0;
        for flag in Flag::ALL {
            let percent = in_force(&set, flag, now_s);
            controller.set_percent(at, flag, percent);
            let schedule = set.rule(flag).schedule.clone().filter(|_| flag.is_built());
            let start_s = schedule.as_ref().and_then(|schedule| schedule.start_s());
            let elapsed_s = start_s.map_or(0, |start_s| now_s.saturating_sub(start_s));
            controller.set_schedule(at, flag, schedule, Duration::from_secs(elapsed_s));
            if set.state(flag).latch.is_none() {
                controller.clear(at, flag);
            }
            let is_in_flight = controller.view(at, flag).is_in_flight;
            let counts = flag.is_built() && (is_in_flight || percent < Percent::FULL);
            watched |= if counts { bit(flag) } else { 0 };
        }
        self.watched.store(watched, Ordering::Relaxed);
    }

    /// Carries out what the guards say.
    pub(super) fn look_at_guards(&self) {
        // The lock is not held while something is carried out: that takes it again.
        let actions = lock(&self.controller).tick(now());
        for action in actions {
            match action {
                Action::RollBack { flag, evidence } => self.roll_back(flag, &evidence),
                Action::Advance { flag, percent } => self.advance(flag, percent),
                Action::Hold { flag, reason } => {
                    let (flag, reason) = (flag.name(), reason.to_string());
                    self.journal.publish(None, None, EventKind::FlagHeld { flag, reason });
                }
            }
        }
    }

    fn observe(&self, peer: &str, flags: &[Flag], kind: Measured) {
        let watched = self.watched.load(Ordering::Relaxed);
        let flags: Vec<Flag> =
            flags.iter().copied().filter(|flag| watched & bit(*flag) != 0).collect();
        if flags.is_empty() {
            return;
        }
        let (at, now_s) = (now(), now_s());
        let published = lock(&self.published);
        let observation = |flag: &Flag| self.observation(&published, (*flag, peer), kind, now_s);
        let observations: Vec<Observation> = flags.iter().map(observation).collect();
        drop(published);
        let mut controller = lock(&self.controller);
        observations.iter().for_each(|observation| controller.observe(at, observation));
    }

    fn observation(
        &self,
        published: &Published,
        (flag, peer): (Flag, &str),
        kind: Measured,
        now_s: u64,
    ) -> Observation {
        let is_on = published.of_peer(flag, &self.node, peer, now_s).is_on;
        let arm = if is_on { Arm::Treated } else { Arm::Control };
        let unit = published.peers.unit(flag, &self.node, peer).hash();
        Observation { flag, arm, unit, kind }
    }

    fn roll_back(&self, flag: Flag, evidence: &Evidence) {
        let mut latch = change(GUARD, &evidence.sentence, ChangeAction::Latch(flag));
        latch.evidence = Json::of("evidence", evidence).ok();
        match self.change(&latch) {
            Ok(()) => lock(&self.controller).rolled_back(now(), flag),
            Err(error) => {
                // In force all the same: what does harm goes, whatever the disk says. The verdict comes
                // again until it is written down.
                self.hold_off(flag);
                self.complain(&format!("{flag} is off, but that is not written down: {error}"));
            }
        }
    }

    /// Off, without being latched in the log yet.
    fn hold_off(&self, flag: Flag) {
        let mut published = lock(&self.published);
        if published.held_off & bit(flag) == 0 {
            published.held_off |= bit(flag);
            self.renew(&mut published);
            drop(published);
            self.call_listeners();
        }
    }

    fn advance(&self, flag: Flag, percent: Percent) {
        let why = "the time of the next stage has come, and nothing speaks against it";
        // Refused: somebody has changed the flag meanwhile. Not written down: it is tried again.
        if let Err(error) =
            self.change(&change(SCHEDULE, why, ChangeAction::Advance { flag, percent }))
        {
            self.complain(&format!("{flag} stays where it is: {error}"));
        }
    }
}

/// The percentage that has an effect.
fn in_force(set: &FlagSet, flag: Flag, now_s: u64) -> Percent {
    let state = set.state(flag);
    let is_stopped = state.latch.is_some() || set.killed.is_some();
    let is_off = !state.rule.enabled || state.rule.is_expired(now_s) || is_stopped;
    if is_off { Percent::ZERO } else { state.rule.rollout_percent }
}

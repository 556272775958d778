//! What is judged when all is over: guests, logs, and the phases in which every move had to succeed.

use super::finding::Finding;
use super::star::Star;
use super::{Part, flags};
use crate::cli::args::Spoil;
use crate::cli::trial::TrialError;
use crate::cli::trial::crowd::Tally;
use serde_json::json;

/// A phase in which every move must succeed.
pub struct Peace {
    /// Its part.
    pub what: &'static str,
    /// Its number.
    pub phase: u32,
    /// What is to be said of it.
    pub note: String,
    /// What is wrong besides.
    pub fault: Option<String>,
}

impl Star {
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
        let spoil = self.options.spoil.and_then(|spoil| spoil.order());
        if let (Some(spoil), Some(guest)) = (spoil, rovers.first()) {
            let order = json!({ "do": "spoil", "what": spoil, "guest": guest.name });
            let at = if spoil == Spoil::Owner.name() { guest.next() } else { guest.at() };
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
        findings.push(Finding::new(Part::GUESTS, is_whole, evidence));
        findings.push(self.judge_latches().await?);
        findings.push(self.judge_logs());
        Ok(findings)
    }

    /// What was rolled back and should not have been; the one that should was cleared before.
    async fn judge_latches(&self) -> Result<Finding, TrialError> {
        let mut latches = Vec::new();
        for member in self.crowd.members() {
            latches.extend(flags::latches(member).await?);
        }
        let (moved, nodes) = (self.crowd.ledger.moved(), self.options.nodes);
        let evidence = match latches.first() {
            None => format!("none in {moved} migrations on {nodes} nodes"),
            Some(first) => format!("{} rolled back; {first}", latches.len()),
        };
        let part = if self.options.harmless { Part::NONE } else { Part::NO_OTHER };
        Ok(Finding::new(part, latches.is_empty(), evidence))
    }

    /// What the nodes have written down of their flags.
    fn judge_logs(&self) -> Finding {
        let logs: Result<Vec<u64>, String> =
            self.crowd.members().iter().map(flags::audit).collect();
        match logs {
            Ok(changes) => {
                let (logs, sum) = (changes.len(), changes.iter().sum::<u64>());
                let evidence =
                    format!("{logs} logs with {sum} changes, the chain of each is whole");
                Finding::new(Part::LOGS, sum > 0, evidence)
            }
            Err(fault) => Finding::new(Part::LOGS, false, fault),
        }
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

//! Faults on purpose, over and over, and after each the question who has the guest, and whole.

mod faults;
mod settle;
mod stage;

pub use faults::run;
pub use stage::{Options, Stage};

use super::verdict::Outcome;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// A kind of fault.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// The network between the nodes is cut, shortly or until they give up
    NetworkPartition,
    /// A node is killed (SIGKILL) while the guest leaves it or comes to it
    NodeFailure,
    /// Connections of a migration are reset
    StreamKill,
    /// Bits of packets are changed, unnoticed by TCP
    Corruption,
}

/// What came of a scenario.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Tally {
    /// Faults that were done, as far as whoever did them can tell.
    pub injected: u64,
    /// What the nodes noticed: connections lost, chunks damaged, migrations failed.
    pub noticed: u64,
    /// Migrations during which they were done.
    pub rounds: u64,
    /// Migrations that succeeded all the same.
    pub moved: u64,
    /// Migrations after which the guest went on where it was.
    pub stayed: u64,
    /// Guests that died with their node, of which exactly one record says so.
    pub died: u64,
    /// Times that only a record could tell who has the guest.
    pub decided: u64,
    /// Pages that were compared.
    pub pages: u64,
    /// With what migrations failed, and how often.
    pub failures: BTreeMap<String, u64>,
    /// What did not hold.
    pub faults: Vec<String>,
}

impl Scenario {
    /// All of them.
    pub const ALL: [Scenario; 4] = [
        Scenario::NetworkPartition,
        Scenario::NodeFailure,
        Scenario::StreamKill,
        Scenario::Corruption,
    ];

    /// The name as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Scenario::NetworkPartition => "network-partition",
            Scenario::NodeFailure => "node-failure",
            Scenario::StreamKill => "stream-kill",
            Scenario::Corruption => "corruption",
        }
    }

    /// What is injected, in the plural.
    fn fault(self) -> &'static str {
        match self {
            Scenario::NetworkPartition => "cuts",
            Scenario::NodeFailure => "kills",
            Scenario::StreamKill => "resets",
            Scenario::Corruption => "changed bits",
        }
    }
}

impl Tally {
    /// Counts a migration that failed with this status.
    fn failed(&mut self, status: &Value) {
        let status = status.as_str().unwrap_or_default();
        *self.failures.entry(status.to_owned()).or_default() += 1;
    }

    /// The verdict: a fault that was not done, or that nobody noticed, proves nothing.
    pub fn outcome(&self) -> Outcome {
        match self {
            _ if !self.faults.is_empty() => Outcome::Failed,
            _ if self.rounds == 0 || self.injected == 0 || self.noticed == 0 => Outcome::NotJudged,
            _ if self.pages == 0 => Outcome::NotJudged,
            _ => Outcome::Held,
        }
    }

    /// What was done.
    pub fn injected(&self, scenario: Scenario) -> String {
        format!("{} {} in {} migrations", self.injected, scenario.fault(), self.rounds)
    }

    /// What became of the guest.
    pub fn survived(&self) -> String {
        let mut parts = vec![format!("{} moved", self.moved), format!("{} stayed", self.stayed)];
        if self.died > 0 {
            parts.push(format!("{} died with its node", self.died));
        }
        parts.join(", ")
    }

    /// By what it was judged.
    pub fn evidence(&self) -> String {
        if let Some(first) = self.faults.first() {
            return format!("{} faults; first: {first}", self.faults.len());
        }
        if self.outcome() == Outcome::NotJudged {
            return format!(
                "{} injected, {} noticed by the nodes, {} pages compared",
                self.injected, self.noticed, self.pages
            );
        }
        let mut text = format!(
            "{} times noticed; one owner each time, {} pages compared and equal",
            self.noticed, self.pages
        );
        if self.decided > 0 {
            text += &format!(", {} times by the records", self.decided);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_holds_only_if_something_was_done_noticed_and_survived() {
        let good = Tally { injected: 3, noticed: 2, rounds: 1, pages: 9, ..Tally::default() };
        assert_eq!(good.outcome(), Outcome::Held);
        for lacking in [
            Tally { injected: 0, ..good.clone() },
            Tally { noticed: 0, ..good.clone() },
            Tally { rounds: 0, ..good.clone() },
            Tally { pages: 0, ..good.clone() },
        ] {
            assert_eq!(lacking.outcome(), Outcome::NotJudged, "{lacking:?}");
        }
        let faults = vec!["it runs at both nodes".to_owned()];
        let bad = Tally { faults, ..good.clone() };
        assert_eq!(bad.outcome(), Outcome::Failed);
        assert!(bad.evidence().contains("it runs at both nodes"));
        assert!(good.evidence().contains("9 pages compared and equal"));
    }
}

//! How moves ended, by the phase of the trial in which they began and by their way.

use super::End;
use crate::migration::fault_times::FaultTimes;
use crate::runtime::lock::lock;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// What came of all moves so far; shared by everybody who moves guests.
#[derive(Default)]
pub struct Ledger(Mutex<Book>);

#[derive(Default)]
struct Book {
    phase: u32,
    tallies: BTreeMap<(u32, Way), Tally>,
}

/// From the node at one place to the node at another.
type Way = (usize, usize);

/// Moves of one kind.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Moves that succeeded.
    pub moved: u64,
    /// Moves after which the guest went on where it was.
    pub failed: u64,
    /// Why the first of them failed.
    pub first_failure: Option<String>,
    /// How long guests that moved stood still.
    pub downtime: FaultTimes,
}

impl Tally {
    /// Moves that have ended.
    pub fn ended(&self) -> u64 {
        self.moved + self.failed
    }

    fn add(&mut self, end: &End) {
        if end.is_moved() {
            self.moved += 1;
            return self.downtime.add(end.downtime);
        }
        self.failed += 1;
        self.first_failure.get_or_insert_with(|| format!("{} ({})", end.reason, end.status));
    }

    /// Takes the moves of another tally in.
    pub fn merge(&mut self, other: &Tally) {
        self.moved += other.moved;
        self.failed += other.failed;
        self.first_failure = self.first_failure.take().or_else(|| other.first_failure.clone());
        self.downtime.merge(&other.downtime);
    }
}

impl Ledger {
    /// Begins a phase; gives its number. What begins from now on belongs to it.
    pub fn begin_phase(&self) -> u32 {
        let mut book = lock(&self.0);
        book.phase += 1;
        book.phase
    }

    /// The phase now.
    pub fn phase(&self) -> u32 {
        lock(&self.0).phase
    }

    /// Adds the end of a move that began in this phase.
    pub fn add(&self, phase: u32, (from, to): (usize, usize), end: &End) {
        lock(&self.0).tallies.entry((phase, (from, to))).or_default().add(end);
    }

    /// How many moves of a phase on this way have ended.
    pub fn ended(&self, phase: u32, way: (usize, usize)) -> u64 {
        lock(&self.0).tallies.get(&(phase, way)).map_or(0, Tally::ended)
    }

    /// The moves of a phase, of those ways that are wanted.
    pub fn tally(&self, phase: u32, is_wanted: impl Fn(usize, usize) -> bool) -> Tally {
        let book = lock(&self.0);
        let mut sum = Tally::default();
        for ((_, (from, to)), tally) in book.tallies.range((phase, (0, 0))..(phase + 1, (0, 0))) {
            if is_wanted(*from, *to) {
                sum.merge(tally);
            }
        }
        sum
    }

    /// Every move of a phase.
    pub fn all(&self, phase: u32) -> Tally {
        self.tally(phase, |_, _| true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(status: &str) -> End {
        End { status: status.to_owned(), ..End::default() }
    }

    #[test]
    fn moves_count_in_the_phase_in_which_they_began() {
        let ledger = Ledger::default();
        let (before, way) = (ledger.phase(), (0, 3));
        ledger.add(before, way, &end("DWCP_OK"));
        let after = ledger.begin_phase();
        ledger.add(before, way, &end("DWCP_ERR_CONNECT"));
        ledger.add(after, way, &end("DWCP_OK"));
        ledger.add(after, (3, 0), &end("DWCP_OK"));
        let counts = |tally: Tally| (tally.moved, tally.failed);
        assert_eq!(counts(ledger.all(before)), (1, 1));
        assert_eq!([(0, 3), (3, 0), (0, 4)].map(|way| ledger.ended(after, way)), [1, 1, 0]);
        assert_eq!(counts(ledger.all(after)), (2, 0));
        assert_eq!(counts(ledger.tally(after, |from, _| from == 3)), (1, 0));
        let first = ledger.all(before).first_failure.unwrap();
        assert!(first.contains("DWCP_ERR_CONNECT"), "{first}");
    }
}

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
    failures: Vec<Failure>,
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

/// A move that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// From where.
    pub from: usize,
    /// Where to.
    pub to: usize,
    /// When, in microseconds since 1970.
    pub at_us: u64,
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
        let mut book = lock(&self.0);
        book.tallies.entry((phase, (from, to))).or_default().add(end);
        if !end.is_moved() && book.failures.len() < MAX_FAILURES {
            book.failures.push(Failure { from, to, at_us: end.at_us });
        }
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

    /// The moves that failed, of all phases, in the order in which they ended here.
    pub fn failures(&self) -> Vec<Failure> {
        lock(&self.0).failures.clone()
    }
}

/// A trial in which more fails has its verdict.
const MAX_FAILURES: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    fn end(status: &str, at_us: u64) -> End {
        End { status: status.to_owned(), at_us, ..End::default() }
    }

    #[test]
    fn moves_count_in_the_phase_in_which_they_began() {
        let ledger = Ledger::default();
        let (before, way) = (ledger.phase(), (0, 3));
        ledger.add(before, way, &end("DWCP_OK", 1));
        let after = ledger.begin_phase();
        ledger.add(before, way, &end("DWCP_ERR_CONNECT", 2));
        ledger.add(after, way, &end("DWCP_OK", 3));
        ledger.add(after, (3, 0), &end("DWCP_OK", 4));
        let counts = |tally: Tally| (tally.moved, tally.failed);
        assert_eq!(counts(ledger.all(before)), (1, 1));
        assert_eq!(counts(ledger.all(after)), (2, 0));
        assert_eq!(counts(ledger.tally(after, |from, _| from == 3)), (1, 0));
        assert_eq!(ledger.failures(), [Failure { from: 0, to: 3, at_us: 2 }]);
        let first = ledger.all(before).first_failure.unwrap();
        assert!(first.contains("DWCP_ERR_CONNECT"), "{first}");
    }
}

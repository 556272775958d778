//! The one door through which the flags change: the engine's word, then a line on disk.

use super::audit_log::{AuditLog, Found};
use super::error::RolloutError;
use crate::base::limits::MAX_FLAG_HISTORY;
use crate::rollout::audit::{Entry, Tip};
use crate::rollout::{Change, ChangeAction, FlagSet, Percent, RuleEdit, apply};
use std::collections::VecDeque;
use std::path::Path;

/// Who begins a log.
const NODE: &str = "node";

/// The flags as they were last recorded, and where.
#[derive(Default)]
pub struct Door {
    set: FlagSet,
    tip: Tip,
    /// None: kept in memory only.
    log: Option<AuditLog>,
    history: VecDeque<Entry>,
    is_closed: bool,
}

impl Door {
    /// With what the log of a state directory says; also tells how many bytes of a torn line were cut
    /// off.
    ///
    /// # Errors
    /// The log is not to be believed, or cannot be used.
    pub fn open(state_dir: Option<&Path>) -> Result<(Self, u64), RolloutError> {
        let Some(directory) = state_dir else { return Ok((Self::default(), 0)) };
        let (log, found) = AuditLog::open(directory)?;
        let log = Some(log);
        let Some(Found { replay, history }) = found else {
            return Ok((Self { log, ..Self::default() }, 0));
        };
        let set = replay.set.unwrap_or_default();
        let is_closed = false;
        Ok((Self { set, tip: replay.tip, log, history, is_closed }, replay.torn_bytes))
    }

    /// The flags as they are recorded.
    pub fn set(&self) -> &FlagSet {
        &self.set
    }

    /// Makes a change and records it; gives its entry, or none where nothing has changed.
    ///
    /// # Errors
    /// It is refused, or cannot be recorded; then nothing has changed.
    pub fn pass(&mut self, change: &Change, now_us: u64) -> Result<Option<Entry>, RolloutError> {
        if self.is_closed {
            return Err(RolloutError::Stopped);
        }
        let next = apply(&self.set, change, now_us)?;
        demand_built(&change.action)?;
        if next == self.set {
            return Ok(None);
        }
        let entry = self.record(change, &next, now_us)?;
        self.set = next;
        Ok(Some(entry))
    }

    /// Lets nothing through any more, and lets go of the log, which another node may want although somebody
    /// still holds a decider of this one.
    pub fn close(&mut self) {
        self.log = None;
        self.is_closed = true;
    }

    /// The newest entries, newest first.
    pub fn history(&self, limit: usize) -> Vec<Entry> {
        self.history.iter().rev().take(limit).cloned().collect()
    }

    /// Whether the log on disk is still what was written; says how many changes it holds.
    ///
    /// # Errors
    /// It is not.
    pub fn verify(&self) -> Result<u64, RolloutError> {
        Ok(self.log.as_ref().map_or(Ok(0), |log| log.verify(self.tip))?)
    }

    fn record(
        &mut self,
        change: &Change,
        next: &FlagSet,
        now_us: u64,
    ) -> Result<Entry, RolloutError> {
        let mut begun = None;
        if self.tip.seq == 0 {
            let why = "the first change of the flags";
            begun = Some(Entry::first(&self.set, NODE, why, self.tip, now_us)?);
        }
        let tip = begun.as_ref().map_or(self.tip, Entry::tip);
        let mut entry = Entry::of(change, &self.set, next, tip, now_us)?;
        if let Some(log) = &mut self.log {
            let mut lines = begun.as_ref().map_or(Ok(String::new()), Entry::line)?;
            lines.push_str(&entry.line()?);
            if log.is_full(&lines) {
                let why = "the log before grew too long";
                let first = Entry::first(&self.set, NODE, why, self.tip, now_us)?;
                log.rotate(&first.line()?, first.tip())?;
                self.tip = first.tip();
                entry = Entry::of(change, &self.set, next, self.tip, now_us)?;
                lines = entry.line()?;
                begun = Some(first);
            }
            log.append(&lines, entry.tip())?;
        }
        self.tip = entry.tip();
        begun.into_iter().for_each(|first| self.remember(first));
        self.remember(entry.clone());
        Ok(entry)
    }

    fn remember(&mut self, entry: Entry) {
        if self.history.len() == MAX_FLAG_HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(entry);
    }
}

/// Whoever asks for a flag to be on is told where nothing stands behind it. A configuration may hold it
/// all the same, as that of the upgrade guide does.
fn demand_built(action: &ChangeAction) -> Result<(), RolloutError> {
    let ChangeAction::Edit(edits) = action else { return Ok(()) };
    let enables = |edit: &RuleEdit| {
        edit.enabled.unwrap_or(edit.rollout_percent.is_some_and(|share| share > Percent::ZERO))
    };
    for (flag, edit) in edits {
        if enables(edit) {
            flag.demand_built()?;
        }
        // Nobody would have a flag that waits for such a one.
        edit.prerequisites.iter().flatten().try_for_each(|flag| flag.demand_built())?;
    }
    Ok(())
}

//! Whether an audit log is whole, and the flags that it leads to.

use super::entry::{Entry, EntryHash, Tip, split_hash};
use crate::base::limits::MAX_AUDIT_LINE_BYTES;
use crate::rollout::check::RuleError;
use crate::rollout::set::{FlagSet, MissingFlag, StatePart};
use serde::Deserialize;

/// What a log leads to.
#[derive(Clone, Debug, PartialEq)]
pub struct Replay {
    /// The flags after the last entry; none if there is no entry.
    pub set: Option<FlagSet>,
    /// Where the log ends; the start's tip if there is no entry.
    pub tip: Tip,
    /// How many entries there are.
    pub entries: u64,
    /// The length of all whole lines in bytes.
    pub whole_bytes: u64,
    /// The length of what follows the last line break: an append that a crash cut short.
    pub torn_bytes: u64,
}

/// A log that is not to be believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("audit log, line {line}: {what}")]
pub struct AuditError {
    /// Which line, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub what: AuditFault,
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuditFault {
    /// Over the limit.
    #[error("it is longer than {MAX_AUDIT_LINE_BYTES} bytes")]
    TooLong,
    /// Not an entry.
    #[error("it is no entry: {0}")]
    NotAnEntry(String),
    /// Written by a later version of this library.
    #[error("it has version {0}; this library knows up to {max}", max = Entry::VERSION)]
    Version(u32),
    /// Its hash is another's.
    #[error("it was edited: its hash is {computed}, not {stated} as it says")]
    Edited {
        /// The hash of the line as it is.
        computed: EntryHash,
        /// The hash that it holds.
        stated: EntryHash,
    },
    /// Lines are missing, doubled or out of order.
    #[error("it has entry {found} where entry {expected} belongs")]
    Sequence {
        /// The number that belongs here.
        expected: u64,
        /// The one that is here.
        found: u64,
    },
    /// It follows another line than the one before it.
    #[error("it does not follow what is before it, whose hash is {expected}, but {found}")]
    Chain {
        /// The hash of the line before.
        expected: EntryHash,
        /// The one that it names.
        found: EntryHash,
    },
    /// It says that the flags were otherwise than they were.
    #[error("it changes flags that were otherwise before it")]
    From,
    /// The first line lacks flags.
    #[error("it begins a log, but {0}")]
    Begin(#[from] MissingFlag),
    /// Its flags could not be in force.
    #[error("it leads to flags that cannot be in force: {0}")]
    Rules(#[from] RuleError),
    /// The entry that was last is another one now.
    #[error("entry {} is not the one that was written: its hash was {}", .0.seq, .0.hash)]
    Head(Tip),
    /// The end is gone.
    #[error(
        "the log ends with entry {found}, but entry {expected} was written: its end was cut off"
    )]
    Cut {
        /// The entry that was last.
        expected: u64,
        /// The one that is last now.
        found: u64,
    },
}

/// Takes the lines of a log one by one.
#[derive(Clone, Debug, Default)]
pub struct Verifier {
    start: Option<Tip>,
    head: Option<Tip>,
    tip: Tip,
    set: Option<FlagSet>,
    lines: u64,
    whole_bytes: u64,
}

/// Checks a whole log. `head` is where it is known to have ended once; it may have grown since.
///
/// # Errors
/// [`AuditError`], the first line that is not to be believed. A torn end is none: see
/// [`Replay::torn_bytes`].
pub fn verify(log: &[u8], head: Option<Tip>) -> Result<Replay, AuditError> {
    let mut verifier = Verifier::default().with_head(head);
    let mut rest = log;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        verifier.line(&rest[..end])?;
        rest = &rest[end + 1..];
    }
    verifier.finish(rest.len() as u64)
}

impl Verifier {
    /// A log that must continue another one, which ends there. Without this the first line may say so
    /// of any.
    pub fn after(self, tip: Tip) -> Self {
        Self { start: Some(tip), tip, ..self }
    }

    /// A log that is known to have ended there once.
    pub fn with_head(self, head: Option<Tip>) -> Self {
        Self { head, ..self }
    }

    /// Takes the next line, without its line break, and gives its entry back.
    ///
    /// # Errors
    /// [`AuditError`]; the verifier is of no more use then.
    pub fn line(&mut self, line: &[u8]) -> Result<Entry, AuditError> {
        self.lines += 1;
        let at = |what| AuditError { line: self.lines, what };
        let entry = read(line).map_err(at)?;
        let set = self.follow(&entry).map_err(at)?;
        set.check().map_err(|error| at(error.into()))?;
        if self.head.is_some_and(|head| head.seq == entry.seq && head.hash != entry.hash) {
            return Err(at(AuditFault::Head(self.head.unwrap_or_default())));
        }
        (self.set, self.tip) = (Some(set), entry.tip());
        self.whole_bytes += line.len() as u64 + 1;
        Ok(entry)
    }

    /// The log ends here, `torn_bytes` behind the last line break.
    ///
    /// # Errors
    /// [`AuditError`] for a log that has lost its end.
    pub fn finish(self, torn_bytes: u64) -> Result<Replay, AuditError> {
        let Self { head, tip, set, lines, whole_bytes, .. } = self;
        if let Some(head) = head.filter(|head| head.seq > tip.seq) {
            let what = AuditFault::Cut { expected: head.seq, found: tip.seq };
            return Err(AuditError { line: lines + 1, what });
        }
        Ok(Replay { set, tip, entries: lines, whole_bytes, torn_bytes })
    }

    /// The flags after an entry, if it follows what came before it.
    fn follow(&self, entry: &Entry) -> Result<FlagSet, AuditFault> {
        let is_anchored = self.set.is_some() || self.start.is_some() || entry.seq <= 1;
        let expected = self.tip.seq.saturating_add(1);
        if is_anchored && entry.seq != expected {
            return Err(AuditFault::Sequence { expected, found: entry.seq });
        }
        if is_anchored && entry.previous != self.tip.hash {
            let (expected, found) = (self.tip.hash, entry.previous);
            return Err(AuditFault::Chain { expected, found });
        }
        let Some(set) = &self.set else {
            return if entry.from.is_none() { begin(&entry.to) } else { Err(AuditFault::From) };
        };
        let before = set.part(entry.to.flags.iter().map(|(flag, _)| *flag));
        if entry.from.as_ref() != Some(&before) {
            return Err(AuditFault::From);
        }
        Ok(set.clone().with_part(entry.to.clone()))
    }
}

fn begin(to: &StatePart) -> Result<FlagSet, AuditFault> {
    Ok(FlagSet::try_from(to.clone())?)
}

/// Length, version, hash and shape of one line.
fn read(line: &[u8]) -> Result<Entry, AuditFault> {
    /// What every version has.
    #[derive(Deserialize)]
    struct Any {
        version: u32,
    }
    if line.len() >= MAX_AUDIT_LINE_BYTES {
        return Err(AuditFault::TooLong);
    }
    let malformed = |error: serde_json::Error| AuditFault::NotAnEntry(error.to_string());
    let Any { version } = serde_json::from_slice(line).map_err(malformed)?;
    if version != Entry::VERSION {
        return Err(AuditFault::Version(version));
    }
    let unsealed = || AuditFault::NotAnEntry("it does not end with its hash".to_owned());
    let (sealed, digits) = split_hash(line).ok_or_else(unsealed)?;
    let stated = str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
    let stated: EntryHash = stated.ok_or_else(unsealed)?;
    let computed = EntryHash::of(sealed);
    if computed != stated {
        return Err(AuditFault::Edited { computed, stated });
    }
    Entry::parse(line).map_err(AuditFault::NotAnEntry)
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;

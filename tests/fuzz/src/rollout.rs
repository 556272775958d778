//! Feature flags as files and peers may hand them over: rules, changes, and the audit log.

use dwcp::rollout::audit::{Entry, verify};
use dwcp::rollout::{
    Change, ChangeAction, Flag, FlagRules, FlagSet, Reason, RuleEdit, Snapshot, Unit, apply,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// Rules, edits, whole sets and changes, as JSON: what is read survives being written; what may be put
/// into force is; and every set gives an answer, also one that may not.
pub fn flag_rules(data: &[u8]) {
    read_and_write::<RuleEdit>(data);
    read_and_write::<Change>(data);
    if let Some(set) = read_and_write::<FlagSet>(data) {
        is_decided(&set);
        assert_eq!(is_applied(ChangeAction::Whole(Box::new(set.clone()))), set.check().is_ok());
    }
    if let Some(rules) = read_and_write::<FlagRules>(data) {
        let mut set = FlagSet::default();
        rules.rules.iter().for_each(|(flag, rule)| set.state_mut(*flag).rule = rule.clone());
        is_decided(&set);
        let action = ChangeAction::Rules { rules, configuration: None };
        assert_eq!(is_applied(action), set.check().is_ok());
    }
}

/// A log; if the first byte is odd, its lines get the hashes that fit them, so that what is behind the
/// hashes is met too.
pub fn audit_log(data: &[u8]) {
    let Some((choice, log)) = data.split_first() else { return };
    let log = if choice & 1 == 1 { chained(log) } else { log.to_vec() };
    let Ok(replay) = verify(&log, None) else { return };
    let whole = &log[..replay.whole_bytes as usize];
    assert_eq!(replay.whole_bytes + replay.torn_bytes, log.len() as u64);
    let again = verify(whole, Some(replay.tip)).expect("a log that was good a moment ago");
    assert_eq!((&again.set, again.tip, again.torn_bytes), (&replay.set, replay.tip, 0));
    let lines: Vec<_> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    assert_eq!(lines.len() as u64, replay.entries);
    for line in &lines {
        let entry = Entry::parse(line).expect("an entry that was good a moment ago");
        let written = entry.line().expect("an entry that was read");
        assert_eq!(Entry::parse(written.as_bytes()).as_ref(), Ok(&entry));
    }
    if let Some((last, before)) = lines.split_last() {
        let cut = verify(&before.concat(), Some(replay.tip));
        assert!(cut.is_err(), "nobody misses {} bytes", last.len());
        let set = replay.set.expect("the flags of a log with an entry");
        assert_eq!(set.check(), Ok(()));
        is_decided(&set);
    }
}

fn read_and_write<T: DeserializeOwned + Serialize + PartialEq + Debug>(data: &[u8]) -> Option<T> {
    let value: T = serde_json::from_slice(data).ok()?;
    let written = serde_json::to_vec(&value).expect("what was read can be written");
    assert_eq!(serde_json::from_slice::<T>(&written).ok().as_ref(), Some(&value));
    Some(value)
}

fn is_decided(set: &FlagSet) {
    let snapshot = Snapshot::new(set);
    for flag in Flag::ALL {
        for unit in ["node-1", "node-1|node-2", ""] {
            let decision = snapshot.decide(flag, &Unit::named(unit), true, 1);
            let killed = decision.reason == Reason::KillSwitch;
            assert_eq!(killed, set.killed.is_some());
            assert!(!decision.is_on || set.rule(flag).enabled && flag.is_built());
        }
    }
}

fn is_applied(action: ChangeAction) -> bool {
    let change = Change { who: "ops".into(), why: "drill".into(), evidence: None, action };
    apply(&FlagSet::default(), &change, 1_000_000).is_ok()
}

/// Whole lines with the hashes of each and of the one before in the places where they belong.
fn chained(log: &[u8]) -> Vec<u8> {
    const HASH: &str = ",\"hash\":\"";
    const DIGITS: usize = 64;
    let (mut out, mut previous) = (Vec::new(), "0".repeat(DIGITS));
    for line in log.split_inclusive(|byte| *byte == b'\n') {
        let hash_at = line.len().checked_sub(DIGITS + HASH.len() + 3);
        let Some(hash_at) = hash_at.filter(|at| line[*at..].starts_with(HASH.as_bytes())) else {
            out.extend_from_slice(line);
            continue;
        };
        let mut sealed = line[..hash_at].to_vec();
        if let Some(previous_at) = hash_at.checked_sub(DIGITS + 1) {
            sealed[previous_at..hash_at - 1].copy_from_slice(previous.as_bytes());
        }
        previous = blake3::hash(&sealed).to_hex().to_string();
        out.extend([&sealed[..], HASH.as_bytes(), previous.as_bytes(), b"\"}\n"].concat());
    }
    out
}

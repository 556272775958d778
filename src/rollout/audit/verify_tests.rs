//! Logs as they are written, and what is found of all that can be done to them.

use super::*;
use crate::rollout::change::{Change, ChangeAction, apply};
use crate::rollout::edit::RuleEdit;
use crate::rollout::flag::Flag;
use crate::rollout::percent::Percent;
use crate::wire::v1::json::Json;

/// A log with its flags as they should be at its end.
struct Log {
    lines: Vec<String>,
    set: FlagSet,
    tip: Tip,
}

impl Log {
    fn new(tip: Tip) -> Self {
        let set = FlagSet::default();
        let first = Entry::first(&set, "node-1", "start", tip, 5).unwrap();
        Self { lines: vec![first.line().unwrap()], set, tip: first.tip() }
    }

    fn change(&mut self, action: ChangeAction) {
        let evidence = Json::of("evidence", &0.1).ok();
        let change = Change { who: "ops".into(), why: "a \"drill\" ü".into(), evidence, action };
        let at_us = 7 * self.tip.seq;
        let next = apply(&self.set, &change, at_us).unwrap();
        let entry = Entry::of(&change, &self.set, &next, self.tip, at_us).unwrap();
        self.lines.push(entry.line().unwrap());
        (self.set, self.tip) = (next, entry.tip());
    }

    fn bytes(&self) -> Vec<u8> {
        self.lines.concat().into_bytes()
    }
}

fn log() -> Log {
    let mut log = Log::new(Tip::default());
    let percent: Percent = "12.3456".parse().unwrap();
    log.change(ChangeAction::Edit(vec![(Flag::HybridMode, RuleEdit::percent(percent))]));
    log.change(ChangeAction::Latch(Flag::HybridMode));
    log.change(ChangeAction::Kill);
    log.change(ChangeAction::ClearLatch(Flag::HybridMode));
    log
}

fn fault(bytes: &[u8]) -> String {
    verify(bytes, None).unwrap_err().to_string()
}

/// The line with a hash that fits it.
fn resealed(line: &str) -> String {
    let (sealed, _) = split_hash(line.trim_end().as_bytes()).unwrap();
    let hash = EntryHash::of(sealed);
    format!("{},\"hash\":\"{hash}\"}}\n", str::from_utf8(sealed).unwrap())
}

#[test]
fn a_log_leads_to_its_flags() {
    let log = log();
    let replay = verify(&log.bytes(), Some(log.tip)).unwrap();
    let whole_bytes = log.bytes().len() as u64;
    let expected =
        Replay { set: Some(log.set), tip: log.tip, entries: 5, whole_bytes, torn_bytes: 0 };
    assert_eq!(replay, expected);
    let entry = Entry::parse(log.lines[1].as_bytes()).unwrap();
    assert_eq!((entry.seq, entry.change.as_str()), (2, "hybrid_mode: rollout_percent 12.3456"));
    assert_eq!(entry.line().unwrap(), log.lines[1]);
    let empty = verify(b"", None).unwrap();
    assert_eq!((empty.set, empty.tip, empty.entries), (None, Tip::default(), 0));
}

#[test]
fn no_bit_can_be_changed() {
    let bytes = log().bytes();
    for at in (0..bytes.len()).step_by(3) {
        let mut edited = bytes.clone();
        edited[at] ^= 1 << (at % 7);
        let told = verify(&edited, None);
        // A line break that is gone at the very end leaves a torn line.
        let is_torn = told.as_ref().is_ok_and(|replay| replay.torn_bytes > 0);
        assert!(told.is_err() || is_torn, "byte {at}");
    }
}

#[test]
fn no_line_can_be_taken_out_doubled_or_moved() {
    let log = log();
    for line in 0..log.lines.len() - 1 {
        let mut lines = log.lines.clone();
        lines.remove(line);
        let error = fault(lines.concat().as_bytes());
        assert!(error.starts_with(&format!("audit log, line {}: ", line + 1)), "{error}");
        let mut lines = log.lines.clone();
        lines.insert(line, lines[line].clone());
        assert!(fault(lines.concat().as_bytes()).contains(&format!("line {}: ", line + 2)));
        let mut lines = log.lines.clone();
        lines.swap(line, line + 1);
        assert!(fault(lines.concat().as_bytes()).contains(&format!("line {}: ", line + 1)));
    }
}

#[test]
fn an_edit_with_a_new_hash_breaks_the_chain() {
    let log = log();
    let mut lines = log.lines.clone();
    lines[1] = resealed(&lines[1].replace("\"who\":\"ops\"", "\"who\":\"eve\""));
    let error = fault(lines.concat().as_bytes());
    assert!(error.starts_with("audit log, line 3: it does not follow"), "{error}");
    // The last line has none behind it; the tip that was kept elsewhere tells.
    let mut lines = log.lines.clone();
    lines[4] = resealed(&lines[4].replace("\"who\":\"ops\"", "\"who\":\"eve\""));
    assert!(verify(lines.concat().as_bytes(), None).is_ok());
    let error = verify(lines.concat().as_bytes(), Some(log.tip)).unwrap_err().to_string();
    assert!(error.contains("line 5: entry 5 is not the one that was written"), "{error}");
}

#[test]
fn a_lost_end_is_found_by_the_tip_and_a_torn_one_is_told_apart() {
    let log = log();
    let bytes = log.bytes();
    let last = bytes.len() - log.lines[4].len();
    for cut in last + 1..bytes.len() {
        let replay = verify(&bytes[..cut], None).unwrap();
        assert_eq!((replay.entries, replay.whole_bytes), (4, last as u64));
        assert_eq!(replay.torn_bytes, (cut - last) as u64);
    }
    let error = verify(&bytes[..last], Some(log.tip)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "audit log, line 5: the log ends with entry 4, but entry 5 was written: its end was cut off"
    );
    assert!(verify(b"", Some(log.tip)).unwrap_err().to_string().contains("its end was cut off"));
    // A log that has grown since is no fault.
    let tip = Entry::parse(log.lines[2].as_bytes()).unwrap().tip();
    assert!(verify(&bytes, Some(tip)).is_ok());
}

#[test]
fn a_log_continues_another() {
    let first = log();
    let mut second = Log::new(first.tip);
    second.change(ChangeAction::DisableAll);
    let (bytes, tip) = (second.bytes(), second.tip);
    assert_eq!(verify(&bytes, Some(tip)).unwrap().tip.seq, 7);
    let after = |start| {
        let mut verifier = Verifier::default().after(start);
        second.lines.iter().try_for_each(|line| verifier.line(line.trim_end().as_bytes()).map(drop))
    };
    assert_eq!(after(first.tip), Ok(()));
    let other = Tip { seq: 5, ..Tip::default() };
    assert!(matches!(after(other).unwrap_err().what, AuditFault::Chain { .. }));
    let earlier = Tip { seq: 4, ..first.tip };
    assert_eq!(
        after(earlier).unwrap_err().to_string(),
        "audit log, line 1: it has entry 6 where entry 5 belongs"
    );
}

#[test]
fn what_an_entry_says_must_hold() {
    let log = log();
    let with = |line: usize, from: &str, to: &str| {
        assert!(log.lines[line].contains(from), "{}", log.lines[line]);
        let changed = resealed(&log.lines[line].replacen(from, to, 1));
        fault([&log.lines[..line], &[changed]].concat().concat().as_bytes())
    };
    assert!(
        with(1, "\"rollout_percent\":100", "\"rollout_percent\":99").contains("otherwise before")
    );
    assert!(with(1, "\"rollout_percent\":12.3456", "\"rollout_percent\":-1").contains("no entry"));
    assert!(with(1, "\"seq\":2", "\"seq\":3").contains("entry 3 where entry 2 belongs"));
    assert!(with(1, "\"version\":1", "\"version\":2").contains("has version 2"));
    assert!(with(1, "\"who\"", "\"whom\"").contains("unknown field `whom`"));
    assert!(with(1, "\"owner\":\"\"", "\"owner\":\"\\u0007\"").contains("otherwise before"));
    assert!(with(0, "\"owner\":\"\"", "\"owner\":\"\\u0007\"").contains("cannot be in force"));
    assert!(with(0, "\"crdt_sync\"", "\"crdt\"").contains("no feature flag \"crdt\""));
    let entry = Entry::parse(log.lines[1].as_bytes()).unwrap();
    let orphan = Entry { seq: 1, previous: EntryHash::default(), ..entry };
    assert!(fault(resealed(&orphan.line().unwrap()).as_bytes()).contains("otherwise before"));
    let part = Entry { from: None, ..orphan };
    assert!(fault(resealed(&part.line().unwrap()).as_bytes()).contains("is missing from"));
}

#[test]
fn hostile_lines_are_refused_without_harm() {
    let deep = "[".repeat(100_000);
    for line in [
        "{}",
        "null",
        "",
        "\u{0}",
        "{\"version\":1}",
        "{\"version\":-1}",
        &deep,
        "{\"version\":1e99}",
    ] {
        assert!(fault(format!("{line}\n").as_bytes()).contains("line 1: it is no entry"));
    }
    let line = "{\"version\":4294967295}";
    assert!(fault(format!("{line}\n").as_bytes()).contains("knows up to 1"));
    let huge = [&vec![b' '; MAX_AUDIT_LINE_BYTES][..], b"\n"].concat();
    assert_eq!(verify(&huge, None).unwrap_err().what, AuditFault::TooLong);
    assert!(verify(&[0xff; 100], None).is_ok_and(|replay| replay.torn_bytes == 100));
}

#[test]
fn the_largest_set_still_fits_a_line() {
    use crate::base::limits::{MAX_FLAG_LIST_NAMES, MAX_UNIT_BYTES};
    let full = |letter: &str| {
        let name = |number| format!("{number:03}{}", letter.repeat(MAX_UNIT_BYTES - 3));
        (0..MAX_FLAG_LIST_NAMES).map(name).collect::<Vec<_>>()
    };
    let mut log = Log::new(Tip::default());
    let mut set = FlagSet::default();
    for flag in Flag::ALL {
        let rule = &mut set.state_mut(flag).rule;
        (rule.allow_list, rule.deny_list) = (full("\""), full("\\"));
    }
    log.change(ChangeAction::Whole(Box::new(set)));
    log.change(ChangeAction::DisableAll);
    assert!(log.lines[2].len() < MAX_AUDIT_LINE_BYTES);
    assert_eq!(verify(&log.bytes(), Some(log.tip)).unwrap().set, Some(log.set));
}

//! The door, what it leaves on disk, and who is told what.

use super::*;
use crate::base::limits::MAX_AUDIT_BYTES;
use crate::rollout::{FlagRule, FlagRules, Percent, RuleEdit};
use std::fs;
use std::io::Write;
use std::sync::atomic::AtomicUsize;

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("dwcp-flags-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn open(&self) -> Result<Arc<Rollout>, RolloutError> {
        Rollout::open("a", Some(&self.0), &RolloutOptions::default(), Arc::default())
    }

    fn refusal(&self) -> String {
        self.open().err().unwrap().to_string()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.0.join("rollout.log")).unwrap()
    }

    fn write(&self, text: &str) {
        fs::write(self.0.join("rollout.log"), text).unwrap();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn percent(flag: Flag, percent: u8) -> Change {
    let edit = RuleEdit::percent(Percent::whole(percent));
    change("test", "because", ChangeAction::Edit(vec![(flag, edit)]))
}

fn events(rollout: &Rollout) -> Vec<EventKind> {
    rollout.journal.after(0).into_iter().map(|event| event.kind).collect()
}

#[test]
fn changes_are_on_disk_and_come_back() {
    let scratch = Scratch::new("back");
    let rollout = scratch.open().unwrap();
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 0, "nothing before the first change");
    assert_eq!(rollout.set(), FlagSet::default());
    rollout.change(&percent(Flag::HybridMode, 10)).unwrap();
    rollout.change(&change("guard", "harm", ChangeAction::Latch(Flag::MlCompression))).unwrap();
    // What changes nothing is no entry.
    rollout.change(&percent(Flag::HybridMode, 10)).unwrap();
    let (set, history) = (rollout.set(), rollout.history(9));
    assert_eq!(history.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [3, 2, 1]);
    drop(rollout);
    let again = scratch.open().unwrap();
    assert_eq!((again.set(), again.history(9)), (set, history));
    assert!(!again.is_on_for(Flag::MlCompression, "b:1"), "a rollback survives a restart");
    again.change(&change("me", "fixed", ChangeAction::ClearLatch(Flag::MlCompression))).unwrap();
    assert!(again.is_on_for(Flag::MlCompression, "b:1"));
    assert_eq!(scratch.log().lines().count(), 4);
}

#[test]
fn a_line_that_a_crash_tore_is_cut_off_and_told_of() {
    let scratch = Scratch::new("torn");
    let rollout = scratch.open().unwrap();
    rollout.change(&percent(Flag::HybridMode, 10)).unwrap();
    let set = rollout.set();
    drop(rollout);
    let whole = scratch.log();
    let mut file = fs::OpenOptions::new().append(true).open(scratch.0.join("rollout.log")).unwrap();
    file.write_all(b"{\"version\":1,\"seq\":3").unwrap();
    drop(file);
    let again = scratch.open().unwrap();
    assert_eq!(again.set(), set);
    assert_eq!(scratch.log(), whole);
    assert!(matches!(&events(&again)[0], EventKind::Notice { text } if text.contains("20 bytes")));
    again.change(&percent(Flag::HybridMode, 50)).unwrap();
    drop(again);
    assert_eq!(
        scratch.open().unwrap().set().rule(Flag::HybridMode).rollout_percent,
        Percent::whole(50)
    );
}

#[test]
fn a_crash_before_the_head_was_written_costs_nothing() {
    let scratch = Scratch::new("head");
    let rollout = scratch.open().unwrap();
    rollout.change(&percent(Flag::HybridMode, 10)).unwrap();
    let head = fs::read(scratch.0.join("rollout.head")).unwrap();
    rollout.change(&percent(Flag::HybridMode, 20)).unwrap();
    drop(rollout);
    fs::write(scratch.0.join("rollout.head"), &head).unwrap();
    assert_eq!(
        scratch.open().unwrap().set().rule(Flag::HybridMode).rollout_percent,
        Percent::whole(20)
    );
    // The very first change makes two lines.
    fs::remove_file(scratch.0.join("rollout.head")).unwrap();
    assert!(scratch.refusal().contains("its head rollout.head is gone"));
    let two: String = scratch.log().split_inclusive('\n').take(2).collect();
    scratch.write(&two);
    assert_eq!(
        scratch.open().unwrap().set().rule(Flag::HybridMode).rollout_percent,
        Percent::whole(10)
    );
}

#[test]
fn a_log_that_was_touched_is_refused_with_its_line() {
    let scratch = Scratch::new("touched");
    let rollout = scratch.open().unwrap();
    for share in [10, 20, 30] {
        rollout.change(&percent(Flag::HybridMode, share)).unwrap();
    }
    drop(rollout);
    let log = scratch.log();
    let edited = log.replacen("because", "becauze", 1);
    let first: String = log.split_inclusive('\n').take(2).collect();
    let lines: Vec<&str> = log.split_inclusive('\n').collect();
    let gap = [lines[0], lines[2], lines[3]].concat();
    let swapped = [lines[0], lines[2], lines[1], lines[3]].concat();
    for (text, what) in [
        (edited.as_str(), "line 2: it was edited"),
        (&first, "line 3: the log ends with entry 2, but entry 4 was written"),
        ("", "line 1: the log ends with entry 0, but entry 4 was written"),
        (&gap, "line 2: it has entry 3 where entry 2 belongs"),
        (&swapped, "line 2: it has entry 3"),
        ("nonsense\n", "line 1: it is no entry"),
        (&log[..log.len() - 1], "entry 4 was written"),
    ] {
        scratch.write(text);
        let refused = scratch.refusal();
        assert!(refused.contains(what) && refused.contains("rollout.log"), "{what}: {refused}");
        assert_eq!(refused.lines().count(), 1, "{refused}");
    }
    fs::remove_file(scratch.0.join("rollout.log")).unwrap();
    assert!(scratch.refusal().contains("it is gone, but entry 4 was written"));
    scratch.write(&log);
    fs::write(scratch.0.join("rollout.head"), "4 x\n").unwrap();
    assert!(scratch.refusal().contains("rollout.head: it is not a number and a hash"));
    // Whoever takes it all away begins anew, and knows it.
    fs::remove_file(scratch.0.join("rollout.log")).unwrap();
    fs::remove_file(scratch.0.join("rollout.head")).unwrap();
    assert_eq!(scratch.open().unwrap().set(), FlagSet::default());
}

#[test]
fn nothing_is_added_to_a_log_that_somebody_else_has_changed() {
    let scratch = Scratch::new("changed");
    let rollout = scratch.open().unwrap();
    rollout.change(&percent(Flag::HybridMode, 10)).unwrap();
    let (log, set) = (scratch.log(), rollout.set());
    for damaged in [String::new(), format!("{log}junk\n")] {
        scratch.write(&damaged);
        let refused = rollout.change(&percent(Flag::HybridMode, 20)).unwrap_err().to_string();
        assert!(refused.contains("somebody has changed it"), "{refused}");
        assert_eq!((scratch.log(), rollout.set()), (damaged, set.clone()), "nothing was added");
    }
    scratch.write(&log);
    rollout.change(&percent(Flag::HybridMode, 20)).unwrap();
}

#[test]
fn of_a_whole_set_it_is_told_what_is_new() {
    let rollout = Rollout::in_memory("a");
    let mut set = rollout.set();
    set.state_mut(Flag::HybridMode).rule = FlagRule::off();
    set.killed = Some("v1".to_owned());
    rollout.change(&change("test", "import", ChangeAction::Whole(Box::new(set)))).unwrap();
    assert_eq!(rollout.history(1)[0].change, "flags replaced: hybrid_mode, kill switch on");
}

#[test]
fn nobody_is_made_to_wait_for_what_is_not_built() {
    let rollout = Rollout::in_memory("a");
    let edit = RuleEdit { prerequisites: Some(vec![Flag::CrdtSync]), ..RuleEdit::default() };
    let edit = change("test", "because", ChangeAction::Edit(vec![(Flag::HybridMode, edit)]));
    let refused = rollout.change(&edit).unwrap_err();
    assert_eq!(refused.status(), crate::Status::Unsupported);
    assert!(refused.to_string().contains("crdt_sync is not built yet"), "{refused}");
}

#[test]
fn a_second_writer_is_refused() {
    let scratch = Scratch::new("two");
    let (one, other) = (scratch.open().unwrap(), scratch.open().unwrap());
    one.change(&percent(Flag::HybridMode, 10)).unwrap();
    let refused = other.change(&percent(Flag::HybridMode, 20)).unwrap_err();
    assert!(refused.to_string().ends_with("rollout.log is in use by another node"), "{refused}");
    assert_eq!(refused.status(), crate::Status::Busy);
    assert_eq!(other.set(), FlagSet::default(), "the old state is kept");
    assert!(scratch.refusal().contains("is in use by another node"));
    drop(one);
    let refused = other.change(&percent(Flag::HybridMode, 20)).unwrap_err();
    assert!(refused.to_string().contains("in use"), "what the first wrote is not known here");
    assert_eq!(
        scratch.open().unwrap().set().rule(Flag::HybridMode).rollout_percent,
        Percent::whole(10)
    );
}

#[test]
fn a_log_that_grew_too_long_is_begun_anew() {
    let scratch = Scratch::new("long");
    let rollout = scratch.open().unwrap();
    rollout.change(&percent(Flag::HybridMode, 10)).unwrap();
    let (set, tip) = (rollout.set(), rollout.history(1)[0].tip());
    drop(rollout);
    let (mut log, _) = audit_log::AuditLog::open(&scratch.0).unwrap();
    assert!(!log.is_full("x"));
    assert!(log.is_full(&"x".repeat(MAX_AUDIT_BYTES as usize)));
    let first = Entry::first(&set, "node", "too long", tip, 1).unwrap();
    log.rotate(&first.line().unwrap(), first.tip()).unwrap();
    drop(log);
    let again = scratch.open().unwrap();
    assert_eq!(again.set(), set);
    again.change(&percent(Flag::HybridMode, 20)).unwrap();
    assert_eq!(scratch.log().lines().count(), 2);
    let old = fs::read_to_string(scratch.0.join("rollout.log.1")).unwrap();
    assert_eq!(old.lines().count(), 2);
    // A crash between the new log and its head.
    let head = format!("{} {}\n", tip.seq, tip.hash);
    fs::write(scratch.0.join("rollout.head"), head).unwrap();
    drop(again);
    let begun: String = scratch.log().split_inclusive('\n').take(1).collect();
    scratch.write(&begun);
    assert_eq!(scratch.open().unwrap().set(), set);
    let head = format!("{} {}\n", tip.seq, first.tip().hash);
    fs::write(scratch.0.join("rollout.head"), head).unwrap();
    assert!(scratch.refusal().contains("entry 3 does not follow the one that was last"));
}

#[test]
fn refused_changes_leave_everything_as_it_is() {
    let rollout = Rollout::in_memory("a");
    let edit = |flag, edit: RuleEdit| change("me", "why", ChangeAction::Edit(vec![(flag, edit)]));
    let lists = RuleEdit {
        allow_list: Some(vec!["b".into()]),
        deny_list: Some(vec!["b".into()]),
        ..RuleEdit::default()
    };
    let cycle = RuleEdit { prerequisites: Some(vec![Flag::HybridMode]), ..RuleEdit::default() };
    for (change, what) in [
        (edit(Flag::HybridMode, lists), "on allow_list and on deny_list"),
        (edit(Flag::HybridMode, cycle), "go in a circle"),
        (percent(Flag::CrdtSync, 10), "crdt_sync is not built yet"),
        (Change { why: " ".into(), ..percent(Flag::HybridMode, 1) }, "needs a reason"),
        (Change { who: String::new(), ..percent(Flag::HybridMode, 1) }, "needs a name"),
        (change("me", "why", ChangeAction::ClearLatch(Flag::HybridMode)), "is not rolled back"),
        (change("me", "why", ChangeAction::LiftKill), "the kill switch is not on"),
    ] {
        let refused = rollout.change(&change).unwrap_err().to_string();
        assert!(refused.contains(what), "{refused}");
    }
    assert_eq!((rollout.set(), rollout.history(9).len()), (FlagSet::default(), 0));
    // A configuration may hold what is not built yet; it stays off.
    let rules = FlagRules { rules: vec![(Flag::CrdtSync, FlagRule::on())] };
    let action = ChangeAction::Rules { rules, configuration: None };
    rollout.change(&change("configuration", "edited", action)).unwrap();
    let decision = rollout.decide(Flag::CrdtSync, &Unit::named("group"));
    assert_eq!(decision.reason, Reason::NotBuilt);
}

#[test]
fn listeners_and_deciders_hear_of_every_change() {
    let rollout = Rollout::in_memory("a");
    let told = Arc::new(AtomicUsize::new(0));
    let counted = told.clone();
    rollout.on_change(Arc::new(move || {
        counted.fetch_add(1, Ordering::SeqCst);
    }));
    let unit = Unit::pair("a", "b");
    let of_unit = Decider::for_unit(rollout.clone(), Flag::HybridMode, unit.into());
    let of_peer = Decider::for_peer(rollout.clone(), Flag::HybridMode, "b:1");
    assert!(of_unit.is_on() && of_peer.is_on());
    rollout.change(&percent(Flag::HybridMode, 0)).unwrap();
    assert!(!of_unit.is_on() && !of_peer.is_on());
    assert_eq!(told.load(Ordering::SeqCst), 1);
    let deny = RuleEdit { deny_list: Some(vec!["b".into()]), ..RuleEdit::percent(Percent::FULL) };
    let action = ChangeAction::Edit(vec![(Flag::HybridMode, deny)]);
    rollout.change(&change("me", "why", action)).unwrap();
    assert!(!of_unit.is_on());
    assert!(of_peer.is_on(), "nobody has said yet who answers there");
    rollout.heard("b:1", "b", 0);
    assert_eq!(of_peer.decision().reason, Reason::Denied);
}

#[test]
fn both_ends_must_take_part() {
    let (source, destination) = (Rollout::in_memory("a"), Rollout::in_memory("b"));
    let all = bit(Flag::HybridMode) | bit(Flag::MlCompression) | bit(Flag::InternetOptimization);
    assert_eq!(source.wishes("b:1"), all);
    assert_eq!(destination.answer("a", all), all);
    destination.change(&percent(Flag::MlCompression, 0)).unwrap();
    let agreed = destination.answer("a", all);
    assert_eq!(agreed, all & !bit(Flag::MlCompression));
    source.heard("b:1", "b", all & !agreed);
    let why = |flag| source.decide_for(flag, "b:1").reason;
    assert_eq!(why(Flag::MlCompression), Reason::PeerCannot);
    assert!(why(Flag::HybridMode).is_on());
    assert_eq!(source.wishes("b:1"), all, "it is asked for again with each connection");
    destination.set_kill_switch("test", Some("drill")).unwrap();
    assert_eq!(destination.answer("a", all), 0);
    source.heard("b:1", "b", 0);
    assert!(source.is_on_for(Flag::MlCompression, "b:1"));
}

#[test]
fn of_known_members_a_percentage_is_a_number() {
    let names: Vec<String> = (0..20).map(|node| format!("node-{node}")).collect();
    let is_on = |share, seed| {
        let with_it = names.iter().filter(|name| {
            let rollout = Rollout::in_memory(name);
            rollout.set_members(&names).unwrap();
            let edit = RuleEdit { seed: Some(seed), ..RuleEdit::percent(Percent::whole(share)) };
            let action = ChangeAction::Edit(vec![(Flag::HybridMode, edit)]);
            rollout.change(&change("me", "why", action)).unwrap();
            let on = rollout.is_on_for(Flag::HybridMode, "peer:1");
            assert_eq!(on, rollout.is_on_for(Flag::HybridMode, "other:1"), "the node decides");
            on
        });
        with_it.count()
    };
    for seed in 0..5 {
        assert_eq!([0, 10, 11, 50, 100].map(|share| is_on(share, seed)), [0, 2, 3, 10, 20]);
    }
}

#[test]
fn the_kill_switch_holds_whatever_holds_it() {
    let scratch = Scratch::new("kill");
    let rollout = scratch.open().unwrap();
    let decider = Decider::for_peer(rollout.clone(), Flag::HybridMode, "b:1");
    let file = scratch.0.join("kill-switch");
    fs::write(&file, "").unwrap();
    rollout.look_at_kill_switch();
    assert!(!decider.is_on());
    assert!(rollout.set().killed.unwrap().starts_with("file /"));
    let refused = rollout.set_kill_switch("me", None).unwrap_err().to_string();
    assert!(refused.contains("is held by file"), "{refused}");
    // A call holds longer than the file.
    rollout.set_kill_switch("me", Some("drill")).unwrap();
    fs::remove_file(&file).unwrap();
    rollout.look_at_kill_switch();
    assert_eq!(rollout.set().killed.as_deref(), Some("call: drill"));
    drop((decider, rollout));
    let again = scratch.open().unwrap();
    assert_eq!(again.decide_for(Flag::HybridMode, "b:1").reason, Reason::KillSwitch);
    again.set_kill_switch("me", None).unwrap();
    assert!(again.is_on_for(Flag::HybridMode, "b:1"));
    fs::write(&file, "").unwrap();
    again.look_at_kill_switch();
    drop(again);
    fs::remove_file(&file).unwrap();
    let last = scratch.open().unwrap();
    assert_eq!(last.set().killed, None, "the file went while nobody looked");
    let changes: Vec<_> = last.history(2).into_iter().map(|entry| entry.change).collect();
    assert_eq!(changes, ["kill switch off", "kill switch on"]);
}

#[test]
fn a_kill_that_cannot_be_written_down_holds_all_the_same() {
    let scratch = Scratch::new("kill-disk");
    let rollout = scratch.open().unwrap();
    fs::remove_dir_all(&scratch.0).unwrap();
    assert!(
        rollout
            .change(&percent(Flag::HybridMode, 1))
            .unwrap_err()
            .to_string()
            .contains("cannot open")
    );
    assert!(rollout.is_on_for(Flag::HybridMode, "x:1"));
    rollout.set_kill_switch("me", Some("now")).unwrap();
    assert_eq!(rollout.set().killed.as_deref(), Some("call: now"));
    assert!(!rollout.is_on_for(Flag::HybridMode, "x:1"));
    let told = events(&rollout);
    assert!(matches!(&told[..], [EventKind::Notice { text }] if text.contains("not written down")));
    // It is once it can be.
    fs::create_dir_all(&scratch.0).unwrap();
    rollout.watch.retry_at(crate::base::Time(0));
    rollout.look_at_kill_switch();
    assert!(scratch.log().contains("call: now"));
    assert!(lock(&rollout.published).emergency.is_none());
    rollout.set_kill_switch("me", None).unwrap();
    assert!(rollout.is_on_for(Flag::HybridMode, "x:1"));
}

#[test]
fn a_kill_is_written_down_with_the_next_change_and_at_the_end() {
    for is_changed in [true, false] {
        let scratch = Scratch::new("kill-later");
        let rollout = scratch.open().unwrap();
        fs::remove_dir_all(&scratch.0).unwrap();
        rollout.set_kill_switch("me", Some("now")).unwrap();
        assert!(!rollout.is_recorded());
        fs::create_dir_all(&scratch.0).unwrap();
        if is_changed {
            rollout.change(&percent(Flag::HybridMode, 10)).unwrap();
            assert!(rollout.is_recorded());
        }
        rollout.stop();
        drop(rollout);
        assert_eq!(scratch.open().unwrap().set().killed.as_deref(), Some("call: now"));
    }
}

#[test]
fn a_link_that_leads_nowhere_is_a_kill_switch_too() {
    let scratch = Scratch::new("kill-link");
    let rollout = scratch.open().unwrap();
    let file = scratch.0.join("kill-switch");
    for target in ["/nowhere/at/all", "kill-switch"] {
        std::os::unix::fs::symlink(target, &file).unwrap();
        rollout.look_at_kill_switch();
        assert!(rollout.set().killed.is_some(), "{target}");
        fs::remove_file(&file).unwrap();
        rollout.look_at_kill_switch();
        assert_eq!(rollout.set().killed, None);
    }
}

#[test]
fn a_kill_that_was_never_written_down_is_taken_back_by_a_call() {
    let scratch = Scratch::new("kill-never");
    let rollout = scratch.open().unwrap();
    fs::remove_dir_all(&scratch.0).unwrap();
    rollout.set_kill_switch("me", Some("now")).unwrap();
    rollout.set_kill_switch("me", None).unwrap();
    assert!(rollout.is_on_for(Flag::HybridMode, "x:1"));
}

#[test]
fn a_configuration_counts_only_where_it_was_edited() {
    let scratch = Scratch::new("configuration");
    let rules = |hybrid: u8, learned: u8| {
        let of = |share| FlagRule { rollout_percent: Percent::whole(share), ..FlagRule::on() };
        let mut rules = FlagRules::of(&FlagSet::default());
        rules.rules[0].1 = of(hybrid);
        rules.rules[1].1 = of(learned);
        rules
    };
    let shares = |rollout: &Rollout| {
        let set = rollout.set();
        [Flag::HybridMode, Flag::MlCompression].map(|flag| set.rule(flag).rollout_percent.to_f64())
    };
    let rollout = scratch.open().unwrap();
    rollout.configure(&FlagRules::of(&FlagSet::default())).unwrap();
    assert!(rollout.history(1).is_empty(), "nobody has configured anything");
    rollout.configure(&rules(10, 20)).unwrap();
    assert_eq!(shares(&rollout), [10.0, 20.0]);
    rollout.change(&percent(Flag::HybridMode, 70)).unwrap();
    rollout.configure(&rules(10, 20)).unwrap();
    drop(rollout);
    let again = scratch.open().unwrap();
    again.configure(&rules(10, 20)).unwrap();
    assert_eq!(shares(&again), [70.0, 20.0], "what was set since then holds");
    again.configure(&rules(10, 30)).unwrap();
    assert_eq!(shares(&again), [70.0, 30.0]);
    again.configure(&rules(15, 30)).unwrap();
    assert_eq!(shares(&again), [15.0, 30.0]);
}

#[test]
fn an_expiry_takes_hold_when_its_time_has_come() {
    let rollout = Rollout::in_memory("a");
    let decider = Decider::for_peer(rollout.clone(), Flag::HybridMode, "b:1");
    let expire = |at| {
        let edit = RuleEdit { expires_s: Some(at), ..RuleEdit::default() };
        change("me", "why", ChangeAction::Edit(vec![(Flag::HybridMode, edit)]))
    };
    rollout.change(&expire(Some(now_s() + 1000))).unwrap();
    assert!(decider.is_on());
    // As if the time had come between two looks: the set is the same, only the clock is another.
    lock(&rollout.published).set.state_mut(Flag::HybridMode).rule.expires_s = Some(now_s());
    rollout.look_at_time();
    assert_eq!(decider.decision().is_on, decider.is_on());
    assert!(!decider.is_on());
}

/// Peers of a node, each by an address of its own.
fn peers() -> Vec<String> {
    (0..60).map(|host| format!("10.0.0.{host}:4040")).collect()
}

#[test]
fn requests_that_fail_with_the_flag_take_it_back_for_good() {
    use crate::rollout::guard::Measured;
    let scratch = Scratch::new("guards");
    let rollout = scratch.open().unwrap();
    let request = |peer: &String, is_failed| {
        rollout.measured(peer, Measured::Request { is_failed });
    };
    // On everywhere from the start, it is no rollout, and nothing is counted.
    (0..50).for_each(|_| peers().iter().for_each(|peer| request(peer, true)));
    rollout.look_at_guards();
    assert_eq!(rollout.set(), FlagSet::default());
    rollout.change(&percent(Flag::MlCompression, 0)).unwrap();
    rollout.change(&percent(Flag::MlCompression, 50)).unwrap();
    let (with_it, without): (Vec<_>, Vec<_>) =
        peers().into_iter().partition(|peer| rollout.is_on_for(Flag::MlCompression, peer));
    assert!(with_it.len() > 15 && without.len() > 15);
    // Healthy, it stays.
    for _ in 0..20 {
        peers().iter().for_each(|peer| request(peer, false));
        rollout.look_at_guards();
    }
    assert!(rollout.set().state(Flag::MlCompression).latch.is_none());
    for round in 0..200 {
        with_it.iter().enumerate().for_each(|(at, peer)| request(peer, (round + at) % 5 == 0));
        without.iter().for_each(|peer| request(peer, false));
        rollout.look_at_guards();
    }
    let set = rollout.set();
    let latch = set.state(Flag::MlCompression).latch.clone().unwrap();
    assert!(latch.evidence.is_some() && !latch.reason.is_empty());
    assert!(set.state(Flag::HybridMode).latch.is_none(), "others are not blamed");
    assert!(with_it.iter().all(|peer| !rollout.is_on_for(Flag::MlCompression, peer)));
    let told = events(&rollout).into_iter().filter_map(|kind| match kind {
        EventKind::FlagRolledBack { flag, who, evidence, .. } => Some((flag, who, evidence)),
        _ => None,
    });
    let told: Vec<_> = told.collect();
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].0, told[0].1.as_str()), ("ml_compression", "guard"));
    let evidence = serde_json::to_value(&told[0].2).unwrap();
    assert_eq!(
        (&evidence["flag"], &evidence["metric"]),
        (&"ml_compression".into(), &"error_rate".into())
    );
    let entry = &rollout.history(1)[0];
    assert_eq!((entry.who.as_str(), entry.evidence.is_some()), ("guard", true));
    // It stays so over a restart, whatever percentage is set, until it is cleared.
    drop(rollout);
    let again = scratch.open().unwrap();
    again.change(&percent(Flag::MlCompression, 100)).unwrap();
    assert!(!again.is_on_for(Flag::MlCompression, &peers()[0]));
    again.change(&change("me", "fixed", ChangeAction::ClearLatch(Flag::MlCompression))).unwrap();
    assert!(again.is_on_for(Flag::MlCompression, &peers()[0]));
}

#[test]
fn a_rollback_that_cannot_be_written_down_holds_all_the_same() {
    use crate::rollout::guard::Measured;
    let scratch = Scratch::new("guards-disk");
    let rollout = scratch.open().unwrap();
    rollout.change(&percent(Flag::MlCompression, 0)).unwrap();
    rollout.change(&percent(Flag::MlCompression, 50)).unwrap();
    fs::remove_dir_all(&scratch.0).unwrap();
    let is_off = || peers().iter().all(|peer| !rollout.is_on_for(Flag::MlCompression, peer));
    for _ in 0..200 {
        for peer in &peers() {
            let is_failed = rollout.is_on_for(Flag::MlCompression, peer);
            rollout.measured(peer, Measured::Request { is_failed });
        }
        rollout.look_at_guards();
    }
    assert!(is_off(), "it does harm, so it is off");
    assert_eq!(rollout.history(1)[0].change, "ml_compression: rollout_percent 50");
    fs::create_dir_all(&scratch.0).unwrap();
    rollout.look_at_guards();
    assert!(is_off());
}

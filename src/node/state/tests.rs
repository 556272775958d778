//! The document: whatever is written comes back, and every way to be wrong has its sentence.

use super::*;
use crate::base::limits::MAX_STATE_BYTES;
use crate::rollout::audit::Tip;
use crate::rollout::{Flag, FlagRule, Latch, Percent, Schedule};
use crate::wire::v1::flags::Flags;
use crate::wire::v1::json::Json;

/// A state with something of everything, drawn from `seed`.
pub(crate) fn drawn(seed: u64) -> State {
    let mut random = fastrand::Rng::with_seed(seed);
    let random = &mut random;
    let flags = flags(random);
    let guest = |name, role| Guest { name, role };
    let sides = [Side::Source, Side::Destination];
    let mut state = State {
        origin: Origin { node: "node-1".into(), library: "0.1.0".into(), at_us: random.u64(..) },
        audit: AuditTail { left_out: random.u64(..9), entries: log(&flags, random.usize(..4)) },
        flags,
        settings: random.bool().then(|| {
            let setting = |key| Setting { key: format!("amst.key_{key}"), value: word(random) };
            (0..5).map(setting).collect()
        }),
        forced_mode: random.choice(Mode::ALL),
        peers: (0..random.u16(..20))
            .map(|port| Peer {
                peer: format!("10.0.0.1:{}", port + 1000),
                forced: random.choice(Mode::ALL).filter(|_| random.bool()),
            })
            .collect(),
        records: (0..random.u8(..9)).map(|number| record(number, random)).collect(),
        guests: (0..random.u8(..9))
            .map(|number| guest(format!("vm{number}"), sides[usize::from(number % 2)]))
            .collect(),
    };
    state.sort();
    state
}

fn word(random: &mut fastrand::Rng) -> String {
    let letters = ['a', 'Z', '0', '"', '\\', '<', 'ä', '€', '🦀', ' ', '|', ':', '\u{2028}'];
    (0..random.usize(1..12)).filter_map(|_| random.choice(letters)).collect()
}

fn flags(random: &mut fastrand::Rng) -> FlagSet {
    let mut set = FlagSet::all_off();
    for flag in Flag::ALL {
        let names = |random: &mut fastrand::Rng, kind: &str| {
            (0..random.u8(..4)).map(|number| format!("{kind}-{number}")).collect()
        };
        let rule = FlagRule {
            enabled: random.bool(),
            rollout_percent: Percent::from_parts(random.u32(..=Percent::PARTS)).unwrap(),
            allow_list: names(random, "canary"),
            deny_list: names(random, "old"),
            seed: random.u64(..),
            prerequisites: if flag == Flag::MlCompression {
                vec![Flag::HybridMode]
            } else {
                vec![]
            },
            schedule: random
                .bool()
                .then(|| Schedule::guide(flag).started_at(random.u64(..4_000_000_000))),
            owner: word(random),
            expires_s: random.bool().then(|| random.u64(..4_000_000_000)),
        };
        set.state_mut(flag).rule = rule;
        set.state_mut(flag).latch = random.bool().then(|| Latch {
            since_us: random.u64(..),
            reason: word(random),
            evidence: Some(
                Json::parse("evidence", b"{\"rate\": 0.05, \"why\": \"<5 %\"}").unwrap(),
            ),
        });
    }
    set.killed = random.bool().then(|| format!("call: {}", word(random)));
    set
}

fn log(set: &FlagSet, more: usize) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for number in 0..more {
        let tip = entries.last().map_or(Tip { seq: 7, ..Tip::default() }, Entry::tip);
        entries.push(Entry::first(set, "anna", "a test", tip, number as u64).unwrap());
    }
    entries
}

fn record(number: u8, random: &mut fastrand::Rng) -> KeptRecord {
    let marks = [Mark::CommitSent, Mark::GivenAway, Mark::Owned, Mark::Arrived, Mark::Lost];
    let mark = random.choice(marks).unwrap_or(Mark::Owned);
    let side = if mark.is_of(Side::Source) { Side::Source } else { Side::Destination };
    let migration = format!("{:032x}", u128::from(number) << 64 | 7);
    KeptRecord { migration, side, guest: format!("vm{number}"), peer: "10.0.0.2:4040".into(), mark }
}

fn read(bytes: &[u8]) -> State {
    match decode(bytes).unwrap() {
        Input::State(state) => *state,
        Input::V1(flags) => panic!("{flags:?} is no state"),
    }
}

fn refused(text: &str) -> String {
    decode(text.as_bytes()).unwrap_err().to_string()
}

/// With the checksum that the changed content has.
fn resealed(text: &str) -> String {
    match decode(text.as_bytes()) {
        Err(DocumentError::Checksum { stated, computed }) => text.replace(&stated, &computed),
        other => panic!("{other:?}"),
    }
}

fn text_of(seed: u64) -> String {
    String::from_utf8(encode(&drawn(seed)).unwrap()).unwrap()
}

#[test]
fn what_is_written_comes_back_and_has_one_spelling() {
    for seed in 0..300 {
        let state = drawn(seed);
        let bytes = encode(&state).unwrap();
        let back = read(&bytes);
        assert_eq!(back, state, "seed {seed}");
        assert_eq!(encode(&back).unwrap(), bytes, "seed {seed}");
        assert!(state.is_like(&back));
        assert!(compare(&state, &back, Terms::default()).is_empty(), "seed {seed}");
    }
}

#[test]
fn the_way_it_is_laid_out_does_not_matter() {
    let text = text_of(1);
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(read(value.to_string().as_bytes()), drawn(1));
}

#[test]
fn a_later_version_is_named_before_anything_else() {
    for text in [
        text_of(2).replace("\"version\": 1,\n  \"checksum\"", "\"version\": 9,\n  \"checksum\""),
        "{\"format\":\"dwcp-v3-state\",\"version\":9,\"new\":{\"shape\":[]}}".to_owned(),
    ] {
        let error = refused(&text);
        assert!(error.contains("has version 9, and this release reads up to version 1"), "{error}");
    }
    let old =
        text_of(2).replace("\"version\": 1,\n  \"checksum\"", "\"version\": 0,\n  \"checksum\"");
    assert!(refused(&old).contains("version \"0\" is refused"), "{}", refused(&old));
}

#[test]
fn cut_off_anywhere_it_is_refused() {
    let text = text_of(3);
    let end = text.trim_end().len();
    for cut in (0..end).step_by(97).chain([end - 1]) {
        let error = decode(&text.as_bytes()[..cut]).unwrap_err();
        assert!(matches!(error, DocumentError::CutOff { .. }), "cut at {cut}: {error}");
    }
}

#[test]
fn an_edit_is_found_and_one_with_a_new_checksum_is_judged() {
    let text = text_of(4);
    let edited = text.replacen("\"node\": \"node-1\"", "\"node\": \"node-2\"", 1);
    assert_ne!(edited, text);
    let error = refused(&edited);
    assert!(error.contains("was changed since it was written"), "{error}");
    assert_eq!(read(resealed(&edited).as_bytes()).origin.node, "node-2");
    for (from, to, what) in [
        ("\"node\": \"node-1\"", "\"node\": \"\"", "node \"\" is refused"),
        (
            "\"peers\": [",
            "\"peers\": [{\"peer\":\"x\",\"forced\":null},",
            "peer \"x\" is refused: no port",
        ),
        (
            "\"peers\": [",
            "\"peers\": [{\"peer\":\"z:1\",\"forced\":null},",
            "comes twice, or out of order",
        ),
    ] {
        let edited = resealed(&text.replacen(from, to, 1));
        assert!(refused(&edited).contains(what), "{what}: {}", refused(&edited));
    }
}

#[test]
fn fields_are_known_and_come_once() {
    let text = text_of(5);
    for (from, to, what) in [
        ("\"origin\": {", "\"nonsense\": 1, \"origin\": {", "unknown field `nonsense`"),
        ("\"node\":", "\"node\": \"a\", \"node\":", "duplicate field `node`"),
        ("\"format\":", "\"format\": \"dwcp-v3-state\", \"format\":", "format comes twice"),
        ("\"content\":", "\"more\": 1, \"content\":", "unknown field `more`"),
        ("\"left_out\":", "\"left\":", "unknown field `left`"),
    ] {
        let error = refused(&text.replacen(from, to, 1));
        assert!(error.contains(what), "{what}: {error}");
    }
}

#[test]
fn other_files_are_told_from_a_state() {
    for (text, what) in [
        ("", "cut off"),
        ("{}", "its field format is not there"),
        ("{\"format\":\"tar\"}", "its field format is \"tar\""),
        ("{\"format\":7,\"version\":1}", "its field format is 7"),
        ("[1,2]", "not a JSON object"),
        ("null", "not a JSON object"),
        ("feature_flags:\n  hybrid_mode: true\n", "not a JSON object"),
        ("{\"format\":\"dwcp-v3-state\"}", "missing field `version`"),
    ] {
        assert!(refused(text).contains(what), "{text}: {}", refused(text));
    }
    let (open, close) = ("[".repeat(100_000), "]".repeat(100_000));
    assert!(refused(&format!("{{\"content\":{open}")).contains("cut off"));
    let bomb = format!("{{\"format\":\"dwcp-v3-state\",\"version\":1,\"content\":{open}{close}}}");
    assert!(refused(&bomb).contains("not as this format has it"), "{}", refused(&bomb));
    let huge = vec![b' '; MAX_STATE_BYTES + 1];
    assert!(decode(&huge).unwrap_err().to_string().contains("the limit is 16777216"));
}

#[test]
fn v1s_flags_are_read_as_such() {
    let flags = Flags { compression: true, rollout_percent: 10, ..Flags::INITIAL };
    assert_eq!(decode(&flags.encode().unwrap()), Ok(Input::V1(flags)));
    assert!(
        refused("{\"forceV1Mode\":1}").contains("forceV1Mode")
            || refused("{\"forceV1Mode\":1}").contains("invalid type")
    );
    let misspelt = refused("{\"enableV3Transport\":true,\"forceV1Mod\":true}");
    assert!(
        misspelt.contains("v1 has no flag \"forceV1Mod\"; did you mean forceV1Mode?"),
        "{misspelt}"
    );
}

#[test]
fn an_audit_log_with_a_gap_is_refused() {
    let mut state = drawn(6);
    state.audit.entries = log(&state.flags, 4);
    encode(&state).unwrap();
    let mut gap = state.clone();
    gap.audit.entries.remove(2);
    assert!(encode(&gap).unwrap_err().to_string().contains("does not follow the one before it"));
    state.audit.entries[3].who = "mallory".into();
    assert!(encode(&state).unwrap_err().to_string().contains("does not fit its hash"));
}

#[test]
fn a_record_is_added_where_none_is_and_changes_none() {
    let one = |number: u8, guest: &str, mark| KeptRecord {
        migration: format!("{number:032x}"),
        side: Side::Destination,
        guest: guest.into(),
        peer: "10.0.0.2:4040".into(),
        mark,
    };
    let with = |records: Vec<KeptRecord>| State { records, ..drawn(7) };
    let here = with(vec![one(1, "vm1", Mark::Owned), one(2, "vm2", Mark::Discarded)]);
    let document = with(vec![
        one(1, "vm1", Mark::Prepared),
        one(2, "vm2", Mark::Discarded),
        one(3, "vm2", Mark::Owned),
        one(4, "vm4", Mark::Owned),
        one(5, "vm4", Mark::Arrived),
    ]);
    let terms = Terms { keeps_records: true, ..Terms::default() };
    let found = compare(&here, &document, terms);
    let effects: Vec<_> = found.iter().map(|found| (&found.name[31..32], found.effect)).collect();
    let (stays, added) = (Effect::Stays, Effect::Added);
    assert_eq!(effects, [("1", stays), ("3", stays), ("4", added), ("5", added)], "{found:?}");
    let elsewhere = State { origin: Origin { node: "b".into(), ..here.origin.clone() }, ..here };
    let found = compare(&elsewhere, &document, terms);
    assert!(found.iter().all(|found| found.effect == Effect::Stays), "{found:?}");
}

#[test]
fn what_is_the_hosts_own_stays() {
    let setting = |key: &str, value: &str| Setting { key: key.into(), value: value.into() };
    let with = |settings| State { settings: Some(settings), ..drawn(8) };
    let here = with(vec![setting("hde.max_baselines", "5"), setting("node.name", "a")]);
    let document = with(vec![setting("amst.dscp", "8"), setting("node.name", "b")]);
    let found =
        compare(&here, &document, Terms { own_settings: &["node.name"], ..Terms::default() });
    let found: Vec<_> = found
        .iter()
        .map(|found| (found.name.as_str(), found.document.as_deref(), found.effect))
        .collect();
    let expected = [
        ("amst.dscp", Some("8"), Effect::Changes),
        ("hde.max_baselines", None, Effect::Changes),
        ("node.name", Some("b"), Effect::Stays),
    ];
    assert_eq!(found, expected);
}

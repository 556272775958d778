//! Flags to start from: rules in both forms, edits, changes, and a log.

use dwcp::rollout::audit::{Entry, Tip};
use dwcp::rollout::{Change, ChangeAction, Flag, FlagSet, Percent, RuleEdit, apply};

const RULES: &[&str] = &[
    "{\"hybrid_mode\":true,\"ml_compression\":false}",
    "{\"hybrid_mode\":{\"enabled\":true,\"rollout_percent\":12.5,\"allow_list\":[\"node-1\"],\
      \"deny_list\":[\"a|b\"],\"seed\":7,\"prerequisites\":[\"ml_compression\"],\
      \"schedule\":{\"start\":null,\"stages\":[{\"after_s\":0,\"percent\":5},{\"after_s\":60,\"percent\":50}]},\
      \"owner\":\"net\",\"expires\":\"2027-01-01T00:00:00Z\"},\"crdt_sync\":{\"prerequisites\":[\"hybrid_mode\"]}}",
    "{\"rollout_percent\":10,\"schedule\":null,\"expires\":9}",
];

pub fn flag_rules() -> Vec<Vec<u8>> {
    let texts = RULES.iter().map(|text| text.as_bytes().to_vec());
    let set = serde_json::to_vec(&FlagSet::default()).unwrap_or_default();
    let changes = changes().map(|change| serde_json::to_vec(&change).unwrap_or_default());
    texts.chain([set]).chain(changes).collect()
}

/// One log, as it is and with hashes that are made to fit.
pub fn audit_log() -> Vec<Vec<u8>> {
    let mut set = FlagSet::default();
    let Ok(first) = Entry::first(&set, "node-1", "start", Tip::default(), 1) else {
        return Vec::new();
    };
    let (mut log, mut tip) = (first.line().unwrap_or_default(), first.tip());
    for change in changes() {
        let Ok(next) = apply(&set, &change, 5) else { continue };
        let Ok(entry) = Entry::of(&change, &set, &next, tip, 5) else { continue };
        log.push_str(&entry.line().unwrap_or_default());
        (set, tip) = (next, entry.tip());
    }
    [b"\0", b"\x01"].into_iter().map(|choice| [choice, log.as_bytes()].concat()).collect()
}

fn changes() -> impl Iterator<Item = Change> {
    let edit = RuleEdit::percent(Percent::whole(10));
    let actions = [
        ChangeAction::Edit(vec![(Flag::HybridMode, edit)]),
        ChangeAction::Latch(Flag::HybridMode),
        ChangeAction::Kill,
    ];
    let change = |action| Change { who: "ops".into(), why: "drill".into(), evidence: None, action };
    actions.into_iter().map(change)
}

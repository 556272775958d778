//! Rules from a configuration: applied only where they were edited, so that what was set otherwise since
//! then survives a restart.

use super::{Rollout, RolloutError};
use crate::observe::EventKind;
use crate::rollout::{Change, ChangeAction, Flag, FlagRule, FlagRules, FlagSet};
use crate::runtime::lock::lock;

/// Who makes such a change.
const WHO: &str = "configuration";
/// Between the digests of the flags' rules.
const BAR: &str = ".";
/// Hexadecimal digits of a digest: it tells edits apart, and nobody is kept from forging one.
const DIGITS: usize = 16;

impl Rollout {
    /// Applies the rules of a configuration that differ from those that were last applied, as one change.
    ///
    /// # Errors
    /// The change is refused, or cannot be written down; all is as before.
    pub fn configure(&self, rules: &FlagRules) -> Result<(), RolloutError> {
        let before = lock(&self.door).set().configuration.clone();
        let before = before.unwrap_or_else(|| digests(&FlagRules::of(&FlagSet::default())));
        let after = digests(rules);
        let is_edited =
            |(at, _): &(usize, _)| before.split(BAR).nth(*at) != after.split(BAR).nth(*at);
        let edited = rules.rules.iter().cloned().enumerate().filter(is_edited);
        let edited: Vec<(Flag, FlagRule)> = edited.map(|(_, rule)| rule).collect();
        if edited.is_empty() {
            return Ok(());
        }
        let unbuilt = edited.iter().filter(|(flag, rule)| rule.enabled && !flag.is_built());
        let unbuilt: Vec<Flag> = unbuilt.map(|(flag, _)| *flag).collect();
        let rules = FlagRules { rules: edited };
        self.change(&Change {
            who: WHO.to_owned(),
            why: "the configuration's feature_flags were edited".to_owned(),
            evidence: None,
            action: ChangeAction::Rules { rules, configuration: Some(after) },
        })?;
        for flag in unbuilt {
            let text = format!("{flag} is enabled in the configuration, but is not built yet");
            self.journal.publish(None, None, EventKind::Notice { text });
        }
        Ok(())
    }
}

/// A digest for each rule, in their order.
fn digests(rules: &FlagRules) -> String {
    let digest = |(_, rule): &(Flag, FlagRule)| {
        let json = serde_json::to_vec(rule).unwrap_or_default();
        blake3::hash(&json).to_hex()[..DIGITS].to_owned()
    };
    rules.rules.iter().map(digest).collect::<Vec<_>>().join(BAR)
}

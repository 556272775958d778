//! What time brings: flags that expire, and the next percentage of a schedule.

use super::{Rollout, bit, now_s};
use crate::observe::EventKind;
use crate::rollout::{Change, ChangeAction, Flag, FlagSet, Percent};
use crate::runtime::lock::lock;

/// Who advances a flag.
const WHO: &str = "schedule";

impl Rollout {
    /// Follows expiries and schedules.
    pub(super) fn look_at_time(&self) {
        let now_s = now_s();
        let mut published = lock(&self.published);
        let expired = expired(&published.set, now_s);
        let is_news = std::mem::replace(&mut published.expired, expired) != expired;
        if is_news {
            self.renew(&mut published);
        }
        let due: Vec<_> =
            Flag::ALL.into_iter().filter_map(|flag| due(&published.set, flag, now_s)).collect();
        drop(published);
        if is_news {
            self.call_listeners();
        }
        due.into_iter().for_each(|(flag, percent)| self.advance(flag, percent));
    }

    fn advance(&self, flag: Flag, percent: Percent) {
        let change = Change {
            who: WHO.to_owned(),
            why: "the time of the next stage has come".to_owned(),
            evidence: None,
            action: ChangeAction::Advance { flag, percent },
        };
        // Refused: somebody has changed the flag meanwhile. Not written down: it is tried again.
        if let Err(error) = self.change(&change)
            && self.watch.may_complain()
        {
            let text = format!("{flag} stays where it is: {error}");
            self.journal.publish(None, None, EventKind::Notice { text });
        }
    }
}

/// Flags whose time is over, a bit each.
fn expired(set: &FlagSet, now_s: u64) -> u32 {
    let is_over = |flag: &Flag| set.rule(*flag).is_expired(now_s);
    Flag::ALL.iter().filter(|flag| is_over(flag)).fold(0, |bits, flag| bits | bit(*flag))
}

/// The percentage that a flag's schedule has come to, if that is above the present one.
fn due(set: &FlagSet, flag: Flag, now_s: u64) -> Option<(Flag, Percent)> {
    let state = set.state(flag);
    let runs = flag.is_built() && state.rule.enabled && state.latch.is_none();
    let schedule = state.rule.schedule.as_ref().filter(|_| runs)?;
    let percent = schedule.percent_on(now_s);
    (percent > state.rule.rollout_percent).then_some((flag, percent))
}

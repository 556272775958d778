//! What time brings: flags that expire.

use super::{Rollout, bit, now_s};
use crate::rollout::{Flag, FlagSet};
use crate::runtime::lock::lock;

impl Rollout {
    /// Follows expiries.
    pub(super) fn look_at_time(&self) {
        let now_s = now_s();
        let mut published = lock(&self.published);
        let expired = expired(&published.set, now_s);
        let is_news = std::mem::replace(&mut published.expired, expired) != expired;
        if is_news {
            self.renew(&mut published);
        }
        drop(published);
        if is_news {
            self.call_listeners();
        }
    }
}

/// Flags whose time is over, a bit each.
fn expired(set: &FlagSet, now_s: u64) -> u32 {
    let is_over = |flag: &Flag| set.rule(*flag).is_expired(now_s);
    Flag::ALL.iter().filter(|flag| is_over(flag)).fold(0, |bits, flag| bits | bit(*flag))
}

//! What a node offers of the pages that it holds.

use super::{HeldCheck, HeldTotals};
use crate::Node;
use std::time::Duration;

impl Node {
    /// Whether pages of guests that left or came are kept.
    pub fn holds_departed_guests(&self) -> bool {
        self.options().held.enabled
    }

    /// How much is held of the pages of guests that left or came, so that they need not travel
    /// again: of one guest or of all.
    pub fn held(&self, guest: Option<&str>) -> HeldTotals {
        self.registry().held().totals(guest)
    }

    /// Reads all held pages back, and drops what is damaged.
    pub(crate) fn check_held(&self) -> HeldCheck {
        self.registry().held().check()
    }

    /// Memory that held pages take, or their indexes where a disk has the pages.
    pub(crate) fn held_memory_bytes(&self) -> u64 {
        self.registry().held().memory_bytes()
    }

    /// Lets go of held pages: of one guest or of all, of every age or of those held at least for
    /// `older_than`. Says how much that was.
    pub fn clear_held(&self, guest: Option<&str>, older_than: Option<Duration>) -> HeldTotals {
        self.registry().held().clear(guest, older_than)
    }
}

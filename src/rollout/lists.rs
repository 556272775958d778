//! A flag's two lists in one table by hash, so that one look tells what a unit or node is on.

use super::rule::FlagRule;
use super::unit::{PreparedUnit, Unit};

/// The entries of both lists.
#[derive(Clone, Debug, Default)]
pub(super) struct Lists {
    entries: Vec<PreparedUnit>,
    /// Open addressing, at most half full.
    slots: Vec<Slot>,
    /// A bit for each entry among at least thirty-two times as many: most units are on no list, and are
    /// known by that.
    filter: Vec<u64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    hash: u64,
    /// The place in `entries` plus one; zero if the slot is empty.
    entry: u32,
    marks: Marks,
}

/// On which lists something is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks {
    pub is_allowed: bool,
    pub is_denied: bool,
}

impl Lists {
    pub fn of(rule: &FlagRule) -> Self {
        let length = rule.allow_list.len() + rule.deny_list.len();
        if length == 0 {
            return Self::default();
        }
        let slots = (length * 2).next_power_of_two();
        let mut lists = Self {
            entries: Vec::with_capacity(length),
            slots: vec![Slot::default(); slots],
            filter: vec![0; (slots / FILTER_SHARE).max(1)],
        };
        let allowed = Marks { is_allowed: true, is_denied: false };
        let denied = Marks { is_allowed: false, is_denied: true };
        rule.allow_list.iter().for_each(|name| lists.insert(name, allowed));
        rule.deny_list.iter().for_each(|name| lists.insert(name, denied));
        lists
    }

    fn insert(&mut self, name: &str, marks: Marks) {
        let unit = Unit::named(name);
        let slot = self.find(&unit);
        if self.slots[slot].entry == 0 {
            self.entries.push(unit.into());
            let entry = self.entries.len() as u32;
            self.slots[slot] = Slot { hash: unit.hash(), entry, marks: Marks::default() };
            let (word, bit) = self.filter_place(unit.hash());
            self.filter[word] |= 1 << bit;
        }
        self.slots[slot].marks = self.slots[slot].marks.and(marks);
    }

    /// On which lists the unit, or one of its members, is.
    #[inline]
    pub fn marks(&self, unit: &Unit<'_>) -> Marks {
        if self.entries.is_empty() {
            return Marks::default();
        }
        let bit = |hash| {
            let (word, bit) = self.filter_place(hash);
            self.filter[word] >> bit & 1
        };
        let found = unit.hashes().map(bit);
        // One branch for all three, which almost always goes the same way.
        if found[0] | found[1] | found[2] == 0 { Marks::default() } else { self.look_up(unit) }
    }

    /// Other bits of the hash than those that choose a slot.
    #[inline]
    fn filter_place(&self, hash: u64) -> (usize, u32) {
        ((hash >> 32) as usize & (self.filter.len() - 1), (hash >> 58) as u32)
    }

    fn look_up(&self, unit: &Unit<'_>) -> Marks {
        let of = |unit: &Unit<'_>| self.slots[self.find(unit)].marks;
        unit.member_units().fold(of(unit), |marks, member| marks.and(of(&member)))
    }

    /// The slot of the unit, or the empty one where it would go. There is one, for at most half are full.
    #[inline]
    fn find(&self, unit: &Unit<'_>) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = unit.hash() as usize & mask;
        loop {
            let slot = &self.slots[at];
            let Some(entry) = (slot.entry as usize).checked_sub(1) else { return at };
            // The names too, because hashes can be made to collide by who chooses names.
            if slot.hash == unit.hash() && self.entries[entry].unit() == *unit {
                return at;
            }
            at = (at + 1) & mask;
        }
    }
}

impl Marks {
    fn and(self, other: Self) -> Self {
        Self {
            is_allowed: self.is_allowed | other.is_allowed,
            is_denied: self.is_denied | other.is_denied,
        }
    }
}

/// A slot has sixteen bits of the filter.
const FILTER_SHARE: usize = u64::BITS as usize / 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn allowing(names: impl IntoIterator<Item = String>) -> Lists {
        Lists::of(&FlagRule { allow_list: names.into_iter().collect(), ..FlagRule::on() })
    }

    fn allows(lists: &Lists, text: &str) -> bool {
        lists.marks(&Unit::named(text)).is_allowed
    }

    #[test]
    fn keys_and_members_match_and_nothing_else() {
        let lists = allowing(["node-1", "b|a", "node-1", "x|10.0.0.1:7"].map(str::to_owned));
        assert_eq!(lists.entries.len(), 3);
        for on in ["node-1", "node-1|node-9", "a|node-1", "a|b", "b|a", "10.0.0.1:7|x"] {
            assert!(allows(&lists, on), "{on}");
        }
        for off in ["a", "b", "node-2", "node-11", "x", "a|x", ""] {
            assert!(!allows(&lists, off), "{off}");
        }
        assert!(!allows(&Lists::default(), "a"));
    }

    #[test]
    fn each_list_is_told_apart() {
        let rule = FlagRule {
            allow_list: vec!["a".into(), "both".into()],
            deny_list: vec!["d".into(), "both".into()],
            ..FlagRule::on()
        };
        let lists = Lists::of(&rule);
        let marks = |text| {
            let Marks { is_allowed, is_denied } = lists.marks(&Unit::named(text));
            (is_allowed, is_denied)
        };
        let told = ["a", "d", "a|d", "both", "x|y"].map(marks);
        let expected = [(true, false), (false, true), (true, true), (true, true), (false, false)];
        assert_eq!(told, expected);
    }

    #[test]
    fn many_entries_are_all_found() {
        let names: Vec<_> = (0..500).map(|node| format!("node-{node}")).collect();
        let lists = allowing(names.clone());
        assert!(names.iter().all(|name| allows(&lists, name)));
        assert!((500..2000).all(|node| !allows(&lists, &format!("node-{node}"))));
    }
}

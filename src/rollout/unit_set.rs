//! A list of units and nodes, ready to be asked whether a unit is on it: a table by hash.

use super::unit::{PreparedUnit, Unit};

/// The entries of one list.
#[derive(Clone, Debug, Default)]
pub(super) struct UnitSet {
    units: Vec<PreparedUnit>,
    /// Open addressing, at most half full: an entry's place in `units` plus one, or zero.
    slots: Vec<u32>,
}

impl UnitSet {
    pub fn new(names: &[String]) -> Self {
        let units: Vec<_> = names.iter().map(|name| Unit::named(name).into()).collect();
        let slots = if units.is_empty() { 0 } else { (units.len() * 2).next_power_of_two() };
        let mut set = Self { units: Vec::with_capacity(units.len()), slots: vec![0; slots] };
        units.into_iter().for_each(|unit| set.insert(unit));
        set
    }

    fn insert(&mut self, unit: PreparedUnit) {
        let Err(slot) = self.find(&unit.unit()) else { return };
        self.units.push(unit);
        self.slots[slot] = self.units.len() as u32;
    }

    /// Whether the unit or one of its members is on the list.
    #[inline]
    pub fn matches(&self, unit: &Unit<'_>) -> bool {
        !self.units.is_empty() && self.matches_any(unit)
    }

    fn matches_any(&self, unit: &Unit<'_>) -> bool {
        self.find(unit).is_ok() || unit.member_units().any(|member| self.find(&member).is_ok())
    }

    /// The place of the unit, or the empty slot where it would go. There is one, for at most half are full.
    fn find(&self, unit: &Unit<'_>) -> Result<usize, usize> {
        let mask = self.slots.len() - 1;
        let mut slot = unit.hash() as usize & mask;
        while let Some(place) = (self.slots[slot] as usize).checked_sub(1) {
            // The names too, because hashes can be made to collide by who chooses names.
            if self.units[place].unit() == *unit {
                return Ok(place);
            }
            slot = (slot + 1) & mask;
        }
        Err(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_members_match_and_nothing_else() {
        let names = ["node-1", "b|a", "node-1", "x|10.0.0.1:7"].map(str::to_owned);
        let set = UnitSet::new(&names);
        assert_eq!(set.units.len(), 3);
        for on in ["node-1", "node-1|node-9", "a|node-1", "a|b", "b|a", "10.0.0.1:7|x"] {
            assert!(set.matches(&Unit::named(on)), "{on}");
        }
        for off in ["a", "b", "node-2", "node-11", "x", "a|x", ""] {
            assert!(!set.matches(&Unit::named(off)), "{off}");
        }
        assert!(!UnitSet::default().matches(&Unit::named("a")));
    }

    #[test]
    fn many_entries_are_all_found() {
        let names: Vec<_> = (0..500).map(|node| format!("node-{node}")).collect();
        let set = UnitSet::new(&names);
        assert!(names.iter().all(|name| set.matches(&Unit::named(name))));
        assert!((500..2000).all(|node| !set.matches(&Unit::named(&format!("node-{node}")))));
    }
}

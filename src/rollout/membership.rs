//! Exact shares: where all units are known, a percentage of them is a number, not a chance.

use super::flag::Flag;
use super::hash::{place, salt};
use super::percent::Percent;
use super::unit::{PreparedUnit, Unit};
use crate::base::limits::MAX_FLAG_MEMBERS;
use std::collections::BTreeMap;

/// All units of one kind, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    units: Vec<PreparedUnit>,
}

/// More units than are ranked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {MAX_FLAG_MEMBERS} units are not ranked")]
pub struct TooManyMembers;

/// The first so many places of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// The last place that is in; none if nobody is.
    pub last: Option<u64>,
    pub chosen: u32,
    pub members: u32,
}

impl Membership {
    /// Units by their keys; one that comes again counts once.
    ///
    /// # Errors
    /// [`TooManyMembers`].
    pub fn new<'a>(units: impl IntoIterator<Item = &'a str>) -> Result<Self, TooManyMembers> {
        let mut known = BTreeMap::new();
        for text in units {
            let unit = PreparedUnit::from(Unit::named(text));
            known.insert(unit.key().to_owned(), unit);
            if known.len() > MAX_FLAG_MEMBERS {
                return Err(TooManyMembers);
            }
        }
        Ok(Self { units: known.into_values().collect() })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.units.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.units.is_empty()
    }

    /// The units that have a flag at this percentage, rounded up, by rank: what a smaller percentage
    /// chooses comes first.
    pub fn chosen(&self, flag: Flag, seed: u64, percent: Percent) -> Vec<&str> {
        let salt = salt(flag, seed);
        let mut ranked: Vec<_> =
            self.units.iter().map(|unit| (place(salt, unit.hash()), unit.key())).collect();
        ranked.sort_unstable();
        ranked.truncate(percent.of(ranked.len()));
        ranked.into_iter().map(|(_, key)| key).collect()
    }

    /// Where a percentage ends in a flag's row.
    pub(super) fn cut(&self, salt: u64, percent: Percent) -> Cut {
        let chosen = percent.of(self.len());
        let mut places: Vec<_> = self.units.iter().map(|unit| place(salt, unit.hash())).collect();
        let last = chosen.checked_sub(1).map(|last| *places.select_nth_unstable(last).1);
        Cut { last, chosen: chosen as u32, members: self.len() as u32 }
    }
}

/// The members that have a flag: the first of them by rank, as many as the percentage says, rounded up.
/// At a larger percentage the same ones come first. A member that comes again counts once.
///
/// # Errors
/// [`TooManyMembers`].
pub fn exact_units(
    seed: u64,
    flag: Flag,
    percent: Percent,
    members: &[&str],
) -> Result<Vec<String>, TooManyMembers> {
    let membership = Membership::new(members.iter().copied())?;
    Ok(membership.chosen(flag, seed, percent).into_iter().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(count: usize) -> Membership {
        let names: Vec<_> = (0..count).map(|node| format!("node-{node}")).collect();
        Membership::new(names.iter().map(String::as_str)).unwrap()
    }

    #[test]
    fn ten_percent_of_twenty_is_two() {
        for seed in 0..200 {
            let chosen = |percent| nodes(20).chosen(Flag::HybridMode, seed, percent).len();
            let counts = [0, 5, 10, 11, 50, 100].map(|percent| chosen(Percent::whole(percent)));
            assert_eq!(counts, [0, 1, 2, 3, 10, 20]);
        }
        assert!(nodes(0).chosen(Flag::HybridMode, 0, Percent::FULL).is_empty());
    }

    #[test]
    fn a_larger_percentage_only_adds() {
        let all = nodes(57);
        let full = all.chosen(Flag::MlCompression, 3, Percent::FULL);
        for percent in 0..=100 {
            let chosen = all.chosen(Flag::MlCompression, 3, Percent::whole(percent));
            assert_eq!(chosen, full[..chosen.len()]);
        }
    }

    #[test]
    fn a_member_counts_once() {
        let chosen = exact_units(0, Flag::HybridMode, Percent::FULL, &["a|b", "b|a", "c", "c"]);
        assert_eq!(chosen.unwrap().len(), 2);
        let many: Vec<_> = (0..=MAX_FLAG_MEMBERS).map(|node| node.to_string()).collect();
        let refused = Membership::new(many.iter().map(String::as_str));
        assert_eq!(refused, Err(TooManyMembers));
    }
}

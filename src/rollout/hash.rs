//! Where a unit stands in the row of a flag's units: one hash, XXH3 with 64 bits, used again and again.
//!
//! ```text
//! name(n)           = XXH3(n, seed 0)
//! unit(n)           = name(n)
//! unit(a|b)         = XXH3(name(b) as 8 bytes, seed name(a))      where a <= b by their bytes
//! flag(f, seed)     = XXH3(name of f, seed)
//! place(f, seed, u) = XXH3(unit(u) as 8 bytes, seed flag(f, seed))
//! bucket            = place * 1,000,000 / 2^64                    from 0 to 999,999
//! ```
//!
//! Numbers are little-endian where they are hashed.
//!
//! A unit is in at `p` percent if its bucket is below `p * 10,000`. The flag's name is in the hash, so
//! that two flags at the same percentage do not meet the same units (v1 hashed the node alone, and one
//! unlucky node had every new feature first); the seed draws a flag's units anew.

use super::flag::Flag;
use super::percent::Percent;
use super::unit::Unit;
use twox_hash::XxHash3_64;

/// The place of a unit among all of a flag's.
pub fn flag_hash(flag: Flag, seed: u64, unit: &Unit<'_>) -> u64 {
    place(salt(flag, seed), unit.hash())
}

/// The unit's bucket for a flag, from 0 to 999,999.
pub fn bucket(flag: Flag, seed: u64, unit: &Unit<'_>) -> u32 {
    bucket_of(flag_hash(flag, seed, unit))
}

#[inline]
pub(super) fn name_hash(name: &str) -> u64 {
    XxHash3_64::oneshot(name.as_bytes())
}

#[inline]
pub(super) fn pair_hash(first_hash: u64, second_hash: u64) -> u64 {
    place(first_hash, second_hash)
}

/// What tells one flag's row from another's.
pub(super) fn salt(flag: Flag, seed: u64) -> u64 {
    XxHash3_64::oneshot_with_seed(seed, flag.name().as_bytes())
}

#[inline]
pub(super) fn place(salt: u64, unit_hash: u64) -> u64 {
    XxHash3_64::oneshot_with_seed(salt, &unit_hash.to_le_bytes())
}

#[inline]
pub(super) const fn bucket_of(place: u64) -> u32 {
    ((place as u128 * Percent::PARTS as u128) >> 64) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_cover_the_whole_row() {
        assert_eq!((bucket_of(0), bucket_of(u64::MAX)), (0, Percent::PARTS - 1));
        assert_eq!(bucket_of(1 << 63), Percent::PARTS / 2);
    }

    #[test]
    fn name_seed_and_unit_all_matter() {
        let unit = Unit::named("node-1");
        let place = flag_hash(Flag::HybridMode, 0, &unit);
        assert_ne!(place, flag_hash(Flag::MlCompression, 0, &unit));
        assert_ne!(place, flag_hash(Flag::HybridMode, 1, &unit));
        assert_ne!(place, flag_hash(Flag::HybridMode, 0, &Unit::named("node-2")));
    }
}

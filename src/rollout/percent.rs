//! Percentages with four decimals, exactly: a whole number of ten-thousandths of a percent.

use crate::base::text::quoted;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;

/// A percentage from 0 to 100 with at most four decimals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Percent(u32);

/// Text or a number that is no such percentage.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} is not a percentage from 0 to 100 with at most four decimals", quoted(.0))]
pub struct PercentError(pub String);

impl Percent {
    /// Nothing.
    pub const ZERO: Percent = Percent(0);
    /// Everything.
    pub const FULL: Percent = Percent(PARTS);
    /// How many parts make the whole: the number of buckets.
    pub const PARTS: u32 = PARTS;

    /// A whole number of percent; more than 100 are 100.
    pub const fn whole(percent: u8) -> Self {
        Self(if percent > 100 { PARTS } else { percent as u32 * PARTS_OF_ONE })
    }

    /// From ten-thousandths of a percent.
    ///
    /// # Errors
    /// [`PercentError`] above [`Percent::PARTS`].
    pub fn from_parts(parts: u32) -> Result<Self, PercentError> {
        if parts > PARTS {
            return Err(PercentError(format!(
                "{}.{:04}",
                parts / PARTS_OF_ONE,
                parts % PARTS_OF_ONE
            )));
        }
        Ok(Self(parts))
    }

    /// From a number such as 12.5.
    ///
    /// # Errors
    /// [`PercentError`] for NaN, what is out of range, and more than four decimals.
    pub fn from_f64(percent: f64) -> Result<Self, PercentError> {
        if percent == 0.0 {
            return Ok(Self::ZERO); // also the negative one
        }
        // The shortest text that stands for the number is what was meant: 12.3456 is no binary fraction.
        percent.to_string().parse()
    }

    /// In ten-thousandths of a percent.
    pub const fn parts(self) -> u32 {
        self.0
    }

    /// As a number of percent.
    pub fn to_f64(self) -> f64 {
        f64::from(self.0) / f64::from(PARTS_OF_ONE)
    }

    /// How many of `count` it is, rounded up, so that 10 % of 20 is 2 and of 21 is 3.
    pub const fn of(self, count: usize) -> usize {
        let share = (count as u128 * self.0 as u128).div_ceil(PARTS as u128);
        share as usize
    }
}

impl FromStr for Percent {
    type Err = PercentError;

    /// Digits, at most four more behind a dot; no sign, no exponent, no space.
    fn from_str(text: &str) -> Result<Self, PercentError> {
        read(text).ok_or_else(|| PercentError(text.to_owned()))
    }
}

fn read(text: &str) -> Option<Percent> {
    let (whole, decimals) = match text.split_once('.') {
        Some((whole, decimals)) if !decimals.is_empty() => (whole, decimals),
        Some(_) => return None,
        None => (text, ""),
    };
    let is_number = |digits: &str| digits.bytes().all(|digit| digit.is_ascii_digit());
    if whole.is_empty() || whole.len() > 3 || decimals.len() > DECIMALS {
        return None;
    }
    if !is_number(whole) || !is_number(decimals) {
        return None;
    }
    let whole: u32 = whole.parse().ok()?;
    let decimals: u32 = format!("{decimals:0<DECIMALS$}").parse().ok()?;
    Percent::from_parts(whole * PARTS_OF_ONE + decimals).ok()
}

impl fmt::Display for Percent {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, decimals) = (self.0 / PARTS_OF_ONE, self.0 % PARTS_OF_ONE);
        if decimals == 0 {
            return write!(to, "{whole}");
        }
        write!(to, "{whole}.{}", format!("{decimals:04}").trim_end_matches('0'))
    }
}

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_multiple_of(PARTS_OF_ONE) {
            return serializer.serialize_u32(self.0 / PARTS_OF_ONE);
        }
        serializer.serialize_f64(self.to_f64())
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(PercentVisitor)
    }
}

/// Takes numbers, and text for formats that have nothing else.
struct PercentVisitor;

impl de::Visitor<'_> for PercentVisitor {
    type Value = Percent;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("a percentage from 0 to 100 with at most four decimals")
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Percent, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Percent, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Percent, E> {
        Percent::from_f64(value).map_err(E::custom)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Percent, E> {
        text.parse().map_err(E::custom)
    }
}

const DECIMALS: usize = 4;
const PARTS_OF_ONE: u32 = 10_000;
const PARTS: u32 = 100 * PARTS_OF_ONE;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_numbers_are_exact() {
        for (text, parts) in [
            ("0", 0),
            ("10", 100_000),
            ("12.3456", 123_456),
            ("0.0001", 1),
            ("99.9999", 999_999),
            ("100", PARTS),
        ] {
            let percent: Percent = text.parse().unwrap();
            assert_eq!((percent.parts(), percent.to_string()), (parts, text.to_owned()));
            assert_eq!(Percent::from_f64(text.parse().unwrap()), Ok(percent));
        }
        assert_eq!("7.50".parse::<Percent>().unwrap().to_string(), "7.5");
        assert_eq!(Percent::from_f64(-0.0), Ok(Percent::ZERO));
    }

    #[test]
    fn every_percentage_survives_json() {
        for parts in (0..=PARTS).step_by(7).chain([PARTS]) {
            let percent = Percent::from_parts(parts).unwrap();
            let json = serde_json::to_string(&percent).unwrap();
            assert_eq!(serde_json::from_str::<Percent>(&json).unwrap(), percent, "{json}");
        }
    }

    #[test]
    fn what_is_no_percentage_is_named() {
        let bad = [
            "", "-1", "+5", "101", "100.0001", "1e1", "0.00001", "10 ", ".5", "5.", "NaN", "10%",
            "٣", "1_0",
        ];
        for text in bad {
            let error = text.parse::<Percent>().unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
        for number in [f64::NAN, f64::INFINITY, -0.1, 100.01, 1e300, 1e-9, 12.345678] {
            assert!(Percent::from_f64(number).is_err(), "{number}");
        }
        for json in ["-1", "101", "1e9", "0.12345", "true", "null", "[1]", "18446744073709551615"] {
            assert!(serde_json::from_str::<Percent>(json).is_err(), "{json}");
        }
        assert!(Percent::from_f64(1e300).unwrap_err().to_string().len() < 200);
    }

    #[test]
    fn shares_are_rounded_up() {
        let ten = Percent::whole(10);
        assert_eq!([0, 1, 9, 10, 11, 20, 21].map(|count| ten.of(count)), [0, 1, 1, 1, 2, 2, 3]);
        assert_eq!(Percent::FULL.of(usize::MAX), usize::MAX);
        assert_eq!(Percent::ZERO.of(usize::MAX), 0);
    }
}

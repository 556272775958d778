//! Moments on the wall clock: whole seconds since 1970 in code, RFC 3339 in files.

use crate::base::text::quoted;
use serde::{Deserializer, Serializer, de};
use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

/// Text that is no moment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} is not a time such as 2027-01-31T00:00:00Z", quoted(.0))]
pub struct WallTimeError(pub String);

/// Reads a moment in universal time, in seconds since 1970.
///
/// # Errors
/// [`WallTimeError`].
pub fn parse_wall_time(text: &str) -> Result<u64, WallTimeError> {
    let error = || WallTimeError(text.to_owned());
    let moment = humantime::parse_rfc3339(text).map_err(|_| error())?;
    Ok(moment.duration_since(UNIX_EPOCH).map_err(|_| error())?.as_secs())
}

/// Whether a moment can be written with a year of four digits.
pub(super) const fn is_writable(seconds: u64) -> bool {
    seconds <= LAST_SECOND
}

/// The moment as text; the number itself beyond the year 9999.
pub(super) fn text(seconds: u64) -> String {
    if !is_writable(seconds) {
        return seconds.to_string();
    }
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
}

/// For serde: a moment that may be missing.
pub(super) mod optional {
    use super::*;

    pub fn serialize<S: Serializer>(seconds: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
        match seconds {
            Some(seconds) if is_writable(*seconds) => to.serialize_some(&text(*seconds)),
            other => serde::Serialize::serialize(other, to),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
        from.deserialize_any(MomentVisitor)
    }
}

struct MomentVisitor;

impl de::Visitor<'_> for MomentVisitor {
    type Value = Option<u64>;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("a time such as 2027-01-31T00:00:00Z, or seconds since 1970")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Option<u64>, E> {
        Ok(None)
    }

    fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Option<u64>, E> {
        Ok(Some(seconds))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Option<u64>, E> {
        parse_wall_time(text).map(Some).map_err(E::custom)
    }
}

/// The end of the year 9999.
const LAST_SECOND: u64 = 253_402_300_799;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_round_trip() {
        for seconds in [0, 1, 1_798_761_600, LAST_SECOND] {
            assert_eq!(parse_wall_time(&text(seconds)), Ok(seconds));
        }
        assert_eq!(text(1_798_761_600), "2027-01-01T00:00:00Z");
        assert_eq!(text(u64::MAX), u64::MAX.to_string());
    }

    #[test]
    fn what_is_no_moment_is_named() {
        for bad in ["", "tomorrow", "2027-13-01T00:00:00Z", "2027-01-01", "1969-12-31T23:59:59Z"] {
            let error = parse_wall_time(bad).unwrap_err().to_string();
            assert!(error.contains(&format!("{bad:?}")), "{error}");
        }
    }
}

//! Rates, times and sizes as people write them: `300mbit`, `80ms`, `4mb`.

use std::time::Duration;

/// Parses a rate in bits per second: `300mbit`, `1.5gbit`, `64kbit`, `9600bit`; `none` is unlimited.
///
/// # Errors
/// The text, when it is no rate.
pub fn parse_rate(text: &str) -> Result<Option<u64>, String> {
    if text == "none" {
        return Ok(None);
    }
    let units = [("gbit", 1e9), ("mbit", 1e6), ("kbit", 1e3), ("bit", 1.0)];
    match scaled(text, &units) {
        Some(rate) if rate >= 1.0 => Ok(Some(rate as u64)),
        _ => Err(format!("rate {text:?} is not like 300mbit, 10gbit or none")),
    }
}

/// Parses a duration: `80ms`, `250us`, `1.5s`.
///
/// # Errors
/// The text, when it is no duration.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1e-3), ("us", 1e-6), ("s", 1.0)];
    scaled(text, &units)
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| format!("duration {text:?} is not like 80ms, 250us or 1.5s"))
}

/// Parses a size in bytes: `64kb`, `4mb`, `1500`.
///
/// # Errors
/// The text, when it is no size.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let units = [("kb", 1e3), ("mb", 1e6), ("gb", 1e9), ("b", 1.0), ("", 1.0)];
    scaled(text, &units)
        .map(|bytes| bytes as u64)
        .ok_or_else(|| format!("size {text:?} is not like 64kb, 4mb or 1500"))
}

/// Parses a probability from 0 to 1.
///
/// # Errors
/// The text, when it is none.
pub fn parse_probability(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if (0.0..=1.0).contains(&value) => Ok(value),
        _ => Err(format!("probability {text:?} is not a number from 0 to 1")),
    }
}

/// The number before the first of `units` that ends `text`, scaled by that unit.
fn scaled(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    units.iter().find_map(|(unit, scale)| {
        let number: f64 = text.strip_suffix(unit)?.parse().ok()?;
        (number.is_finite() && number >= 0.0).then_some(number * scale)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_parse_with_their_units() {
        assert_eq!(parse_rate("300mbit"), Ok(Some(300_000_000)));
        assert_eq!(parse_rate("1.5gbit"), Ok(Some(1_500_000_000)));
        assert_eq!(parse_rate("9600bit"), Ok(Some(9600)));
        assert_eq!(parse_rate("none"), Ok(None));
        assert_eq!(parse_duration("80ms"), Ok(Duration::from_millis(80)));
        assert_eq!(parse_duration("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(parse_bytes("4mb"), Ok(4_000_000));
        assert_eq!(parse_bytes("1500"), Ok(1500));
        assert_eq!(parse_probability("0.001"), Ok(0.001));
    }

    #[test]
    fn errors_hold_the_text() {
        assert!(parse_rate("0mbit").unwrap_err().contains("0mbit"));
        assert!(parse_rate("fast").unwrap_err().contains("fast"));
        assert!(parse_duration("-3ms").unwrap_err().contains("-3ms"));
        assert!(parse_bytes("NaN").unwrap_err().contains("NaN"));
        assert!(parse_probability("1.5").unwrap_err().contains("1.5"));
    }
}

//! Quantities as people write them, and back: durations, byte counts, rates.

use std::time::Duration;

pub use crate::base::text::quoted;

/// Reads `100ms`, `5s`, `10m`, `1h 30m`.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| format!("{} is not a duration such as 100ms, 5s or 10m", quoted(text)))
}

/// Reads `4096`, `64KiB`, `10MB`.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let units = [("", 1), ("B", 1)].iter().chain(BYTE_UNITS).copied();
    scaled(text, units)
        .ok_or_else(|| format!("{} is not a size such as 4096, 64KiB or 10MB", quoted(text)))
}

/// Reads `300mbit`, `1.5gbit`, `40MB/s`, `64KiB/s`, as bytes per second. A bare number is refused:
/// it would be bits to one reader and bytes to another.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_rate(text: &str) -> Result<u64, String> {
    let error = || format!("{} is not a rate such as 300mbit or 40MB/s", quoted(text));
    let text = text.trim();
    let lower = text.to_ascii_lowercase();
    if let Some(bits) = lower.strip_suffix("bit").or_else(|| lower.strip_suffix("bit/s")) {
        let units = [("", 1), ("k", 1_000), ("m", 1_000_000), ("g", 1_000_000_000)];
        return scaled(bits, units.into_iter()).map(|bits| bits / 8).ok_or_else(error);
    }
    let bytes = text.strip_suffix("/s").ok_or_else(error)?;
    let units = [("B", 1)].iter().chain(BYTE_UNITS).copied();
    scaled(bytes, units).ok_or_else(error)
}

/// The shortest exact text of a duration, such as `1500ms` or `10m`.
pub fn format_duration(duration: Duration) -> String {
    let micros = duration.as_micros();
    let units = [("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000)];
    match units.iter().find(|(_, size)| micros != 0 && micros.is_multiple_of(*size)) {
        Some((unit, size)) => format!("{}{unit}", micros / size),
        None if micros == 0 => "0s".to_owned(),
        None => format!("{micros}us"),
    }
}

/// The shortest exact text of a size, such as `64KiB`.
pub fn format_bytes(bytes: u64) -> String {
    let exact = BYTE_UNITS.iter().rev().find(|(_, size)| bytes != 0 && bytes.is_multiple_of(*size));
    exact.map_or_else(|| bytes.to_string(), |(unit, size)| format!("{}{unit}", bytes / size))
}

/// A size for people, rounded, such as `1.50 GiB`.
pub fn rounded_bytes(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// The shortest exact text of a rate, such as `300mbit`.
pub fn format_rate(bytes_per_s: u64) -> String {
    let bits = u128::from(bytes_per_s) * 8;
    let units = [("gbit", 1_000_000_000), ("mbit", 1_000_000), ("kbit", 1_000)];
    match units.iter().find(|(_, size)| bits != 0 && bits.is_multiple_of(*size)) {
        Some((unit, size)) => format!("{}{unit}", bits / size),
        None => format!("{bytes_per_s}B/s"),
    }
}

fn scaled<'a>(text: &str, mut units: impl Iterator<Item = (&'a str, u64)>) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let (_, size) = units.find(|(name, _)| *name == unit.trim())?;
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(size);
    }
    let value = number.parse::<f64>().ok()? * size as f64;
    (value.is_finite() && value < MAX_EXACT).then_some(value.round() as u64)
}

const BYTE_UNITS: &[(&str, u64)] = &[
    ("kB", 1_000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
];
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_read_and_print() {
        for (text, bytes, back) in [
            ("300mbit", 37_500_000, "300mbit"),
            ("1.5gbit", 187_500_000, "1500mbit"),
            ("300 Mbit/s", 37_500_000, "300mbit"),
            ("64KiB/s", 65_536, "65536B/s"),
            ("40MB/s", 40_000_000, "320mbit"),
            ("7B/s", 7, "7B/s"),
        ] {
            assert_eq!(parse_rate(text), Ok(bytes), "{text}");
            assert_eq!(format_rate(bytes), back);
            assert_eq!(parse_rate(back), Ok(bytes));
        }
    }

    #[test]
    fn sizes_read_and_print() {
        for (text, bytes, back) in
            [("4096", 4096, "4KiB"), ("1.5MiB", 1_572_864, "1536KiB"), ("10MB", 10_000_000, "10MB")]
        {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
            assert_eq!(parse_bytes(&format_bytes(bytes)), Ok(bytes));
            assert_eq!(format_bytes(bytes), back);
        }
    }

    #[test]
    fn durations_read_and_print() {
        for (text, back) in
            [("100ms", "100ms"), ("600s", "10m"), ("1s 500ms", "1500ms"), ("0s", "0s")]
        {
            let duration = parse_duration(text).unwrap();
            assert_eq!(format_duration(duration), back);
            assert_eq!(parse_duration(back), Ok(duration));
        }
    }

    #[test]
    fn nonsense_is_refused_with_its_text() {
        for text in
            ["", "300", "fast", "-1mbit", "1e400MB/s", "99999999999999999999GB/s", "1..5mbit"]
        {
            let error = parse_rate(text).unwrap_err();
            assert!(error.contains(&quoted(text)), "{error}");
        }
        assert!(parse_bytes("12parsecs").is_err());
        assert!(parse_duration("10").is_err());
    }
}

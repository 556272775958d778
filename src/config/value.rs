//! What a key may hold: kinds with units and ranges, and the values read by them.

use super::{flag_rule, units};
use crate::base::Networks;
use crate::base::address::{check_address, is_public};
use crate::base::networks::ParseNetworksError;
use crate::migration::CodecPolicy;
use crate::rollout::{Flag, FlagRule};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

/// The type of a key, with its range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// One of some words.
    Choice(&'static [&'static str]),
    /// A whole number within bounds.
    Integer(u64, u64),
    /// A number within bounds.
    Number(f64, f64),
    /// Percent, within bounds; `1.0`, `1` and `1%` are the same.
    Percent(f64, f64),
    /// A duration within bounds in milliseconds.
    Duration(u64, u64),
    /// As `Duration`, or `none`.
    OptionalDuration(u64, u64),
    /// A size within bounds.
    Bytes(u64, u64),
    /// A rate of at least so many bytes per second, or `none`.
    OptionalRate(u64),
    /// Text of at most so many bytes, without control characters.
    Text(usize),
    /// An absolute path.
    Path,
    /// An absolute path, or `none`.
    OptionalPath,
    /// `ADDRESS:PORT`, or `none`.
    OptionalAddress,
    /// Addresses and networks with commas between them, or `none`.
    Networks,
    /// At most so many IP addresses, separated by commas, or `none`.
    Addresses(usize),
    /// As `OptionalAddress`, but none that is public.
    OptionalLocalAddress,
    /// `HOST:PORT`, at most so many with commas between them, none of them public; or `none`.
    LocalPeers(usize),
    /// A page codec.
    Codec,
    /// The rule of a feature flag.
    Rule(Flag),
}

/// A value that its kind accepted.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `none`.
    None,
    /// A truth.
    Bool(bool),
    /// A whole number.
    Integer(u64),
    /// A number or percentage.
    Number(f64),
    /// A duration.
    Duration(Duration),
    /// A size.
    Bytes(u64),
    /// Bytes per second.
    Rate(u64),
    /// A word, text, path, address or codec.
    Text(String),
    /// The rule of a feature flag.
    Rule(Box<FlagRule>),
}

impl Kind {
    /// Reads a value.
    ///
    /// # Errors
    /// What is wrong with it, and what would be right.
    pub fn parse(self, text: &str) -> Result<Value, String> {
        let optional = matches!(
            self,
            Kind::OptionalDuration(..)
                | Kind::OptionalRate(_)
                | Kind::OptionalPath
                | Kind::OptionalAddress
                | Kind::Networks
                | Kind::Addresses(_)
                | Kind::OptionalLocalAddress
                | Kind::LocalPeers(_)
        );
        if optional && text == "none" {
            return Ok(Value::None);
        }
        self.parse_some(text)
    }

    fn parse_some(self, text: &str) -> Result<Value, String> {
        match self {
            Kind::Bool => parse_bool(text),
            Kind::Choice(words) => parse_choice(text, words),
            Kind::Integer(low, high) => parse_integer(text, low, high).map(Value::Integer),
            Kind::Number(low, high) => parse_number(text, low, high),
            Kind::Percent(low, high) => {
                parse_number(text.strip_suffix('%').unwrap_or(text).trim_end(), low, high)
            }
            Kind::Duration(low, high) | Kind::OptionalDuration(low, high) => {
                parse_duration(text, low, high)
            }
            Kind::Bytes(low, high) => parse_bytes(text, low, high),
            Kind::OptionalRate(low) => parse_rate(text, low),
            Kind::Text(limit) => parse_text(text, limit),
            Kind::Path | Kind::OptionalPath => parse_path(text),
            Kind::OptionalAddress => parse_address(text),
            Kind::Networks => parse_networks(text),
            Kind::Addresses(most) => parse_addresses(text, most),
            Kind::OptionalLocalAddress => parse_address(text).and_then(|value| {
                refuse_public(text)?;
                Ok(value)
            }),
            Kind::LocalPeers(limit) => parse_peers(text, limit),
            Kind::Codec => parse_codec(text),
            Kind::Rule(flag) => {
                flag_rule::parse(flag, text).map(|rule| Value::Rule(Box::new(rule)))
            }
        }
    }

    /// What is accepted, for help texts.
    pub fn describe(self) -> String {
        let span = |low, high| {
            let [low, high] = [low, high].map(Duration::from_millis).map(units::format_duration);
            format!("duration, {low} to {high}")
        };
        match self {
            Kind::Bool => "true or false".to_owned(),
            Kind::Choice(words) => words.join(", "),
            Kind::Integer(low, high) => format!("whole number, {low} to {high}"),
            Kind::Number(low, high) => format!("number, {low} to {high}"),
            Kind::Percent(low, high) => format!("percent, {low} to {high}"),
            Kind::Duration(low, high) => span(low, high),
            Kind::OptionalDuration(low, high) => format!("{}, or none", span(low, high)),
            Kind::Bytes(low, high) => {
                format!("size, {} to {}", units::format_bytes(low), units::format_bytes(high))
            }
            Kind::OptionalRate(low) => {
                format!("rate, at least {}, or none", units::format_rate(low))
            }
            Kind::Text(limit) => format!("text, at most {limit} bytes"),
            Kind::Path => "absolute path".to_owned(),
            Kind::OptionalPath => "absolute path, or none".to_owned(),
            Kind::OptionalAddress => "ADDRESS:PORT, or none".to_owned(),
            Kind::Networks => "ADDRESS or ADDRESS/BITS,..., or none".to_owned(),
            Kind::Addresses(most) => {
                format!("at most {most} IP addresses, separated by commas, or none")
            }
            Kind::OptionalLocalAddress => "ADDRESS:PORT, not public, or none".to_owned(),
            Kind::LocalPeers(limit) => {
                format!("HOST:PORT, at most {limit} with commas between them, or none")
            }
            Kind::Codec => "none, lz4, lz4:ACCELERATION, zstd or zstd:LEVEL".to_owned(),
            Kind::Rule(_) => format!("true, false, or {}", FlagRule::FIELDS.join(", ")),
        }
    }
}

impl Value {
    /// As JSON: numbers and truths as such, quantities as the text that reads back.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Value::Bool(truth) => (*truth).into(),
            Value::Integer(number) => (*number).into(),
            Value::Number(number) => (*number).into(),
            Value::None => serde_json::Value::Null,
            Value::Rule(rule) => serde_json::to_value(rule).unwrap_or_default(),
            other => other.to_string().into(),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::None => f.write_str("none"),
            Value::Bool(truth) => write!(f, "{truth}"),
            Value::Integer(number) => write!(f, "{number}"),
            Value::Number(number) => write!(f, "{number}"),
            Value::Duration(duration) => f.write_str(&units::format_duration(*duration)),
            Value::Bytes(bytes) => f.write_str(&units::format_bytes(*bytes)),
            Value::Rate(rate) => f.write_str(&units::format_rate(*rate)),
            Value::Text(text) => f.write_str(text),
            Value::Rule(rule) => f.write_str(&flag_rule::text(rule)),
        }
    }
}

fn parse_bool(text: &str) -> Result<Value, String> {
    match text {
        "true" => Ok(Value::Bool(true)),
        "false" => Ok(Value::Bool(false)),
        _ => Err(format!("{} is neither true nor false", units::quoted(text))),
    }
}

fn parse_choice(text: &str, words: &[&str]) -> Result<Value, String> {
    if words.contains(&text) {
        return Ok(Value::Text(text.to_owned()));
    }
    Err(format!("{} is none of: {}", units::quoted(text), words.join(", ")))
}

fn parse_integer(text: &str, low: u64, high: u64) -> Result<u64, String> {
    let number: u64 =
        text.parse().map_err(|_| format!("{} is not a whole number", units::quoted(text)))?;
    within(number, low, high, |n| n.to_string()).map(|()| number)
}

fn parse_number(text: &str, low: f64, high: f64) -> Result<Value, String> {
    let number: f64 = text
        .parse()
        .ok()
        .filter(|number: &f64| number.is_finite())
        .ok_or_else(|| format!("{} is not a number", units::quoted(text)))?;
    within(number, low, high, |n| n.to_string()).map(|()| Value::Number(number))
}

fn parse_duration(text: &str, low: u64, high: u64) -> Result<Value, String> {
    let duration = units::parse_duration(text)?;
    let [low, high] = [low, high].map(Duration::from_millis);
    within(duration, low, high, |d| units::format_duration(*d))?;
    Ok(Value::Duration(duration))
}

fn parse_bytes(text: &str, low: u64, high: u64) -> Result<Value, String> {
    let bytes = units::parse_bytes(text)?;
    within(bytes, low, high, |b| units::format_bytes(*b)).map(|()| Value::Bytes(bytes))
}

fn parse_rate(text: &str, low: u64) -> Result<Value, String> {
    let rate = units::parse_rate(text)?;
    within(rate, low, u64::MAX, |r| units::format_rate(*r)).map(|()| Value::Rate(rate))
}

fn parse_text(text: &str, limit: usize) -> Result<Value, String> {
    if text.len() > limit {
        return Err(format!(
            "{} has {} bytes; at most {limit} are allowed",
            units::quoted(text),
            text.len()
        ));
    }
    if text.chars().any(char::is_control) {
        return Err(format!("{} holds control characters", units::quoted(text)));
    }
    Ok(Value::Text(text.to_owned()))
}

fn parse_path(text: &str) -> Result<Value, String> {
    if !Path::new(text).is_absolute() || text.contains('\0') {
        return Err(format!("{} is not an absolute path", units::quoted(text)));
    }
    Ok(Value::Text(text.to_owned()))
}

fn parse_address(text: &str) -> Result<Value, String> {
    let address: SocketAddr = text.parse().map_err(|_| {
        format!("{} is not ADDRESS:PORT, such as 127.0.0.1:9090", units::quoted(text))
    })?;
    Ok(Value::Text(address.to_string()))
}

fn parse_networks(text: &str) -> Result<Value, String> {
    let networks: Networks = text.parse().map_err(|error: ParseNetworksError| error.to_string())?;
    if networks.is_empty() {
        return Err("it is empty; none is nobody".to_owned());
    }
    Ok(Value::Text(networks.to_string()))
}

fn parse_addresses(text: &str, most: usize) -> Result<Value, String> {
    let found = addresses(text)?;
    if found.len() > most {
        return Err(format!(
            "{} are {} addresses; there may be {most}",
            units::quoted(text),
            found.len()
        ));
    }
    let texts: Vec<_> = found.iter().map(ToString::to_string).collect();
    Ok(Value::Text(texts.join(", ")))
}

/// The IP addresses of a list; none of an empty text.
///
/// # Errors
/// What in it is no address.
pub fn addresses(text: &str) -> Result<Vec<IpAddr>, String> {
    let parse = |word: &str| {
        word.parse().map_err(|_| format!("{} is not an IP address", units::quoted(word)))
    };
    text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(parse).collect()
}

fn parse_peers(text: &str, limit: usize) -> Result<Value, String> {
    let peers: Vec<&str> = text.split(',').map(str::trim).collect();
    if peers.len() > limit {
        return Err(format!("{} peers; at most {limit} are allowed", peers.len()));
    }
    for peer in &peers {
        let malformed = |why| format!("{} is not HOST:PORT: {why}", units::quoted(peer));
        check_address(peer).map_err(malformed)?;
        refuse_public(peer)?;
    }
    Ok(Value::Text(peers.join(",")))
}

/// Names are looked at when they are used.
fn refuse_public(text: &str) -> Result<(), String> {
    match text.parse::<SocketAddr>() {
        Ok(address) if is_public(address.ip()) => {
            Err(format!("{} is a public address, where v1 is not spoken", units::quoted(text)))
        }
        _ => Ok(()),
    }
}

fn parse_codec(text: &str) -> Result<Value, String> {
    let codec: CodecPolicy = text.parse().map_err(|error| format!("{error}"))?;
    let options = crate::migration::MigrationOptions { codec, ..Default::default() };
    options.validate().map_err(|error| error.to_string())?;
    Ok(Value::Text(text.to_owned()))
}

fn within<T: PartialOrd>(
    value: T,
    low: T,
    high: T,
    show: impl Fn(&T) -> String,
) -> Result<(), String> {
    if value < low {
        return Err(format!("{} is below the least allowed, {}", show(&value), show(&low)));
    }
    if value > high {
        return Err(format!("{} is above the most allowed, {}", show(&value), show(&high)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_values_print_as_they_read() {
        for (kind, text) in [
            (Kind::Bool, "true"),
            (Kind::Choice(&["a", "b"]), "b"),
            (Kind::Integer(1, 64), "64"),
            (Kind::Percent(0.0, 100.0), "1.5"),
            (Kind::Duration(1, 60_000), "100ms"),
            (Kind::OptionalDuration(1, 60_000), "none"),
            (Kind::Bytes(1, 1 << 30), "64MiB"),
            (Kind::OptionalRate(1), "300mbit"),
            (Kind::Path, "/var/log"),
            (Kind::OptionalAddress, "[::1]:9090"),
            (Kind::Networks, "10.0.0.0/8,fd00::1"),
            (Kind::Networks, "none"),
            (Kind::Addresses(2), "10.0.0.1, fd00::1"),
            (Kind::Addresses(2), "none"),
            (Kind::OptionalLocalAddress, "10.0.0.1:9876"),
            (Kind::LocalPeers(2), "none"),
            (Kind::LocalPeers(2), "old-host:9876,[fd00::1]:9876"),
            (Kind::Codec, "zstd:3"),
        ] {
            assert_eq!(kind.parse(text).unwrap().to_string(), text);
            assert!(!kind.describe().is_empty());
        }
        assert_eq!(Kind::Percent(0.0, 100.0).parse("10%"), Ok(Value::Number(10.0)));
    }

    #[test]
    fn bad_values_are_named() {
        for (kind, text, what) in [
            (Kind::Bool, "yes", "neither true nor false"),
            (Kind::Choice(&["a", "b"]), "c", "none of: a, b"),
            (Kind::Integer(1, 64), "65", "65 is above the most allowed, 64"),
            (Kind::Integer(1, 64), "-1", "not a whole number"),
            (Kind::Number(0.0, 1.0), "nan", "not a number"),
            (Kind::Percent(0.0, 100.0), "101%", "above the most allowed, 100"),
            (Kind::Duration(1, 60_000), "2m", "2m is above the most allowed, 1m"),
            (Kind::Duration(1, 60_000), "none", "not a duration"),
            (Kind::Bytes(4096, 8192), "1KiB", "below the least allowed, 4KiB"),
            (Kind::OptionalRate(65_536), "1kbit", "below the least allowed"),
            (Kind::Text(4), "hello", "has 5 bytes"),
            (Kind::Text(9), "a\nb", "control characters"),
            (Kind::Path, "log", "not an absolute path"),
            (Kind::OptionalAddress, "localhost", "not ADDRESS:PORT"),
            (Kind::OptionalAddress, ":9090", "not ADDRESS:PORT"),
            (Kind::Networks, "rack2", "\"rack2\" is neither"),
            (Kind::Networks, " ", "none is nobody"),
            (Kind::Addresses(2), "10.0.0.1,eth0", "not an IP address"),
            (Kind::Addresses(1), "10.0.0.1,::1", "2 addresses; there may be 1"),
            (Kind::OptionalLocalAddress, "8.8.8.8:1", "\"8.8.8.8:1\" is a public address"),
            (Kind::LocalPeers(2), "a:1,8.8.8.8:1", "\"8.8.8.8:1\" is a public address"),
            (Kind::LocalPeers(2), "a:1,", "\"\" is not HOST:PORT: no port"),
            (Kind::LocalPeers(2), "a:1,b:2,c:3", "3 peers; at most 2"),
            (Kind::Codec, "zip", "none of: auto, none, lz4"),
            (Kind::Codec, "zstd:99", "99"),
        ] {
            let error = kind.parse(text).unwrap_err();
            assert!(error.contains(what), "{text}: {error}");
        }
    }
}

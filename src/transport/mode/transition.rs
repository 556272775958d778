//! A change of mode, with the evidence for it.

use super::estimate::PathFigures;
use super::kind::Mode;
use super::policy::Thresholds;
use serde::Serialize;
use std::fmt;

/// Why a mode changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The path's figures spoke for it for long enough.
    Measured,
    /// It was forced, for this peer or for all.
    Forced,
    /// It is no longer forced.
    Released,
    /// The peer speaks v1 alone.
    PeerIsV1,
    /// The mode before is no longer allowed.
    NotAllowed,
    /// Feature flag `hybrid_mode` is off for the peer: its mode is not measured any more.
    FlagOff,
    /// Feature flag `hybrid_mode` is on for the peer again.
    FlagOn,
}

/// A figure that can decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// Round trip.
    RttUs,
    /// Its mean deviation.
    JitterUs,
    /// Share of what was sent again, in parts of a million.
    LossPpm,
    /// Payload that the path delivers.
    RateBytesPerS,
    /// Whether RDMA reaches the peer: 1 for yes.
    Rdma,
}

/// On which side of its bound a figure was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Relation {
    /// More than the bound.
    Above,
    /// The bound or more.
    AtLeast,
    /// The bound or less.
    AtMost,
    /// Less than the bound.
    Below,
}

/// A figure that decided, and the bound that it was held against: the threshold, with what is added
/// or taken off in favour of the mode in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Ground {
    /// Which figure.
    pub figure: Figure,
    /// Its value.
    pub found: u64,
    /// How it lay.
    pub is: Relation,
    /// The bound.
    pub bound: u64,
}

/// A change of mode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Transition {
    /// The mode before.
    pub from: Mode,
    /// The mode from now on.
    pub to: Mode,
    /// Why.
    pub cause: Cause,
    /// The figures that decided; empty where none did.
    pub grounds: Vec<Ground>,
    /// Everything known of the path.
    #[serde(flatten)]
    pub figures: PathFigures,
    /// The thresholds as they are configured.
    pub thresholds: Thresholds,
    /// How long the figures had spoken against the mode before.
    pub held_us: u64,
    /// Measured changes of this peer's mode within the last minute, this one included.
    pub switches_last_minute: u32,
    /// Changes of this peer's mode, this one included.
    pub switches: u64,
}

impl Ground {
    /// Whether the figure lies as it says.
    pub fn holds(&self) -> bool {
        match self.is {
            Relation::Above => self.found > self.bound,
            Relation::AtLeast => self.found >= self.bound,
            Relation::AtMost => self.found <= self.bound,
            Relation::Below => self.found < self.bound,
        }
    }
}

impl fmt::Display for Ground {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, scale, unit) = match self.figure {
            Figure::RttUs => ("round trip", 1e3, "ms"),
            Figure::JitterUs => ("jitter", 1e3, "ms"),
            Figure::LossPpm => ("loss", 1e4, "%"),
            Figure::RateBytesPerS => ("rate", 125_000.0, "Mbit/s"),
            Figure::Rdma if self.found == 0 => return write!(f, "rate unknown, and no RDMA"),
            Figure::Rdma => return write!(f, "rate unknown, and RDMA reaches the peer"),
        };
        let relation = match self.is {
            Relation::Above => "above",
            Relation::AtLeast => "at least",
            Relation::AtMost => "at most",
            Relation::Below => "below",
        };
        let [found, bound] = [self.found, self.bound].map(|value| value as f64 / scale);
        write!(f, "{name} {found:.3} {unit}, {relation} {bound:.3}")
    }
}

impl fmt::Display for Transition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}: ", self.from, self.to)?;
        match self.cause {
            Cause::Forced => write!(f, "forced"),
            Cause::Released => write!(f, "no longer forced"),
            Cause::PeerIsV1 => write!(f, "the peer speaks v1 alone"),
            Cause::NotAllowed => write!(f, "{} is not allowed", self.from),
            Cause::FlagOff => write!(f, "feature flag hybrid_mode is off for this peer"),
            Cause::FlagOn => write!(f, "feature flag hybrid_mode is on for this peer"),
            Cause::Measured => {
                for ground in &self.grounds {
                    write!(f, "{ground}; ")?;
                }
                write!(f, "for {:.1} s", self.held_us as f64 / 1e6)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transition() -> Transition {
        let ground =
            Ground { figure: Figure::RttUs, found: 80_123, is: Relation::Above, bound: 50_000 };
        Transition {
            from: Mode::Datacenter,
            to: Mode::Internet,
            cause: Cause::Measured,
            grounds: vec![ground],
            figures: PathFigures { rtt_us: Some(80_123), ..PathFigures::default() },
            thresholds: Thresholds::default(),
            held_us: 6_000_000,
            switches_last_minute: 1,
            switches: 3,
        }
    }

    #[test]
    fn the_text_names_what_decided() {
        let text = transition().to_string();
        assert_eq!(text, "datacenter to internet: round trip 80.123 ms, above 50.000; for 6.0 s");
        let forced = Transition { cause: Cause::Forced, ..transition() };
        assert_eq!(forced.to_string(), "datacenter to internet: forced");
    }

    #[test]
    fn the_json_has_figures_and_thresholds() {
        let json = serde_json::to_value(transition()).unwrap();
        assert_eq!(json["from"], "datacenter");
        assert_eq!(json["cause"], "measured");
        assert_eq!(json["rtt_us"], 80_123);
        assert_eq!(json["grounds"][0]["figure"], "rtt_us");
        assert_eq!(json["grounds"][0]["bound"], 50_000);
        assert_eq!(json["thresholds"]["internet_rtt_us"], 50_000);
        assert!(json["jitter_us"].is_null());
    }
}

//! An answer about one flag and one unit, and why it is so.

use super::flag::Flag;
use super::percent::Percent;
use super::wall_time;
use serde::{Serialize, Serializer};
use std::fmt;

/// Whether a unit has a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The answer.
    pub is_on: bool,
    /// Why.
    pub reason: Reason,
}

/// Why a decision is as it is: the first of the questions of [`super`] that applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Reason {
    /// Off: the kill switch is on.
    KillSwitch,
    /// Off: nobody enabled it.
    NotEnabled,
    /// Off: its time is over.
    Expired {
        /// Since when, in seconds since 1970.
        expired_s: u64,
    },
    /// Off: a declared switch whose component does not exist yet.
    NotBuilt,
    /// Off: on the deny list.
    Denied,
    /// Off: the other end does not take part.
    PeerCannot,
    /// Off: what it stands on is off for the same unit.
    PrerequisiteUnmet {
        /// The first such flag.
        #[serde(rename = "prerequisite")]
        flag: Flag,
    },
    /// Off: rolled back, and not cleared since.
    LatchedOff,
    /// On: on the allow list.
    Allowed,
    /// On: the percentage includes it.
    Percentage {
        /// Where the unit stands, from 0 to 999,999.
        bucket: u32,
        /// The percentage.
        percent: Percent,
    },
    /// Off: the percentage has not come to it.
    BelowPercentage {
        /// Where the unit stands, from 0 to 999,999.
        bucket: u32,
        /// The percentage.
        percent: Percent,
    },
    /// On: among the first of the known members.
    Ranked {
        /// How many are chosen.
        chosen: u32,
        /// Of how many.
        members: u32,
    },
    /// Off: the percentage of the known members has not come to it.
    NotRanked {
        /// How many are chosen.
        chosen: u32,
        /// Of how many.
        members: u32,
    },
}

impl Reason {
    /// The name as in JSON and metrics; it never changes.
    pub const fn name(self) -> &'static str {
        match self {
            Reason::KillSwitch => "kill_switch",
            Reason::NotEnabled => "not_enabled",
            Reason::Expired { .. } => "expired",
            Reason::NotBuilt => "not_built",
            Reason::Denied => "denied",
            Reason::PeerCannot => "peer_cannot",
            Reason::PrerequisiteUnmet { .. } => "prerequisite_unmet",
            Reason::LatchedOff => "latched_off",
            Reason::Allowed => "allowed",
            Reason::Percentage { .. } => "percentage",
            Reason::BelowPercentage { .. } => "below_percentage",
            Reason::Ranked { .. } => "ranked",
            Reason::NotRanked { .. } => "not_ranked",
        }
    }

    /// Whether the feature is on for this reason.
    #[inline]
    pub const fn is_on(self) -> bool {
        matches!(self, Reason::Allowed | Reason::Percentage { .. } | Reason::Ranked { .. })
    }
}

impl From<Reason> for Decision {
    #[inline]
    fn from(reason: Reason) -> Self {
        Self { is_on: reason.is_on(), reason }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::KillSwitch => to.write_str("the kill switch is on"),
            Reason::NotEnabled => to.write_str("the flag is not enabled"),
            Reason::Expired { expired_s } => {
                write!(to, "the flag expired at {}", wall_time::text(*expired_s))
            }
            Reason::NotBuilt => to.write_str("the component is not built yet"),
            Reason::Denied => to.write_str("the unit or a member of it is on the deny list"),
            Reason::PeerCannot => to.write_str("the peer does not take part"),
            Reason::PrerequisiteUnmet { flag } => {
                write!(to, "its prerequisite {flag} is off for this unit")
            }
            Reason::LatchedOff => to.write_str("it was rolled back and has not been cleared"),
            Reason::Allowed => to.write_str("the unit or a member of it is on the allow list"),
            Reason::Percentage { bucket, percent } => {
                write!(to, "the unit's place, {}, is below {percent} %", place(*bucket))
            }
            Reason::BelowPercentage { bucket, percent } => {
                write!(to, "the unit's place, {}, is not below {percent} %", place(*bucket))
            }
            Reason::Ranked { chosen, members } => {
                write!(to, "the unit is among the first {chosen} of {members} by rank")
            }
            Reason::NotRanked { chosen, members } => {
                write!(to, "the unit is not among the first {chosen} of {members} by rank")
            }
        }
    }
}

/// A bucket as a percentage.
fn place(bucket: u32) -> Percent {
    Percent::from_parts(bucket).unwrap_or(Percent::FULL)
}

impl fmt::Display for Decision {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}: {}", if self.is_on { "on" } else { "off" }, self.reason)
    }
}

impl Serialize for Decision {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Written {
            is_on: bool,
            #[serde(flatten)]
            reason: Reason,
            text: String,
        }
        let Decision { is_on, reason } = *self;
        Written { is_on, reason, text: reason.to_string() }.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERCENT: Percent = Percent::whole(10);
    const ALL: [Reason; 13] = [
        Reason::KillSwitch,
        Reason::NotEnabled,
        Reason::Expired { expired_s: 1_798_761_600 },
        Reason::NotBuilt,
        Reason::Denied,
        Reason::PeerCannot,
        Reason::PrerequisiteUnmet { flag: Flag::HybridMode },
        Reason::LatchedOff,
        Reason::Allowed,
        Reason::Percentage { bucket: 99_999, percent: PERCENT },
        Reason::BelowPercentage { bucket: 735_000, percent: PERCENT },
        Reason::Ranked { chosen: 2, members: 20 },
        Reason::NotRanked { chosen: 2, members: 20 },
    ];

    #[test]
    fn every_reason_is_written_by_its_name() {
        for reason in ALL {
            let json = serde_json::to_value(Decision::from(reason)).unwrap();
            assert_eq!(json["reason"], reason.name());
            assert_eq!(json["is_on"], reason.is_on());
            assert_eq!(json["text"], reason.to_string());
        }
        let unmet = serde_json::to_value(Decision::from(ALL[6])).unwrap();
        assert_eq!(unmet["prerequisite"], "hybrid_mode");
    }

    #[test]
    fn a_decision_is_a_sentence() {
        let said = |reason| Decision::from(reason).to_string();
        assert_eq!(said(ALL[2]), "off: the flag expired at 2027-01-01T00:00:00Z");
        assert_eq!(said(ALL[6]), "off: its prerequisite hybrid_mode is off for this unit");
        assert_eq!(said(ALL[9]), "on: the unit's place, 9.9999, is below 10 %");
        assert_eq!(said(ALL[10]), "off: the unit's place, 73.5, is not below 10 %");
        assert_eq!(said(ALL[11]), "on: the unit is among the first 2 of 20 by rank");
    }
}

//! L2: which of v3's features a unit of work has, why, and who changed it.
//!
//! Pure functions of a [`FlagSet`]: no clock, no file, no thread. What reads flags holds a compiled
//! [`Snapshot`] and asks it about a [`Unit`]; the answer is a [`Decision`] with its reason. What changes
//! them goes through [`apply`], whole or refused, and leaves an [`audit::Entry`] whose chain of hashes
//! gives away any later edit; replaying the entries gives the flags back.
//!
//! A decision is made in one order, and the first that applies is the reason:
//!
//! | asked | if so |
//! |---|---|
//! | is the kill switch on? | off |
//! | is the flag not enabled, or expired? | off |
//! | is its component not built yet? | off |
//! | is the unit, or a member of it, on the deny list? | off |
//! | can the peer not do it? | off |
//! | is a prerequisite off for the same unit? | off |
//! | was it rolled back and not cleared since? | off |
//! | is the unit, or a member of it, on the allow list? | on |
//! | is the unit's bucket below the percentage? | on, else off |
//!
//! A unit's bucket follows from the flag's name, its seed and the unit alone ([`hash`]), so raising a
//! percentage only adds units, and no list moves one that is not on it.

pub mod audit;
pub mod change;
pub mod check;
pub mod controller;
pub mod decision;
pub mod edit;
pub mod flag;
pub mod guard;
pub mod hash;
pub mod membership;
pub mod percent;
pub mod rule;
pub mod schedule;
pub mod set;
pub mod simulator;
pub mod snapshot;
pub mod unit;
pub mod v1;

mod by_flag;
mod guide;
mod lists;
mod wall_time;

pub use change::{Change, ChangeAction, ChangeError, apply};
pub use check::RuleError;
pub use controller::{Action, Controller, HoldReason, RampView};
pub use decision::{Decision, Reason};
pub use edit::RuleEdit;
pub use flag::{Flag, NotBuilt, UnitKind, UnknownFlag};
pub use hash::{bucket, flag_hash};
pub use membership::{Membership, exact_units};
pub use percent::{Percent, PercentError};
pub use rule::{FlagRule, FlagRules};
pub use schedule::{Schedule, ScheduleError, Stage};
pub use set::{FlagSet, FlagState, Latch, StatePart};
pub use snapshot::{Snapshot, decide};
pub use unit::{PreparedUnit, Unit, UnitError};
pub use wall_time::{WallTimeError, parse_wall_time};

#[cfg(test)]
mod property_tests;

//! Why something about the flags could not be done.

use super::audit_log::LogError;
use crate::Status;
use crate::rollout::audit::EntryError;
use crate::rollout::guard::LimitsError;
use crate::rollout::membership::TooManyMembers;
use crate::rollout::{ChangeError, NotBuilt, ScheduleError, UnitError, UnknownFlag};

/// Something about the flags could not be done; all of it is as before.
#[derive(Debug, thiserror::Error)]
pub enum RolloutError {
    /// The change is refused.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// A flag without a component cannot be enabled.
    #[error(transparent)]
    NotBuilt(#[from] NotBuilt),
    /// No flag has this name.
    #[error(transparent)]
    UnknownFlag(#[from] UnknownFlag),
    /// The text is no unit of the flag.
    #[error(transparent)]
    Unit(#[from] UnitError),
    /// The audit log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A line of it.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// Too many members for exact percentages.
    #[error(transparent)]
    Members(#[from] TooManyMembers),
    /// A limit of the guards.
    #[error(transparent)]
    Limits(#[from] LimitsError),
    /// The stages are no schedule.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// The kill switch is not held by a call.
    #[error("the kill switch is held by {0}, and ends with that alone")]
    KillHeld(String),
    /// The node has stopped, and its flags with it.
    #[error("the node was stopped; its flags change no more")]
    Stopped,
    /// There is no schedule to stop or show.
    #[error("{0} has no schedule")]
    NoSchedule(crate::rollout::Flag),
}

impl RolloutError {
    /// The status code of this error.
    pub fn status(&self) -> Status {
        match self {
            Self::Change(error) => match error {
                ChangeError::Latched(_)
                | ChangeError::NotLatched(_)
                | ChangeError::NotKilled
                | ChangeError::Advance { .. } => Status::BadState,
                _ => Status::InvalidArgument,
            },
            Self::NotBuilt(_) => Status::Unsupported,
            Self::Stopped => Status::Stopped,
            Self::UnknownFlag(_) => Status::NotFound,
            Self::NoSchedule(_) | Self::KillHeld(_) => Status::BadState,
            Self::Unit(_) | Self::Schedule(_) | Self::Limits(_) => Status::InvalidArgument,
            Self::Members(_) | Self::Entry(_) => Status::LimitReached,
            Self::Log(error) => match error {
                LogError::Io { .. } => Status::StateFile,
                LogError::InUse(_) => Status::Busy,
                LogError::TooLong { .. } => Status::LimitReached,
                LogError::Audit { .. } | LogError::Head { .. } => Status::Corrupt,
            },
        }
    }
}

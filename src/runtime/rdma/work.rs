//! What a queue pair is asked to do, and how that can end.

use super::bindings::*;
use super::device::PortState;
use super::library::VerbError;
use super::memory::PieceError;
use crate::wire::rdma::RemoteMemory;
use std::fmt;

/// Work was not accepted; the queue pair is as it was.
#[derive(Debug, thiserror::Error)]
pub enum PostError {
    /// As much is under way as the queue pair was made for.
    #[error("{depth} pieces of work are under way, and no more fit")]
    Full {
        /// The depth.
        depth: u32,
    },
    /// Memory and queue pair belong to different domains.
    #[error("the memory is registered with another protection domain")]
    OtherDomain,
    /// The piece reaches outside the other side's memory.
    #[error(transparent)]
    Outside(#[from] PieceError),
    /// The device refuses.
    #[error(transparent)]
    Verb(#[from] VerbError),
}

/// A kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Into the other side's memory.
    Write,
    /// Out of the other side's memory.
    Read,
    /// A message to the other side.
    Send,
    /// A place for a message, or for the word that something was written.
    Receive,
}

impl fmt::Display for Work {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::Send => "send",
            Self::Receive => "receive",
        })
    }
}

/// Work that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The number that came with the work.
    pub id: u64,
    /// Its kind.
    pub work: Work,
    /// How it ended.
    pub outcome: Result<Done, WorkError>,
}

/// What work that went well brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Bytes that came, of a read or a receive.
    pub bytes: u32,
    /// The number that came with a message or a write.
    pub immediate: Option<u32>,
}

/// Work that went wrong; with it the connection has ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{work} by queue pair {pair} of {device}: {failure}; port {port} is {}", shown(*.state))]
pub struct WorkError {
    /// The kind of work.
    pub work: Work,
    /// The device.
    pub device: String,
    /// The queue pair's number.
    pub pair: u32,
    /// What the device says.
    pub failure: Failure,
    /// Its port.
    pub port: u8,
    /// The port's state after the failure; none if the device does not answer.
    pub state: Option<PortState>,
}

fn shown(state: Option<PortState>) -> String {
    state.map_or_else(|| "gone".into(), |state| state.to_string())
}

/// What a device says of work that went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It was under way when other work failed.
    #[error("given up after other work failed")]
    Flushed,
    /// No answer, however often it was asked.
    #[error("the other side does not answer")]
    NoAnswer,
    /// The other side answers, and has no place for messages.
    #[error("the other side has no place for the message")]
    NoPlace,
    /// The other side does not let this one into that memory.
    #[error("the other side refuses access to its memory")]
    RemoteAccess,
    /// The other side could not do it.
    #[error("the other side failed")]
    Remote,
    /// A message is longer than the place for it.
    #[error("the message is longer than the place for it")]
    TooLong,
    /// Memory of this side is not as registered.
    #[error("this side's memory is not open to the device")]
    LocalAccess,
    /// This side could not do it: often the network interface is down.
    #[error("this side's device failed")]
    LocalOperation,
    /// Another status, by its number.
    #[error("status {0}")]
    Other(u32),
}

impl From<ibv_wc_status> for Failure {
    fn from(status: ibv_wc_status) -> Self {
        match status {
            IBV_WC_WR_FLUSH_ERR => Self::Flushed,
            IBV_WC_RETRY_EXC_ERR | IBV_WC_RESP_TIMEOUT_ERR => Self::NoAnswer,
            IBV_WC_RNR_RETRY_EXC_ERR => Self::NoPlace,
            IBV_WC_REM_ACCESS_ERR => Self::RemoteAccess,
            IBV_WC_REM_INV_REQ_ERR | IBV_WC_REM_OP_ERR | IBV_WC_REM_ABORT_ERR => Self::Remote,
            IBV_WC_LOC_LEN_ERR => Self::TooLong,
            IBV_WC_LOC_PROT_ERR | IBV_WC_LOC_ACCESS_ERR => Self::LocalAccess,
            IBV_WC_LOC_QP_OP_ERR => Self::LocalOperation,
            other => Self::Other(other),
        }
    }
}

/// A piece of the other side's memory, by where it begins; it is as long as this side's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The memory.
    pub memory: RemoteMemory,
    /// Where in it.
    pub offset_bytes: u64,
}

impl Target {
    /// The address, if so many bytes from there are within the memory.
    pub(super) fn address(&self, length_bytes: u32) -> Result<u64, PieceError> {
        let Self { memory, offset_bytes } = *self;
        let end = offset_bytes.checked_add(length_bytes.into());
        match end.filter(|end| *end <= memory.length_bytes) {
            Some(_) => Ok(memory.address.wrapping_add(offset_bytes)),
            None => {
                Err(PieceError { offset_bytes, length_bytes, memory_bytes: memory.length_bytes })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_lies_within_the_other_sides_memory() {
        let memory = RemoteMemory { address: 0x1000, length_bytes: 100, key: 1 };
        let target = |offset_bytes| Target { memory, offset_bytes };
        assert_eq!(target(40).address(60), Ok(0x1028));
        assert_eq!(
            target(41).address(60).unwrap_err().to_string(),
            "60 bytes at offset 41 reach outside registered memory of 100 bytes"
        );
        assert!(target(u64::MAX).address(2).is_err());
    }

    #[test]
    fn an_error_names_work_pair_device_and_port() {
        let error = WorkError {
            work: Work::Write,
            device: "rxe0".into(),
            pair: 17,
            failure: IBV_WC_RETRY_EXC_ERR.into(),
            port: 1,
            state: Some(PortState::Down),
        };
        let text = "write by queue pair 17 of rxe0: the other side does not answer; port 1 is down";
        assert_eq!(error.to_string(), text);
        assert!(WorkError { state: None, ..error }.to_string().ends_with("port 1 is gone"));
    }
}

//! The one table of status codes: append-only, shared by Rust, C, Python and the wire.
//!
//! Zero is success, negatives are errors, one range of a hundred per area.

use std::fmt;

macro_rules! status_table {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal, $text:literal;)+) => {
        /// Outcome of an operation, as it crosses the C ABI and the wire.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(i32)]
        pub enum Status { $($(#[doc = $doc])+ $name = $code,)+ }

        impl Status {
            /// Every status, in table order.
            pub const ALL: &'static [Status] = &[$(Status::$name),+];

            /// The name as in C, such as `DWCP_ERR_TIMEOUT`.
            pub fn name(self) -> &'static str {
                match self { $(Status::$name => $text,)+ }
            }

            /// The status with this code.
            pub fn from_code(code: i32) -> Option<Status> {
                match code { $($code => Some(Status::$name),)+ _ => None }
            }
        }
    };
}

status_table! {
    /// Success.
    Ok = 0, "DWCP_OK";
    /// An argument is out of range or malformed.
    InvalidArgument = -1, "DWCP_ERR_INVALID_ARGUMENT";
    /// A required pointer is NULL.
    NullPointer = -2, "DWCP_ERR_NULL_POINTER";
    /// The handle was freed, or is of another kind.
    BadHandle = -3, "DWCP_ERR_BAD_HANDLE";
    /// A struct_size that this library does not know.
    BadStructSize = -4, "DWCP_ERR_BAD_STRUCT_SIZE";
    /// A panic was caught; the handle is poisoned.
    Panic = -5, "DWCP_ERR_PANIC";
    /// The caller's buffer is too small; the needed length was returned.
    BufferTooSmall = -6, "DWCP_ERR_BUFFER_TOO_SMALL";
    /// Nothing to do now; wait on the file descriptor.
    WouldBlock = -7, "DWCP_ERR_WOULD_BLOCK";
    /// The time allowed ran out.
    Timeout = -8, "DWCP_ERR_TIMEOUT";
    /// Cancelled by the caller.
    Cancelled = -9, "DWCP_ERR_CANCELLED";
    /// No object of this name or id.
    NotFound = -10, "DWCP_ERR_NOT_FOUND";
    /// An object of this name exists.
    AlreadyExists = -11, "DWCP_ERR_ALREADY_EXISTS";
    /// The object is in use, or the call came from a callback that must not make it.
    Busy = -12, "DWCP_ERR_BUSY";
    /// This host or build lacks what is needed; the text says what.
    Unsupported = -13, "DWCP_ERR_UNSUPPORTED";
    /// A named limit was reached.
    LimitReached = -14, "DWCP_ERR_LIMIT_REACHED";
    /// An operating system call failed.
    Io = -15, "DWCP_ERR_IO";
    /// The node has been stopped.
    Stopped = -16, "DWCP_ERR_STOPPED";
    /// The operation is not allowed in this state.
    BadState = -17, "DWCP_ERR_BAD_STATE";

    /// The first bytes are not this protocol's.
    BadMagic = -100, "DWCP_ERR_BAD_MAGIC";
    /// The peer speaks a version that this library does not.
    BadVersion = -101, "DWCP_ERR_BAD_VERSION";
    /// A frame is malformed, truncated or too long.
    BadFrame = -102, "DWCP_ERR_BAD_FRAME";
    /// The peer requires a feature that this library lacks.
    UnknownFeature = -103, "DWCP_ERR_UNKNOWN_FEATURE";
    /// A message came in a state that does not allow it.
    UnexpectedMessage = -104, "DWCP_ERR_UNEXPECTED_MESSAGE";

    /// No connection could be made.
    Connect = -200, "DWCP_ERR_CONNECT";
    /// All connections are lost and did not come back in time.
    ConnectionLost = -201, "DWCP_ERR_CONNECTION_LOST";
    /// The peer accepted data but did not move on in time.
    PeerStalled = -202, "DWCP_ERR_PEER_STALLED";
    /// The peer refused; the text holds its reason.
    Refused = -203, "DWCP_ERR_REFUSED";

    /// Bytes do not match their checksum, or do not decode.
    Corrupt = -300, "DWCP_ERR_CORRUPT";
    /// The image digests of the two sides differ.
    DigestMismatch = -301, "DWCP_ERR_DIGEST_MISMATCH";

    /// The two sides' memory regions differ.
    LayoutMismatch = -400, "DWCP_ERR_LAYOUT_MISMATCH";
    /// The guest dirties memory faster than it can be sent.
    DidNotConverge = -401, "DWCP_ERR_DID_NOT_CONVERGE";
    /// The peer gave the migration up; the text holds its reason.
    PeerAborted = -402, "DWCP_ERR_PEER_ABORTED";
    /// The link broke at the commit point: only the destination knows who owns the guest.
    InDoubt = -403, "DWCP_ERR_IN_DOUBT";
    /// The state file could not be written.
    StateFile = -404, "DWCP_ERR_STATE_FILE";
    /// The guest ran at the destination and pages that it lacked are lost, or it is lost itself.
    PostCopyLost = -405, "DWCP_ERR_POST_COPY_LOST";

    /// A callback of the hypervisor failed.
    Callback = -500, "DWCP_ERR_CALLBACK";

    /// A configuration value or file is wrong.
    Config = -600, "DWCP_ERR_CONFIG";
}

impl Status {
    /// The number that crosses the C ABI.
    pub fn code(self) -> i32 {
        self as i32
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl serde::Serialize for Status {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_are_unique_and_round_trip() {
        let mut names = std::collections::BTreeSet::new();
        for status in Status::ALL {
            assert_eq!(Status::from_code(status.code()), Some(*status));
            assert!(names.insert(status.name()), "{status} twice");
        }
        assert_eq!(Status::from_code(-99_999), None);
    }
}

//! Functions of the library as a whole: versions, status names, the last error.

use super::codes::{DWCP_ABI_VERSION, dwcp_status};
use super::guard;
use super::strings;
use crate::Status;
use std::ffi::{CStr, c_char};

const VERSION_TEXT: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");

/// Version of the binary interface that the loaded library has; compare with DWCP_ABI_VERSION.
/// Threads: shared.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_abi_version() -> u32 {
    DWCP_ABI_VERSION
}

/// The library's version, such as "0.1.0"; a constant. Threads: shared.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_version() -> *const c_char {
    VERSION_TEXT.as_ptr().cast()
}

/// The name of a status, such as "DWCP_ERR_TIMEOUT"; a constant, "DWCP_ERR_UNKNOWN" for a code that
/// is not in the table. Threads: shared.
#[unsafe(no_mangle)]
pub extern "C" fn dwcp_status_name(code: dwcp_status) -> *const c_char {
    name_with_nul(code).as_ptr()
}

/// Text of the last failure on this thread, empty if there was none. Never fails with anything but
/// DWCP_ERR_BUFFER_TOO_SMALL or DWCP_ERR_NULL_POINTER. Threads: each thread has its own.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dwcp_last_error(
    buffer: *mut c_char,
    length: usize,
    needed: *mut usize,
) -> dwcp_status {
    // SAFETY: the caller vouches for buffer and needed, as the header says.
    let copied =
        guard::with_last_error(|text| unsafe { strings::copy_out(text, buffer, length, needed) });
    copied.map_or_else(|failure| failure.status.code(), |()| Status::Ok.code())
}

macro_rules! c_names {
    ($($code:ident),+ $(,)?) => {
        fn name_with_nul(code: dwcp_status) -> &'static CStr {
            match code {
                $(super::codes::$code => {
                    const NAME: &CStr = match CStr::from_bytes_with_nul(
                        concat!(stringify!($code), "\0").as_bytes()) {
                        Ok(name) => name,
                        Err(_) => c"",
                    };
                    NAME
                })+
                _ => c"DWCP_ERR_UNKNOWN",
            }
        }
    };
}

c_names! {
    DWCP_OK, DWCP_ERR_INVALID_ARGUMENT, DWCP_ERR_NULL_POINTER, DWCP_ERR_BAD_HANDLE,
    DWCP_ERR_BAD_STRUCT_SIZE, DWCP_ERR_PANIC, DWCP_ERR_BUFFER_TOO_SMALL, DWCP_ERR_WOULD_BLOCK,
    DWCP_ERR_TIMEOUT, DWCP_ERR_CANCELLED, DWCP_ERR_NOT_FOUND, DWCP_ERR_ALREADY_EXISTS,
    DWCP_ERR_BUSY, DWCP_ERR_UNSUPPORTED, DWCP_ERR_LIMIT_REACHED, DWCP_ERR_IO, DWCP_ERR_STOPPED,
    DWCP_ERR_BAD_STATE, DWCP_ERR_BAD_MAGIC, DWCP_ERR_BAD_VERSION, DWCP_ERR_BAD_FRAME,
    DWCP_ERR_UNKNOWN_FEATURE, DWCP_ERR_UNEXPECTED_MESSAGE, DWCP_ERR_CONNECT,
    DWCP_ERR_CONNECTION_LOST, DWCP_ERR_PEER_STALLED, DWCP_ERR_REFUSED, DWCP_ERR_CORRUPT,
    DWCP_ERR_DIGEST_MISMATCH, DWCP_ERR_LAYOUT_MISMATCH, DWCP_ERR_DID_NOT_CONVERGE,
    DWCP_ERR_PEER_ABORTED, DWCP_ERR_IN_DOUBT, DWCP_ERR_STATE_FILE, DWCP_ERR_POST_COPY_LOST,
    DWCP_ERR_CALLBACK, DWCP_ERR_CONFIG,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_c_name() {
        for status in Status::ALL {
            assert_eq!(name_with_nul(status.code()).to_str(), Ok(status.name()));
        }
        assert_eq!(name_with_nul(7), c"DWCP_ERR_UNKNOWN");
    }
}

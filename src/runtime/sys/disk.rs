//! How much room is left where a file is.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};

/// Bytes that this user may still write to the file system of an open file.
///
/// # Errors
/// The file system does not say.
pub fn free_bytes(file: &impl AsFd) -> io::Result<u64> {
    let mut room = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the descriptor is borrowed and open; room has space for the answer.
    let code = unsafe { libc::fstatvfs(file.as_fd().as_raw_fd(), room.as_mut_ptr()) };
    if code != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so it has filled all of it.
    let room = unsafe { room.assume_init() };
    Ok(room.f_bavail.saturating_mul(room.f_frsize))
}

#[cfg(test)]
mod tests {
    #[test]
    fn some_room_is_left() {
        let file = std::fs::File::open(std::env::temp_dir()).unwrap();
        assert!(super::free_bytes(&file).unwrap() > 0);
    }
}

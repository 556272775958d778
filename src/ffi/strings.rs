//! Texts in and out: checked UTF-8 of bounded length in, copies into the caller's buffer out.

use super::guard::{Failure, Outcome};
use crate::Status;
use crate::base::limits::MAX_DEVICE_STATE_BYTES;
use crate::wire::cursor::floor_boundary;
use std::ffi::{CStr, c_char, c_void};
use std::ptr;

/// Longest text that a caller may pass.
const MAX_TEXT_BYTES: usize = 4096;

/// Reads a text that must be there.
///
/// # Safety
/// `pointer` is NULL or points to bytes that end with a NUL.
pub unsafe fn text_in(what: &str, pointer: *const c_char) -> Result<String, Failure> {
    // SAFETY: as the caller of this function vouches.
    unsafe { optional_text_in(what, pointer)? }.ok_or_else(|| Failure::null(what))
}

/// Reads a text that may be NULL.
///
/// # Safety
/// `pointer` is NULL or points to bytes that end with a NUL.
pub unsafe fn optional_text_in(
    what: &str,
    pointer: *const c_char,
) -> Result<Option<String>, Failure> {
    // SAFETY: as the caller of this function vouches.
    unsafe { limited_text_in(what, pointer, MAX_TEXT_BYTES) }
}

/// Reads a text that may be NULL and has at most so many bytes.
///
/// # Safety
/// `pointer` is NULL or points to bytes that end with a NUL.
pub unsafe fn limited_text_in(
    what: &str,
    pointer: *const c_char,
    limit_bytes: usize,
) -> Result<Option<String>, Failure> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller vouches for a NUL; strnlen looks no further than the limit.
    let length = unsafe { libc::strnlen(pointer, limit_bytes + 1) };
    if length > limit_bytes {
        return Err(Failure::invalid(format!("{what} is longer than {limit_bytes} bytes")));
    }
    // SAFETY: `length` bytes and the NUL after them were just found.
    let text = unsafe { CStr::from_ptr(pointer) };
    match text.to_str() {
        Ok(text) => Ok(Some(text.to_owned())),
        Err(_) => Err(Failure::invalid(format!("{what} {text:?} is not UTF-8"))),
    }
}

/// Copies a text out, ended by NUL, as the header's section "Texts" says.
///
/// # Safety
/// `buffer` is NULL or has room for `length` bytes; `needed` is NULL or can be written.
pub unsafe fn copy_out(
    text: &str,
    buffer: *mut c_char,
    length: usize,
    needed: *mut usize,
) -> Outcome {
    if !needed.is_null() {
        // SAFETY: the caller vouches for `needed`.
        unsafe { needed.write_unaligned(text.len() + 1) };
    }
    match (buffer.is_null(), length) {
        (true, 0) if needed.is_null() => return Err(Failure::null("buffer and needed")),
        (true, 0) => return Ok(()),
        (true, _) => return Err(Failure::null("buffer")),
        (false, 0) => return Err(too_small(text, length)),
        (false, _) => {}
    }
    let fits = floor_boundary(text, length - 1);
    // SAFETY: `fits` is less than `length`, so text and NUL lie within the caller's buffer, which
    // is not ours and so does not overlap `text`.
    unsafe {
        ptr::copy_nonoverlapping(text.as_ptr(), buffer.cast(), fits);
        buffer.add(fits).write(0);
    }
    if fits < text.len() { Err(too_small(text, length)) } else { Ok(()) }
}

/// The caller's bytes; NULL only with length 0.
///
/// # Safety
/// `data` is NULL or points to `length` bytes that nobody changes while the slice is in use.
pub unsafe fn bytes_in<'a>(
    what: &str,
    data: *const c_void,
    length: usize,
) -> Result<&'a [u8], Failure> {
    match (data.is_null(), length) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(Failure::null(what)),
        (false, _) if length > MAX_DEVICE_STATE_BYTES => {
            let text = format!("{what} has {length} bytes; the limit is {MAX_DEVICE_STATE_BYTES}");
            Err(Failure::new(Status::LimitReached, text))
        }
        // SAFETY: as the caller of this function vouches.
        (false, _) => Ok(unsafe { std::slice::from_raw_parts(data.cast(), length) }),
    }
}

/// A value as JSON.
pub fn json(value: &impl serde::Serialize) -> Result<String, Failure> {
    serde_json::to_string(value)
        .map_err(|error| Failure::new(Status::BadState, format!("cannot write JSON: {error}")))
}

/// The text in a fixed field of a struct, which a NUL ends.
pub fn fixed_in(what: &str, field: &[c_char]) -> Result<String, Failure> {
    let text: Vec<u8> =
        field.iter().map(|byte| *byte as u8).take_while(|byte| *byte != 0).collect();
    if text.len() == field.len() {
        return Err(Failure::invalid(format!("{what} has no NUL within its {} bytes", text.len())));
    }
    String::from_utf8(text).map_err(|_| Failure::invalid(format!("{what} is not UTF-8")))
}

/// A text in a fixed field of a struct, cut to fit and ended by NUL.
pub fn fixed<const N: usize>(text: &str) -> [c_char; N] {
    let mut field = [0; N];
    let fits = floor_boundary(text, N - 1);
    for (to, from) in field.iter_mut().zip(&text.as_bytes()[..fits]) {
        *to = *from as c_char;
    }
    field
}

fn too_small(text: &str, length: usize) -> Failure {
    let text = format!("a buffer of {length} bytes is too small for {}", text.len() + 1);
    Failure::new(Status::BufferTooSmall, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(text: &str, length: usize) -> (Result<(), Status>, Vec<u8>, usize) {
        let (mut buffer, mut needed) = (vec![b'#'; 16], 0);
        // SAFETY: the buffer has 16 bytes, and no test asks for more.
        let outcome =
            unsafe { copy_out(text, buffer.as_mut_ptr().cast(), length, &raw mut needed) };
        (outcome.map_err(|failure| failure.status), buffer, needed)
    }

    #[test]
    fn texts_fit_or_are_cut_and_always_end() {
        let (outcome, buffer, needed) = copy("abc", 4);
        assert_eq!((outcome, &buffer[..5], needed), (Ok(()), b"abc\0#".as_slice(), 4));
        let (outcome, buffer, needed) = copy("abé", 4);
        assert_eq!(outcome, Err(Status::BufferTooSmall));
        assert_eq!((&buffer[..4], needed), (b"ab\0#".as_slice(), 5));
        let (outcome, buffer, _) = copy("abc", 0);
        assert_eq!((outcome, buffer[0]), (Err(Status::BufferTooSmall), b'#'));
    }

    #[test]
    fn null_asks_for_the_length_only() {
        let mut needed = 0;
        // SAFETY: NULL with length 0 is allowed.
        let outcome = unsafe { copy_out("abc", ptr::null_mut(), 0, &raw mut needed) };
        assert_eq!((outcome, needed), (Ok(()), 4));
        // SAFETY: NULL is allowed and refused.
        let outcome = unsafe { copy_out("abc", ptr::null_mut(), 9, &raw mut needed) };
        assert_eq!(outcome.map_err(|failure| failure.status), Err(Status::NullPointer));
    }

    #[test]
    fn bad_texts_are_named() {
        // SAFETY: each literal ends with a NUL.
        let bad = unsafe { text_in("name", c"a\xff".as_ptr()) };
        assert!(bad.unwrap_err().text.contains("\\xff"));
        let long = std::ffi::CString::new(vec![b'a'; 5000]).unwrap();
        // SAFETY: as above.
        assert!(unsafe { text_in("name", long.as_ptr()) }.unwrap_err().text.contains("4096"));
        // SAFETY: NULL is allowed and refused.
        assert_eq!(unsafe { text_in("name", ptr::null()) }.unwrap_err().text, "name is NULL");
    }
}

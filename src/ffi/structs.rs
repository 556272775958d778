//! How structs cross: the caller's `struct_size` says which version of the struct it was built
//! with, so either side may be the newer one.
//!
//! A struct that is shorter than ours reads as if the rest were zero; a longer one must be zero in
//! what we do not know. Outputs are filled as far as both know them.

use super::guard::Failure;
use crate::Status;
use std::mem::MaybeUninit;
use std::ptr;

/// A `repr(C)` struct that crosses.
///
/// # Safety
/// The struct is `repr(C)`, starts with `struct_size: usize`, has no padding, and every bit pattern
/// of integers and pointers is valid in it.
pub unsafe trait SizedStruct: Copy {
    /// The C name.
    const NAME: &'static str;
    /// Its size in the first version that had it.
    const FIRST_SIZE: usize;

    /// Whether all that must be zero is.
    fn reserved_is_zero(&self) -> bool;
}

/// Reads a struct that the caller filled in.
///
/// # Safety
/// `pointer` is NULL or points to a struct of the length that its first word tells.
pub unsafe fn read<T: SizedStruct>(pointer: *const T) -> Result<T, Failure> {
    if pointer.is_null() {
        return Err(Failure::null(T::NAME));
    }
    // SAFETY: the caller vouches for the first word.
    let size = unsafe { size_of_caller(pointer)? };
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: the shorter of both lengths is copied into our own zeroed struct, which has no
    // invalid bit patterns by the trait's contract.
    let value = unsafe {
        let length = size.min(size_of::<T>());
        ptr::copy_nonoverlapping(pointer.cast::<u8>(), value.as_mut_ptr().cast(), length);
        value.assume_init()
    };
    // SAFETY: the caller vouches for `size` bytes.
    if !unsafe { tail_is_zero(pointer, size) } {
        let text = format!(
            "{} of {size} bytes sets fields that this library does not know; it knows {}",
            T::NAME,
            size_of::<T>()
        );
        return Err(Failure::new(Status::BadStructSize, text));
    }
    if !value.reserved_is_zero() {
        return Err(Failure::invalid(format!("{} has a reserved field that is not 0", T::NAME)));
    }
    Ok(value)
}

/// Checks a struct that is to be filled in after work that takes its time.
///
/// # Safety
/// As for [`write()`].
pub unsafe fn check<T: SizedStruct>(pointer: *const T) -> Result<(), Failure> {
    if pointer.is_null() {
        return Err(Failure::null(T::NAME));
    }
    // SAFETY: the caller vouches for the first word.
    unsafe { size_of_caller(pointer) }.map(|_| ())
}

/// Fills in a struct of the caller's; its `struct_size` stays.
///
/// # Safety
/// `pointer` is NULL or points to a writable struct of the length that its first word tells.
pub unsafe fn write<T: SizedStruct>(pointer: *mut T, value: &T) -> Result<(), Failure> {
    if pointer.is_null() {
        return Err(Failure::null(T::NAME));
    }
    // SAFETY: the caller vouches for the first word.
    let size = unsafe { size_of_caller(pointer)? };
    // SAFETY: the caller vouches for `size` bytes.
    unsafe { write_element(pointer.cast(), size, value) };
    Ok(())
}

/// The `struct_size` that the caller set, checked.
///
/// # Safety
/// `pointer` points to at least a `size_t`.
pub unsafe fn size_of_caller<T: SizedStruct>(pointer: *const T) -> Result<usize, Failure> {
    // SAFETY: the caller vouches for the first word; it may be unaligned.
    let size = unsafe { pointer.cast::<usize>().read_unaligned() };
    if (T::FIRST_SIZE..=MAX_STRUCT_BYTES).contains(&size) {
        return Ok(size);
    }
    let text = format!(
        "{}.struct_size is {size}; it must be {} or more, at most {MAX_STRUCT_BYTES}",
        T::NAME,
        T::FIRST_SIZE
    );
    Err(Failure::new(Status::BadStructSize, text))
}

/// Fills in one struct of `size` bytes, keeping its first word.
///
/// # Safety
/// `to` points to `size` writable bytes, and `size` is at least a word.
pub unsafe fn write_element<T: SizedStruct>(to: *mut u8, size: usize, value: &T) {
    let (word, length) = (size_of::<usize>(), size.min(size_of::<T>()));
    // SAFETY: `length` is within both structs; what the caller has beyond ours is set to zero.
    unsafe {
        ptr::copy_nonoverlapping(
            ptr::from_ref(value).cast::<u8>().add(word),
            to.add(word),
            length - word,
        );
        ptr::write_bytes(to.add(length), 0, size - length);
    }
}

/// # Safety
/// `pointer` holds `size` bytes.
unsafe fn tail_is_zero<T>(pointer: *const T, size: usize) -> bool {
    let known = size_of::<T>();
    // SAFETY: the caller vouches for `size` bytes.
    (known..size).all(|at| unsafe { pointer.cast::<u8>().add(at).read() } == 0)
}

/// Longest struct that any version will have.
const MAX_STRUCT_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Sample {
        struct_size: usize,
        value: u64,
        newer: u64,
        reserved: u64,
    }

    // SAFETY: only integers, no padding.
    unsafe impl SizedStruct for Sample {
        const NAME: &'static str = "sample";
        const FIRST_SIZE: usize = 16;

        fn reserved_is_zero(&self) -> bool {
            self.reserved == 0
        }
    }

    fn read_words(words: &[u64]) -> Result<Sample, Status> {
        // SAFETY: every test's first word is at most the slice's length in bytes, or refused.
        unsafe { read(words.as_ptr().cast::<Sample>()) }.map_err(|failure| failure.status)
    }

    #[test]
    fn older_and_newer_structs_read_alike() {
        let sample = |struct_size| Sample { struct_size, value: 5, newer: 0, reserved: 0 };
        assert_eq!(read_words(&[16, 5]), Ok(sample(16)));
        assert_eq!(read_words(&[32, 5, 0, 0]), Ok(sample(32)));
        assert_eq!(read_words(&[40, 5, 0, 0, 0]), Ok(sample(40)));
    }

    #[test]
    fn unknown_sizes_and_fields_are_refused() {
        for words in [[0u64, 5, 0, 0, 0], [15, 5, 0, 0, 0], [1 << 40, 5, 0, 0, 0], [40, 5, 0, 0, 9]]
        {
            assert_eq!(read_words(&words), Err(Status::BadStructSize));
        }
        assert_eq!(read_words(&[32, 5, 0, 1]), Err(Status::InvalidArgument));
    }

    #[test]
    fn outputs_are_cut_or_padded_to_the_callers_size() {
        let value = Sample { struct_size: 0, value: 1, newer: 2, reserved: 0 };
        let mut words = [16u64, 9, 9, 9, 9];
        // SAFETY: 16 bytes are there.
        unsafe { write(words.as_mut_ptr().cast(), &value) }.unwrap();
        assert_eq!(words, [16, 1, 9, 9, 9]);
        let mut words = [40u64, 9, 9, 9, 9];
        // SAFETY: 40 bytes are there.
        unsafe { write(words.as_mut_ptr().cast(), &value) }.unwrap();
        assert_eq!(words, [40, 1, 2, 0, 0]);
    }
}

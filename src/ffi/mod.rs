//! L5: the C ABI; every entry point goes through one guard.

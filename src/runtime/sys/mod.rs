//! All raw system calls and raw memory of the runtime; nothing above it says `unsafe` (the C ABI
//! aside).

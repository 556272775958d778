//! See `dwcp_fuzz::targets::qemu_stream`.
#![no_main]

dwcp_fuzz::target!(qemu_stream);

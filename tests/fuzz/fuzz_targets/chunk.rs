//! See `dwcp_fuzz::targets::chunk`.
#![no_main]

dwcp_fuzz::target!(chunk);

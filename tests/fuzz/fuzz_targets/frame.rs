//! See `dwcp_fuzz::targets::frame`.
#![no_main]

dwcp_fuzz::target!(frame);

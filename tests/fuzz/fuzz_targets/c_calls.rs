//! See `dwcp_fuzz::targets::c_calls`.
#![no_main]

dwcp_fuzz::target!(c_calls);

//! See `dwcp_fuzz::targets::metrics`.
#![no_main]

dwcp_fuzz::target!(metrics);

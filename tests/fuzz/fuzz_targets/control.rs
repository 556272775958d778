//! See `dwcp_fuzz::targets::control`.
#![no_main]

dwcp_fuzz::target!(control);

//! See `dwcp_fuzz::targets::v1_hde`.
#![no_main]

dwcp_fuzz::target!(v1_hde);

//! See `dwcp_fuzz::targets::v1_link`.
#![no_main]

dwcp_fuzz::target!(v1_link);

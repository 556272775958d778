//! See `dwcp_fuzz::targets::record`.
#![no_main]

dwcp_fuzz::target!(record);

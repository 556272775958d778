//! See `dwcp_fuzz::targets::store`.
#![no_main]

dwcp_fuzz::target!(store);

//! See `dwcp_fuzz::targets::flag_rules`.
#![no_main]

dwcp_fuzz::target!(flag_rules);

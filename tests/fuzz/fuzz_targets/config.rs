//! See `dwcp_fuzz::targets::config`.
#![no_main]

dwcp_fuzz::target!(config);

//! See `dwcp_fuzz::targets::paths`.
#![no_main]

dwcp_fuzz::target!(paths);

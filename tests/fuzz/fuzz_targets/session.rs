//! See `dwcp_fuzz::targets::session`.
#![no_main]

dwcp_fuzz::target!(session);

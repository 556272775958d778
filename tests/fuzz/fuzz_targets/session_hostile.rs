//! See `dwcp_fuzz::targets::session_hostile`.
#![no_main]

dwcp_fuzz::target!(session_hostile);

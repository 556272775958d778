//! See `dwcp_fuzz::targets::state_document`.
#![no_main]

dwcp_fuzz::target!(state_document);

//! See `dwcp_fuzz::targets::layout`.
#![no_main]

dwcp_fuzz::target!(layout);

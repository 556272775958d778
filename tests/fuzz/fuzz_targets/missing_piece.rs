//! See `dwcp_fuzz::targets::missing_piece`.
#![no_main]

dwcp_fuzz::target!(missing_piece);

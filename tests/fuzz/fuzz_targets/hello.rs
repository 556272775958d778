//! See `dwcp_fuzz::targets::hello`.
#![no_main]

dwcp_fuzz::target!(hello);

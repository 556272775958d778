//! See `dwcp_fuzz::targets::hybrid_decode`.
#![no_main]

dwcp_fuzz::target!(hybrid_decode);

//! See `dwcp_fuzz::targets::block_decode`.
#![no_main]

dwcp_fuzz::target!(block_decode);

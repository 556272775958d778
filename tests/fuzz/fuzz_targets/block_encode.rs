//! See `dwcp_fuzz::targets::block_encode`.
#![no_main]

dwcp_fuzz::target!(block_encode);

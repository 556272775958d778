//! See `dwcp_fuzz::targets::chunk_ack`.
#![no_main]

dwcp_fuzz::target!(chunk_ack);

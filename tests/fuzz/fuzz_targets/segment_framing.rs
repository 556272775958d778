//! See `dwcp_fuzz::targets::segment_framing`.
#![no_main]

dwcp_fuzz::target!(segment_framing);

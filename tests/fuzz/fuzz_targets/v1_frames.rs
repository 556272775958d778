//! See `dwcp_fuzz::targets::v1_frames`.
#![no_main]

dwcp_fuzz::target!(v1_frames);

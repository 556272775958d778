//! See `dwcp_fuzz::targets::hello_reply`.
#![no_main]

dwcp_fuzz::target!(hello_reply);

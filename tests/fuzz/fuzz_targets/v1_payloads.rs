//! See `dwcp_fuzz::targets::v1_payloads`.
#![no_main]

dwcp_fuzz::target!(v1_payloads);

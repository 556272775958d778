//! See `dwcp_fuzz::targets::tls_records`.
#![no_main]

dwcp_fuzz::target!(tls_records);

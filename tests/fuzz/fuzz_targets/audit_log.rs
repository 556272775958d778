//! See `dwcp_fuzz::targets::audit_log`.
#![no_main]

dwcp_fuzz::target!(audit_log);

//! See `dwcp_fuzz::targets::migration_id`.
#![no_main]

dwcp_fuzz::target!(migration_id);

//! See `dwcp_fuzz::targets::page_request`.
#![no_main]

dwcp_fuzz::target!(page_request);

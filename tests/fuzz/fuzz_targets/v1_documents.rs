//! See `dwcp_fuzz::targets::v1_documents`.
#![no_main]

dwcp_fuzz::target!(v1_documents);

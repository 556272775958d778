//! See `dwcp_fuzz::targets::rdma`.
#![no_main]

dwcp_fuzz::target!(rdma);

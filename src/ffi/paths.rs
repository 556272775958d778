//! How data leaves a node, as C sees it: caps, pacing, marks and local addresses of all its paths, and
//! pages by RDMA.

use super::codes::*;
use super::guard::{Failure, on};
use super::node::{NodeHandle, dwcp_node};
use super::strings::{fixed, fixed_in};
use super::structs::{self, SizedStruct};
use crate::config::value;
use crate::transport::{PathOptions, RdmaOptions};
use std::ffi::c_char;
use std::sync::Arc;

/// What holds for the paths of all migrations that leave a node.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct dwcp_path_options {
    /// sizeof(dwcp_path_options), set by the caller.
    pub struct_size: usize,
    /// DWCP_PATH_ bits.
    pub flags: u32,
    /// Code point that data streams are marked with (DSCP), up to 63; 0: they are not marked.
    pub dscp: u32,
    /// Cap on what all migrations that leave the node send together, shared evenly, at least 65,536;
    /// 0: none.
    pub bandwidth_limit_bytes_per_s: u64,
    /// Local addresses over which the streams of a migration are spread, up to 8, with commas between
    /// them; empty: the system chooses.
    pub source_addresses: [c_char; 368],
    /// Zero.
    pub reserved: [u64; 8],
}

/// How pages go by RDMA, in both directions.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct dwcp_rdma_options {
    /// sizeof(dwcp_rdma_options), set by the caller.
    pub struct_size: usize,
    /// DWCP_RDMA_ENABLED or 0.
    pub flags: u32,
    /// Zero.
    pub padding: u32,
    /// Most guest memory that may be registered with devices, and so pinned, at a time; 0 means 2^44.
    pub max_memory_bytes: u64,
    /// Zero.
    pub reserved: [u64; 8],
}

/// Sets what holds for the paths of all migrations that leave the node; NULL: all defaults. Holds at
/// once, for migrations under way too, but for source_addresses, which hold for those that begin
/// later. After an error all is as before. Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_set_paths(
    node: *mut dwcp_node,
    options: *const dwcp_path_options,
) -> dwcp_status {
    on(node, |node: &Arc<NodeHandle>| {
        // SAFETY: the caller vouches for options, as the header says.
        let options = unsafe { paths_in(options)? };
        Ok(node.node.set_paths(options)?)
    })
}

/// What holds for the paths of all migrations that leave the node. Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_paths(
    node: *const dwcp_node,
    options: *mut dwcp_path_options,
) -> dwcp_status {
    on(node, |node: &Arc<NodeHandle>| {
        // SAFETY: the caller vouches for options, as the header says.
        unsafe { structs::write(options, &paths_out(&node.node.paths())) }
    })
}

/// Sets whether pages may go by RDMA, which is not encrypted, and so is off until somebody has said
/// so on both sides; NULL: all defaults. Holds for connections that are made later. Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_set_rdma(
    node: *mut dwcp_node,
    options: *const dwcp_rdma_options,
) -> dwcp_status {
    on(node, |node: &Arc<NodeHandle>| {
        // SAFETY: the caller vouches for options, as the header says.
        node.node.set_rdma(unsafe { rdma_in(options)? });
        Ok(())
    })
}

/// How pages go by RDMA, defaults filled in. Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_rdma(
    node: *const dwcp_node,
    options: *mut dwcp_rdma_options,
) -> dwcp_status {
    on(node, |node: &Arc<NodeHandle>| {
        // SAFETY: the caller vouches for options, as the header says.
        unsafe { structs::write(options, &rdma_out(node.node.rdma())) }
    })
}

/// The options; NULL means all defaults.
///
/// # Safety
/// As for [`structs::read`].
unsafe fn paths_in(options: *const dwcp_path_options) -> Result<PathOptions, Failure> {
    if options.is_null() {
        return Ok(PathOptions::default());
    }
    // SAFETY: the caller vouches for options.
    let options = unsafe { structs::read(options)? };
    only("DWCP_PATH_", options.flags, DWCP_PATH_NO_PACING)?;
    let dscp = u8::try_from(options.dscp);
    let sources = value::addresses(&fixed_in("source_addresses", &options.source_addresses)?);
    Ok(PathOptions {
        bandwidth_limit_bytes_per_s: match options.bandwidth_limit_bytes_per_s {
            0 => None,
            rate => Some(rate),
        },
        pacing: options.flags & DWCP_PATH_NO_PACING == 0,
        dscp: dscp.map_err(|_| Failure::invalid(format!("dscp is {}", options.dscp)))?,
        source_addresses: sources
            .map_err(|text| Failure::invalid(format!("source_addresses: {text}")))?,
    })
}

fn paths_out(options: &PathOptions) -> dwcp_path_options {
    let sources: Vec<_> = options.source_addresses.iter().map(ToString::to_string).collect();
    dwcp_path_options {
        struct_size: size_of::<dwcp_path_options>(),
        flags: if options.pacing { 0 } else { DWCP_PATH_NO_PACING },
        dscp: options.dscp.into(),
        bandwidth_limit_bytes_per_s: options.bandwidth_limit_bytes_per_s.unwrap_or(0),
        source_addresses: fixed(&sources.join(",")),
        reserved: [0; 8],
    }
}

/// The options; NULL means all defaults.
///
/// # Safety
/// As for [`structs::read`].
unsafe fn rdma_in(options: *const dwcp_rdma_options) -> Result<RdmaOptions, Failure> {
    let defaults = RdmaOptions::default();
    if options.is_null() {
        return Ok(defaults);
    }
    // SAFETY: the caller vouches for options.
    let options = unsafe { structs::read(options)? };
    only("DWCP_RDMA_", options.flags, DWCP_RDMA_ENABLED)?;
    let max_memory_bytes = match options.max_memory_bytes {
        0 => defaults.max_memory_bytes,
        bytes => bytes,
    };
    Ok(RdmaOptions { enabled: options.flags == DWCP_RDMA_ENABLED, max_memory_bytes })
}

fn rdma_out(options: RdmaOptions) -> dwcp_rdma_options {
    dwcp_rdma_options {
        struct_size: size_of::<dwcp_rdma_options>(),
        flags: if options.enabled { DWCP_RDMA_ENABLED } else { 0 },
        padding: 0,
        max_memory_bytes: options.max_memory_bytes,
        reserved: [0; 8],
    }
}

fn only(prefix: &str, flags: u32, known: u32) -> Result<(), Failure> {
    match flags & !known {
        0 => Ok(()),
        _ => Err(Failure::invalid(format!("flags {flags:#x} holds unknown {prefix} bits"))),
    }
}

// SAFETY: integers and bytes of whole words; the layout golden file shows no gap.
unsafe impl SizedStruct for dwcp_path_options {
    const NAME: &'static str = "dwcp_path_options";
    const FIRST_SIZE: usize = size_of::<Self>();

    fn reserved_is_zero(&self) -> bool {
        self.reserved.iter().all(|word| *word == 0)
    }
}

// SAFETY: as above.
unsafe impl SizedStruct for dwcp_rdma_options {
    const NAME: &'static str = "dwcp_rdma_options";
    const FIRST_SIZE: usize = size_of::<Self>();

    fn reserved_is_zero(&self) -> bool {
        self.padding == 0 && self.reserved.iter().all(|word| *word == 0)
    }
}

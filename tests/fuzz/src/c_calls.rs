//! Sequences of C calls: each two bytes are a call and its argument, over handles that are live,
//! freed, of the wrong kind or invented. Whatever comes, a call returns a status of the table that
//! is not a panic's, and no text leaves its buffer.

use dwcp::Status;
use dwcp::ffi::callbacks::{dwcp_callback_set_error, dwcp_writer_write};
use dwcp::ffi::completion::{dwcp_completion, dwcp_node_reap, dwcp_request_complete};
use dwcp::ffi::decider::*;
use dwcp::ffi::flags::*;
use dwcp::ffi::guest::*;
use dwcp::ffi::library::{dwcp_last_error, dwcp_status_name};
use dwcp::ffi::migration::*;
use dwcp::ffi::modes::*;
use dwcp::ffi::node::*;
use dwcp::ffi::paths::*;
use dwcp::ffi::rollback::*;
use std::ffi::{c_char, c_void};
use std::ptr;

/// Calls that one input may make.
const MAX_CALLS: usize = 64;
/// Nodes that one input may start.
const MAX_NODES: usize = 3;
/// Migrations that one input may start.
const MAX_MIGRATIONS: usize = 1;

struct Calls {
    /// Every handle ever seen, freed ones and nonsense included.
    handles: Vec<*mut c_void>,
    nodes: usize,
    migrations: usize,
    memory: Vec<u8>,
}

/// Runs the calls that `data` spells.
pub fn c_calls(data: &[u8]) {
    let nonsense = [0, 1, 8, usize::MAX].map(ptr::without_provenance_mut);
    let memory = vec![0; 2 * 4096];
    let mut calls = Calls { handles: nonsense.to_vec(), nodes: 0, migrations: 0, memory };
    for pair in data.chunks_exact(2).take(MAX_CALLS) {
        let code = calls.call(pair[0], pair[1]);
        let status = Status::from_code(code);
        assert!(status.is_some_and(|status| status != Status::Panic), "{pair:?} gave {code}");
        assert!(!dwcp_status_name(code).is_null());
    }
    calls.free_all();
}

impl Calls {
    fn call(&mut self, call: u8, argument: u8) -> i32 {
        let handle = self.handles[argument as usize % self.handles.len()];
        match call % 8 {
            0 => self.new_node(argument),
            1 => self.register(handle.cast(), call / 8, argument),
            2 => self.migrate(handle.cast(), argument),
            3 => on_node(handle.cast(), call / 8, argument),
            4 => on_migration(handle.cast(), call / 8),
            5 => text_of(handle, call / 8, argument),
            6 if call / 8 > 9 => self.on_flags(handle.cast(), call / 8, argument),
            6 if call / 8 > 1 => on_peers(handle.cast(), call / 8, argument),
            6 => on_others(handle, call / 8, argument),
            // SAFETY: any value may be freed.
            _ => unsafe {
                match call / 8 % 3 {
                    0 => dwcp_node_free(handle.cast()),
                    1 => dwcp_migration_free(handle.cast()),
                    _ => dwcp_decider_free(handle.cast()),
                }
            },
        }
    }

    fn new_node(&mut self, argument: u8) -> i32 {
        if self.nodes == MAX_NODES {
            return 0;
        }
        // SAFETY: the struct holds integers and pointers that may be NULL.
        let mut options: dwcp_node_options = unsafe { std::mem::zeroed() };
        options.struct_size = size_of::<dwcp_node_options>() - usize::from(argument >> 4);
        options.event_level = u32::from(argument & 15);
        options.request_timeout_ms = 1;
        let mut node = ptr::null_mut();
        // SAFETY: a whole struct and a pointer of ours.
        let code = unsafe { dwcp_node_new(&raw const options, &raw mut node) };
        assert_eq!(code == 0, !node.is_null());
        if code == 0 {
            self.nodes += 1;
            self.handles.push(node.cast());
        }
        code
    }

    fn register(&mut self, node: *mut dwcp_node, which: u8, argument: u8) -> i32 {
        let region = dwcp_region {
            struct_size: size_of::<dwcp_region>(),
            name: if argument & 64 == 0 { c"ram".as_ptr() } else { ptr::null() },
            guest_address: 0,
            length_bytes: 4096 * u64::from(argument >> 3 & 3),
            host: self.memory.as_mut_ptr().cast(),
            reserved: [0; 3],
        };
        // SAFETY: the structs hold integers, pointers and functions that may be NULL.
        let (mut source, mut sink): (dwcp_source, dwcp_destination) = unsafe { std::mem::zeroed() };
        source.struct_size = size_of::<dwcp_source>();
        (source.regions, source.region_count) =
            (&raw const region, usize::from(argument & 128 == 0));
        sink.struct_size = size_of::<dwcp_destination>();
        (sink.regions, sink.region_count) = (source.regions, source.region_count);
        let name = name_of(argument);
        // SAFETY: whole structs of ours; a region is at most three pages long, and one of more
        // than two is only ever registered, since the migration of such a guest is never started.
        unsafe {
            match which % 4 {
                0 if region.length_bytes <= 2 * 4096 => {
                    dwcp_node_add_source(node, name, &raw const source)
                }
                1 if region.length_bytes <= 2 * 4096 => {
                    dwcp_node_add_destination(node, name, &raw const sink)
                }
                _ => dwcp_node_remove_guest(node, name),
            }
        }
    }

    fn migrate(&mut self, node: *mut dwcp_node, argument: u8) -> i32 {
        let mut migration = ptr::null_mut();
        // SAFETY: the struct holds only integers.
        let mut options: dwcp_migration_options = unsafe { std::mem::zeroed() };
        options.struct_size = size_of::<dwcp_migration_options>();
        options.codec = u32::from(argument & 7);
        options.reconnect_timeout_ms = 1;
        let real = argument == 0xff && self.migrations < MAX_MIGRATIONS;
        let to = if real { c"127.0.0.1:1" } else { c"nowhere" };
        // SAFETY: texts, a struct and a pointer of ours.
        let code = unsafe {
            let name = name_of(argument);
            dwcp_node_migrate(node, name, to.as_ptr(), &raw const options, &raw mut migration)
        };
        if !migration.is_null() {
            self.migrations += 1;
            self.handles.push(migration.cast());
        }
        code
    }

    fn on_flags(&mut self, node: *mut dwcp_node, which: u8, argument: u8) -> i32 {
        let mut decider = ptr::null_mut();
        let flag = u32::from(argument & 7);
        let unit = [c"a|b".as_ptr(), c"a".as_ptr(), c"|".as_ptr(), ptr::null()]
            [usize::from(argument >> 3 & 3)];
        if !which.is_multiple_of(11) {
            return on_flags(node, which, flag, unit);
        }
        // SAFETY: a text and a pointer of ours.
        let code = unsafe { dwcp_node_decider(node, flag, unit, &raw mut decider) };
        assert_eq!(code == 0, !decider.is_null());
        if !decider.is_null() {
            self.handles.push(decider.cast());
        }
        code
    }

    fn free_all(&self) {
        for handle in &self.handles {
            // SAFETY: any value may be freed, also twice.
            unsafe {
                dwcp_migration_free(handle.cast());
                dwcp_decider_free(handle.cast());
                dwcp_node_free(handle.cast());
                if !handle.is_null() {
                    assert_eq!(dwcp_node_free(handle.cast()), Status::BadHandle.code());
                }
            }
        }
    }
}

fn name_of(argument: u8) -> *const c_char {
    [c"vm".as_ptr(), c"other".as_ptr(), c"".as_ptr(), ptr::null()][argument as usize % 4]
}

fn on_node(node: *mut dwcp_node, which: u8, argument: u8) -> i32 {
    let (mut fd, mut count) = (-1, 0);
    // SAFETY: the struct holds integers and a pointer that may be NULL.
    let mut batch: [dwcp_completion; 4] = unsafe { std::mem::zeroed() };
    batch[0].struct_size = size_of::<dwcp_completion>() + usize::from(argument & 1);
    // SAFETY: arrays and variables of ours; one byte more than the struct leaves room for three.
    unsafe {
        match which % 4 {
            0 => dwcp_node_fd(node, &raw mut fd),
            1 => {
                dwcp_node_reap(node, batch.as_mut_ptr(), usize::from(argument % 4), &raw mut count)
            }
            2 => dwcp_request_complete(node, argument.into(), 0, batch.as_ptr().cast(), 4),
            _ => dwcp_node_stop(node),
        }
    }
}

fn on_migration(migration: *mut dwcp_migration, which: u8) -> i32 {
    let (mut number, mut status) = (0, 0);
    // SAFETY: the structs hold only integers.
    let (mut progress, mut report): (dwcp_progress, dwcp_report) = unsafe { std::mem::zeroed() };
    progress.struct_size = size_of::<dwcp_progress>();
    report.struct_size = size_of::<dwcp_report>();
    // SAFETY: variables and structs of ours.
    unsafe {
        match which % 10 {
            0 => dwcp_migration_wait(migration, 1, &raw mut status),
            1 => dwcp_migration_cancel(migration),
            2 => dwcp_migration_progress(migration, &raw mut progress),
            3 => dwcp_migration_report(migration, &raw mut report),
            4 => dwcp_migration_owner(migration, &raw mut number),
            5 => dwcp_migration_side(migration, &raw mut number),
            6 => dwcp_migration_status(migration, &raw mut status),
            7 => dwcp_migration_start_post_copy(migration),
            8 => dwcp_migration_abandon_post_copy(migration),
            _ => dwcp_migration_set_bandwidth_limit(migration, 65_536),
        }
    }
}

/// What does not wait for a peer; the addresses lead nowhere.
fn on_peers(node: *mut dwcp_node, which: u8, argument: u8) -> i32 {
    let peer = [c"127.0.0.1:1".as_ptr(), c"h:2".as_ptr(), c"h:0".as_ptr(), ptr::null()]
        [argument as usize % 4];
    let mode = u32::from(argument >> 2 & 7);
    // SAFETY: the structs hold only integers.
    let (mut known, mut options, mut paths): (
        dwcp_peer,
        dwcp_transport_options,
        dwcp_path_options,
    ) = unsafe { std::mem::zeroed() };
    known.struct_size = size_of::<dwcp_peer>();
    options.struct_size = size_of::<dwcp_transport_options>() - usize::from(argument & 1);
    (options.mode, options.congestion) = (mode, mode);
    options.internet_streams = argument.into();
    paths.struct_size = size_of::<dwcp_path_options>() - usize::from(argument & 1);
    paths.dscp = argument.into();
    paths.source_addresses.fill(if argument & 2 == 0 { 0 } else { argument.cast_signed() });
    // SAFETY: texts and structs of ours.
    unsafe {
        match which % 8 {
            0 => dwcp_node_add_peer(node, peer),
            1 => dwcp_node_remove_peer(node, peer),
            2 => dwcp_node_peer(node, peer, &raw mut known),
            3 => dwcp_node_set_mode(node, peer, mode),
            4 => dwcp_node_set_transport(node, &raw const options),
            5 => dwcp_node_transport(node, &raw mut options),
            6 => dwcp_node_set_paths(node, &raw const paths),
            _ => dwcp_node_paths(node, &raw mut paths),
        }
    }
}

/// The flags of a node, and what is asked of a decider, which any handle may be taken for.
fn on_flags(node: *mut dwcp_node, which: u8, flag: u32, unit: *const c_char) -> i32 {
    // SAFETY: the structs hold integers and pointers that may be NULL.
    let (mut state, mut change, mut decision): (
        dwcp_flag_state,
        dwcp_flag_change,
        dwcp_flag_decision,
    ) = unsafe { std::mem::zeroed() };
    state.struct_size = size_of::<dwcp_flag_state>();
    change.struct_size = size_of::<dwcp_flag_change>();
    // SAFETY: the struct holds only integers.
    let mut limits: dwcp_rollback_limits = unsafe { std::mem::zeroed() };
    limits.struct_size = size_of::<dwcp_rollback_limits>();
    (limits.flags, limits.stage_count, limits.max_error_rate_ppm) = (flag & 3, flag, flag << 20);
    decision.struct_size = size_of::<dwcp_flag_decision>();
    (change.flag, change.fields, change.rollout_ppm) = (flag, flag, 125_000 * flag);
    (change.allow_list, change.deny_list, change.prerequisites) = (unit, ptr::null(), unit);
    // SAFETY: texts and structs of ours.
    unsafe {
        match which % 11 {
            1 => dwcp_node_flag(node, flag, &raw mut state),
            2 => dwcp_node_set_flags(node, &raw const change, 1, unit, c"why".as_ptr()),
            3 => dwcp_node_disable_all_flags(node, ptr::null(), unit),
            4 => dwcp_node_set_kill_switch(node, ptr::null(), unit),
            5 => dwcp_node_explain_flag(node, flag, unit, &raw mut decision),
            6 => dwcp_decider_explain(node.cast(), &raw mut decision),
            7 => dwcp_node_set_rollback_limits(node, &raw const limits),
            8 => dwcp_node_rollback_limits(node, &raw mut limits),
            9 => dwcp_node_start_schedule(node, flag, unit, ptr::null(), c"why".as_ptr()),
            10 => dwcp_node_stop_schedule(node, flag, ptr::null(), unit),
            _ => {
                assert!(matches!(dwcp_decider_is_on(node.cast()), 0 | 1));
                0
            }
        }
    }
}

/// A text into a buffer of any length, which has a mark behind it.
fn text_of(handle: *mut c_void, which: u8, argument: u8) -> i32 {
    let mut buffer = [0x55_u8; 260];
    let (length, mut needed) = (usize::from(argument), 0);
    let (to, need): (*mut c_char, _) = (buffer.as_mut_ptr().cast(), &raw mut needed);
    let (node, migration) = (handle.cast::<dwcp_node>(), handle.cast::<dwcp_migration>());
    // SAFETY: the buffer is longer than the length told.
    let code = unsafe {
        match which % 12 {
            0 => dwcp_node_name(node, to, length, need),
            1 => dwcp_node_listen_address(node, to, length, need),
            2 => dwcp_node_guests_json(node, to, length, need),
            3 => dwcp_node_events_json(node, 0, length, to, length, need),
            4 => dwcp_migration_id(migration, to, length, need),
            5 => dwcp_migration_reason(migration, to, length, need),
            6 => dwcp_migration_report_json(migration, to, length, need),
            7 => dwcp_node_peers_json(node, to, length, need),
            8 => dwcp_node_flags_json(node, to, length, need),
            9 => dwcp_node_flag_history_json(node, length, to, length, need),
            10 => dwcp_node_rollouts_json(node, to, length, need),
            _ => dwcp_last_error(to, length, need),
        }
    };
    assert!(buffer[length..].iter().all(|byte| *byte == 0x55), "wrote past {length} bytes");
    assert!(code != 0 || needed <= length && buffer[needed - 1] == 0);
    code
}

fn on_others(handle: *mut c_void, which: u8, argument: u8) -> i32 {
    let bytes = [argument; 8];
    // SAFETY: texts and bytes of ours.
    unsafe {
        match which % 2 {
            0 => dwcp_writer_write(handle.cast(), bytes.as_ptr().cast(), bytes.len()),
            _ => dwcp_callback_set_error(c"text".as_ptr()),
        }
    }
}

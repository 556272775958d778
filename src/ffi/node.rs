//! Nodes as C sees them.

use super::codes::*;
use super::guard::{Failure, Outcome, guard, guard_unless_in_callback, on, on_unless_in_callback};
use super::handle::{self, Handled, Kind, Object};
use super::queue::CompletionQueue;
use super::requests::RequestTable;
use super::strings;
use super::structs::{self, SizedStruct};
use crate::observe::Level;
use crate::runtime::control::{ControlError, ControlOptions, ControlServer, serve_control};
use crate::runtime::held::HeldOptions;
use crate::runtime::security::{SecurityOptions, name_list};
use crate::runtime::sys::spawn_named;
use crate::{Node, NodeOptions, Status};
use std::ffi::c_char;
use std::path::PathBuf;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A node: listens, holds guests, runs migrations.
pub struct dwcp_node {
    _private: [u8; 0],
}

/// How a node is set up.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct dwcp_node_options {
    /// sizeof(dwcp_node_options).
    pub struct_size: usize,
    /// The node's name, shown to peers; NULL means the host's name.
    pub name: *const c_char,
    /// Where to listen for incoming migrations, such as `127.0.0.1:0` or `[::]:7000`; NULL: only
    /// outgoing ones.
    pub listen: *const c_char,
    /// Directory for ownership records, which survive a crash; NULL: kept in memory only.
    pub state_dir: *const c_char,
    /// A DWCP_EVENTS_: which events become completions.
    pub event_level: u32,
    /// How long a request may stay unanswered before it counts as failed; 0 means 30,000.
    pub request_timeout_ms: u32,
    /// DWCP_NODE_ bits.
    pub flags: u32,
    /// Zero.
    pub padding: u32,
    /// How much is kept of the pages of QEMU's guests that left or came, at least 1048576: in
    /// state_dir, encrypted, or, less of it, in memory if that is NULL; 0 means 4 GiB.
    pub held_bytes: u64,
    /// Directory with the node's key and certificate (`dwcp-v3-cli identity issue`): connections are
    /// over TLS. NULL with DWCP_NODE_PLAIN: they are not secured; without it: there are none.
    pub identity_dir: *const c_char,
    /// Names of the nodes that are talked to, separated by commas; NULL: all that are trusted.
    pub allowed_peers: *const c_char,
    /// Zero.
    pub reserved: [u64; 4],
}

/// Starts a node. Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_new(
    options: *const dwcp_node_options,
    node: *mut *mut dwcp_node,
) -> dwcp_status {
    guard(|| {
        if node.is_null() {
            return Err(Failure::null("node"));
        }
        // SAFETY: the caller vouches for options and node, as the header says.
        unsafe {
            node.write_unaligned(ptr::null_mut());
            let created = NodeHandle::start(&structs::read(options)?)?;
            node.write_unaligned(handle::insert(created)?);
        }
        Ok(())
    })
}

/// Stops the node and frees it; its migration handles stay valid and are freed on their own.
/// Returns once no callback runs any more. NULL is allowed. Threads: shared, not from a callback.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dwcp_node_free(node: *mut dwcp_node) -> dwcp_status {
    guard_unless_in_callback("dwcp_node_free", || {
        if !node.is_null() {
            handle::remove::<NodeHandle>(node)?.stop();
        }
        Ok(())
    })
}

/// Stops the node: migrations before their commit point are cancelled, guests staying where they
/// are, the others are waited for: one in post-copy until its last page has come, or until
/// dwcp_migration_abandon_post_copy(). Further calls do nothing. Threads: shared, not from a callback.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_stop(node: *mut dwcp_node) -> dwcp_status {
    on_unless_in_callback("dwcp_node_stop", node, |node: &Arc<NodeHandle>| {
        node.stop();
        Ok(())
    })
}

/// Copies out the node's name. Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_name(
    node: *const dwcp_node,
    buffer: *mut c_char,
    length: usize,
    needed: *mut usize,
) -> dwcp_status {
    // SAFETY: the caller vouches for buffer and needed, as the header says.
    on(node, |node: &Arc<NodeHandle>| unsafe {
        strings::copy_out(node.node.name(), buffer, length, needed)
    })
}

/// Copies out where the node listens, such as "127.0.0.1:7000", with the port that was chosen;
/// DWCP_ERR_NOT_FOUND if it does not. Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_listen_address(
    node: *const dwcp_node,
    buffer: *mut c_char,
    length: usize,
    needed: *mut usize,
) -> dwcp_status {
    on(node, |node: &Arc<NodeHandle>| {
        let Some(address) = node.node.local_address() else {
            return Err(Failure::new(Status::NotFound, "the node does not listen"));
        };
        // SAFETY: the caller vouches for buffer and needed, as the header says.
        unsafe { strings::copy_out(&address.to_string(), buffer, length, needed) }
    })
}

/// The node's file descriptor: readable while completions wait. Poll it, reap when it is readable,
/// never read or close it; it stays the node's. Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_fd(node: *const dwcp_node, fd: *mut i32) -> dwcp_status {
    on(node, |node: &Arc<NodeHandle>| {
        if fd.is_null() {
            return Err(Failure::null("fd"));
        }
        // SAFETY: the caller vouches for fd.
        unsafe { fd.write_unaligned(node.queue.descriptor()) };
        Ok(())
    })
}

/// Ends a guest's registration; its drop callback runs soon after. DWCP_ERR_BUSY while it is being
/// migrated. Threads: shared, not from a callback.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_remove_guest(
    node: *mut dwcp_node,
    guest: *const c_char,
) -> dwcp_status {
    on_unless_in_callback("dwcp_node_remove_guest", node, |node: &Arc<NodeHandle>| {
        // SAFETY: the caller vouches for guest, as the header says.
        let name = unsafe { strings::text_in("guest", guest)? };
        Ok(node.node.remove_guest(&name)?)
    })
}

/// Lets go of pages that the node keeps of QEMU's guests that left or came, which a guest that comes
/// back, or one like it, then brings again: of guest, or of all if it is NULL; those that were brought
/// at least older_than_s seconds ago, 0 for all. cleared_bytes, if it is not NULL, becomes how much
/// that was. Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_clear_held(
    node: *mut dwcp_node,
    guest: *const c_char,
    older_than_s: u64,
    cleared_bytes: *mut u64,
) -> dwcp_status {
    on(node, |node: &Arc<NodeHandle>| {
        // SAFETY: the caller vouches for guest, as the header says.
        let name = unsafe { strings::optional_text_in("guest", guest)? };
        let age = Some(Duration::from_secs(older_than_s)).filter(|age| !age.is_zero());
        let cleared = node.node.clear_held(name.as_deref(), age);
        // SAFETY: the caller vouches for cleared_bytes, as the header says.
        if let Some(cleared_bytes) = unsafe { cleared_bytes.as_mut() } {
            *cleared_bytes = cleared.bytes;
        }
        Ok(())
    })
}

/// Copies out the registered guests as a JSON array. Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_guests_json(
    node: *const dwcp_node,
    buffer: *mut c_char,
    length: usize,
    needed: *mut usize,
) -> dwcp_status {
    on(node, |node: &Arc<NodeHandle>| {
        let text = strings::json(&node.node.guests())?;
        // SAFETY: the caller vouches for buffer and needed, as the header says.
        unsafe { strings::copy_out(&text, buffer, length, needed) }
    })
}

/// Copies out a JSON array of at most `limit` events with a sequence above `after`, oldest first;
/// the last 4096 are kept. Threads: shared.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_events_json(
    node: *const dwcp_node,
    after: u64,
    limit: usize,
    buffer: *mut c_char,
    length: usize,
    needed: *mut usize,
) -> dwcp_status {
    on(node, |node: &Arc<NodeHandle>| {
        let mut events = node.node.events(after);
        events.truncate(limit);
        let text = strings::json(&events)?;
        // SAFETY: the caller vouches for buffer and needed, as the header says.
        unsafe { strings::copy_out(&text, buffer, length, needed) }
    })
}

/// Lets dwcp-v3-cli ask and command this node, over a unix socket at `path` that only this user may
/// open; until the node stops. One socket a node. After this, dlclose() unmaps the library only once
/// the threads that called it have ended. Threads: shared, not from a callback.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn dwcp_node_serve_control(
    node: *mut dwcp_node,
    path: *const c_char,
) -> dwcp_status {
    on_unless_in_callback("dwcp_node_serve_control", node, |node: &Arc<NodeHandle>| {
        // SAFETY: the caller vouches for path, as the header says.
        let path = unsafe { strings::text_in("path", path)? };
        node.serve_control(path.into())
    })
}

/// What a node handle names.
pub struct NodeHandle {
    /// The facade.
    pub node: Node,
    /// What waits behind the file descriptor.
    pub queue: Arc<CompletionQueue>,
    /// Requests that the host has not answered.
    pub requests: Arc<RequestTable>,
    control: Mutex<Option<ControlServer>>,
}

impl NodeHandle {
    fn start(options: &dwcp_node_options) -> Result<Self, Failure> {
        let level = level_of(options.event_level)?;
        let timeout = match options.request_timeout_ms {
            0 => DEFAULT_REQUEST_TIMEOUT,
            milliseconds => Duration::from_millis(milliseconds.into()),
        };
        let queue = CompletionQueue::new(level)
            .map_err(|error| Failure::new(Status::Io, format!("eventfd: {error}")))?;
        let queue = Arc::new(queue);
        let requests = Arc::new(RequestTable::new(Arc::clone(&queue), timeout));
        // SAFETY: whoever called dwcp_node_new vouches for the texts.
        let node = Node::start(unsafe { facade_options(options)? })?;
        let events = Arc::clone(&queue);
        node.observe(Arc::new(move |event| events.push_event(event)));
        Ok(Self { node, queue, requests, control: Mutex::new(None) })
    }

    fn serve_control(&self, path: PathBuf) -> Outcome {
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        if control.is_some() {
            let text = "the node has a control socket already";
            return Err(Failure::new(Status::AlreadyExists, text));
        }
        // On a thread of ours, so that none of the server's thread-locals stays on the host's.
        let node = self.node.clone();
        let serve = move || serve_control(&node, &path, ControlOptions::default());
        let thread = spawn_named("dwcp-setup", serve)
            .map_err(|error| Failure::new(Status::Io, format!("no thread: {error}")))?;
        let served = thread.join().map_err(|_| Failure::new(Status::Panic, "serve_control"))?;
        let failed = |error: ControlError| Failure::new(error.status(), error.to_string());
        *control = Some(served.map_err(failed)?);
        Ok(())
    }

    fn stop(&self) {
        let control = self.control.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(control);
        self.requests.close();
        self.node.stop();
    }
}

/// Dropped by the last thread that uses it: `dwcp_node_free` cannot wait for the others.
impl Drop for NodeHandle {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Handled for NodeHandle {
    type Opaque = dwcp_node;
    const NAME: &'static str = "dwcp_node";
    const KIND: Kind = Kind::Node;

    fn wrap(object: Arc<Self>) -> Object {
        Object::Node(object)
    }

    fn unwrap(object: &Object) -> Option<&Arc<Self>> {
        match object {
            Object::Node(node) => Some(node),
            _ => None,
        }
    }
}

// SAFETY: integers and pointers of whole words; the layout golden file shows no gap.
unsafe impl SizedStruct for dwcp_node_options {
    const NAME: &'static str = "dwcp_node_options";
    const FIRST_SIZE: usize = size_of::<Self>();

    fn reserved_is_zero(&self) -> bool {
        self.padding == 0 && self.reserved == [0; 4]
    }
}

/// # Safety
/// The texts of `options` are NULL or end with NUL.
unsafe fn facade_options(options: &dwcp_node_options) -> Result<NodeOptions, Failure> {
    // SAFETY: the caller of this function vouches for the texts.
    let (name, listen, state_dir) = unsafe {
        (
            strings::optional_text_in("name", options.name)?,
            strings::optional_text_in("listen", options.listen)?,
            strings::optional_text_in("state_dir", options.state_dir)?,
        )
    };
    let listen = listen.map(|text| {
        let bad = |error| Failure::invalid(format!("listen {text:?} is not IP:PORT: {error}"));
        text.parse().map_err(bad)
    });
    Ok(NodeOptions {
        name: name.unwrap_or_default(),
        listen: listen.transpose()?,
        state_dir: state_dir.map(Into::into),
        held: held_options(options)?,
        // SAFETY: as above.
        security: unsafe { security_options(options)? },
        ..NodeOptions::default()
    })
}

/// # Safety
/// As [`facade_options`].
unsafe fn security_options(options: &dwcp_node_options) -> Result<SecurityOptions, Failure> {
    // SAFETY: the caller of this function vouches for the texts.
    let (identity_dir, allowed_peers) = unsafe {
        (
            strings::optional_text_in("identity_dir", options.identity_dir)?,
            strings::optional_text_in("allowed_peers", options.allowed_peers)?,
        )
    };
    let is_plain = options.flags & DWCP_NODE_PLAIN != 0;
    match identity_dir {
        Some(_) if is_plain => {
            Err(Failure::invalid("identity_dir and DWCP_NODE_PLAIN exclude each other"))
        }
        Some(identity_dir) => Ok(SecurityOptions::Tls {
            identity_dir: identity_dir.into(),
            allowed_peers: name_list(allowed_peers.as_deref().unwrap_or_default()),
        }),
        None if is_plain => Ok(SecurityOptions::Plain),
        None => Ok(SecurityOptions::Undecided),
    }
}

fn held_options(options: &dwcp_node_options) -> Result<HeldOptions, Failure> {
    if options.flags & !(DWCP_NODE_NO_HELD_PAGES | DWCP_NODE_PLAIN) != 0 {
        let text = format!("flags {:#x} holds unknown DWCP_NODE_ bits", options.flags);
        return Err(Failure::invalid(text));
    }
    Ok(HeldOptions {
        enabled: options.flags & DWCP_NODE_NO_HELD_PAGES == 0,
        max_bytes: match options.held_bytes {
            0 => HeldOptions::default().max_bytes,
            bytes => bytes,
        },
    })
}

fn level_of(code: u32) -> Result<Option<Level>, Failure> {
    match code {
        DWCP_EVENTS_DEFAULT | DWCP_EVENTS_INFO => Ok(Some(Level::Info)),
        DWCP_EVENTS_DEBUG => Ok(Some(Level::Debug)),
        DWCP_EVENTS_WARN => Ok(Some(Level::Warn)),
        DWCP_EVENTS_ERROR => Ok(Some(Level::Error)),
        DWCP_EVENTS_NONE => Ok(None),
        _ => Err(Failure::invalid(format!("event_level {code} is no DWCP_EVENTS_ value"))),
    }
}

const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

//! Checks what a hypervisor registers and puts the guest together from its parts.

use super::callbacks::{DestinationCallbacks, HostContext, SourceCallbacks};
use super::codes::DWCP_QEMU_INCOMING;
use super::driver::{Control, Driver};
use super::guard::{Failure, Outcome};
use super::guest::{dwcp_destination, dwcp_region, dwcp_source};
use super::memory::{CopiedPages, CopiedSink, CopiedSource};
use super::node::NodeHandle;
use super::requests::RequestDriver;
use super::strings;
use super::structs::{self, SizedStruct};
use crate::Status;
use crate::base::limits::MAX_REGIONS;
use crate::base::{MemoryLayout, RegionLayout};
use crate::migration::{GuestSink, GuestSource};
use crate::runtime::mapped_guest::{MappedSink, MappedSource};
use crate::runtime::process_memory::process_memory_source;
use crate::runtime::sys::{MappedMemory, tracking_support};
use std::ffi::c_char;
use std::path::Path;
use std::sync::Arc;

/// `dwcp_node_add_source`.
///
/// # Safety
/// As the header says of the pointers.
pub unsafe fn add_source(
    node: &NodeHandle,
    guest: *const c_char,
    source: *const dwcp_source,
) -> Outcome {
    // SAFETY: the caller vouches for the pointers.
    let (name, source) = unsafe { (strings::text_in("guest", guest)?, structs::read(source)?) };
    no_flags("dwcp_source", source.flags)?;
    // SAFETY: the caller vouches for the regions.
    let pages = unsafe { regions_in(source.page_bytes, source.regions, source.region_count)? };
    let context = HostContext::new(source.ctx, source.drop);
    let control = Control(source_driver(node, &name, &source, &context)?);
    let guest: Arc<dyn GuestSource> = match pages {
        Pages::Mapped(memory) => {
            Arc::new(MappedSource::new(memory, Box::new(control.clone()), Box::new(control)))
        }
        Pages::Copied(layout) => {
            let read = source.read_pages.ok_or_else(|| missing("dwcp_source.read_pages"))?;
            let pages = CopiedPages { layout, read, context: context.clone() };
            Arc::new(CopiedSource { pages, control })
        }
    };
    node.node.add_source(&name, guest)?;
    context.take_over();
    Ok(())
}

/// `dwcp_node_add_process_memory_source`.
///
/// # Safety
/// As the header says of the pointers.
pub unsafe fn add_process_memory_source(
    node: &NodeHandle,
    guest: *const c_char,
    source: *const dwcp_source,
) -> Outcome {
    // SAFETY: the caller vouches for the pointers.
    let (name, source) = unsafe { (strings::text_in("guest", guest)?, structs::read(source)?) };
    no_flags("dwcp_source", source.flags)?;
    refuse_own_log(&source)?;
    check_tracking()?;
    // SAFETY: the caller vouches for the regions.
    let pages = unsafe { regions_in(source.page_bytes, source.regions, source.region_count)? };
    let Pages::Mapped(memory) = pages else {
        return Err(missing("dwcp_region.host"));
    };
    let context = HostContext::new(source.ctx, source.drop);
    let driver = tracked_driver(node, &name, &source, &context)?;
    let guest = process_memory_source(memory, Box::new(Control(driver)));
    node.node.add_source(&name, Arc::new(guest))?;
    context.take_over();
    Ok(())
}

/// `dwcp_node_add_destination`.
///
/// # Safety
/// As the header says of the pointers.
pub unsafe fn add_destination(
    node: &NodeHandle,
    guest: *const c_char,
    destination: *const dwcp_destination,
) -> Outcome {
    // SAFETY: the caller vouches for the pointers.
    let (name, table) = unsafe { (strings::text_in("guest", guest)?, structs::read(destination)?) };
    no_flags("dwcp_destination", table.flags)?;
    // SAFETY: the caller vouches for the regions.
    let pages = unsafe { regions_in(table.page_bytes, table.regions, table.region_count)? };
    let context = HostContext::new(table.ctx, table.drop);
    let control = Control(destination_driver(node, &name, &table, &context)?);
    let guest: Arc<dyn GuestSink> = match pages {
        Pages::Mapped(memory) => Arc::new(MappedSink::new(memory, Box::new(control))),
        Pages::Copied(layout) => {
            let read = table.read_pages.ok_or_else(|| missing("dwcp_destination.read_pages"))?;
            let write = table.write_pages.ok_or_else(|| missing("dwcp_destination.write_pages"))?;
            let pages = CopiedPages { layout, read, context: context.clone() };
            Arc::new(CopiedSink { pages, write, control })
        }
    };
    node.node.add_destination(&name, guest)?;
    context.take_over();
    Ok(())
}

/// `dwcp_node_attach_qemu`.
///
/// # Safety
/// As the header says of the pointers.
pub unsafe fn attach_qemu(
    node: &NodeHandle,
    guest: *const c_char,
    qmp_path: *const c_char,
    flags: u32,
) -> Outcome {
    // SAFETY: the caller vouches for the pointers.
    let (name, path) =
        unsafe { (strings::text_in("guest", guest)?, strings::text_in("qmp_path", qmp_path)?) };
    let incoming = flags & DWCP_QEMU_INCOMING != 0;
    if flags & !DWCP_QEMU_INCOMING != 0 {
        let text = format!("flags is {flags:#x}; DWCP_QEMU_INCOMING is the only one known");
        return Err(Failure::invalid(text));
    }
    Ok(node.node.attach_qemu(&name, Path::new(&path), incoming)?)
}

fn source_driver(
    node: &NodeHandle,
    guest: &str,
    source: &dwcp_source,
    context: &Arc<HostContext>,
) -> Result<Arc<dyn Driver>, Failure> {
    let logs = source.start_dirty_log.is_some() || source.fetch_dirty.is_some();
    if !logs && !has_control(source) {
        return Ok(request_driver(node, guest, context));
    }
    require("dwcp_source.start_dirty_log", source.start_dirty_log.is_some())?;
    require("dwcp_source.fetch_dirty", source.fetch_dirty.is_some())?;
    require("dwcp_source.pause", source.pause.is_some())?;
    require("dwcp_source.resume", source.resume.is_some())?;
    Ok(Arc::new(SourceCallbacks { table: *source, context: context.clone() }))
}

/// The driver of a source apart from its dirty log: callbacks, or requests if there are none.
fn tracked_driver(
    node: &NodeHandle,
    guest: &str,
    source: &dwcp_source,
    context: &Arc<HostContext>,
) -> Result<Arc<dyn Driver>, Failure> {
    if !has_control(source) {
        return Ok(request_driver(node, guest, context));
    }
    require("dwcp_source.pause", source.pause.is_some())?;
    require("dwcp_source.resume", source.resume.is_some())?;
    Ok(Arc::new(SourceCallbacks { table: *source, context: context.clone() }))
}

fn has_control(source: &dwcp_source) -> bool {
    source.pause.is_some()
        || source.resume.is_some()
        || source.save_device_state.is_some()
        || source.throttle.is_some()
        || source.finish.is_some()
}

fn destination_driver(
    node: &NodeHandle,
    guest: &str,
    table: &dwcp_destination,
    context: &Arc<HostContext>,
) -> Result<Arc<dyn Driver>, Failure> {
    let any = table.load_device_state.is_some() || table.resume.is_some() || table.finish.is_some();
    if !any {
        return Ok(request_driver(node, guest, context));
    }
    require("dwcp_destination.resume", table.resume.is_some())?;
    Ok(Arc::new(DestinationCallbacks { table: *table, context: context.clone() }))
}

fn request_driver(node: &NodeHandle, guest: &str, context: &Arc<HostContext>) -> Arc<dyn Driver> {
    let (table, context) = (node.requests.clone(), context.clone());
    Arc::new(RequestDriver { table, guest: guest.to_owned(), context })
}

fn refuse_own_log(source: &dwcp_source) -> Outcome {
    let set = [
        ("start_dirty_log", source.start_dirty_log.is_some()),
        ("fetch_dirty", source.fetch_dirty.is_some()),
        ("read_pages", source.read_pages.is_some()),
    ];
    match set.iter().find(|(_, set)| *set) {
        Some((name, _)) => {
            let text = format!("dwcp_source.{name} is set, but the kernel tracks this guest");
            Err(Failure::invalid(text))
        }
        None => Ok(()),
    }
}

fn check_tracking() -> Outcome {
    let unsupported = |text: String| Failure::new(Status::Unsupported, text);
    tracking_support::probe().map(|_| ()).map_err(|error| unsupported(error.to_string()))
}

enum Pages {
    Mapped(Arc<MappedMemory>),
    Copied(MemoryLayout),
}

/// # Safety
/// `regions` is NULL or holds `count` elements of the struct_size that the first one says.
unsafe fn regions_in(
    page_bytes: u32,
    regions: *const dwcp_region,
    count: usize,
) -> Result<Pages, Failure> {
    if regions.is_null() {
        return Err(Failure::null("regions"));
    }
    if count == 0 || count > MAX_REGIONS {
        let text = format!("region_count is {count}; it must be 1 to {MAX_REGIONS}");
        return Err(Failure::invalid(text));
    }
    let (mut layouts, mut hosts) = (Vec::with_capacity(count), Vec::with_capacity(count));
    // SAFETY: with a count above 0 the caller vouches for the first element.
    let size = unsafe { structs::size_of_caller(regions)? };
    for index in 0..count {
        // SAFETY: the caller vouches for `count` elements of this size.
        let (layout, host) = unsafe { region_in(index, size, regions.byte_add(index * size))? };
        layouts.push(layout);
        hosts.push(host);
    }
    let page_bytes = if page_bytes == 0 { DEFAULT_PAGE_BYTES } else { page_bytes };
    let layout = MemoryLayout::new(page_bytes, layouts)
        .map_err(|error| Failure::invalid(error.to_string()))?;
    let mapped = hosts.iter().filter(|host| !host.is_null()).count();
    if mapped == 0 {
        return Ok(Pages::Copied(layout));
    }
    if mapped < count {
        let text = format!("{mapped} of {count} regions have a host pointer; all or none must");
        return Err(Failure::invalid(text));
    }
    // SAFETY: the caller vouches that the regions stay mapped until the guest is dropped.
    let memory = unsafe { MappedMemory::from_raw(layout, &hosts) };
    memory
        .map(|memory| Pages::Mapped(Arc::new(memory)))
        .map_err(|error| Failure::invalid(error.to_string()))
}

/// # Safety
/// `pointer` holds an element of `size` bytes.
unsafe fn region_in(
    index: usize,
    size: usize,
    pointer: *const dwcp_region,
) -> Result<(RegionLayout, *mut u8), Failure> {
    // SAFETY: the caller vouches for the element.
    let region = unsafe { structs::read(pointer)? };
    if region.struct_size != size {
        let text =
            format!("regions[{index}].struct_size is {}, regions[0]'s {size}", region.struct_size);
        return Err(Failure::new(Status::BadStructSize, text));
    }
    let what = format!("regions[{index}].name");
    // SAFETY: the caller vouches for the text.
    let name = unsafe { strings::text_in(&what, region.name)? };
    let (guest_address, length_bytes) = (region.guest_address, region.length_bytes);
    Ok((RegionLayout { name, guest_address, length_bytes }, region.host.cast()))
}

fn no_flags(what: &str, flags: u32) -> Outcome {
    if flags != 0 {
        return Err(Failure::invalid(format!("{what}.flags is {flags:#x}; no flag is known")));
    }
    Ok(())
}

fn require(what: &str, there: bool) -> Outcome {
    if there { Ok(()) } else { Err(missing(what)) }
}

fn missing(what: &str) -> Failure {
    Failure::null(what)
}

macro_rules! sized_struct {
    ($($name:ident, $reserved:literal;)+) => {$(
        // SAFETY: integers, pointers and functions that may be NULL, each a word or two halves of
        // one; the layout golden file shows no gap.
        unsafe impl SizedStruct for $name {
            const NAME: &'static str = stringify!($name);
            const FIRST_SIZE: usize = size_of::<Self>();

            fn reserved_is_zero(&self) -> bool {
                self.reserved == [0; $reserved]
            }
        }
    )+};
}

sized_struct! {
    dwcp_region, 3;
    dwcp_source, 8;
    dwcp_destination, 8;
}

const DEFAULT_PAGE_BYTES: u32 = 4096;

//! A device, opened: its ports, their states and addresses.

use super::bindings::*;
use super::library::{Library, Unavailable, VerbError};
use std::ffi::CStr;
use std::fmt;
use std::fs::File;
use std::io;
use std::mem::{self, MaybeUninit};
use std::net::Ipv6Addr;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

/// Where the files of devices are.
const FILES: &str = "/dev/infiniband";
/// Addresses that are read of one device; a path is set up by an index of one byte.
const MAX_GIDS: usize = 4096;

/// What a port does. The states between down and active are the subnet manager's affair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortState {
    /// No link.
    Down,
    /// Link, and not yet configured.
    Init,
    /// Configured, and not yet in use.
    Armed,
    /// Carries data.
    Active,
    /// A number that is none of these.
    Other(u32),
}

impl From<ibv_port_state> for PortState {
    fn from(state: ibv_port_state) -> Self {
        match state {
            IBV_PORT_DOWN => Self::Down,
            IBV_PORT_INIT => Self::Init,
            IBV_PORT_ARMED => Self::Armed,
            IBV_PORT_ACTIVE => Self::Active,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for PortState {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Down => out.write_str("down"),
            Self::Init => out.write_str("initialising"),
            Self::Armed => out.write_str("armed"),
            Self::Active => out.write_str("active"),
            Self::Other(number) => write!(out, "in state {number}"),
        }
    }
}

/// What is below the verbs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkLayer {
    /// InfiniBand: ports have a number in their subnet.
    InfiniBand,
    /// Ethernet (RoCE, iWARP): ports have addresses only.
    Ethernet,
}

/// How packets with an address look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GidKind {
    /// InfiniBand's own.
    InfiniBand,
    /// Ethernet frames, not routed.
    RoceV1,
    /// UDP, routed.
    RoceV2,
    /// A number that is none of these.
    Other(u32),
}

/// One address of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gid {
    /// Its place in the port's table.
    pub index: u8,
    /// How packets with it look.
    pub kind: GidKind,
    /// The address; of IPv4 as IPv6 maps it.
    pub address: Ipv6Addr,
}

/// One port of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its number, from 1.
    pub number: u8,
    /// Whether it carries data.
    pub state: PortState,
    /// The largest packet now.
    pub mtu_bytes: u16,
    /// The largest packet that it could carry.
    pub max_mtu_bytes: u16,
    /// What is below.
    pub link_layer: LinkLayer,
    /// Its number in its subnet; zero on Ethernet.
    pub local_id: u16,
    /// Its addresses.
    pub gids: Vec<Gid>,
}

impl Port {
    /// The address that a connection should use: routed IPv4, then routed IPv6, then any other.
    pub fn best_gid(&self) -> Option<Gid> {
        let rank = |gid: &Gid| match gid.kind {
            GidKind::RoceV2 if gid.address.to_ipv4_mapped().is_some() => 0,
            GidKind::RoceV2 if !gid.address.is_unicast_link_local() => 1,
            GidKind::RoceV2 => 2,
            GidKind::InfiniBand => 3,
            GidKind::RoceV1 => 4,
            GidKind::Other(_) => 5,
        };
        self.gids.iter().copied().min_by_key(rank)
    }
}

/// An opened device. Closed when the last thing made of it is gone.
#[derive(Clone, Debug)]
pub struct Device(pub(super) Arc<Context>);

#[derive(Debug)]
pub(super) struct Context {
    raw: NonNull<ibv_context>,
    name: String,
    ports: u8,
    /// Requests to read that the device serves at a time for one queue pair.
    pub(super) served_reads: u8,
    /// Requests to read that it makes at a time for one queue pair.
    pub(super) made_reads: u8,
    library: Arc<Library>,
}

// SAFETY: verbs may be called from any thread (ibv_open_device(3) and the others say "thread safe");
// the pointer is freed once, by drop.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Device {
    /// Opens every device that can be.
    ///
    /// # Errors
    /// There is none, or none can be opened: then the reason of the first.
    pub fn open_all(library: &Arc<Library>) -> Result<Vec<Self>, Unavailable> {
        let list = library.list()?;
        let opened = list.entries().iter().map(|&device| Self::open(library, device));
        let (mut devices, mut failures) = (Vec::new(), Vec::new());
        for result in opened {
            match result {
                Ok(device) => devices.push(device),
                Err(error) => failures.push(error),
            }
        }
        match failures.into_iter().next() {
            Some(error) if devices.is_empty() => Err(error),
            _ => Ok(devices),
        }
    }

    /// The kernel's name for it, such as `mlx5_0`.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its ports as they are now.
    ///
    /// # Errors
    /// The device does not answer.
    pub fn ports(&self) -> Result<Vec<Port>, VerbError> {
        let attributes = (1..=self.0.ports).map(|number| Ok((number, self.0.port(number)?)));
        let attributes = attributes.collect::<Result<Vec<_>, VerbError>>()?;
        let entries: usize =
            attributes.iter().map(|(_, port)| usize::try_from(port.gid_tbl_len).unwrap_or(0)).sum();
        let gids = self.0.gids(entries.min(MAX_GIDS))?;
        let port = |(number, port): &(u8, ibv_port_attr)| Port {
            number: *number,
            state: port.state.into(),
            mtu_bytes: mtu_bytes(port.active_mtu),
            max_mtu_bytes: mtu_bytes(port.max_mtu),
            link_layer: link_layer(port.link_layer),
            local_id: port.lid,
            gids: gids.iter().filter(|(of, _)| of == number).map(|(_, gid)| *gid).collect(),
        };
        Ok(attributes.iter().map(port).collect())
    }

    fn open(library: &Arc<Library>, device: *mut ibv_device) -> Result<Self, Unavailable> {
        // SAFETY: the device is of a list that is alive.
        let name = unsafe { library.verbs().ibv_get_device_name(device) };
        // SAFETY: the library gives the device's name, which ends with a zero, or nothing.
        let name = unsafe { name.as_ref().map(|name| CStr::from_ptr(name)) }.unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        // SAFETY: as above; the context that comes back is ours to close.
        let raw = NonNull::new(unsafe { library.verbs().ibv_open_device(device) });
        let raw = raw.ok_or_else(|| {
            let source = io::Error::last_os_error();
            // SAFETY: as above; the library fills the field with a name that ends with a zero.
            let file = unsafe { CStr::from_ptr((*device).dev_name.as_ptr()) };
            not_opened(&name, &Path::new(FILES).join(&*file.to_string_lossy()), source)
        })?;
        let context = Context {
            raw,
            name,
            ports: 0,
            served_reads: 0,
            made_reads: 0,
            library: library.clone(),
        };
        Ok(Self(Arc::new(context.described()?)))
    }
}

impl Context {
    pub(super) fn raw(&self) -> *mut ibv_context {
        self.raw.as_ptr()
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn verbs(&self) -> &Functions {
        self.library.verbs()
    }

    /// The port's state; none if the device is gone.
    pub(super) fn port_state(&self, number: u8) -> Option<PortState> {
        self.port(number).ok().map(|port| port.state.into())
    }

    /// The functions that the header calls without the library's help.
    pub(super) fn operations(&self) -> &ibv_context_ops {
        // SAFETY: the context is open, and its table is not written after that.
        unsafe { &(*self.raw.as_ptr()).ops }
    }

    fn described(mut self) -> Result<Self, VerbError> {
        let mut device = MaybeUninit::<ibv_device_attr>::zeroed();
        // SAFETY: the context is open; there is room for the answer.
        let code = unsafe { self.verbs().ibv_query_device(self.raw(), device.as_mut_ptr()) };
        self.check("ibv_query_device", code)?;
        // SAFETY: zeroed, then filled; every bit pattern is a value of these plain numbers.
        let device = unsafe { device.assume_init() };
        self.ports = device.phys_port_cnt;
        self.served_reads = u8::try_from(device.max_qp_rd_atom).unwrap_or(u8::MAX);
        self.made_reads = u8::try_from(device.max_qp_init_rd_atom).unwrap_or(u8::MAX);
        Ok(self)
    }

    fn port(&self, number: u8) -> Result<ibv_port_attr, VerbError> {
        let mut port = MaybeUninit::<ibv_port_attr>::zeroed();
        // SAFETY: the context is open. The library fills the fields of its first version, with which
        // the struct begins; the header's own wrapper makes the same cast.
        let code =
            unsafe { self.verbs().ibv_query_port(self.raw(), number, port.as_mut_ptr().cast()) };
        self.check("ibv_query_port", code)?;
        // SAFETY: zeroed, then filled; every bit pattern is a value of these plain numbers.
        Ok(unsafe { port.assume_init() })
    }

    /// Addresses of all ports, each with its port.
    fn gids(&self, room: usize) -> Result<Vec<(u8, Gid)>, VerbError> {
        let mut entries = vec![MaybeUninit::<ibv_gid_entry>::zeroed(); room];
        // SAFETY: the context is open; there is room for as many entries of this size as is said.
        let count = unsafe {
            let first = entries.as_mut_ptr().cast();
            let entry_bytes = mem::size_of::<ibv_gid_entry>();
            self.verbs()._ibv_query_gid_table(self.raw(), first, room, 0, entry_bytes)
        };
        let count = usize::try_from(count).map_err(|_| {
            let code = i32::try_from(-count).unwrap_or(libc::EIO);
            self.failed("ibv_query_gid_table", io::Error::from_raw_os_error(code))
        })?;
        // SAFETY: all entries were zeroed and some then filled; any bit pattern is a value.
        let entry = |entry: &MaybeUninit<ibv_gid_entry>| unsafe { entry.assume_init() };
        Ok(entries[..count.min(room)].iter().map(entry).filter_map(gid).collect())
    }

    /// What a verb that answers with a number did.
    pub(super) fn check(&self, call: &'static str, code: i32) -> Result<(), VerbError> {
        match code {
            0 => Ok(()),
            // Some verbs give the number, some leave it in errno.
            -1 => Err(self.failed(call, io::Error::last_os_error())),
            code => Err(self.failed(call, io::Error::from_raw_os_error(code.abs()))),
        }
    }

    /// What a verb made, which leaves its reason in errno if it made nothing.
    pub(super) fn made<T>(
        &self,
        call: &'static str,
        made: *mut T,
    ) -> Result<NonNull<T>, VerbError> {
        NonNull::new(made).ok_or_else(|| self.failed(call, io::Error::last_os_error()))
    }

    pub(super) fn failed(&self, call: &'static str, source: io::Error) -> VerbError {
        VerbError { device: self.name.clone(), call, source }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: everything made of the context holds it alive, so nothing of it is left.
        unsafe { self.verbs().ibv_close_device(self.raw()) };
    }
}

/// The library looks elsewhere for a file that it may not open, and then says that there is none: so
/// the file is asked.
fn not_opened(device: &str, file: &Path, source: io::Error) -> Unavailable {
    let device = device.to_owned();
    let opened = File::options().read(true).write(true).open(file);
    let is_denied = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
    match opened.err().filter(is_denied) {
        Some(source) => Unavailable::NoPermission { device, source },
        None if is_denied(&source) => Unavailable::NoPermission { device, source },
        None => Unavailable::Device(VerbError { device, call: "ibv_open_device", source }),
    }
}

fn gid(entry: ibv_gid_entry) -> Option<(u8, Gid)> {
    // SAFETY: both forms of the union are the same sixteen bytes.
    let bytes = unsafe { entry.gid.raw };
    let kind = match entry.gid_type {
        IBV_GID_TYPE_IB => GidKind::InfiniBand,
        IBV_GID_TYPE_ROCE_V1 => GidKind::RoceV1,
        IBV_GID_TYPE_ROCE_V2 => GidKind::RoceV2,
        other => GidKind::Other(other),
    };
    let index = u8::try_from(entry.gid_index).ok()?;
    Some((u8::try_from(entry.port_num).ok()?, Gid { index, kind, address: bytes.into() }))
}

/// An iWARP port says neither; it has an Ethernet below.
fn link_layer(number: u8) -> LinkLayer {
    const INFINIBAND: u8 = 1;
    match number {
        INFINIBAND => LinkLayer::InfiniBand,
        _ => LinkLayer::Ethernet,
    }
}

/// The verbs count powers of two from 256; zero for a number that is none of theirs.
fn mtu_bytes(mtu: ibv_mtu) -> u16 {
    match mtu {
        IBV_MTU_256..=IBV_MTU_4096 => 128 << mtu,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn sizes_of_packets_are_powers_of_two() {
        let sizes = [0, 1, 2, 3, 4, 5, 6].map(mtu_bytes);
        assert_eq!(sizes, [0, 256, 512, 1024, 2048, 4096, 0]);
    }

    #[test]
    fn routed_addresses_come_first() {
        let gid = |index, kind, address| Gid { index, kind, address };
        let ipv4 = Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped();
        let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
        let mut port = Port {
            number: 1,
            state: PortState::Active,
            mtu_bytes: 1024,
            max_mtu_bytes: 4096,
            link_layer: LinkLayer::Ethernet,
            local_id: 0,
            gids: vec![
                gid(0, GidKind::RoceV1, ipv4),
                gid(1, GidKind::RoceV2, link_local),
                gid(2, GidKind::RoceV2, ipv4),
            ],
        };
        assert_eq!(port.best_gid().map(|gid| gid.index), Some(2));
        port.gids.pop();
        assert_eq!(port.best_gid().map(|gid| gid.index), Some(1));
        port.gids.clear();
        assert_eq!(port.best_gid(), None);
    }

    #[test]
    fn a_missing_right_is_told_from_a_missing_device() {
        let file = Path::new("/no-such-folder/uverbs0");
        let opened = |code| not_opened("mlx5_0", file, io::Error::from_raw_os_error(code));
        assert!(matches!(opened(libc::EACCES), Unavailable::NoPermission { .. }));
        assert!(matches!(opened(libc::EPERM), Unavailable::NoPermission { .. }));
        let text = opened(libc::ENOENT).to_string();
        assert!(text.starts_with("mlx5_0: ibv_open_device: No such file"), "{text}");
    }
}

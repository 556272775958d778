//! From a bare kernel to an RDMA device over a network interface that leads nowhere.

use crate::Failure;
use dwcp::runtime::rdma::{GidKind, probe};
use std::ffi::CString;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// The device's address.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// The kernel notices an address by itself, a little later.
const PATIENCE: Duration = Duration::from_secs(30);

/// Makes the device `rxe0`.
pub fn bring_up() -> Result<(), Failure> {
    for (kind, folder) in
        [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/run")]
    {
        mount(kind, folder)?;
    }
    let mut modules: Vec<PathBuf> =
        fs::read_dir("/modules")?.map(|entry| Ok(entry?.path())).collect::<Result<_, Failure>>()?;
    modules.sort();
    modules.iter().try_for_each(load)?;
    ip("link set lo up")?;
    ip("link add d0 mtu 9000 type dummy")?;
    ip(&format!("address add {ADDRESS}/24 dev d0"))?;
    ip("link set d0 up")?;
    run("/sbin/rdma", "link add rxe0 type rxe netdev d0")?;
    wait_for_device()
}

/// Runs `ip` with these words.
pub fn ip(words: &str) -> Result<(), Failure> {
    run("/sbin/ip", words)
}

/// Waits until the device has its address.
pub fn wait_for_device() -> Result<(), Failure> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = probe();
        let gids =
            found.iter().flatten().flat_map(|device| &device.ports).flat_map(|port| &port.gids);
        let is_ours = |kind, address: std::net::Ipv6Addr| {
            kind == GidKind::RoceV2 && address.to_ipv4_mapped() == Some(ADDRESS)
        };
        if gids.into_iter().any(|gid| is_ours(gid.kind, gid.address)) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("the device has no address: {found:?}").into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn run(program: &str, words: &str) -> Result<(), Failure> {
    let output = Command::new(program).args(words.split(' ')).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program} {words}: {}", String::from_utf8_lossy(&output.stderr)).into())
}

fn mount(kind: &str, folder: &str) -> Result<(), Failure> {
    let (kind, folder) = (CString::new(kind)?, CString::new(folder)?);
    let (source, target) = (kind.as_ptr(), folder.as_ptr());
    // SAFETY: all three are strings that end with a zero and live for the call; there is no data.
    match unsafe { libc::mount(source, target, source, 0, std::ptr::null()) } {
        0 => Ok(()),
        _ => Err(format!("mount {folder:?}: {}", std::io::Error::last_os_error()).into()),
    }
}

fn load(path: &PathBuf) -> Result<(), Failure> {
    let file = File::open(path)?;
    // SAFETY: the descriptor is open, and the options are a string that ends with a zero.
    let code = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    match code {
        0 => Ok(()),
        _ => Err(format!("{}: {}", path.display(), std::io::Error::last_os_error()).into()),
    }
}

//! A host of the laboratory: a network namespace, what runs in it, and its end.

use crate::{LabError, sys};
use std::fs::File;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};

/// One of the two hosts.
#[derive(Debug)]
pub struct Host {
    name: String,
    handle: File,
    ipv4: Ipv4Addr,
    ipv6: Ipv6Addr,
}

impl Host {
    /// Makes a namespace with its loopback up.
    pub(crate) fn new(name: String, number: u8) -> Result<Self, LabError> {
        ip(&["netns", "add", &name])?;
        let handle = match File::open(path_of(&name)) {
            Ok(handle) => handle,
            Err(error) => {
                remove(&name);
                return Err(LabError::system(format!("namespace {name}"))(error));
            }
        };
        let ipv4 = Ipv4Addr::new(10, 77, 0, number);
        let ipv6 = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, u16::from(number));
        let host = Self { name, handle, ipv4, ipv6 };
        host.ip(&["link", "set", "lo", "up"])?;
        Ok(host)
    }

    /// The namespace's name, for `ip netns exec`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address on the link.
    pub fn ipv4(&self) -> Ipv4Addr {
        self.ipv4
    }

    /// Its IPv6 address on the link.
    pub fn ipv6(&self) -> Ipv6Addr {
        self.ipv6
    }

    /// A command that will run on this host.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        match self.handle.try_clone() {
            Ok(handle) => {
                sys::start_inside(&mut command, OwnedFd::from(handle));
            }
            Err(error) => panic!("no descriptor left for namespace {}: {error}", self.name),
        }
        command
    }

    /// Starts a command of [`Self::command`]; it is killed when the result is dropped.
    ///
    /// # Errors
    /// The program does not start.
    pub fn spawn(&self, command: &mut Command) -> Result<Running, LabError> {
        let child = command.spawn().map_err(LabError::system(format!("{command:?}")))?;
        Ok(Running { child })
    }

    /// Calls `work` on a thread that lives on this host. Sockets made there, and threads started
    /// there, belong to this host wherever they are used later.
    ///
    /// # Panics
    /// When `work` does.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || sys::enter_network_namespace(self.handle.as_fd()).map(|()| work());
        match std::thread::scope(|scope| scope.spawn(inside).join()) {
            Ok(Ok(value)) => value,
            Ok(Err(error)) => panic!("cannot enter namespace {}: {error}", self.name),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Packets that this host sent faster than the emulator could take them, and which are lost
    /// without a place in its statistics; super-packets count once.
    ///
    /// # Errors
    /// The kernel's table of devices cannot be read.
    pub fn overruns(&self) -> std::io::Result<u64> {
        let table = self.enter(|| std::fs::read_to_string("/proc/thread-self/net/dev"))?;
        let line =
            table.lines().find_map(|line| line.trim().strip_prefix(DEVICE)?.strip_prefix(':'));
        let dropped = line.and_then(|line| line.split_whitespace().nth(TRANSMIT_DROPPED));
        Ok(dropped.and_then(|text| text.parse().ok()).unwrap_or(0))
    }

    /// Brings up the link's device with this host's addresses and MTU 1500.
    pub(crate) fn configure(&self) -> Result<(), LabError> {
        let ipv4 = format!("{}/24", self.ipv4);
        let ipv6 = format!("{}/64", self.ipv6);
        self.ip(&["address", "add", &ipv4, "dev", DEVICE])?;
        self.ip(&["address", "add", &ipv6, "dev", DEVICE, "nodad"])?;
        // The kernel hands packets to the emulator through a ring of this many: room for bursts.
        self.ip(&["link", "set", DEVICE, "mtu", "1500", "txqueuelen", "10000", "up"])
    }

    /// Its address on the link that was added.
    pub fn second_ipv4(&self) -> Ipv4Addr {
        let [.., number] = self.ipv4.octets();
        Ipv4Addr::new(10, 78, 0, number)
    }

    /// Brings up the added link's device; packets from its address leave by it.
    pub(crate) fn configure_second(&self) -> Result<(), LabError> {
        let source = self.second_ipv4().to_string();
        self.ip(&["address", "add", &format!("{source}/24"), "dev", SECOND_DEVICE])?;
        let device = ["link", "set", SECOND_DEVICE, "mtu", "1500", "txqueuelen", "10000", "up"];
        self.ip(&device)?;
        self.ip(&["rule", "add", "from", &source, "table", SECOND_TABLE])?;
        self.ip(&["route", "add", "default", "dev", SECOND_DEVICE, "table", SECOND_TABLE])
    }

    fn ip(&self, arguments: &[&str]) -> Result<(), LabError> {
        ip(&[&["-n", &self.name], arguments].concat())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// A process on a host; killed and reaped when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
}

impl Running {
    /// The process.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Its id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A namespace name that tells its owner: `dwcplab-PID-NUMBER-SIDE`.
pub(crate) fn name_of(number: u32, side: char) -> String {
    format!("{PREFIX}{}-{number}-{side}", std::process::id())
}

/// Removes the namespaces, and what runs in them, of owners that are no more.
pub(crate) fn sweep() {
    let Ok(entries) = std::fs::read_dir(DIRECTORY) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            remove(&name);
        }
    }
}

/// Runs `ip`.
pub(crate) fn ip(arguments: &[&str]) -> Result<(), LabError> {
    let line = format!("ip {}", arguments.join(" "));
    // Ctrl-C is for the laboratory's owner, who takes down what he set up.
    let output = Command::new("ip").args(arguments).process_group(0).output();
    let Output { status, stderr, .. } = output.map_err(LabError::system(line.clone()))?;
    if status.success() {
        return Ok(());
    }
    let output = String::from_utf8_lossy(&stderr).trim().to_owned();
    Err(LabError::Command { command: line, output })
}

/// Ends every process that lives in the namespace, then the namespace.
fn remove(name: &str) {
    processes_in(name).into_iter().for_each(sys::kill_process);
    let _ = ip(&["netns", "delete", name]);
}

fn processes_in(name: &str) -> Vec<i32> {
    let own = std::process::id() as i32;
    let Ok(namespace) = std::fs::metadata(path_of(name)) else { return Vec::new() };
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let lives_there = |pid: &i32| {
        std::fs::metadata(format!("/proc/{pid}/ns/net"))
            .is_ok_and(|of| (of.dev(), of.ino()) == (namespace.dev(), namespace.ino()))
    };
    pids.filter(|pid| *pid != own).filter(lives_there).collect()
}

fn path_of(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

/// The link's device, on either host.
pub(crate) const DEVICE: &str = "lab0";
/// That of the link that was added, and the routes of what leaves from its address.
pub(crate) const SECOND_DEVICE: &str = "lab1";
const SECOND_TABLE: &str = "78";
/// Column of /proc/net/dev, the name not counted.
const TRANSMIT_DROPPED: usize = 11;
const PREFIX: &str = "dwcplab-";
const DIRECTORY: &str = "/run/netns";

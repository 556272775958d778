//! One QEMU with its sockets and its serial log, in a folder of its own; all gone when dropped.

use crate::process::spawn_bound;
use crate::serial::SerialLog;
use crate::{Image, LabError};
use dwcp::runtime::qemu::Qmp;
use dwcp_netlab::Host;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const QEMU: &str = "qemu-system-x86_64";
const FOLDER_PREFIX: &str = "dwcp-qemu-";
const START_TIMEOUT: Duration = Duration::from_secs(30);
const QMP_TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
/// So much of the logs goes into an error's text.
const SHOWN_BYTES: usize = 600;
/// The kernel's way to the first line as short as it gets; what it does not know goes to `init`.
///
/// `pti=on`: the translator of QEMU 7.2 logs no write that its cache of addresses already knows,
/// until the guest flushes that cache. A guest of one process never would, and every migration,
/// QEMU's own too, would damage it; so it changes its page table with every system call.
const KERNEL_OPTIONS: &str =
    "console=ttyS0 quiet panic=-1 nokaslr mitigations=off pti=on tsc=reliable";

/// What the guest does all day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Load {
    /// Counts.
    #[default]
    Idle,
    /// Text: about 3 to 1 under zstd.
    Text {
        /// What it fills.
        mib: u32,
        /// Pages that it writes to in a second, in MiB.
        rate_mib: u32,
    },
    /// A redis-server that stores text and rewrites it; with an image that has one only.
    Redis {
        /// Text that it stores.
        mib: u32,
        /// Of this, what is rewritten in a second.
        rate_mib: u32,
    },
    /// Noise, which no codec makes smaller.
    Random {
        /// What it fills.
        mib: u32,
        /// Pages that it writes to in a second, in MiB.
        rate_mib: u32,
    },
}

/// How a QEMU is started.
#[derive(Clone, Debug)]
pub struct VmConfig<'a> {
    /// What it boots; a machine without a guest if there is none. A destination needs the same
    /// image and load as its source, since firmware holds them.
    pub image: Option<&'a Image>,
    /// What the guest does.
    pub load: Load,
    /// Each tick verifies one page in so many.
    pub verify_share: u32,
    /// Guest memory, to which [`Self::memory_bytes`] adds a little.
    pub memory_mib: u32,
    /// QEMU's machine.
    pub machine: &'a str,
    /// Waits for `migrate-incoming` (`-incoming defer`).
    pub incoming: bool,
    /// Does not run before `cont` (`-S`), neither at once nor after a migration.
    pub paused: bool,
    /// The network namespace that it lives in; this process's own if there is none.
    pub host: Option<&'a Host>,
    /// Further options.
    pub extra_args: Vec<String>,
}

impl Default for VmConfig<'_> {
    fn default() -> Self {
        Self {
            image: None,
            load: Load::Idle,
            verify_share: 4,
            memory_mib: 128,
            machine: "pc",
            incoming: false,
            paused: false,
            host: None,
            extra_args: Vec::new(),
        }
    }
}

impl VmConfig<'_> {
    /// What the guest gets: a little more than whole megabytes. Where memory is a multiple of
    /// 256 KiB, QEMU 7.2 under TCG loses pages that are written late in a migration, also in its
    /// own migrations: its shortcut through the dirty log seems to leave the translator's cache of
    /// writable pages as it is.
    pub fn memory_bytes(&self) -> u64 {
        (u64::from(self.memory_mib) << 20) + (8 << 10)
    }
}

/// A running QEMU.
#[derive(Debug)]
pub struct Vm {
    child: Mutex<Child>,
    folder: PathBuf,
    serial: SerialLog,
}

impl Vm {
    /// Starts a QEMU and waits until it can be asked.
    ///
    /// # Errors
    /// QEMU is not installed, or ends at once.
    pub fn start(config: &VmConfig<'_>) -> Result<Self, LabError> {
        let folder = new_folder()?;
        let mut command = match config.host {
            Some(host) => host.command(QEMU),
            None => Command::new(QEMU),
        };
        command.args(arguments(config, &folder));
        let output = File::create(folder.join("qemu.log"));
        let output = output.map_err(LabError::system(folder.display().to_string()))?;
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        command.stderr(output);
        let child = spawn_bound(command).map_err(|source| {
            let _ = fs::remove_dir_all(&folder);
            LabError::system(format!("start {QEMU}"))(source)
        })?;
        let serial = SerialLog::new(folder.join("serial.log"));
        let vm = Self { child: Mutex::new(child), folder, serial };
        // Whatever is wrong so early, QEMU's end tells it better than its socket.
        vm.wait_until("QMP socket", START_TIMEOUT, || vm.qmp().ok())?;
        Ok(vm)
    }

    /// A conversation with it, on a socket that the laboratory keeps to itself; one at a time.
    ///
    /// # Errors
    /// QEMU is gone, or another conversation is held.
    pub fn qmp(&self) -> Result<Qmp, LabError> {
        Ok(Qmp::connect(&self.folder.join("lab.sock"), QMP_TIMEOUT)?)
    }

    /// A second QMP socket, for the program under test.
    pub fn qmp_path(&self) -> PathBuf {
        self.folder.join("qmp.sock")
    }

    /// A folder for sockets and files about this guest; it goes with it.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// QEMU's process.
    pub fn pid(&self) -> u32 {
        self.child().id()
    }

    /// The file behind the guest's serial console.
    pub fn serial_path(&self) -> &Path {
        self.serial.path()
    }

    /// What the guest printed so far.
    pub fn serial(&self) -> String {
        self.serial.text()
    }

    /// Waits for a whole line with this text, wherever in the log, and returns it.
    ///
    /// # Errors
    /// It does not come in time, or QEMU ends.
    pub fn wait_for_line(&self, pattern: &str, timeout: Duration) -> Result<String, LabError> {
        let waiting_for = format!("line with {pattern:?}");
        self.wait_until(&waiting_for, timeout, || self.serial.line_with(pattern))
    }

    /// Waits until the guest has counted to `count` or beyond; its count then.
    ///
    /// # Errors
    /// As [`Self::wait_for_line`].
    pub fn wait_for_tick(&self, count: u64, timeout: Duration) -> Result<u64, LabError> {
        self.wait_until(&format!("tick {count}"), timeout, || {
            Some(self.last_tick()).filter(|&last| last >= count)
        })
    }

    /// The guest's count; zero before its first, and at a destination before its first there.
    pub fn last_tick(&self) -> u64 {
        self.serial.last_tick()
    }

    /// The guest's first complaint about its memory or itself.
    pub fn complaint(&self) -> Option<String> {
        self.serial.complaint()
    }

    /// How it ended, if it did.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.child().try_wait().ok().flatten()
    }

    fn wait_until<T>(
        &self,
        waiting_for: &str,
        timeout: Duration,
        mut look: impl FnMut() -> Option<T>,
    ) -> Result<T, LabError> {
        let deadline = Instant::now() + timeout;
        loop {
            // Asked first, so that the last words of a QEMU that ends are still seen.
            let ended = self.exit_status();
            if let Some(found) = look() {
                return Ok(found);
            }
            let (waiting_for, output) = (waiting_for.to_owned(), self.last_words());
            if let Some(status) = ended {
                return Err(LabError::Ended { status: status.to_string(), waiting_for, output });
            }
            if Instant::now() >= deadline {
                return Err(LabError::TimedOut { waiting_for, after: timeout, output });
            }
            std::thread::sleep(POLL);
        }
    }

    fn last_words(&self) -> String {
        let qemu = fs::read_to_string(self.folder.join("qemu.log")).unwrap_or_default();
        format!("QEMU: {:?}; guest: {:?}", end_of(&qemu), end_of(&self.serial()))
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let mut child = self.child();
        let _ = child.kill();
        let _ = child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn arguments(config: &VmConfig<'_>, folder: &Path) -> Vec<String> {
    let socket = |name: &str| format!("unix:{}/{name},server=on,wait=off", folder.display());
    let fixed = ["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"];
    let mut all: Vec<String> = fixed.map(str::to_owned).into();
    let mut option = |name: &str, value: String| all.extend([name.to_owned(), value]);
    option("-machine", config.machine.to_owned());
    option("-accel", "tcg".to_owned());
    option("-smp", "1".to_owned());
    option("-m", format!("{}k", config.memory_bytes() >> 10));
    option("-serial", format!("file:{}/serial.log", folder.display()));
    option("-qmp", socket("lab.sock"));
    option("-qmp", socket("qmp.sock"));
    if let Some(image) = config.image {
        option("-kernel", image.kernel.display().to_string());
        option("-initrd", image.initramfs.display().to_string());
        option("-append", kernel_command_line(config));
    }
    if config.incoming {
        option("-incoming", "defer".to_owned());
    }
    if config.paused {
        all.push("-S".to_owned());
    }
    all.extend_from_slice(&config.extra_args);
    all
}

/// What the guest's kernel is told: how to boot, and what the guest is to do.
pub fn kernel_command_line(config: &VmConfig<'_>) -> String {
    let (mode, mib, rate_mib) = match config.load {
        Load::Idle => ("idle", 0, 0),
        Load::Text { mib, rate_mib } => ("text", mib, rate_mib),
        Load::Redis { mib, rate_mib } => ("redis", mib, rate_mib),
        Load::Random { mib, rate_mib } => ("random", mib, rate_mib),
    };
    let share = config.verify_share;
    format!("{KERNEL_OPTIONS} mode={mode} mib={mib} rate_mib={rate_mib} share={share}")
}

/// Below the system's temporary folder, because a socket's path must be short.
fn new_folder() -> Result<PathBuf, LabError> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    sweep();
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("{FOLDER_PREFIX}{}-{number}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    fs::create_dir(&folder).map_err(LabError::system(folder.display().to_string()))?;
    Ok(folder)
}

/// Removes what processes left that were killed; their QEMUs went with them.
fn sweep() {
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner =
            name.to_str().and_then(|name| name.strip_prefix(FOLDER_PREFIX)?.split('-').next());
        let owner = owner.and_then(|pid| pid.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn end_of(text: &str) -> &str {
    let start = text.len().saturating_sub(SHOWN_BYTES);
    let start = (start..text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(start);
    &text[start..]
}

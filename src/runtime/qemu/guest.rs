//! A guest that a QEMU process runs, or is waiting for, known by its QMP socket.

use crate::base::MachineFacts;
use crate::runtime::qemu::{Qmp, QmpError};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long QEMU may take to take us on.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest path of a unix socket that the kernel takes.
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// A guest by the socket of its QEMU.
#[derive(Debug)]
pub struct QemuGuest {
    qmp_path: PathBuf,
    facts: MachineFacts,
}

/// A guest could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// QEMU, or what should be one.
    #[error(transparent)]
    Qmp(#[from] QmpError),
    /// It runs a guest, but should wait for one, or the other way round.
    #[error("QEMU at {path} is in state {status:?}; {wanted}")]
    State {
        /// Its socket.
        path: PathBuf,
        /// As it says.
        status: String,
        /// What would be right.
        wanted: &'static str,
    },
    /// The socket's directory leaves no room for another socket's name.
    #[error("path {0} is too long: sockets of {MAX_SOCKET_PATH_BYTES} bytes are made beside it")]
    PathTooLong(PathBuf),
}

impl QemuGuest {
    /// Asks QEMU what it is. `incoming`: it was started with `-incoming defer` and waits.
    ///
    /// # Errors
    /// [`AttachError`]; QEMU is as it was.
    pub fn attach(qmp_path: &Path, incoming: bool) -> Result<Self, AttachError> {
        let mut qmp = Qmp::connect(qmp_path, CONNECT_TIMEOUT)?;
        let status = qmp.status()?.status;
        let waits = status == "inmigrate";
        if waits != incoming {
            let wanted = match incoming {
                true => "to receive a guest it must be started with -incoming defer",
                false => "it waits for a guest: attach it as incoming",
            };
            return Err(AttachError::State { path: qmp_path.to_path_buf(), status, wanted });
        }
        let machine = qmp.machine()?;
        let facts = MachineFacts {
            machine: machine.machine_type,
            ram_bytes: machine.memory_bytes,
            cpus: u32::try_from(machine.cpus).unwrap_or(u32::MAX),
        };
        let guest = Self { qmp_path: qmp_path.to_path_buf(), facts };
        if guest.socket_path(&"0".repeat(32)).as_os_str().len() > MAX_SOCKET_PATH_BYTES {
            return Err(AttachError::PathTooLong(guest.qmp_path));
        }
        Ok(guest)
    }

    /// Its machine.
    pub fn facts(&self) -> &MachineFacts {
        &self.facts
    }

    /// Where its QMP socket is.
    pub fn qmp_path(&self) -> &Path {
        &self.qmp_path
    }

    /// A conversation with its QEMU.
    ///
    /// # Errors
    /// Nobody answers there, or somebody else holds the only connection.
    pub fn connect(&self) -> Result<Qmp, QmpError> {
        Qmp::connect(&self.qmp_path, CONNECT_TIMEOUT)
    }

    /// Where the socket of a migration goes: QEMU made its QMP socket there, so it may use this
    /// one too.
    pub fn socket_path(&self, migration: &str) -> PathBuf {
        let name = format!("dwcp-{}.sock", &migration[..16.min(migration.len())]);
        self.qmp_path.with_file_name(name)
    }
}

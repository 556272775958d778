//! A guest that a QEMU process runs, or is waiting for, known by its QMP socket.

use crate::Status;
use crate::base::{MachineFacts, MigrationId};
use crate::migration::Owner;
use crate::runtime::lock::lock;
use crate::runtime::qemu::watch::{MULTIFD, POST_COPY};
use crate::runtime::qemu::{Qmp, QmpError, RunState};
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
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
    version: String,
    has_multifd: bool,
    has_post_copy: bool,
    /// Its migration is paused in post-copy, and waits for a recovery.
    awaits_recovery: AtomicBool,
    /// A conversation with it that a migration left when it ended in post-copy: while QEMU's main loop waits
    /// for a page, no other can begin.
    left: Arc<Mutex<Option<Qmp>>>,
}

/// An attached guest, as far as it is known without asking its QEMU.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct VmInfo {
    /// Its name.
    pub name: String,
    /// `source` (runs here) or `destination` (expected here).
    pub role: &'static str,
    /// QEMU's version when it was attached.
    pub qemu_version: String,
    /// QEMU's machine type, with its version.
    pub machine: String,
    /// Memory size.
    pub ram_bytes: u64,
    /// Virtual processors.
    pub cpus: u32,
    /// Its QMP socket.
    pub qmp: String,
    /// The migration under way.
    pub migration: Option<MigrationId>,
}

/// An attached guest and what its QEMU says now.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct VmStatus {
    /// What is known anyway.
    #[serde(flatten)]
    pub info: VmInfo,
    /// Whether its CPUs execute; none if QEMU was not asked or is silent.
    pub running: Option<bool>,
    /// QEMU's word for its state, such as `running`, `paused` or `inmigrate`.
    pub state: Option<String>,
    /// Why there is no state.
    pub silence: Option<String>,
}

/// A guest could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Nobody listens there.
    #[error(transparent)]
    Connect(QmpError),
    /// QEMU, or what should be one.
    #[error("{path}: {source}", path = path.display())]
    Qmp {
        /// Its socket.
        path: PathBuf,
        /// What it did.
        source: QmpError,
    },
    /// It runs a guest, but should wait for one, or the other way round.
    #[error("QEMU at {path} is in state {status:?}; {wanted}", path = path.display())]
    State {
        /// Its socket.
        path: PathBuf,
        /// As it says.
        status: String,
        /// What would be right.
        wanted: &'static str,
    },
    /// The socket's directory leaves no room for another socket's name.
    #[error("path {path} is too long: sockets with names of {room} bytes are made beside it", path = .0.display(), room = SOCKET_NAME_BYTES)]
    PathTooLong(PathBuf),
    /// This process has no current directory.
    #[error("path {path} cannot be made absolute: {source}", path = path.display())]
    NoDirectory {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl AttachError {
    /// The status code of this error.
    pub fn status(&self) -> Status {
        match self {
            Self::Connect(_) => Status::Connect,
            Self::Qmp { source, .. } => match source {
                QmpError::NotQmp { .. } => Status::InvalidArgument,
                QmpError::TimedOut { .. } | QmpError::Stuck { .. } => Status::Timeout,
                QmpError::Connect { .. } | QmpError::Closed { .. } | QmpError::Io { .. } => {
                    Status::Connect
                }
                QmpError::Refused { .. } | QmpError::Answer { .. } => Status::Callback,
            },
            Self::State { .. } => Status::BadState,
            Self::PathTooLong(_) | Self::NoDirectory { .. } => Status::InvalidArgument,
        }
    }
}

impl QemuGuest {
    /// Asks QEMU what it is. `incoming`: it was started with `-incoming defer` and waits, or a migration
    /// into it is paused in post-copy.
    ///
    /// # Errors
    /// [`AttachError`]; QEMU is as it was.
    pub fn attach(qmp_path: &Path, incoming: bool) -> Result<Self, AttachError> {
        // QEMU will be told of a path beside this one, and its current directory is its own.
        let qmp_path = std::path::absolute(qmp_path)
            .map_err(|source| AttachError::NoDirectory { path: qmp_path.to_path_buf(), source })?;
        let mut qmp = Qmp::connect(&qmp_path, CONNECT_TIMEOUT).map_err(|error| match error {
            QmpError::Connect { .. } => AttachError::Connect(error),
            source => AttachError::Qmp { path: qmp_path.clone(), source },
        })?;
        let failed = |source| AttachError::Qmp { path: qmp_path.clone(), source };
        let status = qmp.status().map_err(failed)?.status;
        let is_paused = qmp.migration_info().map_err(failed)?.is_paused();
        if let Some(wanted) = what_is_wrong(&status, is_paused, incoming) {
            return Err(AttachError::State { path: qmp_path, status, wanted });
        }
        let machine = qmp.machine().map_err(failed)?;
        let facts = MachineFacts {
            machine: machine.machine_type,
            ram_bytes: machine.memory_bytes,
            cpus: u32::try_from(machine.cpus).unwrap_or(u32::MAX),
        };
        let capabilities = qmp.capabilities().map_err(failed)?;
        let has_multifd = capabilities.contains_key(MULTIFD);
        let has_post_copy = capabilities.contains_key(POST_COPY);
        let version = qmp.version().to_string();
        let awaits_recovery = AtomicBool::new(is_paused);
        let left = Arc::default();
        let guest =
            Self { qmp_path, facts, version, has_multifd, has_post_copy, awaits_recovery, left };
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

    /// Which QEMU runs it, as it said when it was attached.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Whether its QEMU can take pages over so many multifd channels.
    ///
    /// # Errors
    /// Why not.
    pub fn check_channels(&self, channels: u8) -> Result<(), String> {
        if channels == 0 || self.has_multifd {
            return Ok(());
        }
        let version = &self.version;
        Err(format!(
            "multifd_channels is {channels}, but QEMU {version} at the destination has no capability \
             multifd; use 0"
        ))
    }

    /// Whether its QEMU can run a guest whose memory is still to come. Whether this host lets it, QEMU says
    /// when it is told to.
    ///
    /// # Errors
    /// Why not.
    pub fn check_post_copy(&self) -> Result<(), String> {
        if self.has_post_copy {
            return Ok(());
        }
        let version = &self.version;
        Err(format!(
            "post-copy is wanted, but QEMU {version} at the destination has no capability \
             postcopy-ram; use never"
        ))
    }

    /// Whether its QEMU is paused in post-copy, so that only a recovery goes on with it.
    pub fn awaits_recovery(&self) -> bool {
        self.awaits_recovery.load(Ordering::Acquire)
    }

    /// Its QEMU was told to go on.
    pub fn goes_on(&self) {
        self.awaits_recovery.store(false, Ordering::Release);
    }

    /// Where a migration that ends in post-copy leaves its conversation.
    pub fn left(&self) -> Arc<Mutex<Option<Qmp>>> {
        self.left.clone()
    }

    /// A migration is over. If its QEMU lives and is in post-copy, it is paused or about to be; unless its guest
    /// was given back to the source.
    pub fn look_what_is_left(&self, owner: Owner) {
        let mut left = lock(&self.left);
        if owner == Owner::Source {
            *left = None;
        }
        if left.is_some() {
            self.awaits_recovery.store(true, Ordering::Release);
        }
    }

    /// A conversation with its QEMU.
    ///
    /// # Errors
    /// Nobody answers there, or somebody else holds the only connection.
    pub fn connect(&self) -> Result<Qmp, QmpError> {
        if let Some(left) = lock(&self.left).take().filter(|left| !left.is_broken()) {
            return Ok(left);
        }
        Qmp::connect(&self.qmp_path, CONNECT_TIMEOUT)
    }

    /// Whether the guest runs now.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub fn state(&self) -> Result<RunState, QmpError> {
        match &mut *lock(&self.left) {
            Some(left) => left.status(),
            None => Qmp::connect(&self.qmp_path, CONNECT_TIMEOUT)?.status(),
        }
    }

    /// Where the socket of a migration goes: QEMU made its QMP socket there, so it may use this
    /// one too.
    pub fn socket_path(&self, migration: &str) -> PathBuf {
        let name = format!("dwcp-{}.sock", &migration[..16.min(migration.len())]);
        self.qmp_path.with_file_name(name)
    }

    /// Listens at a path of [`Self::socket_path`] for QEMU, and for nobody else.
    ///
    /// # Errors
    /// The directory cannot be written, or the socket not be given to QEMU's user.
    pub fn listen(&self, path: &Path) -> io::Result<UnixListener> {
        // A file of that name can only be left over from a process that is gone.
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path)?;
        let handed_over = self.hand_over(path);
        handed_over.inspect_err(|_| drop(std::fs::remove_file(path)))?;
        Ok(listener)
    }

    /// QEMU often runs as a user of its own, the one that its QMP socket belongs to; connecting
    /// takes the right to write.
    pub(super) fn hand_over(&self, path: &Path) -> io::Result<()> {
        std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
        let (theirs, ours) = (std::fs::metadata(&self.qmp_path)?, std::fs::metadata(path)?);
        if theirs.uid() != ours.uid() {
            std::os::unix::fs::chown(path, Some(theirs.uid()), Some(theirs.gid()))?;
        }
        Ok(())
    }
}

/// What a QEMU in this state would have to be instead; none if it is right.
fn what_is_wrong(status: &str, is_paused: bool, incoming: bool) -> Option<&'static str> {
    let has_left = matches!(status, "postmigrate" | "finish-migrate");
    match (status, incoming) {
        (_, true) if is_paused && has_left => {
            Some("a migration out of it is paused in post-copy: attach it, but not as incoming")
        }
        (_, false) if is_paused && !has_left => {
            Some("a migration into it is paused in post-copy: attach it as incoming")
        }
        _ if is_paused => None,
        ("inmigrate", true) => None,
        (_, true) => Some("to receive a guest it must be started with -incoming defer"),
        ("inmigrate", false) => Some("it waits for a guest: attach it as incoming"),
        (_, false) if has_left => {
            Some("its guest has left it or is about to; another process may run it")
        }
        (_, false) => None,
    }
}

/// Length of `dwcp-0123456789abcdef.sock`.
const SOCKET_NAME_BYTES: usize = 26;

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(qmp_path: PathBuf) -> QemuGuest {
        let facts = MachineFacts { machine: String::new(), ram_bytes: 0, cpus: 0 };
        QemuGuest {
            qmp_path,
            facts,
            version: "7.2".into(),
            has_multifd: false,
            has_post_copy: false,
            awaits_recovery: AtomicBool::new(false),
            left: Arc::default(),
        }
    }

    #[test]
    fn channels_need_a_qemu_that_has_them() {
        let mut guest = guest("/q.sock".into());
        assert_eq!(guest.check_channels(0), Ok(()));
        let text = guest.check_channels(3).unwrap_err();
        assert!(text.contains("is 3, but QEMU 7.2 at the destination has no"), "{text}");
        guest.has_multifd = true;
        assert_eq!(guest.check_channels(3), Ok(()));
    }

    #[test]
    fn post_copy_needs_a_qemu_that_has_it() {
        let mut guest = guest("/q.sock".into());
        let text = guest.check_post_copy().unwrap_err();
        assert!(text.contains("QEMU 7.2 at the destination has no"), "{text}");
        guest.has_post_copy = true;
        assert_eq!(guest.check_post_copy(), Ok(()));
    }

    #[test]
    fn only_a_qemu_that_waits_receives_and_only_one_that_has_its_guest_sends() {
        for status in ["running", "paused", "prelaunch", "suspended"] {
            assert_eq!(what_is_wrong(status, false, false), None);
            assert!(what_is_wrong(status, false, true).unwrap().contains("-incoming defer"));
        }
        assert_eq!(what_is_wrong("inmigrate", false, true), None);
        assert!(what_is_wrong("inmigrate", false, false).unwrap().contains("as incoming"));
        assert!(what_is_wrong("postmigrate", false, false).unwrap().contains("has left"));
    }

    #[test]
    fn a_qemu_that_is_paused_in_post_copy_is_attached_on_its_side_alone() {
        for (status, incoming) in [("finish-migrate", false), ("running", true), ("paused", true)] {
            assert_eq!(what_is_wrong(status, true, incoming), None, "{status}");
            let text = what_is_wrong(status, true, !incoming).unwrap();
            assert!(text.contains("paused in post-copy"), "{text}");
        }
    }

    #[test]
    fn the_room_for_a_name_is_what_is_needed() {
        let guest = guest("/q.sock".into());
        let path = guest.socket_path(&"0".repeat(32));
        assert_eq!(path.file_name().unwrap().len(), SOCKET_NAME_BYTES);
    }

    #[test]
    fn a_migrations_socket_is_for_qemus_user_alone() {
        let folder = std::env::temp_dir().join(format!("dwcp-hand-over-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let qmp_path = folder.join("qmp.sock");
        std::fs::write(&qmp_path, "").unwrap();
        let guest = guest(qmp_path.clone());
        // Only root may give files away.
        let user = match std::os::unix::fs::chown(&qmp_path, Some(12_345), Some(12_345)) {
            Ok(()) => 12_345,
            Err(_) => std::fs::metadata(&qmp_path).unwrap().uid(),
        };
        let path = guest.socket_path("0123");
        let _listener = guest.listen(&path).unwrap();
        let made = std::fs::metadata(&path).unwrap();
        assert_eq!((made.uid(), made.permissions().mode() & 0o777), (user, 0o600));
        std::fs::remove_file(&qmp_path).unwrap();
        assert!(guest.listen(&path).is_err() && !path.exists());
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_long_path_and_a_missing_one_are_refused_by_name() {
        let error = QemuGuest::attach(Path::new("/nowhere/at/all.sock"), false).unwrap_err();
        assert_eq!(error.status(), Status::Connect);
        assert!(error.to_string().contains("/nowhere/at/all.sock: No such file"), "{error}");
        let long = PathBuf::from(format!("/{}", "x".repeat(200)));
        assert!(QemuGuest::attach(&long, false).unwrap_err().to_string().contains("xxx"));
    }
}

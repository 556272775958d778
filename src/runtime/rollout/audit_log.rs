//! The file behind the flags: one line a change, appended and synced before the change takes hold.
//!
//! ```text
//! rollout.log       the chain of changes; replayed when the node starts
//! rollout.log.1     what was before it, once it grew too long
//! rollout.head      number and hash of the last change: finds a log whose end was cut off
//! rollout.lock      held by the node that writes
//! ```
//! Nothing is made before the first change. An append that fails leaves the file as it was. A crash in
//! the middle of one leaves a line without its end, which was never told to anybody and is cut off; a
//! crash right after it leaves the head behind.

use crate::base::limits::{MAX_AUDIT_BYTES, MAX_FLAG_HISTORY};
use crate::rollout::audit::{AuditError, Entry, Replay, Tip, Verifier, verify};
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The log, in the state directory.
pub const LOG: &str = "rollout.log";
const OLD_LOG: &str = "rollout.log.1";
const NEW_LOG: &str = "rollout.log.new";
const HEAD: &str = "rollout.head";
const NEW_HEAD: &str = "rollout.head.new";
const LOCK: &str = "rollout.lock";
/// A head is a number and a hash; a longer file is none.
const MAX_HEAD_BYTES: u64 = 256;
/// What operators say of their hosts is for them alone.
const MODE: u32 = 0o600;
/// Lines of one append, at most: the beginning of a log and the change that began it.
const MOST_AHEAD: u64 = 2;

/// The log could not be used.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A system call failed.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process, or another node in this one, writes it.
    #[error("flag log {path} is in use by another node", path = .0.display())]
    InUse(PathBuf),
    /// It holds more than was ever written.
    #[error("flag log {path} has {bytes} bytes, which is more than {MAX_AUDIT_BYTES}", path = path.display())]
    TooLong {
        /// Which file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
    /// It is not as it was written.
    #[error("{path}: {source}; the feature flags are not taken from it", path = path.display())]
    Audit {
        /// Which file.
        path: PathBuf,
        /// What is wrong, and in which line.
        source: AuditError,
    },
    /// The log and its head do not belong together.
    #[error("{path}: {what}; the feature flags are not taken from it", path = path.display())]
    Head {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// What was found on disk.
#[derive(Debug)]
pub struct Found {
    /// The flags, where the log ends, and what a crash left behind its end.
    pub replay: Replay,
    /// The newest entries, oldest first.
    pub history: VecDeque<Entry>,
}

/// The log of one node.
#[derive(Debug)]
pub struct AuditLog {
    directory: PathBuf,
    /// None before the first change.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    bytes: u64,
    /// Held until this is dropped.
    _lock: File,
}

impl AuditLog {
    /// Opens the log of a state directory and replays it; if there is none, none is made. What a crash
    /// left of an append is cut off.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn open(directory: &Path) -> Result<(Self, Option<Found>), LogError> {
        let mut log = Self { directory: directory.to_path_buf(), open: None };
        let head = log.read_head()?;
        if !log.path().exists() {
            return match head {
                None => Ok((log, None)),
                Some(Tip { seq, .. }) => {
                    Err(log.detached(format!("it is gone, but entry {seq} was written")))
                }
            };
        }
        let open = log.take(false)?;
        let mut bytes = vec![0; open.bytes as usize];
        let read = open.file.read_exact_at(&mut bytes, 0);
        read.map_err(|source| log.failed("read", LOG, source))?;
        let found = log.replay(&bytes, head)?;
        log.open = Some(open);
        if found.replay.torn_bytes > 0 {
            log.shorten(found.replay.whole_bytes)
                .map_err(|source| log.failed("shorten", LOG, source))?;
        }
        Ok((log, Some(found)))
    }

    /// The file.
    pub fn path(&self) -> PathBuf {
        self.file(LOG)
    }

    /// Reads the file once more and checks all of it, up to where it is known to end; says how many changes it
    /// holds.
    ///
    /// # Errors
    /// [`LogError`]: it is not as it was written.
    pub fn verify(&self, tip: Tip) -> Result<u64, LogError> {
        let Some(open) = &self.open else { return Ok(0) };
        let read = fs::read(self.path()).map_err(|source| self.failed("read", LOG, source))?;
        let failed = |source| LogError::Audit { path: self.path(), source };
        let replay = verify(&read, Some(tip)).map_err(failed)?;
        if replay.whole_bytes != open.bytes || replay.torn_bytes > 0 {
            let found = replay.whole_bytes + replay.torn_bytes;
            return Err(
                self.detached(format!("it has {found} bytes, and {} were written", open.bytes))
            );
        }
        Ok(replay.entries)
    }

    /// Whether further lines would make it too long, so that it is to be begun anew.
    pub fn is_full(&self, lines: &str) -> bool {
        let bytes = self.open.as_ref().map_or(0, |open| open.bytes);
        bytes > 0 && bytes + lines.len() as u64 > MAX_AUDIT_BYTES
    }

    /// Adds lines, each with its end; they are on disk on return, and so is the head.
    ///
    /// # Errors
    /// [`LogError`], such as a full disk; the log is then as before.
    pub fn append(&mut self, lines: &str, tip: Tip) -> Result<(), LogError> {
        if self.open.is_none() {
            self.open = Some(self.take(true)?);
        }
        self.demand_untouched()?;
        let before = self.open.as_ref().map_or(0, |open| open.bytes);
        let written = self
            .write(lines)
            .map_err(|source| self.failed("write", LOG, source))
            .and_then(|()| self.write_head(tip));
        if written.is_err() {
            // Shortening a file needs no room. Where it fails all the same, the head does not know the
            // lines, and the next start finds them to be one change more than was told.
            let _ = self.shorten(before);
        }
        written
    }

    /// Begins the log anew with a line that says all that came before; the old one is kept beside it.
    ///
    /// # Errors
    /// [`LogError`]; the log is then as before.
    pub fn rotate(&mut self, line: &str, tip: Tip) -> Result<(), LogError> {
        let new = self.file(NEW_LOG);
        let file = self.begin_anew(line).map_err(|source| {
            // It would be in the way of nothing.
            let _ = fs::remove_file(&new);
            self.failed("begin anew", LOG, source)
        })?;
        if let Some(open) = &mut self.open {
            (open.file, open.bytes) = (file, line.len() as u64);
        }
        self.write_head(tip)
    }

    fn begin_anew(&self, line: &str) -> io::Result<File> {
        let (path, old, new) = (self.path(), self.file(OLD_LOG), self.file(NEW_LOG));
        remove(&new)?;
        let mut file = options().create_new(true).open(&new)?;
        file.write_all(line.as_bytes())?;
        file.sync_all()?;
        // At no moment is there no log.
        remove(&old)?;
        fs::hard_link(&path, &old)?;
        fs::rename(&new, &path)?;
        sync_directory(&self.directory)?;
        Ok(file)
    }

    /// Takes the lock and opens the file.
    fn take(&self, create: bool) -> Result<Open, LogError> {
        let lock = options().create(true).open(self.file(LOCK));
        let lock = lock.map_err(|source| self.failed("open", LOCK, source))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => LogError::InUse(self.path()),
            TryLockError::Error(source) => self.failed("lock", LOCK, source),
        })?;
        let file = options().create(create).open(self.path());
        let file = file.map_err(|source| self.failed("open", LOG, source))?;
        let bytes = file.metadata().map_err(|source| self.failed("read", LOG, source))?.len();
        if create && bytes > 0 {
            // Another node that shares the directory has written since this one looked.
            return Err(LogError::InUse(self.path()));
        }
        if bytes > MAX_AUDIT_BYTES {
            return Err(LogError::TooLong { path: self.path(), bytes });
        }
        Ok(Open { file, bytes, _lock: lock })
    }

    fn replay(&self, bytes: &[u8], head: Option<Tip>) -> Result<Found, LogError> {
        let failed = |source| LogError::Audit { path: self.path(), source };
        let mut verifier = Verifier::default().with_head(head);
        let mut history = VecDeque::new();
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let entry = verifier.line(&rest[..end]).map_err(failed)?;
            let follows =
                head.is_none_or(|head| head.seq + 1 != entry.seq || head.hash == entry.previous);
            if !follows {
                let what = format!("entry {} does not follow the one that was last", entry.seq);
                return Err(self.detached(what));
            }
            if history.len() == MAX_FLAG_HISTORY {
                history.pop_front();
            }
            history.push_back(entry);
            rest = &rest[end + 1..];
        }
        let replay = verifier.finish(rest.len() as u64).map_err(failed)?;
        let known = head.map_or(0, |head| head.seq);
        if replay.tip.seq > known + MOST_AHEAD {
            let what = match head {
                Some(_) => format!("it has {} entries, but {known} were written", replay.tip.seq),
                None => format!("its head {HEAD} is gone, which says where it ends"),
            };
            return Err(self.detached(what));
        }
        if replay.entries > 0 && head != Some(replay.tip) {
            self.write_head(replay.tip)?;
        }
        Ok(Found { replay, history })
    }

    /// What is written to a file that was taken away is gone with this process, and what follows a stranger's
    /// line is not to be believed at the next start.
    fn demand_untouched(&self) -> Result<(), LogError> {
        let Some(open) = &self.open else { return Ok(()) };
        let failed = |source| self.failed("write", LOG, source);
        let there = fs::metadata(self.path()).map_err(failed)?;
        if there.ino() != open.file.metadata().map_err(failed)?.ino() {
            return Err(failed(io::Error::other("another file has taken its place")));
        }
        if there.len() != open.bytes {
            let (found, written) = (there.len(), open.bytes);
            let why = format!(
                "somebody has changed it: it has {found} bytes, and {written} were written"
            );
            return Err(failed(io::Error::other(why)));
        }
        Ok(())
    }

    fn write(&mut self, lines: &str) -> io::Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        open.file.write_all(lines.as_bytes())?;
        open.file.sync_data()?;
        open.bytes += lines.len() as u64;
        Ok(())
    }

    fn shorten(&mut self, bytes: u64) -> io::Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        open.bytes = bytes;
        open.file.set_len(bytes)?;
        open.file.sync_data()
    }

    fn read_head(&self) -> Result<Option<Tip>, LogError> {
        let mut text = String::new();
        let read = match File::open(self.file(HEAD)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => Err(error),
            Ok(file) => file.take(MAX_HEAD_BYTES).read_to_string(&mut text),
        };
        read.map_err(|source| self.failed("read", HEAD, source))?;
        let words = text.trim_end().split_once(' ');
        let tip = words
            .and_then(|(seq, hash)| Some(Tip { seq: seq.parse().ok()?, hash: hash.parse().ok()? }));
        let what = "it is not a number and a hash".to_owned();
        tip.map(Some).ok_or(LogError::Head { path: self.file(HEAD), what })
    }

    /// Replaces the head; on disk on return.
    fn write_head(&self, tip: Tip) -> Result<(), LogError> {
        let (path, new) = (self.file(HEAD), self.file(NEW_HEAD));
        let write = || {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(MODE);
            let mut file = options.open(&new)?;
            file.write_all(format!("{} {}\n", tip.seq, tip.hash).as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            sync_directory(&self.directory)
        };
        write().map_err(|source| {
            let _ = fs::remove_file(&new);
            self.failed("write", HEAD, source)
        })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn failed(&self, action: &'static str, name: &str, source: io::Error) -> LogError {
        LogError::Io { action, path: self.file(name), source }
    }

    fn detached(&self, what: String) -> LogError {
        LogError::Head { path: self.path(), what }
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).append(true).mode(MODE);
    options
}

/// Removes a file that may not be there.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

//! The directory of a trial: records, sockets and logs of its nodes; gone when the trial is over.

use super::TrialError;
use crate::runtime::modes::random_number;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A directory that is removed with all that is in it when this is dropped.
pub struct Scratch {
    path: PathBuf,
    /// Locked for as long as the trial lives; the kernel unlocks it, however that ends.
    _lock: File,
}

impl Scratch {
    /// Makes a directory for this trial alone, and removes those of trials that were killed.
    ///
    /// # Errors
    /// There is no room, or no right.
    pub fn new() -> Result<Self, TrialError> {
        let above = std::env::temp_dir();
        sweep(&above);
        for _ in 0..ATTEMPTS {
            // Not by the number of the process: another container may have the same one.
            let path = above.join(format!("{PREFIX}{:016x}", random_number()));
            fs::DirBuilder::new().mode(0o700).create(&path).map_err(TrialError::Scratch)?;
            if let Some(lock) = lock(&path).map_err(TrialError::Scratch)? {
                return Ok(Self { path, _lock: lock });
            }
        }
        Err(TrialError::Scratch(io::Error::other("others remove what is made")))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next trial.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Locks a directory; none if somebody else has, who then removes it, or has removed it.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let opened = File::open(path);
    if opened.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(None);
    }
    let directory = opened?;
    match directory.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => return Ok(None),
        Err(fs::TryLockError::Error(error)) => return Err(error),
    }
    let (locked, there) = (directory.metadata()?, fs::metadata(path));
    let is_there =
        there.is_ok_and(|there| (there.dev(), there.ino()) == (locked.dev(), locked.ino()));
    Ok(is_there.then_some(directory))
}

fn sweep(above: &Path) {
    let Ok(entries) = fs::read_dir(above) else { return };
    for entry in entries.flatten() {
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let is_trials = entry.file_name().to_string_lossy().starts_with(PREFIX);
        // Locked until it is gone: whoever has just made it makes another one then.
        if is_directory
            && is_trials
            && let Ok(Some(_lock)) = lock(&entry.path())
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

const PREFIX: &str = "dwcp-trial-";
/// A trial that starts at the same time may take what was just made for left behind.
const ATTEMPTS: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_with_its_trial_and_what_a_killed_one_left_goes_too() {
        let left = std::env::temp_dir().join(format!("{PREFIX}{:016x}", random_number()));
        fs::create_dir_all(left.join("state")).unwrap();
        let scratch = Scratch::new().unwrap();
        assert!(!left.exists());
        let path = scratch.path().to_owned();
        fs::write(path.join("file"), "").unwrap();
        drop(scratch);
        assert!(!path.exists());
    }

    /// Of one process, or of processes that have the same number in containers of their own.
    #[test]
    fn trials_at_the_same_time_have_a_directory_each() {
        let all: Vec<_> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..8).map(|_| scope.spawn(Scratch::new)).collect();
            all.into_iter().map(|one| one.join().unwrap().unwrap()).collect()
        });
        for scratch in &all {
            assert!(scratch.path().is_dir(), "{}", scratch.path().display());
        }
    }
}

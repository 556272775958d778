//! The directory of a trial: records, sockets and logs of its nodes; gone when the trial is over.

use super::TrialError;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// A directory that is removed with all that is in it when this is dropped.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes a directory for this process alone, and removes those of trials that were killed.
    ///
    /// # Errors
    /// There is no room, or no right.
    pub fn new() -> Result<Self, TrialError> {
        let above = std::env::temp_dir();
        sweep(&above);
        let path = above.join(format!("{PREFIX}{}", std::process::id()));
        let made = fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(TrialError::Scratch)?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next trial.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn sweep(above: &Path) {
    let Ok(entries) = fs::read_dir(above) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|pid| pid.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

const PREFIX: &str = "dwcp-trial-";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_with_its_trial_and_what_a_killed_one_left_goes_too() {
        let mut owner = std::process::Command::new("true").spawn().unwrap();
        owner.wait().unwrap();
        let left = std::env::temp_dir().join(format!("{PREFIX}{}", owner.id()));
        fs::create_dir_all(left.join("state")).unwrap();
        let scratch = Scratch::new().unwrap();
        assert!(!left.exists());
        let path = scratch.path().to_owned();
        fs::write(path.join("file"), "").unwrap();
        drop(scratch);
        assert!(!path.exists());
    }
}

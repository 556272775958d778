//! Replaces a file's content: after a crash or a full disk, it is the old or the new one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

static NEXT: AtomicU64 = AtomicU64::new(0);

/// New content that lies on the disk beside a file. Dropped, it goes; the file is as it was.
#[derive(Debug)]
pub struct Replacement {
    target: PathBuf,
    temporary: PathBuf,
}

/// Who may do what with a file.
#[derive(Clone, Copy, Debug)]
pub enum Rights {
    /// Owner and mode are those of the file that is there; where there is none, this mode.
    Kept(u32),
    /// This mode in any case, and this process' owner.
    Set(u32),
}

impl Replacement {
    /// Writes the content down.
    ///
    /// # Errors
    /// Such as a full disk, or something that is no file in the file's place; then nothing is left behind.
    pub fn write(path: &Path, content: &[u8], rights: Rights) -> io::Result<Self> {
        // A link stays a link: its target is what is replaced.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if fs::metadata(&target).is_ok_and(|there| !there.is_file()) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
        }
        let name = target.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
        // Several may be on their way to one file at a time.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!(".{name}.{}-{number}.new", std::process::id());
        let temporary = target.with_file_name(name);
        let replacement = Self { target, temporary };
        replacement.fill(content, rights)?;
        Ok(replacement)
    }

    /// Puts it in the file's place, on the disk on return.
    ///
    /// # Errors
    /// The file is as it was; or it is the new one, and may be the old one again after a crash.
    pub fn commit(self) -> io::Result<()> {
        fs::rename(&self.temporary, &self.target)?;
        self.sync_directory()
    }

    /// Puts it where no file is.
    ///
    /// # Errors
    /// There is one, which is left alone.
    pub fn commit_new(self) -> io::Result<()> {
        // A rename would replace a file that somebody else makes at this moment; a link does not.
        match fs::hard_link(&self.temporary, &self.target) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
            // Not every file system has links, such as that of a memory stick.
            Err(_) if fs::symlink_metadata(&self.target).is_err() => self.commit(),
            linked => linked.and_then(|()| self.sync_directory()),
        }
    }

    /// Where the content is until then.
    pub fn temporary(&self) -> &Path {
        &self.temporary
    }

    fn fill(&self, content: &[u8], rights: Rights) -> io::Result<()> {
        let (Rights::Kept(mode) | Rights::Set(mode)) = rights;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(mode);
        let mut file = options.open(&self.temporary)?;
        if let (Rights::Kept(_), Ok(metadata)) = (rights, fs::metadata(&self.target)) {
            file.set_permissions(fs::Permissions::from_mode(metadata.mode() & 0o7777))?;
            std::os::unix::fs::fchown(&file, Some(metadata.uid()), Some(metadata.gid()))?;
        }
        file.write_all(content)?;
        file.sync_all()
    }

    fn sync_directory(&self) -> io::Result<()> {
        let directory = match self.target.parent() {
            Some(directory) if !directory.as_os_str().is_empty() => directory,
            _ => Path::new("."),
        };
        File::open(directory)?.sync_all()
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        // After a rename there is none; of a leftover nothing more can be done.
        let _ = fs::remove_file(&self.temporary);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("dwcp-replace-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn a_file_is_old_or_new_and_nothing_else_is_left() {
        let directory = scratch("old-or-new");
        let file = directory.join("f");
        drop(Replacement::write(&file, b"never", Rights::Kept(0o600)).unwrap());
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
        Replacement::write(&file, b"one", Rights::Kept(0o600)).unwrap().commit_new().unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        let refused = Replacement::write(&file, b"two", Rights::Kept(0o600))
            .unwrap()
            .commit_new()
            .unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&file).unwrap(), b"one");
        Replacement::write(&file, b"three", Rights::Kept(0o644)).unwrap().commit().unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"three");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        Replacement::write(&file, b"four", Rights::Set(0o600)).unwrap().commit().unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        let refused = Replacement::write(&directory, b"five", Rights::Set(0o600)).unwrap_err();
        assert_eq!(refused.to_string(), "it is no regular file");
        let device = Replacement::write(Path::new("/dev/null"), b"six", Rights::Kept(0o600));
        assert_eq!(device.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        fs::remove_dir_all(directory).unwrap();
    }
}

//! Binds the control socket: private from its first instant, a stale file replaced, a live one not.

use super::ControlError;
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A listening unix socket; its file goes when it is dropped.
pub(super) struct BoundSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode: what is there by then may be another's.
    file: (u64, u64),
}

impl BoundSocket {
    pub fn bind(path: &Path) -> Result<Self, ControlError> {
        let error = |source| ControlError::Socket { path: path.to_owned(), source };
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        // Two processes that start at once must not each take the other's socket for stale.
        let _turn = lock(directory.unwrap_or(Path::new("."))).map_err(error)?;
        clear_stale(path)?;
        let listener = listen(path).map_err(error)?;
        let metadata = fs::symlink_metadata(path).map_err(error)?;
        Ok(Self { listener, path: path.to_owned(), file: (metadata.dev(), metadata.ino()) })
    }

    /// The listener, for the runtime that was entered.
    pub fn listen(&self) -> io::Result<tokio::net::UnixListener> {
        self.listener.try_clone().and_then(tokio::net::UnixListener::from_std)
    }
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        let still_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.file);
        if still_ours {
            // A leftover socket is recognized as stale by the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn lock(directory: &Path) -> io::Result<File> {
    let file = File::open(directory)?;
    let deadline = Instant::now() + LOCK_TIMEOUT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                let text = format!("directory {} stays locked", directory.display());
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_RETRY),
        }
    }
}

fn clear_stale(path: &Path) -> Result<(), ControlError> {
    let error = |source| ControlError::Socket { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(error(source)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(ControlError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(refused) if refused.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(error)
        }
        Ok(_) => Err(ControlError::InUse(path.to_owned())),
        // A full backlog is as alive as an answer.
        Err(busy) if busy.kind() == io::ErrorKind::WouldBlock => {
            Err(ControlError::InUse(path.to_owned()))
        }
        Err(source) => Err(error(source)),
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    // Nobody can connect before listen, so the mode is set in time.
    let ready = fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        .and_then(|()| socket.listen(BACKLOG))
        .and_then(|()| socket.set_nonblocking(true));
    if let Err(error) = ready {
        let _ = fs::remove_file(path);
        return Err(error);
    }
    Ok(UnixListener::from(std::os::fd::OwnedFd::from(socket)))
}

const BACKLOG: i32 = 64;
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
const LOCK_RETRY: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("dwcp-bind-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn the_socket_is_private_and_goes_with_its_owner() {
        let directory = scratch("private");
        let path = directory.join("s");
        let bound = BoundSocket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(matches!(BoundSocket::bind(&path), Err(ControlError::InUse(_))));
        drop(bound);
        assert!(!path.exists());
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_file_is_not() {
        let directory = scratch("stale");
        let path = directory.join("s");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(BoundSocket::bind(&path).unwrap());
        fs::write(&path, "precious").unwrap();
        assert!(matches!(BoundSocket::bind(&path), Err(ControlError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_successors_socket_is_left_alone() {
        let directory = scratch("successor");
        let path = directory.join("s");
        let first = BoundSocket::bind(&path).unwrap();
        fs::rename(&path, directory.join("old")).unwrap();
        let _second = BoundSocket::bind(&path).unwrap();
        drop(first);
        assert!(path.exists());
        drop(_second);
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn an_impossible_path_is_named() {
        let long = PathBuf::from(format!("/tmp/{}", "x".repeat(200)));
        let error = BoundSocket::bind(&long).err().unwrap().to_string();
        assert!(error.contains("xxx"), "{error}");
        let error = BoundSocket::bind(Path::new("/nonexistent/s")).err().unwrap().to_string();
        assert!(error.contains("/nonexistent/s"), "{error}");
    }
}

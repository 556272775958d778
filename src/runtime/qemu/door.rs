//! The way into a QEMU that waits for a guest: its migration's socket, with a connection for each
//! channel.

use crate::Status;
use crate::migration::Failure;
use crate::migration::relay::RelaySetup;
use crate::migration::relay::destination::Released;
use crate::runtime::lock::lock;
use crate::runtime::qemu::guest::QemuGuest;
use crate::runtime::qemu::watch::{ENDING_TIME, Task, Watch};
use crate::runtime::sys::Process;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long QEMU may take to listen; one that is paused in post-copy may have to be asked first what it will not
/// answer.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(15);

/// A QEMU that listens.
pub struct QemuDoor {
    /// What becomes of its migration.
    pub watch: Watch,
    /// The connection for the main stream. It is the first: QEMU takes the first one for that.
    pub main: Arc<UnixStream>,
    path: PathBuf,
    more: Mutex<More>,
    /// QEMU itself, whoever is behind its QMP socket; none where that cannot be seen.
    process: Option<Arc<Process>>,
}

struct More {
    channels: Vec<Arc<UnixStream>>,
    closed: bool,
}

impl QemuDoor {
    /// Makes QEMU listen for a main stream and so many channels, or again for the rest of a main stream,
    /// and connects the main stream.
    ///
    /// # Errors
    /// QEMU's words, or that it does not listen.
    pub fn open(
        guest: &QemuGuest,
        setup: &RelaySetup,
        on_news: Box<dyn Fn() + Send>,
    ) -> Result<Self, Failure> {
        let path = guest.socket_path(&setup.id.to_string());
        let (multifd_channels, post_copy) = (setup.channels, setup.post_copy);
        let _ = std::fs::remove_file(&path);
        let failed = |text: String| Failure::new(Status::Callback, text);
        let qmp = guest.connect().map_err(|error| failed(error.to_string()))?;
        let uri = format!("unix:{}", path.display());
        let task = match setup.is_recovery() {
            true => Task::Recover { uri },
            false => Task::Receive { uri, multifd_channels, post_copy },
        };
        let watch = Watch::start_leaving(qmp, task, guest.left(), on_news)
            .map_err(|error| failed(format!("no thread for QMP: {error}")))?;
        let deadline = Instant::now() + LISTEN_TIMEOUT;
        let main = loop {
            let seen = watch.seen();
            if let Some(Err(text)) = seen.over {
                return Err(failed(text));
            }
            match seen.under_way.then(|| UnixStream::connect(&path)) {
                Some(Ok(socket)) => break Arc::new(socket),
                _ if Instant::now() > deadline => {
                    return Err(failed(format!("QEMU does not listen on {}", path.display())));
                }
                _ => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        if multifd_channels == 0 {
            let _ = std::fs::remove_file(&path);
        }
        let more = Mutex::new(More { channels: Vec::new(), closed: false });
        let process = Process::behind(&main).ok().map(Arc::new);
        Ok(Self { watch, main, path, more, process })
    }

    /// Connects a further channel. QEMU waits for its first bytes and does nothing else, so they must
    /// be there.
    ///
    /// # Errors
    /// The socket's, or that the door is closed.
    pub fn connect(&self) -> io::Result<Arc<UnixStream>> {
        let mut more = lock(&self.more);
        if more.closed {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let socket = Arc::new(UnixStream::connect(&self.path)?);
        more.channels.push(socket.clone());
        Ok(socket)
    }

    /// Gives QEMU the end of the stream, without which no guest runs, and sees the guest there.
    pub fn release(&self, end: &[u8]) -> Released {
        let in_touch = !self.watch.seen().lost;
        let patience = if in_touch { Duration::ZERO } else { ENDING_TIME };
        if self.process.as_ref().is_some_and(|process| process.ends_within(patience)) {
            return Released::NeverRan("QEMU ended before the end of its stream".into());
        }
        let mut socket = &*self.main;
        let written = socket.write_all(end).and_then(|()| socket.shutdown(Shutdown::Write));
        // QEMU may close its side as soon as it has all it needs; only its word counts.
        match (self.watch.settle(self.process.clone(), in_touch), written) {
            (Released::NeverRan(text), Err(error)) => {
                Released::NeverRan(format!("{text} ({error})"))
            }
            (released, _) => released,
        }
    }

    /// Gives QEMU the package of a switch to post-copy, whose last bytes let its guest run.
    ///
    /// # Errors
    /// It has not got all of it and never will, so no guest runs.
    pub fn hand_over(&self, package: &[u8]) -> Result<(), String> {
        let mut socket = &*self.main;
        socket.write_all(package).map_err(|error| {
            self.close();
            format!("QEMU at the destination takes no more of its stream: {error}")
        })
    }

    /// Waits until it is known what became of a guest that was handed over.
    pub fn settle(&self) -> Released {
        self.watch.settle(self.process.clone(), !self.watch.seen().lost)
    }

    /// Ends every connection: QEMU gets nothing more, and whoever writes to it is let go.
    pub fn close(&self) {
        let mut more = lock(&self.more);
        more.closed = true;
        for socket in more.channels.iter().chain([&self.main]) {
            // One that QEMU has closed is closed.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for QemuDoor {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

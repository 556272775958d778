//! The control server: HTTP and JSON over a unix socket, for any node in this process.
//!
//! `dwcpd` serves its node this way, and a hypervisor that links the library can, so that the
//! same command line drives both. One thread, named and deaf to signals, answers everything.

mod api;
mod bind;
mod compression;
mod doubts;
mod error;
mod flags;
mod http;
mod integrity;
mod memory;
mod metrics;
mod modes;
mod request;
pub mod resources;
mod state;
mod status;
mod v1;
mod vm;
mod watch;

pub use error::ApiError;

use super::log_file::LogFile;
use super::modes::TransportOptions;
use super::rollout::RolloutError;
use super::state_transfer;
use super::sys::thread::spawn_named;
use super::telemetry::Telemetry;
use crate::config::{Config, ConfigStore, Id, StoreError};
use crate::observe::Level;
use crate::{Node, Status};
use bind::BoundSocket;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};
use std::thread::JoinHandle;
use std::time::Instant;
use tokio::sync::watch as channel;

/// What a control server serves besides the node.
#[derive(Clone, Debug, Default)]
pub struct ControlOptions {
    /// The configuration that `config get|set` works on.
    pub config: Option<Arc<ConfigStore>>,
    /// Where `/metrics` is answered over TCP, for Prometheus.
    pub metrics_listen: Option<SocketAddr>,
    /// Where a log file is written: the first of these that can be.
    pub log_dirs: Vec<PathBuf>,
}

/// A control server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Another process answers on the socket.
    #[error("control socket {path} is in use by another process", path = .0.display())]
    InUse(PathBuf),
    /// Something that is not a socket is in the way.
    #[error("{path} exists and is not a socket", path = .0.display())]
    NotASocket(PathBuf),
    /// The socket.
    #[error("cannot listen on control socket {path}: {source}", path = path.display())]
    Socket {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The metrics port.
    #[error("cannot serve metrics on {address}: {source}")]
    Metrics {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The server's thread.
    #[error("cannot start the control server: {0}")]
    Thread(io::Error),
}

impl ControlError {
    /// The status code of this error.
    pub fn status(&self) -> Status {
        match self {
            ControlError::InUse(_) | ControlError::NotASocket(_) => Status::AlreadyExists,
            _ => Status::Io,
        }
    }
}

/// A running control server; dropping it stops it.
///
/// It holds a handle of the node: stop the server before expecting the node to end by itself.
pub struct ControlServer {
    context: Arc<Context>,
    socket: PathBuf,
    metrics_address: Option<SocketAddr>,
    stop: channel::Sender<bool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What every request may use.
struct Context {
    node: Node,
    telemetry: Arc<Telemetry>,
    config: Option<Arc<ConfigStore>>,
    started: Instant,
    /// The number of the newest event.
    events: channel::Receiver<u64>,
    /// The number of the newest log line.
    records: channel::Sender<u64>,
}

/// Serves a node on a unix socket, which only this user may open.
///
/// # Errors
/// The socket or the metrics port is taken or cannot be used.
pub fn serve_control(
    node: &Node,
    path: &Path,
    options: ControlOptions,
) -> Result<ControlServer, ControlError> {
    let bound = BoundSocket::bind(path)?;
    let metrics = options.metrics_listen.map(bind_metrics).transpose()?;
    let metrics_address = metrics.as_ref().and_then(|metrics| metrics.local_addr().ok());
    let context = Arc::new(Context::new(node, options.config));
    context.open_log(&options.log_dirs);
    let (stop, stopped) = channel::channel(false);
    let (ready, started) = mpsc::channel();
    let shared = context.clone();
    let thread = spawn_named("dwcp-control", move || {
        // The caller may itself be within a runtime, so this one lives and dies on its own thread.
        let ended = http::run(shared, &bound, metrics, stopped, || ready.send(Ok(())));
        if let Err(error) = ended {
            // A caller that no longer waits has heard of the start already.
            let _ = ready.send(Err(error));
        }
    })
    .map_err(ControlError::Thread)?;
    let never = |_| Err(io::Error::other("its thread ended at once"));
    started.recv().unwrap_or_else(never).map_err(ControlError::Thread)?;
    Ok(ControlServer {
        context,
        socket: path.to_owned(),
        metrics_address,
        stop,
        thread: Mutex::new(Some(thread)),
    })
}

impl ControlServer {
    /// The unix socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Where metrics are answered, with the port that was chosen.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    /// Adds a line to the log.
    pub fn log(&self, level: Level, message: String) {
        self.context.log(level, message);
    }

    /// Reads the configuration anew, whole or not at all; tells the keys that changed.
    ///
    /// # Errors
    /// The configuration is refused; what held before holds on.
    pub fn reload_config(&self) -> Result<Vec<Id>, StoreError> {
        let Some(store) = &self.context.config else { return Ok(Vec::new()) };
        let reloaded = store.reload();
        match &reloaded {
            Ok(changed) => {
                self.context.config_changed("reloaded", changed);
                if let Err(error) = self.context.flags_changed() {
                    self.log(Level::Error, format!("feature flags not reloaded: {error}"));
                }
            }
            Err(error) => self.log(Level::Error, format!("configuration not reloaded: {error}")),
        }
        reloaded
    }

    /// Stops answering, joins the thread, removes the socket. Idempotent.
    pub fn stop(&self) {
        self.stop.send_replace(true);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic on that thread has ended it, which is all that is wanted here.
            let _ = thread.join();
            self.context.refresh();
        }
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Context {
    fn new(node: &Node, config: Option<Arc<ConfigStore>>) -> Self {
        let (sender, events) = channel::channel(0);
        // Before the configuration is used: an import that a crash has interrupted may change it.
        state_transfer::carry_through(node, config.as_deref());
        if let Some(store) = &config {
            apply(node, &store.config());
            if let Err(error) = apply_flags(node, &store.config()) {
                node.notice(format!("feature flags of the configuration: {error}"));
            }
        }
        node.observe(Arc::new(move |event| {
            sender.send_replace(event.sequence);
        }));
        let telemetry = Arc::new(Telemetry::new(node));
        let keeper: Weak<Telemetry> = Arc::downgrade(&telemetry);
        node.set_metrics_keeper(keeper);
        Self {
            node: node.clone(),
            telemetry,
            config,
            started: Instant::now(),
            events,
            records: channel::channel(0).0,
        }
    }

    fn log(&self, level: Level, message: String) {
        // What the node did before comes before.
        self.telemetry.refresh();
        self.telemetry.log(level, message);
        self.records.send_replace(self.telemetry.last_record());
    }

    fn refresh(&self) {
        self.telemetry.refresh();
        self.records.send_replace(self.telemetry.last_record());
    }

    fn config(&self) -> Arc<Config> {
        self.config.as_ref().map_or_else(Arc::default, |store| store.config())
    }

    /// Hands the flags of the configuration to the node; they alone can be refused.
    fn flags_changed(&self) -> Result<(), RolloutError> {
        self.config.as_ref().map_or(Ok(()), |store| apply_flags(&self.node, &store.config()))
    }

    /// Hands the flags over after a key was set; where that is refused, the file gets back what it had,
    /// so that it says what holds.
    fn take_up_flags(&self, id: Id, before: &str) -> Result<(), ApiError> {
        let taken = self.flags_changed();
        if let (Err(_), Some(store)) = (&taken, &self.config) {
            match store.set(id.key().name, before) {
                Ok(changed) => self.config_changed("put back", &changed),
                Err(error) => {
                    self.log(Level::Error, format!("configuration not put back: {error}"))
                }
            }
        }
        Ok(taken?)
    }

    fn config_changed(&self, how: &str, changed: &[Id]) {
        let config = self.config();
        let (max_bytes, keep, level) = log_settings(&config);
        self.telemetry.set_log_bounds(max_bytes, keep, level);
        if self.config.is_some() {
            apply(&self.node, &config);
        }
        let names: Vec<_> = changed.iter().map(|id| id.key().name).collect();
        let what = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
        self.log(Level::Info, format!("configuration {how}; changed: {what}"));
    }

    fn open_log(&self, directories: &[PathBuf]) {
        let (max_bytes, keep, level) = log_settings(&self.config());
        for directory in directories {
            match LogFile::open(directory, max_bytes, keep) {
                Ok(file) => return self.telemetry.set_log_file(file, level),
                Err(error) => {
                    let text = format!("no log file in {}: {error}", directory.display());
                    self.log(Level::Warn, text);
                }
            }
        }
    }
}

/// Hands a configuration to the node.
fn apply(node: &Node, config: &Config) {
    node.set_encoding(config.encoding_options());
    let (policy, effects) = (config.mode_policy(), config.mode_effects());
    node.set_transport(TransportOptions { policy, effects });
    node.share_paths_with(config.paths_shared_with());
    node.share_metrics_with(config.metrics_shared_with());
    // Every key has been checked against the same bounds.
    let _ = node.set_paths(config.path_options());
    node.set_rdma(config.rdma_options());
    // As above.
    let _ = node.set_rollback_limits(config.rollback_limits());
    if let Err(error) = node.set_v1(config.v1_options()) {
        // What the keys' kinds let pass: peers beyond what the table of modes holds.
        node.notice(format!("v1 peers: {error}"));
    }
}

/// Hands the flags of a configuration to the node.
fn apply_flags(node: &Node, config: &Config) -> Result<(), RolloutError> {
    node.set_rollout_members(&config.rollout_members())?;
    node.configure_flags(&config.flag_rules()).map(|_| ())
}

fn log_settings(config: &Config) -> (u64, u64, Level) {
    let name = config.text(Id::NodeLogLevel);
    let level = Level::ALL.into_iter().find(|level| level.name() == name).unwrap_or(Level::Info);
    (config.integer(Id::NodeLogMaxSize), config.integer(Id::NodeLogKeep), level)
}

fn bind_metrics(address: SocketAddr) -> Result<TcpListener, ControlError> {
    TcpListener::bind(address)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .map_err(|source| ControlError::Metrics { address, source })
}

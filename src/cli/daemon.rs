//! `dwcpd`: one node from a configuration file, served on a control socket, until a signal.

use super::notify::notify;
use super::signals::{self, Signal};
use crate::config::{Config, ConfigStore, Id, Origin, StoreError};
use crate::observe::Level;
use crate::runtime::control::{ControlError, ControlOptions, ControlServer, serve_control};
use crate::runtime::held::HeldOptions;
use crate::runtime::rollout::RolloutOptions;
use crate::runtime::security::identity::IDENTITY_FILE;
use crate::runtime::security::{EXPIRY_NOTICE_DAYS, SecurityOptions, name_list};
use crate::{Node, NodeError, NodeOptions};
use clap::{CommandFactory, Parser};
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Serves one DWCP node: accepts migrations and takes orders on a control socket.
///
/// SIGTERM and SIGINT stop it cleanly; SIGHUP reads the configuration anew, whole or not at all.
/// Any key can be overridden by the environment: DWCP_ and the key's name in capitals, with _ for
/// the dots, such as DWCP_MIGRATION_STREAMS=8.
#[derive(Parser, Debug)]
#[command(name = "dwcpd", version, max_term_width = 100)]
struct Daemon {
    /// The configuration file [default: /etc/dwcp/v3-config.yaml, if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The control socket [default: the configuration's node.control_socket]
    #[arg(long, env = "DWCP_SOCKET", hide_env_values = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Check the configuration, tell every mistake, and exit
    #[arg(long)]
    check_config: bool,
}

/// The daemon cannot run.
#[derive(Debug, thiserror::Error)]
enum DaemonError {
    #[error(transparent)]
    Config(#[from] StoreError),
    #[error("no configuration file {}", .0.display())]
    NoConfig(PathBuf),
    #[error("cannot make directory {path}: {source}", path = path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("cannot wait for signals: {0}")]
    Signals(io::Error),
}

/// Runs the daemon with these arguments, program name first.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let daemon = match Daemon::try_parse_from(args) {
        Ok(daemon) => daemon,
        Err(error) => {
            // Without anywhere to print to, the exit code still tells.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match run(&daemon) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            remark(&format!("dwcpd: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// The command tree, for man pages and completions.
pub fn command() -> clap::Command {
    Daemon::command()
}

fn run(daemon: &Daemon) -> Result<(), DaemonError> {
    let path = daemon.config.clone().unwrap_or_else(|| PathBuf::from(super::args::DEFAULT_CONFIG));
    if daemon.config.is_some() && !path.exists() {
        return Err(DaemonError::NoConfig(path));
    }
    let store = Arc::new(ConfigStore::open(&path)?);
    if daemon.check_config {
        println!("{}: ok", path.display());
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(DaemonError::Signals)?;
    runtime.block_on(serve(daemon, store))
}

async fn serve(daemon: &Daemon, store: Arc<ConfigStore>) -> Result<(), DaemonError> {
    // First of all, so that an early signal is not a sudden death.
    let mut signals = Signals::new().map_err(DaemonError::Signals)?;
    let config = store.config();
    let socket = daemon.socket.clone().or_else(|| config.path(Id::NodeControlSocket));
    let socket = socket.unwrap_or_else(|| PathBuf::from(super::args::DEFAULT_SOCKET));
    make_directories(&config, &socket)?;
    let node = Node::start(node_options(&config))?;
    let server = match serve_control(&node, &socket, control_options(&config, store)) {
        Ok(server) => server,
        Err(error) => {
            node.stop();
            return Err(error.into());
        }
    };
    if let Some(address) = config.address(Id::V1Listen) {
        let address = node.listen_v1(address).inspect_err(|_| node.stop())?;
        let text = format!("v1 peers may connect at {address}, in plain");
        server.log(Level::Warn, text);
    }
    announce(&node, &server);
    while signals.next().await == Order::Reload {
        // The server has logged the outcome; the supervisor's log gets a refusal too.
        if let Err(error) = server.reload_config() {
            remark(&format!("dwcpd: configuration not reloaded: {error}"));
        }
        if let Err(error) = node.reload_identity() {
            let text = format!("identity not reloaded: {error}");
            server.log(Level::Error, text.clone());
            remark(&format!("dwcpd: {text}"));
        }
        warn_of_expiry(&node, &server);
    }
    tell("STOPPING=1");
    server.log(Level::Info, "stopping on a signal".to_owned());
    node.stop();
    server.stop();
    Ok(())
}

fn announce(node: &Node, server: &ControlServer) {
    let listen = node.local_address().map_or("nowhere".to_owned(), |address| address.to_string());
    let metrics = server.metrics_address().map_or("nowhere".to_owned(), |at| at.to_string());
    let text = format!(
        "node {} accepts migrations at {listen}, orders at {}, serves metrics at {metrics}",
        node.name(),
        server.socket().display()
    );
    server.log(Level::Info, text.clone());
    remark(&format!("dwcpd: {text}"));
    tell("READY=1");
    warn_of_expiry(node, server);
}

/// A certificate that ends soon is told of while there is time.
fn warn_of_expiry(node: &Node, server: &ControlServer) {
    let Some(certificate) = node.certificate() else { return };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let left_days = certificate.days_left(now);
    if left_days < EXPIRY_NOTICE_DAYS {
        let text =
            format!("the node's certificate ends in {left_days} days; see `identity rotate`");
        server.log(Level::Warn, text.clone());
        remark(&format!("dwcpd: {text}"));
    }
}

fn remark(text: &str) {
    // Whoever started the daemon may have closed the pipe; that is no reason to die.
    let _ = writeln!(io::stderr(), "{text}");
}

fn tell(state: &str) {
    if let Err(error) = notify(state) {
        remark(&format!("dwcpd: cannot tell the service manager {state}: {error}"));
    }
}

fn make_directories(config: &Config, socket: &Path) -> Result<(), DaemonError> {
    let directories = [socket.parent().map(Path::to_owned), config.path(Id::NodeStateDir)];
    for path in directories.into_iter().flatten().filter(|path| !path.as_os_str().is_empty()) {
        std::fs::create_dir_all(&path)
            .map_err(|source| DaemonError::Directory { path: path.clone(), source })?;
    }
    Ok(())
}

fn node_options(config: &Config) -> NodeOptions {
    NodeOptions {
        name: config.text(Id::NodeName).to_owned(),
        listen: config.address(Id::NodeListen),
        state_dir: config.path(Id::NodeStateDir),
        held: HeldOptions {
            enabled: config.truth(Id::HdeHoldDepartedGuests),
            max_bytes: config.integer(Id::HdeHeldBytes),
        },
        security: security_options(config),
        rollout: RolloutOptions {
            kill_switch_file: config.path(Id::RolloutKillSwitchFile),
            rules: Some(config.flag_rules()),
        },
    }
}

/// How a daemon with this configuration secures its connections.
pub fn security_options(config: &Config) -> SecurityOptions {
    let identity_dir = config.path(Id::SecurityIdentityDir).unwrap_or_default();
    let is_default = config.get(Id::SecurityIdentityDir).origin == Origin::Default;
    let allowed_peers = name_list(config.text(Id::SecurityAllowedPeers));
    match config.text(Id::SecurityTransport) {
        "plain" => SecurityOptions::Plain,
        // A daemon that neither listens nor dials needs none; one that does says what is missing.
        _ if is_default && !identity_dir.join(IDENTITY_FILE).exists() => SecurityOptions::Undecided,
        _ => SecurityOptions::Tls { identity_dir, allowed_peers },
    }
}

fn control_options(config: &Config, store: Arc<ConfigStore>) -> ControlOptions {
    let log_dir = config.path(Id::NodeLogDir);
    // Where the wanted directory cannot be written, the state directory can.
    let fallback = config.path(Id::NodeStateDir).filter(|_| log_dir.is_some());
    ControlOptions {
        config: Some(store),
        metrics_listen: config.address(Id::NodeMetricsListen),
        log_dirs: log_dir.into_iter().chain(fallback).collect(),
    }
}

#[derive(PartialEq)]
enum Order {
    Reload,
    Stop,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: Signal::catch(signals::SIGTERM)?,
            interrupt: Signal::catch(signals::SIGINT)?,
            hangup: Signal::catch(signals::SIGHUP)?,
        })
    }

    async fn next(&mut self) -> Order {
        tokio::select! {
            () = self.terminate.recv() => Order::Stop,
            () = self.interrupt.recv() => Order::Stop,
            () = self.hangup.recv() => Order::Reload,
        }
    }
}

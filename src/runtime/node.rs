//! The facade: one node, its guests and its migrations.
//!
//! Threads: every method may be called from any thread.

use crate::Status;
use crate::base::MigrationId;
use crate::base::limits::{MAX_GUESTS, MAX_NAME_BYTES, MIN_HELD_BYTES};
use crate::migration::Owner;
use crate::migration::relay::{RelaySetup, UNKNOWN};
use crate::migration::source::{PostCopyError, SourceSetup};
use crate::migration::{
    EncodingOptions, GuestSink, GuestSource, MigrationOptions, PostCopyRule, Report,
};
use crate::observe::{Event, EventKind};
use crate::runtime::clock::wall_clock_us;
use crate::runtime::compression::sample::{GuestMemory, Sample, SampleError, take_sample};
use crate::runtime::dial::{Dialer, FEATURES};
use crate::runtime::held::{HeldOptions, HeldStore};
use crate::runtime::journal::Journal;
use crate::runtime::lane::{self, Lane};
use crate::runtime::listener::{Listener, Tellers};
use crate::runtime::lock::lock;
use crate::runtime::migration_handle::Migration;
use crate::runtime::modes::transfer::TransferError;
use crate::runtime::modes::{Modes, PeerError, ProbeError};
use crate::runtime::outgoing::Outgoing;
use crate::runtime::qemu::guest::{AttachError, QemuGuest, VmInfo, VmStatus};
use crate::runtime::qemu::memory::QemuMemory;
use crate::runtime::qemu::outgoing::QemuOutgoing;
use crate::runtime::record_keeper::{self, InDoubt, RecordKeeper, SettleError, read_all};
use crate::runtime::registry::{GuestEntry, Leaving, Registry, random_bytes};
use crate::runtime::rollout::{Rollout, RolloutError, RolloutOptions};
use crate::runtime::security::{CertificateFacts, Security, SecurityError, SecurityOptions};
use crate::runtime::state_file::Side;
use crate::runtime::state_transfer;
use crate::runtime::steering::{Steered, Steering};
use crate::runtime::v1::V1Error;
use crate::runtime::v1::facade::{Route, V1};
use crate::transport::RdmaOptions;
use crate::transport::mode::TableError;
use crate::transport::path_options::PathOptionsError;
use crate::wire::hello::{Features, Purpose};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

pub use crate::runtime::journal::EventObserver;

/// How a node is set up.
#[derive(Clone, Debug, Default)]
pub struct NodeOptions {
    /// The node's name, shown to peers; empty means the host's name.
    pub name: String,
    /// Where to listen for incoming migrations, such as `127.0.0.1:0`; none: only outgoing ones.
    pub listen: Option<SocketAddr>,
    /// Where ownership records are written; none: kept in memory only.
    pub state_dir: Option<PathBuf>,
    /// What is kept of the pages of guests of QEMU's that left or came.
    pub held: HeldOptions,
    /// How connections are secured.
    pub security: SecurityOptions,
    /// How feature flags are watched.
    pub rollout: RolloutOptions,
}

/// An operation on a node failed.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The listener.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Connections cannot be made as things are.
    #[error(transparent)]
    Security(#[from] SecurityError),
    /// The state directory.
    #[error("cannot use state directory {path}: {source}")]
    StateDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A guest of that name is registered.
    #[error("guest {0:?} is already registered")]
    NameTaken(String),
    /// A name is empty, too long or holds control characters.
    #[error("name {0:?} is not 1 to 128 printable bytes")]
    BadName(String),
    /// No guest of that name.
    #[error("no guest {name:?}; known here: {known}")]
    UnknownGuest {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// No migration of that id.
    #[error("no migration {0}")]
    UnknownMigration(MigrationId),
    /// The guest takes part in another migration.
    #[error("guest {0:?} is being migrated")]
    Busy(String),
    /// The guest is registered for the other direction.
    #[error("guest {name:?} is registered as {role}")]
    WrongRole {
        /// The guest.
        name: String,
        /// Its role.
        role: &'static str,
    },
    /// The QEMU is attached under another name.
    #[error("QEMU at {path} is already attached, as guest {name:?}", path = path.display())]
    QemuTaken {
        /// Its socket.
        path: PathBuf,
        /// The guest's name.
        name: String,
    },
    /// The guest was registered by a hypervisor.
    #[error("guest {0:?} was registered by a hypervisor, not attached")]
    NotQemu(String),
    /// An option for guests of QEMU's.
    #[error("multifd_channels is {1}, but guest {0:?} was registered by a hypervisor; use 0")]
    NoMultifd(String, u8),
    /// Two options of which QEMU's guests take one.
    #[error(
        "post_copy is {1} and multifd_channels is {2}, which QEMU does not do together: use never, or 0"
    )]
    NoPostCopy(String, PostCopyRule, u8),
    /// A switch to post-copy, or its end, that cannot be had.
    #[error(transparent)]
    PostCopy(#[from] PostCopyError),
    /// How much may be held of guests that left or came.
    #[error("held_bytes is {0}; it must be at least {MIN_HELD_BYTES}")]
    HeldBytes(u64),
    /// The destination's address.
    #[error("address {address:?} is not HOST:PORT: {reason}")]
    Address {
        /// The address.
        address: String,
        /// Why.
        reason: String,
    },
    /// QEMU.
    #[error(transparent)]
    Qemu(#[from] AttachError),
    /// A guest's memory could not be looked at.
    #[error("guest {name:?}: {source}")]
    Sample {
        /// The guest.
        name: String,
        /// Why.
        source: SampleError,
    },
    /// There is no room for a further peer.
    #[error(transparent)]
    Peers(#[from] TableError),
    /// What is asked about a peer.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The path to a peer could not be probed.
    #[error("{peer}: {source}")]
    Probe {
        /// The peer's address.
        peer: String,
        /// Why.
        source: ProbeError,
    },
    /// The path to a peer could not be tested.
    #[error("{peer}: {source}")]
    TransportTest {
        /// The peer's address.
        peer: String,
        /// Why.
        source: TransferError,
    },
    /// None or several guests to choose from.
    #[error("{0}")]
    WhichGuest(String),
    /// Something that v1 cannot do, or that is not done with v1 peers.
    #[error(transparent)]
    V1(#[from] V1Error),
    /// The feature flags.
    #[error(transparent)]
    Rollout(#[from] RolloutError),
    /// A record that is in doubt.
    #[error(transparent)]
    Settle(#[from] SettleError),
    /// An option.
    #[error(transparent)]
    Options(#[from] crate::migration::options::OptionsError),
    /// An option of paths.
    #[error(transparent)]
    Paths(#[from] PathOptionsError),
    /// A limit.
    #[error("{what} limit of {limit} reached")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How many.
        limit: usize,
    },
    /// A system call.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The node was stopped.
    #[error("the node has been stopped")]
    Stopped,
}

impl NodeError {
    /// The status code of this error.
    pub fn status(&self) -> Status {
        match self {
            NodeError::Listen { .. } | NodeError::Io { .. } => Status::Io,
            NodeError::Security(error) => match error {
                SecurityError::Undecided => Status::BadState,
                SecurityError::Identity(error) => error.status(),
                error => error.status(),
            },
            NodeError::StateDir { .. } => Status::StateFile,
            NodeError::NameTaken(_) | NodeError::QemuTaken { .. } => Status::AlreadyExists,
            NodeError::UnknownGuest { .. } | NodeError::UnknownMigration(_) => Status::NotFound,
            NodeError::Busy(_) => Status::Busy,
            NodeError::WrongRole { .. } => Status::BadState,
            NodeError::NotQemu(_) => Status::BadState,
            NodeError::NoMultifd(..) | NodeError::NoPostCopy(..) | NodeError::HeldBytes(_) => {
                Status::InvalidArgument
            }
            NodeError::PostCopy(error) => error.status(),
            NodeError::Qemu(error) => error.status(),
            NodeError::Sample { source, .. } => source.status(),
            NodeError::Peers(_) => Status::LimitReached,
            NodeError::Peer(error) => error.status(),
            NodeError::Probe { .. } => Status::Connect,
            NodeError::TransportTest { source, .. } => source.status(),
            NodeError::WhichGuest(_) => Status::NotFound,
            NodeError::V1(error) => error.status(),
            NodeError::Rollout(error) => error.status(),
            NodeError::Settle(SettleError::Keep(_)) => Status::StateFile,
            NodeError::Settle(SettleError::NotInDoubt(_)) => Status::NotFound,
            NodeError::Settle(SettleError::UnderWay(_)) => Status::Busy,
            NodeError::Settle(SettleError::NoOwner(_)) => Status::InvalidArgument,
            NodeError::BadName(_)
            | NodeError::Address { .. }
            | NodeError::Options(_)
            | NodeError::Paths(_) => Status::InvalidArgument,
            NodeError::Limit { .. } => Status::LimitReached,
            NodeError::Stopped => Status::Stopped,
        }
    }
}

/// What a guest is registered for, and whether it is moving.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct GuestInfo {
    /// Its name.
    pub name: String,
    /// `source` (runs here) or `destination` (expected here).
    pub role: &'static str,
    /// Memory size.
    pub ram_bytes: u64,
    /// The migration under way.
    pub migration: Option<MigrationId>,
}

/// A node: listens, holds guests, runs migrations. Dropping the last handle stops it.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

/// What all handles of a node share.
struct Inner {
    options: NodeOptions,
    registry: Arc<Registry>,
    listener: Mutex<Option<Listener>>,
    address: Option<SocketAddr>,
    steering: Arc<Steering>,
    security: Arc<Security>,
    tellers: Tellers,
    v1: Arc<V1>,
}

impl Node {
    /// Starts a node.
    ///
    /// # Errors
    /// The name, the listener or the state directory cannot be used.
    pub fn start(mut options: NodeOptions) -> Result<Node, NodeError> {
        let security = Security::open(options.security.clone())?;
        options.name = own_name(options.name, &security)?;
        check_name(&options.name)?;
        options.listen.map_or(Ok(()), |address| security.check_listen(address))?;
        if options.held.enabled && options.held.max_bytes < MIN_HELD_BYTES {
            return Err(NodeError::HeldBytes(options.held.max_bytes));
        }
        let journal = Arc::new(Journal::default());
        if let Some(path) = &options.state_dir {
            let unusable = |source| NodeError::StateDir { path: path.clone(), source };
            std::fs::create_dir_all(path).map_err(unusable)?;
            let remark = state_transfer::recover(path);
            remark.into_iter().for_each(|text| {
                journal.publish(None, None, EventKind::Notice { text });
            });
        }
        let held = HeldStore::open(options.state_dir.as_deref(), options.held, journal.clone());
        let registry = Registry::new(options.name.clone(), journal.clone(), held);
        if let Some(path) = &options.state_dir {
            let unusable = |source| NodeError::StateDir { path: path.clone(), source };
            let kept = read_all(path).map_err(|error| unusable(io::Error::other(error)))?;
            registry.remember(path.clone(), kept);
        }
        let (state_dir, flags) = (options.state_dir.as_deref(), &options.rollout);
        let rollout = Rollout::open(&options.name, state_dir, flags, journal.clone())?;
        let modes = Modes::new(journal.clone(), security.clone(), rollout.clone());
        let tellers = Tellers::new(modes.clone());
        let listener = match options.listen {
            Some(address) => {
                Some(listen(address, &registry, (&security, &tellers), journal.clone())?)
            }
            None => None,
        };
        let address = listener.as_ref().map(Listener::address);
        let listen = address.map_or_else(String::new, |address| address.to_string());
        journal.publish(None, None, EventKind::NodeStarted { listen });
        let v1 = V1::new(registry.clone(), journal.clone(), modes.clone());
        let steering = Steering::new(journal, modes);
        rollout.start().map_err(|source| NodeError::Io { what: "watching the flags", source })?;
        let listener = Mutex::new(listener);
        let inner = Inner { options, registry, listener, address, steering, security, tellers, v1 };
        let node = Node { inner: Arc::new(inner) };
        state_transfer::carry_through(&node, None);
        Ok(node)
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.inner.options.name
    }

    /// Where it listens, with the port that was chosen.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.inner.address
    }

    /// What its certificate says; none without TLS.
    pub fn certificate(&self) -> Option<CertificateFacts> {
        let identity = self.inner.security.identity()?;
        CertificateFacts::read(&identity.certificate).ok()
    }

    /// How its connections are secured.
    pub fn security(&self) -> &SecurityOptions {
        self.inner.security.options()
    }

    /// Whether its connections are plain, because it was told so.
    pub fn is_plain(&self) -> bool {
        *self.security() == SecurityOptions::Plain
    }

    /// Reads its identity anew, for connections from now on.
    ///
    /// # Errors
    /// It cannot be used, or is of another node; the one that was in use stays.
    pub fn reload_identity(&self) -> Result<(), NodeError> {
        Ok(self.inner.security.reload()?)
    }

    /// Registers a running guest, so that it can be migrated away. The registration ends when it
    /// has moved.
    ///
    /// # Errors
    /// The name is taken or bad, or the limit reached.
    pub fn add_source(&self, name: &str, guest: Arc<dyn GuestSource>) -> Result<(), NodeError> {
        self.add(name, GuestEntry::source(guest))
    }

    /// Registers an empty guest: incoming migrations of that name are accepted, one at a time. The
    /// registration stays after a failed one and ends after a successful one.
    ///
    /// # Errors
    /// The name is taken or bad, or the limit reached.
    pub fn add_destination(&self, name: &str, guest: Arc<dyn GuestSink>) -> Result<(), NodeError> {
        self.add(name, GuestEntry::destination(guest))
    }

    /// Registers a guest that a QEMU process runs, or, `incoming`, one that a QEMU started with
    /// `-incoming defer` is to receive; or one whose migration out of this QEMU, or into it, is paused in
    /// post-copy, so that the next migration goes on with it. `qmp` is the path of its QMP socket, beside which each
    /// migration makes a socket of its own. An arrived guest stays registered, as one that runs
    /// here. Asks QEMU, which may take seconds if it does not answer.
    ///
    /// # Errors
    /// The name is taken or bad, the limit reached, or QEMU does not answer as it should.
    pub fn attach_qemu(&self, name: &str, qmp: &Path, incoming: bool) -> Result<(), NodeError> {
        check_name(name)?;
        // Before QEMU is asked: a migration of that guest may talk to it.
        self.inner.registry.check_free(name)?;
        let guest = Arc::new(QemuGuest::attach(qmp, incoming)?);
        self.add(name, GuestEntry::qemu(guest, incoming))
    }

    /// The attached guests, by name.
    pub fn vms(&self) -> Vec<VmInfo> {
        self.inner.registry.vms()
    }

    /// An attached guest and what its QEMU says now. QEMU takes one client at a time, so it is not
    /// asked while a migration talks to it.
    ///
    /// # Errors
    /// No such guest, or it was not attached.
    pub fn vm_status(&self, name: &str) -> Result<VmStatus, NodeError> {
        let registry = &self.inner.registry;
        let (info, guest) = registry.vm(name)?;
        let asked = match info.migration {
            Some(_) => Err(QMP_IN_USE.to_string()),
            None => guest.state().map_err(|error| error.to_string()),
        };
        let silence = asked.as_ref().err().cloned();
        let state = asked.ok();
        let running = state.as_ref().map(|state| state.running);
        Ok(VmStatus { info, running, state: state.map(|state| state.status), silence })
    }

    /// Lets go of an attached guest; its QEMU goes on as it is.
    ///
    /// # Errors
    /// No such guest, it was not attached, or it is moving.
    pub fn detach_qemu(&self, name: &str) -> Result<(), NodeError> {
        self.inner.registry.vm(name)?;
        self.remove_guest(name)
    }

    /// Takes pages from all over the memory of a guest that runs here; of the only one, if none is
    /// named. Gives its name too. QEMU serves one client at a time, so its guest cannot be sampled
    /// while it moves.
    ///
    /// # Errors
    /// No such guest, none or several to choose from, or its memory cannot be read.
    pub fn sample(&self, guest: Option<&str>, pages: u64) -> Result<(String, Sample), NodeError> {
        let registry = &self.inner.registry;
        let name = guest.map_or_else(|| registry.only_source(), |name| Ok(name.to_string()))?;
        let memory = registry.memory(&name)?;
        let failed = |source| NodeError::Sample { name: name.clone(), source };
        let seed = wall_clock_us();
        let sample = match memory {
            Leaving::Memory(guest) => take_sample(&mut GuestMemory(guest), pages, seed),
            Leaving::Qemu(guest) => {
                let unique = MigrationId(random_bytes()?).to_string();
                QemuMemory::open(&guest, &unique[..16])
                    .and_then(|mut memory| take_sample(&mut memory, pages, seed))
            }
        };
        Ok((name.clone(), sample.map_err(failed)?))
    }

    /// Ends a registration.
    ///
    /// # Errors
    /// No such guest, or it is moving.
    pub fn remove_guest(&self, name: &str) -> Result<(), NodeError> {
        self.inner.registry.remove_guest(name)
    }

    /// The registered guests, by name.
    pub fn guests(&self) -> Vec<GuestInfo> {
        self.inner.registry.guests()
    }

    /// Starts to move a guest to the node at `to` (`HOST:PORT`), or to the v1 peer that is named by
    /// `v1://HOST:PORT`; returns at once.
    ///
    /// # Errors
    /// An option or the address is out of form, or the guest unknown, moving, or not running here.
    pub fn migrate(
        &self,
        guest: &str,
        to: &str,
        mut options: MigrationOptions,
    ) -> Result<Migration, NodeError> {
        options.validate()?;
        let route = self.inner.v1.route(to)?;
        // Who names a v1 peer has decided, for it alone.
        if let Route::V3(_) = route {
            self.inner.security.check_decided()?;
        }
        let most_streams = options.streams;
        let steering = &self.inner.steering;
        options.streams = match route {
            Route::V3(to) => steering.first_streams(to, most_streams),
            // A v1 receiver was told how many come.
            Route::V1(_) => most_streams,
        };
        let streams = (options.streams, most_streams);
        let registry = &self.inner.registry;
        let (id, source) = registry.claim_source(guest)?;
        let started = match (source, route) {
            (Leaving::Memory(_), _) if options.multifd_channels > 0 => {
                Err(NodeError::NoMultifd(guest.to_string(), options.multifd_channels))
            }
            (Leaving::Qemu(_), Route::V3(_))
                if options.post_copy != PostCopyRule::Never && options.multifd_channels > 0 =>
            {
                let (rule, channels) = (options.post_copy, options.multifd_channels);
                Err(NodeError::NoPostCopy(guest.to_string(), rule, channels))
            }
            (Leaving::Memory(source), Route::V3(to)) => {
                self.launch(id, guest, source, (to, streams), options)
            }
            (Leaving::Memory(source), Route::V1(to)) => {
                self.inner.v1.depart((id, guest), source, (to, options), self.state_dir())
            }
            (Leaving::Qemu(qemu), Route::V3(to)) => {
                self.launch_qemu(id, guest, qemu, (to, streams), options)
            }
            (Leaving::Qemu(_), Route::V1(_)) => Err(V1Error::Qemu(guest.to_string()).into()),
        };
        if started.is_err() {
            registry.release(guest, id);
        }
        started
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.inner.registry
    }

    pub(crate) fn options(&self) -> &NodeOptions {
        &self.inner.options
    }

    /// What it keeps for v1 peers.
    pub(crate) fn v1(&self) -> &Arc<V1> {
        &self.inner.v1
    }

    /// The modes of its peers.
    pub(crate) fn modes(&self) -> &Arc<Modes> {
        self.inner.steering.modes()
    }

    /// What steers its migrations.
    pub(crate) fn steering(&self) -> &Arc<Steering> {
        &self.inner.steering
    }

    /// What tells other nodes about it.
    pub(crate) fn tellers(&self) -> &Tellers {
        &self.inner.tellers
    }

    /// A listener beside the node's own, on a port of the loopback's, for tests of this host alone.
    pub(crate) fn listen_within(&self) -> Result<Listener, NodeError> {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let Inner { registry, security, tellers, .. } = self.inner.as_ref();
        listen(address, registry, (security, tellers), registry.journal().clone())
    }

    /// Sets how guests of QEMUs are encoded, from the next migration on, in either direction.
    pub fn set_encoding(&self, options: EncodingOptions) {
        self.inner.registry.set_encoding(options);
    }

    /// How guests of QEMUs are encoded.
    pub fn encoding(&self) -> EncodingOptions {
        self.inner.registry.encoding()
    }

    /// Migrations that run or ended lately, both directions, oldest first.
    pub fn migrations(&self) -> Vec<Migration> {
        self.inner.registry.migrations()
    }

    /// One migration.
    ///
    /// # Errors
    /// No such migration is remembered.
    pub fn migration(&self, id: MigrationId) -> Result<Migration, NodeError> {
        self.inner.registry.migration(id).ok_or(NodeError::UnknownMigration(id))
    }

    /// Events with a sequence above `after`, oldest first; at most the last 4096 are kept.
    pub fn events(&self, after: u64) -> Vec<Event> {
        self.inner.registry.journal().after(after)
    }

    /// Waits until an event above `after` exists, then returns as [`Self::events`]; empty on
    /// timeout.
    pub fn wait_events(&self, after: u64, timeout: Duration) -> Vec<Event> {
        self.inner.registry.journal().wait_after(after, timeout)
    }

    /// Records of ended migrations that do not say for certain who has the guest.
    ///
    /// # Errors
    /// The state directory cannot be read.
    pub fn in_doubt(&self) -> Result<Vec<InDoubt>, NodeError> {
        let Some(directory) = self.state_dir() else { return Ok(Vec::new()) };
        let mut found = record_keeper::in_doubt(directory).map_err(SettleError::Keep)?;
        found.retain(|found| !self.is_under_way(found.migration));
        Ok(found)
    }

    /// Writes down who has the guest of a migration that is in doubt, once somebody has found out.
    /// Nothing is done to the guest: its hypervisor starts or ends it.
    ///
    /// # Errors
    /// The migration is under way, or no record of it here is in doubt, or it cannot be written.
    pub fn settle(&self, id: MigrationId, owner: Owner) -> Result<Vec<InDoubt>, NodeError> {
        if self.is_under_way(id) {
            return Err(SettleError::UnderWay(id).into());
        }
        let directory = self.state_dir().ok_or(SettleError::NotInDoubt(id))?;
        let settled = record_keeper::settle(directory, id, owner)?;
        for InDoubt { record, .. } in &settled {
            let text = format!(
                "migration {id} of {:?} is settled by its operator: the guest is with the {}",
                record.guest,
                owner.name()
            );
            self.notice(text);
        }
        Ok(settled)
    }

    pub(crate) fn is_under_way(&self, id: MigrationId) -> bool {
        let migration = self.inner.registry.migration(id);
        migration.is_some_and(|migration| migration.report().is_none())
    }

    /// Memory that the kept events take.
    pub fn event_bytes(&self) -> u64 {
        self.inner.registry.journal().memory_bytes()
    }

    /// Where ownership records are written.
    pub fn state_dir(&self) -> Option<&Path> {
        self.inner.options.state_dir.as_deref()
    }

    /// Calls `observer` for every event from now on, on library threads; it must not block.
    pub fn observe(&self, observer: EventObserver) {
        self.inner.registry.journal().observe(observer);
    }

    /// Adds a remark for its operator to the journal.
    pub(crate) fn notice(&self, text: String) {
        self.inner.registry.journal().publish(None, None, EventKind::Notice { text });
    }

    /// Stops the node: cancels migrations before their commit point, waits for the others, joins
    /// all threads. Idempotent.
    pub fn stop(&self) {
        self.inner.stop();
    }

    fn add(&self, name: &str, entry: GuestEntry) -> Result<(), NodeError> {
        check_name(name)?;
        self.inner.registry.add_guest(name, entry, MAX_GUESTS)
    }

    fn launch(
        &self,
        id: MigrationId,
        guest: &str,
        source: Arc<dyn GuestSource>,
        (to, streams): (&str, (u16, u16)),
        options: MigrationOptions,
    ) -> Result<Migration, NodeError> {
        let layout = source.layout();
        let post_copy = options.post_copy != PostCopyRule::Never;
        let opening = Purpose::Open { guest: guest.to_string(), layout: layout.clone() };
        let dialer = Dialer::new(
            id,
            (opening, Features { multifd_channels: 0, post_copy, ..FEATURES }),
            self.inner.options.name.clone(),
            (to.to_string(), self.inner.steering.clone()),
            options.stall_timeout,
        );
        let directory = self.inner.options.state_dir.as_deref();
        let keeper = RecordKeeper::new(directory, Side::Source, id, (guest, to));
        let setup = SourceSetup { id, guest: guest.to_string(), layout, options };
        let registry = &self.inner.registry;
        let on_end = self.on_end(guest, id, to);
        let journal = registry.journal().clone();
        let lane = self.lane((id, guest), &source, (to, post_copy));
        let outgoing = Outgoing::new(setup, source, (dialer, lane), journal);
        let migration = Migration::Outgoing(outgoing.clone());
        registry
            .launch(migration.clone(), || outgoing.start(keeper, on_end))
            .map_err(|source| NodeError::Io { what: "starting a migration's thread", source })?;
        let steered: Arc<dyn Steered> = outgoing;
        self.inner.steering.add(to, streams, Arc::downgrade(&steered));
        Ok(migration)
    }

    /// What is to be done when a migration to a peer is over.
    fn on_end(&self, guest: &str, id: MigrationId, to: &str) -> Box<dyn FnOnce(&Report) + Send> {
        let release = self.inner.registry.on_end(guest, id);
        let (modes, peer) = (self.modes().clone(), to.to_string());
        Box::new(move |report| {
            modes.rollout().migrated(&peer, report);
            if report.rdma_bytes > 0 && report.status == Status::Ok {
                modes.rdma_worked(&peer);
            }
            release(report);
        })
    }

    /// Pages go by RDMA while the path to the peer is a datacenter's, or RDMA was found to reach it.
    fn lane(
        &self,
        migration: (MigrationId, &str),
        source: &Arc<dyn GuestSource>,
        (to, post_copy): (&str, bool),
    ) -> Arc<Lane> {
        let (modes, peer) = (self.modes().clone(), to.to_string());
        let wanted = move || modes.is_for_rdma(&peer);
        self.inner.registry.lane(
            migration,
            (lane::Side::Source, post_copy),
            source.mapped(),
            wanted,
        )
    }

    /// Sets how pages go by RDMA, for connections from now on.
    pub fn set_rdma(&self, options: RdmaOptions) {
        self.inner.registry.rdma().set_options(options);
    }

    /// How pages go by RDMA.
    pub fn rdma(&self) -> RdmaOptions {
        self.inner.registry.rdma().options()
    }

    /// The migration that left a guest in post-copy here, as far as a record tells.
    fn earlier(&self, guest: &str) -> Result<MigrationId, NodeError> {
        let Some(directory) = self.state_dir() else { return Ok(UNKNOWN) };
        let found = record_keeper::in_two_halves(directory, Side::Source, guest);
        Ok(found.map_err(SettleError::Keep)?.unwrap_or(UNKNOWN))
    }

    fn launch_qemu(
        &self,
        id: MigrationId,
        guest: &str,
        qemu: Arc<QemuGuest>,
        (to, streams): (&str, (u16, u16)),
        options: MigrationOptions,
    ) -> Result<Migration, NodeError> {
        let facts = qemu.facts().clone();
        let opening = Purpose::Relay { guest: guest.to_string(), facts: facts.clone() };
        let encoding = self.inner.registry.encoding();
        let baseline_pages = encoding.baseline_pages(facts.ram_bytes);
        let recovers = qemu.awaits_recovery().then(|| self.earlier(guest)).transpose()?;
        let options = match recovers {
            // How QEMU is to begin was decided before.
            Some(_) => options.of_recovery(),
            None => options,
        };
        let multifd_channels = options.multifd_channels;
        let post_copy = options.post_copy != PostCopyRule::Never || recovers.is_some();
        let held_pages = recovers.is_none();
        let (base, known) = (FEATURES, recovers.filter(|earlier| *earlier != UNKNOWN));
        let features =
            Features { baseline_pages, held_pages, multifd_channels, post_copy, recovers, ..base };
        let dialer = Dialer::new(
            id,
            (opening, features),
            self.inner.options.name.clone(),
            (to.to_string(), self.inner.steering.clone()),
            options.stall_timeout,
        );
        let directory = self.inner.options.state_dir.as_deref();
        let keeper = RecordKeeper::new(directory, Side::Source, id, (guest, to));
        let keeper = match known {
            Some(earlier) => keeper.going_on(earlier),
            None => keeper,
        };
        let (guest_name, channels) = (guest.to_string(), multifd_channels);
        let setup = RelaySetup { id, guest: guest_name, facts, channels, post_copy, recovers };
        let registry = &self.inner.registry;
        let on_end = self.on_end(guest, id, to);
        let held =
            held_pages.then(|| registry.held().begin(guest, setup.facts.ram_bytes)).flatten();
        let journal = registry.journal().clone();
        let outgoing = QemuOutgoing::new(setup, (options, encoding), qemu, (dialer, held), journal);
        let migration = Migration::Outgoing(outgoing.clone());
        registry
            .launch(migration.clone(), || outgoing.start(keeper, on_end))
            .map_err(|source| NodeError::Io { what: "starting a migration's thread", source })?;
        let steered: Arc<dyn Steered> = outgoing;
        self.inner.steering.add(to, streams, Arc::downgrade(&steered));
        Ok(migration)
    }
}

impl Inner {
    fn stop(&self) {
        // Dropping the listener joins its thread, so nothing new comes after this line.
        let listener = lock(&self.listener).take();
        let connections = listener.as_ref().map(Listener::connections);
        drop(listener);
        let v1_connections = self.v1.stop();
        self.registry.stop();
        self.registry.held().stop();
        self.steering.modes().stop();
        self.steering.modes().rollout().stop();
        self.steering.stop();
        // Only now: before, they may still have served migrations past their commit point.
        connections.iter().chain(&v1_connections).for_each(|connections| connections.close());
        self.registry.release_guests();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Why QEMU is not asked during a migration.
const QMP_IN_USE: &str = "the migration under way talks to QEMU, which takes one client at a time";

fn listen(
    address: SocketAddr,
    registry: &Arc<Registry>,
    (security, tellers): (&Arc<Security>, &Tellers),
    journal: Arc<Journal>,
) -> Result<Listener, NodeError> {
    let reception: Weak<Registry> = Arc::downgrade(registry);
    Listener::start(address, reception, security.clone(), tellers.clone(), journal)
        .map_err(|source| NodeError::Listen { address, source })
}

/// Checks the name of a guest or node, ours or a peer's.
///
/// # Errors
/// [`NodeError::BadName`].
pub fn check_name(name: &str) -> Result<(), NodeError> {
    let printable = !name.chars().any(char::is_control);
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !printable {
        return Err(NodeError::BadName(clip(name)));
    }
    Ok(())
}

/// At most as much of a caller's text as an error message should hold.
pub(crate) fn clip(text: &str) -> String {
    text.chars().take(MAX_NAME_BYTES).collect()
}

/// The name in its certificate, unless that contradicts the one asked for; the host's without both.
fn own_name(wanted: String, security: &Security) -> Result<String, SecurityError> {
    match security.identity().map(|identity| identity.node.clone()) {
        Some(found) if wanted.is_empty() || wanted == found => Ok(found),
        Some(found) => Err(SecurityError::OwnName { wanted, found }),
        None if wanted.is_empty() => Ok(host_name()),
        None => Ok(wanted),
    }
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "localhost".to_string(),
        name => clip(name),
    }
}

//! The guests and migrations of one node, and the reception of incoming connections.

use crate::Status;
use crate::base::limits::MAX_FINISHED_MIGRATIONS;
use crate::base::{MachineFacts, MemoryLayout, MigrationId, RegionLayout};
use crate::migration::destination::DestinationSetup;
use crate::migration::ownership::Mark;
use crate::migration::relay::destination::Patience;
use crate::migration::relay::{RelaySetup, UNKNOWN};
use crate::migration::{EncodingOptions, GuestSink, GuestSource, Owner, Report};
use crate::observe::EventKind;
use crate::runtime::dial::FEATURES;
use crate::runtime::guarded::Guarded;
use crate::runtime::handle::Arrival;
use crate::runtime::held::HeldStore;
use crate::runtime::incoming::IncomingMigration;
use crate::runtime::journal::Journal;
use crate::runtime::lane::{self, Lane, RdmaHost};
use crate::runtime::listener::{JoinKey, Reception, Refusal, STALL_TIMEOUT, unknown};
use crate::runtime::lock::lock;
use crate::runtime::migration_handle::Migration;
use crate::runtime::node::{GuestInfo, NodeError, check_name};
use crate::runtime::qemu::VmInfo;
use crate::runtime::qemu::guest::QemuGuest;
use crate::runtime::qemu::incoming::QemuIncoming;
use crate::runtime::record_keeper::{Kept, RecordKeeper, in_two_halves};
use crate::runtime::state_file::Side;
use crate::runtime::sys::thread::is_current;
use crate::wire::Hello;
use crate::wire::hello::{Ended, Features, Purpose};
use std::any::Any;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long a destination waits for a source that is gone.
const RECONNECT_TIMEOUT: Duration = Duration::from_secs(60);

/// What the registry does when a migration has ended.
type OnEnd = Box<dyn FnOnce(&Report) + Send>;

/// A registered guest.
pub struct GuestEntry {
    role: Role,
    ram_bytes: u64,
    migration: Option<MigrationId>,
}

#[derive(Clone)]
enum Role {
    Source(Arc<dyn GuestSource>),
    Destination(Arc<dyn GuestSink>),
    QemuSource(Arc<QemuGuest>),
    QemuDestination(Arc<QemuGuest>),
}

/// A guest that runs here, by the way to its memory.
pub enum Leaving {
    /// Its memory is called for.
    Memory(Arc<dyn GuestSource>),
    /// Its QEMU migrates it.
    Qemu(Arc<QemuGuest>),
}

/// A guest that was claimed for an image without a hello.
pub struct SinkClaim {
    /// The migration.
    pub id: MigrationId,
    /// The guest's name.
    pub guest: String,
    /// The guest.
    pub sink: Arc<dyn GuestSink>,
    /// Its record.
    pub keeper: RecordKeeper,
}

/// The tables.
pub struct Registry {
    /// Itself, for the threads that outlive a call.
    me: Weak<Registry>,
    name: String,
    journal: Arc<Journal>,
    held: Arc<HeldStore>,
    rdma: Arc<RdmaHost>,
    tables: Mutex<Tables>,
}

#[derive(Default)]
struct Tables {
    guests: BTreeMap<String, GuestEntry>,
    migrations: Vec<(Migration, Option<JoinHandle<()>>)>,
    /// How migrations into this node ended: in this process, or by the records of earlier ones.
    ended: HashMap<MigrationId, Owner>,
    /// Of those, also of earlier processes, the ones whose guest was lost in post-copy.
    lost: HashSet<MigrationId>,
    state_dir: Option<PathBuf>,
    stopped: bool,
    encoding: EncodingOptions,
}

impl GuestEntry {
    /// A guest that runs here.
    pub fn source(guest: Arc<dyn GuestSource>) -> Self {
        let ram_bytes = guest.layout().total_bytes();
        let guest = Arc::new(Guarded::new(guest));
        Self { role: Role::Source(guest), ram_bytes, migration: None }
    }

    /// A guest that is expected here.
    pub fn destination(guest: Arc<dyn GuestSink>) -> Self {
        let ram_bytes = guest.layout().total_bytes();
        let guest = Arc::new(Guarded::new(guest));
        Self { role: Role::Destination(guest), ram_bytes, migration: None }
    }

    /// A guest that QEMU runs, or waits for.
    pub fn qemu(guest: Arc<QemuGuest>, incoming: bool) -> Self {
        let ram_bytes = guest.facts().ram_bytes;
        let role = if incoming { Role::QemuDestination(guest) } else { Role::QemuSource(guest) };
        Self { role, ram_bytes, migration: None }
    }

    /// The guest of a QEMU; none of another hypervisor's.
    fn as_qemu(&self) -> Option<&Arc<QemuGuest>> {
        match &self.role {
            Role::QemuSource(guest) | Role::QemuDestination(guest) => Some(guest),
            Role::Source(_) | Role::Destination(_) => None,
        }
    }

    fn vm_info(&self, name: &str) -> Option<VmInfo> {
        let guest = self.as_qemu()?;
        Some(VmInfo {
            name: name.to_string(),
            role: self.role_name(),
            qemu_version: guest.version().to_string(),
            machine: guest.facts().machine.clone(),
            ram_bytes: self.ram_bytes,
            cpus: guest.facts().cpus,
            qmp: guest.qmp_path().to_string_lossy().into_owned(),
            migration: self.migration,
        })
    }

    fn role_name(&self) -> &'static str {
        match self.role {
            Role::Source(_) | Role::QemuSource(_) => "source",
            Role::Destination(_) | Role::QemuDestination(_) => "destination",
        }
    }
}

impl Registry {
    /// Empty tables.
    pub fn new(name: String, journal: Arc<Journal>, held: Arc<HeldStore>) -> Arc<Self> {
        let (rdma, tables) = (Arc::default(), Mutex::default());
        Arc::new_cyclic(|me| Self { me: me.clone(), name, journal, held, rdma, tables })
    }

    /// What migrations by RDMA share.
    pub fn rdma(&self) -> &Arc<RdmaHost> {
        &self.rdma
    }

    /// The lane of a migration, whose events are the migration's.
    pub fn lane(
        &self,
        (id, guest): (MigrationId, &str),
        side: (lane::Side, bool),
        memory: Option<Arc<dyn Any + Send + Sync>>,
        wanted: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Arc<Lane> {
        let (journal, guest) = (self.journal.clone(), guest.to_string());
        let tell = move |event| journal.publish(Some(id), Some(&guest), event);
        Lane::new(self.rdma.clone(), side, memory, Box::new(wanted), Box::new(tell))
    }

    /// The node's journal.
    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// Pages of guests that left or came.
    pub fn held(&self) -> &Arc<HeldStore> {
        &self.held
    }

    /// How guests of QEMUs are encoded, from the next migration on.
    pub fn set_encoding(&self, options: EncodingOptions) {
        lock(&self.tables).encoding = options;
    }

    /// How guests of QEMUs are encoded.
    pub fn encoding(&self) -> EncodingOptions {
        lock(&self.tables).encoding
    }

    /// Takes over what the state directory says about earlier migrations.
    pub fn remember(&self, state_dir: PathBuf, kept: Kept) {
        let mut tables = lock(&self.tables);
        tables.state_dir = Some(state_dir);
        (tables.ended, tables.lost) = (kept.incoming, kept.lost);
    }

    /// Takes in what a further record on the destination's side says.
    pub fn remember_record(&self, id: MigrationId, mark: Mark) {
        let mut tables = lock(&self.tables);
        tables.ended.entry(id).or_insert(mark.owner());
        if mark.is_loss() {
            tables.lost.insert(id);
        }
    }

    /// Adds a guest.
    ///
    /// # Errors
    /// Stopped, name taken, or limit reached.
    pub fn add_guest(&self, name: &str, entry: GuestEntry, limit: usize) -> Result<(), NodeError> {
        let mut tables = lock(&self.tables);
        if tables.stopped {
            return Err(NodeError::Stopped);
        }
        if tables.guests.contains_key(name) {
            return Err(NodeError::NameTaken(name.to_string()));
        }
        if tables.guests.len() >= limit {
            return Err(NodeError::Limit { what: "guest", limit });
        }
        if let Some(taken) = tables.attached_as(&entry) {
            return Err(taken);
        }
        let role = entry.role_name().to_string();
        tables.guests.insert(name.to_string(), entry);
        drop(tables);
        self.journal.publish(None, Some(name), EventKind::GuestChanged { role });
        Ok(())
    }

    /// Whether a guest of this name may be added.
    ///
    /// # Errors
    /// The name is taken.
    pub fn check_free(&self, name: &str) -> Result<(), NodeError> {
        match lock(&self.tables).guests.contains_key(name) {
            true => Err(NodeError::NameTaken(name.to_string())),
            false => Ok(()),
        }
    }

    /// Takes a guest out.
    ///
    /// # Errors
    /// Unknown, or moving.
    pub fn remove_guest(&self, name: &str) -> Result<(), NodeError> {
        let mut tables = lock(&self.tables);
        let entry = tables.guests.get(name).ok_or_else(|| tables.unknown_guest(name))?;
        if entry.migration.is_some() {
            return Err(NodeError::Busy(name.to_string()));
        }
        tables.guests.remove(name);
        drop(tables);
        let role = "removed".to_string();
        self.journal.publish(None, Some(name), EventKind::GuestChanged { role });
        Ok(())
    }

    /// The guests, by name.
    pub fn guests(&self) -> Vec<GuestInfo> {
        let info = |(name, entry): (&String, &GuestEntry)| GuestInfo {
            name: name.clone(),
            role: entry.role_name(),
            ram_bytes: entry.ram_bytes,
            migration: entry.migration,
        };
        lock(&self.tables).guests.iter().map(info).collect()
    }

    /// The guests of QEMUs, by name.
    pub fn vms(&self) -> Vec<VmInfo> {
        let tables = lock(&self.tables);
        tables.guests.iter().filter_map(|(name, entry)| entry.vm_info(name)).collect()
    }

    /// One guest of a QEMU.
    ///
    /// # Errors
    /// Unknown, or another hypervisor's.
    pub fn vm(&self, name: &str) -> Result<(VmInfo, Arc<QemuGuest>), NodeError> {
        let tables = lock(&self.tables);
        let entry = tables.guests.get(name).ok_or_else(|| tables.unknown_guest(name))?;
        let found = entry.vm_info(name).zip(entry.as_qemu().cloned());
        found.ok_or_else(|| NodeError::NotQemu(name.to_string()))
    }

    /// The one guest that runs here.
    ///
    /// # Errors
    /// There is none, or several.
    pub fn only_source(&self) -> Result<String, NodeError> {
        let guests = self.guests();
        let mut names =
            guests.iter().filter(|guest| guest.role == "source").map(|g| g.name.clone());
        match (names.next(), names.next()) {
            (Some(name), None) => Ok(name),
            (None, _) => Err(NodeError::WhichGuest(
                "no guest runs here, so none can be looked at".to_string(),
            )),
            (Some(_), Some(_)) => {
                let text = "several guests run here, and none is named; known here: ";
                Err(NodeError::WhichGuest(text.to_string() + &lock(&self.tables).guest_names()))
            }
        }
    }

    /// A way to the memory of a guest that runs here.
    ///
    /// # Errors
    /// Unknown, not running here, or a QEMU's that is moving.
    pub fn memory(&self, name: &str) -> Result<Leaving, NodeError> {
        let tables = lock(&self.tables);
        let entry = tables.guests.get(name).ok_or_else(|| tables.unknown_guest(name))?;
        match &entry.role {
            Role::Source(guest) => Ok(Leaving::Memory(guest.clone())),
            Role::QemuSource(_) if entry.migration.is_some() => {
                Err(NodeError::Busy(name.to_string()))
            }
            Role::QemuSource(guest) => Ok(Leaving::Qemu(guest.clone())),
            Role::Destination(_) | Role::QemuDestination(_) => {
                let (name, role) = (name.to_string(), entry.role_name());
                Err(NodeError::WrongRole { name, role })
            }
        }
    }

    /// Claims a guest for an outgoing migration.
    ///
    /// # Errors
    /// Stopped, unknown, moving, or not running here.
    pub fn claim_source(&self, name: &str) -> Result<(MigrationId, Leaving), NodeError> {
        let id = random_bytes().map(MigrationId)?;
        let mut tables = lock(&self.tables);
        if tables.stopped {
            return Err(NodeError::Stopped);
        }
        if !tables.guests.contains_key(name) {
            return Err(tables.unknown_guest(name));
        }
        let Some(entry) = tables.guests.get_mut(name) else { return Err(NodeError::Stopped) };
        if entry.migration.is_some() {
            return Err(NodeError::Busy(name.to_string()));
        }
        let leaving = match &entry.role {
            Role::Source(guest) => Leaving::Memory(guest.clone()),
            Role::QemuSource(guest) => Leaving::Qemu(guest.clone()),
            Role::Destination(_) | Role::QemuDestination(_) => {
                let (name, role) = (name.to_string(), entry.role_name());
                return Err(NodeError::WrongRole { name, role });
            }
        };
        entry.migration = Some(id);
        Ok((id, leaving))
    }

    /// Claims a guest that is expected here for what a v1 peer sends; without a name the only one.
    ///
    /// # Errors
    /// [`Refusal`]: none or several are expected, or the one that was named is not.
    pub fn claim_for_v1(&self, name: &str, peer: &str) -> Result<SinkClaim, Refusal> {
        let no_numbers = |error: NodeError| Refusal::new(error.status(), error.to_string());
        let id = random_bytes().map(MigrationId).map_err(no_numbers)?;
        let mut tables = lock(&self.tables);
        let name = match name {
            "" => tables.only_destination()?,
            name => name.to_string(),
        };
        let is_sink = |role: &Role| matches!(role, Role::Destination(_));
        let entry = tables.expected(&name, is_sink)?;
        let Role::Destination(sink) = &entry.role else { return Err(not_expected(&name, entry)) };
        let sink = sink.clone();
        entry.migration = Some(id);
        let directory = tables.state_dir.as_deref();
        let keeper = RecordKeeper::new(directory, Side::Destination, id, (&name, peer));
        Ok(SinkClaim { id, guest: name, sink, keeper })
    }

    /// Gives a guest back that a migration had claimed.
    pub fn release(&self, name: &str, id: MigrationId) {
        if let Some(entry) = lock(&self.tables).guests.get_mut(name)
            && entry.migration == Some(id)
        {
            entry.migration = None;
        }
    }

    /// What is to happen to the guest's entry when the migration ends: it goes with the guest.
    pub fn on_end(&self, guest: &str, id: MigrationId) -> OnEnd {
        let (registry, guest) = (self.me.clone(), guest.to_string());
        Box::new(move |report| {
            if let Some(registry) = registry.upgrade() {
                registry.ended(&guest, id, report);
            }
        })
    }

    /// Keeps a migration and then starts it by `start`, so that its first callback finds it here.
    /// The oldest finished ones are forgotten beyond a limit.
    ///
    /// # Errors
    /// The thread cannot be made; the migration is not kept then.
    pub fn launch(
        &self,
        migration: Migration,
        start: impl FnOnce() -> io::Result<JoinHandle<()>>,
    ) -> io::Result<()> {
        let id = migration.id();
        let mut tables = lock(&self.tables);
        let finished = |migration: &Migration| migration.report().is_some();
        let surplus = tables.migrations.len().saturating_sub(MAX_FINISHED_MIGRATIONS - 1);
        for _ in 0..surplus {
            if let Some(at) = tables.migrations.iter().position(|(kept, _)| finished(kept)) {
                tables.migrations.remove(at);
            }
        }
        tables.join_ended();
        tables.migrations.push((migration, None));
        // Under the lock: whoever stops the node finds the thread to be joined.
        let started = start();
        let at = tables.migrations.iter().position(|(kept, _)| kept.id() == id);
        match (started, at) {
            (Ok(thread), Some(at)) => tables.migrations[at].1 = Some(thread),
            (Err(error), Some(at)) => {
                tables.migrations.remove(at);
                return Err(error);
            }
            (started, None) => drop(started?),
        }
        Ok(())
    }

    /// The migrations, oldest first.
    pub fn migrations(&self) -> Vec<Migration> {
        lock(&self.tables).migrations.iter().map(|(migration, _)| migration.clone()).collect()
    }

    /// One migration.
    pub fn migration(&self, id: MigrationId) -> Option<Migration> {
        let tables = lock(&self.tables);
        tables.migrations.iter().map(|(migration, _)| migration).find(|m| m.id() == id).cloned()
    }

    /// Cancels what can be cancelled and waits for everything.
    pub fn stop(&self) {
        let first = !std::mem::replace(&mut lock(&self.tables).stopped, true);
        for migration in self.migrations() {
            migration.cancel();
        }
        let threads: Vec<_> =
            lock(&self.tables).migrations.iter_mut().filter_map(|(_, t)| t.take()).collect();
        for thread in threads {
            // A migration's own thread may be the one that drops the node.
            if !is_current(&thread) {
                let _ = thread.join();
            }
        }
        if first {
            self.journal.publish(None, None, EventKind::NodeStopped {});
        }
    }

    /// Ends all registrations, so that hypervisors may free what they registered.
    pub fn release_guests(&self) {
        // Dropped without the lock: it may call the hypervisor.
        let guests = std::mem::take(&mut lock(&self.tables).guests);
        drop(guests);
    }

    fn ended(&self, guest: &str, id: MigrationId, report: &Report) {
        let mut tables = lock(&self.tables);
        // A guest in doubt must not be moved again before somebody has found out who has it.
        let moved = report.owner != Owner::Source;
        let gone = match tables.guests.get_mut(guest) {
            Some(entry) if entry.migration == Some(id) => {
                entry.migration = None;
                match &entry.role {
                    // Its QEMU is paused in post-copy: a recovery can go on with it.
                    Role::QemuSource(guest) | Role::QemuDestination(guest)
                        if guest.awaits_recovery() =>
                    {
                        false
                    }
                    // Whether something is left of it, attaching it again tells.
                    Role::QemuDestination(_) if report.status == Status::PostCopyLost => true,
                    // The QEMU that received it runs it now.
                    Role::QemuDestination(guest) if moved => {
                        entry.role = Role::QemuSource(guest.clone());
                        false
                    }
                    _ => moved,
                }
            }
            _ => false,
        };
        if gone {
            tables.guests.remove(guest);
        }
        if report.side == "destination" {
            tables.ended.insert(id, report.owner);
            if report.status == Status::PostCopyLost {
                // The report itself is not kept for ever.
                tables.lost.insert(id);
            }
        }
    }

    fn open(
        &self,
        hello: &Hello,
        (guest, layout): (&str, &MemoryLayout),
        peer: SocketAddr,
    ) -> Result<Arc<dyn Arrival>, Refusal> {
        let join_key = JoinKey { token: new_token()?, node: hello.node.clone() };
        let mut tables = lock(&self.tables);
        let sink = tables.claim_destination(guest, layout, hello.migration)?;
        let keeper = tables.keeper(hello, guest, peer);
        drop(tables);
        if hello.features.post_copy
            && let Err(error) = sink.check_post_copy()
        {
            self.release(guest, hello.migration);
            let text = format!("guest {guest:?} cannot be received by post-copy: {error}");
            return Err(Refusal::new(Status::Unsupported, text));
        }
        let setup = DestinationSetup {
            id: hello.migration,
            guest: guest.to_string(),
            layout: layout.clone(),
            reconnect_timeout: RECONNECT_TIMEOUT,
            stall_timeout: STALL_TIMEOUT,
            post_copy: hello.features.post_copy,
        };
        let on_end = self.on_end(guest, hello.migration);
        let side = (lane::Side::Destination, setup.post_copy);
        let lane = self.lane((setup.id, guest), side, sink.mapped(), || true);
        let shared = (lane, self.journal.clone());
        let migration = IncomingMigration::new(setup, join_key, sink, shared);
        let started = migration.clone();
        self.launch_arrival(guest, migration, || started.start(keeper, on_end))
    }

    fn open_relay(
        &self,
        hello: &Hello,
        (guest, facts): (&str, &MachineFacts),
        peer: SocketAddr,
    ) -> Result<Arc<dyn Arrival>, Refusal> {
        let join_key = JoinKey { token: new_token()?, node: hello.node.clone() };
        let mut tables = lock(&self.tables);
        let recovers = tables.what_is_recovered(guest, hello.features.recovers)?;
        let qemu = tables.claim_qemu(guest, (facts, hello.features), hello.migration)?;
        let keeper = tables.keeper(hello, guest, peer);
        let keeper = match recovers.filter(|earlier| *earlier != UNKNOWN) {
            Some(earlier) => keeper.going_on(earlier),
            None => keeper,
        };
        drop(tables);
        let baseline_pages = self.encoding().baseline_pages(facts.ram_bytes);
        let features = Features { baseline_pages, recovers, ..FEATURES }.common(hello.features);
        let setup = RelaySetup {
            id: hello.migration,
            guest: guest.to_string(),
            facts: facts.clone(),
            channels: features.multifd_channels,
            post_copy: features.post_copy,
            recovers,
        };
        let patience =
            Patience { reconnect_timeout: RECONNECT_TIMEOUT, stall_timeout: STALL_TIMEOUT };
        let on_end = self.on_end(guest, hello.migration);
        let (journal, held) = (self.journal.clone(), self.held.clone());
        let migration =
            QemuIncoming::new(setup, (join_key, features), (qemu, patience), held, journal);
        let started = migration.clone();
        self.launch_arrival(guest, migration, || started.start(keeper, on_end))
    }

    fn launch_arrival(
        &self,
        guest: &str,
        migration: Arc<dyn Arrival>,
        start: impl FnOnce() -> io::Result<JoinHandle<()>>,
    ) -> Result<Arc<dyn Arrival>, Refusal> {
        match self.launch(Migration::Incoming(migration.clone()), start) {
            Ok(()) => Ok(migration),
            Err(error) => {
                self.release(guest, migration.id());
                Err(Refusal::new(Status::Io, format!("no thread for the migration: {error}")))
            }
        }
    }
}

impl Reception for Registry {
    fn node_name(&self) -> String {
        self.name.clone()
    }

    fn receive(&self, hello: &Hello, peer: SocketAddr) -> Result<Arc<dyn Arrival>, Refusal> {
        // It goes into events and logs, which nobody else may write lines of.
        check_name(&hello.node)
            .map_err(|error| Refusal::new(Status::InvalidArgument, error.to_string()))?;
        if let Some(Migration::Incoming(migration)) = self.migration(hello.migration)
            && migration.report().is_none()
        {
            migration.check(hello)?;
            return Ok(migration);
        }
        let tables = lock(&self.tables);
        let owner = tables.ended.get(&hello.migration).copied();
        let is_lost = tables.lost.contains(&hello.migration);
        drop(tables);
        if let Some(owner) = owner {
            let ended = match owner {
                Owner::Destination => Ended::DestinationOwns,
                Owner::Source | Owner::InDoubt => Ended::SourceOwns,
            };
            let failure = self.migration(hello.migration).and_then(|m| m.report());
            let (status, reason) = match failure.filter(|report| report.status != Status::Ok) {
                Some(report) => (report.status, report.reason),
                None if is_lost => {
                    let text =
                        "the destination's process ended while the guest ran there in post-copy";
                    (Status::PostCopyLost, text.to_string())
                }
                None => (Status::PeerAborted, format!("migration {} is over", hello.migration)),
            };
            return Err(Refusal { status, reason, ended });
        }
        match &hello.purpose {
            Purpose::Open { guest, layout } => self.open(hello, (guest, layout), peer),
            Purpose::Relay { guest, facts } => self.open_relay(hello, (guest, facts), peer),
            Purpose::Join { .. } => Err(unknown(hello.migration)),
        }
    }
}

impl Tables {
    fn unknown_guest(&self, name: &str) -> NodeError {
        NodeError::UnknownGuest { name: name.to_string(), known: self.guest_names() }
    }

    /// Whether the QEMU of this entry is another guest's already.
    fn attached_as(&self, entry: &GuestEntry) -> Option<NodeError> {
        let path = entry.as_qemu()?.qmp_path();
        let same = |other: &GuestEntry| other.as_qemu().is_some_and(|qemu| qemu.qmp_path() == path);
        let (name, _) = self.guests.iter().find(|(_, other)| same(other))?;
        Some(NodeError::QemuTaken { path: path.to_path_buf(), name: name.clone() })
    }

    fn guest_names(&self) -> String {
        match self.guests.len() {
            0 => "none".to_string(),
            _ => self.guests.keys().take(16).cloned().collect::<Vec<_>>().join(", "),
        }
    }

    /// The one guest that a hypervisor expects here.
    fn only_destination(&self) -> Result<String, Refusal> {
        let is_sink = |entry: &GuestEntry| matches!(entry.role, Role::Destination(_));
        let mut names =
            self.guests.iter().filter(|(_, entry)| is_sink(entry)).map(|(name, _)| name);
        match (names.next(), names.next()) {
            (Some(name), None) => Ok(name.clone()),
            (None, _) => Err(Refusal::new(
                Status::NotFound,
                "no guest is expected here that could take an image; QEMU's cannot",
            )),
            (Some(_), Some(_)) => Err(Refusal::new(
                Status::NotFound,
                "several guests are expected here, and v1 names none; set v1.guest",
            )),
        }
    }

    /// Ends a migration whose source is gone, so that a new one need not wait for its timeouts.
    fn give_way(&self, earlier: MigrationId) {
        let earlier = self.migrations.iter().map(|(kept, _)| kept).find(|m| m.id() == earlier);
        if let Some(Migration::Incoming(earlier)) = earlier
            && earlier.progress().streams == 0
        {
            earlier.cancel();
        }
    }

    /// Joins threads that are over: until then they keep their stacks.
    fn join_ended(&mut self) {
        for (_, thread) in &mut self.migrations {
            if let Some(thread) = thread.take_if(|thread| thread.is_finished()) {
                // That it may have panicked was told when it did.
                let _ = thread.join();
            }
        }
    }

    fn keeper(&self, hello: &Hello, guest: &str, peer: SocketAddr) -> RecordKeeper {
        let peer = format!("{} at {peer}", hello.node);
        let state_dir = self.state_dir.as_deref();
        RecordKeeper::new(state_dir, Side::Destination, hello.migration, (guest, &peer))
    }

    /// Which earlier migration a recovery goes on with, by both sides' records; a guest that still waits in
    /// it here is let go.
    fn what_is_recovered(
        &self,
        name: &str,
        theirs: Option<MigrationId>,
    ) -> Result<Option<MigrationId>, Refusal> {
        let Some(theirs) = theirs else { return Ok(None) };
        let earlier = self.guests.get(name).and_then(|entry| entry.migration);
        let found = self.migrations.iter().map(|(kept, _)| kept);
        let mut found = found.filter(|migration| Some(migration.id()) == earlier);
        if let Some(Migration::Incoming(waiting)) = found.next() {
            if waiting.recoverable_as() == theirs {
                // It is asked again, and finds the guest free.
                waiting.give_way();
                return Ok(Some(theirs));
            }
            let id = waiting.id();
            let text = format!(
                "guest {name:?} is with migration {id} here, which has not ended; if it waits for memory, \
                 `post-copy {id} --abandon` here lets a recovery go on with it"
            );
            return Err(Refusal::new(Status::BadState, text));
        }
        let directory = self.state_dir.as_deref();
        let ours = directory.map(|directory| in_two_halves(directory, Side::Destination, name));
        let ours = ours.transpose();
        let ours = ours.map_err(|error| Refusal::new(Status::StateFile, error.to_string()))?;
        match ours.flatten() {
            Some(ours) if theirs != UNKNOWN && ours != theirs => {
                let text = format!(
                    "guest {name:?} was left by migration {ours} here, and by {theirs} at the source"
                );
                Err(Refusal::new(Status::BadState, text))
            }
            Some(ours) => Ok(Some(ours)),
            None => Ok(Some(UNKNOWN)),
        }
    }

    fn claim_destination(
        &mut self,
        name: &str,
        layout: &MemoryLayout,
        id: MigrationId,
    ) -> Result<Arc<dyn GuestSink>, Refusal> {
        let entry = self.expected(name, |role| matches!(role, Role::Destination(_)))?;
        let Role::Destination(guest) = &entry.role else { return Err(not_expected(name, entry)) };
        let ours = guest.layout();
        if ours != *layout {
            return Err(Refusal::new(Status::LayoutMismatch, difference(layout, &ours)));
        }
        let guest = guest.clone();
        entry.migration = Some(id);
        Ok(guest)
    }

    fn claim_qemu(
        &mut self,
        name: &str,
        (facts, features): (&MachineFacts, Features),
        id: MigrationId,
    ) -> Result<Arc<QemuGuest>, Refusal> {
        let entry = self.expected(name, |role| matches!(role, Role::QemuDestination(_)))?;
        let Role::QemuDestination(guest) = &entry.role else {
            return Err(not_expected(name, entry));
        };
        if let Some(difference) = facts.difference(guest.facts()) {
            return Err(Refusal::new(Status::LayoutMismatch, difference));
        }
        check_recovery(name, guest, features)?;
        // Before a byte moves; QEMU itself would say so only when it is to listen.
        let unsupported = |text| Refusal::new(Status::Unsupported, text);
        guest.check_channels(features.multifd_channels).map_err(unsupported)?;
        if features.post_copy {
            guest.check_post_copy().map_err(unsupported)?;
        }
        if features.post_copy && features.multifd_channels > 0 {
            return Err(unsupported("post-copy and multifd channels do not go together".into()));
        }
        let guest = guest.clone();
        entry.migration = Some(id);
        Ok(guest)
    }

    /// The entry of a guest in this role that nobody is sending yet.
    fn expected(
        &mut self,
        name: &str,
        is_role: impl Fn(&Role) -> bool,
    ) -> Result<&mut GuestEntry, Refusal> {
        if self.stopped {
            return Err(Refusal::new(Status::Stopped, "the node is being stopped"));
        }
        let unknown = || format!("no guest {name:?} is expected here");
        let entry =
            self.guests.get(name).ok_or_else(|| Refusal::new(Status::NotFound, unknown()))?;
        if !is_role(&entry.role) {
            return Err(not_expected(name, entry));
        }
        if let Some(earlier) = entry.migration {
            self.give_way(earlier);
            let text = format!("guest {name:?} is being received from elsewhere");
            return Err(Refusal::new(Status::Busy, text));
        }
        self.guests.get_mut(name).ok_or_else(|| Refusal::new(Status::NotFound, unknown()))
    }
}

fn not_expected(name: &str, entry: &GuestEntry) -> Refusal {
    let text = match entry.role {
        Role::Source(_) | Role::QemuSource(_) => {
            format!("guest {name:?} runs here; it is not expected")
        }
        Role::Destination(_) => format!("guest {name:?} is expected here, but not by a QEMU"),
        Role::QemuDestination(_) => format!("guest {name:?} is expected here by a QEMU only"),
    };
    Refusal::new(Status::BadState, text)
}

/// A whole guest needs a QEMU that waits for one, and the rest of one a QEMU that waits for that.
fn check_recovery(name: &str, guest: &QemuGuest, features: Features) -> Result<(), Refusal> {
    let text = match (guest.awaits_recovery(), features.recovers) {
        (true, None) => format!(
            "guest {name:?} is here, paused in post-copy: only what is left of it at its source goes on \
             with it"
        ),
        (false, Some(_)) => format!(
            "the rest of guest {name:?} is offered, but its QEMU here is not paused in post-copy: it waits \
             for a whole guest"
        ),
        _ => return Ok(()),
    };
    Err(Refusal::new(Status::BadState, text))
}

fn new_token() -> Result<[u8; 16], Refusal> {
    random_bytes().map_err(|error| Refusal::new(Status::Io, format!("no random numbers: {error}")))
}

/// The first thing in which two layouts differ, for people.
fn difference(source: &MemoryLayout, ours: &MemoryLayout) -> String {
    if source.page_bytes() != ours.page_bytes() {
        let (theirs, ours) = (source.page_bytes(), ours.page_bytes());
        return format!("page size is {theirs} at the source and {ours} here");
    }
    let (theirs, here) = (source.regions(), ours.regions());
    if theirs.len() != here.len() {
        return format!("{} memory regions at the source and {} here", theirs.len(), here.len());
    }
    let differing = theirs.iter().zip(here).find(|(theirs, here)| theirs != here);
    match differing {
        Some((theirs, here)) => {
            let what = |region: &RegionLayout| {
                let RegionLayout { name, guest_address, length_bytes } = region;
                format!("region {name:?} of {length_bytes} bytes at {guest_address:#x}")
            };
            format!("{} at the source, {} here", what(theirs), what(here))
        }
        None => "the memory layouts differ".to_string(),
    }
}

/// Bytes that nobody can guess.
///
/// # Errors
/// The system gives none.
pub fn random_bytes() -> Result<[u8; 16], NodeError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| NodeError::Io {
        what: "random numbers",
        source: std::io::Error::other(error.to_string()),
    })?;
    Ok(bytes)
}

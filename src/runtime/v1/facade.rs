//! What a node offers for v1 peers: they are named, a port is opened for them, guests go and come.

use super::arrival::{Arrival, ArrivalSetup};
use super::compatibility::{self, Compatibility};
use super::departure::{Departure, DepartureSetup};
use super::intake::Start;
use super::port::{Door, Port};
use super::{SCHEME, V1Error, cargo, socket};
use crate::base::MigrationId;
use crate::base::address::check_address;
use crate::base::limits::MAX_V1_PEERS;
use crate::migration::{Failure, GuestSource, MigrationOptions, PostCopyRule, V1Options};
use crate::runtime::connections::Connections;
use crate::runtime::journal::Journal;
use crate::runtime::lock::lock;
use crate::runtime::modes::Modes;
use crate::runtime::node::clip;
use crate::runtime::record_keeper::RecordKeeper;
use crate::runtime::registry::{Registry, SinkClaim};
use crate::runtime::state_file::Side;
use crate::transport::Mode;
use crate::{Migration, Node, NodeError, Status};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// What a node keeps for its v1 peers.
pub struct V1 {
    registry: Arc<Registry>,
    journal: Arc<Journal>,
    modes: Arc<Modes>,
    /// Held by whoever replaces what holds, so that the modes of peers and it agree.
    naming: Mutex<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    options: V1Options,
    port: Option<Port>,
    is_stopped: bool,
}

/// Where a migration goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route<'a> {
    /// To a v3 node.
    V3(&'a str),
    /// To a v1 peer.
    V1(&'a str),
}

impl Node {
    /// Sets what holds for v1 peers, from the next transfer on.
    ///
    /// # Errors
    /// A peer's address is out of form or public, or there are too many; nothing has changed then.
    pub fn set_v1(&self, options: V1Options) -> Result<(), NodeError> {
        self.v1().set_options(options)
    }

    /// What holds for v1 peers.
    pub fn v1_options(&self) -> V1Options {
        self.v1().options()
    }

    /// Opens the port that v1 peers connect to, and tells where, with the port that was chosen. It
    /// takes images into a guest that is expected here, one at a time, and never starts that guest.
    ///
    /// # Errors
    /// The address is public or cannot be listened on, the port is open already, or the node stopped.
    pub fn listen_v1(&self, address: SocketAddr) -> Result<SocketAddr, NodeError> {
        Ok(self.v1().listen(address, |_| {})?)
    }

    /// What talking v1 would cost this node, and to which of its peers it would.
    ///
    /// # Errors
    /// The address of the one peer that is asked for is out of form.
    pub fn check_compatibility(&self, peer: Option<&str>) -> Result<Compatibility, NodeError> {
        compatibility::check(self, peer)
    }

    /// Where v1 peers may connect.
    pub fn v1_address(&self) -> Option<SocketAddr> {
        lock(&self.v1().state).port.as_ref().map(Port::address)
    }
}

impl V1 {
    /// No peers, no port.
    pub fn new(registry: Arc<Registry>, journal: Arc<Journal>, modes: Arc<Modes>) -> Arc<Self> {
        let (naming, state) = (Mutex::default(), Mutex::default());
        Arc::new(Self { registry, journal, modes, naming, state })
    }

    /// What holds now.
    pub fn options(&self) -> V1Options {
        lock(&self.state).options.clone()
    }

    /// Replaces what holds, and tells the modes of peers who is v1.
    ///
    /// # Errors
    /// As [`Node::set_v1`].
    pub fn set_options(self: &Arc<Self>, options: V1Options) -> Result<(), NodeError> {
        if options.peers.len() > MAX_V1_PEERS {
            return Err(V1Error::TooManyPeers(options.peers.len()).into());
        }
        for peer in &options.peers {
            let malformed = |reason| NodeError::Address { address: clip(peer), reason };
            check_address(peer).map_err(malformed)?;
            socket::check_literal(peer)?;
        }
        let _naming = lock(&self.naming);
        let before = self.options();
        self.modes.name_v1(&before.peers, &options.peers).inspect_err(|_| {
            // All that were named before had room, and it is theirs again.
            let _ = self.modes.name_v1(&options.peers, &before.peers);
        })?;
        lock(&self.state).options = options;
        Ok(())
    }

    /// Opens the port; once it is open, and before anybody is let in, `adjust` changes what holds for
    /// whom it lets in.
    ///
    /// # Errors
    /// As [`Node::listen_v1`]; nothing has changed then.
    pub fn listen(
        self: &Arc<Self>,
        address: SocketAddr,
        adjust: impl FnOnce(&mut V1Options),
    ) -> Result<SocketAddr, V1Error> {
        socket::check_peer(address)?;
        let mut state = lock(&self.state);
        if state.is_stopped {
            return Err(V1Error::Stopped(address));
        }
        if let Some(port) = &state.port {
            return Err(V1Error::Open(port.address()));
        }
        let port = Port::open(address, Arc::downgrade(self), self.journal.clone());
        let port = port.map_err(|source| V1Error::Listen { address, source })?;
        // Its thread asks for the options of each connection, and waits for this lock.
        adjust(&mut state.options);
        Ok(state.port.insert(port).address())
    }

    /// By which protocol a migration to this address goes.
    ///
    /// # Errors
    /// The address is out of form, or v1 is forced and nobody said that this peer speaks it.
    pub fn route<'a>(&self, to: &'a str) -> Result<Route<'a>, NodeError> {
        let (is_v1, address) = match to.strip_prefix(SCHEME) {
            Some(address) => (true, address),
            None => (false, to),
        };
        let malformed = |reason| NodeError::Address { address: clip(to), reason };
        check_address(address).map_err(malformed)?;
        if !is_v1 && self.modes.mode(address) != Mode::V1Compat {
            return Ok(Route::V3(address));
        }
        if !is_v1 && !self.modes.is_named_v1(address) {
            return Err(V1Error::NotNamed(address.to_string()).into());
        }
        socket::check_literal(address)?;
        Ok(Route::V1(address))
    }

    /// Starts to move a guest that was claimed to a v1 peer.
    ///
    /// # Errors
    /// It cannot go there by what is set, or its thread cannot be made.
    pub fn depart(
        &self,
        (id, guest): (MigrationId, &str),
        source: Arc<dyn GuestSource>,
        (to, options): (&str, MigrationOptions),
        directory: Option<&Path>,
    ) -> Result<Migration, NodeError> {
        if options.post_copy != PostCopyRule::Never {
            return Err(V1Error::PostCopy(options.post_copy).into());
        }
        let v1 = self.options();
        cargo::check_departure(&source.layout(), &v1)?;
        let peer = format!("{SCHEME}{to}");
        let keeper = RecordKeeper::new(directory, Side::Source, id, (guest, &peer));
        let (guest_name, to) = (guest.to_string(), to.to_string());
        let setup = DepartureSetup { id, guest: guest_name, to, options, v1 };
        let on_end = self.registry.on_end(guest, id);
        let departure = Departure::new(setup, source, self.modes.clone(), self.journal.clone());
        let migration = Migration::Outgoing(departure.clone());
        self.registry
            .launch(migration.clone(), || departure.start(keeper, on_end))
            .map_err(|source| NodeError::Io { what: "starting a migration's thread", source })?;
        Ok(migration)
    }

    /// Takes in what an address has begun to send; gives where in the image it belongs.
    ///
    /// # Errors
    /// No guest is expected, it cannot come by what is set, or the beginning does not fit it. The
    /// hypervisor has not been asked for anything then.
    pub fn begin_arrival(
        &self,
        door: &Arc<Door>,
        peer: (IpAddr, usize),
        start: &Start,
        v1: V1Options,
    ) -> Result<(Arc<Arrival>, u64), Failure> {
        let claim = self.registry.claim_for_v1(&v1.guest, &format!("{SCHEME}{}", peer.0));
        let claim = claim.map_err(|refusal| Failure::new(refusal.status, refusal.reason))?;
        let (id, name) = (claim.id, claim.guest.clone());
        let begun = self.launch_arrival(door, (peer, start), v1, claim);
        if begun.is_err() {
            self.registry.release(&name, id);
        }
        begun
    }

    fn launch_arrival(
        &self,
        door: &Arc<Door>,
        ((peer, connections), start): ((IpAddr, usize), &Start),
        v1: V1Options,
        claim: SinkClaim,
    ) -> Result<(Arc<Arrival>, u64), Failure> {
        let SinkClaim { id, guest, sink, keeper } = claim;
        let on_end = self.registry.on_end(&guest, id);
        let setup = ArrivalSetup { id, guest, peer, v1 };
        let arrival = Arrival::new(setup, sink, connections, self.journal.clone())?;
        let offset_bytes = arrival.take_in(|intake| intake.claim(start))?;
        let door = Arc::downgrade(door);
        let hang_up = Box::new(move || {
            if let Some(door) = door.upgrade() {
                door.hang_up(peer);
            }
        });
        let migration = Migration::Arriving(arrival.clone());
        let launched = self.registry.launch(migration, || arrival.start(keeper, hang_up, on_end));
        let no_thread = |error| Failure::new(Status::Io, format!("no thread: {error}"));
        launched.map_err(no_thread).map(|()| (arrival, offset_bytes))
    }

    /// Closes the port for good; gives what it had accepted, to be closed once all migrations have ended.
    pub fn stop(&self) -> Option<Arc<Connections>> {
        let mut state = lock(&self.state);
        state.is_stopped = true;
        let port = state.port.take();
        // Its thread is joined below, and asks for the options.
        drop(state);
        port.as_ref().map(Port::connections)
    }
}

//! Pages by RDMA: the lane of one migration, which its connections may use beside themselves.
//!
//! ```text
//! source:       register guest memory, offer a queue pair  -> RdmaOffer
//! destination:  register guest memory, join the two ends   -> RdmaAnswer
//! source:       hash pages, announce them                  -> Chunk, without payload
//! destination:  read them out of the source's memory, hash them, acknowledge the chunk
//! ```
//! Each connection has its own queue pair, which lives no longer than it does. Whatever is missing or
//! fails closes the lane for the rest of the migration, with an event that says why, and connections
//! carry pages themselves: a chunk that was announced on a connection whose queue pair fails is lost
//! with the connection, and sent again as any lost chunk is. Why what was read may be trusted is said
//! in `migration::page_io`.
//!
//! Registered memory is pinned for as long as the migration lasts, all of it: pages that were never
//! touched get memory, and nothing of it can be swapped.

mod window;

pub use window::{ReadError, ReadWindow};

use crate::base::address::is_public;
use crate::base::limits::MAX_REASON_BYTES;
use crate::observe::EventKind;
use crate::runtime::connection::{ConnectionError, FrameReader, FrameWriter};
use crate::runtime::lock::lock;
use crate::runtime::rdma::{
    Access, ConnectError, Device, LIBRARY, Library, MemoryBudget, MemoryRegion, PairOptions,
    PendingPair, PortState, ProtectionDomain, QueuePair, RegisterError, Unavailable, VerbError,
};
use crate::runtime::sys::MappedMemory;
use crate::transport::RdmaOptions;
use crate::wire::cursor::floor_boundary;
use crate::wire::rdma::{Endpoint, Link, Offer, OfferAnswer, RemoteMemory};
use crate::wire::{Frame, FrameKind};
use std::any::Any;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long the other side may take to register a guest's memory.
pub const SETUP_TIMEOUT: Duration = Duration::from_secs(60);

/// What the lanes of one node share.
#[derive(Debug)]
pub struct RdmaHost {
    options: Mutex<RdmaOptions>,
    budget: Arc<MemoryBudget>,
}

impl Default for RdmaHost {
    fn default() -> Self {
        let options = RdmaOptions::default();
        Self { budget: MemoryBudget::new(options.max_memory_bytes), options: Mutex::new(options) }
    }
}

impl RdmaHost {
    /// What is set.
    pub fn options(&self) -> RdmaOptions {
        *lock(&self.options)
    }

    /// Sets it, for lanes that register memory from now on.
    pub fn set_options(&self, options: RdmaOptions) {
        self.budget.set_limit(options.max_memory_bytes);
        *lock(&self.options) = options;
    }
}

/// Why pages do not go by RDMA.
#[derive(Debug, thiserror::Error)]
pub enum LaneError {
    /// The operator does not want it.
    #[error("amst.enable_rdma is false")]
    Disabled,
    /// The guest's memory is called for.
    #[error("the guest's memory is not mapped in the node's process")]
    NotMapped,
    /// Pages will be taken away from the guest, which a device would not notice.
    #[error("post-copy was asked for")]
    PostCopy,
    /// There is none here.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// Memory.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// A queue pair.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The device.
    #[error(transparent)]
    Verb(#[from] VerbError),
    /// What the other side offers is not the guest's memory.
    #[error("the source offers {found} regions; the guest has {regions} of other lengths")]
    Regions {
        /// As offered.
        found: usize,
        /// As agreed.
        regions: usize,
    },
    /// Nothing of it is encrypted.
    #[error("{0} is a public address, and RDMA is not encrypted")]
    Public(IpAddr),
    /// Something failed meanwhile, and has been told.
    #[error("it is closed")]
    Closed,
    /// The other side's memory is large, or its device slow.
    #[error("the destination has not registered its memory within {SETUP_TIMEOUT:?}")]
    Slow,
    /// The other side.
    #[error("the {who} cannot: {reason}")]
    Peer {
        /// `source` or `destination`.
        who: &'static str,
        /// What it says.
        reason: String,
    },
}

/// Which way pages go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The guest leaves: its memory may be read.
    Source,
    /// The guest arrives.
    Destination,
}

type Tell = Box<dyn Fn(EventKind) + Send + Sync>;
type Wanted = Box<dyn Fn() -> bool + Send + Sync>;

/// The lane of one migration.
pub struct Lane {
    host: Arc<RdmaHost>,
    side: Side,
    memory: Mutex<Option<Arc<MappedMemory>>>,
    post_copy: bool,
    /// Held by who registers memory, which takes long; taken before `state`.
    registering: Mutex<()>,
    state: Mutex<State>,
    wanted: Wanted,
    tell: Tell,
}

#[derive(Default)]
struct State {
    registered: Option<Arc<Registered>>,
    /// A queue pair uses the memory, or has.
    is_used: bool,
    is_closed: bool,
    has_told: bool,
}

/// A guest's memory, registered with one device.
#[derive(Debug)]
struct Registered {
    domain: ProtectionDomain,
    port: u8,
    regions: Vec<Arc<MemoryRegion>>,
}

impl Lane {
    /// A lane that has not been tried. `wanted` says whether the path is one for RDMA.
    pub fn new(
        host: Arc<RdmaHost>,
        (side, post_copy): (Side, bool),
        memory: Option<Arc<dyn Any + Send + Sync>>,
        wanted: Wanted,
        tell: Tell,
    ) -> Arc<Self> {
        let memory = memory.and_then(|memory| memory.downcast::<MappedMemory>().ok());
        let (memory, registering, state) = (Mutex::new(memory), Mutex::default(), Mutex::default());
        Arc::new(Self { host, side, memory, post_copy, registering, state, wanted, tell })
    }

    /// Whether new connections are to have a queue pair, as far as this side can say. The first time
    /// that a lane is wanted and cannot be had an event says why.
    pub fn is_open(&self) -> bool {
        if !(self.wanted)() || lock(&self.state).is_closed {
            return false;
        }
        if lock(&self.state).registered.is_some() {
            return true;
        }
        match self.check() {
            Ok(()) => true,
            Err(error) => {
                self.close(&error);
                false
            }
        }
    }

    /// Whether the next chunk of a connection with a queue pair is to go by it.
    pub fn is_wanted(&self) -> bool {
        (self.wanted)() && !lock(&self.state).is_closed
    }

    /// No connection uses it from now on. Memory that no queue pair ever used is let go of.
    pub fn close(&self, reason: &dyn std::fmt::Display) {
        let mut state = lock(&self.state);
        state.is_closed = true;
        let is_news = !std::mem::replace(&mut state.has_told, true);
        let unused = if state.is_used { None } else { state.registered.take() };
        drop(state);
        drop(unused);
        if is_news {
            let mut reason = reason.to_string();
            reason.truncate(floor_boundary(&reason, MAX_REASON_BYTES));
            (self.tell)(EventKind::RdmaUnavailable { reason });
        }
    }

    /// The peer has no RDMA, or does not want it.
    pub fn peer_lacks_it(&self) {
        let who = self.peer();
        self.close(&LaneError::Peer { who, reason: "it does not agree to RDMA".into() });
    }

    /// The peer of a source can read its memory no more from now on. Waits for nobody: memory that is being
    /// registered is let go of right after.
    pub fn revoke(&self) {
        let mut state = lock(&self.state);
        (state.is_closed, state.has_told) = (true, true);
        let registered = state.registered.take();
        drop(state);
        drop(registered);
    }

    /// The migration is over: lets go of the memory, which may go away then.
    pub fn end(&self) {
        // Whoever still registers it has it.
        let _turn = lock(&self.registering);
        self.revoke();
        drop(lock(&self.memory).take());
    }

    /// The source's part on a new connection, which both have agreed on.
    ///
    /// # Errors
    /// Those of the connection; that there is no queue pair is none.
    pub fn offer(
        &self,
        reader: &mut FrameReader,
        writer: &mut FrameWriter,
    ) -> Result<(), ConnectionError> {
        let prepared = self.prepare(writer.local_address());
        let offer = match &prepared {
            Ok((pair, registered)) => {
                let regions = registered.regions.iter().map(|region| region.remote());
                Offer::Here(pair.local(), regions.collect())
            }
            Err(error) => {
                // Before others hear from the other side only that it is off.
                self.close(error);
                Offer::Neither(error.to_string())
            }
        };
        writer.frame(&Frame { kind: FrameKind::RdmaOffer, payload: offer.encode() })?;
        let answer = reader.expect_or(FrameKind::RdmaAnswer, &[]).inspect_err(|error| {
            // It may take as long the next time, and nothing moves meanwhile.
            if let ConnectionError::Silent = error {
                self.close(&LaneError::Slow);
            }
        })?;
        let answer = OfferAnswer::decode(&answer.payload)?;
        let joined = match (prepared, answer) {
            (Err(error), _) => Err(error),
            (Ok(_), OfferAnswer::Neither(reason)) => {
                Err(LaneError::Peer { who: self.peer(), reason })
            }
            (Ok((pair, registered)), OfferAnswer::Here(endpoint)) => {
                self.connect(pair, &endpoint, &registered)
            }
        };
        match joined {
            Ok(pair) => writer.set_pair(pair),
            Err(error) => self.close(&error),
        }
        Ok(())
    }

    /// The destination's part.
    ///
    /// # Errors
    /// As [`Self::offer`].
    pub fn answer(
        &self,
        reader: &mut FrameReader,
        writer: &mut FrameWriter,
    ) -> Result<(), ConnectionError> {
        let offer = Offer::decode(&reader.expect(FrameKind::RdmaOffer)?)?;
        let answer = match self.join(offer, writer.local_address()) {
            Ok((window, answer)) => {
                reader.set_window(window);
                answer
            }
            Err(error) => {
                self.close(&error);
                OfferAnswer::Neither(error.to_string())
            }
        };
        Ok(writer.frame(&Frame { kind: FrameKind::RdmaAnswer, payload: answer.encode() })?)
    }

    fn join(
        &self,
        offer: Offer,
        near: Option<IpAddr>,
    ) -> Result<(ReadWindow, OfferAnswer), LaneError> {
        let (endpoint, remote) = match offer {
            Offer::Here(endpoint, remote) => (endpoint, remote),
            Offer::Neither(reason) => return Err(LaneError::Peer { who: self.peer(), reason }),
        };
        let (pair, registered) = self.prepare(near)?;
        check_regions(&registered.regions, &remote)?;
        let answer = OfferAnswer::Here(pair.local());
        let pair = self.connect(pair, &endpoint, &registered)?;
        Ok((ReadWindow::new(pair, registered.regions.clone(), remote), answer))
    }

    fn connect(
        &self,
        pair: PendingPair,
        peer: &Endpoint,
        registered: &Registered,
    ) -> Result<QueuePair, LaneError> {
        for end in [&pair.local(), peer] {
            check_not_public(end)?;
        }
        if peer.reads == 0 {
            // Reads would wait for ever.
            let (who, reason) = (self.peer(), "its device makes no reads".into());
            return Err(LaneError::Peer { who, reason });
        }
        let pair = pair.connect(peer)?;
        lock(&self.state).is_used = true;
        let (device, pair_number) = (registered.domain.device().name().to_owned(), pair.number());
        (self.tell)(EventKind::RdmaUp { device, pair: pair_number });
        Ok(pair)
    }

    fn prepare(&self, near: Option<IpAddr>) -> Result<(PendingPair, Arc<Registered>), LaneError> {
        let registered = self.registered(near)?;
        let depth = window::READS;
        let options = PairOptions { port: registered.port, send_depth: depth, receive_depth: 1 };
        Ok((PendingPair::new(&registered.domain, options)?, registered))
    }

    /// The memory, registered by the first who asks while others wait.
    fn registered(&self, near: Option<IpAddr>) -> Result<Arc<Registered>, LaneError> {
        let _turn = lock(&self.registering);
        let state = lock(&self.state);
        match &state.registered {
            Some(registered) => return Ok(registered.clone()),
            // It may have been closed while others had their turn.
            None if state.is_closed => return Err(LaneError::Closed),
            None => drop(state),
        }
        self.check()?;
        let memory = lock(&self.memory).clone().ok_or(LaneError::NotMapped)?;
        let (device, port) = choose(near)?;
        let domain = ProtectionDomain::new(&device)?;
        let access = Access { remote_read: self.side == Side::Source, remote_write: false };
        let lengths = memory.layout().regions().iter().map(|region| region.length_bytes);
        let register = |(region, length)| {
            let (range, budget) = ((region, 0, length), &self.host.budget);
            MemoryRegion::register(&domain, &memory, range, access, budget)
        };
        let regions = lengths.enumerate().map(register).collect::<Result<_, _>>()?;
        let registered = Arc::new(Registered { domain, port, regions });
        let mut state = lock(&self.state);
        if state.is_closed {
            return Err(LaneError::Closed);
        }
        state.registered = Some(registered.clone());
        Ok(registered)
    }

    /// What can be told without taking any memory.
    fn check(&self) -> Result<(), LaneError> {
        if !self.host.options().enabled {
            return Err(LaneError::Disabled);
        }
        if self.post_copy {
            return Err(LaneError::PostCopy);
        }
        match lock(&self.memory).is_some() {
            true => choose(None).map(|_| ()),
            false => Err(LaneError::NotMapped),
        }
    }

    fn peer(&self) -> &'static str {
        match self.side {
            Side::Source => "destination",
            Side::Destination => "source",
        }
    }
}

/// The device and port that a connection should use: those that have its local address, else the
/// first that can.
fn choose(near: Option<IpAddr>) -> Result<(Device, u8), LaneError> {
    let near = near.map(|address| match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    });
    let (mut best, mut states) = (None, Vec::new());
    for device in Device::open_all(&Library::load(Path::new(LIBRARY))?)? {
        for port in device.ports()? {
            states.push(format!("{} port {} is {}", device.name(), port.number, port.state));
            if port.state != PortState::Active || port.gids.is_empty() {
                continue;
            }
            if port.gids.iter().any(|gid| Some(gid.address) == near) {
                return Ok((device, port.number));
            }
            best.get_or_insert_with(|| (device.clone(), port.number));
        }
    }
    best.ok_or_else(|| Unavailable::PortDown { ports: states.join(", ") }.into())
}

/// On Ethernet the global identifier is the address that packets go to.
fn check_not_public(end: &Endpoint) -> Result<(), LaneError> {
    let address = Ipv6Addr::from(end.global_id).to_canonical();
    match end.link == Link::Ethernet && is_public(address) {
        true => Err(LaneError::Public(address)),
        false => Ok(()),
    }
}

fn check_regions(ours: &[Arc<MemoryRegion>], theirs: &[RemoteMemory]) -> Result<(), LaneError> {
    let lengths = ours.iter().map(|region| region.remote().length_bytes);
    match lengths.eq(theirs.iter().map(|region| region.length_bytes)) {
        true => Ok(()),
        false => Err(LaneError::Regions { found: theirs.len(), regions: ours.len() }),
    }
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane").field("side", &self.side).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn lane(post_copy: bool, host: &Arc<RdmaHost>) -> (Arc<Lane>, Arc<Mutex<Vec<String>>>) {
        let told = Arc::new(Mutex::new(Vec::new()));
        let log = told.clone();
        let tell = move |event| match event {
            EventKind::RdmaUnavailable { reason } => lock(&log).push(reason),
            other => panic!("{other:?}"),
        };
        let side = (Side::Source, post_copy);
        (Lane::new(host.clone(), side, None, Box::new(|| true), Box::new(tell)), told)
    }

    #[test]
    fn what_is_missing_is_told_once() {
        let host = Arc::new(RdmaHost::default());
        host.set_options(RdmaOptions { enabled: true, ..RdmaOptions::default() });
        let (lane_of_copies, told) = lane(false, &host);
        assert!(!lane_of_copies.is_open() && !lane_of_copies.is_open());
        assert!(!lane_of_copies.is_wanted());
        lane_of_copies.peer_lacks_it();
        assert_eq!(*lock(&told), ["the guest's memory is not mapped in the node's process"]);
        let (of_post_copy, told) = lane(true, &host);
        assert!(!of_post_copy.is_open());
        assert_eq!(*lock(&told), ["post-copy was asked for"]);
        host.set_options(RdmaOptions::default());
        let (disabled, told) = lane(false, &host);
        assert!(!disabled.is_open());
        assert_eq!(*lock(&told), ["amst.enable_rdma is false"]);
    }

    #[test]
    fn a_lane_that_is_not_wanted_or_over_tells_nothing() {
        let wanted = Arc::new(AtomicBool::new(false));
        let asked = wanted.clone();
        let is_wanted = move || asked.load(Ordering::Relaxed);
        let tell = |event: EventKind| panic!("{event:?}");
        let (host, side) = (Arc::default(), (Side::Source, false));
        let lane = Lane::new(host, side, None, Box::new(is_wanted), Box::new(tell));
        assert!(!lane.is_open() && !lane.is_wanted());
        lane.end();
        wanted.store(true, Ordering::Relaxed);
        assert!(!lane.is_open() && !lane.is_wanted());
        lane.close(&"too late");
    }

    #[test]
    fn rdma_keeps_off_public_addresses() {
        let end = |link, address: &str| Endpoint {
            link,
            mtu_bytes: 1024,
            number: 1,
            packet_sequence: 1,
            local_id: 0,
            reads: 16,
            global_id: address.parse::<Ipv6Addr>().unwrap().octets(),
        };
        let refused = |link, address| check_not_public(&end(link, address)).is_err();
        assert!(refused(Link::Ethernet, "::ffff:8.8.8.8"));
        assert!(refused(Link::Ethernet, "2600::1"));
        for own in ["::ffff:10.0.0.1", "fe80::1", "fd00::1"] {
            assert!(!refused(Link::Ethernet, own), "{own}");
        }
        // A subnet's prefix is no address of the internet's.
        assert!(!refused(Link::InfiniBand, "2600::1"));
    }
}

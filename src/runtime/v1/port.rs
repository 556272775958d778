//! The port that v1 peers connect to: who may, how many, and to which arrival a connection belongs.
//!
//! v1 gives a transfer no number, so one is taken in at a time, from one address, and all connections of
//! that address are part of it.

use super::arrival::Arrival;
use super::facade::V1;
use super::intake::{self, Next, Start};
use super::socket;
use crate::Status;
use crate::migration::{Failure, V1Options};
use crate::observe::{ConnectionState, EventKind};
use crate::runtime::connections::Connections;
use crate::runtime::journal::Journal;
use crate::runtime::lock::lock;
use crate::runtime::sys::readiness::stop_listening;
use crate::runtime::sys::spawn_named;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

/// A port that is listened on, until it is dropped.
pub struct Port {
    listening: TcpListener,
    address: SocketAddr,
    door: Arc<Door>,
    thread: Option<JoinHandle<()>>,
}

/// What the port's threads share.
pub struct Door {
    node: Weak<V1>,
    journal: Arc<Journal>,
    is_stopped: AtomicBool,
    connections: Arc<Connections>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: u64,
    open: BTreeMap<u64, Open>,
    arrival: Option<Arc<Arrival>>,
}

/// A connection, as the others see it.
struct Open {
    peer: IpAddr,
    socket: Arc<TcpStream>,
    /// It has brought a chunk that fitted.
    has_joined: bool,
    /// It was told to end. What it had brought before can still be read.
    is_over: bool,
}

/// A connection that was let in.
struct Guest {
    number: u64,
    socket: Arc<TcpStream>,
    peer: SocketAddr,
    options: V1Options,
}

impl Port {
    /// Listens and serves until dropped.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub fn open(address: SocketAddr, node: Weak<V1>, journal: Arc<Journal>) -> io::Result<Self> {
        let listening = TcpListener::bind(address)?;
        let address = listening.local_addr()?;
        let door = Arc::new(Door {
            node,
            journal,
            is_stopped: AtomicBool::new(false),
            connections: Arc::default(),
            state: Mutex::default(),
        });
        let (accepting, shared) = (listening.try_clone()?, door.clone());
        let thread = spawn_named("dwcp-v1-listen", move || shared.accept_all(&accepting))?;
        Ok(Self { listening, address, door, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What was accepted; closed by the node once its migrations have ended.
    pub fn connections(&self) -> Arc<Connections> {
        self.door.connections.clone()
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.door.is_stopped.store(true, Ordering::Release);
        let _ = stop_listening(&self.listening);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Door {
    /// Closes the connections from an address.
    pub fn hang_up(&self, peer: IpAddr) {
        let mut state = lock(&self.state);
        for open in state.open.values_mut().filter(|open| open.peer == peer) {
            open.is_over = true;
            open.close();
        }
    }

    fn accept_all(self: &Arc<Self>, listening: &TcpListener) {
        while !self.is_stopped.load(Ordering::Acquire) {
            let (socket, peer) = match listening.accept() {
                Ok(accepted) => accepted,
                Err(_) if self.is_stopped.load(Ordering::Acquire) => return,
                Err(error) => {
                    // Such as no free descriptor: one that waits may free some.
                    let text = format!("cannot accept a v1 connection: {error}");
                    self.journal.publish(None, None, EventKind::Notice { text });
                    std::thread::sleep(Duration::from_millis(100));
                    continue;
                }
            };
            let Some(node) = self.node.upgrade() else { return };
            let options = node.options();
            drop(node);
            match self.admit(socket, peer, options) {
                Ok(guest) => self.serve_aside(guest),
                Err(reason) => self.tell(peer, "none", ConnectionState::Refused, reason),
            }
        }
    }

    fn admit(
        &self,
        socket: TcpStream,
        peer: SocketAddr,
        options: V1Options,
    ) -> Result<Guest, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        socket::check_peer(peer).map_err(|error| text(&error))?;
        let local = socket.local_addr().map_err(|error| text(&error))?;
        socket::check_peer(local).map_err(|error| text(&error))?;
        socket::tune(&socket, options.idle_timeout).map_err(|error| text(&error))?;
        let (from, socket) = (peer.ip().to_canonical(), Arc::new(socket));
        let mut state = lock(&self.state);
        state.check_turn(from)?;
        if state.open.len() >= options.max_connections && !state.make_room(from) {
            return Err(format!("there are {} v1 connections already", state.open.len()));
        }
        state.next += 1;
        let number = state.next;
        let open = Open { peer: from, socket: socket.clone(), has_joined: false, is_over: false };
        state.open.insert(number, open);
        state.count(from);
        Ok(Guest { number, socket, peer, options })
    }

    fn serve_aside(self: &Arc<Self>, guest: Guest) {
        let (weak, number) = (Arc::downgrade(&guest.socket), guest.number);
        let from = guest.peer.ip().to_canonical();
        let door = self.clone();
        let spawned = spawn_named("dwcp-v1-recv", move || {
            let (peer, dialect) = (guest.peer, guest.options.dialect.name());
            door.tell(peer, dialect, ConnectionState::Open, "made by the peer".to_string());
            let (bytes, served) = door.serve(&guest);
            drop(guest);
            door.leave(number, from);
            let detail = match served {
                Ok(()) => format!("{bytes} bytes came"),
                Err(reason) => format!("{bytes} bytes came; {reason}"),
            };
            door.tell(peer, dialect, ConnectionState::Closed, detail);
        });
        match spawned {
            Ok(thread) => self.connections.add(weak, thread),
            Err(_) => self.leave(number, from),
        }
    }

    /// Serves a connection until it ends; gives how many bytes of chunks came, and what ended it.
    fn serve(self: &Arc<Self>, guest: &Guest) -> (u64, Result<(), String>) {
        let (mut bytes, mut buffer) = (0, Vec::new());
        let (dialect, timeout) = (guest.options.dialect, guest.options.idle_timeout);
        loop {
            let start = match Next::read(&guest.socket, dialect, timeout) {
                Ok(Next::Start(start)) => start,
                Ok(Next::End) => return (bytes, Ok(())),
                // Others may be at work for the same image, whose arrival knows when it has stalled.
                Ok(Next::Quiet) if lock(&self.state).arrival_of(guest.number).is_some() => continue,
                Ok(Next::Quiet) => return (bytes, Err(format!("no chunk came for {timeout:?}"))),
                Err(failure) => {
                    if let Some(arrival) = lock(&self.state).arrival_of(guest.number) {
                        arrival.fail(failure.clone());
                    }
                    return (bytes, Err(failure.reason));
                }
            };
            let (arrival, offset_bytes) = match self.join(guest, &start) {
                Ok(joined) => joined,
                Err(failure) => return (bytes, Err(failure.reason)),
            };
            let claimed = (&start, offset_bytes);
            match intake::receive(claimed, &guest.socket, &arrival, &mut buffer, timeout) {
                Ok(count) => bytes += count,
                Err(failure) => {
                    arrival.fail(failure.clone());
                    return (bytes, Err(failure.reason));
                }
            }
        }
    }

    /// The arrival that a connection's chunk belongs to, and where in its image: the one under way, or
    /// a new one, if the chunk fits.
    fn join(
        self: &Arc<Self>,
        guest: &Guest,
        start: &Start,
    ) -> Result<(Arc<Arrival>, u64), Failure> {
        let from = guest.peer.ip().to_canonical();
        let mut state = lock(&self.state);
        // The rest of a transfer that has ended must not begin another.
        if state.open.get(&guest.number).is_none_or(|open| open.is_over) {
            let text = "the transfer that it was part of has ended";
            return Err(Failure::new(Status::ConnectionLost, text));
        }
        // It may have been let in before the transfer under way began.
        state.check_turn(from).map_err(|reason| Failure::new(Status::Busy, reason))?;
        if let Some(arrival) = state.arrival_of(guest.number).cloned() {
            state.joined(guest.number);
            drop(state);
            let claimed = arrival.take_in(|intake| intake.claim(start));
            let offset_bytes = claimed.inspect_err(|failure| arrival.fail(failure.clone()))?;
            return Ok((arrival, offset_bytes));
        }
        let stopped = || Failure::new(Status::Stopped, "the node is being stopped");
        let node = self.node.upgrade().ok_or_else(stopped)?;
        let peer = (from, state.connections_from(from));
        let begun = node.begin_arrival(self, peer, start, guest.options.clone())?;
        state.arrival = Some(begun.0.clone());
        state.joined(guest.number);
        Ok(begun)
    }

    fn leave(&self, number: u64, from: IpAddr) {
        let mut state = lock(&self.state);
        state.open.remove(&number);
        state.count(from);
    }

    fn tell(
        &self,
        peer: SocketAddr,
        dialect: &'static str,
        state: ConnectionState,
        detail: String,
    ) {
        let peer = peer.to_string();
        let event = EventKind::V1Connection { peer, dialect, state, detail };
        self.journal.publish(None, None, event);
    }
}

impl State {
    fn receiving(&self) -> Option<&Arc<Arrival>> {
        self.arrival.as_ref().filter(|arrival| arrival.is_receiving())
    }

    /// The arrival that a connection is part of.
    fn arrival_of(&self, number: u64) -> Option<&Arc<Arrival>> {
        let open = self.open.get(&number).filter(|open| !open.is_over)?;
        self.receiving().filter(|arrival| arrival.peer() == open.peer)
    }

    /// Whether an address may send now; if not, why.
    fn check_turn(&self, peer: IpAddr) -> Result<(), String> {
        match self.receiving() {
            Some(arrival) if arrival.peer() != peer => {
                Err(format!("a guest is being received from {}", arrival.peer()))
            }
            _ => Ok(()),
        }
    }

    fn connections_from(&self, peer: IpAddr) -> usize {
        self.open.values().filter(|open| open.peer == peer && !open.is_over).count()
    }

    fn joined(&mut self, number: u64) {
        self.open.get_mut(&number).into_iter().for_each(|open| open.has_joined = true);
    }

    /// Closes the oldest connection that never brought anything, so that idle strangers keep no peer
    /// out; false if there is none. A peer's own go last, and those of a transfer under way never: some
    /// of its streams may have been given nothing yet.
    fn make_room(&mut self, newcomer: IpAddr) -> bool {
        let receiving = self.receiving().map(|arrival| arrival.peer());
        let is_idle = |open: &Open| !open.has_joined && Some(open.peer) != receiving;
        let idle = self.open.iter().filter(|(_, open)| is_idle(open));
        let oldest = idle.min_by_key(|(number, open)| (open.peer == newcomer, **number));
        let oldest = oldest.map(|(number, _)| *number);
        let oldest = oldest.and_then(|number| self.open.remove(&number));
        oldest.iter().for_each(Open::close);
        oldest.is_some()
    }

    /// Tells the arrival from an address how many connections it has.
    fn count(&self, from: IpAddr) {
        if let Some(arrival) = self.receiving().filter(|arrival| arrival.peer() == from) {
            arrival.set_connections(self.connections_from(from));
        }
    }
}

impl Open {
    fn close(&self) {
        // The peer may have closed it already.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door() -> Door {
        Door {
            node: Weak::new(),
            journal: Arc::default(),
            is_stopped: AtomicBool::new(false),
            connections: Arc::default(),
            state: Mutex::default(),
        }
    }

    fn accepted() -> (TcpStream, TcpStream) {
        let listening = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listening.local_addr().unwrap()).unwrap();
        (listening.accept().unwrap().0, near)
    }

    #[test]
    fn nobody_comes_in_from_a_public_address() {
        let door = door();
        for (peer, is_let_in) in [
            ("8.8.8.8:1", false),
            ("[2600::1]:1", false),
            ("[::ffff:8.8.8.8]:1", false),
            ("[::ffff:10.0.0.1]:1", true),
            ("192.168.0.9:1", true),
        ] {
            let (socket, _near) = accepted();
            let admitted = door.admit(socket, peer.parse().unwrap(), V1Options::default());
            assert_eq!(admitted.is_ok(), is_let_in, "{peer}");
            let reason = admitted.err().unwrap_or_default();
            assert_eq!(reason.contains("is a public address"), !is_let_in, "{reason}");
        }
        assert_eq!(lock(&door.state).open.len(), 2);
    }

    #[test]
    fn strangers_make_room_before_a_peers_own_connections_do() {
        let (door, options) = (door(), V1Options { max_connections: 2, ..V1Options::default() });
        let mut nears = Vec::new();
        let mut admit = |peer: &str| {
            let (socket, near) = accepted();
            nears.push(near);
            door.admit(socket, peer.parse().unwrap(), options.clone()).unwrap().number
        };
        let (own, _stranger) = (admit("10.0.0.1:1"), admit("10.0.0.2:1"));
        let second = admit("10.0.0.1:2");
        let open = || lock(&door.state).open.keys().copied().collect::<Vec<_>>();
        assert_eq!(open(), [own, second], "the stranger went, though it came later");
        let third = admit("10.0.0.1:3");
        assert_eq!(open(), [second, third]);
    }

    #[test]
    fn what_is_left_of_a_transfer_begins_no_other() {
        let door = Arc::new(door());
        let (socket, near) = accepted();
        let peer = near.local_addr().unwrap();
        let guest = door.admit(socket, peer, V1Options::default()).unwrap();
        let start = Start::Plain([0; 8]);
        let refused = |door: &Arc<Door>| door.join(&guest, &start).err().unwrap().status;
        assert_eq!(refused(&door), Status::Stopped, "there is no node, and nothing else is wrong");
        door.hang_up(peer.ip());
        assert_eq!(refused(&door), Status::ConnectionLost);
    }

    #[test]
    fn who_never_brought_anything_makes_room() {
        let (door, options) = (door(), V1Options { max_connections: 2, ..V1Options::default() });
        let admit = || {
            let (socket, near) = accepted();
            let peer = near.local_addr().unwrap();
            door.admit(socket, peer, options.clone()).map(|guest| (guest, near))
        };
        let (first, second) = (admit().unwrap(), admit().unwrap());
        lock(&door.state).joined(first.0.number);
        let third = admit().unwrap();
        let open: Vec<_> = lock(&door.state).open.keys().copied().collect();
        assert_eq!(open, [first.0.number, third.0.number]);
        assert_eq!(io::Read::read(&mut &second.1, &mut [0]).unwrap(), 0, "it was closed");
        lock(&door.state).joined(third.0.number);
        let reason = admit().err().unwrap();
        assert_eq!(reason, "there are 2 v1 connections already");
    }
}

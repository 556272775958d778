//! The local ends of a migration's connections: from which address each is made, and how it is marked
//! from its first packet on.

use crate::runtime::clock::now;
use crate::runtime::connection::ConnectionError;
use crate::runtime::dial::{CONNECT_TIMEOUT, addresses, connect_first};
use crate::runtime::lock::lock;
use crate::runtime::rollout::Decider;
use crate::runtime::security::Security;
use crate::runtime::tuning;
use crate::transport::Addresses;
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Mutex;

/// The local addresses of one migration.
pub struct Sources {
    list: Vec<IpAddr>,
    state: Mutex<State>,
    /// Whether streams are spread over them; none: they are.
    gate: Option<Decider>,
}

#[derive(Default)]
struct State {
    addresses: Addresses,
    /// The place in the list that each slot uses.
    used: BTreeMap<usize, usize>,
}

impl Sources {
    /// These addresses; none: the system chooses.
    pub fn new(list: Vec<IpAddr>) -> Self {
        let state = State { addresses: Addresses::new(list.len()), used: BTreeMap::new() };
        Self { list, state: Mutex::new(state), gate: None }
    }

    /// With the flag that decides whether streams are spread: where it is off, all use the first address
    /// that is fit.
    pub fn gated(self, gate: Decider) -> Self {
        Self { gate: Some(gate), ..self }
    }

    /// Connects a slot, from the first address that is fit and gets there.
    ///
    /// # Errors
    /// That of the last address.
    pub fn connect(
        &self,
        to: &str,
        security: &Security,
        slot: usize,
        dscp: u8,
    ) -> Result<TcpStream, ConnectionError> {
        if self.list.is_empty() {
            let targets = addresses(to, security)?.into_iter();
            return Ok(connect_first(targets, to, &|to| connect_from(None, to, dscp))?);
        }
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for _ in 0..self.list.len() {
            let Some((at, source)) = self.choose(slot) else { break };
            let alike = |to: &SocketAddr| to.is_ipv4() == source.is_ipv4();
            let mut targets: Vec<SocketAddr> =
                addresses(to, security)?.into_iter().filter(alike).collect();
            // Two hosts with as many networks in common name their addresses in the same order.
            let first = at % targets.len().max(1);
            targets.rotate_left(first);
            let connect = |to| connect_from(Some(source), to, dscp);
            match connect_first(targets.into_iter(), to, &connect) {
                Ok(socket) => return Ok(socket),
                Err(error) => {
                    lock(&self.state).addresses.failed(at, now());
                    last = io::Error::new(error.kind(), format!("from {source}: {error}"));
                }
            }
        }
        Err(last.into())
    }

    /// The connection of a slot carries something.
    pub fn worked(&self, slot: usize) {
        self.with_used(slot, Addresses::worked);
    }

    /// The connection of a slot broke.
    pub fn failed(&self, slot: usize) {
        self.with_used(slot, |addresses, at| addresses.failed(at, now()));
    }

    /// Whether a slot uses another address than its own, which may work again.
    pub fn may_go_home(&self, slot: usize) -> bool {
        let state = lock(&self.state);
        let used = state.used.get(&slot).copied();
        used.zip(state.addresses.home(self.row(slot)))
            .is_some_and(|(used, home)| used != home && state.addresses.is_fit(home, now()))
    }

    fn choose(&self, slot: usize) -> Option<(usize, IpAddr)> {
        let mut state = lock(&self.state);
        let at = state.addresses.choose(self.row(slot), now())?;
        let source = self.list.get(at).copied()?;
        state.used.insert(slot, at);
        Some((at, source))
    }

    /// The slot by which an address is chosen.
    fn row(&self, slot: usize) -> usize {
        let is_spread = self.gate.as_ref().is_none_or(Decider::is_on);
        if is_spread { slot } else { 0 }
    }

    fn with_used(&self, slot: usize, note: impl FnOnce(&mut Addresses, usize)) {
        let mut state = lock(&self.state);
        if let Some(at) = state.used.get(&slot).copied() {
            note(&mut state.addresses, at);
        }
    }
}

fn connect_from(source: Option<IpAddr>, to: SocketAddr, dscp: u8) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    if let Some(source) = source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    if dscp > 0 {
        // A kernel that refuses the mark still carries the data.
        let _ = tuning::mark(&socket, dscp);
    }
    socket.connect_timeout(&to.into(), CONNECT_TIMEOUT)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::Flag;
    use crate::runtime::rollout::Rollout;
    use crate::runtime::security::SecurityOptions;
    use std::net::TcpListener;
    use std::sync::Arc;

    fn plain() -> Arc<Security> {
        Security::open(SecurityOptions::Plain).unwrap()
    }

    fn source_of(sources: &Sources, to: &str, slot: usize) -> String {
        let socket = sources.connect(to, &plain(), slot, 0).unwrap();
        socket.local_addr().unwrap().ip().to_string()
    }

    #[test]
    fn streams_are_spread_and_one_that_fails_uses_another() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap().to_string();
        let list = ["127.0.0.1", "127.0.0.2", "192.0.2.1"].map(|text| text.parse().unwrap());
        let sources = Sources::new(list.into());
        assert_eq!(source_of(&sources, &to, 0), "127.0.0.1");
        assert_eq!(source_of(&sources, &to, 1), "127.0.0.2");
        assert_eq!(source_of(&sources, &to, 2), "127.0.0.1", "no such address is here");
        assert!(!sources.may_go_home(2) && !sources.may_go_home(1));
        sources.failed(1);
        assert_eq!(source_of(&sources, &to, 1), "127.0.0.1");
        sources.worked(1);
        assert_eq!(source_of(&Sources::new(Vec::new()), &to, 5), "127.0.0.1");
    }

    #[test]
    fn where_the_flag_is_off_all_use_the_first_address_and_go_back_to_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap().to_string();
        let list = ["127.0.0.1", "127.0.0.2"].map(|text| text.parse().unwrap());
        let rollout = Rollout::in_memory("a");
        let gate = Decider::for_peer(rollout.clone(), Flag::InternetOptimization, &to);
        let sources = Sources::new(list.into()).gated(gate);
        assert_eq!(source_of(&sources, &to, 1), "127.0.0.2");
        rollout.set_kill_switch("test", Some("drill")).unwrap();
        assert!(sources.may_go_home(1));
        assert_eq!(source_of(&sources, &to, 1), "127.0.0.1");
        rollout.set_kill_switch("test", None).unwrap();
        assert!(sources.may_go_home(1) && !sources.may_go_home(0));
    }

    #[test]
    fn every_packet_is_marked_on_either_protocol() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let to = listener.local_addr().unwrap().to_string();
            let socket = Sources::new(Vec::new()).connect(&to, &plain(), 0, 10).unwrap();
            assert_eq!(tuning::marked(&socket).unwrap(), 10);
            tuning::mark(&socket, 46).unwrap();
            assert_eq!(tuning::marked(&socket).unwrap(), 46);
        }
    }

    #[test]
    fn an_address_of_the_other_protocol_does_not_reach_the_peer() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap().to_string();
        let error =
            Sources::new(vec!["::1".parse().unwrap()]).connect(&to, &plain(), 0, 0).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("from ::1: ") && text.contains("has no address"), "{text}");
    }
}

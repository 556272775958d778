//! Ways to other nodes that can be made to break: a real fault on a real connection, for some peers
//! and not for others.
//!
//! A node dials a link instead of its peer. The link carries bytes both ways and knows nothing of
//! them, until it is told to strike: then a connection breaks once a part of a guest has crossed it,
//! and those that try to make that good break at once, for as long as a source tries.

use crate::runtime::clock::wall_clock_us;
use crate::runtime::lock::lock;
use crate::runtime::sys::spawn_named;
use socket2::SockRef;
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as Listener};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Says whether connections to a peer, by its name, are to break now.
pub type Strikes = Box<dyn Fn(&str) -> bool + Send + Sync>;

/// The links of a node, carried by one thread; they end when this is dropped.
pub struct Links {
    handle: Handle,
    shared: Arc<Shared>,
    addresses: BTreeMap<String, SocketAddr>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What was broken so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Broken {
    /// Connections that broke, the repeated ones too.
    pub connections: u64,
    /// Of those, how many had carried a part of a guest.
    pub midway: u64,
    /// When the first of these broke, in microseconds since 1970; 0 of none.
    pub first_us: u64,
    /// When the last one was taken in to be broken, likewise.
    pub last_us: u64,
}

#[derive(Default)]
struct Shared {
    strikes: Mutex<Option<Strikes>>,
    broken: Mutex<Broken>,
}

/// One link.
struct Link {
    peer: String,
    to: SocketAddr,
    shared: Arc<Shared>,
    /// When a connection of it last broke midway.
    broke: Mutex<Option<Instant>>,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Whole,
    Midway,
    AtOnce,
}

impl Links {
    /// None yet.
    ///
    /// # Errors
    /// No thread or descriptor is left.
    pub fn new() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = spawn_named("dwcp-links", move || {
            // Either way it is over: told so, or the links were dropped.
            let _ = runtime.block_on(stopped);
        })?;
        let (shared, addresses) = (Arc::default(), BTreeMap::new());
        Ok(Self { handle, shared, addresses, stop: Some(stop), thread: Some(thread) })
    }

    /// Where a peer is dialed from now on.
    ///
    /// # Errors
    /// No port or descriptor is left.
    pub fn open(&mut self, peer: &str, to: SocketAddr) -> io::Result<SocketAddr> {
        if let Some(address) = self.addresses.get(peer) {
            return Ok(*address);
        }
        let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (peer, shared) = (peer.to_owned(), self.shared.clone());
        self.addresses.insert(peer.clone(), address);
        let link = Arc::new(Link { peer, to, shared, broke: Mutex::default() });
        self.handle.spawn(link.serve(listener));
        Ok(address)
    }

    /// Every peer that has a link, and where that is.
    pub fn addresses(&self) -> &BTreeMap<String, SocketAddr> {
        &self.addresses
    }

    /// Which connections break from now on; none: no more.
    pub fn strike(&self, strikes: Option<Strikes>) {
        *lock(&self.shared.strikes) = strikes;
    }

    /// What was broken so far.
    pub fn broken(&self) -> Broken {
        *lock(&self.shared.broken)
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        drop(self.stop.take());
        // Its thread carries bytes, and has nothing to say.
        self.thread.take().map(JoinHandle::join);
    }
}

impl Link {
    async fn serve(self: Arc<Self>, listener: Listener) {
        // It is non-blocking already, which is all that can fail here.
        let Ok(listener) = TcpListener::from_std(listener) else { return };
        loop {
            match listener.accept().await {
                Ok((near, _)) => drop(tokio::spawn(self.clone().carry(near))),
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    /// Carries one connection to its end. An error on either side ends both, as it would without
    /// the link between them.
    async fn carry(self: Arc<Self>, mut near: TcpStream) {
        let fate = self.fate();
        if fate == Fate::AtOnce {
            return reset(&near);
        }
        let Ok(mut far) = TcpStream::connect(self.to).await else { return };
        // Only the end points know when to wait for more.
        let _ = near.set_nodelay(true).and_then(|()| far.set_nodelay(true));
        let most = if fate == Fate::Midway { BREAKS_AFTER_BYTES } else { u64::MAX };
        let (mut from_near, mut to_near) = near.split();
        let (mut from_far, mut to_far) = far.split();
        let out = async {
            let sent = copy(&mut (&mut from_near).take(most), &mut to_far).await?;
            if sent == most {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            to_far.shutdown().await
        };
        let back = async {
            copy(&mut from_far, &mut to_near).await?;
            to_near.shutdown().await
        };
        if tokio::try_join!(out, back).is_err() {
            if fate == Fate::Midway {
                self.note_break();
            }
            reset(&near);
            reset(&far);
        }
    }

    /// What is to become of a connection that comes now.
    fn fate(&self) -> Fate {
        let strikes = lock(&self.shared.strikes);
        if !strikes.as_ref().is_some_and(|strikes| strikes(&self.peer)) {
            return Fate::Whole;
        }
        drop(strikes);
        let is_repeated = lock(&self.broke).is_some_and(|at| at.elapsed() < REPEATED_FOR);
        let mut broken = lock(&self.shared.broken);
        broken.last_us = wall_clock_us();
        if is_repeated {
            broken.connections += 1;
            return Fate::AtOnce;
        }
        Fate::Midway
    }

    fn note_break(&self) {
        *lock(&self.broke) = Some(Instant::now());
        let mut broken = lock(&self.shared.broken);
        broken.connections += 1;
        broken.midway += 1;
        if broken.first_us == 0 {
            broken.first_us = wall_clock_us();
        }
    }
}

/// The other end hears of it at once, as when a host or a firewall drops the connection.
fn reset(stream: &TcpStream) {
    // If it cannot be set, the connection closes all the same.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// More than a handshake or a probe takes, and less than the smallest guest of a drill.
const BREAKS_AFTER_BYTES: u64 = 128 << 10;
/// A source that goes on trying for less than this is to fail.
pub const REPEATED_FOR: Duration = Duration::from_secs(6);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpStream as Stream;

    /// A peer that sends back what comes.
    fn echo() -> SocketAddr {
        let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || io::copy(&mut &stream, &mut &stream));
            }
        });
        address
    }

    /// Sends so many bytes through a link and reads them back; gives what came.
    fn send(link: SocketAddr, count: u64) -> io::Result<u64> {
        let stream = Stream::connect(link)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut writer = stream.try_clone()?;
        let writing = std::thread::spawn(move || {
            let sent = writer.write_all(&vec![7; count as usize]);
            sent.and_then(|()| writer.shutdown(std::net::Shutdown::Write))
        });
        let mut came = Vec::new();
        let read = (&stream).read_to_end(&mut came);
        let _ = writing.join().unwrap();
        read.map(|_| came.len() as u64)
    }

    #[test]
    fn links_carry_everything_until_they_are_told_to_strike_and_after() {
        let mut links = Links::new().unwrap();
        let struck = links.open("a", echo()).unwrap();
        let spared = links.open("b", echo()).unwrap();
        assert_eq!(links.open("a", echo()).unwrap(), struck, "one link for each peer");
        let (little, much) = (1000, BREAKS_AFTER_BYTES * 2);
        assert_eq!((send(struck, much).unwrap(), send(spared, much).unwrap()), (much, much));
        assert_eq!(links.broken(), Broken::default());

        links.strike(Some(Box::new(|peer| peer == "a")));
        // What is shorter than a guest is none.
        assert_eq!(send(struck, little).unwrap(), little);
        assert!(send(struck, much).map_or(true, |came| came < much));
        let broken = links.broken();
        assert_eq!((broken.connections, broken.midway), (1, 1));
        assert!(broken.last_us > 0 && broken.first_us >= broken.last_us, "{broken:?}");
        assert_eq!(send(struck, little).unwrap_or(0), 0, "it may not be made good");
        assert_eq!(links.broken().connections, 2);
        assert_eq!(send(spared, much).unwrap(), much);

        links.strike(None);
        assert_eq!(send(struck, much).unwrap(), much);
        assert_eq!(links.broken().connections, 2);
    }

    #[test]
    fn links_end_with_their_owner() {
        let mut links = Links::new().unwrap();
        let link = links.open("a", echo()).unwrap();
        assert_eq!(send(link, 10).unwrap(), 10);
        drop(links);
        assert!(Stream::connect(link).is_err());
    }
}

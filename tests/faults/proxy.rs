//! A TCP proxy that does to connections what networks do: breaks, stops, damages, turns away.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Towards the destination, and back.
pub const FORWARD: usize = 0;
pub const BACK: usize = 1;

pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stopped: AtomicBool,
    /// Nothing passes, in this direction.
    held: [AtomicBool; 2],
    refusing: AtomicBool,
    turned_away: AtomicU64,
    links: Mutex<Vec<[TcpStream; 2]>>,
    /// Connections that there ever were, and those that have what comes in a direction vanish.
    opened: AtomicU64,
    swallowing: [Mutex<Range<u64>>; 2],
    passed: [AtomicU64; 2],
    /// The byte of a direction that is to be damaged, 0 for none.
    damage_at: [AtomicU64; 2],
    /// What went to the destination, all connections mixed.
    tape: Mutex<Vec<u8>>,
}

/// What a test does to the proxy, also from a node's own threads.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

impl Proxy {
    pub fn new(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let serving = shared.clone();
        let thread = std::thread::spawn(move || serve(&listener, target, &serving));
        Self { address, shared, thread: Some(thread) }
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    pub fn handle(&self) -> Handle {
        Handle(self.shared.clone())
    }
}

impl Handle {
    /// Breaks one connection; false if there was none.
    pub fn kill_one(&self) -> bool {
        let mut links = self.0.links.lock().unwrap();
        let killed = (!links.is_empty()).then(|| links.remove(0));
        killed.iter().flatten().for_each(|end| drop(end.shutdown(Shutdown::Both)));
        killed.is_some()
    }

    /// Breaks every connection.
    pub fn kill_all(&self) {
        while self.kill_one() {}
    }

    /// Stops or goes on forwarding.
    pub fn hold(&self, direction: usize, hold: bool) {
        self.0.held[direction].store(hold, SeqCst);
    }

    /// Has what comes in a direction vanish, on all connections that there are; they stay open.
    pub fn swallow(&self, direction: usize) {
        *self.0.swallowing[direction].lock().unwrap() = 0..self.0.opened.load(SeqCst);
    }

    /// Has what comes in a direction vanish on all connections but the first so many.
    pub fn swallow_after(&self, direction: usize, first: u64) {
        *self.0.swallowing[direction].lock().unwrap() = first..u64::MAX;
    }

    /// Turns new connections away.
    pub fn refuse(&self) {
        let _no_new_link = self.0.links.lock().unwrap();
        self.0.refusing.store(true, SeqCst);
    }

    /// Lets new connections in again.
    pub fn admit(&self) {
        self.0.refusing.store(false, SeqCst);
    }

    /// Connections that were turned away.
    pub fn turned_away(&self) -> u64 {
        self.0.turned_away.load(SeqCst)
    }

    /// Flips a bit of the byte at `position`, once.
    pub fn damage(&self, direction: usize, position: u64) {
        self.0.damage_at[direction].store(position.max(1), SeqCst);
    }

    /// What went to the destination so far.
    pub fn tape(&self) -> Vec<u8> {
        self.0.tape.lock().unwrap().clone()
    }

    /// Bytes that have passed.
    pub fn passed(&self, direction: usize) -> u64 {
        self.0.passed[direction].load(SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, SeqCst);
        self.handle().kill_all();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn serve(listener: &TcpListener, target: SocketAddr, shared: &Arc<Shared>) {
    while !shared.stopped.load(SeqCst) {
        let Ok((near, _)) = listener.accept() else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        near.set_nonblocking(false).unwrap();
        if shared.refusing.load(SeqCst) {
            shared.turned_away.fetch_add(1, SeqCst);
            continue;
        }
        let Ok(far) = TcpStream::connect(target) else { continue };
        near.set_nodelay(true).unwrap();
        far.set_nodelay(true).unwrap();
        let ends = || (near.try_clone().unwrap(), far.try_clone().unwrap());
        let mut links = shared.links.lock().unwrap();
        if shared.refusing.load(SeqCst) {
            continue;
        }
        links.push([near.try_clone().unwrap(), far.try_clone().unwrap()]);
        drop(links);
        let ((near, far), (back_to, back_from)) = (ends(), ends());
        let (forward, back) = (shared.clone(), shared.clone());
        let number = shared.opened.fetch_add(1, SeqCst);
        std::thread::spawn(move || pump(near, far, (FORWARD, number), &forward));
        std::thread::spawn(move || pump(back_from, back_to, (BACK, number), &back));
    }
}

fn pump(
    mut from: TcpStream,
    mut to: TcpStream,
    (direction, number): (usize, u64),
    shared: &Shared,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        while shared.held[direction].load(SeqCst) && !shared.stopped.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        if shared.swallowing[direction].lock().unwrap().contains(&number) {
            continue;
        }
        let start = shared.passed[direction].fetch_add(length as u64, SeqCst);
        let at = shared.damage_at[direction].load(SeqCst);
        if (start + 1..=start + length as u64).contains(&at) {
            buffer[(at - start - 1) as usize] ^= 1 << (at % 8);
            shared.damage_at[direction].store(0, SeqCst);
        }
        if direction == FORWARD {
            shared.tape.lock().unwrap().extend_from_slice(&buffer[..length]);
        }
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

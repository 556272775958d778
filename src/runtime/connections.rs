//! The threads of accepted connections, so that a node which stops leaves none behind: a host that
//! unloads the library would pull the code from under them.

use crate::runtime::lock::lock;
use crate::runtime::sys::thread::is_current;
use std::net::{Shutdown, TcpStream};
use std::sync::{Mutex, Weak};
use std::thread::JoinHandle;

/// The connections of one listener.
#[derive(Default)]
pub struct Connections(Mutex<Vec<Connection>>);

struct Connection {
    socket: Weak<TcpStream>,
    thread: JoinHandle<()>,
}

impl Connections {
    /// Adds a connection and lets go of those that ended.
    pub fn add(&self, socket: Weak<TcpStream>, thread: JoinHandle<()>) {
        let mut connections = lock(&self.0);
        connections.push(Connection { socket, thread });
        let (ended, open) = connections
            .drain(..)
            .partition(|connection: &Connection| connection.thread.is_finished());
        *connections = open;
        let ended: Vec<Connection> = ended;
        ended.into_iter().for_each(|connection| drop(connection.thread.join()));
    }

    /// Closes all and waits for their threads, but for the one that calls.
    pub fn close(&self) {
        let connections = std::mem::take(&mut *lock(&self.0));
        for socket in connections.iter().filter_map(|connection| connection.socket.upgrade()) {
            // The peer may have closed it already.
            let _ = socket.shutdown(Shutdown::Both);
        }
        for Connection { thread, .. } in connections {
            if !is_current(&thread) {
                let _ = thread.join();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::sys::spawn_named;
    use std::io::Read;
    use std::net::TcpListener;
    use std::sync::Arc;

    #[test]
    fn closing_ends_a_thread_that_waits_for_its_peer() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let socket = Arc::new(listener.accept().unwrap().0);
        let (weak, alive) = (Arc::downgrade(&socket), Arc::new(()));
        let held = alive.clone();
        let reading = move || {
            let _held = held;
            assert_eq!(socket.as_ref().read(&mut [0]).unwrap(), 0);
        };
        let connections = Connections::default();
        connections.add(weak, spawn_named("dwcp-recv", reading).unwrap());
        connections.close();
        assert_eq!(Arc::strong_count(&alive), 1);
    }
}

//! A node's events as they happen: kept, waited for, and shown to observers.

use crate::base::MigrationId;
use crate::node::EventRing;
use crate::observe::{Event, EventKind};
use crate::runtime::clock::wall_clock_us;
use crate::runtime::lock::lock;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Is called with every event, on a library thread; must not block.
pub type EventObserver = Arc<dyn Fn(&Event) + Send + Sync>;

/// The journal of one node.
#[derive(Default)]
pub struct Journal {
    ring: Mutex<EventRing>,
    news: Condvar,
    observers: Mutex<Vec<EventObserver>>,
}

impl Journal {
    /// Adds an event and shows it to the observers.
    pub fn publish(&self, migration: Option<MigrationId>, guest: Option<&str>, kind: EventKind) {
        let guest = guest.map(str::to_string);
        let event = lock(&self.ring).push(wall_clock_us(), migration, guest, kind);
        self.news.notify_all();
        // Observers are called without a lock, so that they may ask the journal.
        let observers = lock(&self.observers).clone();
        observers.iter().for_each(|observer| observer(&event));
    }

    /// Events numbered above `after`.
    pub fn after(&self, after: u64) -> Vec<Event> {
        lock(&self.ring).after(after)
    }

    /// As [`Self::after`], but waits up to `timeout` until there is one.
    pub fn wait_after(&self, after: u64, timeout: Duration) -> Vec<Event> {
        let ring = lock(&self.ring);
        let waited = self.news.wait_timeout_while(ring, timeout, |ring| ring.last() <= after);
        match waited {
            Ok((ring, _)) => ring.after(after),
            Err(poisoned) => poisoned.into_inner().0.after(after),
        }
    }

    /// Memory that the events take.
    pub fn memory_bytes(&self) -> u64 {
        lock(&self.ring).memory_bytes()
    }

    /// Adds an observer.
    pub fn observe(&self, observer: EventObserver) {
        lock(&self.observers).push(observer);
    }
}

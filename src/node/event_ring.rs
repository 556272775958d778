//! The last events of a node, numbered; old ones fall out.

use crate::base::MigrationId;
use crate::base::limits::MAX_EVENTS;
use crate::observe::{Event, EventKind};
use std::collections::VecDeque;

/// A bounded list of events.
#[derive(Debug, Default)]
pub struct EventRing {
    events: VecDeque<Event>,
    last: u64,
}

impl EventRing {
    /// Numbers and keeps an event.
    pub fn push(
        &mut self,
        time_us: u64,
        migration: Option<MigrationId>,
        guest: Option<String>,
        kind: EventKind,
    ) -> Event {
        self.last += 1;
        let event = Event { sequence: self.last, time_us, migration, guest, kind };
        if self.events.len() == MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event.clone());
        event
    }

    /// Events numbered above `after`, oldest first.
    pub fn after(&self, after: u64) -> Vec<Event> {
        let from = self.events.partition_point(|event| event.sequence <= after);
        self.events.iter().skip(from).cloned().collect()
    }

    /// Memory of the events, but for the texts of some.
    pub fn memory_bytes(&self) -> u64 {
        let names = self.events.iter().filter_map(|event| event.guest.as_ref());
        let names: usize = names.map(String::capacity).sum();
        (self.events.capacity() * size_of::<Event>() + names) as u64
    }

    /// The number of the last event.
    pub fn last(&self) -> u64 {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_events_fall_out_and_numbers_go_on() {
        let mut ring = EventRing::default();
        for _ in 0..MAX_EVENTS + 10 {
            ring.push(0, None, None, EventKind::NodeStopped {});
        }
        assert_eq!(ring.after(0).len(), MAX_EVENTS);
        assert_eq!(ring.after(0)[0].sequence, 11);
        assert_eq!(ring.after(ring.last() - 3).len(), 3);
        assert!(ring.after(ring.last()).is_empty());
    }
}

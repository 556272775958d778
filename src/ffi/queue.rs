//! The completion queue of a node, and the file descriptor that is readable while it holds any.
//!
//! Requests come first, since a migration waits for them; events and ended migrations follow in
//! their order. A host that does not reap loses the oldest events, but no ended migration as long as
//! there are events to lose.

use super::codes::*;
use super::completion::dwcp_completion;
use super::flag_conversions::flag_out;
use super::strings::fixed;
use crate::base::limits::MAX_EVENTS;
use crate::migration::{Owner, Phase};
use crate::observe::{Event, EventKind, Level};
use crate::runtime::sys::EventFd;
use std::collections::VecDeque;
use std::ffi::c_void;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Completions that wait to be reaped.
pub struct CompletionQueue {
    waiting: Mutex<Waiting>,
    event: EventFd,
    level: Option<Level>,
}

/// A request as it is shown to the host.
pub struct RequestRecord {
    /// Its number.
    pub id: u64,
    /// A `DWCP_REQUEST_`.
    pub code: u32,
    /// Region, percentage or ending.
    pub value: u32,
    /// What the host is to fill in or read.
    pub buffer: *mut c_void,
    /// Its length.
    pub buffer_bytes: usize,
    /// The guest's name.
    pub guest: String,
}

// SAFETY: the buffer pointer is only a number here; the host alone dereferences it.
unsafe impl Send for RequestRecord {}

#[derive(Default)]
struct Waiting {
    requests: VecDeque<RequestRecord>,
    events: VecDeque<Event>,
}

impl CompletionQueue {
    /// An empty queue that keeps events of at least `level`; with none, only ended migrations.
    pub fn new(level: Option<Level>) -> io::Result<Self> {
        Ok(Self { waiting: Mutex::default(), event: EventFd::new()?, level })
    }

    /// The descriptor to poll.
    pub fn descriptor(&self) -> i32 {
        self.event.as_raw_fd()
    }

    /// Adds a request.
    pub fn push_request(&self, request: RequestRecord) {
        let mut waiting = self.lock();
        self.signal_if_empty(&waiting);
        waiting.requests.push_back(request);
    }

    /// Takes a request back that was not reaped yet; false if it was.
    pub fn withdraw_request(&self, id: u64) -> bool {
        let mut waiting = self.lock();
        let before = waiting.requests.len();
        waiting.requests.retain(|request| request.id != id);
        let withdrawn = waiting.requests.len() < before;
        if withdrawn {
            self.quiet_if_empty(&waiting);
        }
        withdrawn
    }

    /// Adds an event if the host wants its level.
    pub fn push_event(&self, event: &Event) {
        let wanted = self.level.is_some_and(|level| event.kind.level() >= level);
        if !wanted && !is_end(event) {
            return;
        }
        let mut waiting = self.lock();
        self.signal_if_empty(&waiting);
        if waiting.events.len() >= MAX_EVENTS {
            let oldest = waiting.events.iter().position(|event| !is_end(event)).unwrap_or(0);
            waiting.events.remove(oldest);
        }
        waiting.events.push_back(event.clone());
    }

    /// Takes out up to `max` completions, each shown to `take`.
    pub fn reap(&self, max: usize, mut take: impl FnMut(usize, &dwcp_completion)) -> usize {
        let mut waiting = self.lock();
        if waiting.is_empty() {
            return 0;
        }
        let mut count = 0;
        while count < max {
            let completion = match waiting.requests.pop_front() {
                Some(request) => of_request(&request),
                None => match waiting.events.pop_front() {
                    Some(event) => of_event(&event),
                    None => break,
                },
            };
            take(count, &completion);
            count += 1;
        }
        self.quiet_if_empty(&waiting);
        count
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal_if_empty(&self, waiting: &Waiting) {
        if waiting.is_empty() {
            self.event.signal();
        }
    }

    fn quiet_if_empty(&self, waiting: &Waiting) {
        if waiting.is_empty() {
            self.event.clear();
        }
    }
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.events.is_empty()
    }
}

/// The C number of a phase.
pub fn phase_code(phase: Phase) -> u32 {
    match phase {
        Phase::Connect => DWCP_PHASE_CONNECT,
        Phase::Precopy => DWCP_PHASE_PRECOPY,
        Phase::FinalPass => DWCP_PHASE_FINAL_PASS,
        Phase::DeviceState => DWCP_PHASE_DEVICE_STATE,
        Phase::Verify => DWCP_PHASE_VERIFY,
        Phase::Handover => DWCP_PHASE_HANDOVER,
        Phase::Resume => DWCP_PHASE_RESUME,
        Phase::PostCopy => DWCP_PHASE_POST_COPY,
        Phase::Ended => DWCP_PHASE_ENDED,
    }
}

/// The C number of an owner.
pub fn owner_code(owner: Owner) -> u32 {
    match owner {
        Owner::Source => DWCP_OWNER_SOURCE,
        Owner::Destination => DWCP_OWNER_DESTINATION,
        Owner::InDoubt => DWCP_OWNER_IN_DOUBT,
    }
}

fn is_end(event: &Event) -> bool {
    matches!(event.kind, EventKind::MigrationEnded { .. })
}

fn of_request(request: &RequestRecord) -> dwcp_completion {
    dwcp_completion {
        kind: DWCP_COMPLETION_REQUEST,
        code: request.code,
        value: request.value,
        id: request.id,
        buffer: request.buffer,
        buffer_bytes: request.buffer_bytes,
        guest: fixed(&request.guest),
        ..dwcp_completion::EMPTY
    }
}

fn of_event(event: &Event) -> dwcp_completion {
    let (kind, status) = match &event.kind {
        EventKind::MigrationEnded { status, .. } => {
            (DWCP_COMPLETION_MIGRATION_ENDED, status.code())
        }
        _ => (DWCP_COMPLETION_EVENT, DWCP_OK),
    };
    let (code, value) = event_code(&event.kind);
    dwcp_completion {
        kind,
        code,
        status,
        value,
        id: event.sequence,
        migration: event.migration.map(|id| fixed(&id.to_string())).unwrap_or([0; 40]),
        guest: event.guest.as_deref().map(fixed).unwrap_or([0; 136]),
        ..dwcp_completion::EMPTY
    }
}

fn event_code(kind: &EventKind) -> (u32, u32) {
    match kind {
        EventKind::NodeStarted { .. } => (DWCP_EVENT_NODE_STARTED, 0),
        EventKind::NodeStopped {} => (DWCP_EVENT_NODE_STOPPED, 0),
        EventKind::GuestChanged { .. } => (DWCP_EVENT_GUEST_CHANGED, 0),
        EventKind::Phase { phase, .. } => (DWCP_EVENT_PHASE, named_phase(phase)),
        EventKind::PassCompleted { pass } => (DWCP_EVENT_PASS_COMPLETED, pass.pass),
        EventKind::Throttled { percent } => (DWCP_EVENT_THROTTLED, u32::from(*percent)),
        EventKind::PostCopyBegun { .. } => (DWCP_EVENT_POST_COPY_BEGUN, 0),
        EventKind::PostCopyCompleted { .. } => (DWCP_EVENT_POST_COPY_COMPLETED, 0),
        EventKind::StreamUp { stream, .. } => (DWCP_EVENT_STREAM_UP, *stream),
        EventKind::StreamDown { stream, .. } => (DWCP_EVENT_STREAM_DOWN, *stream),
        EventKind::StreamRetired { stream } => (DWCP_EVENT_STREAM_RETIRED, *stream),
        EventKind::StreamsTuned { to, .. } => (DWCP_EVENT_STREAMS_TUNED, u32::from(*to)),
        EventKind::ChunkDamaged { .. } => (DWCP_EVENT_CHUNK_DAMAGED, 0),
        EventKind::PeerRefused { .. } => (DWCP_EVENT_PEER_REFUSED, 0),
        EventKind::Notice { .. } => (DWCP_EVENT_NOTICE, 0),
        EventKind::ModeTransition { .. } => (DWCP_EVENT_MODE_TRANSITION, 0),
        EventKind::V1Connection { .. } => (DWCP_EVENT_V1_CONNECTION, 0),
        EventKind::RdmaUp { .. } => (DWCP_EVENT_RDMA_UP, 0),
        EventKind::RdmaUnavailable { .. } => (DWCP_EVENT_RDMA_UNAVAILABLE, 0),
        EventKind::FlagsChanged { .. } => (DWCP_EVENT_FLAGS_CHANGED, 0),
        EventKind::FlagRolledBack { flag, .. } => (DWCP_EVENT_FLAG_ROLLED_BACK, named_flag(flag)),
        EventKind::FlagHeld { flag, .. } => (DWCP_EVENT_FLAG_HELD, named_flag(flag)),
        EventKind::MigrationEnded { owner, .. } => (0, named_owner(owner)),
        #[allow(unreachable_patterns)]
        _ => (DWCP_EVENT_OTHER, 0),
    }
}

fn named_phase(name: &str) -> u32 {
    Phase::ALL.iter().find(|phase| phase.name() == name).map_or(0, |phase| phase_code(*phase))
}

fn named_flag(name: &str) -> u32 {
    name.parse().map_or(0, flag_out)
}

fn named_owner(name: &str) -> u32 {
    let all = [Owner::Source, Owner::Destination, Owner::InDoubt];
    all.into_iter().find(|owner| owner.name() == name).map_or(0, owner_code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Status;

    fn event(sequence: u64, kind: EventKind) -> Event {
        Event { sequence, time_us: 0, migration: None, guest: Some("vm".into()), kind }
    }

    fn ended() -> EventKind {
        EventKind::MigrationEnded {
            status: Status::Timeout,
            owner: "source",
            reason: String::new(),
            total_us: 0,
            downtime_us: 0,
        }
    }

    fn readable(queue: &CompletionQueue) -> bool {
        let mut poll = libc::pollfd { fd: queue.descriptor(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd of ours.
        unsafe { libc::poll(&raw mut poll, 1, 0) == 1 }
    }

    fn reap(queue: &CompletionQueue, max: usize) -> Vec<(u32, u64)> {
        let mut seen = Vec::new();
        queue.reap(max, |_, completion| seen.push((completion.kind, completion.id)));
        seen
    }

    #[test]
    fn the_descriptor_is_readable_exactly_while_completions_wait() {
        let queue = CompletionQueue::new(Some(Level::Info)).unwrap();
        assert!(!readable(&queue));
        queue.push_event(&event(1, EventKind::NodeStopped {}));
        queue.push_event(&event(2, ended()));
        assert!(readable(&queue));
        assert_eq!(reap(&queue, 1), [(DWCP_COMPLETION_EVENT, 1)]);
        assert!(readable(&queue));
        assert_eq!(reap(&queue, 9), [(DWCP_COMPLETION_MIGRATION_ENDED, 2)]);
        assert!(!readable(&queue) && reap(&queue, 9).is_empty());
    }

    #[test]
    fn a_withdrawn_request_leaves_a_quiet_queue() {
        let queue = CompletionQueue::new(None).unwrap();
        let buffer = std::ptr::null_mut();
        let guest = String::new();
        queue.push_request(RequestRecord {
            id: 5,
            code: 3,
            value: 0,
            buffer,
            buffer_bytes: 0,
            guest,
        });
        assert!(readable(&queue) && queue.withdraw_request(5) && !queue.withdraw_request(5));
        assert!(!readable(&queue));
    }

    #[test]
    fn overflow_loses_old_events_but_no_ended_migration() {
        let queue = CompletionQueue::new(Some(Level::Debug)).unwrap();
        queue.push_event(&event(1, ended()));
        for sequence in 2..MAX_EVENTS as u64 + 3 {
            queue.push_event(&event(sequence, EventKind::NodeStopped {}));
        }
        let seen = reap(&queue, usize::MAX);
        assert_eq!(seen.len(), MAX_EVENTS);
        assert_eq!(seen[..2], [(DWCP_COMPLETION_MIGRATION_ENDED, 1), (DWCP_COMPLETION_EVENT, 4)]);
    }

    #[test]
    fn the_level_filters_but_ended_migrations_always_come() {
        let queue = CompletionQueue::new(None).unwrap();
        queue.push_event(&event(1, EventKind::NodeStopped {}));
        queue.push_event(&event(2, ended()));
        assert_eq!(reap(&queue, 9), [(DWCP_COMPLETION_MIGRATION_ENDED, 2)]);
    }
}

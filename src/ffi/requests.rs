//! A guest driven through the file descriptor: each call becomes a request that the host reaps and
//! answers, while the asking thread waits, no longer than the node's request timeout.
//!
//! A request that nobody waits for any more keeps its buffer until the host answers it or the node
//! is freed: the host may still be writing there.

use super::callbacks::HostContext;
use super::driver::{Call, Driver, answered};
use super::guard::{Failure, Outcome};
use super::queue::{CompletionQueue, RequestRecord};
use crate::Status;
use crate::migration::GuestError;
use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The requests of one node that the host has not answered.
pub struct RequestTable {
    queue: Arc<CompletionQueue>,
    timeout: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

/// Asks for one guest.
pub struct RequestDriver {
    /// Where to ask.
    pub table: Arc<RequestTable>,
    /// For whom.
    pub guest: String,
    /// What the hypervisor registered, dropped with this.
    pub context: Arc<HostContext>,
}

#[derive(Default)]
struct State {
    open: HashMap<u64, Open>,
    last_id: u64,
    closed: bool,
}

impl State {
    fn is_waiting(&self, id: u64) -> bool {
        matches!(self.open.get(&id), Some(Open { stage: Stage::Waiting, .. }))
    }
}

struct Open {
    buffer: Buffer,
    takes_data: bool,
    stage: Stage,
}

enum Stage {
    Waiting,
    Answered(i32, Vec<u8>),
    Abandoned,
}

impl RequestTable {
    /// No requests; each may take `timeout`.
    pub fn new(queue: Arc<CompletionQueue>, timeout: Duration) -> Self {
        Self { queue, timeout, state: Mutex::default(), changed: Condvar::new() }
    }

    /// The host's answer.
    pub fn complete(&self, id: u64, status: i32, data: &[u8]) -> Outcome {
        let mut state = self.lock();
        let Some(open) = state.open.get_mut(&id) else {
            return Err(Failure::new(Status::NotFound, format!("request {id} is not open")));
        };
        if !data.is_empty() && !open.takes_data {
            return Err(Failure::invalid(format!(
                "request {id} takes no data, but {} bytes came",
                data.len()
            )));
        }
        match open.stage {
            Stage::Waiting => open.stage = Stage::Answered(status, data.to_vec()),
            Stage::Answered(..) => {
                return Err(Failure::new(Status::NotFound, format!("request {id} is answered")));
            }
            Stage::Abandoned => {
                state.open.remove(&id);
                let text = format!("request {id} was given up before this answer");
                return Err(Failure::new(Status::Timeout, text));
            }
        }
        self.changed.notify_all();
        Ok(())
    }

    /// Fails all requests, open and coming.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn ask(&self, guest: &str, mut call: Call<'_>) -> Result<(), GuestError> {
        let id = self.post(guest, &call)?;
        let deadline = Instant::now() + self.timeout;
        let mut state = self.lock();
        while state.is_waiting(id) {
            let left = deadline.saturating_duration_since(Instant::now());
            if state.closed || left.is_zero() {
                return Err(self.give_up(state, id, &call));
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let open = state.open.remove(&id);
        drop(state);
        match open {
            Some(Open { buffer, stage: Stage::Answered(status, data), .. }) => {
                answered(call.name(), status, "")?;
                take_answer(&mut call, &buffer, data);
                Ok(())
            }
            _ => Err(GuestError::new(call.name(), format!("request {id} was lost"))),
        }
    }

    fn post(&self, guest: &str, call: &Call<'_>) -> Result<u64, GuestError> {
        let buffer = Buffer::of(call);
        let mut state = self.lock();
        if state.closed {
            return Err(stopped(call));
        }
        if state.open.len() >= MAX_OPEN_REQUESTS {
            let text = format!("{MAX_OPEN_REQUESTS} requests are open already");
            return Err(GuestError::new(call.name(), text));
        }
        state.last_id += 1;
        let id = state.last_id;
        let record = RequestRecord {
            id,
            code: call.code(),
            value: call.value(),
            buffer: buffer.start(),
            buffer_bytes: buffer.length_bytes,
            guest: guest.to_owned(),
        };
        let takes_data = matches!(call, Call::SaveDeviceState(_));
        state.open.insert(id, Open { buffer, takes_data, stage: Stage::Waiting });
        self.queue.push_request(record);
        Ok(id)
    }

    fn give_up(&self, mut state: MutexGuard<'_, State>, id: u64, call: &Call<'_>) -> GuestError {
        if self.queue.withdraw_request(id) {
            state.open.remove(&id);
        } else if let Some(open) = state.open.get_mut(&id) {
            open.stage = Stage::Abandoned;
        }
        if state.closed {
            return stopped(call);
        }
        let text = format!("request {id} was not answered within {} ms", self.timeout.as_millis());
        GuestError { call: call.name(), code: Status::Timeout.code().into(), text }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Driver for RequestDriver {
    fn call(&self, call: Call<'_>) -> Result<(), GuestError> {
        self.table.ask(&self.guest, call)
    }
}

fn stopped(call: &Call<'_>) -> GuestError {
    let code = Status::Stopped.code().into();
    GuestError { call: call.name(), code, text: "the node is being stopped".into() }
}

fn take_answer(call: &mut Call<'_>, buffer: &Buffer, data: Vec<u8>) {
    match call {
        Call::FetchDirty(_, log) => buffer.copy_words_to(log),
        Call::SaveDeviceState(state) => **state = data,
        _ => {}
    }
}

/// Memory that the host fills in or reads, never looked at through a reference while it may.
struct Buffer {
    words: *mut [u64],
    length_bytes: usize,
}

// SAFETY: the allocation is this value's own; the host's access through the raw pointer ends with
// its answer, as the header says.
unsafe impl Send for Buffer {}

impl Buffer {
    fn of(call: &Call<'_>) -> Self {
        match call {
            Call::FetchDirty(_, log) => Self::zeroed(size_of_val(&**log)),
            Call::LoadDeviceState(state) => {
                let buffer = Self::zeroed(state.len());
                // SAFETY: the new buffer has room for the whole state.
                unsafe {
                    ptr::copy_nonoverlapping(state.as_ptr(), buffer.words.cast(), state.len());
                }
                buffer
            }
            _ => Self::zeroed(0),
        }
    }

    fn zeroed(length_bytes: usize) -> Self {
        let words = vec![0u64; length_bytes.div_ceil(8)].into_boxed_slice();
        Self { words: Box::into_raw(words), length_bytes }
    }

    fn start(&self) -> *mut c_void {
        if self.length_bytes == 0 { ptr::null_mut() } else { self.words.cast() }
    }

    fn copy_words_to(&self, log: &mut [u64]) {
        let words = log.len().min(self.words.len());
        // SAFETY: both sides hold `words` words, and they are separate allocations.
        unsafe { ptr::copy_nonoverlapping(self.words.cast(), log.as_mut_ptr(), words) };
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `Box::into_raw` and is freed only here.
        drop(unsafe { Box::from_raw(self.words) });
    }
}

/// Requests that one node may have open: answered late or not at all.
const MAX_OPEN_REQUESTS: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ffi::completion::dwcp_completion;

    fn table(timeout_ms: u64) -> (Arc<RequestTable>, Arc<CompletionQueue>) {
        let queue = Arc::new(CompletionQueue::new(None).unwrap());
        let table = RequestTable::new(queue.clone(), Duration::from_millis(timeout_ms));
        (Arc::new(table), queue)
    }

    fn reap_one(queue: &CompletionQueue) -> dwcp_completion {
        let mut seen = None;
        while seen.is_none() {
            queue.reap(1, |_, completion| seen = Some(*completion));
            std::thread::yield_now();
        }
        seen.unwrap()
    }

    #[test]
    fn a_dirty_log_and_a_device_state_come_back() {
        let (table, queue) = table(60_000);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let request = reap_one(&queue);
                assert_eq!((request.code, request.value, request.buffer_bytes), (2, 7, 16));
                // SAFETY: the request's buffer has 16 bytes.
                unsafe { request.buffer.cast::<u64>().add(1).write(5) };
                let refused = table.complete(request.id, 0, b"x").unwrap_err();
                assert_eq!(refused.status, Status::InvalidArgument);
                table.complete(request.id, 0, &[]).unwrap();
                table.complete(reap_one(&queue).id, 0, b"state").unwrap();
                table.complete(reap_one(&queue).id, -7, &[]).unwrap();
            });
            let mut log = [0; 2];
            table.ask("vm", Call::FetchDirty(7, &mut log)).unwrap();
            assert_eq!(log, [0, 5]);
            let mut state = Vec::new();
            table.ask("vm", Call::SaveDeviceState(&mut state)).unwrap();
            assert_eq!(state, b"state");
            let error = table.ask("vm", Call::Pause).unwrap_err();
            assert_eq!((error.call, error.code), ("pause", -7));
        });
        assert!(table.lock().open.is_empty());
    }

    #[test]
    fn an_unanswered_request_fails_by_name_and_its_late_answer_is_told() {
        let (table, queue) = table(1);
        let error = table.ask("vm", Call::Pause).unwrap_err();
        assert!(error.text.contains("not answered within 1 ms"), "{error}");
        assert_eq!(queue.reap(9, |_, _| ()), 0, "it was withdrawn");
        std::thread::scope(|scope| {
            let reaped = scope.spawn(|| reap_one(&queue).id);
            while !reaped.is_finished() {
                let _ = table.ask("vm", Call::Pause);
            }
            let id = reaped.join().unwrap();
            assert_eq!(table.complete(id, 0, &[]).unwrap_err().status, Status::Timeout);
            assert_eq!(table.complete(id, 0, &[]).unwrap_err().status, Status::NotFound);
        });
    }

    #[test]
    fn closing_fails_what_is_open_and_what_comes() {
        let (table, _queue) = table(60_000);
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| table.ask("vm", Call::Resume));
            while table.lock().open.is_empty() {
                std::thread::yield_now();
            }
            table.close();
            let code = asking.join().unwrap().unwrap_err().code;
            assert_eq!(code, i64::from(Status::Stopped.code()));
        });
        assert!(table.ask("vm", Call::Resume).unwrap_err().text.contains("being stopped"));
    }
}

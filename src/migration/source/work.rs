//! What streams are told to do, and the page chunks that they carry.

use super::{Action, ChunkPlan, Commitment, Flight, KEEP_ALIVE, MAX_UNDER_WAY_BYTES, Source, Work};
use crate::base::limits::{MAX_CONTROL_BYTES, MAX_STREAM_CHUNKS};
use crate::base::{ChunkId, StreamId, Time};
use crate::migration::plan::Run;
use crate::migration::{Failure, Phase, stream_ended};
use crate::observe::EventKind;
use crate::wire::Control;
use crate::wire::frame::HEADER_BYTES;

impl Source {
    /// The destination is there, and a connection to it is being prepared, which may take long.
    pub fn set_up_begins(&mut self) {
        self.setting_up += 1;
    }

    /// That is over, well or not.
    pub fn set_up_ends(&mut self, now: Time) {
        self.setting_up = self.setting_up.saturating_sub(1);
        if let Some(since) = &mut self.without_streams_since {
            *since = now;
        }
    }

    /// A stream finished its handshake.
    pub fn stream_up(&mut self, stream: StreamId, peer: &str, now: Time) {
        self.session.stream_up(stream, now);
        self.streams_seen += 1;
        self.reconnects += u32::from(self.reconnects < self.streams_lost);
        if self.without_streams_since.take().is_some() {
            self.bandwidth.on_outage(now);
        }
        self.last_stream_up = now;
        self.events.push_back(EventKind::StreamUp { stream: stream.0, peer: peer.to_string() });
        self.start_log_once();
    }

    /// A stream is lost, and nobody uses it any more. Its chunks are fenced off at the peer
    /// before their pages are sent again.
    pub fn stream_down(&mut self, stream: StreamId, reason: &str, now: Time) {
        if !self.session.is_up(stream) {
            return;
        }
        let has_left = self.session.has_left(stream);
        self.session.stream_down(stream);
        self.streams_lost += u32::from(!has_left);
        if self.session.stream_count() == 0 {
            self.without_streams_since = Some(now);
        }
        if !self.finish_asked {
            // Also where nothing was under way: the destination remembers what came until it is asked.
            // Of a stream that has said goodbye it remembers nothing.
            if !has_left {
                self.session.send(&Control::Fence { stream });
            }
            self.events.push_back(stream_ended(stream, has_left, reason));
        }
    }

    /// Has a stream end once nothing is under way on it, or stay after all. It is not lost then.
    pub fn set_retiring(&mut self, stream: StreamId, retiring: bool) {
        self.session.set_retiring(stream, retiring);
    }

    /// A connection could not be made; kept for the text of a failure.
    pub fn connect_failed(&mut self, reason: &str) {
        self.last_connect_error = reason.to_string();
    }

    /// The next thing for this stream to do.
    pub fn next_work(&mut self, stream: StreamId, now: Time) -> Work {
        if self.session.is_worn(stream) {
            return Work::Close;
        }
        if self.session.is_retiring(stream) {
            return self.last_work(stream, now);
        }
        if let Some(frame) = self.session.next_frame(stream, now) {
            self.counts.add_bytes((HEADER_BYTES + frame.payload.len()) as u64);
            return Work::Frame(frame);
        }
        if !self.session.is_up(stream) || self.is_over() && self.session.all_acknowledged() {
            return Work::Close;
        }
        if self.is_over() {
            // A connection closed with unread bytes is reset, and takes the last words with it.
            return Work::Wait(now + KEEP_ALIVE);
        }
        if self.finish_asked {
            // Whoever has the guest's memory may be letting go of it at this moment.
            return self.keep_alive(stream, now + KEEP_ALIVE, now);
        }
        if self.post_copy.has_switched() {
            return self.post_copy_work(stream, now);
        }
        let ready_at = self.pacer.ready_at(now);
        if ready_at > now && self.may_send_pages(stream) {
            self.was_held_back = true;
            return Work::Wait(ready_at.min(now + KEEP_ALIVE));
        }
        if let Some(plan) = self.next_chunk(stream, now) {
            return Work::Chunk(plan);
        }
        self.keep_alive(stream, now + KEEP_ALIVE, now)
    }

    /// There is nothing to send before `until`.
    pub(super) fn keep_alive(&mut self, stream: StreamId, until: Time, now: Time) -> Work {
        match self.session.keep_alive(stream, KEEP_ALIVE, now) {
            Some(frame) => Work::Frame(frame),
            None => Work::Wait(until),
        }
    }

    /// What a stream that retires has left to do: wait for what it carries.
    fn last_work(&mut self, stream: StreamId, now: Time) -> Work {
        let last = match self.flights.values().any(|flight| flight.stream == stream) {
            true => self.session.keep_alive(stream, KEEP_ALIVE, now),
            false => match self.session.goodbye(stream) {
                None => return Work::Close,
                goodbye => goodbye,
            },
        };
        last.map_or(Work::Wait(now + KEEP_ALIVE), Work::Frame)
    }

    /// A chunk was encoded and is about to be sent: `wire_bytes` with its frame header.
    pub fn chunk_encoded(
        &mut self,
        id: ChunkId,
        zero_pages: u64,
        full_pages: u64,
        wire_bytes: u64,
        now: Time,
    ) {
        let Some(flight) = self.flights.get_mut(&id) else { return };
        flight.encoded = Some((wire_bytes, now));
        self.being_encoded -= 1;
        self.under_way_wire_bytes += wire_bytes;
        self.counts.add_chunk(zero_pages, full_pages, wire_bytes);
        self.pacer.charge(wire_bytes, now);
        self.post_copy.pace.charge(wire_bytes, now);
        self.bandwidth.on_sent(wire_bytes, now);
        self.advance(now);
    }

    /// Of a chunk that was encoded the destination reads so many bytes by RDMA.
    pub fn chunk_announced(&mut self, id: ChunkId, read_bytes: u64) {
        if let Some(flight) = self.flights.get_mut(&id) {
            flight.read_bytes = read_bytes;
        }
    }

    /// Whether the guest stands still and everything that it wrote is known.
    pub fn is_still(&self) -> bool {
        self.final_log_merged
    }

    /// The guest's pages could not be read.
    pub fn chunk_failed(&mut self, id: ChunkId, failure: Failure, now: Time) {
        // Off the books, so that a later fence does not settle it again.
        self.settle_chunk(id, false, now);
        self.hold_back_after(&failure, now);
        self.fail(failure, now);
    }

    /// Whether pages may go out now, the pacer aside.
    fn may_send_pages(&self, stream: StreamId) -> bool {
        self.failure.is_none()
            && !self.post_copy.holds_pages()
            && (!self.finalize_sent || self.resend_after_finalize)
            && (Phase::Precopy..=Phase::Verify).contains(&self.clock.phase())
            && self.plan.pending() > 0
            && self.has_room(stream)
    }

    /// Whether another chunk may be under way on this stream.
    pub(super) fn has_room(&self, stream: StreamId) -> bool {
        let page_bytes = u64::from(self.setup.layout.page_bytes());
        let on_stream = || self.flights.values().filter(|f| f.stream == stream).count();
        self.under_way_pages * page_bytes < MAX_UNDER_WAY_BYTES
            && (self.flights.len() < MAX_STREAM_CHUNKS || on_stream() < MAX_STREAM_CHUNKS)
    }

    fn next_chunk(&mut self, stream: StreamId, now: Time) -> Option<ChunkPlan> {
        if !self.may_send_pages(stream) {
            return None;
        }
        let runs = self.plan.take(self.chunk_pages);
        if runs.is_empty() {
            return None;
        }
        let plan = self.take_off(stream, runs, now);
        self.maybe_fetch(now);
        Some(plan)
    }

    /// Puts pages on the books as under way.
    pub(super) fn take_off(&mut self, stream: StreamId, runs: Vec<Run>, now: Time) -> ChunkPlan {
        self.begin_waiting(now);
        let id = ChunkId(self.next_chunk);
        self.next_chunk += 1;
        let pages = runs.iter().map(|run| u64::from(run.pages)).sum();
        self.under_way_pages += pages;
        self.being_encoded += 1;
        let flight = Flight { stream, runs: runs.clone(), pages, read_bytes: 0, encoded: None };
        self.flights.insert(id, flight);
        ChunkPlan { id, runs }
    }

    /// Takes a chunk off the books; its pages are done or to be sent again.
    pub(super) fn settle_chunk(&mut self, id: ChunkId, arrived: bool, now: Time) -> bool {
        let Some(flight) = self.flights.remove(&id) else { return false };
        self.under_way_pages -= flight.pages;
        match flight.encoded {
            Some((wire_bytes, sent_at)) => {
                self.under_way_wire_bytes -= wire_bytes;
                if arrived {
                    self.bandwidth.on_acked(wire_bytes, now - sent_at, now);
                    self.note_round_trip(wire_bytes, now - sent_at, now);
                } else {
                    self.bandwidth.on_lost(wire_bytes, now);
                }
            }
            None => self.being_encoded -= 1,
        }
        if arrived {
            self.counts.add_rdma(flight.read_bytes);
            self.plan.arrived(&flight.runs);
        } else {
            self.plan.lost(&flight.runs);
        }
        self.post_copy.settled(&flight.runs, arrived, now);
        true
    }

    /// The chunks that a lost stream still holds.
    pub(super) fn chunks_of(&self, stream: StreamId) -> Vec<ChunkId> {
        let on_stream =
            |(id, flight): (&ChunkId, &Flight)| (flight.stream == stream).then_some(*id);
        let mut chunks: Vec<_> = self.flights.iter().filter_map(on_stream).collect();
        chunks.sort_unstable();
        chunks
    }

    /// Queues as much device state as the control window takes.
    pub(super) fn queue_device_state(&mut self) {
        const PIECE_BYTES: usize = MAX_CONTROL_BYTES / 2;
        let Some(state) = &self.device_state else { return };
        while self.device_state_queued < state.len() && self.session.has_room() {
            let end = state.len().min(self.device_state_queued + PIECE_BYTES);
            let bytes = state[self.device_state_queued..end].to_vec();
            let offset_bytes = self.device_state_queued as u64;
            self.session.send(&Control::DeviceState { offset_bytes, bytes });
            self.device_state_queued = end;
        }
    }

    /// Starts the dirty log when the first stream is up and the record is on disk.
    pub(super) fn start_log_once(&mut self) {
        let ready = self.streams_seen > 0 && self.recorded_start && !self.log_started;
        if ready && self.failure.is_none() && self.commitment == Commitment::Ours {
            self.log_started = true;
            self.actions.push_back(Action::StartDirtyLog);
        }
    }
}

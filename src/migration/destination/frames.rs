//! What the source sends: streams, chunks, control messages.

use super::{Action, Commitment, Destination, Promise};
use crate::Status;
use crate::base::limits::{MAX_DEVICE_STATE_BYTES, MAX_STREAM_CHUNKS};
use crate::base::{StreamId, Time};
use crate::migration::{Failure, Phase, stream_ended};
use crate::observe::EventKind;
use crate::transport::SessionError;
use crate::wire::{ChunkHeader, Control, ExtentKind, Frame, FrameKind};

/// A chunk that the source may not send.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// The image is complete, or the migration is over.
    #[error("chunk {0} after the image was complete or the migration over")]
    NotReceiving(u64),
    /// A page number past the guest's end.
    #[error("chunk {chunk} names page {page}; the guest has {pages}")]
    NoSuchPage {
        /// The chunk.
        chunk: u64,
        /// The page.
        page: u64,
        /// The guest's size.
        pages: u64,
    },
    /// Two chunks with the same page at the same time.
    #[error("chunk {chunk} names page {page}, which another chunk is writing")]
    PageInUse {
        /// The chunk.
        chunk: u64,
        /// The page.
        page: u64,
    },
    /// The stream was fenced off.
    #[error("chunk {0} on a stream that is closed")]
    StreamClosed(u64),
}

impl Destination {
    /// The source is there, and a connection to it is being prepared, which may take long.
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
        self.session.stream_answered(stream, now);
        self.streams.insert(stream, super::StreamRecord::default());
        self.streams_seen += 1;
        self.without_streams_since = None;
        self.events.push_back(EventKind::StreamUp { stream: stream.0, peer: peer.to_string() });
    }

    /// A stream is closed, and nobody uses it any more.
    pub fn stream_down(&mut self, stream: StreamId, reason: &str, now: Time) {
        if !self.session.is_up(stream) {
            return;
        }
        let has_left = self.session.has_left(stream);
        self.session.stream_down(stream);
        if self.session.stream_count() == 0 {
            self.without_streams_since = Some(now);
        }
        self.ask_again(stream);
        if !self.finish_asked {
            self.events.push_back(stream_ended(stream, has_left, reason));
        }
        if has_left {
            // All that it carried is acknowledged, so nobody will ask what that was.
            self.streams.remove(&stream);
        }
        match self.streams.get(&stream) {
            Some(record) if record.fence_asked => self.answer_fence(stream),
            // Nothing to be remembered until the source asks.
            Some(record) if record.arrived.is_empty() => drop(self.streams.remove(&stream)),
            _ => {}
        }
    }

    /// Claims the pages of a chunk, so that no other chunk writes them meanwhile.
    ///
    /// # Errors
    /// [`ChunkError`]: the stream is to be closed.
    pub fn begin_chunk(
        &mut self,
        stream: StreamId,
        header: &ChunkHeader,
    ) -> Result<(), ChunkError> {
        let chunk = header.id.0;
        let is_due = self.commitment == Commitment::Receiving && !self.post_copy.has_switched()
            || self.post_copy.is_open();
        if !is_due || self.finish_asked {
            return Err(ChunkError::NotReceiving(chunk));
        }
        if self.streams.get(&stream).is_none_or(|record| record.fence_asked) {
            return Err(ChunkError::StreamClosed(chunk));
        }
        let pages = self.setup.layout.page_count();
        if let Some(extent) = header.extents.iter().find(|extent| extent.range().end > pages) {
            return Err(ChunkError::NoSuchPage { chunk, page: extent.range().end - 1, pages });
        }
        for (index, extent) in header.extents.iter().enumerate() {
            for page in extent.range() {
                if self.claimed.contains(page) {
                    self.unclaim(header, index, page);
                    return Err(ChunkError::PageInUse { chunk, page });
                }
                self.claimed.insert(page);
            }
        }
        self.storing += 1;
        Ok(())
    }

    /// A claimed chunk was stored, or came damaged, or its stream broke (`whole` none).
    pub fn end_chunk(
        &mut self,
        stream: StreamId,
        header: &ChunkHeader,
        whole: Option<bool>,
        now: Time,
    ) {
        self.storing -= 1;
        header.extents.iter().flat_map(|e| e.range()).for_each(|page| self.claimed.remove(page));
        self.session.heard(stream, now);
        let Some(whole) = whole else { return };
        self.session.acknowledge(stream, header.id, whole);
        if whole {
            self.count(header);
            self.on_placed(header, now);
            if let Some(record) = self.streams.get_mut(&stream) {
                record.arrived.push_back(header.id);
                if record.arrived.len() > MAX_STREAM_CHUNKS {
                    record.arrived.pop_front();
                }
            }
        } else {
            self.events.push_back(EventKind::ChunkDamaged { chunk: header.id.0 });
        }
        self.try_load(now);
        self.try_complete();
    }

    /// Takes in a frame that arrived on a stream; chunks go by [`Self::begin_chunk`].
    ///
    /// # Errors
    /// The source broke the protocol: the stream is to be closed.
    pub fn frame(
        &mut self,
        stream: StreamId,
        frame: &Frame,
        now: Time,
    ) -> Result<(), SessionError> {
        if !self.session.is_up(stream) {
            return Ok(());
        }
        self.session.heard(stream, now);
        self.counts.add_bytes((crate::wire::frame::HEADER_BYTES + frame.payload.len()) as u64);
        match frame.kind {
            FrameKind::ControlAck => self.session.on_control_ack(&frame.payload)?,
            FrameKind::Control => {
                for message in self.session.on_control(&frame.payload)? {
                    self.on_message(message, now);
                }
            }
            FrameKind::Ping => {}
            FrameKind::Goodbye => self.session.on_goodbye(stream),
            kind => {
                let text = format!("unexpected {kind:?} frame from the source");
                self.fail(Failure::new(Status::UnexpectedMessage, text));
            }
        }
        Ok(())
    }

    /// The driver could not write what came: the image is of no use.
    pub fn store_failed(&mut self, failure: Failure) {
        self.fail(failure);
    }

    fn on_message(&mut self, message: Control, now: Time) {
        match message {
            Control::Fence { stream } => self.on_fence(stream),
            Control::DeviceState { offset_bytes, bytes } => {
                self.on_device_state(offset_bytes, &bytes, now);
            }
            Control::Finalize { digest, device_state_bytes, device_state_crc } => {
                self.on_finalize(Promise { digest, device_state_bytes, device_state_crc }, now);
            }
            Control::AllArrived => {
                self.all_arrived = true;
                self.try_load(now);
            }
            Control::Missing { first_page, codec, bytes } => {
                self.on_missing(first_page, codec, &bytes);
            }
            Control::Switch { digest, missing_pages, device_state_bytes, device_state_crc } => {
                let promise = Promise { digest, device_state_bytes, device_state_crc };
                self.on_switch(promise, missing_pages, now);
            }
            Control::Whole { digest } if self.post_copy.is_open() => self.on_whole(digest),
            Control::Abandon { reason } if self.waits_for_pages() => {
                self.lose(&format!("given up at the source: {reason}"));
            }
            Control::Abandon { .. } if self.awaits_proof() => {
                self.end_unproven("the source was given up");
            }
            Control::Commit => self.on_commit(),
            Control::Abort { status, reason } => self.on_abort(status, &reason),
            other => {
                let text = format!("unexpected message from the source: {other:?}");
                self.fail(Failure::new(Status::UnexpectedMessage, text));
            }
        }
    }

    fn on_finalize(&mut self, promise: Promise, now: Time) {
        // Control messages come in order, so the device state is complete now or never.
        let (promised, have) = (promise.device_state_bytes, self.device_state.len());
        if self.promise.is_some() || self.post_copy.has_switched() || promised != have as u64 {
            let text =
                format!("source promises a device state of {promised} bytes, but {have} came");
            return self.fail(Failure::new(Status::UnexpectedMessage, text));
        }
        self.promise = Some(promise);
        self.stopped_at.get_or_insert(now);
        self.try_load(now);
    }

    fn on_device_state(&mut self, offset_bytes: u64, bytes: &[u8], now: Time) {
        let have = self.device_state.len();
        if self.commitment != Commitment::Receiving || self.promise.is_some() {
            let text = "device state after it was complete";
            return self.fail(Failure::new(Status::UnexpectedMessage, text));
        }
        if offset_bytes != have as u64 {
            let text = format!("device state at {offset_bytes} where {have} is due");
            return self.fail(Failure::new(Status::UnexpectedMessage, text));
        }
        if have + bytes.len() > MAX_DEVICE_STATE_BYTES {
            let text = format!("device state is over {MAX_DEVICE_STATE_BYTES} bytes");
            return self.fail(Failure::new(Status::LimitReached, text));
        }
        if have == 0 {
            self.stopped_at.get_or_insert(now);
            self.enter(Phase::DeviceState, now);
        }
        self.device_state.extend_from_slice(bytes);
    }

    fn on_fence(&mut self, stream: StreamId) {
        if self.session.is_up(stream) {
            if let Some(record) = self.streams.get_mut(&stream) {
                record.fence_asked = true;
            }
            self.actions.push_front(Action::CloseStream(stream));
        } else {
            self.answer_fence(stream);
        }
    }

    fn answer_fence(&mut self, stream: StreamId) {
        let record = self.streams.remove(&stream).unwrap_or_default();
        let arrived = record.arrived.into_iter().collect();
        self.session.send(&Control::Fenced { stream, arrived });
    }

    fn count(&mut self, header: &ChunkHeader) {
        let bytes = crate::wire::frame::HEADER_BYTES + header.encoded_bytes();
        self.counts.add_chunk(
            header.pages(ExtentKind::Zero),
            header.pages(ExtentKind::Data),
            bytes as u64 + u64::from(header.payload_bytes) + header.read_bytes(),
        );
        self.counts.add_rdma(header.read_bytes());
    }

    /// Gives back what a refused chunk had claimed up to `page` of extent `index`.
    fn unclaim(&mut self, header: &ChunkHeader, index: usize, page: u64) {
        let before = header.extents[..index].iter().flat_map(|extent| extent.range());
        let within = header.extents[index].range().take_while(|taken| *taken < page);
        before.chain(within).for_each(|taken| self.claimed.remove(taken));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{MemoryLayout, MigrationId, RegionLayout};
    use crate::encoding::ImageDigest;
    use crate::migration::destination::DestinationSetup;
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn streams_that_come_and_go_leave_room_for_others() {
        let region = RegionLayout { name: "ram".into(), guest_address: 0, length_bytes: 8192 };
        let setup = DestinationSetup {
            id: MigrationId([1; 16]),
            guest: "vm".into(),
            layout: MemoryLayout::new(4096, vec![region]).unwrap(),
            reconnect_timeout: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(60),
            post_copy: true,
        };
        let mut destination = Destination::new(setup, Arc::new(ImageDigest::new(2)), Time(1));
        for number in 0..1_000 {
            let stream = StreamId(number);
            assert!(destination.may_join(stream), "stream {number} finds no room");
            destination.stream_up(stream, "source", Time(1));
            destination.stream_down(stream, "broken", Time(1));
        }
    }
}

//! What both ends of a migration share: which streams are up, and control messages that are
//! delivered once and in order whichever streams die.
//!
//! A control message goes out on any stream that asks for a frame. It stays in the outbox until
//! the peer's cumulative acknowledgement covers it; when the stream that carried it dies, it goes
//! out again on another. The receiver drops what it has seen and holds back what is early.

use crate::base::limits::MAX_UNACKED_CONTROL;
use crate::base::{ChunkId, StreamId, Time};
use crate::wire::cursor::Reader;
use crate::wire::{ChunkAck, Control, Frame, FrameKind, WireError};
use std::collections::{BTreeMap, VecDeque};

/// The peer broke a rule of the session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// A payload does not decode.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A control message far beyond what was acknowledged.
    #[error("control message {found} is beyond the window that starts at {expected}")]
    BeyondWindow {
        /// Its number.
        found: u64,
        /// The next one due.
        expected: u64,
    },
    /// An acknowledgement of something never sent.
    #[error("acknowledgement of control message {0}, which was never sent")]
    NeverSent(u64),
}

/// One end of a session.
#[derive(Debug, Default)]
pub struct Session {
    streams: BTreeMap<StreamId, Stream>,
    outbox: VecDeque<Outgoing>,
    next_sequence: u64,
    expected: u64,
    early: BTreeMap<u64, Control>,
    control_ack_due: bool,
    worn_at: Option<Time>,
}

#[derive(Debug, Default)]
struct Stream {
    ack: ChunkAck,
    last_heard: Time,
    last_sent: Time,
    leave: Leave,
    opening: Opening,
}

/// What the handshake has left to be said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Opening {
    #[default]
    Done,
    /// The answer has come, which the end that gave it has yet to hear.
    Greets,
    /// The answer is out, and nothing tells that it has arrived.
    Unheard,
}

/// Whether a stream is to end although nothing is wrong with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Leave {
    #[default]
    Stays,
    /// It carries nothing new, and ends when nothing more is under way on it.
    Retiring,
    /// Its last frame is out, or has come.
    Left,
    /// It may hold something that will never be whole, and ends as it is.
    Worn,
}

#[derive(Debug)]
struct Outgoing {
    sequence: u64,
    payload: Vec<u8>,
    carried_by: Option<StreamId>,
}

impl Session {
    /// The handshake of a stream that was dialed here is finished.
    pub fn stream_up(&mut self, stream: StreamId, now: Time) {
        self.insert(stream, Opening::Greets, now);
    }

    /// The handshake of a stream that the peer dialed is answered. The stream carries nothing until
    /// the peer says something on it: where the answer is lost, the peer waits for it and has no
    /// stream whose end it could tell of, so nobody would ever miss what went the same way.
    pub fn stream_answered(&mut self, stream: StreamId, now: Time) {
        self.insert(stream, Opening::Unheard, now);
    }

    fn insert(&mut self, stream: StreamId, opening: Opening, now: Time) {
        let fresh = Stream { last_heard: now, last_sent: now, opening, ..Stream::default() };
        self.streams.insert(stream, fresh);
        self.control_ack_due |= self.expected > 0;
    }

    /// A stream is gone; what it carried and is not acknowledged goes out again.
    pub fn stream_down(&mut self, stream: StreamId) {
        self.streams.remove(&stream);
        for outgoing in &mut self.outbox {
            if outgoing.carried_by == Some(stream) {
                outgoing.carried_by = None;
            }
        }
        self.control_ack_due |= self.expected > 0;
    }

    /// Has a stream end once nothing is under way on it, or stay after all.
    pub fn set_retiring(&mut self, id: StreamId, retiring: bool) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !matches!(stream.leave, Leave::Left | Leave::Worn)
        {
            stream.leave = if retiring { Leave::Retiring } else { Leave::Stays };
        }
    }

    /// Whether the stream is to carry nothing new. The last one goes on until another is up.
    pub fn is_retiring(&self, id: StreamId) -> bool {
        let others = || self.streams.iter().any(|(other, stream)| *other != id && stream.stays());
        self.streams.get(&id).is_some_and(|stream| match stream.leave {
            Leave::Stays => false,
            Leave::Retiring => others(),
            Leave::Left | Leave::Worn => true,
        })
    }

    /// The last frame of a stream, once.
    pub fn goodbye(&mut self, id: StreamId) -> Option<Frame> {
        let stream = self.streams.get_mut(&id).filter(|stream| stream.leave != Leave::Left)?;
        stream.leave = Leave::Left;
        Some(Frame { kind: FrameKind::Goodbye, payload: Vec::new() })
    }

    /// The peer has said that nothing more comes on this stream.
    pub fn on_goodbye(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.leave = Leave::Left;
        }
    }

    /// Whether the stream's end is a good one.
    pub fn has_left(&self, id: StreamId) -> bool {
        self.streams.get(&id).is_some_and(|stream| stream.leave == Leave::Left)
    }

    /// Ends all streams as they are, so that others take their places and what they carried goes out
    /// again; once until there is progress again. A length that is damaged on the way leaves the other
    /// end waiting for the rest of something that has no rest, and nothing else ever tells of it.
    pub fn wear_out(&mut self, last_progress: Time, now: Time) {
        if self.worn_at.is_some_and(|at| at > last_progress) {
            return;
        }
        self.worn_at = Some(now);
        self.streams.values_mut().for_each(|stream| stream.leave = Leave::Worn);
    }

    /// Whether the stream is to end as it is.
    pub fn is_worn(&self, id: StreamId) -> bool {
        self.streams.get(&id).is_some_and(|stream| stream.leave == Leave::Worn)
    }

    /// Whether the stream may carry something to the peer.
    pub fn is_open(&self, id: StreamId) -> bool {
        self.streams.get(&id).is_some_and(|stream| stream.opening != Opening::Unheard)
    }

    /// Whether the stream is up.
    pub fn is_up(&self, stream: StreamId) -> bool {
        self.streams.contains_key(&stream)
    }

    /// The streams that are up.
    pub fn streams(&self) -> impl Iterator<Item = StreamId> + '_ {
        self.streams.keys().copied()
    }

    /// How many streams are up.
    pub fn stream_count(&self) -> usize {
        self.streams.len()
    }

    /// When the peer was last heard on any stream.
    pub fn last_heard(&self) -> Option<Time> {
        self.streams.values().map(|stream| stream.last_heard).max()
    }

    /// Whether the window has room for another message. Messages that a state machine sends once
    /// may go over it; bulk (device state) must wait.
    pub fn has_room(&self) -> bool {
        self.outbox.len() < MAX_UNACKED_CONTROL / 2
    }

    /// Whether every message sent has been acknowledged.
    pub fn all_acknowledged(&self) -> bool {
        self.outbox.is_empty()
    }

    /// Queues a control message.
    pub fn send(&mut self, message: &Control) {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let payload = message.encode(sequence);
        self.outbox.push_back(Outgoing { sequence, payload, carried_by: None });
    }

    /// Queues the acknowledgement of a chunk on the stream that brought it, if it is still up.
    pub fn acknowledge(&mut self, stream: StreamId, chunk: ChunkId, whole: bool) {
        let Some(stream) = self.streams.get_mut(&stream) else { return };
        let list = if whole { &mut stream.ack.arrived } else { &mut stream.ack.damaged };
        list.push(chunk);
    }

    /// Chunk acknowledgements waiting on a stream.
    pub fn waiting_acks(&self, stream: StreamId) -> usize {
        self.streams.get(&stream).map_or(0, |s| s.ack.arrived.len() + s.ack.damaged.len())
    }

    /// Whether a frame other than a chunk acknowledgement waits, and a stream is there to carry it.
    pub fn has_control(&self) -> bool {
        let waits = || self.outbox.iter().any(|outgoing| outgoing.carried_by.is_none());
        self.has_open_stream() && (self.control_ack_due || waits())
    }

    /// Whether any stream may carry something to the peer.
    pub fn has_open_stream(&self) -> bool {
        self.streams.keys().any(|stream| self.is_open(*stream))
    }

    /// The next frame to go out on this stream, if any.
    pub fn next_frame(&mut self, id: StreamId, now: Time) -> Option<Frame> {
        if self.is_retiring(id) || !self.is_open(id) {
            return None;
        }
        let stream = self.streams.get_mut(&id)?;
        let greets = std::mem::take(&mut stream.opening) == Opening::Greets;
        let frame = if self.control_ack_due {
            self.control_ack_due = false;
            Frame { kind: FrameKind::ControlAck, payload: self.expected.to_le_bytes().to_vec() }
        } else if let Some(outgoing) = self.outbox.iter_mut().find(|o| o.carried_by.is_none()) {
            outgoing.carried_by = Some(id);
            Frame { kind: FrameKind::Control, payload: outgoing.payload.clone() }
        } else if !stream.ack.arrived.is_empty() || !stream.ack.damaged.is_empty() {
            let payload = std::mem::take(&mut stream.ack).encode();
            Frame { kind: FrameKind::ChunkAck, payload }
        } else if greets {
            Frame { kind: FrameKind::Ping, payload: Vec::new() }
        } else {
            return None;
        };
        stream.last_sent = now;
        Some(frame)
    }

    /// A ping, if nothing has gone out on this stream for `interval`.
    pub fn keep_alive(
        &mut self,
        id: StreamId,
        interval: std::time::Duration,
        now: Time,
    ) -> Option<Frame> {
        let stream = self.streams.get_mut(&id)?;
        (now.since(stream.last_sent) >= interval).then(|| {
            stream.last_sent = now;
            Frame { kind: FrameKind::Ping, payload: Vec::new() }
        })
    }

    /// Notes that the peer was heard.
    pub fn heard(&mut self, stream: StreamId, now: Time) {
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.last_heard = now;
            if stream.opening == Opening::Unheard {
                stream.opening = Opening::Done;
            }
        }
    }

    /// Takes in a control frame; returns the messages that are due now, in order.
    ///
    /// # Errors
    /// A payload that does not decode, or a number beyond the window.
    pub fn on_control(&mut self, payload: &[u8]) -> Result<Vec<Control>, SessionError> {
        let (sequence, message) = Control::decode(payload)?;
        self.control_ack_due = true;
        if sequence < self.expected {
            return Ok(Vec::new());
        }
        if sequence - self.expected > 2 * MAX_UNACKED_CONTROL as u64 {
            let expected = self.expected;
            return Err(SessionError::BeyondWindow { found: sequence, expected });
        }
        self.early.insert(sequence, message);
        let mut due = Vec::new();
        while let Some(message) = self.early.remove(&self.expected) {
            self.expected += 1;
            due.push(message);
        }
        Ok(due)
    }

    /// Takes in the peer's count of messages that arrived.
    ///
    /// # Errors
    /// A payload that does not decode, or a count beyond what was sent.
    pub fn on_control_ack(&mut self, payload: &[u8]) -> Result<(), SessionError> {
        let arrived = Reader::new(payload).u64("control acknowledgement")?;
        if arrived > self.next_sequence {
            return Err(SessionError::NeverSent(arrived));
        }
        while self.outbox.front().is_some_and(|outgoing| outgoing.sequence < arrived) {
            self.outbox.pop_front();
        }
        Ok(())
    }
}

impl Stream {
    fn stays(&self) -> bool {
        self.leave == Leave::Stays
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: StreamId = StreamId(1);
    const B: StreamId = StreamId(2);

    fn pair() -> (Session, Session) {
        let mut sessions = (Session::default(), Session::default());
        for stream in [A, B] {
            sessions.0.stream_up(stream, Time(0));
            sessions.1.stream_answered(stream, Time(0));
            let greeting = sessions.0.next_frame(stream, Time(0)).unwrap();
            assert_eq!(greeting.kind, FrameKind::Ping);
            sessions.1.heard(stream, Time(0));
        }
        sessions
    }

    fn deliver(to: &mut Session, frame: Frame) -> Vec<Control> {
        match frame.kind {
            FrameKind::Control => to.on_control(&frame.payload).unwrap(),
            FrameKind::ControlAck => {
                to.on_control_ack(&frame.payload).unwrap();
                Vec::new()
            }
            kind => panic!("{kind:?}"),
        }
    }

    #[test]
    fn a_stream_whose_answer_may_be_lost_carries_nothing() {
        let mut session = Session::default();
        session.stream_answered(A, Time(0));
        session.send(&Control::AllArrived);
        assert!(!session.has_control() && session.next_frame(A, Time(0)).is_none());
        session.stream_answered(B, Time(0));
        session.heard(B, Time(1));
        assert!(session.has_control() && session.next_frame(A, Time(1)).is_none());
        assert_eq!(session.next_frame(B, Time(1)).unwrap().kind, FrameKind::Control);
        assert!(!session.has_control());
    }

    #[test]
    fn order_is_kept_over_streams_that_overtake_each_other() {
        let (mut left, mut right) = pair();
        left.send(&Control::AllArrived);
        left.send(&Control::Commit);
        let first = left.next_frame(A, Time(0)).unwrap();
        let second = left.next_frame(B, Time(0)).unwrap();
        assert_eq!(deliver(&mut right, second), []);
        assert_eq!(deliver(&mut right, first), [Control::AllArrived, Control::Commit]);
        let ack = right.next_frame(B, Time(0)).unwrap();
        assert_eq!(deliver(&mut left, ack), []);
        assert!(left.all_acknowledged());
    }

    #[test]
    fn a_dead_stream_costs_a_resend_and_nothing_is_delivered_twice() {
        let (mut left, mut right) = pair();
        left.send(&Control::Commit);
        let frame = left.next_frame(A, Time(0)).unwrap();
        assert_eq!(left.next_frame(B, Time(0)), None);
        assert_eq!(deliver(&mut right, frame), [Control::Commit]);
        left.stream_down(A);
        let again = left.next_frame(B, Time(0)).unwrap();
        assert_eq!(deliver(&mut right, again), []);
        assert!(right.has_control());
    }

    #[test]
    fn a_stream_that_retires_carries_nothing_new_and_what_it_carried_is_not_lost() {
        let (mut left, mut right) = pair();
        left.send(&Control::Commit);
        let carried = left.next_frame(A, Time(0)).unwrap();
        left.set_retiring(A, true);
        left.send(&Control::AllArrived);
        assert!(left.is_retiring(A) && left.next_frame(A, Time(0)).is_none());
        assert_eq!(left.goodbye(A).unwrap().kind, FrameKind::Goodbye);
        left.set_retiring(A, false);
        assert!(left.has_left(A) && left.goodbye(A).is_none(), "there is no way back");
        left.stream_down(A);
        right.on_goodbye(A);
        assert!(right.has_left(A));
        assert_eq!(deliver(&mut right, carried), [Control::Commit]);
        let again = left.next_frame(B, Time(0)).unwrap();
        assert_eq!(deliver(&mut right, again), []);
        let news = left.next_frame(B, Time(0)).unwrap();
        assert_eq!(deliver(&mut right, news), [Control::AllArrived]);
    }

    #[test]
    fn the_last_stream_does_not_retire_and_one_that_may_stay_stays() {
        let (mut left, _) = pair();
        left.set_retiring(A, true);
        left.set_retiring(B, true);
        assert!(!left.is_retiring(A) && !left.is_retiring(B));
        left.set_retiring(B, false);
        assert!(left.is_retiring(A) && !left.is_retiring(B));
        left.stream_down(B);
        left.send(&Control::Commit);
        assert!(left.next_frame(A, Time(0)).is_some());
    }

    #[test]
    fn a_peer_that_counts_wrong_is_refused() {
        let (mut left, mut right) = pair();
        let error = left.on_control_ack(&9_u64.to_le_bytes()).unwrap_err();
        assert_eq!(error, SessionError::NeverSent(9));
        let far = Control::Commit.encode(100_000);
        assert!(right.on_control(&far).unwrap_err().to_string().contains("100000"));
    }

    #[test]
    fn acks_ride_on_the_stream_that_brought_the_chunk() {
        let (mut left, _) = pair();
        left.acknowledge(A, ChunkId(3), true);
        left.acknowledge(StreamId(99), ChunkId(4), true);
        assert_eq!(left.next_frame(B, Time(0)), None);
        assert_eq!(left.next_frame(A, Time(0)).unwrap().kind, FrameKind::ChunkAck);
        assert_eq!(left.next_frame(A, Time(0)), None);
    }
}

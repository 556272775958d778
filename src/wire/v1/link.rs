//! A connection between v1 clusters, without the socket: bytes in, events and bytes out.
//!
//! All traffic but one answer goes from the caller to the listener. A session that failed stays failed.

use crate::wire::cursor::WireError;
use crate::wire::v1::federation::{
    Framing, Handshake, HandshakeError, MAX_REPLY_BYTES, Message, MessageHeader, REPLY,
};
use crate::wire::v1::frames::FrameReader;

/// The side that calls, as v1 does.
#[derive(Debug)]
pub struct Caller {
    framing: Framing,
    /// The answer so far; only its beginning and its length matter.
    reply: Vec<u8>,
    failure: Option<LinkError>,
}

/// The side that listens; v1 has none.
#[derive(Debug, Default)]
pub struct Listener {
    announced: Vec<u8>,
    is_open: bool,
    frames: FrameReader,
    failure: Option<LinkError>,
}

/// What came of bytes at a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A cluster announced itself.
    Opened {
        /// As what.
        handshake: Handshake,
        /// To be sent; the caller waits for it.
        reply: Vec<u8>,
    },
    /// It said something.
    Said {
        /// What.
        message: Message,
        /// When, by its clock.
        unix_seconds: u64,
    },
}

/// Why a connection is of no more use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The announcement.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// A message.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The listener does not want us.
    #[error("the v1 cluster answered {0:?}, not \"OK\"")]
    Refused(String),
    /// The listener goes on talking, which v1 never reads.
    #[error("the v1 cluster's answer is over {MAX_REPLY_BYTES} bytes long")]
    ReplyTooLong,
    /// Nothing may be sent yet.
    #[error("the v1 cluster has not answered yet")]
    NotOpen,
    /// The connection ended too early.
    #[error("the v1 cluster hung up within {0}")]
    CutOff(&'static str),
}

impl Caller {
    /// A session, and what to send first.
    ///
    /// # Errors
    /// [`LinkError::Handshake`] for what cannot be announced.
    pub fn open(handshake: &Handshake, framing: Framing) -> Result<(Self, Vec<u8>), LinkError> {
        let bytes = handshake.encode()?;
        Ok((Self { framing, reply: Vec::new(), failure: None }, bytes))
    }

    /// Takes what the listener sent; gives whether messages may be sent now.
    ///
    /// # Errors
    /// [`LinkError`] for a refusal and for an answer that does not end.
    pub fn on_bytes(&mut self, bytes: &[u8]) -> Result<bool, LinkError> {
        self.failure.clone().map_or(Ok(()), Err)?;
        let taken = bytes.len().min(MAX_REPLY_BYTES + 1 - self.reply.len());
        self.reply.extend_from_slice(&bytes[..taken]);
        let known = self.reply.len().min(REPLY.len());
        let failure = if self.reply[..known] != REPLY[..known] {
            LinkError::Refused(String::from_utf8_lossy(&self.reply).into_owned())
        } else if self.reply.len() > MAX_REPLY_BYTES {
            LinkError::ReplyTooLong
        } else {
            return Ok(self.is_open());
        };
        self.failure = Some(failure.clone());
        Err(failure)
    }

    /// A message's bytes.
    ///
    /// # Errors
    /// [`LinkError::NotOpen`] before the answer, the failure after one, and what the message's own
    /// encoder refuses, which leaves the session as it is.
    pub fn send(&self, message: &Message, unix_seconds: u64) -> Result<Vec<u8>, LinkError> {
        self.failure.clone().map_or(Ok(()), Err)?;
        if !self.is_open() {
            return Err(LinkError::NotOpen);
        }
        Ok(message.encode(self.framing, unix_seconds)?)
    }

    /// Whether the listener has said yes.
    pub fn is_open(&self) -> bool {
        self.failure.is_none() && self.reply.starts_with(REPLY)
    }
}

impl Listener {
    /// Takes bytes off the front of `input` up to the next event; none if the input ends first.
    ///
    /// # Errors
    /// [`LinkError`] for what v1 would not write, now and at every later call.
    pub fn on_bytes(&mut self, input: &mut &[u8]) -> Result<Option<Event>, LinkError> {
        self.failure.clone().map_or(Ok(()), Err)?;
        let event = if self.is_open { self.on_message(input) } else { self.on_announcement(input) };
        event.inspect_err(|failure| self.failure = Some(failure.clone()))
    }

    /// The caller hung up.
    ///
    /// # Errors
    /// [`LinkError::CutOff`] if it did so within its announcement or a message.
    pub fn on_end(&self) -> Result<(), LinkError> {
        match (self.is_open, self.frames.is_between_frames()) {
            (false, _) => Err(LinkError::CutOff("its announcement")),
            (true, false) => Err(LinkError::CutOff("a message")),
            (true, true) => Ok(()),
        }
    }

    fn on_announcement(&mut self, input: &mut &[u8]) -> Result<Option<Event>, LinkError> {
        while let Some((byte, rest)) = input.split_first() {
            self.announced.push(*byte);
            *input = rest;
            if Handshake::is_whole(&self.announced)? {
                let handshake = Handshake::decode(&std::mem::take(&mut self.announced))?;
                self.is_open = true;
                return Ok(Some(Event::Opened { handshake, reply: REPLY.to_vec() }));
            }
        }
        Ok(None)
    }

    fn on_message(&mut self, input: &mut &[u8]) -> Result<Option<Event>, LinkError> {
        let Some((header, payload)) = self.frames.next::<MessageHeader>(input)? else {
            return Ok(None);
        };
        let message = header.message(payload)?;
        Ok(Some(Event::Said { message, unix_seconds: header.unix_seconds }))
    }
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;

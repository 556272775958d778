//! Cuts a connection's bytes into frames, however they arrive.
//!
//! Nothing is reserved for a length that was only announced: the buffer grows with what arrived.

use crate::wire::cursor::WireError;

/// The longest payload of any v1 frame that is read. v1 itself has no limit; it writes at most 1 MiB,
/// and more only where it was configured to.
pub const MAX_PAYLOAD_BYTES: u32 = 16 << 20;

/// A frame's header, which announces a payload.
pub trait Header: Sized {
    /// How long the header is, as far as its first bytes tell; never less than what is known.
    fn header_bytes(known: &[u8]) -> usize;

    /// Reads a header of exactly that length.
    ///
    /// # Errors
    /// [`WireError`] for a header that v1 does not write, or a payload over [`MAX_PAYLOAD_BYTES`].
    fn decode(bytes: &[u8]) -> Result<Self, WireError>;

    /// The announced payload.
    fn payload_bytes(&self) -> u32;
}

/// One connection's bytes up to the next whole frame.
#[derive(Debug, Default)]
pub struct FrameReader {
    buffer: Vec<u8>,
}

impl FrameReader {
    /// Takes bytes off the front of `input` until a frame is whole; none if the input ends first.
    ///
    /// # Errors
    /// [`WireError`] from the header, now and at every later call: the connection is of no more use.
    pub fn next<H: Header>(
        &mut self,
        input: &mut &[u8],
    ) -> Result<Option<(H, Vec<u8>)>, WireError> {
        loop {
            let header_bytes = H::header_bytes(&self.buffer);
            if self.buffer.len() < header_bytes {
                if !self.fill(header_bytes, input) {
                    return Ok(None);
                }
                continue;
            }
            let header = H::decode(&self.buffer[..header_bytes])?;
            if !self.fill(header_bytes + header.payload_bytes() as usize, input) {
                return Ok(None);
            }
            let mut payload = std::mem::take(&mut self.buffer);
            payload.drain(..header_bytes);
            return Ok(Some((header, payload)));
        }
    }

    /// Whether the connection may end here.
    pub fn is_between_frames(&self) -> bool {
        self.buffer.is_empty()
    }

    #[cfg(test)]
    pub(super) fn capacity_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    /// Brings the buffer to a length, if the input suffices.
    fn fill(&mut self, length: usize, input: &mut &[u8]) -> bool {
        let missing = length.saturating_sub(self.buffer.len());
        let (taken, rest) = input.split_at(missing.min(input.len()));
        self.buffer.extend_from_slice(taken);
        *input = rest;
        taken.len() == missing
    }
}

/// The length of a payload that v1 would write, and that is read.
pub(super) fn payload_length(what: &'static str, value: u32) -> Result<u32, WireError> {
    if value > MAX_PAYLOAD_BYTES {
        let limit = MAX_PAYLOAD_BYTES.into();
        return Err(WireError::TooLong { what, value: value.into(), limit });
    }
    Ok(value)
}

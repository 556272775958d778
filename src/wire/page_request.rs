//! What the destination asks for in post-copy: pages that its guest waits for.
//!
//! ```text
//! payload: count u32 | page numbers u64
//! ```
//! A request has no number and no answer of its own: the pages come as chunks, as all pages do. One
//! that is lost with its connection is made again, and one for a page that is under way is idle.

use crate::base::limits::MAX_REQUEST_PAGES;
use crate::wire::cursor::{Reader, WireError, put_numbers};

/// Longest payload of a request.
pub const MAX_PAGE_REQUEST_BYTES: u32 = 4 + 8 * MAX_REQUEST_PAGES as u32;

/// Pages to be sent before all others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// Their numbers, in the order in which they are missed.
    pub pages: Vec<u64>,
}

impl PageRequest {
    /// The payload.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4 + 8 * self.pages.len());
        put_numbers(&mut out, &self.pages);
        out
    }

    /// Reads a request for pages of a guest that has `page_count` of them.
    ///
    /// # Errors
    /// Too many, one that the guest does not have, truncation, trailing bytes.
    pub fn decode(bytes: &[u8], page_count: u64) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let pages = reader.numbers("requested pages", MAX_REQUEST_PAGES)?;
        reader.end("page request")?;
        if let Some(value) = pages.iter().copied().find(|page| *page >= page_count) {
            let what = "requested page";
            return Err(WireError::Range { what, value, allowed: "one of the guest's" });
        }
        Ok(Self { pages })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_round_trip_and_no_prefix_decodes() {
        let request = PageRequest { pages: (0..MAX_REQUEST_PAGES as u64).collect() };
        let bytes = request.encode();
        assert_eq!(bytes.len() as u32, MAX_PAGE_REQUEST_BYTES);
        for length in 0..bytes.len() {
            assert!(PageRequest::decode(&bytes[..length], 64).is_err(), "{length}");
        }
        assert_eq!(PageRequest::decode(&bytes, 64), Ok(request));
    }

    #[test]
    fn pages_that_the_guest_lacks_and_floods_are_named() {
        let bytes = PageRequest { pages: vec![3, 64, 2] }.encode();
        let error = PageRequest::decode(&bytes, 64).unwrap_err().to_string();
        assert!(error.contains("requested page is 64"), "{error}");
        let bytes = PageRequest { pages: vec![1; MAX_REQUEST_PAGES + 1] }.encode();
        let error = PageRequest::decode(&bytes, 64).unwrap_err().to_string();
        assert!(error.contains("65"), "{error}");
    }
}

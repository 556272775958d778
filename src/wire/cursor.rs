//! Reading and writing fields with every length checked. They are little-endian; v1's are big-endian
//! and have readers of their own.

/// Bytes from a peer do not follow the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The connection does not begin as this protocol does.
    #[error("magic is {0:02x?}, not \"DWCP\"")]
    Magic([u8; 4]),
    /// Another major version.
    #[error("peer speaks version {major}.{minor}, this library {ours}")]
    Version {
        /// The peer's major version.
        major: u16,
        /// The peer's minor version.
        minor: u16,
        /// Ours.
        ours: &'static str,
    },
    /// The input ends early.
    #[error("{what}: {needed} bytes needed, {left} left")]
    Truncated {
        /// The field.
        what: &'static str,
        /// Bytes it needs.
        needed: usize,
        /// Bytes there are.
        left: usize,
    },
    /// Bytes are left over.
    #[error("{what}: {left} bytes too many")]
    Trailing {
        /// The structure.
        what: &'static str,
        /// Bytes left over.
        left: usize,
    },
    /// A number is out of range.
    #[error("{what} is {value}, allowed is {allowed}")]
    Range {
        /// The field.
        what: &'static str,
        /// Its value.
        value: u64,
        /// What would do.
        allowed: &'static str,
    },
    /// A length is over its limit.
    #[error("{what} is {value} long, the limit is {limit}")]
    TooLong {
        /// The field.
        what: &'static str,
        /// Its length.
        value: u64,
        /// The limit.
        limit: u64,
    },
    /// A checksum does not match.
    #[error("{what}: checksum {found:08x}, expected {expected:08x}")]
    Checksum {
        /// What was summed.
        what: &'static str,
        /// As computed.
        found: u32,
        /// As received.
        expected: u32,
    },
    /// Text that is not UTF-8.
    #[error("{what} is not UTF-8")]
    Text {
        /// The field.
        what: &'static str,
    },
    /// A frame is missing or came twice.
    #[error("frame {found} where {expected} is due")]
    Sequence {
        /// As received.
        found: u64,
        /// The one due.
        expected: u64,
    },
    /// The memory layout is not usable.
    #[error("memory layout: {0}")]
    Layout(#[from] crate::base::LayoutError),
    /// A feature marked critical is not known here.
    #[error("peer requires feature {0}, unknown to this library")]
    UnknownFeature(u16),
}

impl WireError {
    /// The status code of this error.
    pub fn status(&self) -> crate::Status {
        match self {
            WireError::Magic(_) => crate::Status::BadMagic,
            WireError::Version { .. } => crate::Status::BadVersion,
            WireError::UnknownFeature(_) => crate::Status::UnknownFeature,
            WireError::Checksum { .. } => crate::Status::Corrupt,
            _ => crate::Status::BadFrame,
        }
    }
}

/// Takes fields off the front of a slice.
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the front.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Bytes not yet taken.
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// The next `length` bytes.
    ///
    /// # Errors
    /// [`WireError::Truncated`].
    pub fn bytes(&mut self, what: &'static str, length: usize) -> Result<&'a [u8], WireError> {
        let left = self.rest.len();
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(WireError::Truncated {
            what,
            needed: length,
            left,
        })?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next `N` bytes as an array.
    ///
    /// # Errors
    /// [`WireError::Truncated`].
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], WireError> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(what, N)?);
        Ok(array)
    }

    /// The next byte.
    ///
    /// # Errors
    /// [`WireError::Truncated`].
    pub fn u8(&mut self, what: &'static str) -> Result<u8, WireError> {
        Ok(self.array::<1>(what)?[0])
    }

    /// The next two bytes.
    ///
    /// # Errors
    /// [`WireError::Truncated`].
    pub fn u16(&mut self, what: &'static str) -> Result<u16, WireError> {
        self.array(what).map(u16::from_le_bytes)
    }

    /// The next four bytes.
    ///
    /// # Errors
    /// [`WireError::Truncated`].
    pub fn u32(&mut self, what: &'static str) -> Result<u32, WireError> {
        self.array(what).map(u32::from_le_bytes)
    }

    /// The next eight bytes.
    ///
    /// # Errors
    /// [`WireError::Truncated`].
    pub fn u64(&mut self, what: &'static str) -> Result<u64, WireError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// The next four bytes, most significant first.
    ///
    /// # Errors
    /// [`WireError::Truncated`].
    pub fn u32_be(&mut self, what: &'static str) -> Result<u32, WireError> {
        self.array(what).map(u32::from_be_bytes)
    }

    /// The next eight bytes, most significant first.
    ///
    /// # Errors
    /// [`WireError::Truncated`].
    pub fn u64_be(&mut self, what: &'static str) -> Result<u64, WireError> {
        self.array(what).map(u64::from_be_bytes)
    }

    /// A count of four bytes, refused above `limit`.
    ///
    /// # Errors
    /// [`WireError::Truncated`], [`WireError::TooLong`].
    pub fn count(&mut self, what: &'static str, limit: usize) -> Result<usize, WireError> {
        let value = self.u32(what)?;
        if value as usize > limit {
            return Err(WireError::TooLong { what, value: value.into(), limit: limit as u64 });
        }
        Ok(value as usize)
    }

    /// Text behind a count, refused above `limit` bytes.
    ///
    /// # Errors
    /// [`WireError::Truncated`], [`WireError::TooLong`], [`WireError::Text`].
    pub fn text(&mut self, what: &'static str, limit: usize) -> Result<String, WireError> {
        let length = self.count(what, limit)?;
        let bytes = self.bytes(what, length)?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| WireError::Text { what })
    }

    /// Numbers of eight bytes behind a count, refused above `limit`.
    ///
    /// # Errors
    /// [`WireError::Truncated`], [`WireError::TooLong`].
    pub fn numbers(&mut self, what: &'static str, limit: usize) -> Result<Vec<u64>, WireError> {
        let count = self.count(what, limit)?;
        (0..count).map(|_| self.u64(what)).collect()
    }

    /// Everything must have been taken.
    ///
    /// # Errors
    /// [`WireError::Trailing`].
    pub fn end(self, what: &'static str) -> Result<(), WireError> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(WireError::Trailing { what, left }),
        }
    }
}

/// Appends text behind its length; cut at a character border to `limit` bytes.
pub fn put_text(out: &mut Vec<u8>, text: &str, limit: usize) {
    let end = floor_boundary(text, limit);
    out.extend_from_slice(&(end as u32).to_le_bytes());
    out.extend_from_slice(&text.as_bytes()[..end]);
}

/// The longest part of a text that has at most `limit` bytes and ends between characters.
pub fn floor_boundary(text: &str, limit: usize) -> usize {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    end
}

/// Appends numbers behind their count.
pub fn put_numbers(out: &mut Vec<u8>, numbers: &[u64]) {
    out.extend_from_slice(&(numbers.len() as u32).to_le_bytes());
    numbers.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_input_names_the_field() {
        let error = Reader::new(&[1, 2]).u32("length").unwrap_err();
        assert_eq!(error.to_string(), "length: 4 bytes needed, 2 left");
    }

    #[test]
    fn a_count_is_checked_before_anything_is_allocated() {
        let error = Reader::new(&u32::MAX.to_le_bytes()).numbers("ids", 8).unwrap_err();
        assert!(error.to_string().contains("limit is 8"), "{error}");
    }

    #[test]
    fn text_is_cut_at_a_character() {
        let mut out = Vec::new();
        put_text(&mut out, "aé", 2);
        assert_eq!(Reader::new(&out).text("t", 9), Ok("a".into()));
    }
}

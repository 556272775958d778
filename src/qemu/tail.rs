//! The end of the main channel: the bytes whose arrival lets the destination's guest start.

/// Ends the device state.
const EOF: u8 = 0x00;
/// The section behind it that describes the state for debuggers.
const VMDESCRIPTION: u8 = 0x06;

/// From the mark to the last byte of the description's length.
const MARK_TO_LENGTH_END: usize = 5;

/// Where the end mark of a whole stream lies in `tail`, its last bytes.
///
/// A destination that holds back everything from there on keeps its guest from running. The mark is
/// the EOF byte before a VMDESCRIPTION section that ends with the stream; without such a section,
/// as after post-copy, it is the last byte. None if the stream was cut, or if `tail` is too short
/// to reach back to the mark.
pub fn vmdescription_start(tail: &[u8]) -> Option<usize> {
    let last_zero = tail.iter().rposition(|byte| *byte == EOF)?;
    // The description is text without zeros, so the last zero is the mark or within the length.
    let candidates = last_zero.saturating_sub(MARK_TO_LENGTH_END)..=last_zero;
    let described = candidates.rev().find(|start| is_described_end(&tail[*start..]));
    described.or((last_zero + 1 == tail.len()).then_some(last_zero))
}

/// How many of the first bytes of `held`, a run of bytes in pieces, lie before the end mark, however
/// the stream goes on.
///
/// For a destination that hands bytes on while they arrive: `held` is all that it has not handed
/// on yet. Between the mark and the end there is no zero byte but those of the mark and the length.
pub fn releasable_bytes(held: &[&[u8]]) -> usize {
    let mut before = held.iter().map(|piece| piece.len()).sum::<usize>();
    for piece in held.iter().rev() {
        before -= piece.len();
        if let Some(last_zero) = piece.iter().rposition(|byte| *byte == EOF) {
            return (before + last_zero).saturating_sub(MARK_TO_LENGTH_END);
        }
    }
    0
}

/// Sees on the way whether a stream has come to its end: a whole description, behind which nothing follows.
#[derive(Debug, Default)]
pub struct EndWatch {
    /// From before the last zero byte on.
    held: Vec<u8>,
}

impl EndWatch {
    /// More of the stream's tail went by.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
        let before = releasable_bytes(&[&self.held]);
        self.held.drain(..before);
    }

    /// Whether it ends here. A stream without a description ends unseen.
    pub fn is_at_end(&self) -> bool {
        (0..=MARK_TO_LENGTH_END).any(|at| self.held.get(at..).is_some_and(is_described_end))
    }
}

fn is_described_end(bytes: &[u8]) -> bool {
    let Some(([EOF, VMDESCRIPTION, length @ ..], text)) = bytes.split_first_chunk::<6>() else {
        return false;
    };
    u32::from_be_bytes(*length) as usize == text.len() && text.first() == Some(&b'{')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(text: &str) -> Vec<u8> {
        let length = (text.len() as u32).to_be_bytes();
        [b"\x04device\x7e\0\0\0\x09\0\x06", &length[..], text.as_bytes()].concat()
    }

    #[test]
    fn the_mark_before_a_description_is_found() {
        for length in [2, 255, 256, 257, 65_536, 1 << 24] {
            let text = format!("{{{}}}", " ".repeat(length - 2));
            assert_eq!(vmdescription_start(&described(&text)), Some(12), "{length}");
        }
    }

    #[test]
    fn without_a_description_the_last_byte_is_the_mark() {
        assert_eq!(vmdescription_start(b"\x7e\0\0\0\x01\0"), Some(5));
        assert_eq!(vmdescription_start(b"\0"), Some(0));
    }

    #[test]
    fn bytes_released_on_the_way_never_reach_the_mark() {
        for end in
            [&described("{}")[..], &described(&" ".repeat(256))[..], &b"\x7e\0\0\0\x09\0"[..]]
        {
            let stream = [&[0x11; 40][..], &[0, 0, 6, 0, 0, 0, 2], end].concat();
            let mark = vmdescription_start(&stream);
            let (mut held, mut released) = (Vec::new(), 0);
            for byte in &stream {
                held.push(*byte);
                released += held.drain(..releasable_bytes(&[&held])).len();
                assert!(mark.is_none_or(|mark| released <= mark), "{released}");
            }
            assert!(released > 40);
        }
    }

    #[test]
    fn the_end_is_seen_when_it_is_there_and_not_before() {
        for length in [2, 255, 256, 65_536] {
            let stream =
                [&[0, 7, 0, 6, 0, 0][..], &described(&format!("{{{}}}", " ".repeat(length)))]
                    .concat();
            for at_once in [1, 5, stream.len()] {
                let mut watch = EndWatch::default();
                assert!(!watch.is_at_end());
                let mut seen = 0;
                for bytes in stream.chunks(at_once) {
                    watch.feed(bytes);
                    seen += bytes.len();
                    assert_eq!(watch.is_at_end(), seen == stream.len(), "{seen} of {length}");
                }
            }
        }
    }

    #[test]
    fn a_cut_stream_has_no_mark() {
        let whole = described("{\"devices\": []}");
        for end in 18..whole.len() {
            assert_eq!(vmdescription_start(&whole[..end]), None, "{end}");
        }
        assert_eq!(vmdescription_start(&whole[13..]), None);
        assert_eq!(vmdescription_start(b"{}"), None);
        assert_eq!(vmdescription_start(b""), None);
    }
}

//! Which pages the destination lacks at the switch to post-copy: a bitmap in packed pieces, each of
//! which fits a control message, whatever the size of the guest.

use crate::base::PageBitmap;
use crate::base::limits::MAX_MISSING_PIECE_PAGES;
use crate::encoding::codec::{DecodeError, EncodeError};
use crate::encoding::{Codec, CodecChoice, Decoder, Encoder};
use crate::wire::Control;

/// A piece that is not one.
#[derive(Debug, thiserror::Error)]
pub enum PieceError {
    /// It does not come after the one before, or begins nowhere.
    #[error("missing pages from {first_page} on, where one from {due} or later is due")]
    Order {
        /// Where it begins.
        first_page: u64,
        /// Where the next may begin.
        due: u64,
    },
    /// It does not unpack.
    #[error("missing pages from {first_page} on: {source}")]
    Packed {
        /// Where it begins.
        first_page: u64,
        /// Why.
        source: DecodeError,
    },
}

/// The next piece of the map, from page `from` on, and where the one after it begins. None: all that
/// follows is empty.
///
/// # Errors
/// The codec could not be set up.
pub fn next_piece(
    missing: &PageBitmap,
    mut from: u64,
    choice: CodecChoice,
) -> Result<Option<(Control, u64)>, EncodeError> {
    while from < missing.capacity() {
        let (first_page, words) = (from, missing.words(from, MAX_MISSING_PIECE_PAGES));
        from += MAX_MISSING_PIECE_PAGES;
        if words.iter().all(|word| *word == 0) {
            continue;
        }
        let raw: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut packed = Vec::new();
        let encoded = Encoder::default().encode(choice, &raw, &mut packed)?;
        let (codec, bytes) = (encoded.codec as u8, encoded.payload.to_vec());
        return Ok(Some((Control::Missing { first_page, codec, bytes }, from)));
    }
    Ok(None)
}

/// Adds a piece to the map that is being put together; gives the page from which the next may begin.
///
/// # Errors
/// [`PieceError`].
pub fn take_in(
    missing: &mut PageBitmap,
    (first_page, due): (u64, u64),
    codec: u8,
    bytes: &[u8],
) -> Result<u64, PieceError> {
    let is_begin = first_page.is_multiple_of(MAX_MISSING_PIECE_PAGES);
    if !is_begin || first_page < due || first_page >= missing.capacity() {
        return Err(PieceError::Order { first_page, due });
    }
    let end = missing.capacity().min(first_page + MAX_MISSING_PIECE_PAGES);
    let raw_bytes = ((end - first_page).div_ceil(64) * 8) as u32;
    let mut raw = Vec::new();
    let packed = |source| PieceError::Packed { first_page, source };
    let codec = Codec::try_from(codec).map_err(packed)?;
    Decoder::default().decode(codec, bytes, raw_bytes, &mut raw).map_err(packed)?;
    let words: Vec<u64> = raw.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
    missing.merge_log(first_page..end, &words);
    Ok(first_page + MAX_MISSING_PIECE_PAGES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::FrameKind;

    fn send(missing: &PageBitmap, choice: CodecChoice) -> (PageBitmap, usize) {
        let mut there = PageBitmap::new(missing.capacity());
        let (mut from, mut due, mut pieces) = (0, 0, 0);
        while let Some((message, next)) = next_piece(missing, from, choice).unwrap() {
            let wire = message.encode(0);
            assert!(wire.len() <= FrameKind::Control.max_payload_bytes() as usize);
            let Control::Missing { first_page, codec, bytes } = message else { panic!() };
            due = take_in(&mut there, (first_page, due), codec, &bytes).unwrap();
            (from, pieces) = (next, pieces + 1);
        }
        (there, pieces)
    }

    #[test]
    fn maps_of_every_shape_arrive_and_empty_stretches_cost_nothing() {
        let pages = 3 * MAX_MISSING_PIECE_PAGES + 77;
        let mut random = fastrand::Rng::with_seed(5);
        let mut dense = PageBitmap::new(pages);
        (0..pages / 2).for_each(|_| dense.insert(random.u64(..pages)));
        let mut sparse = PageBitmap::new(pages);
        [0, pages - 1].into_iter().for_each(|page| sparse.insert(page));
        let mut full = PageBitmap::new(pages);
        full.fill();
        for (missing, expected) in [(dense, 4), (sparse, 2), (full, 4), (PageBitmap::new(9), 0)] {
            for choice in [CodecChoice::None, CodecChoice::Lz4, CodecChoice::Zstd(1)] {
                assert_eq!(send(&missing, choice), (missing.clone(), expected));
            }
        }
    }

    #[test]
    fn pieces_out_of_place_or_damaged_are_named() {
        let pages = 2 * MAX_MISSING_PIECE_PAGES;
        let raw = vec![0; MAX_MISSING_PIECE_PAGES as usize / 8];
        for (first_page, due, bytes, text) in [
            (64, 0, &raw[..], "from 64 on"),
            (0, MAX_MISSING_PIECE_PAGES, &raw, "or later is due"),
            (pages, 0, &raw, "from 2097152 on"),
            (0, 0, &raw[1..], "does not fit"),
        ] {
            let mut map = PageBitmap::new(pages);
            let error = take_in(&mut map, (first_page, due), 0, bytes).unwrap_err().to_string();
            assert!(error.contains(text), "{error} lacks {text}");
        }
        let error = take_in(&mut PageBitmap::new(9), (0, 0), 77, &[]).unwrap_err().to_string();
        assert!(error.contains("codec 77"), "{error}");
    }
}

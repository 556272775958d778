//! Which pages of a buffer are all zero, at the speed at which memory can be read.

/// Bytes that are looked at between two exits; long enough for wide registers to fill.
const BLOCK_BYTES: usize = 512;
/// Words looked at first, spread over the page: most pages that are not zero end there.
const PROBES: usize = 4;

/// Neighbouring pages of a buffer, all zero or all not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageRun {
    /// The first page, counted from the start of the buffer.
    pub first: usize,
    /// How many, at least one.
    pub pages: usize,
    /// Whether they are zero.
    pub zero: bool,
}

/// Splits a buffer of whole pages into the longest runs of zero and of other pages, in order.
///
/// A part of a page at the end is left out.
pub fn page_runs(buffer: &[u8], page_bytes: usize) -> impl Iterator<Item = PageRun> + '_ {
    let mut pages = buffer.chunks_exact(page_bytes).map(is_zero).enumerate().peekable();
    std::iter::from_fn(move || {
        let (first, zero) = pages.next()?;
        let mut run = PageRun { first, pages: 1, zero };
        while pages.next_if(|(_, next)| *next == zero).is_some() {
            run.pages += 1;
        }
        Some(run)
    })
}

/// Whether every byte is zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    probes_are_zero(bytes) && all_zero(bytes)
}

fn probes_are_zero(bytes: &[u8]) -> bool {
    let words = bytes.as_chunks::<8>().0;
    let step = words.len().div_ceil(PROBES).max(1);
    words.iter().step_by(step).chain(words.last()).all(|word| *word == [0; 8])
}

fn all_zero(bytes: &[u8]) -> bool {
    let (blocks, rest) = bytes.as_chunks::<BLOCK_BYTES>();
    blocks.iter().all(block_is_zero) && rest.iter().all(|byte| *byte == 0)
}

/// ORs a whole block before it looks, so that the compiler can use its widest registers.
fn block_is_zero(block: &[u8; BLOCK_BYTES]) -> bool {
    let (words, _) = block.as_chunks::<16>();
    words.iter().fold(0, |any, word| any | u128::from_ne_bytes(*word)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_anywhere_is_found_at_any_length_and_alignment() {
        for length in [0, 1, 7, 8, 63, 64, 511, 512, 513, 1000, 4096] {
            for start in [0, 1, 13] {
                let mut buffer = vec![0; start + length];
                assert!(is_zero(&buffer[start..]));
                for at in start..start + length {
                    buffer[at] = 1 << (at % 8);
                    assert!(!is_zero(&buffer[start..]), "byte {at} of {length}");
                    buffer[at] = 0;
                }
            }
        }
    }

    #[test]
    fn bytes_outside_the_slice_do_not_count() {
        let mut buffer = vec![0xff; 8192];
        buffer[1000..6000].fill(0);
        assert!(is_zero(&buffer[1000..6000]));
        assert!(!is_zero(&buffer[999..6000]) && !is_zero(&buffer[1000..6001]));
    }

    #[test]
    fn runs_are_the_longest_and_cover_the_buffer() {
        for pattern in 0..1_u32 << 10 {
            let mut buffer = vec![0; 640];
            for page in (0..10).filter(|page| pattern >> page & 1 == 1) {
                buffer[page * 64 + (pattern as usize + page) % 64] = 7;
            }
            let runs: Vec<_> = page_runs(&buffer, 64).collect();
            assert_eq!(runs.iter().map(|run| run.pages).sum::<usize>(), 10);
            assert!(runs.windows(2).all(|pair| pair[0].zero != pair[1].zero
                && pair[0].first + pair[0].pages == pair[1].first));
            for run in runs {
                let mut pages = run.first..run.first + run.pages;
                assert!(pages.all(|page| (pattern >> page & 1 == 0) == run.zero));
            }
        }
    }

    #[test]
    fn nothing_comes_of_less_than_a_page() {
        assert_eq!(page_runs(&[], 4096).count(), 0);
        assert_eq!(page_runs(&[1; 100], 4096).count(), 0);
        let last = PageRun { first: 0, pages: 1, zero: false };
        assert_eq!(page_runs(&[1; 100], 64).collect::<Vec<_>>(), [last]);
    }
}

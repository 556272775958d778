//! What a look at four kilobytes of a block tells about how well it packs.
//!
//! The bytes are taken in pieces from all over the block and counted. The measure is the sum of the
//! squares of the counts: the chance that two bytes of the block are equal. It needs no logarithm,
//! and the whole sample takes a few microseconds.

/// How well a block is likely to pack, from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockClass {
    /// Two bytes are equal with a chance of a half: almost one value only.
    Uniform = 0,
    /// One in six: many zeros, as in page tables and young heaps.
    Sparse = 1,
    /// One in 24: text, pointers, small numbers.
    Structured = 2,
    /// One in 96: machine code, mixed content.
    Mixed = 3,
    /// Fewer, but not as random bytes: media, packed content with headers.
    Dense = 4,
    /// Spread as random bytes are: no codec gains.
    Random = 5,
}

/// A block as a selector sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSample {
    /// Its class.
    pub class: BlockClass,
    /// Its length.
    pub raw_bytes: usize,
}

impl BlockClass {
    /// Number of classes.
    pub const COUNT: usize = 6;
}

impl BlockSample {
    /// Looks at a block.
    pub fn of(raw: &[u8]) -> Self {
        Self { class: class_of(raw), raw_bytes: raw.len() }
    }

    /// Whether the bytes are so evenly spread that no codec is likely to gain; never for a block too
    /// short to tell.
    ///
    /// Random and encrypted pages pass every codec at 1 to 1.5 GB/s only to be stored.
    pub fn looks_random(&self) -> bool {
        self.class == BlockClass::Random
    }
}

/// For random bytes the bounds are 12 and 6 standard deviations away. Text exceeds what they give by
/// a factor of ten, one structured page in sixteen by over a tenth; counters fall below it, being
/// more even than chance.
fn class_of(raw: &[u8]) -> BlockClass {
    let (sampled, squares) = sample(raw);
    let even = sampled + sampled * sampled.saturating_sub(1) / 256;
    if raw.len() >= RANDOM_FROM_BYTES && (even - even / 32..even + even / 16).contains(&squares) {
        return BlockClass::Random;
    }
    let one_in = |share: u64| squares * share >= sampled * sampled;
    match () {
        () if one_in(2) => BlockClass::Uniform,
        () if one_in(6) => BlockClass::Sparse,
        () if one_in(24) => BlockClass::Structured,
        () if one_in(96) => BlockClass::Mixed,
        () => BlockClass::Dense,
    }
}

/// How many bytes were sampled, and the sum of the squares of the counts.
fn sample(raw: &[u8]) -> (u64, u64) {
    let mut counts = [0_u32; 256];
    for piece in raw.chunks(raw.len().div_ceil(PIECES).max(1)) {
        // From the middle: pages often begin with a header even if the rest is random.
        let start = (piece.len() - PIECE_BYTES.min(piece.len())) / 2;
        for byte in piece[start..].iter().take(PIECE_BYTES) {
            counts[usize::from(*byte)] += 1;
        }
    }
    let sampled = counts.iter().map(|count| u64::from(*count)).sum();
    (sampled, counts.iter().map(|count| u64::from(*count).pow(2)).sum())
}

/// Blocks shorter than this never count as random.
const RANDOM_FROM_BYTES: usize = 16 * 1024;
/// Places where a block is sampled.
const PIECES: usize = 16;
/// Bytes sampled at each place.
const PIECE_BYTES: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn class(raw: &[u8]) -> BlockClass {
        BlockSample::of(raw).class
    }

    #[test]
    fn contents_of_each_kind_have_their_class() {
        let mut random = vec![0; 65_536];
        fastrand::Rng::with_seed(1).fill(&mut random);
        let spread = |every: usize| {
            let byte = |(at, byte): (usize, &u8)| if at % every == 0 { *byte } else { 0 };
            random.iter().enumerate().map(byte).collect::<Vec<_>>()
        };
        let letters: Vec<u8> = random.iter().map(|byte| b'a' + byte % 16).collect();
        let code: Vec<u8> = random.iter().map(|byte| byte % 80).collect();
        assert_eq!(class(&[]), BlockClass::Uniform);
        assert_eq!(class(&[9; 65_536]), BlockClass::Uniform);
        assert_eq!(class(&spread(7)), BlockClass::Uniform);
        assert_eq!(class(&spread(2)), BlockClass::Sparse);
        assert_eq!(class(&letters), BlockClass::Structured);
        assert_eq!(class(&code), BlockClass::Mixed);
        assert_eq!(class(&random[..4096]), BlockClass::Dense, "too short to tell");
        assert_eq!(class(&random), BlockClass::Random);
    }
}

//! What every codec of the menu would do to a sample of memory, and which one the cost selector would
//! take on links of several speeds.

use super::sample::Sample;
use crate::encoding::codec::EncodeError;
use crate::encoding::selector::{BlockOutcome, CostSelector, LinkState, Selector};
use crate::encoding::{BlockSample, Codec, CodecChoice, Decoder, Encoder, is_zero};
use serde::Serialize;
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// Pages are packed in blocks of this length.
pub const BLOCK_BYTES: usize = 64 * 1024;
/// Small samples are packed several times, and the shortest time counts.
const REPEATS: usize = 3;
/// Samples up to this length are small.
const SMALL_BYTES: usize = 16 << 20;
/// The links for which a choice is told, in bits per second.
const LINKS: [(&str, u64); 4] = [
    ("10 Mbit/s", 10_000_000),
    ("100 Mbit/s", 100_000_000),
    ("1 Gbit/s", 1_000_000_000),
    ("10 Gbit/s", 10_000_000_000),
];
/// Equal samples explore equally.
const SEED: u64 = 1;

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Analysis {
    /// Pages looked at.
    pub pages: u64,
    /// Pages that the memory has.
    pub of_pages: u64,
    /// Bytes of a page.
    pub page_bytes: usize,
    /// Pages of zeros.
    pub zero_pages: u64,
    /// Pages that are not zero and equal to an earlier one of the sample.
    pub duplicate_pages: u64,
    /// The others, packed in so many blocks.
    pub blocks: u64,
    /// Length of a block, but for the last.
    pub block_bytes: usize,
    /// Bytes in the blocks.
    pub block_raw_bytes: u64,
    /// Each codec on the blocks.
    pub codecs: Vec<CodecFigures>,
    /// What the cost selector would take.
    pub choices: Vec<LinkChoice>,
}

/// One codec on all blocks.
#[derive(Clone, Debug, Serialize)]
pub struct CodecFigures {
    /// Its name.
    pub codec: String,
    /// Bytes after.
    pub packed_bytes: u64,
    /// Bytes before for each byte after; none without blocks.
    pub ratio: Option<f64>,
    /// Speed of one thread, of bytes before; none for storing, which takes no time.
    pub encode_mb_per_s: Option<f64>,
    /// Likewise.
    pub decode_mb_per_s: Option<f64>,
}

/// The selector's choice for one link, its queues being neither full nor empty for long.
#[derive(Clone, Debug, Serialize)]
pub struct LinkChoice {
    /// The link's speed, for people.
    pub link: &'static str,
    /// The same in bits per second.
    pub bits_per_s: u64,
    /// The codec of most blocks; none without blocks.
    pub codec: Option<String>,
    /// Its share of the blocks.
    pub share: f64,
}

/// Sample memory does not come back from a codec as it was, or a codec cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum AnalyzeError {
    /// The codec.
    #[error(transparent)]
    Codec(#[from] EncodeError),
    /// What no codec should ever do.
    #[error("codec {codec} gave back other bytes than block {block} has: {reason}")]
    Differs {
        /// The codec.
        codec: String,
        /// The block.
        block: usize,
        /// How.
        reason: String,
    },
}

/// One block after one codec.
#[derive(Clone, Copy)]
struct Outcome {
    codec_used: Codec,
    packed_bytes: u64,
    encode: Duration,
    decode: Duration,
}

/// Packs and unpacks the sample by every codec of the menu, on this thread.
///
/// # Errors
/// [`AnalyzeError`].
pub fn analyze(sample: &Sample) -> Result<Analysis, AnalyzeError> {
    let (distinct, zero_pages, duplicate_pages) = distinct_pages(sample);
    let blocks: Vec<&[u8]> = distinct.chunks(BLOCK_BYTES).collect();
    let menu: Vec<CodecChoice> = CostSelector::menu().collect();
    let mut outcomes = Vec::new();
    for choice in &menu {
        outcomes.push(run(*choice, &blocks)?);
    }
    let raw_bytes = distinct.len() as u64;
    let codecs = menu.iter().zip(&outcomes).map(|(choice, of)| figures(*choice, of, raw_bytes));
    Ok(Analysis {
        pages: sample.pages(),
        of_pages: sample.of_pages,
        page_bytes: sample.page_bytes,
        zero_pages,
        duplicate_pages,
        blocks: blocks.len() as u64,
        block_bytes: BLOCK_BYTES,
        block_raw_bytes: raw_bytes,
        codecs: codecs.collect(),
        choices: LINKS.map(|link| choose(link, &blocks, &menu, &outcomes)).into(),
    })
}

/// Pages that are neither zero nor there before, how many are zero, and how many a repetition.
fn distinct_pages(sample: &Sample) -> (Vec<u8>, u64, u64) {
    let (mut distinct, mut zeros, mut repeated) = (Vec::new(), 0, 0);
    let mut seen: HashSet<&[u8]> = HashSet::new();
    for page in sample.bytes.chunks_exact(sample.page_bytes) {
        if is_zero(page) {
            zeros += 1;
        } else if seen.insert(page) {
            distinct.extend_from_slice(page);
        } else {
            repeated += 1;
        }
    }
    (distinct, zeros, repeated)
}

fn run(choice: CodecChoice, blocks: &[&[u8]]) -> Result<Vec<Outcome>, AnalyzeError> {
    let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
    let (mut packed, mut unpacked) = (Vec::new(), Vec::new());
    let small = blocks.len() * BLOCK_BYTES <= SMALL_BYTES;
    let mut best: Vec<Outcome> = Vec::new();
    for repeat in 0..if small { REPEATS } else { 1 } {
        for (at, raw) in blocks.iter().enumerate() {
            let begun = Instant::now();
            let encoded = encoder.encode(choice, raw, &mut packed)?;
            let encode = begun.elapsed();
            let begun = Instant::now();
            let length = raw.len() as u32;
            let decoded = decoder.decode(encoded.codec, encoded.payload, length, &mut unpacked);
            let decode = begun.elapsed();
            let differs = |reason: String| AnalyzeError::Differs {
                codec: choice.to_string(),
                block: at,
                reason,
            };
            decoded.map_err(|error| differs(error.to_string()))?;
            if unpacked != *raw {
                return Err(differs("the bytes differ".to_owned()));
            }
            let packed_bytes = encoded.payload.len() as u64;
            let outcome = Outcome { codec_used: encoded.codec, packed_bytes, encode, decode };
            if repeat == 0 {
                best.push(outcome);
            }
            best[at].encode = best[at].encode.min(encode);
            best[at].decode = best[at].decode.min(decode);
        }
    }
    Ok(best)
}

fn figures(choice: CodecChoice, outcomes: &[Outcome], raw_bytes: u64) -> CodecFigures {
    let speed = |time: Duration| {
        let packs = choice != CodecChoice::None && !time.is_zero();
        packs.then(|| raw_bytes as f64 / 1e6 / time.as_secs_f64())
    };
    let packed_bytes = outcomes.iter().map(|outcome| outcome.packed_bytes).sum();
    CodecFigures {
        codec: choice.to_string(),
        packed_bytes,
        ratio: (packed_bytes > 0).then(|| raw_bytes as f64 / packed_bytes as f64),
        encode_mb_per_s: speed(outcomes.iter().map(|outcome| outcome.encode).sum()),
        decode_mb_per_s: speed(outcomes.iter().map(|outcome| outcome.decode).sum()),
    }
}

/// Lets a new selector learn what each codec did, and asks it.
fn choose(
    (link, bits_per_s): (&'static str, u64),
    blocks: &[&[u8]],
    menu: &[CodecChoice],
    outcomes: &[Vec<Outcome>],
) -> LinkChoice {
    let mut selector = CostSelector::new(SEED);
    let samples: Vec<BlockSample> = blocks.iter().map(|block| BlockSample::of(block)).collect();
    for (at, sample) in samples.iter().enumerate() {
        for (choice, outcomes) in menu.iter().zip(outcomes) {
            let Outcome { codec_used, packed_bytes, encode, .. } = outcomes[at];
            let encode_ns = u64::try_from(encode.as_nanos()).unwrap_or(u64::MAX);
            let (class, raw_bytes) = (sample.class, sample.raw_bytes as u64);
            let choice = *choice;
            selector.learn(&BlockOutcome {
                class,
                choice,
                codec_used,
                raw_bytes,
                packed_bytes,
                encode_ns,
            });
        }
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as u32;
    let bandwidth_bytes_per_s = Some(bits_per_s / 8);
    let state =
        LinkState { bandwidth_bytes_per_s, cores, encode_queue_fill: 0.0, send_queue_fill: 0.0 };
    let mut counts: Vec<(CodecChoice, u64)> = menu.iter().map(|choice| (*choice, 0)).collect();
    for sample in &samples {
        let chosen = selector.choose(sample, &state);
        counts
            .iter_mut()
            .filter(|(choice, _)| *choice == chosen)
            .for_each(|(_, count)| *count += 1);
    }
    let most = counts.iter().max_by_key(|(_, count)| *count).filter(|(_, count)| *count > 0);
    let share = most.map_or(0.0, |(_, count)| *count as f64 / samples.len() as f64);
    LinkChoice { link, bits_per_s, codec: most.map(|(choice, _)| choice.to_string()), share }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(pages: &[Vec<u8>]) -> Sample {
        Sample { page_bytes: 4096, bytes: pages.concat(), of_pages: 1 << 20 }
    }

    fn text(number: usize) -> Vec<u8> {
        (0..400)
            .flat_map(|line| format!("line {line:05} {}", number * 7 % 13).into_bytes())
            .take(4096)
            .collect()
    }

    #[test]
    fn pages_are_counted_by_what_becomes_of_them() {
        let texts: Vec<Vec<u8>> = (0..64)
            .map(|number| {
                let mut page = text(number);
                page[..8].copy_from_slice(&number.to_le_bytes());
                page
            })
            .collect();
        let mut pages = vec![vec![0; 4096]; 10];
        pages.extend(texts.iter().cloned());
        pages.extend(texts[..6].iter().cloned());
        let found = analyze(&sample(&pages)).unwrap();
        assert_eq!((found.pages, found.zero_pages, found.duplicate_pages), (80, 10, 6));
        assert_eq!((found.blocks, found.block_raw_bytes), (4, 64 * 4096));
        let figures = |codec: &str| found.codecs.iter().find(|of| of.codec == codec).unwrap();
        assert_eq!(figures("none").ratio, Some(1.0));
        assert!(figures("none").encode_mb_per_s.is_none());
        assert!(figures("zstd:3").ratio > figures("lz4").ratio);
        assert!(figures("lz4").encode_mb_per_s.unwrap() > 0.0);
        let choice = &found.choices[0];
        assert_eq!(choice.link, "10 Mbit/s");
        assert!(choice.codec.as_ref().unwrap().starts_with("zstd"), "{choice:?}");
        assert!(choice.share > 0.5 && choice.share <= 1.0);
    }

    #[test]
    fn memory_of_zeros_and_of_noise_is_no_special_case() {
        let empty = analyze(&sample(&vec![vec![0; 4096]; 3])).unwrap();
        assert_eq!((empty.zero_pages, empty.blocks), (3, 0));
        assert!(empty.codecs.iter().all(|of| of.ratio.is_none() && of.encode_mb_per_s.is_none()));
        assert!(empty.choices.iter().all(|choice| choice.codec.is_none()));
        let mut noise = vec![vec![0; 4096]; 40];
        let mut random = fastrand::Rng::with_seed(3);
        noise.iter_mut().for_each(|page| random.fill(page));
        let noise = analyze(&sample(&noise)).unwrap();
        assert!(noise.choices.iter().all(|choice| choice.codec.as_deref() == Some("none")));
    }
}

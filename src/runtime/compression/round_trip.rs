//! Every codec, references and differences there and back, over generated or sampled memory.

use super::sample::{PAGE_BYTES, Sample};
use crate::base::Time;
use crate::encoding::{BlockSample, Codec, CodecChoice, CostSelector, Decoder, Encoder};
use crate::encoding::{FixedSelector, LinkState, Selector};
use crate::migration::EncodingOptions;
use crate::migration::relay::segment_io::{Packer, Place, Preparer, Unpacker, limits_for};
use crate::qemu::{PageSlot, Segment};
use crate::wire::v1::hde::{Content, Delta, HdeError, Packet, Tier, pack_delta, pack_image};
use serde::Serialize;
use std::time::{Duration, Instant};

/// Codecs that are tried; beyond the selector's menu the ends of each range.
const CODECS: [CodecChoice; 11] = [
    CodecChoice::None,
    CodecChoice::Lz4,
    CodecChoice::Lz4Fast(2),
    CodecChoice::Lz4Fast(8),
    CodecChoice::Lz4Fast(64),
    CodecChoice::Zstd(-7),
    CodecChoice::Zstd(-1),
    CodecChoice::Zstd(1),
    CodecChoice::Zstd(3),
    CodecChoice::Zstd(6),
    CodecChoice::Zstd(19),
];
const BLOCK_BYTES: usize = 64 * 1024;
/// Blocks of the sample that each codec gets; its slowest takes a second for so many.
const MOST_BLOCKS: usize = 64;
/// The link of the selector's first blocks; it halves with every fourth.
const FIRST_BYTES_PER_S: u64 = 5_000_000_000;
const SEGMENT_PAGES: usize = 256;
/// Whatever seems faster did not touch the bytes.
const MOST_MB_PER_S: f64 = 100_000.0;
/// How often a segment's pages are changed and sent again.
const ROUNDS: u64 = 3;

/// What came of one kind of round trip.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// Such as `codec zstd:3`.
    pub what: String,
    /// Over which memory.
    pub memory: String,
    /// Bytes that went through.
    pub raw_bytes: u64,
    /// What they were packed to.
    pub packed_bytes: u64,
    /// Speed of one thread; none where nothing was done, as in storing.
    pub encode_mb_per_s: Option<f64>,
    /// Likewise.
    pub decode_mb_per_s: Option<f64>,
    /// Why it failed; none if everything came back equal.
    pub failure: Option<String>,
}

/// Sums while a round trip is under way.
#[derive(Default)]
struct Tally {
    raw_bytes: u64,
    packed_bytes: u64,
    encode: Duration,
    decode: Duration,
}

/// Kinds of contents that encoders treat differently, each of a megabyte or more.
pub fn generated() -> Vec<(&'static str, Sample)> {
    vec![
        ("zeros", fill(&mut |_, _| 0)),
        ("noise", fill(&mut |random, _| random)),
        ("text", text()),
        ("pointers", fill(&mut |random, at| 0x7f00_0000_0000 + at as u64 * 64 + (random & 0xff8))),
        ("sparse", fill(&mut |random, _| if random % 61 == 0 { random } else { 0 })),
        ("repeats", fill(&mut |_, at| (at / 512 % 5 * 0x0101) as u64)),
    ]
}

/// Letters and spaces without much order.
pub fn text() -> Sample {
    fill(&mut |random, _| 0x2020_6165_6174_6f20 | random & 0x0f00_0f00_0707_000f)
}

/// Pages of words, each made of a random one and its place.
fn fill(make: &mut dyn FnMut(u64, usize) -> u64) -> Sample {
    let mut word = 0x5851_f42d_4c95_7f2d_u64;
    let mut next = move || {
        // Xorshift.
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        word
    };
    let words = (0..(SEGMENT_PAGES + 3) * PAGE_BYTES / 8).map(|at| make(next(), at));
    let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    let of_pages = (bytes.len() / PAGE_BYTES) as u64;
    Sample { page_bytes: PAGE_BYTES, bytes, of_pages }
}

/// Sends a memory through everything there is.
pub fn round_trips(memory: &str, sample: &Sample) -> Vec<Verdict> {
    let verdict = |what: String, work: &dyn Fn(&mut Tally) -> Result<(), String>| {
        let mut tally = Tally::default();
        let failure = work(&mut tally).err();
        tally.verdict(what, memory, failure)
    };
    let mut verdicts: Vec<Verdict> =
        CODECS.iter().map(|choice| one_codec(*choice, memory, sample)).collect();
    verdicts.push(verdict("selector cost".to_owned(), &|tally| selected(sample, tally)));
    // The other three need pages as QEMU has them.
    if sample.page_bytes == PAGE_BYTES {
        for (what, delta) in [("references", false), ("differences", true)] {
            verdicts.push(verdict(what.to_owned(), &|tally| segments(delta, sample, tally)));
        }
        verdicts.push(verdict("v1 packets".to_owned(), &|tally| v1_packets(sample, tally)));
    }
    verdicts
}

/// Sends a memory through one codec.
pub fn one_codec(choice: CodecChoice, memory: &str, sample: &Sample) -> Verdict {
    let mut tally = Tally::default();
    let failure = codec(choice, sample, &mut tally).err();
    tally.verdict(format!("codec {choice}"), memory, failure)
}

fn codec(choice: CodecChoice, sample: &Sample, tally: &mut Tally) -> Result<(), String> {
    blocks(&mut FixedSelector(choice), sample, tally)
}

/// By whichever codec the cost selector takes on a link that slows down.
fn selected(sample: &Sample, tally: &mut Tally) -> Result<(), String> {
    blocks(&mut CostSelector::new(1), sample, tally)
}

fn blocks(selector: &mut dyn Selector, sample: &Sample, tally: &mut Tally) -> Result<(), String> {
    let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
    let (mut packed, mut out) = (Vec::new(), Vec::new());
    for (at, raw) in sample.bytes.chunks(BLOCK_BYTES).take(MOST_BLOCKS).enumerate() {
        let link = LinkState {
            bandwidth_bytes_per_s: Some(FIRST_BYTES_PER_S >> (at / 4).min(12)),
            cores: 1,
            encode_queue_fill: 0.0,
            send_queue_fill: 0.0,
        };
        let choice = selector.choose(&BlockSample::of(raw), &link);
        let encoded = tally.encoding(|| encoder.encode(choice, raw, &mut packed));
        let encoded = encoded.map_err(|error| error.to_string())?;
        let (used, payload) = (encoded.codec, encoded.payload);
        let decoded = tally.decoding(|| decoder.decode(used, payload, raw.len() as u32, &mut out));
        decoded.map_err(|error| format!("block {at}: {error}"))?;
        tally.compare(&format!("block {at}"), raw, &out, payload.len())?;
        if used != Codec::None && used != choice.codec() {
            return Err(format!("block {at} was packed by {used}, asked for was {choice}"));
        }
    }
    Ok(())
}

/// Segments of a relayed stream; each is sent again with some bytes of each page changed.
fn segments(delta: bool, sample: &Sample, tally: &mut Tally) -> Result<(), String> {
    let limits = limits_for((SEGMENT_PAGES * MOST_BLOCKS) as u32);
    let options = EncodingOptions { delta, ..EncodingOptions::default() };
    let (mut preparer, mut unpacker) =
        (Preparer::new(limits).with_options(&options), Unpacker::new(limits));
    let mut packer = Packer::default();
    let choice = CodecChoice::Zstd(1);
    for (number, pages) in sample.bytes.chunks(SEGMENT_PAGES * PAGE_BYTES).take(16).enumerate() {
        let mut segment = segment_of(number, pages);
        for round in 0..ROUNDS {
            let packed = tally.encoding(|| {
                let prepared =
                    preparer.prepare(&mut segment.clone(), Place::default(), true, Time(0));
                packer.pack(prepared, choice)
            });
            let mut packed = packed.map_err(|error| error.to_string())?.payload;
            let packed_bytes = packed.len();
            let came = tally.decoding(|| unpacker.unpack(&mut packed, Vec::new()));
            let (_, came) = came.map_err(|error| error.to_string())?;
            let what = format!("segment {number}, round {round}");
            tally.compare(&what, &segment.data, &came.data, packed_bytes)?;
            if came != segment {
                return Err(format!("{what}: what is not pages differs"));
            }
            touch(&mut segment.data, round);
        }
    }
    Ok(())
}

fn segment_of(number: usize, pages: &[u8]) -> Segment {
    let count = pages.len() / PAGE_BYTES;
    let mut segment = Segment { data: pages[..count * PAGE_BYTES].to_vec(), ..Segment::default() };
    for page in 0..count {
        segment.skeleton.extend_from_slice(b"a page follows:");
        let (at, page) = (segment.skeleton.len() as u32, (number * SEGMENT_PAGES + page) as u64);
        segment.pages.push(PageSlot { at, block: 0, page });
    }
    segment
}

/// Changes a few words of each page, as a guest that runs does.
fn touch(pages: &mut [u8], round: u64) {
    for (number, page) in pages.chunks_exact_mut(PAGE_BYTES).enumerate() {
        let at = (number * 40 + round as usize * 8) % (PAGE_BYTES - 8);
        page[at..at + 8].copy_from_slice(&(round + number as u64 + 1).to_le_bytes());
    }
}

/// The packets and differences that peers of version 1 know: images of which every fourth page changed.
fn v1_packets(sample: &Sample, tally: &mut Tally) -> Result<(), String> {
    let said = |error: HdeError| error.to_string();
    for (at, old) in sample.bytes.chunks(BLOCK_BYTES).take(MOST_BLOCKS).enumerate() {
        let mut new = old.to_vec();
        new.chunks_mut(4 * PAGE_BYTES)
            .filter_map(|pages| pages.get_mut(..PAGE_BYTES))
            .for_each(|page| touch(page, at as u64));
        let packed = tally.encoding(|| {
            let delta = Delta::between(b"baseline", old, &new);
            Ok::<_, HdeError>([pack_image(&new, Tier::Local)?, pack_delta(&delta, Tier::Local)?])
        });
        for (kind, packed) in ["image", "difference"].iter().zip(packed.map_err(said)?) {
            let came = tally.decoding(|| {
                match Packet::decode(&packed)?.unpack(2 * BLOCK_BYTES as u64)? {
                    Content::Image(image) => Ok(image),
                    Content::Delta(delta) => delta.apply(old),
                }
            });
            let came = came.map_err(|error: HdeError| format!("{kind} {at}: {error}"))?;
            tally.compare(&format!("{kind} {at}"), &new, &came, packed.len())?;
        }
    }
    Ok(())
}

impl Tally {
    fn encoding<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let result = work();
        self.encode += begun.elapsed();
        result
    }

    fn decoding<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let result = work();
        self.decode += begun.elapsed();
        result
    }

    fn compare(
        &mut self,
        what: &str,
        sent: &[u8],
        came: &[u8],
        packed: usize,
    ) -> Result<(), String> {
        self.raw_bytes += sent.len() as u64;
        self.packed_bytes += packed as u64;
        if sent.len() != came.len() {
            return Err(format!("{what}: {} bytes became {}", sent.len(), came.len()));
        }
        match sent.iter().zip(came).position(|(sent, came)| sent != came) {
            Some(at) => Err(format!("{what}: byte {at} is {}, sent was {}", came[at], sent[at])),
            None => Ok(()),
        }
    }

    fn verdict(self, what: String, memory: &str, failure: Option<String>) -> Verdict {
        let speed = |time: Duration| {
            let speed = self.raw_bytes as f64 / 1e6 / time.as_secs_f64();
            Some(speed).filter(|speed| *speed < MOST_MB_PER_S)
        };
        Verdict {
            what,
            memory: memory.to_owned(),
            raw_bytes: self.raw_bytes,
            packed_bytes: self.packed_bytes,
            encode_mb_per_s: speed(self.encode),
            decode_mb_per_s: speed(self.decode),
            failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_comes_back_and_is_packed() {
        for (name, sample) in generated() {
            for verdict in round_trips(name, &sample) {
                assert_eq!(verdict.failure, None, "{verdict:?}");
                assert!(verdict.raw_bytes >= 1 << 20, "{verdict:?}");
            }
        }
        let text = &generated()[2].1;
        let verdicts = round_trips("text", text);
        let of = |what: &str| verdicts.iter().find(|verdict| verdict.what == what).unwrap();
        assert!(of("codec zstd:1").packed_bytes < of("codec none").packed_bytes / 2);
        assert!(of("differences").packed_bytes < of("references").packed_bytes);
    }

    #[test]
    fn a_difference_is_found_and_told() {
        let mut tally = Tally::default();
        assert!(tally.compare("block 1", b"abc", b"abc", 2).is_ok());
        let text = tally.compare("block 1", b"abc", b"abd", 2).unwrap_err();
        assert_eq!(text, "block 1: byte 2 is 100, sent was 99");
        let text = tally.compare("block 2", b"abc", b"ab", 2).unwrap_err();
        assert!(text.contains("3 bytes became 2"), "{text}");
        let verdict = tally.verdict("x".to_owned(), "m", Some(text));
        assert!(verdict.failure.is_some() && verdict.raw_bytes == 9);
    }

    #[test]
    fn other_page_sizes_go_through_the_codecs_alone() {
        let sample = Sample { page_bytes: 16_384, bytes: vec![3; 65_536], of_pages: 4 };
        let verdicts = round_trips("large", &sample);
        assert_eq!(verdicts.len(), CODECS.len() + 1);
        assert!(verdicts.iter().all(|verdict| verdict.failure.is_none()));
    }
}

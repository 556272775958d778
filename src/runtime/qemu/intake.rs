//! What QEMU writes to one connection, cut into segments, and what all its connections share: the
//! numbers of the segments, their sum, and the memory of pages that were sent.

use crate::encoding::AnnouncedPages;
use crate::migration::EncodingOptions;
use crate::migration::relay::StreamSum;
use crate::migration::relay::segment_io::{Place, Prepared, Preparer, limits_for};
use crate::qemu::StreamParser;
use crate::qemu::{ChannelParser, EndWatch, PAGE_BYTES, Package, Segment, SegmentLimits};
use crate::runtime::clock::now;
use crate::runtime::lock::lock;
use crate::wire::segment::Kept;
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// Of a segment of the main stream: seven thousand marks of zero pages.
const SKELETON_BYTES: usize = 64 << 10;

/// What the channels of one migration share.
pub struct Together {
    /// How many multifd channels there are.
    channels: u8,
    /// The main stream goes on after a switch, and is not looked into.
    is_raw: bool,
    state: Mutex<State>,
}

struct State {
    preparer: Preparer,
    sum: StreamSum,
    has_main: bool,
    /// Multifd channels so far.
    channels_seen: u8,
    /// Names of RAM blocks; each channel numbers them as they come, these numbers hold for all.
    blocks: Vec<String>,
    ram_pages: u64,
    pages_seen: u64,
    /// Every channel is understood, and the main one has not come to its end.
    in_memory: bool,
}

/// One connection's bytes.
pub struct Intake {
    channel: u8,
    parser: ChannelParser,
    /// What was read and is not prepared.
    pub segment: Segment,
    pages_counted: u64,
    zero_counted: u64,
    /// Where the package of a switch was when what is not prepared began.
    package: Package,
    end: EndWatch,
}

impl Together {
    /// For so many multifd channels beside the main stream; `announced` is what the destination
    /// holds already.
    pub fn new(
        channels: u8,
        baseline_pages: u32,
        encoding: &EncodingOptions,
        announced: Option<Arc<AnnouncedPages>>,
    ) -> Self {
        let mut preparer = Preparer::new(limits_for(baseline_pages)).with_options(encoding);
        announced.into_iter().for_each(|pages| preparer.announce(pages));
        let state = State {
            preparer,
            sum: StreamSum::default(),
            has_main: false,
            channels_seen: 0,
            blocks: Vec::new(),
            ram_pages: 0,
            pages_seen: 0,
            in_memory: true,
        };
        Self { channels, is_raw: false, state: Mutex::new(state) }
    }

    /// For a main stream that goes on after a switch to post-copy.
    pub fn after_switch(self) -> Self {
        Self { is_raw: true, ..self }
    }

    /// Takes on a connection that begins so.
    ///
    /// # Errors
    /// It is not one of those that are due.
    pub fn take_on(&self, first_four: [u8; 4]) -> Result<Intake, String> {
        let mut state = lock(&self.state);
        let parser = match ChannelParser::for_channel(first_four) {
            _ if self.is_raw => ChannelParser::Raw,
            // Alone, it is what QEMU calls its stream, whatever is in it.
            _ if self.channels == 0 => main(),
            Some(ChannelParser::Main(_)) => main(),
            Some(parser) => parser,
            None => {
                let text = "neither the main stream nor a multifd channel";
                return Err(format!("a connection begins with {first_four:02x?}: {text}"));
            }
        };
        let channel = match &parser {
            ChannelParser::Main(_) if state.has_main => return Err("a second main stream".into()),
            ChannelParser::Main(_) | ChannelParser::Raw => {
                state.has_main = true;
                0
            }
            ChannelParser::Multifd(_) if state.channels_seen == self.channels => {
                return Err(format!("more than {} multifd channels", self.channels));
            }
            ChannelParser::Multifd(_) => {
                state.channels_seen += 1;
                state.channels_seen
            }
        };
        let (segment, package) = (Segment::default(), parser.package());
        Ok(Intake {
            channel,
            parser,
            segment,
            pages_counted: 0,
            zero_counted: 0,
            package,
            end: EndWatch::default(),
        })
    }

    /// Pages and bytes that are held to compare with.
    pub fn held(&self) -> (u64, u64) {
        let state = lock(&self.state);
        (state.preparer.held_pages(), state.preparer.memory_bytes())
    }

    /// As [`Preparer::verify`].
    pub fn verify(&self, slots: Range<usize>) -> Option<(u64, u64)> {
        lock(&self.state).preparer.verify(slots)
    }

    /// What was remembered, once all is read.
    pub fn take_preparer(&self) -> Preparer {
        std::mem::replace(&mut lock(&self.state).preparer, Preparer::new(limits_for(0)))
    }

    /// The sum of all that was prepared.
    pub fn sum(&self) -> StreamSum {
        lock(&self.state).sum
    }
}

/// The main stream's parser. Its segments end early, because marks of zero pages may be all that is in
/// one, and whoever looks at what is left of the first pass must not have gone past its end.
fn main() -> ChannelParser {
    let limits = SegmentLimits { skeleton_bytes: SKELETON_BYTES, ..SegmentLimits::default() };
    ChannelParser::Main(StreamParser::with_limits(limits).cut_at_package())
}

impl Intake {
    /// Which channel this is; 0 is the main stream.
    pub fn channel(&self) -> u8 {
        self.channel
    }

    /// As [`StreamParser::feed`].
    pub fn feed(&mut self, bytes: &[u8]) -> usize {
        let taken = self.parser.feed(bytes, &mut self.segment);
        if self.parser.is_in_tail() {
            self.end.feed(&bytes[..taken]);
        }
        taken
    }

    /// As [`StreamParser::finish`].
    pub fn finish(&mut self) {
        self.parser.finish(&mut self.segment);
    }

    /// Whether what was read ends where the package of a switch to post-copy begins, or ends.
    pub fn is_at_package(&self) -> bool {
        self.parser.package() != self.package
    }

    /// Whether the last bytes of that package were prepared.
    pub fn has_switched(&self) -> bool {
        self.package == Package::Past
    }

    /// Whether QEMU has written all of a stream without a switch.
    pub fn has_ended_unswitched(&self) -> bool {
        self.parser.package() == Package::Ahead && self.end.is_at_end()
    }

    /// Why the stream cannot be followed to a switch; none if it can.
    pub fn not_understood(&self) -> Option<String> {
        self.parser.not_understood().map(|reason| reason.to_string())
    }

    /// Pages of QEMU's first pass that are still to come on any channel; none where that cannot be
    /// told.
    pub fn first_pass_left(&mut self, together: &Together) -> Option<u64> {
        let mut state = lock(&together.state);
        let seen = self.parser.pages_seen();
        state.pages_seen += seen - self.pages_counted;
        self.pages_counted = seen;
        state.in_memory &= self.parser.is_in_memory();
        if let ChannelParser::Main(parser) = &self.parser {
            state.ram_pages = parser.info().ram_bytes / PAGE_BYTES as u64;
        }
        match state.ram_pages {
            _ if !state.in_memory => None,
            0 => Some(u64::MAX),
            pages => Some(pages.saturating_sub(state.pages_seen)),
        }
    }

    /// Prepares what was read, as the next segment of all channels; what is read next may come to lie
    /// in `spare`.
    pub fn prepare(
        &mut self,
        together: &Together,
        (remember, in_tail): (bool, bool),
        mut spare: Vec<u8>,
    ) -> Prepared {
        let mut state = lock(&together.state);
        if together.channels > 0 {
            self.number_blocks(&mut state.blocks);
        }
        let before_end = self.parser.is_in_memory();
        let kept = match (self.package, self.parser.package()) {
            (Package::Inside, Package::Inside) => Kept::Inside,
            (Package::Inside, _) => Kept::End,
            _ => Kept::No,
        };
        self.package = self.parser.package();
        let place = Place { channel: self.channel, before_end, in_tail, kept };
        let mut prepared = state.preparer.prepare(&mut self.segment, place, remember, now());
        let zero = self.parser.zero_pages();
        prepared.named_zero = u32::try_from(zero - self.zero_counted).unwrap_or(u32::MAX);
        self.zero_counted = zero;
        state.sum.add(self.channel, prepared.stream_bytes, prepared.checksum);
        if self.segment.data.capacity() < spare.capacity() {
            spare.clear();
            self.segment.data = spare;
        }
        prepared
    }

    /// Gives the blocks of this segment's pages the numbers that hold for all channels, so that a page
    /// is known again on whichever it comes.
    fn number_blocks(&mut self, blocks: &mut Vec<String>) {
        let (mut known, mut number) = (None, 0);
        for slot in &mut self.segment.pages {
            if known != Some(slot.block) {
                let name = self.parser.block_name(slot.block).unwrap_or_default();
                let found = blocks.iter().position(|block| block == name);
                known = Some(slot.block);
                number = found.unwrap_or(blocks.len()) as u16;
                if found.is_none() {
                    blocks.push(name.to_owned());
                }
            }
            slot.block = number;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::CodecChoice;
    use crate::migration::relay::segment_io::Packer;
    use crate::qemu::PageSlot;
    use std::time::Duration;

    const MAIN: [u8; 4] = *b"QEVM";
    const MULTIFD: [u8; 4] = [0x11, 0x22, 0x33, 0x44];

    #[test]
    fn connections_may_come_in_any_order_but_none_too_many() {
        let together = Together::new(2, 0, &EncodingOptions::default(), None);
        let order = [MULTIFD, MAIN, MULTIFD];
        let channels = order.map(|first| together.take_on(first).map(|intake| intake.channel()));
        assert_eq!(channels, [Ok(1), Ok(0), Ok(2)]);
        let refused = |first| together.take_on(first).err().unwrap();
        assert!(refused(MAIN).contains("a second main stream"));
        assert!(refused(MULTIFD).contains("more than 2 multifd channels"));
        assert!(refused(*b"\x16\x03\x01\x02").contains("[16, 03, 01, 02]"));
    }

    #[test]
    fn alone_any_stream_is_the_main_one() {
        for first in [MAIN, MULTIFD, *b"what"] {
            let intake = Together::new(0, 0, &EncodingOptions::default(), None).take_on(first);
            assert_eq!(intake.map(|intake| intake.channel()), Ok(0));
        }
    }

    #[test]
    fn pages_that_travel_as_differences_are_refreshed_by_the_option() {
        let whole_pages = |interval| {
            let encoding = EncodingOptions {
                baseline_refresh_interval: interval,
                ..EncodingOptions::default()
            };
            let together = Together::new(0, 1000, &encoding, None);
            let mut intake = together.take_on(MAIN).unwrap();
            [1, 2, 3, 4, 5].map(|written: u8| {
                intake.segment.pages.push(PageSlot { at: 0, block: 0, page: 1 });
                intake.segment.data.resize(PAGE_BYTES, 7);
                intake.segment.data[9] = written;
                intake.prepare(&together, (true, false), Vec::new()).fresh().len() / PAGE_BYTES
            })
        };
        assert_eq!(whole_pages(Duration::ZERO), [1, 0, 1, 0, 1]);
        assert_eq!(whole_pages(Duration::from_secs(3_600)), [1, 0, 0, 0, 0]);
    }

    /// A multifd channel up to its first page, which is of this block, and so many zero pages.
    fn packet(block: &str, zero: u8) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 320 + 8 * (1 + usize::from(zero)) + PAGE_BYTES];
        for at in [0, 64] {
            bytes[at..at + 4].copy_from_slice(&MULTIFD);
            bytes[at + 7] = 1;
        }
        let header = &mut bytes[64..];
        (header[15], header[19], header[35]) = (1 + zero, 1, zero);
        header[20..24].copy_from_slice(&(PAGE_BYTES as u32).to_be_bytes());
        header[64..64 + block.len()].copy_from_slice(block.as_bytes());
        bytes
    }

    #[test]
    fn a_block_has_one_number_on_all_channels() {
        let together = Together::new(3, 0, &EncodingOptions::default(), None);
        let mut blocks = Vec::new();
        let numbers = ["pc.ram", "vga.vram", "pc.ram"].map(|name| {
            let mut intake = together.take_on(MULTIFD).unwrap();
            let bytes = packet(name, 0);
            assert_eq!(intake.feed(&bytes), bytes.len());
            intake.number_blocks(&mut blocks);
            let [PageSlot { block, .. }] = intake.segment.pages[..] else { panic!("one page") };
            block
        });
        assert_eq!(numbers, [0, 1, 0]);
    }

    #[test]
    fn pages_that_are_only_named_as_zero_count_once() {
        let together = Together::new(1, 0, &EncodingOptions::default(), None);
        let mut intake = together.take_on(MULTIFD).unwrap();
        let bytes = packet("pc.ram", 3);
        let counts = [&bytes[..100], &bytes[100..500], &bytes[500..]].map(|part| {
            assert_eq!(intake.feed(part), part.len());
            let prepared = intake.prepare(&together, (true, false), Vec::new());
            let packed = Packer::default().pack(prepared, CodecChoice::None).unwrap();
            assert_eq!(packed.counts.zero, u64::from(packed.classes.zero));
            (packed.counts.zero, packed.counts.full)
        });
        // The page of the packet is zero too, but travels.
        assert_eq!(counts, [(0, 0), (3, 0), (1, 0)]);
    }
}

//! Both parsers over whole streams: what they learn, and that replays are identical however the
//! bytes are cut.

use super::synthetic::{self, BLOCKS, Builder, Packet, payload};
use super::*;

/// A parser of either kind.
pub(super) trait Parser: Default {
    fn with(limits: SegmentLimits) -> Self;
    fn take(&mut self, bytes: &[u8], out: &mut Segment) -> usize;
    fn end(&mut self, out: &mut Segment);
}

impl Parser for StreamParser {
    fn with(limits: SegmentLimits) -> Self {
        Self::with_limits(limits)
    }

    fn take(&mut self, bytes: &[u8], out: &mut Segment) -> usize {
        self.feed(bytes, out)
    }

    fn end(&mut self, out: &mut Segment) {
        self.finish(out);
    }
}

impl Parser for MultifdParser {
    fn with(limits: SegmentLimits) -> Self {
        Self::with_limits(limits)
    }

    fn take(&mut self, bytes: &[u8], out: &mut Segment) -> usize {
        self.feed(bytes, out)
    }

    fn end(&mut self, out: &mut Segment) {
        self.finish(out);
    }
}

/// Feeds portions, checks every segment's framing, and gives the segments.
pub(super) fn segments<'a>(
    parser: &mut impl Parser,
    portions: impl IntoIterator<Item = &'a [u8]>,
) -> Vec<Segment> {
    let (mut segments, mut out) = (Vec::new(), Segment::default());
    for portion in portions {
        let mut rest = portion;
        while !rest.is_empty() {
            let taken = parser.take(rest, &mut out);
            rest = &rest[taken..];
            if !rest.is_empty() {
                assert!(!out.is_empty(), "a full segment");
                segments.push(std::mem::take(&mut out));
            }
        }
    }
    parser.end(&mut out);
    segments.push(out);
    segments.iter().for_each(check_framing);
    segments
}

fn check_framing(segment: &Segment) {
    assert!(segment.is_filled());
    let mut bytes = Vec::new();
    segment.encode_framing(&mut bytes);
    let mut decoded = Segment::decode_framing(&bytes).unwrap();
    decoded.data.clone_from(&segment.data);
    assert!(decoded == *segment);
}

pub(super) fn replayed(segments: &[Segment]) -> Vec<u8> {
    let mut out = Vec::new();
    segments.iter().for_each(|segment| segment.write_to(&mut out));
    out
}

fn pages(segments: &[Segment]) -> Vec<(u16, u64)> {
    let slots = segments.iter().flat_map(|segment| &segment.pages);
    slots.map(|slot| (slot.block, slot.page)).collect()
}

fn parsed(stream: &[u8]) -> (StreamInfo, Vec<Segment>) {
    let mut parser = StreamParser::new();
    let segments = segments(&mut parser, [stream]);
    assert!(replayed(&segments) == stream);
    (parser.info().clone(), segments)
}

fn parsed_multifd(stream: &[u8]) -> (MultifdInfo, Vec<Segment>) {
    let mut parser = MultifdParser::new();
    let segments = segments(&mut parser, [stream]);
    assert!(replayed(&segments) == stream);
    (parser.info().clone(), segments)
}

#[test]
fn a_precopy_stream_gives_its_blocks_and_pages() {
    let (info, segments) = parsed(&synthetic::precopy_7_2());
    assert_eq!(info.phase, Phase::Tail);
    assert_eq!((info.machine.as_str(), info.version), ("pc-i440fx-7.2", 3));
    let blocks = info.blocks.iter().map(|block| (block.name.as_str(), block.used_length / 4096));
    assert_eq!(blocks.collect::<Vec<_>>(), BLOCKS);
    assert_eq!(info.ram_bytes, BLOCKS.iter().map(|(_, pages)| pages * 4096).sum::<u64>());
    let expected = [(0, 1), (0, 2), (1, 0), (1, 9), (1, 10), (0, 1), (0, 262_143)];
    assert_eq!(pages(&segments), expected);
    assert_eq!((info.pages, info.zero_pages, info.encoded_pages), (7, 1, 2));
    assert_eq!((info.ram_sections, info.opaque_bytes), (4, 0));
    for (slot, (_, page)) in expected.into_iter().enumerate() {
        assert_eq!(segments[0].payload(slot), Some(&payload(page)[..]));
    }
}

#[test]
fn the_tail_begins_behind_the_last_footer_and_has_its_mark() {
    let stream = synthetic::precopy_7_2();
    let (info, _) = parsed(&stream);
    let tail = &stream[stream.len() - info.tail_bytes as usize..];
    assert_eq!(tail, Builder::default().devices().0);
    let mark = vmdescription_start(tail).unwrap();
    assert_eq!(tail[mark..mark + 2], [0, 6]);
}

#[test]
fn a_main_channel_beside_multifd_has_barriers_and_no_pages() {
    let (info, segments) = parsed(&synthetic::main_of_multifd_9());
    assert_eq!((info.phase, info.multifd_flushes), (Phase::Tail, 3));
    assert!(pages(&segments).is_empty());
}

#[test]
fn postcopy_keeps_giving_pages() {
    let (info, segments) = parsed(&synthetic::postcopy_7_2());
    assert_eq!(info.phase, Phase::Tail);
    assert!(info.postcopy_advised);
    let sizes: Vec<u64> = info.blocks.iter().map(|block| block.host_page_bytes).collect();
    assert_eq!(sizes, [1 << 21, 4096, 4096]);
    assert_eq!(pages(&segments), [(0, 5), (0, 6), (2, 8)]);
}

#[test]
fn the_last_block_may_have_huge_pages() {
    let advice = [((1_u64 << 21) | 4096).to_be_bytes(), 4096_u64.to_be_bytes()].concat();
    let stream = Builder::open("pc").command(3, &advice).setup(&(1_u64 << 21).to_be_bytes());
    let (info, _) = parsed(&stream.0);
    assert_eq!(info.phase, Phase::Ram);
    assert!(info.blocks.iter().all(|block| block.host_page_bytes == 1 << 21));
}

#[test]
fn shared_memory_is_listed_with_its_addresses() {
    let capability = Builder::default().be32(1).name("x-ignore-shared").0;
    let open = Builder::open("pc").subsection("configuration/capabilities", &capability);
    let (info, _) = parsed(&open.setup(&[0xab; 8]).0);
    assert_eq!((info.phase, info.blocks.len()), (Phase::Ram, 3));
}

#[test]
fn old_machine_types_have_neither_configuration_nor_footers() {
    let stream = Builder::default().put(b"QEVM").be32(3).ram_start();
    let list = |stream: Builder, (name, pages): &(&str, u64)| stream.name(name).be64(pages * 4096);
    let stream = BLOCKS.iter().fold(stream, list).be64(0x10);
    let stream = stream.part().page(3, Some("pc.bios")).be64(0x10).last_part().be64(0x10);
    let (info, segments) = parsed(&stream.devices().0);
    assert_eq!((info.phase, pages(&segments)), (Phase::Tail, vec![(1, 3)]));
}

#[test]
fn multifd_channels_give_their_pages() {
    let (info, segments) = parsed_multifd(&synthetic::multifd_7_2());
    assert_eq!((info.phase, info.channel), (MultifdPhase::Packets, 1));
    assert_eq!(info.blocks, ["pc.ram", "pc.bios"]);
    assert_eq!((info.packets, info.syncs, info.pages), (5, 2, 7));
    assert_eq!(pages(&segments), [(0, 4), (0, 5), (0, 6), (0, 7), (0, 900), (1, 63), (0, 5)]);

    let (info, segments) = parsed_multifd(&synthetic::multifd_9_2());
    assert_eq!((info.phase, info.packets, info.syncs), (MultifdPhase::Packets, 4, 2));
    assert_eq!((info.zero_pages, pages(&segments)), (131, vec![(0, 1), (0, 2)]));
}

#[test]
fn channels_are_told_by_their_first_bytes() {
    let kind = |stream: &[u8]| channel_kind(*stream.first_chunk().unwrap());
    assert_eq!(kind(&synthetic::precopy_7_2()), ChannelKind::Main);
    assert_eq!(kind(&synthetic::multifd_7_2()), ChannelKind::Multifd);
    assert_eq!(kind(b"\x16\x03\x01\x02"), ChannelKind::Unknown);
}

#[test]
fn bytes_may_come_one_at_a_time_or_split_anywhere() {
    for stream in synthetic::main_channels() {
        splits::<StreamParser>(&stream);
    }
    for stream in synthetic::multifd_channels() {
        splits::<MultifdParser>(&stream);
    }
}

fn splits<P: Parser>(stream: &[u8]) {
    let whole = segments(&mut P::default(), [stream]);
    assert!(segments(&mut P::default(), stream.chunks(1)) == whole);
    // Every place near a field's border, and a sample of those within pages.
    for at in (0..stream.len()).filter(|at| *at < 1500 || at % 61 == 0) {
        let (left, right) = stream.split_at(at);
        assert!(segments(&mut P::default(), [left, right]) == whole, "split at {at}");
    }
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..50 {
        let portions = stream.chunk_by(|_, _| random.u16(..) > 90);
        assert!(segments(&mut P::default(), portions) == whole);
    }
}

#[test]
fn a_switch_to_post_copy_is_cut_where_its_package_begins_and_ends() {
    let stream = synthetic::postcopy_7_2();
    let mut parser = StreamParser::new().cut_at_package();
    let (mut rest, mut parts) = (&stream[..], Vec::new());
    while !rest.is_empty() {
        let mut out = Segment::default();
        let taken = parser.feed(rest, &mut out);
        assert_eq!(out.stream_bytes(), taken);
        parts.push((parser.info().package, rest[..taken].to_vec()));
        rest = &rest[taken..];
    }
    let [(Package::Inside, before), (Package::Past, package), (Package::Past, _)] = &parts[..]
    else {
        panic!(
            "{:?}",
            parts.iter().map(|(package, part)| (*package, part.len())).collect::<Vec<_>>()
        );
    };
    let length = u32::from_be_bytes(*before.last_chunk().unwrap());
    assert_eq!(package.len(), length as usize);
}

#[test]
fn segments_keep_their_limits() {
    let mut random = fastrand::Rng::with_seed(4);
    let streams = synthetic::main_channels();
    for stream in &streams {
        limited::<StreamParser>(stream, &mut random);
    }
    for stream in &synthetic::multifd_channels() {
        limited::<MultifdParser>(stream, &mut random);
    }
}

fn limited<P: Parser>(stream: &[u8], random: &mut fastrand::Rng) {
    let whole = pages(&segments(&mut P::default(), [stream]));
    for _ in 0..60 {
        let (most_pages, skeleton_bytes) = (random.usize(1..5), random.usize(1..200));
        let limits = SegmentLimits { pages: most_pages, skeleton_bytes };
        let segments = segments(&mut P::with(limits), stream.chunks(random.usize(1..9000)));
        assert!(replayed(&segments) == stream);
        assert_eq!(pages(&segments), whole);
        for segment in segments {
            assert!(segment.pages.len() <= most_pages, "{most_pages}");
            assert!(segment.skeleton.len() <= skeleton_bytes, "{skeleton_bytes}");
        }
    }
}

#[test]
fn limits_above_the_wire_s_are_lowered() {
    let limits = SegmentLimits { pages: usize::MAX, skeleton_bytes: usize::MAX };
    let stream = vec![7; 3 << 20];
    let segments = segments(&mut StreamParser::with_limits(limits), [&stream[..]]);
    assert!(segments.len() > 2 && replayed(&segments) == stream);
}

#[test]
fn a_stream_cut_anywhere_is_replayed_as_far_as_it_came() {
    let streams = synthetic::main_channels();
    for stream in &streams {
        (0..stream.len()).filter(|end| *end < 900 || end % 37 == 0).for_each(|end| {
            assert!(
                replayed(&segments(&mut StreamParser::new(), [&stream[..end]])) == stream[..end]
            );
        });
    }
    let stream = Builder::greeting(3).packet(&Packet::of("pc.ram", vec![1, 2, 3], vec![])).0;
    for end in 0..stream.len() {
        assert!(replayed(&segments(&mut MultifdParser::new(), [&stream[..end]])) == stream[..end]);
    }
}

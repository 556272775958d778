//! Streams that QEMU would not write: each is passed through whole, with the reason in words.

use super::parser_tests::{Parser, replayed, segments};
use super::synthetic::{self, Builder, Packet};
use super::*;

/// Parses, checks the replay, and gives the reason for which the rest is opaque.
fn reason(stream: Builder) -> String {
    let (stream, mut parser) = (stream.put(b"more"), StreamParser::new());
    let segments = segments(&mut parser, [&stream.0[..]]);
    assert!(replayed(&segments) == stream.0);
    assert!(parser.info().opaque_bytes >= 4, "{:?}", parser.info());
    match &parser.info().phase {
        Phase::Opaque(reason) => reason.to_string(),
        phase => panic!("{phase:?}"),
    }
}

fn multifd_reason(stream: Builder) -> String {
    let (stream, mut parser) = (stream.put(&[0x55; 4096]), MultifdParser::new());
    let segments = segments(&mut parser, [&stream.0[..]]);
    assert!(replayed(&segments) == stream.0);
    match &parser.info().phase {
        MultifdPhase::Opaque(reason) => reason.to_string(),
        phase => panic!("{phase:?}"),
    }
}

fn open() -> Builder {
    Builder::open("pc")
}

fn part() -> Builder {
    open().setup(&[]).part()
}

#[test]
fn unknown_beginnings_are_named() {
    let other = Builder::default().put(b"QEVN").be32(3);
    assert_eq!(reason(other), "magic number 0x5145564e, expected 0x5145564d");
    assert_eq!(reason(Builder::default().put(b"QEVM").be32(2)), "the stream has version 2");
    let long = Builder::default().put(b"QEVM").be32(3).put(&[7]).be32(u32::MAX);
    assert_eq!(reason(long), "configuration \"machine type of 4294967295 bytes\"");
    assert_eq!(
        reason(open().subsection("configuration/new", &[])),
        "configuration \"configuration/new\""
    );
    let mapped = Builder::default().be32(1).name("mapped-ram").0;
    let mapped = open().subsection("configuration/capabilities", &mapped);
    assert_eq!(reason(mapped), "configuration \"mapped-ram\"");
    let bits = open().subsection("configuration/target-page-bits", &[0, 0, 0, 16]);
    assert_eq!(reason(bits), "pages of 65536 bytes, expected 4096");
    assert!(reason(open().put(&[7])).contains("type 0x07"));
}

#[test]
fn unknown_sections_and_commands_are_named() {
    assert_eq!(reason(open().put(&[9])), "section type 0x09 out of place");
    assert_eq!(reason(open().put(&[4])), "section type 0x04 out of place");
    assert_eq!(reason(open().put(&[2]).be32(2)), "section type 0x02 out of place");
    let bitmap = open().setup(&[]).start(9, "dirty-bitmap", 1);
    assert_eq!(reason(bitmap), "section \"dirty-bitmap\" before or among those of RAM");
    assert!(reason(open().setup(&[]).start(2, "ram", 4)).contains("\"ram\""));
    assert_eq!(reason(open().start(2, "ram", 5)), "the RAM section has version 5");
    let other = open().setup(&[]).put(&[2]).be32(3);
    assert_eq!(reason(other), "a part of section 3, expected Some(2)");
    let footer = part().be64(0x10).put(&[0x7e]).be32(8);
    assert_eq!(reason(footer), "a footer of section 8, expected Some(2)");
    assert_eq!(reason(open().command(99, &[])), "command 99 with 0 bytes");
    assert_eq!(reason(open().command(7, &[1])), "command 7 with 1 bytes");
    let advice = [1_u64 << 16; 2].map(u64::to_be_bytes).concat();
    assert_eq!(reason(open().command(3, &advice)), "pages of 65536 bytes, expected 4096");
}

#[test]
fn absurd_lists_of_blocks_are_named() {
    let start = || open().start(2, "ram", 4);
    assert!(reason(start().be64((u64::MAX << 12) + 4)).contains("bytes of RAM"));
    assert!(reason(start().be64(4)).contains("0 bytes of RAM"));
    assert_eq!(reason(start().be64(4096 + 4).put(&[0])), "RAM block name \"\"");
    let over = start().be64(4096 + 4).name("a").be64(8192);
    assert_eq!(reason(over), "RAM block \"a\" of 8192 bytes where 4096 are left");
    assert!(reason(start().be64(4096 + 4).name("a").be64(7)).contains("of 7 bytes"));
    let twice = start().be64(8192 + 4).name("a").be64(4096).name("a").be64(4096);
    assert_eq!(reason(twice), "RAM block name \"a\"");
    let empty = |stream: Builder, index| stream.name(&format!("block-{index}")).be64(0);
    assert_eq!(reason((0..1030).fold(start().be64(4096 + 4), empty)), "more than 1024 RAM blocks");
    let advice = [1_u64 << 21, 4096].map(u64::to_be_bytes).concat();
    let other = open().command(3, &advice).start(2, "ram", 4).be64(8192 + 4).name("a").be64(4096);
    assert_eq!(reason(other.be64(1 << 22)), "pages of 4194304 bytes, expected 4096");
}

#[test]
fn pages_out_of_bounds_and_unknown_flags_are_named() {
    let behind = part().word(8, 64, Some("pc.bios"));
    assert_eq!(reason(behind), "offset 0x40000 in RAM block \"pc.bios\" of 262144 bytes");
    assert!(
        reason(part().be64((u64::MAX << 12) + 8).name("pc.ram")).contains("0xfffffffffffff000")
    );
    assert_eq!(reason(part().word(8, 0, Some("nobody"))), "RAM block name \"nobody\"");
    assert_eq!(reason(part().be64(8).put(&[0])), "RAM block name \"\"");
    assert_eq!(reason(part().be64(0x28)), "RAM word 0x28 continues no block");
    for word in [0x80, 0x400, 0x0a, 0x1010, 0x1200, 0x04, 0] {
        assert_eq!(reason(part().be64(word)), format!("RAM word {word:#x}"));
    }
    let block = || part().zero(0, Some("pc.ram"));
    let delta = block().word(0x40, 1, None).put(&[1]).be16(4097);
    assert_eq!(reason(delta), "a page encoded to 4097 bytes");
    assert!(reason(block().word(0x40, 1, None).put(&[2]).be16(5)).contains("version 2"));
    let packed = block().word(0x100, 1, None).be32(1 << 31);
    assert_eq!(reason(packed), "a page encoded to 2147483648 bytes");
}

#[test]
fn multifd_packets_that_do_not_fit_are_named() {
    let page = || Packet::of("pc.ram", vec![1], vec![]);
    let after = |packet: Packet| multifd_reason(Builder::greeting(0).packet(&packet));
    assert!(multifd_reason(Builder::default().put(b"QEVM")).starts_with("magic"));
    let newer = Builder::default().be32(0x1122_3344).be32(2);
    assert_eq!(multifd_reason(newer), "the multifd channel has version 2");
    assert_eq!(after(Packet { flags: 4, ..page() }), "multifd packet with flags 0x4");
    assert_eq!(after(Packet { flags: 0x41, ..page() }), "multifd packet with flags 0x41");
    assert_eq!(after(Packet { length: 77, ..page() }), "multifd packet of 1 pages with 77 bytes");
    let many = Packet::of("pc.ram", vec![1; 100], vec![2; 29]);
    assert_eq!(after(many), "multifd packet of 100 + 29 of 128 pages");
    let room = Packet { room: u32::MAX, ..page() };
    assert_eq!(after(room), "multifd packet of 1 + 0 of 4294967295 pages");
    assert_eq!(after(Packet { block: "", ..page() }), "RAM block name \"\"");
    assert!(after(Packet::of("pc.ram", vec![1 << 40], vec![])).contains("offset 0x10000000000000"));
}

#[test]
fn damaged_streams_are_replayed_and_what_is_kept_is_bounded() {
    let mut random = fastrand::Rng::with_seed(5);
    for round in 0..400 {
        let mains = synthetic::main_channels();
        damage::<StreamParser>(&mains[round % mains.len()], &mut random);
        let multifds = synthetic::multifd_channels();
        damage::<MultifdParser>(&multifds[round % multifds.len()], &mut random);
    }
}

fn damage<P: Parser>(stream: &[u8], random: &mut fastrand::Rng) {
    let mut stream = stream.to_vec();
    for _ in 0..random.usize(1..6) {
        let early = random.bool();
        let at = random.usize(..if early { stream.len().min(700) } else { stream.len() });
        let any = random.u8(..);
        stream[at] = random.choice([0, 1, 0x7f, 0x80, 0xff, any]).unwrap();
    }
    stream.truncate(random.usize(1..=stream.len()));
    let (mut parser, mut out, mut fed) = (P::default(), Segment::default(), 0);
    for portion in stream.chunks(random.usize(1..3000)) {
        fed += portion.len();
        assert_eq!(parser.take(portion, &mut out), portion.len());
        assert!(fed - out.stream_bytes() < PAGE_BYTES, "kept {}", fed - out.stream_bytes());
    }
    parser.end(&mut out);
    assert!(replayed(&[out]) == stream);
}

//! The fuzz targets over their seeds and mutations of them, without a fuzzer: quick, repeatable, in
//! every test run. `scripts/fuzz.sh` goes further.

#[path = "fuzz/src/seeds.rs"]
mod seeds;
#[path = "fuzz/src/targets.rs"]
mod targets;

use std::ffi::OsString;

/// Mutated inputs tried per target.
const ROUNDS: u64 = 20_000;
/// Of the target whose inputs start and stop whole nodes, threads and all.
const ROUNDS_OF_NODES: u64 = 2_000;

/// A repeatable source of numbers.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) as usize % limit.max(1)
    }

    /// Changes, cuts, repeats or inserts in a few places.
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        const TELLING: [u8; 8] = [0, 1, 2, 0x7f, 0x80, 0xfe, 0xff, 64];
        for _ in 0..1 + self.below(4) {
            let at = self.below(bytes.len() + 1);
            match self.below(5) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, self.below(256) as u8),
                2 => bytes.extend_from_within(at..),
                3 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                _ if at < bytes.len() => bytes[at] = TELLING[self.below(TELLING.len())],
                _ => {}
            }
        }
    }
}

#[test]
fn every_target_holds_for_its_seeds_and_their_neighbours() {
    for (name, target) in targets::ALL {
        let seeds = seeds::of(name);
        assert!(seeds.iter().all(|seed| !seed.is_empty()), "{name} has no seed");
        seeds.iter().for_each(|seed| target(seed));
        let rounds = if *name == "c_calls" { ROUNDS_OF_NODES } else { ROUNDS };
        for round in 0..rounds {
            let mut input = seeds[round as usize % seeds.len()].clone();
            Numbers(round).mutate(&mut input);
            let run = std::panic::catch_unwind(|| target(&input));
            assert!(run.is_ok(), "target {name}, round {round}, input {input:02x?}");
        }
    }
}

#[test]
fn every_target_has_its_program_and_every_program_its_target() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/fuzz_targets");
    let entries = std::fs::read_dir(folder).unwrap();
    let stem = |entry: std::fs::DirEntry| entry.path().file_stem().unwrap().to_owned();
    let mut programs: Vec<_> = entries.map(|entry| stem(entry.unwrap())).collect();
    let mut names: Vec<_> = targets::ALL.iter().map(|(name, _)| OsString::from(name)).collect();
    programs.sort();
    names.sort();
    assert_eq!(programs, names);
}

#[test]
fn the_seed_of_chunks_is_stored_whole() {
    assert_eq!(targets::stored_pages(&seeds::of("store")[0]), 16 + 6);
}

#[test]
fn the_seed_of_segments_decodes_whole() {
    assert_eq!(targets::decoded_segments(&seeds::of("hybrid_decode")[0]), 3);
}

#[test]
fn the_seeds_of_configurations_are_accepted() {
    for seed in seeds::of("config") {
        let text = std::str::from_utf8(&seed[1..]).unwrap();
        dwcp::config::load::from_text("seed.yaml", text).unwrap();
        assert!(text.lines().count() > 10, "{text}");
    }
}

#[test]
fn the_seeds_of_v1_documents_are_read() {
    assert!(seeds::of("v1_documents").iter().all(|seed| targets::v1_document_is_read(seed)));
}

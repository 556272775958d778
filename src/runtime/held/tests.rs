//! Tests of what is held: it comes back whole or not at all, within its bounds, and nobody waits.

use super::*;
use crate::encoding::{Codec, HeldError, HeldPages};
use crate::migration::relay::segment_io::FreshBlock;
use fastrand::Rng;
use std::path::PathBuf;
use std::time::Instant;

const RAM_BYTES: u64 = 64 << 20;
const PATIENCE: Duration = Duration::from_secs(20);

/// A folder of the test's own.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let number = fastrand::u64(..);
        let path = std::env::temp_dir().join(format!("dwcp-held-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.0.join(DIRECTORY)).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn store(folder: Option<&Folder>, max_bytes: u64) -> (Arc<HeldStore>, Arc<Journal>) {
    let journal = Arc::new(Journal::default());
    let options = HeldOptions { enabled: true, max_bytes };
    let path = folder.map(|folder| folder.0.as_path());
    (HeldStore::open(path, options, journal.clone()), journal)
}

fn notices(journal: &Journal) -> Vec<String> {
    let texts = journal.after(0).into_iter().filter_map(|event| match event.kind {
        EventKind::Notice { text } => Some(text),
        _ => None,
    });
    texts.collect()
}

fn pages(seed: u64, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count * PAGE_BYTES];
    Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

/// Adds blocks, stored as they are, slowly enough that none is left out.
fn bring(store: &HeldStore, guest: &str, blocks: &[Vec<u8>], last: Option<Pages>) {
    let before = store.totals(None);
    let writer = store.begin(guest, RAM_BYTES).unwrap();
    for block in blocks {
        writer.add(FreshBlock { raw_bytes: block.len() as u32, codec: Codec::None, packed: block });
        std::thread::sleep(Duration::from_millis(5));
    }
    writer.finish(last);
    let deadline = Instant::now() + PATIENCE;
    while lock(&store.shelf).threads.iter().any(|thread| !thread.is_finished()) {
        assert!(Instant::now() < deadline, "{before:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn page_of(set: &mut HeldSet, index: u32) -> Result<Vec<u8>, HeldError> {
    let mut out = Vec::new();
    set.append(index, &mut out).map(|()| out)
}

fn error_of(set: &mut HeldSet, index: u32) -> Option<HeldError> {
    page_of(set, index).err()
}

/// Every announced page is what its hash says.
fn check_all(store: &HeldStore, set: &mut HeldSet) -> usize {
    let (key, hashes) = (store.key(), set.hashes());
    for (index, hash) in hashes.iter().enumerate() {
        assert_eq!(key.hash(&page_of(set, index as u32).unwrap()), *hash, "page {index}");
    }
    let count = hashes.len() as u32;
    assert_eq!(error_of(set, count), Some(HeldError::Unknown(count)));
    hashes.len()
}

#[test]
fn what_was_brought_is_announced_and_read_and_the_files_go_with_the_store() {
    let folder = Folder::new();
    for place in [Some(&folder), None] {
        let (store, journal) = store(place, 1 << 30);
        let blocks = [pages(1, 3), pages(2, 256), pages(3, 1)];
        bring(&store, "vm", &blocks, None);
        bring(&store, "other", &[pages(4, 20)], None);
        let mut set = store.announce("vm", RAM_BYTES);
        assert_eq!(check_all(&store, &mut set), 280);
        assert!(page_of(&mut set, 3).unwrap() == blocks[1][..PAGE_BYTES]);
        let first = store.announce("other", RAM_BYTES).hashes()[0];
        assert_eq!(first, store.key().hash(&pages(4, 1)), "its own come first");
        assert_eq!((store.totals(Some("vm")).pages, store.totals(None).sections), (260, 2));
        assert_eq!(folder.files().len(), if place.is_some() { 2 } else { 0 });
        assert_eq!(notices(&journal), [""; 0]);
        store.stop();
        drop((store, set));
        assert_eq!(folder.files(), [""; 0].map(PathBuf::from));
    }
}

#[test]
fn pages_are_read_right_in_any_order() {
    let (store, _) = store(None, 1 << 30);
    bring(&store, "vm", &(0..14).map(|seed| pages(seed, 4)).collect::<Vec<_>>(), None);
    bring(&store, "other", &(20..25).map(|seed| pages(seed, 3)).collect::<Vec<_>>(), None);
    let (mut set, mut random) = (store.announce("vm", RAM_BYTES), Rng::with_seed(1));
    let (key, hashes) = (store.key(), set.hashes());
    assert_eq!(hashes.len(), 14 * 4 + 5 * 3);
    let mut index = 0;
    for _ in 0..3_000 {
        // Mostly onward, now and then elsewhere.
        index = match random.u8(..8) {
            0 => random.usize(..hashes.len()),
            _ => (index + 1) % hashes.len(),
        };
        assert_eq!(key.hash(&page_of(&mut set, index as u32).unwrap()), hashes[index]);
    }
}

#[test]
fn files_say_nothing_and_are_removed_by_the_next_process() {
    let folder = Folder::new();
    let (first, _) = store(Some(&folder), 1 << 30);
    let text = b"a secret of the guest's ".repeat(PAGE_BYTES)[..8 * PAGE_BYTES].to_vec();
    bring(&first, "vm", &[text], None);
    let bytes = std::fs::read(&folder.files()[0]).unwrap();
    assert!(bytes.len() > 8 * PAGE_BYTES && !bytes.windows(8).any(|part| part == b"a secret"));
    // As after a kill: nobody removes them.
    std::fs::write(folder.0.join(DIRECTORY).join("77.held"), bytes).unwrap();
    std::fs::write(folder.0.join(DIRECTORY).join("notes"), "not ours").unwrap();
    let (second, _) = store(Some(&folder), 1 << 30);
    assert_eq!(second.totals(None), HeldTotals::default());
    assert_eq!(folder.files().len(), 1, "{:?}", folder.files());
    assert!(first.key() != second.key());
}

#[test]
fn the_section_used_longest_ago_makes_room_and_never_one_that_is_announced() {
    let folder = Folder::new();
    let (store, _) = store(Some(&folder), 600_000);
    for (guest, seed) in [("a", 1), ("b", 2)] {
        bring(&store, guest, &[pages(seed, 60)], None);
    }
    // Read just now, so that the other is the one to go.
    assert!(page_of(&mut store.announce("a", RAM_BYTES), 0).is_ok());
    bring(&store, "c", &[pages(3, 60)], None);
    assert_eq!(["a", "b", "c"].map(|guest| store.totals(Some(guest)).pages), [60, 0, 60]);
    let mut pinned = store.announce("c", RAM_BYTES);
    bring(&store, "d", &[pages(4, 60)], None);
    assert_eq!(store.totals(Some("d")), HeldTotals::default(), "all are announced");
    assert_eq!(check_all(&store, &mut pinned), 120);
    drop(pinned);
    bring(&store, "d", &[pages(4, 60)], None);
    assert_eq!(store.totals(Some("d")).pages, 60);
    assert!(store.totals(None).bytes <= 600_000 && folder.files().len() == 2);
}

#[test]
fn in_memory_no_more_is_held_than_a_sixteenth_of_the_guest() {
    let (store, _) = store(None, 1 << 30);
    let writer = store.begin("small", 4 << 20).unwrap();
    for seed in 0..20 {
        let block = pages(seed, 16);
        writer.add(FreshBlock {
            raw_bytes: block.len() as u32,
            codec: Codec::None,
            packed: &block,
        });
        std::thread::sleep(Duration::from_millis(3));
    }
    writer.finish(None);
    join_all(&store);
    let held = store.totals(None).bytes;
    assert!(held > 0 && held <= 1 << 18, "{held}");
    assert!(store.memory_bytes() >= held, "blocks in memory count as memory");
}

#[test]
fn pages_that_travelled_as_differences_are_added_at_the_end_but_none_twice() {
    let folder = Folder::new();
    let (store, _) = store(Some(&folder), 1 << 30);
    let (whole, changed) = (pages(1, 40), pages(2, 300));
    let last = [&whole[..], &changed, &changed].concat();
    let give: Pages = Box::new(move |take| last.chunks(PAGE_BYTES).for_each(take));
    bring(&store, "vm", &[whole], Some(give));
    assert_eq!(store.totals(None).pages, 340);
    let in_memory = store.memory_bytes();
    assert!(in_memory > 0 && in_memory < store.totals(None).bytes, "the disk has the blocks");
    let mut set = store.announce("vm", RAM_BYTES);
    assert_eq!(check_all(&store, &mut set), 340);
    let again: Pages = Box::new(move |take| changed.chunks(PAGE_BYTES).for_each(take));
    bring(&store, "vm", &[], Some(again));
    assert_eq!(store.totals(None).pages, 340);
}

#[test]
fn a_damaged_file_is_an_error_a_notice_and_not_announced_again() {
    let folder = Folder::new();
    let (store, journal) = store(Some(&folder), 1 << 30);
    bring(&store, "vm", &[pages(1, 4), pages(2, 4)], None);
    let file = folder.files().remove(0);
    let mut bytes = std::fs::read(&file).unwrap();
    let length = bytes.len();
    bytes[length - 5_000] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    let mut set = store.announce("vm", RAM_BYTES);
    assert!(page_of(&mut set, 3).is_ok(), "another block");
    assert_eq!(error_of(&mut set, 4), Some(HeldError::Unreadable));
    assert!(store.announce("vm", RAM_BYTES).hashes().is_empty());
    let said = notices(&journal);
    assert!(said.len() == 1 && said[0].contains("damaged"), "{said:?}");
    drop(set);

    bring(&store, "vm", &[pages(3, 4)], None);
    let mut set = store.announce("vm", RAM_BYTES);
    std::fs::OpenOptions::new().write(true).open(&folder.files()[0]).unwrap().set_len(99).unwrap();
    assert_eq!(error_of(&mut set, 0), Some(HeldError::Unreadable));
}

#[test]
fn a_file_that_is_damaged_before_its_pages_are_hashed_ends_there() {
    let folder = Folder::new();
    let (store, journal) = store(Some(&folder), 1 << 30);
    let writer = store.begin("vm", RAM_BYTES).unwrap();
    for block in [pages(1, 4), pages(2, 4), pages(3, 4)] {
        let raw_bytes = block.len() as u32;
        writer.add(FreshBlock { raw_bytes, codec: Codec::None, packed: &block });
    }
    let (file, whole) = (folder.files().remove(0), 12 * PAGE_BYTES as u64);
    let deadline = Instant::now() + PATIENCE;
    while std::fs::metadata(&file).unwrap().len() < whole {
        assert!(Instant::now() < deadline, "the blocks are not written");
        std::thread::sleep(Duration::from_millis(2));
    }
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[6 * PAGE_BYTES] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    writer.finish(Some(Box::new(move |take| pages(4, 2).chunks(PAGE_BYTES).for_each(take))));
    join_all(&store);
    let mut set = store.announce("vm", RAM_BYTES);
    assert_eq!(check_all(&store, &mut set), 4);
    assert!(notices(&journal)[0].contains("damaged"), "{:?}", notices(&journal));
}

#[test]
fn a_check_reads_everything_and_drops_what_is_damaged() {
    let folder = Folder::new();
    for place in [Some(&folder), None] {
        let (store, journal) = store(place, 1 << 30);
        assert_eq!(store.check(), HeldCheck::default());
        let last = pages(9, 300);
        let give: Pages = Box::new(move |take| last.chunks(PAGE_BYTES).for_each(take));
        bring(&store, "vm", &[pages(1, 3), pages(2, 256)], Some(give));
        bring(&store, "other", &[pages(4, 20)], None);
        let sound = HeldCheck { checked: store.totals(None), damaged: Vec::new() };
        assert_eq!((sound.checked.sections, sound.checked.pages), (2, 579));
        assert_eq!((store.check(), store.check()), (sound.clone(), sound));
        assert_eq!((store.totals(None).pages, notices(&journal)), (579, vec![]));
    }
}

#[test]
fn damage_is_counted_and_costs_its_section_alone() {
    let folder = Folder::new();
    let (store, journal) = store(Some(&folder), 1 << 30);
    bring(&store, "vm", &[pages(1, 4), pages(2, 5), pages(3, 6)], None);
    let file = folder.files().remove(0);
    bring(&store, "other", &[pages(4, 7)], None);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[5 * PAGE_BYTES] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    // Promised before, and read as far as it is sound.
    let mut promised = store.announce("vm", RAM_BYTES);
    let HeldCheck { checked, damaged } = store.check();
    let [DamagedSection { guest, damaged_pages, pages, reason, .. }] = &damaged[..] else {
        panic!("{damaged:?}");
    };
    assert_eq!((guest.as_str(), *damaged_pages, *pages, checked.pages), ("vm", 5, 15, 22));
    assert!(reason.contains("block 1 is damaged") && reason.contains(file.to_str().unwrap()));
    assert_eq!(store.announce("vm", RAM_BYTES).hashes().len(), 7, "the other's");
    assert_eq!((store.totals(Some("vm")).pages, store.check().damaged), (0, vec![]));
    assert!(notices(&journal)[0].contains("damaged"), "{:?}", notices(&journal));
    assert!(page_of(&mut promised, 0).is_ok());
    assert_eq!(error_of(&mut promised, 4), Some(HeldError::Unreadable));
    drop(promised);
    assert_eq!(folder.files().len(), 1);
    std::fs::OpenOptions::new().write(true).open(&folder.files()[0]).unwrap().set_len(99).unwrap();
    assert_eq!(store.check().damaged[0].damaged_pages, 7);
    assert_eq!((store.totals(None), folder.files().len()), (HeldTotals::default(), 0));
}

#[test]
fn pages_that_are_whole_and_others_than_their_hashes_are_damage() {
    let (store, _) = store(None, 1 << 30);
    // As if memory had changed since they were hashed.
    let (hashed, mut stored) = (pages(1, 4), pages(1, 4));
    stored[2 * PAGE_BYTES + 7] ^= 1;
    let mut section = Section::new("vm", 77, Storage::memory());
    let form = (Codec::None, stored.len() as u32);
    section.add(store.seal_key().unwrap(), form, stored).unwrap();
    let hashes: Vec<u64> = hashed.chunks(PAGE_BYTES).map(|page| store.key().hash(page)).collect();
    section.add_hashes(&hashes);
    store.close(Some(section), HeldTotals::default());
    let damaged = store.check().damaged;
    assert_eq!((damaged[0].damaged_pages, damaged[0].pages), (1, 4));
    assert!(damaged[0].reason.contains("other pages"), "{damaged:?}");
    assert_eq!(store.totals(None), HeldTotals::default());
}

#[test]
fn a_directory_that_cannot_be_used_is_a_notice_and_nothing_is_held() {
    let folder = Folder::new();
    std::fs::write(folder.0.join(DIRECTORY), "in the way").unwrap();
    let (unusable, journal) = store(Some(&folder), 1 << 30);
    assert!(unusable.begin("vm", RAM_BYTES).is_none());
    assert!(unusable.announce("vm", RAM_BYTES).hashes().is_empty());
    assert!(notices(&journal)[0].contains("no pages will be held"), "{:?}", notices(&journal));

    std::fs::remove_file(folder.0.join(DIRECTORY)).unwrap();
    let (lost, journal) = store(Some(&folder), 1 << 30);
    std::fs::write(folder.0.join(DIRECTORY), "in the way again").unwrap();
    assert!(lost.begin("vm", RAM_BYTES).is_none());
    assert!(notices(&journal)[0].contains("are not held"), "{:?}", notices(&journal));
}

#[test]
fn clearing_is_by_guest_and_age_and_spares_what_is_promised() {
    let folder = Folder::new();
    let (store, _) = store(Some(&folder), 1 << 30);
    bring(&store, "a", &[pages(1, 5)], None);
    bring(&store, "b", &[pages(2, 7)], None);
    assert_eq!(store.clear(None, Some(Duration::from_secs(3_600))), HeldTotals::default());
    assert_eq!(store.clear(Some("nobody"), None).pages, 0);
    let mut promised = store.announce("a", RAM_BYTES);
    let gone = store.clear(Some("a"), Some(Duration::ZERO));
    assert_eq!((gone.sections, gone.pages), (1, 5));
    assert_eq!(check_all(&store, &mut promised), 12);
    drop(promised);
    assert_eq!(folder.files().len(), 1);
    assert_eq!(store.clear(None, None).pages, 7);
    assert_eq!(folder.files().len(), 0);
}

#[test]
fn what_is_not_finished_or_turned_off_is_not_held() {
    let folder = Folder::new();
    let (on, _) = store(Some(&folder), 1 << 30);
    let writer = on.begin("vm", RAM_BYTES).unwrap();
    let block = pages(1, 2);
    writer.add(FreshBlock { raw_bytes: block.len() as u32, codec: Codec::None, packed: &block });
    drop(writer);
    on.stop();
    assert_eq!((on.totals(None), folder.files().len()), (HeldTotals::default(), 0));
    let options = HeldOptions { enabled: false, ..HeldOptions::default() };
    let off = HeldStore::open(Some(&folder.0), options, Arc::default());
    assert!(off.begin("vm", RAM_BYTES).is_none());
}

/// Waits for all writers, with the shelf free: they need it to end.
fn join_all(store: &HeldStore) {
    let threads: Vec<_> = lock(&store.shelf).threads.drain(..).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

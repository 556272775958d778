//! The suite for page sources: the dirty log tells the truth, also under concurrent writers.

use super::{PAGE, Random};
use dwcp::migration::GuestSource;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A source and the guest inside it.
pub struct Rig<'a> {
    /// What is tested.
    pub source: &'a dyn GuestSource,
    /// Writes as the guest does: region, offset, bytes.
    pub guest: &'a (dyn Fn(usize, u64, &[u8]) + Sync),
    /// Pages that one write may dirty together: 1, or more for huge pages that cannot be split.
    pub granule_pages: u64,
}

/// Runs the whole suite. The log must not be started; it is not started afterwards.
pub fn suite(rig: &Rig) {
    clean_after_start(rig);
    written_pages_show_once(rig);
    reading_is_not_writing(rig);
    nothing_is_lost_under_writers(rig);
    bad_ranges_are_refused(rig);
}

/// The pages of a region that the log reports now.
pub fn fetch(source: &dyn GuestSource, region: usize) -> BTreeSet<u64> {
    let pages = source.layout().regions()[region].length_bytes / PAGE;
    let mut log = vec![0_u64; pages.div_ceil(64) as usize];
    source.fetch_dirty(region, &mut log).unwrap();
    let set = |page: &u64| log[(page / 64) as usize] >> (page % 64) & 1 == 1;
    let dirty: BTreeSet<u64> = (0..log.len() as u64 * 64).filter(set).collect();
    assert!(dirty.last().is_none_or(|last| *last < pages), "a bit past the region's end");
    dirty
}

fn clean_after_start(rig: &Rig) {
    for (region, pages) in regions(rig) {
        (rig.guest)(region, pages / 2 * PAGE, &[1]);
    }
    rig.source.start_dirty_log().unwrap();
    for (region, _) in regions(rig) {
        assert_eq!(fetch(rig.source, region), BTreeSet::new(), "region {region} before any write");
    }
    end(rig);
}

fn written_pages_show_once(rig: &Rig) {
    rig.source.start_dirty_log().unwrap();
    let mut random = Random(7);
    for round in 0..4 {
        for (region, pages) in regions(rig) {
            let mut written = BTreeSet::from([0, pages - 1]);
            written.extend((0..pages / 8).map(|_| random.below(pages)));
            for page in &written {
                (rig.guest)(region, page * PAGE + random.below(PAGE), &[round as u8 + 1]);
            }
            // One write over a page border belongs to both pages.
            (rig.guest)(region, PAGE - 1, &[round as u8 + 1; 2]);
            written.insert(1);
            assert_eq!(fetch(rig.source, region), granules(rig, pages, &written), "round {round}");
            assert_eq!(fetch(rig.source, region), BTreeSet::new(), "round {round}, again");
        }
    }
    end(rig);
}

fn reading_is_not_writing(rig: &Rig) {
    rig.source.start_dirty_log().unwrap();
    for (region, pages) in regions(rig) {
        let mut bytes = vec![0; (pages * PAGE) as usize];
        rig.source.read_pages(region, 0, &mut bytes).unwrap();
        assert_eq!(fetch(rig.source, region), BTreeSet::new());
    }
    end(rig);
}

/// Pre-copy in small: copies what the log reports while threads go on writing, then pauses. The
/// image must equal the memory, whatever was written when.
fn nothing_is_lost_under_writers(rig: &Rig) {
    const WRITERS: u64 = 3;
    const ROUNDS: u64 = 200;
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut images: Vec<Vec<u8>> =
        regions(rig).map(|(_, pages)| vec![0xee; (pages * PAGE) as usize]).collect();
    rig.source.start_dirty_log().unwrap();
    std::thread::scope(|scope| {
        for seed in 1..=WRITERS {
            let (stop, written) = (&stop, &written);
            scope.spawn(move || scribble(rig, seed, stop, written));
        }
        for (region, image) in images.iter_mut().enumerate() {
            rig.source.read_pages(region, 0, image).unwrap();
        }
        for round in 1..=ROUNDS {
            // Every round sees new writes, however the threads are scheduled.
            while written.load(Ordering::Relaxed) < round * 50 {
                std::thread::yield_now();
            }
            copy_dirty(rig, &mut images);
        }
        stop.store(true, Ordering::Relaxed);
    });
    rig.source.pause().unwrap();
    copy_dirty(rig, &mut images);
    for (region, image) in images.iter().enumerate() {
        let mut memory = vec![0; image.len()];
        rig.source.read_pages(region, 0, &mut memory).unwrap();
        let lost = (0..image.len() as u64 / PAGE).find(|page| {
            let bytes = (page * PAGE) as usize..((page + 1) * PAGE) as usize;
            image[bytes.clone()] != memory[bytes]
        });
        assert_eq!(lost, None, "a write to region {region} was lost");
        assert_eq!(fetch(rig.source, region), BTreeSet::new(), "writes while paused");
    }
    rig.source.resume().unwrap();
    end(rig);
}

fn scribble(rig: &Rig, seed: u64, stop: &AtomicBool, written: &AtomicU64) {
    let mut random = Random(seed);
    let shapes: Vec<_> = regions(rig).collect();
    let mut count = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        let (region, pages) = shapes[random.below(shapes.len() as u64) as usize];
        // Half of the writes go to few hot pages, which are then often being copied.
        let page = random.below(if count.is_multiple_of(2) { pages } else { pages.min(8) });
        let offset = page * PAGE + random.below(PAGE / 8) * 8;
        count += 1;
        (rig.guest)(region, offset, &(seed << 56 | count).to_ne_bytes());
        written.fetch_add(1, Ordering::Relaxed);
    }
}

fn copy_dirty(rig: &Rig, images: &mut [Vec<u8>]) {
    for (region, image) in images.iter_mut().enumerate() {
        for page in fetch(rig.source, region) {
            let bytes = (page * PAGE) as usize..((page + 1) * PAGE) as usize;
            rig.source.read_pages(region, page * PAGE, &mut image[bytes]).unwrap();
        }
    }
}

fn bad_ranges_are_refused(rig: &Rig) {
    rig.source.start_dirty_log().unwrap();
    let count = rig.source.layout().regions().len();
    for (region, pages) in regions(rig) {
        let mut page = [0; PAGE as usize];
        rig.source.read_pages(region, (pages - 1) * PAGE, &mut page).unwrap();
        for offset in [pages * PAGE, (pages - 1) * PAGE + 1, u64::MAX, u64::MAX - PAGE + 1] {
            let error = rig.source.read_pages(region, offset, &mut page).unwrap_err();
            assert!(error.to_string().contains(&offset.to_string()), "{error}");
        }
        let words = pages.div_ceil(64) as usize;
        assert!(rig.source.fetch_dirty(region, &mut vec![0; words + 1]).is_err());
        assert!(rig.source.fetch_dirty(region, &mut vec![0; words - 1]).is_err());
    }
    assert!(rig.source.read_pages(count, 0, &mut [0; PAGE as usize]).is_err());
    assert!(rig.source.fetch_dirty(count, &mut [0]).is_err());
    end(rig);
}

fn end(rig: &Rig) {
    rig.source.finish(dwcp::migration::guest::Ending::Keep).unwrap();
}

fn regions(rig: &Rig) -> impl Iterator<Item = (usize, u64)> + use<> {
    let lengths: Vec<u64> =
        rig.source.layout().regions().iter().map(|region| region.length_bytes / PAGE).collect();
    lengths.into_iter().enumerate()
}

fn granules(rig: &Rig, pages: u64, written: &BTreeSet<u64>) -> BTreeSet<u64> {
    let granule = rig.granule_pages;
    let whole = |page: &u64| page / granule * granule..(page / granule + 1) * granule;
    written.iter().flat_map(whole).filter(|page| *page < pages).collect()
}

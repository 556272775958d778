//! Tests of hybrid encoding: every page comes back, the ends stay in step, hostile bytes are named.

use super::*;
use crate::encoding::held::HeldKey;
use fastrand::Rng;

const BOTH: HybridOptions = HybridOptions { delta: true, duplicates: true, held: true };
const NEITHER: HybridOptions = HybridOptions { delta: false, duplicates: false, held: false };
const ROOMY: BaselineLimits = BaselineLimits { max_bytes: 64 << 20, max_baselines: 1 << 20 };

/// Both ends.
struct Pair {
    encoder: PageEncoder,
    decoder: PageDecoder,
    encoded: EncodedPages,
    decoded: Vec<u8>,
}

impl Pair {
    fn new(limits: BaselineLimits) -> Self {
        let (encoder, decoder) = (PageEncoder::new(limits), PageDecoder::new(limits));
        Self { encoder, decoder, encoded: EncodedPages::default(), decoded: Vec::new() }
    }

    /// Sends a segment and checks that it arrives.
    fn send(&mut self, keys: &[PageKey], data: &[u8], options: HybridOptions) -> ClassCounts {
        self.encoder.encode(keys, &mut data.to_vec(), options, &mut self.encoded);
        let EncodedPages { classes, fresh, delta, counts } = &self.encoded;
        assert_eq!(counts.pages() as usize, keys.len());
        assert_eq!(counts.fresh as usize * PAGE_BYTES, fresh.len());
        assert_eq!(counts.delta as usize * PAGE_BYTES, delta.len());
        let (mut fresh, out) = (fresh.clone(), &mut self.decoded);
        let moved = self.decoder.decode(keys, classes, &mut fresh, delta, out).unwrap();
        assert_eq!(moved, !keys.is_empty() && counts.fresh as usize == keys.len());
        assert!(self.decoded == data);
        *counts
    }

    fn send_page(&mut self, number: u64, page: &[u8]) -> ClassCounts {
        self.send(&[key(number)], page, BOTH)
    }
}

/// A guest that writes: fresh bytes, few changes, copies of other pages, zeros.
struct Guest {
    pages: Vec<Vec<u8>>,
    rng: Rng,
}

impl Guest {
    fn new(pages: usize, seed: u64) -> Self {
        Self { pages: vec![vec![0; PAGE_BYTES]; pages], rng: Rng::with_seed(seed) }
    }

    fn write(&mut self) -> (PageKey, Vec<u8>) {
        let (at, from) = (self.rng.usize(..self.pages.len()), self.rng.usize(..self.pages.len()));
        match self.rng.u32(..8) {
            0 => self.pages[at] = vec![0; PAGE_BYTES],
            1 | 2 => self.pages[at] = self.pages[from].clone(),
            3 | 4 => self.rng.fill(&mut self.pages[at]),
            _ => (0..self.rng.usize(..1500)).for_each(|_| {
                let byte = self.rng.usize(..PAGE_BYTES);
                self.pages[at][byte] = self.rng.u8(..);
            }),
        }
        (key(at as u64), self.pages[at].clone())
    }

    fn segment(&mut self, pages: usize) -> (Vec<PageKey>, Vec<u8>) {
        let (keys, data): (Vec<_>, Vec<_>) = (0..pages).map(|_| self.write()).unzip();
        (keys, data.concat())
    }
}

fn key(number: u64) -> PageKey {
    PageKey { block: (number % 2) as u16, page: number / 2 }
}

fn random_page(seed: u64) -> Vec<u8> {
    let mut page = vec![0; PAGE_BYTES];
    Rng::with_seed(seed).fill(&mut page);
    page
}

fn limits() -> [BaselineLimits; 7] {
    let of = |max_bytes, max_baselines| BaselineLimits { max_bytes, max_baselines };
    [
        of(0, 0),
        of(0, 100),
        of(u64::MAX, 0),
        of(u64::MAX, 1),
        of(30_000, u64::MAX),
        of(200_000, 17),
        ROOMY,
    ]
}

#[test]
fn every_page_comes_back_whatever_the_limits() {
    for (limits, seed) in limits().into_iter().zip(0..) {
        let (mut pair, mut guest) = (Pair::new(limits), Guest::new(60, seed));
        pair.encoder = PageEncoder::new(limits).with_refresh(Duration::from_secs(seed));
        for second in 0..60 {
            pair.encoder.set_time(Time(second * 1_000_000));
            let (keys, data) = guest.segment(1 + seed as usize * 8);
            let (delta, duplicates) = (guest.rng.u32(..4) > 0, guest.rng.bool());
            let options = HybridOptions { delta, duplicates, held: guest.rng.bool() };
            pair.send(&keys, &data, options);
            assert_eq!(pair.encoder.baselines(), pair.decoder.baselines());
            assert!(pair.encoder.memory_bytes() <= limits.max_bytes);
            assert!(pair.decoder.memory_bytes() <= pair.encoder.memory_bytes());
            assert!(pair.encoder.baselines() as u64 <= limits.max_baselines);
        }
    }
}

/// What the decoder's side holds.
struct Holder(Vec<Vec<u8>>);

impl HeldPages for Holder {
    fn append(&mut self, index: u32, out: &mut Vec<u8>) -> Result<(), HeldError> {
        match self.0.get(index as usize) {
            // As if it had been damaged since.
            Some(page) if page.is_empty() => Err(HeldError::Unreadable),
            Some(page) => {
                out.extend_from_slice(page);
                Ok(())
            }
            None => Err(HeldError::Unknown(self.0.len() as u32)),
        }
    }
}

/// Of what the holder has, as it told it.
fn announced(pages: &[Vec<u8>]) -> Arc<AnnouncedPages> {
    let key = HeldKey([9; 32]);
    let mut announced = AnnouncedPages::new(key);
    assert!(announced.add(pages.iter().map(|page| key.hash(page))));
    Arc::new(announced)
}

#[test]
fn held_pages_come_back_at_every_limit_and_mode() {
    for (limits, seed) in limits().into_iter().zip(0..) {
        let (mut pair, mut guest) = (Pair::new(limits), Guest::new(60, seed));
        let held: Vec<Vec<u8>> = (0..300).map(|page| random_page(1_000 + page)).collect();
        pair.encoder.announce(announced(&held));
        pair.decoder.announce(Box::new(Holder(held.clone())));
        let mut used = 0;
        for _ in 0..60 {
            let (mut keys, mut data) = guest.segment(1 + seed as usize * 8);
            for _ in 0..guest.rng.usize(..12) {
                let at = guest.rng.usize(..held.len());
                keys.push(key(1_000 + guest.rng.u64(..400)));
                data.extend_from_slice(&held[at]);
            }
            let (delta, duplicates) = (guest.rng.bool(), guest.rng.bool());
            let options = HybridOptions { delta, duplicates, held: guest.rng.u32(..4) > 0 };
            let counts = pair.send(&keys, &data, options);
            assert!(options.held || counts.held == 0);
            used += counts.held;
            assert_eq!(pair.encoder.baselines(), pair.decoder.baselines());
        }
        assert!(used > 50, "{used} with {limits:?}");
    }
}

#[test]
fn held_pages_in_order_cost_two_bytes_for_a_segment_and_become_baselines() {
    let held: Vec<Vec<u8>> = (0..8).map(random_page).collect();
    let mut pair = Pair::new(ROOMY);
    pair.encoder.announce(announced(&held));
    pair.decoder.announce(Box::new(Holder(held.clone())));
    let keys: Vec<PageKey> = (0..4).map(key).collect();
    assert_eq!(pair.send(&keys, &held[2..6].concat(), BOTH).held, 4);
    assert_eq!(pair.encoded.classes, [3, 3 << 3 | PageClass::Held as u8, 4, 0, 0, 0]);
    let mut page = held[2].clone();
    page[7] ^= 1;
    assert_eq!(pair.send_page(0, &page).delta, 1);
    // What was sent before has been written since: it is not looked up.
    assert_eq!(pair.send_page(0, &held[7]).held, 0);
    assert_eq!(pair.send_page(99, &held[6]).held, 1);
    assert_eq!(pair.send_page(98, &held[6]).duplicate, 1);
}

#[test]
fn held_pages_that_are_not_there_are_named() {
    use DecodeHybridError as E;
    let held = PageClass::Held as u8;
    let mut decoder = PageDecoder::new(ROOMY);
    let decode = |decoder: &mut PageDecoder, classes: &[u8]| {
        decoder.decode(&[key(0)], classes, &mut Vec::new(), &[], &mut Vec::new())
    };
    let error = |index, source| Err(E::Held { key: key(0), index, source });
    assert_eq!(decode(&mut decoder, &[2, held, 0]), error(0, HeldError::Unknown(0)));
    decoder.announce(Box::new(Holder(vec![vec![7; PAGE_BYTES], vec![]])));
    assert_eq!(decode(&mut decoder, &[2, held, 0]), Ok(false));
    assert_eq!(decode(&mut decoder, &[3, held, 2]), error(1, HeldError::Unreadable));
    assert_eq!(decode(&mut decoder, &[3, held, 4]), error(2, HeldError::Unknown(2)));
    assert_eq!(decode(&mut decoder, &[3, held, 1]), error(u32::MAX, HeldError::Unknown(2)));
    for class in 5..8 {
        assert_eq!(decode(&mut decoder, &[2, class, 0]), Err(E::Class(class.into())));
    }
    assert_eq!(decode(&mut decoder, &[2, held]), Err(E::ClassesEnd(2)));
}

#[test]
fn every_class_is_used_and_counted() {
    let mut pair = Pair::new(ROOMY);
    let mut page = random_page(1);
    let counts = pair.send_page(0, &page);
    assert_eq!((counts.fresh, counts.with_baseline), (1, 0));
    page[100] ^= 1;
    let counts = pair.send_page(0, &page);
    assert_eq!((counts.delta, counts.with_baseline), (1, 1));
    assert_eq!(pair.encoded.delta.iter().filter(|byte| **byte != 0).count(), 1);
    assert_eq!(pair.send_page(9, &page).duplicate, 1);
    assert_eq!(pair.encoded.classes, [1, PageClass::Duplicate as u8, 0]);
    assert_eq!(pair.send_page(9, &page).duplicate, 1, "again, of itself");
    assert_eq!(pair.send_page(9, &[0; PAGE_BYTES]).zero, 1);
    assert_eq!(pair.send_page(9, &random_page(2)).fresh, 1, "a delta of all bytes is no gain");
}

#[test]
fn runs_take_two_bytes_for_a_segment_of_one_class() {
    let mut pair = Pair::new(ROOMY);
    let keys: Vec<_> = (0..MAX_SEGMENT_PAGES as u64).map(key).collect();
    pair.send(&keys, &vec![0; keys.len() * PAGE_BYTES], BOTH);
    assert_eq!(pair.encoded.classes.len(), 3);
    pair.send(&[], &[], BOTH);
    assert_eq!(pair.encoded.classes, [1]);
}

#[test]
fn a_segment_may_refer_to_itself() {
    let mut pair = Pair::new(ROOMY);
    let page = random_page(3);
    let counts = pair.send(&[key(1), key(2), key(1)], &page.repeat(3), BOTH);
    assert_eq!((counts.fresh, counts.duplicate), (1, 2));
}

#[test]
fn without_options_the_caches_stay_as_they_are() {
    let mut pair = Pair::new(ROOMY);
    let (first, second) = (random_page(1), random_page(2));
    pair.send_page(0, &first);
    assert_eq!(pair.send(&[key(0), key(1)], &second.repeat(2), NEITHER).fresh, 2);
    assert_eq!((pair.encoder.baselines(), pair.decoder.baselines()), (1, 1));
    assert_eq!(pair.send_page(5, &first).duplicate, 1);
}

#[test]
fn equal_hashes_of_unequal_pages_are_no_duplicates() {
    let mut pair = Pair::new(ROOMY);
    pair.encoder.hash = |_| 7;
    for number in 0..20 {
        assert_eq!(pair.send_page(number, &random_page(number)).fresh, 1);
    }
    assert_eq!(pair.send_page(99, &random_page(19)).duplicate, 1);
    pair.encoder.hash = |page| u64::from(page[0] % 3);
    let mut guest = Guest::new(20, 5);
    for _ in 0..100 {
        let (keys, data) = guest.segment(9);
        pair.send(&keys, &data, BOTH);
    }
}

#[test]
fn where_segments_end_changes_nothing() {
    for limits in limits() {
        let mut guest = Guest::new(80, 11);
        let (keys, data) = guest.segment(2000);
        let run = |seed: u64| {
            let (mut pair, mut rng) = (Pair::new(limits), Rng::with_seed(seed));
            let (mut at, mut bodies, mut counts) = (0, Vec::new(), [0; 4]);
            while at < keys.len() {
                let end = (at + rng.usize(1..=MAX_SEGMENT_PAGES)).min(keys.len());
                let of = &data[at * PAGE_BYTES..end * PAGE_BYTES];
                let added = pair.send(&keys[at..end], of, BOTH);
                let added = [added.zero, added.duplicate, added.delta, added.fresh];
                counts.iter_mut().zip(added).for_each(|(sum, added)| *sum += added);
                bodies.push(pair.encoded.fresh.clone());
                bodies.push(
                    pair.encoder.references.iter().flat_map(|slot| slot.to_le_bytes()).collect(),
                );
                at = end;
            }
            let held = (0..80).map(|page| pair.decoder.cache.slot_of(key(page)));
            let (fresh, slots): (Vec<_>, Vec<_>) =
                bodies.chunks(2).map(|two| (two[0].clone(), two[1].clone())).unzip();
            (fresh.concat(), slots.concat(), counts, held.collect::<Vec<_>>())
        };
        assert!(run(1) == run(2) && run(2) == run(3), "{limits:?}");
    }
}

/// A page that is written again and again, a little each time, at these seconds.
fn classes_of_a_written_page(pair: &mut Pair, times_s: &[u64]) -> String {
    let mut page = random_page(6);
    let class = |(number, time_s): (usize, &u64)| {
        page[number] ^= 1;
        pair.encoder.set_time(Time(time_s * 1_000_000));
        let counts = pair.send_page(0, &page);
        assert_eq!(counts.delta + counts.fresh, 1);
        if counts.delta == 1 { 'd' } else { 'W' }
    };
    times_s.iter().enumerate().map(class).collect()
}

#[test]
fn a_page_that_was_long_sent_as_differences_goes_whole_once_more() {
    let refreshed = |interval_s| {
        let mut pair = Pair::new(ROOMY);
        pair.encoder = PageEncoder::new(ROOMY).with_refresh(Duration::from_secs(interval_s));
        pair
    };
    let classes = |interval_s, times_s: &[u64]| {
        classes_of_a_written_page(&mut refreshed(interval_s), times_s)
    };
    // Counted from the first difference: however long ago it came whole, one is worth it.
    assert_eq!(classes(10, &[0, 5, 6, 14, 15, 16, 25, 26]), "WdddWddW");
    assert_eq!(classes(10, &[0, 500, 900, 1_300]), "WdWd");
    assert_eq!(classes(0, &[0, 0, 0, 0, 0]), "WdWdW");
    assert_eq!(classes(600, &[0, 5, 6, 14, 15, 16, 25, 26]), "Wddddddd");
    let times_s: Vec<u64> = (0..9).map(|at| at * 100_000_000).collect();
    assert_eq!(classes_of_a_written_page(&mut Pair::new(ROOMY), &times_s), "Wdddddddd");
}

#[test]
fn an_equal_page_is_as_old_as_the_one_that_it_refers_to() {
    let mut pair = Pair::new(ROOMY);
    pair.encoder = PageEncoder::new(ROOMY).with_refresh(Duration::from_secs(10));
    assert_eq!(classes_of_a_written_page(&mut pair, &[0, 5]), "Wd");
    let mut page = pair.decoded.clone();
    assert_eq!(pair.send_page(7, &page).duplicate, 1);
    page[9] ^= 1;
    pair.encoder.set_time(Time(14_000_000));
    assert_eq!(pair.send_page(7, &page).delta, 1);
    page[9] ^= 2;
    pair.encoder.set_time(Time(15_000_000));
    assert_eq!(pair.send_page(7, &page).fresh, 1);
    assert_eq!(pair.send_page(8, &page).duplicate, 1, "references are to equal pages of any age");
}

#[test]
fn both_ends_start_over_after_clear() {
    let mut pair = Pair::new(ROOMY);
    pair.send_page(0, &random_page(1));
    pair.encoder.clear();
    pair.decoder.clear();
    assert_eq!(pair.encoder.memory_bytes() + pair.decoder.memory_bytes(), 0);
    assert_eq!(pair.send_page(0, &random_page(1)).fresh, 1);
}

#[test]
fn a_delta_is_taken_up_to_its_limit_and_not_beyond() {
    let old = random_page(4);
    let changed = |bytes: usize| {
        let mut new = old.clone();
        new.iter_mut().rev().take(bytes).for_each(|byte| *byte = !*byte);
        new
    };
    assert!(delta_pays(&old, &changed(MAX_CHANGED_BYTES)));
    assert!(!delta_pays(&old, &changed(MAX_CHANGED_BYTES + 1)));
    assert!(!delta_pays(&old, &changed(PAGE_BYTES)));
}

#[test]
fn hostile_segments_are_refused_by_name() {
    use DecodeHybridError as E;
    let (duplicate, delta, fresh) = (1, 2, 3);
    let cases: &[(&[u8], usize, usize, E)] = &[
        (&[], 0, 0, E::ClassesEnd(0)),
        (&[4], 0, 0, E::Mode(4)),
        (&[1], 0, 0, E::ClassesEnd(1)),
        (&[1, 0x80], 0, 0, E::ClassesEnd(2)),
        (&[1, 0x80, 0], 0, 0, E::Number(1)),
        (&[1, 0xff, 0xff, 0xff, 0xff, 0x1f], 0, 0, E::Number(1)),
        (&[1, 0xff, 0xff, 0xff, 0xff, 0xff, 0], 0, 0, E::Number(1)),
        (&[1, 4 << 2], 0, 0, E::Run { run_pages: 5, left_pages: 2 }),
        (&[1, 0, 4], 0, 0, E::Run { run_pages: 2, left_pages: 1 }),
        (&[1, 0xff, 0xff, 0xff, 0xff, 0x0f], 0, 0, E::Run { run_pages: 1 << 30, left_pages: 2 }),
        (&[0, 4 | duplicate, 0, 0], 0, 0, E::NoBaselines(key(0))),
        (&[0, 4 | delta], 0, 8192, E::NoBaselines(key(0))),
        (&[1, 4 | duplicate, 5, 5], 0, 0, E::Slot { key: key(0), slot: 5 }),
        (&[1, 4 | duplicate], 0, 0, E::ClassesEnd(2)),
        (&[1, fresh, duplicate, 1], 4096, 0, E::Slot { key: key(1), slot: 1 }),
        (&[1, 4 | delta], 0, 8192, E::NoBaseline(key(0))),
        (&[1, 4 | fresh], 8191, 0, E::BlockEnd { block: "fresh", length: 8191, key: key(1) }),
        (&[1, 4 | fresh], 8193, 0, E::Trailing { block: "fresh", left: 1 }),
        (&[1, 4 | fresh], 8192, 7, E::Trailing { block: "delta", left: 7 }),
        (&[1, 4, 9], 0, 0, E::Trailing { block: "classes", left: 1 }),
    ];
    for (classes, fresh, delta, expected) in cases {
        let (mut fresh, delta) = (vec![1; *fresh], vec![2; *delta]);
        let (mut decoder, keys) = (PageDecoder::new(ROOMY), [key(0), key(1)]);
        let decoded = decoder.decode(&keys, classes, &mut fresh, &delta, &mut Vec::new());
        assert_eq!(decoded, Err(*expected), "{classes:02x?}");
        assert!(!expected.to_string().is_empty());
    }
    let keys = vec![key(0); MAX_SEGMENT_PAGES + 1];
    let (fresh, out) = (&mut Vec::new(), &mut Vec::new());
    let decoded = PageDecoder::new(ROOMY).decode(&keys, &[1], fresh, &[], out);
    assert_eq!(decoded, Err(E::TooManyPages(257)));
}

#[test]
fn damaged_segments_never_panic_and_clear_mends_all() {
    let (mut pair, mut guest, mut rng) = (Pair::new(ROOMY), Guest::new(40, 2), Rng::with_seed(3));
    for _ in 0..2000 {
        let (keys, data) = guest.segment(12);
        pair.encoder.encode(&keys, &mut data.clone(), BOTH, &mut pair.encoded);
        let EncodedPages { classes, fresh, delta, .. } = &mut pair.encoded;
        for bytes in [&mut *classes, fresh, delta] {
            let at = rng.usize(..=bytes.len());
            match rng.u32(..6) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, rng.u8(..)),
                2 if at < bytes.len() => bytes[at] ^= 1 << rng.u32(..8),
                _ => {}
            }
        }
        if pair.decoder.decode(&keys, classes, fresh, delta, &mut pair.decoded).is_ok() {
            assert_eq!(pair.decoded.len(), data.len());
        }
    }
    pair.encoder.clear();
    pair.decoder.clear();
    let (keys, data) = guest.segment(100);
    pair.send(&keys, &data, BOTH);
}

#[test]
fn a_baseline_that_changed_is_found() {
    let mut encoder = PageEncoder::new(BaselineLimits { max_bytes: 1 << 20, max_baselines: 100 });
    let keys: Vec<PageKey> = (0..20).map(|page| PageKey { block: 0, page }).collect();
    let mut data: Vec<u8> = (1..=20).flat_map(|byte| [byte; PAGE_BYTES]).collect();
    encoder.encode(&keys, &mut data, BOTH, &mut EncodedPages::default());
    assert_eq!(encoder.verify(0..100), Some((20, 0)));
    assert_eq!((encoder.verify(5..8), encoder.verify(18..40)), (Some((3, 0)), Some((2, 0))));
    assert_eq!((encoder.verify(20..40), encoder.verify(99..100)), (None, None));
    // As if one bit of the page of sevens had flipped.
    encoder.hash = |page| page_hash(page) ^ u64::from(page[0] == 7);
    assert_eq!(encoder.verify(0..100), Some((20, 1)));
}

//! A set of page numbers as 64-bit words, the shape in which kernels hand out dirty logs.

use std::ops::Range;

/// A fixed-size set of page numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageBitmap {
    words: Vec<u64>,
    pages: u64,
}

impl PageBitmap {
    /// An empty set over `pages` page numbers.
    pub fn new(pages: u64) -> Self {
        Self { words: vec![0; pages.div_ceil(64) as usize], pages }
    }

    /// Page numbers that the set can hold.
    pub fn capacity(&self) -> u64 {
        self.pages
    }

    /// The words of the pages from `first` on, which is a multiple of 64, for at most `pages` of them.
    pub fn words(&self, first: u64, pages: u64) -> &[u64] {
        debug_assert!(first.is_multiple_of(64));
        let end = first.saturating_add(pages).min(self.pages).div_ceil(64) as usize;
        self.words.get((first / 64) as usize..end).unwrap_or_default()
    }

    /// The pages in the set, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.words.iter().enumerate().flat_map(|(index, word)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros())?;
                left &= left - 1;
                Some(index as u64 * 64 + u64::from(bit))
            })
        })
    }

    /// The pages in the set as runs of neighbours, ascending.
    pub fn runs(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let mut pages = self.iter().peekable();
        std::iter::from_fn(move || {
            let start = pages.next()?;
            let mut end = start + 1;
            while pages.next_if_eq(&end).is_some() {
                end += 1;
            }
            Some(start..end)
        })
    }

    /// Adds every page number.
    pub fn fill(&mut self) {
        self.words.fill(u64::MAX);
        let spare = self.pages % 64;
        if let (Some(last), true) = (self.words.last_mut(), spare != 0) {
            *last = (1 << spare) - 1;
        }
    }

    /// Adds one page.
    pub fn insert(&mut self, page: u64) {
        debug_assert!(page < self.pages);
        self.words[(page / 64) as usize] |= 1 << (page % 64);
    }

    /// Takes one page out.
    pub fn remove(&mut self, page: u64) {
        debug_assert!(page < self.pages);
        self.words[(page / 64) as usize] &= !(1 << (page % 64));
    }

    /// Whether the page is in the set.
    pub fn contains(&self, page: u64) -> bool {
        self.words.get((page / 64) as usize).is_some_and(|word| word >> (page % 64) & 1 == 1)
    }

    /// How many pages the set holds.
    pub fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Adds the pages of a dirty log: bit `i` of `log` is page `first + i`.
    ///
    /// Bits that fall outside `pages` are ignored. Returns how many pages were not yet in the set.
    pub fn merge_log(&mut self, pages: Range<u64>, log: &[u64]) -> u64 {
        let length = pages.end - pages.start;
        let mut added = 0;
        for (index, word) in log.iter().enumerate() {
            let base = index as u64 * 64;
            if *word == 0 || base >= length {
                continue;
            }
            let valid = if length - base >= 64 { u64::MAX } else { (1 << (length - base)) - 1 };
            added += self.merge_word(pages.start + base, word & valid);
        }
        added
    }

    /// The first page at or after `from` that is in the set and not in `without`.
    pub fn next_without(&self, from: u64, without: &PageBitmap) -> Option<u64> {
        let first = (from / 64) as usize;
        let mut mask = u64::MAX << (from % 64);
        for index in first..self.words.len() {
            let word = self.words[index] & !without.words[index] & mask;
            if word != 0 {
                return Some(index as u64 * 64 + u64::from(word.trailing_zeros()));
            }
            mask = u64::MAX;
        }
        None
    }

    fn merge_word(&mut self, first: u64, bits: u64) -> u64 {
        let (index, shift) = ((first / 64) as usize, first % 64);
        let mut added = self.or_word(index, bits << shift);
        if shift != 0 && bits >> (64 - shift) != 0 {
            added += self.or_word(index + 1, bits >> (64 - shift));
        }
        added
    }

    fn or_word(&mut self, index: usize, bits: u64) -> u64 {
        let word = &mut self.words[index];
        let added = bits & !*word;
        *word |= bits;
        u64::from(added.count_ones())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fill_stops_at_the_last_page() {
        let mut set = PageBitmap::new(70);
        set.fill();
        assert_eq!(set.count(), 70);
        assert!(set.contains(69) && !set.contains(70));
    }

    #[test]
    fn a_log_is_merged_at_any_offset_and_clipped() {
        let mut set = PageBitmap::new(200);
        let added = set.merge_log(60..70, &[u64::MAX, u64::MAX]);
        assert_eq!((added, set.count()), (10, 10));
        assert!(set.contains(60) && set.contains(69) && !set.contains(70));
        assert_eq!(set.merge_log(60..70, &[1]), 0);
    }

    #[test]
    fn words_and_members_agree() {
        let mut set = PageBitmap::new(200);
        let pages = [0, 63, 64, 130, 199];
        pages.iter().for_each(|page| set.insert(*page));
        assert_eq!(set.iter().collect::<Vec<_>>(), pages);
        assert_eq!(set.runs().collect::<Vec<_>>(), [0..1, 63..65, 130..131, 199..200]);
        assert_eq!(set.words(64, 64), [1]);
        assert_eq!(set.words(128, u64::MAX), [1 << 2, 1 << 7]);
        assert!(set.words(256, 64).is_empty());
    }

    #[test]
    fn next_skips_what_the_other_set_holds() {
        let (mut pending, mut flying) = (PageBitmap::new(300), PageBitmap::new(300));
        for page in [3, 64, 299] {
            pending.insert(page);
        }
        flying.insert(64);
        assert_eq!(pending.next_without(0, &flying), Some(3));
        assert_eq!(pending.next_without(4, &flying), Some(299));
        pending.remove(299);
        assert_eq!(pending.next_without(4, &flying), None);
    }
}

//! Which pages are still to be sent, which are under way, and the next chunk's worth of them.
//!
//! A page is never in two chunks at a time: what was written while its last copy is under way
//! stays pending until that copy is acknowledged or lost. So no order between streams is needed.

use crate::base::{PageBitmap, limits::MAX_CHUNK_EXTENTS};
use std::ops::Range;

/// A run of pages of one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first page.
    pub first_page: u64,
    /// How many.
    pub pages: u32,
}

impl Run {
    /// The page numbers.
    pub fn range(self) -> Range<u64> {
        self.first_page..self.first_page + u64::from(self.pages)
    }
}

/// The pages of one guest on their way.
#[derive(Debug)]
pub struct PagePlan {
    pending: PageBitmap,
    under_way: PageBitmap,
    pending_count: u64,
    cursor: u64,
}

impl PagePlan {
    /// A plan with nothing to send.
    pub fn new(pages: u64) -> Self {
        Self {
            pending: PageBitmap::new(pages),
            under_way: PageBitmap::new(pages),
            pending_count: 0,
            cursor: 0,
        }
    }

    /// Everything is to be sent.
    pub fn add_all(&mut self) {
        self.pending.fill();
        self.pending_count = self.pending.capacity();
    }

    /// Adds the pages of a dirty log; returns how many the log names that were not yet pending.
    pub fn add_log(&mut self, pages: Range<u64>, log: &[u64]) -> u64 {
        let added = self.pending.merge_log(pages, log);
        self.pending_count += added;
        added
    }

    /// Pages to be sent.
    pub fn pending(&self) -> u64 {
        self.pending_count
    }

    /// Takes up to `max_pages` pending pages that are not under way, in ascending runs.
    ///
    /// Empty when there are none; pages under way may still be pending then.
    pub fn take(&mut self, max_pages: u32) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        let mut left = max_pages;
        let mut wrapped = self.cursor == 0;
        while left > 0 {
            let Some(page) = self.pending.next_without(self.cursor, &self.under_way) else {
                if wrapped || !runs.is_empty() {
                    break;
                }
                (self.cursor, wrapped) = (0, true);
                continue;
            };
            let extends = runs.last().is_some_and(|run| run.range().end == page);
            if !extends && runs.len() == MAX_CHUNK_EXTENTS / 2 {
                break;
            }
            match runs.last_mut() {
                Some(run) if extends => run.pages += 1,
                _ => runs.push(Run { first_page: page, pages: 1 }),
            }
            self.pending.remove(page);
            self.under_way.insert(page);
            self.pending_count -= 1;
            self.cursor = page + 1;
            left -= 1;
        }
        runs
    }

    /// Takes one page, if it is pending and not under way; [`Self::take`] goes on behind it.
    pub fn take_one(&mut self, page: u64) -> bool {
        if !self.pending.contains(page) || self.under_way.contains(page) {
            return false;
        }
        self.pending.remove(page);
        self.under_way.insert(page);
        self.pending_count -= 1;
        self.cursor = page + 1;
        true
    }

    /// Whether the page is still to be sent, or sent and not yet settled.
    pub fn is_open(&self, page: u64) -> bool {
        self.pending.contains(page) || self.under_way.contains(page)
    }

    /// The pages to be sent.
    pub fn pending_pages(&self) -> &PageBitmap {
        &self.pending
    }

    /// These pages arrived.
    pub fn arrived(&mut self, runs: &[Run]) {
        runs.iter().flat_map(|run| run.range()).for_each(|page| self.under_way.remove(page));
    }

    /// These pages were lost: they are pending again.
    pub fn lost(&mut self, runs: &[Run]) {
        for page in runs.iter().flat_map(|run| run.range()) {
            self.under_way.remove(page);
            self.pending_count += u64::from(!self.pending.contains(page));
            self.pending.insert(page);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_written_while_under_way_waits() {
        let mut plan = PagePlan::new(100);
        assert_eq!(plan.add_log(0..100, &[0b110]), 2);
        let first = plan.take(64);
        assert_eq!(first, [Run { first_page: 1, pages: 2 }]);
        plan.add_log(0..100, &[0b010]);
        assert_eq!((plan.take(64), plan.pending()), (vec![], 1));
        plan.arrived(&first);
        assert_eq!(plan.take(64), [Run { first_page: 1, pages: 1 }]);
    }

    #[test]
    fn lost_pages_come_back_once() {
        let mut plan = PagePlan::new(100);
        plan.add_all();
        let runs = plan.take(10);
        plan.add_log(0..100, &[1]);
        plan.lost(&runs);
        assert_eq!(plan.pending(), 100);
        let mut seen = 0;
        loop {
            let runs = plan.take(7);
            if runs.is_empty() {
                break;
            }
            seen += runs.iter().map(|run| run.pages).sum::<u32>();
        }
        assert_eq!((seen, plan.pending()), (100, 0));
    }

    #[test]
    fn a_page_that_is_asked_for_comes_first_and_its_neighbours_next() {
        let mut plan = PagePlan::new(100);
        plan.add_all();
        assert!(plan.take_one(40) && !plan.take_one(40));
        assert_eq!(plan.take(2), [Run { first_page: 41, pages: 2 }]);
        plan.arrived(&[Run { first_page: 40, pages: 1 }]);
        assert!(!plan.take_one(40), "it is there");
        assert!(!plan.take_one(100), "no such page");
        assert!(plan.take_one(99));
        assert_eq!(plan.take(1), [Run { first_page: 0, pages: 1 }], "and then from the start");
        assert_eq!(plan.pending_pages().count(), plan.pending());
    }

    #[test]
    fn scattered_pages_stop_at_the_extent_limit() {
        let mut plan = PagePlan::new(1024);
        plan.add_log(0..1024, &[0x5555_5555_5555_5555; 16]);
        assert_eq!(plan.take(400).len(), MAX_CHUNK_EXTENTS / 2);
    }
}

//! Work under way: a slot holds the memory that its work uses until the device says that it is done
//! with it, and there are no more slots than completions that fit.

use super::memory::MemoryRegion;
use super::work::{PostError, Work};
use std::sync::Arc;

/// Slots of sends, writes and reads are numbered from here.
pub(super) const SENDS: u64 = 0;
/// Slots of receives are numbered from here.
pub(super) const RECEIVES: u64 = 1 << 32;

/// Work under way.
#[derive(Debug)]
pub(super) struct Slot {
    id: u64,
    work: Work,
    /// Held until the work has ended.
    _region: Option<Arc<MemoryRegion>>,
}

impl Slot {
    pub(super) fn new(id: u64, work: Work, region: Option<Arc<MemoryRegion>>) -> Self {
        Self { id, work, _region: region }
    }
}

/// Work under way, by number.
#[derive(Debug)]
pub(super) struct Slots {
    first: u64,
    taken: Vec<Option<Slot>>,
    free: Vec<usize>,
}

impl Slots {
    pub(super) fn new(depth: u32, first: u64) -> Self {
        let depth = depth as usize;
        Self { first, taken: (0..depth).map(|_| None).collect(), free: (0..depth).rev().collect() }
    }

    /// How many more fit.
    pub(super) fn room(&self) -> usize {
        self.free.len()
    }

    pub(super) fn take(&mut self, slot: Slot) -> Result<u64, PostError> {
        let full = PostError::Full { depth: self.taken.len() as u32 };
        let index = self.free.pop().ok_or(full)?;
        self.taken[index] = Some(slot);
        Ok(self.first + index as u64)
    }

    /// Number and kind of the work that had the slot, whose memory is let go; none for a slot that is
    /// free.
    pub(super) fn free(&mut self, number: u64) -> Option<(u64, Work)> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let slot = self.taken.get_mut(index)?.take()?;
        self.free.push(index);
        Some((slot.id, slot.work))
    }

    /// Never lets go of the memory of work under way.
    pub(super) fn forget(&mut self) {
        std::mem::forget(std::mem::take(&mut self.taken));
        self.free.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(id: u64) -> Slot {
        Slot::new(id, Work::Write, None)
    }

    #[test]
    fn slots_are_bounded_and_used_again() {
        let mut slots = Slots::new(2, RECEIVES);
        let first = slots.take(slot(10)).unwrap();
        let second = slots.take(slot(11)).unwrap();
        assert_eq!([first, second], [RECEIVES, RECEIVES + 1]);
        let error = slots.take(slot(12)).unwrap_err();
        assert_eq!(error.to_string(), "2 pieces of work are under way, and no more fit");
        assert_eq!(slots.free(first), Some((10, Work::Write)));
        assert_eq!(slots.free(first), None, "a slot was freed twice");
        assert_eq!(slots.take(slot(13)).unwrap(), first);
        assert_eq!((slots.free(0), slots.free(u64::MAX)), (None, None));
    }
}

//! What was seen within about the last second, in slots of time, without a list of samples.

use crate::base::Time;

const SLOTS: usize = 4;
const SLOT_US: u64 = 250_000;

/// A ring of slots; what is older than the window reads as the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct Slots<T> {
    ring: [T; SLOTS],
    /// Number of the newest slot since the clock's start.
    newest: u64,
}

impl<T: Copy + Default> Slots<T> {
    /// The slot of this moment. Time must not run backwards.
    pub fn at(&mut self, now: Time) -> &mut T {
        let slot = now.0 / SLOT_US;
        let passed = slot.saturating_sub(self.newest).min(SLOTS as u64);
        for step in 0..passed {
            self.ring[((slot - step) % SLOTS as u64) as usize] = T::default();
        }
        self.newest = self.newest.max(slot);
        &mut self.ring[(self.newest % SLOTS as u64) as usize]
    }

    /// All slots, in no order; meaningful right after [`Self::at`].
    pub fn all(&self) -> impl Iterator<Item = T> + '_ {
        self.ring.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_slots_read_as_nothing() {
        let mut slots = Slots::<u64>::default();
        for slot in 0..10 {
            *slots.at(Time(slot * SLOT_US)) = slot;
            let kept: u64 = slots.all().sum();
            let expected: u64 = (slot.saturating_sub(SLOTS as u64 - 1)..=slot).sum();
            assert_eq!(kept, expected, "slot {slot}");
        }
        *slots.at(Time(50 * SLOT_US)) = 7;
        assert_eq!(slots.all().sum::<u64>(), 7);
        assert_eq!(*slots.at(Time(u64::MAX)), 0);
    }
}

//! What was usual for one unit before its flag was raised, hour by hour of the day.
//!
//! Paths differ by far more than any limit, and most have their busy hours, so a unit is held against
//! itself: with a control arm beside it, which has the same busy hours, against its whole past; alone,
//! against the same hour of earlier days.

use crate::base::Time;

/// Means of logarithms, one for each hour of the day.
#[derive(Clone, Debug, Default)]
pub struct Past {
    hours: [Hour; HOURS],
}

#[derive(Clone, Copy, Debug, Default)]
struct Hour {
    mean: f32,
    rounds: u16,
}

impl Past {
    /// Takes in what was measured in a round. Old rounds fade after `MAX_ROUNDS`.
    pub fn add(&mut self, now: Time, value: f32) {
        let hour = &mut self.hours[hour_of(now)];
        hour.rounds = (hour.rounds + 1).min(MAX_ROUNDS);
        hour.mean += (value - hour.mean) / f32::from(hour.rounds);
    }

    /// The mean of the whole past and its rounds, if there are enough of them.
    pub fn usual(&self) -> Option<(f32, u32)> {
        mean(self.hours.iter()).filter(|(_, rounds)| *rounds >= LEAST_ROUNDS)
    }

    /// The mean of this hour of the day, or of it and its neighbours, if there are enough rounds.
    pub fn usual_at(&self, now: Time) -> Option<(f32, u32)> {
        let hour = hour_of(now);
        let this = &self.hours[hour];
        if u32::from(this.rounds) >= LEAST_ROUNDS_OF_HOUR {
            return Some((this.mean, u32::from(this.rounds)));
        }
        let around = [(hour + HOURS - 1) % HOURS, hour, (hour + 1) % HOURS];
        let around = mean(around.iter().map(|hour| &self.hours[*hour]));
        around.filter(|(_, rounds)| *rounds >= LEAST_ROUNDS_OF_HOUR)
    }

    /// Whether it covers most of a day.
    pub fn is_whole_day(&self) -> bool {
        self.hours.iter().filter(|hour| hour.rounds > 0).count() >= HOURS / 2
    }

    /// Moves all of it, as everything has moved since.
    pub fn shift(&mut self, by: f32) {
        self.hours.iter_mut().for_each(|hour| hour.mean += by);
    }
}

fn mean<'a>(hours: impl Iterator<Item = &'a Hour>) -> Option<(f32, u32)> {
    let add = |(sum, rounds): (f32, u32), hour: &Hour| {
        (sum + hour.mean * f32::from(hour.rounds), rounds + u32::from(hour.rounds))
    };
    let (sum, rounds) = hours.fold((0.0, 0), add);
    (rounds > 0).then(|| (sum / rounds as f32, rounds))
}

/// Any clock's day will do: what matters is that it comes again.
fn hour_of(now: Time) -> usize {
    (now.0 / HOUR_US) as usize % HOURS
}

/// Microseconds of an hour.
pub const HOUR_US: u64 = 3_600_000_000;
const HOURS: usize = 24;
/// So many rounds of an hour are remembered.
const MAX_ROUNDS: u16 = 1000;
const LEAST_ROUNDS: u32 = 20;
const LEAST_ROUNDS_OF_HOUR: u32 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = HOUR_US;

    #[test]
    fn each_hour_has_its_own_mean() {
        let mut past = Past::default();
        for day in 0..30 {
            past.add(Time(day * 24 * HOUR), 1.0);
            past.add(Time((day * 24 + 12) * HOUR), 3.0);
        }
        assert_eq!(past.usual_at(Time(24 * 99 * HOUR)), Some((1.0, 30)));
        assert_eq!(past.usual_at(Time(12 * HOUR)), Some((3.0, 30)));
        assert_eq!(past.usual_at(Time(13 * HOUR)), Some((3.0, 30)), "the hour before stands in");
        assert_eq!(past.usual_at(Time(6 * HOUR)), None);
        assert_eq!(past.usual(), Some((2.0, 60)));
        past.shift(0.5);
        assert_eq!(past.usual(), Some((2.5, 60)));
    }

    #[test]
    fn too_little_is_nothing() {
        let mut past = Past::default();
        assert_eq!((past.usual(), past.usual_at(Time(0))), (None, None));
        (0..4).for_each(|_| past.add(Time(0), 1.0));
        assert_eq!((past.usual(), past.usual_at(Time(0))), (None, None));
        past.add(Time(HOUR), 1.0);
        assert_eq!(past.usual_at(Time(0)), Some((1.0, 5)), "with the hour after it");
        assert!(!past.is_whole_day());
        (0..12).for_each(|hour| past.add(Time(hour * HOUR), 1.0));
        assert!(past.is_whole_day());
    }

    #[test]
    fn old_rounds_fade() {
        let mut past = Past::default();
        (0..5000).for_each(|_| past.add(Time(0), 1.0));
        (0..5000).for_each(|_| past.add(Time(0), 2.0));
        let (mean, rounds) = past.usual_at(Time(0)).unwrap();
        assert!(mean > 1.9 && rounds == 1000, "{mean} {rounds}");
    }
}

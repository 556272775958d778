//! A bettor against "all is well", whose wealth is the evidence: what an e-process is.
//!
//! Each bet is fair or worse for the bettor while all is well, so by Ville's inequality wealth that
//! began at one ever reaches `n` with a probability of at most `1/n`, however often somebody looks.
//! Who does not know when harm begins must not stake everything at the start, where it would be
//! lost by the time that it matters. So stakes are placed bit by bit: a large one whenever a
//! percentage is raised, and a small one before every bet. What has not been placed yet counts as
//! wealth too.

use super::spending;

/// Wealth spread over `N` ways to bet.
#[derive(Clone, Debug)]
pub struct Wealth<const N: usize> {
    /// How a stake is divided; the sum is one.
    shares: [f64; N],
    at_stake: [f64; N],
    /// For raises, and for bets in between.
    unplaced: [f64; 2],
    raises: u32,
    bets: u64,
}

impl<const N: usize> Wealth<N> {
    /// One, with nothing placed yet.
    pub fn new(shares: [f64; N]) -> Self {
        let unplaced = [1.0 - spending::BETWEEN_RAISES, spending::BETWEEN_RAISES];
        Self { shares, at_stake: [0.0; N], unplaced, raises: 0, bets: 0 }
    }

    /// Places the stake of a raised percentage.
    pub fn raise(&mut self) {
        let stake = spending::stake_of_raise(self.raises).min(self.unplaced[0]);
        self.raises = self.raises.saturating_add(1);
        self.unplaced[0] -= stake;
        self.place(stake);
    }

    /// Places a bit more, then multiplies what is at stake: each factor must be at most one on
    /// average while all is well.
    pub fn bet(&mut self, factors: [f64; N]) {
        self.bets = self.bets.saturating_add(1);
        let rest = spending::rest_after(self.bets);
        let stake = (self.unplaced[1] - rest).max(0.0);
        self.unplaced[1] -= stake;
        self.place(stake);
        for (at_stake, factor) in self.at_stake.iter_mut().zip(factors) {
            *at_stake = (*at_stake * factor).clamp(0.0, MOST);
        }
    }

    /// Gives winnings away, as after an episode that explains them. Poorer is always allowed.
    pub fn forgo_winnings(&mut self) {
        for (at_stake, share) in self.at_stake.iter_mut().zip(self.shares) {
            *at_stake = at_stake.min(share);
        }
    }

    /// How many to one speaks against "all is well".
    pub fn odds(&self) -> f64 {
        self.at_stake.iter().chain(&self.unplaced).sum()
    }

    fn place(&mut self, stake: f64) {
        for (at_stake, share) in self.at_stake.iter_mut().zip(self.shares) {
            *at_stake += stake * share;
        }
    }
}

/// Beyond any threshold, and its sums stay finite.
const MOST: f64 = 1e250;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_made_out_of_nothing() {
        let mut wealth = Wealth::new([0.5, 0.5]);
        for _ in 0..40 {
            wealth.raise();
            (0..1000).for_each(|_| wealth.bet([1.0, 1.0]));
            assert!((wealth.odds() - 1.0).abs() < 1e-9, "{wealth:?}");
        }
    }

    #[test]
    fn a_late_change_still_finds_a_stake() {
        let mut wealth = Wealth::new([1.0]);
        wealth.raise();
        (0..100_000).for_each(|_| wealth.bet([0.9]));
        assert!(wealth.odds() < 1.0);
        (0..60).for_each(|_| wealth.bet([1.6]));
        assert!(wealth.odds() > 1000.0, "{wealth:?}");
        wealth.forgo_winnings();
        assert!(wealth.odds() <= 2.0);
    }

    #[test]
    fn it_stays_finite() {
        let mut wealth = Wealth::new([1.0]);
        wealth.raise();
        (0..10_000).for_each(|_| wealth.bet([50.0]));
        assert!(wealth.odds().is_finite());
        (0..100).for_each(|_| wealth.bet([0.0]));
        assert!(wealth.odds() < 1.0);
    }
}

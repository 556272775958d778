//! A cap that several share: nobody who wants more gets less than another, and what one leaves goes
//! to the others.

/// What one of them can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Whatever it gets.
    All,
    /// At most so much.
    UpTo(u64),
}

/// Divides a rate. What nobody wants is divided too, evenly, so that one who comes to want more need
/// not wait until it is asked again.
pub fn divide(rate_bytes_per_s: u64, wants: &[Want]) -> Vec<u64> {
    let mut order: Vec<usize> = (0..wants.len()).collect();
    let bound = |at: usize| match wants[at] {
        Want::All => u64::MAX,
        Want::UpTo(rate) => rate,
    };
    order.sort_unstable_by_key(|at| bound(*at));
    let (mut shares, mut left) = (vec![0; wants.len()], rate_bytes_per_s);
    for (before, at) in order.iter().enumerate() {
        let even = left / (wants.len() - before) as u64;
        shares[*at] = bound(*at).min(even);
        left -= shares[*at];
    }
    let spare = left / wants.len().max(1) as u64;
    shares.iter_mut().for_each(|share| *share += spare);
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use Want::{All, UpTo};

    #[test]
    fn who_wants_more_gets_the_same() {
        assert_eq!(divide(800, &[All; 8]), [100; 8]);
        assert_eq!(divide(800, &[]), [0; 0]);
        assert_eq!(divide(800, &[All]), [800]);
    }

    #[test]
    fn what_one_leaves_goes_to_the_others() {
        assert_eq!(divide(900, &[All, UpTo(100), All]), [400, 100, 400]);
        assert_eq!(divide(900, &[UpTo(500), UpTo(100), All]), [400, 100, 400]);
        assert_eq!(divide(900, &[UpTo(350), UpTo(100), All]), [350, 100, 450]);
        assert_eq!(divide(900, &[UpTo(0), UpTo(300)]), [300, 600]);
    }

    #[test]
    fn no_wants_break_the_bounds() {
        let mut random = fastrand::Rng::with_seed(5);
        for _ in 0..2_000 {
            let want = |random: &mut fastrand::Rng| match random.bool() {
                true => All,
                false => UpTo(10_u64.pow(random.u32(0..19))),
            };
            let wants: Vec<Want> = (0..random.usize(1..20)).map(|_| want(&mut random)).collect();
            let rate = 10_u64.pow(random.u32(0..19));
            let shares = divide(rate, &wants);
            let sum: u128 = shares.iter().map(|share| u128::from(*share)).sum();
            let wasted = u128::from(rate) - sum;
            assert!(wasted <= 2 * wants.len() as u128, "{rate} among {wants:?}: {shares:?}");
            let of_all = shares.iter().zip(&wants).filter(|(_, want)| **want == All);
            let least = of_all.map(|(share, _)| *share).min();
            let most = shares.iter().max().copied();
            assert!(least.is_none_or(|least| Some(least + 2) >= most), "{wants:?}: {shares:?}");
        }
    }
}

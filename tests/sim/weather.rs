//! What may go wrong in a relayed migration, and how often.

/// In chances out of 10,000 a step.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub misbehave: u32,
    pub cut: u32,
    pub cut_all: u32,
    pub hypervisor_fails: u32,
    pub never_runs: u32,
    /// The hypervisor that has the end is gone, and nobody can tell whether it ran the guest.
    pub is_lost: u32,
    pub disk_full: u32,
    pub cancel: u32,
    pub crash: u32,
    pub long_pause: u32,
    pub outage: u32,
    pub longest_outage_s: u64,
    pub slow_replay: u32,
    /// The destination breaks the protocol.
    pub announces_again: u32,
}

impl Weather {
    const FINE: Self = Self {
        misbehave: 0,
        cut: 0,
        cut_all: 0,
        hypervisor_fails: 0,
        never_runs: 0,
        is_lost: 0,
        disk_full: 0,
        cancel: 0,
        crash: 0,
        long_pause: 0,
        outage: 0,
        longest_outage_s: 0,
        slow_replay: 0,
        announces_again: 0,
    };
    /// The network alone goes wrong, and never for longer than anybody waits.
    pub const BAD_NETWORK: Self = Self {
        misbehave: 40,
        cut: 80,
        cut_all: 8,
        outage: 6,
        longest_outage_s: 8,
        slow_replay: 5_000,
        ..Self::FINE
    };
    /// Nothing goes wrong, but readers and writers sleep while others go on.
    pub const OUT_OF_STEP: Self = Self { slow_replay: 3_000, ..Self::FINE };

    /// Half of all that can go wrong does, now and then.
    pub fn stormy(seed: u64, random: &mut fastrand::Rng) -> Self {
        let mut chance = |most: u32| if random.bool() { random.u32(..=most) } else { 0 };
        Self {
            misbehave: chance(60),
            cut: chance(100),
            cut_all: chance(20),
            hypervisor_fails: chance(4),
            never_runs: chance(5_000),
            is_lost: chance(10_000),
            disk_full: chance(800),
            cancel: chance(6),
            crash: chance(16),
            long_pause: chance(40),
            outage: chance(12),
            longest_outage_s: 50,
            slow_replay: chance(9_000),
            announces_again: if seed % 20 == 19 { 20 } else { 0 },
        }
    }
}

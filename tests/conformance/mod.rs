//! What every page source and every page sink must do, whoever wrote it: suites that take a maker.

pub mod sinks;
pub mod sources;

use dwcp::base::{MemoryLayout, RegionLayout};

/// The page size of all suites, which is the host's.
pub const PAGE: u64 = 4096;

/// A layout with regions `ram0`, `ram1`... of so many pages.
pub fn layout(pages: &[u64]) -> MemoryLayout {
    let region = |(index, pages): (usize, &u64)| RegionLayout {
        name: format!("ram{index}"),
        guest_address: 0,
        length_bytes: pages * PAGE,
    };
    MemoryLayout::new(PAGE as u32, pages.iter().enumerate().map(region).collect()).unwrap()
}

/// A small random number generator (xorshift64*), seeded so that failures repeat.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % limit
    }
}

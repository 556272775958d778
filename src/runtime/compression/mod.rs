//! Tools that look at memory: what codecs do to it, and whether all of it comes back.

pub mod analysis;
pub mod round_trip;
pub mod sample;

pub use analysis::{Analysis, analyze};
pub use round_trip::{Verdict, round_trips};
pub use sample::{FileMemory, Memory, Sample, SampleError, take_sample};

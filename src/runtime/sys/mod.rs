//! All raw system calls and raw memory of the runtime; nothing above it says `unsafe` (the C ABI
//! aside).

pub mod dirty_tracking;
pub mod disk;
pub mod event_fd;
pub mod guest_memory;
pub mod missing_memory;
mod pagemap;
pub mod process;
pub mod readiness;
pub mod socket;
pub mod thread;
pub mod tracking_support;
mod userfaultfd;
pub mod wall_clock;

pub use dirty_tracking::DirtyTracker;
pub use event_fd::EventFd;
pub use guest_memory::{Allocation, MapError, MappedMemory, RangeError};
pub use missing_memory::{MissingError, MissingMemory};
pub use process::Process;
pub use thread::spawn_named;
pub use tracking_support::TrackingError;

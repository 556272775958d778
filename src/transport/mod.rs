//! L2: streams, acknowledgement, resending, pacing, as engines without sockets.

pub mod bandwidth;
pub mod pacer;
pub mod session;

pub use bandwidth::BandwidthEstimator;
pub use pacer::Pacer;
pub use session::{Session, SessionError};

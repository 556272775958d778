//! L2: streams, acknowledgement, resending, pacing, modes, as engines without sockets.

pub mod background;
pub mod bandwidth;
pub mod mode;
pub mod pacer;
pub mod session;

pub use background::BackgroundPace;
pub use bandwidth::BandwidthEstimator;
pub use mode::{Mode, ModePolicy, ModeTable};
pub use pacer::Pacer;
pub use session::{Session, SessionError};

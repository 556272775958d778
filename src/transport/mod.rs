//! L2: streams, acknowledgement, resending, pacing, modes, as engines without sockets.

pub mod addresses;
pub mod background;
pub mod bandwidth;
pub mod fair_share;
pub mod fall;
pub mod mode;
pub mod pacer;
pub mod path_options;
pub mod rdma_options;
pub mod session;
pub mod shape;
pub mod stream_tuner;

pub use addresses::Addresses;
pub use background::BackgroundPace;
pub use bandwidth::BandwidthEstimator;
pub use mode::{Mode, ModePolicy, ModeTable};
pub use pacer::Pacer;
pub use path_options::PathOptions;
pub use rdma_options::RdmaOptions;
pub use session::{Session, SessionError};
pub use shape::{PathUse, StreamShape};
pub use stream_tuner::StreamTuner;

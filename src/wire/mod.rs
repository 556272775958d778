//! L1: what crosses the wire, byte by byte; decoders check every length before they use it.
//!
//! All integers are little-endian. A connection opens with a [`preface`](frame::Preface) each way,
//! then carries frames: a hello, its reply, and after that control messages, chunks of pages and
//! acknowledgements. Decoders take slices and give values; they never allocate more than the input
//! justifies.

pub mod chunk;
pub mod control;
pub mod cursor;
pub mod frame;
pub mod hello;
pub mod metrics;
pub mod page_request;
pub mod paths;
pub mod rdma;
pub mod segment;
pub mod v1;

pub use chunk::{ChunkAck, ChunkHeader, Extent, ExtentKind};
pub use control::Control;
pub use cursor::WireError;
pub use frame::{Frame, FrameHeader, FrameKind, Preface};
pub use hello::{Hello, HelloReply};
pub use metrics::{ToldFamily, ToldMetrics, ToldSeries};
pub use page_request::PageRequest;
pub use paths::{PathRow, Paths};

//! Formats of DWCP v1, byte by byte, for reading what a v1 peer wrote and writing what it can read.
//!
//! All integers are big-endian, and nothing carries a checksum of its own. What holds the codecs to v1
//! is its published source and the vectors under `tests/vectors`. No v1 node could be run against, because
//! none builds into a working receiver; but its transports, its encoder, its cluster link and its
//! replicated types build alone, and those wrote and read the same bytes.
//!
//! Readers take what v1 writes, its faults included where they cannot be told from sense, and refuse
//! the rest; every length has a limit and is checked before it is believed. Writers write nothing that
//! v1 cannot read. A peer is v1 because somebody said so: nothing here guesses from first bytes, and a
//! hello of ours must never reach a v1 port, where it would be read as a chunk's number and length.

pub mod cluster;
pub mod compatibility;
pub mod crdt;
pub mod delta;
pub mod f16;
pub mod f8;
pub mod federation;
pub mod flags;
pub mod frames;
pub mod hde;
pub mod json;
pub mod link;
pub mod payload;
pub mod rdma;
pub mod sdk;
pub mod sync;

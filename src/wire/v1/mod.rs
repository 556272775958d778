//! Formats of DWCP v1, byte by byte, for reading what a v1 peer wrote and writing what it can read.
//!
//! All integers are big-endian, and nothing carries a checksum of its own. No v1 program could be
//! run against, because none builds into a working receiver: what holds the codecs to v1 is its
//! published source and the vectors under `tests/vectors`.

pub mod hde;

//! A network laboratory for trials, tests and benchmarks: two hosts on one machine, and the link between.
//!
//! The hosts are network namespaces. The link is either a veth pair, as fast as the kernel, or
//! this crate's own emulator, which needs nothing of the kernel but TUN devices:
//!
//! * [`shaper`] decides for each packet when it arrives, or that it never does (no clock, no IO);
//! * [`segments`] lets that decision fall on real MTU-sized packets, although the kernel hands
//!   over super-packets of up to 64 KiB;
//! * [`faults`] changes bits of packets, or breaks their connections;
//! * [`emulator`] moves packets between the two [`tun`] devices, a thread for each direction;
//! * [`Lab`] puts the pieces together and takes them away again, also after a panic.
//!
//! ```no_run
//! use dwcp_netlab::{Lab, LinkConfig};
//! use std::time::Duration;
//!
//! let lab = Lab::emulated(
//!     LinkConfig::default().rate(300_000_000).rtt(Duration::from_millis(80)).loss(0.001),
//! )?;
//! let listener = lab.a().enter(|| std::net::TcpListener::bind((lab.a().ipv4(), 7000)))?;
//! let server = lab.a().spawn(lab.a().command("iperf3").arg("-s"))?;
//! lab.set_loss(0.01);
//! # drop((listener, server));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! From a shell (root, since it makes namespaces):
//!
//! ```text
//! dwcp-link-lab --rate 300mbit --rtt 80ms --loss 0.001 -- iperf3 -s ::: iperf3 -c 10.77.0.1
//! dwcp-link-lab --rate 1gbit --rtt 5ms      # holds the link; commands on stdin: rate 50mbit,
//!                                           # rtt 20ms, loss 0.01, down, up, stats, quit
//! ```

pub mod emulator;
mod error;
pub mod faults;
mod lab;
mod namespace;
pub mod rights;
pub mod segments;
pub mod shaper;
pub mod signals;
mod sys;
pub mod tun;
pub mod units;

pub use emulator::{Direction, LinkStats};
pub use error::LabError;
pub use lab::Lab;
pub use namespace::{Host, Running};
pub use shaper::LinkConfig;

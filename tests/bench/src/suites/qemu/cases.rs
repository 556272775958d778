//! What is measured: guests, links, means of moving, and what is wanted of each cell.

use crate::Failure;
use dwcp::migration::CodecPolicy;
use dwcp_netlab::{Lab, LinkConfig};
use dwcp_qemulab::baseline::Mode;
use dwcp_qemulab::{Image, Load, VmConfig};
use std::fmt;
use std::time::Duration;

/// A guest.
#[derive(Clone, Copy)]
pub struct Guest {
    /// As the command line has it.
    pub name: &'static str,
    /// Its memory.
    pub memory_mib: u32,
    /// What it does.
    pub load: Load,
}

/// The guests.
pub const GUESTS: [Guest; 4] = [
    Guest { name: "idle", memory_mib: 512, load: Load::Idle },
    Guest { name: "text", memory_mib: 512, load: Load::Text { mib: 384, rate_mib: 4 } },
    Guest { name: "redis", memory_mib: 512, load: Load::Redis { mib: 160, rate_mib: 1 } },
    Guest { name: "random", memory_mib: 256, load: Load::Random { mib: 128, rate_mib: 1 } },
];

impl Guest {
    /// What it boots.
    pub fn image(&self) -> Result<Image, Failure> {
        Ok(match self.load {
            Load::Redis { .. } => Image::cached_with_redis()?,
            _ => Image::cached()?,
        })
    }

    /// How its QEMU is started.
    pub fn config(&self) -> VmConfig<'static> {
        // Little is verified each second: the guest shares two cores with those that move it.
        let verify_share = 64;
        VmConfig {
            load: self.load,
            memory_mib: self.memory_mib,
            verify_share,
            ..VmConfig::default()
        }
    }
}

/// A link.
#[derive(Clone, Copy)]
pub struct Link {
    /// As the command line has it.
    pub key: &'static str,
    /// As the results have it.
    pub name: &'static str,
    /// None: as fast as the kernel.
    pub mbit_per_s: Option<u64>,
    rtt: Duration,
    loss: f64,
}

/// The links.
pub const LINKS: [Link; 4] = [
    Link { key: "200", name: "200 Mbit/s", mbit_per_s: Some(200), rtt: Duration::ZERO, loss: 0.0 },
    Link {
        key: "300",
        name: "300 Mbit/s 80 ms 0.1 %",
        mbit_per_s: Some(300),
        rtt: Duration::from_millis(80),
        loss: 0.001,
    },
    Link {
        key: "1000",
        name: "1 Gbit/s 10 ms",
        mbit_per_s: Some(1000),
        rtt: Duration::from_millis(10),
        loss: 0.0,
    },
    Link { key: "veth", name: "veth", mbit_per_s: None, rtt: Duration::ZERO, loss: 0.0 },
];

impl Link {
    /// Two hosts with this link between them.
    pub fn lab(&self) -> Result<Lab, Failure> {
        let Some(mbit_per_s) = self.mbit_per_s else { return Ok(Lab::veth()?) };
        let config = LinkConfig::default().rate(mbit_per_s * 1_000_000);
        Ok(Lab::emulated(config.rtt(self.rtt).loss(self.loss))?)
    }

    /// Slower than a machine packs.
    fn is_narrow(&self) -> bool {
        self.mbit_per_s.is_some_and(|rate| rate <= 300)
    }
}

/// The links of the selector of codecs, and how many rounds each is worth. None is slower: at 10 Mbit/s a
/// guest that writes 1 MiB/s and is not packed never gets there.
pub const SELECTOR_LINKS: [(Link, usize); 4] = [
    (shaped("100", "100 Mbit/s", 100), 2),
    (shaped("1000", "1 Gbit/s", 1000), 3),
    (shaped("10000", "10 Gbit/s", 10_000), 3),
    (LINKS[3], 3),
];

const fn shaped(key: &'static str, name: &'static str, mbit_per_s: u64) -> Link {
    Link { key, name, mbit_per_s: Some(mbit_per_s), rtt: Duration::ZERO, loss: 0.0 }
}

/// The guest of the selector of codecs.
pub const SELECTOR_GUEST: Guest =
    Guest { name: "text", memory_mib: 128, load: Load::Text { mib: 64, rate_mib: 1 } };

/// How a guest is moved.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Means {
    /// By libdwcp, out of one QEMU and into another.
    Relay(CodecPolicy),
    /// So too, by QEMU's post-copy after so long.
    Switch(Duration),
    /// By QEMU alone.
    Qemu(Mode),
}

/// By libdwcp as it comes.
pub const AUTO: Means = Means::Relay(CodecPolicy::Auto);
/// All of them. QEMU's `compress` is not among them: in 7.2 it damages guests, so how fast it does
/// that says nothing ([`Mode::Compress`]).
pub const MEANS: [Means; 3] =
    [AUTO, Means::Qemu(Mode::Plain), Means::Qemu(Mode::MultifdZstd { channels: 4 })];
/// Place of libdwcp in [`MEANS`].
pub const RELAY: usize = 0;
const MULTIFD_ZSTD: usize = 2;

impl Means {
    /// As the results have it.
    pub fn name(self) -> &'static str {
        match self {
            Means::Relay(_) | Means::Switch(_) => "libdwcp",
            Means::Qemu(Mode::PostCopy { .. }) => "post-copy",
            Means::Qemu(Mode::Plain) => "plain",
            Means::Qemu(Mode::MultifdZstd { .. }) => "multifd zstd",
            Means::Qemu(Mode::Compress) => "compress",
        }
    }
}

impl fmt::Display for Means {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// What bytes on the wire are held against.
pub enum WirePeer {
    /// The most frugal of QEMU's modes.
    Best,
    /// One of [`MEANS`].
    Means(usize),
    /// The guest's memory.
    Ram,
}

/// Bounds on the ratio of libdwcp to its peer.
pub struct Bounds {
    /// Of the time from beginning to end.
    pub total: f64,
    /// Of the time in which the guest runs nowhere.
    pub downtime: f64,
    /// Of bytes.
    pub wire: f64,
    /// To what the bytes are held.
    pub wire_peer: WirePeer,
    /// Of the time that the packed memory alone takes on the link, where the link is what limits.
    pub total_to_floor: Option<f64>,
}

/// What is wanted of a cell.
pub fn wanted(guest: &Guest, link: &Link) -> Bounds {
    let packs = matches!(guest.load, Load::Text { .. } | Load::Redis { .. });
    let total = match (link.mbit_per_s, packs) {
        (Some(..=300), true) => 0.7,
        (Some(_), _) => 1.0,
        (None, _) => 1.25,
    };
    let (wire, wire_peer) = match guest.load {
        Load::Idle => (0.02, WirePeer::Ram),
        Load::Text { .. } | Load::Redis { .. } => (0.75, WirePeer::Means(MULTIFD_ZSTD)),
        Load::Random { .. } => (1.0, WirePeer::Best),
    };
    // An idle guest's memory is so little that connecting takes longer.
    let has_floor = link.is_narrow() && guest.load != Load::Idle;
    let total_to_floor = has_floor.then_some(1.15);
    Bounds { total, downtime: 1.0, wire, wire_peer, total_to_floor }
}

/// Those of `all` that the command line names.
pub fn chosen<'a, T>(
    names: &[String],
    all: &'a [T],
    name_of: fn(&T) -> &'static str,
) -> Result<Vec<&'a T>, Failure> {
    let known = || all.iter().map(name_of).collect::<Vec<_>>().join(", ");
    let find = |name: &String| {
        let found = all.iter().find(|one| name_of(one) == name);
        found.ok_or_else(|| format!("{name:?} is not known; known: {}", known()).into())
    };
    names.iter().map(find).collect()
}

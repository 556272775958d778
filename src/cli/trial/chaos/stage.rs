//! Two nodes in networks of their own, with a link between them that does as it is told.

use crate::cli::trial::TrialError;
use crate::cli::trial::child::{OwnProgram, Setup, TrialChild};
use crate::cli::trial::fleet::Fleet;
use crate::cli::trial::guest::GuestSize;
use crate::cli::trial::pair::Pair;
use crate::cli::trial::scratch::Scratch;
use dwcp_netlab::shaper::SplitMix;
use dwcp_netlab::{Direction, Host, Lab, LinkConfig};
use std::net::SocketAddr;
use std::time::Duration;

/// How a stage is set up.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Memory of the guest.
    pub guest_bytes: u64,
    /// Without TLS.
    pub is_plain: bool,
    /// Decides when and where faults strike.
    pub seed: u64,
}

/// The nodes, their networks, and the guest; all of it is gone when this is dropped.
pub struct Stage {
    // First, so that nodes end before their networks and directories go.
    pub pair: Pair,
    pub lab: Lab,
    pub random: SplitMix,
    _scratch: Scratch,
    program: OwnProgram,
    setups: [Setup; 2],
}

impl Stage {
    /// Sets all of it up.
    ///
    /// # Errors
    /// No right to make networks, or a node does not start.
    pub async fn new(options: Options) -> Result<Self, TrialError> {
        let (program, scratch) = (OwnProgram::find()?, Scratch::new()?);
        let link = LinkConfig::default().rate(LINK_BITS_PER_S).rtt(LINK_RTT);
        let lab = Lab::emulated_with_seed(link, options.seed)?;
        let fleet = Fleet::found(scratch.path(), options.is_plain)?;
        let setup = |name: &str, host: &Host| -> Result<Setup, TrialError> {
            Ok(Setup {
                name: name.to_owned(),
                listen: SocketAddr::from((host.ipv4(), PORT)),
                directory: scratch.path().join(name),
                identity_dir: fleet.issue(name, host.ipv4().into())?,
                guest: Some(GuestSize { bytes: options.guest_bytes, writes_per_s: WRITES_PER_S }),
            })
        };
        let setups = [setup("left", lab.a())?, setup("right", lab.b())?];
        let left = start(&program, lab.a(), &setups[0]).await?;
        let right = start(&program, lab.b(), &setups[1]).await?;
        let pair = Pair::boot([left, right]).await?;
        let random = SplitMix(options.seed);
        Ok(Self { pair, lab, random, _scratch: scratch, program, setups })
    }

    /// Starts a node that was killed anew, over the records that it left.
    ///
    /// # Errors
    /// It does not start.
    pub async fn restart(&mut self, at: usize) -> Result<(), TrialError> {
        self.pair.nodes[at].kill();
        let host = if at == 0 { self.lab.a() } else { self.lab.b() };
        self.pair.nodes[at] = start(&self.program, host, &self.setups[at]).await?;
        Ok(())
    }

    /// New nodes, and a new guest.
    ///
    /// # Errors
    /// They do not start.
    pub async fn start_over(&mut self) -> Result<(), TrialError> {
        self.restart(0).await?;
        self.restart(1).await?;
        self.pair.home = 0;
        self.pair.nodes[0].tell("boot").await
    }

    /// The direction in which a guest's pages go.
    pub fn direction(&self) -> Direction {
        if self.pair.home == 0 { Direction::AToB } else { Direction::BToA }
    }

    /// Waits for the moment at which a fault is to strike: some share of the guest has been sent, or
    /// it stands still and its ownership is about to pass.
    ///
    /// # Errors
    /// A node is gone.
    pub async fn wait_to_strike(&mut self, id: &str, patience: Duration) -> Result<(), TrialError> {
        let (share, pause) = (self.random.next_unit() * 1.5, self.draw_ms(0, 100));
        self.pair.wait_for_share(id, share, patience).await?;
        if share > 1.0 {
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }

    /// A time between two, as drawn.
    pub fn draw_ms(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.random.next_u64() % (to - from))
    }
}

async fn start(program: &OwnProgram, host: &Host, setup: &Setup) -> Result<TrialChild, TrialError> {
    TrialChild::start(program.complete(host.command(OwnProgram::PATH)), setup).await
}

/// A migration of the guest takes about a second over it, which leaves time for faults.
const LINK_BITS_PER_S: u64 = 150_000_000;
pub(super) const LINK_RTT: Duration = Duration::from_millis(4);
const WRITES_PER_S: u64 = 1000;
/// Nobody else is in the nodes' networks.
const PORT: u16 = 4040;

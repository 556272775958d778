//! What a node offers of the modes of its peers.

use super::transfer::{self, TransportTest};
use super::{ProbeSeries, TransportOptions, probe};
use crate::base::address::check_address;
use crate::runtime::clock::now;
use crate::runtime::node::clip;
use crate::runtime::v1::V1Error;
use crate::transport::Mode;
use crate::transport::mode::PathFigures;
use crate::transport::mode::detector::CONFIRMED_FIRST_AFTER;
use crate::{Node, NodeError};
use serde::Serialize;
use std::time::Duration;

/// How long a new peer may take until the first verdict about it can hold, and some more.
const FIRST_VERDICT: Duration = Duration::from_secs(2).saturating_add(CONFIRMED_FIRST_AFTER);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(50);

/// What a node knows of a peer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PeerMode {
    /// Its address, as it is dialed.
    pub peer: String,
    /// The mode in force.
    pub mode: Mode,
    /// The mode forced for this peer; none: measured, or forced for all.
    pub forced: Option<Mode>,
    /// The mode that the figures speak for now; it takes hold once it has lasted.
    pub measured: Option<Mode>,
    /// Congestion control of the newest connection that carried data, as the kernel says; none: there
    /// was none.
    pub congestion: Option<String>,
    /// Whether streams to it are open.
    pub is_in_use: bool,
    /// What is known of its path.
    #[serde(flatten)]
    pub figures: PathFigures,
    /// For how long its path has told nothing; none: it never did.
    pub silent_us: Option<u64>,
    /// Changes of its mode.
    pub switches: u64,
    /// Measured changes within the last minute.
    pub switches_last_minute: u32,
    /// Why the last probe failed.
    pub failure: Option<String>,
}

impl Node {
    /// Sets how the modes of peers are chosen and what they change. Takes hold at once, for migrations
    /// under way too.
    pub fn set_transport(&self, options: TransportOptions) {
        self.modes().set_options(options);
    }

    /// How the modes of peers are chosen and what they change.
    pub fn transport(&self) -> TransportOptions {
        self.modes().options()
    }

    /// Has the path to a peer looked at from now on, as to one that guests are sent to.
    ///
    /// # Errors
    /// The address is out of form, or there is no room.
    pub fn add_peer(&self, peer: &str) -> Result<(), NodeError> {
        check_peer(peer)?;
        Ok(self.modes().add(peer)?)
    }

    /// What is known of every peer, by address.
    pub fn peers(&self) -> Vec<PeerMode> {
        let modes = self.modes();
        let describe = |(peer, view, failure): (String, crate::transport::mode::PeerView, _)| {
            let silence = view.heard.map(|heard| now().since(heard).as_micros());
            PeerMode {
                mode: view.mode,
                forced: view.forced,
                measured: modes.verdict(&peer),
                congestion: modes.congestion(&peer),
                is_in_use: view.is_in_use,
                figures: view.figures,
                silent_us: silence.map(|us| u64::try_from(us).unwrap_or(u64::MAX)),
                switches: view.switches,
                switches_last_minute: view.switches_last_minute,
                failure,
                peer,
            }
        };
        modes.views().into_iter().map(describe).collect()
    }

    /// Has a peer looked at, waits until a first verdict about it would hold, and tells what is known
    /// then; of a peer that does not answer, that.
    ///
    /// # Errors
    /// As [`Self::add_peer`].
    pub fn detect_mode(&self, peer: &str) -> Result<PeerMode, NodeError> {
        self.add_peer(peer)?;
        let began = now();
        loop {
            let known = self.peers().into_iter().find(|known| known.peer == peer);
            let known = known.ok_or(NodeError::Stopped)?;
            let is_settled = known.measured.is_some_and(|measured| measured == known.mode)
                && known.silent_us.is_some();
            if known.mode == Mode::V1Compat {
                return Ok(known);
            }
            let waited = now() - began;
            let is_silent = known.silent_us.is_none() && known.failure.is_some();
            if is_silent || waited > FIRST_VERDICT || is_settled && waited > CONFIRMED_FIRST_AFTER {
                return Ok(known);
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Forces a mode, or leaves it to measurement: for one peer, or for all until
    /// [`Self::set_transport`] says otherwise.
    ///
    /// # Errors
    /// As [`Self::add_peer`].
    pub fn set_mode(&self, peer: Option<&str>, mode: Option<Mode>) -> Result<(), NodeError> {
        if let Some(peer) = peer {
            check_peer(peer)?;
            return Ok(self.modes().force(peer, mode)?);
        }
        let mut options = self.transport();
        options.policy.forced = mode;
        self.set_transport(options);
        Ok(())
    }

    /// Sends a peer some probes, one after another, and waits for the answers.
    ///
    /// # Errors
    /// The address is out of form, or the peer does not answer.
    pub fn probe_peer(&self, peer: &str, count: u32) -> Result<ProbeSeries, NodeError> {
        self.add_peer(peer)?;
        self.refuse_v1(peer)?;
        let failed = |source| NodeError::Probe { peer: peer.to_owned(), source };
        probe::series(peer, count, self.modes().dscp()).map_err(failed)
    }

    /// Sends a peer filler for some time over so many streams, or as many as `mode` allows, set up for
    /// that mode, and tells what the path carried; without a peer, to this process over the loopback.
    ///
    /// # Errors
    /// The address is out of form, or a connection failed.
    pub fn test_transport(
        &self,
        peer: Option<&str>,
        (mode, streams): (Mode, u16),
        duration: Duration,
    ) -> Result<TransportTest, NodeError> {
        let run = |peer: &str| {
            let failed = |source| NodeError::TransportTest { peer: peer.to_owned(), source };
            transfer::run(self.modes(), peer, (mode, streams), duration).map_err(failed)
        };
        if let Some(peer) = peer {
            self.add_peer(peer)?;
            self.refuse_v1(peer)?;
            return run(peer);
        }
        let listener = self.listen_within()?;
        let peer = listener.address().to_string();
        let tested = run(&peer);
        self.modes().remove(&peer);
        let connections = listener.connections();
        drop(listener);
        connections.close();
        tested
    }

    /// What is v3's protocol must not reach a v1 peer.
    fn refuse_v1(&self, peer: &str) -> Result<(), NodeError> {
        match self.modes().mode(peer) {
            Mode::V1Compat => Err(V1Error::NoProbes(peer.to_owned()).into()),
            _ => Ok(()),
        }
    }
}

fn check_peer(peer: &str) -> Result<(), NodeError> {
    check_address(peer).map_err(|reason| NodeError::Address { address: clip(peer), reason })
}

//! What a node offers of the modes of its peers.

use super::matrix::{self, MatrixPath, MatrixRow};
use super::transfer::{self, TransportTest};
use super::{ProbeSeries, TransportOptions, probe};
use crate::base::Networks;
use crate::base::address::check_address;
use crate::base::limits::{MAX_ASKED_NODES, MAX_CONNECTION_PROBES, MAX_STREAMS};
use crate::runtime::asking::PATIENCE;
use crate::runtime::clock::now;
use crate::runtime::node::clip;
use crate::runtime::v1::V1Error;
use crate::transport::Mode;
use crate::transport::mode::detector::CONFIRMED_FIRST_AFTER;
use crate::transport::mode::{PathFigures, PeerView};
use crate::{Node, NodeError, Status};
use serde::Serialize;
use std::time::Duration;

/// How long a new peer may take until the first verdict about it can hold, and some more.
const FIRST_VERDICT: Duration = Duration::from_secs(2).saturating_add(CONFIRMED_FIRST_AFTER);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(50);
/// How short a test of a path may be; in less, TCP has hardly begun.
pub const SHORTEST_TEST: Duration = Duration::from_millis(100);
/// How long a test of a path may be.
pub const LONGEST_TEST: Duration = Duration::from_secs(30);

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

/// Something is asked about a peer that cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// It is not known here.
    #[error("no peer {0:?} is known here")]
    Unknown(String),
    /// No peer is called so, as far as is known.
    #[error("no known peer is called {0:?}, nor is its host; give HOST:PORT")]
    UnknownName(String),
    /// It cannot be forgotten.
    #[error("streams to peer {0:?} are open")]
    InUse(String),
    /// Too few probes, or more than a listener answers.
    #[error("count is {0}; it must be 1 to {MAX_CONNECTION_PROBES}")]
    ProbeCount(u32),
    /// Too few streams for a test, or too many.
    #[error("streams is {0}; it must be 1 to {MAX_STREAMS}")]
    TestStreams(u16),
    /// A test that is too short or too long.
    #[error("the test's duration is {0:?}; it must be {SHORTEST_TEST:?} to {LONGEST_TEST:?}")]
    TestDuration(Duration),
    /// A test that nobody at the other end could take part in.
    #[error("v1-compat cannot be tested: a v1 peer keeps nothing that it does not migrate")]
    TestOfV1,
}

impl PeerError {
    /// The status code of this error.
    pub fn status(&self) -> Status {
        match self {
            Self::Unknown(_) | Self::UnknownName(_) => Status::NotFound,
            Self::InUse(_) => Status::Busy,
            Self::ProbeCount(_) | Self::TestStreams(_) | Self::TestDuration(_) | Self::TestOfV1 => {
                Status::InvalidArgument
            }
        }
    }
}

impl Node {
    /// Sets how the modes of peers are chosen and what they change. Modes and limits of streams hold at
    /// once, for migrations under way too, but for those by v1, which keep their streams. The congestion
    /// control is that of connections made from then on, and of open ones once their peer's mode changes.
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
    /// The address is out of form, there is no room, or the node was stopped.
    pub fn add_peer(&self, peer: &str) -> Result<(), NodeError> {
        self.check_peer(peer)?;
        Ok(self.modes().add(peer)?)
    }

    /// Forgets a peer: its path is not looked at any more, and a mode that was forced for it ends.
    ///
    /// # Errors
    /// It is not known, or streams to it are open.
    pub fn remove_peer(&self, peer: &str) -> Result<(), NodeError> {
        let known = self.modes().view(peer).ok_or_else(|| PeerError::Unknown(clip(peer)))?;
        if known.is_in_use {
            return Err(PeerError::InUse(clip(peer)).into());
        }
        self.modes().remove(peer);
        Ok(())
    }

    /// What is known of every peer, by address.
    pub fn peers(&self) -> Vec<PeerMode> {
        let views = self.modes().views().into_iter();
        views.map(|(peer, view, failure)| self.describe(peer, &view, failure)).collect()
    }

    /// What is known of a peer.
    ///
    /// # Errors
    /// It is not known.
    pub fn peer(&self, peer: &str) -> Result<PeerMode, NodeError> {
        let view = self.modes().view(peer).ok_or_else(|| PeerError::Unknown(clip(peer)))?;
        Ok(self.describe(peer.to_owned(), &view, self.modes().failure(peer)))
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
            self.check_peer(peer)?;
            let known = self.peer(peer)?;
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
            self.check_peer(peer)?;
            return Ok(self.modes().force(peer, mode)?);
        }
        let mut options = self.transport();
        options.policy.forced = mode;
        self.set_transport(options);
        Ok(())
    }

    /// Sends a peer 1 to 64 probes, one after another, and waits for the answers.
    ///
    /// # Errors
    /// The address is out of form, the count out of range, or the peer does not answer.
    pub fn probe_peer(&self, peer: &str, count: u32) -> Result<ProbeSeries, NodeError> {
        if !(1..=MAX_CONNECTION_PROBES).contains(&count) {
            return Err(PeerError::ProbeCount(count).into());
        }
        self.add_peer(peer)?;
        self.refuse_v1(peer)?;
        let failed = |source| NodeError::Probe { peer: peer.to_owned(), source };
        probe::series(peer, count, self.modes().dscp()).map_err(failed)
    }

    /// Sends a peer filler for some time over so many streams, or as many as `mode` allows, set up for
    /// that mode, and tells what the path carried; without a peer, to this process over the loopback.
    ///
    /// # Errors
    /// The address is out of form or that of a v1 peer, what is asked for out of range, a connection
    /// failed, or the node was stopped.
    pub fn test_transport(
        &self,
        peer: Option<&str>,
        (mode, streams): (Mode, u16),
        duration: Duration,
    ) -> Result<TransportTest, NodeError> {
        check_test(mode, streams, duration)?;
        let run = |peer: &str| {
            let failed = |source| NodeError::TransportTest { peer: peer.to_owned(), source };
            transfer::run(self.modes(), peer, (mode, streams), duration).map_err(failed)
        };
        if let Some(peer) = peer {
            self.add_peer(peer)?;
            self.refuse_v1(peer)?;
            return run(peer);
        }
        self.check_runs()?;
        let listener = self.listen_within()?;
        let peer = listener.address().to_string();
        let tested = run(&peer);
        self.modes().remove(&peer);
        let connections = listener.connections();
        drop(listener);
        connections.close();
        tested
    }

    /// Lets nodes at these addresses ask for the paths to this node's peers; nobody may until then.
    pub fn share_paths_with(&self, networks: Networks) {
        self.tellers().paths.share_with(networks);
    }

    /// The paths from this node, and those from known peers that tell it of theirs: from all, or from
    /// these. Waits for the answers.
    ///
    /// # Errors
    /// One of them is not known, or the node was stopped.
    pub fn network_matrix(&self, of: Option<&[String]>) -> Result<Vec<MatrixRow>, NodeError> {
        self.check_runs()?;
        let known = self.modes().views();
        let is_v1 = |view: &PeerView| view.mode == Mode::V1Compat;
        let own = matrix::rows(self.modes()).into_iter().map(MatrixPath::from);
        let is_wanted = |peer: &str| of.is_none_or(|of| of.iter().any(|name| name == peer));
        let stranger =
            of.into_iter().flatten().find(|name| known.iter().all(|row| row.0 != **name));
        if let Some(stranger) = stranger {
            return Err(PeerError::Unknown(clip(stranger)).into());
        }
        let mut rows = vec![MatrixRow {
            node: Some(self.name().to_owned()),
            paths: own.filter(|path| is_wanted(&path.peer)).collect(),
            ..MatrixRow::default()
        }];
        let wanted = known.into_iter().filter(|(peer, ..)| is_wanted(peer));
        let (v1, ask): (Vec<_>, Vec<_>) = wanted.partition(|(_, view, _)| is_v1(view));
        let mut ask: Vec<String> = ask.into_iter().map(|(peer, ..)| peer).collect();
        let rest = ask.split_off(ask.len().min(MAX_ASKED_NODES));
        let told = matrix::ask_all(&ask, self.modes().security(), PATIENCE);
        for (peer, row) in ask.iter().zip(&told) {
            row.node.iter().for_each(|name| self.modes().note_name(peer, name));
        }
        rows.extend(told);
        let silent = |why: &str, peer: String| MatrixRow::silent(peer, why.to_owned());
        let too_many = format!("not asked: {MAX_ASKED_NODES} others were");
        rows.extend(rest.into_iter().map(|peer| silent(&too_many, peer)));
        rows.extend(v1.into_iter().map(|(peer, ..)| silent("not asked: it is a v1 peer", peer)));
        Ok(rows)
    }

    fn describe(&self, peer: String, view: &PeerView, failure: Option<String>) -> PeerMode {
        let silence = view.heard.map(|heard| now().since(heard).as_micros());
        PeerMode {
            mode: view.mode,
            forced: view.forced,
            measured: self.modes().verdict(&peer),
            congestion: self.modes().congestion(&peer),
            is_in_use: view.is_in_use,
            figures: view.figures,
            silent_us: silence.map(|us| u64::try_from(us).unwrap_or(u64::MAX)),
            switches: view.switches,
            switches_last_minute: view.switches_last_minute,
            failure,
            peer,
        }
    }

    fn check_peer(&self, peer: &str) -> Result<(), NodeError> {
        self.check_runs()?;
        check_address(peer).map_err(|reason| NodeError::Address { address: clip(peer), reason })
    }

    fn check_runs(&self) -> Result<(), NodeError> {
        if self.modes().is_stopped() {
            return Err(NodeError::Stopped);
        }
        Ok(())
    }

    /// What is v3's protocol must not reach a v1 peer.
    fn refuse_v1(&self, peer: &str) -> Result<(), NodeError> {
        match self.modes().mode(peer) {
            Mode::V1Compat => Err(V1Error::NoProbes(peer.to_owned()).into()),
            _ => Ok(()),
        }
    }
}

fn check_test(mode: Mode, streams: u16, duration: Duration) -> Result<(), PeerError> {
    if mode == Mode::V1Compat {
        return Err(PeerError::TestOfV1);
    }
    if !(1..=MAX_STREAMS).contains(&streams) {
        return Err(PeerError::TestStreams(streams));
    }
    if !(SHORTEST_TEST..=LONGEST_TEST).contains(&duration) {
        return Err(PeerError::TestDuration(duration));
    }
    Ok(())
}

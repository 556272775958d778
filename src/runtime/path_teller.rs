//! A listener's answer to one who asks for the paths to this node's peers.

use crate::base::Networks;
use crate::base::limits::MAX_TOLD_PATHS;
use crate::runtime::audience::{Audience, tell};
use crate::runtime::connection::FrameWriter;
use crate::runtime::modes::{Modes, matrix};
use crate::runtime::rollout::Rollout;
use crate::wire::{FrameKind, PathRow, Paths};
use std::net::IpAddr;
use std::sync::Arc;

/// Tells of the paths to this node's peers.
pub struct PathTeller {
    modes: Arc<Modes>,
    audience: Audience,
}

impl PathTeller {
    /// Tells nobody yet.
    pub fn new(modes: Arc<Modes>) -> Self {
        Self { modes, audience: Audience::new("mode_detector.share_with") }
    }

    /// The node's flags, of which peers are told too.
    pub fn rollout(&self) -> &Arc<Rollout> {
        self.modes.rollout()
    }

    /// Whom it tells from now on.
    pub fn share_with(&self, networks: Networks) {
        self.audience.name(networks);
    }

    /// Answers one who asked, on a connection on which nothing was written yet.
    ///
    /// # Errors
    /// He is not to know, or asks too often; or the socket's error.
    pub fn tell(
        &self,
        node: String,
        asker: IpAddr,
        writer: &mut FrameWriter,
    ) -> Result<(), String> {
        let admitted = self.audience.admit(asker);
        let answer = admitted.map(|()| paths(node, matrix::rows(&self.modes)).encode());
        tell(writer, FrameKind::Paths, answer)
    }
}

/// As many rows as may be told: those in use first, then those that have told something lately.
fn paths(node: String, mut rows: Vec<PathRow>) -> Paths {
    let left_out = rows.len().saturating_sub(MAX_TOLD_PATHS);
    if left_out > 0 {
        rows.sort_by_key(|row| (!row.is_in_use, row.silent_us.unwrap_or(u64::MAX)));
        rows.truncate(MAX_TOLD_PATHS);
        rows.sort_by(|one, other| one.peer.cmp(&other.peer));
    }
    Paths { node, left_out: left_out as u32, rows }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_nobody_uses_are_left_out_first() {
        let row = |number: u64| PathRow {
            peer: format!("{number:04}:1"),
            is_in_use: number == 599,
            silent_us: Some(number).filter(|number| *number > 0),
            ..PathRow::default()
        };
        let told = paths("n".into(), (0..600).map(row).collect());
        assert_eq!((told.rows.len(), told.left_out), (512, 88));
        let has = |number: u64| told.rows.contains(&row(number));
        assert!(has(1) && has(511) && has(599) && !has(0) && !has(512));
        assert!(told.rows.is_sorted_by_key(|row| row.peer.clone()));
        assert_eq!(paths("n".into(), vec![row(1)]).left_out, 0);
    }
}

//! A listener's answer to one who asks for the paths to this node's peers: told to those whom the
//! operator has named, and to nobody else.

use crate::Status;
use crate::base::Networks;
use crate::base::limits::{MAX_TELLINGS_PER_S, MAX_TOLD_PATHS};
use crate::runtime::clock::now;
use crate::runtime::connection::FrameWriter;
use crate::runtime::listener::Refusal;
use crate::runtime::lock::lock;
use crate::runtime::modes::{Modes, matrix};
use crate::runtime::rollout::Rollout;
use crate::transport::Pacer;
use crate::wire::{Frame, FrameKind, PathRow, Paths};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// By how much askers may run ahead of their pace.
const AHEAD: Duration = Duration::from_secs(1);

/// Tells of the paths to this node's peers.
pub struct PathTeller {
    modes: Arc<Modes>,
    shared_with: Mutex<Networks>,
    /// Counts answers, not bytes.
    pace: Mutex<Pacer>,
}

impl PathTeller {
    /// Tells nobody yet.
    pub fn new(modes: Arc<Modes>) -> Self {
        let pace = Mutex::new(Pacer::new(Some(MAX_TELLINGS_PER_S)));
        Self { modes, shared_with: Mutex::default(), pace }
    }

    /// The node's flags, of which peers are told too.
    pub fn rollout(&self) -> &Arc<Rollout> {
        self.modes.rollout()
    }

    /// Whom it tells from now on.
    pub fn share_with(&self, networks: Networks) {
        *lock(&self.shared_with) = networks;
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
        let answer = self.answer(node, asker);
        let frame = match &answer {
            Ok(paths) => Frame { kind: FrameKind::Paths, payload: paths.encode() },
            Err(refusal) => {
                Frame { kind: FrameKind::HelloReply, payload: refusal.reply().encode() }
            }
        };
        writer.open(&frame).map_err(|error| error.to_string())?;
        answer.map(|_| ()).map_err(|refusal| refusal.reason)
    }

    fn answer(&self, node: String, asker: IpAddr) -> Result<Paths, Refusal> {
        let asker = asker.to_canonical();
        if !lock(&self.shared_with).contains(asker) {
            let text = format!("mode_detector.share_with does not name {asker}");
            return Err(Refusal::new(Status::Refused, text));
        }
        if !lock(&self.pace).admit(now(), AHEAD) {
            let text = format!("asked more than {MAX_TELLINGS_PER_S} times in a second");
            return Err(Refusal::new(Status::Busy, text));
        }
        Ok(paths(node, matrix::rows(&self.modes)))
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
    use crate::runtime::security::{Security, SecurityOptions};

    #[test]
    fn only_those_who_are_named_are_told_and_not_too_often() {
        let security = Security::open(SecurityOptions::Plain).unwrap();
        let modes = Modes::new(Arc::default(), security, Rollout::in_memory("a"));
        modes.add("127.0.0.1:1").unwrap();
        let teller = PathTeller::new(modes.clone());
        let ask = |asker: &str| teller.answer("n".into(), asker.parse().unwrap());
        assert!(ask("127.0.0.1").unwrap_err().reason.contains("does not name 127.0.0.1"));
        teller.share_with("127.0.0.0/8".parse().unwrap());
        assert_eq!(ask("::ffff:127.0.0.1").unwrap().rows[0].peer, "127.0.0.1:1");
        assert_eq!(ask("128.0.0.1").unwrap_err().status, Status::Refused);
        let refused = (0..100).filter_map(|_| ask("127.0.0.1").err()).next().unwrap();
        assert_eq!(refused.status, Status::Busy);
        teller.share_with(Networks::default());
        assert_eq!(ask("127.0.0.1").unwrap_err().status, Status::Refused);
        modes.stop();
    }

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

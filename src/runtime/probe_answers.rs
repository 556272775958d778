//! A listener's answers to probes, which belong to no migration: anybody may ask, so each costs
//! little, and there are only so many in a second.
//!
//! After a probe a connection may send filler, which is read and dropped: so a peer finds out what the
//! path carries. The next probe's answer tells it that all of it has arrived.

use crate::base::Time;
use crate::base::limits::{MAX_CONNECTION_PROBES, MAX_FILLER_CONNECTIONS, MAX_PROBES_PER_S};
use crate::runtime::clock::now;
use crate::runtime::connection::{ConnectionError, FrameReader, FrameWriter};
use crate::runtime::lock::lock;
use crate::runtime::security::SecurityError;
use crate::transport::Pacer;
use crate::wire::{Frame, FrameKind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// By how much probes may run ahead of their pace, as a series does.
const AHEAD: Duration = Duration::from_millis(80);
/// How long one connection may go on.
const LONGEST: Duration = Duration::from_secs(60);

/// What a connection may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// Numbers are sent back, which gives nothing away.
    Probes,
    /// Filler is taken too.
    All,
}

/// What all connections of a listener share.
pub struct ProbeAnswers {
    /// Counts probes, not bytes.
    pace: Mutex<Pacer>,
    filling: AtomicUsize,
}

impl Default for ProbeAnswers {
    fn default() -> Self {
        let pace = Mutex::new(Pacer::new(Some(MAX_PROBES_PER_S)));
        Self { pace, filling: AtomicUsize::new(0) }
    }
}

impl ProbeAnswers {
    /// Serves a connection whose first frame was this probe, until its end.
    ///
    /// # Errors
    /// The peer broke the protocol, or wants more than it may.
    pub fn serve(
        &self,
        first: Frame,
        allowed: Answers,
        reader: &mut FrameReader,
        writer: &mut FrameWriter,
    ) -> Result<(), String> {
        let began = now();
        self.admit(began)?;
        let reply = |first| Frame { kind: FrameKind::ProbeReply, payload: first };
        writer.open(&reply(first.payload)).map_err(|error| error.to_string())?;
        let (mut probes, mut permit) = (1, None);
        loop {
            let frame = match reader.expect_or(FrameKind::Probe, &[FrameKind::Filler]) {
                Ok(frame) => frame,
                // As it should be; who just goes away, or stays and says nothing, harms nobody.
                Err(ConnectionError::Closed | ConnectionError::Io(_) | ConnectionError::Silent) => {
                    return Ok(());
                }
                Err(error) => return Err(error.to_string()),
            };
            if now() - began > LONGEST {
                return Err(format!("a probing connection that lasts for more than {LONGEST:?}"));
            }
            if frame.kind == FrameKind::Filler {
                if allowed == Answers::Probes {
                    return Err(SecurityError::PlainPeer.to_string());
                }
                permit = Some(permit.map_or_else(|| Permit::take(&self.filling), Ok)?);
                continue;
            }
            probes += 1;
            if probes > MAX_CONNECTION_PROBES {
                return Err(format!("more than {MAX_CONNECTION_PROBES} probes on one connection"));
            }
            self.admit(now())?;
            writer.frame(&reply(frame.payload)).map_err(|error| error.to_string())?;
        }
    }

    /// Counts a probe, if it may be answered.
    fn admit(&self, now: Time) -> Result<(), String> {
        match lock(&self.pace).admit(now, AHEAD) {
            true => Ok(()),
            false => Err(format!("more than {MAX_PROBES_PER_S} probes in a second")),
        }
    }
}

/// Allows one connection to send filler.
struct Permit<'a>(&'a AtomicUsize);

impl<'a> Permit<'a> {
    fn take(filling: &'a AtomicUsize) -> Result<Self, String> {
        let permit = Self(filling);
        // Given back when the permit is dropped, here too.
        match filling.fetch_add(1, Ordering::Relaxed) < MAX_FILLER_CONNECTIONS {
            true => Ok(permit),
            false => Err(format!("{MAX_FILLER_CONNECTIONS} connections test the path already")),
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_probes_is_thinned_out() {
        let answers = ProbeAnswers::default();
        let at_once = (0..1000).filter(|_| answers.admit(Time(1)).is_ok()).count();
        assert!((64..=110).contains(&at_once), "{at_once}");
        let within_a_second = |n: &u64| answers.admit(Time(5_000_000 + n * 10)).is_ok();
        let count = (0..100_000).filter(within_a_second).count() as u64;
        assert!((MAX_PROBES_PER_S..=MAX_PROBES_PER_S + 110).contains(&count), "{count}");
    }

    #[test]
    fn permits_are_counted_and_given_back() {
        let filling = AtomicUsize::new(0);
        let mut held: Vec<_> =
            (0..MAX_FILLER_CONNECTIONS).map(|_| Permit::take(&filling).unwrap()).collect();
        assert!(Permit::take(&filling).is_err_and(|text| text.contains("64 connections")));
        held.pop();
        assert!(Permit::take(&filling).is_ok());
    }
}

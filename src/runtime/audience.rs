//! Who may ask this node about itself, and how often: those whom the operator has named, and nobody else.

use crate::Status;
use crate::base::Networks;
use crate::base::limits::MAX_TELLINGS_PER_S;
use crate::runtime::clock::now;
use crate::runtime::connection::FrameWriter;
use crate::runtime::listener::Refusal;
use crate::runtime::lock::lock;
use crate::transport::Pacer;
use crate::wire::{Frame, FrameKind};
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

/// By how much askers may run ahead of their pace.
const AHEAD: Duration = Duration::from_secs(1);

/// Those who may ask about one thing.
pub struct Audience {
    /// The key that names them.
    key: &'static str,
    named: Mutex<Networks>,
    /// Counts answers, not bytes.
    pace: Mutex<Pacer>,
}

impl Audience {
    /// Nobody yet; `key` is where the operator names them.
    pub fn new(key: &'static str) -> Self {
        let pace = Mutex::new(Pacer::new(Some(MAX_TELLINGS_PER_S)));
        Self { key, named: Mutex::default(), pace }
    }

    /// Whom it is made of from now on.
    pub fn name(&self, networks: Networks) {
        *lock(&self.named) = networks;
    }

    /// Whether one who asks is to be told now.
    ///
    /// # Errors
    /// He is not to know, or asks too often.
    pub fn admit(&self, asker: IpAddr) -> Result<(), Refusal> {
        let asker = asker.to_canonical();
        if !lock(&self.named).contains(asker) {
            let text = format!("{} does not name {asker}", self.key);
            return Err(Refusal::new(Status::Refused, text));
        }
        if !lock(&self.pace).admit(now(), AHEAD) {
            let text = format!("asked more than {MAX_TELLINGS_PER_S} times in a second");
            return Err(Refusal::new(Status::Busy, text));
        }
        Ok(())
    }
}

/// Writes an answer, or why there is none, on a connection on which nothing was written yet.
///
/// # Errors
/// The refusal's reason, or the socket's error.
pub fn tell(
    writer: &mut FrameWriter,
    kind: FrameKind,
    answer: Result<Vec<u8>, Refusal>,
) -> Result<(), String> {
    let frame = match &answer {
        Ok(payload) => Frame { kind, payload: payload.clone() },
        Err(refusal) => Frame { kind: FrameKind::HelloReply, payload: refusal.reply().encode() },
    };
    writer.open(&frame).map_err(|error| error.to_string())?;
    answer.map(|_| ()).map_err(|refusal| refusal.reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_who_are_named_are_told_and_not_too_often() {
        let audience = Audience::new("some.key");
        let ask = |asker: &str| audience.admit(asker.parse().unwrap());
        assert_eq!(ask("127.0.0.1").unwrap_err().reason, "some.key does not name 127.0.0.1");
        audience.name("127.0.0.0/8".parse().unwrap());
        assert!(ask("::ffff:127.0.0.1").is_ok());
        assert_eq!(ask("128.0.0.1").unwrap_err().status, Status::Refused);
        let refused = (0..100).filter_map(|_| ask("127.0.0.1").err()).next().unwrap();
        assert_eq!(refused.status, Status::Busy);
        audience.name(Networks::default());
        assert_eq!(ask("127.0.0.1").unwrap_err().status, Status::Refused);
    }
}

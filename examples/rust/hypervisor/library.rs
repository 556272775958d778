//! What the library asks of a guest: control of one that leaves, and of one that arrives.

use crate::guest::{Counters, Guest, call};
use crate::options::{Damage, Verify};
use crate::verify::{self, Verification};
use dwcp::migration::GuestError;
use dwcp::migration::guest::{Ending, GuestSink, GuestSource};
use dwcp::runtime::mapped_guest::{DirtyLog, MappedSink, MappedSource, SinkControl, SourceControl};
use dwcp::runtime::process_memory::process_memory_source;
use std::sync::{Arc, Mutex, PoisonError};

/// Control of a running guest; remembers where it was stopped.
pub struct Leaving {
    guest: Arc<Guest>,
    stopped_at: Arc<Mutex<Option<Counters>>>,
}

/// Control of an empty guest; proves what it was given before it runs.
pub struct Arriving {
    guest: Arc<Guest>,
    verify: Verify,
    corrupt: Damage,
    arrival: Arc<Mutex<Option<Verification>>>,
}

struct SharedLog(Arc<dyn DirtyLog>);

/// A source of `guest`. Without its own dirty log, the kernel tracks its memory.
pub fn source(
    guest: &Arc<Guest>,
    stopped_at: &Arc<Mutex<Option<Counters>>>,
) -> Arc<dyn GuestSource> {
    let control = Box::new(Leaving { guest: guest.clone(), stopped_at: stopped_at.clone() });
    let memory = guest.memory.clone();
    Arc::new(match &guest.log {
        Some(log) => MappedSource::new(memory, Box::new(SharedLog(log.clone())), control),
        None => process_memory_source(memory, control),
    })
}

/// A sink that fills `guest`.
pub fn sink(
    guest: &Arc<Guest>,
    verify: Verify,
    corrupt: Damage,
    arrival: &Arc<Mutex<Option<Verification>>>,
) -> Arc<dyn GuestSink> {
    let (guest, arrival) = (guest.clone(), arrival.clone());
    let memory = guest.memory.clone();
    Arc::new(MappedSink::new(memory, Box::new(Arriving { guest, verify, corrupt, arrival })))
}

impl SourceControl for Leaving {
    fn pause(&self) -> Result<(), GuestError> {
        let result = call("pause", self.guest.pause());
        let mut stopped_at = self.stopped_at.lock().unwrap_or_else(PoisonError::into_inner);
        *stopped_at = Some(self.guest.counters());
        result
    }

    fn resume(&self) -> Result<(), GuestError> {
        call("resume", self.guest.resume())
    }

    fn save_device_state(&self) -> Result<Vec<u8>, GuestError> {
        call("save_device_state", self.guest.save())
    }

    fn throttle(&self, percent: u8) -> Result<bool, GuestError> {
        self.guest.throttle(percent.into());
        Ok(true)
    }

    /// What becomes of the guest, the program learns from the report.
    fn finish(&self, _ending: Ending) -> Result<(), GuestError> {
        self.guest.throttle(0);
        Ok(())
    }
}

impl SinkControl for Arriving {
    fn load_device_state(&self, state: &[u8]) -> Result<(), GuestError> {
        call("load_device_state", self.guest.load(state))
    }

    /// The guest is here, complete and stopped: the proof looks at exactly this.
    fn resume(&self) -> Result<(), GuestError> {
        self.guest.memory().damage(self.corrupt);
        let verification = verify::arrival(&self.guest, self.verify);
        *self.arrival.lock().unwrap_or_else(PoisonError::into_inner) = Some(verification);
        call("resume", self.guest.resume())
    }

    fn finish(&self, _ending: Ending) -> Result<(), GuestError> {
        Ok(())
    }
}

impl DirtyLog for SharedLog {
    fn start(&self) -> Result<(), GuestError> {
        self.0.start()
    }

    fn fetch(&self, region: usize, log: &mut [u64]) -> Result<(), GuestError> {
        self.0.fetch(region, log)
    }

    fn stop(&self) -> Result<(), GuestError> {
        self.0.stop()
    }
}

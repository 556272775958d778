//! What the library asks of a guest, as one value per question: callbacks and requests differ only
//! in how they carry it.

use super::codes::*;
use crate::Status;
use crate::migration::GuestError;
use crate::migration::guest::Ending;
use crate::runtime::mapped_guest::{DirtyLog, SinkControl, SourceControl};
use std::sync::Arc;

/// One question to the hypervisor, with room for the answer.
pub enum Call<'a> {
    /// Begin to log writes.
    StartDirtyLog,
    /// Fill in the log of a region.
    FetchDirty(u32, &'a mut [u64]),
    /// Stop the guest.
    Pause,
    /// Let the guest run.
    Resume,
    /// Append CPUs and devices.
    SaveDeviceState(&'a mut Vec<u8>),
    /// Restore CPUs and devices.
    LoadDeviceState(&'a [u8]),
    /// Hold the guest back.
    Throttle(u8),
    /// The migration is over.
    Finish(Ending),
}

/// Carries a call to the hypervisor and waits for its answer.
pub trait Driver: Send + Sync {
    /// Makes the call.
    fn call(&self, call: Call<'_>) -> Result<(), GuestError>;
}

/// A driver in the roles that the runtime's guests have for it.
#[derive(Clone)]
pub struct Control(pub Arc<dyn Driver>);

impl Call<'_> {
    /// The callback's name in the header.
    pub fn name(&self) -> &'static str {
        match self {
            Call::StartDirtyLog => "start_dirty_log",
            Call::FetchDirty(..) => "fetch_dirty",
            Call::Pause => "pause",
            Call::Resume => "resume",
            Call::SaveDeviceState(_) => "save_device_state",
            Call::LoadDeviceState(_) => "load_device_state",
            Call::Throttle(_) => "throttle",
            Call::Finish(_) => "finish",
        }
    }

    /// Its `DWCP_REQUEST_`.
    pub fn code(&self) -> u32 {
        match self {
            Call::StartDirtyLog => DWCP_REQUEST_START_DIRTY_LOG,
            Call::FetchDirty(..) => DWCP_REQUEST_FETCH_DIRTY,
            Call::Pause => DWCP_REQUEST_PAUSE,
            Call::Resume => DWCP_REQUEST_RESUME,
            Call::SaveDeviceState(_) => DWCP_REQUEST_SAVE_DEVICE_STATE,
            Call::LoadDeviceState(_) => DWCP_REQUEST_LOAD_DEVICE_STATE,
            Call::Throttle(_) => DWCP_REQUEST_THROTTLE,
            Call::Finish(_) => DWCP_REQUEST_FINISH,
        }
    }

    /// Region, percentage or ending.
    pub fn value(&self) -> u32 {
        match self {
            Call::FetchDirty(region, _) => *region,
            Call::Throttle(percent) => u32::from(*percent),
            Call::Finish(ending) => ending_code(*ending),
            _ => 0,
        }
    }
}

/// The answer of a callback or host: 0, or a code with a text.
pub fn answered(call: &'static str, code: i32, text: &str) -> Result<(), GuestError> {
    if code == 0 {
        return Ok(());
    }
    let known = Status::from_code(code).map_or("the hypervisor said no more", Status::name);
    let text = if text.is_empty() { known } else { text };
    Err(GuestError { call, code: code.into(), text: text.into() })
}

/// The C number of an ending.
pub fn ending_code(ending: Ending) -> u32 {
    match ending {
        Ending::Discard => DWCP_ENDING_DISCARD,
        Ending::Keep => DWCP_ENDING_KEEP,
        Ending::Undecided => DWCP_ENDING_UNDECIDED,
        Ending::Lost => DWCP_ENDING_LOST,
    }
}

impl Control {
    /// Makes a call.
    pub fn call(&self, call: Call<'_>) -> Result<(), GuestError> {
        self.0.call(call)
    }
}

impl DirtyLog for Control {
    fn start(&self) -> Result<(), GuestError> {
        self.call(Call::StartDirtyLog)
    }

    fn fetch(&self, region: usize, log: &mut [u64]) -> Result<(), GuestError> {
        self.call(Call::FetchDirty(region as u32, log))
    }

    /// The hypervisor stops its log when it hears that the migration is over.
    fn stop(&self) -> Result<(), GuestError> {
        Ok(())
    }
}

impl SourceControl for Control {
    fn pause(&self) -> Result<(), GuestError> {
        self.call(Call::Pause)
    }

    fn resume(&self) -> Result<(), GuestError> {
        self.call(Call::Resume)
    }

    fn save_device_state(&self) -> Result<Vec<u8>, GuestError> {
        let mut state = Vec::new();
        self.call(Call::SaveDeviceState(&mut state)).map(|()| state)
    }

    fn throttle(&self, percent: u8) -> Result<bool, GuestError> {
        match self.call(Call::Throttle(percent)) {
            Ok(()) => Ok(true),
            Err(error) if error.code == i64::from(DWCP_ERR_UNSUPPORTED) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn finish(&self, ending: Ending) -> Result<(), GuestError> {
        self.call(Call::Finish(ending))
    }
}

impl SinkControl for Control {
    fn load_device_state(&self, state: &[u8]) -> Result<(), GuestError> {
        self.call(Call::LoadDeviceState(state))
    }

    fn resume(&self) -> Result<(), GuestError> {
        self.call(Call::Resume)
    }

    fn finish(&self, ending: Ending) -> Result<(), GuestError> {
        self.call(Call::Finish(ending))
    }
}

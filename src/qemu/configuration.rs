//! The configuration section: machine type, and what the machine validates.
//!
//! ```text
//! length u32 | machine type | subsections
//! subsection:  0x05 | length u8 | name | version u32 | fields
//! ```
//! Nothing marks its end: another byte than 0x05 is the next section's type.

use super::be32;
use super::info::{NotUnderstood, StreamInfo};
use super::segment::PAGE_BYTES;

/// Begins a subsection.
pub const SUBSECTION: u8 = 0x05;
/// The one capability that changes the format and whose change is known.
const IGNORE_SHARED: &str = "x-ignore-shared";
/// Longest machine type.
const MAX_MACHINE_BYTES: u32 = 256;
/// More than QEMU has.
const MAX_CAPABILITIES: u32 = 256;

#[derive(Clone, Copy, Debug)]
enum State {
    MachineLength,
    Machine(usize),
    NextType,
    NameLength,
    Name(usize),
    Version(Subsection),
    PageBits,
    CapabilityCount,
    CapabilityLength { left: u32 },
    Capability { left: u32, length: usize },
    Uuid,
}

#[derive(Clone, Copy, Debug)]
enum Subsection {
    PageBits,
    Capabilities,
    Uuid,
}

/// Reads one configuration section.
#[derive(Debug)]
pub(super) struct Configuration {
    state: State,
    /// Whether RAM blocks are listed with their addresses.
    pub ignore_shared: bool,
}

impl Configuration {
    pub fn new() -> Self {
        Self { state: State::MachineLength, ignore_shared: false }
    }

    /// Length of the next field.
    pub fn field_bytes(&self) -> usize {
        match self.state {
            State::NextType | State::NameLength | State::CapabilityLength { .. } => 1,
            State::MachineLength | State::Version(_) | State::PageBits | State::CapabilityCount => {
                4
            }
            State::Uuid => 16,
            State::Machine(length) | State::Name(length) | State::Capability { length, .. } => {
                length
            }
        }
    }

    /// Takes a field; at the end gives the next section's type.
    pub fn on_field(
        &mut self,
        field: &[u8],
        info: &mut StreamInfo,
    ) -> Result<Option<u8>, NotUnderstood> {
        self.state = match self.state {
            State::MachineLength => State::Machine(machine_bytes(be32(field, 0))?),
            State::Machine(_) => {
                info.machine = String::from_utf8_lossy(field).into_owned();
                State::NextType
            }
            State::NextType if field == [SUBSECTION] => State::NameLength,
            State::NextType => return Ok(field.first().copied()),
            State::NameLength => State::Name(name_bytes(field)?),
            State::Name(_) => State::Version(subsection(field)?),
            State::Version(subsection) => first_field(subsection, be32(field, 0))?,
            State::PageBits => page_bits(be32(field, 0))?,
            State::CapabilityCount => capabilities(be32(field, 0))?,
            State::CapabilityLength { left } => {
                State::Capability { left, length: name_bytes(field)? }
            }
            State::Capability { left, .. } => {
                self.take_capability(field)?;
                capabilities(left - 1)?
            }
            State::Uuid => State::NextType,
        };
        Ok(None)
    }

    fn take_capability(&mut self, name: &[u8]) -> Result<(), NotUnderstood> {
        if name != IGNORE_SHARED.as_bytes() {
            return Err(unknown(name));
        }
        self.ignore_shared = true;
        Ok(())
    }
}

fn machine_bytes(length: u32) -> Result<usize, NotUnderstood> {
    let known = (1..=MAX_MACHINE_BYTES).contains(&length);
    let what = || NotUnderstood::Configuration(format!("machine type of {length} bytes"));
    if known { Ok(length as usize) } else { Err(what()) }
}

fn name_bytes(field: &[u8]) -> Result<usize, NotUnderstood> {
    let length = field.first().copied().map_or(0, usize::from);
    if length > 0 { Ok(length) } else { Err(unknown(b"")) }
}

fn subsection(name: &[u8]) -> Result<Subsection, NotUnderstood> {
    match name {
        b"configuration/target-page-bits" => Ok(Subsection::PageBits),
        b"configuration/capabilities" => Ok(Subsection::Capabilities),
        b"configuration/uuid" => Ok(Subsection::Uuid),
        _ => Err(unknown(name)),
    }
}

fn unknown(name: &[u8]) -> NotUnderstood {
    NotUnderstood::Configuration(String::from_utf8_lossy(name).into_owned())
}

fn first_field(subsection: Subsection, version: u32) -> Result<State, NotUnderstood> {
    match subsection {
        _ if version != 1 => Err(NotUnderstood::Version { what: "configuration", version }),
        Subsection::PageBits => Ok(State::PageBits),
        Subsection::Capabilities => Ok(State::CapabilityCount),
        Subsection::Uuid => Ok(State::Uuid),
    }
}

fn page_bits(bits: u32) -> Result<State, NotUnderstood> {
    let bytes = 1_u64.checked_shl(bits).unwrap_or(0);
    if bytes == PAGE_BYTES as u64 {
        Ok(State::NextType)
    } else {
        Err(NotUnderstood::PageBytes(bytes))
    }
}

fn capabilities(left: u32) -> Result<State, NotUnderstood> {
    match left {
        0 => Ok(State::NextType),
        1..=MAX_CAPABILITIES => Ok(State::CapabilityLength { left }),
        _ => Err(NotUnderstood::Configuration(format!("{left} capabilities"))),
    }
}

//! The main channel: a header, the configuration, commands and sections.
//!
//! ```text
//! file:     "QEVM" | version u32 | configuration | commands and sections | 0x00 | description
//! section:  type u8 | id u32 | length u8, name, instance u32, version u32 (START, FULL) | inside
//!           | 0x7e, id u32 (not from old machine types)
//! command:  0x08 | number u16 | length u16 | data
//! ```
//! Only RAM's sections can be read to their ends: the sections of devices have no lengths. They
//! follow RAM's, so after those the rest of the stream is passed through.

use super::configuration::Configuration;
use super::info::{NotUnderstood, Package, Phase, StreamInfo};
use super::intake::{Grammar, Intake, SegmentLimits, Want};
use super::ram::{Progress, Ram};
use super::segment::{PAGE_BYTES, Segment};
use super::{MAIN_MAGIC, be32, be64};

const END_OF_FILE: u8 = 0x00;
const START: u8 = 0x01;
const PART: u8 = 0x02;
const END: u8 = 0x03;
const FULL: u8 = 0x04;
const DESCRIPTION: u8 = 0x06;
const CONFIGURATION: u8 = 0x07;
const COMMAND: u8 = 0x08;
const FOOTER: u8 = 0x7e;

const FILE_VERSION: u32 = 3;
const RAM_VERSION: u32 = 4;

const COMMAND_ADVISE: u16 = 3;
const COMMAND_PACKAGED: u16 = 7;
const COMMAND_ENABLE_COLO: u16 = 8;
const LAST_COMMAND: u16 = 11;

/// Reads a main channel.
#[derive(Debug, Default)]
pub struct StreamParser {
    intake: Intake,
    stream: Stream,
}

impl StreamParser {
    /// At the beginning of a channel.
    pub fn new() -> Self {
        Self::default()
    }

    /// As [`StreamParser::new`], with smaller segments.
    pub fn with_limits(limits: SegmentLimits) -> Self {
        Self { intake: Intake::new(limits), stream: Stream::default() }
    }

    /// The same, ending a segment where the package of a switch to post-copy begins, and where it ends.
    pub fn cut_at_package(mut self) -> Self {
        self.stream.cuts_at_package = true;
        self
    }

    /// Appends as much of `bytes` to `out` as fits, and returns how much that was.
    ///
    /// Less than all means that `out` is full, or what [`Self::cut_at_package`] says: ship it, then call again
    /// with the rest. The beginning of a page is kept until the page is complete; anything else is in
    /// `out` at once.
    pub fn feed(&mut self, bytes: &[u8], out: &mut Segment) -> usize {
        self.intake.feed(&mut self.stream, bytes, out)
    }

    /// At the end of the channel: appends the beginning of a page, less than [`PAGE_BYTES`], even
    /// to a segment that is full.
    pub fn finish(&mut self, out: &mut Segment) {
        self.intake.finish(out);
    }

    /// What the stream said so far.
    pub fn info(&self) -> &StreamInfo {
        &self.stream.info
    }
}

#[derive(Debug, Default)]
enum State {
    #[default]
    FileHeader,
    SectionType,
    Configuration,
    Command,
    Advice,
    PackageLength,
    Skip(u64),
    IterableHead,
    IterableName(usize),
    IterableVersion,
    PartId,
    Ram,
    FooterOrType,
    Footer,
    Rest,
}

/// The grammar of a main channel.
#[derive(Debug)]
struct Stream {
    state: State,
    configuration: Configuration,
    /// Whether the one configuration section has begun.
    configured: bool,
    huge_pages: u64,
    /// The section of RAM, once it has begun.
    ram_id: Option<u32>,
    ram: Ram,
    /// Whether this section of RAM is the last.
    last: bool,
    cuts_at_package: bool,
    /// A segment should end here.
    ends_segment: bool,
    info: StreamInfo,
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            state: State::default(),
            configuration: Configuration::new(),
            configured: false,
            huge_pages: 0,
            ram_id: None,
            ram: Ram::new(false, 0),
            last: false,
            cuts_at_package: false,
            ends_segment: false,
            info: StreamInfo::default(),
        }
    }
}

impl Grammar for Stream {
    fn want(&self) -> Want {
        match self.state {
            State::Ram => self.ram.want(),
            State::Rest => Want::Pass(u64::MAX),
            State::Skip(left) => Want::Pass(left),
            State::Configuration => Want::Field(self.configuration.field_bytes()),
            State::IterableName(length) => Want::Field(length),
            State::Advice => Want::Field(16),
            State::FileHeader | State::IterableVersion => Want::Field(8),
            State::IterableHead => Want::Field(5),
            State::Command | State::PackageLength | State::PartId | State::Footer => Want::Field(4),
            State::SectionType | State::FooterOrType => Want::Field(1),
        }
    }

    fn on_field(&mut self, field: &[u8]) {
        self.state = match self.next_state(field) {
            Ok(state) => state,
            Err(reason) => {
                self.info.phase = Phase::Opaque(reason);
                State::Rest
            }
        };
    }

    fn on_page(&mut self) {
        self.ram.on_page(&mut self.info);
    }

    fn on_passed(&mut self, bytes: u64) {
        match self.state {
            State::Ram => self.ram.on_passed(bytes),
            State::Skip(left) => {
                self.state = skip(left.saturating_sub(bytes));
                if self.info.package == Package::Inside && matches!(self.state, State::SectionType)
                {
                    self.package_is(Package::Past);
                }
            }
            _ => self.info.count_passed(bytes),
        }
    }

    fn ends_segment(&mut self) -> bool {
        std::mem::take(&mut self.ends_segment)
    }
}

impl Stream {
    fn next_state(&mut self, field: &[u8]) -> Result<State, NotUnderstood> {
        let first = field.first().copied().unwrap_or(0);
        match self.state {
            State::FileHeader => self.on_file_header(be32(field, 0), be32(field, 4)),
            State::SectionType => self.on_type(first),
            State::Configuration => match self.configuration.on_field(field, &mut self.info)? {
                None => Ok(State::Configuration),
                Some(next) => self.on_type(next),
            },
            State::Command => self.on_command((be32(field, 0) >> 16) as u16, be32(field, 0) as u16),
            State::Advice => self.on_advice(be64(field, 0), be64(field, 8)),
            State::PackageLength => self.begin_package(be32(field, 0)),
            State::IterableHead => self.on_iterable(be32(field, 0), field.get(4).copied()),
            State::IterableName(_) => self.on_iterable_name(field),
            State::IterableVersion => self.begin_ram(be32(field, 4)),
            State::PartId => self.check_id("a part", be32(field, 0)).map(|()| State::Ram),
            State::Ram => match self.ram.on_field(field, &mut self.info)? {
                Progress::Inside => Ok(State::Ram),
                Progress::SectionEnd => Ok(State::FooterOrType),
            },
            State::FooterOrType if first == FOOTER => Ok(State::Footer),
            State::FooterOrType if self.last => Ok(self.begin_tail(1)),
            State::FooterOrType => self.on_type(first),
            State::Footer => {
                self.check_id("a footer", be32(field, 0))?;
                Ok(if self.last { self.begin_tail(0) } else { State::SectionType })
            }
            // Neither is a field.
            State::Skip(left) => Ok(State::Skip(left)),
            State::Rest => Ok(State::Rest),
        }
    }

    fn on_file_header(&mut self, magic: u32, version: u32) -> Result<State, NotUnderstood> {
        if magic != MAIN_MAGIC {
            return Err(NotUnderstood::Magic { found: magic, expected: MAIN_MAGIC });
        }
        self.info.version = version;
        match version {
            FILE_VERSION => Ok(State::SectionType),
            _ => Err(NotUnderstood::Version { what: "the stream", version }),
        }
    }

    fn on_type(&mut self, section: u8) -> Result<State, NotUnderstood> {
        match section {
            CONFIGURATION if !self.configured && self.ram_id.is_none() => {
                self.configured = true;
                Ok(State::Configuration)
            }
            COMMAND => Ok(State::Command),
            START => Ok(State::IterableHead),
            PART | END if self.ram_id.is_some() => {
                self.last = section == END;
                Ok(State::PartId)
            }
            FULL | END_OF_FILE | DESCRIPTION if self.ram_id.is_some() => Ok(self.begin_tail(1)),
            _ => Err(NotUnderstood::Section(section)),
        }
    }

    fn on_command(&mut self, command: u16, length: u16) -> Result<State, NotUnderstood> {
        match (command, length) {
            (0 | COMMAND_ENABLE_COLO, _) => Err(NotUnderstood::Command { command, length }),
            (COMMAND_ADVISE, 16) => Ok(State::Advice),
            (COMMAND_PACKAGED, 4) if self.info.package == Package::Ahead => {
                Ok(State::PackageLength)
            }
            (COMMAND_PACKAGED, _) => Err(NotUnderstood::Command { command, length }),
            (1..=LAST_COMMAND, length) => Ok(skip(length.into())),
            _ => Err(NotUnderstood::Command { command, length }),
        }
    }

    fn begin_package(&mut self, length: u32) -> Result<State, NotUnderstood> {
        if length == 0 {
            return Err(NotUnderstood::Command { command: COMMAND_PACKAGED, length: 0 });
        }
        self.package_is(Package::Inside);
        Ok(State::Skip(length.into()))
    }

    fn package_is(&mut self, package: Package) {
        self.info.package = package;
        self.ends_segment = self.cuts_at_package;
    }

    /// The source may switch to post-copy: its page sizes as bits, and the guest's page size.
    fn on_advice(&mut self, page_sizes: u64, page_bytes: u64) -> Result<State, NotUnderstood> {
        if page_bytes != PAGE_BYTES as u64 {
            return Err(NotUnderstood::PageBytes(page_bytes));
        }
        self.info.postcopy_advised = true;
        self.huge_pages = page_sizes & !(PAGE_BYTES as u64);
        Ok(State::SectionType)
    }

    fn on_iterable(&mut self, id: u32, length: Option<u8>) -> Result<State, NotUnderstood> {
        let length = length.map_or(0, usize::from);
        if length == 0 {
            return Err(NotUnderstood::Iterable(String::new()));
        }
        // A second section of this kind leads nowhere, whatever its number.
        self.ram_id = self.ram_id.or(Some(id));
        Ok(State::IterableName(length))
    }

    fn on_iterable_name(&mut self, name: &[u8]) -> Result<State, NotUnderstood> {
        if name == b"ram" && self.info.phase == Phase::Start {
            return Ok(State::IterableVersion);
        }
        Err(NotUnderstood::Iterable(String::from_utf8_lossy(name).into_owned()))
    }

    fn begin_ram(&mut self, version: u32) -> Result<State, NotUnderstood> {
        if version != RAM_VERSION {
            return Err(NotUnderstood::Version { what: "the RAM section", version });
        }
        self.ram = Ram::new(self.configuration.ignore_shared, self.huge_pages);
        self.info.phase = Phase::RamSetup;
        Ok(State::Ram)
    }

    fn check_id(&self, what: &'static str, found: u32) -> Result<(), NotUnderstood> {
        let expected = self.ram_id;
        if expected == Some(found) {
            Ok(())
        } else {
            Err(NotUnderstood::SectionId { what, found, expected })
        }
    }

    /// The rest is device state; `begun` bytes of it have been read.
    fn begin_tail(&mut self, begun: u64) -> State {
        self.info.phase = Phase::Tail;
        self.info.tail_bytes = begun;
        State::Rest
    }
}

fn skip(bytes: u64) -> State {
    if bytes == 0 { State::SectionType } else { State::Skip(bytes) }
}

//! One multifd channel: a greeting of 64 bytes, then packets of pages.
//!
//! ```text
//! greeting: magic u32 | version u32 | uuid 16 | channel u8 | padding 39
//! packet:   magic u32 | version u32 | flags u32 | pages_alloc u32 | normal_pages u32
//!           | next_packet_size u32 | packet_num u64 | zero_pages u32 (since 9.0) | reserved 28
//!           | block name 256 | offset u64 for each page that there is room for | payload
//! ```
//! Three traps. A packet without normal pages has no payload, whatever `next_packet_size` still says
//! of an earlier one. All offsets travel, used or not. And since 9.2 a packet that only synchronizes
//! has `pages_alloc` zero, but its offsets travel all the same.

use super::info::NotUnderstood;
use super::intake::{Grammar, Intake, SegmentLimits, Want};
use super::segment::{PAGE_BYTES, Segment};
use super::{MULTIFD_MAGIC, be32, be64};
use crate::base::limits::{MAX_MULTIFD_PACKET_PAGES, MAX_PAGES, MAX_REGIONS};

const GREETING_BYTES: usize = 64;
const HEADER_BYTES: usize = 320;
const NAME_AT: usize = 64;
const VERSION: u32 = 1;
const FLAG_SYNC: u32 = 1;
/// Pages that a packet of QEMU's has room for: 512 KiB.
const USUAL_CAPACITY: u32 = 128;

/// How far a multifd channel has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum MultifdPhase {
    /// Before the greeting.
    #[default]
    Start,
    /// Packets.
    Packets,
    /// Something that this library does not understand, passed through from there on.
    Opaque(NotUnderstood),
}

/// What a multifd channel said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MultifdInfo {
    /// How far it has come.
    pub phase: MultifdPhase,
    /// The channel's number.
    pub channel: u8,
    /// RAM blocks in the order in which the channel named them; a slot's block number counts them.
    pub blocks: Vec<String>,
    /// Packets.
    pub packets: u64,
    /// Packets that are barriers.
    pub syncs: u64,
    /// Pages with a payload.
    pub pages: u64,
    /// Zero pages.
    pub zero_pages: u64,
    /// Bytes passed through because the channel was not understood.
    pub opaque_bytes: u64,
}

/// Reads a multifd channel.
#[derive(Debug, Default)]
pub struct MultifdParser {
    intake: Intake,
    channel: Channel,
}

impl MultifdParser {
    /// At the beginning of a channel.
    pub fn new() -> Self {
        Self::default()
    }

    /// As [`MultifdParser::new`], with smaller segments.
    pub fn with_limits(limits: SegmentLimits) -> Self {
        Self { intake: Intake::new(limits), channel: Channel::default() }
    }

    /// As [`StreamParser::feed`](super::StreamParser::feed).
    pub fn feed(&mut self, bytes: &[u8], out: &mut Segment) -> usize {
        self.intake.feed(&mut self.channel, bytes, out)
    }

    /// As [`StreamParser::finish`](super::StreamParser::finish).
    pub fn finish(&mut self, out: &mut Segment) {
        self.intake.finish(out);
    }

    /// What the channel said so far.
    pub fn info(&self) -> &MultifdInfo {
        &self.channel.info
    }
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Greeting,
    Header,
    /// The offsets of a packet: room, normal pages.
    Offsets(u32, u32),
    /// The payload; the number of its next page.
    Payload(usize),
    Rest,
}

/// The grammar of a multifd channel.
#[derive(Debug, Default)]
struct Channel {
    state: State,
    /// The packet's block.
    block: u16,
    /// The packet's pages.
    pages: Vec<u64>,
    /// Room of the latest packet that said so.
    capacity: Option<u32>,
    info: MultifdInfo,
}

impl Grammar for Channel {
    fn want(&self) -> Want {
        match self.state {
            State::Greeting => Want::Field(GREETING_BYTES),
            State::Header => Want::Field(HEADER_BYTES),
            State::Offsets(capacity, _) => Want::Field(capacity as usize * 8),
            State::Payload(next) => match self.pages.get(next) {
                Some(page) => Want::Page { block: self.block, page: *page },
                None => Want::Field(HEADER_BYTES),
            },
            State::Rest => Want::Pass(u64::MAX),
        }
    }

    fn on_field(&mut self, field: &[u8]) {
        let next = match self.state {
            State::Greeting => self.on_greeting(field),
            State::Offsets(_, normal) => self.on_offsets(field, normal),
            State::Header | State::Payload(_) => self.on_header(field),
            State::Rest => Ok(State::Rest),
        };
        self.state = next.unwrap_or_else(|reason| {
            self.info.phase = MultifdPhase::Opaque(reason);
            State::Rest
        });
    }

    fn on_page(&mut self) {
        self.info.pages += 1;
        if let State::Payload(next) = self.state {
            let next = next + 1;
            let more = next < self.pages.len();
            self.state = if more { State::Payload(next) } else { State::Header };
        }
    }

    fn on_passed(&mut self, bytes: u64) {
        self.info.opaque_bytes += bytes;
    }
}

impl Channel {
    fn on_greeting(&mut self, greeting: &[u8]) -> Result<State, NotUnderstood> {
        check_version("the multifd channel", greeting)?;
        self.info.channel = greeting.get(24).copied().unwrap_or(0);
        self.info.phase = MultifdPhase::Packets;
        Ok(State::Header)
    }

    fn on_header(&mut self, header: &[u8]) -> Result<State, NotUnderstood> {
        check_version("a multifd packet", header)?;
        let flags = be32(header, 8);
        // Compression, the state of a device, or flags of later versions: another inside.
        if flags & !FLAG_SYNC != 0 {
            return Err(NotUnderstood::PacketFlags(flags));
        }
        let (normal, length, zero) = (be32(header, 16), be32(header, 20), be32(header, 32));
        let capacity = self.capacity_of(header, normal, zero)?;
        if normal > 0 && u64::from(length) != u64::from(normal) * PAGE_BYTES as u64 {
            return Err(NotUnderstood::PacketLength { pages: normal, length });
        }
        if normal > 0 {
            self.block = self.block_number(&header[NAME_AT..])?;
        }
        self.info.packets += 1;
        self.info.syncs += u64::from(flags & FLAG_SYNC);
        self.info.zero_pages += u64::from(zero);
        Ok(State::Offsets(capacity, normal))
    }

    fn capacity_of(&mut self, header: &[u8], normal: u32, zero: u32) -> Result<u32, NotUnderstood> {
        let stated = Some(be32(header, 12)).filter(|stated| *stated > 0);
        let capacity = stated.or(self.capacity).unwrap_or(USUAL_CAPACITY);
        let pages = u64::from(normal) + u64::from(zero);
        if capacity > MAX_MULTIFD_PACKET_PAGES || pages > capacity.into() {
            return Err(NotUnderstood::PacketPages { normal, zero, capacity });
        }
        self.capacity = stated.or(self.capacity);
        Ok(capacity)
    }

    fn block_number(&mut self, name: &[u8]) -> Result<u16, NotUnderstood> {
        let name = name.split(|byte| *byte == 0).next().unwrap_or(name);
        let known = self.info.blocks.iter().position(|block| block.as_bytes() == name);
        if let Some(number) = known {
            return Ok(number as u16);
        }
        let text = String::from_utf8_lossy(name).into_owned();
        if text.is_empty() || text.as_bytes() != name {
            return Err(NotUnderstood::BlockName(text));
        }
        if self.info.blocks.len() >= MAX_REGIONS {
            return Err(NotUnderstood::Blocks);
        }
        self.info.blocks.push(text);
        Ok((self.info.blocks.len() - 1) as u16)
    }

    fn on_offsets(&mut self, offsets: &[u8], normal: u32) -> Result<State, NotUnderstood> {
        self.pages.clear();
        for index in 0..normal as usize {
            let offset = be64(offsets, index * 8);
            let (page, within) = (offset / PAGE_BYTES as u64, offset % PAGE_BYTES as u64);
            if page >= MAX_PAGES || within != 0 {
                let name = self.info.blocks.get(usize::from(self.block)).cloned();
                let (block, length) = (name.unwrap_or_default(), 0);
                return Err(NotUnderstood::Offset { block, offset, length });
            }
            self.pages.push(page);
        }
        Ok(if normal > 0 { State::Payload(0) } else { State::Header })
    }
}

fn check_version(what: &'static str, bytes: &[u8]) -> Result<(), NotUnderstood> {
    let (found, version) = (be32(bytes, 0), be32(bytes, 4));
    if found != MULTIFD_MAGIC {
        return Err(NotUnderstood::Magic { found, expected: MULTIFD_MAGIC });
    }
    if version == VERSION { Ok(()) } else { Err(NotUnderstood::Version { what, version }) }
}

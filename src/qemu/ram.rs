//! The inside of RAM sections: the list of blocks, then words that name pages.
//!
//! A word is the page's offset in its block with flags in the low twelve bits. Unless it continues
//! the block of the word before, the block's name follows it, then the payload.

use super::info::{MAX_RAM_BYTES, NotUnderstood, Phase, RamBlock, StreamInfo};
use super::intake::Want;
use super::segment::PAGE_BYTES;
use super::{be32, be64};
use crate::base::limits::MAX_REGIONS;

const FLAG_BITS: u64 = 0xfff;
const ZERO: u64 = 0x02;
const MEM_SIZE: u64 = 0x04;
const PAGE: u64 = 0x08;
const END_OF_SECTION: u64 = 0x10;
const CONTINUE: u64 = 0x20;
const XBZRLE: u64 = 0x40;
const COMPRESS_PAGE: u64 = 0x100;
const MULTIFD_FLUSH: u64 = 0x200;

/// Begins each XBZRLE page.
const XBZRLE_MARK: u8 = 0x01;
/// What zlib may at worst make of a page.
const MAX_COMPRESSED_BYTES: u32 = PAGE_BYTES as u32 + 14;

#[derive(Clone, Copy, Debug)]
enum State {
    Word,
    BlockNameLength,
    BlockName(usize),
    BlockLength,
    /// After a block that may be followed by its page size: a name's length, or a zero byte.
    NameLengthOrPageBytes,
    PageBytesRest,
    /// The same after the last block: a page size, or a word.
    WordOrPageBytes,
    Address,
    PageNameLength(Page),
    PageName(Page, usize),
    Fill,
    Payload {
        block: u16,
        page: u64,
    },
    XbzrleHead,
    CompressedLength,
    Encoded(u64),
}

#[derive(Clone, Copy, Debug)]
struct Page {
    kind: Kind,
    offset: u64,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Zero,
    Payload,
    Xbzrle,
    Compressed,
}

/// What a field led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Inside,
    SectionEnd,
}

/// Reads RAM sections, one after the other.
#[derive(Debug)]
pub(super) struct Ram {
    state: State,
    /// Whether each block is listed with its address.
    addresses: bool,
    /// The sizes of huge pages, as bits: with post-copy such blocks are listed with theirs.
    huge_pages: u64,
    /// Length of the blocks not yet listed.
    unlisted_bytes: u64,
    /// The block being listed.
    name: String,
    /// The block that the next word may continue.
    current: Option<u16>,
}

impl Ram {
    pub fn new(addresses: bool, huge_pages: u64) -> Self {
        let (unlisted_bytes, name, current) = (0, String::new(), None);
        Self { state: State::Word, addresses, huge_pages, unlisted_bytes, name, current }
    }

    pub fn want(&self) -> Want {
        match self.state {
            State::Word | State::BlockLength | State::WordOrPageBytes | State::Address => {
                Want::Field(8)
            }
            State::PageBytesRest => Want::Field(7),
            State::CompressedLength => Want::Field(4),
            State::XbzrleHead => Want::Field(3),
            State::BlockNameLength
            | State::NameLengthOrPageBytes
            | State::PageNameLength(_)
            | State::Fill => Want::Field(1),
            State::BlockName(length) | State::PageName(_, length) => Want::Field(length),
            State::Payload { block, page } => Want::Page { block, page },
            State::Encoded(left) => Want::Pass(left),
        }
    }

    pub fn on_page(&mut self, info: &mut StreamInfo) {
        info.pages += 1;
        self.state = State::Word;
    }

    pub fn on_passed(&mut self, bytes: u64) {
        if let State::Encoded(left) = self.state {
            let left = left.saturating_sub(bytes);
            self.state = if left > 0 { State::Encoded(left) } else { State::Word };
        }
    }

    pub fn on_field(
        &mut self,
        field: &[u8],
        info: &mut StreamInfo,
    ) -> Result<Progress, NotUnderstood> {
        let first = field.first().copied().unwrap_or(0);
        self.state = match self.state {
            State::Word if be64(field, 0) == END_OF_SECTION => return Ok(self.end_section(info)),
            State::Word => self.on_word(be64(field, 0), info)?,
            State::BlockNameLength | State::NameLengthOrPageBytes if first > 0 => {
                State::BlockName(first.into())
            }
            State::BlockNameLength => return Err(NotUnderstood::BlockName(String::new())),
            State::BlockName(_) => self.on_block_name(field, info)?,
            State::BlockLength => self.on_block_length(be64(field, 0), info)?,
            State::NameLengthOrPageBytes => State::PageBytesRest,
            State::PageBytesRest => {
                let bytes = be64(&[&[0], field].concat(), 0);
                self.on_page_bytes(bytes, info)?
            }
            State::WordOrPageBytes => {
                let word = be64(field, 0);
                if self.huge_pages & word == 0 || !word.is_power_of_two() {
                    self.state = State::Word;
                    return self.on_field(field, info);
                }
                self.on_page_bytes(word, info)?
            }
            State::Address => self.after_block(),
            State::PageNameLength(page) if first > 0 => State::PageName(page, first.into()),
            State::PageNameLength(_) => return Err(NotUnderstood::BlockName(String::new())),
            State::PageName(page, _) => {
                self.current = Some(find_block(field, info)?);
                self.begin_page(page, info)?
            }
            State::Fill => {
                info.zero_pages += 1;
                State::Word
            }
            State::XbzrleHead => on_xbzrle_head(field, info)?,
            State::CompressedLength => on_encoded(be32(field, 0), MAX_COMPRESSED_BYTES, info)?,
            // Neither is a field.
            State::Payload { .. } | State::Encoded(_) => self.state,
        };
        Ok(Progress::Inside)
    }

    fn end_section(&mut self, info: &mut StreamInfo) -> Progress {
        info.ram_sections += 1;
        info.phase = Phase::Ram;
        self.state = State::Word;
        Progress::SectionEnd
    }

    fn on_word(&mut self, word: u64, info: &mut StreamInfo) -> Result<State, NotUnderstood> {
        let (offset, flags) = (word & !FLAG_BITS, word & FLAG_BITS);
        if flags == MEM_SIZE && info.phase == Phase::RamSetup && info.ram_bytes == 0 {
            return self.begin_list(offset, info);
        }
        if word == MULTIFD_FLUSH {
            info.multifd_flushes += 1;
            return Ok(State::Word);
        }
        let kind = match flags & !CONTINUE {
            ZERO => Kind::Zero,
            PAGE => Kind::Payload,
            XBZRLE => Kind::Xbzrle,
            COMPRESS_PAGE => Kind::Compressed,
            _ => return Err(NotUnderstood::Word(word)),
        };
        let page = Page { kind, offset };
        match flags & CONTINUE {
            0 => Ok(State::PageNameLength(page)),
            _ if self.current.is_none() => Err(NotUnderstood::NoBlock(word)),
            _ => self.begin_page(page, info),
        }
    }

    fn begin_page(&self, page: Page, info: &StreamInfo) -> Result<State, NotUnderstood> {
        let number = self.current.unwrap_or(0);
        let block = info.blocks.get(usize::from(number));
        // Lengths are whole pages, so a page that begins within its block ends there.
        let Some(block) = block.filter(|block| page.offset < block.used_length) else {
            return Err(NotUnderstood::Offset {
                block: block.map_or(String::new(), |block| block.name.clone()),
                offset: page.offset,
                length: block.map_or(0, |block| block.used_length),
            });
        };
        debug_assert!(block.used_length.is_multiple_of(PAGE_BYTES as u64));
        Ok(match page.kind {
            Kind::Zero => State::Fill,
            Kind::Payload => {
                State::Payload { block: number, page: page.offset / PAGE_BYTES as u64 }
            }
            Kind::Xbzrle => State::XbzrleHead,
            Kind::Compressed => State::CompressedLength,
        })
    }

    fn begin_list(&mut self, bytes: u64, info: &mut StreamInfo) -> Result<State, NotUnderstood> {
        if bytes == 0 || bytes > MAX_RAM_BYTES {
            return Err(NotUnderstood::RamBytes(bytes));
        }
        if self.addresses && self.huge_pages != 0 {
            return Err(NotUnderstood::BlockList(self.huge_pages));
        }
        (info.ram_bytes, self.unlisted_bytes) = (bytes, bytes);
        Ok(State::BlockNameLength)
    }

    fn on_block_name(&mut self, name: &[u8], info: &StreamInfo) -> Result<State, NotUnderstood> {
        if info.blocks.len() >= MAX_REGIONS {
            return Err(NotUnderstood::Blocks);
        }
        let text = String::from_utf8_lossy(name).into_owned();
        if text.as_bytes() != name || info.blocks.iter().any(|block| block.name == text) {
            return Err(NotUnderstood::BlockName(text));
        }
        self.name = text;
        Ok(State::BlockLength)
    }

    fn on_block_length(
        &mut self,
        length: u64,
        info: &mut StreamInfo,
    ) -> Result<State, NotUnderstood> {
        let (name, left) = (std::mem::take(&mut self.name), self.unlisted_bytes);
        if length > left || !length.is_multiple_of(PAGE_BYTES as u64) {
            return Err(NotUnderstood::BlockLength { name, length, left });
        }
        self.unlisted_bytes -= length;
        let host_page_bytes = PAGE_BYTES as u64;
        info.blocks.push(RamBlock { name, used_length: length, host_page_bytes });
        Ok(match (self.addresses, self.huge_pages != 0) {
            (true, _) => State::Address,
            (false, false) => self.after_block(),
            (false, true) if self.unlisted_bytes > 0 => State::NameLengthOrPageBytes,
            (false, true) => State::WordOrPageBytes,
        })
    }

    fn on_page_bytes(&self, bytes: u64, info: &mut StreamInfo) -> Result<State, NotUnderstood> {
        if !bytes.is_power_of_two() || self.huge_pages & bytes == 0 {
            return Err(NotUnderstood::PageBytes(bytes));
        }
        if let Some(block) = info.blocks.last_mut() {
            block.host_page_bytes = bytes;
        }
        Ok(self.after_block())
    }

    fn after_block(&self) -> State {
        if self.unlisted_bytes > 0 { State::BlockNameLength } else { State::Word }
    }
}

fn find_block(name: &[u8], info: &StreamInfo) -> Result<u16, NotUnderstood> {
    let found = info.blocks.iter().position(|block| block.name.as_bytes() == name);
    let number = found.and_then(|index| u16::try_from(index).ok());
    number.ok_or_else(|| NotUnderstood::BlockName(String::from_utf8_lossy(name).into_owned()))
}

fn on_xbzrle_head(head: &[u8], info: &mut StreamInfo) -> Result<State, NotUnderstood> {
    // A mark and 16 bits of length.
    let length = be32(&[&[0], head].concat(), 0);
    let (mark, length) = (length >> 16, length & 0xffff);
    if mark != u32::from(XBZRLE_MARK) {
        return Err(NotUnderstood::Version { what: "an XBZRLE page", version: mark });
    }
    on_encoded(length, PAGE_BYTES as u32, info)
}

fn on_encoded(length: u32, most: u32, info: &mut StreamInfo) -> Result<State, NotUnderstood> {
    if length == 0 || length > most {
        return Err(NotUnderstood::EncodedLength(length));
    }
    info.encoded_pages += 1;
    Ok(State::Encoded(length.into()))
}

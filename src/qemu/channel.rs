//! One channel of a migration, whichever kind it is.

use super::{ChannelKind, MultifdParser, MultifdPhase, Phase, Segment, StreamParser, channel_kind};

/// The parser that a channel needs.
#[derive(Debug)]
pub enum ChannelParser {
    /// Of the main channel.
    Main(StreamParser),
    /// Of a multifd channel.
    Multifd(MultifdParser),
}

impl ChannelParser {
    /// For a channel that begins so; none if it is neither kind.
    pub fn for_channel(first_four: [u8; 4]) -> Option<Self> {
        match channel_kind(first_four) {
            ChannelKind::Main => Some(Self::Main(StreamParser::new())),
            ChannelKind::Multifd => Some(Self::Multifd(MultifdParser::new())),
            ChannelKind::Unknown => None,
        }
    }

    /// As [`StreamParser::feed`].
    pub fn feed(&mut self, bytes: &[u8], out: &mut Segment) -> usize {
        match self {
            Self::Main(parser) => parser.feed(bytes, out),
            Self::Multifd(parser) => parser.feed(bytes, out),
        }
    }

    /// As [`StreamParser::finish`].
    pub fn finish(&mut self, out: &mut Segment) {
        match self {
            Self::Main(parser) => parser.finish(out),
            Self::Multifd(parser) => parser.finish(out),
        }
    }

    /// Pages that went by, zero pages too.
    pub fn pages_seen(&self) -> u64 {
        match self {
            Self::Main(parser) => {
                let info = parser.info();
                info.pages + info.zero_pages + info.encoded_pages
            }
            Self::Multifd(parser) => parser.info().pages + parser.info().zero_pages,
        }
    }

    /// Of these, pages that the hypervisor only names as zero.
    pub fn zero_pages(&self) -> u64 {
        match self {
            Self::Main(parser) => parser.info().zero_pages,
            Self::Multifd(parser) => parser.info().zero_pages,
        }
    }

    /// Whether what comes is still understood, and the main channel's memory not over.
    pub fn is_in_memory(&self) -> bool {
        match self {
            Self::Main(parser) => !matches!(parser.info().phase, Phase::Opaque(_) | Phase::Tail),
            Self::Multifd(parser) => !matches!(parser.info().phase, MultifdPhase::Opaque(_)),
        }
    }

    /// The name of a block by its number in this channel's slots.
    pub fn block_name(&self, block: u16) -> Option<&str> {
        let block = usize::from(block);
        match self {
            Self::Main(parser) => parser.info().blocks.get(block).map(|block| &*block.name),
            Self::Multifd(parser) => parser.info().blocks.get(block).map(|name| &**name),
        }
    }
}

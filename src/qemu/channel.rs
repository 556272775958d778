//! One channel of a migration, whichever kind it is.

use super::{ChannelKind, MultifdParser, MultifdPhase, NotUnderstood, Package, Phase};
use super::{Segment, StreamParser, channel_kind};

/// Of a segment that is not looked into.
const RAW_BYTES: usize = 64 << 10;

/// The parser that a channel needs.
#[derive(Debug)]
pub enum ChannelParser {
    /// Of the main channel.
    Main(StreamParser),
    /// Of a multifd channel.
    Multifd(MultifdParser),
    /// Of a main channel that goes on after a switch to post-copy, of which nothing is looked for.
    Raw,
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
            Self::Raw => {
                let room = RAW_BYTES.saturating_sub(out.skeleton.len());
                let taken = bytes.len().min(room);
                out.skeleton.extend_from_slice(&bytes[..taken]);
                taken
            }
        }
    }

    /// As [`StreamParser::finish`].
    pub fn finish(&mut self, out: &mut Segment) {
        match self {
            Self::Main(parser) => parser.finish(out),
            Self::Multifd(parser) => parser.finish(out),
            Self::Raw => {}
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
            Self::Raw => 0,
        }
    }

    /// Of these, pages that the hypervisor only names as zero.
    pub fn zero_pages(&self) -> u64 {
        match self {
            Self::Main(parser) => parser.info().zero_pages,
            Self::Multifd(parser) => parser.info().zero_pages,
            Self::Raw => 0,
        }
    }

    /// Whether what comes is still understood, and the main channel's memory not over.
    pub fn is_in_memory(&self) -> bool {
        match self {
            Self::Main(parser) => !matches!(parser.info().phase, Phase::Opaque(_) | Phase::Tail),
            Self::Multifd(parser) => !matches!(parser.info().phase, MultifdPhase::Opaque(_)),
            Self::Raw => false,
        }
    }

    /// Whether the main channel's memory is over, and its devices come.
    pub fn is_in_tail(&self) -> bool {
        matches!(self, Self::Main(parser) if parser.info().phase == Phase::Tail)
    }

    /// What the main channel met that is not understood.
    pub fn not_understood(&self) -> Option<&NotUnderstood> {
        match self {
            Self::Main(parser) => match &parser.info().phase {
                Phase::Opaque(reason) => Some(reason),
                _ => None,
            },
            Self::Multifd(_) | Self::Raw => None,
        }
    }

    /// Where the package of a switch to post-copy is; it never comes on a multifd channel.
    pub fn package(&self) -> Package {
        match self {
            Self::Main(parser) => parser.info().package,
            Self::Multifd(_) => Package::Ahead,
            Self::Raw => Package::Past,
        }
    }

    /// The name of a block by its number in this channel's slots.
    pub fn block_name(&self, block: u16) -> Option<&str> {
        let block = usize::from(block);
        match self {
            Self::Main(parser) => parser.info().blocks.get(block).map(|block| &*block.name),
            Self::Multifd(parser) => parser.info().blocks.get(block).map(|name| &**name),
            Self::Raw => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_looked_into_passes_whole_in_bounded_pieces() {
        let bytes: Vec<u8> = (0..RAW_BYTES * 5 / 2).map(|at| at as u8).collect();
        let (mut parser, mut came, mut rest) = (ChannelParser::Raw, Vec::new(), &bytes[..]);
        while !rest.is_empty() {
            let mut segment = Segment::default();
            rest = &rest[parser.feed(rest, &mut segment)..];
            assert!((1..=RAW_BYTES).contains(&segment.stream_bytes()) && segment.pages.is_empty());
            segment.write_to(&mut came);
        }
        assert_eq!(came, bytes);
        assert_eq!((parser.package(), parser.is_in_memory()), (Package::Past, false));
    }
}

//! What QEMU at the destination answers to the one at the source while it may switch to post-copy: read from
//! its connection, sent back as control messages, and requests for pages timed.

use crate::base::limits::MAX_CONTROL_BYTES;
use crate::qemu::{Phase, ReturnPath, Segment, StreamParser};
use crate::runtime::clock::now;
use crate::runtime::lock::lock;
use crate::runtime::qemu::incoming::QemuIncoming;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;

/// Bytes read at once; messages are short, and one control message must take what comes of it.
const READ_BYTES: usize = 16 << 10;
/// Small pages of the largest page that one request names.
const MAX_PAGES_OF_ONE: u64 = 512;
const _: () = assert!(READ_BYTES * 2 < MAX_CONTROL_BYTES);

/// The answers of one QEMU.
#[derive(Default)]
pub struct Returns {
    /// Names of the RAM blocks in the order of their numbers in segments.
    blocks: Mutex<Blocks>,
}

#[derive(Default)]
struct Blocks {
    /// Reads the stream's beginning, until it has named them.
    parser: StreamParser,
    names: Option<Vec<String>>,
}

impl Returns {
    /// The thread that reads: until QEMU closes its connection, or nobody wants it.
    pub fn carry_all(&self, incoming: &QemuIncoming, mut main: &UnixStream) {
        let (mut path, mut buffer) = (ReturnPath::default(), vec![0; READ_BYTES]);
        // However it ends, what becomes of the guest QEMU says by QMP.
        while let Ok(length @ 1..) = main.read(&mut buffer) {
            let mut asked = Vec::new();
            let whole = path.take(&buffer[..length], |pages| asked.push(pages));
            if !incoming.wait_to_send_back() {
                continue;
            }
            let mut machine = lock(incoming.machine());
            for pages in asked {
                let Some(block) = self.number_of(&pages.block) else { continue };
                (0..pages.pages.min(MAX_PAGES_OF_ONE))
                    .for_each(|more| machine.page_asked(block, pages.page + more, now()));
            }
            if !whole.is_empty() {
                machine.send_back(whole);
            }
            drop(machine);
            incoming.flush_any();
        }
    }

    fn number_of(&self, name: &str) -> Option<u16> {
        let blocks = lock(&self.blocks);
        let place = blocks.names.as_ref()?.iter().position(|block| block == name)?;
        u16::try_from(place).ok()
    }

    /// Looks at the main stream's beginning, where the blocks are named.
    pub fn learn_blocks(&self, segment: &Segment) {
        let mut blocks = lock(&self.blocks);
        if blocks.names.is_some() {
            return;
        }
        let mut seen = Segment::default();
        for mut piece in segment.pieces() {
            while !piece.is_empty() {
                let taken = blocks.parser.feed(piece, &mut seen);
                piece = &piece[taken..];
                seen.clear();
            }
        }
        let info = blocks.parser.info();
        if !matches!(info.phase, Phase::Start | Phase::RamSetup) {
            blocks.names = Some(info.blocks.iter().map(|block| block.name.clone()).collect());
        }
    }

    /// QEMU has got these pages.
    pub fn given(&self, incoming: &QemuIncoming, segment: &Segment) {
        let mut machine = lock(incoming.machine());
        if machine.awaits_pages() {
            segment.pages.iter().for_each(|slot| machine.page_given(slot.block, slot.page, now()));
        }
    }
}

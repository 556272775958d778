//! Looks at a guest that has nothing left to send.

use super::*;
use crate::base::{MemoryLayout, MigrationId, RegionLayout, StreamId};
use crate::encoding::ImageDigest;
use crate::migration::MigrationOptions;
use crate::migration::source::{Action, SourceSetup, Work};
use crate::wire::{ChunkAck, Frame, FrameKind};
use std::sync::Arc;

const STREAM: StreamId = StreamId(0);
const PAGES: u64 = 512;

/// A source at the beginning of its first pass.
fn source() -> Source {
    let region = RegionLayout { name: "ram".into(), guest_address: 0, length_bytes: PAGES * 4096 };
    let layout = MemoryLayout::new(4096, vec![region]).unwrap();
    let digest = Arc::new(ImageDigest::new(PAGES));
    let options = MigrationOptions::default();
    let setup = SourceSetup { id: MigrationId([1; 16]), guest: "vm".into(), layout, options };
    let mut source = Source::new(setup, digest, 1 << 20, Time(1));
    source.stream_up(STREAM, "there", Time(1));
    source
}

/// Runs an idle guest's source until it stops the guest, or gives up; the path has this round trip and
/// takes so long for each page.
fn pauses(round_trip: Duration, page: Duration) -> bool {
    let (mut source, mut now) = (source(), Time(1));
    for _ in 0..1_000 {
        while let Some(action) = source.next_action() {
            let answer = match action {
                Action::Persist(mark) => Answer::Persisted(mark, Ok(())),
                Action::StartDirtyLog => Answer::DirtyLogStarted(Ok(())),
                Action::FetchDirty => Answer::DirtyFetched(Ok(())),
                Action::Throttle(_) => Answer::Throttled(Ok(true)),
                Action::Pause => return true,
                Action::Finish(_) => return false,
                other => panic!("{other:?}"),
            };
            source.answer(answer, now);
        }
        match source.next_work(STREAM, now) {
            Work::Chunk(plan) => {
                let pages: u32 = plan.runs.iter().map(|run| run.pages).sum();
                let bytes = u64::from(pages) * 4096;
                source.chunk_encoded(plan.id, 0, pages.into(), bytes, now);
                now = now + round_trip + page * pages;
                let payload = ChunkAck { arrived: vec![plan.id], damaged: vec![] }.encode();
                let frame = Frame { kind: FrameKind::ChunkAck, payload };
                source.frame(STREAM, &frame, now).unwrap();
            }
            Work::Wait(until) => {
                now = until;
                source.tick(now);
            }
            Work::Frame(_) => {}
            Work::Close => panic!("closed"),
        }
    }
    panic!("no end");
}

#[test]
fn a_slow_path_is_not_taken_for_a_long_one() {
    let ms = Duration::from_millis;
    // A chunk of 256 pages takes half a second over the first; 300 ms of downtime are allowed.
    assert!(pauses(ms(5), ms(2)));
    assert!(pauses(ms(150), Duration::ZERO));
    assert!(!pauses(ms(250), Duration::ZERO));
}

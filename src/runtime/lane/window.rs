//! The reads under way on one connection: announced chunks go in, chunks that are all there come out,
//! in the same order. Several are under way at a time, so that the path is never idle between two.

use crate::base::MemoryLayout;
use crate::migration::page_io::ranges;
use crate::runtime::rdma::{
    Completion, MemoryRegion, PieceError, PostError, QueuePair, Target, VerbError, WorkError,
};
use crate::wire::rdma::RemoteMemory;
use crate::wire::{ChunkHeader, ExtentKind};
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Reads that are posted at a time. The device makes as many of them at once as both ends can.
pub const READS: u32 = 64;
/// Announced chunks that are taken off the connection before they are read.
const CHUNKS: usize = 16;

/// The pages of a chunk cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The device ended the connection.
    #[error(transparent)]
    Work(#[from] WorkError),
    /// The device does not take work.
    #[error(transparent)]
    Post(#[from] PostError),
    /// Pages outside the guest.
    #[error(transparent)]
    Piece(#[from] PieceError),
    /// The device does not answer.
    #[error(transparent)]
    Verb(#[from] VerbError),
    /// A region that the source did not offer.
    #[error("region {0} was not offered")]
    NoRegion(usize),
}

/// The reads of one connection.
#[derive(Debug)]
pub struct ReadWindow {
    /// First, so that no device writes any more when the rest is dropped.
    pair: QueuePair,
    ours: Vec<Arc<MemoryRegion>>,
    theirs: Vec<RemoteMemory>,
    /// Oldest first.
    chunks: VecDeque<Announced>,
    /// Not posted yet.
    due: VecDeque<Read>,
    done: Vec<Completion>,
    /// When a read last ended, or the first of several began.
    heard: Instant,
}

#[derive(Debug)]
struct Announced {
    header: ChunkHeader,
    reads_left: usize,
}

#[derive(Debug)]
struct Read {
    chunk: u64,
    region: usize,
    offset_bytes: u64,
    length_bytes: u32,
}

impl ReadWindow {
    /// Nothing under way. Region `i` of the source's memory goes into region `i` of ours.
    pub fn new(pair: QueuePair, ours: Vec<Arc<MemoryRegion>>, theirs: Vec<RemoteMemory>) -> Self {
        let (chunks, due, done) = Default::default();
        Self { pair, ours, theirs, chunks, due, done, heard: Instant::now() }
    }

    /// Whether no chunk is under way.
    pub fn is_idle(&self) -> bool {
        self.chunks.is_empty()
    }

    /// For how long reads have been under way and none has ended.
    pub fn silent_for(&self) -> Duration {
        if self.is_idle() { Duration::ZERO } else { self.heard.elapsed() }
    }

    /// Whether another chunk may be begun.
    pub fn has_room(&self) -> bool {
        self.chunks.len() < CHUNKS
    }

    /// Begins to read the pages of a chunk, which nobody else may touch until it comes out again.
    ///
    /// # Errors
    /// [`ReadError`]: the window is of no use any more.
    pub fn begin(&mut self, header: &ChunkHeader, layout: &MemoryLayout) -> Result<(), ReadError> {
        if self.is_idle() {
            self.heard = Instant::now();
        }
        let before = self.due.len();
        for range in ranges(header, ExtentKind::Data, layout) {
            self.due.push_back(Read {
                chunk: header.id.0,
                region: range.region,
                offset_bytes: range.offset_bytes,
                // A chunk's data is a mebibyte at most.
                length_bytes: range.length_bytes as u32,
            });
        }
        let reads_left = self.due.len() - before;
        self.chunks.push_back(Announced { header: header.clone(), reads_left });
        self.post()
    }

    /// The next chunk that is all there, waiting for it up to `patience`, and no longer than until
    /// something can be read of `beside`.
    ///
    /// # Errors
    /// As [`Self::begin`].
    pub fn next(
        &mut self,
        beside: Option<BorrowedFd<'_>>,
        patience: Duration,
    ) -> Result<Option<ChunkHeader>, ReadError> {
        self.take_done(|pair, done| pair.poll(done))?;
        if !self.is_first_here() && patience > Duration::ZERO && !self.is_idle() {
            self.take_done(|pair, done| pair.wait_beside(done, beside, patience))?;
        }
        match self.is_first_here() {
            true => Ok(self.chunks.pop_front().map(|chunk| chunk.header)),
            false => Ok(None),
        }
    }

    /// Ends the queue pair, so that nothing is read any more, and gives back what was under way.
    pub fn abandon(self) -> Vec<ChunkHeader> {
        drop(self.pair);
        self.chunks.into_iter().map(|chunk| chunk.header).collect()
    }

    fn is_first_here(&self) -> bool {
        self.chunks.front().is_some_and(|chunk| chunk.reads_left == 0)
    }

    fn take_done(
        &mut self,
        wait: impl FnOnce(&mut QueuePair, &mut Vec<Completion>) -> Result<usize, VerbError>,
    ) -> Result<(), ReadError> {
        wait(&mut self.pair, &mut self.done)?;
        if !self.done.is_empty() {
            self.heard = Instant::now();
        }
        for completion in self.done.drain(..) {
            completion.outcome?;
            let of_it =
                |chunk: &&mut Announced| chunk.header.id.0 == completion.id && chunk.reads_left > 0;
            if let Some(chunk) = self.chunks.iter_mut().find(of_it) {
                chunk.reads_left -= 1;
            }
        }
        self.post()
    }

    fn post(&mut self) -> Result<(), ReadError> {
        while self.pair.send_room() > 0 {
            let Some(read) = self.due.pop_front() else { break };
            let Read { chunk, region, offset_bytes, length_bytes } = read;
            let none = ReadError::NoRegion(region);
            let (Some(ours), Some(theirs)) = (self.ours.get(region), self.theirs.get(region))
            else {
                return Err(none);
            };
            let target = Target { memory: *theirs, offset_bytes };
            self.pair.read(chunk, ours.piece(offset_bytes, length_bytes)?, target)?;
        }
        Ok(())
    }
}

//! One of two processes that are joined by a queue pair: what each needs, and how they find together.

use crate::Failure;
use dwcp::base::{MemoryLayout, RegionLayout};
use dwcp::runtime::rdma::{
    Access, Completion, Device, LIBRARY, Library, MemoryBudget, MemoryRegion, PairOptions,
    PendingPair, Piece, ProtectionDomain, QueuePair,
};
use dwcp::runtime::sys::{Allocation, MappedMemory};
use dwcp::wire::rdma::{ENDPOINT_BYTES, Endpoint, REMOTE_MEMORY_BYTES, RemoteMemory};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

/// What each scenario moves.
pub const MEMORY_BYTES: u64 = 64 << 20;
/// In so many pieces of work.
pub const PIECES: u32 = 64;
/// The length of one.
pub const PIECE_BYTES: u32 = (MEMORY_BYTES / PIECES as u64) as u32;
/// No wait takes that long, unless something hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);

const PAGE_BYTES: u32 = 4096;

/// One side; fields are dropped in this order, though any would do.
pub struct Side {
    pub pair: QueuePair,
    pub region: Arc<MemoryRegion>,
    pub memory: Arc<MappedMemory>,
    /// The other side's memory.
    pub remote: RemoteMemory,
    /// Control, as TCP would carry it.
    pub stream: UnixStream,
}

impl Side {
    /// Joins with whoever is at the other end of the stream. For every piece there is a receive that
    /// only tells.
    pub fn join(stream: UnixStream) -> Result<Self, Failure> {
        Self::joined(stream, |_, _| Ok(None))
    }

    /// As [`Self::join`], with receives that are places for messages: one for each piece of the memory.
    pub fn join_for_messages(stream: UnixStream) -> Result<Self, Failure> {
        Self::joined(stream, |region, number| {
            Ok(Some(region.piece(u64::from(number) * u64::from(PIECE_BYTES), PIECE_BYTES)?))
        })
    }

    fn joined(
        mut stream: UnixStream,
        place: impl Fn(&Arc<MemoryRegion>, u32) -> Result<Option<Piece<'_>>, Failure>,
    ) -> Result<Self, Failure> {
        let domain = domain()?;
        let memory = allocate(MEMORY_BYTES)?;
        let access = Access { remote_read: true, remote_write: true };
        let budget = MemoryBudget::new(MEMORY_BYTES);
        let range = (0, 0, MEMORY_BYTES);
        let region = MemoryRegion::register(&domain, &memory, range, access, &budget)?;
        let options =
            PairOptions { send_depth: PIECES, receive_depth: PIECES, ..PairOptions::default() };
        let mut pair = PendingPair::new(&domain, options)?;
        for number in 0..PIECES {
            pair.receive(number.into(), place(&region, number)?)?;
        }
        stream.write_all(&pair.local().encode())?;
        stream.write_all(&region.remote().encode())?;
        let (mut endpoint, mut remote) = ([0; ENDPOINT_BYTES], [0; REMOTE_MEMORY_BYTES]);
        stream.read_exact(&mut endpoint)?;
        stream.read_exact(&mut remote)?;
        let pair = pair.connect(&Endpoint::decode(&endpoint)?)?;
        let mut side =
            Self { pair, region, memory, remote: RemoteMemory::decode(&remote)?, stream };
        side.meet()?;
        Ok(side)
    }

    /// Both sides have come to this point.
    pub fn meet(&mut self) -> Result<(), Failure> {
        self.stream.write_all(&[1])?;
        Ok(self.stream.read_exact(&mut [0])?)
    }

    /// Waits for so many completions, whatever their outcome.
    pub fn completions(&mut self, count: usize) -> Result<Vec<Completion>, Failure> {
        let mut done = Vec::new();
        while done.len() < count {
            if self.pair.wait(&mut done, PATIENCE)? == 0 {
                return Err(
                    format!("{} of {count} completions within {PATIENCE:?}", done.len()).into()
                );
            }
        }
        Ok(done)
    }

    /// Fills the memory with numbers that follow from the seed.
    pub fn fill(&self, seed: u64) -> Result<(), Failure> {
        self.each_page(|offset| Ok(self.memory.write(0, offset, &page(seed, offset))?))
    }

    /// Every page must be as [`Self::fill`] makes it.
    pub fn verify(&self, seed: u64) -> Result<(), Failure> {
        self.each_page(|offset| {
            let mut found = [0; PAGE_BYTES as usize];
            self.memory.read(0, offset, &mut found)?;
            match found == page(seed, offset) {
                true => Ok(()),
                false => Err(format!("the page at {offset} is not what was sent").into()),
            }
        })
    }

    fn each_page(&self, work: impl FnMut(u64) -> Result<(), Failure>) -> Result<(), Failure> {
        (0..MEMORY_BYTES).step_by(PAGE_BYTES as usize).try_for_each(work)
    }
}

/// The other process of a scenario; it ends with this value.
pub struct Other(Child);

impl Other {
    /// Starts it; the stream leads there.
    pub fn start(name: &str) -> Result<(Self, UnixStream), Failure> {
        let path = socket_of(name);
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path)?;
        let child = Self(Command::new("/init").arg(name).spawn()?);
        let (stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok((child, stream))
    }

    /// Kills it as an operator would.
    pub fn kill(&mut self) -> Result<(), Failure> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }

    /// Waits for its end, which must be a good one.
    pub fn finish(mut self) -> Result<(), Failure> {
        match self.0.wait()? {
            status if status.success() => Ok(()),
            status => Err(format!("the other side ended with {status}").into()),
        }
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The stream to who started this process.
pub fn to_starter(name: &str) -> Result<UnixStream, Failure> {
    Ok(UnixStream::connect(socket_of(name))?)
}

/// A domain of the one device.
pub fn domain() -> Result<ProtectionDomain, Failure> {
    let devices = Device::open_all(&Library::load(Path::new(LIBRARY))?)?;
    Ok(ProtectionDomain::new(&devices[0])?)
}

/// Memory such as a guest's.
pub fn allocate(length_bytes: u64) -> Result<Arc<MappedMemory>, Failure> {
    let region = RegionLayout { name: "ram".into(), length_bytes, guest_address: 0 };
    let layout = MemoryLayout::new(PAGE_BYTES, vec![region])?;
    Ok(Arc::new(MappedMemory::allocate(layout, Allocation::default())?))
}

fn socket_of(name: &str) -> String {
    format!("/run/{name}.sock")
}

fn page(seed: u64, offset: u64) -> [u8; PAGE_BYTES as usize] {
    let mut state = seed ^ offset.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut page = [0; PAGE_BYTES as usize];
    for word in page.as_chunks_mut().0 {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        *word = (state ^ (state >> 29)).to_le_bytes();
    }
    page
}

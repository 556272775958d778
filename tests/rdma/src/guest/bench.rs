//! How fast pages are read, beside perftest's `ib_read_bw` in the same guest, in turn with it: each
//! measurement is a line of JSON.

use crate::setup::ADDRESS;
use crate::side::{MEMORY_BYTES, Other, PATIENCE, Side, allocate};
use crate::{Failure, say};
use dwcp::base::{ChunkId, MemoryLayout};
use dwcp::encoding::ImageDigest;
use dwcp::encoding::digest::page_hash;
use dwcp::migration::page_io::ChunkReader;
use dwcp::migration::{Ending, GuestError};
use dwcp::runtime::lane::ReadWindow;
use dwcp::runtime::mapped_guest::{MappedSink, SinkControl};
use dwcp::runtime::rdma::probe;
use dwcp::wire::chunk::READ_LIVE;
use dwcp::wire::{ChunkHeader, Extent, ExtentKind};
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// There is such a file in an image that is to measure.
pub const MARK: &str = "/bench";

const PERFTEST: &str = "/usr/bin/ib_read_bw";
const ROUNDS: usize = 3;
/// As long as perftest's messages.
const CHUNK_BYTES: u64 = 64 << 10;
const PAGE_BYTES: u64 = 4096;
const CHUNKS: u64 = MEMORY_BYTES / CHUNK_BYTES;

/// Measures, and says what was found.
pub fn run() -> Result<(), Failure> {
    for _ in 0..ROUNDS {
        say(&format!("bench {{\"ib_read_bw_bytes_per_s\":{:.0}}}", by_perftest()?));
        let (rate_bytes_per_s, _) = by_window(false)?;
        let (hashed_bytes_per_s, user_ns_per_byte) = by_window(true)?;
        say(&format!(
            "bench {{\"read_bytes_per_s\":{rate_bytes_per_s:.0},\
             \"hashed_bytes_per_s\":{hashed_bytes_per_s:.0},\
             \"user_ns_per_byte\":{user_ns_per_byte:.4}}}"
        ));
        say(&format!("bench {{\"hash_ns_per_byte\":{:.4}}}", by_hashing()?));
    }
    Ok(())
}

/// Announced chunks through the window of a connection; the bytes in a second, and the time of the
/// processor in user space for each. Hashed, they cost what they cost a migration: under a translator
/// a good part of the guest's time, which its kernel needs to do a card's work.
fn by_window(is_hashed: bool) -> Result<(f64, f64), Failure> {
    let (other, stream) = Other::start("read")?;
    let mut side = Side::join(stream)?;
    side.meet()?;
    let layout = side.memory.layout().clone();
    let digest = ImageDigest::new(layout.page_count());
    let sink = MappedSink::new(side.memory.clone(), Box::new(Still));
    let Side { pair, region, remote, memory, mut stream } = side;
    let mut window = ReadWindow::new(pair, vec![region.clone()], vec![remote]);
    let (began, user_began) = (Instant::now(), user_time()?);
    read_all(&mut window, &layout, |header, reader| {
        Ok(!is_hashed || reader.accept(header, &sink, &layout, &digest)?)
    })?;
    let (seconds, user) = (began.elapsed().as_secs_f64(), user_time()? - user_began);
    drop((window, region, memory));
    stream.write_all(&[1])?;
    stream.read_exact(&mut [0])?;
    other.finish()?;
    Ok((MEMORY_BYTES as f64 / seconds, user.as_secs_f64() * 1e9 / MEMORY_BYTES as f64))
}

/// The part of that time without which nothing would be proven: each page's hash.
fn by_hashing() -> Result<f64, Failure> {
    let memory = allocate(MEMORY_BYTES)?;
    let mut sum = 0_u64;
    let mut look = |bytes: &[u8]| {
        let hashes = bytes.chunks_exact(PAGE_BYTES as usize).map(page_hash);
        sum = hashes.fold(sum, u64::wrapping_add);
    };
    // Once more than is measured, so that the memory is there.
    memory.inspect(0, 0, MEMORY_BYTES, &mut look)?;
    let began = user_time()?;
    memory.inspect(0, 0, MEMORY_BYTES, &mut look)?;
    let took = user_time()? - began;
    std::hint::black_box(sum);
    Ok(took.as_secs_f64() * 1e9 / MEMORY_BYTES as f64)
}

fn read_all(
    window: &mut ReadWindow,
    layout: &MemoryLayout,
    mut accept: impl FnMut(&ChunkHeader, &mut ChunkReader) -> Result<bool, Failure>,
) -> Result<(), Failure> {
    let (mut begun, mut done, mut reader) = (0, 0, ChunkReader::default());
    while done < CHUNKS {
        while begun < CHUNKS && window.has_room() {
            window.begin(&chunk(begun), layout)?;
            begun += 1;
        }
        let header = window.next(None, PATIENCE)?.ok_or("no chunk came")?;
        if !accept(&header, &mut reader)? {
            return Err(format!("chunk {} came damaged", header.id.0).into());
        }
        done += 1;
    }
    Ok(())
}

fn chunk(number: u64) -> ChunkHeader {
    let pages = CHUNK_BYTES / PAGE_BYTES;
    let extent = Extent { first_page: number * pages, pages: pages as u32, kind: ExtentKind::Data };
    ChunkHeader {
        id: ChunkId(number),
        checksum: 0,
        raw_bytes: CHUNK_BYTES as u32,
        payload_bytes: 0,
        codec: READ_LIVE,
        extents: vec![extent],
    }
}

/// What perftest measures, in bytes a second.
fn by_perftest() -> Result<f64, Failure> {
    let mut server = perftest(None)?.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let told = told_by_client(&mut server);
    let _ = server.kill();
    server.wait()?;
    let told = told?;
    let size = CHUNK_BYTES.to_string();
    let row = told.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    // Size, iterations, peak, average in MiB/s.
    let row = row.into_iter().find(|row| row.first() == Some(&size.as_str()) && row.len() >= 4);
    let row = row.ok_or_else(|| format!("perftest says no figure: {told}"))?;
    Ok(row[3].parse::<f64>()? * f64::from(1 << 20))
}

fn told_by_client(server: &mut Child) -> Result<String, Failure> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let output = perftest(Some(&ADDRESS.to_string()))?.output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        // It does not listen yet; an end of its own is no good one.
        if Instant::now() > deadline || server.try_wait()?.is_some() {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(format!("ib_read_bw: {text}").into());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn perftest(to: Option<&str>) -> Result<Command, Failure> {
    let devices = probe()?;
    let gid = devices[0].ports[0].best_gid().ok_or("no address")?;
    let mut command = Command::new(PERFTEST);
    command.args(["-d", &devices[0].name, "-x", &gid.index.to_string(), "-F"]);
    command.args(["-s", &CHUNK_BYTES.to_string(), "-n", &CHUNKS.to_string()]).args(to);
    Ok(command)
}

/// A guest that is never started.
struct Still;

impl SinkControl for Still {
    fn load_device_state(&self, _: &[u8]) -> Result<(), GuestError> {
        Ok(())
    }

    fn resume(&self) -> Result<(), GuestError> {
        Ok(())
    }

    fn finish(&self, _: Ending) -> Result<(), GuestError> {
        Ok(())
    }
}

/// Of the whole process.
fn user_time() -> Result<Duration, Failure> {
    // SAFETY: zeros are a value of every field, which are plain numbers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: there is room for the answer.
    match unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) } {
        0 => Ok(Duration::new(usage.ru_utime.tv_sec as u64, usage.ru_utime.tv_usec as u32 * 1000)),
        _ => Err(std::io::Error::last_os_error().into()),
    }
}

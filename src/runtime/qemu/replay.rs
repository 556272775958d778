//! Segments become QEMU's channels again: they are unpacked in the order of their numbers, and each
//! channel has a thread that writes to its connection.
//!
//! QEMU stops reading a channel until its main stream, or another channel, has come as far. So no
//! channel may wait for one that stands still: what was unpacked for that one is kept, within the
//! bounds of the state machine.

use crate::Status;
use crate::base::limits::MAX_DEVICE_STATE_BYTES;
use crate::migration::Failure;
use crate::qemu::{Segment, releasable_bytes};
use crate::runtime::clock::now;
use crate::runtime::held::HeldWriter;
use crate::runtime::lock::lock;
use crate::runtime::qemu::door::QemuDoor;
use crate::runtime::qemu::incoming::QemuIncoming;
use crate::runtime::sys::thread::spawn_named;
use crate::wire::segment::{Kept, SegmentPayload};
use std::io::{self, IoSlice, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Slices that the kernel takes at once.
const MOST_SLICES: usize = 1024;
/// QEMU's own words come by QMP, and a little later than its socket closes.
const WORDS_TIME: Duration = Duration::from_millis(100);

/// A stretch of one channel, on its way to QEMU.
struct Stretch {
    number: u64,
    before_end: bool,
    kept: Kept,
    segment: Segment,
}

/// The thread of one channel.
struct Writer {
    queue: Sender<Stretch>,
    thread: JoinHandle<()>,
}

/// The replay's thread.
pub fn replay(incoming: &Arc<QemuIncoming>, keeper: Option<&HeldWriter>) {
    let mut writers: Vec<Option<Writer>> = Vec::new();
    while let Some(payload) = incoming.next_segment() {
        if let Err(failure) = take_in(incoming, (payload, keeper), &mut writers) {
            incoming.fail(failure);
        }
        incoming.flush_acks();
    }
    for Writer { queue, thread } in writers.into_iter().flatten() {
        drop(queue);
        let _ = thread.join();
    }
}

/// Unpacks a segment and gives it to its channel's thread.
fn take_in(
    incoming: &Arc<QemuIncoming>,
    (payload, keeper): (SegmentPayload, Option<&HeldWriter>),
    writers: &mut Vec<Option<Writer>>,
) -> Result<(), Failure> {
    let (header, segment) = incoming.unpack(payload, keeper)?;
    let stream_bytes = segment.stream_bytes() as u64;
    if incoming.may_switch() && header.channel == 0 {
        incoming.returns().learn_blocks(&segment);
    }
    let mut machine = lock(incoming.machine());
    let unpacked = machine.unpacked(header.channel, stream_bytes, header.checksum);
    if header.kept == Kept::End {
        machine.package_ended(now());
    }
    drop(machine);
    // It says itself why not.
    let Some(number) = unpacked else { return Ok(()) };
    let at = usize::from(header.channel);
    writers.resize_with(writers.len().max(at + 1), || None);
    if writers[at].is_none() {
        writers[at] = Some(Writer::start(incoming, header.channel)?);
    }
    if let Some(writer) = &writers[at] {
        // One that has ended has told why.
        let (before_end, kept) = (header.before_end, header.kept);
        let _ = writer.queue.send(Stretch { number, before_end, kept, segment });
    }
    Ok(())
}

impl Writer {
    fn start(incoming: &Arc<QemuIncoming>, number: u8) -> Result<Self, Failure> {
        let door = incoming.open_door()?;
        let socket = match number {
            0 => door.main.clone(),
            _ => door.connect().map_err(|error| refused_by_qemu(&door, &error))?,
        };
        let (queue, stretches) = channel();
        let incoming = incoming.clone();
        let thread = spawn_named("dwcp-to-qemu", move || {
            write_all(&incoming, (number, &socket), &door, &stretches);
        });
        let failed = |error| Failure::new(Status::Io, format!("no thread for the replay: {error}"));
        Ok(Self { queue, thread: thread.map_err(failed)? })
    }
}

/// A channel's thread.
fn write_all(
    incoming: &QemuIncoming,
    (channel, socket): (u8, &UnixStream),
    door: &QemuDoor,
    stretches: &Receiver<Stretch>,
) {
    let mut has_switched = incoming.begins_switched();
    for stretch in stretches {
        if !lock(incoming.machine()).wants_segments() {
            return;
        }
        let written = match channel {
            0 if stretch.kept != Kept::No => Ok(keep(incoming, &stretch)),
            0 if !has_switched => write_main(incoming, socket, &stretch),
            _ => write_whole(socket, &stretch.segment),
        };
        let failure = match written {
            Ok(Ok(())) => {
                if has_switched {
                    incoming.returns().given(incoming, &stretch.segment);
                }
                has_switched |= stretch.kept == Kept::End;
                incoming.replayed(stretch.number, stretch.segment.data);
                continue;
            }
            Ok(Err(failure)) => failure,
            Err(error) => refused_by_qemu(door, &error),
        };
        return incoming.fail(failure);
    }
}

fn write_whole(socket: &UnixStream, segment: &Segment) -> io::Result<Result<(), Failure>> {
    let pieces: Vec<&[u8]> = segment.pieces().collect();
    write_pieces(socket, &pieces, segment.stream_bytes())?;
    Ok(Ok(()))
}

/// Keeps a stretch of the package that makes QEMU run the guest.
fn keep(incoming: &QemuIncoming, Stretch { segment, .. }: &Stretch) -> Result<(), Failure> {
    let mut kept = lock(incoming.end());
    if kept.len() + segment.stream_bytes() > MAX_DEVICE_STATE_BYTES {
        let text = format!("the device state is over {MAX_DEVICE_STATE_BYTES} bytes");
        return Err(Failure::new(Status::LimitReached, text));
    }
    segment.write_to(&mut kept);
    Ok(())
}

/// Writes a stretch of the main stream, but for what is to be kept back.
fn write_main(
    incoming: &QemuIncoming,
    socket: &UnixStream,
    Stretch { before_end, segment, .. }: &Stretch,
) -> io::Result<Result<(), Failure>> {
    let mut kept = lock(incoming.end());
    let before = std::mem::take(&mut *kept);
    let pieces: Vec<&[u8]> = std::iter::once(&before[..]).chain(segment.pieces()).collect();
    let length = before.len() + segment.stream_bytes();
    // A word that QEMU waits for may look like the end's beginning.
    let early = if *before_end { length } else { releasable_bytes(&pieces) };
    if length - early > MAX_DEVICE_STATE_BYTES {
        let text = format!("the stream's end is over {MAX_DEVICE_STATE_BYTES} bytes");
        return Ok(Err(Failure::new(Status::LimitReached, text)));
    }
    *kept = write_pieces(socket, &pieces, early)?;
    Ok(Ok(()))
}

fn refused_by_qemu(door: &QemuDoor, error: &io::Error) -> Failure {
    std::thread::sleep(WORDS_TIME);
    let text = match door.watch.seen().over {
        Some(Err(words)) => words,
        _ => format!("QEMU at the destination takes no more of its stream: {error}"),
    };
    Failure::new(Status::Callback, text)
}

/// Writes the first `length` bytes of the pieces; returns a copy of the rest.
fn write_pieces(mut socket: &UnixStream, pieces: &[&[u8]], length: usize) -> io::Result<Vec<u8>> {
    let (mut left, mut slices, mut rest) = (length, Vec::with_capacity(pieces.len()), Vec::new());
    for piece in pieces {
        let (now, later) = piece.split_at(left.min(piece.len()));
        left -= now.len();
        slices.push(IoSlice::new(now));
        rest.extend_from_slice(later);
    }
    let mut slices = &mut slices[..];
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        let most = slices.len().min(MOST_SLICES);
        match socket.write_vectored(&slices[..most]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut slices, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn pieces_come_out_in_order_whatever_the_socket_takes_at_once() {
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..20 {
            let (near, mut far) = UnixStream::pair().unwrap();
            let owned: Vec<Vec<u8>> = (0..random.usize(1..3000))
                .map(|_| (0..random.usize(..3) * 2048).map(|_| random.u8(..)).collect())
                .collect();
            let pieces: Vec<&[u8]> = owned.iter().map(Vec::as_slice).collect();
            let all = owned.concat();
            let length = random.usize(..=all.len());
            let reading = std::thread::spawn(move || {
                let mut came = Vec::new();
                far.read_to_end(&mut came).map(|_| came)
            });
            let rest = write_pieces(&near, &pieces, length).unwrap();
            drop(near);
            assert!(reading.join().unwrap().unwrap() == all[..length]);
            assert!(rest == all[length..]);
        }
    }
}

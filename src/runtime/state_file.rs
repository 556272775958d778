//! A small record on disk that survives a crash at any moment: who owns a migrating guest.
//!
//! ```text
//! file  = two slots of 4096 bytes, written in turn; the newer valid one counts
//! slot  = magic 8 | version u32 | length u32 | sequence u64 | crc32 u32 | content | zeros
//! ```
//!
//! All numbers are little-endian; the checksum covers the slot up to the content's end, without
//! itself. Both slots are written and synced when the file is made, so a full disk is found out
//! before a migration begins and not at its commit point. A write that is torn by a crash spoils
//! one slot, and the other still holds the record before it. (On file systems that never write in
//! place, such as btrfs, a full disk can fail a later write too: as an error, with the record
//! before it intact.)

use crate::base::MigrationId;
pub use crate::migration::ownership::Side;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Longest content of a record.
pub const MAX_CONTENT_BYTES: usize = 1024;

const MAGIC: [u8; 8] = *b"DWCPSTAT";
const VERSION: u32 = 1;
const SLOT_BYTES: usize = 4096;
const HEADER_BYTES: usize = 28;
const CRC_AT: usize = 24;
const SUFFIX: &str = ".state";

/// A state file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum StateFileError {
    /// A system call failed.
    #[error("cannot {action} state file {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process, or another node in this one, holds it.
    #[error("state file {0} is in use by another node")]
    InUse(PathBuf),
    /// A record is too long.
    #[error("a record of {0} bytes is longer than {MAX_CONTENT_BYTES}")]
    TooLong(usize),
    /// Neither slot is readable, which no crash explains.
    #[error("state file {0} is corrupt: neither of its records is readable")]
    Corrupt(PathBuf),
    /// Written by a later version of this library.
    #[error("state file {path} has version {version}; this library knows up to {VERSION}")]
    Version {
        /// Which file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
}

/// One side's record of one migration, locked against other nodes while open.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    file: File,
    sequence: u64,
}

impl StateFile {
    /// Makes the file at its full size, without a record; it is on disk on return.
    ///
    /// # Errors
    /// [`StateFileError`], such as a full disk; then no file is left behind.
    pub fn create(
        directory: &Path,
        migration: MigrationId,
        side: Side,
    ) -> Result<Self, StateFileError> {
        let path = path_of(directory, migration, side);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(&path).map_err(|source| io_error("create", &path, source))?;
        let state = Self { path, file, sequence: 0 };
        let prepared = state.lock().and_then(|()| state.prepare(directory));
        if prepared.is_err() {
            let _ = std::fs::remove_file(&state.path);
        }
        prepared.map(|()| state)
    }

    /// Opens an existing file to go on with it, and returns its record; none was ever written if
    /// a crash came first.
    ///
    /// # Errors
    /// [`StateFileError`].
    pub fn open(
        directory: &Path,
        migration: MigrationId,
        side: Side,
    ) -> Result<(Self, Option<Vec<u8>>), StateFileError> {
        let path = path_of(directory, migration, side);
        let opened = OpenOptions::new().read(true).write(true).open(&path);
        let file = opened.map_err(|source| io_error("open", &path, source))?;
        let mut state = Self { path, file, sequence: 0 };
        state.lock()?;
        let found = read(&state.file, &state.path)?;
        state.sequence = found.as_ref().map_or(0, |(sequence, _)| *sequence);
        Ok((state, found.map(|(_, content)| content)))
    }

    /// Reads the record of a file that may be in use, and leaves all as it is; none was ever
    /// written if there is none.
    ///
    /// # Errors
    /// [`StateFileError`], such as a record that does not fit its checksum.
    pub fn check(
        directory: &Path,
        migration: MigrationId,
        side: Side,
    ) -> Result<Option<Vec<u8>>, StateFileError> {
        let path = path_of(directory, migration, side);
        let file = File::open(&path).map_err(|source| io_error("open", &path, source))?;
        Ok(read(&file, &path)?.map(|(_, content)| content))
    }

    /// Replaces the record; it is on disk on return.
    ///
    /// # Errors
    /// [`StateFileError`]. The record before is intact; whether the new one counts is then
    /// settled by the next successful write, or by reading.
    pub fn write(&mut self, content: &[u8]) -> Result<(), StateFileError> {
        if content.len() > MAX_CONTENT_BYTES {
            return Err(StateFileError::TooLong(content.len()));
        }
        let sequence = self.sequence + 1;
        self.file
            .write_all_at(&encode(sequence, content), slot_offset(sequence))
            .and_then(|()| self.file.sync_data())
            .map_err(|source| io_error("write", &self.path, source))?;
        self.sequence = sequence;
        Ok(())
    }

    /// Deletes the file: nobody needs the record any more.
    ///
    /// # Errors
    /// [`StateFileError`].
    pub fn remove(self) -> Result<(), StateFileError> {
        std::fs::remove_file(&self.path)
            .and_then(|()| sync_directory(self.path.parent()))
            .map_err(|source| io_error("remove", &self.path, source))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The state files of a directory, in order; other files are left out.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn list(directory: &Path) -> Result<Vec<(MigrationId, Side)>, StateFileError> {
        let failed = |source| io_error("list", directory, source);
        let mut found = Vec::new();
        for entry in std::fs::read_dir(directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            found.extend(name.to_str().and_then(parse_name));
        }
        found.sort_unstable();
        Ok(found)
    }

    fn lock(&self) -> Result<(), StateFileError> {
        self.file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => StateFileError::InUse(self.path.clone()),
            TryLockError::Error(source) => io_error("lock", &self.path, source),
        })
    }

    fn prepare(&self, directory: &Path) -> Result<(), StateFileError> {
        // Zeros that are really written: a hole would have to be filled later.
        self.file
            .write_all_at(&[0; 2 * SLOT_BYTES], 0)
            .and_then(|()| self.file.sync_all())
            .and_then(|()| sync_directory(Some(directory)))
            .map_err(|source| io_error("create", &self.path, source))
    }
}

/// What one slot holds.
enum Slot {
    Empty,
    Torn,
    Record { sequence: u64, content: Vec<u8> },
}

/// The newer record of a file that is read from its beginning.
fn read(file: &File, path: &Path) -> Result<Option<(u64, Vec<u8>)>, StateFileError> {
    let mut bytes = Vec::with_capacity(2 * SLOT_BYTES);
    io::Read::read_to_end(&mut io::Read::take(file, 2 * SLOT_BYTES as u64), &mut bytes)
        .map_err(|source| io_error("read", path, source))?;
    newest(&bytes, path)
}

fn newest(bytes: &[u8], path: &Path) -> Result<Option<(u64, Vec<u8>)>, StateFileError> {
    let mut torn = 0;
    let mut best: Option<(u64, Vec<u8>)> = None;
    for start in [0, SLOT_BYTES] {
        match decode(bytes.get(start..start + SLOT_BYTES).unwrap_or_default(), path)? {
            Slot::Empty => {}
            Slot::Torn => torn += 1,
            Slot::Record { sequence, content } => {
                if best.as_ref().is_none_or(|(other, _)| sequence > *other) {
                    best = Some((sequence, content));
                }
            }
        }
    }
    // A crash tears the slot being written, never both; one torn slot beside an empty one is a
    // first record that nobody was told is safe.
    if torn == 2 { Err(StateFileError::Corrupt(path.into())) } else { Ok(best) }
}

fn encode(sequence: u64, content: &[u8]) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    slot[..8].copy_from_slice(&MAGIC);
    slot[8..12].copy_from_slice(&VERSION.to_le_bytes());
    slot[12..16].copy_from_slice(&(content.len() as u32).to_le_bytes());
    slot[16..24].copy_from_slice(&sequence.to_le_bytes());
    slot[HEADER_BYTES..HEADER_BYTES + content.len()].copy_from_slice(content);
    let checksum = checksum(&slot, content.len());
    slot[CRC_AT..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
    slot
}

fn decode(slot: &[u8], path: &Path) -> Result<Slot, StateFileError> {
    if slot.iter().all(|byte| *byte == 0) {
        return Ok(Slot::Empty);
    }
    let (Some(version), Some(length), Some(sequence), Some(stored)) =
        (number(slot, 8..12), number(slot, 12..16), number(slot, 16..24), number(slot, 24..28))
    else {
        return Ok(Slot::Torn);
    };
    let length = length as usize;
    let fits = length <= SLOT_BYTES - HEADER_BYTES;
    if slot[..8] != MAGIC || !fits || u64::from(checksum(slot, length)) != stored {
        return Ok(Slot::Torn);
    }
    if version != u64::from(VERSION) {
        return Err(StateFileError::Version { path: path.into(), version: version as u32 });
    }
    let content = slot[HEADER_BYTES..HEADER_BYTES + length].to_vec();
    Ok(Slot::Record { sequence, content })
}

fn checksum(slot: &[u8], length: usize) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&slot[..CRC_AT]);
    hasher.update(&slot[HEADER_BYTES..HEADER_BYTES + length]);
    hasher.finalize()
}

fn number(slot: &[u8], bytes: std::ops::Range<usize>) -> Option<u64> {
    let bytes = slot.get(bytes)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

fn slot_offset(sequence: u64) -> u64 {
    sequence % 2 * SLOT_BYTES as u64
}

fn path_of(directory: &Path, migration: MigrationId, side: Side) -> PathBuf {
    directory.join(format!("{migration}-{}{SUFFIX}", side.name()))
}

fn parse_name(name: &str) -> Option<(MigrationId, Side)> {
    let (migration, side) = name.strip_suffix(SUFFIX)?.split_once('-')?;
    let side = [Side::Source, Side::Destination].into_iter().find(|known| known.name() == side)?;
    Some((migration.parse().ok()?, side))
}

fn sync_directory(directory: Option<&Path>) -> io::Result<()> {
    match directory {
        Some(directory) if !directory.as_os_str().is_empty() => File::open(directory)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> StateFileError {
    StateFileError::Io { action, path: path.into(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Option<Vec<u8>>, StateFileError> {
        Ok(newest(bytes, Path::new("f"))?.map(|(_, content)| content))
    }

    fn file(slots: [&[u8; SLOT_BYTES]; 2]) -> Vec<u8> {
        [&slots[0][..], slots[1]].concat()
    }

    #[test]
    fn the_newer_record_counts_in_either_slot() {
        let (old, new) = (encode(6, b"old"), encode(7, b"new"));
        assert_eq!(read(&file([&old, &new])).unwrap().unwrap(), b"new");
        assert_eq!(read(&file([&new, &old])).unwrap().unwrap(), b"new");
        assert_eq!(read(&file([&old, &[0; SLOT_BYTES]])).unwrap().unwrap(), b"old");
    }

    #[test]
    fn a_write_torn_at_any_byte_leaves_one_of_the_two_records() {
        let (older, old, new) = (encode(5, &[5; 900]), encode(6, &[6; 40]), encode(7, &[7; 1024]));
        for cut in 0..=SLOT_BYTES {
            for new_first in [true, false] {
                let (head, tail) = if new_first { (&new, &older) } else { (&older, &new) };
                let mut torn = *head;
                torn[cut..].copy_from_slice(&tail[cut..]);
                let content = read(&file([&old, &torn])).unwrap().unwrap();
                let expected = if torn == new { &[7; 1024][..] } else { &[6; 40] };
                assert_eq!(content, expected, "cut at {cut}");
            }
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let (old, new) = (encode(6, b"old"), encode(7, b"new"));
        for bit in 0..(HEADER_BYTES + 3) * 8 {
            let mut flipped = new;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&file([&old, &flipped])).unwrap().unwrap(), b"old", "bit {bit}");
        }
    }

    #[test]
    fn a_first_record_torn_is_no_record_and_two_torn_are_corruption() {
        let (empty, mut torn) = ([0; SLOT_BYTES], encode(1, b"first"));
        torn[HEADER_BYTES] ^= 1;
        assert!(read(&file([&empty, &empty])).unwrap().is_none());
        assert!(read(&[]).unwrap().is_none());
        assert!(read(&file([&empty, &torn])).unwrap().is_none());
        let error = read(&file([&torn, &torn])).unwrap_err().to_string();
        assert!(error.contains("state file f is corrupt"), "{error}");
    }

    #[test]
    fn a_later_version_is_named() {
        let mut slot = encode(1, b"x");
        slot[8] = 2;
        let checksum = checksum(&slot, 1);
        slot[CRC_AT..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
        let error = read(&file([&slot, &[0; SLOT_BYTES]])).unwrap_err().to_string();
        assert!(error.contains("version 2") && error.contains("up to 1"), "{error}");
    }

    #[test]
    fn names_round_trip_and_others_are_left_out() {
        let id = MigrationId([0xa5; 16]);
        for side in [Side::Source, Side::Destination] {
            let path = path_of(Path::new("/d"), id, side);
            let name = path.file_name().and_then(|name| name.to_str()).unwrap();
            assert_eq!(parse_name(name), Some((id, side)));
        }
        for name in ["", ".state", "x-source.state", "-.state", "a.json"] {
            assert_eq!(parse_name(name), None, "{name}");
        }
    }
}

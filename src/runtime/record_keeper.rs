//! The ownership record of one migration on one side: on disk if the node has a state directory.

use crate::Status;
use crate::base::MigrationId;
use crate::base::limits::MAX_FINISHED_MIGRATIONS;
use crate::migration::ownership::{Mark, Record, RecordError};
use crate::migration::{Owner, Report};
use crate::runtime::state_file::{Side, StateFile, StateFileError};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// A record could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The file.
    #[error(transparent)]
    File(#[from] StateFileError),
    /// The content.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// Keeps one record.
pub struct RecordKeeper {
    directory: Option<PathBuf>,
    side: Side,
    migration: MigrationId,
    guest: String,
    peer: String,
    file: Option<StateFile>,
}

/// What the records of a state directory say.
#[derive(Debug, Default)]
pub struct Kept {
    /// Owner by the destination-side records of earlier migrations.
    pub incoming: HashMap<MigrationId, Owner>,
    /// Of these, those whose guest was lost in post-copy.
    pub lost: HashSet<MigrationId>,
    /// All readable records.
    pub records: Vec<(Side, Record)>,
}

impl RecordKeeper {
    /// A keeper that has written nothing yet.
    pub fn new(
        directory: Option<&Path>,
        side: Side,
        migration: MigrationId,
        (guest, peer): (&str, &str),
    ) -> Self {
        let directory = directory.map(Path::to_path_buf);
        let (guest, peer) = (guest.to_string(), peer.to_string());
        Self { directory, side, migration, guest, peer, file: None }
    }

    /// Writes the record down; on return it is on disk. Without a state directory it does nothing.
    ///
    /// # Errors
    /// [`KeepError`]; what was written before is intact.
    pub fn write(&mut self, mark: Mark) -> Result<(), KeepError> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let record = Record::new(self.migration, &self.guest, &self.peer, mark).encode()?;
        if self.file.is_none() {
            self.file = Some(StateFile::create(directory, self.migration, self.side)?);
        }
        match &mut self.file {
            Some(file) => Ok(file.write(&record)?),
            None => Ok(()),
        }
    }

    /// Ends the record. The source's is deleted, unless it is in doubt or tells of a loss; the
    /// destination's stays, so that a source that lost the last words can ask for it.
    pub fn close(self, report: &Report) {
        let is_settled = report.owner != Owner::InDoubt && report.status != Status::PostCopyLost;
        if let (Side::Source, Some(file)) = (self.side, self.file)
            && is_settled
        {
            // A file that stays behind says nothing wrong.
            let _ = file.remove();
        }
    }
}

/// Reads the records of a directory; the oldest beyond a limit are deleted.
///
/// # Errors
/// The directory cannot be read.
pub fn read_all(directory: &Path) -> Result<Kept, StateFileError> {
    let mut kept = Kept::default();
    let files = StateFile::list(directory)?;
    let surplus = files.len().saturating_sub(MAX_FINISHED_MIGRATIONS);
    for (index, (migration, side)) in files.into_iter().enumerate() {
        let Ok((file, Some(content))) = StateFile::open(directory, migration, side) else {
            continue;
        };
        let Ok(record) = Record::decode(&content) else { continue };
        let settled = record.mark.owner() != Owner::InDoubt;
        if index < surplus && settled {
            let _ = file.remove();
            continue;
        }
        if side == Side::Destination {
            kept.incoming.insert(migration, record.mark.owner());
            if record.mark.is_loss() {
                kept.lost.insert(migration);
            }
        }
        kept.records.push((side, record));
    }
    Ok(kept)
}

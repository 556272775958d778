//! The ownership record of one migration on one side: on disk if the node has a state directory.

use crate::Status;
use crate::base::MigrationId;
use crate::base::limits::MAX_FINISHED_MIGRATIONS;
use crate::migration::Owner;
use crate::migration::ownership::{Mark, Record, RecordError};
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

/// A record that says neither side for certain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InDoubt {
    /// The migration.
    pub migration: MigrationId,
    /// Whose record it is.
    pub side: Side,
    /// What it says.
    pub record: Record,
}

/// A record could not be settled.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    /// The records cannot be read or written.
    #[error(transparent)]
    Keep(#[from] KeepError),
    /// There is none to settle.
    #[error("no record of migration {0} here is in doubt")]
    NotInDoubt(MigrationId),
    /// It has not ended.
    #[error("migration {0} is under way")]
    UnderWay(MigrationId),
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
    pub fn close(self, owner: Owner, status: Status) {
        let is_settled = owner != Owner::InDoubt && status != Status::PostCopyLost;
        if let (Side::Source, Some(file)) = (self.side, self.file)
            && is_settled
        {
            // A file that stays behind says nothing wrong.
            let _ = file.remove();
        }
    }
}

/// The records that are in doubt, but for those that cannot be read.
///
/// # Errors
/// The directory cannot be read.
pub fn in_doubt(directory: &Path) -> Result<Vec<InDoubt>, KeepError> {
    let mut found = Vec::new();
    for (migration, side) in StateFile::list(directory)? {
        let Ok(Some(content)) = StateFile::check(directory, migration, side) else { continue };
        let Ok(record) = Record::decode(&content) else { continue };
        if record.mark.owner() == Owner::InDoubt {
            found.push(InDoubt { migration, side, record });
        }
    }
    Ok(found)
}

/// Writes down what somebody has found out about a migration that was in doubt. Nothing is done to the
/// guest.
///
/// # Errors
/// [`SettleError`].
pub fn settle(
    directory: &Path,
    migration: MigrationId,
    owner: Owner,
) -> Result<Vec<InDoubt>, SettleError> {
    let mut settled = in_doubt(directory)?;
    settled.retain(|found| found.migration == migration);
    if settled.is_empty() {
        return Err(SettleError::NotInDoubt(migration));
    }
    for InDoubt { side, record, .. } in &mut settled {
        record.mark = match (&side, owner == Owner::Destination) {
            (Side::Source, true) => Mark::GivenAway,
            (Side::Source, false) => Mark::SourceRuns,
            (Side::Destination, true) => Mark::Owned,
            (Side::Destination, false) => Mark::Discarded,
        };
        let (mut file, _) =
            StateFile::open(directory, migration, *side).map_err(KeepError::File)?;
        let content = record.encode().map_err(KeepError::Record)?;
        file.write(&content).map_err(KeepError::File)?;
        if *side == Side::Source {
            // As at the end of a migration: a file that stays behind says nothing wrong.
            let _ = file.remove();
        }
    }
    Ok(settled)
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

#[cfg(test)]
mod tests {
    use super::*;

    const ID: MigrationId = MigrationId([7; 16]);

    fn keep(directory: &Path, side: Side, mark: Mark) {
        let mut keeper = RecordKeeper::new(Some(directory), side, ID, ("vm", "v1://old:1"));
        keeper.write(mark).unwrap();
        keeper.close(mark.owner(), Status::InDoubt);
    }

    fn marks(directory: &Path) -> Vec<Mark> {
        read_all(directory).unwrap().records.into_iter().map(|(_, record)| record.mark).collect()
    }

    #[test]
    fn a_record_in_doubt_is_settled_once_and_a_certain_one_never() {
        let scratch = std::env::temp_dir().join(format!("dwcp-settle-{}", std::process::id()));
        for (side, doubt, owner, after) in [
            (Side::Source, Mark::CommitSent, Owner::Destination, None),
            (Side::Source, Mark::CommitSent, Owner::Source, None),
            (Side::Destination, Mark::Arrived, Owner::Destination, Some(Mark::Owned)),
            (Side::Destination, Mark::Arrived, Owner::Source, Some(Mark::Discarded)),
        ] {
            std::fs::create_dir_all(&scratch).unwrap();
            keep(&scratch, side, doubt);
            let found = in_doubt(&scratch).unwrap();
            assert_eq!((found.len(), found[0].side, found[0].migration), (1, side, ID));
            let other = settle(&scratch, MigrationId([8; 16]), owner).unwrap_err();
            assert!(other.to_string().contains("is in doubt"), "{other}");
            let settled = settle(&scratch, ID, owner).unwrap();
            assert_eq!((settled.len(), settled[0].record.mark.owner()), (1, owner));
            assert_eq!(marks(&scratch), Vec::from_iter(after));
            assert!(matches!(settle(&scratch, ID, owner), Err(SettleError::NotInDoubt(ID))));
            std::fs::remove_dir_all(&scratch).unwrap();
        }
    }
}

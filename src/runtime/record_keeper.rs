//! The ownership record of one migration on one side: on disk if the node has a state directory.

use crate::Status;
use crate::base::MigrationId;
use crate::base::limits::MAX_FINISHED_MIGRATIONS;
use crate::migration::ownership::{Mark, Record, RecordError};
use crate::migration::{Failure, Owner};
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
    /// That is no answer.
    #[error(
        "migration {0} is settled by the guest's owner, source or destination; it is in doubt now"
    )]
    NoOwner(MigrationId),
}

impl From<KeepError> for Failure {
    fn from(error: KeepError) -> Self {
        Self::new(Status::StateFile, error.to_string())
    }
}

/// Keeps one record.
pub struct RecordKeeper {
    directory: Option<PathBuf>,
    side: Side,
    migration: MigrationId,
    guest: String,
    peer: String,
    file: Option<StateFile>,
    /// The record is that of an earlier migration, which this one goes on with.
    goes_on: bool,
    last: Option<Mark>,
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
        let (file, goes_on, last) = (None, false, None);
        Self { directory, side, migration, guest, peer, file, goes_on, last }
    }

    /// Goes on with the record of an earlier migration, which stays as it is until something is written. So
    /// there is one record of the guest on this side, whoever carries it.
    pub fn going_on(self, earlier: MigrationId) -> Self {
        Self { migration: earlier, goes_on: true, ..self }
    }

    /// Writes the record down; on return it is on disk. Without a state directory it does nothing.
    ///
    /// # Errors
    /// [`KeepError`]; what was written before is intact.
    pub fn write(&mut self, mark: Mark) -> Result<(), KeepError> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let record = Record::new(self.migration, &self.guest, &self.peer, mark).encode()?;
        if self.file.is_none() {
            self.file = Some(match self.goes_on {
                true => StateFile::open(directory, self.migration, self.side)?.0,
                false => StateFile::create(directory, self.migration, self.side)?,
            });
        }
        if let Some(file) = &mut self.file {
            file.write(&record)?;
            self.last = Some(mark);
        }
        Ok(())
    }

    /// Ends the record. The source's is deleted, unless it is in doubt or tells of a loss; the
    /// destination's stays, so that a source that lost the last words can ask for it.
    pub fn close(self, owner: Owner, status: Status) {
        let is_open = self.goes_on && self.last != Some(Mark::GivenAway);
        let is_settled = owner != Owner::InDoubt && status != Status::PostCopyLost && !is_open;
        if let (Side::Source, Some(file)) = (self.side, self.file)
            && is_settled
        {
            // A file that stays behind says nothing wrong.
            let _ = file.remove();
        }
    }
}

/// The migration of a guest whose record on this side says that its memory may still be in two halves: the
/// one that wrote last, if there are several. Those that are in use are left out.
///
/// # Errors
/// The directory cannot be read.
pub fn in_two_halves(
    directory: &Path,
    side: Side,
    guest: &str,
) -> Result<Option<MigrationId>, KeepError> {
    let mut newest = None;
    for (migration, of) in StateFile::list(directory)? {
        if of != side {
            continue;
        }
        let Ok((file, Some(content))) = StateFile::open(directory, migration, side) else {
            continue;
        };
        let Ok(record) = Record::decode(&content) else { continue };
        let is_open = record.mark.is_loss() || record.mark == Mark::PostCopySent;
        let written = std::fs::metadata(file.path()).and_then(|found| found.modified()).ok();
        if is_open && record.guest == guest {
            newest = newest.max(Some((written, migration)));
        }
    }
    Ok(newest.map(|(_, migration)| migration))
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

/// Who has the guest by this side's record of a migration, which may be in use; none if there is no
/// record, or none was ever written.
///
/// # Errors
/// There is one, and it cannot be read.
pub fn owner_by_record(
    directory: &Path,
    migration: MigrationId,
    side: Side,
) -> Result<Option<Owner>, KeepError> {
    if !StateFile::list(directory)?.contains(&(migration, side)) {
        return Ok(None);
    }
    let content = StateFile::check(directory, migration, side)?;
    let record = content.map(|content| Record::decode(&content)).transpose()?;
    Ok(record.map(|record| record.mark.owner()))
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
    if owner == Owner::InDoubt {
        return Err(SettleError::NoOwner(migration));
    }
    let mut doubts = Vec::new();
    for (_, side) in StateFile::list(directory)
        .map_err(KeepError::File)?
        .into_iter()
        .filter(|(found, _)| *found == migration)
    {
        // Judged while it is locked, since somebody else may be settling it as well.
        let opened = StateFile::open(directory, migration, side).map_err(KeepError::File)?;
        let (file, Some(content)) = opened else { continue };
        let record = Record::decode(&content).map_err(KeepError::Record)?;
        if record.mark.owner() == Owner::InDoubt {
            doubts.push((file, InDoubt { migration, side, record }));
        }
    }
    if doubts.is_empty() {
        return Err(SettleError::NotInDoubt(migration));
    }
    let mut settled = Vec::new();
    for (mut file, mut doubt) in doubts {
        doubt.record.mark = match (doubt.side, owner) {
            (Side::Source, Owner::Destination) => Mark::GivenAway,
            (Side::Source, _) => Mark::SourceRuns,
            (Side::Destination, Owner::Destination) => Mark::Owned,
            (Side::Destination, _) => Mark::Discarded,
        };
        let content = doubt.record.encode().map_err(KeepError::Record)?;
        file.write(&content).map_err(KeepError::File)?;
        if doubt.side == Side::Source {
            // As at the end of a migration: a file that stays behind says nothing wrong.
            let _ = file.remove();
        }
        settled.push(doubt);
    }
    Ok(settled)
}

/// Every record of a directory that can be read, also of those that are in use.
///
/// # Errors
/// The directory cannot be read.
pub fn all(directory: &Path) -> Result<Vec<(MigrationId, Side, Record)>, KeepError> {
    let mut found = Vec::new();
    for (migration, side) in StateFile::list(directory)? {
        let Ok(Some(content)) = StateFile::check(directory, migration, side) else { continue };
        found.extend(Record::decode(&content).ok().map(|record| (migration, side, record)));
    }
    Ok(found)
}

/// Writes down a record of which there is none yet; it is on disk on return.
///
/// # Errors
/// There is one, or it cannot be written; then nothing is left behind.
pub fn add(
    directory: &Path,
    migration: MigrationId,
    side: Side,
    record: &Record,
) -> Result<(), KeepError> {
    let content = record.encode()?;
    let mut file = StateFile::create(directory, migration, side)?;
    match file.write(&content) {
        Ok(()) => Ok(()),
        Err(error) => {
            // The error that matters is the first.
            let _ = file.remove();
            Err(error.into())
        }
    }
}

/// Removes a record that says just this; another one stays.
pub fn take_back(directory: &Path, migration: MigrationId, side: Side, record: &Record) {
    let Ok((file, content)) = StateFile::open(directory, migration, side) else { return };
    let says = content.map(|content| Record::decode(&content).ok());
    // One that a crash left empty was to say this too.
    if says.is_none_or(|says| says.as_ref() == Some(record)) {
        // A file that stays behind repeats what the other side knows.
        let _ = file.remove();
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

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("dwcp-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn doubt_is_no_answer() {
        let scratch = scratch("doubt");
        keep(&scratch, Side::Destination, Mark::Arrived);
        let refused = settle(&scratch, ID, Owner::InDoubt).unwrap_err();
        assert!(matches!(refused, SettleError::NoOwner(ID)), "{refused}");
        assert_eq!(marks(&scratch), [Mark::Arrived]);
        std::fs::remove_dir_all(&scratch).unwrap();
    }

    #[test]
    fn a_record_that_its_migration_still_writes_is_left_to_it() {
        let scratch = scratch("held");
        let mut keeper = RecordKeeper::new(Some(&scratch), Side::Destination, ID, ("vm", "v1://a"));
        keeper.write(Mark::Arrived).unwrap();
        let refused = settle(&scratch, ID, Owner::Source).unwrap_err();
        assert!(refused.to_string().contains("in use by another node"), "{refused}");
        keeper.write(Mark::Owned).unwrap();
        drop(keeper);
        assert!(matches!(settle(&scratch, ID, Owner::Source), Err(SettleError::NotInDoubt(ID))));
        assert_eq!(marks(&scratch), [Mark::Owned]);
        std::fs::remove_dir_all(&scratch).unwrap();
    }

    #[test]
    fn of_two_who_settle_at_once_one_is_heard() {
        let scratch = scratch("both");
        for _ in 0..100 {
            keep(&scratch, Side::Destination, Mark::Arrived);
            let start = std::sync::Barrier::new(2);
            let answers = std::thread::scope(|scope| {
                let answers = [Owner::Source, Owner::Destination].map(|owner| {
                    let (scratch, start) = (&scratch, &start);
                    scope.spawn(move || {
                        start.wait();
                        (owner, settle(scratch, ID, owner).is_ok())
                    })
                });
                answers.map(|answer| answer.join().unwrap())
            });
            let heard: Vec<_> = answers.into_iter().filter(|(_, is_heard)| *is_heard).collect();
            assert!(heard.len() <= 1, "both were told that they are heard");
            let (file, content) = StateFile::open(&scratch, ID, Side::Destination).unwrap();
            let owner = Record::decode(&content.unwrap()).unwrap().mark.owner();
            assert_eq!(owner, heard.first().map_or(Owner::InDoubt, |(owner, _)| *owner));
            file.remove().unwrap();
        }
        std::fs::remove_dir_all(&scratch).unwrap();
    }

    #[test]
    fn a_record_that_cannot_be_read_is_not_taken_for_none() {
        let scratch = std::env::temp_dir().join(format!("dwcp-unread-{}", std::process::id()));
        std::fs::create_dir_all(&scratch).unwrap();
        let owner = |side| owner_by_record(&scratch, ID, side);
        assert_eq!(owner(Side::Destination).unwrap(), None);
        keep(&scratch, Side::Destination, Mark::Owned);
        assert_eq!(owner(Side::Destination).unwrap(), Some(Owner::Destination));
        assert_eq!(owner(Side::Source).unwrap(), None);
        for entry in std::fs::read_dir(&scratch).unwrap() {
            let path = entry.unwrap().path();
            let bytes = vec![0xa5; std::fs::read(&path).unwrap().len()];
            std::fs::write(path, bytes).unwrap();
        }
        let error = owner(Side::Destination).unwrap_err().to_string();
        assert!(error.contains("state file"), "{error}");
        std::fs::remove_dir_all(&scratch).unwrap();
    }

    #[test]
    fn a_record_in_doubt_is_settled_once_and_a_certain_one_never() {
        for (side, doubt, owner, after) in [
            (Side::Source, Mark::CommitSent, Owner::Destination, None),
            (Side::Source, Mark::CommitSent, Owner::Source, None),
            (Side::Destination, Mark::Arrived, Owner::Destination, Some(Mark::Owned)),
            (Side::Destination, Mark::Arrived, Owner::Source, Some(Mark::Discarded)),
        ] {
            let scratch = scratch("settle");
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

    #[test]
    fn a_recovery_goes_on_with_the_record_of_what_it_recovers_and_closes_it_alone() {
        let scratch = std::env::temp_dir().join(format!("dwcp-halves-{}", std::process::id()));
        std::fs::create_dir_all(&scratch).unwrap();
        let keeper = |side| {
            let names = ("vm", "peer");
            RecordKeeper::new(Some(&scratch), side, MigrationId([8; 16]), names).going_on(ID)
        };
        for (side, left, last, after) in [
            (Side::Source, Mark::ServingPages, Mark::GivenAway, None),
            (Side::Destination, Mark::OwnedIncomplete, Mark::Owned, Some(Mark::Owned)),
        ] {
            let find = |guest| in_two_halves(&scratch, side, guest).unwrap();
            assert_eq!(find("vm"), None);
            let mut first = RecordKeeper::new(Some(&scratch), side, ID, ("vm", "peer"));
            first.write(left).unwrap();
            assert_eq!(find("vm"), None, "it is in use");
            drop(first);
            assert_eq!((find("vm"), find("other")), (Some(ID), None));
            // One that is refused changes nothing.
            keeper(side).close(Owner::Destination, Status::Refused);
            let mut broken = keeper(side);
            broken.write(left).unwrap();
            broken.write(Mark::Lost).unwrap();
            broken.close(Owner::Destination, Status::PostCopyLost);
            assert_eq!((find("vm"), marks(&scratch)), (Some(ID), vec![Mark::Lost]));
            let mut whole = keeper(side);
            whole.write(last).unwrap();
            whole.close(Owner::Destination, Status::Ok);
            assert_eq!((find("vm"), marks(&scratch)), (None, Vec::from_iter(after)));
        }
        std::fs::remove_dir_all(&scratch).unwrap();
    }
}

//! What an import is about to do, on disk before it is done, so that a crash leaves all of it or nothing.

use super::StateError;
use super::plan::Addition;
use crate::node::state::KeptRecord;
use crate::runtime::record_keeper;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// An import that is taken back after a crash.
const BEGUN: &str = "import.begun";
/// One that is carried through.
const COMMITTED: &str = "import.committed";
/// The last one that was.
const LAST: &str = "import.last";
/// What operators say of their hosts is for them alone.
const MODE: u32 = 0o600;

/// An import that was decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Intention {
    /// Who imports.
    pub who: String,
    /// Why.
    pub why: String,
    /// Records that were not there.
    pub records: Vec<KeptRecord>,
    /// Where the configuration waits to be put in force.
    pub temporary: Option<PathBuf>,
    /// The document as it came.
    pub document: String,
}

impl Intention {
    /// The records that it adds.
    pub fn additions(&self) -> Vec<Addition> {
        self.records.iter().filter_map(Addition::of).collect()
    }
}

/// An intention on the disk of a state directory.
pub(super) struct Noted {
    path: PathBuf,
    /// Locked as long as this process works on it.
    _file: File,
}

impl Noted {
    /// Writes an intention down; it is on disk on return.
    ///
    /// # Errors
    /// There is one, or it cannot be written; then nothing is left behind.
    pub fn begin(directory: &Path, intention: &Intention) -> Result<Self, StateError> {
        let path = directory.join(BEGUN);
        let failed = |action| {
            let path = path.clone();
            move |source| StateError::Io { action, path, source }
        };
        let mut options = OpenOptions::new();
        let opened = options.write(true).create_new(true).mode(MODE).open(&path);
        let mut file = match opened {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(StateError::Busy(path));
            }
            opened => opened.map_err(failed("make"))?,
        };
        let mut write = || {
            file.try_lock()?;
            file.write_all(&serde_json::to_vec(intention)?)?;
            file.sync_all()?;
            sync(directory)
        };
        if let Err(source) = write() {
            remove(&path);
            return Err(failed("write")(source));
        }
        Ok(Self { path, _file: file })
    }

    /// From here on it is carried through.
    ///
    /// # Errors
    /// It is still to be taken back.
    pub fn commit(&mut self) -> Result<(), StateError> {
        self.rename("commit", COMMITTED)
    }

    /// It is done; it stays as the last one.
    ///
    /// # Errors
    /// It is carried through once more when the node starts, which changes nothing.
    pub fn finish(mut self) -> Result<(), StateError> {
        self.rename("close", LAST)
    }

    /// It is taken back.
    pub fn forget(self) {
        remove(&self.path);
    }

    fn rename(&mut self, action: &'static str, name: &str) -> Result<(), StateError> {
        let (from, to) = (self.path.clone(), self.path.with_file_name(name));
        let failed = |source| StateError::Io { action, path: from.clone(), source };
        fs::rename(&from, &to).map_err(failed)?;
        self.path = to;
        sync(self.path.parent().unwrap_or(Path::new("/"))).map_err(failed)
    }
}

/// Takes back what a crash left of an import that was only begun; says whose it was.
pub(super) fn take_back_begun(directory: &Path) -> Option<String> {
    let path = directory.join(BEGUN);
    let file = File::open(&path).ok()?;
    // Another node that shares the directory is at work.
    file.try_lock().ok()?;
    let intention = read(&path).ok();
    let who = intention.as_ref().map_or_else(String::new, |of| format!(" by {}", of.who));
    intention.into_iter().for_each(|intention| {
        take_back(directory, &intention.additions());
        intention.temporary.as_deref().into_iter().for_each(remove);
    });
    remove(&path);
    Some(format!("an import of a state{who} was cut short; what it had begun is taken back"))
}

/// Removes the records that an import has added.
pub(super) fn take_back(directory: &Path, additions: &[Addition]) {
    for Addition { migration, side, record } in additions {
        record_keeper::take_back(directory, *migration, *side, record);
    }
}

/// The import that is to be carried through; none if there is none.
///
/// # Errors
/// There is one that cannot be read.
pub(super) fn committed(directory: &Path) -> Result<Option<(Noted, Intention)>, StateError> {
    let path = directory.join(COMMITTED);
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened,
    };
    let failed = |source| StateError::Io { action: "read", path: path.clone(), source };
    let file = file.map_err(failed)?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => return Err(StateError::Busy(path)),
        locked => locked.map_err(|error| failed(error.into()))?,
    }
    let intention = read(&path).map_err(failed)?;
    Ok(Some((Noted { path, _file: file }, intention)))
}

fn read(path: &Path) -> io::Result<Intention> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

fn remove(path: &Path) {
    // What stays behind is found again when the node starts.
    let _ = fs::remove_file(path);
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

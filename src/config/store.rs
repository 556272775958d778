//! The configuration file of a running daemon: read, reloaded whole, changed key by key.

use super::load::{self, ConfigError};
use super::replace::{Replacement, Rights};
use super::value::Value;
use super::{Config, Id, Origin, edit, keys};
use crate::Status;
use crate::rollout::NotBuilt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The configuration cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file or environment holds mistakes.
    #[error(transparent)]
    Invalid(#[from] ConfigError),
    /// No such key.
    #[error("{0}")]
    UnknownKey(String),
    /// The key refuses the value.
    #[error("{key}: {reason}")]
    Value {
        /// The key.
        key: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A feature flag without a component cannot be enabled by a command.
    #[error(transparent)]
    NotBuilt(#[from] NotBuilt),
    /// An environment variable holds the key.
    #[error("{key} is overridden by the environment variable {variable}")]
    Overridden {
        /// The key.
        key: &'static str,
        /// The variable.
        variable: String,
    },
    /// The file.
    #[error("cannot {what} {path}: {source}", path = path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl StoreError {
    /// The status code of this error.
    pub fn status(&self) -> Status {
        match self {
            StoreError::Invalid(_) | StoreError::Value { .. } => Status::Config,
            StoreError::UnknownKey(_) => Status::NotFound,
            StoreError::Overridden { .. } => Status::BadState,
            StoreError::NotBuilt(_) => Status::Unsupported,
            StoreError::File { .. } => Status::Io,
        }
    }
}

/// A configuration file and what was last read from it.
#[derive(Debug)]
pub struct ConfigStore {
    path: PathBuf,
    started: Arc<Config>,
    current: Mutex<Arc<Config>>,
}

/// Changes of several keys that are written down and not in force.
#[derive(Debug)]
pub struct Prepared {
    before: Arc<Config>,
    config: Config,
    replacement: Option<Replacement>,
    changes: Vec<(Id, Value)>,
}

impl Prepared {
    /// The file that holds them until then.
    pub fn temporary(&self) -> Option<&Path> {
        self.replacement.as_ref().map(Replacement::temporary)
    }
}

impl ConfigStore {
    /// Reads the file and the environment. A file that does not exist counts as empty.
    ///
    /// # Errors
    /// The file cannot be read, or holds mistakes.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let config = Arc::new(validate(path, &read(path)?)?);
        Ok(Self { path: path.to_owned(), started: config.clone(), current: Mutex::new(config) })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What holds now.
    pub fn config(&self) -> Arc<Config> {
        self.lock().clone()
    }

    /// Whether the key's value waits for a restart.
    pub fn waits_for_restart(&self, id: Id) -> bool {
        id.key().applies == keys::Applies::Restart
            && self.started.get(id).value != self.config().get(id).value
    }

    /// Reads the file anew, whole or not at all; tells the keys that changed.
    ///
    /// # Errors
    /// The file cannot be read, or holds mistakes; what held before holds on.
    pub fn reload(&self) -> Result<Vec<Id>, StoreError> {
        let mut current = self.lock();
        let config = validate(&self.path, &read(&self.path)?)?;
        let changed = current.changed(&config);
        *current = Arc::new(config);
        Ok(changed)
    }

    /// Changes one key in the file, then takes up the file as it now is; tells the keys that
    /// changed, which are more than one if the file had been edited meanwhile.
    ///
    /// # Errors
    /// The key or value is refused, or the file cannot be written; the file is then as before.
    pub fn set(&self, name: &str, text: &str) -> Result<Vec<Id>, StoreError> {
        let id = find(name)?;
        let key = id.key();
        let value =
            key.kind.parse(text).map_err(|reason| StoreError::Value { key: key.name, reason })?;
        if let (Value::Rule(rule), Some(flag)) = (&value, id.flag())
            && rule.enabled
        {
            flag.demand_built()?;
        }
        let mut current = self.lock();
        if let Origin::Environment { variable } = &current.get(id).origin {
            return Err(StoreError::Overridden { key: key.name, variable: variable.clone() });
        }
        let (config, replacement) = self.write(&[(id, value)])?;
        self.put_in_place(replacement)?;
        let changed = current.changed(&config);
        *current = Arc::new(config);
        Ok(changed)
    }

    /// Writes several keys' values down beside the file, to be put in force together or not at all.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub fn prepare(&self, changes: Vec<(Id, Value)>) -> Result<Prepared, StoreError> {
        let current = self.lock();
        let overridden = changes.iter().find_map(|(id, _)| match &current.get(*id).origin {
            Origin::Environment { variable } => Some((id.key().name, variable.clone())),
            _ => None,
        });
        if let Some((key, variable)) = overridden {
            return Err(StoreError::Overridden { key, variable });
        }
        let (config, replacement) = self.write(&changes)?;
        Ok(Prepared { before: current.clone(), config, replacement, changes })
    }

    /// Puts what was prepared in force; tells the keys that changed.
    ///
    /// # Errors
    /// The file cannot be written; it is as before.
    pub fn commit(&self, prepared: Prepared) -> Result<Vec<Id>, StoreError> {
        let mut current = self.lock();
        let Prepared { before, mut config, mut replacement, changes } = prepared;
        if !Arc::ptr_eq(&before, &current) {
            // Somebody has changed another key meanwhile, which is to stay changed.
            (config, replacement) = self.write(&changes)?;
        }
        self.put_in_place(replacement)?;
        let changed = current.changed(&config);
        *current = Arc::new(config);
        Ok(changed)
    }

    /// The configuration as it would be, and the file's new content beside it, if it is another.
    fn write(&self, changes: &[(Id, Value)]) -> Result<(Config, Option<Replacement>), StoreError> {
        let old = read(&self.path)?;
        let name = self.path.display().to_string();
        let mut new = old.clone();
        for (id, value) in changes {
            new = edit::set_key(&name, &new, *id, value)?;
        }
        let config = validate(&self.path, &new)?;
        let write = || Replacement::write(&self.path, new.as_bytes(), Rights::Kept(MODE));
        let replacement =
            (new != old).then(write).transpose().map_err(|error| self.failed(error))?;
        Ok((config, replacement))
    }

    fn put_in_place(&self, replacement: Option<Replacement>) -> Result<(), StoreError> {
        replacement.map_or(Ok(()), Replacement::commit).map_err(|error| self.failed(error))
    }

    fn failed(&self, source: io::Error) -> StoreError {
        StoreError::File { what: "write", path: self.path.clone(), source }
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Config>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The key of this name.
///
/// # Errors
/// There is none; the text names the nearest.
pub fn find(name: &str) -> Result<Id, StoreError> {
    keys::find(name).ok_or_else(|| StoreError::UnknownKey(load::unknown_key(name)))
}

fn read(path: &Path) -> Result<String, StoreError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(source) => Err(StoreError::File { what: "read", path: path.to_owned(), source }),
    }
}

fn validate(path: &Path, text: &str) -> Result<Config, StoreError> {
    let mut config = load::from_text(&path.display().to_string(), text)?;
    load::apply_environment(&mut config, |name| std::env::var(name).ok())?;
    Ok(config)
}

/// As many may read a new configuration file as the group has members.
const MODE: u32 = 0o640;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("dwcp-config-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn set_persists_and_keeps_mode_and_link() {
        let directory = scratch("set");
        let file = directory.join("real.yaml");
        fs::write(&file, "# mine\nmigration:\n  streams: 2 # two\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o604)).unwrap();
        let link = directory.join("link.yaml");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let store = ConfigStore::open(&link).unwrap();
        assert_eq!(store.set("migration.streams", "8").unwrap(), [Id::MigrationStreams]);
        assert_eq!(fs::read_to_string(&file).unwrap(), "# mine\nmigration:\n  streams: 8 # two\n");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o604);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(store.config().migration_options().streams, 8);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 2);
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn refused_values_change_nothing() {
        let directory = scratch("refuse");
        let file = directory.join("c.yaml");
        let store = ConfigStore::open(&file).unwrap();
        let unknown = store.set("migration.steams", "8").unwrap_err();
        assert!(unknown.to_string().contains("did you mean migration.streams?"), "{unknown}");
        assert_eq!(unknown.status(), Status::NotFound);
        assert_eq!(store.set("migration.streams", "800").unwrap_err().status(), Status::Config);
        assert!(!file.exists());
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_bad_reload_keeps_what_held() {
        let directory = scratch("reload");
        let file = directory.join("c.yaml");
        fs::write(&file, "migration: {streams: 3}\n").unwrap();
        let store = ConfigStore::open(&file).unwrap();
        fs::write(&file, "migration: {streams: 5}\nnode: {x: 1}\n").unwrap();
        let error = store.reload().unwrap_err().to_string();
        assert!(error.contains("c.yaml:2:8: unknown key"), "{error}");
        assert_eq!(store.config().migration_options().streams, 3);
        fs::write(&file, "migration: {streams: 5}\nnode: {name: n}\n").unwrap();
        assert_eq!(store.reload().unwrap(), [Id::NodeName, Id::MigrationStreams]);
        assert!(store.waits_for_restart(Id::NodeName));
        assert!(!store.waits_for_restart(Id::MigrationStreams));
        fs::remove_dir_all(directory).unwrap();
    }
}

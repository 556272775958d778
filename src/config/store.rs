//! The configuration file of a running daemon: read, reloaded whole, changed key by key.

use super::load::{self, ConfigError};
use super::value::Value;
use super::{Config, Id, Origin, edit, keys};
use crate::Status;
use crate::rollout::NotBuilt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
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
        let config = self.write(id, &value)?;
        let changed = current.changed(&config);
        *current = Arc::new(config);
        Ok(changed)
    }

    fn write(&self, id: Id, value: &Value) -> Result<Config, StoreError> {
        let old = read(&self.path)?;
        let new = edit::set_key(&self.path.display().to_string(), &old, id, value)?;
        let config = validate(&self.path, &new)?;
        if new != old {
            replace(&self.path, new.as_bytes()).map_err(|source| StoreError::File {
                what: "write",
                path: self.path.clone(),
                source,
            })?;
        }
        Ok(config)
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

/// Replaces a file's content: after a crash or a full disk, it is the old or the new one.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    // A link stays a link: its target is what is replaced.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let directory = target.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let name = target.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let temporary = directory.join(format!(".{name}.{}.new", std::process::id()));
    let written = write_like(&target, &temporary, content)
        .and_then(|()| fs::rename(&temporary, &target))
        .and_then(|()| File::open(directory)?.sync_all());
    if written.is_err() {
        // Nothing more can be done about a leftover; the error that matters is the first.
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn write_like(model: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(path)?;
    if let Ok(metadata) = fs::metadata(model) {
        file.set_permissions(fs::Permissions::from_mode(metadata.mode() & 0o7777))?;
        std::os::unix::fs::fchown(&file, Some(metadata.uid()), Some(metadata.gid()))?;
    }
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

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

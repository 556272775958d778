//! What records, held pages and the log need: directories that can be written, and room.

use super::{Check, Component, Settings, size};
use crate::config::Id;
use crate::runtime::held;
use crate::runtime::sys::disk::free_bytes;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

pub fn check(settings: &Settings) -> Vec<Check> {
    let Some(state_dir) = &settings.state_dir else {
        let check = Check::ok(Component::Storage, "state directory", "none is configured");
        let advice = "after a crash nobody can tell who owns a guest: set node.state_dir";
        return vec![check.warning(advice)];
    };
    let mut checks = vec![directory("state directory", state_dir, true)];
    let room = existing(state_dir).and_then(|path| free_bytes(&File::open(path)?));
    checks.push(space(room, wanted(settings)));
    let held_dir = state_dir.join(held::DIRECTORY);
    if settings.config.truth(Id::HdeHoldDepartedGuests) && held_dir.exists() {
        checks.push(directory("held pages", &held_dir, false));
    }
    if let Some(log_dir) = settings.config.path(Id::NodeLogDir) {
        checks.push(log_directory(&log_dir));
    }
    checks
}

/// What may still be written: held pages, and log files.
fn wanted(settings: &Settings) -> u64 {
    let config = &settings.config;
    let held = match config.truth(Id::HdeHoldDepartedGuests) {
        true => config.integer(Id::HdeHeldBytes).saturating_sub(settings.held_bytes),
        false => 0,
    };
    let logs = config.integer(Id::NodeLogMaxSize) * (config.integer(Id::NodeLogKeep) + 1);
    held.saturating_add(logs)
}

/// Whether files can be made, synced and removed there: by doing it.
fn directory(what: &'static str, path: &Path, is_vital: bool) -> Check {
    let check = |found: String| Check::ok(Component::Storage, what, found);
    let tried = match path.exists() {
        true => try_writing(path),
        // A node makes it when it starts.
        false => existing(path).and_then(|above| try_writing(&above)),
    };
    match tried {
        Ok(()) if path.exists() => check(format!("{} can be written", path.display())),
        Ok(()) => check(format!("{} will be made when a node starts", path.display())),
        Err(error) => {
            let check = check(format!("{}: {error}", path.display()));
            let user = "let the node's user write there (chown), or name another directory";
            match is_vital {
                true => check.failed(format!("no migration can keep its record: {user}")),
                false => check.warning(format!("no pages are held: {user}")),
            }
        }
    }
}

fn log_directory(path: &Path) -> Check {
    let check = |found: String| Check::ok(Component::Storage, "log directory", found);
    match existing(path).and_then(|path| try_writing(&path)) {
        Ok(()) => check(format!("{} can be written", path.display())),
        Err(error) => check(format!("{}: {error}", path.display()))
            .warning("the log is written to the state directory: set node.log_dir"),
    }
}

fn space(room: io::Result<u64>, wanted: u64) -> Check {
    let check = |found: String| Check::ok(Component::Storage, "disk space", found);
    let room = match room {
        Ok(room) => room,
        Err(error) => {
            return check(format!("cannot be asked: {error}"))
                .failed("see to it that the state directory can be opened");
        }
    };
    let found = format!("{} free; held pages and logs may take {} more", size(room), size(wanted));
    match room {
        _ if room < LEAST_BYTES => check(found).failed(format!(
            "records of migrations need {}: make room at the state directory",
            size(LEAST_BYTES)
        )),
        _ if room < wanted => check(found)
            .warning("fewer pages are held: make room, or lower hde.held_bytes or node.log_keep"),
        _ => check(found),
    }
}

/// The directory, or the nearest one above it that is there.
fn existing(path: &Path) -> io::Result<PathBuf> {
    let found = path.ancestors().find(|path| path.exists());
    found.map(Path::to_path_buf).ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn try_writing(directory: &Path) -> io::Result<()> {
    let path = directory.join(format!(".dwcp-check-{}", std::process::id()));
    let tried =
        OpenOptions::new().write(true).create_new(true).open(&path).and_then(|mut file| {
            file.write_all(b"can this be kept?").and_then(|()| file.sync_all())
        });
    // What was not made is not there to be removed.
    let _ = fs::remove_file(&path);
    tried
}

/// Two slots for each of some thousand migrations.
const LEAST_BYTES: u64 = 32 << 20;

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn a_directory_is_written_to_and_left_as_it_was() {
        let path = std::env::temp_dir().join(format!("dwcp-storage-{}", std::process::id()));
        assert!(directory("state directory", &path, true).found.contains("will be made"));
        fs::create_dir_all(&path).unwrap();
        assert_eq!(directory("state directory", &path, true).verdict, Verdict::Ok);
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        let file = path.join("file");
        fs::write(&file, "").unwrap();
        let below = file.join("state");
        assert_eq!(directory("state directory", &below, true).verdict, Verdict::Failed);
        assert_eq!(directory("held pages", &file, false).verdict, Verdict::Warning);
        assert_eq!(log_directory(&below).verdict, Verdict::Warning);
        fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn room_is_judged_by_what_may_still_come() {
        assert_eq!(space(Ok(1 << 20), 0).verdict, Verdict::Failed);
        assert_eq!(space(Ok(1 << 30), 4 << 30).verdict, Verdict::Warning);
        assert_eq!(space(Ok(5 << 30), 4 << 30).verdict, Verdict::Ok);
        assert_eq!(space(Err(io::ErrorKind::NotFound.into()), 0).verdict, Verdict::Failed);
        let settings = Settings { held_bytes: 3 << 30, ..Settings::default() };
        assert_eq!(wanted(&settings), (1 << 30) + 5 * (16 << 20));
    }

    #[test]
    fn a_node_without_a_state_directory_is_warned() {
        let checks = check(&Settings::default());
        assert_eq!((checks.len(), checks[0].verdict), (1, Verdict::Warning));
    }
}

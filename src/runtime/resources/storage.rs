//! What records, held pages and the log need: directories that can be written, and room.

use super::{Check, Component, Settings};
use crate::config::Id;
use crate::config::units::rounded_bytes;
use crate::runtime::held;
use crate::runtime::modes::random_number;
use crate::runtime::sys::disk::free_bytes;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

pub fn check(settings: &Settings) -> Vec<Check> {
    let Some(state_dir) = &settings.state_dir else {
        let check = Check::ok(Component::Storage, "state directory", "none is configured");
        let advice = "after a crash nobody can tell who owns a guest: set node.state_dir";
        return vec![check.warning(advice)];
    };
    let mut checks = vec![directory("state directory", state_dir, true)];
    let log_dir = settings.config.path(Id::NodeLogDir);
    let (held, logs) = (held_bytes(settings), log_bytes(settings));
    // Logs that lie on a disk of their own take nothing of this one.
    let apart = log_dir.as_deref().filter(|log_dir| !is_one_disk(state_dir, log_dir));
    let here = if apart.is_none() { held.saturating_add(logs) } else { held };
    checks.push(space(room(state_dir), here));
    let held_dir = state_dir.join(held::DIRECTORY);
    if settings.config.truth(Id::HdeHoldDepartedGuests) && held_dir.exists() {
        checks.push(directory("held pages", &held_dir, false));
    }
    checks.extend(log_dir.as_deref().map(log_directory));
    checks.extend(apart.map(|log_dir| log_space(room(log_dir), logs)));
    checks
}

/// What may still be written of held pages.
fn held_bytes(settings: &Settings) -> u64 {
    match settings.config.truth(Id::HdeHoldDepartedGuests) {
        true => settings.config.integer(Id::HdeHeldBytes).saturating_sub(settings.held_bytes),
        false => 0,
    }
}

/// What log files may take.
fn log_bytes(settings: &Settings) -> u64 {
    let files = settings.config.integer(Id::NodeLogKeep).saturating_add(1);
    settings.config.integer(Id::NodeLogMaxSize).saturating_mul(files)
}

fn is_one_disk(one: &Path, other: &Path) -> bool {
    let disk = |path| existing(path).and_then(fs::metadata).map(|found| found.dev());
    matches!((disk(one), disk(other)), (Ok(one), Ok(other)) if one == other)
}

fn room(path: &Path) -> io::Result<u64> {
    existing(path).and_then(|path| free_bytes(&File::open(path)?))
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
    let found = format!(
        "{} free; held pages and logs may take {} more",
        rounded_bytes(room),
        rounded_bytes(wanted)
    );
    match room {
        _ if room < LEAST_BYTES => check(found).failed(format!(
            "records of migrations need {}: make room at the state directory",
            rounded_bytes(LEAST_BYTES)
        )),
        _ if room < wanted => check(found)
            .warning("fewer pages are held: make room, or lower hde.held_bytes or node.log_keep"),
        _ => check(found),
    }
}

fn log_space(room: io::Result<u64>, wanted: u64) -> Check {
    let check = |found: String| Check::ok(Component::Storage, "log space", found);
    let advice =
        "lines are lost when it is full: make room at node.log_dir, or lower node.log_keep";
    match room {
        Err(error) => check(format!("cannot be asked: {error}")).warning(advice),
        Ok(room) => {
            let (room_text, wanted_text) = (rounded_bytes(room), rounded_bytes(wanted));
            let check = check(format!("{room_text} free; logs may take {wanted_text}"));
            if room < wanted { check.warning(advice) } else { check }
        }
    }
}

/// The directory, or the nearest one above it that is there.
fn existing(path: &Path) -> io::Result<PathBuf> {
    let found = path.ancestors().find(|path| path.exists());
    found.map(Path::to_path_buf).ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn try_writing(directory: &Path) -> io::Result<()> {
    // Nobody else's, not even another check's at the same time.
    let path = directory.join(format!(".dwcp-check-{:016x}", random_number()));
    let mut file = OpenOptions::new().write(true).create_new(true).open(&path)?;
    let tried = file.write_all(b"can this be kept?").and_then(|()| file.sync_all());
    let _ = fs::remove_file(&path);
    tried
}

/// Two slots for each of some thousand migrations.
const LEAST_BYTES: u64 = 32 << 20;

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use crate::config::load::from_text;

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
        assert_eq!((held_bytes(&settings), log_bytes(&settings)), (1 << 30, 5 * (16 << 20)));
        assert_eq!(log_space(Ok(1 << 20), 1 << 30).verdict, Verdict::Warning);
        assert_eq!(log_space(Ok(1 << 30), 1 << 30).verdict, Verdict::Ok);
        assert_eq!(log_space(Err(io::ErrorKind::NotFound.into()), 0).verdict, Verdict::Warning);
    }

    /// /proc is a file system of its own wherever this runs, and one without any room.
    #[test]
    fn room_for_logs_is_looked_for_where_they_are_written() {
        let rows = |log_dir: &str| {
            let text = format!("node:\n  log_dir: {log_dir}\n");
            let config = from_text("x", &text).unwrap();
            let state_dir = Some(std::env::temp_dir());
            let checks = check(&Settings { config, state_dir, ..Settings::default() });
            let space = |check: &&Check| check.what == "log space";
            checks.iter().find(space).map(|check| (check.verdict, check.found.clone()))
        };
        let (verdict, found) = rows("/proc/self").unwrap();
        assert_eq!(verdict, Verdict::Warning);
        assert!(found.starts_with("0 B free"), "{found}");
        let beside = std::env::temp_dir().join("logs");
        assert_eq!(rows(beside.to_str().unwrap()), None);
    }

    #[test]
    fn checks_at_the_same_time_do_not_meet() {
        let path = std::env::temp_dir().join(format!("dwcp-checks-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        let results: Vec<_> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| (0..50).try_for_each(|_| try_writing(&path))))
                .collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn a_node_without_a_state_directory_is_warned() {
        let checks = check(&Settings::default());
        assert_eq!((checks.len(), checks[0].verdict), (1, Verdict::Warning));
    }
}

//! The ownership record on real file systems: full disks, killed writers, second nodes.

use dwcp::base::MigrationId;
use dwcp::runtime::state_file::{MAX_CONTENT_BYTES, Side, StateFile, StateFileError};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const ID: MigrationId = MigrationId([7; 16]);
const CHILD_DIRECTORY: &str = "DWCP_TEST_STATE_DIRECTORY";

/// A directory that goes away with the test.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("dwcp-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_record_outlives_its_writer() {
    let directory = Directory::new("record");
    let mut state = StateFile::create(&directory.0, ID, Side::Source).unwrap();
    for content in [&b"one"[..], b"", &[9; MAX_CONTENT_BYTES]] {
        state.write(content).unwrap();
        drop(state);
        let found;
        (state, found) = StateFile::open(&directory.0, ID, Side::Source).unwrap();
        assert_eq!(found.unwrap(), content);
    }
    assert!(matches!(state.write(&[0; 1025]), Err(StateFileError::TooLong(1025))));
    assert_eq!(std::fs::metadata(state.path()).unwrap().len(), 8192);
    let other = StateFile::create(&directory.0, ID, Side::Destination).unwrap();
    std::fs::write(directory.0.join("notes.txt"), "").unwrap();
    let both = vec![(ID, Side::Source), (ID, Side::Destination)];
    assert_eq!(StateFile::list(&directory.0).unwrap(), both);
    state.remove().unwrap();
    other.remove().unwrap();
    assert_eq!(StateFile::list(&directory.0).unwrap(), vec![]);
}

#[test]
fn each_failure_names_the_file() {
    let directory = Directory::new("failures");
    let state = StateFile::create(&directory.0, ID, Side::Source).unwrap();
    let again = StateFile::create(&directory.0, ID, Side::Source).unwrap_err().to_string();
    let second = StateFile::open(&directory.0, ID, Side::Source).unwrap_err();
    assert!(matches!(&second, StateFileError::InUse(path) if path == state.path()), "{second}");
    let missing = StateFile::open(&directory.0, ID, Side::Destination).unwrap_err().to_string();
    let nowhere = StateFile::create(Path::new("/no/such"), ID, Side::Source).unwrap_err();
    for (error, text) in [
        (again, "File exists (os error 17)"),
        (missing, "destination.state: No such file"),
        (nowhere.to_string(), "/no/such/0707"),
    ] {
        assert!(error.contains(text), "{error} lacks {text}");
    }
}

#[test]
fn a_full_disk_stops_creation_and_never_a_later_write() {
    let directory = Directory::new("full");
    let at = directory.0.clone();
    // A mount namespace of this thread alone: the mount goes with it, whatever happens.
    std::thread::spawn(move || {
        if !mount_small_tmpfs(&at) {
            return eprintln!("skipped: mounting needs root");
        }
        let mut state = StateFile::create(&at, ID, Side::Source).unwrap();
        state.write(b"before").unwrap();
        fill(&at.join("filler"));
        for round in 0..100_u32 {
            state.write(&round.to_le_bytes()).unwrap();
        }
        drop(state);
        let found = StateFile::open(&at, ID, Side::Source).unwrap().1;
        assert_eq!(found.unwrap(), 99_u32.to_le_bytes());

        let error = StateFile::create(&at, ID, Side::Destination).unwrap_err().to_string();
        assert!(error.contains("destination.state: No space left on device"), "{error}");
        assert_eq!(StateFile::list(&at).unwrap(), vec![(ID, Side::Source)]);
    })
    .join()
    .unwrap();
}

#[test]
fn a_killed_writer_leaves_its_last_record() {
    let directory = Directory::new("killed");
    let mut acknowledged = 0;
    for round in 0..20 {
        let mut child = Command::new("/proc/self/exe")
            .args(["--exact", "write_until_killed", "--ignored", "--nocapture"])
            .env(CHILD_DIRECTORY, &directory.0)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut counts = lines.by_ref().filter_map(|line| line.unwrap().parse::<u64>().ok());
        // Killed at a different moment each time, but never before it wrote anything.
        acknowledged = counts.nth(round * 3).unwrap();
        child.kill().unwrap();
        acknowledged = counts.last().unwrap_or(acknowledged);
        child.wait().unwrap();
        let found = StateFile::open(&directory.0, ID, Side::Source).unwrap().1.unwrap();
        let found = u64::from_le_bytes(found[..8].try_into().unwrap());
        assert!(found == acknowledged || found == acknowledged + 1, "{found}, {acknowledged}");
    }
    assert!(acknowledged >= 20 * 20);
}

#[test]
#[ignore = "the child of a_killed_writer_leaves_its_last_record"]
fn write_until_killed() {
    let Some(directory) = std::env::var_os(CHILD_DIRECTORY) else { return };
    let directory = PathBuf::from(directory);
    let (mut state, mut count) = match StateFile::open(&directory, ID, Side::Source) {
        Ok((state, found)) => {
            let found = found.unwrap();
            (state, u64::from_le_bytes(found[..8].try_into().unwrap()))
        }
        Err(_) => (StateFile::create(&directory, ID, Side::Source).unwrap(), 0),
    };
    let mut out = std::io::stdout();
    // Bounded, should the parent die first.
    for _ in 0..1_000_000 {
        count += 1;
        let content = count.to_le_bytes().repeat(1 + (count % 100) as usize);
        state.write(&content).unwrap();
        if writeln!(out, "{count}").is_err() {
            return;
        }
    }
}

fn mount_small_tmpfs(at: &Path) -> bool {
    let at = std::ffi::CString::new(at.as_os_str().as_encoded_bytes()).unwrap();
    let (none, private) = (std::ptr::null(), libc::MS_REC | libc::MS_PRIVATE);
    let (kind, size) = (c"tmpfs".as_ptr(), c"size=64k".as_ptr().cast());
    // SAFETY: every string is live and terminated; only this thread's mounts change.
    unsafe {
        libc::unshare(libc::CLONE_NEWNS) == 0
            && libc::mount(none, c"/".as_ptr(), none, private, none.cast()) == 0
            && libc::mount(kind, at.as_ptr(), kind, 0, size) == 0
    }
}

fn fill(path: &Path) {
    let mut file = std::fs::File::create(path).unwrap();
    while file.write(&[1; 4096]).is_ok_and(|written| written > 0) {}
    assert_eq!(file.write(&[1]).unwrap_err().kind(), std::io::ErrorKind::StorageFull);
}

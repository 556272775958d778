//! A log file that never outgrows its bounds: closed at a size, a fixed number kept.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// `dwcp.log` in a directory, with `dwcp.log.1` (newest) and on for those before it.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: Option<File>,
    size_bytes: u64,
    /// A file of this size is closed.
    pub max_bytes: u64,
    /// Closed files that are kept.
    pub keep: u64,
}

impl LogFile {
    /// Opens the log file in a directory, which is made if need be.
    ///
    /// # Errors
    /// The directory cannot be made, or the file cannot be written.
    pub fn open(directory: &Path, max_bytes: u64, keep: u64) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let path = directory.join(FILE_NAME);
        let (file, size_bytes) = append(&path)?;
        Ok(Self { path, file: Some(file), size_bytes, max_bytes, keep })
    }

    /// Where the newest lines are.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a line. After a failure the next line opens the file anew.
    ///
    /// # Errors
    /// The file cannot be written; the line is lost.
    pub fn write_line(&mut self, line: &str) -> io::Result<()> {
        let length = line.len() as u64 + 1;
        if self.size_bytes > 0 && self.size_bytes + length > self.max_bytes {
            self.rotate()?;
        }
        if self.file.is_none() {
            let (file, size_bytes) = append(&self.path)?;
            (self.file, self.size_bytes) = (Some(file), size_bytes);
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        let written = file.write_all(format!("{line}\n").as_bytes());
        match &written {
            Ok(()) => self.size_bytes += length,
            Err(_) => self.file = None,
        }
        written
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.file = None;
        self.size_bytes = 0;
        if self.keep == 0 {
            return fs::remove_file(&self.path);
        }
        for number in (1..self.keep).rev() {
            // Numbers that are not there yet leave gaps, which is no failure.
            let _ = fs::rename(self.numbered(number), self.numbered(number + 1));
        }
        fs::rename(&self.path, self.numbered(1))
    }

    fn numbered(&self, number: u64) -> PathBuf {
        self.path.with_file_name(format!("{FILE_NAME}.{number}"))
    }
}

fn append(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().append(true).create(true).open(path)?;
    let size_bytes = file.metadata()?.len();
    Ok((file, size_bytes))
}

const FILE_NAME: &str = "dwcp.log";

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("dwcp-log-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    #[test]
    fn files_rotate_and_stay_bounded() {
        let directory = scratch("rotate");
        let mut log = LogFile::open(&directory, 100, 2).unwrap();
        for number in 0..50 {
            log.write_line(&format!("line number {number:04}")).unwrap();
        }
        let mut names: Vec<_> =
            fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["dwcp.log", "dwcp.log.1", "dwcp.log.2"]);
        for name in names {
            assert!(fs::metadata(directory.join(name)).unwrap().len() <= 100);
        }
        let newest = fs::read_to_string(log.path()).unwrap();
        assert!(newest.ends_with("line number 0049\n"), "{newest}");
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_reopened_log_goes_on_and_survives_removal() {
        let directory = scratch("reopen");
        LogFile::open(&directory, 1000, 1).unwrap().write_line("a").unwrap();
        let mut log = LogFile::open(&directory, 1000, 1).unwrap();
        log.write_line("b").unwrap();
        assert_eq!(fs::read_to_string(log.path()).unwrap(), "a\nb\n");
        fs::remove_dir_all(directory).unwrap();
    }
}

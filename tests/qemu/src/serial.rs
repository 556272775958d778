//! What the guest printed: its lines, its ticks, its complaints.

use std::path::{Path, PathBuf};

/// Says that a page is not what the guest wrote.
const CORRUPT: &str = "CORRUPT";
/// The kernel's own last words.
const PANIC: &str = "Kernel panic";

/// The file behind a guest's serial console.
#[derive(Debug)]
pub struct SerialLog {
    path: PathBuf,
}

impl SerialLog {
    /// The log in this file, which may not exist yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All of it; nothing if the guest has not printed.
    pub fn text(&self) -> String {
        let bytes = std::fs::read(&self.path).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The first whole line with this text.
    pub fn line_with(&self, pattern: &str) -> Option<String> {
        let text = self.text();
        whole_lines(&text).find(|line| line.contains(pattern)).map(str::to_owned)
    }

    /// The count of the last tick; zero before the first.
    pub fn last_tick(&self) -> u64 {
        whole_lines(&self.text()).filter_map(tick_of).next_back().unwrap_or(0)
    }

    /// The guest's first complaint about its memory, or about itself.
    pub fn complaint(&self) -> Option<String> {
        self.line_with(CORRUPT)
            .or_else(|| self.line_with("FAILED"))
            .or_else(|| self.line_with(PANIC))
    }
}

fn whole_lines(text: &str) -> impl DoubleEndedIterator<Item = &str> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.split('\n').map(|line| line.trim_end_matches('\r'))
}

/// The count in a line such as `tick 3 checksum=OK pages=2048`.
fn tick_of(line: &str) -> Option<u64> {
    line.strip_prefix("tick ")?.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_line_does_not_count() {
        let lines: Vec<&str> = whole_lines("ready\r\ntick 9 checksum=OK\r\ntick 1").collect();
        assert_eq!(lines, ["ready", "tick 9 checksum=OK"]);
        assert_eq!(lines.into_iter().filter_map(tick_of).next_back(), Some(9));
    }
}

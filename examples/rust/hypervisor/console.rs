//! What the program prints: lines for people, a progress bar on a terminal.

use crate::guest::{Guest, Kind};
use crate::options::{Mode, Options};
use crate::program::Proof;
use dwcp::migration::Progress;
use std::io::{IsTerminal, Write};

const BAR_CELLS: u64 = 24;
const MIB: f64 = (1 << 20) as f64;

/// With `--json` people read standard error, and programs standard output.
pub struct Console {
    to_stderr: bool,
    is_terminal: bool,
    has_bar: bool,
    last_line_us: u64,
}

impl Console {
    pub fn new(options: &Options) -> Self {
        let is_terminal = match options.json {
            true => std::io::stderr().is_terminal(),
            false => std::io::stdout().is_terminal(),
        };
        Self { to_stderr: options.json, is_terminal, has_bar: false, last_line_us: 0 }
    }

    fn put(&self, text: &str) {
        // A reader that went away is no reason to stop a guest.
        let _ = match self.to_stderr {
            true => std::io::stderr().write_all(text.as_bytes()),
            false => std::io::stdout()
                .write_all(text.as_bytes())
                .and_then(|()| std::io::stdout().flush()),
        };
    }

    /// One line; ends a progress bar first.
    pub fn say(&mut self, line: impl std::fmt::Display) {
        let start = if self.has_bar { "\r\x1b[K" } else { "" };
        self.has_bar = false;
        self.put(&format!("{start}{line}\n"));
    }

    pub fn progress(&mut self, progress: &Progress) {
        let text = format!(
            "{:<12} pass {:<2} {:>7.1} MiB left, sent {:>7.1} MiB, link {:>6.0} MiB/s, guest writes \
             {:>4.0} MiB/s, downtime would be {:.1} ms",
            progress.phase.name(),
            progress.pass,
            progress.remaining_pages as f64 * 4096.0 / MIB,
            progress.wire_bytes as f64 / MIB,
            progress.bandwidth_bytes_per_s as f64 / MIB,
            progress.dirty_rate_bytes_per_s as f64 / MIB,
            progress.predicted_downtime_us as f64 / 1000.0
        );
        if !self.is_terminal {
            if progress.elapsed_us < self.last_line_us {
                self.last_line_us = 0;
            }
            if progress.elapsed_us - self.last_line_us >= 500_000 {
                self.last_line_us = progress.elapsed_us;
                self.say(text);
            }
            return;
        }
        let pages = progress.pages.max(1);
        let full = (pages - progress.remaining_pages.min(pages)) * BAR_CELLS / pages;
        let bar = "#".repeat(full as usize);
        self.put(&format!("\r\x1b[K[{bar:<24}] {text}"));
        self.has_bar = true;
    }

    pub fn guest(&mut self, guest: &Guest, options: &Options) {
        let place = if guest.kind == Kind::Kvm { "on /dev/kvm" } else { "as a thread" };
        let (name, mib) = (&options.name, options.memory_mib);
        if options.mode == Mode::Destination {
            return self.say(format!("guest {name}: {mib} MiB {place}, empty"));
        }
        let content = clap::ValueEnum::to_possible_value(&options.content);
        let content = content.map(|value| value.get_name().to_owned()).unwrap_or_default();
        let rate = options.dirty_mib_per_s;
        self.say(format!(
            "guest {name}: {mib} MiB {place}, writing {rate} MiB/s of {content} pages"
        ));
    }

    pub fn proof(&mut self, when: &str, proof: &Proof) {
        let Proof { counter, pages, data_pages, text, .. } = proof;
        let line = match (proof.holds, pages) {
            (true, 0) => format!("proof {when}: goes on from write {counter} (memory not checked)"),
            (true, _) => format!(
                "proof {when}: at write {counter}, {pages} pages, {data_pages} of them written: \
                 every checksum holds and every page is the newest"
            ),
            _ => format!(
                "PROOF FAILED {when}: {text} ({} checksums, {} sequences, {} other pages wrong)",
                proof.bad_checksums, proof.bad_sequences, proof.bad_other
            ),
        };
        self.say(line);
    }
}

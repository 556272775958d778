//! The report of a migration, once there is one, and those who wait for it.

use crate::migration::Report;
use crate::runtime::lock::{lock, wait};
use crate::runtime::record_keeper::RecordKeeper;
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

/// Set once, when everything is over.
#[derive(Default)]
pub struct Outcome {
    report: Mutex<Option<Report>>,
    news: Condvar,
}

impl Outcome {
    /// Ends the migration's record, and then shows its report: first to `on_end`, then to all who wait.
    pub fn conclude(
        &self,
        report: Report,
        keeper: RecordKeeper,
        on_end: Box<dyn FnOnce(&Report) + Send>,
    ) {
        keeper.close(report.owner, report.status);
        on_end(&report);
        *lock(&self.report) = Some(report);
        self.news.notify_all();
    }

    /// The report, if it is there.
    pub fn get(&self) -> Option<Report> {
        lock(&self.report).clone()
    }

    /// Waits up to `timeout` for the report.
    pub fn wait(&self, timeout: Duration) -> Option<Report> {
        let started = Instant::now();
        let mut report = lock(&self.report);
        while report.is_none() {
            let left = timeout.checked_sub(started.elapsed())?;
            report = wait(&self.news, report, left);
        }
        report.clone()
    }
}

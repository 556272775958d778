//! The report of a migration, once there is one, and those who wait for it.

use crate::migration::Report;
use crate::runtime::lock::{lock, wait};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

/// Set once, when everything is over.
#[derive(Default)]
pub struct Outcome {
    report: Mutex<Option<Report>>,
    news: Condvar,
}

impl Outcome {
    /// Sets the report and wakes whoever waits.
    pub fn publish(&self, report: Report) {
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

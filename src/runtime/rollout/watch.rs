//! The thread of a node's flags: looks at the kill switch's file, and at what time brings.

use super::Rollout;
use super::kill_switch::KILL_SWITCH_VARIABLE;
use crate::base::Time;
use crate::runtime::clock::now;
use crate::runtime::lock::{lock, wait};
use crate::runtime::sys::spawn_named;
use crate::runtime::sys::thread::is_current;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often it looks: what holds within a second must be seen well within it.
const INTERVAL: Duration = Duration::from_millis(200);
/// How often it looks at expiries, and lets the guards judge.
const SLOW_INTERVAL: Duration = Duration::from_secs(1);
/// How long it is not told again that the same has failed.
const QUIET: Duration = Duration::from_secs(60);

/// What is watched, and the thread that does so.
pub struct Watch {
    file: Option<PathBuf>,
    is_killed_by_environment: bool,
    state: Mutex<State>,
    news: Condvar,
}

#[derive(Default)]
struct State {
    thread: Option<JoinHandle<()>>,
    is_stopped: bool,
    /// Whether the file was there when it could last be looked at.
    was_there: bool,
    /// Before this nothing is tried again.
    retry_at: Time,
    /// When expiries and guards are looked at next.
    next_at: Time,
    /// Before this nobody is told again that the same has failed.
    complain_at: Time,
}

impl Watch {
    /// Watches this file, and remembers the environment as it is now.
    pub fn new(file: Option<PathBuf>) -> Self {
        let variable = std::env::var_os(KILL_SWITCH_VARIABLE);
        let is_killed_by_environment =
            variable.is_some_and(|value| !value.is_empty() && value != "0");
        let (state, news) = (Mutex::default(), Condvar::new());
        Self { file, is_killed_by_environment, state, news }
    }

    /// Whether the environment switches everything off.
    pub fn is_killed_by_environment(&self) -> bool {
        self.is_killed_by_environment
    }

    /// The kill switch's file, if it is there. One that cannot be looked at is as it last was.
    pub fn kill_file(&self) -> Option<&Path> {
        let file = self.file.as_deref()?;
        // A link that leads nowhere was put there all the same.
        let looked = file.symlink_metadata().map(|_| true).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(false),
            _ => Err(error),
        });
        let mut state = lock(&self.state);
        state.was_there = looked.unwrap_or(state.was_there);
        state.was_there.then_some(file)
    }

    /// Whether what failed may be tried again.
    pub fn may_retry(&self, now: Time) -> bool {
        now >= lock(&self.state).retry_at
    }

    /// Nothing is to be tried again before.
    pub fn retry_at(&self, at: Time) {
        lock(&self.state).retry_at = at;
    }

    /// Whether it is time for what need not be looked at as often as the kill switch.
    fn is_due(&self, now: Time) -> bool {
        let mut state = lock(&self.state);
        let is_due = now >= state.next_at;
        if is_due {
            state.next_at = now + SLOW_INTERVAL;
        }
        is_due
    }

    /// Whether it is time to tell that something has failed again.
    pub fn may_complain(&self, now: Time) -> bool {
        let mut state = lock(&self.state);
        let may = now >= state.complain_at;
        if may {
            state.complain_at = now + QUIET;
        }
        may
    }

    /// Ends the thread. Idempotent.
    pub fn stop(&self) {
        let mut state = lock(&self.state);
        state.is_stopped = true;
        let thread = state.thread.take();
        drop(state);
        self.news.notify_all();
        // An observer of events may be the one that drops the node.
        if let Some(thread) = thread.filter(|thread| !is_current(thread)) {
            let _ = thread.join();
        }
    }

    /// Waits for the next look; false: there is none.
    fn goes_on(&self) -> bool {
        let state = lock(&self.state);
        let state = if state.is_stopped { state } else { wait(&self.news, state, INTERVAL) };
        !state.is_stopped
    }
}

impl Rollout {
    /// Starts the thread.
    ///
    /// # Errors
    /// There can be none.
    pub fn start(self: &Arc<Self>) -> io::Result<()> {
        let me: Weak<Self> = Arc::downgrade(self);
        let thread = spawn_named("dwcp-flags", move || {
            while let Some(rollout) = me.upgrade().filter(|rollout| rollout.watch.goes_on()) {
                rollout.look();
            }
        })?;
        lock(&self.watch.state).thread = Some(thread);
        Ok(())
    }

    /// Looks at everything once.
    fn look(&self) {
        self.look_at_kill_switch();
        if self.watch.is_due(now()) {
            self.look_at_time();
            self.look_at_guards();
        }
    }
}

//! One thread that talks to QEMU during a migration: it starts it, reports what becomes of it, and
//! carries out orders.

use crate::migration::relay::destination::Released;
use crate::runtime::lock::lock;
use crate::runtime::qemu::commands::{POST_COPY_ACTIVE, POST_COPY_PAUSED};
use crate::runtime::qemu::{MigrationInfo, QemuVersion, Qmp, QmpError};
use crate::runtime::sys::{Process, spawn_named};
use serde_json::{Map, Value, json};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long an order may wait for the thread to look.
const TICK: Duration = Duration::from_millis(5);
/// How often QEMU is asked for its figures.
const FIGURES_INTERVAL: Duration = Duration::from_millis(500);
/// How long QEMU may take to undo a migration.
const UNDO_TIMEOUT: Duration = Duration::from_secs(30);
/// QEMU's name for telling how its migration stands.
const EVENTS: &str = "events";
/// QEMU's name for connections beside the main stream.
pub const MULTIFD: &str = "multifd";
/// QEMU's name for running a guest whose memory is still to come.
pub const POST_COPY: &str = "postcopy-ram";
/// QEMU's name for what it sends in a second after the switch; 0 is no limit.
const POST_COPY_LIMIT: &str = "max-postcopy-bandwidth";
/// How long QEMU may take to take the order to switch to post-copy.
const SWITCH_TIMEOUT: Duration = Duration::from_secs(30);
/// From that order to the switch, if QEMU follows it at once.
const SWITCHING_TIME: Duration = Duration::from_secs(2);
/// How long QEMU may take to take a cancel.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);
/// QEMU 7.2 says that it has failed before it has cleared up, and with multifd it crashes if the
/// capability is taken from it meanwhile.
const CLEARING_TIME: Duration = Duration::from_millis(250);
/// From the end of a process' connections to its own.
pub const ENDING_TIME: Duration = Duration::from_secs(2);
/// How long a QEMU that cannot be reached is left alone.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// How long one that runs a guest without all of its memory is waited for; it answers later.
const SHORT_PATIENCE: Duration = Duration::from_millis(300);
/// From the end of a connection to QEMU's word that its migration is paused.
const PAUSING_TIME: Duration = Duration::from_secs(5);
/// Bytes per second that do not hold QEMU back.
const UNLIMITED_BYTES_PER_S: u64 = 1 << 40;

/// What to ask of QEMU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Migrate to this URI.
    Migrate {
        /// Such as `unix:PATH`.
        uri: String,
        /// The guest may stand still so long.
        max_downtime: Duration,
        /// It may be slowed down.
        throttle: bool,
        /// Multifd channels beside the main stream.
        multifd_channels: u8,
        /// It may switch to post-copy.
        post_copy: bool,
    },
    /// Listen for a migration at this URI.
    Receive {
        /// Such as `unix:PATH`.
        uri: String,
        /// Multifd channels beside the main stream.
        multifd_channels: u8,
        /// The source may switch to post-copy.
        post_copy: bool,
    },
    /// Go on with a migration that is paused in post-copy, to this URI.
    Resume {
        /// Such as `unix:PATH`.
        uri: String,
    },
    /// Listen again, at this URI, for a migration that is paused in post-copy.
    Recover {
        /// Such as `unix:PATH`.
        uri: String,
    },
}

/// QEMU did not take the task on.
#[derive(Debug, thiserror::Error)]
enum BeginError {
    #[error(transparent)]
    Qmp(#[from] QmpError),
    #[error("multifd_channels is {wanted}, but this QEMU has no capability multifd; use 0")]
    NoMultifd { wanted: u8 },
    #[error("post-copy is wanted, but this QEMU ({0}) has no capability postcopy-ram; use never")]
    NoPostCopy(QemuVersion),
    #[error("this QEMU ({0}) has no migration capability events; 2.4 and later have it")]
    NoEvents(QemuVersion),
    #[error("QEMU's migration is {0:?}, not {POST_COPY_PAUSED}: there is nothing to go on with")]
    NotPaused(String),
    #[error("this QEMU ({version}) has no migration parameter {name}")]
    NoParameter { version: QemuVersion, name: String },
}

/// What has become of QEMU's migration.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// QEMU has taken the task on.
    pub under_way: bool,
    /// The guest has been stopped.
    pub stopped: bool,
    /// QEMU sends memory.
    active: bool,
    /// The source has switched to post-copy.
    pub switched: bool,
    /// At the destination: the guest runs, or is ready to, though its memory may still be coming.
    pub restored: bool,
    /// QEMU has stopped a migration in post-copy, for its connection broke.
    pub paused: bool,
    /// It is over; the text is QEMU's.
    pub over: Option<Result<(), String>>,
    /// The conversation with QEMU broke, and `over` says no more than that.
    pub lost: bool,
    /// What became of a guest that has arrived in full.
    released: Option<Released>,
    /// QEMU's own figures, when it was last asked.
    pub figures: Option<MigrationInfo>,
}

impl Seen {
    /// Whether QEMU sends memory, and could be told to switch.
    pub fn is_active(&self) -> bool {
        self.active && self.over.is_none()
    }
}

enum Order {
    /// Give up what is under way; it may take its time.
    Cancel,
    /// Undo what is under way and let the guest be as it was before.
    Undo,
    /// What became of the guest that QEMU has all of. Whether QEMU was in touch when it got the end.
    Settle(Option<Arc<Process>>, bool),
    SetDowntime(Duration),
    SwitchToPostCopy,
    /// Find out whether it has switched, if it was told to.
    AwaitSwitch,
}

type Reply = SyncSender<Result<(), String>>;

/// The thread and what it has seen.
pub struct Watch {
    seen: Arc<Mutex<Seen>>,
    orders: Sender<(Order, Reply)>,
    /// Nobody waits any more for what becomes of the guest.
    given_up: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Watch {
    /// Starts the task. `on_news` is called whenever something was seen.
    ///
    /// # Errors
    /// The thread cannot be made.
    pub fn start(qmp: Qmp, task: Task, on_news: Box<dyn Fn() + Send>) -> io::Result<Self> {
        Self::start_leaving(qmp, task, Arc::default(), on_news)
    }

    /// As [`Self::start`]; if the task ends while QEMU is in post-copy, its conversation is left there. QEMU may
    /// be unable to begin another.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_leaving(
        qmp: Qmp,
        task: Task,
        left: Arc<Mutex<Option<Qmp>>>,
        on_news: Box<dyn Fn() + Send>,
    ) -> io::Result<Self> {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (orders, incoming) = channel();
        let shared = seen.clone();
        let given_up = Arc::new(AtomicBool::new(false));
        let flag = given_up.clone();
        let thread = spawn_named("dwcp-qmp", move || {
            let watcher = Watcher {
                qmp,
                task,
                seen: shared,
                on_news,
                orders: incoming,
                given_up: flag,
                before: Vec::new(),
                ran: true,
                told_to_switch: false,
                resumed: false,
            };
            *lock(&left) = watcher.run();
        })?;
        Ok(Self { seen, orders, given_up, thread: Mutex::new(Some(thread)) })
    }

    /// What has been seen.
    pub fn seen(&self) -> Seen {
        lock(&self.seen).clone()
    }

    /// Lets QEMU know that its migration is off, so that it takes the end of its connections for no
    /// failure. [`Self::undo`] tells what came of it.
    pub fn cancel(&self) {
        // What QEMU does not know yet it notices by its connections.
        let _ = self.order(Order::Cancel, CANCEL_TIMEOUT);
    }

    /// Whether QEMU is in post-copy, or will be as it was told to.
    pub fn has_switched(&self) -> bool {
        // What QEMU does not tell it has not done.
        let _ = self.order(Order::AwaitSwitch, CANCEL_TIMEOUT);
        self.seen().switched
    }

    /// Waits until QEMU's migration has ended, which it is about to.
    pub fn wait_until_over(&self) {
        let until = Instant::now() + UNDO_TIMEOUT;
        while self.seen().over.is_none() && Instant::now() < until {
            std::thread::sleep(TICK);
        }
    }

    /// Ends what is under way; on return the guest is as before, if it can be.
    ///
    /// # Errors
    /// QEMU's words, or that it is gone.
    pub fn undo(&self) -> Result<(), String> {
        self.order(Order::Undo, UNDO_TIMEOUT + Duration::from_secs(5))
    }

    /// Waits until it is known what became of a guest of which `process`, a QEMU, has all. `in_touch`:
    /// the conversation had not broken when it got the end.
    pub fn settle(&self, process: Option<Arc<Process>>, in_touch: bool) -> Released {
        // No limit: giving up on a guest that may yet run would let it run at the source too.
        let asked = self.order(Order::Settle(process, in_touch), Duration::MAX);
        let unknown = || Released::Lost(asked.err().unwrap_or_default());
        self.seen().released.unwrap_or_else(unknown)
    }

    /// Lets whoever waits in [`Self::settle`] go: the guest is given up.
    pub fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    /// Lets QEMU switch to post-copy.
    ///
    /// # Errors
    /// QEMU's words, or that it is gone.
    pub fn switch_to_post_copy(&self) -> Result<(), String> {
        self.order(Order::SwitchToPostCopy, SWITCH_TIMEOUT)
    }

    /// Changes how long the guest may stand still.
    pub fn set_downtime(&self, limit: Duration) {
        let (reply, _) = sync_channel(1);
        // A thread that is gone has nothing left to limit.
        let _ = self.orders.send((Order::SetDowntime(limit), reply));
    }

    fn order(&self, order: Order, timeout: Duration) -> Result<(), String> {
        let gone = |_| "QEMU's watcher has ended".to_string();
        let (reply, answer) = sync_channel(1);
        self.orders.send((order, reply)).map_err(|error| gone(error.to_string()))?;
        answer.recv_timeout(timeout).map_err(|error| gone(error.to_string()))?
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // The thread ends when nobody can give it orders any more.
        let (nobody, _) = channel();
        drop(std::mem::replace(&mut self.orders, nobody));
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join();
        }
    }
}

struct Watcher {
    qmp: Qmp,
    task: Task,
    seen: Arc<Mutex<Seen>>,
    on_news: Box<dyn Fn() + Send>,
    orders: Receiver<(Order, Reply)>,
    given_up: Arc<AtomicBool>,
    /// Capabilities and parameters that were changed, as they were.
    before: Vec<Setting>,
    ran: bool,
    /// It was told to switch to post-copy.
    told_to_switch: bool,
    /// The guest was let run while QEMU was watched.
    resumed: bool,
}

enum Setting {
    Capability(String, bool),
    Parameters(Map<String, Value>),
}

impl Watcher {
    /// Gives back the conversation if QEMU is in post-copy.
    fn run(mut self) -> Option<Qmp> {
        match self.begin() {
            Ok(()) => self.tell(|seen| seen.under_way = true),
            Err(error) => self.tell(|seen| seen.over = Some(Err(error.to_string()))),
        }
        let mut asked = Instant::now();
        loop {
            match self.orders.try_recv() {
                Ok((order, reply)) => {
                    let result = self.obey(order);
                    // Whoever asked may have given up.
                    let _ = reply.send(result);
                    continue;
                }
                Err(TryRecvError::Disconnected) if self.is_in_post_copy() => {
                    return Some(self.qmp).filter(|qmp| !qmp.is_broken());
                }
                Err(TryRecvError::Disconnected) => {
                    self.restore();
                    return None;
                }
                Err(TryRecvError::Empty) => {}
            }
            if lock(&self.seen).over.is_some() {
                std::thread::sleep(TICK);
                continue;
            }
            match self.qmp.next_event(TICK) {
                Ok(Some(event)) => self.on_event(&event.name, &event.data),
                Ok(None) => {}
                Err(error) => self.tell(|seen| {
                    seen.over = Some(Err(error.to_string()));
                    seen.lost = true;
                }),
            }
            if asked.elapsed() >= FIGURES_INTERVAL {
                asked = Instant::now();
                self.ask_figures();
            }
        }
    }

    fn begin(&mut self) -> Result<(), BeginError> {
        match self.task.clone() {
            Task::Resume { uri } => return self.resume(&uri),
            Task::Recover { uri } => return self.recover(&uri),
            Task::Migrate { .. } | Task::Receive { .. } => {}
        }
        self.ran = self.qmp.status()?.running;
        match self.task.clone() {
            Task::Migrate { uri, max_downtime, throttle, multifd_channels, post_copy } => {
                self.prepare(&[("auto-converge", throttle)], multifd_channels, post_copy)?;
                self.set_parameters(json!({
                    "max-bandwidth": UNLIMITED_BYTES_PER_S,
                    "downtime-limit": downtime_ms(max_downtime),
                }))?;
                // Before 3.0 QEMU had no such limit.
                if post_copy && self.qmp.parameters()?.get(POST_COPY_LIMIT).is_some() {
                    self.set_parameters(json!({ POST_COPY_LIMIT: 0 }))?;
                }
                Ok(self.qmp.migrate(&uri)?)
            }
            Task::Receive { uri, multifd_channels, post_copy } => {
                self.prepare(&[], multifd_channels, post_copy)?;
                Ok(self.qmp.migrate_incoming(&uri)?)
            }
            Task::Resume { .. } | Task::Recover { .. } => Ok(()),
        }
    }

    fn resume(&mut self, uri: &str) -> Result<(), BeginError> {
        let until = Instant::now() + PAUSING_TIME;
        let mut info = self.qmp.migration_info()?;
        // The connection that it had may have ended just now.
        while info.status == POST_COPY_ACTIVE && Instant::now() < until {
            std::thread::sleep(RECONNECT_PAUSE);
            info = self.qmp.migration_info()?;
        }
        if !info.is_paused() {
            return Err(BeginError::NotPaused(info.status));
        }
        self.tell(|seen| seen.figures = Some(info));
        Ok(self.qmp.migrate_resume(uri)?)
    }

    /// QEMU's main loop may wait for a page itself and answer nothing; what QEMU does beside it must do then.
    fn recover(&mut self, uri: &str) -> Result<(), BeginError> {
        // One that was behind before was told by who found it so.
        if !self.qmp.is_behind()
            && let Ok(known) = self.qmp.capabilities()
        {
            let off = |name: &&str| known.get(*name) == Some(&false);
            let on: Vec<_> = [EVENTS, POST_COPY].into_iter().filter(off).collect();
            // Without the second QEMU would give its guest up, not pause, were this connection to break too.
            let on: Vec<_> = on.into_iter().map(|name| (name, true)).collect();
            if !on.is_empty() {
                self.qmp.set_capabilities(&on)?;
            }
        }
        let until = Instant::now() + PAUSING_TIME;
        loop {
            match self.qmp.migrate_recover(uri) {
                // The connection that it had may have ended just now.
                Err(QmpError::Refused { .. }) if Instant::now() < until => {
                    std::thread::sleep(RECONNECT_PAUSE);
                }
                answer => {
                    // They tell of the connection before.
                    self.qmp.forget_events();
                    return Ok(answer?);
                }
            }
        }
    }

    /// Whether QEMU has a guest that lacks memory: what it was told for that must stay, or it would not pause
    /// when a connection ends.
    fn is_in_post_copy(&self) -> bool {
        let seen = lock(&self.seen);
        let is_over = seen.over == Some(Ok(()));
        (seen.switched || seen.restored || self.task_is_recovery()) && !is_over
    }

    fn task_is_recovery(&self) -> bool {
        matches!(self.task, Task::Resume { .. } | Task::Recover { .. })
    }

    /// Turns off what would hide pages from the relay, and turns events on.
    fn prepare(
        &mut self,
        more: &[(&str, bool)],
        multifd_channels: u8,
        post_copy: bool,
    ) -> Result<(), BeginError> {
        const WANTED: [(&str, bool); 9] = [
            (EVENTS, true),
            ("compress", false),
            ("xbzrle", false),
            ("postcopy-preempt", false),
            ("rdma-pin-all", false),
            ("pause-before-switchover", false),
            ("zero-copy-send", false),
            ("background-snapshot", false),
            ("mapped-ram", false),
        ];
        let known = self.qmp.capabilities()?;
        let differs =
            |(name, wanted): &&(&str, bool)| known.get(*name).is_some_and(|is| is != wanted);
        if !known.contains_key(EVENTS) {
            return Err(BeginError::NoEvents(self.qmp.version().clone()));
        }
        if multifd_channels > 0 && !known.contains_key(MULTIFD) {
            return Err(BeginError::NoMultifd { wanted: multifd_channels });
        }
        if post_copy && !known.contains_key(POST_COPY) {
            return Err(BeginError::NoPostCopy(self.qmp.version().clone()));
        }
        let by_option =
            [(MULTIFD, multifd_channels > 0), (POST_COPY, post_copy), ("return-path", post_copy)];
        let changes: Vec<_> =
            WANTED.iter().chain(more).chain(&by_option).filter(differs).copied().collect();
        if !changes.is_empty() {
            self.qmp.set_capabilities(&changes)?;
            let before = changes.iter().map(|(name, on)| Setting::Capability((*name).into(), !on));
            self.before.extend(before);
        }
        if multifd_channels > 0 {
            self.set_parameters(json!({
                "multifd-channels": multifd_channels,
                "multifd-compression": "none",
            }))?;
        }
        Ok(())
    }

    /// Changes parameters, and keeps what they were.
    fn set_parameters(&mut self, wanted: Value) -> Result<(), BeginError> {
        let all = self.qmp.parameters()?;
        let lacks = |name: &str| BeginError::NoParameter {
            version: self.qmp.version().clone(),
            name: name.to_owned(),
        };
        let names = wanted.as_object().into_iter().flat_map(Map::keys);
        let value = |name: &String| all.get(name).cloned().ok_or_else(|| lacks(name));
        let before = names
            .map(|name| value(name).map(|value| (name.clone(), value)))
            .collect::<Result<_, _>>()?;
        self.qmp.set_parameters(wanted)?;
        self.before.push(Setting::Parameters(before));
        Ok(())
    }

    fn on_event(&mut self, name: &str, data: &Value) {
        match (name, data["status"].as_str()) {
            ("RESUME", _) => {
                self.resumed = true;
                self.tell(|seen| seen.restored = true);
            }
            ("STOP", _) => self.tell(|seen| seen.stopped = true),
            ("MIGRATION", Some("active")) => self.tell(|seen| seen.active = true),
            ("MIGRATION", Some(POST_COPY_ACTIVE)) => {
                self.ask_figures();
                self.tell(|seen| (seen.switched, seen.paused) = (true, false));
            }
            ("MIGRATION", Some(POST_COPY_PAUSED)) => self.tell(|seen| seen.paused = true),
            ("MIGRATION", Some("completed")) => self.tell(|seen| seen.over = Some(Ok(()))),
            ("MIGRATION", Some(status @ ("failed" | "cancelled"))) => {
                let info = self.qmp.migration_info().unwrap_or_default();
                let text = words_of_failure(status, info.error_desc.as_deref());
                self.tell(|seen| seen.over = Some(Err(text)));
            }
            _ => {}
        }
    }

    fn ask_figures(&mut self) {
        if self.qmp.is_behind() {
            return;
        }
        if let Ok(figures) = self.qmp.migration_info() {
            if let Task::Resume { .. } = self.task {
                self.on_resumed_status(&figures.status);
            }
            self.tell(|seen| seen.figures = Some(figures));
        }
    }

    /// A QEMU whose migration was begun by somebody else may tell no events, and cannot be told to now.
    fn on_resumed_status(&mut self, status: &str) {
        match status {
            POST_COPY_ACTIVE => self.tell(|seen| seen.switched = true),
            POST_COPY_PAUSED if lock(&self.seen).switched => self.tell(|seen| seen.paused = true),
            "completed" => self.tell(|seen| seen.over = Some(Ok(()))),
            _ => {}
        }
    }

    fn obey(&mut self, order: Order) -> Result<(), String> {
        match order {
            Order::Cancel => self.cancel().map(drop),
            Order::Undo => self.undo(),
            Order::Settle(process, in_touch) => {
                let released = self.settle(process.as_deref(), in_touch);
                let over = match &released {
                    Released::Running => Ok(()),
                    Released::NeverRan(text) | Released::Lost(text) => Err(text.clone()),
                };
                self.tell(|seen| (seen.over, seen.released) = (Some(over), Some(released)));
                Ok(())
            }
            Order::SwitchToPostCopy => {
                self.told_to_switch = true;
                self.qmp.migrate_start_postcopy().map_err(|error| error.to_string())
            }
            Order::AwaitSwitch => self.await_switch(),
            Order::SetDowntime(limit) => {
                let wanted = json!({ "downtime-limit": downtime_ms(limit) });
                self.qmp.set_parameters(wanted).map_err(|error| error.to_string())
            }
        }
    }

    /// QEMU takes the order at once, and follows it a little later.
    fn await_switch(&mut self) -> Result<(), String> {
        let until = Instant::now() + SWITCHING_TIME;
        while self.told_to_switch && Instant::now() < until {
            let info = self.qmp.migration_info().map_err(|error| error.to_string())?;
            if info.status != "active" {
                let switched = info.status == POST_COPY_ACTIVE;
                self.tell(|seen| seen.switched |= switched);
                break;
            }
            std::thread::sleep(TICK);
        }
        Ok(())
    }

    fn cancel(&mut self) -> Result<MigrationInfo, String> {
        let text = |error: QmpError| error.to_string();
        let info = self.qmp.migration_info().map_err(text)?;
        if !info.is_over() {
            self.qmp.migrate_cancel().map_err(text)?;
        }
        Ok(info)
    }

    /// Ends a migration that is under way, and lets a guest that ran run again.
    fn undo(&mut self) -> Result<(), String> {
        let text = |error: QmpError| error.to_string();
        let deadline = Instant::now() + UNDO_TIMEOUT;
        let mut info = self.cancel()?;
        while !info.is_over() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
            info = self.qmp.migration_info().map_err(text)?;
        }
        if info.status == "failed" {
            std::thread::sleep(CLEARING_TIME);
        }
        self.restore();
        let state = self.qmp.status().map_err(text)?;
        let paused = matches!(
            state.status.as_str(),
            "postmigrate" | "finish-migrate" | "paused" | "colo" | "suspended"
        );
        if self.ran && !state.running && paused {
            self.qmp.cont().map_err(text)?;
        }
        Ok(())
    }

    /// Waits for the arrived guest. QEMU's word counts, or its end; that the conversation broke says
    /// nothing of the guest. As long as that had not broken, QEMU's end after its last word means
    /// that the guest never ran.
    fn settle(&mut self, process: Option<&Process>, mut in_touch: bool) -> Released {
        loop {
            let seen = lock(&self.seen).clone();
            if let Some(over) = seen.over.filter(|_| !seen.lost) {
                return match over {
                    Ok(()) => Released::Running,
                    // It was let run, and then failed.
                    Err(text) if self.resumed => Released::Lost(text),
                    Err(text) => Released::NeverRan(text),
                };
            }
            if seen.paused {
                let text = "QEMU at the destination has stopped taking its stream, and is paused in post-copy";
                return Released::Lost(text.into());
            }
            if self.given_up.load(Ordering::Relaxed) {
                return Released::Lost("it was given up".into());
            }
            let broke = match self.look_for_guest() {
                Ok(is_asked) => {
                    in_touch |= is_asked;
                    continue;
                }
                // One that is slow to answer may still start the guest.
                Err(_) if !self.qmp.is_broken() => continue,
                Err(error) => error.to_string(),
            };
            // What it said while something else was asked: it may have let the guest run, and then ended.
            if self.take_told() {
                continue;
            }
            let patience = if in_touch { ENDING_TIME } else { RECONNECT_PAUSE };
            if self.qemu_ends_within(process, patience) {
                let text = format!("QEMU at the destination has ended: {broke}");
                let never_ran = in_touch && !self.resumed;
                return if never_ran { Released::NeverRan(text) } else { Released::Lost(text) };
            }
            in_touch = false;
            let is_there = self.qmp.reconnect().is_ok();
            // Who answers may be another, that was started since.
            if self.qemu_ends_within(process, Duration::ZERO) {
                return Released::Lost(format!("QEMU at the destination has ended: {broke}"));
            }
            if is_there {
                self.tell(|seen| (seen.over, seen.lost) = (None, false));
            }
        }
    }

    /// Looks at what QEMU has told already; whether there was anything.
    fn take_told(&mut self) -> bool {
        let mut any = false;
        while let Ok(Some(event)) = self.qmp.next_event(Duration::ZERO) {
            self.on_event(&event.name, &event.data);
            any = true;
        }
        any
    }

    /// Sees what QEMU says of the arrived guest. True: it was asked, and so is in touch.
    fn look_for_guest(&mut self) -> Result<bool, QmpError> {
        if let Some(event) = self.qmp.next_event(Duration::from_millis(200))? {
            self.on_event(&event.name, &event.data);
            return Ok(false);
        }
        // Its main loop may wait for a page, which is no reason to wait for it.
        let is_in_halves = lock(&self.seen).restored || self.task_is_recovery();
        let info = match is_in_halves {
            true if self.qmp.is_behind() => return Ok(false),
            true => self.qmp.migration_info_within(SHORT_PATIENCE)?,
            false => self.qmp.migration_info()?,
        };
        match info.status.as_str() {
            "completed" => self.tell(|seen| seen.over = Some(Ok(()))),
            status @ ("failed" | "cancelled") => {
                let text = words_of_failure(status, info.error_desc.as_deref());
                self.tell(|seen| seen.over = Some(Err(text)));
            }
            _ if self.awaits_restoring() => self.look_whether_restored()?,
            _ => {}
        }
        Ok(true)
    }

    fn awaits_restoring(&self) -> bool {
        let may_switch = matches!(self.task, Task::Receive { post_copy: true, .. });
        may_switch && !lock(&self.seen).restored
    }

    /// A guest that does not run by itself says nothing when it could.
    fn look_whether_restored(&mut self) -> Result<(), QmpError> {
        let state = self.qmp.status()?;
        if state.status != "inmigrate" {
            self.resumed |= state.running;
            self.tell(|seen| seen.restored = true);
        }
        Ok(())
    }

    /// Whether QEMU has ended or does so in that time. Where its process is out of sight, nobody who
    /// listens at its socket stands for that.
    fn qemu_ends_within(&self, process: Option<&Process>, patience: Duration) -> bool {
        match process {
            Some(process) => process.ends_within(patience),
            None => {
                std::thread::sleep(patience.min(RECONNECT_PAUSE));
                self.qmp.is_refused()
            }
        }
    }

    /// Puts back what was changed, once it may be changed again.
    fn restore(&mut self) {
        for setting in std::mem::take(&mut self.before) {
            // A QEMU that has ended needs nothing put back.
            let _ = match setting {
                Setting::Capability(name, on) => self.qmp.set_capabilities(&[(&name, on)]),
                Setting::Parameters(values) => self.qmp.set_parameters(Value::Object(values)),
            };
        }
    }

    fn tell(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut lock(&self.seen));
        (self.on_news)();
    }
}

fn words_of_failure(status: &str, words: Option<&str>) -> String {
    match words {
        Some(words) => format!("QEMU's migration is {status}: {words}"),
        None => format!("QEMU's migration is {status}"),
    }
}

/// QEMU takes 0 to 2000 seconds.
fn downtime_ms(limit: Duration) -> u64 {
    u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).clamp(1, 2_000_000)
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;

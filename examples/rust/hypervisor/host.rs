//! The node, the guest of the moment, and its way: run, leave, arrive, run on.

use crate::console::Console;
use crate::exit;
use crate::guest::{Counters, Guest, Kind};
use crate::library;
use crate::options::{Mode, Options};
use crate::program::Proof;
use crate::verify::{self, Verification};
use dwcp::migration::{CodecPolicy, MigrationOptions, Owner, Report};
use dwcp::runtime::control::{ControlOptions, ControlServer, serve_control};
use dwcp::{Migration, Node, NodeOptions, SecurityOptions, Status};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

static MUST_STOP: AtomicBool = AtomicBool::new(false);
const FOREVER: Duration = Duration::from_secs(1_000_000_000);
const TICK: Duration = Duration::from_millis(100);

/// Why the program ends early: its exit code; the reason was said.
type Step<T = ()> = Result<T, i32>;

struct Host<'a> {
    /// Serves the command line until it is dropped.
    _control: Option<ControlServer>,
    options: &'a Options,
    console: Console,
    guest: Arc<Guest>,
    node: Node,
    migration: Option<Migration>,
    stopped_at: Arc<Mutex<Option<Counters>>>,
    arrival: Arc<Mutex<Option<Verification>>>,
    sent: Option<Report>,
    received: Option<Report>,
    arrival_proof: Option<Proof>,
    later_proof: Option<Proof>,
}

/// Does what the options say; the exit code.
pub fn run(options: &Options) -> i32 {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let handler = on_stop as extern "C" fn(libc::c_int) as libc::sighandler_t;
        // SAFETY: the handler only sets a flag.
        unsafe { libc::signal(signal, handler) };
    }
    let mut console = Console::new(options);
    match Host::new(options, &mut console) {
        Ok(mut host) => {
            let code = host.lead().err().unwrap_or(exit::FINE);
            host.node.stop();
            host.print_json(code);
            code
        }
        Err(text) => {
            console.say(text);
            exit::SETUP
        }
    }
}

extern "C" fn on_stop(_signal: libc::c_int) {
    MUST_STOP.store(true, Ordering::Relaxed);
}

fn must_stop() -> bool {
    MUST_STOP.load(Ordering::Relaxed)
}

/// A guest as the options want it; says why it is no KVM guest.
pub fn open_guest(options: &Options, console: &mut Console) -> Result<Guest, String> {
    let (guest, reason) =
        Guest::for_options(options).map_err(|error| format!("no guest: {error}"))?;
    if let Some(reason) = reason {
        let how = "the guest runs as a thread, the kernel tracks its writes";
        console.say(format!("no /dev/kvm ({reason}): {how}"));
    }
    Ok(guest)
}

impl<'a> Host<'a> {
    fn new(options: &'a Options, console: &mut Console) -> Result<Self, String> {
        let guest = open_guest(options, console)?;
        console.guest(&guest, options);
        let (listen, state_dir) = (options.listen, options.state_dir.clone());
        let security = match options.identity.clone() {
            Some(identity_dir) => SecurityOptions::Tls { identity_dir, allowed_peers: Vec::new() },
            None => SecurityOptions::Plain,
        };
        let node =
            Node::start(NodeOptions { listen, state_dir, security, ..NodeOptions::default() });
        let node = node.map_err(|error| format!("starting a node: {error}"))?;
        if let Some(address) = node.local_address() {
            console.say(format!("listening on {address}"));
        }
        let control = match &options.listen_control {
            Some(path) => {
                let served = serve_control(&node, path, ControlOptions::default());
                let served = served.map_err(|error| format!("the control socket: {error}"))?;
                console.say(format!("control socket {}", path.display()));
                Some(served)
            }
            None => None,
        };
        Ok(Self {
            _control: control,
            options,
            console: Console::new(options),
            guest: Arc::new(guest),
            node,
            migration: None,
            stopped_at: Arc::default(),
            arrival: Arc::default(),
            sent: None,
            received: None,
            arrival_proof: None,
            later_proof: None,
        })
    }

    fn lead(&mut self) -> Step {
        if self.options.mode == Mode::Destination {
            self.receive()?;
            let goes_on = self.options.to.is_some() || self.options.stay;
            return if goes_on { self.send(Duration::ZERO) } else { Ok(()) };
        }
        let booted = self.guest.boot(self.options.content, self.options);
        if let Err(error) = booted.and_then(|()| self.guest.wait_until_filled()) {
            return self.fail(exit::SETUP, format!("the guest does not run: {error}"));
        }
        self.send(Duration::from_secs_f64(self.options.after_seconds))?;
        if !self.options.await_return || must_stop() {
            return Ok(());
        }
        match open_guest(self.options, &mut self.console) {
            Ok(guest) => self.guest = Arc::new(guest),
            Err(error) => return self.fail(exit::SETUP, error),
        }
        self.receive()
    }

    fn fail<T>(&mut self, code: i32, line: impl std::fmt::Display) -> Step<T> {
        self.console.say(line);
        Err(code)
    }

    /// Waits so long, less if a migration ends or the program is to stop; the report.
    fn attend(&mut self, time: Duration) -> Option<Report> {
        let start = Instant::now();
        loop {
            let left = time.saturating_sub(start.elapsed());
            if must_stop() || left.is_zero() {
                return None;
            }
            if self.migration.is_none() {
                self.migration = self.node.migrations().into_iter().find(|each| self.is_new(each));
            }
            let Some(migration) = self.migration.clone() else {
                std::thread::sleep(left.min(TICK));
                continue;
            };
            if let Some(report) = migration.wait(Some(left.min(TICK))) {
                return Some(report);
            }
            self.console.progress(&migration.progress());
        }
    }

    /// Whether this is no migration that the program has dealt with.
    fn is_new(&self, migration: &Migration) -> bool {
        let old = [&self.sent, &self.received].map(|report| report.as_ref().map(|each| each.id));
        !old.contains(&Some(migration.id()))
    }

    fn migration_options(&self) -> MigrationOptions {
        let options = self.options;
        let defaults = MigrationOptions::default();
        let limit = options.bandwidth_mib_per_s << 20;
        MigrationOptions {
            streams: options.streams,
            codec: options.codec().ok().flatten().map_or(defaults.codec, CodecPolicy::Fixed),
            max_downtime: Duration::from_millis(options.max_downtime_ms),
            deadline: (options.deadline_seconds > 0.0)
                .then(|| Duration::from_secs_f64(options.deadline_seconds)),
            bandwidth_limit_bytes_per_s: (limit != 0).then_some(limit),
            throttle: !options.no_throttle,
            ..defaults
        }
    }

    /// Says how a migration ended.
    fn show_end(&mut self, report: &Report) {
        self.migration = None;
        let line = match report.status {
            Status::Ok => format!(
                "migrated in {:.1} ms, the guest stood still for {:.1} ms: {} MiB of memory, \
                 {:.1} MiB on the wire, {} passes, {} reconnects, digest {}",
                report.total_ms,
                report.downtime_ms,
                report.ram_bytes >> 20,
                report.wire_bytes as f64 / f64::from(1 << 20),
                report.passes,
                report.reconnects,
                report.digest
            ),
            status => format!("migration failed: {}: {}", status.name(), report.reason),
        };
        self.console.say(line);
    }

    /// Runs the guest until it has moved to `--to`, or until the program is to stop.
    fn send(&mut self, after: Duration) -> Step {
        let source = library::source(&self.guest, &self.stopped_at);
        if let Err(error) = self.node.add_source(&self.options.name, source) {
            return self.fail(exit::SETUP, format!("registering the guest: {error}"));
        }
        if self.options.to.is_none() {
            let name = &self.options.name;
            self.console.say(format!("ready: guest {name} stays until it is told to go"));
        }
        let wait = if self.options.to.is_some() { after } else { FOREVER };
        let report = match (self.attend(wait), &self.options.to) {
            (Some(report), _) => report,
            (None, Some(to)) if !must_stop() => self.migrate(&to.clone())?,
            _ => return Ok(()), // the guest ends with the program
        };
        self.show_end(&report);
        let mut owner = report.owner;
        self.sent = Some(report);
        while owner == Owner::Source && self.options.to.is_none() {
            // Somebody's attempt failed; the next one may come.
            if let Err(code) = self.go_on_here()
                && code != exit::FAILED
            {
                return Err(code);
            }
            let Some(report) = self.attend(FOREVER) else { return Ok(()) };
            self.show_end(&report);
            owner = report.owner;
            self.sent = Some(report);
        }
        let home = self.options.to.clone().unwrap_or_else(|| "its new home".into());
        match owner {
            Owner::Source => self.go_on_here(),
            Owner::InDoubt => {
                let line = format!("in doubt: only {home} knows who has the guest");
                self.fail(exit::IN_DOUBT, format!("{line}; it stays stopped here"))
            }
            Owner::Destination => {
                let stopped = self.stopped_at();
                let (writes, ticks) = (stopped.writes, stopped.ticks);
                let line = format!("the guest stopped at write {writes}, tick {ticks}");
                self.console.say(format!("{line}; it now runs at {home}"));
                if self.options.listen_control.is_some() {
                    // Whoever gave the order still wants to hear how it ended.
                    std::thread::sleep(Duration::from_secs(1));
                }
                Ok(())
            }
        }
    }

    fn stopped_at(&self) -> Counters {
        self.stopped_at.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or_default()
    }

    fn migrate(&mut self, to: &str) -> Step<Report> {
        self.console.say(format!("migrating to {to}"));
        match self.node.migrate(&self.options.name, to, self.migration_options()) {
            Ok(migration) => self.migration = Some(migration),
            Err(error) => {
                self.console.say(format!("starting the migration: {error}"));
                self.go_on_here()?;
            }
        }
        if let Some(report) = self.attend(FOREVER) {
            return Ok(report);
        }
        MUST_STOP.store(false, Ordering::Relaxed); // a second signal ends the program at once
        self.console.say("cancelling");
        if let Some(migration) = &self.migration {
            migration.cancel();
        }
        self.attend(FOREVER).ok_or(exit::FAILED)
    }

    /// After a failed migration: the guest is here, whole, and runs.
    fn go_on_here(&mut self) -> Step {
        let before = self.guest.counters();
        std::thread::sleep(Duration::from_secs_f64(self.options.run_seconds));
        let runs = self.guest.gets_on(before);
        let how = if runs { "goes on" } else { "STANDS STILL" };
        self.console
            .say(format!("the guest {how} here, at write {}", self.guest.counters().writes));
        let holds = self.prove_again("after the failure");
        Err(if holds && runs { exit::FAILED } else { exit::PROOF })
    }

    /// Waits for a guest, proves that it is whole, runs it and proves it again.
    fn receive(&mut self) -> Step {
        let Options { verify, corrupt, .. } = *self.options;
        let sink = library::sink(&self.guest, verify, corrupt, &self.arrival);
        if let Err(error) = self.node.add_destination(&self.options.name, sink) {
            return self.fail(exit::SETUP, format!("registering the guest: {error}"));
        }
        self.console.say(format!("waiting for guest {}", self.options.name));
        loop {
            let report = self.attend(FOREVER).ok_or(exit::FAILED)?; // none: told to stop
            self.show_end(&report);
            let is_here = report.owner == Owner::Destination;
            self.received = Some(report);
            if is_here {
                return self.prove_arrival();
            }
            self.console.say(format!("still waiting for guest {}", self.options.name));
        }
    }

    fn prove_arrival(&mut self) -> Step {
        let arrival = self.arrival.lock().unwrap_or_else(PoisonError::into_inner).take();
        let proof = arrival.map(Verification::result).unwrap_or_default();
        self.console.proof("at arrival", &proof);
        let saved = self.guest.loaded();
        let (writes, ticks) = (saved.writes, saved.ticks);
        self.console.say(format!("the guest goes on from write {writes}, tick {ticks}"));
        std::thread::sleep(Duration::from_secs_f64(self.options.run_seconds));
        let runs = self.guest.gets_on(saved);
        let holds = self.prove_again("after running on") && proof.holds;
        self.arrival_proof = Some(proof);
        let how = if runs { "runs" } else { "DOES NOT RUN" };
        let since = self.guest.counters().writes.saturating_sub(saved.writes);
        self.console.say(format!("the guest {how}: {since} writes since it arrived"));
        if holds && runs { Ok(()) } else { Err(exit::PROOF) }
    }

    fn prove_again(&mut self, when: &str) -> bool {
        match verify::running(&self.guest) {
            Ok(proof) => {
                self.console.proof(when, &proof);
                let holds = proof.holds;
                self.later_proof = Some(proof);
                holds
            }
            Err(error) => {
                self.console.say(format!("the guest failed: {error}"));
                false
            }
        }
    }

    fn print_json(&self, code: i32) {
        if !self.options.json {
            return;
        }
        let stopped = *self.stopped_at.lock().unwrap_or_else(PoisonError::into_inner);
        let object = serde_json::json!({
            "mode": if self.options.mode == Mode::Source { "source" } else { "destination" },
            "kind": if self.guest.kind == Kind::Kvm { "kvm" } else { "thread" },
            "exit_code": code,
            "stopped_at": stopped.map(|at| serde_json::json!({"writes": at.writes, "ticks": at.ticks})),
            "sent": self.sent,
            "received": self.received,
            "arrival_proof": self.arrival_proof,
            "later_proof": self.later_proof,
        });
        println!("{object}");
    }
}

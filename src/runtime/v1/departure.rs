//! A guest that leaves for a v1 peer: it is paused, its whole memory is sent, and it stays paused.
//!
//! ```text
//! connect     the guest runs
//! final_pass  paused; packed, and all of it sent but the last byte     any failure: it runs on here
//! handover    record: commit sent; the last byte                       from here on: in doubt
//! ```
//! v1 acknowledges nothing. So the guest is never let go, nor let run, once the last byte is out.

use super::cargo::Cargo;
use super::streams::{Gate, Streams};
use crate::Status;
use crate::base::{MemoryLayout, MigrationId, Time, micros};
use crate::encoding::ImageDigest;
use crate::migration::guest::Ending;
use crate::migration::ownership::Mark;
use crate::migration::stats::{PhaseClock, milliseconds};
use crate::migration::{Dialect, Failure, GuestSource, MigrationOptions, V1Options};
use crate::migration::{Owner, Pass, Phase, Progress, Report, ended_event};
use crate::observe::{ConnectionState, EventKind};
use crate::runtime::clock::now;
use crate::runtime::footprint::{Footprint, HASH_BYTES};
use crate::runtime::handle::Handle;
use crate::runtime::journal::Journal;
use crate::runtime::lock::lock;
use crate::runtime::modes::Modes;
use crate::runtime::outcome::Outcome;
use crate::runtime::record_keeper::RecordKeeper;
use crate::runtime::sys::spawn_named;
use std::io;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// What a departure starts with.
pub struct DepartureSetup {
    /// The migration.
    pub id: MigrationId,
    /// The guest's name.
    pub guest: String,
    /// The peer, `HOST:PORT`.
    pub to: String,
    /// What the caller set.
    pub options: MigrationOptions,
    /// What the node is set to.
    pub v1: V1Options,
}

/// A departure, shared by its threads and its handles.
pub struct Departure {
    setup: DepartureSetup,
    layout: MemoryLayout,
    /// Let go when all is over, though the migration itself is remembered.
    guest: Mutex<Option<Arc<dyn GuestSource>>>,
    /// Let go likewise.
    digest: Mutex<Arc<ImageDigest>>,
    journal: Arc<Journal>,
    modes: Arc<Modes>,
    gate: Arc<Gate>,
    state: Mutex<State>,
    outcome: Outcome,
}

struct State {
    clock: PhaseClock,
    /// The other ends of the connections that were made.
    peers: Vec<String>,
    paused_at: Option<Time>,
    /// The last byte may be out.
    committed: bool,
    wire_bytes: u64,
    pass: Option<Pass>,
}

impl Departure {
    /// A departure that has not started.
    pub fn new(
        setup: DepartureSetup,
        guest: Arc<dyn GuestSource>,
        modes: Arc<Modes>,
        journal: Arc<Journal>,
    ) -> Arc<Self> {
        let (layout, options) = (guest.layout(), &setup.options);
        let digest = Arc::new(ImageDigest::new(layout.page_count()));
        let rate = options.bandwidth_limit_bytes_per_s;
        let gate = Gate::new(rate, options.stall_timeout, options.deadline);
        let clock = PhaseClock::new(now());
        let state = State {
            clock,
            peers: Vec::new(),
            paused_at: None,
            committed: false,
            wire_bytes: 0,
            pass: None,
        };
        let (guest, digest) = (Mutex::new(Some(guest)), Mutex::new(digest));
        let state = Mutex::new(state);
        let outcome = Outcome::default();
        Arc::new(Self { setup, layout, guest, digest, journal, modes, gate, state, outcome })
    }

    /// Starts the driver. `on_end` runs on its thread when all is over.
    ///
    /// # Errors
    /// The thread cannot be made.
    pub fn start(
        self: &Arc<Self>,
        keeper: RecordKeeper,
        on_end: Box<dyn FnOnce(&Report) + Send>,
    ) -> io::Result<JoinHandle<()>> {
        let driver = self.clone();
        spawn_named("dwcp-v1-send", move || driver.drive(keeper, on_end))
    }

    fn drive(&self, mut keeper: RecordKeeper, on_end: Box<dyn FnOnce(&Report) + Send>) {
        let guest = lock(&self.guest).take();
        let Some(guest) = guest else { return };
        let (owner, ending, failure) = match self.send(&guest, &mut keeper) {
            Ok(evidence) => {
                let failure = Failure::new(Status::InDoubt, self.in_doubt(&evidence));
                (Owner::InDoubt, Ending::Undecided, failure)
            }
            Err(failure) => (Owner::Source, Ending::Keep, self.retreat(&guest, failure)),
        };
        self.gate.release();
        let sent = format!("{} bytes were sent in all", self.gate.sent_bytes());
        self.tell(ConnectionState::Closed, &sent);
        let downtime = lock(&self.state).paused_at.map_or(Duration::ZERO, |at| now() - at);
        let finished = guest.finish(ending).err();
        let reason = finished.map_or(String::new(), |error| format!("; {error}"));
        let failure = Failure::new(failure.status, failure.reason + &reason);
        drop(guest);
        self.enter(Phase::Ended);
        let times = (lock(&self.state).clock.elapsed(now()), downtime);
        let report = self.report_of(owner, &failure, times);
        *lock(&self.digest) = Arc::new(ImageDigest::new(0));
        self.outcome.conclude(report, keeper, on_end);
        // Last, so that whoever hears of the end finds the report.
        self.publish(ended_event(Some(&failure), owner, times));
    }

    /// Sends the image; gives what TCP knows of its fate.
    fn send(
        &self,
        guest: &Arc<dyn GuestSource>,
        keeper: &mut RecordKeeper,
    ) -> Result<String, Failure> {
        keeper.write(Mark::SourceRuns)?;
        let streams = self.connect()?;
        // Whoever gave up meanwhile need not see his guest stand still for it.
        self.gate.check()?;
        self.enter(Phase::FinalPass);
        let pausing = now();
        guest.pause()?;
        lock(&self.state).paused_at = Some(pausing);
        let (layout, digest) = (self.layout.clone(), lock(&self.digest).clone());
        let cargo = Arc::new(Cargo::load(guest.clone(), layout, digest, &self.setup.v1)?);
        lock(&self.state).wire_bytes = cargo.wire_bytes();
        let began = now();
        let last = streams.send_all_but_last(&cargo)?;
        self.end_pass(&cargo, began);
        self.commit()?;
        self.enter(Phase::Handover);
        keeper.write(Mark::CommitSent)?;
        if let Err(failure) = streams.send_last(&last) {
            // The record must not say more than is true, should this process end now.
            let _ = keeper.write(Mark::SourceRuns);
            return Err(failure);
        }
        Ok(streams.close())
    }

    fn connect(&self) -> Result<Streams, Failure> {
        let (to, dialect) = (self.setup.to.as_str(), self.setup.v1.dialect);
        let wanted = self.setup.options.streams;
        let tune = |socket: &_| drop(self.modes.tune(to, socket));
        let streams = Streams::connect(to, (dialect, wanted), self.gate.clone(), &tune)?;
        lock(&self.state).peers = streams.peers().collect();
        self.tell(ConnectionState::Open, "made by this node");
        Ok(streams)
    }

    /// An event for each connection that was made.
    fn tell(&self, state: ConnectionState, detail: &str) {
        let (peers, dialect) = (lock(&self.state).peers.clone(), self.setup.v1.dialect.name());
        for peer in peers {
            let detail = detail.to_string();
            self.publish(EventKind::V1Connection { peer, dialect, state, detail });
        }
    }

    /// From here on nothing can be cancelled.
    fn commit(&self) -> Result<(), Failure> {
        let mut state = lock(&self.state);
        self.gate.check()?;
        state.committed = true;
        Ok(())
    }

    /// Lets the guest run on here.
    fn retreat(&self, guest: &Arc<dyn GuestSource>, failure: Failure) -> Failure {
        lock(&self.state).committed = false;
        if lock(&self.state).paused_at.is_none() {
            return failure;
        }
        match guest.resume() {
            Ok(()) => failure,
            Err(error) => {
                let text = format!("{}; and the guest could not go on: {error}", failure.reason);
                Failure::new(failure.status, text)
            }
        }
    }

    fn in_doubt(&self, evidence: &str) -> String {
        let DepartureSetup { guest, to, .. } = &self.setup;
        format!(
            "the whole image was sent to v1 peer {to}, and v1 acknowledges nothing ({evidence}): \
             guest {guest:?} stands paused here until you know whether the peer has it"
        )
    }

    fn enter(&self, phase: Phase) {
        let previous = lock(&self.state).clock.enter(phase, now());
        self.publish(EventKind::Phase { phase: phase.name(), previous_us: micros(previous) });
    }

    fn publish(&self, event: EventKind) {
        self.journal.publish(Some(self.setup.id), Some(&self.setup.guest), event);
    }

    fn end_pass(&self, cargo: &Cargo, began: Time) {
        let mut state = lock(&self.state);
        let (ended, pages) = (now(), self.layout.page_count());
        let start_us = micros(state.clock.elapsed(began));
        let duration_us = micros(ended.since(began));
        let (wire_bytes, sent_bytes) = (cargo.wire_bytes(), self.gate.sent_bytes());
        let rate = u128::from(sent_bytes) * 1_000_000 / u128::from(duration_us.max(1));
        let bandwidth_bytes_per_s = u64::try_from(rate).unwrap_or(u64::MAX);
        let pass = Pass {
            pass: 1,
            pages,
            wire_bytes,
            start_us,
            duration_us,
            bandwidth_bytes_per_s,
            ..Pass::default()
        };
        state.pass = Some(pass.clone());
        drop(state);
        self.publish(EventKind::PassCompleted { pass });
    }

    fn report_of(
        &self,
        owner: Owner,
        failure: &Failure,
        (total, downtime): (Duration, Duration),
    ) -> Report {
        let (state, digest) = (lock(&self.state), lock(&self.digest).value());
        let is_whole = owner == Owner::InDoubt;
        let pages = self.layout.page_count();
        Report {
            post_copy: None,
            id: self.setup.id,
            guest: self.setup.guest.clone(),
            side: "source",
            status: failure.status,
            reason: failure.reason.clone(),
            owner,
            total_ms: milliseconds(total),
            downtime_ms: milliseconds(downtime),
            phases: state.clock.milliseconds(),
            ram_bytes: self.layout.total_bytes(),
            wire_bytes: self.gate.sent_bytes(),
            rdma_bytes: 0,
            zero_pages: 0,
            duplicate_pages: 0,
            delta_pages: 0,
            full_pages: if is_whole { pages } else { 0 },
            passes: state.pass.iter().count() as u32,
            reconnects: 0,
            digest: if is_whole { digest.to_string() } else { String::new() },
            pass_details: state.pass.iter().cloned().collect(),
        }
    }
}

impl Handle for Departure {
    fn id(&self) -> MigrationId {
        self.setup.id
    }

    fn guest(&self) -> &str {
        &self.setup.guest
    }

    fn progress(&self) -> Progress {
        let (state, at) = (lock(&self.state), now());
        let (pages, sent) = (self.layout.page_count(), self.gate.sent_bytes());
        let done = u128::from(sent) * u128::from(pages) / u128::from(state.wire_bytes.max(1));
        let bandwidth_bytes_per_s =
            state.pass.as_ref().map_or(0, |pass| pass.bandwidth_bytes_per_s);
        Progress {
            phase: state.clock.phase(),
            pass: u32::from(state.paused_at.is_some()),
            ram_bytes: self.layout.total_bytes(),
            pages,
            remaining_pages: pages.saturating_sub(u64::try_from(done).unwrap_or(pages)),
            wire_bytes: sent,
            rdma_bytes: 0,
            bandwidth_bytes_per_s,
            dirty_rate_bytes_per_s: 0,
            predicted_downtime_us: 0,
            elapsed_us: micros(state.clock.elapsed(at)),
            streams: if self.outcome.get().is_some() { 0 } else { self.gate.stream_count() as u32 },
            reconnects: 0,
            throttle_percent: 0,
        }
    }

    fn owner(&self) -> Owner {
        match self.outcome.get() {
            Some(report) => report.owner,
            None if lock(&self.state).committed => Owner::InDoubt,
            None => Owner::Source,
        }
    }

    fn report(&self) -> Option<Report> {
        self.outcome.get()
    }

    fn wait(&self, timeout: Duration) -> Option<Report> {
        self.outcome.wait(timeout)
    }

    fn cancel(&self) {
        let state = lock(&self.state);
        if !state.committed {
            self.gate.shut(Failure::new(Status::Cancelled, "cancelled by the caller"));
        }
    }

    fn set_bandwidth_limit(&self, rate_bytes_per_s: Option<u64>) {
        self.gate.set_rate(rate_bytes_per_s);
    }

    fn footprint(&self) -> Footprint {
        if self.outcome.get().is_some() {
            return Footprint::default();
        }
        let packet = match self.setup.v1.dialect {
            Dialect::F16 => lock(&self.state).wire_bytes,
            _ => 0,
        };
        Footprint {
            under_way_bytes: packet,
            page_table_bytes: self.layout.page_count() * HASH_BYTES,
            ..Footprint::default()
        }
    }
}

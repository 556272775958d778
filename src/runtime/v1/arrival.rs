//! A guest that comes from a v1 peer: chunks from any of its connections, put into a guest that stands
//! still and goes on standing still.
//!
//! v1 says neither whose guest it sends, nor whether it has stopped it, nor that it lets go. So a whole
//! image is in doubt here, and the guest is not started.

use super::intake::Intake;
use crate::Status;
use crate::base::{MemoryLayout, MigrationId, Time, micros};
use crate::encoding::ImageDigest;
use crate::migration::ended_event;
use crate::migration::guest::Ending;
use crate::migration::ownership::Mark;
use crate::migration::stats::{PhaseClock, milliseconds};
use crate::migration::{Failure, GuestError, GuestSink, Owner, Phase, Progress, Report, V1Options};
use crate::observe::EventKind;
use crate::runtime::clock::now;
use crate::runtime::footprint::{Footprint, HASH_BYTES};
use crate::runtime::handle::Handle;
use crate::runtime::journal::Journal;
use crate::runtime::lock::{lock, wait};
use crate::runtime::outcome::Outcome;
use crate::runtime::record_keeper::RecordKeeper;
use crate::runtime::sys::spawn_named;
use crate::runtime::v1::{V1Error, image};
use crate::wire::v1::hde::{Content, HdeError, Packet};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often the driver looks at the clock.
const TICK: Duration = Duration::from_millis(100);
/// How long a peer may be without any connection: its next ones may wait to be accepted.
const GRACE: Duration = Duration::from_secs(2);

/// What an arrival starts with.
pub struct ArrivalSetup {
    /// The migration; v1 has no such number, so it is ours.
    pub id: MigrationId,
    /// The guest's name.
    pub guest: String,
    /// The peer.
    pub peer: IpAddr,
    /// What the node is set to.
    pub v1: V1Options,
}

/// An arrival, shared by the port's threads, its own and its handles.
pub struct Arrival {
    setup: ArrivalSetup,
    layout: MemoryLayout,
    /// Let go when all is over, though the migration itself is remembered.
    guest: Mutex<Option<Arc<dyn GuestSink>>>,
    /// Let go likewise.
    digest: Mutex<Arc<ImageDigest>>,
    journal: Arc<Journal>,
    state: Mutex<State>,
    news: Condvar,
    outcome: Outcome,
}

struct State {
    clock: PhaseClock,
    intake: Intake,
    connections: usize,
    /// Since when there is none.
    alone_since: Option<Time>,
    /// When the last chunk came.
    moved_at: Time,
    /// Connections that write into the guest.
    storing: usize,
    stage: Stage,
}

/// A connection that writes into the guest, which is not let go of meanwhile.
struct Storing<'a>(&'a Arrival);

/// How far it is.
enum Stage {
    Receiving,
    /// A packet is whole.
    Packed(Vec<u8>),
    /// All memory is in the guest.
    Stored,
    Failed(Failure),
}

impl Arrival {
    /// An arrival that has not started, with so many connections.
    ///
    /// # Errors
    /// The guest is too large for v1, or for what the node is set to.
    pub fn new(
        setup: ArrivalSetup,
        guest: Arc<dyn GuestSink>,
        connections: usize,
        journal: Arc<Journal>,
    ) -> Result<Arc<Self>, V1Error> {
        let layout = guest.layout();
        let intake = Intake::new(&layout, &setup.v1)?;
        let digest = Arc::new(ImageDigest::new(layout.page_count()));
        let state = State {
            clock: PhaseClock::new(now()),
            intake,
            connections,
            alone_since: None,
            moved_at: now(),
            storing: 0,
            stage: Stage::Receiving,
        };
        let (guest, digest) = (Mutex::new(Some(guest)), Mutex::new(digest));
        let state = Mutex::new(state);
        let (news, outcome) = (Condvar::new(), Outcome::default());
        Ok(Arc::new(Self { setup, layout, guest, digest, journal, state, news, outcome }))
    }

    /// Starts the driver. `on_end` runs on its thread when all is over, and `hang_up` before it.
    ///
    /// # Errors
    /// The thread cannot be made.
    pub fn start(
        self: &Arc<Self>,
        keeper: RecordKeeper,
        hang_up: Box<dyn FnOnce() + Send>,
        on_end: Box<dyn FnOnce(&Report) + Send>,
    ) -> io::Result<JoinHandle<()>> {
        let driver = self.clone();
        spawn_named("dwcp-v1-drive", move || driver.drive(keeper, hang_up, on_end))
    }

    /// Whether it takes anything.
    pub fn is_receiving(&self) -> bool {
        matches!(lock(&self.state).stage, Stage::Receiving)
    }

    /// Where its peer is.
    pub fn peer(&self) -> IpAddr {
        self.setup.peer
    }

    /// Its memory's shape.
    pub fn layout(&self) -> &MemoryLayout {
        &self.layout
    }

    /// The peer has so many connections now.
    pub fn set_connections(&self, count: usize) {
        let mut state = lock(&self.state);
        state.connections = count;
        state.alone_since = (count == 0).then(now);
        drop(state);
        self.news.notify_all();
    }

    /// Takes part in what has come: `act` is shown it, under a lock.
    ///
    /// # Errors
    /// That of `act`, or that nothing is received any more.
    pub fn take_in<T>(
        &self,
        act: impl FnOnce(&mut Intake) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        act(&mut self.receiving()?.intake)
    }

    /// Puts memory into the guest, and then counts it.
    ///
    /// # Errors
    /// The guest's, or that nothing is received any more.
    pub fn store(&self, offset_bytes: u64, bytes: &[u8]) -> Result<(), Failure> {
        let _storing = Storing::begin(self)?;
        self.put(offset_bytes, bytes)?;
        let mut state = lock(&self.state);
        state.moved_at = now();
        if state.intake.settle(bytes.len() as u64) && matches!(state.stage, Stage::Receiving) {
            state.stage = Stage::Stored;
        }
        Ok(())
    }

    /// A chunk of the packet has come; with the last one the packet is whole.
    ///
    /// # Errors
    /// The chunks do not fit together, or nothing is received any more.
    pub fn fill(&self, id: u32, payload: Vec<u8>) -> Result<(), Failure> {
        let mut state = self.receiving()?;
        let packet = state.intake.fill(id, payload)?;
        state.moved_at = now();
        if let Some(packet) = packet {
            state.stage = Stage::Packed(packet);
        }
        drop(state);
        self.news.notify_all();
        Ok(())
    }

    /// Gives up; what is whole stays whole.
    pub fn fail(&self, failure: Failure) {
        let mut state = lock(&self.state);
        if matches!(state.stage, Stage::Receiving) {
            state.stage = Stage::Failed(failure);
        }
        drop(state);
        self.news.notify_all();
    }

    fn receiving(&self) -> Result<MutexGuard<'_, State>, Failure> {
        let state = lock(&self.state);
        match &state.stage {
            Stage::Receiving => Ok(state),
            Stage::Failed(failure) => Err(failure.clone()),
            Stage::Packed(_) | Stage::Stored => {
                Err(Failure::new(Status::BadFrame, "more follows on a whole image"))
            }
        }
    }

    fn drive(
        &self,
        mut keeper: RecordKeeper,
        hang_up: Box<dyn FnOnce() + Send>,
        on_end: Box<dyn FnOnce(&Report) + Send>,
    ) {
        let (owner, ending, mut failure) = match self.receive(&mut keeper) {
            Ok(()) => {
                let failure = Failure::new(Status::InDoubt, self.in_doubt());
                (Owner::InDoubt, Ending::Undecided, failure)
            }
            Err(failure) => {
                // More may come still, where it is the record or the guest that failed.
                lock(&self.state).stage = Stage::Failed(failure.clone());
                (Owner::Source, Ending::Discard, failure)
            }
        };
        hang_up();
        self.wait_for_writers();
        let guest = lock(&self.guest).take();
        if let Some(error) = guest.and_then(|guest| guest.finish(ending).err()) {
            failure.reason += &format!("; {error}");
        }
        self.enter(Phase::Ended);
        let total = lock(&self.state).clock.elapsed(now());
        let report = self.report_of(owner, &failure, total);
        lock(&self.state).intake.forget();
        *lock(&self.digest) = Arc::new(ImageDigest::new(0));
        self.outcome.conclude(report, keeper, on_end);
        // Last, so that whoever hears of the end finds the report.
        self.publish(ended_event(Some(&failure), owner, (total, Duration::ZERO)));
    }

    /// The hypervisor may unmap its guest's memory once it is told that all is over.
    fn wait_for_writers(&self) {
        let mut state = lock(&self.state);
        while state.storing > 0 {
            state = wait(&self.news, state, TICK);
        }
    }

    fn receive(&self, keeper: &mut RecordKeeper) -> Result<(), Failure> {
        keeper.write(Mark::Receiving)?;
        self.enter(Phase::FinalPass);
        if let Some(packet) = self.wait_for_image()? {
            self.enter(Phase::Verify);
            self.unpack(&packet)?;
        }
        let unset = lock(&self.digest).unset_pages();
        if unset > 0 {
            let text = format!("{unset} pages of a whole image did not come");
            return Err(Failure::new(Status::Corrupt, text));
        }
        Ok(keeper.write(Mark::Arrived)?)
    }

    /// Waits until all has come: into the guest, or as a packet.
    fn wait_for_image(&self) -> Result<Option<Vec<u8>>, Failure> {
        let began = now();
        let mut state = lock(&self.state);
        loop {
            match std::mem::replace(&mut state.stage, Stage::Stored) {
                Stage::Stored => return Ok(None),
                Stage::Packed(packet) => return Ok(Some(packet)),
                Stage::Failed(failure) => {
                    state.stage = Stage::Failed(failure.clone());
                    return Err(failure);
                }
                Stage::Receiving => {
                    let late = self.late(&state, began);
                    state.stage = late.map_or(Stage::Receiving, Stage::Failed);
                    if matches!(state.stage, Stage::Receiving) {
                        state = wait(&self.news, state, TICK);
                    }
                }
            }
        }
    }

    /// Why not to wait any longer.
    fn late(&self, state: &State, began: Time) -> Option<Failure> {
        let (at, v1) = (now(), &self.setup.v1);
        let (came, due) = state.intake.progress();
        let so_far = || format!("with {came} of {due} bytes");
        if at.since(began) >= v1.transfer_timeout {
            let text = format!("not whole within {:?}, {}", v1.transfer_timeout, so_far());
            return Some(Failure::new(Status::Timeout, text));
        }
        if state.alone_since.is_some_and(|since| at.since(since) >= GRACE) {
            let text = format!("the v1 peer hung up {}", so_far());
            return Some(Failure::new(Status::ConnectionLost, text));
        }
        let silent = at.since(state.moved_at) >= v1.idle_timeout;
        silent.then(|| {
            let text = format!("no chunk came for {:?}, {}", v1.idle_timeout, so_far());
            Failure::new(Status::PeerStalled, text)
        })
    }

    /// Puts the contents of a packet into the guest.
    fn unpack(&self, packet: &[u8]) -> Result<(), Failure> {
        let corrupt = |error: HdeError| Failure::new(Status::Corrupt, error.to_string());
        let due = self.layout.total_bytes();
        let packet = Packet::decode(packet).map_err(corrupt)?;
        let memory = match packet.unpack(due).map_err(corrupt)? {
            Content::Image(memory) => memory,
            Content::Delta(delta) => {
                let baseline = String::from_utf8_lossy(&delta.baseline_id).into_owned();
                let text = format!(
                    "the v1 peer sent a difference from {baseline:?}, and no hash tells whether \
                     this node holds the same; have it send a whole image"
                );
                return Err(Failure::new(Status::Unsupported, text));
            }
        };
        if memory.len() as u64 != due {
            let text = format!("the image has {} bytes, the guest {due}", memory.len());
            return Err(Failure::new(Status::LayoutMismatch, text));
        }
        Ok(self.put(0, &memory)?)
    }

    fn put(&self, offset_bytes: u64, bytes: &[u8]) -> Result<(), GuestError> {
        let guest = lock(&self.guest).clone();
        let guest = guest.ok_or_else(|| GuestError::new("write_pages", "the migration is over"))?;
        let digest = lock(&self.digest).clone();
        image::store(guest.as_ref(), &self.layout, &digest, offset_bytes, bytes)
    }

    fn in_doubt(&self) -> String {
        let ArrivalSetup { guest, peer, .. } = &self.setup;
        format!(
            "the whole image came from v1 peer {peer}, which does not say whether it has let go: \
             guest {guest:?} stands still here until you know that it does not run there"
        )
    }

    fn enter(&self, phase: Phase) {
        let previous = lock(&self.state).clock.enter(phase, now());
        self.publish(EventKind::Phase { phase: phase.name(), previous_us: micros(previous) });
    }

    fn publish(&self, event: EventKind) {
        self.journal.publish(Some(self.setup.id), Some(&self.setup.guest), event);
    }

    fn report_of(&self, owner: Owner, failure: &Failure, total: Duration) -> Report {
        let (state, digest) = (lock(&self.state), lock(&self.digest).value());
        let is_whole = owner == Owner::InDoubt;
        let pages = self.layout.page_count();
        Report {
            post_copy: None,
            id: self.setup.id,
            guest: self.setup.guest.clone(),
            side: "destination",
            status: failure.status,
            reason: failure.reason.clone(),
            owner,
            total_ms: milliseconds(total),
            // The guest stood still all the time, and still does; v1 does not say since when.
            downtime_ms: 0.0,
            phases: state.clock.milliseconds(),
            ram_bytes: self.layout.total_bytes(),
            wire_bytes: state.intake.progress().0,
            rdma_bytes: 0,
            zero_pages: 0,
            duplicate_pages: 0,
            delta_pages: 0,
            full_pages: if is_whole { pages } else { 0 },
            passes: u32::from(is_whole),
            reconnects: 0,
            digest: if is_whole { digest.to_string() } else { String::new() },
            pass_details: Vec::new(),
        }
    }
}

impl<'a> Storing<'a> {
    fn begin(arrival: &'a Arrival) -> Result<Self, Failure> {
        arrival.receiving()?.storing += 1;
        Ok(Self(arrival))
    }
}

impl Drop for Storing<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).storing -= 1;
        self.0.news.notify_all();
    }
}

impl Handle for Arrival {
    fn id(&self) -> MigrationId {
        self.setup.id
    }

    fn guest(&self) -> &str {
        &self.setup.guest
    }

    fn progress(&self) -> Progress {
        let (state, pages) = (lock(&self.state), self.layout.page_count());
        let (came, due) = state.intake.progress();
        let done = u128::from(came) * u128::from(pages) / u128::from(due.max(1));
        Progress {
            phase: state.clock.phase(),
            pass: 1,
            ram_bytes: self.layout.total_bytes(),
            pages,
            remaining_pages: pages.saturating_sub(u64::try_from(done).unwrap_or(pages)),
            wire_bytes: came,
            rdma_bytes: 0,
            bandwidth_bytes_per_s: 0,
            dirty_rate_bytes_per_s: 0,
            predicted_downtime_us: 0,
            elapsed_us: micros(state.clock.elapsed(now())),
            streams: state.connections as u32,
            reconnects: 0,
            throttle_percent: 0,
        }
    }

    fn owner(&self) -> Owner {
        self.outcome.get().map_or(Owner::Source, |report| report.owner)
    }

    fn report(&self) -> Option<Report> {
        self.outcome.get()
    }

    fn wait(&self, timeout: Duration) -> Option<Report> {
        self.outcome.wait(timeout)
    }

    fn cancel(&self) {
        self.fail(Failure::new(Status::Cancelled, "cancelled at the destination"));
    }

    fn footprint(&self) -> Footprint {
        if self.outcome.get().is_some() {
            return Footprint::default();
        }
        Footprint {
            early_bytes: lock(&self.state).intake.held_bytes(),
            page_table_bytes: self.layout.page_count() * HASH_BYTES,
            ..Footprint::default()
        }
    }
}

#[cfg(test)]
#[path = "arrival_tests.rs"]
mod tests;

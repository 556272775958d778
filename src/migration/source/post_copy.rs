//! The source after a switch to post-copy: what is told before, and pages by request and by turn after.
//!
//! ```text
//! Off -> Draining -> Switching -> Told -> Serving -> Whole
//!        no page      map and      asked   asked     all acknowledged,
//!        goes out     devices      pages   pages     digest told
//!                     go out       alone   first
//! ```
//! The map of missing pages is exact because the switch begins when no page is under way. Before the
//! commit, from `Told` on, only pages go out that are asked for, so that restoring the devices never
//! waits for one. After it nothing here ends by time alone: this side has pages that nobody else has.

use super::{Action, ChunkPlan, Commitment, KEEP_ALIVE, Source, Work};
use crate::Status;
use crate::base::limits::MAX_REQUESTED_PAGES;
use crate::base::{StreamId, Time};
use crate::migration::missing::next_piece;
use crate::migration::ownership::Mark;
use crate::migration::plan::Run;
use crate::migration::{Ending, Failure, Owner, Phase, PostCopyFigures, PostCopyRule};
use crate::observe::EventKind;
use crate::transport::{BackgroundPace, SessionError};
use crate::wire::{Control, PageRequest};
use std::collections::{HashSet, VecDeque};
use std::time::Duration;

/// Pages that are asked for and go out together.
const ANSWER_PAGES: usize = 8;
/// So many streams have one lane among them, which carries nothing but what is asked for.
const STREAMS_PER_LANE: usize = 4;
/// A page that waited so long for a lane takes any stream.
const LANE_PATIENCE: Duration = Duration::from_millis(20);
/// How long nothing is read after the guest's memory could not be.
const AFTER_A_FAILURE: Duration = Duration::from_secs(1);

/// A switch to post-copy, or its end, that cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PostCopyError {
    /// The options do not allow it.
    #[error("the migration was started with post_copy never")]
    NotAllowed,
    /// The guest stands still already.
    #[error("the guest is being handed over already, in phase {}", .0.name())]
    TooLate(Phase),
    /// There is nothing to give up.
    #[error("the guest does not run without all of its pages now, in phase {}", .0.name())]
    NotInPostCopy(Phase),
    /// The other side speaks v1.
    #[error("post-copy is not for v1 peers")]
    V1Peer,
    /// The other side's to ask for.
    #[error("the guest arrives here; post-copy is asked for at the source")]
    WrongSide,
}

impl PostCopyError {
    /// The status code of this error.
    pub fn status(self) -> Status {
        match self {
            PostCopyError::V1Peer => Status::Unsupported,
            _ => Status::BadState,
        }
    }
}

/// How far it has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    #[default]
    Off,
    Draining,
    Switching,
    Told,
    Serving,
    Whole,
    Completed,
}

/// What the source knows of post-copy.
#[derive(Debug, Default)]
pub(super) struct PostCopy {
    stage: Stage,
    /// Why it was chosen, also before it can begin.
    why: Option<&'static str>,
    next_piece_page: Option<u64>,
    missing_pages: u64,
    /// Asked for and to be sent before all others.
    urgent: VecDeque<Urgent>,
    /// Asked for and not yet there.
    requested: HashSet<u64>,
    asked_pages: u64,
    held_until: Time,
    pub(super) pace: BackgroundPace,
}

#[derive(Clone, Copy, Debug)]
struct Urgent {
    page: u64,
    since: Time,
}

impl PostCopy {
    /// Whether pre-copy's pages are held back, for a switch or for ever.
    pub(super) fn holds_pages(&self) -> bool {
        self.stage >= Stage::Draining
    }

    /// Whether the destination was told to run the guest without all of its pages.
    pub(super) fn has_switched(&self) -> bool {
        self.stage >= Stage::Told
    }

    /// Whether the destination was told that it has everything.
    pub(super) fn is_whole(&self) -> bool {
        self.stage == Stage::Whole
    }

    /// Whether the destination has never said that it has everything.
    pub(super) fn is_partial(&self) -> bool {
        self.has_switched() && self.stage != Stage::Completed
    }

    /// Lets go of what grows with the guest.
    pub(super) fn forget_guest(&mut self) {
        (self.urgent, self.requested) = (VecDeque::new(), HashSet::new());
    }

    /// The guest stays.
    pub(super) fn stop(&mut self) {
        self.stage = Stage::Off;
    }

    /// Pages arrived or were lost; what is lost and asked for is urgent again.
    pub(super) fn settled(&mut self, runs: &[Run], arrived: bool, now: Time) {
        if self.requested.is_empty() {
            return;
        }
        for page in runs.iter().flat_map(|run| run.range()) {
            if arrived {
                self.requested.remove(&page);
            } else if self.requested.contains(&page) {
                self.urgent.push_front(Urgent { page, since: now });
            }
        }
    }
}

impl Source {
    /// Lets the guest go on at the destination before all of its memory is there, as soon as it can be
    /// done; asking again changes nothing.
    ///
    /// # Errors
    /// [`PostCopyError`].
    pub fn start_post_copy(&mut self, now: Time) -> Result<(), PostCopyError> {
        if self.setup.options.post_copy == PostCopyRule::Never {
            return Err(PostCopyError::NotAllowed);
        }
        if self.post_copy.holds_pages() {
            return Ok(());
        }
        let may_begin = matches!(self.clock.phase(), Phase::Connect | Phase::Precopy);
        if !may_begin || self.failure.is_some() || self.finish_asked || self.pause_asked {
            return Err(PostCopyError::TooLate(self.clock.phase()));
        }
        self.switch_to_post_copy("it was asked for");
        self.advance(now);
        Ok(())
    }

    /// Gives up a guest whose destination will not come back: the operator's word, which nothing here
    /// takes the place of.
    ///
    /// # Errors
    /// There is nothing to give up.
    pub fn abandon_post_copy(&mut self) -> Result<(), PostCopyError> {
        if !self.waits_for_the_operator() || self.finish_asked {
            return Err(PostCopyError::NotInPostCopy(self.clock.phase()));
        }
        const WHY: &str = "given up at the source by the operator";
        if self.commitment == Commitment::Sent {
            let text = format!("{WHY} after the commit went out and before its answer came");
            self.failure = Some(Failure::new(Status::InDoubt, text));
            self.finish(Owner::InDoubt, None, Ending::Undecided);
            return Ok(());
        }
        self.session.send(&Control::Abandon { reason: WHY.to_string() });
        self.lose(WHY);
        Ok(())
    }

    /// From now on no page goes out, until the guest stands still.
    pub(super) fn switch_to_post_copy(&mut self, why: &'static str) {
        if self.pause_asked || self.post_copy.holds_pages() {
            return;
        }
        self.post_copy.why.get_or_insert(why);
        self.begin_wanted_post_copy();
    }

    /// Begins what was asked for while there was no connection.
    pub(super) fn begin_wanted_post_copy(&mut self) {
        if self.post_copy.why.is_some() && self.clock.phase() == Phase::Precopy {
            self.post_copy.stage = Stage::Draining;
        }
    }

    /// Once no page is under way, what is pending is exactly what the destination lacks.
    pub(super) fn maybe_pause_for_post_copy(&mut self, now: Time) {
        let ready = self.post_copy.stage == Stage::Draining
            && self.clock.phase() == Phase::Precopy
            && self.failure.is_none()
            && !self.pause_asked
            && self.fetching_since.is_none()
            && self.flights.is_empty();
        if ready {
            self.pause_guest(now);
        }
    }

    /// Tells what is missing and hands over; whether this, and not the last pass, is under way.
    pub(super) fn advance_switch(&mut self, now: Time) -> bool {
        if !self.post_copy.holds_pages() {
            return false;
        }
        if self.failure.is_some() || !self.final_log_merged {
            return true;
        }
        if self.post_copy.stage == Stage::Draining {
            if self.plan.pending() == 0 {
                // Nothing is missing, so there is nothing to go without.
                self.post_copy.stage = Stage::Off;
                return false;
            }
            self.begin_switch(now);
        }
        if self.post_copy.stage == Stage::Switching {
            self.tell_missing(now);
        }
        true
    }

    fn begin_switch(&mut self, now: Time) {
        self.end_pass(now);
        self.enter(Phase::DeviceState, now);
        let missing_pages = self.plan.pending();
        self.plan.pending_pages().iter().for_each(|page| self.digest.unset(page));
        let why = self.post_copy.why.unwrap_or_default();
        self.events.push_back(EventKind::PostCopyBegun { missing_pages, why });
        self.post_copy.missing_pages = missing_pages;
        self.post_copy.next_piece_page = Some(0);
        self.post_copy.stage = Stage::Switching;
    }

    /// Queues as much of the map as the control window takes, and then the switch.
    fn tell_missing(&mut self, now: Time) {
        while let Some(from) = self.post_copy.next_piece_page
            && self.session.has_room()
        {
            match next_piece(self.plan.pending_pages(), from, self.codec()) {
                Ok(piece) => {
                    piece.iter().for_each(|(message, _)| self.session.send(message));
                    self.post_copy.next_piece_page = piece.map(|(_, next)| next);
                }
                Err(error) => {
                    return self.fail(Failure::new(Status::Io, error.to_string()), now);
                }
            }
        }
        let Some(state) = &self.device_state else { return };
        if self.post_copy.next_piece_page.is_some() || self.device_state_queued < state.len() {
            return;
        }
        self.promised_digest = self.digest.value().0;
        self.session.send(&Control::Switch {
            digest: self.promised_digest,
            missing_pages: self.post_copy.missing_pages,
            device_state_bytes: state.len() as u64,
            device_state_crc: crc32fast::hash(state),
        });
        (self.finalize_sent, self.last_progress) = (true, now);
        self.post_copy.stage = Stage::Told;
        self.enter(Phase::Verify, now);
    }

    /// The guest is the destination's: every page follows, and what it asks for comes first.
    pub(super) fn begin_serving(&mut self, now: Time) {
        if self.post_copy.stage == Stage::Told && !self.finish_asked {
            self.post_copy.stage = Stage::Serving;
            self.actions.push_back(Action::Persist(Mark::ServingPages));
            self.learn_pace(now);
            // Restoring the devices may have asked for all there was.
            self.maybe_say_all_arrived();
        }
    }

    /// Whether this side has pages that nobody else has, so that only the other side's word, or the
    /// operator's, may end it.
    pub(super) fn waits_for_the_operator(&self) -> bool {
        let is_given = matches!(self.commitment, Commitment::Sent | Commitment::Given);
        is_given && matches!(self.post_copy.stage, Stage::Told | Stage::Serving)
    }

    /// The destination asks for pages; for those that are there, under way, or too many, nothing is to
    /// be done: they come or came.
    pub(super) fn on_page_request(
        &mut self,
        payload: &[u8],
        now: Time,
    ) -> Result<(), SessionError> {
        let request = PageRequest::decode(payload, self.setup.layout.page_count())?;
        for page in request.pages {
            let post_copy = &mut self.post_copy;
            let is_full = post_copy.requested.len() >= MAX_REQUESTED_PAGES;
            if !is_full && self.plan.is_open(page) && post_copy.requested.insert(page) {
                post_copy.asked_pages += 1;
                post_copy.urgent.push_back(Urgent { page, since: now });
            }
        }
        Ok(())
    }

    /// The next thing for a stream to do after the switch.
    pub(super) fn post_copy_work(&mut self, stream: StreamId, now: Time) -> Work {
        let held_until = self.post_copy.held_until;
        if held_until > now || !self.has_room(stream) {
            return self.keep_alive(stream, held_until.max(now + AFTER_A_FAILURE), now);
        }
        let is_lane = self.is_lane(stream);
        if let Some(plan) = self.next_answer(stream, is_lane, now) {
            return Work::Chunk(plan);
        }
        let mut until = now + KEEP_ALIVE;
        if let Some(oldest) = self.post_copy.urgent.front() {
            until = until.min(oldest.since + LANE_PATIENCE).max(now + Duration::from_micros(100));
        }
        let is_turn = self.post_copy.stage == Stage::Serving && self.plan.pending() > 0;
        if is_turn && (!is_lane || self.staying_streams().count() == 1) {
            let ready_at = self.pacer.ready_at(now).max(self.post_copy.pace.ready_at(now));
            let next = if ready_at <= now { self.next_in_turn(stream, now) } else { None };
            match next {
                Some(plan) => return Work::Chunk(plan),
                None if ready_at > now => {
                    self.was_held_back = true;
                    until = until.min(ready_at);
                }
                None => {}
            }
        }
        self.keep_alive(stream, until, now)
    }

    /// Whether the stream is kept free for pages that are asked for: those with the lowest numbers,
    /// which have stood longest.
    fn is_lane(&self, stream: StreamId) -> bool {
        let lanes = (self.staying_streams().count() / STREAMS_PER_LANE).max(1);
        self.staying_streams().take(lanes).any(|lane| lane == stream)
    }

    /// Those that carry new pages.
    fn staying_streams(&self) -> impl Iterator<Item = StreamId> + '_ {
        self.session.streams().filter(|stream| !self.session.is_retiring(*stream))
    }

    fn next_answer(&mut self, stream: StreamId, is_lane: bool, now: Time) -> Option<ChunkPlan> {
        let mut runs = Vec::new();
        while let Some(oldest) = self.post_copy.urgent.front()
            && runs.len() < ANSWER_PAGES
            && (is_lane || !runs.is_empty() || now - oldest.since >= LANE_PATIENCE)
        {
            let page = oldest.page;
            self.post_copy.urgent.pop_front();
            // One that is under way comes with its chunk, or is urgent again when that is lost.
            if self.plan.take_one(page) {
                runs.push(Run { first_page: page, pages: 1 });
            }
        }
        (!runs.is_empty()).then(|| self.take_off(stream, runs, now))
    }

    fn next_in_turn(&mut self, stream: StreamId, now: Time) -> Option<ChunkPlan> {
        let page_bytes = u64::from(self.setup.layout.page_bytes());
        let pages = self.post_copy.pace.chunk_bytes() / page_bytes;
        let runs = self.plan.take(pages.clamp(1, self.chunk_pages.into()) as u32);
        (!runs.is_empty()).then(|| self.take_off(stream, runs, now))
    }

    /// A page's trip told how long the path's queue is.
    pub(super) fn note_round_trip(&mut self, wire_bytes: u64, took: Duration, now: Time) {
        if self.post_copy.stage == Stage::Serving {
            self.learn_pace(now);
            self.post_copy.pace.on_acked(wire_bytes, took, now);
        }
    }

    fn learn_pace(&mut self, now: Time) {
        if self.post_copy.pace.has_learned() {
            return;
        }
        let cap = self.pacer.rate_bytes_per_s().unwrap_or(u64::MAX);
        if let Some(rate) = self.bandwidth.peak_bytes_per_s() {
            let round_trip = self.bandwidth.min_round_trip();
            self.post_copy.pace.learn(rate.min(cap), round_trip, now);
        }
    }

    /// After the commit a page that cannot be read now must be read later: nobody else has it.
    pub(super) fn hold_back_after(&mut self, failure: &Failure, now: Time) {
        if self.waits_for_the_operator() {
            self.post_copy.held_until = now + AFTER_A_FAILURE;
            let text = format!(
                "a page for post-copy cannot be read, and is tried again: {}",
                failure.reason
            );
            self.events.push_back(EventKind::Notice { text });
        }
    }

    /// Once every page is acknowledged, the destination may compare what it got.
    pub(super) fn maybe_say_whole(&mut self, nothing_left: bool) {
        if nothing_left && self.post_copy.stage == Stage::Serving {
            self.post_copy.stage = Stage::Whole;
            self.session.send(&Control::Whole { digest: self.digest.value().0 });
        }
    }

    /// The destination lacks nothing any more.
    pub(super) fn on_completed(&mut self, digest: [u8; 16]) {
        let ours = self.digest.value();
        if digest == ours.0 {
            self.post_copy.stage = Stage::Completed;
        } else {
            let theirs = crate::encoding::Digest(digest);
            let text = format!(
                "the guest runs at the destination with an image of digest {theirs}, the source's \
                 was {ours}"
            );
            self.failure = Some(Failure::new(Status::DigestMismatch, text));
        }
        if !self.finish_asked {
            self.finish(Owner::Destination, Some(Mark::GivenAway), Ending::Discard);
        }
    }

    /// The destination, asked anew, says that its part is over.
    pub(super) fn switched_peer_ended(&mut self, failure: Failure, now: Time) {
        if self.commitment == Commitment::Sent {
            self.on_committed(now);
        }
        if failure.status == Status::PostCopyLost {
            return self.lose(&failure.reason);
        }
        if self.finish_asked {
            return;
        }
        // It lacks nothing, and its last word was lost. That what it has is one image is proven by that
        // word alone, so no digest is told.
        if failure.status != Status::PeerAborted {
            self.failure = Some(failure);
        }
        self.finish(Owner::Destination, Some(Mark::GivenAway), Ending::Discard);
    }

    /// The guest is lost: it cannot go on there, and what is here is from before the switch.
    pub(super) fn lose(&mut self, why: &str) {
        if self.finish_asked {
            return;
        }
        let text = format!("{why}; {} pages were here alone", self.open_pages());
        self.failure = Some(Failure::new(Status::PostCopyLost, text));
        self.finish(Owner::Destination, Some(Mark::Lost), Ending::Lost);
    }

    fn open_pages(&self) -> u64 {
        self.plan.pending() + self.under_way_pages
    }

    pub(super) fn post_copy_figures(&self) -> Option<PostCopyFigures> {
        let post_copy = &self.post_copy;
        let is_lost = self.failure.as_ref().is_some_and(|f| f.status == Status::PostCopyLost);
        post_copy.has_switched().then(|| PostCopyFigures {
            missing_pages: post_copy.missing_pages,
            lost_pages: if is_lost { self.open_pages() } else { 0 },
            faults: post_copy.asked_pages,
            ..PostCopyFigures::default()
        })
    }
}

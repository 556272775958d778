//! The destination of a switch to post-copy: which pages are missing, who waits for them, and when all
//! are there.
//!
//! ```text
//! Off -> Preparing -> Open -> Complete
//!        pages are    guest may touch   no page is missing
//!        taken away   what is missing
//! ```
//! `Open` begins before the devices are restored, which may touch the guest's memory. A page that is
//! touched is asked for once, and again when the stream is lost that carried the request. What comes
//! for a page that is there already changes nothing.

use super::{Action, Commitment, Destination, Promise};
use crate::Status;
use crate::base::limits::{MAX_REQUEST_PAGES, MAX_WAITING_FAULTS};
use crate::base::{PageBitmap, StreamId, Time};
use crate::migration::fault_times::FaultTimes;
use crate::migration::missing::take_in;
use crate::migration::ownership::Mark;
use crate::migration::source::PostCopyError;
use crate::migration::{Ending, Failure, GuestError, Phase, PostCopyFigures};
use crate::observe::EventKind;
use crate::wire::{ChunkHeader, Control, Frame, FrameKind, PageRequest};
use std::collections::{HashMap, VecDeque};

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Off,
    Preparing,
    Open,
    Complete,
}

/// What the destination knows of post-copy.
#[derive(Debug)]
pub(super) struct PostCopy {
    stage: Stage,
    missing: PageBitmap,
    missing_count: u64,
    /// At the switch.
    all_missing: u64,
    /// Where the next piece of the map may begin.
    next_piece_page: u64,
    promise: Option<Promise>,
    /// Pages that somebody waits for.
    faults: HashMap<u64, Fault>,
    /// Of these, those to be asked for.
    unasked: VecDeque<u64>,
    times: FaultTimes,
    /// The digest of the whole image, once the source has said it.
    whole: Option<[u8; 16]>,
    completion_recorded: bool,
}

#[derive(Clone, Copy, Debug)]
struct Fault {
    since: Time,
    asked_on: Option<StreamId>,
}

/// What whoever sees faults is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultStance {
    /// Go on telling them.
    Watch,
    /// Nobody will touch a missing page any more: let go of the memory.
    Release,
    /// Pages are missing for ever: nobody may go on who touches one.
    Abandon,
}

impl PostCopy {
    /// Of a guest with so many pages that may be missing.
    pub(super) fn new(pages: u64) -> Self {
        Self {
            stage: Stage::Off,
            missing: PageBitmap::new(pages),
            missing_count: 0,
            all_missing: 0,
            next_piece_page: 0,
            promise: None,
            faults: HashMap::new(),
            unasked: VecDeque::new(),
            times: FaultTimes::default(),
            whole: None,
            completion_recorded: false,
        }
    }

    /// Lets go of what grows with the guest.
    pub(super) fn forget_guest(&mut self) {
        self.missing = PageBitmap::new(0);
        (self.faults, self.unasked) = (HashMap::new(), VecDeque::new());
    }

    /// Whether the source has switched.
    pub(super) fn has_switched(&self) -> bool {
        self.stage > Stage::Off
    }

    /// Whether pages may come.
    pub(super) fn is_open(&self) -> bool {
        self.stage >= Stage::Open
    }
}

impl Destination {
    /// Somebody touched a page. True: it is there, and whoever waits for it may go on.
    pub fn on_fault(&mut self, page: u64, now: Time) -> bool {
        let post_copy = &mut self.post_copy;
        if !post_copy.missing.contains(page) {
            return true;
        }
        post_copy.faults.entry(page).or_insert_with(|| {
            post_copy.unasked.push_back(page);
            Fault { since: now, asked_on: None }
        });
        false
    }

    /// How many more pages may be waited for before faults must be left where they are.
    pub fn fault_room(&self) -> usize {
        MAX_WAITING_FAULTS.saturating_sub(self.post_copy.faults.len())
    }

    /// What is to become of the memory in which pages are missing.
    pub fn fault_stance(&self) -> FaultStance {
        let given_up = self.finish_asked && self.lacks_pages();
        match self.post_copy.stage {
            _ if given_up && self.commitment == Commitment::Ours => FaultStance::Abandon,
            _ if given_up => FaultStance::Release,
            Stage::Complete => FaultStance::Release,
            _ => FaultStance::Watch,
        }
    }

    /// Gives up pages whose source will not come back: the operator's word, which nothing here takes
    /// the place of. The guest cannot go on.
    ///
    /// # Errors
    /// There is nothing to give up.
    pub fn abandon_post_copy(&mut self) -> Result<(), PostCopyError> {
        // Where the last page has come, only its record is waited for.
        if !self.waits_for_pages() || self.missing_pages() == 0 || self.finish_asked {
            return Err(PostCopyError::NotInPostCopy(self.clock.phase()));
        }
        const WHY: &str = "given up at the destination by the operator";
        self.session.send(&Control::Abandon { reason: WHY.to_string() });
        self.lose(WHY);
        Ok(())
    }

    /// Whether the guest is ours and lacks pages, so that only the source, or the operator, may end it.
    /// Not while that is being written down: it may still turn out not to be ours.
    pub(super) fn waits_for_pages(&self) -> bool {
        self.commitment == Commitment::Ours && self.lacks_pages()
    }

    /// Whether pages are missing.
    pub(super) fn lacks_pages(&self) -> bool {
        matches!(self.post_copy.stage, Stage::Preparing | Stage::Open)
    }

    pub(super) fn missing_pages(&self) -> u64 {
        if self.post_copy.has_switched() { self.post_copy.missing_count } else { 0 }
    }

    pub(super) fn on_missing(&mut self, first_page: u64, codec: u8, bytes: &[u8]) {
        let is_due = self.setup.post_copy && self.commitment == Commitment::Receiving;
        if !is_due || self.post_copy.has_switched() {
            let text = "missing pages after the switch, or without post-copy";
            return self.fail(Failure::new(Status::UnexpectedMessage, text));
        }
        let place = (first_page, self.post_copy.next_piece_page);
        match take_in(&mut self.post_copy.missing, place, codec, bytes) {
            Ok(next) => self.post_copy.next_piece_page = next,
            Err(error) => self.fail(Failure::new(Status::Corrupt, error.to_string())),
        }
    }

    /// The map is whole: what is not missing must be what the source has.
    pub(super) fn on_switch(&mut self, promise: Promise, missing_pages: u64, now: Time) {
        if self.failure.is_some() {
            return;
        }
        if let Err(failure) = self.check_switch(&promise, missing_pages) {
            return self.fail(failure);
        }
        let post_copy = &mut self.post_copy;
        post_copy.stage = Stage::Preparing;
        (post_copy.missing_count, post_copy.all_missing) = (missing_pages, missing_pages);
        post_copy.promise = Some(promise);
        self.stopped_at.get_or_insert(now);
        self.commitment = Commitment::Loading;
        self.enter(Phase::Verify, now);
        let why = "the source has switched";
        self.events.push_back(EventKind::PostCopyBegun { missing_pages, why });
        self.actions.push_back(Action::BeginPostCopy(self.post_copy.missing.clone()));
    }

    fn check_switch(&mut self, promise: &Promise, missing_pages: u64) -> Result<(), Failure> {
        let unexpected = |text: String| Err(Failure::new(Status::UnexpectedMessage, text));
        if !self.setup.post_copy {
            return unexpected("switch to post-copy, which was not agreed on".into());
        }
        let receiving = self.commitment == Commitment::Receiving && self.promise.is_none();
        if !receiving || self.post_copy.has_switched() || self.storing > 0 {
            return unexpected(format!(
                "switch while {:?}, {} chunks coming in",
                self.commitment, self.storing
            ));
        }
        let mapped = self.post_copy.missing.count();
        if missing_pages == 0 || mapped != missing_pages {
            return unexpected(format!(
                "{missing_pages} pages are missing, and the map has {mapped}"
            ));
        }
        let (promised, have) = (promise.device_state_bytes, self.device_state.len());
        let crc = crc32fast::hash(&self.device_state);
        if promised != have as u64 || promise.device_state_crc != crc {
            return unexpected(format!(
                "a device state of {have} bytes came, {promised} are promised"
            ));
        }
        self.post_copy.missing.iter().for_each(|page| self.digest.unset(page));
        let ours = self.digest.value();
        if ours.0 != promise.digest {
            let theirs = crate::encoding::Digest(promise.digest);
            let text =
                format!("digest of what is not missing is {ours} here, the source's {theirs}");
            return Err(Failure::new(Status::DigestMismatch, text));
        }
        Ok(())
    }

    pub(super) fn on_post_copy_begun(&mut self, result: Result<(), GuestError>) {
        if let Err(error) = result {
            return self.fail(error.into());
        }
        self.post_copy.stage = Stage::Open;
        if self.failure.is_none() {
            let state = std::mem::take(&mut self.device_state);
            self.actions.push_back(Action::LoadDeviceState(state));
        }
    }

    /// What the source must hear when everything is ready for the commit.
    pub(super) fn verified_digest(&self) -> [u8; 16] {
        // Pages that were asked for meanwhile have changed ours.
        self.post_copy.promise.map_or_else(|| self.digest.value().0, |promise| promise.digest)
    }

    pub(super) fn enter_post_copy(&mut self, now: Time) {
        if self.post_copy.has_switched() {
            self.enter(Phase::PostCopy, now);
            self.try_complete();
        }
    }

    /// A chunk is in its place; whoever waited for its pages goes on.
    pub(super) fn on_placed(&mut self, header: &ChunkHeader, now: Time) {
        if !self.lacks_pages() {
            return;
        }
        let post_copy = &mut self.post_copy;
        for page in header.extents.iter().flat_map(|extent| extent.range()) {
            if post_copy.missing.contains(page) {
                post_copy.missing.remove(page);
                post_copy.missing_count -= 1;
            }
            if let Some(fault) = post_copy.faults.remove(&page) {
                post_copy.times.add(now - fault.since);
            }
        }
    }

    /// Whether pages are to be asked for.
    pub(super) fn has_requests(&self) -> bool {
        !self.post_copy.unasked.is_empty() && !self.finish_asked && self.session.has_open_stream()
    }

    /// The next pages to be asked for, on this stream.
    pub(super) fn next_request(&mut self, stream: StreamId) -> Option<Frame> {
        if !self.session.is_open(stream) || self.finish_asked {
            return None;
        }
        let post_copy = &mut self.post_copy;
        let mut pages = Vec::new();
        while pages.len() < MAX_REQUEST_PAGES
            && let Some(page) = post_copy.unasked.pop_front()
        {
            if let Some(fault) = post_copy.faults.get_mut(&page) {
                fault.asked_on = Some(stream);
                pages.push(page);
            }
        }
        let payload = PageRequest { pages };
        let is_empty = payload.pages.is_empty();
        (!is_empty).then(|| Frame { kind: FrameKind::PageRequest, payload: payload.encode() })
    }

    /// What was asked for on a lost stream is asked for again.
    pub(super) fn ask_again(&mut self, stream: StreamId) {
        let post_copy = &mut self.post_copy;
        for (page, fault) in &mut post_copy.faults {
            if fault.asked_on == Some(stream) {
                fault.asked_on = None;
                post_copy.unasked.push_back(*page);
            }
        }
    }

    pub(super) fn on_whole(&mut self, digest: [u8; 16]) {
        self.post_copy.whole = Some(digest);
        self.try_complete();
    }

    /// Moves on when nothing is missing, and again when the source has said what the image must be.
    pub(super) fn try_complete(&mut self) {
        let here = self.post_copy.missing_count == 0 && self.storing == 0;
        if self.commitment != Commitment::Ours || !self.resumed || !here {
            return;
        }
        if self.post_copy.stage == Stage::Open {
            self.post_copy.stage = Stage::Complete;
            let figures = self.post_copy_figures().unwrap_or_default();
            let waits = Box::new(*self.post_copy.times.by_bound());
            self.events.push_back(EventKind::PostCopyCompleted { figures, waits });
        }
        let Some(theirs) = self.post_copy.whole else { return };
        if self.post_copy.stage != Stage::Complete || self.post_copy.completion_recorded {
            return;
        }
        self.post_copy.completion_recorded = true;
        let ours = self.digest.value();
        if ours.0 != theirs {
            let theirs = crate::encoding::Digest(theirs);
            let text =
                format!("the guest runs with an image of digest {ours}, the source's was {theirs}");
            self.failure = Some(Failure::new(Status::DigestMismatch, text));
        }
        self.actions.push_back(Action::Persist(Mark::Owned));
    }

    /// It is written down, or cannot be, that nothing is missing: the source may let go.
    pub(super) fn on_completion_kept(&mut self, result: Result<(), String>) {
        if let Err(text) = result {
            let text = format!("ownership record not updated: {text}");
            self.events.push_back(EventKind::Notice { text });
        }
        self.session.send(&Control::Completed { digest: self.digest.value().0 });
    }

    /// Whether nothing is missing, and the source has not yet said what the image must be.
    pub(super) fn awaits_proof(&self) -> bool {
        self.post_copy.stage == Stage::Complete && !self.post_copy.completion_recorded
    }

    /// The source went before it said so. Every page came whole; that they are all of one image is not
    /// proven.
    pub(super) fn end_unproven(&mut self, why: &str) {
        let text =
            format!("the guest runs and lacks no page, but {why} before the digests were compared");
        self.failure = Some(Failure::new(Status::ConnectionLost, text));
        self.actions.push_back(Action::Persist(Mark::Owned));
        self.finish(Ending::Keep);
    }

    /// Pages are lost, and with them the guest.
    pub(super) fn lose(&mut self, why: &str) {
        if self.finish_asked {
            return;
        }
        let text = format!("{why}; {} pages are lost", self.post_copy.missing_count);
        self.failure = Some(Failure::new(Status::PostCopyLost, text));
        // Nobody starts it any more.
        self.actions.retain(|action| *action != Action::Resume);
        self.actions.push_back(Action::Persist(Mark::Lost));
        self.finish(Ending::Lost);
    }

    pub(super) fn post_copy_figures(&self) -> Option<PostCopyFigures> {
        let post_copy = &self.post_copy;
        post_copy.has_switched().then(|| PostCopyFigures {
            missing_pages: post_copy.all_missing,
            lost_pages: if self.finish_asked { post_copy.missing_count } else { 0 },
            faults: post_copy.times.count(),
            fault_p50_us: post_copy.times.all_but_us(500),
            fault_p99_us: post_copy.times.all_but_us(10),
            fault_max_us: post_copy.times.longest_us(),
        })
    }
}

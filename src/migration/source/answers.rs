//! What the driver's actions brought, and the steps that follow from it.

use super::{Action, Answer, Commitment, Source};
use crate::Status;
use crate::base::{Time, micros};
use crate::migration::convergence::{Decision, Situation, handover};
use crate::migration::ownership::Mark;
use crate::migration::{Ending, Failure, GuestError, Owner, Phase};
use crate::observe::EventKind;
use crate::wire::Control;
use std::time::Duration;

/// Least time between two looks at a guest that writes nothing.
const EMPTY_PASS: Duration = Duration::from_millis(10);

impl Source {
    /// Merges one region's dirty log; part of [`Action::FetchDirty`].
    pub fn merge_dirty(&mut self, region: usize, log: &[u64]) {
        let pages = self.setup.layout.pages_of(region);
        self.fetched_pages += log.iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
        self.plan.add_log(pages, log);
    }

    /// Takes in what came of an action.
    pub fn answer(&mut self, answer: Answer, now: Time) {
        self.begin_waiting(now);
        match answer {
            Answer::DirtyLogStarted(result) => self.on_log_started(result, now),
            Answer::DirtyFetched(result) => self.on_fetched(result, now),
            Answer::Paused(result) => self.on_paused(result, now),
            Answer::Resumed(Ok(())) => self.on_running_again(now),
            Answer::Resumed(Err(error)) => self.note_in_failure(&error.to_string()),
            Answer::DeviceState(Ok(state)) if self.failure.is_none() => {
                self.device_state = Some(state);
            }
            Answer::DeviceState(Ok(_)) => {}
            Answer::DeviceState(Err(error)) => self.fail(error.into(), now),
            Answer::Throttled(Ok(true)) => self.on_throttled(),
            Answer::Throttled(Ok(false)) => self.convergence.throttle_unsupported(),
            Answer::Throttled(Err(error)) => self.fail(error.into(), now),
            Answer::Persisted(mark, result) => self.on_persisted(mark, result, now),
            Answer::Finished(result) => self.on_finished(result, now),
        }
        self.advance(now);
    }

    /// Moves on wherever the conditions are met.
    pub(super) fn advance(&mut self, now: Time) {
        self.queue_device_state();
        self.maybe_fetch(now);
        self.maybe_pause_for_post_copy(now);
        if self.advance_switch(now) {
            return;
        }
        let paused = self.failure.is_none() && self.final_log_merged && !self.finalize_sent;
        if !paused || self.plan.pending() > 0 || self.being_encoded > 0 {
            return;
        }
        if self.clock.phase() == Phase::FinalPass {
            self.end_pass(now);
            self.enter(Phase::DeviceState, now);
        }
        let Some(state) = &self.device_state else { return };
        let digest = self.digest.value().0;
        let finalize = Control::Finalize {
            digest,
            device_state_bytes: state.len() as u64,
            device_state_crc: crc32fast::hash(state),
        };
        if self.device_state_queued == state.len() {
            self.session.send(&finalize);
            self.promised_digest = digest;
            self.finalize_sent = true;
            self.last_progress = now;
            self.enter(Phase::Verify, now);
            self.maybe_say_all_arrived();
        }
    }

    /// After `Finalize`, as soon as nothing is under way, the peer's digest must match.
    pub(super) fn maybe_say_all_arrived(&mut self) {
        let nothing_left = self.flights.is_empty() && self.plan.pending() == 0;
        if self.post_copy.has_switched() {
            return self.maybe_say_whole(nothing_left);
        }
        if self.finalize_sent && !self.all_arrived_sent && nothing_left {
            self.all_arrived_sent = true;
            self.session.send(&Control::AllArrived);
        }
    }

    /// Looks at the dirty log when a pass is through and the link is not far behind.
    pub(super) fn maybe_fetch(&mut self, now: Time) {
        let due = self.clock.phase() == Phase::Precopy
            && self.failure.is_none()
            && !self.pause_asked
            && !self.post_copy.holds_pages()
            && self.fetching_since.is_none()
            && self.plan.pending() == 0
            && now >= self.next_look(now)
            && self.may_switch_with_backlog();
        if due {
            self.begin_fetch(now);
        }
    }

    /// Looking means something only if what is under way leaves room in the allowed downtime.
    fn may_switch_with_backlog(&self) -> bool {
        let handover = handover(self.bandwidth.min_round_trip(), self.fetch_took);
        self.flights.is_empty() || self.backlog().saturating_add(handover) <= self.max_downtime()
    }

    /// When the next look is due: a pass that had nothing to send does not follow at once.
    pub(super) fn next_look(&self, now: Time) -> Time {
        match self.last_fetch {
            Some(last) if self.fetched_pages == 0 && self.counts.pass() > 1 => last + EMPTY_PASS,
            _ => now,
        }
    }

    fn max_downtime(&self) -> Duration {
        self.setup.options.max_downtime
    }

    fn begin_fetch(&mut self, now: Time) {
        self.fetching_since = Some(now);
        self.fetched_pages = 0;
        self.actions.push_back(Action::FetchDirty);
    }

    /// How long the link needs for what is under way.
    fn backlog(&self) -> Duration {
        match self.usable_bandwidth() {
            Some(rate) => {
                Duration::from_secs_f64(self.under_way_wire_bytes as f64 / rate.max(1) as f64)
            }
            None => Duration::MAX,
        }
    }

    fn on_log_started(&mut self, result: Result<(), GuestError>, now: Time) {
        if let Err(error) = result {
            return self.fail(error.into(), now);
        }
        if self.failure.is_some() {
            return;
        }
        self.plan.add_all();
        self.last_fetch = Some(now);
        self.counts.begin_pass(self.clock.elapsed(now));
        self.enter(Phase::Precopy, now);
        self.begin_wanted_post_copy();
    }

    fn on_fetched(&mut self, result: Result<(), GuestError>, now: Time) {
        if let Err(error) = result {
            return self.fail(error.into(), now);
        }
        self.note_dirty_rate(now);
        if self.failure.is_some() {
            return;
        }
        if self.pause_asked {
            self.final_log_merged = true;
            return;
        }
        if self.post_copy.holds_pages() {
            return;
        }
        let situation = self.situation();
        let decision = self.convergence.judge(&situation);
        self.end_pass(now);
        self.counts.begin_pass(self.clock.elapsed(now));
        if decision == Decision::Continue && situation.is_empty() {
            self.ask_round_trip();
        }
        match decision {
            Decision::Continue => {}
            Decision::Throttle(percent) => self.actions.push_back(Action::Throttle(percent)),
            Decision::PathTooLong => self.did_not_converge("the handover itself takes longer", now),
            Decision::GiveUp => self.did_not_converge("no pass brought it down any more", now),
            Decision::PostCopy => self.switch_to_post_copy("passes brought no progress"),
            Decision::Switch => self.pause_guest(now),
        }
    }

    /// Sends one page again. What large chunks took, at a low rate, is no round trip; and with nothing
    /// left to send, nothing else would tell how long one is.
    fn ask_round_trip(&mut self) {
        self.plan.add_log(0..1, &[1]);
    }

    /// The guest stops, and what it wrote since the last look is all that will ever follow.
    pub(super) fn pause_guest(&mut self, now: Time) {
        self.pause_asked = true;
        self.paused_at = Some(now);
        self.enter(Phase::FinalPass, now);
        self.actions.push_back(Action::Pause);
    }

    fn on_paused(&mut self, result: Result<(), GuestError>, now: Time) {
        if let Err(error) = result {
            self.pause_asked = false;
            // It runs; a cancel meanwhile may have asked for its resumption.
            self.actions.retain(|action| *action != Action::Resume);
            return self.fail(error.into(), now);
        }
        if self.failure.is_none() {
            self.begin_fetch(now);
            self.actions.push_back(Action::SaveDeviceState);
        }
    }

    fn on_running_again(&mut self, now: Time) {
        if let Some(paused_at) = self.paused_at.take() {
            self.downtime = now - paused_at;
        }
    }

    fn on_throttled(&mut self) {
        let percent = self.convergence.throttle_percent();
        if self.failure.is_none() {
            self.events.push_back(EventKind::Throttled { percent });
        }
    }

    fn on_persisted(&mut self, mark: Mark, result: Result<(), String>, now: Time) {
        let error = result.err();
        match (mark, &error) {
            (Mark::SourceRuns, None) => {
                self.recorded_start = true;
                self.start_log_once();
            }
            (Mark::CommitSent | Mark::PostCopySent, None)
                if self.commitment == Commitment::Recording =>
            {
                self.commitment = Commitment::Sent;
                self.last_progress = now;
                self.session.send(&Control::Commit);
            }
            (Mark::SourceRuns | Mark::CommitSent | Mark::PostCopySent, Some(text)) => {
                let text = format!("cannot write the ownership record: {text}");
                self.fail(Failure::new(Status::StateFile, text), now);
            }
            (_, Some(text)) => {
                let text = format!("ownership record not updated: {text}");
                self.events.push_back(EventKind::Notice { text });
            }
            _ => {}
        }
    }

    fn on_finished(&mut self, result: Result<(), GuestError>, now: Time) {
        if let Err(error) = result {
            self.note_in_failure(&error.to_string());
        }
        if self.ended_at.is_none() {
            self.end(now);
        }
    }

    /// Ends a migration whose outcome is known and not ours to change.
    pub(super) fn finish(&mut self, owner: Owner, mark: Option<Mark>, ending: Ending) {
        self.owner = owner;
        self.finish_asked = true;
        self.actions.extend(mark.map(Action::Persist));
        self.actions.push_back(Action::Finish(ending));
    }

    /// The peer's digest matches: write down that the guest is about to be given away.
    pub(super) fn on_verified(&mut self, digest: [u8; 16], now: Time) {
        if digest != self.promised_digest {
            let ours = crate::encoding::Digest(self.promised_digest);
            let theirs = crate::encoding::Digest(digest);
            let text = format!("destination's image digest is {theirs}, the source's {ours}");
            return self.fail(Failure::new(Status::DigestMismatch, text), now);
        }
        self.verified = true;
        self.commitment = Commitment::Recording;
        self.enter(Phase::Handover, now);
        let is_partial = self.post_copy.has_switched();
        let mark = if is_partial { Mark::PostCopySent } else { Mark::CommitSent };
        self.actions.push_back(Action::Persist(mark));
    }

    /// The deadline, or hopelessness.
    pub(super) fn did_not_converge(&mut self, why: &str, now: Time) {
        let text = format!(
            "did not converge: {why}; predicted downtime {:?}, allowed {:?}, guest writes {} MB/s, \
             link takes {} MB/s, guest throttled {} %",
            self.convergence.predicted().unwrap_or_default(),
            self.setup.options.max_downtime,
            self.dirty_rate_bytes_per_s / 1_000_000,
            self.bandwidth.rate_bytes_per_s().unwrap_or(0) / 1_000_000,
            self.convergence.throttle_percent(),
        );
        self.fail(Failure::new(Status::DidNotConverge, text), now);
    }

    pub(super) fn note_in_failure(&mut self, text: &str) {
        match &mut self.failure {
            Some(failure) => failure.reason = format!("{}; also: {text}", failure.reason),
            None => self.events.push_back(EventKind::Notice { text: text.to_string() }),
        }
    }

    fn note_dirty_rate(&mut self, now: Time) {
        let since = self.fetching_since.take().unwrap_or(now);
        self.fetch_took = now - since;
        let interval = since - self.last_fetch.unwrap_or(since);
        let bytes = self.fetched_pages * u64::from(self.setup.layout.page_bytes());
        if interval > Duration::ZERO && !self.pause_asked {
            self.dirty_rate_bytes_per_s = (bytes as f64 / interval.as_secs_f64()) as u64;
        }
        self.last_fetch = Some(since);
    }

    /// What the link takes and the cap allows; none while the link is not measured.
    pub(super) fn usable_bandwidth(&self) -> Option<u64> {
        let cap = self.pacer.rate_bytes_per_s().unwrap_or(u64::MAX);
        self.bandwidth.rate_bytes_per_s().map(|rate| rate.min(cap))
    }

    fn situation(&self) -> Situation {
        let per_page = self.counts.wire_bytes_per_page(self.setup.layout.page_bytes());
        Situation {
            pending_wire_bytes: (self.plan.pending() as f64 * per_page) as u64,
            under_way_bytes: self.under_way_wire_bytes,
            bandwidth_bytes_per_s: self.usable_bandwidth(),
            round_trip: self.bandwidth.min_round_trip(),
            fetch: self.fetch_took,
        }
    }

    pub(super) fn end_pass(&mut self, now: Time) {
        let dirty = self.dirty_rate_bytes_per_s;
        let predicted_us = micros(self.convergence.predicted().unwrap_or_default());
        let pass = self.counts.end_pass(self.clock.elapsed(now), |pass| {
            pass.dirty_rate_bytes_per_s = dirty;
            let speed =
                u128::from(pass.wire_bytes) * 1_000_000 / u128::from(pass.duration_us.max(1));
            pass.bandwidth_bytes_per_s = u64::try_from(speed).unwrap_or(u64::MAX);
            pass.predicted_downtime_us = predicted_us;
        });
        self.events.push_back(EventKind::PassCompleted { pass });
    }
}

#[cfg(test)]
#[path = "answers_tests.rs"]
mod tests;

//! What holds in a relayed migration at every step, and who has the guest in the end.

use super::{ACKNOWLEDGED_AHEAD, GONE, MOST_IN_PACKERS, Outcome, RelayWorld, WINDOW_BYTES};
use dwcp::Status;
use dwcp::migration::ownership::Mark;
use dwcp::migration::relay::destination::RelayDestination;
use dwcp::migration::{Ending, Owner, Phase, Report};

impl RelayWorld {
    pub(super) fn check(&self) {
        let has_run_there = self.arrived_runs || self.lost_there;
        assert!(!(self.writer.runs && has_run_there), "it runs twice: {}", self.describe());
        let in_packers = MOST_IN_PACKERS as u64 + u64::from(self.writer.scripts.channels());
        let slack = in_packers * self.writer.scripts.largest_bytes() as u64;
        let (here, there) =
            (self.source.under_way_bytes(), self.destination.as_ref().map(|d| d.stored_bytes()));
        assert!(here <= WINDOW_BYTES + slack, "{here} bytes under way: {}", self.describe());
        let in_hand = self.destination.as_ref().map(RelayDestination::in_hand_bytes);
        // What is acknowledged is with the destination, the segment being unpacked included; a side
        // that has failed counts nothing any more.
        let there_counts = self.destination.as_ref().is_none_or(|d| d.wants_segments());
        let counts = self.source.wants_segments() && there_counts && !self.destination_crashed;
        let largest = self.writer.scripts.largest_bytes() as u64;
        let arrived = self.replayed_bytes + there.unwrap_or(0) + in_hand.unwrap_or(0) + largest;
        assert!(!counts || here + arrived >= self.writer.pushed_bytes, "{}", self.describe());
        let most_early = WINDOW_BYTES + slack + ACKNOWLEDGED_AHEAD * largest;
        assert!(there <= Some(most_early), "{there:?} bytes early: {}", self.describe());
        let most = if self.writer.scripts.channels() == 0 { 4 << 20 } else { WINDOW_BYTES };
        assert!(in_hand <= Some(most + slack), "{in_hand:?} bytes in hand: {}", self.describe());
        let owners = (self.source.owner(), self.destination.as_ref().map(RelayDestination::owner));
        let both = owners == (Owner::Source, Some(Owner::Destination));
        assert!(!both || self.source_crashed, "both own the guest: {}", self.describe());
        self.check_ends();
    }

    /// What is over stays as it was reported.
    fn check_ends(&self) {
        if let Some(report) = self.source.report() {
            let phase = self.source.progress(self.now).phase;
            assert_eq!((phase, self.source.owner()), (Phase::Ended, report.owner));
            let in_doubt = report.owner == Owner::InDoubt;
            assert_eq!(in_doubt, report.status == Status::InDoubt, "{}", self.describe());
        }
        if let Some((there, report)) =
            self.destination.as_ref().and_then(|d| Some((d, d.report()?)))
        {
            let phase = there.progress(self.now).phase;
            assert_eq!((phase, there.owner()), (Phase::Ended, report.owner), "{}", self.describe());
        }
    }

    pub(super) fn judge(self) -> Outcome {
        let there = self.destination.as_ref().and_then(RelayDestination::report);
        assert!(self.source_endings.len() <= 1 && self.destination_endings.len() <= 1);
        self.judge_destination(there.as_ref());
        if self.source_crashed {
            self.judge_after_source_crash(there.as_ref());
            return Outcome::SourceCrashed;
        }
        let here = self.source.report().expect("over");
        // Nobody lies in this world, and every damaged frame is seen.
        assert_ne!(here.status, Status::DigestMismatch, "{}", self.describe());
        let is_there = self.arrived_runs || self.crashed_releasing || self.lost_there;
        match here.owner {
            Owner::Source => {
                assert!(self.writer.runs, "the guest runs nowhere: {}", self.describe());
                assert!(here.status != Status::Ok && !here.reason.is_empty());
                assert_eq!(self.source_endings, [Ending::Keep]);
                let owned = self.destination_record == Some(Mark::Owned);
                assert!(!owned || self.could_not_take_back, "{}", self.describe());
            }
            Owner::Destination => {
                assert!(!self.writer.runs && is_there, "runs nowhere: {}", self.describe());
                // A record tells who has the guest, and not how it fares; and who has heard that it
                // was given does not wait for more for ever.
                let away = self.weather.outage > 0 || self.weather.long_pause > 0;
                let knows = !self.lost_there || !(self.destination_crashed || away);
                let said = if self.lost_there { Status::Callback } else { Status::Ok };
                assert!(here.status == said || !knows, "{}", self.describe());
                assert_eq!(self.source_endings, [Ending::Discard]);
                assert_eq!(self.destination_record, Some(Mark::Owned), "{}", self.describe());
            }
            Owner::InDoubt => {
                assert!(!self.writer.runs && here.status == Status::InDoubt);
                assert_eq!(self.source_endings, [Ending::Undecided]);
                assert_eq!(self.source_record, Some(Mark::CommitSent));
            }
        }
        match (self.destination_crashed, here.owner) {
            (true, _) => Outcome::DestinationCrashed,
            (false, Owner::Source) => Outcome::Stayed,
            (false, Owner::Destination) if self.lost_there => Outcome::Lost,
            (false, Owner::Destination) => Outcome::Moved,
            (false, Owner::InDoubt) => Outcome::InDoubt,
        }
    }

    /// What a living destination says is what is.
    fn judge_destination(&self, there: Option<&Report>) {
        let Some(there) = there.filter(|_| !self.destination_crashed) else { return };
        assert_ne!(there.status, Status::DigestMismatch, "{}", self.describe());
        let ours = there.owner == Owner::Destination;
        assert_eq!(ours, self.arrived_runs || self.lost_there, "{}", self.describe());
        assert_eq!(self.arrived_runs, there.status == Status::Ok, "{}", self.describe());
        assert!(!self.lost_there || there.reason == GONE, "{}", self.describe());
        let ending = if ours { Ending::Keep } else { Ending::Discard };
        assert_eq!(self.destination_endings, [ending], "{}", self.describe());
    }

    /// The survivor says who owns the guest, and the dead one's record does not contradict it.
    fn judge_after_source_crash(&self, there: Option<&Report>) {
        let record = self.source_record.map(Mark::owner);
        if there.is_some_and(|there| there.owner == Owner::Destination) {
            let knows = matches!(record, Some(Owner::InDoubt | Owner::Destination));
            assert!(knows && !self.writer.runs, "{}", self.describe());
        } else {
            assert_ne!(record, Some(Owner::Destination), "{}", self.describe());
            assert!(!self.arrived_runs && !self.lost_there);
        }
    }

    pub(super) fn describe(&self) -> String {
        let shown = |report: Option<Report>| {
            report.map(|r| format!("{:?} {:?} {}", r.status, r.owner, r.reason))
        };
        let there = self.destination.as_ref();
        format!(
            "step {} at {} us; {:?}; {:?} read, {:?} replayed; source {:?} {:?} record {:?} \
             crashed {} endings {:?} runs {}; destination {:?} {:?} record {:?} crashed {} endings \
             {:?} runs {}; {} links; {:?}",
            self.step,
            self.now.0,
            self.writer.scripts,
            self.writer.sockets,
            self.arrived,
            self.source.progress(self.now).phase,
            shown(self.source.report()),
            self.source_record,
            self.source_crashed,
            self.source_endings,
            self.writer.runs,
            there.map(|there| there.progress(self.now).phase),
            shown(there.and_then(RelayDestination::report)),
            self.destination_record,
            self.destination_crashed,
            self.destination_endings,
            self.arrived_runs,
            self.links.len(),
            self.options,
        )
    }
}

//! Whether a run of a relayed migration ended well: one side has the guest, and what each side says
//! and wrote down agrees with that.

use super::{GONE, Outcome, RelayWorld};
use dwcp::Status;
use dwcp::migration::ownership::Mark;
use dwcp::migration::relay::destination::RelayDestination;
use dwcp::migration::{Ending, Owner, Report};

impl RelayWorld {
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
}

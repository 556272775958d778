//! What must hold at every step of a simulated migration, and at its end.

use super::*;

impl World {
    pub(super) fn check(&self) {
        let running = [&self.source_guest, &self.sink_guest]
            .iter()
            .filter(|guest| guest.state.lock().unwrap().running)
            .count();
        assert!(running <= 1, "the guest runs twice: {}", self.describe());
        let owners = (self.source.owner(), self.destination.as_ref().map(Destination::owner));
        let both = owners == (Owner::Source, Some(Owner::Destination));
        assert!(!both || self.source_crashed, "both own the guest: {}", self.describe());
    }

    pub(super) fn judge(mut self) -> Outcome {
        let there = self.destination.as_ref().and_then(Destination::report);
        if self.source_crashed {
            self.judge_after_source_crash(there.as_ref());
            return Outcome::SourceCrashed;
        }
        let here = self.source.report().expect("over");
        // Nobody lies in this world, and every damaged chunk is seen: the images never differ.
        assert_ne!(here.status, dwcp::Status::DigestMismatch, "{}", self.describe());
        let running = self.source_guest.state.lock().unwrap().running;
        let endings = self.source_guest.state.lock().unwrap().endings.clone();
        assert!(endings.len() <= 1, "finished {} times", endings.len());
        match here.owner {
            Owner::Source => {
                assert!(running, "the guest runs nowhere: {}", self.describe());
                assert_ne!(here.status, dwcp::Status::Ok);
                assert!(!here.reason.is_empty());
                let theirs = self.destination_record.map(Mark::owner);
                assert_ne!(theirs, Some(Owner::Destination), "{}", self.describe());
            }
            Owner::Destination => {
                assert!(!running);
                assert!(
                    self.destination_crashed
                        || there.as_ref().is_some_and(|there| there.owner == Owner::Destination)
                );
                let theirs = self.destination_record.map(Mark::owner);
                assert_eq!(theirs, Some(Owner::Destination), "{}", self.describe());
                self.judge_moved(&here, there.as_ref());
            }
            Owner::InDoubt => {
                assert!(!running && here.status == dwcp::Status::InDoubt);
                assert!(endings.iter().all(|ending| *ending == Ending::Undecided));
                let doubtful = [Mark::CommitSent, Mark::PostCopySent];
                assert!(self.source_record.is_some_and(|mark| doubtful.contains(&mark)));
            }
        }
        self.now = Time(0);
        let is_lost = here.status == dwcp::Status::PostCopyLost;
        match (self.destination_crashed, here.owner) {
            (true, _) => Outcome::DestinationCrashed,
            (false, Owner::Source) => Outcome::Stayed,
            (false, Owner::Destination) if is_lost => Outcome::Lost,
            (false, Owner::Destination) if here.post_copy.is_some() => Outcome::Switched,
            (false, Owner::Destination) => Outcome::Moved,
            (false, Owner::InDoubt) => Outcome::InDoubt,
        }
    }

    /// The guest is whole at the destination, or nobody says so.
    fn judge_moved(&self, here: &Report, there: Option<&Report>) {
        let is_lost = here.status == dwcp::Status::PostCopyLost;
        let endings = &self.source_guest.state.lock().unwrap().endings;
        if here.status == dwcp::Status::InDoubt {
            // It gave up, and then the answer came.
            return;
        }
        let expected = if is_lost { Ending::Lost } else { Ending::Discard };
        assert!(endings.iter().all(|ending| *ending == expected), "{endings:?}");
        let Some(there) = there.filter(|_| !self.destination_crashed) else { return };
        let sink = self.sink_guest.state.lock().unwrap();
        if there.status == dwcp::Status::PostCopyLost {
            assert!(is_lost, "{}", self.describe());
            assert!(sink.endings.iter().all(|ending| *ending == Ending::Lost));
            return;
        }
        // The last pages may be on their way when the source is given up.
        let is_cut = self.given_up_here && there.status == dwcp::Status::ConnectionLost;
        assert!(!is_lost || is_cut, "{}", self.describe());
        // A proof is given to both, or its loss is told of at both; the destination's success may have
        // been lost on its way.
        let is_proven = there.status == dwcp::Status::Ok || here.status != dwcp::Status::Ok;
        assert!(is_proven, "{} {}", there.reason, self.describe());
        // The disk may be full when the last page has come.
        let kept = [Mark::Owned, Mark::OwnedIncomplete];
        assert!(self.destination_record.is_some_and(|mark| kept.contains(&mark)));
        assert!(!sink.missing.contains(&true), "pages are missing: {}", self.describe());
        assert!(sink.truth.as_ref() == Some(&sink.memory), "pages differ: {}", self.describe());
        if here.status == dwcp::Status::Ok && there.status == dwcp::Status::Ok {
            // Only who was told on a new connection that all is over has not seen the proof, and tells none.
            let is_unseen = self.told_over && here.digest.is_empty();
            assert!(is_unseen || here.digest == there.digest, "{}", self.describe());
        }
        if is_lost {
            return;
        }
        let figures = [here.post_copy, there.post_copy].map(|figures| figures.unwrap_or_default());
        assert_eq!(figures[0].missing_pages, figures[1].missing_pages);
        assert_eq!((figures[0].lost_pages, figures[1].lost_pages), (0, 0));
    }

    /// The survivor says who owns the guest, and the dead one's record does not contradict it.
    fn judge_after_source_crash(&self, there: Option<&Report>) {
        let Some(there) = there else { return };
        let record = self.source_record.map(Mark::owner);
        if there.owner == Owner::Destination {
            assert!(
                matches!(record, Some(Owner::InDoubt | Owner::Destination)),
                "{}",
                self.describe()
            );
        } else {
            assert_ne!(record, Some(Owner::Destination), "{}", self.describe());
            assert!(!self.sink_guest.state.lock().unwrap().running);
        }
    }

    pub(super) fn describe(&self) -> String {
        format!(
            "step {} at {} us; source {:?} record {:?} crashed {}; destination {:?} record {:?} \
             crashed {}; {} links",
            self.step,
            self.now.0,
            self.source.report().map_or_else(
                || format!("{:?}", self.source.progress(self.now)),
                |r| format!("{:?} {:?} {}", r.status, r.owner, r.reason)
            ),
            self.source_record,
            self.source_crashed,
            self.destination.as_ref().map(|d| d.report().map_or_else(
                || format!("{:?}", d.progress(self.now)),
                |r| format!("{:?} {:?} {}", r.status, r.owner, r.reason)
            )),
            self.destination_record,
            self.destination_crashed,
            self.links.len(),
        )
    }
}

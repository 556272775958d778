//! A plan of percentages over time; whoever carries it out asks what is due.

use super::flag::Flag;
use super::guide;
use super::percent::Percent;
use super::wall_time;
use crate::base::limits::MAX_SCHEDULE_STAGES;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize, de};
use std::fmt;

/// One step of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// When it begins, in seconds since the schedule's start.
    pub after_s: u64,
    /// The percentage from then on.
    pub percent: Percent,
}

/// Stages that go forward in time, and never down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Schedule {
    #[serde(rename = "start", with = "wall_time::optional")]
    start_s: Option<u64>,
    stages: Vec<Stage>,
}

/// Stages that make no schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// There is nothing to do.
    #[error("a schedule needs a stage")]
    Empty,
    /// Over the limit.
    #[error("a schedule of {0} stages has more than {MAX_SCHEDULE_STAGES}")]
    TooLong(usize),
    /// A stage does not begin after the one before it.
    #[error(
        "the schedule goes backwards: a stage after {after_s} s follows one after {before_s} s"
    )]
    Backwards {
        /// When the earlier stage begins.
        before_s: u64,
        /// When the later one does.
        after_s: u64,
    },
    /// A stage takes back what the one before it gave.
    #[error("the schedule goes down: {percent} % after {after_s} s follows {before} %")]
    Down {
        /// The percentage of the earlier stage.
        before: Percent,
        /// That of the later one.
        percent: Percent,
        /// When the later one begins.
        after_s: u64,
    },
    /// The year has more than four digits.
    #[error("a schedule cannot start {0} s after 1970")]
    Start(u64),
}

impl Schedule {
    /// A schedule that starts when it is put into force.
    ///
    /// # Errors
    /// [`ScheduleError`] for stages that are too many or not in order.
    pub fn new(stages: Vec<Stage>) -> Result<Self, ScheduleError> {
        if stages.is_empty() {
            return Err(ScheduleError::Empty);
        }
        if stages.len() > MAX_SCHEDULE_STAGES {
            return Err(ScheduleError::TooLong(stages.len()));
        }
        stages.windows(2).try_for_each(|pair| check_step(pair[0], pair[1]))?;
        Ok(Self { start_s: None, stages })
    }

    /// The upgrade guide's six weeks for this flag.
    pub fn guide(flag: Flag) -> Self {
        Self { start_s: None, stages: guide::stages(flag) }
    }

    /// The same stages from this second of the wall clock on.
    pub fn started_at(self, start_s: u64) -> Self {
        Self { start_s: Some(start_s), ..self }
    }

    /// The same stages, to be started anew.
    pub fn not_started(self) -> Self {
        Self { start_s: None, ..self }
    }

    /// When it starts or started, in seconds since 1970; none until it is put into force.
    pub fn start_s(&self) -> Option<u64> {
        self.start_s
    }

    /// The stages, in order.
    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }

    /// The percentage that is due `elapsed_s` seconds after the start: zero before the first stage.
    pub fn percent_at(&self, elapsed_s: u64) -> Percent {
        let begun = self.stages.iter().take_while(|stage| stage.after_s <= elapsed_s);
        begun.last().map_or(Percent::ZERO, |stage| stage.percent)
    }

    /// The percentage that is due at a second of the wall clock; zero before the start.
    pub fn percent_on(&self, now_s: u64) -> Percent {
        let elapsed_s = self.start_s.and_then(|start_s| now_s.checked_sub(start_s));
        elapsed_s.map_or(Percent::ZERO, |elapsed_s| self.percent_at(elapsed_s))
    }

    /// The first stage that begins later than `elapsed_s` seconds after the start.
    pub fn next_after(&self, elapsed_s: u64) -> Option<Stage> {
        self.stages.iter().copied().find(|stage| stage.after_s > elapsed_s)
    }
}

fn check_step(before: Stage, stage: Stage) -> Result<(), ScheduleError> {
    let (before_s, after_s) = (before.after_s, stage.after_s);
    if after_s <= before_s {
        return Err(ScheduleError::Backwards { before_s, after_s });
    }
    if stage.percent < before.percent {
        let (before, percent) = (before.percent, stage.percent);
        return Err(ScheduleError::Down { before, percent, after_s });
    }
    Ok(())
}

/// As it is written with its start.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Started {
    #[serde(default, rename = "start", with = "wall_time::optional")]
    start_s: Option<u64>,
    stages: Vec<Stage>,
}

impl TryFrom<Started> for Schedule {
    type Error = ScheduleError;

    fn try_from(written: Started) -> Result<Self, ScheduleError> {
        let schedule = Self::new(written.stages)?;
        match written.start_s {
            Some(start_s) if !wall_time::is_writable(start_s) => Err(ScheduleError::Start(start_s)),
            start_s => Ok(Self { start_s, ..schedule }),
        }
    }
}

impl<'de> Deserialize<'de> for Schedule {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(ScheduleVisitor)
    }
}

/// Takes the stages alone, or an object with the start too.
struct ScheduleVisitor;

impl<'de> de::Visitor<'de> for ScheduleVisitor {
    type Value = Schedule;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("stages of after_s and percent, or an object of start and stages")
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, stages: A) -> Result<Schedule, A::Error> {
        let stages = Vec::deserialize(SeqAccessDeserializer::new(stages))?;
        Schedule::new(stages).map_err(de::Error::custom)
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Schedule, A::Error> {
        let written = Started::deserialize(MapAccessDeserializer::new(map))?;
        Schedule::try_from(written).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(after_s: u64, percent: u8) -> Stage {
        Stage { after_s, percent: Percent::whole(percent) }
    }

    #[test]
    fn what_is_due_follows_the_stages() {
        let schedule = Schedule::new(vec![stage(10, 5), stage(20, 5), stage(30, 100)]).unwrap();
        let due = [0, 9, 10, 29, 30, u64::MAX].map(|elapsed_s| schedule.percent_at(elapsed_s));
        assert_eq!(due, [0, 0, 5, 5, 100, 100].map(Percent::whole));
        assert_eq!(schedule.next_after(10), Some(stage(20, 5)));
        assert_eq!(schedule.next_after(30), None);
        let started = schedule.started_at(1000);
        let due = [0, 999, 1000, 1010, 1030].map(|now_s| started.percent_on(now_s));
        assert_eq!(due, [0, 0, 0, 5, 100].map(Percent::whole));
    }

    #[test]
    fn the_guides_table_is_there() {
        const WEEK_S: u64 = 604_800;
        let row = |week: u64| Flag::ALL.map(|flag| Schedule::guide(flag).percent_at(week * WEEK_S));
        let weeks = [0, 2, 3, 4, 5].map(row);
        let expected = [
            [0, 0, 0, 0, 0],
            [50, 10, 10, 0, 10],
            [100, 50, 50, 10, 50],
            [100, 100, 100, 50, 100],
            [100; 5],
        ];
        assert_eq!(weeks, expected.map(|row| row.map(Percent::whole)));
        assert_eq!(row(1)[0], Percent::whole(10));
        for flag in Flag::ALL {
            let guide = Schedule::guide(flag);
            assert_eq!(Schedule::new(guide.stages().to_vec()), Ok(guide));
        }
    }

    #[test]
    fn stages_out_of_order_are_refused() {
        let refused = |stages: Vec<Stage>| Schedule::new(stages).unwrap_err().to_string();
        assert!(refused(vec![stage(10, 5), stage(10, 6)]).contains("goes backwards"));
        assert!(
            refused(vec![stage(10, 5), stage(9, 6)]).contains("after 9 s follows one after 10 s")
        );
        assert!(
            refused(vec![stage(1, 5), stage(2, 4)])
                .contains("goes down: 4 % after 2 s follows 5 %")
        );
        assert_eq!(refused(Vec::new()), "a schedule needs a stage");
        let many = (0..=MAX_SCHEDULE_STAGES as u64).map(|after_s| stage(after_s, 1));
        assert!(refused(many.collect()).contains("65 stages"));
    }

    #[test]
    fn both_written_forms_are_read() {
        let read = |json: &str| serde_json::from_str::<Schedule>(json);
        let bare = read("[{\"after_s\":1,\"percent\":10}]").unwrap();
        assert_eq!(bare, Schedule::new(vec![stage(1, 10)]).unwrap());
        let started = bare.started_at(1_798_761_600);
        let json = serde_json::to_string(&started).unwrap();
        assert_eq!(
            json,
            "{\"start\":\"2027-01-01T00:00:00Z\",\"stages\":[{\"after_s\":1,\"percent\":10}]}"
        );
        assert_eq!(read(&json).unwrap(), started);
        for bad in
            ["[]", "{}", "1", "[{\"after_s\":-1,\"percent\":1}]", "{\"start\":1e18,\"stages\":[]}"]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}

//! What a drill found, part by part, and what many drills say together.

use crate::cli::trial::verdict::{Outcome, Verdict};
use serde::Serialize;

/// What one drill says of one of its parts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// The part.
    pub what: &'static str,
    /// Whether it went as it must.
    pub held: bool,
    /// By what that is told.
    pub evidence: String,
    /// What was measured.
    pub figures: Vec<Figure>,
}

/// Something that was measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// What.
    pub name: &'static str,
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: &'static str,
}

impl Finding {
    /// A finding without figures.
    pub fn new(what: &'static str, held: bool, evidence: impl Into<String>) -> Self {
        Self { what, held, evidence: evidence.into(), figures: Vec::new() }
    }

    /// With a further figure.
    pub fn with(mut self, name: &'static str, value: f64, unit: &'static str) -> Self {
        self.figures.push(Figure { name, value, unit });
        self
    }
}

/// One verdict for each part that was due. A part that a drill did not come to is not judged, and so
/// are all where no drill was made.
pub fn verdicts(parts: &[&'static str], drills: &[Vec<Finding>]) -> Vec<Verdict> {
    parts.iter().map(|part| verdict(part, drills)).collect()
}

fn verdict(part: &str, drills: &[Vec<Finding>]) -> Verdict {
    let of = |drill: &'_ Vec<Finding>| drill.iter().find(|found| found.what == part).cloned();
    let found: Vec<Finding> = drills.iter().filter_map(of).collect();
    let failed = found.iter().find(|found| !found.held);
    let outcome = match failed {
        Some(_) => Outcome::Failed,
        None if found.is_empty() || found.len() < drills.len() => Outcome::NotJudged,
        None => Outcome::Held,
    };
    let evidence = match (&found[..], failed) {
        ([], _) => "it did not come to that".to_owned(),
        ([one], _) if drills.len() == 1 => one.evidence.clone(),
        (all, failed) => {
            let held = all.iter().filter(|found| found.held).count();
            let mut text = format!("{held} of {} held", drills.len());
            summarise(all).into_iter().for_each(|figure| text += &format!("; {figure}"));
            failed.into_iter().for_each(|one| text += &format!("; failed: {}", one.evidence));
            text
        }
    };
    Verdict { what: part.to_owned(), outcome, evidence }
}

/// The median and the greatest value of each figure.
fn summarise(found: &[Finding]) -> Vec<String> {
    let names = found.first().map_or(&[][..], |first| &first.figures[..]);
    let line = |figure: &Figure| {
        let (name, unit) = (figure.name, figure.unit);
        let all = found.iter().flat_map(|found| &found.figures);
        let mut values: Vec<f64> = all.filter(|of| of.name == name).map(|of| of.value).collect();
        values.sort_by(f64::total_cmp);
        let [median, most] = [values[values.len() / 2], values[values.len() - 1]];
        format!("{name}: median {median:.0}, at most {most:.0} {unit}")
    };
    names.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(held: bool, ms: f64) -> Finding {
        Finding::new("kill", held, format!("after {ms} ms")).with("time", ms, "ms")
    }

    #[test]
    fn one_drill_speaks_for_itself() {
        let [verdict] = &verdicts(&["kill"], &[vec![finding(true, 7.0)]])[..] else { panic!() };
        assert_eq!((verdict.outcome, &*verdict.evidence), (Outcome::Held, "after 7 ms"));
    }

    #[test]
    fn many_drills_hold_only_together() {
        let outcome = |drills: &[Vec<Finding>]| verdicts(&["kill"], drills).remove(0);
        let good: Vec<_> = [3.0, 1.0, 9.0].map(|ms| vec![finding(true, ms)]).into();
        let held = outcome(&good);
        assert_eq!(held.outcome, Outcome::Held);
        assert_eq!(held.evidence, "3 of 3 held; time: median 3, at most 9 ms");
        let failed = outcome(&[good.clone(), vec![vec![finding(false, 50.0)]]].concat());
        assert_eq!(failed.outcome, Outcome::Failed);
        assert!(
            failed
                .evidence
                .ends_with("3 of 4 held; time: median 9, at most 50 ms; failed: after 50 ms")
        );
        // One that ended before it came so far proves nothing.
        assert_eq!(outcome(&[good, vec![vec![]]].concat()).outcome, Outcome::NotJudged);
        assert_eq!(outcome(&[]).outcome, Outcome::NotJudged);
        assert_eq!(outcome(&[]).evidence, "it did not come to that");
    }
}

//! A plot of a rollout in text: the percentage of each flag over time.

use crate::rollout::Flag;
use crate::rollout::simulator::Outcome;

const MOST_COLUMNS: usize = 72;
/// From little to all; nothing is a dot.
const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A heading, a line for each flag and a scale.
pub fn percentages(outcome: &Outcome) -> Vec<String> {
    let columns = outcome.points.len().min(MOST_COLUMNS);
    if columns == 0 {
        return Vec::new();
    }
    let width = outcome.flags.iter().map(|flag| flag.flag.name().len()).max().unwrap_or(0);
    let mut lines = vec!["Percentage of units over time; X: rolled back".to_owned()];
    for flag in &outcome.flags {
        let name = flag.flag.name();
        lines.push(format!("{name:width$} |{}|", line(outcome, flag.flag, columns)));
    }
    let end = format!("day {:.0}", outcome.days);
    let begin = "day 0";
    let space = columns.saturating_sub(begin.len());
    lines.push(format!("{:width$}  {begin}{end:>space$}", ""));
    lines
}

fn line(outcome: &Outcome, flag: Flag, columns: usize) -> String {
    let points = outcome.points.len();
    let back = outcome.flag(flag).and_then(|flag| flag.rolled_back_at_day);
    let mark = |column: usize| {
        let (from, to) = (column * points / columns, (column + 1) * points / columns);
        let begins = from.checked_sub(1).map_or(0.0, |before| outcome.points[before].at_day);
        let ends = outcome.points[to - 1].at_day;
        if back.is_some_and(|day| begins < day && day <= ends) {
            return 'X';
        }
        let figures = outcome.points[to - 1].flags.iter().find(|point| point.flag == flag);
        level(figures.map_or(0.0, |point| point.percent.to_f64()))
    };
    (0..columns).map(mark).collect()
}

fn level(percent: f64) -> char {
    if percent <= 0.0 {
        return '.';
    }
    let level = (percent / 100.0 * LEVELS.len() as f64).ceil() as usize;
    LEVELS[level.clamp(1, LEVELS.len()) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::simulator::{Scenario, play};

    #[test]
    fn lines_show_growth_and_the_end_of_it() {
        let scenario: Scenario = serde_json::from_str(
            "{\"days\":20,\"requests_per_min\":4,\"faults\":[{\"at_day\":15,\"flag\":\"hybrid_mode\",
              \"effect\":{\"errors\":{\"percent\":50}}}]}",
        )
        .unwrap();
        let outcome = play(&scenario).unwrap();
        let lines = percentages(&outcome);
        assert_eq!(lines.len(), 5, "{lines:#?}");
        let hybrid = &lines[1];
        assert!(hybrid.starts_with("hybrid_mode           |....."), "{hybrid}");
        assert!(
            hybrid.contains(".▁▁▁") && hybrid.contains("▄X...") && hybrid.ends_with('|'),
            "{hybrid}"
        );
        assert!(lines[4].trim_end().ends_with("day 20"), "{lines:#?}");
        let lengths: Vec<_> = lines[1..4].iter().map(|line| line.chars().count()).collect();
        assert!(lengths.iter().all(|length| *length == lengths[0]), "{lines:#?}");
    }

    #[test]
    fn levels() {
        let levels: String = [0.0, 0.1, 10.0, 50.0, 100.0].map(level).into_iter().collect();
        assert_eq!(levels, ".▁▁▄█");
    }
}

//! Figures as they come: a row on screen, a line of JSON in the file.

use crate::Failure;
use crate::samples::Samples;
use serde::Serialize;
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// One figure and what it is held against.
pub struct Figure<'a> {
    /// Which suite.
    pub suite: &'a str,
    /// Which case of it.
    pub case: &'a str,
    /// What was measured.
    pub metric: &'a str,
    /// Its unit.
    pub unit: &'a str,
    /// libdwcp's measurements.
    pub dwcp: Samples,
    /// The peer, or `target` where there is none to run.
    pub peer_name: &'a str,
    /// Its measurements.
    pub peer: Samples,
    /// What the ratio of the medians is to be.
    pub wanted: Wanted,
}

/// A bound on the ratio of libdwcp to its peer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wanted {
    /// More is better.
    AtLeast(f64),
    /// Less is better.
    AtMost(f64),
}

/// All figures of a run.
pub struct Results {
    file: File,
    rows: Vec<Row>,
}

/// One line of the file.
#[derive(Serialize)]
struct Row {
    suite: String,
    case: String,
    metric: String,
    unit: String,
    dwcp: f64,
    peer_name: String,
    peer: f64,
    ratio: f64,
    wanted: String,
    met: bool,
    rounds: usize,
    dwcp_spread: [f64; 2],
    peer_spread: [f64; 2],
}

impl Results {
    /// Begins a run; results of an earlier one are replaced.
    pub fn create(path: &Path) -> Result<Self, Failure> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let file = File::create(path).map_err(|error| format!("{}: {error}", path.display()))?;
        println!("{}", heading());
        Ok(Self { file, rows: Vec::new() })
    }

    /// Adds a figure.
    pub fn add(&mut self, figure: Figure<'_>) -> Result<(), Failure> {
        let row = Row::from(figure);
        println!("{}", row.line());
        writeln!(self.file, "{}", serde_json::to_string(&row)?)?;
        self.rows.push(row);
        Ok(())
    }

    /// Says what was missed.
    pub fn summarize(&self) {
        let missed: Vec<_> = self.rows.iter().filter(|row| !row.met).collect();
        println!("\n{} figures, {} as wanted", self.rows.len(), self.rows.len() - missed.len());
        for row in missed {
            let Row { suite, case, metric, ratio, wanted, peer_name, .. } = row;
            println!("  missed: {suite} {case} {metric}: {ratio:.2} of {peer_name}, {wanted}");
        }
    }
}

impl From<Figure<'_>> for Row {
    fn from(figure: Figure<'_>) -> Self {
        let (dwcp, peer) = (figure.dwcp.median(), figure.peer.median());
        let ratio = dwcp / peer;
        Self {
            suite: figure.suite.into(),
            case: figure.case.into(),
            metric: figure.metric.into(),
            unit: figure.unit.into(),
            dwcp,
            peer_name: figure.peer_name.into(),
            peer,
            ratio,
            wanted: figure.wanted.to_string(),
            met: figure.wanted.is_met(ratio),
            rounds: figure.dwcp.len(),
            dwcp_spread: figure.dwcp.spread(),
            peer_spread: figure.peer.spread(),
        }
    }
}

impl Row {
    fn line(&self) -> String {
        let spread = |[low, high]: [f64; 2]| format!("{low:.4} to {high:.4}");
        format!(
            "{:<9} {:<22} {:<20} {:<7} {:>10.3} {:<14} {:>10.3} {:>6.2} {:<8} {:<6} {} | {}",
            self.suite,
            self.case,
            self.metric,
            self.unit,
            self.dwcp,
            self.peer_name,
            self.peer,
            self.ratio,
            self.wanted,
            if self.met { "met" } else { "MISSED" },
            spread(self.dwcp_spread),
            spread(self.peer_spread),
        )
    }
}

impl Wanted {
    fn is_met(self, ratio: f64) -> bool {
        match self {
            Wanted::AtLeast(bound) => ratio >= bound,
            Wanted::AtMost(bound) => ratio <= bound,
        }
    }
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Wanted::AtLeast(bound) => write!(to, ">= {bound:.2}"),
            Wanted::AtMost(bound) => write!(to, "<= {bound:.2}"),
        }
    }
}

fn heading() -> String {
    format!(
        "{:<9} {:<22} {:<20} {:<7} {:>10} {:<14} {:>10} {:>6} {:<8} {:<6} {}",
        "suite",
        "case",
        "metric",
        "unit",
        "dwcp",
        "peer_name",
        "peer",
        "ratio",
        "wanted",
        "",
        "spread: dwcp | peer",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_holds_the_medians_and_the_verdict() {
        let figure = |wanted| Figure {
            suite: "net",
            case: "1 stream",
            metric: "throughput",
            unit: "Gbit/s",
            dwcp: Samples::from(9.0),
            peer_name: "iperf3",
            peer: Samples::from(10.0),
            wanted,
        };
        let row = Row::from(figure(Wanted::AtLeast(0.9)));
        assert_eq!((row.ratio, row.met, row.wanted.as_str()), (0.9, true, ">= 0.90"));
        assert!(!Row::from(figure(Wanted::AtMost(0.8))).met);
        let json = serde_json::to_value(&row).expect("JSON");
        for key in ["suite", "case", "metric", "unit", "dwcp", "peer_name", "peer", "ratio"] {
            assert!(json.get(key).is_some(), "{key}");
        }
    }
}

//! `rollout`: a rollout played on a simulated cluster.

use crate::cli::args::Rollout;
use crate::cli::error::CliError;
use crate::cli::output::{Output, row};
use crate::cli::rollout_plot;
use crate::config::scenario;
use crate::rollout::guard::evidence::{count, rounded};
use crate::rollout::simulator::{ArmPoint, FlagPoint, Outcome, play};
use serde_json::json;
use std::path::Path;

pub fn run(command: Rollout, output: &Output) -> Result<(), CliError> {
    match command {
        Rollout::Simulate { scenario, seed } => simulate(&scenario, seed, output),
    }
}

fn simulate(file: &Path, seed: Option<u64>, output: &Output) -> Result<(), CliError> {
    let refused = |error: &dyn std::fmt::Display| CliError::Argument(error.to_string());
    let name = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|error| refused(&format!("cannot read {name}: {error}")))?;
    let mut scenario =
        scenario::from_text(&name.to_string(), &text).map_err(|error| refused(&error))?;
    scenario.seed = seed.unwrap_or(scenario.seed);
    let outcome = play(&scenario).map_err(|error| refused(&error))?;
    if output.json() {
        return output.value(&json!(outcome));
    }
    print(&outcome, output)
}

fn print(outcome: &Outcome, output: &Output) -> Result<(), CliError> {
    let Outcome { name, seed, days, requests, .. } = outcome;
    let (days, requests) = (rounded(*days), count(*requests));
    output.line(&format!("{name}: {days} days, {requests} requests, seed {seed}"))?;
    output.line("")?;
    let mut events = vec![row(["DAY", "FLAG", "WHAT HAPPENED"])];
    events.extend(outcome.events.iter().map(|event| {
        let flag = event.flag.map_or("-", |flag| flag.name()).to_owned();
        vec![format!("{:.2}", event.at_day), flag, event.what.to_string()]
    }));
    output.table(&events)?;
    output.line("")?;
    for line in rollout_plot::percentages(outcome) {
        output.line(&line)?;
    }
    output.line("")?;
    output.table(&arms(outcome))?;
    output.line("")?;
    for flag in &outcome.flags {
        let (name, percent) = (flag.flag, flag.percent);
        output.line(&match (&flag.rolled_back_at_day, &flag.evidence) {
            (Some(day), Some(evidence)) => {
                format!("{name}: rolled back on day {day:.2}: {evidence}")
            }
            _ => format!("{name}: on for {percent} %"),
        })?;
    }
    Ok(())
}

/// Canary against control, at the last time that the flag was on for some and off for others.
fn arms(outcome: &Outcome) -> Vec<Vec<String>> {
    let heading = row(["FLAG", "LAST COMPARED", "", "REQUESTS", "FAILED", "LATENCY", "THROUGHPUT"]);
    let mut rows = vec![heading];
    for flag in &outcome.flags {
        let compared = outcome.points.iter().rev().find_map(|point| {
            let figures = point.flags.iter().find(|figures| figures.flag == flag.flag)?;
            is_compared(figures).then_some((point.at_day, figures))
        });
        let Some((day, figures)) = compared else { continue };
        let day = format!("day {day:.2}");
        rows.push(arm(flag.flag.name(), &day, "with it", &figures.treated));
        rows.push(arm("", "", "without", &figures.control));
    }
    rows
}

fn is_compared(figures: &FlagPoint) -> bool {
    figures.treated.requests > 0 && figures.control.requests > 0
}

fn arm(flag: &str, day: &str, which: &str, figures: &ArmPoint) -> Vec<String> {
    let failed = 100.0 * figures.failures as f64 / figures.requests.max(1) as f64;
    let ratio =
        |ratio: Option<f64>| ratio.map_or_else(|| "-".to_owned(), |ratio| format!("x{ratio:.2}"));
    vec![
        flag.to_owned(),
        day.to_owned(),
        which.to_owned(),
        count(figures.requests),
        format!("{failed:.2} %"),
        ratio(figures.latency_ratio),
        ratio(figures.throughput_ratio),
    ]
}

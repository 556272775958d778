//! `rollout`: how rollouts stand, one played on a simulated cluster, and one on nodes of this machine.

use super::drill;
use crate::cli::args::Rollout;
use crate::cli::client::Client;
use crate::cli::error::CliError;
use crate::cli::output::{Output, row, text};
use crate::cli::rollout_plot;
use crate::config::scenario;
use crate::rollout::controller::HoldReason;
use crate::rollout::guard::evidence::{count, rounded};
use crate::rollout::simulator::{ArmPoint, FlagPoint, Outcome, play};
use serde_json::{Value, json};
use std::path::Path;

pub async fn run(command: Rollout, client: &Client, output: &Output) -> Result<u8, CliError> {
    match command {
        Rollout::Status => status(&client.get("/v3/rollout").await?, output)?,
        Rollout::Simulate { scenario, seed } => simulate(&scenario, seed, output)?,
        Rollout::Drill(options) => return drill::run(options, output).await,
    }
    Ok(0)
}

fn status(answer: &Value, output: &Output) -> Result<(), CliError> {
    if output.json() {
        return output.value(answer);
    }
    if let Some(why) = answer["killed"].as_str() {
        output.line(&format!("the kill switch is on, every flag is off: {why}"))?;
    }
    let mut rows = vec![row(["FLAG", "PERCENT", "WATCHED", "REQUESTS", "FAILED", "WHAT HOLDS IT"])];
    let flags = answer["flags"].as_array().into_iter().flatten();
    let rollouts = answer["rollouts"].as_array().into_iter().flatten();
    for (flag, ramp) in flags.zip(rollouts) {
        let is_watched = if ramp["is_in_flight"] == true { "yes" } else { "no" };
        let held = match &flag["latch"]["reason"] {
            Value::String(reason) => format!("rolled back: {reason}"),
            _ if answer["killed"].is_string() => "the kill switch".to_owned(),
            _ => held_by(&ramp["hold"]),
        };
        rows.push(vec![
            text(&flag["name"]),
            text(&flag["rollout_percent"]),
            is_watched.to_owned(),
            text(&ramp["requests"]),
            text(&ramp["failures"]),
            held,
        ]);
    }
    output.table(&rows)?;
    let limits = &answer["limits"];
    output.line("")?;
    output.line(&format!(
        "rolled back where more than {} % of requests fail, round trips are longer by {} %, less than {} of the \
         throughput is left, or modes change more than {} times a minute",
        limits["max_error_rate"],
        limits["max_latency_increase"],
        limits["min_throughput_ratio"],
        limits["max_mode_switch_rate"],
    ))
}

/// A newer node's reasons are shown as they came.
fn held_by(hold: &Value) -> String {
    match serde_json::from_value::<Option<HoldReason>>(hold.clone()) {
        Ok(Some(reason)) => reason.to_string(),
        Ok(None) => "-".to_owned(),
        Err(_) => hold.to_string(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_a_flag_is_a_sentence() {
        let reasons = [
            (json!(null), "-"),
            (json!("clock_jumped"), "the clock jumped"),
            (json!({ "missing_data": "latency" }), "nothing was heard of latency for an hour"),
            (json!("of_a_newer_node"), "\"of_a_newer_node\""),
        ];
        for (hold, text) in reasons {
            assert_eq!(held_by(&hold), text);
        }
    }
}

//! `chaos-test`: faults on purpose, and who has the guest afterwards.

use crate::cli::args::ChaosTest;
use crate::cli::error::{CliError, FAILED, INTERRUPTED};
use crate::cli::output::{Output, row};
use crate::cli::trial::chaos::{Options, Scenario, Stage, Tally, run as run_scenario};
use crate::cli::trial::interrupts::Interrupts;
use crate::cli::trial::{TrialError, verdict::Outcome};
use crate::config::units::format_duration;
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

pub async fn run(options: ChaosTest, output: &Output) -> Result<u8, CliError> {
    dwcp_netlab::rights::check().map_err(TrialError::from)?;
    // Kept from here to the end: whatever is set up is taken down again.
    let mut interrupts = Interrupts::catch().map_err(CliError::Runtime)?;
    let seed = options.seed.unwrap_or_else(seed_of_the_moment);
    let scenarios = match options.scenarios.is_empty() {
        true => Scenario::ALL.to_vec(),
        false => options.scenarios.clone(),
    };
    if !output.json() {
        output.line(&format!(
            "two nodes in networks of their own, over {}, {} for each of {} scenarios, seed {seed}",
            if options.plain { "plain TCP" } else { "TLS" },
            format_duration(options.duration),
            scenarios.len(),
        ))?;
    }
    let mut tallies: Vec<(Scenario, Tally)> = Vec::new();
    let is_interrupted = tokio::select! {
        done = run_all(&scenarios, &options, seed, &mut tallies, output) => done.map(|()| false)?,
        () = interrupts.recv() => true,
    };
    let has_passed = !is_interrupted
        && tallies.len() == scenarios.len()
        && tallies.iter().all(|(_, tally)| tally.outcome() == Outcome::Held);
    print(&tallies, (has_passed, is_interrupted, seed), output)?;
    Ok(match (is_interrupted, has_passed) {
        (true, _) => INTERRUPTED,
        (false, true) => 0,
        (false, false) => FAILED,
    })
}

/// Each scenario on a stage of its own, so that none inherits another's troubles.
async fn run_all(
    scenarios: &[Scenario],
    options: &ChaosTest,
    seed: u64,
    tallies: &mut Vec<(Scenario, Tally)>,
    output: &Output,
) -> Result<(), CliError> {
    for scenario in scenarios {
        let (guest_bytes, is_plain) = (options.guest_memory, options.plain);
        let mut stage = Stage::new(Options { guest_bytes, is_plain, seed }).await?;
        let mut tally = Tally::default();
        run_scenario(&mut stage, *scenario, options.duration, options.spoil, &mut tally).await;
        drop(stage);
        if !output.json() {
            let injected = tally.injected(*scenario);
            output.line(&format!("{}: {injected}; {}", scenario.name(), tally.survived()))?;
        }
        tallies.push((*scenario, tally));
    }
    Ok(())
}

fn print(
    tallies: &[(Scenario, Tally)],
    (has_passed, is_interrupted, seed): (bool, bool, u64),
    output: &Output,
) -> Result<(), CliError> {
    if output.json() {
        let rows: Vec<Value> = tallies.iter().map(in_json).collect();
        return output.value(&json!({
            "passed": has_passed,
            "interrupted": is_interrupted,
            "seed": seed,
            "scenarios": rows,
        }));
    }
    let mut rows = vec![row(["SCENARIO", "INJECTED", "SURVIVED", "VERDICT", "EVIDENCE"])];
    for (scenario, tally) in tallies {
        rows.push(vec![
            scenario.name().to_owned(),
            tally.injected(*scenario),
            tally.survived(),
            tally.outcome().name().to_owned(),
            tally.evidence(),
        ]);
    }
    output.table(&rows)?;
    output.line(match (is_interrupted, has_passed) {
        (true, _) => "interrupted",
        (false, true) => "passed",
        (false, false) => "FAILED",
    })
}

fn in_json((scenario, tally): &(Scenario, Tally)) -> Value {
    let mut value = json!(tally);
    value["scenario"] = scenario.name().into();
    value["outcome"] = json!(tally.outcome());
    value["evidence"] = tally.evidence().into();
    value
}

/// Another one each time; it is printed, so that a run can be repeated.
fn seed_of_the_moment() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::from(now.subsec_nanos()) ^ now.as_secs()
}

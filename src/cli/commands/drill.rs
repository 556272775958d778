//! `rollout drill`: the rehearsal of a rollback, once or many times, and what came of it.

use crate::cli::error::{CliError, FAILED, INTERRUPTED};
use crate::cli::output::Output;
use crate::cli::trial::drill::{DrillOptions, Finding, Part, Story, run as run_drill, verdicts};
use crate::cli::trial::interrupts::Interrupts;
use crate::cli::trial::verdict::{self, all_held};
use serde_json::json;

pub async fn run(options: DrillOptions, output: &Output) -> Result<u8, CliError> {
    options.check().map_err(CliError::Argument)?;
    // Kept from here to the end: whatever is started is ended again.
    let mut interrupts = Interrupts::catch().map_err(CliError::Runtime)?;
    let mut drills: Vec<Vec<Finding>> = Vec::new();
    let is_interrupted = tokio::select! {
        done = repeat(&options, &mut drills, output) => done.map(|()| false)?,
        () = interrupts.recv() => true,
    };
    let verdicts = verdicts(&Part::of(&options), &drills);
    let has_passed = !is_interrupted && all_held(&verdicts);
    match output.json() {
        true => output.value(&json!({
            "passed": has_passed,
            "interrupted": is_interrupted,
            "flag": options.flag,
            "nodes": options.nodes,
            "verdicts": verdicts,
            "drills": drills,
        }))?,
        false => verdict::print(&verdicts, output)?,
    }
    Ok(match (is_interrupted, has_passed) {
        (true, _) => INTERRUPTED,
        (false, true) => 0,
        (false, false) => FAILED,
    })
}

async fn repeat(
    options: &DrillOptions,
    drills: &mut Vec<Vec<Finding>>,
    output: &Output,
) -> Result<(), CliError> {
    for number in 1..=options.repeats {
        let is_told = !output.json() && options.repeats == 1;
        let findings = run_drill(options, &Story::to(is_told.then_some(output))).await;
        if !output.json() && options.repeats > 1 {
            let of = options.repeats;
            output.line(&match findings.iter().find(|finding| !finding.held) {
                None => format!("drill {number} of {of}: held"),
                Some(first) => {
                    format!("drill {number} of {of}: {}: {}", first.what, first.evidence)
                }
            })?;
        }
        drills.push(findings);
    }
    Ok(())
}

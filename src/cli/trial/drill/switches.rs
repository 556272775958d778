//! The ways back that need no evidence: the kill switch's file and `disable-all`, on every node, with
//! migrations under way; and before them the end of a rollback.

use super::finding::Finding;
use super::flags;
use super::star::{HUB, Star};
use super::{DrillOptions, Part, Story};
use crate::cli::trial::TrialError;
use crate::cli::trial::crowd::{Crowd, Member, at_once};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A way to switch everything off.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Switch {
    File,
    DisableAll,
}

impl Switch {
    fn part(self) -> &'static str {
        match self {
            Switch::File => Part::KILL,
            Switch::DisableAll => Part::DISABLE_ALL,
        }
    }

    async fn throw(self, member: &Member) -> Result<(), TrialError> {
        match self {
            Switch::File => std::fs::write(kill_switch(member), "").map_err(TrialError::Scratch),
            Switch::DisableAll => flags::disable_all(member, "drill: all of it off").await,
        }
    }

    /// The file goes, and the node notices; the other is taken back by whoever enables flags again.
    async fn take_back(self, member: &Member) -> Result<(), TrialError> {
        if self == Switch::File {
            std::fs::remove_file(kill_switch(member)).map_err(TrialError::Scratch)?;
            let begun = Instant::now();
            while flags::is_killed(member).await? && begun.elapsed() < PATIENCE {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        }
        Ok(())
    }
}

/// Both switches, one after the other, each from the flag at 100 %.
///
/// # Errors
/// A node is gone, or nothing moves.
pub async fn rehearse(
    star: &mut Star,
    options: &DrillOptions,
    story: &Story<'_>,
) -> Result<Vec<Finding>, TrialError> {
    let mut findings = Vec::new();
    for switch in [Switch::File, Switch::DisableAll] {
        let all = (100, star.seed);
        flags::set_everywhere(&star.crowd, options.flag, all, "drill: 100 %").await?;
        star.go_on_in_peace(Part::MEANWHILE, String::new()).await?;
        star.send_large().await?;
        let thrown = throw(star, switch, options).await?;
        let under_way = star.large_under_way().await?;
        star.go_on_in_peace(Part::MEANWHILE, String::new()).await?;
        let large = star.let_large_come(switch.part(), under_way).await?;
        let evidence = format!("{}; {}", thrown.evidence, large.evidence);
        story.tell(format!("{}: {evidence}", switch.part()))?;
        findings.push(Finding { held: thrown.held && large.held, evidence, ..thrown });
        let take_back = |crowd: Arc<Crowd>, at: usize| async move {
            switch.take_back(&crowd.members()[at]).await
        };
        at_once(&star.crowd, 0..options.nodes, take_back).await?;
    }
    Ok(findings)
}

/// Throws a switch on every node, and looks when the last of them does as v1 does.
async fn throw(star: &Star, switch: Switch, options: &DrillOptions) -> Result<Finding, TrialError> {
    let all = 0..options.nodes;
    let before = flags::is_v1_compatible(&star.crowd.members()[HUB]).await?;
    let begun = Instant::now();
    let throw = |crowd: Arc<Crowd>, at: usize| async move {
        let member = &crowd.members()[at];
        switch.throw(member).await?;
        while !flags::is_v1_compatible(member).await? {
            if begun.elapsed() > PATIENCE {
                return Ok((begun.elapsed(), Some(member.name().to_owned())));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        Ok((begun.elapsed(), None))
    };
    let thrown = at_once(&star.crowd, all, throw).await?;
    let took = thrown.iter().map(|(took, _)| *took).max().unwrap_or_default();
    let late = thrown.iter().find_map(|(_, late)| late.as_ref());
    let (took_ms, within_ms) = (took.as_millis(), options.kill_within.as_millis());
    let nodes = options.nodes;
    let evidence = match late {
        _ if before => "the nodes were v1-compatible before".to_owned(),
        None => format!(
            "the last of {nodes} nodes is v1-compatible after {took_ms} ms; may take {within_ms} ms"
        ),
        Some(name) => format!("{name} is not v1-compatible after {took_ms} ms"),
    };
    let held = late.is_none() && took <= options.kill_within && !before;
    let finding = Finding::new(switch.part(), held, evidence);
    Ok(finding.with("last node", took.as_secs_f64() * 1e3, "ms"))
}

/// Takes the fault away and ends the rollback: not without a reason, and then for good.
///
/// # Errors
/// A node is gone.
pub async fn clear(
    star: &Star,
    options: &DrillOptions,
    story: &Story<'_>,
) -> Result<Finding, TrialError> {
    let hub = &star.crowd.members()[HUB];
    hub.node.ask(json!({ "do": "mend" })).await?;
    let latched = flags::explain(hub, options.flag, star.crowd.way(HUB, HUB + 1)).await?;
    let refused = flags::clear_latch(hub, options.flag, "").await?;
    let cleared = flags::clear_latch(hub, options.flag, REASON).await?;
    let newest = flags::history(hub).await?.into_iter().next().unwrap_or_default();
    let has_reason = newest["why"] == REASON;
    let held =
        latched["reason"] == "latched_off" && refused.is_some() && cleared.is_none() && has_reason;
    let evidence = match (&refused, &cleared) {
        (None, _) => "cleared without a reason".to_owned(),
        (_, Some(refusal)) => format!("not cleared: {refusal}"),
        (Some(refusal), None) if held => {
            format!("without a reason: {refusal:?}; with one: cleared, and in the history")
        }
        _ => format!("decided by {}, in the history: {newest}", latched["reason"]),
    };
    story.tell(format!("the fault is gone, and {} is cleared with a reason", options.flag))?;
    Ok(Finding::new(Part::CLEAR, held, evidence))
}

fn kill_switch(member: &Member) -> std::path::PathBuf {
    member.node.state_dir.join("kill-switch")
}

/// Why the rollback is ended.
const REASON: &str = "drill: the fault is mended";
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// How long a switch may take before it has failed.
const PATIENCE: Duration = Duration::from_secs(60);

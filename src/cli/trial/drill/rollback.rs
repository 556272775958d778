//! The fault that strikes those who have the flag, and what the nodes' own guards make of it.

use super::finding::Finding;
use super::flags;
use super::star::{HUB, Star, describe};
use super::{DrillOptions, Part, Story};
use crate::cli::trial::TrialError;
use crate::cli::trial::crowd::{Crowd, Member, at_once};
use crate::cli::trial::links::Broken;
use crate::rollout::Flag;
use crate::runtime::clock::wall_clock_us;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What happened from the first broken connection to the last node's answer.
#[derive(Clone, Debug, Default)]
struct Course {
    phase: u32,
    /// When the node in the middle decided, in microseconds since 1970.
    decided_us: u64,
    /// What it said.
    sentence: String,
    /// Requests of paths with the flag, and those that failed, since it was suspected.
    requests: u64,
    failures: u64,
    /// When none of its paths had the flag any more.
    off_here_us: u64,
    /// When none of the other nodes' had.
    off_everywhere_us: u64,
}

/// Breaks connections of treated paths until the guards notice.
///
/// # Errors
/// A node is gone, or nothing moves.
pub async fn rehearse(
    star: &mut Star,
    treated: &[bool],
    options: &DrillOptions,
    story: &Story<'_>,
) -> Result<Vec<Finding>, TrialError> {
    let hub = &star.crowd.members()[HUB];
    let phase = star.crowd.ledger.begin_phase();
    story.tell(
        "from now on connections of migrations break midway on every path that has the flag",
    )?;
    hub.node.ask(json!({ "do": "strike", "flag": options.flag.name() })).await?;
    let Some(event) = first_rollback(hub, options).await? else {
        return give_up(star, phase, options, story).await;
    };
    let mut course = follow(star, &event, options).await?;
    course.phase = phase;
    story.tell(format!("{} decided by itself: {}", hub.name(), course.sentence))?;
    story.tell(format!(
        "off on its own paths {} after the decision, on the last of {} nodes {}",
        ms(course.off_here_us, course.decided_us),
        options.nodes,
        ms(course.off_everywhere_us, course.decided_us),
    ))?;
    let under_way = star.large_under_way().await?;
    // The fault is still there, and so must be what keeps guests from it.
    star.go_on_in_peace(Part::AFTER, "with the fault still there".to_owned()).await?;
    let large = star.let_large_come(Part::ACROSS, under_way).await?;
    story.tell(large.evidence.clone())?;
    let mut findings = vec![
        judge_fault(star, treated, &course).await?,
        judge_decision(star, options, &course).await?,
        judge_effect(star, options, &course).await?,
    ];
    findings.push(large);
    Ok(findings)
}

/// Nothing is wrong, and so nothing must be rolled back.
///
/// # Errors
/// A node is gone, or nothing moves.
pub async fn rehearse_peace(
    star: &mut Star,
    options: &DrillOptions,
    story: &Story<'_>,
) -> Result<Vec<Finding>, TrialError> {
    story.tell("no fault: guests go on with the flag as it is")?;
    let phase = star.go_on_in_peace(Part::AFTER, "without any fault".to_owned()).await?;
    star.wait_for_moves(phase, PEACEFUL_MOVES, |_, _| true).await?;
    let mut rolled_back = Vec::new();
    for member in star.crowd.members() {
        for event in flags::rollbacks(member, 0).await? {
            rolled_back.push(format!("{}: {}", member.name(), message(&event)));
        }
    }
    let under_way = star.large_under_way().await?;
    let large = star.let_large_come(Part::ACROSS, under_way).await?;
    let moved = star.crowd.ledger.all(phase).moved;
    let evidence = match rolled_back.first() {
        None => format!("none in {moved} migrations on {} nodes", options.nodes),
        Some(first) => format!("{} rolled back; first: {first}", rolled_back.len()),
    };
    story.tell(format!("rollbacks: {evidence}"))?;
    Ok(vec![Finding::new(Part::NONE, rolled_back.is_empty(), evidence), large])
}

/// The first rollback that the node tells of; none if it does not in time.
async fn first_rollback(hub: &Member, options: &DrillOptions) -> Result<Option<Value>, TrialError> {
    let begun = Instant::now();
    loop {
        let left = options.notice_within.saturating_sub(begun.elapsed());
        let wait_ms = (left.as_millis() as u64).min(LONGEST_WAIT_MS);
        let found = flags::rollbacks(hub, wait_ms).await?;
        if !found.is_empty() || left.is_zero() {
            return Ok(found.into_iter().next());
        }
    }
}

/// From the decision on: when do the paths of the node that decided lose the flag, and when, told of
/// it as by their operator, those of the last of all others?
async fn follow(star: &Star, event: &Value, options: &DrillOptions) -> Result<Course, TrialError> {
    let members = star.crowd.members();
    let sentence = message(event);
    let why = format!("rolled back by {}: {sentence}", members[HUB].name());
    let why: String = why.chars().take(MOST_REASON).collect();
    let (flag, seed) = (options.flag, star.seed);
    let tell = |crowd: Arc<Crowd>, at: usize| {
        let why = why.clone();
        async move {
            flags::set_percent(&crowd.members()[at], flag, (0, seed), &why).await?;
            wait_until_off(&crowd.members()[at], flag).await
        }
    };
    let others = at_once(&star.crowd, HUB + 1..options.nodes, tell);
    let (off_here_us, off_others_us) =
        tokio::try_join!(wait_until_off(&members[HUB], flag), others)?;
    let treated = |field: &str| event["evidence"]["treated"][field].as_f64().unwrap_or(0.0);
    Ok(Course {
        phase: 0,
        decided_us: event["time_us"].as_u64().unwrap_or(0),
        sentence,
        requests: treated("samples") as u64,
        // The rate is in percent.
        failures: (treated("value") * treated("samples") / 100.0).round() as u64,
        off_here_us,
        off_everywhere_us: off_others_us.into_iter().fold(off_here_us, u64::max),
    })
}

/// When it was first seen that no path of a node can have the flag; the verdict tells if that took
/// too long.
async fn wait_until_off(member: &Member, flag: Flag) -> Result<u64, TrialError> {
    let begun = Instant::now();
    while flags::is_in_force(member, flag).await? && begun.elapsed() < PATIENCE {
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    Ok(wall_clock_us())
}

/// The fault must have been one, and for those alone who had the flag.
async fn judge_fault(
    star: &Star,
    treated: &[bool],
    course: &Course,
) -> Result<Finding, TrialError> {
    let is_treated = |from: usize, to: usize| from == HUB && treated[to - HUB - 1];
    let struck = star.crowd.ledger.tally(course.phase, is_treated);
    let spared = star.crowd.ledger.tally(course.phase, |from, to| !is_treated(from, to));
    let broken = broken(star).await?;
    let held = broken.midway > 0 && spared.failed == 0 && spared.moved > 0;
    let evidence = format!(
        "{} connections of treated paths broken midway, {} when they tried again; {} of their \
         migrations failed, {} were saved; of the others: {}",
        broken.midway,
        broken.connections - broken.midway,
        struck.failed,
        struck.moved,
        describe(&spared)
    );
    Ok(Finding::new(Part::FAULT, held, evidence))
}

/// It must have been decided by the node itself, on evidence, and of this flag alone.
async fn judge_decision(
    star: &Star,
    options: &DrillOptions,
    course: &Course,
) -> Result<Finding, TrialError> {
    let mut others = Vec::new();
    for member in star.crowd.members() {
        for event in flags::rollbacks(member, 0).await? {
            if event["flag"] != options.flag.name() {
                others.push(format!("{}: {}", member.name(), message(&event)));
            }
        }
    }
    let first_us = broken(star).await?.first_us;
    let since_first_ms = course.decided_us.saturating_sub(first_us) as f64 / 1e3;
    let Course { failures, requests, sentence, .. } = course;
    let evidence = match others.first() {
        Some(other) => format!("something else was rolled back too; {other}"),
        None => format!(
            "{since_first_ms:.0} ms after the first broken connection, by {failures} failures in \
             {requests} requests: {sentence}"
        ),
    };
    let finding = Finding::new(Part::DECISION, others.is_empty() && *failures > 0, evidence);
    Ok(finding.with("failures", *failures as f64, "before it was decided").with(
        "from the first broken connection",
        since_first_ms,
        "ms",
    ))
}

async fn judge_effect(
    star: &Star,
    options: &DrillOptions,
    course: &Course,
) -> Result<Finding, TrialError> {
    let since = |at_us: u64| at_us.saturating_sub(course.decided_us) as f64 / 1e3;
    let (here_ms, last_ms) = (since(course.off_here_us), since(course.off_everywhere_us));
    let struck_ms = since(broken(star).await?.last_us);
    let within = options.effect_within.as_secs_f64() * 1e3;
    let is_off = !star.treated().await?.contains(&true);
    let evidence = format!(
        "on its own paths after {here_ms:.0} ms, on the last of {} nodes after {last_ms:.0} ms; the \
         last treated connection began after {struck_ms:.0} ms; may take {within:.0} ms",
        options.nodes
    );
    let held = is_off && here_ms <= within && last_ms <= within && struck_ms <= within;
    let finding = Finding::new(Part::EFFECT, held, evidence);
    Ok(finding.with("here", here_ms, "ms").with("on the last node", last_ms, "ms").with(
        "last treated connection",
        struck_ms,
        "ms",
    ))
}

/// A fault that the guards did not notice is taken away, so that the drill can go on.
async fn give_up(
    star: &mut Star,
    phase: u32,
    options: &DrillOptions,
    story: &Story<'_>,
) -> Result<Vec<Finding>, TrialError> {
    let (patience, tally) = (options.notice_within, star.crowd.ledger.all(phase));
    let evidence = format!("nothing within {patience:.1?}; meanwhile {}", describe(&tally));
    story.tell(format!("nobody noticed: {evidence}"))?;
    star.crowd.members()[HUB].node.ask(json!({ "do": "mend" })).await?;
    star.let_large_come(Part::ACROSS, 0).await?;
    Ok(vec![Finding::new(Part::DECISION, false, evidence)])
}

async fn broken(star: &Star) -> Result<Broken, TrialError> {
    let answer = star.crowd.members()[HUB].node.ask(json!({ "do": "broken" })).await?;
    Ok(serde_json::from_value(answer).unwrap_or_default())
}

fn message(event: &Value) -> String {
    event["message"].as_str().unwrap_or_default().to_owned()
}

fn ms(later_us: u64, earlier_us: u64) -> String {
    format!("{:.0} ms", later_us.saturating_sub(earlier_us) as f64 / 1e3)
}

/// How long a node that was told may go on as before; the verdict then says that it did.
const PATIENCE: Duration = Duration::from_secs(60);
/// Of one request.
const LONGEST_WAIT_MS: u64 = 5000;
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// Of each way, without a fault.
const PEACEFUL_MOVES: u64 = 12;
/// Characters of a reason; four bytes each at most.
const MOST_REASON: usize = 250;

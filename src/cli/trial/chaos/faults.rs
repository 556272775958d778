//! The faults of each scenario: one round is one migration in trouble, and the look afterwards.

use super::settle::{judge, judge_lost_destination, judge_orphan};
use super::stage::LINK_RTT;
use super::{Scenario, Stage, Tally};
use crate::cli::args::ChaosSpoil;
use crate::cli::trial::TrialError;
use crate::cli::trial::pair::Ended;
use crate::node::catalog::Metric;
use dwcp_netlab::Direction;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Repeats a scenario until its time is over, a fault is found, or a node fails its part. At least
/// each variant is done once, and again, within limits, where it came when all was over.
pub async fn run(
    stage: &mut Stage,
    scenario: Scenario,
    duration: Duration,
    spoil: Option<ChaosSpoil>,
    tally: &mut Tally,
) {
    let begun = Instant::now();
    for round in 0.. {
        let has_struck = spoil.is_some() || has_struck(scenario, tally) || round >= MOST_MISSES;
        let is_enough = begun.elapsed() >= duration && round >= variants(scenario) && has_struck;
        if is_enough || !tally.faults.is_empty() {
            return;
        }
        let done = match scenario {
            _ if spoil == Some(ChaosSpoil::Faults) => no_fault(stage, tally).await,
            Scenario::NetworkPartition => partition(stage, round, tally).await,
            Scenario::NodeFailure => kill(stage, round, tally).await,
            Scenario::StreamKill => reset(stage, tally).await,
            Scenario::Corruption => corrupt(stage, tally).await,
        };
        let done = match (done, spoil.and_then(ChaosSpoil::order)) {
            (Ok(()), Some(what)) => spoil_guest(stage, what, tally).await,
            (done, _) => done,
        };
        if let Err(error) = done {
            tally.faults.push(error.to_string());
        }
    }
}

/// A migration in peace, which therefore proves nothing.
async fn no_fault(stage: &mut Stage, tally: &mut Tally) -> Result<(), TrialError> {
    let ended = stage.pair.move_guest(&patient(), PATIENCE).await?;
    judge(stage, &ended, tally).await
}

/// Spoils something, and looks.
async fn spoil_guest(stage: &mut Stage, what: &str, tally: &mut Tally) -> Result<(), TrialError> {
    let (home, away) = (stage.pair.home, stage.pair.away());
    let at = if what == "owner" { away } else { home };
    stage.pair.nodes[at].ask(json!({ "do": "spoil", "what": what })).await?;
    let sight = stage.pair.look(home).await?;
    tally.faults.extend(sight.faults);
    Ok(())
}

/// Cuts the link: at some moment shortly, which the migration must survive; at some moment until it
/// gives up; or while the guest changes hands.
async fn partition(stage: &mut Stage, round: u64, tally: &mut Tally) -> Result<(), TrialError> {
    let variant = round % variants(Scenario::NetworkPartition);
    let (is_short, is_at_commit) = (variant == 0, variant == 2);
    let mut options = if is_short { patient() } else { hasty() };
    if is_at_commit {
        // It takes a round trip, and is to be met; over such a path downtime is not short.
        stage.lab.set_rtt(LONG_RTT);
        options["max_downtime"] = "10s".into();
    }
    let id = stage.pair.start(&options).await?;
    let cut = stage.draw_ms(300, 1500);
    match is_at_commit {
        true => stage.pair.wait_for_commit(&id, PATIENCE).await?,
        false => stage.wait_to_strike(&id, PATIENCE).await?,
    }
    let before = dropped(stage);
    stage.lab.set_link_up(false);
    let ended = match is_short {
        true => {
            tokio::time::sleep(cut).await;
            stage.lab.set_link_up(true);
            stage.pair.wait(&id, PATIENCE).await
        }
        false => {
            let ended = stage.pair.wait_at_home(&id, PATIENCE).await;
            stage.lab.set_link_up(true);
            ended
        }
    }?;
    stage.lab.set_rtt(LINK_RTT);
    // A cut that came when all was over has cut nothing.
    tally.injected += u64::from(dropped(stage) > before);
    must_move(&ended, is_short, tally);
    judge(stage, &ended, tally).await
}

/// Kills the destination or the source at some moment.
async fn kill(stage: &mut Stage, round: u64, tally: &mut Tally) -> Result<(), TrialError> {
    let id = stage.pair.start(&hasty()).await?;
    stage.wait_to_strike(&id, PATIENCE).await?;
    tally.injected += 1;
    if !round.is_multiple_of(variants(Scenario::NodeFailure)) {
        stage.pair.nodes[stage.pair.home].kill();
        return judge_orphan(stage, &id, tally).await;
    }
    stage.pair.nodes[stage.pair.away()].kill();
    let ended = stage.pair.wait_at_home(&id, PATIENCE).await?;
    judge_lost_destination(stage, &ended, tally).await
}

/// Resets one to all of a migration's connections again and again.
async fn reset(stage: &mut Stage, tally: &mut Tally) -> Result<(), TrialError> {
    let direction = stage.direction();
    let before = stage.lab.stats(direction).resets;
    let id = stage.pair.start(&patient()).await?;
    for _ in 0..MOST_RESETS {
        let pause = stage.draw_ms(50, 150);
        tokio::time::sleep(pause).await;
        if stage.pair.has_ended(&id).await? {
            break;
        }
        let connections = 1 + stage.random.next_u64() % STREAMS;
        stage.lab.reset_connections(direction, connections);
    }
    let ended = stage.pair.wait(&id, PATIENCE).await;
    stage.lab.reset_connections(direction, 0);
    let ended = ended?;
    must_move(&ended, true, tally);
    tally.injected += stage.lab.stats(direction).resets - before;
    tally.noticed += ended.report["reconnects"].as_u64().unwrap_or(0);
    judge(stage, &ended, tally).await
}

/// Changes bits of packets in both directions from when a migration is connected until it ends. The
/// connection that opens one is not tried again where TLS finds it forged, and the guest just stays.
async fn corrupt(stage: &mut Stage, tally: &mut Tally) -> Result<(), TrialError> {
    let damaged = |stage: &Stage| {
        let of = |direction| stage.lab.stats(direction).damaged;
        of(Direction::AToB) + of(Direction::BToA)
    };
    let (before, heard) = (damaged(stage), complaints(stage).await?);
    let id = stage.pair.start(&patient()).await?;
    stage.pair.wait_for_connection(&id, PATIENCE).await?;
    stage.lab.set_damage(DAMAGE);
    let ended = stage.pair.wait(&id, PATIENCE).await;
    stage.lab.set_damage(0.0);
    let ended = ended?;
    must_move(&ended, true, tally);
    tally.injected += damaged(stage) - before;
    tally.noticed += complaints(stage).await?.saturating_sub(heard);
    judge(stage, &ended, tally).await
}

/// Trouble that is to cost nothing but time.
fn must_move(ended: &Ended, must: bool, tally: &mut Tally) {
    if must && !ended.is_moved() {
        tally.faults.push(format!("the migration did not survive: {}", ended.reason()));
    }
}

/// Packets that were lost because the link was down.
fn dropped(stage: &Stage) -> u64 {
    let of = |direction| stage.lab.stats(direction).link_down;
    of(Direction::AToB) + of(Direction::BToA)
}

/// How often the nodes found a chunk damaged, or a connection not worth keeping. By their metrics, which
/// count without end; a node keeps only its latest events.
async fn complaints(stage: &Stage) -> Result<u64, TrialError> {
    let mut sum = 0;
    for node in &stage.pair.nodes {
        for metric in [Metric::HdeChunksDamaged, Metric::AmstStreamsLost] {
            let name = metric.declaration().name;
            sum += total(&node.client.query("/v3/metrics", &[("name", Some(name))]).await?);
        }
    }
    Ok(sum)
}

/// The sum over all series of the metrics in a node's answer.
fn total(answer: &Value) -> u64 {
    let metrics = answer["metrics"].as_array().into_iter().flatten();
    let series = metrics.flat_map(|metric| metric["series"].as_array().into_iter().flatten());
    series.filter_map(|series| series["value"].as_f64()).sum::<f64>() as u64
}

/// Leaves time for anything that is to be survived.
fn patient() -> Value {
    json!({ "streams": STREAMS, "reconnect_timeout": "30s", "stall_timeout": "30s" })
}

/// Gives up soon.
fn hasty() -> Value {
    json!({ "streams": STREAMS, "reconnect_timeout": "2s", "stall_timeout": "2s" })
}

/// A short cut, a long one and one at the commit; this node killed and that.
fn variants(scenario: Scenario) -> u64 {
    match scenario {
        Scenario::NetworkPartition => 3,
        Scenario::NodeFailure => 2,
        Scenario::StreamKill | Scenario::Corruption => 1,
    }
}

/// Whether the moments that were drawn have met migrations: a node that is killed when its guest has
/// left, or before anything was sent, tells nothing.
fn has_struck(scenario: Scenario, tally: &Tally) -> bool {
    match scenario {
        Scenario::NodeFailure => tally.died > 0 && tally.noticed > tally.died,
        _ => tally.noticed > 0,
    }
}

const STREAMS: u64 = 4;
/// So many rounds may pass before every variant has met a migration.
const MOST_MISSES: u64 = 12;
/// Of a packet.
const DAMAGE: f64 = 0.001;
/// While the guest changes hands.
const LONG_RTT: Duration = Duration::from_millis(300);
/// In one migration.
const MOST_RESETS: u64 = 20;
/// How long a migration in trouble may take.
const PATIENCE: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nodes_counted_is_the_sum_over_all_series() {
        let series = |value: u64| json!({ "labels": {}, "value": value });
        let answer = json!({ "metrics": [
            { "name": "one", "series": [series(70_000), series(3)] },
            { "name": "other", "series": [series(4)] },
        ] });
        assert_eq!(total(&answer), 70_007);
        assert_eq!(total(&json!({ "error": {} })), 0);
    }
}

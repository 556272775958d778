//! After a fault: who has the guest, is it one alone, and is all of its memory there? Where only a
//! record can tell, this does what an operator does.

use super::{Stage, Tally};
use crate::base::ids::ParseIdError;
use crate::cli::trial::TrialError;
use crate::cli::trial::child::TrialChild;
use crate::cli::trial::pair::{Ended, Sight};
use crate::migration::Owner;
use crate::runtime::record_keeper::owner_by_record;
use crate::runtime::state_file::Side;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Judges a migration that has ended, with both nodes alive.
///
/// # Errors
/// A node is gone.
pub async fn judge(stage: &mut Stage, ended: &Ended, tally: &mut Tally) -> Result<(), TrialError> {
    tally.rounds += 1;
    if ended.is_moved() {
        tally.moved += 1;
        let sight = stage.pair.look_at_arrival(ended).await?;
        take(tally, sight);
        return stage.pair.settle().await;
    }
    tally.noticed += 1;
    tally.failed(&ended.report["status"]);
    match ended.owner() {
        "source" => {
            release(stage, &ended.id).await?;
            stay(stage, tally).await
        }
        "destination" => arrive(stage, tally).await,
        _ => decide(stage, ended, tally).await,
    }
}

/// The guest must go on where it was.
async fn stay(stage: &mut Stage, tally: &mut Tally) -> Result<(), TrialError> {
    tally.stayed += 1;
    let sight = stage.pair.look(stage.pair.home).await?;
    take(tally, sight);
    Ok(())
}

/// The guest must be at the other node, though not all went well. That node would wait a minute for
/// last words from its source, so the trial goes on with new ones.
async fn arrive(stage: &mut Stage, tally: &mut Tally) -> Result<(), TrialError> {
    tally.moved += 1;
    let sight = stage.pair.look(stage.pair.away()).await?;
    take(tally, sight);
    stage.start_over().await
}

/// The link broke at the commit point: the destination's record says who has it.
async fn decide(stage: &mut Stage, ended: &Ended, tally: &mut Tally) -> Result<(), TrialError> {
    tally.decided += 1;
    let away = stage.pair.away();
    if incoming_owner(&stage.pair.nodes[away], &ended.id).await? == "destination" {
        return arrive(stage, tally).await;
    }
    release(stage, &ended.id).await?;
    // It may have taken the guest at the last moment.
    if incoming_owner(&stage.pair.nodes[away], &ended.id).await? == "destination" {
        return arrive(stage, tally).await;
    }
    let home = stage.pair.home;
    stage.pair.nodes[home].tell("start").await?;
    stay(stage, tally).await
}

/// Judges what became of a guest whose node was killed while the guest was leaving it.
///
/// # Errors
/// A node is gone that was not killed.
pub async fn judge_orphan(
    stage: &mut Stage,
    id: &str,
    tally: &mut Tally,
) -> Result<(), TrialError> {
    tally.rounds += 1;
    let (home, away) = (stage.pair.home, stage.pair.away());
    let survivor = &stage.pair.nodes[away];
    let owner = settled_owner(survivor, id).await?;
    let dead = (&stage.pair.nodes[home], Side::Source);
    let recorded = recorded_owner(dead, id, &mut tally.faults);
    if owner == "destination" {
        // It had come before its old node died.
        if recorded == Some(Owner::Source) {
            tally.faults.push("both nodes' records claim the guest".to_owned());
        }
        stage.restart(home).await?;
        return arrive(stage, tally).await;
    }
    tally.noticed += 1;
    tally.died += 1;
    let look = stage.pair.nodes[away].ask(json!({ "do": "look" })).await?;
    if look["is_running"] == true {
        tally.faults.push("the guest runs at the destination, which was not given it".to_owned());
    }
    match recorded {
        // Without a record it had not even begun to give the guest away.
        None | Some(Owner::Source) => {}
        // The commit was on its way; the destination, which never got it, has said so.
        Some(Owner::InDoubt) => tally.decided += 1,
        other => tally.faults.push(format!("the killed node's record says {other:?}, not source")),
    }
    // The operator starts the guest anew, as the record of its node tells him to.
    stage.restart(home).await?;
    stage.pair.nodes[home].tell("boot").await?;
    let sight = stage.pair.look(home).await?;
    take(tally, sight);
    Ok(())
}

/// Judges a migration whose destination was killed, and has been started anew.
///
/// # Errors
/// A node is gone that was not killed.
pub async fn judge_lost_destination(
    stage: &mut Stage,
    ended: &Ended,
    tally: &mut Tally,
) -> Result<(), TrialError> {
    tally.rounds += 1;
    if !ended.is_moved() {
        tally.noticed += 1;
        tally.failed(&ended.report["status"]);
    }
    let (home, away) = (stage.pair.home, stage.pair.away());
    let dead = (&stage.pair.nodes[away], Side::Destination);
    let recorded = recorded_owner(dead, &ended.id, &mut tally.faults);
    stage.restart(away).await?;
    match (ended.owner(), recorded) {
        ("source", None | Some(Owner::Source)) => stay(stage, tally).await,
        ("in_doubt", None | Some(Owner::Source)) => {
            tally.decided += 1;
            stage.pair.nodes[home].tell("start").await?;
            stay(stage, tally).await
        }
        ("destination" | "in_doubt", Some(Owner::Destination)) => {
            // It was given the guest, and the guest died with it.
            tally.died += 1;
            let look = stage.pair.nodes[home].ask(json!({ "do": "look" })).await?;
            if look["is_running"] == true {
                tally.faults.push("the guest runs at the source, which gave it away".to_owned());
            }
            stage.pair.nodes[home].tell("boot").await
        }
        (owner, recorded) => {
            let text = format!("the source says {owner}, the destination's record {recorded:?}");
            tally.faults.push(text);
            Ok(())
        }
    }
}

/// Tells the destination that nothing comes any more, as an operator does who does not want to wait
/// for its timeouts: over a link that was cut, its source could not.
async fn release(stage: &Stage, id: &str) -> Result<(), TrialError> {
    let node = &stage.pair.nodes[stage.pair.away()];
    if node.client.post(&format!("/v3/migrations/{id}/cancel"), json!({})).await.is_ok() {
        stage.pair.wait_at(stage.pair.away(), id, PATIENCE).await?;
    }
    // Otherwise it has never heard of it.
    Ok(())
}

fn take(tally: &mut Tally, sight: Sight) {
    tally.pages += sight.pages;
    tally.faults.extend(sight.faults);
}

/// What a node says of a migration into it; the source's, if it knows none.
async fn incoming_owner(node: &TrialChild, id: &str) -> Result<String, TrialError> {
    let all = node.client.get("/v3/migrations").await?;
    let mut all = all["migrations"].as_array().into_iter().flatten();
    let owner = all.find(|migration| migration["id"] == id).map(|migration| &migration["owner"]);
    Ok(owner.and_then(Value::as_str).unwrap_or("source").to_owned())
}

/// The same, once the node has noticed that its source is gone.
async fn settled_owner(node: &TrialChild, id: &str) -> Result<String, TrialError> {
    let begun = Instant::now();
    loop {
        let migration = node.client.get(&format!("/v3/migrations/{id}")).await;
        let is_settled = match &migration {
            Ok(migration) => {
                migration["progress"]["streams"] == 0 || !migration["report"].is_null()
            }
            // It has never heard of it.
            Err(_) => true,
        };
        if is_settled {
            return incoming_owner(node, id).await;
        }
        if begun.elapsed() > PATIENCE {
            return Err(TrialError::Hangs { id: id.to_owned(), patience_s: PATIENCE.as_secs() });
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Who has the guest by what a node has written down of a migration; a record that cannot be read is a
/// fault of its own.
fn recorded_owner(
    (node, side): (&TrialChild, Side),
    id: &str,
    faults: &mut Vec<String>,
) -> Option<Owner> {
    let owner = id.parse().map_err(|error: ParseIdError| error.to_string()).and_then(|id| {
        owner_by_record(&node.state_dir, id, side).map_err(|error| error.to_string())
    });
    owner.unwrap_or_else(|error| {
        faults.push(format!("what {} has written down cannot be told: {error}", node.name()));
        None
    })
}

const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

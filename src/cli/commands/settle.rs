//! `settle`: who has a guest that is in doubt, once somebody has found out.

use crate::cli::client::Client;
use crate::cli::error::CliError;
use crate::cli::output::{Output, row, text};
use serde_json::{Value, json};

pub async fn run(
    id: Option<&str>,
    owner: Option<&str>,
    client: &Client,
    output: &Output,
) -> Result<(), CliError> {
    let answer = client.get("/v3/doubts").await?;
    let doubts = answer["doubts"].as_array().map_or(&[][..], Vec::as_slice);
    let (Some(id), Some(owner)) = (id, owner) else { return list(&answer, doubts, output) };
    let mut ids: Vec<_> = doubts.iter().map(|doubt| text(&doubt["migration"])).collect();
    ids.retain(|known| !id.is_empty() && known.starts_with(id));
    ids.dedup();
    let [id] = ids.as_slice() else {
        let text = format!("{} migrations in doubt begin with {id:?}", ids.len());
        return Err(CliError::Argument(text));
    };
    let body = json!({ "migration": id, "owner": owner });
    let answer = client.post("/v3/doubts/settle", body).await?;
    if output.json() {
        return output.value(&answer);
    }
    output.line(&format!("migration {id} is settled: the guest is with the {owner}"))
}

fn list(answer: &Value, doubts: &[Value], output: &Output) -> Result<(), CliError> {
    if output.json() {
        return output.value(answer);
    }
    if doubts.is_empty() {
        output.note(match answer["state_dir"].as_str() {
            Some(_) => "no migration is in doubt",
            None => "this node keeps no records: it has no state directory",
        });
        return Ok(());
    }
    let mut rows = vec![row(["MIGRATION", "SIDE", "GUEST", "PEER", "RECORD", "WHAT TO DO"])];
    for doubt in doubts {
        let fields = ["migration", "side", "guest", "peer", "mark", "advice"];
        rows.push(fields.map(|field| text(&doubt[field])).to_vec());
    }
    output.table(&rows)
}

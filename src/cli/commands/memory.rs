//! `baselines-count` and `memory-usage`.

use crate::cli::client::Client;
use crate::cli::error::CliError;
use crate::cli::output::{Output, bytes, percent, row, text};
use serde_json::Value;

pub async fn baselines(client: &Client, output: &Output) -> Result<(), CliError> {
    let answer = client.get("/v3/baselines").await?;
    if output.json() {
        return output.value(&answer);
    }
    output.line(&format!(
        "{} baselines, {} pages, {}; hde.max_baselines is {} for each migration",
        answer["baselines"],
        answer["pages"],
        size(&answer["bytes"]),
        answer["max_baselines"]
    ))?;
    let mut rows = vec![row(["MIGRATION", "GUEST", "SIDE", "BASELINES", "AT MOST", "MEMORY"])];
    for migration in answer["migrations"].as_array().into_iter().flatten() {
        let fields = ["id", "guest", "side", "baselines", "limit"];
        let mut cells: Vec<String> = fields.map(|field| text(&migration[field])).into();
        cells.push(size(&migration["bytes"]));
        rows.push(cells);
    }
    match rows.len() {
        1 => output.line("no migration is under way"),
        _ => output.table(&rows),
    }
}

pub async fn usage(breakdown: bool, client: &Client, output: &Output) -> Result<(), CliError> {
    let answer = client.get("/v3/memory").await?;
    if output.json() {
        return output.value(&answer);
    }
    let resident = answer["rss_bytes"].as_f64().unwrap_or(0.0);
    let share = |count: &Value| percent(count.as_f64().unwrap_or(0.0), resident);
    if breakdown {
        let mut rows = vec![row(["PART", "GUEST", "MIGRATION", "MEMORY", "SHARE"])];
        for part in answer["parts"].as_array().into_iter().flatten() {
            let [name, guest, migration] =
                ["part", "guest", "migration"].map(|field| text(&part[field]));
            rows.push(vec![name, guest, migration, size(&part["bytes"]), share(&part["bytes"])]);
        }
        let sums = [
            ("accounted for", "accounted_bytes"),
            ("the rest of the process", "rest_bytes"),
            ("resident (RSS)", "rss_bytes"),
        ];
        for (name, field) in sums {
            let [none, nobody] = ["-", "-"].map(str::to_owned);
            let count = &answer[field];
            rows.push(vec![name.to_owned(), none, nobody, size(count), share(count)]);
        }
        return output.table(&rows);
    }
    output.line(&format!(
        "{} resident, {} of it accounted for; --breakdown tells the parts",
        size(&answer["rss_bytes"]),
        size(&answer["accounted_bytes"])
    ))
}

fn size(count: &Value) -> String {
    bytes(count.as_u64().unwrap_or(0))
}

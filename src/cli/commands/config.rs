//! `config get`, `config set` and `config list`.

use crate::cli::args::Config;
use crate::cli::client::Client;
use crate::cli::error::CliError;
use crate::cli::output::{Output, row, text};
use serde_json::{Value, json};

pub async fn run(command: Config, client: &Client, output: &Output) -> Result<(), CliError> {
    match command {
        Config::Get { key, verbose } => get(&key, verbose, client, output).await,
        Config::Set { key, value } => set(&key, &value, client, output).await,
        Config::List => list(client, output).await,
    }
}

async fn get(key: &str, verbose: bool, client: &Client, output: &Output) -> Result<(), CliError> {
    let setting = client.get(&path(key)?).await?;
    if output.json() {
        return output.value(&setting);
    }
    if !verbose {
        return output.line(&text(&setting["text"]));
    }
    output.line(&format!("{} = {}", text(&setting["key"]), text(&setting["text"])))?;
    for (title, field) in
        [("meaning", "doc"), ("takes", "type"), ("default", "default"), ("set by", "origin")]
    {
        output.line(&format!("  {title}: {}", text(&setting[field])))?;
    }
    output.line(&format!("  a change {}", takes_hold(&setting)))
}

async fn set(key: &str, value: &str, client: &Client, output: &Output) -> Result<(), CliError> {
    let setting = client.put(&path(key)?, json!({ "value": value })).await?;
    if output.json() {
        return output.value(&setting);
    }
    let line = format!("{} = {}", text(&setting["key"]), text(&setting["text"]));
    output.line(&format!("{line}; it {}", takes_hold(&setting)))
}

async fn list(client: &Client, output: &Output) -> Result<(), CliError> {
    let answer = client.get("/v3/config").await?;
    if output.json() {
        return output.value(&answer);
    }
    let mut rows = vec![row(["KEY", "VALUE", "SET BY", "STATE"])];
    for setting in answer["keys"].as_array().into_iter().flatten() {
        let state = match (&setting["in_use"], &setting["waits_for_restart"]) {
            (Value::Bool(false), _) => "not in use yet",
            (_, Value::Bool(true)) => "waits for a restart",
            _ => "in use",
        };
        let [key, value, origin] = ["key", "text", "origin"].map(|field| text(&setting[field]));
        rows.push(vec![key, value, origin, state.to_owned()]);
    }
    output.table(&rows)
}

fn path(key: &str) -> Result<String, CliError> {
    let known = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if key.is_empty() || !key.chars().all(known) {
        return Err(CliError::Argument(format!("{key:?} is no key; config list shows them all")));
    }
    Ok(format!("/v3/config/{key}"))
}

fn takes_hold(setting: &Value) -> &'static str {
    match setting["applies"].as_str() {
        Some("live") => "takes hold at once",
        Some("next_migration") => "takes hold with the next migration",
        Some("restart") => "takes hold when dwcpd is restarted",
        _ => "is kept, but not in use yet: what it steers is not built yet",
    }
}

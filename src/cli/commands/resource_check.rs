//! `resource-check`.

use crate::cli::args::DEFAULT_CONFIG;
use crate::cli::client::Client;
use crate::cli::daemon::security_options;
use crate::cli::error::{CliError, FAILED};
use crate::cli::output::{Output, text};
use crate::config::{Config, ConfigStore};
use crate::runtime::control::resources::chosen;
use crate::runtime::resources::{Settings, check};
use serde_json::{Value, json};
use std::path::Path;

pub async fn run(components: &[String], client: &Client, output: &Output) -> Result<u8, CliError> {
    let list = components.join(",");
    let answer = match client.query("/v3/resources", &[("components", Some(&list))]).await {
        Ok(answer) => answer,
        Err(CliError::Unreachable { socket, .. }) => {
            let mut answer = without_node(&list)?;
            answer["no_node_at"] = json!(socket);
            answer
        }
        Err(error) => return Err(error),
    };
    let checks = answer["checks"].as_array().cloned().unwrap_or_default();
    let count = |verdict: &str| checks.iter().filter(|check| check["verdict"] == verdict).count();
    let (failed, warnings) = (count("failed"), count("warning"));
    let code = if failed == 0 { 0 } else { FAILED };
    if output.json() {
        let mut answer = answer;
        answer["passed"] = json!(failed == 0);
        answer["failed"] = json!(failed);
        answer["warnings"] = json!(warnings);
        output.value(&answer)?;
        return Ok(code);
    }
    match answer["node"].as_str() {
        Some(node) => output.line(&format!("node {node}, process {}", answer["process"]))?,
        None => output.line(&format!(
            "no node answers at {}: this machine, as this user",
            text(&answer["no_node_at"])
        ))?,
    }
    print(&checks, answer["not_built"].as_array().map_or(&[], Vec::as_slice), output)?;
    let good = checks.len() - failed - warnings;
    output.line(&format!("{good} ok, {warnings} warnings, {failed} failed"))?;
    Ok(code)
}

/// The same checks in this process, by the configuration that a daemon would read.
fn without_node(list: &str) -> Result<Value, CliError> {
    let refused = |status: crate::Status, message: String| CliError::Refused {
        status: status.name().to_owned(),
        message,
    };
    let (components, missing) =
        chosen(list).map_err(|error| refused(error.status, error.message))?;
    let path = Path::new(DEFAULT_CONFIG);
    let config = match path.exists() {
        true => {
            let store = ConfigStore::open(path);
            let store = store.map_err(|error| refused(error.status(), error.to_string()))?;
            (*store.config()).clone()
        }
        false => Config::default(),
    };
    let security = security_options(&config);
    let checks = check(&components, &Settings::of_config(config, security));
    let checks = serde_json::to_value(checks);
    let checks = checks.map_err(|error| CliError::Answer(error.to_string()))?;
    Ok(json!({ "node": null, "process": null, "checks": checks, "not_built": missing }))
}

fn print(checks: &[Value], missing: &[Value], output: &Output) -> Result<(), CliError> {
    for check in checks {
        let [component, what, verdict, found] =
            ["component", "what", "verdict", "found"].map(|field| text(&check[field]));
        output.line(&format!("{verdict:8} {component:8} {what}: {found}"))?;
        if let Some(advice) = check["advice"].as_str() {
            output.line(&format!("{:17} -> {advice}", ""))?;
        }
    }
    for component in missing {
        let (name, title) = (text(&component["name"]), text(&component["title"]));
        output.line(&format!("{:8} {name:8} {title}: not built yet", "-"))?;
    }
    Ok(())
}

//! `feature-flags`: list, set, explain, history, schedule, disable-all, clear-latch, kill.

use crate::base::text::quoted;
use crate::cli::args::{FeatureFlags, FlagSchedule, SetFlag};
use crate::cli::client::Client;
use crate::cli::error::CliError;
use crate::cli::output::{Output, row, text};
use serde_json::{Map, Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub async fn run(command: FeatureFlags, client: &Client, output: &Output) -> Result<(), CliError> {
    match command {
        FeatureFlags::List => list(&client.get("/v3/flags").await?, output),
        FeatureFlags::Set(options) => set(options, client, output).await,
        FeatureFlags::Explain { name, unit } => explain(&name, &unit, client, output).await,
        FeatureFlags::History { limit } => history(limit, client, output).await,
        FeatureFlags::Schedule(command) => schedule(command, client, output).await,
        FeatureFlags::DisableAll { reason } => {
            let why = reason.unwrap_or_else(|| "feature-flags disable-all".to_owned());
            list(&change("disable-all", &why, client).await?, output)
        }
        FeatureFlags::ClearLatch { name, reason } => {
            let path = format!("/v3/flags/{}/clear-latch", checked(&name)?);
            let answer = client.post(&path, json!({ "who": who(), "why": reason })).await?;
            one(&answer, output)
        }
        FeatureFlags::Kill { reason, lift } => {
            let action = if lift { "lift-kill" } else { "kill" };
            let why = reason.unwrap_or_else(|| "feature-flags kill --lift".to_owned());
            list(&change(action, &why, client).await?, output)
        }
    }
}

async fn change(action: &str, why: &str, client: &Client) -> Result<Value, CliError> {
    client.post(&format!("/v3/flags/{action}"), json!({ "who": who(), "why": why })).await
}

async fn set(options: SetFlag, client: &Client, output: &Output) -> Result<(), CliError> {
    let name = checked(&options.name)?.to_owned();
    let mut body = fields(&options)?;
    let short = |value: &Value| match value {
        Value::Array(names) => format!("of {}", names.len()),
        value if text(value).chars().any(char::is_control) => quoted(&text(value)),
        value => text(value).chars().take(MAX_SHOWN_CHARS).collect(),
    };
    let given: Vec<_> =
        body.iter().map(|(field, value)| format!("{field} {}", short(value))).collect();
    let why = options.reason.unwrap_or_else(|| format!("feature-flags set: {}", given.join(", ")));
    body.insert("who".to_owned(), who().into());
    body.insert("why".to_owned(), why.into());
    one(&client.post(&format!("/v3/flags/{name}/set"), Value::Object(body)).await?, output)
}

/// The options as fields of a rule.
fn fields(options: &SetFlag) -> Result<Map<String, Value>, CliError> {
    let list = |text: &String| {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        Value::from(names.map(str::to_owned).collect::<Vec<_>>())
    };
    let expires = options.expires.as_ref().map(|time| match time.as_str() {
        "none" => Value::Null,
        time => time.into(),
    });
    let fields = [
        ("enabled", options.enabled.map(Value::from)),
        ("rollout_percent", options.percent.clone().map(Value::from)),
        ("allow_list", options.allow_list.as_ref().map(list)),
        ("deny_list", options.deny_list.as_ref().map(list)),
        ("seed", options.seed.map(Value::from)),
        ("prerequisites", options.prerequisites.as_ref().map(list)),
        ("owner", options.owner.clone().map(Value::from)),
        ("expires", expires),
    ];
    let given = fields.into_iter().filter_map(|(field, value)| Some((field.to_owned(), value?)));
    let given: Map<_, _> = given.collect();
    match given.is_empty() {
        true => {
            Err(CliError::Argument("nothing is to be set; see feature-flags set --help".into()))
        }
        false => Ok(given),
    }
}

async fn schedule(command: FlagSchedule, client: &Client, output: &Output) -> Result<(), CliError> {
    let (name, action, mut body) = match command {
        FlagSchedule::Start { name, stages, reason } => {
            let why = reason.unwrap_or_else(|| "feature-flags schedule start".to_owned());
            let mut body = json!({ "who": who(), "why": why });
            if let Some(stages) = stages {
                body["schedule"] = stages_of(&stages)?;
            }
            (name, "start-schedule", body)
        }
        FlagSchedule::Stop { name, reason } => {
            let why = reason.unwrap_or_else(|| "feature-flags schedule stop".to_owned());
            (name, "stop-schedule", json!({ "who": who(), "why": why }))
        }
        FlagSchedule::Show { name } => {
            let flag = client.get(&format!("/v3/flags/{}", checked(&name)?)).await?;
            return if output.json() {
                output.value(&flag["schedule"])
            } else {
                stages(&flag, output)
            };
        }
    };
    let flag = client.post(&format!("/v3/flags/{}/{action}", checked(&name)?), body.take()).await?;
    if output.json() { output.value(&flag) } else { stages(&flag, output) }
}

/// `0s:1,1d:10` as stages.
fn stages_of(text: &str) -> Result<Value, CliError> {
    let malformed = |stage: &str, why: &str| {
        CliError::Argument(format!("stage {stage:?} is not AFTER:PERCENT, such as 7d:10: {why}"))
    };
    let stage = |stage: &str| {
        let (after, percent) =
            stage.split_once(':').ok_or_else(|| malformed(stage, "it has no colon"))?;
        let after = humantime::parse_duration(after.trim())
            .map_err(|error| malformed(stage, &error.to_string()))?;
        Ok(json!({ "after_s": after.as_secs(), "percent": percent.trim() }))
    };
    Ok(Value::Array(text.split(',').map(stage).collect::<Result<_, CliError>>()?))
}

fn stages(flag: &Value, output: &Output) -> Result<(), CliError> {
    let name = text(&flag["name"]);
    let Some(stages) = flag["schedule"]["stages"].as_array() else {
        return output
            .line(&format!("{name} has no schedule; it is at {} %", flag["rollout_percent"]));
    };
    let percent = flag["rollout_percent"].as_f64().unwrap_or(0.0);
    let start = text(&flag["schedule"]["start"]);
    let began = humantime::parse_rfc3339(&start).ok();
    output.line(&format!("{name} is at {percent} %; its schedule began at {start}"))?;
    output.table(&stage_rows(percent, began, stages))
}

fn stage_rows(percent: f64, began: Option<SystemTime>, stages: &[Value]) -> Vec<Vec<String>> {
    let mut rows = vec![row(["AFTER", "PERCENT", "STATE"])];
    for stage in stages {
        let after = Duration::from_secs(stage["after_s"].as_u64().unwrap_or(0));
        let has_come = stage["percent"].as_f64().unwrap_or(0.0) <= percent;
        let is_due = began.is_some_and(|began| began.elapsed().is_ok_and(|since| since >= after));
        let state = match (has_come, is_due) {
            (true, _) => "has come",
            (false, true) => "is due; rollout status tells what holds it",
            (false, false) => "is to come",
        };
        rows.push(vec![days(after), text(&stage["percent"]), state.to_owned()]);
    }
    rows
}

/// Not in months, of which no two are equally long.
fn days(time: Duration) -> String {
    let (days, rest) = (time.as_secs() / DAY_S, Duration::from_secs(time.as_secs() % DAY_S));
    match (days, rest.is_zero()) {
        (0, _) => humantime::format_duration(rest).to_string(),
        (days, true) => format!("{days}d"),
        (days, false) => format!("{days}d {}", humantime::format_duration(rest)),
    }
}

const DAY_S: u64 = 24 * 3600;
/// So much of a value is in the reason of a change for which none is given.
const MAX_SHOWN_CHARS: usize = 64;

async fn explain(name: &str, unit: &str, client: &Client, output: &Output) -> Result<(), CliError> {
    let path = format!("/v3/flags/{}/explain", checked(name)?);
    let answer = client.query(&path, &[("unit", Some(unit))]).await?;
    if output.json() {
        return output.value(&answer);
    }
    let is_on = if answer["is_on"] == true { "on" } else { "off" };
    output.line(&format!("{name} is {is_on} for {unit}: {}", text(&answer["text"])))
}

async fn history(limit: u64, client: &Client, output: &Output) -> Result<(), CliError> {
    let limit = limit.to_string();
    let answer = client.query("/v3/flags/history", &[("limit", Some(&limit))]).await?;
    if output.json() {
        return output.value(&answer);
    }
    let mut rows = vec![row(["CHANGE", "TIME", "WHO", "WHAT", "WHY"])];
    for entry in answer["entries"].as_array().into_iter().flatten() {
        let at = UNIX_EPOCH + Duration::from_micros(entry["at_us"].as_u64().unwrap_or(0));
        let at = humantime::format_rfc3339_seconds(at).to_string();
        let [seq, who, what, why] =
            ["seq", "who", "change", "why"].map(|field| text(&entry[field]));
        rows.push(vec![seq, at, who, what, why]);
    }
    output.table(&rows)
}

fn list(answer: &Value, output: &Output) -> Result<(), CliError> {
    if output.json() {
        return output.value(answer);
    }
    if let Some(why) = answer["killed"].as_str() {
        output.line(&format!("the kill switch is on, every flag is off: {why}"))?;
    }
    if answer["is_written_down"] == false {
        output.note(
            "that holds, but is not all written down: until it is, a restart loses it; see events",
        );
    }
    let mut rows = vec![row(["FLAG", "STATE", "PERCENT", "ALLOWED", "DENIED", "UNIT", "OWNER"])];
    let flags = answer["flags"].as_array().into_iter().flatten();
    rows.extend(flags.map(table_row));
    output.table(&rows)
}

fn one(flag: &Value, output: &Output) -> Result<(), CliError> {
    if output.json() {
        return output.value(flag);
    }
    let (name, percent) = (text(&flag["name"]), text(&flag["rollout_percent"]));
    output.line(&format!("{name}: {}, {percent} %", state(flag)))
}

fn table_row(flag: &Value) -> Vec<String> {
    let count = |list: &Value| list.as_array().map_or(0, Vec::len).to_string();
    vec![
        text(&flag["name"]),
        state(flag),
        text(&flag["rollout_percent"]),
        count(&flag["allow_list"]),
        count(&flag["deny_list"]),
        text(&flag["unit_form"]),
        text(&flag["owner"]),
    ]
}

fn state(flag: &Value) -> String {
    let is = |field: &str| flag[field] == true;
    let state = match () {
        () if !is("is_built") => "not built yet",
        () if !flag["killed"].is_null() => "killed",
        () if !flag["latch"].is_null() => "rolled back",
        () if is("is_in_force") => "enabled",
        () if is("enabled") => "enabled, for nobody",
        () => "off",
    };
    state.to_owned()
}

/// A name that fits into a path; the node says whether there is such a flag.
fn checked(name: &str) -> Result<&str, CliError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    match !name.is_empty() && name.chars().all(fits) {
        true => Ok(name),
        false => Err(CliError::Argument(format!(
            "{name:?} is no feature flag; feature-flags list shows them"
        ))),
    }
}

/// The user who runs this, for the history.
pub(super) fn who() -> String {
    let name = ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    name.filter(|name| !name.trim().is_empty()).unwrap_or_else(|| "operator".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_in_days_and_less() {
        for (time_s, shown) in
            [(0, "0s"), (90, "1m 30s"), (31 * DAY_S, "31d"), (DAY_S + 60, "1d 1m")]
        {
            assert_eq!(days(Duration::from_secs(time_s)), shown);
        }
    }

    #[test]
    fn a_stage_whose_time_has_come_is_due() {
        let shown = |start: &str| {
            let stages = json!([
                { "after_s": 0, "percent": 1 }, { "after_s": 60, "percent": 5 },
            ]);
            stage_rows(1.0, humantime::parse_rfc3339(start).ok(), stages.as_array().unwrap())
        };
        assert_eq!(
            shown("2020-01-01T00:00:00Z")[2][2],
            "is due; rollout status tells what holds it"
        );
        assert_eq!(shown("2999-01-01T00:00:00Z")[2][2], "is to come");
        assert_eq!(shown("2999-01-01T00:00:00Z")[1][2], "has come");
    }
}

//! `export-state` and `import-state`: a node's state as a file.

use super::feature_flags::who;
use crate::base::limits::MAX_STATE_BYTES;
use crate::cli::args::{ExportState, ImportState};
use crate::cli::client::Client;
use crate::cli::error::CliError;
use crate::cli::output::{Output, row, text};
use crate::config::replace::{Replacement, Rights};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

pub async fn export(
    options: ExportState,
    client: &Client,
    output: &Output,
) -> Result<(), CliError> {
    let file = options.output;
    let compat = options.compat.unwrap_or_else(|| file.with_file_name(COMPAT));
    if file == compat {
        let text = format!("{} cannot hold the state and v1's flags", file.display());
        return Err(CliError::Argument(text));
    }
    // Before the node is asked; what comes in between is found when the files are put in place.
    if !options.force {
        [&file, &compat].into_iter().try_for_each(|path| refuse_existing(path))?;
    }
    let mut answer = client.get("/v3/state").await?;
    let document = take_text(&mut answer, "document")?;
    let v1 = take_text(&mut answer, "compat")?;
    write_both([(&file, &document), (&compat, &v1)], options.force)?;
    answer["output"] = file.display().to_string().into();
    answer["compat_output"] = compat.display().to_string().into();
    if output.json() {
        return output.value(&answer);
    }
    told(&answer, output)
}

pub async fn import(
    options: ImportState,
    client: &Client,
    output: &Output,
) -> Result<(), CliError> {
    let document = read(&options.input)?;
    let body = json!({
        "document": document,
        "who": who(),
        "why": options.reason,
        "dry_run": options.dry_run,
    });
    let answer = client.post("/v3/state/import", body).await?;
    if output.json() {
        return output.value(&answer);
    }
    differences(&answer, output)
}

/// Both or none of them.
fn write_both(files: [(&PathBuf, &String); 2], force: bool) -> Result<(), CliError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| match source.kind() {
            io::ErrorKind::AlreadyExists => existing(&path),
            _ => CliError::File { path, source },
        }
    };
    let write = |(path, content): (&PathBuf, &String)| {
        Replacement::write(path, content.as_bytes(), Rights::Set(MODE)).map_err(failed(path))
    };
    let [first, second] = files;
    let (document, compat) = (write(first)?, write(second)?);
    if force {
        document.commit().map_err(failed(first.0))?;
        return compat.commit().map_err(failed(second.0));
    }
    document.commit_new().map_err(failed(first.0))?;
    compat.commit_new().map_err(|error| {
        // It was made a moment ago; alone it would only be in the way.
        let _ = std::fs::remove_file(first.0);
        failed(second.0)(error)
    })
}

fn refuse_existing(path: &Path) -> Result<(), CliError> {
    match path.symlink_metadata() {
        Ok(_) => Err(existing(path)),
        Err(_) => Ok(()),
    }
}

fn existing(path: &Path) -> CliError {
    CliError::Argument(format!("{} is there already; --force replaces it", path.display()))
}

fn take_text(answer: &mut Value, field: &str) -> Result<String, CliError> {
    let taken = answer.as_object_mut().and_then(|answer| answer.remove(field));
    match taken {
        Some(Value::String(text)) => Ok(text),
        _ => Err(CliError::Answer(format!("field {field} is missing"))),
    }
}

fn read(path: &Path) -> Result<String, CliError> {
    let unreadable =
        |error: io::Error| CliError::Argument(format!("cannot read {}: {error}", path.display()));
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(MAX_STATE_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > MAX_STATE_BYTES {
        let text =
            format!("{} has more than {MAX_STATE_BYTES} bytes: it is no state", path.display());
        return Err(CliError::Argument(text));
    }
    String::from_utf8(bytes)
        .map_err(|_| CliError::Argument(format!("{} is no text: it is no state", path.display())))
}

fn told(answer: &Value, output: &Output) -> Result<(), CliError> {
    let holds = &answer["holds"];
    let count = |field: &str| text(&holds[field]);
    output.line(&format!(
        "{}: the state of node {}: 5 flags, {} of {} changes of them, {} settings, {} peers, {} \
         ownership records, {} guests",
        text(&answer["output"]),
        text(&answer["node"]),
        count("audit_entries"),
        holds["audit_entries"].as_u64().unwrap_or(0)
            + holds["audit_entries_left_out"].as_u64().unwrap_or(0),
        count("settings"),
        count("peers"),
        count("records"),
        count("guests"),
    ))?;
    if let Some(under_way @ 1..) = answer["records_under_way"].as_u64() {
        output.note(&format!("{under_way} records of migrations under way are not in it"));
    }
    let lost: Vec<_> = answer["lost"].as_array().into_iter().flatten().collect();
    let compat = text(&answer["compat_output"]);
    if lost.is_empty() {
        return output.line(&format!("{compat}: v1's flags, with all that the flags say"));
    }
    output.line(&format!("{compat}: v1's flags, without what v1 cannot say:"))?;
    lost.into_iter().try_for_each(|lost| output.line(&format!("  {}", text(lost))))
}

fn differences(answer: &Value, output: &Output) -> Result<(), CliError> {
    let whose = match answer["origin"]["node"].as_str() {
        Some(node) => format!("the state of node {node}"),
        None => "v1's flags, and nothing else".to_owned(),
    };
    let found: Vec<_> = answer["differences"].as_array().into_iter().flatten().collect();
    let done = found.iter().filter(|found| found["effect"] != "stays").count();
    let (stay, dry) = (found.len() - done, answer["dry_run"] == true);
    output.line(&match dry {
        true => format!("{whose}: {done} would change, {stay} would be left as they are here"),
        false => format!("{whose}: {done} changed, {stay} left as they are here"),
    })?;
    let mut rows = vec![row(["WHAT", "NAME", "HERE", "DOCUMENT", "EFFECT"])];
    for found in &found {
        let [part, name, here, document] =
            ["part", "name", "here", "document"].map(|field| text(&found[field]));
        let effect = match found["why"].as_str() {
            Some(why) => format!("stays: {why}"),
            None => text(&found["effect"]),
        };
        rows.push(vec![part, name, here, document, effect]);
    }
    if rows.len() > 1 {
        output.table(&rows)?;
    }
    let waits: Vec<_> = answer["waits_for_restart"].as_array().into_iter().flatten().collect();
    if !waits.is_empty() {
        let keys: Vec<_> = waits.into_iter().map(text).collect();
        output.note(&format!("takes hold when dwcpd is restarted: {}", keys.join(", ")));
    }
    Ok(())
}

/// v1's flags, beside the state.
const COMPAT: &str = "v3-state-compat.json";
/// Names of hosts and guests are for whoever makes the file.
const MODE: u32 = 0o600;

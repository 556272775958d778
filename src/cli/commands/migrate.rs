//! `migrate`: starts a migration, shows how it goes, tells who has the guest in the end.

use crate::Status;
use crate::cli::args::Migrate;
use crate::cli::client::Client;
use crate::cli::error::{self, CliError};
use crate::cli::output::{Output, bytes, text};
use crate::cli::signals::{self, Signal};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value, json};
use std::io::IsTerminal;
use std::time::Duration;

pub async fn run(options: Migrate, client: &Client, output: &Output) -> Result<u8, CliError> {
    let as_json = output.json() || !output.to_terminal();
    let start = client.post("/v3/migrations", request(&options));
    if options.detach {
        let migration = start.await?;
        match as_json {
            true => output.value(&migration)?,
            false => output.line(&text(&migration["id"]))?,
        }
        return Ok(0);
    }
    // Kept from here to the end: an interrupt is never lost, whatever is waited for when it comes.
    let mut interrupts = Signal::catch(signals::SIGINT).map_err(CliError::Runtime)?;
    let bar = if output.json() { ProgressBar::hidden() } else { progress_bar() };
    let Some(report) = follow(start, client, output, &bar, &mut interrupts).await? else {
        return Ok(error::INTERRUPTED);
    };
    bar.finish_and_clear();
    match as_json {
        true => output.value(&report)?,
        false => print_report(&report, output)?,
    }
    Ok(exit_code(&report))
}

/// What is not given comes from the node's configuration.
fn request(options: &Migrate) -> Value {
    let mut body = Map::new();
    body.insert("guest".to_owned(), options.guest.clone().into());
    body.insert("to".to_owned(), options.to.clone().into());
    let texts = [
        ("codec", &options.codec),
        ("max_downtime", &options.max_downtime),
        ("deadline", &options.deadline),
        ("bandwidth_limit", &options.bandwidth_limit),
        ("post_copy", &options.post_copy),
    ];
    for (name, value) in texts {
        if let Some(value) = value {
            body.insert(name.to_owned(), value.clone().into());
        }
    }
    if let Some(streams) = options.streams {
        body.insert("streams".to_owned(), streams.into());
    }
    if let Some(channels) = options.multifd_channels {
        body.insert("multifd_channels".to_owned(), channels.into());
    }
    if options.no_throttle {
        body.insert("throttle".to_owned(), false.into());
    }
    Value::Object(body)
}

/// The report of the migration that `start` starts. The first interrupt cancels it; with a second
/// one there is no report.
async fn follow(
    start: impl Future<Output = Result<Value, CliError>>,
    client: &Client,
    output: &Output,
    bar: &ProgressBar,
    interrupts: &mut Signal,
) -> Result<Option<Value>, CliError> {
    let mut start = std::pin::pin!(start);
    let mut is_interrupted = false;
    let migration = loop {
        tokio::select! {
            migration = &mut start => break migration?,
            () = interrupts.recv() => {}
        }
        if is_interrupted {
            output.note("the node may have started it; see: dwcp-v3-cli migrations");
            return Ok(None);
        }
        is_interrupted = true;
        output.note("cancelled once the node answers; Ctrl-C again stops waiting for that");
    };
    let id = text(&migration["id"]);
    let path = format!("/v3/migrations/{id}");
    if !is_interrupted {
        tokio::select! {
            report = report_of(&path, client, bar) => return report.map(Some),
            () = interrupts.recv() => {}
        }
        bar.suspend(|| output.note("cancelling; Ctrl-C again stops waiting for the end"));
    }
    let cancelled = async {
        client.post(&format!("{path}/cancel"), json!({})).await?;
        report_of(&path, client, bar).await
    };
    tokio::select! {
        report = cancelled => report.map(Some),
        () = interrupts.recv() => {
            let text = format!("the migration may go on; see: dwcp-v3-cli migrations, cancel {id}");
            bar.suspend(|| output.note(&text));
            Ok(None)
        }
    }
}

/// Looks at a migration until it has ended.
async fn report_of(path: &str, client: &Client, bar: &ProgressBar) -> Result<Value, CliError> {
    let mut intervals = SOON.into_iter();
    loop {
        let mut migration = client.get(path).await?;
        if !migration["report"].is_null() {
            return Ok(migration["report"].take());
        }
        draw(bar, &migration["progress"]);
        tokio::time::sleep(intervals.next().unwrap_or(POLL_INTERVAL)).await;
    }
}

fn progress_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{prefix:12} [{bar:30}] {percent:>3}% {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
    bar
}

fn draw(bar: &ProgressBar, progress: &Value) {
    let number = |field: &str| progress[field].as_u64().unwrap_or(0);
    bar.set_length(number("pages"));
    bar.set_position(number("pages").saturating_sub(number("remaining_pages")));
    bar.set_prefix(text(&progress["phase"]));
    bar.set_message(format!(
        "pass {}, sent {} at {}/s, dirtied {}/s, downtime would be {:.0} ms, {} streams",
        number("pass"),
        bytes(number("wire_bytes")),
        bytes(number("bandwidth_bytes_per_s")),
        bytes(number("dirty_rate_bytes_per_s")),
        number("predicted_downtime_us") as f64 / 1e3,
        number("streams")
    ));
}

fn print_report(report: &Value, output: &Output) -> Result<(), CliError> {
    let guest = text(&report["guest"]);
    let succeeded = report["status"] == Status::Ok.name();
    let (reason, status) = (text(&report["reason"]), text(&report["status"]));
    match (succeeded, report["owner"].as_str()) {
        (true, _) => output.line(&format!("{guest} has moved"))?,
        (false, Some("in_doubt")) => {
            output.line(&format!("{guest} may have moved: {reason} ({status})"))?;
        }
        (false, _) => output.line(&format!("{guest} has not moved: {reason} ({status})"))?,
    }
    output.line(&format!("the guest is at: {}", owner(report)))?;
    let milliseconds = |field: &str| report[field].as_f64().unwrap_or(0.0);
    output.line(&format!(
        "total {:.1} ms, downtime {:.1} ms, {} passes, {} reconnects",
        milliseconds("total_ms"),
        milliseconds("downtime_ms"),
        report["passes"],
        report["reconnects"]
    ))?;
    for (phase, duration) in report["phases"].as_object().into_iter().flatten() {
        output.line(&format!("  {phase:12} {:>10.1} ms", duration.as_f64().unwrap_or(0.0)))?;
    }
    let count = |field: &str| report[field].as_u64().unwrap_or(0);
    output.line(&format!(
        "memory {}, sent {}; pages: {} full, {} zero, {} duplicate, {} delta",
        bytes(count("ram_bytes")),
        bytes(count("wire_bytes")),
        count("full_pages"),
        count("zero_pages"),
        count("duplicate_pages"),
        count("delta_pages")
    ))?;
    if count("rdma_bytes") > 0 {
        output.line(&format!("by RDMA {}", bytes(count("rdma_bytes"))))?;
    }
    if let Some(line) = post_copy(report) {
        output.line(&line)?;
    }
    output.line(&format!("digest {}", text(&report["digest"])))
}

/// What came of a switch to post-copy, if there was one.
fn post_copy(report: &Value) -> Option<String> {
    let figures = report["post_copy"].as_object()?;
    let number = |field: &str| figures.get(field).and_then(Value::as_u64).unwrap_or(0);
    let lost = match number("lost_pages") {
        0 => String::new(),
        lost => format!("; {lost} are lost"),
    };
    let (missing, faults) = (number("missing_pages"), number("faults"));
    Some(format!("post-copy: {missing} pages were missing, {faults} were asked for{lost}"))
}

fn owner(report: &Value) -> &'static str {
    match report["owner"].as_str() {
        Some("source") => "this node, running",
        Some("destination") => "the destination",
        _ => "in doubt; ask the destination before starting it anywhere",
    }
}

fn exit_code(report: &Value) -> u8 {
    if report["status"] == Status::Ok.name() {
        return 0;
    }
    match report["owner"].as_str() {
        Some("source") if report["status"] == Status::Cancelled.name() => error::CANCELLED,
        Some("source") => error::AT_SOURCE,
        Some("destination") => error::FAILED,
        _ => error::IN_DOUBT,
    }
}

/// Short migrations should not wait for a slow poll.
const SOON: [Duration; 10] = [Duration::from_millis(20); 10];
const POLL_INTERVAL: Duration = Duration::from_millis(150);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_tell_who_has_the_guest() {
        for (status, owner, code) in [
            ("DWCP_OK", "destination", 0),
            ("DWCP_ERR_CANCELLED", "source", error::CANCELLED),
            ("DWCP_ERR_DID_NOT_CONVERGE", "source", error::AT_SOURCE),
            ("DWCP_ERR_IN_DOUBT", "in_doubt", error::IN_DOUBT),
            ("DWCP_ERR_CALLBACK", "destination", error::FAILED),
            ("DWCP_ERR_POST_COPY_LOST", "destination", error::FAILED),
        ] {
            assert_eq!(exit_code(&json!({ "status": status, "owner": owner })), code, "{status}");
        }
    }

    #[test]
    fn post_copy_is_told_where_it_was() {
        assert_eq!(post_copy(&json!({ "post_copy": null })), None);
        let figures = json!({ "missing_pages": 9, "lost_pages": 0, "faults": 2 });
        let text = post_copy(&json!({ "post_copy": figures })).unwrap();
        assert_eq!(text, "post-copy: 9 pages were missing, 2 were asked for");
        let figures = json!({ "missing_pages": 9, "lost_pages": 4, "faults": 2 });
        assert!(post_copy(&json!({ "post_copy": figures })).unwrap().ends_with("; 4 are lost"));
    }
}

//! `compression-stats` and `compression-analyze`.

use super::migrations::complete;
use crate::cli::client::Client;
use crate::cli::error::CliError;
use crate::cli::output::{Output, bytes, number, percent, row, text};
use crate::cli::plot::{Point, ratio_against_speed};
use crate::runtime::compression::{FileMemory, analyze as analyze_sample, take_sample};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Whose memory is to be looked at; without either, that of the one guest that runs.
pub struct Of<'a> {
    /// A guest of the node.
    pub guest: Option<&'a str>,
    /// A file.
    pub file: Option<&'a Path>,
}

pub async fn stats(
    migration: Option<&str>,
    client: &Client,
    output: &Output,
) -> Result<(), CliError> {
    let id = match migration {
        Some(prefix) => Some(complete(prefix, client).await?),
        None => None,
    };
    let stats = client.query("/v3/compression", &[("migration", id.as_deref())]).await?;
    if output.json() {
        return output.value(&stats);
    }
    let of = match &stats["migration"] {
        Value::Null => "all migrations away from here since the node's start".to_owned(),
        migration => {
            format!("migration {} of {}", text(&migration["id"]), text(&migration["guest"]))
        }
    };
    output.line(&format!("encoding of {of}"))?;
    output.line("")?;
    output.table(&class_rows(&stats))?;
    output.line("")?;
    output.table(&codec_rows(&stats["encoding"]["algorithm_usage"]))?;
    output.line("")?;
    output.line(&format!("compression ratio  {}", number(&stats["compression_ratio"], 2)))?;
    let rate = stats["delta_hit_rate"].as_f64();
    let rate = rate.map_or_else(|| "-".to_owned(), |rate| percent(rate, 1.0));
    output.line(&format!("delta hit rate     {rate} of pages that were sent before"))
}

/// A codec works on pages that nothing else saved.
const CLASSES: [(&str, &str); 4] =
    [("zero", "zero"), ("duplicate", "duplicate"), ("delta", "delta"), ("fresh", "codec")];

fn class_rows(stats: &Value) -> Vec<Vec<String>> {
    let mut rows = vec![row(["CLASS", "PAGES", "SHARE", "BEFORE", "ON THE WIRE", "SAVED"])];
    let all = stats["pages"].as_f64().unwrap_or(0.0);
    for (class, saved) in CLASSES {
        let totals = &stats["encoding"][class];
        let count = |field: &str| bytes(totals[field].as_u64().unwrap_or(0));
        rows.push(vec![
            if class == "fresh" { "whole".to_owned() } else { class.to_owned() },
            text(&totals["pages"]),
            percent(totals["pages"].as_f64().unwrap_or(0.0), all),
            count("raw_bytes"),
            count("packed_bytes"),
            bytes(stats["bytes_saved"][saved].as_u64().unwrap_or(0)),
        ]);
    }
    rows
}

fn codec_rows(usage: &Value) -> Vec<Vec<String>> {
    let mut rows = vec![row(["CODEC", "BLOCKS", "BEFORE", "AFTER", "RATIO", "MB/S"])];
    for (codec, of) in usage.as_object().into_iter().flatten() {
        let count = |field: &str| of[field].as_u64().unwrap_or(0);
        let (raw, packed) = (count("raw_bytes"), count("packed_bytes"));
        let ratio = if packed > 0 { json!(raw as f64 / packed as f64) } else { Value::Null };
        let speed = match count("encode_ns") {
            0 => Value::Null,
            nanoseconds => json!(raw as f64 * 1e3 / nanoseconds as f64),
        };
        rows.push(vec![
            codec.clone(),
            text(&of["blocks"]),
            bytes(raw),
            bytes(packed),
            number(&ratio, 2),
            number(&speed, 0),
        ]);
    }
    rows
}

pub async fn analyze(
    of: Of<'_>,
    sample: u64,
    plot: Option<&Path>,
    client: &Client,
    output: &Output,
) -> Result<(), CliError> {
    let (analysis, title) = match of.file {
        Some(path) => (analyze_file(path, sample)?, path.display().to_string()),
        None => {
            let mut body = json!({ "sample": sample });
            if let Some(guest) = of.guest {
                body["guest"] = guest.into();
            }
            let analysis = client.post("/v3/compression/analyze", body).await?;
            let title = format!("guest {}", text(&analysis["guest"]));
            (analysis, title)
        }
    };
    if let Some(path) = plot {
        let drawn =
            ratio_against_speed(&format!("Codecs on memory of {title}"), &points(&analysis));
        std::fs::write(path, drawn)
            .map_err(|source| CliError::File { path: path.to_owned(), source })?;
    }
    match output.json() {
        true => output.value(&analysis),
        false => print_analysis(&title, &analysis, output),
    }
}

fn analyze_file(path: &Path, pages: u64) -> Result<Value, CliError> {
    let mut memory = FileMemory::open(path)?;
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
    let sample = take_sample(&mut memory, pages, seed)?;
    let mut analysis = serde_json::to_value(analyze_sample(&sample)?)
        .map_err(|error| CliError::Answer(error.to_string()))?;
    analysis["file"] = path.to_string_lossy().into();
    Ok(analysis)
}

fn points(analysis: &Value) -> Vec<Point> {
    let codecs = analysis["codecs"].as_array().into_iter().flatten();
    let point = |codec: &Value| {
        Some(Point {
            name: text(&codec["codec"]),
            speed_mb_per_s: codec["encode_mb_per_s"].as_f64()?,
            ratio: codec["ratio"].as_f64()?,
        })
    };
    codecs.filter_map(point).collect()
}

fn print_analysis(title: &str, analysis: &Value, output: &Output) -> Result<(), CliError> {
    let count = |field: &str| analysis[field].as_u64().unwrap_or(0);
    output.line(&format!(
        "{title}: {} of {} pages of {} bytes",
        count("pages"),
        count("of_pages"),
        count("page_bytes")
    ))?;
    let share = |field: &str| percent(count(field) as f64, count("pages") as f64);
    output.line(&format!("zero       {:>8}", share("zero_pages")))?;
    output.line(&format!("duplicate  {:>8}  within the sample", share("duplicate_pages")))?;
    output.line(&format!(
        "the rest   {} in {} blocks of {}",
        bytes(count("block_raw_bytes")),
        count("blocks"),
        bytes(count("block_bytes"))
    ))?;
    output.line("")?;
    let mut rows = vec![row(["CODEC", "RATIO", "ENCODE MB/S", "DECODE MB/S"])];
    for codec in analysis["codecs"].as_array().into_iter().flatten() {
        let speed = |field: &str| number(&codec[field], 0);
        let (name, ratio) = (text(&codec["codec"]), number(&codec["ratio"], 2));
        rows.push(vec![name, ratio, speed("encode_mb_per_s"), speed("decode_mb_per_s")]);
    }
    output.table(&rows)?;
    output.line("")?;
    let mut rows = vec![row(["LINK", "THE COST SELECTOR TAKES", "FOR"])];
    for choice in analysis["choices"].as_array().into_iter().flatten() {
        let share = choice["share"].as_f64().unwrap_or(0.0);
        let blocks = format!("{} of blocks", percent(share, 1.0));
        rows.push(vec![text(&choice["link"]), text(&choice["codec"]), blocks]);
    }
    output.table(&rows)
}

//! `mode-detect`, `network-probe`, `network-matrix`, `set-mode` and `transport-test`.

use crate::cli::args::Modes;
use crate::cli::client::Client;
use crate::cli::error::CliError;
use crate::cli::output::{Output, bytes, row, text};
use serde_json::{Value, json};

pub async fn run(command: Modes, client: &Client, output: &Output) -> Result<(), CliError> {
    match command {
        Modes::ModeDetect { peer } => detect(peer.as_deref(), client, output).await,
        Modes::NetworkProbe { peer, count, verbose } => {
            probe(peer.as_deref(), count, verbose, client, output).await
        }
        Modes::NetworkMatrix { nodes } => matrix(&nodes, client, output).await,
        Modes::SetMode { mode, peer } => set(&mode, peer.as_deref(), client, output).await,
        Modes::TransportTest { mode, peer, seconds, streams } => {
            let mut body = json!({ "mode": mode, "seconds": seconds });
            let optional = [("peer", peer.map(Value::from)), ("streams", streams.map(Value::from))];
            for (field, value) in optional {
                value.into_iter().for_each(|value| body[field] = value);
            }
            test(body, client, output).await
        }
    }
}

async fn detect(peer: Option<&str>, client: &Client, output: &Output) -> Result<(), CliError> {
    let answer = match peer {
        Some(peer) => client.post("/v3/modes/detect", json!({ "peer": peer })).await?,
        None => client.get("/v3/modes").await?,
    };
    if output.json() {
        return output.value(&answer);
    }
    let peers = match peer {
        Some(_) => vec![&answer],
        None => answer["peers"].as_array().into_iter().flatten().collect(),
    };
    if let Some(mode) = answer["forced"].as_str().filter(|_| peer.is_none()) {
        output.line(&format!("{mode} mode is forced for every peer"))?;
    }
    if peers.is_empty() {
        output.note("no peer is known yet; name one by --peer HOST:PORT, or migrate to it");
    }
    table(&peers, output)
}

async fn probe(
    peer: Option<&str>,
    count: u32,
    verbose: bool,
    client: &Client,
    output: &Output,
) -> Result<(), CliError> {
    let peers = match peer {
        Some(peer) => vec![peer.to_owned()],
        None => known_peers(&client.get("/v3/modes").await?),
    };
    if peers.is_empty() {
        output.note("no peer is known yet; name one: network-probe HOST:PORT");
    }
    let mut failed = None;
    for peer in peers {
        let body = json!({ "peer": peer, "count": count });
        let answer = match client.post("/v3/modes/probe", body).await {
            Ok(answer) => answer,
            // The others are probed all the same.
            Err(error @ CliError::Refused { .. }) => {
                output.note(&error.to_string());
                failed = Some(error);
                continue;
            }
            Err(error) => return Err(error),
        };
        match output.json() {
            true => output.value(&answer)?,
            false => probed(&answer, verbose, output)?,
        }
    }
    failed.map_or(Ok(()), Err)
}

fn probed(answer: &Value, verbose: bool, output: &Output) -> Result<(), CliError> {
    let times = answer["answers_us"].as_array().map_or(&[][..], Vec::as_slice);
    let known = &answer["known"];
    output.line(&format!(
        "{}: {} probes, round trip {} ({} to {} with both sides' threads), {}",
        text(&answer["peer"]),
        times.len(),
        milliseconds(&answer["min_rtt_us"]),
        milliseconds(&answer["least_us"]),
        milliseconds(&answer["most_us"]),
        mode(known),
    ))?;
    if !verbose {
        return Ok(());
    }
    output.line(&format!("  connecting took {}", milliseconds(&answer["connect_us"])))?;
    let all: Vec<String> = times.iter().map(milliseconds).collect();
    output.line(&format!("  answers took {}", all.join(", ")))?;
    output.line(&format!("  mean deviation {}", milliseconds(&answer["rtt_variation_us"])))?;
    output.line(&format!(
        "  known of the path: round trip {}, least {}, jitter {}, loss {}, rate {}, RDMA {}",
        milliseconds(&known["rtt_us"]),
        milliseconds(&known["min_rtt_us"]),
        milliseconds(&known["jitter_us"]),
        loss(&known["loss_ppm"]),
        rate(known),
        text(&known["rdma"]),
    ))?;
    output.line(&format!(
        "  mode changed {} times, {} times within the last minute",
        known["switches"], known["switches_last_minute"]
    ))
}

async fn matrix(nodes: &[String], client: &Client, output: &Output) -> Result<(), CliError> {
    let wants_all = nodes.iter().any(|node| node == "all");
    let nodes = if wants_all { "all".to_owned() } else { nodes.join(",") };
    let answer = client.post("/v3/modes/matrix", json!({ "nodes": nodes })).await?;
    if output.json() {
        return output.value(&answer);
    }
    let fields = ["FROM", "TO", "ROUND TRIP", "JITTER", "LOSS", "RATE", "MODE"];
    let mut table = vec![row(fields)];
    let rows: Vec<&Value> = answer["rows"].as_array().into_iter().flatten().collect();
    for from in &rows {
        let name = match from["address"].as_str() {
            Some(address) => format!("{} at {address}", text(&from["node"])),
            None => text(&from["node"]),
        };
        for path in from["paths"].as_array().into_iter().flatten() {
            table.push(vec![
                name.clone(),
                text(&path["peer"]),
                milliseconds(&path["rtt_us"]),
                milliseconds(&path["jitter_us"]),
                loss(&path["loss_ppm"]),
                rate(path),
                text(&path["mode"]),
            ]);
        }
    }
    output.table(&table)?;
    for from in rows {
        let address = text(&from["address"]);
        if let Some(failure) = from["failure"].as_str() {
            output.note(&format!("no row of {address}: {failure}"));
        }
        if from["left_out"].as_u64().is_some_and(|left_out| left_out > 0) {
            output.note(&format!("{address} has {} paths more", from["left_out"]));
        }
    }
    Ok(())
}

async fn set(
    mode: &str,
    peer: Option<&str>,
    client: &Client,
    output: &Output,
) -> Result<(), CliError> {
    let mut body = json!({ "mode": mode });
    if let Some(peer) = peer {
        body["peer"] = peer.into();
    }
    let answer = client.post("/v3/modes/set", body).await?;
    if output.json() {
        return output.value(&answer);
    }
    let of = peer.map_or("every peer".to_owned(), |peer| format!("peer {peer}"));
    let what = match mode {
        "auto" => format!("the mode of {of} is measured"),
        mode => format!("the mode of {of} is {mode}"),
    };
    let until = match answer["is_kept"].as_bool() {
        Some(true) => "the configuration says so from now on",
        _ => "until the node is started again",
    };
    output.line(&format!("{what}; {until}"))?;
    if mode == "v1-compat" {
        output
            .note("migrations still go by DWCP v3, as in hybrid mode: no transport speaks v1 yet");
    }
    Ok(())
}

async fn test(body: Value, client: &Client, output: &Output) -> Result<(), CliError> {
    let answer = client.post("/v3/modes/test", body).await?;
    if output.json() {
        return output.value(&answer);
    }
    let seconds = answer["duration_us"].as_f64().unwrap_or(0.0) / 1e6;
    output.line(&format!(
        "{} mode to {}: {} in {seconds:.1} s over {} streams, {}",
        text(&answer["mode"]),
        text(&answer["peer"]),
        bytes(answer["bytes"].as_u64().unwrap_or(0)),
        answer["streams"],
        text(&answer["congestion"]),
    ))?;
    let megabits = answer["rate_bytes_per_s"].as_f64().unwrap_or(0.0) / 125_000.0;
    output.line(&format!("throughput     {megabits:.1} Mbit/s"))?;
    let (least, mean) = (milliseconds(&answer["min_rtt_us"]), milliseconds(&answer["rtt_us"]));
    output.line(&format!("round trip     {least}, {mean} with queues"))?;
    output.line(&format!(
        "retransmitted  {} segments, {}, {}",
        answer["retransmitted_segments"],
        bytes(answer["retransmitted_bytes"].as_u64().unwrap_or(0)),
        loss(&answer["loss_ppm"]),
    ))?;
    output.line(&format!("judged         {}", text(&answer["measured"])))?;
    output.line(&format!("in force       {}", text(&answer["in_force"])))
}

fn table(peers: &[&Value], output: &Output) -> Result<(), CliError> {
    let fields = ["PEER", "MODE", "ROUND TRIP", "JITTER", "LOSS", "RATE", "CHANGES", "STATE"];
    let mut rows = vec![row(fields)];
    for peer in peers {
        rows.push(vec![
            text(&peer["peer"]),
            mode(peer),
            milliseconds(&peer["rtt_us"]),
            milliseconds(&peer["jitter_us"]),
            loss(&peer["loss_ppm"]),
            rate(peer),
            text(&peer["switches"]),
            state(peer),
        ]);
    }
    output.table(&rows)
}

fn mode(peer: &Value) -> String {
    let mode = text(&peer["mode"]);
    match (peer["forced"].as_str(), peer["measured"].as_str()) {
        (Some(_), _) => format!("{mode} (forced)"),
        (None, Some(measured)) if measured != mode => format!("{mode} (figures say {measured})"),
        _ => mode,
    }
}

fn state(peer: &Value) -> String {
    match (peer["failure"].as_str(), peer["is_in_use"].as_bool(), peer["silent_us"].as_f64()) {
        (Some(failure), ..) => format!("does not answer: {failure}"),
        (None, Some(true), _) => "in use".to_owned(),
        (None, _, Some(us)) => format!("heard {:.1} s ago", us / 1e6),
        (None, _, None) => "not heard yet".to_owned(),
    }
}

fn known_peers(answer: &Value) -> Vec<String> {
    let peers = answer["peers"].as_array().into_iter().flatten();
    peers.filter_map(|peer| peer["peer"].as_str()).map(str::to_owned).collect()
}

fn milliseconds(us: &Value) -> String {
    us.as_f64().map_or("-".to_owned(), |us| format!("{:.3} ms", us / 1e3))
}

fn loss(ppm: &Value) -> String {
    ppm.as_f64().map_or("-".to_owned(), |ppm| format!("{:.3} %", ppm / 1e4))
}

/// Of a path that nothing has filled yet: what it carries at least.
fn rate(peer: &Value) -> String {
    let Some(rate) = peer["rate_bytes_per_s"].as_f64() else { return "-".to_owned() };
    let at_least = if peer["rate_is_floor"] == true { ">= " } else { "" };
    format!("{at_least}{:.1} Mbit/s", rate / 125_000.0)
}

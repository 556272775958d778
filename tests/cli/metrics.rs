//! Metrics: their text for Prometheus, those of other nodes, comparisons with a baseline, and their page.

use crate::openmetrics;
use crate::stage::{
    Daemon, Pair, Process, Scratch, operator, refusal, stdout, wait_until, write_config,
};
use dwcp::node::catalog::{Declaration, Label, Metric, Shape};
use dwcp::observe::Component;
use dwcp::runtime::control::{ControlOptions, serve_control};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Output;

/// Where nobody listens.
const DEAD: &str = "127.0.0.1:1";

/// A daemon of this name, and whom it tells of its metrics.
fn daemon(name: &str, share_with: &str) -> (Scratch, Daemon) {
    let scratch = Scratch::new();
    let path = scratch.path("config.yaml");
    write_config(&scratch, &path, "");
    let named = format!("name: {name}\n  share_metrics_with: {share_with}");
    let text = std::fs::read_to_string(&path).unwrap().replace("name: testling", &named);
    std::fs::write(&path, text).unwrap();
    let daemon = Daemon::start(&scratch, &path);
    (scratch, daemon)
}

fn json_of(daemon: &Daemon, args: &[&str]) -> Value {
    serde_json::from_str(&stdout(&daemon.run(&[&["--json"], args].concat()))).unwrap()
}

/// Also where nobody has answered, for which the exit code stands.
fn rows_of(output: &Output) -> Value {
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    answer["rows"].clone()
}

fn scrape(address: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text.split_once("\r\n\r\n").unwrap().1.to_owned()
}

#[test]
fn three_nodes_are_shown_and_one_that_is_dead_and_one_that_refuses() {
    let (_alpha_files, alpha) = daemon("alpha", "none");
    let (_beta_files, beta) = daemon("beta", "127.0.0.0/8");
    let (_gamma_files, gamma) = daemon("gamma", "10.0.0.0/8");
    let nodes = format!("alpha,{},{},{DEAD},{}", beta.address(), gamma.address(), beta.address());
    let answer = json_of(&alpha, &["metrics", "node.uptime", "--nodes", &nodes]);
    let rows = answer["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 4, "each once: {answer}");
    assert_eq!((&rows[0]["node"], &rows[0]["address"]), (&"alpha".into(), &Value::Null));
    assert_eq!((&rows[1]["node"], &rows[1]["address"]), (&"beta".into(), &beta.address().into()));
    for row in &rows[..2] {
        let metrics = row["metrics"].as_array().unwrap();
        assert_eq!((metrics.len(), &metrics[0]["name"]), (1, &"node.uptime".into()));
        assert!(metrics[0]["series"][0]["value"].as_f64().unwrap() > 0.0, "{row}");
        assert_eq!(
            (&metrics[0]["unit"], &metrics[0]["type"]),
            (&"seconds".into(), &"gauge".into())
        );
        assert!(row["time_us"].as_u64() > row["since_us"].as_u64(), "{row}");
    }
    let refused = rows[2]["failure"].as_str().unwrap();
    assert!(refused.contains("node.share_metrics_with does not name 127.0.0.1"), "{refused}");
    assert!(rows[2]["metrics"].is_null() && rows[3]["metrics"].is_null(), "{answer}");
    let dead = rows[3]["failure"].as_str().unwrap();
    assert!(dead.contains("refused"), "{dead}");
    let table = stdout(&alpha.run(&["metrics", "node.uptime", "--nodes", &nodes]));
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("NODE ") && lines.len() == 5, "{table}");
    assert!(lines[2].starts_with("beta at ") && lines[2].contains("seconds"), "{table}");
    assert!(lines[3].contains("no answer: it does not tell this node of its metrics"), "{table}");
    // The setting takes hold at once.
    stdout(&gamma.run(&["config", "set", "node.share_metrics_with", "127.0.0.1"]));
    let told = json_of(&alpha, &["metrics", "--component", "amst", "--nodes", &gamma.address()]);
    let told = told["rows"][0].clone();
    assert_eq!(told["node"], "gamma");
    let metrics = told["metrics"].as_array().unwrap();
    assert!(metrics.len() > 5 && metrics.iter().all(|metric| metric["component"] == "amst"));
}

#[test]
fn nodes_go_by_the_names_of_known_peers() {
    let pair = Pair::new();
    let ask =
        |nodes: &str| rows_of(&pair.run(&["--json", "metrics", "node.guests", "--nodes", nodes]));
    let failure = |rows: &Value, row: usize| rows[row]["failure"].as_str().unwrap().to_owned();
    assert!(failure(&ask(&pair.to()), 0).contains("does not name 127.0.0.1"));
    let silent = pair.run(&["metrics", "node.guests", "--nodes", &pair.to()]);
    assert_eq!(silent.status.code(), Some(1), "nobody answered");
    pair.destination.share_metrics_with("127.0.0.1".parse().unwrap());
    assert!(failure(&ask(&pair.to()), 0).contains("it keeps no metrics"));
    let socket = pair.scratch.path("there.sock");
    let server = serve_control(&pair.destination, &socket, ControlOptions::default()).unwrap();
    pair.add_guest("vm", 16);
    let unknown = pair.run(&["metrics", "--nodes", "there"]);
    let text = refusal(&unknown, 1);
    assert!(text.contains("no known peer is called \"there\""), "{text}");
    pair.json(&["mode-detect", "--peer", &pair.to()]);
    pair.json(&["migrate", "vm", "--to", &pair.to()]);
    let rows = ask("here,there");
    assert_eq!((&rows[0]["node"], &rows[1]["node"]), (&"here".into(), &"there".into()));
    assert_eq!(rows[1]["address"], pair.to());
    assert_eq!(rows[0]["metrics"][0]["series"][0]["labels"]["role"], "source");
    let all = ask("all");
    assert_eq!(all.as_array().unwrap().len(), 2, "{all}");
    // By the host of a known peer's address, too.
    assert_eq!(ask("127.0.0.1")[0]["node"], "there");
    for (nodes, code, reason) in [
        ("nowhere:0", 1, "port \"0\" is not 1 to 65535"),
        ("nobody", 1, "no known peer is called \"nobody\""),
        ("", 1, "no known peer is called \"\""),
    ] {
        let text = refusal(&pair.run(&["metrics", "--nodes", nodes]), code);
        assert!(text.contains(reason), "{text}");
    }
    let unknown = pair.run(&["metrics", "node.gusts", "--nodes", "all"]);
    assert!(
        refusal(&unknown, 1).contains("unknown metric \"node.gusts\"; known here: amst.streams")
    );
    drop(server);
    assert!(failure(&ask("there"), 0).contains("it keeps no metrics"), "it has stopped");
}

#[test]
fn a_v1_peer_is_never_asked() {
    let pair = Pair::new();
    let v1 = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = v1.local_addr().unwrap().to_string();
    v1.set_nonblocking(true).unwrap();
    pair.json(&["set-mode", "v1-compat", "--peer", &address]);
    let both = format!("{address},{}", pair.to());
    let rows = rows_of(&pair.run(&["--json", "metrics", "--nodes", &both]));
    assert_eq!(rows[0]["failure"], "not asked: it is a v1 peer");
    assert!(rows[1]["failure"].as_str().unwrap().contains("does not name"), "{rows}");
    let came = v1.accept().map(|_| ()).unwrap_err();
    assert_eq!(came.kind(), std::io::ErrorKind::WouldBlock);
    // A node that treats every peer as v1 for now asks those all the same whom nobody has called v1.
    pair.json(&["set-mode", "v1-compat"]);
    let rows = rows_of(&pair.run(&["--json", "metrics", "--nodes", &pair.to()]));
    assert!(rows[0]["failure"].as_str().unwrap().contains("does not name"), "{rows}");
}

#[test]
fn watching_goes_on_until_it_is_ended() {
    let (_beta_files, beta) = daemon("beta", "127.0.0.1");
    let (_alpha_files, alpha) = daemon("alpha", "none");
    let nodes = format!("{},{DEAD}", beta.address());
    let args = ["--json", "metrics", "node.uptime", "--nodes", &nodes, "--watch"];
    let mut process = Process::spawn(&mut operator(&alpha.socket, &args));
    let mut lines = BufReader::new(process.0.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    let uptime = |answer: &Value| {
        assert!(answer["rows"][1]["failure"].is_string(), "{answer}");
        answer["rows"][0]["metrics"][0]["series"][0]["value"].as_f64().unwrap()
    };
    let (first, second) = (uptime(&next()), uptime(&next()));
    assert!(second > first, "{first} {second}");
    // A node that goes away does not end it.
    drop(beta);
    wait_until("its row says so", || next()["rows"][0]["failure"].is_string().then_some(()));
    let args = ["metrics", "--component", "amst", "--watch"];
    let mut process = Process::spawn(&mut operator(&alpha.socket, &args));
    let lines = BufReader::new(process.0.stdout.take().unwrap()).lines();
    let mut grown = lines.map(|line| line.unwrap()).filter(|line| line.starts_with("amst.notices"));
    let second = grown.nth(1).unwrap();
    assert_eq!(second.split_whitespace().last(), Some("0"), "with its growth: {second}");
    assert_eq!(second.split_whitespace().count(), 4, "{second}");
}

#[test]
fn now_is_compared_with_a_baseline() {
    let pair = Pair::new();
    pair.add_guest("vm", 256);
    let path = pair.scratch.path("baseline.json");
    let file = path.to_str().unwrap();
    assert!(stdout(&pair.run(&["metrics", "--save", file])).contains("written to"));
    let moved = pair.json(&["migrate", "vm", "--to", &pair.to()]);
    let answer = pair.json(&["metrics", "--baseline", file]);
    assert!(answer["now_us"].as_f64() > answer["then_us"].as_f64(), "{answer}");
    let row = |answer: &Value, name: &str| {
        let rows = answer["rows"].as_array().unwrap();
        rows.iter().find(|row| row["name"] == name).cloned().unwrap()
    };
    let wire = row(&answer, "amst.wire{side=source}");
    assert_eq!((&wire["then"], &wire["ratio"]), (&0.0.into(), &Value::Null));
    assert_eq!(wire["unit"], "bytes a second");
    assert!(wire["now"].as_f64().unwrap() > 0.0, "{wire}");
    let sent = moved["wire_bytes"].as_f64().unwrap();
    let flat =
        json!({ "amst.wire": sent / 2.0, "migration.downtime{side=source}": 1e6, "ours": 3 });
    std::fs::write(&path, flat.to_string()).unwrap();
    let answer = pair.json(&["metrics", "--baseline", file]);
    assert_eq!(answer["not_metrics"], json!(["ours"]));
    let wire = row(&answer, "amst.wire");
    assert_eq!((&wire["now"], &wire["ratio"]), (&sent.into(), &2.0.into()));
    assert!(row(&answer, "migration.downtime{side=source}")["ratio"].as_f64().unwrap() < 1.0);
    let output = pair.run(&["metrics", "--component", "amst", "--baseline", file]);
    let table = stdout(&output);
    assert!(table.lines().next().unwrap().starts_with("METRIC     NOW "), "{table}");
    assert!(table.lines().nth(1).unwrap().contains("2.00   bytes"), "{table}");
    assert_eq!(table.lines().count(), 2, "{table}");
    let note = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(note.contains("no metric here is called \"ours\""), "{note}");
}

#[test]
fn what_is_no_baseline_is_one_clear_sentence() {
    let pair = Pair::new();
    let path = pair.scratch.path("v1-baseline.json");
    let file = path.to_str().unwrap();
    let refused = |reason: &str| {
        let text = refusal(&pair.run(&["metrics", "--baseline", file]), 1);
        assert!(text.contains("v1-baseline.json: ") && text.contains(reason), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        let output = pair.run(&["--json", "metrics", "--baseline", file]);
        let error: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(error["error"]["status"], "DWCP_ERR_INVALID_ARGUMENT");
    };
    refused("No such file");
    for (text, reason) in [
        (&b"\xff\xfe"[..], "UTF-8"),
        (b"latency: 5", "expected value at line 1"),
        (b"{\"latency\": \"low\"}", "\"latency\" is not a number"),
        (b"{\"latency\": 5}", "no metric here is called \"latency\""),
        (b"7", "no JSON object"),
    ] {
        std::fs::write(&path, text).unwrap();
        refused(reason);
    }
    std::fs::write(&path, b"{\"amst.streams\": 5}").unwrap();
    let other = pair.run(&["metrics", "--component", "hde", "--baseline", file]);
    assert!(refusal(&other, 1).contains("it says nothing of the metrics that are asked for"));
    let both = pair.run(&["metrics", "--baseline", file, "--nodes", "all"]);
    assert!(refusal(&both, 2).contains("cannot be used with"));
    let nowhere = pair.run(&["metrics", "--save", "/nonexistent/metrics.json"]);
    assert!(refusal(&nowhere, 1).contains("cannot write /nonexistent/metrics.json"));
}

#[test]
fn what_prometheus_reads_keeps_the_format_before_and_after_a_migration() {
    let pair = Pair::new();
    pair.add_guest("vm", 256);
    let address = pair.server.metrics_address().unwrap().to_string();
    let read = || {
        let text = scrape(&address);
        openmetrics::parse(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    };
    assert_eq!(read().len(), Metric::ALL.len());
    pair.json(&["migrate", "vm", "--to", &pair.to()]);
    let observed = |family: &str, labels: &str| {
        let families = read();
        let found = &families[family];
        assert_eq!((found.kind.as_str(), found.unit.as_str()), ("histogram", "seconds"));
        let name = format!("{family}_count");
        let mut samples = found.samples.iter();
        let sample = samples.find(|sample| sample.name == name && sample.labels == labels);
        sample.map_or(0.0, |sample| sample.value)
    };
    assert_eq!(observed("dwcp_migration_downtime_seconds", "side=source"), 1.0);
    assert_eq!(observed("dwcp_migration_duration_seconds", "side=source"), 1.0);
    assert_eq!(observed("dwcp_migration_fault_wait_seconds", ""), 0.0);
    pair.json(&["mode-detect", "--peer", &pair.to()]);
    wait_until("the path was measured", || {
        (observed("dwcp_amst_round_trip_seconds", "mode=hybrid") > 0.0).then_some(())
    });
    let probes = pair.json(&["metrics", "mode-detector.probes"]);
    assert_eq!(probes["metrics"][0]["series"][0]["labels"]["outcome"], "answered");
}

#[test]
fn the_guides_forms_go_on_working() {
    let pair = Pair::new();
    for args in [
        &["metrics", "hde.delta_hit_rate"][..],
        &["metrics", "hde.algorithm_usage"],
        &["metrics", "--component", "hde"],
    ] {
        assert!(stdout(&pair.run(args)).starts_with("METRIC  "), "{args:?}");
    }
}

#[test]
fn the_page_of_metrics_is_as_the_catalog() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (head, rest) = page.split_once(BEGIN).expect(BEGIN);
    let (found, tail) = rest.split_once(END).expect(END);
    let wanted = tables();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, format!("{head}{BEGIN}{wanted}{END}{tail}")).unwrap();
        return;
    }
    assert_eq!(found, wanted, "if the change is meant, run with BLESS=1");
}

const BEGIN: &str = "<!-- From src/node/catalog.rs; BLESS=1 writes it anew. -->\n";
const END: &str = "<!-- End. -->\n";

fn tables() -> String {
    let mut text = String::new();
    for component in Component::ALL {
        let all = Metric::ALL.iter().map(|metric| metric.declaration());
        let rows: Vec<String> =
            all.filter(|metric| metric.component == component).map(row).collect();
        if rows.is_empty() {
            continue;
        }
        text.push_str(&format!("\n### {}\n\n", component.name()));
        text.push_str("| metric | type | unit | labels | meaning | in Prometheus |\n");
        text.push_str("|---|---|---|---|---|---|\n");
        text.push_str(&rows.concat());
    }
    text + "\n"
}

fn row(metric: &Declaration) -> String {
    let labels = match metric.label {
        Label::None => "none".to_owned(),
        Label::Of(name, values) => format!("`{name}`: {}", listed(&values())),
    };
    let unit = metric.prometheus_unit().map_or_else(String::new, |unit| format!("_{unit}"));
    let total = if metric.shape == Shape::Counter { "_total" } else { "" };
    let name = metric.prometheus_name();
    format!(
        "| `{}` | {} | {} | {labels} | {} | `{name}{unit}{total}` |\n",
        metric.name,
        metric.shape.name(),
        metric.unit,
        metric.help,
    )
}

/// All of them where they are few.
fn listed(values: &[&str]) -> String {
    let shown = if values.len() > 9 { &values[..3] } else { values };
    let quoted: Vec<String> = shown.iter().map(|value| format!("`{value}`")).collect();
    let more =
        if values.len() > 9 { format!(" and {} more", values.len() - 3) } else { String::new() };
    quoted.join(", ") + &more
}

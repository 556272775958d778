//! The compression tools against real nodes: what they print, and what they refuse.

use crate::stage::{Pair, Scratch, operator, refusal, stdout};
use serde_json::Value;
use std::path::Path;
use std::process::Output;

fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Without any node.
fn alone(args: &[&str]) -> Output {
    operator(Path::new("/nonexistent/s"), args).output().unwrap()
}

/// A pair whose guest has text, zeros and repetitions in its memory.
fn pair_with_guest(pages: usize) -> Pair {
    let pair = Pair::new();
    let (guest, _) = pair.add_guest("vm", pages);
    for page in (1..pages).step_by(4) {
        guest.fill(page, |at| (at as u64 * 40_503 + page as u64 * 7) as u8 % 23 + b'a');
    }
    pair
}

#[test]
fn statistics_are_of_one_migration_or_of_all() {
    let pair = pair_with_guest(512);
    let before = pair.json(&["compression-stats"]);
    assert_eq!((&before["pages"], &before["compression_ratio"]), (&0.into(), &Value::Null));
    let report = pair.json(&["migrate", "vm", "--to", &pair.to(), "--codec", "zstd:3"]);
    let stats = pair.json(&["compression-stats"]);
    let count = |value: &Value| value.as_u64().unwrap();
    assert_eq!(stats["encoding"]["zero"]["pages"], report["zero_pages"]);
    assert_eq!(stats["encoding"]["fresh"]["pages"], report["full_pages"]);
    let raw = (count(&report["zero_pages"]) + count(&report["full_pages"])) * 4096;
    assert_eq!(count(&stats["raw_bytes"]), raw);
    let packed = count(&stats["packed_bytes"]);
    assert!(packed > 0 && packed < count(&report["wire_bytes"]), "{stats} {report}");
    let ratio = stats["compression_ratio"].as_f64().unwrap();
    assert!((ratio - raw as f64 / packed as f64).abs() < 1e-9);
    let usage = &stats["encoding"]["algorithm_usage"]["zstd:3"];
    assert_eq!(count(&usage["raw_bytes"]), count(&report["full_pages"]) * 4096);
    let id = report["id"].as_str().unwrap();
    let of_one = pair.json(&["compression-stats", "--migration", &id[..6]]);
    assert_eq!(of_one["encoding"], stats["encoding"]);
    assert_eq!(of_one["migration"]["guest"], "vm");
    let table = stdout(&pair.run(&["compression-stats"]));
    assert!(table.contains("zstd:3") && table.contains("delta hit rate     -"), "{table}");
    assert_eq!(pair.json(&["migrations"])["migrations"][0]["encoding"], stats["encoding"]);
    let unknown = pair.run(&["compression-stats", "--migration", "ffff"]);
    assert!(refusal(&unknown, 1).contains("no migration \"ffff\""));
    let metric = |name: &str| pair.json(&["metrics", name])["metrics"][0]["series"].clone();
    assert_eq!(metric("hde.compression_ratio")[0]["value"].as_f64(), Some(ratio));
    let used = metric("hde.algorithm_usage");
    let used = used.as_array().unwrap().iter().find(|of| of["labels"]["codec"] == "zstd:3");
    assert_eq!(used.unwrap()["value"], usage["blocks"]);
    let text = stdout(&pair.run(&["metrics", "--component", "hde"]));
    assert!(text.contains("hde.bytes_saved{class=zero}") && text.contains("hde.delta_hit_rate"));
}

#[test]
fn a_guests_memory_is_analyzed_and_drawn() {
    let pair = pair_with_guest(2048);
    let plot = pair.scratch.path("codecs.svg");
    let args = ["compression-analyze", "--sample", "500", "--plot", plot.to_str().unwrap()];
    let found = pair.json(&args);
    assert_eq!((&found["guest"], &found["pages"]), (&"vm".into(), &500.into()));
    assert_eq!(found["of_pages"], 2048);
    let ratio = |codec: &str| {
        let codecs = found["codecs"].as_array().unwrap();
        codecs.iter().find(|of| of["codec"] == codec).unwrap()["ratio"].as_f64().unwrap()
    };
    assert!(ratio("zstd:3") > 1.5 && (ratio("none") - 1.0).abs() < 1e-9, "{found}");
    assert!(found["zero_pages"].as_u64() > Some(50) && found["duplicate_pages"].as_u64() > Some(0));
    assert_eq!(found["choices"].as_array().unwrap().len(), 4);
    let svg = std::fs::read_to_string(&plot).unwrap();
    assert!(svg.starts_with("<svg ") && svg.contains(">Codecs on memory of guest vm<"), "{svg}");
    for codec in found["codecs"].as_array().unwrap().iter().skip(1) {
        assert!(svg.contains(&format!(">{} (", codec["codec"].as_str().unwrap())), "{svg}");
    }
    let table = stdout(&pair.run(&["compression-analyze", "vm", "--sample", "64"]));
    assert!(
        table.starts_with("guest vm: 64 of 2048 pages") && table.contains("10 Gbit/s"),
        "{table}"
    );
    // More than there is: all of it.
    assert_eq!(pair.json(&["compression-analyze", "--sample", "65536"])["pages"], 2048);
}

#[test]
fn what_cannot_be_analyzed_is_refused_by_name() {
    let pair = Pair::new();
    let run = |args: &[&str]| pair.run(&[&["compression-analyze"], args].concat());
    let text = refusal(&run(&[]), 1);
    assert!(text.contains("no guest runs here") && text.contains("NOT_FOUND"), "{text}");
    pair.add_guest("one", 64);
    pair.add_guest("two", 64);
    let text = refusal(&run(&[]), 1);
    assert!(text.contains("several guests") && text.contains("one, two"), "{text}");
    let text = refusal(&run(&["three"]), 1);
    assert!(text.contains("no guest \"three\"; known here: one, two"), "{text}");
    for bad in ["0", "65537"] {
        let text = refusal(&run(&["one", "--sample", bad]), 1);
        assert!(text.contains(&format!("1 to 65536 pages, not {bad}")), "{text}");
    }
    assert!(refusal(&run(&["one", "--sample", "many"]), 2).contains("many"));
    let text = refusal(&run(&["one", "--plot", "/nowhere/at/all.svg"]), 1);
    assert!(text.contains("cannot write /nowhere/at/all.svg"), "{text}");
    assert!(refusal(&run(&["one", "--file", "x"]), 2).contains("cannot be used with"));
    let sink = crate::guest::MemoryGuest::new(8, false);
    pair.source.add_destination("to-come", sink).unwrap();
    let text = refusal(&run(&["to-come"]), 1);
    assert!(text.contains("registered as destination"), "{text}");
}

#[test]
fn a_file_needs_no_node() {
    let scratch = Scratch::new();
    let file = |name: &str, bytes: &[u8]| {
        std::fs::write(scratch.path(name), bytes).unwrap();
        scratch.path(name).to_str().unwrap().to_owned()
    };
    let analyze = |path: &str, more: &[&str]| {
        alone(&[&["--json", "compression-analyze", "--file", path], more].concat())
    };
    let lines: String = (0..20_000).map(|line| format!("line {line} of a dump\n")).collect();
    let dump = file("dump", &[&[0; 40_960], lines.as_bytes()].concat());
    let found = json_of(&analyze(&dump, &[]));
    assert_eq!((&found["zero_pages"], &found["file"]), (&10.into(), &dump.as_str().into()));
    assert!(found["codecs"][6]["ratio"].as_f64() > Some(3.0), "{found}");
    for (path, more, text, status) in [
        (file("empty", b""), &[][..], "has 0 bytes, less than a page", "DWCP_ERR_INVALID_ARGUMENT"),
        (file("short", &[1; 4095]), &[], "has 4095 bytes", "DWCP_ERR_INVALID_ARGUMENT"),
        ("/nowhere".to_owned(), &[], "cannot read /nowhere: No such file", "DWCP_ERR_IO"),
        ("/tmp".to_owned(), &[], "not a regular file", "DWCP_ERR_IO"),
        (dump, &["--sample", "0"], "not 0", "DWCP_ERR_INVALID_ARGUMENT"),
    ] {
        let output = analyze(&path, more);
        assert_eq!(output.status.code(), Some(1), "{path}");
        let error = &json_of(&output)["error"];
        assert!(error["message"].as_str().unwrap().contains(text), "{error}");
        assert_eq!(error["status"], status);
    }
}

#[test]
fn everything_comes_back_with_and_without_a_node() {
    let output = alone(&["encoding-test", "--enable-ml"]);
    let table = stdout(&output);
    for what in ["codec zstd:19", "codec lz4:64", "references", "differences", "v1 packets"] {
        assert!(table.contains(what), "{what}: {table}");
    }
    assert!(table.contains("no learned selector is built yet; the cost selector"), "{table}");
    let remark = String::from_utf8(output.stderr).unwrap();
    assert!(remark.contains("no node answers at /nonexistent/s"), "{remark}");
    let pair = pair_with_guest(256);
    let tested = pair.json(&["encoding-test"]);
    assert_eq!((&tested["passed"], &tested["failed"]), (&true.into(), &0.into()));
    assert!(tested["learned_selector"].is_null());
    let verdicts = tested["verdicts"].as_array().unwrap();
    let of_guest = verdicts.iter().filter(|verdict| verdict["memory"] == "guest vm");
    assert_eq!(of_guest.count(), 15);
}

#[test]
fn integrity_is_checked_and_a_damaged_record_found() {
    let scratch = Scratch::new();
    let config = scratch.path("c.yaml");
    crate::stage::write_config(&scratch, &config, "");
    let daemon = crate::stage::Daemon::start(&scratch, &config);
    let check = || daemon.run(&["--json", "data-integrity-check"]);
    let sound = check();
    assert_eq!((sound.status.code(), &json_of(&sound)["sound"]), (Some(0), &true.into()));
    let id = "5".repeat(32);
    let record = scratch.path("state").join(format!("{id}-destination.state"));
    std::fs::write(&record, vec![9; 8192]).unwrap();
    let damaged = check();
    let found = json_of(&damaged);
    assert_eq!((damaged.status.code(), &found["sound"]), (Some(1), &false.into()));
    let records = &found["checks"][0];
    assert_eq!((&records["checked"], &records["failed"]), (&1.into(), &1.into()));
    assert!(records["details"][0].as_str().unwrap().contains("is corrupt"), "{found}");
    let output = daemon.run(&["data-integrity-check"]);
    let table = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(output.status.code() == Some(1) && table.contains("FAILED") && table.contains(&id));
}

#[test]
fn a_moved_image_counts_as_checked_and_memory_adds_up() {
    let pair = pair_with_guest(256);
    pair.json(&["migrate", "vm", "--to", &pair.to()]);
    let checks = pair.json(&["data-integrity-check"]);
    assert_eq!((&checks["sound"], &checks["checks"][2]["checked"]), (&true.into(), &1.into()));
    let memory = pair.json(&["memory-usage"]);
    let count = |field: &str| memory[field].as_u64().unwrap();
    let parts = memory["parts"].as_array().unwrap();
    let sum: u64 = parts.iter().map(|part| part["bytes"].as_u64().unwrap()).sum();
    assert_eq!(sum, count("accounted_bytes"));
    assert_eq!(count("rest_bytes"), count("rss_bytes") - sum);
    assert!(parts.iter().any(|part| part["part"] == "event ring"));
    let table = stdout(&pair.run(&["memory-usage", "--breakdown"]));
    assert!(table.contains("event ring") && table.contains("resident (RSS)"), "{table}");
    assert!(stdout(&pair.run(&["memory-usage"])).contains("resident"));
    assert!(stdout(&pair.run(&["baselines-count"])).contains("no migration is under way"));
    assert_eq!(pair.json(&["baselines-count"])["baselines"], 0);
}

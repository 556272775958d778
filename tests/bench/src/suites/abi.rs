//! What the C interface costs, measured by a C program linked to `libdwcp.so`.

use crate::results::{Figure, Results, Wanted};
use crate::samples::Samples;
use crate::{Failure, Plan};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles and runs `abi_cost.c`.
pub fn run(plan: &Plan, results: &mut Results) -> Result<(), Failure> {
    let library_dir = match &plan.library_dir {
        Some(directory) => directory.clone(),
        None => std::env::current_exe()?.parent().ok_or("this program has no directory")?.into(),
    };
    let program = compile(&library_dir, plan.output.with_file_name("abi_cost"))?;
    let (mut call, mut reap) = (Samples::default(), Samples::default());
    for _ in 0..plan.rounds {
        let output = Command::new(&program).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{}: {said}", output.status).into());
        }
        let said: Value = serde_json::from_slice(&output.stdout)?;
        call.push(said["call_ns"].as_f64().ok_or("no call_ns")?);
        reap.push(said["reap_us"].as_f64().ok_or("no reap_us")?);
    }
    let figure = |case, metric, unit, dwcp, target: f64| Figure {
        suite: "abi",
        case,
        metric,
        unit,
        dwcp,
        peer_name: "target",
        peer: Samples::from(target),
        wanted: Wanted::AtMost(1.0),
    };
    results.add(figure("dwcp_abi_version()", "call", "ns", call, 20.0))?;
    results.add(figure("poll() and reap one", "completion", "us", reap, 5.0))
}

fn compile(library_dir: &Path, program: PathBuf) -> Result<PathBuf, Failure> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    // The library's soname, which Cargo gives no file of that name.
    let soname = program.with_file_name("libdwcp.so.0");
    let _ = std::fs::remove_file(&soname);
    std::os::unix::fs::symlink(library_dir.canonicalize()?.join("libdwcp.so"), &soname)?;
    let output = Command::new(std::env::var("CC").unwrap_or_else(|_| "cc".into()))
        .args(["-O2", "-std=c99", "-Wall", "-Wextra", "-D_POSIX_C_SOURCE=200809L"])
        .arg("-I")
        .arg(here.join("../../include"))
        .arg(here.join("abi_cost.c"))
        .arg("-o")
        .arg(&program)
        .arg("-L")
        .arg(library_dir)
        .arg("-ldwcp")
        .arg("-Wl,-rpath,$ORIGIN")
        .output()?;
    if !output.status.success() {
        return Err(format!("abi_cost.c: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(program)
}

//! What the interfaces cost: C's, measured by a C program linked to `libdwcp.so`, and for the one call that
//! hot paths make, a decider's, Python's too.

use crate::results::{Figure, Results, Wanted};
use crate::samples::Samples;
use crate::{Failure, Plan};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles and runs `abi_cost.c`, and runs `decide_cost.py`.
pub fn run(plan: &Plan, results: &mut Results) -> Result<(), Failure> {
    let library_dir = match &plan.library_dir {
        Some(directory) => directory.clone(),
        None => std::env::current_exe()?.parent().ok_or("this program has no directory")?.into(),
    };
    let program = compile(&library_dir, plan.output.with_file_name("abi_cost"))?;
    let (mut call, mut decide, mut reap) =
        (Samples::default(), Samples::default(), Samples::default());
    for _ in 0..plan.rounds {
        let said = answer(&mut Command::new(&program))?;
        call.push(number(&said, "call_ns")?);
        decide.push(number(&said, "decide_ns")?);
        reap.push(number(&said, "reap_us")?);
    }
    results.add(figure("dwcp_abi_version()", "call", "ns", call, 20.0))?;
    results.add(figure("poll() and reap one", "completion", "us", reap, 5.0))?;
    results.add(figure("dwcp_decider_is_on()", "decide", "ns", decide, 60.0))?;
    from_python(plan, &library_dir, results)
}

/// The package from the working tree, with the native module that was built beside this program.
fn from_python(plan: &Plan, library_dir: &Path, results: &mut Results) -> Result<(), Failure> {
    let package = plan.output.with_file_name("python").join("dwcp");
    stage_package(&package, &library_dir.canonicalize()?.join("lib_dwcp.so"))?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("decide_cost.py");
    let (mut decide, mut truth) = (Samples::default(), Samples::default());
    for _ in 0..plan.rounds {
        let mut command = Command::new("python3");
        let path = package.parent().ok_or("the package has no directory")?;
        let said = answer(command.arg(&script).env("PYTHONPATH", path))?;
        decide.push(number(&said, "decide_ns")?);
        truth.push(number(&said, "truth_ns")?);
    }
    results.add(figure("Decider.is_on()", "decide", "ns", decide, 300.0))?;
    results.add(figure("not decider", "decide", "ns", truth, 300.0))
}

fn stage_package(package: &Path, module: &Path) -> Result<(), Failure> {
    if !module.exists() {
        let text = format!("{} is not there: cargo build -p dwcp-python", module.display());
        return Err(text.into());
    }
    let _ = std::fs::remove_dir_all(package);
    std::fs::create_dir_all(package)?;
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../python/dwcp").canonicalize()?;
    for entry in std::fs::read_dir(sources)? {
        let path = entry?.path();
        if let Some(name) = path.file_name().filter(|_| path.extension() == Some("py".as_ref())) {
            std::os::unix::fs::symlink(&path, package.join(name))?;
        }
    }
    Ok(std::os::unix::fs::symlink(module, package.join("_dwcp.abi3.so"))?)
}

fn figure<'a>(
    case: &'a str,
    metric: &'a str,
    unit: &'a str,
    dwcp: Samples,
    target: f64,
) -> Figure<'a> {
    let (peer_name, peer, wanted) = ("target", Samples::from(target), Wanted::AtMost(1.0));
    Figure { suite: "abi", case, metric, unit, dwcp, peer_name, peer, wanted }
}

/// The JSON object that a program prints.
fn answer(command: &mut Command) -> Result<Value, Failure> {
    let output = command.output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{}: {said}", output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn number(said: &Value, name: &str) -> Result<f64, Failure> {
    Ok(said[name].as_f64().ok_or_else(|| format!("no {name}"))?)
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

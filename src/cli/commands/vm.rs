//! `vm`: QEMUs' guests on a node.

use crate::cli::args::Vm;
use crate::cli::client::Client;
use crate::cli::error::CliError;
use crate::cli::output::{Output, bytes, row, text};
use serde_json::{Value, json};
use std::path::Path;

pub async fn run(command: Vm, client: &Client, output: &Output) -> Result<(), CliError> {
    match command {
        Vm::Attach { name, qmp, incoming } => attach(&name, &qmp, incoming, client, output).await,
        Vm::List => list(client, output).await,
        Vm::Detach { name } => detach(&name, client, output).await,
        Vm::Status { name } => status(&name, client, output).await,
    }
}

async fn attach(
    name: &str,
    qmp: &Path,
    incoming: bool,
    client: &Client,
    output: &Output,
) -> Result<(), CliError> {
    let argument = |what: String| CliError::Argument(format!("{}: {what}", qmp.display()));
    // The node has another current directory.
    let path = std::path::absolute(qmp).map_err(|error| argument(error.to_string()))?;
    let path = path.to_str().ok_or_else(|| argument("the path is not UTF-8".to_owned()))?;
    let body = json!({ "name": name, "qmp": path, "incoming": incoming });
    let vm = client.post("/v3/vms/attach", body).await?;
    if output.json() {
        return output.value(&vm);
    }
    let role = if incoming { "its guest is expected" } else { "its guest can leave" };
    output.line(&format!("attached {name}: {}; {role}", machine(&vm)))
}

async fn list(client: &Client, output: &Output) -> Result<(), CliError> {
    let answer = client.get("/v3/vms").await?;
    if output.json() {
        return output.value(&answer);
    }
    let mut rows = vec![row(["VM", "ROLE", "MEMORY", "CPUS", "MACHINE", "MIGRATION", "QMP"])];
    for vm in answer["vms"].as_array().into_iter().flatten() {
        let memory = bytes(vm["ram_bytes"].as_u64().unwrap_or(0));
        let [name, role, cpus, machine, migration, qmp] =
            ["name", "role", "cpus", "machine", "migration", "qmp"].map(|field| text(&vm[field]));
        rows.push(vec![name, role, memory, cpus, machine, migration, qmp]);
    }
    if rows.len() == 1 {
        output.note("no VM is attached to this node; see: dwcp-v3-cli vm attach --help");
    }
    output.table(&rows)
}

async fn detach(name: &str, client: &Client, output: &Output) -> Result<(), CliError> {
    let answer = client.post("/v3/vms/detach", json!({ "name": name })).await?;
    if output.json() {
        return output.value(&answer);
    }
    output.line(&format!("detached {name}; its QEMU goes on as it is"))
}

async fn status(name: &str, client: &Client, output: &Output) -> Result<(), CliError> {
    let vm = client.query("/v3/vms/status", &[("name", Some(name))]).await?;
    if output.json() {
        return output.value(&vm);
    }
    let state = match vm["silence"].as_str() {
        Some(why) => format!("not known: {why}"),
        None => text(&vm["state"]),
    };
    let role = match vm["role"].as_str() {
        Some("destination") => "destination: its guest is expected",
        _ => "source: its guest is here and can leave",
    };
    output.line(&format!("{name}: {}", machine(&vm)))?;
    output.line(&format!("role       {role}"))?;
    output.line(&format!("state      {state}"))?;
    output.line(&format!("QMP        {}", text(&vm["qmp"])))?;
    let (held, size) = (&vm["held"], bytes(vm["held"]["bytes"].as_u64().unwrap_or(0)));
    output.line(&format!("held       {} pages of it, {size}", held["pages"]))?;
    output.line(&format!("migration  {}", migration(&vm)))
}

fn machine(vm: &Value) -> String {
    format!(
        "{}, {} of memory, CPUs: {}, QEMU {}",
        text(&vm["machine"]),
        bytes(vm["ram_bytes"].as_u64().unwrap_or(0)),
        vm["cpus"],
        text(&vm["qemu_version"])
    )
}

fn migration(vm: &Value) -> String {
    if vm["migration"].is_null() {
        return "none".to_owned();
    }
    let progress = &vm["progress"];
    let sent = bytes(progress["wire_bytes"].as_u64().unwrap_or(0));
    format!("{}: {}, {sent} on the wire", text(&vm["migration"]), text(&progress["phase"]))
}

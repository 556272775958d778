//! The commands that a migration needs, typed. Unknown fields of an answer are ignored, so that
//! later versions of QEMU fit.

use super::qmp::{Qmp, QmpError, excerpt};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// QEMU's word for a migration in post-copy that goes on.
pub const POST_COPY_ACTIVE: &str = "postcopy-active";
/// And for one whose connection broke.
pub const POST_COPY_PAUSED: &str = "postcopy-paused";

/// Whether the guest runs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct RunState {
    /// Its CPUs may execute.
    pub running: bool,
    /// QEMU's word for it, such as `running`, `inmigrate` or `postmigrate`.
    pub status: String,
}

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor, by the kernel's virtual machines.
    Kvm,
    /// QEMU's translator; also stands for accelerators of other systems than Linux.
    Tcg,
}

impl fmt::Display for Accelerator {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

/// What must agree between two QEMUs before a guest can move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineInfo {
    /// With its version, such as `pc-i440fx-7.2-machine`.
    pub machine_type: String,
    /// Guest memory, plugged memory included.
    pub memory_bytes: u64,
    /// CPUs that are present.
    pub cpus: usize,
    /// The first CPU's model, such as `qemu64-x86_64-cpu`.
    pub cpu_type: String,
    /// Who executes.
    pub accelerator: Accelerator,
}

/// How a migration stands, from either side.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct MigrationInfo {
    /// QEMU's word for it, such as `active` or `completed`; empty if there was none yet.
    pub status: String,
    /// Why it failed.
    pub error_desc: Option<String>,
    /// Progress of memory; the source's alone.
    pub ram: Option<RamInfo>,
    /// Since its beginning.
    #[serde(rename = "total-time")]
    pub total_time_ms: Option<u64>,
    /// The guest stood still so long, once completed.
    #[serde(rename = "downtime")]
    pub downtime_ms: Option<u64>,
    /// QEMU's prediction while it runs.
    #[serde(rename = "expected-downtime")]
    pub expected_downtime_ms: Option<u64>,
    /// Before the first page.
    #[serde(rename = "setup-time")]
    pub setup_time_ms: Option<u64>,
    /// All processors of the guest waited for pages so long, after a switch to post-copy; the destination's
    /// alone, with the capability `postcopy-blocktime`.
    #[serde(rename = "postcopy-blocktime")]
    pub post_copy_blocked_ms: Option<u64>,
    /// Devices that forbid it.
    pub blocked_reasons: Vec<String>,
}

/// Progress of memory.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct RamInfo {
    /// Bytes sent.
    pub transferred: u64,
    /// Bytes of pages that wait.
    pub remaining: u64,
    /// Guest memory in bytes.
    pub total: u64,
    /// Pages of zeros.
    pub duplicate: u64,
    /// Pages sent whole.
    pub normal: u64,
    /// Pages that the guest dirties in a second.
    pub dirty_pages_rate: u64,
    /// Passes over the dirty log.
    pub dirty_sync_count: u64,
    /// Bytes of multifd channels.
    pub multifd_bytes: u64,
    /// Bytes in a page; zero if QEMU does not say.
    pub page_size: u64,
    /// Throughput in Mbit/s.
    pub mbps: f64,
}

impl MigrationInfo {
    /// It ended, well or not, or there was none.
    pub fn is_over(&self) -> bool {
        matches!(self.status.as_str(), "" | "none" | "completed" | "failed" | "cancelled")
    }

    /// It is in post-copy, its connection broke, and another may take its place.
    pub fn is_paused(&self) -> bool {
        self.status == POST_COPY_PAUSED
    }

    /// It ended well.
    pub fn is_completed(&self) -> bool {
        self.status == "completed"
    }
}

/// Each fails as [`Qmp::execute`] does.
impl Qmp {
    /// Whether the guest runs.
    pub fn status(&mut self) -> Result<RunState, QmpError> {
        self.ask("query-status")
    }

    /// What must agree between two QEMUs before a guest can move.
    pub fn machine(&mut self) -> Result<MachineInfo, QmpError> {
        let cpus: Vec<Cpu> = self.ask("query-cpus-fast")?;
        let memory: MemorySize = self.ask("query-memory-size-summary")?;
        let cpu_type = match cpus.first() {
            Some(cpu) => self.type_of(&cpu.qom_path)?,
            None => String::new(),
        };
        Ok(MachineInfo {
            machine_type: self.type_of("/machine")?,
            memory_bytes: memory.base_memory.saturating_add(memory.plugged_memory),
            cpus: cpus.len(),
            cpu_type,
            accelerator: self.accelerator()?,
        })
    }

    /// Turns capabilities of a migration on or off, such as `multifd`.
    pub fn set_capabilities(&mut self, capabilities: &[(&str, bool)]) -> Result<(), QmpError> {
        let list: Vec<Value> = capabilities
            .iter()
            .map(|(name, state)| json!({ "capability": name, "state": state }))
            .collect();
        self.order("migrate-set-capabilities", json!({ "capabilities": list }))
    }

    /// Which capabilities this QEMU knows, and which are on.
    pub fn capabilities(&mut self) -> Result<BTreeMap<String, bool>, QmpError> {
        let list: Vec<Capability> = self.ask("query-migrate-capabilities")?;
        Ok(list.into_iter().map(|entry| (entry.capability, entry.state)).collect())
    }

    /// Sets parameters of a migration, an object such as `{"max-bandwidth": 0}`.
    pub fn set_parameters(&mut self, parameters: Value) -> Result<(), QmpError> {
        self.order("migrate-set-parameters", parameters)
    }

    /// All parameters of a migration.
    pub fn parameters(&mut self) -> Result<Value, QmpError> {
        self.ask("query-migrate-parameters")
    }

    /// Starts to migrate, to a URI such as `tcp:HOST:PORT` or `unix:PATH`; returns at once.
    pub fn migrate(&mut self, uri: &str) -> Result<(), QmpError> {
        self.order("migrate", json!({ "uri": uri }))
    }

    /// Listens for a migration; QEMU must have been started with `-incoming defer`.
    pub fn migrate_incoming(&mut self, uri: &str) -> Result<(), QmpError> {
        self.order("migrate-incoming", json!({ "uri": uri }))
    }

    /// Gives a migration up; the guest goes on at the source.
    pub fn migrate_cancel(&mut self) -> Result<(), QmpError> {
        self.order("migrate_cancel", Value::Null)
    }

    /// Goes on with a migration that is paused in post-copy, to a URI; returns at once.
    pub fn migrate_resume(&mut self, uri: &str) -> Result<(), QmpError> {
        self.order("migrate", json!({ "uri": uri, "resume": true }))
    }

    /// Listens again for a migration that is paused in post-copy. QEMU takes this also while its main
    /// loop waits for a page.
    pub fn migrate_recover(&mut self, uri: &str) -> Result<(), QmpError> {
        self.execute_out_of_band("migrate-recover", json!({ "uri": uri })).map(drop)
    }

    /// Lets a migration under way, with `postcopy-ram`, go over to post-copy.
    pub fn migrate_start_postcopy(&mut self) -> Result<(), QmpError> {
        self.order("migrate-start-postcopy", Value::Null)
    }

    /// How the migration stands.
    pub fn migration_info(&mut self) -> Result<MigrationInfo, QmpError> {
        self.ask("query-migrate")
    }

    /// As [`Self::migration_info`], of a QEMU that may not answer now.
    pub fn migration_info_within(&mut self, timeout: Duration) -> Result<MigrationInfo, QmpError> {
        typed("query-migrate", self.execute_within("query-migrate", Value::Null, timeout)?)
    }

    /// Lets the guest run.
    pub fn cont(&mut self) -> Result<(), QmpError> {
        self.order("cont", Value::Null)
    }

    /// Pauses the guest.
    pub fn stop(&mut self) -> Result<(), QmpError> {
        self.order("stop", Value::Null)
    }

    /// Ends QEMU.
    pub fn quit(&mut self) -> Result<(), QmpError> {
        match self.order("quit", Value::Null) {
            // It may be gone before its answer.
            Err(QmpError::Closed { .. }) => Ok(()),
            other => other,
        }
    }

    fn accelerator(&mut self) -> Result<Accelerator, QmpError> {
        match self.ask::<KvmInfo>("query-kvm") {
            Ok(kvm) if kvm.enabled => Ok(Accelerator::Kvm),
            Ok(_) => Ok(Accelerator::Tcg),
            // A QEMU that was built without it.
            Err(QmpError::Refused { class, .. }) if class == "CommandNotFound" => {
                Ok(Accelerator::Tcg)
            }
            Err(error) => Err(error),
        }
    }

    fn type_of(&mut self, path: &str) -> Result<String, QmpError> {
        let arguments = json!({ "path": path, "property": "type" });
        let answer = self.execute("qom-get", arguments)?;
        typed("qom-get", answer)
    }

    fn ask<T: DeserializeOwned>(&mut self, command: &str) -> Result<T, QmpError> {
        let answer = self.execute(command, Value::Null)?;
        typed(command, answer)
    }

    fn order(&mut self, command: &str, arguments: Value) -> Result<(), QmpError> {
        self.execute(command, arguments).map(drop)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cpu {
    qom_path: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct MemorySize {
    base_memory: u64,
    #[serde(default)]
    plugged_memory: u64,
}

#[derive(Deserialize)]
struct KvmInfo {
    enabled: bool,
}

#[derive(Deserialize)]
struct Capability {
    capability: String,
    state: bool,
}

fn typed<T: DeserializeOwned>(command: &str, answer: Value) -> Result<T, QmpError> {
    let shown = excerpt(answer.to_string().as_bytes());
    serde_json::from_value(answer).map_err(|error| QmpError::Answer {
        command: command.to_owned(),
        missing: error.to_string(),
        answer: shown,
    })
}

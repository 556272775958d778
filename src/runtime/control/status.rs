//! The status document: the node, its components and what is not built yet, the flags.

use super::Context;
use crate::transport::Mode;
use crate::{Migration, Node, VERSION};
use serde_json::{Value, json};

/// `GET /v3/status`.
pub(super) fn document(context: &Context) -> Value {
    let node = &context.node;
    let migrations = node.migrations();
    let running = migrations.iter().filter(|migration| migration.report().is_none()).count();
    json!({
        "version": VERSION,
        "node": {
            "name": node.name(),
            "listen": node.local_address().map(|address| address.to_string()),
            "security": security(node),
            "process": std::process::id(),
            "uptime_ms": context.started.elapsed().as_secs_f64() * 1e3,
        },
        "guests": node.guests().len(),
        "migrations": { "running": running, "ended": migrations.len() - running },
        "config": context.config.as_ref().map(|store| store.path().display().to_string()),
        "components": components(node, &migrations),
        "flags": flags(context),
    })
}

/// What a component is for, if it is known and not built yet.
pub(super) fn not_built(name: &str) -> Option<&'static str> {
    NOT_BUILT.iter().find(|(known, _)| *known == name).map(|(_, title)| *title)
}

fn security(node: &Node) -> Value {
    match node.certificate() {
        Some(certificate) => json!({ "transport": "tls", "certificate": certificate }),
        None if node.is_plain() => json!({ "transport": "plain" }),
        None => json!({ "transport": "undecided" }),
    }
}

fn components(node: &Node, migrations: &[Migration]) -> Vec<Value> {
    let running: Vec<_> =
        migrations.iter().filter(|migration| migration.report().is_none()).collect();
    let streams: u64 =
        running.iter().map(|migration| u64::from(migration.progress().streams)).sum();
    let built = [
        ("amst", "multi-stream transport", format!("TCP; {streams} streams connected")),
        ("hde", "page encoding", "zero pages, references, differences, none, lz4, zstd".to_owned()),
        ("mode-detector", "mode detection", modes_state(node)),
        ("migration", "pre-copy migration", format!("{} running", running.len())),
        ("rollout", "feature flags and rollback", flags_state(node)),
    ];
    let built = built.into_iter().map(|(name, title, state)| {
        json!({ "name": name, "title": title, "built": true, "state": state })
    });
    let missing = NOT_BUILT.iter().map(|(name, title)| {
        json!({ "name": name, "title": title, "built": false, "state": "not built yet" })
    });
    built.chain(missing).collect()
}

/// How many peers are in which mode.
fn modes_state(node: &Node) -> String {
    let peers = node.peers();
    let count = |mode: Mode| peers.iter().filter(|peer| peer.mode == mode).count();
    let counts = Mode::ALL.map(|mode| (count(mode), mode));
    let parts = counts.iter().filter(|(count, _)| *count > 0);
    let parts: Vec<_> = parts.map(|(count, mode)| format!("{count} {mode}")).collect();
    let peers = if parts.is_empty() { "no peers yet".to_owned() } else { parts.join(", ") };
    match node.transport().policy.forced {
        Some(mode) => format!("{mode} by configuration; {peers}"),
        None => format!("measured; {peers}"),
    }
}

/// How many flags are in force.
fn flags_state(node: &Node) -> String {
    let flags = node.flags();
    if let Some(why) = flags.iter().find_map(|flag| flag.killed.as_ref()) {
        return format!("kill switch on: {why}");
    }
    let in_force = flags.iter().filter(|flag| flag.is_in_force).count();
    let latched = flags.iter().filter(|flag| flag.latch.is_some()).count();
    let latched = if latched > 0 { format!(", {latched} rolled back") } else { String::new() };
    format!("{in_force} of {} flags in force{latched}", flags.len())
}

fn flags(context: &Context) -> Vec<Value> {
    let flags = context.node.flags().into_iter();
    flags
        .map(|flag| {
            json!({
                "name": flag.name,
                "enabled": flag.rule.enabled,
                "rollout_percent": flag.rule.rollout_percent,
                "is_latched": flag.latch.is_some(),
                "is_in_force": flag.is_in_force,
                "in_use": flag.is_built,
            })
        })
        .collect()
}

pub(super) const NOT_BUILT: &[(&str, &str)] = &[
    ("pba", "bandwidth prediction"),
    ("ass", "state synchronization"),
    ("acp", "consensus"),
    ("itp", "placement"),
];

//! `identity`: the authority of a fleet and the certificates of its nodes. Works on files alone.

use crate::cli::args::Identity as Command;
use crate::cli::error::CliError;
use crate::cli::output::{Output, row};
use crate::runtime::security::CertificateFacts;
use crate::runtime::security::authority::{self, NodeCertificate};
use crate::runtime::security::identity::{self, Shown};
use humantime::format_rfc3339_seconds;
use serde_json::json;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub fn run(command: Command, output: &Output) -> Result<(), CliError> {
    match command {
        Command::Init { name, authority: directory } => {
            authority::create(&directory, &name)?;
            told(output, &directory, "authority made; its key is secret, ca.pem is not")
        }
        Command::Issue { node, host, days, authority: directory, out } => {
            let wanted = NodeCertificate { node, hosts: host, days };
            authority::issue(&directory, &wanted, &out, false)?;
            told(output, &out, "identity issued; take this directory to the node")
        }
        Command::Show { directory } => shown(&identity::show(&directory)?, output),
        Command::Rotate { of_authority: Some(name), authority: directory, .. } => {
            authority::rotate(&directory, &name)?;
            let text =
                "authority has a new key; give every node the new ca.pem before its next identity";
            told(output, &directory, text)
        }
        Command::Rotate { days, authority: directory, identity: out, .. } => {
            let old = identity::show(&out)?.node.ok_or_else(|| {
                CliError::Argument(format!("{} holds no node's identity", out.display()))
            })?;
            let node = old.node.unwrap_or_default();
            let wanted = NodeCertificate { node, hosts: old.hosts, days };
            authority::issue(&directory, &wanted, &out, true)?;
            told(output, &out, "new key and certificate; the daemon takes them up with SIGHUP")
        }
    }
}

fn told(output: &Output, directory: &Path, what: &str) -> Result<(), CliError> {
    match output.json() {
        true => output.value(&json!({ "directory": directory })),
        false => output.line(&format!("{}: {what}", directory.display())),
    }
}

fn shown(shown: &Shown, output: &Output) -> Result<(), CliError> {
    if output.json() {
        return output.value(&json!(shown));
    }
    if let Some(node) = &shown.node {
        output.line(&format!("node {}", node.node.as_deref().unwrap_or("without a name")))?;
        output.line(&format!("dialed as: {}", node.hosts.join(", ")))?;
        output.line("")?;
    }
    let mut rows = vec![row(["CERTIFICATE", "SIGNED BY", "VALID UNTIL", "SHA-256"])];
    rows.extend(shown.node.iter().chain(&shown.trusted).map(certificate_row));
    output.table(&rows)
}

fn certificate_row(facts: &CertificateFacts) -> Vec<String> {
    let until = UNIX_EPOCH + Duration::from_secs(facts.not_after_s.try_into().unwrap_or(0));
    let left = match until.duration_since(SystemTime::now()) {
        Ok(left) => format!("{} days left", left.as_secs() / 86_400),
        Err(_) => "expired".to_owned(),
    };
    let until = format!("{}, {left}", format_rfc3339_seconds(until));
    // As much as tells certificates apart; all of it is in the JSON.
    let fingerprint = facts.fingerprint.chars().take(16).collect();
    vec![facts.subject.clone(), facts.issuer.clone(), until, fingerprint]
}

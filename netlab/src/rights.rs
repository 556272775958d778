//! Whether a laboratory can be set up here, asked before anything is changed.

use crate::LabError;
use std::path::Path;
use std::process::{Command, Stdio};

/// Checks rights and tools.
///
/// # Errors
/// [`LabError::Unable`] says what is missing and what helps.
pub fn check() -> Result<(), LabError> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    judge(&status)?;
    let ip = Command::new("ip").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !ip.is_ok_and(|status| status.success()) {
        return Err(unable("there is no command `ip` (Debian has it in iproute2)"));
    }
    match Path::new(TUN).exists() {
        true => Ok(()),
        false => Err(unable(&format!("there is no {TUN}: modprobe tun"))),
    }
}

fn judge(status: &str) -> Result<(), LabError> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let held = line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(0);
    let missing = NEEDED.iter().filter(|(bit, _)| held >> bit & 1 == 0).map(|(_, name)| *name);
    let missing: Vec<_> = missing.collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(unable(&format!(
        "network namespaces need root: this process lacks {}; run it as root or by sudo",
        missing.join(" and ")
    )))
}

fn unable(reason: &str) -> LabError {
    LabError::Unable { reason: reason.to_owned() }
}

const TUN: &str = "/dev/net/tun";
/// Bits of the effective capabilities.
const NEEDED: [(u32, &str); 2] = [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN")];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        assert!(judge("Name: x\nCapEff:\t000001ffffffffff\n").is_ok());
        let text = judge("CapEff:\t0000000000001000\n").unwrap_err().to_string();
        assert!(text.contains("lacks CAP_SYS_ADMIN; run"), "{text}");
        let text = judge("CapEff:\t0000000000000000\n").unwrap_err().to_string();
        assert!(text.contains("CAP_NET_ADMIN and CAP_SYS_ADMIN"), "{text}");
        assert!(judge("").is_err());
    }
}

//! What guests of unmodified QEMUs need: a QEMU.

use super::{Check, Component, Settings};
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

pub fn check(settings: &Settings) -> Vec<Check> {
    let name = format!("qemu-system-{}", std::env::consts::ARCH);
    let path = std::env::var_os("PATH").unwrap_or_default();
    vec![binary(&name, find(&name, &path), &settings.attached)]
}

/// Where a program of this name is.
fn find(name: &str, path: &OsStr) -> Option<PathBuf> {
    let is_program = |path: &PathBuf| {
        std::fs::metadata(path)
            .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(path).map(|directory| directory.join(name)).find(is_program)
}

/// The node never starts a QEMU, so one elsewhere does as well, if it is attached.
fn binary(name: &str, found: Option<PathBuf>, attached: &[(String, String)]) -> Check {
    let check = |found: String| Check::ok(Component::Qemu, "QEMU", found);
    let list = |(guest, version): &(String, String)| format!("{guest} by QEMU {version}");
    let attached = attached.iter().map(list).collect::<Vec<_>>().join(", ");
    match (found, attached.is_empty()) {
        (Some(path), true) => check(format!("{}; no guest is attached", path.display())),
        (Some(path), false) => check(format!("{}; attached: {attached}", path.display())),
        (None, false) => check(format!("attached: {attached}; no {name} in the node's PATH")),
        (None, true) => check(format!("no {name} in PATH, and no guest is attached"))
            .warning("matters to guests of QEMU alone: install it (Debian: qemu-system)"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn programs_are_found_in_their_path() {
        assert_eq!(find("sh", OsStr::new("/nowhere:/bin")), Some(PathBuf::from("/bin/sh")));
        assert_eq!(find("passwd", OsStr::new("/etc")), None, "it is no program");
        assert_eq!(find("no-such", OsStr::new("/bin")), None);
    }

    #[test]
    fn a_host_with_attached_guests_needs_no_program() {
        let attached = [("vm1".to_owned(), "7.2.19".to_owned())];
        assert_eq!(binary("qemu", None, &[]).verdict, Verdict::Warning);
        let check = binary("qemu", None, &attached);
        assert_eq!(check.verdict, Verdict::Ok);
        assert!(check.found.contains("vm1 by QEMU 7.2.19"), "{}", check.found);
        assert_eq!(binary("qemu", Some("/bin/qemu".into()), &[]).verdict, Verdict::Ok);
    }
}

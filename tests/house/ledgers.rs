//! The two ledgers: CHANGELOG.md knows the version, and docs/dependencies.md has one row for each
//! dependency of each package, and none for those that are gone.

use std::collections::BTreeSet;
use std::process::Command;

use crate::source::{Finding, SourceFile};

const LEDGER: &str = "docs/dependencies.md";
/// Only the tables of this section list what is in use; the others record what was turned down.
const IN_USE: &str = "## In use";

/// A released or coming version is a heading such as `## [0.1.0]`.
pub fn missing_version(changelog: &SourceFile, version: &str) -> Vec<Finding> {
    let heading = format!("## [{version}]");
    let known = changelog.text.lines().any(|line| line.starts_with(&heading));
    (!known).then(|| changelog.finding(1, format!("no heading `{heading}`"))).into_iter().collect()
}

/// Compares the rows with the manifests, both ways.
pub fn stale_ledger(ledger: &SourceFile, dependencies: &BTreeSet<String>) -> Vec<Finding> {
    let rows = rows_in_use(&ledger.text);
    let missing = dependencies
        .iter()
        .filter(|name| !rows.iter().any(|(_, row)| row == *name))
        .map(|name| ledger.finding(1, format!("no row for the dependency `{name}`")));
    let gone = rows
        .iter()
        .filter(|(_, row)| !dependencies.contains(row))
        .map(|(line, row)| ledger.finding(*line, format!("`{row}` is no dependency any more")));
    missing.chain(gone).collect()
}

/// Line and name of each table row that starts with a name in code marks.
fn rows_in_use(text: &str) -> Vec<(usize, String)> {
    let mut in_use = false;
    let mut rows = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.starts_with("## ") {
            in_use = line.starts_with(IN_USE);
        }
        let cell = line.strip_prefix("| ").and_then(|row| row.split(" | ").next()).unwrap_or("");
        if in_use {
            let names = cell.split(", ").filter_map(|name| name.strip_prefix('`'));
            rows.extend(names.map(|name| (index + 1, name.trim_end_matches('`').to_owned())));
        }
    }
    rows
}

/// The names of all direct dependencies that come from outside the repository.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version=1", "--manifest-path"])
        .arg(crate::source::root().join(manifest))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages
        .flat_map(|package| package["dependencies"].as_array().unwrap())
        .filter(|dependency| !dependency["source"].is_null())
        .map(|dependency| dependency["name"].as_str().unwrap().to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{files_with, report};

    fn file(path: &str) -> SourceFile {
        files_with(&["md"]).into_iter().find(|file| file.path == path).unwrap()
    }

    #[test]
    fn the_changelog_knows_the_version() {
        report(missing_version(&file("CHANGELOG.md"), env!("CARGO_PKG_VERSION")));
    }

    #[test]
    fn every_dependency_has_its_reason() {
        let mut all = BTreeSet::new();
        let manifests = files_with(&["toml"]);
        for manifest in manifests.iter().filter(|file| file.path.ends_with("Cargo.toml")) {
            all.append(&mut dependencies(&manifest.path));
        }
        assert!(all.contains("libc"), "the manifests were not read");
        report(stale_ledger(&file(LEDGER), &all));
    }

    #[test]
    fn an_unknown_version_is_found() {
        let changelog = SourceFile::new("CHANGELOG.md", "# Changelog\n\n## [0.1.0] - 2026\n");
        assert!(missing_version(&changelog, "0.1.0").is_empty());
        assert_eq!(missing_version(&changelog, "0.1").len(), 1);
    }

    #[test]
    fn rows_and_manifests_are_compared_both_ways() {
        let text = "## In use\n| `a`, `b` | why |\n| `old` | why |\n## Not used\n| `c` | why |\n";
        let names = ["a", "b", "c"].map(str::to_owned).into();
        let findings = stale_ledger(&SourceFile::new(LEDGER, text), &names);
        let messages: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert_eq!(
            messages,
            [
                "docs/dependencies.md:1: no row for the dependency `c`",
                "docs/dependencies.md:3: `old` is no dependency any more",
            ]
        );
    }
}

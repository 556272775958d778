//! The tree under test: which files belong to the project, their text, and how a finding reads.

use std::fmt;
use std::path::{Path, PathBuf};

/// Written by a program, from sources that the rules do cover or from a foreign header.
const GENERATED: [&str; 2] = ["include/dwcp.h", "src/runtime/rdma/bindings.rs"];

/// Whether nobody wrote the file: it may be long, and gives no reasons.
pub fn is_generated(path: &str) -> bool {
    GENERATED.contains(&path)
}

/// One file of the project; the path is relative to the repository root, with forward slashes.
pub struct SourceFile {
    pub path: String,
    pub text: String,
}

impl SourceFile {
    pub fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    pub fn extension(&self) -> &str {
        self.path.rsplit_once('.').map_or("", |(_, extension)| extension)
    }

    /// Parses Rust; text that does not parse is a defect of the tree, not of a rule.
    pub fn parse(&self) -> syn::File {
        syn::parse_file(&self.text).unwrap_or_else(|error| panic!("{}: {error}", self.path))
    }

    pub fn finding(&self, line: usize, message: impl Into<String>) -> Finding {
        Finding { path: self.path.clone(), line, message: message.into() }
    }
}

/// One broken rule at one place; prints as `file:line: message`, which editors understand.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    pub path: String,
    pub line: usize,
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}: {}", self.path, self.line, self.message)
    }
}

/// Runs one rule over every file and fails with all findings at once.
pub fn check_all(files: &[SourceFile], rule: impl Fn(&SourceFile) -> Vec<Finding>) {
    assert!(!files.is_empty(), "no file to check: is the test run from the repository?");
    report(files.iter().flat_map(rule).collect());
}

/// Fails with one line per finding.
pub fn report(findings: Vec<Finding>) {
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "{} findings\n{}", lines.len(), lines.join("\n"));
}

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file of the project whose extension is in `extensions`.
pub fn files_with(extensions: &[&str]) -> Vec<SourceFile> {
    let mut files = Vec::new();
    walk(&root(), &mut |path| {
        let relative = path.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/");
        if extensions.contains(&relative.rsplit('.').next().unwrap_or("")) {
            files.push(SourceFile { text: std::fs::read_to_string(path).unwrap(), path: relative });
        }
    });
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

/// Rust files below `folder`.
pub fn rust_below(folder: &str) -> Vec<SourceFile> {
    let mut files = files_with(&["rs"]);
    files.retain(|file| file.path.starts_with(folder));
    files
}

/// Visits every file except build outputs and hidden folders, which hold nothing that we wrote.
fn walk(folder: &Path, visit: &mut impl FnMut(&Path)) {
    const OUTPUTS: [&str; 6] =
        ["target", "__pycache__", "corpus", "artifacts", "node_modules", "dist"];
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let kind = entry.file_type().unwrap();
        if name.starts_with('.') || OUTPUTS.contains(&name.as_str()) || kind.is_symlink() {
            continue;
        }
        if kind.is_dir() {
            walk(&entry.path(), visit);
        } else {
            visit(&entry.path());
        }
    }
}

#[test]
fn the_walk_sees_sources_and_skips_outputs() {
    let paths: Vec<String> = files_with(&["rs"]).into_iter().map(|file| file.path).collect();
    assert!(paths.contains(&"src/lib.rs".to_owned()));
    assert!(paths.contains(&"tests/house/source.rs".to_owned()));
    assert!(!paths.iter().any(|path| path.contains("target/")));
}

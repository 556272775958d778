//! The layer rule over the tree, and over texts that break it.

use super::*;
use crate::source::{check_all, rust_below};

#[test]
fn imports_point_down_the_layers() {
    let files = rust_below("src/");
    let root = files.iter().find(|file| file.path == "src/lib.rs").unwrap();
    let names = root_names(root);
    check_all(&files, |file| upward_imports(file, &names));
}

fn found(path: &str, text: &str) -> Vec<String> {
    let root = SourceFile::new(
        "src/lib.rs",
        "pub use base::status::Status;\npub use runtime::node::Node;\npub const VERSION: u8 = 1;",
    );
    let findings = upward_imports(&SourceFile::new(path, text), &root_names(&root));
    findings.iter().map(ToString::to_string).collect()
}

#[test]
fn an_upward_import_is_found_with_its_line() {
    let text = "use crate::base::Time;\nuse crate::{base::ids, runtime::sys};";
    assert_eq!(
        found("src/wire/frame.rs", text),
        ["src/wire/frame.rs:2: `wire` may not name `runtime`"]
    );
}

#[test]
fn engines_never_name_each_other() {
    let text = "fn f() {\n    crate::encoding::zero();\n}";
    assert_eq!(
        found("src/transport/send.rs", text),
        ["src/transport/send.rs:2: `transport` may not name `encoding`"]
    );
}

#[test]
fn the_third_layer_is_ordered() {
    assert_eq!(found("src/observe/log.rs", "use crate::migration::Report;").len(), 1);
    assert_eq!(found("src/migration/run.rs", "use crate::node::Table;").len(), 1);
    assert!(
        found("src/node/table.rs", "use crate::{migration::Report, observe::Event};").is_empty()
    );
}

#[test]
fn the_root_does_not_hide_where_a_name_comes_from() {
    assert_eq!(
        found("src/migration/run.rs", "use crate::Node;"),
        ["src/migration/run.rs:1: `migration` may not name `runtime`"]
    );
    assert!(found("src/migration/run.rs", "use crate::{Status, VERSION};").is_empty());
}

#[test]
fn relative_paths_are_followed() {
    assert_eq!(found("src/base/deep/x.rs", "use super::super::super::wire::Frame;").len(), 1);
    assert!(found("src/base/deep/x.rs", "use super::super::ids::ChunkId;").is_empty());
    assert_eq!(found("src/base/x.rs", "mod t {\n use super::super::super::ffi::y;\n}").len(), 1);
}

#[test]
fn types_and_macro_arguments_count() {
    assert_eq!(found("src/base/x.rs", "type A = crate::cli::Tree;").len(), 1);
    assert_eq!(found("src/base/x.rs", "fn f() { m!(a, crate::cli::go()); }").len(), 1);
    assert_eq!(found("src/base/x.rs", "macro_rules! m { () => { $crate::cli::go() } }").len(), 1);
}

#[test]
fn visibility_is_no_import() {
    assert!(
        found("src/base/x.rs", "pub(crate) fn f() {}\npub(in crate::base) fn g() {}").is_empty()
    );
}

#[test]
fn a_module_without_a_layer_is_refused() {
    assert_eq!(
        found("src/extras/x.rs", ""),
        ["src/extras/x.rs:1: module `extras` has no layer: give it a height in layers.rs"]
    );
}

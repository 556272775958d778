//! Which Rust code is test code: items under `#[cfg(test)]` or `#[test]`, and the files that a
//! `#[cfg(test)] mod name;` pulls in.

use std::collections::BTreeSet;

use syn::{Attribute, Item, Meta, Token, punctuated::Punctuated};

use crate::source::SourceFile;

/// Whether the attributes make the item compile in test builds only.
pub fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().segments.last().is_some_and(|segment| segment.ident == "test")
            || cfg_condition(attribute).is_some_and(|condition| implies_test(&condition))
    })
}

fn cfg_condition(attribute: &Attribute) -> Option<Meta> {
    attribute.path().is_ident("cfg").then(|| attribute.parse_args::<Meta>().ok()).flatten()
}

/// `all(test, x)` implies a test build, `any(test, x)` does not.
fn implies_test(condition: &Meta) -> bool {
    let Meta::List(list) = condition else {
        return condition.path().is_ident("test");
    };
    let Ok(parts) = list.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated) else {
        return false;
    };
    match list.path.get_ident().map(ToString::to_string).as_deref() {
        Some("all") => parts.iter().any(implies_test),
        Some("any") => !parts.is_empty() && parts.iter().all(implies_test),
        _ => false,
    }
}

/// The attributes of an item, of whatever kind it is.
pub fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// Leaves the files that some test build alone compiles out of `files`.
pub fn without_test_files(files: Vec<SourceFile>) -> Vec<SourceFile> {
    let test_modules: BTreeSet<String> = files.iter().flat_map(test_module_stems).collect();
    let is_below = |path: &str, stem: &String| {
        path.strip_prefix(stem.as_str()).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
    };
    let mut kept = files;
    kept.retain(|file| !test_modules.iter().any(|stem| is_below(&file.path, stem)));
    kept.retain(|file| !is_test(&file.parse().attrs));
    kept
}

/// Paths, without `.rs`, of the modules that this file declares for test builds.
fn test_module_stems(file: &SourceFile) -> Vec<String> {
    let folder = module_folder(&file.path);
    let beside = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let declared = |item: &Item| match item {
        Item::Mod(module) if module.content.is_none() && is_test(&module.attrs) => {
            Some(match named_file(&module.attrs) {
                Some(name) => format!("{beside}/{}", name.trim_end_matches(".rs")),
                None => format!("{folder}/{}", module.ident),
            })
        }
        _ => None,
    };
    file.parse().items.iter().filter_map(declared).collect()
}

/// The file that a `#[path = "..."]` attribute names, relative to the declaring file's folder.
fn named_file(attributes: &[Attribute]) -> Option<String> {
    let path = attributes.iter().find(|attribute| attribute.path().is_ident("path"))?;
    let Meta::NameValue(pair) = &path.meta else { return None };
    match &pair.value {
        syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(name), .. }) => Some(name.value()),
        _ => None,
    }
}

/// Where the children of the module in `path` live.
fn module_folder(path: &str) -> &str {
    let stem = path.strip_suffix(".rs").unwrap_or(path);
    match stem.rsplit_once('/') {
        Some((folder, "mod" | "lib" | "main")) => folder,
        _ => stem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first_item_is_test(text: &str) -> bool {
        is_test(attributes(&syn::parse_file(text).unwrap().items[0]))
    }

    #[test]
    fn test_attributes_are_recognised() {
        assert!(first_item_is_test("#[test] fn f() {}"));
        assert!(first_item_is_test("#[tokio::test] fn f() {}"));
        assert!(first_item_is_test("#[cfg(test)] mod tests {}"));
        assert!(first_item_is_test("#[cfg(all(test, unix))] mod tests {}"));
    }

    #[test]
    fn code_that_also_ships_is_not_test_code() {
        assert!(!first_item_is_test("#[cfg(any(test, unix))] fn f() {}"));
        assert!(!first_item_is_test("#[cfg(not(test))] fn f() {}"));
        assert!(!first_item_is_test("#[inline] fn f() {}"));
    }

    #[test]
    fn files_of_test_modules_are_left_out() {
        let files = vec![
            SourceFile::new("src/a/mod.rs", "#[cfg(test)] mod tests; mod b;"),
            SourceFile::new("src/a/tests.rs", ""),
            SourceFile::new("src/a/tests/deep.rs", ""),
            SourceFile::new("src/a/b.rs", "#[cfg(test)] mod pair;"),
            SourceFile::new("src/a/b/pair.rs", ""),
            SourceFile::new("src/a/c.rs", "#[cfg(test)] #[path = \"c_tests.rs\"] mod tests;"),
            SourceFile::new("src/a/c_tests.rs", ""),
            SourceFile::new("src/a/tests_of_b.rs", ""),
        ];
        let kept: Vec<String> =
            without_test_files(files).into_iter().map(|file| file.path).collect();
        assert_eq!(kept, ["src/a/mod.rs", "src/a/b.rs", "src/a/c.rs", "src/a/tests_of_b.rs"]);
    }
}

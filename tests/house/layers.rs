//! Imports point down the layers only.
//!
//! Every path that starts at `crate`, `self` or `super` is resolved to a top-level module, in
//! `use` items, in expressions and types, and inside macro arguments; `pub use` lines of the crate
//! root count as the module they come from.

use std::collections::BTreeMap;

use proc_macro2::{Span, TokenStream, TokenTree};
use syn::visit::{self, Visit};

use crate::source::{Finding, SourceFile};

/// Height of each top-level module: a module may name those strictly below it, and itself.
/// Equal heights never name each other.
const HEIGHTS: [(&str, u8); 17] = [
    ("base", 0),
    ("wire", 10),
    ("transport", 20),
    ("encoding", 20),
    ("qemu", 20),
    ("prediction", 20),
    ("sync", 20),
    ("consensus", 20),
    ("placement", 20),
    ("rollout", 20),
    ("observe", 30),
    ("migration", 31),
    ("node", 32),
    ("config", 40),
    ("runtime", 41),
    ("ffi", 50),
    ("cli", 50),
];

/// Names that the crate root itself offers, and the module each comes from (none: the root's own).
type RootNames = BTreeMap<String, Option<String>>;

/// Every import of `file` that does not point down.
pub fn upward_imports(file: &SourceFile, root_names: &RootNames) -> Vec<Finding> {
    let module = module_path(&file.path);
    let Some(owner) = module.first() else {
        return Vec::new();
    };
    let Some(height) = height_of(owner) else {
        let message = format!("module `{owner}` has no layer: give it a height in layers.rs");
        return vec![file.finding(1, message)];
    };
    let mut search = Search { module: module.clone(), named: Vec::new() };
    search.visit_file(&file.parse());
    let judge = |(line, name): &(usize, String)| {
        let target = root_names.get(name).cloned().unwrap_or_else(|| Some(name.clone()))?;
        let allowed = &target == owner || height_of(&target).is_some_and(|other| other < height);
        (!allowed).then(|| file.finding(*line, format!("`{owner}` may not name `{target}`")))
    };
    search.named.iter().filter_map(judge).collect()
}

fn height_of(module: &str) -> Option<u8> {
    HEIGHTS.iter().find(|(name, _)| *name == module).map(|(_, height)| *height)
}

/// `src/base/time.rs` is `[base, time]`; the crate root and the programs are `[]`: they sit on top.
fn module_path(path: &str) -> Vec<String> {
    let stem = path.trim_start_matches("src/").trim_end_matches(".rs");
    if stem == "lib" || stem.starts_with("bin/") {
        return Vec::new();
    }
    stem.split('/').filter(|part| *part != "mod").map(ToOwned::to_owned).collect()
}

/// What the crate root defines or re-exports.
pub fn root_names(root: &SourceFile) -> RootNames {
    let mut names = RootNames::new();
    for item in &root.parse().items {
        match item {
            syn::Item::Use(item) => {
                for path in leaves(&item.tree) {
                    let source = path.iter().find(|part| *part != "crate" && *part != "self");
                    names.insert(path[path.len() - 1].clone(), source.cloned());
                }
            }
            syn::Item::Const(item) => drop(names.insert(item.ident.to_string(), None)),
            syn::Item::Fn(item) => drop(names.insert(item.sig.ident.to_string(), None)),
            _ => {}
        }
    }
    names
}

/// The full paths of a `use` tree; a renamed leaf goes by its new name.
fn leaves(tree: &syn::UseTree) -> Vec<Vec<String>> {
    let prepend = |head: &syn::Ident, rest: Vec<Vec<String>>| {
        let join = |tail: Vec<String>| [vec![head.to_string()], tail].concat();
        rest.into_iter().map(join).collect()
    };
    match tree {
        syn::UseTree::Path(path) => prepend(&path.ident, leaves(&path.tree)),
        syn::UseTree::Name(name) => vec![vec![name.ident.to_string()]],
        syn::UseTree::Rename(name) => vec![vec![name.ident.to_string(), name.rename.to_string()]],
        syn::UseTree::Glob(_) => vec![vec!["*".to_owned()]],
        syn::UseTree::Group(group) => group.items.iter().flat_map(leaves).collect(),
    }
}

/// Collects the top-level names that a file reaches, with their lines.
struct Search {
    module: Vec<String>,
    named: Vec<(usize, String)>,
}

impl Search {
    /// Follows a path from this module to the name below the crate root, if it stays in the crate.
    fn reach(&mut self, path: &[String], span: Span) {
        let mut at = self.module.clone();
        let mut rest = path;
        match path.first().map(String::as_str) {
            Some("crate") => at.clear(),
            Some("self") => {}
            Some("super") => drop(at.pop()),
            _ => return,
        }
        rest = &rest[1..];
        while rest.first().is_some_and(|part| part == "super") {
            at.pop();
            rest = &rest[1..];
        }
        if let Some(name) = at.first().or(rest.first()) {
            self.named.push((span.start().line, name.clone()));
        }
    }

    /// Finds `crate::name` and `super::name` where the parser sees only tokens.
    fn search_tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut start = Span::call_site();
        for token in tokens {
            match &token {
                TokenTree::Ident(ident) => {
                    if path.last().is_some_and(|part| part != "::") {
                        self.end_path(&mut path, start);
                    }
                    if path.is_empty() {
                        start = ident.span();
                    }
                    path.push(ident.to_string());
                }
                TokenTree::Punct(mark) if mark.as_char() == ':' => {
                    if path.last().is_some_and(|part| part != "::") {
                        path.push("::".to_owned());
                    }
                }
                TokenTree::Group(group) => {
                    self.end_path(&mut path, start);
                    self.search_tokens(group.stream());
                }
                _ => self.end_path(&mut path, start),
            }
        }
        self.end_path(&mut path, start);
    }

    fn end_path(&mut self, path: &mut Vec<String>, start: Span) {
        path.retain(|part| part != "::");
        self.reach(path, start);
        path.clear();
    }
}

impl<'ast> Visit<'ast> for Search {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        self.module.push(module.ident.to_string());
        visit::visit_item_mod(self, module);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        for path in leaves(&item.tree) {
            self.reach(&path, item.use_token.span);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts: Vec<String> = path.segments.iter().map(|part| part.ident.to_string()).collect();
        if let Some(first) = path.segments.first() {
            self.reach(&parts, first.ident.span());
        }
        visit::visit_path(self, path);
    }

    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {
        // `pub(crate)` and `pub(super)` widen who may look; they import nothing.
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        visit::visit_macro(self, call);
        self.search_tokens(call.tokens.clone());
    }
}

#[cfg(test)]
#[path = "layers_tests.rs"]
mod tests;

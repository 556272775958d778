//! `unsafe` stays in three folders of the library and one file of the network laboratory, and each
//! use says why it is sound.

use proc_macro2::{Span, TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use crate::source::{Finding, SourceFile, is_generated};

/// Where code that ships may be unsafe: raw system calls, verbs, and the C boundary.
const UNSAFE_FOLDERS: [&str; 4] =
    ["src/runtime/sys/", "src/runtime/rdma/", "src/ffi/", "netlab/src/sys.rs"];

/// Every `unsafe` outside its folders, and every one without a reason.
pub fn unsafe_code(file: &SourceFile) -> Vec<Finding> {
    if is_generated(&file.path) {
        return Vec::new();
    }
    let lines: Vec<&str> = file.text.lines().collect();
    let mut search = Search { lines: &lines, statement: 0, sites: Vec::new() };
    search.visit_file(&file.parse());
    let ships = ["src/", "netlab/src/"].iter().any(|folder| file.path.starts_with(folder));
    let allowed = !ships || UNSAFE_FOLDERS.iter().any(|folder| file.path.starts_with(folder));
    let judge = |site: &Site| match (allowed, site.explained) {
        (false, _) => Some(
            "`unsafe` belongs in src/runtime/sys, src/runtime/rdma, src/ffi or netlab/src/sys.rs",
        ),
        (true, false) => Some("`unsafe` without a `// SAFETY:` sentence above it"),
        (true, true) => None,
    };
    let findings = search.sites.iter();
    findings.filter_map(|site| Some(file.finding(site.line, judge(site)?))).collect()
}

struct Site {
    line: usize,
    explained: bool,
}

struct Search<'a> {
    lines: &'a [&'a str],
    /// First line of the innermost statement, arm, field or item around the visit.
    statement: usize,
    sites: Vec<Site>,
}

impl Search<'_> {
    /// A block or impl: the reason stands above it, or above the statement that it is part of.
    fn add(&mut self, span: Span) {
        let line = span.start().line;
        let explained = self.reason_above(line) || self.reason_above(self.statement);
        self.sites.push(Site { line, explained });
    }

    /// A function: the caller's duties stand in its documentation, under `# Safety`; those of an
    /// exported one in plain words, because that text becomes the C header.
    fn add_function(&mut self, signature: &syn::Signature) {
        if let syn::Safety::Unsafe(token) = signature.safety {
            let line = token.span.start().line;
            let above = self.comment_above(line);
            let exported = above.iter().any(|text| text.starts_with("#[unsafe(no_mangle)]"));
            let marker = if exported { "/// " } else { "# Safety" };
            let explained =
                above.iter().any(|text| text.contains(marker)) || self.reason_above(line);
            self.sites.push(Site { line, explained });
        }
    }

    fn reason_above(&self, line: usize) -> bool {
        let own = line.checked_sub(1).and_then(|index| self.lines.get(index));
        own.is_some_and(|text| text.contains("// SAFETY:"))
            || self.comment_above(line).iter().any(|text| text.starts_with("// SAFETY:"))
    }

    /// The comment lines directly above a line, attributes skipped.
    fn comment_above(&self, line: usize) -> Vec<&str> {
        let above = self.lines[..line.saturating_sub(1)].iter().rev().map(|text| text.trim());
        above.take_while(|text| text.starts_with("//") || text.starts_with("#[")).collect()
    }

    fn within(&mut self, span: Span, visit: impl FnOnce(&mut Self)) {
        let outer = std::mem::replace(&mut self.statement, span.start().line);
        visit(self);
        self.statement = outer;
    }

    fn search_tokens(&mut self, tokens: TokenStream) {
        for token in tokens {
            match token {
                TokenTree::Group(group) => self.search_tokens(group.stream()),
                TokenTree::Ident(ident) if ident == "unsafe" => {
                    let line = ident.span().start().line;
                    if !self.is_attribute(line) {
                        self.add(ident.span());
                    }
                }
                _ => {}
            }
        }
    }

    fn is_attribute(&self, line: usize) -> bool {
        self.lines[line - 1].contains("#[unsafe(")
    }
}

impl<'ast> Visit<'ast> for Search<'_> {
    fn visit_expr_unsafe(&mut self, block: &'ast syn::ExprUnsafe) {
        self.add(block.unsafe_token.span);
        visit::visit_expr_unsafe(self, block);
    }

    fn visit_item_impl(&mut self, block: &'ast syn::ItemImpl) {
        if let Some(token) = block.unsafety {
            self.add(token.span);
        }
        visit::visit_item_impl(self, block);
    }

    fn visit_item_foreign_mod(&mut self, block: &'ast syn::ItemForeignMod) {
        if let Some(token) = block.unsafety {
            self.add(token.span);
        }
        visit::visit_item_foreign_mod(self, block);
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.add_function(&function.sig);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.add_function(&function.sig);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        self.add_function(&function.sig);
        visit::visit_trait_item_fn(self, function);
    }

    fn visit_item(&mut self, item: &'ast syn::Item) {
        self.within(item.span(), |search| visit::visit_item(search, item));
    }

    fn visit_stmt(&mut self, statement: &'ast syn::Stmt) {
        self.within(statement.span(), |search| visit::visit_stmt(search, statement));
    }

    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        self.within(arm.span(), |search| visit::visit_arm(search, arm));
    }

    fn visit_field_value(&mut self, field: &'ast syn::FieldValue) {
        self.within(field.span(), |search| visit::visit_field_value(search, field));
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.search_tokens(call.tokens.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{check_all, files_with};

    #[test]
    fn unsafe_code_is_quarantined_and_explained() {
        check_all(&files_with(&["rs"]), unsafe_code);
    }

    fn found(path: &str, text: &str) -> Vec<usize> {
        unsafe_code(&SourceFile::new(path, text)).iter().map(|found| found.line).collect()
    }

    #[test]
    fn unsafe_outside_its_folders_is_found_even_when_explained() {
        let text = "fn f() {\n    // SAFETY: fine.\n    unsafe { g() }\n}";
        assert_eq!(found("src/migration/x.rs", text), [3]);
        assert_eq!(found("netlab/src/bin/x.rs", text), [3]);
        assert!(found("src/ffi/x.rs", text).is_empty());
        assert!(found("netlab/src/sys.rs", text).is_empty());
        assert!(found("tests/c/x.rs", text).is_empty());
    }

    #[test]
    fn a_missing_reason_is_found() {
        let text = "fn f() {\n    // Quick.\n    unsafe { g() }\n}\n\nunsafe impl Send for A {}";
        assert_eq!(found("src/ffi/x.rs", text), [3, 6]);
    }

    #[test]
    fn one_reason_covers_one_statement_only() {
        let text = "fn f() {\n// SAFETY: a.\nlet a =\n unsafe { g() };\nlet b = unsafe { g() };\n}";
        assert_eq!(found("src/ffi/x.rs", text), [5]);
    }

    #[test]
    fn macros_are_searched_and_attributes_are_not() {
        assert_eq!(found("src/ffi/x.rs", "macro_rules! m { () => {\n unsafe { g() } } }"), [2]);
        let text = "#[unsafe(no_mangle)]\npub extern \"C\" fn f() {}";
        assert!(found("src/ffi/x.rs", text).is_empty());
    }

    #[test]
    fn an_unsafe_function_states_its_duties() {
        assert_eq!(found("src/ffi/x.rs", "/// Frees.\nunsafe fn f() {}"), [2]);
        let exported = "#[unsafe(no_mangle)]\npub unsafe extern \"C\" fn f() {}";
        assert_eq!(found("src/ffi/x.rs", exported), [2]);
        assert!(found("src/ffi/x.rs", &format!("/// Frees.\n{exported}")).is_empty());
        assert!(found("src/ffi/x.rs", "/// # Safety\n/// Once.\nunsafe fn f() {}").is_empty());
    }
}

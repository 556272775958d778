//! No `.unwrap()`, `.expect()`, `todo!`, `unimplemented!` or `dbg!` in code that ships.
//!
//! An `.expect()` that is followed by `?` is a method of our own that returns an error, not the
//! panicking one. Macro arguments are searched token by token, because the parser does not look into them.

use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use crate::source::{Finding, SourceFile};
use crate::testcode::{attributes, is_test};

const METHODS: [&str; 4] = ["unwrap", "expect", "unwrap_err", "expect_err"];
const MACROS: [&str; 3] = ["todo", "unimplemented", "dbg"];

/// Every banned call of a file, test items left out.
pub fn shortcuts(file: &SourceFile) -> Vec<Finding> {
    let mut search = Search { file, findings: Vec::new() };
    search.visit_file(&file.parse());
    search.findings
}

struct Search<'a> {
    file: &'a SourceFile,
    findings: Vec<Finding>,
}

impl Search<'_> {
    fn found(&mut self, line: usize, what: String) {
        let message = format!("{what} in code that ships: return an error that names the value");
        self.findings.push(self.file.finding(line, message));
    }

    fn search_tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        for (index, token) in tokens.iter().enumerate() {
            if let TokenTree::Group(group) = token {
                self.search_tokens(group.stream());
            }
            let TokenTree::Ident(ident) = token else { continue };
            let (name, line) = (ident.to_string(), ident.span().start().line);
            let before = index.checked_sub(1).and_then(|index| tokens.get(index));
            if METHODS.contains(&name.as_str()) && is_punctuation(before, '.') {
                self.found(line, format!(".{name}()"));
            }
            if MACROS.contains(&name.as_str()) && is_punctuation(tokens.get(index + 1), '!') {
                self.found(line, format!("{name}!"));
            }
        }
    }
}

fn is_punctuation(token: Option<&TokenTree>, expected: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punctuation)) if punctuation.as_char() == expected)
}

impl<'ast> Visit<'ast> for Search<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if !is_test(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        if !is_test(&function.attrs) {
            visit::visit_impl_item_fn(self, function);
        }
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        let name = call.method.to_string();
        if METHODS.contains(&name.as_str()) {
            self.found(call.method.span().start().line, format!(".{name}()"));
        }
        visit::visit_expr_method_call(self, call);
    }

    fn visit_expr_try(&mut self, attempt: &'ast syn::ExprTry) {
        match &*attempt.expr {
            // Past the name, into its receiver and arguments.
            syn::Expr::MethodCall(call) if call.method == "expect" => {
                visit::visit_expr_method_call(self, call)
            }
            other => self.visit_expr(other),
        }
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        if let Some(name) = MACROS.iter().find(|name| call.path.is_ident(name)) {
            self.found(call.path.span().start().line, format!("{name}!"));
        }
        self.search_tokens(call.tokens.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{check_all, rust_below};
    use crate::testcode::without_test_files;

    #[test]
    fn shipped_code_takes_no_shortcuts() {
        for shipped in ["src/", "netlab/src/"] {
            check_all(&without_test_files(rust_below(shipped)), shortcuts);
        }
    }

    fn lines(text: &str) -> Vec<usize> {
        shortcuts(&SourceFile::new("src/x.rs", text)).iter().map(|found| found.line).collect()
    }

    #[test]
    fn calls_and_macros_are_found() {
        assert_eq!(lines("fn f() {\n  a.unwrap();\n  b.expect(\"c\");\n  todo!();\n}"), [2, 3, 4]);
    }

    #[test]
    fn a_question_mark_excuses_only_the_call_before_it() {
        assert_eq!(lines("fn f() {\n  a\n  .unwrap().expect(b.unwrap())?;\n}"), [3, 3]);
        assert_eq!(lines("fn f() { a.unwrap()?; }"), [1]);
    }

    #[test]
    fn calls_inside_macro_arguments_are_found() {
        assert_eq!(lines("fn f() {\n  assert!(a\n    .unwrap());\n}"), [3]);
        assert_eq!(lines("macro_rules! m { () => {\n dbg!(1) } }"), [2]);
    }

    #[test]
    fn tests_and_other_names_are_left_alone() {
        assert!(lines("#[cfg(test)] mod tests { fn f() { a.unwrap() } }").is_empty());
        assert!(lines("impl A { #[cfg(test)] fn f() { a.unwrap() } }").is_empty());
        assert!(lines("fn f() { reader.expect(Kind::Hello)?; }").is_empty());
        assert!(lines("fn f() { a.unwrap_or(1); let s = \"todo!()\"; }").is_empty());
    }
}

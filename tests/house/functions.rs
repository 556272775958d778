//! No function over 70 lines: Rust by its syntax tree, the other languages by their indentation.

use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use crate::source::{Finding, SourceFile, is_generated};

const LIMIT: usize = 70;

/// Every function of a file that is too long to take in at a glance.
pub fn long_functions(file: &SourceFile) -> Vec<Finding> {
    if is_generated(&file.path) {
        return Vec::new();
    }
    let measured = match file.extension() {
        "rs" => rust_functions(file),
        "py" => python_functions(&file.text),
        _ => braced_functions(&file.text),
    };
    let too_long = |(line, name, length): (usize, String, usize)| {
        let message = format!("`{name}` has {length} lines, the limit is {LIMIT}: split it");
        (length > LIMIT).then(|| file.finding(line, message))
    };
    measured.into_iter().filter_map(too_long).collect()
}

/// First line, name, and lines from the signature to the closing brace.
type Measured = (usize, String, usize);

fn rust_functions(file: &SourceFile) -> Vec<Measured> {
    let mut measure = RustFunctions(Vec::new());
    measure.visit_file(&file.parse());
    measure.0
}

struct RustFunctions(Vec<Measured>);

impl RustFunctions {
    fn add(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let first = signature.span().start().line;
        let last = block.brace_token.span.close().end().line;
        self.0.push((first, signature.ident.to_string(), last + 1 - first));
    }
}

impl<'ast> Visit<'ast> for RustFunctions {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.add(&function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.add(&function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(block) = &function.default {
            self.add(&function.sig, block);
        }
        visit::visit_trait_item_fn(self, function);
    }
}

/// A `def` reaches to the last line that is indented deeper than itself.
fn python_functions(text: &str) -> Vec<Measured> {
    let lines: Vec<&str> = text.lines().collect();
    let starts = lines.iter().enumerate().filter_map(|(index, line)| {
        let code = line.trim_start();
        let rest = code.strip_prefix("async ").unwrap_or(code).strip_prefix("def ")?;
        Some((index, line.len() - code.len(), rest.split('(').next()?.to_owned()))
    });
    let measure = |(index, indent, name): (usize, usize, String)| {
        let body = lines[index + 1..].iter().enumerate().take_while(|(_, line)| {
            let code = line.trim_start();
            code.is_empty() || code.starts_with(')') || line.len() - code.len() > indent
        });
        let last = body.filter(|(_, line)| !line.trim().is_empty()).last();
        (index + 1, name, last.map_or(1, |(offset, _)| offset + 2))
    };
    starts.map(measure).collect()
}

/// C, C++ and shell: a function ends at the first line that is `}` alone in the first column.
fn braced_functions(text: &str) -> Vec<Measured> {
    let mut measured = Vec::new();
    let mut start: Option<(usize, String)> = None;
    for (index, line) in text.lines().enumerate() {
        if line.starts_with('}') {
            if let Some((first, name)) = start.take() {
                measured.push((first + 1, name, index + 1 - first));
            }
        } else if let Some(name) = braced_name(line) {
            start = Some((index, name));
        }
    }
    measured
}

/// The name before the first parenthesis of a line that opens a function in the first column.
fn braced_name(line: &str) -> Option<String> {
    const NOT_FUNCTIONS: [&str; 7] =
        ["#", "struct ", "enum ", "union ", "typedef ", "namespace ", "extern \"C\" {"];
    let indented = line.starts_with(char::is_whitespace);
    if indented || NOT_FUNCTIONS.iter().any(|start| line.starts_with(start)) || line.contains('=') {
        return None;
    }
    let head = line.split_once('(')?.0.trim_end();
    let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    let name = head.rsplit(|letter| !is_word(letter)).next()?;
    (!name.is_empty() && !line.ends_with(';')).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{check_all, files_with};

    #[test]
    fn every_function_is_short() {
        check_all(&files_with(&["rs", "py", "c", "h", "hpp", "cpp", "sh"]), long_functions);
    }

    fn found(path: &str, text: &str) -> Vec<String> {
        let findings = long_functions(&SourceFile::new(path, text));
        findings.iter().map(ToString::to_string).collect()
    }

    fn body(lines: usize, line: &str) -> String {
        format!("{line}\n").repeat(lines)
    }

    #[test]
    fn the_limit_is_exact_in_rust() {
        let function = |lines| format!("\nimpl A {{ fn long() {{\n{}}} }}", body(lines, "a();"));
        assert!(found("src/x.rs", &function(LIMIT - 2)).is_empty());
        assert_eq!(
            found("src/x.rs", &function(LIMIT - 1)),
            ["src/x.rs:2: `long` has 71 lines, the limit is 70: split it"]
        );
    }

    #[test]
    fn long_python_is_found() {
        let text = format!("class A:\n    def long(self):\n{}\nx = 1\n", body(70, "        a()"));
        assert_eq!(
            found("x.py", &text),
            ["x.py:2: `long` has 71 lines, the limit is 70: split it"]
        );
        assert!(found("x.py", &text.replacen("        a()\n", "", 1)).is_empty());
    }

    #[test]
    fn long_c_and_shell_are_found() {
        let c = format!("static int\nlong_one(int a)\n{{\n{}}}\n", body(70, "  a();"));
        assert_eq!(found("x.c", &c), ["x.c:2: `long_one` has 73 lines, the limit is 70: split it"]);
        let shell = format!("long_one() {{\n{}}}\n", body(70, "  a"));
        assert_eq!(found("x.sh", &shell).len(), 1);
        assert!(found("x.c", &format!("struct a {{\n{}}};\n", body(90, "  int b;"))).is_empty());
    }
}

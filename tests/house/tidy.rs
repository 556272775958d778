//! Every file says its idea first, stays under 900 lines, and leaves no note of unfinished work.

use crate::source::{Finding, SourceFile, is_generated};

const MAX_LINES: usize = 900;
const LANGUAGES: [&str; 9] = ["rs", "c", "h", "hpp", "cpp", "py", "pyi", "sh", "toml"];
// Split so that this file does not accuse itself.
const UNFINISHED: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

/// A file must open with a comment in its language's form for "about this file".
pub fn missing_module_doc(file: &SourceFile) -> Vec<Finding> {
    let mut lines = file.text.lines().skip_while(|line| line.starts_with("#!"));
    let first = lines.find(|line| !line.trim().is_empty()).unwrap_or("");
    let openings: &[&str] = match file.extension() {
        "rs" => &["//! "],
        "c" | "h" | "hpp" | "cpp" => &["/*", "// "],
        "py" | "pyi" => &["\"\"\"", "r\"\"\"", "# "],
        "sh" => &["# "],
        _ => return Vec::new(),
    };
    let opened = openings.iter().any(|opening| first.starts_with(opening));
    let message = || format!("the file must open with its one idea in a {:?} comment", openings[0]);
    (!opened).then(|| file.finding(1, message())).into_iter().collect()
}

pub fn too_long(file: &SourceFile) -> Vec<Finding> {
    let lines = file.text.lines().count();
    let long = lines > MAX_LINES && !is_generated(&file.path);
    let message = || format!("{lines} lines, the limit is {MAX_LINES}: split the file");
    long.then(|| file.finding(MAX_LINES + 1, message())).into_iter().collect()
}

pub fn unfinished_notes(file: &SourceFile) -> Vec<Finding> {
    let is_word = |text: &str, note: &str| {
        text.split(|letter: char| !letter.is_alphanumeric() && letter != '_').any(|w| w == note)
    };
    let found = file.text.lines().enumerate().filter_map(|(index, line)| {
        let note = UNFINISHED.iter().find(|note| is_word(line, note))?;
        Some(file.finding(index + 1, format!("{note}: finish it or open an issue")))
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{check_all, files_with};

    #[test]
    fn every_file_opens_with_its_idea() {
        check_all(&files_with(&LANGUAGES), missing_module_doc);
    }

    #[test]
    fn no_file_is_too_long() {
        check_all(&files_with(&LANGUAGES), too_long);
    }

    #[test]
    fn nothing_is_left_unfinished() {
        check_all(&files_with(&LANGUAGES), unfinished_notes);
    }

    fn has_doc(path: &str, text: &str) -> bool {
        missing_module_doc(&SourceFile::new(path, text)).is_empty()
    }

    #[test]
    fn a_file_without_its_idea_is_found() {
        assert!(!has_doc("a.rs", "use std::fmt;"));
        assert!(!has_doc("a.rs", "// Not a module doc.\n//! Late."));
        assert!(!has_doc("a.c", "#include <stdio.h>"));
        assert!(!has_doc("a.py", "import os"));
        assert!(!has_doc("a.sh", "#!/bin/sh\nset -e\n# Late."));
    }

    #[test]
    fn each_language_has_its_own_opening() {
        assert!(has_doc("a.rs", "//! Idea."));
        assert!(has_doc("a.h", "/* Idea. */"));
        assert!(has_doc("a.py", "#!/usr/bin/env python3\n\"\"\"Idea.\"\"\""));
        assert!(has_doc("a.sh", "#!/usr/bin/env bash\n# Idea."));
    }

    #[test]
    fn the_length_limit_is_exact() {
        let file = |lines| SourceFile::new("a.rs", &"x\n".repeat(lines));
        assert!(too_long(&file(MAX_LINES)).is_empty());
        assert_eq!(too_long(&file(MAX_LINES + 1))[0].line, 901);
    }

    #[test]
    fn an_unfinished_note_is_found_as_a_word() {
        let text = format!("a\n// {}: later\n{}_LIST", UNFINISHED[0], UNFINISHED[0]);
        let lines: Vec<usize> =
            unfinished_notes(&SourceFile::new("a.rs", &text)).iter().map(|f| f.line).collect();
        assert_eq!(lines, [2]);
    }
}

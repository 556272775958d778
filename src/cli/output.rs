//! What commands print: lines, tables, or JSON; control characters never reach the terminal.

use super::error::CliError;
pub use crate::config::units::rounded_bytes as bytes;
use crate::observe::log::printable;
use serde_json::Value;
use std::io::{self, IsTerminal, Write};

/// Where a command prints to.
pub struct Output {
    json: bool,
}

impl Output {
    /// Prints JSON if asked to.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether JSON was asked for.
    pub fn json(&self) -> bool {
        self.json
    }

    /// Whether a person looks at it.
    pub fn to_terminal(&self) -> bool {
        io::stdout().is_terminal()
    }

    /// Prints a line.
    pub fn line(&self, text: &str) -> Result<(), CliError> {
        let mut out = io::stdout().lock();
        writeln!(out, "{}", printable(text)).and_then(|()| out.flush()).map_err(CliError::Output)
    }

    /// Prints a value as one line of JSON.
    pub fn value(&self, value: &Value) -> Result<(), CliError> {
        self.line(&value.to_string())
    }

    /// Prints rows in columns, the first row as headings.
    pub fn table(&self, rows: &[Vec<String>]) -> Result<(), CliError> {
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| printable(cell).chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in rows {
            let cells = row.iter().zip(&widths);
            let line: Vec<_> =
                cells.map(|(cell, width)| format!("{:width$}", printable(cell))).collect();
            self.line(line.join("  ").trim_end())?;
        }
        Ok(())
    }

    /// Clears the terminal.
    pub fn clear(&self) -> Result<(), CliError> {
        let mut out = io::stdout().lock();
        write!(out, "\x1b[H\x1b[2J").map_err(CliError::Output)
    }

    /// A remark that is not the result.
    pub fn note(&self, text: &str) {
        // A remark that nobody can read is no reason to fail.
        let _ = writeln!(io::stderr().lock(), "{}", printable(text));
    }

    /// Tells why the command failed; gives the exit code.
    pub fn failed(&self, error: &CliError) -> u8 {
        let code = error.exit_code();
        if self.json && code != 0 {
            // The exit code tells where printing cannot.
            let _ = self.value(&error.to_json());
        } else if code != 0 {
            for line in format!("error: {error}").lines() {
                self.note(line);
            }
        }
        code
    }
}

/// A field's text: strings bare, null as `-`.
pub fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A row of texts.
pub fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

/// A number with so many decimals; null as `-`.
pub fn number(value: &Value, decimals: usize) -> String {
    value.as_f64().map_or_else(|| "-".to_owned(), |number| format!("{number:.decimals$}"))
}

/// A share of a whole in percent; `-` of nothing.
pub fn percent(part: f64, of: f64) -> String {
    if of > 0.0 { format!("{:.1} %", 100.0 * part / of) } else { "-".to_owned() }
}

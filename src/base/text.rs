//! Text for error messages: what somebody wrote, cut short, and what he may have meant.

/// The known name most like `name`, if any is alike.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(likeness, _)| *likeness >= LEAST_LIKENESS)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// The text in quotes, cut to a length fit for a message.
pub fn quoted(text: &str) -> String {
    let mut short: String = text.chars().take(MAX_QUOTED_CHARACTERS).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short:?}")
}

const LEAST_LIKENESS: f64 = 0.75;
const MAX_QUOTED_CHARACTERS: usize = 64;

//! Changes one key in a file's text and nothing else: comments, order and spelling stay.

use super::keys::{self, Id};
use super::load;
use super::tree::{self, Content, Entry, Node};
use super::{Origin, Value};

/// The text with `id` set to `value`.
///
/// The result is read back: it differs from the old configuration in this key alone, or the edit
/// is refused.
///
/// # Errors
/// The text is refused as it stands, or is laid out in a way that only a person can edit.
pub fn set_key(file: &str, text: &str, id: Id, value: &Value) -> Result<String, load::ConfigError> {
    let mut expected = load::from_text(file, text)?;
    let edited = edit(text, id, &scalar(&value.to_string()));
    if let Some(edited) = edited
        && let Ok(read) = load::from_text(file, &edited)
    {
        expected.set(id, value.clone(), Origin::Default);
        if read.changed(&expected).is_empty() {
            return Ok(edited);
        }
    }
    let text = format!("{} cannot be set in this layout; edit the file by hand", id.key().name);
    Err(load::ConfigError {
        file: file.to_owned(),
        problems: vec![load::Problem { line: 0, column: 0, text }],
    })
}

fn edit(text: &str, id: Id, scalar: &str) -> Option<String> {
    let root = tree::parse(text).ok()?;
    let path = id.key().path();
    let mut node = &root;
    for depth in 0..path.len() {
        let Content::Map(entries) = &node.content else { break };
        let Some(entry) = entries.iter().find(|entry| is_at(entry, path[depth], depth)) else {
            return Some(insert(text, node, &path[depth..], scalar));
        };
        if depth + 1 == path.len() {
            return Some(replace(text, &entry.node, scalar));
        }
        if entry.node.content == Content::Empty {
            return Some(fill(text, entry, &path[depth + 1..], scalar));
        }
        node = &entry.node;
    }
    (root.content == Content::Empty).then(|| append(text, &path, scalar))
}

fn is_at(entry: &Entry, name: &str, depth: usize) -> bool {
    match depth {
        0 => keys::short_section(&entry.key) == keys::short_section(name),
        _ => entry.key == name,
    }
}

fn replace(text: &str, node: &Node, scalar: &str) -> String {
    let bytes = node.place.bytes.clone();
    let space = if bytes.is_empty() { " " } else { "" };
    format!("{}{space}{scalar}{}", &text[..bytes.start], &text[bytes.end..])
}

/// Gives an empty section its first key.
fn fill(text: &str, entry: &Entry, path: &[&str], scalar: &str) -> String {
    if !entry.node.place.bytes.is_empty() {
        return replace(text, &entry.node, &format!("{{{}}}", flow(path, scalar)));
    }
    let indent = column_bytes(entry) + INDENT;
    insert_line(text, entry.place.bytes.end, &block(path, scalar, indent))
}

fn insert(text: &str, mapping: &Node, path: &[&str], scalar: &str) -> String {
    let Content::Map(entries) = &mapping.content else { return text.to_owned() };
    if text.get(mapping.place.bytes.clone()) == Some("{") {
        let comma = if entries.is_empty() { "" } else { ", " };
        let at = mapping.place.bytes.end;
        return format!("{}{}{comma}{}", &text[..at], flow(path, scalar), &text[at..]);
    }
    let Some(first) = entries.first() else { return append(text, path, scalar) };
    let lines = block(path, scalar, column_bytes(first));
    match last_byte(mapping) {
        Some(end) => insert_line(text, end, &lines),
        // The mapping's end is not known: above its first key is as good a place.
        None => {
            let start = text[..first.place.bytes.start].rfind('\n').map_or(0, |at| at + 1);
            format!("{}{lines}{}", &text[..start], &text[start..])
        }
    }
}

fn append(text: &str, path: &[&str], scalar: &str) -> String {
    insert_line(text, text.len(), &block(path, scalar, 0))
}

/// Puts whole lines below the line that byte `at` is on.
fn insert_line(text: &str, at: usize, lines: &str) -> String {
    let at = at.min(text.len());
    let end = match text[at..].find('\n') {
        Some(offset) if at < text.len() => at + offset + 1,
        _ => text.len(),
    };
    let newline = if end == 0 || text[..end].ends_with('\n') { "" } else { "\n" };
    format!("{}{newline}{lines}{}", &text[..end], &text[end..])
}

fn last_byte(node: &Node) -> Option<usize> {
    match &node.content {
        Content::Scalar(_) | Content::Empty => Some(node.place.bytes.end),
        Content::Map(entries) if node.place.bytes.is_empty() => last_byte(&entries.last()?.node),
        Content::Map(_) | Content::List(_) => None,
    }
}

fn block(path: &[&str], scalar: &str, indent: usize) -> String {
    let mut lines = String::new();
    for (depth, name) in path.iter().enumerate() {
        let value = if depth + 1 == path.len() { format!(" {scalar}") } else { String::new() };
        lines.push_str(&format!("{:1$}{name}:{value}\n", "", indent + depth * INDENT));
    }
    lines
}

fn flow(path: &[&str], scalar: &str) -> String {
    match path {
        [] => String::new(),
        [name] => format!("{name}: {scalar}"),
        [name, rest @ ..] => format!("{name}: {{{}}}", flow(rest, scalar)),
    }
}

fn column_bytes(entry: &Entry) -> usize {
    usize::try_from(entry.place.column.saturating_sub(1)).unwrap_or(0)
}

/// The value as a YAML scalar, quoted where it would read as something else.
fn scalar(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./:%+-".contains(c);
    let opens_well = text.starts_with(|c: char| c.is_ascii_alphanumeric() || "/.".contains(c));
    let is_null = text.eq_ignore_ascii_case("null");
    if opens_well && text.chars().all(plain) && !text.ends_with(':') && !is_null {
        return text.to_owned();
    }
    serde_json::Value::from(text).to_string()
}

const INDENT: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str, name: &str, value: &str) -> String {
        let id = keys::find(name).unwrap();
        set_key("f", text, id, &id.key().kind.parse(value).unwrap()).unwrap()
    }

    #[test]
    fn a_value_is_replaced_in_place() {
        let text = "# top\namst_v3:\n  mode: hybrid   # why\n  auto_mode: true\n";
        let expected = "# top\namst_v3:\n  mode: datacenter   # why\n  auto_mode: true\n";
        assert_eq!(set(text, "amst.mode", "datacenter"), expected);
    }

    #[test]
    fn a_key_joins_its_section() {
        let text = "hde: # codec\n    max_baselines: 5 # five\n\n# next\nnode:\n  name: a";
        let expected = "hde: # codec\n    max_baselines: 5 # five\n    selector:\n      learning_rate: 0.01\n\n# next\nnode:\n  name: a";
        assert_eq!(set(text, "hde.selector.learning_rate", "0.01"), expected);
        let expected = text.to_owned() + "\n  listen: \"[::1]:1\"\n";
        assert_eq!(set(text, "node.listen", "[::1]:1"), expected);
    }

    #[test]
    fn a_section_is_begun_where_there_is_none() {
        assert_eq!(set("", "amst.mode", "internet"), "amst_v3:\n  mode: internet\n");
        assert_eq!(set("# c\n", "network_mode", "internet"), "# c\nnetwork_mode: internet\n");
        assert_eq!(set("amst_v3: # e\n", "amst.mode", "hybrid"), "amst_v3: # e\n  mode: hybrid\n");
        assert_eq!(set("amst_v3: ~\n", "amst.mode", "hybrid"), "amst_v3: {mode: hybrid}\n");
    }

    #[test]
    fn flow_style_is_edited_too() {
        assert_eq!(set("{}", "acp.pbft.batch_size", "9"), "{acp_v3: {pbft: {batch_size: 9}}}");
        let text = "acp_v3: {force_raft: true,\n  pbft: {batch_size: 3}} # x\n";
        let expected = "acp_v3: {force_raft: true,\n  pbft: {batch_size: 9}} # x\n";
        assert_eq!(set(text, "acp.pbft.batch_size", "9"), expected);
        let expected =
            "acp_v3: {consensus_timeout: 10s, force_raft: true,\n  pbft: {batch_size: 3}} # x\n";
        assert_eq!(set(text, "acp.consensus_timeout", "10s"), expected);
    }

    #[test]
    fn texts_that_look_like_something_else_are_quoted() {
        for name in ["", "null", "a: b", "# c", "\"q\"", "[x", "ä", "true", "007", "x:"] {
            let text = set("node:\n  name: old\n", "node.name", name);
            let config = load::from_text("f", &text).unwrap();
            assert_eq!(config.text(Id::NodeName), name, "{text}");
        }
    }

    #[test]
    fn a_layout_that_cannot_be_edited_is_refused_whole() {
        // One anchored value for two keys: setting the first would change the second as well.
        let text = "acp_v3:\n  datacenter_algorithm: &x raft\n  internet_algorithm: *x\n";
        let id = Id::AcpDatacenterAlgorithm;
        let value = id.key().kind.parse("pbft").unwrap();
        let error = set_key("f", text, id, &value).unwrap_err().to_string();
        assert!(error.contains("edit the file by hand"), "{error}");
    }

    #[test]
    fn every_key_can_be_set_into_every_layout() {
        for text in
            ["", "{}", "node: {name: x}\nhde_v3:\n  selector:\n    learning_rate: 0.5\nacp:\n"]
        {
            for id in Id::ALL {
                let edited = set(text, id.key().name, id.key().default);
                assert!(load::from_text("f", &edited).is_ok(), "{edited}");
            }
        }
    }
}

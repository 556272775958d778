//! YAML as a tree of scalars that know their line, column and bytes in the file.
//!
//! Scalars keep the text that was written: `007` stays `007`, and each key decides what it means.

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};
use std::fmt;
use std::ops::Range;

/// Where something is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Line, from 1.
    pub line: u64,
    /// Column, from 1.
    pub column: u64,
    /// Bytes in the text.
    pub bytes: Range<usize>,
}

/// One value of the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What it is.
    pub content: Content,
    /// Where it is.
    pub place: Place,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Nothing after the colon, or `null`.
    Empty,
    /// A word, number or quoted text.
    Scalar(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the file's order.
    Map(Vec<Entry>),
}

/// One key of a mapping, and its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key is.
    pub place: Place,
    /// The value.
    pub node: Node,
}

/// The text is not YAML, or too large.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// Line, from 1; 0 if unknown.
    pub line: u64,
    /// Column, from 1; 0 if unknown.
    pub column: u64,
    /// What is wrong.
    pub text: String,
}

/// Reads one YAML document.
///
/// # Errors
/// [`SyntaxError`] says where and what.
pub fn parse(text: &str) -> Result<Node, SyntaxError> {
    if text.len() > MAX_FILE_BYTES {
        let text = format!("{} bytes is more than the {MAX_FILE_BYTES} allowed", text.len());
        return Err(SyntaxError { line: 0, column: 0, text });
    }
    let options = serde_saphyr::options! {
        with_snippet: false,
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::PassThrough,
        merge_keys: serde_saphyr::options::MergeKeyPolicy::Error,
    };
    let read: Result<Option<Spanned<Raw>>, _> = serde_saphyr::from_str_with_options(text, options);
    match read {
        Ok(Some(raw)) => Ok(finish(raw, text)),
        Ok(None) => Ok(Node { content: Content::Empty, place: Place::default() }),
        Err(error) => Err(syntax_error(&error)),
    }
}

fn syntax_error(error: &serde_saphyr::Error) -> SyntaxError {
    let (line, column) = error.location().map_or((0, 0), |place| (place.line(), place.column()));
    let text = error.without_snippet().to_string();
    // The place goes before the text, not into it.
    let text = text.split(" at line ").next().unwrap_or_default();
    let text = text
        .rsplit_once(": ")
        .filter(|(head, _)| head.starts_with("line "))
        .map_or(text, |(_, tail)| tail);
    SyntaxError { line, column, text: text.trim().to_owned() }
}

fn finish(raw: Spanned<Raw>, text: &str) -> Node {
    let place = place(raw.referenced, text);
    let content = match raw.value {
        Raw::Empty => Content::Empty,
        Raw::Text(scalar) => Content::Scalar(scalar),
        Raw::Plain => Content::Scalar(written(raw.defined, text)),
        Raw::List(items) => {
            Content::List(items.into_iter().map(|item| finish(item, text)).collect())
        }
        Raw::Map(entries) => Content::Map(
            entries
                .into_iter()
                .map(|(key, value)| Entry {
                    key: key.value,
                    place: self::place(key.referenced, text),
                    node: finish(value, text),
                })
                .collect(),
        ),
    };
    Node { content, place }
}

fn written(location: Location, text: &str) -> String {
    text.get(place(location, text).bytes).unwrap_or_default().to_owned()
}

fn place(location: Location, text: &str) -> Place {
    let start = location.span().byte_offset().unwrap_or(0) as usize;
    let length = location.span().byte_len().unwrap_or(0) as usize;
    let start = start.min(text.len());
    let bytes = start..start.saturating_add(length).min(text.len());
    Place { line: location.line(), column: location.column(), bytes }
}

/// A value as the parser gives it, before places are turned into byte ranges.
#[derive(Debug)]
enum Raw {
    Empty,
    /// Quoted, or not anything else.
    Text(String),
    /// A plain number or boolean: its text is taken from the file.
    Plain,
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a configuration value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Empty)
    }

    fn visit_none<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Empty)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Raw, E> {
        Ok(Raw::Plain)
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Raw, E> {
        Ok(Raw::Plain)
    }

    fn visit_i128<E: de::Error>(self, _: i128) -> Result<Raw, E> {
        Ok(Raw::Plain)
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Raw, E> {
        Ok(Raw::Plain)
    }

    fn visit_u128<E: de::Error>(self, _: u128) -> Result<Raw, E> {
        Ok(Raw::Plain)
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Raw, E> {
        Ok(Raw::Plain)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Raw, E> {
        Ok(Raw::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Raw::Map(map))
    }
}

/// A configuration file is small; a larger one is a mistake.
const MAX_FILE_BYTES: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(node: &Node) -> &[Entry] {
        match &node.content {
            Content::Map(entries) => entries,
            other => panic!("{other:?} is not a mapping"),
        }
    }

    #[test]
    fn scalars_keep_their_text_and_bytes() {
        let text = "# c\na:\n  b: 007 # x\n  c: \"q\\n\"\n  é: 1e3\n";
        let tree = parse(text).unwrap();
        let inner = entries(&entries(&tree)[0].node);
        let scalars: Vec<_> = inner.iter().map(|entry| entry.node.content.clone()).collect();
        let expected = ["007", "q\n", "1e3"].map(|text| Content::Scalar(text.to_owned()));
        assert_eq!(scalars, expected);
        assert_eq!(&text[inner[1].node.place.bytes.clone()], "\"q\\n\"");
        assert_eq!(&text[inner[2].node.place.bytes.clone()], "1e3");
        assert_eq!((inner[2].place.line, inner[2].place.column), (5, 3));
    }

    #[test]
    fn flow_mappings_start_at_their_brace() {
        let text = "h: {x: 1}\n";
        let place = entries(&parse(text).unwrap())[0].node.place.clone();
        assert_eq!(&text[place.bytes], "{");
    }

    #[test]
    fn errors_say_where() {
        for (text, line, what) in [
            ("a: [1\nb: 2", 2, "illegal placement"),
            ("x: 1\na: *x", 2, "unknown anchor"),
            ("a: 1\n---\nb: 2\n", 3, "multiple YAML documents"),
            ("a: .inf", 1, "non-finite"),
            ("a:\n  <<: {b: 1}\n", 2, "merge"),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.line, line, "{error:?}");
            assert!(error.text.contains(what), "{error:?}");
        }
    }

    #[test]
    fn empty_and_oversized_files() {
        assert_eq!(parse("# nothing\n").unwrap().content, Content::Empty);
        assert!(parse(&"#".repeat(MAX_FILE_BYTES + 1)).unwrap_err().text.contains("1048577 bytes"));
    }

    #[test]
    fn what_is_nested_too_deeply_is_refused() {
        for text in [format!("a: {}", "[".repeat(100_000)), "{a: ".repeat(100_000)] {
            assert!(parse(&text).is_err());
        }
        let balanced = format!("a: {}{}", "[".repeat(50_000), "]".repeat(50_000));
        assert!(parse(&balanced).is_err());
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut text = String::from("a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n");
        for level in 1..12 {
            let uses = vec![format!("*a{}", level - 1); 10].join(",");
            text.push_str(&format!("a{level}: &a{level} [{uses}]\n"));
        }
        assert!(parse(&text).is_err());
    }
}

//! Tests of JSON in Go's spelling beyond the vectors.

use super::*;
use fastrand::Rng;
use std::collections::BTreeMap;

#[test]
fn any_text_comes_back_and_has_no_letter_that_go_escapes() {
    let mut rng = Rng::with_seed(9);
    for _ in 0..2000 {
        let letters =
            ['<', '&', '\u{2028}', '"', '\\', '\u{1}', '\n', 'é', '\u{1f600}', 'a', '\u{7f}'];
        let text: String =
            (0..rng.usize(..12)).map(|_| letters[rng.usize(..letters.len())]).collect();
        let written = encode("text", &text).unwrap();
        assert_eq!(decode::<String>("text", &written).unwrap(), text);
        let written = String::from_utf8(written).unwrap();
        assert!(!written.contains(['<', '>', '&', '\u{2028}', '\u{2029}']), "{written}");
        assert_eq!(Json::parse("text", written.as_bytes()).unwrap().text(), written);
    }
}

#[test]
fn any_number_comes_back_to_the_last_bit() {
    #[derive(Serialize, Deserialize)]
    struct One(#[serde(with = "float")] f64);
    let mut rng = Rng::with_seed(10);
    for _ in 0..20_000 {
        let value = f64::from_bits(rng.u64(..));
        if !value.is_finite() {
            assert!(encode("number", &One(value)).is_err());
            continue;
        }
        let written = encode("number", &One(value)).unwrap();
        let One(read) = decode("number", &written).unwrap();
        assert_eq!(read.to_bits(), value.to_bits(), "{value:e}");
    }
    for bad in ["1e999", "\"1\"", "null", "NaN", "inf"] {
        assert!(decode::<One>("number", bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn maps_are_sorted_by_bytes() {
    let keys = ["b", "a", "é", "B", "a\u{1}", ""];
    let map: BTreeMap<String, u8> = keys.iter().map(|key| (String::from(*key), 0)).collect();
    let written = String::from_utf8(encode("map", &map).unwrap()).unwrap();
    assert_eq!(written, r#"{"":0,"B":0,"a":0,"a\u0001":0,"b":0,"é":0}"#);
}

#[test]
fn a_document_over_the_limit_is_not_read() {
    let long = format!("[{}1]", " ".repeat(MAX_DOCUMENT_BYTES));
    let error = JsonError::TooLong { what: "list", value: long.len() };
    assert_eq!(decode::<Vec<u8>>("list", long.as_bytes()), Err(error));
}

#[test]
fn a_deep_document_is_refused_or_passed_on_without_a_deep_stack() {
    let deep = [vec![b'['; 1 << 20], vec![b']'; 1 << 20]].concat();
    assert_eq!(Json::parse("deep", &deep).unwrap().text().len(), deep.len());
    assert!(decode::<serde_json::Value>("deep", &deep).is_err());
}

#[test]
fn times_of_other_shapes_are_refused() {
    let good = ["2024-02-29T00:00:00Z", "2000-02-29T23:59:59.9+23:59", "0001-01-01T00:00:00Z"];
    for text in good {
        assert_eq!(WallTime::try_from(text.to_string()).unwrap().text(), text);
    }
    let bad = [
        "",
        "2024-02-29T00:00:00",
        "2023-02-29T00:00:00Z",
        "1900-02-29T00:00:00Z",
        "2024-00-01T00:00:00Z",
        "2024-01-00T00:00:00Z",
        "2024-01-32T00:00:00Z",
        "2024-01-01T24:00:00Z",
        "2024-01-01T00:60:00Z",
        "2024-01-01T00:00:60Z",
        "2024-01-01 00:00:00Z",
        "2024-01-01T00:00:00.Z",
        "2024-01-01T00:00:00.0123456789Z",
        "2024-01-01T00:00:00+1:00",
        "2024-01-01T00:00:00+24:00",
        "2024-01-01T00:00:00Zx",
        "24-01-01T00:00:00Z",
        "2024-01-01T00:00:0éZ",
    ];
    for text in bad {
        assert!(WallTime::try_from(text.to_string()).is_err(), "{text}");
    }
    assert!(WallTime::from_unix(LAST_SECOND + 1, 0).is_err());
    assert!(WallTime::from_unix(0, 1_000_000_000).is_err());
    assert_eq!(WallTime::from_unix(10, 0).unwrap().text(), "1970-01-01T00:00:10Z");
}

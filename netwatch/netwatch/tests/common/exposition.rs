//! The text exposition format of Prometheus, read strictly.

use std::collections::{BTreeMap, BTreeSet};

/// Every sample by its full name. Panics where the text is not as the format's specification and
/// good manners want it: HELP and TYPE once before a family's samples, all of which stand together;
/// counters end in `_total`; label values are escaped; no sample comes twice.
pub fn exposition(text: &str) -> BTreeMap<String, f64> {
    let mut families = BTreeSet::new();
    let (mut helped, mut family, mut kind) = (String::new(), String::new(), String::new());
    let mut samples = BTreeMap::new();
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("name and help");
            assert!(is_name(name) && !help.trim().is_empty(), "{line}");
            assert_ne!(help, "Not described", "{line}");
            helped = name.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, of) = rest.split_once(' ').expect("name and type");
            assert!(["counter", "gauge", "summary"].contains(&of), "{line}");
            assert_eq!(name, helped, "HELP comes first: {line}");
            assert_eq!(of == "counter", name.ends_with("_total"), "{line}");
            assert!(families.insert(name.to_owned()), "twice: {line}");
            (family, kind) = (name.to_owned(), of.to_owned());
        } else {
            let (name, labels, value) = sample(line);
            let own = match kind.as_str() {
                "summary" => match name.strip_prefix(&family) {
                    Some("") => labels.iter().any(|(key, _)| key == "quantile"),
                    Some("_sum" | "_count") => labels.iter().all(|(key, _)| key != "quantile"),
                    _ => false,
                },
                _ => name == family,
            };
            assert!(own, "a sample stands under its family's TYPE: {line}");
            let (full, _) = line.rsplit_once(' ').expect("sample");
            let twice = samples.insert(full.to_owned(), value);
            assert!(twice.is_none(), "twice: {line}");
        }
    }
    samples
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
}

/// A line's name, its labels, unescaped, and its value.
fn sample(line: &str) -> (String, Vec<(String, String)>, f64) {
    let end = line.find(['{', ' ']).expect("a value");
    let (name, mut rest) = line.split_at(end);
    assert!(is_name(name), "{line}");
    let mut labels: Vec<(String, String)> = Vec::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (key, after) = rest.split_once("=\"").expect("a label");
            assert!(is_name(key), "{line}");
            assert!(labels.iter().all(|(other, _)| other != key), "{line}");
            let mut value = String::new();
            let mut letters = after.char_indices();
            let end = loop {
                match letters.next().expect("a closing quote") {
                    (at, '"') => break at,
                    (_, '\\') => match letters.next().expect("an escaped letter").1 {
                        'n' => value.push('\n'),
                        letter @ ('\\' | '"') => value.push(letter),
                        _ => panic!("an unknown escape: {line}"),
                    },
                    (_, letter) => value.push(letter),
                }
            };
            labels.push((key.to_owned(), value));
            let after = &after[end + 1..];
            if let Some(after) = after.strip_prefix(',') {
                rest = after;
            } else {
                rest = after.strip_prefix('}').expect("labels end");
                break;
            }
        }
    }
    let value = rest.strip_prefix(' ').expect("a space before the value");
    (name.to_owned(), labels, value.parse().expect("a number"))
}

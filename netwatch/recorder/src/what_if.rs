//! Other parameters for a replay: `correlator.thresholds.confirm=25`, `policy.settle=80ms`.

use std::time::Duration;

use engine::Params;
use serde::Serialize;
use serde_json::Value;

/// A parameter that can be changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Key {
    /// Its name, by the path to it.
    pub name: String,
    /// What it is: `duration`, `number`, `integer`, `switch` or `word`.
    pub kind: &'static str,
    /// Its value, as it may be written.
    pub value: String,
}

/// A change that cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WhatIfError {
    /// It is no `key=value`.
    #[error("`{0}` is no change: write key=value, such as correlator.thresholds.confirm=25")]
    Syntax(String),
    /// There is no such parameter.
    #[error("there is no parameter `{key}`{}", nearest.as_ref().map_or_else(String::new, |near| format!("; is `{near}` meant?")))]
    Unknown {
        /// As given.
        key: String,
        /// The one most like it.
        nearest: Option<String>,
    },
    /// The parameter takes no such value.
    #[error("`{key}` cannot be `{value}`: {why}")]
    Value {
        /// The parameter.
        key: String,
        /// As given.
        value: String,
        /// What it takes.
        why: String,
    },
}

/// Changed parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Changes {
    params: Params,
    made: Vec<(Key, String)>,
}

impl Changes {
    /// Makes changes, each `key=value`, to what a recording's engine went by.
    ///
    /// # Errors
    /// A change has no `=`, names no parameter, or its value is none for it.
    pub fn parse(params: &Params, changes: &[String]) -> Result<Self, WhatIfError> {
        let known = keys(params);
        let mut value = serde_json::to_value(params).unwrap_or_default();
        let mut made = Vec::new();
        for change in changes {
            let (name, text) = change
                .split_once('=')
                .ok_or_else(|| WhatIfError::Syntax(change.clone()))?;
            let (name, text) = (name.trim(), text.trim());
            let key =
                known
                    .iter()
                    .find(|key| key.name == name)
                    .ok_or_else(|| WhatIfError::Unknown {
                        key: name.to_owned(),
                        nearest: nearest(name, &known),
                    })?;
            let wrong = |why: String| WhatIfError::Value {
                key: name.to_owned(),
                value: text.to_owned(),
                why,
            };
            let leaf = name
                .split('.')
                .try_fold(&mut value, |at, part| at.get_mut(part));
            if let Some(leaf) = leaf {
                *leaf = read(key.kind, text).map_err(wrong)?;
            }
            // Ranges and words are the types' own to check.
            serde_json::from_value::<Params>(value.clone()).map_err(|e| wrong(e.to_string()))?;
            made.push((key.clone(), text.to_owned()));
        }
        let params = serde_json::from_value(value).unwrap_or_else(|_| params.clone());
        Ok(Self { params, made })
    }

    /// The parameters with the changes made.
    #[must_use]
    pub const fn params(&self) -> &Params {
        &self.params
    }

    /// What was changed, and to what.
    #[must_use]
    pub fn made(&self) -> &[(Key, String)] {
        &self.made
    }
}

/// All parameters that can be changed, with their values: every number, duration, switch and word,
/// but no list and no name.
#[must_use]
pub fn keys(params: &Params) -> Vec<Key> {
    let mut keys = Vec::new();
    collect(
        "",
        &serde_json::to_value(params).unwrap_or_default(),
        &mut keys,
    );
    keys.retain(|key| key.name != "correlator.run_id");
    keys
}

fn collect(name: &str, value: &Value, keys: &mut Vec<Key>) {
    let mut leaf = |kind, value: String| {
        keys.push(Key {
            name: name.to_owned(),
            kind,
            value,
        });
    };
    match value {
        Value::Object(fields) => match duration(value) {
            Some(duration) => leaf("duration", clock::write_duration(duration)),
            None => {
                for (field, value) in fields {
                    let dot = if name.is_empty() { "" } else { "." };
                    collect(&format!("{name}{dot}{field}"), value, keys);
                }
            }
        },
        Value::Bool(on) => leaf("switch", on.to_string()),
        Value::Number(number) if number.is_f64() => leaf("number", number.to_string()),
        Value::Number(number) => leaf("integer", number.to_string()),
        Value::String(word) => leaf("word", word.clone()),
        Value::Null | Value::Array(_) => {}
    }
}

/// A duration as serde writes it.
fn duration(value: &Value) -> Option<Duration> {
    let fields = value.as_object().filter(|fields| fields.len() == 2)?;
    let seconds = fields.get("secs")?.as_u64()?;
    let nanos = u32::try_from(fields.get("nanos")?.as_u64()?).ok()?;
    Some(Duration::new(seconds, nanos))
}

fn read(kind: &str, text: &str) -> Result<Value, String> {
    let value = match kind {
        "duration" => {
            let duration =
                clock::read_duration(text).ok_or("it takes a duration such as 80ms, 2s or 5m")?;
            serde_json::to_value(duration).ok()
        }
        "number" => text
            .parse::<f64>()
            .ok()
            .and_then(serde_json::Number::from_f64)
            .map(Value::Number),
        "integer" => text.parse::<u64>().ok().map(Value::from),
        "switch" => text.parse::<bool>().ok().map(Value::from),
        _ => Some(Value::from(text)),
    };
    value.ok_or_else(|| {
        match kind {
            "number" => "it takes a number such as 19.5",
            "integer" => "it takes a whole number",
            _ => "it takes true or false",
        }
        .to_owned()
    })
}

/// The key most like a misspelt one, if any is near.
fn nearest(name: &str, known: &[Key]) -> Option<String> {
    let last = |name: &str| name.rsplit('.').next().unwrap_or(name).to_owned();
    known
        .iter()
        .map(|key| {
            let whole = distance(name, &key.name);
            // The last part alone is what people remember.
            let part = distance(&last(name), &last(&key.name)) + 1;
            (whole.min(part), &key.name)
        })
        .min()
        .filter(|(distance, _)| *distance <= 1 + last(name).len() / 2)
        .map(|(_, name)| name.clone())
}

/// Levenshtein's distance.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut corner = i;
        let mut left = i + 1;
        for (cell, b) in row.iter_mut().skip(1).zip(&other) {
            let above = *cell;
            left = (corner + usize::from(a != *b)).min(above + 1).min(left + 1);
            corner = above;
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

//! A TOML document with positions, read key by key; what was not asked for is an unknown key.

use std::cell::RefCell;
use std::ops::{Range, RangeInclusive};
use std::str::FromStr;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use toml::value::Datetime;

use crate::Problem;

/// Collects problems while a document is read.
pub(crate) struct Report<'t> {
    text: &'t str,
    problems: RefCell<Vec<Problem>>,
}

impl<'t> Report<'t> {
    pub(crate) const fn new(text: &'t str) -> Self {
        Self {
            text,
            problems: RefCell::new(Vec::new()),
        }
    }

    pub(crate) fn add(&self, offset: usize, key: &str, message: impl Into<String>) {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        self.problems.borrow_mut().push(Problem {
            line: before.matches('\n').count() + 1,
            column: before.get(line_start..).map_or(0, |l| l.chars().count()) + 1,
            key: key.to_owned(),
            message: message.into(),
        });
    }

    /// All problems, in the order of the document.
    pub(crate) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|p| (p.line, p.column));
        problems
    }
}

/// A value with the place that it was read from.
#[derive(Clone)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) offset: usize,
    pub(crate) key: String,
}

impl<T> At<T> {
    pub(crate) fn problem(&self, report: &Report<'_>, message: impl Into<String>) {
        report.add(self.offset, &self.key, message);
    }
}

/// A table whose keys are taken one by one.
pub(crate) struct Section<'t> {
    path: String,
    offset: usize,
    table: DeTable<'t>,
    known: Vec<&'static str>,
    report: &'t Report<'t>,
}

impl<'t> Section<'t> {
    pub(crate) fn root(table: Spanned<DeTable<'t>>, report: &'t Report<'t>) -> Self {
        Self {
            path: String::new(),
            offset: table.span().start,
            table: table.into_inner(),
            known: Vec::new(),
            report,
        }
    }

    fn full(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// The value of a key, if it is there.
    pub(crate) fn take(&mut self, key: &'static str) -> Option<Item<'t>> {
        self.known.push(key);
        let value = self.table.remove(key)?;
        Some(Item {
            key: self.full(key),
            offset: value.span().start,
            value: value.into_inner(),
            report: self.report,
        })
    }

    /// The value of a key that must be there.
    pub(crate) fn require(&mut self, key: &'static str, remedy: &str) -> Option<Item<'t>> {
        let item = self.take(key);
        if item.is_none() {
            self.report
                .add(self.offset, &self.full(key), format!("missing: {remedy}"));
        }
        item
    }

    /// The table's place, for problems with it as a whole.
    pub(crate) fn place(&self) -> At<()> {
        At {
            value: (),
            offset: self.offset,
            key: self.path.clone(),
        }
    }

    /// Reports what was never asked for.
    pub(crate) fn finish(self) {
        for key in self.table.keys() {
            let name: &str = key.get_ref();
            let remedy = match closest(name, &self.known) {
                Some(known) => format!("did you mean `{known}`?"),
                None => format!("known keys here: {}", self.known.join(", ")),
            };
            self.report.add(
                key.span().start,
                &self.full(name),
                format!("unknown key; {remedy}"),
            );
        }
    }
}

/// One value.
pub(crate) struct Item<'t> {
    key: String,
    offset: usize,
    value: DeValue<'t>,
    report: &'t Report<'t>,
}

impl<'t> Item<'t> {
    fn wrong(&self, wanted: &str) {
        let found = self.value.type_str();
        self.report.add(
            self.offset,
            &self.key,
            format!("expected {wanted}, found a value of type {found}"),
        );
    }

    /// A value at this item's place.
    pub(crate) fn at<T>(&self, value: T) -> At<T> {
        At {
            value,
            offset: self.offset,
            key: self.key.clone(),
        }
    }

    pub(crate) fn string(&self) -> Option<At<String>> {
        match &self.value {
            DeValue::String(s) => Some(self.at(s.clone().into_owned())),
            _ => {
                self.wrong("a string");
                None
            }
        }
    }

    /// A string with something in it and no control characters.
    pub(crate) fn text(&self) -> Option<At<String>> {
        let text = self.string()?;
        if text.value.trim().is_empty() || text.value.chars().any(char::is_control) {
            text.problem(
                self.report,
                "must not be empty and must not contain control characters",
            );
            return None;
        }
        Some(text)
    }

    pub(crate) fn boolean(&self) -> Option<bool> {
        match self.value {
            DeValue::Boolean(b) => Some(b),
            _ => {
                self.wrong("true or false");
                None
            }
        }
    }

    pub(crate) fn integer<T: TryFrom<i64>>(
        &self,
        allowed: RangeInclusive<i64>,
        what: &str,
    ) -> Option<At<T>> {
        let DeValue::Integer(number) = &self.value else {
            self.wrong(what);
            return None;
        };
        let parsed = i64::from_str_radix(number.as_str(), number.radix())
            .ok()
            .filter(|n| allowed.contains(n))
            .and_then(|n| T::try_from(n).ok());
        if parsed.is_none() {
            let (low, high) = (allowed.start(), allowed.end());
            self.report.add(
                self.offset,
                &self.key,
                format!("{number} is not allowed: expected {what}, {low} to {high}"),
            );
        }
        parsed.map(|value| self.at(value))
    }

    pub(crate) fn duration(&self, allowed: RangeInclusive<Duration>) -> Option<Duration> {
        let DeValue::String(text) = &self.value else {
            self.wrong("a duration such as \"20ms\", \"30s\" or \"5m\"");
            return None;
        };
        let (low, high) = (
            clock::write_duration(*allowed.start()),
            clock::write_duration(*allowed.end()),
        );
        match clock::read_duration(text) {
            Some(value) if allowed.contains(&value) => Some(value),
            Some(_) => {
                self.report.add(
                    self.offset,
                    &self.key,
                    format!("{text} is not allowed: {low} to {high}"),
                );
                None
            }
            None => {
                self.report.add(
                    self.offset,
                    &self.key,
                    format!("`{text}` is not a duration: write a whole number and us, ms, s, m or h, {low} to {high}"),
                );
                None
            }
        }
    }

    /// A string that reads as a `T`; `what` says what that is, with an example.
    pub(crate) fn parsed<T: FromStr>(&self, what: &str) -> Option<At<T>> {
        let DeValue::String(text) = &self.value else {
            self.wrong(what);
            return None;
        };
        match text.parse() {
            Ok(value) => Some(self.at(value)),
            Err(_) => {
                self.report
                    .add(self.offset, &self.key, format!("`{text}` is not {what}"));
                None
            }
        }
    }

    /// A date, a time or both, written as such or as a string.
    pub(crate) fn datetime(&self, what: &str) -> Option<At<Datetime>> {
        match &self.value {
            DeValue::Datetime(value) => Some(self.at(*value)),
            _ => self.parsed(what),
        }
    }

    /// The elements of an array.
    pub(crate) fn array(self, of: &str) -> Vec<Self> {
        if !self.value.is_array() {
            self.wrong(&format!("a list of {of}"));
            return Vec::new();
        }
        let DeValue::Array(array) = self.value else {
            return Vec::new();
        };
        array
            .into_iter()
            .enumerate()
            .map(|(index, value)| Item {
                key: format!("{}[{index}]", self.key),
                offset: value.span().start,
                value: value.into_inner(),
                report: self.report,
            })
            .collect()
    }

    /// A table to read on.
    pub(crate) fn section(self) -> Option<Section<'t>> {
        if !self.value.is_table() {
            self.wrong("a table");
            return None;
        }
        let DeValue::Table(table) = self.value else {
            return None;
        };
        Some(Section {
            path: self.key,
            offset: self.offset,
            table,
            known: Vec::new(),
            report: self.report,
        })
    }
}

/// Reports the offset of a syntax error.
pub(crate) fn offset(span: Option<Range<usize>>) -> usize {
    span.map_or(0, |s| s.start)
}

fn closest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    known
        .iter()
        .map(|k| (distance(name, k), *k))
        .filter(|(d, k)| *d <= 1 + k.len() / 4)
        .min()
        .map(|(_, k)| k)
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().take(64).enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        let mut next = vec![left];
        for (above, to) in row.iter().skip(1).zip(&b) {
            left = (diagonal + usize::from(from != *to))
                .min(above + 1)
                .min(left + 1);
            diagonal = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_suggested_and_far_ones_are_not() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(
            closest("gatway_interval", &["anchors", "gateway_interval"]),
            Some("gateway_interval")
        );
        assert_eq!(closest("zzz", &["anchors", "mode"]), None);
    }
}

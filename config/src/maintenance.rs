//! `[[failover.maintenance]]`: when people work on the network.

use jiff::Timestamp;

use crate::read::{At, Item, Report};

/// A time in which no route is installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maintenance {
    /// Its first instant.
    pub start: Timestamp,
    /// The first instant after it; later than `start`.
    pub end: Timestamp,
    /// What is done meanwhile, for pages and `status`.
    pub reason: Option<String>,
}

pub(crate) fn maintenance(item: Option<Item<'_>>, report: &Report<'_>) -> Vec<Maintenance> {
    let mut found = Vec::new();
    for item in item.map_or_else(Vec::new, |i| i.array("tables ([[failover.maintenance]])")) {
        let Some(mut s) = item.section() else {
            continue;
        };
        let start = s
            .require("start", "when the window begins")
            .and_then(|i| timestamp(&i, report));
        let end = s
            .require("end", "when the window ends")
            .and_then(|i| timestamp(&i, report));
        let reason = s.take("reason").and_then(|i| i.text()).map(|t| t.value);
        s.finish();
        let (Some(start), Some(end)) = (start, end) else {
            continue;
        };
        if end.value <= start.value {
            end.problem(report, format!("is not after the start, {}", start.value));
        }
        found.push(Maintenance {
            start: start.value,
            end: end.value,
            reason,
        });
    }
    found
}

/// TOML's offset date-time (RFC 3339), or a string that holds one.
fn timestamp(item: &Item<'_>, report: &Report<'_>) -> Option<At<Timestamp>> {
    const WANTED: &str = "a date and time with its zone, such as 2026-03-01T22:00:00Z";
    let given = item.datetime(WANTED)?;
    let time = given.value;
    let parsed = (time.date.is_some() && time.time.is_some() && time.offset.is_some())
        .then(|| time.to_string().parse().ok())
        .flatten();
    if parsed.is_none() {
        given.problem(report, format!("`{time}` is not {WANTED}"));
    }
    Some(item.at(parsed?))
}

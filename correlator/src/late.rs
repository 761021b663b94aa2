//! What BGP says of incidents that are over: routers may be late by a minute, a cut may be short.

use std::collections::VecDeque;
use std::time::Duration;

use events::{Actor, EntryKind, Timestamp, Verdict};
use serde::{Deserialize, Serialize};

use crate::case::Case;
use crate::correlator::{Correlator, Output};
use crate::join::{self, Log};
use crate::params::Params;
use crate::tell::{entry, tell_bgp};

/// Incidents listened for.
const MAX_CASES: usize = 8;
/// What comes together is told together.
const TOGETHER: Duration = Duration::from_millis(500);

/// Incidents that ended lately.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Late {
    cases: VecDeque<Case>,
    /// Something came that is to be told then.
    due: Option<Timestamp>,
}

impl Late {
    /// An incident ended.
    pub fn ended(&mut self, case: &Case) {
        if matches!(
            case.verdict,
            None | Some(Verdict::None | Verdict::HostStall)
        ) {
            return;
        }
        if self.cases.len() >= MAX_CASES {
            self.cases.pop_front();
        }
        self.cases.push_back(case.clone());
    }

    /// BGP changed.
    pub fn bgp(&mut self, at: Timestamp, log: &Log, params: &Params) {
        if self.cases.iter().any(|case| log.newest_of(case, params)) {
            self.due.get_or_insert(at + TOGETHER);
        }
    }

    pub const fn next_timeout(&self) -> Option<Timestamp> {
        self.due
    }
}

impl Correlator {
    /// Scores ended incidents again with what came since, and tells where that changes the story.
    pub(crate) fn tell_late(&mut self, now: Timestamp, out: &mut Vec<Output>) {
        if self.late.due.is_none_or(|due| now < due) {
            return;
        }
        self.late.due = None;
        for case in &mut self.late.cases {
            case.bgp = join::tally(&self.log, case, &self.params);
            let summary = join::summary(&case.bgp, case, &self.routes, &self.params);
            // The end of the outage is in the tables, too: what was said of its begin stands.
            let tells = summary.withdrawn + summary.changed
                > case.bgp_summary.withdrawn + case.bgp_summary.changed;
            if !tells {
                continue;
            }
            tell_bgp(case, &self.log, &self.params, out);
            let text = format!("BGP, after the end: {}", summary.text);
            let kind = EntryKind::Note;
            out.push(Output::Journal(entry(
                case,
                now,
                Actor::Bgp,
                kind,
                text,
                Vec::new(),
            )));
            if let Some(old) = self.ended.iter_mut().find(|old| old.id == case.id) {
                old.bgp = summary.clone();
            }
            case.bgp_summary = summary;
        }
    }
}

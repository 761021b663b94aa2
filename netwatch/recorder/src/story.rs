//! What an engine decided about each incident, from its effects.

use events::{Effect, EntryKind, IncidentId, PageAction, Timestamp};
use serde::Serialize;

use crate::replay::Told;

/// The steps of one incident.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Story {
    /// Which.
    pub incident: IncidentId,
    /// When it began, by the evidence.
    pub onset: Timestamp,
    /// When passive evidence or probes raised the suspicion.
    pub suspected: Option<Timestamp>,
    /// The first verdict and when.
    pub first_verdict: Option<(Timestamp, String)>,
    /// The last verdict and when.
    pub verdict: Option<(Timestamp, String)>,
    /// When routes were first asked for, and how many.
    pub route: Option<(Timestamp, usize)>,
    /// Why nothing was done.
    pub refused: Option<(Timestamp, String)>,
    /// When routes were first taken back.
    pub reverted: Option<Timestamp>,
    /// When the first page was asked for.
    pub page: Option<Timestamp>,
    /// Pages asked for, resolves included.
    pub pages: usize,
    /// When it ended.
    pub resolved: Option<Timestamp>,
}

/// The incidents among these effects, in the order in which they came up.
#[must_use]
pub fn stories(told: &[Told]) -> Vec<Story> {
    let mut stories: Vec<Story> = Vec::new();
    for Told { at, effect, .. } in told {
        let (incident, at) = match effect {
            Effect::Journal(entry) => (&entry.incident, entry.at),
            Effect::Install(plan) => (&plan.incident, *at),
            Effect::Page(page) => (&page.incident, *at),
            _ => continue,
        };
        let index = stories.iter().position(|s| s.incident == *incident);
        let index = index.unwrap_or_else(|| {
            stories.push(Story::new(incident.clone(), at));
            stories.len() - 1
        });
        if let Some(story) = stories.get_mut(index) {
            story.take(at, effect);
        }
    }
    stories
}

impl Story {
    const fn new(incident: IncidentId, onset: Timestamp) -> Self {
        Self {
            incident,
            onset,
            suspected: None,
            first_verdict: None,
            verdict: None,
            route: None,
            refused: None,
            reverted: None,
            page: None,
            pages: 0,
            resolved: None,
        }
    }

    fn take(&mut self, at: Timestamp, effect: &Effect) {
        match effect {
            Effect::Journal(entry) => match &entry.kind {
                EntryKind::Onset => self.onset = entry.at,
                EntryKind::Suspected => drop(self.suspected.get_or_insert(at)),
                EntryKind::Verdict { verdict } => {
                    let verdict = (at, verdict.to_string());
                    self.first_verdict.get_or_insert_with(|| verdict.clone());
                    self.verdict = Some(verdict);
                }
                EntryKind::Refused { reason } => {
                    self.refused.get_or_insert_with(|| (at, reason.clone()));
                }
                EntryKind::Reverted { .. } => drop(self.reverted.get_or_insert(at)),
                EntryKind::Resolved => self.resolved = Some(at),
                _ => {}
            },
            Effect::Install(plan) => {
                self.route.get_or_insert((at, plan.routes.len()));
            }
            Effect::Page(page) => {
                self.pages += 1;
                if page.action == PageAction::Trigger {
                    self.page.get_or_insert(at);
                }
            }
            _ => {}
        }
    }
}

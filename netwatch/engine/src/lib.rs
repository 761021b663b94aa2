//! Pure: tracker, correlator, planner and pages in one recorded, replayable state machine.
//!
//! ```text
//! handle(at, input) ──▶ tracker ──signals──▶ correlator ──conclusions──▶ remediation
//!                                                 │                          │
//!                                                 └────────▶ pages ◀─────────┘
//! poll_effect() ◀── effects, numbered in order
//! ```
//!
//! The contract: feed all inputs that are at hand, then call [`Engine::handle_timeout`], then drain
//! [`Engine::poll_effect`]. Time never runs backwards: an `at` before the last one counts as the last.

mod pages;

use std::collections::VecDeque;

use correlator::Correlator;
use events::{
    Actor, Conclusion, Effect, EffectId, Entry, EntryKind, Input, Outcome, Page, Sequenced, Signal,
    Timestamp,
};
use remediation::Remediator;
use serde::{Deserialize, Serialize};
use tracker::Tracker;

pub use pages::PATIENCE;

/// Signals kept for the log.
const SIGNALS_KEPT: usize = 1024;

/// What the engine is made with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Params {
    /// The tracker's.
    pub tracker: tracker::Params,
    /// The correlator's.
    pub correlator: correlator::Params,
    /// The planner's.
    pub policy: remediation::Policy,
}

/// The engine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Engine {
    tracker: Tracker,
    correlator: Correlator,
    remediator: Remediator,
    pages: pages::Pages,
    now: Timestamp,
    sequence: u64,
    effects: VecDeque<(EffectId, Effect)>,
    next_effect: u64,
    /// For people only: no decision rests on it, so a checkpoint leaves it out.
    #[serde(skip)]
    told: VecDeque<Signal>,
}

impl Engine {
    /// An engine that knows nothing yet.
    #[must_use]
    pub fn new(params: Params) -> Self {
        let primary = params.correlator.egresses.first();
        Self {
            pages: pages::Pages::new(primary.map(|egress| egress.name.clone())),
            tracker: Tracker::new(params.tracker),
            correlator: Correlator::new(params.correlator),
            remediator: Remediator::new(params.policy),
            now: Timestamp::ZERO,
            sequence: 0,
            effects: VecDeque::new(),
            next_effect: 0,
            told: VecDeque::new(),
        }
    }

    /// What it goes by.
    #[must_use]
    pub fn params(&self) -> Params {
        Params {
            tracker: self.tracker.params().clone(),
            correlator: self.correlator.params().clone(),
            policy: self.remediator.policy().clone(),
        }
    }

    /// Goes by something else from now on; what was learned stays.
    pub fn set_params(&mut self, params: Params) {
        self.tracker.set_params(params.tracker);
        self.correlator.set_params(params.correlator);
        self.remediator.set_policy(params.policy);
    }

    /// An earlier run acted on an incident of a class, then: it counts in the budget. To be told before
    /// the first input.
    pub fn acted_before(&mut self, at: Timestamp, class: String) {
        self.remediator.acted_before(at, class);
    }

    /// The number of the newest input; zero before the first.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The number of the newest effect, polled or not; zero before the first.
    #[must_use]
    pub const fn last_effect(&self) -> EffectId {
        EffectId(self.next_effect)
    }

    /// Takes one input. The answer is what the flight recorder keeps.
    pub fn handle(&mut self, at: Timestamp, input: Input) -> Sequenced {
        self.now = self.now.max(at);
        let at = self.now;
        match &input {
            Input::Tcp(event) => {
                let mut signals = Vec::new();
                self.tracker.handle(at, event, &mut signals);
                self.signals(signals);
            }
            Input::Bgp(signal) => {
                self.correlator.bgp(at, signal);
                self.remediate(|r, out| r.bgp(at, signal, out));
            }
            Input::Probe(result) => {
                self.correlator.probe(at, result);
                self.remediate(|r, out| r.probe(at, result, out));
            }
            Input::Fib(change) => {
                self.correlator.fib(at, change);
                self.remediate(|r, out| r.fib(at, change, out));
            }
            Input::Host(signal) => {
                self.correlator.host(at, signal);
                self.remediate(|r, out| r.host(at, signal, out));
            }
            Input::Outcome(outcome) => {
                self.remediate(|r, out| r.outcome(at, outcome, out));
                if let Some(entry) = journal_of(at, outcome) {
                    self.effect(Effect::Journal(entry));
                }
            }
            Input::Operator(command) => self.remediate(|r, out| r.operator(at, command, out)),
            Input::Timeout => self.timeout(),
        }
        self.sequence += 1;
        Sequenced {
            sequence: self.sequence,
            at,
            input,
        }
    }

    /// Time passed, and all inputs at hand have been fed.
    pub fn handle_timeout(&mut self, at: Timestamp) -> Sequenced {
        self.handle(at, Input::Timeout)
    }

    /// When [`Self::handle_timeout`] wants to be called, if nothing happens before.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Timestamp> {
        [
            self.tracker.next_timeout(),
            self.correlator.next_timeout(),
            self.remediator.next_timeout(),
            self.pages.next_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The next thing to do, in the order in which it was decided.
    pub fn poll_effect(&mut self) -> Option<(EffectId, Effect)> {
        self.effects.pop_front()
    }

    /// The next of the tracker's signals, for the log. The oldest go where nobody polls.
    pub fn poll_signal(&mut self) -> Option<Signal> {
        self.told.pop_front()
    }

    /// Something may be broken: samples of connections that go on as usual are wanted as well, for
    /// half a second from now.
    #[must_use]
    pub fn attentive(&self) -> bool {
        self.correlator.attentive()
    }

    /// The TCP side, for `status`.
    #[must_use]
    pub const fn tracker(&self) -> &Tracker {
        &self.tracker
    }

    /// The incidents, for `status`.
    #[must_use]
    pub const fn correlator(&self) -> &Correlator {
        &self.correlator
    }

    /// The route side, for `status`.
    #[must_use]
    pub const fn remediator(&self) -> &Remediator {
        &self.remediator
    }

    fn timeout(&mut self) {
        let at = self.now;
        let mut signals = Vec::new();
        self.tracker.handle_timeout(at, &mut signals);
        self.signals(signals);
        if self.correlator.weighs(at) {
            self.correlator.delivered(self.tracker.delivered());
        }
        if self.correlator.wants_round_trips(at) {
            self.correlator.round_trips(self.tracker.round_trips());
        }
        self.correlate(|c, out| c.handle_timeout(at, out));
        self.remediate(|r, out| r.handle_timeout(at, out));
        self.page(|p, out| p.handle_timeout(at, out));
    }

    fn signals(&mut self, signals: Vec<Signal>) {
        let at = self.now;
        for signal in signals {
            self.correlator.signal(at, &signal);
            self.remediate(|r, out| r.signal(at, &signal, out));
            if self.told.len() >= SIGNALS_KEPT {
                self.told.pop_front();
            }
            self.told.push_back(signal);
        }
    }

    fn correlate(&mut self, step: impl FnOnce(&mut Correlator, &mut Vec<correlator::Output>)) {
        let mut out = Vec::new();
        step(&mut self.correlator, &mut out);
        for output in out {
            match output {
                correlator::Output::Conclusion(conclusion) => self.conclude(&conclusion),
                correlator::Output::Probe(request) => self.effect(Effect::Probe(request)),
                correlator::Output::Watch { peers } => {
                    self.remediator.watch(&peers);
                    self.effect(Effect::Watch { peers });
                }
                correlator::Output::Journal(entry) => self.effect(Effect::Journal(entry)),
                correlator::Output::Rebase { peers } => {
                    let mut signals = Vec::new();
                    for peer in peers {
                        self.tracker.rebase(self.now, peer, &mut signals);
                    }
                    self.signals(signals);
                }
            }
        }
    }

    /// Routes first, then the page: both see the conclusion, in this order.
    fn conclude(&mut self, conclusion: &Conclusion) {
        let at = self.now;
        match conclusion {
            Conclusion::Healed { .. } => {
                self.remediate(|r, out| r.conclusion(at, conclusion, out));
                self.page(|p, out| p.conclusion(at, conclusion, out));
            }
            Conclusion::Suspected(_)
            | Conclusion::Confirmed { .. }
            | Conclusion::Updated { .. } => {
                self.page(|p, out| p.conclusion(at, conclusion, out));
                self.remediate(|r, out| r.conclusion(at, conclusion, out));
            }
        }
    }

    fn remediate(&mut self, step: impl FnOnce(&mut Remediator, &mut Vec<remediation::Output>)) {
        let mut out = Vec::new();
        step(&mut self.remediator, &mut out);
        let at = self.now;
        for output in out {
            match output {
                remediation::Output::Effect(effect) => self.effect(effect),
                remediation::Output::Journal(entry) => self.effect(Effect::Journal(entry)),
                remediation::Output::Status { incident, status } => {
                    self.page(|p, out| p.remediation(at, &incident, &status, out));
                }
            }
        }
    }

    fn page(&mut self, step: impl FnOnce(&mut pages::Pages, &mut Vec<Page>)) {
        let mut out = Vec::new();
        step(&mut self.pages, &mut out);
        for page in out {
            self.effect(Effect::Journal(Entry {
                incident: page.incident.clone(),
                at: self.now,
                received_at: None,
                actor: Actor::Pager,
                kind: EntryKind::PageQueued {
                    summary: page.summary.clone(),
                },
                text: format!("page {}: {}", action(&page), page.summary),
                evidence: Vec::new(),
            }));
            self.effect(Effect::Page(page));
        }
    }

    fn effect(&mut self, effect: Effect) {
        self.next_effect += 1;
        self.effects.push_back((EffectId(self.next_effect), effect));
    }
}

const fn action(page: &Page) -> &'static str {
    match page.action {
        events::PageAction::Trigger => "trigger",
        events::PageAction::Resolve => "resolve",
    }
}

/// The pager's deeds become lines of the timeline here; the routes' are the planner's to tell.
fn journal_of(at: Timestamp, outcome: &Outcome) -> Option<Entry> {
    let through = |egress: &Option<events::EgressName>| {
        egress
            .as_ref()
            .map_or_else(String::new, |egress| format!(" through {egress}"))
    };
    let (incident, kind, text) = match outcome {
        Outcome::PageSent {
            incident,
            egress,
            attempt,
        } => (
            incident,
            EntryKind::PageSent {
                egress: egress.as_ref().map(ToString::to_string),
                attempt: *attempt,
            },
            format!("POST to the pager{}, attempt {attempt}", through(egress)),
        ),
        Outcome::PageAccepted {
            incident,
            egress,
            attempt,
        } => (
            incident,
            EntryKind::PageAccepted {
                egress: egress.as_ref().map(ToString::to_string),
                attempt: *attempt,
            },
            format!("the pager accepted it (202){}", through(egress)),
        ),
        Outcome::PageFailed {
            incident,
            error,
            attempt,
            permanent,
        } => (
            incident,
            EntryKind::PageFailed {
                error: error.clone(),
                attempt: *attempt,
                permanent: *permanent,
            },
            format!(
                "attempt {attempt} to page failed: {error}{}",
                if *permanent {
                    "; it will not be tried again"
                } else {
                    ""
                }
            ),
        ),
        Outcome::Nudged {
            incident,
            connections,
            left,
            error,
        } => return nudged(at, incident, *connections, *left, error.as_deref()),
        Outcome::Installed { .. }
        | Outcome::InstallFailed { .. }
        | Outcome::Reverted { .. }
        | Outcome::RouteLost { .. } => return None,
    };
    Some(Entry {
        incident: incident.clone(),
        at,
        received_at: None,
        actor: Actor::Pager,
        kind,
        text,
        evidence: Vec::new(),
    })
}

fn nudged(
    at: Timestamp,
    incident: &events::IncidentId,
    connections: u32,
    left: u32,
    error: Option<&str>,
) -> Option<Entry> {
    let mut text =
        format!("{connections} backed-off connections were made to retransmit at once (RFC 6069)");
    if left > 0 {
        text.push_str(&format!("; {left} more were over the limit"));
    }
    if let Some(error) = error {
        text.push_str(&format!("; failed: {error}"));
    }
    Some(Entry {
        incident: incident.clone(),
        at,
        received_at: None,
        actor: Actor::Routes,
        kind: EntryKind::Note,
        text,
        evidence: Vec::new(),
    })
}

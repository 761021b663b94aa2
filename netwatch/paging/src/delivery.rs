//! One page, from its first request to its acceptance.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use events::{EgressName, IncidentId, Outcome, PageAction};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::counters::{Totals, count};
use crate::outbox::Stored;
use crate::settings::{Schedule, Secret};
use crate::transport::{Answer, Target, Transport};

/// Pages that may be under way at once. One that waits for its next try is not under way.
const UNDER_WAY: usize = 64;

/// What every delivery shares.
#[derive(Debug)]
pub(crate) struct Context {
    pub transport: Arc<Transport>,
    pub schedule: Schedule,
    pub key: Secret,
    pub totals: Arc<Totals>,
    pub outcomes: mpsc::Sender<Outcome>,
    under_way: Semaphore,
}

/// How a round of requests ended.
enum Round {
    Accepted,
    Refused,
    RateLimited(Option<Duration>),
    Failed,
    Silent,
}

impl Context {
    pub fn new(
        transport: Arc<Transport>,
        schedule: Schedule,
        key: Secret,
        totals: Arc<Totals>,
        outcomes: mpsc::Sender<Outcome>,
    ) -> Self {
        Self {
            transport,
            schedule,
            key,
            totals,
            outcomes,
            under_way: Semaphore::new(UNDER_WAY),
        }
    }

    pub fn report(&self, outcome: Outcome) {
        if self.outcomes.try_send(outcome).is_err() {
            count(&self.totals.outcomes_lost);
        }
    }

    /// Sends a page until it is accepted, refused or given up.
    pub async fn deliver(&self, page: &Stored) {
        let incident = IncidentId(page.event.dedup_key.clone());
        let body = match page.event.body(&self.key) {
            Ok(body) => body,
            Err(error) => {
                count(&self.totals.refused);
                self.failed(&incident, error.to_string(), 0, true);
                return;
            }
        };
        let mut attempt = 0;
        let mut silent = Backoff::new(&self.schedule.backoff, self.schedule.network_cap);
        let mut failed = Backoff::new(&self.schedule.backoff, self.schedule.server_cap);
        let mut answer = self.schedule.answer;
        loop {
            let round = match self.under_way.acquire().await {
                Ok(_permit) => self.round(&incident, &body, &mut attempt, answer).await,
                Err(_) => return,
            };
            answer = answer.saturating_mul(2).min(self.schedule.answer_max);
            // Registered before the wait begins, so that a recovery in between is not missed.
            let recovered = self.transport.recovered.notified();
            let (wait, wakeable) = match round {
                Round::Accepted => {
                    count(&self.totals.accepted);
                    let action = action(page.event.event_action);
                    tracing::info!(%incident, action, attempt, "page accepted");
                    return;
                }
                Round::Refused => {
                    count(&self.totals.refused);
                    return;
                }
                Round::RateLimited(asked) => {
                    let wait = asked.unwrap_or(self.schedule.rate_limited);
                    (wait.min(self.schedule.retry_after_max), false)
                }
                Round::Failed => (failed.next(), false),
                Round::Silent => (silent.next(), true),
            };
            let age = jiff::Timestamp::now().duration_since(page.queued);
            if Duration::try_from(age).unwrap_or_default() > self.schedule.give_up {
                count(&self.totals.refused);
                let error = "given up: too old".to_owned();
                tracing::error!(%incident, attempt, error, "page lost");
                self.failed(&incident, error, attempt, true);
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = recovered, if wakeable => {}
            }
        }
    }

    /// Tries the targets, the best first: the next at once where one does not answer at all, or
    /// beside it where the answer takes long. The first answer of the pager ends the round.
    async fn round(
        &self,
        incident: &IncidentId,
        body: &[u8],
        attempt: &mut u32,
        within: Duration,
    ) -> Round {
        let mut targets = self.transport.order().into_iter();
        let mut requests: JoinSet<(u32, Answer)> = JoinSet::new();
        let mut open: BTreeMap<u32, Arc<Target>> = BTreeMap::new();
        let mut hedge = Duration::ZERO;
        let mut next = targets.next();
        let mut hedged = false;
        loop {
            if let Some(target) = next.take() {
                *attempt += 1;
                count(&self.totals.attempts);
                if hedged {
                    count(&self.totals.hedges);
                }
                hedge = Transport::hedge(&target, self.schedule.hedge);
                self.report(Outcome::PageSent {
                    incident: incident.clone(),
                    egress: target.egress.clone(),
                    attempt: *attempt,
                });
                let (transport, body, attempt) =
                    (Arc::clone(&self.transport), body.to_vec(), *attempt);
                open.insert(attempt, Arc::clone(&target));
                requests.spawn(async move {
                    let answer = transport.post(&target, body, within).await;
                    (attempt, answer)
                });
            }
            tokio::select! {
                ended = requests.join_next() => match ended {
                    Some(Ok((attempt, answer))) => {
                        let target = open.remove(&attempt);
                        let egress = target.as_ref().and_then(|target| target.egress.as_ref());
                        if let Some(round) = self.judge(incident, egress, attempt, answer) {
                            // Requests still without an answer are dropped with their connections.
                            open.values().for_each(|target| target.rewarm());
                            return round;
                        }
                        hedged = false;
                        next = targets.next();
                    }
                    Some(Err(error)) => {
                        tracing::error!(%error, "a request to the pager ended abnormally");
                        next = targets.next();
                    }
                    None => return Round::Silent,
                },
                () = tokio::time::sleep(hedge), if targets.len() > 0 => {
                    hedged = true;
                    next = targets.next();
                }
            }
        }
    }

    /// Reports how a request ended; `None` where the pager said nothing.
    fn judge(
        &self,
        incident: &IncidentId,
        egress: Option<&EgressName>,
        attempt: u32,
        answer: Answer,
    ) -> Option<Round> {
        let (round, error, permanent) = match answer {
            Answer::Accepted => {
                self.report(Outcome::PageAccepted {
                    incident: incident.clone(),
                    egress: egress.cloned(),
                    attempt,
                });
                return Some(Round::Accepted);
            }
            Answer::Refused(error) => (Some(Round::Refused), error, true),
            Answer::RateLimited(wait) => (
                Some(Round::RateLimited(wait)),
                "the pager answered 429 Too Many Requests".to_owned(),
                false,
            ),
            Answer::Failed(error) => (Some(Round::Failed), error, false),
            Answer::Silent(error) => (None, error, false),
        };
        count(&self.totals.failures);
        if permanent {
            tracing::error!(%incident, ?egress, attempt, error,
                "page refused, it is not sent again: check the routing key and the event");
        } else {
            tracing::warn!(%incident, ?egress, attempt, error, "page not accepted yet");
        }
        self.failed(incident, error, attempt, permanent);
        round
    }

    pub fn failed(&self, incident: &IncidentId, error: String, attempt: u32, permanent: bool) {
        self.report(Outcome::PageFailed {
            incident: incident.clone(),
            error,
            attempt,
            permanent,
        });
    }
}

fn action(action: PageAction) -> &'static str {
    match action {
        PageAction::Trigger => "trigger",
        PageAction::Resolve => "resolve",
    }
}

/// The listed waits, then the last one doubled up to a cap.
struct Backoff<'a> {
    listed: std::slice::Iter<'a, Duration>,
    last: Duration,
    cap: Duration,
}

impl<'a> Backoff<'a> {
    fn new(listed: &'a [Duration], cap: Duration) -> Self {
        Self {
            listed: listed.iter(),
            last: Duration::from_millis(100),
            cap,
        }
    }

    fn next(&mut self) -> Duration {
        self.last = match self.listed.next() {
            Some(wait) => *wait,
            None => self.last.saturating_mul(2),
        }
        .min(self.cap);
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_as_documented() {
        let schedule = Schedule::default();
        let mut server = Backoff::new(&schedule.backoff, schedule.server_cap);
        let waits: Vec<u128> = (0..9).map(|_| server.next().as_millis()).collect();
        assert_eq!(
            waits,
            [200, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]
        );
        let mut network = Backoff::new(&schedule.backoff, schedule.network_cap);
        let waits: Vec<u128> = (0..6).map(|_| network.next().as_millis()).collect();
        assert_eq!(waits, [200, 500, 1_000, 2_000, 4_000, 5_000]);
    }
}

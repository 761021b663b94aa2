//! The queue of pages: in order within an incident, independent between incidents.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use events::{EgressName, IncidentId, Outcome, Page, PageAction, PageDetails, Severity};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};

use crate::counters::{Counters, Totals, count};
use crate::delivery::Context;
use crate::event::Event;
use crate::outbox::{Outbox, Stored};
use crate::settings::{Settings, StartError};
use crate::transport::{Answer, EgressStatus, Transport};

/// Pages that may wait to be taken in: an incident makes a handful.
const DEPTH: usize = 256;

/// The longest that a stop waits.
const LONGEST: Duration = Duration::from_secs(3_600);

/// Starts pagers.
#[derive(Debug)]
pub struct Pager;

enum Command {
    Page(Box<Page>),
    Stop {
        within: Duration,
        done: oneshot::Sender<usize>,
    },
}

/// The way to a running pager. When the last copy is dropped it stops at once; undelivered pages stay
/// in the outbox.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    context: Arc<Context>,
    settings: Arc<Settings>,
    /// Ends the background tasks with the last handle.
    _background: Arc<Background>,
}

#[derive(Debug)]
struct Background(Vec<AbortHandle>);

impl Drop for Background {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

/// What `netwatch page --test` found out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TestReport {
    /// The `dedup_key` of the test's alert.
    pub dedup_key: String,
    /// A trigger through each egress and the unpinned client, then a resolve through the first that
    /// was accepted.
    pub attempts: Vec<TestAttempt>,
}

impl TestReport {
    /// The alert was opened and closed.
    #[must_use]
    pub fn delivered(&self) -> bool {
        let accepted = |action| {
            self.attempts
                .iter()
                .any(|attempt| attempt.accepted && attempt.action == action)
        };
        accepted(PageAction::Trigger) && accepted(PageAction::Resolve)
    }
}

impl std::fmt::Display for TestReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for attempt in &self.attempts {
            let egress = attempt
                .egress
                .as_ref()
                .map_or("the host's routes", |name| &name.0);
            let action = match attempt.action {
                PageAction::Trigger => "trigger",
                PageAction::Resolve => "resolve",
            };
            let answer = attempt.error.as_deref().unwrap_or("accepted");
            writeln!(
                f,
                "{action} through {egress}: {answer} ({:.1} ms)",
                attempt.elapsed_ms
            )?;
        }
        Ok(())
    }
}

/// One request of a test.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TestAttempt {
    /// Through which egress; `None`: unpinned, by the host's routes.
    pub egress: Option<EgressName>,
    /// Trigger or resolve.
    pub action: PageAction,
    /// The pager answered 202.
    pub accepted: bool,
    /// What went wrong.
    pub error: Option<String>,
    /// Until the answer, the opening of a connection included where none was open, in milliseconds.
    pub elapsed_ms: f64,
}

/// Why a test could not be made.
#[derive(Debug, thiserror::Error)]
#[error("the test page cannot be encoded: {0}")]
pub struct TestError(#[from] serde_json::Error);

impl Pager {
    /// Starts a pager on the current tokio runtime. Pages that an earlier run left in the outbox are
    /// sent first. Outcomes go to `outcomes`; those that find it full are counted.
    pub fn start(
        settings: Settings,
        outcomes: mpsc::Sender<Outcome>,
    ) -> Result<Handle, StartError> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| StartError::NoRuntime)?;
        let key = settings.routing_key.clone();
        match key.expose().len() {
            0 => return Err(StartError::NoRoutingKey),
            32 => {}
            length => tracing::warn!(length, "the pager's routing key is not 32 characters long"),
        }
        let transport = Arc::new(Transport::new(&settings)?);
        let totals = Arc::new(Totals::default());
        let resolver = Arc::clone(&transport.resolver);
        let (outbox, left) = Outbox::open(settings.outbox.as_deref(), resolver.host(), &totals);
        let outbox = Arc::new(outbox);
        resolver.remember(left.addresses);
        let schedule = settings.schedule.clone();
        let saved = Arc::clone(&outbox);
        let save = move |host: &str, addresses| saved.addresses(host, addresses);
        let mut background = vec![
            runtime
                .spawn(resolver.keep_fresh(schedule.resolve, save))
                .abort_handle(),
        ];
        for target in &transport.targets {
            let warm = Arc::clone(&transport).keep_warm(
                Arc::clone(target),
                schedule.warm,
                schedule.rewarm,
                schedule.answer,
            );
            background.push(runtime.spawn(warm).abort_handle());
        }
        let context = Arc::new(Context::new(transport, schedule, key, totals, outcomes));
        let settings = Arc::new(settings);
        let (commands, receiver) = mpsc::channel(DEPTH);
        let queue = Queue {
            context: Arc::clone(&context),
            settings: Arc::clone(&settings),
            outbox,
            lanes: BTreeMap::new(),
            deliveries: JoinSet::new(),
            tasks: HashMap::new(),
            next: 1,
        };
        runtime.spawn(queue.run(receiver, left.pages));
        Ok(Handle {
            commands,
            context,
            settings,
            _background: Arc::new(Background(background)),
        })
    }
}

impl Handle {
    /// Hands a page over and returns at once. Where too many wait already, the page is dropped,
    /// counted and reported as a permanent failure.
    pub fn send(&self, page: Page) {
        if let Err(error) = self.commands.try_send(Command::Page(Box::new(page)))
            && let Command::Page(page) = error.into_inner()
        {
            count(&self.context.totals.dropped);
            tracing::error!(incident = %page.incident, "page dropped: too many are waiting");
            let error = "dropped: too many pages are waiting".to_owned();
            self.context.failed(&page.incident, error, 0, true);
        }
    }

    /// Tells which egress is broken: pages prefer the others. Unknown names are ignored.
    pub fn egress_health(&self, egress: &EgressName, alive: bool) {
        self.context.transport.set_alive(egress, alive);
    }

    /// Totals since the start.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.context.totals.read()
    }

    /// The egresses as the pager sees them.
    #[must_use]
    pub fn egresses(&self) -> Vec<EgressStatus> {
        self.context.transport.status()
    }

    /// The pager's last good addresses: they must never be rerouted.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.context.transport.addresses()
    }

    /// Opens an alert of severity info through every egress in turn, without retries, and closes it.
    pub async fn test(&self) -> Result<TestReport, TestError> {
        let now = clock::now();
        let wall = clock::wall(now);
        let dedup_key = format!(
            "netwatch-test-{}-{}",
            self.settings.source,
            wall.as_millisecond()
        );
        let mut page = Page {
            incident: IncidentId(dedup_key.clone()),
            action: PageAction::Trigger,
            severity: Severity::Info,
            summary: format!(
                "Test page of netwatch on {}: nothing is wrong",
                self.settings.source
            ),
            component: "pager".to_owned(),
            class: "test".to_owned(),
            onset: now,
            at: now,
            details: PageDetails {
                what_broke: "nothing: this is a test".to_owned(),
                ..PageDetails::default()
            },
        };
        let mut attempts = Vec::new();
        let mut working = None;
        let body = Event::of(&page, wall, &self.settings).body(&self.context.key)?;
        for (index, target) in self.context.transport.targets.iter().enumerate() {
            let attempt = self.try_once(index, page.action, body.clone()).await;
            if attempt.accepted && working.is_none() {
                working = Some(index);
            }
            tracing::debug!(egress = ?target.egress, accepted = attempt.accepted, "test page");
            attempts.push(attempt);
        }
        if let Some(index) = working {
            page.action = PageAction::Resolve;
            let body = Event::of(&page, wall, &self.settings).body(&self.context.key)?;
            attempts.push(self.try_once(index, page.action, body).await);
        }
        Ok(TestReport {
            dedup_key,
            attempts,
        })
    }

    async fn try_once(&self, target: usize, action: PageAction, body: Vec<u8>) -> TestAttempt {
        let begun = Instant::now();
        let Some(target) = self.context.transport.targets.get(target) else {
            return TestAttempt {
                egress: None,
                action,
                accepted: false,
                error: Some("no such egress".to_owned()),
                elapsed_ms: 0.0,
            };
        };
        let within = self.context.schedule.answer_max;
        let answer = self.context.transport.post(target, body, within).await;
        let elapsed_ms = (begun.elapsed().as_secs_f64() * 1e6).round() / 1e3;
        let error = match answer {
            Answer::Accepted => None,
            Answer::RateLimited(_) => Some("the pager answered 429 Too Many Requests".to_owned()),
            Answer::Refused(error) | Answer::Failed(error) | Answer::Silent(error) => Some(error),
        };
        TestAttempt {
            egress: target.egress.clone(),
            action,
            accepted: error.is_none(),
            error,
            elapsed_ms,
        }
    }

    /// Takes no further pages, waits at most `within` for those on their way, and returns how many
    /// are left in the outbox.
    pub async fn stop(&self, within: Duration) -> usize {
        let (done, left) = oneshot::channel();
        if self
            .commands
            .send(Command::Stop { within, done })
            .await
            .is_err()
        {
            return 0;
        }
        left.await.unwrap_or(0)
    }
}

/// The pages of one incident, in order; the first is being delivered.
#[derive(Default)]
struct Lane {
    pages: VecDeque<Arc<Stored>>,
    delivery: Option<AbortHandle>,
}

struct Queue {
    context: Arc<Context>,
    settings: Arc<Settings>,
    outbox: Arc<Outbox>,
    lanes: BTreeMap<String, Lane>,
    deliveries: JoinSet<()>,
    tasks: HashMap<tokio::task::Id, String>,
    next: i64,
}

impl Queue {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>, left: Vec<Stored>) {
        for page in left {
            self.next = self.next.max(page.id.saturating_add(1));
            self.enqueue(page);
        }
        let mut stop = None;
        loop {
            let deadline = stop.as_ref().map(|(deadline, _)| *deadline);
            if deadline.is_some() && self.lanes.is_empty() {
                break;
            }
            tokio::select! {
                command = commands.recv(), if deadline.is_none() => match command {
                    Some(Command::Page(page)) => self.accept(&page),
                    Some(Command::Stop { within, done }) => {
                        commands.close();
                        while let Ok(command) = commands.try_recv() {
                            if let Command::Page(page) = command {
                                self.accept(&page);
                            }
                        }
                        stop = Some((tokio::time::Instant::now() + within.min(LONGEST), done));
                    }
                    None => break,
                },
                Some(ended) = self.deliveries.join_next_with_id() => {
                    let id = match ended {
                        Ok((id, ())) => id,
                        Err(error) => {
                            tracing::error!(%error, "a delivery ended abnormally");
                            error.id()
                        }
                    };
                    self.delivered(id);
                }
                () = until(deadline) => break,
            }
        }
        self.deliveries.abort_all();
        self.outbox.stop().await;
        if let Some((_, done)) = stop {
            let _ = done.send(self.waiting());
        }
    }

    fn accept(&mut self, page: &Page) {
        let stored = Stored {
            id: self.next,
            queued: jiff::Timestamp::now(),
            event: Event::of(page, clock::wall(page.onset), &self.settings),
        };
        self.next = self.next.saturating_add(1);
        // The request is begun first; the disk works beside it.
        self.enqueue(stored.clone());
        self.outbox.put(stored);
        if self.waiting() > self.settings.capacity {
            self.shed();
        }
        self.count_pending();
    }

    fn enqueue(&mut self, page: Stored) {
        count(&self.context.totals.queued);
        let incident = page.event.dedup_key.clone();
        let lane = self.lanes.entry(incident.clone()).or_default();
        lane.pages.push_back(Arc::new(page));
        if lane.delivery.is_none() {
            self.begin(&incident);
        }
        self.count_pending();
    }

    /// Delivers the first page of a lane; a lane without pages is removed.
    fn begin(&mut self, incident: &str) {
        let Some(lane) = self.lanes.get_mut(incident) else {
            return;
        };
        let Some(page) = lane.pages.front() else {
            self.lanes.remove(incident);
            return;
        };
        let (context, page) = (Arc::clone(&self.context), Arc::clone(page));
        let task = self
            .deliveries
            .spawn(async move { context.deliver(&page).await });
        self.tasks.insert(task.id(), incident.to_owned());
        lane.delivery = Some(task);
    }

    fn delivered(&mut self, task: tokio::task::Id) {
        // The task of a page that was dropped is not in the map any more.
        let Some(incident) = self.tasks.remove(&task) else {
            return;
        };
        if let Some(lane) = self.lanes.get_mut(&incident)
            && let Some(page) = lane.pages.pop_front()
        {
            self.outbox.remove(page.id);
        }
        self.begin(&incident);
        self.count_pending();
    }

    /// Drops the least severe page; of equals a trigger rather than a resolve (that would leave an
    /// alert open), and the oldest.
    fn shed(&mut self) {
        let least = self.lanes.iter().flat_map(|(incident, lane)| {
            lane.pages.iter().map(move |page| {
                let resolve = page.event.event_action == PageAction::Resolve;
                (page.event.payload.severity, resolve, page.id, incident)
            })
        });
        let Some((severity, _, id, incident)) = least.min() else {
            return;
        };
        let incident = incident.clone();
        self.outbox.remove(id);
        count(&self.context.totals.dropped);
        tracing::error!(incident, ?severity, "page dropped: too many are waiting");
        let error = "dropped: too many pages are waiting".to_owned();
        self.context
            .failed(&IncidentId(incident.clone()), error, 0, true);
        let Some(lane) = self.lanes.get_mut(&incident) else {
            return;
        };
        let first = lane.pages.front().is_some_and(|page| page.id == id);
        lane.pages.retain(|page| page.id != id);
        if first && let Some(task) = lane.delivery.take() {
            task.abort();
            self.tasks.remove(&task.id());
            self.begin(&incident);
        }
    }

    fn waiting(&self) -> usize {
        self.lanes.values().map(|lane| lane.pages.len()).sum()
    }

    fn count_pending(&self) {
        let pending = u64::try_from(self.waiting()).unwrap_or(u64::MAX);
        self.context
            .totals
            .pending
            .store(pending, Ordering::Relaxed);
    }
}

async fn until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

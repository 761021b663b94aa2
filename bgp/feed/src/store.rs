//! The task that owns the RIB: reports of sessions in, signals out, queries answered in between.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bgp_core::{
    Families, Family, GracefulRestart, Negotiated, NeighborConfig, Outbox, Rib, RibLimits,
    RibMemory, RibPage, RibRequest, RibWalk, Stop, TableStatus, Update, Views, Vrps,
};
use events::{BgpSignal, NeighborId, PeerKey, SessionDownReason, Timestamp};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout_at};
use tracing::{error, warn};

use crate::neighbor::{Neighbor, NoRefresh};
use crate::neighbors::Neighbors;
use crate::status::NeighborStatus;

/// Signals that may wait for the sink before reports wait too. Facts replace each other, so the
/// rest are route changes of watched peers.
const OUTBOX: usize = 4096;
/// Time for the last signals to be taken when the feed stops.
const LAST_SIGNALS: Duration = Duration::from_millis(500);

/// Reports that are taken at once: what else waits is looked at in between.
const BATCH: usize = 64;
/// Steps of a query that are done at once: some hundred microseconds at most.
const STEPS: usize = 512;
/// Queries under way; more wait in their channel.
const WALKS: usize = 16;

/// What a session learnt.
#[derive(Debug)]
pub(crate) struct Report {
    pub neighbor: NeighborId,
    pub session: u64,
    pub kind: ReportKind,
}

#[derive(Debug)]
pub(crate) enum ReportKind {
    /// A neighbour that is not configured one by one; nothing happens where it is known.
    Add(NeighborConfig),
    Up(Negotiated, Option<GracefulRestart>, Timestamp),
    Update(Update, Timestamp),
    /// The neighbour begins or ends to send a family's routes again.
    Refresh {
        family: Family,
        ended: bool,
    },
    /// The neighbour was asked for a family's routes.
    RefreshAsked(Family),
    Down(SessionDownReason),
    /// A dynamic neighbour made room for another.
    Forgotten,
}

/// What a caller wants to know.
#[derive(Debug)]
pub(crate) enum Request {
    Neighbors(oneshot::Sender<Vec<NeighborStatus>>),
    /// Sizes of tables, in the order asked.
    Tables(Vec<NeighborId>, oneshot::Sender<Vec<TableStatus>>),
    Rib(RibRequest, oneshot::Sender<RibPage>),
    Status(oneshot::Sender<RibStatus>),
    Refresh(
        NeighborId,
        Families,
        oneshot::Sender<Result<Families, NoRefresh>>,
    ),
}

/// How the RIB fares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RibStatus {
    /// What it takes.
    pub memory: RibMemory,
    /// Neighbours whose tables lack routes for want of memory.
    pub partial: usize,
    /// Different sets of attributes.
    pub attribute_sets: usize,
    /// VRPs that origins are validated by.
    pub vrps: usize,
}

pub(crate) struct Store {
    rib: Rib,
    outbox: Outbox,
    views: Views,
    neighbors: Arc<Neighbors>,
    walks: VecDeque<(RibWalk, oneshot::Sender<RibPage>)>,
}

impl Store {
    pub fn new(neighbors: Arc<Neighbors>, limits: RibLimits) -> Self {
        let mut rib = Rib::bounded(limits, seed(), clock::now());
        for neighbor in neighbors.all() {
            rib.add(neighbor.rib_config());
        }
        Self {
            rib,
            outbox: Outbox::default(),
            views: Views::default(),
            neighbors,
            walks: VecDeque::new(),
        }
    }

    /// Runs until every session and listener is gone, or the sink's receiver.
    pub async fn run(
        mut self,
        mut reports: mpsc::Receiver<Report>,
        mut requests: mpsc::Receiver<Request>,
        mut watched: watch::Receiver<Vec<PeerKey>>,
        mut vrps: watch::Receiver<Arc<Vrps>>,
        sink: mpsc::Sender<BgpSignal>,
    ) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            self.walk();
            // Reports go on coming in: a query that is under way takes turns with them.
            let under_way = !self.walks.is_empty();
            let deadline = self.rib.deadline();
            let wait = deadline.map_or(Duration::MAX, |at| at.since(clock::now()));
            tokio::select! {
                biased;
                permit = sink.reserve(), if !self.outbox.is_empty() => match permit {
                    Ok(permit) => {
                        if let Some(signal) = self.outbox.pop() {
                            permit.send(signal);
                        }
                        while !self.outbox.is_empty()
                            && let Ok(permit) = sink.try_reserve()
                            && let Some(signal) = self.outbox.pop()
                        {
                            permit.send(signal);
                        }
                    }
                    Err(_) => return,
                },
                Some(request) = requests.recv(), if self.walks.len() < WALKS => self.answer(request),
                Ok(()) = watched.changed() => {
                    let peers = watched.borrow_and_update().iter().copied().collect();
                    let signals = self.rib.watch(peers);
                    self.send(signals);
                }
                Ok(()) = vrps.changed() => {
                    let new = Arc::clone(&vrps.borrow_and_update());
                    self.rib.set_vrps(new);
                }
                count = reports.recv_many(&mut batch, BATCH), if self.outbox.len() < OUTBOX => {
                    if count == 0 {
                        break;
                    }
                    batch.drain(..).for_each(|report| self.take(report));
                }
                () = sleep(wait), if deadline.is_some() => {
                    let signals = self.rib.expire(clock::now());
                    self.send(signals);
                    self.ask_again();
                }
                () = std::future::ready(()), if under_way => {}
            }
        }
        let deadline = tokio::time::Instant::now() + LAST_SIGNALS;
        while let Some(signal) = self.outbox.pop() {
            if !matches!(timeout_at(deadline, sink.send(signal)).await, Ok(Ok(()))) {
                return;
            }
        }
    }

    fn take(&mut self, report: Report) {
        let Report {
            neighbor,
            session,
            kind,
        } = report;
        self.rib.tick(clock::now());
        let signals = match kind {
            ReportKind::Add(config) => {
                self.rib.add(config);
                return;
            }
            ReportKind::Up(negotiated, restart, at) => {
                // One that came from a prefix is new to the RIB.
                if let Some(known) = self.neighbors.get(neighbor) {
                    self.rib.add(known.rib_config());
                }
                let mut signals = self.rib.session_up(neighbor, session, &negotiated, at);
                signals.extend(self.rib.restarted(neighbor, session, restart));
                signals
            }
            ReportKind::Refresh {
                family,
                ended: false,
            } => {
                self.rib.refresh_began(neighbor, session, family);
                Vec::new()
            }
            ReportKind::Refresh {
                family,
                ended: true,
            } => self.rib.refresh_ended(neighbor, session, family),
            ReportKind::RefreshAsked(family) => {
                self.rib.refresh_asked(neighbor, session, family);
                Vec::new()
            }
            ReportKind::Forgotten => self.rib.remove(neighbor),
            ReportKind::Down(reason) => self.rib.session_down(neighbor, session, reason),
            ReportKind::Update(update, at) => {
                let (signals, exceeded) = self.rib.apply(neighbor, session, &update, at);
                let known = self.neighbors.get(neighbor);
                if let Some(known) = &known {
                    known.watch_prefixes(self.rib.status(neighbor));
                }
                if let Some(exceeded) = exceeded {
                    let stop = Stop::MaxPrefixes {
                        family: exceeded.family,
                        limit: exceeded.limit,
                    };
                    if known.is_some_and(|known| known.exceeded(session, stop, clock::now())) {
                        error!(%exceeded, "BGP session is stopped");
                    }
                }
                signals
            }
        };
        self.send(signals);
    }

    fn send(&mut self, signals: Vec<BgpSignal>) {
        for signal in signals {
            let (goes_on, told) = self.views.pass(&signal);
            if goes_on {
                self.outbox.push(signal);
            }
            for fact in told.into_iter().flat_map(|id| self.rib.facts_of(id)) {
                self.outbox.push(BgpSignal::Fact(fact.clone()));
            }
        }
    }

    /// Asks for what was left out for want of memory.
    fn ask_again(&mut self) {
        for (id, families) in self.rib.take_refreshes() {
            let asked = self.neighbors.get(id).map(|known| known.refresh(families));
            if let Some(Err(why)) = asked {
                warn!(neighbor = %id, %why, "BGP: routes that were left out stay away until the next session");
            }
        }
    }

    /// A caller that no longer waits is no error.
    fn answer(&mut self, request: Request) {
        match request {
            Request::Neighbors(answer) => {
                let now = clock::now();
                let status =
                    |neighbor: &Arc<Neighbor>| neighbor.status(self.rib.status(neighbor.id), now);
                let _ = answer.send(self.neighbors.all().iter().map(status).collect());
            }
            Request::Tables(ids, answer) => {
                let _ = answer.send(ids.iter().map(|id| self.rib.status(*id)).collect());
            }
            Request::Refresh(id, families, answer) => {
                let known = self.neighbors.get(id).ok_or(NoRefresh::Unknown);
                let _ = answer.send(known.and_then(|known| known.refresh(families)));
            }
            Request::Rib(request, answer) => {
                self.walks.push_back((self.rib.walk(request), answer));
            }
            Request::Status(answer) => {
                let _ = answer.send(RibStatus {
                    memory: self.rib.memory(),
                    partial: self.rib.partial_neighbors(),
                    attribute_sets: self.rib.attribute_sets(),
                    vrps: self.rib.vrps(),
                });
            }
        }
    }

    /// One piece of one query.
    fn walk(&mut self) {
        let Some((mut walk, answer)) = self.walks.pop_front() else {
            return;
        };
        if answer.is_closed() {
            return;
        }
        self.rib.tick(clock::now());
        if self.rib.advance(&mut walk, STEPS) {
            let _ = answer.send(self.rib.page(walk));
        } else {
            self.walks.push_back((walk, answer));
        }
    }
}

/// Something that no neighbour knows.
fn seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}

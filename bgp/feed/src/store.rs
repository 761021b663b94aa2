//! The task that owns the RIB: reports of sessions in, signals out, queries answered in between.

use std::sync::Arc;
use std::time::Duration;

use bgp_core::{
    Family, GracefulRestart, Negotiated, NeighborConfig, Outbox, Rib, RibQuery, RibRoute, Stop,
    TableStatus, Update,
};
use events::{BgpSignal, NeighborId, PeerKey, SessionDownReason, Timestamp};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout_at};
use tracing::error;

use crate::neighbor::Neighbor;
use crate::neighbors::Neighbors;
use crate::status::NeighborStatus;

/// Signals that may wait for the sink before reports wait too. Facts replace each other, so the
/// rest are route changes of watched peers.
const OUTBOX: usize = 4096;
/// Time for the last signals to be taken when the feed stops.
const LAST_SIGNALS: Duration = Duration::from_millis(500);

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
    Rib {
        query: RibQuery,
        limit: usize,
        answer: oneshot::Sender<Vec<RibRoute>>,
    },
}

pub(crate) struct Store {
    rib: Rib,
    outbox: Outbox,
    neighbors: Arc<Neighbors>,
}

impl Store {
    pub fn new(neighbors: Arc<Neighbors>) -> Self {
        let known = neighbors.all();
        let rib = Rib::new(known.iter().map(|neighbor| neighbor.rib_config()));
        Self {
            rib,
            outbox: Outbox::default(),
            neighbors,
        }
    }

    /// Runs until every session and listener is gone, or the sink's receiver.
    pub async fn run(
        mut self,
        mut reports: mpsc::Receiver<Report>,
        mut requests: mpsc::Receiver<Request>,
        mut watched: watch::Receiver<Vec<PeerKey>>,
        sink: mpsc::Sender<BgpSignal>,
    ) {
        loop {
            let deadline = self.rib.deadline();
            let wait = deadline.map_or(Duration::MAX, |at| at.since(clock::now()));
            tokio::select! {
                biased;
                permit = sink.reserve(), if !self.outbox.is_empty() => match permit {
                    Ok(permit) => {
                        if let Some(signal) = self.outbox.pop() {
                            permit.send(signal);
                        }
                    }
                    Err(_) => return,
                },
                Some(request) = requests.recv() => self.answer(request),
                Ok(()) = watched.changed() => {
                    let peers = watched.borrow_and_update().iter().copied().collect();
                    let signals = self.rib.watch(peers);
                    self.send(signals);
                }
                report = reports.recv(), if self.outbox.len() < OUTBOX => match report {
                    Some(report) => self.take(report),
                    None => break,
                },
                () = sleep(wait), if deadline.is_some() => {
                    let signals = self.rib.expire(clock::now());
                    self.send(signals);
                }
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
            self.outbox.push(signal);
        }
    }

    /// A caller that no longer waits is no error.
    fn answer(&self, request: Request) {
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
            Request::Rib {
                query,
                limit,
                answer,
            } => {
                let _ = answer.send(self.rib.routes(query, limit));
            }
        }
    }
}

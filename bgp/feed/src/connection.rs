//! One task per TCP connection: it alone reads, writes and keeps the session's timers.
//!
//! What it learns goes to the RIB's task through a bounded channel. While that is full the
//! connection goes on reading into a bounded backlog and keeps its timers; beyond the backlog it
//! leaves bytes in the socket, and those count as a sign of life for the hold timer.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bgp_core::{Action, AttributeError, Event, Family, Framer, Session, State, Stop};
use events::{SessionDownReason, Timestamp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::neighbor::{Neighbor, Orders, describe, resets};
use crate::protection::unacknowledged;
use crate::store::{Report, ReportKind};
use crate::transport::{jitter, stopped};

/// UPDATEs that may wait for the RIB's task before reading pauses: about 1 MiB.
const BACKLOG: usize = 256;
/// Bytes that may wait for a neighbour that does not read. Ours are KEEPALIVEs of 19 bytes.
const UNSENT: usize = 64 * 1024;
const READ_CHUNK: usize = 64 * 1024;
/// Malformed attributes are logged at most that often per connection.
const ERROR_LOG: Duration = Duration::from_secs(10);
/// Time for the last NOTIFICATION to leave.
const LAST_WORDS: Duration = Duration::from_millis(500);

pub(crate) struct Connection {
    id: u64,
    neighbor: Arc<Neighbor>,
    stream: TcpStream,
    session: Session,
    framer: Framer,
    unsent: Vec<u8>,
    backlog: VecDeque<Report>,
    up: bool,
    error_logged: Option<Timestamp>,
    ended: Option<SessionDownReason>,
}

impl Connection {
    /// `session` waits for [`Event::TcpConnected`].
    pub fn new(id: u64, neighbor: Arc<Neighbor>, stream: TcpStream, session: Session) -> Self {
        Self {
            id,
            neighbor,
            stream,
            session,
            framer: Framer::default(),
            unsent: Vec::new(),
            backlog: VecDeque::new(),
            up: false,
            error_logged: None,
            ended: None,
        }
    }

    /// Runs until the connection is over and all that it learnt is delivered; the session then.
    pub async fn run(
        mut self,
        reports: mpsc::Sender<Report>,
        mut orders: Orders,
        mut shutdown: watch::Receiver<bool>,
    ) -> Session {
        if let Err(error) = self.stream.set_nodelay(true) {
            debug!(neighbor = %self.neighbor.id.address, %error, "TCP_NODELAY");
        }
        self.step(Event::TcpConnected, clock::now());
        let mut chunk = vec![0; READ_CHUNK];
        while self.ended.is_none() {
            self.flush();
            let paused = self.backlog.len() >= BACKLOG;
            let deadline = self.session.deadline();
            let wait = deadline.map_or(Duration::MAX, |at| at.since(clock::now()));
            tokio::select! {
                biased;
                () = stopped(&mut shutdown) => {
                    self.step(Stop::Shutdown.into(), clock::now());
                }
                why = orders.stop.recv() => {
                    self.step(why.unwrap_or(Stop::Shutdown).into(), clock::now());
                }
                Some(family) = orders.refresh.recv() => self.ask(family),
                () = sleep(wait), if deadline.is_some() => self.timer(paused, &mut chunk).await,
                permit = reports.reserve(), if !self.backlog.is_empty() => match permit {
                    Ok(permit) => {
                        if let Some(report) = self.backlog.pop_front() {
                            permit.send(report);
                        }
                        while !self.backlog.is_empty()
                            && let Ok(permit) = reports.try_reserve()
                            && let Some(report) = self.backlog.pop_front()
                        {
                            permit.send(report);
                        }
                    }
                    Err(_) => self.step(Stop::Shutdown.into(), clock::now()),
                },
                result = self.stream.writable(), if !self.unsent.is_empty() => {
                    self.check(result);
                }
                result = self.stream.readable(), if !paused => {
                    self.check(result);
                    self.read(&mut chunk);
                }
            }
        }
        self.finish(reports).await
    }

    async fn finish(mut self, reports: mpsc::Sender<Report>) -> Session {
        let deadline = tokio::time::Instant::now() + LAST_WORDS;
        while !self.unsent.is_empty() {
            let writable = tokio::time::timeout_at(deadline, self.stream.writable()).await;
            if !matches!(writable, Ok(Ok(()))) || !self.flush() {
                break;
            }
        }
        self.linger(deadline).await;
        drop(self.stream);
        let Some(reason) = self.ended else {
            return self.session;
        };
        let text = describe(&reason);
        let neighbor = self.neighbor.id.address;
        if self.up {
            warn!(%neighbor, egress = %self.neighbor.settings.egress, reason = text,
                "BGP session down; its routes are stale");
        } else {
            warn!(%neighbor, reason = text, "BGP connection ended before a session");
        }
        self.neighbor.release(self.id, &reason, clock::now());
        if self.up {
            let kind = ReportKind::Down(reason);
            self.backlog.push_back(self.neighbor.report(self.id, kind));
        }
        for report in self.backlog {
            if reports.send(report).await.is_err() {
                break;
            }
        }
        self.session
    }

    /// Reads what is still on its way: closing with bytes unread would reset the connection, and
    /// the neighbour could lose our NOTIFICATION.
    async fn linger(&mut self, deadline: tokio::time::Instant) {
        let mut waste = [0; 4096];
        let drain = async {
            if self.stream.shutdown().await.is_err() {
                return;
            }
            while matches!(self.stream.read(&mut waste).await, Ok(1..)) {}
        };
        // Too slow to end: then it is reset.
        let _ = tokio::time::timeout_at(deadline, drain).await;
    }

    /// Bytes that wait in the socket are a sign of life: whoever did not read them in time was this
    /// process, stopped or starved, and no neighbour is to be reset for that.
    async fn timer(&mut self, paused: bool, chunk: &mut [u8]) {
        if paused {
            let waiting = timeout(Duration::ZERO, self.stream.peek(chunk)).await;
            if matches!(waiting, Ok(Ok(1..))) {
                self.session.refresh_hold(clock::now());
            }
        } else {
            self.read(chunk);
        }
        let now = clock::now();
        // Only what the neighbour's TCP has taken counts as sent: the kernel's buffer holds many
        // KEEPALIVEs.
        if self.unsent.is_empty() && matches!(unacknowledged(&self.stream), Ok(0)) {
            self.session.sent(now);
        }
        while let Some(event) = self.session.expired(now) {
            self.step(event, now);
        }
    }

    fn read(&mut self, chunk: &mut [u8]) {
        if self.ended.is_some() {
            return;
        }
        match self.stream.try_read(chunk) {
            Ok(0) => self.lost("the neighbour closed the connection"),
            Ok(count) => {
                let now = clock::now();
                self.framer.push(chunk.get(..count).unwrap_or_default());
                while self.ended.is_none() {
                    let event = match self.framer.next_frame() {
                        Ok(None) => break,
                        Ok(Some(frame)) => self.session.event_of(&frame),
                        Err(fault) => Event::HeaderError(fault),
                    };
                    self.received(event, now);
                }
            }
            result => self.check(result.map(|_| ())),
        }
    }

    /// Writes what the socket takes; false where it took nothing.
    fn flush(&mut self) -> bool {
        if self.unsent.is_empty() {
            return false;
        }
        match self.stream.try_write(&self.unsent) {
            Ok(count) => {
                self.unsent.drain(..count.min(self.unsent.len()));
                count > 0
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if self.unsent.len() > UNSENT {
                    self.lost("the neighbour does not read");
                }
                true
            }
            result => {
                self.check(result.map(|_| ()));
                false
            }
        }
    }

    fn check(&mut self, result: io::Result<()>) {
        match result {
            Err(error)
                if !matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                self.lost(&error.to_string());
            }
            _ => {}
        }
    }

    fn lost(&mut self, text: &str) {
        let text = text.to_owned();
        self.step(Event::TcpConnectionFails { text }, clock::now());
    }

    fn received(&mut self, event: Event, now: Timestamp) {
        if resets(&event) {
            self.neighbor.count(|counters| counters.session_resets += 1);
        } else if matches!(event, Event::RouteRefresh(_)) {
            self.neighbor
                .count(|counters| counters.route_refreshes += 1);
        }
        self.step(event, now);
    }

    fn step(&mut self, event: Event, now: Timestamp) {
        let before = self.session.state();
        let actions = self.session.step(event, now, jitter());
        for action in actions {
            self.perform(action, now);
        }
        if before != State::OpenConfirm
            && self.session.state() == State::OpenConfirm
            && let (Some(negotiated), Some(open)) =
                (self.session.negotiated(), self.session.peer_open())
        {
            if self.session.takes_extended_messages() {
                self.framer.extend();
            }
            if !self.neighbor.confirm(self.id, negotiated, open, now) {
                self.step(Stop::Collision.into(), now);
            }
        }
    }

    fn perform(&mut self, action: Action, now: Timestamp) {
        match action {
            // Only a session without a connection asks for one.
            Action::Connect => {}
            Action::Send { message } => self.unsent.extend_from_slice(&message),
            Action::Up(negotiated) => {
                if !self.neighbor.establish(self.id, now) {
                    self.step(Stop::Collision.into(), now);
                    return;
                }
                info!(neighbor = %self.neighbor.id.address, asn = %negotiated.asn,
                    egress = %self.neighbor.settings.egress, hold_time = ?negotiated.hold_time,
                    families = ?negotiated.context.families, "BGP session up");
                self.up = true;
                let open = self.session.peer_open();
                let restart = open.and_then(|open| open.graceful_restart);
                self.report(ReportKind::Up(negotiated, restart, now));
            }
            Action::Update(update) => {
                self.neighbor.count(|counters| counters.updates += 1);
                for error in &update.errors {
                    self.count(error, now);
                }
                self.report(ReportKind::Update(update, now));
            }
            Action::Refresh { family, ended } => self.report(ReportKind::Refresh { family, ended }),
            Action::Close { reason } => self.ended = Some(reason),
        }
    }

    /// Asks for a family's routes (RFC 2918).
    fn ask(&mut self, family: Family) {
        if let Some(message) = self.session.refresh_request(family) {
            self.unsent.extend_from_slice(&message);
            info!(neighbor = %self.neighbor.id.address, ?family, "BGP route refresh asked for");
            self.report(ReportKind::RefreshAsked(family));
        }
    }

    /// Counts an error that the session outlives; logs one now and then.
    fn count(&mut self, error: &AttributeError, now: Timestamp) {
        let total = self.neighbor.count_error(error);
        let quiet = |last: Timestamp| now.since(last) < ERROR_LOG;
        if self.error_logged.is_some_and(quiet) {
            return;
        }
        self.error_logged = Some(now);
        warn!(neighbor = %self.neighbor.id.address, %error, treatment = ?error.level, total,
            "malformed attribute in an UPDATE (RFC 7606)");
    }

    fn report(&mut self, kind: ReportKind) {
        self.backlog.push_back(self.neighbor.report(self.id, kind));
    }
}

impl Neighbor {
    fn report(&self, session: u64, kind: ReportKind) -> Report {
        Report {
            neighbor: self.id,
            session,
            kind,
        }
    }
}

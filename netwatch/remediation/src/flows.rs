//! Which connections transmitted and progressed since a route change.

use std::collections::BTreeMap;
use std::time::Duration;

use events::{AliveSign, ConnectionId, PeerKey, Prefix, Signal, SignalKind, Timestamp};
use serde::{Deserialize, Serialize};

/// Connections in trouble that are kept. More are not judged.
const MAX_CONNECTIONS: usize = 65_536;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Connection {
    peer: PeerKey,
    overdue: bool,
    /// While it is: when the oldest byte was sent that is not acknowledged.
    #[serde(default)]
    dark: Option<Timestamp>,
    /// The first transmission since the connection became overdue, restarted by [`Flows::mark`].
    transmitted: Option<Timestamp>,
    /// The newest acknowledgement of new data.
    acknowledged: Option<Timestamp>,
    touched: Timestamp,
}

/// Connections that were overdue at some time of late.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Flows {
    connections: BTreeMap<ConnectionId, Connection>,
    /// When routes last changed.
    marked: Timestamp,
}

/// How the flows of a plan do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Transmitted since the change, long enough ago to be judged, or progressed.
    pub transmitted: usize,
    /// New data acknowledged since the change.
    pub progressed: usize,
    /// Still overdue.
    pub overdue: usize,
}

impl Flows {
    pub fn signal(&mut self, signal: &Signal) {
        let at = signal.at;
        match &signal.kind {
            SignalKind::AckOverdue {
                connection, since, ..
            } => {
                if let Some(state) = self.entry(*connection, signal.peer, at) {
                    state.overdue = true;
                    state.dark.get_or_insert(*since);
                }
            }
            SignalKind::Transmitted { connection }
            | SignalKind::Retransmitted { connection, .. } => {
                let new = at > self.marked;
                if let Some(state) = self.entry(*connection, signal.peer, at)
                    && new
                {
                    state.transmitted.get_or_insert(at);
                }
            }
            SignalKind::Alive { connection, sign } => match sign {
                AliveSign::Acknowledged => {
                    if let Some(state) = self.entry(*connection, signal.peer, at) {
                        state.overdue = false;
                        state.dark = None;
                        state.acknowledged = Some(at);
                    }
                }
                AliveSign::Closed => {
                    self.connections.remove(connection);
                }
                AliveSign::ReceivedOnly => {}
            },
            SignalKind::ConnectionDown { connection, .. } => {
                self.connections.remove(connection);
            }
            SignalKind::PeerDown => self.connections.retain(|_, c| c.peer != signal.peer),
            _ => {}
        }
    }

    fn entry(
        &mut self,
        connection: ConnectionId,
        peer: PeerKey,
        at: Timestamp,
    ) -> Option<&mut Connection> {
        if self.connections.len() >= MAX_CONNECTIONS && !self.connections.contains_key(&connection)
        {
            return None;
        }
        let state = self.connections.entry(connection).or_insert(Connection {
            peer,
            overdue: false,
            dark: None,
            transmitted: None,
            acknowledged: None,
            touched: at,
        });
        state.touched = at;
        Some(state)
    }

    /// Routes to `prefixes` changed: what was transmitted before says nothing about them.
    pub fn mark(&mut self, prefixes: &[Prefix], at: Timestamp) {
        self.marked = at;
        for connection in self.connections.values_mut() {
            if prefixes.iter().any(|p| p.contains(&connection.peer.0)) {
                connection.transmitted = None;
            }
        }
    }

    /// How the connections to peers in `prefixes` did since `since`.
    pub fn progress(
        &self,
        prefixes: &[Prefix],
        since: Timestamp,
        now: Timestamp,
        in_flight: Duration,
    ) -> Progress {
        let mut progress = Progress::default();
        for connection in self.connections.values() {
            if !prefixes.iter().any(|p| p.contains(&connection.peer.0)) {
                continue;
            }
            let progressed = connection.acknowledged.is_some_and(|at| at > since);
            let transmitted = connection
                .transmitted
                .is_some_and(|at| at > since && now.since(at) >= in_flight);
            progress.progressed += usize::from(progressed);
            progress.transmitted += usize::from(progressed || transmitted);
            progress.overdue += usize::from(connection.overdue);
        }
        progress
    }

    /// An acknowledgement came since then from a peer.
    pub fn alive_since(&self, peer: PeerKey, since: Timestamp) -> bool {
        self.connections
            .values()
            .any(|c| c.peer == peer && !c.overdue && c.acknowledged.is_some_and(|at| at > since))
    }

    /// Something sent to a peer before `moment` is not acknowledged.
    pub fn dark_before(&self, peer: PeerKey, moment: Timestamp) -> bool {
        let mut connections = self.connections.values();
        connections.any(|c| c.peer == peer && c.dark.is_some_and(|at| at < moment))
    }

    /// Forgets connections without a signal for so long.
    pub fn forget(&mut self, now: Timestamp, age: Duration) {
        self.connections
            .retain(|_, connection| now.since(connection.touched) < age);
    }
}

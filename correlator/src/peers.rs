//! Peers, their connections, and what TCP says about each.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use events::{
    AliveSign, ConnectFailure, ConnectionId, EgressName, FibChange, PeerKey, Prefix,
    RetransmitClass, Signal, SignalKind, Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::lateness::Lateness;

/// Weights of single observations, in nats.
mod weight {
    pub const OVERDUE: f64 = 3.9;
    pub const TAIL_LOSS_PROBE: f64 = 2.0;
    pub const TIMEOUT: f64 = 4.0;
    pub const SECOND_TIMEOUT: f64 = 6.0;
    pub const UNREACHABLE: f64 = 3.0;
}

/// A connection with less evidence than this is not called failing.
pub const FAILING: f64 = 3.0;

const ENETUNREACH: i32 = 101;
const EHOSTUNREACH: i32 = 113;
const ETIMEDOUT: i32 = 110;

/// Peers beyond this are not followed (bounded memory); the tracker has the same order of limit.
const MAX_PEERS: usize = 8192;
/// Connections of one peer beyond this are not followed.
const MAX_CONNECTIONS: usize = 256;

/// Negative evidence of one connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failing {
    /// When it began to fail, as observed.
    pub at: Timestamp,
    /// When the oldest byte that is missing its acknowledgement was sent.
    pub since: Timestamp,
    /// The limit that its age passed.
    pub limit: Duration,
    /// When the newest sign of it was seen: a retransmission since then tells of the path as it is now.
    pub renewed: Timestamp,
    /// The strongest evidence, in nats.
    pub weight: f64,
    /// The egress that the byte left through.
    pub egress: EgressName,
    /// A suspicion on this was not borne out, or its incident ended: it raises no new one.
    pub dismissed: bool,
    /// Observed while this host was stalled.
    pub vetoed: bool,
    /// Part of an incident with a verdict: it teaches nothing.
    pub outage: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Connection {
    pub failing: Option<Failing>,
    /// When it last gave a sign of life that proves both ways (after a failure).
    pub alive_at: Option<Timestamp>,
    /// When it last proved only the way in.
    pub inbound_at: Option<Timestamp>,
}

/// The kernel's route to a peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InUse {
    pub egress: EgressName,
    pub prefix: Prefix,
    pub changed_at: Timestamp,
    /// The egress before the last change.
    pub previous: Option<EgressName>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    pub connections: BTreeMap<ConnectionId, Connection>,
    /// The source address of its newest connection.
    pub source: Option<IpAddr>,
    pub route: Option<InUse>,
    /// Connections could not be opened, and none has been since.
    pub connect_failing: Option<Failing>,
    /// The newest sign of life of any of its connections, also of those gone since.
    pub alive_at: Option<Timestamp>,
    /// When data was last sent that was acknowledged, as far as it was told.
    pub delivered: Option<Timestamp>,
    /// How often it fails without an outage.
    pub lateness: Lateness,
    /// Its round-trip time is off its baseline since.
    pub rtt_spike_at: Option<Timestamp>,
}

impl Peer {
    /// The evidence that stands for the peer: its strongest failing connection's, unless another
    /// connection of it was alive since.
    pub fn failure(&self) -> Option<&Failing> {
        let worst = self
            .connections
            .values()
            .filter_map(|c| c.failing.as_ref())
            .chain(&self.connect_failing)
            .max_by(|a, b| a.weight.total_cmp(&b.weight).then(b.at.cmp(&a.at)))?;
        let revived = self.alive_at.is_some_and(|alive| alive > worst.at);
        (!revived).then_some(worst)
    }

    pub fn failing_connections(&self) -> usize {
        self.connections
            .values()
            .filter(|c| c.failing.as_ref().is_some_and(|f| f.weight >= FAILING))
            .count()
    }

    fn egress_at(&self, sent: Timestamp, default: &EgressName) -> EgressName {
        match &self.route {
            None => default.clone(),
            Some(route) => match &route.previous {
                Some(previous) if sent < route.changed_at => previous.clone(),
                _ => route.egress.clone(),
            },
        }
    }

    /// The egress that its packets take now.
    pub fn egress<'a>(&'a self, default: &'a EgressName) -> &'a EgressName {
        self.route.as_ref().map_or(default, |r| &r.egress)
    }
}

/// All peers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peers {
    pub map: BTreeMap<PeerKey, Peer>,
    /// The egress assumed where the kernel's route is not known.
    pub default: EgressName,
    /// Peers and connections not followed because there were too many.
    pub dropped: u64,
}

/// What a signal changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Who is watched.
    pub membership: bool,
    /// Evidence.
    pub evidence: bool,
}

const NOTHING: Change = Change {
    membership: false,
    evidence: false,
};
const MEMBERSHIP: Change = Change {
    membership: true,
    evidence: false,
};
const EVIDENCE: Change = Change {
    membership: false,
    evidence: true,
};

impl Peers {
    pub fn new(default: EgressName) -> Self {
        Self {
            map: BTreeMap::new(),
            default,
            dropped: 0,
        }
    }

    /// Takes in a signal; `vetoed`: this host was stalled when it was made.
    pub fn signal(&mut self, signal: &Signal, vetoed: bool) -> Change {
        let at = signal.at;
        match &signal.kind {
            SignalKind::PeerUp { source } => self.joined(at, signal.peer, *source, None),
            SignalKind::ConnectionUp { connection, source } => {
                self.joined(at, signal.peer, *source, Some(*connection))
            }
            SignalKind::PeerDown => {
                let Some(peer) = self.map.get_mut(&signal.peer) else {
                    return NOTHING;
                };
                peer.connections.clear();
                EVIDENCE
            }
            SignalKind::ConnectionDown { connection, .. } => {
                let Some(peer) = self.map.get_mut(&signal.peer) else {
                    return NOTHING;
                };
                peer.connections.remove(connection);
                EVIDENCE
            }
            SignalKind::AckOverdue {
                connection,
                since,
                limit,
            } => self.fails(signal, *connection, *since, *limit, weight::OVERDUE, vetoed),
            SignalKind::Retransmitted { connection, class } => {
                let weight = match class {
                    RetransmitClass::TailLossProbe => weight::TAIL_LOSS_PROBE,
                    RetransmitClass::Timeout { count } if *count >= 2 => weight::SECOND_TIMEOUT,
                    RetransmitClass::Timeout { .. } => weight::TIMEOUT,
                    RetransmitClass::Fast
                    | RetransmitClass::Syn
                    | RetransmitClass::SynAck
                    | RetransmitClass::Other => return NOTHING,
                };
                self.fails(signal, *connection, at, Duration::ZERO, weight, vetoed)
            }
            SignalKind::SocketError { connection, errno } => match *errno {
                ENETUNREACH | EHOSTUNREACH | ETIMEDOUT => self.fails(
                    signal,
                    *connection,
                    at,
                    Duration::ZERO,
                    weight::UNREACHABLE,
                    vetoed,
                ),
                _ => NOTHING,
            },
            SignalKind::Alive { connection, sign } => {
                let Some(peer) = self.map.get_mut(&signal.peer) else {
                    return NOTHING;
                };
                match sign {
                    AliveSign::ReceivedOnly => {
                        if let Some(c) = peer.connections.get_mut(connection) {
                            c.inbound_at = Some(at);
                        }
                    }
                    AliveSign::Acknowledged | AliveSign::Closed => {
                        peer.alive_at = Some(at);
                        peer.connect_failing = None;
                        if let Some(c) = peer.connections.get_mut(connection) {
                            if let Some(failing) = c.failing.take()
                                && !failing.outage
                                && !failing.vetoed
                            {
                                peer.lateness.observe(at, at.since(failing.at));
                            }
                            c.alive_at = Some(at);
                        }
                    }
                }
                EVIDENCE
            }
            SignalKind::ConnectFailed { cause } => self.connect_failed(signal, *cause, vetoed),
            SignalKind::RttSpike { .. } => {
                if let Some(peer) = self.map.get_mut(&signal.peer) {
                    peer.rtt_spike_at = Some(at);
                }
                NOTHING
            }
            SignalKind::RttNormal { .. } => {
                if let Some(peer) = self.map.get_mut(&signal.peer) {
                    peer.rtt_spike_at = None;
                }
                NOTHING
            }
            SignalKind::Transmitted { .. } => NOTHING,
        }
    }

    fn joined(
        &mut self,
        at: Timestamp,
        key: PeerKey,
        source: IpAddr,
        connection: Option<ConnectionId>,
    ) -> Change {
        if !self.map.contains_key(&key) && self.map.len() >= MAX_PEERS {
            self.dropped += 1;
            return NOTHING;
        }
        let peer = self.map.entry(key).or_insert_with(|| Peer {
            lateness: Lateness::new(at),
            ..Peer::default()
        });
        let new = peer.source != Some(source);
        peer.source = Some(source);
        if let Some(connection) = connection {
            peer.connect_failing = None;
            if peer.connections.len() < MAX_CONNECTIONS {
                peer.connections.entry(connection).or_default();
            } else {
                self.dropped += 1;
            }
        }
        if new { MEMBERSHIP } else { NOTHING }
    }

    fn fails(
        &mut self,
        signal: &Signal,
        connection: ConnectionId,
        since: Timestamp,
        limit: Duration,
        weight: f64,
        vetoed: bool,
    ) -> Change {
        let Some(peer) = self.map.get_mut(&signal.peer) else {
            return NOTHING;
        };
        let egress = peer.egress_at(since, &self.default);
        let Some(c) = peer.connections.get_mut(&connection) else {
            return NOTHING;
        };
        match &mut c.failing {
            Some(failing) if failing.weight >= FAILING || weight < FAILING => {
                failing.weight = failing.weight.max(weight);
                failing.renewed = signal.at;
            }
            failing => {
                *failing = Some(Failing {
                    at: signal.at,
                    since,
                    limit,
                    renewed: signal.at,
                    weight,
                    egress,
                    dismissed: false,
                    vetoed,
                    outage: false,
                });
            }
        }
        EVIDENCE
    }

    fn connect_failed(&mut self, signal: &Signal, cause: ConnectFailure, vetoed: bool) -> Change {
        let Some(peer) = self.map.get_mut(&signal.peer) else {
            return NOTHING;
        };
        match cause {
            // An answer came: the path is alive.
            ConnectFailure::Refused | ConnectFailure::Reset => {
                peer.alive_at = Some(signal.at);
                peer.connect_failing = None;
                EVIDENCE
            }
            // A time-out says little of when the path broke: it ends minutes after the first SYN.
            ConnectFailure::TimedOut | ConnectFailure::Cancelled | ConnectFailure::Other(_) => {
                NOTHING
            }
            ConnectFailure::Unreachable => {
                let egress = peer.egress(&self.default).clone();
                peer.connect_failing.get_or_insert(Failing {
                    at: signal.at,
                    since: signal.at,
                    limit: Duration::ZERO,
                    renewed: signal.at,
                    weight: weight::UNREACHABLE,
                    egress,
                    dismissed: false,
                    vetoed,
                    outage: false,
                });
                EVIDENCE
            }
        }
    }

    /// Takes in when each peer was last sent what it acknowledged; both are in the order of addresses.
    pub fn delivered(&mut self, mut told: impl Iterator<Item = (PeerKey, Timestamp)>) {
        let mut next = told.next();
        for (key, peer) in &mut self.map {
            while next.is_some_and(|(other, _)| other < *key) {
                next = told.next();
            }
            if let Some((other, at)) = next
                && other == *key
            {
                peer.delivered = peer.delivered.max(Some(at));
            }
        }
    }

    /// These peers' failures belong to an outage: they say nothing of what is usual.
    pub fn outage<'a>(&mut self, peers: impl Iterator<Item = &'a PeerKey>) {
        for key in peers {
            let Some(peer) = self.map.get_mut(key) else {
                continue;
            };
            for failing in peer
                .connections
                .values_mut()
                .filter_map(|c| c.failing.as_mut())
            {
                failing.outage = true;
            }
        }
    }

    /// Takes in the kernel's route to a peer.
    pub fn fib(&mut self, at: Timestamp, change: &FibChange) -> Change {
        let Some(peer) = self.map.get_mut(&change.peer) else {
            return NOTHING;
        };
        // Without a route the peer stays with the egress that it had: that is where it broke.
        let Some(route) = &change.route else {
            return EVIDENCE;
        };
        let egress = route
            .egress
            .clone()
            .unwrap_or_else(|| EgressName(route.interface.clone()));
        match &mut peer.route {
            Some(now) if now.egress == egress => now.prefix = route.prefix,
            now => {
                let previous = now.take().map(|r| r.egress);
                *now = Some(InUse {
                    egress,
                    prefix: route.prefix,
                    changed_at: at,
                    previous,
                });
            }
        }
        EVIDENCE
    }

    /// Failing connections that were seen only during a stall of this host start afresh at `at`.
    pub fn lift_veto(&mut self, at: Timestamp) {
        for failing in self.failings_mut() {
            if failing.vetoed {
                failing.vetoed = false;
                failing.at = at;
            }
        }
    }

    /// Connections that began to fail since `from` were seen by a stalled observer.
    pub fn veto_since(&mut self, from: Timestamp) {
        for failing in self.failings_mut() {
            if failing.at >= from {
                failing.vetoed = true;
            }
        }
    }

    /// These peers' failures raise no new suspicion.
    pub fn dismiss<'a>(&mut self, peers: impl Iterator<Item = &'a PeerKey>) {
        for key in peers {
            if let Some(peer) = self.map.get_mut(key) {
                for c in peer.connections.values_mut() {
                    if let Some(f) = &mut c.failing {
                        f.dismissed = true;
                    }
                }
                if let Some(f) = &mut peer.connect_failing {
                    f.dismissed = true;
                }
            }
        }
    }

    fn failings_mut(&mut self) -> impl Iterator<Item = &mut Failing> {
        self.map.values_mut().flat_map(|p| {
            p.connections
                .values_mut()
                .filter_map(|c| c.failing.as_mut())
                .chain(&mut p.connect_failing)
        })
    }

    /// Forgets peers without connections, except those for which `keep` holds.
    pub fn forget(&mut self, keep: impl Fn(&PeerKey) -> bool) -> bool {
        let before = self.map.len();
        self.map
            .retain(|key, peer| !peer.connections.is_empty() || keep(key));
        self.map.len() != before
    }
}

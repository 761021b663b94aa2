//! What the tasks of one neighbour share: which connections there are, and how it fares.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bgp_core::{Negotiated, SessionConfig, State, Stop};
use events::{Asn, EgressName, NeighborId, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::settings::NeighborSettings;

/// After a neighbour exceeded its prefixes it is refused for that long.
const IDLE_HOLD: Duration = Duration::from_mins(1);

/// How a neighbour fares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeighborStatus {
    /// Its address.
    pub address: IpAddr,
    /// Its AS, by configuration.
    pub asn: Asn,
    /// The egress that its routes stand for.
    pub egress: EgressName,
    /// The most advanced state of its connections; Active (or Connect) while there is none.
    pub state: State,
    /// Since when it is in that state.
    pub since: Timestamp,
    /// Time since the session was Established.
    pub uptime: Option<Duration>,
    /// Negotiated hold time, from OpenConfirm on.
    pub hold_time: Option<Duration>,
    /// IPv4 prefixes in its table.
    pub ipv4_prefixes: usize,
    /// IPv6 prefixes in its table.
    pub ipv6_prefixes: usize,
    /// The table is what was last known: the session is lost.
    pub stale: bool,
    /// End-of-RIB has come for every family of the session.
    pub complete: bool,
    /// UPDATEs received since the start.
    pub updates: u64,
    /// Attributes in error that the session outlived (RFC 7606), since the start.
    pub attribute_errors: u64,
    /// Why the last session or attempt ended.
    pub last_error: Option<String>,
}

pub(crate) struct Neighbor {
    pub id: NeighborId,
    pub settings: NeighborSettings,
    pub config: SessionConfig,
    /// Our address when we connect, where a definite one is listened on.
    pub source: Option<IpAddr>,
    pub updates: AtomicU64,
    pub attribute_errors: AtomicU64,
    slot: Mutex<Slot>,
}

struct Slot {
    connections: BTreeMap<u64, Connection>,
    last_error: Option<String>,
    refused_until: Option<Timestamp>,
    /// State and since when, while there is no connection.
    idle: (State, Timestamp),
}

struct Connection {
    outgoing: bool,
    state: State,
    since: Timestamp,
    negotiated: Option<Negotiated>,
    stopped: bool,
    stop: mpsc::Sender<Stop>,
}

impl Connection {
    fn stop(&mut self, why: Stop) {
        self.stopped = true;
        // Full: it is told to stop already.
        let _ = self.stop.try_send(why);
    }
}

/// Why a connection is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the session exceeded max_prefixes a moment ago")]
    TooManyPrefixes,
    #[error("a session with this neighbour is established")]
    Established,
}

impl Neighbor {
    pub fn new(
        settings: NeighborSettings,
        config: SessionConfig,
        source: Option<IpAddr>,
        now: Timestamp,
    ) -> Self {
        let state = if settings.passive {
            State::Active
        } else {
            State::Connect
        };
        Self {
            id: NeighborId::session(settings.address.to_canonical()),
            settings,
            config,
            source,
            updates: AtomicU64::new(0),
            attribute_errors: AtomicU64::new(0),
            slot: Mutex::new(Slot {
                connections: BTreeMap::new(),
                last_error: None,
                refused_until: None,
                idle: (state, now),
            }),
        }
    }

    /// Never held across an await. A panic elsewhere leaves the slot usable.
    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a new connection; the messages that tell it to stop come out of the receiver.
    pub fn admit(
        &self,
        connection: u64,
        outgoing: bool,
        now: Timestamp,
    ) -> Result<mpsc::Receiver<Stop>, Refusal> {
        let mut slot = self.slot();
        if slot.refused_until.is_some_and(|until| now < until) {
            return Err(Refusal::TooManyPrefixes);
        }
        for other in slot.connections.values_mut().filter(|other| !other.stopped) {
            let graceful = |negotiated: &Negotiated| negotiated.graceful_restart;
            if other.state == State::Established {
                // RFC 4724 section 4.2: it restarted. Without that capability RFC 4271 section
                // 6.8 keeps the old session until its hold timer ends it.
                if outgoing || !other.negotiated.as_ref().is_some_and(graceful) {
                    return Err(Refusal::Established);
                }
                other.stop(Stop::Replaced);
            } else if other.outgoing == outgoing {
                // The neighbour gave up on its earlier connection.
                other.stop(Stop::Collision);
            }
        }
        // One message is enough to stop a connection.
        let (stop, receiver) = mpsc::channel(1);
        slot.connections.insert(
            connection,
            Connection {
                outgoing,
                state: State::OpenSent,
                since: now,
                negotiated: None,
                stopped: false,
                stop,
            },
        );
        Ok(receiver)
    }

    /// The connection is in OpenConfirm: of two that collide one stays (RFC 4271 section 6.8).
    /// False: it is not this one.
    pub fn confirm(&self, connection: u64, negotiated: &Negotiated, now: Timestamp) -> bool {
        let ours_stays = ours_stays(self.config.router_id, negotiated.router_id);
        let mut slot = self.slot();
        let Some(this) = slot.connections.get_mut(&connection) else {
            return false;
        };
        if this.stopped {
            return false;
        }
        this.state = State::OpenConfirm;
        this.since = now;
        this.negotiated = Some(negotiated.clone());
        for (id, other) in &mut slot.connections {
            if *id == connection || other.stopped || other.state == State::OpenSent {
                continue;
            }
            if other.state == State::Established || other.outgoing == ours_stays {
                return false;
            }
            other.stop(Stop::Collision);
        }
        true
    }

    /// The connection wants to be Established. False: another one is, or it was told to stop.
    pub fn establish(&self, connection: u64, now: Timestamp) -> bool {
        let mut slot = self.slot();
        let taken = slot
            .connections
            .values()
            .any(|other| other.state == State::Established && !other.stopped);
        match slot.connections.get_mut(&connection) {
            Some(this) if !taken && !this.stopped => {
                this.state = State::Established;
                this.since = now;
                true
            }
            _ => false,
        }
    }

    /// The connection is gone.
    pub fn release(&self, connection: u64, error: String, now: Timestamp) {
        let mut slot = self.slot();
        slot.connections.remove(&connection);
        slot.idle.1 = now;
        slot.last_error = Some(error);
    }

    /// An attempt to connect failed.
    pub fn failed(&self, error: String) {
        self.slot().last_error = Some(error);
    }

    pub fn is_established(&self) -> bool {
        let established = |other: &Connection| other.state == State::Established && !other.stopped;
        self.slot().connections.values().any(established)
    }

    /// Stops a session for its number of prefixes; true the first time.
    pub fn exceeded(&self, connection: u64, why: Stop, now: Timestamp) -> bool {
        let mut slot = self.slot();
        let Some(this) = slot.connections.get_mut(&connection) else {
            return false;
        };
        if this.stopped {
            return false;
        }
        this.stop(why);
        slot.refused_until = Some(now + IDLE_HOLD);
        true
    }

    pub fn status(&self, table: bgp_core::TableStatus, now: Timestamp) -> NeighborStatus {
        let slot = self.slot();
        let best = slot.connections.values().max_by_key(|other| other.state);
        let (state, since) = best.map_or(slot.idle, |other| (other.state, other.since));
        let negotiated = best.and_then(|other| other.negotiated.as_ref());
        let complete = negotiated.is_some_and(|negotiated| {
            state == State::Established && table.complete == negotiated.context.families
        });
        NeighborStatus {
            address: self.id.address,
            asn: self.settings.asn,
            egress: self.settings.egress.clone(),
            state,
            since,
            uptime: (state == State::Established).then(|| now.since(since)),
            hold_time: negotiated.map(|negotiated| negotiated.hold_time),
            ipv4_prefixes: table.ipv4,
            ipv6_prefixes: table.ipv6,
            stale: table.stale,
            complete,
            updates: self.updates.load(Ordering::Relaxed),
            attribute_errors: self.attribute_errors.load(Ordering::Relaxed),
            last_error: slot.last_error.clone(),
        }
    }
}

/// The connection opened by the side with the greater identifier stays.
fn ours_stays(ours: Ipv4Addr, theirs: Ipv4Addr) -> bool {
    ours > theirs
}

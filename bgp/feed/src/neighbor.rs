//! What the tasks of one neighbour share: which connections there are, and how it fares.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bgp_core::{
    AttributeError, ErrorLevel, Event, Families, Family, Negotiated, NeighborConfig, Open,
    SessionConfig, State, Stop, TableStatus, cease, code, error_name,
};
use events::{Asn, NeighborId, SessionDownReason, Timestamp};
use tokio::sync::mpsc;
use tracing::warn;

use crate::protection::Password;
use crate::settings::PeerSettings;
use crate::status::{Counters, LastNotification, NeighborStatus};

pub(crate) struct Neighbor {
    pub id: NeighborId,
    pub settings: PeerSettings,
    /// Where it listens, if it is to be connected to.
    pub connect_to: Option<u16>,
    /// Of a link-local address.
    pub interface: Option<String>,
    pub dynamic: bool,
    pub config: SessionConfig,
    pub password: Option<Password>,
    /// Our address when we connect, where a definite one is listened on.
    pub source: Option<IpAddr>,
    slot: Mutex<Slot>,
}

struct Slot {
    connections: BTreeMap<u64, Connection>,
    /// Its last OPEN.
    peer_open: Option<Open>,
    /// Families that are near the limit.
    warned: Families,
    refused: Option<Refused>,
    /// Until when a graceful restart may take.
    restart_until: Option<Timestamp>,
    /// It does not know capabilities: the next OPEN has none (RFC 5492 section 3).
    plain_open: bool,
    counters: Counters,
    last_notification: Option<LastNotification>,
    last_error: Option<String>,
    /// State and since when, while there is no connection.
    idle: (State, Timestamp),
}

#[derive(Clone, Copy)]
struct Refused {
    /// `None`: for ever.
    until: Option<Timestamp>,
}

struct Connection {
    outgoing: bool,
    state: State,
    since: Timestamp,
    negotiated: Option<Negotiated>,
    stopped: bool,
    stop: mpsc::Sender<Stop>,
    refresh: mpsc::Sender<Family>,
}

/// What a connection is told to do.
pub(crate) struct Orders {
    pub stop: mpsc::Receiver<Stop>,
    /// Ask for a family's routes.
    pub refresh: mpsc::Receiver<Family>,
}

/// Why a neighbour cannot be asked for its routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRefresh {
    /// Nor does a station (BMP, RIS Live) have a way back.
    #[error("netwatch has no session of its own with that neighbour")]
    Unknown,
    /// There is nobody to ask.
    #[error("the session is not established")]
    NoSession,
    /// It did not say that it takes requests.
    #[error("the neighbour does not offer route refresh (RFC 2918)")]
    Incapable,
    /// Not negotiated.
    #[error("the session does not carry that address family")]
    Family,
    /// The feed has ended.
    #[error("the BGP feed has ended")]
    Ended,
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
    #[error("the neighbour exceeded max_prefixes")]
    TooManyPrefixes,
    #[error("a session with this neighbour is established")]
    Established,
}

impl Neighbor {
    pub fn new(
        address: IpAddr,
        settings: PeerSettings,
        config: SessionConfig,
        now: Timestamp,
    ) -> Self {
        Self {
            id: NeighborId::session(address.to_canonical()),
            settings,
            connect_to: None,
            interface: None,
            dynamic: false,
            config,
            password: None,
            source: None,
            slot: Mutex::new(Slot {
                connections: BTreeMap::new(),
                peer_open: None,
                warned: Families::NONE,
                refused: None,
                restart_until: None,
                plain_open: false,
                counters: Counters::default(),
                last_notification: None,
                last_error: None,
                idle: (State::Active, now),
            }),
        }
    }

    /// For the RIB.
    pub fn rib_config(&self) -> NeighborConfig {
        NeighborConfig {
            id: self.id,
            egress: self.settings.egress.clone(),
            max_prefixes: self.settings.max_prefixes,
        }
    }

    /// What the next session is to be.
    pub fn session_config(&self) -> SessionConfig {
        SessionConfig {
            plain_open: self.slot().plain_open,
            ..self.config.clone()
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
    ) -> Result<Orders, Refusal> {
        let mut slot = self.slot();
        if slot.is_refused(now) {
            return Err(Refusal::TooManyPrefixes);
        }
        let restart = slot
            .peer_open
            .as_ref()
            .and_then(|open| open.graceful_restart);
        let restarts = restart.is_some_and(|restart| restart.families != Families::NONE);
        for other in slot.connections.values_mut().filter(|other| !other.stopped) {
            let graceful = |negotiated: &Negotiated| negotiated.graceful_restart;
            if other.state == State::Established {
                // RFC 4724 section 5: it restarted. Without that capability, and where it names no
                // family, RFC 4271 section 6.8 keeps the old session until its hold timer ends it.
                if outgoing || !restarts || !other.negotiated.as_ref().is_some_and(graceful) {
                    return Err(Refusal::Established);
                }
                other.stop(Stop::Replaced);
            } else if other.outgoing == outgoing {
                // The neighbour gave up on its earlier connection.
                other.stop(Stop::Collision);
            }
        }
        // One message is enough to stop a connection.
        let (stop, stopped) = mpsc::channel(1);
        // And one for each family: it is being asked already.
        let (refresh, refreshed) = mpsc::channel(Family::ALL.len());
        slot.connections.insert(
            connection,
            Connection {
                outgoing,
                state: State::OpenSent,
                since: now,
                negotiated: None,
                stopped: false,
                stop,
                refresh,
            },
        );
        Ok(Orders {
            stop: stopped,
            refresh: refreshed,
        })
    }

    /// Asks for the routes of these families, as far as the session carries them: which it does.
    pub fn refresh(&self, families: Families) -> Result<Families, NoRefresh> {
        let slot = self.slot();
        let up = |other: &&Connection| other.state == State::Established && !other.stopped;
        let connection = slot.connections.values().find(up);
        let connection = connection.ok_or(NoRefresh::NoSession)?;
        if !slot
            .peer_open
            .as_ref()
            .is_some_and(|open| open.route_refresh)
        {
            return Err(NoRefresh::Incapable);
        }
        let spoken = connection.negotiated.as_ref();
        let spoken = spoken.map_or(Families::NONE, |n| n.context.families);
        let asked = families.intersection(spoken);
        if asked == Families::NONE {
            return Err(NoRefresh::Family);
        }
        for family in Family::ALL.into_iter().filter(|f| asked.contains(*f)) {
            // Full: it is being asked already.
            let _ = connection.refresh.try_send(family);
        }
        Ok(asked)
    }

    /// The connection is in OpenConfirm: of two that collide one stays (RFC 4271 section 6.8).
    /// False: it is not this one.
    pub fn confirm(
        &self,
        connection: u64,
        negotiated: &Negotiated,
        peer_open: &Open,
        now: Timestamp,
    ) -> bool {
        let ours_stays = ours_stays(
            (self.config.router_id, self.config.local_as),
            (negotiated.router_id, negotiated.asn),
        );
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
        slot.peer_open = Some(peer_open.clone());
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
                slot.counters.sessions += 1;
                slot.restart_until = None;
                slot.refused = None;
                true
            }
            _ => false,
        }
    }

    /// The connection is gone.
    pub fn release(&self, connection: u64, reason: &SessionDownReason, now: Timestamp) {
        let mut slot = self.slot();
        let gone = slot.connections.remove(&connection);
        slot.idle.1 = now;
        slot.last_error = Some(describe(reason));
        let notification = |sent, code, subcode, text: Option<String>| LastNotification {
            sent,
            code,
            subcode,
            text,
            at: now,
        };
        let said = match reason {
            SessionDownReason::NotificationReceived {
                code,
                subcode,
                text,
            } => Some(notification(false, *code, *subcode, text.clone())),
            SessionDownReason::NotificationSent {
                code,
                subcode,
                text,
            } => Some(notification(true, *code, *subcode, Some(text.clone()))),
            SessionDownReason::HoldTimerExpired => {
                Some(notification(true, code::HOLD_TIMER, 0, None))
            }
            SessionDownReason::Administrative => {
                Some(notification(true, code::CEASE, cease::SHUTDOWN, None))
            }
            SessionDownReason::ConnectionLost { .. } => None,
        };
        // Unsupported Optional Parameter: it knows no capabilities, so the next attempt does
        // without, and the one after with them again (RFC 5492 section 3).
        let refused_parameters = said
            .as_ref()
            .is_some_and(|said| !said.sent && (said.code, said.subcode) == (code::OPEN, 4));
        slot.plain_open = refused_parameters && !slot.plain_open;
        let lost = matches!(reason, SessionDownReason::ConnectionLost { .. });
        if lost && gone.is_some_and(|gone| gone.state == State::Established) {
            let restart = slot
                .peer_open
                .as_ref()
                .and_then(|open| open.graceful_restart);
            slot.restart_until = restart
                .filter(|restart| restart.families != Families::NONE)
                .map(|restart| now + std::time::Duration::from_secs(restart.time.into()));
        }
        if said.is_some() {
            slot.last_notification = said;
        }
    }

    /// An attempt to connect failed.
    pub fn failed(&self, error: String) {
        self.slot().last_error = Some(error);
    }

    /// No attempt is to be made: there is a session, or none is wanted.
    pub fn rests(&self, now: Timestamp) -> bool {
        let slot = self.slot();
        let established = |other: &Connection| other.state == State::Established && !other.stopped;
        slot.is_refused(now) || slot.connections.values().any(established)
    }

    /// Since when a neighbour without connection is without one; `None`: it has one. One that
    /// never had a session counts as the oldest.
    pub fn idle_since(&self) -> Option<Timestamp> {
        let slot = self.slot();
        let never = slot.counters.sessions == 0;
        let since = if never {
            Timestamp::from_millis(0)
        } else {
            slot.idle.1
        };
        slot.connections.is_empty().then_some(since)
    }

    pub fn count(&self, what: impl FnOnce(&mut Counters)) {
        what(&mut self.slot().counters);
    }

    /// How many errors of that level there were, this one among them.
    pub fn count_error(&self, error: &AttributeError) -> u64 {
        let counters = &mut self.slot().counters;
        let counter = match error.level {
            ErrorLevel::Discard => &mut counters.attributes_discarded,
            ErrorLevel::TreatAsWithdraw => &mut counters.treated_as_withdraw,
            ErrorLevel::Reset => &mut counters.session_resets,
        };
        *counter += 1;
        *counter
    }

    /// Warns once when a table comes near its limit.
    pub fn watch_prefixes(&self, table: TableStatus) {
        let limit = self.settings.max_prefixes as usize;
        let share = usize::from(self.settings.max_prefixes_warn);
        let mut slot = self.slot();
        let (ipv4, ipv6) = table.limited;
        for (family, prefixes) in [(Family::Ipv4, ipv4), (Family::Ipv6, ipv6)] {
            let near = prefixes.saturating_mul(100) >= limit.saturating_mul(share);
            if near && !slot.warned.contains(family) {
                slot.warned.insert(family);
                warn!(neighbor = %self.id.address, ?family, prefixes, limit,
                    "BGP neighbour is near max_prefixes: at the limit the session is stopped");
            } else if !near && slot.warned.contains(family) {
                slot.warned.remove(family);
            }
        }
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
        let restart = self.settings.max_prefixes_restart;
        slot.refused = Some(Refused {
            until: restart.map(|time| now + time),
        });
        true
    }

    pub fn status(&self, table: TableStatus, now: Timestamp) -> NeighborStatus {
        let slot = self.slot();
        let best = slot.connections.values().max_by_key(|other| other.state);
        let resting = match slot.is_refused(now) {
            true => State::Idle,
            false if self.connect_to.is_some() => State::Connect,
            false => slot.idle.0,
        };
        let (state, since) =
            best.map_or((resting, slot.idle.1), |other| (other.state, other.since));
        let negotiated = best.and_then(|other| other.negotiated.as_ref());
        let complete = negotiated.is_some_and(|negotiated| {
            state == State::Established && table.complete == negotiated.context.families
        });
        let said = slot.peer_open.as_ref();
        let configured = self.config.peer_as.first().copied().unwrap_or(Asn(0));
        let refused = slot.refused.filter(|_| slot.is_refused(now));
        NeighborStatus {
            address: self.id.address,
            asn: said.map_or(configured, |open| open.asn),
            egress: self.settings.egress.clone(),
            dynamic: self.dynamic,
            passive: self.connect_to.is_none(),
            state,
            since,
            uptime: (state == State::Established).then(|| now.since(since)),
            hold_time: negotiated.map(|negotiated| negotiated.hold_time),
            local_capabilities: self.config.open().capabilities(),
            peer_capabilities: said.map(Open::capabilities).unwrap_or_default(),
            ipv4_prefixes: table.ipv4,
            ipv6_prefixes: table.ipv6,
            max_prefixes: self.settings.max_prefixes,
            prefixes_warned: slot.warned != Families::NONE,
            refused: refused.map(|refused| refused.until.map(|until| until.since(now))),
            stale: table.stale,
            partial: table.partial,
            restarting: slot
                .restart_until
                .filter(|until| *until > now)
                .map(|until| until.since(now)),
            complete,
            md5: self.password.is_some(),
            ttl_security: self.settings.ttl_security,
            counters: slot.counters,
            last_notification: slot.last_notification.clone(),
            last_error: slot.last_error.clone(),
        }
    }
}

impl Slot {
    fn is_refused(&self, now: Timestamp) -> bool {
        let lasts = |refused: Refused| refused.until.is_none_or(|until| now < until);
        self.refused.is_some_and(lasts)
    }
}

/// The connection opened by the side with the greater identifier stays; where both have the same,
/// by that with the greater AS (RFC 6286 section 2.3).
fn ours_stays(ours: (Ipv4Addr, Asn), theirs: (Ipv4Addr, Asn)) -> bool {
    ours > theirs
}

/// Whether an event is an UPDATE that ends the session (RFC 7606 section 2).
pub(crate) const fn resets(event: &Event) -> bool {
    matches!(event, Event::UpdateError(_))
}

pub(crate) fn describe(reason: &SessionDownReason) -> String {
    match reason {
        SessionDownReason::HoldTimerExpired => "hold timer expired".to_owned(),
        SessionDownReason::NotificationReceived {
            code,
            subcode,
            text,
        } => {
            let name = error_name(*code, *subcode);
            let said = text.as_ref().map(|text| format!(", saying: {text}"));
            let said = said.unwrap_or_default();
            format!("the neighbour sent NOTIFICATION {code}/{subcode} ({name}){said}")
        }
        SessionDownReason::NotificationSent {
            code,
            subcode,
            text,
        } => format!("{text} (NOTIFICATION {code}/{subcode} sent)"),
        SessionDownReason::ConnectionLost { text } => format!("connection lost: {text}"),
        SessionDownReason::Administrative => "administrative shutdown".to_owned(),
    }
}

//! A session (RFC 4271 section 8): one per TCP connection, or per attempt at one.
//!
//! It never announces a route: it sends OPEN, KEEPALIVE, NOTIFICATION, End-of-RIB, and the two marks
//! between which a refresh of an empty table happens.

use std::net::Ipv4Addr;
use std::time::Duration;

use events::{Asn, SessionDownReason, Timestamp};
use serde::{Deserialize, Serialize};

use crate::fault::{Fault, cease, code};
use crate::frame::{Frame, MessageType};
use crate::nlri::{Families, Family};
use crate::notification::Notification;
use crate::open::{self, Open};
use crate::refresh::{RefreshKind, RouteRefresh};
use crate::role::Role;
use crate::session_timers::Timers;
pub use crate::session_timers::{Jitter, RunningTimers};
use crate::update::{self, Context, Update};

/// What a session is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionConfig {
    /// Our AS.
    pub local_as: Asn,
    /// Our BGP identifier.
    pub router_id: Ipv4Addr,
    /// The ASes of which the neighbour must be one.
    pub peer_as: Vec<Asn>,
    /// Our offer; zero or at least 3 s.
    pub hold_time: Duration,
    /// ConnectRetryTime: between attempts to connect.
    pub connect_retry: Duration,
    /// SendHoldTime (RFC 9687); `None`: the greater of 8 min and twice the hold time.
    pub send_hold: Option<Duration>,
    /// Families for which several paths are taken (RFC 7911).
    pub add_path: Families,
    /// What we are to an external neighbour (RFC 9234).
    pub role: Option<Role>,
    /// An external neighbour must say its role.
    pub role_strict: bool,
    /// No capability in our OPEN: the neighbour does not know them (RFC 5492 section 3).
    pub plain_open: bool,
}

impl SessionConfig {
    /// The OPEN that we send. Graceful restart is there for the neighbour alone: no family's
    /// forwarding goes on while we restart (RFC 4724 section 3).
    #[must_use]
    pub fn open(&self) -> Open {
        let seconds = u16::try_from(self.hold_time.as_secs()).unwrap_or(u16::MAX);
        let plain = Open::new(self.local_as, seconds, self.router_id);
        if self.plain_open {
            return plain;
        }
        // RFC 9234 section 4: roles are for external sessions.
        let external = self.peer_as.iter().any(|asn| *asn != self.local_as);
        Open {
            four_octet_as: true,
            families: Families::BOTH,
            route_refresh: true,
            enhanced_route_refresh: true,
            extended_message: true,
            extended_next_hop: true,
            add_path_receive: self.add_path,
            graceful_restart: Some(open::GracefulRestart::default()),
            role: self.role.filter(|_| external).map(Role::to_wire),
            ..plain
        }
    }
}

/// States of RFC 4271 section 8.2.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum State {
    Idle,
    Connect,
    Active,
    OpenSent,
    OpenConfirm,
    Established,
}

/// What both sides agreed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Negotiated {
    /// The neighbour's AS.
    pub asn: Asn,
    /// The neighbour's BGP identifier.
    pub router_id: Ipv4Addr,
    /// The smaller hold time of both; zero: no timers.
    pub hold_time: Duration,
    /// The neighbour does graceful restart (RFC 4724).
    pub graceful_restart: bool,
    /// How UPDATEs are to be read.
    pub context: Context,
}

/// Why the daemon ends a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "why")]
pub enum Stop {
    /// The operator or the daemon's end: Cease/2.
    Shutdown,
    /// Another connection to the same neighbour stays: Cease/7 (RFC 4271 section 6.8).
    Collision,
    /// The neighbour sent more prefixes than it may: Cease/1.
    MaxPrefixes {
        /// Of which family.
        family: Family,
        /// How many it may.
        limit: u32,
    },
    /// The neighbour restarted and has a new connection (RFC 4724 section 4.2); nobody listens on
    /// the old one.
    Replaced,
}

impl From<Stop> for Event {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Shutdown => Self::ManualStop,
            Stop::Collision => Self::OpenCollisionDump,
            Stop::MaxPrefixes { family, limit } => {
                let mut data = family.afi().to_be_bytes().to_vec();
                data.push(open::UNICAST);
                data.extend_from_slice(&limit.to_be_bytes());
                let text = format!("more than {limit} {family:?} prefixes (max_prefixes)");
                let fault = Fault::new(code::CEASE, cease::MAX_PREFIXES, text);
                Self::AutomaticStop(fault.with_data(&data))
            }
            Stop::Replaced => Self::TcpConnectionFails {
                text: "the neighbour restarted and connected again".to_owned(),
            },
        }
    }
}

/// What happens to a session. Numbers are those of RFC 4271 section 8.1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Event {
    /// Events 1 and 3, ManualStart and AutomaticStart: connect.
    Start,
    /// Events 4 and 5, the same with PassiveTcpEstablishment: wait to be connected to.
    StartPassive,
    /// Event 2.
    ManualStop,
    /// Event 8, with the Cease that says why.
    AutomaticStop(Fault),
    /// Event 9.
    ConnectRetryTimerExpires,
    /// Event 10.
    HoldTimerExpires,
    /// Event 11.
    KeepaliveTimerExpires,
    /// Events 16 and 17, Tcp_CR_Acked and TcpConnectionConfirmed.
    TcpConnected,
    /// Event 18: an attempt failed, or the connection ended.
    TcpConnectionFails {
        /// How.
        text: String,
    },
    /// Event 19, BGPOpen: a valid OPEN.
    Open(Box<Open>),
    /// Event 21, BGPHeaderErr.
    HeaderError(Fault),
    /// Event 22, BGPOpenMsgErr.
    OpenError(Fault),
    /// Event 23.
    OpenCollisionDump,
    /// Event 24, NotifMsgVerErr: a NOTIFICATION with a version error.
    VersionNotification(Notification),
    /// Event 25, NotifMsg: any other NOTIFICATION.
    Notification(Notification),
    /// Event 26, KeepAliveMsg.
    Keepalive,
    /// Event 27, UpdateMsg.
    Update(Update),
    /// Event 28, UpdateMsgErr.
    UpdateError(Fault),
    /// Event 29 (RFC 9687 section 4.2).
    SendHoldTimerExpires,
    /// A ROUTE-REFRESH (RFC 2918, RFC 7313).
    RouteRefresh(RouteRefresh),
    /// A ROUTE-REFRESH with an error (RFC 7313 section 5).
    RouteRefreshError(Fault),
}

/// What is to be done, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Action {
    /// Open a TCP connection; drop an attempt that is still under way.
    Connect,
    /// Send a whole message.
    Send {
        /// Its bytes.
        message: Vec<u8>,
    },
    /// The session is Established.
    Up(Negotiated),
    /// Apply to the RIB.
    Update(Update),
    /// The neighbour begins or ends to send a family's routes again (RFC 7313).
    Refresh {
        /// Which family.
        family: Family,
        /// It has ended: what was not sent again is gone.
        ended: bool,
    },
    /// Drop the TCP connection, or the attempt at one.
    Close {
        /// Why.
        reason: SessionDownReason,
    },
}

/// One session. A pure value: time and randomness are arguments, everything else comes in as an
/// [`Event`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    pub(crate) config: SessionConfig,
    pub(crate) state: State,
    pub(crate) timers: Timers,
    pub(crate) connect_retry_counter: u32,
    pub(crate) peer_open: Option<Box<Open>>,
    pub(crate) negotiated: Option<Negotiated>,
}

impl Session {
    /// A session in Idle.
    #[must_use]
    pub const fn new(config: SessionConfig) -> Self {
        Self {
            config,
            state: State::Idle,
            timers: Timers::NONE,
            connect_retry_counter: 0,
            peer_open: None,
            negotiated: None,
        }
    }

    /// Where it is.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// What it is to be.
    #[must_use]
    pub const fn config(&self) -> &SessionConfig {
        &self.config
    }

    /// From now on OPEN carries no capability, or all of them again.
    pub const fn set_plain_open(&mut self, plain: bool) {
        self.config.plain_open = plain;
    }

    /// What was agreed, from OpenConfirm on.
    #[must_use]
    pub const fn negotiated(&self) -> Option<&Negotiated> {
        self.negotiated.as_ref()
    }

    /// The neighbour's OPEN, from OpenConfirm on.
    #[must_use]
    pub fn peer_open(&self) -> Option<&Open> {
        self.peer_open.as_deref()
    }

    /// ConnectRetryCounter: attempts since the last stop by the operator that came to nothing.
    #[must_use]
    pub const fn connect_retry_counter(&self) -> u32 {
        self.connect_retry_counter
    }

    /// Whether messages up to 65535 octets may come, from OpenConfirm on. Our capability alone says
    /// so: the neighbour's is about what we may send (RFC 8654 section 4).
    #[must_use]
    pub fn takes_extended_messages(&self) -> bool {
        self.peer_open.is_some() && self.config.open().extended_message
    }

    /// Whether BoRR and EoRR were negotiated (RFC 7313).
    pub(crate) fn refresh_is_enhanced(&self) -> bool {
        let peer = self.peer_open.as_deref();
        peer.is_some_and(|peer| peer.enhanced_route_refresh) && !self.config.plain_open
    }

    /// A request for a family's routes (RFC 2918). `None`: the session is not Established, or the
    /// neighbour does not take it.
    #[must_use]
    pub fn refresh_request(&self, family: Family) -> Option<Vec<u8>> {
        let peer = self.peer_open.as_deref()?;
        let able = self.state == State::Established
            && peer.route_refresh
            && peer.families.contains(family)
            && !self.config.plain_open;
        able.then(|| RouteRefresh::encode(family, RefreshKind::Request))
    }

    /// The event that a received message is.
    #[must_use]
    pub fn event_of(&self, frame: &Frame) -> Event {
        match frame.kind {
            MessageType::Open => open::decode(&frame.body)
                .map_or_else(Event::OpenError, |open| Event::Open(Box::new(open))),
            MessageType::Update => match (&self.negotiated, self.state) {
                (Some(negotiated), State::Established) => {
                    update::decode(&frame.body, &negotiated.context)
                        .map_or_else(Event::UpdateError, Event::Update)
                }
                // Not to be read at all; the state machine refuses it.
                _ => Event::Update(Update::default()),
            },
            MessageType::Keepalive => Event::Keepalive,
            MessageType::RouteRefresh => {
                match RouteRefresh::decode(&frame.body, self.refresh_is_enhanced()) {
                    Ok(refresh) => Event::RouteRefresh(refresh),
                    Err(fault) if fault.code == code::HEADER => Event::HeaderError(fault),
                    Err(fault) => Event::RouteRefreshError(fault),
                }
            }
            MessageType::Notification => match Notification::decode(&frame.body) {
                Ok(said) if (said.code, said.subcode) == (code::OPEN, 1) => {
                    Event::VersionNotification(said)
                }
                Ok(said) => Event::Notification(said),
                Err(fault) => Event::HeaderError(fault),
            },
        }
    }

    /// When the next timer expires.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        self.timers.next().map(|(_, at)| at)
    }

    /// The expiry of a timer whose time has come: to be given to [`Session::step`], until there is
    /// none.
    #[must_use]
    pub fn expired(&self, now: Timestamp) -> Option<Event> {
        let (event, at) = self.timers.next()?;
        (at <= now).then(|| event.clone())
    }

    /// The timers that run.
    #[must_use]
    pub const fn timers(&self) -> RunningTimers {
        self.timers.running()
    }

    /// Sets the hold timer back without a message: for bytes that wait unread because the reader
    /// itself is held up.
    pub fn refresh_hold(&mut self, now: Timestamp) {
        self.timers.restart_hold(now);
    }

    /// What was given to TCP has reached the neighbour: the send hold timer starts again
    /// (RFC 9687 section 4.3).
    pub fn sent(&mut self, now: Timestamp) {
        self.timers.restart_send_hold(now);
    }
}

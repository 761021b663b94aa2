//! The session's state machine (RFC 4271 section 8): one per TCP connection, or per attempt at one.
//!
//! It never announces a route: the only messages it sends are OPEN, KEEPALIVE and NOTIFICATION.

use std::net::Ipv4Addr;
use std::time::Duration;

use events::{Asn, SessionDownReason, Timestamp};
use serde::{Deserialize, Serialize};

use crate::fault::{Fault, cease, code};
use crate::frame::{self, Frame, MessageType};
use crate::nlri::{Families, Family};
use crate::open::{self, Open};
use crate::refresh::RouteRefresh;
use crate::update::{self, Context, Update};

/// Hold time until the neighbour's OPEN is there (RFC 4271 section 8.2.2 suggests 4 minutes).
const OPEN_HOLD: Duration = Duration::from_mins(4);

/// What a session is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionConfig {
    /// Our AS.
    pub local_as: Asn,
    /// Our BGP identifier.
    pub router_id: Ipv4Addr,
    /// The AS that the neighbour must be.
    pub peer_as: Asn,
    /// Our offer; zero or at least 3 s.
    pub hold_time: Duration,
    /// Wait for the neighbour to connect.
    pub passive: bool,
    /// Time between attempts to connect.
    pub connect_retry: Duration,
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

/// What happens to a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Event {
    /// Begin.
    Start,
    /// The TCP connection is established, whoever opened it.
    Connected,
    /// The attempt to connect failed.
    ConnectFailed,
    /// The TCP connection ended without NOTIFICATION.
    ConnectionLost {
        /// How.
        text: String,
    },
    /// OPEN.
    Open(Open),
    /// UPDATE.
    Update(Update),
    /// KEEPALIVE.
    Keepalive,
    /// ROUTE-REFRESH; without routes of our own there is nothing to send again.
    RouteRefresh,
    /// NOTIFICATION.
    Notification {
        /// Error code.
        code: u8,
        /// Error subcode.
        subcode: u8,
    },
    /// A message that cannot be accepted.
    Malformed(Fault),
    /// A deadline of [`Session::deadline`] has passed.
    Timer,
    /// The daemon wants it to end.
    Stop(Stop),
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
    /// Close the connection; the session is Idle.
    Close {
        /// Why.
        reason: SessionDownReason,
    },
}

/// One session. A pure value: time is an argument, everything else comes in as an [`Event`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    config: SessionConfig,
    state: State,
    negotiated: Option<Negotiated>,
    connect_retry: Option<Timestamp>,
    hold: Option<Timestamp>,
    keepalive: Option<Timestamp>,
}

impl Session {
    /// A session in Idle.
    #[must_use]
    pub const fn new(config: SessionConfig) -> Self {
        Self {
            config,
            state: State::Idle,
            negotiated: None,
            connect_retry: None,
            hold: None,
            keepalive: None,
        }
    }

    /// Where it is.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// What was agreed, from OpenConfirm on.
    #[must_use]
    pub const fn negotiated(&self) -> Option<&Negotiated> {
        self.negotiated.as_ref()
    }

    /// When [`Event::Timer`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        [self.connect_retry, self.hold, self.keepalive]
            .into_iter()
            .flatten()
            .min()
    }

    /// Sets the hold timer back without a message: for bytes that wait unread because the reader
    /// itself is held up.
    pub fn refresh_hold(&mut self, now: Timestamp) {
        if self.hold.is_some() {
            self.hold = match &self.negotiated {
                Some(negotiated) => after(now, negotiated.hold_time),
                None => after(now, OPEN_HOLD),
            };
        }
    }

    /// The event that a received message is.
    #[must_use]
    pub fn event_of(&self, frame: &Frame) -> Event {
        let result = match frame.kind {
            MessageType::Open => open::decode(&frame.body).map(Event::Open),
            MessageType::Update => match (&self.negotiated, self.state) {
                (Some(negotiated), State::Established) => {
                    update::decode(&frame.body, &negotiated.context).map(Event::Update)
                }
                // Not to be read at all; the state machine refuses it.
                _ => Ok(Event::Update(Update::default())),
            },
            MessageType::Keepalive => Ok(Event::Keepalive),
            MessageType::RouteRefresh => {
                RouteRefresh::decode(&frame.body, false).map(|_| Event::RouteRefresh)
            }
            MessageType::Notification => {
                let mut codes = frame.body.iter().copied();
                Ok(Event::Notification {
                    code: codes.next().unwrap_or(0),
                    subcode: codes.next().unwrap_or(0),
                })
            }
        };
        result.unwrap_or_else(Event::Malformed)
    }

    /// Takes an event; what follows from it.
    pub fn step(&mut self, event: Event, now: Timestamp) -> Vec<Action> {
        use State::{Active, Connect, Established, Idle, OpenConfirm, OpenSent};
        match (self.state, event) {
            (Idle, Event::Start) if self.config.passive => {
                self.state = Active;
                Vec::new()
            }
            (Idle, Event::Start) => self.connect(now),
            (Idle, _) => Vec::new(),

            (Connect | Active, Event::Connected) => self.send_open(now),
            (Connect, Event::ConnectFailed) => {
                self.state = Active;
                Vec::new()
            }
            (Connect | Active, Event::Timer) if is_due(self.connect_retry, now) => {
                self.connect(now)
            }
            (Connect | Active, Event::Stop(_)) => self.close(SessionDownReason::Administrative),
            (
                Connect | Active,
                Event::Start
                | Event::ConnectFailed
                | Event::ConnectionLost { .. }
                | Event::Open(_)
                | Event::Update(_)
                | Event::Keepalive
                | Event::RouteRefresh
                | Event::Notification { .. }
                | Event::Malformed(_)
                | Event::Timer,
            ) => Vec::new(),

            (OpenSent, Event::Open(open)) => self.confirm(&open, now),
            (OpenConfirm, Event::Keepalive) => self.establish(now),
            (Established, Event::Keepalive | Event::RouteRefresh) => {
                self.refresh_hold(now);
                Vec::new()
            }
            (Established, Event::Update(update)) => {
                self.refresh_hold(now);
                vec![Action::Update(update)]
            }

            (OpenSent, Event::Keepalive) => self.unexpected("KEEPALIVE"),
            (OpenSent | OpenConfirm, Event::Update(_)) => self.unexpected("UPDATE"),
            (OpenSent | OpenConfirm, Event::RouteRefresh) => self.unexpected("ROUTE-REFRESH"),
            (OpenConfirm | Established, Event::Open(_)) => self.unexpected("OPEN"),

            (OpenSent | OpenConfirm | Established, Event::Malformed(fault)) => self.refuse(fault),
            (OpenSent | OpenConfirm | Established, Event::Notification { code, subcode }) => {
                self.close(SessionDownReason::NotificationReceived { code, subcode })
            }
            (OpenSent | OpenConfirm | Established, Event::ConnectionLost { text }) => {
                self.close(SessionDownReason::ConnectionLost { text })
            }
            (OpenSent | OpenConfirm | Established, Event::Timer) => self.timer(now),
            (OpenSent | OpenConfirm | Established, Event::Stop(stop)) => self.stop(&stop),
            (
                OpenSent | OpenConfirm | Established,
                Event::Start | Event::Connected | Event::ConnectFailed,
            ) => Vec::new(),
        }
    }

    fn connect(&mut self, now: Timestamp) -> Vec<Action> {
        self.state = State::Connect;
        self.connect_retry = after(now, self.config.connect_retry);
        vec![Action::Connect]
    }

    fn send_open(&mut self, now: Timestamp) -> Vec<Action> {
        self.state = State::OpenSent;
        self.connect_retry = None;
        self.hold = after(now, OPEN_HOLD);
        let config = &self.config;
        vec![Action::Send {
            message: open::encode(config.local_as, config.hold_time, config.router_id),
        }]
    }

    fn confirm(&mut self, open: &Open, now: Timestamp) -> Vec<Action> {
        let config = &self.config;
        let internal = config.local_as == config.peer_as;
        if open.asn != config.peer_as {
            let text = format!(
                "the neighbour says that it is {}, the configuration says {}",
                open.asn, config.peer_as
            );
            return self.refuse(Fault::new(code::OPEN, 2, text));
        }
        if internal && open.router_id == config.router_id {
            let text = format!(
                "the neighbour's BGP identifier {} is our own",
                open.router_id
            );
            return self.refuse(Fault::new(code::OPEN, 3, text));
        }
        let hold_time = config
            .hold_time
            .min(Duration::from_secs(open.hold_time.into()));
        self.negotiated = Some(Negotiated {
            asn: open.asn,
            router_id: open.router_id,
            hold_time,
            graceful_restart: open.graceful_restart.is_some(),
            context: Context {
                four_octet_as: open.four_octet_as,
                internal,
                families: open.families.intersection(Families::BOTH),
                // Our OPEN says that we take them.
                extended_next_hop: true,
                ..Context::default()
            },
        });
        self.state = State::OpenConfirm;
        self.hold = after(now, hold_time);
        self.keepalive = after(now, hold_time / 3);
        vec![keepalive()]
    }

    fn establish(&mut self, now: Timestamp) -> Vec<Action> {
        self.state = State::Established;
        self.refresh_hold(now);
        self.negotiated
            .clone()
            .map(Action::Up)
            .into_iter()
            .collect()
    }

    fn timer(&mut self, now: Timestamp) -> Vec<Action> {
        if is_due(self.hold, now) {
            let fault = Fault::new(code::HOLD_TIMER, 0, "the hold timer expired");
            let message = frame::encode_notification(&fault);
            let mut actions = vec![Action::Send { message }];
            actions.extend(self.close(SessionDownReason::HoldTimerExpired));
            return actions;
        }
        match &self.negotiated {
            Some(negotiated) if is_due(self.keepalive, now) => {
                self.keepalive = after(now, negotiated.hold_time / 3);
                vec![keepalive()]
            }
            _ => Vec::new(),
        }
    }

    fn stop(&mut self, stop: &Stop) -> Vec<Action> {
        let fault = |subcode, text: &str| Fault::new(code::CEASE, subcode, text);
        match stop {
            Stop::Shutdown => {
                let message = frame::encode_notification(&fault(cease::SHUTDOWN, ""));
                let mut actions = vec![Action::Send { message }];
                actions.extend(self.close(SessionDownReason::Administrative));
                actions
            }
            Stop::Collision => self.refuse(fault(
                cease::COLLISION,
                "another connection to the neighbour stays",
            )),
            Stop::MaxPrefixes { family, limit } => {
                let [high, low] = family.afi().to_be_bytes();
                let mut data = vec![high, low, 1];
                data.extend_from_slice(&limit.to_be_bytes());
                let text = format!("more than {limit} {family:?} prefixes (max_prefixes)");
                self.refuse(fault(cease::MAX_PREFIXES, &text).with_data(&data))
            }
            Stop::Replaced => self.close(SessionDownReason::ConnectionLost {
                text: "the neighbour restarted and connected again".to_owned(),
            }),
        }
    }

    /// FSM errors with the subcode of the state (RFC 6608).
    fn unexpected(&mut self, message: &str) -> Vec<Action> {
        let subcode = match self.state {
            State::OpenSent => 1,
            State::OpenConfirm => 2,
            State::Established => 3,
            State::Idle | State::Connect | State::Active => 0,
        };
        let text = format!("{message} is not allowed in state {:?}", self.state);
        self.refuse(Fault::new(code::FSM, subcode, text))
    }

    fn refuse(&mut self, fault: Fault) -> Vec<Action> {
        let message = frame::encode_notification(&fault);
        let mut actions = vec![Action::Send { message }];
        actions.extend(self.close(SessionDownReason::NotificationSent {
            code: fault.code,
            subcode: fault.subcode,
            text: fault.text,
        }));
        actions
    }

    fn close(&mut self, reason: SessionDownReason) -> Vec<Action> {
        self.state = State::Idle;
        self.negotiated = None;
        self.connect_retry = None;
        self.hold = None;
        self.keepalive = None;
        vec![Action::Close { reason }]
    }
}

fn keepalive() -> Action {
    Action::Send {
        message: frame::encode(MessageType::Keepalive, &[]),
    }
}

fn after(now: Timestamp, time: Duration) -> Option<Timestamp> {
    (!time.is_zero()).then(|| now + time)
}

fn is_due(deadline: Option<Timestamp>, now: Timestamp) -> bool {
    deadline.is_some_and(|deadline| deadline <= now)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

    fn config(passive: bool) -> SessionConfig {
        SessionConfig {
            local_as: Asn(211_396),
            router_id: Ipv4Addr::new(198, 51, 100, 10),
            peer_as: Asn(211_396),
            hold_time: Duration::from_secs(90),
            passive,
            connect_retry: Duration::from_secs(10),
        }
    }

    fn their_open() -> Open {
        Open {
            four_octet_as: true,
            families: Families::BOTH,
            route_refresh: true,
            graceful_restart: Some(open::GracefulRestart::default()),
            ..Open::new(Asn(211_396), 30, ID)
        }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn in_state(state: State) -> Session {
        let mut session = Session::new(config(state != State::Connect));
        let events = match state {
            State::Idle => 0,
            State::Connect | State::Active => 1,
            State::OpenSent => 2,
            State::OpenConfirm => 3,
            State::Established => 4,
        };
        let way = [
            Event::Start,
            Event::Connected,
            Event::Open(their_open()),
            Event::Keepalive,
        ];
        for event in way.into_iter().take(events) {
            session.step(event, at(0));
        }
        assert_eq!(session.state(), state);
        session
    }

    /// State, then what was done: type of each message sent (with code/subcode), or the action.
    fn summary(session: &Session, actions: &[Action]) -> String {
        let mut text = format!("{:?}", session.state());
        for action in actions {
            text += &match action {
                Action::Connect => " connect".to_owned(),
                Action::Send { message } => match message[18] {
                    1 => " OPEN".to_owned(),
                    3 => format!(" {}/{}", message[19], message[20]),
                    4 => " KEEPALIVE".to_owned(),
                    other => format!(" message {other}"),
                },
                Action::Up(_) => " up".to_owned(),
                Action::Update(_) => " apply".to_owned(),
                Action::Close { .. } => " close".to_owned(),
            };
        }
        text
    }

    /// RFC 4271 section 8.2.2, RFC 6608 for 5/x, RFC 4486 for 6/x. Columns: Idle, Connect (which
    /// connects itself), Active (passive), OpenSent, OpenConfirm, Established.
    #[test]
    fn every_cell_of_the_state_machine() {
        let lost = || Event::ConnectionLost {
            text: String::new(),
        };
        let fault = || Event::Malformed(Fault::new(1, 1, ""));
        let table: [(Event, [&str; 6]); 12] = [
            (
                Event::Start,
                [
                    "Active",
                    "Connect",
                    "Active",
                    "OpenSent",
                    "OpenConfirm",
                    "Established",
                ],
            ),
            (
                Event::Connected,
                [
                    "Idle",
                    "OpenSent OPEN",
                    "OpenSent OPEN",
                    "OpenSent",
                    "OpenConfirm",
                    "Established",
                ],
            ),
            (
                Event::ConnectFailed,
                [
                    "Idle",
                    "Active",
                    "Active",
                    "OpenSent",
                    "OpenConfirm",
                    "Established",
                ],
            ),
            (
                lost(),
                [
                    "Idle",
                    "Connect",
                    "Active",
                    "Idle close",
                    "Idle close",
                    "Idle close",
                ],
            ),
            (
                Event::Open(their_open()),
                [
                    "Idle",
                    "Connect",
                    "Active",
                    "OpenConfirm KEEPALIVE",
                    "Idle 5/2 close",
                    "Idle 5/3 close",
                ],
            ),
            (
                Event::Update(Update::default()),
                [
                    "Idle",
                    "Connect",
                    "Active",
                    "Idle 5/1 close",
                    "Idle 5/2 close",
                    "Established apply",
                ],
            ),
            (
                Event::Keepalive,
                [
                    "Idle",
                    "Connect",
                    "Active",
                    "Idle 5/1 close",
                    "Established up",
                    "Established",
                ],
            ),
            (
                Event::RouteRefresh,
                [
                    "Idle",
                    "Connect",
                    "Active",
                    "Idle 5/1 close",
                    "Idle 5/2 close",
                    "Established",
                ],
            ),
            (
                Event::Notification {
                    code: 6,
                    subcode: 2,
                },
                [
                    "Idle",
                    "Connect",
                    "Active",
                    "Idle close",
                    "Idle close",
                    "Idle close",
                ],
            ),
            (
                fault(),
                [
                    "Idle",
                    "Connect",
                    "Active",
                    "Idle 1/1 close",
                    "Idle 1/1 close",
                    "Idle 1/1 close",
                ],
            ),
            // 1000 s later: every deadline has passed.
            (
                Event::Timer,
                [
                    "Idle",
                    "Connect connect",
                    "Active",
                    "Idle 4/0 close",
                    "Idle 4/0 close",
                    "Idle 4/0 close",
                ],
            ),
            (
                Event::Stop(Stop::Shutdown),
                [
                    "Idle",
                    "Idle close",
                    "Idle close",
                    "Idle 6/2 close",
                    "Idle 6/2 close",
                    "Idle 6/2 close",
                ],
            ),
        ];
        let states = [
            State::Idle,
            State::Connect,
            State::Active,
            State::OpenSent,
            State::OpenConfirm,
            State::Established,
        ];
        for (event, row) in table {
            for (state, expected) in states.into_iter().zip(row) {
                let mut session = in_state(state);
                let actions = session.step(event.clone(), at(1000));
                assert_eq!(
                    summary(&session, &actions),
                    expected,
                    "{state:?}, {event:?}"
                );
                if session.state() == State::Idle {
                    assert_eq!(session.deadline(), None, "no timer runs in Idle");
                }
            }
        }
    }

    #[test]
    fn stops_have_their_subcode() {
        let max = Stop::MaxPrefixes {
            family: Family::Ipv6,
            limit: 7,
        };
        for (stop, expected) in [
            (Stop::Collision, "Idle 6/7 close"),
            (Stop::Replaced, "Idle close"),
            (max.clone(), "Idle 6/1 close"),
        ] {
            let mut session = in_state(State::Established);
            let actions = session.step(Event::Stop(stop), at(1));
            assert_eq!(summary(&session, &actions), expected);
        }
        let actions = in_state(State::Established).step(Event::Stop(max), at(1));
        let Some(Action::Send { message }) = actions.first() else {
            panic!("{actions:?}");
        };
        assert_eq!(message[21..], [0, 2, 1, 0, 0, 0, 7]);
    }

    #[test]
    fn the_open_must_come_from_the_configured_as_and_another_router() {
        let wrong_as = Open {
            asn: Asn(64999),
            ..their_open()
        };
        let own_id = Open {
            router_id: config(true).router_id,
            ..their_open()
        };
        for (open, expected) in [(wrong_as, "Idle 2/2 close"), (own_id, "Idle 2/3 close")] {
            let mut session = in_state(State::OpenSent);
            let actions = session.step(Event::Open(open), at(1));
            assert_eq!(summary(&session, &actions), expected);
        }
    }

    #[test]
    fn the_smaller_hold_time_counts_and_a_third_of_it_for_keepalives() {
        let mut session = in_state(State::Established);
        let negotiated = session.negotiated().unwrap();
        assert_eq!(negotiated.hold_time, Duration::from_secs(30));
        assert!(negotiated.context.internal);
        assert_eq!(session.deadline(), Some(at(10)));
        let actions = session.step(Event::Timer, at(10));
        assert_eq!(summary(&session, &actions), "Established KEEPALIVE");
        assert_eq!(session.deadline(), Some(at(20)));
        session.step(Event::Keepalive, at(19));
        session.step(Event::Timer, at(20));
        session.step(Event::Timer, at(30));
        assert_eq!(session.state(), State::Established, "19 + 30 s is not over");
        session.step(Event::Update(Update::default()), at(40));
        session.step(Event::Timer, at(69));
        assert_eq!(
            session.state(),
            State::Established,
            "an UPDATE refreshes too"
        );
        let actions = session.step(Event::Timer, at(70));
        assert_eq!(summary(&session, &actions), "Idle 4/0 close");
    }

    #[test]
    fn hold_time_zero_has_no_timers() {
        let mut session = in_state(State::OpenSent);
        let open = Open {
            hold_time: 0,
            ..their_open()
        };
        session.step(Event::Open(open), at(1));
        session.step(Event::Keepalive, at(1));
        assert_eq!(session.state(), State::Established);
        assert_eq!(session.deadline(), None);
    }
}

//! The state machine (RFC 4271 section 8.2.2). `tests/fsm.txt` has each cell with its clause.

use std::time::Duration;

use events::{SessionDownReason, Timestamp};

use crate::fault::{Fault, cease, code};
use crate::frame::{self, MessageType};
use crate::nlri::{Families, Family};
use crate::notification::Notification;
use crate::open::{self, Open};
use crate::refresh::{RefreshKind, RouteRefresh};
use crate::role::OtcRule;
use crate::session::{Action, Event, Jitter, Negotiated, Session, State};
use crate::update;

/// Hold time until the neighbour's OPEN is there (RFC 4271 section 8.2.2 suggests 4 minutes).
const OPEN_HOLD: Duration = Duration::from_mins(4);
/// SendHoldTime's least default (RFC 9687 section 6).
const SEND_HOLD: Duration = Duration::from_mins(8);
/// What we say with Administrative Shutdown (RFC 9003).
const GOODBYE: &str = "netwatch stops";

impl Session {
    /// Takes an event; what follows from it. `jitter` is for the timers that it sets.
    pub fn step(&mut self, event: Event, now: Timestamp, jitter: Jitter) -> Vec<Action> {
        use State::{Active, Connect, Established, Idle, OpenConfirm, OpenSent};
        match (self.state, event) {
            (Idle, Event::Start) => {
                self.connect_retry_counter = 0;
                self.connect(now, jitter)
            }
            (Idle, Event::StartPassive) => {
                self.connect_retry_counter = 0;
                self.state = Active;
                Vec::new()
            }
            (
                Idle,
                Event::ManualStop
                | Event::AutomaticStop(_)
                | Event::ConnectRetryTimerExpires
                | Event::HoldTimerExpires
                | Event::KeepaliveTimerExpires
                | Event::TcpConnected
                | Event::TcpConnectionFails { .. }
                | Event::Open(_)
                | Event::HeaderError(_)
                | Event::OpenError(_)
                | Event::OpenCollisionDump
                | Event::VersionNotification(_)
                | Event::Notification(_)
                | Event::Keepalive
                | Event::Update(_)
                | Event::UpdateError(_)
                | Event::SendHoldTimerExpires
                | Event::RouteRefresh(_)
                | Event::RouteRefreshError(_),
            )
            | (
                Connect | Active | OpenSent | OpenConfirm | Established,
                Event::Start | Event::StartPassive,
            )
            // A second connection: the arbiter between connections has it (section 6.8).
            | (OpenSent | OpenConfirm | Established, Event::TcpConnected) => Vec::new(),

            (Connect | Active, Event::ManualStop) => {
                self.connect_retry_counter = 0;
                self.close(SessionDownReason::Administrative)
            }
            (Connect | Active, Event::ConnectRetryTimerExpires) => self.connect(now, jitter),
            (Connect | Active, Event::TcpConnected) => self.send_open(now),
            (Connect, Event::TcpConnectionFails { text }) => {
                self.close(SessionDownReason::ConnectionLost { text })
            }
            (Active, Event::TcpConnectionFails { text }) => {
                self.give_up(SessionDownReason::ConnectionLost { text })
            }
            (
                Connect | Active,
                Event::HeaderError(fault)
                | Event::OpenError(fault)
                | Event::UpdateError(fault)
                | Event::RouteRefreshError(fault)
                | Event::AutomaticStop(fault),
            ) => self.give_up(SessionDownReason::ConnectionLost { text: fault.text }),
            (
                Connect | Active,
                Event::HoldTimerExpires
                | Event::KeepaliveTimerExpires
                | Event::SendHoldTimerExpires
                | Event::Open(_)
                | Event::OpenCollisionDump
                | Event::VersionNotification(_)
                | Event::Notification(_)
                | Event::Keepalive
                | Event::Update(_)
                | Event::RouteRefresh(_),
            ) => self.give_up(SessionDownReason::ConnectionLost {
                text: "a message or timer of a connection that does not exist".to_owned(),
            }),

            (OpenSent | OpenConfirm | Established, Event::ManualStop) => self.shut_down(),
            (OpenSent | OpenConfirm | Established, Event::AutomaticStop(fault)) => {
                self.refuse(fault)
            }
            (OpenSent | OpenConfirm | Established, Event::HoldTimerExpires) => {
                let fault = Fault::new(code::HOLD_TIMER, 0, "the hold timer expired");
                self.notify_and(&fault, SessionDownReason::HoldTimerExpired)
            }
            (OpenSent | OpenConfirm | Established, Event::OpenCollisionDump) => {
                let text = "another connection to the neighbour stays";
                self.refuse(Fault::new(code::CEASE, cease::COLLISION, text))
            }
            (
                OpenSent | OpenConfirm | Established,
                Event::HeaderError(fault) | Event::OpenError(fault),
            ) => self.refuse(fault),
            (OpenSent | OpenConfirm | Established, Event::ConnectRetryTimerExpires) => {
                self.fsm_error("the connect retry timer expired")
            }

            (OpenSent, Event::TcpConnectionFails { text }) => {
                let reason = SessionDownReason::ConnectionLost { text };
                self.state = Active;
                self.release();
                let retry = self.config.connect_retry;
                self.timers.start_connect_retry(now, retry, jitter);
                vec![Action::Close { reason }]
            }
            (OpenConfirm | Established, Event::TcpConnectionFails { text }) => {
                self.give_up(SessionDownReason::ConnectionLost { text })
            }
            (OpenSent, Event::Open(open)) => self.confirm(open, now, jitter),
            (OpenConfirm | Established, Event::Open(_)) => self.unexpected(MessageType::Open),

            (OpenSent | OpenConfirm, Event::VersionNotification(said)) => {
                self.close(notified(&said))
            }
            (Established, Event::VersionNotification(said))
            | (OpenSent | OpenConfirm | Established, Event::Notification(said)) => {
                self.give_up(notified(&said))
            }

            (OpenSent, Event::KeepaliveTimerExpires) => {
                self.fsm_error("the keepalive timer expired")
            }
            (OpenConfirm | Established, Event::KeepaliveTimerExpires) => {
                let hold_time = self.hold_time();
                self.timers.start_keepalive(now, hold_time, jitter);
                vec![keepalive()]
            }
            (OpenSent, Event::Keepalive) => self.unexpected(MessageType::Keepalive),
            (OpenConfirm, Event::Keepalive) => self.establish(now, jitter),
            (Established, Event::Keepalive) => {
                self.timers.restart_hold(now);
                Vec::new()
            }

            (OpenSent | OpenConfirm, Event::Update(_) | Event::UpdateError(_)) => {
                self.unexpected(MessageType::Update)
            }
            (Established, Event::Update(update)) => {
                self.timers.restart_hold(now);
                vec![Action::Update(update)]
            }
            (Established, Event::UpdateError(fault) | Event::RouteRefreshError(fault)) => {
                self.refuse(fault)
            }

            (OpenSent | OpenConfirm, Event::SendHoldTimerExpires) => {
                self.fsm_error("the send hold timer expired")
            }
            (Established, Event::SendHoldTimerExpires) => {
                let text = "the neighbour takes no message (send hold timer)";
                self.refuse(Fault::new(code::SEND_HOLD, 0, text))
            }

            (OpenSent | OpenConfirm, Event::RouteRefresh(_) | Event::RouteRefreshError(_)) => {
                self.unexpected(MessageType::RouteRefresh)
            }
            (Established, Event::RouteRefresh(refresh)) => {
                self.timers.restart_hold(now);
                self.refresh(refresh)
            }
        }
    }

    fn connect(&mut self, now: Timestamp, jitter: Jitter) -> Vec<Action> {
        self.state = State::Connect;
        let retry = self.config.connect_retry;
        self.timers.start_connect_retry(now, retry, jitter);
        vec![Action::Connect]
    }

    fn send_open(&mut self, now: Timestamp) -> Vec<Action> {
        self.state = State::OpenSent;
        self.timers.stop_connect_retry();
        self.timers.start_hold(now, OPEN_HOLD);
        let mut open = self.config.open();
        if self.config.plain_open {
            // IPv4 needs no capability.
            open.families = Families::NONE;
        }
        vec![Action::Send {
            message: open.encode(),
        }]
    }

    /// The neighbour's OPEN: checks of RFC 4271 section 6.2 that the configuration decides, then
    /// what follows for the session.
    fn confirm(&mut self, open: Box<Open>, now: Timestamp, jitter: Jitter) -> Vec<Action> {
        let negotiated = match self.negotiate(&open) {
            Ok(negotiated) => negotiated,
            Err(fault) => return self.refuse(fault),
        };
        let hold_time = negotiated.hold_time;
        self.negotiated = Some(negotiated);
        self.peer_open = Some(open);
        self.state = State::OpenConfirm;
        self.timers.stop_connect_retry();
        self.timers.start_hold(now, hold_time);
        self.timers.start_keepalive(now, hold_time, jitter);
        vec![keepalive()]
    }

    fn negotiate(&self, open: &Open) -> Result<Negotiated, Fault> {
        let config = &self.config;
        if !config.peer_as.contains(&open.asn) {
            let wanted: Vec<String> = config.peer_as.iter().map(ToString::to_string).collect();
            let text = format!(
                "the neighbour says that it is {}, the configuration says {}",
                open.asn,
                wanted.join(" or ")
            );
            return Err(Fault::new(code::OPEN, open::subcode::PEER_AS, text));
        }
        let ours = config.open();
        let internal = open.asn == config.local_as;
        if internal && open.router_id == config.router_id {
            let text = format!(
                "the neighbour's BGP identifier {} is our own",
                open.router_id
            );
            return Err(Fault::new(code::OPEN, open::subcode::IDENTIFIER, text));
        }
        let mut context = open.context_towards(&ours);
        if context.families == Families::NONE {
            let text = "the neighbour speaks neither IPv4 nor IPv6 unicast";
            let data = ours.multiprotocol_capabilities();
            let fault = Fault::new(code::OPEN, open::subcode::CAPABILITY, text);
            return Err(fault.with_data(&data));
        }
        if let Some(role) = config.role.filter(|_| !internal) {
            open::check_role(role, open.role, config.role_strict)?;
            // The role of the configuration counts also where the neighbour has none (RFC 9234
            // section 4.2).
            context.otc = Some(OtcRule {
                neighbor_role: role.counterpart(),
                neighbor_as: open.asn,
            });
        }
        Ok(Negotiated {
            asn: open.asn,
            router_id: open.router_id,
            hold_time: config
                .hold_time
                .min(Duration::from_secs(open.hold_time.into())),
            graceful_restart: open.graceful_restart.is_some() && !config.plain_open,
            context,
        })
    }

    fn hold_time(&self) -> Duration {
        let negotiated = self.negotiated.as_ref();
        negotiated.map_or(Duration::ZERO, |negotiated| negotiated.hold_time)
    }

    fn establish(&mut self, now: Timestamp, jitter: Jitter) -> Vec<Action> {
        self.state = State::Established;
        self.timers.restart_hold(now);
        let hold_time = self.hold_time();
        // RFC 9687 section 4.3: no send hold timer where there is no hold timer.
        if !hold_time.is_zero() {
            let send_hold = self.config.send_hold;
            let time = send_hold.unwrap_or_else(|| SEND_HOLD.max(hold_time * 2));
            self.timers.start_send_hold(now, time);
        }
        let Some(negotiated) = self.negotiated.clone() else {
            return Vec::new();
        };
        let mut actions = Vec::new();
        // Our initial update is empty, and that has to be said: a neighbour that restarted waits
        // for it (RFC 4724 sections 2 and 4.1).
        if negotiated.graceful_restart {
            let families = negotiated.context.families;
            let spoken = |family: &Family| families.contains(*family);
            actions.extend(Family::ALL.into_iter().filter(spoken).map(|family| {
                let message = update::end_of_rib(family);
                Action::Send { message }
            }));
            self.timers.start_keepalive(now, hold_time, jitter);
        }
        actions.push(Action::Up(negotiated));
        actions
    }

    /// A request is answered with the two marks of a refresh where those were negotiated: there is
    /// no route between them (RFC 7313 section 4). Other families are none of ours.
    fn refresh(&self, refresh: RouteRefresh) -> Vec<Action> {
        let Some(family) = Family::from_wire(refresh.afi, refresh.safi) else {
            return Vec::new();
        };
        match refresh.kind {
            RefreshKind::Request if self.refresh_is_enhanced() => {
                let mark = |kind| Action::Send {
                    message: RouteRefresh::encode(family, kind),
                };
                vec![mark(RefreshKind::Begin), mark(RefreshKind::End)]
            }
            RefreshKind::Request | RefreshKind::Unknown(_) => Vec::new(),
            RefreshKind::Begin | RefreshKind::End => vec![Action::Refresh {
                family,
                ended: refresh.kind == RefreshKind::End,
            }],
        }
    }

    fn shut_down(&mut self) -> Vec<Action> {
        self.connect_retry_counter = 0;
        let fault = Fault::new(code::CEASE, cease::SHUTDOWN, "")
            .with_data(&Notification::shutdown_data(GOODBYE));
        let message = frame::encode_notification(&fault);
        let mut actions = vec![Action::Send { message }];
        actions.extend(self.close(SessionDownReason::Administrative));
        actions
    }

    /// An FSM Error for a message (RFC 6608 sections 3 and 4): subcode by state, the message's type
    /// as data.
    fn unexpected(&mut self, message: MessageType) -> Vec<Action> {
        let subcode = match self.state {
            State::OpenSent => 1,
            State::OpenConfirm => 2,
            State::Established => 3,
            State::Idle | State::Connect | State::Active => 0,
        };
        let text = format!("{message:?} is not allowed in state {:?}", self.state);
        let fault = Fault::new(code::FSM, subcode, text);
        self.refuse(fault.with_data(&[message.to_wire()]))
    }

    /// An FSM Error without a message that was to blame.
    fn fsm_error(&mut self, what: &str) -> Vec<Action> {
        let text = format!("{what} in state {:?}", self.state);
        self.refuse(Fault::new(code::FSM, 0, text))
    }

    fn refuse(&mut self, fault: Fault) -> Vec<Action> {
        let reason = SessionDownReason::NotificationSent {
            code: fault.code,
            subcode: fault.subcode,
            text: fault.text.clone(),
        };
        self.notify_and(&fault, reason)
    }

    fn notify_and(&mut self, fault: &Fault, reason: SessionDownReason) -> Vec<Action> {
        let message = frame::encode_notification(fault);
        let mut actions = vec![Action::Send { message }];
        actions.extend(self.give_up(reason));
        actions
    }

    fn give_up(&mut self, reason: SessionDownReason) -> Vec<Action> {
        self.connect_retry_counter = self.connect_retry_counter.saturating_add(1);
        self.close(reason)
    }

    fn close(&mut self, reason: SessionDownReason) -> Vec<Action> {
        self.state = State::Idle;
        self.release();
        vec![Action::Close { reason }]
    }

    fn release(&mut self) {
        self.timers = crate::session_timers::Timers::NONE;
        self.negotiated = None;
        self.peer_open = None;
    }
}

fn notified(said: &Notification) -> SessionDownReason {
    let inner = said.hard_reset();
    let heard = inner.as_ref().unwrap_or(said);
    SessionDownReason::NotificationReceived {
        code: said.code,
        subcode: said.subcode,
        text: heard.what_is_said(),
    }
}

fn keepalive() -> Action {
    Action::Send {
        message: frame::encode(MessageType::Keepalive, &[]),
    }
}

//! Each state with each event, against `fsm.txt`, which says what the RFCs say.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use bgp_core::{
    Action, Event, Families, Fault, GracefulRestart, Jitter, Notification, Open, RefreshKind,
    RouteRefresh, Session, SessionConfig, State, Stop, Update,
};
use events::{Asn, SessionDownReason, Timestamp};

const OURS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
const THEIRS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const AS: Asn = Asn(211_396);

fn config() -> SessionConfig {
    SessionConfig {
        local_as: AS,
        router_id: OURS,
        peer_as: vec![AS],
        hold_time: Duration::from_secs(90),
        connect_retry: Duration::from_secs(120),
        send_hold: None,
        add_path: Families::NONE,
        role: None,
        role_strict: false,
        plain_open: false,
    }
}

fn their_open() -> Open {
    Open {
        four_octet_as: true,
        families: Families::BOTH,
        route_refresh: true,
        enhanced_route_refresh: true,
        ..Open::new(AS, 30, THEIRS)
    }
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(seconds * 1000)
}

fn open(open: Open) -> Event {
    Event::Open(Box::new(open))
}

fn lost() -> Event {
    Event::TcpConnectionFails {
        text: "lost".to_owned(),
    }
}

fn step(session: &mut Session, event: Event, seconds: u64) -> Vec<Action> {
    session.step(event, at(seconds), Jitter::NONE)
}

fn session_with(config: SessionConfig, events: impl IntoIterator<Item = Event>) -> Session {
    let mut session = Session::new(config);
    for event in events {
        step(&mut session, event, 0);
    }
    session
}

fn in_state(state: State) -> Session {
    let up = [
        Event::Start,
        Event::TcpConnected,
        open(their_open()),
        Event::Keepalive,
    ];
    let way = match state {
        State::Idle => vec![Event::Start, Event::Keepalive],
        State::Connect => up[..1].to_vec(),
        State::Active => vec![Event::Start, Event::TcpConnected, lost()],
        State::OpenSent => up[..2].to_vec(),
        State::OpenConfirm => up[..3].to_vec(),
        State::Established => up.to_vec(),
    };
    let session = session_with(config(), way);
    assert_eq!(session.state(), state);
    session
}

const STATES: [State; 6] = [
    State::Idle,
    State::Connect,
    State::Active,
    State::OpenSent,
    State::OpenConfirm,
    State::Established,
];

/// Every event once, by its name.
fn events() -> Vec<(String, Event)> {
    let fault = |code, subcode| Fault {
        code,
        subcode,
        data: Vec::new(),
        text: String::new(),
    };
    let said = |code, subcode| Notification {
        code,
        subcode,
        data: Vec::new(),
    };
    let all = [
        Event::Start,
        Event::StartPassive,
        Event::ManualStop,
        Event::AutomaticStop(fault(6, 1)),
        Event::ConnectRetryTimerExpires,
        Event::HoldTimerExpires,
        Event::KeepaliveTimerExpires,
        Event::TcpConnected,
        lost(),
        open(their_open()),
        Event::HeaderError(fault(1, 1)),
        Event::OpenError(fault(2, 2)),
        Event::OpenCollisionDump,
        Event::VersionNotification(said(2, 1)),
        Event::Notification(said(6, 2)),
        Event::Keepalive,
        Event::Update(Update::default()),
        Event::UpdateError(fault(3, 1)),
        Event::SendHoldTimerExpires,
        Event::RouteRefresh(RouteRefresh {
            afi: 1,
            safi: 1,
            kind: RefreshKind::Request,
        }),
        Event::RouteRefreshError(fault(7, 1)),
    ];
    let name = |event: &Event| {
        let text = format!("{event:?}");
        let end = text.find([' ', '(']).unwrap_or(text.len());
        text[..end].to_owned()
    };
    all.into_iter().map(|event| (name(&event), event)).collect()
}

fn done(actions: &[Action]) -> String {
    let words = actions.iter().map(|action| match action {
        Action::Connect => "connect".to_owned(),
        Action::Send { message } => sent(message),
        Action::Up(_) => "up".to_owned(),
        Action::Update(_) => "apply".to_owned(),
        Action::Refresh { .. } => "sweep".to_owned(),
        Action::Close { .. } => "drop".to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Type of a message; of a NOTIFICATION code, subcode and up to ten octets of data.
fn sent(message: &[u8]) -> String {
    match (message[18], &message[19..]) {
        (1, _) => "OPEN".to_owned(),
        (4, _) => "KEEPALIVE".to_owned(),
        (2, [0, 0, 0, 0]) => "EoR".to_owned(),
        (2, [0, 0, 0, 6, 0x80, 15, 3, 0, 2, 1]) => "EoR6".to_owned(),
        (5, [_, _, 1, _]) => "BoRR".to_owned(),
        (5, [_, _, 2, _]) => "EoRR".to_owned(),
        (3, [code, subcode, data @ ..]) => {
            let mut text = format!("{code}/{subcode}");
            if !data.is_empty() {
                text.push('=');
            }
            for octet in data.iter().take(10) {
                text += &format!("{octet:02x}");
            }
            text
        }
        other => panic!("{other:?}"),
    }
}

fn timers(session: &Session, now: Timestamp) -> String {
    let running = session.timers();
    let named = [
        ("retry", running.connect_retry),
        ("hold", running.hold),
        ("keepalive", running.keepalive),
        ("send", running.send_hold),
    ];
    let left = named.iter().filter_map(|(name, at)| {
        let seconds = (*at)?.since(now).as_secs();
        Some(format!("{name}={seconds}"))
    });
    left.collect::<Vec<_>>().join(" ")
}

#[test]
fn every_cell_is_as_the_rfcs_say() {
    let events = events();
    let mut missing: BTreeSet<(String, String)> = STATES
        .iter()
        .flat_map(|state| {
            let names = events.iter().map(|(name, _)| name.clone());
            names.map(move |name| (format!("{state:?}"), name))
        })
        .collect();
    assert_eq!(missing.len(), 6 * 21);
    let mut wrong = Vec::new();
    let lines = include_str!("fsm.txt").lines();
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let columns: Vec<&str> = line.split('|').map(str::trim).collect();
        let [state, names, next, actions, running, counter, clause] = columns[..] else {
            panic!("seven columns: {line}");
        };
        assert!(!clause.is_empty(), "no clause: {line}");
        let expected = [next, actions, running, counter].join(" | ");
        for name in names.split(',').map(str::trim) {
            let cell = (state.to_owned(), name.to_owned());
            assert!(missing.remove(&cell), "unknown or there twice: {cell:?}");
            let state = STATES.into_iter().find(|s| format!("{s:?}") == state);
            let mut session = in_state(state.unwrap());
            let event = events.iter().find(|(known, _)| known == name).unwrap();
            let actions = step(&mut session, event.1.clone(), 5);
            let found = [
                format!("{:?}", session.state()),
                done(&actions),
                timers(&session, at(5)),
                session.connect_retry_counter().to_string(),
            ]
            .join(" | ");
            if found != expected {
                wrong.push(format!("{cell:?}\n  text: {expected}\n  code: {found}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(missing.is_empty(), "not in the table: {missing:?}");
}

#[test]
fn timers_expire_in_the_order_of_their_times_and_hold_first() {
    let mut session = in_state(State::Established);
    assert_eq!(session.deadline(), Some(at(10)));
    assert_eq!(session.expired(at(9)), None);
    assert_eq!(session.expired(at(10)), Some(Event::KeepaliveTimerExpires));
    step(&mut session, Event::KeepaliveTimerExpires, 10);
    assert_eq!(session.expired(at(10)), None);
    step(&mut session, Event::KeepaliveTimerExpires, 20);
    assert_eq!(session.expired(at(30)), Some(Event::HoldTimerExpires));
    session.refresh_hold(at(30));
    assert_eq!(session.expired(at(30)), Some(Event::KeepaliveTimerExpires));
    session.sent(at(40));
    assert_eq!(session.timers().send_hold, Some(at(520)));
    let jittered = session.step(Event::KeepaliveTimerExpires, at(50), Jitter::new(0));
    assert_eq!(done(&jittered), "KEEPALIVE");
    let keepalive = session.timers().keepalive.unwrap();
    assert_eq!(keepalive, Timestamp::from_millis(57_500));
}

/// RFC 4724 section 2: End-of-RIB also where there is nothing to send, of each family of the session.
#[test]
fn a_neighbour_with_graceful_restart_is_told_that_there_are_no_routes() {
    let up = |families| {
        let theirs = Open {
            families,
            graceful_restart: Some(GracefulRestart::default()),
            ..their_open()
        };
        let way = [Event::Start, Event::TcpConnected, open(theirs)];
        let mut session = session_with(config(), way);
        let actions = step(&mut session, Event::Keepalive, 5);
        (done(&actions), timers(&session, at(5)))
    };
    // An UPDATE restarts the KeepaliveTimer (RFC 4271 section 8.2.2, Established).
    let running = "hold=30 keepalive=10 send=480".to_owned();
    let both = ("EoR EoR6 up".to_owned(), running.clone());
    assert_eq!(up(Families::BOTH), both);
    let only_ipv6 = Families {
        ipv4: false,
        ipv6: true,
    };
    assert_eq!(up(only_ipv6), ("EoR6 up".to_owned(), running));
}

/// RFC 4271 section 4.2, RFC 9687 section 4.3.
#[test]
fn a_hold_time_of_zero_runs_no_timer() {
    let none = Open {
        hold_time: 0,
        ..their_open()
    };
    let way = [
        Event::Start,
        Event::TcpConnected,
        open(none),
        Event::Keepalive,
    ];
    let session = session_with(config(), way);
    assert_eq!(session.state(), State::Established);
    assert_eq!(session.deadline(), None);
}

/// RFC 9687 section 6: at least 8 minutes, or twice the hold time; or what is configured.
#[test]
fn send_hold_time() {
    let time = |hold: u64, configured: Option<u64>| {
        let config = SessionConfig {
            hold_time: Duration::from_secs(hold),
            send_hold: configured.map(Duration::from_secs),
            ..config()
        };
        let theirs = Open {
            hold_time: u16::MAX,
            ..their_open()
        };
        let way = [
            Event::Start,
            Event::TcpConnected,
            open(theirs),
            Event::Keepalive,
        ];
        let timers = session_with(config, way).timers();
        timers
            .send_hold
            .map(|at| at.since(Timestamp::from_millis(0)))
    };
    assert_eq!(time(90, None), Some(Duration::from_mins(8)));
    assert_eq!(time(600, None), Some(Duration::from_mins(20)));
    assert_eq!(time(600, Some(30)), Some(Duration::from_secs(30)));
}

/// What an OPEN in OpenSent leads to, with our configuration and theirs.
fn answer(config: SessionConfig, theirs: Open) -> (String, Session) {
    let mut session = session_with(config, [Event::Start, Event::TcpConnected]);
    let actions = step(&mut session, open(theirs), 1);
    (done(&actions), session)
}

#[test]
fn the_open_must_come_from_a_configured_as_another_router_and_a_common_family() {
    let two = SessionConfig {
        peer_as: vec![Asn(64500), AS],
        ..config()
    };
    assert_eq!(answer(two.clone(), their_open()).0, "KEEPALIVE");
    let wrong = Open {
        asn: Asn(64999),
        ..their_open()
    };
    // RFC 4271 section 6.2: Bad Peer AS.
    assert_eq!(answer(two.clone(), wrong).0, "2/2 drop");
    let own = Open {
        router_id: OURS,
        ..their_open()
    };
    // RFC 6286 section 2.2: the same identifier is an error within an AS only.
    assert_eq!(answer(config(), own.clone()).0, "2/3 drop");
    let elsewhere = Open {
        asn: Asn(64500),
        ..own
    };
    assert_eq!(answer(two, elsewhere).0, "KEEPALIVE");
    let deaf = Open {
        families: Families::NONE,
        ..their_open()
    };
    // RFC 5492 section 5: Unsupported Capability, with those that are required.
    assert_eq!(answer(config(), deaf).0, "2/7=01040001000101040002 drop");
}

#[test]
fn roles() {
    use bgp_core::Role::{Customer, Peer, Provider};
    let external = |role, role_strict| SessionConfig {
        peer_as: vec![Asn(64500)],
        role: Some(role),
        role_strict,
        ..config()
    };
    let theirs = |role| Open {
        asn: Asn(64500),
        role,
        ..their_open()
    };
    // RFC 9234 section 4.2.
    assert_eq!(
        answer(external(Customer, false), theirs(Some(4))).0,
        "2/11 drop"
    );
    assert_eq!(
        answer(external(Customer, true), theirs(None)).0,
        "2/11 drop"
    );
    assert_eq!(external(Peer, false).open().role, Some(4));
    for (role, said) in [(Some(0), true), (None, false)] {
        let (text, session) = answer(external(Customer, said), theirs(role));
        assert_eq!(text, "KEEPALIVE");
        let rule = session.negotiated().unwrap().context.otc.unwrap();
        assert_eq!(
            (rule.neighbor_role, rule.neighbor_as),
            (Provider, Asn(64500))
        );
    }
    // Not for internal sessions (section 4).
    let internal = SessionConfig {
        role: Some(Customer),
        role_strict: true,
        ..config()
    };
    assert_eq!(internal.open().role, None);
    let (text, session) = answer(internal, their_open());
    assert_eq!(text, "KEEPALIVE");
    assert_eq!(session.negotiated().unwrap().context.otc, None);
}

#[test]
fn what_is_negotiated_is_what_both_say() {
    let ours = SessionConfig {
        add_path: Families::BOTH,
        ..config()
    };
    let able = Open {
        add_path_send: Families {
            ipv4: true,
            ipv6: false,
        },
        ..their_open()
    };
    let (_, session) = answer(ours.clone(), able.clone());
    let negotiated = session.negotiated().unwrap();
    assert!(negotiated.context.add_path.ipv4 && !negotiated.context.add_path.ipv6);
    assert!(negotiated.context.internal && negotiated.context.four_octet_as);
    assert!(negotiated.context.extended_next_hop);
    // RFC 8654 section 4: our capability says what we take, theirs what we may send.
    assert!(!able.extended_message && session.takes_extended_messages());
    // RFC 5492 section 3: without capabilities, where the neighbour does not know them.
    let plain = SessionConfig {
        plain_open: true,
        ..ours
    };
    let mut connected = session_with(plain.clone(), [Event::Start]);
    let actions = step(&mut connected, Event::TcpConnected, 1);
    let Some(Action::Send { message }) = actions.first() else {
        panic!("{actions:?}");
    };
    assert_eq!((message.len(), message[28]), (29, 0));
    let (text, session) = answer(plain, able);
    let negotiated = session.negotiated().unwrap();
    assert_eq!(text, "KEEPALIVE");
    assert!(!negotiated.context.families.ipv6);
    assert!(!negotiated.context.four_octet_as && !session.takes_extended_messages());
}

#[test]
fn refreshes_are_marked_only_where_that_was_negotiated() {
    let refresh = |kind, afi| {
        let safi = 1;
        Event::RouteRefresh(RouteRefresh { afi, safi, kind })
    };
    let mut session = in_state(State::Established);
    let mut said = |event| done(&step(&mut session, event, 6));
    assert_eq!(said(refresh(RefreshKind::Begin, 2)), "sweep");
    assert_eq!(said(refresh(RefreshKind::End, 2)), "sweep");
    assert_eq!(said(refresh(RefreshKind::Unknown(9), 1)), "");
    assert_eq!(
        said(refresh(RefreshKind::Request, 25)),
        "",
        "no family of ours"
    );
    let request = session.refresh_request(bgp_core::Family::Ipv6).unwrap();
    assert_eq!(request[18..], [5, 0, 2, 0, 1]);
    let old = Open {
        enhanced_route_refresh: false,
        ..their_open()
    };
    let way = [
        Event::Start,
        Event::TcpConnected,
        open(old),
        Event::Keepalive,
    ];
    let mut session = session_with(config(), way);
    let actions = step(&mut session, refresh(RefreshKind::Request, 1), 6);
    assert_eq!(done(&actions), "");
}

#[test]
fn why_a_session_ended() {
    let closed = |event: Event| {
        let actions = step(&mut in_state(State::Established), event, 5);
        match actions.last() {
            Some(Action::Close { reason }) => (done(&actions), reason.clone()),
            other => panic!("{other:?}"),
        }
    };
    let max = Stop::MaxPrefixes {
        family: bgp_core::Family::Ipv6,
        limit: 7,
    };
    let (text, reason) = closed(max.into());
    assert_eq!(text, "6/1=00020100000007 drop");
    assert!(matches!(
        reason,
        SessionDownReason::NotificationSent { code: 6, subcode: 1, text } if text.contains("more than 7")
    ));
    assert_eq!(closed(Stop::Replaced.into()).0, "drop");
    assert_eq!(closed(Stop::Collision.into()).0, "6/7 drop");
    assert_eq!(
        closed(Stop::Shutdown.into()).1,
        SessionDownReason::Administrative
    );
    // RFC 9003, also inside of a Hard Reset (RFC 8538).
    let malformed = "(a malformed shutdown communication, 02c328)";
    for (subcode, data, text) in [
        (2, &b"\x03bye"[..], "bye"),
        (9, b"\x06\x02\x03bye", "bye"),
        (2, b"\x02\xc3\x28", malformed),
    ] {
        let said = Notification {
            code: 6,
            subcode,
            data: data.to_vec(),
        };
        let heard = SessionDownReason::NotificationReceived {
            code: 6,
            subcode,
            text: Some(text.to_owned()),
        };
        assert_eq!(closed(Event::Notification(said)).1, heard);
    }
}

//! What is tried with every make that can do it.

use nix::sys::signal::Signal;

use crate::common::eventually;
use crate::lab::{LOCAL_AS, Lab, PREFIX6, PREFIXES, ROUTER_AS, number, offers, wants_routes_kept};
use crate::speakers::{Make, Options};

fn options() -> Options {
    Options::default()
}

/// It connects, over IPv4; both families' routes are right.
pub fn waited_for(make: Make) {
    let lab = Lab::new(make, options(), "", "");
    let neighbor = lab.established();
    assert_eq!(neighbor["asn"], ROUTER_AS);
    assert_eq!(neighbor["neighbor"], "192.0.2.1");
    assert_eq!(neighbor["session"]["hold_time_ms"], 9000.0);
    assert_eq!(neighbor["session"]["md5"], false);
    for family in ["ipv4 unicast", "ipv6 unicast"] {
        assert!(offers(&neighbor, family), "{neighbor:#}");
    }
    assert!(offers(&neighbor, "four-octet AS 64500"), "{neighbor:#}");
    for prefix in PREFIXES.into_iter().chain([PREFIX6]) {
        let route = lab.route(prefix);
        assert_eq!(route, Some((vec![u64::from(ROUTER_AS)], false)), "{prefix}");
    }
    for counter in [
        "attributes_discarded",
        "treated_as_withdraw",
        "session_resets",
    ] {
        assert_eq!(number(&neighbor, counter), 0, "{neighbor:#}");
    }
}

/// It waits, and netwatch connects over IPv6.
pub fn connected_to(make: Make) {
    let options = Options {
        passive: true,
        ipv6: true,
        ..options()
    };
    let lab = Lab::new(make, options, "", "passive = false\n");
    let neighbor = lab.established();
    assert_eq!(neighbor["neighbor"], "2001:db8:2::1");
    assert_eq!(neighbor["session"]["passive"], false);
    assert!(lab.route(PREFIX6).is_some() && lab.route(PREFIXES[0]).is_some());
}

/// Addresses that only mean something on their link, both ways round.
pub fn link_local(make: Make) {
    for (passive, text) in [(false, ""), (true, "passive = false\n")] {
        let options = Options {
            link_local: true,
            passive,
            ..options()
        };
        let lab = Lab::new(make, options, "", &format!("interface = \"wan0\"\n{text}"));
        let neighbor = lab.established();
        assert_eq!(neighbor["neighbor"], "fe80::1");
        assert!(lab.route(PREFIX6).is_some() && lab.route(PREFIXES[0]).is_some());
    }
}

/// Both connect: one session stays (RFC 4271 section 6.8).
pub fn both_connect(make: Make) {
    let lab = Lab::new(make, options(), "", "passive = false\n");
    lab.established();
    // Longer than both sides' retry times.
    std::thread::sleep(std::time::Duration::from_secs(3));
    let neighbor = lab.established();
    assert_eq!(number(&neighbor, "sessions"), 1, "{neighbor:#}");
}

/// TCP-MD5, both ways round; without the right key there is no session.
pub fn signed(make: Make) {
    for (passive, text) in [(false, ""), (true, "passive = false\n")] {
        let options = Options {
            password: Some("interop-key"),
            passive,
            ..options()
        };
        let file = "password_file = \"DIRECTORY/key\"\n";
        let lab = Lab::new(make, options, "", &format!("{text}{file}"));
        let neighbor = lab.established();
        assert_eq!(neighbor["session"]["md5"], true);
    }
    let options = Options {
        password: Some("interop-key"),
        ..options()
    };
    let wrong = "password_file = \"DIRECTORY/other-key\"\npassive = false\n";
    let lab = Lab::new(make, options, "", wrong);
    std::thread::sleep(std::time::Duration::from_secs(4));
    let neighbor = lab.neighbor().expect("it is configured");
    assert_ne!(neighbor["state"], "Established", "{neighbor:#}");
    assert_eq!(number(&neighbor, "sessions"), 0);
}

/// Path identifiers are negotiated, and read.
pub fn add_path(make: Make) {
    let options = Options {
        add_path: true,
        ..options()
    };
    let lab = Lab::new(make, options, "", "add_path = [\"ipv4\", \"ipv6\"]\n");
    let neighbor = lab.established();
    assert!(offers(&neighbor, "ADD-PATH"), "{neighbor:#}");
    for prefix in PREFIXES.into_iter().chain([PREFIX6]) {
        assert!(lab.route(prefix).is_some(), "{prefix}");
    }
    assert_eq!(number(&neighbor, "session_resets"), 0);
    if !make.sends_two_paths() {
        return;
    }
    let paths = || lab.paths(PREFIXES[0]);
    let two = eventually("two paths", || {
        Some(paths()).filter(|found| found.len() == 2)
    });
    assert_ne!(two[0], two[1]);
    lab.router.control(&make.withdraw(&lab.router.plan));
    let left = eventually("one of them", || {
        Some(paths()).filter(|found| found.len() == 1)
    });
    assert!(two.contains(&left[0]), "{left:?} of {two:?}");
    assert_eq!(number(&lab.established(), "sessions"), 1);
}

/// OpenBGPD waits for half a minute after an error, unless it is told to go on.
fn revive(lab: &Lab, make: Make) {
    if let Some(command) = make.revive(&lab.router.plan) {
        lab.until("it has given up", |n| n["state"] != "Established");
        eventually("told to go on", || {
            lab.router.control(&command);
            (number(&lab.neighbor()?, "sessions") > 1).then_some(())
        });
    }
}

/// A router that stands still is dropped when the hold time is over; its routes are stale. When it
/// goes on there is a session again.
pub fn hold_time(make: Make) {
    let lab = Lab::new(make, options(), "hold_time = \"3s\"\n", "");
    lab.established();
    lab.router.signal(Signal::SIGSTOP);
    let neighbor = lab.until("the hold timer expires", |n| n["state"] != "Established");
    let said = &neighbor["session"]["last_notification"];
    assert_eq!((&said["sent"], &said["code"]), (&true.into(), &4.into()));
    assert_eq!(neighbor["stale"], true);
    assert_eq!(
        neighbor["ipv4_routes"],
        PREFIXES.len(),
        "nothing is withdrawn"
    );
    lab.until_route(PREFIXES[0], |route| route.is_some_and(|(_, stale)| *stale));
    lab.router.signal(Signal::SIGCONT);
    revive(&lab, make);
    let neighbor = lab.established();
    assert_eq!(number(&neighbor, "sessions"), 2);
}

/// Killed and started again: stale, then fresh.
pub fn restart(make: Make) {
    let options = Options {
        graceful_restart: true,
        ..options()
    };
    let mut lab = Lab::new(make, options, "", "");
    let neighbor = lab.established();
    let graceful = wants_routes_kept(&neighbor);
    assert_eq!(graceful, make.restarts_gracefully(), "{neighbor:#}");
    lab.router.kill();
    let neighbor = lab.until("the session is lost", |n| n["stale"] == true);
    assert_ne!(neighbor["state"], "Established");
    assert_eq!(
        neighbor["session"]["restarting_ms"].is_null(),
        !graceful,
        "{neighbor:#}"
    );
    for prefix in PREFIXES.into_iter().chain([PREFIX6]) {
        let stale = lab.route(prefix).map(|(_, stale)| stale);
        assert_eq!(stale, Some(true), "{prefix}");
    }
    lab.router.start();
    let neighbor = lab.until("a fresh table", |n| {
        n["state"] == "Established" && n["ipv4_routes"] == PREFIXES.len() && n["stale"] == false
    });
    assert_eq!(number(&neighbor, "sessions"), 2);
    for prefix in PREFIXES.into_iter().chain([PREFIX6]) {
        lab.until_route(prefix, |route| route.is_some_and(|(_, stale)| !*stale));
    }
}

/// ROUTE-REFRESH in both ways that a router has; the session and the table stay.
pub fn refresh(make: Make) {
    let lab = Lab::new(make, options(), "", "");
    let neighbor = lab.established();
    let (updates, commands) = (number(&neighbor, "updates"), make.refresh(&lab.router.plan));
    assert!(offers(&neighbor, "route refresh"), "{neighbor:#}");
    for command in &commands {
        lab.router.control(command);
    }
    let enhanced = offers(&neighbor, "enhanced route refresh");
    let sends_again = make.sends_again();
    let neighbor = lab.until("refreshed", |n| {
        let messages = number(n, "route_refreshes");
        // BoRR and EoRR of a family at least, where the router marks them.
        let marked = !enhanced || !sends_again || messages >= 2;
        let asked = messages >= 1;
        marked && (asked || sends_again && number(n, "updates") > updates)
    });
    assert_eq!(number(&neighbor, "sessions"), 1, "{neighbor:#}");
    lab.established();
    for prefix in PREFIXES.into_iter().chain([PREFIX6]) {
        assert!(lab.route(prefix).is_some(), "{prefix}");
    }
    // And netwatch's own request.
    if !make.answers_refresh() {
        return;
    }
    let before = number(&lab.established(), "updates");
    let asked = lab.ask(&["bgp", "refresh", "192.0.2.1", "--json"]);
    assert_eq!(asked["asked"], serde_json::json!(["ipv4", "ipv6"]));
    let neighbor = lab.until("sent again", |n| number(n, "updates") > before);
    assert_eq!(number(&neighbor, "sessions"), 1, "{neighbor:#}");
    lab.established();
    for prefix in PREFIXES.into_iter().chain([PREFIX6]) {
        assert!(lab.route(prefix).is_some(), "{prefix}");
    }
}

/// A route goes and comes back, within one session.
pub fn flap(make: Make) {
    let lab = Lab::new(make, options(), "", "");
    lab.established();
    for _ in 0..2 {
        lab.router.control(&make.withdraw(&lab.router.plan));
        lab.until_route(PREFIXES[0], |route| route.is_none());
        lab.router.control(&make.announce(&lab.router.plan));
        lab.until_route(PREFIXES[0], |route| route.is_some_and(|(_, stale)| !*stale));
    }
    assert_eq!(number(&lab.established(), "sessions"), 1);
}

/// The router's operator shuts the session down, and says why (RFC 9003).
pub fn shutdown(make: Make) {
    let lab = Lab::new(make, options(), "", "");
    lab.established();
    lab.router.control(&make.shutdown(&lab.router.plan));
    let neighbor = lab.until("a NOTIFICATION", |n| {
        !n["session"]["last_notification"].is_null()
    });
    let said = &neighbor["session"]["last_notification"];
    assert_eq!((&said["sent"], &said["code"]), (&false.into(), &6.into()));
    assert_eq!(said["text"], make.says(), "{said:#}");
    let error = neighbor["last_error"].as_str().unwrap_or_default();
    assert!(error.contains(make.says()), "{error}");
    // ExaBGP comes back at once.
    let back = number(&neighbor, "sessions") > 1;
    assert!(back || neighbor["stale"] == true, "{neighbor:#}");
}

/// An UPDATE whose attributes alone exceed 4096 octets (RFC 8654).
pub fn extended_messages(make: Make) {
    let options = Options {
        many_communities: true,
        ..options()
    };
    let lab = Lab::new(make, options, "", "");
    let neighbor = lab.established();
    assert!(offers(&neighbor, "extended message"), "{neighbor:#}");
    assert!(lab.route(PREFIXES[0]).is_some());
    assert_eq!(number(&neighbor, "sessions"), 1);
}

/// Known by its prefix and AS; an AS that is not in the list is refused.
pub fn dynamic(make: Make) {
    let group = |asn: u32| {
        format!(
            "[[bgp.dynamic]]\nprefix = \"192.0.2.0/24\"\nasn = [64499, {asn}]\negress = \"a\"\n"
        )
    };
    let lab = Lab::with_neighbors(make, options(), "", &group(ROUTER_AS));
    let neighbor = lab.established();
    assert_eq!(neighbor["session"]["dynamic"], true);
    assert_eq!(neighbor["asn"], ROUTER_AS);
    drop(lab);
    let lab = Lab::with_neighbors(make, options(), "", &group(LOCAL_AS));
    lab.until("a refusal", |n| {
        let said = &n["session"]["last_notification"];
        said["sent"] == true && said["code"] == 2 && said["subcode"] == 2
    });
}

/// One prefix too many stops the session, for a time.
pub fn max_prefixes(make: Make) {
    let few = "max_prefixes = 1\nmax_prefixes_restart = \"3s\"\n";
    let lab = Lab::new(make, options(), "", few);
    // The NOTIFICATION is told once the connection is over.
    let neighbor = lab.until("the session is stopped", |n| {
        n["session"]["refused"] == true && n["state"] != "Established"
    });
    let said = &neighbor["session"]["last_notification"];
    assert_eq!((&said["sent"], &said["code"]), (&true.into(), &6.into()));
    assert_eq!(said["subcode"], 1);
    assert_eq!(neighbor["ipv4_routes"], 1);
    lab.until("it may come again", |n| n["session"]["refused"] == false);
    revive(&lab, make);
    lab.until("another session", |n| number(n, "sessions") >= 2);
}

/// Packets with TTL 255 only, in both directions (RFC 5082).
pub fn ttl_security(make: Make) {
    let options = Options {
        ttl_security: true,
        ..options()
    };
    let lab = Lab::new(make, options, "", "ttl_security = 1\n");
    let neighbor = lab.established();
    assert_eq!(neighbor["session"]["ttl_security"], 1);
    drop(lab);
    // A router that does not know of it sends TTL 1 or 64.
    let lab = Lab::new(make, self::options(), "", "ttl_security = 1\n");
    std::thread::sleep(std::time::Duration::from_secs(3));
    let neighbor = lab.neighbor().expect("it is configured");
    assert_eq!(number(&neighbor, "sessions"), 0, "{neighbor:#}");
}

/// Roles that go together, and such that do not (RFC 9234).
pub fn roles(make: Make) {
    let options = || Options {
        role: Some("provider"),
        ..options()
    };
    let strict = "role = \"customer\"\nrole_strict = true\n";
    let lab = Lab::new(make, options(), "", strict);
    let neighbor = lab.established();
    assert!(offers(&neighbor, "role Provider"), "{neighbor:#}");
    drop(lab);
    let lab = Lab::new(make, options(), "", "role = \"peer\"\n");
    lab.until("Role Mismatch", |n| {
        let said = &n["session"]["last_notification"];
        said["code"] == 2 && said["subcode"] == 11
    });
}

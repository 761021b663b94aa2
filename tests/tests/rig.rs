//! The rig, with real routers and real packets. Needs root, as namespaces do.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use lab::bird::{Router, neighbor_as};
use lab::rig::{Rig, VALIDATOR};
use lab::scenario::{Fault, Scenario, Session, UplinkName, parse};
use lab::sys;
use lab::world::{LOCAL_AS, Role, World};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

fn root() -> bool {
    // SAFETY: geteuid cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        eprintln!("skipped: network namespaces need root");
    }
    root
}

fn scenario(session: &str) -> Scenario {
    let text = format!(
        "description = \"a test\"\nduration = \"10s\"\n[topology]\nsession = \"{session}\"\nrtt = [\"5ms\", \"10ms\"]\n\
         [[fault]]\nat = \"1s\"\nkind = \"egress-dark\"\nupstream = \"a\"\n\
         [[fault]]\nat = \"1s\"\nkind = \"inbound-dark\"\nupstream = \"a\"\n\
         [[fault]]\nat = \"2s\"\nkind = \"gateway-dead\"\nupstream = \"a\"\n\
         [[fault]]\nat = \"3s\"\nkind = \"carrier-lost\"\nupstream = \"a\"\n"
    );
    parse(&text, Path::new("test.toml")).expect("a scenario")
}

fn until(what: &str, mut f: impl FnMut() -> bool) {
    for _ in 0..400 {
        if f() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("not within 20 s: {what}");
}

/// The daemon's place, taken by another BIRD.
fn speaker(rig: &Rig, session: Session) -> Router {
    let world = &rig.world;
    let mut config = format!(
        "log stderr all;\nrouter id {};\nprotocol device {{ }}\n",
        world.own.0
    );
    for uplink in &world.uplinks {
        config += &format!(
            "protocol bgp up_{} {{ local {} as {LOCAL_AS}; neighbor {} as {}; direct; passive;\n\
             ipv4 {{ import all; export none; }}; ipv6 {{ import all; export none; }}; }}\n",
            uplink.name.name(),
            uplink.link.0,
            uplink.gateway.0,
            neighbor_as(uplink, session)
        );
    }
    Router::start(&rig.space, VALIDATOR, &config).expect("BIRD starts")
}

fn paths(speaker: &Router, world: &World, prefix: usize, uplink: UplinkName) -> String {
    let net = world.prefixes[prefix].net.to_string();
    let protocol = format!("up_{}", uplink.name());
    let text = speaker
        .birdc(&["show", "route", &net, "protocol", &protocol, "all"])
        .unwrap_or_default();
    text.lines()
        .find_map(|line| line.trim().strip_prefix("BGP.as_path:"))
        .map(|path| path.trim().to_owned())
        .unwrap_or_default()
}

#[test]
fn gateways_announce_withdraw_and_change_paths() {
    if !root() {
        return;
    }
    for (session, kind) in [("ibgp", Session::Ibgp), ("ebgp", Session::Ebgp)] {
        let scenario = scenario(session);
        let rig = Rig::build(&scenario, World::draw(&scenario, 5), false).expect("a rig");
        let speaker = speaker(&rig, kind);
        let world = &rig.world;
        until("both sessions", || {
            rig.routers.iter().all(Router::established)
        });
        let last = world.prefixes.len() - 1;
        until("all routes", || {
            UplinkName::ALL.iter().all(|name| {
                (0..=last).all(|prefix| !paths(&speaker, world, prefix, *name).is_empty())
            })
        });
        for name in UplinkName::ALL {
            for prefix in 0..=last {
                // What arrives names the upstream first in either kind of session.
                let wanted = world.as_path(world.uplink(name), prefix, Session::Ibgp, false);
                let wanted: Vec<String> = wanted.iter().map(u32::to_string).collect();
                assert_eq!(paths(&speaker, world, prefix, name), wanted.join(" "));
            }
        }
        let gone = |prefix| paths(&speaker, world, prefix, UplinkName::A).is_empty();
        let target = world
            .target(lab::scenario::FaultKind::BgpWithdraw, Some("o1/1"))
            .expect("a prefix");
        rig.routers[0]
            .announce(world, Some(target), false)
            .expect("withdraws");
        until("one withdrawal", || gone(0));
        assert!(!gone(1));
        rig.routers[0]
            .announce(world, None, false)
            .expect("withdraws");
        until("all withdrawals", || (0..=last).all(gone));
        assert!(!paths(&speaker, world, 0, UplinkName::B).is_empty());
        rig.routers[0]
            .announce(world, None, true)
            .expect("announces");
        until("announcements", || !(0..=last).any(gone));

        let detour = lab::bird::config(world, &world.uplinks[0], kind, lab::bird::Paths::Detour);
        rig.routers[0].reconfigure(&detour).expect("reconfigures");
        let asn = world.uplinks[0].detour.to_string();
        until("the detour", || {
            paths(&speaker, world, 0, UplinkName::A)
                .split(' ')
                .any(|hop| hop == asn)
        });
    }
}

/// One echo request from an address through an interface; whether an answer came.
fn echo(rig: &Rig, interface: &str, source: IpAddr, target: IpAddr) -> bool {
    rig.space
        .within(VALIDATOR, || {
            let (domain, protocol, kind) = match target {
                IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8),
                IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128),
            };
            let socket = Socket::new(domain, Type::DGRAM, Some(protocol))?;
            socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
            socket.set_read_timeout(Some(Duration::from_millis(300)))?;
            // Once more for the first one's neighbour resolution.
            for _ in 0..2 {
                let request = [kind, 0, 0, 0, 0, 0, 0, 1];
                // Bound only while it sends: the answer may come in by the other uplink.
                socket.bind_device(Some(interface.as_bytes()))?;
                // A refusal is no answer.
                let _ = socket.send_to(&request, &SockAddr::from(SocketAddr::new(target, 0)));
                socket.bind_device(None)?;
                let mut buffer = [std::mem::MaybeUninit::uninit(); 64];
                if socket.recv(&mut buffer).is_ok() {
                    return Ok(true);
                }
            }
            Ok(false)
        })
        .expect("a socket")
}

/// What comes back for {uplink a, uplink b} x {link source, own source}, in this order.
fn matrix(rig: &Rig, target: IpAddr) -> [bool; 4] {
    let world = &rig.world;
    let mut found = [false; 4];
    for (n, slot) in found.iter_mut().enumerate() {
        let uplink = &world.uplinks[n / 2];
        let (link, own) = match target {
            IpAddr::V4(_) => (uplink.link.0.into(), world.own.0.into()),
            IpAddr::V6(_) => (uplink.link.1.into(), world.own.1.into()),
        };
        *slot = echo(
            rig,
            uplink.interface,
            if n % 2 == 0 { link } else { own },
            target,
        );
    }
    found
}

#[test]
fn packets_take_the_paths_that_the_scenario_states() {
    if !root() {
        return;
    }
    let scenario = scenario("ibgp");
    let mut rig = Rig::build(&scenario, World::draw(&scenario, 6), false).expect("a rig");
    let anchor = |rig: &Rig, name: UplinkName, ipv6: bool| {
        let world = &rig.world;
        let found = (0..world.hosts.len()).find(|host| {
            world.hosts[*host].role == Role::Anchor
                && world.hosts[*host].address.is_ipv6() == ipv6
                && world.return_via(*host) == name
        });
        world.hosts[found.expect("an anchor")].address
    };
    let by_a = anchor(&rig, UplinkName::A, false);
    let by_b = anchor(&rig, UplinkName::B, false);
    // Whichever uplink the IPv6 origins answer by.
    let six = rig
        .world
        .hosts
        .iter()
        .find(|host| host.role == Role::Anchor && host.address.is_ipv6())
        .expect("an anchor")
        .address;
    let apply = |rig: &mut Rig, fault: &Fault| rig.apply(fault).expect("a fault");
    let [egress, inbound, gateway, carrier] =
        <[Fault; 4]>::try_from(scenario.fault.clone()).expect("four");

    let all = [true; 4];
    assert_eq!(
        [matrix(&rig, by_a), matrix(&rig, by_b), matrix(&rig, six)],
        [all; 3]
    );

    let cut = apply(&mut rig, &egress).expect("a cut");
    let only_b = [false, false, true, true];
    assert_eq!(
        [matrix(&rig, by_a), matrix(&rig, by_b), matrix(&rig, six)],
        [only_b; 3]
    );
    let hit = rig.first_hit(cut).expect("the first packet lost was seen");
    assert!(hit <= sys::now());

    // With the way in dead too, the own source comes back only from who answers through b.
    apply(&mut rig, &inbound);
    assert_eq!(matrix(&rig, by_a), [false, false, true, false]);
    assert_eq!(matrix(&rig, by_b), only_b);
    rig.heal().expect("heals");
    assert_eq!([matrix(&rig, by_a), matrix(&rig, by_b)], [all; 2]);

    for fault in [gateway, carrier] {
        apply(&mut rig, &fault);
        assert_eq!(matrix(&rig, by_b), only_b, "{:?}", fault.kind);
        let uplink = rig.world.uplinks[0].clone();
        assert!(!echo(
            &rig,
            uplink.interface,
            uplink.link.0.into(),
            uplink.gateway.0.into()
        ));
        rig.heal().expect("heals");
        until("all paths again", || {
            matrix(&rig, by_b) == all && matrix(&rig, six) == all
        });
    }

    let names = ["v", "a", "b", "w"].map(|role| rig.space.name(role));
    let directory = rig.space.directory().to_owned();
    drop(rig);
    for name in names {
        assert!(
            !Path::new("/run/netns").join(&name).exists(),
            "{name} is left"
        );
    }
    assert!(!directory.exists());
}

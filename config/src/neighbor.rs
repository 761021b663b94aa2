//! `[[bgp.neighbor]]` and `[[bgp.dynamic]]`.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::parse::{asn, link_local, path, prefix};
use crate::read::{Item, Report, Section};
use crate::{AddPath, BgpPeer, BgpRole, DynamicNeighbors, Egress, Neighbor};

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86400);

pub(crate) fn neighbors(
    item: Option<Item<'_>>,
    egress: &[Egress],
    report: &Report<'_>,
) -> Vec<Neighbor> {
    let mut found: Vec<Neighbor> = Vec::new();
    for item in item.map_or_else(Vec::new, |i| i.array("tables ([[bgp.neighbor]])")) {
        let Some(mut s) = item.section() else {
            continue;
        };
        let address = s
            .require("address", "the router's address")
            .and_then(|i| i.parsed::<IpAddr>("an IP address"));
        let asn = s
            .require("asn", "the router's AS number (ours for iBGP)")
            .and_then(|i| asn(&i));
        let passive = s.take("passive").and_then(|i| i.boolean());
        let port = s.take("port");
        let interface = s.take("interface").and_then(|i| i.text());
        let peer = peer(&mut s, egress, report);
        s.finish();
        let (Some(address), Some(asn), Some(peer)) = (address, asn, peer) else {
            continue;
        };
        let ip = address.value;
        if ip.is_unspecified() || ip.is_multicast() {
            address.problem(report, "is not the address of one host");
        } else if found.iter().any(|n| n.address == ip) {
            address.problem(
                report,
                "another neighbor has this address; addresses are unique",
            );
        }
        let local = ip.is_ipv6() && link_local(ip);
        match &interface {
            None if local => address.problem(
                report,
                "is link-local: name the network interface that it is behind with `interface`",
            ),
            Some(interface) if !local => {
                interface.problem(report, "is for link-local addresses only");
            }
            _ => {}
        }
        let passive = passive.unwrap_or(true);
        let number = port
            .as_ref()
            .and_then(|i| i.integer::<u16>(1..=65535, "a port"));
        if passive && let Some(number) = &number {
            number.problem(report, "needs `passive = false`: it is where we connect to");
        }
        found.push(Neighbor {
            address: ip,
            asn,
            passive,
            port: number.map_or(179, |number| number.value),
            interface: interface.map(|interface| interface.value),
            peer,
        });
    }
    found
}

pub(crate) fn dynamic(
    item: Option<Item<'_>>,
    egress: &[Egress],
    report: &Report<'_>,
) -> Vec<DynamicNeighbors> {
    let mut found: Vec<DynamicNeighbors> = Vec::new();
    for item in item.map_or_else(Vec::new, |i| i.array("tables ([[bgp.dynamic]])")) {
        let Some(mut s) = item.section() else {
            continue;
        };
        let from = s
            .require("prefix", "where the routers connect from")
            .and_then(|i| prefix(&i, report));
        let numbers = s.require("asn", "the AS numbers that the routers may have");
        let numbers = numbers.map(|item| {
            let at = item.at(());
            let items = item.array("AS numbers");
            let numbers: Vec<u32> = items.iter().filter_map(asn).collect();
            if items.is_empty() {
                at.problem(report, "must name at least one AS");
            }
            numbers
        });
        let limit = s
            .take("limit")
            .and_then(|i| i.integer::<u16>(1..=1000, "how many"))
            .map_or(100, |limit| limit.value);
        let peer = peer(&mut s, egress, report);
        s.finish();
        let (Some(from), Some(asn), Some(peer)) = (from, numbers, peer) else {
            continue;
        };
        let overlaps = |other: &IpNet| other.contains(&from.value) || from.value.contains(other);
        if found.iter().any(|other| overlaps(&other.prefix)) {
            from.problem(report, "overlaps another [[bgp.dynamic]]");
        }
        found.push(DynamicNeighbors {
            prefix: from.value,
            asn,
            limit,
            peer,
        });
    }
    found
}

/// The keys that both have.
fn peer(s: &mut Section<'_>, egress: &[Egress], report: &Report<'_>) -> Option<BgpPeer> {
    let uplink = s
        .require(
            "egress",
            "the name of the [[egress]] that its routes stand for",
        )
        .and_then(|i| i.text());
    let max_prefixes = s
        .take("max_prefixes")
        .and_then(|i| i.integer::<u32>(1..=100_000_000, "how many prefixes"));
    let warn = s
        .take("max_prefixes_warn")
        .and_then(|i| i.integer::<u8>(1..=100, "a share in percent"));
    let restart = s
        .take("max_prefixes_restart")
        .and_then(|i| i.duration(Duration::ZERO..=DAY));
    let add_path = add_path(s.take("add_path"), report);
    let role = s.take("role").and_then(|i| role(&i, report));
    let strict = s.take("role_strict");
    let role_strict = strict.as_ref().and_then(Item::boolean).unwrap_or(false);
    if let Some(strict) = strict.filter(|_| role_strict && role.is_none()) {
        strict
            .at(())
            .problem(report, "needs `role`: what we are to the neighbor");
    }
    let password_file = path(s.take("password_file"), report);
    let ttl_security = s
        .take("ttl_security")
        .and_then(|i| i.integer::<u8>(1..=254, "a number of hops"));
    let uplink = uplink?;
    if !egress.iter().any(|e| e.name == uplink.value) {
        let names: Vec<&str> = egress.iter().map(|e| e.name.as_str()).collect();
        uplink.problem(
            report,
            format!(
                "there is no egress `{}`; {}",
                uplink.value,
                if names.is_empty() {
                    "declare it with [[egress]]".to_owned()
                } else {
                    format!("there are: {}", names.join(", "))
                }
            ),
        );
    }
    Some(BgpPeer {
        egress: uplink.value,
        max_prefixes: max_prefixes.map_or(2_000_000, |most| most.value),
        max_prefixes_warn: warn.map_or(80, |warn| warn.value),
        max_prefixes_restart: Some(restart.unwrap_or(MINUTE)).filter(|time| !time.is_zero()),
        add_path,
        role,
        role_strict,
        password_file,
        ttl_security: ttl_security.map(|hops| hops.value),
    })
}

fn add_path(item: Option<Item<'_>>, report: &Report<'_>) -> AddPath {
    let mut families = AddPath::default();
    for item in item.map_or_else(Vec::new, |i| i.array("address families")) {
        match item.text().as_ref().map(|family| family.value.as_str()) {
            Some("ipv4") => families.ipv4 = true,
            Some("ipv6") => families.ipv6 = true,
            Some(_) => item
                .at(())
                .problem(report, "is neither \"ipv4\" nor \"ipv6\""),
            None => {}
        }
    }
    families
}

fn role(item: &Item<'_>, report: &Report<'_>) -> Option<BgpRole> {
    let name = item.text()?;
    let role = match name.value.as_str() {
        "provider" => BgpRole::Provider,
        "customer" => BgpRole::Customer,
        "peer" => BgpRole::Peer,
        "route-server" => BgpRole::RouteServer,
        "route-server-client" => BgpRole::RouteServerClient,
        _ => {
            name.problem(
                report,
                "is not one of \"provider\", \"customer\", \"peer\", \"route-server\", \"route-server-client\": what we are to the neighbor",
            );
            return None;
        }
    };
    Some(role)
}

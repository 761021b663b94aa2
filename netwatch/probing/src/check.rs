//! Whether this host lets probes leave and come back: for `doctor`.

use std::io;
use std::net::{IpAddr, UdpSocket};

use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::netlink::{Netlink, Received};
use crate::{EgressSettings, Settings};

/// One thing that probes need of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub subject: String,
    /// What is wrong and the remedy; `None`: it is as it should be.
    pub problem: Option<String>,
}

/// Looks at the host's interfaces, addresses and routes. Sends no packet.
///
/// # Errors
/// The kernel cannot be asked by netlink.
pub fn check(settings: &Settings) -> io::Result<Vec<Check>> {
    let mut netlink = Netlink::open(0, true)?;
    let mut checks = Vec::new();
    let mut usable = Vec::new();
    for source in &settings.flow_sources {
        let bound = UdpSocket::bind((*source, 0));
        if bound.is_ok() {
            usable.push(*source);
        }
        checks.push(Check {
            subject: format!("flow source {source}"),
            problem: bound.err().map(|error| {
                format!("cannot be used: {error}; put the address on this host or correct `probe.flow_sources`")
            }),
        });
    }
    for egress in &settings.egresses {
        let interface = egress.interface.as_str();
        let index = nix::net::if_::if_nametoindex(interface);
        checks.push(Check {
            subject: format!("interface {interface} of egress {}", egress.name),
            problem: index
                .err()
                .map(|_| "does not exist; correct `egress.interface` or bring it up".to_owned()),
        });
        let Ok(index) = index else { continue };
        if settings.flow_sources.iter().any(IpAddr::is_ipv4) {
            checks.push(reverse_path(egress));
        }
        for anchor in &settings.anchors {
            let source = usable
                .iter()
                .copied()
                .find(|s| s.is_ipv4() == anchor.is_ipv4());
            let gateway = egress
                .gateways
                .iter()
                .copied()
                .find(|g| g.is_ipv4() == anchor.is_ipv4());
            let Some(gateway) = gateway else { continue };
            let via = next_hop(&mut netlink, index, *anchor, source)?;
            checks.push(Check {
                subject: format!("route to {anchor} through egress {}", egress.name),
                problem: route_problem(egress, gateway, via),
            });
        }
    }
    Ok(checks)
}

fn route_problem(egress: &EgressSettings, gateway: IpAddr, via: NextHop) -> Option<String> {
    let name = &egress.name;
    let family = if gateway.is_ipv4() { "-4" } else { "-6" };
    let remedy = format!(
        "add a default with a higher metric: ip {family} route add default via {gateway} dev {} metric 10000",
        egress.interface
    );
    match via {
        NextHop::Gateway(found) if found == gateway => None,
        NextHop::OtherFamily => None,
        NextHop::Gateway(found) => Some(format!(
            "egress {name} has a route through {found}, not through its gateway {gateway}; correct `egress.gateways` or {remedy}"
        )),
        NextHop::None => Some(format!(
            "egress {name} has no route through its gateway {gateway}; {remedy}"
        )),
    }
}

fn reverse_path(egress: &EgressSettings) -> Check {
    let interface = &egress.interface;
    let mode = |name: &str| -> u8 {
        std::fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"))
            .ok()
            .and_then(|t| t.trim().parse().ok())
            .unwrap_or(0)
    };
    // The kernel takes the greater of the two (`IN_DEV_RPFILTER`); 1 is strict, 2 is loose.
    let strict = mode("all").max(mode(interface)) == 1;
    Check {
        subject: format!("reverse path filter on {interface}"),
        problem: strict.then(|| {
            format!(
                "is strict: answers that return by another uplink than the route to their sender are dropped; set net.ipv4.conf.{interface}.rp_filter=2"
            )
        }),
    }
}

enum NextHop {
    Gateway(IpAddr),
    /// An IPv4 route through an IPv6 next hop: there is a gateway, but not one to compare.
    OtherFamily,
    /// Unreachable, or assumed to be on the link itself: with an interface given and no route
    /// through it the kernel tries that (`ip_route_output_key_hash_rcu`).
    None,
}

/// The next hop of the route to `target` through one interface.
fn next_hop(
    netlink: &mut Netlink,
    index: u32,
    target: IpAddr,
    source: Option<IpAddr>,
) -> io::Result<NextHop> {
    let mut message = RouteMessage::default();
    let (family, width) = match target {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    message.header.address_family = family;
    message.header.destination_prefix_length = width;
    message
        .attributes
        .push(RouteAttribute::Destination(route_address(target)));
    message.attributes.push(RouteAttribute::Oif(index));
    // With a source, the IPv6 lookup only prefers the interface, without one it insists.
    if let (Some(source), IpAddr::V4(_)) = (source, target) {
        message.header.source_prefix_length = width;
        message
            .attributes
            .push(RouteAttribute::Source(route_address(source)));
    }
    netlink.request(RouteNetlinkMessage::GetRoute(message), false)?;
    let Received::Messages(messages) = netlink.receive()? else {
        return Err(io::Error::from(io::ErrorKind::TimedOut));
    };
    for message in messages {
        if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) = message {
            for attribute in route.attributes {
                match attribute {
                    RouteAttribute::Gateway(RouteAddress::Inet(a)) => {
                        return Ok(NextHop::Gateway(IpAddr::V4(a)));
                    }
                    RouteAttribute::Gateway(RouteAddress::Inet6(a)) => {
                        return Ok(NextHop::Gateway(IpAddr::V6(a)));
                    }
                    RouteAttribute::Via(_) => return Ok(NextHop::OtherFamily),
                    _ => {}
                }
            }
        }
    }
    Ok(NextHop::None)
}

const fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(a) => RouteAddress::Inet(a),
        IpAddr::V6(a) => RouteAddress::Inet6(a),
    }
}

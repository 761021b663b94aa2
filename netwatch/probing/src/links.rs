//! The egresses' interfaces, addresses and gateways' neighbour entries, as netlink tells of them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use events::HostSignal;
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::EgressSettings;

/// The multicast groups that [`Links`] needs.
pub(crate) const GROUPS: i32 =
    libc::RTMGRP_LINK | libc::RTMGRP_NEIGH | libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR;

#[derive(Clone, Debug)]
struct Link {
    name: String,
    up: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Address {
    ip: IpAddr,
    prefix: u8,
    /// Secondary (IPv4), temporary or deprecated (IPv6): taken last.
    second: bool,
}

/// The state of everything that egresses stand on. Signals say what changed for an egress.
pub(crate) struct Links {
    egresses: Vec<EgressSettings>,
    links: BTreeMap<u32, Link>,
    addresses: BTreeMap<u32, Vec<Address>>,
    carrier: Vec<Option<bool>>,
    neighbors: BTreeMap<(usize, IpAddr), bool>,
    /// The dumps to ask for, the next one last.
    dumps: Vec<RouteNetlinkMessage>,
    /// How many dumps are done. After the first, of links, what is not known does not exist.
    done: usize,
}

/// What follows a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The next message.
    Read,
    /// A dump is done: [`Links::next_dump`].
    Request,
    /// A dump was refused: all over again on a new socket.
    Restart,
}

impl Links {
    pub(crate) fn new(egresses: Vec<EgressSettings>) -> Self {
        let mut links = Self {
            carrier: vec![None; egresses.len()],
            egresses,
            links: BTreeMap::new(),
            addresses: BTreeMap::new(),
            neighbors: BTreeMap::new(),
            dumps: Vec::new(),
            done: 0,
        };
        links.restart();
        links
    }

    /// Forget and ask for everything again: at start, and when messages were lost.
    pub(crate) fn restart(&mut self) {
        self.links.clear();
        self.addresses.clear();
        self.done = 0;
        self.dumps = vec![
            RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()),
            RouteNetlinkMessage::GetAddress(AddressMessage::default()),
            RouteNetlinkMessage::GetLink(LinkMessage::default()),
        ];
    }

    /// The next dump to request: at start, and when the one before is done.
    pub(crate) fn next_dump(&mut self) -> Option<RouteNetlinkMessage> {
        self.dumps.pop()
    }

    /// Links and addresses are known.
    pub(crate) const fn ready(&self) -> bool {
        self.done >= 2
    }

    /// Takes a message.
    pub(crate) fn handle(
        &mut self,
        message: NetlinkPayload<RouteNetlinkMessage>,
        signals: &mut Vec<HostSignal>,
    ) -> Step {
        match message {
            NetlinkPayload::InnerMessage(message) => self.change(message, signals),
            NetlinkPayload::Done(_) => {
                self.done += 1;
                self.carriers(signals);
                return Step::Request;
            }
            NetlinkPayload::Error(_) => return Step::Restart,
            _ => {}
        }
        Step::Read
    }

    fn change(&mut self, message: RouteNetlinkMessage, signals: &mut Vec<HostSignal>) {
        match message {
            RouteNetlinkMessage::NewLink(link) if is_interface(&link) => {
                let flags = link.header.flags;
                let up = flags.contains(LinkFlags::Up) && flags.contains(LinkFlags::LowerUp);
                let index = link.header.index;
                for attribute in link.attributes {
                    if let LinkAttribute::IfName(name) = attribute {
                        self.links.insert(index, Link { name, up });
                    }
                }
                self.carriers(signals);
            }
            RouteNetlinkMessage::DelLink(link) if is_interface(&link) => {
                self.links.remove(&link.header.index);
                self.addresses.remove(&link.header.index);
                self.carriers(signals);
            }
            RouteNetlinkMessage::NewAddress(message) => {
                let index = message.header.index;
                let usable = !message
                    .header
                    .flags
                    .intersects(AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed)
                    && message.header.scope != AddressScope::Host;
                if let Some(address) = read_address(&message) {
                    let all = self.addresses.entry(index).or_default();
                    all.retain(|a| a.ip != address.ip);
                    // An interface with more addresses than this has none that matters here.
                    if usable && all.len() < 256 {
                        all.push(address);
                    }
                }
            }
            RouteNetlinkMessage::DelAddress(message) => {
                if let (Some(address), Some(all)) = (
                    read_address(&message),
                    self.addresses.get_mut(&message.header.index),
                ) {
                    all.retain(|a| a.ip != address.ip);
                }
            }
            RouteNetlinkMessage::NewNeighbour(message) => self.neighbor(&message, signals),
            _ => {}
        }
    }

    fn carriers(&mut self, signals: &mut Vec<HostSignal>) {
        if self.done == 0 {
            return;
        }
        for (egress, known) in self.egresses.iter().zip(&mut self.carrier) {
            let up = self
                .links
                .values()
                .any(|l| l.up && l.name == egress.interface);
            if known.replace(up) != Some(up) {
                signals.push(HostSignal::Carrier {
                    egress: egress.name.clone(),
                    up,
                });
            }
        }
    }

    fn neighbor(&mut self, message: &NeighbourMessage, signals: &mut Vec<HostSignal>) {
        let reachable = match message.header.state {
            NeighbourState::Failed => false,
            NeighbourState::Reachable
            | NeighbourState::Permanent
            | NeighbourState::Noarp
            | NeighbourState::Stale => true,
            // On the way to one of these.
            _ => return,
        };
        let gateway = message.attributes.iter().find_map(|a| match a {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => Some(IpAddr::V4(*a)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => Some(IpAddr::V6(*a)),
            _ => None,
        });
        let Some((gateway, link)) = gateway.zip(self.links.get(&message.header.ifindex)) else {
            return;
        };
        for (index, egress) in self.egresses.iter().enumerate() {
            if egress.interface == link.name
                && egress.gateways.contains(&gateway)
                && self.neighbors.insert((index, gateway), reachable) != Some(reachable)
            {
                signals.push(HostSignal::Neighbor {
                    egress: egress.name.clone(),
                    gateway,
                    reachable,
                });
            }
        }
    }

    /// The index of an egress's interface, if it exists.
    pub(crate) fn index(&self, egress: usize) -> Option<u32> {
        let name = &self.egresses.get(egress)?.interface;
        self.links
            .iter()
            .find(|(_, l)| l.name == *name)
            .map(|(i, _)| *i)
    }

    /// The address that a packet to `target` carries when it leaves by the interface with this
    /// index: of its family and scope, in its subnet if there is one.
    pub(crate) fn source(&self, index: u32, target: IpAddr) -> Option<IpAddr> {
        self.addresses
            .get(&index)?
            .iter()
            .filter(|a| {
                a.ip.is_ipv4() == target.is_ipv4() && link_local(a.ip) == link_local(target)
            })
            .min_by_key(|a| (!covers(a, target), a.second))
            .map(|a| a.ip)
    }
}

/// Bridges announce their ports with messages of their own family, also when a port merely leaves.
fn is_interface(link: &LinkMessage) -> bool {
    link.header.interface_family == AddressFamily::Unspec
}

fn read_address(message: &AddressMessage) -> Option<Address> {
    let mut ip = None;
    for attribute in &message.attributes {
        match attribute {
            // IFA_LOCAL is ours where both are there; IFA_ADDRESS may be the other end's.
            AddressAttribute::Local(a) => ip = Some(*a),
            AddressAttribute::Address(a) => ip = ip.or(Some(*a)),
            _ => {}
        }
    }
    let flags = message.header.flags;
    Some(Address {
        ip: ip?,
        prefix: message.header.prefix_len,
        second: flags.intersects(AddressHeaderFlags::Secondary | AddressHeaderFlags::Deprecated),
    })
}

const fn link_local(address: IpAddr) -> bool {
    match address {
        // IPv4 link-local is used as any other address on links between routers.
        IpAddr::V4(_) => false,
        IpAddr::V6(a) => a.is_unicast_link_local(),
    }
}

fn covers(address: &Address, target: IpAddr) -> bool {
    let differ = |a: u128, b: u128, width: u32| {
        let host = width - u32::from(address.prefix).min(width);
        (a ^ b).checked_shr(host).unwrap_or(0)
    };
    match (address.ip, target) {
        (IpAddr::V4(a), IpAddr::V4(b)) => differ(a.to_bits().into(), b.to_bits().into(), 32) == 0,
        (IpAddr::V6(a), IpAddr::V6(b)) => differ(a.to_bits(), b.to_bits(), 128) == 0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links() -> Links {
        let egress = |name: &str, gateway: &str| EgressSettings {
            name: name.into(),
            interface: format!("if-{name}"),
            gateways: vec![gateway.parse().unwrap()],
        };
        Links::new(vec![egress("a", "192.0.2.1"), egress("b", "192.0.2.129")])
    }

    fn link(index: u32, name: &str, flags: LinkFlags) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = flags;
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        message
    }

    fn tell(links: &mut Links, message: RouteNetlinkMessage) -> Vec<HostSignal> {
        let mut signals = Vec::new();
        links.handle(NetlinkPayload::InnerMessage(message), &mut signals);
        signals
    }

    fn done(links: &mut Links) -> Vec<HostSignal> {
        let mut signals = Vec::new();
        let done = netlink_packet_core::DoneMessage::default();
        let step = links.handle(NetlinkPayload::Done(done), &mut signals);
        assert_eq!(step, Step::Request);
        signals
    }

    fn carrier(egress: &str, up: bool) -> HostSignal {
        HostSignal::Carrier {
            egress: egress.into(),
            up,
        }
    }

    const RUNNING: LinkFlags = LinkFlags::Up.union(LinkFlags::LowerUp);

    #[test]
    fn carrier_is_told_first_and_then_on_change() {
        use RouteNetlinkMessage::{DelLink, NewLink};
        let mut links = links();
        assert_eq!(tell(&mut links, NewLink(link(7, "if-a", RUNNING))), []);
        assert_eq!(done(&mut links), [carrier("a", true), carrier("b", false)]);
        assert_eq!(tell(&mut links, NewLink(link(7, "if-a", RUNNING))), []);
        assert_eq!(
            tell(&mut links, NewLink(link(7, "if-a", LinkFlags::Up))),
            [carrier("a", false)]
        );
        assert_eq!(
            tell(&mut links, NewLink(link(9, "if-b", RUNNING))),
            [carrier("b", true)]
        );
        let mut left_bridge = link(9, "if-b", RUNNING);
        left_bridge.header.interface_family = AddressFamily::Bridge;
        assert_eq!(tell(&mut links, DelLink(left_bridge)), []);
        assert_eq!(
            tell(&mut links, DelLink(link(9, "if-b", RUNNING))),
            [carrier("b", false)]
        );
        assert_eq!(links.index(1), None);
        assert_eq!(
            tell(&mut links, NewLink(link(12, "if-b", RUNNING))),
            [carrier("b", true)]
        );
        assert_eq!(links.index(1), Some(12));
        links.restart();
        assert_eq!(tell(&mut links, NewLink(link(12, "if-b", RUNNING))), []);
        assert_eq!(done(&mut links), [], "nothing changed over a new dump");
    }

    #[test]
    fn only_gateways_on_their_own_interface_count() {
        use RouteNetlinkMessage::{NewLink, NewNeighbour};
        let mut links = links();
        tell(&mut links, NewLink(link(7, "if-a", RUNNING)));
        tell(&mut links, NewLink(link(8, "if-b", RUNNING)));
        done(&mut links);
        let neighbor = |index, address: [u8; 4], state| {
            let mut message = NeighbourMessage::default();
            message.header.ifindex = index;
            message.header.state = state;
            message
                .attributes
                .push(NeighbourAttribute::Destination(NeighbourAddress::Inet(
                    address.into(),
                )));
            NewNeighbour(message)
        };
        let gateway = [192, 0, 2, 1];
        let signal = |reachable| HostSignal::Neighbor {
            egress: "a".into(),
            gateway: IpAddr::from(gateway),
            reachable,
        };
        use NeighbourState::{Failed, Incomplete, Reachable, Stale};
        assert_eq!(tell(&mut links, neighbor(7, gateway, Incomplete)), []);
        assert_eq!(
            tell(&mut links, neighbor(7, gateway, Failed)),
            [signal(false)]
        );
        assert_eq!(tell(&mut links, neighbor(7, gateway, Failed)), []);
        assert_eq!(tell(&mut links, neighbor(8, gateway, Reachable)), []);
        assert_eq!(tell(&mut links, neighbor(7, [192, 0, 2, 5], Reachable)), []);
        assert_eq!(
            tell(&mut links, neighbor(7, gateway, Reachable)),
            [signal(true)]
        );
        assert_eq!(tell(&mut links, neighbor(7, gateway, Stale)), []);
    }

    #[test]
    fn the_source_fits_the_target() {
        let mut links = links();
        let add = |ip: &str, prefix, flags| {
            let mut message = AddressMessage::default();
            message.header.index = 7;
            message.header.prefix_len = prefix;
            message.header.flags = flags;
            message
                .attributes
                .push(AddressAttribute::Address(ip.parse().unwrap()));
            message
        };
        let none = AddressHeaderFlags::empty();
        for message in [
            add("192.0.2.200", 25, AddressHeaderFlags::Secondary),
            add("10.0.0.2", 24, none),
            add("192.0.2.2", 25, none),
            add("fe80::2", 64, none),
            add("2001:db8::9", 64, AddressHeaderFlags::Deprecated),
            add("2001:db8::2", 64, none),
            add("2001:db8::3", 64, AddressHeaderFlags::Tentative),
        ] {
            tell(&mut links, RouteNetlinkMessage::NewAddress(message));
        }
        let source = |links: &Links, target: &str| {
            links
                .source(7, target.parse().unwrap())
                .map(|a| a.to_string())
        };
        assert_eq!(source(&links, "192.0.2.1").as_deref(), Some("192.0.2.2"));
        assert_eq!(
            source(&links, "192.0.2.254").as_deref(),
            Some("192.0.2.200")
        );
        assert_eq!(source(&links, "203.0.113.1").as_deref(), Some("10.0.0.2"));
        assert_eq!(
            source(&links, "2001:db8::1").as_deref(),
            Some("2001:db8::2")
        );
        assert_eq!(source(&links, "fe80::1").as_deref(), Some("fe80::2"));
        tell(
            &mut links,
            RouteNetlinkMessage::DelAddress(add("fe80::2", 64, none)),
        );
        assert_eq!(source(&links, "fe80::1"), None);
    }
}

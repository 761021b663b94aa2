//! A drawn world: who is where, behind whom, how far away, and by which uplink it answers.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Context;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::rng::Rng;
use crate::scenario::{ReturnVia, Scenario, Session, UplinkName};

/// The validator's own AS.
pub const LOCAL_AS: u32 = 211_396;
/// The port that the workload speaks on.
pub const PEER_PORT: u16 = 26_656;
/// The port that the pager listens on.
pub const PAGER_PORT: u16 = 8_080;

/// Everything that a seed decides.
#[derive(Clone, Debug)]
pub struct World {
    /// The seed.
    pub seed: u64,
    /// The validator's own addresses, on loopback: IPv4 and IPv6.
    pub own: (Ipv4Addr, Ipv6Addr),
    /// The uplinks, the primary first.
    pub uplinks: [Uplink; 2],
    /// Origin ASes; the last is the pager's.
    pub origins: Vec<Origin>,
    /// Their prefixes.
    pub prefixes: Vec<PrefixOf>,
    /// Addresses that exist out there.
    pub hosts: Vec<Host>,
    /// Chosen for faults whose target is `drawn`.
    pub drawn_origin: usize,
    /// A prefix of the drawn origin.
    pub drawn_prefix: usize,
    /// A peer in the drawn prefix (index into `hosts`).
    pub drawn_peer: usize,
}

/// An uplink with what lies behind it.
#[derive(Clone, Debug)]
pub struct Uplink {
    /// Which.
    pub name: UplinkName,
    /// The validator's interface.
    pub interface: &'static str,
    /// Addresses of the gateway.
    pub gateway: (Ipv4Addr, Ipv6Addr),
    /// The validator's addresses on the link.
    pub link: (Ipv4Addr, Ipv6Addr),
    /// The AS next to ours.
    pub upstream: u32,
    /// An AS behind it, on the way to some origins.
    pub transit: u32,
    /// Another one, for changed paths.
    pub detour: u32,
}

/// An origin AS.
#[derive(Clone, Debug)]
pub struct Origin {
    /// How scenarios call it.
    pub name: String,
    /// Its number.
    pub asn: u32,
    /// The uplink that its packets to the validator's own addresses come in by.
    pub return_via: UplinkName,
    /// Its paths lead through the uplinks' transit ASes.
    pub behind_transit: bool,
}

/// A prefix.
#[derive(Clone, Debug)]
pub struct PrefixOf {
    /// The prefix.
    pub net: IpNet,
    /// Index of its origin.
    pub origin: usize,
    /// Round-trip time to it in nanoseconds.
    pub rtt: u64,
}

/// An address out there.
#[derive(Clone, Debug)]
pub struct Host {
    /// The address.
    pub address: IpAddr,
    /// Index of its prefix.
    pub prefix: usize,
    /// What it does.
    pub role: Role,
}

/// What a host does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Talks with the validator on a connection that the validator opens.
    Peer,
    /// Talks with the validator on a connection that it opens itself.
    InboundPeer,
    /// Answers echo requests.
    Anchor,
    /// Takes pages.
    Pager,
}

impl Role {
    /// It has a connection with the validator.
    #[must_use]
    pub const fn is_peer(self) -> bool {
        matches!(self, Self::Peer | Self::InboundPeer)
    }
}

/// What a fault's `target` means in a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// All prefixes of an origin.
    Origin(usize),
    /// One prefix.
    Prefix(usize),
    /// One host.
    Host(usize),
}

struct Draw {
    rng: Rng,
    asns: BTreeSet<u32>,
    nets: Vec<IpNet>,
}

impl Draw {
    fn asn(&mut self) -> u32 {
        loop {
            let asn = if self.rng.range(0, 3) == 0 {
                self.rng.range(131_100, 401_000)
            } else {
                self.rng.range(1_000, 64_000)
            } as u32;
            if asn != LOCAL_AS && asn != 23_456 && self.asns.insert(asn) {
                return asn;
            }
        }
    }

    /// A prefix that overlaps none before it. All namespaces are cut off from the real internet,
    /// so addresses of its ordinary unicast space do.
    fn net(&mut self, ipv6: bool) -> IpNet {
        loop {
            let net: IpNet = if ipv6 {
                let length = 32 + 4 * self.rng.range(0, 5) as u8;
                let bits = u128::from(0x2a00 + self.rng.range(0, 16)) << 112
                    | u128::from(self.rng.range(1, 1 << 32)) << 80;
                Ipv6Net::new_assert(bits.into(), length).trunc().into()
            } else {
                const FIRST: [u8; 12] = [5, 31, 37, 46, 62, 77, 80, 85, 91, 94, 176, 193];
                let first = *self.rng.pick(&FIRST).unwrap_or(&5);
                let length = self.rng.range(20, 25) as u8;
                let address = Ipv4Addr::new(
                    first,
                    self.rng.range(0, 256) as u8,
                    self.rng.range(0, 256) as u8,
                    0,
                );
                Ipv4Net::new_assert(address, length).trunc().into()
            };
            if !self.nets.iter().any(|other| overlap(other, &net)) {
                self.nets.push(net);
                return net;
            }
        }
    }

    fn address(&mut self, net: &IpNet, taken: &mut BTreeSet<IpAddr>) -> IpAddr {
        loop {
            let address: IpAddr = match net {
                IpNet::V4(net) => {
                    let size = 1u64 << (32 - net.prefix_len());
                    let host = self.rng.range(1, size - 1) as u32;
                    Ipv4Addr::from(u32::from(net.network()) + host).into()
                }
                IpNet::V6(net) => {
                    let bits = u32::from(128 - net.prefix_len()).min(32);
                    let host = u128::from(self.rng.range(1, 1 << bits));
                    Ipv6Addr::from(u128::from(net.network()) + host).into()
                }
            };
            if address != net.network() && taken.insert(address) {
                return address;
            }
        }
    }

    fn rtt(&mut self, range: [u64; 2]) -> u64 {
        let (low, high) = (range[0] as f64, range[1] as f64);
        // Log-uniform: as many near peers as far ones.
        (low * (high / low).powf(self.rng.unit())) as u64
    }
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

impl World {
    /// Draws the world of a scenario.
    #[must_use]
    pub fn draw(scenario: &Scenario, seed: u64) -> Self {
        let topology = &scenario.topology;
        let mut draw = Draw {
            rng: Rng::new(seed),
            asns: topology.origin.iter().filter_map(|o| o.asn).collect(),
            nets: topology
                .origin
                .iter()
                .flat_map(|o| o.prefixes.clone())
                .collect(),
        };
        let own_net = (draw.net(false), draw.net(true));
        let mut taken = BTreeSet::new();
        let own = match (
            draw.address(&own_net.0, &mut taken),
            draw.address(&own_net.1, &mut taken),
        ) {
            (IpAddr::V4(v4), IpAddr::V6(v6)) => (v4, v6),
            _ => unreachable!("an address has its prefix's family"),
        };
        let site = draw.rng.range(1, 200) as u8;
        let uplinks = UplinkName::ALL.map(|name| {
            let third = site + name.index() as u8;
            let v4 = |host| Ipv4Addr::new(10, third, draw_octet(seed, name), host);
            let v6 = |host| Ipv6Addr::new(0xfd00, u16::from(third), 0, 0, 0, 0, 0, host);
            Uplink {
                name,
                interface: ["wan0", "wan1"][name.index()],
                gateway: (v4(1), v6(1)),
                link: (v4(2), v6(2)),
                upstream: draw.asn(),
                transit: draw.asn(),
                detour: draw.asn(),
            }
        });

        let mut world = Self {
            seed,
            own,
            uplinks,
            origins: Vec::new(),
            prefixes: Vec::new(),
            hosts: Vec::new(),
            drawn_origin: 0,
            drawn_prefix: 0,
            drawn_peer: 0,
        };
        world.draw_origins(scenario, &mut draw, &mut taken);
        world.draw_pager(scenario, &mut draw, &mut taken);
        world.draw_target(&mut draw.rng);
        world
    }

    fn draw_origins(&mut self, scenario: &Scenario, draw: &mut Draw, taken: &mut BTreeSet<IpAddr>) {
        let topology = &scenario.topology;
        let count = if topology.origin.is_empty() {
            topology.origins
        } else {
            topology.origin.len()
        };
        // "Mixed" has at least one of either: a drawn offset into a, b, a, b, ...
        let parity = draw.rng.range(0, 2) as usize;
        let mut connections = 0usize;
        for index in 0..count {
            let spec = topology.origin.get(index);
            let return_via = spec
                .and_then(|s| s.return_via)
                .unwrap_or(match topology.return_via {
                    ReturnVia::A => UplinkName::A,
                    ReturnVia::B => UplinkName::B,
                    ReturnVia::Mixed => UplinkName::ALL[(index + parity) % 2],
                });
            self.origins.push(Origin {
                name: spec.map_or_else(|| format!("o{}", index + 1), |s| s.name.clone()),
                asn: spec.and_then(|s| s.asn).unwrap_or_else(|| draw.asn()),
                return_via,
                behind_transit: draw.rng.range(0, 2) == 0,
            });
            let nets: Vec<IpNet> = match spec {
                Some(spec) if !spec.prefixes.is_empty() => {
                    spec.prefixes.iter().map(IpNet::trunc).collect()
                }
                _ => (0..topology.prefixes_per_origin)
                    .map(|n| draw.net(topology.ipv6 && n % 2 == 1 && index % 2 == 0))
                    .collect(),
            };
            let peers = spec
                .and_then(|s| s.peers_per_prefix)
                .unwrap_or(topology.peers_per_prefix);
            for (nth, net) in nets.iter().enumerate() {
                let rtt = spec.and_then(|s| s.rtt).map_or_else(
                    || draw.rtt([topology.rtt[0].nanos(), topology.rtt[1].nanos()]),
                    |rtt| rtt.nanos(),
                );
                let prefix = self.prefixes.len();
                self.prefixes.push(PrefixOf {
                    net: *net,
                    origin: index,
                    rtt,
                });
                let mut host = |role, draw: &mut Draw| Host {
                    address: draw.address(net, taken),
                    prefix,
                    role,
                };
                for _ in 0..peers {
                    connections += 1;
                    let inbound = |n: usize| (n as f64 * topology.inbound) as usize;
                    let role = if inbound(connections) > inbound(connections - 1) {
                        Role::InboundPeer
                    } else {
                        Role::Peer
                    };
                    let peer = host(role, draw);
                    self.hosts.push(peer);
                }
                let ipv6 = matches!(net, IpNet::V6(_));
                if spec.is_none_or(|s| s.anchor) && (nth == 0 || ipv6) {
                    let anchor = host(Role::Anchor, draw);
                    self.hosts.push(anchor);
                }
            }
        }
    }

    fn draw_pager(&mut self, scenario: &Scenario, draw: &mut Draw, taken: &mut BTreeSet<IpAddr>) {
        let net = draw.net(false);
        self.origins.push(Origin {
            name: "pager".to_owned(),
            asn: draw.asn(),
            return_via: scenario.topology.pager_return_via,
            behind_transit: false,
        });
        self.prefixes.push(PrefixOf {
            net,
            origin: self.origins.len() - 1,
            rtt: 8_000_000,
        });
        self.hosts.push(Host {
            address: draw.address(&net, taken),
            prefix: self.prefixes.len() - 1,
            role: Role::Pager,
        });
    }

    /// The drawn victim has a sibling prefix where there is one, so that an AS, a prefix and a peer
    /// can be told apart.
    fn draw_target(&mut self, rng: &mut Rng) {
        let origins = self.origins.len() - 1;
        let prefixes_of = |origin| {
            (0..self.prefixes.len())
                .filter(|p| self.prefixes[*p].origin == origin)
                .collect::<Vec<_>>()
        };
        let with_siblings: Vec<usize> =
            (0..origins).filter(|o| prefixes_of(*o).len() > 1).collect();
        let all: Vec<usize> = (0..origins).collect();
        let from = if with_siblings.is_empty() {
            &all
        } else {
            &with_siblings
        };
        let origin = rng.pick(from).copied().unwrap_or(0);
        let prefix = rng.pick(&prefixes_of(origin)).copied().unwrap_or(0);
        let peers = self.peers_in(prefix);
        let peer = rng.pick(&peers).copied().unwrap_or(0);
        (self.drawn_origin, self.drawn_prefix, self.drawn_peer) = (origin, prefix, peer);
    }

    fn peers_in(&self, prefix: usize) -> Vec<usize> {
        (0..self.hosts.len())
            .filter(|h| self.hosts[*h].prefix == prefix && self.hosts[*h].role.is_peer())
            .collect()
    }

    /// What `target` means: `drawn` by `kind`'s own scope, or what a path names.
    ///
    /// # Errors
    /// The path names nothing in this world.
    pub fn target(
        &self,
        kind: crate::scenario::FaultKind,
        target: Option<&str>,
    ) -> anyhow::Result<Target> {
        use crate::scenario::FaultKind;
        let Some(path) = target.filter(|target| *target != "drawn") else {
            return Ok(match kind {
                FaultKind::PrefixDead => Target::Prefix(self.drawn_prefix),
                FaultKind::PeerDead => Target::Host(self.drawn_peer),
                _ => Target::Origin(self.drawn_origin),
            });
        };
        let mut parts = path.split('/');
        let name = parts.next().unwrap_or_default();
        let unknown = || format!("target `{path}` names nothing in this world");
        let origin = self
            .origins
            .iter()
            .position(|origin| origin.name == name)
            .with_context(unknown)?;
        let number = |part: &str| part.parse::<usize>().ok().and_then(|n| n.checked_sub(1));
        let Some(prefix) = parts.next() else {
            return Ok(Target::Origin(origin));
        };
        let prefixes = (0..self.prefixes.len()).filter(|p| self.prefixes[*p].origin == origin);
        let prefix = number(prefix)
            .and_then(|n| prefixes.clone().nth(n))
            .with_context(unknown)?;
        let Some(peer) = parts.next() else {
            return Ok(Target::Prefix(prefix));
        };
        let peers = self.peers_in(prefix);
        number(peer)
            .and_then(|n| peers.get(n).copied())
            .map(Target::Host)
            .with_context(unknown)
    }

    /// Whether a host is part of a target.
    #[must_use]
    pub fn is_in(&self, host: usize, target: Target) -> bool {
        match target {
            Target::Origin(origin) => self.prefixes[self.hosts[host].prefix].origin == origin,
            Target::Prefix(prefix) => self.hosts[host].prefix == prefix,
            Target::Host(only) => host == only,
        }
    }

    /// Whether a prefix is part of a target, or has it.
    #[must_use]
    pub fn has_prefix(&self, target: Target, prefix: usize) -> bool {
        match target {
            Target::Origin(origin) => self.prefixes[prefix].origin == origin,
            Target::Prefix(only) => prefix == only,
            Target::Host(host) => self.hosts[host].prefix == prefix,
        }
    }

    /// What the pages should name for a target.
    #[must_use]
    pub fn target_name(&self, target: Target) -> String {
        match target {
            Target::Origin(origin) => format!("AS{}", self.origins[origin].asn),
            Target::Prefix(prefix) => self.prefixes[prefix].net.to_string(),
            Target::Host(host) => self.hosts[host].address.to_string(),
        }
    }

    /// The uplink's data.
    #[must_use]
    pub const fn uplink(&self, name: UplinkName) -> &Uplink {
        &self.uplinks[name.index()]
    }

    /// The uplink by which packets of a host to the validator's own addresses come in.
    #[must_use]
    pub fn return_via(&self, host: usize) -> UplinkName {
        self.origins[self.prefixes[self.hosts[host].prefix].origin].return_via
    }

    /// Hosts with a connection.
    pub fn peers(&self) -> impl Iterator<Item = (usize, &Host)> {
        self.hosts
            .iter()
            .enumerate()
            .filter(|(_, host)| host.role.is_peer())
    }

    /// The pager's address.
    #[must_use]
    pub fn pager(&self) -> IpAddr {
        self.hosts
            .iter()
            .find(|host| host.role == Role::Pager)
            .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |host| host.address)
    }

    /// The AS_PATH that an uplink's gateway holds for a prefix, without what eBGP itself prepends.
    #[must_use]
    pub fn as_path(
        &self,
        uplink: &Uplink,
        prefix: usize,
        session: Session,
        detour: bool,
    ) -> Vec<u32> {
        let origin = &self.origins[self.prefixes[prefix].origin];
        let mut path = Vec::new();
        if session == Session::Ibgp {
            path.push(uplink.upstream);
        }
        if detour {
            path.push(uplink.detour);
        }
        if origin.behind_transit {
            path.push(uplink.transit);
        }
        path.push(origin.asn);
        path
    }
}

/// The link subnets differ between seeds in more than one octet.
fn draw_octet(seed: u64, name: UplinkName) -> u8 {
    Rng::new(seed ^ 0x11 ^ name.index() as u64).range(0, 250) as u8
}

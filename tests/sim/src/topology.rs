//! ASes, prefixes, peers, anchors and uplinks of one world.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use events::{Asn, EgressName, Prefix};
use ipnet::IpNet;

use crate::draw::Draw;
use crate::params::Params;

/// This host's own AS.
pub const LOCAL_AS: Asn = Asn(64_496);
/// At most so many peers share a prefix.
const MOST_IN_PREFIX: usize = 200;

/// An uplink.
#[derive(Clone, Debug)]
pub struct Egress {
    /// Its name: `a`, `b`, `c`; the first is the primary.
    pub name: EgressName,
    /// Its interface.
    pub interface: String,
    /// The AS behind its gateway.
    pub upstream: Asn,
    /// One gateway for each address family of the world.
    pub gateways: Vec<IpAddr>,
    /// They forward, but never answer a probe.
    pub silent: bool,
    /// One way to the gateway, microseconds.
    pub near: u64,
}

/// A peer or an anchor.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its address.
    pub address: IpAddr,
    /// Its prefix, by its number in [`Topology::prefixes`]; an anchor's is its own.
    pub prefix: usize,
    /// AS path by egress, the upstream first, the origin last.
    pub paths: Vec<Vec<Asn>>,
    /// One way there by egress, microseconds.
    pub out: Vec<u64>,
    /// One way back by egress, microseconds.
    pub back: Vec<u64>,
}

impl Host {
    /// Of the IPv6 family.
    #[must_use]
    pub fn v6(&self) -> bool {
        self.address.is_ipv6()
    }
}

/// The network around this host.
#[derive(Clone, Debug)]
pub struct Topology {
    /// In order of preference.
    pub egresses: Vec<Egress>,
    /// All prefixes.
    pub prefixes: Vec<Prefix>,
    /// Peers.
    pub peers: Vec<Host>,
    /// Anchors: each in an AS of its own.
    pub anchors: Vec<Host>,
    /// The egress by which answers to the flows' source come in.
    pub inbound: usize,
    /// Families: IPv4, IPv6.
    pub families: [bool; 2],
    /// The FIB holds the peers' prefixes themselves; else a default route.
    pub fib_specific: bool,
}

/// The address that the validator's connections use.
#[must_use]
pub fn flow_source(v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x10).into()
    } else {
        Ipv4Addr::new(198, 51, 100, 10).into()
    }
}

fn gateway(egress: usize, v6: bool) -> IpAddr {
    near(egress, v6, 1)
}

/// The uplink's own address.
#[must_use]
pub fn link_source(egress: usize, v6: bool) -> IpAddr {
    near(egress, v6, 2)
}

fn near(egress: usize, v6: bool, host: u8) -> IpAddr {
    if v6 {
        let net = 0xa + egress as u16;
        Ipv6Addr::new(0x2001, 0xdb8, net, 0, 0, 0, 0, u16::from(host)).into()
    } else {
        Ipv4Addr::new(192, 0, 2 + egress as u8, host).into()
    }
}

/// What routes may be installed for: where all peers are.
#[must_use]
pub fn allowed() -> Vec<Prefix> {
    ["20.0.0.0/8", "2001:db8:4000::/34"]
        .iter()
        .filter_map(|text| text.parse().ok())
        .collect()
}

fn net(index: usize, v6: bool) -> (IpNet, IpAddr) {
    let n = index as u16;
    let (address, length): (IpAddr, u8) = if v6 {
        let third = 0x4000 + n;
        (
            Ipv6Addr::new(0x2001, 0xdb8, third, 0, 0, 0, 0, 0).into(),
            48,
        )
    } else {
        (Ipv4Addr::new(20, (n >> 8) as u8, n as u8, 0).into(), 24)
    };
    let net = IpNet::new(address, length).unwrap_or_else(|_| IpNet::from(address));
    (net, address)
}

fn host_in(base: IpAddr, host: usize) -> IpAddr {
    match base {
        IpAddr::V4(a) => {
            let [x, y, z, _] = a.octets();
            Ipv4Addr::new(x, y, z, 10 + host as u8).into()
        }
        IpAddr::V6(a) => {
            let mut s = a.segments();
            s[7] = 10 + host as u16;
            Ipv6Addr::from(s).into()
        }
    }
}

/// A transit AS: its ancestors up to the upstream, nearest to us first, itself last.
type Chain = Vec<Asn>;

/// The transit ASes: each hangs on an upstream or, by popularity, on another.
fn transit(draw: &mut Draw, params: &Params) -> Vec<Chain> {
    let t = &params.topology;
    let count = draw.range(t.transit) as usize;
    let mut chains: Vec<Chain> = Vec::new();
    let mut children: Vec<f64> = Vec::new();
    for n in 0..count.max(1) {
        let asn = Asn(65_000 + n as u32);
        let mut chain = Vec::new();
        if n > 0 && !draw.chance(t.root) {
            let parent = draw.weighted(&children);
            chain.clone_from(&chains[parent]);
            children[parent] += 1.0;
        }
        chain.push(asn);
        chains.push(chain);
        children.push(1.0);
    }
    chains
}

/// AS paths of one origin, by egress.
fn paths(
    draw: &mut Draw,
    params: &Params,
    egresses: &[Egress],
    chains: &[Chain],
    origin: Asn,
) -> Vec<Vec<Asn>> {
    let t = &params.topology;
    let attach =
        |draw: &mut Draw| (!draw.chance(t.direct)).then(|| draw.zipf(chains.len(), t.popularity));
    let usual = attach(draw);
    egresses
        .iter()
        .enumerate()
        .map(|(n, egress)| {
            let at = if n == 0 || draw.chance(t.same_path) {
                usual
            } else {
                attach(draw)
            };
            let mut path = vec![egress.upstream];
            path.extend(at.into_iter().flat_map(|at| chains[at].iter().copied()));
            path.push(origin);
            path
        })
        .collect()
}

/// One-way times there and back, by egress.
fn distances(draw: &mut Draw, params: &Params, egresses: &[Egress]) -> (Vec<u64>, Vec<u64>) {
    let t = &params.topology;
    let rtt = draw
        .lognormal(t.rtt_median_ms, t.rtt_sigma)
        .clamp(t.rtt_ms[0], t.rtt_ms[1]);
    let share = draw.range([0.4, 0.6]);
    let mut out = Vec::new();
    let mut back = Vec::new();
    for (n, egress) in egresses.iter().enumerate() {
        let detour = if n == 0 { 1.0 } else { draw.range([0.8, 1.6]) };
        let micros = rtt * detour * 1000.0;
        out.push(egress.near + (micros * share) as u64);
        back.push(egress.near + (micros * (1.0 - share)) as u64);
    }
    (out, back)
}

impl Topology {
    /// Draws one.
    #[must_use]
    pub fn draw(draw: &mut Draw, params: &Params) -> Self {
        let t = &params.topology;
        let f = &params.family;
        let families = match draw.weighted(&[f.ipv4, f.ipv6, f.both]) {
            0 => [true, false],
            1 => [false, true],
            _ => [true, true],
        };
        let count = if draw.chance(params.world.egresses_three) {
            3
        } else {
            2
        };
        let mut egresses: Vec<Egress> = (0..count)
            .map(|n| Egress {
                name: EgressName::from(["a", "b", "c"][n]),
                interface: format!("wan{n}"),
                upstream: Asn(64_500 + n as u32),
                gateways: [false, true]
                    .into_iter()
                    .filter(|v6| families[usize::from(*v6)])
                    .map(|v6| gateway(n, v6))
                    .collect(),
                silent: false,
                near: draw.log_range([50.0, 1_000.0]) as u64,
            })
            .collect();
        let chains = transit(draw, params);
        let peers = draw.log_range(params.world.peers).round().max(1.0) as usize;
        let family_of = |draw: &mut Draw| match families {
            [true, true] => draw.chance(0.4),
            [_, v6] => v6,
        };

        let mut prefixes = Vec::new();
        let mut bases = Vec::new();
        let mut routes: Vec<Vec<Vec<Asn>>> = Vec::new();
        let wanted = ((peers as f64).powf(0.8).ceil() as usize).max(1);
        let mut origin = 0;
        while prefixes.len() < wanted {
            let asn = Asn(64_600 + origin);
            origin += 1;
            let path = paths(draw, params, &egresses, &chains, asn);
            let own = 1 + draw.zipf(8, 1.5);
            for _ in 0..own {
                let (net, base) = net(prefixes.len(), family_of(draw));
                prefixes.push(net);
                bases.push(base);
                routes.push(path.clone());
            }
        }
        // A prefix has its own distance; its peers lie close together.
        let far: Vec<_> = prefixes
            .iter()
            .map(|_| distances(draw, params, &egresses))
            .collect();
        let mut used = vec![0usize; prefixes.len()];
        let weights: Vec<f64> = (0..prefixes.len())
            .map(|k| ((k + 1) as f64).powf(-t.popularity))
            .collect();
        let hosts = (0..peers)
            .map(|_| {
                let mut prefix = draw.weighted(&weights);
                while used[prefix] >= MOST_IN_PREFIX {
                    prefix = (prefix + 1) % prefixes.len();
                }
                let address = host_in(bases[prefix], used[prefix]);
                used[prefix] += 1;
                let near = draw.range([0.9, 1.1]);
                let scaled = |times: &[u64]| -> Vec<u64> {
                    times.iter().map(|us| (*us as f64 * near) as u64).collect()
                };
                Host {
                    address,
                    prefix,
                    paths: routes[prefix].clone(),
                    out: scaled(&far[prefix].0),
                    back: scaled(&far[prefix].1),
                }
            })
            .collect();
        let each = draw.range([t.anchors[0], t.anchors[1] + 1.0]) as usize;
        let mut anchors = Vec::new();
        for v6 in [false, true] {
            if !families[usize::from(v6)] {
                continue;
            }
            for n in 0..each {
                let asn = Asn(64_700 + (anchors.len() as u32));
                let (out, back) = distances(draw, params, &egresses);
                let address: IpAddr = if v6 {
                    Ipv6Addr::new(0x2001, 0xdb8, 0x99, n as u16, 0, 0, 0, 1).into()
                } else {
                    Ipv4Addr::new(198, 18, n as u8, 1).into()
                };
                prefixes.push(
                    IpNet::new(address, if v6 { 64 } else { 24 })
                        .map_or_else(|_| IpNet::from(address), |net| net.trunc()),
                );
                anchors.push(Host {
                    address,
                    prefix: prefixes.len() - 1,
                    paths: paths(draw, params, &egresses, &chains, asn),
                    out,
                    back,
                });
            }
        }
        let inbound = if draw.chance(t.answers_by_primary) {
            0
        } else {
            1
        };
        let fib_specific = draw.chance(t.fib_specific);
        for egress in &mut egresses {
            egress.silent = draw.chance(t.gateways_silent);
        }
        Self {
            egresses,
            prefixes,
            peers: hosts,
            anchors,
            inbound,
            families,
            fib_specific,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_world_has_distinct_hosts_inside_their_prefixes_and_tree_paths() {
        let params = Params::shipped().expect("shipped");
        let mut sizes = BTreeSet::new();
        for seed in 0..60 {
            let world = Topology::draw(&mut Draw::new(seed, 0), &params);
            sizes.insert(world.peers.len());
            let addresses: BTreeSet<_> = world.peers.iter().map(|p| p.address).collect();
            assert_eq!(addresses.len(), world.peers.len());
            for host in world.peers.iter().chain(&world.anchors) {
                assert!(world.prefixes[host.prefix].contains(&host.address));
                assert!(world.families[usize::from(host.v6())]);
                for (egress, path) in world.egresses.iter().zip(&host.paths) {
                    assert_eq!(path[0], egress.upstream);
                    let distinct: BTreeSet<_> = path.iter().collect();
                    assert_eq!(distinct.len(), path.len(), "no loop");
                }
            }
            let anchors: BTreeSet<_> = world.anchors.iter().map(|a| a.paths[0].last()).collect();
            assert_eq!(anchors.len(), world.anchors.len(), "an AS each");
        }
        assert!(
            sizes.first() < Some(&6) && sizes.last() > Some(&300),
            "{sizes:?}"
        );
    }
}

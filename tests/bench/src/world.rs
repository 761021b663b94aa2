//! The network that everything is measured in: a host with two uplinks, and what it talks to.
//!
//! ```text
//!            wan0  192.0.2.0/25   near: gateway, anchors, 198.18.0.0/16 full of peers
//!   host ──<
//!            wan1  192.0.2.128/25 far: gateway, anchors
//! ```

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use lab::ns::Space;

/// The namespace that the daemon watches.
pub const HOST: &str = "host";
/// The peers' namespace, behind the primary uplink.
pub const NEAR: &str = "near";
/// Behind the backup uplink.
pub const FAR: &str = "far";

/// The host's own address, of its connections.
pub const OWN: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
/// Packets to it vanish behind the gateway.
pub const SILENT: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);
/// Peers listen here.
pub const PORT: u16 = 8000;
/// Nobody listens here.
pub const CLOSED_PORT: u16 = 9;

/// Peers that there are addresses for.
pub const MOST_PEERS: usize = 60_000;

/// The peer with this number.
pub fn peer(number: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 1, 0)) + (number % MOST_PEERS) as u32)
}

/// An IPv4 socket address.
pub fn at(address: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::V4(SocketAddrV4::new(address, port))
}

/// Builds it.
///
/// # Errors
/// Not root, or `ip` fails.
pub fn build() -> anyhow::Result<Space> {
    let space = Space::new(&[HOST, NEAR, FAR], false)?;
    for (role, uplink) in [(NEAR, "wan0"), (FAR, "wan1")] {
        space.ip_batch(
            HOST,
            &format!(
                "link add {uplink} type veth peer name host netns {}\n",
                space.name(role)
            ),
        )?;
        let (host, gateway) = match role {
            NEAR => ("192.0.2.2", "192.0.2.1"),
            _ => ("192.0.2.130", "192.0.2.129"),
        };
        let mut lines = format!(
            "address add {gateway}/25 dev host\nlink set host up\n\
             route add {OWN}/32 via {host}\nroute add local 203.0.113.0/24 dev lo\n"
        );
        if role == NEAR {
            lines += "route add local 198.18.0.0/16 dev lo\nroute add blackhole 198.19.0.0/16\n";
        }
        space.ip_batch(
            HOST,
            &format!("address add {host}/25 dev {uplink}\nlink set {uplink} up\n"),
        )?;
        space.ip_batch(role, &lines)?;
        space.sysctl(
            role,
            &[("ipv4/ip_forward", "1"), ("ipv4/icmp_ratelimit", "0")],
        )?;
    }
    space.ip_batch(
        HOST,
        &format!(
            "address add {OWN}/32 dev lo\n\
             route add default via 192.0.2.1 dev wan0 src {OWN} metric 100\n\
             route add default via 192.0.2.129 dev wan1 src {OWN} metric 200\n"
        ),
    )?;
    for role in [HOST, NEAR, FAR] {
        space.sysctl(
            role,
            &[
                ("ipv4/conf/all/rp_filter", "0"),
                ("ipv4/conf/default/rp_filter", "0"),
                ("ipv4/ip_local_port_range", "10000 65000"),
                ("core/somaxconn", "65535"),
            ],
        )?;
    }
    Ok(space)
}

/// The process that plays the validator: the benchmark itself, by the name of its first thread.
pub const PROCESS: &str = "netwatch-bench";

/// What the daemon is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Config {
    /// Nothing but where its files go: all defaults.
    Passive,
    /// Two egresses with gateways, four anchors, a flow source: always-on probes through both.
    Probing,
    /// The host's process is the validator, and its peers' port the consensus port.
    Watched,
}

impl Config {
    /// Its name in cases.
    pub fn name(self) -> &'static str {
        match self {
            Self::Passive => "passive",
            Self::Probing => "probing",
            Self::Watched => "watched",
        }
    }

    /// The file.
    pub fn text(self, directory: &std::path::Path) -> String {
        let directory = directory.display();
        let mut text = format!(
            "[host]\nname = \"bench\"\nstate_dir = \"{directory}/state\"\nruntime_dir = \"{directory}/run\"\n"
        );
        if self == Self::Watched {
            text +=
                &format!("\n[watch]\nprocesses = [\"{PROCESS}\"]\nconsensus_ports = [{PORT}]\n");
        }
        if self == Self::Probing {
            text += &format!(
                r#"
[[egress]]
name = "a"
interface = "wan0"
gateways = ["192.0.2.1"]

[[egress]]
name = "b"
interface = "wan1"
gateways = ["192.0.2.129"]

[probe]
flow_sources = ["{OWN}"]
anchors = [
  {{ address = "203.0.113.1", asn = 64500 }},
  {{ address = "203.0.113.65", asn = 64501 }},
  {{ address = "203.0.113.129", asn = 64502 }},
  {{ address = "203.0.113.193", asn = 64503 }},
]
"#
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_have_addresses_of_their_own() {
        assert_eq!(peer(0), Ipv4Addr::new(198, 18, 1, 0));
        assert_eq!(peer(256), Ipv4Addr::new(198, 18, 2, 0));
        assert_eq!(peer(MOST_PEERS), peer(0));
        assert!(u32::from(peer(MOST_PEERS - 1)) < u32::from(Ipv4Addr::new(198, 19, 0, 0)));
    }
}

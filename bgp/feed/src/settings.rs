use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bgp_core::{Families, RibLimits, Role};
use events::{Asn, EgressName, Prefix};

use crate::rpki::RpkiSettings;

/// The port of BGP.
pub const BGP_PORT: u16 = 179;

/// What the feed is to do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Our AS.
    pub local_as: Asn,
    /// Our BGP identifier.
    pub router_id: Ipv4Addr,
    /// Where neighbours connect to. An IPv6 address never takes IPv4 connections. Connections that
    /// we open come from the first definite address of their family here.
    pub listen: Vec<SocketAddr>,
    /// Our offer of a hold time: zero or 3 s to 65535 s, in whole seconds.
    pub hold_time: Duration,
    /// ConnectRetryTime: between attempts to connect, before jitter.
    pub connect_retry: Duration,
    /// SendHoldTime (RFC 9687); `None`: the greater of 8 min and twice the hold time.
    pub send_hold: Option<Duration>,
    /// The neighbours; with none, and no dynamic ones, nothing is listened to.
    pub neighbors: Vec<NeighborSettings>,
    /// Neighbours that are known by their prefix only.
    pub dynamic: Vec<DynamicSettings>,
    /// Bounds of the RIB.
    pub rib: RibLimits,
    /// Where origins are validated from.
    pub rpki: RpkiSettings,
}

/// One neighbour.
#[derive(Clone, Debug)]
pub struct NeighborSettings {
    /// Its address: connections from elsewhere are refused.
    pub address: IpAddr,
    /// Where it listens; used only if `passive` is false.
    pub port: u16,
    /// The interface that it is behind; needed for a link-local address, and for no other.
    pub interface: Option<String>,
    /// The AS that it must be; iBGP where it is ours.
    pub asn: Asn,
    /// Wait for it to connect. If false, connect as well.
    pub passive: bool,
    /// What is expected of it.
    pub peer: PeerSettings,
}

/// Neighbours that may connect from anywhere in a prefix.
#[derive(Clone, Debug)]
pub struct DynamicSettings {
    /// Where from.
    pub prefix: Prefix,
    /// The ASes of which each must be one.
    pub asn: Vec<Asn>,
    /// How many there may be at once. Beyond, one without a connection is forgotten, with its
    /// routes; where all are connected, the newcomer is refused.
    pub limit: usize,
    /// What is expected of each.
    pub peer: PeerSettings,
}

/// What is expected of a neighbour.
#[derive(Clone, Debug)]
pub struct PeerSettings {
    /// The uplink that its routes stand for.
    pub egress: EgressName,
    /// The most prefixes per family that it may announce; beyond, the session is stopped.
    pub max_prefixes: u32,
    /// Share of them, in percent, from which on there is a warning.
    pub max_prefixes_warn: u8,
    /// How long it is refused after it announced more; `None`: until the daemon's restart.
    pub max_prefixes_restart: Option<Duration>,
    /// Families for which several paths are taken (RFC 7911).
    pub add_path: Families,
    /// What we are to it (RFC 9234); `None`: no role is told, nothing is checked.
    pub role: Option<Role>,
    /// It must tell its role.
    pub role_strict: bool,
    /// The file with its TCP-MD5 key (RFC 2385), which its owner alone may read.
    pub password_file: Option<PathBuf>,
    /// It is at most so many hops away (RFC 5082); 1 where it is on the same link.
    pub ttl_security: Option<u8>,
}

impl PeerSettings {
    /// A neighbour of an egress of which nothing special is expected.
    #[must_use]
    pub const fn new(egress: EgressName) -> Self {
        Self {
            egress,
            max_prefixes: 2_000_000,
            max_prefixes_warn: 80,
            max_prefixes_restart: Some(Duration::from_mins(1)),
            add_path: Families::NONE,
            role: None,
            role_strict: false,
            password_file: None,
            ttl_security: None,
        }
    }
}

/// Why the feed cannot start.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum StartError {
    /// A setting is impossible.
    #[error("bgp: {0}")]
    Settings(String),
    /// A listening socket cannot be had.
    #[error("bgp: cannot listen on {address}: {source}; {}", remedy(source))]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    /// A neighbour's TCP-MD5 key cannot be had.
    #[error("bgp: no TCP-MD5 key for {neighbor} from {}: {source}; correct password_file", path.display())]
    Password {
        neighbor: String,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// There is no Tokio runtime.
    #[error("bgp: the feed must be started within a Tokio runtime")]
    Runtime,
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities=), \
             or set bgp.listen to a higher port"
        }
        io::ErrorKind::AddrInUse => {
            "another process listens there, perhaps a routing daemon (see `ss -ltnp`): stop it, \
             or set bgp.listen to another address or port"
        }
        io::ErrorKind::AddrNotAvailable => {
            "the host does not have this address: correct bgp.listen, or use 0.0.0.0 or [::]"
        }
        _ => "check bgp.listen",
    }
}

impl Settings {
    pub(crate) fn check(&self) -> Result<(), StartError> {
        let fail = |text: String| Err(StartError::Settings(text));
        let seconds = self.hold_time.as_secs();
        if self.hold_time.subsec_nanos() != 0 || matches!(seconds, 1 | 2) || seconds > 65535 {
            return fail(format!(
                "hold_time is {:?}; it must be 0 or 3 to 65535 whole seconds",
                self.hold_time
            ));
        }
        if self.router_id.is_unspecified() {
            return fail("router_id is 0.0.0.0; use an IPv4 address of this host".to_owned());
        }
        if self.local_as.0 == 0 {
            return fail("local_as is 0, which RFC 7607 forbids".to_owned());
        }
        let listens = |ipv4: bool| self.listen.iter().any(|listen| listen.is_ipv4() == ipv4);
        for (number, neighbor) in self.neighbors.iter().enumerate() {
            let address = neighbor.address.to_canonical();
            let same = |other: &NeighborSettings| other.address.to_canonical() == address;
            if self.neighbors.iter().take(number).any(same) {
                return fail(format!("neighbor {address} is there twice"));
            }
            if neighbor.passive && !listens(address.is_ipv4()) {
                return fail(format!(
                    "neighbor {address} is waited for, and listen has no address of its family"
                ));
            }
            if neighbor.asn.0 == 0 {
                return fail(format!("neighbor {address}: asn is 0"));
            }
            let local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
            if local != neighbor.interface.is_some() {
                return fail(format!(
                    "neighbor {address}: interface is for link-local addresses, which need it"
                ));
            }
        }
        for group in &self.dynamic {
            let prefix = group.prefix;
            if !listens(prefix.network().is_ipv4()) {
                return fail(format!(
                    "neighbors in {prefix} are waited for, and listen has no address of their family"
                ));
            }
            if group.asn.is_empty() || group.asn.contains(&Asn(0)) {
                return fail(format!("neighbors in {prefix}: asn is empty or has 0"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listen_error_names_the_address_and_the_remedy() {
        let error = |kind| StartError::Listen {
            address: "0.0.0.0:179".parse().unwrap(),
            source: io::Error::from(kind),
        };
        let denied = error(io::ErrorKind::PermissionDenied).to_string();
        assert!(denied.contains("0.0.0.0:179") && denied.contains("CAP_NET_BIND_SERVICE"));
        let used = error(io::ErrorKind::AddrInUse).to_string();
        assert!(used.contains("another process listens there"));
    }

    #[test]
    fn impossible_settings_are_refused() {
        let good = Settings {
            local_as: Asn(1),
            router_id: Ipv4Addr::new(192, 0, 2, 1),
            listen: Vec::new(),
            hold_time: Duration::from_secs(90),
            connect_retry: Duration::from_secs(10),
            send_hold: None,
            neighbors: Vec::new(),
            dynamic: Vec::new(),
            rib: RibLimits::default(),
            rpki: RpkiSettings::default(),
        };
        let neighbor = NeighborSettings {
            address: [192, 0, 2, 2].into(),
            port: BGP_PORT,
            interface: None,
            asn: Asn(2),
            passive: true,
            peer: PeerSettings::new("a".into()),
        };
        assert!(good.check().is_ok());
        let bad: [fn(&mut Settings); 4] = [
            |settings| settings.hold_time = Duration::from_secs(2),
            |settings| settings.hold_time = Duration::from_millis(3500),
            |settings| settings.router_id = Ipv4Addr::UNSPECIFIED,
            |settings| settings.local_as = Asn(0),
        ];
        for spoil in bad {
            let mut settings = good.clone();
            spoil(&mut settings);
            assert!(settings.check().is_err());
        }
        let mut deaf = good.clone();
        deaf.neighbors = vec![neighbor.clone()];
        deaf.listen = vec!["[::]:179".parse().unwrap()];
        assert!(deaf.check().is_err());
        let mut local = deaf.clone();
        local.neighbors[0].address = "fe80::1".parse().unwrap();
        assert!(local.check().is_err());
        local.neighbors[0].interface = Some("wan0".to_owned());
        assert!(local.check().is_ok());
        let mut twice = good;
        twice.listen = vec!["127.0.0.1:179".parse().unwrap()];
        twice.neighbors = vec![neighbor.clone(), neighbor];
        assert!(twice.check().is_err());
    }
}

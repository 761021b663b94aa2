use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bgp_core::RibLimits;
use events::{Asn, EgressName};

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
    /// The neighbours; with none, nothing is listened to.
    pub neighbors: Vec<NeighborSettings>,
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
    /// The AS that it must be; iBGP where it is ours.
    pub asn: Asn,
    /// The uplink that its routes stand for.
    pub egress: EgressName,
    /// Wait for it to connect. If false, connect as well.
    pub passive: bool,
    /// The most prefixes per family that it may announce; beyond, the session is stopped.
    pub max_prefixes: u32,
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
        for (number, neighbor) in self.neighbors.iter().enumerate() {
            let same = |other: &NeighborSettings| {
                other.address.to_canonical() == neighbor.address.to_canonical()
            };
            if self.neighbors.iter().take(number).any(same) {
                return fail(format!("neighbor {} is there twice", neighbor.address));
            }
            let reachable =
                |listen: &SocketAddr| listen.is_ipv4() == neighbor.address.to_canonical().is_ipv4();
            if neighbor.passive && !self.listen.iter().any(reachable) {
                return fail(format!(
                    "neighbor {} is waited for, and listen has no address of its family",
                    neighbor.address
                ));
            }
            if neighbor.asn.0 == 0 {
                return fail(format!("neighbor {}: asn is 0", neighbor.address));
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
            neighbors: Vec::new(),
            rib: RibLimits::default(),
            rpki: RpkiSettings::default(),
        };
        let neighbor = NeighborSettings {
            address: [192, 0, 2, 2].into(),
            port: BGP_PORT,
            asn: Asn(2),
            egress: "a".into(),
            passive: true,
            max_prefixes: 10,
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
        let mut twice = good;
        twice.listen = vec!["127.0.0.1:179".parse().unwrap()];
        twice.neighbors = vec![neighbor.clone(), neighbor];
        assert!(twice.check().is_err());
    }
}

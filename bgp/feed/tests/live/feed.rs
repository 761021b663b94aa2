//! The feed under test, with what it said so far.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bgp_feed::{Handle, NeighborSettings, NeighborStatus, PeerSettings, Settings};
use events::{Asn, BgpSignal, NeighborId, PeerKey, RouteChange, RouteFact, SessionDownReason};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Bound of every wait; what is waited for takes milliseconds to a few seconds.
const LIMIT: Duration = Duration::from_secs(30);

pub const LOCAL_AS: u32 = 211_396;

pub struct Feed {
    pub handle: Handle,
    pub signals: mpsc::Receiver<BgpSignal>,
}

pub fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

pub fn settings(listen: &str, neighbor: &str, asn: u32) -> Settings {
    Settings {
        local_as: Asn(LOCAL_AS),
        router_id: Ipv4Addr::new(198, 51, 100, 10),
        listen: vec![SocketAddr::new(ip(listen), 0)],
        hold_time: Duration::from_secs(90),
        rib: bgp_feed::RibLimits::default(),
        rpki: bgp_feed::RpkiSettings::default(),
        connect_retry: Duration::from_secs(2),
        send_hold: None,
        neighbors: vec![NeighborSettings {
            address: ip(neighbor),
            port: bgp_feed::BGP_PORT,
            interface: None,
            asn: Asn(asn),
            passive: true,
            peer: PeerSettings {
                max_prefixes: 1000,
                ..PeerSettings::new("a".into())
            },
        }],
        dynamic: Vec::new(),
    }
}

impl Feed {
    pub fn start(settings: Settings) -> Self {
        Self::with_sink(settings, 1024)
    }

    pub fn with_sink(settings: Settings, depth: usize) -> Self {
        let (sink, signals) = mpsc::channel(depth);
        let handle = bgp_feed::spawn(settings, sink).unwrap();
        Self { handle, signals }
    }

    pub fn address(&self) -> SocketAddr {
        self.handle.listening()[0]
    }

    pub async fn next(&mut self) -> BgpSignal {
        match timeout(LIMIT, self.signals.recv()).await {
            Ok(signal) => signal.expect("the feed ended"),
            Err(_) => panic!("no signal within {LIMIT:?}: {:?}", self.status().await),
        }
    }

    /// Whether a signal is there already.
    pub fn try_next(&mut self) -> Option<BgpSignal> {
        self.signals.try_recv().ok()
    }

    /// Passes over signals until `wanted` likes one.
    pub async fn until<T>(&mut self, mut wanted: impl FnMut(BgpSignal) -> Option<T>) -> T {
        loop {
            if let Some(found) = wanted(self.next().await) {
                return found;
            }
        }
    }

    pub async fn up(&mut self) -> (NeighborId, Asn) {
        self.until(|signal| match signal {
            BgpSignal::SessionUp { neighbor, asn, .. } => Some((neighbor, asn)),
            _ => None,
        })
        .await
    }

    pub async fn down(&mut self) -> SessionDownReason {
        self.until(|signal| match signal {
            BgpSignal::SessionDown { reason, .. } => Some(reason),
            _ => None,
        })
        .await
    }

    /// Both families' End-of-RIB.
    pub async fn complete(&mut self) {
        let (mut v4, mut v6) = (false, false);
        self.until(|signal| {
            if let BgpSignal::EndOfRib { ipv6, .. } = signal {
                v4 |= !ipv6;
                v6 |= ipv6;
            }
            (v4 && v6).then_some(())
        })
        .await;
    }

    pub async fn change(&mut self, prefix: &str) -> RouteChange {
        self.until(|signal| match signal {
            BgpSignal::Change(change) if change.prefix.to_string() == prefix => Some(change),
            _ => None,
        })
        .await
    }

    pub async fn fact(&mut self, peer: &str) -> RouteFact {
        let peer = PeerKey(ip(peer));
        self.until(|signal| match signal {
            BgpSignal::Fact(fact) if fact.peer == peer => Some(fact),
            _ => None,
        })
        .await
    }

    /// The next fact about a peer that is stale, or is not.
    pub async fn until_fact(&mut self, peer: &str, stale: bool) -> RouteFact {
        loop {
            let fact = self.fact(peer).await;
            if fact.stale == stale {
                return fact;
            }
        }
    }

    pub async fn status(&self) -> NeighborStatus {
        self.handle.neighbors().await.remove(0)
    }

    /// Waits until the neighbour's last error contains a text; the error.
    pub async fn error_with(&self, text: &str) -> String {
        let found = async {
            loop {
                match self.status().await.last_error {
                    Some(error) if error.contains(text) => return error,
                    _ => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        let limit = timeout(LIMIT, found).await;
        limit.unwrap_or_else(|_| panic!("no error with {text:?}"))
    }
}

//! The feed under test, with stations only.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bgp_feed::{BmpSettings, Handle, RouterSettings, RouterStatus, Settings, Stations};
use events::{Asn, BgpSignal, RibQuery, RibRoute, RibView};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// Bound of every wait.
pub const LIMIT: Duration = Duration::from_secs(40);

pub fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

pub fn router(address: &str, egress: &str) -> RouterSettings {
    RouterSettings {
        address: ip(address),
        connect: None,
        egress: egress.into(),
        peers: BTreeMap::new(),
        views: vec![RibView::InPrePolicy, RibView::InPostPolicy, RibView::Loc],
        max_prefixes: 1000,
    }
}

pub struct Feed {
    pub handle: Handle,
    pub signals: mpsc::Receiver<BgpSignal>,
}

impl Feed {
    pub fn start(stations: Stations) -> Self {
        let (sink, signals) = mpsc::channel(1024);
        let settings = Settings {
            local_as: Asn(211_396),
            router_id: Ipv4Addr::new(198, 51, 100, 10),
            listen: Vec::new(),
            hold_time: Duration::from_secs(90),
            connect_retry: Duration::from_secs(10),
            send_hold: None,
            rib: bgp_feed::RibLimits::default(),
            rpki: bgp_feed::RpkiSettings::default(),
            neighbors: Vec::new(),
            dynamic: Vec::new(),
        };
        let handle = bgp_feed::spawn_with(settings, stations, sink).unwrap();
        Self { handle, signals }
    }

    pub fn bmp(routers: Vec<RouterSettings>) -> Self {
        Self::start(Stations {
            bmp: BmpSettings {
                listen: vec![SocketAddr::new(ip(crate::namespace::FEED), 0)],
                routers,
            },
            ris: None,
        })
    }

    /// Passes over signals until `wanted` likes one.
    pub async fn until<T>(&mut self, mut wanted: impl FnMut(BgpSignal) -> Option<T>) -> T {
        let search = async {
            loop {
                let signal = self.signals.recv().await.expect("the feed ended");
                if let Some(found) = wanted(signal) {
                    return found;
                }
            }
        };
        match timeout(LIMIT, search).await {
            Ok(found) => found,
            Err(_) => panic!(
                "no such signal within {LIMIT:?}: {:?}",
                self.handle.routers().await
            ),
        }
    }

    /// A session of a neighbour of this text comes up.
    pub async fn up(&mut self, neighbor: &str) {
        self.until(|signal| match signal {
            BgpSignal::SessionUp { neighbor: id, .. } if id.to_string() == neighbor => Some(()),
            _ => None,
        })
        .await;
    }

    pub async fn down(&mut self, neighbor: &str) -> String {
        self.until(|signal| match signal {
            BgpSignal::SessionDown {
                neighbor: id,
                reason,
                ..
            } if id.to_string() == neighbor => Some(format!("{reason:?}")),
            _ => None,
        })
        .await
    }

    /// Waits until the routes for an address are `wanted`.
    pub async fn routes(
        &self,
        address: &str,
        wanted: impl Fn(&[RibRoute]) -> bool,
    ) -> Vec<RibRoute> {
        let search = async {
            loop {
                let routes = self.handle.rib(RibQuery::Address(ip(address)), 100).await;
                if wanted(&routes) {
                    return routes;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        match timeout(LIMIT, search).await {
            Ok(routes) => routes,
            Err(_) => {
                let routes = self.handle.rib(RibQuery::All, 100).await;
                panic!("not within {LIMIT:?}: {routes:#?}");
            }
        }
    }

    /// Waits until a router's state is `wanted`.
    pub async fn router(
        &self,
        index: usize,
        wanted: impl Fn(&RouterStatus) -> bool,
    ) -> RouterStatus {
        let search = async {
            loop {
                let status = self.handle.routers().await.swap_remove(index);
                if wanted(&status) {
                    return status;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        match timeout(LIMIT, search).await {
            Ok(status) => status,
            Err(_) => panic!("not within {LIMIT:?}: {:#?}", self.handle.routers().await),
        }
    }
}

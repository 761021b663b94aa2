//! `[bgp.bmp]` and `[bgp.ris]`: routes of other routers.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;

use crate::Egress;
use crate::parse::{listener, path, prefixes};
use crate::read::{At, Item, Report, Section};

/// The BMP station.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bmp {
    /// Where routers connect to.
    pub listen: Vec<SocketAddr>,
    /// The routers that may.
    pub routers: Vec<BmpRouter>,
}

/// A monitored router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BmpRouter {
    /// The address that it connects from; unique.
    pub address: IpAddr,
    /// Connect to this port of it, instead of waiting.
    pub connect: Option<u16>,
    /// The egress that its neighbours' routes stand for.
    pub egress: String,
    /// Neighbours of it that stand for another egress.
    pub peers: Vec<BmpPeer>,
    /// The tables that are taken.
    pub views: Vec<BmpView>,
}

/// A neighbour of a monitored router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BmpPeer {
    /// Its address; unique.
    pub address: IpAddr,
    /// The egress that its routes stand for.
    pub egress: String,
}

/// A table of a monitored router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BmpView {
    /// Adj-RIB-In before policy.
    InPre,
    /// Adj-RIB-In after it.
    InPost,
    /// Adj-RIB-Out before policy.
    OutPre,
    /// Adj-RIB-Out after it.
    OutPost,
    /// Loc-RIB.
    Loc,
}

impl BmpView {
    const NAMES: [(Self, &'static str); 5] = [
        (Self::InPre, "in-pre"),
        (Self::InPost, "in-post"),
        (Self::OutPre, "out-pre"),
        (Self::OutPost, "out-post"),
        (Self::Loc, "loc"),
    ];
}

/// RIS Live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ris {
    /// Where it is.
    pub url: String,
    /// A PEM file of authorities that are trusted besides the host's.
    pub ca_file: Option<PathBuf>,
    /// What is asked for.
    pub prefixes: Vec<IpNet>,
    /// The egress that its routes stand for.
    pub egress: String,
}

pub(crate) fn bmp(s: &mut Section<'_>, egress: &[Egress], report: &Report<'_>) -> Option<Bmp> {
    let mut s = s.take("bmp")?.section()?;
    let mut bmp = Bmp::default();
    for item in s
        .take("listen")
        .map_or_else(Vec::new, |i| i.array("addresses with ports"))
    {
        bmp.listen
            .extend(listener(&item, report).map(|listen| listen.value));
    }
    let routers = s.require("router", "a [[bgp.bmp.router]]; others may not connect");
    for item in routers.map_or_else(Vec::new, |i| i.array("tables ([[bgp.bmp.router]])")) {
        let Some((router, place)) = router(item, egress, report) else {
            continue;
        };
        if bmp.routers.iter().any(|r| r.address == router.address) {
            place.problem(
                report,
                "another router has this address; addresses are unique",
            );
        }
        let reachable = |listen: &SocketAddr| listen.is_ipv4() == router.address.is_ipv4();
        if router.connect.is_none() && !bmp.listen.iter().any(reachable) {
            place.problem(
                report,
                "bgp.bmp.listen has no address of its family; add one, such as \"0.0.0.0:11019\", \
                 or set `connect` to the router's port",
            );
        }
        bmp.routers.push(router);
    }
    s.finish();
    Some(bmp)
}

fn router(
    item: Item<'_>,
    egress: &[Egress],
    report: &Report<'_>,
) -> Option<(BmpRouter, At<IpAddr>)> {
    let mut s = item.section()?;
    let address = s
        .require("address", "the address that the router connects from")
        .and_then(|i| host(&i, report));
    let connect = s
        .take("connect")
        .and_then(|i| i.integer::<u16>(1..=65535, "a port"))
        .map(|port| port.value);
    let name = s
        .require(
            "egress",
            "the name of the [[egress]] that its neighbors' routes stand for",
        )
        .and_then(|i| known_egress(&i, egress, report));
    let views = s.take("views").map(|i| views(i, report));
    let mut peers: Vec<BmpPeer> = Vec::new();
    for item in s
        .take("peer")
        .map_or_else(Vec::new, |i| i.array("tables ([[bgp.bmp.router.peer]])"))
    {
        let Some(mut s) = item.section() else {
            continue;
        };
        let address = s
            .require("address", "the neighbor's address")
            .and_then(|i| host(&i, report));
        let name = s
            .require("egress", "the name of the [[egress]] that it stands for")
            .and_then(|i| known_egress(&i, egress, report));
        s.finish();
        if let (Some(address), Some(name)) = (address, name) {
            if peers.iter().any(|peer| peer.address == address.value) {
                address.problem(report, "is listed twice");
            }
            peers.push(BmpPeer {
                address: address.value,
                egress: name,
            });
        }
    }
    s.finish();
    let address = address?;
    let router = BmpRouter {
        address: address.value,
        connect,
        egress: name?,
        peers,
        views: views.unwrap_or_else(|| vec![BmpView::InPre, BmpView::InPost, BmpView::Loc]),
    };
    Some((router, address))
}

fn views(item: Item<'_>, report: &Report<'_>) -> Vec<BmpView> {
    let mut found = Vec::new();
    for item in item.array("views") {
        let Some(text) = item.text() else { continue };
        let view = BmpView::NAMES.iter().find(|(_, name)| *name == text.value);
        match view {
            Some((view, _)) if found.contains(view) => text.problem(report, "is listed twice"),
            Some((view, _)) => found.push(*view),
            None => {
                let names: Vec<&str> = BmpView::NAMES.iter().map(|(_, name)| *name).collect();
                text.problem(
                    report,
                    format!("is no view; there are: {}", names.join(", ")),
                );
            }
        }
    }
    found
}

pub(crate) fn ris(s: &mut Section<'_>, egress: &[Egress], report: &Report<'_>) -> Option<Ris> {
    let mut s = s.take("ris")?.section()?;
    let url = s.take("url").and_then(|i| i.text());
    if let Some(url) = &url
        && !url.value.starts_with("wss://")
        && !url.value.starts_with("ws://")
    {
        url.problem(report, "must begin with wss:// (or ws://)");
    }
    let prefixes = prefixes(s.take("prefixes"), report);
    let ca_file = path(s.take("ca_file"), report);
    let name = s
        .require(
            "egress",
            "the name of the [[egress]] that its routes stand for",
        )
        .and_then(|i| known_egress(&i, egress, report));
    s.finish();
    Some(Ris {
        url: url.map_or_else(
            || "wss://ris-live.ripe.net/v1/ws/?client=netwatch".to_owned(),
            |url| url.value,
        ),
        ca_file,
        prefixes: prefixes.into_iter().map(|prefix| prefix.value).collect(),
        egress: name?,
    })
}

fn host(item: &Item<'_>, report: &Report<'_>) -> Option<At<IpAddr>> {
    let address = item.parsed::<IpAddr>("an IP address")?;
    if address.value.is_unspecified() || address.value.is_multicast() {
        address.problem(report, "is not the address of one host");
    }
    Some(address)
}

fn known_egress(item: &Item<'_>, egress: &[Egress], report: &Report<'_>) -> Option<String> {
    let name = item.text()?;
    if !egress.iter().any(|e| e.name == name.value) {
        let names: Vec<&str> = egress.iter().map(|e| e.name.as_str()).collect();
        let there = if names.is_empty() {
            "declare it with [[egress]]".to_owned()
        } else {
            format!("there are: {}", names.join(", "))
        };
        name.problem(
            report,
            format!("there is no egress `{}`; {there}", name.value),
        );
    }
    Some(name.value)
}

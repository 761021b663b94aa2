//! RIS Live (<https://ris-live.ripe.net/manual/>): JSON lines of RIPE's route collectors.
//!
//! The decoded fields are read, not `raw`: a line does not say what the collector's session
//! negotiated, and so not how its octets are to be read.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use events::{Asn, Prefix};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::attributes::{
    AttributeError, Attributes, ErrorLevel, OPTIONAL, Origin, TRANSITIVE, kind, subcode,
};
use crate::nlri::Nlri;
use crate::path::{AsPath, Segment, SegmentKind};
use crate::update::{Announcement, Update};

/// The longest line that is read. RIS Live has lines of some 100 KB.
pub const MAX_LINE: usize = 4 * 1024 * 1024;

/// A line that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RisError(String);

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RisMessage {
    /// An UPDATE of a peer.
    Update {
        /// The peer.
        peer: RisPeer,
        /// What it does.
        update: Update,
    },
    /// The collector's session with a peer came up or went down.
    PeerState {
        /// The peer.
        peer: RisPeer,
        /// It came up.
        up: bool,
    },
    /// A message that changes no route: OPEN, KEEPALIVE, NOTIFICATION, or one of the service itself
    /// (`pong`, `ris_subscribe_ok`).
    Other(String),
    /// The service refuses what was asked.
    ServiceError(String),
}

/// A peer of a collector.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct RisPeer {
    /// Its address.
    pub address: IpAddr,
    /// Its AS.
    pub asn: Asn,
    /// The collector, such as `rrc00.ripe.net`.
    pub host: String,
    /// When the collector received the message, in microseconds since 1970.
    pub microseconds: u64,
}

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "type")]
    kind: Option<String>,
    data: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Data {
    timestamp: Option<f64>,
    peer: IpAddr,
    peer_asn: Number,
    #[serde(default)]
    host: String,
    #[serde(rename = "type")]
    kind: String,
    state: Option<String>,
    #[serde(default)]
    path: Vec<Hop>,
    #[serde(default)]
    community: Vec<(u16, u16)>,
    origin: Option<String>,
    med: Option<u32>,
    aggregator: Option<String>,
    #[serde(default)]
    announcements: Vec<Routes>,
    #[serde(default)]
    withdrawals: Vec<Prefix>,
}

#[derive(Deserialize)]
struct Routes {
    next_hop: String,
    prefixes: Vec<Prefix>,
}

/// An AS in the path, or an AS_SET.
#[derive(Deserialize)]
#[serde(untagged)]
enum Hop {
    One(u32),
    Set(Vec<u32>),
}

/// The service writes AS numbers as strings.
#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Number(u32),
    Text(String),
}

/// Decodes a line: the service's envelope, or the data alone.
///
/// # Errors
/// A line that is no JSON, or lacks what an UPDATE needs.
pub fn decode(line: &[u8]) -> Result<RisMessage, RisError> {
    let wrong = |error: serde_json::Error| RisError(error.to_string());
    if line.len() > MAX_LINE {
        return Err(RisError(format!(
            "the line has {} octets, more than {MAX_LINE}",
            line.len()
        )));
    }
    let value: serde_json::Value = serde_json::from_slice(line).map_err(wrong)?;
    let enveloped = value.get("data").is_some() || value.get("peer").is_none();
    let value = if enveloped {
        let line: Line = serde_json::from_value(value).map_err(wrong)?;
        match (line.kind.as_deref(), line.data) {
            (Some("ris_message") | None, Some(data)) => data,
            (Some("ris_error"), data) => {
                let text = data.as_ref().and_then(|data| data.get("message")?.as_str());
                let text = text.unwrap_or("it does not say why").to_owned();
                return Ok(RisMessage::ServiceError(text));
            }
            (Some(other), _) => return Ok(RisMessage::Other(other.to_owned())),
            (None, None) => return Err(RisError("there is neither type nor data".to_owned())),
        }
    } else {
        value
    };
    let data: Data = serde_json::from_value(value).map_err(wrong)?;
    message(data)
}

fn message(data: Data) -> Result<RisMessage, RisError> {
    let asn = match &data.peer_asn {
        Number::Number(number) => *number,
        Number::Text(text) => text
            .parse()
            .map_err(|_| RisError(format!("peer_asn {text:?} is no AS number")))?,
    };
    let seconds = data.timestamp.filter(|seconds| *seconds >= 0.0);
    let peer = RisPeer {
        address: data.peer,
        asn: Asn(asn),
        host: data.host.clone(),
        // A float of seconds: the cast saturates.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        microseconds: (seconds.unwrap_or(0.0) * 1e6) as u64,
    };
    match data.kind.as_str() {
        "UPDATE" => Ok(RisMessage::Update {
            update: update(&data)?,
            peer,
        }),
        "RIS_PEER_STATE" => match data.state.as_deref() {
            Some("connected") => Ok(RisMessage::PeerState { peer, up: true }),
            Some("down") => Ok(RisMessage::PeerState { peer, up: false }),
            other => Err(RisError(format!("peer state {other:?} is unknown"))),
        },
        other => Ok(RisMessage::Other(other.to_owned())),
    }
}

fn update(data: &Data) -> Result<Update, RisError> {
    let mut update = Update {
        withdrawn: data.withdrawals.iter().map(nlri).collect(),
        ..Update::default()
    };
    if data.announcements.is_empty() {
        return Ok(update);
    }
    let as_path = match path(&data.path) {
        Ok(as_path) => as_path,
        Err(text) => {
            // As in a session: what the routes were before is not so any more.
            let gone = data.announcements.iter().flat_map(|entry| &entry.prefixes);
            update.withdrawn.extend(gone.map(nlri));
            update.errors.push(AttributeError {
                attribute: kind::AS_PATH,
                level: ErrorLevel::TreatAsWithdraw,
                text: text.to_owned(),
                subcode: subcode::AS_PATH,
            });
            return Ok(update);
        }
    };
    let origin = match data
        .origin
        .as_deref()
        .map(str::to_ascii_lowercase)
        .as_deref()
    {
        Some("igp") => Origin::Igp,
        Some("egp") => Origin::Egp,
        Some("incomplete") => Origin::Incomplete,
        other => return Err(RisError(format!("origin {other:?} is none"))),
    };
    let other = other(data);
    // Entries of the same next hop share their attributes; one prefix of several next hops is one
    // route, and the last counts.
    let mut routes: BTreeMap<Nlri, (IpAddr, Option<Ipv6Addr>)> = BTreeMap::new();
    for entry in &data.announcements {
        let hops = next_hop(&entry.next_hop)?;
        for prefix in &entry.prefixes {
            routes.insert(nlri(prefix), hops);
        }
    }
    update.withdrawn.retain(|nlri| !routes.contains_key(nlri));
    let mut by_hop: BTreeMap<(IpAddr, Option<Ipv6Addr>), Vec<Nlri>> = BTreeMap::new();
    for (nlri, hops) in routes {
        by_hop.entry(hops).or_default().push(nlri);
    }
    update.announced = by_hop
        .into_iter()
        .map(|((next_hop, link_local), nlri)| Announcement {
            attributes: Attributes {
                origin,
                as_path: as_path.clone(),
                next_hop,
                link_local,
                other: other.clone(),
            },
            nlri,
            ineligible: None,
        })
        .collect();
    Ok(update)
}

fn nlri(prefix: &Prefix) -> Nlri {
    prefix.trunc().into()
}

/// `"2001:db8::1"`, or with the link-local one: `"2001:db8::1,fe80::1"`.
fn next_hop(text: &str) -> Result<(IpAddr, Option<Ipv6Addr>), RisError> {
    let wrong = || RisError(format!("next hop {text:?} is no address"));
    let mut parts = text.split(',').map(str::trim);
    let hop: IpAddr = parts
        .next()
        .and_then(|first| first.parse().ok())
        .ok_or_else(wrong)?;
    let local = match parts.next() {
        Some(local) if hop.is_ipv6() => Some(local.parse().map_err(|_| wrong())?),
        _ => None,
    };
    Ok((hop, local.filter(Ipv6Addr::is_unicast_link_local)))
}

fn path(hops: &[Hop]) -> Result<AsPath, &'static str> {
    const ZERO: &str = "it has AS 0 (RFC 7607)";
    let mut segments: Vec<Segment> = Vec::new();
    for hop in hops {
        match hop {
            Hop::One(0) => return Err(ZERO),
            Hop::One(asn) => match segments.last_mut() {
                Some(Segment {
                    kind: SegmentKind::Sequence,
                    members,
                }) if members.len() < 255 => members.push(Asn(*asn)),
                _ => segments.push(Segment {
                    kind: SegmentKind::Sequence,
                    members: vec![Asn(*asn)],
                }),
            },
            Hop::Set(members) if members.contains(&0) => return Err(ZERO),
            Hop::Set(members) => {
                for members in members.chunks(255) {
                    segments.push(Segment {
                        kind: SegmentKind::Set,
                        members: members.iter().copied().map(Asn).collect(),
                    });
                }
            }
        }
    }
    Ok(AsPath(segments))
}

/// MED, AGGREGATOR and COMMUNITIES as attributes.
fn other(data: &Data) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut attribute = |flags: u8, kind: u8, value: &[u8]| {
        let [high, low] = u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes();
        if high == 0 {
            bytes.extend_from_slice(&[flags, kind, low]);
        } else {
            bytes.extend_from_slice(&[flags | 0x10, kind, high, low]);
        }
        bytes.extend_from_slice(value);
    };
    if let Some(med) = data.med {
        attribute(OPTIONAL, kind::MED, &med.to_be_bytes());
    }
    let aggregator = data.aggregator.as_deref().and_then(|text| {
        let (asn, address) = text.split_once(':')?;
        let asn: u32 = asn.parse().ok()?;
        let address: std::net::Ipv4Addr = address.parse().ok()?;
        Some([asn.to_be_bytes(), address.octets()].concat())
    });
    if let Some(aggregator) = aggregator {
        attribute(OPTIONAL | TRANSITIVE, kind::AGGREGATOR, &aggregator);
    }
    if !data.community.is_empty() {
        let pairs = data.community.iter().take(16_000);
        let value: Vec<u8> = pairs
            .flat_map(|(high, low)| [high.to_be_bytes(), low.to_be_bytes()].concat())
            .collect();
        attribute(OPTIONAL | TRANSITIVE, kind::COMMUNITIES, &value);
    }
    bytes
}

/// The message that asks for the UPDATEs of a prefix, its more and less specifics included; of all
/// prefixes where there is none.
#[must_use]
pub fn subscription(prefix: Option<&Prefix>) -> String {
    let mut data = json!({
        "type": "UPDATE",
        "socketOptions": { "includeRaw": false, "acknowledge": true },
    });
    if let Some(prefix) = prefix {
        data["prefix"] = prefix.to_string().into();
        data["moreSpecific"] = true.into();
        data["lessSpecific"] = true.into();
    }
    json!({ "type": "ris_subscribe", "data": data }).to_string()
}

/// The message that asks for changes of the collectors' sessions.
#[must_use]
pub fn peer_state_subscription() -> String {
    json!({ "type": "ris_subscribe", "data": { "type": "RIS_PEER_STATE" } }).to_string()
}

/// The service's own way to ask whether the other side is there.
#[must_use]
pub fn ping() -> String {
    json!({ "type": "ping" }).to_string()
}

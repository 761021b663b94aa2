//! Messages of `netwatch bgp decode`, for machines: one object a line. What an UPDATE says has the
//! names and the shape that ExaBGP's API gives it.

use std::collections::BTreeMap;

use bgp_core::{
    AsPath, AttributeError, AttributeValue, Capability, ErrorLevel, Family, MessageAttributes,
    MessageType, Nlri, Origin, RefreshKind, Role, SegmentKind, UpdateView, attribute_name,
    attribute_values,
};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::bgp_decode::{Content, Record};
use crate::bgp_text::{extended_community, family_name, hex, unicast};

/// A line. `disposition` is one of accepted, attribute-discard, treat-as-withdraw, session-reset,
/// incomplete.
#[derive(Serialize)]
pub struct Line {
    message: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    packet: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    offset: usize,
    length: usize,
    #[serde(rename = "type")]
    kind: Option<&'static str>,
    disposition: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Value>,
    #[serde(flatten)]
    content: Map<String, Value>,
}

/// A message as a line.
pub fn record(record: &Record<'_>) -> Line {
    let kind = record.kind.map(|kind| match kind {
        MessageType::Open => "open",
        MessageType::Update => "update",
        MessageType::Notification => "notification",
        MessageType::Keepalive => "keepalive",
        MessageType::RouteRefresh => "refresh",
    });
    let mut content = Map::new();
    let mut errors = Vec::new();
    match &record.content {
        Content::Open(open, capabilities, my_as) => {
            let capabilities: Vec<Value> = capabilities.iter().map(capability).collect();
            let open = json!({
                "version": 4,
                "asn": open.asn.0,
                "my_as": my_as,
                "hold_time": open.hold_time,
                "router_id": open.router_id.to_string(),
                "capabilities": capabilities,
            });
            content.insert("open".to_owned(), open);
        }
        Content::Update(view) => {
            errors = view.errors().iter().map(error).collect();
            if let Some(family) = view.end_of_rib() {
                let eor = json!({ "afi": afi(family), "safi": "unicast" });
                content.insert("eor".to_owned(), eor);
            } else {
                content.insert("update".to_owned(), update(view));
            }
            if let Some(leak) = view.announced().find_map(|routes| routes.ineligible) {
                content.insert("ineligible".to_owned(), leak.to_string().into());
            }
        }
        Content::Notification(notification) => {
            let inner = notification.hard_reset().map(|inner| {
                json!({ "code": inner.code, "subcode": inner.subcode, "name": inner.name() })
            });
            let notification = json!({
                "code": notification.code,
                "subcode": notification.subcode,
                "name": notification.name(),
                "data": hex(&notification.data),
                "shutdown_communication": notification.shutdown_communication(),
                "hard_reset": inner,
            });
            content.insert("notification".to_owned(), notification);
        }
        Content::RouteRefresh(refresh) => {
            let subtype = match refresh.kind {
                RefreshKind::Request => 0,
                RefreshKind::Begin => 1,
                RefreshKind::End => 2,
                RefreshKind::Unknown(number) => number,
            };
            let refresh = json!({ "afi": refresh.afi, "safi": refresh.safi, "subtype": subtype });
            content.insert("refresh".to_owned(), refresh);
        }
        Content::Refused(fault) => {
            let reset = json!({
                "code": fault.code,
                "subcode": fault.subcode,
                "name": bgp_core::error_name(fault.code, fault.subcode),
                "data": hex(&fault.data),
            });
            content.insert("reset".to_owned(), reset);
        }
        Content::Keepalive | Content::Incomplete(_) => {}
    }
    Line {
        message: record.number,
        packet: record.from.map(|(packet, ..)| packet),
        from: record.from.map(|(_, from, _)| from.to_string()),
        to: record.from.map(|(.., to)| to.to_string()),
        offset: record.offset,
        length: record.length,
        kind,
        disposition: record.disposition().name(),
        reason: record.reason(),
        errors,
        content,
    }
}

fn error(error: &AttributeError) -> Value {
    json!({
        "attribute": error.attribute,
        "name": attribute_name(error.attribute),
        "disposition": match error.level {
            ErrorLevel::Discard => "attribute-discard",
            ErrorLevel::TreatAsWithdraw => "treat-as-withdraw",
            ErrorLevel::Reset => "session-reset",
        },
        "text": error.text,
    })
}

const fn afi(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "ipv4",
        Family::Ipv6 => "ipv6",
    }
}

fn update(view: &UpdateView<'_>) -> Value {
    let mut update = Map::new();
    let attributes = attributes(&view.attributes());
    if !attributes.is_empty() {
        update.insert("attribute".to_owned(), attributes.into());
    }
    let mut announce = Map::new();
    for routes in view.announced() {
        let local = routes.link_local.map(|address| address.to_string());
        let entry = |route| {
            let mut entry = nlri(route);
            if let Some(local) = &local {
                entry.insert("link-local".to_owned(), local.as_str().into());
            }
            Value::Object(entry)
        };
        let hop = routes.next_hop.to_string();
        let hops = announce
            .entry(unicast(routes.nlri.family()))
            .or_insert_with(|| json!({}));
        // The same next hop may be in both forms in which IPv4 prefixes come.
        let entries = hops[hop.as_str()].take();
        let mut entries: Vec<Value> = entries.as_array().cloned().unwrap_or_default();
        entries.extend(routes.nlri.iter().map(entry));
        hops[hop.as_str()] = entries.into();
    }
    if !announce.is_empty() {
        update.insert("announce".to_owned(), announce.into());
    }
    let mut withdraw: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for route in view.withdrawn() {
        let family = unicast(Family::of_prefix(&route.prefix));
        withdraw.entry(family).or_default().push(nlri(route).into());
    }
    if !withdraw.is_empty() {
        update.insert("withdraw".to_owned(), json!(withdraw));
    }
    update.into()
}

fn nlri(nlri: Nlri) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("nlri".to_owned(), nlri.prefix.to_string().into());
    if let Some(id) = nlri.path_id {
        map.insert("path-id".to_owned(), id.into());
    }
    map
}

fn attributes(attributes: &MessageAttributes) -> Map<String, Value> {
    let mut map = Map::new();
    if let Some(origin) = attributes.origin {
        let name = match origin {
            Origin::Igp => "igp",
            Origin::Egp => "egp",
            Origin::Incomplete => "incomplete",
        };
        map.insert("origin".to_owned(), name.into());
    }
    if let Some(path) = attributes
        .as_path
        .as_ref()
        .filter(|path| !path.0.is_empty())
    {
        map.insert("as-path".to_owned(), as_path(path));
    }
    for value in attribute_values(&attributes.other) {
        let (name, value) = attribute(&value);
        map.insert(name, value);
    }
    map
}

fn as_path(path: &AsPath) -> Value {
    let segments = path.0.iter().enumerate().map(|(index, segment)| {
        let element = match segment.kind {
            SegmentKind::Sequence => "as-sequence",
            SegmentKind::Set => "as-set",
            SegmentKind::ConfederationSequence => "as-sequence-confederation",
            SegmentKind::ConfederationSet => "as-set-confederation",
        };
        let members: Vec<u32> = segment.members.iter().map(|asn| asn.0).collect();
        (
            index.to_string(),
            json!({ "element": element, "value": members }),
        )
    });
    Value::Object(segments.collect())
}

fn attribute(value: &AttributeValue) -> (String, Value) {
    let (name, value) = match value {
        AttributeValue::Med(med) => ("med", json!(med)),
        AttributeValue::LocalPref(preference) => ("local-preference", json!(preference)),
        AttributeValue::AtomicAggregate => ("atomic-aggregate", json!(true)),
        AttributeValue::Aggregator { asn, address } => {
            ("aggregator", format!("{}:{address}", asn.0).into())
        }
        AttributeValue::Communities(values) => {
            let pair = |value: &u32| json!([value >> 16, value & 0xffff]);
            ("community", values.iter().map(pair).collect())
        }
        AttributeValue::OriginatorId(id) => ("originator-id", id.to_string().into()),
        AttributeValue::ClusterList(ids) => (
            "cluster-list",
            ids.iter().map(|id| Value::from(id.to_string())).collect(),
        ),
        AttributeValue::ExtendedCommunities(values) => {
            let entry = |octets: &[u8; 8]| {
                json!({
                    "value": u64::from_be_bytes(*octets),
                    "string": extended_community(*octets),
                })
            };
            ("extended-community", values.iter().map(entry).collect())
        }
        AttributeValue::LargeCommunities(values) => (
            "large-community",
            values.iter().map(|value| json!(value)).collect(),
        ),
        AttributeValue::OnlyToCustomer(asn) => ("only-to-customer", json!(asn.0)),
        AttributeValue::Other { flags, kind, value } => {
            let name = format!("attribute-0x{kind:02X}-0x{flags:02X}");
            return (name, format!("0x{}", hex(value)).into());
        }
    };
    (name.to_owned(), value)
}

fn capability(capability: &Capability) -> Value {
    match capability {
        Capability::Multiprotocol { afi, safi } => {
            json!({ "code": 1, "name": "multiprotocol", "family": family_name(*afi, *safi) })
        }
        Capability::RouteRefresh => json!({ "code": 2, "name": "route-refresh" }),
        Capability::ExtendedNextHop(entries) => {
            let entries: Vec<Value> = entries
                .iter()
                .map(|(afi, safi, hop)| json!({ "afi": afi, "safi": safi, "next_hop_afi": hop }))
                .collect();
            json!({ "code": 5, "name": "extended-next-hop", "families": entries })
        }
        Capability::ExtendedMessage => json!({ "code": 6, "name": "extended-message" }),
        Capability::Role(number) => {
            let role = Role::from_wire(*number);
            json!({ "code": 9, "name": "role", "value": number, "role": role })
        }
        Capability::GracefulRestart {
            restarted,
            notification,
            time,
            families,
        } => {
            let families: Vec<Value> = families
                .iter()
                .map(|(afi, safi, forwarding)| {
                    json!({ "family": family_name(*afi, *safi), "forwarding": forwarding })
                })
                .collect();
            json!({
                "code": 64, "name": "graceful-restart", "time": time, "restarted": restarted,
                "notification": notification, "families": families,
            })
        }
        Capability::FourOctetAs(asn) => {
            json!({ "code": 65, "name": "four-octet-as", "asn": asn.0 })
        }
        Capability::AddPath(entries) => {
            let families: Vec<Value> = entries
                .iter()
                .map(|(afi, safi, mode)| {
                    json!({
                        "family": family_name(*afi, *safi),
                        "receive": mode & 1 != 0,
                        "send": mode & 2 != 0,
                    })
                })
                .collect();
            json!({ "code": 69, "name": "add-path", "families": families })
        }
        Capability::EnhancedRouteRefresh => {
            json!({ "code": 70, "name": "enhanced-route-refresh" })
        }
        Capability::Other { number, value } => json!({ "code": number, "value": hex(value) }),
    }
}

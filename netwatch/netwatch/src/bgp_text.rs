//! Messages of `netwatch bgp decode`, for people.

use std::fmt::Write;

use bgp_core::{
    AsPath, AttributeError, AttributeValue, Capability, Family, MessageAttributes, MessageType,
    Nlri, Origin, RefreshKind, Role, SegmentKind, UpdateView, attribute_name, attribute_values,
};

use crate::bgp_decode::{Content, Disposition, Record};

/// A few lines, the first of which says what it is and what becomes of it.
pub fn record(record: &Record<'_>) -> String {
    let mut text = String::new();
    let _ = write_record(&mut text, record);
    text
}

fn write_record(text: &mut String, record: &Record<'_>) -> std::fmt::Result {
    let kind = record.kind.map_or("no message", kind_name);
    let (number, offset, length) = (record.number, record.offset, record.length);
    write!(text, "#{number} ")?;
    if let Some((packet, from, to)) = record.from {
        write!(text, "packet {packet} {from} > {to} ")?;
    }
    write!(text, "at {offset}: {kind}, {length} octets: ")?;
    writeln!(text, "{}", record.disposition().name())?;
    match (record.disposition(), record.reason()) {
        (Disposition::AttributeDiscard | Disposition::TreatAsWithdraw, _) | (_, None) => {}
        (_, Some(reason)) => writeln!(text, "    {reason}")?,
    }
    match &record.content {
        Content::Open(open, capabilities, _) => {
            writeln!(
                text,
                "    AS {}, identifier {}, hold time {} s",
                open.asn.0, open.router_id, open.hold_time
            )?;
            for capability in capabilities {
                writeln!(text, "    {}", capability_text(capability))?;
            }
        }
        Content::Update(view) => update(text, view)?,
        Content::Notification(notification) => {
            let (code, subcode) = (notification.code, notification.subcode);
            writeln!(text, "    {code}/{subcode} {}", notification.name())?;
            if let Some(said) = notification.shutdown_communication() {
                writeln!(text, "    they say: {said}")?;
            } else if let Some(inner) = notification.hard_reset() {
                writeln!(
                    text,
                    "    {}/{} {}",
                    inner.code,
                    inner.subcode,
                    inner.name()
                )?;
            } else if !notification.data.is_empty() {
                writeln!(text, "    data {}", hex(&notification.data))?;
            }
        }
        Content::RouteRefresh(refresh) => writeln!(
            text,
            "    {} for {}",
            refresh_name(refresh.kind),
            family_name(refresh.afi, refresh.safi)
        )?,
        Content::Refused(fault) => {
            let name = bgp_core::error_name(fault.code, fault.subcode);
            write!(
                text,
                "    NOTIFICATION {}/{} {name}",
                fault.code, fault.subcode
            )?;
            if !fault.data.is_empty() {
                write!(text, ", data {}", hex(&fault.data))?;
            }
            writeln!(text)?;
        }
        Content::Keepalive | Content::Incomplete(_) => {}
    }
    Ok(())
}

fn update(text: &mut String, view: &UpdateView<'_>) -> std::fmt::Result {
    for problem in view.errors() {
        let level = match problem.level {
            bgp_core::ErrorLevel::Discard => "attribute-discard",
            bgp_core::ErrorLevel::TreatAsWithdraw => "treat-as-withdraw",
            bgp_core::ErrorLevel::Reset => "session-reset",
        };
        writeln!(text, "    {level}: {}", error(problem))?;
    }
    if let Some(family) = view.end_of_rib() {
        writeln!(text, "    End-of-RIB, {}", unicast(family))?;
        return Ok(());
    }
    let attributes = attributes(&view.attributes());
    if !attributes.is_empty() {
        writeln!(text, "    {}", attributes.join(", "))?;
    }
    for routes in view.announced() {
        write!(text, "    announces via {}", routes.next_hop)?;
        if let Some(address) = routes.link_local {
            write!(text, " and {address}")?;
        }
        write!(text, ":")?;
        list(text, routes.nlri.iter())?;
    }
    if view.withdrawn().next().is_some() {
        write!(text, "    withdraws:")?;
        list(text, view.withdrawn())?;
    }
    Ok(())
}

fn list(text: &mut String, routes: impl Iterator<Item = Nlri>) -> std::fmt::Result {
    for (index, nlri) in routes.enumerate() {
        write!(text, "{} {nlri}", if index == 0 { "" } else { "," })?;
    }
    writeln!(text)
}

fn attributes(attributes: &MessageAttributes) -> Vec<String> {
    let origin = attributes.origin.map(|origin| {
        let name = match origin {
            Origin::Igp => "IGP",
            Origin::Egp => "EGP",
            Origin::Incomplete => "INCOMPLETE",
        };
        format!("ORIGIN {name}")
    });
    let path = attributes.as_path.as_ref().map(path_text);
    let others = attribute_values(&attributes.other);
    let others = others.iter().map(value);
    origin.into_iter().chain(path).chain(others).collect()
}

fn path_text(path: &AsPath) -> String {
    let segment = |segment: &bgp_core::Segment| {
        let members = |between| {
            let members: Vec<String> = segment
                .members
                .iter()
                .map(|asn| asn.0.to_string())
                .collect();
            members.join(between)
        };
        match segment.kind {
            SegmentKind::Sequence => members(" "),
            SegmentKind::Set => format!("{{{}}}", members(",")),
            SegmentKind::ConfederationSequence => format!("({})", members(" ")),
            SegmentKind::ConfederationSet => format!("[{}]", members(",")),
        }
    };
    let segments: Vec<String> = path.0.iter().map(segment).collect();
    if segments.is_empty() {
        "AS_PATH empty".to_owned()
    } else {
        format!("AS_PATH {}", segments.join(" "))
    }
}

fn value(value: &AttributeValue) -> String {
    fn joined<T>(values: &[T], text: impl Fn(&T) -> String) -> String {
        let texts: Vec<String> = values.iter().map(text).collect();
        texts.join(" ")
    }
    match value {
        AttributeValue::Med(med) => format!("MED {med}"),
        AttributeValue::LocalPref(preference) => format!("LOCAL_PREF {preference}"),
        AttributeValue::AtomicAggregate => "ATOMIC_AGGREGATE".to_owned(),
        AttributeValue::Aggregator { asn, address } => format!("AGGREGATOR {} {address}", asn.0),
        AttributeValue::Communities(values) => {
            let text = |value: &u32| format!("{}:{}", value >> 16, value & 0xffff);
            format!("communities {}", joined(values, text))
        }
        AttributeValue::OriginatorId(id) => format!("ORIGINATOR_ID {id}"),
        AttributeValue::ClusterList(ids) => {
            format!("CLUSTER_LIST {}", joined(ids, ToString::to_string))
        }
        AttributeValue::ExtendedCommunities(values) => {
            let text = |octets: &[u8; 8]| extended_community(*octets);
            format!("extended communities {}", joined(values, text))
        }
        AttributeValue::LargeCommunities(values) => {
            let text = |[a, b, c]: &[u32; 3]| format!("{a}:{b}:{c}");
            format!("large communities {}", joined(values, text))
        }
        AttributeValue::OnlyToCustomer(asn) => format!("only to customers of AS {}", asn.0),
        AttributeValue::Other { flags, kind, value } => {
            let name = attribute_name(*kind).unwrap_or("unknown");
            let transitive = if flags & 0x40 == 0 {
                "non-transitive"
            } else {
                "transitive"
            };
            format!("{name} ({kind}, {transitive}) {}", hex(value))
        }
    }
}

/// Route targets and route origins by their parts (RFC 4360, RFC 5668), others in hexadecimal.
pub fn extended_community(octets: [u8; 8]) -> String {
    let [kind, subtype, a, b, c, d, e, f] = octets;
    let name = match subtype {
        2 => "target",
        3 => "origin",
        _ => return hex(&octets),
    };
    match kind & 0xbf {
        0 => {
            let asn = u16::from_be_bytes([a, b]);
            format!("{name}:{asn}:{}", u32::from_be_bytes([c, d, e, f]))
        }
        1 => format!("{name}:{a}.{b}.{c}.{d}:{}", u16::from_be_bytes([e, f])),
        2 => {
            let asn = u32::from_be_bytes([a, b, c, d]);
            format!("{name}:{asn}:{}", u16::from_be_bytes([e, f]))
        }
        _ => hex(&octets),
    }
}

/// An error in an UPDATE, with the attribute's name.
pub fn error(error: &AttributeError) -> String {
    match (error.attribute, attribute_name(error.attribute)) {
        (0, _) => error.text.clone(),
        (kind, Some(name)) => format!("{name} ({kind}) {}", error.text),
        (kind, None) => format!("attribute {kind} {}", error.text),
    }
}

/// A capability in words.
pub fn capability_text(capability: &Capability) -> String {
    fn families<'a>(names: impl Iterator<Item = String> + 'a) -> String {
        let names: Vec<String> = names.collect();
        names.join(", ")
    }
    match capability {
        Capability::Multiprotocol { afi, safi } => {
            format!("multiprotocol {}", family_name(*afi, *safi))
        }
        Capability::RouteRefresh => "route refresh".to_owned(),
        Capability::ExtendedNextHop(entries) => {
            let entries = entries.iter().map(|(afi, safi, hop)| {
                let family = u8::try_from(*safi)
                    .map_or_else(|_| format!("{afi}/{safi}"), |safi| family_name(*afi, safi));
                format!("{family} by AFI {hop}")
            });
            format!("extended next hop {}", families(entries))
        }
        Capability::ExtendedMessage => "extended message".to_owned(),
        Capability::Role(number) => match Role::from_wire(*number) {
            Some(role) => format!("role {role:?}"),
            None => format!("role {number}, not assigned"),
        },
        Capability::GracefulRestart {
            restarted,
            notification,
            time,
            families: entries,
        } => {
            let mut text = format!("graceful restart in {time} s");
            if *restarted {
                text += ", restarted";
            }
            if *notification {
                text += ", also over NOTIFICATION";
            }
            for (afi, safi, forwarding) in entries {
                text += &format!(", {}", family_name(*afi, *safi));
                if *forwarding {
                    text += " (forwarding)";
                }
            }
            text
        }
        Capability::FourOctetAs(asn) => format!("four-octet AS {}", asn.0),
        Capability::AddPath(entries) => {
            let entries = entries.iter().map(|(afi, safi, mode)| {
                let mode = match mode {
                    1 => "receive",
                    2 => "send",
                    3 => "send and receive",
                    _ => "mode unknown",
                };
                format!("{} {mode}", family_name(*afi, *safi))
            });
            format!("ADD-PATH {}", families(entries))
        }
        Capability::EnhancedRouteRefresh => "enhanced route refresh".to_owned(),
        Capability::Other { number, value } => {
            format!("capability {number} {}", hex(value))
        }
    }
}

pub const fn kind_name(kind: MessageType) -> &'static str {
    match kind {
        MessageType::Open => "OPEN",
        MessageType::Update => "UPDATE",
        MessageType::Notification => "NOTIFICATION",
        MessageType::Keepalive => "KEEPALIVE",
        MessageType::RouteRefresh => "ROUTE-REFRESH",
    }
}

pub fn refresh_name(kind: RefreshKind) -> String {
    match kind {
        RefreshKind::Request => "request".to_owned(),
        RefreshKind::Begin => "begin (BoRR)".to_owned(),
        RefreshKind::End => "end (EoRR)".to_owned(),
        RefreshKind::Unknown(number) => format!("subtype {number}, ignored,"),
    }
}

pub const fn unicast(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "ipv4 unicast",
        Family::Ipv6 => "ipv6 unicast",
    }
}

pub fn family_name(afi: u16, safi: u8) -> String {
    match (afi, safi) {
        (1, 1) => unicast(Family::Ipv4).to_owned(),
        (2, 1) => unicast(Family::Ipv6).to_owned(),
        _ => format!("afi {afi} safi {safi}"),
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

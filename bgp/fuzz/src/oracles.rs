//! Other decoders' readings of the same bytes, where they define the answer.

use std::net::IpAddr;

use bgp_core::{Context, ErrorLevel, Fault, Nlri, Open, Update};
use events::Prefix;
use routecore::bgp::message::SessionConfig;
use routecore::bgp::message::update::UpdateMessage as RoutecoreUpdate;
use routecore::bgp::nlri::afisafi::{IsPrefix, Nlri as RoutecoreNlri};
use routecore::bgp::types::AfiSafiType;
use rustbgpd_wire::{Afi, NlriEntry, PathAttribute, Safi};

/// What an UPDATE demands in the other decoder's eyes, with its routes where it reads them.
struct Other {
    level: Option<ErrorLevel>,
    withdrawn: Vec<Nlri>,
    announced: Vec<Nlri>,
}

/// Compares an UPDATE that resets the session.
pub fn refused(body: &[u8], context: &Context, fault: &Fault) {
    if !comparable(body, context) {
        return;
    }
    // What the other leaves to its session: errors without reachable prefixes (RFC 7606 5.2), and
    // the well-known attribute that is not known, which RFC 7606 does not take from RFC 4271 6.3.
    if matches!(fault.subcode, 2..=6 | 8 | 11) {
        return;
    }
    if let Some(other) = rustbgpd(body, context) {
        assert_eq!(other.level, Some(ErrorLevel::Reset), "{fault}: {body:02x?}");
    }
}

/// Compares an UPDATE that does not.
pub fn accepted(body: &[u8], context: &Context, update: &Update) {
    let worst = update.errors.iter().map(|error| error.level).max();
    if worst.is_none() {
        routecore(body, context, update);
    }
    if !comparable(body, context) {
        return;
    }
    let Some(other) = rustbgpd(body, context) else {
        return;
    };
    assert_eq!(other.level, worst, "{update:?} {body:02x?}");
    if worst == Some(ErrorLevel::TreatAsWithdraw) {
        return;
    }
    let ours = update.announced.iter().flat_map(|routes| &routes.nlri);
    same(ours.copied(), other.announced, "announced", body);
    // Ours are without those that the same message announces.
    if update.announced.is_empty() {
        same(
            update.withdrawn.iter().copied(),
            other.withdrawn,
            "withdrawn",
            body,
        );
    }
}

fn same(ours: impl Iterator<Item = Nlri>, mut theirs: Vec<Nlri>, what: &str, body: &[u8]) {
    let mut ours: Vec<Nlri> = ours.collect();
    ours.sort_unstable();
    theirs.sort_unstable();
    assert_eq!(ours, theirs, "{what}: {body:02x?}");
}

/// Whether rustbgpd-wire reads all that is in there as the RFCs have it that we implement.
fn comparable(body: &[u8], context: &Context) -> bool {
    let Some(attributes) = attributes(body) else {
        return true;
    };
    let has_body_nlri = nlri_length(body).is_some_and(|length| length > 0);
    let mut rest = attributes;
    let mut next_hop = None;
    while let Some((flags, kind, value, after)) = split(rest) {
        rest = after;
        // Flags: RFC 7606 section 3 (c) has no exception for these, over there they reset.
        if matches!(kind, 14 | 15) && flags & 0xc0 != 0x80 {
            return false;
        }
        match kind {
            3 => {
                next_hop.get_or_insert(value);
            }
            // Families beyond unicast have decoders over there; here they are foreign.
            14 => {
                let [_, afi, 1, length, ..] = value else {
                    return false;
                };
                let hop = value.get(4..4 + usize::from(*length)).unwrap_or_default();
                if !matches!(afi, 1 | 2) || value.first() != Some(&0) || !plain_hop(hop) {
                    return false;
                }
                if *afi == 1 && hop.len() != 4 && !context.extended_next_hop {
                    return false;
                }
            }
            15 if !matches!(value, [0, 1 | 2, 1, ..]) => return false,
            2 if !only_sequences(value, context.four_octet_as) => return false,
            1 | 2 | 4 | 8 | 15 | 16 | 32 => {}
            200..=254 if flags & 0x80 != 0 => {}
            _ => return false,
        }
        // Partial on what is not optional transitive is an error over there.
        if flags & 0x2f != 0 {
            return false;
        }
    }
    // NEXT_HOP that nothing uses (RFC 4760 section 3), or that is missing from one of our AS.
    match next_hop {
        Some(value) => has_body_nlri && plain_hop(value),
        None => !has_body_nlri || !context.internal,
    }
}

/// Sets are refused over there (RFC 9774), and confederations.
fn only_sequences(mut path: &[u8], four_octets: bool) -> bool {
    let width = if four_octets { 4 } else { 2 };
    while let [kind, count, rest @ ..] = path {
        if matches!(kind, 1 | 3 | 4) {
            return false;
        }
        path = rest.get(usize::from(*count) * width..).unwrap_or_default();
    }
    true
}

/// An ordinary address: others are judged differently.
fn plain_hop(hop: &[u8]) -> bool {
    matches!(hop, [192, 0, 2, _] | [])
        || (hop.len() == 16 && hop.starts_with(&[0x20, 1, 0x0d, 0xb8]))
        || !matches!(hop.len(), 4 | 16 | 32)
}

fn attributes(body: &[u8]) -> Option<&[u8]> {
    let withdrawn = length_at(body, 0)?;
    let start = 4 + withdrawn;
    body.get(start..start + length_at(body, 2 + withdrawn)?)
}

fn nlri_length(body: &[u8]) -> Option<usize> {
    let withdrawn = length_at(body, 0)?;
    body.len()
        .checked_sub(4 + withdrawn + length_at(body, 2 + withdrawn)?)
}

fn length_at(body: &[u8], at: usize) -> Option<usize> {
    let octets = *body.get(at..)?.first_chunk::<2>()?;
    Some(u16::from_be_bytes(octets).into())
}

fn split(bytes: &[u8]) -> Option<(u8, u8, &[u8], &[u8])> {
    let (flags, kind) = (*bytes.first()?, *bytes.get(1)?);
    let (length, header) = if flags & 0x10 != 0 {
        (length_at(bytes, 2)?, 4)
    } else {
        (usize::from(*bytes.get(2)?), 3)
    };
    let value = bytes.get(header..header + length)?;
    Some((flags & !0x10, kind, value, bytes.get(header + length..)?))
}

fn rustbgpd(body: &[u8], context: &Context) -> Option<Other> {
    let reset = || Other {
        level: Some(ErrorLevel::Reset),
        withdrawn: Vec::new(),
        announced: Vec::new(),
    };
    let mut families = Vec::new();
    if context.add_path.ipv4 {
        families.push((Afi::Ipv4, Safi::Unicast));
    }
    if context.add_path.ipv6 {
        families.push((Afi::Ipv6, Safi::Unicast));
    }
    let mut buffer = body;
    let Ok(message) = rustbgpd_wire::UpdateMessage::decode(&mut buffer, body.len()) else {
        return Some(reset());
    };
    let Ok(revised) = message.parse_revised(
        context.four_octet_as,
        context.internal,
        context.add_path.ipv4,
        &families,
    ) else {
        return Some(reset());
    };
    let parsed = revised.update;
    let with_id = |id, prefix, add_path: bool| Nlri {
        prefix,
        path_id: add_path.then_some(id),
    };
    let ipv4 = |entry: &rustbgpd_wire::Ipv4NlriEntry| {
        let prefix = prefix(entry.prefix.addr.into(), entry.prefix.len);
        with_id(entry.path_id, prefix, context.add_path.ipv4)
    };
    let any = |entry: &NlriEntry| match entry.prefix {
        rustbgpd_wire::Prefix::V4(it) => {
            let prefix = prefix(it.addr.into(), it.len);
            with_id(entry.path_id, prefix, context.add_path.ipv4)
        }
        rustbgpd_wire::Prefix::V6(it) => {
            let prefix = prefix(it.addr.into(), it.len);
            with_id(entry.path_id, prefix, context.add_path.ipv6)
        }
    };
    let mut other = Other {
        level: revised
            .malformed
            .iter()
            .map(|malformed| level(malformed.disposition))
            .max(),
        withdrawn: parsed.withdrawn.iter().map(ipv4).collect(),
        announced: parsed.announced.iter().map(ipv4).collect(),
    };
    for attribute in &parsed.attributes {
        match attribute {
            PathAttribute::MpReachNlri(reach) => {
                other.announced.extend(reach.announced.iter().map(any));
            }
            PathAttribute::MpUnreachNlri(unreach) => {
                other.withdrawn.extend(unreach.withdrawn.iter().map(any));
            }
            _ => {}
        }
    }
    // Its own session judges errors without reachable prefixes.
    if other.announced.is_empty() && other.level.is_some() {
        return None;
    }
    let validated = rustbgpd_wire::validate::validate_update_attributes(
        &parsed.attributes,
        !other.announced.is_empty(),
        !parsed.announced.is_empty(),
        !context.internal,
    );
    if let Err(error) = validated {
        // An attribute that was malformed counts as missing there, which is as strong.
        other.level = other.level.max(Some(level(error.disposition)));
    }
    Some(other)
}

const fn level(disposition: rustbgpd_wire::validate::ErrorDisposition) -> ErrorLevel {
    match disposition {
        rustbgpd_wire::validate::ErrorDisposition::AttributeDiscard => ErrorLevel::Discard,
        rustbgpd_wire::validate::ErrorDisposition::TreatAsWithdraw => ErrorLevel::TreatAsWithdraw,
        rustbgpd_wire::validate::ErrorDisposition::SessionReset => ErrorLevel::Reset,
    }
}

fn prefix(address: IpAddr, length: u8) -> Prefix {
    Prefix::new(address, length)
        .expect("a length that fits")
        .trunc()
}

/// routecore checks little, but what it reads without an error has to be what we read.
fn routecore(body: &[u8], context: &Context, update: &Update) {
    let Ok(length) = u16::try_from(body.len() + 19) else {
        return;
    };
    // It panics on prefixes that are too long for their family where it has not checked them.
    if !only_unicast(body) {
        return;
    }
    let message = [&[0xff; 16][..], &length.to_be_bytes(), &[2], body].concat();
    let mut config = if context.four_octet_as {
        SessionConfig::modern()
    } else {
        SessionConfig::legacy()
    };
    if context.add_path.ipv4 {
        config.add_addpath_rxtx(AfiSafiType::Ipv4Unicast);
    }
    if context.add_path.ipv6 {
        config.add_addpath_rxtx(AfiSafiType::Ipv6Unicast);
    }
    let Ok(theirs) = RoutecoreUpdate::from_octets(&message[..], &config) else {
        return;
    };
    let (Ok(announced), Ok(withdrawn)) = (theirs.announcements_vec(), theirs.withdrawals_vec())
    else {
        return;
    };
    let unicast = |nlri: Vec<RoutecoreNlri<&[u8]>>| -> Option<Vec<Nlri>> {
        nlri.iter().map(routecore_nlri).collect()
    };
    let (Some(announced), Some(withdrawn)) = (unicast(announced), unicast(withdrawn)) else {
        return;
    };
    let ours = update.announced.iter().flat_map(|routes| &routes.nlri);
    same(ours.copied(), announced, "announced, routecore", body);
    if update.announced.is_empty() {
        let ours = update.withdrawn.iter().copied();
        same(ours, withdrawn, "withdrawn, routecore", body);
    }
    // Where no AS4_PATH is merged in, the hops are those of AS_PATH.
    if let Some(routes) = update.announced.first()
        && context.four_octet_as
        && let Ok(Some(path)) = theirs.aspath()
    {
        let theirs: Option<Vec<u32>> = path
            .hops()
            .map(|hop| hop.try_into_asn().ok().map(|asn| asn.into_u32()))
            .collect();
        let ours: Vec<u32> = routes
            .attributes
            .as_path
            .flat()
            .iter()
            .map(|asn| asn.0)
            .collect();
        if let Some(theirs) = theirs {
            assert_eq!(ours, theirs, "AS_PATH, routecore: {body:02x?}");
        }
    }
}

/// Whether MP_REACH_NLRI and MP_UNREACH_NLRI are all of families that we read.
fn only_unicast(body: &[u8]) -> bool {
    let mut rest = attributes(body).unwrap_or_default();
    while let Some((_, kind, value, after)) = split(rest) {
        rest = after;
        if matches!(kind, 14 | 15) && !matches!(value, [0, 1 | 2, 1, ..]) {
            return false;
        }
    }
    true
}

/// `None` for another family than unicast.
fn routecore_nlri(nlri: &RoutecoreNlri<&[u8]>) -> Option<Nlri> {
    let (theirs, id) = match nlri {
        RoutecoreNlri::Ipv4Unicast(nlri) => (nlri.prefix(), nlri.path_id()),
        RoutecoreNlri::Ipv6Unicast(nlri) => (nlri.prefix(), nlri.path_id()),
        RoutecoreNlri::Ipv4UnicastAddpath(nlri) => (nlri.prefix(), IsPrefix::path_id(nlri)),
        RoutecoreNlri::Ipv6UnicastAddpath(nlri) => (nlri.prefix(), IsPrefix::path_id(nlri)),
        _ => return None,
    };
    Some(Nlri {
        prefix: prefix(theirs.addr(), theirs.len()),
        path_id: id.map(|id| id.0),
    })
}

/// rustbgpd-wire leaves AS 0, the hold time and roles to its session, and takes some malformed
/// capabilities for unknown ones.
pub fn open(body: &[u8], ours: &Result<Open, Fault>) {
    let mut buffer = body;
    let theirs = rustbgpd_wire::OpenMessage::decode(&mut buffer, body.len());
    match (ours, theirs) {
        (Ok(ours), Ok(theirs)) => {
            assert_eq!(ours.hold_time, theirs.hold_time, "{body:02x?}");
            assert_eq!(ours.router_id, theirs.bgp_identifier, "{body:02x?}");
        }
        (Ok(_), Err(error)) => panic!("we accept, rustbgpd-wire says {error}: {body:02x?}"),
        (Err(_), _) => {}
    }
}

//! UPDATE (RFC 4271 section 4.3) with MP_REACH_NLRI and MP_UNREACH_NLRI (RFC 4760).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use events::Prefix;
use serde::{Deserialize, Serialize};

use crate::attributes::{
    self, AttributeError, Attributes, ErrorLevel, Walked, is_host, kind, subcode,
};
use crate::fault::{Fault, code};
use crate::nlri::{self, Families, Family};

/// What was negotiated, as far as an UPDATE's meaning depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// AS numbers take four octets.
    pub four_octet_as: bool,
    /// The neighbour is in our AS.
    pub internal: bool,
    /// Families of the session; others are passed over.
    pub families: Families,
}

/// Routes that share their attributes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// Their attributes.
    pub attributes: Attributes,
    /// Their prefixes.
    pub prefixes: Vec<Prefix>,
}

/// What an UPDATE does. No prefix is both withdrawn and announced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// Prefixes withdrawn, those "treated as withdrawn" among them.
    pub withdrawn: Vec<Prefix>,
    /// Routes announced or replaced: at most one entry per family and form.
    pub announced: Vec<Announcement>,
    /// It is an End-of-RIB marker (RFC 4724 section 2).
    pub end_of_rib: Option<Family>,
    /// Errors that did not end the session, in the order found.
    pub errors: Vec<AttributeError>,
}

/// Decodes the body of an UPDATE.
///
/// # Errors
/// An UPDATE Message Error (RFC 4271 section 6.3) where RFC 7606 still demands a session reset:
/// lengths that contradict each other, prefixes or MP attributes that cannot be decoded, an MP
/// attribute that appears twice, a well-known attribute that is not known, and an attribute error
/// in a message without a reachable prefix.
pub fn decode(body: &[u8], context: &Context) -> Result<Update, Fault> {
    let lengths = || {
        Fault::new(
            code::UPDATE,
            subcode::ATTRIBUTE_LIST,
            "the lengths in the UPDATE exceed the message",
        )
    };
    let (withdrawn, rest) = counted(body).ok_or_else(lengths)?;
    let (attributes, announced) = counted(rest).ok_or_else(lengths)?;
    let network = |what: &str| {
        let what = what.to_owned();
        move |error| Fault::new(code::UPDATE, subcode::NETWORK, format!("{what}: {error}"))
    };
    let withdrawn_v4 =
        nlri::decode(Family::Ipv4, withdrawn).map_err(network("withdrawn routes"))?;
    let announced_v4 = nlri::decode(Family::Ipv4, announced).map_err(network("NLRI"))?;
    if body == [0, 0, 0, 0] {
        return Ok(Update {
            end_of_rib: context.families.ipv4.then_some(Family::Ipv4),
            ..Update::default()
        });
    }

    let mut walked = attributes::walk(attributes, context);
    let unreach = walked.mp_unreach.map(mp_unreach).transpose()?;
    let reach = walked.mp_reach.map(mp_reach).transpose()?;
    let only_unreach = withdrawn.is_empty()
        && announced.is_empty()
        && walked.seen == [kind::MP_UNREACH]
        && walked.errors.is_empty();
    if let Some((Some(family), prefixes)) = &unreach
        && only_unreach
        && prefixes.is_empty()
    {
        return Ok(Update {
            end_of_rib: context.families.contains(*family).then_some(*family),
            ..Update::default()
        });
    }

    let reachable = !announced_v4.is_empty() || reach.as_ref().is_some_and(|reach| reach.has_nlri);
    if reachable {
        check_mandatory(&mut walked, &announced_v4, reach.as_ref());
    }
    let worst = walked.errors.iter().map(|error| error.level).max();
    // RFC 7606 section 5.2: the attribute in error may have been the one that held the prefixes.
    if worst == Some(ErrorLevel::Reset)
        || (worst == Some(ErrorLevel::TreatAsWithdraw) && !reachable)
    {
        return Err(reset(&walked));
    }

    let mut update = Update {
        withdrawn: withdrawn_v4,
        ..Update::default()
    };
    if let Some((Some(_), prefixes)) = unreach {
        update.withdrawn.extend(prefixes);
    }
    let reach = reach.filter(|reach| reach.family.is_some());
    if worst == Some(ErrorLevel::TreatAsWithdraw) {
        update.withdrawn.extend(announced_v4);
        update
            .withdrawn
            .extend(reach.into_iter().flat_map(|reach| reach.prefixes));
    } else {
        let next_hop = walked.next_hop.map(IpAddr::V4);
        announce(&mut update, &walked, next_hop, announced_v4);
        if let Some(reach) = reach {
            announce(&mut update, &walked, Some(reach.next_hop), reach.prefixes);
        }
    }
    update.errors = walked.errors;
    keep_negotiated(&mut update, context.families);
    Ok(update)
}

fn announce(
    update: &mut Update,
    walked: &Walked<'_>,
    next_hop: Option<IpAddr>,
    prefixes: Vec<Prefix>,
) {
    let (Some(origin), Some(as_path), Some(next_hop)) =
        (walked.origin, walked.as_path.clone(), next_hop)
    else {
        return;
    };
    if !prefixes.is_empty() {
        update.announced.push(Announcement {
            attributes: Attributes {
                origin,
                as_path,
                next_hop,
                other: walked.other.clone(),
            },
            prefixes,
        });
    }
}

/// Drops families that were not negotiated, and withdrawals of what is announced in the same
/// message (RFC 4271 section 4.3: they count as not there).
fn keep_negotiated(update: &mut Update, families: Families) {
    let negotiated = |prefix: &Prefix| families.contains(Family::of_prefix(prefix));
    update.withdrawn.retain(negotiated);
    for announcement in &mut update.announced {
        announcement.prefixes.retain(negotiated);
    }
    update
        .announced
        .retain(|announcement| !announcement.prefixes.is_empty());
    if !update.withdrawn.is_empty() && !update.announced.is_empty() {
        let announced: BTreeSet<Prefix> = update
            .announced
            .iter()
            .flat_map(|announcement| announcement.prefixes.iter().copied())
            .collect();
        update
            .withdrawn
            .retain(|prefix| !announced.contains(prefix));
    }
}

fn check_mandatory(walked: &mut Walked<'_>, announced_v4: &[Prefix], reach: Option<&Reach>) {
    let mut mandatory = vec![kind::ORIGIN, kind::AS_PATH];
    if !announced_v4.is_empty() {
        mandatory.push(kind::NEXT_HOP);
    }
    for attribute in mandatory {
        if !walked.seen.contains(&attribute) {
            walked.error(
                attribute,
                ErrorLevel::TreatAsWithdraw,
                subcode::MISSING_WELL_KNOWN,
                "is mandatory and missing",
            );
        }
    }
    if let Some(reach) = reach
        && reach.family.is_some()
        && !is_host(reach.next_hop)
    {
        walked.error(
            kind::MP_REACH,
            ErrorLevel::TreatAsWithdraw,
            subcode::OPTIONAL,
            format!("next hop {} is no host's address", reach.next_hop),
        );
    }
}

fn reset(walked: &Walked<'_>) -> Fault {
    let strongest = walked.errors.iter().rev().max_by_key(|error| error.level);
    match strongest {
        Some(error) => Fault::new(code::UPDATE, error.subcode, format!("UPDATE: {error}")),
        None => Fault::new(code::UPDATE, 0, "UPDATE"),
    }
}

/// A field behind its two-octet length, and what follows.
fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

/// MP_REACH_NLRI. `family` is `None` for a family that we do not speak.
struct Reach {
    family: Option<Family>,
    next_hop: IpAddr,
    prefixes: Vec<Prefix>,
    has_nlri: bool,
}

fn mp_reach(value: &[u8]) -> Result<Reach, Fault> {
    let fault = |text: String| {
        Fault::new(
            code::UPDATE,
            subcode::OPTIONAL,
            format!("MP_REACH_NLRI: {text}"),
        )
    };
    let cut = || fault("it is cut off".to_owned());
    let (&[afi_high, afi_low, safi, length], rest) =
        value.split_first_chunk::<4>().ok_or_else(cut)?;
    let (hop, rest) = rest.split_at_checked(length.into()).ok_or_else(cut)?;
    let (_reserved, bytes) = rest.split_first().ok_or_else(cut)?;
    let family = Family::from_wire(u16::from_be_bytes([afi_high, afi_low]), safi);
    let Some(family) = family else {
        return Ok(Reach {
            family: None,
            next_hop: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            prefixes: Vec::new(),
            has_nlri: !bytes.is_empty(),
        });
    };
    let global = hop.first_chunk::<16>();
    let next_hop = match (family, hop.len(), global) {
        (Family::Ipv4, 4, _) => <[u8; 4]>::try_from(hop).map(IpAddr::from).ok(),
        // A link-local address may follow the global one (RFC 2545 section 3, RFC 8950).
        (_, 16 | 32, Some(octets)) => Some(IpAddr::from(*octets)),
        _ => None,
    }
    .ok_or_else(|| fault(format!("a next hop of {length} octets is impossible")))?;
    let prefixes = nlri::decode(family, bytes).map_err(|error| fault(error.to_string()))?;
    Ok(Reach {
        family: Some(family),
        next_hop,
        has_nlri: !prefixes.is_empty(),
        prefixes,
    })
}

fn mp_unreach(value: &[u8]) -> Result<(Option<Family>, Vec<Prefix>), Fault> {
    let fault = |text: String| {
        Fault::new(
            code::UPDATE,
            subcode::OPTIONAL,
            format!("MP_UNREACH_NLRI: {text}"),
        )
    };
    let (&[afi_high, afi_low, safi], bytes) = value
        .split_first_chunk::<3>()
        .ok_or_else(|| fault("it is cut off".to_owned()))?;
    match Family::from_wire(u16::from_be_bytes([afi_high, afi_low]), safi) {
        Some(family) => {
            let prefixes = nlri::decode(family, bytes).map_err(|error| fault(error.to_string()))?;
            Ok((Some(family), prefixes))
        }
        None => Ok((None, Vec::new())),
    }
}

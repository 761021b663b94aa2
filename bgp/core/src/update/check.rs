//! Checks of an UPDATE whole: its lengths, its MP attributes, and what errors demand (RFC 7606).

use std::net::{IpAddr, Ipv6Addr};

use super::{Context, UpdateView};
use crate::attributes::{self, ErrorLevel, Tlv, Walked, is_host, kind, subcode};
use crate::fault::{Fault, code};
use crate::nlri::{Family, NlriField};

/// `own`: the routes may be the sender's own, without a next hop.
pub(super) fn check<'a>(
    body: &'a [u8],
    context: &Context,
    own: bool,
) -> Result<UpdateView<'a>, Fault> {
    let lengths = || {
        Fault::new(
            code::UPDATE,
            subcode::ATTRIBUTE_LIST,
            "the lengths in the UPDATE exceed the message",
        )
    };
    let (withdrawn, rest) = counted(body).ok_or_else(lengths)?;
    let (attributes, announced) = counted(rest).ok_or_else(lengths)?;
    let field = |bytes, what: &str| {
        NlriField::check(Family::Ipv4, context.add_path.ipv4, bytes)
            .map_err(|error| Fault::new(code::UPDATE, subcode::NETWORK, format!("{what}: {error}")))
    };
    let mut withdrawn = field(withdrawn, "withdrawn routes")?;
    let mut nlri = field(announced, "NLRI")?;

    let mut walked = attributes::walk(attributes, context);
    let unreach = walked
        .mp_unreach
        .map(|tlv| mp_unreach(tlv, context))
        .transpose()?;
    let reach = walked
        .mp_reach
        .map(|tlv| mp_reach(tlv, context))
        .transpose()?;
    let end_of_rib = if body == [0, 0, 0, 0] {
        Some(Family::Ipv4)
    } else if withdrawn.is_empty()
        && nlri.is_empty()
        && !walked.seen.has_other_than(kind::MP_UNREACH)
        && walked.worst.is_none()
    {
        match unreach {
            Some(Some((family, prefixes))) if prefixes.is_empty() => Some(family),
            _ => None,
        }
    } else {
        None
    };
    let end_of_rib = end_of_rib.filter(|family| context.families.contains(*family));

    let reachable = !nlri.is_empty() || reach.as_ref().is_some_and(|reach| reach.reachable());
    if reachable {
        check_mandatory(&mut walked, &nlri, reach.as_ref(), own);
    }
    let has_attributes = walked.seen.has_other_than(kind::MP_UNREACH) || walked.overrun;
    let treat_as_withdraw = match walked.worst {
        Some((ErrorLevel::Reset, subcode, quote)) => return Err(reset(&walked, subcode, quote)),
        // RFC 7606 section 5.2: the attribute in error may have been the one with the prefixes.
        Some((ErrorLevel::TreatAsWithdraw, subcode, quote)) if has_attributes && !reachable => {
            return Err(reset(&walked, subcode, quote));
        }
        Some((ErrorLevel::TreatAsWithdraw, ..)) => true,
        _ => false,
    };
    let mut ineligible = None;
    if let Some(rule) = context.otc
        && reachable
        && !treat_as_withdraw
    {
        (ineligible, walked.added_otc) = rule.apply(walked.otc);
    }
    if !context.families.ipv4 {
        withdrawn = NlriField::none();
        nlri = NlriField::none();
    }
    Ok(UpdateView {
        withdrawn,
        unreach: unreach
            .flatten()
            .map_or(NlriField::none(), |(_, prefixes)| prefixes),
        reach: reach.and_then(|reach| match reach {
            Reached::Routes(routes) => Some(routes),
            Reached::Foreign { .. } => None,
        }),
        nlri,
        walked,
        treat_as_withdraw,
        end_of_rib,
        ineligible,
    })
}

/// RFC 7606 section 3 (d), RFC 4760 section 3 (NEXT_HOP is not needed for MP_REACH_NLRI).
fn check_mandatory<'a>(
    walked: &mut Walked<'a>,
    nlri: &NlriField<'_>,
    reach: Option<&Reached<'a>>,
    own: bool,
) {
    let is_hop = |address: IpAddr| is_host(address) || own && address.is_unspecified();
    let mut missing = |attribute: u8, quote: &'static [u8]| {
        if !walked.seen.contains(attribute) {
            walked.error(
                attribute,
                ErrorLevel::TreatAsWithdraw,
                subcode::MISSING_WELL_KNOWN,
                quote,
                "is mandatory and missing",
            );
        }
    };
    missing(kind::ORIGIN, &[kind::ORIGIN]);
    missing(kind::AS_PATH, &[kind::AS_PATH]);
    if !nlri.is_empty() {
        missing(kind::NEXT_HOP, &[kind::NEXT_HOP]);
        if let Some(next_hop) = walked.next_hop
            && !is_hop(IpAddr::V4(next_hop))
        {
            walked.error(
                kind::NEXT_HOP,
                ErrorLevel::TreatAsWithdraw,
                subcode::NEXT_HOP,
                &[],
                format!("{next_hop} is no host's address"),
            );
        }
    }
    if let Some(Reached::Routes(reach)) = reach
        && !is_hop(reach.next_hop)
    {
        walked.error(
            kind::MP_REACH,
            ErrorLevel::TreatAsWithdraw,
            subcode::OPTIONAL,
            &[],
            format!("next hop {} is no host's address", reach.next_hop),
        );
    }
}

fn reset(walked: &Walked<'_>, subcode: u8, quote: &[u8]) -> Fault {
    let level = walked.worst.map(|(level, ..)| level);
    let error = walked
        .errors
        .iter()
        .find(|error| Some(error.level) == level);
    let text = error.map_or_else(String::new, ToString::to_string);
    Fault::new(code::UPDATE, subcode, format!("UPDATE: {text}")).with_data(quote)
}

/// A field behind its two-octet length, and what follows.
fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

/// What MP_REACH_NLRI announces.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reach<'a> {
    pub(super) next_hop: IpAddr,
    pub(super) link_local: Option<Ipv6Addr>,
    pub(super) nlri: NlriField<'a>,
}

enum Reached<'a> {
    Routes(Reach<'a>),
    /// A family that is not spoken: its NLRI is not looked at.
    Foreign {
        empty: bool,
    },
}

impl Reached<'_> {
    const fn reachable(&self) -> bool {
        match self {
            Self::Routes(reach) => !reach.nlri.is_empty(),
            Self::Foreign { empty } => !*empty,
        }
    }
}

/// RFC 4760 section 7 asks to quote the attribute.
fn mp_fault(tlv: Tlv<'_>, name: &str, text: &str) -> Fault {
    Fault::new(code::UPDATE, subcode::OPTIONAL, format!("{name}: {text}")).with_data(tlv.whole)
}

fn spoken(afi: [u8; 2], safi: u8, context: &Context) -> Option<Family> {
    Family::from_wire(u16::from_be_bytes(afi), safi)
        .filter(|family| context.families.contains(*family))
}

fn mp_reach<'a>(tlv: Tlv<'a>, context: &Context) -> Result<Reached<'a>, Fault> {
    let fault = |text: &str| mp_fault(tlv, "MP_REACH_NLRI", text);
    let cut = || fault("it is cut off");
    let (&[afi_high, afi_low, safi, length], rest) =
        tlv.value.split_first_chunk::<4>().ok_or_else(cut)?;
    let (hop, rest) = rest.split_at_checked(length.into()).ok_or_else(cut)?;
    let (_reserved, bytes) = rest.split_first().ok_or_else(cut)?;
    let Some(family) = spoken([afi_high, afi_low], safi, context) else {
        return Ok(Reached::Foreign {
            empty: bytes.is_empty(),
        });
    };
    let (next_hop, link_local) = mp_next_hop(family, hop, context)
        .ok_or_else(|| fault(&format!("a next hop of {length} octets is impossible")))?;
    let nlri = NlriField::check(family, context.add_path.contains(family), bytes)
        .map_err(|error| fault(&error.to_string()))?;
    Ok(Reached::Routes(Reach {
        next_hop,
        link_local,
        nlri,
    }))
}

/// The next hop, and the link-local one beside it (RFC 2545 section 3, RFC 8950 section 3). Without
/// a global address the link-local one is all that there is.
fn mp_next_hop(
    family: Family,
    hop: &[u8],
    context: &Context,
) -> Option<(IpAddr, Option<Ipv6Addr>)> {
    match (family, hop.len()) {
        (Family::Ipv4, 4) => Some((IpAddr::from(*hop.first_chunk::<4>()?), None)),
        (Family::Ipv4, 16 | 32) if !context.extended_next_hop => None,
        (_, 16) => Some((IpAddr::from(*hop.first_chunk::<16>()?), None)),
        (_, 32) => {
            let global = Ipv6Addr::from(*hop.first_chunk::<16>()?);
            let local = Ipv6Addr::from(*hop.last_chunk::<16>()?);
            let local = Some(local).filter(Ipv6Addr::is_unicast_link_local);
            Some(match local {
                Some(local) if global.is_unspecified() => (IpAddr::V6(local), None),
                _ => (IpAddr::V6(global), local),
            })
        }
        _ => None,
    }
}

fn mp_unreach<'a>(
    tlv: Tlv<'a>,
    context: &Context,
) -> Result<Option<(Family, NlriField<'a>)>, Fault> {
    let fault = |text: &str| mp_fault(tlv, "MP_UNREACH_NLRI", text);
    let (&[afi_high, afi_low, safi], bytes) = tlv
        .value
        .split_first_chunk::<3>()
        .ok_or_else(|| fault("it is cut off"))?;
    let Some(family) = spoken([afi_high, afi_low], safi, context) else {
        return Ok(None);
    };
    let nlri = NlriField::check(family, context.add_path.contains(family), bytes)
        .map_err(|error| fault(&error.to_string()))?;
    Ok(Some((family, nlri)))
}

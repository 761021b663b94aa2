//! UPDATE (RFC 4271 section 4.3) with MP_REACH_NLRI and MP_UNREACH_NLRI (RFC 4760).

use std::net::{IpAddr, Ipv6Addr};

use events::Prefix;
use serde::{Deserialize, Serialize};

use crate::attributes::{
    self, AttributeError, Attributes, ErrorLevel, Tlv, Walked, is_host, kind, subcode,
};
use crate::fault::{Fault, code};
use crate::frame::{self, MessageType};
use crate::nlri::{Families, Family, Nlri, NlriField};
use crate::role::{OtcRule, RouteLeak};

/// What was negotiated, as far as an UPDATE's meaning depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// AS numbers take four octets.
    pub four_octet_as: bool,
    /// The neighbour is in our AS.
    pub internal: bool,
    /// Families of the session; others are passed over.
    pub families: Families,
    /// Families whose NLRI has path identifiers (RFC 7911).
    pub add_path: Families,
    /// IPv4 prefixes may have IPv6 next hops (RFC 8950).
    pub extended_next_hop: bool,
    /// The neighbour, if its role is known and it is in another AS (RFC 9234).
    pub otc: Option<OtcRule>,
}

/// Routes that share their attributes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// Their attributes.
    pub attributes: Attributes,
    /// What they lead to.
    pub nlri: Vec<Nlri>,
    /// They must not be used, nor whatever they replace.
    pub ineligible: Option<RouteLeak>,
}

impl Announcement {
    /// The prefixes, in the order of the wire.
    pub fn prefixes(&self) -> impl Iterator<Item = Prefix> {
        self.nlri.iter().map(|nlri| nlri.prefix)
    }
}

/// What an UPDATE does. No route is both withdrawn and announced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// Routes withdrawn, those "treated as withdrawn" among them.
    pub withdrawn: Vec<Nlri>,
    /// Routes announced or replaced: at most one entry per family and form.
    pub announced: Vec<Announcement>,
    /// It is an End-of-RIB marker (RFC 4724 section 2).
    pub end_of_rib: Option<Family>,
    /// Errors that did not end the session, in the order found; 16 at most, the strongest among
    /// them.
    pub errors: Vec<AttributeError>,
}

/// An UPDATE as it lies in its message: checked, and decoded while it is walked. To be applied, all
/// of [`Self::withdrawn`] goes before all of [`Self::announced`].
#[derive(Clone, Debug)]
pub struct UpdateView<'a> {
    withdrawn: NlriField<'a>,
    unreach: NlriField<'a>,
    reach: Option<Reach<'a>>,
    nlri: NlriField<'a>,
    walked: Walked<'a>,
    treat_as_withdraw: bool,
    end_of_rib: Option<Family>,
    ineligible: Option<RouteLeak>,
}

/// Routes of one form that share their attributes.
#[derive(Clone, Copy, Debug)]
pub struct AnnouncementView<'v, 'a> {
    /// NEXT_HOP, or the (global) next hop of MP_REACH_NLRI.
    pub next_hop: IpAddr,
    /// The link-local next hop beside the global one.
    pub link_local: Option<Ipv6Addr>,
    /// What they lead to.
    pub nlri: NlriField<'a>,
    /// They must not be used, nor whatever they replace.
    pub ineligible: Option<RouteLeak>,
    walked: &'v Walked<'a>,
}

impl AnnouncementView<'_, '_> {
    /// Appends the compact form in which the RIB stores attributes.
    pub fn pack_into(&self, bytes: &mut Vec<u8>) {
        // All mandatory attributes are there: routes without them are treated as withdrawn.
        let _ = self.walked.pack_into(self.next_hop, self.link_local, bytes);
    }

    /// The attributes, decoded.
    #[must_use]
    pub fn attributes(&self) -> Option<Attributes> {
        Some(Attributes {
            origin: self.walked.origin?,
            as_path: crate::path::AsPath::decode(self.walked.as_path.as_deref()?, true).ok()?,
            next_hop: self.next_hop,
            link_local: self.link_local,
            other: self.walked.other_bytes(),
        })
    }
}

impl<'a> UpdateView<'a> {
    /// Routes withdrawn, those "treated as withdrawn" among them.
    pub fn withdrawn(&self) -> impl Iterator<Item = Nlri> + use<'a> {
        let none = NlriField::none();
        let (reach, nlri) = if self.treat_as_withdraw {
            (self.reach.map_or(none, |reach| reach.nlri), self.nlri)
        } else {
            (none, none)
        };
        [self.withdrawn, self.unreach, nlri, reach]
            .into_iter()
            .flat_map(|field| field.iter())
    }

    /// Routes announced: IPv4 in the message's own field, then those of MP_REACH_NLRI.
    pub fn announced(&self) -> impl Iterator<Item = AnnouncementView<'_, 'a>> {
        let view = |next_hop, link_local, nlri| AnnouncementView {
            next_hop,
            link_local,
            nlri,
            ineligible: self.ineligible,
            walked: &self.walked,
        };
        let own = self
            .walked
            .next_hop
            .map(|hop| view(IpAddr::V4(hop), None, self.nlri));
        let reach = self
            .reach
            .map(|reach| view(reach.next_hop, reach.link_local, reach.nlri));
        [own, reach]
            .into_iter()
            .flatten()
            .filter(|view| !self.treat_as_withdraw && !view.nlri.is_empty())
    }

    /// It is an End-of-RIB marker (RFC 4724 section 2).
    #[must_use]
    pub const fn end_of_rib(&self) -> Option<Family> {
        self.end_of_rib
    }

    /// Errors that did not end the session, in the order found; 16 at most, the strongest among
    /// them.
    #[must_use]
    pub fn errors(&self) -> &[AttributeError] {
        &self.walked.errors
    }

    /// What the attributes say, also where there is no route that has them.
    #[must_use]
    pub fn attributes(&self) -> MessageAttributes {
        MessageAttributes {
            origin: self.walked.origin,
            as_path: self
                .walked
                .as_path
                .as_deref()
                .and_then(|path| crate::path::AsPath::decode(path, true).ok()),
            other: self.walked.other_bytes(),
        }
    }

    /// The same, independent of the message's bytes. Withdrawals of what is announced in the same
    /// message count as not there (RFC 4271 section 4.3).
    #[must_use]
    pub fn to_update(&self) -> Update {
        let mut update = Update {
            withdrawn: Vec::new(),
            announced: Vec::new(),
            end_of_rib: self.end_of_rib,
            errors: self.walked.errors.clone(),
        };
        for view in self.announced() {
            let Some(attributes) = view.attributes() else {
                continue;
            };
            let mut nlri = Vec::with_capacity(view.nlri.count());
            nlri.extend(view.nlri.iter());
            update.announced.push(Announcement {
                attributes,
                nlri,
                ineligible: view.ineligible,
            });
        }
        update.withdrawn.reserve_exact(self.withdrawn().count());
        if update.announced.is_empty() {
            update.withdrawn.extend(self.withdrawn());
        } else if self.withdrawn().next().is_some() {
            let routes = || update.announced.iter().map(|routes| &routes.nlri);
            let mut announced = Vec::with_capacity(routes().map(Vec::len).sum());
            routes().for_each(|nlri| announced.extend_from_slice(nlri));
            announced.sort_unstable();
            let gone = |nlri: &Nlri| announced.binary_search(nlri).is_err();
            update.withdrawn.extend(self.withdrawn().filter(gone));
        }
        update
    }
}

/// What an UPDATE's attributes say, whether or not it announces a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageAttributes {
    /// ORIGIN.
    pub origin: Option<attributes::Origin>,
    /// AS_PATH, with AS4_PATH merged in.
    pub as_path: Option<crate::path::AsPath>,
    /// All others as they came, without MP_REACH_NLRI, MP_UNREACH_NLRI and NEXT_HOP.
    pub other: Vec<u8>,
}

/// Decodes the body of an UPDATE.
///
/// # Errors
/// Those of [`view`].
pub fn decode(body: &[u8], context: &Context) -> Result<Update, Fault> {
    view(body, context).map(|view| view.to_update())
}

/// Checks the body of an UPDATE whole, without decoding what can be decoded later.
///
/// # Errors
/// An UPDATE Message Error (RFC 4271 section 6.3) where RFC 7606 still demands a session reset:
/// lengths that contradict each other, prefixes or MP attributes that cannot be decoded, an MP
/// attribute that appears twice, a well-known attribute that is not known, and an attribute error
/// in a message with attributes but without a reachable prefix.
pub fn view<'a>(body: &'a [u8], context: &Context) -> Result<UpdateView<'a>, Fault> {
    check(body, context, false)
}

/// [`view`], of an UPDATE that shows a router's own table (Adj-RIB-Out before policy or Loc-RIB):
/// routes that the router originates need no next hop there.
pub(crate) fn view_own<'a>(body: &'a [u8], context: &Context) -> Result<UpdateView<'a>, Fault> {
    check(body, context, true)
}

/// `own`: the routes may be the sender's own, without a next hop.
fn check<'a>(body: &'a [u8], context: &Context, own: bool) -> Result<UpdateView<'a>, Fault> {
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
struct Reach<'a> {
    next_hop: IpAddr,
    link_local: Option<Ipv6Addr>,
    nlri: NlriField<'a>,
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

/// End-of-RIB for a family, a whole message (RFC 4724 section 2).
pub(crate) fn end_of_rib(family: Family) -> Vec<u8> {
    let body: &[u8] = match family {
        Family::Ipv4 => &[0, 0, 0, 0],
        // An MP_UNREACH_NLRI without routes.
        Family::Ipv6 => &[0, 0, 0, 6, 0x80, 15, 3, 0, 2, 1],
    };
    frame::encode(MessageType::Update, body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::Origin;
    use events::Asn;

    const CONTEXT: Context = Context {
        four_octet_as: true,
        internal: false,
        families: Families::BOTH,
        add_path: Families::NONE,
        extended_next_hop: false,
        otc: None,
    };

    const ORIGIN: &[u8] = &[0x40, 1, 1, 0];
    const PATH: &[u8] = &[0x40, 2, 6, 2, 1, 0, 3, 0x39, 0xc4];
    const HOP: &[u8] = &[0x40, 3, 4, 192, 0, 2, 1];
    const TEN: &[u8] = &[8, 10];
    /// 2001:db8::/32 with next hop 2001:db8::1.
    const REACH6: &[u8] = &[
        0x80, 14, 26, 0, 2, 1, 16, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 32,
        0x20, 1, 0xd, 0xb8,
    ];

    fn body(withdrawn: &[u8], attributes: &[&[u8]], nlri: &[u8]) -> Vec<u8> {
        let attributes = attributes.concat();
        let mut body = u16::try_from(withdrawn.len())
            .unwrap()
            .to_be_bytes()
            .to_vec();
        body.extend_from_slice(withdrawn);
        body.extend(u16::try_from(attributes.len()).unwrap().to_be_bytes());
        body.extend_from_slice(&attributes);
        body.extend_from_slice(nlri);
        body
    }

    fn strings(prefixes: &[Nlri]) -> Vec<String> {
        prefixes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn both_families_in_one_message() {
        let body = body(&[8, 11], &[ORIGIN, PATH, HOP, REACH6], TEN);
        let update = decode(&body, &CONTEXT).unwrap();
        assert_eq!(strings(&update.withdrawn), ["11.0.0.0/8"]);
        let [v4, v6] = &update.announced[..] else {
            panic!("{update:?}");
        };
        assert_eq!(strings(&v4.nlri), ["10.0.0.0/8"]);
        assert_eq!(v4.attributes.next_hop.to_string(), "192.0.2.1");
        assert_eq!(v4.attributes.as_path.flat(), [Asn(211_396)]);
        assert_eq!(v4.attributes.origin, Origin::Igp);
        assert_eq!(strings(&v6.nlri), ["2001:db8::/32"]);
        assert_eq!(v6.attributes.next_hop.to_string(), "2001:db8::1");
        for announcement in &update.announced {
            let packed = announcement.attributes.pack();
            assert_eq!(
                Attributes::unpack(&packed).as_ref(),
                Some(&announcement.attributes)
            );
        }
    }

    #[test]
    fn the_default_route_packed_first() {
        let nlri = [0, 24, 10, 0, 1, 24, 10, 0, 2, 24, 10, 0, 3, 16, 10, 9];
        let expected = [
            "0.0.0.0/0",
            "10.0.1.0/24",
            "10.0.2.0/24",
            "10.0.3.0/24",
            "10.9.0.0/16",
        ];
        let update = decode(&body(&[], &[ORIGIN, PATH, HOP], &nlri), &CONTEXT).unwrap();
        assert_eq!(strings(&update.announced[0].nlri), expected);
        let update = decode(&body(&nlri, &[], &[]), &CONTEXT).unwrap();
        assert_eq!(strings(&update.withdrawn), expected);
        assert_eq!(update.end_of_rib, None);
    }

    #[test]
    fn end_of_rib_markers_and_what_only_looks_like_one() {
        let unreach6: &[u8] = &[0x80, 15, 3, 0, 2, 1];
        let unreach_labeled: &[u8] = &[0x80, 15, 3, 0, 2, 4];
        let end = |body: &[u8]| decode(body, &CONTEXT).unwrap().end_of_rib;
        assert_eq!(end(&body(&[], &[], &[])), Some(Family::Ipv4));
        assert_eq!(end(&body(&[], &[unreach6], &[])), Some(Family::Ipv6));
        assert_eq!(end(&body(&[], &[unreach_labeled], &[])), None);
        assert_eq!(end(&body(&[8, 10], &[unreach6], &[])), None);
        assert_eq!(end(&body(&[], &[ORIGIN, unreach6], &[])), None);
        let only_v4 = Context {
            families: Families {
                ipv4: true,
                ipv6: false,
            },
            ..CONTEXT
        };
        let update = decode(&body(&[], &[unreach6], &[]), &only_v4).unwrap();
        assert_eq!(update.end_of_rib, None);
    }

    #[test]
    fn a_prefix_withdrawn_and_announced_is_announced() {
        let update = decode(&body(TEN, &[ORIGIN, PATH, HOP], TEN), &CONTEXT).unwrap();
        assert!(update.withdrawn.is_empty());
        assert_eq!(strings(&update.announced[0].nlri), ["10.0.0.0/8"]);
    }

    #[test]
    fn families_that_were_not_negotiated_are_passed_over() {
        let context = Context {
            families: Families {
                ipv4: true,
                ipv6: false,
            },
            ..CONTEXT
        };
        let message = body(&[], &[ORIGIN, PATH, HOP, REACH6], TEN);
        let update = decode(&message, &context).unwrap();
        assert_eq!(update.announced.len(), 1);
        assert_eq!(strings(&update.announced[0].nlri), ["10.0.0.0/8"]);
    }

    /// What the session does not survive: RFC 4271 section 6.3 where RFC 7606 left it.
    #[test]
    fn resets() {
        let reach = |value: &[u8]| -> Vec<u8> {
            let length = u8::try_from(value.len()).unwrap();
            [&[0x80, 14, length][..], value].concat()
        };
        let short_hop = reach(&[0, 2, 1, 15, 0, 0, 0]);
        let wrong_hop = reach(&[&[0, 2, 1, 4, 192, 0, 2, 1, 0][..], &[0]].concat());
        let long_prefix = reach(&[&[0, 2, 1, 16][..], &[0x20; 16], &[0, 129]].concat());
        let empty = reach(&[0, 2]);
        let bad_origin: &[u8] = &[0x40, 1, 1, 9];
        let cases: [(&str, Vec<u8>, u8); 15] = [
            ("withdrawn length beyond the message", vec![0, 9, 0, 0], 1),
            ("attribute length beyond the message", vec![0, 0, 0, 9], 1),
            ("no attribute length", vec![0, 0, 0], 1),
            (
                "withdrawn prefix of length 33",
                body(&[33, 1, 2, 3, 4, 5], &[], &[]),
                10,
            ),
            ("withdrawn prefix cut off", body(&[24, 10], &[], &[]), 10),
            (
                "NLRI of length 33",
                body(&[], &[ORIGIN, PATH, HOP], &[33, 1, 2, 3, 4, 5]),
                10,
            ),
            (
                "NLRI cut off",
                body(&[], &[ORIGIN, PATH, HOP], &[24, 10]),
                10,
            ),
            (
                "MP_REACH: next hop cut off",
                body(&[], &[ORIGIN, PATH, &short_hop], &[]),
                9,
            ),
            (
                "MP_REACH: IPv4 next hop for IPv6",
                body(&[], &[ORIGIN, PATH, &wrong_hop], &[]),
                9,
            ),
            (
                "MP_REACH: prefix too long",
                body(&[], &[ORIGIN, PATH, &long_prefix], &[]),
                9,
            ),
            (
                "MP_REACH: two octets",
                body(&[], &[ORIGIN, PATH, &empty], &[]),
                9,
            ),
            (
                "MP_UNREACH: prefix cut off",
                body(&[], &[&[0x80, 15, 5, 0, 2, 1, 32, 1]], &[]),
                9,
            ),
            (
                "MP_REACH twice",
                body(&[], &[ORIGIN, PATH, REACH6, REACH6], &[]),
                1,
            ),
            (
                "unknown well-known attribute",
                body(&[], &[ORIGIN, PATH, HOP, &[0x40, 99, 0]], TEN),
                2,
            ),
            (
                "an error and no prefix",
                body(&[], &[bad_origin, PATH], &[]),
                6,
            ),
        ];
        for (name, bytes, subcode) in cases {
            let fault = decode(&bytes, &CONTEXT).expect_err(name);
            assert_eq!((fault.code, fault.subcode), (3, subcode), "{name}: {fault}");
        }
    }

    /// RFC 7606: the route is gone, the session stays.
    #[test]
    fn treated_as_withdrawn() {
        let cases: [(&str, &[&[u8]], u8); 19] = [
            (
                "attribute overrun",
                &[ORIGIN, PATH, HOP, &[0x80, 4, 9, 0]],
                0,
            ),
            ("trailing attribute byte", &[ORIGIN, PATH, HOP, &[0x80]], 0),
            ("ORIGIN 3", &[&[0x40, 1, 1, 3], PATH, HOP], 1),
            ("ORIGIN of length 2", &[&[0x40, 1, 2, 0, 0], PATH, HOP], 1),
            ("ORIGIN optional", &[&[0xc0, 1, 1, 0], PATH, HOP], 1),
            ("ORIGIN missing", &[PATH, HOP], 1),
            ("AS_PATH missing", &[ORIGIN, HOP], 2),
            ("AS_PATH count 0", &[ORIGIN, &[0x40, 2, 2, 2, 0], HOP], 2),
            (
                "AS_PATH cut off",
                &[ORIGIN, &[0x40, 2, 4, 2, 1, 0, 1], HOP],
                2,
            ),
            (
                "AS_PATH type 9",
                &[ORIGIN, &[0x40, 2, 6, 9, 1, 0, 0, 0, 1], HOP],
                2,
            ),
            (
                "confederation from outside",
                &[ORIGIN, &[0x40, 2, 6, 3, 1, 0, 0, 0, 1], HOP],
                2,
            ),
            ("NEXT_HOP missing", &[ORIGIN, PATH], 3),
            (
                "NEXT_HOP of length 5",
                &[ORIGIN, PATH, &[0x40, 3, 5, 1, 2, 3, 4, 5]],
                3,
            ),
            (
                "NEXT_HOP 0.0.0.0",
                &[ORIGIN, PATH, &[0x40, 3, 4, 0, 0, 0, 0]],
                3,
            ),
            (
                "NEXT_HOP 127.0.0.1",
                &[ORIGIN, PATH, &[0x40, 3, 4, 127, 0, 0, 1]],
                3,
            ),
            (
                "MED of length 3",
                &[ORIGIN, PATH, HOP, &[0x80, 4, 3, 0, 0, 0]],
                4,
            ),
            (
                "COMMUNITIES of length 3",
                &[ORIGIN, PATH, HOP, &[0xc0, 8, 3, 0, 0, 0]],
                8,
            ),
            (
                "large communities, empty",
                &[ORIGIN, PATH, HOP, &[0xc0, 32, 0]],
                32,
            ),
            (
                "OTC of length 2",
                &[ORIGIN, PATH, HOP, &[0xc0, 35, 2, 0, 0]],
                35,
            ),
        ];
        for (name, attributes, attribute) in cases {
            let update = decode(&body(&[8, 11], attributes, TEN), &CONTEXT)
                .unwrap_or_else(|fault| panic!("{name}: {fault}"));
            assert_eq!(
                strings(&update.withdrawn),
                ["11.0.0.0/8", "10.0.0.0/8"],
                "{name}"
            );
            assert!(update.announced.is_empty(), "{name}");
            let worst = update
                .errors
                .iter()
                .max_by_key(|error| error.level)
                .unwrap();
            assert_eq!(
                (worst.attribute, worst.level),
                (attribute, ErrorLevel::TreatAsWithdraw),
                "{name}"
            );
        }
        let bad_v6 = decode(&body(&[], &[&[0x40, 1, 1, 3], PATH, REACH6], &[]), &CONTEXT).unwrap();
        assert_eq!(strings(&bad_v6.withdrawn), ["2001:db8::/32"]);
    }

    #[test]
    fn discarded_attributes_leave_the_route() {
        let cases: [(&str, &[u8], u8); 6] = [
            ("ATOMIC_AGGREGATE with a value", &[0x40, 6, 1, 0], 6),
            (
                "AGGREGATOR of length 6",
                &[0xc0, 7, 6, 0, 1, 192, 0, 2, 1],
                7,
            ),
            ("LOCAL_PREF from outside", &[0x40, 5, 4, 0, 0, 0, 100], 5),
            ("CLUSTER_LIST from outside", &[0x80, 10, 4, 1, 2, 3, 4], 10),
            (
                "AS4_PATH from a new speaker",
                &[0xc0, 17, 6, 2, 1, 0, 0, 0, 9],
                17,
            ),
            ("second ORIGIN", &[0x40, 1, 1, 2], 1),
        ];
        for (name, extra, attribute) in cases {
            let message = body(&[], &[ORIGIN, PATH, HOP, extra], TEN);
            let update =
                decode(&message, &CONTEXT).unwrap_or_else(|fault| panic!("{name}: {fault}"));
            assert_eq!(strings(&update.announced[0].nlri), ["10.0.0.0/8"], "{name}");
            assert_eq!(update.announced[0].attributes.origin, Origin::Igp);
            assert!(update.announced[0].attributes.other.is_empty(), "{name}");
            assert_eq!(
                (update.errors[0].attribute, update.errors[0].level),
                (attribute, ErrorLevel::Discard),
                "{name}"
            );
        }
    }

    #[test]
    fn the_strongest_error_wins() {
        let discard: &[u8] = &[0x40, 6, 1, 0];
        let withdraw: &[u8] = &[0x80, 4, 3, 0, 0, 0];
        let reset: &[u8] = &[0x40, 99, 0];
        let update = decode(
            &body(&[], &[ORIGIN, PATH, HOP, discard, withdraw], TEN),
            &CONTEXT,
        )
        .unwrap();
        assert_eq!(strings(&update.withdrawn), ["10.0.0.0/8"]);
        assert_eq!(update.errors.len(), 2);
        let message = body(&[], &[ORIGIN, PATH, HOP, reset, withdraw, discard], TEN);
        assert_eq!(decode(&message, &CONTEXT).unwrap_err().subcode, 2);
    }

    #[test]
    fn unknown_optional_attributes_are_kept_as_they_came() {
        let unknown: &[u8] = &[0xd0, 250, 0, 2, 7, 7];
        let update = decode(&body(&[], &[ORIGIN, PATH, HOP, unknown], TEN), &CONTEXT).unwrap();
        assert_eq!(update.announced[0].attributes.other, unknown);
        assert!(update.errors.is_empty());
    }

    #[test]
    fn an_old_speaker_says_23456_and_as4_path_the_truth() {
        let old = Context {
            four_octet_as: false,
            ..CONTEXT
        };
        let path: &[u8] = &[0x40, 2, 6, 2, 2, 0, 10, 0x5b, 0xa0];
        let as4: &[u8] = &[0xc0, 17, 6, 2, 1, 0, 3, 0x39, 0xc4];
        let flat = |attributes: &[&[u8]]| {
            let update = decode(&body(&[], attributes, TEN), &old).unwrap();
            update.announced[0].attributes.as_path.flat()
        };
        assert_eq!(flat(&[ORIGIN, path, HOP, as4]), [Asn(10), Asn(211_396)]);
        // RFC 6793 section 4.2.3: both AGGREGATOR (not AS_TRANS) and AS4_AGGREGATOR: an old speaker
        // aggregated later, and both AS4 attributes are void.
        let aggregator: &[u8] = &[0xc0, 7, 6, 0, 1, 192, 0, 2, 1];
        let as4_aggregator: &[u8] = &[0xc0, 18, 8, 0, 3, 0x39, 0xc4, 192, 0, 2, 1];
        assert_eq!(
            flat(&[ORIGIN, path, HOP, aggregator, as4_aggregator, as4]),
            [Asn(10), Asn(23456)]
        );
        // AGGREGATOR alone says nothing about AS4_PATH.
        assert_eq!(
            flat(&[ORIGIN, path, HOP, aggregator, as4]),
            [Asn(10), Asn(211_396)]
        );
        let trans: &[u8] = &[0xc0, 7, 6, 0x5b, 0xa0, 192, 0, 2, 1];
        assert_eq!(
            flat(&[ORIGIN, path, HOP, trans, as4_aggregator, as4]),
            [Asn(10), Asn(211_396)]
        );
    }

    #[test]
    fn no_bytes_make_it_panic() {
        // A small generator of its own (xorshift), so that the run is the same everywhere.
        let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let good = body(&[8, 11], &[ORIGIN, PATH, HOP, REACH6], TEN);
        let (mut accepted, mut refused) = (0, 0);
        for _ in 0..200_000 {
            let mut bytes = good.clone();
            for _ in 0..=next() % 4 {
                let index = usize::try_from(next()).unwrap() % bytes.len();
                bytes[index] = next().to_le_bytes()[0];
            }
            let length = usize::try_from(next()).unwrap() % (bytes.len() * 2);
            bytes.truncate(length.max(4));
            match decode(&bytes, &CONTEXT) {
                Ok(_) => accepted += 1,
                Err(_) => refused += 1,
            }
        }
        assert!(accepted > 1000 && refused > 1000, "{accepted} {refused}");
    }

    fn attribute(flags: u8, kind: u8, value: &[u8]) -> Vec<u8> {
        let [high, low] = u16::try_from(value.len()).unwrap().to_be_bytes();
        [&[flags | 0x10, kind, high, low][..], value].concat()
    }

    fn levels(update: &Update) -> Vec<(u8, ErrorLevel)> {
        let level = |error: &AttributeError| (error.attribute, error.level);
        update.errors.iter().map(level).collect()
    }

    /// RFC 7911 section 3: path identifiers are there exactly for the families for which they were
    /// negotiated, in all of an UPDATE's fields.
    #[test]
    fn add_path_is_by_family_and_never_a_guess() {
        let only = |ipv4, ipv6| Context {
            add_path: Families { ipv4, ipv6 },
            ..CONTEXT
        };
        // As ADD-PATH: path 7 to 10/8. As plain NLRI: three default routes, then 10.0.0.0/7.
        let ipv4 = [0, 0, 0, 7, 8, 10];
        let hop6 = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        let reach6 = [&[0, 2, 1, 16], &hop6[..], &[0], &[0, 0, 0, 9, 16, 0x20, 1]].concat();
        let reach6 = attribute(0x80, 14, &reach6);
        let message = body(&ipv4, &[ORIGIN, PATH, HOP, &reach6], &[0, 0, 0, 8, 8, 11]);
        let update = decode(&message, &only(true, true)).unwrap();
        assert_eq!(strings(&update.withdrawn), ["10.0.0.0/8 path 7"]);
        assert_eq!(strings(&update.announced[0].nlri), ["11.0.0.0/8 path 8"]);
        assert_eq!(strings(&update.announced[1].nlri), ["2001::/16 path 9"]);
        let plain6 = [&[0, 2, 1, 16], &hop6[..], &[0], &[16, 0x20, 1]].concat();
        let plain6 = attribute(0x80, 14, &plain6);
        let message = body(&ipv4, &[ORIGIN, PATH, &plain6], &[]);
        let update = decode(&message, &only(true, false)).unwrap();
        assert_eq!(strings(&update.withdrawn), ["10.0.0.0/8 path 7"]);
        assert_eq!(strings(&update.announced[0].nlri), ["2001::/16"]);
        let unreach = attribute(0x80, 15, &[0, 2, 1, 0, 0, 0, 9, 16, 0x20, 1]);
        let message = body(&[8, 10], &[&unreach], &[]);
        let update = decode(&message, &only(false, true)).unwrap();
        assert_eq!(
            strings(&update.withdrawn),
            ["10.0.0.0/8", "2001::/16 path 9"]
        );
        let message = body(&ipv4, &[], &[]);
        let update = decode(&message, &only(false, true)).unwrap_err();
        assert_eq!(update.subcode, 10, "10 bits of prefix, and no octet left");
        let update = decode(&body(&[0, 0, 0, 7, 10], &[], &[]), &CONTEXT).unwrap();
        assert_eq!(
            strings(&update.withdrawn),
            ["0.0.0.0/0", "0.0.0.0/0", "0.0.0.0/0", "10.0.0.0/7"]
        );
        // The same prefix by another path is another route (RFC 7911 section 2).
        let message = body(
            &[0, 0, 0, 1, 8, 10, 0, 0, 0, 2, 8, 10],
            &[ORIGIN, PATH, HOP],
            &[0, 0, 0, 2, 8, 10],
        );
        let update = decode(&message, &only(true, false)).unwrap();
        assert_eq!(strings(&update.withdrawn), ["10.0.0.0/8 path 1"]);
    }

    /// RFC 8950 section 3: 16 or 32 octets for IPv4 prefixes, where that is agreed. RFC 2545
    /// section 3: a link-local address may follow the global one. RFC 7606 section 7.11: any
    /// other length resets the session.
    #[test]
    fn next_hops_of_mp_reach() {
        let global = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        let local = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
        let both = [global, local].concat();
        let unspecified = [[0; 16], local].concat();
        let extended = Context {
            extended_next_hop: true,
            ..CONTEXT
        };
        let read = |afi: u8, hop: &[u8], context: &Context| {
            let length = u8::try_from(hop.len()).unwrap();
            let value = [&[0, afi, 1, length], hop, &[0, 8, 10]].concat();
            let message = body(&[], &[ORIGIN, PATH, &attribute(0x80, 14, &value)], &[]);
            let update = decode(&message, context).map_err(|fault| fault.subcode)?;
            let attributes = &update.announced[0].attributes;
            let packed = attributes.pack();
            assert_eq!(Attributes::unpack(&packed).as_ref(), Some(attributes));
            let local = attributes.link_local.map(|address| address.to_string());
            Ok((attributes.next_hop.to_string(), local))
        };
        let one = |address: &str| Ok((address.to_owned(), None));
        let two = Ok(("2001:db8::1".to_owned(), Some("fe80::2".to_owned())));
        assert_eq!(read(1, &[192, 0, 2, 1], &CONTEXT), one("192.0.2.1"));
        assert_eq!(read(1, &global, &extended), one("2001:db8::1"));
        assert_eq!(read(1, &both, &extended), two);
        assert_eq!(read(1, &global, &CONTEXT), Err(9), "not agreed");
        assert_eq!(read(2, &global, &CONTEXT), one("2001:db8::1"));
        assert_eq!(read(2, &both, &CONTEXT), two);
        assert_eq!(read(2, &local, &CONTEXT), one("fe80::2"));
        assert_eq!(read(2, &unspecified, &CONTEXT), one("fe80::2"));
        for (afi, length) in [(1, 0), (1, 8), (1, 12), (2, 0), (2, 4), (2, 24), (2, 48)] {
            assert_eq!(
                read(afi, &vec![9; length], &extended),
                Err(9),
                "{afi} {length}"
            );
        }
    }

    /// RFC 4760 section 3: NEXT_HOP is ignored where MP_REACH_NLRI has all the prefixes.
    #[test]
    fn a_next_hop_that_nothing_uses_may_be_nonsense() {
        let nonsense: &[u8] = &[0x40, 3, 4, 0, 0, 0, 0];
        let update = decode(&body(&[], &[ORIGIN, PATH, nonsense, REACH6], &[]), &CONTEXT).unwrap();
        assert_eq!(strings(&update.announced[0].nlri), ["2001:db8::/32"]);
        assert!(update.errors.is_empty());
    }

    /// RFC 7606 section 2: treat-as-withdraw is for all routes in the UPDATE, of all families and
    /// fields.
    #[test]
    fn treat_as_withdraw_withdraws_every_route_in_the_message() {
        let bad: &[u8] = &[0x40, 1, 1, 3];
        let unreach: &[u8] = &[0x80, 15, 6, 0, 2, 1, 16, 0x20, 2];
        let message = body(&[8, 11], &[bad, PATH, HOP, unreach, REACH6], TEN);
        let update = decode(&message, &CONTEXT).unwrap();
        assert!(update.announced.is_empty());
        assert_eq!(
            strings(&update.withdrawn),
            ["11.0.0.0/8", "2002::/16", "10.0.0.0/8", "2001:db8::/32"]
        );
    }

    /// RFC 7606 section 5.2: without a reachable prefix, and with other attributes than
    /// MP_UNREACH_NLRI, an error that is more than a discard resets the session.
    #[test]
    fn errors_in_a_message_without_reachable_prefixes() {
        let unreach: &[u8] = &[0x80, 15, 6, 0, 2, 1, 16, 0x20, 2];
        let wrong_flags: &[u8] = &[0xc0, 15, 6, 0, 2, 1, 16, 0x20, 2];
        let med: &[u8] = &[0x80, 4, 3, 0, 0, 0];
        let discard: &[u8] = &[0x40, 6, 1, 0];
        let subcode = |withdrawn: &[u8], attributes: &[&[u8]]| {
            decode(&body(withdrawn, attributes, &[]), &CONTEXT)
                .map(|update| strings(&update.withdrawn))
                .map_err(|fault| fault.subcode)
        };
        assert_eq!(subcode(&[], &[unreach, med]), Err(5));
        assert_eq!(subcode(TEN, &[med]), Err(5));
        assert_eq!(
            subcode(TEN, &[&[0x80]]),
            Err(5),
            "an overrun hides an attribute"
        );
        // Nothing but MP_UNREACH_NLRI: all that it can withdraw is withdrawn.
        assert_eq!(subcode(&[], &[wrong_flags]), Ok(vec!["2002::/16".into()]));
        assert_eq!(
            subcode(TEN, &[unreach, discard]),
            Ok(vec!["10.0.0.0/8".into(), "2002::/16".into()])
        );
    }

    /// RFC 7606 section 3 (j): routes that cannot be read cannot be withdrawn.
    #[test]
    fn an_mp_attribute_that_overruns_resets_the_session() {
        for kind in [14, 15] {
            let overrun: &[u8] = &[0x80, kind, 9, 0, 2, 1];
            let message = body(&[], &[ORIGIN, PATH, HOP, overrun], TEN);
            assert_eq!(decode(&message, &CONTEXT).unwrap_err().subcode, 9);
            let message = body(&[], &[ORIGIN, PATH, HOP, &[0x80, kind]], TEN);
            assert_eq!(decode(&message, &CONTEXT).unwrap_err().subcode, 9);
        }
    }

    /// RFC 4271 section 6.3, RFC 4760 section 7: what NOTIFICATION quotes.
    #[test]
    fn notifications_quote_what_was_wrong() {
        let quoted = |attributes: &[&[u8]], nlri: &[u8]| {
            let fault = decode(&body(&[], attributes, nlri), &CONTEXT).unwrap_err();
            (fault.subcode, fault.data)
        };
        let unknown: &[u8] = &[0x40, 99, 2, 1, 2];
        assert_eq!(
            quoted(&[ORIGIN, PATH, HOP, unknown], TEN),
            (2, unknown.to_vec())
        );
        let reach: &[u8] = &[0x80, 14, 2, 0, 2];
        assert_eq!(quoted(&[ORIGIN, PATH, reach], &[]), (9, reach.to_vec()));
        let origin: &[u8] = &[0x40, 1, 1, 9];
        assert_eq!(quoted(&[origin, PATH], &[]), (6, origin.to_vec()));
        let path: &[u8] = &[0x40, 2, 2, 2, 0];
        assert_eq!(quoted(&[ORIGIN, path], &[]), (11, vec![]), "AS_PATH is not");
    }

    /// The attribute that reset sessions across the Internet on 2025-05-20: BGP Prefix-SID (40)
    /// with a broken value, from a speaker of another AS. It is not ours to understand: passed
    /// over whatever it holds (RFC 4271 section 5, RFC 7606 section 3).
    #[test]
    fn attribute_40_whatever_it_holds() {
        for value in [&[][..], &[0], &[1, 0, 7], &[0; 300], &[0xff; 11]] {
            for flags in [0xc0, 0xe0, 0x80] {
                let sid = attribute(flags, 40, value);
                let update = decode(&body(&[], &[ORIGIN, PATH, HOP, &sid], TEN), &CONTEXT).unwrap();
                assert_eq!(strings(&update.announced[0].nlri), ["10.0.0.0/8"]);
                assert_eq!(update.announced[0].attributes.other, sid);
                assert!(update.errors.is_empty());
            }
        }
    }

    /// The attribute that reset sessions in October 2025: OTC whose extended-length bit is set
    /// while the length has one octet, so that it reads 1024. An overrun: the route goes, the
    /// session stays (RFC 7606 section 4).
    #[test]
    fn attribute_35_with_a_length_of_1024() {
        let otc: &[u8] = &[0xf0, 35, 4, 0, 0, 0xfb, 0xf4];
        let update = decode(&body(&[], &[ORIGIN, PATH, HOP, otc], TEN), &CONTEXT).unwrap();
        assert_eq!(strings(&update.withdrawn), ["10.0.0.0/8"]);
        assert_eq!(levels(&update), [(0, ErrorLevel::TreatAsWithdraw)]);
        // With 1024 octets behind it: a length that OTC cannot have (RFC 9234 section 5).
        let otc = attribute(0xc0, 35, &[0; 1024]);
        let update = decode(&body(&[], &[ORIGIN, PATH, HOP, &otc], TEN), &CONTEXT).unwrap();
        assert_eq!(strings(&update.withdrawn), ["10.0.0.0/8"]);
        assert_eq!(levels(&update), [(35, ErrorLevel::TreatAsWithdraw)]);
    }

    /// RFC 9234 section 5: a leak is ineligible, and where OTC is missing it is added.
    #[test]
    fn only_to_customer() {
        use crate::role::Role;
        let from = |neighbor_role| Context {
            otc: Some(OtcRule {
                neighbor_role,
                neighbor_as: Asn(64500),
            }),
            ..CONTEXT
        };
        let otc: &[u8] = &[0xc0, 35, 4, 0, 0, 0xfb, 0xf5];
        let med: &[u8] = &[0x80, 4, 4, 0, 0, 0, 1];
        let read = |attributes: &[&[u8]], role| {
            let message = body(&[], attributes, TEN);
            let update = decode(&message, &from(role)).unwrap();
            update.announced.into_iter().next().unwrap()
        };
        let leak = read(&[ORIGIN, PATH, HOP, otc], Role::Customer).ineligible;
        assert_eq!(leak.map(|leak| leak.otc), Some(Asn(64501)));
        let route = read(&[ORIGIN, PATH, HOP, otc, med], Role::Provider);
        assert_eq!(route.ineligible, None);
        assert_eq!(route.attributes.other, [otc, med].concat());
        let route = read(&[ORIGIN, PATH, HOP, med], Role::Peer);
        assert_eq!(route.ineligible, None);
        let added: &[u8] = &[0xc0, 35, 4, 0, 0, 0xfb, 0xf4];
        assert_eq!(route.attributes.other, [med, added].concat());
    }

    /// RFC 7606 section 3 (c), (g), section 4 (length zero), section 7; RFC 7607 section 2 (AS 0);
    /// RFC 6793 section 6: what each malformed attribute demands. I: from the same AS, E: from
    /// another, O: from one with two-octet AS numbers.
    #[test]
    fn what_each_malformed_attribute_demands() {
        use ErrorLevel::{Discard, TreatAsWithdraw};
        let internal = Context {
            internal: true,
            ..CONTEXT
        };
        let old = Context {
            four_octet_as: false,
            ..CONTEXT
        };
        let old_path: &[u8] = &[0x40, 2, 4, 2, 1, 0x5b, 0xa0];
        let cases: &[(char, &[u8], Option<ErrorLevel>)] = &[
            ('E', &[0x80, 4, 0], Some(TreatAsWithdraw)),
            ('E', &[0x80, 4, 5, 0, 0, 0, 0, 0], Some(TreatAsWithdraw)),
            ('E', &[0xc0, 4, 4, 0, 0, 0, 0], Some(TreatAsWithdraw)),
            ('E', &[0xa0, 4, 4, 0, 0, 0, 0], None), // Partial is no such flag
            ('I', &[0x40, 5, 3, 0, 0, 0], Some(TreatAsWithdraw)),
            ('I', &[0x40, 5, 4, 0, 0, 0, 1], None),
            ('E', &[0x40, 5, 3, 0, 0, 0], Some(Discard)),
            ('E', &[0x40, 6, 0], None),
            ('E', &[0xc0, 6, 0], Some(TreatAsWithdraw)),
            ('E', &[0xc0, 7, 8, 0, 0, 0, 1, 192, 0, 2, 1], None),
            ('E', &[0xc0, 7, 0], Some(Discard)),
            ('E', &[0xc0, 7, 8, 0, 0, 0, 0, 192, 0, 2, 1], Some(Discard)),
            ('O', &[0xc0, 7, 8, 0, 0, 0, 1, 192, 0, 2, 1], Some(Discard)),
            ('O', &[0xc0, 7, 6, 0, 1, 192, 0, 2, 1], None),
            ('O', &[0xc0, 7, 6, 0, 0, 192, 0, 2, 1], Some(Discard)),
            ('E', &[0xc0, 8, 0], Some(TreatAsWithdraw)),
            ('E', &[0xc0, 8, 4, 0, 0, 0, 0], None),
            ('E', &[0x40, 8, 4, 0, 0, 0, 0], Some(TreatAsWithdraw)),
            ('I', &[0x80, 9, 4, 0, 0, 0, 1], None),
            ('I', &[0x80, 9, 5, 0, 0, 0, 0, 1], Some(TreatAsWithdraw)),
            ('E', &[0x80, 9, 4, 0, 0, 0, 1], Some(Discard)),
            ('I', &[0x80, 10, 0], Some(TreatAsWithdraw)),
            ('I', &[0x80, 10, 5, 0, 0, 0, 0, 1], Some(TreatAsWithdraw)),
            ('I', &[0x80, 10, 4, 0, 0, 0, 1], None),
            ('E', &[0xc0, 16, 8, 0xff, 9, 9, 9, 9, 9, 9, 9], None),
            ('E', &[0xc0, 16, 4, 0, 0, 0, 0], Some(TreatAsWithdraw)),
            ('E', &[0xc0, 16, 0], Some(TreatAsWithdraw)),
            (
                'E',
                &[0xc0, 25, 8, 0, 0, 0, 0, 0, 0, 0, 0],
                Some(TreatAsWithdraw),
            ),
            ('E', &[0xc0, 32, 4, 0, 0, 0, 0], Some(TreatAsWithdraw)),
            ('E', &[0xc0, 35, 4, 0, 0, 0, 1], None),
            ('E', &[0xc0, 35, 0], Some(TreatAsWithdraw)),
            ('E', &[0x80, 35, 4, 0, 0, 0, 1], Some(TreatAsWithdraw)),
            ('E', &[0xc0, 128, 3, 0, 0, 0], Some(TreatAsWithdraw)),
            ('E', &[0xc0, 17, 6, 2, 1, 0, 0, 0, 9], Some(Discard)),
            ('E', &[0xc0, 18, 8, 0, 0, 0, 1, 192, 0, 2, 1], Some(Discard)),
            ('O', &[0xc0, 17, 6, 2, 1, 0, 0, 0, 9], None),
            ('O', &[0xc0, 17, 0], Some(Discard)),
            ('O', &[0xc0, 17, 2, 2, 0], Some(Discard)),
            ('O', &[0xc0, 17, 6, 2, 1, 0, 0, 0, 0], Some(Discard)),
            ('O', &[0xc0, 18, 6, 0, 1, 192, 0, 2, 1], Some(Discard)),
            ('O', &[0xc0, 18, 8, 0, 0, 0, 0, 192, 0, 2, 1], Some(Discard)),
            ('E', &[0x80, 200, 0], None),
            ('E', &[0xc0, 255, 1, 9], None),
            ('E', ORIGIN, Some(Discard)), // twice
        ];
        for (from, tested, level) in cases {
            let (context, path) = match from {
                'I' => (internal, PATH),
                'O' => (old, old_path),
                _ => (CONTEXT, PATH),
            };
            let message = body(&[], &[ORIGIN, path, HOP, tested], TEN);
            let update = decode(&message, &context).unwrap();
            let found: Vec<_> = update.errors.iter().map(|error| error.level).collect();
            assert_eq!(found, Vec::from_iter(*level), "{from} {tested:?}");
            let withdrawn = *level == Some(TreatAsWithdraw);
            assert_eq!(update.announced.is_empty(), withdrawn, "{from} {tested:?}");
            assert_eq!(!update.withdrawn.is_empty(), withdrawn, "{from} {tested:?}");
        }
        for segment in [[0, 0, 0, 0], [0, 0, 0, 1]] {
            let path = [&[0x40, 2, 6, 2, 1], &segment[..]].concat();
            let update = decode(&body(&[], &[ORIGIN, &path, HOP], TEN), &CONTEXT).unwrap();
            assert_eq!(update.announced.is_empty(), segment == [0; 4], "AS 0");
        }
    }

    /// A family that was not negotiated is passed over, whatever its NLRI holds: it cannot be told
    /// whether that has path identifiers.
    #[test]
    fn foreign_families_never_reset_the_session() {
        let context = Context {
            families: Families {
                ipv4: true,
                ipv6: false,
            },
            ..CONTEXT
        };
        let labelled = attribute(0x80, 14, &[0, 1, 4, 4, 1, 2, 3, 4, 0, 255, 255]);
        let ipv6 = attribute(0x80, 14, &[0, 2, 1, 3, 1, 2, 3, 0, 255]);
        let unreach = attribute(0x80, 15, &[0, 2, 1, 255]);
        for foreign in [&labelled, &ipv6] {
            let message = body(&[8, 11], &[ORIGIN, PATH, foreign, &unreach], &[]);
            let update = decode(&message, &context).unwrap();
            assert_eq!(strings(&update.withdrawn), ["11.0.0.0/8"]);
            assert!(update.announced.is_empty() && update.errors.is_empty());
        }
    }

    /// The compact form without the detour is the same, so that equal attributes share their
    /// bytes whichever way they came.
    #[test]
    fn a_view_packs_as_the_decoded_attributes_do() {
        let old = Context {
            four_octet_as: false,
            ..CONTEXT
        };
        let old_path: &[u8] = &[0x40, 2, 8, 2, 1, 0x5b, 0xa0, 1, 1, 0, 7];
        let med: &[u8] = &[0x80, 4, 4, 0, 0, 0, 1];
        let discarded: &[u8] = &[0x40, 6, 1, 0];
        for (context, path) in [(CONTEXT, PATH), (old, old_path)] {
            let attributes = &[med, ORIGIN, path, discarded, HOP, med, REACH6];
            let message = body(&[], attributes, TEN);
            let view = view(&message, &context).unwrap();
            let update = view.to_update();
            assert_eq!(update.announced.len(), 2);
            for (view, announcement) in view.announced().zip(&update.announced) {
                let mut packed = Vec::new();
                view.pack_into(&mut packed);
                assert_eq!(packed, announcement.attributes.pack());
                assert_eq!(
                    Attributes::unpack(&packed).as_ref(),
                    Some(&announcement.attributes)
                );
                assert_eq!(announcement.attributes.other, med);
            }
        }
    }

    /// Errors without end cost a bounded number of texts, and the strongest is among them.
    #[test]
    fn errors_are_bounded() {
        let mut attributes = [ORIGIN, PATH, HOP].concat();
        for _ in 0..1000 {
            attributes.extend_from_slice(ORIGIN);
        }
        attributes.extend_from_slice(&[0x80, 4, 0]);
        let update = decode(&body(&[], &[&attributes], TEN), &CONTEXT).unwrap();
        assert_eq!(update.errors.len(), 16);
        assert_eq!(strings(&update.withdrawn), ["10.0.0.0/8"]);
        assert_eq!(levels(&update)[15], (4, ErrorLevel::TreatAsWithdraw));
    }
}

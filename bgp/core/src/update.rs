//! UPDATE (RFC 4271 section 4.3) with MP_REACH_NLRI and MP_UNREACH_NLRI (RFC 4760): what one says.

use std::net::{IpAddr, Ipv6Addr};

use events::Prefix;
use serde::{Deserialize, Serialize};

use crate::attributes::{self, AttributeError, Attributes, Walked};
use crate::fault::Fault;
use crate::frame::{self, MessageType};
use crate::nlri::{Families, Family, Nlri, NlriField};
use crate::role::{OtcRule, RouteLeak};

use check::Reach;

mod check;
#[cfg(test)]
mod tests;

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
    check::check(body, context, false)
}

/// [`view`], of an UPDATE that shows a router's own table (Adj-RIB-Out before policy or Loc-RIB):
/// routes that the router originates need no next hop there.
pub(crate) fn view_own<'a>(body: &'a [u8], context: &Context) -> Result<UpdateView<'a>, Fault> {
    check::check(body, context, true)
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

//! OPEN (RFC 4271 section 4.2).

use std::net::Ipv4Addr;

use events::Asn;
use serde::{Deserialize, Serialize};

use crate::capability::Capability;
use crate::fault::{Fault, code};
use crate::frame::{self, MessageType};
use crate::nlri::{Families, Family};
use crate::role::Role;
use crate::update::Context;

/// AS_TRANS: stands in two octets for a number that needs four (RFC 6793).
pub const AS_TRANS: u16 = 23456;

pub(crate) const UNICAST: u8 = 1;

/// What an OPEN says, validated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// Its AS, from capability 65 where that is there.
    pub asn: Asn,
    /// Seconds; zero means that the session has no hold timer.
    pub hold_time: u16,
    /// Its BGP identifier.
    pub router_id: Ipv4Addr,
    /// AS numbers take four octets in its AS_PATHs.
    pub four_octet_as: bool,
    /// Families it speaks; IPv4 alone where no capability says otherwise (RFC 4760 section 8).
    pub families: Families,
    /// It answers ROUTE-REFRESH.
    pub route_refresh: bool,
    /// It marks begin and end of a refresh (RFC 7313).
    pub enhanced_route_refresh: bool,
    /// It takes messages up to 65535 octets (RFC 8654).
    pub extended_message: bool,
    /// It takes IPv6 next hops for IPv4 prefixes (RFC 8950).
    pub extended_next_hop: bool,
    /// Families for which it takes several paths (RFC 7911).
    pub add_path_receive: Families,
    /// Families for which it would send several paths.
    pub add_path_send: Families,
    /// It sends End-of-RIB, and may reconnect before we see the old connection end (RFC 4724).
    pub graceful_restart: Option<GracefulRestart>,
    /// The number of its role (RFC 9234); [`check_role`] judges it.
    pub role: Option<u8>,
}

/// What the graceful restart capability says (RFC 4724 section 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GracefulRestart {
    /// The speaker has restarted.
    pub restarted: bool,
    /// It keeps routes over a NOTIFICATION (RFC 8538).
    pub notification: bool,
    /// Seconds until it is back at most.
    pub time: u16,
    /// Families whose routes it wants kept.
    pub families: Families,
    /// Those of them whose forwarding went on while it restarted.
    pub forwarding: Families,
}

pub(crate) mod subcode {
    pub const UNSPECIFIC: u8 = 0;
    pub const VERSION: u8 = 1;
    pub const PEER_AS: u8 = 2;
    pub const IDENTIFIER: u8 = 3;
    pub const PARAMETER: u8 = 4;
    pub const HOLD_TIME: u8 = 6;
    /// RFC 5492 section 5.
    pub const CAPABILITY: u8 = 7;
    /// RFC 9234 section 4.2.
    pub const ROLE: u8 = 11;
}

impl Open {
    /// An OPEN without capabilities: IPv4 and AS numbers of two octets.
    #[must_use]
    pub const fn new(asn: Asn, hold_time: u16, router_id: Ipv4Addr) -> Self {
        Self {
            asn,
            hold_time,
            router_id,
            four_octet_as: false,
            families: Families {
                ipv4: true,
                ipv6: false,
            },
            route_refresh: false,
            enhanced_route_refresh: false,
            extended_message: false,
            extended_next_hop: false,
            add_path_receive: Families::NONE,
            add_path_send: Families::NONE,
            graceful_restart: None,
            role: None,
        }
    }

    /// How UPDATEs are to be read that the speaker of this OPEN sends to the speaker of `receiver`.
    #[must_use]
    pub fn context_towards(&self, receiver: &Self) -> Context {
        Context {
            four_octet_as: self.four_octet_as && receiver.four_octet_as,
            internal: self.asn == receiver.asn,
            families: self.families.intersection(receiver.families),
            add_path: self.add_path_send.intersection(receiver.add_path_receive),
            // What may be sent is for the receiver's capability to say (RFC 8950 section 4).
            extended_next_hop: receiver.extended_next_hop,
            otc: None,
        }
    }

    /// The message, whole.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut capabilities = Vec::new();
        for capability in self.capabilities() {
            capability.encode(&mut capabilities);
        }
        let mut body = vec![4];
        let two_octets = u16::try_from(self.asn.0).unwrap_or(AS_TRANS);
        body.extend_from_slice(&two_octets.to_be_bytes());
        body.extend_from_slice(&self.hold_time.to_be_bytes());
        body.extend_from_slice(&self.router_id.octets());
        if capabilities.is_empty() {
            body.push(0);
        } else {
            // All that there are take less than 100 octets.
            let length = u8::try_from(capabilities.len()).unwrap_or(u8::MAX - 2);
            body.extend_from_slice(&[length + 2, 2, length]);
            body.extend_from_slice(&capabilities);
        }
        frame::encode(MessageType::Open, &body)
    }

    /// The multiprotocol capabilities alone, as data of Unsupported Capability (RFC 5492
    /// section 5).
    pub(crate) fn multiprotocol_capabilities(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for capability in self.capabilities() {
            if matches!(capability, Capability::Multiprotocol { .. }) {
                capability.encode(&mut bytes);
            }
        }
        bytes
    }

    /// All capabilities, in the order of the wire.
    #[must_use]
    pub fn capabilities(&self) -> Vec<Capability> {
        let spoken = |families: Families| {
            Family::ALL
                .into_iter()
                .filter(move |family| families.contains(*family))
        };
        let mut capabilities: Vec<Capability> = spoken(self.families)
            .map(|family| Capability::Multiprotocol {
                afi: family.afi(),
                safi: UNICAST,
            })
            .collect();
        if self.route_refresh {
            capabilities.push(Capability::RouteRefresh);
        }
        if self.extended_next_hop {
            let (ipv4, ipv6) = (Family::Ipv4.afi(), Family::Ipv6.afi());
            let entry = (ipv4, u16::from(UNICAST), ipv6);
            capabilities.push(Capability::ExtendedNextHop(vec![entry]));
        }
        if self.extended_message {
            capabilities.push(Capability::ExtendedMessage);
        }
        capabilities.extend(self.role.map(Capability::Role));
        if let Some(restart) = self.graceful_restart {
            capabilities.push(Capability::GracefulRestart {
                restarted: restart.restarted,
                notification: restart.notification,
                time: restart.time,
                families: spoken(restart.families)
                    .map(|family| (family.afi(), UNICAST, restart.forwarding.contains(family)))
                    .collect(),
            });
        }
        if self.four_octet_as {
            capabilities.push(Capability::FourOctetAs(self.asn));
        }
        let add_path: Vec<_> = Family::ALL
            .into_iter()
            .filter_map(|family| {
                let receive = u8::from(self.add_path_receive.contains(family));
                let send = u8::from(self.add_path_send.contains(family));
                let mode = send << 1 | receive;
                (mode != 0).then_some((family.afi(), UNICAST, mode))
            })
            .collect();
        if !add_path.is_empty() {
            capabilities.push(Capability::AddPath(add_path));
        }
        if self.enhanced_route_refresh {
            capabilities.push(Capability::EnhancedRouteRefresh);
        }
        capabilities
    }
}

/// Decodes the body of an OPEN.
///
/// # Errors
/// An OPEN Message Error (RFC 4271 section 6.2).
pub fn decode(body: &[u8]) -> Result<Open, Fault> {
    let fixed = Fixed::decode(body)?;
    let mut open = Open {
        families: Families::NONE,
        ..Open::new(
            Asn(u32::from(fixed.my_as)),
            fixed.hold_time,
            fixed.router_id,
        )
    };
    let mut multiprotocol = false;
    for_each_capability(fixed.parameters_length, fixed.parameters, |capability| {
        multiprotocol |= matches!(capability, Capability::Multiprotocol { .. });
        apply_capability(&mut open, &capability)
    })?;
    if !multiprotocol {
        open.families.insert(Family::Ipv4);
    }
    if fixed.my_as == 0 || open.asn.0 == 0 {
        return Err(Fault::new(
            code::OPEN,
            subcode::PEER_AS,
            "the neighbour says that its AS is 0 (RFC 7607 forbids it)",
        ));
    }
    if open.router_id.is_unspecified() {
        return Err(Fault::new(
            code::OPEN,
            subcode::IDENTIFIER,
            "the neighbour's BGP identifier is 0.0.0.0",
        ));
    }
    if matches!(open.hold_time, 1 | 2) {
        return Err(Fault::new(
            code::OPEN,
            subcode::HOLD_TIME,
            format!(
                "the neighbour's hold time is {} s; it must be 0 or at least 3",
                open.hold_time
            ),
        ));
    }
    Ok(open)
}

/// Capabilities in the body of an OPEN, in the order of the wire.
///
/// # Errors
/// An OPEN Message Error where they cannot be read.
pub fn capabilities(body: &[u8]) -> Result<Vec<Capability>, Fault> {
    let fixed = Fixed::decode(body)?;
    let mut capabilities = Vec::new();
    for_each_capability(fixed.parameters_length, fixed.parameters, |capability| {
        capabilities.push(capability);
        Ok(())
    })?;
    Ok(capabilities)
}

/// The two-octet AS number in the body of an OPEN, AS_TRANS where it needs four; `None` for a body
/// that is cut off.
#[must_use]
pub fn my_as(body: &[u8]) -> Option<u16> {
    Fixed::decode(body).ok().map(|fixed| fixed.my_as)
}

/// Judges the neighbour's role by ours (RFC 9234 section 4.2); `None`: it does not say.
///
/// # Errors
/// Role Mismatch where the roles do not correspond, or where `strict` is set and the neighbour has
/// none.
pub fn check_role(ours: Role, theirs: Option<u8>, strict: bool) -> Result<Option<Role>, Fault> {
    let mismatch = |text: String| Err(Fault::new(code::OPEN, subcode::ROLE, text));
    match theirs {
        None if strict => mismatch(format!(
            "the neighbour has no BGP role, and ours, {ours:?}, is strict"
        )),
        None => Ok(None),
        Some(number) => match Role::from_wire(number) {
            Some(role) if role == ours.counterpart() => Ok(Some(role)),
            Some(role) => mismatch(format!(
                "the neighbour's BGP role {role:?} does not go with ours, {ours:?}"
            )),
            None => mismatch(format!("the neighbour's BGP role {number} is not assigned")),
        },
    }
}

struct Fixed<'a> {
    my_as: u16,
    hold_time: u16,
    router_id: Ipv4Addr,
    parameters_length: u8,
    parameters: &'a [u8],
}

impl<'a> Fixed<'a> {
    fn decode(body: &'a [u8]) -> Result<Self, Fault> {
        let Some((fixed, parameters)) = body.split_first_chunk::<10>() else {
            return Err(malformed("OPEN is shorter than its fixed part"));
        };
        let [
            version,
            as_high,
            as_low,
            hold_high,
            hold_low,
            a,
            b,
            c,
            d,
            length,
        ] = *fixed;
        if version != 4 {
            // The data is the highest version that we speak, in two octets.
            return Err(Fault::new(
                code::OPEN,
                subcode::VERSION,
                format!("BGP version {version} is not supported, only 4"),
            )
            .with_data(&[0, 4]));
        }
        Ok(Self {
            my_as: u16::from_be_bytes([as_high, as_low]),
            hold_time: u16::from_be_bytes([hold_high, hold_low]),
            router_id: Ipv4Addr::new(a, b, c, d),
            parameters_length: length,
            parameters,
        })
    }
}

/// Walks the optional parameters, in the short form or that of RFC 9072.
fn for_each_capability(
    short: u8,
    rest: &[u8],
    mut apply: impl FnMut(Capability) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let (extended, mut parameters) = match rest {
        [255, high, low, rest @ ..] if short != 0 => {
            (Some(u16::from_be_bytes([*high, *low])), rest)
        }
        _ => (None, rest),
    };
    let length = extended.map_or(usize::from(short), usize::from);
    if parameters.len() != length {
        return Err(malformed(format!(
            "OPEN has {} bytes of optional parameters and says {length}",
            parameters.len()
        )));
    }
    while !parameters.is_empty() {
        let split = match (extended, parameters) {
            (None, [kind, length, rest @ ..]) => Some((*kind, usize::from(*length), rest)),
            (Some(_), [kind, high, low, rest @ ..]) => {
                Some((*kind, usize::from(u16::from_be_bytes([*high, *low])), rest))
            }
            _ => None,
        };
        let Some((kind, (mut capabilities, rest))) =
            split.and_then(|(kind, length, rest)| Some((kind, rest.split_at_checked(length)?)))
        else {
            return Err(malformed("an optional parameter of OPEN is cut off"));
        };
        if kind != 2 {
            return Err(Fault::new(
                code::OPEN,
                subcode::PARAMETER,
                format!("optional parameter {kind} of OPEN is not supported"),
            ));
        }
        while !capabilities.is_empty() {
            let [number, length, rest @ ..] = capabilities else {
                return Err(malformed("a capability of OPEN is cut off"));
            };
            let Some((value, rest)) = rest.split_at_checked(usize::from(*length)) else {
                return Err(malformed(format!("capability {number} of OPEN is cut off")));
            };
            apply(Capability::decode(*number, value)?)?;
            capabilities = rest;
        }
        parameters = rest;
    }
    Ok(())
}

/// Families and modes that are not known are passed over (RFC 5492 section 3, RFC 7911 section 4).
fn apply_capability(open: &mut Open, capability: &Capability) -> Result<(), Fault> {
    match capability {
        Capability::Multiprotocol { afi, safi } => {
            if let Some(family) = Family::from_wire(*afi, *safi) {
                open.families.insert(family);
            }
        }
        Capability::RouteRefresh => open.route_refresh = true,
        Capability::ExtendedNextHop(entries) => {
            open.extended_next_hop |= entries.contains(&(1, u16::from(UNICAST), 2));
        }
        Capability::ExtendedMessage => open.extended_message = true,
        Capability::Role(role) => {
            if open.role.is_some_and(|known| known != *role) {
                return Err(Fault::new(
                    code::OPEN,
                    subcode::ROLE,
                    "the neighbour has two different BGP roles",
                ));
            }
            open.role = Some(*role);
        }
        // Of several the last counts (RFC 4724 section 3).
        Capability::GracefulRestart {
            restarted,
            notification,
            time,
            families,
        } => {
            let mut restart = GracefulRestart {
                restarted: *restarted,
                notification: *notification,
                time: *time,
                ..GracefulRestart::default()
            };
            for (afi, safi, forwarding) in families {
                if let Some(family) = Family::from_wire(*afi, *safi) {
                    restart.families.insert(family);
                    if *forwarding {
                        restart.forwarding.insert(family);
                    }
                }
            }
            open.graceful_restart = Some(restart);
        }
        Capability::FourOctetAs(asn) => {
            open.asn = *asn;
            open.four_octet_as = true;
        }
        Capability::AddPath(entries) => {
            for (afi, safi, mode) in entries {
                let Some(family) = Family::from_wire(*afi, *safi) else {
                    continue;
                };
                if matches!(mode, 1 | 3) {
                    open.add_path_receive.insert(family);
                }
                if matches!(mode, 2 | 3) {
                    open.add_path_send.insert(family);
                }
            }
        }
        Capability::EnhancedRouteRefresh => open.enhanced_route_refresh = true,
        Capability::Other { .. } => {}
    }
    Ok(())
}

pub(crate) fn malformed(text: impl Into<String>) -> Fault {
    Fault::new(code::OPEN, subcode::UNSPECIFIC, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(version: u8, asn: u16, hold: u16, id: [u8; 4], parameters: &[u8]) -> Vec<u8> {
        let mut body = vec![version];
        body.extend(asn.to_be_bytes());
        body.extend(hold.to_be_bytes());
        body.extend(id);
        body.push(u8::try_from(parameters.len()).unwrap());
        body.extend(parameters);
        body
    }

    const ID: [u8; 4] = [192, 0, 2, 1];

    #[test]
    fn ours_is_on_the_wire_as_the_rfcs_say() {
        let ours = Open {
            four_octet_as: true,
            families: Families::BOTH,
            route_refresh: true,
            extended_next_hop: true,
            graceful_restart: Some(GracefulRestart::default()),
            ..Open::new(Asn(211_396), 90, Ipv4Addr::new(198, 51, 100, 10))
        };
        let message = ours.encode();
        let expected = [
            vec![0xff; 16],
            vec![0, 67, 1, 4, 0x5b, 0xa0, 0, 90, 198, 51, 100, 10, 38, 2, 36],
            vec![1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1, 2, 0],
            vec![5, 6, 0, 1, 0, 1, 0, 2, 64, 2, 0, 0],
            vec![65, 4, 0, 3, 0x39, 0xc4],
        ]
        .concat();
        let mut expected = expected;
        let length = u16::try_from(expected.len()).unwrap().to_be_bytes();
        expected[16..18].copy_from_slice(&length);
        let parameters = u8::try_from(expected.len() - 29).unwrap();
        expected[28] = parameters;
        expected[30] = parameters - 2;
        assert_eq!(message, expected);
        let open = decode(&message[19..]).unwrap();
        assert_eq!(open.asn, Asn(211_396));
        assert_eq!(open.families, Families::BOTH);
        assert!(open.four_octet_as && open.route_refresh && open.extended_next_hop);
        assert_eq!(open.graceful_restart, Some(GracefulRestart::default()));
    }

    #[test]
    fn without_capabilities_it_is_ipv4_and_two_octets() {
        let open = decode(&body(4, 64500, 0, ID, &[])).unwrap();
        assert_eq!(open.asn, Asn(64500));
        assert_eq!(open.hold_time, 0);
        assert!(!open.four_octet_as);
        assert_eq!(
            open.families,
            Families {
                ipv4: true,
                ipv6: false
            }
        );
    }

    #[test]
    fn the_four_octet_capability_names_the_as() {
        let open = decode(&body(4, AS_TRANS, 90, ID, &[2, 6, 65, 4, 0, 3, 0x39, 0xc4])).unwrap();
        assert_eq!(open.asn, Asn(211_396));
    }

    #[test]
    fn multiprotocol_without_ipv4_means_no_ipv4() {
        let open = decode(&body(4, 1, 90, ID, &[2, 6, 1, 4, 0, 2, 0, 1])).unwrap();
        assert_eq!(
            open.families,
            Families {
                ipv4: false,
                ipv6: true
            }
        );
    }

    #[test]
    fn parameters_in_the_form_of_rfc_9072() {
        let mut bytes = body(4, 1, 90, ID, &[]);
        bytes[9] = 255;
        bytes.extend([255, 0, 9, 2, 0, 6, 65, 4, 0, 3, 0x39, 0xc4]);
        assert_eq!(decode(&bytes).unwrap().asn, Asn(211_396));
    }

    #[test]
    fn errors_have_the_subcode_of_rfc_4271_section_6_2() {
        let cases: [(&str, Vec<u8>, u8); 14] = [
            ("version 5", body(5, 1, 90, ID, &[]), 1),
            ("AS 0", body(4, 0, 90, ID, &[]), 2),
            (
                "AS 0 in capability 65",
                body(4, 1, 90, ID, &[2, 6, 65, 4, 0, 0, 0, 0]),
                2,
            ),
            ("id 0.0.0.0", body(4, 1, 90, [0; 4], &[]), 3),
            ("unknown parameter", body(4, 1, 90, ID, &[9, 0]), 4),
            (
                "authentication parameter",
                body(4, 1, 90, ID, &[1, 1, 0]),
                4,
            ),
            ("hold 1", body(4, 1, 1, ID, &[]), 6),
            ("hold 2", body(4, 1, 2, ID, &[]), 6),
            (
                "parameter cut off",
                body(4, 1, 90, ID, &[2, 6, 65, 4, 0, 0]),
                0,
            ),
            (
                "capability cut off",
                body(4, 1, 90, ID, &[2, 4, 65, 4, 0, 0]),
                0,
            ),
            (
                "capability header cut off",
                body(4, 1, 90, ID, &[2, 1, 65]),
                0,
            ),
            (
                "capability 65 of length 2",
                body(4, 1, 90, ID, &[2, 4, 65, 2, 0, 1]),
                0,
            ),
            ("parameter length missing", body(4, 1, 90, ID, &[2]), 0),
            (
                "trailing bytes",
                [body(4, 1, 90, ID, &[]), vec![0]].concat(),
                0,
            ),
        ];
        for (name, bytes, subcode) in cases {
            let fault = decode(&bytes).unwrap_err();
            assert_eq!((fault.code, fault.subcode), (2, subcode), "{name}: {fault}");
        }
        assert_eq!(decode(&body(5, 1, 90, ID, &[])).unwrap_err().data, [0, 4]);
        assert!(decode(&[4, 0]).is_err());
    }

    fn with(capabilities: &[u8]) -> Vec<u8> {
        let length = u8::try_from(capabilities.len()).unwrap();
        body(4, 1, 90, ID, &[&[2, length], capabilities].concat())
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let open = Open {
            four_octet_as: true,
            families: Families::BOTH,
            route_refresh: true,
            enhanced_route_refresh: true,
            extended_message: true,
            extended_next_hop: true,
            add_path_receive: Families::BOTH,
            add_path_send: Families {
                ipv4: false,
                ipv6: true,
            },
            graceful_restart: Some(GracefulRestart {
                restarted: true,
                notification: true,
                time: 4095,
                families: Families::BOTH,
                forwarding: Families {
                    ipv4: true,
                    ipv6: false,
                },
            }),
            role: Some(3),
            ..Open::new(Asn(4_200_000_000), 180, ID.into())
        };
        assert_eq!(decode(&open.encode()[19..]), Ok(open));
    }

    /// RFC 7911 section 4: mode 1 receives, 2 sends, 3 both; others are ignored, as are other
    /// families.
    #[test]
    fn modes_of_add_path() {
        let open = decode(&with(&[69, 12, 0, 1, 1, 2, 0, 2, 1, 9, 0, 1, 4, 3])).unwrap();
        assert_eq!(open.add_path_receive, Families::NONE);
        let ipv4 = Families {
            ipv4: true,
            ipv6: false,
        };
        assert_eq!(open.add_path_send, ipv4);
        // Both sides have to say so, in their direction (RFC 7911 section 4).
        let mut ours = Open::new(Asn(2), 90, ID.into());
        assert_eq!(open.context_towards(&ours).add_path, Families::NONE);
        ours.add_path_send = Families::BOTH;
        assert_eq!(open.context_towards(&ours).add_path, Families::NONE);
        ours.add_path_receive = Families::BOTH;
        assert_eq!(open.context_towards(&ours).add_path, ipv4);
        assert_eq!(ours.context_towards(&open).add_path, Families::NONE);
    }

    /// RFC 6793 section 4.1: four octets only between two that have the capability.
    #[test]
    fn both_sides_have_to_have_a_capability() {
        let old = Open::new(Asn(1), 90, ID.into());
        let new = Open {
            four_octet_as: true,
            ..Open::new(Asn(1), 90, ID.into())
        };
        assert!(!old.context_towards(&new).four_octet_as);
        assert!(!new.context_towards(&old).four_octet_as);
        assert!(new.context_towards(&new).four_octet_as);
    }

    /// RFC 9234 section 4.2.
    #[test]
    fn roles() {
        assert_eq!(decode(&with(&[9, 1, 0, 9, 1, 0])).unwrap().role, Some(0));
        let fault = decode(&with(&[9, 1, 0, 9, 1, 3])).unwrap_err();
        assert_eq!((fault.code, fault.subcode), (2, 11));
        assert_eq!(
            check_role(Role::Customer, Some(0), true),
            Ok(Some(Role::Provider))
        );
        assert_eq!(check_role(Role::Customer, None, false), Ok(None));
        for (theirs, strict) in [(None, true), (Some(3), false), (Some(5), false)] {
            let fault = check_role(Role::Customer, theirs, strict).unwrap_err();
            assert_eq!((fault.code, fault.subcode), (2, 11), "{theirs:?}");
        }
    }

    /// RFC 5492 section 3: unknown capabilities, and the same one twice, are no errors.
    #[test]
    fn unknown_and_repeated_capabilities() {
        let open = decode(&with(&[2, 0, 2, 0, 200, 1, 7, 128, 0])).unwrap();
        assert!(open.route_refresh);
        let all = capabilities(&with(&[2, 0, 200, 1, 7])).unwrap();
        let unknown = Capability::Other {
            number: 200,
            value: vec![7],
        };
        assert_eq!(all, [Capability::RouteRefresh, unknown]);
    }
}

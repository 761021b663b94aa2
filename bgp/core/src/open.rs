//! OPEN (RFC 4271 section 4.2) and its capabilities (RFC 5492).

use std::net::Ipv4Addr;
use std::time::Duration;

use bgpkit_parser::models::capabilities::{
    BgpCapabilityType, ExtendedNextHopCapability, ExtendedNextHopEntry, FourOctetAsCapability,
    GracefulRestartCapability, MultiprotocolExtensionsCapability, RouteRefreshCapability,
};
use bgpkit_parser::models::{
    Afi, Asn as WireAsn, BgpOpenMessage, Capability, CapabilityValue, OptParam, ParamValue, Safi,
};
use bytes::Bytes;
use events::Asn;
use serde::{Deserialize, Serialize};

use crate::fault::{Fault, code};
use crate::frame::{self, MessageType};
use crate::nlri::{Families, Family};

/// AS_TRANS: stands in two octets for a number that needs four (RFC 6793).
pub const AS_TRANS: u16 = 23456;

/// What a neighbour's OPEN says, validated.
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
    /// It sends End-of-RIB, and may reconnect before we see the old connection end (RFC 4724).
    pub graceful_restart: bool,
}

mod subcode {
    pub const UNSPECIFIC: u8 = 0;
    pub const VERSION: u8 = 1;
    pub const PEER_AS: u8 = 2;
    pub const IDENTIFIER: u8 = 3;
    pub const PARAMETER: u8 = 4;
    pub const HOLD_TIME: u8 = 6;
}

/// Decodes the body of an OPEN.
///
/// # Errors
/// An OPEN Message Error (RFC 4271 section 6.2).
pub fn decode(body: &[u8]) -> Result<Open, Fault> {
    let Some((
        &[
            version,
            as_high,
            as_low,
            hold_high,
            hold_low,
            a,
            b,
            c,
            d,
            short,
        ],
        rest,
    )) = body.split_first_chunk::<10>()
    else {
        return Err(malformed("OPEN is shorter than its fixed part"));
    };
    if version != 4 {
        return Err(Fault::new(
            code::OPEN,
            subcode::VERSION,
            format!("BGP version {version} is not supported, only 4"),
        )
        .with_data(&[0, 4]));
    }
    let my_as = u16::from_be_bytes([as_high, as_low]);
    let hold_time = u16::from_be_bytes([hold_high, hold_low]);
    let router_id = Ipv4Addr::new(a, b, c, d);
    let mut open = Open {
        asn: Asn(u32::from(my_as)),
        hold_time,
        router_id,
        four_octet_as: false,
        families: Families::default(),
        route_refresh: false,
        graceful_restart: false,
    };
    let mut multiprotocol = false;
    for_each_capability(short, rest, |number, value| {
        multiprotocol |= number == 1;
        apply_capability(&mut open, number, value)
    })?;
    if !multiprotocol {
        open.families.insert(Family::Ipv4);
    }
    if my_as == 0 || open.asn.0 == 0 {
        return Err(Fault::new(
            code::OPEN,
            subcode::PEER_AS,
            "the neighbour says that its AS is 0 (RFC 7607 forbids it)",
        ));
    }
    if router_id.is_unspecified() {
        return Err(Fault::new(
            code::OPEN,
            subcode::IDENTIFIER,
            "the neighbour's BGP identifier is 0.0.0.0",
        ));
    }
    if matches!(hold_time, 1 | 2) {
        return Err(Fault::new(
            code::OPEN,
            subcode::HOLD_TIME,
            format!("the neighbour's hold time is {hold_time} s; it must be 0 or at least 3"),
        ));
    }
    Ok(open)
}

/// Walks the optional parameters, in the short form or that of RFC 9072.
fn for_each_capability(
    short: u8,
    rest: &[u8],
    mut apply: impl FnMut(u8, &[u8]) -> Result<(), Fault>,
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
            apply(*number, value)?;
            capabilities = rest;
        }
        parameters = rest;
    }
    Ok(())
}

/// Unknown capabilities are passed over (RFC 5492 section 3).
fn apply_capability(open: &mut Open, number: u8, value: &[u8]) -> Result<(), Fault> {
    let wrong = || malformed(format!("capability {number} has length {}", value.len()));
    match number {
        1 => {
            let [afi_high, afi_low, _, safi] = value else {
                return Err(wrong());
            };
            let afi = u16::from_be_bytes([*afi_high, *afi_low]);
            if let Some(family) = Family::from_wire(afi, *safi) {
                open.families.insert(family);
            }
        }
        2 => open.route_refresh = true,
        64 => {
            // bgpkit refuses families that it does not know; only the shape matters here.
            if value.len() % 4 != 2 {
                return Err(wrong());
            }
            open.graceful_restart = true;
        }
        65 => {
            let capability =
                FourOctetAsCapability::parse(Bytes::copy_from_slice(value)).map_err(|_| wrong())?;
            open.asn = Asn(capability.asn);
            open.four_octet_as = true;
        }
        _ => {}
    }
    Ok(())
}

fn malformed(text: impl Into<String>) -> Fault {
    Fault::new(code::OPEN, subcode::UNSPECIFIC, text)
}

/// Our OPEN, a whole message: both families, route refresh, four-octet AS, IPv6 next hops for IPv4
/// (RFC 8950) and graceful restart for the neighbour alone (we keep no family forwarding).
#[must_use]
pub fn encode(asn: Asn, hold_time: Duration, router_id: Ipv4Addr) -> Vec<u8> {
    let family = |afi| {
        CapabilityValue::MultiprotocolExtensions(MultiprotocolExtensionsCapability::new(
            afi,
            Safi::Unicast,
        ))
    };
    let capabilities = vec![
        (
            BgpCapabilityType::MULTIPROTOCOL_EXTENSIONS_FOR_BGP_4,
            family(Afi::Ipv4),
        ),
        (
            BgpCapabilityType::MULTIPROTOCOL_EXTENSIONS_FOR_BGP_4,
            family(Afi::Ipv6),
        ),
        (
            BgpCapabilityType::ROUTE_REFRESH_CAPABILITY_FOR_BGP_4,
            CapabilityValue::RouteRefresh(RouteRefreshCapability::new()),
        ),
        (
            BgpCapabilityType::EXTENDED_NEXT_HOP_ENCODING,
            CapabilityValue::ExtendedNextHop(ExtendedNextHopCapability::new(vec![
                ExtendedNextHopEntry {
                    nlri_afi: Afi::Ipv4,
                    nlri_safi: Safi::Unicast,
                    nexthop_afi: Afi::Ipv6,
                },
            ])),
        ),
        (
            BgpCapabilityType::GRACEFUL_RESTART_CAPABILITY,
            CapabilityValue::GracefulRestart(GracefulRestartCapability::new(false, 0, Vec::new())),
        ),
        (
            BgpCapabilityType::SUPPORT_FOR_4_OCTET_AS_NUMBER_CAPABILITY,
            CapabilityValue::FourOctetAs(FourOctetAsCapability::new(asn.0)),
        ),
    ];
    let message = BgpOpenMessage {
        version: 4,
        asn: WireAsn::new_16bit(u16::try_from(asn.0).unwrap_or(AS_TRANS)),
        hold_time: u16::try_from(hold_time.as_secs()).unwrap_or(u16::MAX),
        bgp_identifier: router_id,
        extended_length: false,
        opt_params: vec![OptParam {
            param_type: 2,
            param_value: ParamValue::Capacities(
                capabilities
                    .into_iter()
                    .map(|(ty, value)| Capability { ty, value })
                    .collect(),
            ),
        }],
    };
    // Encoding fails only beyond 64 KiB of parameters; there are 40 bytes.
    let body = message.encode().unwrap_or_default();
    frame::encode(MessageType::Open, &body)
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
        let message = encode(
            Asn(211_396),
            Duration::from_secs(90),
            Ipv4Addr::new(198, 51, 100, 10),
        );
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
        assert!(open.four_octet_as && open.route_refresh && open.graceful_restart);
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
}

//! ROUTE-REFRESH (RFC 2918) and its subtypes (RFC 7313).

use serde::{Deserialize, Serialize};

use crate::fault::{Fault, code};
use crate::frame::{self, MessageType};
use crate::nlri::Family;
use crate::open::UNICAST;

/// What a ROUTE-REFRESH says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRefresh {
    /// Address family.
    pub afi: u16,
    /// Subsequent address family.
    pub safi: u8,
    /// Which kind it is.
    pub kind: RefreshKind,
}

/// Kinds of ROUTE-REFRESH (RFC 7313 section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefreshKind {
    /// Subtype 0: send everything again.
    Request,
    /// Subtype 1, BoRR: the routes of the family follow anew.
    Begin,
    /// Subtype 2, EoRR: what was not sent again is gone.
    End,
    /// Any other: to be ignored (RFC 7313 section 5).
    Unknown(u8),
}

impl RouteRefresh {
    /// A whole message.
    #[must_use]
    pub fn encode(family: Family, kind: RefreshKind) -> Vec<u8> {
        let subtype = match kind {
            RefreshKind::Request => 0,
            RefreshKind::Begin => 1,
            RefreshKind::End => 2,
            RefreshKind::Unknown(number) => number,
        };
        let [high, low] = family.afi().to_be_bytes();
        frame::encode(MessageType::RouteRefresh, &[high, low, subtype, UNICAST])
    }

    /// Decodes the body. `enhanced`: both sides have the capability of RFC 7313.
    ///
    /// # Errors
    /// For a length that is not 23 with the header: Invalid Message Length with the message as
    /// data where it is a BoRR or EoRR and those were negotiated (RFC 7313 section 5), else Bad
    /// Message Length (RFC 4271 section 6.1).
    pub fn decode(body: &[u8], enhanced: bool) -> Result<Self, Fault> {
        let &[high, low, subtype, safi] = body else {
            let length = frame::HEADER_LENGTH + body.len();
            let text = format!("ROUTE-REFRESH has length {length}, not 23");
            return Err(match body.get(2) {
                Some(1 | 2) if enhanced => Fault::new(code::ROUTE_REFRESH, 1, text)
                    .with_data(&frame::encode(MessageType::RouteRefresh, body)),
                _ => Fault::new(code::HEADER, 2, text)
                    .with_data(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes()),
            });
        };
        Ok(Self {
            afi: u16::from_be_bytes([high, low]),
            safi,
            kind: match subtype {
                0 => RefreshKind::Request,
                // Without the capability the octet is reserved, and to be ignored (RFC 2918
                // section 3).
                _ if !enhanced => RefreshKind::Request,
                1 => RefreshKind::Begin,
                2 => RefreshKind::End,
                other => RefreshKind::Unknown(other),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subtypes() {
        use RefreshKind::{Begin, End, Request, Unknown};
        for (subtype, enhanced, kind) in [
            (0, false, Request),
            (1, false, Request),
            (0, true, Request),
            (1, true, Begin),
            (2, true, End),
            (3, true, Unknown(3)),
            (255, true, Unknown(255)),
        ] {
            let refresh = RouteRefresh::decode(&[0, 2, subtype, 1], enhanced).unwrap();
            assert_eq!((refresh.afi, refresh.safi, refresh.kind), (2, 1, kind));
        }
    }

    #[test]
    fn lengths() {
        let code = |body: &[u8], enhanced| {
            let fault = RouteRefresh::decode(body, enhanced).unwrap_err();
            (fault.code, fault.subcode, fault.data)
        };
        let message = [&[0xff; 16][..], &[0, 24, 5, 0, 1, 1, 1, 9]].concat();
        assert_eq!(code(&[0, 1, 1, 1, 9], true), (7, 1, message));
        assert_eq!(code(&[0, 1, 1, 1, 9], false), (1, 2, vec![0, 24]));
        assert_eq!(code(&[0, 1, 0, 1, 9], true), (1, 2, vec![0, 24]));
    }
}

//! Roles of neighbours and the Only-to-Customer rule (RFC 9234).

use events::Asn;
use serde::{Deserialize, Serialize};

/// What a speaker is to its neighbour (RFC 9234 section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Transit for the neighbour.
    Provider,
    /// A route server (RFC 7947).
    RouteServer,
    /// A client of a route server.
    RouteServerClient,
    /// The neighbour is transit for it.
    Customer,
    /// Exchanges own and customers' routes.
    Peer,
}

impl Role {
    /// The capability's value (RFC 9234 section 4.1); `None` for unassigned ones.
    #[must_use]
    pub const fn from_wire(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Provider,
            1 => Self::RouteServer,
            2 => Self::RouteServerClient,
            3 => Self::Customer,
            4 => Self::Peer,
            _ => return None,
        })
    }

    /// The reverse of [`Self::from_wire`].
    #[must_use]
    pub const fn to_wire(self) -> u8 {
        match self {
            Self::Provider => 0,
            Self::RouteServer => 1,
            Self::RouteServerClient => 2,
            Self::Customer => 3,
            Self::Peer => 4,
        }
    }

    /// The role that the other side must have (RFC 9234 section 4.2, table 2).
    #[must_use]
    pub const fn counterpart(self) -> Self {
        match self {
            Self::Provider => Self::Customer,
            Self::Customer => Self::Provider,
            Self::RouteServer => Self::RouteServerClient,
            Self::RouteServerClient => Self::RouteServer,
            Self::Peer => Self::Peer,
        }
    }
}

/// The neighbour, as far as the ingress procedure of RFC 9234 section 5 asks for it. Only for
/// external sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtcRule {
    /// What the neighbour is to us.
    pub neighbor_role: Role,
    /// Its AS.
    pub neighbor_as: Asn,
}

/// A route that must not have come from where it came: it is ineligible (RFC 9234 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("route leak: the {neighbor_role:?} sent a route that is only for customers of {otc}")]
pub struct RouteLeak {
    /// Whose customers alone the route is for.
    pub otc: Asn,
    /// What the neighbour is to us.
    pub neighbor_role: Role,
}

impl OtcRule {
    /// The ingress procedure for a route with the attribute's value, if it has one: a leak, or the
    /// attribute that is to be added.
    pub(crate) fn apply(self, otc: Option<Asn>) -> (Option<RouteLeak>, Option<Asn>) {
        let leak = |otc| {
            Some(RouteLeak {
                otc,
                neighbor_role: self.neighbor_role,
            })
        };
        match (self.neighbor_role, otc) {
            (Role::Customer | Role::RouteServerClient, Some(otc)) => (leak(otc), None),
            (Role::Peer, Some(otc)) if otc != self.neighbor_as => (leak(otc), None),
            (Role::Provider | Role::Peer | Role::RouteServer, None) => {
                (None, Some(self.neighbor_as))
            }
            _ => (None, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 9234 section 4.2, table 2: the allowed pairs, and no others.
    #[test]
    fn allowed_pairs_of_roles() {
        let allowed = [(0, 3), (3, 0), (1, 2), (2, 1), (4, 4)];
        for ours in 0..=4 {
            for theirs in 0..=4 {
                let [a, b] = [ours, theirs].map(|number| Role::from_wire(number).unwrap());
                assert_eq!(
                    a.counterpart() == b,
                    allowed.contains(&(ours, theirs)),
                    "{a:?} {b:?}"
                );
                assert_eq!(a.to_wire(), ours);
            }
        }
        assert_eq!(Role::from_wire(5), None);
    }

    /// RFC 9234 section 5, the three rules of the ingress procedure.
    #[test]
    fn ingress_procedure() {
        use Role::{Customer, Peer, Provider, RouteServer, RouteServerClient};
        let neighbor = Asn(64500);
        let other = Some(Asn(64501));
        // Role, OTC; a leak?, what is added.
        let cases = [
            (Customer, other, true, None),
            (Customer, Some(neighbor), true, None),
            (Customer, None, false, None),
            (RouteServerClient, other, true, None),
            (RouteServerClient, Some(neighbor), true, None),
            (RouteServerClient, None, false, None),
            (Peer, other, true, None),
            (Peer, Some(neighbor), false, None),
            (Peer, None, false, Some(neighbor)),
            (Provider, other, false, None),
            (Provider, Some(neighbor), false, None),
            (Provider, None, false, Some(neighbor)),
            (RouteServer, other, false, None),
            (RouteServer, None, false, Some(neighbor)),
        ];
        for (neighbor_role, otc, leak, added) in cases {
            let rule = OtcRule {
                neighbor_role,
                neighbor_as: neighbor,
            };
            let (found, add) = rule.apply(otc);
            assert_eq!(
                (found.is_some(), add),
                (leak, added),
                "{neighbor_role:?} {otc:?}"
            );
        }
    }
}

//! All neighbours: those of the configuration, and those that came from a prefix.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bgp_core::SessionConfig;
use events::{NeighborId, Prefix, Timestamp};

use crate::neighbor::Neighbor;
use crate::protection::Password;
use crate::settings::DynamicSettings;

/// Neighbours that may connect from a prefix.
pub(crate) struct Dynamic {
    pub settings: DynamicSettings,
    pub config: SessionConfig,
    pub password: Option<Password>,
}

pub(crate) struct Neighbors {
    known: Mutex<BTreeMap<NeighborId, Arc<Neighbor>>>,
    dynamic: Vec<Dynamic>,
}

/// Whose connection it is.
pub(crate) enum Caller {
    /// A neighbour's. `forgotten` made room for it.
    Neighbor {
        neighbor: Arc<Neighbor>,
        forgotten: Option<NeighborId>,
    },
    /// Of a prefix from which as many are connected as may be.
    TooMany,
    /// Nobody's.
    Stranger,
}

impl Neighbors {
    pub fn new(known: BTreeMap<NeighborId, Arc<Neighbor>>, dynamic: Vec<Dynamic>) -> Self {
        Self {
            known: Mutex::new(known),
            dynamic,
        }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<NeighborId, Arc<Neighbor>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, id: NeighborId) -> Option<Arc<Neighbor>> {
        self.known().get(&id).cloned()
    }

    /// By address.
    pub fn all(&self) -> Vec<Arc<Neighbor>> {
        self.known().values().cloned().collect()
    }

    /// The keys of whole prefixes.
    pub fn group_keys(&self) -> impl Iterator<Item = (Prefix, &Password)> {
        self.dynamic
            .iter()
            .filter_map(|group| Some((group.settings.prefix, group.password.as_ref()?)))
    }

    /// Who connects from an address. A neighbour of a prefix is known from then on.
    pub fn caller(&self, from: SocketAddr, now: Timestamp) -> Caller {
        let id = NeighborId::session(from.ip().to_canonical());
        let mut known = self.known();
        if let Some(neighbor) = known.get(&id) {
            if !is_behind(from, neighbor.interface.as_deref()) {
                return Caller::Stranger;
            }
            return Caller::Neighbor {
                neighbor: Arc::clone(neighbor),
                forgotten: None,
            };
        }
        // The longest prefix, as in the kernel's table of keys.
        let holds = |group: &&Dynamic| group.settings.prefix.contains(&id.address);
        let groups = self.dynamic.iter().filter(holds);
        let Some(group) = groups.max_by_key(|group| group.settings.prefix.prefix_len()) else {
            return Caller::Stranger;
        };
        let prefix = group.settings.prefix;
        let members = known
            .values()
            .filter(|other| other.dynamic && prefix.contains(&other.id.address));
        let members: Vec<_> = members.collect();
        let mut forgotten = None;
        if members.len() >= group.settings.limit {
            let idle = members.iter();
            let idle = idle.filter_map(|other| Some((other.idle_since()?, other.id)));
            let Some((_, oldest)) = idle.min() else {
                return Caller::TooMany;
            };
            known.remove(&oldest);
            forgotten = Some(oldest);
        }
        let settings = group.settings.peer.clone();
        let mut neighbor = Neighbor::new(id.address, settings, group.config.clone(), now);
        neighbor.dynamic = true;
        neighbor.password.clone_from(&group.password);
        let neighbor = Arc::new(neighbor);
        known.insert(id, Arc::clone(&neighbor));
        Caller::Neighbor {
            neighbor,
            forgotten,
        }
    }
}

/// Whether a connection came over the interface, where one is named.
fn is_behind(from: SocketAddr, interface: Option<&str>) -> bool {
    let Some(interface) = interface else {
        return true;
    };
    match from {
        SocketAddr::V6(from) => {
            nix::net::if_::if_nametoindex(interface).is_ok_and(|index| index == from.scope_id())
        }
        SocketAddr::V4(_) => false,
    }
}

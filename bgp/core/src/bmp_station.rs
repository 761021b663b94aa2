//! What one monitored router's BMP messages mean for the RIB. Pure: one [`Station`] for each
//! connection.
//!
//! A peer's tables (views) come up with their first Route Monitoring, not with Peer Up: a router that
//! monitors one view says nothing of the others, and that is not the same as their being empty.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use events::{Learned, NeighborId, RibView, SessionDownReason};

use crate::bmp::{
    BmpError, BmpFrame, BmpMessage, Information, Monitored, PeerDownReason, PeerHeader, PeerType,
    PeerUp, Statistic, decode,
};
use crate::fault::Fault;
use crate::nlri::Families;
use crate::session::Negotiated;
use crate::update::{self, Context, Update, UpdateView};

/// Peers that one router may tell of.
pub const MAX_PEERS: usize = 4096;

/// What a message does to the RIB.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)]
pub enum StationAction {
    /// A table's content begins to come.
    Up(NeighborId, Negotiated),
    /// It changes.
    Update(NeighborId, Update),
    /// It is no longer told of: its routes are what was last known.
    Down(NeighborId, SessionDownReason),
}

/// Counters of one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StationCounts {
    /// Messages by type, 0 to 6; the last are those of unknown types.
    pub messages: [u64; 8],
    /// Route Monitoring of peers without a Peer Up, passed over: nobody said how to read it.
    pub unannounced: u64,
    /// UPDATEs for which RFC 7606 would reset the peer's session.
    pub refused: u64,
    /// UPDATEs that came after one of those, passed over.
    pub after_refused: u64,
    /// Attributes in error (RFC 7606).
    pub attribute_errors: u64,
}

/// A peer as its router told of it.
#[derive(Clone, Debug)]
pub struct StationPeer {
    /// Its session.
    pub up: Box<PeerUp>,
    /// The newest Statistics Report.
    pub statistics: Vec<Statistic>,
    views: BTreeMap<RibView, View>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum View {
    Up,
    /// It had an UPDATE that cannot be read: what it holds is not known until the next Peer Up.
    Broken,
}

type PeerKey = (bool, u64, IpAddr);

fn key(peer: &PeerHeader) -> PeerKey {
    let loc = peer.kind == PeerType::LocRib;
    // A Loc-RIB's address means nothing (RFC 9069 section 4.2).
    let address = if loc {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    } else {
        peer.address
    };
    (loc, peer.distinguisher, address)
}

/// One router's connection.
#[derive(Clone, Debug)]
pub struct Station {
    router: IpAddr,
    peers: BTreeMap<PeerKey, StationPeer>,
    /// sysName of the Initiation.
    pub system_name: Option<String>,
    /// sysDescr of the Initiation.
    pub system_description: Option<String>,
    /// Why the router ended the connection (Termination).
    pub terminated: Option<String>,
    /// Counters.
    pub counts: StationCounts,
}

impl Station {
    /// For a connection with this router.
    #[must_use]
    pub const fn new(router: IpAddr) -> Self {
        Self {
            router,
            peers: BTreeMap::new(),
            system_name: None,
            system_description: None,
            terminated: None,
            counts: StationCounts {
                messages: [0; 8],
                unannounced: 0,
                refused: 0,
                after_refused: 0,
                attribute_errors: 0,
            },
        }
    }

    /// Peers that are up.
    pub fn peers(&self) -> impl Iterator<Item = &StationPeer> {
        self.peers.values()
    }

    /// How the RIB calls a table.
    #[must_use]
    pub fn neighbor(&self, peer: &PeerHeader) -> NeighborId {
        self.id(key(peer), peer.view)
    }

    const fn id(&self, (loc, distinguisher, address): PeerKey, view: RibView) -> NeighborId {
        NeighborId {
            address: if loc { self.router } else { address },
            learned: Learned::Bmp {
                router: self.router,
                distinguisher,
                view,
            },
        }
    }

    /// An UPDATE as its table has it, before [`Self::handle`]; `None`: there was no Peer Up.
    #[must_use]
    pub fn view<'a>(&self, monitored: &Monitored<'a>) -> Option<Result<UpdateView<'a>, Fault>> {
        let peer = self.peers.get(&key(&monitored.peer))?;
        Some(read(monitored, &context(&peer.up, monitored)))
    }

    /// Takes a message.
    ///
    /// # Errors
    /// One that cannot be read: the connection cannot go on. [`Self::lost`] says what that means.
    pub fn handle(&mut self, frame: &BmpFrame) -> Result<Vec<StationAction>, BmpError> {
        if let Some(count) = self.counts.messages.get_mut(usize::from(frame.kind.min(7))) {
            *count += 1;
        }
        let mut actions = Vec::new();
        match decode(frame)? {
            BmpMessage::RouteMonitoring(monitored) => self.monitored(&monitored, &mut actions),
            BmpMessage::Statistics { peer, statistics } => {
                if let Some(known) = self.peers.get_mut(&key(&peer)) {
                    known.statistics = statistics;
                }
            }
            BmpMessage::PeerUp(up) => self.peer_up(up, &mut actions)?,
            BmpMessage::PeerDown { peer, reason } => {
                self.peer_down(key(&peer), &down_reason(reason), &mut actions);
            }
            BmpMessage::Initiation(information) => {
                for information in information {
                    match information {
                        Information::SystemName(name) => self.system_name = Some(name),
                        Information::SystemDescription(text) => {
                            self.system_description = Some(text);
                        }
                        _ => {}
                    }
                }
            }
            BmpMessage::Termination {
                reason,
                information,
            } => self.terminated = Some(termination(reason, &information)),
            BmpMessage::RouteMirroring(_) | BmpMessage::Unknown(_) => {}
        }
        Ok(actions)
    }

    /// The connection ended: all tables are what was last known.
    pub fn lost(&mut self, text: &str) -> Vec<StationAction> {
        let mut actions = Vec::new();
        let reason = SessionDownReason::ConnectionLost {
            text: text.to_owned(),
        };
        let keys: Vec<PeerKey> = self.peers.keys().copied().collect();
        for key in keys {
            self.peer_down(key, &reason, &mut actions);
        }
        actions
    }

    fn peer_up(
        &mut self,
        up: Box<PeerUp>,
        actions: &mut Vec<StationAction>,
    ) -> Result<(), BmpError> {
        let key = key(&up.peer);
        if let Some(known) = self.peers.get(&key) {
            // Said again for another view of the same session.
            let same = known.up.sent == up.sent
                && known.up.received == up.received
                && (known.up.local_port, known.up.remote_port) == (up.local_port, up.remote_port);
            if same {
                return Ok(());
            }
            let reason = SessionDownReason::ConnectionLost {
                text: "a new session of the peer took its place".to_owned(),
            };
            self.peer_down(key, &reason, actions);
        }
        if self.peers.len() >= MAX_PEERS {
            return Err(BmpError(format!("more than {MAX_PEERS} peers")));
        }
        self.peers.insert(
            key,
            StationPeer {
                up,
                statistics: Vec::new(),
                views: BTreeMap::new(),
            },
        );
        Ok(())
    }

    fn peer_down(
        &mut self,
        key: PeerKey,
        reason: &SessionDownReason,
        actions: &mut Vec<StationAction>,
    ) {
        let Some(peer) = self.peers.remove(&key) else {
            return;
        };
        for (view, state) in peer.views {
            if state == View::Up {
                actions.push(StationAction::Down(self.id(key, view), reason.clone()));
            }
        }
    }

    fn monitored(&mut self, monitored: &Monitored<'_>, actions: &mut Vec<StationAction>) {
        let header = &monitored.peer;
        let id = self.neighbor(header);
        let Some(peer) = self.peers.get_mut(&key(header)) else {
            self.counts.unannounced += 1;
            return;
        };
        let context = context(&peer.up, monitored);
        if let Entry::Vacant(view) = peer.views.entry(header.view) {
            view.insert(View::Up);
            actions.push(StationAction::Up(
                id,
                Negotiated {
                    asn: header.asn,
                    router_id: header.bgp_id,
                    hold_time: Duration::ZERO,
                    graceful_restart: true,
                    context,
                },
            ));
        }
        if peer.views.get(&header.view) == Some(&View::Broken) {
            self.counts.after_refused += 1;
            return;
        }
        match read(monitored, &context).map(|view| view.to_update()) {
            Ok(update) => {
                let errors = u64::try_from(update.errors.len()).unwrap_or(0);
                self.counts.attribute_errors += errors;
                actions.push(StationAction::Update(id, update));
            }
            Err(fault) => {
                self.counts.refused += 1;
                peer.views.insert(header.view, View::Broken);
                let reason = SessionDownReason::ConnectionLost {
                    text: format!("the router tells an UPDATE that cannot be read: {fault}"),
                };
                actions.push(StationAction::Down(id, reason));
            }
        }
    }
}

fn read<'a>(monitored: &Monitored<'a>, context: &Context) -> Result<UpdateView<'a>, Fault> {
    match monitored.peer.view {
        RibView::InPrePolicy | RibView::InPostPolicy => update::view(monitored.update, context),
        RibView::OutPrePolicy | RibView::OutPostPolicy | RibView::Loc => {
            update::view_own(monitored.update, context)
        }
    }
}

/// How a table's UPDATEs are to be read. Whether AS numbers have two octets is said in each message
/// (RFC 7854 section 4.2); path identifiers are there as the two OPENs agree, in the direction of
/// the table. Those of a Loc-RIB are made up by the router to say it (RFC 9069 section 5.2).
fn context(up: &PeerUp, monitored: &Monitored<'_>) -> Context {
    let header = &monitored.peer;
    let agreed = match header.view {
        RibView::InPrePolicy | RibView::InPostPolicy => up.received.context_towards(&up.sent),
        RibView::OutPrePolicy | RibView::OutPostPolicy => up.sent.context_towards(&up.received),
        RibView::Loc => {
            let mut agreed = up.sent.context_towards(&up.received);
            let back = up.received.context_towards(&up.sent).add_path;
            agreed.add_path.ipv4 |= back.ipv4;
            agreed.add_path.ipv6 |= back.ipv6;
            agreed
        }
    };
    Context {
        four_octet_as: !header.two_octet_as,
        // Behind a policy, attributes of the router's own AS are there also for external peers.
        internal: agreed.internal || header.view != RibView::InPrePolicy,
        families: Families::BOTH,
        add_path: monitored.add_path.unwrap_or(agreed.add_path),
        extended_next_hop: true,
        otc: None,
    }
}

fn down_reason(reason: PeerDownReason) -> SessionDownReason {
    match reason {
        PeerDownReason::RemoteNotification(notification) => {
            SessionDownReason::NotificationReceived {
                code: notification.code,
                subcode: notification.subcode,
                text: notification.shutdown_communication(),
            }
        }
        PeerDownReason::LocalNotification(notification) => SessionDownReason::NotificationSent {
            code: notification.code,
            subcode: notification.subcode,
            text: format!("the router sent it: {}", notification.name()),
        },
        other => SessionDownReason::ConnectionLost {
            text: other.to_string(),
        },
    }
}

/// Names of RFC 7854 section 4.5.
fn termination(reason: Option<u16>, information: &[Information]) -> String {
    let mut text = match reason {
        Some(0) => "administratively closed".to_owned(),
        Some(1) => "unspecified reason".to_owned(),
        Some(2) => "out of resources".to_owned(),
        Some(3) => "redundant connection".to_owned(),
        Some(4) => "permanently administratively closed".to_owned(),
        Some(other) => format!("reason {other}"),
        None => "without a reason".to_owned(),
    };
    for information in information {
        if let Information::Text(said) = information {
            text.push_str(": ");
            text.push_str(said);
        }
    }
    text
}

//! What slow peers have in common.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use events::{Asn, EgressName, LatencyScope, PeerKey, Prefix, Timestamp};

/// So much more is no rise.
const NOTHING: Duration = Duration::from_millis(10);

/// A delayed acknowledgement hides so much of a rise, or adds it (Linux: `TCP_DELACK_MIN`).
const DELAYED_ACK: Duration = Duration::from_millis(40);

/// A peer of which it is known whether it is slow.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    pub key: PeerKey,
    pub egress: EgressName,
    /// Slow since.
    pub since: Option<Timestamp>,
    /// What it takes longer than usual.
    pub rise: Duration,
    pub prefix: Prefix,
    /// Its path, nearest first.
    pub ases: Vec<Asn>,
}

/// Peers slow together.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    pub scope: LatencyScope,
    pub egress: EgressName,
    pub slow: Vec<PeerKey>,
    /// How many of the class are as usual.
    pub usual: usize,
}

impl Group {
    /// It is a whole egress, or half of it is slower by so much.
    pub fn is_clear(&self, members: &[Member], by: Duration) -> bool {
        let clear = members
            .iter()
            .filter(|m| self.slow.contains(&m.key) && m.rise >= by);
        matches!(self.scope, LatencyScope::Egress { .. } | LatencyScope::All)
            || clear.count() * 2 >= self.slow.len()
    }
}

#[derive(Default)]
struct Class {
    slow: Vec<PeerKey>,
    usual: usize,
    /// The farthest place on a path.
    depth: usize,
}

impl Class {
    fn count(&mut self, member: &Member, depth: usize, half: Duration) {
        self.depth = self.depth.max(depth);
        if member.since.is_some() {
            self.slow.push(member.key);
        } else if member.rise < half {
            self.usual += 1;
        }
    }

    /// Most of it, and not one alone.
    fn fits(&self) -> bool {
        self.slow.len() >= 2 && self.slow.len() * 10 >= (self.slow.len() + self.usual) * 7
    }

    fn fit(&self) -> isize {
        let signed = |n: usize| isize::try_from(n).unwrap_or(isize::MAX);
        signed(self.slow.len()) - 2 * signed(self.usual)
    }
}

/// The class that explains most of what is slow; a single peer where none does.
///
/// `anchors` tells whether anchors through an egress take longer since a time, too, where that is
/// known: a whole egress is not slow while they are as usual.
pub fn best(
    members: &[Member],
    anchors: impl Fn(&EgressName, Timestamp, Duration) -> Option<bool>,
) -> Option<Group> {
    let egresses: BTreeSet<&EgressName> = members.iter().map(|m| &m.egress).collect();
    let groups = egresses.iter().filter_map(|egress| {
        let on: Vec<&Member> = members.iter().filter(|m| m.egress == **egress).collect();
        best_of(egress, &on, &anchors)
    });
    // The order of egresses decides between equals.
    let best = groups.rev().max_by_key(|group| group.slow.len())?;
    let everywhere = |egress: &&&EgressName| {
        let on: Vec<&Member> = members.iter().filter(|m| m.egress == ***egress).collect();
        matches!(
            best_of(egress, &on, &anchors).map(|group| group.scope),
            Some(LatencyScope::Egress { .. })
        )
    };
    let all = matches!(best.scope, LatencyScope::Egress { .. })
        && egresses.len() > 1
        && egresses.iter().all(|egress| everywhere(&egress));
    Some(if all {
        let slow = members.iter().filter(|m| m.since.is_some());
        Group {
            scope: LatencyScope::All,
            slow: slow.map(|m| m.key).collect(),
            usual: members.iter().filter(|m| m.since.is_none()).count(),
            ..best
        }
    } else {
        best
    })
}

fn best_of(
    egress: &EgressName,
    members: &[&Member],
    anchors: &impl Fn(&EgressName, Timestamp, Duration) -> Option<bool>,
) -> Option<Group> {
    let onset = members.iter().filter_map(|m| m.since).min()?;
    let mut rises: Vec<Duration> = members
        .iter()
        .filter(|m| m.since.is_some())
        .map(|m| m.rise)
        .collect();
    rises.sort_unstable();
    let middle = rises.get(rises.len() / 2).copied().unwrap_or_default();
    // Who takes half as much longer, and by its own baseline is no spike yet, speaks for neither.
    let half = (middle.saturating_sub(DELAYED_ACK) / 2).max(NOTHING);
    let mut whole = Class::default();
    let mut ases: BTreeMap<Asn, Class> = BTreeMap::new();
    let mut prefixes: BTreeMap<Prefix, Class> = BTreeMap::new();
    for member in members {
        whole.count(member, 0, half);
        prefixes
            .entry(member.prefix)
            .or_default()
            .count(member, 0, half);
        for (hop, asn) in member.ases.iter().enumerate() {
            // Behind the upstream is what is behind the egress.
            if hop > 0 || member.ases.len() == 1 {
                ases.entry(*asn).or_default().count(member, hop, half);
            }
        }
    }
    let wide = LatencyScope::Egress {
        egress: egress.clone(),
    };
    let whole = (wide, 2, whole);
    let ases = ases
        .into_iter()
        .map(|(asn, class)| (LatencyScope::As { asn }, 1, class));
    let prefixes = prefixes
        .into_iter()
        .map(|(prefix, class)| (LatencyScope::Prefix { prefix }, 0, class));
    let found = std::iter::once(whole)
        .filter(|_| anchors(egress, onset, middle) != Some(false))
        .chain(ases)
        .chain(prefixes)
        .filter(|(_, _, class)| class.fits())
        // Best explained, then fewest others, then the wider kind, then farthest from us.
        .max_by_key(|(_, kind, class)| {
            let members = class.slow.len() + class.usual;
            (class.fit(), Reverse(members), *kind, class.depth)
        });
    let of = |scope, slow, usual| Group {
        scope,
        egress: egress.clone(),
        slow,
        usual,
    };
    if let Some((scope, _, class)) = found {
        return Some(of(scope, class.slow, class.usual));
    }
    let alone = members
        .iter()
        .filter(|m| m.since.is_some())
        .min_by_key(|m| (m.since, m.key))?;
    let peer = alone.key;
    Some(of(LatencyScope::Peer { peer }, vec![peer], 0))
}

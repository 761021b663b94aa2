use std::collections::BTreeMap;

use events::{BgpSignal, NeighborId, PeerKey};

/// Signals that wait for their receiver, in order. Of the facts about one peer by one neighbour
/// only the newest waits, so that a slow receiver costs no more memory than there are facts.
#[derive(Debug, Default)]
pub struct Outbox {
    next: u64,
    waiting: BTreeMap<u64, BgpSignal>,
    facts: BTreeMap<(NeighborId, PeerKey), u64>,
}

impl Outbox {
    /// Appends a signal; an older fact about the same peer and neighbour is dropped for it.
    pub fn push(&mut self, signal: BgpSignal) {
        if let BgpSignal::Fact(fact) = &signal {
            let older = self.facts.insert((fact.neighbor, fact.peer), self.next);
            if let Some(older) = older {
                self.waiting.remove(&older);
            }
        }
        self.waiting.insert(self.next, signal);
        self.next += 1;
    }

    /// Takes the first.
    pub fn pop(&mut self) -> Option<BgpSignal> {
        let (number, signal) = self.waiting.pop_first()?;
        if let BgpSignal::Fact(fact) = &signal {
            let key = (fact.neighbor, fact.peer);
            if self.facts.get(&key) == Some(&number) {
                self.facts.remove(&key);
            }
        }
        Some(signal)
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use events::RouteFact;

    fn fact(peer: &str, stale: bool) -> BgpSignal {
        BgpSignal::Fact(RouteFact {
            peer: PeerKey(peer.parse().unwrap()),
            neighbor: NeighborId::session([192, 0, 2, 1].into()),
            egress: "a".into(),
            route: None,
            stale,
        })
    }

    #[test]
    fn only_the_newest_fact_waits_and_nothing_else_is_lost() {
        let end = BgpSignal::EndOfRib {
            neighbor: NeighborId::session([192, 0, 2, 1].into()),
            ipv6: false,
        };
        let mut outbox = Outbox::default();
        for signal in [
            fact("10.0.0.1", true),
            fact("10.0.0.2", true),
            end.clone(),
            end.clone(),
        ] {
            outbox.push(signal);
        }
        outbox.push(fact("10.0.0.1", false));
        assert_eq!(outbox.len(), 4);
        let order: Vec<BgpSignal> = std::iter::from_fn(|| outbox.pop()).collect();
        assert_eq!(
            order,
            [
                fact("10.0.0.2", true),
                end.clone(),
                end,
                fact("10.0.0.1", false)
            ]
        );
        outbox.push(fact("10.0.0.1", true));
        assert_eq!(outbox.len(), 1, "a fact that was taken is not in the way");
    }
}

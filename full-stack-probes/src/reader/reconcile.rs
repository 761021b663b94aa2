//! Reconciliation: what is known against the kernel's own list of connections.

use std::collections::BTreeSet;

use ebpf_abi::{EventKind, FIRST_ADDRESS};
use events::{ConnectionId, Flow, TcpEvent, TcpEventKind, TcpState, Timestamp};

use super::Reader;
use crate::counters::add;
use crate::diag::Listing;
use crate::owner;

impl Reader {
    /// Compares what is known with the kernel's own list.
    pub(super) fn reconcile(&mut self, now: Timestamp) {
        match self.diag.list(false) {
            Ok(listing) => self.reconcile_with(now, &listing),
            Err(error) => {
                add(&self.shared.reconcile_failed, 1);
                self.complain("cannot list the kernel's connections", &error);
            }
        }
    }

    /// `at` is before the listing was begun. Events from before it are applied first, so that
    /// nothing is found twice; events from after it have the last word.
    pub(super) fn reconcile_with(&mut self, at: Timestamp, listing: &Listing) {
        let mut records = Vec::new();
        self.drain(usize::MAX, &mut records);
        let late = records.split_off(records.partition_point(|record| record.at < at.as_nanos()));
        self.apply(&records);
        let changed: BTreeSet<u64> = late
            .iter()
            .filter(|record| record.kind == EventKind::State as u8)
            .map(|record| record.cookie)
            .collect();

        // Those that have no cookie for the programs are known by their ends.
        let by_address: BTreeSet<Flow> = self
            .known
            .range(FIRST_ADDRESS..)
            .map(|(_, known)| known.flow)
            .collect();
        let chosen = self.chosen_sockets();
        let missed: Vec<_> = listing
            .connections
            .iter()
            .filter(|listed| {
                matches!(
                    listed.state,
                    TcpState::Established | TcpState::SynSent | TcpState::CloseWait
                ) && !self.known.contains_key(&listed.cookie)
                    && !changed.contains(&listed.cookie)
                    && !self.is_ignored(&listed.flow)
                    && self.is_watched(&listed.flow)
                    && !by_address.contains(&listed.flow)
                    && chosen
                        .as_ref()
                        .is_none_or(|chosen| chosen.contains(&listed.inode))
            })
            .collect();
        let owners = owner::of(&missed.iter().map(|listed| listed.inode).collect());
        for listed in missed {
            add(&self.shared.found, 1);
            self.know(listed.cookie, listed.flow, at);
            if chosen.is_some() && self.sources.table.find(listed.cookie).is_none() {
                let counter = if self.sources.table.invite(listed.cookie) {
                    &self.shared.slots_invited
                } else {
                    &self.shared.untracked
                };
                add(counter, 1);
            }
            let mut push = |kind| {
                self.out.push(TcpEvent {
                    at,
                    connection: ConnectionId(listed.cookie),
                    flow: listed.flow,
                    kind,
                });
            };
            push(TcpEventKind::Found {
                state: listed.state,
                owner: owners.get(&listed.inode).cloned(),
            });
            if let Some(sample) = listed
                .sample
                .filter(|_| listed.state == TcpState::Established)
            {
                push(TcpEventKind::Sample(sample));
            }
        }

        if listing.interrupted {
            add(&self.shared.reconcile_failed, 1);
        } else {
            let listed: BTreeSet<u64> = listing.connections.iter().map(|one| one.cookie).collect();
            let flows: BTreeSet<Flow> = if by_address.is_empty() {
                BTreeSet::new()
            } else {
                listing.connections.iter().map(|one| one.flow).collect()
            };
            let unlisted: BTreeSet<u64> = self
                .known
                .iter()
                .filter(|(cookie, known)| {
                    let is_listed = listed.contains(cookie)
                        || (**cookie >= FIRST_ADDRESS && flows.contains(&known.flow));
                    known.since < at && !is_listed && !changed.contains(cookie)
                })
                .map(|(cookie, _)| *cookie)
                .collect();
            // One that opens or closes is for a moment in no list, without an event about it yet.
            let gone: Vec<u64> = unlisted.intersection(&self.unlisted).copied().collect();
            self.unlisted = unlisted;
            for cookie in gone {
                self.forget(cookie, at);
            }
        }
        self.apply(&late);
    }

    /// Where only watched processes' connections are watched: their sockets' inodes. The programs
    /// are told on the way where these processes listen.
    fn chosen_sockets(&mut self) -> Option<BTreeSet<u32>> {
        let (processes, _) = self.sources.processes.as_ref()?;
        let before = self.sources.listening.known();
        let sockets = owner::sockets_of(&processes.pids());
        match self.diag.listeners() {
            Ok(listeners) => {
                let ports = listeners
                    .iter()
                    .filter(|one| sockets.contains(&one.inode))
                    .map(|one| one.flow.local.port())
                    .collect();
                if let Err(error) = self.sources.listening.set(&ports, &before) {
                    self.complain("cannot tell the programs all ports listened on", &error);
                }
            }
            Err(error) => {
                add(&self.shared.reconcile_failed, 1);
                self.complain("cannot list the sockets that listen", &error);
            }
        }
        Some(sockets)
    }

    pub(super) fn forget(&mut self, cookie: u64, at: Timestamp) {
        if let Some(index) = self.sources.table.find(cookie)
            && self.sources.table.release(index, cookie)
        {
            add(&self.shared.slots_orphaned, 1);
            self.unwatch(index);
        }
        if let Some(known) = self.known.remove(&cookie) {
            add(&self.shared.gone, 1);
            self.out.push(TcpEvent {
                at,
                connection: ConnectionId(cookie),
                flow: known.flow,
                kind: TcpEventKind::Gone,
            });
        }
    }
}

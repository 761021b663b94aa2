//! Connections that wait for a backed-off retransmission timer.

use std::io;

use events::{Flow, Prefix};

use crate::collector::Handle;
use crate::diag::Diag;

/// A connection whose retransmission timer (RFC 6298, section 5.5) has been doubled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackedOff {
    /// Its ends.
    pub flow: Flow,
    /// `SND.UNA`: the sequence number of the oldest byte that is not acknowledged.
    pub unacknowledged: u32,
    /// How often the timer has been doubled.
    pub doublings: u8,
}

impl Handle {
    /// Asks the kernel which connections to these prefixes are backed off. Sequence numbers are not
    /// in `tcp_info`: they follow from what the programs noted, so connections that these do not
    /// follow are left out. Takes some microseconds for each connection of the host.
    ///
    /// # Errors
    ///
    /// From sock_diag.
    pub fn backed_off(&self, prefixes: &[Prefix]) -> io::Result<Vec<BackedOff>> {
        let listing = Diag::open()?.list(true)?;
        Ok(listing
            .connections
            .iter()
            .filter_map(|listed| {
                let (doublings, acknowledged) = listed.backoff.filter(|(n, _)| *n > 0)?;
                let remote = listed.flow.remote.ip();
                if !prefixes.iter().any(|prefix| prefix.contains(&remote)) {
                    return None;
                }
                let unacknowledged = self.table.unacknowledged(listed.cookie, acknowledged)?;
                Some(BackedOff {
                    flow: listed.flow,
                    unacknowledged,
                    doublings,
                })
            })
            .collect())
    }
}

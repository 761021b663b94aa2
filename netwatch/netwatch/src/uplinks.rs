//! What this host sends through each egress, by the interfaces' counters.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use config::Config;
use events::{EgressName, HostSignal, Timestamp};

/// Looked at so often.
const EVERY: Duration = Duration::from_secs(1);

/// The counters.
#[derive(Debug)]
pub struct Uplinks {
    links: Vec<Link>,
    looked_at: Timestamp,
}

#[derive(Debug)]
struct Link {
    egress: EgressName,
    path: String,
    /// Opened at the first look, and anew where the interface was made anew.
    file: Option<File>,
    sent: Option<u64>,
}

impl Uplinks {
    /// Nothing was looked at yet.
    pub fn new(config: &Config) -> Self {
        let link = |egress: &config::Egress| Link {
            egress: EgressName(egress.name.clone()),
            path: format!("/sys/class/net/{}/statistics/tx_bytes", egress.interface),
            file: None,
            sent: None,
        };
        Self {
            links: config.egress.iter().map(link).collect(),
            looked_at: Timestamp::ZERO,
        }
    }

    /// What was sent since the last look, at most once a second.
    pub fn look(&mut self, now: Timestamp) -> Vec<HostSignal> {
        let passed = now.since(self.looked_at);
        if passed < EVERY {
            return Vec::new();
        }
        self.looked_at = now;
        self.links
            .iter_mut()
            .filter_map(|link| {
                let sent = link.read();
                let before = std::mem::replace(&mut link.sent, sent)?;
                // A counter that fell is another interface's.
                let bytes = u128::from(sent?.checked_sub(before)?);
                let rate = bytes * 1_000_000_000 / passed.as_nanos();
                Some(HostSignal::Sending {
                    egress: link.egress.clone(),
                    rate: u64::try_from(rate).unwrap_or(u64::MAX),
                })
            })
            .collect()
    }
}

impl Link {
    fn read(&mut self) -> Option<u64> {
        if self.file.is_none() {
            self.file = File::open(&self.path).ok();
        }
        let mut buffer = [0; 32];
        let read = self.file.as_ref()?.read_at(&mut buffer, 0);
        let Ok(length) = read else {
            self.file = None;
            return None;
        };
        let digits = buffer.get(..length)?;
        std::str::from_utf8(digits).ok()?.trim().parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_loopback_carries_is_counted_per_second() {
        let config = Config {
            egress: vec![config::Egress {
                name: "a".to_owned(),
                interface: "lo".to_owned(),
                gateways: Vec::new(),
            }],
            ..Config::default()
        };
        let mut uplinks = Uplinks::new(&config);
        let at = Timestamp::from_millis(10_000);
        assert_eq!(uplinks.look(at), [], "nothing to compare with");
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..100 {
            socket
                .send_to(&[0; 1000], socket.local_addr().unwrap())
                .unwrap();
        }
        assert_eq!(
            uplinks.look(at + Duration::from_millis(900)),
            [],
            "too soon"
        );
        let told = uplinks.look(at + Duration::from_secs(2));
        let [HostSignal::Sending { egress, rate }] = told.as_slice() else {
            panic!("{told:?}");
        };
        assert_eq!(egress, &EgressName::from("a"));
        assert!(*rate >= 50_000, "100 kB and headers in 2 s: {rate}");
    }
}

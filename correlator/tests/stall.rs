//! A stalled host: what it saw meanwhile does not blame the network.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use correlator::{Correlator, EgressParams, Output, Params, Thresholds};
use events::{
    AliveSign, Asn, Conclusion, ConnectionId, EgressName, HostSignal, PeerKey, ProbeOutcome,
    ProbeResult, ProbeSource, ProbeTarget, Signal, SignalKind, Timestamp, Verdict,
};

const PEERS: u8 = 12;

struct Bench {
    correlator: Correlator,
    outputs: Vec<Output>,
    now: u64,
}

fn ms(n: u64) -> Timestamp {
    Timestamp::from_millis(n)
}

fn anchor(n: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 88, n, 1))
}

fn peer(n: u8) -> PeerKey {
    PeerKey(IpAddr::V4(Ipv4Addr::new(203, 0, n % 6, n)))
}

const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 10));

impl Bench {
    /// Twelve peers in six prefixes, two egresses and two anchors that have answered.
    fn new() -> Self {
        let egress = |name: &str| EgressParams {
            name: EgressName::from(name),
            gateways: Vec::new(),
        };
        let correlator = Correlator::new(Params {
            run_id: "run".into(),
            egresses: vec![egress("a"), egress("b")],
            anchors: vec![(anchor(0), Asn(1)), (anchor(1), Asn(2))],
            flow_sources: vec![SOURCE],
            local_as: None,
            probes: true,
            thresholds: Thresholds::default(),
        });
        let mut bench = Self {
            correlator,
            outputs: Vec::new(),
            now: 0,
        };
        for n in 0..PEERS {
            let connection = ConnectionId(n.into());
            bench.signal(
                n,
                SignalKind::ConnectionUp {
                    connection,
                    source: SOURCE,
                },
            );
        }
        bench.until(10_000, &["a", "b"]);
        bench
    }

    fn signal(&mut self, n: u8, kind: SignalKind) {
        let at = ms(self.now);
        let signal = Signal {
            at,
            peer: peer(n),
            kind,
        };
        self.correlator.signal(at, &signal);
    }

    fn overdue(&mut self, since: u64) {
        for n in 0..PEERS {
            let connection = ConnectionId(n.into());
            let limit = Duration::from_millis(60);
            self.signal(
                n,
                SignalKind::AckOverdue {
                    connection,
                    since: ms(since),
                    limit,
                },
            );
        }
    }

    fn alive(&mut self) {
        for n in 0..PEERS {
            let connection = ConnectionId(n.into());
            let sign = AliveSign::Acknowledged;
            self.signal(n, SignalKind::Alive { connection, sign });
        }
    }

    fn lag(&mut self, lag: u64) {
        let lag = Duration::from_millis(lag);
        let signal = HostSignal::TimerLag { lag };
        self.correlator.host(ms(self.now), &signal);
    }

    /// Time passes; anchors answer through these egresses.
    fn until(&mut self, end: u64, answering: &[&str]) {
        while self.now < end {
            self.now += 1;
            if self.now.is_multiple_of(50) {
                self.anchors(answering);
            }
            while let Some(due) = self
                .correlator
                .next_timeout()
                .filter(|d| *d <= ms(self.now))
            {
                let _ = due;
                self.correlator
                    .handle_timeout(ms(self.now), &mut self.outputs);
            }
        }
    }

    fn anchors(&mut self, answering: &[&str]) {
        for egress in ["a", "b"] {
            for n in [0, 1] {
                let rtt = Duration::from_millis(20);
                let outcome = if answering.contains(&egress) {
                    ProbeOutcome::Reply { rtt }
                } else {
                    ProbeOutcome::Lost
                };
                let result = ProbeResult {
                    sent_at: ms(self.now - 40),
                    egress: egress.into(),
                    target: ProbeTarget::Anchor(anchor(n)),
                    source: ProbeSource::Flow,
                    source_address: SOURCE,
                    outcome,
                };
                self.correlator.probe(ms(self.now), &result);
            }
        }
    }

    fn verdicts(&self) -> Vec<Verdict> {
        self.outputs
            .iter()
            .filter_map(|o| match o {
                Output::Conclusion(Conclusion::Confirmed { incident, .. }) => {
                    incident.verdict.clone()
                }
                _ => None,
            })
            .collect()
    }

    fn healed(&self) -> usize {
        self.outputs
            .iter()
            .filter(|o| matches!(o, Output::Conclusion(Conclusion::Healed { .. })))
            .count()
    }
}

#[test]
fn overdue_flows_after_the_news_of_a_stall() {
    let mut bench = Bench::new();
    bench.now += 300;
    bench.lag(300);
    bench.overdue(10_010);
    bench.until(10_340, &["a", "b"]);
    bench.alive();
    bench.until(14_000, &["a", "b"]);
    assert_eq!(bench.verdicts(), [Verdict::HostStall]);
    assert_eq!(bench.healed(), 1);
}

#[test]
fn overdue_flows_before_the_news_of_a_stall() {
    let mut bench = Bench::new();
    bench.now += 300;
    bench.overdue(10_010);
    bench.lag(300);
    bench.until(10_340, &["a", "b"]);
    bench.alive();
    bench.until(14_000, &["a", "b"]);
    assert_eq!(bench.verdicts(), [Verdict::HostStall]);
    assert_eq!(bench.healed(), 1);
}

#[test]
fn a_stall_that_touched_no_flow_is_no_incident() {
    let mut bench = Bench::new();
    bench.now += 300;
    bench.lag(300);
    bench.until(14_000, &["a", "b"]);
    assert_eq!(bench.verdicts(), []);
}

#[test]
fn a_break_during_a_stall_is_found_after_it() {
    let mut bench = Bench::new();
    bench.now += 300;
    bench.lag(300);
    bench.overdue(10_010);
    bench.until(12_000, &["b"]);
    let upstream = Verdict::UpstreamAs {
        egress: "a".into(),
        asn: None,
    };
    assert_eq!(bench.verdicts(), [Verdict::HostStall, upstream]);
}

#[test]
fn a_small_lag_vetoes_nothing() {
    let mut bench = Bench::new();
    bench.now += 30;
    bench.lag(30);
    bench.overdue(10_000);
    bench.until(12_000, &["b"]);
    let upstream = Verdict::UpstreamAs {
        egress: "a".into(),
        asn: None,
    };
    assert_eq!(bench.verdicts(), [upstream]);
}

#[test]
fn what_stalled_the_host_is_named_also_late() {
    let mut bench = Bench::new();
    bench.now += 300;
    bench.overdue(10_010);
    bench.lag(300);
    bench.until(10_340, &["a", "b"]);
    bench.correlator.host(
        ms(bench.now),
        &HostSignal::RunQueueDelay {
            thread: "cometbft".into(),
            pid: 7,
            ended_at: ms(10_295),
            waited: Duration::from_millis(290),
            preempted: true,
            by: Some("stress".into()),
        },
    );
    bench.until(10_420, &["a", "b"]);
    let last = bench.outputs.iter().rev().find_map(|output| match output {
        Output::Conclusion(Conclusion::Updated { incident, .. }) => Some(incident.clone()),
        _ => None,
    });
    let incident = last.expect("the cause updates the incident");
    assert_eq!(incident.verdict, Some(Verdict::HostStall));
    let cause = incident.cause.expect("named").to_string();
    assert_eq!(
        cause,
        "the CPU was taken from cometbft by stress for 290 ms"
    );
}

#[test]
fn a_disk_that_is_slow_as_always_is_not_the_news() {
    let slow = |took, usual| HostSignal::DiskSlow {
        device: "sda".into(),
        operation: events::BlockOperation::Flush,
        ended_at: ms(10_290),
        took: Duration::from_millis(took),
        usual: Some(Duration::from_millis(usual)),
    };
    for (took, usual, named) in [(280, 200, false), (280, 5, true)] {
        let mut bench = Bench::new();
        bench.now += 300;
        bench.overdue(10_010);
        bench.lag(300);
        bench.correlator.host(ms(bench.now), &slow(took, usual));
        bench.until(10_420, &["a", "b"]);
        let open = bench.correlator.incidents().pop().expect("a stall");
        let cause = open.cause.expect("named").to_string();
        assert_eq!(cause.contains("sda"), named, "{cause}");
    }
}

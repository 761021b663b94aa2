//! Two network namespaces: a host with two uplinks and its own address on loopback, and the network
//! beyond, which is both gateways and owns the anchors. They vanish with their threads.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use events::{EgressName, HostSignal, ProbeOutcome, ProbeResult, ProbeSource, ProbeTarget};
use probing::{EgressSettings, Handle, Prober, Settings};

pub const PI: [&str; 2] = ["198.51.100.10", "2001:db8:1::10"];
pub const ANCHORS: [&str; 2] = ["203.0.113.1", "2001:db8:5::1"];
pub const PATIENCE: Duration = Duration::from_secs(15);

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace of its own.
pub struct Namespace {
    jobs: mpsc::Sender<Job>,
    path: String,
}

impl Namespace {
    pub fn new() -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ready, path) = mpsc::channel();
        std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("run as root");
            let (pid, tid) = (nix::unistd::getpid(), nix::unistd::gettid());
            ready
                .send(format!("/proc/{pid}/task/{tid}/ns/net"))
                .unwrap();
            queue.into_iter().for_each(|job| job());
        });
        Self {
            jobs,
            path: path.recv().unwrap(),
        }
    }

    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        let job = Box::new(move || {
            let _ = done.send(job());
        });
        self.jobs.send(job).unwrap();
        result.recv().expect("the job panicked")
    }

    /// Runs shell commands; all must succeed.
    pub fn sh(&self, script: &str) -> String {
        let script = script.to_owned();
        self.run(move || {
            let output = Command::new("sh").args(["-ec", &script]).output().unwrap();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{script}\n{errors}");
            String::from_utf8(output.stdout).unwrap()
        })
    }

    /// Packets that a named counter of nftables' table `t` saw.
    pub fn counted(&self, name: &str) -> u64 {
        let text = self.sh(&format!("nft list counter inet t {name}"));
        let (_, rest) = text.split_once("packets ").expect("a counter");
        rest.split(' ').next().unwrap().parse().unwrap()
    }
}

pub struct Lab {
    pub host: Namespace,
    pub net: Namespace,
}

impl Lab {
    /// All answers to the host's own address return by the second uplink.
    pub fn new() -> Self {
        let lab = Self {
            host: Namespace::new(),
            net: Namespace::new(),
        };
        for ns in [&lab.host, &lab.net] {
            ns.sh("ip link set lo up
                for f in all default; do echo 0 > /proc/sys/net/ipv4/conf/$f/rp_filter; done
                echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad
                echo 1 > /proc/sys/net/ipv4/ip_forward
                echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
        }
        lab.uplink(0);
        lab.uplink(1);
        let [v4, v6] = PI;
        let [anchor4, anchor6] = ANCHORS;
        lab.host.sh(&format!(
            "ip address add {v4}/32 dev lo; ip address add {v6}/128 dev lo nodad"
        ));
        lab.net.sh(&format!(
            "ip address add {anchor4}/32 dev lo; ip address add {anchor6}/128 dev lo nodad
            ip route add {v4} via 10.9.1.2; ip -6 route add {v6} via fd09:1::2"
        ));
        lab
    }

    /// Makes an uplink: `wan0` or `wan1` at the host, `gw0` or `gw1` beyond.
    pub fn uplink(&self, n: u8) {
        let metric = 100 + u32::from(n);
        self.host.sh(&format!(
            "ip link add wan{n} type veth peer name gw{n} netns {}
            ip address add 10.9.{n}.2/24 dev wan{n}; ip address add fd09:{n}::2/64 dev wan{n} nodad
            ip link set wan{n} up",
            self.net.path
        ));
        self.net.sh(&format!(
            "ip address add 10.9.{n}.1/24 dev gw{n}; ip address add fd09:{n}::1/64 dev gw{n} nodad
            ip link set gw{n} up"
        ));
        // The first neighbour solicitation on a new link can take a second to be answered.
        self.host.sh(&format!(
            "ip route add default via 10.9.{n}.1 metric {metric}
            ip -6 route add default via fd09:{n}::1 metric {metric}"
        ));
        for gateway in [format!("10.9.{n}.1"), format!("fd09:{n}::1")] {
            self.host.run(move || {
                let start = Instant::now();
                let closed_port = SocketAddr::new(ip(&gateway), 9);
                while TcpStream::connect_timeout(&closed_port, PATIENCE)
                    .is_err_and(|e| e.kind() != ErrorKind::ConnectionRefused)
                {
                    assert!(start.elapsed() < PATIENCE, "{gateway} does not answer");
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
        }
    }

    pub fn settings() -> Settings {
        let egress = |n: u8, name: &str| EgressSettings {
            name: EgressName::from(name),
            interface: format!("wan{n}"),
            gateways: vec![ip(&format!("10.9.{n}.1")), ip(&format!("fd09:{n}::1"))],
        };
        Settings {
            egresses: vec![egress(0, "a"), egress(1, "b")],
            anchors: ANCHORS.map(ip).to_vec(),
            flow_sources: PI.map(ip).to_vec(),
            ..Settings::default()
        }
    }

    pub fn start(&self, settings: Settings) -> Running {
        self.host.run(move || Running::start(settings))
    }
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Names a path in assertions: egress, target, source.
pub type Path = (String, ProbeTarget, ProbeSource);

pub fn path(result: &ProbeResult) -> Path {
    (result.egress.0.clone(), result.target, result.source)
}

/// All paths that are always probed.
pub fn always_on() -> Vec<Path> {
    let mut all = Vec::new();
    for (n, name) in ["a", "b"].into_iter().enumerate() {
        for gateway in [format!("10.9.{n}.1"), format!("fd09:{n}::1")] {
            all.push((
                name.to_owned(),
                ProbeTarget::Gateway(ip(&gateway)),
                ProbeSource::Link,
            ));
        }
        for anchor in ANCHORS {
            for source in [ProbeSource::Link, ProbeSource::Flow] {
                all.push((name.to_owned(), ProbeTarget::Anchor(ip(anchor)), source));
            }
        }
    }
    all
}

/// A prober, and everything it said.
pub struct Running {
    pub handle: Handle,
    results: probing::Results,
    signals: tokio::sync::mpsc::Receiver<HostSignal>,
    pub all: Vec<ProbeResult>,
    pub told: Vec<HostSignal>,
}

impl Running {
    pub fn start(settings: Settings) -> Self {
        let (sink, results) = probing::results(65536);
        let (host_sink, signals) = tokio::sync::mpsc::channel(1024);
        Self {
            handle: Prober::spawn(settings, sink, host_sink).unwrap(),
            results,
            signals,
            all: Vec::new(),
            told: Vec::new(),
        }
    }

    pub fn collect(&mut self) {
        while let Some(result) = self.results.try_recv() {
            self.all.push(result);
        }
        while let Ok(signal) = self.signals.try_recv() {
            self.told.push(signal);
        }
    }

    /// Waits until something holds of all that was said since the last `forget`.
    #[track_caller]
    pub fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        loop {
            self.collect();
            if holds(self) {
                return;
            }
            if start.elapsed() > PATIENCE {
                let last: Vec<_> = self.all.iter().rev().take(40).collect();
                panic!(
                    "not within {PATIENCE:?}: {what}\n{last:#?}\n{:#?}\n{:?}",
                    self.told,
                    self.handle.counters()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops the prober; what it said stays.
    pub fn stop(mut self) -> Said {
        self.handle.stop();
        while let Some(result) = self.results.try_recv() {
            self.all.push(result);
        }
        Said { all: self.all }
    }

    pub fn forget(&mut self) {
        self.collect();
        self.all.clear();
        self.told.clear();
    }

    pub fn count(&self, path: &Path, outcome: impl Fn(&ProbeOutcome) -> bool) -> usize {
        count(&self.all, path, outcome)
    }

    pub fn replies(&self, path: &Path) -> usize {
        self.count(path, |o| matches!(o, ProbeOutcome::Reply { .. }))
    }

    pub fn lost(&self, path: &Path) -> usize {
        self.count(path, |o| *o == ProbeOutcome::Lost)
    }
}

/// What a stopped prober had said.
pub struct Said {
    pub all: Vec<ProbeResult>,
}

impl Said {
    pub fn count(&self, path: &Path, outcome: impl Fn(&ProbeOutcome) -> bool) -> usize {
        count(&self.all, path, outcome)
    }
}

fn count(results: &[ProbeResult], path: &Path, outcome: impl Fn(&ProbeOutcome) -> bool) -> usize {
    results
        .iter()
        .filter(|r| self::path(r) == *path && outcome(&r.outcome))
        .count()
}

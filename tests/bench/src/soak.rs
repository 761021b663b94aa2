//! Churn for minutes with the real daemon: nothing leaks, nothing is lost unaccounted, no peer goes
//! stale, nothing stays behind.

use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use lab::ns::Space;
use lab::sys;
use serde_json::Value;

use crate::bench::Bench;
use crate::churn::{Churn, Done, KINDS, Kind};
use crate::daemon::{Counters, Daemon};
use crate::load::Load;
use crate::stats;
use crate::worker;
use crate::world::{Config, HOST, NEAR, at, peer};

/// Short connections per second, all kinds together.
const RATE: u64 = 3_000;
/// Peers with lasting connections.
const PEERS: usize = 50;
/// A process lives so long.
const LIFE: Duration = Duration::from_secs(2);
/// Between two looks.
const LOOK: Duration = Duration::from_secs(5);
/// In this time after the last connection everything is given back: a reconciliation and a bit.
const PATIENCE: Duration = Duration::from_secs(25);
/// Memory that may be gained between the second and the last quarter: within minutes, and in a short
/// run, whose second quarter is still warm-up.
const GROWTH_LIMIT: f64 = 3e6;
const SHORT_GROWTH_LIMIT: f64 = 8e6;
const SHORT: u64 = 120;
const UDP_PORT: u16 = 8030;

/// One look at the running daemon.
struct Look {
    rss: f64,
    unaccounted: f64,
    taken_back: f64,
    bpf: u64,
}

/// Runs it: half of the time with all defaults, half with the process watched.
///
/// # Errors
/// The daemon does not start or ends by itself, or interrupted.
pub fn run(bench: &mut Bench, minutes: u64) -> anyhow::Result<()> {
    for config in [Config::Passive, Config::Watched] {
        let seconds = minutes * 60 / 2;
        bench.part(config.name(), |bench| half(bench, config, seconds))?;
    }
    Ok(())
}

fn half(bench: &mut Bench, config: Config, seconds: u64) -> anyhow::Result<()> {
    let mut daemon = bench.daemon(HOST, config)?;
    let before = daemon.counters()?;
    let load = Load::start(&bench.space, PEERS)?;
    let churn = Churn::start(&bench.space, &KINDS, RATE)?;
    let datagrams = Datagrams::start(&bench.space)?;
    let end = sys::now() + seconds * 1_000_000_000;
    let mut looks = Vec::new();
    let mut processes = 0u64;
    let mut next_look = sys::now() + LOOK.as_nanos() as u64;
    while sys::now() < end {
        let process = Process::start(&bench.space)?;
        processes += 1;
        sys::sleep(LIFE)?;
        drop(process);
        if sys::now() >= next_look {
            next_look += LOOK.as_nanos() as u64;
            daemon.check()?;
            let look = look(&daemon)?;
            eprintln!(
                "    {:>4} s left: {} connections, RSS {:.1} MB, slots: {} unaccounted, {} taken back",
                end.saturating_sub(sys::now()) / 1_000_000_000,
                churn.done().attempts(),
                look.rss / 1e6,
                look.unaccounted,
                look.taken_back
            );
            looks.push(look);
        }
    }
    let done = churn.finish();
    drop(datagrams);
    drop(load);
    let settled = settle(&daemon)?;
    let after = settled.1;
    let mut half = Half {
        bench,
        case: config.name(),
        done,
        processes,
        before,
        after,
        status: settled.0,
        looks,
    };
    half.throughput(seconds);
    half.table();
    half.losses();
    half.memory(seconds);
    half.stale();
    half.stop(daemon)
}

/// What was done and seen.
struct Half<'a> {
    bench: &'a mut Bench,
    case: &'static str,
    done: Done,
    processes: u64,
    before: Counters,
    after: Counters,
    status: Value,
    looks: Vec<Look>,
}

fn look(daemon: &Daemon) -> anyhow::Result<Look> {
    let counters = daemon.counters()?;
    Ok(Look {
        rss: daemon.memory("VmRSS")? as f64,
        unaccounted: unaccounted(&counters).unwrap_or(f64::NAN),
        taken_back: counters
            .get("socket_table_orphans_total")
            .unwrap_or(f64::NAN),
        bpf: daemon.objects()?.memory_for(0, 0),
    })
}

/// Slots taken that were neither freed nor are in use, as the daemon counts.
fn unaccounted(counters: &Counters) -> Option<f64> {
    Some(
        counters.get("socket_table_slots_taken_total")?
            - counters.get("socket_table_slots_freed_total")?
            - counters.get("socket_table_orphans_total")?
            - counters.get("socket_table_slots_in_use")?,
    )
}

/// Waits until all slots are given back and all peers are down, or patience ends.
fn settle(daemon: &Daemon) -> anyhow::Result<(Value, Counters)> {
    let end = sys::now() + PATIENCE.as_nanos() as u64;
    loop {
        sys::sleep(Duration::from_secs(2))?;
        let found = (daemon.status()?, daemon.counters()?);
        let quiet = found.1.get("socket_table_slots_in_use") == Some(0.0)
            && found.1.get("connections") == Some(0.0);
        if quiet || sys::now() > end {
            return Ok(found);
        }
    }
}

impl Half<'_> {
    fn check(&mut self, name: impl std::fmt::Display, ok: bool, detail: impl Into<String>) {
        let name = format!("{}/{name}", self.case);
        self.bench.check(name, ok, detail);
    }

    fn throughput(&mut self, seconds: u64) {
        let rate = self.done.attempts() as f64 / seconds as f64;
        self.bench
            .single("soak_connections_per_second", self.case, "1/s", rate);
        self.check(
        "churned",
        rate > 1_000.0 && self.done.failed * 1_000 < self.done.attempts(),
        format!(
            "{} connections in {seconds} s, {rate:.0} per second: {}; {} otherwise than wanted; {} processes",
            self.done.attempts(),
            KINDS
                .iter()
                .map(|kind| format!("{} {kind:?}", self.done.by_kind[*kind as usize]))
                .collect::<Vec<_>>()
                .join(", ")
                .to_lowercase(),
            self.done.failed,
            self.processes
        ),
    );
    }

    fn table(&mut self) {
        let delta = |name: &str| Some(self.after.get(name)? - self.before.get(name)?);
        let (Some(taken), Some(freed), Some(full)) = (
            delta("socket_table_slots_taken_total"),
            delta("socket_table_slots_freed_total"),
            delta("socket_table_full_total"),
        ) else {
            self.check(
                "slots_accounted",
                false,
                "the daemon does not tell its slots",
            );
            return;
        };
        let orphans = delta("socket_table_orphans_total").unwrap_or(0.0);
        let in_use = self
            .after
            .get("socket_table_slots_in_use")
            .unwrap_or(f64::NAN);
        self.check(
        "slots_accounted",
        taken == freed + orphans + in_use && in_use == 0.0,
        format!(
            "{taken} taken = {freed} freed + {orphans} taken back by reconciliation + {in_use} in use"
        ),
    );
        // While it runs the numbers are not of one moment: a tenth of a second's worth may differ.
        let worst = self
            .looks
            .iter()
            .map(|look| look.unaccounted.abs())
            .fold(0.0, f64::max);
        self.check(
            "slots_accounted_meanwhile",
            worst <= RATE as f64 / 2.0,
            format!(
                "at most {worst} of {taken} slots not accounted for in {} looks",
                self.looks.len()
            ),
        );
        let wanted =
            (self.done.attempts() + PEERS as u64 + self.processes * worker::CONNECTIONS) as f64;
        self.check(
            "connections_seen",
            taken + full >= wanted && (full > 0.0 || taken <= wanted * 1.001),
            format!(
                "{wanted} connections were made, {taken} took a slot, {full} times there was none"
            ),
        );
    }

    fn losses(&mut self) {
        let lost = self.after.losses_since(&self.before);
        let total = lost.iter().fold(0.0, |sum, (_, count)| sum + count);
        self.bench.single("soak_lost_events", self.case, "", total);
        // What the daemon tells of each peer went all the way: hook, ring, collector, queue, tracker.
        for (kind, name) in [(Kind::Refused, "refused"), (Kind::Cancelled, "cancelled")] {
            let told: f64 = self.status["peers"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|peer| peer["connect_failures"][name].as_f64())
                .sum();
            let made = self.done.by_kind[kind as usize] as f64;
            self.check(
                format!("accounted/{name}"),
                told <= made && told + total >= made,
                format!("{made} made, {told} told, {total} losses counted: {lost:?}"),
            );
        }
        let (delivered, handled) = (
            self.after
                .get("collector_delivered_total")
                .unwrap_or(f64::NAN),
            self.after.get("tcp_events_total").unwrap_or(f64::NAN),
        );
        self.check(
            "accounted/queue",
            delivered == handled,
            format!("{delivered} events left the collector, {handled} reached the tracker"),
        );
    }

    fn memory(&mut self, seconds: u64) {
        let limit = if seconds < SHORT {
            SHORT_GROWTH_LIMIT
        } else {
            GROWTH_LIMIT
        };
        let rss: Vec<f64> = self.looks.iter().map(|look| look.rss).collect();
        let quarter = |from: usize| {
            let part = rss.get(rss.len() * from / 4..rss.len() * (from + 1) / 4);
            part.and_then(stats::median)
        };
        if let (Some(early), Some(late)) = (quarter(1), quarter(3)) {
            self.bench.single(
                "daemon_rss_bytes",
                &format!("soak_{}", self.case),
                "bytes",
                late,
            );
            self.check(
            "memory_steady",
            late - early <= limit,
            format!(
                "RSS {:.2} MB in the second quarter, {:.2} MB in the last, at most {:.0} MB more wanted",
                early / 1e6,
                late / 1e6,
                limit / 1e6
            ),
        );
        }
        let bpf: Vec<u64> = self.looks.iter().map(|look| look.bpf).collect();
        self.check(
            "bpf_memory_steady",
            bpf.windows(2).all(|pair| pair[0] == pair[1]) && !bpf.is_empty(),
            format!(
                "programs and maps held {} to {} bytes",
                bpf.iter().min().unwrap_or(&0),
                bpf.iter().max().unwrap_or(&0)
            ),
        );
    }

    fn stale(&mut self) {
        let peers = self.status["peers"].as_array();
        let count = peers.map_or(0, Vec::len);
        let stale: Vec<String> = peers
            .into_iter()
            .flatten()
            .filter(|peer| peer["state"] != "down" || peer["connections"] != 0)
            .map(|peer| {
                format!(
                    "{} {} ({})",
                    peer["peer"], peer["state"], peer["connections"]
                )
            })
            .collect();
        let connections = self.after.get("connections").unwrap_or(f64::NAN);
        self.check(
            "no_stale_peer",
            stale.is_empty() && connections == 0.0 && count > 0,
            format!(
                "{} of {count} peers and {connections} connections outlived their connections {}",
                stale.len(),
                stale.iter().take(5).cloned().collect::<Vec<_>>().join(", ")
            ),
        );
    }

    fn stop(&mut self, daemon: Daemon) -> anyhow::Result<()> {
        let objects = daemon.objects()?;
        let log = daemon.log();
        let stopped = daemon.stop();
        self.check(
            "stopped",
            stopped.is_ok(),
            stopped.map_or_else(
                |error| format!("{error:#}"),
                |()| "in order, on SIGTERM".to_owned(),
            ),
        );
        // The kernel frees programs and maps a moment after their last user is gone.
        sys::sleep(Duration::from_secs(2))?;
        let left = objects.living()?;
        self.check(
            "nothing_left",
            left == 0,
            format!(
                "{left} of {} programs, {} maps and {} links are left",
                objects.programs.len(),
                objects.maps.len(),
                objects.links.len()
            ),
        );
        let panics = log.lines().filter(|line| line.contains("panicked")).count();
        self.check("no_panic", panics == 0, format!("{panics} in the log"));
        Ok(())
    }
}

/// A process of [`worker`]'s. Dropping it kills it.
struct Process(Child);

impl Process {
    /// Starts it and waits until its connections are made.
    fn start(space: &Space) -> anyhow::Result<Self> {
        let mut child = space
            .command(HOST, &std::env::current_exe()?)
            .arg("worker")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a process")?;
        let out = child.stdout.take();
        let process = Self(child);
        let mut line = String::new();
        BufReader::new(out.context("no output")?).read_line(&mut line)?;
        anyhow::ensure!(line == "ready\n", "a process did not make its connections");
        Ok(process)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A stream of datagrams to a peer and back. Dropping it ends it.
struct Datagrams {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Datagrams {
    fn start(space: &Space) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let to = at(peer(0), UDP_PORT);
        let far = space.within(NEAR, || Ok(UdpSocket::bind(to)?))?;
        let near = space.within(HOST, || {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect(to)?;
            Ok(socket)
        })?;
        let wait = Some(Duration::from_millis(2));
        far.set_read_timeout(wait)?;
        near.set_read_timeout(wait)?;
        let echo = {
            let stop = Arc::clone(&stop);
            move || {
                let mut buffer = [0; 1500];
                while !stop.load(Ordering::Relaxed) {
                    if let Ok((count, from)) = far.recv_from(&mut buffer) {
                        let _ = far.send_to(&buffer[..count], from);
                    }
                }
            }
        };
        let ask = {
            let stop = Arc::clone(&stop);
            move || {
                let mut buffer = [0; 1500];
                while !stop.load(Ordering::Relaxed) {
                    let _ = near.send(&buffer[..200]);
                    let _ = near.recv(&mut buffer);
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
        };
        Ok(Self {
            stop,
            threads: vec![std::thread::spawn(echo), std::thread::spawn(ask)],
        })
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

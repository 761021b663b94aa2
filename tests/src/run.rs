//! Running a scenario: build, start, let things happen, watch, take down.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::chatter::FlowSummary;
use crate::daemon::{Daemon, Line, PROTOCOL, Replay};
use crate::monitor::RouteEvent;
use crate::narrate::{Narrator, News};
use crate::pager::Request;
use crate::rig::{Cut, Rig, VALIDATOR};
use crate::scenario::{Direction, Fault, FaultKind, Routes, Scenario, UplinkName};
use crate::sys;
use crate::workload::Workload;
use crate::world::{Target, World};

/// How to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The daemon's binary; `None`: the lab reroutes by a script of its own.
    pub netwatch: Option<PathBuf>,
    /// Keep the files of the run.
    pub keep: bool,
    /// How loud.
    pub narrator: Narrator,
    /// Print `netwatch report` at the end.
    pub print_report: bool,
}

/// What the lab saw in one run of one scenario. All times are `CLOCK_MONOTONIC` nanoseconds.
#[derive(Debug)]
pub struct Seen {
    /// Who was who.
    pub world: World,
    /// The timeline's start and end.
    pub span: (u64, u64),
    /// The first packet that a fault swallowed or held up.
    pub cut: Option<u64>,
    /// When faults were ordered.
    pub ordered: Vec<(FaultKind, u64)>,
    /// The first heal.
    pub healed: Option<u64>,
    /// The first heal, daemon-kill or daemon-stop.
    pub released: Option<u64>,
    /// The hosts whose connections the first faults hit.
    pub affected: Vec<IpAddr>,
    /// First packet of an affected connection on the other uplink after the cut, by peer.
    pub rerouted: BTreeMap<IpAddr, u64>,
    /// First byte newly acknowledged on an existing connection after the cut, by peer.
    pub progress: BTreeMap<IpAddr, u64>,
    /// Existing connections, over the whole timeline.
    pub flows: Vec<FlowSummary>,
    /// Changes of the validator's routes of the daemon's protocol.
    pub routes: Vec<RouteEvent>,
    /// Routes of that protocol left at the end, before and after the daemon's stop.
    pub left: (Vec<String>, Vec<String>),
    /// Requests at the pager.
    pub pages: Vec<Request>,
    /// The daemon's own timeline.
    pub report: Result<Vec<Line>, String>,
    /// `netwatch replay` of each incident; `None`: there was no daemon.
    pub replays: Option<Result<Vec<Replay>, String>>,
    /// How the daemon ended on SIGTERM, where it was still alive.
    pub stopped: Option<Result<(), String>>,
    /// How far the rig was to be trusted.
    pub noise: Noise,
}

/// How late the forwarder was, and how much the hypervisor took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Noise {
    /// 99th percentile of the lateness of forwarded packets in the 2 s after the cut (without one: over
    /// the whole timeline), in milliseconds.
    pub late_p99_ms: f64,
    /// Share of the CPU time that was stolen, in percent.
    pub steal_percent: f64,
    /// Packets that the rig itself lost.
    pub overflowed: u64,
    /// CPU of the forwarder's thread, in percent of a core.
    pub cpu_percent: f64,
}

impl Noise {
    /// Beyond this the rig's own error would be a good part of what is measured.
    pub const LATE_LIMIT_MS: f64 = 5.0;
    /// What is measured happens within so many nanoseconds after the cut.
    pub const WINDOW: u64 = 2_000_000_000;
    /// See [`Self::LATE_LIMIT_MS`].
    pub const STEAL_LIMIT_PERCENT: f64 = 5.0;

    /// Why the timings are not to be trusted; `None`: they are.
    #[must_use]
    pub fn complaint(&self) -> Option<String> {
        if self.late_p99_ms > Self::LATE_LIMIT_MS {
            return Some(format!(
                "the internet's packets were {:.1} ms late at p99 (limit {} ms)",
                self.late_p99_ms,
                Self::LATE_LIMIT_MS
            ));
        }
        if self.steal_percent > Self::STEAL_LIMIT_PERCENT {
            return Some(format!(
                "the hypervisor stole {:.1} % of the CPU",
                self.steal_percent
            ));
        }
        (self.overflowed > 0).then(|| format!("the rig lost {} packets itself", self.overflowed))
    }
}

const TICK: Duration = Duration::from_millis(4);

/// Runs a scenario once.
///
/// # Errors
/// The rig or the daemon could not be brought to the start of the timeline, or a signal came.
pub fn run(scenario: &Scenario, seed: u64, options: &Options) -> anyhow::Result<Seen> {
    let narrator = options.narrator;
    let step = |text: String| narrator.say(None, News::Step, &text);
    let world = World::draw(scenario, seed);
    step(format!(
        "building the lab (seed {seed}): a validator of AS211396 at {} and {}, two uplinks, {} peers in {} prefixes of {} ASes",
        world.own.0,
        world.own.1,
        world.peers().count(),
        world.prefixes.len() - 1,
        world.origins.len() - 1
    ));
    let mut rig = Rig::build(scenario, world, options.keep)?;
    for uplink in &rig.world.uplinks {
        step(format!(
            "uplink {}: gateway {} (BIRD), upstream AS{}",
            uplink.name.name(),
            uplink.gateway.0,
            uplink.upstream
        ));
    }
    let world = rig.world.clone();
    let mut workload = Workload::start(
        &rig.space,
        &world,
        &scenario.topology,
        VALIDATOR,
        crate::rig::OUTSIDE,
    )?;
    step(format!(
        "{} connections are up, a message each way every {}",
        workload.flows, scenario.topology.send_gap
    ));
    let mut daemon = None;
    let warm_up = Duration::from_nanos(scenario.daemon.warm_up.nanos());
    if let Some(binary) = &options.netwatch {
        let mut started = Daemon::start(&rig, scenario, binary)?;
        if warm_up.is_zero() {
            step("netwatch is started; the timeline begins at once".to_owned());
        } else {
            step("netwatch is started; waiting for its BGP sessions".to_owned());
            wait_for_sessions(&rig, &mut started)?;
            step(format!(
                "BGP is up; {} for baselines",
                scenario.daemon.warm_up
            ));
        }
        daemon = Some(started);
    }
    sys::sleep(warm_up)?;
    if let Some(daemon) = &mut daemon {
        daemon.check()?;
    }

    narrator.say(None, News::Step, "");
    narrator.say(
        None,
        News::Step,
        "what happens, in ms since the first packet was lost:",
    );
    let mut timeline = Timeline::new(scenario, &mut rig, &mut workload, daemon.as_mut(), narrator);
    timeline.run()?;
    let mut seen = timeline.seen(&world);
    seen.finish(&rig, &mut workload, daemon.as_mut(), options)?;
    if options.keep {
        println!("kept: {}", rig.space.directory().display());
    }
    Ok(seen)
}

fn wait_for_sessions(rig: &Rig, daemon: &mut Daemon) -> anyhow::Result<()> {
    let end = sys::now() + 25_000_000_000;
    while !rig.routers.iter().all(crate::bird::Router::established) {
        daemon.check()?;
        if sys::now() > end {
            bail!(
                "the routers' BGP sessions with the daemon were not Established within 25 s; the end of its log:\n{}",
                daemon.log_end()
            );
        }
        sys::sleep(Duration::from_millis(50))?;
    }
    Ok(())
}

struct Timeline<'a> {
    scenario: &'a Scenario,
    rig: &'a mut Rig,
    workload: &'a mut Workload,
    daemon: Option<&'a mut Daemon>,
    narrator: Narrator,
    start: u64,
    end: u64,
    cuts: Vec<Cut>,
    cut: Option<u64>,
    ordered: Vec<(FaultKind, u64)>,
    affected: Vec<usize>,
    rerouted: BTreeMap<usize, u64>,
    script: Option<Script>,
    told: Told,
    steal: (u64, u64),
    cpu: u64,
}

/// What the narrator has told already.
#[derive(Default)]
struct Told {
    pages: usize,
    routes: usize,
    rerouted: bool,
    progress: usize,
    back: bool,
}

impl<'a> Timeline<'a> {
    fn new(
        scenario: &'a Scenario,
        rig: &'a mut Rig,
        workload: &'a mut Workload,
        daemon: Option<&'a mut Daemon>,
        narrator: Narrator,
    ) -> Self {
        let start = sys::now();
        let cpu = {
            let mut state = rig.forwarder.state();
            state.lateness.clear();
            state.cpu
        };
        Self {
            script: (daemon.is_none() && scenario.expect.routes == Some(Routes::Installed))
                .then(Script::default),
            scenario,
            rig,
            workload,
            daemon,
            narrator,
            start,
            end: start + scenario.duration.nanos(),
            cuts: Vec::new(),
            cut: None,
            ordered: Vec::new(),
            affected: Vec::new(),
            rerouted: BTreeMap::new(),
            told: Told::default(),
            steal: sys::cpu_ticks(),
            cpu,
        }
    }

    fn run(&mut self) -> anyhow::Result<()> {
        let faults = self.scenario.fault.clone();
        let mut due = faults.iter().peekable();
        while sys::now() < self.end {
            while let Some(fault) = due.next_if(|fault| self.start + fault.at.nanos() <= sys::now())
            {
                self.apply(fault)?;
            }
            self.look()?;
            if let Some(failed) = &self.rig.forwarder.state().failed {
                bail!("the forwarder failed: {failed}");
            }
            let next = due
                .peek()
                .map_or(self.end, |fault| self.start + fault.at.nanos());
            let left = next.saturating_sub(sys::now());
            sys::sleep(TICK.min(Duration::from_nanos(left.max(100_000))))?;
        }
        Ok(())
    }

    fn since_cut(&self, at: u64) -> Option<i64> {
        self.cut.map(|cut| at as i64 - cut as i64)
    }

    fn apply(&mut self, fault: &Fault) -> anyhow::Result<()> {
        let at = sys::now();
        match (fault.kind, &mut self.daemon) {
            (FaultKind::DaemonKill, Some(daemon)) => daemon.signal(libc::SIGKILL),
            (FaultKind::DaemonStop, Some(daemon)) => daemon.signal(libc::SIGSTOP),
            (FaultKind::DaemonContinue, Some(daemon)) => daemon.signal(libc::SIGCONT),
            (FaultKind::ValidatorStop, _) => self.workload.signal(libc::SIGSTOP),
            (FaultKind::ValidatorContinue, _) => self.workload.signal(libc::SIGCONT),
            (FaultKind::ValidatorRestart, _) => self.workload.restart(
                &self.rig.space,
                &self.rig.world,
                &self.scenario.topology,
                VALIDATOR,
                crate::rig::OUTSIDE,
            )?,
            _ => {}
        }
        let cut = self
            .rig
            .apply(fault)
            .with_context(|| format!("the fault {:?} at {}", fault.kind, fault.at))?;
        if fault.kind == FaultKind::Heal
            && let Some(script) = &mut self.script
        {
            script.heal(self.rig)?;
        }
        self.ordered.push((fault.kind, at));
        let news = if fault.kind == FaultKind::Heal {
            News::Good
        } else {
            News::Fault
        };
        self.narrator
            .say(self.since_cut(at), news, &self.describe(fault));
        // What is measured from is the first cut; faults of the same moment belong to it.
        if let Some(cut) = cut
            && self.cut.is_none()
        {
            self.cuts.push(cut);
            for host in hit_by(&self.rig.world, fault) {
                if !self.affected.contains(&host) {
                    self.affected.push(host);
                }
            }
        }
        Ok(())
    }

    fn describe(&self, fault: &Fault) -> String {
        let world = &self.rig.world;
        let upstream = fault.upstream.map(|name| world.uplink(name));
        let asn = upstream.map_or_else(String::new, |uplink| format!("AS{}", uplink.upstream));
        let name = fault.upstream.map_or("?", UplinkName::name);
        let target = world
            .target(fault.kind, fault.target.as_deref())
            .map(|target| world.target_name(target))
            .unwrap_or_default();
        match fault.kind {
            FaultKind::EgressDark => format!(
                "upstream {asn} behind gateway {name} goes dark: it swallows what leaves through it"
            ),
            FaultKind::InboundDark => format!("upstream {asn} swallows what comes in through it"),
            FaultKind::GatewayDead => {
                format!("gateway {name} dies: it swallows everything and says nothing")
            }
            FaultKind::GatewayMute => {
                format!("gateway {name} answers ARP and neighbour discovery, and forwards nothing")
            }
            FaultKind::CarrierLost => format!("the far end of uplink {name} goes down"),
            FaultKind::OriginDead => format!("origin {target} goes dark"),
            FaultKind::PrefixDead => format!("prefix {target} goes dark"),
            FaultKind::PeerDead => format!("peer {target} goes dark"),
            FaultKind::RttSpike => format!(
                "round trips take {} more",
                fault.add.map(|a| a.to_string()).unwrap_or_default()
            ),
            FaultKind::Loss => format!(
                "{:.0} % of packets are lost",
                fault.share.unwrap_or(0.0) * 100.0
            ),
            FaultKind::BgpWithdraw => format!("gateway {name} withdraws its routes"),
            FaultKind::BgpPathChange => format!("gateway {name}'s routes take another path"),
            FaultKind::BgpOriginChange => {
                format!("gateway {name}'s routes to {target} come from another origin")
            }
            FaultKind::BulkUpload => format!("the validator fills the queue behind gateway {name}"),
            FaultKind::BgpSessionDown => format!("gateway {name} closes its BGP session"),
            FaultKind::DaemonKill => "the daemon is killed".to_owned(),
            FaultKind::DaemonStop => "the daemon is stopped (SIGSTOP)".to_owned(),
            FaultKind::DaemonContinue => "the daemon goes on (SIGCONT)".to_owned(),
            FaultKind::ValidatorStop => "the validator is stopped (SIGSTOP)".to_owned(),
            FaultKind::ValidatorContinue => "the validator goes on (SIGCONT)".to_owned(),
            FaultKind::ValidatorRestart => "the validator was restarted".to_owned(),
            FaultKind::CpuHog => "a runaway process takes all CPUs".to_owned(),
            FaultKind::PagerFault => "the pager misbehaves".to_owned(),
            FaultKind::Heal => "everything is healed".to_owned(),
        }
    }

    fn healed(&self) -> bool {
        self.ordered
            .iter()
            .any(|(kind, _)| *kind == FaultKind::Heal)
    }

    /// Looks at everything once.
    fn look(&mut self) -> anyhow::Result<()> {
        if self.cut.is_none() && !self.cuts.is_empty() {
            self.cut = self
                .cuts
                .iter()
                .filter_map(|cut| self.rig.first_hit(*cut))
                .min();
            if let Some(cut) = self.cut {
                self.workload.mark(cut)?;
                self.narrator
                    .say(Some(0), News::Fault, "the cut: the first packet is lost");
            }
        }
        let Some(cut) = self.cut else { return Ok(()) };
        if let Some(script) = &mut self.script {
            script.reroute(self.rig, cut)?;
        }
        if !self.healed() {
            let primary = UplinkName::A;
            let state = self.rig.forwarder.state();
            for host in &self.affected {
                if let Some(at) = state
                    .first_out
                    .get(&(*host, primary.other()))
                    .filter(|at| **at >= cut)
                {
                    self.rerouted.entry(*host).or_insert(*at);
                }
            }
        }
        self.tell();
        Ok(())
    }

    fn tell(&mut self) {
        let mut all_news: Vec<(u64, News, String)> = Vec::new();
        let routes = own_routes(self.rig);
        for added in [true, false] {
            let news: Vec<&RouteEvent> = routes
                .iter()
                .skip(self.told.routes)
                .filter(|event| event.added == added)
                .collect();
            let Some(first) = news.first() else { continue };
            let nets: Vec<String> = news
                .iter()
                .map(|event| event.destination.to_string())
                .collect();
            let verb = if added { "installed" } else { "removed" };
            let text = format!("{} routes {verb}: {}", nets.len(), shorten(&nets));
            all_news.push((first.at, News::Move, text));
        }
        self.told.routes = routes.len();
        if !self.told.rerouted
            && let Some((host, at)) = self.rerouted.iter().min_by_key(|(_, at)| **at)
        {
            self.told.rerouted = true;
            let text = format!(
                "the first packet takes uplink b: to {}",
                self.rig.world.hosts[*host].address
            );
            all_news.push((*at, News::Move, text));
        }
        let mut progress: Vec<u64> = self.progress().into_values().collect();
        progress.sort_unstable();
        let all = self.affected.len();
        for share in [
            all.div_ceil(10),
            all.div_ceil(2),
            (all * 9).div_ceil(10),
            all,
        ] {
            if share > self.told.progress && progress.len() >= share && share > 0 {
                self.told.progress = share;
                let text = format!("{share} of {all} existing connections progress again");
                all_news.push((progress[share - 1], News::Good, text));
            }
        }
        let pages: Vec<Request> = self
            .rig
            .pager
            .shared()
            .requests
            .iter()
            .skip(self.told.pages)
            .cloned()
            .collect();
        for page in pages {
            self.told.pages += 1;
            let action = page
                .body
                .get("event_action")
                .and_then(serde_json::Value::as_str)
                .unwrap_or("?");
            let summary = page
                .body
                .pointer("/payload/summary")
                .and_then(serde_json::Value::as_str)
                .unwrap_or_default();
            let status = page
                .status
                .map_or_else(|| "no answer".to_owned(), |s| s.to_string());
            let text = format!("the pager got a {action} ({status}): {summary}");
            all_news.push((page.at, News::Move, text));
        }
        if self.healed() && !self.told.back && self.told.rerouted {
            let state = self.rig.forwarder.state();
            let heal = self
                .ordered
                .iter()
                .find(|(kind, _)| *kind == FaultKind::Heal)
                .map_or(0, |(_, at)| *at);
            let back = self
                .affected
                .iter()
                .filter_map(|host| state.last_out.get(&(*host, UplinkName::A)))
                .filter(|at| **at > heal)
                .min()
                .copied();
            drop(state);
            if let Some(at) = back {
                self.told.back = true;
                all_news.push((at, News::Good, "packets take uplink a again".to_owned()));
            }
        }
        all_news.sort_by_key(|(at, ..)| *at);
        for (at, news, text) in all_news {
            self.narrator.say(self.since_cut(at), news, &text);
        }
    }

    /// First progress after the cut of the connections that it hit.
    fn progress(&self) -> BTreeMap<IpAddr, u64> {
        let world = &self.rig.world;
        let hit = |peer: &IpAddr| {
            self.affected
                .iter()
                .any(|host| world.hosts[*host].address == *peer)
        };
        let mut progress: BTreeMap<IpAddr, u64> = self.workload.progress().into_iter().collect();
        progress.retain(|peer, _| hit(peer));
        progress
    }

    fn seen(self, world: &World) -> Seen {
        let first = |kinds: &[FaultKind]| {
            self.ordered
                .iter()
                .find(|(kind, _)| kinds.contains(kind))
                .map(|(_, at)| *at)
        };
        let address = |host: usize| world.hosts[host].address;
        let affected: Vec<IpAddr> = self.affected.iter().map(|host| address(*host)).collect();
        let span = (self.start, sys::now());
        let state = self.rig.forwarder.state();
        // Only what passed while something was measured can distort it.
        let window = self.cut.map_or(span, |cut| (cut, cut + Noise::WINDOW));
        let mut late: Vec<u32> = state
            .lateness
            .iter()
            .filter(|(at, _)| (window.0..window.1).contains(at))
            .map(|(_, late)| *late)
            .collect();
        late.sort_unstable();
        let late_p99_ms = late
            .get((late.len() * 99 / 100).min(late.len().saturating_sub(1)))
            .map_or(0.0, |late| f64::from(*late) / 1e3);
        let ticks = sys::cpu_ticks();
        let total = ticks.0.saturating_sub(self.steal.0).max(1);
        let noise = Noise {
            late_p99_ms,
            steal_percent: ticks.1.saturating_sub(self.steal.1) as f64 * 100.0 / total as f64,
            overflowed: state.overflowed,
            cpu_percent: (state.cpu - self.cpu) as f64 * 100.0 / (span.1 - span.0).max(1) as f64,
        };
        drop(state);
        Seen {
            span,
            cut: self.cut,
            healed: first(&[FaultKind::Heal]),
            released: first(&[
                FaultKind::Heal,
                FaultKind::DaemonKill,
                FaultKind::DaemonStop,
            ]),
            rerouted: self
                .rerouted
                .iter()
                .map(|(host, at)| (address(*host), *at))
                .collect(),
            progress: self.progress(),
            affected,
            ordered: self.ordered,
            world: world.clone(),
            flows: Vec::new(),
            routes: Vec::new(),
            left: (Vec::new(), Vec::new()),
            pages: Vec::new(),
            report: Ok(Vec::new()),
            replays: None,
            stopped: None,
            noise,
        }
    }
}

impl Seen {
    /// What can be asked only afterwards.
    fn finish(
        &mut self,
        rig: &Rig,
        workload: &mut Workload,
        daemon: Option<&mut Daemon>,
        options: &Options,
    ) -> anyhow::Result<()> {
        self.flows = workload.dump(self.span.0, self.span.1)?.flows;
        self.left.0 = installed(rig)?;
        self.routes = own_routes(rig);
        self.pages = rig.pager.shared().requests.clone();
        let Some(daemon) = daemon else {
            return Ok(());
        };
        self.report = daemon
            .timeline(&rig.space)
            .map_err(|error| format!("{error:#}"));
        if options.print_report {
            println!();
            match daemon.report(&rig.space) {
                Ok(text) => println!("{}", text.trim_end()),
                Err(error) => println!("netwatch report failed: {error:#}"),
            }
            println!();
        }
        let killed = self
            .ordered
            .iter()
            .any(|(kind, _)| *kind == FaultKind::DaemonKill);
        if !killed {
            self.stopped = Some(daemon.stop().map_err(|error| format!("{error:#}")));
        }
        let replays = daemon.replays(&rig.space, !killed);
        self.replays = Some(replays.map_err(|error| format!("{error:#}")));
        self.left.1 = installed(rig)?;
        Ok(())
    }
}

/// The first few of a list.
fn shorten(items: &[String]) -> String {
    match items {
        [first, second, third, _, ..] => {
            format!("{first}, {second}, {third} and {} more", items.len() - 3)
        }
        _ => items.join(", "),
    }
}

fn own_routes(rig: &Rig) -> Vec<RouteEvent> {
    rig.monitor
        .events()
        .into_iter()
        .filter(|event| event.protocol == PROTOCOL)
        .collect()
}

/// Routes of the daemon's protocol in the validator's kernel now, in any table.
fn installed(rig: &Rig) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for family in ["-4", "-6"] {
        let text = crate::ns::run(Command::new("ip").args([
            family,
            "-n",
            &rig.space.name(VALIDATOR),
            "route",
            "show",
            "table",
            "all",
            "proto",
            &PROTOCOL.to_string(),
        ]))?;
        found.extend(text.lines().map(|line| line.trim().to_owned()));
    }
    Ok(found)
}

/// The peers whose connections a fault hits.
fn hit_by(world: &World, fault: &Fault) -> Vec<usize> {
    let target: Option<Target> = match (&fault.target, fault.kind) {
        (None, FaultKind::OriginDead | FaultKind::PrefixDead | FaultKind::PeerDead)
        | (Some(_), _) => world.target(fault.kind, fault.target.as_deref()).ok(),
        (None, _) => None,
    };
    world
        .peers()
        .map(|(index, _)| index)
        .filter(|host| target.is_none_or(|target| world.is_in(*host, target)))
        .filter(|host| {
            fault
                .family
                .is_none_or(|f| f.has(world.hosts[*host].address))
        })
        .filter(|host| match (fault.kind, fault.upstream, fault.direction) {
            (_, None, _) => true,
            (FaultKind::InboundDark, Some(name), _) | (_, Some(name), Some(Direction::In)) => {
                world.return_via(*host) == name
            }
            (_, Some(name), Some(Direction::Out)) => name == UplinkName::A,
            // Before anything is rerouted all leave through the primary.
            (_, Some(name), None) => name == UplinkName::A || world.return_via(*host) == name,
        })
        .collect()
}

/// What stands in for the daemon where the rig itself is tested: a reroute by `ip route`, a fixed
/// time after the cut.
#[derive(Default)]
struct Script {
    done: bool,
}

/// When the script acts, in nanoseconds after the cut.
pub const SCRIPT_DELAY: u64 = 150_000_000;

impl Script {
    fn reroute(&mut self, rig: &Rig, cut: u64) -> anyhow::Result<()> {
        if self.done || sys::now() < cut + SCRIPT_DELAY {
            return Ok(());
        }
        self.done = true;
        rig.space
            .ip_batch(VALIDATOR, &Self::lines(&rig.world, "add"))
    }

    fn heal(&mut self, rig: &Rig) -> anyhow::Result<()> {
        if !self.done {
            return Ok(());
        }
        rig.space
            .ip_batch(VALIDATOR, &Self::lines(&rig.world, "del"))
    }

    fn lines(world: &World, verb: &str) -> String {
        let backup = world.uplink(UplinkName::B);
        let peers_only = world
            .prefixes
            .iter()
            .filter(|p| p.origin + 1 < world.origins.len());
        peers_only
            .map(|prefix| {
                let (via, source): (IpAddr, IpAddr) = match prefix.net {
                    ipnet::IpNet::V4(_) => (backup.gateway.0.into(), world.own.0.into()),
                    ipnet::IpNet::V6(_) => (backup.gateway.1.into(), world.own.1.into()),
                };
                format!(
                    "route {verb} {} via {via} dev {} src {source} proto {PROTOCOL}\n",
                    prefix.net, backup.interface
                )
            })
            .collect()
    }
}

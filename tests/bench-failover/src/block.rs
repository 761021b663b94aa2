//! A topology that stays up and warm while it is cut again and again.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use lab::bird::Router;
use lab::daemon::{Daemon, Line, PROTOCOL, config};
use lab::rig::{Cut, OUTSIDE, Rig, VALIDATOR};
use lab::rng::Rng;
use lab::run::Noise;
use lab::scenario::Scenario;
use lab::sys;
use lab::workload::Workload;
use lab::world::World;

use crate::bfd::{self, Bfd};
use crate::cases::Case;
use crate::slow::{self, Slow};

/// Who reacts to the cuts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    /// The daemon in act mode.
    Netwatch {
        /// `failover.nudge`.
        nudge: bool,
        /// With the budget and the hold-down that are the defaults.
        cautious: bool,
        /// `failover.permit` takes [`PERMIT`].
        late: bool,
    },
    /// BIRD with BFD, by this name.
    Bird(&'static str),
}

impl Actor {
    /// netwatch as the benchmark configures it: acts upon every cut, and routes go soon after the heal.
    pub const NETWATCH: Self = Self::netwatch(false, false);
    /// The same with the nudge.
    pub const NUDGING: Self = Self::netwatch(true, false);
    /// The route comes when connections have been in retransmission timeout.
    pub const LATE: Self = Self::netwatch(false, true);
    /// The same with the nudge.
    pub const LATE_NUDGING: Self = Self::netwatch(true, true);

    const fn netwatch(nudge: bool, late: bool) -> Self {
        Self::Netwatch {
            nudge,
            cautious: false,
            late,
        }
    }

    /// What distinguishes its figures in a case's name.
    #[must_use]
    pub const fn variant(self) -> &'static str {
        match self {
            Self::Netwatch { nudge, late, .. } => match (late, nudge) {
                (false, false) => "",
                (false, true) => "/nudge",
                (true, false) => "/late_route",
                (true, true) => "/late_route/nudge",
            },
            Self::Bird(_) => "",
        }
    }

    const fn is_netwatch(self) -> bool {
        matches!(self, Self::Netwatch { .. })
    }
}

/// How a block is run.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// What is cut.
    pub case: Case,
    /// Who acts.
    pub actor: Actor,
    /// The seed of the world and of the cuts' phases.
    pub seed: u64,
    /// The daemon's binary.
    pub netwatch: &'a Path,
    /// BFD looks on, where it is of interest.
    pub watch: bool,
    /// The monitors that need seconds run, too.
    pub slow: bool,
}

/// What was seen of one cut. Times are milliseconds since the cut.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Passive evidence passed the threshold, by the daemon's own word.
    pub suspect: Option<f64>,
    /// The first verdict, likewise.
    pub verdict: Option<f64>,
    /// Its class; the last one counts.
    pub class: Option<String>,
    /// The kernel announced the first route of the actor's.
    pub route: Option<f64>,
    /// The pager had the first trigger.
    pub page: Option<f64>,
    /// A new byte was acknowledged, per connection that the cut hit; those that none was on before
    /// the heal count with the time until then.
    pub traffic: Vec<f64>,
    /// How many of these there were.
    pub stuck: usize,
    /// When each watcher saw it (those with several monitors: each of them that did), and how many
    /// looked on.
    pub watchers: BTreeMap<&'static str, (Vec<f64>, usize)>,
    /// How long the cut lasted.
    pub lasted: f64,
    /// Why the rig's own error may be a good part of these.
    pub noisy: Option<String>,
    /// What the daemon said of connections it nudged.
    pub nudged: Option<String>,
    /// Why no route was changed, where the daemon said so.
    pub refused: Option<String>,
}

/// A warm topology. Fields drop in this order: programs before the namespaces they run in.
pub struct Block {
    plan_case: Case,
    actor: Actor,
    slow: Option<Slow>,
    bfd: Option<Bfd>,
    daemon: Option<Daemon>,
    workload: Workload,
    rig: Rig,
    scenario: Scenario,
    rng: Rng,
}

const MILLI: u64 = 1_000_000;
/// How long the fleet's lock takes where the route shall be late.
pub const PERMIT: Duration = Duration::from_millis(300);
/// Baselines settle before the first cut.
const WARM_UP: Duration = Duration::from_secs(5);
/// New connections settle: some 50 messages each.
const RENEWED: Duration = Duration::from_millis(2_500);
/// After everything is as before, so much more before the next cut.
const PAUSE: Duration = Duration::from_millis(400);
const TICK: Duration = Duration::from_millis(5);
/// The longest that things may take to be as before.
const SETTLE: u64 = 25_000 * MILLI;

impl Block {
    /// Builds it and waits until it is warm.
    ///
    /// # Errors
    /// What could not be brought up.
    pub fn start(plan: &Plan<'_>) -> anyhow::Result<Self> {
        let scenario = plan.case.scenario(plan.actor.is_netwatch())?;
        let rig = Rig::build(&scenario, World::draw(&scenario, plan.seed), false)?;
        let workload = Workload::start(
            &rig.space,
            &rig.world,
            &scenario.topology,
            VALIDATOR,
            OUTSIDE,
        )?;
        let mut block = Self {
            plan_case: plan.case,
            actor: plan.actor,
            slow: None,
            bfd: None,
            daemon: None,
            workload,
            rig,
            scenario,
            rng: Rng::new(plan.seed ^ 0xc07),
        };
        match plan.actor {
            Actor::Netwatch {
                nudge,
                cautious,
                late,
            } => {
                let text = block.config(nudge, cautious, late)?;
                block.daemon = Some(Daemon::start_with(&block.rig, &text, plan.netwatch)?);
                if plan.watch {
                    block.bfd = Some(Bfd::watch(&block.rig)?);
                }
                if plan.slow {
                    block.slow = Some(Slow::start(&block.rig, plan.seed)?);
                }
            }
            Actor::Bird(name) => block.bfd = Some(Bfd::act(&block.rig, name)?),
        }
        block.settled(0).context("before the first cut")?;
        sys::sleep(WARM_UP)?;
        Ok(block)
    }

    /// The lab's configuration, with what repeated cuts need.
    fn config(&self, nudge: bool, cautious: bool, late: bool) -> anyhow::Result<String> {
        let text = config(&self.rig.world, &self.scenario, self.rig.space.directory());
        let ignored: Vec<String> = slow::anchors(&self.rig)
            .iter()
            .map(|anchor| format!("\"{anchor}/32\""))
            .collect();
        let mut failover = format!("[failover]\nnudge = {nudge}\n");
        if !cautious {
            failover.push_str(
                "actions_per_hour = 10000\nclass_interval = \"0s\"\nhold_down = \"100ms\"\nhold_down_max = \"100ms\"\n",
            );
        }
        if late {
            let permit = self.rig.space.directory().join("permit");
            let script = format!("#!/bin/sh\nexec sleep {}\n", PERMIT.as_secs_f64());
            std::fs::write(&permit, script)?;
            std::fs::set_permissions(&permit, std::fs::Permissions::from_mode(0o755))?;
            failover.push_str(&format!("permit = \"{}\"\n", permit.display()));
        }
        Ok(text.replacen("[failover]\n", &failover, 1).replacen(
            "[tcp]\n",
            &format!("[tcp]\nignore = [{}]\n", ignored.join(", ")),
            1,
        ))
    }

    /// The watchers that looked on.
    #[must_use]
    pub fn watchers(&self) -> Vec<&'static str> {
        let mut names: Vec<&'static str> = match (&self.bfd, self.actor) {
            (Some(bfd), Actor::Netwatch { .. }) => bfd.names().to_vec(),
            _ => Vec::new(),
        };
        if self.slow.is_some() {
            names.extend(slow::NAMES);
        }
        names
    }

    /// One cut: for at least `shortest` and at most `longest`, in between until all connections
    /// progressed, the page is out, and whoever watches has had its time; then heals and waits until
    /// everything is as before.
    ///
    /// # Errors
    /// The rig failed, the daemon ended, or things did not get as before.
    pub fn cut(&mut self, shortest: Duration, longest: Duration) -> anyhow::Result<Seen> {
        // Every phase of the traffic is as likely as any other.
        let period = self
            .scenario
            .topology
            .burst
            .map_or(200 * MILLI, |burst| burst.every.nanos());
        sys::sleep(Duration::from_nanos(self.rng.range(0, period)))?;
        let (ticks, requests, routes) = (
            sys::cpu_ticks(),
            self.rig.pager.shared().requests.len(),
            self.rig.monitor.events().len(),
        );
        let overflowed = {
            let mut state = self.rig.forwarder.state();
            state.lateness.clear();
            state.overflowed
        };
        // A false alarm of BIRD's may have it on the backup. Of netwatch it is known that it is not.
        let mut tries = if self.actor.is_netwatch() { 1 } else { 3 };
        let cut = loop {
            if let Some(cut) = self.first_loss()? {
                break cut;
            }
            tries -= 1;
            if tries == 0 {
                bail!("no packet was lost within 5 s of the cut");
            }
            self.rig.heal()?;
            self.settled(requests)?;
            sys::sleep(PAUSE)?;
        };
        self.workload.mark(cut)?;
        let end = cut + longest.as_nanos() as u64;
        let enough = cut + shortest.as_nanos() as u64;
        let connections = self.rig.world.peers().count();
        // Without steady traffic there is nothing to wait for on the connections.
        let expected = if self.plan_case.gap.is_some() {
            connections
        } else {
            0
        };
        loop {
            sys::sleep(TICK)?;
            let now = sys::now();
            let paged = !self.actor.is_netwatch() || self.trigger(requests, cut).is_some();
            let seen = self.slow.as_ref().is_none_or(|slow| slow.all(cut));
            let through = self.progress(cut).len() >= expected;
            if now >= end || (now >= enough && paged && seen && through) {
                break;
            }
        }
        let mut seen = Seen::default();
        let healed = sys::now();
        let ms = |at: u64| at.saturating_sub(cut) as f64 / 1e6;
        let progress = self.progress(cut);
        if expected > 0 {
            seen.traffic = progress.values().map(|at| ms(*at)).collect();
            seen.stuck = connections - seen.traffic.len();
            seen.traffic.resize(connections, ms(healed));
        }
        seen.lasted = ms(healed);
        seen.page = self.trigger(requests, cut).map(ms);
        let protocol = if self.actor.is_netwatch() {
            PROTOCOL
        } else {
            bfd::PROTOCOL
        };
        seen.route = self
            .rig
            .monitor
            .events()
            .iter()
            .skip(routes)
            .find(|event| event.added && event.protocol == protocol && event.at >= cut)
            .map(|event| ms(event.at));
        if let Some(bfd) = &self.bfd {
            for name in bfd.names() {
                let down = bfd.down(name, cut, healed).map(ms);
                seen.watchers.insert(name, (down.into_iter().collect(), 1));
            }
        }
        if let Some(slow) = &self.slow {
            for name in slow::NAMES {
                let alarms = slow.alarms(name, cut).into_iter().map(ms).collect();
                seen.watchers.insert(name, (alarms, slow::SIDE_BY_SIDE));
            }
        }
        seen.noisy = self.noise(cut, ticks, overflowed).complaint();

        self.rig.heal()?;
        self.settled(requests)
            .with_context(|| format!("after a cut of {}", self.plan_case.name))?;
        if let Some(slow) = &self.slow {
            slow.reset();
        }
        self.ask(cut, healed, &mut seen)?;
        // Their progress is measured where traffic is steady.
        if self.plan_case.gap.is_some() {
            self.renew()?;
            self.settled(requests).context("with new connections")?;
            sys::sleep(RENEWED)?;
        }
        sys::sleep(PAUSE)?;
        Ok(seen)
    }

    /// New connections. Those that went through cuts are not as they were: TCP keeps the smaller
    /// congestion window, and the wider reordering window (RFC 8985) of spurious retransmissions.
    fn renew(&mut self) -> anyhow::Result<()> {
        self.workload.restart(
            &self.rig.space,
            &self.rig.world,
            &self.scenario.topology,
            VALIDATOR,
            OUTSIDE,
        )
    }

    /// Cuts; when the first packet was lost, if one was within 5 s.
    fn first_loss(&mut self) -> anyhow::Result<Option<u64>> {
        let mut cuts: Vec<Cut> = Vec::new();
        for fault in self.scenario.fault.clone() {
            cuts.extend(self.rig.apply(&fault)?);
        }
        let end = sys::now() + 5_000 * MILLI;
        while sys::now() < end {
            let hits = cuts.iter().filter_map(|cut| self.rig.first_hit(*cut));
            if let Some(cut) = hits.min() {
                return Ok(Some(cut));
            }
            sys::sleep(TICK)?;
        }
        Ok(None)
    }

    /// What only the daemon knows.
    fn ask(&self, cut: u64, healed: u64, seen: &mut Seen) -> anyhow::Result<()> {
        let Some(daemon) = &self.daemon else {
            return Ok(());
        };
        let lines = daemon.timeline_of(&self.rig.space, 3)?;
        let within: Vec<&Line> = lines.iter().filter(|line| line.at >= cut).collect();
        let ms = |line: &&&Line| (line.at - cut) as f64 / 1e6;
        let before_heal = || within.iter().filter(|line| line.at <= healed);
        seen.suspect = before_heal()
            .find(|line| line.kind == "suspected")
            .as_ref()
            .map(ms);
        let verdicts: Vec<&&Line> = before_heal()
            .filter(|line| line.kind == "verdict" && line.verdict.as_deref() != Some("none"))
            .collect();
        seen.verdict = verdicts.first().map(ms);
        seen.class = verdicts.last().and_then(|line| line.verdict.clone());
        let text = |wanted: &dyn Fn(&Line) -> bool| {
            within
                .iter()
                .find(|line| wanted(line))
                .map(|l| l.text.clone())
        };
        seen.nudged = text(&|line| line.text.contains("RFC 6069"));
        seen.refused = text(&|line| line.kind == "refused");
        Ok(())
    }

    /// When the first trigger after `cut` was complete at the pager.
    fn trigger(&self, before: usize, cut: u64) -> Option<u64> {
        let shared = self.rig.pager.shared();
        let new = shared.requests.iter().skip(before);
        new.filter(|request| request.accepted() == Some("trigger") && request.at >= cut)
            .map(|request| request.at)
            .next()
    }

    fn progress(&self, cut: u64) -> BTreeMap<IpAddr, u64> {
        let mut first = BTreeMap::new();
        for (peer, at) in self.workload.progress() {
            if at > cut {
                first.entry(peer).or_insert(at);
            }
        }
        first
    }

    fn noise(&self, cut: u64, ticks: (u64, u64), overflowed: u64) -> Noise {
        let state = self.rig.forwarder.state();
        let mut late: Vec<u32> = state
            .lateness
            .iter()
            .filter(|(at, _)| (cut..cut + Noise::WINDOW).contains(at))
            .map(|(_, late)| *late)
            .collect();
        late.sort_unstable();
        let now = sys::cpu_ticks();
        let total = now.0.saturating_sub(ticks.0).max(1);
        Noise {
            late_p99_ms: late
                .get((late.len() * 99 / 100).min(late.len().saturating_sub(1)))
                .map_or(0.0, |late| f64::from(*late) / 1e3),
            steal_percent: now.1.saturating_sub(ticks.1) as f64 * 100.0 / total as f64,
            overflowed: state.overflowed - overflowed,
            cpu_percent: 0.0,
        }
    }

    /// Waits until everything is as before the cut: incidents resolved at the pager, no route of the
    /// daemon's, sessions up, bytes acknowledged on every connection.
    fn settled(&mut self, requests: usize) -> anyhow::Result<()> {
        let end = sys::now() + SETTLE;
        loop {
            match self.unsettled(requests)? {
                None => return Ok(()),
                Some(why) if sys::now() > end => bail!(
                    "not as before within {} s: {why}{}",
                    SETTLE / 1_000 / MILLI,
                    self.daemon
                        .as_ref()
                        .map_or_else(String::new, |daemon| format!(
                            "; the end of the daemon's log:\n{}",
                            daemon.log_end()
                        ))
                ),
                Some(_) => sys::sleep(Duration::from_millis(50))?,
            }
        }
    }

    fn unsettled(&mut self, requests: usize) -> anyhow::Result<Option<String>> {
        if let Some(daemon) = &mut self.daemon {
            daemon.check()?;
        }
        if let Some(failed) = &self.rig.forwarder.state().failed {
            bail!("the forwarder failed: {failed}");
        }
        if let Some(open) = self.open_incident(requests) {
            return Ok(Some(format!("incident {open} is open at the pager")));
        }
        if !self.routes_gone() {
            return Ok(Some("routes of the daemon's are still in".to_owned()));
        }
        if let Some(bfd) = &self.bfd
            && !bfd.up()
        {
            return Ok(Some("a BFD session is down".to_owned()));
        }
        if !self.rig.routers.iter().all(Router::established) {
            return Ok(Some("a BGP session is down".to_owned()));
        }
        let Some(gap) = self.plan_case.gap else {
            return Ok(None);
        };
        let now = sys::now();
        let since = now - 2 * gap * MILLI - 250 * MILLI;
        let flows = self.workload.dump(since, now)?.flows;
        if let Some(flow) = flows.iter().find(|flow| flow.ended.is_some()) {
            bail!(
                "the connection with {} ended: {}",
                flow.remote,
                flow.ended.as_deref().unwrap_or_default()
            );
        }
        let slow = flows
            .iter()
            .filter(|flow| flow.longest_gap >= now - since)
            .count();
        Ok((slow > 0).then(|| format!("{slow} connections do not progress")))
    }

    /// The `dedup_key` of an incident that was triggered since, and not resolved.
    fn open_incident(&self, requests: usize) -> Option<String> {
        let shared = self.rig.pager.shared();
        let mut open = BTreeMap::new();
        for request in shared.requests.iter().skip(requests) {
            if let (Some(action), Some(key)) = (request.accepted(), request.dedup_key()) {
                open.insert(key.to_owned(), action == "trigger");
            }
        }
        open.into_iter().find(|(_, open)| *open).map(|(key, _)| key)
    }

    fn routes_gone(&self) -> bool {
        let mut routes = std::collections::BTreeSet::new();
        for event in self.rig.monitor.events() {
            if event.protocol == PROTOCOL {
                if event.added {
                    routes.insert(event.destination);
                } else {
                    routes.remove(&event.destination);
                }
            }
        }
        routes.is_empty()
    }
}

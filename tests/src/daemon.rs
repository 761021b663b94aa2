//! The daemon under test: its configuration, its process, and what it tells afterwards.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::bird;
use crate::ns::Space;
use crate::rig::{ROUTING_KEY, Rig, VALIDATOR};
use crate::scenario::{Mode, Scenario};
use crate::sys;
use crate::world::{LOCAL_AS, PAGER_PORT, Role, World};

/// `[failover] protocol`: how the lab tells the daemon's routes from others.
pub const PROTOCOL: u8 = 198;

/// The daemon's configuration: all that it knows beside BGP and packets.
#[must_use]
pub fn config(world: &World, scenario: &Scenario, directory: &Path) -> String {
    let daemon = &scenario.daemon;
    let directory = directory.display();
    let mut text = String::new();
    let quoted = |items: BTreeSet<String>| {
        let items: Vec<String> = items.iter().map(|item| format!("\"{item}\"")).collect();
        format!("[{}]", items.join(", "))
    };
    let _ = write!(
        text,
        "[host]\nname = \"lab-validator\"\nstate_dir = \"{directory}/state\"\n\
         runtime_dir = \"{directory}/run\"\nlog = \"info\"\n\n[tcp]\nebpf = {}\n\n",
        daemon.ebpf
    );
    for uplink in &world.uplinks {
        let _ = write!(
            text,
            "[[egress]]\nname = \"{}\"\ninterface = \"{}\"\ngateways = [\"{}\", \"{}\"]\n\n",
            uplink.name.name(),
            uplink.interface,
            uplink.gateway.0,
            uplink.gateway.1
        );
    }
    let anchors: Vec<String> = world
        .hosts
        .iter()
        .filter(|host| host.role == Role::Anchor)
        .map(|host| {
            let origin = &world.origins[world.prefixes[host.prefix].origin];
            format!(
                "  {{ address = \"{}\", asn = {} }},\n",
                host.address, origin.asn
            )
        })
        .collect();
    let _ = write!(
        text,
        "[probe]\nenabled = {}\nflow_sources = [\"{}\", \"{}\"]\nanchors = [\n{}]\n\n",
        daemon.probes,
        world.own.0,
        world.own.1,
        anchors.concat()
    );
    if daemon.bgp {
        let _ = write!(
            text,
            "[bgp]\nlocal_as = {LOCAL_AS}\nrouter_id = \"{}\"\nlisten = [\"0.0.0.0:179\", \"[::]:179\"]\nhold_time = \"90s\"\n\n",
            world.own.0
        );
        for uplink in &world.uplinks {
            let _ = write!(
                text,
                "[[bgp.neighbor]]\naddress = \"{}\"\nasn = {}\negress = \"{}\"\n\n",
                uplink.gateway.0,
                bird::neighbor_as(uplink, scenario.topology.session),
                uplink.name.name()
            );
        }
    }
    let (mut allowed, mut protected) = (BTreeSet::new(), BTreeSet::new());
    for host in &world.hosts {
        let net = world.prefixes[host.prefix].net.to_string();
        if host.role == Role::Pager {
            protected.insert(net);
        } else {
            allowed.insert(net);
        }
    }
    let mode = match daemon.mode {
        Mode::Shadow => "shadow",
        Mode::Act => "act",
    };
    let _ = write!(
        text,
        "[failover]\nmode = \"{mode}\"\nprefixes = {}\nprotected = {}\nmax_routes = {}\nlease = \"{}\"\nprotocol = {PROTOCOL}\n\n\
         [pager]\nprovider = \"pagerduty\"\nurl = \"http://{}:{PAGER_PORT}/v2/enqueue\"\nrouting_key_file = \"{directory}/pager.key\"\n\n\
         [metrics]\nlisten = \"127.0.0.1:9464\"\n",
        quoted(allowed),
        quoted(protected),
        // Without BGP a route is a peer's.
        world.prefixes.len().max(world.hosts.len()),
        daemon.lease,
        world.pager(),
    );
    text
}

/// A running daemon. Dropping it kills it.
pub struct Daemon {
    child: Child,
    binary: PathBuf,
    config: PathBuf,
    log: PathBuf,
    stopped: bool,
}

impl Daemon {
    /// Writes the configuration and starts the daemon in the validator's namespace.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(rig: &Rig, scenario: &Scenario, binary: &Path) -> anyhow::Result<Self> {
        let text = config(&rig.world, scenario, rig.space.directory());
        Self::start_with(rig, &text, binary)
    }

    /// The same with a configuration of one's own.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_with(rig: &Rig, config: &str, binary: &Path) -> anyhow::Result<Self> {
        let directory = rig.space.directory();
        let (config_file, log) = (
            directory.join("netwatch.toml"),
            directory.join("netwatch.log"),
        );
        std::fs::create_dir_all(directory.join("state"))?;
        std::fs::create_dir_all(directory.join("run"))?;
        write_private(&directory.join("pager.key"), ROUTING_KEY)?;
        std::fs::write(&config_file, config)?;
        let out = std::fs::File::create(&log)?;
        let child = rig
            .space
            .command(VALIDATOR, binary)
            .args(["run", "--config"])
            .arg(&config_file)
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        Ok(Self {
            child,
            binary: binary.to_owned(),
            config: config_file,
            log,
            stopped: false,
        })
    }

    /// It has not ended.
    ///
    /// # Errors
    /// It has: with the end of its log.
    pub fn check(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!(
                "the daemon ended by itself ({status}); the end of its log:\n{}",
                self.log_end()
            );
        }
        Ok(())
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_end(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Sends it a signal.
    pub fn signal(&mut self, signal: libc::c_int) {
        // SAFETY: no pointers; the child is not reaped yet, so its id is still its own.
        unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
        match signal {
            libc::SIGSTOP => self.stopped = true,
            libc::SIGCONT => self.stopped = false,
            libc::SIGKILL => {
                let _ = self.child.wait();
            }
            _ => {}
        }
    }

    /// SIGTERM, and whether it ended cleanly within 8 s.
    ///
    /// # Errors
    /// How it did not.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        if self.stopped {
            self.signal(libc::SIGCONT);
        }
        self.signal(libc::SIGTERM);
        let end = sys::now() + 8_000_000_000;
        while sys::now() < end {
            if let Some(status) = self.child.try_wait()? {
                anyhow::ensure!(
                    status.success(),
                    "the daemon ended with {status} on SIGTERM"
                );
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("the daemon did not end within 8 s of SIGTERM")
    }

    /// `netwatch report` of the newest incident, as people read it.
    ///
    /// # Errors
    /// The command fails.
    pub fn report(&self, space: &Space) -> anyhow::Result<String> {
        self.ask(space, &["report"])
    }

    /// `netwatch replay` of each incident that the daemon tells of. `ended`: it was stopped, so all
    /// recordings must be complete.
    ///
    /// # Errors
    /// `netwatch report --list` fails.
    pub fn replays(&self, space: &Space, ended: bool) -> anyhow::Result<Vec<Replay>> {
        let incidents = self.json(space, &["report", "--list", "--json"])?;
        let incidents = incidents.as_array().context("the list is no list")?;
        let ids = incidents
            .iter()
            .filter_map(|incident| incident["id"].as_str());
        ids.map(|id| {
            let mut command = space.command(VALIDATOR, &self.binary);
            command
                .args(["replay", id, "--json", "--config"])
                .arg(&self.config);
            let output = command.output().context("cannot start netwatch replay")?;
            Ok(Replay::of(id, &output, ended))
        })
        .collect()
    }

    /// The daemon's own timeline of all its incidents, in order of time.
    ///
    /// # Errors
    /// `netwatch report` fails or prints something unexpected.
    pub fn timeline(&self, space: &Space) -> anyhow::Result<Vec<Line>> {
        self.timeline_of(space, usize::MAX)
    }

    /// The same of its newest incidents, so many.
    ///
    /// # Errors
    /// As above.
    pub fn timeline_of(&self, space: &Space, newest: usize) -> anyhow::Result<Vec<Line>> {
        let incidents = self.json(space, &["report", "--list", "--json"])?;
        let incidents = incidents
            .as_array()
            .context("`netwatch report --list --json` is no list")?;
        let mut found = Vec::new();
        for incident in incidents.iter().take(newest) {
            let id = incident["id"]
                .as_str()
                .context("an incident without an id")?;
            found.extend(lines(&self.json(space, &["report", id, "--json"])?)?);
        }
        found.sort_by_key(|line| line.at);
        Ok(found)
    }

    fn json(&self, space: &Space, arguments: &[&str]) -> anyhow::Result<Value> {
        let text = self.ask(space, arguments)?;
        serde_json::from_str(&text)
            .with_context(|| format!("`netwatch {}` is not JSON", arguments.join(" ")))
    }

    fn ask(&self, space: &Space, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = space.command(VALIDATOR, &self.binary);
        command.args(arguments).arg("--config").arg(&self.config);
        crate::ns::run(&mut command)
    }
}

/// A file that only its owner may read.
fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options.open(path)?.write_all(text.as_bytes())
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// What became of an incident's recording.
#[derive(Clone, Debug, PartialEq)]
pub struct Replay {
    /// Of which incident.
    pub incident: String,
    /// Effects compared.
    pub effects: u64,
    /// Inputs fed.
    pub inputs: u64,
    /// What is wrong; `None`: every effect is the recorded one, and nothing is missing.
    pub wrong: Option<String>,
}

impl Replay {
    fn of(incident: &str, output: &std::process::Output, ended: bool) -> Self {
        let json: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let error = String::from_utf8_lossy(&output.stderr);
        let equal = json["equal"] == true && output.status.code() == Some(0);
        let missing =
            json["damage"].as_array().is_none_or(|d| !d.is_empty()) || json["closed"].is_null();
        let wrong = if !equal {
            Some(format!(
                "{} {}{}",
                output.status,
                json["difference"],
                error.trim()
            ))
        } else if ended && missing {
            Some(format!(
                "incomplete: damage {}, closed {}",
                json["damage"], json["closed"]
            ))
        } else {
            None
        };
        Self {
            incident: incident.to_owned(),
            effects: json["effects_compared"].as_u64().unwrap_or(0),
            inputs: json["inputs"].as_u64().unwrap_or(0),
            wrong,
        }
    }
}

/// A line of the daemon's own timeline.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Monotonic time in nanoseconds: the same clock as the lab's.
    pub at: u64,
    /// `EntryKind`'s tag.
    pub kind: String,
    /// The class of the verdict, where there is one.
    pub verdict: Option<String>,
    /// The line.
    pub text: String,
    /// What it rests on.
    pub evidence: Vec<String>,
}

/// The lines of one incident's report.
fn lines(report: &Value) -> anyhow::Result<Vec<Line>> {
    let entries = report["entries"]
        .as_array()
        .context("a report without entries")?;
    entries
        .iter()
        .map(|entry| {
            let wall = entry["wall"].as_str().context("an entry without a time")?;
            let wall: jiff::Timestamp = wall
                .parse()
                .with_context(|| format!("not a time: {wall}"))?;
            let wall = u64::try_from(wall.as_nanosecond()).context("a time before 1970")?;
            let kind = &entry["kind"];
            Ok(Line {
                at: wall.saturating_sub(sys::wall_offset()),
                kind: kind["type"]
                    .as_str()
                    .context("an entry without a kind")?
                    .to_owned(),
                verdict: kind
                    .pointer("/verdict/verdict")
                    .and_then(Value::as_str)
                    .map(str::to_owned),
                text: entry["text"].as_str().unwrap_or_default().to_owned(),
                evidence: entry["evidence"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(|evidence| Some(evidence["text"].as_str()?.to_owned()))
                    .collect(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_report_on_the_labs_clock() {
        let report = serde_json::json!({"entries": [{
            "wall": jiff::Timestamp::now().to_string(),
            "kind": {"type": "verdict", "verdict": {"verdict": "gateway", "egress": "a"}},
            "text": "gateway of a is dead",
        }]});
        let found = lines(&report).expect("lines");
        assert_eq!(found[0].verdict.as_deref(), Some("gateway"));
        assert!(found[0].at.abs_diff(sys::now()) < 1_000_000_000);
        assert!(lines(&serde_json::json!({"entries": [{"wall": "yesterday"}]})).is_err());
    }
}

//! BFD by BIRD and by FRR, between the validator's side and gateway `a`, over the same link.
//!
//! As watchers, which change nothing, they run in namespaces of their own behind VLANs of the link:
//! BIRD at both intervals and FRR see the same cuts, and nobody is in another's way. As the actor,
//! BIRD runs beside the validator and holds its default routes, guarded by BFD.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use lab::ns::{Space, run};
use lab::rig::{Rig, VALIDATOR};
use lab::sys;

/// BIRD's BFD with 300 ms × 3.
pub const BIRD_300: &str = "BIRD BFD 300 ms x 3";
/// BIRD's BFD with 50 ms × 3.
pub const BIRD_50: &str = "BIRD BFD 50 ms x 3";
/// FRR's BFD with its default, 300 ms × 3.
pub const FRR: &str = "FRR BFD 300 ms x 3";

/// `rtm_protocol` of BIRD's routes.
pub const PROTOCOL: u8 = 12;

const GATEWAY: &str = "a";
const CUSTOMER_DEVICE: &str = "cust0";
const LINK: &str = "wan0";
const BIRD_ROLE: &str = "o";
const FRR_ROLE: &str = "f";

/// A session went up or down.
#[derive(Clone, Copy, Debug)]
struct Event {
    at: u64,
    name: &'static str,
    up: bool,
}

type Events = Arc<Mutex<Vec<Event>>>;

/// Running programs and what their logs said.
pub struct Bfd {
    children: Vec<Child>,
    events: Events,
    names: Vec<&'static str>,
    _space: Option<Space>,
}

impl Drop for Bfd {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// One session: VLAN 0 is the link itself.
struct Session {
    name: &'static str,
    vlan: u8,
    interval: u32,
}

impl Bfd {
    /// Starts the watchers. FRR only where it is installed.
    ///
    /// # Errors
    /// A program cannot be started, or its sessions do not come up within 20 s.
    pub fn watch(rig: &Rig) -> anyhow::Result<Self> {
        let space = Space::new(&[BIRD_ROLE, FRR_ROLE], false)?;
        let mut sessions = vec![
            Session {
                name: BIRD_300,
                vlan: 11,
                interval: 300,
            },
            Session {
                name: BIRD_50,
                vlan: 12,
                interval: 50,
            },
        ];
        if Path::new("/usr/lib/frr/bfdd").exists() {
            sessions.push(Session {
                name: FRR,
                vlan: 13,
                interval: 300,
            });
        }
        for session in &sessions {
            let role = if session.name == FRR {
                FRR_ROLE
            } else {
                BIRD_ROLE
            };
            vlan(rig, &space, role, session.vlan)?;
        }
        let mut bfd = Self {
            children: Vec::new(),
            events: Events::default(),
            names: sessions.iter().map(|session| session.name).collect(),
            _space: None,
        };
        let near: Vec<&Session> = sessions.iter().filter(|s| s.name != FRR).collect();
        bfd.bird(&space, BIRD_ROLE, &config(&near, LINK, [2, 1], ""), true)?;
        let all: Vec<&Session> = sessions.iter().collect();
        bfd.bird(
            &rig.space,
            GATEWAY,
            &config(&all, CUSTOMER_DEVICE, [1, 2], ""),
            false,
        )?;
        if bfd.names.contains(&FRR) {
            bfd.frr(&space)?;
        }
        bfd._space = Some(space);
        bfd.wait()?;
        Ok(bfd)
    }

    /// BIRD takes the validator's default routes over, and gives up those by `a` when BFD says so.
    ///
    /// # Errors
    /// It cannot be started, or its sessions do not come up within 20 s.
    pub fn act(rig: &Rig, name: &'static str) -> anyhow::Result<Self> {
        let interval = if name == BIRD_50 { 50 } else { 300 };
        let [a, b] = &rig.world.uplinks;
        let own = rig.world.own;
        let far = interface_of(CUSTOMER_DEVICE, interval)
            + &format!("neighbor {};\nneighbor {};\n}}\n", a.link.0, a.link.1);
        let near = format!(
            "{}neighbor {};\nneighbor {};\n}}\n\
             protocol kernel {{ ipv4 {{ import none; export filter {{ krt_prefsrc = {}; accept; }}; }}; }}\n\
             protocol kernel {{ ipv6 {{ import none; export filter {{ krt_prefsrc = {}; accept; }}; }}; }}\n\
             protocol static {{ ipv4 {{ preference 200; }}; route 0.0.0.0/0 via {} bfd; }}\n\
             protocol static {{ ipv6 {{ preference 200; }}; route ::/0 via {} bfd; }}\n\
             protocol static {{ ipv4 {{ preference 100; }}; route 0.0.0.0/0 via {}; }}\n\
             protocol static {{ ipv6 {{ preference 100; }}; route ::/0 via {}; }}\n",
            interface_of(LINK, interval),
            a.gateway.0,
            a.gateway.1,
            own.0,
            own.1,
            a.gateway.0,
            a.gateway.1,
            b.gateway.0,
            b.gateway.1,
        );
        let mut bfd = Self {
            children: Vec::new(),
            events: Events::default(),
            names: vec![name],
            _space: None,
        };
        bfd.bird(&rig.space, GATEWAY, &(HEAD.to_owned() + &far), false)?;
        bfd.bird(&rig.space, VALIDATOR, &(HEAD.to_owned() + &near), true)?;
        bfd.wait()?;
        // The lab's own routes would stand in BIRD's way when it gives its up.
        rig.space.ip_batch(
            VALIDATOR,
            "route del 0.0.0.0/0 metric 100\nroute del ::/0 metric 100\n",
        )?;
        Ok(bfd)
    }

    /// The peers whose sessions these are.
    #[must_use]
    pub fn names(&self) -> &[&'static str] {
        &self.names
    }

    /// All sessions are up.
    #[must_use]
    pub fn up(&self) -> bool {
        let events = self.events();
        self.names.iter().all(|name| {
            let last = events.iter().rfind(|event| event.name == *name);
            last.is_some_and(|event| event.up)
        })
    }

    /// When a session first went down after `cut` and not after `until`.
    #[must_use]
    pub fn down(&self, name: &str, cut: u64, until: u64) -> Option<u64> {
        self.events()
            .iter()
            .find(|event| event.name == name && !event.up && (cut..=until).contains(&event.at))
            .map(|event| event.at)
    }

    fn events(&self) -> Vec<Event> {
        self.events
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn wait(&mut self) -> anyhow::Result<()> {
        let end = sys::now() + 20_000_000_000;
        while !self.up() {
            for child in &mut self.children {
                if let Some(status) = child.try_wait()? {
                    bail!("a BFD daemon ended at once: {status}");
                }
            }
            if sys::now() > end {
                bail!(
                    "the BFD sessions of {} did not come up within 20 s",
                    self.names.join(", ")
                );
            }
            sys::sleep(Duration::from_millis(50))?;
        }
        Ok(())
    }

    fn bird(&mut self, space: &Space, role: &str, config: &str, heard: bool) -> anyhow::Result<()> {
        let file = |extension: &str| space.directory().join(format!("bfd-{role}.{extension}"));
        std::fs::write(file("conf"), config)?;
        let mut command = space.command(role, Path::new("bird"));
        command
            .args(["-f", "-c"])
            .arg(file("conf"))
            .arg("-s")
            .arg(file("ctl"))
            .arg("-P")
            .arg(file("pid"));
        self.spawn(command, heard.then_some(bird_event as Reader))
    }

    fn frr(&mut self, space: &Space) -> anyhow::Result<()> {
        let directory = space.directory();
        std::fs::write(
            directory.join("zebra.conf"),
            "hostname lab\nlog stdout errors\n",
        )?;
        std::fs::write(
            directory.join("bfdd.conf"),
            format!(
                "hostname lab\nlog stdout debugging\ndebug bfd peer\nbfd\n peer 10.255.13.1 interface {LINK}.13\n  no shutdown\n exit\nexit\n"
            ),
        )?;
        run(Command::new("chown").args(["-R", "frr:frr"]).arg(directory))?;
        for (program, extra) in [("zebra", None), ("bfdd", Some("--bfdctl"))] {
            let mut command =
                space.command(FRR_ROLE, Path::new("/usr/lib/frr").join(program).as_path());
            command
                .arg("-f")
                .arg(directory.join(format!("{program}.conf")))
                .arg("-i")
                .arg(directory.join(format!("{program}.pid")))
                .arg("--vty_socket")
                .arg(directory)
                .arg("-z")
                .arg(directory.join("zserv.api"))
                .args(["-A", "127.0.0.1", "-P", "0"]);
            if let Some(extra) = extra {
                command.arg(extra).arg(directory.join("bfdd.sock"));
            }
            self.spawn(command, extra.map(|_| frr_event as Reader))?;
            sys::sleep(Duration::from_millis(300))?;
        }
        Ok(())
    }

    /// Starts a program and notes what its log says as it says it, on either output.
    fn spawn(&mut self, mut command: Command, reader: Option<Reader>) -> anyhow::Result<()> {
        let piped = || reader.map_or_else(Stdio::null, |_| Stdio::piped());
        let mut child = command
            .stdin(Stdio::null())
            .stdout(piped())
            .stderr(piped())
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let outputs: [Option<Box<dyn std::io::Read + Send>>; 2] = [
            child.stdout.take().map(|out| Box::new(out) as _),
            child.stderr.take().map(|out| Box::new(out) as _),
        ];
        self.children.push(child);
        let Some(reader) = reader else { return Ok(()) };
        let only = self.names.first().copied().unwrap_or_default();
        for output in outputs.into_iter().flatten() {
            let events = self.events.clone();
            // Ends with the program.
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    let at = sys::now();
                    if let Some((name, up)) = reader(&line, only) {
                        events
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(Event { at, name, up });
                    }
                }
            });
        }
        Ok(())
    }
}

type Reader = fn(&str, &'static str) -> Option<(&'static str, bool)>;

/// `bfd1: Session to 10.255.11.1 changed state from Up to Down`
fn bird_event(line: &str, only: &'static str) -> Option<(&'static str, bool)> {
    let (_, rest) = line.split_once("Session to ")?;
    let (address, change) = rest.split_once(" changed state from ")?;
    let name = match address {
        "10.255.11.1" => BIRD_300,
        "10.255.12.1" => BIRD_50,
        _ => only,
    };
    let (from, to) = change.trim().split_once(" to ")?;
    match (from, to) {
        (_, "Up") => Some((name, true)),
        ("Up", _) => Some((name, false)),
        _ => None,
    }
}

/// `... state-change: [...] up -> down reason:control-expired`
fn frr_event(line: &str, _: &'static str) -> Option<(&'static str, bool)> {
    let (_, change) = line.split_once("state-change:")?;
    if change.contains("-> up") {
        Some((FRR, true))
    } else if change.contains("up ->") {
        Some((FRR, false))
    } else {
        None
    }
}

const HEAD: &str = "log stderr all;\nrouter id 10.255.255.1;\nprotocol device { }\n";

/// The beginning of a `protocol bfd` for one interface.
fn interface_of(interface: &str, interval: u32) -> String {
    format!(
        "protocol bfd {{\ndebug {{ states, events }};\ninterface \"{interface}\" {{ interval {interval} ms; multiplier 3; }};\n"
    )
}

/// Sessions over VLANs of `device`; the last octets are ours and the other's.
fn config(sessions: &[&Session], device: &str, [_own, other]: [u8; 2], extra: &str) -> String {
    let mut text = format!("{HEAD}protocol bfd {{\ndebug {{ states, events }};\n");
    for session in sessions {
        let _ = write!(
            text,
            "interface \"{device}.{vlan}\" {{ interval {} ms; multiplier 3; }};\nneighbor 10.255.{vlan}.{other} dev \"{device}.{vlan}\";\n",
            session.interval,
            vlan = session.vlan,
        );
    }
    text.push_str("}\n");
    text.push_str(extra);
    text
}

/// A VLAN between a namespace of the watchers and gateway `a`, over the validator's link.
fn vlan(rig: &Rig, space: &Space, role: &str, id: u8) -> anyhow::Result<()> {
    rig.space.ip_batch(
        VALIDATOR,
        &format!(
            "link add link {LINK} name {LINK}.{id} type vlan id {id}\nlink set {LINK}.{id} netns {}\n",
            space.name(role)
        ),
    )?;
    space.ip_batch(
        role,
        &format!("address add 10.255.{id}.2/24 dev {LINK}.{id}\nlink set {LINK}.{id} up\n"),
    )?;
    rig.space.ip_batch(
        GATEWAY,
        &format!(
            "link add link {CUSTOMER_DEVICE} name {CUSTOMER_DEVICE}.{id} type vlan id {id}\n\
             address add 10.255.{id}.1/24 dev {CUSTOMER_DEVICE}.{id}\nlink set {CUSTOMER_DEVICE}.{id} up\n"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_read() {
        let bird = |line| bird_event(line, "x");
        assert_eq!(
            bird("bfd1: Session to 10.255.11.1 changed state from Up to Down"),
            Some((BIRD_300, false))
        );
        assert_eq!(
            bird("bfd1: Session to 10.255.12.1 changed state from Init to Up"),
            Some((BIRD_50, true))
        );
        assert_eq!(
            bird("bfd1: Session to fd00::1 changed state from Down to Init"),
            None
        );
        assert_eq!(
            bird("bfd1: Session to fd00::1 changed state from Up to AdminDown"),
            Some(("x", false))
        );
        let line = "2026/01/01 BFD: [X] state-change: [mhop:no peer:10.255.13.1 ifname:w] up -> down reason:control-expired";
        assert_eq!(frr_event(line, "x"), Some((FRR, false)));
        assert_eq!(
            frr_event(&line.replace("up -> down", "init -> up"), "x"),
            Some((FRR, true))
        );
    }
}

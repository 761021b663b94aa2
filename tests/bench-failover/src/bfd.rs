//! BFD by BIRD and by FRR, between the validator's side and gateway `a`, over the same link.
//!
//! As watchers, which change nothing, each runs in a namespace of its own, on a macvlan of the link:
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

/// A session of a watcher.
struct Session {
    name: &'static str,
    /// Its namespace, and the macvlan in it.
    role: &'static str,
    /// The third octet of its network.
    net: u8,
    interval: u32,
}

const SESSIONS: [Session; 3] = [
    Session {
        name: BIRD_300,
        role: "o",
        net: 11,
        interval: 300,
    },
    Session {
        name: BIRD_50,
        role: "p",
        net: 12,
        interval: 50,
    },
    Session {
        name: FRR,
        role: "f",
        net: 13,
        interval: 300,
    },
];

impl Bfd {
    /// Starts the watchers. FRR only where it is installed.
    ///
    /// # Errors
    /// A program cannot be started, or its sessions do not come up within 20 s.
    pub fn watch(rig: &Rig) -> anyhow::Result<Self> {
        let space = Space::new(&SESSIONS.each_ref().map(|session| session.role), false)?;
        let frr = Path::new("/usr/lib/frr/bfdd").exists();
        let sessions = || SESSIONS.iter().filter(|session| frr || session.name != FRR);
        let mut bfd = Self {
            children: Vec::new(),
            events: Events::default(),
            names: sessions().map(|session| session.name).collect(),
            _space: None,
        };
        // The slower end decides, so one fast interval at the gateway serves all.
        let mut far = HEAD.to_owned() + &interface_of(CUSTOMER_DEVICE, 50);
        for session in sessions() {
            attach(rig, &space, session)?;
            let _ = writeln!(
                far,
                "neighbor 10.255.{}.2 dev \"{CUSTOMER_DEVICE}\";",
                session.net
            );
        }
        bfd.bird(&rig.space, GATEWAY, &(far + "}\n"), None)?;
        for session in sessions() {
            if session.name == FRR {
                bfd.frr(&space, session)?;
                continue;
            }
            let near = format!(
                "{HEAD}{}neighbor 10.255.{}.1 dev \"{}\";\n}}\n",
                interface_of(session.role, session.interval),
                session.net,
                session.role
            );
            bfd.bird(&space, session.role, &near, Some(session.name))?;
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
        bfd.bird(&rig.space, GATEWAY, &(HEAD.to_owned() + &far), None)?;
        bfd.bird(
            &rig.space,
            VALIDATOR,
            &(HEAD.to_owned() + &near),
            Some(name),
        )?;
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

    fn bird(
        &mut self,
        space: &Space,
        role: &str,
        config: &str,
        heard: Option<&'static str>,
    ) -> anyhow::Result<()> {
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
        self.spawn(command, heard.map(|name| (bird_event as Reader, name)))
    }

    fn frr(&mut self, space: &Space, session: &Session) -> anyhow::Result<()> {
        let directory = space.directory();
        std::fs::write(
            directory.join("zebra.conf"),
            "hostname lab\nlog stdout errors\n",
        )?;
        std::fs::write(
            directory.join("bfdd.conf"),
            format!(
                "hostname lab\nlog stdout debugging\ndebug bfd peer\nbfd\n peer 10.255.13.1 interface {}\n  no shutdown\n exit\nexit\n",
                session.role
            ),
        )?;
        run(Command::new("chown").args(["-R", "frr:frr"]).arg(directory))?;
        for (program, extra) in [("zebra", None), ("bfdd", Some("--bfdctl"))] {
            let mut command = space.command(
                session.role,
                Path::new("/usr/lib/frr").join(program).as_path(),
            );
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
            self.spawn(command, extra.map(|_| (frr_event as Reader, FRR)))?;
            sys::sleep(Duration::from_millis(300))?;
        }
        Ok(())
    }

    /// Starts a program and notes what its log says as it says it, on either output.
    fn spawn(
        &mut self,
        mut command: Command,
        reader: Option<(Reader, &'static str)>,
    ) -> anyhow::Result<()> {
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
        let Some((reader, name)) = reader else {
            return Ok(());
        };
        for output in outputs.into_iter().flatten() {
            let events = self.events.clone();
            // Ends with the program.
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    let at = sys::now();
                    if let Some(up) = reader(&line) {
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

/// Whether a line says that the session is up, or no longer.
type Reader = fn(&str) -> Option<bool>;

/// `bfd1: Session to 10.255.11.1 changed state from Up to Down`
fn bird_event(line: &str) -> Option<bool> {
    let (_, rest) = line.split_once("Session to ")?;
    let (_, change) = rest.split_once(" changed state from ")?;
    match change.trim().split_once(" to ")? {
        (_, "Up") => Some(true),
        ("Up", _) => Some(false),
        _ => None,
    }
}

/// `... state-change: [...] up -> down reason:control-expired`
fn frr_event(line: &str) -> Option<bool> {
    let (_, change) = line.split_once("state-change:")?;
    if change.contains("-> up") {
        Some(true)
    } else {
        change.contains("up ->").then_some(false)
    }
}

const HEAD: &str = "log stderr all;\nrouter id 10.255.255.1;\nprotocol device { }\n";

/// The beginning of a `protocol bfd` for one interface.
fn interface_of(interface: &str, interval: u32) -> String {
    format!(
        "protocol bfd {{\ndebug {{ states, events }};\ninterface \"{interface}\" {{ interval {interval} ms; multiplier 3; }};\n"
    )
}

/// A macvlan of the validator's link in a watcher's namespace, and an address at the gateway.
fn attach(rig: &Rig, space: &Space, session: &Session) -> anyhow::Result<()> {
    let Session { role, net, .. } = session;
    rig.space.ip_batch(
        VALIDATOR,
        &format!(
            "link add link {LINK} name {role} netns {} type macvlan mode private\n",
            space.name(role)
        ),
    )?;
    space.ip_batch(
        role,
        &format!("address add 10.255.{net}.2/24 dev {role}\nlink set {role} up\n"),
    )?;
    rig.space.ip_batch(
        GATEWAY,
        &format!("address add 10.255.{net}.1/24 dev {CUSTOMER_DEVICE}\n"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_read() {
        let bird = |change: &str| {
            bird_event(&format!(
                "bfd1: Session to fd00::1 changed state from {change}"
            ))
        };
        assert_eq!(bird("Up to Down"), Some(false));
        assert_eq!(bird("Init to Up"), Some(true));
        assert_eq!(bird("Down to Init"), None);
        assert_eq!(bird("Up to AdminDown"), Some(false));
        let line = "2026/01/01 BFD: [X] state-change: [mhop:no peer:10.255.13.1 ifname:w] up -> down reason:control-expired";
        assert_eq!(frr_event(line), Some(false));
        assert_eq!(
            frr_event(&line.replace("up -> down", "init -> up")),
            Some(true)
        );
        assert_eq!(frr_event("BFD: something else"), None);
    }
}

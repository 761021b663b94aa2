//! A daemon, a router, and what the one says of the other.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::common::{Daemon, Host, eventually};
use crate::speakers::{Make, Options, Plan};

pub const LOCAL_AS: u32 = 211_396;
pub const ROUTER_AS: u32 = 64500;
/// What every router announces.
pub const PREFIXES: [&str; 2] = ["203.0.113.0/24", "198.18.0.0/24"];
pub const PREFIX6: &str = "2001:db8:100::/48";

pub struct Lab {
    pub host: Host,
    pub router: Router,
    daemon: Daemon,
}

/// The running router.
pub struct Router {
    pub plan: Plan,
    child: Option<Child>,
    /// Once or more.
    started: bool,
    net: crate::common::Net,
}

impl Lab {
    /// `neighbor`: lines for the neighbour in the daemon's configuration, `bgp`: for `[bgp]`.
    pub fn new(make: Make, options: Options, bgp: &str, neighbor: &str) -> Self {
        let table = format!(
            "[[bgp.neighbor]]\naddress = \"{}\"\nasn = {ROUTER_AS}\negress = \"a\"\n{neighbor}",
            options.address()
        );
        Self::with_neighbors(make, options, bgp, &table)
    }

    pub fn with_neighbors(make: Make, options: Options, bgp: &str, tables: &str) -> Self {
        let host = Host::new();
        if options.link_local {
            host.net.ip("addr add fe80::2/64 dev wan0 nodad");
        }
        let mut text = String::from(
            "[tcp]\nebpf = false\n[probe]\nenabled = false\n[[egress]]\nname = \"a\"\ninterface = \"wan0\"\n",
        );
        let hold = if bgp.contains("hold_time") {
            ""
        } else {
            "hold_time = \"9s\"\n"
        };
        let _ = write!(
            text,
            "[bgp]\nlocal_as = {LOCAL_AS}\nrouter_id = \"192.0.2.2\"\nconnect_retry = \"1s\"\n{hold}{bgp}\n{tables}\n"
        );
        let text = text.replace("DIRECTORY", &host.directory.path().display().to_string());
        key(&host, "key", "interop-key");
        key(&host, "other-key", "another-key");
        let config = host.write("netwatch.toml", &text);
        let socket = host.run_dir().join("netwatch/netwatch.sock");
        let daemon = host.daemon(&["run", "--config", &config], &socket);
        let plan = make.plan(&options, &host.directory.path().join("router"));
        let mut router = Router {
            plan,
            child: None,
            started: false,
            net: host.router.handle(),
        };
        router.start();
        Self {
            host,
            router,
            daemon,
        }
    }

    pub fn ask(&self, arguments: &[&str]) -> Value {
        self.host.netwatch(arguments).json()
    }

    /// What `netwatch bgp neighbors --json` says of the first neighbour; `None`: there is none.
    pub fn neighbor(&self) -> Option<Value> {
        let reply = self.ask(&["bgp", "neighbors", "--json"]);
        let first = reply.get("neighbors")?.get(0)?;
        Some(first.clone())
    }

    /// Waits until the neighbour is as wanted.
    #[track_caller]
    pub fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = None;
        let wait = std::panic::AssertUnwindSafe(|| {
            eventually(what, || {
                last = self.neighbor();
                last.clone().filter(&wanted)
            })
        });
        match std::panic::catch_unwind(wait) {
            Ok(found) => found,
            Err(_) => panic!(
                "in vain: {what}; it is {:#}\nthe router's log:\n{}\nthe daemon's log:\n{}",
                self.neighbor().unwrap_or_default(),
                self.router.log(),
                self.daemon.log()
            ),
        }
    }

    /// Waits for the session and the whole table.
    #[track_caller]
    pub fn established(&self) -> Value {
        self.until("a session with its table", |neighbor| {
            neighbor["state"] == "Established"
                && neighbor["ipv4_routes"] == PREFIXES.len()
                && neighbor["ipv6_routes"] == 1
        })
    }

    /// Identifiers of the paths to a prefix.
    pub fn paths(&self, prefix: &str) -> Vec<u64> {
        let reply = self.ask(&["bgp", "rib", prefix, "--json"]);
        let routes = reply["routes"].as_array().into_iter().flatten();
        routes
            .filter_map(|route| route["path_id"].as_u64())
            .collect()
    }

    /// The AS path and staleness of a prefix's route; `None`: there is none.
    pub fn route(&self, prefix: &str) -> Option<(Vec<u64>, bool)> {
        let done = self.host.netwatch(&["bgp", "rib", prefix, "--json"]);
        let reply: Value = serde_json::from_str(&done.stdout).ok()?;
        let routes = reply["routes"].as_array()?;
        let route = routes.iter().find(|r| r["route"]["prefix"] == prefix)?;
        let path = route["route"]["as_path"].as_array()?;
        let path = path.iter().filter_map(Value::as_u64).collect();
        Some((path, route["stale"] == true))
    }

    #[track_caller]
    pub fn until_route(&self, prefix: &str, wanted: impl Fn(Option<&(Vec<u64>, bool)>) -> bool) {
        eventually(&format!("route {prefix} as wanted"), || {
            wanted(self.route(prefix).as_ref()).then_some(())
        });
    }
}

/// The neighbour's `session`, a number of it.
pub fn number(neighbor: &Value, name: &str) -> u64 {
    neighbor["session"][name].as_u64().unwrap_or(u64::MAX)
}

/// Whether the neighbour offers a capability.
pub fn offers(neighbor: &Value, capability: &str) -> bool {
    texts(neighbor).any(|text| text.contains(capability))
}

/// Whether it wants routes kept while it restarts.
pub fn wants_routes_kept(neighbor: &Value) -> bool {
    texts(neighbor).any(|text| text.starts_with("graceful restart") && text.contains("unicast"))
}

fn texts(neighbor: &Value) -> impl Iterator<Item = &str> {
    let texts = neighbor["session"]["peer_capabilities"].as_array();
    texts.into_iter().flatten().filter_map(Value::as_str)
}

fn key(host: &Host, name: &str, content: &str) {
    use std::os::unix::fs::PermissionsExt;
    let path = host.write(name, content);
    let permissions = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path, permissions).expect("mode");
}

impl Router {
    pub fn start(&mut self) {
        let plan = &self.plan;
        plan.prepare();
        if !self.started {
            for arguments in &plan.network {
                self.net.ip(arguments);
            }
        }
        let log = std::fs::File::create(self.log_file()).expect("log");
        let mut command = Command::new(&plan.command[0]);
        command
            .args(&plan.command[1..])
            .args(if self.started { &plan.again[..] } else { &[] })
            .envs(plan.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("clone"))
            .stderr(log);
        let child = self.net.inside(move || command.spawn());
        self.child = Some(child.expect("the router starts"));
        self.started = true;
        for command in &self.plan.after {
            eventually(&format!("{command:?}"), || {
                self.succeeds(command).then_some(())
            });
        }
    }

    fn succeeds(&self, command: &[String]) -> bool {
        let mut command = {
            let mut with = Command::new(&command[0]);
            with.args(&command[1..]);
            with
        };
        let output = self.net.inside(move || command.output());
        output.is_ok_and(|output| output.status.success())
    }

    fn log_file(&self) -> PathBuf {
        self.plan.directory.join("log")
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    /// The router's processes: its own, and those that it started.
    fn processes(&self) -> Vec<Pid> {
        let Some(child) = &self.child else {
            return Vec::new();
        };
        let first = i32::try_from(child.id()).expect("pid");
        let mut found = vec![first];
        let mut at = 0;
        while let Some(parent) = found.get(at).copied() {
            let path = format!("/proc/{parent}/task/{parent}/children");
            let text = std::fs::read_to_string(path).unwrap_or_default();
            found.extend(
                text.split_whitespace()
                    .filter_map(|pid| pid.parse::<i32>().ok()),
            );
            at += 1;
        }
        found.into_iter().map(Pid::from_raw).collect()
    }

    pub fn signal(&self, signal: Signal) {
        for pid in self.processes() {
            let _ = kill(pid, signal);
        }
    }

    /// SIGKILL: no NOTIFICATION is sent.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }

    /// Runs a command of the router's own, in its namespace.
    #[track_caller]
    pub fn control(&self, command: &[String]) -> String {
        let (program, arguments) = command.split_first().expect("a command");
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.net.run(program, &arguments)
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.kill();
    }
}

//! Those who receive: netwatch and its peers, each asked over its own control socket.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use lab::ns::Space;
use serde_json::Value;

/// The receivers' namespace and the sender's.
pub const HOST: &str = "host";
pub const ROUTER: &str = "router";
pub const HOST_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub const ROUTER_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const HOST_AS: u32 = 64999;
const CLOCK_TICKS: f64 = 100.0;

/// Where to connect to.
pub fn address() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(HOST_ADDRESS), 179)
}

/// Two namespaces and a link.
pub fn world() -> anyhow::Result<Space> {
    lab::ns::sweep();
    let space = Space::new(&[HOST, ROUTER], false)?;
    space.ip_batch(
        HOST,
        &format!(
            "link add wan type veth peer name host netns {}\naddress add {HOST_ADDRESS}/24 dev wan\naddress add 2001:db8::c000:202/64 dev wan nodad\nlink set wan up\n",
            space.name(ROUTER)
        ),
    )?;
    space.ip_batch(
        ROUTER,
        &format!("address add {ROUTER_ADDRESS}/24 dev host\naddress add 2001:db8::c000:201/64 dev host nodad\nlink set host up\n"),
    )?;
    Ok(space)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Netwatch,
    Bird,
    Gobgp,
    Frr,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Netwatch, Self::Bird, Self::Frr, Self::Gobgp];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Netwatch => "netwatch",
            Self::Bird => "bird",
            Self::Gobgp => "gobgp",
            Self::Frr => "frr",
        }
    }
}

/// A running receiver; dropping it kills it.
pub struct Receiver {
    kind: Kind,
    child: Child,
    directory: PathBuf,
    space_name: String,
}

impl Receiver {
    /// Starts it with a neighbour of this AS, and the hold time that it proposes.
    pub fn start(
        space: &Space,
        kind: Kind,
        netwatch: &Path,
        asn: u32,
        hold: u16,
        run: usize,
    ) -> anyhow::Result<Self> {
        let directory = space.directory().join(format!("{}-{run}", kind.name()));
        std::fs::create_dir_all(directory.join("state"))?;
        let file = directory.join("config");
        let (program, config, arguments) = recipe(kind, netwatch, &directory, asn, hold);
        std::fs::write(&file, config)?;
        let log = std::fs::File::create(directory.join("log"))?;
        let mut command = space.command(HOST, &program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command.spawn()?;
        let mut receiver = Self {
            kind,
            child,
            directory,
            space_name: space.name(HOST),
        };
        for _ in 0..300 {
            if let Some(status) = receiver.child.try_wait()? {
                bail!(
                    "{} ended at once ({status}): {}",
                    kind.name(),
                    receiver.log_end()
                );
            }
            if receiver.count().is_ok() {
                return Ok(receiver);
            }
            lab::sys::sleep(Duration::from_millis(100))?;
        }
        bail!("{} does not answer: {}", kind.name(), receiver.log_end())
    }

    /// Routes that it has.
    pub fn count(&self) -> anyhow::Result<usize> {
        match self.kind {
            Kind::Netwatch => {
                let reply = self.netwatch(r#"{"request":"bgp_neighbors"}"#)?;
                let neighbor = reply["neighbors"].get(0).context("no neighbour")?;
                let routes = |family: &str| neighbor[family].as_u64().unwrap_or(0);
                Ok(usize::try_from(
                    routes("ipv4_routes") + routes("ipv6_routes"),
                )?)
            }
            Kind::Bird => {
                let text = ask(
                    &self.directory.join("ctl"),
                    "show protocols all peer\n",
                    |text| text.lines().any(|line| line.starts_with("0000")),
                )?;
                let numbers = text.lines().filter_map(|line| {
                    let rest = line.trim().strip_prefix("Routes:")?;
                    rest.split_whitespace().next()?.parse::<usize>().ok()
                });
                Ok(numbers.sum())
            }
            Kind::Frr => {
                let mut sum = 0;
                for family in ["ipv4", "ipv6"] {
                    let request = format!("show bgp {family} unicast summary json\0");
                    let text = ask(&self.directory.join("bgpd.vty"), &request, |text| {
                        text.ends_with("\0\0\0\0")
                    })?;
                    let text = text.trim_end_matches('\0');
                    let json: Value = serde_json::from_str(text).unwrap_or(Value::Null);
                    sum += json["peers"][ROUTER_ADDRESS.to_string()]["pfxRcd"]
                        .as_u64()
                        .unwrap_or(0);
                }
                Ok(usize::try_from(sum)?)
            }
            Kind::Gobgp => {
                let output = Command::new("ip")
                    .args(["netns", "exec", &self.space_name, "gobgp", "neighbor"])
                    .output()?;
                anyhow::ensure!(output.status.success(), "gobgp: {output:?}");
                let text = String::from_utf8_lossy(&output.stdout);
                let line = text.lines().find(|line| line.starts_with("192.0.2.1"));
                let received = line.and_then(|line| line.split('|').nth(1));
                let received = received.and_then(|text| text.split_whitespace().next());
                Ok(received.and_then(|text| text.parse().ok()).unwrap_or(0))
            }
        }
    }

    /// Asks netwatch's socket.
    pub fn netwatch(&self, request: &str) -> anyhow::Result<Value> {
        let socket = self.directory.join("netwatch.sock");
        let text = ask(&socket, &format!("{request}\n"), |text| {
            text.ends_with('\n')
        })?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Resident memory in bytes.
    pub fn memory(&self) -> anyhow::Result<f64> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().next());
        let kilobytes: f64 = kilobytes.context("no VmRSS")?.parse()?;
        Ok(kilobytes * 1024.0)
    }

    /// CPU time in seconds.
    pub fn cpu(&self) -> anyhow::Result<f64> {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let (_, fields) = text.rsplit_once(')').context("stat")?;
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks: f64 = ticks.filter_map(|ticks| ticks.parse::<f64>().ok()).sum();
        Ok(ticks / CLOCK_TICKS)
    }

    /// The last lines that it logged.
    pub fn log_end(&self) -> String {
        let log = std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a line to a control socket and reads until the answer is whole.
fn ask(socket: &Path, request: &str, whole: impl Fn(&str) -> bool) -> anyhow::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    let mut chunk = [0; 8192];
    loop {
        let count = stream.read(&mut chunk)?;
        bytes.extend(chunk.iter().take(count));
        let text = String::from_utf8_lossy(&bytes);
        if count == 0 || whole(&text) {
            return Ok(text.into_owned());
        }
    }
}

type Recipe = (PathBuf, String, Vec<String>);

fn recipe(kind: Kind, netwatch: &Path, directory: &Path, asn: u32, hold: u16) -> Recipe {
    let at = directory.display();
    let file = format!("{at}/config");
    match kind {
        Kind::Netwatch => (
            netwatch.to_owned(),
            format!(
                "[host]\nname = \"bench\"\nstate_dir = \"{at}/state\"\nruntime_dir = \"{at}\"\n\
                 [probe]\nenabled = false\n[[egress]]\nname = \"a\"\ninterface = \"wan\"\n\
                 [bgp]\nlocal_as = {HOST_AS}\nrouter_id = \"{HOST_ADDRESS}\"\nlisten = [\"{HOST_ADDRESS}:179\"]\nhold_time = \"{hold}s\"\n\
                 [[bgp.neighbor]]\naddress = \"{ROUTER_ADDRESS}\"\nasn = {asn}\negress = \"a\"\n"
            ),
            vec!["run".into(), "--config".into(), file],
        ),
        Kind::Bird => (
            "/usr/sbin/bird".into(),
            format!(
                "log stderr {{ error, auth, fatal, bug }};\nrouter id {HOST_ADDRESS};\nprotocol device {{}}\nprotocol bgp peer {{\n  local {HOST_ADDRESS} as {HOST_AS};\n  \
                 neighbor {ROUTER_ADDRESS} as {asn};\n  passive on;\n  hold time {hold};\n  \
                 ipv4 {{ import all; export none; }};\n  ipv6 {{ import all; export none; }};\n}}\n"
            ),
            vec![
                "-f".into(),
                "-c".into(),
                file,
                "-s".into(),
                format!("{at}/ctl"),
                "-P".into(),
                format!("{at}/pid"),
            ],
        ),
        Kind::Gobgp => (
            "/usr/bin/gobgpd".into(),
            format!(
                "[global.config]\nas = {HOST_AS}\nrouter-id = \"{HOST_ADDRESS}\"\n\
                 [[neighbors]]\n[neighbors.config]\nneighbor-address = \"{ROUTER_ADDRESS}\"\npeer-as = {asn}\n\
                 [neighbors.transport.config]\npassive-mode = true\n\
                 [neighbors.timers.config]\nhold-time = {hold}\n\
                 [[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = \"ipv4-unicast\"\n\
                 [[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = \"ipv6-unicast\"\n"
            ),
            vec![
                "-f".into(),
                file,
                "-t".into(),
                "toml".into(),
                "--api-hosts".into(),
                "127.0.0.1:50051".into(),
            ],
        ),
        Kind::Frr => (
            "/usr/lib/frr/bgpd".into(),
            format!(
                "router bgp {HOST_AS}\n bgp router-id {HOST_ADDRESS}\n no bgp ebgp-requires-policy\n \
                 neighbor {ROUTER_ADDRESS} remote-as {asn}\n neighbor {ROUTER_ADDRESS} passive\n \
                 neighbor {ROUTER_ADDRESS} timers {} {hold}\n \
                 address-family ipv6 unicast\n  neighbor {ROUTER_ADDRESS} activate\n exit-address-family\n",
                hold / 3
            ),
            vec![
                "-f".into(),
                file,
                "-i".into(),
                format!("{at}/pid"),
                "-Z".into(),
                "-n".into(),
                "-S".into(),
                "--vty_socket".into(),
                format!("{at}"),
                "-P".into(),
                "0".into(),
                "-l".into(),
                HOST_ADDRESS.to_string(),
                "--log".into(),
                "stdout".into(),
            ],
        ),
    }
}

//! The gateways' routers: BIRD 2, one process in each gateway's namespace.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail};
use ipnet::IpNet;

use crate::ns::{Space, run};
use crate::scenario::Session;
use crate::world::{LOCAL_AS, Target, Uplink, World};

/// Which paths a gateway announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paths {
    /// Those of the world.
    Usual,
    /// All by another AS in between.
    Detour,
    /// Those of a target end in an AS that has nothing to do with it.
    Hijacked(Target),
}

/// A running router.
pub struct Router {
    child: Child,
    config: PathBuf,
    control: PathBuf,
}

/// The names of its protocol towards the daemon and of the static routes of a prefix.
const SESSION: &str = "validator";

fn routes_of(prefix: usize) -> String {
    format!("prefix_{prefix}")
}

/// A configuration that announces every prefix of the world over one session to the validator's
/// link address. No `::`-style shortcuts: what BIRD does not export to the kernel it only announces.
#[must_use]
pub fn config(world: &World, uplink: &Uplink, session: Session, paths: Paths) -> String {
    let local_as = neighbor_as(uplink, session);
    let mut text = format!(
        "log stderr all;\nrouter id {gateway};\nprotocol device {{ }}\n\
         protocol bgp {SESSION} {{\n\
         \tlocal {gateway} as {local_as};\n\tneighbor {peer} as {LOCAL_AS};\n\tdirect;\n\
         \thold time 90;\n\tconnect delay time 1;\n\tconnect retry time 1;\n\terror wait time 1,2;\n\
         \tipv4 {{ import none; export all; next hop self; }};\n\
         \tipv6 {{ import none; export all; next hop address {gateway6}; }};\n}}\n",
        gateway = uplink.gateway.0,
        gateway6 = uplink.gateway.1,
        peer = uplink.link.0,
    );
    for (index, prefix) in world.prefixes.iter().enumerate() {
        let channel = match prefix.net {
            IpNet::V4(_) => "ipv4",
            IpNet::V6(_) => "ipv6",
        };
        // `prepend` puts an AS in front, so the origin comes first here.
        let mut path = String::new();
        let mut ases = world.as_path(uplink, index, session, paths == Paths::Detour);
        if let Paths::Hijacked(target) = paths
            && world.has_prefix(target, index)
            && let Some(origin) = ases.last_mut()
        {
            *origin = uplink.detour;
        }
        for asn in ases.iter().rev() {
            let _ = write!(path, " bgp_path.prepend({asn});");
        }
        let _ = writeln!(
            text,
            "protocol static {} {{ {channel}; route {} unreachable {{{path} }}; }}",
            routes_of(index),
            prefix.net
        );
    }
    text
}

/// The AS that the gateway says it is in.
#[must_use]
pub const fn neighbor_as(uplink: &Uplink, session: Session) -> u32 {
    match session {
        Session::Ibgp => LOCAL_AS,
        Session::Ebgp => uplink.upstream,
    }
}

impl Router {
    /// Starts BIRD in `role`'s namespace.
    ///
    /// # Errors
    /// BIRD is not installed, or refuses its configuration.
    pub fn start(space: &Space, role: &str, config: &str) -> anyhow::Result<Self> {
        let file = |extension: &str| space.directory().join(format!("bird-{role}.{extension}"));
        let (path, control) = (file("conf"), file("ctl"));
        std::fs::write(&path, config)?;
        let log = std::fs::File::create(file("log"))?;
        let child = space
            .command(role, Path::new("bird"))
            .arg("-f")
            .arg("-c")
            .arg(&path)
            .arg("-s")
            .arg(&control)
            .arg("-P")
            .arg(file("pid"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("cannot run `ip netns exec`")?;
        let mut router = Self {
            child,
            config: path,
            control,
        };
        for _ in 0..200 {
            if router.control.exists() && router.birdc(&["show", "status"]).is_ok() {
                return Ok(router);
            }
            if router.child.try_wait()?.is_some() {
                let log = std::fs::read_to_string(file("log")).unwrap_or_default();
                bail!(
                    "BIRD ended at once (Debian package bird2 installed?): {}",
                    log.trim()
                );
            }
            crate::sys::sleep(std::time::Duration::from_millis(10))?;
        }
        bail!("BIRD in {role} did not open its control socket within 2 s")
    }

    /// One command over the control socket.
    ///
    /// # Errors
    /// `birdc` fails, or BIRD refuses the command.
    pub fn birdc(&self, words: &[&str]) -> anyhow::Result<String> {
        let text = run(Command::new("birdc")
            .arg("-s")
            .arg(&self.control)
            .args(words))?;
        if text.contains("syntax error") || text.contains("Unable to connect") {
            bail!("birdc {}: {}", words.join(" "), text.trim());
        }
        Ok(text)
    }

    /// The session with the daemon is Established.
    #[must_use]
    pub fn established(&self) -> bool {
        self.birdc(&["show", "protocols", SESSION])
            .is_ok_and(|text| text.contains("Established"))
    }

    /// Withdraws, or announces again, the prefixes of a target; without one all.
    ///
    /// # Errors
    /// From `birdc`.
    pub fn announce(&self, world: &World, target: Option<Target>, up: bool) -> anyhow::Result<()> {
        let word = if up { "enable" } else { "disable" };
        let Some(target) = target else {
            return self.birdc(&[word, "\"prefix_*\""]).map(drop);
        };
        for prefix in 0..world.prefixes.len() {
            if world.has_prefix(target, prefix) {
                self.birdc(&[word, &routes_of(prefix)])?;
            }
        }
        Ok(())
    }

    /// Takes over another configuration.
    ///
    /// # Errors
    /// BIRD refuses it.
    pub fn reconfigure(&self, config: &str) -> anyhow::Result<()> {
        std::fs::write(&self.config, config)?;
        self.birdc(&["configure"]).map(drop)
    }

    /// Ends or starts the session.
    ///
    /// # Errors
    /// From `birdc`.
    pub fn session(&self, up: bool) -> anyhow::Result<()> {
        self.birdc(&[if up { "enable" } else { "disable" }, SESSION])
            .map(drop)
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

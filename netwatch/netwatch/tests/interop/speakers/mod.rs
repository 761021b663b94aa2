//! How each make of router is configured, started and told what to do.

mod bird;
mod exabgp;
mod frr;
mod gobgp;
mod openbgpd;

use std::path::{Path, PathBuf};

/// A make of router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Make {
    Bird,
    Frr,
    GoBgp,
    OpenBgpd,
    ExaBgp,
}

/// What the router is to do.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Wait for netwatch to connect.
    pub passive: bool,
    /// The session runs over IPv6.
    pub ipv6: bool,
    /// It runs between link-local addresses.
    pub link_local: bool,
    pub password: Option<&'static str>,
    pub add_path: bool,
    pub graceful_restart: bool,
    pub ttl_security: bool,
    /// The second prefix has 1500 communities: 6000 octets of attributes.
    pub many_communities: bool,
    pub role: Option<&'static str>,
}

impl Options {
    /// The router's address.
    pub const fn address(&self) -> &'static str {
        if self.link_local {
            "fe80::1"
        } else if self.ipv6 {
            "2001:db8:2::1"
        } else {
            "192.0.2.1"
        }
    }

    /// netwatch's.
    pub const fn netwatch(&self) -> &'static str {
        if self.link_local {
            "fe80::2"
        } else if self.ipv6 {
            "2001:db8:2::2"
        } else {
            "192.0.2.2"
        }
    }

    /// Communities of the second prefix, each by a form of the make's.
    fn communities(&self, form: impl Fn(u32) -> String) -> String {
        let count = if self.many_communities { 1500 } else { 0 };
        (0..count).map(form).collect()
    }
}

/// A router that is ready to be started, again and again.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its files.
    pub directory: PathBuf,
    files: Vec<(&'static str, String)>,
    /// What it leaves behind, and must not find.
    remains: Vec<&'static str>,
    pub command: Vec<String>,
    /// Further arguments when it is started again.
    pub again: Vec<String>,
    pub environment: Vec<(String, String)>,
    /// What the router's network needs, as arguments of `ip`.
    pub network: Vec<&'static str>,
    /// Commands once it runs, each repeated until it succeeds.
    pub after: Vec<Vec<String>>,
    /// netwatch's address.
    pub netwatch: &'static str,
}

impl Plan {
    fn new(directory: &Path, options: &Options) -> Self {
        Self {
            directory: directory.to_owned(),
            files: Vec::new(),
            remains: Vec::new(),
            command: Vec::new(),
            again: Vec::new(),
            environment: Vec::new(),
            network: Vec::new(),
            after: Vec::new(),
            netwatch: options.netwatch(),
        }
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    /// Writes the files.
    pub fn prepare(&self) {
        std::fs::create_dir_all(&self.directory).expect("directory");
        for name in &self.remains {
            let _ = std::fs::remove_file(self.directory.join(name));
        }
        for (name, text) in &self.files {
            std::fs::write(self.directory.join(name), text).expect("written");
        }
    }
}

/// What operators say when they shut a session down.
const REASON: &str = "interop maintenance";

fn words(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

impl Make {
    /// Its daemon.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Bird => "/usr/sbin/bird",
            Self::Frr => "/usr/lib/frr/bgpd",
            Self::GoBgp => "/usr/bin/gobgpd",
            Self::OpenBgpd => "/usr/sbin/bgpd",
            Self::ExaBgp => "/usr/sbin/exabgp",
        }
    }

    pub fn plan(self, options: &Options, directory: &Path) -> Plan {
        let plan = Plan::new(directory, options);
        match self {
            Self::Bird => bird::plan(plan, options),
            Self::Frr => frr::plan(plan, options),
            Self::GoBgp => gobgp::plan(plan, options),
            Self::OpenBgpd => openbgpd::plan(plan, options),
            Self::ExaBgp => exabgp::plan(plan, options),
        }
    }

    /// Announces the first prefix.
    pub fn announce(self, plan: &Plan) -> Vec<String> {
        self.flap(plan, true)
    }

    /// Withdraws it.
    pub fn withdraw(self, plan: &Plan) -> Vec<String> {
        self.flap(plan, false)
    }

    fn flap(self, plan: &Plan, announce: bool) -> Vec<String> {
        match self {
            Self::Bird => bird::flap(plan, announce),
            Self::Frr => frr::flap(plan, announce),
            Self::GoBgp => gobgp::flap(plan, announce),
            Self::OpenBgpd => openbgpd::flap(plan, announce),
            Self::ExaBgp => exabgp::flap(plan, announce),
        }
    }

    /// Asks for our routes, and sends its own again where it can be told to.
    pub fn refresh(self, plan: &Plan) -> Vec<Vec<String>> {
        match self {
            Self::Bird => bird::refresh(plan),
            Self::Frr => frr::refresh(plan),
            Self::GoBgp => gobgp::refresh(plan),
            Self::OpenBgpd => openbgpd::refresh(plan),
            Self::ExaBgp => exabgp::refresh(plan),
        }
    }

    /// The refresh makes it send its routes again.
    pub const fn sends_again(self) -> bool {
        matches!(self, Self::Bird | Self::GoBgp)
    }

    /// Whether it sends its routes when it is asked for them. OpenBGPD 7.7 says that the family is
    /// not negotiated, which it is; ExaBGP 4.2.21 resets the session.
    pub const fn answers_refresh(self) -> bool {
        matches!(self, Self::Bird | Self::Frr | Self::GoBgp)
    }

    /// Whether it has two paths to the first prefix, where it sends several, and withdraws one.
    pub const fn sends_two_paths(self) -> bool {
        matches!(self, Self::Bird | Self::ExaBgp)
    }

    /// Shuts the session down with a reason.
    pub fn shutdown(self, plan: &Plan) -> Vec<String> {
        match self {
            Self::Bird => bird::shutdown(plan),
            Self::Frr => frr::shutdown(plan),
            Self::GoBgp => gobgp::shutdown(plan),
            Self::OpenBgpd => openbgpd::shutdown(plan),
            Self::ExaBgp => exabgp::shutdown(plan),
        }
    }

    /// Has it connect at once, where it waits long after an error.
    pub fn revive(self, plan: &Plan) -> Option<Vec<String>> {
        matches!(self, Self::OpenBgpd).then(|| openbgpd::revive(plan))
    }

    /// The reason that comes with a shutdown.
    pub const fn says(self) -> &'static str {
        match self {
            // Its own words; it takes none from its operator.
            Self::ExaBgp => "Administrative Shutdown",
            _ => REASON,
        }
    }

    /// Whether it wants families kept while it restarts.
    pub const fn restarts_gracefully(self) -> bool {
        !matches!(self, Self::OpenBgpd)
    }
}

//! `cargo xtask test`: what must hold before a change lands.

use anyhow::{Result, bail};
use clap::Args;

use crate::lab;
use crate::setup;
use crate::shell::{cargo, output, run, step};

/// Crates without clock, I/O, randomness or logging.
const PURE: &[&str] = &[
    "bgp-core",
    "correlator",
    "engine",
    "events",
    "remediation",
    "tracker",
];
const IMPURE: &[&str] = &[
    "aya",
    "getrandom",
    "jiff",
    "mio",
    "netlink-sys",
    "rand",
    "rtnetlink",
    "socket2",
    "tokio",
    "tracing",
];

/// Arguments of `cargo xtask test`.
#[derive(Args)]
pub struct Test {
    /// Leave out the lab's scenarios
    #[arg(long)]
    quick: bool,
}

impl Test {
    /// Runs everything; the first failure ends it.
    pub fn run(self) -> Result<()> {
        step("format");
        run(&mut cargo(&["fmt", "--all", "--check"]))?;
        step("dependency rules: pure crates stay pure");
        pure_crates()?;
        step("lints");
        run(&mut cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]))?;
        step("documentation");
        run(cargo(&["doc", "--workspace", "--no-deps", "--quiet"])
            .env("RUSTDOCFLAGS", "-D warnings"))?;
        licences()?;
        step("unit, property and live tests");
        run(&mut cargo(&["test", "--workspace"]))?;
        if !self.quick {
            step("the lab: every scenario");
            lab::Lab::everything().run()?;
        }
        Ok(())
    }
}

fn pure_crates() -> Result<()> {
    for package in PURE {
        let mut tree = cargo(&[
            "tree", "-p", package, "-e", "normal", "--prefix", "none", "--format", "{p}",
        ]);
        let Some(tree) = output(&mut tree) else {
            bail!("`cargo tree -p {package}` failed")
        };
        let found: Vec<_> = tree
            .lines()
            .filter_map(|line| line.split(' ').next())
            .filter(|name| IMPURE.contains(name))
            .collect();
        if !found.is_empty() {
            bail!(
                "{package} must stay pure, but depends on {}",
                found.join(", ")
            );
        }
    }
    Ok(())
}

/// Licences and sources of all dependencies, by `deny.toml`. Advisories are left out: their
/// database must be fetched anew each time.
fn licences() -> Result<()> {
    setup::install_cargo_deny()?;
    step("licences, bans and sources of dependencies");
    run(&mut cargo(&[
        "deny",
        "check",
        "--hide-inclusion-graph",
        "licenses",
        "bans",
        "sources",
    ]))
}

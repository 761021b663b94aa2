//! From a fresh Debian 12 with Rust and root to a machine that builds netwatch and runs its lab.
//!
//! The eBPF programs need a compiler with the sources of `core` and a `bpf-linker` that links the
//! same LLVM: Debian's own compiler, because its LLVM is packaged next to it, else a rustup nightly
//! with `rust-src`, whose LLVM may be newer than any that is packaged.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::shell::{command, output, run as execute, step};

const BPF_LINKER: &str = "0.13.0";
/// `full-stack-probes/build.rs` looks here too.
const TOOLCHAIN: &str = "/opt/netwatch-toolchain";
/// What the build and the lab call.
const PACKAGES: &[&str] = &[
    "bgpdump",
    "bird2",
    "bpftool",
    "ca-certificates",
    "exabgp",
    "frr",
    "g++",
    "gcc",
    "gobgpd",
    "iproute2",
    "make",
    "nftables",
    "openbgpd",
    "pkg-config",
    "procps",
    "stayrtr",
];
/// Packages that bring a service of the host's, and the service.
const SERVICES: &[(&str, &str)] = &[
    ("bird2", "bird"),
    ("exabgp", "exabgp"),
    ("frr", "frr"),
    ("gobgpd", "gobgpd"),
    ("openbgpd", "openbgpd"),
    ("stayrtr", "stayrtr"),
];
const DEBIAN_COMPILER: &[&str] = &["rustc-web", "rust-web-src", "cargo-web"];

/// Installs what is missing, and says what. Does nothing on a machine that has everything.
pub fn run() -> Result<()> {
    let mut apt = Apt::default();
    let new = SERVICES.iter().filter(|(package, _)| !installed(package));
    let new: Vec<&str> = new.map(|(_, service)| *service).collect();
    apt.install(PACKAGES)?;
    keep_off(&new);
    let llvm = bpf_compiler_llvm(&mut apt)?;
    install_linker(&mut apt, llvm)?;
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        step(
            "note: this kernel has no BTF (/sys/kernel/btf/vmlinux), so kernel probes cannot load on it",
        );
    }
    Ok(())
}

/// Installs packages that only some commands need.
pub fn install(packages: &[&str]) -> Result<()> {
    Apt::default().install(packages)
}

/// The LLVM major version of the compiler that will build the eBPF programs, chosen in the same order
/// as `full-stack-probes/build.rs` does.
fn bpf_compiler_llvm(apt: &mut Apt) -> Result<u32> {
    if !DEBIAN_COMPILER.iter().copied().all(installed) {
        let nightly = nightly_llvm();
        if let Some(llvm) = nightly.filter(|&llvm| linker_links(llvm)) {
            return Ok(llvm);
        }
        if let Err(error) = apt.install(DEBIAN_COMPILER) {
            return nightly.ok_or_else(|| {
                error.context(
                    "there is no compiler for the eBPF programs: Debian's rustc-web cannot be had (it \
                     conflicts with the packages rustc and rustup), nor is there a rustup nightly \
                     with rust-src, which will do if its LLVM is packaged (llvm-N-dev)",
                )
            });
        }
    }
    llvm_of("/usr/bin/rustc").context(
        "/usr/bin/rustc does not tell its LLVM version; remedy: `apt-get install --reinstall rustc-web`",
    )
}

/// A nightly counts only if it is there already, with the sources of `core`.
fn nightly_llvm() -> Option<u32> {
    let mut which = command("rustup", &["which", "--toolchain", "nightly", "rustc"]);
    let rustc = output(which.env("RUSTUP_AUTO_INSTALL", "0"))?;
    let sysroot = output(&mut command(&rustc, &["--print", "sysroot"]))?;
    let sources = Path::new(&sysroot).join("lib/rustlib/src/rust/library/core");
    sources.is_dir().then(|| llvm_of(&rustc)).flatten()
}

fn llvm_of(rustc: &str) -> Option<u32> {
    let version = output(&mut command(rustc, &["-vV"]))?;
    let llvm = version
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?;
    llvm.split('.').next()?.parse().ok()
}

fn linker_stamp() -> PathBuf {
    Path::new(TOOLCHAIN).join("bpf-linker.version")
}

fn linker_version(llvm: u32) -> String {
    format!("{BPF_LINKER} llvm-{llvm}")
}

/// Whether the linker is there, runs and links this LLVM.
fn linker_links(llvm: u32) -> bool {
    let linker = Path::new(TOOLCHAIN).join("bin/bpf-linker");
    output(&mut command(&linker, &["--version"])).is_some()
        && fs::read_to_string(linker_stamp())
            .is_ok_and(|found| found.trim() == linker_version(llvm))
}

fn install_linker(apt: &mut Apt, llvm: u32) -> Result<()> {
    if linker_links(llvm) {
        return Ok(());
    }
    need_root(&format!("bpf-linker in {TOOLCHAIN}"))?;
    let development = format!("llvm-{llvm}-dev");
    apt.install(&[&development]).with_context(|| {
        format!(
            "the eBPF linker must link LLVM {llvm}, the compiler's own, and so needs the package \
             {development} (for Debian's compiler, Debian 12 has it in its security archive)"
        )
    })?;
    step(&format!(
        "building bpf-linker {BPF_LINKER} against LLVM {llvm} (about two minutes, once)"
    ));
    let feature = format!("llvm-{llvm}");
    execute(
        command(
            "cargo",
            &[
                "install",
                "bpf-linker",
                "--version",
                BPF_LINKER,
                "--locked",
                "--force",
                "--no-default-features",
                "--features",
                &feature,
                "--root",
                TOOLCHAIN,
            ],
        )
        .env("LLVM_PREFIX", format!("/usr/lib/llvm-{llvm}")),
    )
    .context(
        "bpf-linker cannot be built; remedy: see what cargo says above, and check that this machine \
         reaches crates.io",
    )?;
    let stamp = linker_stamp();
    fs::write(&stamp, linker_version(llvm))
        .with_context(|| format!("cannot write {}", stamp.display()))
}

/// The peer that the overhead benchmark compares with.
pub fn install_bpftrace() -> Result<()> {
    Apt::default().install(&["bpftrace"])
}

/// Only the tests want it, so only they install it.
pub fn install_cargo_deny() -> Result<()> {
    if output(&mut command("cargo", &["deny", "--version"])).is_some() {
        return Ok(());
    }
    step("building cargo-deny (about three minutes, once)");
    execute(&mut command(
        "cargo",
        &["install", "cargo-deny", "--locked", "--quiet"],
    ))
}

/// The lab and the interop tests start their own routers. Debian's packages start one for the host,
/// which nobody asked for.
fn keep_off(services: &[&str]) {
    let systemd = Path::new("/run/systemd/system").is_dir();
    for service in services {
        step(&format!(
            "stopping and disabling the {service} service that its package brought"
        ));
        if systemd {
            output(&mut command("systemctl", &["disable", "--now", service]));
        } else {
            output(&mut command("service", &[service, "stop"]));
            output(&mut command("update-rc.d", &[service, "disable"]));
        }
    }
}

fn need_root(what: &str) -> Result<()> {
    if output(&mut command("id", &["-u"])).as_deref() != Some("0") {
        bail!("{what} must be installed; remedy: run `cargo xtask setup` as root");
    }
    Ok(())
}

/// Debian's packages; the lists are refreshed once, and only if something is missing.
#[derive(Default)]
struct Apt {
    updated: bool,
}

/// `apt-get update` succeeds even when it reached no mirror, so the install says this too.
const REMEDY: &str = "packages cannot be installed; remedy: see what apt-get says above, and check \
    that this machine reaches the mirrors in /etc/apt/sources.list and sources.list.d, Debian's \
    security archive among them";

impl Apt {
    fn install(&mut self, packages: &[&str]) -> Result<()> {
        let missing: Vec<&str> = packages.iter().copied().filter(|p| !installed(p)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        if output(&mut command("apt-get", &["--version"])).is_none() {
            bail!(
                "apt-get is missing: setup knows Debian 12; remedy: install the equivalents of {} by hand",
                missing.join(", ")
            );
        }
        need_root(&missing.join(", "))?;
        if !self.updated {
            step("refreshing the package lists");
            execute(&mut command("apt-get", &["update", "-qq"])).context(REMEDY)?;
            self.updated = true;
        }
        step(&format!("installing {}", missing.join(" ")));
        let mut install = command(
            "apt-get",
            &[
                "install",
                "-y",
                "-qq",
                "--no-install-recommends",
                "--no-remove",
            ],
        );
        install
            .args(&missing)
            .env("DEBIAN_FRONTEND", "noninteractive");
        execute(&mut install).context(REMEDY)
    }
}

fn installed(package: &str) -> bool {
    output(&mut command(
        "dpkg-query",
        &["-W", "-f=${db:Status-Status}", package],
    ))
    .is_some_and(|status| status == "installed")
}

//! From a fresh Debian 12 with Rust and root to a machine that builds netwatch and runs its lab.
//!
//! The eBPF programs need a compiler with the sources of `core` and a `bpf-linker` that links the
//! same LLVM: a rustup nightly with `rust-src` where that can be had, else Debian's own compiler.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::shell::{command, output, run as execute, step};

const BPF_LINKER: &str = "0.13.0";
/// `full-stack-probes/build.rs` looks here too.
const TOOLCHAIN: &str = "/opt/netwatch-toolchain";
/// What the build and the lab call.
const PACKAGES: &[&str] = &[
    "bird2",
    "bpftool",
    "ca-certificates",
    "g++",
    "gcc",
    "iproute2",
    "make",
    "nftables",
    "pkg-config",
    "procps",
];
const DEBIAN_COMPILER: &[&str] = &["rustc-web", "rust-web-src", "cargo-web"];

/// Installs what is missing, and says what. Does nothing on a machine that has everything.
pub fn run() -> Result<()> {
    let mut apt = Apt::default();
    let had_bird = installed("bird2");
    apt.install(PACKAGES)?;
    if !had_bird {
        keep_bird_off();
    }
    let llvm = bpf_compiler_llvm(&mut apt)?;
    install_linker(&mut apt, llvm)?;
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        step(
            "note: this kernel has no BTF (/sys/kernel/btf/vmlinux), so kernel probes cannot load on it",
        );
    }
    Ok(())
}

/// The LLVM major version of the compiler that will build the eBPF programs.
fn bpf_compiler_llvm(apt: &mut Apt) -> Result<u32> {
    if let Some(llvm) = nightly_llvm() {
        return Ok(llvm);
    }
    apt.install(DEBIAN_COMPILER)?;
    llvm_of("/usr/bin/rustc").context(
        "/usr/bin/rustc does not tell its LLVM version; remedy: reinstall Debian's rustc-web, or \
         `rustup toolchain install nightly --component rust-src`",
    )
}

/// A nightly counts only with the sources of `core`. It is asked for, but its absence is no error:
/// many machines cannot reach rustup's servers.
fn nightly_llvm() -> Option<u32> {
    let rustc = output(&mut command(
        "rustup",
        &["which", "--toolchain", "nightly", "rustc"],
    ))?;
    let sysroot = output(&mut command(&rustc, &["--print", "sysroot"]))?;
    let sources = Path::new(&sysroot).join("lib/rustlib/src/rust/library/core");
    if !sources.is_dir() {
        let add = ["component", "add", "rust-src", "--toolchain", "nightly"];
        output(&mut command(
            "timeout",
            &[&["60", "rustup"][..], &add].concat(),
        ))?;
    }
    sources.is_dir().then(|| llvm_of(&rustc)).flatten()
}

fn llvm_of(rustc: &str) -> Option<u32> {
    let version = output(&mut command(rustc, &["-vV"]))?;
    let llvm = version
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?;
    llvm.split('.').next()?.parse().ok()
}

fn install_linker(apt: &mut Apt, llvm: u32) -> Result<()> {
    let stamp = Path::new(TOOLCHAIN).join("bpf-linker.version");
    let wanted = format!("{BPF_LINKER} llvm-{llvm}");
    let linker = PathBuf::from(TOOLCHAIN).join("bin/bpf-linker");
    let runs = output(&mut command(&linker, &["--version"])).is_some();
    if runs && fs::read_to_string(&stamp).is_ok_and(|found| found.trim() == wanted) {
        return Ok(());
    }
    let development = format!("llvm-{llvm}-dev");
    apt.install(&[&development]).with_context(|| {
        format!(
            "the eBPF linker must link LLVM {llvm}, the compiler's own; remedy: make the package \
             {development} available (Debian 12 has it in its security archive)"
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
    )?;
    fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))
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

/// The lab starts its own BIRDs. Debian's package starts one for the host, which nobody asked for.
fn keep_bird_off() {
    if Path::new("/run/systemd/system").is_dir() {
        step("stopping and disabling the bird service that the package brought");
        for unit in ["bird.service", "bird6.service"] {
            output(&mut command("systemctl", &["disable", "--now", unit]));
        }
    }
}

/// Debian's packages; the lists are refreshed once, and only if something is missing.
#[derive(Default)]
struct Apt {
    updated: bool,
}

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
        if output(&mut command("id", &["-u"])).as_deref() != Some("0") {
            bail!(
                "{} must be installed; remedy: run `cargo xtask setup` as root",
                missing.join(", ")
            );
        }
        if !self.updated {
            step("refreshing the package lists");
            execute(&mut command("apt-get", &["update", "-qq"]))
                .context("remedy: check the network and /etc/apt/sources.list")?;
            self.updated = true;
        }
        step(&format!("installing {}", missing.join(" ")));
        let mut install = command(
            "apt-get",
            &["install", "-y", "-qq", "--no-install-recommends"],
        );
        install
            .args(&missing)
            .env("DEBIAN_FRONTEND", "noninteractive");
        execute(&mut install).context("remedy: see what apt-get says above")
    }
}

fn installed(package: &str) -> bool {
    output(&mut command(
        "dpkg-query",
        &["-W", "-f=${db:Status-Status}", package],
    ))
    .is_some_and(|status| status == "installed")
}
